"""Functions of single elements: powers, exponentials, circular and hyperbolic functions, rounding, special ones.

Half types are computed in float32 and rounded once; integers become the default float. Every formula is chosen so
that its derivative, which is made from the formula itself, is right at the seams too: branches are chosen by ``<``
(at 0 one branch alone carries the gradient), never by multiplying with a sign.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from compiler import dtypes
from compiler.methods import special
from compiler.methods.base import Methods
from compiler.methods.elementwise import floor_divide, fmod, power, remainder
from compiler.uop import Ops

if TYPE_CHECKING:
    from compiler.tensor import Tensor

__all__ = ["Functions", "precisely"]

_LN2 = math.log(2)


def precisely(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compute a method of a half-type (or fp8) tensor in float32, of an integer one in the default float."""
    @functools.wraps(function)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        kind = self.dtype
        if not kind.is_float:
            return function(self.cast(dtypes.default_float), *args, **kwargs)
        if kind.bits < 32:
            return function(self.cast(dtypes.float32), *args, **kwargs).cast(kind)
        return function(self, *args, **kwargs)
    return wrapped


class Functions(Methods):
    """Mixin; see :class:`compiler.tensor.Tensor`."""

    __slots__ = ()

    # powers

    def pow(self, exponent: Any) -> Tensor:
        """``self ** exponent``. Whole numbers multiply; other powers go by exp2 and log2. Integers wrap."""
        return power(self, exponent)

    def float_power(self, exponent: Any) -> Tensor:
        """In float64, whatever the types are."""
        return power(self.cast(dtypes.float64), exponent)

    __pow__ = pow

    def __rpow__(self, base: Any) -> Tensor:
        return power(self._operand(base, self.dtype), self)

    def sqrt(self) -> Tensor:
        """Square root; NaN below 0."""
        return self._unary(Ops.SQRT)

    @precisely
    def rsqrt(self) -> Tensor:
        """1 / sqrt(x)"""
        return 1 / self.sqrt()

    def reciprocal(self) -> Tensor:
        """1 / x"""
        return 1 / self

    def square(self) -> Tensor:
        """x * x"""
        return self * self if self.dtype is not dtypes.bool_ else self.int()

    @precisely
    def hypot(self, other: Any) -> Tensor:
        """sqrt(x*x + y*y) without overflow on the way."""
        return special.hypot(self, self._operand(other, self.dtype).cast(self.dtype))

    # exponentials

    def exp2(self) -> Tensor:
        """2**x"""
        return self._unary(Ops.EXP2)

    @precisely
    def exp(self) -> Tensor:
        """e**x"""
        return (self * (1 / _LN2)).exp2()       # code generation knows this form, and does not lose the product's bits

    def log2(self) -> Tensor:
        """Logarithm to base 2; NaN below 0."""
        return self._unary(Ops.LOG2)

    @precisely
    def log(self) -> Tensor:
        """Natural logarithm; NaN below 0."""
        return self.log2() * _LN2

    @precisely
    def log10(self) -> Tensor:
        """Logarithm to base 10; NaN below 0."""
        return self.log2() * (_LN2 / math.log(10))

    @precisely
    def log1p(self) -> Tensor:
        """log(1 + x), exact near 0 too."""
        return special.log1p(self)

    @precisely
    def expm1(self) -> Tensor:
        """e**x - 1, exact near 0 too."""
        return special.expm1(self)

    @precisely
    def logaddexp(self, other: Any) -> Tensor:
        """log(exp(x) + exp(y))"""
        return special.logaddexp(self, self._operand(other, self.dtype).cast(self.dtype))

    @precisely
    def logaddexp2(self, other: Any) -> Tensor:
        """log2(2**x + 2**y)"""
        return special.logaddexp2(self, self._operand(other, self.dtype).cast(self.dtype))

    @precisely
    def xlogy(self, other: Any) -> Tensor:
        """x * log(y), and 0 where x is 0 and y is no NaN."""
        return special.xlogy(self, self._operand(other, self.dtype).cast(self.dtype))

    @precisely
    def logit(self, eps: Any = None) -> Tensor:
        """log(x / (1 - x)), after a clamp to [eps, 1 - eps] where ``eps`` is given."""
        return special.logit(self if eps is None else self.clamp(eps, 1 - eps))

    def ldexp(self, other: Any) -> Tensor:
        """x * 2**other"""
        return self * self._operand(other, self.dtype).cast(dtypes.promote(self.dtype, dtypes.default_float)).exp2()

    # circular functions

    def sin(self) -> Tensor:
        """Sine of radians."""
        return self._unary(Ops.SIN)

    @precisely
    def cos(self) -> Tensor:
        """Cosine of radians."""
        return (math.pi / 2 - self).sin()       # code generation knows this form, and reduces x itself

    @precisely
    def tan(self) -> Tensor:
        """Tangent of radians."""
        return self.sin() / self.cos()

    @precisely
    def atan(self) -> Tensor:
        """Arc tangent, radians."""
        return special.atan(self)

    @precisely
    def asin(self) -> Tensor:
        """Arc sine, radians; NaN outside of [-1, 1]."""
        return special.asin(self)

    @precisely
    def acos(self) -> Tensor:
        """Arc cosine, radians; NaN outside of [-1, 1]."""
        return special.acos(self)

    def atan2(self, other: Any) -> Tensor:
        """The angle of the point (other, self), in [-pi, pi]."""
        return special.atan2(self, self._operand(other, self.dtype))

    @precisely
    def sinc(self) -> Tensor:
        """sin(pi*x) / (pi*x), 1 at 0."""
        x = self * math.pi
        zero = self.eq(0)
        return zero.where(1, x.sin() / zero.where(1, x))

    def deg2rad(self) -> Tensor:
        """Degrees to radians."""
        return self * (math.pi / 180)

    def rad2deg(self) -> Tensor:
        """Radians to degrees."""
        return self * (180 / math.pi)

    # hyperbolic functions

    @precisely
    def sinh(self) -> Tensor:
        """Hyperbolic sine."""
        return special.sinh(self)

    @precisely
    def cosh(self) -> Tensor:
        """Hyperbolic cosine."""
        return special.cosh(self)

    @precisely
    def tanh(self) -> Tensor:
        """Hyperbolic tangent."""
        return special.tanh(self)

    @precisely
    def asinh(self) -> Tensor:
        """Inverse hyperbolic sine."""
        return special.asinh(self)

    @precisely
    def acosh(self) -> Tensor:
        """Inverse hyperbolic cosine; NaN below 1."""
        return special.acosh(self)

    @precisely
    def atanh(self) -> Tensor:
        """Inverse hyperbolic tangent; NaN outside of [-1, 1]."""
        return special.atanh(self)

    # special functions

    @precisely
    def erf(self) -> Tensor:
        """The error function."""
        return special.erf(self)

    @precisely
    def erfc(self) -> Tensor:
        """1 - erf(x), without cancellation for large x."""
        return special.erfc(self)

    @precisely
    def erfinv(self) -> Tensor:
        """The inverse of :meth:`erf`; NaN outside of [-1, 1]."""
        return special.erfinv(self)

    @precisely
    def lgamma(self) -> Tensor:
        """The logarithm of the absolute value of the gamma function."""
        return special.lgamma(self)

    @precisely
    def digamma(self) -> Tensor:
        """The derivative of :meth:`lgamma`."""
        return special.digamma(self)

    # rounding

    def trunc(self) -> Tensor:
        """Rounded towards zero; the type stays. ``fix`` is another name of it."""
        return self._unary(Ops.TRUNC, floats=False)

    def floor(self) -> Tensor:
        """The greatest whole number that is not above; the type stays."""
        t = self.trunc()
        return (self < t).where(t - 1, t) if self.dtype.is_float else t

    def ceil(self) -> Tensor:
        """The least whole number that is not below; the type stays."""
        t = self.trunc()
        if not self.dtype.is_float:
            return t
        up: Tensor = (self > t).where(t + 1, t)
        return (up.eq(0) & (self < 0)).where(-0.0, up)

    def round(self, decimals: int = 0) -> Tensor:
        """Halves to the even neighbour; ``decimals`` may be negative."""
        if decimals:
            scale = 10.0 ** abs(decimals)
            return (self * scale).round() / scale if decimals > 0 else (self / scale).round() * scale
        if not self.dtype.is_float:
            return self.trunc()
        t = self.trunc()
        distance = (self - t).abs()
        away = (self < 0).where(t - 1, t + 1)
        odd = (t * 0.5).trunc() * 2.0
        return ((distance > 0.5) | (distance.eq(0.5) & odd.ne(t))).where(away, t)

    def frac(self) -> Tensor:
        """What is behind the point, with the sign: x - trunc(x)."""
        return self - self.trunc()

    fix = trunc

    # remainders

    def floor_divide(self, other: Any) -> Tensor:
        """Rounds toward minus infinity; integers by zero give 0."""
        return floor_divide(self, self._operand(other, self.dtype))

    def remainder(self, other: Any) -> Tensor:
        """With the sign of the divisor."""
        return remainder(self, self._operand(other, self.dtype))

    def fmod(self, other: Any) -> Tensor:
        """With the sign of the dividend, as C has it."""
        return fmod(self, self._operand(other, self.dtype))

    mod = remainder
    __floordiv__ = floor_divide
    __mod__ = remainder

    def __rfloordiv__(self, other: Any) -> Tensor:
        return floor_divide(self._operand(other, self.dtype), self)

    def __rmod__(self, other: Any) -> Tensor:
        return remainder(self._operand(other, self.dtype), self)

    # signs

    def abs(self) -> Tensor:
        """Absolute values; the type stays. ``absolute`` is another name of it."""
        if self.dtype.kind in "bu":
            return self.clone()  # type: ignore[no-any-return]
        return self.maximum(-self) if self.dtype.is_float else (self < 0).where(-self, self)

    __abs__ = absolute = abs

    def sign(self) -> Tensor:
        """-1, 0 or 1; 0 for NaN."""
        return special.sign(self)

    sgn = sign

    def signbit(self) -> Tensor:
        """True for negative numbers, -0.0 and NaNs with the bit set."""
        if not self.dtype.is_float:
            return self < 0
        x = self.cast(dtypes.float32) if self.dtype.bits < 32 else self
        return x.detach().bitcast(dtypes.int32 if x.dtype.bits == 32 else dtypes.int64) < 0

    def copysign(self, other: Any) -> Tensor:
        """This one's size with the other's sign; that of -0.0 counts."""
        y = self._operand(other, self.dtype)
        dtype = dtypes.promote(self.dtype, y.dtype)
        x = self.cast(dtype if dtype.is_float else dtypes.default_float)
        return special.copysign(x, y.cast(x.dtype))

    def heaviside(self, values: Any) -> Tensor:
        """0 for negative numbers, 1 for positive ones, ``values`` at 0."""
        return self.eq(0).where(self._operand(values, self.dtype), (self > 0).cast(self.dtype))

    def nextafter(self, other: Any) -> Tensor:
        """The next number of the type towards ``other``."""
        y = self._operand(other, self.dtype)
        dtype = dtypes.promote(self.dtype, y.dtype)
        if dtype not in (dtypes.float32, dtypes.float64):
            raise TypeError(f"nextafter is of float32 and float64, not {dtype.name}")
        x, y = self.cast(dtype).detach(), y.cast(dtype)
        whole = dtypes.int32 if dtype.bits == 32 else dtypes.int64
        bits = x.bitcast(whole)
        away = (y > x).eq(x > 0)
        least = bits.full_like(1), bits.full_like(whole.min + 1)
        moved = x.eq(0).where((y > 0).where(*least), away.where(bits + 1, bits - 1)).cast(whole)
        return (x.isnan() | y.isnan()).where(math.nan, x.eq(y).where(y, moved.bitcast(dtype)))

    # other names

    absolute = abs
    arctan, arctan2, arcsin, arccos = atan, atan2, asin, acos
    arcsinh, arccosh, arctanh = asinh, acosh, atanh
