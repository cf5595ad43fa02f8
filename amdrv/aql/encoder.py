"""hcq's commands as AQL packets: the same programs, signals and barriers as in a PM4 queue.

What AQL says by itself, it says: launches, waits for a value (AMD's barrier-value packet), barriers, counting signals
down. What it has no word for (a store, an atomic operation, a timestamp, the store of a value after everything before
it) is PM4 behind a vendor's packet, by the PM4 queues' own encoder.

Sources: HSA Platform System Architecture Specification 1.2, 2.9; LLVM, "User Guide for AMDGPU Backend" (memory model:
which caches a fence of a scope concerns); ROCR-Runtime, amd_hsa_queue.h.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from amdrv import aql, pm4
from amdrv.aql.queue import SCRATCH_BASE, SIGNAL_VALUE, TMPRING_SIZE
from amdrv.errors import PacketError
from amdrv.pm4.encoder import LOW_WORD, ComputeEncoder, Template
from amdrv.scratch import Scratch
from hcq.backend import Kernel

if TYPE_CHECKING:
    from amdrv.aql.ring import AqlRing

__all__ = ["AqlEncoder"]

WRITE_WORDS = aql.PM4_WORDS - 4         # data of a WRITE_DATA that fits behind a packet
MOST_SIGNALS = 5                        # that one barrier packet looks at
KERNELS = 1024                          # whose names are kept for dumps


DIMENSIONS_SHIFT = 16                   # in a dispatch packet's first word


def _word(name: str, word: str) -> int:
    """Where a word stands in a packet."""
    return [each.name for each in aql.PACKETS[name].words].index(word)


def _behind(template: Template) -> Template:
    """PM4 with holes, behind a packet that comes after everything before it."""
    return Template(aql.vendor(template.words, BARRIER=1), *(aql.PACKET_WORDS + hole for hole in template.holes))


class AqlEncoder:
    """Appends records (:mod:`amdrv.aql`). Of one queue, since its scratch is told through the queue's block."""

    def __init__(self, inner: ComputeEncoder, ring: AqlRing, grow: Callable[[Scratch, int], Scratch]) -> None:
        self._inner, self._ring, self._grow = inner, ring, grow
        self._names: dict[int, str] = {}
        # A packet's fences: acquire before it is processed, release when all before it is complete (BARRIER)
        self._barrier = aql.record("BARRIER_AND", BARRIER=1, ACQUIRE="SYSTEM", RELEASE="SYSTEM")
        self._signals = [_behind(template) for template in inner.signals]
        self._timestamp = _behind(inner.stamp)
        self._wait = Template(aql.record("VENDOR_BARRIER_VALUE", SIGNAL=0, VALUE=0, MASK=LOW_WORD, CONDITION="GTE"),
                              _word("VENDOR_BARRIER_VALUE", "SIGNAL_LO"), _word("VENDOR_BARRIER_VALUE", "VALUE_LO"))
        sizes: dict[str, Any] = {f"{what}_SIZE_{axis}": 0 for what in ("GRID", "WORKGROUP") for axis in "XYZ"}
        self._dispatch = aql.record("KERNEL_DISPATCH", **sizes, PRIVATE_SEGMENT_SIZE=0, GROUP_SEGMENT_SIZE=0,
                                    KERNEL_OBJECT=0, KERNARG_ADDRESS=0)

    def _pm4(self, words: list[int], inner: Sequence[int]) -> None:
        """PM4 that comes after everything before it."""
        words += aql.vendor(inner, BARRIER=1)

    def wait(self, words: list[int], address: int, value: int) -> None:
        if value > LOW_WORD:
            raise PacketError(f"signals hold 32 bits here; a queue cannot wait for {value:#x}")
        self._wait.append(words, self._handle(address), value)

    @staticmethod
    def _handle(address: int) -> int:
        """The amd_signal_t around a signal's value."""
        if address & 0x3F != SIGNAL_VALUE:
            raise PacketError(f"an AQL packet's signal is an amd_signal_t, 64 bytes at a multiple of 64 with the value "
                              f"at {SIGNAL_VALUE}; the value at {address:#x} is in none")
        return address - SIGNAL_VALUE

    def signal(self, words: list[int], address: int, value: int, *, interrupt: bool = True) -> None:
        self._signals[interrupt].append(words, address, value)

    def timestamp(self, words: list[int], address: int) -> None:
        self._timestamp.append(words, address)

    def memory_barrier(self, words: list[int]) -> None:
        words += self._barrier

    def barrier(self, words: list[int], addresses: Sequence[int], every: bool) -> None:
        """Start nothing later until all signals, or one of them, are at 0. :param addresses: of their values."""
        if not every and len(addresses) > MOST_SIGNALS:
            raise PacketError(f"a BARRIER_OR looks at {MOST_SIGNALS} signals, not at {len(addresses)}")
        for first in range(0, len(addresses), MOST_SIGNALS):
            signals: dict[str, Any] = {f"DEP_SIGNAL_{n}": self._handle(address)
                       for n, address in enumerate(addresses[first:first + MOST_SIGNALS])}
            words += aql.record("BARRIER_AND" if every else "BARRIER_OR", ACQUIRE="SYSTEM", **signals)

    def write(self, words: list[int], dst: int, data: Sequence[int]) -> None:
        for start in range(0, len(data), WRITE_WORDS):
            inner: list[int] = []
            self._inner.write(inner, dst + 4 * start, data[start:start + WRITE_WORDS])
            self._pm4(words, inner)

    def poll(self, words: list[int], address: int, value: int, mask: int, compare: str) -> None:
        inner: list[int] = []
        self._inner.poll(inner, address, value, mask, compare)
        words += aql.vendor(inner)

    def atomic(self, words: list[int], address: int, operation: str, operand: int, compare: int, loop: bool) -> None:
        inner: list[int] = []
        self._inner.atomic(inner, address, operation, operand, compare, loop)
        words += aql.vendor(inner)

    def interrupt(self, words: list[int]) -> None:
        inner: list[int] = []
        self._inner.interrupt(inner)
        self._pm4(words, inner)

    def exec(self, words: list[int], kernel: Kernel, kernarg: int, grid: Sequence[int], block: Sequence[int],
             *, dynamic_lds: int = 0, dispatch_packet: int = 0, queue_ptr: int = 0, dispatch_id: int | None = None,
             dims: int = 3, completion: int = 0) -> None:
        """As the contract says. The kernel sees the packet in the ring, the queue's own block, and the packet's number:
        ``dispatch_packet``, ``queue_ptr`` and ``dispatch_id`` are for queues that have none.

        :param completion: address of a signal's value that is counted down by one when the launch is complete.
        """
        if not kernel.descriptor:
            raise PacketError(f"kernel {kernel.name!r} has no descriptor in memory, which AQL leads the engine to")
        if kernel.private_bytes:
            self._say_scratch(words, kernel.private_bytes * kernel.wave_size)
        if len(self._names) < KERNELS:
            self._names[kernel.descriptor] = kernel.name
        start = len(words)
        words += self._dispatch
        words[start] |= dims << DIMENSIONS_SHIFT
        signal = self._handle(completion) if completion else 0
        words[start + 1:start + 12] = (
            block[0] | block[1] << 16, block[2], grid[0] * block[0], grid[1] * block[1], grid[2] * block[2],
            kernel.private_bytes, kernel.group_bytes + dynamic_lds, kernel.descriptor & LOW_WORD,
            kernel.descriptor >> 32, kernarg & LOW_WORD, kernarg >> 32)
        words[start + 14:start + 16] = signal & LOW_WORD, signal >> 32

    def _say_scratch(self, words: list[int], bytes_per_wave: int) -> None:
        """The engine stores into the queue's block where scratch is, when the launches before are complete. Each launch
        with scratch says it again: the packets then do not depend on what was submitted, or not, before them."""
        ring = self._ring
        if bytes_per_wave > ring.scratch.wave_bytes:
            ring.scratch = self._grow(ring.scratch, bytes_per_wave)
        fields = ring.scratch_fields()
        size = pm4.build("WRITE_DATA", DST_SEL="MEM", WR_CONFIRM=1, CACHE_POLICY="BYPASS",
                         DST_ADDR=ring.queue_address + TMPRING_SIZE, DATA=fields[:1])
        place = pm4.build("WRITE_DATA", DST_SEL="MEM", WR_CONFIRM=1, CACHE_POLICY="BYPASS",
                          DST_ADDR=ring.queue_address + SCRATCH_BASE, DATA=fields[1:])
        self._pm4(words, size + place)

    def describe(self, words: Sequence[int]) -> list[str]:
        lines = []
        for packet in aql.decode(words):
            name = self._names.get(packet.fields.get("KERNEL_OBJECT", 0))
            if name is not None:
                packet.notes.append(f"kernel {name!r}")
            lines += str(packet).splitlines()
        return lines
