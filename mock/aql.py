"""AQL: queues whose ring holds 64-byte packets of the HSA standard, which the micro engine's firmware processes.

A queue is one when CP_HQD_AQL_CONTROL.CONTROL0 is set (Linux 6.1, kfd_mqd_manager_v11.c, init_mqd; update_mqd sets
NO_UPDATE_RPTR, slot-based write pointers and DOORBELL_BIF_DROP). Then

* the doorbell holds a packet's index, and lets everything up to it be processed ("hardware doorbell supports AQL
  semantics", ROCR-Runtime, amd_aql_queue.cpp, AqlQueue::StoreRelaxed), but nothing beyond the write index in memory,
  where CP_HQD_PQ_WPTR_POLL_ADDR leads; one that goes back only wakes the engine;
* CP_HQD_PQ_RPTR_REPORT_ADDR leads to the read index, which counts packets and never wraps; four bytes at 8 behind it
  say where in amd_queue_t it lies (read_dispatch_id_field_base_byte_offset), so that the firmware finds the rest:
  scratch, properties, the signal that tells of errors;
* a packet is taken when its type is no longer INVALID, and set back to INVALID when the engine is done with it.

Layouts and meaning: HSA Platform System Architecture Specification 1.2, 2.9 (packets, headers, fences, barrier bit,
signals); ROCR-Runtime, amd_hsa_queue.h, amd_hsa_signal.h (amd_queue_t, amd_signal_t) and amd_aql_queue.cpp
(AqlQueue::ExecutePM4: the vendor packet around an indirect buffer; the handlers of queue_inactive_signal: what its
bits mean); hsa_ext_amd.h (hsa_amd_barrier_value_packet_t). How a kernel descriptor becomes registers: LLVM, User Guide
for AMDGPU Backend, "Kernel Descriptor", "Initial Kernel Execution State".

Packets are executed one after another, so that the barrier bit asks for nothing more.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from amdrv.facts import ih, pm4
from mock import atomics, isa
from mock.actor import acting
from mock.dispatch import Hang, launch
from mock.faults import register
from mock.gmc import Client, Fault
from mock.isa.dispatch import LDS_GRANULE
from mock.packets import BadPacket, Truncated, decode_pm4
from mock.pm4 import IllegalAccess

if TYPE_CHECKING:
    from mock.hqd import ComputeQueue

__all__ = ["PACKET_BYTES", "AqlError", "AqlExecutor", "Packet"]

PACKET_BYTES, PACKET_WORDS = 64, 16
VENDOR, INVALID, KERNEL_DISPATCH, BARRIER_AND, AGENT_DISPATCH, BARRIER_OR = range(6)
NAMES = ("VENDOR", "INVALID", "KERNEL_DISPATCH", "BARRIER_AND", "AGENT_DISPATCH", "BARRIER_OR")
SCOPE_AGENT, SCOPE_SYSTEM = 1, 2
VENDOR_PM4_IB, VENDOR_BARRIER_VALUE = 1, 2
PM4_IB_WORDS, PM4_IB_REMAIN = 4, 10

# amd_queue_t
READ_ID_OFFSET_FIELD = 8            # behind read_dispatch_id: read_dispatch_id_field_base_byte_offset
TMPRING_SIZE, SCRATCH_BASE, QUEUE_PROPERTIES, INACTIVE_SIGNAL = 140, 160, 180, 192
PROFILING = 1 << 3                  # AMD_QUEUE_PROPERTIES_ENABLE_PROFILING
# amd_signal_t
SIGNAL_VALUE, SIGNAL_MAILBOX, SIGNAL_EVENT, SIGNAL_START, SIGNAL_END = 8, 16, 24, 32, 40

# bits of queue_inactive_signal (ROCR-Runtime, amd_aql_queue.cpp)
SCRATCH_64, SCRATCH_32 = 0x1, 0x400
BAD_DIMENSIONS, BAD_GROUP_MEMORY, BAD_CODE, BAD_PACKET, GROUP_TOO_LARGE, BAD_VENDOR = 0x2, 0x4, 0x8, 0x20, 0x40, 0x100
MEMORY_VIOLATION, ILLEGAL_INSTRUCTION, DEBUG_TRAP = 0x2000_0000, 0x4000_0000, 0x8000_0000

# kernel_code_properties of a kernel descriptor
SGPR_PRIVATE_BUFFER, SGPR_DISPATCH_PTR, SGPR_QUEUE_PTR, SGPR_KERNARG_PTR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
SGPR_DISPATCH_ID, SGPR_FLAT_SCRATCH, SGPR_PRIVATE_SIZE, WAVEFRONT_SIZE32 = 1 << 4, 1 << 5, 1 << 6, 1 << 10
DESCRIPTOR = struct.Struct("<IIIIq20xIIIHHI")
MAX_GROUP, MAX_GROUP_MEMORY = 1024, 64 << 10
SCRATCH_GRANULE = 256
M32 = 0xFFFFFFFF

register("aql-invalid", "an AQL packet is taken for one of a type that does not exist: the queue stops and tells its "
         "signal", "queue")


class AqlError(Exception):
    """A packet that the firmware refuses: bits for the queue's signal."""

    def __init__(self, code: int, why: str) -> None:
        self.code = code
        super().__init__(why)


class Packet(NamedTuple):
    """One slot of the ring, decoded as far as all types agree."""

    number: int
    kind: int
    acquire: int
    release: int
    data: bytes

    @classmethod
    def decode(cls, number: int, data: bytes) -> Packet:
        header = int.from_bytes(data[:2], "little")
        return cls(number, header & 0xFF, header >> 9 & 3, header >> 11 & 3, data)

    @property
    def name(self) -> str:
        return NAMES[self.kind] if self.kind < len(NAMES) else f"type {self.kind}"

    @property
    def completion(self) -> int:
        return int.from_bytes(self.data[56:64], "little")

    def __str__(self) -> str:
        return f"AQL {self.name} number {self.number}"


class AqlExecutor:
    """Processes an AQL queue, on its engine's thread."""

    def __init__(self, queue: ComputeQueue) -> None:
        self.queue, self.board, self.memory = queue, queue.board, queue.board.memory
        self.vmid = queue.vmid
        if self.board.trace is not None:
            self._process = self.board.trace.aql(queue, self._process)      # type: ignore[method-assign]
        hqd = queue.hqd
        self.read_id = hqd("PQ_RPTR_REPORT_ADDR") & ~3 | (hqd("PQ_RPTR_REPORT_ADDR_HI") & 0xFFFF) << 32
        self.write_id = hqd("PQ_WPTR_POLL_ADDR") & ~3 | (hqd("PQ_WPTR_POLL_ADDR_HI") & 0xFFFF) << 32

    # ---- memory

    def read(self, address: int, nbytes: int, *, poll: bool = False) -> bytes:
        return self.memory.read("gc", self.vmid, address, nbytes, client=Client.CPC, poll=poll)

    def number(self, address: int, nbytes: int = 8, *, poll: bool = False) -> int:
        return int.from_bytes(self.read(address, nbytes, poll=poll), "little")

    def write(self, address: int, value: int, nbytes: int = 8) -> None:
        self.memory.write("gc", self.vmid, address, (value & (1 << 8 * nbytes) - 1).to_bytes(nbytes, "little"),
                          client=Client.CPC)

    @property
    def amd_queue(self) -> int:
        """Address of the queue's amd_queue_t."""
        return self.read_id - self.number(self.read_id + READ_ID_OFFSET_FIELD, 4)

    # ---- the loop

    def work(self) -> None:
        """Packets until there are none. Leaves a queue that stopped hung."""
        queue = self.queue
        packet: Packet | None = None
        try:
            if not queue.resumed:
                queue.read, queue.resumed = self.number(self.read_id), True
            slots = queue.words // PACKET_WORDS
            while queue.runnable() and queue.read < (limit := self._limit()):
                if limit - queue.read > slots:
                    queue.stop(f"the write index {limit} is more than {slots} packets ahead of the read index "
                               f"{queue.read}")
                    return
                queue.check()
                where = queue.base + queue.read % slots * PACKET_BYTES
                packet = self._take(where)
                self.board.counters["aql_packets"] += 1
                if self.board.faults.any:
                    self._injected(packet)
                while not self._process(packet):
                    self._wait_for_scratch()
                self.write(where, INVALID, 2)
                queue.read += 1
                self.write(self.read_id, queue.read)
        except (AqlError, BadPacket, IllegalAccess, Truncated, Hang, Fault, isa.IsaError) as error:
            self._stop(error, packet)

    def _limit(self) -> int:
        """Index behind the last packet that may be taken; the queue rests there until the doorbell rings again."""
        rung = self.queue.rests_at = self.queue.write
        return min(rung, self.number(self.write_id, poll=True)) if self.write_id else rung

    def _take(self, where: int) -> Packet:
        """The packet at the read index, once its type is valid."""
        while True:
            data = self.read(where, PACKET_BYTES, poll=True)
            if data[0] != INVALID:
                return Packet.decode(self.queue.read, data)
            self.queue.wait(lambda: self.number(where, 1, poll=True) != INVALID)

    def _injected(self, packet: Packet) -> None:
        faults, name = self.board.faults, self.queue.name
        faults.event("aql-packet", queue=name, packet=packet.name)
        self.queue.check()
        if faults.strike("aql-invalid", queue=name):
            raise AqlError(BAD_PACKET, "of no type that there is, by an injected fault")
        if faults.strike("queue-hang", queue=name):
            raise Hang("the micro engine stands still, by an injected fault")

    # ---- what goes wrong

    def _stop(self, error: Exception, packet: Packet | None) -> None:
        queue = self.queue
        code = 0
        if isinstance(error, AqlError):
            code = error.code
        elif isinstance(error, isa.IllegalInstruction):
            code = ILLEGAL_INSTRUCTION
            queue.sq_error(error)
        elif isinstance(error, (Fault, isa.MemoryFault)):
            code = MEMORY_VIOLATION
            queue.sq_error(error)
        elif isinstance(error, isa.Trap):
            code = DEBUG_TRAP
        elif isinstance(error, (BadPacket, Truncated)):
            code = BAD_VENDOR
        if isinstance(error, (AqlError, BadPacket, Truncated)):
            queue.interrupt(ih.GFX_11_0_0__SRCID__CP_BAD_OPCODE_ERROR, "OPCODE_ERROR_INT_ENABLE")
        queue.stop(f"{type(error).__name__} in {packet or 'no packet'}: {error}")
        if code:
            try:
                self._tell(code)
            except Fault:
                self.board.note("aql-signal", f"{queue.name}: its queue_inactive_signal cannot be told {code:#x}")

    def _tell(self, code: int) -> bool:
        """Or a code into the queue's signal; False when it has none."""
        signal = self.number(self.amd_queue + INACTIVE_SIGNAL)
        if not signal:
            return False
        with atomics.LOCK:
            self.write(signal + SIGNAL_VALUE, self.number(signal + SIGNAL_VALUE) | code)
        self._mail(signal)
        return True

    def _wait_for_scratch(self) -> None:
        """The runtime gives more scratch, sets the signal back to 0, and the packet is tried again."""
        signal = self.number(self.amd_queue + INACTIVE_SIGNAL)
        self.queue.wait(lambda: self.number(signal + SIGNAL_VALUE) == 0)

    # ---- packets

    def _process(self, packet: Packet) -> bool:
        """False when the packet must be tried again. :raises AqlError and what engines raise:"""
        start = self.board.clock()
        acting(self.queue.name, packet)
        if packet.kind in (BARRIER_AND, BARRIER_OR):
            self._barrier(packet)
            self._fence(packet.acquire)
        elif packet.kind == VENDOR and packet.data[2] == VENDOR_BARRIER_VALUE:
            if (met := self.barrier_value(packet)) is not None:
                self.queue.wait(met)
            self._fence(packet.acquire)
        else:
            self._fence(packet.acquire)
            if packet.kind == KERNEL_DISPATCH:
                if not self._dispatch(packet):
                    return False
            elif packet.kind == VENDOR and packet.data[2] == VENDOR_PM4_IB:
                self._pm4(packet)
            else:
                raise AqlError(BAD_VENDOR if packet.kind == VENDOR else BAD_PACKET,
                               f"{packet.name} (format {packet.data[2]}) is nothing that the engine processes")
        self._fence(packet.release, release=True)
        if packet.completion:
            self._complete(packet.completion, start)
        return True

    def _fence(self, scope: int, *, release: bool = False) -> None:
        """Caches of a fence (LLVM, User Guide for AMDGPU Backend, "Memory Model GFX10-GFX11"): acquire invalidates, to
        GL2 where the system is meant; release writes GL2 back for the system."""
        if not scope:
            return
        fields = {"GL2_WB": 1} if release else {"GLI_INV": 1, "GLK_INV": 1, "GLV_INV": 1, "GL1_INV": 1}
        if scope == SCOPE_SYSTEM and not release:
            fields |= {"GL2_INV": 1}
        if release and scope == SCOPE_AGENT:
            return
        word = next(w for w in pm4.PACKETS["ACQUIRE_MEM"].words if w.name == "GCR_CNTL")
        control = sum(value << word.fields[name][1] for name, value in fields.items())
        self.board.gfx.cache_operation(self.queue.name, self.vmid, control)

    def _signal(self, handle: int) -> int:
        """Its value, signed."""
        return int.from_bytes(self.read(handle + SIGNAL_VALUE, 8), "little", signed=True)

    def _barrier(self, packet: Packet) -> None:
        signals = [handle for handle in struct.unpack_from("<5Q", packet.data, 8) if handle]
        enough = all if packet.kind == BARRIER_AND else any
        if signals:
            self.queue.wait(lambda: enough(self._signal(handle) == 0 for handle in signals))

    def barrier_value(self, packet: Packet) -> Callable[[], bool] | None:
        """Whether what the packet waits for is so; None when it waits for nothing.

        :raises AqlError: there is no such condition.
        """
        handle, value, mask, condition = struct.unpack_from("<QqqI", packet.data, 8)
        if condition > 3:
            raise AqlError(BAD_VENDOR, f"{packet}: there is no condition {condition}")

        def met() -> bool:
            seen = self._signal(handle) & mask
            return (seen == value, seen != value, seen < value, seen >= value)[condition]
        return met if handle else None

    def _pm4(self, packet: Packet) -> None:
        words = list(struct.unpack_from("<4I", packet.data, 4))
        inner = decode_pm4(words)
        if inner.name != "INDIRECT_BUFFER" or int.from_bytes(packet.data[20:24], "little") != PM4_IB_REMAIN:
            raise AqlError(BAD_VENDOR, f"{packet}: holds {inner}, or dw_cnt_remain is not {PM4_IB_REMAIN}")
        self.queue.executor().execute(inner, self.vmid, self.queue.base, 0)

    def _complete(self, signal: int, start: int) -> None:
        properties = self.number(self.amd_queue + QUEUE_PROPERTIES, 4)
        if properties & PROFILING:
            self.write(signal + SIGNAL_START, start)
            self.write(signal + SIGNAL_END, self.board.clock())
        self.queue.end_of_pipe()
        with atomics.LOCK:
            self.write(signal + SIGNAL_VALUE, self.number(signal + SIGNAL_VALUE) - 1)
        self._mail(signal)

    def _mail(self, signal: int) -> None:
        """The event's number into its mailbox, and an interrupt for who sleeps on it."""
        mailbox = self.number(signal + SIGNAL_MAILBOX)
        if mailbox:
            event = self.number(signal + SIGNAL_EVENT, 4)
            self.write(mailbox, event)
            self.queue.interrupt(ih.GFX_11_0_0__SRCID__CP_EOP_INTERRUPT, "TIME_STAMP_INT_ENABLE", event)

    # ---- kernel dispatch

    def _dispatch(self, packet: Packet) -> bool:
        """False when there is not enough scratch: the queue's signal was told, and the packet is to be tried again."""
        setup, *rest = struct.unpack_from("<H3H2x3IIIQQ", packet.data, 2)
        group, grid = tuple(rest[:3]), tuple(rest[3:6])
        private, shared, kernel, kernarg = rest[6:]
        if not 1 <= setup & 3 <= 3 or 0 in group or 0 in grid:
            raise AqlError(BAD_DIMENSIONS, f"{packet}: {setup & 3} dimensions, grid {grid}, workgroup {group}")
        if group[0] * group[1] * group[2] > MAX_GROUP:
            raise AqlError(GROUP_TOO_LARGE, f"{packet}: a workgroup of {group} has more than {MAX_GROUP} work-items")
        if shared > MAX_GROUP_MEMORY:
            raise AqlError(BAD_GROUP_MEMORY, f"{packet}: {shared} bytes of group memory, there are {MAX_GROUP_MEMORY}")
        if not kernel or kernel % 64:
            raise AqlError(BAD_CODE, f"{packet}: kernel object {kernel:#x} is no address of a kernel descriptor")
        descriptor = DESCRIPTOR.unpack(self.read(kernel, PACKET_BYTES))
        _group, _private, _kernarg, _reserved, entry, rsrc3, rsrc1, rsrc2, properties, _preload, _more = descriptor
        wave = 32 if properties & WAVEFRONT_SIZE32 else 64
        queue = self.queue
        tmpring = self.number(self.amd_queue + TMPRING_SIZE, 4)
        if private:
            size = self.board.regs.register("COMPUTE_TMPRING_SIZE")["WAVESIZE"].get(tmpring) * SCRATCH_GRANULE
            if size < private * wave:
                self.board.note("aql-scratch", f"{queue.name}: {packet} needs {private * wave} bytes of scratch a "
                                               f"wave, the queue has {size}")
                if not self._tell(SCRATCH_64 if wave == 64 else SCRATCH_32):
                    raise AqlError(0, f"{packet}: not enough scratch, and no queue_inactive_signal to tell of it")
                return False
        scratch = self.number(self.amd_queue + SCRATCH_BASE)
        lds = self.board.regs.register("COMPUTE_PGM_RSRC2")
        code = kernel + entry
        values = {"PGM_LO": code >> 8 & M32, "PGM_HI": code >> 40, "PGM_RSRC1": rsrc1, "PGM_RSRC3": rsrc3,
                  "PGM_RSRC2": lds.replace(rsrc2, LDS_SIZE=-(-shared // LDS_GRANULE)), "TMPRING_SIZE": tmpring,
                  "DISPATCH_SCRATCH_BASE_LO": scratch >> 8 & M32, "DISPATCH_SCRATCH_BASE_HI": scratch >> 40,
                  "START_X": 0, "START_Y": 0, "START_Z": 0, "RESOURCE_LIMITS": 0}
        values |= {f"NUM_THREAD_{axis}": n for axis, n in zip("XYZ", group, strict=True)}
        values |= {f"DIM_{axis}": n for axis, n in zip("XYZ", grid, strict=True)}
        where = queue.base + packet.number % (queue.words // PACKET_WORDS) * PACKET_BYTES
        values |= {f"USER_DATA_{i}": word for i, word in enumerate(
            self._user_sgprs(properties, where, kernarg, packet.number, private))}
        initiator = self.board.regs.register("COMPUTE_DISPATCH_INITIATOR").pack(
            COMPUTE_SHADER_EN=1, FORCE_START_AT_000=1, USE_THREAD_DIMENSIONS=1, CS_W32_EN=int(wave == 32))
        for name, value in (values | {"DISPATCH_INITIATOR": initiator}).items():
            queue.set_compute(name, value)
        queue.dispatching = True
        launch(queue, (grid[0], grid[1], grid[2]), initiator, self.vmid)
        self.memory.coherence.launches.finish(queue.name)       # the release fence waits for it
        queue.dispatching = False
        return True

    def _user_sgprs(self, properties: int, packet: int, kernarg: int, dispatch_id: int, private: int) -> list[int]:
        """In the order of the table "SGPR Register Set Up Order"."""
        words: list[int] = []
        for bit, value, count in ((SGPR_PRIVATE_BUFFER, 0, 4), (SGPR_DISPATCH_PTR, packet, 2),
                                  (SGPR_QUEUE_PTR, self.amd_queue, 2), (SGPR_KERNARG_PTR, kernarg, 2),
                                  (SGPR_DISPATCH_ID, dispatch_id, 2), (SGPR_FLAT_SCRATCH, 0, 2),
                                  (SGPR_PRIVATE_SIZE, private, 1)):
            if properties & bit:
                words += [value >> 32 * i & M32 for i in range(count)]
        return words[:16]
