"""Performance counters: GRBM, SQ, CPC, SDMA and GL2C, as far as what they count happens here.

Facts: Mesa 25.0, si_perfcounter.c and ac_perfcounter.c (CP_PERFMON_CNTL: DISABLE_AND_RESET, then START_COUNTING, then
STOP_COUNTING with PERFMON_SAMPLE_ENABLE; SQ_PERFCOUNTER_CTRL chooses the kinds of waves; GRBM_GFX_INDEX the shader
engine); Linux 6.1, soc21_enum.h (CP_PERFMON_STATE, GRBM_PERF_SEL, SQ_PERF_SEL, SDMA_PERF_SEL, GL2C_PERF_SEL,
CPC_PERFCOUNT_SEL: the numbers of events).

A counter holds what its event came to between START_COUNTING and the look, or STOP_COUNTING; it is read through its LO
and HI registers or by COPY_DATA with source PERF. SQ's counters are a shader engine's, GL2C's are a channel's: waves,
instructions and requests are dealt out evenly, so that the sum over the engines (or instances) is the whole. Cycles are
of a shader clock of 2.5 GHz, by the golden clock.
An event that nothing here raises stays 0, and a note says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from mock.block import Block
from mock.gl2count import Gl2Count

if TYPE_CHECKING:
    from mock.board import Board

__all__ = ["EVENTS", "PerfCounters"]

RESET_STATE, START, STOP = range(3)
CYCLES_PER_TICK = 25
M32 = 0xFFFFFFFF
COUNTERS = {"GRBM": 2, "SQ": 8, "CPC": 2, "GL2C": 4, "SDMA0": 2, "SDMA1": 2}
SQ_HIGH = ("SQ",)           # blocks whose counters have no HI

EVENTS: dict[str, dict[int, str]] = {
    "GRBM": {0: "cycles", 2: "busy_cycles", 3: "busy_cycles", 0xB: "dispatch_cycles"},
    "SQ": {2: "cycles", 3: "dispatch_cycles", 4: "waves", 5: "waves_32", 6: "waves_64", 8: "work_items",
           0x30: "instructions"},
    "CPC": {0: "cycles"},
    "GL2C": {1: "cycles", 3: "gl2_requests", 6: "gl2_reads", 7: "gl2_writes", 0x24: "gl2_uncached", 0x2A: "gl2_hits",
             0x2B: "gl2_misses", 0x33: "gl2_writebacks", 0x53: "gl2_memory_writes", 0x60: "gl2_memory_reads"},
    "SDMA": {0: "cycles", 0x11: "write_lines", 0x13: "read_lines", 0x20: "interrupts", 0x23: "packets",
             0x3C: "doorbells"}}
"""{block: {PERF_SEL: what is counted}}: GRBM COUNT, GUI_ACTIVE, CP_BUSY, SPI_BUSY; SQ CYCLES, BUSY_CYCLES, WAVES,
WAVES_32, WAVES_64, ITEMS, INSTS_ALL; CPC ALWAYS_COUNT; GL2C CYCLE, REQ, READ, WRITE, UC_REQ, HIT, MISS, WRITEBACK,
MC_WRREQ, MC_RDREQ (:mod:`mock.gl2count`); SDMA CYCLE, MC_WR_COUNT, MC_RD_COUNT (lines of 64 bytes), INT_REQ_COUNT,
NUM_PACKET, DOORBELL."""
PER_ENGINE = frozenset(("waves", "waves_32", "waves_64", "work_items", "instructions"))


class PerfCounters(Block):
    """``board.perf``. Engines add to ``counts`` (shader side) and ``copies[engine]``."""

    ip = "GC"
    banked: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({
        "se": tuple(f"SQ_PERFCOUNTER{n}_SELECT" for n in range(COUNTERS["SQ"]))})

    def __init__(self, board: Board) -> None:
        super().__init__(board)
        self.counts: Counter[str] = Counter()
        self.copies: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        self._base: dict[tuple[str, int], int] = {}         # (what, engine): its value when counting began
        self._held: dict[tuple[str, int], int] | None = None        # while stopped

    def reset(self) -> None:
        self._base, self._held = {}, None
        self.board.memory.gl2.count = Gl2Count(self.board.memory.gl2, self.counts)

    # ---- what engines say

    def worked(self, ticks: int) -> None:
        """A command processor's queue worked for so long."""
        self.counts["busy_cycles"] += ticks * CYCLES_PER_TICK

    def launched(self, *, waves: int, wave_size: int, items: int, instructions: int, ticks: int) -> None:
        self.counts["waves"] += waves
        self.counts[f"waves_{wave_size}"] += waves
        self.counts["work_items"] += items
        self.counts["instructions"] += instructions
        self.counts["dispatch_cycles"] += ticks * CYCLES_PER_TICK

    # ---- values

    def _value(self, what: str, engine: int) -> int:
        """Since power-on. ``engine``: SDMA's, or -1."""
        if what == "cycles":
            return self.board.clock() * CYCLES_PER_TICK
        return self.copies[engine][what] if engine >= 0 else self.counts[what]

    def _everything(self) -> dict[tuple[str, int], int]:
        found = {}
        for block, events in EVENTS.items():
            for what in events.values():
                for engine in (0, 1) if block == "SDMA" else (-1,):
                    found[what, engine] = self._value(what, engine)
        return found

    def counted(self, what: str, engine: int) -> int:
        """Between start and now, or stop."""
        if self._held is not None:
            return self._held.get((what, engine), 0)
        return self._value(what, engine) - self._base[what, engine] if self._base else 0

    def _share(self, total: int) -> int:
        """Of the shader engine that GRBM_GFX_INDEX selects, the first where it selects all."""
        return _part(total, self.board.regs.selection.se or 0, self.board.arch.shader_engines)

    def _selected(self, block: str, number: int) -> tuple[int, int]:
        """(event, SDMA's engine or -1)"""
        event = self.board.regs.field(f"{block}_PERFCOUNTER{number}_SELECT", "PERF_SEL")
        return event, int(block[4:]) if block.startswith("SDMA") else -1

    def _tell(self) -> None:
        """Note the events that nothing here raises; all ones is what a counter selects after a reset."""
        for block, count in COUNTERS.items():
            for number in range(count):
                event, _engine = self._selected(block, number)
                width = self.board.regs.register(f"{block}_PERFCOUNTER{number}_SELECT")["PERF_SEL"].msb + 1
                if event not in (0, (1 << width) - 1) and event not in EVENTS[block[:4]]:
                    self.board.note("perfcounter", f"{block}'s event {event:#x} is nothing that happens here; it "
                                                   "stays 0")

    def read(self, block: str, number: int) -> int:
        """64 bits of a counter."""
        regs = self.board.regs
        selected, engine = self._selected(block, number)
        what = EVENTS[block[:4]].get(selected)
        if what is None:
            return 0
        total = self.counted(what, engine)
        if block == "GL2C" and what != "cycles":
            return _part(total, regs.selection.instance or 0, self.board.arch.gc_info["gc_num_gl2c"])
        if block != "SQ":
            return total
        if not regs.field("SQ_PERFCOUNTER_CTRL", "CS_EN") and what in PER_ENGINE:
            return 0
        return self._share(total) if what in PER_ENGINE else total

    # ---- registers

    def handlers(self) -> Iterator[tuple[str, str, Callable[..., Any]]]:
        yield "write", "CP_PERFMON_CNTL", self.control
        for block, count in COUNTERS.items():
            for number in range(count):
                name = f"{block}_PERFCOUNTER{number}_"
                yield "read", name + "LO", _reader(self, block, number, 0)
                if block not in SQ_HIGH:
                    yield "read", name + "HI", _reader(self, block, number, 32)

    def control(self, value: int) -> None:
        state = self.board.regs.register("CP_PERFMON_CNTL")["PERFMON_STATE"].get(value)
        self.board.memory.gl2.count.on = state == START
        if state == START:
            self._tell()
            if self._held is None:
                if not self._base:
                    self._base = self._everything()
                return
            now = self._everything()                # goes on with what it had
            self._base = {key: now[key] - self._held.get(key, 0) for key in now}
            self._held = None
        elif state == STOP:
            if self._held is None and self._base:
                now = self._everything()
                self._held = {key: now[key] - self._base[key] for key in now}
        else:
            self._base, self._held = {}, None


def _part(total: int, mine: int, parts: int) -> int:
    """One's share where all get the same, and the first ones what is left over."""
    return total // parts + (1 if mine < total % parts else 0) if mine < parts else 0


def _reader(counters: PerfCounters, block: str, number: int, shift: int) -> Callable[[], int]:
    def read() -> int:
        return counters.read(block, number) >> shift & M32
    return read
