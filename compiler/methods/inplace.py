"""Assigning forms: ``x.add_(y)`` and ``x += y`` take on the result, in the shape and type that they have.

Values taken before keep what they were; every name of the same tensor object sees the new value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compiler.methods.base import Methods

if TYPE_CHECKING:
    from compiler.tensor import Tensor

__all__ = ["InPlace"]

_METHODS = (
    "abs", "absolute", "acos", "acosh", "add", "addcdiv", "addcmul", "addmm", "arccos", "arcsin", "arctan", "asin",
    "asinh", "atan", "atan2", "atanh", "baddbmm", "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor", "ceil",
    "clamp", "clamp_max", "clamp_min", "clip", "copysign", "cos", "cosh", "cumprod", "cumsum", "deg2rad", "digamma",
    "div", "divide", "elu", "erf", "erfc", "erfinv", "exp", "exp2", "expm1", "fix", "float_power", "floor",
    "floor_divide", "fmod", "frac", "hardsigmoid", "hardswish", "hardtanh", "heaviside", "hypot", "index_add",
    "index_copy", "index_fill", "index_put", "index_reduce", "ldexp", "leaky_relu", "lerp", "lgamma", "log", "log10",
    "log1p", "log2", "logical_and", "logical_not", "logical_or", "logical_xor", "logit", "masked_fill",
    "masked_scatter", "mish", "mul", "multiply", "nan_to_num", "neg", "negative", "pow", "put", "rad2deg",
    "reciprocal", "relu", "relu6", "remainder", "round", "rsqrt", "scatter", "scatter_add", "scatter_reduce", "selu",
    "sigmoid", "sign", "silu", "sin", "sinc", "sinh", "softplus", "sqrt", "square", "sub", "subtract", "tan", "tanh",
    "threshold", "tril", "triu", "true_divide", "trunc", "xlogy",
)

_OPERATORS = {"__iadd__": "add", "__isub__": "sub", "__imul__": "mul", "__itruediv__": "div",
              "__ifloordiv__": "floor_divide", "__imod__": "remainder", "__ipow__": "pow", "__iand__": "bitwise_and",
              "__ior__": "bitwise_or", "__ixor__": "bitwise_xor", "__ilshift__": "lshift", "__irshift__": "rshift",
              "__imatmul__": "matmul"}
_ORDER = "buif"


def _assigning(name: str) -> Any:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        out = getattr(self, name)(*args, **kwargs)
        if out.shape != self.shape:
            raise ValueError(f"{name} in place gives shape {out.shape}, the tensor has {self.shape}")
        if _ORDER.index(out.dtype.kind) > max(_ORDER.index(self.dtype.kind), 2 * self.dtype.is_int):
            raise TypeError(f"{name} in place gives {out.dtype.name}, which the tensor's {self.dtype.name} cannot "
                            "take; cast it first")
        return self.assign(out.cast(self.dtype))
    method.__name__ = method.__qualname__ = f"{name}_"
    method.__doc__ = f":meth:`{name}`, assigned to this tensor."
    return method


def _operating(operator: str, name: str) -> Any:
    assign = _assigning(name)

    def method(self: Any, other: Any, /) -> Any:
        return assign(self, other)
    method.__name__ = method.__qualname__ = operator
    method.__doc__ = assign.__doc__
    return method


class InPlace(Methods):
    """Mixin; see :class:`compiler.tensor.Tensor`. Made from the methods of the same names without ``_``."""

    __slots__ = ()

    def copy_(self, source: Any) -> Tensor:
        """Take on values, cast and broadcast."""
        return self.assign(self._operand(source, self.dtype).cast(self.dtype))  # type: ignore[no-any-return]

    def fill_(self, value: Any) -> Tensor:
        """``value`` everywhere, in place."""
        return self.assign(self._operand(value, self.dtype).cast(self.dtype).expand(self.shape))  # type: ignore[no-any-return]

    def zero_(self) -> Tensor:
        """Zeros, in place."""
        return self.fill_(0)

    def fill_diagonal_(self, value: Any) -> Tensor:
        """The main diagonal of a matrix."""
        rows, columns = self.shape[-2:]
        hit = type(self).eye(rows, columns, dtype="bool", device=self.device)  # type: ignore[attr-defined]
        return self.assign(hit.where(self._operand(value, self.dtype).cast(self.dtype), self))  # type: ignore[no-any-return]

    def uniform_(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Random numbers from ``low`` (among them) to ``high`` (not), in place."""
        return self.assign(type(self).uniform(*self.shape, low=low, high=high, device=self.device))  # type: ignore[no-any-return, attr-defined]

    def normal_(self, mean: float = 0.0, std: float = 1.0) -> Tensor:
        """Random numbers of a normal distribution, in place."""
        return self.assign(type(self).randn(*self.shape, device=self.device) * std + mean)  # type: ignore[no-any-return, attr-defined]

    def bernoulli_(self, p: float = 0.5) -> Tensor:
        """1 with probability ``p``, else 0, in place."""
        return self.assign(type(self).rand(*self.shape, device=self.device) < p)  # type: ignore[no-any-return, attr-defined]


for _name in _METHODS:
    setattr(InPlace, f"{_name}_", _assigning(_name))
for _operator, _name in _OPERATORS.items():
    setattr(InPlace, _operator, _operating(_operator, _name))
