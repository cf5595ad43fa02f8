"""The ``AM`` backend of hcq: its commands as PM4 and SDMA 6 packets, on a card that ``amdrv.device`` booted.

Packets are built once from their description, as templates; a launch copies its kernel's template and fills in the
few words that change. Sources: Linux 6.1 (``gfx_v11_0.c``, ``sdma_v6_0.c``), Mesa 25.0 (``radv_cmd_buffer.c``,
``ac_cmdbuf.c``, ``ac_shader_util.c``), LLVM's "User Guide for AMDGPU Backend" (initial kernel state, memory model).

Two limits come from the hardware. Both engines wait on 32-bit words, so signals hold 32 bits here
(``Properties.signal_bits``; hcq starts a new signal before a timeline runs over), and no wait ever sees half of a
store. And the scratch slots of the waves share one buffer: it grows when a kernel needs more, and older launches
keep the buffer they were given.
"""

from __future__ import annotations

import bisect
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from amdrv import pm4, sdma
from amdrv.errors import OutOfMemoryError, PacketError
from amdrv.facts import pm4 as pm4_facts
from amdrv.facts import sdma6 as sdma_facts
from amdrv.hal import Hal
from amdrv.moving import MovingSide
from amdrv.sdma.encoder import COPY_LARGEST as SDMA_LARGEST
from amdrv.sdma.encoder import IB_ALIGN, CopyEncoder
from hcq.backend import IndirectBuffer, Kernel, Memory, Properties

if TYPE_CHECKING:
    from amdrv.device import Allocation, Device, Ring
    from amdrv.recovery import Recovery

__all__ = ["AmBackend", "ComputeEncoder", "CopyEncoder", "SDMA_LARGEST", "Scratch", "open_backend"]

SHADER_ENGINES = 8                      # COMPUTE_STATIC_THREAD_MGMT_SE0..7
ARRAY_SHIFT = 16                        # SH1_CU_EN: the second shader array's CUs
DISPATCH_INTERLEAVE = 256               # work-items to one SE before the next: Mesa's choice for compute (ac_cmdbuf.c)
USER_SGPRS = 16
LDS_GRANULE = 512                       # bytes a unit of COMPUTE_PGM_RSRC2.LDS_SIZE (LLVM guide, gfx7 to gfx11)
SCRATCH_GRANULE = 256                   # bytes a unit of COMPUTE_TMPRING_SIZE.WAVESIZE on gfx11 (Mesa)
LARGEST_WAVESIZE = (1 << 15) - 1        # units that WAVESIZE can say
WAVES_PER_CU = 32                       # that may hold scratch (Mesa, ac_gpu_info.c: max_scratch_waves)
WAVES_PER_WORKGROUP = 32                # 1024 work-items in waves of 32: what must fit into one SE
SCRATCH_BUDGET = 256 << 20              # bytes; beyond it fewer waves run at a time (our choice)
# LLVM, AMDGPUBaseInfo.cpp, of gfx1100: getEUsPerCU, getMaxWavesPerEU, getTotalNumVGPRs, getVGPRAllocGranule
SIMDS_PER_CU, WAVES_PER_SIMD, VGPRS_PER_SIMD, VGPR_GRANULE = 2, 16, 1536, 24
MAX_WORKGROUP = 1024
LDS_BYTES = 65536                       # of a workgroup
POLL_INTERVAL = 4                       # Linux 6.1, sdma_v6_0_ring_emit_pipeline_sync, gfx_v11_0_wait_reg_mem
LOW_WORD = 0xffffffff
PM4_COUNT = 0x3fff                      # of a type-3 header, words after it less one
DISPATCHES = frozenset(pm4_facts.PACKETS[f"DISPATCH_{name}"].opcode for name in ("DIRECT", "INDIRECT"))
WRITE_WORDS = 1024                      # of a WRITE_DATA, so that it finds room in a ring (our choice)
UNCOUNTED = 1024                        # submissions that wait to be counted
COPY_LINEAR = sdma_facts.PACKETS["COPY_LINEAR"].opcode      # sub-opcode 0
COUNT_MASK = (1 << 30) - 1

# kernel_code_properties, in the order in which they take user SGPRs: bit, dwords (LLVM guide, "Initial Kernel
# Execution State"). The last bits of the word choose the wave size and say whether the stack is dynamic.
PRIVATE_SEGMENT_BUFFER, DISPATCH_PTR, QUEUE_PTR, KERNARG_PTR, DISPATCH_ID, FLAT_SCRATCH_INIT, PRIVATE_SIZE = range(7)
USER_SGPR_DWORDS = {DISPATCH_PTR: 2, QUEUE_PTR: 2, KERNARG_PTR: 2, DISPATCH_ID: 2, PRIVATE_SIZE: 1}

RegisterAddress = Callable[[str], int]
"""Name of a GC register -> its dword address in the register BAR."""


class _Template:
    """A packet built once; a copy with other 64-bit values costs a few stores.

    :param holes: words that begin a 64-bit value: index of the low half; the high half follows.
    """

    def __init__(self, words: list[int], *holes: int) -> None:
        self.words, self.holes = words, holes

    def append(self, words: list[int], address: int, value: int = 0) -> None:
        if address & 7 or not 0 <= value < 1 << 64:
            raise PacketError(f"a signal is a 64-bit word at a multiple of 8; {value:#x} at {address:#x} is none")
        start = len(words)
        words += self.words
        for hole, whole in zip(self.holes, (address, value), strict=False):
            words[start + hole] = whole & LOW_WORD
            words[start + hole + 1] = whole >> 32


def _word(name: str, word: str) -> int:
    """Where a word stands in a PM4 packet, its header counted."""
    return [each.name for each in pm4_facts.PACKETS[name].words].index(word) + 1


class Scratch:
    """What a launch with scratch has to say: where the waves' slots are, how many an SE has, how large one is."""

    def __init__(self, address: int = 0, wave_bytes: int = 0, waves_per_se: int = 0) -> None:
        self.address, self.wave_bytes, self.waves_per_se = address, wave_bytes, waves_per_se


class _Launch:
    """A kernel's packets with holes: everything that only the kernel and the scratch buffer decide is filled in."""

    def __init__(self, kernel: Kernel, scratch: Scratch, register: RegisterAddress) -> None:
        self.scratch = scratch
        self.words: list[int] = []
        self.holes: dict[int, int] = {}         # kernel_code_properties bit -> index of its first word
        self._set(register("COMPUTE_PGM_LO"), [kernel.entry >> 8 & LOW_WORD, kernel.entry >> 40])
        if kernel.private_bytes:
            base = scratch.address >> 8
            self._set(register("COMPUTE_DISPATCH_SCRATCH_BASE_LO"), [base & LOW_WORD, base >> 32])
            self._set(register("COMPUTE_TMPRING_SIZE"),
                      [scratch.waves_per_se | scratch.wave_bytes // SCRATCH_GRANULE << 12])
        self.rsrc2 = self._set(register("COMPUTE_PGM_RSRC1"), [kernel.rsrc1, kernel.rsrc2]) + 1
        self._set(register("COMPUTE_PGM_RSRC3"), [kernel.rsrc3])
        self.threads = self._set(register("COMPUTE_NUM_THREAD_X"), [0, 0, 0])
        user = self._user_data(kernel)
        if user:
            first = self._set(register("COMPUTE_USER_DATA_0"), user)
            self.holes = {bit: first + offset for bit, offset in self.holes.items()}
        self.groups = len(self.words) + 1
        self.words += pm4.build("DISPATCH_DIRECT", SHADER_TYPE=1, DIM_X=0, DIM_Y=0, DIM_Z=0, COMPUTE_SHADER_EN=1,
                                FORCE_START_AT_000=1, ORDER_MODE=1, CS_W32_EN=kernel.wave_size == 32)

    def _set(self, address: int, values: Sequence[int]) -> int:
        """Append a SET_SH_REG; returns the index of the first value."""
        packet = pm4.set_registers(address, values, SHADER_TYPE=1)
        first = len(self.words) + len(packet) - len(values)
        self.words += packet
        return first

    def _user_data(self, kernel: Kernel) -> list[int]:
        properties = kernel.kernel_code_properties
        for bit, what in ((PRIVATE_SEGMENT_BUFFER, "a private segment buffer"),
                          (FLAT_SCRATCH_INIT, "a flat scratch address")):
            if properties >> bit & 1:
                raise PacketError(f"kernel {kernel.name!r} asks for {what} in SGPRs; gfx11 sets scratch up by itself "
                                  "(architected flat scratch), so this code was compiled for another card")
        user: list[int] = []
        for bit, dwords in USER_SGPR_DWORDS.items():
            if properties >> bit & 1:
                self.holes[bit] = len(user)
                user += [kernel.private_bytes if bit == PRIVATE_SIZE else 0] * dwords
        if len(user) > USER_SGPRS:
            raise PacketError(f"kernel {kernel.name!r} asks for {len(user)} user SGPRs; there are {USER_SGPRS}")
        return user


class ComputeEncoder:
    """hcq's compute commands as PM4 packets for a MEC queue."""

    def __init__(self, register: RegisterAddress, wgp_masks: Mapping[tuple[int, int], int],
                 grow: Callable[[Scratch, int], Scratch] | None = None) -> None:
        """
        :param wgp_masks: the active WGPs of each (shader engine, array), a bit each.
        :param grow: (what there is, bytes a wave) -> larger scratch, for an encoder that sees to it by itself.
        """
        self.scratch, self._grow = Scratch(), grow
        self._register = register
        self._cu_masks = [0] * SHADER_ENGINES
        for (engine, array), wgps in wgp_masks.items():
            cus = sum(0b11 << 2 * wgp for wgp in range(wgps.bit_length()) if wgps >> wgp & 1)
            self._cu_masks[engine] |= cus << ARRAY_SHIFT * array
        self._launches: dict[Kernel, _Launch] = {}
        self._dispatches = 0
        # Linux 6.1, gfx_v11_0_emit_mem_sync. It covers what the LLVM guide's memory model for gfx11 asks of an
        # acquire at system scope (GL0 and GL1 invalidated), and code that was just written (GLI, GLK).
        self._barrier = (
            pm4.build("EVENT_WRITE", EVENT_TYPE="CS_PARTIAL_FLUSH", EVENT_INDEX="PARTIAL_FLUSH")
            + pm4.build("ACQUIRE_MEM", COHER_SIZE=(1 << 40) - 1, COHER_BASE=0, POLL_INTERVAL=10, GLI_INV="GLI_ALL",
                        GLK_INV=1, GLV_INV=1, GL1_INV=1, GLM_INV=1, GLM_WB=1, GL2_INV=1, GL2_WB=1))
        # Linux 6.1, gfx_v11_0_wait_reg_mem
        self._wait = _Template(
            pm4.build("WAIT_REG_MEM", FUNCTION="GREATER_EQUAL", MEM_SPACE="MEMORY", ADDRESS=0, REFERENCE=0,
                      MASK=LOW_WORD, POLL_INTERVAL=POLL_INTERVAL), _word("WAIT_REG_MEM", "ADDRESS_LO"))
        self._reference = _word("WAIT_REG_MEM", "REFERENCE")
        holes = _word("RELEASE_MEM", "ADDRESS_LO"), _word("RELEASE_MEM", "DATA_LO")
        self._timestamp = _Template(
            pm4.build("RELEASE_MEM", EVENT_TYPE="BOTTOM_OF_PIPE_TS", EVENT_INDEX="END_OF_PIPE", CACHE_POLICY="BYPASS",
                      DATA_SEL="GPU_CLOCK", ADDRESS=0, DATA=0, INT_CTXID=0), *holes)
        # Linux 6.1, gfx_v11_0_ring_emit_fence
        self._signal = [_Template(
            pm4.build("RELEASE_MEM", EVENT_TYPE="CACHE_FLUSH_AND_INV_TS_EVENT", EVENT_INDEX="END_OF_PIPE",
                      SEQ="SEQ_FORWARD", GL2_WB=1, GL2_INV=1, GL2_US=1, GL1_INV=1, GLV_INV=1, GLM_INV=1, GLM_WB=1,
                      CACHE_POLICY="BYPASS", DATA_SEL="DATA_64", INT_SEL=interrupt, ADDRESS=0, DATA=0, INT_CTXID=0),
            *holes) for interrupt in ("NONE", "INTERRUPT_AFTER_WRITE")]

    def preamble(self) -> list[int]:
        """Words for the beginning of a queue: what stays the same for all launches (Mesa, ac_cmdbuf.c,
        gfx10_init_compute_preamble_state)."""
        at, masks = self._register, self._cu_masks
        words: list[int] = []
        management = "COMPUTE_STATIC_THREAD_MGMT_SE"
        for first, values in ((f"{management}0", masks[0:2]), (f"{management}2", masks[2:4]),
                              (f"{management}4", masks[4:8]),
                              ("COMPUTE_DISPATCH_INTERLEAVE", [DISPATCH_INTERLEAVE]),
                              ("COMPUTE_RESOURCE_LIMITS", [0]), ("COMPUTE_START_X", [0, 0, 0]),
                              ("COMPUTE_USER_ACCUM_0", [0, 0, 0, 0]), ("COMPUTE_DISPATCH_TUNNEL", [0])):
            words += pm4.set_registers(at(first), values, SHADER_TYPE=1)
        return words

    def wait(self, words: list[int], address: int, value: int) -> None:
        if value > LOW_WORD:
            raise PacketError(f"signals hold 32 bits here; a queue cannot wait for {value:#x}")
        start = len(words)
        self._wait.append(words, address)
        words[start + self._reference] = value

    def signal(self, words: list[int], address: int, value: int, *, interrupt: bool = True) -> None:
        self._signal[interrupt].append(words, address, value)

    def timestamp(self, words: list[int], address: int) -> None:
        self._timestamp.append(words, address)

    def memory_barrier(self, words: list[int]) -> None:
        words += self._barrier

    def write(self, words: list[int], dst: int, data: Sequence[int]) -> None:
        """Store 32-bit words, past the caches."""
        for start in range(0, len(data), WRITE_WORDS):
            words += pm4.build("WRITE_DATA", DST_SEL="MEM", WR_CONFIRM=1, CACHE_POLICY="BYPASS",
                               DST_ADDR=dst + 4 * start, DATA=list(data[start:start + WRITE_WORDS]))

    def poll(self, words: list[int], address: int, value: int, mask: int, compare: str) -> None:
        words += pm4.build("WAIT_REG_MEM", FUNCTION=compare, MEM_SPACE="MEMORY", ADDRESS=address, REFERENCE=value,
                           MASK=mask, POLL_INTERVAL=POLL_INTERVAL)

    def atomic(self, words: list[int], address: int, operation: str, operand: int, compare: int, loop: bool) -> None:
        words += pm4.build("ATOMIC_MEM", ATOMIC=f"ATOMIC_{operation}", COMMAND="LOOP" if loop else "WR_CONFIRM",
                           ADDRESS=address, SRC_DATA=operand, CMP_DATA=compare, LOOP_INTERVAL=POLL_INTERVAL)

    def interrupt(self, words: list[int]) -> None:
        words += pm4.build("RELEASE_MEM", EVENT_TYPE="BOTTOM_OF_PIPE_TS", EVENT_INDEX="END_OF_PIPE", DATA_SEL="NONE",
                           INT_SEL="INTERRUPT_ONLY", ADDRESS=0, DATA=0, INT_CTXID=0)

    def indirect(self, words: list[int], address: int, count: int) -> None:
        # Linux 6.1, gfx_v11_0_ring_emit_ib_compute; the queue's own VMID holds
        words += pm4.build("INDIRECT_BUFFER", IB_BASE=address, IB_SIZE=count, VALID=1)

    def exec(self, words: list[int], kernel: Kernel, kernarg: int, grid: Sequence[int], block: Sequence[int],
             *, dynamic_lds: int = 0, dispatch_packet: int = 0, queue_ptr: int = 0,
             dispatch_id: int | None = None) -> None:
        if self._grow is not None and kernel.private_bytes * kernel.wave_size > self.scratch.wave_bytes:
            self.scratch = self._grow(self.scratch, kernel.private_bytes * kernel.wave_size)
        launch = self._launches.get(kernel)
        if launch is None or (launch.scratch is not self.scratch and kernel.private_bytes):
            if len(self._launches) >= 1024:
                self._launches.clear()
            launch = self._launches[kernel] = _Launch(kernel, self.scratch, self._register)
        if dispatch_id is None:
            self._dispatches += 1
            dispatch_id = self._dispatches
        start = len(words)
        words += launch.words
        granules = -(-(kernel.group_bytes + dynamic_lds) // LDS_GRANULE)
        words[start + launch.rsrc2] |= granules << 15          # LDS_SIZE; the descriptor leaves it to the launch
        at = start + launch.threads
        words[at:at + 3] = block
        values = {KERNARG_PTR: kernarg, DISPATCH_PTR: dispatch_packet, QUEUE_PTR: queue_ptr,
                  DISPATCH_ID: dispatch_id}
        for bit, index in launch.holes.items():
            if bit != PRIVATE_SIZE:
                value = values[bit]
                words[start + index] = value & LOW_WORD
                words[start + index + 1] = value >> 32
        at = start + launch.groups
        words[at:at + 3] = grid

    def describe(self, words: Sequence[int]) -> list[str]:
        return pm4.dump(words).splitlines()


class _Queue:
    """A ring of the card, as hcq sees it. What was submitted is counted later, off the path of a launch."""

    def __init__(self, ring: Ring, kind: Literal["compute", "copy"], name: str, statistics: Counter[str]) -> None:
        self.name, self.kind, self.ring = name, kind, ring
        self._put, self._largest = ring.submit, ring.words // 2
        self.encoder: ComputeEncoder | CopyEncoder | None = None        # its own, where it has one
        self._statistics = statistics
        self._uncounted: deque[np.ndarray | IndirectBuffer] = deque()

    def submit(self, words: np.ndarray, indirect: Sequence[IndirectBuffer] = ()) -> None:
        """As the contract says. What would take more than half the ring goes in several pieces, whole packets each."""
        largest = self._largest
        if indirect and self.kind == "copy":
            self._statistics["sdma_packets"] += self.ring.submit(words, align=IB_ALIGN)
        elif len(words) <= largest:
            self._put(words)
        else:
            start = end = 0
            for length in lengths(self.kind, words.tolist()):
                if end + length - start > largest:
                    self.ring.submit(words[start:end])
                    start = end
                end += length
            self.ring.submit(words[start:end])
        self._uncounted.append(words)
        if indirect:
            self._uncounted.extend(indirect)
        if len(self._uncounted) > UNCOUNTED:
            self.count()

    def count(self) -> None:
        """Add what was submitted to the statistics: packets, dispatches, bytes copied."""
        pending, self._uncounted = self._uncounted, deque()
        times = Counter(map(id, pending))               # launches of one kernel are one array, changed in place
        for words in {id(words): words for words in pending}.values():
            if isinstance(words, np.ndarray):
                found = tally(self.kind, words)
            else:
                found = words.counted = words.counted or tally(self.kind, words.words)
            for key, value in found.items():
                self._statistics[key] += value * times[id(words)]


def lengths(kind: str, words: Sequence[int]) -> Iterator[int]:
    """Words of each packet."""
    at = 0
    while at < len(words):
        header = words[at]
        length = (header >> 16 & PM4_COUNT) + 2 if kind == "compute" else sdma.length(words, at)
        yield length
        at += length


def tally(kind: str, words: np.ndarray) -> dict[str, int]:
    """What ``Device.statistics`` says of packets: {key: how many}."""
    stream = words.tolist()
    if kind == "compute":
        at = packets = kernels = 0
        while at < len(stream):
            header = stream[at]
            packets += 1
            kernels += header >> 8 & 0xff in DISPATCHES
            at += (header >> 16 & PM4_COUNT) + 2
        return {"pm4_packets": packets, "kernels": kernels}
    at = packets = copied = 0
    for length in lengths(kind, stream):
        packets += 1
        if stream[at] & 0xffff == COPY_LINEAR:
            copied += (stream[at + 1] & COUNT_MASK) + 1
        at += length
    return {"sdma_packets": packets, "copied_bytes": copied}


class AmBackend(MovingSide):
    """One booted card behind hcq's contract (:class:`hcq.backend.Backend`). Owns ``device``."""

    def __init__(self, device: Device, index: int = 0) -> None:
        self.device = device
        self.name = f"AM:{index}"
        self.properties = Properties(
            arch=device.arch, name=device.marketing_name, compute_units=device.compute_units, wave_sizes=(32, 64),
            max_workgroup=MAX_WORKGROUP, lds_bytes=LDS_BYTES, vram_bytes=device.vram_size,
            timestamp_hz=float(device.clock_hz), signal_bits=32,
            shared_aperture=device.shared_aperture, private_aperture=device.private_aperture,
            simds_per_cu=SIMDS_PER_CU, waves_per_simd=WAVES_PER_SIMD, vgprs_per_simd=VGPRS_PER_SIMD,
            vgpr_granule=VGPR_GRANULE)
        self.compute = ComputeEncoder(lambda name: device.regs[name].address, device.gfx.wgp_masks)
        self.copy = CopyEncoder()
        self._queues: dict[str, list[_Queue]] = {
            "compute": [_Queue(ring, "compute", f"{self.name} compute {number}", device.statistics)
                        for number, ring in enumerate(device.compute_rings)],
            "copy": [_Queue(ring, "copy", f"{self.name} copy {number}", device.statistics)
                     for number, ring in enumerate(device.sdma_rings)]}
        self._starts: list[int] = []                    # of live allocations, in order
        self._live: dict[int, Allocation] = {}
        self._scratches: list[Memory] = []              # older launches may still use all but the last
        for queue in self._queues["compute"]:
            queue.submit(np.array(self.compute.preamble(), np.uint32))

    # --- memory

    def alloc(self, nbytes: int, *, host: bool = False) -> Memory:
        return self._alloc(nbytes, host, "")

    def _alloc(self, nbytes: int, host: bool, name: str) -> Memory:
        """:param name: for the message of a fault nearby."""
        allocation = self.device.alloc(nbytes, kind="system" if host else "vram", name=name)
        bisect.insort(self._starts, allocation.address)
        self._live[allocation.address] = allocation
        return Memory(allocation.address, nbytes, allocation.view if host else None, host, allocation)

    def register(self, array: np.ndarray) -> Memory:
        registered = self.device.register(array)
        allocation = registered.allocation
        bisect.insort(self._starts, allocation.address)
        self._live[allocation.address] = allocation
        return Memory(registered.address, registered.nbytes, registered.view, True, allocation)

    def free(self, memory: Memory) -> None:
        handle: Any = memory.handle
        allocation: Allocation = self._live.pop(handle.address)
        self._starts.pop(bisect.bisect_left(self._starts, allocation.address))
        self.device.free(allocation)

    def upload(self, address: int, data: np.ndarray) -> None:
        index = bisect.bisect_right(self._starts, address) - 1
        allocation = self._live[self._starts[index]] if index >= 0 else None
        if allocation is None or address + len(data) > allocation.address + allocation.nbytes:
            raise PacketError(f"upload of {len(data)} bytes to {address:#x}: no allocation holds them")
        offset = address - allocation.address
        if allocation.view is not None:
            allocation.view[offset:offset + len(data)] = data
        else:
            self._upload_pieces(allocation, offset, data)
        self.device.flush_hdp()

    def _upload_pieces(self, allocation: Allocation, offset: int, data: np.ndarray) -> None:
        """Into VRAM that lies in several pieces, through the BAR."""
        start = 0                                       # of the piece, in the allocation
        for piece, size in allocation.segments:
            first, last = max(offset, start), min(offset + len(data), start + size)
            if first < last:
                window = self.device.require_memory().view(piece + first - start, last - first)
                window[:] = data[first - offset:last - offset]
            start += size

    def ensure_scratch(self, bytes_per_wave: int) -> None:
        if bytes_per_wave > self.compute.scratch.wave_bytes:
            self.compute.scratch = self._more_scratch(self.compute.scratch, bytes_per_wave)

    def _more_scratch(self, scratch: Scratch, bytes_per_wave: int) -> Scratch:
        wanted = -(-bytes_per_wave // SCRATCH_GRANULE) * SCRATCH_GRANULE
        if wanted > LARGEST_WAVESIZE * SCRATCH_GRANULE:
            raise OutOfMemoryError(f"scratch of {bytes_per_wave} bytes a wave; the hardware can say "
                                   f"{LARGEST_WAVESIZE * SCRATCH_GRANULE} (COMPUTE_TMPRING_SIZE.WAVESIZE)")
        # Twice what there was, so that growing in steps costs no more than the last buffer again. An odd number of
        # granules spreads the slots over the memory channels (Mesa, ac_get_scratch_tmpring_size).
        wave_bytes = min(max(wanted, 2 * scratch.wave_bytes) | SCRATCH_GRANULE, LARGEST_WAVESIZE * SCRATCH_GRANULE)
        engines = self.device.shader_engines
        waves = max(WAVES_PER_CU * self.device.compute_units // engines, WAVES_PER_WORKGROUP)
        waves = max(min(waves, SCRATCH_BUDGET // (wave_bytes * engines)), WAVES_PER_WORKGROUP)
        memory = self._alloc(wave_bytes * waves * engines, False, "scratch")
        self._scratches.append(memory)
        return Scratch(memory.address, wave_bytes, waves)

    # --- the rest

    def queues(self, kind: Literal["compute", "copy"]) -> Sequence[_Queue]:
        return self._queues[kind]

    def add_queue(self, kind: Literal["compute", "copy"], priority: str) -> _Queue | str:
        """One more hardware queue, or, in words, why there is none.

        A compute queue has scratch of its own, since its waves run beside the others'.
        """
        number = len(self._queues[kind])
        if kind == "copy":
            return f"{self.name} has {number} copy engines, with one queue each; queue {number} is not one of them"
        try:
            ring = self.device.gfx.add_ring(priority)
        except PacketError as error:
            return str(error)
        queue = _Queue(ring, kind, f"{self.name} {kind} {number}", self.device.statistics)
        queue.encoder = ComputeEncoder(lambda name: self.device.regs[name].address, self.device.gfx.wgp_masks,
                                       self._more_scratch)
        queue.submit(np.array(self.compute.preamble(), np.uint32))
        self._queues[kind].append(queue)
        return queue

    def sleep(self, timeout: float) -> None:
        self.device.interrupts.wait(timeout)

    def check(self) -> None:
        self._count()
        self.device.interrupts.drain()
        self.device.check()

    def fileno(self) -> int | None:
        """Readable when the card has interrupted."""
        return self.device.interrupts.fileno()

    def poll(self) -> None:
        self.device.interrupts.poll()

    def diagnose(self) -> str:
        """What stands still, and at what."""
        return str(self.device.diagnose())

    def recover(self, queues: Sequence[_Queue]) -> Recovery:
        """Reset what stands still; the work of ``queues`` is given up."""
        done = self.device.recover([queue.ring for queue in queues])
        for queue in self._queues["compute"]:           # what a queue keeps between launches may be gone
            queue.submit(np.array(self.compute.preamble(), np.uint32))
        return done

    def _count(self) -> None:
        for queues in self._queues.values():
            for queue in queues:
                queue.count()

    def close(self) -> None:
        self._count()
        self._live.clear()
        self._starts.clear()
        self.device.close()


def open_backend(index: int = 0, *, hal: Hal | None = None) -> AmBackend:
    """Boot card number ``index`` of the HAL that ``AMDRV_HAL`` names and serve hcq with it."""
    from amdrv.device import Device
    device = Device.open(hal, index=index)
    try:
        return AmBackend(device, index)
    except BaseException:
        device.close()
        raise
