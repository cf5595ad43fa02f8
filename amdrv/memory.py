"""Memory of one card: VRAM and host memory, at one address for every engine.

Layout of VRAM: the first 16 MiB are left alone (a console's frame buffer and the VBIOS's own allocations may be
there), the last 2 MiB hold the discovery table, and below them lies the boot region, which holds what belongs to
the card's firmware (the PSP's trusted memory). Everything between is for page tables and buffers.

What is allocated holds: in VRAM anything (whatever was there before), in host memory zeros.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt

from amdrv.errors import BootError, MappingError, OutOfMemoryError
from amdrv.hal import DmaMapping, PciDevice, Region, Segment
from amdrv.ledger import Ledger
from amdrv.mmu import PAGE_SIZE, BuddyAllocator, PageTables, leaf_flags, shared_addresses
from amdrv.mmu.pte import WRITEABLE

__all__ = ["Allocation", "Memory", "Placed"]

MIB = 1 << 20
LOW_RESERVED = 16 * MIB     # Linux 6.1, amdgpu_gmc.h: AMDGPU_VBIOS_VGA_ALLOCATION is 9 MiB; rounded up
TOP_RESERVED = 2 * MIB      # the discovery table and what firmware keeps around it
BOOT_REGION = 62 * MIB      # a Navi31 asks for 19 MiB of trusted memory
TABLE_POOL = 2 * MIB        # tables are taken from VRAM in blocks of this size

ADDRESS_BASE = 0x2000_0000_0000     # above what FB_LOCATION of any known board covers, below the hole at 47 bits
ADDRESS_SIZE = 0x1000_0000_0000     # 16 TiB

Kind = Literal["vram", "system", "peer"]


class Placed:
    """What lies at addresses of the GPU, in words."""

    address: int
    size: int
    kind: str
    name: str

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.address + self.size

    def __str__(self) -> str:
        return f"{self.name or self.kind} buffer {self.address:#x}..{self.end:#x}"


@dataclass(eq=False)
class Allocation(Placed):
    """Memory mapped for the GPU at ``address``. ``nbytes`` is what was asked for; ``segments`` cover whole pages."""

    address: int
    nbytes: int
    window: np.ndarray | Callable[[], np.ndarray] | None = field(repr=False)    # or what makes it, at its first use
    segments: Sequence[Segment]     # (VRAM offset or bus address, bytes)
    kind: Kind
    name: str = ""
    size: int = field(default=0, repr=False)                            # bytes mapped
    mapping: DmaMapping | None = field(default=None, repr=False)        # closed with the allocation, if it owns it
    owned: bool = field(default=True, repr=False)
    driver: bool = field(default=False, repr=False)                     # the driver's own: rings, staging memory
    keeps: object = field(default=None, repr=False)                     # what must live as long as this

    @property
    def view(self) -> np.ndarray | None:
        """uint8[nbytes], live; None where the CPU has no single window on it, and when it was freed. Most buffers in
        VRAM never need one: the CPU's half of copies goes through host memory."""
        if callable(self.window):
            self.window = self.window()
        return self.window


class Memory:
    """Allocates, maps and frees. ``flush_hdp`` and ``flush_tlb`` are the owner's: they reach the hardware.

    Safe to use from several threads. A ``free`` that comes while this thread is inside another call (from a
    finalizer) takes effect when that call ends.
    """

    def __init__(self, pci: PciDevice, vram: Region, vram_size: int, *, flush_hdp: Callable[[], None],
                 flush_tlb: Callable[[], None], statistics: Counter[str], table_base: int = 0) -> None:
        if vram.size < vram_size:
            raise BootError(
                f"BAR 0 shows {vram.size >> 20} MiB of {vram_size >> 20} MiB of VRAM; this driver needs all of it: "
                "enable \"Resizable BAR\" and \"Above 4G decoding\" in the machine's firmware setup")
        if vram_size < LOW_RESERVED + BOOT_REGION + TOP_RESERVED + TABLE_POOL:
            raise BootError(f"{vram_size >> 20} MiB of VRAM are less than the "
                            f"{(LOW_RESERVED + BOOT_REGION + TOP_RESERVED + TABLE_POOL) >> 20} MiB that a boot needs")
        self.pci, self.vram, self.vram_size = pci, vram, vram_size
        self._flush_hdp, self._flush_tlb, self._statistics = flush_hdp, flush_tlb, statistics
        self.pages = BuddyAllocator(LOW_RESERVED, self._boot_start - LOW_RESERVED, name="VRAM")
        self.boot_pages = self._boot_region()
        self.of_the_driver = True           # what is allocated now is the driver's own, and ends with a reset
        self.addresses = shared_addresses(ADDRESS_BASE, ADDRESS_SIZE)
        self._spare_tables: list[int] = []
        self._table_blocks: list[list[Segment]] = []
        self.table_base = table_base
        self.tables = PageTables(self, base=table_base)
        self.lock, self._depth = threading.RLock(), 0
        self._freed_inside: list[Allocation] = []
        self._ledger: Ledger[Allocation] = Ledger()
        self._live = self._ledger.live

    @property
    def _boot_start(self) -> int:
        return self.vram_size - TOP_RESERVED - BOOT_REGION

    def _boot_region(self) -> BuddyAllocator:
        return BuddyAllocator(self._boot_start, BOOT_REGION, name="boot region of VRAM")

    def card_was_reset(self) -> None:
        """VRAM holds anything, and no engine runs: write the page tables again, and forget what was the driver's own.
        Buffers keep their addresses; those in host memory their content, too."""
        with self.lock:
            self._release([each for each in self._live.values() if each.driver], flush=False)
            self.boot_pages = self._boot_region()
            self.tables.restore()
            self.of_the_driver = True

    # -- TableMemory: where page tables live ----------------------------------------------------------------------

    def allocate_table(self) -> int:
        if not self._spare_tables:
            block = self.pages.allocate(TABLE_POOL, contiguous=True)
            self._table_blocks.append(block)
            first = block[0][0]
            self._spare_tables = list(range(first + TABLE_POOL - PAGE_SIZE, first - 1, -PAGE_SIZE))
        return self._spare_tables.pop()

    def free_table(self, offset: int) -> None:
        self._spare_tables.append(offset)

    def view(self, offset: int, size: int, dtype: npt.DTypeLike = np.uint8) -> np.ndarray:
        """VRAM as the CPU sees it; what is written there reaches the engines at the next HDP flush."""
        return self.vram.view(offset, size, dtype)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        with self.lock:
            self._depth += 1
            try:
                yield
            finally:
                try:
                    while self._depth == 1 and self._freed_inside:      # a finalizer may add to it meanwhile
                        freed, self._freed_inside = self._freed_inside, []
                        self._release(freed, flush=True)
                finally:
                    self._depth -= 1

    def batch(self) -> AbstractContextManager[None]:
        """What is freed inside is unmapped together at the end, with one flush of the TLBs for all. Other threads wait
        meanwhile."""
        return self._exclusive()

    # -- buffers ---------------------------------------------------------------------------------------------------

    def alloc(self, nbytes: int, *, kind: Kind = "vram", contiguous: bool = False, align: int = 0,
              name: str = "") -> Allocation:
        """Memory of ``nbytes`` (rounded up to pages), mapped for all engines.

        :param kind: "vram" or "system" (host memory that the card reaches and snoops).
        :param contiguous: in one physical piece. VRAM is so anyway as long as a piece of that size is free.
        :param align: of the address; default: as large as pages and fragments can use.
        :raises OutOfMemoryError: says what was asked and what is free; nothing is lost by it.
        """
        if nbytes <= 0:
            raise ValueError(f"an allocation must have at least one byte, not {nbytes}")
        if kind not in ("vram", "system"):
            raise ValueError(f'kind must be "vram" or "system", not {kind!r}')
        with self._exclusive():
            if kind == "vram":
                return self._alloc_vram(nbytes, contiguous, align, name)
            return self._alloc_system(nbytes, contiguous, align, name)

    def _alloc_system(self, nbytes: int, contiguous: bool, align: int, name: str) -> Allocation:
        try:
            memory = self.pci.alloc_dma(nbytes, contiguous=contiguous)
        except (MemoryError, MappingError, OSError) as error:
            raise OutOfMemoryError(f"host memory: {nbytes:,} bytes for DMA asked, refused: {error}") from error
        try:
            return self._map(memory, nbytes, align, name, owned=True)
        except BaseException:
            memory.close()
            raise

    def _alloc_vram(self, nbytes: int, contiguous: bool, align: int, name: str) -> Allocation:
        try:
            pieces = self.pages.allocate(nbytes, contiguous=True)
        except OutOfMemoryError:
            if contiguous:
                raise
            pieces = self.pages.allocate(nbytes)
        try:
            view = partial(self.vram.view, pieces[0][0], nbytes) if len(pieces) == 1 else None
            physical = [(self.table_base + offset, size) for offset, size in pieces]
            address, size = self._enter(physical, leaf_flags("vram"), align)
        except BaseException:
            self.pages.free(pieces)
            raise
        return self._remember(Allocation(address, nbytes, view, pieces, "vram", name, size))

    def map(self, memory: DmaMapping, *, name: str = "", owned: bool = False, writable: bool = True) -> Allocation:
        """Map host memory, or a peer's BAR, that the HAL made reachable.

        :param owned: ``memory`` is closed with the allocation; otherwise it stays the caller's.
        :param writable: False: a store of an engine is a page fault.
        """
        with self._exclusive():
            return self._map(memory, memory.size, 0, name, owned=owned, writable=writable)

    def _map(self, memory: DmaMapping, nbytes: int, align: int, name: str, *, owned: bool,
             writable: bool = True) -> Allocation:
        kind: Kind = "system" if memory.view is not None else "peer"
        flags = leaf_flags(kind) & ~(0 if writable else WRITEABLE)
        address, size = self._enter(memory.segments, flags, align)
        view = None if memory.view is None else memory.view[:nbytes]
        return self._remember(Allocation(address, nbytes, view, memory.segments, kind, name, size, memory, owned))

    @property
    def page_size(self) -> int:
        """Bytes, of the host: the granule of :meth:`map_pages`."""
        return self.pci.page_size

    def map_pages(self, start: int, size: int, *, name: str, writable: bool) -> Allocation:
        """Pin pages of this process and map them for all engines.

        :raises MappingError: the machine cannot. :raises OutOfMemoryError: they cannot be pinned.
        """
        mapping = self.pci.map_dma(start, size)
        try:
            return self.map(mapping, name=name, owned=True, writable=writable)
        except BaseException:
            mapping.close()
            raise

    def _enter(self, segments: Sequence[Segment], flags: int, align: int) -> tuple[int, int]:
        """Find an address, fill the tables, make it known to the GPU: (address, bytes)."""
        size = sum(length for _, length in segments)
        if not align:
            # like the memory's first piece, up to 1 GiB: then the largest pages fit
            align = PAGE_SIZE
            for candidate in (1 << 30, 2 * MIB, 64 << 10):
                if size >= candidate:
                    align = candidate
                    break
        address = self.addresses.allocate(size, align=max(align, PAGE_SIZE))
        try:
            self.tables.map(address, segments, flags)
        except BaseException:
            self.addresses.release(address)
            raise
        self._flush_hdp()
        if self.tables.has_retired:
            self._flush_tlb()
        return address, size

    def free(self, allocation: Allocation) -> None:
        """Unmap, flush the TLBs, and give the memory back. The engines must be done with it.

        :raises ValueError: it is not (or no longer) an allocation of this card.
        """
        with self.lock:
            if self._live.get(allocation.address) is not allocation or allocation in self._freed_inside:
                raise ValueError(f"{allocation} is not allocated on this card (freed twice?)")
            with self._exclusive():
                self._freed_inside.append(allocation)

    def _release(self, allocations: Sequence[Allocation], *, flush: bool) -> None:
        for allocation in allocations:
            self.tables.unmap(allocation.address, allocation.size)
        if flush:
            self._flush_hdp()
            self._flush_tlb()
        for allocation in allocations:
            self._ledger.remove(allocation)
            self.addresses.release(allocation.address)
            allocation.window = allocation.keeps = None
            if allocation.kind == "vram":
                self.pages.free(list(allocation.segments))
            elif allocation.owned and allocation.mapping is not None:
                allocation.mapping.close()

    def _remember(self, allocation: Allocation) -> Allocation:
        allocation.driver = self.of_the_driver
        self._ledger.add(allocation)
        return allocation

    def holds(self, allocation: Allocation) -> bool:
        """Is this an allocation that is alive?"""
        return self._ledger.holds(allocation)

    # -- flushes ---------------------------------------------------------------------------------------------------

    def count_changes(self) -> None:
        """Called with every HDP flush: the entries that the GPU now sees changed."""
        with self.lock:
            changed = self.tables.take_changes()
            if changed:
                self._statistics["page_table_entries"] += changed

    def tlbs_are_flushed(self) -> None:
        """Called after every TLB flush, with the lock held: unlinked tables may be used again."""
        self.tables.release_retired()

    # -- for people ------------------------------------------------------------------------------------------------

    def nearest(self, address: int) -> str:
        """What lies at or next to an address, in words: for the message of a fault."""
        return self._ledger.nearest(address)

    @property
    def alive(self) -> list[Allocation]:
        """Every allocation that was not freed, by address."""
        with self.lock:
            return self._ledger.all()

    @property
    def allocated(self) -> dict[str, int]:
        """Bytes alive by kind; "tables" is VRAM held for page tables."""
        found = {"vram": 0, "system": 0, "peer": 0, "tables": len(self._table_blocks) * TABLE_POOL}
        for allocation in self._live.values():
            found[allocation.kind] += allocation.size
        return found

    def close(self) -> None:
        """Release host memory; VRAM's bookkeeping simply ends. The hubs must be off."""
        self._freed_inside.clear()
        for allocation in self._live.values():
            self.addresses.release(allocation.address)
            allocation.window = allocation.keeps = None
            if allocation.owned and allocation.mapping is not None:
                allocation.mapping.close()
        self._ledger.clear()
