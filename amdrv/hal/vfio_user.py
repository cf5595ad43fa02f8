"""The HAL over vfio-user: a card that another process serves on a Unix socket; no root, no kernel driver, no QEMU.

    AMDRV_HAL=vfio-user:/tmp/card.sock              # several cards: sockets apart by commas

A server is ``python -m mock.vfio_user /tmp/card.sock``, or anything that speaks the protocol (QEMU
docs/interop/vfio-user.rst, version 0.1). Registers and doorbells are messages, one for each access; VRAM is memory that
both sides map. Memory for the card is passed as a descriptor: what :meth:`map_dma` is given that has none gets one, at
the same address and with the same bytes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import mmap
import os
import select
import socket
import struct
import tempfile
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from amdrv.errors import CardBusyError, CardLostError, HalError, MappingError, NoCardError
from amdrv.facts import vfio as abi
from amdrv.hal import Existing, PciFunction, Region, Segment
from amdrv.hal.config_space import COMMAND, COMMAND_MASTER, COMMAND_MEMORY, CheckedConfig
from amdrv.hal.host_memory import as_bytes, whole_pages
from amdrv.vfio.iova import IovaAllocator

__all__ = ["VfioUserHal"]

HEADER = struct.Struct("<HHIII")            # message id, command, bytes with the header, flags, error
VERSION, DMA_MAP, DMA_UNMAP, GET_REGION_INFO, GET_IRQ_INFO, SET_IRQS, REGION_READ, REGION_WRITE, RESET = (
    1, 2, 3, 5, 7, 8, 9, 10, 13)
NAMES = {VERSION: "VERSION", DMA_MAP: "DMA_MAP", DMA_UNMAP: "DMA_UNMAP", GET_REGION_INFO: "DEVICE_GET_REGION_INFO",
         GET_IRQ_INFO: "DEVICE_GET_IRQ_INFO", SET_IRQS: "DEVICE_SET_IRQS", REGION_READ: "REGION_READ",
         REGION_WRITE: "REGION_WRITE", RESET: "DEVICE_RESET"}
NO_REPLY, ERROR = 0x10, 0x20
CONFIG = abi.VFIO_PCI_CONFIG_REGION_INDEX
MSI = abi.VFIO_PCI_MSI_IRQ_INDEX
MAX_ANSWER = 1 << 20
TIMEOUT = 10.0              # for an answer, seconds; QEMU's own default is 5
MAP_FIXED = 0x10            # asm-generic/mman-common.h, and the BSDs'
IOVA_RANGES = [(1 << 32, (1 << 44) - 1)]


class _Connection:
    """Messages to one server, one at a time."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._number = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(TIMEOUT)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise NoCardError(f"nobody serves a card on {path}: {error.strerror or error}; start one: "
                              f"python -m mock.vfio_user {path}") from error
        try:
            said = {"capabilities": {"max_msg_fds": 8, "max_data_xfer_size": 1 << 20}}
            self.call(VERSION, struct.pack("<HH", 0, 1) + json.dumps(said).encode() + b"\0")
        except HalError as error:
            self._socket.close()
            if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EBUSY:
                raise CardBusyError(f"{path}: another client has the card") from error
            raise

    def call(self, command: int, body: bytes = b"", fds: Sequence[int] = (), *, answer: bool = True,
             received: list[int] | None = None) -> bytes:
        """Send a message and wait for its answer. :raises CardLostError: the server is gone. :raises HalError: it
        refuses, or says nothing in time."""
        with self._lock:
            self._number = (self._number + 1) & 0xFFFF
            head = HEADER.pack(self._number, command, HEADER.size + len(body), 0 if answer else NO_REPLY, 0)
            try:
                if fds:
                    socket.send_fds(self._socket, [head + body], list(fds))
                else:
                    self._socket.sendall(head + body)
                if not answer:
                    return b""
                found: list[int] = []
                number, got, size, flags, error = HEADER.unpack(self._receive(HEADER.size, found))
                if number != self._number or got != command or not HEADER.size <= size <= MAX_ANSWER:
                    raise HalError(f"{self.path}: {NAMES[command]} was answered with message {number}, command {got}, "
                                   f"{size} bytes: this is no vfio-user server")
                reply = self._receive(size - HEADER.size, found)
            except TimeoutError as error_:
                raise HalError(f"{self.path}: {NAMES[command]} was not answered within {TIMEOUT:g} s") from error_
            except OSError as error_:
                raise CardLostError(f"{self.path}: the process that serves the card is gone "
                                    f"({error_.strerror or error_})") from error_
            for fd in found[len(found) if received is not None else 0:]:
                os.close(fd)
        if received is not None:
            received += found
        if flags & ERROR:
            cause = OSError(error, os.strerror(error))
            raise HalError(f"{self.path}: {NAMES[command]} was refused: {cause.strerror}") from cause
        return reply

    def _receive(self, size: int, fds: list[int]) -> bytes:
        data = b""
        while len(data) < size:
            piece, found, _, _ = socket.recv_fds(self._socket, size - len(data), 8)
            fds += found
            if not piece:
                raise ConnectionResetError(errno.ECONNRESET, "it closed the connection")
            data += piece
        return data

    def close(self) -> None:
        self._socket.close()


class _RegionInfo(NamedTuple):
    """The answer to DEVICE_GET_REGION_INFO; ``areas``: (offset, bytes) of what may be mapped."""

    size: int
    file_offset: int
    areas: list[tuple[int, int]]

    @staticmethod
    def parse(answer: bytes) -> _RegionInfo:
        """:raises struct.error: too short."""
        _, flags, _, at, size, offset = struct.unpack_from("<4I2Q", answer)
        if not size or not flags & abi.VFIO_REGION_INFO_FLAG_MMAP:
            return _RegionInfo(size, offset, [])
        areas, seen = [(0, size)], set[int]()
        while flags & abi.VFIO_REGION_INFO_FLAG_CAPS and at and at not in seen:
            seen.add(at)
            kind, _, following = struct.unpack_from("<HHI", answer, at)
            if kind == abi.VFIO_REGION_INFO_CAP_SPARSE_MMAP:
                count, = struct.unpack_from("<I", answer, at + 8)
                areas = [struct.unpack_from("<QQ", answer, at + 16 + 16 * each) for each in range(min(count, 256))]
            at = following
        return _RegionInfo(size, offset, areas)


class _Area(NamedTuple):
    """A part of a region that is memory of both sides."""

    start: int
    memory: mmap.mmap
    bytes: np.ndarray
    file_offset: int


class _Region:
    """:class:`amdrv.hal.Region`: what the server shares (VRAM) as memory, all else a message an access."""

    def __init__(self, device: _Device, index: int, size: int, areas: Sequence[_Area], fd: int) -> None:
        self.device, self.index, self.size, self.areas, self.fd = device, index, size, list(areas), fd

    def read32(self, offset: int) -> int:
        return self._read(offset, 4)

    def write32(self, offset: int, value: int) -> None:
        self._write(offset, 4, value & 0xFFFFFFFF)

    def read64(self, offset: int) -> int:
        return self._read(offset, 8)

    def write64(self, offset: int, value: int) -> None:
        self._write(offset, 8, value & 0xFFFFFFFFFFFFFFFF)

    def view(self, offset: int, size: int, dtype: npt.DTypeLike = np.uint8) -> np.ndarray:
        if not self.areas:
            raise HalError(f"BAR{self.index} is not memory: registers and doorbells have no view, use read32/write32")
        if offset < 0 or size < 0 or offset + size > self.size:
            raise HalError(f"view of {size:#x} bytes at {offset:#x} does not fit BAR{self.index} of {self.size:#x} "
                           "bytes")
        self.device.require_open()
        found = self._shared(offset, size)
        if found is None:
            raise HalError(f"view of {size:#x} bytes at {offset:#x} does not fit what BAR{self.index} shares: "
                           + ", ".join(f"{len(area.bytes):#x} bytes at {area.start:#x}" for area in self.areas))
        return found.view(dtype)

    def _shared(self, offset: int, size: int) -> np.ndarray | None:
        """The bytes, where one area has them all."""
        for area in self.areas:
            at = offset - area.start
            if at >= 0 and at + size <= len(area.bytes):
                return area.bytes[at:at + size]
        return None

    def _check(self, offset: int, width: int) -> None:
        if offset % width or not 0 <= offset <= self.size - width:
            raise HalError(f"BAR{self.index} access at {offset:#x} of {width} bytes: "
                           f"must be aligned and below {self.size:#x}")
        self.device.require_open()

    def _read(self, offset: int, width: int) -> int:
        self._check(offset, width)
        if (shared := self._shared(offset, width)) is not None:
            return int(shared.view(f"u{width}")[0])
        return self.device.read(self.index, offset, width)

    def _write(self, offset: int, width: int, value: int) -> None:
        self._check(offset, width)
        if (shared := self._shared(offset, width)) is not None:
            shared.view(f"u{width}")[0] = value
        else:
            self.device.write(self.index, offset, width, value)


class _Memory:
    """A descriptor of memory, closed when nothing refers to it any more."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.inode = os.fstat(fd).st_ino
        weakref.finalize(self, os.close, fd)


class _Piece(NamedTuple):
    """A part of such memory."""

    memory: _Memory
    offset: int
    size: int


class _Mapping:
    """Memory that the card reaches at one I/O virtual address."""

    def __init__(self, device: _Device, view: np.ndarray | None, size: int, pieces: Sequence[_Piece],
                 owner: object) -> None:
        self.view: Any = view
        self.size, self.pieces = size, list(pieces)
        self._device, self._owner = device, owner
        iova = at = device.iovas.allocate(size)
        self._parts: list[tuple[int, int]] = []
        self.replaced: int | None = None        # where memory that existed before was made shared for this
        try:
            for piece in pieces:
                device.connection.call(DMA_MAP, struct.pack(
                    "<IIQQQ", 32, abi.VFIO_DMA_MAP_FLAG_READ | abi.VFIO_DMA_MAP_FLAG_WRITE, piece.offset, at,
                    piece.size), [piece.memory.fd])
                self._parts.append((at, piece.size))
                at += piece.size
        except BaseException:
            self._unmap()
            device.iovas.free(iova)
            raise
        self._iova: int | None = iova
        self.segments: list[Segment] = [(iova, size)]
        device.mappings.add(self)

    def _unmap(self) -> None:
        for start, size in self._parts:
            with contextlib.suppress(HalError):         # a server that is gone reaches nothing any more
                self._device.connection.call(DMA_UNMAP, struct.pack("<IIQQ", 24, 0, start, size))
        self._parts.clear()

    def close(self) -> None:
        """Take the memory away from the card. Idempotent."""
        if self._iova is None:
            return
        self._unmap()
        self._device.iovas.free(self._iova)
        with _replacing:
            _shared_mappings.discard(self)
            if self.replaced is not None:
                _as_private(self.replaced, self.pieces)
        self._iova, self._owner, self.view = None, None, None
        self.pieces.clear()
        self._device.mappings.discard(self)

    def __enter__(self) -> _Mapping:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Interrupt:
    """:class:`amdrv.hal.Interrupt`: an eventfd, or a pipe where there is none; the server adds 64-bit counts."""

    def __init__(self, device: _Device) -> None:
        self._device = device
        if hasattr(os, "eventfd"):
            self._read = self._write = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        else:
            self._read, self._write = os.pipe()
            os.set_blocking(self._read, False)
        device.set_irqs([self._write])

    def fileno(self) -> int:
        return self._read

    def wait(self, timeout: float | None = None) -> int:
        if not select.select([self._read], [], [], timeout)[0]:
            return 0
        try:
            data = os.read(self._read, 8 if self._read == self._write else 4096)
        except BlockingIOError:
            return 0
        return sum(struct.unpack(f"={len(data) // 8}Q", data))

    def renew(self) -> None:
        self._device.set_irqs([self._write])

    def close(self) -> None:
        if self._read < 0:
            return
        with contextlib.suppress(HalError):
            self._device.set_irqs([])
        for fd in {self._read, self._write}:
            os.close(fd)
        self._read = self._write = -1


class _Device:
    """:class:`amdrv.hal.PciDevice` over one server."""

    def __init__(self, hal: VfioUserHal, path: str) -> None:
        self._hal, self.path = hal, path
        self.page_size = mmap.PAGESIZE
        self.connection = _Connection(path)
        try:
            self.config = CheckedConfig(lambda offset, width: self.read(CONFIG, offset, width),
                                        lambda offset, width, value: self.write(CONFIG, offset, width, value))
            self.function = _describe(self, path)
            self.config.update(COMMAND, 2, set=COMMAND_MEMORY, clear=COMMAND_MASTER)
            self._sizes = {index: size for index in range(6) if (size := self._region_info(index).size)}
        except BaseException:
            self.connection.close()
            raise
        self.iovas = IovaAllocator(IOVA_RANGES)
        self.mappings: set[_Mapping] = set()
        self._regions: dict[int, _Region] = {}
        self._interrupt: _Interrupt | None = None
        self._open = True

    def require_open(self) -> None:
        if not self._open:
            raise HalError(f"{self.function.address} is closed; open it again through the HAL")

    def read(self, region: int, offset: int, width: int) -> int:
        answer = self.connection.call(REGION_READ, struct.pack("<QII", offset, region, width))
        return int.from_bytes(answer[16:16 + width], "little")

    def write(self, region: int, offset: int, width: int, value: int) -> None:
        """To a BAR, posted: it is not answered, and arrives before whatever is sent after it. To configuration space,
        done when this returns."""
        self.connection.call(REGION_WRITE, struct.pack("<QII", offset, region, width) + value.to_bytes(width, "little"),
                             answer=region == CONFIG)

    def _region_info(self, index: int, received: list[int] | None = None) -> _RegionInfo:
        request = struct.pack("<4I2Q", 256, 0, index, 0, 0, 0)
        answer = self.connection.call(GET_REGION_INFO, request, received=received)
        try:
            info = _RegionInfo.parse(answer)
        except struct.error as error:
            raise HalError(f"{self.path}: region {index} is described in {len(answer)} bytes, which end too early: "
                           "this server does not speak vfio-user 0.1") from error
        for start, size in info.areas:
            if start % self.page_size or size % self.page_size or not 0 < size <= info.size - start:
                raise HalError(f"{self.path}: region {index} of {info.size:#x} bytes offers to map {size:#x} bytes at "
                               f"{start:#x}, which it has not or which are no whole pages")
        return info

    def bar_sizes(self) -> dict[int, int]:
        return dict(self._sizes)

    def bar(self, index: int) -> Region:
        self.require_open()
        if index not in self._sizes:
            raise MappingError(f"{self.function.address} has no BAR{index}; it has {sorted(self._sizes)}")
        if index not in self._regions:
            fds: list[int] = []
            info = self._region_info(index, fds)
            fd = fds.pop(0) if info.areas and fds else -1
            for extra in fds:
                os.close(extra)
            areas = []
            try:
                for start, length in info.areas if fd >= 0 else ():
                    memory = mmap.mmap(fd, length, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE,
                                       offset=info.file_offset + start)
                    areas.append(_Area(start, memory, np.frombuffer(memory, np.uint8), info.file_offset + start))
            except (OSError, ValueError) as error:
                os.close(fd)
                raise MappingError(f"{self.path}: the memory of region {index} cannot be mapped: {error}") from error
            self._regions[index] = _Region(self, index, info.size, areas, fd)
        return self._regions[index]

    def alloc_dma(self, size: int, *, contiguous: bool = False) -> _Mapping:
        self.require_open()
        size = whole_pages(size, self.page_size)
        shared = _Memory(_unnamed(size))
        memory = mmap.mmap(shared.fd, size)
        mapping = _Mapping(self, np.frombuffer(memory, np.uint8), size, [_Piece(shared, 0, size)], memory)
        with _replacing:
            _shared_mappings.add(mapping)
        return mapping

    def map_dma(self, memory: Existing, size: int) -> _Mapping:
        self.require_open()
        view = as_bytes(memory, size, self.page_size, present=False)
        with _replacing:
            known = {piece.memory.inode: piece.memory for mapping in _shared_mappings for piece in mapping.pieces}
            mapping = _Mapping(self, view, size, _as_shared(int(view.ctypes.data), size, known), memory)
            mapping.replaced = int(view.ctypes.data)
            _shared_mappings.add(mapping)
        return mapping

    def map_peer(self, region: Region) -> _Mapping:
        """Another served card's VRAM: its server's descriptor goes to ours."""
        self.require_open()
        if not isinstance(region, _Region) or not region.areas:
            raise MappingError("map_peer takes BAR 0 of another card of the same HAL")
        if len(region.areas) != 1 or region.areas[0].start:
            raise MappingError("the peer shares its BAR 0 in pieces with holes between; copy through host memory")
        area, = region.areas
        size = len(area.bytes)
        return _Mapping(self, None, size, [_Piece(_Memory(os.dup(region.fd)), area.file_offset, size)], region)

    def set_irqs(self, fds: Sequence[int]) -> None:
        flags = abi.VFIO_IRQ_SET_ACTION_TRIGGER | (abi.VFIO_IRQ_SET_DATA_EVENTFD if fds else abi.VFIO_IRQ_SET_DATA_NONE)
        self.connection.call(SET_IRQS, struct.pack("<5I", 20, flags, MSI, 0, len(fds)), fds)

    def interrupt(self) -> _Interrupt | None:
        self.require_open()
        if self._interrupt is None:
            answer = self.connection.call(GET_IRQ_INFO, struct.pack("<4I", 16, 0, MSI, 0))
            if not struct.unpack_from("<4I", answer)[3]:
                return None
            self._interrupt = _Interrupt(self)
        return self._interrupt

    def fence(self) -> None:
        """A read's answer comes after all that was sent before it."""
        self.read(CONFIG, 0, 2)

    def reset(self) -> None:
        self.require_open()
        self.connection.call(RESET)
        self.config.update(COMMAND, 2, set=COMMAND_MEMORY, clear=COMMAND_MASTER)

    def close(self) -> None:
        """Stop the card's DMA, unmap everything, and leave the server. Idempotent."""
        if not self._open:
            return
        with contextlib.suppress(HalError):
            self.config.update(COMMAND, 2, clear=COMMAND_MASTER)
        if self._interrupt is not None:
            self._interrupt.close()
        for mapping in list(self.mappings):
            mapping.close()
        self._open = False
        for region in self._regions.values():
            if region.fd >= 0:
                os.close(region.fd)
        self._regions.clear()
        self.connection.close()
        self._hal.release(self.path)

    def __enter__(self) -> _Device:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class VfioUserHal:
    """:class:`amdrv.hal.Hal` over vfio-user servers. :param sockets: their paths, one card each."""

    name = "vfio-user"

    def __init__(self, sockets: Sequence[str]) -> None:
        if not [path for path in sockets if path]:
            raise HalError("AMDRV_HAL=vfio-user needs a socket: AMDRV_HAL=vfio-user:/tmp/card.sock; a server is "
                           "python -m mock.vfio_user /tmp/card.sock")
        self._sockets = {f"vfio-user:{path}": path for path in sockets if path}
        self._held: dict[str, _Device] = {}
        self._seen: dict[str, PciFunction] = {}
        self._lock = threading.Lock()

    @property
    def firmware(self) -> Sequence[Path]:
        """The mock's own images; AMDRV_FIRMWARE names others."""
        from amdrv.hal.mock import synthetic_firmware
        return synthetic_firmware()

    def functions(self, vendor: int | None = None) -> list[PciFunction]:
        """A card that is in use is described as it was when it was opened."""
        found = []
        for address, path in self._sockets.items():
            held = self._held.get(path)
            if held is not None:
                function = held.function
            else:
                connection = _Glance(path)
                try:
                    function = _describe(connection, path)
                finally:
                    connection.close()
            if vendor in (None, function.vendor):
                found.append(function)
            assert function.address == address
        return found

    def open(self, address: str, *, dma_bits: int = 44) -> _Device:
        path = self._sockets.get(address)
        if path is None:
            raise NoCardError(f"no card at {address!r}; there are {', '.join(self._sockets)}")
        with self._lock:
            if path in self._held:
                raise CardBusyError(f"{address} is already open in this process; close the other handle first")
            device = self._held[path] = _Device(self, path)
        return device

    def release(self, path: str) -> None:
        with self._lock:
            self._held.pop(path, None)


class _Glance:
    """A short connection, for a look at configuration space."""

    def __init__(self, path: str) -> None:
        self._connection = _Connection(path)

    def read(self, region: int, offset: int, width: int) -> int:
        answer = self._connection.call(REGION_READ, struct.pack("<QII", offset, region, width))
        return int.from_bytes(answer[16:16 + width], "little")

    def close(self) -> None:
        self._connection.close()


def _describe(device: _Device | _Glance, path: str) -> PciFunction:
    def config(offset: int, width: int) -> int:
        return device.read(CONFIG, offset, width)
    return PciFunction(f"vfio-user:{path}", vendor=config(0, 2), device=config(2, 2), class_code=config(8, 4) >> 8,
                       revision=config(8, 1), subsystem=(config(0x2C, 2), config(0x2E, 2)), driver=None)


def _unnamed(size: int) -> int:
    """A descriptor of memory without a name."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("dma", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile(buffering=0) as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return fd


_shared_mappings: weakref.WeakSet[_Mapping] = weakref.WeakSet()     # of this process's memory
_replacing = threading.Lock()


def _as_shared(address: int, size: int, known: dict[int, _Memory]) -> list[_Piece]:
    """Make memory of this process such that others can map it too: what is private is replaced, at the same address and
    with the same bytes; what a mapping of ours has replaced before stays as it is.

    :raises MappingError: memory that others share already, which would part from them; or none, or read-only.
    """
    pieces, replace = [], []
    for start, end, mode, offset, inode in _areas(address, address + size):
        if mode[3] == "s":
            memory = known.get(inode)
            if memory is None and not _is_ours(inode, start, end):
                raise MappingError(f"memory at {start:#x} is shared with others already; vfio-user would part it from "
                                   "them. Use alloc_dma, or memory of this process only")
            if memory is not None:
                pieces.append(_Piece(memory, offset, end - start))
                continue
        if "w" not in mode:
            raise MappingError(f"memory at {start:#x} may not be written ({mode}); vfio-user can share only what may")
        fresh = _Memory(_unnamed(end - start))
        pieces.append(_Piece(fresh, 0, end - start))
        replace.append((start, end, fresh))
    if sum(piece.size for piece in pieces) != size:
        raise MappingError(f"not all of {size:#x} bytes at {address:#x} are memory of this process")
    for start, end, fresh in replace:
        _replace(start, end - start, fresh.fd)
    return pieces


def _as_private(address: int, pieces: Sequence[_Piece]) -> None:
    """What :func:`_as_shared` made shared is this process's own again, where no other mapping needs it: the same bytes,
    and a child after a fork does not write into its parent's."""
    for piece in pieces:
        needed = any(other.memory is piece.memory and other.offset < piece.offset + piece.size
                     and other.offset + other.size > piece.offset
                     for mapping in _shared_mappings for other in mapping.pieces)
        here = _areas(address, address + piece.size)
        if not needed and here == [(address, address + piece.size, "rw-s", piece.offset, piece.memory.inode)]:
            _map_at(address, piece.size, mmap.MAP_PRIVATE, piece.memory.fd, piece.offset)
        address += piece.size


def _is_ours(inode: int, start: int, end: int) -> bool:
    """Shared memory that an earlier mapping of ours left behind: nobody else has it."""
    return any(inode == each and at <= start and to >= end
               for at, to, _, _, each in _areas(start, end, named="/memfd:dma"))


def _areas(start: int, end: int, *, named: str = "") -> list[tuple[int, int, str, int, int]]:
    """(start, end, permissions, offset in its file, inode) of this process's mappings, cut to a range."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split(None, 5)
        first, last = (int(text, 16) for text in fields[0].split("-"))
        if first < end and last > start and (not named or (len(fields) > 5 and fields[5].startswith(named))):
            low, high = max(first, start), min(last, end)
            found.append((low, high, fields[1], int(fields[2], 16) + low - first, int(fields[4])))
    return found


def _replace(address: int, size: int, fd: int) -> None:
    """Put a descriptor's memory where other memory is, with the same bytes. :raises MappingError:"""
    os.pwrite(fd, (ctypes.c_char * size).from_address(address), 0)
    _map_at(address, size, mmap.MAP_SHARED, fd, 0)


def _map_at(address: int, size: int, flags: int, fd: int, offset: int) -> None:
    libc_mmap = ctypes.CDLL(None, use_errno=True).mmap
    libc_mmap.restype = ctypes.c_void_p
    libc_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
    if libc_mmap(address, size, mmap.PROT_READ | mmap.PROT_WRITE, flags | MAP_FIXED, fd, offset) != address:
        raise MappingError(f"memory at {address:#x} cannot be replaced: {os.strerror(ctypes.get_errno())}")
