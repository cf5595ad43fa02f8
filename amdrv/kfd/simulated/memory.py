"""Memory of the simulated kernel: buffers, and where they are mapped (Linux 7.3, amdgpu_amdkfd_gpuvm.c)."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from amdrv.errors import AmdrvError, OutOfMemoryError, PageTableError
from amdrv.facts import kfd
from amdrv.hal import DmaMapping, Segment
from amdrv.mmu import leaf_flags
from amdrv.mmu.pte import WRITEABLE

if TYPE_CHECKING:
    from amdrv.kfd.simulated.gpu import Gpu

__all__ = ["DOORBELL_BYTES", "PAGE", "Bo", "fail"]

PAGE = 4096
DOORBELL_BYTES = 0x2000             # kfd_doorbell.c, kfd_doorbell_process_slice
DOORBELL_BAR, REGISTER_BAR = 2, 5
VRAM, GTT, USERPTR = (getattr(kfd, f"KFD_IOC_ALLOC_MEM_FLAGS_{name}") for name in ("VRAM", "GTT", "USERPTR"))
DOORBELL, MMIO = kfd.KFD_IOC_ALLOC_MEM_FLAGS_DOORBELL, kfd.KFD_IOC_ALLOC_MEM_FLAGS_MMIO_REMAP
WRITABLE = kfd.KFD_IOC_ALLOC_MEM_FLAGS_WRITABLE


def fail(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Bo:
    """A buffer object: memory of one kind, and the cards that have it in their page tables.

    :raises OSError: as the kernel does.
    """

    def __init__(self, gpu: Gpu, size: int, flags: int, offset: int) -> None:
        self.gpu, self.size, self.flags = gpu, -(-size // PAGE) * PAGE, flags
        self.references = 1                                     # handles and dma-bufs
        self._view: np.ndarray | None = None
        self._segments: list[Segment] = []                      # as its own card says them: with VRAM's base
        self._mappings: list[DmaMapping] = []                   # of host memory and BARs, by card
        self._vram: list[Segment] = []
        device = gpu.device
        try:
            if flags & VRAM:
                pages = device.require_memory().pages
                try:
                    self._vram = pages.allocate(self.size, contiguous=True)
                except OutOfMemoryError:
                    if flags & kfd.KFD_IOC_ALLOC_MEM_FLAGS_CONTIGUOUS:
                        raise
                    self._vram = pages.allocate(self.size)
                base = device.require_memory().table_base
                self._segments = [(base + start, length) for start, length in self._vram]
            elif flags & GTT:
                memory = device.pci.alloc_dma(self.size)
                self._view, self._segments = memory.view, list(memory.segments)
                self._mappings.append(memory)
            elif flags & USERPTR:
                if not offset:
                    raise fail(errno.EINVAL)
                self._take(device.pci.map_dma(offset, self.size))
            elif flags & (DOORBELL | MMIO):
                bar = device.pci.bar(DOORBELL_BAR if flags & DOORBELL else REGISTER_BAR)
                start = 0 if flags & DOORBELL else gpu.remap_page
                mapping = device.pci.map_peer(bar)
                self._mappings.append(mapping)
                self._segments = [(mapping.segments[0][0] + start, self.size)]
            else:
                raise fail(errno.EINVAL)
        except (OutOfMemoryError, MemoryError) as error:
            raise fail(errno.ENOMEM) from error
        except AmdrvError as error:
            raise fail(errno.EFAULT) from error

    def _take(self, mapping: DmaMapping) -> None:
        self._mappings.append(mapping)
        self._view, self._segments = mapping.view, list(mapping.segments)

    def view(self) -> np.ndarray:
        """The CPU's mapping. :raises OSError: it has none."""
        if self._vram:
            if len(self._vram) > 1:
                raise fail(errno.ENOMEM)        # a kernel could; one array cannot
            return self.gpu.device.require_memory().view(self._vram[0][0], self.size)
        if self._view is None:
            raise fail(errno.EINVAL)
        return self._view

    def segments_for(self, gpu: Gpu) -> tuple[list[Segment], str]:
        """What goes into a card's page tables, and as which kind of memory."""
        if self.flags & (DOORBELL | MMIO):
            return self._segments, "peer"
        if gpu is self.gpu:
            return self._segments, "vram" if self._vram else "system"
        try:
            if not self._vram:
                assert self._view is not None
                mapping = gpu.device.pci.map_dma(int(self._view.ctypes.data), self.size)
                self._mappings.append(mapping)
                return list(mapping.segments), "system"
            window = gpu.device.pci.map_peer(self.gpu.device.pci.bar(0))
        except AmdrvError as error:
            raise fail(errno.EINVAL) from error
        self._mappings.append(window)
        return [(window.segments[0][0] + start, length) for start, length in self._vram], "peer"

    def drop(self) -> None:
        """One reference less; with the last, the memory is given back."""
        self.references -= 1
        if self.references == 0:
            if self._vram:
                self.gpu.device.require_memory().pages.free(self._vram)
            self._view = None
            for mapping in self._mappings:
                with suppress(AmdrvError):
                    mapping.close()
            self._mappings, self._vram, self._segments = [], [], []


class Handle:
    """A buffer at an address of the process: what the kernel's handle leads to. ``mapped``: cards that see it."""

    def __init__(self, bo: Bo, address: int) -> None:
        self.bo, self.address = bo, address
        self.mapped: list[Gpu] = []
        self.queues = 0                     # that were made of it

    def map(self, gpu: Gpu) -> None:
        """Twice is once (amdgpu_amdkfd_gpuvm_map_memory_to_gpu)."""
        if gpu in self.mapped:
            return
        segments, kind = self.bo.segments_for(gpu)
        flags = leaf_flags(kind) & ~(0 if self.bo.flags & WRITABLE else WRITEABLE)
        memory = gpu.device.require_memory()
        try:
            with memory.lock:
                memory.tables.map(self.address, segments, flags)
        except PageTableError as error:
            raise fail(errno.EINVAL) from error
        except OutOfMemoryError as error:
            raise fail(errno.ENOMEM) from error
        self.mapped.append(gpu)
        gpu.flush()

    def unmap(self, gpu: Gpu) -> None:
        if gpu not in self.mapped:
            return
        if self.queues:
            raise fail(errno.EBUSY)         # amdgpu_amdkfd_gpuvm_unmap_memory_from_gpu: queue_refcount
        memory = gpu.device.require_memory()
        with memory.lock:
            memory.tables.unmap(self.address, self.bo.size)
        self.mapped.remove(gpu)
        gpu.flush()
