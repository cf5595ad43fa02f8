"""MES, the micro engine scheduler: a ring of frames that map queues, and the KIQ beside it.

Facts: Linux 6.1, mes_v11_0.c (mes_v11_0_enable: start addresses while the pipes' resets are on, then ACTIVE;
mes_v11_0_queue_init_register: the KIQ on pipe 1; mes_v11_0_kiq_enable_queue: the scheduler's ring on pipe 0, by
MAP_QUEUES with engine 5; mes_v11_0_submit_pkt_and_poll_completion: the fence at the end of each frame; CP_MES_GP3_LO:
the version), amdgpu_mes.c (amdgpu_mes_add_hw_queue: what the fields of ADD_QUEUE hold; process_va_end is in pages),
mes_v11_api_def.h through :mod:`mock.mes_frames`.

Micro engine 3 has a pipe 0, whose queue holds frames, and a pipe 1, whose queue holds PM4 with the KIQ's rights once
RLC_CP_SCHEDULERS names it. A pipe runs when its firmware is loaded (by the PSP, or put at CP_MES_IC_BASE), its start
address was written in reset, its RESET and MES_HALT are off and its ACTIVE is on.

ADD_QUEUE finds a VMID for its process among those of SET_HW_RSRC, points the GC hub's context and the PASID there, and
connects the queue to the first hardware slot of its kind that is free. A queue that finds none waits: it is connected
when another goes (real firmware takes turns; so does this, in that order only). REMOVE_QUEUE, SUSPEND, RESUME and RESET
do what they say. A frame that is not understood gets no fence: the driver's wait runs out, as with firmware.

Nothing is done for: quanta, priorities, yields, aggregated doorbells, GDS, log buffers; their frames are answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from mock import mes_frames as frames
from mock.block import Block, on_read, on_write
from mock.faults import register
from mock.gmc import VMIDS, Client, Fault
from mock.hqd import DEQUEUE_DRAIN, DEQUEUE_RESET, Bank, ComputeQueue

if TYPE_CHECKING:
    from mock.board import Board
    from mock.sdma import SdmaQueue

__all__ = ["Mes", "MesQueue", "ME", "SCHED_PIPE", "KIQ_PIPE"]

ME, SCHED_PIPE, KIQ_PIPE = 3, 0, 1
FIRMWARE = {SCHED_PIPE: ("CP_MES", "RS64_MES"), KIQ_PIPE: ("CP_MES_KIQ", "RS64_KIQ")}
START = ("CP_MES_PRGRM_CNTR_START", "CP_MES_PRGRM_CNTR_START_HI")
VERSIONS = {SCHED_PIPE: 2 << 12 | 0x47, KIQ_PIPE: 2 << 12 | 0x6C}
"""CP_MES_GP3_LO: firmware 11:0, API 23:12 (amdgpu_mes.h); API 2 reads wptr_addr as VMID 0's. The figures are ours."""
M32 = 0xFFFFFFFF
TBA_SHIFT = 8

register("mes-silent", "the scheduler takes a frame and never answers", "opcode")


class NotUnderstood(Exception):
    """A frame that gets no fence."""


@dataclass
class Entry:
    """A queue that ADD_QUEUE brought."""

    frame: Any
    process: int
    gang: int
    doorbell: int
    kind: int
    slot: ComputeQueue | SdmaQueue | None = None
    suspended: bool = False
    legacy: Bank | None = None


@dataclass
class Process:
    context: int
    pasid: int
    page_table: int
    va: tuple[int, int]
    cntl: int
    trap: tuple[int, int]
    vmid: int | None = None
    entries: list[Entry] = field(default_factory=list)


class MesQueue(ComputeQueue):
    """A queue of micro engine 3."""

    kind = "mes"

    def pipe_running(self) -> bool:
        return bool(self.board.mes.pipe_running(self.pipe))

    def interrupt_enabled(self, name: str) -> bool:
        return bool(self.board.regs.field(("CPC_INT_CNTL", (self.me, self.pipe)), name))

    def _work(self) -> None:
        if self.pipe == KIQ_PIPE:
            super()._work()
            return
        while self.read != self.write and self.runnable():
            if self.write - self.read > self.words or self.write < self.read:
                self.stop(f"write pointer {self.write:#x} and read pointer {self.read:#x} do not fit a ring of "
                          f"{self.words:#x} dwords")
                break
            if self.write - self.read < frames.FRAME_WORDS:
                self.board.note("mes-truncated", f"{self.name}: the write pointer {self.write:#x} stands within a "
                                                 "frame")
                self._stalled = True
                break
            try:
                self.check()
                words = self._fetch(frames.FRAME_WORDS)
                self.board.mes.frame(self, b"".join(word.to_bytes(4, "little") for word in words))
            except Fault as error:
                self.stop(str(error))
                break
            self.read += frames.FRAME_WORDS
        self.report_read()


class Mes(Block):
    """``board.mes``."""

    ip = "GC"
    banked: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({
        "pipe": (*START, "CP_MES_GP3_LO", "CP_MES_IC_BASE_LO", "CP_MES_IC_BASE_HI")})
    reset_values: ClassVar[Mapping[str, int]] = MappingProxyType({"CP_MES_CNTL": 0x40000000})

    def __init__(self, board: Board) -> None:
        super().__init__(board)
        self.queues = {(ME, pipe, 0): MesQueue(board.mec, (ME, pipe, 0)) for pipe in (SCHED_PIPE, KIQ_PIPE)}
        board.mec.others.update(self.queues)
        self._clear()

    def _clear(self) -> None:
        self.resources: frames.SET_HW_RESOURCES | None = None
        self.processes: dict[int, Process] = {}         # by the address of their contexts
        self._told: set[tuple[str, int]] = set()
        self._started: set[int] = set()

    def reset(self) -> None:
        self._clear()

    # ---- pipes

    def pipe_running(self, pipe: int) -> bool:
        board, cntl = self.board, self.board.regs.register("CP_MES_CNTL")
        value = board.regs["CP_MES_CNTL"]
        loaded = any(kind in board.psp.loaded for kind in FIRMWARE[pipe]) \
            or board.regs["CP_MES_IC_BASE_LO", (ME, pipe)]
        return bool(board.psp.autoload_done and loaded and pipe in self._started and not cntl["MES_HALT"].get(value)
                    and cntl[f"MES_PIPE{pipe}_ACTIVE"].get(value) and not cntl[f"MES_PIPE{pipe}_RESET"].get(value))

    @on_write("CP_MES_CNTL")
    def control(self, value: int) -> None:
        cntl = self.board.regs.register("CP_MES_CNTL")
        for (_me, pipe, _queue), queue in self.queues.items():
            if cntl[f"MES_PIPE{pipe}_RESET"].get(value):
                self._started.discard(pipe)
                self._told -= {(name, pipe) for name in START}
                if queue.posted:
                    queue.engine.abort()
                queue.reset()
            elif {(name, pipe) for name in START} <= self._told:
                self._started.add(pipe)
                self.board.regs["CP_MES_GP3_LO", (ME, pipe)] = VERSIONS[pipe]
            elif cntl[f"MES_PIPE{pipe}_ACTIVE"].get(value) and pipe not in self._started:
                self.board.note("mes-start", f"pipe {pipe} of MES was let run, but its start address was not written "
                                             "while it was in reset")
            queue.attention = True
            queue.kick()

    @on_write(*START)
    def start_address(self, value: int, name: str, bank: tuple[int, int]) -> None:
        if bank[0] == ME:
            self._told.add((name, bank[1]))

    @on_read("CP_MES_GP3_LO")
    def version(self, name: str, bank: tuple[int, int]) -> int:
        return VERSIONS.get(bank[1], 0) if bank[0] == ME and self.pipe_running(bank[1]) else 0

    # ---- frames

    def frame(self, queue: MesQueue, data: bytes) -> None:
        """One frame; its fence when it was understood. :raises Fault:"""
        header = frames.Header.from_buffer_copy(data)
        name = next((name for name, number in frames.OPCODES.items() if number == header.opcode), None)
        faults = self.board.faults
        if faults.any:
            faults.event("mes-frame", opcode=header.opcode)
            queue.check()
            if faults.strike("mes-silent", opcode=header.opcode):
                return
        try:
            if header.type != frames.TYPE_SCHEDULER or header.dwsize != frames.FRAME_WORDS or name is None:
                raise NotUnderstood(f"type {header.type}, opcode {header.opcode}, {header.dwsize} dwords: no frame")
            frame = frames.LAYOUTS[name].from_buffer_copy(data)
            self.board.counters["mes_frames"] += 1
            getattr(self, "do_" + name.lower(), self._answer)(queue, frame)
        except NotUnderstood as why:
            self.board.note("mes-frame", f"{name or 'frame'}: {why}")
            return
        if frame.status.fence_addr:
            self._write(frame.status.fence_addr, frame.status.fence_value, 8)

    def _write(self, address: int, value: int, nbytes: int = 4) -> None:
        self.board.memory.write("gc", 0, address, (value & (1 << 8 * nbytes) - 1).to_bytes(nbytes, "little"),
                                client=Client.CPC)

    def _answer(self, queue: MesQueue, frame: Any) -> None:
        """Frames about what is not modelled."""

    def do_set_hw_rsrc(self, queue: MesQueue, frame: Any) -> None:
        self.resources = frame

    def _resources(self) -> Any:
        if self.resources is None:
            raise NotUnderstood("SET_HW_RSRC comes first")
        return self.resources

    # ---- queues come and go

    def do_add_queue(self, queue: MesQueue, frame: Any) -> None:
        resources = self._resources()
        if frame.queue_type > frames.QUEUE_SDMA:
            raise NotUnderstood(f"queue type {frame.queue_type}")
        legacy = None
        if frame.flags & frames.ADD_LEGACY:
            legacy = (0 if frame.queue_type == frames.QUEUE_GFX else 1, frame.pipe_id, frame.queue_id)
        if any(entry.doorbell == frame.doorbell_offset for entry in self._entries()):
            raise NotUnderstood(f"doorbell {frame.doorbell_offset:#x} is another queue's already")
        process = self.processes.get(frame.process_context_addr)
        if process is None:
            process = Process(frame.process_context_addr, frame.process_id, frame.page_table_base_addr,
                              (frame.process_va_start, frame.process_va_end), frame.vm_context_cntl,
                              (frame.trap_handler_addr if frame.flags & frames.ADD_TRAP else 0, frame.tma_addr))
            self.processes[frame.process_context_addr] = process
        entry = Entry(frame, frame.process_context_addr, frame.gang_context_addr, frame.doorbell_offset,
                      frame.queue_type, suspended=bool(frame.flags & frames.ADD_GANG_SUSPENDED), legacy=legacy)
        process.entries.append(entry)
        if legacy is None and process.vmid is None:
            process.vmid = self._free_vmid(resources.vmid_mask_gfxhub)
            if process.vmid is not None:
                self._point(process)
        self._connect(entry)

    def _entries(self) -> list[Entry]:
        return [entry for process in self.processes.values() for entry in process.entries]

    def _free_vmid(self, mask: int) -> int | None:
        taken = {process.vmid for process in self.processes.values()}
        return next((vmid for vmid in range(1, VMIDS) if mask >> vmid & 1 and vmid not in taken), None)

    def _point(self, process: Process) -> None:
        """The VMID's page tables, PASID and trap handler, and nothing of its last owner in the TLB."""
        board, vmid = self.board, process.vmid
        name = f"GCVM_CONTEXT{vmid}_"
        for kind, value in (("BASE", process.page_table), ("START", process.va[0]), ("END", process.va[1])):
            board.write_register(f"{name}PAGE_TABLE_{kind}_ADDR_LO32", value & M32)
            board.write_register(f"{name}PAGE_TABLE_{kind}_ADDR_HI32", value >> 32)
        cntl = board.regs.register(name + "CNTL")
        board.write_register(name + "CNTL", cntl.replace(process.cntl, ENABLE_CONTEXT=1))
        board.regs[f"IH_VMID_{vmid}_LUT"] = process.pasid & 0xFFFF
        tba, tma = process.trap
        enable = board.regs.register("SQ_SHADER_TBA_HI")
        board.regs["SQ_SHADER_TBA_LO", vmid] = tba >> TBA_SHIFT & M32
        board.regs["SQ_SHADER_TBA_HI", vmid] = enable.pack(ADDR_HI=tba >> 32 + TBA_SHIFT & 0xFF, TRAP_EN=int(bool(tba)))
        board.regs["SQ_SHADER_TMA_LO", vmid] = tma >> TBA_SHIFT & M32
        board.regs["SQ_SHADER_TMA_HI", vmid] = tma >> 32 + TBA_SHIFT & 0xFF
        board.memory.hubs["gc"].forget(1 << (vmid or 0), (1 << 36) - 1, True, entries=True, walks=True)

    def _slot(self, entry: Entry) -> ComputeQueue | SdmaQueue | None:
        """A free hardware queue of the entry's kind, or the one that the driver named."""
        resources, board = self._resources(), self.board
        taken = {id(other.slot) for other in self._entries() if other.slot is not None}
        if entry.kind == frames.QUEUE_SDMA:
            engines = zip(board.sdma.queues, resources.sdma_hqd_mask, strict=True)
            candidates: list[Any] = [queue for queues, mask in engines for q, queue in enumerate(queues)
                                     if mask >> q & 1 and not queue.enabled]
        elif entry.legacy is not None:
            named = board.mec.find(entry.legacy)
            if named is None or named.active:
                raise NotUnderstood(f"the queue {entry.legacy} is not there, or active already")
            return named
        else:
            masks = resources.gfx_hqd_mask if entry.kind == frames.QUEUE_GFX else resources.compute_hqd_mask
            me = 0 if entry.kind == frames.QUEUE_GFX else 1
            found = [board.mec.find((me + (pipe // 4 if me else 0), pipe % 4 if me else pipe, n))
                     for pipe, mask in enumerate(masks) for n in range(8) if mask >> n & 1]
            candidates = [queue for queue in found if queue is not None and not queue.active]
        return next((queue for queue in candidates if id(queue) not in taken), None)

    def _connect(self, entry: Entry) -> None:
        process = self.processes[entry.process]
        if entry.suspended or entry.slot is not None or (entry.legacy is None and process.vmid is None):
            return
        slot = self._slot(entry)
        if slot is None:
            self.board.note("mes-oversubscribed", f"the queue of doorbell {entry.doorbell:#x} waits for a hardware "
                                                  "queue")
            return
        entry.slot = slot
        vmid = process.vmid if entry.legacy is None else None
        if entry.kind == frames.QUEUE_SDMA:
            self.board.sdma.map_queue(slot, entry.frame.mqd_addr, vmid or 0)
            return
        assert isinstance(slot, ComputeQueue)
        slot.load_mqd(slot.read_mqd(entry.frame.mqd_addr, 0))
        if vmid is not None:
            slot.set_hqd("VMID", vmid)
        slot.set_hqd("ACTIVE", 1)
        slot.activate()
        if entry.frame.wptr_addr:
            slot.engine.post(self.board.mec.poll, slot, entry.frame.wptr_addr, 0)

    def _disconnect(self, queue: MesQueue, entry: Entry, kind: int) -> None:
        """Out of its slot, its place saved in the MQD; waits for what must end."""
        slot, entry.slot = entry.slot, None
        if slot is None:
            return
        if entry.kind == frames.QUEUE_SDMA:
            self.board.sdma.unmap_queue(slot, entry.frame.mqd_addr)
            return
        assert isinstance(slot, ComputeQueue)
        slot.request_dequeue(kind)
        queue.wait(lambda: not slot.active)

    def _forget(self, entry: Entry) -> None:
        process = self.processes[entry.process]
        process.entries.remove(entry)
        if not process.entries:
            del self.processes[entry.process]
        for waiting in self.processes.values():         # a VMID or a slot may be free now
            if waiting.vmid is None and any(other.legacy is None for other in waiting.entries):
                waiting.vmid = self._free_vmid(self._resources().vmid_mask_gfxhub)
                if waiting.vmid is not None:
                    self._point(waiting)
        for other in self._entries():
            self._connect(other)

    def do_remove_queue(self, queue: MesQueue, frame: Any) -> None:
        if frame.flags & (frames.REMOVE_LEGACY | frames.REMOVE_LEGACY_GFX | frames.REMOVE_PREEMPT_GFX):
            self._remove_legacy(queue, frame)
            return
        for entry in self._entries():
            if entry.doorbell == frame.doorbell_offset and entry.gang == frame.gang_context_addr:
                self._disconnect(queue, entry, DEQUEUE_DRAIN)
                self._forget(entry)
                return
        raise NotUnderstood(f"no queue of gang {frame.gang_context_addr:#x} has doorbell {frame.doorbell_offset:#x}")

    def _remove_legacy(self, queue: MesQueue, frame: Any) -> None:
        """A queue that the driver mapped by itself, or by ADD_QUEUE with map_legacy_kq."""
        gfx = frame.flags & (frames.REMOVE_LEGACY_GFX | frames.REMOVE_PREEMPT_GFX) \
            or frame.queue_type == frames.QUEUE_GFX
        target = self.board.mec.find((0 if gfx else 1, frame.pipe_id, frame.queue_id))
        if target is None:
            raise NotUnderstood(f"there is no queue {frame.pipe_id}.{frame.queue_id}")
        target.request_dequeue(DEQUEUE_DRAIN)
        queue.wait(lambda: not target.active)
        if frame.flags & frames.REMOVE_PREEMPT_GFX:
            self._write(frame.tf_addr, frame.tf_data)
        for entry in self._entries():
            if entry.slot is target:
                entry.slot = None
                self._forget(entry)

    # ---- gangs

    def _gang(self, everyone: bool, gang: int) -> list[Entry]:
        return [entry for entry in self._entries() if entry.legacy is None and (everyone or entry.gang == gang)]

    def do_suspend(self, queue: MesQueue, frame: Any) -> None:
        for entry in self._gang(bool(frame.flags & frames.SUSPEND_ALL), frame.gang_context_addr):
            entry.suspended = True
            self._disconnect(queue, entry, DEQUEUE_DRAIN)
        if frame.suspend_fence_addr:
            self._write(frame.suspend_fence_addr, frame.suspend_fence_value)

    def do_resume(self, queue: MesQueue, frame: Any) -> None:
        for entry in self._gang(bool(frame.flags & frames.RESUME_ALL), frame.gang_context_addr):
            entry.suspended = False
            self._connect(entry)

    def do_reset(self, queue: MesQueue, frame: Any) -> None:
        """A queue, or all that hang; ``doorbell_offset_addr`` is told whom it met, one dword each."""
        if frame.flags & frames.RESET_QUEUE_ONLY:
            chosen = [entry for entry in self._entries() if entry.doorbell == frame.doorbell_offset]
        elif frame.flags & (frames.RESET_HUNG | frames.RESET_DETECT_ONLY):
            chosen = [entry for entry in self._entries() if entry.kind == frame.queue_type and self._hangs(entry)]
            for i, entry in enumerate(chosen):
                self._write(frame.doorbell_offset_addr + 4 * i, entry.doorbell)
        elif frame.flags & frames.RESET_LEGACY_GFX:
            for pipe, number in ((frame.pipe_id_lp, frame.queue_id_lp), (frame.pipe_id_hp, frame.queue_id_hp)):
                target = self.board.mec.find((0, pipe, number))
                if target is not None:
                    target.request_dequeue(DEQUEUE_RESET)
            return
        else:
            chosen = self._gang(False, frame.gang_context_addr)
        if not frame.flags & frames.RESET_DETECT_ONLY:
            for entry in chosen:
                self._disconnect(queue, entry, DEQUEUE_RESET)
                entry.suspended = True

    @staticmethod
    def _hangs(entry: Entry) -> bool:
        slot = entry.slot
        return slot is not None and bool(slot.hung if isinstance(slot, ComputeQueue) else slot.exception)

    # ---- the rest

    def do_update_root_page_table(self, queue: MesQueue, frame: Any) -> None:
        process = self.processes.get(frame.process_context_addr)
        if process is None:
            raise NotUnderstood(f"no process has its context at {frame.process_context_addr:#x}")
        process.page_table = frame.page_table_base_addr
        if process.vmid is not None:
            self._point(process)

    def do_misc(self, queue: MesQueue, frame: Any) -> None:
        board, data = self.board, frame.data
        if frame.opcode == frames.MISC_WRITE_REG:
            board.write_dword(data[0], data[1])
        elif frame.opcode == frames.MISC_READ_REG:
            self._write(data[1] | data[2] << 32, board.read_dword(data[0]))
        elif frame.opcode == frames.MISC_WAIT_REG_MEM:
            operation, reference, mask, first, second = data[:5]
            if operation == frames.WRITE_WAIT_REG:
                board.write_dword(first, reference)
                first = second
            queue.wait(lambda: board.read_dword(first) & mask == reference & mask)
        elif frame.opcode == frames.MISC_INV_GART:
            board.memory.hubs["gc"].forget(1, (1 << 36) - 1, True, entries=True, walks=True)
            board.counters["tlb_flushes"] += 1
        elif frame.opcode == frames.MISC_QUERY_STATUS:
            resources = self._resources()
            if resources.query_status_fence:
                self._write(resources.query_status_fence, data[0])
        else:
            raise NotUnderstood(f"there is no operation {frame.opcode}")
