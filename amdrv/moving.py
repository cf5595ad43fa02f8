"""What ``hcq.load`` and ``hcq.profile`` ask of the AM backend beyond hcq's contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from amdrv.peer import PeerSide
from hcq.backend import Memory

if TYPE_CHECKING:
    from hcq.backend import IndirectBuffer

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

    def instrument(self, kind: str, words: Sequence[int], indirect: Sequence[IndirectBuffer],
                   stamp: Any) -> tuple[list[int], list[Any]]:
        """See :func:`amdrv.profile.instrument`."""
        from amdrv.profile import instrument
        out, stretches = instrument(kind, words, indirect, stamp)
        low = self._register("COMPUTE_PGM_LO")
        for stretch in stretches:
            registers = stretch.facts.pop("registers", None)
            if registers is not None and low in registers:          # the kernel's first instruction: hcq knows its name
                stretch.facts["entry"] = (registers[low] | registers.get(low + 1, 0) << 32) << 8
        return out, stretches

    def counters(self, names: Sequence[str]) -> Any:
        """See :class:`amdrv.counters.Counters`."""
        from amdrv.counters import Counters
        return Counters(self.device, names)
