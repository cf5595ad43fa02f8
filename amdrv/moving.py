"""What ``hcq.load`` and ``hcq.profile`` ask of the AM backend beyond hcq's contract."""

from __future__ import annotations

import numpy as np

from amdrv.peer import PeerSide
from hcq.backend import Memory

__all__ = ["MovingSide"]


class MovingSide(PeerSide):
    """A part of :class:`amdrv.backend.AmBackend`."""

    def window(self, memory: Memory) -> np.ndarray | None:
        """The CPU's live view of memory through BAR 0 (uint8), where it lies in one piece."""
        view: np.ndarray | None = memory.handle.view        # type: ignore[attr-defined]
        return None if view is None else view[:memory.nbytes]

    def flush_window(self) -> None:
        """What the CPU stored through windows is in memory."""
        self.device.flush_hdp()

    def clock(self) -> int:
        """The counter that packets store as a timestamp, now."""
        return self.device.clock()
