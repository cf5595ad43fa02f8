"""A graph's packets, as they are built: which block holds what, and the patch tables; see ``hcq.plan``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from hcq.access import Access
from hcq.blocks import Block, BlockCopy, Symbol
from hcq.errors import GraphError, QueueError
from hcq.graph import Input, Node, resolve
from hcq.memory import Buffer, Storage
from hcq.patch import ADDRESS, NUMBER, Hole, NotPatchable, Probe, probe
from hcq.schedule import Choice, Lane, Schedule, Step
from hcq.signal import Point, Signal

if TYPE_CHECKING:
    from hcq.device import Device
    from hcq.program import Launch, Program, Shape

__all__ = ["BASE", "END_WORDS", "Layout", "PAGE", "Reshaped", "inputs_of"]

INDIRECT_WORDS = 1 << 19        # of one indirect buffer: half of what the packets can say
PAGE = 4096
END_WORDS = 64                  # room behind each lane's words, for the signal that ends a submission
_ALIGN = 64
BASE = 0                        # the symbol that signals start from; then the blocks' addresses, then inputs
_PACKET_KERNARG = 40            # kernarg_address in a kernel dispatch packet


class Reshaped:
    """A kernel whose grid, block or local memory is an input: bound anew where that differs from what is there."""

    def __init__(self, layout: Layout, node: Node, lane: Lane, block: Block, at: int, first: int) -> None:
        self.layout, self.node, self.lane, self.block, self.at, self.first = layout, node, lane, block, at, first

    def bind(self, changed: Mapping[str, Any]) -> Launch:
        """:raises LaunchError: what the kernel or the device does not allow."""
        program, *rest = self.node.operands
        launch: Launch = program.bind(*resolve(tuple(rest), changed))
        return launch

    def store(self, copy: BlockCopy, number: int, launch: Launch) -> None:
        wanted = launch.explicit, launch.shape
        if copy.shapes.get(self.node.number) == wanted:
            return
        view, address = copy.views[number], copy.buffers[number].address
        start = self.block.words_bytes + self.at
        packet = launch.write(view[1].data.cast("B"), start, address + start)
        words = self.layout.encode_kernel(self.lane, launch.program, launch.shape, {
            "kernarg": address + start, "dispatch_packet": packet, "dispatch_id": self.node.number})
        view[4][self.first:self.first + len(words)] = words
        copy.shapes[self.node.number] = wanted


class Layout:
    """The packets of some nodes. :raises GraphError: the backend's packets cannot be changed in place."""

    def __init__(self, nodes: Sequence[Node], choice: Choice) -> None:
        self.nodes = nodes
        self.schedule = Schedule(nodes, choice)
        self.devices: list[Device] = []
        for lane in self.schedule.lanes:
            if lane.steps and lane.device not in self.devices:
                self.devices.append(lane.device)
        self.devices.sort(key=lambda device: (device.name, id(device)))      # locks are taken in this order
        self.lanes = [lane for lane in self.schedule.lanes if lane.steps]
        self.blocks = [Block(device, 1 + number) for number, device in enumerate(self.devices)]
        self._block_of = {device: block for device, block in zip(self.devices, self.blocks, strict=True)}
        self.symbols: list[Symbol] = []
        self._symbol_of: dict[tuple[Any, ...], int] = {}
        self._large: list[tuple[int, int, int, str, Callable[[Any], bytes]]] = []   # structures among the inputs
        self._checks: list[Node] = []                   # copies and fills with inputs
        self._reshaped: list[Reshaped] = []
        self._encoded: dict[Any, tuple[list[int], list[Hole]]] = {}
        self._signals = {lane: Signal(lane.device) for lane in self.lanes}
        self._step_of_base = max((len(lane.steps) for lane in self.lanes), default=0) + 1
        self._limit = min(device.properties.signal_bits for device in self.devices) if self.devices else 32
        self._limit = (1 << min(self._limit, 32)) - 1 - self._step_of_base
        self._fixed: dict[int, Storage] = {}            # buffers that are no input's
        self._inputs: dict[str, tuple[Access, ...]] = {}
        self._pinned = self._find_memory()
        self._epochs = [device._pool.epoch for device in self.devices]
        for device in self.devices:
            device._check_open()
        try:
            self._build()
        except NotPatchable as error:
            names = ", ".join(lane.name for lane in self.lanes)
            raise GraphError(f"the packets of {names} cannot be changed in place: {error}") from error

    # --- what the replays' buffers mean

    def _find_memory(self) -> dict[Storage, list[Access]]:
        """Everything that is touched; fills in what is fixed and what inputs stand for."""
        touched: dict[Storage, list[Access]] = {}
        inputs: dict[str, list[Access]] = {}
        for node in self.nodes:
            values = node.operands[1] if node.kind == "kernel" else node.operands
            buffers = [value for value in values if isinstance(getattr(value, "default", value), Buffer)]
            for value, access in zip(buffers, _in_order(node), strict=True):
                if isinstance(value, Input):
                    inputs.setdefault(value.name, []).append(access)
                else:
                    self._fixed[id(access.storage)] = access.storage
                known = touched.setdefault(access.storage, [])
                if access not in known:
                    known.append(access)
        self._inputs = {name: tuple(accesses) for name, accesses in inputs.items()}
        self._writes = {name: any(access.write for access in accesses) for name, accesses in inputs.items()}
        self._written = {name for name, writes in self._writes.items() if writes}
        self._across = {name for node in self.nodes if node.kind == "copy" and Schedule._across(node)
                        for name in node.inputs}
        return touched

    def _overlaps(self, changed: Mapping[str, Any]) -> bool:
        """Do these buffers overlap what they did not overlap, so that other dependencies hold?

        Fewer dependencies than were recorded do no harm. A buffer of a copy between devices is reached in another way.
        """
        seen: dict[Storage, list[tuple[Access, bool]]] = {}
        for name, value in changed.items():
            if not isinstance(value, Buffer):
                continue
            if name not in self._inputs:                # a pointer that was null
                return True
            old = self._inputs[name][0]
            new = Access.of(value, write=self._writes[name])
            moved = (new.storage, new.start, new.stop) != (old.storage, old.start, old.stop)
            if moved and (name in self._across or any(access.overlaps(new) and (access.write or new.write)
                                                      for access in self._pinned.get(new.storage, ()))):
                return True
            near = seen.setdefault(new.storage, [])
            if any(access.overlaps(new) and (access.write or new.write) and (moved or also)
                   for access, also in near):
                return True
            if (new, moved) not in near:
                near.append((new, moved))
        return False

    # --- building

    def _build(self) -> None:
        words: dict[Lane, list[int]] = {lane: [] for lane in self.lanes}
        pending: list[tuple[Lane, int, Hole, int, bool]] = []       # (lane, word, hole, symbol, once)
        ends: dict[Lane, list[int]] = {lane: [0] for lane in self.lanes}
        for step in self.schedule.steps:
            self._emit(step, words[step.lane], pending)
            ends[step.lane].append(len(words[step.lane]))
        for lane in self.lanes:     # what goes into a ring as it is must not wait there for what is submitted after it
            largest = getattr(lane.timeline.queue, "largest", None)
            direct = not hasattr(lane.encoder, "indirect") or (lane.kind == "copy" and len(_cut(ends[lane])) > 2)
            if largest is not None and direct and len(words[lane]) > largest:
                raise GraphError(f"the graph's packets for {lane.name} are {len(words[lane])} words; a submission to "
                                 f"it has at most {largest}: record several graphs, or one of another kind")
        for block in self.blocks:
            start = 0
            for lane in self.lanes:
                if lane.device is block.device:
                    block.lanes[lane] = start, len(words[lane])
                    start += len(words[lane]) + END_WORDS + _ALIGN // 4 - 1 & -(_ALIGN // 4)
                    block.cuts[lane] = _cut(ends[lane])
            block.words_bytes = 4 * start + PAGE - 1 & -PAGE
            block.template = np.zeros(block.words_bytes + block.kernarg_bytes + 7 & -8, np.uint8)
            for lane, (first, count) in block.lanes.items():
                block.template.view(np.uint32)[first:first + count] = words[lane]
            for offset, data in block.kernargs:
                at = block.words_bytes + offset
                block.template[at:at + len(data)] = np.frombuffer(data, np.uint8)
        for lane, word, hole, symbol, once in pending:
            block = self._block_of[lane.device]
            at, addend = block.lanes[lane][0] + word, hole.addend
            table = block.once if once else block.always[4]
            if once:
                addend += block.words_bytes             # segments lie behind the words
            table.add(at, symbol, addend)
            if hole.wide:
                table.add(at + 1, symbol, addend, 32)
        for block in self.blocks:
            for size, add in ((4, block.segment_words), (2, block.segment_halves), (1, block.segment_bytes)):
                for offset, symbol, shift in add:
                    block.always[size].add((block.words_bytes + offset) // size, symbol, 0, shift)
            for offset, symbol, addend, shift in block.segment_once:
                block.once.add((block.words_bytes + offset) // 4, symbol, addend + block.words_bytes, shift)
            block.once.freeze(4)
            block.always[8], block.always[4] = block.always[4].paired()
            for size, table in block.always.items():
                table.freeze(size)
        for reshaped in self._reshaped:
            reshaped.first += reshaped.block.lanes[reshaped.lane][0]

    def _emit(self, step: Step, words: list[int], pending: list[tuple[Lane, int, Hole, int, bool]]) -> None:
        lane, encoder = step.lane, step.lane.encoder

        def put(found: list[int], holes: Sequence[Hole], symbols: Mapping[str, tuple[int, int, bool]]) -> None:
            """Append words; ``symbols``: by the holes' names (symbol, addend, once)."""
            for hole in holes:
                if hole.name in symbols:
                    symbol, addend, once = symbols[hole.name]
                    pending.append((lane, len(words) + hole.word, hole._replace(addend=hole.addend + addend), symbol,
                                    once))
            words.extend(found)

        for other in step.waits:
            put(*self._wait_words(lane, other.lane), {"value": (BASE, other.position, False)})
        if step.what == "arrival":
            arrival = getattr(lane.device.backend, "peer_arrival", None)
            if arrival is not None:
                arrival(words)
        if step.barrier:
            encoder.memory_barrier(words)
        if step.what == "kernel":
            self._kernel(step, put, len(words))
        elif step.what in ("copy", "fill"):
            self._transfer(step, put)
        if step.signals:
            signal = self._signals[lane]
            put(*self._probed(("signal", lane), lambda v, into: encoder.signal(into, signal.address, v["value"],
                                                                               interrupt=False),
                              {"value": NUMBER}), {"value": (BASE, step.position, False)})

    def _probed(self, key: Any, encode: Callable[[Mapping[str, int], list[int]], None], probes: Mapping[str, Probe]
                ) -> tuple[list[int], list[Hole]]:
        if key not in self._encoded:
            def words(values: Mapping[str, int]) -> list[int]:
                into: list[int] = []
                encode(values, into)
                return into
            self._encoded[key] = probe(words, probes, {name: each.first for name, each in probes.items()})
        return self._encoded[key]

    def _wait_words(self, lane: Lane, other: Lane) -> tuple[list[int], list[Hole]]:
        from hcq.peer import _signal_address
        address = _signal_address(lane.device, Point(self._signals[other], 0))
        if isinstance(address, str):
            raise GraphError(f"{lane.device.name} cannot wait for {other.device.name}: {address}")
        return self._probed(("wait", lane, other), lambda v, into: lane.encoder.wait(into, address, v["value"]),
                            {"value": NUMBER})

    def encode_kernel(self, lane: Lane, program: Program, shape: Shape, values: Mapping[str, int]) -> list[int]:
        device, kernel = program.device, program.kernel
        into: list[int] = []
        number = {"dispatch_id": values["dispatch_id"]} if program.wants_id else {}
        if lane.kind == "aql":
            number["dims"] = shape.dims
        lane.encoder.exec(into, kernel, values["kernarg"], shape.grid, shape.block, dynamic_lds=shape.lds,
                                    dispatch_packet=values["dispatch_packet"],
                                    queue_ptr=device._queue_block() if program.wants_queue else 0, **number)
        return into

    def _kernel(self, step: Step, put: Callable[..., None], first: int) -> None:
        node, block = step.node, self._block_of[step.lane.device]
        program, args, grid, block_size, lds = node.operands
        launch = program.bind(*resolve((args, grid, block_size, lds), {}))
        if program.kernel.private_bytes and step.lane.encoder is program.device.backend.compute:
            program.device.backend.ensure_scratch(program.kernel.private_bytes * program.kernel.wave_size)
        at = block.take(program.block_bytes, max(_ALIGN, program.info.kernarg_align))
        data = bytearray(program.block_bytes)
        launch.write(memoryview(data), 0, 0)
        block.kernargs.append((at, bytes(data)))
        found, holes = self._probed(
            (program.kernel, launch.shape, step.lane),
            lambda v, into: into.extend(self.encode_kernel(step.lane, program, launch.shape, v)),
            {"kernarg": ADDRESS, "dispatch_packet": ADDRESS, "dispatch_id": NUMBER})
        found = list(found)
        for hole in holes:
            if hole.name == "dispatch_id":
                found[hole.word] = node.number
        put(found, holes, {"kernarg": (block.symbol, at, True),
                           "dispatch_packet": (block.symbol, at + program.packet_offset, True)})
        if program.packet_offset:                       # the packet's own pointer to the segment
            place = at + program.packet_offset + _PACKET_KERNARG
            block.segment_once += [(place, block.symbol, at, 0), (place + 4, block.symbol, at, 32)]
        locals_ = {index for index, _ in program._locals}
        shape_inputs = any(isinstance(value, Input) for part in (grid, block_size, lds)
                           for value in (part if isinstance(part, tuple) else (part,)))
        if shape_inputs or any(isinstance(args[index], Input) for index in locals_):
            self._reshaped.append(Reshaped(self, node, step.lane, block, at, first))
            return
        for index, value in enumerate(args):
            if isinstance(value, Input):
                self._argument(block, at, program, index, value)

    def _argument(self, block: Block, at: int, program: Program, index: int, value: Input) -> None:
        argument, convert = program.info.arguments[index], program._converters[index]
        place, size = at + argument.offset, argument.size
        if size not in (1, 2, 4, 8) or place % min(size, 4):
            self._large.append((self.blocks.index(block), place, size, value.name, convert))
            return
        symbol = self._symbol(value, (program.device, argument.kind, size, argument.type_name), convert)
        if size == 1:
            block.segment_bytes.append((place, symbol, 0))
        elif size == 2:
            block.segment_halves.append((place, symbol, 0))
        else:
            block.segment_words += [(place + 4 * half, symbol, 32 * half) for half in range(size // 4)]

    def _symbol(self, value: Input, role: tuple[Any, ...], convert: Callable[[Any], Any]) -> int:
        key = value.name, *role
        if key not in self._symbol_of:
            self._symbol_of[key] = 1 + len(self.blocks) + len(self.symbols)
            self.symbols.append(Symbol(value.name, value.default, convert,
                                       role[0] if role[1:2] == ("global_buffer",) else None))
        return self._symbol_of[key]

    def _transfer(self, step: Step, put: Callable[..., None]) -> None:
        node, encoder = step.node, step.lane.encoder
        first, second = node.operands
        values = resolve(node.operands, {})
        if node.inputs and node.inputs.isdisjoint(self._across):
            self._checks.append(node)
        symbols: dict[str, tuple[int, int, bool]] = {}
        if node.kind == "fill":
            nbytes = values[0].nbytes
            actual = {"to": values[0].address, "value": values[1]}
            probes = {"to": ADDRESS, "value": NUMBER}
            if isinstance(first, Input):
                symbols["to"] = self._symbol(first, ("address",), partial(_address, first.name)), 0, False
            if isinstance(second, Input):
                symbols["value"] = self._symbol(second, ("pattern",), _pattern), 0, False
            encode = lambda v, into: encoder.fill(into, v["to"], v["value"], nbytes)
        elif Schedule._across(node):
            from hcq.peer import _reach
            ranges, at = _reach(step.lane.device, values[0]), values[1].address
            assert not isinstance(ranges, str)          # the schedule has asked
            for to, nbytes in ranges:
                into: list[int] = []
                encoder.copy(into, to, at, nbytes)
                put(into, (), {})
                at += nbytes
            return
        else:
            nbytes = values[0].nbytes
            actual = {"to": values[0].address, "origin": values[1].address}
            probes = {"to": ADDRESS, "origin": ADDRESS}
            for name, value in (("to", first), ("origin", second)):
                if isinstance(value, Input):
                    symbols[name] = self._symbol(value, ("address",), partial(_address, value.name)), 0, False
            encode = lambda v, into: encoder.copy(into, v["to"], v["origin"], nbytes)
        found, holes = self._probed((node.kind, step.lane, nbytes), encode, probes)
        found = list(found)
        for hole in holes:
            hole.store(found, actual[hole.name])
        put(found, holes, symbols)


def _cut(ends: Sequence[int]) -> list[int]:
    """Where to divide words into indirect buffers: at the ends of steps."""
    cuts = [0]
    for end, following in zip(ends[1:], [*ends[2:], None], strict=False):
        if following is None or following - cuts[-1] > INDIRECT_WORDS:
            cuts.append(end)
    return cuts


def _in_order(node: Node) -> list[Access]:
    """A node's accesses in the order of its operands."""
    return node.accesses if node.kind != "copy" else [node.accesses[1], node.accesses[0]]


def inputs_of(value: Any) -> list[Input]:
    if isinstance(value, Input):
        return [value]
    if isinstance(value, (tuple, list)):
        return [found for part in value for found in inputs_of(part)]
    return []


def _address(name: str, value: Any) -> int:
    if not isinstance(value, Buffer):
        raise GraphError(f"input {name!r} is a buffer of a copy or a fill; a {type(value).__name__} is none")
    return value.address


def _pattern(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 <= value < 1 << 32:
        raise QueueError(f"a fill pattern is 0 to 2**32-1, not {value!r}")
    return int(value)
