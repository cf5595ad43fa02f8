"""The ``KFD`` backend of hcq: AM's packets, on queues of the kernel's driver.

What differs: an interrupt says which event it raises (Linux, kfd_events.c, kfd_signal_event_interrupt: the event's
number stands in its slot, too, before the interrupt comes); CUs are the kernel's to give; a peer's memory has one
address for all cards; and where the CPU has no window on VRAM, a copy engine does what its stores do elsewhere.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from amdrv import pm4, sdma
from amdrv.backend import AmBackend
from amdrv.errors import MappingError, PacketError, PowerError
from amdrv.kfd.device import KfdDevice
from amdrv.kfd.process import Process
from amdrv.pm4.encoder import ComputeEncoder, Template
from amdrv.queues import Queue
from amdrv.regs import table_for
from amdrv.scratch import Scratch
from amdrv.sdma.encoder import CopyEncoder
from amdrv.wait import wait_until
from hcq.backend import Memory, QueueKind

__all__ = ["KfdBackend", "KfdComputeEncoder", "KfdCopyEncoder", "open_backend"]

# What packets name: registers of the graphics core and of the bus interface, and where their spaces begin (dword
# addresses; sienna_cichlid_ip_offset.h, GC_BASE and NBIO_BASE)
SPACES = {("GC", (11, 0, 0)): {0: 0x1260}, ("NBIF", (4, 3, 0)): {2: 0xD20}}
STAGING_BYTES = 1 << 20
UPLOAD_TIMEOUT = 10.0


class KfdComputeEncoder(ComputeEncoder):
    """hcq's compute commands for a queue of the kernel's.

    :param event: the number that an interrupt carries. :param slot: the event's, in the page of events.
    """

    def __init__(self, register: Callable[[str], int], event: int, slot: int,
                 grow: Callable[[Scratch, int], Scratch] | None = None) -> None:
        super().__init__(register, {}, grow)
        self._raise = pm4.build(
            "RELEASE_MEM", EVENT_TYPE="BOTTOM_OF_PIPE_TS", EVENT_INDEX="END_OF_PIPE", CACHE_POLICY="BYPASS",
            DATA_SEL="DATA_64", INT_SEL="INTERRUPT_AFTER_WRITE", ADDRESS=slot, DATA=event, INT_CTXID=event)
        quiet = self.signals[False]
        self.signals = [quiet, Template(quiet.words + self._raise, *quiet.holes)]

    def _thread_management(self) -> tuple[tuple[str, list[int]], ...]:
        return ()               # the MQD holds the CUs that the kernel gives (SET_CU_MASK)

    def interrupt(self, words: list[int]) -> None:
        words += self._raise


class KfdCopyEncoder(CopyEncoder):
    """hcq's copy commands for a queue of the kernel's."""

    def __init__(self, event: int, slot: int) -> None:
        super().__init__()
        self._trap = sdma.build("FENCE", MTYPE="UC", ADDR=slot, DATA=event) + sdma.build("TRAP", INT_CONTEXT=event)


class KfdBackend(AmBackend):
    """One card of the kernel's behind hcq's contract. Owns ``device``."""

    kind = "KFD"

    def __init__(self, device: KfdDevice, index: int = 0) -> None:
        self.kfd = device
        super().__init__(cast(Any, device), index)

    def _compute_encoder(self, grow: Callable[[Scratch, int], Scratch] | None = None) -> ComputeEncoder:
        return KfdComputeEncoder(self._register, self.kfd.event, self.kfd.event_address, grow)

    def _copy_encoder(self) -> CopyEncoder:
        return KfdCopyEncoder(self.kfd.event, self.kfd.event_address)

    def _register(self, name: str) -> int:
        for (block, version), bases in SPACES.items():
            table = table_for(block, version)
            if name in table and table[name].base_idx in bases:
                return bases[table[name].base_idx] + table[name].offset      # type: ignore[index]
        raise PacketError(f"{name} is not among the registers that a queue of the kernel's may set")

    # --- memory

    def upload(self, address: int, data: np.ndarray) -> None:
        index = bisect.bisect_right(self._starts, address) - 1
        buffer: Any = self._live[self._starts[index]] if index >= 0 else None
        if buffer is None or buffer.view is None or (buffer.kind == "vram" and not self.kfd.flushes):
            if buffer is None or address + len(data) > buffer.address + buffer.nbytes:
                raise PacketError(f"upload of {len(data)} bytes to {address:#x}: no allocation holds them")
            self._upload_by_copies(address, data)
        else:
            super().upload(address, data)

    def _upload_by_copies(self, address: int, data: np.ndarray) -> None:
        """Into VRAM that the CPU does not see: by the copy engine, from host memory."""
        staging = self.kfd.alloc(STAGING_BYTES, kind="system", name="upload")
        ring = self._queues["copy"][0].ring
        try:
            assert staging.view is not None
            for start in range(0, len(data), STAGING_BYTES - 64):
                part = data[start:start + STAGING_BYTES - 64]
                done, words = staging.view[-8:].view(np.uint64), list[int]()
                done[0] = 0
                staging.view[:len(part)] = part
                self.copy.copy(words, address + start, staging.address, len(part))
                self.copy.signal(words, staging.address + STAGING_BYTES - 8, 1, interrupt=False)
                ring.submit(np.array(words, np.uint32))
                wait_until(lambda done=done: done[0] == 1, UPLOAD_TIMEOUT,     # type: ignore[misc]
                           f"{self.name}: an upload by {ring.name}", seen=ring.describe_stuck)
        finally:
            self.kfd.free(staging)

    def window(self, memory: Memory) -> np.ndarray | None:
        return super().window(memory) if memory.host or self.kfd.flushes else None

    def _more_scratch(self, scratch: Scratch, bytes_per_wave: int) -> Scratch:
        """Launches and the queues' blocks name the memory; the kernel is told, too, of what is newest."""
        more = super()._more_scratch(scratch, bytes_per_wave)
        self.kfd.process.call("SET_SCRATCH_BACKING_VA", f"scratch memory at {more.address:#x}", va_addr=more.address,
                              gpu_id=self.kfd.card.gpu_id)
        return more

    # --- queues

    def add_queue(self, kind: QueueKind, priority: str) -> Queue | str:
        """One more queue of any kind; copy queues beyond the first of each engine are the kernel's to place."""
        try:
            made = self.kfd.add_queue(kind, priority)
        except PacketError as error:
            return str(error)
        if kind != "copy":
            return self._added(made.ring, kind, len(self._queues[kind]))
        queue = Queue(made.ring, kind, f"{self.name} copy {len(self._queues[kind])}", self.kfd.statistics)
        self._queues[kind].append(queue)
        return queue

    # --- waiting

    def sleep(self, timeout: float) -> None:
        self.kfd.wait(timeout)

    def check(self) -> None:
        self._count()
        self.kfd.check()

    def suspicious(self) -> bool:
        """Always: only the kernel knows of faults, and asking it is what :meth:`check` does."""
        return True

    def fileno(self) -> int | None:
        """None: the kernel's events are waited for by a call; no descriptor tells of them."""
        return None

    def poll(self) -> None:
        self.kfd.wait(0)

    # --- other cards, profiles

    def peer_ranges(self, owner: Any, memory: Memory, offset: int, nbytes: int) -> list[tuple[int, int]] | str:
        if not isinstance(owner, KfdBackend):
            return f"{type(owner).__name__} is no card of the kernel's driver"
        buffer: Any = memory.handle
        try:
            owner.kfd.require_memory().map_for(buffer, self.kfd.card.gpu_id)
        except MappingError as error:
            return str(error)
        return [(memory.address + offset, nbytes)]

    def forget_peer(self, owner: Any) -> None:
        """Nothing to do: what the owner frees is unmapped from every card."""

    def counters(self, names: Sequence[str]) -> Any:
        raise PowerError(f"{self.name}: the card's performance counters are the kernel's ({', '.join(names)} asked); "
                         "AM reads them, or rocprof")


def open_backend(index: int = 0, *, process: Process | None = None) -> KfdBackend:
    """Card number ``index`` of the kernel's driver, for hcq."""
    device = KfdDevice.open(index, process)
    try:
        return KfdBackend(device, index)
    except BaseException:
        device.close()
        raise
