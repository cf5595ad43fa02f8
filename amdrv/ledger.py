"""Which buffers there are, by address: for looking one up, and for saying what lies near a fault."""

from __future__ import annotations

import bisect
from collections import deque
from typing import Generic, Protocol, TypeVar

__all__ = ["Ledger", "Placed"]

REMEMBERED = 64             # freed buffers that a fault's message can still name


class Placed(Protocol):
    """A buffer at an address; ``str`` of it names it for people."""

    address: int

    @property
    def end(self) -> int: ...


P = TypeVar("P", bound=Placed)


class Ledger(Generic[P]):
    """Buffers that are alive, by address, and the last ones that were freed. Its owner locks it."""

    def __init__(self) -> None:
        self.live: dict[int, P] = {}
        self._starts: list[int] = []
        self._freed: deque[P] = deque(maxlen=REMEMBERED)

    def add(self, buffer: P) -> None:
        bisect.insort(self._starts, buffer.address)
        self.live[buffer.address] = buffer

    def remove(self, buffer: P) -> None:
        del self.live[buffer.address]
        self._starts.pop(bisect.bisect_left(self._starts, buffer.address))
        self._freed.append(buffer)

    def holds(self, buffer: P) -> bool:
        """Is this a buffer that is alive?"""
        return self.live.get(buffer.address) is buffer

    def all(self) -> list[P]:
        """Every buffer that is alive, by address."""
        return [self.live[start] for start in self._starts]

    def clear(self) -> None:
        self.live.clear()
        self._starts.clear()

    def nearest(self, address: int) -> str:
        """What lies at or next to an address, in words: for the message of a fault."""
        at = bisect.bisect_right(self._starts, address)
        around = [self.live[start] for start in self._starts[max(at - 1, 0):at + 1]]
        for buffer in around:
            if buffer.address <= address < buffer.end:
                return f"inside {buffer}"
        for old in reversed(self._freed):
            if old.address <= address < old.end:
                return f"inside {old}, which was freed"
        if not around:
            return "no buffer is allocated"
        near = min(around, key=lambda a: a.address - address if address < a.address else address - a.end)
        where = (f"{near.address - address:#x} bytes before" if address < near.address
                 else f"{address - near.end:#x} bytes past the end of")
        return f"{where} {near}"
