"""Tiles in a workgroup's memory (LDS): what its work-items load in common is loaded once, and read from there.

:func:`stage` replaces loads. The elements that the workgroup needs at one turn of the loops around a load are a tile:
its coordinates are the LOCAL and UNROLL ranges in the load's index, which is a sum. The work-items copy the tile
together, 16 bytes each at a time, wait for one another, and load their own parts. Rows are padded by 16 bytes where
that takes work-items that read neighbouring rows to different banks (RDNA3 ISA, "LDS bank conflicts": a wave reads
128 bits a lane in four quarters, and eight lanes of 16 bytes meet all 32 banks if their rows differ by an odd number
of 16 bytes). A tile whose readers want another direction side by side than memory has is transposed on the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from compiler.lower import Axis, divides
from compiler.optimize import flat_of, new_ranges
from compiler.symbolic import build, simplify, terms
from compiler.uop import Ops, UOp

__all__ = ["loads_to_stage", "share_reduction", "stage"]

_UNIT = 16          # bytes that one work-item moves at a time
_LIMIT = 64 << 10   # LLVM, AMDGPU: AddressableLocalMemorySize of gfx11


@dataclass(frozen=True)
class _Dim:
    """One direction of a tile: ``size`` places, ``step`` elements apart in memory; ``at`` is the reader's place."""

    size: int
    step: int
    at: UOp
    wanted: bool        # do readers want its places side by side?
    mine: bool          # is it work-items that are side by side?


def _tile(load: UOp, together: set[UOp]) -> list[_Dim] | None:
    """The directions of the tile that a workgroup loads, the widest step first; None if it is none.

    :param together: ranges of which a work-item wants the elements in one piece.
    """
    parts, _ = terms(load.src[0].src[1])
    mine: list[tuple[UOp, int]] = []
    for x, k in parts.items():
        inside = [r for r in x.ranges if r.arg[1] in (Axis.LOCAL, Axis.UNROLL)]
        if inside and (x.op is not Ops.RANGE or k <= 0):
            return None
        if inside:
            mine.append((x, k))
    if len(load.src) > 1 or not mine:
        return None
    mine.sort(key=lambda p: -p[1])
    dims: list[_Dim] = []
    for r, k in mine:
        n = r.src[0].arg
        new = _Dim(n, k, r, r in together, r.arg[1] is Axis.LOCAL)
        last = dims[-1] if dims else None
        if last is not None and last.step == k * n and last.mine == new.mine and (new.wanted or not last.wanted):
            dims[-1] = _Dim(last.size * n, k, last.at * n + r, new.wanted, new.mine)    # goes on where that one ends
        else:
            dims.append(new)
    return dims


def _together(sink: UOp) -> dict[UOp, set[UOp]]:
    """Of each load, the ranges over which vectors gather it; if there are none, those over which there are copies."""
    out: dict[UOp, set[UOp]] = {}
    for node in sink.toposort():
        if node.op is Ops.VECTOR and node.src[0].op is Ops.LOAD:
            out.setdefault(node.src[0], set()).update(node.src[1:])
    for node in sink.toposort():
        if node.op is Ops.LOAD and node not in out:
            out[node] = {r for r in node.ranges if r.arg[1] is Axis.UNROLL}
    return out


def loads_to_stage(sink: UOp) -> list[UOp]:
    """Loads of elements that several work-items of a workgroup need."""
    order = sink.toposort()
    local = {r for r in order if r.op is Ops.RANGE and r.arg[1] is Axis.LOCAL}
    return [n for n in order if n.op is Ops.LOAD and n.src[0].src[0].op is Ops.PARAM and len(local - n.ranges) > 0
            and _tile(n, set()) is not None]


@dataclass(frozen=True)
class _Layout:
    """Where a tile's elements are: the last direction in ``order`` side by side."""

    dims: list[_Dim]
    order: list[int]
    runs: list[list[int]]   # directions that memory has one after the other, as the copying work-items see them
    blocks: list[int]       # how many places of each run one work-item copies at a time
    row: int                # elements from row to row, padding included
    unit: int               # elements of 16 bytes

    @property
    def size(self) -> int:
        return prod(d.size for d in self.dims) // self.dims[self.order[-1]].size * self.row

    def length(self, run: int) -> int:
        return prod(self.dims[i].size for i in self.runs[run])

    def place(self, at: Sequence[UOp]) -> UOp:
        """The index in the tile's memory of an element, by its place in each direction."""
        row = at[0].like(0)
        for i in self.order[:-1]:
            row = row * self.dims[i].size + at[i]
        return row * self.row + at[self.order[-1]]


def _layout(dims: list[_Dim], itemsize: int, items: int) -> _Layout | None:
    unit = _UNIT // itemsize
    last = len(dims) - 1
    wanted = [i for i, d in enumerate(dims) if d.wanted]
    inner = last if last in wanted or not wanted else max(wanted, key=lambda i: dims[i].size)
    # rows of neighbouring work-items next to one another
    order = sorted(range(len(dims)), key=lambda i: (i == inner, dims[i].mine))
    runs: list[list[int]] = []
    for i, d in enumerate(dims):
        if i and dims[i - 1].step == d.step * d.size and i != inner and i - 1 != inner:
            runs[-1].append(i)
        else:
            runs.append([i])
    lengths = [prod(dims[i].size for i in run) for run in runs]
    blocks = [1] * len(runs)
    if dims[last].step == 1:
        blocks[-1] = next(v for v in (unit, unit // 2, unit // 4, 1) if v and lengths[-1] % v == 0)
    if inner != last:       # transposed: neighbours for the readers, of which one store makes a dword
        k = next(n for n, run in enumerate(runs) if inner in run)
        blocks[k] = max(1, 4 // itemsize)
        if lengths[k] % blocks[k]:
            return None
    chunks = prod(n // b for n, b in zip(lengths, blocks, strict=True))
    while chunks % items and items % chunks and blocks[-1] > 1:
        blocks[-1] //= 2
        chunks *= 2
    if chunks % items and items % chunks:
        return None
    length = dims[inner].size
    pad = unit if length % unit == 0 and length // unit % 2 == 0 else 0
    return _Layout(dims, order, runs, blocks, length + pad, unit)


def share_reduction(sink: UOp, axis: int, n: int) -> UOp | None:
    """A reduction by the ``n`` work-items of a workgroup: each takes every n-th iteration of range ``axis``, and when
    all have stored their parts, each adds them up. None where there is another reduction, or ``n`` does not divide."""
    reduces = [x for x in sink.toposort() if x.op is Ops.REDUCE]
    if len(reduces) != 1 or any(x.op is Ops.RANGE and x.arg[1] in (Axis.LOCAL, Axis.UNROLL) for x in sink.toposort()):
        return None
    (reduce,) = reduces
    r = next((r for r in reduce.src[1:] if r.arg == (axis, Axis.REDUCE)), None)
    if r is None or n < 2 or not divides(n, r) or reduce.dtype.kind == "b":
        return None
    number = new_ranges(sink)
    length = r.src[0].arg
    item = UOp(Ops.RANGE, r.dtype, (r.like(n),), (next(number), Axis.LOCAL))
    turns = UOp(Ops.RANGE, r.dtype, (r.like(length // n),), r.arg) if length > n else r.like(0)
    ranges = tuple(turns if x is r else x for x in reduce.src[1:] if x is not r or length > n)
    part = reduce.src[0].substitute({r: turns * n + item})
    if ranges:
        part = reduce.replace((part, *ranges))
    memory = UOp(Ops.SHARED, reduce.dtype, (), (0, n))
    store = UOp(Ops.STORE, reduce.dtype, (UOp(Ops.INDEX, reduce.dtype, (memory, item)), part))
    done = UOp(Ops.AFTER, reduce.dtype, (memory, UOp(Ops.BARRIER, r.dtype, (store,), 0)), 0)
    other = UOp(Ops.RANGE, r.dtype, (r.like(n),), (next(number), Axis.REDUCE))
    value = UOp(Ops.LOAD, reduce.dtype, (UOp(Ops.INDEX, reduce.dtype, (done, other)),))
    return sink.substitute({reduce: UOp(Ops.REDUCE, reduce.dtype, (value, other), reduce.arg)})


def stage(sink: UOp, loads: Sequence[UOp], ahead: bool = False) -> UOp | None:
    """``loads`` by way of tiles in the workgroup's memory; None where that cannot be.

    :param ahead: two tiles in turns. While one is read, the next turn's elements are under way; they are stored at
        the turn's end, and one barrier a turn is enough.
    """
    order = sink.toposort()
    local = sorted((r for r in order if r.op is Ops.RANGE and r.arg[1] is Axis.LOCAL), key=lambda r: r.arg)
    loops = {frozenset(r for r in load.ranges if r.arg[1] is Axis.REDUCE) for load in loads}
    if not local or not loads or len(loops) != 1:
        return None
    loop = sorted(next(iter(loops)), key=lambda r: r.arg)
    reduces = [n for n in order if n.op is Ops.REDUCE]
    if ahead and (len(loop) != 1 or len(reduces) != 1 or loop[0] not in reduces[0].src[1:]):
        return None
    plan = _Plan(sink, loads, flat_of(local), prod(r.src[0].arg for r in local), 2 if ahead else 1)
    if any(layout is None for layout in plan.layouts) or plan.nbytes > _LIMIT:
        return None
    if not ahead:
        pointers = plan.memory
        if loop:        # not before all have read the last turn's
            enter = UOp(Ops.BARRIER, plan.item.dtype, (loop[-1],), 0)
            pointers = [UOp(Ops.AFTER, m.dtype, (m, enter), 0) for m in plan.memory]
        stores, ranges = plan.stores(pointers, {}, 0)
        return sink.substitute(plan.reads(UOp(Ops.BARRIER, plan.item.dtype, (*stores, *ranges), len(ranges)), None))
    turn = loop[0]
    # the last turn loads the first tile again, for nobody
    following = turn.lt(simplify(turn.src[0] + -1)).where(turn + 1, turn.like(0))
    first, opened = plan.stores(plan.memory, {turn: turn.like(0)}, 0)
    later, ranges = plan.stores(plan.memory, {turn: following}, (turn + 1) % 2)
    values = tuple(s.src[1] for s in later)
    # the next turn's loads start, then all meet: this turn's tile is stored, the other one is not read any more
    meet = UOp(Ops.BARRIER, plan.item.dtype, (turn, *first, *values, *opened, *ranges), len(opened) + len(ranges))
    later = [s.replace((s.src[0].replace((UOp(Ops.AFTER, s.dtype, (s.src[0].src[0], meet), 0), s.src[0].src[1])),
                        s.src[1])) for s in later]
    table = plan.reads(meet, turn % 2)
    (reduce,) = reduces
    value = reduce.src[0].substitute(table)
    value = UOp(Ops.AFTER, value.dtype, (value, *later, *ranges), len(ranges))
    return sink.substitute({reduce: reduce.replace((value, *reduce.src[1:]))})


class _Plan:
    """Tiles for loads: memory, layouts, and the code that fills and reads them."""

    def __init__(self, sink: UOp, loads: Sequence[UOp], item: UOp, items: int, copies: int) -> None:
        self.loads, self.item, self.items = loads, item, items
        self.number = new_ranges(sink)
        self.layouts: list[_Layout | None] = []
        self.memory: list[UOp] = []
        self.sizes: list[int] = []
        together = _together(sink)
        for n, load in enumerate(loads):
            dims = _tile(load, together[load])
            layout = None if dims is None else _layout(dims, load.dtype.itemsize, items)
            size = 0 if layout is None else -(-layout.size // layout.unit) * layout.unit
            self.layouts.append(layout)
            self.sizes.append(size)
            self.memory.append(UOp(Ops.SHARED, load.dtype, (), (n, size * copies)))
        self.nbytes = sum(m.arg[1] * m.dtype.itemsize for m in self.memory)

    def stores(self, pointers: Sequence[UOp], at: dict[UOp, UOp], which: UOp | int) -> tuple[list[UOp], list[UOp]]:
        """The stores that fill tile ``which``, with the loops ``at`` these places, and the UNROLL ranges open in
        them."""
        stores: list[UOp] = []
        ranges: list[UOp] = []
        for load, layout, size, pointer in zip(self.loads, self.layouts, self.sizes, pointers, strict=True):
            assert layout is not None
            source = load.substitute(at) if at else load
            offset = which * size if isinstance(which, UOp) else self.item.like(which * size)
            store, opened = _copy(source, layout, self.item, self.items, pointer, offset, self.number)
            stores.append(store)
            ranges += opened
        return stores, ranges

    def reads(self, barrier: UOp, which: UOp | None) -> dict[UOp, UOp]:
        table = {}
        for load, layout, size, memory in zip(self.loads, self.layouts, self.sizes, self.memory, strict=True):
            assert layout is not None
            place = layout.place([d.at for d in layout.dims])
            place = simplify(place if which is None else which * size + place)
            pointer = UOp(Ops.AFTER, load.dtype, (memory, barrier), 0)
            table[load] = UOp(Ops.LOAD, load.dtype, (UOp(Ops.INDEX, load.dtype, (pointer, place)),))
        return table


def _copy(load: UOp, layout: _Layout, item: UOp, items: int, memory: UOp, offset: UOp,
          number: Iterator[int]) -> tuple[UOp, list[UOp]]:
    """The store by which work-items fill a tile, and the UNROLL ranges that are open in it."""
    dims, blocks = layout.dims, layout.blocks
    chunks = prod(layout.length(n) // b for n, b in enumerate(blocks))

    def unroll(n: int) -> UOp:
        return UOp(Ops.RANGE, item.dtype, (item.like(n),), (next(number), Axis.UNROLL)) if n > 1 else item.like(0)

    turns = unroll(max(1, chunks // items))
    rest = turns * items + item if chunks >= items else item % chunks
    inside = [unroll(b) for b in blocks]
    at: dict[int, UOp] = {}
    for n, run in reversed(list(enumerate(layout.runs))):
        count = layout.length(n) // blocks[n]
        place = (rest % count if n else rest) * blocks[n] + inside[n]
        rest = rest // count
        for i in reversed(run):
            at[i] = place % dims[i].size if i != run[0] else place
            place = place // dims[i].size
    index = load.src[0].src[1]
    parts, constant = terms(index)
    base = build({x: k for x, k in parts.items() if not any(r.arg[1] in (Axis.LOCAL, Axis.UNROLL) for r in x.ranges)},
                 constant, index)
    for i, d in enumerate(dims):
        base = base + at[i].cast(index.dtype) * d.step
    value = UOp(Ops.LOAD, load.dtype, (UOp(Ops.INDEX, load.dtype, (load.src[0].src[0], simplify(base))),))
    opened = [turns, *inside]
    inner = layout.order[-1]
    side = next(inside[n] for n, run in enumerate(layout.runs) if inner in run)
    wide = inside[-1]
    if side is not wide and wide.op is Ops.RANGE:       # memory's neighbours in one load, and then apart again
        again = unroll(blocks[-1])
        value = UOp(Ops.ELEMENT, load.dtype, (UOp(Ops.VECTOR, load.dtype, (value, wide)), again))
        at = {i: x.substitute({wide: again}) for i, x in at.items()}
        opened[-1] = again
    if side.op is Ops.RANGE:
        value = UOp(Ops.VECTOR, load.dtype, (value, side))
        at = {i: x.substitute({side: side.like(0)}) for i, x in at.items()}
        opened.remove(side)
    place = simplify(offset + layout.place([at[i] for i in range(len(dims))]))
    store = UOp(Ops.STORE, load.dtype, (UOp(Ops.INDEX, load.dtype, (memory, place)), value))
    return store, [r for r in opened if r.op is Ops.RANGE]
