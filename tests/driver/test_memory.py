"""Buffers of a card, on a HAL made of a few lines: what is asked is mapped, what fails changes nothing, and names."""

from __future__ import annotations

import itertools
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from amdrv.errors import BootError, MappingError, OutOfMemoryError
from amdrv.memory import Memory

MIB = 1 << 20


class FakeDma:
    def __init__(self, owner: FakePci, size: int, scattered: bool) -> None:
        self.owner, self.size = owner, size
        self.view: np.ndarray | None = np.zeros(size, np.uint8)
        step = 8192 if scattered else size
        self.segments = [(0x7_0000_0000 + owner.next + at * 2, min(step, size - at)) for at in range(0, size, step)]
        owner.next += 4 * size
        owner.live.add(self)

    def close(self) -> None:
        self.owner.live.discard(self)


class FakePci:
    page_size = 4096

    def __init__(self) -> None:
        self.next = 0
        self.live: set[FakeDma] = set()
        self.refuse = False

    def alloc_dma(self, size: int, *, contiguous: bool = False) -> FakeDma:
        if self.refuse:
            raise MappingError("RLIMIT_MEMLOCK is 64 KiB")
        return FakeDma(self, -(-size // 4096) * 4096, not contiguous)


class FakeVram:
    def __init__(self, size: int) -> None:
        self.size = size
        self.bytes = np.empty(size, np.uint8)

    def view(self, offset: int, size: int, dtype: npt.DTypeLike = np.uint8) -> np.ndarray:
        return self.bytes[offset:offset + size].view(dtype)


class Card:
    def __init__(self, vram: int = 128 * MIB, bar: int | None = None) -> None:
        self.pci, self.log = FakePci(), list[str]()
        region: Any = FakeVram(vram) if bar is None else SimpleNamespace(size=bar)
        pci: Any = self.pci
        self.memory = Memory(pci, region, vram, flush_hdp=self.flush_hdp, flush_tlb=self.flush_tlb,
                             statistics=Counter())

    def flush_hdp(self) -> None:
        self.log.append("hdp")

    def flush_tlb(self) -> None:
        self.log.append("tlb")
        self.memory.tlbs_are_flushed()


def test_a_buffer_in_vram_has_a_window_when_somebody_looks() -> None:
    """Memory that the CPU never looks at needs no second copy of the mock, and no mapping of a HAL."""
    card = Card()
    opened: list[int] = []
    view = card.memory.vram.view
    card.memory.vram.view = lambda *where: opened.append(where[0]) or view(*where)      # type: ignore
    buffer = card.memory.alloc(MIB)
    opened.clear()                              # those of page tables
    window = buffer.view
    assert window is not None and buffer.view is window and opened == [buffer.segments[0][0]]
    window[:4] = 7
    assert (card.memory.view(buffer.segments[0][0], 4) == 7).all()
    card.memory.free(buffer)
    assert buffer.view is None


def test_the_order_of_flushes() -> None:
    """Entries reach the engines before anyone uses an address, and leave the TLBs before memory is used again."""
    card = Card()
    buffer = card.memory.alloc(MIB)
    assert card.log == ["hdp"]
    card.log.clear()
    card.memory.free(buffer)
    assert card.log == ["hdp", "tlb"]


def test_addresses_resolve_to_the_segments() -> None:
    card = Card()
    for kind in ("vram", "system"):
        buffer = card.memory.alloc(100_000, kind=kind)      # type: ignore[arg-type]
        at = buffer.address
        for start, size in buffer.segments:
            for offset in (0, size - 1):
                found = card.memory.tables.resolve(at + offset)
                assert found is not None and found[0] == start + offset
            at += size
        assert at == buffer.end


def test_too_small_a_card_or_window_is_refused() -> None:
    with pytest.raises(BootError, match="64 MiB of VRAM are less than the 82 MiB that a boot needs"):
        Card(64 * MIB)
    with pytest.raises(BootError, match=r'BAR 0 shows 256 MiB of 24576 MiB of VRAM; .* enable "Resizable BAR"'):
        Card(24 << 30, bar=256 * MIB)


def test_refused_dma_memory_says_why_and_costs_nothing() -> None:
    card = Card()
    card.memory.alloc(4096)
    before = card.memory.addresses.free_bytes
    card.pci.refuse = True
    with pytest.raises(OutOfMemoryError, match="host memory: 4,097 bytes for DMA asked, refused: RLIMIT_MEMLOCK is 64"):
        card.memory.alloc(4097, kind="system")
    assert card.memory.addresses.free_bytes == before


def test_no_room_for_tables_gives_the_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card()
    memory = card.memory
    memory._spare_tables.clear()
    taken = memory.pages.allocate(memory.pages.free_bytes - MIB)
    before = memory.pages.free_bytes, memory.addresses.free_bytes
    for kind in ("vram", "system"):
        with pytest.raises(OutOfMemoryError, match="VRAM: 2,097,152 contiguous bytes asked"):
            memory.alloc(4096, kind=kind)       # type: ignore[arg-type]
        assert (memory.pages.free_bytes, memory.addresses.free_bytes) == before and not card.pci.live
    memory.pages.free(taken)
    memory.alloc(4096)


def test_what_is_near_an_address_has_a_name() -> None:
    card = Card()
    memory = card.memory
    assert memory.nearest(0x1234) == "no buffer is allocated"
    a = memory.alloc(4096, name="weights")
    assert memory.nearest(a.address + 5) == f"inside weights buffer {a.address:#x}..{a.end:#x}"
    assert memory.nearest(a.address - 16) == f"0x10 bytes before weights buffer {a.address:#x}..{a.end:#x}"
    assert memory.nearest(a.end + 16) == f"0x10 bytes past the end of weights buffer {a.address:#x}..{a.end:#x}"
    b = memory.alloc(4096, kind="system")
    memory.free(b)
    assert memory.nearest(b.address) == f"inside system buffer {b.address:#x}..{b.end:#x}, which was freed"


def test_close_releases_host_memory() -> None:
    card = Card()
    buffer = card.memory.alloc(8192, kind="system")
    kept = card.pci.alloc_dma(4096)
    card.memory.map(kept)       # type: ignore[arg-type]
    assert len(card.pci.live) == 2
    card.memory.close()
    assert card.pci.live == {kept} and buffer.view is None


class Buffers(RuleBasedStateMachine):
    """Whatever is allocated and freed: nothing overlaps, nothing leaks, errors change nothing."""

    @initialize()
    def begin(self) -> None:
        self.card = Card()
        self.memory = self.card.memory
        self.held: list[Any] = []

    @rule(size=st.sampled_from([1, 4096, 70_000, MIB, 5 * MIB + 3, 30 * MIB]), contiguous=st.booleans(),
          kind=st.sampled_from(["vram", "vram", "system"]))
    def alloc(self, size: int, contiguous: bool, kind: str) -> None:
        before = self.memory.pages.free_bytes
        try:
            self.held.append(self.memory.alloc(size, kind=kind, contiguous=contiguous))     # type: ignore[arg-type]
        except OutOfMemoryError:
            assert self.memory.pages.free_bytes == before
            assert contiguous or before < size + 2 * MIB

    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        if self.held:
            self.memory.free(self.held.pop(data.draw(st.integers(0, len(self.held) - 1))))

    @invariant()
    def consistent(self) -> None:
        if not hasattr(self, "held"):
            return
        spans = sorted((b.address, b.end) for b in self.held)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
        vram = sorted(segment for b in self.held if b.kind == "vram" for segment in b.segments)
        assert all(a + n <= b for (a, n), (b, _) in itertools.pairwise(vram))
        used = sum(size for _, size in vram) + self.memory.allocated["tables"]
        assert self.memory.pages.free_bytes == self.memory.pages.size - used
        assert len(self.card.pci.live) == sum(b.kind == "system" for b in self.held)


TestBuffers = Buffers.TestCase
TestBuffers.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


def test_what_is_freed_in_a_batch_shares_its_flushes() -> None:
    card = Card()
    buffers = [card.memory.alloc(4096) for _ in range(20)]
    card.log.clear()
    with card.memory.batch():
        for buffer in buffers[:10]:
            card.memory.free(buffer)
        with pytest.raises(ValueError, match="freed twice"):
            card.memory.free(buffers[0])
        assert card.log == [] and all(card.memory.holds(buffer) for buffer in buffers[:10])
        kept = card.memory.alloc(4096)          # not where something is about to be unmapped
        assert kept.address not in [buffer.address for buffer in buffers]
    assert card.log.count("tlb") == 1
    assert not any(card.memory.holds(buffer) for buffer in buffers[:10])
    card.log.clear()
    card.memory.free(buffers[10])
    assert card.log == ["hdp", "tlb"]
