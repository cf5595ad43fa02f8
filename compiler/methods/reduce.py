"""Reductions, and what is made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from compiler import dtypes, graph
from compiler.dtypes import DTypeLike
from compiler.methods.base import Methods
from compiler.uop import Ops

if TYPE_CHECKING:
    from compiler.tensor import Tensor

__all__ = ["Reduce"]

Dims = int | Sequence[int] | None


class Reduce(Methods):
    """Mixin; see :class:`compiler.tensor.Tensor`. ``dim`` None is all axes."""

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

    def sum(self, dim: Dims = None, keepdim: bool = False, dtype: DTypeLike | None = None) -> Tensor:
        """Small integers and bools add up in 32 bits; half types in float32, and come back."""
        to = dtypes.of(dtype) if dtype is not None else dtypes.sum_type(self.dtype)
        wide = dtypes.float32 if to.is_float and to.bits == 16 else to
        return self.cast(wide)._reduce(Ops.ADD, dim, keepdim).cast(to)

    def prod(self, dim: Dims = None, keepdim: bool = False) -> Tensor:
        to = dtypes.sum_type(self.dtype)
        wide = dtypes.float32 if to.is_float and to.bits == 16 else to
        return self.cast(wide)._reduce(Ops.MUL, dim, keepdim).cast(to)

    def max(self, dim: Dims = None, keepdim: bool = False) -> Tensor:
        """The greatest value (its gradient is shared by those that are equal). ``dim`` gives values only: amax."""
        if any(self.shape[a] == 0 for a in self._axes(dim)):
            raise ValueError(f"max of no elements: the shape is {self.shape}")
        return self._reduce(Ops.MAX, dim, keepdim)

    def min(self, dim: Dims = None, keepdim: bool = False) -> Tensor:
        flip = (lambda t: -t) if self.dtype.is_float else (lambda t: ~t)
        return flip(flip(self).max(dim, keepdim))

    amax, amin = max, min

    def any(self, dim: Dims = None, keepdim: bool = False) -> Tensor:
        return self.bool()._reduce(Ops.MAX, dim, keepdim)

    def all(self, dim: Dims = None, keepdim: bool = False) -> Tensor:
        return self.bool().logical_not().any(dim, keepdim).logical_not()

    def mean(self, dim: Dims = None, keepdim: bool = False) -> Tensor:
        x = self if self.dtype.is_float else self.cast(dtypes.default_float)
        count = math.prod(self.shape[a] for a in self._axes(dim))
        wide = dtypes.float32 if x.dtype.bits == 16 else x.dtype
        if not isinstance(count, int):      # a symbolic size: divided by what it is at the launch
            return (x.sum(dim, keepdim, dtype=wide) / count).cast(x.dtype)
        return (x.sum(dim, keepdim, dtype=wide) * (1 / count if count else math.nan)).cast(x.dtype)

    def var(self, dim: Dims = None, keepdim: bool = False, correction: int = 1) -> Tensor:
        """Unbiased by default: divided by the count less ``correction``."""
        x = self if self.dtype.is_float else self.cast(dtypes.default_float)
        away = x - x.mean(dim, True)
        count = math.prod(self.shape[a] for a in self._axes(dim))
        return (away * away).sum(dim, keepdim) * (1 / (count - correction) if count > correction else math.nan)

    def std(self, dim: Dims = None, keepdim: bool = False, correction: int = 1) -> Tensor:
        return self.var(dim, keepdim, correction).sqrt()

    def norm(self, dim: Dims = None, keepdim: bool = False) -> Tensor:
        """The Euclidean norm."""
        return (self * self).sum(dim, keepdim).sqrt()

    def argmax(self, dim: int | None = None, keepdim: bool = False) -> Tensor:
        """The first position of the greatest value, int32; ``dim`` None: in the flattened tensor."""
        x: Any = self.detach()
        if dim is None:
            out = x.flatten().argmax(0)
            return out.reshape((1,) * self.ndim) if keepdim else out
        a = self._axis(dim)
        if not self.ndim:
            return self._new(graph.full((), dtypes.int32, 0))
        n = self.shape[a]
        top = x.max(a, True)
        hit = x.eq(top) | (x.isnan() if x.dtype.is_float else x.ne(x))
        backward = x._new(
            graph.expand(graph.reshape(graph.iota(n), tuple(n if i == a else 1 for i in range(self.ndim))), self.shape)
        )
        return (n - 1 - hit.where(n - 1 - backward, -1).max(a, keepdim)).cast(dtypes.int32)

    def argmin(self, dim: int | None = None, keepdim: bool = False) -> Tensor:
        return (-self if self.dtype.is_float else ~self).argmax(dim, keepdim)

    def logsumexp(self, dim: Dims = None, keepdim: bool = False) -> Tensor:
        top = self.max(dim, True).detach()
        top = top.abs().eq(math.inf).where(0, top)      # of nothing but -inf, or with inf: no inf - inf
        out = (self - top).exp().sum(dim, True).log() + top
        return out if keepdim else out.reshape(tuple(n for a, n in enumerate(self.shape) if a not in self._axes(dim)))

    def cumsum(self, dim: int = 0) -> Tensor:
        """By a triangle of ones: quadratic in the axis, and one kernel."""
        a = self._axis(dim)
        n = self.shape[a] if self.ndim else 1
        if not self.ndim or n == 0:
            return self.cast(dtypes.sum_type(self.dtype))
        x = self.transpose(a, -1).unsqueeze(-2)
        keep = self._new(graph.full((n, n), dtypes.bool_, True)).tril()
        return keep.where(x, 0).sum(-1).transpose(a, -1)
