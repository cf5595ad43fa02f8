"""Queues by hand: commands are written down, then submitted to one hardware queue at once.

    q = hcq.ComputeQueue(dev).wait(sig, 3).memory_barrier().exec(prog, args, grid, block)
    q.timestamp(t).signal(sig, 4).submit()

Commands of one queue start in order. Two kernels may overlap unless a ``memory_barrier`` is between them, and two
queues know nothing of each other unless they ``wait`` and ``signal``. A ``submit`` also advances the queue's
timeline, so ``dev.synchronize()`` and ``copyout`` wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

from hcq.errors import QueueError
from hcq.memory import Buffer, Storage
from hcq.program import Launch, Program, Size
from hcq.signal import Point, Signal, Timeline

if TYPE_CHECKING:
    from hcq.device import Device

__all__ = ["Commands", "ComputeQueue", "CopyQueue"]


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

    kind: ClassVar[Literal["compute", "copy"]]

    def __new__(cls, device: Device, index: int = 0) -> Self:
        far = getattr(device, "_far_queue", None)   # another machine's device: the queue is there
        return super().__new__(cls) if far is None else cast(Self, far(cls.kind, index))

    def __init__(self, device: Device, index: int = 0) -> None:
        """:param index: which of the device's hardware queues of this kind."""
        timelines = device._timelines[self.kind]
        if not 0 <= index < len(timelines):
            raise QueueError(f"{device.name} has {len(timelines)} {self.kind} queues; queue {index} is not one of them")
        self.device = device
        self.timeline: Timeline = timelines[index]
        self._commands: list[tuple[str, tuple[Any, ...]]] = []
        self._storages: list[Storage] = []
        self._last: list[int] = []          # words of the last submission, for dump()

    def _add(self, name: str, *operands: Any) -> Self:
        self._commands.append((name, operands))
        return self

    def _signal(self, signal: Signal) -> Signal:
        if not isinstance(signal, Signal):
            raise QueueError(f"a {type(signal).__name__} is no Signal; make one with dev.signal()")
        if signal.device is not self.device:
            raise QueueError(f"the signal belongs to {signal.device.name}, the queue to {self.device.name}")
        return signal

    def _buffer(self, buffer: Buffer, what: str) -> int:
        if not isinstance(buffer, Buffer):
            raise QueueError(f"{what} is a {type(buffer).__name__}, expected a Buffer")
        if buffer.device is not self.device:
            raise QueueError(f"{what} belongs to {buffer.device.name}, the queue to {self.device.name}")
        address = buffer.address
        self._storages.append(buffer._storage)
        return address

    def wait(self, signal: Signal, value: int) -> Self:
        """Start nothing later until ``signal`` is at least ``value``."""
        return self._add("wait", self._signal(signal), signal._checked(value))

    def signal(self, signal: Signal, value: int) -> Self:
        """Store ``value`` when everything before is complete and visible."""
        return self._add("signal", self._signal(signal), signal._checked(value))

    def timestamp(self, signal: Signal) -> Self:
        """Store the device's clock into ``signal`` when everything before is complete; see ``dev.seconds``."""
        return self._add("timestamp", self._signal(signal))

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
        return getattr(self.device.backend, self.kind)

    def __len__(self) -> int:
        return len(self._commands)

    def __str__(self) -> str:
        return str(Commands(self._commands))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.timeline.queue.name}, {self})"


class ComputeQueue(_Queue):
    """Commands for a compute engine."""

    kind = "compute"

    def memory_barrier(self) -> Self:
        """Wait for the earlier kernels of this queue; writes of everyone before become visible to later ones."""
        return self._add("memory_barrier")

    def exec(self, program: Program, args: Sequence[Any], grid: Size, block: Size, lds: int = 0) -> Self:
        """Launch a kernel. Arguments as in calling the program, packed now.

        :raises LaunchError: as calling the program does.
        """
        if not isinstance(program, Program):
            raise QueueError(f"a {type(program).__name__} is no Program; make one with dev.program()")
        if program.device is not self.device:
            raise QueueError(f"kernel {program.name!r} is loaded on {program.device.name}, the queue belongs to "
                             f"{self.device.name}")
        return self._launch(program.bind(args, grid, block, lds))

    def _launch(self, launch: Launch) -> Self:
        self._storages.extend(launch.storages)
        return self._add("exec", launch)


class CopyQueue(_Queue):
    """Commands for a copy engine."""

    kind = "copy"

    def copy(self, destination: Buffer, source: Buffer) -> Self:
        """Copy between buffers (or views) of the same size.

        :raises QueueError: sizes differ, or the ranges overlap.
        """
        to, origin = self._buffer(destination, "the destination"), self._buffer(source, "the source")
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
