"""Page tables as the GPU's walker reads them.

Facts: Linux 6.1, amdgpu_vm.h (entry bits), gmc_v11_0.c (entry formats; physical addresses), gfxhub_v3_0.c
(PAGE_TABLE_DEPTH counts the directory levels above the last table; PAGE_TABLE_BLOCK_SIZE is the log2 of the pages
that one PDB0 entry covers, less 9), amdgpu_vm.c and amdgpu_gmc.c (entries at level k cover 9 bits each, the root all
that remain; the base register is an entry itself: address, VALID, SYSTEM).

A walk gives one of three ends: a table of last-level entries, a directory entry that maps its whole range (PDE_PTE),
or a :class:`WalkError`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from amdrv.facts import vm

__all__ = ["Context", "Table", "Huge", "WalkError", "find_table", "last_level", "describe_entry",
           "PAGE_SHIFT", "ENTRY_BYTES", "PTE_ADDRESS", "PDE_ADDRESS"]

PAGE_SHIFT = 12
ENTRY_BYTES = 8
LEVEL_BITS = 9


def _mask(field: str) -> int:
    msb, lsb = vm.FIELDS[field]
    return ((1 << (msb - lsb + 1)) - 1) << lsb


PTE_ADDRESS = _mask("ADDRESS")
PDE_ADDRESS = _mask("PDE_ADDRESS")
BFS_SHIFT = vm.PDE_BFS_SHIFT


class Context(NamedTuple):
    """One VMID's translation, from CONTEXTn_CNTL and PAGE_TABLE_{BASE,START,END}_ADDR. Pages are 4 KiB numbers."""

    enabled: bool
    depth: int
    block: int              # log2 of the pages under one PDB0 entry
    base: int               # entry-format base address: address, VALID, SYSTEM
    start: int
    end: int
    cntl: int

    def tables_at_root(self) -> int:
        """Entries of the root table."""
        pages = max(self.end - self.start + 1, 0)
        return pages if self.depth == 0 else -(-pages >> (self.block + LEVEL_BITS * (self.depth - 1)))


class Table(NamedTuple):
    """A last-level table (PTB), and what it covers."""

    address: int
    system: bool
    fragment: int           # log2 of the pages that one of its entries covers (BFS of its PDB0 entry)


class Huge(NamedTuple):
    """A directory entry that maps memory: ``pages`` 4 KiB pages, from page ``first`` of the context."""

    entry: int
    first: int
    pages: int


class WalkError(Exception):
    """No translation. ``level`` is the directory level with the bad entry (0: PDB0, ...), None: out of range."""

    def __init__(self, level: int | None, why: str) -> None:
        self.level = level
        super().__init__(why)


Reader = Callable[[np.ndarray, bool], np.ndarray]
"""(uint64[n] physical addresses of entries, system) -> uint64[n]"""


def _one(read: Reader, address: int, system: bool) -> int:
    return int(read(np.array([address], np.uint64), system)[0])


def find_table(read: Reader, context: Context, page: int) -> Table | Huge:
    """Walk the directories for a page number. :raises WalkError:"""
    if not context.enabled:
        raise WalkError(None, "the context is not enabled")
    if not context.start <= page <= context.end:
        raise WalkError(None, f"page {page:#x} is outside of the context's {context.start:#x}..{context.end:#x}")
    if not context.base & vm.PTE_VALID:
        raise WalkError(max(context.depth - 1, 0), "the page table base has no VALID bit")
    relative = page - context.start
    entry = context.base
    for level in range(context.depth - 1, -1, -1):
        shift = context.block + LEVEL_BITS * level
        index = relative >> shift
        if level != context.depth - 1:
            index &= (1 << LEVEL_BITS) - 1
        entry = _one(read, (entry & PDE_ADDRESS) + ENTRY_BYTES * index, bool(entry & vm.PTE_SYSTEM))
        if not entry & vm.PTE_VALID:
            raise WalkError(level, f"PDB{level} entry {index} is {describe_entry(entry)}")
        if entry & vm.PDE_PTE:
            return Huge(entry, relative >> shift << shift, 1 << shift)
    return Table(entry & PDE_ADDRESS, bool(entry & vm.PTE_SYSTEM), entry >> BFS_SHIFT if context.depth else 0)


def last_level(read: Reader, context: Context, found: Table | Huge, pages: np.ndarray) -> np.ndarray:
    """uint64[n] effective last-level entries, each with the address of its own 4 KiB page.

    All ``pages`` (int64[n]) lie under ``found``. Entries that are not valid come back as they are.
    """
    relative = pages.astype(np.int64) - context.start
    if isinstance(found, Huge):
        within = (relative - found.first).astype(np.uint64)
        return np.uint64(found.entry) + (within << np.uint64(PAGE_SHIFT))
    if context.depth:
        relative = relative & ((1 << context.block) - 1)
    index = (relative >> found.fragment).astype(np.uint64)
    entries = read(np.uint64(found.address) + index * np.uint64(ENTRY_BYTES), found.system).copy()
    if not found.fragment:
        return entries
    within = (relative & ((1 << found.fragment) - 1)).astype(np.uint64)
    further = entries & np.uint64(vm.PTE_TF) != 0
    entries[~further] += within[~further] << np.uint64(PAGE_SHIFT)
    for i in np.flatnonzero(further & (entries & np.uint64(vm.PTE_VALID) != 0)):
        entry = int(entries[i])
        entries[i] = _one(read, (entry & PDE_ADDRESS) + ENTRY_BYTES * int(within[i]), bool(entry & vm.PTE_SYSTEM))
    return entries


def describe_entry(entry: int) -> str:
    """``0x8000000071 (address 0x8000000000 VALID READABLE ...)``"""
    parts = [f"address {entry & PTE_ADDRESS:#x}"]
    for name, (msb, lsb) in vm.FIELDS.items():
        value = entry >> lsb & ((1 << (msb - lsb + 1)) - 1)
        if value and "ADDRESS" not in name:
            parts.append(name if msb == lsb else f"{name}={value}")
    return f"{entry:#x} ({' '.join(parts)})"
