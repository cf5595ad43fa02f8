"""What work reads and writes, and what it must therefore come after.

A kernel's pointers say it by the code object's metadata: an argument that the compiler knows to be read only
(``.actual_access``, ``.access``, a const pointee) is read, every other pointer is read and written. Where an argument
points beyond the buffer that is given, or a structure holds pointers, nobody can know.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from hcq.memory import Buffer, Storage

if TYPE_CHECKING:
    from hcq.program import Program

__all__ = ["Access", "Tracker", "of_arguments"]

Step = TypeVar("Step")


class Access(NamedTuple):
    """Bytes ``start`` to ``stop`` of one allocation."""

    storage: Storage
    start: int
    stop: int
    write: bool

    @classmethod
    def of(cls, buffer: Buffer, *, write: bool) -> Access:
        return cls(buffer._storage, buffer._offset, buffer._offset + buffer.nbytes, write)

    def overlaps(self, other: Access) -> bool:
        return self.storage is other.storage and self.start < other.stop and other.start < self.stop

    def __str__(self) -> str:
        memory = self.storage.memory
        where = "freed memory" if memory is None else f"{memory.address + self.start:#x}"
        return f"{'write' if self.write else 'read'} of {self.stop - self.start} bytes at {where}"


def of_arguments(program: Program, args: Sequence[Any]) -> list[Access]:
    """The buffers among a kernel's arguments, and what it does to them."""
    return [Access.of(value, write=not argument.read_only)
            for argument, value in zip(program.info.arguments, args, strict=True) if isinstance(value, Buffer)]


class Tracker(Generic[Step]):
    """Steps in the order in which they are recorded; each comes after those whose memory it touches."""

    def __init__(self) -> None:
        self._seen: dict[int, list[tuple[Access, Step]]] = {}       # by id(storage), which the accesses keep alive

    def find(self, accesses: Iterable[Access]) -> list[Step]:
        """The recorded steps that work with these accesses must come after, each once, oldest first."""
        found: dict[Step, None] = {}
        for access in accesses:
            for earlier, who in self._seen.get(id(access.storage), ()):
                if (access.write or earlier.write) and earlier.overlaps(access):
                    found[who] = None
        return list(found)

    def record(self, step: Step, accesses: Iterable[Access]) -> None:
        for access in accesses:
            seen = self._seen.setdefault(id(access.storage), [])
            if access.write:            # whoever comes after this one is after all that it covers
                seen[:] = [entry for entry in seen
                           if not (access.start <= entry[0].start and entry[0].stop <= access.stop)]
            seen.append((access, step))
