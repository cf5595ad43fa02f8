"""A card served over vfio-user: to QEMU (10.1 or newer), or to a driver in another process, without either.

    python -m mock.vfio_user /tmp/card.sock             # then AMDRV_HAL=vfio-user:/tmp/card.sock, or in QEMU
    -device '{"driver":"vfio-user-pci","socket":{"type":"unix","path":"/tmp/card.sock"}}'

The client sees PCI configuration space, BARs (BAR0 as memory that both share, the rest by messages), the VBIOS's ROM
and MSI; its memory reaches the card through descriptors that it passes with DMA_MAP. When a client goes, by whatever
end, the card is reset as vfio-pci resets one, its DMA maps are gone, and it waits for the next. One client at a time;
another is told so.

Protocol: QEMU docs/interop/vfio-user.rst, version 0.1; numbers and structures are those of Linux's vfio.h.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import json
import mmap
import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mock.machine import Machine, parse

if TYPE_CHECKING:
    from mock.board import Board

__all__ = ["Server", "main"]

HEADER = struct.Struct("<HHIII")            # message id, command, bytes with the header, flags, error
REPLY, NO_REPLY, ERROR = 1, 0x10, 0x20
(VERSION, DMA_MAP, DMA_UNMAP, DEVICE_GET_INFO, GET_REGION_INFO, GET_REGION_IO_FDS, GET_IRQ_INFO, SET_IRQS, REGION_READ,
 REGION_WRITE) = range(1, 11)
DEVICE_RESET, REGION_WRITE_MULTI = 13, 15
MAX_MESSAGE = 1 << 21
MAX_TRANSFER = 1 << 20
MAX_FDS = 8
CLOSING_TIMEOUT = 5.0       # seconds for a client that is cut off to leave

# Linux, include/uapi/linux/vfio.h
DEVICE_FLAGS_RESET, DEVICE_FLAGS_PCI = 1, 2
ROM_REGION, CONFIG_REGION, REGIONS = 6, 7, 9
READ, WRITE, MMAP, CAPS = 1, 2, 4, 8
CAP_SPARSE_MMAP = 1
MSI_IRQ, IRQS = 1, 5
IRQ_EVENTFD, IRQ_NORESIZE = 1, 8
DATA_NONE, DATA_EVENTFD, ACTION_MASK, ACTION_TRIGGER = 1, 4, 8, 0x20
DMA_READ_OK, DMA_WRITE_OK, UNMAP_ALL = 1, 2, 2

# PCI Local Bus Specification 3.0, 6.2 and 6.8.1
CAPABILITY_POINTER, CAP_MSI = 0x34, 0x05
MSI_ENABLE, MSI_64BIT, MSI_ADDRESS = 1, 1 << 7, 0xFEE0_0000


class _Gone(Exception):
    """The client closed the connection."""


class Server:
    """Serves the first card of a machine on a Unix socket. :raises OSError: the socket cannot be made."""

    def __init__(self, machine: Machine, path: Path | str) -> None:
        self.machine, self.board, self.path = machine, machine.gpus[0], str(path)
        machine.bus.give_to_client()
        self._memory = self.board.vram.share()
        self._window = self.board.bar_memory(0)         # so that every page has an image to share
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        self._listener.listen(4)
        self._closing, self._free = threading.Event(), threading.Condition()
        self._session: _Session | None = None
        self.sessions = 0
        """How many clients there were."""

    def serve(self) -> None:
        """Take clients until :meth:`close`."""
        with contextlib.suppress(OSError):
            while not self._closing.is_set():
                connection, _ = self._listener.accept()
                session = _Session(self, connection)
                threading.Thread(target=session.run, name="vfio-user client", daemon=True).start()

    def start(self) -> Server:
        """:meth:`serve` on a thread of its own."""
        threading.Thread(target=self.serve, name="vfio-user server", daemon=True).start()
        return self

    def take(self, session: _Session) -> bool:
        """Make a session the one that has the card; False while another has it. One that is just going is waited
        for: whoever closes and opens again must not find himself in the way."""
        with self._free:
            alive = 0
            for _ in range(200):
                if self._session is None:
                    self._session = session
                    self.sessions += 1
                    return True
                alive = 0 if self._session.is_going() else alive + 1
                if alive == 5:          # its last messages may hide that it has gone
                    return False
                self._free.wait(0.05)
            return False

    def release(self, session: _Session) -> None:
        with self._free:
            if self._session is session:
                self._session = None
                self._free.notify_all()

    def close(self) -> None:
        """No further clients; the one that is there is cut off. Idempotent."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        if self._session is not None:
            self._session.cut()
            with self._free:            # its last act is to reset the card, which may be gone soon
                self._free.wait_for(lambda: self._session is None, CLOSING_TIMEOUT)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Session:
    """One client, from its first message to its end."""

    def __init__(self, server: Server, connection: socket.socket) -> None:
        self._server, self._socket = server, connection
        self._board: Board = server.board
        self._maps: dict[int, tuple[int, mmap.mmap]] = {}       # bus address -> (bytes, memory)
        self._eventfds: dict[int, int] = {}                     # MSI vector -> descriptor
        self._holds, self._ended = False, False
        self._remove = self._board.on_msi(self._interrupted)

    def run(self) -> None:
        try:
            while True:
                self._message()
        except (_Gone, OSError, struct.error):
            pass                    # it went, was cut off, or spoke no vfio-user: the same end for all
        finally:
            self._end()

    def is_going(self) -> bool:
        """Has the client closed its end?"""
        try:
            return self._ended or self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def cut(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _end(self) -> None:
        """As vfio-pci when its device is closed: no DMA, no interrupts, a reset."""
        self._ended = True
        self._remove()
        if self._holds:
            for address in list(self._maps):
                self._unmap(address)
            if not self._board.lost:
                self._board.reset()
        for fd in self._eventfds.values():
            os.close(fd)
        self._socket.close()
        self._server.release(self)

    # ---- messages

    def _receive(self, size: int, fds: list[int]) -> bytes:
        data = b""
        while len(data) < size:
            piece, found, _, _ = socket.recv_fds(self._socket, size - len(data), MAX_FDS)
            fds += found
            if not piece:
                raise _Gone
            data += piece
        return data

    def _message(self) -> None:
        fds: list[int] = []
        number, command, size, flags, _ = HEADER.unpack(self._receive(HEADER.size, fds))
        if not HEADER.size <= size <= MAX_MESSAGE:
            raise _Gone
        body = self._receive(size - HEADER.size, fds)
        passed: list[int] = []
        error = 0
        answer = b""
        try:
            answer = self._handle(command, body, fds, passed)
        except OSError as problem:
            error = problem.errno or errno.EIO
        except (struct.error, ValueError):
            error = errno.EINVAL
        finally:
            for fd in fds:          # those that a handler wanted, it took out
                os.close(fd)
        if flags & NO_REPLY:
            return
        head = HEADER.pack(number, command, HEADER.size + len(answer), REPLY | (ERROR if error else 0), error)
        if passed:
            socket.send_fds(self._socket, [head + answer], passed)
        else:
            self._socket.sendall(head + answer)

    def _handle(self, command: int, body: bytes, fds: list[int], passed: list[int]) -> bytes:
        if command == VERSION:
            return self._version(body)
        if not self._holds:
            raise OSError(errno.EPROTO, "the version comes first")
        if command == REGION_READ:
            offset, region, count = struct.unpack_from("<QII", body)
            return body[:16] + self._read(region, offset, count)
        if command == REGION_WRITE:
            offset, region, count = struct.unpack_from("<QII", body)
            self._write(region, offset, body[16:16 + count])
            return body[:16]
        if command == REGION_WRITE_MULTI:
            count, = struct.unpack_from("<Q", body)
            for index in range(count):
                offset, region, size = struct.unpack_from("<QII", body, 8 + 24 * index)
                self._write(region, offset, body[24 + 24 * index:24 + 24 * index + size])
            return body[:8]
        if command == DEVICE_GET_INFO:
            return struct.pack("<4I", 16, DEVICE_FLAGS_RESET | DEVICE_FLAGS_PCI, REGIONS, IRQS)
        if command == GET_REGION_INFO:
            return self._region_info(body, passed)
        if command == GET_IRQ_INFO:
            index = struct.unpack_from("<4I", body)[2]
            if index >= IRQS:
                raise OSError(errno.EINVAL, "no such interrupt")
            return struct.pack("<4I", 16, IRQ_EVENTFD | IRQ_NORESIZE if index == MSI_IRQ else 0, index,
                               int(index == MSI_IRQ))
        if command == SET_IRQS:
            return self._set_irqs(body, fds)
        if command == DMA_MAP:
            return self._map(body, fds)
        if command == DMA_UNMAP:
            _, flags, address, size = struct.unpack_from("<IIQQ", body)
            end = 1 << 64 if flags & UNMAP_ALL else address + size
            touched = {start: start + length for start, (length, _) in self._maps.items()
                       if start < end and start + length > address}
            if any(start < address or last > end for start, last in touched.items()):
                raise OSError(errno.EINVAL, "that would cut a mapping")
            for start in touched:           # all that is within: a client may take back more at once than it gave
                self._unmap(start)
            return body[:24]
        if command == DEVICE_RESET:
            self._board.reset()
            return b""
        raise OSError(errno.EOPNOTSUPP, f"command {command}")

    def _version(self, body: bytes) -> bytes:
        major, minor = struct.unpack_from("<HH", body)
        if major != 0:
            raise OSError(errno.EPROTONOSUPPORT, f"version {major}.{minor}")
        if not self._holds and not self._server.take(self):
            raise OSError(errno.EBUSY, "another client has the card")
        self._holds = True
        said = {"capabilities": {"max_msg_fds": MAX_FDS, "max_data_xfer_size": MAX_TRANSFER, "pgsizes": mmap.PAGESIZE,
                                 "max_dma_maps": 65535, "write_multiple": True}}
        return struct.pack("<HH", 0, min(minor, 1)) + json.dumps(said).encode() + b"\0"

    # ---- regions

    def _region_info(self, body: bytes, passed: list[int]) -> bytes:
        index = struct.unpack_from("<3I", body)[2]
        if index >= REGIONS:
            raise OSError(errno.EINVAL, "no such region")
        size = {CONFIG_REGION: 4096, ROM_REGION: len(self._board.rom)}.get(
            index, self._board.bar_size(index) if index < ROM_REGION else 0)
        flags, capability = (READ if index == ROM_REGION else READ | WRITE) if size else 0, b""
        if index == 0:
            flags |= MMAP
            passed.append(self._server._memory)
            if size > self._board.vram.size:            # the BAR is larger than what is behind it
                flags |= CAPS
                capability = struct.pack("<HHI", CAP_SPARSE_MMAP, 1, 0) + struct.pack("<II", 1, 0) + struct.pack(
                    "<QQ", 0, self._board.vram.size)
        return struct.pack("<4I2Q", 32 + len(capability), flags, index, 32 if capability else 0, size, 0) + capability

    def _read(self, region: int, offset: int, count: int) -> bytes:
        if not 0 < count <= MAX_TRANSFER:
            raise OSError(errno.EINVAL, "length")
        if region == ROM_REGION:
            return self._board.rom[offset:offset + count].ljust(count, b"\xff")
        data = b""
        for at, width in _accesses(region, offset, count):
            value = self._board.read_config(at, width) if region == CONFIG_REGION else self._board.read_bar(
                region, at, width)
            data += value.to_bytes(width, "little")
        return data

    def _write(self, region: int, offset: int, data: bytes) -> None:
        if region == ROM_REGION:
            raise OSError(errno.EPERM, "the ROM is read only")
        done = 0
        self._board.fence()             # messages come in order, and what was stored before them is in shared memory
        for at, width in _accesses(region, offset, len(data)):
            value = int.from_bytes(data[done:done + width], "little")
            if region == CONFIG_REGION:
                self._board.write_config(at, width, value)
            else:
                self._board.write_bar(region, at, width, value)
            done += width

    # ---- memory of the client

    def _map(self, body: bytes, fds: list[int]) -> bytes:
        _, flags, offset, address, size = struct.unpack_from("<IIQQQ", body)
        if not fds:
            return b""                  # not ours to map (a ROM, a device's registers): DMA there is a bus error
        if address in self._maps:
            raise OSError(errno.EEXIST, "mapped already")
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if flags & DMA_WRITE_OK else 0)
        memory = mmap.mmap(fds[0], size, mmap.MAP_SHARED, protection, offset=offset)
        if not flags & DMA_WRITE_OK:
            return b""
        pointer = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self._server.machine.bus.attach(pointer, size, at=address)
        self._maps[address] = size, memory
        return b""

    def _unmap(self, address: int) -> None:
        if address in self._maps:
            self._server.machine.bus.detach(address)
            del self._maps[address]     # the memory goes when the last engine that looks at it is done

    # ---- interrupts

    def _set_irqs(self, body: bytes, fds: list[int]) -> bytes:
        _, flags, index, start, count = struct.unpack_from("<5I", body)
        if index != MSI_IRQ:
            if index >= IRQS:
                raise OSError(errno.EINVAL, "no such interrupt")
            return b""
        if flags & DATA_EVENTFD and flags & ACTION_TRIGGER:
            for number in range(count):
                if (old := self._eventfds.pop(start + number, None)) is not None:
                    os.close(old)
                if fds:
                    self._eventfds[start + number] = fds.pop(0)
            self._msi(bool(self._eventfds))
        elif flags & DATA_NONE and flags & ACTION_TRIGGER and not count:
            for fd in self._eventfds.values():
                os.close(fd)
            self._eventfds.clear()
            self._msi(False)
        elif flags & ACTION_TRIGGER:
            for number in range(count):
                self._trigger(start + number)
        return b""

    def _msi(self, on: bool) -> None:
        """The capability's enable bit, which the kernel sets for whoever asks VFIO for interrupts."""
        board = self._board
        at = board.read_config(CAPABILITY_POINTER, 1)
        while at and board.read_config(at, 1) != CAP_MSI:
            at = board.read_config(at + 1, 1)
        control = board.read_config(at + 2, 2)
        if on and not control & MSI_ENABLE:
            board.write_config(at + 4, 4, MSI_ADDRESS)
            if control & MSI_64BIT:
                board.write_config(at + 8, 4, 0)
            board.write_config(at + (12 if control & MSI_64BIT else 8), 2, 0)
        board.write_config(at + 2, 2, control | MSI_ENABLE if on else control & ~MSI_ENABLE)

    def _interrupted(self, *_message: int) -> None:
        self._trigger(0)

    def _trigger(self, vector: int) -> None:
        fd = self._eventfds.get(vector)
        if fd is not None:
            with contextlib.suppress(OSError):
                os.write(fd, (1).to_bytes(8, "little"))


def _accesses(region: int, offset: int, count: int) -> list[tuple[int, int]]:
    """(offset, width) of the aligned accesses that one message stands for; registers take 4 bytes, doorbells 8 too."""
    widest = 8 if region in (0, 2) else 4
    found = []
    while count:
        width = widest
        while width > count or offset % width:
            width //= 2
        found.append((offset, width))
        offset += width
        count -= width
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mock.vfio_user", description="Serve a card made of software over "
                                     "vfio-user, to QEMU 10.1 or newer or to AMDRV_HAL=vfio-user:SOCKET.")
    parser.add_argument("socket", help="path of the Unix socket to make")
    parser.add_argument("--gpu", default="gfx1100:vram=256M", metavar="CARD",
                        help="as in AMDRV_MOCK, one card (default: gfx1100:vram=256M)")
    options = parser.parse_args(argv)
    try:
        gpus = parse(options.gpu)
        if len(gpus) != 1:
            raise ValueError("a socket serves one card; start another server for the next")
        machine = Machine(gpus)
    except ValueError as error:
        print(f"mock.vfio_user: --gpu {options.gpu}: {error}", file=sys.stderr)
        return 1
    try:
        with machine, Server(machine, options.socket) as server:
            signal.signal(signal.SIGTERM, lambda *_: server.close())
            print(f"{gpus[0].arch} with {gpus[0].vram_bytes >> 20} MiB on {options.socket}", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                server.serve()
    except OSError as error:
        print(f"mock.vfio_user: {options.socket}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    from tools.piped import piped
    sys.exit(piped(main)())
