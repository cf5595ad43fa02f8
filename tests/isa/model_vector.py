"""What vector instructions do to one lane's operands, as plain integers, from the ISA guide's pseudo-code.

:data:`LANES` is ``{mnemonic: (types, function)}``; types are as in the guide (S0.u32, D.f16 ...), results after ">".
The function gets the :class:`~model_floats.Mode` and the operands' bits and returns the result's bits, or a tuple.
Integer types are given as Python integers of their sign. ``clamped`` says that the clamp bit is set.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import model_floats as fl
from model_floats import F16, F32, F64, FORMATS, Format, Mode

Lane = tuple[str, Callable[..., Any]]
LANES: dict[str, Lane] = {}
CLAMPED: dict[str, Callable[..., Any]] = {}
"""Integer instructions whose clamp bit saturates: the function of Python integers whose value is clamped."""
BITS = {"u16": 16, "i16": 16, "u32": 32, "i32": 32, "u64": 64, "i64": 64}


def op(name: str, types: str, function: Callable[..., Any]) -> None:
    assert name not in LANES, name
    LANES[name] = (types, function)


def low(n: int, bits: int = 32) -> int:
    return n & (1 << bits) - 1


def signed(n: int, bits: int = 32) -> int:
    n = low(n, bits)
    return n - (1 << bits) if n >> bits - 1 else n


def limits(kind: str) -> tuple[int, int]:
    n = BITS[kind]
    return (-(1 << n - 1), (1 << n - 1) - 1) if kind[0] == "i" else (0, (1 << n) - 1)


def clamp_to(kind: str, n: int) -> int:
    return min(max(n, limits(kind)[0]), limits(kind)[1])


# -- integers -------------------------------------------------------------------------------------------------

def arithmetic(name: str, types: str, function: Callable[..., int], clamps: bool = True) -> None:
    """The result is taken modulo its width, or clamped."""
    op(name, types, lambda mode, *xs: function(*xs))
    if clamps:
        CLAMPED[name] = function


def _bytes(n: int) -> list[int]:
    return [n >> 8 * i & 255 for i in range(4)]


def _sad(a: int, b: int, masked: bool = False) -> int:
    return sum(abs(x - y) for x, y in zip(_bytes(a), _bytes(b), strict=True) if not (masked and y == 0))


def _perm(a: int, b: int, s: int) -> int:
    data, out = (a << 32 | b).to_bytes(8, "little"), 0
    for i, sel in enumerate(_bytes(s)):
        if sel >= 13:
            byte = 255
        elif sel == 12:
            byte = 0
        elif sel >= 8:
            byte = 255 if data[2 * (sel - 8) + 1] & 128 else 0
        else:
            byte = data[sel]
        out |= byte << 8 * i
    return out


def _bfe(a: int, offset: int, width: int, sign: bool) -> int:
    offset, width = offset & 31, width & 31
    if width == 0:
        return 0
    field = a >> offset
    return signed(field, width) if sign else field & (1 << width) - 1


def _median(*xs: int) -> int:
    return sorted(xs)[1]


def _leading(a: int, bits: int = 32) -> int:
    return bits - low(a, bits).bit_length() if low(a, bits) else -1


def _trailing(a: int) -> int:
    return (a & -a).bit_length() - 1 if a else -1


def _sign_run(a: int) -> int:
    a = low(a)
    folded = ~a & 0xffffffff if a >> 31 else a
    return _leading(folded)


def _lerp(a: int, b: int, c: int) -> int:
    return sum((x + y + (z & 1) >> 1) << 8 * i
               for i, (x, y, z) in enumerate(zip(_bytes(a), _bytes(b), _bytes(c), strict=True)))


def _qsad(a: int, b: int, c: int, masked: bool, saturate: bool) -> int:
    out = 0
    for i in range(4):
        total = _sad(low(a >> 8 * i), b, masked) + (c >> 16 * i & 0xffff)
        out |= (min(total, 0xffff) if saturate else total & 0xffff) << 16 * i
    return out


def _saturated_byte(n: int) -> int:
    return min(max(n, 0), 255)


def _define_integers() -> None:
    u3 = "u32 u32 u32>u32"
    arithmetic("v_add_nc_u32", "u32 u32>u32", lambda a, b: a + b)
    arithmetic("v_sub_nc_u32", "u32 u32>u32", lambda a, b: a - b)
    arithmetic("v_subrev_nc_u32", "u32 u32>u32", lambda a, b: b - a)
    arithmetic("v_add_nc_i32", "i32 i32>i32", lambda a, b: a + b)
    arithmetic("v_sub_nc_i32", "i32 i32>i32", lambda a, b: a - b)
    for k in ("u16", "i16"):
        arithmetic(f"v_add_nc_{k}", f"{k} {k}>{k}", lambda a, b: a + b)
        arithmetic(f"v_sub_nc_{k}", f"{k} {k}>{k}", lambda a, b: a - b)
        arithmetic(f"v_mad_{k}", f"{k} {k} {k}>{k}", lambda a, b, c: a * b + c)
        for name, function in (("min", min), ("max", max)):
            arithmetic(f"v_{name}_{k}", f"{k} {k}>{k}", function, False)
            arithmetic(f"v_{name}3_{k}", f"{k} {k} {k}>{k}", function, False)
        arithmetic(f"v_med3_{k}", f"{k} {k} {k}>{k}", _median, False)
    for k in ("u32", "i32"):
        for name, function in (("min", min), ("max", max)):
            arithmetic(f"v_{name}_{k}", f"{k} {k}>{k}", function, False)
            arithmetic(f"v_{name}3_{k}", f"{k} {k} {k}>{k}", function, False)
        arithmetic(f"v_med3_{k}", f"{k} {k} {k}>{k}", _median, False)
        arithmetic(f"v_maxmin_{k}", f"{k} {k} {k}>{k}", lambda a, b, c: min(max(a, b), c), False)
        arithmetic(f"v_minmax_{k}", f"{k} {k} {k}>{k}", lambda a, b, c: max(min(a, b), c), False)
    arithmetic("v_mul_lo_u32", "u32 u32>u32", lambda a, b: a * b, False)
    arithmetic("v_mul_lo_u16", "u16 u16>u16", lambda a, b: a * b, False)
    arithmetic("v_mul_hi_u32", "u32 u32>u32", lambda a, b: a * b >> 32, False)
    arithmetic("v_mul_hi_i32", "i32 i32>i32", lambda a, b: a * b >> 32, False)
    arithmetic("v_mul_u32_u24", "u32 u32>u32", lambda a, b: low(a, 24) * low(b, 24), False)
    arithmetic("v_mul_i32_i24", "u32 u32>i32", lambda a, b: signed(a, 24) * signed(b, 24), False)
    arithmetic("v_mul_hi_u32_u24", "u32 u32>u32", lambda a, b: low(a, 24) * low(b, 24) >> 32, False)
    arithmetic("v_mul_hi_i32_i24", "u32 u32>i32", lambda a, b: signed(a, 24) * signed(b, 24) >> 32, False)
    arithmetic("v_mad_u32_u24", "u32 u32 u32>u32", lambda a, b, c: low(a, 24) * low(b, 24) + c)
    arithmetic("v_mad_i32_i24", "u32 u32 i32>i32", lambda a, b, c: signed(a, 24) * signed(b, 24) + c)
    arithmetic("v_mad_u32_u16", "u16 u16 u32>u32", lambda a, b, c: a * b + c)
    arithmetic("v_mad_i32_i16", "i16 i16 i32>i32", lambda a, b, c: a * b + c)
    op("v_mad_u64_u32", "u32 u32 u64>u64 mask", lambda m, a, b, c: (low(a * b + c, 64), a * b + c >> 64 != 0))
    op("v_mad_i64_i32", "i32 i32 i64>i64 mask",
       lambda m, a, b, c: (low(a * b + c, 64), not -(1 << 63) <= a * b + c < 1 << 63))
    arithmetic("v_add3_u32", u3, lambda a, b, c: a + b + c, False)
    arithmetic("v_lshl_add_u32", u3, lambda a, b, c: (a << (b & 31)) + c, False)
    arithmetic("v_add_lshl_u32", u3, lambda a, b, c: low(a + b) << (c & 31), False)
    arithmetic("v_xad_u32", u3, lambda a, b, c: (a ^ b) + c, False)
    arithmetic("v_sad_u8", u3, lambda a, b, c: _sad(a, b) + c)
    arithmetic("v_msad_u8", u3, lambda a, b, c: _sad(a, b, True) + c, False)
    arithmetic("v_sad_hi_u8", u3, lambda a, b, c: (_sad(a, b) << 16) + c, False)
    arithmetic("v_sad_u16", u3,
               lambda a, b, c: abs((a & 0xffff) - (b & 0xffff)) + abs((a >> 16) - (b >> 16)) + c, False)
    arithmetic("v_sad_u32", u3, lambda a, b, c: abs(a - b) + c, False)
    arithmetic("v_lerp_u8", u3, _lerp, False)
    for masked, name in ((False, "v_qsad_pk_u16_u8"), (True, "v_mqsad_pk_u16_u8")):
        op(name, "u64 u32 u64>u64", lambda m, a, b, c, masked=masked: _qsad(a, b, c, masked, False))
        CLAMPED[name] = lambda a, b, c, masked=masked: _qsad(a, b, c, masked, True)
    op("v_mqsad_u32_u8", "u64 u32 4u32>4u32",
       lambda m, a, b, c: tuple(low(_sad(low(a >> 8 * i), b, True) + c[i]) for i in range(4)))
    _define_bits()


def _define_bits() -> None:
    u1, u2, u3 = "u32>u32", "u32 u32>u32", "u32 u32 u32>u32"

    def plain(name: str, types: str, function: Callable[..., int]) -> None:
        arithmetic(name, types, function, False)
    for name, logic in (("and", lambda a, b: a & b), ("or", lambda a, b: a | b), ("xor", lambda a, b: a ^ b)):
        plain(f"v_{name}_b32", u2, logic)
        plain(f"v_{name}_b16", "u16 u16>u16", logic)
    plain("v_xnor_b32", u2, lambda a, b: ~(a ^ b))
    plain("v_not_b32", u1, lambda a: ~a)
    plain("v_not_b16", "u16>u16", lambda a: ~a)
    plain("v_bfrev_b32", u1, lambda a: int(f"{a:032b}"[::-1], 2))
    plain("v_clz_i32_u32", "u32>i32", _leading)
    plain("v_ctz_i32_b32", "u32>i32", _trailing)
    plain("v_cls_i32", "i32>i32", _sign_run)
    plain("v_bcnt_u32_b32", u2, lambda a, b: a.bit_count() + b)
    for bits in (16, 32, 64):
        u, i = f"u{bits}", f"i{bits}"
        amount = "u16" if bits == 16 else "u32"
        plain(f"v_lshlrev_b{bits}", f"{amount} {u}>{u}", lambda n, a, bits=bits: a << (n & bits - 1))
        plain(f"v_lshrrev_b{bits}", f"{amount} {u}>{u}", lambda n, a, bits=bits: a >> (n & bits - 1))
        plain(f"v_ashrrev_i{bits}", f"{amount} {i}>{i}", lambda n, a, bits=bits: a >> (n & bits - 1))
    plain("v_bfe_u32", u3, lambda a, n, w: _bfe(a, n, w, False))
    plain("v_bfe_i32", "i32 u32 u32>i32", lambda a, n, w: _bfe(a, n, w, True))
    plain("v_bfi_b32", u3, lambda m, a, b: m & a | ~m & b)
    plain("v_bfm_b32", u2, lambda w, n: (1 << (w & 31)) - 1 << (n & 31))
    plain("v_alignbit_b32", u3, lambda a, b, n: (a << 32 | b) >> (n & 31))
    plain("v_alignbyte_b32", u3, lambda a, b, n: (a << 32 | b) >> 8 * (n & 3))
    plain("v_perm_b32", u3, _perm)
    plain("v_xor3_b32", u3, lambda a, b, c: a ^ b ^ c)
    plain("v_or3_b32", u3, lambda a, b, c: a | b | c)
    plain("v_and_or_b32", u3, lambda a, b, c: a & b | c)
    plain("v_lshl_or_b32", u3, lambda a, n, c: a << (n & 31) | c)
    plain("v_mov_b32", u1, lambda a: a)
    plain("v_mov_b16", "u16>u16", lambda a: a)
    op("v_cndmask_b32", "u32s u32s mask>u32", lambda m, a, b, c: b if c else a)
    op("v_cndmask_b16", "u16s u16s mask>u16", lambda m, a, b, c: b if c else a)
    plain("v_cvt_i32_i16", "i16>i32", lambda a: a)
    plain("v_cvt_u32_u16", "u16>u32", lambda a: a)
    plain("v_pack_b32_f16", "f16 f16>u32", lambda a, b: a | b << 16)
    plain("v_sat_pk_u8_i16", "u32>u16",
          lambda a: _saturated_byte(signed(a, 16)) | _saturated_byte(signed(a >> 16, 16)) << 8)
    plain("v_cvt_pk_u16_u32", u2, lambda a, b: min(a, 0xffff) | min(b, 0xffff) << 16)
    plain("v_cvt_pk_i16_i32", "i32 i32>u32",
          lambda a, b: low(clamp_to("i16", a), 16) | low(clamp_to("i16", b), 16) << 16)
    # carries: the mask's bit is the carry or borrow out
    op("v_add_co_u32", "u32 u32>u32 mask", lambda m, a, b: (low(a + b), a + b >> 32 != 0))
    op("v_sub_co_u32", "u32 u32>u32 mask", lambda m, a, b: (low(a - b), a < b))
    op("v_subrev_co_u32", "u32 u32>u32 mask", lambda m, a, b: (low(b - a), b < a))
    op("v_add_co_ci_u32", "u32 u32 mask>u32 mask", lambda m, a, b, c: (low(a + b + c), a + b + c >> 32 != 0))
    op("v_sub_co_ci_u32", "u32 u32 mask>u32 mask", lambda m, a, b, c: (low(a - b - c), a - b - c < 0))
    op("v_subrev_co_ci_u32", "u32 u32 mask>u32 mask", lambda m, a, b, c: (low(b - a - c), b - a - c < 0))


# -- floats ---------------------------------------------------------------------------------------------------

def _med3(a: int, b: int, c: int, f: Format, mode: Mode) -> int:
    xs = [fl.read(x, f, mode) for x in (a, b, c)]
    if any(fl.is_nan(x, f) for x in (a, b, c)):
        return fl.smallest(fl.smallest(a, b, f, mode), c, f, mode)
    return sorted(xs, key=lambda x: (fl.key(x, f), not fl.negative(x, f)))[1]


def _classes(x: int, f: Format, mode: Mode) -> int:
    x = fl.read(x, f, mode)
    if fl.is_nan(x, f):
        return 0 if fl.is_signaling(x, f) else 1
    down = fl.negative(x, f)
    if fl.is_inf(x, f):
        return 2 if down else 9
    if fl.is_zero(x, f):
        return 5 if down else 6
    if fl.is_denormal(x, f):
        return 4 if down else 7
    return 3 if down else 8


def _compare(relation: str, a: int, b: int, f: Format, mode: Mode) -> bool:
    a, b = fl.read(a, f, mode), fl.read(b, f, mode)
    unordered = fl.is_nan(a, f) or fl.is_nan(b, f)
    x, y = fl.key(a, f), fl.key(b, f)
    ordered = {"lt": x < y, "eq": x == y, "le": x <= y, "gt": x > y, "lg": x != y, "ge": x >= y}
    if relation in ordered:
        return ordered[relation] and not unordered
    if relation in ("o", "u"):
        return unordered == (relation == "u")
    if relation in ("f", "t"):
        return relation == "t"
    opposite = {"neq": "eq"}.get(relation, relation[1:])
    return not (ordered[opposite] and not unordered)


def _frexp(x: int, f: Format, mode: Mode) -> tuple[int, int]:
    """Mantissa's bits in [0.5, 1), exponent."""
    x = fl.read(x, f, mode)
    if fl.is_nan(x, f):
        return x | f.quiet, 0
    if fl.is_inf(x, f) or fl.is_zero(x, f):
        return x, 0
    m, e = fl.exact(x, f)
    size = abs(m).bit_length()
    return fl.pack(m, -size, f, fl.NEAREST), e + size


def _ldexp(x: int, n: int, f: Format, mode: Mode) -> int:
    x = fl.read(x, f, mode)
    if fl.is_nan(x, f):
        return x | f.quiet
    if fl.is_inf(x, f):
        return x
    m, e = fl.exact(x, f)
    return fl.finish(fl.pack(m, e + min(max(n, -5000), 5000), f, mode.rounding(f), fl.negative(x, f)), f, mode, x)


def _fract(x: int, f: Format, mode: Mode) -> int:
    x = fl.read(x, f, mode)
    if fl.is_nan(x, f) or fl.is_inf(x, f):
        return x | f.quiet if fl.is_nan(x, f) else f.default_nan
    rest = fl.fused(x, f.one, fl.integral(x, f, mode, "floor") ^ f.sign, f, mode)
    return rest if fl.negative(rest, f) else min(rest, f.one - 1)


def _dx9(a: int, b: int) -> bool:
    return fl.is_zero(a, F32) or fl.is_zero(b, F32)


def _mul_dx9(mode: Mode, a: int, b: int) -> int:
    return 0 if _dx9(a, b) else fl.multiply(a, b, F32, mode)


def _fma_dx9(mode: Mode, a: int, b: int, c: int) -> int:
    if _dx9(fl.read(a, F32, mode), fl.read(b, F32, mode)):
        return fl.fused(0, F32.one, c, F32, mode)
    return fl.fused(a, b, c, F32, mode)


def _mullit(mode: Mode, a: int, b: int, c: int) -> int:
    least = 0xff7fffff
    if b in (least, 0xff800000) or fl.is_nan(b, F32) or fl.is_nan(c, F32) or fl.key(c, F32) <= 0:
        return least
    return _mul_dx9(mode, a, b)


def _cube(x: int, y: int, z: int) -> tuple[int, int, int, int]:
    """(face, sc, tc, major) bits."""
    ax, ay, az = (x & 0x7fffffff for x in (x, y, z))
    nan = fl.is_nan

    def ge(p: int, q: int) -> bool:
        return not nan(p, F32) and not nan(q, F32) and p >= q

    def below_zero(p: int) -> bool:
        return not nan(p, F32) and fl.key(p, F32) < 0
    flip = 0x80000000
    faces = [0x00000000, 0x3f800000, 0x40000000, 0x40400000, 0x40800000, 0x40a00000]
    if ge(az, ax) and ge(az, ay):
        down = below_zero(z)
        return faces[5 if down else 4], x ^ flip if down else x, y ^ flip, z
    if ge(ay, ax):
        down = below_zero(y)
        return faces[3 if down else 2], x, z ^ flip if down else z, y
    down = below_zero(x)
    return faces[1 if down else 0], z if down else z ^ flip, y ^ flip, x


_DIVIDE = {32: (127, 96, 64, 23), 64: (1023, 768, 128, 53)}


def _div_scale(f: Format) -> Callable[..., tuple[int, bool]]:
    bias, apart, step, tiny = _DIVIDE[f.bits]

    def apply(mode: Mode, a: int, d: int, n: int) -> tuple[int, bool]:
        def scaled(k: int) -> int:
            return _ldexp(a, k, f, mode)
        if fl.is_zero(d, f) or fl.is_zero(n, f):
            return f.default_nan, False
        ed, en = fl.exponent_field(d, f), fl.exponent_field(n, f)
        fraction = (1 << f.fraction) - 1
        limit = 2 - bias if n & fraction < d & fraction else 1 - bias
        small = en - ed < limit
        if en - ed >= apart:        # the quotient is close to infinity: scale the denominator
            return (scaled(step) if a == d else a), True
        if ed == 0:
            return scaled(step), False
        if ed >= 2 * bias - 1:      # 1 / d is denormal
            if small:
                return (scaled(-step) if a == d else a), True
            return scaled(-step), False
        if small:
            return (scaled(step) if a == n else a), True
        return (scaled(step) if en <= tiny else a), False
    return apply


def _div_fmas(f: Format) -> Callable[..., int]:
    bias, _, step, _ = _DIVIDE[f.bits]

    def apply(mode: Mode, a: int, b: int, c: int, vcc: bool) -> int:
        scale = (step if fl.exponent_field(c, f) > bias else -step) if vcc else 0
        return fl.fused(a, b, c, f, mode, scale)
    return apply


def _div_fixup(f: Format) -> Callable[..., int]:
    def apply(mode: Mode, q: int, d: int, n: int) -> int:
        sign = (d ^ n) & f.sign
        if fl.is_nan(n, f):
            return n | f.quiet
        if fl.is_nan(d, f):
            return d | f.quiet
        if (fl.is_zero(d, f) and fl.is_zero(n, f)) or (fl.is_inf(d, f) and fl.is_inf(n, f)):
            return f.default_nan | f.sign
        if fl.is_zero(d, f) or fl.is_inf(n, f):
            return sign | f.infinity
        if fl.is_inf(d, f) or fl.is_zero(n, f):
            return sign
        if f is not F16:
            ed, en, eq = (fl.exponent_field(x, f) for x in (d, n, q))
            if en - ed < -(150 if f is F32 else 1075):
                return sign
            if eq == 2 * f.bias + 1:
                return sign | f.infinity
        return sign | fl.magnitude(q, f)
    return apply


@cache
def _two_over_pi() -> int:
    """1300 bits of 2 / pi after the point, by the Gauss-Legendre iteration in integers."""
    bits = 1400
    one = 1 << bits

    def root(n: int) -> int:
        x = 1 << (n.bit_length() + 1) // 2
        while (y := (x + n // x) // 2) < x:
            x = y
        return x
    a, b, t, p = one, root(one * one // 2), one // 4, 1
    for _ in range(11):
        following = (a + b) // 2
        b, t, p = root(a * b), t - p * (a - following) ** 2 // one, 2 * p
        a = following
    pi = (a + b) ** 2 // (4 * t)
    return (2 * one * one // pi) >> bits - 1300


def _trig_preop(mode: Mode, a: int, segment: int) -> int:
    field = fl.exponent_field(a, F64)
    shift = (segment & 31) * 53 + max(field - 1077, 0)
    shift = min(shift, 1216)        # beyond what the table holds the guide says nothing
    part = _two_over_pi() >> 1300 - 53 - shift & (1 << 53) - 1
    given = (segment & 31) * 53 + max(field - 1077, 0)
    return _ldexp(fl.pack(part, 0, F64, fl.NEAREST), -53 - given + (128 if field >= 1968 else 0), F64, mode)


def _norm(f: Format, kind: str) -> Callable[[Mode, int], int]:
    largest = 32767 if kind == "i16" else 65535

    def apply(mode: Mode, x: int) -> int:
        if fl.is_nan(x, f):
            return 0
        low_end = f.one | f.sign if kind == "i16" else 0
        if fl.key(x, f) > f.one:
            x = f.one
        elif fl.key(x, f) < fl.key(low_end, f):
            x = low_end
        wide = fl.convert(x, f, F32, mode)
        product = fl.multiply(wide, fl.pack(largest, 0, F32, fl.NEAREST), F32, mode)
        return low(fl.to_integer(product, F32, *limits(kind), mode, "even"), 16)
    return apply


def _define_floats() -> None:
    for k, f in FORMATS.items():
        _define_common(k, f)
    op("v_mul_dx9_zero_f32", "f32 f32>f32", _mul_dx9)
    op("v_fma_dx9_zero_f32", "f32 f32 f32>f32", _fma_dx9)
    op("v_fmac_dx9_zero_f32", "f32 f32 d:f32>f32", _fma_dx9)
    op("v_mullit_f32", "f32 f32 f32>f32", _mullit)
    op("v_cubeid_f32", "f32 f32 f32>f32", lambda m, x, y, z: _cube(x, y, z)[0])
    op("v_cubesc_f32", "f32 f32 f32>f32", lambda m, x, y, z: _cube(x, y, z)[1])
    op("v_cubetc_f32", "f32 f32 f32>f32", lambda m, x, y, z: _cube(x, y, z)[2])
    op("v_cubema_f32", "f32 f32 f32>f32", lambda m, x, y, z: fl.multiply(_cube(x, y, z)[3], 0x40000000, F32, m))
    op("v_trig_preop_f64", "f64 u32>f64", _trig_preop)
    _define_conversions()


def _define_common(k: str, f: Format) -> None:
    one, two, three = f"{k}>{k}", f"{k} {k}>{k}", f"{k} {k} {k}>{k}"

    def binary(name: str, function: Callable[[int, int, Format, Mode], int]) -> None:
        op(f"v_{name}_{k}", two, lambda m, a, b: function(a, b, f, m))
    binary("add", fl.add)
    binary("mul", fl.multiply)
    binary("min", fl.smallest)
    binary("max", lambda a, b, f, m: fl.smallest(a, b, f, m, True))
    op(f"v_fma_{k}", three, lambda m, a, b, c: fl.fused(a, b, c, f, m))
    for name, how in (("floor", "floor"), ("ceil", "ceil"), ("trunc", "trunc"), ("rndne", "even")):
        op(f"v_{name}_{k}", one, lambda m, a, how=how: fl.finish(fl.integral(a, f, m, how), f, m, a))
    op(f"v_fract_{k}", one, lambda m, a: _fract(a, f, m))
    op(f"v_frexp_mant_{k}", one, lambda m, a: _frexp(a, f, m)[0])
    e = "i16" if k == "f16" else "i32"
    op(f"v_frexp_exp_{e}_{k}", f"{k}>{e}", lambda m, a: _frexp(a, f, m)[1])
    op(f"v_ldexp_{k}", f"{k} {e}>{k}", lambda m, a, n: _ldexp(a, n, f, m))
    op(f"v_div_fixup_{k}", three, _div_fixup(f))
    for relation in ("f", "lt", "eq", "le", "gt", "lg", "ge", "o", "u", "nge", "nlg", "ngt", "nle", "neq", "nlt", "t"):
        for x in ("cmp", "cmpx"):
            op(f"v_{x}_{relation}_{k}", f"{k} {k}>mask", lambda m, a, b, r=relation: _compare(r, a, b, f, m))
    for x in ("cmp", "cmpx"):
        op(f"v_{x}_class_{k}", f"{k} u32>mask", lambda m, a, b: bool(b >> _classes(a, f, m) & 1))
    if k != "f16":
        op(f"v_div_scale_{k}", f"{k} {k} {k}>{k} mask", _div_scale(f))
        op(f"v_div_fmas_{k}", f"{k} {k} {k} vcc>{k}", _div_fmas(f))
    if k == "f64":
        return
    binary("sub", fl.subtract)
    binary("subrev", lambda a, b, f, m: fl.subtract(b, a, f, m))
    op(f"v_fmac_{k}", f"{k} {k} d:{k}>{k}", lambda m, a, b, d: fl.fused(a, b, d, f, m))
    op(f"v_fmamk_{k}", f"{k} k:{k} {k}>{k}", lambda m, a, b, c: fl.fused(a, b, c, f, m))
    op(f"v_fmaak_{k}", f"{k} {k} k:{k}>{k}", lambda m, a, b, c: fl.fused(a, b, c, f, m))

    def extremes(name: str, first: bool, second: bool) -> None:
        op(f"v_{name}_{k}", three, lambda m, a, b, c: fl.smallest(fl.smallest(a, b, f, m, first), c, f, m, second))
    extremes("min3", False, False)
    extremes("max3", True, True)
    extremes("maxmin", True, False)
    extremes("minmax", False, True)
    op(f"v_med3_{k}", three, lambda m, a, b, c: _med3(a, b, c, f, m))


def _define_conversions() -> None:
    for source in ("f16", "f64"):
        op(f"v_cvt_f32_{source}", f"{source}>f32", lambda m, a, s=source: fl.convert(a, FORMATS[s], F32, m))
    op("v_cvt_f64_f32", "f32>f64", lambda m, a: fl.convert(a, F32, F64, m))
    op("v_cvt_f16_f32", "f32>f16", lambda m, a: fl.convert(a, F32, F16, m))
    for kind, to in (("i32", "f32"), ("u32", "f32"), ("i32", "f64"), ("u32", "f64"), ("i16", "f16"), ("u16", "f16")):
        op(f"v_cvt_{to}_{kind}", f"{kind}>{to}", lambda m, a, to=to: fl.from_integer(a, FORMATS[to], m))
    for k, kind in (("f32", "i32"), ("f32", "u32"), ("f64", "i32"), ("f64", "u32"), ("f16", "i16"), ("f16", "u16")):
        op(f"v_cvt_{kind}_{k}", f"{k}>{kind}",
           lambda m, a, k=k, kind=kind: fl.to_integer(a, FORMATS[k], *limits(kind), m))
    op("v_cvt_nearest_i32_f32", "f32>i32", lambda m, a: fl.to_integer(a, F32, *limits("i32"), m, "half up"))
    op("v_cvt_floor_i32_f32", "f32>i32", lambda m, a: fl.to_integer(a, F32, *limits("i32"), m, "floor"))
    op("v_cvt_off_f32_i4", "u32>f32", lambda m, a: fl.pack(signed(a, 4), -4, F32, fl.NEAREST))
    for i in range(4):
        op(f"v_cvt_f32_ubyte{i}", "u32>f32", lambda m, a, i=i: fl.pack(a >> 8 * i & 255, 0, F32, fl.NEAREST))
    op("v_cvt_pk_rtz_f16_f32", "f32 f32>u32",
       lambda m, a, b: fl.convert(a, F32, F16, m, fl.TO_ZERO) | fl.convert(b, F32, F16, m, fl.TO_ZERO) << 16)
    for kind in ("i16", "u16"):
        op(f"v_cvt_pk_{kind}_f32", "f32 f32>u32", lambda m, a, b, kind=kind: low(fl.to_integer(
            a, F32, *limits(kind), m), 16) | low(fl.to_integer(b, F32, *limits(kind), m), 16) << 16)
        for k, f in (("f16", F16), ("f32", F32)):
            unit = _norm(f, kind)
            op(f"v_cvt_pk_norm_{kind}_{k}", f"{k} {k}>u32", lambda m, a, b, unit=unit: unit(m, a) | unit(m, b) << 16)
        op(f"v_cvt_norm_{kind}_f16", f"f16>{kind}", _norm(F16, kind))
    op("v_cvt_pk_u8_f32", "f32 u32 u32>u32", lambda m, a, n, c: c & ~(255 << 8 * (n & 3)) | fl.to_integer(
        a, F32, 0, 255, m, "even") << 8 * (n & 3))


# -- packed, mixed and dot ------------------------------------------------------------------------------------

def _bf16(x: int) -> int:
    return x << 16


def _to_bf16(x: int) -> int:
    if fl.is_nan(x, F32):
        return x >> 16 | 0x40
    half, rest = x >> 16, x & 0xffff
    return half + (rest > 0x8000 or (rest == 0x8000 and half & 1))


def _dot2(m: Mode, a: tuple[int, int], b: tuple[int, int], c: int, wide: Callable[[int], int]) -> int:
    first = fl.fused(wide(a[0]), wide(b[0]), c, F32, m)
    return fl.fused(wide(a[1]), wide(b[1]), first, F32, m)


def _dot(count: int, signs: tuple[bool, bool], a: int, b: int, c: int) -> int:
    bits = 32 // count
    total = c
    for i in range(count):
        x, y = (low(v >> bits * i, bits) for v in (a, b))
        total += (signed(x, bits) if signs[0] else x) * (signed(y, bits) if signs[1] else y)
    return total


def _define_packed() -> None:
    for k in ("i16", "u16"):
        for name, function, clamps in (("add", lambda a, b: a + b, True), ("sub", lambda a, b: a - b, True),
                                       ("min", min, False), ("max", max, False)):
            arithmetic(f"v_pk_{name}_{k}", f"p:{k} p:{k}>p:{k}", function, clamps)
        arithmetic(f"v_pk_mad_{k}", f"p:{k} p:{k} p:{k}>p:{k}", lambda a, b, c: a * b + c)
    arithmetic("v_pk_mul_lo_u16", "p:u16 p:u16>p:u16", lambda a, b: a * b, False)
    arithmetic("v_pk_lshlrev_b16", "p:u16 p:u16>p:u16", lambda n, a: a << (n & 15), False)
    arithmetic("v_pk_lshrrev_b16", "p:u16 p:u16>p:u16", lambda n, a: a >> (n & 15), False)
    arithmetic("v_pk_ashrrev_i16", "p:u16 p:i16>p:i16", lambda n, a: a >> (n & 15), False)
    for name, function in (("add", fl.add), ("mul", fl.multiply), ("min", fl.smallest),
                           ("max", lambda a, b, f, m: fl.smallest(a, b, f, m, True))):
        op(f"v_pk_{name}_f16", "p:f16 p:f16>p:f16", lambda m, a, b, function=function: function(a, b, F16, m))
    op("v_pk_fma_f16", "p:f16 p:f16 p:f16>p:f16", lambda m, a, b, c: fl.fused(a, b, c, F16, m))
    op("v_pk_fmac_f16", "p:f16 p:f16 d:p:f16>p:f16", lambda m, a, b, c: fl.fused(a, b, c, F16, m))
    op("v_fma_mix_f32", "mix mix mix>f32", lambda m, a, b, c: fl.fused(a, b, c, F32, m))
    for half, name in (("lo", "v_fma_mixlo_f16"), ("hi", "v_fma_mixhi_f16")):
        op(name, f"mix mix mix>{half}:f16", lambda m, a, b, c: fl.fused(a, b, c, F32, m, to=F16))

    def half(m: Mode) -> Callable[[int], int]:
        return lambda x: fl.convert(x, F16, F32, m)
    op("v_dot2_f32_f16", "2f16 2f16 f32>f32", lambda m, a, b, c: _dot2(m, a, b, c, half(m)))
    op("v_dot2acc_f32_f16", "2f16 2f16 d:f32>f32", lambda m, a, b, c: _dot2(m, a, b, c, half(m)))
    op("v_dot2_f32_bf16", "2f16 2f16 f32>f32", lambda m, a, b, c: _dot2(m, a, b, c, _bf16))
    op("v_dot2_f16_f16", "2f16 2f16 f16>f16", lambda m, a, b, c: fl.fused(
        a[1], b[1], fl.fused(a[0], b[0], c, F16, m), F16, m))
    op("v_dot2_bf16_bf16", "2f16 2f16 u16>u16", lambda m, a, b, c: _to_bf16(_dot2(m, a, b, _bf16(c), _bf16)))
    for name, count in (("v_dot4_i32_iu8", 4), ("v_dot8_i32_iu4", 8)):
        op(name, "u32 u32 i32 neg>i32", lambda m, a, b, c, n, count=count: _dot(
            count, (bool(n & 1), bool(n & 2)), a, b, c))
        CLAMPED[name] = lambda a, b, c, n, count=count: _dot(count, (bool(n & 1), bool(n & 2)), a, b, c)
    for name, count in (("v_dot4_u32_u8", 4), ("v_dot8_u32_u4", 8)):
        arithmetic(name, "u32 u32 u32>u32", lambda a, b, c, count=count: _dot(count, (False, False), a, b, c))


def _define_compares() -> None:
    relations: dict[str, Callable[[int, int], bool]] = {
        "f": lambda a, b: False, "lt": lambda a, b: a < b, "eq": lambda a, b: a == b, "le": lambda a, b: a <= b,
        "gt": lambda a, b: a > b, "ne": lambda a, b: a != b, "ge": lambda a, b: a >= b, "t": lambda a, b: True}
    for kind in BITS:
        for name, relation in relations.items():
            for x in ("cmp", "cmpx"):
                op(f"v_{x}_{name}_{kind}", f"{kind} {kind}>mask", lambda m, a, b, relation=relation: relation(a, b))


_define_integers()
_define_floats()
_define_packed()
_define_compares()
