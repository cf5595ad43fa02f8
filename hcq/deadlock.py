"""Who waits for whom: when a wait expires, the queues that stand still are asked what they wait for.

A queue's first submission that is not complete may stand at a wait. What it waits for is stored by another queue's
submission (or a later one of its own), which is behind that queue's first one that is not complete; and so on. Where
that leads back, nothing will ever move: a wait cycle. Where it leads to a value that nothing stores, only the host can.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hcq.signal import Signal, Timeline

if TYPE_CHECKING:
    from hcq.device import Device

__all__ = ["explain"]

Stop = tuple[Timeline, int, Signal, int]
"""A queue, its submission, and the signal and value that it waits for."""


def explain(device: Device) -> str:
    """What the device's queues wait for: the wait cycle, or what nothing stores; "" when there is neither."""
    missing: list[str] = []
    for timeline in device._all:
        for stop in _stops(timeline):
            cycle = _follow([stop], missing)
            if cycle:
                return "Wait cycle: " + "; ".join(map(_text, cycle))
    return "; ".join(dict.fromkeys(missing))


def _stops(timeline: Timeline) -> Iterator[Stop]:
    """Waits of the first submission that is not complete, as far as they are not over."""
    first = timeline.signal.value + 1
    if first <= timeline.submitted:
        for number, reference, value in list(timeline.waits):
            signal = reference()
            if number == first and signal is not None and signal.value < value:
                yield timeline, first, signal, value


def _sources(signal: Signal, value: int, devices: list[Device]) -> Iterator[tuple[Timeline, int]]:
    """Submissions that are not complete and store the value."""
    for device in devices:
        for timeline in device._all:
            if timeline.signal is signal:
                yield timeline, value
            done = timeline.signal.value
            for number, reference, stored in list(timeline.gives):
                if number > done and stored >= value and reference() is signal:
                    yield timeline, number


def _follow(path: list[Stop], missing: list[str]) -> list[Stop]:
    """The cycle that the last stop leads to, if it does."""
    timeline, _, signal, value = path[-1]
    devices = list(dict.fromkeys([*(stop[0].device for stop in path), signal.device]))
    sources = list(_sources(signal, value, devices))
    if not sources:
        missing.append(f"{_text(path[-1])}, which nothing that was submitted stores")
    for source, number in sources:
        if source is timeline and number > path[-1][1]:
            return [path[-1]]               # its own later submission
        for at, stop in enumerate(path):
            if stop[0] is source and number >= stop[1]:
                return path[at:]
        for stop in _stops(source):
            if stop[1] <= number and (cycle := _follow([*path, stop], missing)):
                return cycle
    return []


def _text(stop: Stop) -> str:
    timeline, number, signal, value = stop
    owner = signal.device._owner(signal)
    what = f"{owner.queue.name} to complete submission {value}" if owner else f"{signal!r} to reach {value}"
    return f"{timeline.queue.name} stands at submission {number}, which waits for {what}"
