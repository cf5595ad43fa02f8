"""Each rule of the caches: who forgets exactly one step gets the old bytes, who does not, or has the rule off, the new.

The executors both take part: small launches go to the interpreter, and AMDRV_ISA=jit to native code.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from strict_card import CONSTANT, LANES, MakeCard, StrictCard

import mock
from amdrv import pm4, sdma
from amdrv.facts import vm
from amdrv.hal.mock import MockHal

EVERYTHING = {"GLI_INV": "GLI_ALL", "GLK_INV": 1, "GLV_INV": 1, "GL1_INV": 1, "GL2_INV": 1, "GL2_WB": 1}
OLD, NEW = 0x0A0A0A0A, 0x0B0B0B0B


@pytest.fixture(params=["interpreter", "jit"])
def executor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AMDRV_ISA", request.param)
    return str(request.param)


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


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in EVERYTHING.items() if name not in names}


def put_by_cpu(card: StrictCard, buffer: Any, value: int) -> None:
    card.words(buffer)[:LANES] = value
    card.device.flush_hdp()


def put_by_sdma(card: StrictCard, buffer: Any, value: int) -> None:
    """Through GL2, into memory as well: SDMA's default policy."""
    card.copy_engine(sdma.build("CONSTANT_FILL", FILLSIZE="DWORD", DST_ADDR=buffer.address, SRC_DATA_31_0=value,
                                COUNT=4 * LANES - 1))


# ---- GL2


class TestGl2:
    def stored(self, card: StrictCard, **bits: Any) -> int:
        """A kernel stores, then ``bits`` are asked for: what the CPU sees."""
        out = card.alloc()
        put_by_cpu(card, out, OLD)
        card.run(card.acquire(**EVERYTHING))
        card.run([*card.launch("constant", out.address), *card.acquire(**bits)])
        return int(card.words(out)[0])

    def test_the_cpu_sees_stores_after_the_write_back(self, make: MakeCard, executor: str) -> None:
        card = make()
        assert self.stored(card, GL2_WB=1) == CONSTANT
        assert self.stored(card, **without("GL2_WB")) == OLD
        assert self.stored(make("-gl2"), **without("GL2_WB")) == CONSTANT

    def test_a_single_load_of_the_cpu_is_noted(self, make: MakeCard) -> None:
        card = make()
        out = card.alloc()
        put_by_cpu(card, out, OLD)
        card.run(card.launch("constant", out.address))
        assert card.board.read_bar(0, out.segments[0][0], 4) == OLD
        note, = card.notes("gl2")
        assert "the CPU reads" in note and "compute 1.0.0, DISPATCH_DIRECT" in note and "GL2_WB is missing" in note

    def test_the_drivers_own_fence_writes_back(self, make: MakeCard) -> None:
        card = make()
        out, signal = card.alloc(), card.alloc("system")
        put_by_cpu(card, out, OLD)
        words = card.launch("constant", out.address)
        card.backend.compute.signal(words, signal.address, 1)
        card.run(words)
        assert int(card.words(out)[0]) == CONSTANT and not card.notes("gl2")

    def seen(self, card: StrictCard, **bits: Any) -> int:
        """A kernel reads, the CPU stores and flushes HDP, ``bits`` are asked for: what a kernel reads then."""
        source, out = card.alloc(), card.alloc("system")
        put_by_cpu(card, source, OLD)
        card.run([*card.acquire(**EVERYTHING), *card.launch("vector", out.address, source.address)])
        assert int(card.words(out)[0]) == OLD
        put_by_cpu(card, source, NEW)
        card.run([*card.acquire(**bits), *card.launch("vector", out.address, source.address)])
        return int(card.words(out)[0])

    def test_kernels_see_the_cpus_stores_after_the_invalidation(self, make: MakeCard, executor: str) -> None:
        card = make()
        assert self.seen(card, **EVERYTHING) == NEW and not card.notes("gl2")
        assert self.seen(card, **without("GL2_INV")) == OLD
        note, = card.notes("gl2")
        assert "compute 1.0.0" in note and "GL2_INV is missing" in note and "the CPU" in note
        assert self.seen(make("-gl2"), **without("GL2_INV")) == NEW

    @pytest.mark.parametrize("reach, value", [(1, NEW), (0, OLD)])
    def test_an_invalidation_with_a_range_is_confined_to_it(self, make: MakeCard, reach: int, value: int) -> None:
        card = make()
        source, out = card.alloc(nbytes=8192), card.alloc("system")
        put_by_cpu(card, source, OLD)
        card.run([*card.acquire(**EVERYTHING), *card.launch("vector", out.address, source.address)])
        put_by_cpu(card, source, NEW)
        at = source.address + (0 if reach else 4096)
        card.run([*card.acquire(GL2_RANGE="GL2_RANGE", COHER_BASE=at >> 8, COHER_SIZE=4096 >> 8, GL2_INV=1, GL2_WB=1),
                  *card.acquire(GLV_INV=1, GL1_INV=1), *card.launch("vector", out.address, source.address)])
        assert int(card.words(out)[0]) == value

    def test_sdma_reads_through_gl2(self, make: MakeCard) -> None:
        def read(card: StrictCard, packets: list[int]) -> int:
            source, out = card.alloc(), card.alloc("system")
            put_by_cpu(card, source, OLD)
            card.copy_engine([*card.invalidate_by_sdma(), *card.copy(out.address, source.address)])
            put_by_cpu(card, source, NEW)
            card.copy_engine([*packets, *card.copy(out.address, source.address)])
            return int(card.words(out)[0])
        card = make()
        assert read(card, card.invalidate_by_sdma()) == NEW and not card.notes("gl2")
        assert read(card, []) == OLD
        assert "sdma 0.0, COPY_LINEAR" in card.notes("gl2")[0]
        off = make("-gl2")
        assert read(off, []) == NEW

    def test_sdmas_stores_stay_in_gl2_when_the_policy_says_so(self, make: MakeCard) -> None:
        card = make()
        out, source = card.alloc(), card.alloc("system")
        put_by_cpu(card, out, OLD)
        card.words(source)[:LANES] = NEW
        card.copy_engine(card.copy(out.address, source.address, CPV=1, DST_CACHE_POLICY=0))
        assert int(card.words(out)[0]) == OLD
        card.copy_engine(card.invalidate_by_sdma(1 << 15))
        assert int(card.words(out)[0]) == NEW
        card.words(source)[:LANES] = OLD
        card.copy_engine(card.copy(out.address, source.address))        # by the engine's default: BYPASS
        assert int(card.words(out)[0]) == OLD

    @pytest.mark.parametrize("policy, value", [("LRU", OLD), ("STREAM", OLD), ("BYPASS", NEW)])
    def test_the_command_processors_stores_by_cache_policy(self, make: MakeCard, policy: str, value: int) -> None:
        card = make()
        out = card.alloc()
        put_by_cpu(card, out, OLD)
        card.run(pm4.build("WRITE_DATA", DST_SEL="MEM", WR_CONFIRM=1, CACHE_POLICY=policy, DST_ADDR=out.address,
                           DATA=[NEW]))
        assert int(card.words(out)[0]) == value
        card.run(card.acquire(GL2_WB=1))
        assert int(card.words(out)[0]) == NEW

    def test_an_invalidation_keeps_dirty_lines_and_a_discard_does_not(self, make: MakeCard) -> None:
        card = make()
        out, seen = card.alloc(), card.alloc("system")
        put_by_cpu(card, out, OLD)
        store = pm4.build("WRITE_DATA", DST_SEL="MEM", WR_CONFIRM=1, DST_ADDR=out.address, DATA=[NEW])
        for bits, value in (({"GL2_INV": 1}, NEW), ({"GL2_DISCARD": 1}, OLD)):
            card.run([*store, *card.acquire(**bits), *card.acquire(GLV_INV=1, GL1_INV=1, GL2_WB=1),
                      *card.launch("vector", seen.address, out.address)])
            assert int(card.words(seen)[0]) == int(card.words(out)[0]) == value
            put_by_cpu(card, out, OLD)
            card.run(card.acquire(**EVERYTHING))

    @pytest.mark.parametrize("mtype, value", [(vm.MTYPE_NC, OLD), (vm.MTYPE_UC, NEW)])
    def test_system_memory_is_coherent_when_it_is_uncached(self, make: MakeCard, mtype: int, value: int) -> None:
        card = make()
        memory, out = card.alloc("system"), card.alloc("system")
        address = card.map_again(memory, mtype)
        card.words(memory)[:LANES] = OLD
        card.copy_engine(card.copy(out.address, address))
        card.words(memory)[:LANES] = NEW
        card.copy_engine(card.copy(out.address, address))
        assert int(card.words(out)[0]) == value
        card.copy_engine([*card.invalidate_by_sdma(), *card.copy(out.address, address)])
        assert int(card.words(out)[0]) == NEW
        card.run([*card.launch("constant", address)])
        assert int(card.words(memory)[0]) == (NEW if mtype == vm.MTYPE_NC else CONSTANT)
        card.run(card.acquire(GL2_WB=1))
        assert int(card.words(memory)[0]) == CONSTANT
        assert bool(card.notes("gl2")) == (mtype == vm.MTYPE_NC)

    @pytest.mark.parametrize("strict, write_back, value", [("", {}, OLD), ("", {"GL2_WB": 1}, CONSTANT),
                                                           ("-gl2", {}, CONSTANT)])
    def test_a_peer_reads_memory_not_gl2(self, make: MakeCard, strict: str, write_back: dict[str, int],
                                         value: int) -> None:
        one = make(strict, count=2)
        machine = one.board.bus.boards[0]
        assert machine is one.board
        other = StrictCard.__new__(StrictCard)
        hal = one.device.pci.hal                        # type: ignore[attr-defined]
        assert isinstance(hal, MockHal)
        StrictCard.__init__(other, hal.machine, 1)
        try:
            out, seen = one.alloc(), other.alloc("system")
            put_by_cpu(one, out, OLD)
            one.run([*one.launch("constant", out.address), *one.acquire(**write_back)])
            peer = other.device.map(other.device.pci.map_peer(one.device.pci.bar(0)))
            other.copy_engine(other.copy(seen.address, peer.address + out.segments[0][0]))
            assert int(other.words(seen)[0]) == value
            assert bool(one.notes("gl2")) == (not write_back and not strict)
        finally:
            other.close()

    def test_a_peers_stores_are_seen_after_the_invalidation(self, make: MakeCard) -> None:
        one = make(count=2)
        hal = one.device.pci.hal                        # type: ignore[attr-defined]
        other = StrictCard(hal.machine, 1)
        try:
            target, seen, source = one.alloc(), one.alloc("system"), other.alloc("system")
            put_by_cpu(one, target, OLD)
            one.run([*one.acquire(**EVERYTHING), *one.launch("vector", seen.address, target.address)])
            peer = other.device.map(other.device.pci.map_peer(one.device.pci.bar(0)))
            other.words(source)[:LANES] = NEW
            other.copy_engine(other.copy(peer.address + target.segments[0][0], source.address))
            assert int(one.words(target)[0]) == NEW     # the CPU sees memory
            for bits, value in ((without("GL2_INV"), OLD), (EVERYTHING, NEW)):
                one.run([*one.acquire(**bits), *one.launch("vector", seen.address, target.address)])
                assert int(one.words(seen)[0]) == value
        finally:
            other.close()


# ---- the shaders' caches


def reread(card: StrictCard, kernel: str, before: list[int], again: str | None = None) -> int:
    """A kernel reads, SDMA stores (GL2 has it), ``before`` runs: what a kernel reads then."""
    source, out = card.alloc(), card.alloc("system")
    put_by_sdma(card, source, OLD)
    card.run([*card.acquire(**EVERYTHING), *card.launch(kernel, out.address, source.address)])
    assert int(card.words(out)[0]) == OLD
    put_by_sdma(card, source, NEW)
    card.run([*before, *card.launch(again or kernel, out.address, source.address)])
    return int(card.words(out)[0])


class TestVectorCaches:
    def test_both_levels_have_to_be_invalidated(self, make: MakeCard, executor: str) -> None:
        card = make()
        assert reread(card, "vector", card.acquire(GLV_INV=1, GL1_INV=1)) == NEW
        assert not card.notes("glv")
        assert reread(card, "vector", card.acquire(**without("GLV_INV"))) == OLD
        assert reread(card, "vector", card.acquire(**without("GL1_INV"))) == OLD
        notes = card.notes("glv")
        assert "GL0" in notes[0] and "GLV_INV" in notes[0] and "sdma 0.0, CONSTANT_FILL" in notes[0]
        assert "compute 1.0.0, DISPATCH_DIRECT" in notes[0]
        assert "GL1" in notes[1] and "GL1_INV" in notes[1]

    def test_a_launch_invalidates_nothing_by_itself(self, make: MakeCard, executor: str) -> None:
        assert reread(make(), "vector", []) == OLD

    def test_switched_off(self, make: MakeCard) -> None:
        assert reread(make("-glv"), "vector", []) == NEW

    @pytest.mark.parametrize("kernel", ["device_scope", "acquiring", "atomic"])
    def test_code_that_asks_for_coherence_gets_it(self, make: MakeCard, executor: str, kernel: str) -> None:
        """glc; buffer_gl0_inv and buffer_gl1_inv; an atomic."""
        card = make()
        assert reread(card, "vector", [], again=kernel) == NEW and not card.notes("glv")

    def test_a_release_invalidates_too(self, make: MakeCard) -> None:
        card = make()
        words: list[int] = []
        card.backend.compute.signal(words, card.alloc("system").address, 1)
        assert reread(card, "vector", words) == NEW

    def test_a_launch_sees_its_own_stores_and_the_next_one_must_ask(self, make: MakeCard, executor: str) -> None:
        card = make()
        source, out = card.alloc(), card.alloc("system")
        put_by_sdma(card, source, OLD)
        read = card.launch("vector", out.address, source.address)
        card.run([*card.acquire(**EVERYTHING), *read])
        card.run(card.launch("constant", source.address))
        for before, value in (([], OLD), (card.acquire(GLV_INV=1, GL1_INV=1), CONSTANT)):
            card.run([*before, *card.launch("vector", out.address, source.address)])
            assert int(card.words(out)[0]) == value


class TestOverlap:
    """Launches that nobody waited for may still run when caches are looked at."""

    @pytest.mark.parametrize("strict, wait, value", [("", True, CONSTANT), ("", False, OLD),
                                                     ("-overlap", False, CONSTANT)])
    def test_a_write_back_covers_what_was_waited_for(self, make: MakeCard, strict: str, wait: bool, value: int) -> None:
        card = make(strict)
        out, seen = card.alloc(), card.alloc("system")
        uncached = card.map_again(out, vm.MTYPE_UC)
        put_by_cpu(card, out, OLD)
        card.run([*card.launch("constant", out.address), *card.acquire(wait=wait, GL2_WB=1),
                  *pm4.build("COPY_DATA", SRC_SEL="SRC_MEM", DST_SEL="MEM", SRC_ADDR=uncached, DST_ADDR=seen.address)])
        assert int(card.words(seen)[0]) == value
        if value == OLD:
            line, = card.notes("overlap")
            assert "COPY_DATA" not in line.partition(" reads ")[2] and line.startswith("compute 1.0.0 (uncached) reads")
            assert "and what compute 1.0.0, DISPATCH_DIRECT(" in line and "nobody had waited for that launch" in line
        else:
            assert not card.notes("overlap")
        card.run(card.acquire(GL2_WB=1))        # the fence has waited
        assert int(card.words(out)[0]) == CONSTANT

    @pytest.mark.parametrize("strict, wait, value", [("", True, CONSTANT), ("", False, OLD),
                                                     ("-overlap", False, CONSTANT)])
    def test_an_invalidation_covers_what_was_waited_for(self, make: MakeCard, executor: str, strict: str, wait: bool,
                                                        value: int) -> None:
        """A kernel reads, one stores, one reads again, each behind the same barrier."""
        card = make(strict)
        source, out = card.alloc(), card.alloc("system")
        put_by_sdma(card, source, OLD)
        barrier = card.acquire(wait=wait, **EVERYTHING)
        read = card.launch("vector", out.address, source.address)
        second, third = card.alloc("system"), card.alloc("system")
        words = [*barrier, *read]
        for place, name, target in ((second, "constant", source), (third, "vector", out)):
            card.words(place).view(np.uint64)[:2] = target.address, source.address
            launch: list[int] = []
            card.launch(name, 0)
            card.backend.compute.exec(launch, card.program(name).kernel, place.address, (1, 1, 1), (LANES, 1, 1))
            words += [*barrier, *launch]
        card.words(card.kernarg).view(np.uint64)[:2] = out.address, source.address
        card.run(words)
        assert int(card.words(out)[0]) == value
        if value == OLD:
            line, = card.notes("overlap")
            reader, _, writer = line.partition(" from GL0, which holds the page as it was before ")
            assert reader.startswith("compute 1.0.0, DISPATCH_DIRECT(") and f" reads {source.address:#x}" in reader
            assert writer.startswith("compute 1.0.0, DISPATCH_DIRECT(")
            assert "GLV_INV came in between, but did not cover compute 1.0.0, DISPATCH_DIRECT(" in writer
        else:
            assert not card.notes("overlap")


class TestScalarCache:
    def test_the_scalar_cache_and_gl1(self, make: MakeCard, executor: str) -> None:
        card = make()
        assert reread(card, "scalar", card.acquire(GLK_INV=1, GL1_INV=1)) == NEW
        assert not card.notes("glk")
        assert reread(card, "scalar", card.acquire(**without("GLK_INV"))) == OLD
        assert reread(card, "scalar", card.acquire(**without("GL1_INV"))) == OLD
        assert reread(card, "scalar", [], again="vector") == OLD        # GL1 is behind both
        first, *_ = card.notes("glk")
        assert "the scalar cache" in first and "GLK_INV" in first and "sdma 0.0" in first

    def test_switched_off(self, make: MakeCard) -> None:
        assert reread(make("-glk"), "scalar", []) == NEW


class TestInstructionCache:
    def rewritten(self, card: StrictCard, **bits: Any) -> int:
        """Code runs, is replaced by the CPU, ``bits`` are asked for: what it does then."""
        out = card.alloc("system")
        card.run([*card.acquire(**EVERYTHING), *card.launch("constant", out.address)])
        entry, board = card.entry("constant"), card.board
        size = 256
        code = np.frombuffer(board.memory.read("gc", 8, entry, size), np.uint8).copy()
        at = code.tobytes().index(CONSTANT.to_bytes(4, "little"))
        card.backend.upload(entry + at, np.frombuffer(NEW.to_bytes(4, "little"), np.uint8))
        card.run([*card.acquire(**bits), *card.launch("constant", out.address)])
        return int(card.words(out)[0])

    def test_new_code_runs_after_the_invalidation(self, make: MakeCard, executor: str) -> None:
        assert self.rewritten(make(), **EVERYTHING) == NEW
        card = make()
        assert self.rewritten(card, **without("GLI_INV")) == CONSTANT
        note, = card.notes("gli")
        assert "the instruction cache" in note and "GLI_INV" in note and "the CPU" in note

    def test_switched_off(self, make: MakeCard) -> None:
        assert self.rewritten(make("-gli"), **without("GLI_INV")) == NEW
