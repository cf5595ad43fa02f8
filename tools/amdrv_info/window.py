"""``amdrv-info resize``: the card's window on its VRAM (BAR 0), made larger."""

from __future__ import annotations

import re
from pathlib import Path

from amdrv.errors import HalError
from amdrv.hal.resize import bar_size, resize
from amdrv.vfio.bind import PCI_BUS

__all__ = ["grow", "parse"]

UNITS = {"": 1, "M": 1 << 20, "G": 1 << 30}


def parse(text: str) -> int:
    """Bytes of "256M", "16G" or a plain number. :raises HalError: none of these."""
    found = re.fullmatch(r"(\d+)([MG]?)(?:i?B)?", text, re.I)
    if found is None:
        raise HalError(f"size {text!r} is not understood; write 256M, 16G or a number of bytes")
    return int(found[1]) * UNITS[found[2].upper()]


def grow(address: str, size: int | None = None, *, bus: Path = PCI_BUS) -> tuple[int, int]:
    """(bytes before, bytes after) of BAR 0. :raises HalError: no such function, or :func:`resize` says why not."""
    path = bus / "devices" / address
    if not path.exists():
        raise HalError(f"no PCI function {address!r} on this machine; amdrv-info list shows the cards")
    return bar_size(path, 0), resize(path, 0, size)
