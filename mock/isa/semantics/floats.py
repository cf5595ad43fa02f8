"""Vector floating-point instructions of f16, f32 and f64, conversions, and the division helpers."""

from __future__ import annotations

from typing import Any

from mock.isa.semantics.table import Table

__all__ = ["define"]

V = Any


def _med3(v: V, a: Any, b: Any, c: Any) -> Any:
    """The middle one; with a NaN among them the smallest (RDNA3 ISA, V_MED3_F32)."""
    nan = v.or_(v.or_(v.isnan(a), v.isnan(b)), v.isnan(c))
    smallest = v.fmin(v.fmin(a, b), c)
    middle = v.fmax(v.fmin(a, b), v.fmin(v.fmax(a, b), c))
    return v.select(nan, smallest, middle)


def _zero_wins(v: V, a: Any, b: Any, product: Any) -> Any:
    """DX9 rule: zero times anything is +0."""
    return v.select(v.or_(v.eq(a, 0), v.eq(b, 0)), 0.0, product)


def _mul_dx9(v: V, a: Any, b: Any) -> Any:
    return _zero_wins(v, a, b, v.fmul(a, b))


def _fma_dx9(v: V, a: Any, b: Any, c: Any) -> Any:
    zero = v.or_(v.eq(v.canonical(a), 0), v.eq(v.canonical(b), 0))
    one = v.constant("f32", 1.0)
    return v.fma(v.select(zero, 0.0, a), v.select(zero, one, b), c)


# kind: (exponent bias, exponents apart for "near overflow", step of scaling, tiny numerator's exponent, underflow)
_DIVIDE = {"f32": (127, 96, 64, 23, 150), "f64": (1023, 768, 128, 53, 1075)}


def _div_scale(kind: str) -> Any:
    """Scale numerator or denominator so that the Newton steps of a division stay in range (V_DIV_SCALE_F32)."""
    bias, apart, step, tiny, _ = _DIVIDE[kind]

    def apply(v: V, a: Any, denominator: Any, numerator: Any) -> tuple[Any, Any]:
        e1, e2 = v.exponent(denominator), v.exponent(numerator)
        up, down = v.ldexp(a, v.constant("i32", step)), v.ldexp(a, v.constant("i32", -step))
        zero = v.or_(v.eq(denominator, 0), v.eq(numerator, 0))
        overflow = v.ge(v.sub(e2, e1), apart)
        denormal = v.eq(e1, 0)
        # 1/d is denormal when d is beyond the reciprocal of the smallest normal number.
        reciprocal = v.ge(e1, 2 * bias - 1)
        # The quotient is denormal when the exponents say so (its leading bit may be one lower).
        quotient = v.lt(v.sub(e2, e1), v.select(v.lt(v.mantissa(numerator), v.mantissa(denominator)),
                                                v.constant("i32", 2 - bias), v.constant("i32", 1 - bias)))
        is_denominator, is_numerator = v.same(a, denominator), v.same(a, numerator)
        result = v.select(v.le(e2, tiny), up, a)
        result = v.select(quotient, v.select(is_numerator, up, a), result)
        # The guide has the denominator scaled up in the first of these, which would overflow it.
        result = v.select(reciprocal, v.select(quotient, v.select(is_denominator, down, a), down), result)
        result = v.select(denormal, up, result)
        result = v.select(overflow, v.select(is_denominator, up, a), result)
        flag = v.or_(overflow, v.and_(v.not_(denormal), quotient))
        nan = v.nan(kind)
        return v.select(zero, nan, result), v.and_(flag, v.not_(zero))
    return apply


def _div_fmas(kind: str) -> Any:
    bias, _, step, _, _ = _DIVIDE[kind]

    def apply(v: V, a: Any, b: Any, c: Any, scaled: Any) -> Any:
        up = v.gt(v.exponent(c), bias)
        scale = v.select(up, v.constant(kind, 2.0 ** step), v.constant(kind, 2.0 ** -step))
        return v.fma_scaled(a, b, c, v.select(scaled, scale, 1.0))
    return apply


def _div_fixup(kind: str) -> Any:
    """The special cases of a division, and its sign (V_DIV_FIXUP_F32)."""
    def apply(v: V, quotient: Any, denominator: Any, numerator: Any) -> Any:
        sign = v.ne(v.signbit(denominator), v.signbit(numerator))

        def signed(x: Any) -> Any:
            return v.select(sign, v.neg(x), x)
        zero, infinity = v.constant(kind, 0.0), v.constant(kind, float("inf"))
        result = signed(v.abs(quotient))
        if kind != "f16":
            bias, _, _, _, underflow = _DIVIDE[kind]
            # A quotient that left the range on the way (the guide says "exponent(S1)", which cannot be meant).
            result = v.select(v.gt(v.exponent(quotient), 2 * bias), signed(infinity), result)
            result = v.select(v.lt(v.sub(v.exponent(numerator), v.exponent(denominator)), -underflow), signed(zero),
                              result)
        d_zero, n_zero = v.eq(denominator, 0), v.eq(numerator, 0)
        d_inf, n_inf = v.eq(v.abs(denominator), infinity), v.eq(v.abs(numerator), infinity)
        result = v.select(v.or_(d_inf, n_zero), signed(zero), result)
        result = v.select(v.or_(d_zero, n_inf), signed(infinity), result)
        invalid = v.or_(v.and_(d_zero, n_zero), v.and_(d_inf, n_inf))
        result = v.select(invalid, v.neg(v.nan(kind)), result)
        result = v.select(v.isnan(denominator), v.quiet(denominator), result)
        return v.select(v.isnan(numerator), v.quiet(numerator), result)
    return apply


def _ubyte(i: int) -> Any:
    return lambda v, a: v.to_float(v.and_(v.shr(a, 8 * i), 255), "f32")


def _cube_axis(v: V, x: Any, y: Any, z: Any) -> tuple[Any, Any]:
    """Is z the major axis, and if not, is y?"""
    ax, ay, az = v.abs(x), v.abs(y), v.abs(z)
    z_major = v.and_(v.ge(az, ax), v.ge(az, ay))
    return z_major, v.ge(ay, ax)


def _cube_id(v: V, x: Any, y: Any, z: Any) -> Any:
    z_major, y_major = _cube_axis(v, x, y, z)

    def face(component: Any, positive: float) -> Any:
        return v.select(v.lt(component, 0), v.constant("f32", positive + 1), v.constant("f32", positive))
    return v.select(z_major, face(z, 4.0), v.select(y_major, face(y, 2.0), face(x, 0.0)))


def _cube_sc(v: V, x: Any, y: Any, z: Any) -> Any:
    z_major, y_major = _cube_axis(v, x, y, z)
    return v.select(z_major, v.select(v.lt(z, 0), v.neg(x), x),
                    v.select(y_major, x, v.select(v.lt(x, 0), z, v.neg(z))))


def _cube_tc(v: V, x: Any, y: Any, z: Any) -> Any:
    z_major, y_major = _cube_axis(v, x, y, z)
    return v.select(z_major, v.neg(y), v.select(y_major, v.select(v.lt(y, 0), v.neg(z), z), v.neg(y)))


def _cube_ma(v: V, x: Any, y: Any, z: Any) -> Any:
    z_major, y_major = _cube_axis(v, x, y, z)
    return v.fmul(v.select(z_major, z, v.select(y_major, y, x)), v.constant("f32", 2.0))


def _mullit(v: V, a: Any, b: Any, c: Any) -> Any:
    """Lighting: b times a where both allow it, else the most negative number (V_MULLIT_F32)."""
    least = v.constant("f32", -3.4028234663852886e38)
    refused = v.or_(v.or_(v.eq(b, least), v.not_(v.gt(b, v.constant("f32", float("-inf"))))),
                    v.or_(v.isnan(b), v.not_(v.gt(c, 0))))
    return v.select(refused, least, _mul_dx9(v, a, b))


def _trig_preop(v: V, a: Any, segment: Any) -> Any:
    """53 bits of 2/pi, from the segment that an argument of this size needs (V_TRIG_PREOP_F64)."""
    exponent = v.exponent(a)
    shift = v.add(v.bits(v.mul(v.and_(segment, 31), 53), "i32"), v.max(v.sub(exponent, 1077), 0))
    fraction, scale = v.two_over_pi(shift), v.sub(v.constant("i32", -53), shift)
    scale = v.add(scale, v.select(v.ge(exponent, 1968), v.constant("i32", 128), v.constant("i32", 0)))
    return v.ldexp(fraction, scale)


def define(t: Table) -> None:
    for kind in ("f16", "f32", "f64"):
        _define_common(t, kind)
    _define_32(t)
    _define_conversions(t)


def _define_common(t: Table, kind: str) -> None:
    one, pair, triple = f"{kind} -> {kind}", f"{kind} {kind} -> {kind}", f"{kind} {kind} {kind} -> {kind}"
    exponent = "i16" if kind == "f16" else "i32"
    t.op(f"v_add_{kind}", pair, lambda v, a, b: v.fadd(a, b))
    t.op(f"v_mul_{kind}", pair, lambda v, a, b: v.fmul(a, b))
    t.op(f"v_min_{kind}", pair, lambda v, a, b: v.fmin(a, b))
    t.op(f"v_max_{kind}", pair, lambda v, a, b: v.fmax(a, b))
    t.op(f"v_fma_{kind}", triple, lambda v, a, b, c: v.fma(a, b, c))
    t.op(f"v_div_fixup_{kind}", triple, _div_fixup(kind))
    for name, function in (("rcp", lambda v, a: v.rcp(a)), ("rsq", lambda v, a: v.rsq(a)),
                           ("sqrt", lambda v, a: v.sqrt(a)), ("floor", lambda v, a: v.floor(a)),
                           ("ceil", lambda v, a: v.ceil(a)), ("trunc", lambda v, a: v.trunc(a)),
                           ("rndne", lambda v, a: v.round_even(a)), ("fract", lambda v, a: v.fract(a)),
                           ("frexp_mant", lambda v, a: v.frexp_mantissa(a))):
        t.op(f"v_{name}_{kind}", one, function)
    t.op(f"v_frexp_exp_{exponent}_{kind}", f"{kind} -> {exponent}",
         lambda v, a, e=exponent: v.cast(v.frexp_exponent(a), e))
    t.op(f"v_ldexp_{kind}", f"{kind} {exponent} -> {kind}", lambda v, a, n: v.ldexp(a, v.cast(n, "i32")))
    if kind != "f64":
        t.op(f"v_sub_{kind}", pair, lambda v, a, b: v.fsub(a, b))
        t.op(f"v_subrev_{kind}", pair, lambda v, a, b: v.fsub(b, a))
        t.op(f"v_fmac_{kind}", f"{kind} {kind} d:{kind} -> {kind}", lambda v, a, b, d: v.fma(a, b, d))
        t.op(f"v_fmamk_{kind}", f"{kind} k:{kind} {kind} -> {kind}", lambda v, a, k, b: v.fma(a, k, b))
        t.op(f"v_fmaak_{kind}", f"{kind} {kind} k:{kind} -> {kind}", lambda v, a, b, k: v.fma(a, b, k))
        for name, function in (("exp", lambda v, a: v.exp2(a)), ("log", lambda v, a: v.log2(a)),
                               ("sin", lambda v, a: v.sin_turns(a)), ("cos", lambda v, a: v.cos_turns(a))):
            t.op(f"v_{name}_{kind}", one, function)
        t.op(f"v_min3_{kind}", triple, lambda v, a, b, c: v.fmin(v.fmin(a, b), c))
        t.op(f"v_max3_{kind}", triple, lambda v, a, b, c: v.fmax(v.fmax(a, b), c))
        t.op(f"v_med3_{kind}", triple, _med3)
        t.op(f"v_maxmin_{kind}", triple, lambda v, a, b, c: v.fmin(v.fmax(a, b), c))
        t.op(f"v_minmax_{kind}", triple, lambda v, a, b, c: v.fmax(v.fmin(a, b), c))
    if kind != "f16":
        t.op(f"v_div_scale_{kind}", f"{kind} {kind} {kind} -> {kind} mask", _div_scale(kind))
        t.op(f"v_div_fmas_{kind}", f"{kind} {kind} {kind} vcc -> {kind}", _div_fmas(kind))


def _define_32(t: Table) -> None:
    t.op("v_rcp_iflag_f32", "f32 -> f32", lambda v, a: v.rcp(a))
    t.op("v_mul_dx9_zero_f32", "f32 f32 -> f32", _mul_dx9)
    t.op("v_fma_dx9_zero_f32", "f32 f32 f32 -> f32", _fma_dx9)
    t.op("v_fmac_dx9_zero_f32", "f32 f32 d:f32 -> f32", _fma_dx9)
    t.op("v_mullit_f32", "f32 f32 f32 -> f32", _mullit)
    t.op("v_cubeid_f32", "f32 f32 f32 -> f32", _cube_id)
    t.op("v_cubesc_f32", "f32 f32 f32 -> f32", _cube_sc)
    t.op("v_cubetc_f32", "f32 f32 f32 -> f32", _cube_tc)
    t.op("v_cubema_f32", "f32 f32 f32 -> f32", _cube_ma)
    t.op("v_trig_preop_f64", "f64 u32 -> f64", _trig_preop)


def _define_conversions(t: Table) -> None:
    for source in ("i32", "u32", "f16", "f64"):
        t.op(f"v_cvt_f32_{source}", f"{source} -> f32", lambda v, a: v.to_float(a, "f32"))
    for source in ("i32", "u32", "f32"):
        t.op(f"v_cvt_f64_{source}", f"{source} -> f64", lambda v, a: v.to_float(a, "f64"))
    for source in ("i16", "u16", "f32"):
        t.op(f"v_cvt_f16_{source}", f"{source} -> f16", lambda v, a: v.to_float(a, "f16"))
    for source, target in (("f32", "i32"), ("f32", "u32"), ("f64", "i32"), ("f64", "u32"), ("f16", "i16"),
                           ("f16", "u16")):
        t.op(f"v_cvt_{target}_{source}", f"{source} -> {target}", lambda v, a, k=target: v.to_int(a, k))
    t.op("v_cvt_nearest_i32_f32", "f32 -> i32", lambda v, a: v.to_int(a, "i32", "half_up"))
    t.op("v_cvt_floor_i32_f32", "f32 -> i32", lambda v, a: v.to_int(a, "i32", "floor"))
    t.op("v_cvt_off_f32_i4", "u32 -> f32", lambda v, a: v.fmul(
        v.to_float(v.shr(v.bits(v.shl(a, 28), "i32"), 28), "f32"), v.constant("f32", 1 / 16)))
    for i in range(4):
        t.op(f"v_cvt_f32_ubyte{i}", "u32 -> f32", _ubyte(i))

    def pack(v: V, low: Any, high: Any) -> Any:
        """Two values of 16 bits -> u32."""
        return v.or_(v.cast(v.bits(low, "u16"), "u32"), v.shl(v.cast(v.bits(high, "u16"), "u32"), 16))
    t.op("v_cvt_pk_rtz_f16_f32", "f32 f32 -> u32",
         lambda v, a, b: pack(v, v.to_float(a, "f16", v.TO_ZERO), v.to_float(b, "f16", v.TO_ZERO)))
    t.op("v_cvt_pk_i16_f32", "f32 f32 -> u32", lambda v, a, b: pack(v, v.to_int(a, "i16"), v.to_int(b, "i16")))
    t.op("v_cvt_pk_u16_f32", "f32 f32 -> u32", lambda v, a, b: pack(v, v.to_int(a, "u16"), v.to_int(b, "u16")))

    def norm(kind: str, largest: float) -> Any:
        def apply(v: V, a: Any) -> Any:
            unit = v.to_float(v.clamp_unit(a, signed=kind == "i16"), "f32")
            return v.to_int(v.fmul(unit, v.constant("f32", largest)), kind, "even")
        return apply
    for kind, largest in (("i16", 32767.0), ("u16", 65535.0)):
        for source in ("f16", "f32"):
            one = norm(kind, largest)
            t.op(f"v_cvt_pk_norm_{kind}_{source}", f"{source} {source} -> u32",
                 lambda v, a, b, one=one: pack(v, one(v, a), one(v, b)))
        t.op(f"v_cvt_norm_{kind}_f16", f"f16 -> {kind}", norm(kind, largest))

    def insert_byte(v: V, a: Any, position: Any, old: Any) -> Any:
        shift = v.shl(v.and_(position, 3), 3)
        byte = v.cast(v.to_int(a, "u8", "even"), "u32")
        return v.or_(v.and_(old, v.not_(v.shl(v.constant("u32", 255), shift))), v.shl(byte, shift))
    t.op("v_cvt_pk_u8_f32", "f32 u32 u32 -> u32", insert_byte)
