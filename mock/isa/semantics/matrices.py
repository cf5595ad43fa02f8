"""WMMA: D = A x B + C on 16x16 tiles that a wave holds together (RDNA3 ISA, "Wave Matrix Multiply Accumulate")."""

from __future__ import annotations

from mock.isa.semantics.table import Table

__all__ = ["define"]


def define(t: Table) -> None:
    for name, source, accumulator, registers in (
            ("v_wmma_f32_16x16x16_f16", "f16", "f32", 8), ("v_wmma_f32_16x16x16_bf16", "bf16", "f32", 8),
            ("v_wmma_f16_16x16x16_f16", "f16", "f16", 8), ("v_wmma_bf16_16x16x16_bf16", "bf16", "bf16", 8),
            ("v_wmma_i32_16x16x16_iu8", "iu8", "i32", 4), ("v_wmma_i32_16x16x16_iu4", "iu4", "i32", 2)):
        t.op(name, f"r{registers} r{registers} rw -> rw",
             lambda v, a, b, c, source=source, accumulator=accumulator, **modifiers: v.wmma(
                 source, accumulator, a, b, c, **modifiers), modifiers=True)
