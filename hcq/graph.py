"""Graphs: work recorded once and submitted many times, with other buffers, values and sizes each time.

    with dev.graph() as g:
        x, n = g.input("x", buf), g.input("n", np.int32(17))
        scale(x, n, grid=(4,), block=(64,))
        result.copy_from(staged)                        # of another device too
    g.replay()
    g.replay(x=other, n=np.int32(5))

Recorded are launches, ``copy_from`` and ``fill`` of this thread, on any device; nothing runs while recording. A replay
is ordered with all other work of the devices. Inside, a command comes after those whose memory it touches, by what
each reads and writes (``hcq.access``), and nothing else; engines, signals and barriers follow from that
(``hcq.schedule``). The packets are built once, at the end of the recording, and changed in place (``hcq.plan``).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hcq.access import Access, of_arguments
from hcq.errors import ArgumentTypeError, GraphError
from hcq.memory import Buffer
from hcq.queue import CopyQueue
from hcq.recording import RECORDING
from hcq.signal import Point

if TYPE_CHECKING:
    import os

    from hcq.backend import QueueKind
    from hcq.device import Device
    from hcq.plan import Plan
    from hcq.program import Program
    from hcq.schedule import Schedule

__all__ = ["Graph", "Input", "Node", "resolve"]

_BOUND = 4              # plans kept for replays whose buffers overlap otherwise than those of the recording


class Input:
    """A value of a graph that a replay may change; stands for it among arguments, grid and block sizes."""

    __slots__ = ("default", "name")

    def __init__(self, name: str, default: Any) -> None:
        self.name, self.default = name, default

    def __repr__(self) -> str:
        return f"Input({self.name}={self.default!r})"


class Node:
    """One recorded command, for whoever looks at a graph (``g.nodes``).

    :ivar kind: "kernel", "copy" or "fill".
    :ivar operands: of a kernel (program, arguments, grid, block, lds); of a copy (destination, source); of a fill
        (destination, pattern). Inputs stand in them as :class:`Input`.
    :ivar inputs: names of the inputs among the operands.
    :ivar device: whose engine does it.
    :ivar accesses: what it reads and writes, with the inputs' defaults.
    """

    __slots__ = ("accesses", "device", "inputs", "kind", "number", "operands")

    def __init__(self, number: int, kind: str, operands: tuple[Any, ...]) -> None:
        self.number, self.kind, self.operands = number, kind, operands
        self.inputs = {value.name for value in _flatten(operands) if isinstance(value, Input)}
        values = resolve(operands, {})
        self.device, self.accesses = _check(kind, values)

    @property
    def name(self) -> str:
        """For people: the kernel's name, or what is moved."""
        if self.kind == "kernel":
            return str(self.operands[0].name)
        where = self.operands[0].default if isinstance(self.operands[0], Input) else self.operands[0]
        return f"{self.kind} {where.nbytes} bytes"

    @property
    def reads(self) -> list[Access]:
        return [access for access in self.accesses if not access.write]

    @property
    def writes(self) -> list[Access]:
        return [access for access in self.accesses if access.write]

    def __repr__(self) -> str:
        return f"Node({self.number}: {self.name} on {self.device.name})"


class Graph:
    """Recorded work. Made by ``dev.graph()``, a context manager that records what is inside it.

    :ivar nodes: the recorded commands, in order.
    """

    def __init__(self, device: Device, queues: int | None = None, kind: QueueKind = "compute") -> None:
        """See :meth:`hcq.Device.graph`.

        :raises GraphError: no number of queues, or no such kind.
        """
        from hcq.schedule import Choice
        if queues is not None and (isinstance(queues, bool) or not isinstance(queues, int) or queues < 1):
            raise GraphError(f"a graph uses a number of compute queues of at least 1, not {queues!r}")
        if kind not in ("compute", "aql"):
            raise GraphError(f"a graph's kernels go to queues of kind 'compute' or 'aql', not {kind!r}")
        self.device = device
        self._choice = Choice(kind=kind) if queues is None else Choice(queues, kind)
        self.nodes: list[Node] = []
        self.inputs: dict[str, Input] = {}
        self._scalars: dict[str, np.dtype] = {}         # types of the inputs that are NumPy scalars
        self._known: tuple[list[str], list[str]] = [], []       # what the last replay changed, and the scalars there
        self._state = "new"
        self._plan: Plan | None = None
        self._bound: dict[tuple[Any, ...], Plan] = {}

    def __enter__(self) -> Graph:
        if self._state != "new":
            raise GraphError("a graph is recorded once; make another with dev.graph()")
        thread = threading.get_ident()
        if thread in RECORDING:
            raise GraphError(f"{RECORDING[thread].device.name} is recording a graph already; they do not nest")
        RECORDING[thread] = self
        self._state = "recording"
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        del RECORDING[threading.get_ident()]
        self._state = "failed"
        if kind is None:
            self._plan = self._build(self.nodes)
            self._state = "ready"

    def _build(self, nodes: Sequence[Node]) -> Plan:
        """Each further queue has scratch of its own: where there is no room for that, one queue has to do."""
        from hcq.plan import Plan
        try:
            return Plan(nodes, self._choice)
        except MemoryError:
            if self._choice.most == 1:
                raise
            return Plan(nodes, self._choice._replace(most=1))

    def input(self, name: str, default: Any) -> Any:
        """A value that ``replay`` may change by this name. Use the result in place of ``default`` while recording.

        :param default: a buffer, a scalar, or a size in ``grid`` or ``block``. Where it is a NumPy scalar, a replay may
            give a Python number, which becomes one of its type.
        """
        if self._state != "recording":
            raise GraphError("inputs are named while the graph is recorded, inside its `with` block")
        if name in self.inputs:
            raise GraphError(f"the graph has an input {name!r} already")
        self.inputs[name] = Input(name, default)
        if isinstance(default, np.generic):
            self._scalars[name] = default.dtype
        return self.inputs[name]

    def copy(self, destination: Any, source: Any) -> None:
        """Record a copy whose buffers may be inputs."""
        self._record("copy", (destination, source))

    def fill(self, destination: Any, value: Any) -> None:
        """Record a fill whose buffer or pattern may be an input."""
        self._record("fill", (destination, value))

    def _exec(self, program: Program, args: Sequence[Any], grid: Any, block: Any, lds: int) -> None:
        self._record("kernel", (program, tuple(args), grid, block, lds))

    def _record(self, kind: str, operands: tuple[Any, ...]) -> None:
        if self._state != "recording":
            raise GraphError("a graph records only inside its `with` block")
        for value in _flatten(operands):
            if isinstance(value, Input) and self.inputs.get(value.name) is not value:
                raise GraphError(f"input {value.name!r} belongs to another graph")
        self.nodes.append(Node(len(self.nodes), kind, operands))    # what cannot run fails here, where it is recorded

    def replay(self, **changed: Any) -> Point:
        """Submit everything, with the named inputs changed for this once.

        :return: the point at which all of it is complete.
        :raises GraphError: a name that is no input, or a graph whose recording did not end well.
        :raises LaunchError, QueueError: a value that the command it belongs to cannot take.
        """
        plan = self._plan
        if plan is None:
            raise GraphError(f"the graph cannot be replayed: its recording has state {self._state!r}, not 'ready'")
        names, scalars = self._known
        if changed and list(changed) != names:
            names, scalars = self._know(list(changed))
        for name in scalars if changed else ():
            changed[name] = _like(name, self._scalars[name], changed[name])
        if RECORDING and threading.get_ident() in RECORDING:
            raise GraphError("a replay inside the recording of a graph")
        point = plan.replay(changed, names if changed else [])
        if point is None:
            point = self._bind(changed).replay(changed, names)
            assert point is not None                    # its own buffers overlap as they do
        return point

    def _know(self, names: list[str]) -> tuple[list[str], list[str]]:
        """:raises GraphError: a name that is no input."""
        if unknown := sorted(set(names) - self.inputs.keys()):
            raise GraphError(f"no input {', '.join(map(repr, unknown))} in the graph; it has: "
                             f"{', '.join(self.inputs) or 'none'}")
        self._known = names, [name for name in names if name in self._scalars]
        return self._known

    def _bind(self, changed: Mapping[str, Any]) -> Plan:
        """A plan of its own for buffers that overlap otherwise, or that other engines reach."""
        key = tuple((name, value.device.name, value.address, value.nbytes) for name, value in sorted(changed.items())
                    if isinstance(value, Buffer))
        plan = self._bound.pop(key, None)
        if plan is None:
            values = {name: value for name, value in changed.items() if isinstance(value, Buffer)}
            nodes = [Node(node.number, node.kind, _rebind(node.operands, values)) for node in self.nodes]
            plan = self._build(nodes)
        while len(self._bound) >= _BOUND:
            del self._bound[next(iter(self._bound))]
        self._bound[key] = plan
        return plan

    # --- for those who look

    @property
    def schedule(self) -> Schedule:
        """Which engine does what after what (``hcq.schedule``). Its text is one line a step."""
        if self._plan is not None:
            return self._plan.schedule
        from hcq.schedule import Schedule
        return Schedule(self.nodes, self._choice)

    def dump(self) -> str:
        """The packets of every engine, back to names."""
        return "" if self._plan is None else self._plan.dump()

    def dot(self) -> str:
        """The graph in Graphviz' language: a row an engine, an edge for each dependency."""
        from hcq.picture import dot
        return dot(self.schedule)

    def svg(self) -> str:
        """The same as a picture, without Graphviz."""
        from hcq.picture import svg
        return svg(self.schedule)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``.dot`` (or ``.gv``) or ``.svg``, by the name's end.

        :raises GraphError: another one.
        """
        name = Path(path)
        if name.suffix in (".dot", ".gv"):
            name.write_text(self.dot(), encoding="utf-8")
        elif name.suffix == ".svg":
            name.write_text(self.svg(), encoding="utf-8")
        else:
            raise GraphError(f"a graph is saved as .dot, .gv or .svg, not as {name.name!r}")

    def _repr_svg_(self) -> str:
        return self.svg()

    def __len__(self) -> int:
        return len(self.nodes)

    def __repr__(self) -> str:
        devices = ", ".join(dict.fromkeys(node.device.name for node in self.nodes)) or self.device.name
        return f"Graph({len(self.nodes)} commands on {devices}, inputs: {', '.join(self.inputs) or 'none'})"


def resolve(value: Any, changed: Mapping[str, Any]) -> Any:
    """Operands with every input replaced by its value."""
    if isinstance(value, Input):
        return changed.get(value.name, value.default)
    if isinstance(value, (tuple, list)):
        return tuple(resolve(part, changed) for part in value)
    return value


def _like(name: str, dtype: np.dtype, value: Any) -> Any:
    """A Python number as a scalar of the default's type. :raises ArgumentTypeError: the type cannot hold it."""
    if not isinstance(value, (bool, int, float)) or isinstance(value, np.generic):
        return value
    try:
        found = dtype.type(value)
    except (OverflowError, ValueError):
        found = None
    if found is None or (dtype.kind in "iub" and found != value):
        raise ArgumentTypeError(f"input {name!r} is recorded as {dtype}, which cannot hold {value!r}")
    return found


def _rebind(value: Any, buffers: Mapping[str, Buffer]) -> Any:
    """Operands with other default buffers."""
    if isinstance(value, Input):
        return Input(value.name, buffers.get(value.name, value.default))
    if isinstance(value, (tuple, list)):
        return tuple(_rebind(part, buffers) for part in value)
    return value


def _flatten(value: Any) -> list[Any]:
    if isinstance(value, (tuple, list)):
        return [leaf for part in value for leaf in _flatten(part)]
    return [value]


def _check(kind: str, values: Any) -> tuple[Device, list[Access]]:
    """Whose engine runs a command, and what it touches. :raises HcqError: it cannot run."""
    if kind == "kernel":
        program, args, grid, block, lds = values
        program.device._check_open()
        program.bind(args, grid, block, lds)
        return program.device, of_arguments(program, args)
    if kind == "fill":
        destination, value = values
        if not isinstance(destination, Buffer):
            raise GraphError(f"a graph fills a Buffer, not a {type(destination).__name__}")
        CopyQueue(destination.device).fill(destination, value)
        return destination.device, [Access.of(destination, write=True)]
    destination, source = values
    for buffer in (destination, source):
        if not isinstance(buffer, Buffer):
            raise GraphError(f"a graph copies between Buffers, not a {type(buffer).__name__}")
        buffer.device._check_open()
    if destination.device is source.device:
        CopyQueue(destination.device).copy(destination, source)
    elif destination.nbytes != source.nbytes:
        raise GraphError(f"copy of {source.nbytes} bytes of {source.device.name} to a buffer of {destination.nbytes} "
                         f"of {destination.device.name}; take a view of the same size, buf[a:b]")
    else:
        destination._storage.check(), source._storage.check()
    return source.device, [Access.of(source, write=False), Access.of(destination, write=True)]
