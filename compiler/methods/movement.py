"""Shapes and places: nothing here computes or copies anything; indices change. Indexing is here too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler import dtypes, graph
from compiler.methods.base import Methods
from compiler.methods.elementwise import broadcast_shapes
from compiler.variable import Size

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
        sizes = _ints(shape)
        if sizes.count(-1) > 1 or any(s < -1 for s in sizes):
            raise ValueError(f"reshape to {sizes}: one size may be -1, none may be less")
        if -1 in sizes:
            rest = math.prod(s for s in sizes if s != -1)
            if rest == 0 or self.numel() % rest:
                raise ValueError(f"cannot reshape {self.shape} to {sizes}: {self.numel()} is no multiple of {rest}")
            sizes = tuple(self.numel() // rest if s == -1 else s for s in sizes)
        return self._new(graph.reshape(self._node, sizes))

    view = reshape

    def expand(self, *shape: Any) -> Tensor:
        """Repeat axes of size 1; -1 keeps an axis; new axes come in front."""
        sizes = _ints(shape)
        own = (1,) * (len(sizes) - self.ndim) + self.shape
        return self._new(graph.expand(self._node, tuple(o if s == -1 else s for s, o in zip(sizes, own, strict=True))))

    broadcast_to = expand

    def permute(self, *axes: Any) -> Tensor:
        order = tuple(self._axis(a) for a in _ints(axes))
        if sorted(order) != list(range(self.ndim)):
            raise ValueError(f"permute{order} does not name each of {self.ndim} axes once")
        return self._new(graph.permute(self._node, order))

    def transpose(self, dim0: int = 0, dim1: int = 1) -> Tensor:
        order = list(range(self.ndim))
        a, b = self._axis(dim0), self._axis(dim1)
        order[a], order[b] = order[b], order[a]
        return self._new(graph.permute(self._node, order))

    @property
    def T(self) -> Tensor:
        return self._new(graph.permute(self._node, tuple(reversed(range(self.ndim)))))

    @property
    def mT(self) -> Tensor:
        return self.transpose(-2, -1)

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tensor:
        if self.ndim == 0:
            return self.reshape(1)
        a, b = self._axis(start_dim), self._axis(end_dim)
        return self.reshape(*self.shape[:a], math.prod(self.shape[a:b + 1]), *self.shape[b + 1:])

    def unflatten(self, dim: int, sizes: Sequence[int]) -> Tensor:
        a = self._axis(dim)
        return self.reshape(*self.shape[:a], *sizes, *self.shape[a + 1:])

    def squeeze(self, dim: int | None = None) -> Tensor:
        if dim is None:
            return self.reshape(tuple(s for s in self.shape if s != 1))
        a = self._axis(dim)
        return self.reshape(*self.shape[:a], *self.shape[a + 1:]) if self.ndim and self.shape[a] == 1 else \
            self.reshape(self.shape)

    def unsqueeze(self, dim: int) -> Tensor:
        a = self._axis(dim, 1)
        return self.reshape(*self.shape[:a], 1, *self.shape[a:])

    def flip(self, *dims: Any) -> Tensor:
        return self._new(graph.flip(self._node, sorted({self._axis(d) for d in _ints(dims)})))

    def shrink(self, bounds: Sequence[tuple[int, int] | None]) -> Tensor:
        """The part from start to stop of each axis (None: all of it)."""
        return self._new(
            graph.shrink(self._node, [(0, n) if b is None else b for b, n in zip(bounds, self.shape, strict=True)])
        )

    def pad(self, pad: Sequence[Any], value: float = 0.0) -> Tensor:
        """Grow axes. ``pad`` is PyTorch's flat list (last axis first: before, after, ...), or a pair an axis."""
        if pad and isinstance(pad[0], Sequence):
            amounts = [tuple(p) for p in pad]
        else:
            flat = list(pad)
            if len(flat) % 2 or len(flat) > 2 * self.ndim:
                raise ValueError(f"pad: {len(flat)} numbers for {self.ndim} axes; give two for each of the last axes")
            amounts = [(0, 0)] * (self.ndim - len(flat) // 2) + [
                (flat[i], flat[i + 1]) for i in range(len(flat) - 2, -1, -2)
            ]
        x = self.shrink([(max(0, -b), n - max(0, -e)) for (b, e), n in zip(amounts, self.shape, strict=True)])
        grown = [(max(0, b), max(0, e)) for b, e in amounts]
        out = x._new(graph.pad(x._node, grown))
        if value == 0:
            return out
        inside = graph.pad(graph.full(x.shape, dtypes.bool_, True), grown)
        return x._new(inside).where(out, value)

    def repeat(self, *repeats: Any) -> Tensor:
        counts = _ints(repeats)
        x = self.reshape((1,) * (len(counts) - self.ndim) + self.shape)
        wide = x.reshape([s for n in x.shape for s in (1, n)]).expand([s for c, n in zip(counts, x.shape, strict=True)
                                                                       for s in (c, n)])
        return wide.reshape([c * n for c, n in zip(counts, x.shape, strict=True)])

    def repeat_interleave(self, repeats: int, dim: int | None = None) -> Tensor:
        x = self.flatten() if dim is None else self
        a = x._axis(dim or 0)
        wide = x.unsqueeze(a + 1).expand(*x.shape[:a + 1], repeats, *x.shape[a + 1:])
        return wide.reshape(*x.shape[:a], x.shape[a] * repeats, *x.shape[a + 1:])

    def roll(self, shifts: int, dims: int) -> Tensor:
        a = self._axis(dims)
        n = self.shape[a]
        k = shifts % n if n else 0
        first = [(0, s) for s in self.shape]
        second = list(first)
        first[a], second[a] = (n - k, n), (0, n - k)
        return self.shrink(first).cat(self.shrink(second), dim=a)

    def cat(self: Any, *others: Any, dim: int = 0) -> Tensor:
        """This and ``others`` one after the other along ``dim``. Also ``Tensor.cat([a, b], dim)``."""
        if isinstance(self, list | tuple):
            first, *rest = self
            return first.cat(*(rest if not others else [*rest]), dim=others[0] if others else dim)
        a = self._axis(dim)
        parts = [self, *others]
        if any(
            p.ndim != self.ndim or p.shape[:a] != self.shape[:a] or p.shape[a + 1 :] != self.shape[a + 1 :]
            for p in parts
        ):
            raise ValueError(f"cat along axis {a}: shapes {[p.shape for p in parts]} differ elsewhere")
        dtype = dtypes.promote(*(p.dtype for p in parts))
        total, at, out = sum(p.shape[a] for p in parts), 0, None
        for p in parts:
            n = p.shape[a]
            if n == 0:
                continue
            amounts = [(0, 0)] * self.ndim
            amounts[a] = (at, total - at - n)
            piece = p.cast(dtype)
            piece = piece._new(graph.pad(piece._node, amounts))
            if out is None:
                out = piece
            else:  # exact for every value, -0.0 and NaN included: choose, do not add
                index = graph.expand(
                    graph.reshape(graph.iota(total), tuple(total if i == a else 1 for i in range(self.ndim))),
                    piece.shape,
                )
                out = piece._new(index).lt(at).where(out, piece)
            at += n
        return out if out is not None else self.cast(dtype)

    def stack(self: Any, *others: Any, dim: int = 0) -> Tensor:
        """Along a new axis. Also ``Tensor.stack([a, b], dim)``."""
        if isinstance(self, list | tuple):
            first, *rest = self
            return first.stack(*rest, dim=others[0] if others else dim)
        a = self._axis(dim, 1)
        return self.unsqueeze(a).cat(*(o.unsqueeze(a) for o in others), dim=a)

    def split(self, sizes: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
        a = self._axis(dim)
        n = self.shape[a]
        if isinstance(sizes, int):
            sizes = [min(sizes, n - at) for at in range(0, max(n, 1), sizes)]
        if sum(sizes) != n:
            raise ValueError(f"split into {list(sizes)}: the axis has {n} elements")
        out, at = [], 0
        for size in sizes:
            out.append(self.shrink([(at, at + size) if i == a else None for i in range(self.ndim)]))
            at += size
        return tuple(out)

    def chunk(self, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
        return self.split(max(1, -(-self.shape[self._axis(dim)] // chunks)), dim)

    # indexing

    def __getitem__(self, key: Any) -> Tensor:
        """NumPy's indexing: integers, slices with any step, None, ..., integer tensors or arrays, bool arrays."""
        return _index(self, key)

    def __iter__(self) -> Any:
        if not self.shape:
            raise TypeError("a tensor without axes is not iterated over")
        return (self[i] for i in range(self.shape[0]))

    def __setitem__(self, key: Any, value: Any) -> None:
        """Assign to basic indices (integers, slices, ...) or a bool mask."""
        _set_index(self, key, value)

    def gather(self, dim: int, index: Tensor) -> Tensor:
        """``out[i][j] = self[index[i][j]][j]`` for dim 0, and so on."""
        a = self._axis(dim)
        if index.ndim != self.ndim:
            raise ValueError(f"gather: index has {index.ndim} axes, the tensor {self.ndim}")
        n = self.shape[a]
        x = self.shrink([None if i == a else (0, s) for i, s in enumerate(index.shape)])
        order = [i for i in range(self.ndim) if i != a] + [a]
        x = (
            x.permute(order)
            .unsqueeze(a)
            .expand(*index.shape[:a], index.shape[a], *(s for i, s in enumerate(index.shape) if i > a), n)
        )
        return _pick(x, _wrap(index, n))

    def take_along_dim(self, index: Tensor, dim: int) -> Tensor:
        return self.gather(dim, index)

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        return self[(slice(None),) * self._axis(dim) + (index,)]

    def one_hot(self, num_classes: int) -> Tensor:
        """int32 ones where the last new axis's position is the value."""
        positions = self._new(graph.iota(num_classes))
        return self.unsqueeze(-1).eq(positions).int()

    def tril(self, diagonal: int = 0) -> Tensor:
        return _triangle(self, diagonal).where(self, 0)

    def triu(self, diagonal: int = 0) -> Tensor:
        return _triangle(self, diagonal - 1).where(0, self)

    def diag(self) -> Tensor:
        """A matrix with this diagonal, or a matrix's diagonal."""
        if self.ndim == 1:
            n = self.shape[0]
            return self._new(graph.iota(n)).one_hot(n).bool().where(self.unsqueeze(1), 0)
        n = min(self.shape)
        return self[:n, :n].reshape(-1).pad([0, n]).reshape(n, n + 1)[:, 0]


def _triangle(x: Any, diagonal: int) -> Any:
    rows, columns = x._new(graph.iota(x.shape[-2])), x._new(graph.iota(x.shape[-1]))
    return columns.unsqueeze(0) <= rows.unsqueeze(1) + diagonal


def _wrap(index: Any, n: int) -> Any:
    """Negative indices count from the end."""
    if index.dtype.is_float or index.dtype is dtypes.bool_:
        raise TypeError(f"an index tensor holds integers, not {index.dtype.name}")
    index = index.cast(dtypes.int32) if index.dtype.bits < 32 else index
    return index if index.dtype.kind == "u" else (index < 0).where(index + n, index)


def _pick(x: Any, index: Any) -> Any:
    """From the last axis of ``x`` the element that ``index`` (the other axes) says; 0 where it is out of range.

    It is written as a sum over a one-hot vector; the compiler folds that to a load.
    """
    positions = index._new(graph.iota(x.shape[-1], index.dtype))
    hit = index.unsqueeze(-1).eq(positions)
    return hit.where(x, 0)._reduce_raw(-1)


def _slice(x: Any, a: int, s: slice) -> Any:
    n = x.shape[a]
    if any(isinstance(v, Size) for v in (n, s.start, s.stop)) and s.step in (None, 1):
        ends = [e + n if isinstance(e, int) and e < 0 else e for e in (0 if s.start is None else s.start,
                                                                      n if s.stop is None else s.stop)]
        start, stop = (min(max(e, 0), n) for e in ends)
        return x.shrink([(start, max(start, stop)) if i == a else None for i in range(x.ndim)])
    start, stop, step = s.indices(n)
    count = len(range(start, stop, step))
    if count == 0:
        return x.shrink([(0, 0) if i == a else None for i in range(x.ndim)])
    low, high = (start, start + (count - 1) * step + 1) if step > 0 else (start + (count - 1) * step, start + 1)
    x = x.shrink([(low, high) if i == a else None for i in range(x.ndim)])
    if step < 0:
        x = x.flip(a)
    step = abs(step)
    if step > 1:
        x = x.pad([(0, count * step - x.shape[a]) if i == a else (0, 0) for i in range(x.ndim)])
        x = x.reshape(*x.shape[:a], count, step, *x.shape[a + 1:])
        x = x.shrink([(0, 1) if i == a + 1 else None for i in range(x.ndim)])
        x = x.reshape(*x.shape[:a + 1], *x.shape[a + 2:])
    return x


def _expand_key(x: Any, key: Any) -> list[Any]:
    from compiler.tensor import Tensor
    parts = list(key) if isinstance(key, tuple) else [key]
    parts = [np.asarray(p) if isinstance(p, list) else p for p in parts]
    used = sum((p.ndim if isinstance(p, np.ndarray | Tensor) and p.dtype in (np.bool_, dtypes.bool_) else 1)
               for p in parts if p is not None and p is not Ellipsis)
    if sum(p is Ellipsis for p in parts) > 1:
        raise IndexError("an index has one ellipsis at most")
    if used > x.ndim:
        raise IndexError(f"{used} indices for a tensor of {x.ndim} axes")
    at = next((i for i, p in enumerate(parts) if p is Ellipsis), len(parts))
    return parts[:at] + [slice(None)] * (x.ndim - used) + parts[at + 1:]


def _index(x: Any, key: Any) -> Any:
    from compiler.tensor import Tensor
    parts = _expand_key(x, key)
    axis = 0
    advanced: list[tuple[int, Any]] = []
    for part in parts:
        if part is None:
            x = x.unsqueeze(axis)
            axis += 1
        elif isinstance(part, slice):
            x = _slice(x, axis, part)
            axis += 1
        elif isinstance(part, Size) or (isinstance(part, int | np.integer) and isinstance(x.shape[axis], Size)):
            n, at = x.shape[axis], part if part >= 0 else part + x.shape[axis]
            if not (at >= 0 and at < n):
                raise IndexError(f"index {part} is out of range for an axis of {n} elements")
            x = x.shrink([(at, at + 1) if i == axis else None for i in range(x.ndim)])
            x = x.reshape(*x.shape[:axis], *x.shape[axis + 1:])
        elif isinstance(part, int | np.integer) and not isinstance(part, bool):
            n = x.shape[axis]
            if not -n <= part < n:
                raise IndexError(f"index {part} is out of range for an axis of {n} elements")
            at = int(part) % n
            x = x.shrink([(at, at + 1) if i == axis else None for i in range(x.ndim)])
            x = x.reshape(*x.shape[:axis], *x.shape[axis + 1:])
        elif isinstance(part, Tensor | np.ndarray):
            if part.dtype in (np.bool_, dtypes.bool_):
                for found in np.nonzero(np.asarray(part)):
                    advanced.append((axis, Tensor(found.astype(np.int32), device=x.device)))
                    axis += 1
            else:
                advanced.append((axis, part if isinstance(part, Tensor) else Tensor(part, device=x.device)))
                axis += 1
        else:
            raise IndexError(f"a tensor is not indexed by {type(part).__name__}; use integers, slices, None, ... or "
                             "integer or bool arrays")
    return _gather_axes(x, advanced) if advanced else x


def _gather_axes(x: Any, advanced: list[tuple[int, Any]]) -> Any:
    """Integer arrays at several axes, broadcast together; the result's place is NumPy's."""
    axes = [a for a, _ in advanced]
    shape = broadcast_shapes(*(t.shape for _, t in advanced))
    together = axes == list(range(axes[0], axes[0] + len(axes)))
    others = [a for a in range(x.ndim) if a not in axes]
    sizes = [x.shape[a] for a in axes]
    flat = x.permute(*others, *axes).reshape([x.shape[a] for a in others] + [math.prod(sizes)])
    position: Any = None
    for (_, index), n in zip(advanced, sizes, strict=True):
        wrapped = _wrap(index, n).cast(dtypes.int32).expand(shape)
        position = wrapped if position is None else position * n + wrapped
    kept = [x.shape[a] for a in others]
    flat = flat.reshape([*kept, *[1] * len(shape), math.prod(sizes)]).expand([*kept, *shape, math.prod(sizes)])
    out = _pick(flat, position.reshape([1] * len(kept) + list(shape)).expand([*kept, *shape]))
    front = axes[0] if together else 0
    order = [*range(front), *range(len(kept), len(kept) + len(shape)), *range(front, len(kept))]
    return out.permute(order) if order != list(range(out.ndim)) else out


def _set_index(x: Any, key: Any, value: Any) -> None:
    from compiler.tensor import Tensor
    value = value if isinstance(value, Tensor) else Tensor(value, x.dtype, x.device)
    value = value.cast(x.dtype)
    if isinstance(key, Tensor | np.ndarray) and key.dtype in (np.bool_, dtypes.bool_):
        mask = key if isinstance(key, Tensor) else Tensor(key, device=x.device)
        mask = mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim))
        if value.numel() != 1:
            raise ValueError("a bool mask is assigned one number; use where() for more")
        x.assign(mask.where(value.reshape([1] * x.ndim), x))
        return
    parts = _expand_key(x, key)
    if any(not isinstance(p, int | np.integer | slice) and p is not None for p in parts):
        raise IndexError("assignment takes integers, slices, None and ..., or one bool mask")
    # number the elements, index the numbers, and see where each element of the target gets its value from
    numbers = np.arange(x.numel(), dtype=np.int32).reshape(x.shape)[tuple(parts)]
    source = np.full(x.numel(), -1, np.int32)
    source[numbers.reshape(-1)] = np.arange(numbers.size, dtype=np.int32)
    if numbers.size == 0:
        return
    place = Tensor(source.reshape(x.shape), device=x.device)
    flat = value.expand(numbers.shape).reshape(-1)
    x.assign((place < 0).where(x, flat[place]))
