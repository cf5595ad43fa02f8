"""Tensors over several devices: ``x.shard(("AM", "AM:1"), axis=0)``.

A sharded tensor is a node MULTI of its parts: a part of an axis on each device, or (axis None) the whole on each. Its
device is the devices' names joined by ``+``. Operations and derivatives are built on it as on any tensor, in the
whole's shape; only when values are wanted does :func:`distributed` turn the graph into one of single devices:
elementwise work stays where it is, a reduction over the split axis becomes a reduction of each part and a ring
all-reduce, and what needs the whole gathers it. Where two parts meet, they travel by copies from device to device.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import NamedTuple

from compiler import dtypes, graph
from compiler.graph import alu
from compiler.runtime import canonical
from compiler.uop import ALU, Ops, UOp

__all__ = ["JOIN", "Parts", "all_reduce", "axis_of", "bounds_of", "devices_of", "distributed", "in_use",
           "is_sharded", "multi", "remember", "shard", "stored", "use"]

JOIN = "+"
_RING = 1 << 10     # elements below which every device adds up copies of all: fewer copies than a ring has steps

_known: weakref.WeakKeyDictionary[UOp, UOp] = weakref.WeakKeyDictionary()
_state = {"used": False}


class Parts(NamedTuple):
    """The parts of a value, one a device, and the axis that they split (None: all are the whole)."""

    nodes: tuple[UOp, ...]
    axis: int | None


def in_use() -> bool:
    """Has any tensor been sharded? Before, no graph needs to be looked through."""
    return _state["used"]


def use() -> None:
    """A tensor goes to several devices."""
    _state["used"] = True


def is_sharded(node: UOp) -> bool:
    return node.device is not None and JOIN in node.device


def devices_of(device: str) -> tuple[str, ...]:
    return tuple(device.split(JOIN))


def bounds_of(n: int, count: int) -> list[tuple[int, int]]:
    """What each of ``count`` devices has of an axis of ``n`` elements: equal parts, but for the last."""
    each = -(-n // count)
    return [(min(i * each, n), min((i + 1) * each, n)) for i in range(count)]


def multi(nodes: Sequence[UOp], axis: int | None, devices: Sequence[str]) -> UOp:
    use()
    return UOp(Ops.MULTI, nodes[0].dtype, tuple(nodes), (axis, tuple(devices)))


def shard(x: UOp, devices: Sequence[str], axis: int | None) -> UOp:
    """A node on one device (or none) as one on several. :raises ValueError: if there is not a part for each."""
    names = [canonical(d) for d in devices]
    if len(names) < 2:
        raise ValueError(f"shard: at least two devices are wanted, not {list(devices)}")
    if is_sharded(x):
        x = graph.copy(x, names[0])
    if axis is None:
        return multi([graph.copy(x, d) for d in names], None, names)
    cuts = bounds_of(x.shape[axis], len(names))
    if any(low == high for low, high in cuts):
        raise ValueError(f"shard: axis {axis} has {x.shape[axis]} elements, too few for {len(names)} devices")
    return multi([graph.copy(_slice(x, axis, cut), d) for d, cut in zip(names, cuts, strict=True)], axis, names)


def remember(node: UOp, stored: UOp) -> None:
    """``stored``, a MULTI of memory, holds the value of ``node``."""
    _known[node] = stored


def stored(node: UOp) -> UOp | None:
    """The MULTI of memory that holds a sharded node's value, if there is one."""
    found = _known.get(node, node)
    return found if found.op is Ops.MULTI and all(graph.is_stored(s) for s in found.src) else None


def axis_of(node: UOp) -> int | None:
    """The axis that a stored, sharded node is split along."""
    found = stored(node)
    assert found is not None
    return found.arg[0]     # type: ignore[no-any-return]


def distributed(roots: Sequence[UOp]) -> list[UOp | Parts]:
    """The roots without sharded nodes: those that are sharded as their parts."""
    done: dict[UOp, UOp | Parts] = {}
    for root in roots:
        for node in root.toposort(lambda n: n.realized is None and n not in done and n not in _known):
            if node not in done:
                done[node] = _one(node, done)
    return [done[r] for r in roots]


def _slice(x: UOp, axis: int, cut: tuple[int, int]) -> UOp:
    return graph.shrink(x, [cut if a == axis else (0, n) for a, n in enumerate(x.shape)])


def _one(node: UOp, done: dict[UOp, UOp | Parts]) -> UOp | Parts:
    if node.realized is not None or (not node.src and not is_sharded(node)):
        return node
    if (stored := _known.get(node)) is not None:
        return Parts(stored.src, stored.arg[0])
    if node.op is Ops.MULTI:
        return Parts(tuple(_single(done[s]) for s in node.src), node.arg[0])
    sources = [done[s] for s in node.src]
    if not is_sharded(node):
        if node.op is Ops.COPY and isinstance(sources[0], Parts):
            return _gathered(sources[0], node.arg)
        return node.replace(tuple(_single(s) for s in sources))
    assert node.device is not None
    devices = devices_of(node.device)
    if node.op is Ops.COPY:
        whole = sources[0] if isinstance(sources[0], UOp) else _gathered(sources[0], devices[0])
        return Parts(tuple(graph.copy(whole, d) for d in devices), None)
    parts = [s if isinstance(s, Parts) else Parts((s,) * len(devices), None) for s in sources]
    return _spread(node, parts, devices)


def _single(x: UOp | Parts) -> UOp:
    assert isinstance(x, UOp), "a sharded value where one device's is wanted"
    return x


def _spread(node: UOp, parts: list[Parts], devices: tuple[str, ...]) -> Parts:
    """One operation on parts."""
    op, arg, first = node.op, node.arg, parts[0]
    if op is Ops.DERIVED or op is Ops.DETACH:
        return first
    if op in ALU or op is Ops.ASSIGN:
        wanted = [p.axis for p in parts if p.axis is not None]
        axis = parts[0].axis if op is Ops.ASSIGN else wanted[0] if wanted else None
        aligned = [_aligned(p, axis, devices, s.shape) for p, s in zip(parts, node.src, strict=True)]
        each = zip(*(p.nodes for p in aligned), strict=True)
        return Parts(tuple(UOp(op, node.dtype, src, arg) for src in each), axis)
    if op is Ops.CONTIGUOUS:
        return Parts(tuple(UOp(op, node.dtype, (n,), arg) for n in first.nodes), first.axis)
    if op is Ops.REDUCE_AXIS:
        nodes = tuple(graph.reduce(n, *arg) for n in first.nodes)
        if first.axis not in arg[1]:
            return Parts(nodes, first.axis)
        return Parts(all_reduce(nodes, arg[0], devices), None)
    if op is Ops.SCATTER:
        return _scattered(node, parts, devices)
    axis = first.axis
    if axis is None:
        return Parts(tuple(n and node.replace((n,)) for n in first.nodes), None)
    if op is Ops.PERMUTE:
        return Parts(tuple(graph.permute(n, arg) for n in first.nodes), arg.index(axis))
    if op is Ops.EXPAND:
        return Parts(tuple(graph.expand(n, _with(arg, axis, n.shape[axis])) for n in first.nodes), axis)
    if op is Ops.RESHAPE and (to := _reshaped(first, node.src[0].shape, arg)) is not None:
        return to
    if op is Ops.FLIP and axis not in arg:
        return Parts(tuple(graph.flip(n, arg) for n in first.nodes), axis)
    if op is Ops.PAD and arg[axis] == (0, 0):
        return Parts(tuple(graph.pad(n, arg) for n in first.nodes), axis)
    if op is Ops.SHRINK and arg[axis] == (0, node.src[0].shape[axis]):
        return Parts(tuple(graph.shrink(n, [(0, n.shape[axis]) if a == axis else b for a, b in enumerate(arg)])
                           for n in first.nodes), axis)
    whole = _aligned(first, None, devices, node.src[0].shape)
    return Parts(tuple(node.replace((n,)) for n in whole.nodes), None)


def _scattered(node: UOp, parts: list[Parts], devices: tuple[str, ...]) -> Parts:
    """Values that are spread along the axis of the places go to a table on each device, and these are reduced."""
    (how, axis), shapes = node.arg, [s.shape for s in node.src]
    x, *incoming = parts
    spread = next((p.axis for p in incoming if p.axis is not None), None)
    if spread == axis:
        places, values = (_aligned(p, axis, devices, s) for p, s in zip(incoming, shapes[1:], strict=True))
        identity = graph.full(node.shape, node.dtype, {Ops.ADD: 0, Ops.MUL: 1, Ops.MAX: node.dtype.min}[how])
        tables = [graph.scatter(identity, how, axis, p, v) for p, v in zip(places.nodes, values.nodes, strict=True)]
        whole = _aligned(x, None, devices, node.shape)
        return Parts(tuple(alu(how, n, t) for n, t in zip(whole.nodes, all_reduce(tables, how, devices), strict=True)),
                     None)
    along = x.axis if x.axis != axis and x.axis is not None else spread
    aligned = [_aligned(p, along, devices, s) for p, s in zip(parts, shapes, strict=True)]
    return Parts(tuple(node.replace(src) for src in zip(*(p.nodes for p in aligned), strict=True)), along)


def _with(shape: tuple[int, ...], axis: int, n: int) -> tuple[int, ...]:
    return (*shape[:axis], n, *shape[axis + 1:])


def _reshaped(x: Parts, old: tuple[int, ...], new: tuple[int, ...]) -> Parts | None:
    """Where each part's elements stay together in the new shape, it is reshaped where it is."""
    assert x.axis is not None
    before, inner = math.prod(old[:x.axis]), math.prod(old[x.axis + 1:])
    for axis in range(len(new)):
        rest = math.prod(new[axis + 1:])
        if math.prod(new[:axis]) != before or rest == 0:
            continue
        sizes = [n.shape[x.axis] * inner for n in x.nodes]
        if all(s % rest == 0 and s for s in sizes):
            return Parts(tuple(graph.reshape(n, _with(new, axis, s // rest))
                               for n, s in zip(x.nodes, sizes, strict=True)), axis)
    return None


def _aligned(x: Parts, axis: int | None, devices: tuple[str, ...], shape: tuple[int, ...]) -> Parts:
    """The same value split along ``axis``."""
    if x.axis == axis:
        return x
    if x.axis is not None:      # every device gets the whole first
        x = Parts(tuple(_gathered(x, d) for d in devices), None)
    if axis is None:
        return x
    cuts = bounds_of(shape[axis], len(devices))
    return Parts(tuple(_slice(n, axis, cut) for n, cut in zip(x.nodes, cuts, strict=True)), axis)


def _gathered(x: Parts, device: str) -> UOp:
    """The whole on one device."""
    if x.axis is None:
        return graph.copy(next((n for n in x.nodes if n.device == device), x.nodes[0]), device)
    return _joined([graph.copy(_stored(n), device) if n.device != device else n for n in x.nodes], x.axis)


def _stored(x: UOp) -> UOp:
    """In memory of its own, as copies want it."""
    return x if x.op in (Ops.BUFFER, Ops.CONTIGUOUS, Ops.COPY) else UOp(Ops.CONTIGUOUS, x.dtype, (x,))


def _joined(nodes: Sequence[UOp], axis: int) -> UOp:
    total = sum(n.shape[axis] for n in nodes)
    at, out = 0, None
    for n in nodes:
        size = n.shape[axis]
        piece = graph.pad(n, [(at, total - at - size) if a == axis else (0, 0) for a in range(len(n.shape))])
        if out is None:
            out = piece
        else:
            places = graph.reshape(graph.iota(total), tuple(total if a == axis else 1 for a in range(len(n.shape))))
            early = alu(Ops.CMPLT, graph.expand(places, piece.shape), graph.full(piece.shape, dtypes.int32, at))
            out = alu(Ops.WHERE, early, out, piece)
        at += size
    assert out is not None
    return out


def all_reduce(nodes: Sequence[UOp], op: Ops, devices: Sequence[str]) -> tuple[UOp, ...]:
    """Every device gets the reduction of all parts, bit for bit the same.

    As a ring (Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms", 2009): each of as many chunks as there
    are devices goes round, taking up each device's share, and once more as the result.
    """
    count, shape = len(nodes), nodes[0].shape
    size = math.prod(shape)
    if size < _RING:
        return tuple(_all(nodes, op, d) for d in devices)
    flat = [graph.reshape(_stored(n), (size,)) for n in nodes]
    cuts = [c for c in bounds_of(size, count) if c[0] < c[1]]
    chunks: list[list[UOp]] = [[] for _ in devices]
    for c, cut in enumerate(cuts):
        at = (c + 1) % count
        total = _slice(flat[at], 0, cut)
        for step in range(2, count + 1):
            at = (c + step) % count
            total = alu(op, _slice(flat[at], 0, cut), graph.copy(_stored(total), devices[at]))
        total = _stored(total)
        chunks[at].append(total)
        for step in range(1, count):
            total = graph.copy(total, devices[(at + step) % count])
            chunks[(at + step) % count].append(total)
    return tuple(graph.reshape(_joined(mine, 0), shape) for mine in chunks)


def _all(nodes: Sequence[UOp], op: Ops, device: str) -> UOp:
    total = graph.copy(_stored(nodes[0]), device)
    for n in nodes[1:]:
        total = alu(op, total, graph.copy(_stored(n), device))
    return total
