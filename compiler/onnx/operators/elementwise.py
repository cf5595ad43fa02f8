"""Operators that work on each element by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.onnx.registry import OPERATORS, Node, host, operator
from compiler.tensor import Tensor

__all__: list[str] = []

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": Tensor.abs, "Neg": Tensor.neg, "Sqrt": Tensor.sqrt, "Exp": Tensor.exp, "Log": Tensor.log,
    "Reciprocal": Tensor.reciprocal, "Floor": Tensor.floor, "Ceil": Tensor.ceil, "Round": Tensor.round,
    "Sign": Tensor.sign, "Sin": Tensor.sin, "Cos": Tensor.cos, "Tan": Tensor.tan, "Asin": Tensor.asin,
    "Acos": Tensor.acos, "Atan": Tensor.atan, "Sinh": Tensor.sinh, "Cosh": Tensor.cosh, "Tanh": Tensor.tanh,
    "Asinh": Tensor.asinh, "Acosh": Tensor.acosh, "Atanh": Tensor.atanh, "Erf": Tensor.erf, "Relu": Tensor.relu,
    "Sigmoid": Tensor.sigmoid, "Softplus": Tensor.softplus, "Softsign": Tensor.softsign, "Mish": Tensor.mish,
    "HardSwish": Tensor.hardswish, "IsNaN": Tensor.isnan, "Not": Tensor.logical_not, "BitwiseNot": Tensor.bitwise_not}


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def run(node: Node, x: Any) -> Tensor:
        tensor = node.tensor(x)
        out = function(tensor)
        return out if out.dtype is dtypes.bool_ or out.dtype is tensor.dtype else out.cast(tensor.dtype)
    return run


for _name, _function in UNARY.items():
    operator(_name)(_unary(_function))


def _pair(node: Node, a: Any, b: Any) -> tuple[Tensor, Tensor]:
    """Both as tensors, before opset 7 with the second one's axes placed by attributes."""
    x, y = node.tensor(a), node.tensor(b)
    if node.opset < 7 and node("broadcast", 0) and y.ndim < x.ndim:
        axis = int(node("axis", x.ndim - y.ndim))
        y = y.reshape(*y.shape, *[1] * (x.ndim - axis - y.ndim))
    return x, y


def _divide(x: Tensor, y: Tensor) -> Tensor:
    return x / y if x.dtype.is_float else x.div(y, rounding_mode="trunc")


BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": lambda x, y: x + y, "Sub": lambda x, y: x - y, "Mul": lambda x, y: x * y, "Div": _divide,
    "Equal": lambda x, y: x.eq(y), "Less": lambda x, y: x < y, "Greater": lambda x, y: x > y,
    "LessOrEqual": lambda x, y: x <= y, "GreaterOrEqual": lambda x, y: x >= y,
    "And": Tensor.logical_and, "Or": Tensor.logical_or, "Xor": Tensor.logical_xor,
    "BitwiseAnd": lambda x, y: x & y, "BitwiseOr": lambda x, y: x | y, "BitwiseXor": lambda x, y: x ^ y}


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda node, a, b: function(*_pair(node, a, b))


for _name, _two in BINARY.items():
    operator(_name)(_binary(_two))


@operator("Pow")
def power(node: Node, a: Any, b: Any) -> Tensor:
    """The first one's type. Whole exponents that the host knows multiply."""
    x = node.tensor(a)
    if isinstance(b, np.ndarray) and b.size == 1 and not x.dtype.is_int:
        return x.pow(b.reshape(-1)[0].item()).cast(x.dtype).expand(*np.broadcast_shapes(x.shape, b.shape))
    y = node.tensor(b)
    if x.dtype.is_int and y.dtype.is_float:
        return x.cast(dtypes.float64).pow(y.cast(dtypes.float64)).cast(x.dtype)
    return x.pow(y.cast(x.dtype)).cast(x.dtype)


@operator("Mod")
def modulo(node: Node, a: Any, b: Any) -> Tensor:
    x, y = _pair(node, a, b)
    return x.fmod(y) if node("fmod", 0) else x.remainder(y)


@operator("BitShift")
def bit_shift(node: Node, a: Any, b: Any) -> Tensor:
    x, y = node.tensor(a), node.tensor(b)
    if node("direction") == "LEFT":
        return (y < x.dtype.bits).where(x << y, x * 0)
    if x.dtype.kind == "i":                     # the sign fills
        return x >> y.minimum(x.dtype.bits - 1)
    return (y < x.dtype.bits).where(x >> y, x * 0)


@operator("Sum")
def total(node: Node, *values: Any) -> Tensor:
    return reduce(lambda x, y: x + y, map(node.tensor, values))


@operator("Mean")
def mean(node: Node, *values: Any) -> Tensor:
    tensors = [node.tensor(value) for value in values]
    return (reduce(lambda x, y: x + y, tensors) / len(tensors)).cast(tensors[0].dtype)


@operator("Max")
def maximum(node: Node, *values: Any) -> Tensor:
    return reduce(Tensor.maximum, map(node.tensor, values))


@operator("Min")
def minimum(node: Node, *values: Any) -> Tensor:
    return reduce(Tensor.minimum, map(node.tensor, values))


@operator("Where")
def where(node: Node, condition: Any, a: Any, b: Any) -> Tensor:
    return node.tensor(condition).where(node.tensor(a), node.tensor(b))


@operator("Clip")
def clip(node: Node, value: Any, low: Any = None, high: Any = None) -> Tensor:
    x = node.tensor(value)
    low = node("min") if low is None else node.tensor(low)
    high = node("max") if high is None else node.tensor(high)
    if low is not None:
        x = x.maximum(low)
    return (x if high is None else x.minimum(high)).cast(x.dtype)


@operator("IsInf")
def is_inf(node: Node, value: Any) -> Tensor:
    x = node.tensor(value)
    positive, negative = node("detect_positive", 1), node("detect_negative", 1)
    if positive and negative:
        return x.isinf()
    if positive or negative:
        return x.eq(math.inf if positive else -math.inf)
    return Tensor.zeros(*x.shape, dtype=dtypes.bool_, device=x.device)


# ---- activations with parameters

@operator("LeakyRelu")
def leaky_relu(node: Node, value: Any) -> Tensor:
    return node.tensor(value).leaky_relu(node("alpha", 0.01))


@operator("ThresholdedRelu")
def thresholded_relu(node: Node, value: Any) -> Tensor:
    x = node.tensor(value)
    return (x > node("alpha", 1.0)).where(x, x * 0)


@operator("Elu")
def elu(node: Node, value: Any) -> Tensor:
    return node.tensor(value).elu(node("alpha", 1.0))


@operator("Celu")
def celu(node: Node, value: Any) -> Tensor:
    return node.tensor(value).celu(node("alpha", 1.0))


@operator("Selu")
def selu(node: Node, value: Any) -> Tensor:
    x = node.tensor(value)
    alpha, gamma = node("alpha", 1.67326319217681884765625), node("gamma", 1.05070102214813232421875)
    return (x > 0).where(gamma * x, gamma * alpha * x.minimum(0).expm1())


@operator("HardSigmoid")
def hard_sigmoid(node: Node, value: Any) -> Tensor:
    return (node.tensor(value) * node("alpha", 0.2) + node("beta", 0.5)).clamp(0.0, 1.0)


@operator("PRelu")
def prelu(node: Node, value: Any, slope: Any) -> Tensor:
    x, s = node.tensor(value), node.tensor(slope)
    if node.opset < 7 and 1 < s.numel() == x.shape[1]:
        s = s.reshape(-1, *[1] * (x.ndim - 2))
    return (x < 0).where(x * s, x)


@operator("Gelu")
def gelu(node: Node, value: Any) -> Tensor:
    return node.tensor(value).gelu(node("approximate", "none"))


@operator("Swish")
def swish(node: Node, value: Any) -> Tensor:
    x = node.tensor(value)
    return x * (x * node("alpha", 1.0)).sigmoid()


@operator("Shrink")
def shrink(node: Node, value: Any) -> Tensor:
    x = node.tensor(value)
    bias, lambd = node("bias", 0.0), node("lambd", 0.5)
    return (x < -lambd).where(x + bias, (x > lambd).where(x - bias, x * 0)).cast(x.dtype)


# ---- shapes' arithmetic, on the host

for _name, _arrays in {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Neg": np.negative, "Not": np.logical_not,
                       "Equal": np.equal, "Less": np.less, "Greater": np.greater, "LessOrEqual": np.less_equal,
                       "GreaterOrEqual": np.greater_equal, "And": np.logical_and, "Or": np.logical_or,
                       "Where": np.where}.items():
    host(_name)(lambda node, *inputs, _arrays=_arrays: np.asarray(_arrays(*inputs)))
for _name, _arrays in {"Max": np.maximum, "Min": np.minimum}.items():
    host(_name)(lambda node, *inputs, _arrays=_arrays: np.asarray(reduce(_arrays, inputs)))


@host("Div")
def host_divide(node: Node, a: np.ndarray, b: np.ndarray) -> Any:
    if not np.all(b):
        return OPERATORS["Div"](node, a, b)
    quotient = np.abs(a) // np.abs(b)
    return np.asarray(np.where((a < 0) != (b < 0), -quotient, quotient).astype(a.dtype))
