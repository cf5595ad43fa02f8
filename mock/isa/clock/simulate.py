"""One workgroup processor, instruction by instruction.

Waves issue in order. An instruction issues when the wave may issue again, the ALU results that it reads are there, and
its ALU is free; memory instructions go into the queue of their unit, and waits hold the wave until they have come back.
Where several waves could issue, the one that has been ready for longest goes first. All of it is deterministic: there
is no state beside the arguments.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from mock.isa.clock import constants as c
from mock.isa.clock.classify import (
    BARRIER,
    BRANCH,
    CACHE,
    END,
    LDS,
    SALU,
    SMEM,
    TRANS,
    VALU,
    VMEM,
    WAIT,
    WMMA,
)
from mock.isa.clock.occupancy import Occupancy
from mock.isa.clock.record import Trace

__all__ = ["Result", "Shares", "simulate"]

_REGISTERS = 512
STALLS = ("alu", "vmem", "lds", "smem", "barrier", "unit", "launch")


@dataclass(frozen=True)
class Shares:
    """What the rest of the chip leaves to this workgroup processor.

    ``active``: processors that work at the same time, among which GL2, Infinity Cache and VRAM are divided evenly.
    ``sharing``: of how many processors a line is wanted: one of them fetches it from VRAM, the others find it in GL2.
    ``footprint``: bytes that the whole dispatch touches. ``overflow``: of the lines that it writes, the part that GL2
    cannot keep until the end.
    """

    active: int
    sharing: float = 1.0
    footprint: int = 0
    overflow: float = 0.0


@dataclass
class Result:
    """Cycles are from the first wave's launch. ``completions``: when each workgroup ended, in that order; ``end``: when
    VRAM has taken what they wrote, too."""

    completions: list[float] = field(default_factory=list)
    end: float = 0.0
    busy: dict[str, float] = field(default_factory=dict)        # cycles that units were held, of all their instances
    stalls: dict[str, float] = field(default_factory=dict)      # wave cycles, by what was waited for
    counts: dict[str, float] = field(default_factory=dict)      # transactions, hits and bytes
    operations: dict[str, float] = field(default_factory=dict)
    stamps: dict[tuple[int, int], list[int]] = field(default_factory=dict)      # (workgroup, wave): when it looked
    wave_cycles: float = 0.0
    instructions: int = 0


class _Simd:
    __slots__ = ("cu", "free", "salu", "trans", "valu")

    def __init__(self, cu: int, slots: int) -> None:
        self.cu, self.free = cu, slots
        self.valu = self.trans = self.salu = 0.0


class _Group:
    __slots__ = ("alive", "arrived", "begun", "domain", "ended", "waiting")

    def __init__(self, waves: int, domain: int) -> None:
        self.alive, self.domain = waves, domain
        self.arrived: float = 0.0
        self.begun = self.ended = 0.0
        self.waiting: list[_Wave] = []


class _Wave:
    __slots__ = ("at", "chain", "event", "group", "lgkm", "ready", "simd", "t", "trace", "vm", "vs")

    def __init__(self, trace: Trace, group: _Group, simd: _Simd, t: float) -> None:
        self.trace, self.group, self.simd, self.t = trace, group, simd, t
        self.at = self.event = 0
        self.ready = [0.0] * _REGISTERS
        self.chain: dict[int, float] = {}
        self.vm: list[float] = []           # when each outstanding operation is back; never falling
        self.vs: list[float] = []
        self.lgkm: list[tuple[float, bool]] = []        # and: is it a scalar load?


class _Memory:
    """Caches and what lies behind them, as one workgroup processor sees them."""

    def __init__(self, shares: Shares, counts: dict[str, float]) -> None:
        self.counts = counts
        self.l0: list[dict[int, float]] = [{}, {}]
        self.gl1: dict[int, float] = {}
        self.scalar: dict[int, float] = {}
        self.gl2: dict[int, None] = {}
        self.seen: set[int] = set()         # lines that GL2 has had and lost
        self.written: set[int] = set()
        self.atomics: set[int] = set()
        self.gl1_port = self.gl2_port = self.mall_port = self.vram_port = 0.0
        active = shares.active
        self.gl2_cycles = c.LINE * active / c.GL2_BYTES_PER_CYCLE
        self.mall_cycles = c.LINE * active / c.MALL_BYTES_PER_CYCLE
        self.vram_cycles = c.LINE * active / c.VRAM_BYTES_PER_CYCLE
        self.gl1_cycles = c.LINE / c.GL1_BYTES_PER_WGP
        self.gl1_lines = c.GL1_BYTES // c.LINE // 4
        self.gl2_lines = int(c.GL2_BYTES // c.LINE / active * max(shares.sharing, 1.0))
        self.mall_holds = shares.footprint <= c.MALL_BYTES
        self.fetched = 1.0 / max(shares.sharing, 1.0)       # of first touches, how many go to VRAM
        self.owed = self.owed_writes = 0.0
        self.overflow = shares.overflow
        self.active = active

    def invalidate(self, cu: int) -> None:
        self.l0[cu].clear()
        self.gl1.clear()

    def load(self, cu: int, lines: list[int], t: float) -> float:
        """When the last of the lines is there."""
        l0, counts = self.l0[cu], self.counts
        done = t
        for i, line in enumerate(lines):
            at = t + i
            found = l0.pop(line, None)
            if found is not None:
                counts["l0_hits"] += 1
                back = max(at, found) + c.VECTOR_LATENCY["l0"]
                l0[line] = found
            else:
                back = self._gl1(line, at)
                l0[line] = back - c.VECTOR_LATENCY["l0"]
                if len(l0) > c.L0_BYTES // c.LINE:
                    del l0[next(iter(l0))]
            if back > done:
                done = back
        counts["l0_lines"] += len(lines)
        return done

    def _gl1(self, line: int, t: float) -> float:
        gl1 = self.gl1
        at = self.gl1_port = max(self.gl1_port, t) + self.gl1_cycles
        found = gl1.pop(line, None)
        if found is not None:
            self.counts["gl1_hits"] += 1
            gl1[line] = found
            return max(at, found) + c.VECTOR_LATENCY["gl1"]
        back = self._gl2(line, at, c.VECTOR_LATENCY)
        gl1[line] = back - c.VECTOR_LATENCY["gl1"]
        if len(gl1) > self.gl1_lines:
            del gl1[next(iter(gl1))]
        return back

    def _gl2(self, line: int, t: float, latency: dict[str, int]) -> float:
        """A line of 128 bytes from GL2 or beyond."""
        gl2, counts = self.gl2, self.counts
        at = self.gl2_port = max(self.gl2_port, t) + self.gl2_cycles
        counts["gl2_lines"] += 1
        if line in gl2:
            del gl2[line]
            gl2[line] = None
            counts["gl2_hits"] += 1
            return at + latency["gl2"]
        first = line not in self.seen
        gl2[line] = None
        if len(gl2) > self.gl2_lines:
            old = next(iter(gl2))
            del gl2[old]
            self.seen.add(old)              # Infinity Cache may still have it
        if first:
            self.owed += self.fetched
            if self.owed < 1.0:
                counts["gl2_hits"] += 1     # another processor has fetched it
                return at + latency["gl2"]
            self.owed -= 1.0
        elif self.mall_holds:
            counts["mall_lines"] += 1
            at = self.mall_port = max(self.mall_port, at) + self.mall_cycles
            return at + latency["mall"]
        counts["vram_lines"] += 1
        at = self.vram_port = max(self.vram_port, at) + self.vram_cycles
        return at + latency["vram"]

    def scalar_load(self, lines: list[int], t: float) -> float:
        done, cache = t + c.SCALAR_LATENCY["l0"], self.scalar
        for line in lines:
            found = cache.pop(line, None)
            if found is None:
                found = self._gl2(line * c.SCALAR_LINE // c.LINE, t, c.SCALAR_LATENCY) - c.SCALAR_LATENCY["l0"]
                if len(cache) >= c.SCALAR_BYTES // c.SCALAR_LINE:
                    del cache[next(iter(cache))]
            cache[line] = found
            done = max(done, found + c.SCALAR_LATENCY["l0"])
        return done

    def store(self, cu: int, lines: list[int], t: float) -> float:
        """Written through to GL2, which passes on what it cannot keep."""
        l0, done = self.l0[cu], t
        for i, line in enumerate(lines):
            l0.pop(line, None)
            self.gl1.pop(line, None)
            at = self.gl1_port = max(self.gl1_port, t + i) + self.gl1_cycles
            at = self.gl2_port = max(self.gl2_port, at) + self.gl2_cycles
            if line not in self.written:
                self.written.add(line)
                self.owed_writes += self.overflow
                if self.owed_writes >= 1.0:
                    self.owed_writes -= 1.0
                    self.counts["vram_lines"] += 1
                    self.vram_port = max(self.vram_port, at) + self.vram_cycles
            self.gl2[line] = None
            if len(self.gl2) > self.gl2_lines:
                del self.gl2[next(iter(self.gl2))]
            done = at + c.VECTOR_LATENCY["gl2"]
        self.counts["stored_lines"] += len(lines)
        return done

    def atomic(self, lines: list[int], repeats: int, t: float) -> float:
        """In GL2, one operation a cycle on a dword; a line that all processors want serves them one after the other."""
        done = t
        for line in lines:
            cost = repeats * (self.active if line in self.atomics else 1)
            self.atomics.add(line)
            at = self.gl2_port = max(self.gl2_port, t) + max(self.gl2_cycles, float(cost))
            done = max(done, at + c.VECTOR_LATENCY["gl2"])
        self.counts["atomic_lines"] += len(lines)
        return done


class _Processor:
    """The simulation's state."""

    def __init__(self, occupancy: Occupancy, shares: Shares) -> None:
        self.occupancy = occupancy
        self.result = Result(busy=dict.fromkeys(("valu", "trans", "wmma", "salu", "lds", "l0", "smem"), 0.0),
                             stalls=dict.fromkeys(STALLS, 0.0),
                             counts=dict.fromkeys(("l0_lines", "l0_hits", "gl1_hits", "gl2_lines", "gl2_hits",
                                                   "mall_lines", "vram_lines", "scalar_lines", "stored_lines",
                                                   "atomic_lines", "lds_instructions", "lds_cycles"), 0.0))
        self.memory = _Memory(shares, self.result.counts)
        slots = occupancy.slots_per_simd
        self.simds = [_Simd(i // 2, slots) for i in range(c.SIMDS_PER_WGP)]
        self.lds_unit = [0.0] * c.CUS_PER_WGP
        self.l0_unit = [0.0] * c.CUS_PER_WGP
        self.smem_unit = 0.0
        self.launcher = 0.0
        self.resident = [0] * (1 if occupancy.wgp_mode else c.CUS_PER_WGP)
        self.per_domain = occupancy.workgroups_per_wgp // len(self.resident)
        self.heap: list[tuple[float, int, _Wave]] = []
        self.number = 0
        self.operations: dict[str, float] = {}

    # ---- launching

    def place(self, traces: list[Trace], t: float) -> bool:
        """Start a workgroup, if there is room."""
        domain = min(range(len(self.resident)), key=self.resident.__getitem__)
        if self.resident[domain] >= self.per_domain:
            return False
        simds = self.simds if len(self.resident) == 1 else self.simds[2 * domain:2 * domain + 2]
        if sum(s.free for s in simds) < len(traces) and self.resident[domain]:
            return False
        self.resident[domain] += 1
        group = _Group(len(traces), domain)
        group.begun = t
        for trace in traces:
            simd = max(simds, key=lambda s: s.free)
            simd.free -= 1
            self.launcher = max(self.launcher, t) + c.WAVE_LAUNCH_CYCLES
            wave = _Wave(trace, group, simd, self.launcher + c.WAVE_START_CYCLES)
            self.result.stalls["launch"] += wave.t - t
            self.push(wave)
        return True

    def push(self, wave: _Wave) -> None:
        self.number += 1
        heapq.heappush(self.heap, (wave.t, self.number, wave))

    # ---- running

    def run(self, workgroups: list[list[Trace]]) -> Result:
        queue = list(reversed(workgroups))
        while queue and self.place(queue[-1], 0.0):
            queue.pop()
        heap = self.heap
        while heap:
            _, _, wave = heapq.heappop(heap)
            horizon = heap[0][0] if heap else 1e30
            ended = self.step(wave, horizon)
            if ended is not None:
                while queue and self.place(queue[-1], ended):
                    queue.pop()
        self.result.completions.sort()
        self.result.end = max([self.memory.vram_port, *self.result.completions[-1:]])
        self.result.operations = self.operations
        return self.result

    def step(self, wave: _Wave, horizon: float) -> float | None:
        """Issue the wave's instructions until another wave's turn comes. The time, if its workgroup ended."""
        trace, simd, ready, result = wave.trace, wave.simd, wave.ready, self.result
        ops, busy, stalls = trace.ops, result.busy, result.stalls
        n, at, t = len(ops), wave.at, wave.t
        while at < n:
            if t > horizon:
                break
            op = ops[at]
            unit = op.unit
            need = t
            for r in op.reads:
                if ready[r] > need:
                    need = ready[r]
            if unit == WMMA:
                forwarded = wave.chain.get(op.chain)
                other = ready[op.chain] if forwarded is None and op.chain < _REGISTERS else forwarded or 0.0
                if other > need:
                    need = other
            if need > t:
                stalls["alu"] += need - t
                t = need
                if t > horizon:
                    break
            if unit == TRANS and simd.trans > t:        # without holding up the main ALU
                stalls["unit"] += simd.trans - t
                t = simd.trans
                if t > horizon:
                    break
            at += 1
            if unit <= WMMA:
                start = simd.valu if simd.valu > t else t
                if unit == TRANS:
                    simd.trans = start + op.passes
                    simd.valu = start + 1
                    busy["trans"] += op.passes
                    busy["valu"] += 1
                else:
                    simd.valu = start + op.passes
                    busy["valu" if unit == VALU else "wmma"] += op.passes
                done = start + op.latency
                if unit == WMMA:
                    wave.chain[op.writes[0]] = start + c.WMMA_CHAIN_LATENCY * op.passes / c.PASSES["wmma"]
                elif wave.chain:
                    for r in op.writes:
                        wave.chain.pop(r, None)
                for r in op.writes:
                    ready[r] = done
                stalls["unit"] += start - t
                t = start + 1
                if op.operations:
                    self.operations[op.kind] = self.operations.get(op.kind, 0) + op.operations
            elif unit == SALU:
                start = simd.salu if simd.salu > t else t
                simd.salu = start + op.passes
                busy["salu"] += op.passes
                for r in op.writes:
                    ready[r] = start + op.latency
                if op.stamps:
                    result.stamps.setdefault((trace.group, trace.wave), []).append(int(start))
                stalls["unit"] += start - t
                t = start + 1
            elif unit == BRANCH:
                event = trace.events[wave.event] if wave.event < len(trace.events) else False
                wave.event += 1
                t += c.BRANCH_CYCLES if event else 1
            elif unit == WAIT:
                t = self.wait(wave, op.vm, op.lgkm, op.vs, t)
            elif unit == BARRIER:
                wave.at, wave.t = at, t
                self.barrier(wave)
                return None
            elif unit in (LDS, VMEM, SMEM):
                if wave.event >= len(trace.events):     # the recording ends here
                    at = n
                    break
                event = trace.events[wave.event]
                wave.event += 1
                t = self.memory_op(wave, unit, op.counts, event, t)
            elif unit == CACHE:
                self.memory.invalidate(simd.cu)
                t += 1
            elif unit == END:
                at = n
            else:
                t += op.slots
        wave.at, wave.t = at, t
        if at < n:
            self.push(wave)
            return None
        return self.end(wave)

    def memory_op(self, wave: _Wave, unit: int, counter: str, event: object, t: float) -> float:
        simd, memory, result = wave.simd, self.memory, self.result
        cu = simd.cu
        if unit == LDS:
            assert isinstance(event, int)
            cycles = max(event, 1)
            start = max(self.lds_unit[cu], t)
            self.lds_unit[cu] = start + cycles
            result.busy["lds"] += cycles
            result.counts["lds_instructions"] += 1
            result.counts["lds_cycles"] += cycles
            done = start + cycles - 1 + c.LDS_LATENCY
            wave.lgkm.append((max(done, wave.lgkm[-1][0]) if wave.lgkm else done, False))
        elif unit == SMEM:
            assert isinstance(event, list)
            start = max(self.smem_unit, t)
            self.smem_unit = start + max(len(event), 1)
            result.busy["smem"] += max(len(event), 1)
            result.counts["scalar_lines"] += len(event)
            done = memory.scalar_load(event, start)
            wave.lgkm.append((max(done, wave.lgkm[-1][0]) if wave.lgkm else done, True))
        else:
            assert isinstance(event, tuple)
            lines, cycles, repeats = event
            start = max(self.l0_unit[cu], t)
            self.l0_unit[cu] = start + cycles
            result.busy["l0"] += cycles
            if repeats:
                done = memory.atomic(lines, repeats, start)
            elif counter == "vm":
                done = memory.load(cu, lines, start)
            else:
                done = memory.store(cu, lines, start)
            outstanding = wave.vm if counter == "vm" else wave.vs
            outstanding.append(max(done, outstanding[-1]) if outstanding else done)
        return t + 1            # it waits in the unit's queue, and the wave goes on

    def wait(self, wave: _Wave, vm: int, lgkm: int, vs: int, t: float) -> float:
        stalls, now = self.result.stalls, t
        for outstanding, most in ((wave.vm, vm), (wave.vs, vs)):
            if len(outstanding) > most:
                back = outstanding[len(outstanding) - most - 1]
                del outstanding[:len(outstanding) - most]
                if back > now:
                    stalls["vmem"] += back - now
                    now = back
        if len(wave.lgkm) > lgkm:
            back, scalar = wave.lgkm[len(wave.lgkm) - lgkm - 1]
            del wave.lgkm[:len(wave.lgkm) - lgkm]
            if back > now:
                stalls["smem" if scalar else "lds"] += back - now
                now = back
        return now + 1

    def barrier(self, wave: _Wave) -> None:
        group = wave.group
        group.waiting.append(wave)
        self.release(group)

    def release(self, group: _Group) -> None:
        if not group.waiting or len(group.waiting) < group.alive:
            return
        t = max(w.t for w in group.waiting) + c.BARRIER_LATENCY
        waiting, group.waiting = group.waiting, []
        for wave in waiting:
            self.result.stalls["barrier"] += t - wave.t
            wave.t = t
            self.push(wave)

    def end(self, wave: _Wave) -> float | None:
        group = wave.group
        wave.simd.free += 1
        group.alive -= 1
        group.ended = max(group.ended, wave.t)
        self.result.wave_cycles += wave.t - group.begun
        self.result.instructions += wave.trace.instructions
        if group.alive:
            self.release(group)
            return None
        self.resident[group.domain] -= 1
        self.result.completions.append(group.ended)
        return group.ended


def simulate(workgroups: list[list[Trace]], occupancy: Occupancy, shares: Shares) -> Result:
    """Run the workgroups, as many at a time as there is room for, in order."""
    return _Processor(occupancy, shares).run(workgroups)
