"""float64 arithmetic in integer words: what neither NumPy nor LLVM rounds by itself.

One algorithm for both executors, in the words that they share: significands of 53 bits, sums of 128 bits as pairs of
u64, what is shifted out kept as a sticky last bit, one rounding at the end.
"""

from __future__ import annotations

from typing import Any

__all__ = ["NEAREST", "TO_NEGATIVE", "TO_POSITIVE", "TO_ZERO", "fma"]

NEAREST, TO_POSITIVE, TO_NEGATIVE, TO_ZERO = range(4)
"""MODE.fp_round's values (RDNA3 ISA, "Rounding mode")."""
V = Any
_FRACTION, _EXPONENT, _SIGN, _QUIET_NAN = (1 << 52) - 1, 0x7ff << 52, 1 << 63, 0x7ff8 << 48


def _flag(v: V, condition: Any) -> Any:
    return v.cast(condition, "u64")


def _shift_right(v: V, high: Any, low: Any, n: Any) -> tuple[Any, Any]:
    """A pair shifted by 0 <= n <= 127 (i32); lost bits are kept in the last one."""
    far = v.ge(n, 64)
    m = v.and_(n, 63)
    ones = v.sub(v.shl(v.constant("u64", 1), m), 1)
    down, into = v.shr(high, m), v.shl(v.shl(high, 1), v.sub(63, m))    # two steps: m may be 0
    near_low, near_lost = v.or_(v.shr(low, m), into), v.ne(v.and_(low, ones), 0)
    far_lost = v.or_(v.ne(low, 0), v.ne(v.and_(high, ones), 0))
    lost = _flag(v, v.select(far, _flag(v, far_lost), _flag(v, near_lost)))
    return v.select(far, v.constant("u64", 0), down), v.or_(v.select(far, down, near_low), lost)


def _product(v: V, a: Any, b: Any) -> tuple[Any, Any]:
    """Two significands below 2**53 -> a pair."""
    a0, a1, b0, b1 = v.and_(a, 0xffffffff), v.shr(a, 32), v.and_(b, 0xffffffff), v.shr(b, 32)
    first = v.mul(a0, b0)
    middle = v.add(v.add(v.mul(a0, b1), v.mul(a1, b0)), v.shr(first, 32))
    return v.add(v.mul(a1, b1), v.shr(middle, 32)), v.or_(v.shl(middle, 32), v.and_(first, 0xffffffff))


def _unpacked(v: V, a: Any) -> tuple[Any, Any]:
    """Significand with its leading bit in bit 52 (0 for zero), and the exponent of its bit 0 (i32)."""
    raw = v.bits(a, "u64")
    field = v.cast(v.and_(v.shr(raw, 52), 0x7ff), "i32")
    fraction, normal = v.and_(raw, _FRACTION), v.ne(field, 0)
    whole = v.or_(fraction, v.select(normal, v.constant("u64", 1 << 52), v.constant("u64", 0)))
    up = v.sub(v.min(v.clz(whole), 63), 11)
    return v.shl(whole, up), v.sub(v.select(normal, v.sub(field, 1075), v.constant("i32", -1074)), up)


def fma(v: V, a: Any, b: Any, c: Any, rounding: int, n: Any = None) -> Any:
    """(a * b + c) * 2**n of float64 values in one rounding; ``n`` is an i32 within +-5000. NaNs: the default one."""
    high, low, exponent, sign = _sum(v, a, b, c, rounding)
    if n is not None:
        exponent = v.add(exponent, n)
    number = _rounded(v, high, low, exponent, sign, rounding)
    raw_a, raw_b, raw_c = (v.bits(x, "u64") for x in (a, b, c))
    size_a, size_b, size_c = (v.and_(raw, _SIGN - 1) for raw in (raw_a, raw_b, raw_c))
    nan = v.or_(v.or_(v.gt(size_a, _EXPONENT), v.gt(size_b, _EXPONENT)), v.gt(size_c, _EXPONENT))
    product_infinite = v.or_(v.eq(size_a, _EXPONENT), v.eq(size_b, _EXPONENT))
    c_infinite = v.eq(size_c, _EXPONENT)
    opposed = v.ge(v.xor(v.xor(raw_a, raw_b), raw_c), _SIGN)
    invalid = v.or_(v.and_(product_infinite, v.or_(v.eq(size_a, 0), v.eq(size_b, 0))),
                    v.and_(v.and_(product_infinite, c_infinite), opposed))
    infinity = v.or_(v.and_(v.xor(raw_a, raw_b), _SIGN), _EXPONENT)
    number = v.select(product_infinite, infinity, v.select(c_infinite, raw_c, number))
    number = v.select(v.or_(nan, invalid), v.constant("u64", _QUIET_NAN), number)
    return v.bits(number, "f64")


def _sum(v: V, a: Any, b: Any, c: Any, rounding: int) -> tuple[Any, Any, Any, Any]:
    """a * b + c: a pair, its last bit sticky, the exponent of its bit 0, and the sign (u64, bit 63)."""
    (ma, ea), (mb, eb), (mc, ec) = _unpacked(v, a), _unpacked(v, b), _unpacked(v, c)
    high, low = _product(v, ma, mb)
    # Both leading bits around bit 124: room for a carry above, and for what rounding must see below.
    high, low = v.or_(v.shl(high, 20), v.shr(low, 44)), v.shl(low, 20)
    ep, other, ec = v.sub(v.add(ea, eb), 20), v.shl(mc, 8), v.sub(ec, 72)
    none, no_c = v.eq(v.or_(high, low), 0), v.eq(mc, 0)
    ep = v.select(none, v.constant("i32", -9000), ep)
    ec = v.select(no_c, v.constant("i32", -9000), ec)
    distance = v.sub(ep, ec)
    ph, pl = _shift_right(v, high, low, v.min(v.max(v.sub(0, distance), 0), 127))
    ch, cl = _shift_right(v, other, v.sub(other, other), v.min(v.max(distance, 0), 127))
    sign_p = v.and_(v.xor(v.bits(a, "u64"), v.bits(b, "u64")), _SIGN)
    sign_c = v.and_(v.bits(c, "u64"), _SIGN)
    opposed = v.ne(sign_p, sign_c)
    total_low = v.add(pl, cl)
    total_high = v.add(v.add(ph, ch), _flag(v, v.lt(total_low, pl)))
    smaller = v.or_(v.lt(ph, ch), v.and_(v.eq(ph, ch), v.lt(pl, cl)))
    xh, xl, yh, yl = (v.select(smaller, p, q) for p, q in ((ch, ph), (cl, pl), (ph, ch), (pl, cl)))
    rest_high, rest_low = v.sub(v.sub(xh, yh), _flag(v, v.lt(xl, yl))), v.sub(xl, yl)
    high, low = v.select(opposed, rest_high, total_high), v.select(opposed, rest_low, total_low)
    sign = v.select(v.and_(opposed, smaller), sign_c, sign_p)
    vanished = v.and_(opposed, v.eq(v.or_(high, low), 0))
    sign = v.select(vanished, v.constant("u64", _SIGN if rounding == TO_NEGATIVE else 0), sign)
    return high, low, v.max(ep, ec), sign


def _rounded(v: V, high: Any, low: Any, exponent: Any, sign: Any, rounding: int) -> Any:
    """The bits of the float64 nearest to the pair times 2**exponent, in the rounding's sense."""
    zero = v.eq(v.or_(high, low), 0)
    top_empty = v.eq(high, 0)
    lead = v.select(top_empty, v.select(zero, v.constant("i32", 0), v.add(v.clz(low), 64)), v.clz(high))
    m = v.and_(lead, 63)
    joined = v.or_(v.shl(high, m), v.shr(v.shr(low, 1), v.sub(63, m)))
    whole = v.select(v.ge(lead, 64), v.shl(low, m), joined)
    lost = v.and_(v.lt(lead, 64), v.ne(v.shl(low, m), 0))
    whole = v.or_(whole, _flag(v, lost))
    field = v.sub(v.add(exponent, 127 + 1023), lead)
    deep = v.min(v.max(v.sub(1, field), 0), 60)         # below the normal range
    ones = v.sub(v.shl(v.constant("u64", 1), deep), 1)
    whole = v.or_(v.shr(whole, deep), _flag(v, v.ne(v.and_(whole, ones), 0)))
    kept, rest = v.shr(whole, 11), v.and_(whole, 0x7ff)
    negative = v.ne(sign, 0)
    if rounding == NEAREST:
        up = v.or_(v.gt(rest, 0x400), v.and_(v.eq(rest, 0x400), v.ne(v.and_(kept, 1), 0)))
    elif rounding == TO_ZERO:
        up = v.ne(rest, rest)
    else:
        up = v.and_(v.ne(rest, 0), negative if rounding == TO_NEGATIVE else v.not_(negative))
    field = v.min(v.max(field, 1), 0x7ff)
    bits = v.add(v.add(v.shl(v.cast(v.sub(field, 1), "u64"), 52), kept), _flag(v, up))
    largest = v.constant("u64", _EXPONENT - 1)
    infinite = v.constant("u64", _EXPONENT)
    if rounding == NEAREST:
        beyond = infinite
    elif rounding == TO_ZERO:
        beyond = largest
    else:
        beyond = v.select(negative if rounding == TO_NEGATIVE else v.not_(negative), infinite, largest)
    bits = v.select(v.ge(bits, _EXPONENT), beyond, bits)
    return v.or_(v.select(zero, v.constant("u64", 0), bits), sign)
