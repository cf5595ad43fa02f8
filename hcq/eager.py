"""Launches at the price of a few stores: what ``program(...)`` does when the kernel and its sizes were seen before.

The packets of a launch (barrier, registers, dispatch, the timeline's signal) are built once for a kernel and a shape;
a launch then packs its arguments into a ring of host memory, stores their address and the timeline's next value into
the packets, and hands them to the ring. Kernels with many kilobytes of arguments go the long way, ``Device._launch``.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from hcq.patch import ADDRESS, NUMBER, Hole, NotPatchable, probe
from hcq.signal import Point, Signal

if TYPE_CHECKING:
    from hcq.device import Device
    from hcq.program import Program, Shape

__all__ = ["Eager", "Prepared"]

RING_BYTES = 1 << 20
SEGMENT_BYTES = 1 << 16             # arguments are taken back by the segment, not by the launch
LARGEST = 1 << 13                   # kernarg bytes; beyond, the long way
KEPT = 256                          # shapes of a kernel
LOW = 0xFFFFFFFF
_ALIGN = 64
_PACKET_KERNARG = 40                # kernarg_address in a kernel dispatch packet


class Prepared:
    """A kernel's launch with one shape: its packets, and where they hold what changes."""

    __slots__ = ("high", "low", "nbytes", "number", "pack_into", "packet_high", "packet_low", "packet_offset", "shape",
                 "signal", "tail", "value", "view", "words")

    def __init__(self, program: Program, shape: Shape, signal: Signal, words: list[int], holes: list[Hole]) -> None:
        """:raises NotPatchable: a value stands in more than one place."""
        places: dict[str, int] = {}
        for hole in holes:
            if hole.name in places or hole.addend:
                raise NotPatchable(f"{hole.name} stands in several places")
            places[hole.name] = hole.word
        if "value" not in places:
            raise NotPatchable("the end of a launch does not hold the value that it stores")
        count = len(words)              # beyond them: where values go that the packets do not hold
        memory = np.array([*words, 0, 0], np.uint32)
        self.words, self.view = memory[:count], memory.data
        self.low = places.get("kernarg", count)
        self.high = self.low + 1
        self.packet_low = places.get("dispatch_packet", count)
        self.packet_high = self.packet_low + 1
        self.number = places.get("dispatch_id", count)
        self.value = places["value"]
        self.shape, self.signal = shape, signal
        self.packet_offset = program.packet_offset
        self.nbytes = program.block_bytes + _ALIGN - 1 & -_ALIGN
        self.tail, layout = shape.tail, f"{program.explicit.format}{len(shape.tail)}s"
        if self.packet_offset:          # the dispatch packet with a hole for the arguments' address, see Launch.write
            packet = program.dispatch_packet(shape, 0)
            padding = bytes(self.packet_offset - program.explicit.size - len(self.tail))
            self.tail += padding + packet[:_PACKET_KERNARG]
            layout = f"{program.explicit.format}{len(self.tail)}sQ{len(packet) - _PACKET_KERNARG - 8}x"
        self.pack_into = struct.Struct(layout).pack_into


class Eager:
    """The launches of a device, in its stream."""

    def __init__(self, device: Device) -> None:
        self._device, self._timeline = device, device._compute
        self._storage = device._pool.alloc(RING_BYTES, host=True)
        memory = self._storage.check()
        assert memory.view is not None
        self._memory, self._address = memory.view.data.cast("B"), memory.address
        self._offset = 0
        self._segment_end = SEGMENT_BYTES
        self._left: deque[Point] = deque()      # one a segment that was left: when its arguments have been read
        self._ordered = -1                      # Device._beside when the compute queue last waited for the others

    def prepare(self, program: Program, grid: Any, block: Any, lds: int) -> Prepared | None:
        """The packets for a shape; None where a launch has to be encoded each time.

        :raises LaunchError: what the kernel or the device does not allow.
        """
        device = self._device
        if program._locals or program.info.kernarg_align > _ALIGN or program.block_bytes > LARGEST:
            prepared = None
        else:
            shape = program.shape(grid, block, lds)
            with device._lock:
                device._check_open()
                self._timeline.turn()
                prepared = self._build(program, shape)
        if len(program.prepared) >= KEPT:
            program.prepared.clear()
        with suppress(TypeError):               # a list: next time again
            program.prepared[grid, block, lds] = prepared
        return prepared

    def _build(self, program: Program, shape: Shape) -> Prepared | None:
        device, kernel = self._device, program.kernel
        encoder, signal = device.backend.compute, self._timeline.signal
        if kernel.private_bytes:
            device.backend.ensure_scratch(kernel.private_bytes * kernel.wave_size)
        queue_ptr = device._queue_block() if program.wants_queue else 0

        def encode(values: Mapping[str, int]) -> list[int]:
            words: list[int] = []
            encoder.memory_barrier(words)
            number = {"dispatch_id": values["dispatch_id"]} if program.wants_id else {}
            encoder.exec(words, kernel, values["kernarg"], shape.grid, shape.block, dynamic_lds=shape.lds,
                         dispatch_packet=values["dispatch_packet"], queue_ptr=queue_ptr, **number)
            encoder.signal(words, signal.address, values["value"], interrupt=False)
            return words

        try:
            probes = {"kernarg": ADDRESS, "dispatch_packet": ADDRESS, "dispatch_id": NUMBER, "value": NUMBER}
            words, holes = probe(encode, probes, dict.fromkeys(probes, 0))
            return Prepared(program, shape, signal, words, holes)
        except NotPatchable:
            return None

    def launch(self, prepared: Prepared, values: Sequence[Any]) -> None:
        """:param values: the explicit arguments as ``struct`` packs them."""
        device, timeline = self._device, self._timeline
        with device._lock:
            if device._closed or device._failure is not None:
                device._check_open()
            value = timeline.submitted + 1
            if prepared.signal is not timeline.signal or value > timeline.limit:
                prepared = self._renew(prepared)
                value = timeline.submitted + 1
            if self._ordered != device._beside:
                self._order()
            offset = self._offset
            if offset + prepared.nbytes > self._segment_end:
                offset = self._next_segment()
            self._offset = offset + prepared.nbytes
            address = self._address + offset
            view = prepared.view
            view[prepared.low], view[prepared.high], view[prepared.value] = address & LOW, address >> 32, value
            if prepared.packet_offset:
                prepared.pack_into(self._memory, offset, *values, prepared.tail, address)
                address += prepared.packet_offset
                view[prepared.packet_low], view[prepared.packet_high] = address & LOW, address >> 32
                view[prepared.number] = value
            else:
                prepared.pack_into(self._memory, offset, *values, prepared.tail)
                view[prepared.number] = value
            timeline.queue.submit(prepared.words)
            timeline.submitted = value
            timeline.records.append((value, prepared.shape))

    def _order(self) -> None:
        """The compute queue waits for what the other queues have been given, once."""
        device = self._device
        words = device._begin(self._timeline, device.backend.compute)
        if words:
            self._timeline.queue.submit(np.array(words, np.uint32))
        self._ordered = device._beside

    def _next_segment(self) -> int:
        """Go on in the next segment of the ring, when the launches that were there last have read it."""
        self._left.append(self._timeline.last)
        if len(self._left) == RING_BYTES // SEGMENT_BYTES:
            self._left.popleft().settle()
        start = self._segment_end % RING_BYTES
        self._segment_end = start + SEGMENT_BYTES
        return start

    def _renew(self, prepared: Prepared) -> Prepared:
        """The timeline has another signal now."""
        self._timeline.turn()
        signal = self._timeline.signal
        if prepared.signal is not signal:
            encoder = self._device.backend.compute
            old: list[int] = []
            new: list[int] = []
            encoder.signal(old, prepared.signal.address, 0, interrupt=False)
            encoder.signal(new, signal.address, 0, interrupt=False)
            assert len(old) == len(new)
            prepared.words[len(prepared.words) - len(new):] = new
            prepared.signal = signal
        return prepared
