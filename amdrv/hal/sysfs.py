"""The HAL over Linux sysfs: BARs through ``resourceN``, DMA by physical address, no interrupts.

It needs root, and a machine without an IOMMU in the way (or ``iommu=pt``): device addresses are physical
addresses (see :mod:`amdrv.hal.host_memory`).

The interrupt of a card without a kernel driver cannot be had here; ``interrupt()`` is None and the IH ring is
polled. VFIO has both, and is to be preferred wherever it works.

Source: Linux Documentation/PCI/sysfs-pci.rst.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from amdrv.errors import CardBusyError, HalError, MappingError, NoCardError
from amdrv.hal import Existing, PciFunction, Region, host_memory
from amdrv.hal.config_space import COMMAND, COMMAND_MASTER, COMMAND_MEMORY, CheckedConfig
from amdrv.hal.contiguous import allocate_contiguous
from amdrv.hal.pinned import PinnedMapping, describe, lock_card, pci_paths, pin, unlock_card
from amdrv.hal.region import MappedRegion
from amdrv.hal.resize import resize

__all__ = ["SysfsHal", "map_resource", "read_resources"]

LOCKDOWN = Path("/sys/kernel/security/lockdown")
RESOURCE_MEMORY, RESOURCE_PREFETCH = 0x200, 0x2000      # Linux include/linux/ioport.h, IORESOURCE_MEM, _PREFETCH


def map_resource(path: Path, size: int, bus_address: int, memory_like: bool, *, readonly: bool = False) -> MappedRegion:
    """A BAR by its file in sysfs; ``readonly`` maps it so that a store is a fault."""
    try:
        fd = os.open(path, (os.O_RDONLY if readonly else os.O_RDWR) | os.O_SYNC)
        try:
            area = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | (0 if readonly else mmap.PROT_WRITE))
        finally:
            os.close(fd)
    except PermissionError as error:
        raise HalError(f"cannot map {path}: {error.strerror}; {_why_denied()}") from error
    except OSError as error:
        raise MappingError(f"cannot map {size:#x} bytes of {path}: {error.strerror}") from error
    return MappedRegion(path.name, size, [(0, area)], memory_like=memory_like, bus_address=bus_address)


def read_resources(path: Path) -> dict[int, tuple[int, int, int]]:
    """{index: (bus address, bytes, flags)} of the memory BARs of a function's sysfs directory."""
    lines = (path / "resource").read_text().splitlines()[:6]
    rows = [tuple(int(word, 16) for word in line.split()) for line in lines]
    return {i: (start, end - start + 1, flags) for i, (start, end, flags) in enumerate(rows)
            if flags & RESOURCE_MEMORY and end > start}


def _why_denied(lockdown: Path = LOCKDOWN) -> str:
    """What keeps this process from a card's files: the kernel's lockdown, or not being root."""
    try:
        state = lockdown.read_text().strip()
    except OSError:
        state = ""
    if state and "[none]" not in state:
        return (f"the kernel is locked down ({state}; secure boot does that), which closes BARs and configuration "
                "space in sysfs even to root: use AMDRV_HAL=vfio")
    return "sysfs access needs root"


class _Device:
    """:class:`amdrv.hal.PciDevice` over a sysfs directory."""

    def __init__(self, hal: SysfsHal, path: Path, dma_bits: int) -> None:
        self.hal, self.path, self.dma_bits = hal, path, dma_bits
        self.function, self.page_size = describe(path), mmap.PAGESIZE
        self.mappings: set[PinnedMapping] = set()
        self._regions: dict[int, MappedRegion] = {}
        self._lock = lock_card(hal.lock_directory, path.name)
        try:
            if self.function.driver is not None:
                raise CardBusyError(f"{path.name} is driven by {self.function.driver}; take it from there first: "
                                    f"amdrv-info bind --driver none {path.name}    # undone by amdrv-info unbind")
            (path / "enable").write_text("1")
            self._config_fd = os.open(path / "config", os.O_RDWR)
        except PermissionError as error:
            unlock_card(self._lock)
            raise HalError(f"cannot enable {path.name}: {error.strerror}; {_why_denied()}") from error
        except BaseException:
            unlock_card(self._lock)
            raise
        self.config = CheckedConfig(self._config_read, self._config_write)
        try:
            # A process that was killed leaves its card's DMA running: stop it before anything else.
            self.config.update(COMMAND, 2, set=COMMAND_MEMORY, clear=COMMAND_MASTER)
            self._resources = read_resources(path)
        except BaseException:
            os.close(self._config_fd)
            unlock_card(self._lock)
            raise
        self._open = True

    def _config_read(self, offset: int, width: int) -> int:
        data = os.pread(self._config_fd, width, offset)
        if len(data) != width:
            raise HalError(f"config space of {self.path.name} ends before {offset:#x}; past 64 bytes it needs root")
        return int.from_bytes(data, "little")

    def _config_write(self, offset: int, width: int, value: int) -> None:
        try:
            os.pwrite(self._config_fd, value.to_bytes(width, "little"), offset)
        except PermissionError as error:
            raise HalError(f"cannot write configuration space of {self.path.name}: {error.strerror}; "
                           f"{_why_denied()}") from error

    def require_open(self) -> None:
        if not self._open:
            raise HalError(f"{self.function.address} is closed; open it again through the HAL")

    def bar_sizes(self) -> dict[int, int]:
        return {index: size for index, (_, size, _) in self._resources.items()}

    def bar(self, index: int) -> Region:
        self.require_open()
        if index not in self._resources:
            raise MappingError(f"{self.path.name} has no memory BAR{index}; it has {sorted(self._resources)}")
        if index not in self._regions:
            start, size, flags = self._resources[index]
            memory_like = index == 0 and bool(flags & RESOURCE_PREFETCH)
            combining = self.path / f"resource{index}_wc"
            path = combining if memory_like and combining.exists() else self.path / f"resource{index}"
            self._regions[index] = map_resource(path, size, start, memory_like)
        return self._regions[index]

    def resize_bar(self, index: int, size: int | None = None) -> int:
        """Make a resizable BAR ``size`` bytes large, by default as large as the kernel can; returns the new size.

        Only when asked, never at opening: the card's other BARs may move with it. What :meth:`bar` gave out before is
        gone. :raises HalError: :func:`amdrv.hal.resize.resize` says why not.
        """
        self.require_open()
        self._regions.clear()
        try:
            return resize(self.path, index, size)
        finally:                                # the kernel may have moved and closed the others, too
            self._resources = read_resources(self.path)
            self.config.update(COMMAND, 2, set=COMMAND_MEMORY)

    def alloc_dma(self, size: int, *, contiguous: bool = False) -> PinnedMapping:
        self.require_open()
        size = host_memory.whole_pages(size, self.page_size)
        memory, view = (allocate_contiguous(size, self.hal.pagemap) if contiguous
                        else host_memory.allocate(size, contiguous=False))
        return pin(self.mappings, view, memory, self.dma_bits, contiguous=contiguous, pagemap=self.hal.pagemap)

    def map_dma(self, memory: Existing, size: int) -> PinnedMapping:
        self.require_open()
        view = host_memory.as_bytes(memory, size, self.page_size)
        return pin(self.mappings, view, memory, self.dma_bits, pagemap=self.hal.pagemap)

    def map_peer(self, region: Region) -> PinnedMapping:
        self.require_open()
        if not isinstance(region, MappedRegion) or region.bus_address is None:
            raise MappingError("map_peer takes a BAR of another card of the same HAL")
        return PinnedMapping(self.mappings, None, region.size, [(region.bus_address, region.size)], lambda: None)

    def interrupt(self) -> None:
        """None: sysfs has no interrupts; poll the IH ring."""
        self.require_open()

    def fence(self) -> None:
        """A read from the card cannot pass the writes before it, and drains write-combining buffers."""
        if 5 in self._regions:
            self._regions[5].read32(0)

    def reset(self) -> None:
        self.require_open()
        try:
            (self.path / "reset").write_text("1")
        except OSError as error:
            raise HalError(f"the kernel cannot reset {self.path.name}: {error.strerror}; methods it knows: "
                           f"{self._reset_methods()}") from error
        self.config.update(COMMAND, 2, set=COMMAND_MEMORY, clear=COMMAND_MASTER)

    def _reset_methods(self) -> str:
        try:
            return (self.path / "reset_method").read_text().strip() or "none"
        except OSError:
            return "none"

    def close(self) -> None:
        """Stop the card's DMA, then release memory, mappings and the lock. Idempotent."""
        if not self._open:
            return
        self._open = False
        with contextlib.suppress(HalError, OSError):       # a card that was pulled out has no files any more
            self.config.update(COMMAND, 2, clear=COMMAND_MASTER)
        for mapping in list(self.mappings):
            mapping.close()
        for region in self._regions.values():
            region.close()
        self._regions.clear()
        os.close(self._config_fd)
        with contextlib.suppress(OSError):                 # the kernel counts who enabled the function
            (self.path / "enable").write_text("0")
        unlock_card(self._lock)

    def __enter__(self) -> _Device:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class SysfsHal:
    """:class:`amdrv.hal.Hal` over sysfs.

    :param paths: yields the sysfs directories of PCI functions; a test may pass a tree of its own.
    :param lock_directory: where the lock files are; one directory for all users of a machine.
    """

    name = "sysfs"

    def __init__(self, paths: Callable[[], Iterable[Path]] = pci_paths, *, pagemap: Path = host_memory.PAGEMAP,
                 lock_directory: Path | None = None) -> None:
        self.paths, self.pagemap = paths, pagemap
        shared = Path("/run/lock")
        self.lock_directory = lock_directory or (shared if shared.is_dir() else Path(tempfile.gettempdir()))

    @property
    def firmware(self) -> Sequence[Path]:
        return ()

    def functions(self, vendor: int | None = None) -> list[PciFunction]:
        return [f for f in map(describe, self.paths()) if vendor in (None, f.vendor)]

    def open(self, address: str, *, dma_bits: int = 44) -> _Device:
        for path in self.paths():
            if path.name == address:
                return _Device(self, path, dma_bits)
        raise NoCardError(f"no PCI function {address!r} on this machine")
