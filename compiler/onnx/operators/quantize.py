"""Operators on quantised numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler import dtypes
from compiler.onnx.operators.types import cast_to
from compiler.onnx.operators.windows import conv
from compiler.onnx.registry import Node, operator
from compiler.onnx.values import DTYPES, Packed, kind_of, numpy_type
from compiler.tensor import Tensor

__all__: list[str] = []

UINT8 = 2
_BITS = {21: (0, 15), 22: (-8, 7), 25: (0, 3), 26: (-2, 1)}     # onnx.proto: UINT4, INT4, UINT2, INT2


def _kind(value: Any) -> int:
    if isinstance(value, Packed):
        return value.kind
    if isinstance(value, np.ndarray):
        return kind_of(value)
    return next(kind for kind, dtype in DTYPES.items() if dtype is value.dtype)


def _spread(node: Node, scale: Tensor, x: Tensor) -> Tensor:
    """A scale (or zero point) for each element: one for all, one a place of an axis, or one a block of an axis."""
    if scale.ndim == 0 or (scale.numel() == 1 and not node("block_size", 0)):
        return scale.reshape(*[1] * x.ndim)
    axis, block = node.axis(1, x.ndim), int(node("block_size", 0))
    if block:
        if scale.ndim != x.ndim:
            raise node.error(f"scales of {scale.ndim} axes for blocks of {x.ndim}")
        return scale.repeat_interleave(block, axis).shrink([(0, n) for n in x.shape])
    return scale.reshape(*[-1 if i == axis else 1 for i in range(x.ndim)])


def _numbers(node: Node, value: Any) -> Tensor:
    """Whole or small numbers as float32."""
    if isinstance(value, Packed):
        return Tensor(value.array.astype(np.float32), device=node.device)
    return node.tensor(value).cast(dtypes.float32)


@operator("QuantizeLinear")
def quantize_linear(node: Node, value: Any, scale: Any, zero: Any = None) -> Any:
    x = node.tensor(value)
    kind = int(node("output_dtype", 0)) or (UINT8 if zero is None else _kind(zero))
    wide = x.cast(dtypes.float32) / _spread(node, _numbers(node, scale), x)
    is_int = kind in _BITS or (kind in DTYPES and DTYPES[kind].is_int)
    shift = None if zero is None else _spread(node, _numbers(node, zero), x)
    if not is_int:
        return cast_to(node, wide if shift is None else wide + shift, kind)
    rounded = wide.round() if shift is None else wide.round() + shift
    low, high = _BITS[kind] if kind in _BITS else (DTYPES[kind].min, DTYPES[kind].max)
    rounded = rounded.clamp(low, high)
    if kind in _BITS:
        return Packed(rounded.numpy().astype(np.int8).astype(numpy_type(kind)), kind)
    return rounded.cast(DTYPES[kind])


@operator("DequantizeLinear")
def dequantize_linear(node: Node, value: Any, scale: Any, zero: Any = None) -> Tensor:
    x = _numbers(node, value) if _kind(value) != 6 else node.tensor(value)
    if zero is not None:
        z = _numbers(node, zero) if x.dtype.is_float else node.tensor(zero)
        x = x - _spread(node, z, x)
    wanted = node("output_dtype", 0)
    out = x.cast(dtypes.float32) * _spread(node, _numbers(node, scale), x)
    return out.cast(DTYPES[wanted] if wanted else DTYPES.get(_kind(scale), dtypes.float32))


def _apart(node: Node, value: Any, zero: Any, *, rows: bool | None = None) -> Tensor:
    """Minus its zero point, int32; ``rows``: zero points of a vector are those of rows (or columns) of a matrix."""
    x = node.tensor(value).cast(dtypes.int32)
    if zero is None:
        return x
    z = node.tensor(zero).cast(dtypes.int32)
    if z.ndim == 1 and rows and z.numel() > 1:
        z = z.reshape(-1, 1)
    return x - (z.reshape(()) if z.numel() == 1 else z)


@operator("MatMulInteger")
def matmul_integer(node: Node, a: Any, b: Any, a_zero: Any = None, b_zero: Any = None) -> Tensor:
    return (_apart(node, a, a_zero, rows=True) @ _apart(node, b, b_zero)).cast(dtypes.int32)


def _requantized(node: Node, exact: Tensor, scale: Tensor, zero: Any) -> Any:
    kind = _kind(zero)
    if kind not in DTYPES or not DTYPES[kind].is_int:
        return cast_to(node, exact.cast(dtypes.float32) * scale + _numbers(node, zero), kind)
    dtype = DTYPES[kind]
    out = (exact.cast(dtypes.float32) * scale).round() + _numbers(node, zero)
    return out.clamp(dtype.min, dtype.max).cast(dtype)


@operator("QLinearMatMul")
def quantized_matmul(node: Node, a: Any, a_scale: Any, a_zero: Any, b: Any, b_scale: Any, b_zero: Any, y_scale: Any,
                     y_zero: Any) -> Any:
    scale = _numbers(node, a_scale) * _numbers(node, b_scale) / _numbers(node, y_scale)
    return _requantized(node, _apart(node, a, a_zero, rows=True) @ _apart(node, b, b_zero), scale, y_zero)


@operator("QLinearConv")
def quantized_convolution(node: Node, x: Any, x_scale: Any, x_zero: Any, w: Any, w_scale: Any, w_zero: Any,
                          y_scale: Any, y_zero: Any, bias: Any = None) -> Any:
    data, kernel = _apart(node, x, x_zero), node.tensor(w).cast(dtypes.int32)
    zero = node.tensor(w_zero).cast(dtypes.int32)
    kernel = kernel - (zero.reshape(-1, *[1] * (kernel.ndim - 1)) if zero.numel() > 1 else zero.reshape(()))
    out = conv(node, data, kernel)
    if bias is not None:
        out = out + node.tensor(bias).reshape(1, -1, *[1] * (out.ndim - 2))
    scales = _numbers(node, w_scale)
    scales = scales.reshape(1, -1, *[1] * (out.ndim - 2)) if scales.numel() > 1 else scales.reshape(())
    return _requantized(node, out, scales * _numbers(node, x_scale) / _numbers(node, y_scale), y_zero)
