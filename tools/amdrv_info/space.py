"""``vm map``: everything that a VMID's page tables map, in ranges; how much of it, and of VRAM, that is.

Tables are read whole and walked as arrays. Sources: Linux 6.1, amdgpu_vm.h (entries), gfxhub_v3_0.c (contexts).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from amdrv.dump import FB_OFFSET_SHIFT, INDEX_BITS, TABLE_ADDRESS, Dump
from amdrv.errors import AmdrvError, PageTableError
from amdrv.facts import vm
from amdrv.mmu.pte import ADDRESS_MASK, HUGE, SYSTEM, VALID, Entry
from tools.amdrv_info.source import PAGE, buffers_of

__all__ = ["draw", "map_document", "save", "tables_of"]

FRAGMENT = (1 << vm.FIELDS["FRAG"][0] + 1) - (1 << vm.FIELDS["FRAG"][1])
ATTRIBUTES = ~(ADDRESS_MASK | FRAGMENT)
"""What two entries must share to be of one range: all but address and fragment."""
VMIDS = 16
CELLS = 64                      # of the picture of VRAM
MOST_TABLES = 1 << 18           # a sound set of tables for 48 bits of 4 KiB pages in use is far smaller
Array = np.ndarray


@dataclass
class _Found:
    """Leaves in the order of their addresses: (virtual page, pages, entry)."""

    pages: list[Array] = field(default_factory=list)
    counts: list[Array] = field(default_factory=list)
    entries: list[Array] = field(default_factory=list)
    tables: int = 0
    read: list[tuple[bool, int, bytes]] = field(default_factory=list)       # (host memory?, address or offset, bytes)
    problems: list[str] = field(default_factory=list)


class _Walker:
    def __init__(self, source: Dump, hub: str, vmid: int) -> None:
        if not 0 <= vmid < VMIDS:
            raise PageTableError(f"no VMID {vmid} of hub {hub!r}: VMIDs are 0 to {VMIDS - 1}")
        context = f"{hub.upper()}VM_CONTEXT{vmid}_"
        cntl = source.register(context + "CNTL")
        if not cntl.enable_context:
            raise PageTableError(f"VMID {vmid} of the {hub} hub is off: {context}CNTL is {int(cntl):#x}")
        self.source, self.hub = source, hub
        self.depth, self.block = int(cntl.page_table_depth), INDEX_BITS + int(cntl.page_table_block_size)
        self.first, self.last, self.base = (
            source.register(f"{context}PAGE_TABLE_{what}_ADDR_LO32")
            | source.register(f"{context}PAGE_TABLE_{what}_ADDR_HI32") << 32 for what in ("START", "END", "BASE"))
        self.offset = int(source.register(f"{hub.upper()}MC_VM_FB_OFFSET")) << FB_OFFSET_SHIFT
        self.found = _Found()

    def run(self) -> _Found:
        self._table(self.base, self.depth - 1, 0)
        return self.found

    def _read(self, entry: int, count: int) -> Array | None:
        self.found.tables += 1
        if self.found.tables > MOST_TABLES:
            raise PageTableError(f"more than {MOST_TABLES} tables: the page tables run in a circle or are damaged")
        address, system = entry & TABLE_ADDRESS, bool(entry & SYSTEM)
        address -= 0 if system else self.offset
        try:
            data = self.source.read("SYSRAM" if system else "VRAM", address, 8 * count)
        except AmdrvError as error:
            self.found.problems.append(f"a table at {address:#x}: {error}")
            return None
        self.found.read.append((system, address, data))
        return np.frombuffer(data, np.uint64)

    def _table(self, entry: int, level: int, page: int) -> None:
        """A directory (``level`` from depth - 1 to 0) or, at -1, a table of leaves; ``page`` is its first page."""
        if level < 0:
            granule = entry >> vm.PDE_BFS_SHIFT if self.depth else 0
            self._leaves(entry, page, granule)
            return
        shift = self.block + INDEX_BITS * level
        count = 1 << INDEX_BITS
        if level == self.depth - 1:             # the root is as long as the VMID's range asks for
            count = min(count, (self.last - self.first >> shift) + 1)
        table = self._read(entry, count)
        if table is None:
            return
        for index in np.flatnonzero(table & np.uint64(VALID)):
            each, at = int(table[index]), page + (int(index) << shift)
            if each & HUGE:
                self._add(np.array([at]), np.array([1 << shift]), np.array([each], np.uint64))
            else:
                self._table(each, level - 1, at)

    def _leaves(self, entry: int, page: int, granule: int) -> None:
        table = self._read(entry, 1 << self.block - granule)
        if table is None:
            return
        index = np.flatnonzero(table & np.uint64(VALID))
        further = (table[index] & np.uint64(vm.PTE_TF)) != 0 if granule else np.zeros(len(index), bool)
        plain = index[~further]
        self._add(page + (plain << granule), np.full(len(plain), 1 << granule), table[plain])
        for each in index[further]:             # the entry names a table of 4 KiB pages (translate further)
            inner = self._read(int(table[each]), 1 << granule)
            if inner is not None:
                ones = np.flatnonzero(inner & np.uint64(VALID))
                self._add(page + (int(each) << granule) + ones, np.ones(len(ones), np.int64), inner[ones])

    def _add(self, pages: Array, counts: Array, entries: Array) -> None:
        if len(pages):
            self.found.pages.append(np.asarray(pages, np.int64) + self.first)
            self.found.counts.append(np.asarray(counts, np.int64))
            self.found.entries.append(entries)


def map_document(source: Dump, hub: str, vmid: int) -> dict[str, Any]:
    """``vm map --json``: ranges of one VMID, ascending; bytes by kind; VRAM in use, as cells for a picture.

    :raises PageTableError: the VMID is off, or its tables make no sense.
    """
    walker = _Walker(source, hub, vmid)
    found = walker.run()
    ranges = _ranges(found, walker.offset)
    buffers = buffers_of(source)
    for each in ranges:
        each["owners"] = None if buffers is None else [
            str(b) for b in buffers
            if b.address < each["address"] + each["size"] and each["address"] < b.address + b.size]
    totals = {kind: sum(r["size"] for r in ranges if r["kind"] == kind) for kind in ("vram", "system")}
    return {"card": source.name, "hub": hub, "vmid": vmid, "depth": walker.depth, "tables": found.tables,
            "table_bytes": found.tables * PAGE, "bytes": totals, "ranges": ranges,
            "vram": _cells(source, ranges), "problems": found.problems}


def tables_of(source: Dump, hub: str, vmid: int) -> list[tuple[bool, int, bytes]]:
    """Every table of a VMID: (in host memory?, bus address or offset in VRAM, bytes)."""
    return _Walker(source, hub, vmid).run().read


def _ranges(found: _Found, offset: int) -> list[dict[str, Any]]:
    """Neighbouring leaves with the same attributes, physically one behind the other in VRAM, are one range; in host
    memory the pieces of a range lie where they will."""
    if not found.pages:
        return []
    pages, counts, entries = (np.concatenate(part) for part in (found.pages, found.counts, found.entries))
    order = np.argsort(pages, kind="stable")
    pages, counts, entries = pages[order], counts[order], entries[order]
    attributes = entries & np.uint64(ATTRIBUTES & 0xFFFF_FFFF_FFFF_FFFF & ~HUGE)
    physical = (entries & np.uint64(ADDRESS_MASK)).astype(np.int64)
    system = (entries & np.uint64(SYSTEM)) != 0
    touches = (pages[1:] == pages[:-1] + counts[:-1]) & (attributes[1:] == attributes[:-1])
    follows = physical[1:] == physical[:-1] + PAGE * counts[:-1]
    cut = np.flatnonzero(~(touches & (follows | system[1:]))) + 1
    ranges = []
    for start, end in zip([0, *cut], [*cut, len(pages)], strict=True):
        first = Entry(int(entries[start]))
        is_system = bool(first & SYSTEM)
        ranges.append({
            "address": int(pages[start]) * PAGE, "size": int(counts[start:end].sum()) * PAGE,
            "kind": "system" if is_system else "vram",
            "physical": int(physical[start]) - (0 if is_system else offset), "entries": int(end - start),
            "largest_page": int(counts[start:end].max()) * PAGE,
            "flags": repr(first).partition("mtype=")[2].rstrip(")").replace(" HUGE", "").replace(" VALID", "")})
    return ranges


def _cells(source: Dump, ranges: list[dict[str, Any]]) -> dict[str, Any]:
    """How full each of CELLS equal parts of VRAM is, by what is mapped. Memory that no table maps does not count."""
    size = source.vram_size
    if not size:
        return {"size": 0, "cells": []}
    taken = np.zeros(CELLS)
    cell = size / CELLS
    for each in ranges:
        if each["kind"] != "vram":
            continue
        start, end = each["physical"], each["physical"] + each["size"]
        for number in range(int(start // cell), min(CELLS, int(-(-end // cell)))):
            taken[number] += max(0.0, min(end, (number + 1) * cell) - max(start, number * cell))
    return {"size": size, "cells": [round(float(min(1.0, part / cell)), 4) for part in taken]}


def draw(document: dict[str, Any], path: str) -> None:
    """The map as a picture, PNG or SVG by the name's end.

    :raises AmdrvError: matplotlib is missing, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise AmdrvError(f"{path}: pictures need matplotlib; install it: pip install matplotlib") from None
    ranges = document["ranges"]
    figure = Figure(figsize=(10, 1.6 + 0.22 * max(len(ranges), 1)), layout="constrained")
    axes = figure.subplots(2, 1, height_ratios=[1, max(len(ranges), 1) / 3])
    size = document["vram"]["size"] or 1
    axes[0].set_title(f"{document['card']}: VMID {document['vmid']} of the {document['hub']} hub", loc="left")
    axes[0].set_xlim(0, size / 2**20)
    axes[0].set_yticks([])
    axes[0].set_xlabel("VRAM, MiB")
    for each in ranges:
        if each["kind"] == "vram":
            axes[0].barh(0, each["size"] / 2**20, left=each["physical"] / 2**20, color="tab:blue", edgecolor="white",
                         linewidth=0.3)
    names = [f"{each['address']:#x}" for each in ranges]
    axes[1].barh(names, [each["size"] / 1024 for each in ranges],
                 color=["tab:blue" if each["kind"] == "vram" else "tab:orange" for each in ranges])
    axes[1].set_xscale("log", base=2)
    axes[1].set_xlabel("KiB mapped (blue: VRAM, orange: host memory)")
    axes[1].invert_yaxis()
    axes[1].tick_params(labelsize=7)
    save(figure, path)


def save(figure: Any, path: str) -> None:
    """:raises AmdrvError: the picture cannot be written there."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:
        raise AmdrvError(f"{path}: the picture cannot be written: {error}") from error
