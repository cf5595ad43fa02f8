"""Indexing and assignment, as NumPy has them: integers, slices with any step, None, ..., bools, masks, integer arrays.

An index in a tensor is not looked at before it is used: beyond the end it reads zeros and writes nothing. Indices from
Python and NumPy are checked.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler import dtypes, graph
from compiler.methods.base import Methods
from compiler.methods.elementwise import broadcast_shapes
from compiler.methods.names import numpy_names
from compiler.uop import Ops
from compiler.variable import Size

if TYPE_CHECKING:
    from compiler.tensor import Tensor

__all__ = ["Indexing", "flat_places", "pick", "wrap"]


class Indexing(Methods):
    """Mixin; see :class:`compiler.tensor.Tensor`."""

    __slots__ = ()

    def __getitem__(self, key: Any) -> Tensor:
        """NumPy's indexing. A mask (a bool array) is looked at at once, for the result's shape depends on it."""
        return _index(self, key)  # type: ignore[no-any-return]

    def __iter__(self) -> Any:
        if not self.shape:
            raise TypeError("a tensor without axes is not iterated over")
        return (self[i] for i in range(self.shape[0]))

    def __setitem__(self, key: Any, value: Any) -> None:
        """Assign to any index. Of places that are named twice, the last value stays."""
        _set_index(self, key, value)

    def nonzero(self, as_tuple: bool = False) -> Any:
        """The places (int32, a row each) of what is not zero; computed at once."""
        from compiler.tensor import Tensor
        found = np.nonzero(np.atleast_1d(self.numpy()))
        if as_tuple:
            return tuple(Tensor(f.astype(np.int32), device=self.device) for f in found)
        places = np.stack(found, -1).astype(np.int32)
        return Tensor(places if self.ndim else places[:, :0], device=self.device)

    argwhere = nonzero

    def masked_select(self, mask: Any) -> Tensor:
        """The elements where ``mask`` holds, in a row."""
        x, m = self.broadcast_tensors(self, mask)
        return x[m]  # type: ignore[no-any-return]

    def take(self, index: Any) -> Tensor:
        """Elements of the flattened tensor."""
        return self.flatten()[index]  # type: ignore[no-any-return]

    @numpy_names
    def index_select(self, dim: int, index: Any) -> Tensor:
        """The slices along ``dim`` whose numbers ``index`` (one axis) holds."""
        if not self.ndim:
            return self.reshape(1)[index.reshape(-1)].reshape(())  # type: ignore[no-any-return]
        return self[(slice(None),) * self._axis(dim) + (index.reshape(-1),)]

    @numpy_names
    def gather(self, dim: int, index: Any, *, sparse_grad: bool = False) -> Tensor:
        """``out[i][j] = self[index[i][j]][j]`` for dim 0, and so on. ``sparse_grad`` is taken and means nothing."""
        a = self._axis(dim)
        if index.numel() == 0:
            return self._new(graph.full(index.shape, self.dtype, 0), self)
        if self.ndim + index.ndim == 1:     # no axes are as one
            return self.reshape(1).gather(0, index.reshape(1)).reshape(index.shape)
        if index.ndim != self.ndim:
            raise ValueError(f"gather: index has {index.ndim} axes, the tensor {self.ndim}")
        if not self.ndim:
            return self.clone()  # type: ignore[no-any-return]
        if any(k > n for i, (k, n) in enumerate(zip(index.shape, self.shape, strict=True)) if i != a):
            raise ValueError(f"gather along axis {a}: index {index.shape} is larger than the tensor {self.shape}")
        x: Any = self.shrink([None if i == a else (0, s) for i, s in enumerate(index.shape)])
        return pick(x, a, wrap(index, self.shape[a]))  # type: ignore[no-any-return]

    @numpy_names
    def take_along_dim(self, index: Any, dim: int | None = None) -> Tensor:
        """:meth:`gather`, with the other axes broadcast; NumPy's take_along_axis."""
        if dim is None:
            return self.flatten().gather(0, index.flatten())  # type: ignore[no-any-return]
        a = self._axis(dim)
        shape = list(broadcast_shapes(tuple(1 if i == a else n for i, n in enumerate(self.shape)),
                                      tuple(1 if i == a else n for i, n in enumerate(index.shape))))
        own, other = list(shape), list(shape)
        own[a], other[a] = self.shape[a], index.shape[a]
        return self.expand(own).gather(a, index.expand(other))  # type: ignore[no-any-return]


def wrap(index: Any, n: Any) -> Any:
    """Negative indices count from the end."""
    if index.dtype.is_float or index.dtype is dtypes.bool_:
        raise TypeError(f"an index tensor holds integers, not {index.dtype.name}")
    index = index.cast(dtypes.int32) if index.dtype.bits < 32 else index
    return index if index.dtype.kind == "u" else (index < 0).where(index + n, index)


def pick(x: Any, axis: int, index: Any) -> Any:
    """Along ``axis`` of ``x`` the elements that ``index`` (other sizes equal) says; 0 where it is out of range."""
    if x.numel() == 0 or index.numel() == 0:
        return x._new(graph.full(index.shape, x.dtype, 0), x)
    picked = graph.gather(x._node, axis, index._node)
    return x._new(picked if x.requires_grad else picked.src[0], x)


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
        x = x._turned(a)
    step = abs(step)
    if step > 1:
        x = x._every(a, count, step)
    return x


def _is_array(part: Any) -> bool:
    from compiler.tensor import Tensor
    return isinstance(part, Tensor | np.ndarray)


def _is_mask(part: Any) -> bool:
    return _is_array(part) and part.dtype in (np.bool_, dtypes.bool_)


def _expand_key(x: Any, key: Any) -> list[Any]:
    """The key's parts, one for each axis, and Nones."""
    parts = list(key) if isinstance(key, tuple) else [key]
    for i, p in enumerate(parts):
        if isinstance(p, list | tuple | range):
            array = np.asarray([np.asarray(q) for q in p])
            parts[i] = array.astype(np.int64) if array.size == 0 else array
        elif isinstance(p, bool | np.bool_):
            parts[i] = np.asarray(p)
    used = sum((p.ndim if _is_mask(p) else 1) for p in parts if p is not None and p is not Ellipsis)
    if sum(p is Ellipsis for p in parts) > 1:
        raise IndexError("an index has one ellipsis at most")
    if used > x.ndim:
        raise IndexError(f"{used} indices for a tensor of {x.ndim} axes")
    at = next((i for i, p in enumerate(parts) if p is Ellipsis), len(parts))
    return parts[:at] + [slice(None)] * (x.ndim - used) + parts[at + 1:]


def _checked(part: Any, n: Any) -> Any:
    """An integer array from the host, with every index in range."""
    if part.dtype.kind not in "iu":
        raise IndexError(f"a tensor is not indexed by an array of {part.dtype}; integers or bools are")
    if part.size and isinstance(n, int) and not (-n <= int(part.min()) and int(part.max()) < n):
        worst = part.min() if part.min() < -n else part.max()
        raise IndexError(f"index {worst} is out of range for an axis of {n} elements")
    return np.where(part < 0, part + n, part).astype(np.int32) if isinstance(n, int) else part.astype(np.int32)


def _parts(x: Any, key: Any, numpy_ints: bool) -> list[Any]:
    """The key's parts with masks as integer arrays, arrays checked; integers are arrays beside arrays, as in NumPy."""
    out: list[Any] = []
    axis = 0
    expanded = _expand_key(x, key)
    any_array = any(_is_array(p) for p in expanded)
    for part in expanded:
        if part is None:
            out.append(None)
            continue
        if _is_mask(part):
            mask = np.asarray(part)
            if mask.shape != x.shape[axis:axis + mask.ndim]:
                raise IndexError(f"a mask of shape {mask.shape} for axes of sizes {x.shape[axis:axis + mask.ndim]}")
            if mask.ndim == 0:
                out.append((np.zeros(int(mask), np.int32), 1))      # an axis of its own, of one element or none
                continue
            out += np.nonzero(mask)
            out[-mask.ndim:] = [f.astype(np.int32) for f in out[-mask.ndim:]]
            axis += mask.ndim
            continue
        n = x.shape[axis]
        if isinstance(part, int | np.integer) and not isinstance(part, Size):
            if isinstance(n, int) and not -n <= part < n:
                raise IndexError(f"index {part} is out of range for an axis of {n} elements")
            at = int(part) % n if isinstance(n, int) else part
            out.append(np.asarray(at, np.int32) if any_array and numpy_ints and isinstance(n, int) else at)
        elif isinstance(part, np.ndarray):
            out.append(_checked(part, n))
        elif _is_array(part) or isinstance(part, slice | Size):
            out.append(part)
        else:
            raise IndexError(f"a tensor is not indexed by {type(part).__name__}; use integers, slices, None, ... or "
                             "integer or bool arrays")
        axis += 1
    return out


def _index(x: Any, key: Any) -> Any:
    from compiler.tensor import Tensor
    parts = _parts(x, key, True)
    axis = 0
    advanced: list[tuple[int, Any]] = []
    for part in parts:
        if part is None or isinstance(part, tuple):
            x = x.unsqueeze(axis)
            if isinstance(part, tuple):
                advanced.append((axis, Tensor(part[0], device=x.device)))
            axis += 1
        elif isinstance(part, slice):
            x = _slice(x, axis, part)
            axis += 1
        elif isinstance(part, int | np.integer | Size):
            n, at = x.shape[axis], part if part >= 0 else part + x.shape[axis]
            if not (at >= 0 and at < n):
                raise IndexError(f"index {part} is out of range for an axis of {n} elements")
            x = x.shrink([(at, at + 1) if i == axis else None for i in range(x.ndim)])
            x = x.reshape(*x.shape[:axis], *x.shape[axis + 1:])
        else:
            advanced.append((axis, part if isinstance(part, Tensor) else Tensor(part, device=x.device)))
            axis += 1
    return _gather_axes(x, advanced, parts) if advanced else x


def _gather_axes(x: Any, advanced: list[tuple[int, Any]], parts: list[Any]) -> Any:
    """Integer arrays at several axes, broadcast together; the result's place is NumPy's."""
    axes = [a for a, _ in advanced]
    shape = broadcast_shapes(*(t.shape for _, t in advanced))
    places = [i for i, p in enumerate(parts) if _is_array(p) or isinstance(p, tuple)]
    together = places == list(range(places[0], places[0] + len(places)))
    others = [a for a in range(x.ndim) if a not in axes]
    sizes = [x.shape[a] for a in axes]
    position: Any = None
    for (_, index), n in zip(advanced, sizes, strict=True):
        wrapped = wrap(index, n).cast(dtypes.int32).expand(shape)
        if len(sizes) > 1:      # one index out of range must not reach into another row
            wrapped = ((wrapped >= 0) & (wrapped < n)).where(wrapped, -math.prod(sizes))
        position = wrapped if position is None else position * n + wrapped
    kept = [x.shape[a] for a in others]
    front = axes[0] if together else 0
    before, behind = kept[:front], kept[front:]
    flat = x.permute(*others[:front], *axes, *others[front:]).reshape([*before, math.prod(sizes), *behind])
    count = math.prod(shape)
    position = position.reshape([1] * front + [count] + [1] * len(behind)).expand([*before, count, *behind])
    return pick(flat, front, position).reshape([*before, *shape, *behind])


# assignment


def _fitted(value: Any, shape: tuple[int, ...]) -> Any:
    """A value broadcast to a region; axes of size 1 in front may be too many."""
    while value.ndim > len(shape) and value.shape[0] == 1:
        value = value.reshape(value.shape[1:])
    if value.ndim > len(shape) or any(v not in (1, n) for v, n in zip(value.shape[::-1], shape[::-1], strict=False)):
        raise ValueError(f"a value of shape {value.shape} does not fit into an index of shape {shape}")
    return value.expand(shape)


def _looks(key: Any) -> bool:
    """Is there an array in an index?"""
    return any(_is_array(p) or isinstance(p, list | range | bool) for p in (key if isinstance(key, tuple) else (key,)))


def _set_index(x: Any, key: Any, value: Any) -> None:
    from compiler.tensor import Tensor
    if isinstance(value, Tensor) and value._store is not None and value._store is x._store \
            and not _looks(key) and _index(x, key).uop is value.uop:
        return          # what x[key] += 1 ends with: the view has assigned already
    value = value if isinstance(value, Tensor) else Tensor(value, x.dtype, x.device)
    value = value.cast(x.dtype)
    if value.device != x.device:
        value = value.to(x.device)
    if _is_mask(key) and key.ndim and key.shape == x.shape[:key.ndim] and (
            value.ndim <= x.ndim - key.ndim or value.numel() == 1):
        mask = key if isinstance(key, Tensor) else Tensor(key, device=x.device)     # not looked at
        mask = mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim))
        x.assign(mask.where(_fitted(value, x.shape[key.ndim:]), x))
        return
    parts = _parts(x, key, True)
    tensors = [p for p in parts if isinstance(p, Tensor)]
    if all(p is None or isinstance(p, int | slice | Size) for p in parts):
        x.assign(_set_basic(x, parts, value))
    elif not tensors:
        x.assign(_set_known(x, parts, value))
    elif len(tensors) == 1 and all(p is tensors[0] or p == slice(None) for p in parts):
        axis = next(i for i, p in enumerate(parts) if p is tensors[0])
        x.assign(_set_axis(x, axis, tensors[0], value))
    else:
        x.assign(_set_flat(x, parts, value))


def _set_basic(x: Any, parts: list[Any], value: Any) -> Any:
    """By movement alone: the value goes to where the slices say, and a mask tells what of it counts."""
    region = _index(x.detach(), tuple(parts)).shape
    value = _fitted(value, region)
    mask = value._new(graph.full(region, dtypes.bool_, True))
    sizes = iter(region)
    full: list[int] = []        # the region with an axis of size 1 for each integer, without those of None
    for p in parts:
        if p is None:
            next(sizes)
        else:
            full.append(next(sizes) if isinstance(p, slice) else 1)
    value, mask = value.reshape(full), mask.reshape(full)
    for a, p in enumerate(p for p in parts if p is not None):
        n, count = x.shape[a], value.shape[a]
        if isinstance(p, slice) and not any(isinstance(v, Size) for v in (n, count, p.start, p.stop)):
            start, _, step = p.indices(n)
        else:
            start, step = ((0 if p.start is None else p.start) if isinstance(p, slice) else p), 1
        if step < 0:
            value, mask = value.flip(a), mask.flip(a)
            start, step = start + (count - 1) * step, -step
        if step > 1 and count > 1:
            value, mask = _dilate(value, a, step), _dilate(mask, a, step)
        amounts = [(0, 0)] * value.ndim
        amounts[a] = (start, n - start - value.shape[a]) if count != 0 else (0, n)
        value, mask = (t._new(graph.pad(t._node, amounts)) for t in (value, mask))
    return mask.where(value, x)


def _dilate(x: Any, a: int, step: int) -> Any:
    """``step - 1`` zeros between neighbours."""
    n = x.shape[a]
    x = x.unsqueeze(a + 1).pad([(0, step - 1) if i == a + 1 else (0, 0) for i in range(x.ndim + 1)])
    return x.reshape(*x.shape[:a], n * step, *x.shape[a + 2:]).narrow(a, 0, (n - 1) * step + 1)


def _set_known(x: Any, parts: list[Any], value: Any) -> Any:
    """Indices known now: number the elements, index the numbers, and see where each element gets its value from."""
    from compiler.tensor import Tensor
    key = tuple(np.zeros(len(p[0]), bool) if isinstance(p, tuple) else p for p in parts)
    key = tuple(np.asarray(len(p[0]) == 1) if isinstance(p, tuple) else k for p, k in zip(parts, key, strict=True))
    numbers = np.arange(x.numel(), dtype=np.int32).reshape(x.shape)[key]
    flat = _fitted(value, numbers.shape).reshape(-1)
    if numbers.size == 0:
        return x
    source = np.full(x.numel(), -1, np.int32)
    source[numbers.reshape(-1)] = np.arange(numbers.size, dtype=np.int32)
    place = Tensor(source.reshape(x.shape), device=x.device)
    return (place < 0).where(x, flat[place.maximum(0)])


def _set_axis(x: Any, axis: int, index: Any, value: Any) -> Any:
    """One integer tensor along one axis: of each place, the last of the values that go there."""
    value = _fitted(value, (*x.shape[:axis], *index.shape, *x.shape[axis + 1:]))
    count = index.numel()
    value = value.reshape(*x.shape[:axis], count, *x.shape[axis + 1:])
    if count == 0:
        return x
    winner = _winner(wrap(index, x.shape[axis]).reshape(count), x.shape[axis])
    winner = winner.reshape([-1 if i == axis else 1 for i in range(x.ndim)]).expand(x.shape)
    return (winner < 0).where(x, value.gather(axis, winner.maximum(0)))


def _winner(places: Any, n: int) -> Any:
    """For each of 0..n-1 the last position in ``places`` that names it, or -1."""
    order = graph.iota(places.shape[0])
    return places._new(graph.scatter(graph.full((n,), order.dtype, -1), Ops.MAX, 0, places._node, order))


def flat_places(x: Any, parts: list[Any]) -> Any:
    """The position in the flattened tensor of every element that an index names; -1 for those out of range."""
    numbers = x._new(graph.iota(x.numel())) + 1
    return _index(numbers.reshape(x.shape), tuple(parts)) - 1


def _set_flat(x: Any, parts: list[Any], value: Any) -> Any:
    parts = [np.asarray(len(p[0]) == 1) if isinstance(p, tuple) else p for p in parts]
    places = flat_places(x, parts)
    flat = _fitted(value, places.shape).reshape(-1)
    if places.numel() == 0:
        return x
    winner = _winner(places.reshape(-1), x.numel()).reshape(x.shape)
    return (winner < 0).where(x, flat[winner.maximum(0)])
