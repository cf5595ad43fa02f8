"""What a launch is: the state that the command processor and the SPI hand to the shader engines.

A :class:`Dispatch` holds the COMPUTE_* registers as they stand when a dispatch packet starts them; nothing in
it knows of boards, queues or page tables.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

__all__ = ["Counts", "Dispatch", "HungWave", "IllegalInstruction", "IsaError", "Memory", "MemoryFault", "Trap",
           "LDS_GRANULE", "Rsrc1", "Rsrc2"]

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
    """``s_trap`` (or a host trap) with no trap handler installed: the wave is halted."""


class HungWave(IsaError):
    """A wave ran for longer than the watchdog allows."""


class MemoryFault(IsaError):
    """An access that no memory stands behind, for memories that have no fault of their own."""


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
        if self.code_address % 4:
            raise ValueError(f"code address {self.code_address:#x} must be a multiple of 4")


@dataclass
class Counts:
    """What ran. ``instructions`` counts each instruction once a wave."""

    instructions: int = 0
    waves: int = 0
    workgroups: int = 0
    by_mnemonic: Counter[str] = field(default_factory=Counter)      # filled when asked for
