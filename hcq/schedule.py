"""Which engine does what, and after what: from a graph's commands to steps on lanes.

A *lane* is one hardware queue that a graph uses; a *step* is what one lane does at a time. Kernels go to their
device's first compute queue, where a barrier keeps a kernel apart from those before it that it depends on, and only
then; long branches go to further queues where that is worth it (``hcq.assignment``). Copies and fills go to the copy
engine that did what they come after, or to the one with the fewest bytes. A copy between devices is done by the
source's engines, between two steps of the receiver's compute queue that clean its caches (see ``hcq.peer``).

A lane's steps count up its signal. A step waits for a signal only where its lane has not heard, by some other way,
that the step it depends on is complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hcq.access import Tracker
from hcq.assignment import MOST, assign
from hcq.backend import QueueKind
from hcq.errors import GraphError, QueueError

if TYPE_CHECKING:
    from hcq.device import Device
    from hcq.graph import Node
    from hcq.signal import Timeline

__all__ = ["Choice", "Lane", "Schedule", "Step"]


class Choice(NamedTuple):
    """What ``dev.graph()`` was asked for: how many compute queues a device may use, and of which kind."""

    most: int = MOST
    kind: QueueKind = "compute"


class Lane:
    """One hardware queue."""

    def __init__(self, device: Device, timeline: Timeline) -> None:
        self.device, self.timeline = device, timeline
        self.kind = timeline.queue.kind
        self.name = timeline.queue.name
        self.encoder: Any = timeline.encoder
        self.steps: list[Step] = []
        self.load = 0                                   # bytes that were given to a copy engine
        self.heard: dict[Lane, int] = {}                # as far as each lane is known to be complete
        self.barrier_at = 0                             # compute: kernels up to this position are complete

    def __repr__(self) -> str:
        return f"Lane({self.name}, {len(self.steps)} steps)"


class Step:
    """What a lane does for a node.

    :ivar what: "kernel", "copy", "fill", or "departure" and "arrival" of a peer's copy at the receiver.
    :ivar position: in its lane, from 1.
    :ivar after: the steps that it depends on.
    :ivar waits: those of them, on other lanes or engines, whose signals it waits for.
    :ivar barrier: a memory barrier stands before it.
    :ivar signals: its end stores its position into the lane's signal.
    """

    __slots__ = ("after", "barrier", "heard", "lane", "node", "position", "signals", "waits", "what")

    def __init__(self, lane: Lane, node: Node, what: str) -> None:
        self.lane, self.node, self.what = lane, node, what
        self.after: list[Step] = []
        self.waits: list[Step] = []
        self.barrier = self.signals = False
        lane.steps.append(self)
        self.position = len(lane.steps)
        self.heard: dict[Lane, int] = {}

    def __str__(self) -> str:
        parts = [f"{self.lane.name} {self.position}: {self.what}"]
        if self.what in ("kernel", "copy", "fill"):
            parts[0] = f"{self.lane.name} {self.position}: {self.node.name}"
        if self.waits:
            parts.append("waits for " + ", ".join(f"{step.lane.name} {step.position}" for step in self.waits))
        if self.barrier:
            parts.append("barrier")
        if self.signals:
            parts.append("signals")
        return "; ".join(parts)


class Schedule:
    """The steps of some nodes, in an order in which they may be submitted.

    :ivar steps: all of them. :ivar lanes: those that are used.
    """

    def __init__(self, nodes: Sequence[Node], choice: Choice) -> None:
        self.steps: list[Step] = []
        self.lanes: list[Lane] = []
        self._by_timeline: dict[int, Lane] = {}
        tracker: Tracker[Step] = Tracker()
        queue_of = assign(nodes, choice.most).queue_of
        for number, node in enumerate(nodes):
            if node.kind == "copy" and len(node.accesses) == 2 and self._across(node):
                self._peer_copy(node, tracker)
            else:
                lane = self._kernel_lane(node.device, choice.kind, queue_of[number]) if node.kind == "kernel" else None
                self._add(node, node.kind, lane, tracker)
        self.lanes = [lane for lane in self.lanes if lane.steps]       # others were looked at only
        for step in self.steps:
            for other in step.waits:
                other.signals = True

    @staticmethod
    def _across(node: Node) -> bool:
        source, destination = node.accesses
        return source.storage.pool.device is not destination.storage.pool.device

    def _lane(self, device: Device, kind: QueueKind, index: int) -> Lane:
        return self._lane_of(device, device._timelines[kind][index])

    def _lane_of(self, device: Device, timeline: Timeline) -> Lane:
        if id(timeline) not in self._by_timeline:
            self._by_timeline[id(timeline)] = Lane(device, timeline)
            self.lanes.append(self._by_timeline[id(timeline)])
        return self._by_timeline[id(timeline)]

    def _kernel_lane(self, device: Device, kind: QueueKind, index: int) -> Lane:
        """The device's own queue for launches, then queues that are made for graphs, so that those which people number
        and give a priority stay theirs. Where the hardware has no more: the last one, or one of theirs."""
        own, branches = device._timelines[kind], device._branches[kind]
        first = own[:1] if kind == "compute" else []
        while index >= len(first) + len(branches):
            try:
                device._add_queue(kind, "normal", branch=True)
            except QueueError:
                found = [*first, *branches, *(each for each in own if each.priority == "normal" and each not in first)]
                if not found:
                    raise
                return self._lane_of(device, found[min(index, len(found) - 1)])
        return self._lane_of(device, [*first, *branches][index])

    def _engine(self, device: Device, after: Sequence[Step], nbytes: int) -> Lane:
        """The copy engine for a step: the one that did what it comes after, else the one with the least to do."""
        engines = [step.lane for step in after if step.lane.device is device and step.lane.kind == "copy"]
        if engines:
            lane = engines[-1]
        else:
            count = len(device._timelines["copy"])
            lane = min((self._lane(device, "copy", index) for index in range(count)), key=lambda lane: lane.load)
        lane.load += nbytes
        return lane

    def _add(self, node: Node, what: str, lane: Lane | None, tracker: Tracker[Step]) -> None:
        after = tracker.find(node.accesses)
        if lane is None:
            lane = self._engine(node.device, after, sum(access.stop - access.start for access in node.accesses))
        tracker.record(self._place(node, what, lane, after), node.accesses)

    def _peer_copy(self, node: Node, tracker: Tracker[Step]) -> None:
        from hcq.peer import _reach, _signal_address
        source, destination = node.accesses
        here, there = source.storage.pool.device, destination.storage.pool.device
        for one, other in ((here, there), (there, here)):
            if isinstance(why := _signal_address(one, other._compute.last), str):
                raise GraphError(f"a copy from {here.name} to {there.name} in a graph: {why}; copy outside of it")
        to = node.operands[0]
        if isinstance(ranges := _reach(here, getattr(to, "default", to)), str):
            raise GraphError(f"a copy from {here.name} to {there.name} in a graph: {ranges}; copy outside of it")
        after = tracker.find(node.accesses)
        receiver = self._lane(there, "compute", 0)
        departure = self._place(node, "departure", receiver,
                                [step for step in after if step.lane.device is there], barrier=True)
        copy = self._place(node, "copy", self._engine(here, after, source.stop - source.start), [*after, departure])
        tracker.record(self._place(node, "arrival", receiver, [copy], barrier=True), node.accesses)

    def _place(self, node: Node, what: str, lane: Lane, after: Sequence[Step], *, barrier: bool = False) -> Step:
        step = Step(lane, node, what)
        step.after = list(after)
        for other in step.after:
            if other.lane is lane and lane.kind != "copy":
                if other.position > lane.barrier_at:
                    step.barrier = True
            elif lane.heard.get(other.lane, 0) < other.position:
                step.waits.append(other)
                for heard, position in (*other.heard.items(), (other.lane, other.position)):
                    lane.heard[heard] = max(lane.heard.get(heard, 0), position)
        # of several waits for one lane the last is enough
        last = {other.lane: other for other in sorted(step.waits, key=lambda other: other.position)}
        step.waits = list(last.values())
        if lane.kind != "copy":
            # the caches do not know what others wrote; and a graph's first kernel not what was there before
            step.barrier |= barrier or bool(step.waits) or step.position == 1
            if step.barrier:
                lane.barrier_at = step.position - 1
        step.heard = dict(lane.heard)
        self.steps.append(step)
        return step

    def __str__(self) -> str:
        return "\n".join(map(str, self.steps))
