"""RDNA3 (gfx1100) machine code: decoder, disassembler, semantics, executors.

    execute(dispatch, memory)            what an engine calls: a launch in an address space
    run(code, grid=..., block=..., ...)  stand-alone: machine code or a code object on this process's memory
    disassemble(code)                    text that LLVM's assembler takes back to the same bits
"""

from __future__ import annotations

from mock.isa.dispatch import Counts, Dispatch, IllegalInstruction, IsaError, Memory, MemoryFault, Trap

__all__ = ["Counts", "Dispatch", "IllegalInstruction", "IsaError", "Memory", "MemoryFault", "Trap", "execute"]


def execute(dispatch: Dispatch, memory: Memory, *, executor: str = "interpreter") -> Counts:
    """Run every workgroup of ``dispatch`` to its end.

    :raises IllegalInstruction: with PC and bits. A memory fault of ``memory`` passes through, with a note
        naming the PC and the instruction.
    """
    if executor != "interpreter":
        raise ValueError(f"executor must be 'interpreter', not {executor!r}")
    from mock.isa.interpreter import execute as interpret
    return interpret(dispatch, memory)
