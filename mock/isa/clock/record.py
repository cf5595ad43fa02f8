"""What sampled workgroups do: the path of each wave, and what its memory instructions become.

The waves run in the reference interpreter, on a memory whose writes go to copies of their own, so that a sample leaves
no trace; of their instructions only those that decide a path or an address are executed (``relevance``).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from mock.isa import control, memory
from mock.isa.access import PAGE, Accessor
from mock.isa.clock import constants as c
from mock.isa.clock.classify import BRANCH, LDS, SMEM, VMEM, Op, classify
from mock.isa.clock.coalesce import lds_cycles, lines_of
from mock.isa.clock.relevance import Relevance, reads_clock
from mock.isa.clock.stamps import clock_step
from mock.isa.decode import Instruction
from mock.isa.dispatch import COHERENT_LOAD, SCALAR_LOAD, Dispatch, Memory, Rsrc2
from mock.isa.interpreter import Machine
from mock.isa.semantics import Atomic, Load, Store, table
from mock.isa.state import M0, State
from mock.isa.waves import Batch

__all__ = ["Recorder", "ShadowMemory", "Trace", "batch_of"]

Step = Callable[[State], None]
U64 = np.uint64
_EVENTFUL = (LDS, VMEM, SMEM, BRANCH)
_SCALAR_SHIFT = c.SCALAR_LINE.bit_length() - 1


class ShadowMemory:
    """Another memory, as it is now behind its caches: what is written goes to copies of its pages."""

    def __init__(self, memory_: Memory) -> None:
        self.memory = memory_
        self.code = getattr(memory_, "code", memory_)
        self.drop_low_bits = bool(getattr(memory_, "drop_low_bits", False))
        self._copies: dict[int, np.ndarray] = {}
        self._kinds = getattr(memory_, "translate_as", None)
        self.on_atomic: Callable[[np.ndarray], None] = lambda addresses: None

    def before_atomic(self, addresses: np.ndarray) -> None:
        self.on_atomic(addresses)

    def _read(self, addresses: np.ndarray, nbytes: int) -> np.ndarray:
        if self._kinds is not None:
            found: np.ndarray = self._kinds(addresses, COHERENT_LOAD)
            return found
        return self.memory.translate(addresses, nbytes, False)

    def translate(self, addresses: np.ndarray, nbytes: int, write: bool) -> np.ndarray:
        if not write and not self._copies:
            return self._read(addresses, nbytes)
        pages = addresses >> U64(12)
        unique, inverse = np.unique(pages, return_inverse=True)
        bases = np.zeros(len(unique), U64)
        for i, page in enumerate(unique.tolist()):
            copy = self._copies.get(page)
            if copy is None and write:
                copy = self._copies[page] = self._copy(page)
            if copy is not None:
                bases[i] = copy.ctypes.data
        base = bases[inverse.reshape(-1)]
        result = base + (addresses & U64(PAGE - 1))
        outside = base == 0
        if outside.any():
            result[outside] = self._read(addresses[outside], nbytes)
        return result

    def _copy(self, page: int) -> np.ndarray:
        raw = np.empty(PAGE + 64, np.uint8)
        skip = -int(raw.ctypes.data) % 64
        copy = raw[skip:skip + PAGE]
        pointer = int(self._read(np.array([page * PAGE], U64), PAGE)[0])
        copy[:] = np.frombuffer(ctypes.string_at(pointer, PAGE), np.uint8)
        return copy


class _Space(memory.Space):
    """Tells the recorder where each access goes, and moves data only where somebody wants it."""

    recorder: Recorder

    def load(self, s: State, where: memory.Where, kind: type, count: int) -> list[np.ndarray]:
        r = self.recorder
        if r.noting:
            r.note_where(s, where, np.dtype(kind).itemsize * count)
            if r.skipping:
                return [np.zeros(len(where.addresses), kind) for _ in range(count)]
        with r.silent():            # flat accesses come back here in parts
            return super().load(s, where, kind, count)

    def store(self, s: State, where: memory.Where, values: list[np.ndarray]) -> None:
        r = self.recorder
        if r.noting:
            r.note_where(s, where, values[0].dtype.itemsize * len(values))
            if r.skipping:
                return
        with r.silent():
            super().store(s, where, values)


class _Accessor(Accessor):
    """For what reaches memory without a :class:`Space`: scalar loads, typed buffers."""

    recorder: Recorder | None = None

    def load(self, addresses: np.ndarray, kind: type, count: int) -> list[np.ndarray]:
        if self.recorder is not None and self.recorder.noting:
            self.recorder.note_flat(addresses, np.dtype(kind).itemsize * count)
        return super().load(addresses, kind, count)

    def store(self, addresses: np.ndarray, values: list[np.ndarray]) -> None:
        if self.recorder is not None and self.recorder.noting:
            self.recorder.note_flat(addresses, values[0].dtype.itemsize * len(values))
        super().store(addresses, values)


class _Scalars(Accessor):
    """Scalar loads, and what they asked for."""

    def __init__(self, memory_: Memory, kind: int) -> None:
        super().__init__(memory_, kind)
        self.seen: list[np.ndarray] = []

    def load(self, addresses: np.ndarray, kind: type, count: int) -> list[np.ndarray]:
        self.seen.append(np.asarray(addresses, U64))
        return super().load(addresses, kind, count)


class Trace:
    """One wave: its instructions in order, and the events of those that have any.

    ``events``: for LDS the cycles; for VMEM (lines, cycles of the L0, atomic operations on the busiest dword, or 0);
    for SMEM the lines; for branches whether they were taken.
    """

    __slots__ = ("complete", "events", "group", "instructions", "ops", "wave")

    def __init__(self, group: int, wave: int) -> None:
        self.group, self.wave = group, wave
        self.ops: list[Op] = []
        self.events: list[Any] = []
        self.instructions = 0
        self.complete = False

    def stored(self) -> Iterator[int]:
        """Lines that stores write."""
        events = iter(self.events)
        for op in self.ops:
            if op.unit in _EVENTFUL:
                event = next(events, None)
                if op.counts == "vs" and isinstance(event, tuple):
                    yield from event[0]


class _Block:
    """A basic block's ops, and those that consume an event."""

    def __init__(self, bound: Any, wave_size: int) -> None:
        block = bound.block
        self.ops = [classify(i, wave_size) for i in block.instructions]
        self.end, self.branches = bound.end, self.ops[-1].unit == BRANCH
        self.length = len(self.ops)


class Recorder(Machine):
    """A machine that notes what its waves do, up to ``limit`` instructions each."""

    def __init__(self, dispatch: Dispatch, memory_: Memory, relevance: Relevance, limit: int) -> None:
        shadow = ShadowMemory(memory_)
        super().__init__(dispatch, shadow, check_hazards=False)
        accessor = _Accessor(shadow)
        accessor.recorder = self
        self.accessor = accessor
        self.scalars = _Scalars(shadow, SCALAR_LOAD)
        space = _Space(accessor, self.lds)
        space.recorder = self
        self.space = space
        shadow.on_atomic = self._note_atomic
        self.relevance, self.limit = relevance, limit
        self.noting = self.skipping = False
        self.scalar_reads: list[tuple[np.ndarray, int]] = []
        self._static: dict[int, _Block] = {}
        self._patterns: dict[tuple[int, bool, bytes, bytes], np.ndarray] = {}
        self.traces: list[Trace] = []
        self._where: list[tuple[np.ndarray, np.ndarray, int]] = []      # addresses, owners, bytes
        self._lds_cycles: np.ndarray | None = None
        self._atomic: tuple[np.ndarray, np.ndarray] | None = None
        self._state: Any = None

    def record(self, batch: Batch) -> list[Trace]:
        """The traces of a batch's waves, complete or up to where they were cut."""
        groups = np.repeat(np.arange(batch.workgroups), batch.waves_of_workgroup).tolist()
        self.traces = [Trace(group, wave) for wave, group in enumerate(groups)]
        self.lds = self.space.lds = memory.Lds(batch.workgroups, batch.lds_bytes)
        with np.errstate(all="ignore"):
            self._run_batch(batch)
        return self.traces

    # ---- the machine's parts

    def _step(self, instruction: Instruction, pc: int) -> Step:
        if reads_clock(instruction):
            return clock_step(instruction, self._guess)
        step = super()._step(instruction, pc)
        entry = table().get(instruction.mnemonic)
        needed = self.relevance.needed is None or pc in self.relevance.needed
        unit = classify(instruction, self.dispatch.wave_size).unit
        if unit == LDS:
            return self._lds_step(instruction, step, entry, needed)
        if unit == VMEM:
            return self._vmem_step(instruction, step, entry, needed)
        if unit == SMEM:
            return self._smem_step(instruction, step)
        return step if needed else _nothing

    def _bind(self, pc: int) -> Any:
        bound = super()._bind(pc)
        if pc not in self._static:
            self._static[pc] = _Block(bound, self.dispatch.wave_size)
            bound.steps = [step for step in bound.steps if step is not _nothing]
        return bound

    def _run_block(self, s: State) -> control.Exits:
        waves = s.per_wave["id"].tolist()
        traces = [self.traces[w] for w in waves]
        self._bind(s.pc)
        static, pc = self._static[s.pc], s.pc
        for trace in traces:
            trace.ops += static.ops
            trace.instructions += static.length
        exits = super()._run_block(s)
        if not exits:
            for trace in traces:
                trace.complete = True
        elif static.branches:
            self._note_branch(static, exits, traces)
        if exits and traces[0].instructions >= self.limit and exits is not control.BARRIER:
            return self._cut(s, exits, pc)
        return exits

    @staticmethod
    def _note_branch(static: _Block, exits: control.Exits, traces: list[Trace]) -> None:
        for target, which in exits:
            taken = target != static.end
            chosen = traces if which is None or isinstance(which, (tuple, str)) else \
                [traces[i] for i in np.flatnonzero(which).tolist()]
            for trace in chosen:
                trace.events.append(taken)

    def _cut(self, s: State, exits: control.Exits, pc: int) -> control.Exits:
        """End the waves here: they have run long enough. All of a state's waves are about as far."""
        s.pc = -2
        return []

    @contextmanager
    def silent(self) -> Iterator[None]:
        """What happens meanwhile is noted already."""
        noting, self.noting = self.noting, False
        try:
            yield
        finally:
            self.noting = noting

    def _guess(self, s: State) -> np.ndarray:
        """The time, while it is not known: an instruction is taken for four cycles."""
        return np.array([4 * self.traces[w].instructions for w in s.per_wave["id"].tolist()], np.int64)

    # ---- noting

    def _lds_step(self, instruction: Instruction, step: Step, entry: Any, needed: bool) -> Step:
        f, two = instruction.fields, "2addr" in instruction.mnemonic
        serial = isinstance(entry, Atomic)
        nbytes = (int(entry.kind[1:]) // 8) * getattr(entry, "count", 1) \
            if isinstance(entry, (Load, Store, Atomic)) else 0
        unit = (8 if instruction.mnemonic.endswith("b64") else 4) * (64 if "stride64" in instruction.mnemonic else 1)
        offsets = [f["offset0"] * unit, f["offset1"] * unit] if two else [f["offset0"] | f["offset1"] << 8]
        threads = "addtid" in instruction.mnemonic

        def cycles(s: State) -> np.ndarray:
            if not nbytes:          # permutes: every lane's dword once through the banks
                return np.full(s.waves, s.lanes // c.LDS_BANKS)
            total = np.zeros(s.waves, np.int64)
            for offset in offsets:
                if threads:
                    address = s.lane_ids * np.uint32(4) + (s.sgpr[M0] & np.uint32(0xffff)) + np.uint32(offset)
                else:
                    address = s.vgpr[f["addr"]] + np.uint32(offset)
                total += self._conflicts(address, s.mask, nbytes, serial)
            return total

        def noted(s: State) -> None:
            for wave, n in zip(s.per_wave["id"].tolist(), cycles(s).tolist(), strict=True):
                self.traces[wave].events.append(n)
            if needed:
                step(s)
        return noted

    def _conflicts(self, addresses: np.ndarray, mask: np.ndarray | None, nbytes: int, serial: bool) -> np.ndarray:
        """:func:`lds_cycles`, kept by what decides it: where lanes lie beside the first one."""
        apart = addresses - (addresses[0] & np.uint32(0xfffffffc))
        key = nbytes, serial, apart.tobytes(), mask.tobytes() if mask is not None else b""
        found = self._patterns.get(key)
        if found is None:
            found = self._patterns[key] = lds_cycles(addresses, mask, nbytes, serial=serial)
        return found

    def _vmem_step(self, instruction: Instruction, step: Step, entry: Any, needed: bool) -> Step:
        atomic = isinstance(entry, Atomic)

        def noted(s: State) -> None:
            self._where, self._atomic, self._lds_cycles, self._state = [], None, None, s
            self.noting, self.skipping = True, not needed
            try:
                step(s)
            finally:
                self.noting = self.skipping = False
            self._finish(s, atomic)
        return noted

    def _finish(self, s: State, atomic: bool) -> None:
        """The event of each wave, from what was noted."""
        lines: list[list[int]] = [[] for _ in range(s.waves)]
        busy = [1] * s.waves
        if self._where:
            addresses = np.concatenate([a for a, _, _ in self._where])
            owners = np.concatenate([o for _, o, _ in self._where])
            nbytes = max(n for _, _, n in self._where)
            lines = lines_of(addresses, owners, nbytes, s.waves)
            total = sum(n for _, _, n in self._where)
            width = max(-(-total // 4), 1) * s.lanes // 32
            busy = [max(width, len(found)) for found in lines]
        repeats = [0] * s.waves
        if atomic:
            repeats = self._repeats(s)
        extra = self._lds_cycles.tolist() if self._lds_cycles is not None else [0] * s.waves
        for wave, found, cycles, n, more in zip(s.per_wave["id"].tolist(), lines, busy, repeats, extra, strict=True):
            self.traces[wave].events.append((found, cycles + more, n))

    def _repeats(self, s: State) -> list[int]:
        if self._atomic is None:
            return [1] * s.waves
        addresses, owners = self._atomic
        keys, counts = np.unique(owners.astype(U64) << U64(48) | addresses & U64((1 << 48) - 1), return_counts=True)
        most = np.zeros(s.waves, np.int64)
        np.maximum.at(most, (keys >> U64(48)).astype(np.int64), counts)
        return [max(n, 1) for n in most.tolist()]

    def _owners(self, s: State, n: int) -> np.ndarray:
        if s.mask is None:
            return np.tile(np.arange(s.waves), s.lanes)
        owners = np.nonzero(s.mask)[1]
        return owners if len(owners) == n else np.zeros(n, np.int64)

    def note_where(self, s: State, where: memory.Where, nbytes: int) -> None:
        """From a :class:`Space`: global and scratch addresses, and flat ones that lie in LDS."""
        if self._atomic is not None:
            return
        owners = self._owners(s, len(where.addresses))
        if where.lds is True or isinstance(where.lds, np.ndarray):
            inside = np.full(len(owners), True) if where.lds is True else where.lds
            self._lds_cycles = np.bincount(owners[inside], minlength=s.waves) // 32 + 1
            if inside.all():
                return
            where, owners = where.pick(np.flatnonzero(~inside)), owners[~inside]
        if where.pitch is None:
            self._where.append((where.addresses, owners, nbytes))
            return
        for offset in range(0, nbytes, 4):
            self._where.append((where.byte(offset), owners, min(nbytes, 4)))

    def note_flat(self, addresses: np.ndarray, nbytes: int) -> None:
        """From an accessor: typed buffers, whose space is not asked."""
        s = self._state
        if s is not None and not self._where and self._atomic is None:
            self._where.append((np.asarray(addresses, U64), self._owners(s, len(addresses)), nbytes))

    def _note_atomic(self, addresses: np.ndarray) -> None:
        s = self._state
        if self.noting and s is not None:
            owners = self._owners(s, len(addresses))
            self._where.append((addresses, owners, 4))
            self._atomic = addresses, owners

    def _smem_step(self, instruction: Instruction, step: Step) -> Step:
        data = instruction.operand("sdata")
        nbytes = 4 * (data.width if data is not None else 1)

        scalars = self.scalars
        assert isinstance(scalars, _Scalars)

        def noted(s: State) -> None:
            scalars.seen.clear()
            step(s)
            seen = scalars.seen
            lines: list[list[int]] = [[] for _ in range(s.waves)]
            if seen and len(seen[0]) == s.waves:
                lines = lines_of(seen[0], np.arange(s.waves), nbytes, s.waves, _SCALAR_SHIFT)
            for wave, found in zip(s.per_wave["id"].tolist(), lines, strict=True):
                self.traces[wave].events.append(found)
        return noted


def _nothing(s: State) -> None:
    """A step that decides nothing."""


def batch_of(dispatch: Dispatch, indices: list[int]) -> Batch:
    """The workgroups with these numbers (x fastest) as a batch."""
    d = dispatch
    index = np.array(indices, np.int64)
    ids = np.stack([index % d.grid[0], index // d.grid[0] % d.grid[1], index // (d.grid[0] * d.grid[1])], axis=1)
    last, partial = ids == np.array(d.grid) - 1, np.array(d.partial)
    sizes = np.where(last & (partial > 0), partial, np.array(d.block))
    lds = Rsrc2(d.rsrc2).lds_bytes if d.lds_bytes is None else d.lds_bytes
    return Batch(d, ids + np.array(d.start), sizes, lds)


