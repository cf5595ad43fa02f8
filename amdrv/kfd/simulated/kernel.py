"""The simulated kernel's door: descriptors, and the calls of /dev/kfd and of render nodes (Linux 7.3, kfd_chardev.c)"""

from __future__ import annotations

import atexit
import ctypes
import errno
import os
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from amdrv.device import Device
from amdrv.errors import HalError
from amdrv.facts import kfd
from amdrv.hal import AMD_VENDOR_ID, Hal, Region
from amdrv.ip.gfx import PRIVATE_APERTURE, SHARED_APERTURE
from amdrv.ip.gmc import QUEUE_VMID
from amdrv.ip.ih import Entry
from amdrv.kfd.simulated.events import Events
from amdrv.kfd.simulated.files import RENDER_MINOR, files
from amdrv.kfd.simulated.gpu import AQL, BY_ENGINE, COMPUTE, SDMA, Gpu, HardwareQueue
from amdrv.kfd.simulated.memory import DOORBELL_BYTES, MMIO, PAGE, USERPTR, VRAM, Bo, Handle, fail

__all__ = ["SimulatedKernel"]

VERSION = (kfd.KFD_IOCTL_MAJOR_VERSION, kfd.KFD_IOCTL_MINOR_VERSION)
FIRST_FD = 1 << 20                      # not to be taken for descriptors of this process
GPUVM_BASE, GPUVM_LIMIT = 0x100_0000, (1 << 47) - 1     # kfd_flat_memory.c: SVM_USER_BASE, 48 bits less the upper half
APERTURE_BYTES = 1 << 32
USER_ADDRESSES = 1 << 47
MMAP_DOORBELL, MMAP_MMIO, MMAP_TYPE = 3 << 62, 0 << 62, 3 << 62        # kfd_priv.h, KFD_MMAP_TYPE_*
MMAP_GPU_SHIFT, MMAP_GPU_MASK = 46, 0xFFFF
HANDLE_GPU_SHIFT = 32
MEMORY_BYTES = 16 << 30                 # of the host, as its topology says
COUNTER_KHZ = 100_000
LOOK = 0.1                              # seconds that the thread of a card's interrupts sleeps at most
VALID, WRITE = 0x08, 0x20               # kfd_int_process_v11.c: bits of a fault's ring_id


class _Window:
    """A part of a BAR, as a process has it mapped (:class:`amdrv.hal.Region`)."""

    def __init__(self, region: Region, base: int, size: int) -> None:
        self._region, self._base, self.size = region, base, size

    def read32(self, offset: int) -> int:
        return self._region.read32(self._base + self._inside(offset))

    def write32(self, offset: int, value: int) -> None:
        self._region.write32(self._base + self._inside(offset), value)

    def read64(self, offset: int) -> int:
        return self._region.read64(self._base + self._inside(offset))

    def write64(self, offset: int, value: int) -> None:
        self._region.write64(self._base + self._inside(offset), value)

    def _inside(self, offset: int) -> int:
        if not 0 <= offset < self.size:
            raise HalError(f"{offset:#x} is outside of a mapping of {self.size:#x} bytes")
        return offset

    def view(self, offset: int, size: int, dtype: npt.DTypeLike = np.uint8) -> np.ndarray:
        raise HalError("doorbells and registers are not memory")


class SimulatedKernel:
    """:class:`amdrv.hal.kfd.Kernel` over cards of a HAL; they boot when it is made."""

    _shared: ClassVar[SimulatedKernel | None] = None

    def __init__(self, hal: Hal, *, version: tuple[int, int] = VERSION) -> None:
        self.version, self.page_size = version, PAGE
        self.lock = threading.RLock()
        self.events = Events()
        self.fds: dict[int, str | Gpu] = {}             # "kfd", or the card of a render node
        self.handles: dict[int, Handle] = {}
        self.queues: dict[int, HardwareQueue] = {}
        self._dmabufs: dict[int, Bo] = {}               # by inode
        self._next_fd, self._next_handle, self._next_queue, self._next_offset = FIRST_FD, 1, 0, 1
        self._offsets: dict[int, Bo] = {}
        self.gpus: list[Gpu] = []
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        try:
            for number in range(len([each for each in hal.functions(AMD_VENDOR_ID) if each.is_display])):
                self.gpus.append(Gpu(Device.open(hal, index=number), number, self._signal, self._fault))
        except BaseException:
            self.shutdown()
            raise
        self.page_size = max([PAGE, *(gpu.device.pci.page_size for gpu in self.gpus)])
        self.files = files(self.gpus, MEMORY_BYTES)
        for gpu in self.gpus:
            self._threads.append(threading.Thread(target=self._watch, args=(gpu,), daemon=True, name="kfd interrupts"))
            self._threads[-1].start()
        atexit.register(self.shutdown)

    @classmethod
    def shared(cls) -> SimulatedKernel:
        """The one of this process, on a mock machine of its own, as ``AMDRV_MOCK`` describes it."""
        if cls._shared is None or cls._shared._stopping.is_set():
            from amdrv.hal.mock import MockHal
            cls._shared = cls(MockHal.separate())
        return cls._shared

    def shutdown(self) -> None:
        """Stop the cards. Idempotent."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        atexit.unregister(self.shutdown)
        for thread in self._threads:
            thread.join()
        for gpu in self.gpus:
            gpu.device.close()

    # -- files and descriptors --------------------------------------------------------------------------------------

    def names(self, folder: str) -> list[str]:
        inside = {path[len(folder) + 1:].split("/")[0] for path in self.files if path.startswith(folder + "/")}
        if not inside:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), folder)
        return sorted(inside)

    def text(self, path: str) -> str:
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return self.files[path]

    def open(self, path: str) -> int:
        nodes: dict[str, str | Gpu] = {f"/dev/dri/renderD{RENDER_MINOR + gpu.number}": gpu for gpu in self.gpus}
        nodes["/dev/kfd"] = "kfd"
        if path not in nodes:
            raise fail(errno.ENOENT)
        with self.lock:
            self._next_fd += 1
            self.fds[self._next_fd] = nodes[path]
            return self._next_fd

    def close(self, fd: int) -> None:
        self.fds.pop(fd, None)

    def fence(self) -> None:
        for gpu in self.gpus:
            gpu.device.pci.fence()

    def map(self, fd: int, offset: int, size: int, address: int = 0) -> np.ndarray:
        """kfd_mmap knows doorbells and registers only; a render node maps what allocating returned."""
        bo = self._offsets.get(offset)
        if not isinstance(self.fds.get(fd), Gpu) or bo is None or size > bo.size:
            raise fail(errno.EINVAL)
        return bo.view()[:size]

    def registers(self, fd: int, offset: int, size: int) -> Region:
        gpu = self._gpu(offset >> MMAP_GPU_SHIFT & MMAP_GPU_MASK, errno.ENODEV)
        if self.fds.get(fd) != "kfd":
            raise fail(errno.EINVAL)
        if offset & MMAP_TYPE == MMAP_DOORBELL and size == DOORBELL_BYTES:
            return _Window(gpu.device.doorbells, 0, size)
        if offset & MMAP_TYPE == MMAP_MMIO and size == PAGE:
            return _Window(gpu.device.registers, gpu.remap_page, size)
        raise fail(errno.EINVAL)

    def ioctl(self, fd: int, request: int, argument: ctypes.Structure) -> None:
        owner, kind = self.fds.get(fd), kfd.ARGUMENTS.get(request)
        if owner is None:
            raise fail(errno.EBADF)
        if kind is None or not isinstance(argument, kind):
            raise fail(errno.ENOTTY)
        if isinstance(owner, Gpu):
            if request != kfd.DRM_IOCTL_AMDGPU_INFO:
                raise fail(errno.EINVAL)
            self._info(owner, argument)
            return
        call = CALLS.get(request)
        if call is None:
            raise fail(errno.ENOTTY)
        call(self, argument)

    # -- interrupts -------------------------------------------------------------------------------------------------

    def _watch(self, gpu: Gpu) -> None:
        while not self._stopping.is_set():
            if gpu.device.interrupts.wait(LOOK):
                gpu.device.interrupts.forget()          # the card's own driver keeps faults, too: nobody asks it

    def _signal(self, gpu: Gpu, number: int, bits: int) -> None:
        self.events.interrupt(number, bits)

    def _fault(self, gpu: Gpu, entry: Entry) -> None:
        """event_interrupt_wq_v11 and kfd_set_dbg_ev_from_interrupt: nothing of the process runs there any more."""
        if entry.vmid != QUEUE_VMID:
            return
        gpu.evict()
        data = kfd.kfd_hsa_memory_exception_data(va=entry.context[0] << 12 | (entry.context[1] & 0xF) << 44,
                                                 gpu_id=gpu.gpu_id)
        data.failure.NotPresent = int(bool(entry.ring_id & VALID))
        data.failure.ReadOnly = int(bool(entry.ring_id & WRITE))
        self.events.tell(kfd.KFD_IOC_EVENT_MEMORY, data)

    # -- the calls --------------------------------------------------------------------------------------------------

    def _gpu(self, gpu_id: int, missing: int = errno.EINVAL) -> Gpu:
        gpu = next((gpu for gpu in self.gpus if gpu.gpu_id == gpu_id), None)
        if gpu is None:
            raise fail(missing)
        return gpu

    def _bound(self, gpu_id: int) -> Gpu:
        """kfd_bind_process_to_device"""
        gpu = self._gpu(gpu_id)
        if gpu.vm is None:
            raise fail(errno.ENODEV)
        return gpu

    def _info(self, gpu: Gpu, query: Any) -> None:
        """amdgpu_info_ioctl"""
        if query.query != kfd.AMDGPU_INFO_DEV_INFO:
            raise fail(errno.EINVAL)
        device = gpu.device
        info = kfd.drm_amdgpu_info_device(
            device_id=device.function.device, num_shader_engines=device.shader_engines,
            num_shader_arrays_per_engine=device.discovery.gc.arrays_per_engine, gpu_counter_freq=COUNTER_KHZ,
            cu_active_number=device.compute_units, wave_front_size=32, gart_page_size=PAGE)
        ctypes.memmove(query.return_pointer, ctypes.addressof(info), min(query.return_size, ctypes.sizeof(info)))

    def get_version(self, a: Any) -> None:
        a.major_version, a.minor_version = self.version

    def acquire_vm(self, a: Any) -> None:
        gpu = self._gpu(a.gpu_id)
        if self.fds.get(a.drm_fd) is not gpu:
            raise fail(errno.EINVAL)
        if gpu.vm not in (None, a.drm_fd):
            raise fail(errno.EBUSY)
        gpu.vm = a.drm_fd

    def get_process_apertures_new(self, a: Any) -> None:
        if a.num_of_nodes:
            table = (kfd.kfd_process_device_apertures * a.num_of_nodes).from_address(
                a.kfd_process_device_apertures_ptr)
            for each, gpu in zip(table, self.gpus, strict=False):
                each.lds_base, each.lds_limit = SHARED_APERTURE, SHARED_APERTURE + APERTURE_BYTES - 1
                each.scratch_base, each.scratch_limit = PRIVATE_APERTURE, PRIVATE_APERTURE + APERTURE_BYTES - 1
                each.gpuvm_base, each.gpuvm_limit, each.gpu_id = GPUVM_BASE, GPUVM_LIMIT, gpu.gpu_id
        a.num_of_nodes = len(self.gpus)

    def get_clock_counters(self, a: Any) -> None:
        a.gpu_clock_counter = self._gpu(a.gpu_id).device.clock()
        a.cpu_clock_counter, a.system_clock_counter = time.monotonic_ns(), time.monotonic_ns()
        a.system_clock_freq = 10**9

    def available_memory(self, a: Any) -> None:
        a.available = self._gpu(a.gpu_id).device.require_memory().pages.free_bytes

    def set_scratch_backing_va(self, a: Any) -> None:
        self._bound(a.gpu_id).scratch_address = a.va_addr

    def alloc_memory_of_gpu(self, a: Any) -> None:
        if not a.size:
            raise fail(errno.EINVAL)
        with self.lock:
            gpu = self._bound(a.gpu_id)
            if a.flags & kfd.KFD_IOC_ALLOC_MEM_FLAGS_DOORBELL and a.size != DOORBELL_BYTES:
                raise fail(errno.EINVAL)
            if a.flags & MMIO and a.size != PAGE:
                raise fail(errno.EINVAL)
            if a.va_addr % PAGE or (a.va_addr == 0 and not a.flags & VRAM):
                raise fail(errno.EINVAL)
            bo = Bo(gpu, a.size, a.flags, a.mmap_offset)
            a.handle = self._handle(gpu, Handle(bo, a.va_addr))
            if a.flags & MMIO:
                a.mmap_offset = MMAP_MMIO | gpu.gpu_id << MMAP_GPU_SHIFT
            elif not a.flags & USERPTR:
                a.mmap_offset = self._next_offset << 12
                self._next_offset += bo.size // PAGE
                self._offsets[a.mmap_offset] = bo

    def _handle(self, gpu: Gpu, handle: Handle) -> int:
        number = gpu.gpu_id << HANDLE_GPU_SHIFT | self._next_handle
        self._next_handle += 1
        self.handles[number] = handle
        return number

    def free_memory_of_gpu(self, a: Any) -> None:
        with self.lock:
            handle = self._found(a.handle, errno.EINVAL)
            if handle.mapped:
                raise fail(errno.EBUSY)
            del self.handles[a.handle]
            for offset in [offset for offset, bo in self._offsets.items() if bo is handle.bo]:
                del self._offsets[offset]
            handle.bo.drop()

    def _found(self, number: int, missing: int) -> Handle:
        if number not in self.handles:
            raise fail(missing)
        return self.handles[number]

    def _cards_of(self, a: Any) -> list[Gpu]:
        if not a.n_devices or a.n_success > a.n_devices:
            raise fail(errno.EINVAL)
        return [self._bound(number) for number in (ctypes.c_uint32 * a.n_devices).from_address(a.device_ids_array_ptr)]

    def map_memory_to_gpu(self, a: Any) -> None:
        with self.lock:
            cards, handle = self._cards_of(a), self._found(a.handle, errno.ENOMEM)
            for done, gpu in enumerate(cards[a.n_success:], a.n_success + 1):
                handle.map(gpu)
                a.n_success = done

    def unmap_memory_from_gpu(self, a: Any) -> None:
        with self.lock:
            cards, handle = self._cards_of(a), self._found(a.handle, errno.ENODEV)
            for done, gpu in enumerate(cards[a.n_success:], a.n_success + 1):
                handle.unmap(gpu)
                a.n_success = done

    def export_dmabuf(self, a: Any) -> None:
        with self.lock:
            handle = self._found(a.handle, errno.EINVAL)
            if handle.bo.flags & (USERPTR | MMIO | kfd.KFD_IOC_ALLOC_MEM_FLAGS_DOORBELL):
                raise fail(errno.EINVAL)
            with tempfile.TemporaryFile() as file:
                a.dmabuf_fd = os.dup(file.fileno())
            self._dmabufs[os.fstat(a.dmabuf_fd).st_ino] = handle.bo
            handle.bo.references += 1

    def _dmabuf(self, fd: int) -> Bo:
        try:
            inode = os.fstat(fd).st_ino
        except (OSError, OverflowError):
            raise fail(errno.EBADF) from None
        if inode not in self._dmabufs:
            raise fail(errno.EINVAL)
        return self._dmabufs[inode]

    def get_dmabuf_info(self, a: Any) -> None:
        bo = self._dmabuf(a.dmabuf_fd)
        a.size, a.gpu_id, a.flags = bo.size, bo.gpu.gpu_id, bo.flags

    def import_dmabuf(self, a: Any) -> None:
        with self.lock:
            gpu, bo = self._bound(a.gpu_id), self._dmabuf(a.dmabuf_fd)
            bo.references += 1
            a.handle = self._handle(gpu, Handle(bo, a.va_addr))

    # -- queues

    def create_queue(self, a: Any) -> None:
        if (a.queue_percentage & 0xFF) > kfd.KFD_MAX_QUEUE_PERCENTAGE or a.queue_priority > kfd.KFD_MAX_QUEUE_PRIORITY:
            raise fail(errno.EINVAL)
        if a.ring_size & (a.ring_size - 1):
            raise fail(errno.EINVAL)
        a.ring_size = max(a.ring_size, kfd.KFD_MIN_QUEUE_RING_SIZE)
        addresses = (a.ring_base_address, a.read_pointer_address, a.write_pointer_address, a.eop_buffer_address,
                     a.ctx_save_restore_address)
        if any(address >= USER_ADDRESSES for address in addresses):
            raise fail(errno.EFAULT)
        known = (COMPUTE, AQL, SDMA, BY_ENGINE) if self.version >= (1, 17) else (COMPUTE, AQL, SDMA)
        if a.queue_type not in known:
            raise fail(errno.ENOTSUP)
        with self.lock:
            gpu = self._bound(a.gpu_id)
            queue = HardwareQueue(gpu, type(a).from_buffer_copy(a))
            gpu.acquire(queue, lambda address: self._mapped_at(gpu, address))
            try:
                gpu.place(queue)
            except OSError:
                self._release(queue)
                raise
            gpu.load(queue)
            a.queue_id, self._next_queue = self._next_queue, self._next_queue + 1
            self.queues[a.queue_id] = queue
            a.doorbell_offset = MMAP_DOORBELL | gpu.gpu_id << MMAP_GPU_SHIFT | queue.offset

    def _mapped_at(self, gpu: Gpu, address: int) -> Handle | None:
        return next((handle for handle in self.handles.values()
                     if handle.address == address and gpu in handle.mapped), None)

    @staticmethod
    def _release(queue: HardwareQueue) -> None:
        for handle in queue.buffers:
            handle.queues -= 1
        queue.buffers = []

    def _queue(self, number: int) -> HardwareQueue:
        if number not in self.queues:
            raise fail(errno.EINVAL)
        return self.queues[number]

    def destroy_queue(self, a: Any) -> None:
        with self.lock:
            queue = self._queue(a.queue_id)
            queue.gpu.remove(queue)
            del self.queues[a.queue_id]
            self._release(queue)

    def update_queue(self, a: Any) -> None:
        if (a.queue_percentage & 0xFF) > kfd.KFD_MAX_QUEUE_PERCENTAGE or a.queue_priority > kfd.KFD_MAX_QUEUE_PRIORITY:
            raise fail(errno.EINVAL)
        with self.lock:
            queue = self._queue(a.queue_id)
            queue.arguments.queue_percentage, queue.arguments.queue_priority = a.queue_percentage, a.queue_priority
            if not a.queue_percentage & 0xFF:
                queue.gpu.unload(queue)
            elif not queue.on:
                queue.gpu.load(queue)

    def set_cu_mask(self, a: Any) -> None:
        with self.lock:
            queue = self._queue(a.queue_id)
            if not a.num_cu_mask or a.num_cu_mask % 32 or not queue.compute:
                raise fail(errno.EINVAL)
            words = (ctypes.c_uint32 * (a.num_cu_mask // 32)).from_address(a.cu_mask_ptr)
            mask = sum(word << 32 * number for number, word in enumerate(words))
            queue.gpu.use_units(queue, mask, min(a.num_cu_mask, queue.gpu.device.compute_units))

    # -- events

    def create_event(self, a: Any) -> None:
        with self.lock:
            if a.event_page_offset:
                handle = self._found(a.event_page_offset, errno.EINVAL)
                self.events.set_page(handle.bo.view())
            a.event_id = a.event_trigger_data = self.events.create(a.event_type, bool(a.auto_reset))
            a.event_slot_index = a.event_id if a.event_type == kfd.KFD_IOC_EVENT_SIGNAL else 0

    def destroy_event(self, a: Any) -> None:
        self.events.destroy(a.event_id)

    def set_event(self, a: Any) -> None:
        self.events.change(a.event_id, True)

    def reset_event(self, a: Any) -> None:
        self.events.change(a.event_id, False)

    def wait_events(self, a: Any) -> None:
        a.wait_result = self.events.wait(a.events_ptr, a.num_events, bool(a.wait_for_all), a.timeout)


CALLS: dict[int, Callable[[SimulatedKernel, Any], None]] = {
    number: getattr(SimulatedKernel, name.removeprefix("AMDKFD_IOC_").lower())
    for name, number in vars(kfd).items() if name.startswith("AMDKFD_IOC_")}
