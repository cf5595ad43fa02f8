"""A device: memory, programs, the order of its work, and waiting for it.

Every hardware queue has a timeline (``hcq.signal``). What a program call, ``copyin``, ``copyout``, ``copy_from``,
``fill`` and a graph's replay submit is ordered as one stream: each submission first waits, on the engine, for what
the other queues have been given. Queues filled by hand order themselves.
"""

from __future__ import annotations

import os
import struct
import threading
import time
import weakref
from array import array
from collections import deque
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hcq.access import Access, of_arguments
from hcq.backend import Backend, IndirectBuffer, Properties
from hcq.debug import Debug
from hcq.eager import Eager
from hcq.elf import PAGE, CodeObject
from hcq.errors import (
    BufferError,
    CodeObjectError,
    DeviceClosedError,
    DeviceFailedError,
    DeviceTimeout,
    GraphError,
    HcqError,
    QueueError,
)
from hcq.graph import Graph
from hcq.memory import Buffer, HostRing, Pool, RegisteredStorage, Storage, span
from hcq.moving import Moving
from hcq.program import Launch, Program
from hcq.queue import Commands, CopyQueue
from hcq.recording import RECORDING
from hcq.signal import Fence, Point, Signal, SignalPool, Timeline

if TYPE_CHECKING:
    from hcq.queue import _Queue
    from hcq.shared import SharedSignal

__all__ = ["Device", "Image"]

_KERNARG_RING = 1 << 20
_STAGING_RING = 8 << 20
_CHUNK = _STAGING_RING // 4         # of a large transfer: two or more are under way while the host copies the next
_SPIN = 1e-3                        # seconds of polling before sleeping on the interrupt
_SLEEP = 10e-3                      # at most, between two looks: an interrupt may slip in before the sleep begins
_INDIRECT, _INDIRECT_LARGEST = 1 << 13, 1 << 19     # words of a submission that go into an indirect buffer
_LAST_WAIT = 1.0                    # seconds that closing spends on work that did not complete before
# amd_queue_t (HSA ABI, LLVM's AMDGPU guide): high halves of the LDS and scratch apertures.
_QUEUE_BLOCK, _QUEUE_SHARED_HI, _QUEUE_PRIVATE_HI = 256, 0x40, 0x44


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


class Device(Moving):
    """One GPU, through its backend. Made by :func:`hcq.open`; a context manager that closes it.

    :ivar timeout: seconds that a wait lasts while no queue completes anything; ``HCQ_TIMEOUT`` in the environment, 30
        by default. A timeout given to a single wait is all that it may take.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.name = backend.name
        self.properties: Properties = backend.properties
        self.timeout = _timeout_from_environment()
        self._lock = threading.RLock()
        self._closed = False
        self._failure: Exception | None = None      # what the backend raised of itself: a fault, a hang
        self._stuck = False                         # a wait expired
        self._debug: Debug | None = Debug(self) if os.environ.get("HCQ_DEBUG", "0") not in ("", "0") else None
        self._launches = 0                          # encoded one by one, for kernels that ask for a number
        self._beside = 0                            # submissions to other queues than the one that launches use
        self._timelines: dict[Literal["compute", "copy"], list[Timeline]] = {"compute": [], "copy": []}
        self._all: list[Timeline] = []
        self._peers: weakref.WeakSet[Device] = weakref.WeakSet()       # that have this one's memory mapped
        self._recorder: Any = None                  # of a profile that is being taken
        self._foreign: dict[int, tuple[str, int]] = {}                  # others' signals, by their address here
        self._signals = SignalPool(self)
        self._pool = Pool(self)
        self._images: weakref.WeakValueDictionary[bytes, Image] = weakref.WeakValueDictionary()
        for kind in self._timelines:
            self._timelines[kind] = [Timeline(self, queue) for queue in backend.queues(kind)]
            self._all += self._timelines[kind]
            if not self._timelines[kind]:
                raise HcqError(f"{self.name} has no {kind} queue")
        self._compute, self._copies = self._timelines["compute"][0], self._timelines["copy"][0]
        self._kernargs = HostRing(self, _KERNARG_RING)
        self._eager = Eager(self)
        self._staging: HostRing | None = None
        self._queue_storage: Storage | None = None

    # --- what users call

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
        :raises CodeObjectError: bytes that are no code object, one for another card, or no such kernel.
        """
        self._check_open()
        if isinstance(code_object, (str, os.PathLike)):
            code_object = Path(code_object).read_bytes()
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

    def graph(self) -> Graph:
        """A graph: ``with dev.graph() as g:`` records what is called inside; ``g.replay()`` submits it."""
        self._check_open()
        return Graph(self)

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

    def _add_queue(self, kind: Literal["compute", "copy"], priority: str) -> Timeline:
        """One more hardware queue. :raises QueueError: there is none."""
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
            self._timelines[kind].append(timeline)
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

    @property
    def _recording(self) -> Graph | None:
        """The graph that this thread records, of whichever device."""
        return RECORDING.get(threading.get_ident()) if RECORDING else None

    # --- submitting

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

    def _begin(self, timeline: Timeline, encoder: Any, *, in_order: bool = True) -> list[int]:
        """Words that make a queue wait for what the others have been given, where its work is part of the order."""
        timeline.turn()
        words: list[int] = []
        for other in self._all if in_order else ():
            if other is not timeline and other.busy:
                encoder.wait(words, other.signal.address, other.submitted)
                timeline.will_wait(other.signal, other.submitted)
        return words

    def _finish(self, timeline: Timeline, encoder: Any, words: list[int], what: object, *,
                interrupt: bool = True) -> Point:
        encoder.signal(words, timeline.signal.address, timeline.submitted + 1, interrupt=interrupt)
        timeline.queue.submit(np.frombuffer(array("I", words), np.uint32))
        point = timeline.record(what)
        if interrupt:
            timeline.wakes = timeline.submitted
        if timeline is not self._compute:
            self._beside += 1
        return point

    def _finish_indirect(self, timeline: Timeline, encoder: Any, words: list[int], what: object,
                         memory: Buffer) -> Point:
        """The same, with the words in memory of their own."""
        content = np.array(words, np.uint32)        # the memory is someone else's when the driver counts this
        memory.view.view(np.uint32)[:len(words)] = content
        leads: list[int] = []
        encoder.indirect(leads, memory.address, len(words))
        encoder.signal(leads, timeline.signal.address, timeline.submitted + 1)
        timeline.queue.submit(np.array(leads, np.uint32), indirect=(IndirectBuffer(content),))  # type: ignore[call-arg]
        point = timeline.record(what)
        timeline.wakes = timeline.submitted
        if timeline is not self._compute:
            self._beside += 1
        return point

    def _ask_for_interrupt(self, timeline: Timeline) -> None:
        """Launches end without an interrupt; who is about to sleep on one asks for it, behind all that there is."""
        with self._lock:
            if timeline.wakes < timeline.submitted:
                words: list[int] = []
                timeline.encoder.signal(words, timeline.signal.address, timeline.submitted)
                timeline.queue.submit(np.frombuffer(array("I", words), np.uint32))
                timeline.wakes = timeline.submitted

    def _exec(self, encoder: Any, words: list[int], launch: Launch, memory: memoryview, offset: int,
              address: int) -> None:
        program, shape = launch.program, launch.shape
        kernel = program.kernel
        packet = launch.write(memory, offset, address)
        if kernel.private_bytes and encoder is self.backend.compute:
            self.backend.ensure_scratch(kernel.private_bytes * kernel.wave_size)
        self._launches += 1
        number = {"dispatch_id": self._launches} if program.wants_id else {}
        encoder.exec(words, kernel, address, shape.grid, shape.block, dynamic_lds=shape.lds, dispatch_packet=packet,
                     queue_ptr=self._queue_block() if program.wants_queue else 0, **number)

    def _launch(self, launch: Launch) -> Point:
        with self._lock:
            self._check_open()
            ring, encoder, timeline = self._kernargs, self.backend.compute, self._compute
            words = self._begin(timeline, encoder)
            encoder.memory_barrier(words)
            try:
                offset = ring.take(launch.program.block_bytes)
                self._exec(encoder, words, launch, ring.bytes, offset, ring.address + offset)
                point = self._finish(timeline, encoder, words, launch.shape, interrupt=False)
            except BaseException:
                ring.cancel()
                raise
            ring.retire(point)
            if self._debug is not None:
                epoch = self._debug.barriers[id(timeline)] = self._debug.barriers.get(id(timeline), 0) + 1
                self._debug.submitted(timeline, launch, [(access, epoch) for access in of_arguments(
                    launch.program, launch.args)], in_order=True)
            return point

    def _encode(self, queue: _Queue, words: list[int], memory: memoryview, offset: int, address: int) -> None:
        """A hand-filled queue's commands; kernel arguments go to ``memory[offset]``, seen at ``address``."""
        encoder = queue._encoder
        for name, operands in queue._commands:
            if name == "exec":
                launch = operands[0]
                self._exec(encoder, words, launch, memory, offset, address)
                size = launch.program.block_bytes + 63 & -64
                offset += size
                address += size
            elif name in ("wait", "signal"):
                getattr(encoder, name)(words, *operands[1:])
            elif name == "timestamp":
                encoder.timestamp(words, operands[1])
            else:
                getattr(encoder, name)(words, *operands)

    @staticmethod
    def _kernarg_bytes(queue: _Queue) -> int:
        return sum(operands[0].program.block_bytes + 63 & -64 for name, operands in queue._commands if name == "exec")

    def _preview(self, queue: _Queue) -> list[int]:
        """Words of commands not yet submitted, with kernel arguments at address 0."""
        words: list[int] = []
        self._encode(queue, words, memoryview(bytearray(self._kernarg_bytes(queue))), 0, 0)
        return words

    def _submit(self, queue: _Queue, *, in_order: bool = False) -> Point:
        with self._lock:
            self._check_open()
            if self._recording is not None:
                raise GraphError("a queue submitted inside the recording of a graph")
            timeline, encoder, ring = queue.timeline, queue._encoder, self._kernargs
            words = self._begin(timeline, encoder, in_order=in_order)
            for name, operands in queue._commands:
                if name == "wait":
                    timeline.will_wait(operands[0], operands[2])
                elif name == "signal":
                    timeline.will_give(operands[0], operands[2])
            for storage in queue._storages:
                storage.check()
                for point in storage.ready:         # of the memory's earlier life
                    if not point.done:
                        encoder.wait(words, point.signal.address, point.value)
            fresh = {operands[0].program.image for name, operands in queue._commands
                     if name == "exec" and timeline not in operands[0].program.image.barriers}
            if fresh:
                encoder.memory_barrier(words)       # the instruction cache may hold what was there before
            nbytes = self._kernarg_bytes(queue)
            own: list[Buffer] = []                  # what is too large for the rings
            try:
                if nbytes > ring.nbytes // 4:
                    own.append(self.alloc(nbytes, host=True))
                    self._encode(queue, words, own[0].view.data.cast("B"), 0, own[0].address)
                else:
                    offset = ring.take(nbytes) if nbytes else 0
                    self._encode(queue, words, ring.bytes, offset, ring.address + offset)
                if _INDIRECT < len(words) <= _INDIRECT_LARGEST and hasattr(encoder, "indirect"):
                    own.append(self.alloc(4 * len(words), host=True))
                    point = self._finish_indirect(timeline, encoder, words, Commands(queue._commands), own[-1])
                else:
                    point = self._finish(timeline, encoder, words, Commands(queue._commands))
            except BaseException:
                ring.cancel()
                raise
            ring.retire(point)
            for image in fresh:
                image.barriers.add(timeline)
            del own                                 # cached behind a fence that this submission is part of
            queue._last = words
            commands, accesses = queue._commands, queue._accesses
            queue._commands, queue._storages, queue._accesses = [], [], []
            if self._debug is not None:
                self._book(timeline, commands, accesses, in_order)
            return point

    def _book(self, timeline: Timeline, commands: list[tuple[str, tuple[Any, ...]]], accesses: list[Access],
              in_order: bool) -> None:
        """Tell the debug mode of the last submission of a queue filled by hand."""
        debug = self._debug
        assert debug is not None
        epoch = debug.barriers.get(id(timeline), 0)
        touched = [(access, epoch) for access in accesses]
        for name, operands in commands:
            if name == "memory_barrier":
                epoch += 1
            elif name == "exec":
                touched += [(access, epoch) for access in of_arguments(operands[0].program, operands[0].args)]
        debug.barriers[id(timeline)] = epoch
        debug.submitted(timeline, Commands(commands), touched, in_order=in_order,
                        waits=[(operands[0], operands[2]) for name, operands in commands if name == "wait"],
                        gives=[(operands[0], operands[2]) for name, operands in commands if name == "signal"])

    def _queue_block(self) -> int:
        """Address of the amd_queue_t block, for kernels that look up the apertures there."""
        if self._queue_storage is None:
            buffer = self.alloc(_QUEUE_BLOCK, host=True)
            buffer.view[:] = 0
            struct.pack_into("<I", buffer.view.data, _QUEUE_SHARED_HI, self.properties.shared_aperture >> 32)
            struct.pack_into("<I", buffer.view.data, _QUEUE_PRIVATE_HI, self.properties.private_aperture >> 32)
            self._queue_storage = buffer._storage
        return self._queue_storage.address

    # --- moving bytes

    def _copy_words(self, what: str, destination: int, source: int, nbytes: int, buffer: Buffer) -> Point:
        encoder, timeline = self.backend.copy, self._copies
        words = self._begin(timeline, encoder)
        encoder.copy(words, destination, source, nbytes)
        point = self._finish(timeline, encoder, words, f"{what} of {nbytes} bytes")
        if self._debug is not None:
            self._debug.submitted(timeline, what, [(Access.of(buffer, write=what == "copyin"), 0)], in_order=True)
        return point

    def _write(self, buffer: Buffer, address: int, data: np.ndarray) -> None:
        """copyin: through a ring of host memory, so that the array is the caller's again on return."""
        if buffer.host and not self._fence():
            buffer.view[:len(data)] = data
            return
        with self._lock:
            self._check_open()
            if self._staging is None:
                self._staging = HostRing(self, _STAGING_RING)
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
            self.synchronize()
            out[:] = buffer.view[:len(out)]
            return
        under_way: deque[tuple[Buffer, Point, int, int]] = deque()
        for start in range(0, len(out), _CHUNK):
            nbytes = min(_CHUNK, len(out) - start)
            if len(under_way) == 2:
                staging = self._take(under_way.popleft(), out)
            else:
                staging = self.alloc(nbytes, host=True)
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
            self._submit(CopyQueue(self).copy(destination, source), in_order=True)

    def _fill(self, destination: Buffer, value: int) -> None:
        if self._recording is not None:
            self._recording.fill(destination, value)
        else:
            self._submit(CopyQueue(self).fill(destination, value), in_order=True)

    # --- waiting

    def _wait(self, signal: Signal, value: int, timeout: float | None = None) -> None:
        self._await(signal, value, timeout)
        signal.check(value)
        if self._debug is not None:
            self._debug.waited(signal, value)

    def _await(self, signal: Signal, value: int, timeout: float | None = None) -> None:
        if signal.value >= value:
            return
        limit = self.timeout if timeout is None else timeout
        owner = self._owner(signal)
        start = moved = time.monotonic()
        complete = self._complete()
        while True:
            time.sleep(0)                   # gives the interpreter lock away: engines may be threads of this process
            if signal.value >= value:
                return
            now = time.monotonic()
            if now - start < _SPIN:
                continue
            self._check_backend()
            if owner is not None and owner.wakes < value:
                self._ask_for_interrupt(owner)
            if timeout is None and complete != (complete := self._complete()):
                moved = now                 # a long row of work may take long, as long as it advances
            left = moved + limit - now
            if left < 0:
                self._expire(signal, value, limit)
            self.backend.sleep(min(_SLEEP, max(left, 1e-4)))
            if signal.value >= value:
                return

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

    def _owner(self, signal: Signal) -> Timeline | None:
        return next((timeline for timeline in self._all if timeline.signal is signal), None)

    def _expire(self, signal: Signal, value: int, limit: float) -> None:
        self._stuck = True
        owner = self._owner(signal)
        what = f"{owner.queue.name} to complete submission {value}" if owner else f"{signal!r} to reach {value}"
        pending = self._pending()
        state = f"Incomplete: {pending}" if pending else "Nothing submitted is incomplete, so nothing will signal it"
        if look := getattr(self.backend, "diagnose", None):
            state += f". The driver sees: {look()}"
        from hcq.deadlock import explain
        why = explain(self)
        raise DeviceTimeout(f"waited {limit:g} s for {what}. {state}. HCQ_TIMEOUT or Device.timeout sets the limit"
                            + (f". {why}" if why else ""))


def _timeout_from_environment() -> float:
    text = os.environ.get("HCQ_TIMEOUT", "30")
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < 1e9:
        raise HcqError(f"HCQ_TIMEOUT={text!r} is not a positive number of seconds")
    return seconds


