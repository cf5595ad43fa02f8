"""Values to places that a tensor names: scatter and its kin. All give new tensors; names that end in ``_`` assign."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compiler import dtypes, graph
from compiler.methods.base import Methods
from compiler.methods.indexing import flat_places, wrap
from compiler.methods.names import numpy_names
from compiler.uop import Ops

if TYPE_CHECKING:
    from compiler.tensor import Tensor

__all__ = ["Scatter"]

_REDUCTIONS = {"sum": "sum", "add": "sum", "prod": "prod", "multiply": "prod", "mul": "prod", "mean": "mean",
               "amax": "amax", "max": "amax", "amin": "amin", "min": "amin"}


class Scatter(Methods):
    """Mixin; see :class:`compiler.tensor.Tensor`."""

    __slots__ = ()

    @numpy_names
    def scatter(self, dim: int, index: Any, src: Any = None, *, value: Any = None, reduce: str | None = None) -> Tensor:
        """``out[index[i][j]][j] = src[i][j]`` for dim 0, and so on; of several the last stays. ``reduce`` "add" or
        "multiply" combines with what is there instead."""
        source = value if src is None else src
        if reduce is not None:
            return self.scatter_reduce(dim, index, source, reduce)
        return _scattered(self, dim, index, source, None, True)  # type: ignore[no-any-return]

    @numpy_names
    def scatter_add(self, dim: int, index: Any, src: Any) -> Tensor:
        """:meth:`scatter_reduce` by sums."""
        return self.scatter_reduce(dim, index, src, "sum")

    @numpy_names
    def scatter_reduce(self, dim: int, index: Any, src: Any, reduce: str, *, include_self: bool = True) -> Tensor:
        """All that goes to a place, and what is there with ``include_self``: "sum", "prod", "mean", "amax", "amin"."""
        if reduce not in _REDUCTIONS:
            raise ValueError(f"scatter_reduce: reduce is one of {', '.join(_REDUCTIONS)}, not {reduce!r}")
        return _scattered(self, dim, index, src, _REDUCTIONS[reduce], include_self)  # type: ignore[no-any-return]

    # whole slices along an axis, by a vector of places

    def _rows(self, dim: int, index: Any, source: Any) -> tuple[int, Any, Any]:
        a = self._axis(dim)
        shape = [index.numel() if i == a else n for i, n in enumerate(self.shape)]
        places = index.reshape([-1 if i == a else 1 for i in range(self.ndim)]).expand(shape)
        source = self._operand(source, self.dtype)
        return a, places, source.expand(shape) if source.ndim != self.ndim or source.shape != tuple(shape) else source

    @numpy_names
    def index_add(self, dim: int, index: Any, source: Any, *, alpha: Any = 1) -> Tensor:
        """A copy to whose slices along ``dim``, by number, ``alpha * source`` is added; the same one may come again."""
        a, places, source = self._rows(dim, index, source)
        return self.scatter_add(a, places, source if alpha == 1 else source * alpha)

    @numpy_names
    def index_copy(self, dim: int, index: Any, source: Any) -> Tensor:
        """A copy whose slices along ``dim``, by number, are ``source``."""
        return self.scatter(*self._rows(dim, index, source))

    @numpy_names
    def index_fill(self, dim: int, index: Any, value: Any) -> Tensor:
        """A copy whose slices along ``dim``, by number, are ``value``."""
        return self.scatter(*self._rows(dim, index, value))

    def index_reduce(self, dim: int, index: Any, source: Any, reduce: str, *, include_self: bool = True) -> Tensor:
        """A copy into whose slices along ``dim``, by number, ``source`` is reduced; see :meth:`scatter_reduce`."""
        return self.scatter_reduce(*self._rows(dim, index, source), reduce, include_self=include_self)

    def index_put(self, indices: Any, values: Any, accumulate: bool = False) -> Tensor:
        """A copy with ``values`` at an index; ``accumulate``: added to what is there."""
        key = tuple(indices)
        if not accumulate:
            out = self.clone()
            out[key] = values
            return out  # type: ignore[no-any-return]
        places = flat_places(self, list(key) + [slice(None)] * (self.ndim - len(key)))
        values = self._operand(values, self.dtype).expand(places.shape).reshape(-1)
        return self.flatten().scatter_add(0, places.reshape(-1), values).reshape(self.shape)  # type: ignore[no-any-return]

    def put(self, index: Any, source: Any, accumulate: bool = False) -> Tensor:
        """As :meth:`index_put`, in the flattened tensor."""
        return self.flatten().index_put((index,), source, accumulate).reshape(self.shape)  # type: ignore[no-any-return]

    def masked_scatter(self, mask: Any, source: Any) -> Tensor:
        """The elements of ``source``, in a row, to where ``mask`` holds."""
        if mask.dtype is not dtypes.bool_:
            raise TypeError(f"masked_scatter: a mask is of bools, not of {mask.dtype.name}")
        x, m = self.broadcast_tensors(self, mask)
        place = m.flatten().cumsum(0) - 1
        return m.where(source.flatten()[place.maximum(0)].reshape(x.shape), x)  # type: ignore[no-any-return]

    def select_scatter(self, src: Any, dim: int, index: int) -> Tensor:
        """A copy whose slice number ``index`` along ``dim`` is ``src``."""
        out = self.clone()
        out[(slice(None),) * self._axis(dim) + (index,)] = src
        return out  # type: ignore[no-any-return]

    def slice_scatter(self, src: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Tensor:
        """A copy whose slices ``start:end:step`` along ``dim`` are ``src``."""
        out = self.clone()
        out[(slice(None),) * self._axis(dim) + (slice(start, end, step),)] = src
        return out  # type: ignore[no-any-return]

    def diagonal_scatter(self, src: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
        """A copy with ``src`` along a diagonal."""
        a, b = self._axis(dim1), self._axis(dim2)
        x: Any = self.movedim((a, b), (-2, -1))
        rows, columns = x._new(graph.iota(x.shape[-2])).unsqueeze(1), x._new(graph.iota(x.shape[-1])).unsqueeze(0)
        hit = (columns - rows).eq(offset)
        along = (rows if offset >= 0 else columns).clamp(0, max(src.shape[-1] - 1, 0)).expand(x.shape)
        wide = src.unsqueeze(-2).expand(*x.shape[:-1], src.shape[-1]).gather(-1, along)
        return hit.where(wide, x).movedim((-2, -1), (a, b))  # type: ignore[no-any-return]


def _scattered(x: Any, dim: int, index: Any, source: Any, reduce: str | None, include: bool) -> Any:
    from compiler.tensor import Tensor
    if not x.ndim:
        return _scattered(x.reshape(1), 0, index.reshape(-1), source if not isinstance(source, Tensor)
                          else source.reshape(-1), reduce, include).reshape(())
    a = x._axis(dim)
    if not isinstance(source, Tensor):
        source = Tensor(source, x.dtype, x.device).expand(index.shape)
    if index.ndim != x.ndim or source.ndim != x.ndim:
        raise ValueError(f"scatter: index {index.shape} and source {source.shape} do not have the {x.ndim} axes of "
                         f"{x.shape}")
    if source.dtype is not x.dtype:
        raise TypeError(f"scatter of {source.dtype.name} into {x.dtype.name}: cast one")
    if any(k > n for i, (k, n) in enumerate(zip(index.shape, x.shape, strict=True)) if i != a) or any(
            k > n for k, n in zip(index.shape, source.shape, strict=True)):
        raise ValueError(f"scatter along axis {a}: index {index.shape} is larger than the tensor {x.shape} or the "
                         f"source {source.shape}")
    if index.numel() == 0:
        return x.clone()
    n, count = x.shape[a], index.shape[a]
    source = source.shrink([(0, k) for k in index.shape])
    places = wrap(index, n)
    old = x.shrink([(0, n) if i == a else (0, k) for i, k in enumerate(index.shape)])
    if reduce is None:      # of each place the last that goes there
        order = graph.reshape(graph.iota(count), tuple(count if i == a else 1 for i in range(x.ndim)))
        last = _into(old._new(graph.full(old.shape, dtypes.int32, -1)), Ops.MAX, a, places, places._new(order))
        new = (last < 0).where(old, source.gather(a, last.maximum(0)))
    else:
        new = _combined(old, a, places, source, reduce, include)
    if new.shape == x.shape:
        return new
    amounts = [(0, k - s) for k, s in zip(x.shape, new.shape, strict=True)]
    inside = graph.pad(graph.full(new.shape, dtypes.bool_, True), amounts)
    return x._new(inside).where(new._new(graph.pad(new._node, amounts)), x)


def _into(x: Any, op: Ops, axis: int, places: Any, values: Any) -> Any:
    values = values.expand(places.shape)
    return x._new(graph.scatter(x._node, op, axis, places._node, values._node), x, values)


def _combined(old: Any, axis: int, places: Any, source: Any, reduce: str, include: bool) -> Any:
    kind = old.dtype
    if reduce == "amin":        # the greatest of the opposites
        flip = (lambda t: -t) if kind.is_float else (lambda t: ~t)
        return flip(_combined(flip(old), axis, places, flip(source), "amax", include))
    if kind is dtypes.bool_ and reduce in ("sum", "prod"):      # one of them, all of them
        return _combined(old, axis, places, source, "amax" if reduce == "sum" else "amin", include)
    op = {"amax": Ops.MAX, "prod": Ops.MUL}.get(reduce, Ops.ADD)
    count: Any = None
    if reduce == "mean" or not include:
        zeros = old._new(graph.full(old.shape, dtypes.int32, 0))
        count = _into(zeros, Ops.ADD, axis, places, places._new(graph.scalar(dtypes.int32, 1)))
    if not include:
        old = (count > 0).where({Ops.MAX: kind.min, Ops.MUL: 1, Ops.ADD: 0}[op], old)
    total = _into(old, op, axis, places, source)
    if reduce != "mean":
        return total
    count = (count + int(include)).maximum(1)
    return total / count.cast(kind) if kind.is_float else total.div(count, rounding_mode="floor").cast(kind)
