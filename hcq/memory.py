"""Device memory: buffers and views of them, the cache of freed memory, and rings of host memory.

Freed memory is kept by size class and handed out again. The engines may not be done with it then, so each piece
carries a *fence*, the work that was submitted when it was freed. Work that follows in the device's own order is
behind the fence anyway; low-level queues wait for it; host memory is only given out when the fence has passed.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hcq.backend import Memory
from hcq.errors import BufferError, GraphError, UseAfterFreeError
from hcq.signal import Fence, Point

if TYPE_CHECKING:
    from hcq.device import Device

__all__ = ["Buffer", "HostRing", "Pool", "RegisteredStorage", "Storage", "size_class", "span"]

_SMALLEST = 4096
_SIZES = 4096               # sizes whose class is remembered


def size_class(nbytes: int) -> int:
    """The bytes really allocated for ``nbytes``: four classes a doubling, at most 16 MiB apart.

    >>> [size_class(n) for n in (1, 4097, 5121, 100_000)]
    [4096, 8192, 8192, 114688]
    """
    if nbytes <= _SMALLEST:
        return _SMALLEST
    step = min(max(1 << (nbytes - 1).bit_length() - 3, _SMALLEST), 16 << 20)
    return nbytes + step - 1 & -step


class Storage:
    """One allocation. Views share it; it goes back to the pool when the last is gone, or by ``release``."""

    __slots__ = ("host", "memory", "pool", "ready")

    def __init__(self, pool: Pool, memory: Memory, ready: Fence) -> None:
        self.pool = pool
        self.memory: Memory | None = memory
        self.host = memory.host
        self.ready = ready              # of the memory's earlier life; () when it has passed

    def check(self) -> Memory:
        """The memory. :raises UseAfterFreeError: when it was given back."""
        if self.memory is None:
            at = self.pool.freed_at.get(id(self))
            raise UseAfterFreeError("the buffer was freed" + (f" at {at}" if at else "") +
                                    "; its memory may be someone else's by now")
        return self.memory

    @property
    def address(self) -> int:
        return self.check().address

    def release(self) -> None:
        if self.memory is not None:
            memory, self.memory = self.memory, None
            self.pool.epoch = object()
            if self.pool.device.debug:
                from hcq.debug import where
                self.pool.freed_at[id(self)] = where()
            self.pool.dropped.append(memory)

    def __del__(self) -> None:
        memory = getattr(self, "memory", None)
        if memory is not None:
            self.pool.dropped.append(memory)


class RegisteredStorage(Storage):
    """Memory of the caller's (``dev.register``). It is not cached: the array is let go of when the engines are done."""

    __slots__ = ("array",)

    def __init__(self, pool: Pool, memory: Memory, array: np.ndarray) -> None:
        super().__init__(pool, memory, ())
        self.array: np.ndarray | None = array

    def release(self) -> None:
        """Wait for the work submitted so far, then give the array back. :raises DeviceTimeout: it does not end."""
        self.leave()
        if not self.pool.closed:
            self.pool.let_go(wait=True)

    def leave(self) -> None:
        if self.memory is not None:
            memory, self.memory = self.memory, None
            array, self.array = self.array, None
            self.pool.epoch = object()
            self.pool.registered.append((memory, array))

    def __del__(self) -> None:
        if getattr(self, "memory", None) is not None:
            self.leave()                # not here: a finalizer may run anywhere


def span(array: np.ndarray) -> int:
    """Bytes from an array's lowest to its highest, gaps included."""
    return array.itemsize + sum(abs(step) * (count - 1) for step, count in zip(array.strides, array.shape, strict=True))


class Pool:
    """Allocations of one device, and the freed ones by size class."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._free: dict[tuple[bool, int], list[tuple[Memory, Fence]]] = {}
        self.dropped: deque[Memory] = deque()       # appended by __del__, from anywhere
        self.freed_at: dict[int, str] = {}          # in the debug mode: by id of the storage, the line that did it
        self.epoch = object()                       # another one when memory was given back while it had names
        self.registered: deque[tuple[Memory, np.ndarray | None]] = deque()      # likewise; arrays live till then
        self._leaving: deque[tuple[Fence, Memory, np.ndarray | None]] = deque()
        self.closed = False
        self._classes: dict[int, int] = {}          # bytes asked for -> bytes given
        self.cached_bytes = 0

    def let_go(self, *, wait: bool = False) -> None:
        """Give registered arrays back whose buffers are gone and that the engines are done with."""
        device = self.device
        with device._lock:
            while self.registered:
                self._leaving.append((device._fence(), *self.registered.popleft()))
            while self._leaving:
                fence, memory, _array = self._leaving[0]
                if wait:
                    for point in fence:
                        point.settle()
                elif not all(point.done for point in fence):
                    break
                self._leaving.popleft()
                device.backend.free(memory)

    def alloc(self, nbytes: int, *, host: bool = False) -> Storage:
        """Memory of at least ``nbytes``; from the cache, or from the backend.

        :raises MemoryError: the backend's own, after everything cached was given back.
        """
        device = self.device
        with device._lock:
            if self.dropped:
                self._collect()
            if self.registered or self._leaving:
                self.let_go()
            size = self._classes.get(nbytes)
            if size is None:
                if len(self._classes) >= _SIZES:
                    self._classes.clear()
                size = self._classes[nbytes] = size_class(nbytes)
            free = self._free.get((host, size))
            if free:
                memory, fence = free[-1]
                passed = not fence or all([point.done for point in fence])
                if passed or not host:
                    free.pop()
                    self.cached_bytes -= size
                    if device._debug is not None:
                        device._debug.forget(memory.address)
                    return Storage(self, memory, () if passed else fence)
            try:
                memory = device.backend.alloc(size, host=host)
            except MemoryError:
                if not self.cached_bytes:
                    raise
                self.trim()
                memory = device.backend.alloc(size, host=host)
            return Storage(self, memory, ())

    def _collect(self) -> None:
        fence, dropped, free = self.device._fence(), self.dropped, self._free
        while dropped:
            memory = dropped.popleft()
            key = memory.host, memory.nbytes
            if key not in free:
                free[key] = []
            free[key].append((memory, fence))
            self.cached_bytes += key[1]

    def trim(self) -> None:
        """Give all cached memory back to the backend, when the engines are done with it."""
        with self.device._lock:
            self._collect()
            self.let_go(wait=True)
            entries = [entry for free in self._free.values() for entry in free]
            self._free.clear()
            self.cached_bytes = 0
            for memory, fence in entries:
                for point in fence:
                    point.settle()
                self.device.backend.free(memory)

    def close(self) -> None:
        """Forget the cache without waiting; the backend is about to be closed."""
        self.closed = True
        self._free.clear()
        self.dropped.clear()
        self.registered.clear()
        self._leaving.clear()
        self.cached_bytes = 0


class HostRing:
    """Host memory given out in order and taken back in order, as the submissions that read it complete."""

    def __init__(self, device: Device, nbytes: int) -> None:
        self.device = device
        self._storage = device._pool.alloc(nbytes, host=True)
        memory = self._storage.memory
        assert memory is not None and memory.view is not None
        self.address = memory.address
        self.nbytes = nbytes
        self.array = memory.view[:nbytes]
        self.bytes = self.array.data.cast("B")
        self._head = 0                              # both count up for ever; the place is modulo nbytes
        self._tail = 0
        self._retired = 0                           # everything before it belongs to a point in _pending
        self._pending: deque[tuple[int, Point]] = deque()

    def take(self, nbytes: int, align: int = 64) -> int:
        """Offset of ``nbytes`` in one piece; waits for the oldest reader while there is no room.

        The caller holds the device's lock from here until ``retire``.
        """
        if nbytes > self.nbytes:
            raise BufferError(f"{nbytes} bytes do not fit a ring of {self.nbytes}")
        head = self._head + align - 1 & -align
        if head % self.nbytes + nbytes > self.nbytes:
            head += self.nbytes - head % self.nbytes
        pending = self._pending
        while head + nbytes - self._tail > self.nbytes:
            if not pending:
                if self._retired == self._head:     # empty: the room is only split by the end of the ring
                    self._tail = self._retired = head
                    break
                raise BufferError(f"one submission needs more than a ring of {self.nbytes} bytes")
            end, point = pending[0]
            point.settle()
            pending.popleft()
            self._tail = end
        self._head = head + nbytes
        return head % self.nbytes

    def retire(self, point: Point) -> None:
        """Everything taken since the last call may be used again after ``point``."""
        if self._retired != self._head:
            self._retired = self._head
            self._pending.append((self._head, point))

    def cancel(self) -> None:
        """Nothing taken since the last ``retire`` was submitted."""
        self._head = self._retired


class Buffer:
    """Bytes of device memory, or a part of them: ``buf[a:b]`` is a view. Made by ``dev.alloc(nbytes)``.

    Reading and writing through ``copyin``, ``copyout``, ``copy_from``, ``fill`` and kernel launches happens in the
    order of the calls, whichever engine does it. Contents are undefined until written.
    """

    # _where: the address, as it was found in the pool's _epoch; absent before (hcq.order)
    __slots__ = ("_epoch", "_offset", "_storage", "_where", "device", "nbytes")

    _epoch: object
    _where: int

    def __init__(self, device: Device, storage: Storage, offset: int, nbytes: int) -> None:
        self.device = device
        self._storage = storage
        self._offset = offset
        self.nbytes = nbytes

    @property
    def address(self) -> int:
        """GPU virtual address. :raises UseAfterFreeError: after ``free``."""
        return self._storage.address + self._offset

    @property
    def host(self) -> bool:
        """Whether the memory is the host's."""
        return self._storage.host

    @property
    def view(self) -> np.ndarray:
        """The live bytes of a host buffer (uint8[nbytes]). The caller waits for the engines that touch them.

        :raises BufferError: the memory is the card's.
        """
        if not self.host:
            raise BufferError("the CPU has no window on this buffer; use copyin and copyout, "
                              "or dev.alloc(nbytes, host=True)")
        self.device._check_open()
        memory = self._storage.check()
        assert memory.view is not None
        return memory.view[self._offset:self._offset + self.nbytes]

    def __len__(self) -> int:
        return self.nbytes

    def __getitem__(self, part: slice) -> Buffer:
        """A view of bytes ``part``. It shares the memory and keeps it alive.

        :raises BufferError: a step, an empty range, or one that leaves the buffer.
        """
        if not isinstance(part, slice):
            raise BufferError(f"a buffer is sliced, buf[a:b], not indexed by {part!r}")
        if part.step not in (None, 1):
            raise BufferError(f"a view has no step; {part.step} was asked for")
        start, stop = ((default if value is None else value + self.nbytes if value < 0 else value)
                       for value, default in ((part.start, 0), (part.stop, self.nbytes)))
        if not 0 <= start < stop <= self.nbytes:
            raise BufferError(f"bytes {start} to {stop} are no part of a buffer of {self.nbytes} bytes")
        self._storage.check()
        return Buffer(self.device, self._storage, self._offset + start, stop - start)

    def copyin(self, array: npt.ArrayLike) -> Buffer:
        """Write an array's bytes, in C order, to the buffer's beginning. Returns self.

        The array may be changed as soon as this returns. It may be smaller than the buffer.

        :raises BufferError: more bytes than the buffer has, or an array of Python objects.
        """
        source = np.asarray(array)
        self._check_array(source, "copyin")
        self._outside_graph("copyin")
        if self.host and not self.view.flags.writeable:
            raise BufferError("copyin into a registered array that is read-only")
        address = self.address
        if source.nbytes:
            self.device._write(self, address, np.ascontiguousarray(source).reshape(-1).view(np.uint8))
        return self

    def copyout(self, out: np.ndarray | None = None) -> np.ndarray:
        """Wait for all earlier work, then read. Returns ``out``, filled in C order from the buffer's beginning.

        :param out: a writable array of at most ``nbytes``, of any shape, type and layout; by default a new
            uint8[nbytes].
        :raises BufferError: more bytes than the buffer has, or an array that is read-only or of Python objects.
        """
        out = self._target(out)
        self._outside_graph("copyout")
        address = self.address
        if out.nbytes:
            target = out if out.flags.c_contiguous else np.empty(out.shape, out.dtype)
            self.device._read(self, address, target.reshape(-1).view(np.uint8))
            if target is not out:
                out[...] = target
        return out

    def copy_from(self, source: Buffer) -> Buffer:
        """Copy another buffer of the same size into this one, by copy engines. Returns self.

        The buffer may be another device's: then its engines write here, in the order of both devices' work
        (``hcq.copies`` runs several such copies at once).
        """
        if isinstance(source, Buffer) and source.device is not self.device and self.device._recording is None:
            from hcq.peer import copies
            copies([(self, source)])
        else:
            self.device._copy(self, source)
        return self

    def fill(self, value: int) -> Buffer:
        """Fill with a 32-bit pattern; the buffer's place and size are multiples of 4. Returns self."""
        self.device._fill(self, value)
        return self

    def free(self) -> None:
        """Give the memory back now. Any later use, of views too, raises :class:`UseAfterFreeError`."""
        self._storage.release()

    def _check_array(self, array: np.ndarray, what: str) -> None:
        if array.dtype.hasobject:
            raise BufferError(f"{what} moves plain bytes; the array holds Python objects (dtype {array.dtype})")
        if array.nbytes > self.nbytes:
            raise BufferError(f"{what} of {array.nbytes} bytes ({array.dtype}{list(array.shape)}) with a buffer of "
                              f"{self.nbytes}")

    def _target(self, out: np.ndarray | None) -> np.ndarray:
        """What ``copyout`` fills: the caller's array, or a new one."""
        if out is None:
            out = np.empty(self.nbytes, np.uint8)
        elif not isinstance(out, np.ndarray):
            raise BufferError(f"copyout fills a NumPy array, not a {type(out).__name__}")
        self._check_array(out, "copyout")
        if not out.flags.writeable:
            raise BufferError("copyout into an array that is read-only")
        return out

    def _outside_graph(self, what: str) -> None:
        if self.device._recording is not None:
            raise GraphError(f"{what} moves bytes of the host now; a graph records kernels, copy_from and fill")

    def __repr__(self) -> str:
        if self._storage.memory is None:
            return f"Buffer({self.nbytes} bytes, freed)"
        return f"Buffer({self.nbytes} bytes at {self.address:#x} on {self.device.name})"

    def __eq__(self, other: Any) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)
