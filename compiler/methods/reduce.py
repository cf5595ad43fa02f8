"""Reductions, and what is made of them. ``dim`` None is all axes; NumPy's ``axis`` and ``keepdims`` are taken too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from compiler import dtypes, graph
from compiler.dtypes import DTypeLike
from compiler.methods.base import Methods
from compiler.methods.functions import precisely
from compiler.methods.names import numpy_names
from compiler.methods.pairs import Pair
from compiler.uop import Ops

if TYPE_CHECKING:
    from compiler.tensor import Tensor

__all__ = ["Reduce"]

Dims = int | Sequence[int] | None


class Reduce(Methods):
    """Mixin; see :class:`compiler.tensor.Tensor`."""

    __slots__ = ()

    def _reduce(self, op: Ops, dim: Dims, keepdim: bool) -> Tensor:
        axes = self._axes(dim)
        out = graph.reduce(self._node, op, axes)
        if not keepdim:
            out = graph.reshape(out, tuple(n for a, n in enumerate(self.shape) if a not in axes))
        return self._new(out)

    def _reduce_raw(self, dim: int) -> Tensor:
        """A sum in the tensor's own type, for sums of which at most one term is not 0."""
        return self._reduce(Ops.ADD, dim, False)

    def _accumulate(self, op: Ops, dim: Dims, keepdim: bool, dtype: DTypeLike | None) -> Tensor:
        to = dtypes.of(dtype) if dtype is not None else dtypes.sum_type(self.dtype)
        wide = dtypes.float32 if to.is_float and to.bits < 32 else to
        return self.cast(wide)._reduce(op, dim, keepdim).cast(to)

    @numpy_names
    def sum(self, dim: Dims = None, keepdim: bool = False, dtype: DTypeLike | None = None) -> Tensor:
        """Small integers and bools add up in 32 bits; half types in float32, and come back."""
        return self._accumulate(Ops.ADD, dim, keepdim, dtype)

    @numpy_names
    def prod(self, dim: Dims = None, keepdim: bool = False, dtype: DTypeLike | None = None) -> Tensor:
        """The product over ``dim`` or everything; small integers are multiplied as int32 or uint32."""
        return self._accumulate(Ops.MUL, dim, keepdim, dtype)

    @numpy_names
    def amax(self, dim: Dims = None, keepdim: bool = False) -> Tensor:
        """The greatest value; NaN if there is one. The gradient is shared by those that are equal."""
        if any(self.shape[a] == 0 for a in self._axes(dim)):
            raise ValueError(f"max of no elements: the shape is {self.shape}")
        wide = dtypes.float32 if self.dtype.is_float and self.dtype.bits < 32 else self.dtype
        return self.cast(wide)._reduce(Ops.MAX, dim, keepdim).cast(self.dtype)

    @numpy_names
    def amin(self, dim: Dims = None, keepdim: bool = False) -> Tensor:
        """The least over ``dim`` or everything; NaN where one is."""
        flip = (lambda t: -t) if self.dtype.is_float else (lambda t: ~t)
        return flip(flip(self).amax(dim, keepdim))

    def max(self, *args: Any, **kwargs: Any) -> Any:
        """As PyTorch's: without arguments the greatest value; of one axis (``dim``) a pair of values and indices;
        with a tensor, :meth:`maximum`. ``axis``, or several axes: the values alone, as NumPy's (:meth:`amax`)."""
        return self._extreme("max", args, kwargs)

    def min(self, *args: Any, **kwargs: Any) -> Any:
        """See :meth:`max`."""
        return self._extreme("min", args, kwargs)

    def _extreme(self: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        from compiler.tensor import Tensor
        other = args[0] if args else kwargs.get("other")
        if isinstance(other, Tensor):
            return self.maximum(other) if name == "max" else self.minimum(other)
        values = self.amax if name == "max" else self.amin
        if not isinstance(args[0] if args else kwargs.get("dim"), int):
            return values(*args, **kwargs)
        dim, keepdim = self._arguments(*args, **kwargs)
        if self.ndim and self.shape[self._axis(dim)] == 0:
            raise ValueError(f"{name} of no elements: the shape is {self.shape}")
        indices = (self.argmax if name == "max" else self.argmin)(dim, True)
        best = self.gather(dim, indices) if self.requires_grad and self.ndim else values(dim, True)
        return Pair(*((best, indices) if keepdim or not self.ndim else (best.squeeze(dim), indices.squeeze(dim))))

    @staticmethod
    @numpy_names
    def _arguments(dim: int, keepdim: bool = False) -> tuple[int, bool]:
        return dim, keepdim

    @numpy_names
    def aminmax(self, *, dim: Dims = None, keepdim: bool = False) -> tuple[Tensor, Tensor]:
        """(amin, amax)"""
        return self.amin(dim, keepdim), self.amax(dim, keepdim)

    @numpy_names
    def any(self, dim: Dims = None, keepdim: bool = False) -> Tensor:
        """Whether one is not 0, over ``dim`` or everything, a bool tensor; of nothing, False."""
        return self.bool()._reduce(Ops.MAX, dim, keepdim)

    @numpy_names
    def all(self, dim: Dims = None, keepdim: bool = False) -> Tensor:
        """Whether all are not 0, over ``dim`` or everything, a bool tensor; of nothing, True."""
        return self.bool().logical_not().any(dim, keepdim).logical_not()

    @numpy_names
    def count_nonzero(self, dim: Dims = None) -> Tensor:
        """How many are not 0, over ``dim`` or everything."""
        return self.bool().sum(dim)

    def _count(self, dim: Dims) -> Any:
        return math.prod(self.shape[a] for a in self._axes(dim))

    @numpy_names
    def mean(self, dim: Dims = None, keepdim: bool = False, dtype: DTypeLike | None = None) -> Tensor:
        """The mean over ``dim`` or everything; integers give the default float, half types are summed in float32."""
        x: Any = self if dtype is None else self.cast(dtype)
        x = x if x.dtype.is_float else x.cast(dtypes.default_float)
        count = self._count(dim)
        wide = dtypes.float32 if x.dtype.bits < 32 else x.dtype
        total = x.sum(dim, keepdim, dtype=wide)
        if not isinstance(count, int):      # a symbolic size: divided by what it is at the launch
            return (total / count).cast(x.dtype)  # type: ignore[no-any-return]
        return (total * (1 / count if count else math.nan)).cast(x.dtype)  # type: ignore[no-any-return]

    @numpy_names
    def var(self, dim: Dims = None, unbiased: bool | None = None, keepdim: bool = False, *,
            correction: float | None = None) -> Tensor:
        """Unbiased by default: divided by the count less ``correction`` (1; 0 with ``unbiased=False``)."""
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        return self._variance(dim, keepdim, correction if correction is not None else unbiased is not False)

    @precisely
    def _variance(self, dim: Dims, keepdim: bool, correction: float) -> Tensor:
        away = self - self.mean(dim, True)
        count = self._count(dim)
        total = (away * away).sum(dim, keepdim)
        if not isinstance(count, int):
            return total / (count - correction)
        return total * (1 / (count - correction)) if count > correction else total * math.nan

    @numpy_names
    def std(self, dim: Dims = None, unbiased: bool | None = None, keepdim: bool = False, *,
            correction: float | None = None) -> Tensor:
        """Square root of :meth:`var`."""
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        return self.var(dim, unbiased, keepdim, correction=correction).sqrt()

    @numpy_names
    def var_mean(self, dim: Dims = None, unbiased: bool | None = None, keepdim: bool = False, *,
                 correction: float | None = None) -> tuple[Tensor, Tensor]:
        """(var, mean)"""
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        return self.var(dim, unbiased, keepdim, correction=correction), self.mean(dim, keepdim)

    @numpy_names
    def std_mean(self, dim: Dims = None, unbiased: bool | None = None, keepdim: bool = False, *,
                 correction: float | None = None) -> tuple[Tensor, Tensor]:
        """(std, mean)"""
        variance, mean = self.var_mean(dim, unbiased, keepdim, correction=correction)
        return variance.sqrt(), mean

    @numpy_names
    def norm(self, p: Any = "fro", dim: Dims = None, keepdim: bool = False, dtype: DTypeLike | None = None) -> Tensor:
        """``(sum of |x|**p)**(1/p)``; ``p`` may be infinite, or 0, which counts. Its gradient at 0 is 0."""
        x: Any = self if dtype is None else self.cast(dtype)
        if p == "nuc":
            axes = self._axes(dim)
            out = x.movedim(axes, (-2, -1)).matrix_norm("nuc")
            return out.reshape([1 if a in axes else n for a, n in enumerate(self.shape)]) if keepdim else out  # type: ignore[no-any-return]
        return x._norm(2 if p in ("fro", None) else p, dim, keepdim)  # type: ignore[no-any-return]

    @precisely
    def _norm(self, p: float, dim: Dims, keepdim: bool) -> Tensor:
        if p in (math.inf, -math.inf):
            return self.abs().amax(dim, keepdim) if p > 0 else self.abs().amin(dim, keepdim)
        if p == 0:
            return self.ne(0).cast(self.dtype).sum(dim, keepdim)
        if p == 1:
            return self.abs().sum(dim, keepdim)
        total: Any = (self * self if p == 2 else self.abs() ** p).sum(dim, keepdim)
        zero = total.eq(0)
        root = zero.where(1, total)
        return zero.where(0, root.sqrt() if p == 2 else root ** (1 / p))  # type: ignore[no-any-return]

    def dist(self, other: Any, p: float = 2) -> Tensor:
        """The ``p`` norm of self - other."""
        return (self - other).norm(p)  # type: ignore[no-any-return]

    @numpy_names
    def nansum(self, dim: Dims = None, keepdim: bool = False, dtype: DTypeLike | None = None) -> Tensor:
        """The sum of what is no NaN."""
        return self.isnan().where(0, self).sum(dim, keepdim, dtype)

    @numpy_names
    def nanmean(self, dim: Dims = None, keepdim: bool = False) -> Tensor:
        """The mean of what is no NaN."""
        there = self.isnan().logical_not()
        return self.nansum(dim, keepdim) / there.sum(dim, keepdim)  # type: ignore[no-any-return]

    @numpy_names
    def argmax(self, dim: int | None = None, keepdim: bool = False) -> Tensor:
        """The first position of the greatest value (or NaN), int32; ``dim`` None: in the flattened tensor."""
        x: Any = self.detach()
        if dim is None:
            out = x.flatten().argmax(0)
            return out.reshape((1,) * self.ndim) if keepdim else out  # type: ignore[no-any-return]
        a = self._axis(dim)
        if not self.ndim:
            return self._new(graph.full((), dtypes.int32, 0))
        n = self.shape[a]
        top = x.amax(a, True)
        hit = x.eq(top) | (x.isnan() if x.dtype.is_float else x.ne(x))
        place = graph.reshape(graph.iota(n), tuple(n if i == a else 1 for i in range(self.ndim)))
        backward = x._new(graph.expand(place, self.shape))
        return (n - 1 - hit.where(n - 1 - backward, -1).amax(a, keepdim)).cast(dtypes.int32)  # type: ignore[no-any-return]

    @numpy_names
    def argmin(self, dim: int | None = None, keepdim: bool = False) -> Tensor:
        """Where the first of the least stands along ``dim``, or among all elements, int32."""
        return (-self if self.dtype.is_float else ~self).argmax(dim, keepdim)  # type: ignore[no-any-return]

    @numpy_names
    @precisely
    def logsumexp(self, dim: Dims = None, keepdim: bool = False) -> Tensor:
        """log(sum(exp(x))) without overflow on the way."""
        top = self.amax(dim, True).detach()
        top = top.abs().eq(math.inf).where(0, top)      # of nothing but -inf, or with inf: no inf - inf
        out: Any = (self - top).exp().sum(dim, True).log() + top
        return out if keepdim else out.reshape(  # type: ignore[no-any-return]
            tuple(n for a, n in enumerate(self.shape) if a not in self._axes(dim)))

    def trace(self) -> Tensor:
        """The sum of a matrix's diagonal."""
        if self.ndim != 2:
            raise ValueError(f"trace is of a matrix, not of a shape {self.shape}")
        return self.diagonal().sum()  # type: ignore[no-any-return]
