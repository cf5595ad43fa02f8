"""Waiting for a signal inside ``asyncio``: on the interrupt's descriptor, with a look now and then all the same."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from hcq.errors import HcqError

if TYPE_CHECKING:
    from hcq.device import Device
    from hcq.signal import Signal

__all__ = ["reached"]

LOOK = 10e-3                # seconds between looks: an interrupt may be lost, or another thread has taken it
LOOK_WITHOUT = 0.5e-3       # the same where there are no interrupts


class _Watch:
    """The tasks of one event loop that wait for one device. A loop takes one reader for a descriptor."""

    def __init__(self, device: Device, loop: asyncio.AbstractEventLoop) -> None:
        self._device, self._loop = device, loop
        self.tasks: set[asyncio.Event] = set()
        try:
            self.descriptor: int | None = device.fileno()
        except HcqError:
            self.descriptor = None

    def enter(self) -> asyncio.Event:
        event = asyncio.Event()
        if not self.tasks and self.descriptor is not None:
            self._loop.add_reader(self.descriptor, self._readable)
        self.tasks.add(event)
        return event

    def leave(self, event: asyncio.Event) -> None:
        self.tasks.discard(event)
        if not self.tasks:
            del _watches[self._loop, self._device]
            if self.descriptor is not None:
                self._loop.remove_reader(self.descriptor)

    def _readable(self) -> None:
        self._device.backend.poll()         # type: ignore[attr-defined]    # who has a descriptor has this, too
        for event in self.tasks:
            event.set()


_watches: dict[tuple[asyncio.AbstractEventLoop, Device], _Watch] = {}       # while somebody waits


async def reached(signal: Signal, value: int, timeout: float | None) -> None:
    """See :meth:`hcq.Signal.reached`. Expiry and errors are those of ``Signal.wait``."""
    device, loop = signal.device, asyncio.get_running_loop()
    watch = _watches.get((loop, device))
    if watch is None:
        watch = _watches[loop, device] = _Watch(device, loop)
    limit = device.timeout if timeout is None else timeout
    owner = device._owner(signal)
    moved, complete = loop.time(), device._complete()
    event = watch.enter()
    try:
        while signal.value < value:
            device._check_open()
            device._check_backend()
            if owner is not None and owner.signal is signal and owner.wakes < value:
                device._ask_for_interrupt(owner)
            if timeout is None and complete != (complete := device._complete()):
                moved = loop.time()
            left = moved + limit - loop.time()
            if left < 0:
                device._expire(signal, value, limit)
            look = LOOK if watch.descriptor is not None else LOOK_WITHOUT
            with suppress(TimeoutError):
                await asyncio.wait_for(event.wait(), min(look, max(left, 1e-4)))
            event.clear()
    finally:
        watch.leave(event)
    signal.check(value)
