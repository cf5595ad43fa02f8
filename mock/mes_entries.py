"""What MES knows of a queue and of a process."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from mock.hqd import Bank, ComputeQueue
from mock.sdma import SdmaQueue

__all__ = ["Debugging", "Entry", "NotUnderstood", "Process"]

QUANTUM_UNIT = 100e-9               # Linux 7.3, kfd_device_queue_manager.c, add_queue_mes
DEFAULT_QUANTUM = 1e-3


class NotUnderstood(Exception):
    """A frame that gets no fence."""


@dataclass
class Entry:
    """A queue that ADD_QUEUE brought."""

    frame: Any
    process: int
    gang: int
    doorbell: int
    kind: int
    order: int
    priority: int
    slot: ComputeQueue | SdmaQueue | None = None
    suspended: bool = False
    leaving: bool = False               # told to go, and not gone
    legacy: Bank | None = None
    since: float = 0.0                  # when it was connected
    checks: int = 0                     # its slot's, then
    noted: bool = False                 # the log says that it waits
    stopped_at: int | None = None
    """Its read pointer when it was last disconnected."""

    @property
    def quantum(self) -> float:
        return self.frame.gang_quantum * QUANTUM_UNIT or DEFAULT_QUANTUM

    @property
    def hangs(self) -> bool:
        slot = self.slot
        return slot is not None and bool(slot.hung if isinstance(slot, ComputeQueue) else slot.exception)

    @property
    def had_quantum(self) -> bool:
        """Its time is over, and it has used it: the host's threads may be late."""
        slot = self.slot
        return slot is not None and time.monotonic() - self.since >= self.quantum and (
            slot.checks != self.checks or not slot.posted)

    @property
    def idle(self) -> bool:
        slot = self.slot
        return slot is not None and slot.read == slot.write and not slot.posted

    @property
    def place(self) -> tuple[int, int]:
        """(pipe, queue) of its slot, as the masks of SET_HW_RSRC count them."""
        slot = self.slot
        assert slot is not None
        if isinstance(slot, SdmaQueue):
            return slot.instance, slot.index
        return slot.pipe + (4 * (slot.me - 1) if slot.me else 0), slot.queue


@dataclass
class Debugging:
    """SET_SHADER_DEBUGGER's settings of a process."""

    per_vmid: int = 0
    watch: tuple[int, ...] = (0, 0, 0, 0)
    trap: bool = False


@dataclass
class Process:
    context: int
    pasid: int
    page_table: int
    va: tuple[int, int]
    cntl: int
    trap: tuple[int, int]
    vmid: int | None = None
    entries: list[Entry] = field(default_factory=list)
