"""What the driver may ask of a machine, and nothing else.

Everything above this package is the same on Linux sysfs, VFIO, vfio-user and the mock: nothing there opens
a file of /sys or /dev, calls mmap or ioctl, or asks which platform it is on. Every implementation passes the
contract in ``tests/hal/contract.py``.

A *device address* is what one particular card must use to reach memory: a physical address, an IOVA, or an
address on the mock's bus. It is only ever taken from ``.segments``; nobody computes one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from amdrv.errors import HalError, NoCardError

__all__ = ["ConfigSpace", "DmaBuffer", "DmaMapping", "Existing", "Hal", "Interrupt", "PciDevice", "PciFunction",
           "Region", "Segment", "select", "AMD_VENDOR_ID"]

AMD_VENDOR_ID = 0x1002

Segment = tuple[int, int]
"""(device address, bytes), both multiples of 4096."""


@dataclass(frozen=True)
class PciFunction:
    """One PCI function as enumeration sees it; opening is not needed."""

    address: str            # "0000:03:00.0"
    vendor: int
    device: int
    class_code: int         # 24 bits, e.g. 0x030000 for a VGA controller
    revision: int = 0
    subsystem: tuple[int, int] = (0, 0)
    driver: str | None = None       # the kernel driver that holds it, where there is one

    @property
    def is_display(self) -> bool:
        """Whether it is a display controller (class 03) or an accelerator (class 12 00); an audio function is not."""
        return self.class_code >> 16 == 0x03 or self.class_code >> 8 == 0x1200


class ConfigSpace(Protocol):
    """PCI configuration space. ``width`` is 1, 2 or 4 bytes and offsets are aligned to it."""

    def read(self, offset: int, width: int) -> int:
        """The value (unsigned) of 1, 2 or 4 bytes at ``offset``, by one access of that width."""
    def write(self, offset: int, width: int, value: int) -> None:
        """Store 1, 2 or 4 bytes at ``offset``, by one access of that width."""
    def capability(self, capability_id: int) -> int | None:
        """Offset of a capability (list at 0x34), or None."""
    def extended_capability(self, capability_id: int) -> int | None:
        """Offset of a PCIe extended capability (list at 0x100), or None."""


class Region(Protocol):
    """A mapped BAR. The read/write methods make exactly one aligned access of that width."""

    @property
    def size(self) -> int:
        """Bytes."""
    def read32(self, offset: int) -> int:
        """One load of 4 bytes. ``offset`` is in bytes, aligned."""
    def write32(self, offset: int, value: int) -> None:
        """One store of 4 bytes. ``offset`` is in bytes, aligned."""
    def read64(self, offset: int) -> int:
        """One load of 8 bytes. ``offset`` is in bytes, aligned."""
    def write64(self, offset: int, value: int) -> None:
        """One store of 8 bytes. ``offset`` is in bytes, aligned."""
    def view(self, offset: int, size: int, dtype: npt.DTypeLike = np.uint8) -> np.ndarray:
        """A live array over memory-like apertures (VRAM). For registers: :class:`HalError`."""


class DmaMapping(Protocol):
    """Memory that the card may reach. ``view`` is this process's bytes (uint8), or None for a peer's BAR."""

    @property
    def size(self) -> int:
        """Bytes, a multiple of 4096."""
    @property
    def view(self) -> np.ndarray | None:
        """This process's bytes of it (uint8[size]), live; None for a peer's BAR."""
    @property
    def segments(self) -> Sequence[Segment]:
        """Where the card finds it: (device address, bytes) pairs, in the order of the memory's bytes."""
    def close(self) -> None:
        """Take the card's way to this memory away; engines must be done with it. A second call does nothing."""


class DmaBuffer(DmaMapping, Protocol):
    """A :class:`DmaMapping` that owns its memory; ``view`` is always there. Released by ``close``."""

    @property
    def view(self) -> np.ndarray:
        """This process's bytes of it (uint8[size]), live."""


Existing = DmaMapping | np.ndarray | int
"""Memory of this process that a card may be let at: what a card has already, an array, an address."""


class Interrupt(Protocol):
    """A card's message-signalled interrupt: something to select on, and to sleep for."""

    def fileno(self) -> int:
        """A selectable descriptor, readable while an interrupt is pending."""
    def wait(self, timeout: float | None = None) -> int:
        """Sleep until an interrupt comes; returns how many came since the last call, 0 on timeout."""
    def renew(self) -> None:
        """After a reset that the machine did not see (the card's own): set the card's interrupt up again, on the same
        descriptor."""
    def close(self) -> None:
        """Switch the interrupt off and give the descriptor back."""


@runtime_checkable
class PciDevice(Protocol):
    """A card opened for exclusive use; a context manager that gives it back."""

    @property
    def function(self) -> PciFunction:
        """What enumeration said of it."""
    @property
    def config(self) -> ConfigSpace:
        """Its configuration space."""
    @property
    def page_size(self) -> int:
        """Of the host, bytes: the granule of alloc_dma and map_dma."""
    def bar(self, index: int) -> Region:
        """A BAR, mapped.

        :raises MappingError: there is no such BAR, or it is not memory.
        """
    def bar_sizes(self) -> dict[int, int]:
        """{BAR index: bytes} of the BARs that are there."""
    def alloc_dma(self, size: int, *, contiguous: bool = False) -> DmaBuffer:
        """Zeroed host memory; ``contiguous`` asks for one segment."""
    def map_dma(self, memory: Existing, size: int) -> DmaMapping:
        """Map memory that exists already: an array, the address of page-aligned memory, or what another device has of
        the host's (its alloc_dma or map_dma)."""
    def map_peer(self, region: Region) -> DmaMapping:
        """Map another device's BAR; the only way to a peer's address."""
    def interrupt(self) -> Interrupt | None:
        """Enable the card's interrupt; None where this HAL has none, then the IH ring is polled."""
    def fence(self) -> None:
        """Order earlier stores before later ones and drain write-combining. Before every doorbell."""
    def reset(self) -> None:
        """Reset the function by the best way that the bus has (FLR, bus). What the driver had set up is gone."""
    def close(self) -> None:
        """Give the card back: mappings, interrupt, lock; bus mastering is off afterwards. A second call does
        nothing."""
    def __enter__(self) -> PciDevice: ...
    def __exit__(self, *exc: object) -> None: ...


class Hal(Protocol):
    """A way to the machine: which cards there are, and opening one. :func:`select` finds the one that is asked for."""

    @property
    def name(self) -> str:
        """The word of ``AMDRV_HAL`` for it."""
    @property
    def firmware(self) -> Sequence[Path]:
        """Directories with firmware files, looked through after AMDRV_FIRMWARE."""
    def functions(self, vendor: int | None = None) -> list[PciFunction]:
        """All PCI functions, or those of a vendor (``AMD_VENDOR_ID``), in the order of their addresses."""
    def open(self, address: str, *, dma_bits: int = 44) -> PciDevice:
        """Exclusive and locked. :raises NoCardError, CardBusyError, HalError:"""


def select(name: str | None = None) -> Hal:
    """The HAL that ``name`` or ``AMDRV_HAL`` asks for: auto (default), vfio, vfio:MODE, vfio-user:SOCKET,
    sysfs or mock.

    ``auto`` takes a real card where there is one that may be opened, and otherwise raises
    :class:`NoCardError`; it never falls back to the mock by itself.
    """
    name = name or os.environ.get("AMDRV_HAL") or "auto"
    if name == "mock":
        from amdrv.hal.mock import MockHal
        return MockHal.shared()
    if name == "sysfs":
        return _linux("sysfs")
    if name.split(":")[0] == "vfio":
        return _linux("vfio", name.partition(":")[2] or None)
    if name.split(":")[0] == "vfio-user":
        if sys.platform != "linux":
            raise HalError("the vfio-user HAL needs Linux: memory is passed to the server as memfd")
        from amdrv.hal.vfio_user import VfioUserHal
        return VfioUserHal(name.partition(":")[2].split(",") if ":" in name else [])
    if name == "auto":
        return _real_card()
    raise HalError(f"AMDRV_HAL={name!r} is not known; use auto, vfio, vfio:iommufd, vfio:type1, vfio:noiommu, "
                   "vfio-user:SOCKET, sysfs or mock")


_USE_MOCK = "set AMDRV_HAL=mock to use the software card"


def _real_card() -> Hal:
    """VFIO where a card is bound to vfio-pci, sysfs where one has no driver."""
    try:
        hal = _linux("sysfs")
        cards = [f for f in hal.functions(AMD_VENDOR_ID) if f.is_display]
    except (HalError, OSError) as error:
        raise NoCardError(f"no AMD GPU can be looked for here ({error}); {_USE_MOCK}") from error
    if not cards:
        raise NoCardError(f"no AMD GPU on this machine; {_USE_MOCK}")
    if any(f.driver == "vfio-pci" for f in cards):
        return _linux("vfio")
    if all(f.driver for f in cards):
        held = ", ".join(f"{f.address} ({f.driver})" for f in cards)
        raise NoCardError(f"every AMD GPU here is held by a kernel driver: {held}; bind one to vfio-pci, "
                          f"or {_USE_MOCK}")
    return hal


def _linux(name: str, mode: str | None = None) -> Hal:
    try:
        import fcntl  # noqa: F401

        import pyudev  # noqa: F401
    except ImportError as error:
        raise HalError(f"the {name} HAL needs Linux and pyudev: {error}") from error
    if name == "sysfs":
        from amdrv.hal.sysfs import SysfsHal
        return SysfsHal()
    from amdrv.hal.vfio import VfioHal
    return VfioHal(mode)
