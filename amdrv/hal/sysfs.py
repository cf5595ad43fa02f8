"""The HAL over Linux sysfs: BARs through ``resourceN``, DMA by physical address, no interrupts.

It needs root, and a machine without an IOMMU in the way (or ``iommu=pt``): device addresses are physical
addresses, which are read from ``/proc/self/pagemap``. Pages are locked, kept out of forked children, and their
addresses are read twice; only hugetlb pages are safe from migration, so they are taken first where there are any.

The interrupt of a card without a kernel driver cannot be had here; ``interrupt()`` is None and the IH ring is
polled. VFIO has both, and is to be preferred wherever it works.

Sources: Linux Documentation/PCI/sysfs-pci.rst, Documentation/admin-guide/mm/pagemap.rst.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from amdrv.errors import CardBusyError, HalError, MappingError, NoCardError, OutOfMemoryError
from amdrv.hal import PciFunction, Region, Segment
from amdrv.hal.config_space import COMMAND, COMMAND_MASTER, COMMAND_MEMORY, CheckedConfig

__all__ = ["SysfsHal"]

GPU_PAGE = 4096
HUGE_PAGE = 2 << 20
PAGEMAP_PRESENT, PAGEMAP_FRAME = 1 << 63, (1 << 55) - 1
RESOURCE_MEMORY, RESOURCE_PREFETCH = 0x200, 0x2000      # Linux include/linux/ioport.h, IORESOURCE_MEM, _PREFETCH
MADV_DONTFORK = 10                                      # Linux include/uapi/asm-generic/mman-common.h


def pci_paths() -> list[Path]:
    """The sysfs directories of all PCI functions, by pyudev."""
    import pyudev
    return sorted(Path(d.sys_path) for d in pyudev.Context().list_devices(subsystem="pci"))


def _number(path: Path) -> int:
    return int(path.read_text().strip(), 0)


def describe(path: Path) -> PciFunction:
    driver = path / "driver"
    return PciFunction(path.name, _number(path / "vendor"), _number(path / "device"), _number(path / "class"),
                       _number(path / "revision"),
                       (_number(path / "subsystem_vendor"), _number(path / "subsystem_device")),
                       driver.resolve().name if driver.exists() else None)


class _Region:
    """A mmapped ``resourceN``. Casts of one memoryview make single accesses (measured; see docs/architecture.md)."""

    def __init__(self, path: Path, size: int, bus_address: int, memory_like: bool) -> None:
        self.path, self.size, self.bus_address, self.memory_like = path, size, bus_address, memory_like
        try:
            fd = os.open(path, os.O_RDWR | os.O_SYNC)
            try:
                self._map = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
            finally:
                os.close(fd)
        except PermissionError as error:
            raise HalError(f"cannot map {path}: {error.strerror}. Needs root; under kernel lockdown (secure boot) "
                           "sysfs BARs are closed even to root: use VFIO") from error
        except OSError as error:
            raise MappingError(f"cannot map {size:#x} bytes of {path}: {error.strerror}") from error
        self._bytes = memoryview(self._map)
        self._u32, self._u64 = self._bytes.cast("I"), self._bytes.cast("Q")

    def read32(self, offset: int) -> int:
        return self._u32[self._index(offset, 4)]

    def write32(self, offset: int, value: int) -> None:
        self._u32[self._index(offset, 4)] = value & 0xFFFFFFFF

    def read64(self, offset: int) -> int:
        return self._u64[self._index(offset, 8)]

    def write64(self, offset: int, value: int) -> None:
        self._u64[self._index(offset, 8)] = value & 0xFFFFFFFFFFFFFFFF

    def view(self, offset: int, size: int, dtype: npt.DTypeLike = np.uint8) -> np.ndarray:
        if not self.memory_like:
            raise HalError(f"{self.path.name} is not memory: registers and doorbells have no view, use read32/write32")
        if offset < 0 or size < 0 or offset + size > self.size:
            raise HalError(f"view of {size:#x} bytes at {offset:#x} does not fit {self.path.name} "
                           f"of {self.size:#x} bytes")
        return np.frombuffer(self._map, np.uint8)[offset:offset + size].view(dtype)

    def _index(self, offset: int, width: int) -> int:
        if offset % width or not 0 <= offset <= self.size - width:
            raise HalError(f"{self.path.name} access at {offset:#x} of {width} bytes: must be aligned and below "
                           f"{self.size:#x}")
        return offset // width


class _Mapping:
    """Locked memory of this process with its physical addresses."""

    def __init__(self, device: _Device, view: np.ndarray | None, size: int, segments: Sequence[Segment],
                 release: Callable[[], None]) -> None:
        self.view: Any = view
        self.size, self.segments, self._release = size, segments, release
        self._device = device
        device.mappings.add(self)

    def close(self) -> None:
        """Unlock and forget. The card must not be using it any more; nothing here can stop it. Idempotent."""
        if self in self._device.mappings:
            self._device.mappings.discard(self)
            self._release()
            self.view = None

    def __enter__(self) -> _Mapping:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Device:
    """:class:`amdrv.hal.PciDevice` over a sysfs directory."""

    def __init__(self, hal: SysfsHal, path: Path, dma_bits: int) -> None:
        self.hal, self.path, self.dma_bits = hal, path, dma_bits
        self.function, self.page_size = describe(path), mmap.PAGESIZE
        self.mappings: set[_Mapping] = set()
        self._regions: dict[int, _Region] = {}
        self._lock = _lock_file(hal.lock_directory, path.name)
        try:
            if self.function.driver is not None:
                raise CardBusyError(f"{path.name} is driven by {self.function.driver}; give it up first: "
                                    f"echo {path.name} > {path}/driver/unbind")
            (path / "enable").write_text("1")
            self._config_fd = os.open(path / "config", os.O_RDWR)
        except PermissionError as error:
            os.close(self._lock)
            raise HalError(f"cannot enable {path.name}: {error.strerror}; sysfs access needs root") from error
        except BaseException:
            os.close(self._lock)
            raise
        self.config = CheckedConfig(self._config_read, self._config_write)
        # A process that was killed leaves its card's DMA running: stop it before anything else.
        self.config.update(COMMAND, 2, set=COMMAND_MEMORY, clear=COMMAND_MASTER)
        self._resources = self._read_resources()
        self._open = True

    def _config_read(self, offset: int, width: int) -> int:
        data = os.pread(self._config_fd, width, offset)
        if len(data) != width:
            raise HalError(f"config space of {self.path.name} ends before {offset:#x}; past 64 bytes it needs root")
        return int.from_bytes(data, "little")

    def _config_write(self, offset: int, width: int, value: int) -> None:
        os.pwrite(self._config_fd, value.to_bytes(width, "little"), offset)

    def _read_resources(self) -> dict[int, tuple[int, int, int]]:
        lines = (self.path / "resource").read_text().splitlines()[:6]
        rows = [tuple(int(word, 16) for word in line.split()) for line in lines]
        return {i: (start, end - start + 1, flags) for i, (start, end, flags) in enumerate(rows)
                if flags & RESOURCE_MEMORY and end > start}

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
            self._regions[index] = _Region(path, size, start, memory_like)
        return self._regions[index]

    def alloc_dma(self, size: int, *, contiguous: bool = False) -> _Mapping:
        self.require_open()
        if size <= 0:
            raise MappingError(f"DMA buffer of {size} bytes: must be positive")
        size = -(-size // self.page_size) * self.page_size
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        memory = None
        if size >= HUGE_PAGE or (contiguous and size > self.page_size):
            huge = -(-size // HUGE_PAGE) * HUGE_PAGE
            try:
                memory = mmap.mmap(-1, huge, flags | getattr(mmap, "MAP_HUGETLB", 0x40000))
            except OSError as error:
                if contiguous:
                    raise OutOfMemoryError(f"no {huge >> 20} MiB of hugetlb pages for {size:#x} contiguous bytes: "
                                           f"{error.strerror}; echo {huge // HUGE_PAGE + 16} > "
                                           "/proc/sys/vm/nr_hugepages") from error
        if memory is None:
            try:
                memory = mmap.mmap(-1, size, flags)
            except OSError as error:
                raise OutOfMemoryError(f"no {size:#x} bytes of host memory: {error.strerror}") from error
        view = np.frombuffer(memory, np.uint8)
        view[::self.page_size] = 0                      # every page present before it is locked
        mapping = self._pin(view[:size], size, memory)
        if contiguous and len(mapping.segments) != 1:
            count = len(mapping.segments)
            mapping.close()
            raise OutOfMemoryError(f"{size:#x} contiguous bytes came in {count} pieces; a hugetlb page holds at most "
                                   f"{HUGE_PAGE:#x} contiguous bytes for certain")
        return mapping

    def map_dma(self, memory: np.ndarray | int, size: int) -> _Mapping:
        self.require_open()
        address = memory if isinstance(memory, int) else int(memory.ctypes.data)
        if size <= 0 or address % self.page_size or size % self.page_size:
            raise MappingError(f"cannot map {size:#x} bytes at {address:#x}: address and size must be positive "
                               f"multiples of the page size {self.page_size:#x}")
        if isinstance(memory, int):
            view = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(memory))
        elif memory.nbytes < size or not memory.flags.c_contiguous:
            raise MappingError(f"cannot map {size:#x} bytes of an array of {memory.nbytes:#x} bytes "
                               f"({'' if memory.flags.c_contiguous else 'not '}contiguous)")
        else:
            view = memory.reshape(-1).view(np.uint8)[:size]
        for at in range(0, size, self.page_size):       # written, not read: a read would map the shared zero page
            view[at] = view[at]
        return self._pin(view, size, memory)

    def _pin(self, view: np.ndarray, size: int, owner: object) -> _Mapping:
        address = int(view.ctypes.data)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(size)):
            raise OutOfMemoryError(f"cannot lock {size:#x} bytes: {os.strerror(ctypes.get_errno())}; "
                                   "raise the limit: ulimit -l unlimited")
        libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), MADV_DONTFORK)

        def release(_owner: object = owner) -> None:
            libc.munlock(ctypes.c_void_p(address), ctypes.c_size_t(size))

        try:
            frames = self.hal.frames(address, size)
            if not np.array_equal(frames, self.hal.frames(address, size)):
                raise HalError(f"pages at {address:#x} moved while they were being pinned; try again")
            segments = _runs(frames, self.page_size)
            if max(address + length for address, length in segments) > 1 << self.dma_bits:
                raise MappingError(f"memory beyond the card's {self.dma_bits} address bits")
        except BaseException:
            release()
            raise
        return _Mapping(self, view, size, segments, release)

    def map_peer(self, region: Region) -> _Mapping:
        self.require_open()
        if not isinstance(region, _Region):
            raise MappingError("map_peer takes a BAR of another card of the same HAL")
        return _Mapping(self, None, region.size, [(region.bus_address, region.size)], lambda: None)

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
        self.config.update(COMMAND, 2, clear=COMMAND_MASTER)
        for mapping in list(self.mappings):
            mapping.close()
        self._regions.clear()
        os.close(self._config_fd)
        os.close(self._lock)

    def __enter__(self) -> _Device:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _runs(frames: np.ndarray, page_size: int) -> list[Segment]:
    """Page frame numbers -> (physical address, bytes) of each contiguous run."""
    starts = np.flatnonzero(np.diff(frames, prepend=frames[0] - 2) != 1)
    lengths = np.diff(starts, append=len(frames))
    return [(int(frames[s]) * page_size, int(n) * page_size) for s, n in zip(starts, lengths, strict=True)]


def _lock_file(directory: Path, address: str) -> int:
    import fcntl
    path = directory / f"amdrv-{address}.lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(fd, 64, 0).decode(errors="replace").strip() or "?"
        os.close(fd)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise CardBusyError(f"{address} is held by process {holder}; stop it, or use another card") from error
        raise
    os.ftruncate(fd, 0)
    os.pwrite(fd, str(os.getpid()).encode(), 0)
    return fd


class SysfsHal:
    """:class:`amdrv.hal.Hal` over sysfs.

    :param paths: yields the sysfs directories of PCI functions; a test may pass a tree of its own.
    :param lock_directory: where the lock files are; one directory for all users of a machine.
    """

    name = "sysfs"

    def __init__(self, paths: Callable[[], Iterable[Path]] = pci_paths, *, pagemap: Path = Path("/proc/self/pagemap"),
                 lock_directory: Path | None = None) -> None:
        self._paths, self._pagemap = paths, pagemap
        shared = Path("/run/lock")
        self.lock_directory = lock_directory or (shared if shared.is_dir() else Path(tempfile.gettempdir()))

    @property
    def firmware(self) -> Sequence[Path]:
        return ()

    def functions(self, vendor: int | None = None) -> list[PciFunction]:
        return [f for f in map(describe, self._paths()) if vendor in (None, f.vendor)]

    def open(self, address: str, *, dma_bits: int = 44) -> _Device:
        for path in self._paths():
            if path.name == address:
                return _Device(self, path, dma_bits)
        raise NoCardError(f"no PCI function {address!r} on this machine")

    def frames(self, address: int, size: int) -> np.ndarray:
        """Page frame numbers of present pages. :raises HalError: when the kernel hides them (no CAP_SYS_ADMIN)."""
        page = mmap.PAGESIZE
        fd = os.open(self._pagemap, os.O_RDONLY)
        try:
            entries = np.frombuffer(os.pread(fd, size // page * 8, address // page * 8), np.uint64)
        finally:
            os.close(fd)
        if len(entries) != size // page or not (entries & np.uint64(PAGEMAP_PRESENT)).all():
            raise HalError(f"{self._pagemap}: not every page at {address:#x} is present")
        frames = entries & np.uint64(PAGEMAP_FRAME)
        if not frames.all():
            raise HalError(f"{self._pagemap} shows no physical addresses: needs root (CAP_SYS_ADMIN); or use VFIO")
        return frames.astype(np.int64)
