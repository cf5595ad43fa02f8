"""A VFIO device descriptor: its regions and interrupts, and the reset of its function."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass

from amdrv.errors import HalError, MappingError
from amdrv.facts import vfio as abi
from amdrv.hal.region import MappedRegion
from amdrv.vfio.call import call, call_with_info, capabilities

__all__ = ["InterruptInfo", "RegionInfo", "VfioDevice"]


@dataclass(frozen=True)
class RegionInfo:
    """A region as the kernel describes it. ``areas``: (offset, size) of what may be mapped."""

    index: int
    flags: int
    size: int
    offset: int
    areas: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class InterruptInfo:
    """A kind of interrupt (VFIO_PCI_*_IRQ_INDEX) as the kernel describes it; ``count`` vectors, 0 where it has none."""

    index: int
    count: int
    flags: int

    @property
    def maskable(self) -> bool:
        return bool(self.flags & abi.VFIO_IRQ_INFO_MASKABLE)

    @property
    def automasked(self) -> bool:
        """The kernel masks it at each delivery: whoever has served it unmasks it."""
        return bool(self.flags & abi.VFIO_IRQ_INFO_AUTOMASKED)


class VfioDevice:
    """:param fd: the device descriptor; owned from here on."""

    def __init__(self, fd: int, name: str) -> None:
        self.fd, self.name = fd, name
        try:
            info, _ = call_with_info(fd, abi.VFIO_DEVICE_GET_INFO, abi.vfio_device_info(), f"information on {name}")
            if not info.flags & abi.VFIO_DEVICE_FLAGS_PCI:
                raise HalError(f"{name} is no PCI device to VFIO")
            self.can_reset = bool(info.flags & abi.VFIO_DEVICE_FLAGS_RESET)
            self._config = self.region(abi.VFIO_PCI_CONFIG_REGION_INDEX)
        except BaseException:
            self.close()
            raise

    def region(self, index: int) -> RegionInfo:
        info, answer = call_with_info(self.fd, abi.VFIO_DEVICE_GET_REGION_INFO, abi.vfio_region_info(index=index),
                                      f"region {index} of {self.name}")
        areas: tuple[tuple[int, int], ...] = ()
        if info.flags & abi.VFIO_REGION_INFO_FLAG_MMAP:
            areas = ((0, info.size),)
            chain = capabilities(answer, info.cap_offset) if info.flags & abi.VFIO_REGION_INFO_FLAG_CAPS else {}
            if (at := chain.get(abi.VFIO_REGION_INFO_CAP_SPARSE_MMAP)) is not None:
                head = abi.vfio_region_info_cap_sparse_mmap.from_buffer_copy(answer, at)
                rows = (abi.vfio_region_sparse_mmap_area * head.nr_areas).from_buffer_copy(answer,
                                                                                         at + ctypes.sizeof(head))
                areas = tuple((row.offset, row.size) for row in rows if row.size)
        return RegionInfo(index, info.flags, info.size, info.offset, areas)

    def map_region(self, index: int, *, memory_like: bool, bus_address: int | None = None) -> MappedRegion:
        """Map what may be mapped of a BAR; the rest goes through the descriptor."""
        info = self.region(index)
        if not info.size:
            raise MappingError(f"{self.name} has no BAR{index}")
        maps = []
        for offset, size in sorted(info.areas):
            if offset % mmap.PAGESIZE or size % mmap.PAGESIZE:
                continue                                # less than a page: by the descriptor, an access at a time
            try:
                maps.append((offset, mmap.mmap(self.fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE,
                                               offset=info.offset + offset)))
            except OSError as error:
                raise MappingError(f"cannot map {size:#x} bytes of BAR{index} of {self.name}: "
                                   f"{error.strerror}") from error
        return MappedRegion(f"BAR{index}", info.size, maps, memory_like=memory_like, trapped=(self.fd, info.offset),
                            bus_address=bus_address)

    def config_read(self, offset: int, width: int) -> int:
        try:
            data = os.pread(self.fd, width, self._config.offset + offset)
        except OSError as error:        # EFAULT past the end: a kernel or bus without extended configuration space
            raise HalError(f"config space of {self.name} cannot be read at {offset:#x}: {error.strerror}") from error
        if len(data) != width:
            raise HalError(f"config space of {self.name} ends before {offset:#x}")
        return int.from_bytes(data, "little")

    def config_write(self, offset: int, width: int, value: int) -> None:
        try:
            os.pwrite(self.fd, value.to_bytes(width, "little"), self._config.offset + offset)
        except OSError as error:
            raise HalError(f"config space of {self.name} cannot be written at {offset:#x}: {error.strerror}") from error

    # ---- interrupts

    def interrupt_info(self, index: int) -> InterruptInfo:
        info = abi.vfio_irq_info(argsz=ctypes.sizeof(abi.vfio_irq_info), index=index)
        try:
            call(self.fd, abi.VFIO_DEVICE_GET_IRQ_INFO, info, f"interrupt {index} of {self.name}")
        except HalError:                                # a kind that the kernel does not know for this device
            return InterruptInfo(index, 0, 0)
        return InterruptInfo(index, info.count if info.flags & abi.VFIO_IRQ_INFO_EVENTFD else 0, info.flags)

    def set_interrupts(self, index: int, eventfds: Sequence[int], *, start: int = 0) -> None:
        """Deliver vector ``start + i`` to ``eventfds[i]`` (-1: nowhere); an empty list switches the kind off."""
        if eventfds:
            flags = abi.VFIO_IRQ_SET_DATA_EVENTFD | abi.VFIO_IRQ_SET_ACTION_TRIGGER
            data = b"".join(fd.to_bytes(4, "little", signed=True) for fd in eventfds)
        else:
            flags, data = abi.VFIO_IRQ_SET_DATA_NONE | abi.VFIO_IRQ_SET_ACTION_TRIGGER, b""
        self._set(index, flags, start, len(eventfds), data, "setting up")

    def mask(self, index: int, masked: bool) -> None:
        """Mask or unmask a kind that is maskable (INTx)."""
        action = abi.VFIO_IRQ_SET_ACTION_MASK if masked else abi.VFIO_IRQ_SET_ACTION_UNMASK
        self._set(index, abi.VFIO_IRQ_SET_DATA_NONE | action, 0, 1, b"", "masking" if masked else "unmasking")

    def _set(self, index: int, flags: int, start: int, count: int, data: bytes, what: str) -> None:
        size = ctypes.sizeof(abi.vfio_irq_set)
        request = (ctypes.c_uint8 * (size + len(data)))()
        head = abi.vfio_irq_set(argsz=size + len(data), flags=flags, index=index, start=start, count=count)
        ctypes.memmove(request, ctypes.addressof(head), size)
        ctypes.memmove(ctypes.addressof(request) + size, data, len(data))
        call(self.fd, abi.VFIO_DEVICE_SET_IRQS, request, f"{what} interrupt {index} of {self.name}")

    # ---- reset

    def reset(self) -> None:
        """Reset the function (FLR, or its bus where it is alone there). :raises HalError: where it cannot be."""
        if not self.can_reset:
            raise HalError(f"{self.name} has no function-level reset that the kernel knows")
        call(self.fd, abi.VFIO_DEVICE_RESET, None, f"reset of {self.name}")

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
