"""Memory of the GPU: page tables, the physical allocator of VRAM and the allocator of addresses.

Nothing here knows a register. Page tables are NumPy arrays over VRAM windows; the owner (``amdrv.device``)
flushes the HDP and the TLBs after a batch of changes.
"""

from amdrv.mmu.physical import BuddyAllocator
from amdrv.mmu.pte import MTYPE, Entry, leaf_flags
from amdrv.mmu.tables import PAGE_SIZE, PageTables, TableMemory
from amdrv.mmu.virtual import AddressAllocator, shared_addresses

__all__ = ["AddressAllocator", "BuddyAllocator", "Entry", "MTYPE", "PAGE_SIZE", "PageTables", "TableMemory",
           "leaf_flags", "shared_addresses"]
