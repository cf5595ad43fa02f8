"""Performance counters by registers and packets, reserved compute units, every VMID, and the clock in packets."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import pytest
from compute_rig import ARGS, DATA, SIGNAL, WAVE32, Rig, lohi, packet, release
from raw_board import RawBoard, Tables
from sdma_rig import TARGET, Queue, copy, fence

from mock.machine import Gpu, Machine
from mock.perfcounters import CYCLES_PER_TICK, EVENTS

END = 0xBFB00000
SE_BROADCAST = 0xE0000000
# s_nop, s_nop, s_nop, s_endpgm
FOUR = (0xBF800000, 0xBF800000, 0xBF800000, END)
RESET, START, STOP = 0, 1, 2 | 1 << 10
ACQUIRE_WB = (0, 0xFFFFFFFF, 0xFF, 0, 0, 10, 1 << 15)      # ACQUIRE_MEM of everything: GCR_CNTL.GL2_WB


def select(raw: RawBoard, **events: int) -> None:
    """GRBM0=2 selects event 2 in GRBM_PERFCOUNTER0."""
    for name, event in events.items():
        raw.poke(f"{name[:-1]}_PERFCOUNTER{name[-1]}_SELECT", PERF_SEL=event)


def state(raw: RawBoard, value: int) -> None:
    raw.poke("CP_PERFMON_CNTL", value)


def each_engine(raw: RawBoard, register: str) -> list[int]:
    found = []
    for se in range(raw.board.arch.shader_engines):
        raw.poke("GRBM_GFX_INDEX", SE_BROADCAST, SE_BROADCAST_WRITES=0, SE_INDEX=se)
        found.append(raw.peek(register))
    raw.poke("GRBM_GFX_INDEX", SE_BROADCAST)
    return found


def launch(rig: Rig, groups: int, items: int, *, wave: int = 32, value: int = 1) -> None:
    rig.code(*FOUR)
    rig.put([*rig.dispatch((groups, 1, 1), (items, 1, 1), rsrc2=0, initiator=1 | (WAVE32 if wave == 32 else 0)),
             *release(SIGNAL, value)])
    rig.done(value)


class TestShaderCounters:
    @pytest.mark.parametrize(("wave", "waves"), [(32, 7 * 3), (64, 7 * 2)])
    def test_waves_items_and_instructions(self, rig: Rig, wave: int, waves: int) -> None:
        """Seven groups of 70 work-items; the engines' parts add up, whatever the order of the looks."""
        raw = rig.raw
        raw.poke("SQ_PERFCOUNTER_CTRL", CS_EN=1)
        select(raw, SQ0=4, SQ1=0x30, SQ2=8, SQ3=5, SQ4=6)
        state(raw, START)
        launch(rig, 7, 70, wave=wave)
        state(raw, STOP)
        assert sum(parts := each_engine(raw, "SQ_PERFCOUNTER0_LO")) == waves
        assert max(parts) - min(parts) <= 1
        assert sum(each_engine(raw, "SQ_PERFCOUNTER1_LO")) == 4 * waves
        assert sum(each_engine(raw, "SQ_PERFCOUNTER2_LO")) == 490
        assert sum(each_engine(raw, "SQ_PERFCOUNTER3_LO")) == (waves if wave == 32 else 0)
        assert sum(each_engine(raw, "SQ_PERFCOUNTER4_LO")) == (waves if wave == 64 else 0)

    def test_only_between_start_and_stop(self, rig: Rig) -> None:
        raw = rig.raw
        raw.poke("SQ_PERFCOUNTER_CTRL", CS_EN=1)
        select(raw, SQ0=4)
        total = lambda: sum(each_engine(raw, "SQ_PERFCOUNTER0_LO"))
        launch(rig, 5, 32, value=1)
        assert total() == 0
        state(raw, START)
        launch(rig, 3, 32, value=2)
        assert total() == 3                         # while it counts
        state(raw, STOP)
        launch(rig, 9, 32, value=3)
        assert total() == 3
        state(raw, START)
        launch(rig, 2, 32, value=4)
        assert total() == 5
        state(raw, RESET)
        assert total() == 0

    def test_compute_waves_must_be_chosen(self, rig: Rig) -> None:
        select(rig.raw, SQ0=4)
        state(rig.raw, START)
        launch(rig, 5, 32)
        assert sum(each_engine(rig.raw, "SQ_PERFCOUNTER0_LO")) == 0

    def test_selections_are_an_engines_own(self, rig: Rig) -> None:
        raw = rig.raw
        raw.poke("SQ_PERFCOUNTER_CTRL", CS_EN=1)
        select(raw, SQ0=4)
        raw.poke("GRBM_GFX_INDEX", SE_BROADCAST, SE_BROADCAST_WRITES=0, SE_INDEX=2)
        select(raw, SQ0=8)
        raw.poke("GRBM_GFX_INDEX", SE_BROADCAST)
        state(raw, START)
        launch(rig, 6, 32)
        assert each_engine(raw, "SQ_PERFCOUNTER0_LO") == [1, 1, 32, 1, 1, 1]

    def test_read_by_a_packet(self, rig: Rig) -> None:
        """COPY_DATA from PERF, 64 bits, as a driver brackets a launch."""
        raw, regs = rig.raw, rig.raw.board.regs
        select(raw, GRBM0=0)
        counter = regs.dword("GRBM_PERFCOUNTER0_LO")
        state(raw, START)
        rig.put(packet(0x40, 4 | 5 << 8 | 1 << 16 | 1 << 20, counter, 0, *lohi(SIGNAL + 8)))
        launch(rig, 1, 32)
        rig.put([*packet(0x40, 4 | 5 << 8 | 1 << 16 | 1 << 20, counter, 0, *lohi(SIGNAL + 16)), *release(SIGNAL, 2)])
        rig.done(2)
        assert 0 < int(rig.signal[1]) < int(rig.signal[2])
        state(raw, STOP)
        held = raw.peek("GRBM_PERFCOUNTER0_LO") | raw.peek("GRBM_PERFCOUNTER0_HI") << 32
        assert held >= int(rig.signal[2]) and held % CYCLES_PER_TICK == 0
        assert raw.peek("GRBM_PERFCOUNTER0_LO") | raw.peek("GRBM_PERFCOUNTER0_HI") << 32 == held

    def test_busy_is_no_more_than_all(self, rig: Rig) -> None:
        raw = rig.raw
        select(raw, GRBM0=0, GRBM1=3)
        state(raw, START)
        launch(rig, 4, 64)
        raw.wait(lambda: not raw.board.mec.busy, "rest")
        state(raw, STOP)
        assert 0 < raw.peek("GRBM_PERFCOUNTER1_LO") <= raw.peek("GRBM_PERFCOUNTER0_LO")

    def test_an_event_that_nobody_raises(self, raw: RawBoard) -> None:
        select(raw, GL2C0=0x2D)
        state(raw, START)
        assert raw.peek("GL2C_PERFCOUNTER0_LO") == 0 and "0x2d is nothing" in str(raw.board.notes.of("perfcounter")[0])
        assert all(EVENTS.values())


class TestGl2Counters:
    """Requests are lines of 128 bytes; the instances' parts add up."""

    EVENTS: ClassVar = {"REQ": 3, "READ": 6, "WRITE": 7, "UC": 0x24, "HIT": 0x2A, "MISS": 0x2B, "WRITEBACK": 0x33,
                        "MC_WR": 0x53, "MC_RD": 0x60}

    def counted(self, raw: RawBoard, work: Callable[[], None]) -> dict[str, int]:
        """All events of the same work, done as often as it takes."""
        found: dict[str, int] = {}
        names = list(self.EVENTS)
        state(raw, START)
        work()
        state(raw, STOP)
        for at in range(0, len(names), 4):
            part = names[at:at + 4]
            select(raw, **{f"GL2C{i}": self.EVENTS[name] for i, name in enumerate(part)})
            for i, name in enumerate(part):
                found[name] = 0
                for instance in range(16):
                    raw.poke("GRBM_GFX_INDEX", SE_BROADCAST, INSTANCE_BROADCAST_WRITES=0, INSTANCE_INDEX=instance)
                    found[name] += raw.peek(f"GL2C_PERFCOUNTER{i}_LO") | raw.peek(f"GL2C_PERFCOUNTER{i}_HI") << 32
                raw.poke("GRBM_GFX_INDEX", SE_BROADCAST)
        state(raw, RESET)
        assert found["READ"] + found["WRITE"] == found["REQ"] == found["HIT"] + found["MISS"] + found["UC"]
        return found

    def test_of_copies(self, raw: RawBoard, tables: Tables) -> None:
        """64 KiB from and to pages that GL2 has not, then has, then has not again; the ring and its fence beside."""
        queue = Queue(raw, tables)
        tables.buffer(TARGET, 1 << 18)

        def work() -> None:
            queue.put(copy(TARGET + (1 << 17), TARGET, 65536))
            queue.drain()
        first, second = self.counted(raw, work), self.counted(raw, work)
        assert 1024 <= first["MISS"] <= 1024 + 64 and first["MC_RD"] >= 512
        assert 1024 <= second["HIT"] <= 1024 + 64 and second["MISS"] <= 64
        assert second["READ"] >= 512 and second["WRITE"] >= 512
        raw.board.memory.gl2.invalidate()
        assert self.counted(raw, work)["MISS"] >= 1024

    def test_of_waves_and_write_backs(self, rig: Rig, tables: Tables) -> None:
        """A wave stores one word: its page counts whole, and goes to memory with GL2_WB."""
        raw = rig.raw
        tables.buffer(DATA, 4096)
        raw.words(tables.buffer(ARGS, 4096), 1, np.uint64)[0] = DATA
        raw.invalidate("GC", 2)
        rig.code(0xF4040100, 0xF8000000, 0x7E000280, 0x7E0202FF, 0x12345678, 0xBF89FC07, 0xDC6A0000, 0x00040100, END)

        def work() -> None:
            rig.put([*rig.dispatch((1, 1, 1), (1, 1, 1)), *release(SIGNAL, 1)])
            rig.done(1)
            rig.signal[0] = 0
        first = self.counted(raw, work)
        assert first["WRITE"] >= 32 and first["MISS"] + first["UC"] >= 64
        flush = self.counted(raw, lambda: rig.put([*packet(0x58, *ACQUIRE_WB)]) or work())
        assert flush["WRITEBACK"] >= 32 and flush["MC_WR"] >= flush["WRITEBACK"] and flush["HIT"] >= 32


def test_copy_engine_counters(raw: RawBoard, tables: Tables) -> None:
    """Packets, doorbells, lines of one engine; the other's stay."""
    queue = Queue(raw, tables)
    tables.buffer(TARGET, 65536)
    select(raw, SDMA00=0x23, SDMA01=0x3C, SDMA10=0x23)
    state(raw, START)
    queue.put(copy(TARGET + 8192, TARGET, 4096))
    queue.put(fence(TARGET, 1) + [0])
    queue.drain()
    state(raw, STOP)
    assert (raw.peek("SDMA0_PERFCOUNTER0_LO"), raw.peek("SDMA0_PERFCOUNTER1_LO")) == (3, 2)
    assert raw.peek("SDMA1_PERFCOUNTER0_LO") == 0
    select(raw, SDMA00=0x13, SDMA01=0x11)
    assert (raw.peek("SDMA0_PERFCOUNTER0_LO"), raw.peek("SDMA0_PERFCOUNTER1_LO")) == (64, 64)


class TestReservedUnits:
    def reserve(self, raw: RawBoard, *, queues: int = 0, kinds: int = 1 << 3, waves: int = 7,
                units: range = range(16)) -> None:
        for cu in units:
            raw.poke(f"SPI_RESOURCE_RESERVE_CU_{cu}", WAVES=waves)
            raw.poke(f"SPI_RESOURCE_RESERVE_EN_CU_{cu}", EN=1, TYPE_MASK=kinds, QUEUE_MASK=queues)

    def test_nothing_is_left(self, rig: Rig) -> None:
        self.reserve(rig.raw)
        rig.code(*FOUR)
        rig.put(rig.dispatch((1, 1, 1), (32, 1, 1), rsrc2=0))
        assert "reserved for other queues" in rig.hung()

    @pytest.mark.parametrize("changes", [{"queues": 1}, {"kinds": 1}, {"waves": 3}, {"units": range(7)}])
    def test_something_is_left(self, rig: Rig, changes: dict[str, int]) -> None:
        self.reserve(rig.raw, **changes)            # type: ignore[arg-type]
        launch(rig, 1, 32)

    def test_of_one_array_alone(self, rig: Rig) -> None:
        raw = rig.raw
        raw.poke("GRBM_GFX_INDEX", SE_BROADCAST, SE_BROADCAST_WRITES=0, SA_BROADCAST_WRITES=0, SE_INDEX=1, SA_INDEX=1)
        self.reserve(raw, units=range(4))
        raw.poke("GRBM_GFX_INDEX", SE_BROADCAST)
        gfx = raw.board.gfx
        assert gfx.usable_cus(1, 1, 0) == gfx.enabled_cus(1, 1) & ~0xF
        assert gfx.usable_cus(1, 0, 0) == gfx.enabled_cus(1, 0) and gfx.usable_cus(0, 1, 0) == gfx.enabled_cus(0, 1)

    def test_masks_and_fuses_and_reservations_meet(self) -> None:
        """Only WGP 3 of each array is fused on, and just there a queue's mask leaves nothing."""
        with Machine([Gpu(vram="64M", harvest=0x7)]) as machine:
            raw = RawBoard(machine.gpus[0])
            raw.board.config.write(4, 2, 6)
            assert raw.board.gfx.usable_cus(0, 0, 0) == 3 << 6
            self.reserve(raw, units=range(6, 7))
            assert raw.board.gfx.usable_cus(0, 0, 0) == 1 << 7


@pytest.mark.parametrize("vmid", range(16))
def test_every_vmid(raw: RawBoard, vmid: int) -> None:
    """A queue and a launch under each VMID, VMID 0's as a GART: context 0 with page tables of its own."""
    tables = Tables(raw)
    raw.context("GC", vmid, tables.root)
    rig = Rig(raw, tables, vmid=vmid)
    raw.invalidate("GC", 1 << vmid)
    rig.code(0xF4040100, 0xF8000000, 0x7E000280, 0x7E0202FF, 0x12345678, 0xBF89FC07, 0xDC6A0000, 0x00040100, END)
    out = raw.words(tables.buffer(DATA, 4096), 16)
    raw.words(tables.buffer(ARGS, 4096), 1, np.uint64)[0] = DATA
    raw.invalidate("GC", 1 << vmid)
    rig.put([*rig.dispatch((1, 1, 1), (1, 1, 1)), *release(SIGNAL, 1)])
    rig.done(1)
    assert out[0] == 0x12345678


def test_timestamps_are_one_clock(rig: Rig, tables: Tables) -> None:
    """RELEASE_MEM, COPY_DATA, SDMA's global timestamp and the registers, in order."""
    raw = rig.raw
    queue = Queue(raw, tables)
    raw.invalidate("GC", 2)
    low = raw.peek("GOLDEN_TSC_COUNT_LOWER") | raw.peek("GOLDEN_TSC_COUNT_UPPER") << 32
    rig.put([*packet(0x40, 9 | 5 << 8 | 1 << 16 | 1 << 20, 0, 0, *lohi(SIGNAL + 8)),
             *release(SIGNAL + 16, 0, data=3), *release(SIGNAL, 1)])
    rig.done(1)
    queue.put([13 | 2 << 8, *lohi(SIGNAL + 24)])
    queue.drain()
    raw.poke("RLC_CAPTURE_GPU_CLOCK_COUNT", 1)
    high = raw.peek("RLC_GPU_CLOCK_COUNT_LSB") | raw.peek("RLC_GPU_CLOCK_COUNT_MSB") << 32
    times = [low, *(int(rig.signal[n]) for n in (1, 2, 3)), high]
    assert times == sorted(times) and low > 0
