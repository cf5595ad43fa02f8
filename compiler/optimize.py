"""Rewrites of a kernel that change how it runs, not what it computes.

``merge_ranges`` is always good: two nested ranges that every index walks as one become one. ``upcast`` is a choice:
a work-item computes a small tile of outputs, and loads what they share once. ``flatten_grid`` is required on a GPU,
where a kernel has one range of work-items.
"""

from __future__ import annotations

from itertools import pairwise
from math import prod

from compiler.lower import Axis
from compiler.symbolic import build, simplify, terms
from compiler.uop import Ops, UOp

__all__ = ["choose_tile", "flatten_grid", "merge_ranges", "optimize", "upcast"]

_WORK_ITEMS = 1 << 14
"""A tile may not leave a GPU fewer work-items than this."""
_WORTH_TILES = 1 << 18
"""Iterations on a CPU below which a tile costs more to compile than it saves."""


def _ranges(sink: UOp, axis: Axis) -> list[UOp]:
    return sorted((n for n in sink.toposort() if n.op is Ops.RANGE and n.arg[1] is axis), key=lambda n: n.arg)


def _sums(order: dict[UOp, None], ranges: tuple[UOp, ...]) -> dict[UOp, None] | None:
    """The INDEX nodes that use ``ranges``; None if anything but sums into an INDEX does."""
    inside = set(ranges)
    indices: dict[UOp, None] = {}
    for node in order:
        if not any(s in inside for s in node.src):
            continue
        if node.op is Ops.INDEX:
            indices[node] = None
        elif node.op is Ops.ADD or (node.op is Ops.MUL and node.src[1].op is Ops.CONST):
            inside.add(node)
        elif node.op is not Ops.REDUCE or node.src[0] in inside:
            return None
    return indices


def merge_ranges(sink: UOp) -> UOp:
    """Make one range of two neighbours ``a`` (outer) and ``b`` where each index holds ``k*len(b)*a + k*b``."""
    changed = True
    while changed:
        changed = False
        order = sink.toposort()
        pairs = []
        outer = _ranges(sink, Axis.GLOBAL)
        pairs += list(pairwise(outer))
        for node in order:
            if node.op is Ops.REDUCE:
                pairs += list(pairwise(node.src[1:]))
        for a, b in pairs:
            n, m = a.src[0].arg, b.src[0].arg
            if n * m > a.dtype.max or (indices := _sums(order, (a, b))) is None:
                continue
            parts = [terms(i.src[1])[0] for i in indices]
            if any(p.get(a, 0) != p.get(b, 0) * m for p in parts):
                continue
            if a.arg[1] is Axis.REDUCE and not all(_closes(r, a, b) for r in order if r.op is Ops.REDUCE):
                continue
            joined = UOp(Ops.RANGE, a.dtype, (a.like(n * m),), a.arg)
            table: dict[UOp, UOp] = {}
            for i, p in zip(indices, parts, strict=True):
                constant = terms(i.src[1])[1]
                rest = {x: k for x, k in p.items() if x is not a and x is not b}
                table[i] = i.replace((i.src[0], build({joined: p.get(b, 0), **rest}, constant, i.src[1])))
            sink = _replace(sink, a, b, joined, table)
            changed = True
            break
    return sink


def _closes(reduce: UOp, a: UOp, b: UOp) -> bool:
    """Does the reduction have both ranges side by side, or neither?"""
    ranges = reduce.src[1:]
    if a not in ranges and b not in ranges:
        return True
    return a in ranges and ranges.index(a) + 1 < len(ranges) and ranges[ranges.index(a) + 1] is b


def _replace(sink: UOp, a: UOp, b: UOp, joined: UOp, table: dict[UOp, UOp]) -> UOp:
    done: dict[UOp, UOp] = {}
    for node in sink.toposort():
        if node in table:
            done[node] = table[node]
        elif node.op is Ops.REDUCE and a in node.src:
            done[node] = node.replace(
                (done[node.src[0]], *(joined if s is a else s for s in node.src[1:] if s is not b))
            )
        else:
            done[node] = node.replace(tuple(done[s] for s in node.src))
    return done[sink]


def flatten_grid(sink: UOp) -> UOp:
    """One GLOBAL range over all work-items; the ranges it stands for come back by division."""
    outer = _ranges(sink, Axis.GLOBAL)
    if len(outer) < 2:
        return sink
    total = 1
    for r in outer:
        total *= r.src[0].arg
    flat = UOp(Ops.RANGE, outer[0].dtype, (outer[0].like(total),), outer[0].arg)
    table: dict[UOp, UOp] = {}
    stride = 1
    for r in reversed(outer):
        n = r.src[0].arg
        quotient = flat // stride if stride > 1 else flat
        table[r] = quotient % n if r is not outer[0] else quotient
        stride *= n
    return simplify(sink.substitute(table))


def upcast(sink: UOp, tile: dict[UOp, int]) -> UOp:
    """Compute ``tile[r]`` neighbours of each of these GLOBAL ranges in one iteration.

    The stores are copied, once for each place in the tile, with ``k*r + place`` for ``r``. The reductions of the
    copies go over the same ranges and so share their loops; loads that are equal are one node to begin with.
    """
    stores = sink.src
    for r, factor in tile.items():
        n = r.src[0].arg
        assert n % factor == 0, f"a tile of {factor} does not divide {n}"
        outer = UOp(Ops.RANGE, r.dtype, (r.like(n // factor),), r.arg)
        places = [outer * factor + k if n > factor else r.like(k) for k in range(factor)]
        stores = tuple(s.substitute({r: place}) for place in places for s in stores)
    return simplify(sink.replace(stores))


def choose_tile(sink: UOp, gpu: bool) -> dict[UOp, int]:
    """A tile for kernels like matrix products: two output axes, each of which leaves some of the loads alone.

    On a GPU small enough that many work-items remain. On a CPU wide along an axis that loads and stores walk by
    ones, for those become vectors.
    """
    outer = _ranges(sink, Axis.GLOBAL)
    reduces = [n for n in sink.toposort() if n.op is Ops.REDUCE]
    if len(outer) < 2 or not reduces or len(sink.src) > 4:
        return {}
    loads = [n for r in reduces for n in r.toposort() if n.op is Ops.LOAD and n.ranges & set(r.src[1:])]
    total = 1
    for r in outer:
        total *= r.src[0].arg
    walked = total * max(prod(x.src[0].arg for x in r.src[1:]) for r in reduces)
    tile: dict[UOp, int] = {}
    for r in reversed(outer) if gpu or walked >= _WORTH_TILES else ():
        if not any(r not in load.ranges for load in loads) or not any(r in load.ranges for load in loads):
            continue
        wide = not gpu and all(terms(load.src[0].src[1])[0].get(r, 0) in (0, 1) for load in loads)
        sizes = (16, 8, 4) if wide else (4, 2)
        factor = next((f for f in sizes if r.src[0].arg % f == 0 and total // f >= (_WORK_ITEMS if gpu else 64)), 1)
        if factor > 1 and len(tile) < 2:
            tile[r] = factor
            total //= factor
    return tile


def optimize(sink: UOp, gpu: bool) -> UOp:
    """The rewrites for a target, in order."""
    sink = merge_ranges(sink)
    if tile := choose_tile(sink, gpu):
        sink = upcast(sink, tile)
    return flatten_grid(sink) if gpu else sink
