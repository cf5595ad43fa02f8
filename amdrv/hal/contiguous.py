"""Physically contiguous memory larger than a huge page, without a kernel driver's help.

One hugetlb page is contiguous; neighbours in a mapping need not be. So more pages than needed are taken, asked where
they are, and a run of neighbours in physical memory is moved together with ``mremap``; the others go back.

Source: Linux Documentation/admin-guide/mm/hugetlbpage.rst; mremap(2), which moves hugetlb pages since Linux 5.16.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from amdrv.errors import OutOfMemoryError
from amdrv.hal.host_memory import HUGE_PAGE, MAP_HUGETLB, PAGEMAP, allocate, frames

__all__ = ["allocate_contiguous", "run_of"]

FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
MREMAP_MAYMOVE, MREMAP_FIXED = 1, 2         # Linux include/uapi/linux/mman.h
SPARE_PAGES = 16


def run_of(count: int, pages: Sequence[int]) -> list[int] | None:
    """Indices of ``count`` pages whose frame numbers follow each other by a huge page, or None.

    :param pages: first frame number of each huge page.
    """
    step = HUGE_PAGE // mmap.PAGESIZE
    order = sorted(range(len(pages)), key=lambda index: pages[index])
    run: list[int] = []
    for index in order:
        if run and pages[index] != pages[run[-1]] + step:
            run = []
        run.append(index)
        if len(run) == count:
            return run
    return None


def allocate_contiguous(size: int, pagemap: Path = PAGEMAP) -> tuple[object, np.ndarray]:
    """As :func:`amdrv.hal.host_memory.allocate`, but one run of physical memory: (what owns it, its bytes).

    :raises OutOfMemoryError: no such run among the huge pages that are free.
    """
    if size <= HUGE_PAGE:
        return allocate(size, contiguous=True)
    count = -(-size // HUGE_PAGE)
    pool = None
    for pages in (count + SPARE_PAGES, count):
        try:
            pool = mmap.mmap(-1, pages * HUGE_PAGE, FLAGS | MAP_HUGETLB)
            break
        except OSError as error:
            reason = error.strerror
    if pool is None:
        raise OutOfMemoryError(f"no {count} huge pages for {size:#x} contiguous bytes: {reason}; "
                               f"echo {count + SPARE_PAGES} > /proc/sys/vm/nr_hugepages")
    view = np.frombuffer(pool, np.uint8)
    view[::HUGE_PAGE] = 0
    start = int(view.ctypes.data)
    del view
    step = HUGE_PAGE // mmap.PAGESIZE
    found = frames(start, pages * HUGE_PAGE, pagemap)[::step]
    run = run_of(count, [int(frame) for frame in found])
    if run is None:
        raise OutOfMemoryError(f"{size:#x} contiguous bytes: the free huge pages are scattered in physical memory; get "
                               f"more of them soon after the machine starts (hugepages={pages + 64} on the kernel's "
                               "command line), or use an IOMMU")
    if run == list(range(run[0], run[0] + count)):
        return pool, np.frombuffer(pool, np.uint8)[run[0] * HUGE_PAGE:][:size]
    room = mmap.mmap(-1, (count + 1) * HUGE_PAGE, FLAGS)
    inside = -int(np.frombuffer(room, np.uint8).ctypes.data) % HUGE_PAGE
    target = int(np.frombuffer(room, np.uint8).ctypes.data) + inside
    for number, index in enumerate(run):
        _move(start + index * HUGE_PAGE, target + number * HUGE_PAGE)
    return room, np.frombuffer(room, np.uint8)[inside:inside + size]       # the rest of the pool goes with its mapping


def _move(source: int, target: int) -> None:
    """One huge page, to another address of this process."""
    mremap = ctypes.CDLL(None, use_errno=True).mremap
    mremap.restype = ctypes.c_void_p
    mremap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)
    if mremap(source, HUGE_PAGE, HUGE_PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, target) != target:
        raise OutOfMemoryError(f"a huge page cannot be moved: {os.strerror(ctypes.get_errno())} (needs Linux 5.16)")
