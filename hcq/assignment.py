"""Which compute queue each kernel of a graph goes to.

Kernels of one queue that do not depend on each other run together already: the queue starts them without a barrier
between them. A barrier, though, waits for all that the queue has started. Where a graph has branches that were recorded
one behind the other, each branch's barriers would hold the others up; on queues of their own they do not. But every
hand-over from one queue to another costs something, and so does every further queue: a graph is spread only where it
gains more than that.

Time is counted in *rounds*. One is what a kernel behind a barrier takes that does not fill the card: 0.9 us in RADV's
command buffers, 2.8 us in HIP's graphs (both published for gfx1100). How long a kernel runs nobody knows; its size says
how many times it fills the card with waves (its *passes*), and it counts as many rounds, at least one. Kernels that
fill the card gain nothing beside each other: a graph never takes less than all its passes.

``LATENCY``
    Rounds by which a kernel begins later that waits for another queue: the signal goes through the host's memory.
``HAND_OVER``
    What the signal of a hand-over costs beside that, in rounds (the wait stands where a barrier would stand anyway).
    AMD's runtime keeps a graph on several queues only where each such packet lets two kernels overlap (ROCm's CLR,
    hip_graph_internal.cpp, GraphExec::ShouldCollapseToSingleStream; the factor is DEBUG_HIP_GRAPH_MIN_OVERLAP).
    Measured here: two packets, nothing of the host's time at a replay, and on the mock in null execution 40 to 80 us,
    against 14 of a kernel.
``QUEUE``
    What a further queue costs, in rounds: its last signal, by the same rule, and one for the join and the doorbell.
    Measured: 3 to 4 packets, 9 to 19 us of the host's time a replay, 130 to 350 us on the mock in null execution.

Kernels are put, in the recorded order, where they can begin first; away from the queues of what they depend on only
where they begin more than a hand-over earlier. So no kernel is moved for the sake of its own round, but a branch is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hcq.access import Tracker

if TYPE_CHECKING:
    from hcq.device import Device
    from hcq.graph import Node

__all__ = ["HAND_OVER", "LATENCY", "MOST", "QUEUE", "Assignment", "assign", "passes"]

MOST = 4                # queues of a device, unless somebody asks for more: one a pipe of the micro engine
LATENCY, HAND_OVER, QUEUE = 1.0, 2.0, 3.0


class _Queue:
    """As far as it has got: the kernels that run together at its end, and when they began."""

    def __init__(self) -> None:
        self.begin = self.end = 0.0
        self.together: set[int] = set()
        self.heard: dict[int, int] = {}         # of each other queue: the kernel up to which it is known to be complete


class Assignment:
    """
    :ivar queue_of: {the kernel's position among the nodes: number of its device's queue}.
    :ivar rounds: when all of it ends.
    :ivar hand_overs: waits of one queue for another of the same device.
    :ivar queues: how many the device with the most has.
    :ivar cost: the rounds, and what the further queues and the hand-overs cost beside them.
    """

    def __init__(self, nodes: Sequence[Node], after: Sequence[Sequence[int]], sizes: Sequence[float],
                 most: int) -> None:
        """:param after: what each node depends on. :param sizes: of each kernel, its passes."""
        self.queue_of: dict[int, int] = {}
        self.hand_overs = 0
        self._ends = [0.0] * len(nodes)
        self._queues: dict[Device, list[_Queue]] = {}
        self._homes: dict[int, tuple[Device, int]] = {}
        area: dict[Device, float] = {}
        for number, node in enumerate(nodes):
            if node.kind == "kernel":
                self._place(number, node.device, after[number], max(1.0, sizes[number]), most)
                area[node.device] = area.get(node.device, 0.0) + sizes[number]
            else:
                self._ends[number] = 1 + max((self._ends[other] for other in after[number]), default=0.0)
        self.rounds = max([*self._ends, *area.values()], default=0.0)
        self.queues = max(map(len, self._queues.values()), default=1)
        further = sum(len(queues) - 1 for queues in self._queues.values())
        self.cost = self.rounds + HAND_OVER * self.hand_overs + QUEUE * further

    def _place(self, number: int, device: Device, after: Sequence[int], length: float, most: int) -> None:
        queues = self._queues.setdefault(device, [])
        fresh = [_Queue()] if len(queues) < most else []
        homes = [home for other in after if (home := self._home(other, device)) is not None]
        best: tuple[float, bool, int] | None = None
        begins = []
        for index, queue in enumerate([*queues, *fresh]):
            begins.append(self._begin(index, queue, device, after))
            away = bool(homes) and index not in homes
            choice = begins[-1] + HAND_OVER * away, bool(homes) and index != homes[-1], index
            if best is None or choice < best:
                best = choice
        assert best is not None
        index, begin = best[2], begins[best[2]]
        if index == len(queues):
            queues += fresh
        queue = queues[index]
        self._hear(index, queue, device, after)
        if begin > queue.begin or not queue.together:
            queue.begin, queue.together = begin, set()
        queue.together.add(number)
        self.queue_of[number] = index
        self._homes[number] = device, index
        self._ends[number] = begin + length
        queue.end = max(queue.end, begin + length)

    def _home(self, number: int, device: Device) -> int | None:
        found = self._homes.get(number)
        return found[1] if found is not None and found[0] is device else None

    def _begin(self, index: int, queue: _Queue, device: Device, after: Sequence[int]) -> float:
        """When a kernel could begin there."""
        elsewhere = [self._ends[other] + LATENCY for other in after if self._home(other, device) != index]
        if not queue.together:
            return max(elsewhere, default=0.0)
        if elsewhere or not queue.together.isdisjoint(after):       # behind a barrier
            return max([queue.end, *elsewhere])
        return queue.begin

    def _hear(self, index: int, queue: _Queue, device: Device, after: Sequence[int]) -> None:
        """Count the waits for other queues that are not known to have got there."""
        for other in after:
            home = self._home(other, device)
            if home is not None and home != index and queue.heard.get(home, -1) < other:
                self.hand_overs += 1
                queue.heard[home] = other


def passes(node: Node) -> float:
    """How many times a kernel fills its card with waves; 0 where the driver does not say what the card holds."""
    from hcq.graph import resolve
    program, _, grid, block, lds = node.operands
    grid, block, lds = resolve((grid, block, lds), {})
    occupancy = program.occupancy(block, lds)
    if occupancy is None:
        return 0.0
    resident = occupancy.waves * program.device.properties.simds_per_cu * program.device.properties.compute_units
    shape = program.shape(grid, block, lds)
    waves = math.prod(shape.grid) * -(-math.prod(shape.block) // program.kernel.wave_size)
    return waves / resident if resident else 0.0


def assign(nodes: Sequence[Node], most: int) -> Assignment:
    """:param most: queues that a device may use."""
    tracker: Tracker[int] = Tracker()
    after = []
    for number, node in enumerate(nodes):
        after.append(tracker.find(node.accesses))
        tracker.record(number, node.accesses)
    sizes = [passes(node) if node.kind == "kernel" else 0.0 for node in nodes] if most > 1 else [0.0] * len(nodes)
    best = Assignment(nodes, after, sizes, 1)
    single, shortest = best.rounds, _shortest(after, sizes)
    for queues in range(2, most + 1):
        if single - QUEUE * (queues - 1) <= shortest:
            break                                       # nothing to be gained any more
        found = Assignment(nodes, after, sizes, queues)
        if found.cost < best.cost:
            best = found
    return best


def _shortest(after: Sequence[Sequence[int]], sizes: Sequence[float]) -> float:
    """The longest way through the graph."""
    ends: list[float] = []
    for others, size in zip(after, sizes, strict=True):
        ends.append(max(1.0, size) + max((ends[other] for other in others), default=0.0))
    return max(ends, default=0.0)
