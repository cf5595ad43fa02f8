"""Page tables against a page walker that is written here from the hardware's rules alone, one address at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from amdrv.errors import OutOfMemoryError, PageTableError
from amdrv.mmu import MTYPE, PAGE_SIZE, Entry, PageTables, leaf_flags

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
FB_BASE = 0x10_0000_0000        # the walker must find tables by physical address, so this is not zero


class FakeVram:
    """Pages that hold poison until they are written."""

    def __init__(self, pages: int = 4096) -> None:
        self.bytes = np.full(pages * PAGE_SIZE, 0xCD, np.uint8)
        self.free = list(range(pages - 1, -1, -1))
        self.live: set[int] = set()

    def allocate_table(self) -> int:
        if not self.free:
            raise OutOfMemoryError("no page is left")
        page = self.free.pop()
        self.live.add(page)
        return page * PAGE_SIZE

    def free_table(self, offset: int) -> None:
        self.live.remove(offset // PAGE_SIZE)
        self.free.append(offset // PAGE_SIZE)
        self.bytes[offset:offset + PAGE_SIZE] = 0xCD

    def view(self, offset: int, size: int, dtype: npt.DTypeLike) -> np.ndarray:
        return self.bytes[offset:offset + size].view(dtype)


def walk(vram: FakeVram, root: int, address: int) -> tuple[int, int, int] | None:
    """(memory address, entry, page bytes), or None: what a UTCL2 would find. Shares nothing with amdrv.mmu."""
    table = root
    for level in range(4):
        shift = 39 - 9 * level
        at = table - FB_BASE + 8 * ((address >> shift) & 511)
        entry = int.from_bytes(bytes(vram.bytes[at:at + 8]), "little")
        if not entry & 1:
            assert entry == 0, f"an entry that is not valid holds {entry:#x}"
            return None
        target = entry & 0xFFFF_FFFF_F000
        if level == 3 or entry >> 54 & 1:
            assert level > 0 and target % (1 << shift) == 0, "a huge page must be aligned to its size"
            return target + address % (1 << shift), entry, 1 << shift
        assert target - FB_BASE in {p * PAGE_SIZE for p in vram.live}, "a directory entry points to a freed page"
        table = target
    raise AssertionError("unreachable")


def mapped_pages(vram: FakeVram, root: int) -> dict[int, tuple[int, int]]:
    """{virtual 4K page: (memory page, fragment)} of the whole tree, walked table by table."""
    pages: dict[int, tuple[int, int]] = {}

    def visit(table: int, shift: int, base: int) -> None:
        entries = vram.bytes[table - FB_BASE:table - FB_BASE + PAGE_SIZE].view(np.uint64)
        for i in np.flatnonzero(entries):
            entry, va = int(entries[i]), base + (int(i) << shift)
            target = entry & 0xFFFF_FFFF_F000
            if shift == 12 or entry >> 54 & 1:
                for page in range(1 << (shift - 12)):
                    pages[(va >> 12) + page] = ((target >> 12) + page, entry >> 7 & 31)
            else:
                visit(target, shift - 9, va)
    visit(root, 39, 0)
    return pages


def make(pages: int = 4096) -> tuple[FakeVram, PageTables]:
    vram = FakeVram(pages)
    return vram, PageTables(vram, base=FB_BASE)


def test_one_page_and_its_bits() -> None:
    vram, tables = make()
    tables.map(0x7000_0000_1000, [(0x1234_5000, PAGE_SIZE)], leaf_flags("system"))
    memory, entry, size = walk(vram, tables.root, 0x7000_0000_1ABC) or (0, 0, 0)
    assert (memory, size) == (0x1234_5ABC, PAGE_SIZE)
    # VALID SYSTEM SNOOPED EXECUTABLE READABLE WRITEABLE, MTYPE 3 (uncached) at bit 48
    assert entry == 0x1234_5000 | 1 | 2 | 4 | 16 | 32 | 64 | 3 << 48
    assert walk(vram, tables.root, 0x7000_0000_2000) is None
    assert tables.resolve(0x7000_0000_1ABC) == (0x1234_5ABC, entry)
    assert tables.resolve(0x7000_0000_2000) is None and tables.resolve(0) is None


@pytest.mark.parametrize(("kind", "bits"), [("vram", 0x71), ("system", 0x77 | 3 << 48), ("peer", 0x73 | 3 << 48)])
def test_flags_by_kind(kind: str, bits: int) -> None:
    assert leaf_flags(kind) == bits


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match='kind must be "vram", "system" or "peer", not \'disk\''):
        leaf_flags("disk")


@pytest.mark.parametrize(("va", "pa", "size", "pages"), [
    (0x1_0000_0000, 0x4000_0000, GIB, {GIB}),
    (0x1_0000_0000, 0x4020_0000, GIB, {2 * MIB}),
    (0x1_0000_0000, 0x4000_1000, 4 * MIB, {PAGE_SIZE}),
    (0x1_0020_0000, 0x4020_0000, 4 * MIB + 8 * KIB, {2 * MIB, PAGE_SIZE}),
    (0x1_3FFF_F000, 0x7FFF_F000, GIB + 2 * MIB + 4096, {GIB, 2 * MIB, PAGE_SIZE}),
])
def test_largest_pages_are_used(va: int, pa: int, size: int, pages: set[int]) -> None:
    vram, tables = make()
    tables.map(va, [(pa, size)], leaf_flags("vram"))
    seen = set()
    at = va
    while at < va + size:
        found = walk(vram, tables.root, at)
        assert found is not None and found[0] == pa + at - va
        seen.add(found[2])
        at += found[2] - at % found[2]
    assert seen == pages
    assert walk(vram, tables.root, va - 1) is None and walk(vram, tables.root, va + size) is None


def greedy_fragments(start: int, end: int, skew: int) -> dict[int, int]:
    """{page: fragment} by the loop of Linux's amdgpu_vm_pte_fragment, limited by how the memory is aligned."""
    fragments = {}
    page = start
    while page < end:
        fragment = min((page & -page).bit_length() - 1 if page else 31, (end - page).bit_length() - 1, 31)
        if skew:
            fragment = min(fragment, (skew & -skew).bit_length() - 1)
        for inside in range(page, page + (1 << fragment)):
            fragments[inside] = fragment
        page += 1 << fragment
    return fragments


@settings(max_examples=60, deadline=None)
@given(start=st.integers(1, 1 << 20), count=st.integers(1, 3000), shift=st.integers(0, 12), skew=st.integers(0, 7))
def test_fragments_follow_the_kernels_rule(start: int, count: int, shift: int, skew: int) -> None:
    vram, tables = make()
    memory = start + (skew << shift)
    tables.map(start << 12, [(memory << 12, count << 12)], leaf_flags("vram"))
    # a run whose memory is shifted against its address has blocks no larger than the shift's lowest bit
    limit = (start ^ memory) & -(start ^ memory)
    expected = greedy_fragments(start, start + count, limit)
    assert {page: f for page, (_, f) in mapped_pages(vram, tables.root).items()} == expected


def test_scattered_segments_keep_their_order() -> None:
    vram, tables = make()
    segments = [(0x9000, 0x3000), (0x4_0000, 0x1000), (0x4_1000, 0x2000), (0x2000, 0x1000)]
    assert tables.map(0x20_0000, segments, leaf_flags("vram")) == 0x7000
    got = [page for _, (page, _) in sorted(mapped_pages(vram, tables.root).items())]
    assert got == [9, 10, 11, 0x40, 0x41, 0x42, 2]


def test_arrays_are_taken_as_segments() -> None:
    _, tables = make()
    array = np.array([[0x5000, 0x1000], [0x9000, 0x1000]], np.uint64)
    assert tables.map(0x1000, array, leaf_flags("vram")) == 0x2000
    assert tables.resolve(0x2004) == (0x9004, 0x9071)


def test_changes_are_counted_by_value() -> None:
    _, tables = make()
    assert tables.take_changes() == 0                       # the root is all zeros
    tables.map(0x1_0000_0000, [(0x8000, 2 * PAGE_SIZE)], leaf_flags("vram"))
    assert tables.take_changes() == 3 + 2                   # three directories lead to two leaves
    tables.unmap(0x1_0000_0000, 2 * PAGE_SIZE)
    tables.map(0x1_0000_0000, [(0x8000, PAGE_SIZE)], leaf_flags("vram"))
    assert tables.take_changes() == 2                       # the second is gone; the first lost its fragment
    tables.unmap(0x1_0000_0000, PAGE_SIZE)
    tables.map(0x1_0000_0000, [(0x8000, PAGE_SIZE)], leaf_flags("vram"))
    assert tables.take_changes() == 0                       # as it was when last flushed
    assert tables.take_changes() == 0


def test_huge_page_replaces_an_empty_table() -> None:
    vram, tables = make()
    va = 0x1_0000_0000
    tables.map(va, [(0x9000, PAGE_SIZE)], leaf_flags("vram"))
    tables.map(va + 4 * MIB, [(0x9000, PAGE_SIZE)], leaf_flags("vram"))
    tables.unmap(va, PAGE_SIZE)
    before = len(vram.live)
    tables.map(va, [(4 * MIB, 2 * MIB)], leaf_flags("vram"))
    assert len(vram.live) == before                         # retired, but walkers may still cache its PDE
    tables.release_retired()
    assert len(vram.live) == before - 1
    assert walk(vram, tables.root, va + 5)[2] == 2 * MIB    # type: ignore[index]
    tables.unmap(va, 2 * MIB)
    tables.unmap(va + 4 * MIB, PAGE_SIZE)
    tables.map(va, [(GIB, GIB)], leaf_flags("vram"))        # drops PDB0 and what is below it
    tables.release_retired()
    assert len(vram.live) == 2 and walk(vram, tables.root, va + 5)[2] == GIB    # type: ignore[index]


def test_errors_say_what_is_wrong() -> None:
    _, tables = make()
    flags = leaf_flags("vram")
    tables.map(0x10_0000, [(0x1000, 0x4000)], flags)
    with pytest.raises(PageTableError, match=r"0x103000\.\.0x105000: overlaps the mapping 0x100000\.\.0x104000"):
        tables.map(0x10_3000, [(0x1000, 0x2000)], flags)
    with pytest.raises(PageTableError, match="multiples of 4096"):
        tables.map(0x20_0800, [(0x1000, 0x1000)], flags)
    with pytest.raises(PageTableError, match="multiples of 4096"):
        tables.map(0x20_0000, [(0x1000, 0x1001)], flags)
    with pytest.raises(PageTableError, match="not within 48 bits"):
        tables.map((1 << 48) - 0x1000, [(0x1000, 0x2000)], flags)
    with pytest.raises(PageTableError, match="beyond 48 bits of memory address"):
        tables.map(0x20_0000, [((1 << 48) - 0x1000, 0x2000)], flags)
    with pytest.raises(PageTableError, match="no bytes"):
        tables.map(0x20_0000, [(0x1000, 0)], flags)
    with pytest.raises(PageTableError, match="at least one"):
        tables.map(0x20_0000, [], flags)
    with pytest.raises(PageTableError, match=r"not one mapping; the mapping there is 0x100000\.\.0x104000"):
        tables.unmap(0x10_0000, 0x1000)
    with pytest.raises(PageTableError, match="nothing is mapped there"):
        tables.unmap(0x50_0000, 0x1000)


def test_out_of_tables_changes_nothing() -> None:
    vram, tables = make(pages=3)
    before = vram.bytes.copy()
    with pytest.raises(OutOfMemoryError):
        tables.map(0x1_0000_0000, [(0x1000, 0x1000)], leaf_flags("vram"))
    assert (vram.bytes == before).all() and len(vram.live) == 1 and tables.take_changes() == 0
    with pytest.raises(PageTableError, match="nothing is mapped"):
        tables.unmap(0x1_0000_0000, 0x1000)


def test_close_gives_every_table_back() -> None:
    vram, tables = make()
    tables.map(0x1_0000_0000, [(0x1000, 5 * MIB)], leaf_flags("vram"))
    tables.close()
    assert not vram.live


def test_entries_print_themselves() -> None:
    _, tables = make()
    tables.map(0x1_0000_0000, [(0x20_0000, 2 * MIB)], leaf_flags("system"))
    text = tables.describe(0x1_0000_0000)
    assert [line.split()[0] for line in text.splitlines()] == ["PDB2", "PDB1", "PDB0"]
    assert "address=0x200000 frag=9 mtype=UC VALID SYSTEM SNOOPED X R W HUGE" in text
    assert repr(Entry(0)) == "0x0 (empty)" and "mtype=5" in repr(Entry(5 << 48 | 1))
    assert MTYPE(3).name == "UC"


PAGE = st.integers(1, (1 << 21) - 1)       # 8 GiB of addresses: directories are shared and split


class Mapping(RuleBasedStateMachine):
    """Random maps and unmaps against a dictionary of pages and the walker above."""

    @initialize()
    def begin(self) -> None:
        self.vram, self.tables = make()
        self.model: dict[int, int] = {}
        self.ranges: dict[int, int] = {}
        self.flushed: dict[int, bytes] = {}

    @rule(page=PAGE, align=st.sampled_from([0, 9, 9, 18]), data=st.data())
    def map(self, page: int, align: int, data: st.DataObject) -> None:
        page = max(page >> align << align, 1 << align if align else 1)
        runs = data.draw(st.lists(st.tuples(st.integers(0, 1 << 20), st.sampled_from([1, 2, 7, 511, 512, 1024, 1536])),
                                  min_size=1, max_size=4))
        if align:
            runs = [(memory >> 9 << 9, count) for memory, count in runs]
        pages = [memory + i for memory, count in runs for i in range(count)]
        wanted = range(page, page + len(pages))
        segments = [(memory << 12, count << 12) for memory, count in runs]
        if not self.model.keys().isdisjoint(wanted):
            with pytest.raises(PageTableError, match="overlaps"):
                self.tables.map(page << 12, segments, leaf_flags("vram"))
            return
        self.tables.map(page << 12, segments, leaf_flags("vram"))
        self.model.update(zip(wanted, pages, strict=True))
        self.ranges[page] = len(pages)

    @rule(data=st.data())
    def unmap(self, data: st.DataObject) -> None:
        if not self.ranges:
            return
        page = data.draw(st.sampled_from(sorted(self.ranges)))
        count = self.ranges.pop(page)
        self.tables.unmap(page << 12, count << 12)
        for gone in range(page, page + count):
            del self.model[gone]

    @rule()
    def flush(self) -> None:
        """The count equals what a reader of VRAM sees change in the tables that are in use."""
        seen = {page: bytes(self.vram.bytes[page * PAGE_SIZE:(page + 1) * PAGE_SIZE]) for page in self.reachable()}
        changed = 0
        for page, content in seen.items():
            old = np.frombuffer(self.flushed.get(page, bytes(PAGE_SIZE)), np.uint64)
            changed += int((old != np.frombuffer(content, np.uint64)).sum())
        assert self.tables.take_changes() == changed
        self.tables.release_retired()
        self.flushed = seen

    def reachable(self) -> set[int]:
        found, todo = set(), [(self.tables.root, 39)]
        while todo:
            table, shift = todo.pop()
            found.add((table - FB_BASE) // PAGE_SIZE)
            entries = self.vram.bytes[table - FB_BASE:table - FB_BASE + PAGE_SIZE].view(np.uint64)
            if shift > 12:
                todo += [(int(e) & 0xFFFF_FFFF_F000, shift - 9) for e in entries if e and not int(e) >> 54 & 1]
        return found

    @invariant()
    def tree_is_the_model(self) -> None:
        if hasattr(self, "model"):
            got = mapped_pages(self.vram, self.tables.root)
            assert {page: memory for page, (memory, _) in got.items()} == self.model
            assert self.tables.table_count == len(self.reachable()) <= len(self.vram.live)


TestMapping = Mapping.TestCase
TestMapping.settings = settings(max_examples=40, stateful_step_count=15, deadline=None,
                                suppress_health_check=list(HealthCheck))


@settings(max_examples=30, deadline=None)
@given(page=st.integers(1, 2000), memory=st.lists(st.integers(0, 3000), min_size=1, max_size=700, unique=True),
       size=st.sampled_from([1, 1, 3]))
def test_single_pages_in_no_order(page: int, memory: list[int], size: int) -> None:
    """Many pages, each elsewhere: what a list of pinned pages looks like. Neighbours by chance are a run."""
    vram, tables = make()
    segments = np.array([(each * 4 * PAGE_SIZE if size > 1 else each * PAGE_SIZE, size * PAGE_SIZE) for each in memory])
    tables.map(page << 12, segments, leaf_flags("system"))
    expected = [each * (4 if size > 1 else 1) + i for each in memory for i in range(size)]
    found = mapped_pages(vram, tables.root)
    assert {at: where for at, (where, _) in found.items()} == dict(enumerate(expected, page))
    for at, (where, fragment) in found.items():
        block = 1 << fragment       # a fragment speaks only for pages that really lie together
        assert all(found.get(at // block * block + i, (-1, 0))[0] == where // block * block + i for i in range(block))
    tables.unmap(page << 12, size * len(memory) << 12)
    assert mapped_pages(vram, tables.root) == {}


def test_the_benchmarks_other_way_fills_the_same_tables() -> None:
    from bench.mmu import BASE, OneByOne, Vram
    segments = [((i * 7919 % 4096) << 13, PAGE_SIZE) for i in range(3000)]
    ours, other = Vram(64), Vram(64)
    tables, slow = PageTables(ours), OneByOne(other)
    tables.map(BASE, segments, leaf_flags("system"))
    for number, (where, size) in enumerate(segments):
        slow.store(BASE + number * PAGE_SIZE, where, size, leaf_flags("system"), PAGE_SIZE)

    def leaves(vram: Vram, root: int) -> list[int]:
        todo, found = [(root, 39)], []
        while todo:
            table, shift = todo.pop(0)
            entries = [int(e) for e in vram.view(table, PAGE_SIZE, np.uint64) if e]
            if shift == 12:
                found += entries
            else:
                todo += [(entry & 0xFFFF_FFFF_F000, shift - 9) for entry in entries]
        return found
    assert leaves(ours, tables.root) == leaves(other, slow.root) and len(leaves(ours, tables.root)) == 3000
