"""What a launch is: the state that the command processor and the SPI hand to the shader engines.

A :class:`Dispatch` holds the COMPUTE_* registers as they stand when a dispatch packet starts them; nothing in
it knows of boards, queues or page tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from mock.isa.clock import ClockReport
    from mock.isa.state import State

__all__ = ["CACHE_INSTRUCTIONS", "COHERENT_LOAD", "Counts", "Dispatch", "FETCH", "HungWave", "IllegalInstruction",
           "IsaError", "LDS_GRANULE", "LOAD", "Memory", "MemoryFault", "PRIV", "Rsrc1", "Rsrc2", "SCALAR_LOAD", "STORE",
           "SqInterrupt", "Stopped", "TRAP_EN", "Trap", "initial_mode", "violates_memory"]

LOAD, STORE, SCALAR_LOAD, COHERENT_LOAD, FETCH = range(5)
"""Kinds of access: a vector load; a store or an atomic; a scalar load; a vector load with glc; an instruction fetch. A
memory that tells them apart (caches) has ``translate_as(addresses, kind)``, ``translate_page(address, kind)``, ``code``
(a memory for fetches), ``served`` (loads were given other bytes than stores go to: pointers for loads do not outlive a
store) and ``invalidate(bits)`` for cache instructions, as :data:`CACHE_INSTRUCTIONS` has them. One with
``workgroup_processor(zap, group)`` gives each thread of native code a memory of its own, whose pointers it may take
back (``zap(kind, page)``)."""

CACHE_INSTRUCTIONS = {"buffer_gl0_inv": 1, "buffer_gl1_inv": 2, "s_gl1_inv": 2, "s_dcache_inv": 4, "s_icache_inv": 8}

LDS_GRANULE = 512
"""Bytes per unit of COMPUTE_PGM_RSRC2.LDS_SIZE (LLVM, User Guide for AMDGPU Backend, compute_pgm_rsrc2)."""


class IsaError(Exception):
    """Root of what executing code may raise."""


class IllegalInstruction(IsaError):
    """Bits that are no instruction, or one that this machine has no unit for."""

    def __init__(self, pc: int, bits: bytes, why: str) -> None:
        self.pc, self.bits = pc, bits
        words = " ".join(f"{int.from_bytes(bits[i:i + 4], 'little'):08x}" for i in range(0, len(bits), 4))
        super().__init__(f"illegal instruction at pc {pc:#x}, bits {words}: {why}")


class Trap(IsaError):
    """A wave that is halted with nobody to wake it: ``s_trap`` with no trap handler, or STATUS.HALT set."""


class HungWave(IsaError):
    """A wave ran for longer than the watchdog allows."""


class MemoryFault(IsaError):
    """An access that no memory stands behind, for memories that have no fault of their own.

    ``memory_violation`` marks it as one that enters a wave's trap handler; a memory's own fault may carry it too.
    """

    memory_violation = True


def violates_memory(error: BaseException) -> bool:
    """Is this what hardware reports to the wave as TRAPSTS.MEM_VIOL?"""
    return bool(getattr(error, "memory_violation", False))


class Stopped(NamedTuple):
    """Waves where they stand: what executors leave in an error's attribute ``stopped``, and show to a memory's
    ``observer`` (a callable that takes a function that makes one) now and then while they run."""

    pc: int                     # address of the instruction
    state: State


@dataclass(frozen=True)
class SqInterrupt:
    """``s_sendmsg MSG_INTERRUPT``: M0's 24 bits and who sent them."""

    data: int
    priv: bool = False          # from within a trap handler
    wave_id: int = 0
    simd_id: int = 0
    wgp_id: int = 0
    sh_id: int = 0

    def context_ids(self) -> tuple[int, int]:
        """CONTEXT_ID0 and 1 of the IH entry (Linux 6.1, kfd_int_process_v11.c, SQ_INTERRUPT_WORD_WAVE_CTXID*)."""
        first = self.data & 0xffffff | (self.sh_id & 1) << 25 | int(self.priv) << 26 | (self.wave_id & 31) << 27
        return first, self.simd_id & 3 | (self.wgp_id & 15) << 2 | 1 << 6


class Memory(Protocol):
    """An address space. No access passed here crosses a 4 KiB boundary."""

    def translate(self, addresses: np.ndarray, nbytes: int, write: bool) -> np.ndarray:
        """uint64[n] addresses of ``nbytes`` each -> uint64[n] host pointers. Raises the memory's own fault."""


@dataclass(frozen=True)
class Rsrc1:
    """COMPUTE_PGM_RSRC1 (Mesa, gfx11.json, COMPUTE_PGM_RSRC1)."""

    value: int

    @property
    def vgprs(self) -> int:
        return self.value & 63

    @property
    def float_mode(self) -> int:
        """MODE[7:0]: fp_round[3:0], fp_denorm[7:4]."""
        return self.value >> 12 & 0xff

    @property
    def priv(self) -> bool:
        return bool(self.value >> 20 & 1)

    @property
    def dx10_clamp(self) -> bool:
        return bool(self.value >> 21 & 1)

    @property
    def ieee_mode(self) -> bool:
        return bool(self.value >> 23 & 1)

    @property
    def fp16_overflow(self) -> bool:
        return bool(self.value >> 26 & 1)


@dataclass(frozen=True)
class Rsrc2:
    """COMPUTE_PGM_RSRC2 (Mesa, gfx11.json, COMPUTE_PGM_RSRC2)."""

    value: int

    @property
    def scratch_en(self) -> bool:
        return bool(self.value & 1)

    @property
    def user_sgprs(self) -> int:
        return self.value >> 1 & 31

    @property
    def workgroup_id(self) -> tuple[bool, bool, bool]:
        """TGID_X_EN, TGID_Y_EN, TGID_Z_EN."""
        return bool(self.value >> 7 & 1), bool(self.value >> 8 & 1), bool(self.value >> 9 & 1)

    @property
    def workgroup_info(self) -> bool:
        return bool(self.value >> 10 & 1)

    @property
    def workitem_id(self) -> int:
        """TIDIG_COMP_CNT: 0 X, 1 X and Y, 2 X, Y and Z."""
        return self.value >> 11 & 3

    @property
    def exceptions(self) -> int:
        """EXCP_EN and above it EXCP_EN_MSB: which exceptions enter the trap handler, as MODE[20:12] has them."""
        return self.value >> 24 & 0x7f | (self.value >> 13 & 3) << 7

    @property
    def lds_bytes(self) -> int:
        return (self.value >> 15 & 0x1ff) * LDS_GRANULE


@dataclass(frozen=True)
class Dispatch:
    """One launch.

    ``grid`` is in workgroups and exclusive of ``start``'s offset: workgroup ids run from ``start`` to
    ``start + grid``. ``partial`` is the number of work-items of the last workgroup along each axis, 0 where it
    is whole (COMPUTE_NUM_THREAD_*.NUM_THREAD_PARTIAL).

    Scratch: slot k's wave has ``scratch_wave_bytes`` at ``scratch_address + k * scratch_wave_bytes``;
    ``scratch_slots`` waves may run at a time. A dispatch whose code needs scratch and has none faults.

    ``shared_base`` and ``private_base`` are the 64-bit apertures of SH_MEM_BASES (the high 16 bits of the
    address count): flat addresses inside go to LDS or scratch.

    ``tba`` other than 0: a trap handler is installed there and enabled; ``tma`` is its memory (SQ_SHADER_TBA and TMA,
    as byte addresses). Then ``s_trap``, illegal instructions, memory violations and the exceptions that rsrc2 enables
    enter it; without one they are errors.

    ``interrupt`` is called for ``s_sendmsg MSG_INTERRUPT``, from whichever thread runs the wave. ``doorbell``, ``ddid``
    and ``hw_id2`` are what the wave is told of its queue (``s_sendmsg_rtn``, SQ_WAVE_HW_ID2).
    """

    code_address: int
    rsrc1: int
    rsrc2: int
    rsrc3: int
    user_sgprs: Sequence[int]
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    partial: tuple[int, int, int] = (0, 0, 0)
    start: tuple[int, int, int] = (0, 0, 0)
    wave_size: int = 32
    lds_bytes: int | None = None            # default: from rsrc2.LDS_SIZE
    scratch_address: int = 0
    scratch_wave_bytes: int = 0
    scratch_slots: int = 0
    shared_base: int = 0x0001_0000_0000_0000
    private_base: int = 0x0002_0000_0000_0000
    tba: int = 0
    tma: int = 0
    doorbell: int = 0
    ddid: int = 0
    hw_id2: int = 0
    interrupt: Callable[[SqInterrupt], None] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.wave_size not in (32, 64):
            raise ValueError(f"wave_size must be 32 or 64, not {self.wave_size}")
        if any(n < 0 for n in self.grid) or any(n < 1 for n in self.block):
            raise ValueError(f"grid {self.grid} must not be negative and block {self.block} must be positive")
        items = self.block[0] * self.block[1] * self.block[2]
        if items > 1024:
            raise ValueError(f"a workgroup holds at most 1024 work-items, not {items}")
        if any(not 0 <= p <= b for p, b in zip(self.partial, self.block, strict=True)):
            raise ValueError(f"partial {self.partial} must be within block {self.block}")
        for what, address in (("code", self.code_address), ("trap handler", self.tba)):
            if address % 4:
                raise ValueError(f"{what} address {address:#x} must be a multiple of 4")


PRIV, TRAP_EN = 1 << 31, 1 << 30
"""Bits of STATUS that are kept above MODE's own: the wave is in a trap handler; there is one."""


def initial_mode(dispatch: Dispatch) -> int:
    """MODE of a wave that starts, with :data:`PRIV` and :data:`TRAP_EN` (RDNA3 ISA, "Mode register"; Linux 6.1,
    gc_11_0_0_sh_mask.h, SQ_WAVE_MODE)."""
    rsrc1, rsrc2 = Rsrc1(dispatch.rsrc1), Rsrc2(dispatch.rsrc2)
    mode = rsrc1.float_mode | int(rsrc1.dx10_clamp) << 8 | int(rsrc1.ieee_mode) << 9 | rsrc2.exceptions << 12
    mode |= int(rsrc1.fp16_overflow) << 23
    return mode | (PRIV if rsrc1.priv else 0) | (TRAP_EN if dispatch.tba else 0)


@dataclass
class Counts:
    """What ran. ``instructions`` counts each instruction once a wave."""

    instructions: int = 0
    waves: int = 0
    workgroups: int = 0
    by_mnemonic: Counter[str] = field(default_factory=Counter)      # filled when asked for
    clock: ClockReport | None = None                                # modelled time, likewise
