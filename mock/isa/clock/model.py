"""A dispatch's modelled time: a sample is recorded, one workgroup processor is simulated, the rest is arithmetic.

With G workgroups on A = min(48, G) processors, which take them in turns, the fullest one runs n = ceil(G / A). Of
those, m = min(n, 2 R) are recorded, where R are resident at a time: workgroups 0, A, 2 A, ... With S(k) the time that
the simulation gives for the first k of them,

    T(n) = S(m)                                         n = m
    T(n) = S(m) + (n - m) (S(m) - S(R)) / (m - R)       n > m > R
    T(n) = S(m) n / m                                   n > m, if no more than R could be recorded

A wave is recorded for at most ``BUDGET`` instructions, shared by all; where that cuts waves short, or the sample is
not like the rest, times are multiplied by (instructions of the dispatch / its waves) / (instructions recorded / waves
recorded): what ran is counted exactly by whoever ran it. The dispatch takes DISPATCH_CYCLES + T(n).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mock.isa.access import PAGE
from mock.isa.clock import constants as c
from mock.isa.clock.occupancy import Occupancy, occupancy_of
from mock.isa.clock.record import Recorder, Trace, batch_of
from mock.isa.clock.relevance import relevance_of
from mock.isa.clock.simulate import Result, Shares, simulate
from mock.isa.clock.stamps import ClockedMachine
from mock.isa.dispatch import Counts, Dispatch, Memory

__all__ = ["BUDGET", "Chip", "ClockReport", "measure"]

BUDGET = 1 << 18                # wave instructions that are recorded and simulated
SHORTEST = 1024                 # instructions of a wave that are recorded in any case
MOST_WAVES = 128


@dataclass(frozen=True)
class Chip:
    """What of the chip a dispatch may use."""

    wgps: int = c.WGPS
    clock_hz: int = c.CLOCK_HZ
    begin: float = 0.0              # seconds of modelled time at which it starts, for code that reads the clock


@dataclass(frozen=True)
class ClockReport:
    """Modelled time of one dispatch. Fractions are of the simulated time of a workgroup processor."""

    cycles: int
    seconds: float
    launch_cycles: int              # of ``cycles``, what the dispatch costs without any instruction
    occupancy: Occupancy
    limit: str                      # what to improve first
    utilisation: dict[str, float]   # how busy each unit was: valu, wmma, salu, trans, lds, l0, gl2, vram
    stalls: dict[str, float]        # of all waves' time: waiting for alu, vmem, lds, smem, barrier, unit, launch
    transactions: dict[str, float]  # of the dispatch: cache lines and hits, LDS instructions and cycles
    operations: dict[str, float]    # arithmetic of the dispatch by type
    achieved: float                 # of the most used type, operations a second
    peak: float                     # what the chip could do of it
    sampled_workgroups: int
    sampled_instructions: int
    scale: float                    # instructions of the dispatch's waves over those of the sampled ones
    incomplete: str = ""            # why the sample ended early, if it did

    @property
    def of_peak(self) -> float:
        """Achieved over peak, 0..1."""
        return self.achieved / self.peak if self.peak else 0.0

    @property
    def peak_without_launch(self) -> float:
        """As :attr:`of_peak`, with what the dispatch itself costs left out."""
        return self.of_peak * self.cycles / max(self.cycles - self.launch_cycles, 1)


class _Footprint:
    """A memory that notes which pages an executor asks for, but for those of code."""

    def __init__(self, memory: Any) -> None:
        self._memory = memory
        self.code = getattr(memory, "code", memory)
        self.pages: set[int] = set()
        if hasattr(memory, "translate_as"):
            self.translate_as = self._translate_as
        if hasattr(memory, "translate_page"):
            self.translate_page = self._translate_page

    def _note(self, addresses: np.ndarray) -> None:
        if len(addresses) == 1:
            self.pages.add(int(addresses[0]) >> 12)
        else:
            self.pages.update(np.unique(np.asarray(addresses, np.uint64) >> np.uint64(12)).tolist())

    def translate(self, addresses: np.ndarray, nbytes: int, write: bool) -> np.ndarray:
        hosts: np.ndarray = self._memory.translate(addresses, nbytes, write)
        self._note(addresses)
        return hosts

    def _translate_as(self, addresses: np.ndarray, kind: int) -> np.ndarray:
        hosts: np.ndarray = self._memory.translate_as(addresses, kind)
        self._note(addresses)
        return hosts

    def _translate_page(self, address: int, kind: int) -> int:
        host = int(self._memory.translate_page(address, kind))
        self.pages.add(address >> 12)
        return host

    def __getattr__(self, name: str) -> Any:
        return getattr(self._memory, name)


@dataclass
class _Sample:
    workgroups: list[list[Trace]] = field(default_factory=list)
    reads_clock: bool = False
    incomplete: str = ""

    @property
    def waves(self) -> int:
        return sum(len(g) for g in self.workgroups)

    @property
    def instructions(self) -> int:
        return sum(t.instructions for g in self.workgroups for t in g)


def measure(dispatch: Dispatch, memory: Memory, run: Callable[[Memory], Counts], chip: Chip | None = None) -> Counts:
    """Run a dispatch by ``run(memory)`` and put its modelled time into ``Counts.clock``.

    The sample is recorded before, on the memory as it is; the executor that runs all of it is asked only for its
    counts and for the pages that it touched, which are the same whoever runs it.
    """
    chip = chip or Chip()
    if not all(dispatch.grid):
        counts = run(memory)
        return counts
    occupancy = occupancy_of(dispatch)
    sample = _record(dispatch, memory, occupancy, chip)
    footprint = _Footprint(memory)
    if sample.reads_clock:
        counts = _run_clocked(dispatch, footprint, occupancy, sample, chip)
    else:
        counts = run(footprint)
    counts.clock = _conclude(dispatch, occupancy, sample, footprint.pages, counts, chip)
    return counts


def _run_clocked(dispatch: Dispatch, memory: Memory, occupancy: Occupancy, sample: _Sample, chip: Chip) -> Counts:
    """By an interpreter that gives looks at the clock their modelled time."""
    total = dispatch.grid[0] * dispatch.grid[1] * dispatch.grid[2]
    active = min(chip.wgps, total)
    shares = _shares(dispatch, sample, set(), total, active, -(-total // active), 1.0)
    stamps = simulate(sample.workgroups, occupancy, shares).stamps
    return ClockedMachine(dispatch, memory, stamps, round(chip.begin * chip.clock_hz) + c.DISPATCH_CYCLES).run()


def _record(dispatch: Dispatch, memory: Memory, occupancy: Occupancy, chip: Chip) -> _Sample:
    total = dispatch.grid[0] * dispatch.grid[1] * dispatch.grid[2]
    active = min(chip.wgps, total)
    share = -(-total // active)
    resident, waves = occupancy.workgroups_per_wgp, occupancy.waves_per_workgroup
    chosen = min(share, 2 * resident, max(MOST_WAVES // waves, resident))
    if dispatch.scratch_slots:
        chosen = max(1, min(chosen, dispatch.scratch_slots // waves))
    sample = _Sample()
    recorder = None
    try:
        alone = replace(dispatch, interrupt=None)
        recorder = Recorder(alone, memory, relevance_of(_code(dispatch, memory)),
                            max(SHORTEST, BUDGET // (chosen * waves)))
        sample.reads_clock = recorder.relevance.reads_clock
        recorder.record(batch_of(dispatch, [k * active for k in range(chosen)]))
    except Exception as error:      # whatever it is, the run that follows meets it and says so
        sample.incomplete = f"{type(error).__name__}: {error}"
    traces = recorder.traces if recorder is not None else []
    groups: list[list[Trace]] = [[] for _ in range(chosen)]
    for trace in traces:
        groups[trace.group].append(trace)
    sample.workgroups = [g for g in groups if g]
    return sample


def _code(dispatch: Dispatch, memory: Memory) -> Any:
    from mock.isa.access import Accessor
    from mock.isa.program import Code
    return Code(Accessor(getattr(memory, "code", memory)), dispatch.code_address)


def _conclude(dispatch: Dispatch, occupancy: Occupancy, sample: _Sample, pages: set[int], counts: Counts,
              chip: Chip) -> ClockReport:
    total = dispatch.grid[0] * dispatch.grid[1] * dispatch.grid[2]
    active = min(chip.wgps, total)
    share = -(-total // active)
    scale = 1.0
    if sample.instructions and counts.waves:
        scale = counts.instructions / counts.waves * sample.waves / sample.instructions
    shares = _shares(dispatch, sample, pages, total, active, share, scale)
    result = simulate(sample.workgroups, occupancy, shares)
    resident, m, cycles = occupancy.workgroups_per_wgp, len(sample.workgroups), result.end
    if share > m > resident:
        first = simulate(sample.workgroups[:resident], occupancy, shares).end
        cycles += (share - m) * (result.end - first) / (m - resident)
    elif share > m > 0:
        cycles *= share / m
    cycles *= scale
    return _report(occupancy, sample, result, cycles, scale, total, chip)


def _shares(dispatch: Dispatch, sample: _Sample, pages: set[int], total: int, active: int, share: int,
            scale: float) -> Shares:
    """How much of what the processors fetch is the same: what they touch one by one, over what all touch. Scratch is
    left out: nobody shares it, and an executor may use less of it than there is."""
    scratch = range(dispatch.scratch_address,
                    dispatch.scratch_address + dispatch.scratch_slots * dispatch.scratch_wave_bytes)
    each = [{line for t in group for e in t.events if isinstance(e, tuple) for line in e[0]
             if line * c.LINE not in scratch} for group in sample.workgroups]
    stored = [{line for t in group for line in t.stored()} for group in sample.workgroups]
    union: set[int] = set().union(*each)
    if not union:
        return Shares(active)
    touched = sum(1 for page in pages if page * PAGE not in scratch) * (PAGE // c.LINE)
    alone = sum(map(len, each)) / len(each) * total * scale
    lines = min(touched, alone) if touched else alone
    processors = active * len(union) * share / len(each) * scale
    written = min(sum(map(len, stored)) / len(each) * total * scale, lines)
    overflow = max(0.0, 1.0 - c.GL2_BYTES / c.LINE / written) if written else 0.0
    return Shares(active, max(1.0, min(processors / lines, float(active))), int(lines * c.LINE), overflow)


def _report(occupancy: Occupancy, sample: _Sample, result: Result, cycles: float, scale: float, total: int,
            chip: Chip) -> ClockReport:
    simulated = max(result.end, 1.0)
    instances = {"valu": 4, "wmma": 4, "trans": 4, "salu": 4, "lds": 2, "l0": 2, "smem": 1}
    use = {unit: busy / (instances[unit] * simulated) for unit, busy in result.busy.items()}
    n = result.counts
    active = min(chip.wgps, total)
    use["gl1"] = (n["l0_lines"] - n["l0_hits"] + n["stored_lines"]) * c.LINE / c.GL1_BYTES_PER_WGP / simulated
    use["gl2"] = (n["gl2_lines"] + n["stored_lines"]) * c.LINE * active / c.GL2_BYTES_PER_CYCLE / simulated
    use["vram"] = n["vram_lines"] * c.LINE * active / c.VRAM_BYTES_PER_CYCLE / simulated
    waves = max(result.wave_cycles, 1.0)
    stalls = {k: v / waves for k, v in result.stalls.items()}
    factor = total / max(len(sample.workgroups), 1) * scale
    operations = {k: v * factor for k, v in result.operations.items() if k}
    whole = c.DISPATCH_CYCLES + cycles
    seconds = whole / chip.clock_hz
    kind = max(operations, key=lambda k: operations[k] / c.FLOPS_PER_CU[k], default="")
    peak = c.FLOPS_PER_CU[kind] * chip.wgps * c.CUS_PER_WGP * chip.clock_hz if kind else 0.0
    return ClockReport(
        cycles=round(whole), seconds=seconds, launch_cycles=c.DISPATCH_CYCLES, occupancy=occupancy,
        limit=_limit(use, stalls, cycles), utilisation=use, stalls=stalls,
        transactions={k: v * factor for k, v in n.items()}, operations=operations,
        achieved=operations.get(kind, 0.0) / seconds, peak=peak, sampled_workgroups=len(sample.workgroups),
        sampled_instructions=sample.instructions, scale=scale, incomplete=sample.incomplete)


def _limit(use: dict[str, float], stalls: dict[str, float], cycles: float) -> str:
    """The busiest unit, if it is busy for more than half of the time; otherwise what waves wait for."""
    if cycles < c.DISPATCH_CYCLES:
        return "dispatch"
    compute = {**use, "valu": use["valu"] + use["wmma"]}
    del compute["wmma"]
    busiest = max(compute, key=lambda k: compute[k])
    if compute[busiest] > 0.5:
        return "wmma" if busiest == "valu" and use["wmma"] > use["valu"] else busiest
    return "latency of " + max(stalls, key=lambda k: stalls[k])
