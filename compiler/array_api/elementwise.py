"""Functions of elements: Tensor's methods by the standard's names. One of two operands may be a Python number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from compiler.tensor import Tensor

_UNARY = {
    "abs": "abs", "acos": "acos", "acosh": "acosh", "asin": "asin", "asinh": "asinh", "atan": "atan",
    "atanh": "atanh", "bitwise_invert": "bitwise_not", "ceil": "ceil", "cos": "cos", "cosh": "cosh", "exp": "exp",
    "expm1": "expm1", "floor": "floor", "isfinite": "isfinite", "isinf": "isinf", "isnan": "isnan", "log": "log",
    "log10": "log10", "log1p": "log1p", "log2": "log2", "logical_not": "logical_not", "negative": "neg",
    "positive": "__pos__", "reciprocal": "reciprocal", "round": "round", "signbit": "signbit", "sin": "sin",
    "sinh": "sinh", "sqrt": "sqrt", "square": "square", "tan": "tan", "tanh": "tanh", "trunc": "trunc",
}
_BINARY = {
    "add": "add", "atan2": "atan2", "bitwise_and": "bitwise_and", "bitwise_left_shift": "lshift",
    "bitwise_or": "bitwise_or", "bitwise_right_shift": "rshift", "bitwise_xor": "bitwise_xor",
    "copysign": "copysign", "divide": "div", "equal": "eq", "floor_divide": "floor_divide", "greater": "gt",
    "greater_equal": "ge", "hypot": "hypot", "less": "lt", "less_equal": "le", "logaddexp": "logaddexp",
    "logical_and": "logical_and", "logical_or": "logical_or", "logical_xor": "logical_xor", "maximum": "maximum",
    "minimum": "minimum", "multiply": "mul", "nextafter": "nextafter", "not_equal": "ne", "pow": "pow",
    "remainder": "remainder", "subtract": "sub",
}

__all__ = ["clip", "sign", *_UNARY, *_BINARY]


def _unary(name: str, method: str) -> Callable[[Tensor], Tensor]:
    def function(x: Tensor, /) -> Tensor:
        return getattr(x, method)()  # type: ignore[no-any-return]
    function.__name__ = function.__qualname__ = name
    return function


def _binary(name: str, method: str) -> Callable[[Any, Any], Tensor]:
    def function(x1: Any, x2: Any, /) -> Tensor:
        if not isinstance(x1, Tensor):
            if not isinstance(x2, Tensor):
                raise TypeError(f"{name} needs an array, not {type(x1).__name__} and {type(x2).__name__}")
            x1 = x2._operand(x1, x2.dtype)
        return getattr(x1, method)(x2)  # type: ignore[no-any-return]
    function.__name__ = function.__qualname__ = name
    return function


globals().update({n: _unary(n, m) for n, m in _UNARY.items()}, **{n: _binary(n, m) for n, m in _BINARY.items()})


def sign(x: Tensor, /) -> Tensor:
    """As :meth:`Tensor.sign`, but NaN for NaN."""
    return x.isnan().where(x, x.sign()) if x.dtype.is_float else x.sign()


def clip(x: Tensor, /, min: Any = None, max: Any = None) -> Tensor:
    """In the type of ``x``."""
    if min is None and max is None:
        return +x
    if not x.dtype.is_float:        # bounds beyond the type cut nothing off
        low, high = x.dtype.min, x.dtype.max
        min = None if isinstance(min, int | float) and min <= low else min
        max = None if isinstance(max, int | float) and max >= high else max
        if min is None and max is None:
            return +x
    return x.clamp(min, max).cast(x.dtype)


