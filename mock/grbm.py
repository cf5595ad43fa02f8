"""GRBM's selection registers, the clock that is read beside them, and GC's scratch registers.

GRBM_GFX_CNTL chooses the micro engine, pipe, queue and VMID whose instance of a register the next access reaches
(Linux 6.1, soc21.c, soc21_grbm_select); GRBM_GFX_INDEX the shader engine, array and instance, or all of them
(gfx_v11_0.c, gfx_v11_0_select_se_sh).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from mock.block import Block, on_read, on_write

if TYPE_CHECKING:
    from mock.board import Board

__all__ = ["Grbm", "Smuio"]

BROADCAST = 0xE0000000      # GRBM_GFX_INDEX: all three BROADCAST_WRITES bits


class Grbm(Block):
    ip = "GC"
    reset_values: ClassVar = {"GRBM_GFX_INDEX": BROADCAST}

    def __init__(self, board: Board) -> None:
        super().__init__(board)
        self._cntl = board.regs.register("GRBM_GFX_CNTL")
        self._index = board.regs.register("GRBM_GFX_INDEX")

    def reset(self) -> None:
        self.index(BROADCAST)

    @on_write("GRBM_GFX_CNTL")
    def cntl(self, value: int) -> None:
        f = self._cntl.unpack(value)
        regs = self.board.regs
        regs.selection = regs.selection._replace(me=f["MEID"], pipe=f["PIPEID"], queue=f["QUEUEID"], vmid=f["VMID"])

    @on_write("GRBM_GFX_INDEX")
    def index(self, value: int) -> None:
        f = self._index.unpack(value)
        regs = self.board.regs
        regs.selection = regs.selection._replace(
            se=None if f["SE_BROADCAST_WRITES"] else f["SE_INDEX"],
            sa=None if f["SA_BROADCAST_WRITES"] else f["SA_INDEX"],
            instance=None if f["INSTANCE_BROADCAST_WRITES"] else f["INSTANCE_INDEX"])


class Smuio(Block):
    """The VBIOS's flash, and the golden timestamp counter. Its halves are two registers: a reader takes the upper one
    again (Linux 6.1, gfx_v11_0.c, gfx_v11_0_get_gpu_clock_counter, which reads RLC's copies)."""

    ip = "SMUIO"

    @on_read("ROM_DATA")
    def rom(self) -> int:
        """The VBIOS's flash, a dword a read (Linux 6.12, amdgpu_bios.c, amdgpu_soc15_read_bios_from_rom)."""
        regs, rom = self.board.regs, self.board.rom
        index = regs["ROM_INDEX"]
        regs["ROM_INDEX"] = index + 4 & 0x1FFFFFF
        return int.from_bytes(rom[index:index + 4].ljust(4, b"\xff"), "little")

    @on_read("GOLDEN_TSC_COUNT_LOWER", "SOC_GOLDEN_TSC_SHADOW_LOWER")
    def lower(self) -> int:
        return self.board.clock() & 0xFFFFFFFF

    @on_read("GOLDEN_TSC_COUNT_UPPER", "SOC_GOLDEN_TSC_SHADOW_UPPER")
    def upper(self) -> int:
        return self.board.clock() >> 32 & 0xFFFFFF
