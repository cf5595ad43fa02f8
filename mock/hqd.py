"""A hardware queue of a command processor: its descriptor (HQD), its ring, and the thread that works on it.

Facts: Linux 6.1, gfx_v11_0.c (kiq_init_register: what an HQD needs; compute_mqd_init; ring_set_wptr_compute),
amdgpu_amdkfd_gfx_v11.c (hqd_load, hqd_destroy), kfd_mqd_manager_v11.c; v11_structs.h through amdrv.facts.mqd_v11.

A queue runs while CP_HQD_ACTIVE is 1 and its pipe runs. When it was activated with PRELOAD_REQ, its COMPUTE_* state is
taken from the MQD at CP_MQD_BASE_ADDR before its first packet (not sooner: tinygrad 0.14 flushes HDP after it set
CP_HQD_ACTIVE, and cards work so). CP_HQD_PQ_WPTR counts dwords without
wrapping; CP_HQD_PQ_RPTR, and what is reported to memory, is the offset in the ring.

Each queue is a thread: one that waits does not hold the others. A fault, a bad packet or a launch that cannot start
stops the queue, which stays active (hung) until it is dequeued or reset.

Inert: CP_MQD_CONTROL but for VMID, CP_HQD_QUANTUM, priorities, IB_CONTROL, cache policies, UNORD_DISPATCH,
TUNNEL_DISPATCH, KMD_QUEUE, CP_DEBUG (what CPG does after a fault).
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from amdrv.facts import ih, mqd_v11
from mock import isa
from mock.aql import AqlExecutor
from mock.dispatch import Hang
from mock.engine import Aborted
from mock.faults import register
from mock.gmc import Client, Fault
from mock.kiq import KiqExecutor
from mock.packets import BadPacket, Decoded, Truncated, decode_pm4
from mock.pm4 import IllegalAccess, Left, Pm4Executor, Preempted

if TYPE_CHECKING:
    from mock.mec import Mec

__all__ = ["Bank", "ComputeQueue", "DEQUEUE_DRAIN", "DEQUEUE_RESET", "Dequeued"]

DEQUEUE_DRAIN, DEQUEUE_RESET = 1, 2         # amdgpu_amdkfd_gfx_v11.c, hqd_destroy_v11
KIQ_VALID = 0x80                            # gfx_v11_0.c, gfx_v11_0_kiq_setting
FETCH_WORDS = 4096
AQL_WORDS = 16          # of a packet
SPIN_SECONDS, SLEEP_SECONDS = 1e-3, 50e-6
M32 = 0xFFFFFFFF

# SQ interrupts (Linux 6.1, kfd_int_process_v11.c): context 1 holds the encoding, context 0 the error's type
SQ_ENCODING_SHIFT, SQ_ENCODING_ERROR = 6, 2
SQ_ERROR_TYPE_SHIFT, SQ_ILLEGAL_INSTRUCTION, SQ_MEMORY_VIOLATION = 21, 1, 2

Bank = tuple[int, int, int]
"""(micro engine, pipe, queue)"""

register("bad-packet", "a packet is garbled on its way to an engine: an interrupt (opcode error), and the queue stops",
         "queue")
register("privileged-access", "a packet is taken for one that its queue may not use: an interrupt, and the queue stops",
         "queue")
register("queue-hang", "an engine stands still before a packet, without a word", "queue")


Dequeued = Preempted
FENCE_OFFSET = 4 * 446          # Linux 7.3, v11_structs.h, v11_compute_mqd.fence_address_lo


class ComputeQueue:
    """One HQD slot: (micro engine, pipe, queue)."""

    kind = "compute"

    def __init__(self, mec: Mec, bank: Bank) -> None:
        self.mec, self.board, self.bank = mec, mec.board, bank
        self.me, self.pipe, self.queue = bank
        self.name = f"{self.kind} {self.me}.{self.pipe}.{self.queue}"
        self.engine = self.board.engine(self.name)
        self.lock = threading.Lock()
        self.read = self.write = 0          # dword positions that never wrap; in AQL packet indices
        self.resumed = False                # the read index was taken from memory (AQL)
        self.posted = False
        self.hung: str | None = None
        self.dequeue = 0
        self.dispatching = False
        self.wave_vmid = 0
        self.eop_write = 0
        self.indirect_base = 0              # of SET_BASE
        self.left: list[Left] = []          # where it goes on in indirect buffers
        self.checks = 0                     # how often it found that it may go on

    # ---- registers

    def hqd(self, name: str) -> int:
        return self.board.regs["CP_HQD_" + name, self.bank]

    def set_hqd(self, name: str, value: int) -> None:
        self.board.regs["CP_HQD_" + name, self.bank] = value

    def hqd_field(self, name: str, field: str) -> int:
        return self.board.regs.field(("CP_HQD_" + name, self.bank), field)

    def compute(self, name: str) -> int:
        return self.board.regs["COMPUTE_" + name, self.bank]

    def set_compute(self, name: str, value: int) -> None:
        self.board.regs["COMPUTE_" + name, self.bank] = value

    @property
    def active(self) -> bool:
        return bool(self.hqd_field("ACTIVE", "ACTIVE"))

    @property
    def vmid(self) -> int:
        return self.hqd_field("VMID", "VMID")

    @property
    def privileged(self) -> bool:
        return bool(self.hqd_field("PQ_CONTROL", "PRIV_STATE"))

    @property
    def words(self) -> int:
        """Dwords of the ring: QUEUE_SIZE is the log2, less one."""
        return 2 << self.hqd_field("PQ_CONTROL", "QUEUE_SIZE")

    @property
    def base(self) -> int:
        return (self.hqd("PQ_BASE") | self.board.regs.field(("CP_HQD_PQ_BASE_HI", self.bank), "ADDR_HI") << 32) << 8

    @property
    def aql(self) -> bool:
        """Does the ring hold AQL packets? (kfd_mqd_manager_v11.c, init_mqd)"""
        return bool(self.hqd_field("AQL_CONTROL", "CONTROL0"))

    @property
    def is_kiq(self) -> bool:
        """RLC_CP_SCHEDULERS names the queues that may manage others."""
        value = self.board.regs["RLC_CP_SCHEDULERS"]
        mine = KIQ_VALID | self.me << 5 | self.pipe << 3 | self.queue
        return mine in (value & 0xFF, value >> 8 & 0xFF)

    @property
    def ring_id(self) -> int:
        """As interrupts carry it (gfx_v11_0.c, gfx_v11_0_eop_irq)."""
        return self.queue << 4 | self.me << 2 | self.pipe

    # ---- life

    def activate(self) -> None:
        """CP_HQD_ACTIVE went to 1."""
        self.hung, self.dequeue, self.eop_write = None, 0, 0
        self.resumed = False
        where, self.left = self.mec.left.pop(self.mqd_address, (-1, []))
        wptr = self.hqd("PQ_WPTR_LO") | self.hqd("PQ_WPTR_HI") << 32
        if self.aql:                # counts packets; the read index is in memory
            self.read = self.write = 0
        else:
            behind = (wptr - self.hqd("PQ_RPTR")) % self.words
            self.write, self.read = wptr, wptr - behind
        if where != self.read % self.words:
            self.left = []
        self.preloads = bool(self.hqd_field("PERSISTENT_STATE", "PRELOAD_REQ")
                             and self.hqd_field("PERSISTENT_STATE", "PRELOAD_SIZE"))
        self.kick()

    preloads = False

    def _preload(self) -> None:
        """The launch state of the MQD into the COMPUTE registers, as far as PRELOAD_SIZE says (dwords)."""
        size = 4 * self.hqd_field("PERSISTENT_STATE", "PRELOAD_SIZE")
        try:
            mqd = self.read_mqd()
        except Fault as error:
            self.stop(f"the MQD cannot be read: {error}")
            return
        for field, _kind, *_bits in mqd._fields_:
            name = str(field).upper()
            if name.startswith("COMPUTE_") and getattr(type(mqd), field).offset < size \
                    and name in self.mec.compute_names:
                self.board.regs[name, self.bank] = getattr(mqd, field)

    @property
    def mqd_address(self) -> int:
        regs = self.board.regs
        return regs["CP_MQD_BASE_ADDR", self.bank] & ~3 | regs["CP_MQD_BASE_ADDR_HI", self.bank] << 32

    def read_mqd(self, address: int | None = None, vmid: int | None = None) -> Any:
        """:raises Fault:"""
        kind = mqd_v11.v11_compute_mqd
        vmid = self.board.regs.field(("CP_MQD_CONTROL", self.bank), "VMID") if vmid is None else vmid
        data = self.board.memory.read("gc", vmid, self.mqd_address if address is None else address,
                                      ctypes.sizeof(kind), client=Client.CPC)
        return kind.from_buffer_copy(data)

    fence_offset = FENCE_OFFSET

    def fence_address(self) -> int:
        """Where a user queue's fence is, in VMID 0, by its MQD. :raises Fault:"""
        vmid = self.board.regs.field(("CP_MQD_CONTROL", self.bank), "VMID")
        return int.from_bytes(self.board.memory.read("gc", vmid, self.mqd_address + self.fence_offset, 8,
                                                     client=Client.CPC), "little") & ~7

    def load_mqd(self, mqd: Any) -> None:
        """Every register that the MQD has (MAP_QUEUES)."""
        for field, _kind, *_bits in mqd._fields_:
            register = self.mec.mqd_registers.get(field)
            if register is not None and register != "CP_HQD_ACTIVE":
                self.board.regs[register, self.bank] = getattr(mqd, field)

    @property
    def ring_offset(self) -> int:
        """Where the engine reads, in dwords of the ring."""
        return self.read * (AQL_WORDS if self.aql else 1) % self.words

    def save_mqd(self) -> None:
        """Where the queue stopped, into its MQD."""
        kind = mqd_v11.v11_compute_mqd
        vmid = self.board.regs.field(("CP_MQD_CONTROL", self.bank), "VMID")
        try:
            for field, value in (("cp_hqd_pq_rptr", self.ring_offset), ("cp_hqd_pq_wptr_lo", self.write & M32),
                                 ("cp_hqd_pq_wptr_hi", self.write >> 32)):
                self.board.memory.write("gc", vmid, self.mqd_address + getattr(kind, field).offset,
                                        value.to_bytes(4, "little"), client=Client.CPC)
        except Fault:
            self.board.note("mqd-save", f"{self.name}: where it stopped could not be saved to its MQD")

    def deactivate(self, *, save: bool) -> None:
        self.set_hqd("PQ_RPTR", self.ring_offset)
        if save:
            self.save_mqd()
            if self.left:
                self.mec.left[self.mqd_address] = self.ring_offset, self.left
        self.left = []
        self.set_hqd("ACTIVE", 0)
        self.set_hqd("DEQUEUE_REQUEST", 0)
        self.dequeue, self.hung, self.dispatching = 0, None, False

    def request_dequeue(self, kind: int) -> None:
        """CP_HQD_DEQUEUE_REQUEST: 1 lets the packet in work end, 2 does not."""
        self.attention = True
        if not self.active:
            self.set_hqd("DEQUEUE_REQUEST", 0)
            return
        if self.board.faults.strike("dequeue-ignored", queue=self.name):
            return
        with self.lock:
            self.dequeue = kind
            busy = self.posted
        if kind == DEQUEUE_RESET:
            self.engine.abort()
            with self.lock:
                self.posted = False
            self.deactivate(save=False)
        elif not busy or self.hung:
            self.deactivate(save=True)

    def set_write(self, value: int) -> None:
        if self.aql:
            self.write = max(self.write, value + 1)         # the last packet's index
            self.kick()
            return
        self.write = value
        self.set_hqd("PQ_WPTR_LO", value & M32)
        self.set_hqd("PQ_WPTR_HI", value >> 32)
        self.kick()

    def kick(self) -> None:
        if self.read == self.write or not self.runnable():
            return
        with self.lock:
            if self.posted:
                return
            self.posted = True
        self.engine.post(self._run)

    def runnable(self) -> bool:
        return self.active and self.hung is None and not self.dequeue and self.pipe_running()

    def pipe_running(self) -> bool:
        return self.mec.pipe_running(self.me, self.pipe)

    # ---- work, on the engine's thread

    def _run(self) -> None:
        self._stalled = False
        begin = self.board.clock()
        try:
            if self.preloads:
                self.preloads = False
                self._preload()
            self._work()
        except Preempted as leave:
            self.left = leave.stack
            self.report_read()
        finally:
            self.board.perf.worked(self.board.clock() - begin)
            with self.lock:         # who asks from here on takes the queue off by himself
                self.posted = False
                leaves = self.dequeue
        if self.engine.aborted:
            return
        if leaves and self.active:
            self.deactivate(save=True)
        elif self.read != self.write and not self._stalled and not (self.aql and self.rests_at == self.write):
            self.kick()

    _stalled = False
    rests_at = -1
    """AQL: the write index that was rung when the engine found nothing more that it may take."""

    def executor(self) -> Pm4Executor:
        return KiqExecutor(self)

    def _work(self) -> None:
        if self.aql:
            AqlExecutor(self).work()
            return
        executor, wanted = self.executor(), FETCH_WORDS
        while self.read != self.write and self.runnable():
            self.attention = False
            self._size, self._block = self.words, 2 << self.hqd_field("PQ_CONTROL", "RPTR_BLOCK_SIZE")
            if self.write - self.read > self._size or self.write < self.read:
                self.stop(f"write pointer {self.write:#x} and read pointer {self.read:#x} do not fit a ring of "
                          f"{self.words:#x} dwords")
                break
            start, packet = self.read, None
            try:
                words = self._fetch(wanted)
                wanted = FETCH_WORDS
                at, vmid, base = 0, self.vmid, self.base
                while at < len(words):
                    self.check()
                    packet = decode_pm4(words, at, executor.graphics)
                    self.board.counters["pm4_packets"] += 1
                    if self.board.faults.any:
                        self.injected(packet)
                    at += packet.length + executor.execute(packet, vmid, base, start + at)
                    self.advance(start + at)
                    if self.attention:
                        break
            except Truncated as error:
                wanted = max(FETCH_WORDS, error.need)
                if self.read == start and len(words) >= min(self.write - start, self._size):
                    self.board.note("pm4-truncated", f"{self.name}: the write pointer {self.write:#x} stands within a "
                                                     f"packet of {error.need} words")
                    self._stalled = True
                    break
            except (BadPacket, IllegalAccess, Hang, Fault, isa.IsaError) as error:
                self.fail(error, packet)
                break
        self.report_read()

    def injected(self, packet: Decoded) -> None:
        """:raises BadPacket, IllegalAccess, Hang: what was injected for this packet."""
        faults = self.board.faults
        faults.event("pm4-packet", queue=self.name, packet=packet.name)
        self.check()                    # the event may have pulled the card out or reset it
        if faults.strike("bad-packet", queue=self.name):
            raise BadPacket(packet.opcode, f"{packet}: garbled on its way, by an injected fault")
        if faults.strike("privileged-access", queue=self.name):
            raise IllegalAccess(f"{packet}: by an injected fault")
        if faults.strike("queue-hang", queue=self.name):
            raise Hang("the micro engine stands still, by an injected fault")

    def fail(self, error: Exception, packet: Decoded | None) -> None:
        """What silicon tells the host of an error in this queue; then the queue hangs."""
        where = f"at ring offset {self.read % self.words:#x}"
        if isinstance(error, BadPacket):
            self.interrupt(ih.GFX_11_0_0__SRCID__CP_BAD_OPCODE_ERROR, "OPCODE_ERROR_INT_ENABLE")
        elif isinstance(error, IllegalAccess):
            self.interrupt(ih.GFX_11_0_0__SRCID__CP_PRIV_REG_FAULT, "PRIV_REG_INT_ENABLE")
        else:
            self.sq_error(error)
        notes = "; ".join(getattr(error, "__notes__", ()))
        self.stop(f"{type(error).__name__} {where}, in {packet if packet is not None else 'no packet'}: {error}"
                  + (f" ({notes})" if notes else ""))

    def stop(self, why: str) -> None:
        self.hung = why
        self.board.note("queue-hang", f"{self.name} hangs: {why}")

    def _fetch(self, wanted: int) -> list[int]:
        memory, base, size = self.board.memory, self.base, self.words
        count = min(self.write - self.read, wanted)
        offset = self.read % size
        first = min(count, size - offset)
        words: list[int] = memory.read_words("gc", self.vmid, base + 4 * offset, first, client=Client.CPC).tolist()
        if count > first:
            words += memory.read_words("gc", self.vmid, base, count - first, client=Client.CPC).tolist()
        return words

    def advance(self, position: int) -> None:
        crossed = position // self._block != self.read // self._block
        self.read = min(position, self.write)
        if crossed:
            self.report_read()

    _size, _block = 2, 2            # of the ring and of the blocks of read-pointer reports, in dwords
    attention = False
    """A register was written that may have stopped the queue."""

    def report_read(self) -> None:
        """The read pointer to its register and to memory: at block boundaries, before waits and when the queue is
        empty."""
        self.set_hqd("PQ_RPTR", self.ring_offset)
        if self.aql or self.hqd_field("PQ_CONTROL", "NO_UPDATE_RPTR") or not self.active or self.hung:
            return
        address = self.hqd("PQ_RPTR_REPORT_ADDR") & ~3 | (self.hqd("PQ_RPTR_REPORT_ADDR_HI") & 0xFFFF) << 32
        try:
            self.board.memory.write("gc", self.vmid, address, (self.read % self.words).to_bytes(4, "little"),
                                    client=Client.CPC)
        except Fault as error:
            self.stop(f"the read pointer cannot be reported: {error}")

    def check(self) -> None:
        """Between packets, in waits, and at every memory access of a wave. :raises Aborted, Preempted:"""
        if self.engine.aborted:
            raise Aborted
        if self.dequeue and not self.dispatching:
            raise Preempted
        self.checks += 1

    def wait(self, condition: Callable[[], bool]) -> None:
        """Poll until true. :raises Aborted, Preempted:"""
        if not condition():
            self.report_read()
            start = time.monotonic()
            while not condition():
                self.check()
                time.sleep(0 if time.monotonic() - start < SPIN_SECONDS else SLEEP_SECONDS)
        self.board.time.join()

    # ---- interrupts

    def interrupt_enabled(self, field: str) -> bool:
        """CP_MEx_PIPEy_INT_CNTL, or CPC_INT_CNTL of the pipe (amdgpu_amdkfd_gfx_v11.c, init_interrupts_v11)."""
        regs = self.board.regs
        return bool(regs.field(f"CP_ME{self.me}_PIPE{self.pipe}_INT_CNTL", field)
                    or regs.field(("CPC_INT_CNTL", (self.me, self.pipe)), field))

    def interrupt(self, source: int, enable: str, context: int = 0) -> None:
        if self.interrupt_enabled(enable):
            self.board.ih.post(ih.SOC21_IH_CLIENTID_GRBM_CP, source, ring_id=self.ring_id, vmid=self.vmid,
                               data=(context, 0, 0, 0))
        else:
            self.board.note("interrupt-off", f"{self.name}: interrupt source {source} while {enable} of "
                                             f"CP_ME{self.me}_PIPE{self.pipe}_INT_CNTL is off")

    def sq_error(self, error: Exception) -> None:
        """What the shader engines tell of an error in their waves."""
        if isinstance(error, isa.IllegalInstruction):
            self.sq_interrupt(SQ_ILLEGAL_INSTRUCTION)
        elif isinstance(error, (Fault, isa.MemoryFault)) and self.dispatching:
            self.sq_interrupt(SQ_MEMORY_VIOLATION)

    def sq_interrupt(self, kind: int) -> None:
        self.board.ih.post(ih.SOC21_IH_CLIENTID_GRBM_CP, ih.GFX_11_0_0__SRCID__SQ_INTERRUPT_ID, ring_id=self.ring_id,
                           vmid=self.wave_vmid,
                           data=(kind << SQ_ERROR_TYPE_SHIFT, SQ_ENCODING_ERROR << SQ_ENCODING_SHIFT, 0, 0))

    def sq_message(self, message: isa.SqInterrupt) -> None:
        """A wave sent MSG_INTERRUPT."""
        first, second = message.context_ids()
        self.board.ih.post(ih.SOC21_IH_CLIENTID_GRBM_CP, ih.GFX_11_0_0__SRCID__SQ_INTERRUPT_ID, ring_id=self.ring_id,
                           vmid=self.wave_vmid, data=(first, second, 0, 0))

    def end_of_pipe(self) -> None:
        """Stage an event in the EOP buffer, 8 dwords an entry. :raises Fault: the buffer is not there."""
        size = 8 << self.hqd_field("EOP_CONTROL", "EOP_SIZE")
        base = (self.hqd("EOP_BASE_ADDR") | (self.hqd("EOP_BASE_ADDR_HI") & 0xFF) << 32) << 8
        address = base + self.eop_write % size // 32 * 32
        self.board.memory.translate("gc", self.vmid, [address], write=True, nbytes=32, client=Client.CPC)
        self.eop_write += 32
        self.set_hqd("EOP_WPTR", self.eop_write % size // 4)

    def reset(self) -> None:
        self.attention = True
        with self.lock:
            self.posted = False
        self.read = self.write = 0
        self.hung, self.dequeue, self.dispatching, self.eop_write = None, 0, False, 0
        self.left = []
