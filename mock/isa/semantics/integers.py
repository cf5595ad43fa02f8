"""Vector integer, bit and data-movement instructions (RDNA3 ISA, "VOP1", "VOP2", "VOP3 instructions")."""

from __future__ import annotations

from typing import Any

from mock.isa.semantics.table import Table

__all__ = ["define"]

V = Any


def _carry_out(v: V, total: Any) -> tuple[Any, Any]:
    return v.low(total), v.ne(v.and_(v.shr(total, 32), 1), 0)


def _wide(v: V, x: Any) -> Any:
    return v.cast(x, "u64")


def _saturated(function: Any, kind: str) -> Any:
    """The function on sign-preserving i64 copies, clamped to the type's range."""
    def apply(v: V, *sources: Any) -> Any:
        return v.saturate(function(v, *(v.cast(s, "i64") for s in sources)), kind)
    return apply


def _low_bits(v: V, a: Any, n: int, kind: str) -> Any:
    """The low n bits of a 32-bit value, extended by ``kind``'s signedness."""
    return v.shr(v.bits(v.shl(a, 32 - n), kind), 32 - n)


def _byte(v: V, a: Any, i: int) -> Any:
    return v.and_(v.shr(a, 8 * i), 255)


def _abs_difference(v: V, a: Any, b: Any) -> Any:
    return v.sub(v.max(a, b), v.min(a, b))


def _sad_bytes(v: V, a: Any, b: Any, *, masked: bool = False) -> Any:
    """Sum of absolute byte differences; ``masked`` skips bytes that are 0 in the second operand (the reference)."""
    total: Any = None
    for i in range(4):
        x, y = _byte(v, a, i), _byte(v, b, i)
        term = _abs_difference(v, x, y)
        if masked:
            term = v.select(v.eq(y, 0), 0, term)
        total = term if total is None else v.add(total, term)
    return total


def _perm(v: V, a: Any, b: Any, selector: Any) -> Any:
    """Bytes of {a, b} by four selectors; 8..11 replicate a sign, 12 is 0, above is 0xff."""
    data = v.join(b, a)
    result: Any = None
    for i in range(4):
        s = _byte(v, selector, i)
        byte = v.and_(v.low(v.shr(data, v.shl(v.and_(s, 7), 3))), 255)
        sign_position = v.add(v.shl(v.and_(s, 3), 4), 15)       # 15, 31, 47, 63
        sign = v.mul(v.and_(v.low(v.shr(data, sign_position)), 1), 255)
        byte = v.select(v.ge(s, 8), sign, byte)
        byte = v.select(v.eq(s, 12), 0, byte)
        byte = v.select(v.ge(s, 13), 255, byte)
        part = v.shl(byte, 8 * i)
        result = part if result is None else v.or_(result, part)
    return result


def _bfe_u32(v: V, a: Any, offset: Any, width: Any) -> Any:
    ones = v.sub(v.shl(v.constant("u32", 1), width), 1)
    return v.and_(v.shr(a, offset), ones)


def _bfe_i32(v: V, a: Any, offset: Any, width: Any) -> Any:
    width = v.and_(width, 31)
    up = v.and_(v.sub(v.constant("u32", 32), width), 31)
    kept = v.shr(v.shl(v.shr(a, offset), up), up)
    return v.select(v.eq(width, 0), 0, kept)


def _med3(v: V, a: Any, b: Any, c: Any) -> Any:
    return v.max(v.min(a, b), v.min(v.max(a, b), c))


def _mad_u64(v: V, a: Any, b: Any, c: Any) -> tuple[Any, Any]:
    total = v.add(v.mul(_wide(v, a), _wide(v, b)), c)
    return total, v.lt(total, c)


def _mad_i64(v: V, a: Any, b: Any, c: Any) -> tuple[Any, Any]:
    product = v.mul(v.cast(a, "i64"), v.cast(b, "i64"))
    total = v.add(product, c)
    overflow = v.lt(v.and_(v.xor(product, total), v.xor(c, total)), 0)
    return total, overflow


def _lerp(v: V, a: Any, b: Any, c: Any) -> Any:
    """Rounded byte averages: (a + b + rounding bit) / 2 in each byte."""
    result: Any = None
    for i in range(4):
        total = v.add(v.add(_byte(v, a, i), _byte(v, b, i)), v.and_(_byte(v, c, i), 1))
        part = v.shl(v.shr(total, 1), 8 * i)
        result = part if result is None else v.or_(result, part)
    return result


def _qsad(masked: bool) -> Any:
    """Four 16-bit sums of absolute differences at byte offsets 0..3 of the 64-bit operand, with accumulators."""
    def apply(v: V, a: Any, b: Any, c: Any) -> Any:
        result: Any = None
        for i in range(4):
            total = v.add(_sad_bytes(v, v.low(v.shr(a, 8 * i)), b, masked=masked),
                          v.low(v.and_(v.shr(c, 16 * i), 0xffff)))
            part = v.shl(_wide(v, v.and_(total, 0xffff)), 16 * i)
            result = part if result is None else v.or_(result, part)
        return result
    return apply


def _qsad_saturating(masked: bool) -> Any:
    def apply(v: V, a: Any, b: Any, c: Any) -> Any:
        result: Any = None
        for i in range(4):
            total = v.add(_sad_bytes(v, v.low(v.shr(a, 8 * i)), b, masked=masked),
                          v.low(v.and_(v.shr(c, 16 * i), 0xffff)))
            part = v.shl(_wide(v, v.min(total, 0xffff)), 16 * i)
            result = part if result is None else v.or_(result, part)
        return result
    return apply


def _mqsad_u32(v: V, a: Any, b: Any, c: Any) -> Any:
    """Four 32-bit masked sums with accumulators, in four registers."""
    return v.stack([v.add(_sad_bytes(v, v.low(v.shr(a, 8 * i)), b, masked=True), c[i]) for i in range(4)])


def _mbcnt(v: V, a: Any, b: Any, *, high: bool) -> Any:
    """Set bits of the mask below this lane, plus b."""
    lane = v.lane()
    below = v.min(v.sub(v.max(lane, 32), 32), 31) if high else v.min(lane, 32)
    ones = v.sub(v.shl(v.constant("u64", 1), below), 1)
    return v.add(v.popcount(v.and_(a, v.low(ones))), b)


def _or_minus_one(v: V, a: Any, count: Any) -> Any:
    return v.select(v.eq(a, 0), -1, count)


def _cls(v: V, a: Any) -> Any:
    folded = v.bits(v.select(v.lt(a, 0), v.not_(a), a), "u32")
    return _or_minus_one(v, folded, v.clz(folded))


def _dual_read_permlane(v: V, a: Any, low: Any, high: Any, *, cross: bool) -> Any:
    """v_permlane(x)16: within rows of 16 (or from the row beside) each lane takes the lane that a nibble names."""
    lane = v.lane()
    selectors = v.join(low, high)
    nibble = v.and_(v.low(v.shr(selectors, v.shl(v.and_(lane, 15), 2))), 15)
    row = v.and_(v.xor(lane, 16) if cross else lane, 0x30)
    return v.or_(row, nibble)


def define(t: Table) -> None:
    _define_movement(t)
    _define_arithmetic(t)
    _define_bits(t)
    _define_16(t)


def _define_movement(t: Table) -> None:
    t.op("v_mov_b32", "u32 -> u32", lambda v, a: a)
    t.op("v_mov_b16", "u16 -> u16", lambda v, a: a)
    t.op("v_cndmask_b32", "b32 b32 mask -> b32", lambda v, a, b, m: v.select(m, b, a))
    t.op("v_cndmask_b16", "b16 b16 mask -> b16", lambda v, a, b, m: v.select(m, b, a))
    t.op("v_swap_b32", "u32 d:u32 -> u32 src:u32", lambda v, a, d: (a, d))
    t.op("v_readfirstlane_b32", "u32 -> u32", lambda v, a: v.read_lane(a, v.first_active()))
    t.op("v_readlane_b32", "u32 u32 -> u32", lambda v, a, n: v.read_lane(a, n))
    t.op("v_writelane_b32", "u32 u32 d:u32 -> all:u32",
         lambda v, a, n, d: v.select(v.eq(v.lane(), v.and_(n, v.lanes - 1)), a, d))
    t.op("v_permlane64_b32", "u32 -> u32", lambda v, a: v.gather_lanes(a, v.xor(v.lane(), 32 if v.lanes == 64 else 0)))
    t.op("v_nop", "->", lambda v: ())
    t.op("v_pipeflush", "->", lambda v: ())


def _define_arithmetic(t: Table) -> None:
    for name, swap in (("v_sub", False), ("v_subrev", True)):
        def minus(v: V, a: Any, b: Any, swap: bool = swap) -> Any:
            return v.sub(b, a) if swap else v.sub(a, b)
        t.op(f"{name}_nc_u32", "u32 u32 -> u32", minus, saturating=_saturated(minus, "u32"))

        def borrow_out(v: V, a: Any, b: Any, swap: bool = swap) -> tuple[Any, Any]:
            a, b = (b, a) if swap else (a, b)
            return v.sub(a, b), v.lt(a, b)
        t.op(f"{name}_co_u32", "u32 u32 -> u32 mask", borrow_out,
             saturating=lambda v, a, b, minus=minus, out=borrow_out: (_saturated(minus, "u32")(v, a, b),
                                                                      out(v, a, b)[1]))

        def borrow_in(v: V, a: Any, b: Any, c: Any, swap: bool = swap) -> tuple[Any, Any]:
            a, b = (b, a) if swap else (a, b)
            return _carry_out(v, v.sub(v.sub(_wide(v, a), _wide(v, b)), _wide(v, c)))

        def borrow_in_saturated(v: V, a: Any, b: Any, c: Any, full: Any = borrow_in) -> tuple[Any, Any]:
            result, borrow = full(v, a, b, c)
            return v.select(borrow, 0, result), borrow
        t.op(f"{name}_co_ci_u32", "u32 u32 mask -> u32 mask", borrow_in, saturating=borrow_in_saturated)

    def plus(v: V, a: Any, b: Any) -> Any:
        return v.add(a, b)

    def carry(v: V, a: Any, b: Any) -> tuple[Any, Any]:
        result = v.add(a, b)
        return result, v.lt(result, a)

    def carry_in(v: V, a: Any, b: Any, c: Any) -> tuple[Any, Any]:
        return _carry_out(v, v.add(v.add(_wide(v, a), _wide(v, b)), _wide(v, c)))

    def ones_on_carry(function: Any) -> Any:
        def apply(v: V, *sources: Any) -> tuple[Any, Any]:
            result, out = function(v, *sources)
            return v.select(out, 0xffffffff, result), out
        return apply
    t.op("v_add_nc_u32", "u32 u32 -> u32", plus, saturating=_saturated(plus, "u32"))
    t.op("v_add_co_u32", "u32 u32 -> u32 mask", carry, saturating=ones_on_carry(carry))
    t.op("v_add_co_ci_u32", "u32 u32 mask -> u32 mask", carry_in, saturating=ones_on_carry(carry_in))
    t.op("v_add_nc_i32", "i32 i32 -> i32", plus, saturating=_saturated(plus, "i32"))
    t.op("v_sub_nc_i32", "i32 i32 -> i32", lambda v, a, b: v.sub(a, b),
         saturating=_saturated(lambda v, a, b: v.sub(a, b), "i32"))

    t.op("v_mul_lo_u32", "u32 u32 -> u32", lambda v, a, b: v.mul(a, b))
    t.op("v_mul_hi_u32", "u32 u32 -> u32", lambda v, a, b: v.mul_high(a, b))
    t.op("v_mul_hi_i32", "i32 i32 -> i32", lambda v, a, b: v.mul_high(a, b))
    for kind, sign in (("i32", "i24"), ("u32", "u24")):
        def low24(v: V, a: Any, b: Any, kind: str = kind) -> tuple[Any, Any]:
            return _low_bits(v, a, 24, kind), _low_bits(v, b, 24, kind)

        def mul24(v: V, a: Any, b: Any, low24: Any = low24) -> Any:
            return v.mul(*low24(v, a, b))

        def mad24(v: V, a: Any, b: Any, c: Any, mul24: Any = mul24) -> Any:
            return v.add(mul24(v, a, b), c)

        def mad24_saturated(v: V, a: Any, b: Any, c: Any, low24: Any = low24, kind: str = kind) -> Any:
            x, y = (v.cast(n, "i64") for n in low24(v, a, b))
            return v.saturate(v.add(v.mul(x, y), v.cast(c, "i64")), kind)
        t.op(f"v_mul_{kind}_{sign}", f"u32 u32 -> {kind}", mul24)
        t.op(f"v_mul_hi_{kind}_{sign}", f"u32 u32 -> {kind}",
             lambda v, a, b, low24=low24: v.mul_high(*low24(v, a, b)))
        t.op(f"v_mad_{kind}_{sign}", f"u32 u32 {kind} -> {kind}", mad24, saturating=mad24_saturated)
    t.op("v_mad_u64_u32", "u32 u32 u64 -> u64 mask", _mad_u64)
    t.op("v_mad_i64_i32", "i32 i32 i64 -> i64 mask", _mad_i64)
    t.op("v_mad_u32_u16", "u16 u16 u32 -> u32",
         lambda v, a, b, c: v.add(v.mul(v.cast(a, "u32"), v.cast(b, "u32")), c),
         saturating=_saturated(lambda v, a, b, c: v.add(v.mul(a, b), c), "u32"))
    t.op("v_mad_i32_i16", "i16 i16 i32 -> i32",
         lambda v, a, b, c: v.add(v.mul(v.cast(a, "i32"), v.cast(b, "i32")), c),
         saturating=_saturated(lambda v, a, b, c: v.add(v.mul(a, b), c), "i32"))
    for kind in ("i32", "u32"):
        pair, triple = f"{kind} {kind} -> {kind}", f"{kind} {kind} {kind} -> {kind}"
        t.op(f"v_min_{kind}", pair, lambda v, a, b: v.min(a, b))
        t.op(f"v_max_{kind}", pair, lambda v, a, b: v.max(a, b))
        t.op(f"v_min3_{kind}", triple, lambda v, a, b, c: v.min(v.min(a, b), c))
        t.op(f"v_max3_{kind}", triple, lambda v, a, b, c: v.max(v.max(a, b), c))
        t.op(f"v_med3_{kind}", triple, _med3)
        t.op(f"v_maxmin_{kind}", triple, lambda v, a, b, c: v.min(v.max(a, b), c))
        t.op(f"v_minmax_{kind}", triple, lambda v, a, b, c: v.max(v.min(a, b), c))
    t.op("v_add3_u32", "u32 u32 u32 -> u32", lambda v, a, b, c: v.add(v.add(a, b), c))
    t.op("v_lshl_add_u32", "u32 u32 u32 -> u32", lambda v, a, n, c: v.add(v.shl(a, n), c))
    t.op("v_add_lshl_u32", "u32 u32 u32 -> u32", lambda v, a, b, n: v.shl(v.add(a, b), n))
    t.op("v_xad_u32", "u32 u32 u32 -> u32", lambda v, a, b, c: v.add(v.xor(a, b), c))
    t.op("v_sad_u8", "u32 u32 u32 -> u32", lambda v, a, b, c: v.add(_sad_bytes(v, a, b), c),
         saturating=lambda v, a, b, c: v.saturate(v.add(v.cast(_sad_bytes(v, a, b), "i64"), v.cast(c, "i64")), "u32"))
    t.op("v_sad_hi_u8", "u32 u32 u32 -> u32", lambda v, a, b, c: v.add(v.shl(_sad_bytes(v, a, b), 16), c))
    t.op("v_sad_u16", "u32 u32 u32 -> u32", lambda v, a, b, c: v.add(v.add(
        _abs_difference(v, v.and_(a, 0xffff), v.and_(b, 0xffff)),
        _abs_difference(v, v.shr(a, 16), v.shr(b, 16))), c))
    t.op("v_sad_u32", "u32 u32 u32 -> u32", lambda v, a, b, c: v.add(_abs_difference(v, a, b), c))
    t.op("v_msad_u8", "u32 u32 u32 -> u32", lambda v, a, b, c: v.add(_sad_bytes(v, a, b, masked=True), c))
    t.op("v_qsad_pk_u16_u8", "u64 u32 u64 -> u64", _qsad(False), saturating=_qsad_saturating(False))
    t.op("v_mqsad_pk_u16_u8", "u64 u32 u64 -> u64", _qsad(True), saturating=_qsad_saturating(True))
    t.op("v_mqsad_u32_u8", "u64 u32 r4 -> r4", _mqsad_u32)
    t.op("v_lerp_u8", "u32 u32 u32 -> u32", _lerp)


def _define_bits(t: Table) -> None:
    t.op("v_and_b32", "u32 u32 -> u32", lambda v, a, b: v.and_(a, b))
    t.op("v_or_b32", "u32 u32 -> u32", lambda v, a, b: v.or_(a, b))
    t.op("v_xor_b32", "u32 u32 -> u32", lambda v, a, b: v.xor(a, b))
    t.op("v_xnor_b32", "u32 u32 -> u32", lambda v, a, b: v.not_(v.xor(a, b)))
    t.op("v_not_b32", "u32 -> u32", lambda v, a: v.not_(a))
    t.op("v_bfrev_b32", "u32 -> u32", lambda v, a: v.reverse(a))
    t.op("v_clz_i32_u32", "u32 -> i32", lambda v, a: _or_minus_one(v, a, v.clz(a)))
    t.op("v_ctz_i32_b32", "u32 -> i32", lambda v, a: _or_minus_one(v, a, v.ctz(a)))
    t.op("v_cls_i32", "i32 -> i32", _cls)
    t.op("v_bcnt_u32_b32", "u32 u32 -> u32", lambda v, a, b: v.add(v.popcount(a), b))
    t.op("v_mbcnt_lo_u32_b32", "u32 u32 -> u32", lambda v, a, b: _mbcnt(v, a, b, high=False))
    t.op("v_mbcnt_hi_u32_b32", "u32 u32 -> u32", lambda v, a, b: _mbcnt(v, a, b, high=True))
    t.op("v_lshlrev_b32", "u32 u32 -> u32", lambda v, n, a: v.shl(a, n))
    t.op("v_lshrrev_b32", "u32 u32 -> u32", lambda v, n, a: v.shr(a, n))
    t.op("v_ashrrev_i32", "u32 i32 -> i32", lambda v, n, a: v.shr(a, n))
    t.op("v_lshlrev_b64", "u32 u64 -> u64", lambda v, n, a: v.shl(a, n))
    t.op("v_lshrrev_b64", "u32 u64 -> u64", lambda v, n, a: v.shr(a, n))
    t.op("v_ashrrev_i64", "u32 i64 -> i64", lambda v, n, a: v.shr(a, n))
    t.op("v_bfe_u32", "u32 u32 u32 -> u32", _bfe_u32)
    t.op("v_bfe_i32", "i32 u32 u32 -> i32", _bfe_i32)
    t.op("v_bfi_b32", "u32 u32 u32 -> u32", lambda v, m, a, b: v.or_(v.and_(m, a), v.and_(v.not_(m), b)))
    t.op("v_bfm_b32", "u32 u32 -> u32",
         lambda v, w, n: v.shl(v.sub(v.shl(v.constant("u32", 1), w), 1), n))
    t.op("v_alignbit_b32", "u32 u32 u32 -> u32", lambda v, a, b, n: v.low(v.shr(v.join(b, a), v.and_(n, 31))))
    t.op("v_alignbyte_b32", "u32 u32 u32 -> u32",
         lambda v, a, b, n: v.low(v.shr(v.join(b, a), v.shl(v.and_(n, 3), 3))))
    t.op("v_perm_b32", "u32 u32 u32 -> u32", _perm)
    t.op("v_xor3_b32", "u32 u32 u32 -> u32", lambda v, a, b, c: v.xor(v.xor(a, b), c))
    t.op("v_or3_b32", "u32 u32 u32 -> u32", lambda v, a, b, c: v.or_(v.or_(a, b), c))
    t.op("v_and_or_b32", "u32 u32 u32 -> u32", lambda v, a, b, c: v.or_(v.and_(a, b), c))
    t.op("v_lshl_or_b32", "u32 u32 u32 -> u32", lambda v, a, n, c: v.or_(v.shl(a, n), c))
    for name, cross in (("v_permlane16_b32", False), ("v_permlanex16_b32", True)):
        # op_sel: bit 0 fetches from inactive lanes, bit 1 gives 0 for them instead of leaving the destination.
        t.op(name, "u32 u32 u32 d:u32 -> u32",
             lambda v, a, low, high, d, cross=cross, op_sel=0: v.take_active(
                 a, _dual_read_permlane(v, a, low, high, cross=cross), d, inactive=bool(op_sel & 1),
                 zero=bool(op_sel & 2)), modifiers=True)


def _define_16(t: Table) -> None:
    for kind in ("i16", "u16"):
        pair, triple = f"{kind} {kind} -> {kind}", f"{kind} {kind} {kind} -> {kind}"
        for name, function in (("add_nc", lambda v, a, b: v.add(a, b)), ("sub_nc", lambda v, a, b: v.sub(a, b))):
            t.op(f"v_{name}_{kind}", pair, function, saturating=_saturated(function, kind))
        t.op(f"v_min_{kind}", pair, lambda v, a, b: v.min(a, b))
        t.op(f"v_max_{kind}", pair, lambda v, a, b: v.max(a, b))
        t.op(f"v_min3_{kind}", triple, lambda v, a, b, c: v.min(v.min(a, b), c))
        t.op(f"v_max3_{kind}", triple, lambda v, a, b, c: v.max(v.max(a, b), c))
        t.op(f"v_med3_{kind}", triple, _med3)

        def mad(v: V, a: Any, b: Any, c: Any) -> Any:
            return v.add(v.mul(a, b), c)
        t.op(f"v_mad_{kind}", triple, mad, saturating=_saturated(mad, kind))
    t.op("v_mul_lo_u16", "u16 u16 -> u16", lambda v, a, b: v.mul(a, b))
    t.op("v_lshlrev_b16", "u16 u16 -> u16", lambda v, n, a: v.shl(a, n))
    t.op("v_lshrrev_b16", "u16 u16 -> u16", lambda v, n, a: v.shr(a, n))
    t.op("v_ashrrev_i16", "u16 i16 -> i16", lambda v, n, a: v.shr(a, n))
    t.op("v_not_b16", "u16 -> u16", lambda v, a: v.not_(a))
    for name, logic in (("and", lambda v, a, b: v.and_(a, b)), ("or", lambda v, a, b: v.or_(a, b)),
                        ("xor", lambda v, a, b: v.xor(a, b))):
        t.op(f"v_{name}_b16", "u16 u16 -> u16", logic)
    t.op("v_cvt_i32_i16", "i16 -> i32", lambda v, a: v.cast(a, "i32"))
    t.op("v_cvt_u32_u16", "u16 -> u32", lambda v, a: v.cast(a, "u32"))
    t.op("v_pack_b32_f16", "b16 b16 -> u32",
         lambda v, a, b: v.or_(v.cast(a, "u32"), v.shl(v.cast(b, "u32"), 16)))
    def byte(v: V, a: Any, down: int) -> Any:
        half = v.shr(v.bits(v.shl(a, 16 - down), "i32"), 16)
        return v.cast(v.saturate(v.cast(half, "i64"), "u8"), "u32")
    t.op("v_sat_pk_u8_i16", "u32 -> u16",
         lambda v, a: v.cast(v.or_(byte(v, a, 0), v.shl(byte(v, a, 16), 8)), "u16"))
    t.op("v_cvt_pk_u16_u32", "u32 u32 -> u32",
         lambda v, a, b: v.or_(v.min(a, 0xffff), v.shl(v.min(b, 0xffff), 16)))
    t.op("v_cvt_pk_i16_i32", "i32 i32 -> u32", lambda v, a, b: v.or_(
        v.and_(v.bits(v.min(v.max(a, -32768), 32767), "u32"), 0xffff),
        v.shl(v.bits(v.min(v.max(b, -32768), 32767), "u32"), 16)))
