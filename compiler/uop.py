"""UOps: the one node type of every graph in the compiler, from tensors down to kernels.

A UOp is immutable and hash-consed: building the same node twice gives the same object, so equality is identity,
common subexpressions are found by construction, and any table may be keyed by nodes. What is not identity lies
in slots beside it: ``realized`` (the BUFFER node that holds a tensor node's value), ``place`` (the user's line that
made it: :mod:`compiler.places`) and cached properties.

Tensor nodes have a ``shape`` and a ``device``; kernel nodes are scalars (shape ``()``).
"""

from __future__ import annotations

import hashlib
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum, auto
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.dtypes import DType
from compiler.places import Place

__all__ = ["ALU", "BINARY", "COMMUTATIVE", "COMPARE", "MOVEMENT", "Ops", "TRANSCENDENTAL", "UNARY", "UOp", "fold"]


class Ops(IntEnum):
    """What a node does. Tensor graphs, kernels in ranges and kernels in blocks have operations of their own; see the
    source's notes."""

    # tensor graph: leaves
    BUFFER = auto()         # arg: (Buffer, version), or a slot number in a normalised graph; flat
    CONST = auto()          # arg: Python value
    IOTA = auto()           # arg: n; 0..n-1
    SIZE = auto()           # arg: a Size (compiler/variable.py); its value, as a single number
    # tensor graph: movement
    RESHAPE = auto()        # arg: shape
    PERMUTE = auto()        # arg: axes
    EXPAND = auto()         # arg: shape; axes of size 1 grow
    PAD = auto()            # arg: ((before, after), ...); with zeros
    SHRINK = auto()         # arg: ((start, stop), ...)
    FLIP = auto()           # arg: axes
    WINDOW = auto()         # arg: (axis, size, step, dilation); a last axis of windows, and their number along axis
    # tensor graph: the rest
    REDUCE_AXIS = auto()    # arg: (ADD | MUL | MAX, axes); reduced axes stay with size 1
    FOLD = auto()           # arg: (axis, n, step, dilation); the adjoint of WINDOW on n elements: windows added up
    SCATTER = auto()        # (x, places, values), arg: (ADD | MUL | MAX, axis); x, with values taken in at places
    CONTIGUOUS = auto()     # arg: None or a unique number; the value gets memory of its own
    DETACH = auto()         # no gradient passes
    DERIVED = auto()        # (value, *inputs), arg: a name; the value, with gradients for the inputs by that name
    ASSIGN = auto()         # (old, new): new overwrites the memory of old
    COPY = auto()           # arg: device
    MULTI = auto()          # (part, ...), arg: (axis or None, devices); one value over several (compiler/sharding.py)
    # elementwise, in both graphs
    NEG = auto()
    SQRT = auto()
    EXP2 = auto()
    LOG2 = auto()
    SIN = auto()
    TRUNC = auto()
    CAST = auto()
    BITCAST = auto()
    ADD = auto()
    MUL = auto()
    FDIV = auto()
    IDIV = auto()           # rounds toward zero
    MOD = auto()            # sign of the dividend
    MAX = auto()
    CMPLT = auto()
    CMPEQ = auto()
    CMPNE = auto()
    AND = auto()
    OR = auto()
    XOR = auto()
    SHL = auto()
    SHR = auto()
    WHERE = auto()
    # kernel graph
    PARAM = auto()          # arg: position; a pointer to elements of dtype
    VARIABLE = auto()       # arg: (name, low, high); a number that is given with every launch
    RANGE = auto()          # arg: (number, Axis); 0 .. src[0]-1
    INDEX = auto()          # (param, index): an address
    LOAD = auto()           # (INDEX) or (INDEX, gate): zero where the gate is false
    STORE = auto()          # (INDEX, value, *loads that must come first)
    UPDATE = auto()         # (INDEX, value, gate), arg: (op, atomic?); takes the value in where the gate holds
    REDUCE = auto()         # (value, *ranges), arg: ADD | MUL | MAX; closes the ranges
    SINK = auto()           # the stores of one kernel
    # kernel graph, GPU: what optional rewrites bring in
    SHARED = auto()         # arg: (number, elements); memory of the workgroup
    BARRIER = auto()        # (*nodes, *ranges), arg: n; once they are done in the whole workgroup; closes the last n
    AFTER = auto()          # (x, *others, *ranges), arg: n; x, once the others are done; closes the last n
    CARRY = auto()          # (first, next, range): first in the range's first iteration, then next of the one before
    VECTOR = auto()         # (x, ..., *ranges): the lanes of one value; closes the ranges
    ELEMENT = auto()        # (vector, number): one lane of it
    WMMA = auto()           # (a, b[, c]): 16x16x16 matrix product of a wave's fragments, added to c; dtype of c

    def __repr__(self) -> str:
        return self.name


UNARY = frozenset({Ops.NEG, Ops.SQRT, Ops.EXP2, Ops.LOG2, Ops.SIN, Ops.TRUNC})
BINARY = frozenset({Ops.ADD, Ops.MUL, Ops.FDIV, Ops.IDIV, Ops.MOD, Ops.MAX, Ops.CMPLT, Ops.CMPEQ, Ops.CMPNE, Ops.AND,
                    Ops.OR, Ops.XOR, Ops.SHL, Ops.SHR})
COMPARE = frozenset({Ops.CMPLT, Ops.CMPEQ, Ops.CMPNE})
COMMUTATIVE = frozenset({Ops.ADD, Ops.MUL, Ops.MAX, Ops.CMPEQ, Ops.CMPNE, Ops.AND, Ops.OR, Ops.XOR})
ALU = UNARY | BINARY | {Ops.WHERE, Ops.CAST, Ops.BITCAST}
MOVEMENT = frozenset({Ops.RESHAPE, Ops.PERMUTE, Ops.EXPAND, Ops.PAD, Ops.SHRINK, Ops.FLIP, Ops.WINDOW})
TRANSCENDENTAL = frozenset({Ops.SQRT, Ops.EXP2, Ops.LOG2, Ops.SIN, Ops.FDIV, Ops.IDIV, Ops.MOD})


def _shape_of(op: Ops, src: tuple[UOp, ...], arg: Any) -> tuple[int, ...]:
    if op is Ops.RESHAPE or op is Ops.EXPAND:
        return arg
    if op is Ops.PERMUTE:
        return tuple(src[0].shape[a] for a in arg)
    if op is Ops.PAD:
        return tuple(s + b + e for s, (b, e) in zip(src[0].shape, arg, strict=True))
    if op is Ops.SHRINK:
        return tuple(e - b for b, e in arg)
    if op is Ops.IOTA:
        return (arg,)
    if op is Ops.MULTI:
        axis, shape = arg[0], src[0].shape
        return shape if axis is None else (*shape[:axis], sum(s.shape[axis] for s in src), *shape[axis + 1:])
    if op is Ops.WINDOW:
        axis, size, step, dilation = arg
        shape = src[0].shape
        return (*shape[:axis], (shape[axis] - (size - 1) * dilation - 1) // step + 1, *shape[axis + 1:], size)
    if op is Ops.FOLD:
        shape = src[0].shape
        return (*shape[:arg[0]], arg[1], *shape[arg[0] + 1:-1])
    if op in (Ops.SCATTER, Ops.DERIVED):
        return src[0].shape
    if op is Ops.REDUCE_AXIS:
        return tuple(1 if i in arg[1] else s for i, s in enumerate(src[0].shape))
    if src and (op in ALU or op in (Ops.FLIP, Ops.CONTIGUOUS, Ops.DETACH, Ops.ASSIGN, Ops.COPY)):
        shape = src[0].shape
        for s in src[1:]:
            if s.shape != shape:
                raise ValueError(f"{op.name} of unequal shapes {[s.shape for s in src]}: broadcast them first")
        return shape
    return ()


def _device_of(op: Ops, src: tuple[UOp, ...], arg: Any) -> str | None:
    if op is Ops.COPY:
        return arg
    if op is Ops.MULTI:
        return "+".join(arg[1])
    devices = {s.device for s in src if s.device is not None}
    if len(devices) > 1:
        raise RuntimeError(f"{op.name}: the tensors are on different devices ({', '.join(sorted(devices))}); "
                           "move one with .to(device)")
    return devices.pop() if devices else None


class UOp:
    """A node: ``op``, ``dtype`` of its value, sources ``src``, and ``arg``. See the module's text."""

    __slots__ = (
        "op",
        "dtype",
        "src",
        "arg",
        "shape",
        "device",
        "realized",
        "place",
        "_bounds",
        "_key",
        "_ranges",
        "__weakref__",
    )

    op: Ops
    dtype: DType
    src: tuple[UOp, ...]
    arg: Any
    shape: tuple[int, ...]
    device: str | None
    realized: Any
    place: Place | None
    _bounds: Any
    _key: Any
    _ranges: Any

    _table: dict[Any, weakref.ref[UOp]] = {}  # noqa: RUF012  (the cons table belongs to the class)

    def __new__(
        cls, op: Ops, dtype: DType, src: tuple[UOp, ...] = (), arg: Any = None, device: str | None = None
    ) -> UOp:
        if op is Ops.CONST:
            arg = dtype.cast(arg)
            # 0.0 and -0.0, and all the NaNs, must stay apart or together by their bits, not by ==
            key: Any = (op, dtype, np.float64(arg).tobytes() if dtype.is_float else arg)
        else:
            key = (op, dtype, src, arg, device)
        found = UOp._table.get(key)
        if found is not None and (node := found()) is not None:
            return node
        node = object.__new__(cls)
        node.op, node.dtype, node.src, node.arg = op, dtype, src, arg
        node.shape = (arg_numel(arg),) if op is Ops.BUFFER else _shape_of(op, src, arg)
        node.device = device if op is Ops.BUFFER else _device_of(op, src, arg)
        node.realized = node.place = node._bounds = node._key = node._ranges = None
        table = UOp._table

        def forget(ref: weakref.ref[UOp], key: Any = key) -> None:
            if table.get(key) is ref:
                del table[key]
        table[key] = weakref.ref(node, forget)
        return node

    # building

    @staticmethod
    def const(dtype: DType, value: Any) -> UOp:
        """A constant of a type."""
        return UOp(Ops.CONST, dtype, (), value)

    def like(self, value: Any) -> UOp:
        """A constant of this node's type (kernel graph: scalars)."""
        return value if isinstance(value, UOp) else UOp(Ops.CONST, self.dtype, (), value)

    def alu(self, op: Ops, *others: Any) -> UOp:
        """``op`` on scalars; the type is bool for comparisons."""
        src = (self, *(self.like(o) for o in others))
        return UOp(op, dtypes.bool_ if op in COMPARE else src[1].dtype if op is Ops.WHERE else self.dtype, src)

    def __add__(self, other: Any) -> UOp:
        return self.alu(Ops.ADD, other)

    def __mul__(self, other: Any) -> UOp:
        return self.alu(Ops.MUL, other)

    def __sub__(self, other: Any) -> UOp:
        other = self.like(other)
        return self.alu(Ops.ADD, other * -1 if not other.dtype.is_float else UOp(Ops.NEG, other.dtype, (other,)))

    def __truediv__(self, other: Any) -> UOp:
        return self.alu(Ops.FDIV, other)

    def __floordiv__(self, other: Any) -> UOp:
        return self.alu(Ops.IDIV, other)

    def __mod__(self, other: Any) -> UOp:
        return self.alu(Ops.MOD, other)

    def __and__(self, other: Any) -> UOp:
        return self.alu(Ops.AND, other)

    def __or__(self, other: Any) -> UOp:
        return self.alu(Ops.OR, other)

    def __xor__(self, other: Any) -> UOp:
        return self.alu(Ops.XOR, other)

    def __lshift__(self, other: Any) -> UOp:
        return self.alu(Ops.SHL, other)

    def __rshift__(self, other: Any) -> UOp:
        return self.alu(Ops.SHR, other)

    def __neg__(self) -> UOp:
        return UOp(Ops.NEG, self.dtype, (self,))

    def lt(self, other: Any) -> UOp:
        """self < other, a bool node."""
        return self.alu(Ops.CMPLT, other)

    def eq(self, other: Any) -> UOp:
        """self == other, a bool node."""
        return self.alu(Ops.CMPEQ, other)

    def ne(self, other: Any) -> UOp:
        """self != other, a bool node."""
        return self.alu(Ops.CMPNE, other)

    def where(self, yes: UOp, no: Any) -> UOp:
        """``yes`` where this is true, else ``no``."""
        return UOp(Ops.WHERE, yes.dtype, (self, yes, yes.like(no)))

    def cast(self, dtype: DType) -> UOp:
        """The value as another type."""
        return self if dtype is self.dtype else UOp(Ops.CAST, dtype, (self,))

    def bitcast(self, dtype: DType) -> UOp:
        """The same bits as another type of the same width."""
        return self if dtype is self.dtype else UOp(Ops.BITCAST, dtype, (self,))

    def replace(self, src: tuple[UOp, ...]) -> UOp:
        """The same node on other sources."""
        if src == self.src:
            return self
        new = UOp(self.op, self.dtype, src, self.arg, self.device if self.op is Ops.BUFFER else None)
        if new.place is None:
            new.place = self.place
        return new

    # looking

    def toposort(self, gate: Callable[[UOp], bool] | None = None) -> dict[UOp, None]:
        """Every node below and this one, sources first. Where ``gate`` is false, sources are not entered."""
        done: dict[UOp, None] = {}
        stack = [self]
        while stack:
            node = stack[-1]
            if node not in done:
                size = len(stack)
                if gate is None or gate(node):
                    for s in reversed(node.src):
                        if s not in done:
                            stack.append(s)
                if len(stack) > size:
                    continue        # to come back when they are done
                done[node] = None
            stack.pop()
        return done

    def substitute(self, table: dict[UOp, UOp]) -> UOp:
        """Replace nodes by others, everywhere below."""
        done = dict(table)
        for node in self.toposort(lambda n: n not in table):
            if node not in done:
                done[node] = node.replace(tuple(done[s] for s in node.src))
        return done[self]

    @staticmethod
    def rebuilt(roots: Sequence[UOp], change: Callable[[UOp, UOp], UOp]) -> list[UOp]:
        """Graphs anew from their leaves on, each node once. ``change``: (a node as it was, the same over its new
        sources) -> what stands for it."""
        done: dict[UOp, UOp] = {}
        for root in roots:
            for node in root.toposort(lambda n: n not in done):
                if node not in done:
                    done[node] = change(node, node.replace(tuple(done[s] for s in node.src)))
        return [done[r] for r in roots]

    @property
    def size(self) -> int:
        """How many elements the shape has."""
        return math.prod(self.shape)

    @property
    def key(self) -> bytes:
        """A digest of the structure, the same in every process. Kernel graphs only (args print themselves)."""
        if self._key is None:
            for node in self.toposort(lambda n: n._key is None):
                if node._key is None:
                    text = f"{node.op.name}|{node.dtype.name}|{node.arg!r}|".encode()
                    node._key = hashlib.sha256(text + b"".join(s._key for s in node.src)).digest()
        return self._key

    @property
    def vmin(self) -> int:
        """The least value that an integer node may have, as far as is known."""
        return self.bounds[0]

    @property
    def vmax(self) -> int:
        """The greatest value that an integer node may have, as far as is known."""
        return self.bounds[1]

    @property
    def bounds(self) -> tuple[Any, Any]:
        """Least and greatest value, for integers and bools; an interval that holds, not always the tightest."""
        if self._bounds is None:
            ready = all(s._bounds is not None for s in self.src)
            for node in (self,) if ready else self.toposort(lambda n: n._bounds is None):
                if node._bounds is None:
                    low, high = _interval(node)
                    if low < node.dtype.min or high > node.dtype.max:       # it may wrap
                        low, high = node.dtype.min, node.dtype.max
                    node._bounds = (low, high)
        return self._bounds

    @property
    def ranges(self) -> frozenset[UOp]:
        """The open ranges that the value depends on: those below, less those that were closed (by a REDUCE, say)."""
        if self._ranges is None:
            ready = all(s._ranges is not None for s in self.src)
            for node in (self,) if ready else self.toposort(lambda n: n._ranges is None):
                if node._ranges is None:
                    if node.op is Ops.RANGE:
                        node._ranges = frozenset((node,))
                    elif node.op is Ops.REDUCE:
                        node._ranges = node.src[0]._ranges - frozenset(node.src[1:])
                    elif node.op is Ops.VECTOR:
                        node._ranges = frozenset().union(*(s._ranges for s in node.src if s.op is not Ops.RANGE)) \
                            - frozenset(node.src)
                    elif node.op in (Ops.BARRIER, Ops.AFTER):
                        kept = len(node.src) - node.arg
                        node._ranges = frozenset().union(*(s._ranges for s in node.src[:kept])) \
                            - frozenset(node.src[kept:])
                    else:
                        node._ranges = frozenset().union(*(s._ranges for s in node.src))
        return self._ranges

    def __repr__(self) -> str:
        return f"<{self.op.name} {self.dtype.name}{'' if self.arg is None else f' {self.arg!r}'}" \
               f"{f' {self.shape}' if self.shape else ''} of {len(self.src)}>"

    def tree(self) -> str:
        """The graph as text, a node a line, sources before users."""
        number: dict[UOp, int] = {}
        lines = []
        for node in self.toposort():
            number[node] = len(number)
            lines.append(f"%{number[node]:<4} {node.op.name:<12} {node.dtype.name:<9}"
                         f"{' '.join(f'%{number[s]}' for s in node.src):<16}"
                         f"{'' if node.arg is None else f' {node.arg!r}'}{f'  {node.shape}' if node.shape else ''}")
        return "\n".join(lines)

    def __iter__(self) -> Iterator[UOp]:
        raise TypeError("a UOp is not a sequence")


def arg_numel(arg: Any) -> int:
    """Elements of a BUFFER node, whose arg is (memory or slot, version, elements)."""
    return arg[2]


def _interval(node: UOp) -> tuple[Any, Any]:
    op, dtype, src = node.op, node.dtype, node.src
    if dtype.is_float:
        return dtype.min, dtype.max
    if op is Ops.CONST:
        return node.arg, node.arg
    if op is Ops.RANGE:
        return 0, max(src[0]._bounds[1] - 1, 0)
    if op is Ops.VARIABLE:
        return node.arg[1:]
    full = (dtype.min, dtype.max)
    if op not in ALU or op is Ops.BITCAST or any(s.dtype.is_float for s in src):
        return full
    (a, b), (c, d) = src[0]._bounds, src[-1]._bounds
    if op is Ops.ADD:
        return a + c, b + d
    if op is Ops.MUL:
        corners: tuple[Any, ...] = (a * c, a * d, b * c, b * d)
        return min(corners), max(corners)
    if op is Ops.NEG:
        return -b, -a
    if op is Ops.MAX:
        return max(a, c), max(b, d)
    if op is Ops.IDIV and (c > 0 or d < 0):
        corners = tuple(_trunc_div(x, y) for x in (a, b) for y in (c, d))
        return min(corners + ((0,) if a <= 0 <= b else ())), max(corners + ((0,) if a <= 0 <= b else ()))
    if op is Ops.MOD and c > 0:
        return (max(a, 1 - d) if a < 0 else 0), (min(b, d - 1) if b > 0 else 0)
    if op is Ops.AND and dtype.kind != "b" and (a >= 0 or c >= 0):
        return 0, d if a < 0 else b if c < 0 else min(b, d)
    if op is Ops.SHR and a >= 0 and c == d and 0 <= c < dtype.bits:
        return a >> c, b >> c
    if op is Ops.CMPLT:
        return b < c, a < d
    if op is Ops.CMPEQ:
        return a == b == c == d, not (b < c or d < a)
    if op is Ops.CMPNE:
        return b < c or d < a, not a == b == c == d
    if dtype.kind == "b" and op in (Ops.AND, Ops.OR):
        return (a and c, b and d) if op is Ops.AND else (a or c, b or d)
    if op is Ops.WHERE:
        (a, b) = src[1]._bounds
        return min(a, c), max(b, d)
    if op is Ops.CAST:
        return int(a), int(b)
    return full


def _trunc_div(x: int, y: int) -> int:
    q = abs(x) // abs(y)
    return q if (x < 0) == (y < 0) else -q


def fold(op: Ops, dtype: DType, values: tuple[Any, ...], source: DType) -> Any:
    """The value of ``op`` on Python constants, or None where it has none (integer division by zero, bad shifts).

    :param source: the type of the first operand.
    """
    x, y = values[0], values[-1]
    if op is Ops.WHERE:
        return values[1] if x else y
    if op is Ops.CAST:
        if source.is_float and not dtype.is_float and dtype.kind != "b":
            return int(x) if math.isfinite(x) and dtype.min <= int(x) <= dtype.max else None
        return dtype.cast(x)
    if op is Ops.BITCAST:
        if dtype.coded or source.coded or dtype.bits != source.bits:
            return None
        return np.array(x, source.np).view(dtype.np)[()].item()
    if op is Ops.CMPLT:
        return x < y
    if op is Ops.CMPEQ:
        return x == y
    if op is Ops.CMPNE:
        return x != y
    if op in (Ops.IDIV, Ops.MOD):
        if y == 0:
            return None
        q = _trunc_div(x, y)
        return dtype.cast(q if op is Ops.IDIV else x - q * y)
    if op in (Ops.SHL, Ops.SHR):
        return dtype.cast(x << y if op is Ops.SHL else x >> y) if 0 <= y < dtype.bits else None
    if op in (Ops.AND, Ops.OR, Ops.XOR):
        return dtype.cast(x & y if op is Ops.AND else x | y if op is Ops.OR else x ^ y)
    if op is Ops.MAX:
        if x == y == 0 and dtype.is_float:
            return math.copysign(0.0, x) + y    # 0.0 is more than -0.0 (IEEE 754, maximum)
        return x if x != x or x > y else y      # NaN wins, as in NumPy
    if not dtype.is_float:
        exact = {Ops.NEG: lambda: -x, Ops.ADD: lambda: x + y, Ops.MUL: lambda: x * y, Ops.TRUNC: lambda: x}.get(op)
        return dtype.cast(exact()) if exact and dtype.kind != "b" else (x or y) if op is Ops.ADD else \
            (x and y) if op is Ops.MUL else None
    with np.errstate(all="ignore"):
        work = np.float64 if dtype.bits == 64 else np.float32
        a, b = work(x), work(y)
        result = {Ops.NEG: lambda: -a, Ops.SQRT: lambda: np.sqrt(a), Ops.EXP2: lambda: np.exp2(a),
                  Ops.LOG2: lambda: np.log2(a), Ops.SIN: lambda: np.sin(a), Ops.TRUNC: lambda: np.trunc(a),
                  Ops.ADD: lambda: a + b, Ops.MUL: lambda: a * b, Ops.FDIV: lambda: a / b}.get(op)
        return dtype.cast(result()) if result else None
