"""``vm``: an address walked through a card's page tables, level by level; of a card, or of a dump of one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from amdrv.dump import Dump, DumpError, Step
from amdrv.hal import Hal, Region
from amdrv.regs import RegisterFile, Value
from tools.amdrv_info import registers

__all__ = ["Live", "document", "live", "number"]


class Live(Dump):
    """A card in the place of a dump: registers are read, and VRAM is looked at through BAR 0."""

    def __init__(self, name: str, read: RegisterFile, vram: Region) -> None:
        super().__init__(name)
        self._read, self._vram = read, vram

    def register(self, name: str) -> Value:
        return self._read[name].read()

    def read(self, space: str, address: int, nbytes: int) -> bytes:
        if space != "VRAM":
            raise DumpError(f"{self.name}: page tables in system memory ({address:#x}) cannot be looked at from here")
        if not 0 <= address <= address + nbytes <= self._vram.size:
            raise DumpError(f"{self.name}: VRAM {address:#x} is outside of BAR 0's {self._vram.size:#x} bytes")
        return self._vram.view(address, nbytes).tobytes()


@contextmanager
def live(hal: Hal, address: str, *, boot: bool) -> Iterator[Dump]:
    """The card at a PCI address; with ``boot`` it is brought up first, otherwise taken as it is."""
    if boot:
        from amdrv.device import Device
        with Device.open(hal=hal, address=address) as device:
            yield Live(address, device.regs, device.pci.bar(0))
        return
    with registers.looked_at(hal, address) as (found, opened):
        yield Live(address, found, opened.bar(0))


def number(text: str) -> int:
    """A GPU virtual address. :raises DumpError: it is none."""
    try:
        value = int(text.replace("_", ""), 0)
    except ValueError:
        raise DumpError(f"{text!r} is no address; write 0x7f0000001000") from None
    if not 0 <= value < 1 << 48:
        raise DumpError(f"{text} is no address of 48 bits")
    return value


def document(steps: list[Step], hub: str, vmid: int, address: int) -> dict[str, Any]:
    """``vm --json``; ``physical`` is null where the walk ends at an entry that is not valid."""
    last = steps[-1].entry if steps else None
    valid = last is not None and bool(last.valid)
    return {"hub": hub, "vmid": vmid, "address": address, "valid": valid,
            "steps": [{"level": step.level, "table": step.table, "index": step.number, "entry": int(step.entry),
                       "decoded": str(step.entry)} for step in steps]}
