"""The transcendental unit's words: computed in float64 by our own algorithms, rounded once.

They are written in the words that the executors share, one IEEE operation after the other (no library function, no
contraction), so that both give the same bits. The guide allows 1 ulp for float32 (exp, log, rcp, rsq, sqrt), 0.51 ulp
for float16 and 2**29 ulp for float64 (RDNA3 ISA, V_RCP_F32, V_RCP_F16, V_RCP_F64 and their neighbours). The polynomials
are good to 2**-48, so float32 and float16 results are within 0.5001 ulp; float64 reciprocals and roots are correctly
rounded, reciprocal roots are within 1.5 ulp.

float32 results and operands below the normal range are flushed, as the hardware's unit has no denormals there
(LLVM, AMDGPULegalizerInfo, "needsDenormHandlingF32" and the scaling around v_rcp/v_sqrt/v_rsq); float16 and
float64 keep them by the mode.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any

__all__ = ["Transcendental", "two_over_pi_words"]

V = Any
_LN2 = Fraction("0.693147180559945309417232121458176568075500134360255254120680")
_PI = Fraction("3.141592653589793238462643383279502884197169399375105820974945")
# 2**r, |r| <= 1/2; sin(2 pi r) / r and cos(2 pi r) in r*r, |r| <= 1/8: Taylor.
_EXP2 = [float(_LN2 ** k / math.factorial(k)) for k in range(14)]
_SIN = [float((-1) ** k * (2 * _PI) ** (2 * k + 1) / math.factorial(2 * k + 1)) for k in range(9)]
_COS = [float((-1) ** k * (2 * _PI) ** (2 * k) / math.factorial(2 * k)) for k in range(9)]
# log2((1 + s) / (1 - s)) / s in s*s, |s| <= 0.1716.
_LOG2 = [float(2 / _LN2 / (2 * k + 1)) for k in range(11)]
_ROOT_OF_HALF_BITS = 0x3fe6a09e667f3bcd


def _polynomial(v: V, x: Any, coefficients: list[float]) -> Any:
    result: Any = v.constant("f64", coefficients[-1])
    for c in reversed(coefficients[:-1]):
        result = v.near_add(v.near_mul(result, x), v.constant("f64", c))
    return result


def exp2(v: V, x: Any) -> Any:
    """2**x of a float64; far beyond float32's range it stays at 2**+-200. NaN: any number."""
    x = v.select(v.lt(x, -200.0), v.constant("f64", -200.0), v.select(v.gt(x, 200.0), v.constant("f64", 200.0), x))
    whole = v.near_int(x)
    power = v.cast(v.add(v.near_cast(whole, "i32"), 1023), "u64")
    return v.near_mul(_polynomial(v, v.near_sub(x, whole), _EXP2), v.bits(v.shl(power, 52), "f64"))


def log2(v: V, x: Any) -> Any:
    """log2 of a normal float64, of 0 or of infinity; NaN of negative numbers and NaNs."""
    raw = v.bits(x, "u64")
    # The exponent that leaves a mantissa between the square roots of 1/2 and 2.
    shifted = v.sub(raw, _ROOT_OF_HALF_BITS)
    exponent = v.cast(v.shr(v.bits(shifted, "i64"), 52), "i32")
    one = v.constant("f64", 1.0)
    mantissa = v.bits(v.add(v.and_(shifted, (1 << 52) - 1), _ROOT_OF_HALF_BITS), "f64")
    s = v.near_div(v.near_sub(mantissa, one), v.near_add(mantissa, one))
    result = v.near_add(v.near_cast(exponent, "f64"), v.near_mul(_polynomial(v, v.near_mul(s, s), _LOG2), s))
    result = v.select(v.eq(x, math.inf), v.constant("f64", math.inf), result)
    result = v.select(v.ge(x, 0.0), result, v.nan("f64"))
    return v.select(v.eq(x, 0.0), v.constant("f64", -math.inf), result)


def _circle(v: V, turns: Any, cosine: bool) -> Any:
    """sin or cos of 2 pi x. Whole quarters are exact; outside +-256 turns the unit returns what angle 0 gives."""
    zero, one = v.constant("f64", 0.0), v.constant("f64", 1.0)
    part = v.near_sub(turns, v.near_int(turns))
    quarter = v.near_int(v.near_mul(part, v.constant("f64", 4.0)))
    rest = v.near_sub(part, v.near_mul(quarter, v.constant("f64", 0.25)))
    square = v.near_mul(rest, rest)
    sine, cos = v.near_mul(_polynomial(v, square, _SIN), rest), _polynomial(v, square, _COS)
    number = v.bits(v.near_cast(quarter, "i32"), "u32")
    if cosine:
        number = v.add(number, 1)
    result = v.select(v.ne(v.and_(number, 1), 0), cos, sine)
    result = v.select(v.ne(v.and_(number, 2), 0), v.neg(result), result)
    nothing = zero if cosine else v.copysign(zero, turns)
    result = v.select(v.eq(result, 0.0), nothing, result)
    size = v.abs(turns)
    far = v.and_(v.gt(size, 256.0), v.lt(size, math.inf))
    return v.select(far, one if cosine else nothing, result)


class Transcendental:
    """The words themselves, for a class that has the others."""

    def _special(self, function: Callable[[V, Any], Any], a: Any, *, poles: bool = False) -> Any:
        """``poles``: the result for zero is an infinity that no overflow made."""
        v: V = self
        kind = v.kind_of(a)
        a = v.flush(a) if kind == "f32" else v.canonical(a)
        result = v.near_cast(function(v, v.near_cast(a, "f64")), kind)
        if kind == "f32":
            result = v.flush(result)
        if poles and v.mode.fp16_overflow:
            return v.finish(result, a, v.select(v.eq(a, 0.0), result, v.constant(kind, 0.0)))
        return v.finish(result, a)

    def rcp(self, a: Any) -> Any:
        return self._special(lambda v, x: v.near_div(v.constant("f64", 1.0), x), a, poles=True)

    def sqrt(self, a: Any) -> Any:
        return self._special(lambda v, x: v.near_sqrt(x), a)

    def rsq(self, a: Any) -> Any:
        return self._special(lambda v, x: v.near_div(v.constant("f64", 1.0), v.near_sqrt(x)), a, poles=True)

    def exp2(self, a: Any) -> Any:
        return self._special(exp2, a)

    def log2(self, a: Any) -> Any:
        return self._special(log2, a, poles=True)

    def sin_turns(self, a: Any) -> Any:
        """sin(2 pi a): the operand is in turns."""
        return self._special(lambda v, x: _circle(v, x, False), a)

    def cos_turns(self, a: Any) -> Any:
        return self._special(lambda v, x: _circle(v, x, True), a)

    def two_over_pi(self, shift: Any) -> Any:
        """The 53 bits of 2/pi's fraction that begin ``shift`` (i32) bits after the binary point, as an f64 integer."""
        v: V = self
        words = two_over_pi_words()
        shift = v.min(v.max(shift, 0), 64 * (len(words) - 1))
        number, inside = v.shr(shift, 6), v.and_(shift, 63)
        first: Any = v.constant("u64", words[0])
        second: Any = v.constant("u64", words[1])
        for i in range(1, len(words) - 1):
            here = v.eq(number, i)
            first = v.select(here, v.constant("u64", words[i]), first)
            second = v.select(here, v.constant("u64", words[i + 1]), second)
        both = v.or_(v.shl(first, inside), v.shr(v.shr(second, 1), v.sub(63, inside)))
        return v.near_cast(v.shr(both, 11), "f64")


@cache
def two_over_pi_words() -> list[int]:
    """The binary digits of 2/pi after the point, 64 to a word: 1280 of them, by Machin's formula in integers."""
    bits = 1280
    one = 1 << bits + 64

    def arctan_inverse(n: int) -> int:
        total, term, k = 0, one // n, 1
        while term:
            total += term // k if k % 4 == 1 else -(term // k)
            term, k = term // (n * n), k + 2
        return total
    pi = 4 * (4 * arctan_inverse(5) - arctan_inverse(239))
    value = 2 * one * one // pi >> 64
    return [value >> bits - 64 * (i + 1) & (1 << 64) - 1 for i in range(bits // 64)]
