"""Errors of memories (ECC), as the card tells of them.

Facts: Linux 6.6 and later, nbio_v4_3.c (nbio_v4_3_handle_ras_err_event_athub_intr_no_bifring; its interrupt comes from
client BIF, source NBIF_7_4__SRCID__ERREVENT_ATHUB_INTERRUPT; the driver clears the status in BIF_DOORBELL_INT_CNTL);
amdgpu_ras.c (an ATHUB error event is fatal: the card is to be reset); smu_v13_0_0_ppt.c and
smu13_driver_if_v13_0_0.h (EccInfoTable_t: what GetEccInfo's table tells of each channel: MCA status and address,
counts). Fields of MCA_UMC's status as umc_v8_10.c reads them: Val 63, UECC (UncorrectedErr) 45, CECC 46, Poison 43.
ivsrcid of GFX 11: CP_ECC_ERROR, SDMA_SRAM_ECC.

    board.faults.inject("ecc-error", address=0x1000)                    # corrected: told, and nothing lost
    board.faults.inject("ecc-error", address=0x1000, fatal=True)        # the 64 bytes there are garbage
    board.faults.inject("ecc-error", block="sdma", queue="sdma 0.0")    # the engine's own memory: it hangs
    board.faults.inject("ecc-error", block="cp", queue="compute 1.0.0")

Which channel an address lies in is AMD's secret: here it is 256-byte granules, round robin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from amdrv.facts import ih
from amdrv.facts import smu13 as facts
from mock.block import Block, on_write
from mock.faults import Fault, register

if TYPE_CHECKING:
    from mock.board import Board

__all__ = ["Ras"]

CONTROL = "BIF_BX0_BIF_DOORBELL_INT_CNTL"
CHANNEL_SHIFT = 8
CHANNELS = len(facts.EccInfoTable_t().EccInfo)
LINE = 64                                                   # bytes that one error destroys
STATUS_VALID, STATUS_CORRECTED, STATUS_UNCORRECTED, STATUS_POISON = 1 << 63, 1 << 46, 1 << 45, 1 << 43
GARBAGE = 0xEC


@dataclass
class Channel:
    corrected: int = 0
    uncorrected: int = 0
    status: int = 0
    address: int = 0


class Ras(Block):
    """``board.ras``."""

    ip = "NBIF"

    def __init__(self, board: Board) -> None:
        super().__init__(board)
        self.channels: dict[int, Channel] = {}
        self._status: set[str] = set()

    def reset(self) -> None:
        self.channels.clear()
        self._status.clear()

    # ---- what is told

    def memory_error(self, address: int, fatal: bool) -> None:
        """An error in VRAM at a byte offset."""
        board = self.board
        channel = self.channels.setdefault((address >> CHANNEL_SHIFT) % CHANNELS, Channel())
        channel.address = address
        if fatal:
            channel.uncorrected += 1
            channel.status = STATUS_VALID | STATUS_UNCORRECTED | STATUS_POISON
            line = address // LINE * LINE
            board.vram.view[line:line + LINE] = GARBAGE
            board.vram.written(line, LINE)
            self._interrupt("RAS_ATHUB_ERR_EVENT", ih.NBIF_7_4__SRCID__ERREVENT_ATHUB_INTERRUPT)
        else:
            channel.corrected += 1
            channel.status = STATUS_VALID | STATUS_CORRECTED
            self._interrupt("RAS_CNTLR", ih.NBIF_7_4__SRCID__RAS_CONTROLLER_INTERRUPT)
        board.note("ecc", f"{'uncorrectable' if fatal else 'corrected'} error of video memory at {address:#x}")

    def _interrupt(self, name: str, source: int) -> None:
        board = self.board
        if board.regs.field(CONTROL, name + "_INTERRUPT_DISABLE"):
            board.note("interrupt-off", f"a RAS event while {name}_INTERRUPT_DISABLE of {CONTROL} is set")
            return
        self._status.add(name)
        board.regs.set_fields(CONTROL, **{name + "_INTERRUPT_STATUS": 1})
        board.ih.post(ih.SOC21_IH_CLIENTID_BIF, source)

    @on_write(CONTROL)
    def control(self, value: int) -> None:
        """Writing 1 to a CLEAR field clears its STATUS; STATUS itself is not written."""
        register = self.board.regs.register(CONTROL)
        for name in ("DOORBELL", "RAS_CNTLR", "RAS_ATHUB_ERR_EVENT"):
            if register[name + "_INTERRUPT_CLEAR"].get(value):
                self._status.discard(name)
            value = register.merge(value, {name + "_INTERRUPT_CLEAR": 0,
                                           name + "_INTERRUPT_STATUS": int(name in self._status)})
        self.board.regs[CONTROL] = value

    # ---- the SMU's table

    def table(self) -> bytes:
        """EccInfoTable_t; counts start anew when it was read, as the SMU's do."""
        table = facts.EccInfoTable_t()
        for number, channel in self.channels.items():
            entry = table.EccInfo[number]
            entry.mca_umc_status, entry.mca_umc_addr = channel.status, channel.address
            entry.ce_count_lo_chip = min(channel.corrected, 0xFFFF)
            entry.ce_count_hi_chip = 0
        self.channels.clear()
        return bytes(table)


def _strike(board: Board, fault: Fault) -> None:
    block, queue = fault.settings.get("block", "umc"), fault.settings.get("queue")
    if block == "umc":
        board.ras.memory_error(fault.settings.get("address", 0) % board.vram.size, bool(fault.settings.get("fatal")))
    elif block == "sdma":
        for candidate in (q for queues in board.sdma.queues for q in queues):
            if candidate.name == queue or (queue is None and candidate.enabled):
                candidate.interrupt(ih.GFX_11_0_0__SRCID__SDMA_SRAM_ECC)
                candidate.stop("an uncorrectable error of the engine's own memory")
    elif block == "cp":
        for candidate in board.mec.queues.values():
            if candidate.name == queue or (queue is None and candidate.active):
                candidate.interrupt(ih.GFX_11_0_0__SRCID__CP_ECC_ERROR, "CP_ECC_ERROR_INT_ENABLE")
                candidate.stop("an uncorrectable error of the micro engine's own memory")
    else:
        raise ValueError(f"block={block!r}: an ecc-error is of umc, sdma or cp")


register("ecc-error", "ECC finds an error: of video memory (block umc, at an address; fatal: the bytes are lost), or "
         "of an engine's own memory (block sdma or cp, of a queue), which hangs", "block", "address", "fatal", "queue",
         at_once=_strike)
