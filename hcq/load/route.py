"""Which way into a device's memory is faster: staging memory and copy engines, or the CPU's window.

Both are measured, once a device, with a few MiB of its own: on a card the engines win by far, where the copies are
software it depends.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from hcq.memory import Buffer

if TYPE_CHECKING:
    from hcq.device import Device

__all__ = ["Rates", "prefers_window", "rates", "window"]

SAMPLE, ROUNDS = 2 << 20, 4     # bytes of a measurement, and how many
CLEARLY = 1.25                  # the window has to be so much faster: it takes a thread of the host's all the while


class Rates:
    """Bytes a second into the device's memory; 0 for a window that there is not."""

    def __init__(self, staging: float, window: float) -> None:
        self.staging, self.window = staging, window

    def __repr__(self) -> str:
        return f"Rates(staging {self.staging / 1e9:.2f} GB/s, window {self.window / 1e9:.2f} GB/s)"


def window(buffer: Buffer) -> np.ndarray | None:
    """The CPU's live view of a buffer of device memory (uint8), or None."""
    show = getattr(buffer.device.backend, "window", None)
    whole = show(buffer._storage.check()) if show is not None else None
    return None if whole is None else whole[buffer._offset:buffer._offset + buffer.nbytes]


def rates(device: Device) -> Rates:
    """Measured at the first call."""
    known: Rates | None = getattr(device, "_rates", None)
    if known is None:
        try:
            known = _measure(device)
        except MemoryError:             # too full to try: staging memory always works
            return Rates(1, 0)
        device._rates = known           # type: ignore[attr-defined]
    return known


def _measure(device: Device) -> Rates:
    buffer, staging = device.alloc(SAMPLE), device.alloc(SAMPLE, host=True)
    view = window(buffer)
    through = copied = 0.0
    for turn in range(ROUNDS):
        if turn == 1:                                       # the first was a rehearsal; of the others the best counts
            through = copied = 0.0
        device.synchronize()
        staging.view[:] = 2 * turn + 1                      # new bytes each time: a flush may look for what changed
        start = time.perf_counter()
        buffer.copy_from(staging)
        device.synchronize()
        copied = max(copied, SAMPLE / (time.perf_counter() - start))
        if view is not None:
            staging.view[:] = 2 * turn + 2
            start = time.perf_counter()
            view[:] = staging.view
            device.backend.flush_window()                   # type: ignore[attr-defined]
            through = max(through, SAMPLE / (time.perf_counter() - start))
    buffer.free()
    staging.free()
    return Rates(copied, through)


def prefers_window(device: Device) -> bool:
    found = rates(device)
    return found.window > CLEARLY * found.staging
