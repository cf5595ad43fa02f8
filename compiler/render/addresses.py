"""Addresses in two steps: what all work-items of a group have in common, then what each one adds.

The first step is done in scalar registers, once a wave; the second is one register that loops seldom change, and a
constant that fits into the instruction (RDNA3 ISA, "Global, scratch and flat": a signed offset of 13 bits).
"""

from __future__ import annotations

from compiler.lower import Axis
from compiler.symbolic import build, terms
from compiler.uop import Ops, UOp

__all__ = ["divide_addresses"]

_REACH = 4096


def _parts(index: UOp, itemsize: int) -> tuple[UOp, ...] | None:
    """The common part, a large constant if there is one, and the rest; None if there is nothing to gain, or a part
    might be negative."""
    pieces, constant = terms(index)
    mine = {x: k for x, k in pieces.items() if not x.ranges or any(r.arg[1] is Axis.LOCAL for r in x.ranges)}
    common = {x: k for x, k in pieces.items() if x not in mine}
    near = constant % (_REACH // itemsize)
    if not common and constant == near:
        return None
    first, rest = build(common, 0, index), build(mine, near, index)
    if first.vmin < 0 or constant < near or build(mine, 0, index).vmin < 0:
        return None
    # by itself: several addresses have the common part in common
    return (first, index.like(constant - near), rest) if constant > near else (first, rest)


def divide_addresses(sink: UOp) -> UOp:
    """Every INDEX of a kernel in workgroups as an INDEX on an INDEX, where that helps."""
    order = sink.toposort()
    if not any(n.op is Ops.RANGE and n.arg[1] is Axis.LOCAL for n in order):
        return sink
    gated = {n.src[0] for n in order if n.op is Ops.LOAD and len(n.src) > 1}
    table: dict[UOp, UOp] = {}
    for node in order:
        if node.op is Ops.SINK:
            break
        new = node.replace(tuple(table[s] for s in node.src))
        if node.op is Ops.INDEX and node not in gated and node.dtype.kind != "b" \
                and (parts := _parts(node.src[1], node.dtype.itemsize)) is not None:
            pointer = new.src[0]
            for part in parts:
                pointer = new.replace((pointer, part))
            new = pointer
        table[node] = new
    return sink.replace(tuple(table[s] for s in sink.src))
