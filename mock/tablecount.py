"""Counts page-table entries that the driver changed, as they stand at HDP flushes (``page_table_entries``).

The tables are found from the roots of the enabled contexts of both hubs, in VRAM; each page of a table counts once,
however many contexts share it. A page that was no table before counts its entries that are not zero; later each
entry whose value changed since the last look.
"""

from __future__ import annotations

import threading
from collections.abc import Set
from typing import TYPE_CHECKING

import numpy as np

from amdrv.facts import vm
from mock.actor import current, host
from mock.pagetable import ENTRY_BYTES, LEVEL_BITS, PDE_ADDRESS, Context

if TYPE_CHECKING:
    from mock.board import Board
    from mock.gmc import Gmc

__all__ = ["TableCount"]

PAGE = 4096


class TableCount:
    def __init__(self, board: Board, gmc: Gmc) -> None:
        self.board, self.gmc = board, gmc
        self._lock = threading.Lock()
        self._changed: set[int] = set()             # pages that a flush changed, since the last look
        self._known: dict[int, np.ndarray] = {}     # page -> its entries at the last look
        self._levels: dict[int, int] = {}           # page -> directory levels below it
        self.roots_changed = True
        board.vram.on_flush.append(self._pages_changed)

    def _pages_changed(self, pages: np.ndarray) -> None:
        self._changed.update(pages.tolist())

    def reset(self) -> None:
        with self._lock:
            self._changed.clear()
            self._known.clear()
            self.roots_changed = True

    def count(self) -> None:
        """Look at what changed; called after an HDP flush."""
        with self._lock:
            changed, self._changed = self._changed, set()
            if not self.board.vram.strict:      # stores reach memory unseen: every table is looked at
                changed = set(self._known)
            if not self.roots_changed and self._known.keys().isdisjoint(changed):
                return
            self.roots_changed = False
            found = self._find()
            vram, total = self.board.vram.view, 0
            for page in list(self._known):
                if page not in found:
                    del self._known[page]
            for page, entries in found.items():
                known = self._known.get(page)
                if known is not None and page not in changed and len(known) == entries:
                    continue
                now = vram[page * PAGE:page * PAGE + entries * ENTRY_BYTES].view(np.uint64).copy()
                if known is None or len(known) != entries:
                    total += int(np.count_nonzero(now))
                elif (count := int(np.count_nonzero(now != known))):
                    total += count
                    self.gmc.staleness.table_changed(page, self._levels[page], known, now, host())
                self._known[page] = now
            if total:
                self.board.counters["page_table_entries"] += total

    def stored(self, first: int, end: int) -> None:
        """An engine stored to pages [first, end) of video memory."""
        if end - first == 1:
            if first in self._known:
                self.stored_pages({first})
        elif pages := {page for page in list(self._known) if first <= page < end}:
            self.stored_pages(pages)

    def stored_pages(self, pages: Set[int]) -> None:
        """The same of some pages."""
        if self._known.keys().isdisjoint(pages):
            return
        with self._lock:
            for page, known in self._known.items():
                if page in pages:
                    now = self.board.vram.view[page * PAGE:page * PAGE + len(known) * ENTRY_BYTES].view(np.uint64)
                    if (now != known).any():
                        self.gmc.staleness.table_changed(page, self._levels[page], known, now, current())
                        self._changed.add(page)     # to be counted at the next flush

    def _find(self) -> dict[int, int]:
        """{page of VRAM: entries} of every table that a walk may reach."""
        found: dict[int, int] = {}
        self._levels.clear()
        for hub in self.gmc.hubs.values():
            config = hub.current()
            for context in config.contexts:
                if context.enabled and context.base & vm.PTE_VALID and not context.base & vm.PTE_SYSTEM:
                    self._descend(found, context, context.base, context.depth, context.tables_at_root(),
                                  config.fb_offset)
        return found

    def _descend(self, found: dict[int, int], context: Context, entry: int, level: int, entries: int,
                 fb_offset: int) -> None:
        """``level`` is the number of directory levels from this table down; 0 is a last-level table."""
        offset = (entry & PDE_ADDRESS) - fb_offset
        entries = min(entries, max(0, (self.board.vram.size - offset) // ENTRY_BYTES))
        if offset < 0 or offset % PAGE or not entries:
            return
        for row in range(0, entries, PAGE // ENTRY_BYTES):
            page = offset // PAGE + row // (PAGE // ENTRY_BYTES)
            rows = min(PAGE // ENTRY_BYTES, entries - row)
            if found.get(page, 0) >= rows:
                continue
            found[page] = rows
            self._levels[page] = level
            if level == 0:
                continue
            values = self.board.vram.view[page * PAGE:page * PAGE + rows * ENTRY_BYTES].view(np.uint64)
            below = values[(values & np.uint64(vm.PTE_VALID | vm.PTE_SYSTEM | vm.PDE_PTE) == np.uint64(vm.PTE_VALID))]
            size = 1 << (context.block if level == 1 else LEVEL_BITS)
            for value in below.tolist():
                self._descend(found, context, value, level - 1,
                              size >> (value >> vm.PDE_BFS_SHIFT) if level == 1 else size, fb_offset)
