"""A card that is looked at, not owned: whoever drives it goes on, and nothing of it changes.

``Hal.open`` is exclusive and stops the card's DMA; a tool that shows a running card must do neither. Here BARs are
mapped for reading, configuration space is read, and a write is refused unless ``writable`` was asked for. Works beside
any kernel driver, where the kernel lets root map the BARs (not under lockdown, nor with CONFIG_IO_STRICT_DEVMEM where
the driver holds them exclusively); a card that amdgpu drives is read through its debugfs
(:mod:`amdrv.hal.debugfs`) wherever that is there.

Source: Linux Documentation/PCI/sysfs-pci.rst.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from amdrv.errors import HalError, MappingError, NoCardError
from amdrv.hal import ConfigSpace, Hal, PciFunction, Region
from amdrv.hal.config_space import COMMAND, COMMAND_MEMORY, CheckedConfig

if TYPE_CHECKING:
    from amdrv.hal.debugfs import AmdgpuFiles

__all__ = ["Look", "ReadOnlyRegion", "driven_by", "look"]

NOBODY = ("vfio-pci", "pci-stub")       # kernel drivers that leave a card alone

Reader = Callable[[int, int], bytes]
"""(bus address, bytes) -> bytes of host memory as the card sees it. :raises HalError:"""


class ReadOnlyRegion:
    """A BAR that refuses stores unless ``writable``."""

    def __init__(self, name: str, region: Region, writable: bool) -> None:
        self.name, self._region, self._writable = name, region, writable
        self.size = region.size

    def read32(self, offset: int) -> int:
        """One load of 4 bytes."""
        return self._region.read32(offset)

    def read64(self, offset: int) -> int:
        """One load of 8 bytes."""
        return self._region.read64(offset)

    def write32(self, offset: int, value: int) -> None:
        """One store of 4 bytes. :raises HalError: this is a look only."""
        self._check()
        self._region.write32(offset, value)

    def write64(self, offset: int, value: int) -> None:
        """One store of 8 bytes. :raises HalError: this is a look only."""
        self._check()
        self._region.write64(offset, value)

    def view(self, offset: int, size: int, dtype: npt.DTypeLike = np.uint8) -> np.ndarray:
        """A live array; NumPy refuses to change it, unless this is writable."""
        found = self._region.view(offset, size, dtype)
        if not self._writable:
            found = found.view()
            found.flags.writeable = False
        return found

    def _check(self) -> None:
        if not self._writable:
            raise HalError(f"{self.name} is only looked at: nothing is written to it")


class Look:
    """What :func:`look` gives; a context manager. ``system`` reads host memory by the addresses that the card uses;
    ``files`` are amdgpu's in debugfs, where they serve."""

    def __init__(self, function: PciFunction, config: ConfigSpace, sizes: dict[int, int],
                 region: Callable[[int], Region], system: Reader, *, writable: bool,
                 close: Callable[[], None] = lambda: None, files: AmdgpuFiles | None = None) -> None:
        self.function, self.config, self.system, self.writable = function, config, system, writable
        self.files = files
        self._sizes, self._region, self._close = sizes, region, close
        self._regions: dict[int, ReadOnlyRegion] = {}

    def bar_sizes(self) -> dict[int, int]:
        """{BAR index: bytes} of the BARs that are there."""
        return dict(self._sizes)

    def bar(self, index: int) -> ReadOnlyRegion:
        """A BAR, mapped. :raises MappingError: there is no such BAR."""
        if index not in self._sizes:
            raise MappingError(f"{self.function.address} has no BAR{index}; it has {sorted(self._sizes)}")
        if index not in self._regions:
            self._regions[index] = ReadOnlyRegion(f"BAR{index} of {self.function.address}", self._region(index),
                                                  self.writable)
        return self._regions[index]

    def close(self) -> None:
        """Unmap what was mapped; whoever drives the card notices nothing."""
        self._regions.clear()
        self._close()

    def __enter__(self) -> Look:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def look(hal: Hal, address: str, *, writable: bool = False, debugfs: Path | None = None) -> Look:
    """A card as it is, whoever has it.

    Behind a HAL that has no such way (vfio-user), and where the card does not decode its BARs (so nobody can be using
    it), it is opened, and so must be free.

    :param writable: stores to BARs are let through; configuration space is never written.
    :param debugfs: the folder of the driver that has the card, where that is amdgpu.
    :raises NoCardError: there is none at that address. :raises HalError: the system does not let its BARs be read.
    """
    from amdrv.hal.mock import MockHal
    found: Look | None = None
    if isinstance(hal, MockHal):
        found = _mock(hal, address, writable)
    elif hal.name in ("sysfs", "vfio"):
        found = _sysfs(hal, address, writable, debugfs)
    if found is not None and (found.config.read(COMMAND, 2) & COMMAND_MEMORY or found.function.driver not in
                              (None, *NOBODY)):
        return found
    device = hal.open(address)
    return Look(device.function, _read_only(device.config.read), device.bar_sizes(), device.bar,
                found.system if found is not None else _nowhere(address), writable=writable, close=device.close)


def _read_only(read: Callable[[int, int], int]) -> CheckedConfig:
    def refuse(offset: int, width: int, value: int) -> None:
        raise HalError(f"configuration space is only looked at: {value:#x} is not written to {offset:#x}")
    return CheckedConfig(read, refuse)


def _nowhere(address: str) -> Reader:
    def refuse(at: int, nbytes: int) -> bytes:
        raise HalError(f"{address}: host memory at {at:#x} belongs to the process or kernel that drives the card; "
                       "it cannot be looked at from here")
    return refuse


class _BoardRegion:
    """A BAR of a mock board, without the HAL's bookkeeping."""

    def __init__(self, board: Any, index: int) -> None:
        self._board, self._index, self.size = board, index, board.bar_size(index)

    def read32(self, offset: int) -> int:
        return int(self._board.read_bar(self._index, offset, 4))

    def read64(self, offset: int) -> int:
        return int(self._board.read_bar(self._index, offset, 8))

    def write32(self, offset: int, value: int) -> None:
        self._board.write_bar(self._index, offset, 4, value)

    def write64(self, offset: int, value: int) -> None:
        self._board.write_bar(self._index, offset, 8, value)

    def view(self, offset: int, size: int, dtype: npt.DTypeLike = np.uint8) -> np.ndarray:
        """A copy of what the card has: the CPU's window would become a party of the mock's coherence rules."""
        if self._index:
            raise HalError(f"BAR{self._index} is not memory: registers and doorbells have no view")
        if offset < 0 or size < 0 or offset + size > self.size:
            raise HalError(f"view of {size:#x} bytes at {offset:#x} does not fit BAR0 of {self.size:#x} bytes")
        return np.frombuffer(self._board.vram.view[offset:offset + size].tobytes(), dtype=dtype).copy()


def _mock(hal: Any, address: str, writable: bool) -> Look:
    board = next((b for b in hal.machine.gpus if b.address == address), None)
    function = next((f for f in hal.functions() if f.address == address), None)
    if board is None or function is None:
        known = ", ".join(b.address for b in hal.machine.gpus) or "none"
        raise NoCardError(f"no mock card at {address!r}; this machine has: {known}")

    def system(at: int, nbytes: int) -> bytes:
        try:
            return ctypes.string_at(hal.machine.bus.translate(at, nbytes), nbytes)
        except Exception as error:      # mock.bus.BusError; the HAL may not name the mock's own errors
            raise HalError(f"{address}: nothing is on the bus at {at:#x}: {error}") from error

    return Look(function, _read_only(board.read_config), {i: s for i in range(6) if (s := board.bar_size(i))},
                lambda index: _BoardRegion(board, index), system, writable=writable)


def _sysfs(hal: Any, address: str, writable: bool, debugfs: Path | None) -> Look:
    from amdrv.hal.debugfs import AmdgpuFiles
    from amdrv.hal.pinned import describe
    from amdrv.hal.sysfs import map_resource, read_resources
    path: Path | None = next((p for p in hal.paths() if p.name == address), None)
    if path is None:
        raise NoCardError(f"no PCI function {address!r} on this machine")

    def read(offset: int, width: int) -> int:
        try:
            with (path / "config").open("rb", buffering=0) as file:
                file.seek(offset)
                data = file.read(width)
        except OSError as error:
            raise HalError(f"config space of {address}: {error.strerror or error}") from error
        if len(data) != width:
            raise HalError(f"config space of {address} ends before {offset:#x}; past 64 bytes it needs root")
        return int.from_bytes(data, "little")

    resources = read_resources(path)
    files = AmdgpuFiles(debugfs) if debugfs is not None else None

    def region(index: int) -> Region:
        instead = files.region(index) if files is not None and not writable else None
        if instead is not None:
            return instead
        start, size, _ = resources[index]
        return map_resource(path / f"resource{index}", size, start, index == 0, readonly=not writable)

    return Look(describe(path), _read_only(read), {index: size for index, (_, size, _) in resources.items()}, region,
                files.memory if files is not None else _nowhere(address), writable=writable, files=files,
                close=files.close if files is not None else lambda: None)


def driven_by(hal: Hal, function: PciFunction) -> str | None:
    """Who drives a card now, in words: a kernel driver, or a process that opened it through a HAL of ours.

    The mock's machine belongs to this process; vfio-user's servers take one client, so nobody else has the card.
    """
    if function.driver is not None and function.driver not in NOBODY:
        return f"the kernel's {function.driver}"
    directory = getattr(hal, "lock_directory", None)
    if directory is None:
        return None
    import fcntl
    try:
        with (directory / f"amdrv-{function.address}.lock").open("rb") as lock:
            holder = lock.read(64).decode(errors="replace").strip()
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return f"process {holder or '?'}"
    except OSError:
        pass                            # no lock file: nobody ever opened it
    return None
