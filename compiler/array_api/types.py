"""Types: what they are, and how they combine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.dtypes import DType
from compiler.runtime import default_device
from compiler.tensor import Tensor

__all__ = ["__array_namespace_info__", "astype", "can_cast", "finfo", "iinfo", "isdtype", "result_type"]

_ALL = {t.name: t for t in (
    dtypes.bool_, dtypes.int8, dtypes.int16, dtypes.int32, dtypes.int64, dtypes.uint8, dtypes.uint16, dtypes.uint32,
    dtypes.uint64, dtypes.float32, dtypes.float64)}
_KINDS = {"bool": "b", "signed integer": "i", "unsigned integer": "u", "integral": "iu", "real floating": "f",
          "complex floating": "", "numeric": "iuf"}


@dataclass(frozen=True)
class FloatInfo:
    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: DType


@dataclass(frozen=True)
class IntInfo:
    bits: int
    max: int
    min: int
    dtype: DType


def _dtype(x: Any) -> DType:
    return x.dtype if isinstance(x, Tensor) else dtypes.of(x)


def finfo(type: Any, /) -> FloatInfo:
    t = _dtype(type)
    if not t.is_float:
        raise TypeError(f"finfo is of float types, not {t.name}")
    return FloatInfo(t.bits, t.eps, t.finite_max, -t.finite_max, float(np.finfo(t.np_values).smallest_normal), t)


def iinfo(type: Any, /) -> IntInfo:
    t = _dtype(type)
    if not t.is_int:
        raise TypeError(f"iinfo is of integer types, not {t.name}")
    return IntInfo(t.bits, t.max, t.min, t)


def isdtype(dtype: Any, kind: Any) -> bool:
    """``kind``: a type, the standard's name of a family, or a tuple of those."""
    if isinstance(kind, tuple):
        return any(isdtype(dtype, k) for k in kind)
    if isinstance(kind, str):
        if kind not in _KINDS:
            raise ValueError(f"isdtype: {kind!r} is no kind; use {', '.join(_KINDS)}")
        return dtypes.of(dtype).kind in _KINDS[kind]
    return dtypes.of(dtype) is dtypes.of(kind)


def result_type(*arrays_and_dtypes: Any) -> DType:
    """Python numbers take the others' type, of their kind."""
    strong = [_dtype(a) for a in arrays_and_dtypes if not isinstance(a, bool | int | float) or isinstance(a, type)]
    if not strong:
        raise ValueError("result_type needs an array or a type")
    out = dtypes.promote(*strong)
    for a in arrays_and_dtypes:
        if isinstance(a, float) and not out.is_float:
            out = dtypes.default_float
        elif isinstance(a, int) and not isinstance(a, bool) and out is dtypes.bool_:
            out = dtypes.default_int
    return out


def can_cast(from_: Any, to: Any, /) -> bool:
    return dtypes.promote(_dtype(from_), dtypes.of(to)) is dtypes.of(to)


def astype(x: Tensor, dtype: Any, /, *, copy: bool = True, device: str | None = None) -> Tensor:
    out = x if device is None else x.to(device)
    if dtypes.of(dtype) is out.dtype:
        return out.clone() if copy and out is x else out
    return out.cast(dtype)


class _Info:
    """The standard's inspection interface."""

    def capabilities(self) -> dict[str, Any]:
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": None}

    def default_device(self) -> str:
        return default_device()

    def default_dtypes(self, *, device: Any = None) -> dict[str, DType]:
        return {"real floating": dtypes.default_float, "integral": dtypes.default_int, "indexing": dtypes.default_int}

    def dtypes(self, *, device: Any = None, kind: Any = None) -> dict[str, DType]:
        return {n: t for n, t in _ALL.items() if kind is None or isdtype(t, kind)}

    def devices(self) -> list[str]:
        return list(dict.fromkeys(["CPU", default_device()]))


def __array_namespace_info__() -> _Info:
    return _Info()
