"""The kernel's driver, as far as this process can reach it: files of /sys and /dev, their ioctls and mappings.

The one door of :mod:`amdrv.kfd` to the system. :class:`LinuxKernel` is the real one; :mod:`amdrv.kfd.simulated` serves
the same calls without a kernel.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import threading
import weakref
from typing import Protocol

import numpy as np
import numpy.typing as npt

from amdrv.errors import HalError
from amdrv.hal import Region

__all__ = ["Kernel", "LinuxKernel"]

MAP_FAILED = (1 << 64) - 1          # mmap(2)
MAP_FIXED_NOREPLACE = 0x10_0000     # asm-generic/mman-common.h


class Kernel(Protocol):
    """System calls. Every one raises OSError with the kernel's errno."""

    @property
    def page_size(self) -> int: ...
    def names(self, folder: str) -> list[str]:
        """What is in a folder, sorted."""
    def text(self, path: str) -> str:
        """A file's content."""
    def open(self, path: str) -> int:
        """A descriptor for reading and writing."""
    def close(self, fd: int) -> None: ...
    def ioctl(self, fd: int, request: int, argument: ctypes.Structure) -> None:
        """The structure is read and written in place."""
    def map(self, fd: int, offset: int, size: int, address: int = 0) -> np.ndarray:
        """Memory behind a descriptor: uint8, live, mapped as long as the array is there.

        :param address: where it should be, if nothing is there; 0: anywhere.
        """
    def registers(self, fd: int, offset: int, size: int) -> Region:
        """The same, of what is no memory: doorbells, a page of registers."""
    def fence(self) -> None:
        """Earlier stores are in memory before later ones, write-combining buffers drained."""


class LinuxKernel:
    """:class:`Kernel`, the real one."""

    def __init__(self) -> None:
        self.page_size = mmap.PAGESIZE
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._ioctl = self._libc.ioctl
        self._ioctl.argtypes, self._ioctl.restype = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p), ctypes.c_int
        self._mmap, self._munmap = self._libc.mmap, self._libc.munmap
        self._mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
                               ctypes.c_int64)
        self._mmap.restype = ctypes.c_void_p
        self._munmap.argtypes, self._munmap.restype = (ctypes.c_void_p, ctypes.c_size_t), ctypes.c_int
        self._lock = threading.Lock()

    def names(self, folder: str) -> list[str]:
        return sorted(os.listdir(folder))

    def text(self, path: str) -> str:
        with open(path, encoding="utf-8") as file:
            return file.read()

    def open(self, path: str) -> int:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def close(self, fd: int) -> None:
        with contextlib.suppress(OSError):
            os.close(fd)

    def ioctl(self, fd: int, request: int, argument: ctypes.Structure) -> None:
        while self._ioctl(fd, request, ctypes.addressof(argument)) < 0:     # without the interpreter's lock meanwhile
            number = ctypes.get_errno()
            if number != errno.EINTR:
                raise OSError(number, os.strerror(number))

    def map(self, fd: int, offset: int, size: int, address: int = 0) -> np.ndarray:
        # not Python's mmap: offsets of /dev/kfd use all 64 bits, and it takes no negative ones
        signed, both = ctypes.c_int64(offset).value, mmap.PROT_READ | mmap.PROT_WRITE
        found = self._mmap(address, size, both, mmap.MAP_SHARED | MAP_FIXED_NOREPLACE, fd, signed) if address else None
        if found in (None, MAP_FAILED):
            found = self._mmap(None, size, both, mmap.MAP_SHARED, fd, signed)
        if found in (None, MAP_FAILED):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        memory = (ctypes.c_uint8 * size).from_address(found)
        weakref.finalize(memory, self._munmap, found, size).atexit = False    # arrays of it keep it alive
        return np.ctypeslib.as_array(memory)

    def registers(self, fd: int, offset: int, size: int) -> Region:
        return _Registers(self.map(fd, offset, size))

    def fence(self) -> None:
        """Taking a lock is an atomic operation, which on x86 drains every store before it."""
        with self._lock:
            pass


class _Registers:
    """:class:`amdrv.hal.Region`. Casts of a memoryview make exactly one access of their width."""

    def __init__(self, memory: np.ndarray) -> None:
        self.size = len(memory)
        self._words, self._pairs = memory.data.cast("B").cast("I"), memory.data.cast("B").cast("Q")

    def read32(self, offset: int) -> int:
        return self._words[offset >> 2]

    def write32(self, offset: int, value: int) -> None:
        self._words[offset >> 2] = value

    def read64(self, offset: int) -> int:
        return self._pairs[offset >> 3]

    def write64(self, offset: int, value: int) -> None:
        self._pairs[offset >> 3] = value

    def view(self, offset: int, size: int, dtype: npt.DTypeLike = np.uint8) -> np.ndarray:
        raise HalError("doorbells and registers are not memory: read32/write32 and their kin reach them")
