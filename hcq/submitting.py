"""From commands to packets in a hardware queue: launches, queues filled by hand, and the order of a device's work.

Each submission of the device's own stream first waits, on the engine, for what the other queues have been given.
Queues filled by hand order themselves.
"""

from __future__ import annotations

import struct
from array import array
from typing import TYPE_CHECKING, Any

import numpy as np

from hcq.access import Access, of_arguments
from hcq.backend import IndirectBuffer
from hcq.core import Core
from hcq.debug import Touch
from hcq.errors import GraphError
from hcq.queue import Commands

if TYPE_CHECKING:
    from hcq.memory import Buffer
    from hcq.program import Launch
    from hcq.queue import _Queue
    from hcq.signal import Point, Timeline

__all__ = ["Submitting"]

_INDIRECT, _INDIRECT_LARGEST = 1 << 13, 1 << 19     # words of a submission that go into an indirect buffer
# amd_queue_t (HSA ABI, LLVM's AMDGPU guide): high halves of the LDS and scratch apertures.
_QUEUE_BLOCK, _QUEUE_SHARED_HI, _QUEUE_PRIVATE_HI = 256, 0x40, 0x44


class Submitting(Core):
    """The part of a :class:`hcq.Device` that submits."""

    def _begin(self, timeline: Timeline, encoder: Any, *, in_order: bool = True) -> list[int]:
        """Words that make a queue wait for what the others have been given, where its work is part of the order."""
        timeline.turn()
        words: list[int] = []
        for other in self._all if in_order else ():
            if other is not timeline and other.busy:
                encoder.wait(words, other.signal.address, other.submitted)
                timeline.will_wait(other.signal, other.submitted)
        return words

    def _finish(self, timeline: Timeline, encoder: Any, words: list[int], what: object, *, interrupt: bool = True,
                memory: Buffer | None = None) -> Point:
        """:param memory: of its own, for the words; what goes into the queue then leads there."""
        content = None
        if memory is not None:
            content = np.array(words, np.uint32)    # the memory is someone else's when the driver counts this
            memory.view.view(np.uint32)[:len(words)] = content
            words = []
            encoder.indirect(words, memory.address, len(content))
        encoder.signal(words, timeline.signal.address, timeline.submitted + 1, interrupt=interrupt)
        try:
            packets = np.frombuffer(array("I", words), np.uint32)
            if content is None:
                timeline.queue.submit(packets)
            else:
                timeline.queue.submit(packets, indirect=(IndirectBuffer(content),))     # type: ignore[call-arg]
        except Exception as error:
            if getattr(error, "partly", False):
                timeline.record(what)               # begun, and never complete
                self._failure = error
            raise
        point = timeline.record(what)
        if interrupt:
            timeline.wakes = timeline.submitted
        if timeline is not self._compute:
            self._beside += 1
        return point

    def _exec(self, encoder: Any, words: list[int], launch: Launch, memory: memoryview, offset: int, address: int,
              **more: int) -> None:
        program, shape = launch.program, launch.shape
        kernel = program.kernel
        packet = launch.write(memory, offset, address)
        if kernel.private_bytes and encoder is self.backend.compute:
            self.backend.ensure_scratch(kernel.private_bytes * kernel.wave_size)
        self._launches += 1
        number = more | ({"dispatch_id": self._launches} if program.wants_id else {})
        encoder.exec(words, kernel, address, shape.grid, shape.block, dynamic_lds=shape.lds, dispatch_packet=packet,
                     queue_ptr=self._queue_block() if program.wants_queue else 0, **number)

    def _launch(self, launch: Launch) -> Point:
        with self._lock:
            self._check_open()
            ring, encoder, timeline = self._kernargs, self.backend.compute, self._compute
            words = self._begin(timeline, encoder)
            encoder.memory_barrier(words)
            try:
                offset = ring.take(launch.program.block_bytes)
                self._exec(encoder, words, launch, ring.bytes, offset, ring.address + offset)
                point = self._finish(timeline, encoder, words, launch.shape, interrupt=False)
            except BaseException:
                ring.cancel()
                raise
            ring.retire(point)
            if self._debug is not None:
                epoch = self._debug.barriers[id(timeline)] = self._debug.barriers.get(id(timeline), 0) + 1
                self._debug.submitted(timeline, launch, [Touch(access, epoch) for access in of_arguments(
                    launch.program, launch.args)], in_order=True)
            return point

    def _encode(self, queue: _Queue, words: list[int], memory: memoryview, offset: int, address: int) -> None:
        """A hand-filled queue's commands; kernel arguments go to ``memory[offset]``, seen at ``address``."""
        encoder = queue._encoder
        for name, operands in queue._commands:
            if name == "exec":
                launch = operands[0]
                more = {"dims": launch.shape.dims, "completion": operands[1]} if queue.kind == "aql" else {}
                self._exec(encoder, words, launch, memory, offset, address, **more)
                size = launch.program.block_bytes + 63 & -64
                offset += size
                address += size
            elif name in ("wait", "signal", "timestamp", "barrier"):        # the first operand is the signal itself
                getattr(encoder, name)(words, *operands[1:])
            else:
                getattr(encoder, name)(words, *operands)

    @staticmethod
    def _kernarg_bytes(queue: _Queue) -> int:
        return sum(operands[0].program.block_bytes + 63 & -64 for name, operands in queue._commands if name == "exec")

    def _preview(self, queue: _Queue) -> list[int]:
        """Words of commands not yet submitted, with kernel arguments at address 0."""
        words: list[int] = []
        self._encode(queue, words, memoryview(bytearray(self._kernarg_bytes(queue))), 0, 0)
        return words

    def _submit(self, queue: _Queue, *, in_order: bool = False) -> Point:
        with self._lock:
            self._check_open()
            if self._recording is not None:
                raise GraphError("a queue submitted inside the recording of a graph")
            timeline, encoder, ring = queue.timeline, queue._encoder, self._kernargs
            words = self._begin(timeline, encoder, in_order=in_order)
            for name, operands in queue._commands:
                if name == "wait":
                    timeline.will_wait(operands[0], operands[2])
                elif name == "signal":
                    timeline.will_give(operands[0], operands[2])
            for storage in queue._storages:
                storage.check()
                for point in storage.ready:         # of the memory's earlier life
                    if not point.done:
                        encoder.wait(words, point.signal.address, point.value)
            fresh = {operands[0].program.image for name, operands in queue._commands
                     if name == "exec" and timeline not in operands[0].program.image.barriers}
            if fresh:
                encoder.memory_barrier(words)       # the instruction cache may hold what was there before
            nbytes = self._kernarg_bytes(queue)
            own: list[Buffer] = []                  # what is too large for the rings
            try:
                if nbytes > ring.nbytes // 4:
                    own.append(self._device.alloc(nbytes, host=True))
                    self._encode(queue, words, own[0].view.data.cast("B"), 0, own[0].address)
                else:
                    offset = ring.take(nbytes) if nbytes else 0
                    self._encode(queue, words, ring.bytes, offset, ring.address + offset)
                apart = _INDIRECT < len(words) <= _INDIRECT_LARGEST and hasattr(encoder, "indirect")
                if apart:
                    own.append(self._device.alloc(4 * len(words), host=True))
                point = self._finish(timeline, encoder, words, Commands(queue._commands),
                                     memory=own[-1] if apart else None)
            except BaseException:
                ring.cancel()
                raise
            ring.retire(point)
            for image in fresh:
                image.barriers.add(timeline)
            del own                                 # cached behind a fence that this submission is part of
            queue._last = words
            commands, accesses = queue._commands, queue._accesses
            queue._commands, queue._storages, queue._accesses = [], [], []
            if self._debug is not None:
                self._book(timeline, commands, accesses, in_order)
            return point

    def _book(self, timeline: Timeline, commands: list[tuple[str, tuple[Any, ...]]], accesses: list[Access],
              in_order: bool) -> None:
        """Tell the debug mode of the last submission of a queue filled by hand."""
        debug = self._debug
        assert debug is not None
        epoch = debug.barriers.get(id(timeline), 0)
        touched = [Touch(access, epoch, -1) for access in accesses]
        for number, (name, operands) in enumerate(commands):
            if name == "memory_barrier":
                epoch += 1
            elif name == "exec":
                launch = operands[0]
                touched += [Touch(access, epoch, number) for access in of_arguments(launch.program, launch.args)]
        debug.barriers[id(timeline)] = epoch
        debug.submitted(timeline, Commands(commands), touched, in_order=in_order,
                        waits=[(operands[0], operands[2]) for name, operands in commands if name == "wait"],
                        counts=[operands[2] for name, operands in commands if name == "exec" and len(operands) > 2],
                        zeros=[signal for name, operands in commands if name == "barrier" and operands[2]
                               for signal in operands[0]],
                        gives=[(operands[0], operands[2]) for name, operands in commands if name == "signal"])

    def _queue_block(self) -> int:
        """Address of the amd_queue_t block, for kernels that look up the apertures there."""
        if self._queue_storage is None:
            buffer = self._device.alloc(_QUEUE_BLOCK, host=True)
            buffer.view[:] = 0
            struct.pack_into("<I", buffer.view.data, _QUEUE_SHARED_HI, self.properties.shared_aperture >> 32)
            struct.pack_into("<I", buffer.view.data, _QUEUE_PRIVATE_HI, self.properties.private_aperture >> 32)
            self._queue_storage = buffer._storage
        return self._queue_storage.address
