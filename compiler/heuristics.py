"""Which optional rewrites a kernel gets when nobody searches: a few rules, written by hand."""

from __future__ import annotations

from math import prod

from compiler.choices import Choice
from compiler.lower import Axis, divides, length
from compiler.matrix import SIDE, Product, find_product
from compiler.optimize import ranges_of
from compiler.symbolic import terms
from compiler.uop import Ops, UOp

__all__ = ["choose"]

_WORK_ITEMS = 1 << 14
"""A tile of a kernel without workgroups of its own may not leave a GPU fewer work-items than this."""
_WAVES = 192
"""Waves that a tile should leave a GPU: one for each SIMD of the 48 workgroup processors of Navi 31."""
_FEW, _LONG = 1024, 128
"""At most so many outputs, of sums so long at least, get a workgroup each."""
_WORTH_TILES = 1 << 18
"""Iterations on a CPU below which a tile costs more to compile than it saves."""
_WORTH_SHARING = 4
"""Iterations of a sum on a CPU, below which what an output does besides it outweighs the loads that a tile shares."""
_WORTH_MORE = 1 << 26
"""Likewise for a tile that fills the vector registers."""
_WAVE = 32
_ONE_VECTOR = 8
_SHORT = 8
"""Iterations of a loop that is unrolled as a whole."""
_WIDTHS = (32, 16, 8, 28, 14, 12, 7, 4)
"""Elements of a tile along an axis that memory has side by side, on a CPU: whole vectors first, then whole rows."""


def choose(sink: UOp, gpu: bool) -> list[Choice]:
    """For a kernel as :func:`compiler.optimize.merge_ranges` leaves it."""
    reduces = [n for n in sink.toposort() if n.op is Ops.REDUCE]
    outer = ranges_of(sink, Axis.GLOBAL)
    varies = any(r.src[0].op is not Ops.CONST for r in outer)       # then there are no workgroups to choose
    if gpu and not varies and (shared := _group(reduces, outer)):
        return shared
    if len(outer) < 2 or not reduces or len(sink.src) > 4:
        return []
    if gpu and not varies and (product := find_product(sink)) is not None and (found := _matrix(product, outer)):
        return found
    if gpu and not varies and (found := _product(sink, reduces, outer)):
        return found
    return _tile(reduces, outer, gpu)


def _group(reduces: list[UOp], outer: list[UOp]) -> list[Choice]:
    """Few outputs of a long reduction: a workgroup for each."""
    if len(reduces) != 1 or prod(map(length, outer)) > _FEW:
        return []
    r = max(reduces[0].src[1:], key=length)
    n = next((n for n in (256, 128, 64, 32) if divides(n, r)), 0)
    return [Choice("group", r.arg[0], (n,))] if n and length(r) >= _LONG else []


def _matrix(product: Product, outer: list[UOp]) -> list[Choice]:
    """Large tiles where enough workgroups remain; each wave should have something to do while another one waits."""
    rest = prod(length(r) for r in outer if r is not product.m and r is not product.n)
    best: tuple[int, list[Choice]] | None = None
    # a second matrix that is transposed on its way costs work by its width
    along = all(terms(x.src[0].src[1])[0].get(product.k) == 1 for x in product.b.toposort()
                if x.op is Ops.LOAD and product.k in x.ranges)
    first = ((4, 1), (1, 4)) if along else ((2, 2), (4, 2))
    for waves, tile in (first, ((2, 2), (2, 2)), ((2, 2), (2, 1)), ((2, 2), (1, 1)),
                        ((1, 2), (1, 1)), ((1, 1), (1, 1))):
        rows, columns = SIDE * waves[0] * tile[0], SIDE * waves[1] * tile[1]
        m, n, k = (r.src[0].arg for r in (product.m, product.n, product.k))
        if m % rows or n % columns:
            continue
        depth = next(d for d in (2, 1) if k % (SIDE * d) == 0)
        groups = m // rows * (n // columns) * rest
        choices = [Choice("matrix", 0, (*waves, *tile, depth))]
        if waves != (1, 1):
            choices.append(Choice("shared", 0, (int(depth > 1 and k > SIDE * depth),)))
        if groups * waves[0] * waves[1] >= 2 * _WAVES:
            return choices
        if best is None or groups * waves[0] * waves[1] > best[0]:
            best = groups * waves[0] * waves[1], choices
    return [] if best is None else best[1]


def _strides(reduces: list[UOp]) -> tuple[list[UOp], list[dict[UOp, int]]]:
    """Loads that a reduction walks over, and how far each range steps in them."""
    loads = list(dict.fromkeys(n for r in reduces for n in r.toposort()
                               if n.op is Ops.LOAD and n.ranges & set(r.src[1:])))
    return loads, [terms(load.src[0].src[1])[0] for load in loads]


def _product(sink: UOp, reduces: list[UOp], outer: list[UOp]) -> list[Choice]:
    """Matrix products without matrix instructions, on a GPU: a wave is a row of lanes along an axis that memory has
    side by side; each lane computes a few rows and columns; what a wave's lanes have in common are scalars."""
    loads, strides = _strides(reduces)
    if len({r.src[1:] for r in reduces}) != 1 or any(len(load.src) > 1 for load in loads):
        return []
    k = reduces[0].src[-1]
    lanes = next((r for r in reversed(outer) if any(s.get(r) == 1 for s in strides)
                  and all(s.get(r, 0) == 0 or s[r] == 1 for s in strides)), None)
    rows = next((r for r in reversed(outer) if r is not lanes and lanes is not None
                 and any(r in load.ranges and lanes not in load.ranges for load in loads)
                 and any(r not in load.ranges for load in loads)), None)
    if lanes is None or rows is None or not divides(_WAVE, lanes):
        return []
    total = prod(map(length, outer))
    for across, down in ((4, 8), (2, 8), (4, 4), (2, 4), (1, 8), (1, 4)):
        if divides(_WAVE * across, lanes) and divides(down, rows) \
                and total // (across * down * _WAVE) >= _WAVES:
            break
    else:
        return []
    choices = [Choice("upcast", rows.arg[0], (down,)), Choice("local", lanes.arg[0], (_WAVE,))]
    if across > 1:
        choices.insert(1, Choice("upcast", lanes.arg[0], (across,)))
    if divides(2 * down, rows):
        choices.insert(1, Choice("local", rows.arg[0], (2,)))
    depth = next((d for d in (8, 4, 2) if divides(d, k)), 1)
    return [*choices, Choice("unroll", k.arg[0], (depth,))] if depth > 1 else choices


def _tile(reduces: list[UOp], outer: list[UOp], gpu: bool) -> list[Choice]:
    """A tile for kernels like matrix products: two output axes, each of which leaves some of the loads alone.

    On a GPU small enough that many work-items remain. On a CPU wide along an axis that loads and stores walk by
    ones, for those become vectors.
    """
    loads, strides = _strides(reduces)
    total = prod(map(length, outer))
    longest = max(prod(map(length, r.src[1:])) for r in reduces)
    walked = total * longest
    choices: list[Choice] = []
    vectors = False
    left: set[UOp] = set()      # loads that the axes so far have in common
    apart = False               # is every second element loaded? Those between are the next iteration's
    for r in reversed(outer) if gpu or (walked >= _WORTH_TILES and longest >= _WORTH_SHARING) else ():
        free = {load for load in loads if r not in load.ranges}
        if not free or len(free) == len(loads) or free <= left:
            continue
        # every second element still makes vectors, by shuffles
        wide = not gpu and not vectors and all(s.get(r, 0) in (0, 1, 2) for s in strides)
        large = not gpu and walked >= _WORTH_MORE
        sizes: tuple[int, ...] = _WIDTHS[not large:] if wide else (8, 4, 2)[not (large and vectors):]
        if apart and not wide and choices[-1].amounts[0] <= _ONE_VECTOR and walked >= _WORTH_TILES << 6:
            sizes = (16, 8, 4, 2)       # a row of one vector, dear to load, leaves registers for more rows
        factor = next((f for f in sizes if divides(f, r) and total // f >= (_WORK_ITEMS if gpu else 64)), 1)
        if factor > 1 and len(choices) < 2:
            choices.append(Choice("upcast", r.arg[0], (factor,)))
            total //= factor
            vectors = vectors or wide
            left |= free
            apart = apart or (wide and any(s.get(r) == 2 for s in strides))
    inner = reduces[0].src[-1]
    if apart and all(r.src[-1] is inner for r in reduces) and 1 < length(inner) <= _SHORT \
            and divides(length(inner), inner):
        choices.append(Choice("unroll", inner.arg[0], (length(inner),)))
    return choices
