"""The graphics pipes' rings: what a kernel driver's bring-up and ring tests need of them, no drawing.

Facts: Linux 6.1, gfx_v11_0.c (gfx_v11_0_cp_gfx_resume: ring 0 and 1 by CP_RBn_*, activated by CP_RBn_ACTIVE;
gfx_v11_0_gfx_mqd_init: the same by CP_GFX_HQD_* and MQD, mapped by MAP_QUEUES with engine 4; gfx_v11_0_cp_gfx_start:
the packets that a new ring is given; gfx_v11_0_cp_gfx_set_doorbell; gfx_v11_0_set_gfx_eop_interrupt_state);
v11_structs.h.

A queue runs when the PFP's and ME's firmware are loaded, the autoload is complete, and CP_ME_CNTL halts neither.
What packets do is in :mod:`mock.graphics_pm4`.
RB_BUFSZ is the log2 of the ring's dwords, less one.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from amdrv.facts import mqd_v11
from mock.block import Block, on_write
from mock.gmc import Client, Fault
from mock.graphics_pm4 import GfxExecutor
from mock.hqd import DEQUEUE_RESET, Bank, ComputeQueue

if TYPE_CHECKING:
    from mock.board import Board

__all__ = ["GfxQueue", "GfxRing", "GFX_PIPES"]

GFX_PIPES, GFX_QUEUES = 2, 2         # gfx_v11_0.c, gfx_v11_0_sw_init: the kernel's queue and one of MES's on a pipe
FIRMWARE = ("RS64_PFP", "RS64_ME")
M32 = 0xFFFFFFFF
REGISTERS = {"PQ_WPTR_LO": "CP_GFX_HQD_WPTR", "PQ_WPTR_HI": "CP_GFX_HQD_WPTR_HI", "PQ_RPTR": "CP_GFX_HQD_RPTR",
             "PQ_BASE": "CP_GFX_HQD_BASE", "PQ_BASE_HI": "CP_GFX_HQD_BASE_HI", "VMID": "CP_GFX_HQD_VMID",
             "ACTIVE": "CP_GFX_HQD_ACTIVE", "DEQUEUE_REQUEST": "CP_GFX_HQD_DEQUEUE_REQUEST",
             "PQ_RPTR_REPORT_ADDR": "CP_GFX_HQD_RPTR_ADDR", "PQ_RPTR_REPORT_ADDR_HI": "CP_GFX_HQD_RPTR_ADDR_HI",
             "PQ_WPTR_POLL_ADDR": "CP_RB_WPTR_POLL_ADDR_LO", "PQ_WPTR_POLL_ADDR_HI": "CP_RB_WPTR_POLL_ADDR_HI",
             "PQ_DOORBELL_CONTROL": "CP_RB_DOORBELL_CONTROL", "PQ_CONTROL": "CP_GFX_HQD_CNTL"}
"""What a compute queue's CP_HQD_* register is called here."""
FIELDS = {"QUEUE_SIZE": "RB_BUFSZ", "RPTR_BLOCK_SIZE": "RB_BLKSZ", "NO_UPDATE_RPTR": "RB_NO_UPDATE"}
"""Fields of CP_HQD_PQ_CONTROL, and what they are called in CP_GFX_HQD_CNTL."""


class GfxQueue(ComputeQueue):
    """A queue of micro engine 0."""

    kind = "gfx"
    fence_offset = 4 * 510      # Linux 7.3, v11_structs.h, v11_gfx_mqd.fence_address_lo
    predicate: bool | None = None
    """What SET_PREDICATION found; None without."""

    def _name(self, name: str) -> str | None:
        return REGISTERS.get(name)

    def _key(self, register: str) -> str | tuple[str, Bank]:
        return (register, self.bank) if register.startswith(("CP_GFX", "CP_RB_DOORBELL_CONTROL")) else register

    def hqd(self, name: str) -> int:
        register = self._name(name)
        return 0 if register is None else self.board.regs[self._key(register)]

    def set_hqd(self, name: str, value: int) -> None:
        register = self._name(name)
        if register is not None:
            self.board.regs[self._key(register)] = value

    def hqd_field(self, name: str, field: str) -> int:
        register = self._name(name)
        if register is None:
            return 0
        if name == "PQ_CONTROL":
            if field not in FIELDS:
                return int(field == "PRIV_STATE" and not self.board.regs.field(self._key(register), "RB_NON_PRIV"))
            field = FIELDS[field]
        return self.board.regs.field(self._key(register), field)

    @property
    def base(self) -> int:
        return (self.hqd("PQ_BASE") | (self.hqd("PQ_BASE_HI") & 0xFF) << 32) << 8

    def executor(self) -> GfxExecutor:
        return GfxExecutor(self)

    def pipe_running(self) -> bool:
        return bool(self.board.gfxring.running)

    def interrupt_enabled(self, field: str) -> bool:
        return bool(self.board.regs.field(f"CP_INT_CNTL_RING{self.pipe}", field))

    def end_of_pipe(self) -> None:
        """Events of the graphics pipe need no buffer."""

    def read_mqd(self, address: int | None = None, vmid: int | None = None) -> Any:
        kind = mqd_v11.v11_gfx_mqd
        vmid = self.board.regs.field(("CP_GFX_MQD_CONTROL", self.bank), "VMID") if vmid is None else vmid
        where = self.mqd_address if address is None else address
        return kind.from_buffer_copy(self.board.memory.read("gc", vmid, where, 2048, client=Client.CPG))

    def load_mqd(self, mqd: Any) -> None:
        regs = self.board.regs
        for field, _kind, *_bits in mqd._fields_:
            name = str(field).upper()
            if name.startswith("CP_GFX_") and name != "CP_GFX_HQD_ACTIVE":
                regs[name, self.bank] = getattr(mqd, field)
        for name in ("CP_MQD_BASE_ADDR", "CP_MQD_BASE_ADDR_HI"):
            regs[name, self.bank] = getattr(mqd, name.lower())
        regs["CP_RB_DOORBELL_CONTROL", self.bank] = mqd.cp_rb_doorbell_control
        for name in ("CP_RB_WPTR_POLL_ADDR_LO", "CP_RB_WPTR_POLL_ADDR_HI"):
            regs[name] = getattr(mqd, name.lower())

    def save_mqd(self) -> None:
        kind = mqd_v11.v11_gfx_mqd
        vmid = self.board.regs.field(("CP_GFX_MQD_CONTROL", self.bank), "VMID")
        try:
            for field, value in (("cp_gfx_hqd_rptr", self.ring_offset), ("cp_gfx_hqd_wptr", self.write & M32),
                                 ("cp_gfx_hqd_wptr_hi", self.write >> 32)):
                self.board.memory.write("gc", vmid, self.mqd_address + getattr(kind, field).offset,
                                        value.to_bytes(4, "little"), client=Client.CPG)
        except Fault:
            self.board.note("mqd-save", f"{self.name}: where it stopped could not be saved to its MQD")


class GfxRing(Block):
    """``board.gfxring``."""

    ip = "GC"
    banked: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({
        "queue": ("CP_GFX_HQD_*", "CP_GFX_MQD_*", "CP_RB_DOORBELL_CONTROL")})
    reset_values: ClassVar[Mapping[str, int]] = MappingProxyType({"CP_RB_DOORBELL_RANGE_UPPER": 0})

    def __init__(self, board: Board) -> None:
        super().__init__(board)
        self.queues = {(0, pipe, n): GfxQueue(board.mec, (0, pipe, n))
                       for pipe in range(GFX_PIPES) for n in range(GFX_QUEUES)}
        board.mec.others.update(self.queues)
        self.context: dict[int, int] = {}
        """Context registers by dword, as packets set them: nothing here draws by them."""

    def reset(self) -> None:
        self.context.clear()

    @property
    def running(self) -> bool:
        board = self.board
        if not board.psp.autoload_done or not all(kind in board.psp.loaded for kind in FIRMWARE):
            return False
        return not any(board.regs.field("CP_ME_CNTL", field) for field in ("ME_HALT", "PFP_HALT"))

    @on_write("CP_ME_CNTL")
    def control(self, _value: int) -> None:
        for queue in self.queues.values():
            queue.attention = True
            queue.kick()

    def reset_queues(self, masks: list[int]) -> None:
        """Of each pipe, those of a mask."""
        for (_me, pipe, n), queue in self.queues.items():
            if masks[pipe] >> n & 1 and queue.active:
                queue.request_dequeue(DEQUEUE_RESET)

    @on_write("CP_GFX_HQD_ACTIVE")
    def activate(self, value: int, name: str, bank: Bank) -> None:
        queue = self.queues.get(bank)
        if queue is None:
            self.board.note("hqd-select", f"CP_GFX_HQD_ACTIVE was written while GRBM_GFX_CNTL selects {bank}, where "
                                          "there is no graphics queue")
        elif value & 1:
            queue.activate()
        else:
            self.board.mec.drop(queue)

    @on_write("CP_GFX_HQD_DEQUEUE_REQUEST")
    def dequeue(self, value: int, name: str, bank: Bank) -> None:
        queue = self.queues.get(bank)
        if queue is not None and value & 1:
            queue.request_dequeue(1)

    @on_write("CP_GFX_HQD_WPTR")
    def write_pointer(self, value: int, name: str, bank: Bank) -> None:
        queue = self.queues.get(bank)
        if queue is not None and queue.active:
            queue.set_write(value | queue.hqd("PQ_WPTR_HI") << 32)

    # ---- rings by CP_RBn_*

    @on_write("CP_RB0_ACTIVE", "CP_RB1_ACTIVE")
    def ring_active(self, value: int, name: str) -> None:
        """The older registers' ring becomes the pipe's queue."""
        pipe = int(name[5])
        queue, regs, ring = self.queues[0, pipe, 0], self.board.regs, f"CP_RB{pipe}_"
        if not value & 1:
            self.board.mec.drop(queue)
            queue.set_hqd("ACTIVE", 0)
            return
        vmid = regs.field("CP_RB_VMID", f"RB{pipe}_VMID")
        for target, source in (("PQ_CONTROL", "CNTL"), ("PQ_BASE", "BASE"), ("PQ_BASE_HI", "BASE_HI"),
                               ("PQ_RPTR_REPORT_ADDR", "RPTR_ADDR"), ("PQ_RPTR_REPORT_ADDR_HI", "RPTR_ADDR_HI"),
                               ("PQ_WPTR_LO", "WPTR"), ("PQ_WPTR_HI", "WPTR_HI")):
            queue.set_hqd(target, regs[ring + source])
        queue.set_hqd("VMID", vmid)
        queue.set_hqd("PQ_RPTR", 0)
        queue.set_hqd("ACTIVE", 1)
        queue.activate()

    @on_write("CP_RB0_WPTR", "CP_RB1_WPTR")
    def ring_write(self, value: int, name: str) -> None:
        pipe = int(name[5])
        queue = self.queues[0, pipe, 0]
        if queue.active:
            queue.set_write(value | self.board.regs[f"CP_RB{pipe}_WPTR_HI"] << 32)
