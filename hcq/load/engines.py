"""Reads and writes of files that go on while the caller does something else: io_uring, or a pool of threads.

io_uring comes by PyPI's ``liburing`` (Linux only). Where it is not installed, or the kernel refuses it (old kernels,
``kernel.io_uring_disabled``, a container's seccomp filter), threads do the same work. ``HCQ_IO=uring`` or
``HCQ_IO=threads`` insists on one of them.

A ring's waiting is done by an eventfd, since the binding keeps the interpreter's lock while it waits itself.
"""

from __future__ import annotations

import errno
import os
import queue
import select
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

import numpy as np

from hcq.errors import LoadError

__all__ = ["Completion", "Engine", "Threads", "Uring", "open_engine"]


class Completion(NamedTuple):
    tag: int
    result: int             # bytes moved, or -errno


class Engine(Protocol):
    name: str

    def read(self, tag: int, fd: int, offset: int, memory: np.ndarray) -> None:
        """Fill ``memory`` (uint8, kept alive by the caller until its completion) from the file."""
    def write(self, tag: int, fd: int, offset: int, memory: np.ndarray) -> None: ...
    def wait(self, timeout: float) -> Sequence[Completion]:
        """What has completed; sleeps until there is something, or ``timeout`` seconds."""
    def close(self) -> None:
        """Nothing may be under way."""


class Uring:
    """One io_uring, used by one thread.

    :raises OSError: the kernel has none, or refuses it. :raises ImportError: the binding is not installed.
    """

    name = "io_uring"

    def __init__(self, depth: int) -> None:
        import liburing
        self._lib: Any = liburing
        self._ring = liburing.Ring()
        liburing.io_uring_queue_init(depth, self._ring)
        self._event = -1
        try:
            self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            liburing.io_uring_register_eventfd(self._ring, self._event)
        except BaseException:
            self.close()
            raise
        self._cqe = liburing.Cqe()
        self._vectors: dict[int, Any] = {}          # what the kernel still looks at
        self._unsubmitted = False

    def read(self, tag: int, fd: int, offset: int, memory: np.ndarray) -> None:
        self._put(self._lib.io_uring_prep_readv, tag, fd, offset, memory)

    def write(self, tag: int, fd: int, offset: int, memory: np.ndarray) -> None:
        self._put(self._lib.io_uring_prep_writev, tag, fd, offset, memory)

    def _put(self, prepare: Any, tag: int, fd: int, offset: int, memory: np.ndarray) -> None:
        lib = self._lib
        entry = lib.io_uring_get_sqe(self._ring)
        if entry is None:                           # full: hand over what there is
            lib.io_uring_submit(self._ring)
            entry = lib.io_uring_get_sqe(self._ring)
        vector = self._vectors[tag] = lib.Iovec([memory.data])
        prepare(entry, fd, vector, offset)
        lib.io_uring_sqe_set_data64(entry, tag)
        self._unsubmitted = True

    def wait(self, timeout: float) -> Sequence[Completion]:
        lib, ring = self._lib, self._ring
        if self._unsubmitted:
            lib.io_uring_submit(ring)
            self._unsubmitted = False
        if not lib.io_uring_cq_ready(ring):
            select.select([self._event], [], [], timeout)
        with suppress(BlockingIOError):
            os.eventfd_read(self._event)
        found = []
        while lib.io_uring_cq_ready(ring):
            lib.io_uring_peek_cqe(ring, self._cqe)
            entry = self._cqe[0]
            try:
                result = entry.res
            except OSError as error:        # the binding's way to say -errno
                result = -(error.errno or errno.EIO)
            found.append(Completion(lib.io_uring_cqe_get_data64(entry), result))
            lib.io_uring_cqe_seen(ring, entry)
            del self._vectors[found[-1].tag]
        return found

    def close(self) -> None:
        self._lib.io_uring_queue_exit(self._ring)
        if self._event >= 0:
            os.close(self._event)


class Threads:
    """The same by ``depth`` threads that sleep in the system call."""

    name = "threads"

    def __init__(self, depth: int) -> None:
        self._work: queue.SimpleQueue[tuple[Any, int, int, int, np.ndarray] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Completion] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._run, name=f"hcq file {n}", daemon=True) for n in range(depth)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while (entry := self._work.get()) is not None:
            call, tag, fd, offset, memory = entry
            try:
                result = call(fd, [memory], offset)
            except OSError as error:
                result = -(error.errno or errno.EIO)
            self._done.put(Completion(tag, result))

    def read(self, tag: int, fd: int, offset: int, memory: np.ndarray) -> None:
        self._work.put((os.preadv, tag, fd, offset, memory))

    def write(self, tag: int, fd: int, offset: int, memory: np.ndarray) -> None:
        self._work.put((os.pwritev, tag, fd, offset, memory))

    def wait(self, timeout: float) -> Sequence[Completion]:
        found = []
        try:
            found.append(self._done.get(timeout=timeout))
            while True:
                found.append(self._done.get_nowait())
        except queue.Empty:
            return found

    def close(self) -> None:
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()


def open_engine(depth: int, name: str | None = None) -> Engine:
    """:param name: "uring", "threads", or by default ``HCQ_IO`` from the environment, else whatever works.

    :raises LoadError: an engine that was insisted on cannot be had, or an unknown name.
    """
    name = name or os.environ.get("HCQ_IO") or "auto"
    if name not in ("auto", "uring", "threads"):
        raise LoadError(f"HCQ_IO={name!r} is not known; use auto, uring or threads")
    if name != "threads":
        try:
            return Uring(depth)
        except (ImportError, AttributeError, OSError) as error:     # AttributeError: no eventfd, so no Linux
            if name == "uring":
                raise LoadError(f"HCQ_IO=uring, but io_uring cannot be had here: {error}; HCQ_IO=threads does without "
                                "(pip install liburing; sysctl kernel.io_uring_disabled)") from error
    return Threads(depth)
