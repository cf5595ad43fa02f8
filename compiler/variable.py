"""Sizes that are not known when a kernel is compiled: one kernel for every length of a sequence, say.

    n = Variable("n", 1, 1024).bind(17)
    y = x[:n].softmax(0)            # another binding of n runs the same kernels

A bound variable is a :class:`Size`: it goes wherever a shape or a slice takes a number, and arithmetic on it gives
sizes again. Graphs hold sizes with their value. Before a schedule is looked up the values are taken out
(:func:`unbound`), so that graphs of equal form are one graph; a kernel gets them as arguments.

A size is compared by what holds for every value, where that decides (no size equals a number); where it does not, and
where Python itself needs the number, the value of now is used, and the graph is right for that value alone. ``jit``
takes note of that (:func:`watched`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from compiler import dtypes
from compiler.dtypes import DType
from compiler.symbolic import simplify
from compiler.uop import Ops, UOp, fold

__all__ = ["Size", "Variable", "bindings", "bound", "evaluate", "in_use", "most", "number", "of_type", "unbound",
           "watched"]

_MOST = (1 << 31) - 1
_watching: list[dict[str, int]] = []
_used = False


def in_use() -> bool:
    """Was any variable bound in this process?"""
    return _used


@contextlib.contextmanager
def watched() -> Iterator[dict[str, int]]:
    """Collects the variables whose value, and not only their name, decided something."""
    found: dict[str, int] = {}
    _watching.append(found)
    try:
        yield found
    finally:
        _watching.remove(found)


class Variable:
    """A size by name, between ``low`` and ``high`` (both included).

    :raises ValueError: for a name that is no identifier, or bounds that are not 0 <= low <= high < 2**31.
    """

    __slots__ = ("name", "low", "high", "node")

    def __init__(self, name: str, low: int, high: int) -> None:
        if not name.isidentifier() or not name.isascii():
            raise ValueError(f"a variable's name is an ASCII identifier, not {name!r}")
        if not 0 <= low <= high <= _MOST:
            raise ValueError(f"variable {name}: the bounds {low} and {high} are not 0 <= low <= high < 2**31")
        self.name, self.low, self.high = name, int(low), int(high)
        self.node = UOp(Ops.VARIABLE, dtypes.int64, (), (name, self.low, self.high))

    def bind(self, value: int) -> Size:
        """The size, with a value for now. :raises ValueError: beyond the bounds."""
        global _used
        if not self.low <= value <= self.high:
            raise ValueError(f"variable {self.name} is between {self.low} and {self.high}: it cannot be {value}")
        _used = True
        return Size(self.node, int(value), {self.name: int(value)})

    def __repr__(self) -> str:
        return f"Variable({self.name!r}, {self.low}, {self.high})"


class Size:
    """An expression of bound variables. ``value`` is what it comes to now."""

    __slots__ = ("expr", "value", "names", "_hash")

    def __init__(self, expr: UOp, value: int, names: dict[str, int]) -> None:
        self.expr, self.value, self.names = expr, value, names      # names is empty once the values are out
        self._hash = hash((expr, value, len(names)))

    def _combine(self, op: Ops, other: Any, swap: bool = False) -> Any:
        if isinstance(other, Size):
            expr, value, names = other.expr, other.value, other.names
            for name in names.keys() & self.names.keys():
                if names[name] != self.names[name]:
                    raise ValueError(f"variable {name} is {self.names[name]} and {names[name]} in one expression")
        elif isinstance(other, int):
            expr, value, names = UOp.const(dtypes.int64, other), int(other), {}
        else:
            return NotImplemented
        a, b, x, y = (expr, self.expr, value, self.value) if swap else (self.expr, expr, self.value, value)
        made = simplify(a.alu(op, b))
        result = fold(op, dtypes.int64, (x, y), dtypes.int64)
        if result is None:
            raise ZeroDivisionError(f"{self!r} is divided by a size that is 0")
        if made.op is Ops.CONST:
            return made.arg
        left = {x.arg[0] for x in made.toposort() if x.op is Ops.VARIABLE}      # n - n is free of n
        return Size(made, result, {k: v for k, v in (self.names | names).items() if k in left})

    def __add__(self, other: Any) -> Any:
        return self._combine(Ops.ADD, other)

    __radd__ = __add__

    def __mul__(self, other: Any) -> Any:
        return self._combine(Ops.MUL, other)

    __rmul__ = __mul__

    def __neg__(self) -> Any:
        return self * -1

    def __sub__(self, other: Any) -> Any:
        return self._combine(Ops.ADD, -other) if isinstance(other, int | Size) else NotImplemented

    def __rsub__(self, other: Any) -> Any:
        return (-self) + other

    # of sizes, which are not negative: rounding down and toward zero are the same
    def __floordiv__(self, other: Any) -> Any:
        return self._combine(Ops.IDIV, other) if self._natural(other) else int(self) // int(other)

    def __rfloordiv__(self, other: Any) -> Any:
        return self._combine(Ops.IDIV, other, True) if self._natural(other) else int(other) // int(self)

    def __mod__(self, other: Any) -> Any:
        return self._combine(Ops.MOD, other) if self._natural(other) else int(self) % int(other)

    def __rmod__(self, other: Any) -> Any:
        return self._combine(Ops.MOD, other, True) if self._natural(other) else int(other) % int(self)

    def _natural(self, other: Any) -> bool:
        return self.expr.vmin >= 0 and (other.expr.vmin if isinstance(other, Size) else other) >= 0

    # comparisons: for every value if that decides, else for this one

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Size) and self.expr is other.expr and self.value == other.value
                                 and len(self.names) == len(other.names))

    def __hash__(self) -> int:
        return self._hash

    def _compare(self, other: Any, below: bool) -> Any:
        """self < other, or self > other"""
        if not isinstance(other, int | Size):
            return NotImplemented
        a, b = (self - other, 0) if below else (other - self, 0)
        low, high = (a, a) if isinstance(a, int) else a.expr.bounds
        if high < b or low >= b:
            return bool(high < b)
        return int(a) < b

    def __lt__(self, other: Any) -> Any:
        return self._compare(other, True)

    def __gt__(self, other: Any) -> Any:
        return self._compare(other, False)

    def __le__(self, other: Any) -> Any:
        greater = self._compare(other, False)
        return greater if greater is NotImplemented else not greater

    def __ge__(self, other: Any) -> Any:
        less = self._compare(other, True)
        return less if less is NotImplemented else not less

    def __bool__(self) -> bool:
        return True if self.expr.vmin > 0 else int(self) != 0

    def __int__(self) -> int:
        for found in _watching:
            found.update(self.names)
        return self.value

    __index__ = __int__

    def __float__(self) -> float:
        return float(int(self))

    def __rtruediv__(self, other: Any) -> float:
        return float(other / int(self))

    def __truediv__(self, other: Any) -> float:
        return float(int(self) / other)

    def __repr__(self) -> str:
        return f"<{_text(self.expr)}: {self.value}>" if self.names else f"<{_text(self.expr)}>"


def _text(node: UOp) -> str:
    if node.op is Ops.VARIABLE:
        return str(node.arg[0])
    if node.op is Ops.CONST:
        return str(node.arg)
    sign = {Ops.ADD: "+", Ops.MUL: "*", Ops.IDIV: "//", Ops.MOD: "%"}[node.op]
    return f"({sign.join(_text(s) for s in node.src)})"


def most(n: Any) -> int:
    """A number, or the greatest that a size may be."""
    return n if isinstance(n, int) else n.expr.vmax


def number(n: Any) -> int:
    """A number, or a size's value, which decides nothing: for showing, and for what is in memory now."""
    return n if isinstance(n, int) else n.value


def unbound(arg: Any) -> Any:
    """``arg`` with the sizes in it, in tuples of any depth, without their values."""
    if isinstance(arg, Size):
        return Size(arg.expr, arg.expr.vmax, {}) if arg.names else arg
    if isinstance(arg, tuple) and arg:
        made = tuple(unbound(a) for a in arg)
        return made if any(a is not b for a, b in zip(made, arg, strict=True)) else arg
    return arg


def bound(arg: Any, values: Mapping[str, int]) -> Any:
    """``arg`` with these values in its sizes."""
    if isinstance(arg, Size):
        names = {x.arg[0]: values[x.arg[0]] for x in arg.expr.toposort() if x.op is Ops.VARIABLE}
        return Size(arg.expr, evaluate(arg.expr, names), names)
    return tuple(bound(a, values) for a in arg) if isinstance(arg, tuple) else arg


def _sizes(arg: Any) -> Iterator[Size]:
    if isinstance(arg, Size):
        yield arg
    elif isinstance(arg, tuple):
        for a in arg:
            yield from _sizes(a)


def bindings(args: Any, found: dict[str, int] | None = None) -> dict[str, int]:
    """The variables of the sizes in nested tuples, and their values. :raises ValueError: for two values of one."""
    found = {} if found is None else found
    for size in _sizes(args):
        for name, value in size.names.items():
            if found.setdefault(name, value) != value:
                raise ValueError(f"variable {name} is {found[name]} and {value} in one computation: "
                                 "realize() one first")
    return found


def of_type(n: Any, dtype: DType) -> UOp:
    """A number or a size as a node of an integer type, for a kernel."""
    if not isinstance(n, Size):
        return UOp.const(dtype, n)
    done: dict[UOp, UOp] = {}
    for x in n.expr.toposort():
        done[x] = UOp.const(dtype, x.arg) if x.op is Ops.CONST else UOp(x.op, dtype, tuple(done[s] for s in x.src),
                                                                       x.arg)
    return done[n.expr]


def evaluate(expr: UOp, values: Mapping[str, int]) -> int:
    """What a size's expression comes to."""
    done: dict[UOp, int] = {}
    for x in expr.toposort():
        done[x] = values[x.arg[0]] if x.op is Ops.VARIABLE else x.arg if x.op is Ops.CONST else \
            fold(x.op, x.dtype, tuple(done[s] for s in x.src), x.dtype)
    return done[expr]
