"""A device: memory, programs, the order of its work, and waiting for it.

Every hardware queue has a timeline (``hcq.signal``). What a program call, ``copyin``, ``copyout``, ``copy_from``,
``fill`` and a graph's replay submit is ordered as one stream: each submission first waits, on the engine, for what
the other queues have been given. Queues filled by hand order themselves.
"""

from __future__ import annotations

import os
import threading
import weakref
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hcq.backend import Backend, QueueKind
from hcq.debug import Debug
from hcq.eager import Eager
from hcq.elf import PAGE, CodeObject
from hcq.errors import BufferError, CodeObjectError, GraphError, HcqError, QueueError
from hcq.graph import Graph
from hcq.memory import Buffer, HostRing, Pool, RegisteredStorage, span
from hcq.moving import Moving
from hcq.program import Program
from hcq.signal import Signal, SignalPool, Timeline
from hcq.transfers import Transfers
from hcq.watchdog import Watchdog, timeout_from_environment

if TYPE_CHECKING:
    from hcq.shared import SharedSignal

__all__ = ["Device", "Image"]

_KERNARG_RING = 1 << 20
_LAST_WAIT = 1.0                    # seconds that closing spends on work that did not complete before


class Image:
    """A code object placed in a device's memory; programs keep it there."""

    def __init__(self, device: Device, code: CodeObject) -> None:
        self.code = code
        self.barriers: weakref.WeakSet[Timeline] = weakref.WeakSet()    # of queues that know the code is new
        self._storage = device._pool.alloc(code.image_bytes + PAGE)
        for point in self._storage.ready:
            point.settle()              # the upload below does not go through the queues
        self.address = self._storage.address + PAGE - 1 & -PAGE
        self.upload(device)

    def upload(self, device: Device) -> None:
        """Again, after device memory has lost its content."""
        device.backend.upload(self.address, self.code.place(self.address))

class Device(Transfers, Watchdog, Moving):
    """One GPU, through its backend. Made by :func:`hcq.open`; a context manager that closes it.

    :ivar timeout: seconds that a wait lasts while no queue completes anything; ``HCQ_TIMEOUT`` in the environment, 30
        by default. A timeout given to a single wait is all that it may take.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.name = backend.name
        self.properties = backend.properties
        self.timeout = timeout_from_environment()
        self._lock = threading.RLock()
        self._closed = False
        self._failure = None
        self._stuck = False
        self._debug = Debug(self) if os.environ.get("HCQ_DEBUG", "0") not in ("", "0") else None
        self._launches = self._beside = 0
        self._timelines = {"compute": [], "copy": [], "aql": []}
        self._branches = {"compute": [], "aql": []}
        self._all = []
        self._peers = weakref.WeakSet()
        self._recorder = None
        self._foreign = {}
        self._signals = SignalPool(self)
        self._pool = Pool(self)
        self._images = weakref.WeakValueDictionary()
        kinds: tuple[QueueKind, ...] = ("compute", "copy")          # AQL queues are made when they are asked for
        for kind in kinds:
            self._timelines[kind] = [Timeline(self, queue) for queue in backend.queues(kind)]
            self._all += self._timelines[kind]
            if not self._timelines[kind]:
                raise HcqError(f"{self.name} has no {kind} queue")
        self._compute, self._copies = self._timelines["compute"][0], self._timelines["copy"][0]
        self._kernargs = HostRing(self, _KERNARG_RING)
        self._eager = Eager(self)
        self._staging = None
        self._queue_storage = None

    def alloc(self, nbytes: int, *, host: bool = False) -> Buffer:
        """Device memory, or with ``host`` memory of the host that the engines reach and ``Buffer.view`` shows.

        Contents are undefined. Freed when the last reference goes, or by ``Buffer.free``.

        :raises BufferError: not a positive size.
        :raises MemoryError: (the backend's own) when there is no room, with nothing lost by it.
        """
        if self._closed or self._failure is not None:
            self._check_open()
        if type(nbytes) is not int or nbytes <= 0:
            if isinstance(nbytes, bool) or not isinstance(nbytes, (int, np.integer)) or nbytes <= 0:
                raise BufferError(f"a buffer has a positive number of bytes, not {nbytes!r}")
            nbytes = int(nbytes)
        return Buffer(self, self._pool.alloc(nbytes, host=host), 0, nbytes)

    def register(self, array: np.ndarray) -> Buffer:
        """An array of the caller's as a buffer: pinned, and reached by every engine where it is, without a copy.

        The buffer's bytes are the array's, from the lowest to the highest address, and its ``view`` shows them.
        Engines may only read what is read-only here. ``Buffer.free`` waits for the work submitted so far and lets go
        of the array; so does, later, the end of the last reference.

        :raises BufferError: not a NumPy array, one without bytes, or of Python objects.
        :raises HcqError: this device's driver cannot.
        """
        self._check_open()
        if not isinstance(array, np.ndarray):
            raise BufferError(f"a NumPy array can be registered, not a {type(array).__name__}")
        if array.dtype.hasobject or not array.nbytes:
            raise BufferError(f"an array that is registered has plain bytes; this is {array.dtype}{list(array.shape)}")
        take = getattr(self.backend, "register", None)
        if take is None:
            raise HcqError(f"the driver of {self.name} cannot register memory; copyin copies it")
        return Buffer(self, RegisteredStorage(self._pool, take(array), array), 0, span(array))

    def program(self, code_object: bytes | bytearray | memoryview | CodeObject | str | os.PathLike[str],
                name: str | None = None) -> Program:
        """Load a kernel. Several kernels of the same code object share one image.

        :param code_object: the file's bytes, its path, or a parsed :class:`CodeObject`.
        :param name: of the kernel; may be left out where the code object has one only.
        :raises CodeObjectError: a file that cannot be read, bytes that are no code object, one for another card, or no
            such kernel.
        """
        self._check_open()
        if isinstance(code_object, (str, os.PathLike)):
            path = Path(code_object)
            try:
                code_object = path.read_bytes()
            except OSError as error:
                raise CodeObjectError(f"the code object at {path} cannot be read: {error.strerror}; "
                                      f"it was looked for from {Path.cwd()}") from error
        if isinstance(code_object, CodeObject):
            code, digest = code_object, code_object.digest
        else:
            digest = blake2b(code_object, digest_size=32).digest() if isinstance(
                code_object, (bytes, bytearray, memoryview)) else b""
            image = self._images.get(digest)
            code = image.code if image is not None else CodeObject(code_object)
        if not code.runs_on(self.properties.arch):
            raise CodeObjectError(f"the code object is for {code.arch}, {self.name} is {self.properties.arch}; "
                                  f"compile with -mcpu={self.properties.arch}")
        info = code.kernel(name)
        if info.wave_size not in self.properties.wave_sizes:
            raise CodeObjectError(f"kernel {info.name!r} has waves of {info.wave_size}; {self.name} runs waves of "
                                  f"{' and '.join(map(str, self.properties.wave_sizes))}")
        with self._lock:
            image = self._images.get(digest)
            if image is None:
                image = self._images[digest] = Image(self, code)
        return Program(self, image, info)

    def signal(self, value: int = 0) -> Signal:
        """A new signal that holds ``value``."""
        self._check_open()
        return Signal(self, value)

    def shared_signal(self, name: str | None = None, value: int = 0) -> SharedSignal:
        """A signal that other processes of the machine can have, too: a new one, or the one of that name.

        :raises QueueError: there is none of that name.
        :raises HcqError: the driver cannot register memory.
        """
        self._check_open()
        from hcq.shared import SharedSignal
        return SharedSignal(self, name, value)

    def graph(self, *, queues: int | None = None, kind: QueueKind = "compute") -> Graph:
        """A graph: ``with dev.graph() as g:`` records what is called inside; ``g.replay()`` submits it.

        :param queues: compute queues of a device that it may use for branches that do not depend on each other; by
            default up to 4, as many as are worth it (``hcq.assignment``).
        :param kind: "compute" or "aql": the language of the queues that its kernels go to.
        :raises GraphError: no number of queues, or no such kind.
        """
        self._check_open()
        return Graph(self, queues, kind)

    def synchronize(self, timeout: float | None = None) -> None:
        """Wait for everything submitted so far, by any queue.

        :raises DeviceTimeout: naming the first submission that is not complete.
        """
        self._check_open()
        if self._recording is not None:
            raise GraphError("synchronize inside the recording of a graph: nothing runs there")
        for point in self._fence():
            self._wait(point.signal, point.value, timeout)
        self._check_backend()
        if self._debug is not None:
            self._debug.waited_for_all()

    def fileno(self) -> int:
        """A descriptor for ``select``: readable when an engine has interrupted. Then call :meth:`poll`, and look.

        :raises HcqError: this machine delivers no interrupts.
        """
        number = getattr(self.backend, "fileno", lambda: None)()
        if number is None:
            raise HcqError(f"{self.name} has no descriptor to wait on: there are no interrupts here; use wait()")
        return int(number)

    def poll(self) -> None:
        """Take the interrupts that came, without waiting. :raises: what the device reported, a fault."""
        self._check_open()
        getattr(self.backend, "poll", lambda: None)()
        self._check_backend()

    def recover(self) -> str:
        """After a fault, a hang or a wait that expired: reset what stands still, and go on. See :mod:`hcq.recovery`.

        What was not complete has failed: waiting for it raises :class:`SubmissionFailedError`, and what it should have
        written is undefined. Buffers, programs and graphs stay; only where the text that is returned says that device
        memory was lost is the content of buffers undefined, too.

        :return: what was found and what was done, for people.
        :raises HcqError: the driver cannot. Its own errors: the device does not come back, and is as good as closed.
        """
        from hcq.recovery import recover
        return recover(self)

    def _add_queue(self, kind: QueueKind, priority: str, *, branch: bool = False) -> Timeline:
        """One more hardware queue.

        :param branch: it is for graphs: people do not number it.
        :raises QueueError: there is none.
        """
        with self._lock:
            self._check_open()
            add = getattr(self.backend, "add_queue", None)
            count = len(self._timelines[kind])
            if add is None:
                raise QueueError(f"{self.name} has {count} {kind} queues; queue {count} is not one of them")
            queue = add(kind, priority)
            if isinstance(queue, str):
                raise QueueError(queue)
            timeline = Timeline(self, queue)
            timeline.priority = priority
            (self._branches if branch else self._timelines)[kind].append(timeline)
            self._all.append(timeline)
            if self._recorder is not None:
                self._recorder.watch(timeline)
            return timeline

    def seconds(self, begin: Signal, end: Signal) -> float:
        """Time between two timestamps."""
        return (end.value - begin.value) / self.properties.timestamp_hz

    def trim(self) -> None:
        """Give cached memory back to the backend."""
        self._check_open()
        self._pool.trim()

    def close(self) -> None:
        """Wait for the work, then give the device back. Idempotent; the device is given back even after a hang.

        After a fault there is nothing to wait for, and after a wait that expired only a moment is spent on it.
        """
        if self._closed:
            return
        try:
            if self._failure is None:
                self.synchronize(min(self.timeout, _LAST_WAIT) if self._stuck else None)
        finally:
            from hcq.registry import forget
            self._closed = True
            forget(self)
            self._leave_peers()
            self._pool.close()
            self.backend.close()

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        properties = self.properties
        return (f"Device({self.name}: {properties.name}, {properties.arch}, {properties.compute_units} CUs, "
                f"{properties.vram_bytes >> 20} MiB{', closed' if self._closed else ''})")

    @property
    def debug(self) -> bool:
        """The debug mode (``hcq.debug``). It is switched while nothing is under way: setting it synchronizes."""
        return self._debug is not None

    @debug.setter
    def debug(self, on: bool) -> None:
        self.synchronize()
        self._debug = (self._debug or Debug(self)) if on else None
