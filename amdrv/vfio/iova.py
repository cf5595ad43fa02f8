"""Which I/O virtual addresses are free: an allocator over the ranges that the IOMMU reports.

First fit over sorted free extents. Alignment follows the size up to 1 GiB, so that the IOMMU can use its large
pages and the GPU's page tables large fragments.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable

from amdrv.errors import MappingError, OutOfMemoryError

__all__ = ["IovaAllocator"]

PAGE = 4096
LARGEST_ALIGNMENT = 1 << 30


class IovaAllocator:
    """Allocate from ``ranges`` ((first, last) pairs, both inclusive, as the kernel reports them), below ``limit``.

    Address 0 is never given out: a null pointer must fault.
    """

    def __init__(self, ranges: Iterable[tuple[int, int]], *, limit: int = 1 << 44, page: int = PAGE) -> None:
        self.page = page
        self._free: list[tuple[int, int]] = []      # (start, end), sorted, not touching
        self._used: dict[int, int] = {}
        for first, last in sorted(ranges):
            start = -(-max(first, page) // page) * page
            end = min(last + 1, limit) // page * page
            if end > start:
                self._free.append((start, end))

    @property
    def free_bytes(self) -> int:
        return sum(end - start for start, end in self._free)

    @property
    def used(self) -> dict[int, int]:
        """{address: size} of what is allocated."""
        return dict(self._used)

    def allocate(self, size: int) -> int:
        """An address for ``size`` bytes (rounded up to pages). :raises OutOfMemoryError:"""
        if size <= 0:
            raise MappingError(f"IOVA allocation of {size} bytes: must be positive")
        size = -(-size // self.page) * self.page
        align = self.page
        while align * 2 <= min(size, LARGEST_ALIGNMENT):
            align *= 2
        for index, (start, end) in enumerate(self._free):
            at = -(-start // align) * align
            if at + size <= end:
                self._take(index, at, size)
                return at
        if align > self.page:       # a tight space: alignment is a wish, not a need
            for index, (start, end) in enumerate(self._free):
                if start + size <= end:
                    self._take(index, start, size)
                    return start
        raise OutOfMemoryError(f"no {size:#x} bytes of I/O address space: {self.free_bytes:#x} free in "
                               f"{len(self._free)} pieces")

    def _take(self, index: int, at: int, size: int) -> None:
        start, end = self._free.pop(index)
        if at > start:
            insort(self._free, (start, at))
        if at + size < end:
            insort(self._free, (at + size, end))
        self._used[at] = size

    def free(self, address: int) -> int:
        """Give an allocation back; returns its size. :raises MappingError: when it is none."""
        size = self._used.pop(address, None)
        if size is None:
            raise MappingError(f"IOVA {address:#x} is not allocated")
        start, end = address, address + size
        index = bisect_left(self._free, (start, end))
        if index < len(self._free) and self._free[index][0] == end:
            end = self._free.pop(index)[1]
        if index and self._free[index - 1][1] == start:
            start = self._free.pop(index - 1)[0]
        insort(self._free, (start, end))
        return size
