"""Queues by hand: commands are written down, then submitted to one hardware queue at once.

    q = hcq.ComputeQueue(dev).wait(sig, 3).memory_barrier().exec(prog, args, grid, block)
    q.timestamp(t).signal(sig, 4).submit()

Commands of one queue start in order. Two kernels may overlap unless a ``memory_barrier`` is between them, and two
queues know nothing of each other unless they ``wait`` and ``signal``. A ``submit`` also advances the queue's
timeline, so ``dev.synchronize()`` and ``copyout`` wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import numpy as np
import numpy.typing as npt

from hcq.access import Access
from hcq.backend import QueueKind
from hcq.errors import QueueError
from hcq.memory import Buffer, Storage
from hcq.program import Launch, Program, Size
from hcq.signal import Point, Signal, Timeline
from hcq.window import Surface, Window, place_in

if TYPE_CHECKING:
    from hcq.device import Device

__all__ = ["AqlQueue", "Commands", "ComputeQueue", "CopyQueue"]

COMPARISONS = ("ALWAYS", "LESS", "LESS_EQUAL", "EQUAL", "NOT_EQUAL", "GREATER_EQUAL", "GREATER")
ATOMICS = ("SWAP", "CMPSWAP", "ADD", "SUB", "SMIN", "UMIN", "SMAX", "UMAX", "AND", "OR", "XOR", "INC", "DEC")
PRIORITIES = ("low", "normal", "high")
WORD = (1 << 32) - 1


class Commands:
    """What was submitted, as text for messages; the arguments of launches are not kept."""

    __slots__ = ("_names",)

    def __init__(self, commands: Sequence[tuple[str, tuple[Any, ...]]]) -> None:
        self._names = [operands[0].shape if name == "exec" else name for name, operands in commands]

    def __str__(self) -> str:
        shown = [*map(str, self._names)] if len(self._names) <= 8 else \
            [*map(str, self._names[:3]), "...", *map(str, self._names[-3:])]
        return f"{len(self._names)} commands: " + ", ".join(shown)


class _Queue:
    """What both kinds can do. Commands are kept as (name, operands) and encoded by ``submit``."""

    kind: ClassVar[QueueKind]

    def __new__(cls, device: Device, index: int = 0, *, priority: str | None = None) -> Self:
        far = getattr(device, "_far_queue", None)   # another machine's device: the queue is there
        return super().__new__(cls) if far is None else cast(Self, far(cls.kind, index))

    def __init__(self, device: Device, index: int = 0, *, priority: str | None = None) -> None:
        """
        :param index: which of the device's hardware queues of this kind. One more than there are is made, if the
            hardware has it.
        :param priority: "low", "normal" or "high", of a queue that is made; "normal" by default.
        :raises QueueError: no such queue, or one that has another priority.
        """
        timelines = device._timelines[self.kind]
        if priority is not None and priority not in PRIORITIES:
            raise QueueError(f"a queue's priority is {', '.join(PRIORITIES)}, not {priority!r}")
        if isinstance(index, bool) or not isinstance(index, (int, np.integer)) or not 0 <= index <= len(timelines):
            raise QueueError(f"{device.name} has {len(timelines)} {self.kind} queues; queue {index} is not one of them")
        if index == len(timelines):
            device._add_queue(self.kind, priority or "normal")
        self.device = device
        self.timeline: Timeline = timelines[index]
        if priority is not None and priority != self.timeline.priority:
            raise QueueError(f"{self.timeline.queue.name} has priority {self.timeline.priority!r}, not {priority!r}; a "
                             "queue gets its priority when it is made")
        self._commands: list[tuple[str, tuple[Any, ...]]] = []
        self._storages: list[Storage] = []
        self._accesses: list[Access] = []   # for the debug mode
        self._last: list[int] = []          # words of the last submission, for dump()

    def _add(self, name: str, *operands: Any) -> Self:
        self._commands.append((name, operands))
        return self

    def _offers(self, name: str) -> None:
        if not hasattr(self._encoder, name):
            raise QueueError(f"the driver of {self.device.name} has no {name!r} for {self.kind} queues")

    def _signal(self, signal: Signal) -> tuple[Signal, int]:
        """A signal, and where the queue's engine sees it."""
        if not isinstance(signal, Signal):
            raise QueueError(f"a {type(signal).__name__} is no Signal; make one with dev.signal()")
        if signal.device is self.device:
            return signal, signal.address
        from hcq.peer import _signal_address
        address = _signal_address(self.device, Point(signal, 0))
        if isinstance(address, str):
            raise QueueError(f"the signal belongs to {signal.device.name}, the queue to {self.device.name}, and "
                             f"{address}")
        return signal, address

    def _buffer(self, buffer: Buffer, what: str, *, write: bool = True) -> int:
        if not isinstance(buffer, Buffer):
            raise QueueError(f"{what} is a {type(buffer).__name__}, expected a Buffer")
        if buffer.device is not self.device:
            raise QueueError(f"{what} belongs to {buffer.device.name}, the queue to {self.device.name}")
        address = buffer.address
        self._storages.append(buffer._storage)
        self._accesses.append(Access.of(buffer, write=write))
        return address

    def wait(self, signal: Signal, value: int) -> Self:
        """Start nothing later until ``signal`` is at least ``value``. The signal may be another device's."""
        return self._add("wait", *self._signal(signal), signal._checked(value))

    def signal(self, signal: Signal, value: int) -> Self:
        """Store ``value`` when everything before is complete and visible. The signal may be another device's."""
        return self._add("signal", *self._signal(signal), signal._checked(value))

    def timestamp(self, signal: Signal) -> Self:
        """Store the device's clock into ``signal`` when everything before is complete; see ``dev.seconds``."""
        return self._add("timestamp", *self._signal(signal))

    def write(self, destination: Buffer, data: npt.ArrayLike) -> Self:
        """Store 32-bit words that travel in the packets themselves, at the buffer's beginning.

        :raises QueueError: the words are no array of uint32 or int32, do not fit, or the place is no multiple of 4.
        """
        self._offers("write")
        words = np.asarray(data)
        if words.dtype not in (np.uint32, np.int32) or words.ndim > 1 or not words.size:
            raise QueueError(f"write takes some uint32 or int32 words, not {words.dtype}{list(words.shape)}")
        to = self._buffer(destination, "the destination")
        if words.nbytes > destination.nbytes or to % 4:
            raise QueueError(f"write of {words.nbytes} bytes to a buffer of {destination.nbytes} at {to:#x}: they must "
                             "fit, at a multiple of 4")
        return self._add("write", to, words.reshape(-1).view(np.uint32).tolist())

    def poll(self, buffer: Buffer, value: int, *, mask: int = WORD, compare: str = "EQUAL") -> Self:
        """Start nothing later until the 32-bit word at the buffer's beginning, and ``mask``, compares with ``value``.

        :param compare: one of ``COMPARISONS``: the word against the value, both unsigned.
        """
        self._offers("poll")
        address = self._buffer(buffer, "the word", write=False)
        for what, number in (("value", value), ("mask", mask)):
            if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or not 0 <= number <= WORD:
                raise QueueError(f"poll: the {what} is 0 to 2**32-1, not {number!r}")
        if compare not in COMPARISONS:
            raise QueueError(f"poll compares by {', '.join(COMPARISONS)}, not by {compare!r}")
        if address % 4 or buffer.nbytes < 4:
            raise QueueError(f"poll looks at a 32-bit word at a multiple of 4, not at {buffer.nbytes} bytes at "
                             f"{address:#x}")
        return self._add("poll", address, int(value), int(mask), compare)

    def atomic(self, buffer: Buffer, operation: str, operand: int, *, bits: int = 32, compare: int = 0,
               loop: bool = False) -> Self:
        """An atomic operation on the word of ``bits`` (32 or 64) at the buffer's beginning.

        :param operation: one of ``ATOMICS``.
        :param compare: for CMPSWAP: what the word must hold.
        :param loop: for CMPSWAP: again and again, until it does.
        """
        self._offers("atomic")
        address = self._buffer(buffer, "the word")
        if operation not in ATOMICS or bits not in (32, 64):
            raise QueueError(f"atomic operations are {', '.join(ATOMICS)} of 32 or 64 bits, not {operation!r} of "
                             f"{bits!r}")
        for what, number in (("operand", operand), ("comparand", compare)):
            if isinstance(number, bool) or not isinstance(number, (int, np.integer)) \
                    or not -1 << bits - 1 <= number < 1 << bits:
                raise QueueError(f"atomic: the {what} has {bits} bits, {number!r} does not fit")
        if loop and operation != "CMPSWAP":
            raise QueueError(f"only CMPSWAP is tried again until it succeeds, not {operation}")
        if address % (bits // 8) or buffer.nbytes < bits // 8:
            raise QueueError(f"an atomic operation of {bits} bits at {address:#x}, {buffer.nbytes} bytes: the word "
                             f"must fit, at a multiple of {bits // 8}")
        ones = (1 << bits) - 1
        return self._add("atomic", address, f"{operation}_{bits}", int(operand) & ones, int(compare) & ones, loop)

    def interrupt(self) -> Self:
        """Interrupt the host when everything before is complete: whoever sleeps in a wait looks again."""
        self._offers("interrupt")
        return self._add("interrupt")

    def submit(self) -> Point:
        """Hand the commands to the hardware. The queue is empty afterwards and may be filled again.

        :return: the point at which all of it is complete.
        """
        return self.device._submit(self)

    def dump(self) -> str:
        """The packets, back to names, one a line: of the commands not yet submitted, else of the last submission.

        Addresses of kernel arguments are 0 in what is not yet submitted.
        """
        words = self.device._preview(self) if self._commands else self._last
        describe = getattr(self._encoder, "describe", None)
        lines = describe(words) if describe is not None else [f"{word:08x}" for word in words]
        return "\n".join(lines)

    @property
    def _encoder(self) -> Any:
        return self.timeline.encoder

    def __len__(self) -> int:
        return len(self._commands)

    def __str__(self) -> str:
        return str(Commands(self._commands))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.timeline.queue.name}, {self})"


class ComputeQueue(_Queue):
    """Commands for a compute engine."""

    kind: ClassVar[QueueKind] = "compute"

    def memory_barrier(self) -> Self:
        """Wait for the earlier kernels of this queue; writes of everyone before become visible to later ones."""
        return self._add("memory_barrier")

    def exec(self, program: Program, args: Sequence[Any], grid: Size, block: Size, lds: int = 0) -> Self:
        """Launch a kernel. Arguments as in calling the program, packed now.

        :raises LaunchError: as calling the program does.
        """
        return self._add("exec", self._bind(program, args, grid, block, lds))

    def _bind(self, program: Program, args: Sequence[Any], grid: Size, block: Size, lds: int) -> Launch:
        if not isinstance(program, Program):
            raise QueueError(f"a {type(program).__name__} is no Program; make one with dev.program()")
        if program.device is not self.device:
            raise QueueError(f"kernel {program.name!r} is loaded on {program.device.name}, the queue belongs to "
                             f"{self.device.name}")
        launch = program.bind(args, grid, block, lds)
        self._storages.extend(launch.storages)
        return launch


class AqlQueue(ComputeQueue):
    """Commands for a compute engine in the packets of the HSA standard, which the engine's firmware processes: launches
    and barriers of 64 bytes, and the other commands of :class:`ComputeQueue` behind packets that lead to them.

        q = hcq.AqlQueue(dev).exec(prog, args, grid, block, completion=sig).barrier_and(sig).exec(...)

    A device has none to begin with; asking for one makes it, as with compute queues beyond the first.
    """

    kind = "aql"

    def exec(self, program: Program, args: Sequence[Any], grid: Size, block: Size, lds: int = 0,
             completion: Signal | None = None) -> Self:
        """Launch a kernel. Arguments as in calling the program, packed now.

        :param completion: is counted down by one when the launch is complete: give it the number of launches first.
        :raises LaunchError: as calling the program does.
        """
        launch = self._bind(program, args, grid, block, lds)
        if completion is None:
            return self._add("exec", launch, 0)
        signal, address = self._signal(completion)
        return self._add("exec", launch, address, signal)

    def barrier_and(self, *signals: Signal) -> Self:
        """Start nothing later until every one of the signals is at 0."""
        return self._barrier(signals, True)

    def barrier_or(self, *signals: Signal) -> Self:
        """Start nothing later until one of the signals, at most 5, is at 0."""
        return self._barrier(signals, False)

    def _barrier(self, signals: Sequence[Signal], every: bool) -> Self:
        if not signals or (not every and len(signals) > 5):
            raise QueueError(f"a barrier waits for {'some signals' if every else '1 to 5 signals'}, not for "
                             f"{len(signals)}")
        found = [self._signal(signal) for signal in signals]
        return self._add("barrier", [signal for signal, _ in found], [address for _, address in found], every)


class CopyQueue(_Queue):
    """Commands for a copy engine."""

    kind = "copy"

    def copy(self, destination: Buffer, source: Buffer) -> Self:
        """Copy between buffers (or views) of the same size.

        :raises QueueError: sizes differ, or the ranges overlap.
        """
        to, origin = self._buffer(destination, "the destination"), self._buffer(source, "the source", write=False)
        if destination.nbytes != source.nbytes:
            raise QueueError(f"copy of {source.nbytes} bytes to a buffer of {destination.nbytes}; "
                             "take a view of the same size, buf[a:b]")
        if to < origin + source.nbytes and origin < to + destination.nbytes:
            raise QueueError(f"copy between ranges that overlap: {destination.nbytes} bytes at {origin:#x} and {to:#x}")
        return self._add("copy", to, origin, source.nbytes)

    def fill(self, destination: Buffer, value: int) -> Self:
        """Fill with a 32-bit pattern.

        :raises QueueError: place or size are no multiples of 4, or the value is beyond 32 bits.
        """
        to = self._buffer(destination, "the destination")
        if not isinstance(value, int) or not 0 <= value < 1 << 32:
            raise QueueError(f"a fill pattern is 0 to 2**32-1, not {value!r}")
        if to % 4 or destination.nbytes % 4:
            raise QueueError(f"fill of {destination.nbytes} bytes at {to:#x}: both must be multiples of 4")
        return self._add("fill", to, value, destination.nbytes)

    def copy_window(self, destination: Buffer, source: Buffer, shape: Sequence[int], *, element_bytes: int = 4,
                    destination_strides: Sequence[int] | None = None,
                    source_strides: Sequence[int] | None = None) -> Self:
        """Copy a box of elements out of a larger array into another, row by row: a strided sub-window.

        The box begins at each buffer's first byte (take a view, ``buf[a:]``, for another place).

        :param shape: (height, width) or (depth, height, width), in elements.
        :param destination_strides: bytes from row to row, or from slice to slice and row to row; dense by default.
        :raises QueueError: the box leaves a buffer, or the ranges overlap, or a stride is not the hardware's.
        """
        self._offers("window")
        to, origin = self._buffer(destination, "the destination"), self._buffer(source, "the source", write=False)
        there = Window.of(shape, element_bytes, destination_strides, "the destination", destination)
        here = Window.of(shape, element_bytes, source_strides, "the source", source)
        if to < origin + here.span and origin < to + there.span:
            raise QueueError(f"a window between ranges that overlap: {here.span} bytes at {origin:#x}, {there.span} at "
                             f"{to:#x}")
        return self._checked("window", to, origin, there.size, element_bytes, there.pitch, here.pitch)

    def tile(self, tiled: Buffer, surface: Surface, linear: Buffer, shape: Sequence[int], *,
             at: Sequence[int] = (0, 0), linear_strides: Sequence[int] | None = None) -> Self:
        """Copy a box of linear memory to its place ``at`` (y, x), or (z, y, x), in a tiled surface."""
        return self._tiled(tiled, surface, linear, shape, at, linear_strides, False)

    def detile(self, linear: Buffer, tiled: Buffer, surface: Surface, shape: Sequence[int], *,
               at: Sequence[int] = (0, 0), linear_strides: Sequence[int] | None = None) -> Self:
        """Copy the box ``at`` (y, x), or (z, y, x), of a tiled surface to linear memory."""
        return self._tiled(tiled, surface, linear, shape, at, linear_strides, True)

    def _tiled(self, tiled: Buffer, surface: Surface, linear: Buffer, shape: Sequence[int], at: Sequence[int],
               strides: Sequence[int] | None, detile: bool) -> Self:
        self._offers("tiled")
        if not isinstance(surface, Surface):
            raise QueueError(f"a tiled surface is a hcq.Surface, not a {type(surface).__name__}")
        address = self._buffer(tiled, "the tiled buffer", write=not detile)
        other = self._buffer(linear, "the linear buffer", write=detile)
        window = Window.of(shape, surface.element_bytes, strides, "the linear side", linear)
        place = place_in(surface, window, at)
        return self._checked("tiled", address, other, surface.size, place, window.size, surface.element_bytes,
                             surface.swizzle, surface.dimensions, window.pitch, detile)

    def _checked(self, name: str, *operands: Any) -> Self:
        """A command whose limits are the encoder's: it is encoded once, to see."""
        try:
            getattr(self._encoder, name)([], *operands)
        except Exception as error:
            raise QueueError(f"{name}: {error}") from error
        return self._add(name, *operands)
