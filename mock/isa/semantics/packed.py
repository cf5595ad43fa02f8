"""VOP3P: packed 16-bit arithmetic, mixed-precision FMA, dot products; and the dot products of VOP2 and VOP3."""

from __future__ import annotations

from typing import Any

from mock.isa.semantics.integers import _saturated
from mock.isa.semantics.table import Table

__all__ = ["define"]

V = Any


def _dot_ints(count: int, width: int) -> Any:
    """Sum of products of ``count`` integers of ``width`` bits; ``neg`` bits 0 and 1 make the operands signed."""
    def sum_(v: V, a: Any, b: Any, neg: int, kind: str) -> Any:
        total: Any = None
        for i in range(count):
            x, y = (v.shr(v.bits(v.shl(r, 32 - width * (i + 1)), "i32" if neg >> n & 1 else "u32"), 32 - width)
                    for n, r in enumerate((a, b)))
            term = v.mul(v.cast(x, kind), v.cast(y, kind))
            total = term if total is None else v.add(total, term)
        return total
    return sum_


def _dot(count: int, width: int, signed: bool) -> tuple[Any, Any]:
    sum_ = _dot_ints(count, width)
    kind = "i32" if signed else "u32"

    def plain(v: V, a: Any, b: Any, c: Any, neg: int = 0) -> Any:
        return v.add(sum_(v, a, b, neg if signed else 0, kind), c)

    def saturating(v: V, a: Any, b: Any, c: Any, neg: int = 0) -> Any:
        return v.saturate(v.add(sum_(v, a, b, neg if signed else 0, "i64"), v.cast(c, "i64")), kind)
    return plain, saturating


def _dot2_f32(v: V, a: Any, b: Any, c: Any) -> Any:
    """fma(a1, b1, fma(a0, b0, c)) on f32 copies: one rounding a step."""
    def wide(x: Any) -> Any:
        return v.to_float(x, "f32")
    return v.fma(wide(a[1]), wide(b[1]), v.fma(wide(a[0]), wide(b[0]), c))


def _dot2_bf16_f32(v: V, a: Any, b: Any, c: Any) -> Any:
    return v.fma(v.bf16_to_f32(a[1]), v.bf16_to_f32(b[1]), v.fma(v.bf16_to_f32(a[0]), v.bf16_to_f32(b[0]), c))


def define(t: Table) -> None:
    def pair(name: str, kind: str, function: Any, *, clamps: bool = False) -> None:
        t.op(name, f"p:{kind} p:{kind} -> p:{kind}", function,
             saturating=_saturated(function, kind) if clamps else None)

    def triple(name: str, kind: str, function: Any, *, clamps: bool = False) -> None:
        t.op(name, f"p:{kind} p:{kind} p:{kind} -> p:{kind}", function,
             saturating=_saturated(function, kind) if clamps else None)
    triple("v_pk_fma_f16", "f16", lambda v, a, b, c: v.fma(a, b, c))
    pair("v_pk_add_f16", "f16", lambda v, a, b: v.fadd(a, b))
    pair("v_pk_mul_f16", "f16", lambda v, a, b: v.fmul(a, b))
    pair("v_pk_min_f16", "f16", lambda v, a, b: v.fmin(a, b))
    pair("v_pk_max_f16", "f16", lambda v, a, b: v.fmax(a, b))
    t.op("v_pk_fmac_f16", "p:f16 p:f16 d:p:f16 -> p:f16", lambda v, a, b, d: v.fma(a, b, d))
    for kind in ("i16", "u16"):
        triple(f"v_pk_mad_{kind}", kind, lambda v, a, b, c: v.add(v.mul(a, b), c), clamps=True)
        pair(f"v_pk_add_{kind}", kind, lambda v, a, b: v.add(a, b), clamps=True)
        pair(f"v_pk_sub_{kind}", kind, lambda v, a, b: v.sub(a, b), clamps=True)
        pair(f"v_pk_min_{kind}", kind, lambda v, a, b: v.min(a, b))
        pair(f"v_pk_max_{kind}", kind, lambda v, a, b: v.max(a, b))
    pair("v_pk_mul_lo_u16", "u16", lambda v, a, b: v.mul(a, b))
    t.op("v_pk_lshlrev_b16", "p:u16 p:u16 -> p:u16", lambda v, n, a: v.shl(a, n))
    t.op("v_pk_lshrrev_b16", "p:u16 p:u16 -> p:u16", lambda v, n, a: v.shr(a, n))
    t.op("v_pk_ashrrev_i16", "p:u16 p:i16 -> p:i16", lambda v, n, a: v.shr(a, n))
    t.op("v_fma_mix_f32", "mix mix mix -> f32", lambda v, a, b, c: v.fma(a, b, c))
    t.op("v_fma_mixlo_f16", "mix mix mix -> lo:f16", lambda v, a, b, c: v.fma_to_f16(a, b, c))
    t.op("v_fma_mixhi_f16", "mix mix mix -> hi:f16", lambda v, a, b, c: v.fma_to_f16(a, b, c))

    t.op("v_dot2_f32_f16", "2f16 2f16 f32 -> f32", _dot2_f32)
    t.op("v_dot2acc_f32_f16", "2f16 2f16 d:f32 -> f32", _dot2_f32)
    t.op("v_dot2_f32_bf16", "2bf16 2bf16 f32 -> f32", _dot2_bf16_f32)
    t.op("v_dot2_f16_f16", "2f16 2f16 f16 -> f16",
         lambda v, a, b, c: v.fma(a[1], b[1], v.fma(a[0], b[0], c)))
    t.op("v_dot2_bf16_bf16", "2bf16 2bf16 u16 -> u16",
         lambda v, a, b, c: v.f32_to_bf16(_dot2_bf16_f32(v, a, b, v.bf16_to_f32(c))))
    for name, count, width, signed in (("v_dot4_i32_iu8", 4, 8, True), ("v_dot4_u32_u8", 4, 8, False),
                                       ("v_dot8_i32_iu4", 8, 4, True), ("v_dot8_u32_u4", 8, 4, False)):
        plain, saturating = _dot(count, width, signed)
        kind = "i32" if signed else "u32"
        t.op(name, f"u32 u32 {kind} -> {kind}", plain, saturating=saturating, modifiers=True)
