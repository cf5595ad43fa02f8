"""Where others look over the compiler's shoulder: ``DEBUG`` (:mod:`compiler.debug`) and ``VIZ`` (:mod:`compiler.viz`).

The compiler tells everybody in ``watchers`` what it does. Without any, which is the rule, each place that tells looks
at an empty list, and none of them is in a loop over nodes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compiler.choices import Choice
    from compiler.engine import Program
    from compiler.places import Place
    from compiler.schedule import Schedule
    from compiler.uop import UOp

__all__ = ["Firing", "Ran", "Watcher", "begin", "building", "built", "failed", "launch", "rewrote", "scheduled",
           "scheduling", "searching", "step", "watchers"]

Firing = tuple[Any, Any, Callable[..., Any]]
"""A node, what a rule made of it, and the rule's function."""


@dataclass
class Ran:
    """Something that ran: one kernel (``program``), a copy, or a replay of several (``parts``)."""

    kind: str                       # "kernel", "copy", "replay"
    device: str
    begin: int                      # ns of time.perf_counter_ns, on the host
    end: int
    seconds: float | None           # by the device's clock, if somebody asked for it
    program: Program | None = None
    sizes: Sequence[int] = ()       # bytes of the buffers, in order
    values: Mapping[str, int] | None = None
    places: Sequence[Place] = ()
    parts: Sequence[Ran] = ()


class Watcher:
    """What can be seen. Every method may be left out."""

    clocked = False         # wants every launch timed by the device: waits for each

    def rewrote(self, root: UOp, result: UOp, fired: Sequence[Firing]) -> None:
        """``graph_rewrite`` is through: which rules fired, in order. Not called if none did."""

    def step(self, name: str, before: Sequence[UOp], after: Sequence[UOp]) -> None:
        """A rewrite of whole graphs that is no rule's."""

    def scheduling(self, roots: Sequence[UOp], device: str) -> None:
        """A graph (normalised) is about to be scheduled."""

    def scheduled(self, roots: Sequence[UOp], device: str, plan: Schedule) -> None:
        """... and that is how."""

    def searching(self, sink: UOp, device: str, on: bool) -> None:
        """``BEAM`` begins or ends: what is built meanwhile only is a trial."""

    def building(self, sink: UOp, device: str) -> None:
        """A kernel is about to be built."""

    def built(self, sink: UOp, device: str, program: Program, choices: Sequence[Choice] | None) -> None:
        """... and is; without ``choices``, by heuristics."""

    def failed(self, error: BaseException) -> None:
        """Scheduling or building ended with an error."""

    def ran(self, ran: Ran) -> None:
        """Something ran, or was launched."""


watchers: list[Watcher] = []

_begun = False


def begin() -> None:
    """Heed ``DEBUG`` and ``VIZ`` in the environment; once a process, when the first schedule is made."""
    global _begun
    if _begun:
        return
    _begun = True
    if os.environ.get("DEBUG", "0") not in ("", "0"):
        from compiler.debug import from_environment as show
        show()
    if os.environ.get("VIZ", "0") not in ("", "0"):
        from compiler.viz import from_environment as record
        record()


def rewrote(root: UOp, result: UOp, fired: Sequence[Firing]) -> None:
    for w in watchers:
        w.rewrote(root, result, fired)


def step(name: str, before: UOp | Sequence[UOp], after: UOp | Sequence[UOp]) -> None:
    if watchers and after is not before:
        graphs = [list(g) if isinstance(g, list | tuple) else [g] for g in (before, after)]
        for w in watchers if graphs[0] != graphs[1] else ():
            w.step(name, *graphs)       # type: ignore[arg-type]


def scheduling(roots: Sequence[UOp], device: str) -> None:
    for w in watchers:
        w.scheduling(roots, device)


def scheduled(roots: Sequence[UOp], device: str, plan: Schedule) -> None:
    for w in watchers:
        w.scheduled(roots, device, plan)


def searching(sink: UOp, device: str, on: bool) -> None:
    for w in watchers:
        w.searching(sink, device, on)


def building(sink: UOp, device: str) -> None:
    for w in watchers:
        w.building(sink, device)


def built(sink: UOp, device: str, program: Program, choices: Sequence[Choice] | None) -> None:
    for w in watchers:
        w.built(sink, device, program, choices)


def failed(error: BaseException) -> None:
    for w in watchers:
        w.failed(error)


def launch(work: Callable[[], object], ran: Ran) -> None:
    """Do ``work``, and tell how long it took."""
    ran.begin = time.perf_counter_ns()
    if any(w.clocked for w in watchers) and ran.kind != "copy":
        from compiler.runtime import runtime
        ran.seconds = runtime(ran.device).timed(work)
        ran.end = time.perf_counter_ns()
    else:
        work()
        ran.end = time.perf_counter_ns()
        if ran.kind == "copy" or ran.device == "CPU":
            ran.seconds = (ran.end - ran.begin) / 1e9
    for w in watchers:
        w.ran(ran)


def callers(skip: int = 2) -> list[str]:
    """The compiler's functions on the stack, innermost first: which step a rewrite belongs to."""
    frame = sys._getframe(skip)
    names = []
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("compiler."):
            names.append(f"{module.removeprefix('compiler.')}.{frame.f_code.co_name}")
        elif names:
            break
        frame = frame.f_back        # type: ignore[assignment]
    return names
