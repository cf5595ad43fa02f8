"""The near side: a device, buffers, programs, signals, queues and graphs that stand for those of a far machine.

Calls are written down and go over together: when something has to come back (``copyout``, ``synchronize``, a signal's
value), when there are many of them, or by ``dev.flush()``. What can be wrong with a call is found here and at once,
from the code object and the sizes; what goes wrong on the far side is raised by the next call that waits, and names
the call.
"""

from __future__ import annotations

import itertools
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from hcq.backend import Properties, QueueKind
from hcq.cluster.worker import DEVICE, Far, Given, Outcome, Part
from hcq.elf import CodeObject
from hcq.errors import (
    BufferError,
    CodeObjectError,
    DeviceClosedError,
    GraphError,
    HcqError,
    UseAfterFreeError,
)
from hcq.memory import Buffer
from hcq.program import Program, Size

__all__ = ["RemoteBuffer", "RemoteDevice", "RemoteGraph", "RemotePoint", "RemoteProfile", "RemoteProgram",
           "RemoteQueue", "RemoteSignal", "Transport"]

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


class _Storage:
    """Stands for a far allocation; views share it."""

    host: bool
    ready: tuple[()] = ()

    def __init__(self, device: RemoteDevice, number: int, nbytes: int, host: bool) -> None:
        self.device, self.number, self.nbytes, self.host = device, number, nbytes, host
        self.memory: object | None = self

    def check(self) -> Any:
        if self.memory is None:
            raise UseAfterFreeError("the buffer was freed; its memory may be someone else's by now")
        return self

    @property
    def address(self) -> int:
        self.check()
        return 0

    def release(self) -> None:
        if self.memory is not None:
            self.memory = None
            self.device._dropped.append(self.number)

    def __del__(self) -> None:
        if getattr(self, "memory", None) is not None:
            self.release()


class RemoteBuffer(Buffer):
    """A buffer of a far device; :class:`hcq.Buffer`'s methods. ``address`` is not told (0)."""

    __slots__ = ()

    @property
    def view(self) -> np.ndarray:
        raise BufferError("the buffer is on another machine; use copyin and copyout")

    def __getitem__(self, part: slice) -> RemoteBuffer:
        near = super().__getitem__(part)
        return RemoteBuffer(self.device, near._storage, near._offset, near.nbytes)

    @property
    def _part(self) -> Part:
        storage: Any = self._storage.check()
        return Part(storage.number, self._offset, self._offset + self.nbytes)

    def copyin(self, array: npt.ArrayLike) -> RemoteBuffer:
        source = np.asarray(array)
        self._check_array(source, "copyin")
        if source.nbytes:
            remote: Any = self.device
            remote._method(self._part, "copyin", np.array(source, order="C"))     # a copy: the array stays the caller's
        return self

    def copyout(self, out: np.ndarray | None = None) -> np.ndarray:
        if out is None:
            out = np.empty(self.nbytes, np.uint8)
        elif not isinstance(out, np.ndarray):
            raise BufferError(f"copyout fills a NumPy array, not a {type(out).__name__}")
        self._check_array(out, "copyout")
        if not out.flags.writeable:
            raise BufferError("copyout into an array that is read-only")
        if out.nbytes:
            remote: Any = self.device
            part = self._part
            bytes_ = remote._method(part._replace(stop=part.start + out.nbytes), "copyout", wanted=True)
            out[...] = np.frombuffer(bytes_, np.uint8).view(out.dtype).reshape(out.shape)
        return out

    def copy_from(self, source: Buffer) -> RemoteBuffer:
        if not isinstance(source, Buffer):
            raise BufferError(f"the source is a {type(source).__name__}, expected a Buffer")
        if source.nbytes != self.nbytes:
            raise BufferError(f"copy of {source.nbytes} bytes to a buffer of {self.nbytes}; take a view of the same "
                              "size, buf[a:b]")
        remote: Any = self.device
        if source.device is self.device:
            remote._method(self._part, "copy_from", source)
        else:
            self.copyin(source.copyout())               # another machine's: through this one
        return self

    def fill(self, value: int) -> RemoteBuffer:
        if not isinstance(value, int) or not 0 <= value < 1 << 32:
            raise BufferError(f"a fill pattern is 0 to 2**32-1, not {value!r}")
        if self._offset % 4 or self.nbytes % 4:
            raise BufferError(f"fill of {self.nbytes} bytes at byte {self._offset}: both must be multiples of 4")
        remote: Any = self.device
        remote._method(self._part, "fill", value)
        return self

    def __repr__(self) -> str:
        freed = ", freed" if self._storage.memory is None else ""
        return f"RemoteBuffer({self.nbytes} bytes{freed} on {self.device.name})"


class _Image:
    """What a program needs to know of a code object that is loaded elsewhere."""

    address = 0

    def __init__(self, code: CodeObject) -> None:
        self.code = code


class RemoteProgram(Program):
    """A kernel of a far device. Launches are checked here, against the code object, and run there."""

    def __init__(self, device: RemoteDevice, code: CodeObject, name: str | None, number: int) -> None:
        super().__init__(device, _Image(code), code.kernel(name))       # type: ignore[arg-type]
        self.number = number

    def __call__(self, *args: Any, grid: Size = 1, block: Size = 1, lds: int = 0) -> None:
        device: Any = self.device
        if not any(isinstance(each, _Handle) for each in _leaves((args, grid, block))):     # a graph's input
            self.bind(args, grid, block, lds)
        device._method(Far(self.number), "__call__", *args, grid=grid, block=block, lds=lds)


class _Handle:
    """Something of the far side that has a number."""

    def __init__(self, device: RemoteDevice, number: int) -> None:
        self.device, self.number = device, number

    def __del__(self) -> None:
        device = getattr(self, "device", None)
        if device is not None:
            device._dropped.append(self.number)


class RemoteSignal(_Handle):
    """See :class:`hcq.Signal`."""

    @property
    def value(self) -> int:
        return int(self.device._ask(("get", self.number, "value")))

    @value.setter
    def value(self, value: int) -> None:
        self.device._add(("set", self.number, "value", value))
        self.device.flush()

    def wait(self, value: int, timeout: float | None = None) -> None:
        self.device._method(Far(self.number), "wait", value, timeout, waits=True)


class RemotePoint(_Handle):
    """The end of a submission: see :class:`hcq.Point`."""

    @property
    def done(self) -> bool:
        return bool(self.device._ask(("get", self.number, "done")))

    def wait(self, timeout: float | None = None) -> None:
        self.device._method(Far(self.number), "wait", timeout, waits=True)


class RemoteQueue(_Handle):
    """A queue filled by hand: every method of :class:`hcq.ComputeQueue` or :class:`hcq.CopyQueue`."""

    def __init__(self, device: RemoteDevice, number: int, kind: QueueKind) -> None:
        super().__init__(device, number)
        self.kind = kind

    def submit(self) -> RemotePoint:
        device = self.device
        return RemotePoint(device, device._new(Far(self.number), "submit"))

    def dump(self) -> str:
        return str(self.device._method(Far(self.number), "dump", wanted=True))

    def __len__(self) -> int:
        return int(self.device._method(Far(self.number), "__len__", wanted=True))

    def __getattr__(self, name: str) -> Callable[..., RemoteQueue]:
        import hcq
        kinds = {"compute": hcq.ComputeQueue, "copy": hcq.CopyQueue, "aql": hcq.AqlQueue}
        if name.startswith("_") or not hasattr(kinds[self.kind], name):
            raise AttributeError(f"a {self.kind} queue has no {name!r}")

        def command(*arguments: Any, **keywords: Any) -> RemoteQueue:
            for buffer in _leaves(arguments):
                if isinstance(buffer, Buffer) and buffer.device is not self.device:
                    raise HcqError(f"a buffer belongs to {buffer.device.name}, the queue to {self.device.name}")
            self.device._method(Far(self.number), name, *arguments, **keywords)
            return self
        return command


class RemoteGraph(_Handle):
    """See :class:`hcq.Graph`: recorded there; a replay is one command."""

    def __enter__(self) -> RemoteGraph:
        self.device._method(Far(self.number), "__enter__")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.device._method(Far(self.number), "__exit__", GraphError if kind is not None else None, None, None)

    def input(self, name: str, default: Any) -> Any:
        return _Handle(self.device, self.device._new(Far(self.number), "input", name, default))

    def copy(self, destination: Any, source: Any) -> None:
        self.device._method(Far(self.number), "copy", destination, source)

    def fill(self, destination: Any, value: Any) -> None:
        self.device._method(Far(self.number), "fill", destination, value)

    def replay(self, **changed: Any) -> RemotePoint:
        return RemotePoint(self.device, self.device._new(Far(self.number), "replay", **changed))

    def __len__(self) -> int:
        return int(self.device._method(Far(self.number), "__len__", wanted=True))


class RemoteProfile(_Handle):
    """See :class:`hcq.profile.Profile`: taken there, on that machine's clock."""

    def __enter__(self) -> RemoteProfile:
        self.device._method(Far(self.number), "__enter__")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.device._method(Far(self.number), "__exit__", HcqError if kind is not None else None, None, None)

    def summary(self) -> str:
        return str(self.device._method(Far(self.number), "summary", wanted=True))

    def trace(self) -> dict[str, Any]:
        found: dict[str, Any] = self.device._method(Far(self.number), "trace", wanted=True)
        return found

    @property
    def counters(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = self.device._ask(("get", self.number, "counters"))
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trace to a file here."""
        Path(path).write_text(json.dumps(self.trace()), encoding="utf-8")


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
        storage: Any = _Storage(self, number, nbytes, host)
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
        if isinstance(value, (_Handle, RemoteProgram)):
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


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, (tuple, list)):
        return [leaf for part in value for leaf in _leaves(part)]
    return [value]

