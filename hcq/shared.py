"""Signals that several processes share: words in named shared memory, registered with each process's device.

    here = dev.shared_signal()                  # in one process; here.name goes to the other
    there = dev.shared_signal(name)             # in another, on the same or another device of the machine

Both are signals like any other: queues wait for them and store to them, and so do hosts. The memory goes away with the
process that made it, when its signal does.
"""

from __future__ import annotations

import weakref
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from typing import TYPE_CHECKING

import numpy as np

from hcq.errors import QueueError
from hcq.signal import SIGNAL_KIND_USER, SIGNAL_VALUE, Signal

if TYPE_CHECKING:
    from hcq.device import Device
    from hcq.memory import Buffer

__all__ = ["SharedSignal"]

_BYTES = 4096


class _Memory(SharedMemory):
    """Closed when nothing shows it any more: an array of it may outlive this object."""

    def close(self) -> None:
        with suppress(BufferError):
            super().close()


class SharedSignal(Signal):
    """See :meth:`hcq.Device.shared_signal`.

    :ivar name: by which another process finds it.
    """

    __slots__ = ("_buffer", "_finish", "name")

    def __init__(self, device: Device, name: str | None, value: int) -> None:
        self.device, self._failed = device, None
        try:
            memory = _Memory(name, create=name is None, size=_BYTES)
        except (FileNotFoundError, ValueError) as error:
            raise QueueError(f"there is no shared signal {name!r}: the process that made it has ended, or the name is "
                             "wrong") from error
        if name is not None:            # the tracker of CPython before 3.13 would remove what is not this process's
            resource_tracker.unregister(memory._name, "shared_memory")     # type: ignore[attr-defined]
        self.name = memory.name
        assert memory.buf is not None
        words = np.frombuffer(memory.buf, np.uint64)
        try:
            self._buffer: Buffer = device.register(words)
        except BaseException:
            del words
            _close(memory, name is None)
            raise
        self._index, self._words = SIGNAL_VALUE // 8, words.data
        self.address = self._buffer.address + SIGNAL_VALUE
        self._finish = weakref.finalize(self, _end, self._buffer, memory, name is None)
        if name is None:
            self._words[0] = SIGNAL_KIND_USER
            self._words[self._index] = self._checked(value)

    def close(self) -> None:
        """Let go of the memory; work that uses the signal must be complete. Idempotent."""
        self._words = memoryview(bytearray(2 * SIGNAL_VALUE)).cast("Q")
        self._finish()

    def __del__(self) -> None:
        """Its word is not one of the device's."""

    def __repr__(self) -> str:
        return f"SharedSignal({self.name!r}, {self.value})"


def _end(buffer: Buffer, memory: SharedMemory, owner: bool) -> None:
    buffer._storage.leave()             # type: ignore[attr-defined]
    _close(memory, owner)


def _close(memory: SharedMemory, owner: bool) -> None:
    memory.close()
    if owner:
        memory.unlink()
