"""Memory of this process that a card may reach: where it comes from, how it stays where it is, and where that is.

Locked pages may still migrate; hugetlb pages do not, so they are taken first where there are any. Physical addresses
come from pagemap (root only) and are read twice, after locking.

Source: Linux Documentation/admin-guide/mm/pagemap.rst and mm/unevictable-lru.rst.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from amdrv.errors import HalError, MappingError, OutOfMemoryError
from amdrv.hal import Existing, Segment

__all__ = ["HUGE_PAGE", "PAGEMAP", "PAGEMAP_PRESENT", "allocate", "as_bytes", "frames", "lock", "physical_segments",
           "whole_pages"]

HUGE_PAGE = 2 << 20
PAGEMAP = Path("/proc/self/pagemap")
PAGEMAP_PRESENT, PAGEMAP_FRAME = 1 << 63, (1 << 55) - 1
# Linux include/uapi/asm-generic/{mman.h,mman-common.h}
MAP_HUGETLB, MADV_DONTFORK, MADV_DOFORK, MADV_POPULATE_WRITE = 0x40000, 10, 11, 23


def whole_pages(size: int, page: int) -> int:
    """A DMA buffer's size, rounded up. :raises MappingError: not positive."""
    if size <= 0:
        raise MappingError(f"DMA buffer of {size} bytes: must be positive")
    return -(-size // page) * page


def allocate(size: int, *, contiguous: bool) -> tuple[object, np.ndarray]:
    """Zeroed, present memory of whole pages: (what owns it, its bytes). ``contiguous``: of hugetlb pages only.

    :raises OutOfMemoryError: saying how to get hugetlb pages.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    memory = None
    if size >= HUGE_PAGE or (contiguous and size > mmap.PAGESIZE):
        huge = -(-size // HUGE_PAGE) * HUGE_PAGE
        try:
            memory = mmap.mmap(-1, huge, flags | MAP_HUGETLB)
        except OSError as error:
            if contiguous:
                raise OutOfMemoryError(f"no {huge >> 20} MiB of hugetlb pages for {size:#x} contiguous bytes: "
                                       f"{error.strerror}; echo {huge // HUGE_PAGE + 16} > "
                                       "/proc/sys/vm/nr_hugepages") from error
    start = 0
    if memory is None:
        spare = HUGE_PAGE if size >= HUGE_PAGE else 0       # address space only: what is left of it is never touched
        try:
            memory = mmap.mmap(-1, size + spare, flags)
        except OSError as error:
            raise OutOfMemoryError(f"no {size:#x} bytes of host memory: {error.strerror}") from error
        if spare:           # so that 2 MiB can be one page of the processor and of the IOMMU
            start = -int(np.frombuffer(memory, np.uint8).ctypes.data) % HUGE_PAGE
            with contextlib.suppress(OSError):              # a kernel without transparent huge pages
                memory.madvise(mmap.MADV_HUGEPAGE)
    view = np.frombuffer(memory, np.uint8)[start:start + size]
    view[::mmap.PAGESIZE] = 0                       # every page present before anyone asks where it is
    return memory, view


def as_bytes(memory: Existing, size: int, page: int, *, present: bool = True) -> np.ndarray:
    """``size`` bytes of an array, of another device's DMA memory, or at an address, checked for what a mapping needs.

    :param present: write to every page, so that it has a frame of its own.
    :raises MappingError: not page-aligned, too small, not contiguous, or no memory of this host (a peer's BAR).
    """
    if not isinstance(memory, int | np.ndarray):
        if memory.view is None:
            raise MappingError("what is to be mapped is no host memory, or was given back; a peer's BAR is mapped by "
                               "map_peer")
        memory = memory.view
    address = memory if isinstance(memory, int) else int(memory.ctypes.data)
    if size <= 0 or address % page or size % page:
        raise MappingError(f"cannot map {size:#x} bytes at {address:#x}: address and size must be positive multiples "
                           f"of the page size {page:#x}")
    if isinstance(memory, int):
        view = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(memory))
    elif memory.nbytes < size or not memory.flags.c_contiguous:
        raise MappingError(f"cannot map {size:#x} bytes of an array of {memory.nbytes:#x} bytes "
                           f"({'' if memory.flags.c_contiguous else 'not '}contiguous)")
    else:
        view = memory.reshape(-1).view(np.uint8)[:size]
    if present:
        _populate(view, page)
    return view


def _populate(view: np.ndarray, page: int) -> None:
    """Every page has a frame of its own, as a store makes it: a load would map the shared zero page. The kernel does it
    without changing a byte (Linux 5.14); older ones are helped by stores of what is there.

    :raises MappingError: there is no memory, or it may not be written.
    """
    if not (error := _madvise(int(view.ctypes.data), view.nbytes, MADV_POPULATE_WRITE)):
        return
    if error == errno.EINVAL and _madvise(_address(probe := mmap.mmap(-1, page)), page, MADV_POPULATE_WRITE):
        del probe
        view[::page] = view[::page].copy()      # NumPy leaves an assignment to itself out
        return
    raise MappingError(f"cannot map {view.nbytes:#x} bytes at {view.ctypes.data:#x}: {os.strerror(error)}; the memory "
                       "must be there and may not be read-only (a file's mapping?)")


def _madvise(address: int, size: int, advice: int) -> int:
    """errno, or 0."""
    libc = ctypes.CDLL(None, use_errno=True)
    return ctypes.get_errno() if libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), advice) else 0


def _address(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


_locked: list[tuple[int, int]] = []         # (start, end) of what is locked now; one page may be in several
_locking = threading.Lock()


def lock(address: int, size: int) -> Callable[[], None]:
    """Lock pages and keep them out of forked children; returns what undoes it for those that nobody else has locked.

    :raises OutOfMemoryError:
    """
    libc = ctypes.CDLL(None, use_errno=True)
    mine = address, address + size
    with _locking:
        if libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(size)):
            raise OutOfMemoryError(f"cannot lock {size:#x} bytes: {os.strerror(ctypes.get_errno())}; "
                                   "raise the limit: ulimit -l unlimited")
        _madvise(address, size, MADV_DONTFORK)
        _locked.append(mine)

    def release() -> None:
        with _locking:
            _locked.remove(mine)
            for start, end in _without(mine, _locked):
                libc.munlock(ctypes.c_void_p(start), ctypes.c_size_t(end - start))
                _madvise(start, end - start, MADV_DOFORK)
    return release


def _without(whole: tuple[int, int], others: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """What of an interval is in no other."""
    at, end = whole
    left = []
    for first, last in sorted(others):
        if last > at and first < end:
            if first > at:
                left.append((at, first))
            at = max(at, last)
    return [*left, (at, end)] if at < end else left


def frames(address: int, size: int, pagemap: Path = PAGEMAP) -> np.ndarray:
    """Page frame numbers (int64) of present pages. :raises HalError: absent, or hidden from who is not root."""
    page = mmap.PAGESIZE
    fd = os.open(pagemap, os.O_RDONLY)
    try:
        entries = np.frombuffer(os.pread(fd, size // page * 8, address // page * 8), np.uint64)
    finally:
        os.close(fd)
    if len(entries) != size // page or not (entries & np.uint64(PAGEMAP_PRESENT)).all():
        raise HalError(f"{pagemap}: not every page at {address:#x} is present")
    numbers = entries & np.uint64(PAGEMAP_FRAME)
    if not numbers.all():
        raise HalError(f"{pagemap} shows no physical addresses: needs root (CAP_SYS_ADMIN); or use VFIO with an IOMMU")
    return numbers.astype(np.int64)


def physical_segments(address: int, size: int, dma_bits: int, pagemap: Path = PAGEMAP) -> list[Segment]:
    """(physical address, bytes) of each contiguous run of locked memory.

    :raises HalError: when pages moved while we looked. :raises MappingError: beyond the card's address bits.
    """
    found = frames(address, size, pagemap)
    if not np.array_equal(found, frames(address, size, pagemap)):
        raise HalError(f"pages at {address:#x} moved while they were being pinned; try again")
    starts = np.flatnonzero(np.diff(found, prepend=found[0] - 2) != 1)
    lengths = np.diff(starts, append=len(found))
    page = mmap.PAGESIZE
    segments = [(int(found[s]) * page, int(n) * page) for s, n in zip(starts, lengths, strict=True)]
    if max(a + n for a, n in segments) > 1 << dma_bits:
        raise MappingError(f"memory beyond the card's {dma_bits} address bits")
    return segments
