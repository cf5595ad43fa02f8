"""Reductions, searching, sorting and sets."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from compiler import dtypes
from compiler.tensor import Tensor

__all__ = ["all", "any", "argmax", "argmin", "argsort", "count_nonzero", "cumulative_prod", "cumulative_sum", "diff",
           "isin", "max", "mean", "min", "nonzero", "prod", "searchsorted", "sort", "std", "sum", "take",
           "take_along_axis", "unique_all", "unique_counts", "unique_inverse", "unique_values", "var", "where"]

Axis = int | tuple[int, ...] | None


class UniqueAll(NamedTuple):
    values: Tensor
    indices: Tensor
    inverse_indices: Tensor
    counts: Tensor


class UniqueCounts(NamedTuple):
    values: Tensor
    counts: Tensor


class UniqueInverse(NamedTuple):
    values: Tensor
    inverse_indices: Tensor


def sum(x: Tensor, /, *, axis: Axis = None, dtype: Any = None, keepdims: bool = False) -> Tensor:
    return x.sum(axis, keepdims, dtype)


def prod(x: Tensor, /, *, axis: Axis = None, dtype: Any = None, keepdims: bool = False) -> Tensor:
    return x.prod(axis, keepdims, dtype)


def max(x: Tensor, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    return x.amax(axis, keepdims)


def min(x: Tensor, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    return x.amin(axis, keepdims)


def mean(x: Tensor, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    return x.mean(axis, keepdims)


def var(x: Tensor, /, *, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    return x.var(axis, keepdim=keepdims, correction=correction)


def std(x: Tensor, /, *, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    return x.std(axis, keepdim=keepdims, correction=correction)


def all(x: Tensor, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    return x.all(axis, keepdims)


def any(x: Tensor, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    return x.any(axis, keepdims)


def count_nonzero(x: Tensor, /, *, axis: Axis = None, keepdims: bool = False) -> Tensor:
    return x.bool().sum(axis, keepdims)


def _scan(x: Tensor, name: str, start: int, axis: int | None, dtype: Any, include_initial: bool) -> Tensor:
    if axis is None:
        if x.ndim > 1:
            raise ValueError(f"a cumulative function of an array of shape {x.shape} needs an axis")
        axis = 0
    out: Tensor = getattr(x if x.ndim else x.reshape(1), name)(axis, dtype)
    if include_initial:
        shape = [1 if a == axis % out.ndim else n for a, n in enumerate(out.shape)]
        out = Tensor.full(shape, start, dtype=out.dtype, device=out.device).cat(out, dim=axis)
    return out


def cumulative_sum(x: Tensor, /, *, axis: int | None = None, dtype: Any = None,
                   include_initial: bool = False) -> Tensor:
    return _scan(x, "cumsum", 0, axis, dtype, include_initial)


def cumulative_prod(x: Tensor, /, *, axis: int | None = None, dtype: Any = None,
                    include_initial: bool = False) -> Tensor:
    return _scan(x, "cumprod", 1, axis, dtype, include_initial)


def diff(x: Tensor, /, *, axis: int = -1, n: int = 1, prepend: Tensor | None = None,
         append: Tensor | None = None) -> Tensor:
    return x.diff(n, axis, prepend, append)


def argmax(x: Tensor, /, *, axis: int | None = None, keepdims: bool = False) -> Tensor:
    return x.argmax(axis, keepdims)


def argmin(x: Tensor, /, *, axis: int | None = None, keepdims: bool = False) -> Tensor:
    return x.argmin(axis, keepdims)


def argsort(x: Tensor, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    return x.argsort(axis, descending, stable)


def sort(x: Tensor, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    return x.sort(axis, descending, stable).values


def nonzero(x: Tensor, /) -> tuple[Tensor, ...]:
    if not x.ndim:
        raise ValueError("nonzero is of arrays with axes")
    return x.nonzero(as_tuple=True)  # type: ignore[no-any-return]


def searchsorted(x1: Tensor, x2: Tensor, /, *, side: str = "left", sorter: Tensor | None = None) -> Tensor:
    return (x1 if sorter is None else x1[sorter]).searchsorted(x2, side=side)


def where(condition: Tensor, x1: Any, x2: Any, /) -> Tensor:
    return condition.bool().where(x1, x2)


def isin(x1: Any, x2: Any, /, *, invert: bool = False) -> Tensor:
    first = x1 if isinstance(x1, Tensor) else x2._operand(x1, x2.dtype)
    out: Tensor = first.isin(x2)
    return ~out if invert else out


def take(x: Tensor, indices: Tensor, /, *, axis: int | None = None) -> Tensor:
    if axis is None:
        if x.ndim != 1:
            raise ValueError(f"take from an array of shape {x.shape} needs an axis")
        axis = 0
    return x.index_select(axis, indices)


def take_along_axis(x: Tensor, indices: Tensor, /, *, axis: int = -1) -> Tensor:
    return x.take_along_dim(indices, axis)


def unique_all(x: Tensor, /) -> UniqueAll:
    values, indices, inverse, counts = np.unique(
        x.numpy(), return_index=True, return_inverse=True, return_counts=True, equal_nan=False)
    numbers = (Tensor(a.reshape(s), dtypes.default_int, x.device) for a, s in (
        (indices, indices.shape), (inverse, x.shape), (counts, counts.shape)))
    return UniqueAll(Tensor(values, x.dtype, x.device), *numbers)


def unique_counts(x: Tensor, /) -> UniqueCounts:
    every = unique_all(x)
    return UniqueCounts(every.values, every.counts)


def unique_inverse(x: Tensor, /) -> UniqueInverse:
    every = unique_all(x)
    return UniqueInverse(every.values, every.inverse_indices)


def unique_values(x: Tensor, /) -> Tensor:
    return unique_all(x).values
