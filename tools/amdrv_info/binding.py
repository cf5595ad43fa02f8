"""``amdrv-info bind`` and ``unbind``: a whole card to vfio-pci, or one function to no driver, and back.

For VFIO a card is all functions of its slot: the GPU's own audio function shares its IOMMU group. The sysfs way needs
the GPU's function alone, with no driver, and leaves its siblings to theirs. What each had is kept in a file until
``unbind`` reads it.
"""

from __future__ import annotations

import json
from pathlib import Path

from amdrv.errors import HalError
from amdrv.hal.pinned import describe
from amdrv.vfio.bind import PCI_BUS, bind, probe, unbind
from amdrv.vfio.iommu import BOUND_DRIVER

__all__ = ["NO_DRIVER", "give", "give_back"]

RECORDS = Path("/run/amdrv")
NO_DRIVER = "none"


def _slot(address: str, bus: Path) -> list[str]:
    if not (bus / "devices" / address).exists():
        raise HalError(f"no PCI function {address!r} on this machine; amdrv-info list shows the cards")
    slot = address.rpartition(".")[0]
    return sorted(p.name for p in (bus / "devices").iterdir() if p.name.rpartition(".")[0] == slot)


def _record(address: str, records: Path) -> tuple[Path, dict[str, str | None]]:
    path = records / f"{address.rpartition('.')[0]}.json"
    try:
        return path, json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise HalError(f"{path}, which keeps what drivers the card had, is damaged: {error}; remove it") from error


def give(address: str, driver: str = BOUND_DRIVER, *, bus: Path = PCI_BUS,
         records: Path = RECORDS) -> dict[str, str | None]:
    """Bind every function of the card to ``driver``, or (:data:`NO_DRIVER`) take this function alone from its driver.

    Returns {function: the driver that it had}. What was done already is undone when a function refuses.
    """
    before: dict[str, str | None] = {}
    path, kept = _record(address, records)
    functions = _slot(address, bus)
    if driver == NO_DRIVER:
        functions = [address]
    had = {function: describe(bus / "devices" / function).driver for function in functions}
    _keep(path, had | kept)                     # first, so that whatever happens can be undone
    try:
        for function in functions:
            if driver == NO_DRIVER:
                unbind(function, bus=bus)
            else:
                bind(function, driver=driver, bus=bus)
            before[function] = kept.get(function, had[function])
    except HalError:
        for function, was in before.items():
            unbind(function, restore=was, bus=bus)
        _keep(path, kept)
        raise
    return before


def _keep(path: Path, drivers: dict[str, str | None]) -> None:
    try:
        if not drivers:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(drivers))
    except OSError as error:
        raise HalError(f"what drivers the card has cannot be kept in {path}: {error.strerror}; binding drivers needs "
                       "root") from error


def give_back(address: str, *, bus: Path = PCI_BUS, records: Path = RECORDS) -> dict[str, str | None]:
    """Restore what :func:`give` found. Without its record, functions that vfio-pci has go to whichever driver the
    kernel chooses. Returns {function: the driver that it has now}."""
    functions = _slot(address, bus)
    path, kept = _record(address, records)
    if kept:
        for function, driver in kept.items():
            unbind(function, restore=driver, bus=bus)
    else:
        for function in functions:
            if describe(bus / "devices" / function).driver == BOUND_DRIVER:
                unbind(function, bus=bus)
                probe(function, bus=bus)
    path.unlink(missing_ok=True)
    return {function: describe(bus / "devices" / function).driver for function in (kept or functions)}
