"""The near side: a device that stands for one of a far machine (its buffers: ``memory.py``; the rest: ``handles.py``).

Calls are written down and go over together: when something has to come back (``copyout``, ``synchronize``, a signal's
value), when there are many of them, or by ``dev.flush()``. What can be wrong with a call is found here and at once,
from the code object and the sizes; what goes wrong on the far side is raised by the next call that waits, and names
the call.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from hcq.backend import Properties, QueueKind
from hcq.cluster.handles import Handle, RemoteGraph, RemoteProfile, RemoteProgram, RemoteQueue, RemoteSignal
from hcq.cluster.memory import FarStorage, RemoteBuffer
from hcq.cluster.worker import DEVICE, Far, Given, Outcome, Part
from hcq.elf import CodeObject
from hcq.errors import (
    BufferError,
    CodeObjectError,
    DeviceClosedError,
    HcqError,
)
from hcq.memory import Buffer

__all__ = ["RemoteDevice", "Transport"]

INLINE = 64 << 10           # bytes of an array that travel within the batch; larger ones through the object store
BATCH_COMMANDS = 512        # as many go over without being asked
BATCH_BYTES = 32 << 20


class Transport(Protocol):
    """Brings batches over, in order."""

    where: str              # for messages

    def put(self, array: np.ndarray) -> Any:
        """Lay a large array where the far side can take it; what it returns goes with the batch."""
    def send(self, commands: Sequence[tuple[Any, ...]], arrays: Sequence[Any]) -> Any:
        """Start a batch."""
    def receive(self, sent: Any) -> Outcome:
        """What became of it. :raises NodeLostError: nobody will ever know."""
    def close(self) -> None: ...


class RemoteDevice:
    """A device of another machine, with the methods of :class:`hcq.Device`. Made by ``hcq.open("AM@ray")``."""

    def __init__(self, transport: Transport, name: str, properties: Properties) -> None:
        self.name, self.properties = name, properties
        self.timeout = 30.0
        self.sent_batches = 0
        self._transport = transport
        self._numbers = itertools.count(DEVICE + 1)
        self._commands: list[tuple[Any, ...]] = []
        self._arrays: list[Any] = []
        self._bytes = 0
        self._under_way: deque[Any] = deque()
        self._dropped: deque[int] = deque()             # appended by __del__, from anywhere
        self._codes: dict[bytes, tuple[int, CodeObject]] = {}
        self._lock = threading.RLock()
        self._closed = False
        self._lost: HcqError | None = None

    # --- what users call

    def alloc(self, nbytes: int, *, host: bool = False) -> RemoteBuffer:
        """See :meth:`hcq.Device.alloc`. That there is no room is told by the next call that waits."""
        if isinstance(nbytes, bool) or not isinstance(nbytes, (int, np.integer)) or nbytes <= 0:
            raise BufferError(f"a buffer has a positive number of bytes, not {nbytes!r}")
        return self._buffer(self._new(Far(DEVICE), "alloc", int(nbytes), host=host), int(nbytes), host)

    def _buffer(self, number: int, nbytes: int, host: bool = False) -> RemoteBuffer:
        storage: Any = FarStorage(self, number, nbytes, host)
        device: Any = self
        return RemoteBuffer(device, storage, 0, nbytes)

    def program(self, code_object: bytes | bytearray | memoryview | CodeObject | str | os.PathLike[str],
                name: str | None = None) -> RemoteProgram:
        """See :meth:`hcq.Device.program`. The code object goes over once."""
        self._check_open()
        if isinstance(code_object, (str, os.PathLike)):
            code_object = Path(code_object).read_bytes()
        if isinstance(code_object, CodeObject):
            raise CodeObjectError("a far device takes a code object's bytes or its path, not a parsed one")
        digest = blake2b(code_object, digest_size=32).digest()
        if digest not in self._codes:
            code = CodeObject(code_object)
            if not code.runs_on(self.properties.arch):
                raise CodeObjectError(f"the code object is for {code.arch}, {self.name} is {self.properties.arch}; "
                                      f"compile with -mcpu={self.properties.arch}")
            number = next(self._numbers)
            self._add(("keep", number, bytes(code_object)))
            self._codes[digest] = number, code
        number, code = self._codes[digest]
        code.kernel(name)                               # raises here what it would raise there
        return RemoteProgram(self, code, name, self._new(Far(DEVICE), "program", Far(number), name))

    def signal(self, value: int = 0) -> RemoteSignal:
        return RemoteSignal(self, self._new(Far(DEVICE), "signal", value))

    def graph(self, *, queues: int | None = None, kind: Literal["compute", "aql"] = "compute") -> RemoteGraph:
        """See :meth:`hcq.Device.graph`."""
        return RemoteGraph(self, self._new(Far(DEVICE), "graph", queues=queues, kind=kind))

    def profile(self, *, counters: Sequence[str] = ()) -> RemoteProfile:
        return RemoteProfile(self, self._new(Far(DEVICE), "profile", counters=tuple(counters)))

    def _far_queue(self, kind: QueueKind, index: int = 0) -> RemoteQueue:
        """``hcq.ComputeQueue(dev)`` and ``hcq.CopyQueue(dev)`` call this."""
        return RemoteQueue(self, self._new(Far(DEVICE), "queue", kind, index), kind)

    def synchronize(self, timeout: float | None = None) -> None:
        """Everything is over there, done, and well; else this raises what went wrong."""
        self._method(Far(DEVICE), "synchronize", timeout, waits=True)

    def seconds(self, begin: RemoteSignal, end: RemoteSignal) -> float:
        return (end.value - begin.value) / self.properties.timestamp_hz

    def trim(self) -> None:
        self._method(Far(DEVICE), "trim")

    def load(self, path: str | os.PathLike[str] | None = None, offset: int = 0, nbytes: int | None = None,
             buffer: RemoteBuffer | None = None, *, blake3: bytes | str | None = None,
             progress: Callable[[int, int], object] | None = None, via: str = "auto") -> RemoteBuffer:
        """Read a file *of the far machine* into its device; see :meth:`hcq.Device.load`.

        With ``blake3`` the file may have any name there: it is found by its content, in ``HCQ_STORE``.
        """
        target: Buffer | None = None
        if buffer is not None:
            if not isinstance(buffer, RemoteBuffer) or buffer.device is not self:       # type: ignore[comparison-overlap]
                raise BufferError(f"load takes a buffer of {self.name}, not {buffer!r}")
            target = buffer
        number = next(self._numbers)
        self._add(("call", number, DEVICE, "load", (None if path is None else os.fspath(path), offset, nbytes,
                                                    self._far(target)), {"blake3": blake3, "via": via}, False))
        size = int(self._ask(("get", number, "nbytes")))
        if progress is not None:
            progress(size, size)
        if buffer is None:
            return self._buffer(number, size)
        self._dropped.append(number)
        return buffer

    def store(self, path: str | os.PathLike[str], buffer: RemoteBuffer) -> bytes:
        """Write a file *of the far machine*; see :meth:`hcq.Device.store`."""
        if not isinstance(buffer, RemoteBuffer) or buffer.device is not self:           # type: ignore[comparison-overlap]
            raise BufferError(f"store takes a buffer of {self.name}, not {buffer!r}")
        found: bytes = self._method(Far(DEVICE), "store", os.fspath(path), buffer, wanted=True)
        return found

    def load_async(self, *arguments: Any, **keywords: Any) -> Any:
        """:meth:`load` in a thread of its own."""
        from hcq.load.handle import Transfer
        from hcq.load.transfer import Progress
        progress = Progress(0)

        def work() -> RemoteBuffer:
            found = self.load(*arguments, **keywords)
            progress.total = found.nbytes
            progress.add(found.nbytes)
            return found
        return Transfer(f"load on {self.name}", progress, work)

    def flush(self) -> None:
        """Send what was written down; does not wait for it."""
        with self._lock:
            self._check_open()
            if self._commands:
                self._send()

    def close(self) -> None:
        """Wait for the work, then let the far side give its device back. Idempotent."""
        if self._closed:
            return
        try:
            if self._lost is None:
                self.synchronize()
        finally:
            self._closed = True
            self._commands.clear()
            self._under_way.clear()
            from hcq.cluster import forget
            forget(self)
            self._transport.close()

    def __enter__(self) -> RemoteDevice:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = ", closed" if self._closed else ", lost" if self._lost is not None else ""
        return (f"RemoteDevice({self.name} at {self._transport.where}: {self.properties.name}, {self.properties.arch}"
                f"{state})")

    # --- commands

    def _check_open(self) -> None:
        if self._lost is not None:
            raise self._lost
        if self._closed:
            raise DeviceClosedError(f"{self.name} is closed; open it again with hcq.open")

    def _queue_block(self) -> int:
        return 0                                        # of no concern here: arguments are packed over there

    def _far(self, value: Any) -> Any:
        """A value as it travels."""
        if isinstance(value, Buffer):
            if value.device is not self:                # type: ignore[comparison-overlap]
                raise HcqError(f"a buffer of {value.device.name} is no buffer of {self.name}; copy_from copies between "
                               "machines")
            return value._part                          # type: ignore[attr-defined]
        if isinstance(value, (Handle, RemoteProgram)):
            if value.device is not self:                # type: ignore[comparison-overlap]
                raise HcqError(f"something of {value.device.name} was given to {self.name}")
            return Far(value.number)
        if isinstance(value, np.ndarray) and value.nbytes > INLINE:
            self._arrays.append(self._transport.put(value))
            self._bytes += value.nbytes
            return Given(len(self._arrays) - 1)
        if isinstance(value, (list, tuple)) and not isinstance(value, (Far, Part, Given)):
            return tuple(self._far(each) for each in value)
        if isinstance(value, Mapping):
            return {key: self._far(each) for key, each in value.items()}
        return value

    def _method(self, target: Far | Part, method: str, /, *arguments: Any, wanted: bool = False, waits: bool = False,
                **keywords: Any) -> Any:
        return self._call(target, method, arguments, keywords, wanted=wanted, waits=waits)

    def _call(self, target: Far | Part, method: str, arguments: tuple[Any, ...], keywords: dict[str, Any], *,
              wanted: bool = False, waits: bool = False, number: int | None = None) -> Any:
        with self._lock:
            self._check_open()
            if isinstance(target, Part):                # a view: made there, used, forgotten
                view = next(self._numbers)
                self._add(("keep", view, target))
                place = view
            else:
                place = target.number
            self._add(("call", number, place, method, self._far(arguments), self._far(keywords), wanted))
            if isinstance(target, Part):
                self._add(("drop", place))
            if not (wanted or waits):
                return None
        outcome = self._finish()
        return outcome.results[-1] if wanted else None

    def _new(self, target: Far, method: str, /, *arguments: Any, **keywords: Any) -> int:
        number = next(self._numbers)
        self._call(target, method, arguments, keywords, number=number)
        return number

    def _ask(self, command: tuple[Any, ...]) -> Any:
        with self._lock:
            self._check_open()
            self._add(command)
        return self._finish().results[-1]

    def _add(self, command: tuple[Any, ...]) -> None:
        with self._lock:
            self._check_open()
            while self._dropped:
                self._commands.append(("drop", self._dropped.popleft()))
            self._commands.append(command)
            full = len(self._commands) >= BATCH_COMMANDS or self._bytes >= BATCH_BYTES
            if full and command[0] != "keep":
                self._send()

    def _send(self) -> None:
        commands, arrays = self._commands, self._arrays
        self._commands, self._arrays, self._bytes = [], [], 0
        self.sent_batches += 1
        self._under_way.append(self._guard(lambda: self._transport.send(commands, arrays)))

    def _finish(self) -> Outcome:
        """Send, wait for everything that is under way, and raise the first thing that went wrong."""
        with self._lock:
            if self._commands:
                self._send()
            sent = list(self._under_way)
            self._under_way.clear()
        outcome, failure = Outcome([], None), None
        for each in sent:
            outcome = self._guard(lambda each=each: self._transport.receive(each))      # type: ignore[misc]
            failure = failure or outcome.error
        if failure is not None:
            failure.error.add_note(f"{failure.command} on {self.name}, at {self._transport.where}; what was sent "
                                   "behind it in the same batch was not done")
            raise failure.error
        return outcome

    def _guard(self, act: Callable[[], Any]) -> Any:
        from hcq.errors import NodeLostError
        try:
            return act()
        except NodeLostError as error:
            with self._lock:
                self._lost = error
                self._commands.clear()
                self._arrays.clear()
                self._under_way.clear()
                self._dropped.clear()
                self._codes.clear()
            from hcq.cluster import forget
            forget(self)
            raise
