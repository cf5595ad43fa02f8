"""UNROLL ranges become copies: each node that depends on such ranges is made once for every place in them.

What closes a range collects the copies: a SINK and a BARRIER all the stores, a VECTOR its lanes, a REDUCE a chain of
its operation, which code generation adds to the accumulator one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

from compiler.lower import Axis
from compiler.symbolic import simplify
from compiler.uop import Ops, UOp

__all__ = ["closes", "expand", "summands"]


def closes(node: UOp) -> tuple[UOp, ...]:
    """The ranges that a node closes: its last sources."""
    if node.op is Ops.REDUCE:
        return node.src[1:]
    if node.op is Ops.VECTOR:
        return tuple(s for s in node.src[1:] if s.op is Ops.RANGE)
    return node.src[len(node.src) - node.arg:] if node.op in (Ops.BARRIER, Ops.AFTER) else ()


def summands(node: UOp, op: Ops) -> list[UOp]:
    """The parts of a chain ``((a + b) + c) + d``, in that order."""
    parts = []
    while node.op is op:
        parts.append(node.src[1])
        node = node.src[0]
    return [node, *reversed(parts)]


def _unrolled(node: UOp) -> tuple[UOp, ...]:
    return tuple(sorted((r for r in node.ranges if r.arg[1] is Axis.UNROLL), key=lambda r: r.arg))


def _places(ranges: tuple[UOp, ...]) -> list[tuple[int, ...]]:
    return list(product(*(range(r.src[0].arg) for r in ranges)))


def expand(sink: UOp) -> UOp:
    """The kernel without UNROLL ranges."""
    order = sink.toposort()
    if not any(n.op is Ops.RANGE and n.arg[1] is Axis.UNROLL for n in order):
        return sink
    copies: dict[UOp, dict[tuple[int, ...], UOp]] = {}
    opened: dict[UOp, tuple[UOp, ...]] = {}

    def at(source: UOp, place: dict[UOp, int]) -> UOp:
        return copies[source][tuple(place[r] for r in opened[source])]

    for node in order:
        if node.op is Ops.SINK:
            break
        ranges = opened[node] = _unrolled(node)
        made = copies[node] = {}
        closed = tuple(r for r in closes(node) if r.arg[1] is Axis.UNROLL)
        for point in _places(ranges):
            place = dict(zip(ranges, point, strict=True))
            if node.op is Ops.RANGE and node.arg[1] is Axis.UNROLL:
                made[point] = node.like(point[0])
            elif not closed:
                made[point] = node.replace(tuple(at(s, place) for s in node.src)) if node.src else node
            else:
                made[point] = _collect(node, closed, place, at)
    stores: dict[UOp, None] = {}
    for store in sink.src:
        stores.update(dict.fromkeys(copies[store].values()))
    return simplify(sink.replace(tuple(stores)))


def _collect(node: UOp, closed: tuple[UOp, ...], place: dict[UOp, int],
             at: Callable[[UOp, dict[UOp, int]], UOp]) -> UOp:
    """``node`` over the copies of what it closes."""
    inside = [place | dict(zip(closed, p, strict=True)) for p in _places(closed)]
    ranges = closes(node)
    kept = tuple(at(s, place) for s in ranges if s not in closed)
    values = [[at(s, p) for s in node.src[:len(node.src) - len(ranges)]] for p in inside]
    if node.op is not Ops.REDUCE:
        flat = [v for copy in values for v in copy]
        if node.op is Ops.VECTOR:
            return node.replace((*flat, *kept))
        return UOp(node.op, node.dtype, (*dict.fromkeys(flat), *kept), len(kept))
    total: UOp | None = None
    late: dict[UOp, None] = {}
    for (value,) in values:
        if value.op is Ops.AFTER:
            late.update(dict.fromkeys(value.src[1:]))
            value = value.src[0]
        if total is None:
            total = value
        elif value.op is Ops.WMMA:
            total = value.replace((*value.src, total))
        else:
            total = UOp(node.arg, node.dtype, (total, value))
    assert total is not None
    if late:
        total = UOp(Ops.AFTER, node.dtype, (total, *late), 0)
    return node.replace((total, *kept)) if kept else total
