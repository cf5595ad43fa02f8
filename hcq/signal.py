"""Signals: 64-bit words that every engine and the host can see, and the timelines built from them.

A signal only ever grows. Engines store values into it (``signal``) and stall until it is large enough
(``wait``); the host reads it, or waits for it. A *timeline* is a queue's own signal: submission n stores n when
everything before it is complete. A *point* is one value of one signal.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hcq.backend import HardwareQueue, Memory
from hcq.errors import QueueError, SubmissionFailedError

if TYPE_CHECKING:
    from hcq.device import Device

__all__ = ["Fence", "Point", "SIGNAL_KIND_USER", "SIGNAL_VALUE", "Signal", "SignalPool", "Timeline"]

_SLOT = 64                  # bytes: a cache line a signal, so that engines do not disturb each other's
# Each signal is an amd_signal_t (ROCR-Runtime, amd_hsa_signal.h), so that AQL packets can name it: the kind, the value
SIGNAL_VALUE, SIGNAL_KIND_USER = 8, 1
_PAGE = 4096
_WORD = (1 << 32) - 1
_WAITS = 1 << 12
_RECORDS = 1 << 14          # more than the submissions that a ring has room for


class Signal:
    """A 64-bit word in host memory. Made by ``dev.signal()``; its memory is used again once it is unreachable.

    Also where ``timestamp`` stores the device's clock.
    """

    __slots__ = ("__weakref__", "_failed", "_index", "_slot", "_words", "address", "device")

    def __init__(self, device: Device, value: int = 0) -> None:
        self.device = device
        self._failed: tuple[int, str] | None = None     # (first value that stands for work given up, why)
        self._slot = device._signals.take()
        memory, self._index = self._slot
        self.address = memory.address + 8 * self._index
        assert memory.view is not None
        self._words = memory.view.data.cast("B").cast("Q")
        self._words[self._index] = self._checked(value)

    @property
    def value(self) -> int:
        """What is stored now. Setting it stores from the host at once: engines that wait see it."""
        return self._words[self._index]

    @value.setter
    def value(self, value: int) -> None:
        self._words[self._index] = self._checked(value)
        if self.device._debug is not None:
            self.device._debug.host_stored(self, value)

    def wait(self, value: int, timeout: float | None = None) -> None:
        """Return when the signal is at least ``value``.

        :param timeout: seconds; by default the device's, which count from the last thing that was completed.
        :raises DeviceTimeout: naming the first submission that is not complete.
        :raises SubmissionFailedError: it was a queue's own, and the work has failed.
        """
        self.device._wait(self, self._checked(value), timeout)

    async def reached(self, value: int, timeout: float | None = None) -> None:
        """:meth:`wait` for ``asyncio``: other tasks run meanwhile."""
        from hcq.waiting import reached
        await reached(self, self._checked(value), timeout)

    def check(self, value: int) -> None:
        """:raises SubmissionFailedError: what was to store ``value`` here was given up."""
        if self._failed is not None and value >= self._failed[0]:
            raise SubmissionFailedError(self._failed[1])

    def _checked(self, value: int) -> int:
        bits = self.device.properties.signal_bits
        if not isinstance(value, (int, np.integer)) or not 0 <= value < 1 << bits:
            raise QueueError(f"a signal of {self.device.name} holds 0 to 2**{bits}-1, not {value!r}")
        return int(value)

    def __del__(self) -> None:
        if slot := getattr(self, "_slot", None):
            self.device._signals.dropped.append(slot)

    def __repr__(self) -> str:
        return f"Signal({self.value} at {self.address:#x})"


class Point(NamedTuple):
    """One value of one signal, such as the end of a submission."""

    signal: Signal
    value: int

    @property
    def done(self) -> bool:
        """Whether it is reached, without waiting."""
        return self.signal.value >= self.value

    def wait(self, timeout: float | None = None) -> None:
        """Sleep until it is reached. :raises DeviceTimeout: after ``timeout`` seconds, by default the device's."""
        self.signal.wait(self.value, timeout)

    def __await__(self) -> Generator[Any, None, None]:
        """``await point`` in ``asyncio``."""
        return self.signal.reached(self.value).__await__()

    def notify(self) -> None:
        """Ask for an interrupt when it is complete: then ``select`` on the device wakes. Launches end without one."""
        device = self.signal.device
        owner = device._owner(self.signal)
        if owner is not None and owner.wakes < self.value:
            device._ask_for_interrupt(owner)

    def settle(self) -> None:
        """Wait until the engines have nothing to do with it any more, done or failed."""
        self.signal.device._await(self.signal, self.value)


Fence = tuple[Point, ...]
"""Complete when every point is."""


class SignalPool:
    """Words for signals, by the page. A word comes back when everything that may still store to it is complete."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._pages: list[Memory] = []
        self._free: list[tuple[Memory, int]] = []
        self._pending: deque[tuple[Fence, tuple[Memory, int]]] = deque()
        self.dropped: deque[tuple[Memory, int]] = deque()       # appended by __del__, from anywhere

    def take(self) -> tuple[Memory, int]:
        with self._device._lock:
            while self.dropped:
                slot = self.dropped.popleft()
                self._pending.append((self._device._fence(), slot))
            while self._pending and all(point.done for point in self._pending[0][0]):
                self._free.append(self._pending.popleft()[1])
            if not self._free:
                page = self._device.backend.alloc(_PAGE, host=True)
                self._pages.append(page)
                assert page.view is not None
                words = page.view.view("u8")
                words[:] = 0
                words[::_SLOT // 8] = SIGNAL_KIND_USER
                self._free.extend((page, (offset + SIGNAL_VALUE) // 8) for offset in reversed(range(0, _PAGE, _SLOT)))
            return self._free.pop()

    def close(self) -> None:
        for page in self._pages:
            self._device.backend.free(page)
        self._pages, self._free = [], []
        self._pending.clear()


class Timeline:
    """The order of one hardware queue: submission n stores n into ``signal`` when all before it is complete."""

    def __init__(self, device: Device, queue: HardwareQueue) -> None:
        self.queue = queue
        self.device = device
        self.encoder: Any = getattr(queue, "encoder", None) or getattr(device.backend, queue.kind)
        self.priority = "normal"
        # (submission, signal, value): what is waited for before it, and what it stores; for hcq.deadlock
        self.waits: deque[tuple[int, weakref.ref[Signal], int]] = deque(maxlen=_WAITS)
        self.gives: deque[tuple[int, weakref.ref[Signal], int]] = deque(maxlen=_WAITS)
        self.submitted = 0
        self._start(Signal(device))
        self.wakes = 0              # the last submission whose end interrupts, so that a sleeper sees it
        self.limit = min((1 << device.properties.signal_bits) - 1, _WORD)    # so that one word of a packet holds it
        self.records: deque[tuple[int, object]] = deque(maxlen=_RECORDS)     # (value, what), the last ones

    @property
    def busy(self) -> bool:
        return self.words[self.index] < self.submitted

    @property
    def last(self) -> Point:
        return Point(self.signal, self.submitted)

    def turn(self) -> None:
        """Before a submission: a signal that can count no further makes way for a new one.

        The old one stays in the points that name it, where it is large enough for ever.
        """
        if self.submitted == self.limit:
            self.last.settle()
            self._begin_anew()

    def _begin_anew(self) -> None:
        self._start(Signal(self.device))
        self.submitted = self.wakes = 0
        self.records.clear()
        self.waits.clear()
        self.gives.clear()

    def fail(self, why: str) -> None:
        """What is not complete never will be: whoever waits for it is told ``why``. The queue is empty and off."""
        signal = self.signal
        signal._failed = signal.value + 1, f"{self.pending()}, and it was given up: {why}"
        signal.value = self.submitted
        self._begin_anew()

    def _start(self, signal: Signal) -> None:
        self.signal = signal
        self.words, self.index = signal._words, signal._index       # the signal's value without a call

    def will_wait(self, signal: Signal, value: int) -> None:
        """The next submission waits for this."""
        self.waits.append((self.submitted + 1, weakref.ref(signal), value))

    def will_give(self, signal: Signal, value: int) -> None:
        """The next submission stores this."""
        self.gives.append((self.submitted + 1, weakref.ref(signal), value))

    def record(self, what: object) -> Point:
        """The next value was submitted; ``what`` will stand in messages about it, as ``str(what)``."""
        self.submitted += 1
        self.records.append((self.submitted, what))
        return Point(self.signal, self.submitted)

    def pending(self) -> str:
        """The first submission that is not complete, for people; "" when there is none."""
        done = self.signal.value
        for value, what in self.records.copy():
            if value > done:
                return (f"{self.queue.name}: submission {value} ({what}) is not complete; {done} of "
                        f"{self.submitted} are")
        return ""
