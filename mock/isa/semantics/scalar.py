"""Scalar ALU: SOP1, SOP2, SOPC, SOPK (RDNA3 ISA, "Scalar ALU operations"). Control flow is the executor's."""

from __future__ import annotations

from typing import Any

from mock.isa.semantics.table import Table

__all__ = ["define"]


def _with_zero_test(function: Any) -> Any:
    """The result, and whether it is not zero."""
    def apply(v: Any, *sources: Any) -> tuple[Any, Any]:
        result = function(v, *sources)
        return result, v.ne(result, 0)
    return apply


def _overflows(v: Any, a: Any, b: Any, result: Any) -> Any:
    """Signed overflow of result = a + b."""
    return v.lt(v.and_(v.xor(a, result), v.xor(b, result)), 0)


def _add_i32(v: Any, a: Any, b: Any) -> tuple[Any, Any]:
    result = v.add(a, b)
    return result, _overflows(v, a, b, result)


def _sub_i32(v: Any, a: Any, b: Any) -> tuple[Any, Any]:
    result = v.sub(a, b)
    return result, v.lt(v.and_(v.xor(a, b), v.xor(a, result)), 0)


def _mul_i32(v: Any, a: Any, b: Any) -> Any:
    return v.mul(a, b)


def _wide(v: Any, total: Any) -> tuple[Any, Any]:
    """u64 sum or difference -> u32 and carry or borrow."""
    return v.low(total), v.ne(v.and_(v.shr(total, 32), 1), 0)


def _u64(v: Any, x: Any) -> Any:
    return v.cast(x, "u64")


def _bfe(kind: str) -> Any:
    """Bit field: offset in the low bits of the second operand, width in bits 16..22."""
    width_bits = int(kind[1:])

    def extract(v: Any, a: Any, field: Any) -> tuple[Any, Any]:
        offset = v.and_(field, width_bits - 1)
        width = v.min(v.and_(v.shr(field, 16), 127), width_bits)
        shifted = v.shr(a, offset)
        up = v.and_(v.sub(v.constant("u32", width_bits), width), width_bits - 1)
        kept = v.shr(v.shl(shifted, up), up)
        result = v.select(v.eq(width, 0), v.sub(shifted, shifted), kept)
        return result, v.ne(result, 0)
    return extract


def _mask_bits(kind: str) -> Any:
    def mask(v: Any, width: Any, offset: Any) -> Any:
        one = v.constant(kind, 1)
        return v.shl(v.sub(v.shl(one, v.and_(width, int(kind[1:]) - 1)), one), offset)
    return mask


def _or_minus_one(v: Any, a: Any, count: Any) -> Any:
    return v.select(v.eq(a, 0), -1, count)


def _cls(kind: str) -> Any:
    """Bits equal to the sign bit at the top, -1 where all are."""
    def cls(v: Any, a: Any) -> Any:
        folded = v.bits(v.select(v.lt(a, 0), v.not_(a), a), "u" + kind)
        return v.select(v.eq(folded, 0), -1, v.clz(folded))
    return cls


def _pack(first: int, second: int) -> Any:
    def pack(v: Any, a: Any, b: Any) -> Any:
        low = v.shr(a, 16) if first else v.and_(a, 0xffff)
        high = v.and_(b, 0xffff0000) if second else v.shl(b, 16)
        return v.or_(low, high)
    return pack


def _replicate(v: Any, a: Any) -> Any:
    """Every bit twice."""
    x = v.cast(a, "u64")
    for shift, mask in ((16, 0x0000ffff0000ffff), (8, 0x00ff00ff00ff00ff), (4, 0x0f0f0f0f0f0f0f0f),
                        (2, 0x3333333333333333), (1, 0x5555555555555555)):
        x = v.and_(v.or_(x, v.shl(x, shift)), mask)
    return v.or_(x, v.shl(x, 1))


def _quad_any(v: Any, a: Any) -> Any:
    """Bit 4i: any of bits 4i..4i+3."""
    ones = 0x1111111111111111 if a.dtype.itemsize == 8 else 0x11111111
    return v.and_(v.or_(v.or_(a, v.shr(a, 1)), v.or_(v.shr(a, 2), v.shr(a, 3))), ones)


def _wqm(v: Any, a: Any) -> Any:
    return v.mul(_quad_any(v, a), 15)


def _quadmask(v: Any, a: Any) -> Any:
    """Bit i: any of bits 4i..4i+3."""
    x = _quad_any(v, a)
    steps = ((3, 0x0303030303030303), (6, 0x000f000f000f000f), (12, 0x000000ff000000ff), (24, 0x000000000000ffff))
    for shift, mask in steps if a.dtype.itemsize == 8 else steps[:3]:
        x = v.and_(v.or_(x, v.shr(x, shift)), mask & (1 << a.dtype.itemsize * 8) - 1)
    return x


_LOGIC: dict[str, Any] = {
    "and": lambda v, a, b: v.and_(a, b), "or": lambda v, a, b: v.or_(a, b), "xor": lambda v, a, b: v.xor(a, b),
    "nand": lambda v, a, b: v.not_(v.and_(a, b)), "nor": lambda v, a, b: v.not_(v.or_(a, b)),
    "xnor": lambda v, a, b: v.not_(v.xor(a, b)), "and_not1": lambda v, a, b: v.and_(a, v.not_(b)),
    "or_not1": lambda v, a, b: v.or_(a, v.not_(b)), "and_not0": lambda v, a, b: v.and_(v.not_(a), b),
    "or_not0": lambda v, a, b: v.or_(v.not_(a), b)}

_RELATIONS: dict[str, Any] = {
    "eq": lambda v, a, b: v.eq(a, b), "lg": lambda v, a, b: v.ne(a, b), "gt": lambda v, a, b: v.gt(a, b),
    "ge": lambda v, a, b: v.ge(a, b), "lt": lambda v, a, b: v.lt(a, b), "le": lambda v, a, b: v.le(a, b)}


def _saveexec(logic: Any) -> Any:
    def apply(v: Any, a: Any, old: Any) -> tuple[Any, Any, Any]:
        new = logic(v, a, old)
        return old, new, v.ne(new, 0)
    return apply


def _wrexec(logic: Any) -> Any:
    def apply(v: Any, a: Any, old: Any) -> tuple[Any, Any, Any]:
        new = logic(v, a, old)
        return new, new, v.ne(new, 0)
    return apply


def define(t: Table) -> None:
    _define_sop2(t)
    _define_sop1(t)
    for name, relation in _RELATIONS.items():
        for kind in ("i32", "u32"):
            t.op(f"s_cmp_{name}_{kind}", f"{kind} {kind} -> scc", relation)
            t.op(f"s_cmpk_{name}_{kind}", f"d:{kind} {'imm' if kind == 'i32' else 'uimm'} -> scc", relation)
        if name in ("eq", "lg"):
            t.op(f"s_cmp_{name}_u64", "u64 u64 -> scc", relation)
    for width in ("32", "64"):
        def bit(v: Any, a: Any, n: Any) -> Any:
            return v.and_(v.shr(a, n), 1)
        t.op(f"s_bitcmp0_b{width}", f"u{width} u32 -> scc", lambda v, a, n, bit=bit: v.eq(bit(v, a, n), 0))
        t.op(f"s_bitcmp1_b{width}", f"u{width} u32 -> scc", lambda v, a, n, bit=bit: v.ne(bit(v, a, n), 0))
    t.op("s_movk_i32", "imm -> i32", lambda v, k: k)
    t.op("s_cmovk_i32", "imm scc d:i32 -> i32", lambda v, k, c, d: v.select(c, k, d))
    t.op("s_addk_i32", "d:i32 imm -> i32 scc", _add_i32)
    t.op("s_mulk_i32", "d:i32 imm -> i32", _mul_i32)


def _define_sop2(t: Table) -> None:
    def carry_add(v: Any, a: Any, b: Any) -> tuple[Any, Any]:
        result = v.add(a, b)
        return result, v.lt(result, a)
    t.op("s_add_u32", "u32 u32 -> u32 scc", carry_add)
    t.op("s_sub_u32", "u32 u32 -> u32 scc", lambda v, a, b: (v.sub(a, b), v.lt(a, b)))
    t.op("s_add_i32", "i32 i32 -> i32 scc", _add_i32)
    t.op("s_sub_i32", "i32 i32 -> i32 scc", _sub_i32)
    t.op("s_addc_u32", "u32 u32 scc -> u32 scc",
         lambda v, a, b, c: _wide(v, v.add(v.add(_u64(v, a), _u64(v, b)), _u64(v, c))))
    t.op("s_subb_u32", "u32 u32 scc -> u32 scc",
         lambda v, a, b, c: _wide(v, v.sub(v.sub(_u64(v, a), _u64(v, b)), _u64(v, c))))
    t.op("s_absdiff_i32", "i32 i32 -> i32 scc", _with_zero_test(lambda v, a, b: v.abs(v.sub(a, b))))
    for width in ("32", "64"):
        t.op(f"s_lshl_b{width}", f"u{width} u32 -> u{width} scc", _with_zero_test(lambda v, a, n: v.shl(a, n)))
        t.op(f"s_lshr_b{width}", f"u{width} u32 -> u{width} scc", _with_zero_test(lambda v, a, n: v.shr(a, n)))
        t.op(f"s_ashr_i{width}", f"i{width} u32 -> i{width} scc", _with_zero_test(lambda v, a, n: v.shr(a, n)))
        t.op(f"s_bfe_u{width}", f"u{width} u32 -> u{width} scc", _bfe("u" + width))
        t.op(f"s_bfe_i{width}", f"i{width} u32 -> i{width} scc", _bfe("i" + width))
        t.op(f"s_bfm_b{width}", f"u32 u32 -> u{width}", _mask_bits("u" + width))
        t.op(f"s_cselect_b{width}", f"u{width} u{width} scc -> u{width}", lambda v, a, b, c: v.select(c, a, b))
        for name, logic in _LOGIC.items():
            if name not in ("and_not0", "or_not0"):
                t.op(f"s_{name}_b{width}", f"u{width} u{width} -> u{width} scc", _with_zero_test(logic))
    for n in (1, 2, 3, 4):
        t.op(f"s_lshl{n}_add_u32", "u32 u32 -> u32 scc",
             lambda v, a, b, n=n: (lambda total: (v.low(total), v.ne(v.shr(total, 32), 0)))(
                 v.add(v.shl(_u64(v, a), n), _u64(v, b))))
    for kind in ("i32", "u32"):
        t.op(f"s_min_{kind}", f"{kind} {kind} -> {kind} scc", lambda v, a, b: (v.min(a, b), v.lt(a, b)))
        t.op(f"s_max_{kind}", f"{kind} {kind} -> {kind} scc", lambda v, a, b: (v.max(a, b), v.ge(a, b)))
        t.op(f"s_mul_hi_{kind}", f"{kind} {kind} -> {kind}", lambda v, a, b: v.mul_high(a, b))
    t.op("s_mul_i32", "i32 i32 -> i32", _mul_i32)
    for name, halves in {"ll": (0, 0), "lh": (0, 1), "hh": (1, 1), "hl": (1, 0)}.items():
        t.op(f"s_pack_{name}_b32_b16", "u32 u32 -> u32", _pack(*halves))


def _define_sop1(t: Table) -> None:
    for width in ("32", "64"):
        u, i = "u" + width, "i" + width
        t.op(f"s_mov_b{width}", f"{u} -> {u}", lambda v, a: a)
        t.op(f"s_cmov_b{width}", f"{u} scc d:{u} -> {u}", lambda v, a, c, d: v.select(c, a, d))
        t.op(f"s_brev_b{width}", f"{u} -> {u}", lambda v, a: v.reverse(a))
        t.op(f"s_ctz_i32_b{width}", f"{u} -> i32", lambda v, a: _or_minus_one(v, a, v.ctz(a)))
        t.op(f"s_clz_i32_u{width}", f"{u} -> i32", lambda v, a: _or_minus_one(v, a, v.clz(a)))
        t.op("s_cls_i32" + ("_i64" if width == "64" else ""), f"{i} -> i32", _cls(width))
        t.op(f"s_bitset0_b{width}", f"u32 d:{u} -> {u}",
             lambda v, n, d, u=u: v.and_(d, v.not_(v.shl(v.constant(u, 1), n))))
        t.op(f"s_bitset1_b{width}", f"u32 d:{u} -> {u}", lambda v, n, d, u=u: v.or_(d, v.shl(v.constant(u, 1), n)))
        t.op(f"s_bcnt0_i32_b{width}", f"{u} -> u32 scc", _with_zero_test(lambda v, a: v.popcount(v.not_(a))))
        t.op(f"s_bcnt1_i32_b{width}", f"{u} -> u32 scc", _with_zero_test(lambda v, a: v.popcount(a)))
        t.op(f"s_quadmask_b{width}", f"{u} -> {u} scc", _with_zero_test(_quadmask))
        t.op(f"s_wqm_b{width}", f"{u} -> {u} scc", _with_zero_test(_wqm))
        t.op(f"s_not_b{width}", f"{u} -> {u} scc", _with_zero_test(lambda v, a: v.not_(a)))
        for name, logic in _LOGIC.items():
            t.op(f"s_{name}_saveexec_b{width}", f"{u} exec{width} -> {u} exec{width} scc", _saveexec(logic))
            if name in ("and_not0", "and_not1"):
                t.op(f"s_{name}_wrexec_b{width}", f"{u} exec{width} -> {u} exec{width} scc", _wrexec(logic))
    t.op("s_sext_i32_i8", "u32 -> i32", lambda v, a: v.shr(v.bits(v.shl(a, 24), "i32"), 24))
    t.op("s_sext_i32_i16", "u32 -> i32", lambda v, a: v.shr(v.bits(v.shl(a, 16), "i32"), 16))
    t.op("s_bitreplicate_b64_b32", "u32 -> u64", _replicate)
    t.op("s_abs_i32", "i32 -> i32 scc", _with_zero_test(lambda v, a: v.abs(a)))
