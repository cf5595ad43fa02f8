"""Arithmetic, comparisons and functions of single elements; broadcasting and promotion."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler import dtypes, graph
from compiler.dtypes import DType, DTypeLike
from compiler.methods.base import Methods
from compiler.uop import Ops, UOp
from compiler.variable import Size

if TYPE_CHECKING:
    from compiler.tensor import Tensor

__all__ = ["Elementwise", "broadcast_shapes"]

_LN2 = math.log(2)
Number = float
"""The Python type: inside the class below ``float`` is a method."""


def _weak(value: Any, like: DType) -> DType:
    """The type of a Python number beside a tensor: the tensor's, unless the number is of a higher kind."""
    kind = dtypes.of_scalar(value)
    keeps = like.is_float or kind is dtypes.bool_ or (kind is dtypes.default_int and like is not dtypes.bool_)
    return like if keeps else kind


@lru_cache(4096)
def broadcast_shapes(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The common shape, as NumPy and PyTorch broadcast. :raises ValueError:"""
    n = max(map(len, shapes))
    out = []
    for sizes in zip(*((1,) * (n - len(s)) + s for s in shapes), strict=True):
        wide = {x for x in sizes if x != 1}
        if len(wide) > 1:
            raise ValueError(f"shapes {', '.join(map(str, shapes))} do not broadcast: {sorted(wide)} in one axis")
        out.append(wide.pop() if wide else 1)
    return tuple(out)


class Elementwise(Methods):
    """Mixin; see :class:`compiler.tensor.Tensor`."""

    __slots__ = ()

    def _operand(self, value: Any, like: DType) -> Tensor:
        """``value`` as a tensor; a Python number takes this tensor's type unless it is of a higher kind."""
        from compiler.tensor import Tensor
        if isinstance(value, Tensor):
            return value
        if isinstance(value, Size):
            return Tensor(value, like if like.is_float else None, self._device)
        if isinstance(value, bool | int | float):
            return Tensor(value, _weak(value, like), self._device)
        if isinstance(value, np.ndarray | np.generic | list | tuple):
            return Tensor(value, device=self._device)
        raise TypeError(f"cannot combine a tensor with {type(value).__name__}")

    def _binary(self, op: Ops, other: Any, reverse: bool = False, floats: bool = False) -> Tensor:
        x = self._node
        if isinstance(other, bool | int | float):       # the usual case, without a tensor for the number
            dtype = dtypes.promote(x.dtype, _weak(other, x.dtype))
            if floats and not dtype.is_float:
                dtype = dtypes.default_float
            a, b = graph.cast(x, dtype), graph.full(x.shape, dtype, _weak(other, x.dtype).cast(other))
            return self._new(graph.alu(op, b, a) if reverse else graph.alu(op, a, b))
        y = self._operand(other, x.dtype)
        dtype = dtypes.promote(x.dtype, y.dtype)
        if floats and not dtype.is_float:
            dtype = dtypes.default_float
        shape = broadcast_shapes(x.shape, y.shape)
        a, b = (graph.expand(graph.cast(u, dtype), shape) for u in (x, y._node))
        if reverse:
            a, b = b, a
        return self._new(graph.alu(op, a, b), y)

    def _unary(self, op: Ops, floats: bool = True) -> Tensor:
        dtype = dtypes.default_float if floats and not self.dtype.is_float else self.dtype
        return self._new(graph.alu(op, graph.cast(self._node, dtype)))

    def _ints(self, other: Any, what: str) -> None:
        kinds = [self.dtype, other.dtype if hasattr(other, "dtype") and isinstance(getattr(other, "dtype", None), DType)
                 else dtypes.of_scalar(other)]
        if any(k.is_float for k in kinds):
            raise TypeError(f"{what} needs integers or bools, not {kinds[0].name} and {kinds[1].name}")

    # types

    def cast(self, dtype: DTypeLike) -> Tensor:
        """To another type. Floats become integers by truncation, saturating; NaN becomes 0."""
        return self._new(graph.cast(self._node, dtypes.of(dtype)))

    type = cast

    def bitcast(self, dtype: DTypeLike) -> Tensor:
        """The same bits as another type of the same size."""
        to = dtypes.of(dtype)
        if to.bits != self.dtype.bits or dtypes.bool_ in (to, self.dtype):
            raise TypeError(f"cannot see {self.dtype.name} as {to.name}: the sizes differ, or one is bool")
        return self._new(self._node if to is self.dtype else UOp(Ops.BITCAST, to, (self._node,)))

    def float(self) -> Tensor:
        return self.cast(dtypes.float32)

    def half(self) -> Tensor:
        return self.cast(dtypes.float16)

    def double(self) -> Tensor:
        return self.cast(dtypes.float64)

    def int(self) -> Tensor:
        return self.cast(dtypes.int32)

    def long(self) -> Tensor:
        return self.cast(dtypes.int64)

    def bool(self) -> Tensor:
        return self.cast(dtypes.bool_)

    # arithmetic

    def add(self, other: Any) -> Tensor:
        return self._binary(Ops.ADD, other)

    def sub(self, other: Any) -> Tensor:
        return self._binary(Ops.ADD, -self._operand(other, self.dtype))

    def mul(self, other: Any) -> Tensor:
        return self._binary(Ops.MUL, other)

    def div(self, other: Any) -> Tensor:
        """True division: integers give float32."""
        return self._binary(Ops.FDIV, other, floats=True)

    def neg(self) -> Tensor:
        return self._unary(Ops.NEG, floats=False)

    def floor_divide(self, other: Any) -> Tensor:
        """Rounds toward minus infinity; integers by zero give 0."""
        return _floor_divide(self, self._operand(other, self.dtype))

    def remainder(self, other: Any) -> Tensor:
        """With the sign of the divisor."""
        return _remainder(self, self._operand(other, self.dtype))

    def pow(self, other: Any) -> Tensor:
        """``self ** other``. Small whole exponents multiply; others go by exp2 and log2."""
        return _pow(self, other)

    def maximum(self, other: Any) -> Tensor:
        return self._binary(Ops.MAX, other)

    def minimum(self, other: Any) -> Tensor:
        y = self._operand(other, self.dtype)
        dtype = dtypes.promote(self.dtype, y.dtype)
        return _reversed(_reversed(self.cast(dtype)).maximum(_reversed(y.cast(dtype))))

    def clip(self, min: Any = None, max: Any = None) -> Tensor:
        out: Any = self
        if min is not None:
            out = out.maximum(min)
        return out if max is None else out.minimum(max)

    clamp = clip

    __add__ = __radd__ = add
    __mul__ = __rmul__ = mul
    __sub__ = sub
    __truediv__ = div
    __neg__ = neg
    __floordiv__ = floor_divide
    __mod__ = remainder
    __pow__ = pow

    def __rsub__(self, other: Any) -> Tensor:
        return self._operand(other, self.dtype) - self

    def __rtruediv__(self, other: Any) -> Tensor:
        return self._binary(Ops.FDIV, other, reverse=True, floats=True)

    def __rfloordiv__(self, other: Any) -> Tensor:
        return _floor_divide(self._operand(other, self.dtype), self)

    def __rmod__(self, other: Any) -> Tensor:
        return _remainder(self._operand(other, self.dtype), self)

    def __rpow__(self, other: Any) -> Tensor:
        return _pow(self._operand(other, self.dtype), self)

    # bits

    def bitwise_and(self, other: Any) -> Tensor:
        self._ints(other, "&")
        return self._binary(Ops.AND, other)

    def bitwise_or(self, other: Any) -> Tensor:
        self._ints(other, "|")
        return self._binary(Ops.OR, other)

    def bitwise_xor(self, other: Any) -> Tensor:
        self._ints(other, "^")
        return self._binary(Ops.XOR, other)

    def bitwise_not(self) -> Tensor:
        self._ints(self, "~")
        return self.bitwise_xor(
            True if self.dtype is dtypes.bool_ else -1 if self.dtype.kind == "i" else self.dtype.max
        )

    def lshift(self, other: Any) -> Tensor:
        self._ints(other, "<<")
        return self._binary(Ops.SHL, other)

    def rshift(self, other: Any) -> Tensor:
        self._ints(other, ">>")
        return self._binary(Ops.SHR, other)

    __and__ = __rand__ = bitwise_and
    __or__ = __ror__ = bitwise_or
    __xor__ = __rxor__ = bitwise_xor
    __invert__ = bitwise_not
    __lshift__ = lshift
    __rshift__ = rshift

    def logical_not(self) -> Tensor:
        return self.eq(0)

    def logical_and(self, other: Any) -> Tensor:
        return self.bool() & self._operand(other, self.dtype).bool()

    def logical_or(self, other: Any) -> Tensor:
        return self.bool() | self._operand(other, self.dtype).bool()

    # comparisons: bool tensors

    def lt(self, other: Any) -> Tensor:
        return self._binary(Ops.CMPLT, other)

    def gt(self, other: Any) -> Tensor:
        return self._binary(Ops.CMPLT, other, reverse=True)

    def eq(self, other: Any) -> Tensor:
        return self._binary(Ops.CMPEQ, other)

    def ne(self, other: Any) -> Tensor:
        return self._binary(Ops.CMPNE, other)

    def le(self, other: Any) -> Tensor:
        return self.lt(other) | self.eq(other)

    def ge(self, other: Any) -> Tensor:
        return self.gt(other) | self.eq(other)

    __lt__, __gt__, __le__, __ge__ = lt, gt, le, ge
    __eq__ = eq             # type: ignore[assignment]
    __ne__ = ne             # type: ignore[assignment]

    def where(self, yes: Any, no: Any) -> Tensor:
        """``yes`` where this (a condition) holds, else ``no``. Both may be numbers."""
        from compiler.tensor import Tensor
        if not isinstance(yes, Tensor) and not isinstance(no, Tensor):
            kind = dtypes.promote(dtypes.of_scalar(yes), dtypes.of_scalar(no))
            yes, no = Tensor(yes, kind, self._device), Tensor(no, kind, self._device)
        elif not isinstance(yes, Tensor):
            yes = no._operand(yes, no.dtype)
        else:
            no = yes._operand(no, yes.dtype)
        dtype = dtypes.promote(yes.dtype, no.dtype)
        shape = broadcast_shapes(self.shape, yes.shape, no.shape)
        cond = graph.expand(self.bool()._node, shape)
        a, b = (graph.expand(graph.cast(t._node, dtype), shape) for t in (yes, no))
        return self._new(graph.alu(Ops.WHERE, cond, a, b), yes, no)

    def masked_fill(self, mask: Tensor, value: Any) -> Tensor:
        return mask.where(self._operand(value, self.dtype).cast(self.dtype), self)

    def isnan(self) -> Tensor:
        return self.ne(self)

    def isinf(self) -> Tensor:
        return self.abs().eq(math.inf)

    def isfinite(self) -> Tensor:
        return self.isnan().logical_or(self.isinf()).logical_not()

    # functions

    def sqrt(self) -> Tensor:
        return self._unary(Ops.SQRT)

    def rsqrt(self) -> Tensor:
        return 1 / self.sqrt()

    def reciprocal(self) -> Tensor:
        return 1 / self

    def square(self) -> Tensor:
        return self * self

    def exp2(self) -> Tensor:
        return self._unary(Ops.EXP2)

    def exp(self) -> Tensor:
        return (self * (1 / _LN2)).exp2()

    def log2(self) -> Tensor:
        return self._unary(Ops.LOG2)

    def log(self) -> Tensor:
        return self.log2() * _LN2

    def log10(self) -> Tensor:
        return self.log2() * (_LN2 / math.log(10))

    def log1p(self) -> Tensor:
        return (self + 1.0).log()

    def expm1(self) -> Tensor:
        return self.exp() - 1.0

    def sin(self) -> Tensor:
        return self._unary(Ops.SIN)

    def cos(self) -> Tensor:
        return (math.pi / 2 - self).sin()

    def tan(self) -> Tensor:
        return self.sin() / self.cos()

    def trunc(self) -> Tensor:
        return self._unary(Ops.TRUNC, floats=False)

    def floor(self) -> Tensor:
        t = self.trunc()
        return (self < t).where(t - 1, t)

    def ceil(self) -> Tensor:
        t = self.trunc()
        return (self > t).where(t + 1, t)

    def round(self) -> Tensor:
        """Halves to the even neighbour."""
        t = self.trunc()
        distance = (self - t).abs()
        away = (self < 0).where(t - 1, t + 1)
        odd = (t * 0.5).trunc() * 2.0
        return ((distance > 0.5) | (distance.eq(0.5) & odd.ne(t))).where(away, t)

    def abs(self) -> Tensor:
        if self.dtype.kind in "bu":
            return self * 1
        return self * self.sign() if self.dtype.is_float else (self < 0).where(-self, self)

    __abs__ = abs

    def sign(self) -> Tensor:
        one = (self > 0).cast(self.dtype)
        return one if self.dtype.kind in "bu" else self.isnan().where(self, one - (self < 0).cast(self.dtype)) \
            if self.dtype.is_float else one - (self < 0).cast(self.dtype)

    def lerp(self, end: Any, weight: Any) -> Tensor:
        return self + (end - self) * weight

    # activations

    def relu(self) -> Tensor:
        return (self <= 0).where(0, self) if self.dtype.is_float else self.maximum(0)

    def leaky_relu(self, negative_slope: Number = 0.01) -> Tensor:
        return (self > 0).where(self, self * negative_slope)

    def elu(self, alpha: Number = 1.0) -> Tensor:
        return (self > 0).where(self, (self.minimum(0).exp() - 1) * alpha)

    def sigmoid(self) -> Tensor:
        return 1 / ((-self).exp() + 1)

    def tanh(self) -> Tensor:
        """By 2*sigmoid(2x) - 1, through |x| so that nothing overflows; near zero the odd polynomial."""
        size = self.abs()
        e = (size * -2.0).exp()
        far = (1 - e) / (1 + e)
        x2 = self * self
        near = self * (x2 * (x2 * (2 / 15 - x2 * (17 / 315)) - 1 / 3) + 1)
        return (size < 0.1).where(near, self.sign().detach() * far)

    def silu(self) -> Tensor:
        return self * self.sigmoid()

    def softplus(self, beta: Number = 1.0) -> Tensor:
        x = self * beta
        return (x.maximum(0) + (1 + (-x.abs()).exp()).log()) / beta

    def gelu(self, approximate: str = "none") -> Tensor:
        """``x * Phi(x)``; ``approximate="tanh"`` for the usual approximation."""
        if approximate == "tanh":
            inner = (self + self * self * self * 0.044715) * math.sqrt(2 / math.pi)
            return self * 0.5 * (inner.tanh() + 1)
        if approximate != "none":
            raise ValueError(f"gelu: approximate is 'none' or 'tanh', not {approximate!r}")
        return self * 0.5 * ((self * math.sqrt(0.5)).erf() + 1)

    def erf(self) -> Tensor:
        """The Taylor series near zero, elsewhere a continued fraction's value through exp; about 1e-6 in float32."""
        return _erf(self)


def _reversed(x: Any) -> Any:
    """An order-reversing map without loss: the minimum is the maximum behind it."""
    return -x if x.dtype.is_float else ~x


def _floor_divide(x: Any, y: Any) -> Any:
    dtype = dtypes.promote(x.dtype, y.dtype)
    if dtype.is_float:
        return (x / y).floor()
    x, y = x.cast(dtype), y.cast(dtype)
    q = x._binary(Ops.IDIV, y)
    if dtype.kind != "i":
        return q
    rest = x - q * y
    return (rest.ne(0) & y.ne(0) & ((rest < 0) ^ (y < 0))).where(q - 1, q)


def _remainder(x: Any, y: Any) -> Any:
    dtype = dtypes.promote(x.dtype, y.dtype)
    x, y = x.cast(dtype), y.cast(dtype)
    if dtype.is_float:
        return x - (x / y).floor() * y
    r = x._binary(Ops.MOD, y)
    return r if dtype.kind != "i" else (r.ne(0) & ((r < 0) ^ (y < 0))).where(r + y, r)


def _pow(x: Any, exponent: Any) -> Any:
    if isinstance(exponent, int | float) and not isinstance(exponent, bool):
        if exponent == int(exponent) and abs(exponent) <= 8:
            n = abs(int(exponent))
            if exponent < 0 and not x.dtype.is_float:
                raise ValueError("integers to negative integer powers are not integers; cast to float first")
            out, square = None, x
            while n:
                if n & 1:
                    out = square if out is None else out * square
                square, n = square * square if n > 1 else square, n >> 1
            out = x * 0 + 1 if out is None else out
            if isinstance(exponent, float) and not out.dtype.is_float:
                out = out.float()
            return 1 / out if exponent < 0 else out
        if exponent == 0.5:
            return x.sqrt()
    y = x._operand(exponent, x.dtype)
    dtype = dtypes.promote(x.dtype, y.dtype)
    if not dtype.is_float:
        raise TypeError("integer ** integer tensor: cast one to float, or use a number up to 8 as the exponent")
    x, y = x.cast(dtype), y.cast(dtype)
    size = (x.abs().log2() * y).exp2()
    whole = y.trunc().eq(y)
    odd = (y * 0.5).trunc().mul(2.0).ne(y)
    out = (x < 0).where(whole.where(odd.where(-size, size), math.nan), size)
    return (y.eq(0) | x.eq(1)).where(x._operand(1.0, dtype), out)


def _erf(x: Any) -> Any:
    """erf(x) = 1 - t*P(t)*exp(-x*x), t = 1/(1 + x/2), for x >= 0; P by Numerical Recipes' Chebyshev fit (erfcc,
    relative error 1.2e-7), and the Taylor series for small x, where 1 - y would lose digits."""
    size = x.abs()
    t = 1 / (size * 0.5 + 1)
    fit = (-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587,
           -0.82215223, 0.17087277)
    total: Any = fit[-1]
    for c in reversed(fit[:-1]):
        total = t * total + c
    far = 1 - t * (total - size * size).exp()
    x2 = x * x
    series: Any = 0.0
    for k in range(9, -1, -1):
        series = x2 * series + (-1) ** k / (math.factorial(k) * (2 * k + 1)) if k < 9 else \
            (-1) ** k / (math.factorial(k) * (2 * k + 1))
    near = x * series * (2 / math.sqrt(math.pi))
    return (size < 0.7).where(near, x.sign().detach() * far)


