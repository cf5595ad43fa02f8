"""A ring of AQL packets, with the queue's block (amd_queue_t) and room for the PM4 words behind each slot.

The driver writes packets and the write index, then rings the doorbell with the last packet's index; the engine sets a
packet's type back to INVALID when it is done with it, and counts the read index up (HSA Platform System Architecture
Specification 1.2, 2.8). Indices only grow.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from amdrv import aql, pm4
from amdrv.aql import queue
from amdrv.errors import PacketError
from amdrv.ring import Ring, RingOwner
from amdrv.scratch import Scratch

__all__ = ["AqlRing"]

PAGE = 4096
TEST_OFFSET, SIGNAL_OFFSET = 512, 1024      # behind the queue's block, in the same page
VENDOR_PM4 = aql.VENDOR | aql.FORMAT_PM4 << 16
KIND_MASK = 0xFF00FF
FEW = 4                                     # packets that are looked at one by one
MAX_WAVES_PER_CU = 32                       # of 32 lanes and more: SIMDs of a CU by waves of a SIMD


class AqlRing(Ring):
    """One hardware queue that takes records (:mod:`amdrv.aql`).

    :ivar scratch: what launches that are encoded now say. :ivar more_scratch: makes larger scratch, when the engine
        says that it has too little.
    """

    units, unit_words = "packets", aql.PACKET_WORDS

    def __init__(self, device: RingOwner, name: str, *, slots: int, doorbell: int) -> None:
        self.slots = slots
        self.scratch = Scratch()
        self.more_scratch: Callable[[Scratch, int], Scratch] | None = None
        self._memory: Any = None
        super().__init__(device, name, "aql", words=slots * aql.PACKET_WORDS, unit=4, doorbell=doorbell)
        self.largest = slots // 2 * aql.RECORD_WORDS

    def place(self) -> None:
        """Allocate the ring's memory, once: what is encoded somewhere (a graph) holds the block's address. After a
        reset of the card it begins anew, where it was."""
        if self._memory is None:
            memory = self.device.require_memory()
            self._memory = memory
            self.buffer = memory.alloc(4 * self.words, kind="system", name=f"{self.name} ring")
            self._pm4 = memory.alloc(4 * aql.PM4_WORDS * self.slots, kind="system", name=f"{self.name} PM4")
            self.pointers = memory.alloc(PAGE, kind="system", name=f"{self.name} queue block")
            assert self.buffer.view is not None and self.pointers.view is not None and self._pm4.view is not None
            self._content = self.buffer.view.view(np.uint32)
            self._packets = self._content.reshape(self.slots, aql.PACKET_WORDS)
            self._inner = self._pm4.view.view(np.uint32).reshape(self.slots, aql.PM4_WORDS)
            addresses = self._pm4.address + 4 * aql.PM4_WORDS * np.arange(self.slots, dtype=np.uint64)
            self._bases = addresses.view(np.uint32).reshape(self.slots, 2)
            self._block = self.pointers.view.data
            self._read_id, self._write_id = self._word(queue.READ_ID), self._word(queue.WRITE_ID)
            self._told = self._word(SIGNAL_OFFSET + queue.SIGNAL_VALUE)
            self._test_word = self._block[TEST_OFFSET:TEST_OFFSET + 4].cast("B").cast("I")
            self._fence, self._ring_doorbell = self.device.fence, self.device.doorbells.write64
        self._begin()

    def _word(self, offset: int) -> memoryview[int]:
        """64 bits of the block, live."""
        return self._block[offset:offset + 8].cast("B").cast("Q")

    def _begin(self) -> None:
        """Empty: nothing but invalid packets, and a block that says what the queue is."""
        device, put = self.device, self._put_word
        self._packets[:] = 0
        self._packets[:, 0] = aql.INVALID
        self._block[:] = bytes(PAGE)
        put(queue.FEATURES, "I", queue.FEATURE_KERNEL_DISPATCH)
        put(queue.BASE_ADDRESS, "Q", self.buffer.address)
        put(queue.SIZE, "I", self.slots)
        put(queue.GROUP_APERTURE, "I", device.shared_aperture >> 32)
        put(queue.PRIVATE_APERTURE, "I", device.private_aperture >> 32)
        put(queue.MAX_CU_ID, "I", device.compute_units - 1)
        put(queue.MAX_WAVE_ID, "I", MAX_WAVES_PER_CU - 1)
        put(queue.READ_ID_OFFSET, "I", queue.READ_ID)
        put(queue.PROPERTIES, "I", queue.IS_PTR64 | queue.ENABLE_PROFILING)     # timestamps with completion signals
        put(queue.INACTIVE_SIGNAL, "Q", self.queue_address + SIGNAL_OFFSET)
        put(SIGNAL_OFFSET + queue.SIGNAL_KIND, "Q", queue.KIND_USER)
        self._put_scratch()
        self.wptr = 0           # packets, ever written
        self._limit = 0

    def _put_word(self, offset: int, code: str, value: int) -> None:
        struct.pack_into(f"<{code}", self._block, offset, value)

    def scratch_fields(self) -> list[int]:
        """Words of the block: COMPUTE_TMPRING_SIZE; then from scratch_backing_memory_location on, its bytes, and the
        bytes of a lane in waves of 64."""
        scratch = self.scratch
        nbytes = scratch.wave_bytes * scratch.waves_per_se * self.device.shader_engines
        return [scratch.tmpring, scratch.address & 0xFFFF_FFFF, scratch.address >> 32, nbytes & 0xFFFF_FFFF,
                nbytes >> 32, scratch.wave_bytes // 64]

    def _put_scratch(self) -> None:
        size, *rest = self.scratch_fields()
        for number, value in enumerate(rest):
            self._put_word(queue.SCRATCH_BASE + 4 * number, "I", value)
        self._put_word(queue.TMPRING_SIZE, "I", size)

    @property
    def queue_address(self) -> int:
        """GPU address of the queue's block."""
        return self.pointers.address

    @property
    def rptr_address(self) -> int:
        return self.pointers.address + queue.READ_ID

    @property
    def wptr_address(self) -> int:
        return self.pointers.address + queue.WRITE_ID

    @property
    def pending(self) -> int:
        """Packets that are not complete."""
        return self.wptr - int(self._read_id[0])

    @property
    def memory(self) -> list[Any]:
        return [self.buffer, self.pointers, self._pm4]

    def restart(self) -> int:
        with self._lock:
            lost = self.pending
            self._begin()
        return lost

    def test(self) -> None:
        self._test_by(aql.vendor(pm4.build("WRITE_DATA", DST_SEL="MEM", WR_CONFIRM=1, DST_ADDR=self.queue_address
                                           + TEST_OFFSET, DATA=[self.test_value]), BARRIER=1))

    def submit(self, words: np.ndarray, align: int = 0) -> int:
        """Records into the ring and behind it, then the doorbell; waits while there is no room.

        :raises PacketError: no whole records, or more than the ring can hold.
        :raises GpuHang: no room within :attr:`timeout`; a fault that the card reported is raised instead.
        """
        if len(words) % aql.RECORD_WORDS:
            raise PacketError(f"{self.name}: {len(words)} words are no AQL records of {aql.RECORD_WORDS}")
        records = np.asarray(words, np.uint32).reshape(-1, aql.RECORD_WORDS)
        count = len(records)
        if count > self.slots:
            raise PacketError(f"{self.name}: {count} packets do not fit its ring of {self.slots}")
        if not count:
            return 0
        with self._lock:
            wptr = self.wptr + count
            if wptr > self._limit:
                self._find_room(count)
            at = self.wptr % self.slots
            first = min(count, self.slots - at)
            self._put(at, records[:first])
            if first < count:
                self._put(0, records[first:])
            self.wptr = wptr
            self._write_id[0] = wptr
            self._fence()                       # packets and index are in memory before the doorbell rings
            self._ring_doorbell(4 * self.doorbell, wptr - 1)
        return 0

    def _put(self, at: int, records: np.ndarray) -> None:
        packets = self._packets[at:at + len(records)]
        packets[:] = records[:, :aql.PACKET_WORDS]
        if len(records) <= FEW:                 # only packets that lead to PM4 have any
            for number, header in enumerate(records[:, 0].tolist()):
                if header & KIND_MASK == VENDOR_PM4:
                    self._inner[at + number] = records[number, aql.PACKET_WORDS:]
                    packets[number, 2:4] = self._bases[at + number]
        else:
            inner = np.flatnonzero(packets[:, 0] & KIND_MASK == VENDOR_PM4)
            self._inner[at + inner] = records[inner, aql.PACKET_WORDS:]
            packets[inner, 2:4] = self._bases[at + inner]

    def _find_room(self, count: int) -> None:
        if self.slots - self.pending < count:
            self._wait_for_room(lambda: self.slots - self.pending >= count, f"{self.slots} packets")
        self._limit = int(self._read_id[0]) + self.slots

    def told(self) -> str:
        """What the engine told through the queue's signal: an error in words. Scratch that it lacks it is given."""
        told = int(self._told[0])
        if not told:
            return ""
        for bit, wave in queue.NEEDS_SCRATCH.items():
            if told & bit and self.more_scratch is not None:
                private = int(self._packets[int(self._read_id[0]) % self.slots, 6])
                if private * wave > self.scratch.wave_bytes:
                    self.scratch = self.more_scratch(self.scratch, private * wave)
                self._put_scratch()
                self._fence()
                self._told[0] = told = told & ~bit      # the engine tries again when nothing is told any more
        if not told:
            return ""
        errors = [text for bit, text in queue.ERRORS.items() if told & bit] or [f"code {told:#x}"]
        return f"{self.name} stopped: {', '.join(errors)}; {self.describe_stuck()}"

    def describe_stuck(self) -> str:
        if not self.pending:
            return "all packets are complete"
        at = int(self._read_id[0]) % self.slots
        words = [*self._packets[at].tolist(), *self._inner[at].tolist()]
        return "next is " + " ".join(str(aql.decode(words)[0]).split()).removeprefix("0: ")
