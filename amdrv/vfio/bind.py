"""Give a PCI function to ``vfio-pci``, and back to the driver it had.

The kernel's own way (Documentation/ABI/testing/sysfs-bus-pci): ``driver_override`` names the driver, ``unbind`` lets
the present one go, ``drivers_probe`` asks again.
"""

from __future__ import annotations

from pathlib import Path

from amdrv.errors import HalError
from amdrv.hal.pinned import describe
from amdrv.vfio.iommu import BOUND_DRIVER

__all__ = ["bind", "probe", "unbind"]

PCI_BUS = Path("/sys/bus/pci")


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text)
    except PermissionError as error:
        raise HalError(f"cannot write {path}: {error.strerror}; binding drivers needs root") from error
    except OSError as error:
        raise HalError(f"cannot write {text.strip()!r} to {path}: {error.strerror}") from error


def _give(address: str, driver: str, bus: Path) -> str | None:
    path = bus / "devices" / address
    if not path.exists():
        raise HalError(f"no PCI function {address!r} on this machine")
    before = describe(path).driver
    if before == (driver or None):
        return before
    _write(path / "driver_override", driver + "\n")
    if before is not None:
        _write(path / "driver" / "unbind", address)
    if driver:
        _write(bus / "drivers_probe", address)
        after = describe(path).driver
        if after != driver:
            _write(path / "driver_override", "\n")
            if before is not None:
                _write(bus / "drivers_probe", address)
            raise HalError(f"{address} did not go to {driver}: the kernel gave it to {after or 'no driver'}. "
                           f"Is the module loaded? modprobe {driver}")
    return before


def bind(address: str, *, driver: str = BOUND_DRIVER, bus: Path = PCI_BUS) -> str | None:
    """Give the function to ``driver``; returns the driver it had, for :func:`unbind`. A no-op when it has it."""
    return _give(address, driver, bus)


def unbind(address: str, *, restore: str | None = None, bus: Path = PCI_BUS) -> None:
    """Take the function from its driver; ``restore`` names the driver that shall have it (None: nobody)."""
    _give(address, restore or "", bus)
    if restore:     # without the override the kernel's own choice stands at the next boot
        _write(bus / "devices" / address / "driver_override", "\n")


def probe(address: str, *, bus: Path = PCI_BUS) -> str | None:
    """Let the kernel choose a driver for a function that has none; returns the one that took it."""
    path = bus / "devices" / address
    _write(path / "driver_override", "\n")
    _write(bus / "drivers_probe", address)
    return describe(path).driver
