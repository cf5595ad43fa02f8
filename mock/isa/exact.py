"""Correctly rounded arithmetic on arrays: what NumPy lacks (FMA, other rounding modes, flushing).

float32 and float16 go through float64 with *rounding to odd*: the float64 result keeps a sticky last bit, so that
rounding it once more to 24 or 11 bits gives the bits of a single rounding in any mode (Boldo and Melquiond,
"Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008). float64 itself goes
through error-free transformations, and where those could overflow or lose bits, and in the other rounding modes,
through integers (:mod:`mock.isa.soft`).
"""

from __future__ import annotations

import numpy as np

from mock.isa import soft
from mock.isa.arrays import Arrays
from mock.isa.soft import NEAREST, TO_NEGATIVE, TO_POSITIVE, TO_ZERO

__all__ = ["NEAREST", "TO_NEGATIVE", "TO_POSITIVE", "TO_ZERO", "add_f64", "add_odd", "fma_f32", "fma_f64", "fma_odd",
           "fma_scaled_f64", "mul_f64", "narrow", "two_sum"]

Array = np.ndarray
_WORDS = Arrays()
_TIE, _LOW = np.int64(1 << 28), np.int64((1 << 29) - 1)     # float64's bits below float32's last one


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """float64 sum and its exact error (Knuth). The error is NaN where the sum is not finite."""
    s = a + b
    bb = s - a
    return s, (a - (s - bb)) + (b - bb)


def _to_odd(s: Array, error: Array) -> Array:
    """``s + error`` rounded to odd, given the nearest value ``s`` and the exact rest."""
    bits = s.view(np.int64)
    # Towards the rest: away from zero when it has the sign of s, else one step back.
    step = np.where((error > 0) == (s > 0), 1, -1)
    odd = np.where((error != 0) & (bits & 1 == 0) & np.isfinite(s), bits + step, bits)
    return odd.view(np.float64)


def add_odd(a: Array, b: Array) -> Array:
    """float64 ``a + b`` rounded to odd."""
    return _to_odd(*two_sum(np.asarray(a, np.float64), np.asarray(b, np.float64)))


def fma_odd(a: Array, b: Array, c: Array) -> Array:
    """``a * b + c`` of float32 or float16 values, as float64 rounded to odd."""
    product = np.asarray(a, np.float64) * np.asarray(b, np.float64)      # exact: 48 bits
    return _to_odd(*two_sum(product, np.asarray(c, np.float64)))


def narrow(x: Array, dtype: type, rounding: int) -> Array:
    """float64 (exact, or rounded to odd) to float32 or float16 in one rounding of any mode."""
    nearest: Array = x.astype(dtype)
    if rounding == NEAREST:
        return nearest
    back = nearest.astype(np.float64)
    infinity = dtype(np.inf)
    if rounding == TO_POSITIVE:
        return np.where(back < x, np.nextafter(nearest, infinity), nearest)
    if rounding == TO_NEGATIVE:
        return np.where(back > x, np.nextafter(nearest, -infinity), nearest)
    return np.where(np.abs(back) > np.abs(x), np.nextafter(nearest, dtype(0)), nearest)


def fma_f32(a: Array, b: Array, c: Array) -> Array:
    """float32 fused multiply-add, nearest, with denormals.

    The float64 sum rounds twice, which differs from once only where it lies on a float32 tie or below the normal
    range; those few go through rounding to odd.
    """
    s = np.multiply(a, b, dtype=np.float64)
    s = np.add(s, c, dtype=np.float64)
    result = s.astype(np.float32)
    doubtful = (s.view(np.int64) & _LOW) == _TIE
    tiny = (result.view(np.uint32) << np.uint32(1)) - np.uint32(1) < np.uint32(0x0100_0000)
    if doubtful.any() or tiny.any():
        where = doubtful | tiny
        a, b, c = (np.broadcast_to(x, s.shape)[where] for x in (a, b, c))
        result = np.array(result)
        result[where] = fma_odd(a, b, c).astype(np.float32)
    return result


_SPLIT = 134217729.0        # 2**27 + 1


def _two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """float64 product and its exact error (Dekker, Veltkamp); for operands whose halves stay in range."""
    p = a * b
    t = _SPLIT * a
    ah = t - (t - a)
    al = a - ah
    t = _SPLIT * b
    bh = t - (t - b)
    bl = b - bh
    return p, ((ah * bh - p) + ah * bl + al * bh) + al * bl


def add_f64(a: Array, b: Array, rounding: int) -> Array:
    """float64 addition in any rounding mode."""
    return np.add(a, b) if rounding == NEAREST else fma_f64(a, np.array(1.0), b, rounding)


def mul_f64(a: Array, b: Array, rounding: int) -> Array:
    """float64 multiplication in any rounding mode."""
    if rounding == NEAREST:
        return np.multiply(a, b)
    zero = np.where(np.signbit(a) != np.signbit(b), -0.0, 0.0)      # keeps the sign of a zero product
    return fma_f64(a, b, zero, rounding)


def fma_f64(a: Array, b: Array, c: Array, rounding: int = NEAREST) -> Array:
    """float64 fused multiply-add in any rounding mode."""
    a, b, c = (np.array(x, np.float64) for x in np.broadcast_arrays(a, b, c))
    if rounding != NEAREST:
        return soft.fma(_WORDS, a, b, c, rounding)
    p, rest = _two_product(a, b)
    _, exponent_a = np.frexp(a)
    _, exponent_b = np.frexp(b)
    exponent = exponent_a + exponent_b
    # The error-free way needs the product, its error and the sum well inside the range.
    safe = (np.abs(exponent_a) < 900) & (np.abs(exponent_b) < 900) & (np.abs(exponent) < 900) \
        & (np.abs(c) < 2.0 ** 900) & np.isfinite(a) & np.isfinite(b) & ((np.abs(c) > 2.0 ** -800)
            | (c == 0)) & (a != 0) & (b != 0)
    high, high_rest = two_sum(p, c)                 # p + c = high + high_rest
    low = add_odd(rest, high_rest)                  # what is left, with a sticky bit
    # The sum of the parts may be tiny by cancellation: still exact then. Underflow is excluded by `safe`
    # except for complete cancellation, where `low` is the exact result.
    return _WORDS.rarely(~safe, high + low, lambda x, y, z: soft.fma(_WORDS, x, y, z, NEAREST), a, b, c)


def fma_scaled_f64(a: Array, b: Array, c: Array, scale: Array, rounding: int = NEAREST) -> Array:
    """(a * b + c) * scale with one rounding, for powers of two as ``scale``."""
    a, b, c, scale = (np.array(x, np.float64) for x in np.broadcast_arrays(a, b, c, scale))

    def by_integers(x: Array, y: Array, z: Array, k: Array) -> Array:
        return soft.fma(_WORDS, x, y, z, rounding, (np.frexp(k)[1] - 1).astype(np.int32))
    if rounding != NEAREST:
        return by_integers(a, b, c, scale)
    result = fma_f64(a, b, c) * scale
    # Below the normal range the scaling rounds too; above it, it may have come too late.
    twice = ((np.abs(result) <= 2.0 ** -1022) | np.isinf(result)) & (scale != 1)
    return _WORDS.rarely(twice, result, by_integers, a, b, c, scale)
