"""From a piece of tensor graph to one kernel: every node becomes a scalar expression at an index.

The outputs get a range per axis; from there the index is carried down to the leaves. A movement operation is a
function on indices and nothing else; a reduction opens ranges of its own and closes them again. What is left is a
SINK of stores over a graph of scalars, in which nothing says in what order things happen: only data decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum, auto
from typing import Any

from compiler import dtypes
from compiler.dtypes import DType
from compiler.symbolic import simplify
from compiler.uop import ALU, Ops, UOp
from compiler.variable import most, of_type

__all__ = ["Axis", "Output", "divides", "flat_index", "length", "lower", "lower_scatter", "squeezed", "unflatten"]

Index = tuple[UOp, ...]
Known = dict[UOp, UOp] | None


class Axis(IntEnum):
    """What a range is for; part of the RANGE's arg."""

    GLOBAL = auto()     # independent iterations: threads of a CPU; work-items of a GPU, or workgroups if some are LOCAL
    REDUCE = auto()     # a loop that accumulates
    LOCAL = auto()      # the work-items of a workgroup
    SERIAL = auto()     # a loop in order, for what its iterations write
    UNROLL = auto()     # copies side by side: gone once :mod:`compiler.expand` has made them

    def __repr__(self) -> str:
        return self.name


def length(r: UOp) -> int:
    """Iterations of a range; the most there may be, where their number is given with the launch."""
    return r.src[0].vmax


def divides(n: int, r: UOp) -> bool:
    """Can a range be taken apart by ``n``?"""
    return r.src[0].op is Ops.CONST and r.src[0].arg % n == 0


@dataclass(frozen=True)
class Output:
    """One value that a kernel stores: the tensor node, and the parameter it goes to."""

    node: UOp
    param: int


def squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape without axes of size 1."""
    return tuple(n for n in shape if n != 1)


def flat_index(index: Index, shape: Sequence[int], dtype: DType, known: Known = None) -> UOp:
    """Row-major position of ``index`` in an array of ``shape``."""
    total = UOp.const(dtype, 0)
    stride = 1
    for i, n in zip(reversed(index), reversed(shape), strict=True):
        if n != 1:
            total = total + i * of_type(stride, dtype)
        stride *= n
    return simplify(total, known)


def unflatten(flat: UOp, shape: Sequence[int], known: Known = None) -> Index:
    """The index in an array of ``shape`` at a row-major position: the inverse of :func:`flat_index`."""
    out = []
    stride = 1
    for axis, n in reversed(list(enumerate(shape))):
        if n == 1:
            out.append(flat.like(0))
        else:
            quotient = flat // of_type(stride, flat.dtype) if stride != 1 else flat
            inner = axis != 0 and any(m != 1 for m in shape[:axis])
            out.append(simplify(quotient % of_type(n, flat.dtype) if inner else quotient, known))
        stride *= n
    return tuple(reversed(out))


def _move(node: UOp, index: Index, known: Known) -> tuple[Index, UOp | None]:
    """The source's index for a movement node's index, and for PAD where it is inside."""
    op, arg, source = node.op, node.arg, node.src[0]
    if op is Ops.RESHAPE:
        a, b = [n for n in node.shape if n != 1], [n for n in source.shape if n != 1]
        if a == b:      # only axes of size 1 come and go
            kept = iter(i for i, n in zip(index, node.shape, strict=True) if n != 1)
            zero = UOp.const(index[0].dtype if index else dtypes.int32, 0)
            return tuple(next(kept) if n != 1 else zero for n in source.shape), None
        return unflatten(flat_index(index, node.shape, index[0].dtype, known), source.shape, known), None
    if op is Ops.PERMUTE:
        return tuple(index[arg.index(axis)] for axis in range(len(arg))), None
    if op is Ops.EXPAND:
        return tuple(i.like(0) if n == 1 else i for i, n in zip(index, source.shape, strict=True)), None
    if op is Ops.SHRINK:
        return tuple(simplify(i + of_type(start, i.dtype), known)
                     for i, (start, _) in zip(index, arg, strict=True)), None
    if op is Ops.FLIP:
        return tuple(simplify(i * -1 + of_type(n - 1, i.dtype), known) if axis in arg else i
                     for axis, (i, n) in enumerate(zip(index, source.shape, strict=True))), None
    if op is Ops.WINDOW:
        axis, _, step, dilation = arg
        moved = list(index[:-1])
        moved[axis] = simplify(moved[axis] * step + index[-1] * dilation, known)
        return tuple(moved), None
    assert op is Ops.PAD, op
    valid = UOp.const(dtypes.bool_, True)
    moved = []
    for i, n, (before, after) in zip(index, source.shape, arg, strict=True):
        if before != 0:
            valid = valid & of_type(before - 1, i.dtype).lt(i)
        if after != 0:
            valid = valid & i.lt(of_type(before + n, i.dtype))
        moved.append(simplify(i - of_type(before, i.dtype), known))
    return tuple(moved), simplify(valid, known)


Task = tuple[UOp, Index, UOp | None]


class _Lowering:
    def __init__(self, leaves: dict[UOp, int], index_type: DType) -> None:
        self.leaves, self.index_type = leaves, index_type
        self.values: dict[Task, UOp] = {}
        self.moves: dict[tuple[UOp, Index], tuple[Index, UOp | None]] = {}
        self.count = 0
        self.known: dict[UOp, UOp] = {}     # what simplified to what, for the whole kernel

    def range(self, n: int, axis: Axis) -> UOp:
        if n == 1:
            return UOp.const(self.index_type, 0)
        self.count += 1
        return UOp(Ops.RANGE, self.index_type, (of_type(n, self.index_type),), (self.count - 1, axis))

    def plan(self, task: Task) -> tuple[list[Task], Callable[..., UOp]]:
        """The tasks that ``task`` stands on, and how its value comes from theirs."""
        node, index, valid = task
        if (param := self.leaves.get(node)) is not None:
            address = UOp(Ops.INDEX, node.dtype, (UOp(Ops.PARAM, node.dtype, (), param),
                                                  flat_index(index, node.shape, self.index_type, self.known)))
            return [], lambda: UOp(Ops.LOAD, node.dtype, (address,) if valid is None else (address, valid))
        if node.op is Ops.CONST:
            return [], lambda: node
        if node.op is Ops.SIZE:
            return [], lambda: of_type(node.arg, self.index_type).cast(node.dtype)
        if node.op is Ops.IOTA:
            return [], lambda: index[0].cast(node.dtype)
        if node.op in (Ops.DETACH, Ops.CONTIGUOUS, Ops.COPY):
            return [(node.src[0], index, valid)], lambda x: x
        if node.op is Ops.ASSIGN:
            return [(node.src[1], index, valid)], lambda x: x
        if node.op in ALU:
            return [(s, index, valid) for s in node.src], lambda *src: UOp(node.op, node.dtype, src, node.arg)
        if node.op is Ops.REDUCE_AXIS:
            op, axes = node.arg
            ranges = {a: self.range(node.src[0].shape[a], Axis.REDUCE) for a in axes}
            inner = tuple(ranges.get(a, i) for a, i in enumerate(index))
            closed = tuple(r for r in ranges.values() if r.op is Ops.RANGE)
            return [(node.src[0], inner, valid)], \
                lambda x: UOp(Ops.REDUCE, node.dtype, (x, *closed), op) if closed else x
        if node.op is Ops.FOLD:
            return self.fold(node, index, valid)
        if (node, index) not in self.moves:
            self.moves[node, index] = _move(node, index, self.known)
        moved, inside = self.moves[node, index]
        if inside is None:
            return [(node.src[0], moved, valid)], lambda x: x
        both = inside if valid is None else simplify(valid & inside, self.known)
        return [(node.src[0], moved, both)], lambda x: inside.where(x, 0)

    def fold(self, node: UOp, index: Index, valid: UOp | None) -> tuple[list[Task], Callable[..., UOp]]:
        """The sum over the places ``k`` in windows, of the window that has element ``index`` at ``k``, if there is one.

        A sum below it (the channels of a convolution's derivative) goes over all these ranges at once.
        """
        axis, _, step, dilation = node.arg
        *shape, size = node.src[0].shape
        k = self.range(size, Axis.REDUCE)
        start = simplify(index[axis] - k * dilation, self.known)
        inside = start.like(-1).lt(start) & start.lt(of_type(shape[axis] * step, start.dtype))
        if step > 1:
            inside = inside & (start % step).eq(0)
        inside = simplify(inside, self.known)
        moved = (*index[:axis], simplify(start // step, self.known), *index[axis + 1:], k)
        closed = (k,) if k.op is Ops.RANGE else ()

        def total(x: UOp) -> UOp:
            more: tuple[UOp, ...] = ()
            if x.op is Ops.REDUCE and x.arg is Ops.ADD:
                x, more = x.src[0], x.src[1:]
            value = inside.where(x, 0)
            return UOp(Ops.REDUCE, node.dtype, (value, *closed, *more), Ops.ADD) if closed or more else value
        both = inside if valid is None else simplify(valid & inside, self.known)
        return [(node.src[0], moved, both)], total

    def value(self, node: UOp, index: Index) -> UOp:
        """The scalar at ``index``; by an explicit stack, for chains may be long."""
        start: Task = (node, index, None)
        stack: list[tuple[Task, Any]] = [(start, None)]
        while stack:
            task, plan = stack.pop()
            if task in self.values:
                continue
            if plan is None:
                plan = self.plan(task)
                stack.append((task, plan))
                stack.extend((t, None) for t in plan[0] if t not in self.values)
            else:
                made = self.values[task] = plan[1](*(self.values[t] for t in plan[0]))
                if made.place is None and made.src:
                    made.place = task[0].place
        return self.values[start]


def lower(outputs: Sequence[Output], leaves: dict[UOp, int]) -> UOp:
    """The SINK of one kernel.

    :param outputs: tensor nodes of equal shape, but for axes of size 1.
    :param leaves: tensor nodes that are in memory already, and their parameter numbers.
    """
    shape = outputs[0].node.shape
    big = max((most(n.size) for o in outputs for n in o.node.toposort(lambda n: n not in leaves)), default=0)
    lowering = _Lowering(leaves, dtypes.int32 if big < 1 << 31 else dtypes.int64)
    ranges = [lowering.range(n, Axis.GLOBAL) for n in squeezed(shape)]
    zero = UOp.const(lowering.index_type, 0)
    stores = []
    for output in outputs:
        node = output.node
        assert squeezed(node.shape) == squeezed(shape)
        axes = iter(ranges)
        index = tuple(next(axes) if n != 1 else zero for n in node.shape)
        kept = leaves.pop(node, None)           # an output that is computed here is no leaf here
        value = lowering.value(node, index)
        if kept is not None:
            leaves[node] = kept
        address = UOp(Ops.INDEX, node.dtype, (UOp(Ops.PARAM, node.dtype, (), output.param),
                                              flat_index(index, node.shape, lowering.index_type, lowering.known)))
        stores.append(UOp(Ops.STORE, node.dtype, (address, value)))
    return _order_overwrites(simplify(UOp(Ops.SINK, dtypes.bool_, tuple(stores)), lowering.known))


def lower_scatter(node: UOp, param: int, leaves: dict[UOp, int], atomic: bool) -> UOp:
    """The SINK of the kernel that brings a SCATTER's values to their places in parameter ``param``, where what they
    are added to lies already.

    :param atomic: iterations run in any order, and at once, as the device's memory adds up; otherwise those along the
        scattered axis run one after the other, so that a place takes its values in their order.
    """
    op, axis = node.arg
    _, places, values = node.src
    big = max(most(n.size) for s in (node, places, values) for n in s.toposort(lambda n: n not in leaves))
    lowering = _Lowering(leaves, dtypes.int32 if big < 1 << 31 else dtypes.int64)
    index = [lowering.range(n, Axis.GLOBAL) if a != axis or atomic else of_type(0, lowering.index_type)
             for a, n in enumerate(values.shape)]
    if not atomic:
        index[axis] = lowering.range(values.shape[axis], Axis.SERIAL)
    place = lowering.value(places, tuple(index))
    gate = place.lt(of_type(node.shape[axis], place.dtype))
    if place.dtype.kind == "i":
        gate = place.like(-1).lt(place) & gate
    value = lowering.value(values, tuple(index))
    index[axis] = place.cast(lowering.index_type)
    address = UOp(Ops.INDEX, node.dtype, (UOp(Ops.PARAM, node.dtype, (), param),
                                          flat_index(tuple(index), node.shape, lowering.index_type, lowering.known)))
    update = UOp(Ops.UPDATE, node.dtype, (address, value, gate), (op, atomic))
    return simplify(UOp(Ops.SINK, dtypes.bool_, (update,)), lowering.known)


def _order_overwrites(sink: UOp) -> UOp:
    """A store to a parameter that is loaded too needs those loads done: say so by making them its sources."""
    stored = {s.src[0].src[0] for s in sink.src}
    loads = [n for n in sink.toposort() if n.op is Ops.LOAD and n.src[0].src[0] in stored]
    if not loads or len(sink.src) == 1:
        return sink
    return sink.replace(tuple(s.replace((*s.src[:2], *(n for n in loads if n.src[0].src[0] is s.src[0].src[0])))
                              for s in sink.src))
