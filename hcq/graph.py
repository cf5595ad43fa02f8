"""Graphs: work recorded once and submitted many times, with other buffers, values and sizes each time.

    with dev.graph() as g:
        x, n = g.input("x", buf), g.input("n", np.int32(17))
        scale(x, n, grid=(4,), block=(64,))
        result.copy_from(staged)
    g.replay()
    g.replay(x=other, n=np.int32(5))

Recorded are launches, ``copy_from`` and ``fill``; nothing runs while recording. Replays are ordered with all other
work of the device, and the recorded commands among themselves in the order of recording.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hcq.errors import GraphError
from hcq.queue import ComputeQueue, CopyQueue
from hcq.signal import Point

if TYPE_CHECKING:
    from hcq.device import Device
    from hcq.program import Launch, Program

__all__ = ["Graph", "Input"]


class Input:
    """A value of a graph that a replay may change; stands for it among arguments, grid and block sizes."""

    __slots__ = ("default", "name")

    def __init__(self, name: str, default: Any) -> None:
        self.name, self.default = name, default

    def __repr__(self) -> str:
        return f"Input({self.name}={self.default!r})"


class _Node:
    """One recorded command: a method of the queue builder and its operands, with inputs in them."""

    __slots__ = ("inputs", "launch", "name", "operands")

    def __init__(self, name: str, operands: tuple[Any, ...]) -> None:
        self.name, self.operands = name, operands
        self.inputs = {value.name for value in _flatten(operands) if isinstance(value, Input)}
        self.launch: Launch | None = None       # bound once, for as long as no input of it changes


class Graph:
    """Recorded work of one device. Made by ``dev.graph()``, a context manager that records what is inside it."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._nodes: list[_Node] = []
        self._inputs: dict[str, Input] = {}
        self._state = "new"

    def __enter__(self) -> Graph:
        if self._state != "new":
            raise GraphError("a graph is recorded once; make another with dev.graph()")
        if self.device._recording is not None:
            raise GraphError(f"{self.device.name} is recording a graph already; they do not nest")
        self.device._recording = self
        self._state = "recording"
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        self.device._recording = None
        self._state = "ready" if kind is None else "failed"

    def input(self, name: str, default: Any) -> Any:
        """A value that ``replay`` may change by this name. Use the result in place of ``default`` while recording.

        :param default: a buffer, a scalar, or a size in ``grid`` or ``block``.
        """
        if self._state != "recording":
            raise GraphError("inputs are named while the graph is recorded, inside its `with` block")
        if name in self._inputs:
            raise GraphError(f"the graph has an input {name!r} already")
        self._inputs[name] = Input(name, default)
        return self._inputs[name]

    def _exec(self, program: Program, args: Sequence[Any], grid: Any, block: Any, lds: int) -> None:
        self._record(_Node("exec", (program, tuple(args), grid, block, lds)))

    def _copy(self, destination: Any, source: Any) -> None:
        self._record(_Node("copy", (destination, source)))

    def _fill(self, destination: Any, value: Any) -> None:
        self._record(_Node("fill", (destination, value)))

    def copy(self, destination: Any, source: Any) -> None:
        """Record a copy whose buffers may be inputs."""
        self._copy(destination, source)

    def fill(self, destination: Any, value: Any) -> None:
        """Record a fill whose buffer or pattern may be an input."""
        self._fill(destination, value)

    def _record(self, node: _Node) -> None:
        if self._state != "recording":
            raise GraphError("a graph records only inside its `with` block")
        for value in _flatten(node.operands):
            if isinstance(value, Input) and self._inputs.get(value.name) is not value:
                raise GraphError(f"input {value.name!r} belongs to another graph")
        self._queue_of(node, {})        # what cannot run fails here, at the line that recorded it
        self._nodes.append(node)

    def _queue_of(self, node: _Node, changed: dict[str, Any],
                  queue: ComputeQueue | CopyQueue | None = None) -> ComputeQueue | CopyQueue:
        """Add a node to ``queue``, or to a new one of its kind."""
        if isinstance(queue, ComputeQueue) or (queue is None and node.name == "exec"):
            compute = queue if isinstance(queue, ComputeQueue) else ComputeQueue(self.device)
            launch = node.launch
            if launch is None or not node.inputs.isdisjoint(changed):
                program, args, grid, block, lds = _resolve(node.operands, changed)
                launch = program.bind(args, grid, block, lds)
                if node.inputs.isdisjoint(changed):
                    node.launch = launch
            compute.memory_barrier()._launch(launch)
            return compute
        copies = queue if queue is not None else CopyQueue(self.device)
        getattr(copies, node.name)(*_resolve(node.operands, changed))
        return copies

    def replay(self, **changed: Any) -> Point:
        """Submit everything, with the named inputs changed for this once.

        :return: the point at which all of it is complete.
        :raises GraphError: a name that is no input, or a graph whose recording did not end well.
        """
        if self._state != "ready":
            raise GraphError(f"the graph cannot be replayed: its recording has state {self._state!r}, not 'ready'")
        if unknown := sorted(set(changed) - set(self._inputs)):
            raise GraphError(f"no input {', '.join(map(repr, unknown))} in the graph; it has: "
                             f"{', '.join(self._inputs) or 'none'}")
        if self.device._recording is not None:
            raise GraphError("a replay inside the recording of a graph")
        queues: list[ComputeQueue | CopyQueue] = []
        for node in self._nodes:
            if node.name == "exec" and queues and isinstance(queues[-1], ComputeQueue):
                self._queue_of(node, changed, queues[-1])       # memory barriers keep these apart
            else:
                queues.append(self._queue_of(node, changed))    # copies: a submission's end is their barrier
        return self.device._submit_in_order(queues)

    def __len__(self) -> int:
        return len(self._nodes)

    def __repr__(self) -> str:
        return f"Graph({len(self._nodes)} commands on {self.device.name}, inputs: {', '.join(self._inputs) or 'none'})"


def _flatten(value: Any) -> list[Any]:
    if isinstance(value, (tuple, list)):
        return [leaf for part in value for leaf in _flatten(part)]
    return [value]


def _resolve(value: Any, changed: dict[str, Any]) -> Any:
    """Operands with every input replaced by its value."""
    if isinstance(value, Input):
        return changed.get(value.name, value.default)
    if isinstance(value, (tuple, list)):
        return tuple(_resolve(part, changed) for part in value)
    return value


