"""One card that its kernel driver keeps: opened, given memory and queues, and left as it was found.

It has the methods of :class:`amdrv.device.Device` that queues, buffers and recovery need; the card itself is the
kernel's: nothing here sees a register.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Literal

import numpy as np

from amdrv.aql.ring import AqlRing
from amdrv.errors import AmdrvError, CardBusyError, GpuFault, GpuHang, PacketError, WaitTimeout
from amdrv.facts import navi31
from amdrv.hal import Region
from amdrv.kfd.memory import Buffer, Memory
from amdrv.kfd.process import DOORBELL_BYTES, EVENT_PAGE, Card, Process, connect
from amdrv.kfd.queues import Queue
from amdrv.recovery import Diagnosis, Recovery, Step, StuckQueue
from amdrv.registration import Registration, register
from amdrv.ring import Ring, RingKind

__all__ = ["KfdDevice"]

GOLDEN_CLOCK_HZ = 100_000_000       # Linux, soc21.c, soc21_get_xclk: where the render node does not tell
LOOKS, LOOK = 10, 10e-3             # a queue stands still when so many looks find it at one place
FLUSH = 0                           # of the remapped page: HDP_MEM_FLUSH_CNTL (kfd_ioctl.h, KFD_MMIO_REMAP_*)


class KfdDevice:
    """A card by the kernel's driver. A context manager that gives back what this process has of it."""

    def __init__(self, process: Process, index: int) -> None:
        self.name, self.process = f"KFD:{index}", process
        self.card: Card = process.card(index)
        if self.card.held:
            raise CardBusyError(f"{self.name} is already open in this process; close the other one first")
        self.card.held = True
        self.statistics: Counter[str] = Counter()
        self.memory: Memory | None = None
        self.queues: list[Queue] = []
        self._lock = threading.RLock()
        self._doorbells: Region | None = None
        self._closed = False
        try:
            self.card.faults.clear()
            self.memory = Memory(self.card, self.statistics)
            self._make_events()
            self._describe()
            for engine in range(max(self.card.node["num_sdma_engines"], 1)):
                self.add_queue("copy", engine=engine)
            self.add_queue("compute")
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, index: int = 0, process: Process | None = None) -> KfdDevice:
        """Card number ``index`` of the kernel's.

        :raises NoCardError: there is no KFD, or not so many cards. :raises HalError: no permission, or too old.
        :raises CardBusyError: this process has it open already.
        """
        return cls(process or connect(), index)

    def _make_events(self) -> None:
        memory = self.require_memory()
        if not self.card.signal:
            page = self.process.event_page
            made: Buffer | None = None
            if page is None:
                made = memory.alloc(EVENT_PAGE, kind="system", name="events")
                page = made.handle, made.address
            else:
                memory.map_handle(page[0], self.card.gpu_id)
            self.process.create_events(self.card, page)
            if made is not None:
                memory.keep(made)
        self.event, self.event_address = self.card.signal, self.card.signal_address

    def _describe(self) -> None:
        node = self.card.node
        info = self.process.device_info(self.card)
        self.arch, self.vram_size, self.compute_units = node.arch, node.vram_bytes, node.compute_units
        self.shader_engines = max(int(info.num_shader_engines), 1)
        self.clock_hz = 1000 * int(info.gpu_counter_freq) or GOLDEN_CLOCK_HZ
        self.shared_aperture = int(self.card.apertures.lds_base)
        self.private_aperture = int(self.card.apertures.scratch_base)

    @property
    def marketing_name(self) -> str:
        node = self.card.node
        if (node["vendor_id"], node["device_id"]) == (navi31.VENDOR_ID, navi31.DEVICE_ID):
            return navi31.MARKETING_NAME
        return f"AMD GPU {node['vendor_id']:04x}:{node['device_id']:04x}"

    # -- queues -----------------------------------------------------------------------------------------------------

    @property
    def fence(self) -> Callable[[], None]:
        return self.process.kernel.fence

    @property
    def doorbells(self) -> _Nowhere:
        """Of a ring whose queue is not there yet."""
        return _Nowhere()

    def map_doorbells(self, offset: int) -> Region:
        """All queues of a process on a card ring within the same two pages."""
        if self._doorbells is None:
            self._doorbells = self.process.doorbells(offset)
        return self._doorbells

    def map_doorbells_for_engines(self) -> Buffer:
        """The same pages at an address of the card's: there engines ring them."""
        return self.require_memory().doorbells(DOORBELL_BYTES)

    def add_queue(self, kind: RingKind, priority: str = "normal", engine: int | None = None) -> Queue:
        """One more. :raises PacketError: the kernel has no more, or there is no such priority."""
        with self._lock:
            number = sum(queue.kind == kind for queue in self.queues)
            name = f"{self.name} {'SDMA' if kind == 'copy' else kind} {number}"
            queue = Queue(self, kind, name, priority=priority, engine=engine)
            self.queues.append(queue)
            return queue

    @property
    def compute_rings(self) -> list[Ring]:
        return [queue.ring for queue in self.queues if queue.kind == "compute"]

    @property
    def aql_rings(self) -> list[AqlRing]:
        return [queue.ring for queue in self.queues if isinstance(queue.ring, AqlRing)]

    @property
    def sdma_rings(self) -> list[Ring]:
        return [queue.ring for queue in self.queues if queue.kind == "copy"]

    # -- memory -----------------------------------------------------------------------------------------------------

    def require_memory(self) -> Memory:
        if self.memory is None:
            raise AmdrvError(f"{self.name} is closed: its memory is gone")
        return self.memory

    def alloc(self, nbytes: int, *, kind: Literal["vram", "system"] = "vram", name: str = "") -> Buffer:
        """See :meth:`amdrv.kfd.memory.Memory.alloc`."""
        return self.require_memory().alloc(nbytes, kind=kind, name=name)

    def register(self, array: np.ndarray, *, name: str = "") -> Registration:
        """See :func:`amdrv.registration.register`."""
        return register(self.require_memory(), array, name=name)

    def free(self, *buffers: Buffer) -> None:
        for buffer in buffers:
            self.require_memory().free(buffer)

    @cached_property
    def _flush_page(self) -> tuple[Buffer, Region] | None:
        memory = self.require_memory()
        try:
            page = memory.registers()
            return page, self.process.kernel.registers(self.process.fd, page.offset, page.size)
        except (AmdrvError, OSError):
            return None

    @property
    def flushes(self) -> bool:
        """Can the CPU make its stores to VRAM visible to the engines?"""
        return self._flush_page is not None

    def flush_hdp(self) -> None:
        """What the CPU stored to VRAM is visible to the engines."""
        self.fence()
        if self._flush_page is not None:
            self._flush_page[1].write32(FLUSH, 0)

    def clock(self) -> int:
        """The counter that packets store as a timestamp, now."""
        return int(self.process.call("GET_CLOCK_COUNTERS", f"the clock of {self.name}",
                                     gpu_id=self.card.gpu_id).gpu_clock_counter)

    # -- health -----------------------------------------------------------------------------------------------------

    def wait(self, timeout: float) -> bool:
        """Sleep until the card interrupts or reports a fault, or for ``timeout`` seconds."""
        return self.process.wait(self.card, timeout)

    def reported(self) -> list[str]:
        """What the kernel has reported of this card and nobody has raised, with the buffer nearest to each address."""
        self.process.wait(self.card, 0)
        memory = self.require_memory()
        return [fault.text + (f"; this is {memory.nearest(fault.address)}" if fault.address is not None else "")
                for fault in list(self.card.faults.values())] + [
                    told for ring in self.aql_rings if (told := ring.told())]

    def check(self) -> None:
        """:raises GpuFault: the kernel reported faults since the last call."""
        if faults := self.reported():
            self.card.faults.clear()
            raise GpuFault(f"{self.name}: " + "\n".join(faults))

    def diagnose(self) -> Diagnosis:
        """What stands still, and at what. Registers are the kernel's: it is told by the pointers that queues report."""
        stuck = {ring: ring.pending for queue in self.queues if (ring := queue.ring).pending}
        for _ in range(LOOKS):
            if not stuck:
                break
            time.sleep(LOOK)
            stuck = {ring: before for ring, before in stuck.items() if ring.pending == before}
        return Diagnosis(tuple(StuckQueue(ring.name, ring.pending, ring.describe_stuck(), "") for ring in stuck),
                         tuple(self.reported()))

    def recover(self, rings: Sequence[Ring]) -> Recovery:
        """End the queues of these rings and make them anew, empty; their work is lost. The kernel resets what hangs.

        :raises GpuHang: they do not work afterwards either. After a memory fault that is so: the kernel keeps all
            queues of a process that faulted off the card, and only a new process comes back.
        """
        found = self.diagnose()
        lost = {ring.name: ring.pending for ring in rings}
        steps: list[Step] = []
        for queue in [queue for queue in self.queues if queue.ring in rings]:
            queue.restart()
            try:
                queue.ring.test()
            except WaitTimeout as error:
                reported = f". It had reported: {'; '.join(found.faults)}" if found.faults else ""
                raise GpuHang(f"{self.name}: {queue.ring.name} was ended and made anew, and still does nothing: "
                              f"{error}. After a memory fault the kernel keeps a process's queues off the card: start "
                              f"a new process{reported}") from error
            steps.append(Step(queue.ring.name))
        self.card.faults.clear()
        return Recovery(found, tuple(steps), lost)

    # -- the end ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the queues, free the memory. Idempotent; the kernel does the rest when the process ends."""
        if self._closed:
            return
        self._closed = True
        memory, self.memory = self.memory, self.memory
        failed: AmdrvError | None = None
        try:
            for queue in reversed(self.queues):
                try:
                    queue.close()
                except AmdrvError as error:
                    failed = failed or error
            self.queues = []
            if memory is not None:
                memory.close()
        finally:
            self.memory = None
            self.card.held = False
        if failed is not None:
            raise failed

    def __enter__(self) -> KfdDevice:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{self.compute_units} CUs, {self.vram_size >> 20} MiB"
        return f"<KfdDevice {self.name} {self.card.node.pci_address} {self.card.node.arch}: {state}>"


class _Nowhere:
    def write64(self, offset: int, value: int) -> None:
        raise PacketError("this queue has no doorbell: it was not made yet")
