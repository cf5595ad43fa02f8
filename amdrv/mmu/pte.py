"""The bits of a page-table entry, and how an entry prints itself.

Layout of GPU VM entries since Vega (Linux 6.1, amdgpu_vm.h, AMDGPU_PTE_*; the three MTYPE bits at 48 are those of
gfx10 and gfx11, AMDGPU_PTE_MTYPE_NV10). One layout serves directory entries (PDE) and leaves (PTE); a PDE with bit
54 set *is* a leaf: a huge page.
"""

from __future__ import annotations

import enum

from amdrv.facts import vm
from amdrv.facts.vm import PDE_PTE as HUGE
from amdrv.facts.vm import PTE_EXECUTABLE as EXECUTABLE
from amdrv.facts.vm import PTE_FRAG_SHIFT as FRAGMENT_SHIFT
from amdrv.facts.vm import PTE_MTYPE_SHIFT as MTYPE_SHIFT
from amdrv.facts.vm import PTE_READABLE as READABLE
from amdrv.facts.vm import PTE_SNOOPED as SNOOPED
from amdrv.facts.vm import PTE_SYSTEM as SYSTEM
from amdrv.facts.vm import PTE_VALID as VALID
from amdrv.facts.vm import PTE_WRITEABLE as WRITEABLE

__all__ = ["ADDRESS_MASK", "EXECUTABLE", "Entry", "FRAGMENT_SHIFT", "HUGE", "MTYPE", "MTYPE_SHIFT", "READABLE",
           "SNOOPED", "SYSTEM", "VALID", "WRITEABLE", "leaf_flags"]


def _mask(name: str) -> int:
    msb, lsb = vm.FIELDS[name]
    return (1 << msb + 1) - (1 << lsb)


ADDRESS_MASK = _mask("ADDRESS")
FRAGMENT_MASK = _mask("FRAG")       # log2 of the contiguous, aligned 4 KiB pages that an entry speaks for
MTYPE_MASK = _mask("MTYPE")


class MTYPE(enum.IntEnum):
    """Memory types of gfx11 (Linux 6.1, soc21_enum.h): how the GPU's caches treat the page."""

    NC = vm.MTYPE_NC    # cached; coherent only at acquire and release
    UC = vm.MTYPE_UC    # not cached


def leaf_flags(kind: str) -> int:
    """PTE flags for a kind of memory, as KFD chooses them (Linux 6.1, amdgpu_amdkfd_gpuvm.c, get_pte_flags).

    :param kind: "vram" (cached, non-coherent), "system" (host memory: snooped, uncached, thus coherent),
        or "peer" (another card's BAR: uncached and not snooped).
    """
    flags = VALID | READABLE | WRITEABLE | EXECUTABLE
    if kind == "vram":
        return flags | MTYPE.NC << MTYPE_SHIFT
    if kind == "system":
        return flags | SYSTEM | SNOOPED | MTYPE.UC << MTYPE_SHIFT
    if kind == "peer":
        return flags | SYSTEM | MTYPE.UC << MTYPE_SHIFT
    raise ValueError(f'kind must be "vram", "system" or "peer", not {kind!r}')


class Entry(int):
    """One 64-bit entry that prints its bits."""

    @property
    def valid(self) -> bool:
        """Whether the walk goes on here; otherwise the access faults."""
        return bool(self & VALID)

    @property
    def address(self) -> int:
        """Bytes, where the page or the next table lies."""
        return self & ADDRESS_MASK

    @property
    def fragment(self) -> int:
        """log2 of the pages (4 KiB) that lie together and may share a TLB entry."""
        return (self & FRAGMENT_MASK) >> FRAGMENT_SHIFT

    @property
    def mtype(self) -> int:
        """Memory type: who may cache it and how (``MTYPE_*`` of this module)."""
        return (self & MTYPE_MASK) >> MTYPE_SHIFT

    def __repr__(self) -> str:
        if not self:
            return "0x0 (empty)"
        names = [name for bit, name in ((VALID, "VALID"), (SYSTEM, "SYSTEM"), (SNOOPED, "SNOOPED"),
                                        (EXECUTABLE, "X"), (READABLE, "R"), (WRITEABLE, "W"), (HUGE, "HUGE"))
                 if self & bit]
        known = {int(m) for m in MTYPE}
        mtype = MTYPE(self.mtype).name if self.mtype in known else str(self.mtype)
        return f"{int(self):#x} (address={self.address:#x} frag={self.fragment} mtype={mtype} {' '.join(names)})"
