"""Shapes and places: nothing here computes or copies anything; indices change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler import graph
from compiler.dtypes import DType
from compiler.methods.base import Methods
from compiler.methods.names import numpy_names
from compiler.variable import Size
from compiler.views import through

if TYPE_CHECKING:
    from compiler.tensor import Tensor

__all__ = ["Movement"]


def _ints(args: tuple[Any, ...]) -> tuple[int, ...]:
    if len(args) == 1 and isinstance(args[0], Sequence):
        args = tuple(args[0])
    return tuple(a if isinstance(a, Size) else int(a) for a in args)      # type: ignore[misc]


class Movement(Methods):
    """Mixin; see :class:`compiler.tensor.Tensor`."""

    __slots__ = ()

    def reshape(self, *shape: Any) -> Tensor:
        """Another shape of the same number of elements; one size may be -1."""
        if any(s is None for s in (shape[0] if len(shape) == 1 and isinstance(shape[0], Sequence) else shape)):
            given = shape[0] if len(shape) == 1 and isinstance(shape[0], Sequence) else shape
            shape = tuple(self.shape[a] if s is None else s for a, s in enumerate(given))       # None: as it is
        sizes = _ints(shape)
        if sizes.count(-1) > 1 or any(s < -1 for s in sizes):
            raise ValueError(f"reshape to {sizes}: one size may be -1, none may be less")
        if -1 in sizes:
            rest = math.prod(s for s in sizes if s != -1)
            if rest == 0 or self.numel() % rest:
                raise ValueError(f"cannot reshape {self.shape} to {sizes}: {self.numel()} is no multiple of {rest}")
            sizes = tuple(self.numel() // rest if s == -1 else s for s in sizes)
        return self._viewed(graph.reshape(self._node, sizes), ("reshape", sizes))

    def view(self, *shape: Any) -> Tensor:
        """:meth:`reshape`; with an element type, :meth:`bitcast`."""
        if len(shape) == 1 and isinstance(shape[0], DType):
            return self.bitcast(shape[0])  # type: ignore[no-any-return]
        return self.reshape(*shape)

    def reshape_as(self, other: Any) -> Tensor:
        """Reshaped to the other's shape; see :meth:`reshape`."""
        return self.reshape(other.shape)

    view_as = reshape_as

    def expand(self, *shape: Any) -> Tensor:
        """Repeat axes of size 1; -1 keeps an axis; new axes come in front."""
        sizes = _ints(shape)
        if len(sizes) < self.ndim:
            raise ValueError(f"cannot expand {self.shape} to {sizes}: that has fewer axes")
        own = (1,) * (len(sizes) - self.ndim) + self.shape
        wide = tuple(o if s == -1 else s for s, o in zip(sizes, own, strict=True))
        return self._viewed(graph.expand(self._node, wide), ("expand", wide))

    broadcast_to = expand

    def expand_as(self, other: Any) -> Tensor:
        """Expanded to the other's shape; see :meth:`expand`."""
        return self.expand(other.shape)

    def permute(self, *axes: Any, dims: Any = None) -> Tensor:
        """The axes in another order: axis ``i`` of the result is axis ``axes[i]`` of this."""
        order = tuple(self._axis(a) for a in _ints(axes if dims is None else (dims,)))
        if sorted(order) != list(range(self.ndim)):
            raise ValueError(f"permute{order} does not name each of {self.ndim} axes once")
        return self._viewed(graph.permute(self._node, tuple(order)), ("permute", tuple(order)))

    def transpose(self, dim0: int = 0, dim1: int = 1) -> Tensor:
        """Two axes exchanged; ``swapaxes`` and ``swapdims`` are other names of it."""
        order = list(range(self.ndim))
        a, b = self._axis(dim0), self._axis(dim1)
        if not order:
            return self.reshape(())
        order[a], order[b] = order[b], order[a]
        return self._viewed(graph.permute(self._node, tuple(order)), ("permute", tuple(order)))

    swapaxes = swapdims = transpose

    def t(self) -> Tensor:
        """A matrix transposed."""
        if self.ndim > 2:
            raise ValueError(f"t() of a tensor of {self.ndim} axes; use permute or mT")
        return self.T

    def movedim(self, source: Any, destination: Any) -> Tensor:
        """Axes to other places; the others keep their order."""
        sources = [self._axis(a) for a in ((source,) if isinstance(source, int) else source)]
        targets = [self._axis(a) for a in ((destination,) if isinstance(destination, int) else destination)]
        if len(set(sources)) != len(targets) or len(set(targets)) != len(sources):
            raise ValueError(f"movedim of axes {sources} to {targets}: as many different ones are needed on both sides")
        order = [a for a in range(self.ndim) if a not in sources]
        for target, a in sorted(zip(targets, sources, strict=True)):
            order.insert(target, a)
        return self.permute(order)

    moveaxis = movedim

    @property
    def T(self) -> Tensor:
        """All axes in reverse order; of a matrix, its transpose."""
        return self.permute(*reversed(range(self.ndim)))

    @property
    def mT(self) -> Tensor:
        """The last two axes exchanged: the transpose of each matrix."""
        return self.transpose(-2, -1)

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tensor:
        """Axes ``start_dim`` to ``end_dim``, both among them, joined into one."""
        if self.ndim == 0:
            return self.reshape(1)
        a, b = self._axis(start_dim), self._axis(end_dim)
        return self.reshape(*self.shape[:a], math.prod(self.shape[a:b + 1]), *self.shape[b + 1:])

    def unflatten(self, dim: int, sizes: Sequence[int]) -> Tensor:
        """An axis taken apart into ``sizes``, of which one may be -1."""
        a = self._axis(dim)
        return self.reshape(*self.shape[:a], *sizes, *self.shape[a + 1:])

    @numpy_names
    def squeeze(self, dim: int | Sequence[int] | None = None) -> Tensor:
        """Without axes of size 1: all, or those of ``dim`` that are."""
        if dim is None:
            return self.reshape(tuple(s for s in self.shape if s != 1))
        axes = self._axes(dim)
        return self.reshape(tuple(s for a, s in enumerate(self.shape) if a not in axes or s != 1))

    @numpy_names
    def unsqueeze(self, dim: int) -> Tensor:
        """A new axis of size 1 before ``dim``, which may be one behind the last."""
        a = self._axis(dim, 1)
        return self.reshape(*self.shape[:a], 1, *self.shape[a:])

    def ravel(self) -> Tensor:
        """All elements along one axis."""
        return self.flatten()

    def flip(self, *axes: Any, dims: Any = None, axis: Any = None) -> Tensor:
        """The same elements in reverse order along these axes."""
        named = dims if axis is None else axis
        axes = axes if named is None else (named,)
        return self._new(graph.flip(self._node, sorted({self._axis(d) for d in _ints(axes)})))

    def fliplr(self) -> Tensor:
        """Reversed along axis 1."""
        return self.flip(1)

    def flipud(self) -> Tensor:
        """Reversed along axis 0."""
        return self.flip(0)

    def rot90(self, k: int = 1, dims: Sequence[int] = (0, 1)) -> Tensor:
        """A quarter turn ``k`` times, from the first axis of ``dims`` towards the second."""
        a, b = (self._axis(d) for d in dims)
        if a == b:
            raise ValueError(f"rot90 turns in a plane of two axes, not {dims}")
        k %= 4
        if k == 2:
            return self.flip(a, b)
        if k == 0:
            return self._copied()
        return self.flip(b).transpose(a, b) if k == 1 else self.transpose(a, b).flip(b)

    def shrink(self, bounds: Sequence[tuple[int, int] | None]) -> Tensor:
        """The part from start to stop of each axis (None: all of it)."""
        cuts = tuple((0, n) if b is None else b for b, n in zip(bounds, self.shape, strict=True))
        return self._viewed(graph.shrink(self._node, cuts), ("shrink", cuts))

    def _every(self, axis: int, count: int, step: int) -> Tensor:
        """The first ``count`` of every ``step``-th element of an axis."""
        return self._viewed(through(self._node, (how := ("every", axis, count, step),)), how)

    def _turned(self, axis: int) -> Tensor:
        """An axis from its end, as an index with a negative step has it: a view, which :meth:`flip` is not."""
        return self._viewed(graph.flip(self._node, [axis]), ("flip", (axis,)))

    @numpy_names
    def narrow(self, dim: int, start: Any, length: int) -> Tensor:
        """``length`` elements of an axis from ``start``, a number or a tensor of one."""
        a = self._axis(dim)
        n = self.shape[a]
        if hasattr(start, "dtype"):
            if getattr(start.dtype, "kind", "i") not in "iu":
                raise TypeError(f"narrow: start is an integer, not {start.dtype}")
            start = int(start.item())
        start = start + n if start < 0 else start
        if not 0 <= start <= start + length <= n:
            raise ValueError(f"narrow: {length} elements from {start} of an axis of {n}")
        return self.shrink([(start, start + length) if i == a else None for i in range(self.ndim)])

    def select(self, dim: int, index: int) -> Tensor:
        """One place of an axis, which goes."""
        return self[(slice(None),) * self._axis(dim) + (int(index),)]  # type: ignore[no-any-return]

    @numpy_names
    def unbind(self, dim: int = 0) -> tuple[Tensor, ...]:
        """The slices along an axis, as a tuple; the axis is gone."""
        return tuple(self.select(dim, i) for i in range(self.shape[self._axis(dim)]))

    def stride(self, *steps: Any) -> Any:
        """Without arguments (or with one axis) how many elements lie between neighbours, row by row. With a step for
        each axis: every step-th element, from the end for negative steps."""
        rows = tuple(math.prod(self.shape[a + 1:]) for a in range(self.ndim))
        if not steps:
            return rows
        if len(steps) == 1 and not isinstance(steps[0], Sequence):
            return rows[self._axis(steps[0])]
        return self[tuple(slice(None, None, step) for step in _ints(steps))]

    def repeat(self, *repeats: Any) -> Tensor:
        """Copies along each axis; new axes come in front."""
        counts = _ints(repeats)
        if len(counts) < self.ndim:
            raise ValueError(f"repeat needs a number for each of {self.ndim} axes, not {counts}")
        x = self.reshape((1,) * (len(counts) - self.ndim) + self.shape)
        wide = x.reshape([s for n in x.shape for s in (1, n)]).expand([s for c, n in zip(counts, x.shape, strict=True)
                                                                       for s in (c, n)])
        return wide.reshape([c * n for c, n in zip(counts, x.shape, strict=True)])._copied()

    def tile(self, *repeats: Any) -> Tensor:
        """As :meth:`repeat`; missing numbers are 1."""
        counts = _ints(repeats)
        return self.repeat((1,) * (self.ndim - len(counts)) + counts)

    @numpy_names
    def repeat_interleave(self, repeats: Any, dim: int | None = None, *, output_size: int | None = None) -> Tensor:
        """Each element several times, neighbours together; ``repeats`` may be a number for each. ``output_size`` is
        taken and not needed."""
        x = self.flatten() if dim is None else self
        a = x._axis(dim or 0)
        if not isinstance(repeats, int):
            counts = np.asarray(repeats).reshape(-1)
            places = np.repeat(np.arange(x.shape[a]), np.broadcast_to(counts, (x.shape[a],)))
            return x[(slice(None),) * a + (places,)]  # type: ignore[no-any-return]
        wide = x.unsqueeze(a + 1).expand(*x.shape[:a + 1], repeats, *x.shape[a + 1:])
        return wide.reshape(*x.shape[:a], x.shape[a] * repeats, *x.shape[a + 1:])._copied()

    def roll(self, shifts: Any, dims: Any = None) -> Tensor:
        """Along axes, round and round; without ``dims`` in the flattened tensor."""
        if dims is None:
            return self.flatten().roll(shifts, 0).reshape(self.shape)._copied()
        amounts, axes = _ints((shifts,)), _ints((dims,))
        if len(amounts) != len(axes):
            raise ValueError(f"roll by {amounts} along axes {axes}: as many of both are needed")
        x: Any = self
        for shift, dim in zip(amounts, axes, strict=True):
            a = x._axis(dim)
            n = x.shape[a]
            k = shift % n if n else 0
            if k:
                x = x.narrow(a, n - k, k).cat(x.narrow(a, 0, n - k), dim=a)
        return x._copied()  # type: ignore[no-any-return]

    def unfold(self, dimension: int, size: int, step: int) -> Tensor:
        """Windows of ``size`` elements every ``step``, as a new last axis."""
        a = self._axis(dimension)
        n = self.shape[a] if self.ndim else 1
        if size > n or size < 0 or step < 1:
            raise ValueError(f"unfold: windows of {size} elements, every {step}, of an axis of {n}")
        if not self.ndim:
            return self.reshape(1)[:size]  # type: ignore[no-any-return]
        x: Any = self
        return x.movedim(a, -1)._windows([size], [step], [1]).movedim(-2, a)  # type: ignore[no-any-return]

    def _windows(self, sizes: Sequence[int], steps: Sequence[int], dilations: Sequence[int]) -> Tensor:
        """Of the last axes (..., y, x) all windows: (..., y', x', sizes of the windows). A function on indices: nothing
        is copied."""
        node, first = self._node, self.ndim - len(sizes)
        for k, (size, step, dilation) in enumerate(zip(sizes, steps, dilations, strict=True)):
            if size:
                node = graph.window(node, first + k, size, step, dilation)
                continue
            shape = node.shape          # of nothing there are as many as of the smallest
            count = (shape[first + k] + dilation - 1) // step + 1
            node = graph.full((*shape[:first + k], count, *shape[first + k + 1:], 0), node.dtype, 0)
        return self._new(node)
