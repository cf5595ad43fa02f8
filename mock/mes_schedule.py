"""Which queues MES has on the hardware: processes and their VMIDs, slots, turns.

Facts: Linux 7.3, amdgpu_mes.c and kfd_device_queue_manager.c (what ADD_QUEUE's fields hold: quanta count 100 ns,
process_va_end is in pages, wptr_addr is VMID 0's), mes_v11_api_def.h. That a queue which hangs cannot be preempted, so
that SUSPEND gets no answer and the driver asks for the hung ones, is amdgpu_gfx_reset_mes_compute's doing.

A process gets a VMID of SET_HW_RSRC's mask with its first queue and gives it back with its last. A queue is connected
to the first hardware slot of its kind that the masks leave free. What finds no VMID or no slot takes turns: a queue
with work waits until one of no higher priority is idle or has had its quantum; that one is preempted and waits in turn.
The order among equals is that of waiting. A packet in work ends first (silicon saves waves instead), so a turn may be
longer than the quantum. When queues take turns, and that gangs of several queues need not be connected at once, is
ours.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from mock import mes_frames as frames
from mock.gmc import VMIDS, Client, Fault
from mock.hqd import DEQUEUE_DRAIN, DEQUEUE_RESET, Bank, ComputeQueue
from mock.mes_entries import Debugging, Entry, NotUnderstood, Process
from mock.mes_log import IDLE, READY, RUNNING, Log
from mock.sdma import SdmaQueue

if TYPE_CHECKING:
    from mock.board import Board

__all__ = ["Schedule"]

M32 = 0xFFFFFFFF
TBA_SHIFT = 8
PERIOD, LONGEST_PERIOD = 1e-3, 50e-3    # between looks at who waits, while there is work and while there is none
Wait = Callable[[Callable[[], bool]], None]


class Schedule:
    """``board.mes.schedule``. Its methods are called with the lock, :attr:`lock`."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.lock = threading.RLock()
        self.engine = board.engine("mes turns")
        self.log = Log(board)
        self.clear()

    def clear(self) -> None:
        self.resources: Any = None
        self.processes: dict[int, Process] = {}         # by the address of their contexts
        self.debugging: dict[int, Debugging] = {}       # likewise
        self.single = False                             # one process at a time
        self._orders = 0
        self._watched = False
        self._wake = threading.Event()
        self.log.clear()

    # ---- looking

    def entries(self) -> list[Entry]:
        return [entry for process in self.processes.values() for entry in process.entries]

    def needed(self) -> Any:
        """SET_HW_RSRC's frame. :raises NotUnderstood:"""
        if self.resources is None:
            raise NotUnderstood("SET_HW_RSRC comes first")
        return self.resources

    def find(self, doorbell: int) -> Entry | None:
        return next((entry for entry in self.entries() if entry.doorbell == doorbell), None)

    def wake(self) -> None:
        """Whoever waits has work, perhaps. Needs no lock."""
        self._wake.set()

    def rung(self, offset: int) -> bool:
        """A doorbell (byte of BAR 2) that no hardware queue has: is it of a queue that waits, or an aggregated one?"""
        if self.resources is None or offset % 4:
            return False
        aggregated = offset // 4 in [bell for bell in self.resources.aggregated_doorbells if bell]
        entry = self.find(offset // 4)
        if entry is not None and not aggregated:
            self.log.new_work(entry.kind, entry.frame.h_queue)
        if entry is None and not aggregated:
            return False
        self.wake()
        return True

    # ---- queues come and go

    def add(self, frame: Any) -> None:
        """:raises NotUnderstood, Fault:"""
        self.needed()
        legacy = None
        if frame.flags & frames.ADD_LEGACY:
            legacy = (0 if frame.queue_type == frames.QUEUE_GFX else 1, frame.pipe_id, frame.queue_id)
        if frame.queue_type > frames.QUEUE_SDMA:
            raise NotUnderstood(f"queue type {frame.queue_type}")
        if self.find(frame.doorbell_offset) is not None:
            raise NotUnderstood(f"doorbell {frame.doorbell_offset:#x} is another queue's already")
        process = self.processes.get(frame.process_context_addr)
        if process is None:
            process = Process(frame.process_context_addr, frame.process_id, frame.page_table_base_addr,
                              (frame.process_va_start, frame.process_va_end), frame.vm_context_cntl,
                              (frame.trap_handler_addr if frame.flags & frames.ADD_TRAP else 0, frame.tma_addr))
            self.processes[frame.process_context_addr] = process
            if not frame.flags & frames.ADD_KEEP_CONTEXT:
                self.debugging.pop(process.context, None)
        self._orders += 1
        entry = Entry(frame, frame.process_context_addr, frame.gang_context_addr, frame.doorbell_offset,
                      frame.queue_type, self._orders, frame.gang_global_priority_level,
                      suspended=bool(frame.flags & frames.ADD_GANG_SUSPENDED), legacy=legacy)
        process.entries.append(entry)
        self.connect(entry)
        self.watch()

    def forget(self, entry: Entry) -> None:
        process = self.processes[entry.process]
        process.entries.remove(entry)
        if not process.entries:
            del self.processes[entry.process]
        for other in sorted(self.entries(), key=lambda other: (-other.priority, other.order)):
            self.connect(other)         # a VMID or a slot may be free now

    def connect(self, entry: Entry) -> None:
        """To a hardware queue, if there is one. :raises NotUnderstood, Fault:"""
        process = self.processes[entry.process]
        if entry.suspended or entry.slot is not None:
            return
        if entry.legacy is None and (not self._vmid(process) or (self.single and self._others_run(process))):
            return
        slot = self._slot(entry)
        if slot is None:
            if not entry.noted:
                entry.noted = True
                self.board.note("mes-oversubscribed", f"the queue of doorbell {entry.doorbell:#x} waits for a hardware "
                                                      "queue")
            return
        entry.slot, entry.since, entry.checks, entry.leaving = slot, time.monotonic(), slot.checks, False
        vmid = (process.vmid or 0) if entry.legacy is None else 0
        if isinstance(slot, SdmaQueue):
            self.board.sdma.map_queue(slot, entry.frame.mqd_addr, vmid)
        else:
            slot.load_mqd(slot.read_mqd(entry.frame.mqd_addr, 0))
            if entry.legacy is None:
                slot.set_hqd("VMID", vmid)
                # KFD's MQDs name the doorbell and leave it off (kfd_mqd_manager_v11.c, update_mqd): whoever loads them
                # switches it on, hqd_load_v11 or MES
                self.board.regs.set_fields(("CP_HQD_PQ_DOORBELL_CONTROL", slot.bank), DOORBELL_EN=1)
            slot.set_hqd("ACTIVE", 1)
            slot.activate()
        self._take_pointer(entry)
        self.log.state(entry.kind, entry.frame.h_context, RUNNING)

    def _take_pointer(self, entry: Entry) -> None:
        """What was submitted while it was not connected."""
        slot, address = entry.slot, entry.frame.wptr_addr
        if not address:
            return
        if isinstance(slot, SdmaQueue):
            value = self._pointer(entry)
            if value is not None and value > slot.write:
                slot.set_write(value, "the pointer in memory")
        elif slot is not None:
            self.board.mec.poll(slot, address, 0)

    def _pointer(self, entry: Entry) -> int | None:
        """The write pointer in memory; None where there is none."""
        try:
            return int.from_bytes(self.board.memory.read("gc", 0, entry.frame.wptr_addr, 8, client=Client.CPC,
                                                         poll=True), "little") if entry.frame.wptr_addr else None
        except Fault:
            return None

    def disconnect(self, entry: Entry, kind: int, wait: Wait) -> None:
        """Out of its slot, its place saved in the MQD; waits for what must end."""
        slot = entry.slot
        if slot is None:
            return
        if isinstance(slot, SdmaQueue):
            if kind == DEQUEUE_RESET:
                slot.engine.abort()
                slot.exception, slot.posted, slot.left = None, False, None
            self.board.sdma.unmap_queue(slot, entry.frame.mqd_addr)
        else:
            slot.request_dequeue(kind)
            wait(lambda: not slot.active)
        self._gone(entry)

    def _gone(self, entry: Entry) -> None:
        slot = entry.slot
        if slot is None:
            return
        entry.stopped_at, entry.slot, entry.leaving = slot.read, None, False
        self._orders += 1
        entry.order = self._orders
        self.log.state(entry.kind, entry.frame.h_context, READY if slot.read != slot.write else IDLE)

    def reset_queue(self, entry: Entry, wait: Wait) -> None:
        """Off the hardware whatever it does. The driver's own queue comes back, past what it had in work
        (gfx_v11_0.c, gfx_v11_0_reset_kcq goes on with the same ring)."""
        self.disconnect(entry, DEQUEUE_RESET, wait)
        if entry.legacy is None:
            entry.suspended = True
            return
        self.restart(entry.legacy, entry.frame.mqd_addr, entry.frame.wptr_addr)
        entry.slot, entry.since = self.board.mec.find(entry.legacy), time.monotonic()

    def restart(self, bank: Bank, mqd: int, pointer: int) -> None:
        """A queue of the driver anew from its MQD, empty. :raises Fault:"""
        slot = self.board.mec.find(bank)
        if slot is None or not mqd:
            return
        slot.load_mqd(slot.read_mqd(mqd, 0))
        written = int.from_bytes(self.board.memory.read("gc", 0, pointer, 8, client=Client.CPC, poll=True), "little")
        slot.set_hqd("PQ_WPTR_LO", written & M32)
        slot.set_hqd("PQ_WPTR_HI", written >> 32)
        slot.set_hqd("PQ_RPTR", written % slot.words)
        slot.set_hqd("ACTIVE", 1)
        slot.activate()

    # ---- slots and VMIDs

    def _slot(self, entry: Entry) -> ComputeQueue | SdmaQueue | None:
        """A free hardware queue of the entry's kind, or the one that the driver named."""
        board = self.board
        if entry.legacy is not None:
            named = board.mec.find(entry.legacy)
            if named is None or named.active:
                raise NotUnderstood(f"the queue {entry.legacy} is not there, or active already")
            return named
        taken = {id(other.slot) for other in self.entries() if other.slot is not None}
        return next((queue for queue in self.slots(entry.kind) if id(queue) not in taken), None)

    def slots(self, kind: int) -> Iterator[Any]:
        """The hardware queues that SET_HW_RSRC left to MES and that are free, of a kind."""
        resources, board = self.needed(), self.board
        if kind == frames.QUEUE_SDMA:
            for queues, mask in zip(board.sdma.queues, resources.sdma_hqd_mask, strict=True):
                yield from (queue for n, queue in enumerate(queues) if mask >> n & 1 and not queue.enabled)
            return
        masks = resources.gfx_hqd_mask if kind == frames.QUEUE_GFX else resources.compute_hqd_mask
        for pipe, mask in enumerate(masks):
            for n in range(8):
                bank = (0, pipe, n) if kind == frames.QUEUE_GFX else (1 + pipe // 4, pipe % 4, n)
                queue = board.mec.find(bank) if mask >> n & 1 else None
                if queue is not None and not queue.active:
                    yield queue

    def count_slots(self) -> int:
        """All of SET_HW_RSRC's hardware queues (amdgpu_mes.c, amdgpu_mes_init: hung_queue_hqd_info_offset)."""
        resources = self.needed()
        return sum(mask.bit_count() for masks in (resources.gfx_hqd_mask, resources.compute_hqd_mask,
                                                  resources.sdma_hqd_mask) for mask in masks)

    def free_vmid(self) -> int | None:
        taken = {process.vmid for process in self.processes.values()}
        mask = self.needed().vmid_mask_gfxhub
        return next((vmid for vmid in range(1, VMIDS) if mask >> vmid & 1 and vmid not in taken), None)

    def _vmid(self, process: Process) -> bool:
        """Does the process have a VMID, now at the latest?"""
        if process.vmid is None:
            process.vmid = self.free_vmid()
            if process.vmid is not None:
                self.point(process)
        return process.vmid is not None

    def _others_run(self, process: Process) -> bool:
        return any(entry.slot is not None and entry.legacy is None and entry.process != process.context
                   for entry in self.entries())

    def point(self, process: Process) -> None:
        """The VMID's page tables, PASID, trap handler and debugging, and nothing of its last owner in the TLB."""
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
        self.debug(process)
        board.memory.hubs["gc"].forget(1 << (vmid or 0), (1 << 36) - 1, True, entries=True, walks=True)

    def debug(self, process: Process) -> None:
        """SET_SHADER_DEBUGGER's settings, where the process has a VMID."""
        if process.vmid is not None:
            settings = self.debugging.get(process.context, Debugging())
            self.board.regs["SPI_GDBG_PER_VMID_CNTL", process.vmid] = settings.per_vmid

    # ---- turns

    def watch(self) -> None:
        """Somebody waits: look after it."""
        if not self._watched and any(self._waits(entry) for entry in self.entries()):
            self._watched = True
            self._wake.clear()
            self.engine.post(self._watch)

    @staticmethod
    def _waits(entry: Entry) -> bool:
        return entry.slot is None and not entry.suspended and entry.legacy is None

    def _watch(self) -> None:
        period = PERIOD
        while True:
            if self._wake.wait(period):
                self._wake.clear()
            self.engine.check()
            with self.lock:
                if not any(self._waits(entry) or entry.leaving for entry in self.entries()):
                    self._watched = False
                    return
                period = PERIOD if self.turn() else min(2 * period, LONGEST_PERIOD)

    def _has_work(self, entry: Entry) -> bool:
        written = self._pointer(entry)
        return entry.stopped_at is None or written is None or written != entry.stopped_at

    def turn(self, *, yielded: bool = False) -> bool:
        """Those who had their quantum make way for those who wait; ``yielded``: the others, too. Is there work for
        queues that are not connected?"""
        for entry in self.entries():
            slot = entry.slot
            if entry.leaving and isinstance(slot, ComputeQueue) and not slot.active:
                self._gone(entry)
        waiting = sorted((entry for entry in self.entries() if self._waits(entry) and self._has_work(entry)),
                         key=lambda entry: (-entry.priority, entry.order))
        for entry in waiting:
            self._make_way(entry, yielded)
            self.connect(entry)
        return bool(waiting)

    def _make_way(self, entry: Entry, yielded: bool) -> None:
        """Somebody leaves, that the entry finds a VMID and a slot, unless there are free ones."""
        process = self.processes[entry.process]
        runs = [other for other in self.entries() if other.slot is not None and other.legacy is None]
        if any(other.leaving for other in runs):
            return                                      # one at a time: it may be enough
        if process.vmid is None and self.free_vmid() is None:
            self._take_vmid(process, entry, runs, yielded)
        elif self.single and self._others_run(process):
            self._leave([other for other in runs if other.process != process.context], entry, yielded)
        elif next((slot for slot in self.slots(entry.kind)), None) is None:
            ready = sorted((other for other in runs if other.kind == entry.kind and self._ready(other, entry, yielded)),
                           key=lambda other: (not other.idle, other.priority, other.since))
            self._leave(ready[:1], entry, True)

    def _ready(self, runs: Entry, waits: Entry, yielded: bool) -> bool:
        """May the one that runs be preempted for the one that waits?"""
        if runs.hangs:
            return False
        return runs.idle or runs.priority < waits.priority or (
            runs.priority == waits.priority and (yielded or runs.had_quantum))

    def _take_vmid(self, process: Process, entry: Entry, runs: list[Entry], yielded: bool) -> None:
        """Another process's VMID, when all its queues may leave."""
        for other in sorted(self.processes.values(), key=lambda it: max((e.since for e in it.entries), default=0.0)):
            queues = [run for run in runs if run.process == other.context]
            if other is process or other.vmid is None or not all(self._ready(run, entry, yielded) for run in queues):
                continue
            self._leave(queues, entry, True)
            if not any(run.slot is not None for run in queues):
                process.vmid, other.vmid = other.vmid, None
                self.point(process)
            return

    def _leave(self, queues: list[Entry], waits: Entry, yielded: bool) -> None:
        for entry in queues:
            slot = entry.slot
            if slot is None or not self._ready(entry, waits, yielded):
                continue
            if isinstance(slot, SdmaQueue):
                self.board.sdma.unmap_queue(slot, entry.frame.mqd_addr)
                self._gone(entry)
                continue
            entry.leaving = True
            slot.request_dequeue(DEQUEUE_DRAIN)
            if not slot.active:
                self._gone(entry)
