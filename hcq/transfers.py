"""Bytes between the caller's arrays and a device's memory, and within that: through rings of host memory."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from hcq.access import Access
from hcq.debug import Touch
from hcq.memory import HostRing
from hcq.queue import CopyQueue
from hcq.submitting import Submitting

if TYPE_CHECKING:
    from hcq.memory import Buffer
    from hcq.signal import Point

__all__ = ["Transfers"]

_STAGING_RING = 8 << 20
_CHUNK = _STAGING_RING // 4         # of a large transfer: two or more are under way while the host copies the next


class Transfers(Submitting):
    """The part of a :class:`hcq.Device` that moves bytes."""

    def _copy_words(self, what: str, destination: int, source: int, nbytes: int, buffer: Buffer) -> Point:
        encoder, timeline = self.backend.copy, self._copies
        words = self._begin(timeline, encoder)
        encoder.copy(words, destination, source, nbytes)
        point = self._finish(timeline, encoder, words, f"{what} of {nbytes} bytes")
        if self._debug is not None:
            self._debug.submitted(timeline, what, [Touch(Access.of(buffer, write=what == "copyin"))], in_order=True)
        return point

    def _write(self, buffer: Buffer, address: int, data: np.ndarray) -> None:
        """copyin: through a ring of host memory, so that the array is the caller's again on return."""
        if buffer.host and not self._fence():
            buffer.view[:len(data)] = data
            return
        with self._lock:
            self._check_open()
            if self._staging is None:
                self._staging = HostRing(self._device, _STAGING_RING)
            ring = self._staging
            for start in range(0, len(data), _CHUNK):
                part = data[start:start + _CHUNK]
                try:
                    offset = ring.take(len(part))
                    ring.array[offset:offset + len(part)] = part
                    point = self._copy_words("copyin", address + start, ring.address + offset, len(part), buffer)
                except BaseException:
                    ring.cancel()
                    raise
                ring.retire(point)

    def _read(self, buffer: Buffer, address: int, out: np.ndarray) -> None:
        """copyout: one chunk is on its way while the host takes the one before."""
        self._check_open()
        if buffer.host:
            self._device.synchronize()
            out[:] = buffer.view[:len(out)]
            return
        under_way: deque[tuple[Buffer, Point, int, int]] = deque()
        for start in range(0, len(out), _CHUNK):
            nbytes = min(_CHUNK, len(out) - start)
            if len(under_way) == 2:
                staging = self._take(under_way.popleft(), out)
            else:
                staging = self._device.alloc(nbytes, host=True)
            with self._lock:
                point = self._copy_words("copyout", staging.address, address + start, nbytes, buffer)
            under_way.append((staging, point, start, nbytes))
        while under_way:
            self._take(under_way.popleft(), out)
        self._check_backend()           # an engine may go on after a fault: then these are not the right bytes

    @staticmethod
    def _take(chunk: tuple[Buffer, Point, int, int], out: np.ndarray) -> Buffer:
        staging, point, start, nbytes = chunk
        point.wait()
        out[start:start + nbytes] = staging.view[:nbytes]
        return staging

    def _copy(self, destination: Buffer, source: Buffer) -> None:
        if self._recording is not None:
            self._recording.copy(destination, source)
        else:
            self._submit(CopyQueue(self._device).copy(destination, source), in_order=True)

    def _fill(self, destination: Buffer, value: int) -> None:
        if self._recording is not None:
            self._recording.fill(destination, value)
        else:
            self._submit(CopyQueue(self._device).fill(destination, value), in_order=True)
