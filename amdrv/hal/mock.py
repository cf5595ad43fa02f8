"""The HAL over the software machine in ``mock``: same contract, no hardware, any platform.

``AMDRV_MOCK`` describes the machine (``gfx1100:vram=1G,count=2``). The process has one shared machine, made at
first use; tests make machines of their own with ``MockHal(mock.Machine(...))``.
"""

from __future__ import annotations

import atexit
import contextlib
import mmap
import socket
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from amdrv.errors import CardBusyError, HalError, MappingError, NoCardError
from amdrv.hal import Existing, PciFunction, Region, Segment
from amdrv.hal.config_space import BAR0, CAP_MSI, COMMAND, COMMAND_MASTER, COMMAND_MEMORY, CheckedConfig
from amdrv.hal.host_memory import HUGE_PAGE, as_bytes, whole_pages

if TYPE_CHECKING:
    from mock import Machine
    from mock.board import Board

__all__ = ["MockHal", "synthetic_firmware"]

GPU_PAGE = 4096
SCATTER = (1 << 14, 1 << 16, 1 << 21)
"""Sizes of the segments that scattered allocations cycle through, as fragmented physical memory would."""

# PCI Local Bus Specification 3.0, 6.8.1
MSI_ENABLE, MSI_64BIT = 1 << 0, 1 << 7
MSI_ADDRESS = 0xFEE00000        # the x86 local APIC window: where a host would point the message


def _import_mock() -> Any:
    import mock
    if not hasattr(mock, "Machine"):
        raise HalError(f"the module 'mock' at {getattr(mock, '__file__', '?')} is another package (PyPI's mock?); "
                       "amdrv's own must come first: uninstall the other one, or run from the checkout")
    return mock


class _Region:
    """:class:`amdrv.hal.Region` over one BAR of a board."""

    def __init__(self, device: _Device, index: int) -> None:
        self.device, self.index = device, index
        self._board = device.board
        self.size = self._board.bar_size(index)

    def read32(self, offset: int) -> int:
        return self._board.read_bar(self.index, self._checked(offset, 4), 4)

    def write32(self, offset: int, value: int) -> None:
        self._board.write_bar(self.index, self._checked(offset, 4), 4, value & 0xFFFFFFFF)

    def read64(self, offset: int) -> int:
        return self._board.read_bar(self.index, self._checked(offset, 8), 8)

    def write64(self, offset: int, value: int) -> None:
        if offset & 7 or not 0 <= offset < self.size or not self.device._open:      # a doorbell's path is short
            self._checked(offset, 8)
        self._board.write_bar(self.index, offset, 8, value & 0xFFFFFFFFFFFFFFFF)

    def view(self, offset: int, size: int, dtype: npt.DTypeLike = np.uint8) -> np.ndarray:
        if self.index != 0:
            raise HalError(f"BAR{self.index} is not memory: registers and doorbells have no view, use read32/write32")
        if offset < 0 or size < 0 or offset + size > self.size:
            raise HalError(f"view of {size:#x} bytes at {offset:#x} does not fit "
                           f"BAR{self.index} of {self.size:#x} bytes")
        self.device.require_open()
        return np.frombuffer(self._board.bar_memory(self.index, offset, size), dtype=dtype)

    def _checked(self, offset: int, width: int) -> int:
        if offset % width or not 0 <= offset <= self.size - width:
            raise HalError(f"BAR{self.index} access at {offset:#x} of {width} bytes: "
                           f"must be aligned and below {self.size:#x}")
        self.device.require_open()
        return offset


class _Mapping:
    """Memory of this process on the machine's bus; :class:`DmaMapping`, and :class:`DmaBuffer` when it owns it."""

    def __init__(self, device: _Device, view: np.ndarray | None, size: int, segments: list[Segment],
                 attached: list[int], owner: object = None) -> None:
        self.view: Any = view
        self.size, self.segments = size, segments
        self._device, self._attached, self._owner = device, attached, owner
        device.mappings.add(self)

    def close(self) -> None:
        """Take the memory off the bus: later access by the card is a bus error. Idempotent."""
        for address in self._attached:
            self._device.hal.machine.bus.detach(address)
        self._attached, self._owner, self.view = [], None, None
        self._device.mappings.discard(self)

    def __enter__(self) -> _Mapping:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Interrupt:
    """:class:`amdrv.hal.Interrupt`: a socket pair, selectable on every platform."""

    def __init__(self, board: Board, renew: Callable[[], None]) -> None:
        self.renew = renew
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._lock, self._count = threading.Lock(), 0
        self._remove = board.on_msi(self._arrived)

    def _arrived(self, *_vector: int) -> None:
        with self._lock:
            self._count += 1
            if self._count == 1 and self._writer.fileno() >= 0:
                self._writer.send(b"\0")

    def fileno(self) -> int:
        return self._reader.fileno()

    def wait(self, timeout: float | None = None) -> int:
        import select
        if not self._count:
            select.select([self._reader], [], [], timeout)
        with self._lock:
            count, self._count = self._count, 0
            if count:
                self._reader.recv(16)
        return count

    def close(self) -> None:
        if callable(self._remove):
            self._remove()
        with self._lock:
            self._reader.close()
            self._writer.close()


class _Device:
    """:class:`amdrv.hal.PciDevice` over a board of the machine."""

    def __init__(self, hal: MockHal, board: Board, function: PciFunction, dma_bits: int) -> None:
        self.hal, self.board, self.function, self.dma_bits = hal, board, function, dma_bits
        self.page_size = max(GPU_PAGE, mmap.PAGESIZE)
        self.config = CheckedConfig(board.read_config, board.write_config)
        self.mappings: set[_Mapping] = set()
        self._regions: dict[int, _Region] = {}
        self._interrupt: _Interrupt | None = None
        self._open = True
        board.order_by_fences()     # this HAL promises no more
        command = self.config.read(COMMAND, 2)
        self.config.write(COMMAND, 2, (command | COMMAND_MEMORY) & ~COMMAND_MASTER)

    def require_open(self) -> None:
        if not self._open:
            raise HalError(f"{self.function.address} is closed; open it again through the HAL")

    def bar(self, index: int) -> Region:
        self.require_open()
        if index not in self.bar_sizes():
            raise MappingError(f"{self.function.address} has no BAR{index}; it has {sorted(self.bar_sizes())}")
        if index not in self._regions:
            self._regions[index] = _Region(self, index)
        return self._regions[index]

    def bar_sizes(self) -> dict[int, int]:
        return {index: size for index in range(6) if (size := self.board.bar_size(index))}

    def alloc_dma(self, size: int, *, contiguous: bool = False) -> _Mapping:
        self.require_open()
        size = whole_pages(size, self.page_size)
        # At a page of ours, which is larger than the system's where tests say that this is a Mac (tests/as_darwin.py).
        # Large memory in large pages where the system has them, as in host_memory.allocate: a disk fills these in one
        # request, small ones in many.
        large = size >= HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE")
        align = HUGE_PAGE if large else self.page_size
        memory = mmap.mmap(-1, size + align - GPU_PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if large:
            with contextlib.suppress(OSError):          # a kernel without them
                memory.madvise(mmap.MADV_HUGEPAGE)
        whole = np.frombuffer(memory, dtype=np.uint8)
        begin = -int(whole.ctypes.data) % align
        return self._attach(whole[begin:begin + size], size, contiguous, memory)

    def map_dma(self, memory: Existing, size: int) -> _Mapping:
        self.require_open()
        return self._attach(as_bytes(memory, size, self.page_size, present=False), size, False, memory)

    def _attach(self, view: np.ndarray, size: int, contiguous: bool, owner: object) -> _Mapping:
        bus, base, at = self.hal.machine.bus, int(view.ctypes.data), 0
        pieces: list[tuple[int, int]] = []
        while at < size:
            step = size if contiguous else max(self.page_size, SCATTER[len(pieces) % len(SCATTER)])
            pieces.append((at, min(step, size - at)))
            at += step
        where: dict[int, int] = {}
        try:
            for offset, length in reversed(pieces):     # so that bus order is not the order in memory
                where[offset] = bus.attach(base + offset, length)
                if where[offset] + length > 1 << self.dma_bits:
                    raise MappingError(f"bus address {where[offset]:#x} is beyond the card's "
                                       f"{self.dma_bits} address bits")
        except Exception:
            for address in where.values():
                bus.detach(address)
            raise
        return _Mapping(self, view, size, [(where[o], n) for o, n in pieces], list(where.values()), owner)

    def map_peer(self, region: Region) -> _Mapping:
        self.require_open()
        if not isinstance(region, _Region) or region.device.hal.machine is not self.hal.machine:
            raise MappingError("map_peer takes a BAR of another card on the same machine")
        low = region.device.config.read(BAR0 + 4 * region.index, 4)
        high = region.device.config.read(BAR0 + 4 * region.index + 4, 4) if low >> 1 & 3 == 2 else 0
        return _Mapping(self, None, region.size, [(high << 32 | low & ~0xF, region.size)], [])

    def interrupt(self) -> _Interrupt | None:
        self.require_open()
        if self._interrupt is None:
            msi = self.config.capability(CAP_MSI)
            if msi is None:
                return None
            self._interrupt = _Interrupt(self.board, self._enable_msi)
            self._enable_msi()
        return self._interrupt

    def _enable_msi(self) -> None:
        msi = self.config.capability(CAP_MSI)
        assert msi is not None
        control = self.config.read(msi + 2, 2)
        self.config.write(msi + 4, 4, MSI_ADDRESS)
        if control & MSI_64BIT:
            self.config.write(msi + 8, 4, 0)
        self.config.write(msi + (12 if control & MSI_64BIT else 8), 2, 0)
        self.config.write(msi + 2, 2, control | MSI_ENABLE)

    def fence(self) -> None:
        self.board.fence()

    def reset(self) -> None:
        self.require_open()
        self.board.reset()
        self.config.write(COMMAND, 2, self.config.read(COMMAND, 2) | COMMAND_MEMORY)

    def close(self) -> None:
        """Stop the card's DMA, release its interrupt and all mappings, and give it back. Idempotent."""
        if not self._open:
            return
        self.config.write(COMMAND, 2, self.config.read(COMMAND, 2) & ~COMMAND_MASTER)
        if self._interrupt is not None:
            msi = self.config.capability(CAP_MSI)
            if msi is not None:
                self.config.write(msi + 2, 2, self.config.read(msi + 2, 2) & ~MSI_ENABLE)
            self._interrupt.close()
        for mapping in list(self.mappings):
            mapping.close()
        self._open = False
        self.hal.release(self.function.address)

    def __enter__(self) -> _Device:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@cache
def synthetic_firmware() -> tuple[Path, ...]:
    """A directory of synthetic images with true headers; made at first use, gone with the process."""
    _import_mock()
    from mock.firmware import write
    directory = tempfile.TemporaryDirectory(prefix="amdrv-firmware-")
    atexit.register(directory.cleanup)
    write(Path(directory.name))
    return (Path(directory.name),)


class MockHal:
    """:class:`amdrv.hal.Hal` over a ``mock.Machine``; without one, over the process's shared machine."""

    name = "mock"
    _shared: ClassVar[MockHal | None] = None
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._held: set[str] = set()

    @classmethod
    def shared(cls) -> MockHal:
        """The process's machine as ``AMDRV_MOCK`` describes it; its threads end with the process."""
        with cls._lock:
            if cls._shared is None:
                cls._shared = cls.separate()
            return cls._shared

    @classmethod
    def separate(cls) -> MockHal:
        """A machine as ``AMDRV_MOCK`` describes it, that is nobody else's; its threads end with the process.
        :raises HalError: it describes none."""
        try:
            hal = cls(_import_mock().Machine.from_environment())
        except ValueError as error:
            raise HalError(str(error)) from None
        atexit.register(hal.machine.close)
        return hal

    @cached_property
    def firmware(self) -> Sequence[Path]:
        """A directory of synthetic images with true headers, made at first use."""
        return synthetic_firmware()

    def functions(self, vendor: int | None = None) -> list[PciFunction]:
        """The machine's cards, or those of a vendor."""
        return [f for f in map(self._describe, self.machine.gpus) if vendor in (None, f.vendor)]

    def open(self, address: str, *, dma_bits: int = 44) -> _Device:
        """Open a card of the machine. :raises NoCardError: none has that address. :raises CardBusyError: it is open
        already."""
        for board in self.machine.gpus:
            if board.address == address:
                break
        else:
            known = ", ".join(b.address for b in self.machine.gpus) or "none"
            raise NoCardError(f"no mock card at {address!r}; this machine has: {known}")
        with self._lock:
            if address in self._held:
                raise CardBusyError(f"{address} is already open in this process; close the other handle first")
            self._held.add(address)
        try:
            return _Device(self, board, self._describe(board), dma_bits)
        except BaseException:
            self.release(address)
            raise

    def release(self, address: str) -> None:
        """Let a card be opened again; its device's ``close`` calls this."""
        with self._lock:
            self._held.discard(address)

    @staticmethod
    def _describe(board: Board) -> PciFunction:
        read = board.read_config
        return PciFunction(board.address, vendor=read(0x00, 2), device=read(0x02, 2), class_code=read(0x08, 4) >> 8,
                           revision=read(0x08, 1), subsystem=(read(0x2C, 2), read(0x2E, 2)))
