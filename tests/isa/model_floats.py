"""Floating-point numbers as exact rationals: written from the ISA guide, apart from what it is compared with."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

_FORMATS: dict[type, tuple[int, int, int]] = {np.float16: (11, -14, 15), np.float32: (24, -126, 127),
                                              np.float64: (53, -1022, 1023)}
NEAREST, TO_POSITIVE, TO_NEGATIVE, TO_ZERO = range(4)


def from_fraction(value: Fraction, dtype: type, rounding: int = NEAREST, *, negative_zero: bool = False) -> float:
    """An exact rational rounded once to ``dtype``, by integer arithmetic; a Python float (exact for all three)."""
    if value == 0:
        return -0.0 if negative_zero else 0.0
    precision, low, high = _FORMATS[dtype]
    sign = -1 if value < 0 else 1
    magnitude = abs(value)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if magnitude < Fraction(2) ** exponent:
        exponent -= 1
    ulp = Fraction(2) ** (max(exponent, low) - precision + 1)
    whole, rest = divmod(magnitude, ulp)
    up = {NEAREST: rest * 2 > ulp or (rest * 2 == ulp and whole & 1 == 1), TO_POSITIVE: rest > 0 and sign > 0,
          TO_NEGATIVE: rest > 0 and sign < 0, TO_ZERO: False}[rounding]
    rounded = (whole + up) * ulp
    if rounded >= Fraction(2) ** (high + 1):
        to_infinity = rounding == NEAREST or (rounding == TO_POSITIVE and sign > 0) \
            or (rounding == TO_NEGATIVE and sign < 0)
        largest = (Fraction(2) - Fraction(2) ** (1 - precision)) * Fraction(2) ** high
        return sign * (float("inf") if to_infinity else float(largest))
    return sign * float(rounded) if rounded else (-0.0 if sign < 0 else 0.0)
