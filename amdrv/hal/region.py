"""BARs that are mapped into this process, by sysfs or by VFIO.

Casts of one memoryview make exactly one access of their width; slices, ``struct.pack_into`` and ctypes pointers do
not (measured on a trapped BAR, CPython 3.11: see docs/architecture.md). What cannot be mapped (an MSI-X table, a
device that has no memory behind it) goes through ``pread`` and ``pwrite`` on a descriptor, one call an access.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from amdrv.errors import HalError

__all__ = ["MappedRegion"]


class MappedRegion:
    """:class:`amdrv.hal.Region`.

    :param areas: (offset in the BAR, mapping) pairs, in order, not overlapping; offsets are multiples of a page.
    :param trapped: (descriptor, offset of the BAR in it) for what lies outside the areas; None where there is none.
    :param bus_address: where the BAR is on the bus, if known (sysfs).
    """

    def __init__(self, name: str, size: int, areas: Sequence[tuple[int, mmap.mmap]], *, memory_like: bool,
                 trapped: tuple[int, int] | None = None, bus_address: int | None = None) -> None:
        self.name, self.size, self.memory_like, self.bus_address = name, size, memory_like, bus_address
        self.areas, self._trapped, self._closed = list(areas), trapped, False
        self._whole = len(self.areas) == 1 and self.areas[0][0] == 0 and len(self.areas[0][1]) == size
        self._casts = [(start, start + len(area), memoryview(area).cast("I"), memoryview(area).cast("Q"))
                       for start, area in self.areas]

    def read32(self, offset: int) -> int:
        index = self._index(offset, 4)
        if self._whole:
            return self._casts[0][2][index]
        for start, end, u32, _ in self._casts:
            if start <= offset < end:
                return u32[(offset - start) >> 2]
        return self._pread(offset, 4)

    def write32(self, offset: int, value: int) -> None:
        index = self._index(offset, 4)
        if self._whole:
            self._casts[0][2][index] = value & 0xFFFFFFFF
            return
        for start, end, u32, _ in self._casts:
            if start <= offset < end:
                u32[(offset - start) >> 2] = value & 0xFFFFFFFF
                return
        self._pwrite(offset, 4, value)

    def read64(self, offset: int) -> int:
        index = self._index(offset, 8)
        if self._whole:
            return self._casts[0][3][index]
        for start, end, _, u64 in self._casts:
            if start <= offset < end:
                return u64[(offset - start) >> 3]
        return self._pread(offset, 8)

    def write64(self, offset: int, value: int) -> None:
        index = self._index(offset, 8)
        if self._whole:
            self._casts[0][3][index] = value & 0xFFFFFFFFFFFFFFFF
            return
        for start, end, _, u64 in self._casts:
            if start <= offset < end:
                u64[(offset - start) >> 3] = value & 0xFFFFFFFFFFFFFFFF
                return
        self._pwrite(offset, 8, value)

    def view(self, offset: int, size: int, dtype: npt.DTypeLike = np.uint8) -> np.ndarray:
        if not self.memory_like:
            raise HalError(f"{self.name} is not memory: registers and doorbells have no view, use read32/write32")
        if offset < 0 or size < 0 or offset + size > self.size:
            raise HalError(f"view of {size:#x} bytes at {offset:#x} does not fit {self.name} of {self.size:#x} bytes")
        for start, area in self.areas:
            if start <= offset and offset + size <= start + len(area):
                return np.frombuffer(area, np.uint8)[offset - start:offset - start + size].view(dtype)
        raise HalError(self._why_not(offset) if self._closed else
                       f"{size:#x} bytes at {offset:#x} of {self.name} cannot be mapped")

    def address(self) -> int:
        """Where this process sees the BAR. :raises HalError: unless it is mapped as a whole."""
        if not self._whole:
            raise HalError(f"{self.name} is not mapped as a whole")
        return int(np.frombuffer(self.areas[0][1], np.uint8).ctypes.data)

    def close(self) -> None:
        """Unmap it, with the card: whoever kept the region has an error, not a card that may be somebody else's by now.
        What is looked at through :meth:`view` stays mapped as long as the array lives, and the kernel keeps the card
        open so long."""
        self._closed, self._whole, self._trapped = True, False, None
        for *_, u32, u64 in self._casts:
            u32.release()
            u64.release()
        self._casts = []
        for _, area in self.areas:
            with contextlib.suppress(BufferError):
                area.close()
        self.areas = []

    def _index(self, offset: int, width: int) -> int:
        if offset % width or not 0 <= offset <= self.size - width:
            raise HalError(f"{self.name} access at {offset:#x} of {width} bytes: must be aligned and below "
                           f"{self.size:#x}")
        return offset // width

    def _pread(self, offset: int, width: int) -> int:
        if self._trapped is None:
            raise HalError(self._why_not(offset))
        fd, base = self._trapped
        data = os.pread(fd, width, base + offset)
        if len(data) != width:
            raise HalError(f"{self.name}: the kernel read {len(data)} of {width} bytes at {offset:#x}")
        return int.from_bytes(data, "little")

    def _why_not(self, offset: int) -> str:
        if self._closed:
            return f"{self.name} is closed, with its card; open the card again through the HAL"
        return f"{offset:#x} of {self.name} is not mapped"

    def _pwrite(self, offset: int, width: int, value: int) -> None:
        if self._trapped is None:
            raise HalError(self._why_not(offset))
        fd, base = self._trapped
        os.pwrite(fd, (value & (1 << 8 * width) - 1).to_bytes(width, "little"), base + offset)
