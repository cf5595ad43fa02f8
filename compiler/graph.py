"""Building tensor nodes: the movement and reduction operations as functions on UOps, with the trivial cases gone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from compiler import dtypes
from compiler.dtypes import DType
from compiler.uop import COMPARE, Ops, UOp
from compiler.variable import Size

__all__ = ["alu", "cast", "copy", "expand", "flip", "fold", "full", "gather", "iota", "is_stored",
           "leaf_of", "pad", "permute", "reduce", "reshape", "scalar", "scatter", "shrink", "window"]

Shape = tuple[int, ...]


def reshape(x: UOp, shape: Shape) -> UOp:
    while x.op is Ops.RESHAPE and x.realized is None:
        x = x.src[0]
    if x.shape == shape:
        return x
    if (total := math.prod(shape)) != x.size:
        leaf = x if x.realized is None else x.realized
        if isinstance(total, Size) and leaf.op is Ops.BUFFER and total.value == x.size:
            # as many elements as it has now: from here on its length has a name
            named = UOp(Ops.BUFFER, x.dtype, (), (*leaf.arg[:2], total), leaf.device)
            return named if named.shape == shape else UOp(Ops.RESHAPE, x.dtype, (named,), shape)
        raise ValueError(f"cannot reshape {x.shape} ({x.size} elements) to {shape} ({math.prod(shape)})")
    return UOp(Ops.RESHAPE, x.dtype, (x,), shape)


def expand(x: UOp, shape: Shape) -> UOp:
    if x.shape == shape:
        return x
    if len(shape) > len(x.shape):
        x = reshape(x, (1,) * (len(shape) - len(x.shape)) + x.shape)
    if len(shape) != len(x.shape) or any(a not in (1, b) for a, b in zip(x.shape, shape, strict=True)):
        raise ValueError(f"cannot expand {x.shape} to {shape}: only axes of size 1 grow")
    if x.op is Ops.EXPAND and x.realized is None:
        x = x.src[0]
    return x if x.shape == shape else UOp(Ops.EXPAND, x.dtype, (x,), shape)


def permute(x: UOp, axes: Sequence[int]) -> UOp:
    axes = tuple(axes)
    if x.op is Ops.PERMUTE and x.realized is None:
        x, axes = x.src[0], tuple(x.arg[a] for a in axes)
    return x if axes == tuple(range(len(axes))) else UOp(Ops.PERMUTE, x.dtype, (x,), axes)


def pad(x: UOp, amounts: Sequence[tuple[int, int]]) -> UOp:
    amounts = tuple(amounts)
    return x if all(b == e == 0 for b, e in amounts) else UOp(Ops.PAD, x.dtype, (x,), amounts)


def shrink(x: UOp, bounds: Sequence[tuple[int, int]]) -> UOp:
    bounds = tuple(bounds)
    return x if bounds == tuple((0, n) for n in x.shape) else UOp(Ops.SHRINK, x.dtype, (x,), bounds)


def flip(x: UOp, axes: Sequence[int]) -> UOp:
    axes = tuple(sorted(axes))
    return UOp(Ops.FLIP, x.dtype, (x,), axes) if axes else x


def window(x: UOp, axis: int, size: int, step: int = 1, dilation: int = 1) -> UOp:
    """Windows of ``size`` elements, ``dilation`` apart, that begin every ``step`` elements of ``axis``: their number
    takes the axis's place, and their elements are a new last axis."""
    n = x.shape[axis]
    reach = (size - 1) * dilation + 1
    if size < 1 or step < 1 or dilation < 1 or n < reach:
        raise ValueError(f"windows of {size} elements, {dilation} apart, every {step}, along an axis of {n}: all must "
                         "be positive, and one window must fit")
    count = (n - reach) // step + 1
    if (step == size and dilation == 1) or size == 1:      # side by side: no element is in two
        kept = [(0, m) for m in x.shape]
        kept[axis] = (0, min(count * step, n))
        x = shrink(x, kept)
        if size == 1 and step > 1 and x.shape[axis] < count * step:
            x = pad(x, [(0, count * step - m if a == axis else 0) for a, m in enumerate(x.shape)])
        x = reshape(x, (*x.shape[:axis], count, step, *x.shape[axis + 1:]))
        if size == 1 and step > 1:
            x = shrink(x, [(0, 1) if a == axis + 1 else (0, m) for a, m in enumerate(x.shape)])
        return permute(x, [*(a for a in range(len(x.shape)) if a != axis + 1), axis + 1])
    return UOp(Ops.WINDOW, x.dtype, (x,), (axis, size, step, dilation))


def fold(x: UOp, axis: int, n: int, step: int = 1, dilation: int = 1) -> UOp:
    """The adjoint of :func:`window` on an axis of ``n`` elements: each becomes the sum of what is in its places."""
    return UOp(Ops.FOLD, x.dtype, (x,), (axis, n, step, dilation))


def reduce(x: UOp, op: Ops, axes: Sequence[int]) -> UOp:
    """Reduce ``axes``, which stay with size 1. An axis of no elements gives the operation's identity."""
    axes = tuple(sorted(set(axes)))
    if any(x.shape[a] == 0 for a in axes):
        shape = tuple(1 if a in axes else n for a, n in enumerate(x.shape))
        return full(shape, x.dtype, {Ops.ADD: 0, Ops.MUL: 1, Ops.MAX: x.dtype.min}[op])
    axes = tuple(a for a in axes if x.shape[a] != 1)
    return UOp(Ops.REDUCE_AXIS, x.dtype, (x,), (op, axes)) if axes else x


def scalar(dtype: DType, value: Any) -> UOp:
    return UOp(Ops.CONST, dtype, (), value)


def gather(x: UOp, axis: int, index: UOp) -> UOp:
    """Of ``x`` along ``axis`` the elements that ``index`` (of the same other sizes) names; 0 where it is out of range.

    It is written as a sum over a one-hot vector, which lowering folds to a load. Its derivative is a :func:`scatter`.
    """
    n, count = x.shape[axis], index.shape[axis]
    wide = (*index.shape, n)
    numbers = expand(iota(n, index.dtype), wide)
    hit = alu(Ops.CMPEQ, expand(reshape(index, (*index.shape, 1)), wide), numbers)
    last = permute(x, [*(a for a in range(len(x.shape)) if a != axis), axis])
    last = expand(reshape(last, (*x.shape[:axis], 1, *last.shape[axis:])), (*x.shape[:axis], count, *last.shape[axis:]))
    picked = reduce(alu(Ops.WHERE, hit, last, full(wide, x.dtype, 0)), Ops.ADD, [len(x.shape)])
    return UOp(Ops.DERIVED, x.dtype, (reshape(picked, index.shape), x, index), ("gather", axis))


def scatter(x: UOp, op: Ops, axis: int, places: UOp, values: UOp) -> UOp:
    """``x`` where every value is added (MUL: multiplied, MAX: the greater stays) at its place along ``axis``, in
    the values' order; those out of range are dropped. Places and values have one shape: but for ``axis`` that of x."""
    if x.dtype.is_float and x.dtype.bits < 32:      # rounded once, in the end
        wide = (cast(t, dtypes.float32) for t in (x, values))
        return cast(scatter(next(wide), op, axis, places, next(wide)), x.dtype)
    return UOp(Ops.SCATTER, x.dtype, (x, places, values), (op, axis))


def full(shape: Shape, dtype: DType, value: Any) -> UOp:
    return expand(scalar(dtype, value), shape)


def iota(n: int, dtype: DType = dtypes.int32) -> UOp:
    return UOp(Ops.IOTA, dtype, (), n)


def alu(op: Ops, *src: UOp) -> UOp:
    """Elementwise; shapes and types must agree already."""
    dtype = dtypes.bool_ if op in COMPARE else src[-1].dtype
    return UOp(op, dtype, src)


def cast(x: UOp, dtype: DType) -> UOp:
    return x if x.dtype is dtype else UOp(Ops.CAST, dtype, (x,))


def copy(x: UOp, device: str) -> UOp:
    return x if x.device in (device, None) else UOp(Ops.COPY, x.dtype, (x,), device)


def leaf_of(x: UOp) -> UOp | None:
    """A leaf (perhaps reshaped) for memory that holds the value of ``x`` now; None if there is none."""
    node = x
    while node.realized is None and node.op is Ops.RESHAPE:
        node = node.src[0]
    if node.realized is not None:
        return reshape(node.realized, x.shape)
    return reshape(node, x.shape) if node.op is Ops.BUFFER else None


def is_stored(x: UOp) -> bool:
    return leaf_of(x) is not None
