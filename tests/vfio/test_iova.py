"""The IOVA allocator against a model: a set of pages."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from amdrv.errors import MappingError, OutOfMemoryError
from amdrv.vfio.iova import IovaAllocator

PAGE = 4096
INTEL = [(0, 0xFEDFFFFF), (0xFEF00000, (1 << 48) - 1)]                                      # seen under QEMU
AMD = [(0, 0xFEDFFFFF), (0xFEF00000, 0xFCFFFFFFFF), (0x10000000000, (1 << 48) - 1)]


@pytest.mark.parametrize("ranges", [INTEL, AMD])
def test_allocations_stay_within_the_ranges_and_the_cards_reach(ranges: list[tuple[int, int]]) -> None:
    allocator = IovaAllocator(ranges)
    got = [(allocator.allocate(size), size) for size in (PAGE, 1, 2 << 20, 3 << 30, 1 << 30, 7 * PAGE)]
    for address, size in got:
        assert address % PAGE == 0 and address > 0 and address + size <= 1 << 44
        assert any(first <= address and address + size - 1 <= last for first, last in ranges)
        if size in (2 << 20, 1 << 30):
            assert address % size == 0
    free = allocator.free_bytes
    for address, size in got:
        assert allocator.free(address) == -(-size // PAGE) * PAGE
    assert allocator.free_bytes > free and not allocator.used
    assert IovaAllocator(ranges).free_bytes == allocator.free_bytes


def test_errors() -> None:
    allocator = IovaAllocator([(0, 0xFFFF)])
    with pytest.raises(MappingError, match="positive"):
        allocator.allocate(0)
    with pytest.raises(OutOfMemoryError, match="0xf000 free"):
        allocator.allocate(0x10000)
    address = allocator.allocate(0xF000)
    with pytest.raises(OutOfMemoryError, match="0x0 free"):
        allocator.allocate(1)
    allocator.free(address)
    with pytest.raises(MappingError, match="not allocated"):
        allocator.free(address)


@given(st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 1 << 16)), max_size=5))
def test_odd_ranges_are_rounded_inwards(rows: list[tuple[int, int]]) -> None:
    at, ranges = 0, []
    for gap, length in rows:
        ranges.append((at + gap, at + gap + length))
        at += gap + length + 1
    allocator = IovaAllocator(ranges)
    pages = {p for first, last in ranges for p in range(-(-first // PAGE), (last + 1) // PAGE)} - {0}
    assert allocator.free_bytes == len(pages) * PAGE


class Model(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.allocator = IovaAllocator([(0x1000, 0x3FFFF), (0x80000, 0xFFFFF)])
        self.pages = set(range(1, 0x40)) | set(range(0x80, 0x100))
        self.held: dict[int, int] = {}

    @rule(size=st.integers(1, 0x30000))
    def allocate(self, size: int) -> None:
        count = -(-size // PAGE)
        try:
            address = self.allocator.allocate(size)
        except OutOfMemoryError:
            taken = {p for a, n in self.held.items() for p in range(a, a + n)}
            free = self.pages - taken
            assert not any(all(p + i in free for i in range(count)) for p in free)
            return
        span = set(range(address // PAGE, address // PAGE + count))
        assert span <= self.pages
        assert not any(span & set(range(a, a + n)) for a, n in self.held.items())
        self.held[address // PAGE] = count

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        page = data.draw(st.sampled_from(sorted(self.held)))
        assert self.allocator.free(page * PAGE) == self.held.pop(page) * PAGE

    @invariant()
    def books_balance(self) -> None:
        assert self.allocator.free_bytes == (len(self.pages) - sum(self.held.values())) * PAGE


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, deadline=None)
