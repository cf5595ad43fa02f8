"""A card's PCI side, read from its configuration space: link, BARs, what is switched on.

Offsets and bits: PCI Local Bus Specification 3.0, 6.2; PCI Express Base Specification 4.0, 7.5.3 and 7.8.6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from amdrv.hal import ConfigSpace

__all__ = ["Aer", "Bar", "Link", "Pci", "ResizableBar", "read_pci"]

COMMAND, BARS = 0x04, 0x10
BUS_MASTER = 1 << 2
CAP_MSI, CAP_EXPRESS, CAP_RESIZABLE_BAR, CAP_AER = 0x05, 0x10, 0x0015, 0x0001
AER_UNCORRECTABLE, AER_CORRECTABLE = 0x04, 0x10             # status registers in the AER capability (7.8.4)
UNCORRECTABLE = {4: "data link protocol", 5: "surprise down", 12: "poisoned TLP", 13: "flow control protocol",
                 14: "completion timeout", 15: "completer abort", 16: "unexpected completion", 17: "receiver overflow",
                 18: "malformed TLP", 19: "ECRC", 20: "unsupported request", 21: "ACS violation",
                 22: "uncorrectable internal", 24: "AtomicOp egress blocked"}
CORRECTABLE = {0: "receiver", 6: "bad TLP", 7: "bad DLLP", 8: "replay number rollover", 12: "replay timer timeout",
               13: "advisory non-fatal", 14: "corrected internal", 15: "header log overflow"}
LINK_CAPABILITIES, LINK_STATUS, DEVICE_CONTROL_2 = 0x0C, 0x12, 0x28     # in the PCI Express capability
ATOMIC_REQUESTER = 1 << 6
SPEEDS = {1: 2.5, 2: 5.0, 3: 8.0, 4: 16.0, 5: 32.0, 6: 64.0}            # GT/s, by the link speed encoding
MIB = 1 << 20

ROLES = {0: "VRAM", 2: "doorbells", 4: "I/O", 5: "registers"}
"""What the BARs of an AMD GPU are for (Linux 6.1, amdgpu_device.c, amdgpu_device_init)."""


@dataclass(frozen=True)
class Link:
    """PCI Express link; speeds in GT/s a lane, 0 where the encoding is unknown."""

    speed: float
    width: int
    max_speed: float
    max_width: int

    @property
    def degraded(self) -> bool:
        return (self.speed, self.width) != (self.max_speed, self.max_width)


@dataclass(frozen=True)
class Bar:
    index: int
    role: str
    size: int           # bytes
    address: int        # bus address
    kind: str           # "64-bit prefetchable", "32-bit", "I/O"


@dataclass(frozen=True)
class ResizableBar:
    """The resizable BAR capability's first entry; sizes in bytes."""

    index: int
    size: int
    supported: tuple[int, ...]


@dataclass(frozen=True)
class Aer:
    """What advanced error reporting has recorded since somebody cleared it: names of errors."""

    correctable: tuple[str, ...]
    uncorrectable: tuple[str, ...]


@dataclass(frozen=True)
class Pci:
    link: Link | None               # None: not PCI Express
    bars: tuple[Bar, ...]
    resizable: ResizableBar | None
    bus_master: bool
    msi: bool | None                # enabled; None: no such capability
    atomics: bool | None            # this card may send AtomicOps; None: not PCI Express
    aer: Aer | None                 # None: no such capability


class _Readable(Protocol):
    @property
    def config(self) -> ConfigSpace: ...
    def bar_sizes(self) -> dict[int, int]: ...


def read_pci(device: _Readable) -> Pci:
    """Everything of :class:`Pci`, by reads alone."""
    config = device.config
    express, msi = config.capability(CAP_EXPRESS), config.capability(CAP_MSI)
    return Pci(
        link=_link(config, express) if express is not None else None,
        bars=tuple(_bar(config, index, size) for index, size in sorted(device.bar_sizes().items())),
        resizable=_resizable(config),
        bus_master=bool(config.read(COMMAND, 2) & BUS_MASTER),
        msi=None if msi is None else bool(config.read(msi + 2, 2) & 1),
        atomics=None if express is None else bool(config.read(express + DEVICE_CONTROL_2, 2) & ATOMIC_REQUESTER),
        aer=_aer(config),
    )


def _aer(config: ConfigSpace) -> Aer | None:
    at = config.extended_capability(CAP_AER)
    if at is None:
        return None
    correctable, uncorrectable = config.read(at + AER_CORRECTABLE, 4), config.read(at + AER_UNCORRECTABLE, 4)
    return Aer(*(tuple(names.get(bit, f"bit {bit}") for bit in range(32) if value >> bit & 1)
                 for value, names in ((correctable, CORRECTABLE), (uncorrectable, UNCORRECTABLE))))


def _link(config: ConfigSpace, express: int) -> Link:
    able, now = config.read(express + LINK_CAPABILITIES, 4), config.read(express + LINK_STATUS, 2)
    return Link(SPEEDS.get(now & 0xF, 0), now >> 4 & 0x3F, SPEEDS.get(able & 0xF, 0), able >> 4 & 0x3F)


def _bar(config: ConfigSpace, index: int, size: int) -> Bar:
    low = config.read(BARS + 4 * index, 4)
    if low & 1:
        return Bar(index, ROLES.get(index, ""), size, low & ~0x3, "I/O")
    wide = low >> 1 & 3 == 2
    address = low & ~0xF | (config.read(BARS + 4 * index + 4, 4) << 32 if wide else 0)
    return Bar(index, ROLES.get(index, ""), size, address,
               ("64-bit" if wide else "32-bit") + (" prefetchable" if low & 8 else ""))


def _resizable(config: ConfigSpace) -> ResizableBar | None:
    at = config.extended_capability(CAP_RESIZABLE_BAR)
    if at is None:
        return None
    able, control = config.read(at + 4, 4), config.read(at + 8, 4)
    # bits 31:4 of the capability stand for 1 MiB to 128 TiB, the upper half of the control for more
    sizes = tuple(MIB << bit for bit in range(28) if able >> (4 + bit) & 1)
    sizes += tuple(MIB << (28 + bit) for bit in range(16) if control >> (16 + bit) & 1)
    return ResizableBar(control & 7, MIB << (control >> 8 & 0x3F), sizes)
