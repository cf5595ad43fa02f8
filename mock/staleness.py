"""Notes on translations that a TLB still has after their page tables changed (rule ``tlb``): who changed, and who used.

Nothing is looked up per access: when a table that a walk may reach changes, the entries that TLBs have of it are read
anew, and those that differ are marked; an access that hits a mark is noted, once. The invalidation takes marks away.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from amdrv.facts import vm
from mock.actor import Actor, current
from mock.bus import BusError
from mock.pagetable import PAGE_SHIFT, Context, Huge, Table, WalkError, describe_entry, find_table, last_level

if TYPE_CHECKING:
    from mock.gmc import Gmc
    from mock.hub import Hub
    from mock.tlb import Tlb

__all__ = ["Mark", "Staleness"]

MISSING = (1 << 64) - 1     # of a TLB's slots: no page
INVALID = 0                 # in place of an entry that no walk finds any more


class Mark(NamedTuple):
    """A translation that is no longer what the tables say."""

    by: Actor
    old: int
    new: int


class Staleness:
    """Of both hubs of a card."""

    def __init__(self, gmc: Gmc) -> None:
        self.gmc, self.board = gmc, gmc.board

    # ---- who changed

    def table_changed(self, page: int, level: int, before: np.ndarray, now: np.ndarray, by: Actor) -> None:
        """Entries (uint64[n]) of a table in page ``page`` of video memory changed; ``level`` directory levels lie
        below it. What was not valid, no TLB has."""
        if not (before[before != now] & np.uint64(vm.PTE_VALID)).any():
            return
        for hub in self.gmc.hubs.values():
            if not hub.strict:
                continue
            with hub.lock:
                for vmid, tlb in hub.tlbs.items():
                    self._check(hub, vmid, tlb, by, None if level else page)

    def root_changed(self, hub: Hub, vmid: int) -> None:
        """The base address of a context was written."""
        tlb = hub.tlbs.get(vmid)
        if hub.strict and tlb is not None and (tlb.pages != np.uint64(MISSING)).any():
            with hub.lock:
                self._check(hub, vmid, tlb, current(), None)

    def _check(self, hub: Hub, vmid: int, tlb: Tlb, by: Actor, page: int | None) -> None:
        """``page``: of a last-level table; None: any directory."""
        config = hub.current()
        context = config.contexts[vmid]
        if vmid == 1 and config.identity[0] <= config.identity[1]:
            return                      # it has no tables to speak of
        slots = np.flatnonzero(tlb.pages != np.uint64(MISSING))
        regions = tlb.pages[slots] >> np.uint64(context.block)
        if page is None:
            wanted: Iterable[int] = set(np.unique(regions).tolist()) | set(tlb.walks)
        else:
            low = (page << PAGE_SHIFT) + config.fb_offset
            span = 8 << context.block
            wanted = [region for region, found in tlb.walks.items() if isinstance(found, Table)
                      and found.address <= low < found.address + span]
        for region in wanted:
            self._check_region(tlb, context, region, slots[regions == np.uint64(region)], by)

    def _check_region(self, tlb: Tlb, context: Context, region: int, slots: np.ndarray, by: Actor) -> None:
        pages = tlb.pages[slots]
        try:
            found = find_table(self._read, context, int(pages[0]) if len(pages) else max(region << context.block,
                                                                                         context.start))
            entries = last_level(self._read, context, found, pages) if len(pages) else pages
        except (WalkError, BusError):
            found, entries = None, np.full(len(pages), INVALID, np.uint64)
        known = tlb.walks.get(region)
        if isinstance(known, Table) and known != found:
            new = found.address if isinstance(found, Table) else found.entry if isinstance(found, Huge) else INVALID
            tlb.stale_walks[region] = Mark(by, known.address, new)
        else:
            tlb.stale_walks.pop(region, None)
        for number, old, new in zip(pages.tolist(), tlb.entries[slots].tolist(), entries.tolist(), strict=True):
            if old != new:
                tlb.stale[number] = Mark(by, old, new)
            else:
                tlb.stale.pop(number, None)

    def _read(self, addresses: np.ndarray, system: bool) -> np.ndarray:
        """Entries as a walker finds them, without a trace of the look. :raises BusError:"""
        if system:
            hosts = self.board.bus.translate_many(addresses, 8)
            return np.array([int.from_bytes(ctypes.string_at(int(host), 8), "little") for host in hosts], np.uint64)
        vram, gl2 = self.board.vram, self.gmc.gl2
        offsets = addresses - np.uint64(self.gmc.hubs["gc"].current().fb_offset)
        if (offsets >= np.uint64(vram.size)).any():
            raise BusError(int(addresses.max()), 8, "beyond the card's VRAM")
        values: np.ndarray = vram.view.view(np.uint64)[(offsets >> np.uint64(3)).astype(np.int64)]
        if gl2.waiting:
            for i, offset in enumerate(offsets.tolist()):
                twin = vram.twin_page(offset >> PAGE_SHIFT) if offset >> PAGE_SHIFT in gl2.waiting else None
                if twin is not None:
                    values[i] = twin.view(np.uint64)[(offset & (1 << PAGE_SHIFT) - 1) >> 3]
        return values

    # ---- who used

    def tell(self, hub: Hub, vmid: int, page: int, tlb: Tlb, who: Actor | None) -> None:
        """An access hits a marked translation."""
        mark = tlb.stale.pop(page, None)
        if mark is not None:
            self._note(hub, vmid, f"{who or current()} reaches {page << PAGE_SHIFT:#x} by what the TLB has",
                       describe_entry(mark.old), mark, "PTEs")

    def tell_walk(self, hub: Hub, vmid: int, page: int, region: int, tlb: Tlb, who: Actor | None) -> None:
        """A walk goes on from a directory entry that is marked."""
        mark = tlb.stale_walks.pop(region, None)
        if mark is not None:
            self._note(hub, vmid, f"{who or current()} reaches {page << PAGE_SHIFT:#x} by a directory that the TLB has",
                       f"table at {mark.old:#x}", mark, "PDEs")

    def _note(self, hub: Hub, vmid: int, use: str, old: str, mark: Mark, what: str) -> None:
        new = describe_entry(mark.new) if mark.new else "nothing valid"
        self.board.note("tlb", f"{use}, {old}, and not by what {mark.by} made of it, {new}: an invalidation of VMID "
                               f"{vmid} in the {hub.name.upper()} hub ({what} of L1 and L2, that page) is missing in "
                               "between")
