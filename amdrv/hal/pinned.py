"""What the HALs over a Linux kernel (sysfs, VFIO) share: pinned mappings, and the lock that makes a card exclusive."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from amdrv.errors import CardBusyError, HalError, OutOfMemoryError
from amdrv.hal import PciFunction, Segment, host_memory

__all__ = ["PinnedMapping", "describe", "lock_card", "pci_paths", "pin", "unlock_card"]


class PinnedMapping:
    """:class:`amdrv.hal.DmaMapping`, and :class:`amdrv.hal.DmaBuffer` where it owns its memory.

    :param held: the owner's set of open mappings; the mapping takes itself out when it is closed.
    """

    def __init__(self, held: set[PinnedMapping], view: np.ndarray | None, size: int, segments: Sequence[Segment],
                 release: Callable[[], None]) -> None:
        self.view: Any = view
        self.size, self.segments, self._release, self._held = size, segments, release, held
        held.add(self)

    def close(self) -> None:
        """Unmap and unlock. Without an IOMMU nothing stops a card that still uses it. Idempotent."""
        if self in self._held:
            self._held.discard(self)
            self._release()
            self.view = None

    def __enter__(self) -> PinnedMapping:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def pin(held: set[PinnedMapping], view: np.ndarray, owner: object, dma_bits: int, *, contiguous: bool = False,
        pagemap: Path = host_memory.PAGEMAP) -> PinnedMapping:
    """Lock memory and map it by its physical addresses; ``owner`` is kept alive as long as the mapping.

    :raises OutOfMemoryError: cannot be locked, or asked to be contiguous and is not.
    """
    address, size = int(view.ctypes.data), view.nbytes
    unlock = host_memory.lock(address, size)
    try:
        segments = host_memory.physical_segments(address, size, dma_bits, pagemap)
        if contiguous and len(segments) != 1:
            raise OutOfMemoryError(f"{size:#x} contiguous bytes came in {len(segments)} pieces")
    except BaseException:
        unlock()
        raise

    def release(_owner: object = owner) -> None:
        unlock()
    return PinnedMapping(held, view, size, segments, release)


def pci_paths() -> list[Path]:
    """The sysfs directories of all PCI functions, by pyudev."""
    import pyudev
    return sorted(Path(d.sys_path) for d in pyudev.Context().list_devices(subsystem="pci"))


def describe(path: Path) -> PciFunction:
    """A function as its sysfs directory shows it."""
    def number(name: str) -> int:
        return int((path / name).read_text().strip(), 0)
    driver = path / "driver"
    return PciFunction(path.name, number("vendor"), number("device"), number("class"), number("revision"),
                       (number("subsystem_vendor"), number("subsystem_device")),
                       driver.resolve().name if driver.exists() else None)


def lock_card(directory: Path, address: str) -> int:
    """An advisory lock on a card; the descriptor holds it, and the kernel drops it with the process.

    On a kernel without file locks (CONFIG_FILE_LOCKING off) the process number in the file stands in for it.

    :raises CardBusyError: naming the process that has it.
    """
    import fcntl
    fd, writable = _lock_file(directory / f"amdrv-{address}.lock")
    holder = os.pread(fd, 64, 0).decode(errors="replace").strip()
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        busy = False
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES, errno.ENOSYS):
            os.close(fd)
            raise
        busy = error.errno != errno.ENOSYS or (holder.isdigit() and Path("/proc", holder).exists())
    if busy:
        os.close(fd)
        raise CardBusyError(f"{address} is held by process {holder or '?'}; stop it, or use another card")
    if writable:
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
    return fd


def _lock_file(path: Path) -> tuple[int, bool]:
    """(descriptor, may be written). The file outlives its maker, who may have been another user: one that only may be
    read can be locked just as well, and names no holder."""
    for flags in (os.O_RDWR, os.O_RDWR | os.O_CREAT | os.O_EXCL, os.O_RDWR, os.O_RDONLY):
        try:
            fd = os.open(path, flags | os.O_CLOEXEC, 0o666)
        except (FileNotFoundError, FileExistsError, PermissionError):
            continue
        if flags & os.O_CREAT:
            os.fchmod(fd, 0o666)                # whatever the umask: the next user writes his number into it
        return fd, flags & os.O_RDWR != 0
    raise HalError(f"cannot open the card's lock file {path}: no permission; remove it, or run as its owner")


def unlock_card(fd: int) -> None:
    """Give the lock back."""
    with contextlib.suppress(OSError):          # a file that may only be read keeps what stands in it
        os.ftruncate(fd, 0)
    os.close(fd)
