"""Code as basic blocks: fetched through memory, decoded once, bound once, kept by content.

PCs are relative to the code address, so that a program found again elsewhere, or in another process's address
space, is the same program.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mock.isa.access import PAGE, Accessor
from mock.isa.decode import Instruction, decode
from mock.isa.dispatch import IllegalInstruction, violates_memory

__all__ = ["Block", "Code", "is_terminator"]

_ADDRESSES = (1 << 64) - 1
_TERMINATORS = ("s_branch", "s_cbranch", "s_endpgm", "s_setpc", "s_swappc", "s_call", "s_trap", "s_barrier", "s_rfe",
                "s_code_end", "s_setreg", "s_round_mode", "s_denorm_mode", "s_subvector_loop", "s_sethalt",
                "s_icache_inv", "s_sendmsghalt")


def is_terminator(mnemonic: str) -> bool:
    """Does the instruction end a block: by a jump, or by a change that waves may disagree on?"""
    return mnemonic.startswith(_TERMINATORS)


@dataclass
class Block:
    """Straight-line instructions; the last one is a terminator unless the block was cut for length."""

    pc: int
    instructions: list[Instruction] = field(default_factory=list)
    pcs: list[int] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.pcs[-1] + self.instructions[-1].size


class Code:
    """Instruction memory from the code address on, read in pages when first needed."""

    _LONGEST = 20           # bytes of the longest instruction, rounded up

    def __init__(self, accessor: Accessor, address: int) -> None:
        self.accessor, self.address = accessor, address
        self._pages: dict[int, bytes] = {}
        self._decoded: dict[int, bytes] = {}

    def unchanged(self) -> bool:
        """Read the pages again: is everything that was decoded still there? (Other bytes of the pages may differ.)"""
        self._pages.clear()
        return all(self.bytes(pc, len(code)) == code for pc, code in self._decoded.items())

    def _page(self, number: int) -> bytes:
        if number not in self._pages:
            try:
                self._pages[number] = self.accessor.bytes(number * PAGE, PAGE)
            except Exception as error:
                error.add_note(f"fetching instructions at pc {number * PAGE:#x}")
                raise
        return self._pages[number]

    def known(self, pc: int) -> Instruction | None:
        """What is at ``pc``; None where nothing can be fetched or decoded, which whoever runs there is told."""
        try:
            return self.instruction(pc)
        except IllegalInstruction:
            return None
        except Exception as error:
            if violates_memory(error):
                return None
            raise

    def bytes(self, pc: int, n: int) -> bytes:
        address = self.address + pc & _ADDRESSES
        number, at = divmod(address, PAGE)
        found = self._page(number)[at:at + n]
        while len(found) < n:
            number += 1
            found += self._page(number)[:n - len(found)]
        return found

    def instruction(self, pc: int) -> Instruction:
        """Decode at ``pc``. The page after is only touched when the instruction reaches into it."""
        address = self.address + pc & _ADDRESSES
        rest = PAGE - address % PAGE
        head = self.bytes(pc, min(rest, self._LONGEST))
        if rest >= self._LONGEST:
            return decode(head, address)
        try:
            return decode(head, address)
        except IllegalInstruction:
            return decode(self.bytes(pc, self._LONGEST), address)

    def block(self, pc: int, limit: int = 512) -> Block:
        """The block that begins at ``pc``."""
        block = self._decode_block(pc, limit)
        self._decoded[pc] = b"".join(i.bits for i in block.instructions)
        return block

    def _decode_block(self, pc: int, limit: int) -> Block:
        block = Block(pc)
        while len(block.instructions) < limit:
            instruction = self.known(pc)
            if instruction is None:
                if block.instructions:
                    return block        # whoever gets that far meets it there
                instruction = self.instruction(pc)
            block.instructions.append(instruction)
            block.pcs.append(pc)
            pc += instruction.size
            if is_terminator(instruction.mnemonic):
                break
        return block
