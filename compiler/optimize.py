"""Rewrites of a kernel's ranges: how it runs, not what it computes.

``merge_ranges`` is always good: two nested ranges that every index walks as one become one. ``split`` takes a range
apart, and is what the choices of :mod:`compiler.choices` are made of. ``flatten_grid`` is required on a GPU, where a
kernel has one range of work-items, or up to three of workgroups and one of work-items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count, pairwise
from math import prod

from compiler.expand import closes, expand
from compiler.lower import Axis
from compiler.symbolic import build, simplify, terms
from compiler.uop import Ops, UOp

__all__ = ["flat_of", "flatten_grid", "merge_ranges", "new_ranges", "ranges_of", "respell", "split", "upcast"]


def ranges_of(sink: UOp, axis: Axis) -> list[UOp]:
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
        outer = ranges_of(sink, Axis.GLOBAL)
        pairs += list(pairwise(outer))
        for node in order:
            if node.op is Ops.REDUCE:
                pairs += list(pairwise(node.src[1:]))
        for a, b in pairs:
            if a.src[0].op is not Ops.CONST or b.src[0].op is not Ops.CONST:
                continue
            n, m = a.src[0].arg, b.src[0].arg
            if n * m > a.dtype.max or (indices := _sums(order, (a, b))) is None:
                continue
            parts = [terms(i.src[1])[0] for i in indices]
            if any(p.get(a, 0) != p.get(b, 0) * m for p in parts):
                continue
            if a.arg[1] is Axis.REDUCE and not all(_closes(r, a, b) for r in order if r.op is Ops.REDUCE):
                continue
            joined = UOp(Ops.RANGE, a.dtype, (a.like(n * m),), a.arg)
            table: dict[UOp, Callable[[dict[UOp, UOp]], UOp]] = {}
            for i, p in zip(indices, parts, strict=True):
                constant = terms(i.src[1])[1]
                rest = {x: k for x, k in p.items() if x is not a and x is not b}

                def index(done: dict[UOp, UOp], i: UOp = i, k: int = p.get(b, 0), rest: dict[UOp, int] = rest,
                          constant: int = constant, joined: UOp = joined) -> UOp:
                    """The new index; its other terms may stand on indices that change, too (a loaded one)."""
                    whole = build({joined: k, **{done[x]: n for x, n in rest.items()}}, constant, i.src[1])
                    return i.replace((done[i.src[0]], whole))
                table[i] = index
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


def _replace(sink: UOp, a: UOp, b: UOp, joined: UOp, table: dict[UOp, Callable[[dict[UOp, UOp]], UOp]]) -> UOp:
    done: dict[UOp, UOp] = {}
    for node in sink.toposort():
        if node in table:
            done[node] = table[node](done)
        elif node.op is Ops.REDUCE and a in node.src:
            done[node] = node.replace(
                (done[node.src[0]], *(joined if s is a else s for s in node.src[1:] if s is not b))
            )
        else:
            done[node] = node.replace(tuple(done[s] for s in node.src))
    return done[sink]


def flatten_grid(sink: UOp) -> UOp:
    """One GLOBAL range over all work-items; the ranges it stands for come back by division.

    Where work-items are LOCAL, GLOBAL ranges are workgroups, of which there may be three; of LOCAL ranges one is left.
    """
    local = ranges_of(sink, Axis.LOCAL)
    outer = ranges_of(sink, Axis.GLOBAL)
    table = _flat(outer[:-2] if local else outer) | _flat(local)
    return simplify(sink.substitute(table)) if table else sink


def flat_of(ranges: Sequence[UOp]) -> UOp:
    """The number of an iteration of several ranges, the last one being the innermost."""
    total = ranges[-1].like(0)
    stride = total.like(1)
    for r in reversed(ranges):
        total = total + r * stride
        stride = simplify(stride * r.src[0])
    return total


def _flat(ranges: list[UOp]) -> dict[UOp, UOp]:
    """Each of the ranges, by division of one range that takes their place."""
    if len(ranges) < 2:
        return {}
    whole = ranges[0].like(1)
    for r in ranges:
        whole = simplify(whole * r.src[0])
    flat = UOp(Ops.RANGE, ranges[0].dtype, (whole,), ranges[0].arg)
    table: dict[UOp, UOp] = {}
    stride = whole.like(1)
    for r in reversed(ranges):
        quotient = flat // stride
        table[r] = quotient % r.src[0] if r is not ranges[0] else quotient
        stride = simplify(stride * r.src[0])
    return table


def respell(sink: UOp, table: dict[UOp, tuple[UOp, tuple[UOp, ...]]]) -> UOp:
    """Ranges in other terms: each as an expression, and the ranges that are open, and are closed, in its place."""
    done: dict[UOp, UOp] = {}
    for node in sink.toposort():
        if node in table:
            done[node] = table[node][0]
        elif any(r in table for r in closes(node)):
            ranges = closes(node)
            src = [done[s] for s in node.src[:len(node.src) - len(ranges)]]
            for r in ranges:
                src += table[r][1] if r in table else [done[r]]
            arg = len(src) - len(node.src) + node.arg if node.op in (Ops.BARRIER, Ops.AFTER) else node.arg
            done[node] = UOp(node.op, node.dtype, tuple(src), arg)
        else:
            done[node] = node.replace(tuple(done[s] for s in node.src))
    return done[sink]


def new_ranges(sink: UOp) -> Iterator[int]:
    """Numbers that no range has."""
    return count(1 + max((n.arg[0] for n in sink.toposort() if n.op is Ops.RANGE), default=-1))


def split(sink: UOp, r: UOp, parts: Sequence[tuple[int, Axis]]) -> tuple[UOp, list[UOp]]:
    """``r`` as several ranges, the outermost first: what ``parts`` leave of it keeps its kind, then each part.

    :return: the kernel and the ranges, without those of one iteration (None in their place would be of no use).
    """
    inner = prod(n for n, _ in parts)
    n = r.src[0].arg
    assert n % inner == 0, f"{inner} does not divide {n}"
    number = new_ranges(sink)
    made = [UOp(Ops.RANGE, r.dtype, (r.like(n // inner),), r.arg)] if n > inner else []
    made += [UOp(Ops.RANGE, r.dtype, (r.like(k),), (next(number), axis)) for k, axis in parts if k > 1]
    return respell(sink, {r: (flat_of(made), tuple(made))}), made


def upcast(sink: UOp, tile: dict[UOp, int]) -> UOp:
    """Compute ``tile[r]`` neighbours of each of these GLOBAL ranges in one iteration.

    The reductions of the copies go over the same ranges and so share their loops; loads that are equal are one node.
    """
    for r, factor in tile.items():
        sink, _ = split(sink, r, [(factor, Axis.UNROLL)])
    return expand(sink)
