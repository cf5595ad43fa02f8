"""Instruction -> text."""
from __future__ import annotations

from mock.isa.decode import Instruction


def format_instruction(instruction: Instruction) -> str:
    return instruction.mnemonic + " " + ", ".join(str(o) for o in instruction.operands)
