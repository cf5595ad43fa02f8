"""What each PM4 packet does on a compute micro engine.

Facts: :mod:`amdrv.facts.pm4`; Linux 6.1, nvd.h and gfx_v11_0.c (fences, register writes and waits, KIQ packets).
COMPUTE_* registers are the queue's own. Register writes beyond the SH and user-config spaces need a privileged queue
(CP_HQD_PQ_CONTROL.PRIV_STATE), queue management needs the queue that RLC_CP_SCHEDULERS names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from amdrv.facts import ih, pm4
from mock import atomics
from mock.actor import acting
from mock.dispatch import launch
from mock.gmc import VMIDS, Client
from mock.packets import BadPacket, Decoded, decode_pm4
from mock.sdma_packets import compare, move

if TYPE_CHECKING:
    from mock.hqd import ComputeQueue

__all__ = ["IllegalAccess", "Left", "Pm4Executor", "Preempted"]

M16, M32, M64 = 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF
E = pm4.ENUMS
BYPASS = E["CACHE_POLICY"]["BYPASS"]
COHER_UNIT = 256                # bytes that COHER_BASE and COHER_SIZE count
MAX_DEPTH = 3                   # indirect buffers within indirect buffers
OPEN_REGISTERS = ("BIF_BX_PF0_GPU_HDP_FLUSH_REQ",)
"""What a queue without PRIV_STATE may write beyond those spaces: queues of user processes flush HDP by themselves
(tinygrad 0.14, ops_amd.py, AMDComputeQueue.memory_barrier, in queues of KFD and of its own)."""
STATISTICS, CS_INVOCATIONS = 14, 10
"""Of a sample: how many, and which one counts compute's work-items (Mesa 25.0, radv_query.c,
pipeline_statistics_indices)."""
TS_EVENT_INDEX = (5, 6)         # RELEASE_MEM: end-of-pipe and end-of-shader events (nvd.h, PACKET3_RELEASE_MEM)


class IllegalAccess(Exception):
    """A register or packet that this queue may not use."""


class Left(NamedTuple):
    """Where a preempted queue was in an indirect buffer: that of ``size`` words at ``base``, to which the one at
    ``first`` was chained (or itself), at a word."""

    first: int
    base: int
    size: int
    at: int


class Preempted(Exception):
    """The queue was told to go while it worked. ``stack``: the buffers that it was in, the outermost first."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[Left] = []


class Pm4Executor:
    """Runs one queue's packets. ``execute`` returns how many further words to pass over."""

    graphics = False        # does it read packets as the graphics pipe does?
    needs_valid = True
    """Are indirect buffers without VALID passed over? (gfx_v11_0.c: ring_emit_ib_compute sets it, ring_emit_ib_gfx does
    not)"""
    position = 0            # of the packet in work, in words of its ring or buffer

    def __init__(self, queue: ComputeQueue) -> None:
        self.queue, self.board = queue, queue.board
        self.memory = queue.board.memory
        self.vmid = 0
        self.depth = 0
        self._at: dict[int, tuple[int, int, int]] = {}      # by depth: buffer, its words, the packet's place
        self._open_registers = frozenset(self.board.regs.dword(name) for name in OPEN_REGISTERS)
        if self.board.trace is not None:
            self.execute = self.board.trace.packets(queue, self.execute)    # type: ignore[method-assign]

    def execute(self, packet: Decoded, vmid: int, base: int, position: int) -> int:
        """:raises BadPacket, IllegalAccess, Hang, Fault, IsaError:"""
        self.vmid, self.position = vmid, position
        acting(self.queue.name, packet)
        method = getattr(self, self.method(packet), None)
        if method is None:
            raise BadPacket(packet.opcode, f"{packet.name} is not for the {'graphics' if self.graphics else 'compute'} "
                                           "micro engine")
        return 0 if self.skipped(packet) else method(packet) or 0

    def method(self, packet: Decoded) -> str:
        """The method that performs a packet."""
        return "op_" + packet.name.lower()

    def skipped(self, packet: Decoded) -> bool:
        """Is the packet predicated, and the predicate false?"""
        return False

    def _bad(self, packet: Decoded, why: str) -> BadPacket:
        return BadPacket(packet.opcode, f"{packet}: {why}")

    # ---- memory and registers

    def read(self, address: int, nbytes: int) -> int:
        return int.from_bytes(self.memory.read("gc", self.vmid, address, nbytes, client=Client.CPC), "little")

    def write(self, address: int, value: int, nbytes: int, *, through: bool = False) -> None:
        """``through``: past GL2 into memory too, as cache policy BYPASS has it."""
        self.memory.write("gc", self.vmid, address, (value & ((1 << 8 * nbytes) - 1)).to_bytes(nbytes, "little"),
                          client=Client.CPC, through=through)

    def read_register(self, dword: int) -> int:
        known = self.board.regs.names.by_dword.get(dword)
        if known is not None and known[1].name in self.queue.mec.compute_names:
            return self.board.regs[known[1].name, self.queue.bank]
        return self.board.read_dword(dword)

    def write_register(self, dword: int, value: int, *, free: bool = False) -> None:
        """``free``: the packet's own space, which any queue may write."""
        known = self.board.regs.names.by_dword.get(dword)
        if known is not None and known[1].name in self.queue.mec.compute_names:
            self.board.regs[known[1].name, self.queue.bank] = value
            return
        if not free and not self.queue.privileged:
            low, high = pm4.REGISTER_SPACES["SET_UCONFIG_REG"]
            if not low <= dword < high and dword not in self._open_registers:
                raise IllegalAccess(f"write of {self.board.regs.names.describe(dword)} by a queue without "
                                    "CP_HQD_PQ_CONTROL.PRIV_STATE")
        self.board.write_dword(dword, value)

    def _set_registers(self, packet: Decoded, space: str) -> None:
        low, high = pm4.REGISTER_SPACES[space]
        first = low + packet["REG_OFFSET"]
        if first + len(packet.tail) > high:
            raise self._bad(packet, f"registers beyond the end of the space ({high:#x})")
        for i, value in enumerate(packet.tail):
            self.write_register(first + i, value, free=True)

    def _set_pairs(self, packet: Decoded, space: str) -> None:
        """(register, value) pairs."""
        low, high = pm4.REGISTER_SPACES[space]
        if len(packet.tail) % 2:
            raise self._bad(packet, "half a pair at the end")
        for register, value in zip(packet.tail[::2], packet.tail[1::2], strict=True):
            self._set_one(packet, low + (register & M16), high, value)

    def _set_packed_pairs(self, packet: Decoded, space: str) -> None:
        """Two register numbers in a word, then their values."""
        low, high = pm4.REGISTER_SPACES[space]
        if len(packet.tail) % 3 or packet["REG_COUNT"] > len(packet.tail) // 3 * 2:
            raise self._bad(packet, f"{len(packet.tail)} words do not hold {packet['REG_COUNT']} packed registers")
        for at in range(0, len(packet.tail), 3):
            both, first, second = packet.tail[at:at + 3]
            self._set_one(packet, low + (both & M16), high, first)
            self._set_one(packet, low + (both >> 16), high, second)

    def _set_one(self, packet: Decoded, dword: int, end: int, value: int) -> None:
        if dword >= end:
            raise self._bad(packet, f"registers beyond the end of the space ({end:#x})")
        self.write_register(dword, value, free=True)

    # ---- nothing to do here

    def op_nop(self, packet: Decoded) -> None:
        pass

    op_packet2_nop = op_pfp_sync_me = op_frame_control = op_nop

    # ---- registers

    def op_set_sh_reg(self, packet: Decoded) -> None:
        self._set_registers(packet, "SET_SH_REG")

    op_set_sh_reg_index = op_set_sh_reg

    def op_set_sh_reg_pairs(self, packet: Decoded) -> None:
        self._set_pairs(packet, "SET_SH_REG")

    def op_set_sh_reg_pairs_packed(self, packet: Decoded) -> None:
        self._set_packed_pairs(packet, "SET_SH_REG")

    op_set_sh_reg_pairs_packed_n = op_set_sh_reg_pairs_packed

    def op_set_uconfig_reg(self, packet: Decoded) -> None:
        self._set_registers(packet, "SET_UCONFIG_REG")

    op_set_uconfig_reg_index = op_set_uconfig_reg

    def op_set_config_reg(self, packet: Decoded) -> None:
        if not self.queue.privileged:
            raise IllegalAccess("SET_CONFIG_REG in a queue without CP_HQD_PQ_CONTROL.PRIV_STATE")
        self._set_registers(packet, "SET_CONFIG_REG")

    # ---- launches

    def op_set_base(self, packet: Decoded) -> None:
        if packet["BASE_INDEX"] == E["SET_BASE_INDEX"]["INDIRECT_BASE"]:
            self.queue.indirect_base = packet["ADDRESS"]

    def _dispatch(self, dimensions: tuple[int, int, int], packet: Decoded) -> None:
        initiator = 0
        for field, (msb, lsb, *_) in next(w for w in pm4.PACKETS[packet.name].words
                                          if w.name == "DISPATCH_INITIATOR").fields.items():
            initiator |= packet[field] << lsb & ((2 << msb) - 1)
        queue = self.queue
        for axis, value in zip("XYZ", dimensions, strict=True):
            queue.set_compute(f"DIM_{axis}", value)
        queue.set_compute("DISPATCH_INITIATOR", initiator)
        queue.dispatching = True
        launch(queue, dimensions, initiator, self.vmid)
        queue.dispatching = False       # a launch that failed leaves its waves behind

    def op_dispatch_direct(self, packet: Decoded) -> None:
        self._dispatch((packet["DIM_X"], packet["DIM_Y"], packet["DIM_Z"]), packet)

    def op_dispatch_indirect(self, packet: Decoded) -> None:
        self._dispatch_from(packet["ADDRESS"], packet)

    def _dispatch_from(self, address: int, packet: Decoded) -> None:
        x, y, z = (self.read(address + 4 * i, 4) for i in range(3))
        self._dispatch((x, y, z), packet)

    def op_run_cleaner_shader(self, packet: Decoded) -> None:
        """Clears LDS and registers between processes, which no wave here finds anything in."""

    # ---- fences of user queues

    def op_protected_fence_signal(self, packet: Decoded) -> None:
        """The read pointer behind this packet, to where only the kernel writes, and an interrupt that names the
        doorbell (Linux 7.3, amdgpu_userq_fence.c; gfx_v11_0.c, gfx_v11_0_eop_irq)."""
        queue = self.queue
        address = queue.fence_address()
        self.memory.coherence.launches.finish(queue.name)
        position = (self.position if not self.depth else queue.read) + packet.length
        self.memory.write("gc", 0, address, position.to_bytes(8, "little"), client=Client.CPC, through=True)
        queue.interrupt(ih.GFX_11_0_0__SRCID__CP_EOP_INTERRUPT, "TIME_STAMP_INT_ENABLE",
                        queue.hqd_field("PQ_DOORBELL_CONTROL", "DOORBELL_OFFSET"))

    def op_fence_wait_multi(self, packet: Decoded) -> None:
        """Until each fence has reached its value: four words a fence."""
        if len(packet.tail) % 4:
            raise self._bad(packet, f"{len(packet.tail)} words are no fences of address and value")
        vmid = self.vmid
        for at in range(0, len(packet.tail), 4):
            address, value = (packet.tail[at + i] | packet.tail[at + i + 1] << 32 for i in (0, 2))

            def reached(address: int = address, value: int = value) -> bool:
                self.vmid = vmid
                return self.read(address & ~7, 8) >= value
            self.queue.wait(reached)

    # ---- caches and events

    def op_acquire_mem(self, packet: Decoded) -> None:
        if packet["PWS_ENA"]:           # waits for an event of RELEASE_MEM
            self.memory.coherence.launches.finish(self.queue.name)
        word = next(w for w in pm4.PACKETS["ACQUIRE_MEM"].words if w.name == "GCR_CNTL")
        control = sum(packet[field] << place[1] for field, place in word.fields.items())
        self.board.gfx.cache_operation(self.queue.name, self.vmid, control, packet["COHER_BASE"] * COHER_UNIT,
                                       packet["COHER_SIZE"] * COHER_UNIT)

    def op_prime_utcl2(self, packet: Decoded) -> None:
        """Translations in advance; what is not mapped is not a fault here."""

    def op_event_write(self, packet: Decoded) -> None:
        """CS_PARTIAL_FLUSH waits for the queue's launches; SAMPLE_PIPELINESTAT stores the statistics, of which those of
        compute count; nothing else concerns compute."""
        kind, kinds = packet["EVENT_TYPE"], E["VGT_EVENT_TYPE"]
        if kind == kinds["CS_PARTIAL_FLUSH"]:
            self.memory.coherence.launches.finish(self.queue.name)
        elif kind == kinds["SAMPLE_PIPELINESTAT"] and packet["ADDRESS"]:
            statistics = np.zeros(STATISTICS, np.uint64)
            statistics[CS_INVOCATIONS] = self.board.perf.counts["work_items"]
            self.memory.write("gc", self.vmid, packet["ADDRESS"], statistics.tobytes(), client=Client.CPC)

    def op_hdp_flush(self, packet: Decoded) -> None:
        self.board.hdp_flush()

    def op_release_mem(self, packet: Decoded) -> None:
        queue = self.queue
        if packet["EVENT_INDEX"] not in TS_EVENT_INDEX:
            raise self._bad(packet, f"event index {packet['EVENT_INDEX']} of a timestamp event must be 5 or 6")
        queue.end_of_pipe()
        self.memory.coherence.launches.finish(queue.name)
        caches = {"GLM_WB": 4, "GLM_INV": 5, "GLK_WB": 6, "GLK_INV": 7, "GLV_INV": 8, "GL1_INV": 9, "GL2_US": 10,
                  "GL2_RANGE": 11, "GL2_DISCARD": 13, "GL2_INV": 14, "GL2_WB": 15, "SEQ": 16}
        control = sum(packet[field] << lsb for field, lsb in caches.items())
        if control:
            self.board.gfx.cache_operation(queue.name, self.vmid, control)
        data, address = packet["DATA_SEL"], packet["ADDRESS"]
        kinds, through = E["RELEASE_DATA"], packet["CACHE_POLICY"] == BYPASS
        if data == kinds["LOW_32"]:
            self.write(address & ~3, packet["DATA_LO"], 4, through=through)
        elif data != kinds["NONE"]:
            if address & 7:
                self.board.note("release-alignment", f"{queue.name}: RELEASE_MEM of 64 bits at {address:#x}; the low "
                                                     "three address bits are ignored")
            if data not in (kinds["DATA_64"], kinds["GPU_CLOCK"], kinds["SYSTEM_CLOCK"]):
                raise self._bad(packet, f"data selection {data} is not modelled")
            self.write(address & ~7, packet["DATA"] if data == kinds["DATA_64"] else self.board.clock(), 8,
                       through=through)
        if packet["INT_SEL"] in (E["RELEASE_INT"]["INTERRUPT_ONLY"], E["RELEASE_INT"]["INTERRUPT_AFTER_WRITE"]):
            queue.interrupt(ih.GFX_11_0_0__SRCID__CP_EOP_INTERRUPT, "TIME_STAMP_INT_ENABLE", packet["INT_CTXID"])

    # ---- waiting

    def _wait(self, packet: Decoded, nbytes: int) -> None:
        function, mask, reference = packet["FUNCTION"], packet["MASK"], packet["REFERENCE"]
        if function > max(E["COMPARE"].values()):
            raise self._bad(packet, f"there is no comparison {function}")
        vmid = self.vmid
        if packet["OPERATION"] == E["WAIT_OPERATION"]["WR_WAIT_WR_REG"]:
            self.write_register(packet["ADDRESS_LO"], reference)
            dword = packet["ADDRESS_HI"]
            reference &= mask       # it is a request as a whole, of which the acknowledge repeats a part (amdgpu_gmc.c,
                                    # amdgpu_gmc_emit_flush_gpu_tlb)

            def look() -> int:
                return self.read_register(dword)
        elif packet["MEM_SPACE"] == E["SPACE"]["MEMORY"]:
            address = packet["ADDRESS"] & ~(nbytes - 1)

            def look() -> int:
                self.vmid = vmid
                return self.read(address, nbytes)
        else:
            dword = packet["ADDRESS_LO"]

            def look() -> int:
                return self.read_register(dword)
        self.queue.wait(lambda: compare(function, look() & mask, reference))

    def op_wait_reg_mem(self, packet: Decoded) -> None:
        self._wait(packet, 4)

    def op_wait_reg_mem64(self, packet: Decoded) -> None:
        self._wait(packet, 8)

    def op_cond_exec(self, packet: Decoded) -> int:
        return 0 if self.read(packet["ADDRESS"], 4) else packet["EXEC_COUNT"]

    def op_mem_semaphore(self, packet: Decoded) -> None:
        address = packet["ADDRESS"]
        if packet["SEM_SEL"] == E["SEMAPHORE"]["SIGNAL"]:
            one = packet["SIGNAL_TYPE"] == E["SEMAPHORE_SIGNAL"]["WRITE_ONE"]
            with atomics.LOCK:
                self.write(address, 1 if one else self.read(address, 8) + 1, 8)
        elif packet["SEM_SEL"] == E["SEMAPHORE"]["WAIT"]:
            def take() -> bool:
                with atomics.LOCK:
                    value = self.read(address, 8)
                    if value:
                        self.write(address, value - 1, 8)
                    return bool(value)
            self.queue.wait(take)
        else:
            raise self._bad(packet, f"semaphore selection {packet['SEM_SEL']} is none")

    # ---- data

    def op_write_data(self, packet: Decoded) -> None:
        kind = packet["DST_SEL"]
        step = 0 if packet["WR_ONE_ADDR"] else 1
        if kind == E["CONTROL__DST_SEL"]["MEM_MAPPED_REGISTER"]:
            for i, value in enumerate(packet.tail):
                self.write_register(packet["DST_ADDR_LO"] + i * step, value)
        elif kind in (1, 2, 5):         # memory through GRBM, L2, memory
            address, through = packet["DST_ADDR"] & ~3, packet["CACHE_POLICY"] == BYPASS
            if step:
                self.memory.write("gc", self.vmid, address, np.array(packet.tail, np.uint32).tobytes(),
                                  client=Client.CPC, through=through)
            else:
                for value in packet.tail:
                    self.write(address, value, 4, through=through)
        else:
            raise self._bad(packet, f"destination {kind} is not modelled")

    def op_copy_data(self, packet: Decoded) -> None:
        size = 8 if packet["COUNT_SEL"] else 4
        source, sources = packet["SRC_SEL"], E["COPY_SRC"]
        if source in (sources["REG"], sources["PERF"]):
            dword = packet["SRC_ADDR_LO"]
            value = self.read_register(dword)
            if size == 8:
                value |= self.read_register(dword + 1) << 32
        elif source in (sources["SRC_MEM"], sources["TC_L2"]):
            value = self.read(packet["SRC_ADDR"] & ~3, size)
        elif source == sources["IMM"]:
            value = packet["SRC_ADDR"]
        elif source == sources["TIMESTAMP"]:
            value = self.board.clock()
        else:
            raise self._bad(packet, f"source {source} is not modelled")
        destination, kinds = packet["DST_SEL"], E["COPY_DST"]
        if destination in (kinds["REG"], kinds["PERF"]):
            self.write_register(packet["DST_ADDR_LO"], value & M32)
            if size == 8:
                self.write_register(packet["DST_ADDR_LO"] + 1, value >> 32)
        elif destination in (kinds["MEM"], kinds["MEM_GRBM"], kinds["TC_L2"]):
            self.write(packet["DST_ADDR"] & ~3, value, size, through=packet["DST_CACHE_POLICY"] == BYPASS)
        else:
            raise self._bad(packet, f"destination {destination} is not modelled")

    def op_atomic_mem(self, packet: Decoded) -> None:
        found = atomics.operation(packet["ATOMIC"])
        if found is None:
            raise self._bad(packet, f"there is no atomic operation {packet['ATOMIC']}")
        name, size, _returns = found
        address = packet["ADDRESS"] & ~(size - 1)
        self.memory.check_atomic("gc", self.vmid, [address], client=Client.CPC)
        vmid, loop = self.vmid, packet["COMMAND"] == E["ATOMIC_COMMAND"]["LOOP"]

        def once() -> bool:
            self.vmid = vmid
            with atomics.LOCK:
                old = self.read(address, size)
                self.write(address, atomics.apply(name, size, old, packet["SRC_DATA"], packet["CMP_DATA"]), size)
            return not loop or old == packet["CMP_DATA"] & ((1 << 8 * size) - 1)
        self.queue.wait(once)

    def op_dma_data(self, packet: Decoded) -> None:
        nbytes = packet["BYTE_COUNT"]
        source, sources = packet["SRC_SEL"], E["CP_DMA_WORD1__SRC_SEL"]
        destination, destinations = packet["DST_SEL"], E["CP_DMA_WORD1__DST_SEL"]
        if destination == destinations["NOWHERE"]:      # into GL2 only, in advance (Mesa 25.0, radv_cp_dma.c)
            return
        register = E["COMMAND__SAS"]["REGISTER"]
        if packet["SAS"] == register or packet["DAS"] == register or source == sources["GDS"] \
                or destination not in (destinations["DST_ADDR"], destinations["DST_ADDR_TC_L2"]):
            raise self._bad(packet, "only copies and fills of memory are modelled")
        if not nbytes:
            return
        runs = self.memory.runs("gc", self.vmid, packet["DST_ADDR"], nbytes, write=True, client=Client.CPC)
        if source == sources["DATA"]:
            pattern = packet["SRC_ADDR_LO"].to_bytes(4, "little")
            data = np.frombuffer(pattern * (-(-nbytes // 4)), np.uint8)[:nbytes].copy()
            move(runs, [(int(data.ctypes.data), nbytes)])
        else:
            move(runs, self.memory.runs("gc", self.vmid, packet["SRC_ADDR"], nbytes, write=False, client=Client.CPC))
        for host, size in runs:
            self.memory.written(host, size, through=packet["DST_CACHE_POLICY"] == BYPASS)

    # ---- indirect buffers

    def op_indirect_buffer(self, packet: Decoded) -> None:
        queue = self.queue
        if self.needs_valid and not packet["VALID"]:
            self.board.note("ib-valid", f"{queue.name}: {packet} without VALID is passed over")
            return
        if self.depth == MAX_DEPTH:
            raise self._bad(packet, f"indirect buffers more than {MAX_DEPTH} deep")
        outer = self.vmid
        vmid = outer or packet["VMID"]      # a queue of VMID 0 says whose buffer it is
        left = queue.left.pop(0) if queue.left else None        # where a preempted queue was in this buffer
        if left is not None and left.first == packet["IB_BASE"]:
            base, size, at = left.base, left.size, left.at
        else:
            base, size, at = packet["IB_BASE"], packet["IB_SIZE"], 0
            queue.left.clear()
        words = self.memory.read_words("gc", vmid, base, size, client=Client.CPC).tolist()
        self.depth += 1
        try:
            self.run(words, vmid, base, at, packet["IB_BASE"])
        finally:
            self.depth -= 1
            self.vmid = outer

    def run(self, words: Sequence[int], vmid: int, base: int, at: int = 0, first: int = 0) -> None:
        """``first``: the buffer from which this one was chained."""
        try:
            self._run(words, vmid, base, at)
        except Preempted as leave:
            leave.stack.insert(0, Left(first, *self._at.pop(self.depth)))
            raise

    def _run(self, words: Sequence[int], vmid: int, base: int, at: int) -> None:
        while at < len(words):
            self._at[self.depth] = base, len(words), at
            self.queue.check()
            packet = decode_pm4(words, at, self.graphics)
            self.board.counters["pm4_packets"] += 1
            if packet.name == "INDIRECT_BUFFER" and packet["CHAIN"] and packet["VALID"]:
                base, at = packet["IB_BASE"], 0         # goes on there, and does not come back
                words = self.memory.read_words("gc", vmid, base, packet["IB_SIZE"], client=Client.CPC).tolist()
                continue
            if packet.name == "REWIND" and not packet["VALID"]:
                self.vmid = vmid
                address = base + 4 * at + 4
                self.queue.wait(lambda address=address: bool(self._again(vmid, address) >> 31))     # type: ignore[misc]
                words = self.memory.read_words("gc", vmid, base, len(words), client=Client.CPC).tolist()
            elif packet.name != "REWIND":
                at += self.execute(packet, vmid, base, at)
            at += packet.length

    def _again(self, vmid: int, address: int) -> int:
        self.vmid = vmid
        return self.read(address, 4)

    # ---- TLBs

    def op_invalidate_tlbs(self, packet: Decoded) -> None:
        """By PASID, through IH_VMID_n_LUT (gfx_v11_0.c, gfx_v11_0_ring_invalidate_tlbs)."""
        regs = self.board.regs
        for hub, table in (("gc", "IH_VMID_{}_LUT"), ("mm", "IH_VMID_{}_LUT_MM")):
            vmids = sum(1 << n for n in range(1, VMIDS) if regs[table.format(n)] & 0xFFFF == packet["PASID"])
            if vmids and (hub == "gc" or packet["ALL_HUB"]):
                self.memory.hubs[hub].forget(vmids, (1 << 36) - 1, True, entries=True, walks=True)
                self.board.counters["tlb_flushes"] += 1
