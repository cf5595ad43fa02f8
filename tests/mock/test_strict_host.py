"""The host's side of strict memory, and the TLBs: each step of a driver left out, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from strict_card import LANES, MakeCard, StrictCard

import mock
from amdrv import pm4
from amdrv.mmu.pte import leaf_flags
from mock.rules import RULES, relaxed

OLD, NEW = 0x0A0A0A0A, 0x0B0B0B0B


@pytest.fixture
def make() -> Iterator[MakeCard]:
    machines: list[mock.Machine] = []
    cards: list[StrictCard] = []

    def card(strict: str = "", count: int = 1) -> StrictCard:
        machines.append(mock.Machine([mock.Gpu("gfx1100", vram="128M", strict=strict)] * count))
        cards.append(StrictCard(machines[-1]))
        return cards[-1]
    yield card
    for each in cards:
        each.close()
    for machine in machines:
        machine.close()


def read(card: StrictCard, address: int, nbytes: int = 4) -> int:
    """What the copy engine finds, with nothing left in GL2. Nothing is allocated or freed: that would flush."""
    card.copy_engine([*card.invalidate_by_sdma(), *card.copy(card.out.address, address, nbytes)])
    return int(card.words(card.out)[0])


class TestHdp:
    @pytest.mark.parametrize("strict, flush, value", [("", True, NEW), ("", False, OLD), ("-hdp", False, NEW)])
    def test_engines_see_the_cpus_stores_after_the_flush(self, make: MakeCard, strict: str, flush: bool, value: int,
                                                         ) -> None:
        card = make(strict)
        buffer = card.alloc()
        card.words(buffer)[0] = OLD
        card.device.flush_hdp()
        card.words(buffer)[0] = NEW
        if flush:
            card.device.flush_hdp()
        assert read(card, buffer.address) == value

    def test_a_queue_may_flush_by_a_packet(self, make: MakeCard) -> None:
        card = make()
        buffer = card.alloc()
        card.words(buffer)[0] = NEW
        card.run(pm4.build("HDP_FLUSH"))
        assert read(card, buffer.address) == NEW


class TestWriteCombining:
    def store(self, card: StrictCard, monkeypatch: pytest.MonkeyPatch, *, fence: bool, pages: int = 1) -> list[int]:
        """The CPU stores to some pages and flushes HDP, with or without the fence: what engines find in them."""
        buffer = card.alloc(nbytes=4096 * pages)
        card.words(buffer)[::1024] = OLD
        card.device.flush_hdp()
        card.words(buffer)[::1024] = NEW
        with monkeypatch.context() as patch:
            if not fence:
                patch.setattr(card.device.pci, "fence", lambda: None)
            card.device.flush_hdp()
        return [read(card, buffer.address + 4096 * page) for page in range(pages)]

    def test_a_flush_needs_the_fence(self, make: MakeCard, monkeypatch: pytest.MonkeyPatch) -> None:
        card = make()
        assert self.store(card, monkeypatch, fence=True) == [NEW] and not card.notes("wc")
        assert self.store(card, monkeypatch, fence=False) == [OLD]
        assert "HDP flush without a fence" in card.notes("wc")[0]
        assert self.store(make("-wc"), monkeypatch, fence=False) == [NEW]

    def test_without_it_stores_arrive_in_another_order(self, make: MakeCard, monkeypatch: pytest.MonkeyPatch) -> None:
        """The page that was stored to last is there, what came before it is not: a flag without its data."""
        assert self.store(make(), monkeypatch, fence=False, pages=4) == [OLD, OLD, OLD, NEW]

    def test_what_lingered_comes_with_the_next_fence(self, make: MakeCard, monkeypatch: pytest.MonkeyPatch) -> None:
        card = make()
        buffer = card.alloc(nbytes=8192)
        card.words(buffer)[::1024] = OLD
        card.device.flush_hdp()
        card.words(buffer)[::1024] = NEW
        with monkeypatch.context() as patch:
            patch.setattr(card.device.pci, "fence", lambda: None)
            card.device.flush_hdp()
        assert read(card, buffer.address) == OLD
        card.device.flush_hdp()
        assert read(card, buffer.address) == read(card, buffer.address + 4096) == NEW

    def test_a_doorbell_without_a_fence_is_noted(self, make: MakeCard, monkeypatch: pytest.MonkeyPatch) -> None:
        card = make()
        card.run([])
        assert not card.notes("wc")
        monkeypatch.setattr(card.device.pci, "fence", lambda: None)
        card.run([])
        assert "doorbell" in card.notes("wc")[0]

    def test_drivers_on_the_plain_interface_have_an_x86(self) -> None:
        """There a register access drains the buffers (Intel SDM), and nobody has to call ``fence``."""
        with mock.Machine([mock.Gpu("gfx1100", vram="64M")]) as machine:
            board = machine.gpus[0]
            board.write_config(4, 2, 6)
            window = np.frombuffer(board.bar_memory(0, 0x100000, 4096), np.uint32)
            window[0] = NEW
            board.hdp_flush()
            assert int(board.vram.view[0x100000:0x100004].view(np.uint32)[0]) == NEW and not board.notes.of("wc")


class TestTlb:
    """Another page is put behind an address that engines have used."""

    def remapped(self, card: StrictCard, forget: Callable[[StrictCard, int], None]) -> int:
        memory = card.device.require_memory()
        old, new = card.alloc(), card.alloc()
        card.words(old)[:LANES], card.words(new)[:LANES] = OLD, NEW
        address = memory.addresses.allocate(4096, align=4096)
        memory.tables.map(address, [(memory.table_base + old.segments[0][0], 4096)], leaf_flags("vram"))
        card.device.flush_hdp()
        assert read(card, address) == OLD
        memory.tables.unmap(address, 4096)
        memory.tables.map(address, [(memory.table_base + new.segments[0][0], 4096)], leaf_flags("vram"))
        card.device.flush_hdp()
        forget(card, address)
        return read(card, address)

    @staticmethod
    def request(**bits: int) -> Callable[[StrictCard, int], None]:
        """A request to engine 16 of the GC hub; ``page`` is relative to the address, -1: everything."""
        def forget(card: StrictCard, address: int) -> None:
            regs, page = card.device.regs, bits.get("page", -1)
            low, high = (0xFFFFFFFF, 0x1F) if page < 0 else (
                ((address >> 12) + page << 1 & 0xFFFFFFFF), (address >> 12) + page >> 31)
            regs.GCVM_INVALIDATE_ENG16_ADDR_RANGE_LO32.write(low)
            regs.GCVM_INVALIDATE_ENG16_ADDR_RANGE_HI32.write(high)
            levels = {f"invalidate_l2_pde{n}": 1 for n in range(3)}
            regs.GCVM_INVALIDATE_ENG16_ACK.write(0)
            vmids = bits.get("vmids", 1 << 8)
            regs.GCVM_INVALIDATE_ENG16_REQ.write(per_vmid_invalidate_req=vmids, invalidate_l1_ptes=bits.get("l1", 1),
                                                 invalidate_l2_ptes=bits.get("l2", 1), **levels)
            assert int(regs.GCVM_INVALIDATE_ENG16_ACK.read()) == vmids
        return forget

    def test_stale_until_it_is_told(self, make: MakeCard) -> None:
        assert self.remapped(make(), lambda card, address: card.device.flush_tlb()) == NEW
        assert self.remapped(make(), lambda card, address: None) == OLD
        assert self.remapped(make("-tlb"), lambda card, address: None) == NEW

    @pytest.mark.parametrize("bits, value", [({}, NEW), ({"vmids": 1 << 7}, OLD), ({"l1": 0}, OLD), ({"l2": 0}, OLD),
                                             ({"page": 0}, NEW), ({"page": 1}, OLD), ({"page": -2}, NEW)])
    def test_vmid_levels_and_range_are_respected(self, make: MakeCard, bits: dict[str, int], value: int) -> None:
        card = make()
        assert self.remapped(card, self.request(**bits)) == value
        assert bool(card.notes("invalidate-partial")) == bool({"l1", "l2"} & bits.keys())

    def test_the_hubs_are_apart(self, make: MakeCard) -> None:
        """An invalidation of the MM hub does nothing for the GC hub's clients."""
        def other(card: StrictCard, address: int) -> None:
            card.device.gmc.mm.flush_tlb(0, 8)
        assert self.remapped(make(), other) == OLD


class TestPoison:
    def test_video_memory_that_nobody_wrote(self, make: MakeCard) -> None:
        card = make()
        value = read(card, card.alloc().address)
        assert value & 1 and np.isnan(np.uint32(value).view(np.float32))
        card = make("-poison")
        assert read(card, card.alloc().address) == 0

    def test_local_memory(self, make: MakeCard) -> None:
        card = make()
        out = card.alloc("system")
        card.run(card.launch("local", out.address))
        assert set(card.words(out)[:LANES].tolist()) == {0xA5A5A5A5}


class TestNames:
    def test_every_rule_has_a_text_and_a_source(self) -> None:
        assert all(rule.text.endswith(".") and rule.source for rule in RULES.values())

    @pytest.mark.parametrize("text, names", [("", set()), ("-hdp", {"hdp"}), ("-hdp,-tlb", {"hdp", "tlb"}),
                                             ("-gl2-glv-wc", {"gl2", "glv", "wc"})])
    def test_spelling(self, text: str, names: set[str]) -> None:
        assert relaxed(text) == names

    @pytest.mark.parametrize("text", ["hdp", "-", "+hdp", "-hdp,", "-hdp tlb"])
    def test_misspelling(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"must name rules to switch off, each with a minus"):
            relaxed(text)

    def test_a_rule_that_is_none(self) -> None:
        with pytest.raises(ValueError, match=r"no rule 'l3'; there are hdp, wc, tlb, gl2, glv, glk, gli, overlap, "):
            mock.Gpu(strict="-l3")

    def test_by_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AMDRV_MOCK", "gfx1100:vram=64M,strict=-hdp,-tlb,count=2")
        with mock.Machine.from_environment() as machine:
            first: Any
            for first in machine.gpus:
                assert [rule for rule in RULES if not first.gpu.is_strict(rule)] == ["hdp", "tlb"]
