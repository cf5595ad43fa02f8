"""The mock's own log: what a driver did that silicon would have punished, and which rule it broke.

A note is not an error: the card behaves as silicon would, and the note says why it did.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Log", "Note"]

KEEP = 10_000
"""Notes kept; older ones only count."""


class Note(NamedTuple):
    seconds: float      # since the board was made
    rule: str           # "hdp-flush", "bus-master", ...: the rule's name, for tests and filters
    text: str

    def __str__(self) -> str:
        return f"{self.seconds:10.6f} [{self.rule}] {self.text}"


class Log:
    def __init__(self) -> None:
        self._start = time.monotonic()
        self._notes: list[Note] = []
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()

    def add(self, rule: str, text: str) -> Note:
        note = Note(time.monotonic() - self._start, rule, text)
        with self._lock:
            self.counts[rule] += 1
            self._notes.append(note)
            if len(self._notes) > KEEP:
                del self._notes[:KEEP // 2]
        return note

    def load(self, notes: list[Note], counts: Counter[str]) -> None:
        """The log of a snapshot instead of this one."""
        with self._lock:
            self._notes, self.counts = list(notes), Counter(counts)

    def __iter__(self) -> Iterator[Note]:
        return iter(list(self._notes))

    def __len__(self) -> int:
        return sum(self.counts.values())

    def of(self, rule: str) -> list[Note]:
        return [note for note in self if note.rule == rule]

    def __str__(self) -> str:
        return "\n".join(map(str, self)) or "(no notes)"
