"""Arrays from nothing, and from other things."""

from __future__ import annotations

import math
from typing import Any

from compiler import dtypes
from compiler.tensor import Tensor

__all__ = ["arange", "asarray", "empty", "empty_like", "eye", "from_dlpack", "full", "full_like", "linspace",
           "meshgrid", "ones", "ones_like", "tril", "triu", "zeros", "zeros_like"]


def asarray(obj: Any, /, *, dtype: Any = None, device: str | None = None, copy: bool | None = None) -> Tensor:
    """``copy`` None: only where type or device change; True: always; False: an error where it would be needed."""
    if isinstance(obj, Tensor):
        same = (dtype is None or dtypes.of(dtype) is obj.dtype) and device in (None, obj.device)
        if not same and copy is False:
            raise ValueError("asarray: another type or device needs a copy")
        out = obj if device is None else obj.to(device)
        out = out if dtype is None else out.cast(dtype)
        return out.clone() if copy and out is obj else out
    if copy is False:
        raise ValueError("asarray: memory of other libraries and Python numbers are copied, always")
    if isinstance(obj, list | tuple):       # numbers and arrays without axes may be mixed
        obj = _unboxed(obj)
    return Tensor(obj, dtype, device)


def _unboxed(obj: Any) -> Any:
    if isinstance(obj, list | tuple):
        return [_unboxed(o) for o in obj]
    return obj.tolist() if isinstance(obj, Tensor) else obj


def from_dlpack(x: Any, /, *, device: str | None = None, copy: bool | None = None) -> Tensor:
    if copy is False:
        raise ValueError("from_dlpack: memory of other libraries is copied, always")
    return Tensor.from_dlpack(x, device=device)


def arange(start: float, /, stop: float | None = None, step: float = 1, *, dtype: Any = None,
           device: str | None = None) -> Tensor:
    if dtype is not None and not all(isinstance(v, int) for v in (start, 0 if stop is None else stop, step)):
        return Tensor.arange(start, stop, step, device=device).cast(dtype)      # as many as the floats say
    return Tensor.arange(start, stop, step, dtype=dtype, device=device)


def full(shape: Any, fill_value: Any, *, dtype: Any = None, device: str | None = None) -> Tensor:
    return Tensor.full(shape, fill_value, dtype=dtype, device=device)


def zeros(shape: Any, *, dtype: Any = None, device: str | None = None) -> Tensor:
    return full(shape, 0, dtype=dtype or dtypes.default_float, device=device)


def ones(shape: Any, *, dtype: Any = None, device: str | None = None) -> Tensor:
    return full(shape, 1, dtype=dtype or dtypes.default_float, device=device)


empty = zeros


def full_like(x: Tensor, /, fill_value: Any, *, dtype: Any = None, device: str | None = None) -> Tensor:
    return x.full_like(fill_value, dtype=dtype, device=device)


def zeros_like(x: Tensor, /, *, dtype: Any = None, device: str | None = None) -> Tensor:
    return x.full_like(0, dtype=dtype, device=device)


def ones_like(x: Tensor, /, *, dtype: Any = None, device: str | None = None) -> Tensor:
    return x.full_like(1, dtype=dtype, device=device)


empty_like = zeros_like


def eye(n_rows: int, n_cols: int | None = None, /, *, k: int = 0, dtype: Any = None,
        device: str | None = None) -> Tensor:
    columns = n_rows if n_cols is None else n_cols
    out = (Tensor.arange(columns, device=device).reshape(1, columns)
           - Tensor.arange(n_rows, device=device).reshape(n_rows, 1)).eq(k)
    return out.cast(dtype or dtypes.default_float)  # type: ignore[no-any-return]


def linspace(start: float, stop: float, /, num: int, *, dtype: Any = None, device: str | None = None,
             endpoint: bool = True) -> Tensor:
    to = dtypes.of(dtype or dtypes.default_float)
    if endpoint or num == 0:
        return Tensor.linspace(start, stop, num, dtype=to, device=device)
    return Tensor.linspace(start, start + (stop - start) * (num - 1) / num if math.isfinite(stop - start) else stop,
                           num, dtype=to, device=device)


def meshgrid(*arrays: Tensor, indexing: str = "xy") -> list[Tensor]:
    return list(Tensor.meshgrid(*arrays, indexing=indexing))


def tril(x: Tensor, /, *, k: int = 0) -> Tensor:
    return x.tril(k)


def triu(x: Tensor, /, *, k: int = 0) -> Tensor:
    return x.triu(k)


