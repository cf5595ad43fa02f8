"""Which compute queue each kernel of a graph goes to.

Kernels of one queue that do not depend on each other run together already: the queue starts them without a barrier
between them. A barrier, though, waits for all that the queue has started. Where a graph has branches that were recorded
one behind the other, each branch's barriers would hold the others up; on queues of their own they do not.

What is counted is *rounds*: a kernel takes one, whatever it does (nobody knows how long it will take), a wait for
another queue ``WAIT`` of one, and each further queue ``QUEUE`` rounds for its doorbell and the joining at the end.
Kernels are put, in the recorded order, where they can begin first. The number of queues is the one whose graph ends
first, and one where nothing is gained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hcq.access import Tracker

if TYPE_CHECKING:
    from hcq.device import Device
    from hcq.graph import Node

__all__ = ["MOST", "Assignment", "assign"]

MOST = 4                # queues of a device, unless somebody asks for more: one a pipe of the micro engine
WAIT, QUEUE = 0.5, 1.0


class _Queue:
    """As far as it has got: the kernels that run together at its end, and when they began."""

    def __init__(self) -> None:
        self.begin = self.end = 0.0
        self.together: set[int] = set()


class Assignment:
    """:ivar queue_of: {the kernel's position among the nodes: number of its device's queue}. :ivar rounds: when all of
    it ends. :ivar queues: how many the device with the most has."""

    def __init__(self, nodes: Sequence[Node], after: Sequence[Sequence[int]], most: int) -> None:
        self.queue_of: dict[int, int] = {}
        self._ends = [0.0] * len(nodes)
        self._queues: dict[Device, list[_Queue]] = {}
        self._homes: dict[int, tuple[Device, int]] = {}
        for number, node in enumerate(nodes):
            if node.kind == "kernel":
                self._place(number, node, after[number], most)
            else:
                self._ends[number] = 1 + max((self._ends[other] for other in after[number]), default=0.0)
        self.rounds = max(self._ends, default=0.0)
        self.queues = max(map(len, self._queues.values()), default=1)

    def _place(self, number: int, node: Node, after: Sequence[int], most: int) -> None:
        queues = self._queues.setdefault(node.device, [])
        fresh = [_Queue()] if len(queues) < most else []
        last = self._home(after[-1], node.device) if after else None
        best: tuple[float, bool, int] | None = None
        for index, queue in enumerate([*queues, *fresh]):
            begin = self._begin(index, queue, node.device, after)
            if best is None or (begin, index != last, index) < best:
                best = begin, index != last, index
        assert best is not None
        begin, _, index = best
        if index == len(queues):
            queues += fresh
        queue = queues[index]
        if begin > queue.begin or not queue.together:
            queue.begin, queue.together = begin, set()
        queue.together.add(number)
        self.queue_of[number] = index
        self._homes[number] = node.device, index
        self._ends[number] = queue.end = begin + 1

    def _home(self, number: int, device: Device) -> int | None:
        found = self._homes.get(number)
        return found[1] if found is not None and found[0] is device else None

    def _begin(self, index: int, queue: _Queue, device: Device, after: Sequence[int]) -> float:
        """When a kernel could begin there."""
        elsewhere = [self._ends[other] + WAIT for other in after if self._home(other, device) != index]
        if not queue.together:
            return max(elsewhere, default=0.0)
        if elsewhere or not queue.together.isdisjoint(after):       # behind a barrier
            return max([queue.end, *elsewhere])
        return queue.begin


def assign(nodes: Sequence[Node], most: int) -> Assignment:
    """:param most: queues that a device may use."""
    tracker: Tracker[int] = Tracker()
    after = []
    for number, node in enumerate(nodes):
        after.append(tracker.find(node.accesses))
        tracker.record(number, node.accesses)
    best = Assignment(nodes, after, 1)
    single, shortest = best.rounds, _depth(after)
    for queues in range(2, most + 1):
        if single - QUEUE * (queues - 1) <= shortest:
            break                                       # nothing to be gained any more
        found = Assignment(nodes, after, queues)
        if found.rounds + QUEUE * (found.queues - 1) < best.rounds + QUEUE * (best.queues - 1):
            best = found
    return best


def _depth(after: Sequence[Sequence[int]]) -> int:
    """The longest way through the graph."""
    depth: list[int] = []
    for others in after:
        depth.append(1 + max((depth[other] for other in others), default=0))
    return max(depth, default=0)
