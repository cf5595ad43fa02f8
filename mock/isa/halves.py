"""Which operands of the short formats are halves of a register: bit 7 of their number says which.

Only v0 to v127 can be named so (RDNA3 ISA, "16-bit math and VGPRs"); which operands are 16 bits wide, the semantics'
signatures tell.
"""

from __future__ import annotations

from mock.isa.decode import Instruction, Operand
from mock.isa.semantics import Entry, table

__all__ = ["SOURCES", "is_half", "source_kind"]

SOURCES = {"src0": 0, "src1": 1, "vsrc1": 1, "src2": 2}
_HALVES = ("f16", "i16", "u16", "b16")


def source_kind(instruction: Instruction, operand: Operand) -> str:
    """A source operand's type by the semantics."""
    entry, at = table().get(instruction.mnemonic), SOURCES.get(operand.field)
    if not isinstance(entry, Entry) or at is None:
        return "f32"
    kinds = [kind for kind in entry.sources if not kind.startswith(("d:", "k:"))]
    return kinds[at] if at < len(kinds) else "f32"


def is_half(instruction: Instruction, operand: Operand) -> bool:
    """Is the operand of a short form half a register?"""
    if instruction.encoding not in ("VOP1", "VOP2", "VOPC"):
        return False
    if operand.field in SOURCES:
        return source_kind(instruction, operand) in _HALVES
    entry = table().get(instruction.mnemonic)
    return isinstance(entry, Entry) and entry.results[0] in _HALVES
