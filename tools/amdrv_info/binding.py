"""``amdrv-info bind`` and ``unbind``: a whole card to vfio-pci, and back to the drivers it had.

A card is all functions of its slot: the GPU's own audio function shares its IOMMU group. What each had is kept in a
file until ``unbind`` reads it.
"""

from __future__ import annotations

import json
from pathlib import Path

from amdrv.errors import HalError
from amdrv.vfio.bind import PCI_BUS, bind, unbind

__all__ = ["give", "give_back"]

RECORDS = Path("/run/amdrv")


def _slot(address: str, bus: Path) -> list[str]:
    if not (bus / "devices" / address).exists():
        raise HalError(f"no PCI function {address!r} on this machine; amdrv-info list shows the cards")
    slot = address.rpartition(".")[0]
    return sorted(p.name for p in (bus / "devices").iterdir() if p.name.rpartition(".")[0] == slot)


def give(address: str, *, bus: Path = PCI_BUS, records: Path = RECORDS) -> dict[str, str | None]:
    """Bind every function of the card to vfio-pci; returns {function: the driver that it had}.

    What was bound already is undone when a function refuses.
    """
    before: dict[str, str | None] = {}
    path = records / f"{address.rpartition('.')[0]}.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    try:
        for function in _slot(address, bus):
            had = bind(function, bus=bus)
            before[function] = kept.get(function) if had == "vfio-pci" else had
    except HalError:
        for function, had in before.items():
            unbind(function, restore=had, bus=bus)
        raise
    try:
        records.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(before))
    except OSError as error:
        raise HalError(f"the card is bound, but what it had cannot be kept in {path}: {error.strerror}") from error
    return before


def give_back(address: str, *, bus: Path = PCI_BUS, records: Path = RECORDS) -> dict[str, str | None]:
    """Restore what :func:`give` found; without its record, the functions are left with no driver."""
    path = records / f"{address.rpartition('.')[0]}.json"
    kept: dict[str, str | None] = json.loads(path.read_text()) if path.exists() else {}
    now = {function: kept.get(function) for function in _slot(address, bus)}
    for function, driver in now.items():
        unbind(function, restore=driver, bus=bus)
    path.unlink(missing_ok=True)
    return now
