"""A translation buffer that stays stale until it is told.

One for each hub and VMID: a direct-mapped table of 4 KiB pages over three arrays (page number, entry, host pointer),
and the cached directory walks above it. Nothing here looks at page tables again once a page is in: that is the
rule that a driver must know (Linux 6.1, gmc_v11_0.c, gmc_v11_0_flush_gpu_tlb). Pages that are not valid never enter
(amdgpu_vm.c, amdgpu_vm_update_range: only parts before gfx9 cached those).

Host pointers of system memory are forgotten when the host bus changes, and found again by the entry's bus address.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mock.pagetable import Huge, Table

if TYPE_CHECKING:
    from mock.staleness import Mark

__all__ = ["Tlb", "SLOTS"]

SLOT_BITS = 14
SLOTS = 1 << SLOT_BITS
SPREAD = 0x2545         # odd: stretches that lie a power of two apart do not fall on the same slots
_NOTHING = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_SLOT_MASK = np.uint64(SLOTS - 1)


def _slots(pages: np.ndarray) -> np.ndarray:
    return (pages + (pages >> np.uint64(SLOT_BITS)) * np.uint64(SPREAD) & _SLOT_MASK).astype(np.int64)


class Tlb:
    def __init__(self) -> None:
        self.pages = np.full(SLOTS, _NOTHING, np.uint64)
        self.entries = np.zeros(SLOTS, np.uint64)
        self.hosts = np.zeros(SLOTS, np.uint64)
        self.walks: dict[int, Table | Huge] = {}
        """Cached directory walks by (page >> block)."""
        self.stale: dict[int, Mark] = {}
        """Pages whose entry is no longer what the tables say, for the notes; and directory walks."""
        self.stale_walks: dict[int, Mark] = {}

    def slot(self, page: int) -> int:
        """The slot that holds the page, or -1."""
        slot = page + (page >> SLOT_BITS) * SPREAD & SLOTS - 1
        return slot if int(self.pages[slot]) == page else -1

    def look_up(self, pages: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint64[n] page numbers -> (slots int64[n], hit bool[n])."""
        slots = _slots(pages)
        return slots, self.pages[slots] == pages

    def fill(self, pages: np.ndarray, entries: np.ndarray, hosts: np.ndarray) -> None:
        if self.stale:
            for page in pages.tolist():
                self.stale.pop(page, None)
        slots = _slots(pages)
        self.pages[slots] = pages
        self.entries[slots] = entries
        self.hosts[slots] = hosts

    def forget_hosts(self, system_bit: int) -> None:
        """The host bus changed: pointers of system pages are found anew at their next use."""
        self.hosts[self.entries & np.uint64(system_bit) != 0] = 0

    def drop(self, first: int, count: int | None, *, entries: bool, walks: bool, block: int) -> None:
        """Forget pages [first, first + count), None: all. ``entries`` and ``walks`` say which caches."""
        if entries:
            if count is None:
                self.stale.clear()
                self.pages[:] = _NOTHING
            else:
                self.pages[(self.pages >= np.uint64(first)) & (self.pages < np.uint64(first + count))] = _NOTHING
                self.stale = {page: mark for page, mark in self.stale.items() if not first <= page < first + count}
        if walks:
            if count is None:
                self.walks.clear()
                self.stale_walks.clear()
            else:
                low, high = first >> block, (first + count - 1) >> block
                for key in [key for key in self.walks if low <= key <= high]:
                    del self.walks[key]
                    self.stale_walks.pop(key, None)
