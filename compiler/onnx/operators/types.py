"""Operators that change what bits mean: casts, also to and from types that are only stored."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.onnx.registry import Node, host, operator
from compiler.onnx.values import DTYPES, Packed, from_array, from_tensor, kind_of, numpy_type
from compiler.tensor import Tensor

__all__ = ["cast_to"]

STRING = 8
COMPLEX = (14, 15)
E8M0 = 24
E4M3_LIMIT = 464.0      # half way between 448 and what would be the next number; a tie goes to 448


@operator("Cast")
def cast(node: Node, value: Any) -> Any:
    return cast_to(node, value, int(node("to")))


@operator("CastLike")
def cast_like(node: Node, value: Any, like: Any) -> Any:
    kinds = {dtype: kind for kind, dtype in DTYPES.items()}
    kind = kinds[like.dtype] if isinstance(like, Tensor) else like.kind if isinstance(like, Packed) else kind_of(like)
    return cast_to(node, value, kind)


def cast_to(node: Node, value: Any, kind: int) -> Any:
    """To an element type of ONNX."""
    if kind == STRING or kind in COMPLEX:
        raise node.error("strings and complex numbers are not known here")
    if isinstance(value, Packed) or kind not in DTYPES:
        return _by_array(node, np.asarray(from_tensor(value)), kind)
    x, to = node.tensor(value), DTYPES[kind]
    if to in (dtypes.float8_e4m3, dtypes.float8_e5m2) and x.dtype is not to:
        wide = x.cast(dtypes.float32)
        if node("saturate", 1):
            x = wide.isnan().where(wide, wide.clamp(-to.finite_max, to.finite_max))
        elif to is dtypes.float8_e4m3:          # which has no infinity: what rounds to more than the largest is NaN
            x = (wide.abs() > E4M3_LIMIT).where(math.nan, wide)
    if x.dtype.is_float and to is dtypes.bool_:
        return x.ne(0)
    return x.cast(to)


def _by_array(node: Node, array: np.ndarray, kind: int) -> Any:
    """By ml_dtypes, whose types these are."""
    import onnx
    to = numpy_type(kind)
    with np.errstate(all="ignore"):
        if kind == E8M0:
            return Packed(_powers(array.astype(np.float32), node("round_mode", "up"), to), kind)
        if to.name.startswith("float8") and node("saturate", 1):
            array = onnx.numpy_helper.saturate_cast(array, to)
        else:
            array = array.astype(to)
    return Packed(array, kind) if kind not in DTYPES else from_array(array, node.device)


def _powers(x: np.ndarray, mode: str, to: np.dtype[Any]) -> np.ndarray:
    """Powers of two, 2^-127 to 2^127 (OCP, Microscaling Formats, E8M0), by the fraction's bits: up, down or nearest."""
    bits = x.view(np.uint32)
    exponent, fraction = (bits >> 23 & 0xFF).astype(np.int32), bits & 0x7FFFFF
    if mode == "up":
        more = (fraction > 0) & ((exponent > 0) | (fraction > 0x400000))
    elif mode == "nearest":
        more = (fraction > 0x400000) | ((fraction == 0x400000) & (exponent > 0))
    elif mode == "down":
        more = np.zeros(x.shape, np.bool_)
    else:
        raise ValueError(f"round_mode is up, down or nearest, not {mode!r}")
    code = exponent + more
    if mode != "up":
        code = np.minimum(code, 0xFE)
    return np.where(np.isfinite(x), code, 0xFF).astype(np.uint8).view(to)


@host("Cast")
def host_cast(node: Node, array: np.ndarray) -> Any:
    kind = int(node("to"))
    if kind in DTYPES and DTYPES[kind].kind in "iub" and array.dtype.kind in "iub":
        return array.astype(DTYPES[kind].np)
    return cast_to(node, array, kind)


@operator("BitCast")
def bit_cast(node: Node, value: Any) -> Any:
    kind = int(node("to"))
    if not isinstance(value, Packed) and kind in DTYPES and DTYPES[kind] is not dtypes.bool_:
        x = node.tensor(value)
        if x.dtype is not dtypes.bool_:
            return x.bitcast(DTYPES[kind])
    array = np.asarray(from_tensor(value))
    to = numpy_type(kind)
    if array.dtype.itemsize != to.itemsize:
        raise node.error(f"{array.dtype} has other bits than {to}")
    out = np.ascontiguousarray(array).view(to)
    return Packed(out, kind) if kind not in DTYPES else from_array(out, node.device)


@operator("Identity")
def identity(node: Node, value: Any) -> Any:
    return value


host("Identity")(identity)


@operator("Optional", "OptionalGetElement")
def optional(node: Node, value: Any = None) -> Any:
    return value


@operator("OptionalHasElement")
def optional_has(node: Node, value: Any = None) -> Any:
    return np.array(value is not None)


host("OptionalHasElement")(optional_has)
