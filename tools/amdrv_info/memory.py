"""``vm``: a walk of a card's page tables, level by level; of a card, or of a dump of one."""

from __future__ import annotations

from typing import Any

from amdrv.dump import Dump, DumpError
from tools.amdrv_info.source import covers, owner_of, place

__all__ = ["document", "number"]


def number(text: str) -> int:
    """A GPU virtual address. :raises DumpError: it is none."""
    try:
        value = int(text.replace("_", ""), 0)
    except ValueError:
        raise DumpError(f"{text!r} is no address; write 0x7f0000001000, or map for all of them") from None
    if not 0 <= value < 1 << 48:
        raise DumpError(f"{text} is no address of 48 bits")
    return value


def document(source: Dump, hub: str, vmid: int, address: int) -> dict[str, Any]:
    """``vm --json``; ``physical`` is null where the walk ends at an entry that is not valid, ``owner`` where nobody
    here knows the buffers.

    :raises AmdrvError: the VMID is off, its tables do not reach the address, or a table cannot be read.
    """
    steps = source.walk(hub, vmid, address)
    last = steps[-1].entry if steps else None
    valid = last is not None and bool(last.valid)
    physical = None
    if valid:
        space, at, _ = place(source, hub, vmid, address)
        physical = {"space": "vram" if space == "VRAM" else "system", "address": at,
                    "page_bytes": covers(source, hub, vmid, steps)}
    return {"hub": hub, "vmid": vmid, "address": address, "valid": valid, "physical": physical,
            "owner": owner_of(source, address),
            "steps": [{"level": step.level, "table": step.table, "index": step.number, "entry": int(step.entry),
                       "decoded": str(step.entry)} for step in steps]}
