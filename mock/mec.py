"""The compute micro engines: pipes, hardware queue slots, doorbells, resets.

Facts: Linux 6.1, gfx_v11_0.c (config_gfx_rs64: start address, then a pulse of the pipe's reset; cp_compute_enable;
cp_set_doorbell_range), amdgpu_amdkfd_gfx_v11.c (hqd_load, hqd_destroy). What a queue does is in :mod:`mock.hqd`.

Micro engine 1 and 2 have four pipes of eight queues each. A pipe runs when its firmware is loaded and the autoload is
complete, a start address was latched by the falling edge of its RESET in CP_MEC_RS64_CNTL, MEC_HALT is off and its
ACTIVE bit is on. The queues of the graphics pipes (:mod:`mock.gfxring`) and of the scheduler (:mod:`mock.mes`) are
``others``: doorbells, resets and queue packets reach them from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from amdrv.facts import mqd_v11
from mock.block import Block, on_write
from mock.faults import register
from mock.gmc import Client, Fault
from mock.hqd import DEQUEUE_RESET, Bank, ComputeQueue, Dequeued
from mock.packets import Decoded
from mock.pm4 import Left

if TYPE_CHECKING:
    from mock.board import Board

__all__ = ["ComputeQueue", "Dequeued", "Mec", "MES", "PIPES", "QUEUES"]

MES, PIPES, QUEUES = (1, 2), 4, 8           # GRBM_GFX_CNTL.MEID of the compute micro engines
FIRMWARE = ("RS64_MEC",)
START = ("CP_MEC_RS64_PRGRM_CNTR_START", "CP_MEC_RS64_PRGRM_CNTR_START_HI")
M32 = 0xFFFFFFFF
OWN_DOORBELLS = 0x2000              # bytes, before the first process's slice: two pages each (kfd_doorbell.c)


register("dequeue-ignored", "a queue does not leave the hardware on request (CP_HQD_DEQUEUE_REQUEST); a reset of its "
         "pipe takes it off", "queue")
register("mec-dead", "the compute micro engines execute nothing, until the card is reset")


class Mec(Block):
    ip = "GC"
    banked: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({
        "queue": ("CP_HQD_*", "CP_MQD_*", "COMPUTE_*", "SPI_COMPUTE_QUEUE_RESET"),
        "pipe": (*START, "CPC_INT_CNTL")})
    reset_values: ClassVar[Mapping[str, int]] = MappingProxyType({      # gc_11_0_0_default.h
        "CP_MEC_RS64_CNTL": 0x40000000, "CP_MEC_CNTL": 0x50000000, "CP_MEC_DOORBELL_RANGE_LOWER": 0x110,
        "CP_MEC_DOORBELL_RANGE_UPPER": 0xFFC, "CP_HQD_PERSISTENT_STATE": 0x0BE05501, "CP_HQD_PQ_CONTROL": 0x00308509,
        "CP_HQD_IB_CONTROL": 0x00300000, "CP_HQD_EOP_CONTROL": 0x00000006, "CP_HQD_EOP_RPTR": 0x40000000,
        "CP_HQD_EOP_WPTR": 0x00008000, "COMPUTE_PIPELINESTAT_ENABLE": 1, "COMPUTE_MISC_RESERVED": 7,
        "COMPUTE_DISPATCH_INTERLEAVE": 0x40, **{f"COMPUTE_STATIC_THREAD_MGMT_SE{n}": M32 for n in range(8)}})

    def __init__(self, board: Board) -> None:
        super().__init__(board)
        self.queues: dict[Bank, ComputeQueue] = {
            (me, pipe, queue): ComputeQueue(self, (me, pipe, queue))
            for me in MES for pipe in range(PIPES) for queue in range(QUEUES)}
        self.others: dict[Bank, ComputeQueue] = {}
        """Queues of other engines, put here by their blocks."""
        names = board.regs.names
        self.compute_names = frozenset(names.search("COMPUTE_*"))
        self.mqd_registers = _mqd_registers(self.compute_names | frozenset(names.search("CP_?QD_*")))
        self.started: set[tuple[int, int]] = set()      # pipes with a latched start address
        self.noted: set[tuple[int, int]] = set()
        self.resources: Decoded | None = None
        self.left: dict[int, tuple[int, list[Left]]] = {}
        """By MQD: the ring offset and the indirect buffers in which a preempted queue goes on (silicon keeps them in
        the MQD itself, in fields whose meaning is the firmware's)."""

    # ---- pipes

    def pipe_running(self, me: int, pipe: int) -> bool:
        value = self.board.regs["CP_MEC_RS64_CNTL"]
        cntl = self.board.regs.register("CP_MEC_RS64_CNTL")
        psp = self.board.psp
        why = ""
        if not psp.autoload_done or not all(kind in psp.loaded for kind in FIRMWARE):
            why = f"its firmware is not there: loaded {sorted(psp.loaded)}, autoload done: {psp.autoload_done}"
        elif cntl["MEC_HALT"].get(value):
            why = "MEC_HALT is on"
        elif cntl[f"MEC_PIPE{pipe}_RESET"].get(value):
            why = f"MEC_PIPE{pipe}_RESET is on"
        elif not cntl[f"MEC_PIPE{pipe}_ACTIVE"].get(value):
            why = f"MEC_PIPE{pipe}_ACTIVE is off"
        elif self.board.faults.active("mec-dead"):
            why = "the micro engine stands still until the card is reset, by an injected fault"
        elif (me, pipe) not in self.started:
            why = ("no start address was latched: CP_MEC_RS64_PRGRM_CNTR_START(_HI) of the pipe, then a pulse of "
                   f"MEC_PIPE{pipe}_RESET")
        if why and (me, pipe) not in self.noted:
            self.noted.add((me, pipe))
            self.board.note("mec-off", f"micro engine {me}, pipe {pipe} does not run: {why}")
        if not why:
            self.noted.discard((me, pipe))
        return not why

    @on_write("CP_MEC_RS64_CNTL")
    def control(self, value: int) -> None:
        cntl = self.board.regs.register("CP_MEC_RS64_CNTL")
        for pipe in range(PIPES):
            held = bool(cntl[f"MEC_PIPE{pipe}_RESET"].get(value))
            for me in MES:
                if held:
                    self.started.discard((me, pipe))
                    for queue in range(QUEUES):
                        self.drop(self.queues[me, pipe, queue])
                elif pipe in self._held and self._told.issuperset({(name, me, pipe) for name in START}):
                    self.started.add((me, pipe))
            if held:
                self._held.add(pipe)
            else:
                self._held.discard(pipe)
        self.noted.clear()
        self._astray(value)
        for queue_of in self.queues.values():
            queue_of.attention = True
            queue_of.kick()

    def _astray(self, value: int) -> None:
        """A pipe of micro engine 1 that is let run without its start address executes whatever is there."""
        cntl = self.board.regs.register("CP_MEC_RS64_CNTL")
        if not self.board.psp.autoload_done or cntl["MEC_HALT"].get(value):
            return
        for pipe in range(PIPES):
            if cntl[f"MEC_PIPE{pipe}_ACTIVE"].get(value) and not cntl[f"MEC_PIPE{pipe}_RESET"].get(value) \
                    and (MES[0], pipe) not in self.started:
                self.board.note("mec-start", f"micro engine 1, pipe {pipe} was let run, but no start address was "
                                             "latched (CP_MEC_RS64_PRGRM_CNTR_START and _HI, then a pulse of its "
                                             "reset)")

    _held: set[int]                             # pipes in reset
    _told: set[tuple[str, int, int]]            # (register, micro engine, pipe) of start addresses written since reset

    @on_write(*START)
    def start_address(self, value: int, name: str, bank: tuple[int, int]) -> None:
        """Where the firmware begins. Its value is the firmware's own business; after a reset it is not right."""
        self._told.add((name, *bank))

    def drop(self, queue: ComputeQueue) -> None:
        if queue.posted:
            queue.engine.abort()
        queue.reset()

    # ---- queues

    def everyone(self) -> Iterator[ComputeQueue]:
        yield from self.queues.values()
        yield from self.others.values()

    def find(self, bank: Any) -> ComputeQueue | None:
        return self.queues.get(bank) or self.others.get(bank)

    def _queue(self, bank: Any) -> ComputeQueue | None:
        queue = self.find(bank)
        if queue is None:
            self.board.note("hqd-select", "a queue register was written while GRBM_GFX_CNTL selects micro engine, pipe "
                                          f"and queue {bank}, where there is no compute queue")
        return queue

    @on_write("CP_HQD_ACTIVE")
    def activate(self, value: int, name: str, bank: Bank) -> None:
        queue = self._queue(bank)
        if queue is None:
            return
        if value & 1:
            queue.activate()
        else:
            self.drop(queue)

    @on_write("CP_HQD_DEQUEUE_REQUEST")
    def dequeue(self, value: int, name: str, bank: Bank) -> None:
        queue = self._queue(bank)
        kind = self.board.regs.register("CP_HQD_DEQUEUE_REQUEST")["DEQUEUE_REQ"].get(value)
        if queue is not None and kind:
            queue.request_dequeue(kind)

    @on_write("SPI_COMPUTE_QUEUE_RESET")
    def spi_reset(self, value: int, name: str, bank: Bank) -> None:
        """The queue's waves are killed."""
        queue = self.find(bank)
        if queue is not None and value & 1 and queue.active and queue.dispatching:
            queue.engine.abort()
            queue.dispatching = False
        self.board.regs["SPI_COMPUTE_QUEUE_RESET", bank] = 0

    @on_write("CP_HQD_PQ_WPTR_LO")
    def write_pointer(self, value: int, name: str, bank: Bank) -> None:
        """Rings without a doorbell."""
        queue = self.find(bank)
        if queue is not None and queue.active:
            queue.set_write(value | queue.hqd("PQ_WPTR_HI") << 32)

    @on_write("CP_HQD_PQ_RPTR")
    def read_pointer(self, value: int, name: str, bank: Bank) -> None:
        queue = self.find(bank)
        if queue is not None and not queue.active:
            queue.read = value

    @on_write("CP_PQ_WPTR_POLL_CNTL1")
    def poll_write_pointers(self, value: int) -> None:
        """One look at the write pointers in memory, for the queues of the mask (hqd_load_v11)."""
        for (me, pipe, index), queue in self.queues.items():
            if me == MES[0] and value >> pipe * QUEUES + index & 1 and queue.active:
                queue.engine.post(self.poll, queue)

    @property
    def polling(self) -> bool:
        """CP looks at write pointers in memory by itself, too."""
        return bool(self.board.regs.field("CP_PQ_WPTR_POLL_CNTL", "EN"))

    def poll(self, queue: ComputeQueue, address: int | None = None, vmid: int | None = None) -> None:
        """Take a queue's write pointer from memory: where its HQD says, or a packet."""
        if address is None:
            address = queue.hqd("PQ_WPTR_POLL_ADDR") & ~3 | (queue.hqd("PQ_WPTR_POLL_ADDR_HI") & 0xFFFF) << 32
        try:
            value = int.from_bytes(self.board.memory.read("gc", queue.vmid if vmid is None else vmid, address, 8,
                                                           client=Client.CPC, poll=True), "little")
        except Fault as error:
            queue.stop(f"the write pointer cannot be polled: {error}")
            return
        if not queue.aql:
            queue.set_write(value)
        elif value:
            queue.set_write(value - 1)

    def doorbell(self, offset: int, value: int, width: int) -> None:
        """A doorbell that NBIO leads to CP; ``offset`` in bytes of BAR2, ``value`` the write pointer in dwords."""
        inside = {kind: self._doorbell_range(kind) for kind in ("MEC", "RB")}
        if offset >= OWN_DOORBELLS:
            # A process's slice. Linux leaves the range at its own queues' (gfx_v11_0_cp_set_doorbell_range) while KFD's
            # lie in pages beyond (kfd_doorbell.c), and they work on silicon: there CP looks at no range.
            inside = dict.fromkeys(inside, (offset, offset))
        if not any(low <= offset <= high for low, high in inside.values()):
            low, high = inside["MEC"]
            self.board.note("doorbell-range", f"doorbell at byte {offset:#x} is outside of CP_MEC_DOORBELL_RANGE "
                                              f"{low:#x}..{high:#x}; CP does not see it")
            return
        for queue in self.everyone():
            low, high = inside["MEC" if queue.me else "RB"]
            if not low <= offset <= high or 4 * queue.hqd_field("PQ_DOORBELL_CONTROL", "DOORBELL_OFFSET") != offset \
                    or not queue.hqd_field("PQ_DOORBELL_CONTROL", "DOORBELL_EN"):
                continue
            if queue.active:
                if width == 4:
                    self.board.note("doorbell-width", f"{queue.name}: a doorbell of 32 bits leaves the upper half of "
                                                      "the write pointer as it was")
                    value |= queue.write & ~M32
                queue.set_write(value)
                if self.polling:
                    queue.engine.post(self.poll, queue)
                return
        if not self.board.mes.rung(offset):
            self.board.note("doorbell-unattached", f"doorbell at byte {offset:#x}: no active queue has it enabled")

    def _doorbell_range(self, kind: str) -> tuple[int, int]:
        """First and last byte of the doorbells that CP takes for compute (MEC) or graphics (RB) queues."""
        low, high = (self.board.regs[f"CP_{kind}_DOORBELL_RANGE_{end}"] for end in ("LOWER", "UPPER"))
        return low & 0x0FFFFFFC, high & 0x0FFFFFFC

    def by_doorbell(self, offset: int) -> ComputeQueue | None:
        """The active queue with a doorbell, by its dword."""
        for queue in self.everyone():
            if queue.active and queue.hqd_field("PQ_DOORBELL_CONTROL", "DOORBELL_OFFSET") == offset:
                return queue
        return None

    # ---- as a whole

    @property
    def busy(self) -> bool:
        return any(queue.posted or (queue.hung is not None and queue.active) for queue in self.everyone())

    @property
    def dispatching(self) -> bool:
        return any(queue.dispatching for queue in self.everyone())

    def soft_reset(self) -> None:
        """GRBM_SOFT_RESET of CP: every queue is gone, with its registers; pipes wait for their firmware to be started
        again."""
        for queue in self.everyone():
            queue.engine.abort()
            queue.reset()
        for pattern in ("CP_HQD_*", "CP_MQD_*", "COMPUTE_*", "CP_GFX_HQD_*", "CP_GFX_MQD_*"):
            self.board.regs.forget(pattern)
        self.started.clear()

    def reset_vmids(self, vmids: int) -> None:
        for queue in self.everyone():
            if queue.active and (vmids >> queue.vmid & 1):
                queue.request_dequeue(DEQUEUE_RESET)

    def reset(self) -> None:
        self.board.faults.clear("mec-dead")
        self._held, self._told = set(), set()
        self.started.clear()
        self.noted.clear()
        self.resources = None
        self.left.clear()
        for queue in self.everyone():
            queue.reset()


def _mqd_registers(registers: frozenset[str]) -> dict[str, str]:
    """{field of the MQD: register}."""
    found = {}
    for field, *_ in mqd_v11.v11_compute_mqd._fields_:
        name = str(field).upper()
        for candidate in (name, name.removesuffix("_LO"), name.replace("_DONE_EVENTS", "_EVENTS")):
            if candidate in registers:
                found[str(field)] = candidate
                break
    return found
