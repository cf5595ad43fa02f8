"""The host's side of strict memory, and the TLBs: each step of a driver left out, and what comes of it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from strict_card import LANES, MakeCard, StrictCard

import mock
from amdrv import pm4, sdma
from amdrv.facts import vm
from amdrv.mmu.pte import leaf_flags
from mock.pagetable import PDE_ADDRESS, Table
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
        assert not card.notes("hdp") or not (strict or flush)

    @staticmethod
    def wait_for_five(address: int) -> list[int]:
        return pm4.build("WAIT_REG_MEM", FUNCTION="EQUAL", MEM_SPACE="MEMORY", OPERATION="WAIT_REG_MEM",
                         ADDRESS=address, REFERENCE=5, MASK=0xFFFFFFFF, POLL_INTERVAL=4)

    @staticmethod
    def forgotten(card: StrictCard) -> tuple[int, int]:
        """(address, offset in video memory) of words, every other of which the CPU stored to without a flush."""
        buffer = card.alloc()
        card.words(buffer)[:LANES] = OLD
        card.device.flush_hdp()
        card.words(buffer)[:LANES:2] = NEW
        return buffer.address, buffer.segments[0][0]

    def told(self, card: StrictCard, address: int, offset: int, *, reader: str, old: int = OLD, new: int = NEW) -> None:
        """The log has one line, with both accesses: who reads what and where, and who stored what there."""
        line, = card.notes("hdp")
        assert line.startswith(reader), line
        assert f"reads {address:#x} (video memory {offset:#x}) and finds {old:#010x}; " in line
        assert f"; the CPU stored {new:#010x} there through BAR 0 " in line
        assert "since the last HDP flush (" in line and "a flush is missing in between" in line

    def test_the_log_names_both_accesses_of_a_copy(self, make: MakeCard) -> None:
        card = make()
        address, offset = self.forgotten(card)
        assert read(card, address + 8) == OLD
        self.told(card, address + 8, offset + 8, reader="sdma 0.0, COPY_LINEAR")
        assert read(card, address) == OLD and len(card.notes("hdp")) == 1       # once until a flush
        card.device.flush_hdp()
        card.words_at(offset)[0] = OLD
        assert read(card, address) == NEW and len(card.notes("hdp")) == 2
        card.device.flush_hdp()
        assert read(card, address) == OLD and len(card.notes("hdp")) == 2

    @pytest.mark.parametrize("kernel", ["vector", "scalar", "device_scope"])
    def test_of_a_wave(self, make: MakeCard, kernel: str) -> None:
        card = make()
        packets = card.launch(kernel, card.out.address)     # loads the code, which flushes
        address, offset = self.forgotten(card)
        packets = card.launch(kernel, card.out.address, address)
        card.run(packets)
        assert int(card.words(card.out)[0]) == OLD
        self.told(card, address, offset, reader="compute 1.0.0, ")

    def test_of_the_command_processor(self, make: MakeCard) -> None:
        card = make()
        address, offset = self.forgotten(card)
        card.run(pm4.build("COPY_DATA", SRC_SEL="TC_L2", DST_SEL="TC_L2",
                           SRC_ADDR=address, DST_ADDR=card.out.address))
        assert int(card.words(card.out)[0]) == OLD
        self.told(card, address, offset, reader="compute 1.0.0, COPY_DATA")

    def test_of_a_table_walk(self, make: MakeCard) -> None:
        """The entry is not there yet: the copy meets a page fault, and the log says why."""
        card = make()
        memory = card.device.require_memory()
        new = card.alloc()
        address = memory.addresses.allocate(2 << 20, align=2 << 20)
        memory.tables.map(address, [(memory.table_base + new.segments[0][0], 4096)], leaf_flags("vram"))
        card.device.flush_hdp()
        read(card, address)
        memory.tables.map(address + 4096, [(memory.table_base + new.segments[0][0], 4096)], leaf_flags("vram"))
        card.device.sdma_rings[0].submit(np.array(card.copy(card.out.address, address + 4096), np.uint32))
        end = time.monotonic() + 20
        while not card.notes("page-fault") and time.monotonic() < end:
            time.sleep(1e-3)
        line, = card.notes("hdp")
        assert line.startswith("a table walk for sdma 0.0, COPY_LINEAR") and "and finds 0x0" in line
        assert card.notes("page-fault")

    @pytest.mark.parametrize("seconds, noted", [(0.03, False), (0.3, True)])
    def test_a_poll_may_look_before_the_flush_but_not_for_long(self, make: MakeCard, seconds: float, noted: bool,
                                                               ) -> None:
        card = make()
        flag = card.alloc()
        card.words(flag)[0] = 0
        address = card.map_again(flag, vm.MTYPE_UC)
        packets, stored, wait = self.wait_for_five(address), threading.Event(), card._wait

        def flush_meanwhile(at: int) -> None:
            card.words(flag)[0] = 5
            time.sleep(seconds)
            card.device.flush_hdp()
            stored.set()
            wait(at)
        card._wait = flush_meanwhile        # type: ignore[method-assign]
        card.run(packets)
        assert stored.is_set()
        if noted:
            self.told(card, address, flag.segments[0][0], reader="compute 1.0.0, WAIT_REG_MEM", old=0, new=5)
        elif (line := card.notes("hdp")):       # of a machine that slept ten times as long
            assert float(re.findall(r"HDP flush \(([0-9.]+) ms", line[0])[0]) > 90

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
        flush, load = card.notes("wc")
        assert "an HDP flush without a fence before it, by the CPU" in flush
        assert "what the CPU stored to 1 pages of video memory (0x" in flush
        assert load.startswith("sdma 0.0, COPY_LINEAR") and f"and finds {OLD:#010x}; the CPU stored {NEW:#010x}" in load
        assert "found in the write-combining buffers: a fence is missing before it" in load and not card.notes("hdp")
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
        buffer = card.alloc()
        monkeypatch.setattr(card.device.compute_rings[0], "_fence", lambda: None)
        card.run([])
        card.words(buffer)[0] = NEW
        card.run([])
        first, second = card.notes("wc")
        assert "without a fence before it: what the CPU stored for the queue may come later than the doorbell" in first
        assert f"stored for the queue (to video memory {buffer.segments[0][0]:#x}) may come later" in second

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

    def test_the_log_names_who_changed_and_who_used(self, make: MakeCard) -> None:
        card, where = make(), list[int]()
        assert self.remapped(card, lambda card, address: where.append(address)) == OLD
        line, = card.notes("tlb")
        assert line.startswith("sdma 0.0, COPY_LINEAR(") and f"reaches {where[0]:#x} by what the TLB has, 0x" in line
        assert "and not by what the CPU, MainThread (" in line and "an invalidation of VMID 8 in the GC hub" in line
        entry = r"0x\w+ \(address 0x\w+ VALID"
        assert re.search(f"what the TLB has, {entry}.* made of it, {entry}", line)
        assert not [rule for rule in ("hdp", "gl2", "wc") if card.notes(rule)]

    def test_nothing_is_noted_when_it_was_told(self, make: MakeCard) -> None:
        card = make()
        assert self.remapped(card, lambda card, address: card.device.flush_tlb()) == NEW and not card.notes("tlb")
        assert self.remapped(card, lambda card, address: None) == OLD and len(card.notes("tlb")) == 1

    def test_of_a_wave(self, make: MakeCard) -> None:
        """Its misses are served on threads of no engine; the note names the launch all the same."""
        card = make()
        card.run(card.launch("vector", card.out.address, card.out.address))     # its code is there

        def use(card: StrictCard, address: int) -> None:
            card.run(card.launch("vector", card.out.address, address))
        assert self.remapped(card, use) == OLD
        line, = card.notes("tlb")
        assert line.startswith("compute 1.0.0, DISPATCH_DIRECT(")

    def test_of_entries_that_the_copy_engine_wrote(self, make: MakeCard) -> None:
        card = make()
        memory = card.device.require_memory()
        old, new = card.alloc(), card.alloc()
        card.words(old)[:LANES], card.words(new)[:LANES] = OLD, NEW
        address = memory.addresses.allocate(4096, align=4096)
        memory.tables.map(address, [(memory.table_base + old.segments[0][0], 4096)], leaf_flags("vram"))
        card.device.flush_hdp()
        assert read(card, address) == OLD
        walk, = (walk for region, walk in card.board.memory.hubs["gc"].tlbs[8].walks.items()
                 if region == address >> 21 and isinstance(walk, Table))
        table = card.device.require_memory().table_base - card.board.memory.hubs["gc"].current().fb_offset
        at = walk.address + table + 8 * (address >> 12 & 0x1FF)
        entry = memory.table_base + new.segments[0][0] | leaf_flags("vram")
        card.copy_engine(sdma.build("WRITE_INCR", DST_ADDR=self.visible(card, at), MASK=0, INIT=entry, INCR=0, COUNT=0))
        assert read(card, address) == OLD
        line, = card.notes("tlb")
        assert "and not by what sdma 0.0, WRITE_INCR(" in line

    def visible(self, card: StrictCard, physical: int) -> int:
        """An address at which engines reach a page of tables."""
        memory = card.device.require_memory()
        address = memory.addresses.allocate(4096, align=4096)
        memory.tables.map(address, [(physical & -4096, 4096)], leaf_flags("vram"))
        card.device.flush_hdp()
        return address + (physical & 4095)

    def test_of_a_directory(self, make: MakeCard) -> None:
        """Its own entry is in the TLB; whoever reaches another page of that directory is told of the walk."""
        card = make()
        memory, hub = card.device.require_memory(), card.board.memory.hubs["gc"]
        old = card.alloc()
        card.words(old)[:LANES] = OLD
        address = memory.addresses.allocate(2 << 20, align=2 << 20)
        for page in (0, 8192):
            memory.tables.map(address + page, [(memory.table_base + old.segments[0][0], 4096)], leaf_flags("vram"))
        card.device.flush_hdp()
        assert read(card, address) == OLD
        context, fb = hub.current().contexts[8], hub.current().fb_offset
        where = context.base
        for level in range(context.depth - 1, -1, -1):
            table = card.words_at((where & PDE_ADDRESS) - fb).view(np.uint64)
            index = address >> 12 + context.block + 9 * level & 0x1FF
            where = int(table[index])
        table[index] = 0
        card.device.flush_hdp()
        assert read(card, address) == read(card, address + 8192) == OLD
        entry, walk = card.notes("tlb")
        assert "made of it, nothing valid" in entry and "(PTEs of L1 and L2, that page)" in entry
        assert f"reaches {address + 8192:#x} by a directory that the TLB has, table at {where & PDE_ADDRESS:#x}" in walk
        assert "(PDEs of L1 and L2, that page)" in walk

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
                                             ("-gl2-glv-wc", {"gl2", "glv", "wc"}), ("-hdp+hdp", set())])
    def test_spelling(self, text: str, names: set[str]) -> None:
        """Rule gl1 is off unless it is asked for."""
        assert relaxed(text) == names | {"gl1"} and relaxed(text + "+gl1") == names

    @pytest.mark.parametrize("text", ["hdp", "-", "+", "-hdp,", "-hdp tlb"])
    def test_misspelling(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"must name rules to switch off, each with a minus"):
            relaxed(text)

    def test_a_rule_that_is_none(self) -> None:
        with pytest.raises(ValueError, match=r"no rule 'l3'; there are hdp, wc, tlb, gl2, glv, glk, gli, gl1, "):
            mock.Gpu(strict="-l3")

    def test_by_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AMDRV_MOCK", "gfx1100:vram=64M,strict=-hdp,-tlb,count=2;gfx1100:vram=64M,strict=-wc,+gl1")
        with mock.Machine.from_environment() as machine:
            first: Any
            *others, last = machine.gpus
            for first in others:
                assert [rule for rule in RULES if not first.gpu.is_strict(rule)] == ["hdp", "tlb", "gl1"]
            assert [rule for rule in RULES if not last.gpu.is_strict(rule)] == ["wc"] and len(others) == 2


class TestCost:
    def test_what_nobody_looks_at_has_no_second_copy(self, make: MakeCard) -> None:
        """Copies and launches through hcq leave the CPU's image of their buffers out of it."""
        card = make()
        data = np.arange(1 << 20, dtype=np.uint32)
        buffer = card.dev.alloc(data.nbytes)
        assert (buffer.copyin(data).copyout().view(np.uint32) == data).all()
        vram, memory = card.board.vram, card.board.memory
        host = memory.hubs["gc"].peek(8, buffer.address >> 12)
        assert 0 <= host - vram.base < vram.size and not vram.has_window(host - vram.base >> 12)
