"""Addresses of the GPU: a two-level segregated-fit allocator over a range.

Free ranges hang in classes by size (power of two, then eight steps within it); two words of bits find the first
class that surely fits, so allocation and release take constant time however many ranges are alive (Masmano et al.,
"TLSF: a new dynamic memory allocator for real-time systems", 2004). Ranges are merged with their neighbours on
release.
"""

from __future__ import annotations

import threading
from functools import cache

from amdrv.errors import OutOfMemoryError

__all__ = ["AddressAllocator", "shared_addresses"]

STEPS_LOG2 = 3      # second level: eight classes a power of two


@cache
def shared_addresses(base: int, size: int) -> AddressAllocator:
    """The one allocator of a range for all cards of this process: an address means one buffer, whichever card's."""
    return AddressAllocator(base, size)


class AddressAllocator:
    """Hands out address ranges in [base, base + size), in multiples of ``granule`` bytes. Safe to use from several
    threads."""

    def __init__(self, base: int, size: int, *, granule: int = 4096) -> None:
        if granule <= 0 or granule & (granule - 1):
            raise ValueError(f"granule must be a power of two, not {granule}")
        if base % granule or size % granule or size <= 0:
            raise ValueError(f"base and size must be positive multiples of {granule}, not {base:#x} and {size:#x}")
        self.base, self.size, self.granule = base, size, granule
        self._next: dict[int, int] = {}         # start -> size, of every range, free or not
        self._before: dict[int, int] = {}       # end -> start, of every range
        self._classes: dict[int, dict[int, None]] = {}      # class -> starts of free ranges (an ordered set)
        self._bits = 0                          # classes that are not empty
        self._free: set[int] = set()
        self._lock = threading.Lock()
        self.free_bytes = 0
        self._link(base, size)
        self._put(base, size)

    @staticmethod
    def _class(units: int) -> int:
        """The class whose ranges have at least so many units less one step: ranges of ``units`` go here."""
        top = units.bit_length() - 1
        if top < STEPS_LOG2:
            return units
        return ((top - STEPS_LOG2 + 1) << STEPS_LOG2) + ((units >> (top - STEPS_LOG2)) & ((1 << STEPS_LOG2) - 1))

    def _link(self, start: int, size: int) -> None:
        self._next[start] = size
        self._before[start + size] = start

    def _put(self, start: int, size: int) -> None:
        number = self._class(size // self.granule)
        self._classes.setdefault(number, {})[start] = None
        self._bits |= 1 << number
        self._free.add(start)
        self.free_bytes += size

    def _pull(self, start: int) -> int:
        size = self._next[start]
        number = self._class(size // self.granule)
        members = self._classes[number]
        del members[start]
        if not members:
            self._bits &= ~(1 << number)
        self._free.discard(start)
        self.free_bytes -= size
        return size

    def allocate(self, size: int, *, align: int = 0) -> int:
        """The start of a free range of ``size`` bytes (rounded up to granules).

        :param align: a power of two; default: the granule.
        :raises OutOfMemoryError: if no range is left that is large enough.
        """
        if size <= 0:
            raise ValueError(f"size must be positive, not {size}")
        align = align or self.granule
        if align & (align - 1) or align < self.granule:
            raise ValueError(f"align must be a power of two of at least {self.granule}, not {align}")
        with self._lock:
            return self._allocate(-(-size // self.granule) * self.granule, align)

    def _allocate(self, size: int, align: int) -> int:
        units = size // self.granule
        exact = self._class(units)
        # a class that surely holds the aligned range; else look through the smaller ones
        room = (size + align - self.granule) // self.granule
        sure = self._class(room) + 1
        bits = self._bits >> sure << sure
        if bits:
            found = next(iter(self._classes[(bits & -bits).bit_length() - 1]))
            return self._carve(found, size, align)
        bits = self._bits >> exact << exact
        while bits:
            number = (bits & -bits).bit_length() - 1
            for start in self._classes[number]:
                if -start % align + size <= self._next[start]:
                    return self._carve(start, size, align)
            bits &= bits - 1
        raise OutOfMemoryError(f"GPU addresses: {size:,} bytes aligned to {align:,} asked, {self.free_bytes:,} of "
                               f"{self.size:,} free but in no range that is large enough")

    def _carve(self, start: int, size: int, align: int) -> int:
        whole = self._pull(start)
        head = -start % align
        if head:
            self._link(start, head)
            self._put(start, head)
        self._link(start + head, size)
        tail = whole - head - size
        if tail:
            self._link(start + head + size, tail)
            self._put(start + head + size, tail)
        return start + head

    def release(self, start: int) -> int:
        """Give the range that starts here back; returns its size.

        :raises ValueError: if nothing that starts here is allocated.
        """
        with self._lock:
            return self._release(start)

    def _release(self, start: int) -> int:
        size = self._next.get(start)
        if size is None or start in self._free:
            raise ValueError(f"no allocated range starts at {start:#x}")
        del self._next[start], self._before[start + size]
        first, end = start, start + size
        if end in self._free:
            following = self._pull(end)
            del self._next[end], self._before[end + following]
            end += following
        previous = self._before.get(first)
        if previous is not None and previous in self._free:
            length = self._pull(previous)
            del self._next[previous], self._before[previous + length]
            first = previous
        self._link(first, end - first)
        self._put(first, end - first)
        return size
