"""The board's time: the host's, or modelled.

Everything on a board that tells the time (timestamps of packets and interrupts, the golden counter's registers) reads
``board.clock()``, 100 MHz ticks. By default that is time passing on the host. With ``clock=model`` it is
:class:`ModelClock`: what an engine does takes as long as the model of :mod:`mock.isa.clock` says, and nothing else
takes any time, so that timestamps around a kernel are its modelled duration, on whatever host, however loaded.

Each engine has a time of its own. It starts a job, and goes on after a wait, at the latest time that any engine has
reached: whatever it waited for has happened by then. The CPU sees that latest time, one tick later at each look, so
that loops which wait for time to pass end.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

from mock.isa.clock.constants import SDMA_BYTES_PER_S, SDMA_PACKET_S

__all__ = ["CLOCKS", "CLOCK_HZ", "Clock", "ModelClock", "WallClock", "make_clock"]

CLOCK_HZ = 100_000_000
"""Golden timestamp counter (Linux 6.1, soc21.c, soc21_get_xclk: spll.reference_freq, 100 MHz on Navi 3x)."""

CLOCKS = ("wall", "model")
PICOSECONDS = 10 ** 12
TICK = PICOSECONDS // CLOCK_HZ


class Clock(Protocol):
    modelled: bool
    """Do launches need a modelled duration?"""

    def ticks(self) -> int:
        """What the golden counter shows to whoever asks: an engine (by its thread), or the CPU."""

    def set_ticks(self, ticks: int) -> None:
        """Go on from there (a snapshot)."""

    def begin(self, engine: str) -> None:
        """An engine starts a job, on this thread."""

    def join(self) -> None:
        """This thread's engine has waited for another."""

    def advance(self, seconds: float) -> None:
        """This thread's engine has worked for that long."""

    def copy_begins(self) -> None:
        """A copy engine starts a packet that moves bytes."""

    def copied(self, nbytes: int, *, from_vram: bool, to_vram: bool) -> None:
        """A copy engine has moved bytes."""


class WallClock:
    modelled = False

    def __init__(self) -> None:
        self._epoch = time.perf_counter_ns()

    def ticks(self) -> int:
        return (time.perf_counter_ns() - self._epoch) // (1_000_000_000 // CLOCK_HZ)

    def set_ticks(self, ticks: int) -> None:
        self._epoch = time.perf_counter_ns() - ticks * (1_000_000_000 // CLOCK_HZ)

    def begin(self, engine: str) -> None:
        pass

    def join(self) -> None:
        pass

    def advance(self, seconds: float) -> None:
        pass

    def copy_begins(self) -> None:
        pass

    def copied(self, nbytes: int, *, from_vram: bool, to_vram: bool) -> None:
        pass


class ModelClock:
    """Times are integers of picoseconds: sums do not depend on their order."""

    modelled = True

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest = TICK             # a timestamp of zero would look like one that was not written
        self._engines: dict[str, int] = {}
        self._local = threading.local()

    @property
    def _engine(self) -> str | None:
        return getattr(self._local, "engine", None)

    def ticks(self) -> int:
        with self._lock:
            engine = self._engine
            if engine is not None:
                return self._engines[engine] // TICK
            self._latest += TICK
            return self._latest // TICK

    def set_ticks(self, ticks: int) -> None:
        with self._lock:
            self._latest = ticks * TICK
            self._engines.clear()

    def begin(self, engine: str) -> None:
        self._local.engine = engine
        self.join()

    def join(self) -> None:
        engine = self._engine
        if engine is None:
            return
        with self._lock:
            self._engines[engine] = self._latest = max(self._engines.get(engine, 0), self._latest)

    def advance(self, seconds: float) -> None:
        engine = self._engine
        if engine is None:
            return
        with self._lock:
            now = self._engines[engine] = self._engines[engine] + round(seconds * PICOSECONDS)
            self._latest = max(self._latest, now)

    def copy_begins(self) -> None:
        self.advance(SDMA_PACKET_S)

    def copied(self, nbytes: int, *, from_vram: bool, to_vram: bool) -> None:
        way = "local" if from_vram and to_vram else "to_host" if from_vram else "from_host"
        self.advance(nbytes / SDMA_BYTES_PER_S[way])


def make_clock(kind: str) -> Clock:
    """:raises ValueError:"""
    if kind == "wall":
        return WallClock()
    if kind == "model":
        return ModelClock()
    raise ValueError(f"clock={kind!r} must be one of {', '.join(CLOCKS)}")
