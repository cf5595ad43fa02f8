"""The reference interpreter: waves of many workgroups in lockstep, one NumPy operation an instruction.

Workgroups are taken in batches. The waves of a batch that stand at the same PC are one :class:`State` and run a basic
block together; where they part they become several states, and the one that is furthest behind runs first, so that
they meet again. A turn now and then goes to whoever waited longest, so that a spinning wave cannot starve the wave
that it spins for.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from mock.isa import bind, control, hazards, memory
from mock.isa.access import Accessor
from mock.isa.buffers import bind_buffer
from mock.isa.decode import NULL, Instruction, Operand, in_wave
from mock.isa.dispatch import (
    SCALAR_LOAD,
    TRAP_EN,
    Counts,
    Dispatch,
    HungWave,
    IllegalInstruction,
    IsaError,
    Memory,
    Stopped,
    initial_mode,
)
from mock.isa.exceptions import raising, watched
from mock.isa.halves import is_half
from mock.isa.hwregs import ILLEGAL_INST
from mock.isa.program import Block, Code, is_terminator
from mock.isa.relative import bind_relative
from mock.isa.semantics import Entry, table
from mock.isa.state import State
from mock.isa.traps import enter, exception_of, needs_privilege, uses_ttmp
from mock.isa.vocabulary import Mode, Vocabulary
from mock.isa.waves import Batch, batches, vgpr_count

__all__ = ["Machine", "execute"]

Step = Callable[[State], None]
Trace = Callable[[int, Instruction, State], None]
_FAIR_TURN = 1024           # blocks between turns for the longest waiting
_LOOK = 64                  # blocks between looks at the clock
_WATCHDOG = 300.0           # seconds for a batch of workgroups


def _registers_used(instruction: Instruction, operand: Operand) -> int:
    """How many registers an operand names; addresses that are switched off may name any (ACO of Mesa 25.0 leaves v128
    where neither offen nor idxen is on)."""
    f = instruction.fields
    if operand.field == "vaddr" and instruction.encoding in ("MUBUF", "MTBUF"):
        return int(f["offen"] + f["idxen"])
    if operand.field == "addr" and instruction.encoding == "SCRATCH":
        return int(f["sve"])
    if operand.field == "addr" and instruction.encoding == "GLOBAL" and f["saddr"] != NULL:
        return 1
    return operand.width


class _Bound:
    """A block's steps, and how it ends."""

    __slots__ = ("block", "end", "names", "steps", "terminator")

    def __init__(self, block: Block, steps: list[Step], terminator: control.Terminator | None) -> None:
        self.block, self.steps, self.terminator = block, steps, terminator
        self.end = block.end
        self.names = Counter(i.mnemonic for i in block.instructions)


class Machine:
    """One dispatch being executed."""

    def __init__(self, dispatch: Dispatch, memory_: Memory, *, trace: Trace | None = None,
                 count_mnemonics: bool = False, lds: memory.Lds | None = None, check_hazards: bool = True,
                 watchdog: float = _WATCHDOG) -> None:
        self.dispatch = dispatch
        self.accessor = Accessor(memory_)
        self.scalars = Accessor(memory_, SCALAR_LOAD)
        self.code = Code(Accessor(getattr(memory_, "code", memory_)), dispatch.code_address)
        self.counts = Counts()
        self.lds = memory.Lds(0, 0) if lds is None else lds
        self.space = memory.Space(self.accessor, self.lds)
        self.trace, self.count_mnemonics = trace, count_mnemonics
        self.check_hazards, self.watchdog = check_hazards, watchdog
        self._still_wanted = getattr(memory_, "check", lambda: None)
        self._blocks: dict[int, _Bound] = {}
        self._vocabularies: dict[int, Vocabulary] = {}
        self._apart = bool(initial_mode(dispatch) & TRAP_EN)     # an exception is one wave's: none share a state

    def prepare(self, dispatch: Dispatch, memory_: Memory) -> None:
        """Another dispatch of the code at the same address, by the same wave size."""
        self.dispatch, self.counts = dispatch, Counts()
        self.accessor.memory = self.scalars.memory = memory_
        self.code.accessor.memory = getattr(memory_, "code", memory_)
        self._still_wanted = getattr(memory_, "check", lambda: None)

    def release(self) -> None:
        """Let go of what belongs to the dispatch that has ended."""
        self.lds = self.space.lds = memory.Lds(0, 0)
        for vocabulary in self._vocabularies.values():
            vocabulary.state = None     # type: ignore[assignment]

    # -- code -------------------------------------------------------------------------------------------------

    def _bind(self, pc: int) -> _Bound:
        bound = self._blocks.get(pc)
        if bound is not None:
            return bound
        block = self.code.block(pc)
        steps: list[Step] = []
        last = block.instructions[-1]
        ends = is_terminator(last.mnemonic)
        terminator = None
        try:
            for instruction, at in zip(block.instructions, block.pcs, strict=True):
                if ends and instruction is last and at == block.pcs[-1]:
                    terminator = self._terminator(last, at)
                    break
                steps.append(self._step(instruction, at))
        except IllegalInstruction:
            if not steps:
                raise
            del block.instructions[len(steps):], block.pcs[len(steps):]     # whoever gets that far meets it there
        bound = self._blocks[pc] = _Bound(block, steps, terminator)
        return bound

    def _terminator(self, instruction: Instruction, pc: int) -> control.Terminator:
        address = self.dispatch.code_address + pc
        try:
            terminator = control.bind_terminator(instruction, pc, self)
        except ValueError as error:
            raise IllegalInstruction(address, instruction.bits, f"{instruction.mnemonic}: {error}") from None
        return needs_privilege(instruction, terminator, address) if uses_ttmp(instruction) else terminator

    def step(self, pc: int) -> Step:
        """The instruction at ``pc`` (relative to the code address; no terminator) as a function of a state.

        The function sets the state's vocabulary by its mode, so any state of this dispatch's wave size will do; its
        ``per_wave["lds"]`` counts from the start of the machine's LDS.
        """
        step = self._step(self.code.instruction(pc), pc)

        def one(s: State) -> None:
            s.v = self.vocabulary(s)
            with np.errstate(all="ignore"):
                step(s)
        return one

    def _step(self, instruction: Instruction, pc: int) -> Step:
        address = self.dispatch.code_address + pc
        try:
            self._check_registers(instruction)
            step = self._find_step(instruction, pc)
        except ValueError as error:
            raise IllegalInstruction(address, instruction.bits, f"{instruction.mnemonic}: {error}") from None
        if step is None:
            unit = {"MIMG": "no image unit", "EXP": "no export unit", "VINTERP": "no pixel pipeline",
                    "LDSDIR": "no pixel pipeline"}.get(instruction.encoding, "not supported")
            raise IllegalInstruction(address, instruction.bits, f"{instruction.mnemonic}: {unit} for compute")
        if self._apart and watched(instruction):
            step = raising(instruction, step, self.dispatch.wave_size)
        return needs_privilege(instruction, step, address) if uses_ttmp(instruction) else step

    def _check_registers(self, instruction: Instruction) -> None:
        """The wave has as many VGPRs as rsrc1 asks for, in the hardware's granules."""
        count = vgpr_count(self.dispatch)
        for operand in in_wave(instruction, self.dispatch.wave_size).operands:
            first = operand.code - 256
            if first >= 128 and is_half(instruction, operand):
                first -= 128            # the upper half of a register
            width = _registers_used(instruction, operand)
            if width and first + width > count and first >= 0:
                raise ValueError(f"v{first + width - 1} is beyond the wave's {count} VGPRs")

    def _find_step(self, instruction: Instruction, pc: int) -> Step | None:
        if instruction.pair is not None:
            first, second = instruction.pair
            return self._dual(self._find_step(first, pc), self._find_step(second, pc), instruction)
        if instruction.encoding in ("DS", "FLAT", "GLOBAL", "SCRATCH"):
            return memory.bind_memory(instruction, self.space) or bind_relative(instruction, self)
        if instruction.encoding in ("MUBUF", "MTBUF"):
            return bind_buffer(instruction, self)
        entry = table().get(instruction.mnemonic)
        if isinstance(entry, Entry):
            return bind.bind_entry(instruction, entry, self.dispatch.wave_size)
        if instruction.mnemonic == "s_getpc_b64":
            return self._getpc(instruction, pc + instruction.size)
        return control.bind_scalar(instruction, self) or bind_relative(instruction, self)

    def _getpc(self, instruction: Instruction, after: int) -> Step:
        store = bind.put(instruction.operands[0], "u64")
        value = np.uint64(self.dispatch.code_address + after)
        return lambda s: store(s, np.full(s.waves, value), None)

    @staticmethod
    def _dual(x: Any, y: Any, instruction: Instruction) -> Step:
        """Both halves of a VOPD read before either writes."""
        assert instruction.pair is not None
        written = instruction.pair[0].operands[0].code - 256
        reads = {o.code - 256 for o in instruction.pair[1].operands[1:] if o.code >= 256}
        reads |= {instruction.pair[1].operands[0].code - 256} if "fmac" in instruction.pair[1].mnemonic \
            or "dot2acc" in instruction.pair[1].mnemonic else set()
        if written not in reads:
            def in_order(s: State) -> None:
                x(s)
                y(s)
            return in_order
        written_y = instruction.pair[1].operands[0].code - 256
        reads_x = {o.code - 256 for o in instruction.pair[0].operands[1:] if o.code >= 256}
        if "fmac" in instruction.pair[0].mnemonic or "dot2acc" in instruction.pair[0].mnemonic:
            reads_x.add(written)
        if written_y not in reads_x:
            def reversed_order(s: State) -> None:
                y(s)
                x(s)
            return reversed_order

        def crossed(s: State) -> None:
            before = s.vgpr[written].copy()
            x(s)
            after = s.vgpr[written].copy()
            s.vgpr[written] = before
            y(s)
            s.vgpr[written] = after
        return crossed

    def vocabulary(self, s: State) -> Vocabulary:
        vocabulary = self._vocabularies.get(s.mode)
        if vocabulary is None:
            vocabulary = self._vocabularies[s.mode] = Vocabulary(Mode(s.mode))
        vocabulary.state = s
        return vocabulary

    # -- execution --------------------------------------------------------------------------------------------

    def run(self) -> Counts:
        if self.check_hazards:
            hazards.check(self.code, lanes=self.dispatch.wave_size)
            self.check_hazards = False      # once a translation
        with np.errstate(all="ignore"):
            for batch in batches(self.dispatch):
                self.lds = self.space.lds = memory.Lds(batch.workgroups, batch.lds_bytes)
                self.counts.workgroups += batch.workgroups
                self.counts.waves += batch.waves
                self._run_batch(batch)
        return self.counts

    def _run_batch(self, batch: Batch) -> None:
        first = batch.state()
        ready: dict[int, list[State]] = {0: [first]}
        if self._apart:
            ready[0] = [first.take(np.array([wave])) for wave in range(first.waves)]
        waiting: list[State] = []
        alive = batch.waves_of_workgroup.copy()
        turns = 0
        deadline = time.monotonic() + self.watchdog
        while ready or waiting:
            if not ready:
                raise IsaError("deadlock: every wave that is left waits at s_barrier for a wave that has ended")
            turns += 1
            if turns % _LOOK == 0:
                self._still_wanted()
                observer = getattr(self.accessor.memory, "observer", None)
                if observer is not None:
                    at = min(ready)
                    observer(lambda at=at, first=ready[at][0]: Stopped(self.dispatch.code_address + at, first))
                if time.monotonic() > deadline:
                    raise self._hung(ready)
            # Fairness: PCs keep their insertion order, so the first key is the one that waited longest.
            pc = next(iter(ready)) if turns % _FAIR_TURN == 0 else min(ready)
            states = ready.pop(pc)
            if self._apart:
                if len(states) > 1:
                    ready[pc] = states[1:]
                s = states[0]
            else:
                same = [s for s in states if s.mode == states[0].mode]
                if len(same) < len(states):
                    ready[pc] = [s for s in states if s.mode != states[0].mode]
                s = State.join(same)
            for target, which in self._run_block(s):
                if isinstance(which, str):
                    waiting.append(s)
                    self._release(waiting, ready, alive)
                    continue
                part = s
                if isinstance(which, tuple):
                    _, mode, which = which
                    part = s if which is None else s.take(which)
                    part.mode = mode
                elif which is not None:
                    part = s.take(which)
                part.pc = target
                ready.setdefault(target, []).append(part)
            if s.pc == -2:
                np.subtract.at(alive, s.per_wave["workgroup"], 1)
                if waiting:
                    self._release(waiting, ready, alive)

    def _hung(self, ready: dict[int, list[State]]) -> HungWave:
        pc = min(ready)
        s = ready[pc][0]
        return HungWave(f"{sum(x.waves for states in ready.values() for x in states)} waves have run for "
                        f"{self.watchdog:g} s; one is at pc {self.dispatch.code_address + pc:#x}: "
                        f"{self.code.instruction(pc)}; wave {int(s.per_wave['wave'][0])} of workgroup "
                        f"{int(s.per_wave['workgroup'][0])} of the batch. Raise the watchdog if that is right")

    @staticmethod
    def _release(waiting: list[State], ready: dict[int, list[State]], alive: np.ndarray) -> None:
        """Let the workgroups go whose waves are all at the barrier."""
        arrived = np.zeros_like(alive)
        for s in waiting:
            np.add.at(arrived, s.per_wave["workgroup"], 1)
        complete = (arrived == alive) & (alive > 0)
        still = []
        for s in waiting:
            go = complete[s.per_wave["workgroup"]]
            if go.all():
                ready.setdefault(s.pc, []).append(s)
            elif go.any():
                part = s.take(go)
                ready.setdefault(part.pc, []).append(part)
                still.append(s.take(~go))
            else:
                still.append(s)
        waiting[:] = still

    def _run_block(self, s: State) -> control.Exits:
        """The block at the state's PC. An exception that the waves have a trap handler for leads there."""
        s.v = self.vocabulary(s)
        done, i, bound = 0, 0, None
        try:
            bound = self._bind(s.pc)
            block = bound.block
            if self.trace is None:
                for i, step in enumerate(bound.steps):      # noqa: B007
                    step(s)
            else:
                for i, step in enumerate(bound.steps):
                    step(s)
                    self.trace(self.dispatch.code_address + block.pcs[i], block.instructions[i], s)
            i = len(bound.steps)
            if self.trace is not None and bound.terminator is not None:
                self.trace(self.dispatch.code_address + block.pcs[i], block.instructions[i], s)
            exits = bound.terminator(s) if bound.terminator is not None else [(bound.end, None)]
            done = len(block.instructions)
        except Exception as error:
            exits, done = self._exception(error, s, bound, i), i
        self.counts.instructions += done * s.waves
        if self.count_mnemonics and bound is not None:
            names = bound.names if done == len(bound.block.instructions) else \
                Counter(x.mnemonic for x in bound.block.instructions[:done])
            for name, count in names.items():
                self.counts.by_mnemonic[name] += count * s.waves
        if not exits:
            s.pc = -2
        elif exits is control.BARRIER and bound is not None:
            s.pc = bound.end
        return exits

    def _exception(self, error: Exception, s: State, bound: _Bound | None, i: int) -> control.Exits:
        """Where the waves go whose instruction ``i`` raised; raises what is an error."""
        base = self.dispatch.code_address
        if bound is None:
            cause, pc, after = exception_of(error, s.mode), s.pc, s.pc
        else:
            i = min(i, len(bound.block.pcs) - 1)
            instruction, pc = bound.block.instructions[i], bound.block.pcs[i]
            after = pc + instruction.size
            if type(error) is ValueError:       # a register, or the like, that data chose
                error = IllegalInstruction(base + pc, instruction.bits, f"{instruction}: {error}")
            cause = exception_of(error, s.mode)
            if not cause:
                error.add_note(f"at pc {base + pc:#x}: {instruction}")
        if not cause:
            error.stopped = Stopped(base + pc, s)       # type: ignore[attr-defined]
            raise error
        return enter(s, base, self.dispatch.tba, pc if cause == ILLEGAL_INST else after, cause=cause)


class _Kept:
    """Machines whose code is decoded and bound, for the next dispatch of the same code at the same address."""

    LIMIT = 256

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._machines: OrderedDict[tuple[int, ...], Machine] = OrderedDict()

    @staticmethod
    def _key(dispatch: Dispatch) -> tuple[int, ...]:
        """What binding looks at."""
        return dispatch.code_address, dispatch.wave_size, vgpr_count(dispatch), dispatch.tba

    def take(self, dispatch: Dispatch, memory_: Memory) -> Machine:
        with self._lock:
            machine = self._machines.pop(self._key(dispatch), None)
        if machine is not None:
            machine.prepare(dispatch, memory_)
            if machine.code.unchanged():
                return machine
        return Machine(dispatch, memory_)

    def give(self, machine: Machine) -> None:
        dispatch = machine.dispatch
        with self._lock:
            self._machines[self._key(dispatch)] = machine
            while len(self._machines) > self.LIMIT:
                self._machines.popitem(last=False)


_kept = _Kept()


def execute(dispatch: Dispatch, memory_: Memory, **options: Any) -> Counts:
    """See :func:`mock.isa.execute`."""
    if options:
        return Machine(dispatch, memory_, **options).run()
    machine = _kept.take(dispatch, memory_)
    counts = machine.run()
    machine.release()
    _kept.give(machine)
    return counts
