"""RDNA3 (gfx1100) machine code: decoder, disassembler, semantics, executors.

    execute(dispatch, memory)            what an engine calls: a launch in an address space
    run(code, grid=..., block=..., ...)  stand-alone: machine code or a code object on this process's memory
    decode(code) -> Instruction          prints as text that LLVM's assembler takes back to the same bits
"""

from __future__ import annotations

from typing import Any

from mock.isa.dispatch import Counts, Dispatch, IllegalInstruction, IsaError, Memory, MemoryFault, Trap

__all__ = ["Counts", "Dispatch", "IllegalInstruction", "IsaError", "Memory", "MemoryFault", "Trap", "execute", "run"]


def execute(dispatch: Dispatch, memory: Memory, *, executor: str = "interpreter", **options: Any) -> Counts:
    """Run every workgroup of ``dispatch`` to its end.

    ``options``: ``trace(pc, instruction, state)`` is called after each instruction; ``count_mnemonics=True`` fills
    ``Counts.by_mnemonic``; ``check_hazards=False`` lets code run that does not wait for its loads.

    :raises IllegalInstruction: with PC and bits. A memory fault of ``memory`` passes through, with a note
        naming the PC and the instruction.
    """
    if executor == "jit":
        from mock.isa.jit import execute as compiled
        return compiled(dispatch, memory, **options)
    if executor != "interpreter":
        raise ValueError(f"executor must be 'interpreter' or 'jit', not {executor!r}")
    from mock.isa.interpreter import execute as interpret
    return interpret(dispatch, memory, **options)


def run(code: Any, **launch: Any) -> Counts:
    """Run machine code or a code object stand-alone; see :func:`mock.isa.standalone.run`."""
    from mock.isa.standalone import run as run_alone
    return run_alone(code, **launch)
