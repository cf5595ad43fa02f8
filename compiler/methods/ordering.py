"""Sorting, and what is found by order.

Every element is given an integer key of the same order (NaNs last). Up to a block's length an element's place is the
number of those before it, which is one kernel; sorted blocks are merged in pairs, each output finding its source by
a binary search along the merge path (Green, McColl and Bader, "GPU Merge Path", ICS 2012): loads only, no exchange.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler import dtypes, graph
from compiler.methods.base import Methods
from compiler.methods.names import numpy_names
from compiler.methods.pairs import Pair

if TYPE_CHECKING:
    from compiler.tensor import Tensor

__all__ = ["Ordering"]

_BLOCK = 512


def _key(x: Any, descending: bool) -> Any:
    """Integers in the order of the values: floats by their bits, which grow with the size."""
    if x.dtype is dtypes.bool_:
        x = x.cast(dtypes.int32)
    if x.dtype.is_float:
        x = x.cast(dtypes.float32) if x.dtype.bits < 32 else x
        whole = dtypes.int32 if x.dtype.bits == 32 else dtypes.int64
        bits = x.isnan().where(math.nan, x.eq(0).where(0, x)).bitcast(whole)
        x = (bits < 0).where(bits ^ whole.max, bits)
    return ~x if descending else x


def _ranked(key: Any) -> Any:
    """The order of the last axis, by counting (stable)."""
    n = key.shape[-1]
    places = key._new(graph.iota(n))
    mine, theirs = key.unsqueeze(-1), key.unsqueeze(-2)
    before = (theirs < mine) | (theirs.eq(mine) & (places.unsqueeze(0) < places.unsqueeze(1)))
    rank = before.sum(-1).contiguous()
    return rank.unsqueeze(-2).eq(places.unsqueeze(1)).where(places, 0)._reduce_raw(-1)


def _merged(key: Any, order: Any) -> tuple[Any, Any]:
    """Sorted runs (..., runs, length) merged in pairs: (..., runs // 2, 2 * length)."""
    length = key.shape[-1]
    a, b = key[..., 0::2, :], key[..., 1::2, :]
    k = key._new(graph.iota(2 * length)).expand(*a.shape[:-1], 2 * length)
    low, high = (k - length).maximum(0), k.minimum(length)
    for _ in range(length.bit_length()):
        middle = (low + high) >> 1
        left = a.gather(-1, middle.minimum(length - 1)) <= b.gather(-1, (k - middle - 1).clamp(0, length - 1))
        go = low < high
        low, high = (go & left).where(middle + 1, low).contiguous(), (go & ~left).where(middle, high).contiguous()
    other = k - low
    first = (low < length) & ((other >= length) | (
        a.gather(-1, low.minimum(length - 1)) <= b.gather(-1, other.minimum(length - 1))))
    source = first.where(low, other + length).contiguous()

    def take(x: Any) -> Any:
        return x.reshape(*a.shape[:-1], 2 * length).gather(-1, source).contiguous()
    return take(key), take(order)


def _order(key: Any) -> Any:
    """The stable order of the last axis: int32."""
    n = key.shape[-1]
    if n <= _BLOCK:
        return _ranked(key)
    runs = 1 << (-(-n // _BLOCK) - 1).bit_length()
    length = -(-n // runs)
    key = key.contiguous()
    padded = key.pad([0, runs * length - n], value=key.dtype.max).reshape(*key.shape[:-1], runs, length).contiguous()
    inner = _ranked(padded).contiguous()
    start = key._new(graph.iota(runs)).unsqueeze(-1) * length
    padded, order = padded.gather(-1, inner).contiguous(), (inner + start).contiguous()
    while padded.shape[-2] > 1:
        padded, order = _merged(padded, order)
    return order.reshape(*key.shape[:-1], runs * length)[..., :n]


class Ordering(Methods):
    """Mixin; see :class:`compiler.tensor.Tensor`."""

    __slots__ = ()

    @numpy_names
    def argsort(self, dim: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
        """int32; equal elements keep their order, NaNs are the greatest."""
        x: Any = self.detach()
        if not self.ndim or self.numel() == 0:
            return x._new(graph.full(self.shape, dtypes.default_int, 0))  # type: ignore[no-any-return]
        a = self._axis(dim)
        return _order(_key(x, descending).transpose(a, -1)).transpose(a, -1)  # type: ignore[no-any-return]

    @numpy_names
    def sort(self, dim: int = -1, descending: bool = False, stable: bool = True) -> Pair:
        """(values, indices) in order along ``dim``; equal ones stay in order, NaN is the greatest."""
        indices = self.argsort(dim, descending, stable).contiguous()
        x: Any = self
        return Pair(x.gather(dim, indices) if self.ndim and self.numel() else x.clone(), indices)

    def msort(self) -> Tensor:
        """Sorted along axis 0."""
        return self.sort(0).values

    @numpy_names
    def topk(self, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Pair:
        """(values, indices) of the ``k`` greatest along ``dim``, or least; in order."""
        n = self.shape[self._axis(dim)] if self.ndim else 1
        if not 0 <= k <= n:
            raise ValueError(f"topk: {k} of an axis of {n} elements")
        values, indices = self.sort(dim, largest)
        if not self.ndim:
            return Pair(values, indices)
        return Pair(values.narrow(dim, 0, k), indices.narrow(dim, 0, k))

    @numpy_names
    def kthvalue(self, k: int, dim: int = -1, keepdim: bool = False) -> Pair:
        """The k-th smallest, from 1."""
        n = self.shape[self._axis(dim)] if self.ndim else 1
        if not 1 <= k <= n:
            raise ValueError(f"kthvalue: number {k} of an axis of {n} elements")
        return self._at(k - 1, dim, keepdim)

    def _at(self, place: int, dim: int, keepdim: bool) -> Pair:
        pair = self.sort(dim)
        if not self.ndim:
            return pair
        parts = (p.narrow(dim, place, 1) for p in pair)
        return Pair(*(p if keepdim else p.squeeze(dim) for p in parts))

    @numpy_names
    def median(self, dim: int | None = None, keepdim: bool = False) -> Any:
        """The lower one of two in the middle; NaN if there is one. With ``dim`` a pair of values and indices."""
        if dim is None:
            return self.flatten().median(0).values
        if not self.ndim:
            return self.sort(0)
        a = self._axis(dim)
        if self.shape[a] == 0:
            raise ValueError(f"median of no elements: the shape is {self.shape}")
        x: Any = self
        nan = x.detach().isnan()
        index = self.argsort(a).narrow(a, (self.shape[a] - 1) // 2, 1)
        index = nan.any(a, True).where(nan.int().argmax(a, True), index)
        values = x.gather(a, index)
        return Pair(*((values, index) if keepdim else (values.squeeze(a), index.squeeze(a))))

    @numpy_names
    def nanmedian(self, dim: int | None = None, keepdim: bool = False) -> Any:
        """The median of what is no NaN; with ``dim`` a pair, values and indices."""
        if dim is None:
            return self.flatten().nanmedian(0).values
        if not self.ndim:
            return self.sort(0)
        a = self._axis(dim)
        x: Any = self
        count = x.isnan().logical_not().sum(a, True)
        index = self.argsort(a).gather(a, ((count - 1) // 2).clamp(min=0))
        values = x.gather(a, index)
        return Pair(*((values, index) if keepdim else (values.squeeze(a), index.squeeze(a))))

    @numpy_names
    def mode(self, dim: int = -1, keepdim: bool = False) -> Pair:
        """The most frequent value, the least of several; the index is its last one."""
        if not self.ndim:
            return self.sort(0)
        a = self._axis(dim)
        values, indices = (t.transpose(a, -1) for t in self.sort(a))
        count = values.unsqueeze(-1).eq(values.unsqueeze(-2)).sum(-1)
        place = count.argmax(-1, True)
        last = place + count.gather(-1, place) - 1
        out = (values.gather(-1, place).transpose(a, -1), indices.gather(-1, last).transpose(a, -1))
        return Pair(*(out if keepdim else (t.squeeze(a) for t in out)))

    @numpy_names
    def quantile(self, q: Any, dim: int | None = None, keepdim: bool = False, *,
                 interpolation: str = "linear") -> Tensor:
        """``q`` is a number or a 1-D tensor in [0, 1], whose axis comes first."""
        from compiler.tensor import Tensor
        if dim is None or not self.ndim:
            flat = self.flatten().quantile(q, 0, interpolation=interpolation)
            return flat.reshape(*flat.shape, *[1] * self.ndim) if keepdim else flat  # type: ignore[no-any-return]
        a = self._axis(dim)
        wants: Any = q if isinstance(q, Tensor) else Tensor(q, self.dtype, self.device)
        flat_q = wants.flatten()
        ordered = self.sort(a).values.movedim(a, -1)
        n = self.shape[a]
        shape = (*[1] * (self.ndim - 1), flat_q.shape[0])
        place = (flat_q * (n - 1)).reshape(shape).expand(*ordered.shape[:-1], flat_q.shape[0])
        low, high = (ordered.gather(-1, p.int()) for p in (place.floor(), place.ceil()))
        part = place - place.floor()
        if interpolation == "linear":
            out = low + (high - low) * part
        elif interpolation in ("lower", "higher"):
            out = low if interpolation == "lower" else high
        elif interpolation == "midpoint":
            out = (low + high) * 0.5
        elif interpolation == "nearest":
            out = ordered.gather(-1, place.round().int())
        else:
            raise ValueError("quantile: interpolation is 'linear', 'lower', 'higher', 'midpoint' or 'nearest', not "
                             f"{interpolation!r}")
        out = self.isnan().any(a, True).movedim(a, -1).where(math.nan, out).movedim(-1, 0)
        out = out.unsqueeze(a + 1) if keepdim else out
        return out.squeeze(0) if not wants.ndim else out  # type: ignore[no-any-return]

    def searchsorted(self, values: Any, *, out_int32: bool = False, right: bool = False, side: str | None = None,
                     sorter: Any = None) -> Tensor:
        """Where ``values`` would be put into this sorted tensor's last axis: int32, whatever ``out_int32`` says.
        ``sorter`` is the order of a tensor that is not sorted."""
        x: Any = self if sorter is None else self.gather(-1, sorter)
        if side not in (None, "left", "right"):
            raise ValueError(f"searchsorted: side is 'left' or 'right', not {side!r}")
        v = self._operand(values, self.dtype)
        right = right if side is None else side == "right"
        edges = x if x.ndim == 1 else x.unsqueeze(-2)
        mine = v.unsqueeze(-1)
        return ((edges <= mine) if right else (edges < mine)).sum(-1)  # type: ignore[no-any-return]

    def bucketize(self, boundaries: Any, *, out_int32: bool = False, right: bool = False) -> Tensor:
        """In which bucket each element falls, between sorted ``boundaries``; ``right``: a boundary belongs to the one
        above."""
        from compiler.tensor import Tensor
        edges = boundaries if isinstance(boundaries, Tensor) else Tensor(boundaries, device=self.device)
        if edges.ndim != 1:
            raise ValueError(f"bucketize: boundaries stand in a row, not in a shape {edges.shape}")
        return edges.searchsorted(self, right=right)

    def isin(self, elements: Any) -> Tensor:
        """Is each element among ``elements``?"""
        others = self._operand(elements, self.dtype).flatten()
        if others.numel() == 0:
            return self.ne(self) & False  # type: ignore[no-any-return]
        return self.unsqueeze(-1).eq(others).any(-1)  # type: ignore[no-any-return]

    # of sizes that depend on values: these compute at once

    @numpy_names
    def unique(self, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False,
               dim: int | None = None) -> Any:
        """The different values in order, or slices along ``dim``; with ``return_inverse`` and ``return_counts`` a
        tuple."""
        a = None if dim is None or not self.ndim else self._axis(dim)
        values, inverse, counts = np.unique(self.numpy(), return_inverse=True, return_counts=True, axis=a)
        return self._found(values, inverse.reshape(self.shape if a is None else -1) if return_inverse else None,
                           counts if return_counts else None)

    @numpy_names
    def unique_consecutive(self, return_inverse: bool = False, return_counts: bool = False,
                           dim: int | None = None) -> Any:
        """The flattened tensor without repetitions of the element before; or slices along ``dim``, without
        repetitions of the slice before."""
        a = None if dim is None or not self.ndim else self._axis(dim)
        x = self.numpy().reshape(-1) if a is None else np.moveaxis(self.numpy(), a, 0)
        new = np.ones(len(x), bool)
        new[1:] = (x[1:] != x[:-1]).any(axis=tuple(range(1, x.ndim)))
        values = x[new] if a is None else np.moveaxis(x[new], 0, a)
        inverse = (np.cumsum(new) - 1).reshape(self.shape if a is None else -1)
        counts = np.diff(np.append(np.nonzero(new)[0], len(x)))
        return self._found(values, inverse if return_inverse else None, counts if return_counts else None)

    def _found(self, values: Any, *numbers: Any) -> Any:
        """Values, and what there is of whole numbers about them."""
        make: Any = type(self)
        out = [make(values, self.dtype, self.device)]
        out += [make(n, dtypes.default_int, self.device) for n in numbers if n is not None]
        return out[0] if len(out) == 1 else tuple(out)

    def bincount(self, weights: Any = None, minlength: int = 0) -> Tensor:
        """How often (or with what weight) each number from 0 on occurs."""
        x: Any = self
        size = max(minlength, int(x.amax().item()) + 1 if self.numel() else 0)
        if self.numel() and int(x.amin().item()) < 0:
            raise ValueError("bincount needs numbers that are not negative")
        return x._counted(size, weights)  # type: ignore[no-any-return]

    def _counted(self, size: int, weights: Any) -> Tensor:
        """How much goes to each of ``size`` places that this row of numbers names."""
        x: Any = self
        kind = dtypes.default_int if weights is None else weights.dtype if weights.dtype.is_float else dtypes.float64
        weights = None if weights is None else weights.cast(kind)
        weights = x._new(graph.full(x.shape, kind, 1)) if weights is None else weights
        return x._new(graph.full((size,), kind, 0)).scatter_add(0, x, weights)  # type: ignore[no-any-return]

    def histc(self, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
        """Counts in ``bins`` equal parts of [min, max]; those of the values if both are 0."""
        x: Any = self.flatten()
        if not x.numel():
            return x._new(graph.full((bins,), self.dtype, 0))  # type: ignore[no-any-return]
        low, high = (min, max) if min != max else (float(x.amin().item()), float(x.amax().item()))
        if low == high:
            low, high = low - 1, high + 1
        inside = (x >= low) & (x <= high)
        place = ((x - low) * (bins / (high - low))).floor().clamp(0, bins - 1).int()
        return inside.where(place, bins)._counted(bins, None).cast(self.dtype)  # type: ignore[no-any-return]


