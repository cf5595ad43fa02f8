"""What this process is to the kernel's driver: one descriptor of /dev/kfd, the cards it has, calls and events.

The kernel keeps one such process per address space until that ends: closing /dev/kfd does not give a card's VM back,
nor the page of events. So there is one :class:`Process`, made at first use and kept; a child after a fork makes its
own.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from typing import Any

import numpy as np

from amdrv.errors import AmdrvError, CardBusyError, HalError, NoCardError, OutOfMemoryError
from amdrv.facts import kfd
from amdrv.hal import Region
from amdrv.hal.kfd import Kernel, LinuxKernel
from amdrv.kfd.topology import Node, read_topology

__all__ = ["Apertures", "Card", "Fault", "Process", "connect"]

KFD = "/dev/kfd"
OLDEST = (1, 9)                 # the first with gfx11: Linux 5.19's and 6.0's
DMABUF_EXPORT = (1, 12)         # kfd_ioctl.h's history
ENGINE_ID = (1, 17)
TARGETS = ((11, 0, 0), (11, 0, 1), (11, 0, 2))      # gfx1100 to gfx1102: MEC and SDMA 6 as the encoders speak them
FOREVER_MS = 0xFFFF_FFFE        # kfd_events.h: KFD_EVENT_TIMEOUT_INFINITE is one more
EVENT_SLOT = 8                  # bytes of a slot in the page of events
EVENT_PAGE = kfd.KFD_SIGNAL_EVENT_LIMIT * EVENT_SLOT
DOORBELL_BYTES = 0x2000         # kfd_doorbell.c: a process's slice since SOC15 is two pages
GROUPS = "add the user to the groups render and video (usermod -aG render,video NAME) and log in again, or be root"

Apertures = kfd.kfd_process_device_apertures


class Fault:
    """What the kernel reported of a card: ``address`` is None where it was no memory fault."""

    def __init__(self, text: str, address: int | None = None) -> None:
        self.text, self.address = text, address


class Card:
    """One card in the process: its node, its render node's descriptor, its events."""

    def __init__(self, process: Process, node: Node, drm: int, apertures: Apertures) -> None:
        self.process, self.node, self.drm, self.apertures = process, node, drm, apertures
        self.held = False               # by a device of this process
        self.signal = 0                 # the event that its engines raise; 0: not made yet
        self.signal_address = 0         # of the event's slot, as every card sees it
        self.faults: dict[str, Fault] = {}

    @property
    def gpu_id(self) -> int:
        return self.node.gpu_id


class Process:
    """Calls on /dev/kfd. Safe to use from several threads."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel, self.pid = kernel, os.getpid()
        self._lock = threading.RLock()
        self.fd = self._open(KFD)
        try:
            version = self.call("GET_VERSION", "its version")
            self.version: tuple[int, int] = (version.major_version, version.minor_version)
            if self.version[0] != OLDEST[0] or self.version < OLDEST:
                raise HalError(f"{KFD} speaks version {self.version[0]}.{self.version[1]}; this driver needs "
                               f"{OLDEST[0]}.{OLDEST[1]} or a newer {OLDEST[0]}.x (Linux 6.0): a newer kernel, or a "
                               "card bound to vfio-pci and AM")
            self.nodes = read_topology(kernel)
        except BaseException:
            kernel.close(self.fd)
            raise
        self._cards: dict[int, Card] = {}
        self._memory_event = self._hardware_event = 0
        self._event_page: tuple[int, int] | None = None     # handle, address

    # -- calls ------------------------------------------------------------------------------------------------------

    def call(self, name: str, what: str, *, fd: int | None = None, **fields: Any) -> Any:
        """One call by its name in ``kfd_ioctl.h``, with these fields; returns the structure that came back.

        :param what: is asked for: the error says it.
        :raises OutOfMemoryError: the kernel has no memory, or not of that kind. :raises HalError: any other refusal;
            ``__cause__`` is the OSError.
        """
        number: int = getattr(kfd, f"AMDKFD_IOC_{name}")
        arguments = kfd.ARGUMENTS[number]()
        for field, value in fields.items():
            setattr(arguments, field, value)
        try:
            self.kernel.ioctl(self.fd, number, arguments)
        except OSError as error:
            message = f"{KFD} refuses {what} ({name}): {error.strerror} (errno {error.errno})"
            if error.errno in (errno.ENOMEM, errno.ENOSPC):
                raise OutOfMemoryError(message) from error
            raise HalError(message) from error
        return arguments

    def _open(self, path: str) -> int:
        try:
            return self.kernel.open(path)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                raise HalError(f"{path}: {error.strerror}; {GROUPS}") from error
            if error.errno == errno.EBUSY:
                raise CardBusyError(f"{path}: busy; another process owns it") from error
            if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
                raise NoCardError(f"there is no {path}: the kernel's amdgpu driver is not loaded (modprobe amdgpu; "
                                  "lsmod | grep amdgpu), was built without CONFIG_HSA_AMD, or this is a container "
                                  f"without --device={path}. AMDRV_HAL=mock gives a software card") from error
            raise HalError(f"{path} cannot be opened: {error.strerror}") from error

    # -- cards ------------------------------------------------------------------------------------------------------

    @property
    def cards(self) -> list[Node]:
        return [node for node in self.nodes if node.is_card]

    def card(self, index: int) -> Card:
        """The card of that number, its VM acquired for this process.

        :raises NoCardError: no such card, or one that this driver does not know.
        """
        with self._lock:
            cards = self.cards
            if not 0 <= index < len(cards):
                seen = ", ".join(f"{node.name} ({node.arch}) at {node.pci_address}" for node in cards) or "none"
                raise NoCardError(f"KFD: no card of number {index}; the kernel's driver has: {seen}. "
                                  "AMDRV_HAL=mock gives a software card")
            node = cards[index]
            if node.target not in TARGETS:
                known = ", ".join("gfx{}{:x}{:x}".format(*target) for target in TARGETS)
                raise NoCardError(f"KFD: card {index} is {node.name}, {node.arch}; this driver knows {known}")
            if node.gpu_id not in self._cards:
                self._cards[node.gpu_id] = self._acquire(node)
            return self._cards[node.gpu_id]

    def _acquire(self, node: Node) -> Card:
        """The card's VM becomes the one of its render node's descriptor, once for the life of this process."""
        path = f"/dev/dri/renderD{node['drm_render_minor']}"
        drm = self._open(path)
        try:
            self.call("ACQUIRE_VM", f"the address space of {path} for card {node.gpu_id:#x}", drm_fd=drm,
                      gpu_id=node.gpu_id)
            return Card(self, node, drm, self._apertures(node.gpu_id))
        except BaseException:
            self.kernel.close(drm)
            raise

    def _apertures(self, gpu_id: int) -> Apertures:
        count = len(self.nodes)
        table = (Apertures * count)()
        answer = self.call("GET_PROCESS_APERTURES_NEW", "the apertures of its address spaces", num_of_nodes=count,
                           kfd_process_device_apertures_ptr=ctypes.addressof(table))
        for each in table[:answer.num_of_nodes]:
            if each.gpu_id == gpu_id:
                return Apertures.from_buffer_copy(each)
        raise HalError(f"{KFD} names no apertures for card {gpu_id:#x}")

    def device_info(self, card: Card) -> kfd.drm_amdgpu_info_device:
        """What the render node tells of the card (AMDGPU_INFO_DEV_INFO)."""
        info = kfd.drm_amdgpu_info_device()
        query = kfd.drm_amdgpu_info(return_pointer=ctypes.addressof(info), return_size=ctypes.sizeof(info),
                                    query=kfd.AMDGPU_INFO_DEV_INFO)
        try:
            self.kernel.ioctl(card.drm, kfd.DRM_IOCTL_AMDGPU_INFO, query)
        except OSError as error:
            raise HalError(f"the render node of card {card.gpu_id:#x} does not describe it: {error.strerror}"
                           ) from error
        return info

    def doorbells(self, offset: int) -> Region:
        """This process's doorbells of a card, from what creating a queue returned."""
        try:
            return self.kernel.registers(self.fd, offset & -DOORBELL_BYTES, DOORBELL_BYTES)
        except OSError as error:
            raise HalError(f"the doorbells cannot be mapped: {error.strerror} (errno {error.errno})") from error

    def map(self, card: Card, offset: int, nbytes: int, address: int) -> np.ndarray:
        """The CPU's view of a buffer, by what allocating it returned; at the card's address where that is free here.

        The kernel reads a queue's pointers at the addresses that the card has for them (kfd_device_queue_manager.c,
        read_sdma_queue_counter; amdgpu_amdkfd.h, read_user_wptr).
        """
        try:
            return self.kernel.map(card.drm, offset, nbytes, address)
        except OSError as error:
            raise OutOfMemoryError(f"{nbytes:,} bytes of the card cannot be mapped for the CPU: {error.strerror} "
                                   f"(errno {error.errno})") from error

    # -- events -----------------------------------------------------------------------------------------------------

    @property
    def event_page(self) -> tuple[int, int] | None:
        """Handle and address of the page that engines write an event's number to; None before there is one."""
        return self._event_page

    def create_events(self, card: Card, page: tuple[int, int]) -> None:
        """The event that the card's engines raise, and, once a process, those for what goes wrong.

        :param page: handle and address of memory of :data:`EVENT_PAGE` bytes, for the first card's call; the page
            stays the kernel's from then on.
        """
        with self._lock:
            handle = 0 if self._event_page else page[0]
            if not card.signal:
                made = self.call("CREATE_EVENT", "an event", event_page_offset=handle, auto_reset=1,
                                 event_type=kfd.KFD_IOC_EVENT_SIGNAL)
                self._event_page = self._event_page or page
                card.signal = made.event_id
                card.signal_address = self._event_page[1] + EVENT_SLOT * made.event_slot_index
            if not self._memory_event:
                self._memory_event, self._hardware_event = (
                    self.call("CREATE_EVENT", "an event", event_type=kind, auto_reset=1).event_id   # nobody else can
                    for kind in (kfd.KFD_IOC_EVENT_MEMORY, kfd.KFD_IOC_EVENT_HW_EXCEPTION))

    def wait(self, card: Card, timeout: float) -> bool:
        """Sleep until the card's event is raised, something goes wrong, or time is up; whether anything happened."""
        events = (kfd.kfd_event_data * 3)()
        for event, number in zip(events, (card.signal, self._memory_event, self._hardware_event), strict=True):
            event.event_id = number
        milliseconds = min(max(int(timeout * 1000 + 0.999), 0), FOREVER_MS)
        answer = self.call("WAIT_EVENTS", "to wait for an event", events_ptr=ctypes.addressof(events), num_events=3,
                           timeout=milliseconds)
        if answer.wait_result != kfd.KFD_IOC_WAIT_RESULT_COMPLETE:
            return False
        self._take(events[1].memory_exception_data, events[2].hw_exception_data)
        return True

    def _take(self, memory: Any, hardware: Any) -> None:
        """What the two events carry, where they were raised: the kernel fills in a card's number."""
        if memory.gpu_id:
            self._report(memory.gpu_id, _memory_fault(memory))
        if hardware.gpu_id:
            self._report(hardware.gpu_id, _hardware_fault(hardware))

    def _report(self, gpu_id: int, fault: Fault) -> None:
        with self._lock:
            if gpu_id in self._cards:
                self._cards[gpu_id].faults.setdefault(fault.text, fault)


def _memory_fault(data: kfd.kfd_hsa_memory_exception_data) -> Fault:
    failure = data.failure
    causes = [cause for flag, cause in (
        (data.ErrorType == kfd.KFD_MEM_ERR_SRAM_ECC, "an uncorrectable error of the card's memory (ECC)"),
        (data.ErrorType == kfd.KFD_MEM_ERR_POISON_CONSUMED, "poisoned data were used (ECC)"),
        (data.ErrorType == kfd.KFD_MEM_ERR_GPU_HANG, "the GPU hung"),
        # of gfx11 the kernel says NotPresent of every fault, and ReadOnly of every store (event_interrupt_wq_v11)
        (failure.ReadOnly, "a store to no page, or to one that may only be read"),
        (failure.NotPresent and not failure.ReadOnly, "a load from no page"),
        (failure.NoExecute, "code in a page that may not be executed")) if flag]
    inexact = ", the address is not exact" if failure.imprecise else ""
    return Fault(f"page fault at {data.va:#x}: {', '.join(causes) or 'access refused'}{inexact}", data.va)


def _hardware_fault(data: kfd.kfd_hsa_hw_exception_data) -> Fault:
    cause = "an uncorrectable ECC error" if data.reset_cause == kfd.KFD_HW_EXCEPTION_ECC else "a GPU that hangs"
    reset = "the whole GPU" if data.reset_type == kfd.KFD_HW_EXCEPTION_WHOLE_GPU_RESET else "an engine"
    lost = ", and video memory is lost" if data.memory_lost else ""
    return Fault(f"the kernel reset {reset} because of {cause}{lost}; this process's queues are gone")


_processes: dict[object, Process] = {}
_lock = threading.Lock()


def connect(kernel: Kernel | None = None) -> Process:
    """This process on that kernel: the one that ``AMDRV_HAL`` asks for, by default (auto: the machine's; mock: one
    that is simulated on a mock card).

    :raises HalError: AMDRV_HAL names another way to the card.
    """
    with _lock:
        if kernel is None:
            kernel = _kernel()
        process = _processes.get(kernel)
        if process is None or process.pid != os.getpid():
            process = _processes[kernel] = Process(kernel)
        return process


def _kernel() -> Kernel:
    way = os.environ.get("AMDRV_HAL") or "auto"
    if way == "mock":
        from amdrv.kfd.simulated import SimulatedKernel
        return SimulatedKernel.shared()
    if way != "auto":
        raise HalError(f"AMDRV_HAL={way!r}: KFD is a card that its kernel driver keeps, reached through {KFD}; leave "
                       "AMDRV_HAL unset for it (or auto, or mock), or open AM, which takes the card itself")
    for known in _processes:
        if isinstance(known, LinuxKernel):
            return known
    return LinuxKernel()


def refusal(error: AmdrvError) -> int:
    """The kernel's errno of a call's error; 0 where it has none."""
    return error.__cause__.errno or 0 if isinstance(error.__cause__, OSError) else 0
