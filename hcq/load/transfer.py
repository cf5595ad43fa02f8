"""From files into device memory, and back: reads that run ahead, pinned staging memory, copy engines.

A piece of a file goes through three hands: the file engine fills a slot of staging memory (host memory that the card
reaches), a copy engine moves it to its place, and then the slot is free for the next piece. All slots are under way at
once, so that the disk never waits for the copies or the other way round. Where the CPU's own window on device memory
is faster than the copy engines (:mod:`hcq.load.route`), a thread stores the slots' bytes through it instead. (Reading
into the window itself would be no shorter: no disk reaches it past the page cache, so the CPU stores them there, too.)
"""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from hcq.errors import HashMismatchError, LoadError
from hcq.load import route
from hcq.load.engines import Completion, Engine, open_engine
from hcq.load.files import BLOCK, Output, Piece, Source, cut, refusal
from hcq.memory import Buffer
from hcq.peer import settle
from hcq.signal import Fence, Point

if TYPE_CHECKING:
    from hcq.device import Device

__all__ = ["CHUNK", "DEPTH", "Job", "Progress", "new_hasher", "read_files", "write_file"]

CHUNK = 4 << 20         # bytes a read
DEPTH = 8               # reads under way, a device; as many slots of staging memory again are being copied
_NAP = 1e-3             # seconds to wait for a read while copies are under way too
_PATIENCE = 0.1         # seconds between two looks for a cancelled transfer


@dataclass
class Job:
    """One range of a file, and where it goes."""

    source: Source
    offset: int
    nbytes: int
    buffer: Buffer
    expected: bytes | None = None       # BLAKE3 digest
    name: str = ""                      # for messages: of the tensor, or the file
    hasher: Any = None
    digest: bytes = b""
    window: np.ndarray | None = None    # the CPU's view of the buffer, where it stores the bytes by itself


class Progress:
    """Counts for whoever looks on from another thread."""

    def __init__(self, total: int, report: Callable[[int, int], object] | None = None) -> None:
        self.total, self.done = total, 0
        self.cancelled = threading.Event()
        self._report = report

    def add(self, nbytes: int) -> None:
        self.done += nbytes
        if self._report is not None:
            self._report(self.done, self.total)


_NO_PIECE = Piece(0, 0, 0, 0, 0)


@dataclass
class _Slot:
    device: Device
    staging: np.ndarray
    address: int
    piece: Piece = _NO_PIECE
    job: Job | None = None
    got: int = 0                        # bytes read so far
    reached: int = 0                    # the farthest that a read came
    direct: bool = False                # the read under way is past the page cache
    arrived: bool = False
    point: Point | None = None          # of the copy to its place; None where there is none to be made
    storing: Future[None] | None = None     # through the window, in a thread of its own
    hashing: Future[None] | None = None     # likewise
    to_hash: bool = False               # not yet begun
    into: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint8))     # what the read fills

    @property
    def free(self) -> bool:
        """Nothing looks at its memory any more."""
        return not self.to_hash and (self.hashing is None or self.hashing.done()) and (
            self.storing is None or self.storing.done()) and (self.point is None or self.point.done)


class Lane:
    """One device's part of a transfer: its slots, and its copy engines in turn."""

    def __init__(self, device: Device, slots: int, chunk: int) -> None:
        device._check_open()
        self.device = device
        self._engine = 0
        self.fence: Fence = device._fence()         # the copies come after what was submitted before
        self.staging = device.alloc(slots * chunk, host=True)
        for point in self.staging._storage.ready:
            point.wait()
        view, address = self.staging.view, self.staging.address
        self.slots = [_Slot(device, view[at:at + chunk], address + at) for at in range(0, slots * chunk, chunk)]
        self.free = deque(self.slots)
        self.copying: deque[_Slot] = deque()
        self.reading = 0

    def copy(self, destination: int, source: int, nbytes: int, what: str) -> Point:
        """Submit a copy to the next copy engine, behind the fence but not behind the other engine's."""
        device = self.device
        with device._lock:
            device._check_open()
            timelines = device._timelines["copy"]
            timeline = timelines[self._engine]
            encoder = timeline.encoder
            self._engine = (self._engine + 1) % len(timelines)
            timeline.turn()
            words: list[int] = []
            self.fence = tuple([point for point in self.fence if not point.done])
            for point in self.fence:
                if point.signal is not timeline.signal:
                    encoder.wait(words, point.signal.address, point.value)
            encoder.copy(words, destination, source, nbytes)
            return device._finish(timeline, encoder, words, what)


def _update(hasher: Any, memory: np.ndarray) -> None:
    hasher.update(memory.data)


def _store(window: np.ndarray, memory: np.ndarray) -> None:
    window[:] = memory


def new_hasher() -> Any:
    try:
        import blake3
    except ImportError as error:
        raise LoadError("content hashes need the package blake3: pip install blake3") from error
    return blake3.blake3()


def read_files(jobs: Sequence[Job], progress: Progress, *, chunk: int = CHUNK, depth: int = DEPTH,
               engine: str | None = None, via: str = "auto") -> None:
    """Load everything; returns when it is in device memory. Jobs get their digest where one is expected or asked for.

    :raises LoadError: a file shrank or was refused by the system. :raises HashMismatchError: as it says.
    :raises concurrent.futures.CancelledError: ``progress.cancelled`` was set.
    """
    _choose(jobs, via)
    with ExitStack() as stack:
        lanes: dict[Device, Lane] = {}
        for job in jobs:
            device = job.buffer.device
            if device not in lanes:
                mine = sum(other.nbytes for other in jobs if other.buffer.device is device) + 2 * BLOCK
                size = min(chunk, -(-mine // BLOCK) * BLOCK)
                lanes[device] = lane = Lane(device, min(2 * depth, max(2, -(-mine // size))), size)
                stack.callback(lane.staging.free)
            if job.expected is not None:
                job.hasher = job.hasher or new_hasher()
        work = open_engine(depth * len(lanes), engine)
        stack.callback(work.close)
        through = [device for device in lanes if any(job.window is not None for job in jobs
                                                     if job.buffer.device is device)]
        for device in through:              # what its caches hold of the memory goes there before the CPU writes
            with device._lock:
                departed = settle(device, "departure of a load")
            departed.wait()
        hashing = stack.enter_context(ThreadPoolExecutor(1, "hcq hash"))
        storing = stack.enter_context(ThreadPoolExecutor(1, "hcq window"))
        _Read(jobs, lanes, work, progress, hashing, storing, depth).run()
        for device in through:
            device.backend.flush_window()   # type: ignore[attr-defined]
            with device._lock:
                arrived = settle(device, "arrival of a load")
            arrived.wait()
    for job in jobs:
        if job.hasher is not None:
            job.digest = job.hasher.digest()
            if job.expected is not None and job.digest != job.expected:
                raise HashMismatchError(
                    f"{job.name or job.source.path}: bytes {job.offset} to {job.offset + job.nbytes} of "
                    f"{job.source.path} have BLAKE3 {job.digest.hex()}, expected was {job.expected.hex()}; the file is "
                    "not the one that was meant, or is damaged")


def _choose(jobs: Sequence[Job], via: str) -> None:
    """Which jobs go through the window."""
    for job in jobs:
        if via == "window" or (via == "auto" and not job.buffer.host and route.prefers_window(job.buffer.device)):
            view = route.window(job.buffer)
            if view is not None:
                job.window = view
            elif via == "window":
                raise LoadError(f"{job.buffer!r} has no window that the CPU could write through; via='staging' or "
                                "'auto' does without")


class _Read:
    """The loop of :func:`read_files`: one thread, which never waits for one thing while another could go on."""

    def __init__(self, jobs: Sequence[Job], lanes: dict[Device, Lane], engine: Engine, progress: Progress,
                 hashing: Executor, storing: Executor, depth: int) -> None:
        self.hashing, self.storing, self.depth = hashing, storing, depth
        self.lanes, self.engine, self.progress = lanes, engine, progress
        self.queues: dict[Device, Iterator[tuple[Job, Piece]]] = {
            device: iter([(job, piece) for job in jobs if job.buffer.device is device
                          for piece in cut(job.offset, job.nbytes, len(lane.slots[0].staging))])
            for device, lane in lanes.items()}
        self.reading: dict[int, _Slot] = {}
        self.completions: deque[Completion] = deque()
        self.tag = 0
        self.to_hash: dict[int, deque[_Slot]] = {id(job): deque() for job in jobs}     # in the file's order

    def run(self) -> None:
        try:
            while True:
                if self.progress.cancelled.is_set():
                    raise CancelledError("the transfer was cancelled")
                for lane in self.lanes.values():
                    self._retire(lane)
                    self._start(lane)
                copying = [lane for lane in self.lanes.values() if lane.copying]
                if self.reading:
                    self.completions.extend(self.engine.wait(_NAP if copying else _PATIENCE))
                    while self.completions:
                        self._arrived(self.completions.popleft())
                elif copying:
                    slot = copying[0].copying[0]
                    if slot.point is not None:
                        slot.point.wait()
                    if slot.storing is not None:
                        slot.storing.result()
                    if slot.hashing is not None:
                        slot.hashing.result()
                else:
                    break
            for device in self.lanes:
                device._check_backend()         # an engine may go on after a fault: then these are not the right bytes
        except BaseException:
            self._drain()
            raise

    def _start(self, lane: Lane) -> None:
        while lane.free and lane.reading < self.depth:
            following = next(self.queues[lane.device], None)
            if following is None:
                return
            slot = lane.free.popleft()
            lane.reading += 1
            slot.job, slot.piece = following
            slot.got, slot.reached, slot.point, slot.arrived = 0, 0, None, False
            slot.storing, slot.hashing, slot.to_hash = None, None, slot.job.hasher is not None
            if slot.to_hash:
                self.to_hash[id(slot.job)].append(slot)
            self._read(slot)

    def _read(self, slot: _Slot) -> None:
        assert slot.job is not None
        self.tag += 1
        self.reading[self.tag] = slot
        slot.into, slot.direct = slot.staging[slot.got:slot.piece.length], slot.job.source.direct
        self.engine.read(self.tag, slot.job.source.fd, slot.piece.offset + slot.got, slot.into)

    def _arrived(self, completion: Completion) -> None:
        slot = self.reading.pop(completion.tag)
        job, piece = slot.job, slot.piece
        assert job is not None
        if completion.result < 0:
            code = -completion.result
            if code in (errno.EINTR, errno.EAGAIN):
                return self._read(slot)
            if code == errno.EINVAL and slot.direct:
                if job.source.direct:
                    job.source.without_direct()
                return self._read(slot)
            raise refusal(LoadError, code, f"{job.source.path}: {piece.length} bytes at offset {piece.offset} cannot "
                                           f"be read: {os.strerror(code)}")
        slot.got += completion.result
        if slot.got < piece.skip + piece.nbytes:
            if slot.got <= slot.reached:
                raise refusal(LoadError, errno.EIO, f"{job.source.path} shrank while it was read: it had "
                              f"{job.source.size} bytes, and ends at {piece.offset + slot.got} now")
            slot.reached = slot.got
            slot.got -= slot.got % BLOCK if job.source.direct else 0        # the rest begins at a whole block
            return self._read(slot)
        lane = self.lanes[slot.device]
        slot.arrived = True
        lane.reading -= 1
        if job.window is None:
            slot.point = lane.copy(job.buffer.address + piece.place, slot.address + piece.skip, piece.nbytes,
                                   f"load of {piece.nbytes} bytes of {job.source.path.name}")
        else:
            slot.storing = self.storing.submit(_store, job.window[piece.place:piece.place + piece.nbytes],
                                               slot.staging[piece.skip:piece.skip + piece.nbytes])
        lane.copying.append(slot)
        if job.hasher is not None:
            self._hash(job)

    def _hash(self, job: Job) -> None:
        """What has arrived, in the file's order."""
        waiting = self.to_hash[id(job)]
        while waiting and waiting[0].arrived:
            slot = waiting.popleft()
            slot.hashing = self.hashing.submit(_update, job.hasher, slot.staging[slot.piece.skip:][:slot.piece.nbytes])
            slot.to_hash = False

    def _retire(self, lane: Lane) -> None:
        for _ in range(len(lane.copying)):
            slot = lane.copying.popleft()
            if slot.free:
                if slot.storing is not None:
                    slot.storing.result()
                lane.free.append(slot)
                self.progress.add(slot.piece.nbytes)
            else:
                lane.copying.append(slot)

    def _drain(self) -> None:
        """Nothing may touch the staging memory any more when it is given back."""
        while self.reading:
            while self.completions:
                self.reading.pop(self.completions.popleft().tag)
            if self.reading:
                self.completions.extend(self.engine.wait(_PATIENCE))


def write_file(buffer: Buffer, output: Output, progress: Progress, *, chunk: int = CHUNK, depth: int = DEPTH,
               engine: str | None = None, hasher: Any = None) -> None:
    """Store a buffer; returns when it is in ``output``, not yet put in place.

    :raises LoadError: the system refused a write: the disk is full, for one.
    """
    pieces = deque(cut(0, buffer.nbytes, chunk))
    with ExitStack() as stack:
        size = max(piece.length for piece in pieces)
        lane = Lane(buffer.device, min(2 * depth, max(2, len(pieces))), size)
        stack.callback(lane.staging.free)
        work = open_engine(depth, engine)
        stack.callback(work.close)
        hashing = stack.enter_context(ThreadPoolExecutor(1, "hcq hash"))
        writing: dict[int, _Slot] = {}
        completions: deque[Completion] = deque()
        tag = 0

        def write(slot: _Slot) -> None:
            nonlocal tag
            tag += 1
            writing[tag] = slot
            slot.direct = output.direct
            length = slot.piece.length if output.direct else slot.piece.nbytes
            slot.into = slot.staging[slot.got:length]
            work.write(tag, output.fd, slot.piece.offset + slot.got, slot.into)

        def arrived(completion: Completion) -> None:
            slot = writing.pop(completion.tag)
            if completion.result < 0 and -completion.result in (errno.EINTR, errno.EAGAIN):
                return write(slot)
            if completion.result == -errno.EINVAL and slot.direct:
                output.without_direct()
                return write(slot)
            if completion.result <= 0:
                raise output.failure(-completion.result or errno.ENOSPC)
            slot.got += completion.result
            if slot.got < slot.piece.nbytes:
                if slot.got <= slot.reached:
                    raise output.failure(errno.ENOSPC)
                slot.reached = slot.got
                slot.got -= slot.got % BLOCK if output.direct else 0
                return write(slot)
            progress.add(slot.piece.nbytes)
            if slot.hashing is not None:
                slot.hashing.result()
            lane.free.append(slot)

        try:
            while pieces or lane.copying or writing:
                if progress.cancelled.is_set():
                    raise CancelledError("the transfer was cancelled")
                while pieces and lane.free:
                    slot = lane.free.popleft()
                    slot.piece, slot.got, slot.reached = pieces.popleft(), 0, 0
                    slot.staging[slot.piece.nbytes:slot.piece.length] = 0        # beyond the end; cut off afterwards
                    slot.point = lane.copy(slot.address, buffer.address + slot.piece.place, slot.piece.nbytes,
                                           f"store of {slot.piece.nbytes} bytes to {output.path.name}")
                    lane.copying.append(slot)
                if lane.copying and not writing:
                    oldest = lane.copying[0].point
                    assert oldest is not None
                    oldest.wait()
                    buffer.device._check_backend()
                while lane.copying and lane.copying[0].point is not None and lane.copying[0].point.done:
                    slot = lane.copying.popleft()       # in order, for the hash
                    slot.hashing = None if hasher is None else hashing.submit(_update, hasher,
                                                                              slot.staging[:slot.piece.nbytes])
                    write(slot)
                if writing:
                    completions.extend(work.wait(_NAP if lane.copying else _PATIENCE))
                    while completions:
                        arrived(completions.popleft())
            buffer.device._check_backend()
        except BaseException:
            while writing:
                while completions:
                    writing.pop(completions.popleft().tag)
                if writing:
                    completions.extend(work.wait(_PATIENCE))
            raise
