"""Derivatives of windows without conditions, for kernels on a CPU.

FOLD adds up windows, and so asks at every element which of them have it: loads under a condition, which make no
vectors. Here the zeros that lie beyond the windows, and between those that begin several elements apart, are written
around what the windows are made of, down to where that is small: for a convolution's derivative that is the incoming
gradient, before it is multiplied with the weights. Then every element has all its windows. A weight that is
infinite or NaN meets those zeros too, as it does in a forward pass with padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from compiler import graph
from compiler.uop import Ops, UOp

__all__ = ["spread_folds"]


class _Spread(NamedTuple):
    """An axis as it is to be: of ``length``, with element ``i`` at ``before + i * step``, and zeros elsewhere."""

    step: int
    before: int
    length: int


_Axes = dict[int, _Spread]


def spread_folds(roots: Sequence[UOp]) -> list[UOp]:
    """The graphs with FOLDs of products as sums over windows that are all there."""
    return UOp.rebuilt(roots, lambda node, new: _without_conditions(new) if node.op is Ops.FOLD else new)


def _without_conditions(node: UOp) -> UOp:
    axis, n, step, dilation = node.arg
    source = node.src[0]
    if not all(isinstance(m, int) for m in (*source.shape, n)):
        return node
    before = (source.shape[-1] - 1) * dilation
    moved = _spread(source, {axis: _Spread(step, before, before + n)}, False)
    if moved is None:
        return node
    whole = graph.fold(moved, axis, before + n, 1, dilation)
    made = graph.shrink(whole, [(before, before + n) if a == axis else (0, m) for a, m in enumerate(whole.shape)])
    for new in (whole, made):
        new.place = new.place or node.place
    return made


def _longer(shape: Sequence[int], axes: _Axes) -> tuple[int, ...]:
    return tuple(axes[a].length if a in axes else m for a, m in enumerate(shape))


def _spread(node: UOp, axes: _Axes, factor: bool) -> UOp | None:
    """``node`` with its ``axes`` spread; None unless that comes down to one factor of a product.

    :param factor: are we below the product?
    """
    op, arg, source = node.op, node.arg, node.src[0] if node.src else node
    inner: _Axes | None = axes
    if op is Ops.RESHAPE:
        inner = _before_reshape(source.shape, node.shape, axes)
    elif op is Ops.PERMUTE:
        inner = {arg[a]: s for a, s in axes.items()}
    elif op is Ops.EXPAND:
        inner = axes if all(source.shape[a] == node.shape[a] for a in axes) else None
    elif not factor and op is Ops.SHRINK:
        inner = axes if all(arg[a] == (0, source.shape[a]) for a in axes) else None
    elif not factor and op is Ops.FOLD:
        inner = axes if arg[0] not in axes else None
    elif not factor and op is Ops.REDUCE_AXIS:
        inner = axes if arg[0] is Ops.ADD and not set(arg[1]) & set(axes) else None
    elif not factor and op is Ops.MUL:
        return _spread_product(node, axes)
    elif op is not Ops.CAST:
        inner = None
    moved = _spread(source, inner, factor) if inner is not None else None
    if moved is None:
        return _written(node, axes) if factor else None
    shape = _longer(node.shape, axes)
    if op in (Ops.RESHAPE, Ops.EXPAND):
        arg = shape
    elif op is Ops.SHRINK:
        arg = tuple((0, shape[a]) if a in axes else bounds for a, bounds in enumerate(arg))
    return UOp(op, node.dtype, (moved,), arg)


def _spread_product(node: UOp, axes: _Axes) -> UOp | None:
    """One factor is spread, if the other one does not change along the axes."""
    shape = _longer(node.shape, axes)
    for one, other in (node.src, node.src[::-1]):
        if other.op is Ops.EXPAND and all(other.src[0].shape[a] == 1 for a in axes):
            moved = _spread(one, axes, True)
            assert moved is not None
            wide = graph.expand(other.src[0], shape)
            return UOp(Ops.MUL, node.dtype, (moved, wide) if one is node.src[0] else (wide, moved))
    return None


def _before_reshape(old: Sequence[int], new: Sequence[int], axes: _Axes) -> _Axes | None:
    """The same axes before a reshape, if it leaves them whole."""
    found = {}
    for a, s in axes.items():
        if new[a] == 1:
            return None
        same = [b for b, m in enumerate(old) if m == new[a] and prod(old[:b]) == prod(new[:a])]
        if not same:
            return None
        found[same[0]] = s
    return found


def _written(node: UOp, axes: _Axes) -> UOp:
    """The zeros themselves."""
    for a, (step, before, length) in axes.items():
        shape = node.shape
        if step > 1:
            node = graph.reshape(node, (*shape[:a + 1], 1, *shape[a + 1:]))
            node = graph.pad(node, [(0, step - 1 if b == a + 1 else 0) for b in range(len(node.shape))])
            node = graph.reshape(node, (*shape[:a], shape[a] * step, *shape[a + 1:]))
        n = min(node.shape[a], length - before)
        node = graph.shrink(node, [(0, n if b == a else m) for b, m in enumerate(node.shape)])
        node = graph.pad(node, [(before, length - before - n) if b == a else (0, 0) for b in range(len(node.shape))])
    return node
