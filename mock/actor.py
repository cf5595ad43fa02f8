"""Who is at work on this thread: what the notes on stale bytes name as the writer and the reader."""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

__all__ = ["Actor", "acting", "current", "host"]


CPU = "the CPU"


class Actor(NamedTuple):
    """An engine (or the CPU), what it was doing (a packet, a launch), and when: seconds of the monotonic clock."""

    engine: str
    doing: object
    seconds: float

    def __str__(self) -> str:
        ago = time.monotonic() - self.seconds
        doing = str(self.doing) if self.doing is not None else ""
        return f"{self.engine}{', ' if doing else ''}{doing if len(doing) < 200 else doing[:200] + '...'} " \
               f"({ago * 1e3:.1f} ms ago)"


_local = threading.local()


def acting(engine: str, doing: object) -> None:
    """From here on this thread works for ``engine`` on ``doing``."""
    _local.engine, _local.doing = engine, doing


def current() -> Actor:
    try:
        return Actor(_local.engine, _local.doing, time.monotonic())
    except AttributeError:
        return Actor(CPU, threading.current_thread().name, time.monotonic())


def host() -> Actor:
    """The CPU, whose stores arrive by a flush, whoever asks for it."""
    who = current()
    return who if who.engine == CPU else Actor(CPU, f"flushed by {who.engine}", who.seconds)
