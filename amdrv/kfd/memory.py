"""Buffers of one card: VRAM, host memory, arrays that exist already, and buffers that others exported.

The kernel allocates (ALLOC_MEMORY_OF_GPU) at an address that this side chooses, and maps (MAP_MEMORY_TO_GPU) for as
many cards as are named. Addresses come from one range for all cards of the process: an address means one buffer.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np

from amdrv.errors import AmdrvError, MappingError, OutOfMemoryError
from amdrv.facts import kfd
from amdrv.kfd.process import DMABUF_EXPORT, Card, refusal
from amdrv.ledger import Ledger
from amdrv.memory import Placed
from amdrv.mmu import shared_addresses

__all__ = ["Buffer", "Memory"]

# Within every card's GPUVM aperture (48 bits less the upper half), above what FB_LOCATION of any known board covers,
# and clear of where Linux puts a process's own memory: the kernel lets nobody map what its SVM ranges cover.
ADDRESS_BASE = 0x4000_0000_0000
ADDRESS_SIZE = 0x1000_0000_0000
PAGE = 4096
LARGE = (1 << 30, 2 << 20, 64 << 10)        # alignments that let the largest pages fit
CLOSE_ON_EXEC = os.O_CLOEXEC

Kind = Literal["vram", "system", "userptr", "doorbell", "registers", "imported"]
FLAGS = {
    "vram": kfd.KFD_IOC_ALLOC_MEM_FLAGS_VRAM,
    "system": kfd.KFD_IOC_ALLOC_MEM_FLAGS_GTT | kfd.KFD_IOC_ALLOC_MEM_FLAGS_COHERENT
    | kfd.KFD_IOC_ALLOC_MEM_FLAGS_UNCACHED,
    "userptr": kfd.KFD_IOC_ALLOC_MEM_FLAGS_USERPTR | kfd.KFD_IOC_ALLOC_MEM_FLAGS_COHERENT
    | kfd.KFD_IOC_ALLOC_MEM_FLAGS_UNCACHED,
    "doorbell": kfd.KFD_IOC_ALLOC_MEM_FLAGS_DOORBELL | kfd.KFD_IOC_ALLOC_MEM_FLAGS_COHERENT,
    "registers": kfd.KFD_IOC_ALLOC_MEM_FLAGS_MMIO_REMAP | kfd.KFD_IOC_ALLOC_MEM_FLAGS_COHERENT,
}
ALWAYS = kfd.KFD_IOC_ALLOC_MEM_FLAGS_EXECUTABLE | kfd.KFD_IOC_ALLOC_MEM_FLAGS_NO_SUBSTITUTE


class Buffer(Placed):
    """Memory mapped for the card at ``address``. ``nbytes`` is what was asked for, ``size`` whole pages of it.

    :ivar handle: the kernel's number for it. :ivar offset: what mapping it for the CPU takes.
    """

    def __init__(self, memory: Memory, address: int, nbytes: int, size: int, kind: Kind, name: str, handle: int,
                 offset: int, view: np.ndarray | None = None) -> None:
        self.address, self.nbytes, self.size, self.kind, self.name = address, nbytes, size, kind, name
        self.handle, self.offset = handle, offset
        self.gpus = [memory.card.gpu_id]        # that have it mapped
        self.keeps: object = None               # what must live as long as this
        self._memory, self._view = memory, view

    @property
    def view(self) -> np.ndarray | None:
        """uint8[nbytes], live; None where the CPU has no window on it: VRAM that it does not see, and what was
        freed."""
        if self._view is None and self._memory.seen_by_cpu(self):
            try:
                self._view = self._memory.map_view(self)
            except OutOfMemoryError:
                if self.kind == "system":
                    raise
        return self._view

    def forget_view(self) -> None:
        self._view = None


class Memory:
    """Allocates, maps and frees, as :class:`amdrv.memory.Memory` does. Safe to use from several threads; what is freed
    by a finalizer while this thread is inside another call takes effect when that ends."""

    def __init__(self, card: Card, statistics: Counter[str]) -> None:
        self.card, self.process, self._statistics = card, card.process, statistics
        self.addresses = shared_addresses(ADDRESS_BASE, ADDRESS_SIZE)
        aperture = card.apertures
        if not aperture.gpuvm_base <= ADDRESS_BASE <= ADDRESS_BASE + ADDRESS_SIZE - 1 <= aperture.gpuvm_limit:
            raise MappingError(f"card {card.gpu_id:#x} has addresses {aperture.gpuvm_base:#x} to "
                               f"{aperture.gpuvm_limit:#x}; this driver uses {ADDRESS_BASE:#x} and what follows")
        self._ledger: Ledger[Buffer] = Ledger()
        self._lock, self._depth = threading.RLock(), 0
        self._freed_inside: list[Buffer] = []

    @property
    def page_size(self) -> int:
        return max(PAGE, self.process.kernel.page_size)

    # -- getting memory ---------------------------------------------------------------------------------------------

    def alloc(self, nbytes: int, *, kind: Literal["vram", "system"] = "vram", name: str = "") -> Buffer:
        """Memory of ``nbytes``, rounded up to pages. Host memory holds zeros.

        :raises OutOfMemoryError: says what was asked and what is free; nothing is lost by it.
        """
        if nbytes <= 0:
            raise ValueError(f"an allocation must have at least one byte, not {nbytes}")
        flags = FLAGS[kind] | ALWAYS | kfd.KFD_IOC_ALLOC_MEM_FLAGS_WRITABLE
        if kind == "vram" and self.card.node.large_bar:
            flags |= kfd.KFD_IOC_ALLOC_MEM_FLAGS_PUBLIC
        return self._alloc(nbytes, kind, name, flags)

    def map_pages(self, start: int, size: int, *, name: str, writable: bool) -> Buffer:
        """Memory of this process where it is, by whole pages: the kernel pins it while the card may reach it.

        :raises MappingError: the kernel cannot.
        """
        flags = FLAGS["userptr"] | ALWAYS | (kfd.KFD_IOC_ALLOC_MEM_FLAGS_WRITABLE if writable else 0)
        view = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(start))
        try:
            return self._alloc(size, "userptr", name, flags, offset=start, view=view)
        except OutOfMemoryError:
            raise
        except AmdrvError as error:
            raise MappingError(f"memory at {start:#x}, {size:,} bytes, cannot be shown to the card; the pages of a "
                               f"file that is mapped read-only are among what the kernel refuses: {error}") from error

    def doorbells(self, nbytes: int) -> Buffer:
        """This process's doorbells, for engines and kernels that ring each other's."""
        return self._alloc(nbytes, "doorbell", "doorbells", FLAGS["doorbell"] | kfd.KFD_IOC_ALLOC_MEM_FLAGS_WRITABLE)

    def registers(self) -> Buffer:
        """The page of registers that flush the host data path (Linux, nbio_v4_3.c, remap_hdp_registers)."""
        return self._alloc(self.page_size, "registers", "HDP flush",
                           FLAGS["registers"] | kfd.KFD_IOC_ALLOC_MEM_FLAGS_WRITABLE)

    def _alloc(self, nbytes: int, kind: Kind, name: str, flags: int, offset: int = 0,
               view: np.ndarray | None = None) -> Buffer:
        size = -(-nbytes // PAGE) * PAGE
        with self._exclusive():
            address = self.addresses.allocate(size, align=next((large for large in LARGE if size >= large), PAGE))
            try:
                made = self.process.call("ALLOC_MEMORY_OF_GPU", f"{nbytes:,} bytes ({name or kind})", va_addr=address,
                                         size=size, gpu_id=self.card.gpu_id, flags=flags, mmap_offset=offset)
            except OutOfMemoryError as error:
                self.addresses.release(address)
                raise OutOfMemoryError(f"{'VRAM' if kind == 'vram' else 'host memory for the card'}: {nbytes:,} bytes "
                                       f"asked, {self._available()}; {error}") from error.__cause__
            except BaseException:
                self.addresses.release(address)
                raise
            return self._enter(Buffer(self, address, nbytes, size, kind, name, made.handle, made.mmap_offset, view))

    def _available(self) -> str:
        try:
            free = self.process.call("AVAILABLE_MEMORY", "how much memory is free", gpu_id=self.card.gpu_id).available
        except AmdrvError:
            return "how much VRAM is free is not known"
        return f"{free:,} of VRAM are free"

    def _enter(self, buffer: Buffer) -> Buffer:
        try:
            self._map_for(buffer, [self.card.gpu_id])
        except BaseException:
            self.process.call("FREE_MEMORY_OF_GPU", f"to free {buffer}", handle=buffer.handle)
            self.addresses.release(buffer.address)
            raise
        self._ledger.add(buffer)
        self._statistics["page_table_entries"] += buffer.size // PAGE
        return buffer

    # -- several cards, several processes -----------------------------------------------------------------------------

    def map_for(self, buffer: Buffer, gpu_id: int) -> None:
        """Another card of this process reaches the buffer, too, at the same address.

        :raises MappingError: the machine lets no card reach the other's memory.
        """
        with self._lock:
            if gpu_id in buffer.gpus:
                return
            try:
                self._map_for(buffer, [gpu_id])
            except AmdrvError as error:
                raise MappingError(f"card {gpu_id:#x} cannot reach {buffer} of card {self.card.gpu_id:#x}; cards reach "
                                   f"each other's memory where it is all in their BARs: {error}") from error
            buffer.gpus.append(gpu_id)

    def map_handle(self, handle: int, gpu_id: int) -> None:
        """A buffer that is the process's: its page of events."""
        self._map_call("MAP_MEMORY_TO_GPU", "to map the page of events", handle, [gpu_id])

    def _map_for(self, buffer: Buffer, gpus: Sequence[int]) -> None:
        self._map_call("MAP_MEMORY_TO_GPU", f"to map {buffer}", buffer.handle, gpus)

    def _map_call(self, name: str, what: str, handle: int, gpus: Sequence[int]) -> None:
        numbers = (ctypes.c_uint32 * len(gpus))(*gpus)
        self.process.call(name, what, handle=handle, device_ids_array_ptr=ctypes.addressof(numbers),
                          n_devices=len(gpus))

    def export(self, buffer: Buffer) -> int:
        """The buffer as a dma-buf: a descriptor, for another process or driver. The caller closes it.

        :raises MappingError: the kernel cannot export this kind.
        """
        if self.process.version < DMABUF_EXPORT:
            raise MappingError(f"the kernel's KFD {'.'.join(map(str, self.process.version))} does not export buffers; "
                               f"{'.'.join(map(str, DMABUF_EXPORT))} (Linux 6.2) does")
        try:
            return int(self.process.call("EXPORT_DMABUF", f"a dma-buf of {buffer}", handle=buffer.handle,
                                         flags=CLOSE_ON_EXEC).dmabuf_fd)
        except AmdrvError as error:
            raise MappingError(f"{buffer} cannot be exported: {error}") from error

    def import_dmabuf(self, fd: int, *, name: str = "") -> Buffer:
        """A buffer of amdgpu's that somebody exported (this process, another, a Vulkan driver), mapped for this card.

        :raises MappingError: it is none, or not of this card.
        """
        with self._exclusive():
            try:
                size = int(self.process.call("GET_DMABUF_INFO", f"the size of dma-buf {fd}", dmabuf_fd=fd).size)
            except AmdrvError as error:
                raise MappingError(f"descriptor {fd} is no buffer that amdgpu exported: {error}") from error
            address = self.addresses.allocate(size, align=next((large for large in LARGE if size >= large), PAGE))
            try:
                handle = self.process.call("IMPORT_DMABUF", f"dma-buf {fd}", va_addr=address, gpu_id=self.card.gpu_id,
                                           dmabuf_fd=fd).handle
            except AmdrvError as error:
                self.addresses.release(address)
                raise MappingError(f"dma-buf {fd} cannot be imported by card {self.card.gpu_id:#x}: {error}") from error
            return self._enter(Buffer(self, address, size, size, "imported", name, handle, 0))

    # -- the CPU's side -----------------------------------------------------------------------------------------------

    def seen_by_cpu(self, buffer: Buffer) -> bool:
        return self._ledger.holds(buffer) and (buffer.kind == "system" or
                                               (buffer.kind == "vram" and self.card.node.large_bar))

    def map_view(self, buffer: Buffer) -> np.ndarray:
        return self.process.map(self.card, buffer.offset, buffer.size, buffer.address)[:buffer.nbytes]

    # -- giving it back -----------------------------------------------------------------------------------------------

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        with self._lock:
            self._depth += 1
            try:
                yield
            finally:
                try:
                    while self._depth == 1 and self._freed_inside:
                        self._release(self._freed_inside.pop())
                finally:
                    self._depth -= 1

    def free(self, buffer: Buffer) -> None:
        """Unmap and give back. The engines must be done with it.

        :raises ValueError: it is not (or no longer) a buffer of this card.
        """
        with self._lock:
            if not self._ledger.holds(buffer) or buffer in self._freed_inside:
                raise ValueError(f"{buffer} is not allocated on this card (freed twice?)")
            with self._exclusive():
                self._freed_inside.append(buffer)

    def _release(self, buffer: Buffer) -> None:
        self._ledger.remove(buffer)
        buffer.forget_view()
        self._map_call("UNMAP_MEMORY_FROM_GPU", f"to unmap {buffer}", buffer.handle, buffer.gpus)
        self.process.call("FREE_MEMORY_OF_GPU", f"to free {buffer}", handle=buffer.handle)
        buffer.keeps = None
        self.addresses.release(buffer.address)

    def holds(self, buffer: Buffer) -> bool:
        return self._ledger.holds(buffer)

    def keep(self, buffer: Buffer) -> None:
        """It stays the kernel's until the process ends: it is nobody's to free."""
        with self._lock:
            self._ledger.remove(buffer)

    # -- for people ---------------------------------------------------------------------------------------------------

    def nearest(self, address: int) -> str:
        with self._lock:
            return self._ledger.nearest(address)

    @property
    def allocated(self) -> dict[str, int]:
        """Bytes alive, by kind."""
        with self._lock:
            found: Counter[str] = Counter({"vram": 0, "system": 0})
            for buffer in self._ledger.all():
                found[buffer.kind] += buffer.size
            return dict(found)

    def close(self) -> None:
        """Free what is left. Queues must be gone."""
        with self._lock:
            self._freed_inside.clear()
            for buffer in self._ledger.all():
                try:
                    self._release(buffer)
                except AmdrvError as error:
                    if not refusal(error):
                        raise
