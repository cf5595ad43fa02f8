"""Waiting: for a signal, for everything, and what to say when a wait expires."""

from __future__ import annotations

import os
import time
from array import array
from typing import TYPE_CHECKING

import numpy as np

from hcq.core import Core
from hcq.errors import DeviceTimeout, HcqError

if TYPE_CHECKING:
    from hcq.signal import Signal, Timeline

__all__ = ["Watchdog", "timeout_from_environment"]

_SPIN = 1e-3                        # seconds of polling before sleeping on the interrupt
_SLEEP = 10e-3                      # at most, between two looks: an interrupt may slip in before the sleep begins


class Watchdog(Core):
    """The part of a :class:`hcq.Device` that waits."""

    def _wait(self, signal: Signal, value: int, timeout: float | None = None) -> None:
        self._await(signal, value, timeout)
        signal.check(value)
        if not self._closed and getattr(self.backend, "suspicious", lambda: True)():
            self._check_backend()       # an engine may go on after a fault
        if self._debug is not None:
            self._debug.waited(signal, value)

    def _await(self, signal: Signal, value: int, timeout: float | None = None) -> None:
        if signal.value >= value:
            return
        limit = self.timeout if timeout is None else timeout
        owner = self._owner(signal)
        start = moved = time.monotonic()
        complete = self._complete()
        while True:
            time.sleep(0)                   # gives the interpreter lock away: engines may be threads of this process
            if signal.value >= value:
                return
            now = time.monotonic()
            if now - start < _SPIN:
                continue
            self._check_backend()
            if owner is not None and owner.wakes < value:
                self._ask_for_interrupt(owner)
            if timeout is None and complete != (complete := self._complete()):
                moved = now                 # a long row of work may take long, as long as it advances
            left = moved + limit - now
            if left < 0:
                self._expire(signal, value, limit)
            self.backend.sleep(min(_SLEEP, max(left, 1e-4)))
            if signal.value >= value:
                return

    def _ask_for_interrupt(self, timeline: Timeline) -> None:
        """Launches end without an interrupt; who is about to sleep on one asks for it, behind all that there is."""
        with self._lock:
            if timeline.wakes < timeline.submitted:
                words: list[int] = []
                timeline.encoder.signal(words, timeline.signal.address, timeline.submitted)
                timeline.queue.submit(np.frombuffer(array("I", words), np.uint32))
                timeline.wakes = timeline.submitted

    def _expire(self, signal: Signal, value: int, limit: float) -> None:
        self._stuck = True
        owner = self._owner(signal)
        what = f"{owner.queue.name} to complete submission {value}" if owner else f"{signal!r} to reach {value}"
        pending = self._pending()
        state = f"Incomplete: {pending}" if pending else "Nothing submitted is incomplete, so nothing will signal it"
        if look := getattr(self.backend, "diagnose", None):
            state += f". The driver sees: {self._with_names(look())}"
        from hcq.deadlock import explain
        why = explain(self._device)
        raise DeviceTimeout(f"waited {limit:g} s for {what}. {state}. HCQ_TIMEOUT or Device.timeout sets the limit"
                            + (f". {why}" if why else ""))


def timeout_from_environment() -> float:
    text = os.environ.get("HCQ_TIMEOUT", "30")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < 1e9:
        raise HcqError(f"HCQ_TIMEOUT={text!r} is not a positive number of seconds")
    return seconds
