"""How long page tables take to map and unmap, by 64-bit stores: python -m bench.mmu [--quick] [--json FILE] [--docs]

Bus addresses are given, so pinning is not part of it, and tables lie in plain memory, so the bus is not, either. The
baseline is the straightforward way, measured in the same run: for each page a walk from the root and one store.
Best of several; the figures of the two take turns.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from amdrv.mmu import PAGE_SIZE, PageTables, leaf_flags
from bench import write_json, write_section

__all__ = ["Row", "main", "measure"]

MIB, GIB = 1 << 20, 1 << 30
BASE = 0x2000_0000_0000
BEGIN, END = "<!-- bench.mmu -->\n", "<!-- end of bench.mmu -->\n"
HUGE = 1 << 54


class Row(NamedTuple):
    what: str
    milliseconds: float
    baseline: float | None      # milliseconds
    limit: float | None         # milliseconds that it should stay under
    note: str = ""

    def __str__(self) -> str:
        base = ""
        if self.baseline is not None:
            base = f"   one by one {self.baseline:9.2f} ms ({self.baseline / self.milliseconds:6.1f}x)"
        limit = f"   limit {self.limit:g} ms" if self.limit else ""
        return f"{self.what:<58} {self.milliseconds:9.3f} ms{base}{limit}   {self.note}"


class Vram:
    """Pages for tables, in plain memory."""

    def __init__(self, pages: int) -> None:
        self.memory = np.zeros(pages * PAGE_SIZE, np.uint8)
        self._free = list(range(pages * PAGE_SIZE - PAGE_SIZE, -1, -PAGE_SIZE))

    def allocate_table(self) -> int:
        return self._free.pop()

    def free_table(self, offset: int) -> None:
        self._free.append(offset)

    def view(self, offset: int, size: int, dtype: npt.DTypeLike) -> np.ndarray:
        return self.memory[offset:offset + size].view(dtype)


class OneByOne:
    """The baseline: four levels walked for each page, one store for each entry."""

    def __init__(self, vram: Vram) -> None:
        self.vram, self.tables = vram, dict[int, memoryview]()
        self.root = self._new()

    def _new(self) -> int:
        offset = self.vram.allocate_table()
        self.tables[offset] = self.vram.view(offset, PAGE_SIZE, np.uint64).data.cast("B").cast("Q")
        return offset

    def store(self, address: int, memory: int, size: int, flags: int, page: int, *, clear: bool = False) -> None:
        shift_of_leaf = page.bit_length() - 1
        for at in range(address, address + size, page):
            table, shift = self.tables[self.root], 39
            while shift > shift_of_leaf:
                index = at >> shift & 511
                if not table[index]:
                    table[index] = self._new() | 1
                table, shift = self.tables[table[index] & ~0xFFF], shift - 9
            table[at >> shift & 511] = 0 if clear else memory + at - address | flags


def _best(turns: int, *works: Callable[[], Callable[[], object]]) -> list[float]:
    """Best milliseconds of each; what a work returns is measured, itself is the preparation."""
    best = [float("inf")] * len(works)
    for _ in range(turns):
        for number, prepare in enumerate(works):
            work = prepare()
            start = time.perf_counter()
            work()
            best[number] = min(best[number], 1e3 * (time.perf_counter() - start))
    return best


def _scattered(nbytes: int, page: int) -> np.ndarray:
    """Segments of one page each, in no order: (n, 2)."""
    order = np.random.default_rng(0).permutation(nbytes // page).astype(np.int64)
    return np.column_stack((order * 2 * page + (1 << 32), np.full(len(order), page, np.int64)))


def _one_by_one(segments: np.ndarray, flags: int, page: int) -> Callable[[], Callable[[], object]]:
    pairs = segments.tolist()

    def prepare() -> Callable[[], object]:
        tables = OneByOne(Vram(4096))

        def work() -> None:
            at = BASE
            for memory, size in pairs:
                tables.store(at, memory, size, flags, page)
                at += size
        return work
    return prepare


def _fresh(segments: object, flags: int) -> Callable[[], Callable[[], object]]:
    def prepare() -> Callable[[], object]:
        tables = PageTables(Vram(4096))
        return lambda: tables.map(BASE, segments, flags)        # type: ignore[arg-type]
    return prepare


def measure(turns: int = 7, gibibytes: int = 1) -> list[Row]:
    """Every figure."""
    rows = []
    size, system, vram = gibibytes * GIB, leaf_flags("system"), leaf_flags("vram")
    scattered = _scattered(size, PAGE_SIZE)
    pairs = scattered.tolist()

    ours, base = _best(turns, _fresh(scattered, system), _one_by_one(scattered, system, PAGE_SIZE))
    rows.append(Row(f"map {gibibytes} GiB of 4K system pages, every page elsewhere", ours, base, 20.0 * gibibytes,
                    "tables are made, too"))

    lengths = np.random.default_rng(1).integers(1, 33, size // PAGE_SIZE // 16)
    lengths = lengths[:int(np.searchsorted(np.cumsum(lengths), size // PAGE_SIZE))]
    runs = np.column_stack((np.arange(len(lengths))[::-1] * 64 * PAGE_SIZE + (1 << 32), lengths * PAGE_SIZE))
    ours, base = _best(turns, _fresh(runs, system), _one_by_one(runs, system, PAGE_SIZE))
    rows.append(Row(f"the same in runs of 1 to 32 pages ({int(runs[:, 1].sum()) >> 20} MiB)", ours, base,
                    20.0 * gibibytes, "with fragments, which the other way has not"))

    tables = PageTables(Vram(4096))
    tables.map(BASE, scattered, system)
    slow = OneByOne(Vram(4096))
    slow_at = [(BASE + PAGE_SIZE * i, memory) for i, (memory, _) in enumerate(pairs)]

    def unmap() -> Callable[[], object]:
        if not tables.resolve(BASE):
            tables.map(BASE, scattered, system)
        return lambda: tables.unmap(BASE, size)

    def again() -> Callable[[], object]:
        if tables.resolve(BASE):
            tables.unmap(BASE, size)
        return lambda: tables.map(BASE, scattered, system)

    def clear() -> Callable[[], object]:
        def work() -> None:
            for at, memory in slow_at:
                slow.store(at, memory, PAGE_SIZE, system, PAGE_SIZE, clear=True)
        return work
    remap, gone, base = _best(turns, again, unmap, clear)
    rows.append(Row(f"unmap {gibibytes} GiB of 4K pages", gone, base, 20.0 * gibibytes))
    rows.append(Row("map them again, where the tables are", remap, None, 20.0 * gibibytes))

    large = np.array([[2 * MIB, 16 * GIB]], np.int64)           # aligned to 2 MiB and no more
    huge = _scattered(16 * GIB, 2 * MIB)
    ours, base = _best(turns, _fresh(large, vram), _one_by_one(large, vram | HUGE, 2 * MIB))
    rows.append(Row("map 16 GiB of VRAM in 2M pages, one piece", ours, base, 1.0))
    ours, base = _best(turns, _fresh(huge, vram), _one_by_one(huge, vram | HUGE, 2 * MIB))
    rows.append(Row("map 16 GiB of VRAM in 2M pages, every page elsewhere", ours, base, None))
    ours, = _best(turns, _fresh([(16 * GIB, 16 * GIB)], vram))
    rows.append(Row("map 16 GiB of VRAM in 1G pages", ours, None, 1.0))
    rows += _small(turns)
    return rows


def _small(turns: int) -> list[Row]:
    """A buffer of 64 KiB, alone and beside many others: nothing is walked that is not its own."""
    found = []
    for others in (0, 20_000):
        tables = PageTables(Vram(16384))
        for number in range(others):
            tables.map(BASE + GIB + number * 2 * 65536, [(number * 65536, 65536)], leaf_flags("vram"))
        tables.map(BASE, [(0, 65536)], leaf_flags("vram"))      # its table is there
        tables.unmap(BASE, 65536)

        def prepare(tables: PageTables = tables) -> Callable[[], object]:
            def work() -> None:
                for _ in range(200):
                    tables.map(BASE, [(1 << 30, 65536)], leaf_flags("vram"))
                    tables.unmap(BASE, 65536)
            return work
        found.append(_best(turns, prepare)[0] / 200)
    alone, beside = found
    return [Row("map and unmap 64 KiB", alone, None, None),
            Row("the same beside 20,000 other buffers", beside, None, None, f"{beside / alone:.2f} x alone")]


def _write_docs(path: Path, rows: list[Row]) -> None:
    table = ["| what | ms | one page at a time, ms | ratio | wanted under, ms | |", "|---|--:|--:|--:|--:|---|"]
    for row in rows:
        base = f"{row.baseline:.1f} | {row.baseline / row.milliseconds:.0f} x" if row.baseline else " | "
        limit = "" if row.limit is None else f"{row.limit:g}"
        table.append(f"| {row.what} | {row.milliseconds:.3f} | {base} | {limit} | {row.note} |")
    about = (f"`python -m bench.mmu --docs`, {os.cpu_count()} cores, {platform.machine()}, Python "
             f"{platform.python_version()}. Tables are filled by 64-bit stores in plain memory; bus addresses are "
             "given. The other way, in the same run: a walk and a store for each page.")
    part = BEGIN + "## Page tables\n\n" + about + "\n\n" + "\n".join(table) + "\n" + END
    write_section(path, BEGIN, END, part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repetitions")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    parser.add_argument("--docs", action="store_true", help="write the figures into docs/performance.md, too")
    options = parser.parse_args()
    rows = measure(2 if options.quick else 7)
    print("\n".join(map(str, rows)))
    if options.json:
        write_json(options.json, [row._asdict() for row in rows])
    if options.docs:
        _write_docs(Path(__file__).resolve().parents[1] / "docs" / "performance.md", rows)


if __name__ == "__main__":
    from tools.piped import piped
    piped(main)()
