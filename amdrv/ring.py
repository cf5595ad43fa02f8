"""A ring: packets in host memory, read by one engine's queue.

The driver writes words, then the write pointer, then the doorbell; the engine writes back how far it has read.
Pointers only grow; their place in the ring is their remainder.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from amdrv import pm4, sdma
from amdrv.errors import GpuHang, PacketError, WaitTimeout
from amdrv.wait import wait_until

__all__ = ["Ring", "RingKind", "RingOwner"]

RingKind = Literal["compute", "copy", "aql"]


class RingOwner(Protocol):
    """What a ring asks of its card: :class:`amdrv.device.Device`, or one of the kernel's (:mod:`amdrv.kfd`)."""

    @property
    def shared_aperture(self) -> int: ...
    @property
    def private_aperture(self) -> int: ...
    @property
    def compute_units(self) -> int: ...
    @property
    def shader_engines(self) -> int: ...
    @property
    def fence(self) -> Callable[[], None]:
        """Earlier stores are in memory before later ones."""
    @property
    def doorbells(self) -> Any:
        """An :class:`amdrv.hal.Region`."""
    def require_memory(self) -> Any:
        """What allocates: ``alloc(nbytes, kind="system", name=...)``, as :class:`amdrv.memory.Memory`."""
    def check(self) -> None:
        """Raise what the card reported."""


FULL_TIMEOUT = 30.0             # seconds that a submission waits for room
POINTERS_BYTES = 4096           # one page a ring: rptr in the first cache line, wptr in the next
RPTR_OFFSET, WPTR_OFFSET, TEST_OFFSET = 0, 64, 128
TEST_TIMEOUT = 0.5              # seconds for a queue that was just set up to do one store
TEST_VALUE = 0x600D_CA4D
WORD = np.dtype(np.uint32)
STUCK_WORDS = 64                # looked at for the packet where a queue stands


class Ring:
    """One hardware queue.

    :param unit: bytes that one step of the pointers means: 4 for the command processor (words), 1 for SDMA (bytes).
    :param doorbell: number of the queue's 32-bit doorbell; a queue takes two of them, for one 64-bit store.
    """

    units, unit_words = "words", 1      # what pointers count: for people, and in words of the ring
    test_value = TEST_VALUE

    def __init__(self, device: RingOwner, name: str, kind: RingKind, *, words: int, unit: int, doorbell: int) -> None:
        if words <= 0 or words & (words - 1):
            raise ValueError(f"a ring's size must be a power of two, not {words} words")
        self.device, self.name, self.kind, self.words = device, name, kind, words
        self.doorbell, self._scale = doorbell, 4 // unit
        self.largest = words // 2       # words that one submission may have, so that it need not wait for an empty ring
        self.timeout = FULL_TIMEOUT
        self._lock = threading.Lock()
        self.place()

    def place(self) -> None:
        """Allocate the ring's memory; again, after the whole card was reset."""
        memory = self.device.require_memory()
        self.buffer = memory.alloc(4 * self.words, kind="system", name=f"{self.name} ring")
        self.pointers = memory.alloc(POINTERS_BYTES, kind="system", name=f"{self.name} pointers")
        assert self.buffer.view is not None and self.pointers.view is not None
        self._content = self.buffer.view.view(np.uint32)
        # cast views: one access of their width, and the cheapest that Python has
        self._rptr_word = self.pointers.view.data[RPTR_OFFSET:RPTR_OFFSET + 4].cast("B").cast("I")
        self._wptr_word = self.pointers.view.data[WPTR_OFFSET:WPTR_OFFSET + 8].cast("B").cast("Q")
        self._test_word = self.pointers.view.data[TEST_OFFSET:TEST_OFFSET + 4].cast("B").cast("I")
        self.wptr = 0           # words, ever written
        self._limit = 0         # as far as wptr may go by the read pointer that was seen last
        self._fence, self._ring_doorbell = self.device.fence, self.device.doorbells.write64

    @property
    def memory(self) -> list[Any]:
        """What :meth:`place` allocated."""
        return [self.buffer, self.pointers]

    def connect(self, doorbells: Any, number: int) -> None:
        """The queue's doorbell, where it is known only once the queue is there."""
        self.doorbell, self._ring_doorbell = number, doorbells.write64

    def restart(self) -> int:
        """Forget what was submitted: the queue begins anew, empty. Returns the words that the engine never read.

        The hardware queue must be off.
        """
        with self._lock:
            lost = self.pending
            self._rptr_word[0], self._wptr_word[0] = 0, 0
            self.wptr = self._limit = 0
        return lost

    def test(self) -> None:
        """One store by the engine arrives. :raises WaitTimeout: it does not (Linux: amdgpu_ring_test_helper)"""
        address = self.pointers.address + TEST_OFFSET
        if self.kind == "compute":
            words = pm4.build("WRITE_DATA", DST_SEL="MEM", WR_CONFIRM=1, DST_ADDR=address, DATA=[TEST_VALUE])
        else:
            words = sdma.build("FENCE", MTYPE="UC", ADDR=address, DATA=TEST_VALUE)
        self._test_by(words)

    def _test_by(self, words: Sequence[int]) -> None:
        self._test_word[0] = 0
        self.submit(np.array(words, np.uint32))
        wait_until(lambda: self._test_word[0] == TEST_VALUE, TEST_TIMEOUT, f"{self.name}: the store of a test",
                   seen=lambda: f"{self._test_word[0]:#x}")

    @property
    def rptr_address(self) -> int:
        return self.pointers.address + RPTR_OFFSET

    @property
    def wptr_address(self) -> int:
        return self.pointers.address + WPTR_OFFSET

    @property
    def pending(self) -> int:
        """Words that the engine has not read yet."""
        return (self.wptr - self._rptr_word[0] // self._scale) % self.words

    @property
    def idle(self) -> bool:
        return self.pending == 0

    def submit(self, words: np.ndarray, align: int = 0) -> int:
        """Copy packet words (uint32) into the ring and ring the doorbell; waits while there is no room.

        :param align: words; the packets begin at a multiple of it, behind words of zero (copy engines: NOPs).
        :return: how many such words there are.

        :raises PacketError: more words than the ring can ever hold.
        :raises GpuHang: no room within :attr:`timeout`; a fault that the card reported is raised instead.
        """
        if type(words) is not np.ndarray or words.dtype is not WORD or words.ndim != 1:
            words = np.ascontiguousarray(words, dtype=np.uint32).reshape(-1)
        count = len(words)
        if count >= self.words:
            raise PacketError(f"{self.name}: {count} words do not fit its ring of {self.words}; "
                              "put them into an indirect buffer, or submit packet by packet")
        if not count:
            return 0
        with self._lock:
            padding = 0
            if align and (padding := -self.wptr % align):
                words = np.concatenate((np.zeros(padding, np.uint32), words))
                count += padding
            wptr = self.wptr + count
            if wptr > self._limit:
                self._find_room(count)
            at = self.wptr & self.words - 1
            if at + count <= self.words:
                self._content[at:at + count] = words
            else:
                first = self.words - at
                self._content[at:] = words[:first]
                self._content[:count - first] = words[first:]
            self.wptr = wptr
            value = wptr * self._scale
            self._wptr_word[0] = value
            self._fence()                       # words and pointer are in memory before the doorbell rings
            self._ring_doorbell(4 * self.doorbell, value)
        return padding

    def _find_room(self, count: int) -> None:
        if self.words - 1 - self.pending < count:
            self._wait_for_room(lambda: self.words - 1 - self.pending >= count, f"{self.words} words")
        self._limit = self.wptr - self.pending + self.words - 1

    def _wait_for_room(self, room: Callable[[], bool], size: str) -> None:
        try:
            wait_until(room, self.timeout, f"{self.name}: room in the ring",
                       seen=lambda: f"{self.pending} of {size} pending")
        except WaitTimeout as error:
            self.device.check()
            raise GpuHang(f"{error}; the queue does not advance past {self.units[:-1]} {self.wptr - self.pending}: "
                          f"{self.describe_stuck()}") from error

    def told(self) -> str:
        """An error that the engine told through the queue's own memory, in words."""
        return ""

    def describe_stuck(self) -> str:
        """The packet that the engine has not got past, as text: for the message of a hang or a fault."""
        count = min(self.pending, STUCK_WORDS)
        if not count:
            return "all packets were read"
        at = self.wptr - self.pending
        words = [int(self._content[(at + i) % self.words]) for i in range(count)]
        decode = pm4.decode if self.kind == "compute" else sdma.decode
        return "next is " + " ".join(str(decode(words)[0]).split()).removeprefix("0: ")

    def __repr__(self) -> str:
        return f"<Ring {self.name}: {self.pending} of {self.words} words pending, {self.wptr} written>"
