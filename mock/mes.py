"""MES, the micro engine scheduler: its pipes, the ring of frames, and the KIQ beside it.

Facts: Linux 6.1 and 7.3, mes_v11_0.c (mes_v11_0_enable: start addresses while the pipes' resets are on, then ACTIVE;
mes_v11_0_queue_init_register: the KIQ on pipe 1; mes_v11_0_kiq_enable_queue: the scheduler's ring on pipe 0, by
MAP_QUEUES with engine 5; mes_v11_0_submit_pkt_and_poll_completion: the fence of each frame; CP_MES_GP3_LO: the
version), amdgpu_mes.c (amdgpu_mes_validate_fw_version: the register and word 24 of the image agree), mes_v11_api_def.h
through :mod:`mock.mes_frames`. Which queues are on the hardware is :mod:`mock.mes_schedule`'s.

Micro engine 3 has a pipe 0, whose queue holds frames, and a pipe 1, whose queue holds PM4 with the KIQ's rights once
RLC_CP_SCHEDULERS names it. A pipe runs when its firmware is loaded (by the PSP, or put at CP_MES_IC_BASE), its start
address was written in reset, its RESET and MES_HALT are off and its ACTIVE is on.

A frame that is not understood, or cannot be done, gets no fence: the driver's wait runs out, as with firmware, and the
frame behind it is answered. Nothing is done for grace periods, GWS and OA but their registers, TDR, STB and the event
history.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from mock import mes_frames as frames
from mock.block import Block, on_read, on_write
from mock.faults import register
from mock.gmc import Client, Fault
from mock.hqd import DEQUEUE_DRAIN, DEQUEUE_RESET, ComputeQueue
from mock.mes_entries import Debugging, Entry, NotUnderstood, Process
from mock.mes_schedule import Schedule

if TYPE_CHECKING:
    from mock.board import Board

__all__ = ["Mes", "MesQueue", "ME", "SCHED_PIPE", "KIQ_PIPE"]

ME, SCHED_PIPE, KIQ_PIPE = 3, 0, 1
FIRMWARE = {SCHED_PIPE: ("CP_MES", "RS64_MES"), KIQ_PIPE: ("CP_MES_KIQ", "RS64_KIQ")}
START = ("CP_MES_PRGRM_CNTR_START", "CP_MES_PRGRM_CNTR_START_HI")
VERSIONS = {SCHED_PIPE: 0x75, KIQ_PIPE: 0x102}
"""Of firmware that did not say (Debian's gc_11_0_0_mes_2.bin and gc_11_0_0_mes1.bin of 2025-04)."""
VERSION_MASK, API_SHIFT, FEATURE_SHIFT = 0xFFF, 12, 24
API, FEATURES = 14, {SCHED_PIPE: 1, KIQ_PIPE: 6}
"""CP_MES_GP3_LO beside the version: API 23:12, features 31:24 (amdgpu_mes.h). API 2 and newer read wptr_addr as VMID
0's, 14 and newer SET_SHADER_DEBUGGER's trap_en (amdgpu_mes.c). The figures are ours."""
CONTEXTS = 64, 512
"""How many contexts of processes and of gangs fit the engine's own memory (QUERY_SCHEDULER_STATUS): ours."""
M32 = 0xFFFFFFFF

register("mes-silent", "the scheduler takes a frame and never answers", "opcode")


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
        self.schedule = Schedule(board)
        self._clear()

    def _clear(self) -> None:
        self.schedule.clear()
        self._told: set[tuple[str, int]] = set()
        self._started: set[int] = set()

    def reset(self) -> None:
        self._clear()

    @property
    def processes(self) -> dict[int, Process]:
        return self.schedule.processes

    def rung(self, offset: int) -> bool:
        """A doorbell that no queue on the hardware has; is it MES's business? While MES is at work on a frame, which
        may take as long as a kernel, the answer is yes: the CPU's store does not wait."""
        schedule = self.schedule
        if not schedule.lock.acquire(blocking=False):
            schedule.wake()
            return True
        try:
            return schedule.rung(offset)
        finally:
            schedule.lock.release()

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
                for register in ("ACTIVE", "PQ_RPTR", "PQ_WPTR_LO", "PQ_WPTR_HI"):      # a driver that resumes without
                    queue.set_hqd(register, 0)      # power loss activates the KIQ again and writes none of them
            elif {(name, pipe) for name in START} <= self._told:
                self._started.add(pipe)
                self.board.regs["CP_MES_GP3_LO", (ME, pipe)] = self._version(pipe)
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
        return self._version(bank[1]) if bank[0] == ME and bank[1] in FIRMWARE and self.pipe_running(bank[1]) else 0

    def _version(self, pipe: int) -> int:
        loaded = self.board.psp.versions.get(FIRMWARE[pipe][0], 0)
        return (loaded or VERSIONS[pipe]) & VERSION_MASK | API << API_SHIFT | FEATURES[pipe] << FEATURE_SHIFT

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
            with self.schedule.lock:
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
        self.schedule.resources = frame
        self.schedule.single = bool(frame.flags & frames.RSRC_SINGLE_PROCESS)

    # ---- queues come and go

    def do_add_queue(self, queue: MesQueue, frame: Any) -> None:
        self.schedule.add(frame)

    def do_remove_queue(self, queue: MesQueue, frame: Any) -> None:
        schedule = self.schedule
        if frame.flags & (frames.REMOVE_LEGACY | frames.REMOVE_LEGACY_GFX | frames.REMOVE_PREEMPT_GFX):
            self._remove_legacy(queue, frame)
            return
        for entry in schedule.entries():
            if entry.doorbell == frame.doorbell_offset and entry.gang == frame.gang_context_addr:
                reset = bool(frame.flags & frames.REMOVE_AFTER_RESET) or entry.hangs
                schedule.disconnect(entry, DEQUEUE_RESET if reset else DEQUEUE_DRAIN, queue.wait)
                schedule.forget(entry)
                return
        raise NotUnderstood(f"no queue of gang {frame.gang_context_addr:#x} has doorbell {frame.doorbell_offset:#x}")

    def _remove_legacy(self, queue: MesQueue, frame: Any) -> None:
        """A queue that the driver mapped by itself, or by ADD_QUEUE with map_legacy_kq. Preempted it stays, and goes on
        with the packet that it was told to leave."""
        gfx = frame.flags & (frames.REMOVE_LEGACY_GFX | frames.REMOVE_PREEMPT_GFX) \
            or frame.queue_type == frames.QUEUE_GFX
        target = self.board.mec.find((0 if gfx else 1, frame.pipe_id, frame.queue_id))
        if target is None:
            raise NotUnderstood(f"there is no queue {frame.pipe_id}.{frame.queue_id}")
        reset = frame.flags & frames.REMOVE_AFTER_RESET or target.hung
        target.request_dequeue(DEQUEUE_RESET if reset else DEQUEUE_DRAIN)
        queue.wait(lambda: not target.active)
        if frame.flags & frames.REMOVE_PREEMPT_GFX:
            self._write(frame.tf_addr, frame.tf_data)
            target.set_hqd("ACTIVE", 1)
            target.activate()
            return
        for entry in self.schedule.entries():
            if entry.slot is target:
                entry.slot = None
                self.schedule.forget(entry)

    # ---- gangs

    def _gang(self, everyone: bool, frame: Any) -> list[Entry]:
        """All queues of processes, a gang's, or one by its doorbell where the gang has no address."""
        gang = frame.gang_context_addr
        return [entry for entry in self.schedule.entries() if entry.legacy is None
                and (everyone or (entry.gang == gang if gang else entry.doorbell == frame.doorbell_offset))]

    def do_suspend(self, queue: MesQueue, frame: Any) -> None:
        """A queue that hangs cannot be saved: no answer, when the others are suspended."""
        stuck = []
        for entry in self._gang(bool(frame.flags & frames.SUSPEND_ALL), frame):
            if entry.hangs:
                stuck.append(f"{entry.doorbell:#x}")
                continue
            entry.suspended = True
            self.schedule.disconnect(entry, DEQUEUE_DRAIN, queue.wait)
        if stuck:
            raise NotUnderstood(f"the queues of doorbells {', '.join(stuck)} hang and cannot be preempted")
        if frame.suspend_fence_addr:
            self._write(frame.suspend_fence_addr, frame.suspend_fence_value)

    def do_resume(self, queue: MesQueue, frame: Any) -> None:
        for entry in self._gang(bool(frame.flags & frames.RESUME_ALL), frame):
            entry.suspended = False
            self.schedule.connect(entry)
        self.schedule.watch()

    def do_reset(self, queue: MesQueue, frame: Any) -> None:
        """A queue, or all that hang; ``doorbell_offset_addr`` is told whom it met: a dword of its doorbell each, and
        behind as many dwords as there are hardware queues one of its place (amdgpu_mes.h,
        amdgpu_mes_hung_queue_hqd_info)."""
        schedule = self.schedule
        if frame.flags & frames.RESET_LEGACY_GFX:
            for end in ("lp", "hp"):
                pipe, number, mqd = (getattr(frame, f"{name}_{end}") for name in ("pipe_id", "queue_id", "mqd_mc_addr"))
                target = self.board.mec.find((0, pipe, number))
                if target is None or (end == "hp" and not mqd):
                    continue
                target.request_dequeue(DEQUEUE_RESET)
                schedule.restart((0, pipe, number), mqd, getattr(frame, f"wptr_addr_{end}"))
            return
        if frame.flags & frames.RESET_QUEUE_ONLY:
            chosen = [entry for entry in schedule.entries() if entry.doorbell == frame.doorbell_offset]
        elif frame.flags & (frames.RESET_HUNG | frames.RESET_DETECT_ONLY):
            chosen = [entry for entry in schedule.entries() if entry.kind == frame.queue_type and entry.hangs]
            behind = frame.doorbell_offset_addr + 4 * schedule.count_slots()
            for i, entry in enumerate(chosen):
                self._write(frame.doorbell_offset_addr + 4 * i, entry.doorbell)
                pipe, number = entry.place
                self._write(behind + 4 * i, entry.kind | pipe << 3 | number << 7)
        else:
            chosen = [entry for entry in schedule.entries() if entry.legacy is None
                      and entry.gang == frame.gang_context_addr]
        if not frame.flags & frames.RESET_DETECT_ONLY:
            for entry in chosen:
                schedule.reset_queue(entry, queue.wait)

    def do_set_gang_priority_level(self, queue: MesQueue, frame: Any) -> None:
        found = [entry for entry in self.schedule.entries() if entry.gang == frame.gang_context_addr
                 and entry.legacy is None]
        if not found:
            raise NotUnderstood(f"no queue is of gang {frame.gang_context_addr:#x}")
        for entry in found:
            entry.priority = frame.gang_global_priority_level
            if frame.gang_quantum:
                entry.frame.gang_quantum = frame.gang_quantum

    do_change_gang_prority = do_set_gang_priority_level

    def do_perform_yield(self, queue: MesQueue, frame: Any) -> None:
        self.schedule.turn(yielded=True)

    # ---- the rest

    def do_query_scheduler_status(self, queue: MesQueue, frame: Any) -> None:
        if frame.subopcode == frames.QUERY_HEALTHY:
            if frame.address[0]:
                self._write(frame.address[0], 1)
        elif frame.subopcode == frames.QUERY_ARRAY_SIZES:
            for address, value in zip(frame.address, (*CONTEXTS, 0), strict=True):
                if address:
                    self._write(address, value)
        else:
            raise NotUnderstood(f"there is no question {frame.subopcode}")

    def do_set_log_buffer(self, queue: MesQueue, frame: Any) -> None:
        if frame.log_type > frames.QUEUE_SDMA:
            raise NotUnderstood(f"queue type {frame.log_type}")
        self.schedule.log.set(frame.log_type, frame.logging_buffer_addr, frame.number_of_entries)

    def do_program_gds(self, queue: MesQueue, frame: Any) -> None:
        process = self._process(frame)
        if process.vmid is not None:
            self._gds(process.vmid, frame)

    def _gds(self, vmid: int, frame: Any) -> None:
        board = self.board
        gws = board.regs.register("GDS_GWS_VMID0")
        board.write_register(f"GDS_VMID{vmid}_BASE", frame.gds_base)
        board.write_register(f"GDS_VMID{vmid}_SIZE", frame.gds_size)
        board.write_register(f"GDS_GWS_VMID{vmid}", gws.pack(BASE=frame.gws_base, SIZE=frame.gws_size))
        board.write_register(f"GDS_OA_VMID{vmid}", frame.oa_mask)

    def do_set_debug_vmid(self, queue: MesQueue, frame: Any) -> None:
        """A VMID for the debugger: taken, pointed somewhere, given back. It is a process without queues."""
        schedule, operation = self.schedule, frame.flags >> 1 & 3
        if operation == frames.DEBUG_RELEASE:
            schedule.processes.pop(frame.process_context_addr, None)
            return
        process = schedule.processes.get(frame.process_context_addr)
        if operation == frames.DEBUG_ALLOCATE:
            vmid = schedule.free_vmid() if process is None or process.vmid is None else process.vmid
            if vmid is None:
                raise NotUnderstood("no VMID is free for the debugger")
            if frame.output_addr:
                self._write(frame.output_addr, vmid)
        elif operation == frames.DEBUG_PROGRAM:
            vmid = frame.debug_vmid
        else:
            raise NotUnderstood(f"there is no operation {operation}")
        if process is None:
            process = Process(frame.process_context_addr, 0, 0, (0, 0), 0, (0, 0))
            schedule.processes[frame.process_context_addr] = process
        process.vmid = vmid
        if operation == frames.DEBUG_PROGRAM:
            process.page_table = frame.page_table_base_addr
            process.va = frame.process_va_start, frame.process_va_end
            process.cntl = process.cntl or self.board.regs["GCVM_CONTEXT1_CNTL"]
            schedule.point(process)
            if frame.flags & 1:
                self._gds(vmid, frame)

    def _process(self, frame: Any) -> Process:
        process = self.processes.get(frame.process_context_addr)
        if process is None:
            raise NotUnderstood(f"no process has its context at {frame.process_context_addr:#x}")
        return process

    def do_update_root_page_table(self, queue: MesQueue, frame: Any) -> None:
        process = self._process(frame)
        process.page_table = frame.page_table_base_addr
        if process.vmid is not None:
            self.schedule.point(process)

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
            resources = self.schedule.needed()
            if resources.query_status_fence:
                self._write(resources.query_status_fence, data[0])
        elif frame.opcode == frames.MISC_SET_SHADER_DEBUGGER:
            self._set_debugger(data)
        elif frame.opcode == frames.MISC_NOTIFY_WORK:
            self.schedule.watch()
            self.schedule.turn()
        elif frame.opcode == frames.MISC_CHANGE_CONFIG:
            self._change_config(data[0], data[1])
        elif frame.opcode not in (frames.MISC_NOTIFY_TO_UNMAP, frames.MISC_LAUNCH_CLEANER_SHADER):
            raise NotUnderstood(f"there is no operation {frame.opcode}")

    def _set_debugger(self, data: Any) -> None:
        """Kept by the process's context, also before its first queue comes."""
        schedule, context = self.schedule, data[0] | data[1] << 32
        if data[2] & frames.DEBUGGER_FLUSH:
            schedule.debugging.pop(context, None)
        else:
            schedule.debugging[context] = Debugging(data[3], tuple(data[4:8]), bool(data[frames.DEBUGGER_TRAP_WORD]))
        process = schedule.processes.get(context)
        if process is not None:
            schedule.debug(process)

    def _change_config(self, option: int, value: int) -> None:
        if option == frames.CONFIG_SINGLE_PROCESS:
            self.schedule.single = bool(value & 1)
        elif option not in (frames.CONFIG_LOGGING, frames.CONFIG_TDR):
            raise NotUnderstood(f"there is no option {option}")
