"""What GL2's performance counters count: requests of a line each, hits, misses, and lines that go to or from memory.

CP and SDMA ask for the lines of what they read and write. Waves, whose pointers native code keeps, are seen at the
first access of each kind to a page: then all lines of the page count, once a launch (and thread). Nothing is evicted
here, so what misses is what was never asked for since the last invalidation. Only while somebody counts
(CP_PERFMON_CNTL), for then each page is looked at one by one.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from mock.hub import CACHED

if TYPE_CHECKING:
    from mock.gl2 import Gl2

__all__ = ["LINE", "Gl2Count"]

PAGE, PAGE_SHIFT = 4096, 12
LINE = 128      # bytes (Mesa 25.0, ac_gpu_info.c: tcc_cache_line_size of gfx10 and later)


class Gl2Count:
    """Of one card; adds to ``counts`` while ``on``."""

    def __init__(self, gl2: Gl2, counts: Counter[str]) -> None:
        self._gl2, self._counts = gl2, counts
        self.on = False

    def asked(self, hosts: np.ndarray, address: int, nbytes: int, write: bool) -> None:
        """An engine accesses ``nbytes`` at ``address``; ``hosts`` uint64[n] are its pages, with the flag CACHED, and
        GL2 has not been told of them."""
        at, end = address, address + nbytes
        for host in hosts.tolist():
            stop = min((at & -PAGE) + PAGE, end)
            self.page(host, write, -(-stop // LINE) - at // LINE)
            at = stop

    def page(self, host: int, write: bool, lines: int = PAGE // LINE) -> None:
        """Requests for so many lines of one page."""
        counts = self._counts
        counts["gl2_requests"] += lines
        counts["gl2_writes" if write else "gl2_reads"] += lines
        if not host & CACHED or not self._gl2.on:
            counts["gl2_uncached"] += lines
            counts["gl2_memory_writes" if write else "gl2_memory_reads"] += lines
            return
        if self._gl2.has(host & ~CACHED):
            counts["gl2_hits"] += lines
            return
        counts["gl2_misses"] += lines
        if not write:
            counts["gl2_memory_reads"] += lines     # what is stored whole needs none

    def written_back(self, pages: int) -> None:
        if self.on:
            self._counts["gl2_writebacks"] += pages * (PAGE // LINE)
            self._counts["gl2_memory_writes"] += pages * (PAGE // LINE)
