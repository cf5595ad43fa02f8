"""Launches that may not have ended: a queue starts the next packet while waves of the one before still run.

The mock runs a launch to its end before it looks at the next packet; what it keeps is what nobody has waited for. Until
CS_PARTIAL_FLUSH or an end-of-pipe event waits for a launch, cache operations do not cover it: a write-back leaves its
stores where they are, an invalidation leaves what it loaded (it may load it again) and what its stores made old.

Facts: Mesa 25.0, radv_cs.c, gfx10_cs_emit_cache_flush (CS_PARTIAL_FLUSH before the caches; RELEASE_MEM's events wait by
themselves).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mock.actor import Actor
    from mock.wavememory import WaveMemory

__all__ = ["Launches"]

KEEP = 64       # of one queue; older ones count as ended


class Launches:
    """Of one card. ``on``: they overlap (rule ``overlap``)."""

    def __init__(self, on: bool) -> None:
        self.on = on
        self._under_way: dict[int, WaveMemory] = {}
        self._unwaited: dict[str, list[WaveMemory]] = {}

    def begin(self, waves: WaveMemory) -> None:
        self._under_way[id(waves)] = waves

    def end(self, queue: str, waves: WaveMemory) -> None:
        """The mock has run it; nobody has waited yet."""
        if not self.on:
            self._complete(waves)
            return
        waiting = self._unwaited.setdefault(queue, [])
        waiting.append(waves)
        while len(waiting) > KEEP:
            self._complete(waiting.pop(0))

    def finish(self, queue: str) -> None:
        """Something waits for all launches of the queue."""
        for waves in self._unwaited.pop(queue, ()):
            self._complete(waves)

    def _complete(self, waves: WaveMemory) -> None:
        self._under_way.pop(id(waves), None)
        waves.complete()

    def storing(self) -> np.ndarray:
        """Pages of video memory (int64[n]) that launches under way have stored to."""
        pages: set[int] = set()
        for waves in list(self._under_way.values()):
            pages.update(list(waves.own))
        return np.fromiter(pages, np.int64, len(pages))

    def storing_to(self, page: int) -> Actor | None:
        """A launch under way that has stored to a page of video memory."""
        return next((waves.reader for waves in list(self._under_way.values()) if page in waves.own), None)

    def unwaited(self) -> list[WaveMemory]:
        """Launches that have run and that nobody has waited for."""
        return [waves for launches in list(self._unwaited.values()) for waves in launches] if self._unwaited else []

    def forget(self) -> None:
        """A reset."""
        self._under_way.clear()
        self._unwaited.clear()
