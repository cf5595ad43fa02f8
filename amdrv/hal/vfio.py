"""The HAL over VFIO: BARs, DMA through the IOMMU, and interrupts on an eventfd, for a card bound to ``vfio-pci``.

Three ways, best first: iommufd with the device's own character device (Linux 6.6 and newer), a type 1 container with
the device's group, and no-IOMMU, where device addresses are physical (and root is needed to know them).
``AMDRV_HAL=vfio`` takes the best that is there; ``vfio:iommufd``, ``vfio:type1`` and ``vfio:noiommu`` ask for one.

vfio-pci resets the card when it is opened and puts it to sleep when it is closed, so that every boot is a cold one,
unless a holder (:mod:`amdrv.vfio.hold`, ``amdrv hold``) keeps it open: the holder is asked first.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from amdrv.errors import CardBusyError, HalError, MappingError, NoCardError
from amdrv.hal import Existing, PciFunction, Region, host_memory
from amdrv.hal.config_space import COMMAND, COMMAND_MASTER, COMMAND_MEMORY, CheckedConfig
from amdrv.hal.contiguous import allocate_contiguous
from amdrv.hal.pinned import PinnedMapping, describe, lock_card, pci_paths, pin, unlock_card
from amdrv.hal.region import MappedRegion
from amdrv.vfio.device import VfioDevice
from amdrv.vfio.hold import HOLDERS, Handed, Holder, ask
from amdrv.vfio.interrupts import EventInterrupt, Notice
from amdrv.vfio.iommu import Iommu, Iommufd, NoIommu, Type1
from amdrv.vfio.reset import hot_reset

__all__ = ["MODES", "VfioHal"]

T = TypeVar("T")
MODES: dict[str, Callable[..., Iommu]] = {"iommufd": Iommufd, "type1": Type1, "noiommu": NoIommu}


class _Device:
    """:class:`amdrv.hal.PciDevice` over a VFIO device descriptor."""

    def __init__(self, path: Path, iommu: Iommu, lock: int, dma_bits: int, handed: Handed | None = None) -> None:
        self.function, self.page_size, self.dma_bits, self._path = describe(path), mmap.PAGESIZE, dma_bits, path
        self.iommu, self._lock = iommu, lock
        self.mappings: set[PinnedMapping] = set()
        self._regions: dict[int, MappedRegion] = {}
        self._interrupt: EventInterrupt | None = None
        self._request: Notice | None = None
        self._handed = handed
        self.vfio = VfioDevice(handed.device if handed else iommu.open_device(path), path.name)
        try:
            self.config = CheckedConfig(self.vfio.config_read, self.vfio.config_write)
            self.config.update(COMMAND, 2, set=COMMAND_MEMORY, clear=COMMAND_MASTER)
            self._sizes = {i: size for i in range(6) if (size := self.vfio.region(i).size)}
        except BaseException:
            self.vfio.close()
            raise
        self._open = True

    @property
    def kind(self) -> str:
        """Which of the three ways this is."""
        return self.iommu.kind

    def require_open(self) -> None:
        if not self._open:
            raise HalError(f"{self.function.address} is closed; open it again through the HAL")

    def bar_sizes(self) -> dict[int, int]:
        return dict(self._sizes)

    def bar(self, index: int) -> Region:
        self.require_open()
        if index not in self._sizes:
            raise MappingError(f"{self.function.address} has no memory BAR{index}; it has {sorted(self._sizes)}")
        if index not in self._regions:
            self._regions[index] = self.vfio.map_region(
                index, memory_like=index == 0, bus_address=None if self.iommu.translates else self._bus_address(index))
        return self._regions[index]

    def _bus_address(self, index: int) -> int:
        """Where a BAR is on the bus, as sysfs tells; what a peer without an IOMMU between must use."""
        return int((self._path / "resource").read_text().splitlines()[index].split()[0], 16)

    def alloc_dma(self, size: int, *, contiguous: bool = False) -> PinnedMapping:
        self.require_open()
        contiguous = contiguous and not self.iommu.translates   # behind a translating IOMMU everything is, to the card
        size = host_memory.whole_pages(size, self.page_size)
        memory, view = allocate_contiguous(size) if contiguous else host_memory.allocate(size, contiguous=False)
        return self._map(view, memory, contiguous=contiguous)

    def map_dma(self, memory: Existing, size: int) -> PinnedMapping:
        self.require_open()
        return self._map(host_memory.as_bytes(memory, size, self.page_size), memory)

    def _map(self, view: np.ndarray, owner: object, *, contiguous: bool = False) -> PinnedMapping:
        if not self.iommu.translates:
            return pin(self.mappings, view, owner, self.dma_bits, contiguous=contiguous)
        iova = self.iommu.map(int(view.ctypes.data), view.nbytes)

        def unmap(_owner: object = owner) -> None:
            self.iommu.unmap(iova)
        return PinnedMapping(self.mappings, view, view.nbytes, [(iova, view.nbytes)], unmap)

    def map_peer(self, region: Region) -> PinnedMapping:
        """Through the peer's mmapped BAR. iommufd refuses that (EFAULT; seen on Linux 6.12): :class:`MappingError`."""
        self.require_open()
        if not isinstance(region, MappedRegion):
            raise MappingError("map_peer takes a BAR of another card of the same HAL")
        if not self.iommu.translates:
            if region.bus_address is None:
                raise MappingError("without an IOMMU a peer's bus address is needed: open the peer by vfio:noiommu too")
            return PinnedMapping(self.mappings, None, region.size, [(region.bus_address, region.size)], lambda: None)
        try:
            iova = self.iommu.map(region.address(), region.size)
        except MappingError as error:
            if isinstance(self.iommu, Iommufd):
                raise MappingError(f"iommufd maps no card's BAR for another ({error}): copy through host memory, or "
                                   "use AMDRV_HAL=vfio:type1 for both cards") from error
            raise
        return PinnedMapping(self.mappings, None, region.size, [(iova, region.size)], lambda: self.iommu.unmap(iova))

    def interrupt(self) -> EventInterrupt | None:
        self.require_open()
        if self._interrupt is None:
            self._interrupt = EventInterrupt(self.vfio)
        return self._interrupt

    def release_request(self) -> Notice:
        """The kernel's notice that somebody wants the card back (it is being unbound or unplugged): whoever asks waits
        until this device is closed. :raises HalError: this kernel gives none."""
        self.require_open()
        if self._request is None:
            self._request = Notice(self.vfio, "request")
        return self._request

    def fence(self) -> None:
        """VFIO maps BARs uncached: stores reach the card in order, and a read pushes posted ones through."""
        if 5 in self._regions:
            self._regions[5].read32(0)

    def reset(self) -> None:
        """The function's own reset where it has one, else that of its slot or bus, if all of it is ours."""
        self.require_open()
        if self.vfio.can_reset:
            self.vfio.reset()
        else:
            hot_reset(self.vfio, self.iommu.reset_groups())
        self.config.update(COMMAND, 2, set=COMMAND_MEMORY, clear=COMMAND_MASTER)

    def close(self) -> None:
        """Stop the card's DMA, unmap everything, and give the card back. Idempotent."""
        if not self._open:
            return
        self._open = False
        with contextlib.suppress(HalError, OSError):       # a card that was pulled out cannot be asked any more
            self.config.update(COMMAND, 2, clear=COMMAND_MASTER)
        for notice in (self._interrupt, self._request):
            if notice is not None:
                with contextlib.suppress(HalError):
                    notice.close()
        for mapping in list(self.mappings):
            mapping.close()
        for region in self._regions.values():
            region.close()
        self._regions.clear()
        self.vfio.close()
        self.iommu.close()
        if self._handed is not None:
            self._handed.connection.close()
        unlock_card(self._lock)

    def __enter__(self) -> _Device:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class VfioHal:
    """:class:`amdrv.hal.Hal` over VFIO.

    :param mode: iommufd, type1 or noiommu; None takes the first of these that works for the card.
    """

    name = "vfio"

    def __init__(self, mode: str | None = None, *, paths: Callable[[], Iterable[Path]] = pci_paths,
                 dev: Path = Path("/dev"), lock_directory: Path | None = None, holders: Path = HOLDERS) -> None:
        if mode is not None and mode not in MODES:
            raise HalError(f"VFIO mode {mode!r} is not known; use {', '.join(MODES)}")
        self.mode, self.paths, self._dev, self._holders = mode, paths, dev, holders
        shared = Path("/run/lock")
        self.lock_directory = lock_directory or (shared if shared.is_dir() else Path(tempfile.gettempdir()))

    @property
    def firmware(self) -> Sequence[Path]:
        return ()

    def functions(self, vendor: int | None = None) -> list[PciFunction]:
        return [f for f in map(describe, self.paths()) if vendor in (None, f.vendor)]

    def available(self, path: Path) -> list[str]:
        """The modes whose device files are there for a card, best first."""
        group = path / "iommu_group"
        number = group.resolve().name if group.exists() else None
        there = {"iommufd": (self._dev / "iommu").exists() and (path / "vfio-dev").is_dir(),
                 "type1": number is not None and (self._dev / "vfio" / number).exists(),
                 "noiommu": number is not None and (self._dev / "vfio" / f"noiommu-{number}").exists()}
        return [mode for mode in MODES if there[mode]]

    def open(self, address: str, *, dma_bits: int = 44) -> _Device:
        path = self._bound(address)
        lock = lock_card(self.lock_directory, address)
        try:
            handed = ask(address, self._holders)
            if handed is not None:
                return self._adopt(handed, path, lock, dma_bits)
            return self._first_that_works(path, lambda mode: self._try(mode, path, lock, dma_bits))
        except BaseException:
            unlock_card(lock)
            raise

    def hold(self, address: str, *, say: Callable[[str], None] = lambda text: None) -> Holder:
        """Keep a card open for others: see :class:`amdrv.vfio.hold.Holder`."""
        path = self._bound(address)

        def start(mode: str) -> Holder:
            iommu = MODES[mode](dev=self._dev)
            try:
                return Holder(path, mode, iommu, directory=self._holders, say=say)
            except BaseException:
                iommu.close()
                raise
        return self._first_that_works(path, start)

    def _bound(self, address: str) -> Path:
        """The sysfs directory of a function that vfio-pci has."""
        for path in self.paths():
            if path.name == address:
                break
        else:
            raise NoCardError(f"no PCI function {address!r} on this machine")
        driver = describe(path).driver
        if driver != "vfio-pci":
            raise CardBusyError(f"{address} is bound to {driver or 'no driver'}, not to vfio-pci; bind it: "
                                f"amdrv-info bind {address}")
        return path

    def _first_that_works(self, path: Path, attempt: Callable[[str], T]) -> T:
        modes = [self.mode] if self.mode else self.available(path)
        if not modes:
            raise HalError(f"VFIO offers no way to {path.name}: no /dev/vfio/GROUP, no /dev/iommu. Load vfio-pci and "
                           "vfio_iommu_type1, and switch the IOMMU on")
        refused = []
        for mode in modes:
            try:
                return attempt(mode)
            except CardBusyError:
                raise
            except HalError as error:
                refused.append(f"{mode}: {error}")
        raise HalError(f"VFIO cannot open {path.name}. " + "; ".join(refused))

    def _adopt(self, handed: Handed, path: Path, lock: int, dma_bits: int) -> _Device:
        left = [handed.device, *handed.iommu]       # whose owner is nobody yet
        iommu: Iommu | None = None
        try:
            if self.mode not in (None, handed.mode):
                raise HalError(f"{path.name} is held by {handed.mode}, and was asked for by {self.mode}: use "
                               f"AMDRV_HAL=vfio, or hold it with --mode {self.mode}")
            adopt: dict[str, Callable[..., Iommu]] = {"iommufd": Iommufd.adopt, "type1": Type1.adopt,
                                                      "noiommu": NoIommu.adopt}
            iommu, left = adopt[handed.mode](handed.iommu, handed.number, dma_bits), []
            return _Device(path, iommu, lock, dma_bits, handed)
        except BaseException:
            for fd in left:
                os.close(fd)
            if iommu is not None:
                iommu.close()
            handed.connection.close()
            raise

    def _try(self, mode: str, path: Path, lock: int, dma_bits: int) -> _Device:
        options = {} if mode == "noiommu" else {"iova_bits": dma_bits}
        iommu = MODES[mode](dev=self._dev, **options)
        try:
            return _Device(path, iommu, lock, dma_bits)
        except BaseException:
            iommu.close()
            raise
