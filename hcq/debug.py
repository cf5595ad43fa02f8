"""The debug mode: work on the same memory that nothing puts in order, and where memory was freed.

    dev.debug = True            # or HCQ_DEBUG=1 in the environment

Every submission then says what it reads and writes (``hcq.access``) and carries a vector clock: the submissions of each
queue that are complete before it begins, by what it waits for, by the order of its own queue, and by what the host has
waited for. Two submissions that touch the same bytes, one of them writing, and of which neither comes before the other,
are a race, whether or not this run happened to get away with it: :class:`hcq.RaceError`. So are two kernels of one
queue without a ``memory_barrier`` between them. A submission whose waits are for work that is submitted later is
looked at then.

What it cannot see: memory that kernels reach by pointers in memory, or beyond the buffer that they were given; views of
host buffers in the hands of the host.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from hcq.access import Access
from hcq.errors import RaceError
from hcq.signal import Signal, Timeline

if TYPE_CHECKING:
    from hcq.device import Device

__all__ = ["Debug", "Touch", "where"]

KEPT = 1 << 16                  # submissions that are remembered

Clock = dict[int, int]
"""By id of the timeline: submissions up to this one are complete."""


class Touch(NamedTuple):
    """What a part of a submission reads or writes.

    :ivar barriers: of the queue, that were before.
    :ivar part: parts of one submission may overlap; one part is in order by itself: a kernel, a graph, or what the
        queue's own processor does packet by packet.
    """

    access: Access
    barriers: int = 0
    part: int = 0


@dataclass(eq=False)
class Record:
    """One submission."""

    timeline: Timeline | None                       # None: the host
    number: int
    what: str
    waits: Sequence[tuple[Signal, int]]
    accesses: Sequence[Touch]
    host: Clock
    before: Record | None                           # of the same queue
    behind: Sequence[Record] = ()                   # others that it waits for
    clock: Clock | None = None                      # when all that it waits for is known

    def __str__(self) -> str:
        return f"{self.what} (submission {self.number} of {self.timeline.queue.name})" if self.timeline else self.what


@dataclass
class Debug:
    """The books of one device."""

    device: Device
    host: Clock = field(default_factory=dict)
    last: dict[int, Record] = field(default_factory=dict)                       # by timeline
    records: dict[tuple[int, int], Record] = field(default_factory=dict)        # by timeline and number
    stored: weakref.WeakKeyDictionary[Signal, list[tuple[int, Record]]] = field(
        default_factory=weakref.WeakKeyDictionary)
    barriers: dict[int, int] = field(default_factory=dict)
    seen: dict[int, list[tuple[Touch, Record]]] = field(default_factory=dict)           # by address of the memory
    pending: list[Record] = field(default_factory=list)
    counted: weakref.WeakKeyDictionary[Signal, list[Record]] = field(
        default_factory=weakref.WeakKeyDictionary)          # who counts a signal down (AQL's completion signals)

    def submitted(self, timeline: Timeline, what: object, accesses: Iterable[Touch], *,
                  waits: Sequence[tuple[Signal, int]] = (), gives: Sequence[tuple[Signal, int]] = (),
                  counts: Sequence[Signal] = (), zeros: Sequence[Signal] = (), in_order: bool = False) -> None:
        """The timeline's last submission.

        :param counts: signals that it counts down. :param zeros: that it waits for until they are at 0: it is behind
            whoever was submitted to count them down.
        :raises RaceError: it, or one that waited for it, is in a race.
        """
        behind = [each for key, each in self.last.items() if key != id(timeline)] if in_order else []
        behind += [each for signal in zeros for each in self.counted.get(signal, ())]
        # values that were there before anybody was asked to store them say nothing of the order
        waits = [(signal, value) for signal, value in waits if signal.value < value or self._source(signal, value)]
        record = Record(timeline, timeline.submitted, str(what), waits, list(accesses), dict(self.host),
                        self.last.get(id(timeline)), behind)
        self.last[id(timeline)] = self.records[id(timeline), record.number] = record
        while len(self.records) > KEPT:
            del self.records[next(iter(self.records))]
        for signal, value in gives:
            self.stored.setdefault(signal, []).append((value, record))
        for signal in counts:
            self.counted.setdefault(signal, []).append(record)
        self.pending.append(record)
        self._advance()

    def host_stored(self, signal: Signal, value: int) -> None:
        """The host gave the signal a value: what waits for it is behind all that the host has waited for."""
        self.stored.setdefault(signal, []).append((value, _host_store(dict(self.host))))
        self._advance()

    def _advance(self) -> None:
        races: list[str] = []
        while ready := [each for each in self.pending if self._resolve(each)]:
            for each in ready:
                self.pending.remove(each)
                races += self._look(each)
        if races:
            raise RaceError("; ".join(dict.fromkeys(races)))

    def waited(self, signal: Signal, value: int) -> None:
        """The host has seen the signal at the value."""
        record = self._source(signal, value)
        if record is not None and record.clock is not None:
            _join(self.host, record.clock)
            _join(self.host, {id(record.timeline): record.number})

    def waited_for_all(self) -> None:
        for record in self.last.values():
            if record.clock is not None:
                _join(self.host, record.clock)
            _join(self.host, {id(record.timeline): record.number})

    def forget(self, address: int) -> None:
        """The memory there has a new life."""
        self.seen.pop(address, None)

    def _source(self, signal: Signal, value: int) -> Record | None:
        for timeline in signal.device._all:
            if timeline.signal is signal:
                last = self.last.get(id(timeline))
                return self.records.get((id(timeline), value), last if last and last.number <= value else None)
        found = [entry for entry in self.stored.get(signal, ()) if entry[0] >= value]
        return min(found, key=lambda entry: entry[0])[1] if found else None

    def _resolve(self, record: Record) -> bool:
        sources = [self._source(signal, value) for signal, value in record.waits if signal.device is self.device]
        if None in sources:
            return False                    # work, or a store of the host, that is to come
        clock = dict(record.host)
        for source in (*sources, *record.behind):
            assert source is not None
            if source.clock is None:
                return False
            _join(clock, source.clock)
            _join(clock, {id(source.timeline): source.number})
        if record.before is not None:
            if record.before.clock is None:
                return False
            _join(clock, record.before.clock)       # what it waited for; it may not be complete itself
        record.before, record.behind = None, ()
        record.clock = clock
        return True

    def _look(self, record: Record) -> list[str]:
        races = []
        for touch in record.accesses:
            access = touch.access
            memory = access.storage.memory
            if memory is None:
                continue
            seen = self.seen.setdefault(memory.address, [])
            for earlier, other in seen:
                if (access.write or earlier.access.write) and earlier.access.overlaps(access) \
                        and not _ordered(record, touch, other, earlier):
                    races.append(f"{record} and {other} touch the same bytes ({access}; {earlier.access}), and nothing "
                                 "puts them in order: wait for a signal, or put a memory_barrier between them")
            # what the host has waited for is before everything to come
            seen[:] = [entry for entry in seen if self.host.get(id(entry[1].timeline), 0) < entry[1].number]
            seen.append((touch, record))
        return races


def _ordered(one: Record, touch: Touch, other: Record, earlier: Touch) -> bool:
    assert one.clock is not None and other.clock is not None
    assert one.timeline is not None
    if one is other and touch.part == earlier.part:
        return True
    if one.timeline is other.timeline and (one.timeline.queue.kind == "copy" or touch.barriers != earlier.barriers):
        return True
    return one.clock.get(id(other.timeline), 0) >= other.number or other.clock.get(id(one.timeline), 0) >= one.number


def _join(clock: Clock, other: Clock) -> None:
    for key, value in other.items():
        if clock.get(key, 0) < value:
            clock[key] = value


def _host_store(clock: Clock) -> Record:
    return Record(None, 0, "the host", (), (), {}, None, (), clock)


def where() -> str:
    """The line outside of this package that is being executed."""
    frame = sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).startswith("hcq."):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
