"""Required rewrites: what a target's instructions do not do is put in terms of what they do.

No library function is ever called. ``exp2``, ``log2`` and ``sin`` are polynomials of ours (in every type, so that
devices agree to rounding), except where the target has an instruction for them: AMD's v_exp_f32 and v_log_f32.
Half types are stored as such and computed with as float32.
"""

from __future__ import annotations

import math
from functools import lru_cache

from compiler import dtypes
from compiler.dtypes import DType
from compiler.match import PatternMatcher, Rule, UPat
from compiler.symbolic import symbolic
from compiler.uop import Ops, UOp

__all__ = ["legalizer", "reciprocal"]

_HALVES = (dtypes.float16, dtypes.bfloat16)
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
def _pi_parts(dtype: DType) -> list[float]:
    """pi as a sum of numbers with so few bits that k * part is exact for the k that :func:`sin` reduces by."""
    bits = 10 if dtype is dtypes.float32 else 24
    # 50 digits are more than four parts hold; Fraction arithmetic keeps them
    from fractions import Fraction
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
    """x - k*pi in [-pi/2, pi/2] by parts of pi, then a Taylor polynomial, odd k negated.

    Good to a few units in the last place for |x| up to about 2**14 (float32), 2**28 (float64); the absolute error
    grows with |x| beyond that.
    """
    dtype = x.dtype
    ints = _LAYOUT[dtype][2]
    k = _round(x * (1 / math.pi))
    r = x
    for part in _pi_parts(dtype):
        r = r - k * part
    terms = 7 if dtype is dtypes.float32 else 11
    series = _polynomial(r * r, [(-1) ** i / math.factorial(2 * i + 1) for i in range(terms - 1, -1, -1)])
    value = r * series
    finite = x.like(-math.inf).lt(x) & x.lt(math.inf)
    return finite.where(((k.cast(ints) & 1).ne(0)).where(-value, value), math.nan)


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
    (UPat(Ops.SIN, src=(_any("x"),)), sin),
]
_polynomials: list[Rule] = [
    (UPat(Ops.EXP2, src=(_any("x"),)), exp2),
    (UPat(Ops.LOG2, src=(_any("x"),)), log2),
]
_hardware: list[Rule] = [
    (UPat(Ops.EXP2, dtypes.float64, src=(_any("x"),)), exp2),
    (UPat(Ops.LOG2, dtypes.float64, src=(_any("x"),)), log2),
]


@lru_cache(None)
def legalizer(hardware_exp_log: bool) -> PatternMatcher:
    """The required rules of a target, with the simplifications that keep their results small."""
    return symbolic + PatternMatcher(_common + (_hardware if hardware_exp_log else _polynomials))
