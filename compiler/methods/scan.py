"""Running sums, products and maxima: by a triangle for each block of an axis, then over the blocks."""

from __future__ import annotations

import math
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

__all__ = ["Scan"]

_BLOCK = 256
"""Elements up to which the work is quadratic, and one kernel."""


def _triangle(x: Any, n: Any) -> Any:
    """(n, n) bools: may row i use column j, that is j <= i?"""
    places = x._new(graph.iota(n))
    return places.unsqueeze(0) <= places.unsqueeze(1)


def _scan(x: Any, op: Ops, identity: Any) -> Any:
    """Along the last axis: the reduction of all up to each element."""
    n = x.shape[-1]
    if not isinstance(n, int) or n <= _BLOCK:
        return _triangle(x, n).where(x.unsqueeze(-2), identity)._reduce(op, -1, False)
    blocks = -(-n // _BLOCK)
    x = x.pad([0, blocks * _BLOCK - n], value=identity).reshape(*x.shape[:-1], blocks, _BLOCK)
    inner = _scan(x, op, identity).contiguous()
    before = _scan(inner[..., -1], op, identity)[..., :-1].pad([1, 0], value=identity).unsqueeze(-1)
    whole = before + inner if op is Ops.ADD else before * inner if op is Ops.MUL else before.maximum(inner)
    return whole.reshape(*whole.shape[:-2], blocks * _BLOCK)[..., :n]


class Scan(Methods):
    """Mixin; see :class:`compiler.tensor.Tensor`."""

    __slots__ = ()

    def _along(self, dim: int, op: Ops, identity: Any, dtype: Any) -> Tensor:
        a = self._axis(dim)
        wide = dtypes.float32 if dtype.is_float and dtype.bits < 32 else dtype
        x: Any = self.cast(wide)
        if not self.ndim or self.numel() == 0:
            return x.cast(dtype)  # type: ignore[no-any-return]
        return _scan(x.transpose(a, -1), op, identity).transpose(a, -1).cast(dtype)  # type: ignore[no-any-return]

    @numpy_names
    def cumsum(self, dim: int = 0, dtype: DTypeLike | None = None) -> Tensor:
        """Sums so far along ``dim``; small integers are summed as int32 or uint32."""
        return self._along(dim, Ops.ADD, 0, dtypes.sum_type(self.dtype) if dtype is None else dtypes.of(dtype))

    @numpy_names
    def cumprod(self, dim: int = 0, dtype: DTypeLike | None = None) -> Tensor:
        """Products so far along ``dim``; small integers are multiplied as int32 or uint32."""
        return self._along(dim, Ops.MUL, 1, dtypes.sum_type(self.dtype) if dtype is None else dtypes.of(dtype))

    @numpy_names
    def cummax(self, dim: int = 0) -> Pair:
        """The greatest value so far, and where it was last; a NaN stays."""
        x: Any = self
        values = self.detach()._along(dim, Ops.MAX, self.dtype.min, self.dtype)
        if not self.ndim:
            return Pair(x, x._new(graph.full((), dtypes.default_int, 0)))
        a = self._axis(dim)
        places = graph.reshape(graph.iota(self.shape[a]), tuple(n if i == a else 1 for i, n in enumerate(self.shape)))
        news = x.eq(values) | x.isnan()
        indices = news.where(x._new(places), -1)._along(a, Ops.MAX, -1, dtypes.default_int)
        return Pair(x.gather(a, indices) if self.requires_grad else values, indices)

    @numpy_names
    def cummin(self, dim: int = 0) -> Pair:
        """(values, indices) of the least so far along ``dim``."""
        flip = (lambda t: -t) if self.dtype.is_float else (lambda t: ~t)
        values, indices = flip(self).cummax(dim)
        return Pair(flip(values), indices)

    @numpy_names
    @precisely
    def logcumsumexp(self, dim: int = 0) -> Tensor:
        """log(cumsum(exp(x))), each sum relative to its own greatest term (quadratic in the axis)."""
        a = self._axis(dim)
        if not self.ndim or self.numel() == 0:
            return self.clone()  # type: ignore[no-any-return]
        x = self.transpose(a, -1)
        top = x.detach()._along(-1, Ops.MAX, -math.inf, x.dtype)
        top = top.abs().eq(math.inf).where(0, top)
        terms = _triangle(x, x.shape[-1]).where(x.unsqueeze(-2) - top.unsqueeze(-1), -math.inf)
        return (terms.exp().sum(-1).log() + top).transpose(a, -1)  # type: ignore[no-any-return]

    @numpy_names
    def diff(self, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Tensor:
        """Differences of neighbours, ``n`` times."""
        if n < 0:
            raise ValueError(f"diff: {n} times is no number of times")
        if n == 0:
            return self.clone()  # type: ignore[no-any-return]
        parts = [p for p in (prepend, self, append) if p is not None]
        x: Any = parts[0].cat(*parts[1:], dim=dim) if len(parts) > 1 else self
        a = self._axis(dim)
        for _ in range(n):
            size = x.shape[a]
            late, early = x.narrow(a, min(1, size), max(size - 1, 0)), x.narrow(a, 0, max(size - 1, 0))
            x = late ^ early if x.dtype is dtypes.bool_ else late - early
        return x  # type: ignore[no-any-return]
