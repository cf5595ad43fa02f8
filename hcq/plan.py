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

from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from hcq.backend import IndirectBuffer
from hcq.blocks import BlockCopy, Leads
from hcq.debug import Touch
from hcq.errors import BufferError, GraphError
from hcq.graph import Node, resolve
from hcq.layout import BASE, PAGE, Layout, inputs_of
from hcq.memory import Buffer, Storage
from hcq.schedule import Choice, Lane
from hcq.signal import Point

if TYPE_CHECKING:
    from hcq.device import Device
    from hcq.program import Launch

__all__ = ["Plan"]

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
        self._defaults = [symbol.value for symbol in self.symbols]
        self._roles: dict[str, list[tuple[int, Callable[[Any], int]]]] = {}
        for number, symbol in enumerate(self.symbols):
            self._roles.setdefault(symbol.name, []).append((number, symbol.convert))
        # inputs that are one device's kernels' pointers and nothing else: (symbol, device, is it written?)
        self._pointers = {each.name: (number, each.device, self._writes[each.name])
                          for number, each in enumerate(self.symbols)
                          if each.device is not None and len(self._roles[each.name]) == 1
                          and each.name in self._writes and each.name not in self._across}
        self._first_input = 1 + len(self.blocks)
        self._checked_by_name = {name for node in self._checks for name in node.inputs}

    def replay(self, changed: Mapping[str, Any]) -> Point | None:
        """Submit everything. None, and nothing done: the buffers ask for a plan of their own."""
        with ExitStack() as stack:
            for device in self.devices:
                stack.enter_context(device._lock)
            for device in self.devices:
                device._check_open()
            launches = [reshaped.bind(changed) for reshaped in self._reshaped]
            values = self._work_out(changed)
            self._check(changed)
            if values is None:
                return None
            copy = self._copy()
            self._store(copy, values, changed, launches)
            return self._submit(copy)

    def _check(self, changed: Mapping[str, Any]) -> None:
        """:raises HcqError: a buffer or a pattern that a copy or a fill cannot take."""
        if not self._checked_by_name.isdisjoint(changed):
            for node in self._checks:
                if not node.inputs.isdisjoint(changed):
                    _check_transfer(node, resolve(node.operands, changed))

    def _change(self, found: list[int], changed: Mapping[str, Any]) -> bool:
        """Put the changed inputs' values into ``found``; whether their memory has to be looked at more closely."""
        near = False
        read: list[Storage] = []
        written: list[Storage] = []
        pointers, roles = self._pointers, self._roles
        for name, value in changed.items():
            if name in pointers and type(value) is Buffer:
                # the checks of the kernel's own converter, without its calls: this is where a replay's time goes
                number, device, writes = pointers[name]
                storage = value._storage
                memory = storage.memory
                if value.device is not device or memory is None:
                    roles[name][0][1](value)            # raises
                    raise AssertionError(name)
                found[number] = memory.address + value._offset
                (written if writes else read).append(storage)
            else:
                near |= type(value) is Buffer
                for number, convert in roles.get(name, ()):
                    found[number] = convert(value)
        if read or written:
            pinned, alone = self._pinned.keys(), set(written)
            near |= (len(alone) != len(written) or not alone.isdisjoint(read) or not pinned.isdisjoint(read)
                     or not pinned.isdisjoint(written))
        return near

    def _work_out(self, changed: Mapping[str, Any]) -> np.ndarray | None:
        """The symbols' values; None when the buffers overlap otherwise than they did.

        :raises HcqError: a value that its command cannot take, or memory that was freed.
        """
        defaults, symbols = self._defaults, self.symbols
        freed = [device._pool.freed for device in self.devices]
        if freed != self._freed:
            for storage in self._fixed.values():
                storage.check()
            found = [symbol.value if symbol.name in changed else symbol.convert(symbol.default) for symbol in symbols]
            self._freed = freed if all(access.storage.memory is not None for accesses in self._inputs.values()
                                       for access in accesses) else []
        else:
            found = defaults.copy()
        near = self._change(found, changed)
        if near and self._overlaps(changed):
            return None
        values = self._values
        values[self._first_input:] = found
        return values

    def _copy(self) -> BlockCopy:
        """Blocks that nothing reads any more."""
        copies = self._copies
        if copies:
            copy = copies[self._next % len(copies)]
            if all(point.done for point in copy.points):
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
        for number, block in enumerate(self.blocks):
            for size, table in block.always.items():
                if len(table.indices):
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
            device, timeline, encoder = lane.device, lane.timeline, lane.encoder
            timeline.turn()
            before: list[int] = []
            for earlier in fences:
                if earlier.signal is not timeline.signal:
                    _wait(device, encoder, before, earlier)
                    timeline.will_wait(*earlier)
            behind: list[int] = []
            if lane is self.lanes[0]:
                for end in ends:
                    _wait(device, encoder, behind, end)
            encoder.signal(behind, timeline.signal.address, timeline.submitted + 1, interrupt=False)
            leads = copy.leads.get(lane)
            if leads is None:
                leads = copy.leads[lane] = self._leads(copy, lane)
            if leads.buffer is not None:
                if leads.aligned:                       # where the packet stands depends on what is before it
                    lane.encoder.indirect(before, leads.address, len(leads.words))
                else:
                    before += leads.packets
                timeline.queue.submit(np.frombuffer(array("I", before + behind), np.uint32),
                                      indirect=(leads.buffer,))         # type: ignore[call-arg]
            else:
                timeline.queue.submit(np.concatenate((np.array(before, np.uint32), leads.words,
                                                      np.array(behind, np.uint32))))
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
        words, address = copy.views[number][4][first:first + count], copy.buffers[number].address + 4 * first
        cuts = block.cuts[lane]
        indirect = getattr(lane.encoder, "indirect", None)
        if indirect is None or count <= DIRECT_WORDS or (lane.kind == "copy" and len(cuts) > 2):
            return Leads(words, address)
        packets: list[int] = []
        for start, stop in pairwise(cuts):
            indirect(packets, address + 4 * start, stop - start)
        return Leads(words, address, packets, lane.kind == "copy", IndirectBuffer(words))

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
    from hcq.peer import _signal_address
    address = point.signal.address if point.signal.device is device else _signal_address(device, point)
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
