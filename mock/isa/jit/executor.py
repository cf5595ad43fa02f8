"""Dispatches on compiled code: kernels found or made, workgroups spread over threads, the rest for the interpreter."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np

from mock.isa import interpreter
from mock.isa.access import Accessor, HostMemory
from mock.isa.clock.occupancy import resident_workgroups
from mock.isa.decode import Instruction
from mock.isa.dispatch import PRIV, STORE, Counts, Dispatch, HungWave, IsaError, Memory, Rsrc2, Stopped, initial_mode
from mock.isa.hwregs import ILLEGAL_INST
from mock.isa.interpreter import Machine
from mock.isa.jit.compiler import Compiled
from mock.isa.jit.context import FAULT, INTERPRET, QUANTUM, REPEAT, TERMINATOR, YIELD, Context
from mock.isa.jit.kernels import find
from mock.isa.jit.registers import Layout
from mock.isa.jit.segments import CAREFUL
from mock.isa.jit.translate import Point
from mock.isa.memory import Lds
from mock.isa.program import Code
from mock.isa.state import EXEC, State
from mock.isa.traps import enter, exception_of
from mock.isa.waves import POISON, vgpr_count

Exits = list[tuple[int, Any]]

__all__ = ["HungWave", "execute", "execute_auto"]

_WATCHDOG = 60.0
_ALONE = 20_000         # instructions of a launch (waves times instructions) that are not worth a second thread
_PATIENCE = 20e-3       # seconds that a workgroup loops before the next ones begin beside it
_SHORT_TURN = 1 << 13   # jumps backwards of a wave of such a workgroup before others get their turn
_SHARE = 8              # portions of the grid that each thread gets, so that uneven workgroups even out


class _Launch:
    """What the threads of one dispatch share."""

    def __init__(self, dispatch: Dispatch, memory: Memory, watchdog: float = _WATCHDOG,
                 check_hazards: bool = True) -> None:
        self.dispatch, self.memory, self.watchdog = dispatch, memory, watchdog
        self.lanes = dispatch.wave_size
        self.code = Code(Accessor(getattr(memory, "code", memory)), dispatch.code_address)
        self.mode = initial_mode(dispatch)
        self.vgprs = vgpr_count(dispatch)
        rsrc2 = Rsrc2(dispatch.rsrc2)
        self.lds_bytes = rsrc2.lds_bytes if dispatch.lds_bytes is None else dispatch.lds_bytes
        self.lock = threading.Lock()
        self.kernel = find(self.code, self.lanes, self.mode, self.vgprs, [(0, self.mode)], check_hazards=check_hazards)
        self.compiled: Compiled | None = self.kernel.compiled
        items = dispatch.block[0] * dispatch.block[1] * dispatch.block[2]
        self.waves = dispatch.grid[0] * dispatch.grid[1] * dispatch.grid[2] * -(-items // self.lanes)
        self.check: Callable[[], None] = getattr(memory, "check", lambda: None)
        self.error: BaseException | None = None
        self.progress = 0.0                 # when a workgroup was last seen to have ended, on the monotonic clock

    def prepare(self) -> Compiled:
        """The code that the launch begins with: whatever there is, or made now."""
        if self.compiled is None:
            self.compiled = self.kernel.compile()
        return self.compiled

    def with_point(self, point: Point) -> Compiled:
        """Code in which a wave can go on at ``point``. Waves are stopped at points by number: those stay."""
        with self.lock:
            code = self.prepare()
            if point not in code.points:
                points = [*sorted(code.points, key=code.points.__getitem__), point]
                self.kernel = find(self.code, self.lanes, self.mode, self.vgprs, points, check_hazards=False)
                self.compiled = code = self.kernel.compile()
            return code


class _Runner:
    """One thread's part: a context, wave states for one workgroup, and its LDS."""

    def __init__(self, launch: _Launch, box: _Box, slot: int) -> None:
        self.launch, self.box = launch, box
        d = launch.dispatch
        self.fault: BaseException | None = None
        self.context = Context(self._translate)
        own = getattr(launch.memory, "workgroup_processor", None)
        self._keeps = own is not None
        self.memory: Any = launch.memory if own is None else own(self.context.zap, lambda: self.context["group"])
        lanes = launch.lanes
        self.state_dwords = Layout.dwords(launch.vgprs, lanes)
        self.states = _aligned(box.waves * self.state_dwords)
        self.states[:] = POISON
        self.lds = Lds(1, launch.lds_bytes)
        self.sgprs = box.template(launch)
        c = self.context
        rsrc2 = Rsrc2(d.rsrc2)
        positions, position = [128, 128, 128], rsrc2.user_sgprs
        for axis, wanted in enumerate(rsrc2.workgroup_id):
            if wanted:
                positions[axis] = position
                position += 1
        for name, value in {
                "lds": int(self.lds.memory.ctypes.data), "lds_bytes": launch.lds_bytes, "code": d.code_address,
                "scratch_slots": d.scratch_address, "scratch_wave_bytes": d.scratch_wave_bytes, "slot": slot,
                "shared_high": d.shared_base >> 32, "private_high": d.private_base >> 32,
                "states": int(self.states.ctypes.data), "state_bytes": 4 * self.state_dwords,
                "sgprs": int(self.sgprs.ctypes.data), "lane_ids": int(box.lane_ids.ctypes.data),
                "exec_masks": int(box.masks.ctypes.data), "waves": box.waves, "fresh": 1,
                "grid_x": box.size[0], "grid_y": box.size[1], "start_x": box.start[0], "start_y": box.start[1],
                "start_z": box.start[2], "id_x": positions[0], "id_y": positions[1], "id_z": positions[2],
                "info": position if rsrc2.workgroup_info else 128}.items():
            c[name] = value
        self._group, self._since = 0, 0.0
        self._machine: Machine | None = None
        self._generation = getattr(launch.memory, "generation", None)
        # not what records or counts pages, which must see each
        self._host = launch.memory if type(launch.memory) is HostMemory else None
        self._page: Callable[[int, int], int] | None = getattr(self.memory, "translate_page", None)

    def _translate(self, address: int, kind: int) -> int:
        """The TLB's callback. Exceptions stay here; the wave that asked stops with FAULT."""
        try:
            if self._page is None:
                pointer = int(self.launch.memory.translate(np.array([address], np.uint64), 1, kind == STORE)[0])
                if self._host is not None:
                    self.context.fill(kind, address, self._host.end_of(address, kind == STORE))
                return pointer
            self._cache_instructions()
            pointer = self._page(address, kind)
            if self.memory.served:
                if kind == STORE:
                    self.context.forget()       # what loads got for this page may be a cache's
                else:
                    self.context["served"] = 1
            elif self._keeps and kind != STORE:
                self.context["served"] = 1      # cache instructions make it ask again
            return pointer
        except BaseException as error:
            self.fault = error
            return 0

    def _cache_instructions(self) -> None:
        """Tell the memory of those that waves executed since the last look."""
        bits = self.context["invalidated"]
        if bits:
            self.context["invalidated"] = 0
            invalidate = getattr(self.memory, "invalidate", None)
            if invalidate is not None:
                invalidate(bits)

    def begin(self, portion: tuple[int, int]) -> None:
        """Workgroups [begin, end) of the box are this runner's."""
        c = self.context
        c["group"], c["end"] = portion
        c["fresh"] = 1
        self._group, self._since = portion[0], time.monotonic()

    def turn(self, quantum: int) -> bool:
        """Run until the portion is done (True), or until a wave has jumped backwards ``quantum`` times (False)."""
        c, launch = self.context, self.launch
        c["fuel"] = quantum
        while launch.error is None:
            reason = launch.prepare().run(c.address)
            self._cache_instructions()
            if reason == 0:
                launch.progress = time.monotonic()
                return True
            self._look_around()
            if reason == YIELD:
                now = time.monotonic()
                if c["group"] != self._group:
                    self._group, self._since = c["group"], now
                    launch.progress = now
                if now - max(self._since, launch.progress) > launch.watchdog:
                    raise self._hung()
                c["wave"] = c["wave"] + 1
                return False
            if reason == FAULT:
                self._faulted()
            else:
                self._interpret(reason)
        return True

    def waits(self) -> bool:
        """Has the workgroup looped for so long that it may be waiting for one that has not begun?"""
        return time.monotonic() - self._since > _PATIENCE

    def give_up_rest(self) -> tuple[int, int]:
        """The workgroups of the portion behind the one that runs: no longer this runner's."""
        c = self.context
        rest = (c["group"] + 1, c["end"])
        c["end"] = c["group"] + 1
        return rest

    def _look_around(self) -> None:
        """Now and then: has somebody stopped the engine, or invalidated its TLB?"""
        self.launch.check()
        observer = getattr(self.launch.memory, "observer", None)
        if observer is not None:
            observer(self._stopped)
        generation = getattr(self.launch.memory, "generation", None)
        if generation != self._generation:
            self._generation = generation
            self.context.forget()

    # ---- what compiled code leaves to Python

    def _wave(self) -> np.ndarray:
        w = self.context["wave"]
        return self.states[w * self.state_dwords:(w + 1) * self.state_dwords]

    def _where(self) -> tuple[int, Instruction]:
        pc = self.context["pc"]
        return pc, self.launch.code.instruction(pc)

    def _noted(self, error: BaseException) -> BaseException:
        pc, instruction = self._where()
        error.add_note(f"at pc {self.launch.dispatch.code_address + pc:#x}: {instruction}")
        return self._left_standing(error)

    def _stopped(self) -> Stopped:
        wave = self._wave()
        return Stopped(self.launch.dispatch.code_address + self.context["pc"],
                       self._state(wave, int(wave[Layout.MODE])))

    def _left_standing(self, error: BaseException) -> BaseException:
        error.stopped = self._stopped()         # type: ignore[attr-defined]
        return error

    def _faulted(self) -> None:
        """Memory refused an access: an error, or a trap for the wave."""
        error = self.fault or IsaError("a memory access failed without saying why")
        pc, instruction = self._where()
        wave, machine = self._wave(), self._interpreter()
        mode = int(wave[Layout.MODE])
        cause = exception_of(error, mode)
        if not cause:
            raise self._noted(error)
        state = self._state(wave, mode)
        d = self.launch.dispatch
        self._go_on(wave, state, enter(state, d.code_address, d.tba, pc + instruction.size, cause=cause), machine)

    def _hung(self) -> BaseException:
        pc, instruction = self._where()
        return HungWave(f"a wave has run for {self.launch.watchdog:g} s and is still at pc "
                        f"{self.launch.dispatch.code_address + pc:#x}: {instruction}; "
                        f"workgroup {self.context['group']}, wave {self.context['wave']}. "
                        "Raise the watchdog if that is right")

    def _interpret(self, reason: int) -> None:
        """One instruction by the interpreter, on the wave's state; or code is needed that looks at every result."""
        launch, wave = self.launch, self._wave()
        machine = self._interpreter()
        mode = int(wave[Layout.MODE])
        if reason == REPEAT:
            point = (self.context["pc"], mode | CAREFUL)
            wave[Layout.RESUME] = launch.with_point(point).points[point]
            return
        state = self._state(wave, mode)
        state.v = machine.vocabulary(state)
        pc = self.context["pc"]
        with np.errstate(all="ignore"):
            try:
                instruction = launch.code.instruction(pc)
                if reason == INTERPRET:
                    machine._step(instruction, pc)(state)
                    self._save(wave, state)
                    return
                assert reason == TERMINATOR
                exits = machine._terminator(instruction, pc)(state)
            except Exception as error:
                cause = exception_of(error, mode)
                if not cause:
                    raise (self._left_standing(error) if isinstance(error, IsaError)
                           else self._noted(error)) from None
                d = launch.dispatch
                at = pc if cause == ILLEGAL_INST else pc + launch.code.instruction(pc).size
                exits = enter(state, d.code_address, d.tba, at, cause=cause)
            self._go_on(wave, state, exits, machine)

    def _go_on(self, wave: np.ndarray, state: State, exits: Exits, machine: Machine) -> None:
        """The wave's next resume point. A trap handler is interpreted to its end first."""
        launch, started = self.launch, time.monotonic()
        while exits:
            target, which = exits[0]
            state.mode = which[1] if isinstance(which, tuple) else state.mode
            if not state.mode & PRIV:
                break
            if which == "barrier":
                raise IsaError("s_barrier in a trap handler: only the interpreter does that")
            state.pc = target
            if time.monotonic() - started > launch.watchdog:
                raise HungWave(f"a trap handler has run for {launch.watchdog:g} s and is still at pc "
                               f"{launch.dispatch.code_address + target:#x}")
            before = machine.counts.instructions
            exits = machine._run_block(state)
            self.context["instructions"] = self.context["instructions"] + machine.counts.instructions - before
        self._save(wave, state)
        if not exits:
            wave[Layout.STATUS] = 2
            self.context["alive"] = self.context["alive"] - 1
            return
        target, mode = exits[0][0], state.mode
        wave[Layout.MODE] = mode
        wave[Layout.RESUME] = launch.with_point((target, mode)).points[target, mode]

    def _interpreter(self) -> Machine:
        if self._machine is None:
            self._machine = Machine(self.launch.dispatch, self.memory)
            self._machine.lds = self._machine.space.lds = self.lds
        return self._machine

    def _state(self, wave: np.ndarray, mode: int) -> State:
        launch, lanes = self.launch, self.launch.lanes
        vgpr = wave[Layout.VGPRS:].reshape(launch.vgprs, lanes, 1).copy()
        sgpr = wave[:128].reshape(128, 1).copy()
        d, w = launch.dispatch, self.context["wave"]
        scratch = d.scratch_address + (self.context["slot"] + w) * d.scratch_wave_bytes
        per_wave = {"workgroup": np.zeros(1, np.int64), "wave": np.full(1, w, np.uint32),
                    "id": np.full(1, w, np.uint32), "lds": np.zeros(1, np.int64),
                    "scratch": np.full(1, scratch, np.uint64),
                    "scc": wave[Layout.SCC:Layout.SCC + 1] != 0,
                    "shared_base": np.full(1, d.shared_base, np.uint64),
                    "private_base": np.full(1, d.private_base, np.uint64),
                    "status": wave[Layout.HW_STATUS:Layout.HW_STATUS + 1].copy(),
                    "trapsts": wave[Layout.TRAPSTS:Layout.TRAPSTS + 1].copy()}
        return State(lanes, vgpr, sgpr, per_wave, self.context["pc"], mode)

    def _save(self, wave: np.ndarray, state: State) -> None:
        wave[:128] = state.sgpr[:, 0]
        wave[Layout.SCC] = int(state.scc[0])
        wave[Layout.HW_STATUS], wave[Layout.TRAPSTS] = state.per_wave["status"][0], state.per_wave["trapsts"][0]
        wave[Layout.VGPRS:] = state.vgpr.reshape(-1)


class _Box:
    """Workgroups of one size: a box of the grid, with what all of them start with."""

    def __init__(self, dispatch: Dispatch, start: tuple[int, ...], size: tuple[int, ...],
                 block: tuple[int, ...]) -> None:
        self.dispatch, self.start, self.size, self.block = dispatch, start, size, block
        lanes = dispatch.wave_size
        items = block[0] * block[1] * block[2]
        self.waves = -(-items // lanes)
        self.groups = size[0] * size[1] * size[2]
        item = np.arange(self.waves * lanes)
        x, rest = item % block[0], item // block[0]
        y, z = rest % block[1], rest // block[1]
        axes = Rsrc2(dispatch.rsrc2).workitem_id
        packed = x | (y << 10 if axes >= 1 else 0) | (z << 20 if axes >= 2 else 0)
        active = item < items
        self.lane_ids = np.ascontiguousarray(np.where(active, packed, 0).astype(np.uint32))
        rows = np.packbits(active.reshape(self.waves, lanes), axis=1, bitorder="little")
        self.masks = np.zeros(self.waves, np.uint64)
        self.masks.view(np.uint8).reshape(self.waves, 8)[:, :lanes // 8] = rows

    def template(self, launch: _Launch) -> np.ndarray:
        """The head of a wave's state: SGPRs, SCC, resume point, MODE."""
        head = np.full(Layout.VGPRS, POISON, np.uint32)
        head[128:] = 0
        rsrc2 = Rsrc2(self.dispatch.rsrc2)
        user = [int(x) & 0xffffffff for x in self.dispatch.user_sgprs][:rsrc2.user_sgprs]
        head[:len(user)] = user
        head[EXEC:EXEC + 2] = 0
        head[Layout.RESUME] = launch.prepare().points[0, launch.mode]
        head[Layout.MODE] = launch.mode
        return head


def _aligned(dwords: int) -> np.ndarray:
    raw = np.empty(dwords + 16, np.uint32)
    skip = -int(raw.ctypes.data) % 64 // 4
    return raw[skip:skip + dwords]


def _boxes(d: Dispatch) -> list[_Box]:
    """The grid cut where its last row, column and plane have partial workgroups."""
    cuts = []
    for axis in range(3):
        n, part = d.grid[axis], d.partial[axis]
        first = d.start[axis]
        if part and part != d.block[axis]:
            cuts.append([(first, n - 1, d.block[axis]), (first + n - 1, 1, part)])
        else:
            cuts.append([(first, n, d.block[axis])])
    return [_Box(d, (x[0], y[0], z[0]), (x[1], y[1], z[1]), (x[2], y[2], z[2]))
            for z in cuts[2] for y in cuts[1] for x in cuts[0] if x[1] * y[1] * z[1]]


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="isa")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)


def execute(dispatch: Dispatch, memory: Memory, *, threads: int | None = None, watchdog: float = _WATCHDOG,
            check_hazards: bool = True) -> Counts:
    """Run a dispatch on compiled code.

    :param threads: how many run workgroups at a time; default: all cores.
    :param watchdog: seconds after which a wave that does not end is reported.
    """
    if not all(dispatch.grid):
        return Counts()
    return _run(_Launch(dispatch, memory, watchdog, check_hazards), threads)


def execute_auto(dispatch: Dispatch, memory: Memory, *, threads: int | None = None, watchdog: float = _WATCHDOG,
                 check_hazards: bool = True) -> Counts:
    """Run a dispatch by whatever ends first: the interpreter, where a launch is small and its code not compiled."""
    if not all(dispatch.grid):
        return Counts()
    launch = _Launch(dispatch, memory, watchdog, check_hazards)
    if launch.compiled is not None or launch.kernel.worth(launch.waves):
        return _run(launch, threads)
    started = time.monotonic()
    counts = interpreter.execute(dispatch, memory, **({} if check_hazards else {"check_hazards": False}))
    launch.kernel.interpreted_for(time.monotonic() - started)
    return counts


def _run(launch: _Launch, threads: int | None) -> Counts:
    counts, dispatch, began_with = Counts(), launch.dispatch, launch.kernel
    launch.prepare()
    started = time.monotonic()
    limit = threads or os.cpu_count() or 1
    if threads is None and not began_with.loops and launch.waves * len(began_with.flow.instructions) < _ALONE:
        limit = 1
    for box in _boxes(dispatch):
        most = limit
        if dispatch.scratch_slots:
            if box.waves > dispatch.scratch_slots:
                raise IsaError(f"a workgroup has {box.waves} waves but there is scratch for {dispatch.scratch_slots}; "
                               f"allocate scratch for a whole workgroup")
            most = min(most, dispatch.scratch_slots // box.waves)
        counts.instructions += _run_box(launch, box, min(most, box.groups))
        counts.workgroups += box.groups
        counts.waves += box.groups * box.waves
    launch.kernel.ran_for(time.monotonic() - started)
    return counts


class _Crew:
    """The workgroups of a box, and those who run them: a runner a thread, more where workgroups wait for each other.

    A workgroup that loops for long may wait for one behind it (a barrier of the grid, a flag of its neighbour's). On a
    card all that fit are resident and get their turns; so here, by the card's own limit.
    """

    def __init__(self, launch: _Launch, box: _Box, threads: int) -> None:
        self.launch, self.box = launch, box
        share = max(1, box.groups // (threads * _SHARE)) if threads > 1 else box.groups
        self.lock = threading.Lock()
        self.portions = deque((at, min(at + share, box.groups)) for at in range(0, box.groups, share))
        self.runners: list[_Runner] = []
        self.resident = min(box.groups, resident_workgroups(launch.dispatch))
        if launch.dispatch.scratch_slots:
            self.resident = min(self.resident, launch.dispatch.scratch_slots // box.waves)

    def hire(self) -> _Runner | None:
        """One more runner, with workgroups to run; None where no workgroup is left, or no room."""
        with self.lock:
            if not self.portions or len(self.runners) >= self.resident:
                return None
            runner = _Runner(self.launch, self.box, len(self.runners) * self.box.waves)
            runner.begin(self.portions.popleft())
            self.runners.append(runner)
            return runner

    def next_portion(self, runner: _Runner) -> bool:
        with self.lock:
            if not self.portions:
                return False
            runner.begin(self.portions.popleft())
            return True

    def split(self, runner: _Runner) -> None:
        """What is left of a waiting runner's portion is anyone's, one workgroup at a time, in order."""
        with self.lock:
            begin, end = runner.give_up_rest()
            self.portions.extendleft((at, at + 1) for at in reversed(range(begin, end)))

    def work(self) -> None:
        """One thread's part."""
        mine = deque([runner] if (runner := self.hire()) else [])
        while mine and self.launch.error is None:
            runner = mine.popleft()
            crowded = bool(mine)
            if runner.turn(_SHORT_TURN if crowded or runner.waits() else QUANTUM):
                if self.next_portion(runner):
                    mine.appendleft(runner)
                continue
            mine.append(runner)
            if crowded or runner.waits():
                self.split(runner)
                if (another := self.hire()) is not None:
                    mine.appendleft(another)

    def try_to_work(self) -> None:
        try:
            self.work()
        except BaseException as error:
            self.launch.error = self.launch.error or error


def _run_box(launch: _Launch, box: _Box, threads: int) -> int:
    """Instructions that ran."""
    crew = _Crew(launch, box, threads)
    if threads == 1:
        crew.work()
    else:
        futures = [_pool().submit(crew.try_to_work) for _ in range(threads - 1)]
        crew.try_to_work()
        for future in futures:
            future.result()
        if launch.error is not None:
            raise launch.error
    return sum(runner.context["instructions"] for runner in crew.runners)
