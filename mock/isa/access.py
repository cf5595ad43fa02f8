"""Reading and writing memory through host pointers, for whole arrays of addresses.

``memory.translate`` gives host pointers; one NumPy array that spans this process's address space then gathers and
scatters in C. Accesses are made in dwords where addresses are aligned and in bytes where not, and never reach
``translate`` across a 4 KiB boundary.
"""

from __future__ import annotations

import ctypes
import re
from bisect import bisect_right
from typing import Any

import numpy as np

from mock.isa.dispatch import LOAD, STORE, Memory, MemoryFault

__all__ = ["Accessor", "HostMemory"]

_BASE = 0x1000                  # NumPy wants no null pointer: the spanning arrays begin one page in
_SPAN = (1 << 47) - 0x2000
PAGE = 0x1000
_READABLE = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) r([w-])", re.MULTILINE)      # of /proc/self/maps


class _Span:
    """The whole user address space as an array."""

    def __init__(self, dtype: type) -> None:
        size = np.dtype(dtype).itemsize
        self.__array_interface__ = {"data": (_BASE, False), "shape": (_SPAN // size,), "typestr": np.dtype(dtype).str,
                                    "version": 3}


class HostMemory:
    """Addresses are this process's own pointers.

    Where the system tells what is mapped (Linux, /proc/self/maps), pointers to nothing, and writes to what is
    read-only, are faults; elsewhere nothing protects the process but a range check.
    """

    def __init__(self) -> None:
        self._ranges: tuple[_Ranges, _Ranges] | None = None      # readable, writable

    def translate(self, addresses: np.ndarray, nbytes: int, write: bool) -> np.ndarray:
        if not addresses.size:
            return addresses
        lowest, highest = int(addresses.min()), int(addresses.max())
        if lowest >= 0x10000 and highest < _SPAN:
            for again in (False, True):
                if self._ranges is None or again:
                    self._ranges = _mapped()        # what was mapped since is there only now
                ranges = self._ranges[int(write)]
                if ranges.hold(lowest, highest + nbytes) or ranges.inside(addresses, nbytes).all():
                    return addresses
            bad = int(addresses[~ranges.inside(addresses, nbytes)][0])
        else:
            bad = lowest if lowest < 0x10000 else highest
        what = f"{'write' if write else 'read'} of {nbytes} bytes at {bad:#x}"
        raise MemoryFault(f"{what}: no {'writable ' * write}memory of this process; check the kernel's arguments")


    def end_of(self, address: int, write: bool) -> int:
        """Where the memory ends that begins at or before an address which :meth:`translate` has let through."""
        return address if self._ranges is None else self._ranges[int(write)].end_of(address)


class _Ranges:
    """Sorted [begin, end) that do not touch."""

    def __init__(self, ranges: list[tuple[int, int]]) -> None:
        merged: list[list[int]] = []
        for begin, end in sorted(ranges):
            if merged and begin <= merged[-1][1]:
                merged[-1][1] = max(end, merged[-1][1])
            else:
                merged.append([begin, end])
        self._begins, self._ends = [r[0] for r in merged], [r[1] for r in merged]
        self._table = np.array(merged, np.uint64).reshape(-1, 2)

    def hold(self, begin: int, end: int) -> bool:
        at = bisect_right(self._begins, begin) - 1
        return at >= 0 and end <= self._ends[at]

    def end_of(self, address: int) -> int:
        at = bisect_right(self._begins, address) - 1
        return max(address, self._ends[at]) if at >= 0 else address

    def inside(self, addresses: np.ndarray, nbytes: int) -> np.ndarray:
        """Which of the accesses are?"""
        at = np.searchsorted(self._table[:, 0], addresses, side="right") - 1
        found: np.ndarray = (at >= 0) & (addresses + np.uint64(nbytes) <= self._table[at, 1])
        return found


def _mapped() -> tuple[_Ranges, _Ranges]:
    """What of this process's memory can be read and what written: everything, where nobody tells."""
    try:
        with open("/proc/self/maps", "rb") as file:
            readable = _READABLE.findall(file.read())
    except OSError:
        return _Ranges([(0, _SPAN)]), _Ranges([(0, _SPAN)])
    spans = [(int(begin, 16), int(end, 16)) for begin, end, _ in readable]
    return _Ranges(spans), _Ranges([span for span, (_, _, access) in zip(spans, readable, strict=True)
                                    if access == b"w"])


class Accessor:
    """Vector access to one :class:`Memory`; ``kind`` of its loads, for memories that tell them apart."""

    def __init__(self, memory: Memory, kind: int = LOAD) -> None:
        self.memory, self.kind = memory, kind
        self.u8 = np.asarray(_Span(np.uint8))
        self.u16 = np.asarray(_Span(np.uint16))
        self.u32 = np.asarray(_Span(np.uint32))
        self.u64 = np.asarray(_Span(np.uint64))

    @property
    def drop_low_bits(self) -> bool:
        """The memory's alignment mode is not "unaligned": an address is taken down to its element's size."""
        return bool(getattr(self.memory, "drop_low_bits", False))

    def bytes(self, address: int, n: int) -> bytes:
        """``n`` bytes from anywhere."""
        parts = []
        while n:
            size = min(n, PAGE - address % PAGE)
            pointer = int(self.memory.translate(np.array([address], np.uint64), size, False)[0])
            parts.append(ctypes.string_at(pointer, size))
            address, n = address + size, n - size
        return b"".join(parts)

    def _index(self, addresses: np.ndarray, nbytes: int, unit: int, write: bool) -> Any:
        translate_as = getattr(self.memory, "translate_as", None)
        if translate_as is None:
            pointers = self.memory.translate(addresses, nbytes, write)
        else:
            pointers = translate_as(addresses, STORE if write else self.kind)
        return (pointers.astype(np.int64) - _BASE) >> unit

    def load(self, addresses: np.ndarray, kind: type, count: int) -> list[np.ndarray]:
        """``count`` consecutive elements at each uint64 address: a list of ``count`` arrays."""
        size = np.dtype(kind).itemsize
        if self.drop_low_bits:
            addresses = addresses & np.uint64(~(min(size, 4) - 1) & 0xFFFF_FFFF_FFFF_FFFF)
        if self._aligned(addresses, size):
            span = {1: self.u8, 2: self.u16, 4: self.u32, 8: self.u64}[size]
            unit = size.bit_length() - 1
            if count > 1 and self._crosses(addresses, size * count):
                return [span[self._index(addresses + np.uint64(i * size), size, unit, False)].view(kind)
                        for i in range(count)]
            index = self._index(addresses, size * count, unit, False)
            return [span[index + i].view(kind) if i else span[index].view(kind) for i in range(count)]
        data = np.empty((len(addresses), size * count), np.uint8)
        for i in range(size * count):
            data[:, i] = self.u8[self._index(addresses + np.uint64(i), 1, 0, False)]
        elements: np.ndarray = data.view(kind)
        return [np.ascontiguousarray(elements[:, i]) for i in range(count)]

    def store(self, addresses: np.ndarray, values: list[np.ndarray]) -> None:
        """The arrays of ``values`` to consecutive elements at each address; of equal addresses the last wins."""
        size, count = values[0].dtype.itemsize, len(values)
        if self.drop_low_bits:
            addresses = addresses & np.uint64(~(min(size, 4) - 1) & 0xFFFF_FFFF_FFFF_FFFF)
        if self._aligned(addresses, size):
            span = {1: self.u8, 2: self.u16, 4: self.u32, 8: self.u64}[size]
            unit = size.bit_length() - 1
            if count > 1 and self._crosses(addresses, size * count):
                for i, value in enumerate(values):
                    span[self._index(addresses + np.uint64(i * size), size, unit, True)] = value.view(span.dtype)
                return
            index = self._index(addresses, size * count, unit, True)
            for i, value in enumerate(values):
                span[index + i if i else index] = value.view(span.dtype)
            return
        data = np.stack(values, axis=1).view(np.uint8).reshape(len(addresses), size * count)
        for i in range(size * count):
            self.u8[self._index(addresses + np.uint64(i), 1, 0, True)] = data[:, i]

    @staticmethod
    def _aligned(addresses: np.ndarray, size: int) -> bool:
        return size == 1 or not np.bitwise_or.reduce(addresses, initial=0) & (size - 1)

    @staticmethod
    def _crosses(addresses: np.ndarray, nbytes: int) -> bool:
        return bool(((addresses & np.uint64(PAGE - 1)) > PAGE - nbytes).any())
