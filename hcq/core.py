"""What the parts of a :class:`hcq.Device` share: its state, and the questions that all of them ask.

A device is made of parts, a file each: :mod:`hcq.submitting` encodes commands and hands them to the hardware,
:mod:`hcq.transfers` moves bytes, :mod:`hcq.watchdog` waits, :mod:`hcq.moving` goes beyond the device.
"""

from __future__ import annotations

import re
import threading
import weakref
from typing import TYPE_CHECKING, Any, cast

from hcq.backend import Backend, Properties, QueueKind
from hcq.debug import Debug
from hcq.errors import DeviceClosedError, DeviceFailedError
from hcq.recording import RECORDING
from hcq.signal import Fence, Point, Signal, SignalPool, Timeline

if TYPE_CHECKING:
    from hcq.device import Device, Image
    from hcq.eager import Eager
    from hcq.graph import Graph
    from hcq.memory import HostRing, Pool, Storage

__all__ = ["Core"]


class Core:
    """The state of a device; :class:`hcq.Device` fills it in."""

    backend: Backend
    name: str
    properties: Properties
    timeout: float
    _lock: threading.RLock                          # type: ignore[valid-type]
    _closed: bool
    _failure: Exception | None                      # what the backend raised of itself: a fault, a hang
    _stuck: bool                                    # a wait expired
    _debug: Debug | None
    _launches: int                                  # encoded one by one, for kernels that ask for a number
    _beside: int                                    # submissions to other queues than the one that launches use
    _timelines: dict[QueueKind, list[Timeline]]
    _branches: dict[QueueKind, list[Timeline]]      # queues that graphs have made for themselves, without an index
    _all: list[Timeline]
    _compute: Timeline                              # the queues that launches and copies use
    _copies: Timeline
    _peers: weakref.WeakSet[Device]                 # that have this one's memory mapped
    _recorder: Any                                  # of a profile that is being taken
    _foreign: dict[int, tuple[str, int]]            # others' signals, by their address here
    _signals: SignalPool
    _pool: Pool
    _images: weakref.WeakValueDictionary[bytes, Image]
    _kernargs: HostRing
    _eager: Eager
    _staging: HostRing | None
    _queue_storage: Storage | None

    @property
    def _device(self) -> Device:
        """The whole that this is a part of."""
        return cast("Device", self)

    @property
    def _recording(self) -> Graph | None:
        """The graph that this thread records, of whichever device."""
        return RECORDING.get(threading.get_ident()) if RECORDING else None

    def _check_open(self) -> None:
        if self._closed:
            raise DeviceClosedError(f"{self.name} is closed; open it again with hcq.open")
        if self._failure is not None:
            raise DeviceFailedError(f"{self.name} failed earlier: {self._failure}. Close it and open it again, or "
                                    "reset what failed by recover()") from self._failure

    def _fence(self) -> Fence:
        """Everything submitted so far and perhaps not complete."""
        return tuple([Point(timeline.signal, timeline.submitted) for timeline in self._all
                      if timeline.words[timeline.index] < timeline.submitted])

    def _complete(self) -> list[int]:
        return [timeline.signal.value for timeline in self._all]

    def _check_backend(self) -> None:
        try:
            self.backend.check()
        except Exception as error:
            self._failure = error
            if pending := self._pending():
                error.add_note(f"not complete then: {pending}")
            raise

    def _pending(self) -> str:
        """The first submission of each queue that is not complete."""
        return "; ".join(text for timeline in self._all if (text := timeline.pending()))

    def _with_names(self, text: str) -> str:
        """A driver's report, which knows addresses of code, with the names of the kernels there."""
        names = {image.address + info.entry: info.name for image in list(self._images.values())
                 for info in image.code.kernels.values()}

        def named(found: re.Match[str]) -> str:
            name = names.get(int(found[1], 16))
            return found[0] if name is None else f"{found[0]} (kernel {name!r})"
        return re.sub(r"\bcode at (0x[0-9a-f]+)", named, text)

    def _owner(self, signal: Signal) -> Timeline | None:
        return next((timeline for timeline in self._all if timeline.signal is signal), None)
