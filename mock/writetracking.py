"""Which pages of a mapping were stored to since the last look: asked of the operating system, where it can tell.

Linux 6.7 and newer write-protect pages asynchronously (Documentation/admin-guide/mm/userfaultfd.rst, WP_ASYNC) and scan
for those that were written (Documentation/admin-guide/mm/pagemap.rst, PAGEMAP_SCAN), in one call, without signals or
handlers. Elsewhere :func:`track` gives None, and whoever asked compares memory instead.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

import numpy as np

__all__ = ["WriteTracker", "track"]

PAGE = 4096
USERFAULTFD_SYSCALL = {"x86_64": 323, "aarch64": 282}       # asm/unistd.h
UFFD_USER_MODE_ONLY = 1
UFFD_API = 0xAA
UFFD_FEATURE_WP_ASYNC = 1 << 15
UFFDIO_API, UFFDIO_REGISTER = 0xC018AA3F, 0xC020AA00        # linux/userfaultfd.h
UFFDIO_REGISTER_MODE_WP = 1 << 1
PAGEMAP_SCAN = 0xC0606610                                   # linux/fs.h: _IOWR('f', 16, struct pm_scan_arg)
PM_SCAN_WP_MATCHING, PM_SCAN_CHECK_WPASYNC = 1, 2
PAGE_IS_WRITTEN = 1 << 1
REGIONS = 512               # of one answer
REGION_BYTES = 24           # struct page_region: start, end, categories


class WriteTracker:
    """Made by :func:`track`."""

    def __init__(self, fault_fd: int, map_fd: int, base: int) -> None:
        self._fds = (fault_fd, map_fd)
        self._map, self._base = map_fd, base
        self._answer = ctypes.create_string_buffer(REGIONS * REGION_BYTES)

    def written(self, first: int, end: int, *, again: bool = False) -> list[tuple[int, int]]:
        """Runs (first, end) of the pages in [first, end) that were stored to since they were last reported; with
        ``again`` they will be reported once more. A page that was read first may be among them."""
        import fcntl
        runs: list[tuple[int, int]] = []
        at, stop = self._base + first * PAGE, self._base + end * PAGE
        flags = PM_SCAN_CHECK_WPASYNC | (0 if again else PM_SCAN_WP_MATCHING)
        while at < stop:
            argument = bytearray(struct.pack("<12Q", 96, flags, at, stop, 0, ctypes.addressof(self._answer), REGIONS, 0,
                                             0, PAGE_IS_WRITTEN, 0, PAGE_IS_WRITTEN))
            count = fcntl.ioctl(self._map, PAGEMAP_SCAN, argument, True)
            at, = struct.unpack_from("<Q", argument, 32)
            found = np.frombuffer(memoryview(self._answer), np.uint64)[:3 * count].reshape(-1, 3)
            runs += [((int(a) - self._base) // PAGE, (int(b) - self._base) // PAGE) for a, b, _ in found]
        return runs

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)


def track(base: int, size: int) -> WriteTracker | None:
    """Start to track ``size`` bytes at ``base``, page-aligned; None where the system cannot."""
    number = USERFAULTFD_SYSCALL.get(platform.machine())
    if sys.platform != "linux" or number is None or os.sysconf("SC_PAGESIZE") != PAGE:
        return None
    try:
        import fcntl
        libc = ctypes.CDLL(None, use_errno=True)
        fault_fd = libc.syscall(number, os.O_CLOEXEC | UFFD_USER_MODE_ONLY)
        if fault_fd < 0:
            return None
        map_fd = -1
        try:
            fcntl.ioctl(fault_fd, UFFDIO_API, struct.pack("<3Q", UFFD_API, UFFD_FEATURE_WP_ASYNC, 0))
            fcntl.ioctl(fault_fd, UFFDIO_REGISTER, struct.pack("<4Q", base, size, UFFDIO_REGISTER_MODE_WP, 0))
            map_fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
            tracker = WriteTracker(fault_fd, map_fd, base)
            tracker.written(0, 1, again=True)
            return tracker
        except OSError:
            os.close(fault_fd)
            if map_fd >= 0:
                os.close(map_fd)
    except (ImportError, OSError):
        pass
    return None
