"""Four-level page tables of one address space: PDB2 -> PDB1 -> PDB0 -> PTB, nine bits a level above 4 KiB pages.

Tables lie in VRAM. Reads over PCIe cost microseconds each, so every table has a shadow in host memory that is the
truth; the BAR window is only ever stored to, whole slices at a time. Each level of a mapping is computed as arrays
over all its entries at once (intervals -> entries -> slices of tables): no Python loop runs over pages, only over
tables.

Sizes of pages: 4 KiB (a PTE), 2 MiB and 1 GiB (a PDE of PDB0 or PDB1 with the HUGE bit), wherever address and memory
are aligned alike. The fragment field of every entry says how large the aligned and contiguous block around it is, by
the rule of Linux 6.1, amdgpu_vm_pt.c, amdgpu_vm_pte_fragment.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from amdrv.errors import PageTableError
from amdrv.mmu.pte import ADDRESS_MASK, FRAGMENT_SHIFT, HUGE, VALID, Entry

__all__ = ["ADDRESS_BITS", "PAGE_SHIFT", "PAGE_SIZE", "PageTables", "TableMemory"]

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
INDEX_BITS = 9
ENTRIES = 1 << INDEX_BITS
ADDRESS_BITS = 48
LEAF_SHIFTS = (30, 21, 12)          # 1 GiB, 2 MiB, 4 KiB: leaves of PDB1, PDB0, PTB
LEVEL_SHIFTS = (39, 30, 21, 12)     # what one entry spans, root first
LEVEL_NAMES = {39: "PDB2", 30: "PDB1", 21: "PDB0", 12: "PTB"}
MAX_FRAGMENT = 31

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]


class TableMemory(Protocol):
    """Where tables come from: 4 KiB pages of VRAM by offset from its start."""

    def allocate_table(self) -> int:
        """Offset of a page; its content is undefined. :raises OutOfMemoryError:"""
    def free_table(self, offset: int) -> None:
        """Give a table's page of VRAM back."""
    def view(self, offset: int, size: int, dtype: npt.DTypeLike) -> np.ndarray:
        """The page as the CPU writes it (through BAR0)."""


class _Table:
    """One table: 512 entries, in VRAM and in the shadow."""

    __slots__ = ("entries", "flushed", "fresh", "offset", "window")

    def __init__(self, offset: int, window: U64) -> None:
        self.offset, self.window = offset, window
        self.entries: U64 = np.zeros(ENTRIES, np.uint64)
        self.flushed: U64 = np.zeros(ENTRIES, np.uint64)    # what the GPU saw at the last flush
        self.fresh = True                                   # never written: VRAM holds anything


@dataclass(frozen=True)
class _Intervals:
    """Pieces of one page size, ordered by address. All in bytes; arrays of equal length."""

    start: I64      # virtual
    end: I64
    memory: I64     # physical or bus address of ``start``
    low: I64        # the contiguous run that the piece was cut from: fragments may not leave it
    high: I64


class PageTables:
    """The page tables of one address space.

    :param base: added to a table's VRAM offset to give the physical address that a PDE holds
        (MC_VM_FB_OFFSET; Linux 6.1, gmc_v11_0.c, gmc_v11_0_get_vm_pde).
    """

    def __init__(self, memory: TableMemory, *, base: int = 0) -> None:
        self.memory, self.base = memory, base
        self._tables: dict[tuple[int, int], _Table] = {}    # (shift, address >> (shift + 9)) -> table
        self._dirty: set[tuple[int, int]] = set()
        self._fresh: list[tuple[int, int]] = []
        self._retired: list[int] = []                       # tables unlinked but perhaps still in a walker's cache
        self._starts: list[int] = []                        # mapped ranges, by address
        self._mapped: dict[int, tuple[int, list[tuple[int, I64, I64]]]] = {}    # start -> end, leaves by level
        root = memory.allocate_table()
        self._add((LEVEL_SHIFTS[0], 0), root)
        self._store_fresh()

    # -- what the owner reads -----------------------------------------------------------------------------------

    @property
    def root(self) -> int:
        """Physical address of the root table (PDB2)."""
        return self.base + self._tables[LEVEL_SHIFTS[0], 0].offset

    @property
    def table_count(self) -> int:
        """Tables that exist, the root among them; each is a page of VRAM."""
        return len(self._tables)

    @property
    def has_retired(self) -> bool:
        """Tables were unlinked since the last TLB flush: walkers may still know them."""
        return bool(self._retired)

    def take_changes(self) -> int:
        """Entries whose value differs from what was last taken; call it with every HDP flush."""
        changed = 0
        for key in self._dirty:
            table = self._tables[key]
            changed += int(np.count_nonzero(table.entries != table.flushed))
            table.flushed[:] = table.entries
        self._dirty.clear()
        return changed

    def release_retired(self) -> None:
        """Give unlinked tables back; only after a TLB flush, since walkers cache directory entries."""
        for offset in self._retired:
            self.memory.free_table(offset)
        self._retired.clear()

    def restore(self) -> None:
        """Write every table whole from its shadow: the card was reset, and VRAM holds anything."""
        self.release_retired()
        for key, table in self._tables.items():
            table.window[:] = table.entries
            table.flushed[:] = 0
            self._dirty.add(key)

    def close(self) -> None:
        """Give every table back; the hubs must not point here any more."""
        self.release_retired()
        for table in self._tables.values():
            self.memory.free_table(table.offset)
        self._tables.clear()
        self._dirty.clear()

    # -- mapping ------------------------------------------------------------------------------------------------

    def map(self, address: int, segments: Sequence[tuple[int, int]] | npt.NDArray[np.integer], flags: int) -> int:
        """Map memory at ``address``, segment after segment; returns the bytes mapped.

        :param segments: (physical or bus address, bytes) pairs, or an integer array of shape (n, 2).
        :param flags: of the leaves, from :func:`amdrv.mmu.pte.leaf_flags`.
        :raises PageTableError: misaligned, out of range, or overlapping an earlier mapping.
        :raises OutOfMemoryError: no room for tables. Nothing is mapped after an error.
        """
        pieces = np.asarray(segments)
        if pieces.size == 0 or pieces.ndim != 2 or pieces.shape[1] != 2 or pieces.dtype.kind not in "iu":
            raise PageTableError(f"map at {address:#x}: segments must be (address, bytes) pairs, at least one; "
                                 f"got shape {pieces.shape} of {pieces.dtype}")
        pieces = pieces.astype(np.int64, copy=False)
        memory, sizes = np.ascontiguousarray(pieces[:, 0]), np.ascontiguousarray(pieces[:, 1])
        if address % PAGE_SIZE or int(np.bitwise_or.reduce(memory) | np.bitwise_or.reduce(sizes)) & PAGE_SIZE - 1:
            raise PageTableError(f"map at {address:#x}: addresses and sizes must be multiples of {PAGE_SIZE}")
        if int(sizes.min()) <= 0:
            raise PageTableError(f"map at {address:#x}: a segment has no bytes")
        largest = int(sizes.max())
        if int(memory.min()) < 0 or (int(memory.max()) + largest - 1 >> ADDRESS_BITS
                                     and bool(((memory + sizes - 1) >> ADDRESS_BITS).any())):
            raise PageTableError(f"map at {address:#x}: a segment lies beyond {ADDRESS_BITS} bits of memory address")
        total = int(sizes.sum())
        end = address + total
        if address < 0 or end > 1 << ADDRESS_BITS:
            raise PageTableError(f"map {address:#x}..{end:#x}: not within {ADDRESS_BITS} bits")
        if clash := self._overlap(address, end):
            raise PageTableError(f"map {address:#x}..{end:#x}: overlaps the mapping {clash[0]:#x}..{clash[1]:#x}; "
                                 "unmap it first")
        if largest == PAGE_SIZE and not bool((np.diff(memory) == PAGE_SIZE).any()):
            # single pages, each elsewhere: nothing larger, no fragments
            spans = self._fill(address, end, memory.view(np.uint64) | np.uint64(flags))
        elif len(memory) == 1 and largest < 1 << LEAF_SHIFTS[-2]:
            start, stop = np.array([address]), np.array([end])
            _, entries = self._leaves(PAGE_SHIFT, _Intervals(start, stop, memory, start, stop), flags)
            spans = self._fill(address, end, entries)
        else:
            levels = self._cut(address, memory, sizes)
            spans = [(shift, *_joined(piece.start, piece.end)) for shift, piece in levels]
            self._make_room(spans)
            for shift, piece in levels:
                self._write(shift, *self._leaves(shift, piece, flags))
        self._store_fresh()
        bisect.insort(self._starts, address)
        self._mapped[address] = end, spans
        return total

    def _fill(self, address: int, end: int, entries: U64) -> list[tuple[int, I64, I64]]:
        """One range of nothing but 4 KiB pages."""
        spans = [(PAGE_SHIFT, np.array([address]), np.array([end]))]
        self._make_room(spans)
        self._write_run(PAGE_SHIFT, address, entries)
        return spans

    def unmap(self, address: int, size: int) -> None:
        """Clear the entries of what one call of :meth:`map` mapped.

        The tables stay (like Linux's): they are used again by the next mapping there.

        :raises PageTableError: if ``address`` and ``size`` are not exactly one mapping.
        """
        mapped = self._mapped.get(address)
        if mapped is None or mapped[0] != address + size:
            near = self._overlap(address, address + max(size, 1))
            seen = f"the mapping there is {near[0]:#x}..{near[1]:#x}" if near else "nothing is mapped there"
            raise PageTableError(f"unmap {address:#x}..{address + size:#x}: not one mapping; {seen}")
        for shift, starts, ends in mapped[1]:
            for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
                self._clear(shift, start, end)
        del self._mapped[address]
        self._starts.pop(bisect.bisect_left(self._starts, address))

    def _overlap(self, start: int, end: int) -> tuple[int, int] | None:
        at = bisect.bisect_left(self._starts, end) - 1
        if at >= 0 and self._mapped[self._starts[at]][0] > start:
            return self._starts[at], self._mapped[self._starts[at]][0]
        return None

    @staticmethod
    def _cut(address: int, memory: I64, sizes: I64) -> list[tuple[int, _Intervals]]:
        """The mapping as pieces of 1 GiB, 2 MiB and 4 KiB pages: (shift, intervals), largest first."""
        breaks = np.flatnonzero(memory[1:] != memory[:-1] + sizes[:-1]) + 1
        first = np.concatenate(([0], breaks))
        offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes)))
        start = address + offsets[first]
        end = address + offsets[np.concatenate((breaks, [len(sizes)]))]
        where = memory[first]
        low, high = start, end
        levels = []
        for shift in LEAF_SHIFTS[:-1]:
            if not len(start) or int((end - start).max()) < 1 << shift:
                continue
            mask = (1 << shift) - 1
            inner_start, inner_end = (start + mask) & ~mask, end & ~mask
            fits = ((start ^ where) & mask == 0) & (inner_end > inner_start)
            if not fits.any():
                continue
            a, b = inner_start[fits], inner_end[fits]
            levels.append((shift, _Intervals(a, b, where[fits] + a - start[fits], low[fits], high[fits])))
            head, tail = fits & (start < inner_start), fits & (inner_end < end)
            rest_start = np.concatenate((start[~fits], start[head], inner_end[tail]))
            rest_end = np.concatenate((end[~fits], inner_start[head], end[tail]))
            rest_memory = np.concatenate((where[~fits], where[head], where[tail] + inner_end[tail] - start[tail]))
            rest_low = np.concatenate((low[~fits], low[head], low[tail]))
            rest_high = np.concatenate((high[~fits], high[head], high[tail]))
            order = np.argsort(rest_start)
            start, end, where = rest_start[order], rest_end[order], rest_memory[order]
            low, high = rest_low[order], rest_high[order]
        if len(start):
            levels.append((LEAF_SHIFTS[-1], _Intervals(start, end, where, low, high)))
        return levels

    @staticmethod
    def _leaves(shift: int, piece: _Intervals, flags: int) -> tuple[I64, U64]:
        """(addresses, entries) of every page of the pieces."""
        counts = (piece.end - piece.start) >> shift
        many = int(counts.max()) > 1
        if many:
            which = np.repeat(np.arange(len(counts)), counts)
            step = (np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)) << shift
            addresses, memory = piece.start[which] + step, piece.memory[which] + step
        else:
            addresses, memory = piece.start, piece.memory
        entries = memory.astype(np.uint64) | np.uint64(flags | (HUGE if shift != PAGE_SHIFT else 0))
        if bool((piece.high - piece.low > PAGE_SIZE).any()):
            # the largest aligned block around a page holds neither the page before its run nor the one after
            low, high = (piece.low >> PAGE_SHIFT) - 1, piece.high >> PAGE_SHIFT
            skew = _lowest_bit((piece.start ^ piece.memory) >> PAGE_SHIFT)
            if many:
                low, high, skew = low[which], high[which], skew[which]
            page = addresses >> PAGE_SHIFT
            fragment = np.minimum(np.minimum(_highest_bit(page ^ low), _highest_bit(page ^ high)), skew)
            entries |= fragment.astype(np.uint64) << np.uint64(FRAGMENT_SHIFT)
        return addresses, entries

    # -- tables -------------------------------------------------------------------------------------------------

    def _make_room(self, levels: list[tuple[int, I64, I64]]) -> None:
        """Every table that the leaves need exists and is linked; empty tables in the way of huge pages are gone."""
        missing: dict[tuple[int, int], None] = {}
        for shift, starts, ends in levels:
            span = shift + INDEX_BITS
            indices = {index for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
                       for index in range(start >> span, (end - 1 >> span) + 1)}
            for index in sorted(indices):
                key = shift, index
                while key not in self._tables and key not in missing:
                    missing[key] = None
                    key = key[0] + INDEX_BITS, key[1] >> INDEX_BITS
        offsets: list[int] = []
        try:
            for _ in missing:
                offsets.append(self.memory.allocate_table())
        except Exception:
            for offset in offsets:
                self.memory.free_table(offset)
            raise
        for key, offset in zip(missing, offsets, strict=True):
            self._add(key, offset)
        for shift, index in missing:
            parent = self._tables[shift + INDEX_BITS, index >> INDEX_BITS]
            self._set(parent, (shift + INDEX_BITS, index >> INDEX_BITS), index & (ENTRIES - 1),
                      (self.base + self._tables[shift, index].offset) | VALID)
        for shift, starts, ends in levels:
            if shift != PAGE_SHIFT:
                self._drop_children(shift, starts, ends)

    def _drop_children(self, shift: int, starts: I64, ends: I64) -> None:
        """Forget tables (all empty, for nothing is mapped there) below the entries that become huge pages."""
        below = shift - INDEX_BITS
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            first, last = start >> shift, end >> shift
            if len(self._tables) < last - first:
                doomed = [key for key in self._tables if key[0] == below and first <= key[1] < last]
            else:
                doomed = [(below, index) for index in range(first, last) if (below, index) in self._tables]
            for key in doomed:
                if below != PAGE_SHIFT:
                    self._drop_children(below, np.array([key[1] << shift]), np.array([key[1] + 1 << shift]))
                self._retired.append(self._tables.pop(key).offset)
                self._dirty.discard(key)

    def _add(self, key: tuple[int, int], offset: int) -> None:
        self._tables[key] = _Table(offset, self.memory.view(offset, PAGE_SIZE, np.uint64))
        self._dirty.add(key)
        self._fresh.append(key)

    def _store_fresh(self) -> None:
        """Write new tables whole: their memory holds anything before."""
        for key in self._fresh:
            table = self._tables.get(key)
            if table is not None:
                table.window[:] = table.entries
                table.fresh = False
        self._fresh.clear()

    def _set(self, table: _Table, key: tuple[int, int], at: slice | int | I64, values: U64 | int) -> None:
        table.entries[at] = values
        if not table.fresh:
            table.window[at] = values
        self._dirty.add(key)

    def _write(self, shift: int, addresses: I64, entries: U64) -> None:
        """Store leaves into their tables; ``addresses`` ascend."""
        numbers = addresses >> shift
        cuts = np.flatnonzero(np.diff(numbers >> INDEX_BITS)) + 1
        bounds = [0, *cuts.tolist(), len(numbers)]
        firsts, lasts = numbers[bounds[:-1]].tolist(), numbers[np.array(bounds[1:]) - 1].tolist()
        for i, (first, last) in enumerate(zip(firsts, lasts, strict=True)):
            a, b = bounds[i], bounds[i + 1]
            key = shift, first >> INDEX_BITS
            at: slice | I64
            if last - first == b - a - 1:
                at = slice(first & (ENTRIES - 1), (last & (ENTRIES - 1)) + 1)
            else:
                at = numbers[a:b] & (ENTRIES - 1)
            self._set(self._tables[key], key, at, entries[a:b])

    def _write_run(self, shift: int, address: int, entries: U64) -> None:
        """Store leaves of consecutive addresses."""
        first, at = address >> shift, 0
        while at < len(entries):
            index = first & (ENTRIES - 1)
            count = min(ENTRIES - index, len(entries) - at)
            key = shift, first >> INDEX_BITS
            self._set(self._tables[key], key, slice(index, index + count), entries[at:at + count])
            first, at = first + count, at + count

    def _clear(self, shift: int, start: int, end: int) -> None:
        first, last = start >> shift, end >> shift
        while first < last:
            key = shift, first >> INDEX_BITS
            stop = min(last, (key[1] + 1) << INDEX_BITS)
            self._set(self._tables[key], key,
                      slice(first & (ENTRIES - 1), ((stop - 1) & (ENTRIES - 1)) + 1), 0)
            first = stop

    # -- for people ---------------------------------------------------------------------------------------------

    def walk(self, address: int) -> list[tuple[str, int, Entry]]:
        """(level, table's physical address, entry) of every step towards ``address``, from the shadow."""
        steps = []
        for shift in LEVEL_SHIFTS:
            table = self._tables.get((shift, address >> (shift + INDEX_BITS)))
            if table is None:
                break
            entry = Entry(table.entries[(address >> shift) & (ENTRIES - 1)])
            steps.append((LEVEL_NAMES[shift], self.base + table.offset, entry))
            if not entry.valid or entry & HUGE:
                break
        return steps

    def describe(self, address: int) -> str:
        """The walk as text, a line a level."""
        return "\n".join(f"{level} at {where:#x}: {entry!r}" for level, where, entry in self.walk(address))

    def resolve(self, address: int) -> tuple[int, int] | None:
        """(memory address, leaf entry) that ``address`` translates to, or None."""
        steps = self.walk(address)
        entry = steps[-1][2]
        span = {"PTB": 12, "PDB0": 21, "PDB1": 30}.get(steps[-1][0])
        if span is None or not entry.valid or (span != PAGE_SHIFT and not entry & HUGE):
            return None
        return (entry & ADDRESS_MASK) + (address & ((1 << span) - 1)), entry


def _joined(start: I64, end: I64) -> tuple[I64, I64]:
    """Ascending intervals with touching neighbours made one."""
    cuts = np.flatnonzero(start[1:] != end[:-1])
    return start[np.concatenate(([0], cuts + 1))], end[np.concatenate((cuts, [len(end) - 1]))]


def _highest_bit(values: I64) -> I64:
    """Number of the highest set bit of positive values below 2**53; MAX_FRAGMENT for negative ones."""
    exponents = np.frexp(values.astype(np.float64))[1].astype(np.int64) - 1
    return np.where(values < 0, MAX_FRAGMENT, np.minimum(exponents, MAX_FRAGMENT))


def _lowest_bit(values: I64) -> I64:
    """Number of the lowest set bit; MAX_FRAGMENT for zero."""
    return np.where(values == 0, MAX_FRAGMENT, _highest_bit(values & -values))

