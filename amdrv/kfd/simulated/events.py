"""Events of the simulated kernel: what interrupts raise, and who waits for it (Linux 7.3, kfd_events.c)."""

from __future__ import annotations

import ctypes
import errno
import threading
import time

import numpy as np

from amdrv.facts import kfd
from amdrv.kfd.simulated.memory import fail

__all__ = ["Events"]

UNSIGNALED = (1 << 64) - 1
FIRST_OTHER = kfd.KFD_SIGNAL_EVENT_LIMIT        # numbers of events that have no slot
IMMEDIATE, FOREVER = 0, 0xFFFF_FFFF
PAGE_BYTES = 8 * kfd.KFD_SIGNAL_EVENT_LIMIT


class _Event:
    def __init__(self, kind: int, auto_reset: bool) -> None:
        self.kind, self.auto_reset, self.raised = kind, auto_reset, False
        self.waiters = 0
        self.turns = 0              # how often it was raised
        self.data: ctypes.Structure | None = None


class Events:
    """Of one process. ``slots`` is its page of events, once it gave one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._events: dict[int, _Event] = {}
        self.slots: np.ndarray | None = None

    def set_page(self, view: np.ndarray) -> None:
        if self.slots is not None:
            raise fail(errno.EINVAL)
        if len(view) < PAGE_BYTES:
            raise fail(errno.EINVAL)
        self.slots = view[:PAGE_BYTES].view(np.uint64)
        self.slots[:] = UNSIGNALED

    def create(self, kind: int, auto_reset: bool) -> int:
        with self._changed:
            signal = kind in (kfd.KFD_IOC_EVENT_SIGNAL, kfd.KFD_IOC_EVENT_DEBUG_EVENT)
            if signal and self.slots is None:
                raise fail(errno.ENOMEM)        # a kernel of before dGPUs would allocate a page itself
            first, end = (1, FIRST_OTHER) if signal else (FIRST_OTHER, 1 << 31)
            number = next((n for n in range(first, end) if n not in self._events), 0)
            if not number:
                raise fail(errno.ENOSPC)
            self._events[number] = _Event(kind, auto_reset)
            return number

    def _find(self, number: int) -> _Event:
        if number not in self._events:
            raise fail(errno.EINVAL)
        return self._events[number]

    def destroy(self, number: int) -> None:
        with self._changed:
            self._find(number)
            del self._events[number]
            self._changed.notify_all()

    def change(self, number: int, raised: bool) -> None:
        """Raise it, or reset it, by hand: signals only (event_can_be_cpu_signaled)."""
        with self._changed:
            event = self._find(number)
            if event.kind != kfd.KFD_IOC_EVENT_SIGNAL:
                raise fail(errno.EINVAL)
            if raised:
                self._raise(event)
            else:
                event.raised = False

    def _raise(self, event: _Event) -> None:
        """set_event: an event that resets itself stays raised only when nobody waits."""
        event.raised = not event.auto_reset or not event.waiters
        event.turns += 1
        self._changed.notify_all()

    def interrupt(self, number: int, bits: int) -> None:
        """kfd_signal_event_interrupt: the event of that number, or every one whose slot was written."""
        with self._changed:
            slots = self.slots
            if slots is None:
                return
            known = self._events.get(number) if number < FIRST_OTHER else None
            chosen = [number] if known is not None and slots[number] != UNSIGNALED else [
                each for each in self._events if each < FIRST_OTHER and slots[each] != UNSIGNALED]
            for each in chosen:
                slots[each] = UNSIGNALED        # acknowledge_signal
                self._raise(self._events[each])

    def tell(self, kind: int, data: ctypes.Structure) -> None:
        """Every event of that kind is raised with this."""
        with self._changed:
            for event in self._events.values():
                if event.kind == kind:
                    event.data = data
                    self._raise(event)

    def wait(self, table: int, count: int, every: bool, milliseconds: int) -> int:
        """kfd_wait_on_events; returns KFD_IOC_WAIT_RESULT_*."""
        if count > kfd.KFD_SIGNAL_EVENT_LIMIT:
            raise fail(errno.ENOMEM)
        asked = (kfd.kfd_event_data * count).from_address(table)
        deadline = None if milliseconds == FOREVER else time.monotonic() + milliseconds / 1000
        with self._changed:
            events = [self._find(each.event_id) for each in asked]
            done = [event.raised for event in events]
            for event in events:
                if event.raised and event.auto_reset:
                    event.raised = False
            seen = [event.turns for event in events]
            for event in events:
                event.waiters += 1
            try:
                while not (all(done) if every else any(done)):
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        return kfd.KFD_IOC_WAIT_RESULT_TIMEOUT
                    self._changed.wait(left)
                    if any(event not in self._events.values() for event in events):
                        return kfd.KFD_IOC_WAIT_RESULT_FAIL
                    done = [was or event.turns != turn for was, event, turn in zip(done, events, seen, strict=True)]
            finally:
                for event in events:
                    event.waiters -= 1
            for each, event, reached in zip(asked, events, done, strict=True):
                if reached and event.data is not None:
                    field = "memory_exception_data" if event.kind == kfd.KFD_IOC_EVENT_MEMORY else "hw_exception_data"
                    setattr(each, field, event.data)
            return kfd.KFD_IOC_WAIT_RESULT_COMPLETE
