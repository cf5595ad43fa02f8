"""A graph's packets, built once: where they are kept, what a replay changes in them, how they reach the engines.

For each device a *block* of host memory holds the packet words of its lanes and the kernarg segments of its kernels.
Whatever changes is in a *patch table*: this word (or half, or byte) is that symbol plus a constant. The symbols are the
block's own address (once, when a copy of the block is made), the number that this replay's signals start from, and the
inputs. A replay works out the symbols, stores them all with one NumPy scatter a table, and gives each lane its words:
by one copy into the ring, or, when they are many, by a packet that leads the engine to the block.

A block is free again when the replay that used it is complete; while it is not, another copy of the block is used, so
that replays follow each other without the host waiting (up to ``COPIES``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from hcq.backend import IndirectBuffer
from hcq.blocks import BlockCopy, Leads
from hcq.debug import Touch
from hcq.errors import BufferError, GraphError
from hcq.graph import Node, resolve
from hcq.layout import BASE, END_WORDS, PAGE, Layout, inputs_of
from hcq.memory import Buffer
from hcq.order import Order, Pointer, Role
from hcq.patch import NUMBER, probe
from hcq.schedule import Choice, Lane
from hcq.signal import Point, Timeline

if TYPE_CHECKING:
    from hcq.device import Device
    from hcq.program import Launch

__all__ = ["Plan"]

ORDERS = 16                     # lists of names that are remembered
COPIES = 8                      # of the blocks, at most
DIRECT_WORDS = 512              # of a lane: up to here into the ring, beyond by an indirect buffer


class Plan(Layout):
    """A layout that can be replayed."""

    def __init__(self, nodes: Sequence[Node], choice: Choice) -> None:
        super().__init__(nodes, choice)
        self._copies: list[BlockCopy] = []
        self._next = 0
        self._base = 0
        self._values = np.zeros(1 + len(self.blocks) + len(self.symbols), np.uint64)
        self._first_input = 1 + len(self.blocks)
        self._defaults = np.array([symbol.value for symbol in self.symbols], np.uint64)
        self._roles: dict[str, list[Role]] = {}
        for number, symbol in enumerate(self.symbols, self._first_input):
            self._roles.setdefault(symbol.name, []).append((number, symbol.convert))
        self._pointers = {each.name: Pointer(number, each.device, self._writes[each.name])
                          for number, each in enumerate(self.symbols, self._first_input)
                          if each.device is not None and len(self._roles[each.name]) == 1
                          and each.name in self._writes and each.name not in self._across}
        self._orders: dict[tuple[str, ...], Order] = {}
        self._order = self._order_of([])
        self._checked_by_name = {name for node in self._checks for name in node.inputs}
        self._tables = [(number, size, table) for number, block in enumerate(self.blocks)
                        for size, table in block.always.items() if len(table)]
        self._one = self.devices[0] if len(self.devices) == 1 else None

    def _order_of(self, names: list[str]) -> Order:
        """What has to be known of these names; the last few lists are kept."""
        key = tuple(names)
        if key not in self._orders:
            if len(self._orders) >= ORDERS:
                del self._orders[next(iter(self._orders))]
            self._orders[key] = Order(names, self._roles, self._pointers, frozenset(self._pinned))
        return self._orders[key]

    def replay(self, changed: Mapping[str, Any], names: list[str]) -> Point | None:
        """Submit everything. None, and nothing done: the buffers ask for a plan of their own.

        :param names: those of what is changed.
        """
        with self._one._lock if self._one is not None else self._locks():
            for device in self.devices:
                device._check_open()
            launches = [reshaped.bind(changed) for reshaped in self._reshaped]
            values = self._work_out(changed, names)
            if self._checked_by_name:
                self._check(changed)
            if values is None:
                return None
            copy = self._copy()
            self._store(copy, values, changed, launches)
            return self._submit(copy)

    def _locks(self) -> ExitStack:
        with ExitStack() as stack:
            for device in self.devices:
                stack.enter_context(device._lock)
            return stack.pop_all()

    def _check(self, changed: Mapping[str, Any]) -> None:
        """:raises HcqError: a buffer or a pattern that a copy or a fill cannot take."""
        if not self._checked_by_name.isdisjoint(changed):
            for node in self._checks:
                if not node.inputs.isdisjoint(changed):
                    _check_transfer(node, resolve(node.operands, changed))

    def _work_out(self, changed: Mapping[str, Any], names: list[str]) -> np.ndarray | None:
        """The symbols' values; None when the buffers overlap otherwise than they did.

        :raises HcqError: a value that its command cannot take, or memory that was freed.
        """
        epochs = [device._pool.epoch for device in self.devices]
        if epochs != self._epochs:
            for storage in self._fixed.values():
                storage.check()
            for number, symbol in enumerate(self.symbols):
                if symbol.name not in changed:
                    self._defaults[number] = symbol.convert(symbol.default)
            self._epochs = epochs if all(access.storage.memory is not None for accesses in self._inputs.values()
                                         for access in accesses) else []
        values = self._values
        values[self._first_input:] = self._defaults
        if names:
            order = self._order
            if names is not order.names and names != order.names:
                order = self._order = self._order_of(names)
            if order.store(values, list(changed.values()), epochs) and self._overlaps(changed):
                return None
        return values

    def _copy(self) -> BlockCopy:
        """Blocks that nothing reads any more."""
        copies = self._copies
        if copies:
            copy = copies[self._next % len(copies)]
            for point in copy.points:
                if not point.done:
                    break
            else:
                self._next += 1
                return copy
        if len(copies) < COPIES:
            copy = self._new_copy()
            copies.insert(self._next % len(copies) if copies else 0, copy)
            self._next += 1
            return copy
        self._next += 1
        for point in copy.points:
            point.settle()
        return copy

    def _new_copy(self) -> BlockCopy:
        copy = BlockCopy([block.device.alloc(max(len(block.template), PAGE), host=True) for block in self.blocks])
        symbols = np.zeros(1 + len(self.blocks), np.uint64)
        for number, (block, buffer) in enumerate(zip(self.blocks, copy.buffers, strict=True)):
            symbols[block.symbol] = buffer.address
            buffer.view[:len(block.template)] = block.template
            block.once.scatter(copy.views[number][4], symbols)
        return copy

    def _store(self, copy: BlockCopy, values: np.ndarray, changed: Mapping[str, Any], launches: list[Launch]) -> None:
        if self._base > self._limit:                    # signals can count no further
            for each in self._copies:
                for point in each.points:
                    point.settle()
            for signal in self._signals.values():
                signal.value = 0
            self._base = 0
        values[BASE] = self._base
        for number, size, table in self._tables:
            table.scatter(copy.views[number][size], values)
        for number, place, size, name, convert in self._large:
            value = changed[name] if name in changed else self._input_default(name)
            at = self.blocks[number].words_bytes + place
            copy.views[number][1][at:at + size] = np.frombuffer(convert(value), np.uint8)
        for reshaped, launch in zip(self._reshaped, launches, strict=True):
            reshaped.store(copy, self.blocks.index(reshaped.block), launch)

    def _input_default(self, name: str) -> Any:
        return next(value.default for node in self.nodes for value in inputs_of(node.operands) if value.name == name)

    def _submit(self, copy: BlockCopy) -> Point:
        fences = [point for device in self.devices for point in device._fence()]
        ends: list[Point] = []
        for lane in reversed(self.lanes):               # the first lane's end is behind all the others'
            device, timeline = lane.device, lane.timeline
            timeline.turn()
            leads = copy.leads.get(lane)
            if leads is None:
                leads = copy.leads[lane] = self._leads(copy, lane)
            if leads.signal is not timeline.signal:
                self._end(lane, leads)
            before: list[int] = []
            for earlier in fences:
                if earlier.signal is not timeline.signal:
                    _wait(device, lane.encoder, before, earlier)
                    timeline.will_wait(*earlier)
            behind: list[int] = []
            if lane is self.lanes[0]:
                for end in ends:
                    _wait(device, lane.encoder, behind, end)
            self._give(leads, timeline, lane.encoder, before, behind)
            point = timeline.record(self)
            if timeline is not device._compute:
                device._beside += 1
            ends.append(point)
        if not ends:
            raise GraphError("a graph without commands has nothing to replay")
        copy.points = tuple(ends)
        self._base += self._step_of_base
        self._book()
        return ends[-1]

    def _end(self, lane: Lane, leads: Leads) -> None:
        """The words that end this lane's submissions, made once."""
        signal = lane.timeline.signal

        def words(values: Mapping[str, int]) -> list[int]:
            into: list[int] = []
            lane.encoder.signal(into, signal.address, values["value"], interrupt=False)
            return into
        leads.end(signal, *probe(words, {"value": NUMBER}, {"value": NUMBER.first}))

    @staticmethod
    def _give(leads: Leads, timeline: Timeline, encoder: Any, before: list[int], behind: list[int]) -> None:
        """Submit: ``before``, what the lane does, ``behind``, and the signal."""
        ready = leads.ready
        assert ready is not None
        ready[leads.value_at] = timeline.submitted + 1 + leads.addend
        if leads.aligned:                               # where the packet stands depends on what is before it
            encoder.indirect(before, leads.address, len(leads.words))
        if before or behind:
            ready = np.concatenate((np.array(before, np.uint32), ready[:leads.begin], np.array(behind, np.uint32),
                                    ready[leads.begin:]))
        if leads.indirect:
            timeline.queue.submit(ready, indirect=leads.indirect)           # type: ignore[call-arg]
        else:
            timeline.queue.submit(ready)

    def _book(self) -> None:
        """Tell the debug mode: a replay is one piece of work, behind all before it."""
        for device in self.devices:
            if device._debug is not None:
                accesses = [access for node in self.nodes for access in node.accesses
                            if access.storage.pool.device is device]
                barriers = device._debug.barriers       # one is in front of what a replay does
                for lane in reversed([lane for lane in self.lanes if lane.device is device]):
                    number = barriers[id(lane.timeline)] = barriers.get(id(lane.timeline), 0) + 1
                    device._debug.submitted(lane.timeline, self, [Touch(access, number) for access in accesses],
                                            in_order=True)
                    accesses = []

    def _leads(self, copy: BlockCopy, lane: Lane) -> Leads:
        """How a lane's words in this copy reach the engine."""
        block = self._block_of[lane.device]
        number = self.blocks.index(block)
        first, count = block.lanes[lane]
        room, address = copy.views[number][4][first:first + count + END_WORDS], copy.buffers[number].address + 4 * first
        words = room[:count]
        cuts = block.cuts[lane]
        indirect = getattr(lane.encoder, "indirect", None)
        if indirect is None or count <= DIRECT_WORDS or (lane.kind == "copy" and len(cuts) > 2):
            return Leads(words, room, address)
        packets: list[int] = []
        for start, stop in pairwise(cuts):
            indirect(packets, address + 4 * start, stop - start)
        return Leads(words, room, address, packets, lane.kind == "copy", (IndirectBuffer(words),))

    def dump(self) -> str:
        lines = []
        for lane in self.lanes:
            block = self._block_of[lane.device]
            first, count = block.lanes[lane]
            words = block.template.view(np.uint32)[first:first + count].tolist()
            describe = getattr(lane.encoder, "describe", None)
            lines += [f"{lane.name}:", *(describe(words) if describe else [f"{word:08x}" for word in words])]
        return "\n".join(lines)

    def __str__(self) -> str:
        names = [node.name for node in self.nodes]
        return f"graph of {len(names)} commands: " + ", ".join(
            names if len(names) <= 6 else [*names[:3], "...", *names[-2:]])


def _wait(device: Device, encoder: Any, words: list[int], point: Point) -> None:
    if point.signal.device is device:
        address: int | str = point.signal.address
    else:
        from hcq.peer import _signal_address
        address = _signal_address(device, point)
    assert isinstance(address, int), address            # the schedule has asked
    encoder.wait(words, address, point.value)


def _check_transfer(node: Node, values: Sequence[Any]) -> None:
    """A copy or a fill with these operands is as large as the recorded one, on the same device, and possible."""
    recorded = resolve(node.operands, {})
    for value, default in zip(values, recorded, strict=True):
        if isinstance(default, Buffer):
            if value.device is not default.device:
                raise GraphError(f"the {node.kind} was recorded on {default.device.name}; the buffer given for it is "
                                 f"of {value.device.name}")
            if value.nbytes != default.nbytes:
                raise BufferError(f"the {node.kind} was recorded with {default.nbytes} bytes; the buffer given for it "
                                  f"has {value.nbytes}; take a view of the same size, buf[a:b]")
    from hcq.graph import _check
    _check(node.kind, values)
