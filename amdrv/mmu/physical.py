"""Pages of VRAM: a buddy allocator.

Every block is a power of two and aligned to its own size, so an allocation decomposes into pieces that page tables
can express with the largest pages and fragments there are. A scattered allocation takes the largest pieces that are
left; memory is refused only when there is truly not enough.
"""

from __future__ import annotations

import heapq

from amdrv.errors import OutOfMemoryError

__all__ = ["BuddyAllocator"]


class BuddyAllocator:
    """Allocates [base, base + size) in multiples of ``granule`` bytes.

    :param name: what runs out, as it will stand in the error ("VRAM").
    """

    def __init__(self, base: int, size: int, *, granule: int = 4096, name: str = "memory") -> None:
        if granule <= 0 or granule & (granule - 1):
            raise ValueError(f"granule must be a power of two, not {granule}")
        if base % granule or size % granule or size <= 0:
            raise ValueError(f"base and size must be positive multiples of {granule}, not {base:#x} and {size:#x}")
        self.base, self.size, self.granule, self.name = base, size, granule, name
        self._shift = granule.bit_length() - 1
        self._orders = (base + size).bit_length() - self._shift + 1
        self._free: list[set[int]] = [set() for _ in range(self._orders)]    # pages, by order
        self._heap: list[list[int]] = [[] for _ in range(self._orders)]      # the same, lowest first
        self._owned: dict[int, int] = {}                                     # allocated block's page -> order
        self.free_bytes = 0
        self._release(base >> self._shift, size >> self._shift)

    def _release(self, page: int, count: int) -> None:
        """Give a run of pages back, as the blocks that it decomposes into."""
        self.free_bytes += count << self._shift
        while count:
            order = count.bit_length() - 1
            if page:
                order = min(order, (page & -page).bit_length() - 1)
            self._insert(page, order)
            page += 1 << order
            count -= 1 << order

    def _insert(self, page: int, order: int) -> None:
        while (buddy := page ^ (1 << order)) in self._free[order]:
            self._free[order].discard(buddy)
            page &= ~(1 << order)
            order += 1
        self._free[order].add(page)
        heapq.heappush(self._heap[order], page)

    def _take(self, order: int) -> int | None:
        """The lowest free block of at least this order, split down to it; None where there is none."""
        for larger in range(order, self._orders):
            free, heap = self._free[larger], self._heap[larger]
            while heap and heap[0] not in free:
                heapq.heappop(heap)
            if not free:
                continue
            page = heapq.heappop(heap)
            free.discard(page)
            for lower in range(larger - 1, order - 1, -1):
                self._insert(page + (1 << lower), lower)
            self.free_bytes -= 1 << (order + self._shift)
            return page
        return None

    @property
    def largest_free(self) -> int:
        """Bytes of the largest free block."""
        return max((1 << (order + self._shift) for order, free in enumerate(self._free) if free), default=0)

    def allocate(self, nbytes: int, *, contiguous: bool = False) -> list[tuple[int, int]]:
        """(address, bytes) pieces that hold ``nbytes``, rounded up to granules; one piece if ``contiguous``.

        :raises OutOfMemoryError: with what was asked and what is free; nothing has changed then.
        """
        if nbytes <= 0:
            raise ValueError(f"allocation must be a positive number of bytes, not {nbytes}")
        count = -(-nbytes >> self._shift)
        if count << self._shift > self.free_bytes:
            raise self._exhausted(nbytes, contiguous)
        if contiguous:
            order = (count - 1).bit_length()
            page = self._take(order) if order < self._orders else None
            if page is None:
                raise self._exhausted(nbytes, contiguous)
            tail = (1 << order) - count
            if tail:
                self._release(page + count, tail)
            self._own(page, count)
            return [(page << self._shift, count << self._shift)]
        pieces: list[tuple[int, int]] = []
        order = count.bit_length() - 1
        while count:
            order = min(order, count.bit_length() - 1)
            page = self._take(order)
            if page is None:
                order -= 1          # enough is free in all, so smaller blocks exist
                continue
            self._own(page, 1 << order)
            pieces.append((page, 1 << order))
            count -= 1 << order
        pieces.sort()
        merged: list[tuple[int, int]] = []
        for page, pages in pieces:
            if merged and merged[-1][0] + merged[-1][1] == page:
                merged[-1] = (merged[-1][0], merged[-1][1] + pages)
            else:
                merged.append((page, pages))
        # largest pieces first: with an address aligned for the first, every following one is aligned as well
        merged.sort(key=lambda piece: (-(piece[0] & -piece[0] if piece[0] else 1 << 63), piece[0]))
        return [(page << self._shift, pages << self._shift) for page, pages in merged]

    def free(self, pieces: list[tuple[int, int]]) -> None:
        """Give pieces of :meth:`allocate` back.

        :raises ValueError: for memory that is not allocated; nothing has changed then.
        """
        runs = [(address >> self._shift, nbytes >> self._shift) for address, nbytes in pieces]
        for page, count in runs:
            self._blocks(page, count)
        for page, count in runs:
            for block, _ in self._blocks(page, count):
                del self._owned[block]
            self._release(page, count)

    def _own(self, page: int, count: int) -> None:
        while count:
            order = count.bit_length() - 1
            if page:
                order = min(order, (page & -page).bit_length() - 1)
            self._owned[page] = order
            page += 1 << order
            count -= 1 << order

    def _blocks(self, page: int, count: int) -> list[tuple[int, int]]:
        start, left, found = page, count, []
        while left > 0:
            order = self._owned.get(page)
            if order is None or 1 << order > left:
                raise ValueError(f"{self.name}: {start << self._shift:#x} + {count << self._shift:#x} is not an "
                                 "allocation of this allocator (freed twice?)")
            found.append((page, order))
            page += 1 << order
            left -= 1 << order
        return found

    def _exhausted(self, nbytes: int, contiguous: bool) -> OutOfMemoryError:
        how = f", the largest block {self.largest_free:,}" if contiguous else ""
        kind = "contiguous " if contiguous else ""
        return OutOfMemoryError(f"{self.name}: {nbytes:,} {kind}bytes asked, {self.free_bytes:,} of {self.size:,} "
                                f"free{how}; free buffers or use smaller ones")
