"""Notes on what the CPU stored through BAR 0 and an engine missed (rules ``hdp`` and ``wc``): both accesses, by name.

An engine's load is looked at where the CPU has an image of the page at all, and only its own bytes; of a wave's vector
loads, whose pointers native code keeps, the whole page. Nothing is noted where both orders are right: packets that
poll may look between the store and its flush. What they poll for must be there a tenth of a second later.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from mock.actor import Actor, current

if TYPE_CHECKING:
    from mock.vram import Vram

__all__ = ["Posted"]

PAGE = 4096
LOOK_AT = 256           # pages of one access that are compared
POLLING = ("WAIT_REG_MEM", "WAIT_REG_MEM64", "POLL_REGMEM", "SEMAPHORE", "MEM_SEMAPHORE", "COND_EXE", "COND_EXEC",
           "BARRIER_AND", "BARRIER_OR")
PATIENCE = 0.1          # seconds that a poll may find the old bytes


class Posted:
    """Of one card. ``note(rule, text)`` is the board's log."""

    def __init__(self, vram: Vram, note: Callable[[str, str], None]) -> None:
        self.vram, self._note = vram, note
        self._told: set[int] = set()
        self._polled: dict[int, float] = {}
        vram.on_merge = self._forget

    def _forget(self) -> None:
        """A flush."""
        self._told.clear()
        self._polled.clear()

    def look(self, offset: int, size: int, address: int, reader: Actor | None = None) -> None:
        """An engine loads ``size`` bytes at ``offset`` of video memory, which it knows as ``address``."""
        vram = self.vram
        first, end = offset // PAGE, (offset + size - 1) // PAGE + 1
        if (end - first == 1 and not vram.has_window(first)) or (
                self._told and self._told.issuperset(range(first, end))):
            return
        for page in vram.pending(first, end, LOOK_AT):
            if page in self._told:
                continue
            low, high = max(offset, page * PAGE), min(offset + size, (page + 1) * PAGE)
            found = vram.missed(low, high)
            if found is not None:
                self._tell(page, *found, address + found[0] - offset, reader or current())

    def _tell(self, page: int, at: int, old: np.ndarray, new: np.ndarray, address: int, reader: Actor) -> None:
        name = getattr(reader.doing, "name", "")
        if name in POLLING and time.monotonic() - self._polled.setdefault(page, time.monotonic()) < PATIENCE:
            return
        self._told.add(page)
        by = self.vram.stored_by(page)
        ago = (time.monotonic() - self.vram.flushed_at) * 1e3
        missed = (f"{reader} reads {address:#x} (video memory {at:#x}) and finds {_words(old)}; {by} stored "
                  f"{_words(new)} there through BAR 0")
        if self.vram.combining(page):
            self._note("wc", f"{missed}, which the HDP flush {ago:.1f} ms ago found in the write-combining buffers: a "
                             "fence is missing before it")
        else:
            self._note("hdp", f"{missed} since the last HDP flush ({ago:.1f} ms ago); a flush is missing in between")


def _words(data: np.ndarray) -> str:
    return f"0x{data.tobytes()[::-1].hex()}"
