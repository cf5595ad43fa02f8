"""Runs schedules: compiles each kernel once, makes the memory, launches, and lets a capture listen."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from compiler import watch
from compiler.buffer import Buffer
from compiler.choices import Choice, optimized
from compiler.heuristics import choose
from compiler.linearize import Instruction, linearize
from compiler.match import graph_rewrite
from compiler.memory import share_memory
from compiler.optimize import merge_ranges
from compiler.places import Place, below, fill, point
from compiler.render.addresses import divide_addresses
from compiler.render.legalize import legalizer
from compiler.render.llvm import Source, Target, render
from compiler.render.objects import compile_ir, disk_cache
from compiler.runtime import Launch, runtime
from compiler.schedule import CopyItem, KernelItem, Schedule, normalize, schedule, variables
from compiler.search import beam_width, search
from compiler.uop import UOp

__all__ = ["Program", "Recording", "Step", "build_program", "explain_later", "prepare", "program_for", "ran",
           "realize", "recording", "run_step", "watched_step"]


@dataclass
class Program:
    """One kernel, from its graph to its machine code."""

    sink: UOp                       # as scheduled
    legal: UOp                      # after every rewrite
    instructions: list[Instruction]
    source: Source
    code: bytes
    launch: Launch | None = None
    fast: bool = False              # compiled fast rather than well


@dataclass
class Step:
    """One thing that a schedule did: a launch with its buffers, or a copy (``launch`` None; destination first)."""

    launch: Launch | None
    buffers: list[Buffer]
    writes: frozenset[int]      # positions in ``buffers``
    values: Mapping[str, int]   # of the kernel's variables
    program: Program | None = None
    places: Sequence[Place] = ()    # of the user's lines


@dataclass
class Recording:
    """What :func:`realize` did while this was ``recording``."""

    steps: list[Step] = field(default_factory=list)


recording: list[Recording] = []
"""The captures that are open; :func:`realize` appends to the last one."""

_programs: dict[tuple[UOp, str], Program] = {}
_launches: dict[tuple[str, str], Launch] = {}
_schedules: OrderedDict[tuple[tuple[UOp, ...], str], Schedule] = OrderedDict()
_SCHEDULES = 4096
_NONE: Mapping[str, int] = MappingProxyType({})
_KERNEL = re.compile(r"\bk_[0-9a-f]{24}\b")
_LITTLE = 1 << 14       # instructions of a run on a CPU, below which the compiler's time matters more


def build_program(sink: UOp, target: Target, choices: Sequence[Choice] | None = None) -> Program:
    """Optimise, legalise, linearise and compile a kernel; nothing is loaded.

    :param choices: optional rewrites; by default what :func:`compiler.heuristics.choose` says.
    """
    if choices is None:
        choices = choose(merge_ranges(sink), target.gpu)
    gpu = target.gpu
    best = optimized(sink, choices, gpu) or optimized(sink, [c for c in choices if c.kind != "shared"], gpu) \
        or optimized(sink, (), gpu)
    assert best is not None
    legal = graph_rewrite(best, legalizer(target.gpu))
    if target.gpu:
        whole, legal = legal, divide_addresses(legal)
        watch.step("divide addresses", whole, legal)
    instructions = linearize(legal)
    source = render(f"k_{legal.key.hex()[:24]}", instructions, target)
    fast = not target.gpu and source.work < _LITTLE
    return Program(sink, legal, instructions, source, compile_ir(source.text, target, fast=fast), fast=fast)


def program_for(sink: UOp, device: str, sizes: Sequence[int] = (), values: Mapping[str, int] = _NONE) -> Program:
    """The kernel, ready to launch; built once.

    :param sizes: bytes of its parameters, which a search (``BEAM``) needs, as it does the ``values`` of variables.
    """
    if (found := _programs.get((sink, device))) is None:
        on = runtime(device)
        width = beam_width()
        choices = _searched(sink, device, width, sizes, values) if width and sizes else None
        watch.building(sink, device)
        found = build_program(sink, on.target, choices)
        watch.built(sink, device, found, choices)
        launch = _launches.get((found.source.text, device))       # different graphs may come to the same code
        if launch is None:
            launch = _launches[found.source.text, device] = on.load(found.source, found.code)
        found.launch = launch
        _programs[sink, device] = found
    return found


def _searched(sink: UOp, device: str, width: int, sizes: Sequence[int], values: Mapping[str, int]) -> list[Choice]:
    on = runtime(device)
    handles: list[Any] = []
    watch.searching(sink, device, True)

    def measure(choices: Sequence[Choice]) -> float | None:
        if not handles:
            for n in sizes:
                handles.append(on.alloc(n))
                on.write(handles[-1], np.zeros(n, np.uint8))
        try:
            program = build_program(sink, on.target, choices)
        except RuntimeError:        # LLVM has its limits, too
            return None
        return on.measure(program.source, program.code, handles, values)
    try:
        return search(sink, on.target.gpu, width, measure, repr(on.target), disk_cache())
    finally:
        watch.searching(sink, device, False)
        for handle in handles:
            on.free(handle)


def run_step(launch: Launch | None, buffers: Sequence[Buffer], values: Mapping[str, int] = _NONE) -> None:
    if launch is not None:
        launch([b.handle for b in buffers], values)
        return
    dst, src = buffers
    if runtime(dst.device).take(dst.handle, src.handle, src.nbytes):
        return
    data = np.empty(src.nbytes, np.uint8)
    runtime(src.device).read(src.handle, data)
    runtime(dst.device).write(dst.handle, data)


def _plan(normal: Sequence[UOp], device: str) -> Schedule:
    key = (tuple(normal), device)
    plan = _schedules.get(key)
    if plan is None:
        watch.begin()
        fill(normal)
        watch.scheduling(normal, device)
        plan = _schedules[key] = share_memory(schedule(normal, device))
        watch.scheduled(normal, device, plan)
        if len(_schedules) > _SCHEDULES:
            _schedules.popitem(last=False)
    return plan


def prepare(roots: Sequence[UOp], device: str) -> Schedule:
    """Schedule ``roots`` and build every kernel; nothing runs. :func:`realize` finds it all done."""
    plan = _plan(normalize(roots)[0], device)
    for item in plan.items:
        if isinstance(item, KernelItem):
            program_for(item.sink, item.device)
    return plan


def realize(roots: Sequence[UOp], device: str) -> list[Buffer]:
    """Compute ``roots``; the memory of each, in order.

    :param device: for values that come from no buffer.
    """
    normal, inputs = normalize(roots)
    values = variables(roots)
    try:
        plan = _plan(normal, device)
    except Exception as error:
        _Lines(roots).explain(error, None, "to be scheduled")
        raise
    lines = _Lines(roots) if watch.watchers else None
    slots: list[Buffer | None] = [*inputs, *(Buffer(s.device, s.dtype, s.size) for s in plan.made)]  # type: ignore[list-item]
    last = {
        s: n for n, item in enumerate(plan.items) for s in (item.slots if isinstance(item, KernelItem) else (item.src,))
    }
    keep = set(plan.roots)
    for n, item in enumerate(plan.items):
        used = (item.dst, item.src) if isinstance(item, CopyItem) else item.slots
        try:
            _run(item, slots, values, lines)
        except Exception as error:
            _Lines(roots).explain(error, item, "a copy" if isinstance(item, CopyItem) else f"a kernel on {item.device}")
            raise
        for s in used:
            if last.get(s) == n and s not in keep:
                slots[s] = None
    for s in set(plan.overwritten):
        inputs[s].version += 1      # type: ignore[attr-defined]
    return [b for s in plan.roots if (b := slots[s]) is not None]


def _run(item: KernelItem | CopyItem, slots: Sequence[Buffer | None], values: Mapping[str, int],
         lines: _Lines | None) -> None:
    """One item of a schedule, on the memory in ``slots``."""
    used: tuple[int, ...]
    program: Program | None = None
    if isinstance(item, CopyItem):
        used, writes = (item.dst, item.src), frozenset((0,))
    else:
        used, writes = item.slots, frozenset(item.slots.index(w) for w in item.writes)
        program = program_for(item.sink, item.device, [b.nbytes for s in used if (b := slots[s]) is not None], values)
    buffers = [b for s in used if (b := slots[s]) is not None]
    launch = program.launch if program is not None else None
    if lines is not None:
        watched_step(Step(launch, buffers, writes, values, program, lines.of(item)))
    else:
        run_step(launch, buffers, values)
    if recording:
        places = () if isinstance(item, CopyItem) else item.places
        recording[-1].steps.append(Step(launch, buffers, writes, values, program, places))


def ran(step: Step) -> watch.Ran:
    """A step as those who watch are told of it; its times are filled in by :func:`compiler.watch.launch`."""
    kind, device = ("copy" if step.launch is None else "kernel"), step.buffers[0].device
    return watch.Ran(kind, device, 0, 0, None, step.program, [b.nbytes for b in step.buffers], step.values, step.places)


def watched_step(step: Step, buffers: Sequence[Buffer] | None = None) -> None:
    """:func:`run_step`, before the eyes of :mod:`compiler.watch`."""
    watch.launch(lambda: run_step(step.launch, buffers or step.buffers, step.values), ran(step))


class _Lines:
    """The user's lines that the items of a schedule come from; nothing is looked up before somebody asks.

    The schedule may be an older one, of an equal graph: what its nodes were called there is what their counterparts
    are called here.
    """

    __slots__ = ("_now", "roots")

    def __init__(self, roots: Sequence[UOp]) -> None:
        self.roots = roots
        self._now: dict[Place, Place] | None = None

    def of(self, item: KernelItem | CopyItem | None) -> list[Place]:
        if not isinstance(item, KernelItem) or not item.places:
            return list(below(self.roots))
        if self._now is None:
            done: dict[UOp, UOp] = {}
            normalize(self.roots, done)
            self._now = {}
            for node, normal in done.items():
                if node is not normal and node.place is not None and normal.place is not None:
                    self._now.setdefault(normal.place, node.place)
        return [self._now.get(p, p) for p in item.places]

    def explain(self, error: Exception, item: KernelItem | CopyItem | None, what: str) -> None:
        """Add them to an exception."""
        watch.failed(error)
        try:
            places = self.of(item)
        except Exception:       # what failed first is what counts
            places = list(below(self.roots))
        point(error, places, what)


def explain_later(error: Exception) -> None:
    """The lines of a kernel whose name is in the message of an error that came only when somebody waited for it."""
    for name in dict.fromkeys(_KERNEL.findall(str(error))):
        sinks = {p.sink for p in _programs.values() if p.source.name == name}
        point(error, [p for plan in _schedules.values() for item in plan.items
                      if isinstance(item, KernelItem) and item.sink in sinks for p in item.places], f"kernel {name}")
