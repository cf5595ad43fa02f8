"""The physical and the virtual allocator against plain models: sets of granules that are taken."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from amdrv.errors import OutOfMemoryError
from amdrv.mmu import AddressAllocator, BuddyAllocator

KIB, MIB = 1 << 10, 1 << 20


def test_blocks_are_aligned_to_their_size() -> None:
    buddy = BuddyAllocator(0, 64 * MIB, name="VRAM")
    for size in (4 * KIB, 64 * KIB, 2 * MIB, 16 * MIB):
        ((address, nbytes),) = buddy.allocate(size)
        assert nbytes == size and address % size == 0


def test_odd_sizes_waste_nothing() -> None:
    buddy = BuddyAllocator(0, 16 * MIB)
    pieces = buddy.allocate(5 * MIB + 1)
    assert sum(size for _, size in pieces) == 5 * MIB + 4 * KIB == 16 * MIB - buddy.free_bytes
    buddy.allocate(11 * MIB - 4 * KIB)
    assert buddy.free_bytes == 0


def test_contiguous_is_one_piece_or_an_error() -> None:
    buddy = BuddyAllocator(0, 8 * MIB, name="VRAM")
    held = [buddy.allocate(MIB) for _ in range(8)]
    for piece in held[::2]:
        buddy.free(piece)
    assert len(buddy.allocate(MIB + 4 * KIB)) == 2
    with pytest.raises(OutOfMemoryError, match=r"VRAM: 2,097,152 contiguous bytes asked, 3,141,632 of 8,388,608 free, "
                                               r"the largest block 1,048,576; free buffers or use smaller ones"):
        buddy.allocate(2 * MIB, contiguous=True)
    with pytest.raises(OutOfMemoryError, match="67,108,864 contiguous bytes asked"):
        buddy.allocate(64 * MIB, contiguous=True)
    with pytest.raises(OutOfMemoryError, match=r"4,194,304 bytes asked, 3,141,632 of 8,388,608 free; "):
        buddy.allocate(4 * MIB)


def test_freeing_twice_or_what_was_never_had_is_refused() -> None:
    buddy = BuddyAllocator(MIB, 8 * MIB, name="VRAM")
    pieces = buddy.allocate(3 * MIB)
    buddy.free(pieces)
    before = buddy.free_bytes
    with pytest.raises(ValueError, match=r"VRAM: .* is not an allocation of this allocator"):
        buddy.free(pieces)
    assert buddy.free_bytes == before == buddy.size


@pytest.mark.parametrize("build", [BuddyAllocator, AddressAllocator])
def test_constructors_check_their_arguments(build: type) -> None:
    with pytest.raises(ValueError, match="granule must be a power of two, not 3000"):
        build(0, 4096, granule=3000)
    with pytest.raises(ValueError, match="positive multiples of 4096, not 0x1 and 0x1000"):
        build(1, 4096)
    with pytest.raises(ValueError, match="positive"):
        build(0, 4096).allocate(0)


def test_addresses_are_aligned_and_merged_again() -> None:
    space = AddressAllocator(0x1000, 64 * MIB)
    a = space.allocate(5000)
    b = space.allocate(2 * MIB, align=2 * MIB)
    assert a % 4096 == 0 and b % (2 * MIB) == 0
    assert space.release(a) == 8192 and space.release(b) == 2 * MIB
    assert space.allocate(64 * MIB) == 0x1000
    with pytest.raises(OutOfMemoryError, match="4,096 bytes aligned to 4,096 asked, 0 of 67,108,864 free"):
        space.allocate(4096)
    with pytest.raises(ValueError, match="no allocated range starts at 0x2000"):
        space.release(0x2000)
    with pytest.raises(ValueError, match="align must be a power of two of at least 4096, not 12288"):
        space.allocate(4096, align=3 * 4096)


def test_exact_fit_is_found_with_alignment() -> None:
    space = AddressAllocator(0, 4 * MIB)
    first = space.allocate(2 * MIB, align=2 * MIB)
    second = space.allocate(2 * MIB, align=2 * MIB)         # nothing to spare for the alignment
    assert {first, second} == {0, 2 * MIB}


class Physical(RuleBasedStateMachine):
    @initialize(base=st.sampled_from([0, 3, 16]), pages=st.integers(1, 200))
    def begin(self, base: int, pages: int) -> None:
        self.buddy = BuddyAllocator(base * 4096, pages * 4096)
        self.all = set(range(base, base + pages))
        self.held: list[list[tuple[int, int]]] = []

    def taken(self) -> list[int]:
        return [p for pieces in self.held for a, n in pieces for p in range(a >> 12, (a + n) >> 12)]

    @rule(pages=st.integers(1, 80), contiguous=st.booleans())
    def allocate(self, pages: int, contiguous: bool) -> None:
        free = len(self.all) - len(self.taken())
        try:
            pieces = self.buddy.allocate(pages * 4096, contiguous=contiguous)
        except OutOfMemoryError:
            assert contiguous or pages > free, "scattered memory is refused only when there is not enough"
            return
        assert sum(n for _, n in pieces) == pages * 4096
        assert not contiguous or len(pieces) == 1
        self.held.append(pieces)

    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        if self.held:
            self.buddy.free(self.held.pop(data.draw(st.integers(0, len(self.held) - 1))))

    @invariant()
    def nothing_is_handed_out_twice(self) -> None:
        if hasattr(self, "held"):
            taken = self.taken()
            assert len(taken) == len(set(taken)) and set(taken) <= self.all
            assert self.buddy.free_bytes == (len(self.all) - len(taken)) * 4096


class Virtual(RuleBasedStateMachine):
    @initialize(pages=st.integers(1, 400))
    def begin(self, pages: int) -> None:
        self.space = AddressAllocator(16 * 4096, pages * 4096)
        self.pages = pages
        self.held: dict[int, int] = {}

    def gaps(self, align: int) -> list[int]:
        """Bytes that an aligned range could have, of every gap."""
        ends = [16 * 4096] + [a + n for a, n in sorted(self.held.items())]
        starts = [a for a, _ in sorted(self.held.items())] + [(16 + self.pages) * 4096]
        return [start - (end + -end % align) for end, start in zip(ends, starts, strict=True)]

    @rule(pages=st.integers(1, 100), align=st.sampled_from([4096, 4096, 8192, 1 << 16, 1 << 18]))
    def allocate(self, pages: int, align: int) -> None:
        fits = max(self.gaps(align)) >= pages * 4096
        try:
            address = self.space.allocate(pages * 4096, align=align)
        except OutOfMemoryError:
            assert not fits, "a range that fits was not found"
            return
        assert fits and address % align == 0
        self.held[address] = pages * 4096

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.held:
            address = data.draw(st.sampled_from(sorted(self.held)))
            assert self.space.release(address) == self.held.pop(address)

    @invariant()
    def ranges_are_disjoint(self) -> None:
        if hasattr(self, "held"):
            assert all(gap >= 0 for gap in self.gaps(1))
            assert self.space.free_bytes == self.pages * 4096 - sum(self.held.values())


TestPhysical = Physical.TestCase
TestVirtual = Virtual.TestCase
TestPhysical.settings = TestVirtual.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
