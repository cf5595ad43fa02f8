"""What a kernel is for and how much it does: a name for people, operations, bytes.

All from the kernel as it was scheduled, before choices: so the figures do not depend on how it runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod

from compiler.lower import Axis, length
from compiler.places import Place, called
from compiler.uop import ALU, Ops, UOp
from compiler.variable import evaluate

__all__ = ["Work", "label", "shapes", "what", "work"]

_REDUCES = {Ops.ADD: "sum", Ops.MUL: "prod", Ops.MAX: "max"}
_NAMES = 2              # methods in a kernel's name
_NOT_COUNTED = frozenset({Ops.CAST, Ops.BITCAST, Ops.WHERE})


class Work:
    """``operations`` on floating-point numbers (a multiplication and an addition are two; where a kernel has none, on
    integers that are values), ``bytes`` that must move at least once, of all the memory the kernel is given."""

    __slots__ = ("bytes", "operations")

    def __init__(self, operations: int, nbytes: int) -> None:
        self.operations, self.bytes = operations, nbytes


def _turns(ranges: Iterable[UOp], values: Mapping[str, int]) -> int:
    return prod(r.src[0].arg if r.src[0].op is Ops.CONST else evaluate(r.src[0], values) if values else length(r)
                for r in ranges)


def work(sink: UOp, sizes: Sequence[int], values: Mapping[str, int] | None = None) -> Work:
    """:param sizes: bytes of the parameters. :param values: of variables; without them the most is counted."""
    values = values or {}
    order = sink.toposort()
    addresses: set[UOp] = set()         # index arithmetic is not what a kernel is for
    for node in order:
        if node.op is Ops.INDEX:
            addresses.update(node.src[1].toposort(lambda n: n.op is not Ops.LOAD and n not in addresses))
    floats = integers = 0
    moved: dict[int, int] = {}
    for node in order:
        if node.op in ALU and node.op not in _NOT_COUNTED and node not in addresses:
            n = _turns(node.ranges, values)
        elif node.op is Ops.REDUCE:
            n = _turns(node.src[0].ranges, values)
        elif node.op in (Ops.LOAD, Ops.STORE):
            address = node.src[0]
            elements = _turns(address.ranges, values)
            param = address.src[0].arg
            most = sizes[param] if param < len(sizes) else elements * node.dtype.itemsize
            moved[param] = min(most, moved.get(param, 0) + elements * node.dtype.itemsize)
            continue
        else:
            continue
        if node.dtype.is_float or (node.src and node.src[0].dtype.is_float):
            floats += n
        else:
            integers += n
    return Work(floats or integers, sum(moved.values()))


def shapes(sink: UOp) -> str:
    """What is computed, and over what it is reduced: ``8x64 of 4``."""
    text = {axis: "x".join("?" if r.src[0].op is not Ops.CONST else str(r.src[0].arg) for r in sorted(
        (n for n in sink.toposort() if n.op is Ops.RANGE and n.arg[1] is axis), key=lambda n: n.arg))
        for axis in (Axis.GLOBAL, Axis.REDUCE)}
    return (text[Axis.GLOBAL] or "1") + (f" of {text[Axis.REDUCE]}" if text[Axis.REDUCE] else "")


def what(sink: UOp) -> str:
    """The kind of work: a product of matrices, a reduction, element by element, or storing."""
    order = sink.toposort()
    reduces = [n for n in order if n.op is Ops.REDUCE]
    for node in reduces:
        value = node.src[0]
        while value.op is Ops.CAST:
            value = value.src[0]
        if node.arg is Ops.ADD and value.op is Ops.MUL and all(
                any(n.op is Ops.LOAD for n in s.toposort()) for s in value.src):
            return "product"
    if reduces:
        return _REDUCES[reduces[-1].arg]
    stored = [s.src[1] for s in sink.src]
    if all(s.op is Ops.LOAD for s in stored):
        return "copy"
    return "fill" if all(s.op is Ops.CONST for s in stored) else "map"


def label(sink: UOp, places: Sequence[Place] = ()) -> str:
    """A kernel's name for people: the methods that the user called last (``matmul+relu``), or the kind of work; and
    shapes."""
    names = [n for n in dict.fromkeys(called(p) for p in places) if n != "Tensor"][:_NAMES]
    return f"{'+'.join(reversed(names)) or what(sink)} {shapes(sink)}"
