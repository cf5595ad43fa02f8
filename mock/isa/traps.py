"""How a wave enters its trap handler and leaves it.

What is where follows Linux 6.1, cwsr_trap_handler_gfx10.asm, built for gfx11: TTMP0 and TTMP1[15:0] hold the PC (of
``s_trap`` itself: the handler steps over it), TTMP1[23:16] the trap id; TRAPSTS tells of exceptions, and those that
are still there when the handler returns enter it again. Illegal instructions and memory violations cannot be masked.
A memory violation is met at the instruction after the access, as hardware without precise memory reports it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mock.isa.decode import Instruction, Operand
from mock.isa.dispatch import PRIV, TRAP_EN, IllegalInstruction, Trap, violates_memory
from mock.isa.exceptions import ArithmeticException
from mock.isa.hwregs import EXCEPTIONS, HALT, ILLEGAL_INST, MEM_VIOL
from mock.isa.operands import fetch
from mock.isa.state import State

__all__ = ["enter", "exception_of", "needs_privilege", "return_from_exception", "uses_ttmp"]

Exits = list[tuple[int, Any]]
_TTMP0, _TTMPS = 108, range(108, 124)
_PC_BITS = 0xffff_ffff_ffff
_EXCP_EN_SHIFT = 12


def uses_ttmp(instruction: Instruction) -> bool:
    """Does an operand name the trap handler's registers?"""
    return any(code in _TTMPS for o in instruction.operands for code in (o.code, o.code + o.width - 1)) \
        or instruction.fields.get("soffset", 0) in _TTMPS or instruction.fields.get("saddr", 0) in _TTMPS


def needs_privilege(instruction: Instruction, step: Callable[[State], Any], address: int) -> Callable[[State], Any]:
    """``step``, for waves in a trap handler only."""
    def privileged(s: State) -> Any:
        if not s.mode & PRIV:
            raise IllegalInstruction(address, instruction.bits, f"{instruction}: only a trap handler may do that")
        return step(s)
    return privileged


def enter(s: State, base: int, tba: int, pc: int, *, trap_id: int = 0, cause: int = 0) -> Exits:
    """All waves of ``s`` go to the handler at ``tba``; ``base`` is the code address that PCs count from."""
    address = (base + pc) & _PC_BITS
    s.sgpr[_TTMP0] = address & 0xffffffff
    s.sgpr[_TTMP0 + 1] = address >> 32 | (trap_id & 255) << 16
    if cause:
        s.per_wave["trapsts"] = s.per_wave["trapsts"] | np.uint32(cause)
    return [(tba - base, ("mode", s.mode | PRIV, None))]


def exception_of(error: BaseException, mode: int) -> int:
    """The TRAPSTS bit that an error is for a wave with a trap handler; 0: it is an error."""
    if not mode & TRAP_EN or mode & PRIV:
        return 0
    if isinstance(error, ArithmeticException):
        return error.flags
    if violates_memory(error):
        return MEM_VIOL
    return ILLEGAL_INST if isinstance(error, IllegalInstruction) else 0


def return_from_exception(instruction: Instruction, base: int, address: int) -> Callable[[State], Exits]:
    """``s_rfe_b64``: back to the program, unless the wave is to halt or an exception is still there."""
    source = fetch(Operand("ssrc0", instruction.fields["ssrc0"], 2), "u64", None)

    def rfe(s: State) -> Exits:
        if (s.per_wave["status"] & np.uint32(HALT)).any():
            raise Trap(f"the trap handler at pc {address:#x} halted the wave (STATUS.HALT), and nobody is there to "
                       f"wake it; TRAPSTS {int(s.per_wave['trapsts'].max()):#x}")
        pending = int(np.bitwise_or.reduce(s.per_wave["trapsts"]))
        enabled = s.mode >> _EXCP_EN_SHIFT & EXCEPTIONS | MEM_VIOL | ILLEGAL_INST
        where = np.broadcast_to(source(s), (s.waves,)) & np.uint64(_PC_BITS)
        if pending & enabled:
            raise Trap(f"the trap handler returns at pc {address:#x} with TRAPSTS {pending:#x} still set: hardware "
                       f"enters it again and again; clear the exception or halt the wave")
        mode = s.mode & ~PRIV
        return [(int(t) - base, ("mode", mode, where == t)) for t in np.unique(where)]
    return needs_privilege(instruction, rfe, address)
