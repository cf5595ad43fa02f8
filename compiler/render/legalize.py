"""Required rewrites: what a target's instructions do not do is put in terms of what they do.

No library function is ever called. ``exp2``, ``log2`` and ``sin`` are polynomials of ours (in every type, so that
devices agree to rounding), except where the target has an instruction for them: AMD's v_exp_f32 and v_log_f32.
Half types are stored as such and computed with as float32.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

from compiler import dtypes
from compiler.dtypes import DType
from compiler.match import PatternMatcher, Rule, UPat
from compiler.symbolic import symbolic
from compiler.uop import Ops, UOp

__all__ = ["legalizer", "reciprocal"]

_SMALL = (dtypes.float8_e4m3, dtypes.float8_e5m2)
_HALVES = (dtypes.float16, dtypes.bfloat16, *_SMALL)
_INTS = tuple(t for t in dtypes.all_types if t.is_int)
# per float type: bits of the mantissa, exponent bias, integer type of the same size
_LAYOUT = {dtypes.float32: (23, 127, dtypes.int32), dtypes.float64: (52, 1023, dtypes.int64)}


def _polynomial(x: UOp, coefficients: list[float]) -> UOp:
    """Horner's rule; the highest power comes first."""
    total = x.like(coefficients[0])
    for c in coefficients[1:]:
        total = total * x + c
    return total


def _power_of_two(n: UOp, dtype: DType) -> UOp:
    """2**n as a float, by its exponent field; n in the range of normal numbers."""
    mantissa, bias, _ = _LAYOUT[dtype]
    return ((n + bias) << mantissa).bitcast(dtype)


def _round(x: UOp) -> UOp:
    """To the nearest integer, halves away from zero."""
    return UOp(Ops.TRUNC, x.dtype, (x + x.lt(0.0).where(x.like(-0.5), 0.5),))


def exp2(x: UOp) -> UOp:
    """2**x: the integer part goes to the exponent, the rest through a Taylor polynomial of 2**f on [-0.5, 0.5]."""
    dtype = x.dtype
    mantissa, bias, ints = _LAYOUT[dtype]
    low, high = -float(bias + mantissa + 2), float(bias + 2)
    clamped = x.lt(low).where(x.like(low), x)
    clamped = clamped.like(high).lt(clamped).where(x.like(high), clamped)
    whole = _round(clamped)
    degree = 7 if dtype is dtypes.float32 else 13
    power = _polynomial(clamped - whole, [math.log(2) ** k / math.factorial(k) for k in range(degree, -1, -1)])
    n = whole.cast(ints)
    half = n >> 1               # two steps, so that overflow and denormal results come out right
    return x.ne(x).where(x, power * _power_of_two(half, dtype) * _power_of_two(n - half, dtype))


def log2(x: UOp) -> UOp:
    """With x = m * 2**e and t = (m - 1) / (m + 1): e + 2/ln 2 * (t + t**3/3 + t**5/5 + ...)."""
    dtype = x.dtype
    mantissa, bias, ints = _LAYOUT[dtype]
    tiny = x.lt(2.0 ** (1 - bias))          # denormal: scale up first
    scale = mantissa + 2
    bits = tiny.where(x * 2.0 ** scale, x).bitcast(ints)
    root_half = ints.cast(int.from_bytes(_bits(math.sqrt(0.5), dtype), "little"))
    shifted = bits - root_half              # so that the mantissa comes out in [sqrt(1/2), sqrt(2))
    exponent = shifted >> mantissa
    m = (bits - (exponent << mantissa)).bitcast(dtype)
    t = (m - 1.0) / (m + 1.0)
    count = 5 if dtype is dtypes.float32 else 12
    series = _polynomial(t * t, [2 / math.log(2) / (2 * k + 1) for k in range(count - 1, -1, -1)])
    result = exponent.cast(dtype) + tiny.where(x.like(-float(scale)), 0.0) + t * series
    result = x.eq(math.inf).where(x, result)
    result = x.eq(0.0).where(x.like(-math.inf), result)
    return x.lt(0.0).where(x.like(math.nan), x.ne(x).where(x, result))


def _bits(value: float, dtype: DType) -> bytes:
    import numpy as np
    return np.array(value, dtype.np).tobytes()


@lru_cache(None)
def _pi_parts() -> list[float]:
    """pi as a sum of numbers with so few bits that k * part is exact for the k that :func:`sin` reduces by."""
    bits = 24
    # 50 digits are more than four parts hold; Fraction arithmetic keeps them
    rest = Fraction("3.14159265358979323846264338327950288419716939937510")
    parts = []
    for _ in range(4):
        exponent = math.floor(math.log2(abs(float(rest))))
        unit = Fraction(2) ** (exponent - bits + 1)
        part = rest // unit * unit
        parts.append(float(part))
        rest -= part
    return parts


def sin(x: UOp) -> UOp:
    """x - k*pi in [-pi/2, pi/2] by parts of pi, in float64, then a Taylor polynomial, odd k negated.

    Good to a few units in the last place for |x| up to about 2**28; the absolute error grows with |x| beyond that,
    and from about 1e15 on the result means nothing and may leave [-1, 1].
    """
    return _reduced(x, 0.0)


def _reduced(x: UOp, shift: float) -> UOp:
    """The sine of x + shift*pi, for a shift of 0 or 1/2: k is the nearest whole number of x/pi + shift."""
    wide = x.cast(dtypes.float64)
    k = _round(wide * (1 / math.pi) + shift if shift else wide * (1 / math.pi))
    halves = k + k - 1.0 if shift else k        # odd multiples of pi/2, or multiples of pi
    r = wide
    # three parts leave 2**-72 of pi, which is nothing beside float32's own rounding
    for part in _pi_parts()[:3 if x.dtype is dtypes.float32 else 4]:
        r = r - halves * (part / 2 if shift else part)
    return _sine_of(x, r.cast(x.dtype), k)


def _sine_of(x: UOp, r: UOp, k: UOp) -> UOp:
    """The sine of r, negated for odd k; NaN where x is no number."""
    dtype = x.dtype
    terms = 7 if dtype is dtypes.float32 else 11
    series = _polynomial(r * r, [(-1) ** i / math.factorial(2 * i + 1) for i in range(terms - 1, -1, -1)])
    value = r * series
    finite = x.like(-math.inf).lt(x) & x.lt(math.inf)
    return finite.where(((k.cast(dtypes.int64) & 1).ne(0)).where(-value, value), math.nan)


def _wide(n: UOp) -> UOp | None:
    """A half type's arithmetic in float32."""
    wide = tuple(s.cast(dtypes.float32) if s.dtype in _HALVES else s for s in n.src)
    if wide == n.src:
        return None
    out = UOp(n.op, dtypes.float32 if n.dtype in _HALVES else n.dtype, wide, n.arg)
    return out.cast(n.dtype)


def _from_bfloat16(n: UOp, x: UOp) -> UOp:
    wide = (x.bitcast(dtypes.uint16).cast(dtypes.uint32) << 16).bitcast(dtypes.float32)
    return wide.cast(n.dtype)


def _to_bfloat16(n: UOp, x: UOp) -> UOp:
    """Round to nearest, ties to even, on the bits."""
    single = x.cast(dtypes.float32)
    bits = single.bitcast(dtypes.uint32)
    rounded = (bits + ((bits >> 16) & 1) + 0x7FFF) >> 16
    quiet = (bits >> 16) | 0x40
    return single.ne(single).where(quiet, rounded).cast(dtypes.uint16).bitcast(dtypes.bfloat16)


def _from_fp8(n: UOp, x: UOp) -> UOp:
    """The fields move to their places in float32; numbers below the normal ones are whole multiples of the least."""
    mantissa, bias = (3, 7) if x.dtype is dtypes.float8_e4m3 else (2, 15)
    code = x.bitcast(dtypes.uint8).cast(dtypes.uint32)
    size = code & 0x7F
    normal = (size << (23 - mantissa)) + (127 - bias << 23)
    tiny = (size.cast(dtypes.float32) * 2.0 ** (1 - bias - mantissa)).bitcast(dtypes.uint32)
    bits = size.lt(1 << mantissa).where(tiny, normal)
    if mantissa == 3:
        bits = size.eq(0x7F).where(size.like(0x7FC00000), bits)
    else:
        bits = size.lt(0x7C).where(bits, (size & 3) << 21 | 0x7F800000)
    return (bits | (code & 0x80) << 24).bitcast(dtypes.float32).cast(n.dtype)


def _to_fp8(n: UOp, x: UOp) -> UOp:
    """Round to nearest, ties to even, on the bits; below the normal numbers by an addition that rounds."""
    mantissa, bias = (3, 7) if n.dtype is dtypes.float8_e4m3 else (2, 15)
    single = x.cast(dtypes.float32)
    bits = single.bitcast(dtypes.uint32)
    size = bits & 0x7FFFFFFF
    shift = 23 - mantissa
    normal = (size + ((size >> shift) & 1) + ((1 << shift - 1) - 1) >> shift) - (127 - bias << mantissa)
    tiny = (size.bitcast(dtypes.float32) * 2.0 ** (bias - 1 + mantissa) + 2.0 ** 23).bitcast(dtypes.uint32) & 0xFF
    code = size.lt(128 - bias << 23).where(tiny, normal)
    beyond = 0x7E if mantissa == 3 else 0x7C        # the greatest number, or infinity
    code = code.lt(beyond).where(code, code.like(beyond))
    code = single.ne(single).where(code.like(0x7F), code)
    return (code | (bits >> 24) & 0x80).cast(dtypes.uint8).bitcast(n.dtype)


def exp(n: UOp, x: UOp, c: UOp, hardware: bool) -> UOp | None:
    """e**x, written as 2**(x * 1/ln 2): that product's rounding would be an error of x * 2**-24 in the result, so the
    whole part k goes to the exponent, and x - k*ln 2, with ln 2 in two parts, through the series of e**r."""
    dtype = n.dtype
    if dtype not in _LAYOUT or c.arg != dtype.cast(1 / math.log(2)):
        return None
    mantissa, bias, ints = _LAYOUT[dtype]
    low, high = -float(bias + mantissa + 2) * math.log(2), float(bias + 2) * math.log(2)
    clamped = x.lt(low).where(x.like(low), x)
    clamped = clamped.like(high).lt(clamped).where(x.like(high), clamped)
    whole = _round(clamped * (1 / math.log(2)))
    first = _head(math.log(2), 12 if dtype is dtypes.float32 else 32)
    rest = (clamped - whole * first) - whole * _LN2_REST[dtype]
    if hardware and dtype is dtypes.float32:
        power = UOp(Ops.EXP2, dtype, (rest * (1 / math.log(2)),), "reduced")
    else:
        degree = 7 if dtype is dtypes.float32 else 13
        power = _polynomial(rest, [1 / math.factorial(k) for k in range(degree, -1, -1)])
    k = whole.cast(ints)
    half = k >> 1
    return x.ne(x).where(x, power * _power_of_two(half, dtype) * _power_of_two(k - half, dtype))


def _head(value: float, bits: int) -> float:
    """The leading bits of a number."""
    exponent = math.floor(math.log2(value)) + 1
    scale = 2.0 ** (bits - exponent)
    return math.floor(value * scale) / scale


# ln 2 less its leading bits, from 40 digits of it
_LN2_REST = {t: float(Fraction("0.6931471805599453094172321214581765680755") - Fraction(_head(math.log(2), bits)))
             for t, bits in ((dtypes.float32, 12), (dtypes.float64, 32))}


def _is_shifted(x: UOp, c: UOp) -> bool:
    return x.dtype in _LAYOUT and bool(c.arg == x.dtype.cast(math.pi / 2))


def cos(x: UOp, c: UOp) -> UOp | None:
    """cos(x), written as sin(pi/2 - x): x itself is reduced, by odd multiples of pi/2, so that no digit is lost."""
    return _reduced(x, 0.5) if _is_shifted(x, c) else None


def _safe_division(n: UOp, x: UOp, y: UOp) -> UOp | None:
    """Integer division never traps: by zero it gives 0 (as NumPy does), and the least integer by -1 wraps."""
    if y.op is Ops.CONST and y.arg not in (0, -1):
        return None
    if y.vmin >= 1 or y.vmax <= -2:
        return None
    quotient = n.op is Ops.IDIV
    trapping = y.eq(0) if y.dtype.kind == "u" else y.eq(0) | y.eq(-1)
    safe = trapping.where(y.like(1), y)
    result = UOp(n.op, n.dtype, (x, safe), "safe")
    if y.dtype.kind == "i":
        result = y.eq(-1).where(x * -1 if quotient else x.like(0), result)
    return y.eq(0).where(x.like(0), result)


def reciprocal(most: int, d: int, limit: int) -> tuple[int, int] | None:
    """``m, s`` with ``x // d == x * m >> s`` for x in 0..most, and no product beyond ``limit``; None if there are none.

    With m*d = 2**s + e, 0 <= e < d: x*m / 2**s = x/d + x*e / (d * 2**s), whose floor is that of x/d where the second
    part is less than 1/d, so if x*e < 2**s.
    """
    for s in range(limit.bit_length()):
        m = -(-(1 << s) // d)
        if m * most > limit:
            return None
        if most * (m * d - (1 << s)) < 1 << s:
            return m, s
    return None


def _multiply_instead(n: UOp, x: UOp, y: UOp) -> UOp | None:
    """Division of what is never negative by a constant, where a product of the same width holds it."""
    d = y.arg
    if d < 2 or d & (d - 1) == 0 or x.vmin < 0 or x.dtype.bits < 32 \
            or (found := reciprocal(x.vmax, d, x.dtype.max)) is None:
        return None         # LLVM shifts, or takes the high half of a product
    quotient = (x * found[0]) >> found[1]
    return quotient if n.op is Ops.IDIV else x - quotient * d


def _safe_shift(n: UOp, x: UOp, y: UOp) -> UOp | None:
    """Shifts by the width or more give 0, or the sign."""
    bits = x.dtype.bits
    if y.vmin >= 0 and y.vmax < bits:
        return None
    inside = (y.like(-1).lt(y) & y.lt(bits)) if y.dtype.kind == "i" else y.lt(bits)
    amount = UOp(Ops.AND, y.dtype, (y, y.like(bits - 1)))
    beyond = x >> (bits - 1) if n.op is Ops.SHR and x.dtype.kind == "i" else x.like(0)
    return inside.where(UOp(n.op, n.dtype, (x, amount)), beyond)


_any = UPat.var
_common: list[Rule] = [
    (UPat((Ops.NEG, Ops.SQRT, Ops.EXP2, Ops.LOG2, Ops.SIN, Ops.TRUNC, Ops.ADD, Ops.MUL, Ops.FDIV, Ops.MAX, Ops.CMPLT,
           Ops.CMPEQ, Ops.CMPNE), name="n"), _wide),
    (UPat(Ops.CAST, dtypes.bool_, src=(_any("x"),)), lambda x: x.ne(0) if x.dtype is not dtypes.bool_ else None),
    (UPat(Ops.CAST, dtypes.bfloat16, name="n", src=(_any("x"),)), _to_bfloat16),
    (UPat(Ops.CAST, name="n", src=(_any("x", dtypes.bfloat16),)), _from_bfloat16),
    (UPat(Ops.CAST, _SMALL, name="n", src=(_any("x"),)), _to_fp8),
    (UPat(Ops.CAST, name="n", src=(_any("x", _SMALL),)), _from_fp8),
    (UPat(Ops.CAST, dtypes.float16, src=(_any("x", (dtypes.float64, *_INTS)),)),
     lambda x: x.cast(dtypes.float32).cast(dtypes.float16)),
    (UPat(Ops.CAST, (dtypes.float64, *_INTS), name="n", src=(_any("x", dtypes.float16),)),
     lambda n, x: x.cast(dtypes.float32).cast(n.dtype)),
    (UPat((Ops.ADD, Ops.MAX), dtypes.bool_, src=(_any("x"), _any("y"))), lambda x, y: x | y),
    (UPat(Ops.MUL, dtypes.bool_, src=(_any("x"), _any("y"))), lambda x, y: x & y),
    (UPat(Ops.CMPLT, src=(_any("x", dtypes.bool_), _any("y"))), lambda x, y: x.ne(True) & y),
    (UPat(Ops.TRUNC, (*_INTS, dtypes.bool_), src=(_any("x"),)), lambda x: x),
    (UPat((Ops.IDIV, Ops.MOD), _INTS, name="n", src=(_any("x"), UPat(Ops.CONST, name="y"))), _multiply_instead),
    (UPat((Ops.IDIV, Ops.MOD), name="n", src=(_any("x"), _any("y"))),
     lambda n, x, y: None if n.arg == "safe" else _safe_division(n, x, y)),
    (UPat((Ops.SHL, Ops.SHR), name="n", src=(_any("x"), _any("y"))), _safe_shift),
    (UPat(Ops.SIN, src=(UPat(Ops.ADD, src=[UPat(Ops.NEG, src=(_any("x"),)), UPat.const(name="c")]),)), cos),
    (UPat(Ops.SIN, _LAYOUT, src=(_any("x"),)), sin),
]
_exp = UPat(Ops.EXP2, name="n", src=(UPat(Ops.MUL, src=[_any("x"), UPat.const(name="c")]),))
_polynomials: list[Rule] = [
    (_exp, lambda n, x, c: exp(n, x, c, False)),
    (UPat(Ops.EXP2, _LAYOUT, src=(_any("x"),)), exp2),
    (UPat(Ops.LOG2, _LAYOUT, src=(_any("x"),)), log2),
]
_hardware: list[Rule] = [
    (_exp, lambda n, x, c: exp(n, x, c, True) if n.arg is None else None),
    (UPat(Ops.EXP2, dtypes.float64, src=(_any("x"),)), exp2),
    (UPat(Ops.LOG2, dtypes.float64, src=(_any("x"),)), log2),
]


@lru_cache(None)
def legalizer(hardware_exp_log: bool) -> PatternMatcher:
    """The required rules of a target, with the simplifications that keep their results small."""
    return symbolic + PatternMatcher(_common + (_hardware if hardware_exp_log else _polynomials))
