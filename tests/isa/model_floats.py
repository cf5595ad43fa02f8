"""Floating-point numbers as integers: written from the ISA guide's words, apart from what is compared with it.

A number is a bit pattern (an int) and a :class:`Format`. Exact values are ``m * 2**e`` with integers of any size, and
each operation rounds once. No float and no array is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

NEAREST, TO_POSITIVE, TO_NEGATIVE, TO_ZERO = range(4)


@dataclass(frozen=True)
class Format:
    """Bits in all, and bits of the fraction."""

    bits: int
    fraction: int

    @property
    def sign(self) -> int:
        return 1 << self.bits - 1

    @property
    def infinity(self) -> int:
        return self.sign - (1 << self.fraction)

    @property
    def bias(self) -> int:
        return (1 << self.bits - 2 - self.fraction) - 1

    @property
    def quiet(self) -> int:
        return 1 << self.fraction - 1

    @property
    def default_nan(self) -> int:
        return self.infinity | self.quiet

    @property
    def one(self) -> int:
        return self.bias << self.fraction


F16, F32, F64 = Format(16, 10), Format(32, 23), Format(64, 52)
FORMATS = {"f16": F16, "f32": F32, "f64": F64}


@dataclass(frozen=True)
class Mode:
    """MODE's bits (RDNA3 ISA, "Mode register")."""

    value: int

    def rounding(self, f: Format) -> int:
        return self.value & 3 if f is F32 else self.value >> 2 & 3

    def keeps_in(self, f: Format) -> bool:
        return bool(self.value >> (4 if f is F32 else 6) & 1)

    def keeps_out(self, f: Format) -> bool:
        return bool(self.value >> (5 if f is F32 else 7) & 1)

    @property
    def dx10_clamp(self) -> bool:
        return bool(self.value >> 8 & 1)

    @property
    def ieee(self) -> bool:
        return bool(self.value >> 9 & 1)

    @property
    def fp16_overflow(self) -> bool:
        return bool(self.value >> 23 & 1)


def magnitude(x: int, f: Format) -> int:
    return x & f.sign - 1


def is_nan(x: int, f: Format) -> bool:
    return magnitude(x, f) > f.infinity


def is_inf(x: int, f: Format) -> bool:
    return magnitude(x, f) == f.infinity


def is_zero(x: int, f: Format) -> bool:
    return magnitude(x, f) == 0


def is_denormal(x: int, f: Format) -> bool:
    return 0 < magnitude(x, f) < 1 << f.fraction


def is_signaling(x: int, f: Format) -> bool:
    return is_nan(x, f) and not x & f.quiet


def negative(x: int, f: Format) -> bool:
    return bool(x & f.sign)


def exponent_field(x: int, f: Format) -> int:
    return magnitude(x, f) >> f.fraction


def exact(x: int, f: Format) -> tuple[int, int]:
    """(m, e), signed, of a finite number."""
    field, fraction = exponent_field(x, f), x & (1 << f.fraction) - 1
    m = fraction | (1 << f.fraction if field else 0)
    return (-m if negative(x, f) else m), max(field, 1) - f.bias - f.fraction


def pack(m: int, e: int, f: Format, rounding: int, zero_sign: bool = False) -> int:
    """``m * 2**e`` rounded once. ``zero_sign``: of an exact zero."""
    if m == 0:
        return f.sign if zero_sign else 0
    below, size = m < 0, abs(m)
    top = size.bit_length() - 1 + e
    q = max(top, 1 - f.bias) - f.fraction
    drop = q - e
    if drop <= 0:
        whole, rest, half = size << -drop, 0, 1
    else:
        whole, rest, half = size >> drop, size & (1 << drop) - 1, 1 << drop - 1
    if rounding == NEAREST:
        whole += rest > half or (rest == half and drop > 0 and whole & 1 == 1)
    elif rounding == TO_POSITIVE:
        whole += rest > 0 and not below
    elif rounding == TO_NEGATIVE:
        whole += rest > 0 and below
    bits = whole if whole < 1 << f.fraction else (q + f.fraction + f.bias - 1 << f.fraction) + whole
    if bits >= f.infinity:
        outward = rounding == NEAREST or rounding == (TO_NEGATIVE if below else TO_POSITIVE)
        bits = f.infinity if outward else f.infinity - 1
    return bits | (f.sign if below else 0)


def flushed(x: int, f: Format) -> int:
    return x & f.sign if exponent_field(x, f) == 0 else x


def read(x: int, f: Format, mode: Mode) -> int:
    """An operand as arithmetic sees it."""
    return x if mode.keeps_in(f) else flushed(x, f)


def first_nan(f: Format, *xs: int) -> int | None:
    for x in xs:
        if is_nan(x, f):
            return x | f.quiet
    return None


def finish(x: int, f: Format, mode: Mode, *sources: int) -> int:
    """A number on its way out: denormals, and f16's overflow."""
    if not mode.keeps_out(f):
        x = flushed(x, f)
    if f is F16 and mode.fp16_overflow and is_inf(x, f) and not any(is_inf(s, f) for s in sources):
        x = x & f.sign | f.infinity - 1
    return x


def fused(a: int, b: int, c: int, f: Format, mode: Mode, scale: int = 0, to: Format | None = None) -> int:
    """(a * b + c) * 2**scale in one rounding, to ``to``."""
    to = to or f
    a, b, c = (read(x, f, mode) for x in (a, b, c))
    nan = first_nan(f, a, b, c)
    if nan is not None:
        return nan if to is f else convert_nan(nan, f, to)
    sign = negative(a, f) != negative(b, f)
    if is_inf(a, f) or is_inf(b, f):
        if is_zero(a, f) or is_zero(b, f) or (is_inf(c, f) and negative(c, f) != sign):
            return to.default_nan
        return to.infinity | (to.sign if sign else 0)
    if is_inf(c, f):
        return to.infinity | (to.sign if negative(c, f) else 0)
    (ma, ea), (mb, eb), (mc, ec) = exact(a, f), exact(b, f), exact(c, f)
    low = min(ea + eb, ec)
    total = (ma * mb << ea + eb - low) + (mc << ec - low)
    rounding = mode.rounding(to)
    zero = sign if sign == negative(c, f) else rounding == TO_NEGATIVE
    return finish(pack(total, low + scale, to, rounding, zero), to, mode)


def add(a: int, b: int, f: Format, mode: Mode) -> int:
    return fused(a, f.one, b, f, mode)


def subtract(a: int, b: int, f: Format, mode: Mode) -> int:
    a, b = read(a, f, mode), read(b, f, mode)
    nan = first_nan(f, a, b)        # a NaN keeps its sign
    return nan if nan is not None else fused(a, f.one, b ^ f.sign, f, mode)


def multiply(a: int, b: int, f: Format, mode: Mode) -> int:
    a, b = read(a, f, mode), read(b, f, mode)
    return fused(a, b, (a ^ b) & f.sign, f, mode)       # a zero of the product's sign adds nothing


def convert_nan(x: int, f: Format, to: Format) -> int:
    payload, shift = x & (1 << f.fraction) - 1, to.fraction - f.fraction
    payload = payload << shift if shift >= 0 else payload >> -shift
    return payload | to.infinity | to.quiet | (to.sign if negative(x, f) else 0)


def convert(x: int, f: Format, to: Format, mode: Mode, rounding: int | None = None) -> int:
    x = read(x, f, mode)
    if is_nan(x, f):
        return convert_nan(x, f, to)
    if is_inf(x, f):
        return to.infinity | (to.sign if negative(x, f) else 0)
    m, e = exact(x, f)
    return finish(pack(m, e, to, mode.rounding(to) if rounding is None else rounding, negative(x, f)), to, mode)


def from_integer(n: int, f: Format, mode: Mode) -> int:
    return finish(pack(n, 0, f, mode.rounding(f)), f, mode) if f is F16 else pack(n, 0, f, mode.rounding(f))


def to_integer(x: int, f: Format, low: int, high: int, mode: Mode, how: str = "zero") -> int:
    x = read(x, f, mode)
    if is_nan(x, f):
        return 0
    if is_inf(x, f):
        return low if negative(x, f) else high
    m, e = exact(x, f)
    value = Fraction(m) * Fraction(2) ** e
    if how == "zero":
        n = int(value)
    elif how == "even":
        n = round(value)
    elif how == "floor":
        n = value.__floor__()
    else:
        n = (value + Fraction(1, 2)).__floor__()
    return min(max(n, low), high)


def less(a: int, b: int, f: Format) -> bool:
    """Ordered numbers only; zeros are equal."""
    return key(a, f) < key(b, f)


def key(x: int, f: Format) -> int:
    return -magnitude(x, f) if negative(x, f) else magnitude(x, f)


def smallest(a: int, b: int, f: Format, mode: Mode, largest: bool = False) -> int:
    """A number wins over a NaN; with IEEE mode a signalling NaN wins, quiet. -0 is less than +0."""
    a, b = read(a, f, mode), read(b, f, mode)
    if mode.ieee:
        for x in (a, b):
            if is_signaling(x, f):
                return x | f.quiet
    if is_nan(a, f):
        return b
    if is_nan(b, f):
        return a
    a_less = (key(a, f), not negative(a, f)) < (key(b, f), not negative(b, f))
    return a if a_less != largest else b


def integral(x: int, f: Format, mode: Mode, how: str) -> int:
    x = read(x, f, mode)
    if is_nan(x, f):
        return x | f.quiet
    if is_inf(x, f):
        return x
    m, e = exact(x, f)
    value = Fraction(m) * Fraction(2) ** e
    n = {"floor": value.__floor__, "ceil": value.__ceil__, "trunc": value.__trunc__,
         "even": lambda: round(value)}[how]()
    return pack(n, 0, f, NEAREST, negative(x, f))


def from_fraction(value: Fraction, dtype: type, rounding: int = NEAREST, *, negative_zero: bool = False) -> float:
    """An exact dyadic rational rounded once to NumPy's ``dtype``; a Python float (exact for all three)."""
    f = {np.float16: F16, np.float32: F32, np.float64: F64}[dtype]
    e = -value.denominator.bit_length() + 1
    if value.denominator & value.denominator - 1:       # no power of two: bits enough, and a sticky one
        e = -4000
        n = value.numerator << 4000
        m = n // value.denominator * 2 + (n % value.denominator != 0)
        e -= 1
    else:
        m = value.numerator
    bits = pack(m, e, f, rounding, negative_zero)
    unsigned = {16: np.uint16, 32: np.uint32, 64: np.uint64}[f.bits]
    return float(unsigned(bits).view(dtype))
