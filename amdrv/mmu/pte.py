"""The bits of a page-table entry, and how an entry prints itself.

Layout of GPU VM entries since Vega (Linux 6.1, amdgpu_vm.h, AMDGPU_PTE_*; the three MTYPE bits at 48 are those of
gfx10 and gfx11, AMDGPU_PTE_MTYPE_NV10). One layout serves directory entries (PDE) and leaves (PTE); a PDE with bit
54 set *is* a leaf: a huge page.
"""

from __future__ import annotations

import enum

__all__ = ["ADDRESS_MASK", "EXECUTABLE", "Entry", "FRAGMENT_SHIFT", "HUGE", "MTYPE", "MTYPE_SHIFT", "READABLE",
           "SNOOPED", "SYSTEM", "VALID", "WRITEABLE", "leaf_flags"]

VALID = 1 << 0
SYSTEM = 1 << 1             # the address is a bus address, not VRAM
SNOOPED = 1 << 2            # PCIe accesses snoop the host's caches
EXECUTABLE = 1 << 4
READABLE = 1 << 5
WRITEABLE = 1 << 6
FRAGMENT_SHIFT = 7          # 5 bits: log2 of the contiguous, aligned 4 KiB pages that this entry speaks for
FRAGMENT_MASK = 0x1F << FRAGMENT_SHIFT
ADDRESS_MASK = 0x0000_FFFF_FFFF_F000
MTYPE_SHIFT = 48
MTYPE_MASK = 7 << MTYPE_SHIFT
HUGE = 1 << 54              # AMDGPU_PDE_PTE: a directory entry that is a leaf


class MTYPE(enum.IntEnum):
    """Memory types of gfx11 (Linux 6.1, soc21_enum.h, enum MTYPE): how the GPU's caches treat the page."""

    NC = 0          # cached; coherent only at acquire and release
    RO = 2          # cached read-only
    UC = 3          # not cached


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
        return bool(self & VALID)

    @property
    def address(self) -> int:
        return self & ADDRESS_MASK

    @property
    def fragment(self) -> int:
        return (self & FRAGMENT_MASK) >> FRAGMENT_SHIFT

    @property
    def mtype(self) -> int:
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
