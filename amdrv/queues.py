"""The card's rings as hcq sees them, and what went through them, counted off the path of a launch."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from amdrv import aql, sdma
from amdrv.errors import GpuHang
from amdrv.facts import pm4 as pm4_facts
from amdrv.facts import sdma6 as sdma_facts
from amdrv.sdma.encoder import IB_ALIGN
from hcq.backend import IndirectBuffer, QueueKind

if TYPE_CHECKING:
    from amdrv.ring import Ring

__all__ = ["Queue", "lengths", "tally"]

PM4_COUNT = 0x3fff                      # of a type-3 header, words after it less one
DISPATCHES = frozenset(pm4_facts.PACKETS[f"DISPATCH_{name}"].opcode for name in ("DIRECT", "INDIRECT"))
UNCOUNTED = 1024                        # submissions that wait to be counted
COPY_LINEAR = sdma_facts.PACKETS["COPY_LINEAR"].opcode      # sub-opcode 0
COUNT_MASK = (1 << 30) - 1


class Queue:
    """A ring of the card, as hcq sees it. What was submitted is counted later, off the path of a launch."""

    def __init__(self, ring: Ring, kind: QueueKind, name: str, statistics: Counter[str]) -> None:
        self.name, self.kind, self.ring = name, kind, ring
        self._put, self.largest = ring.submit, ring.largest
        self.encoder: Any = None                        # its own, where it has one
        self._statistics = statistics
        self._uncounted: deque[np.ndarray | IndirectBuffer] = deque()

    def submit(self, words: np.ndarray, indirect: Sequence[IndirectBuffer] = ()) -> None:
        """As the contract says. What would take more than half the ring goes in several pieces, whole packets each."""
        largest = self.largest
        if indirect and self.kind == "copy":
            self._statistics["sdma_packets"] += self.ring.submit(words, align=IB_ALIGN)
        elif len(words) <= largest:
            self._put(words)
        else:
            start = end = 0
            for length in lengths(self.kind, words.tolist()):
                if end + length - start > largest:
                    self._piece(words[start:end], first=start == 0)
                    start = end
                end += length
            self._piece(words := words[start:end], first=False)
            self._uncounted.pop()
        self._uncounted.append(words)
        if indirect:
            self._uncounted.extend(indirect)
        if len(self._uncounted) > UNCOUNTED:
            self.count()

    def _piece(self, words: np.ndarray, *, first: bool) -> None:
        try:
            self.ring.submit(words)
        except GpuHang as error:
            error.partly = not first
            raise
        self._uncounted.append(words)

    def count(self) -> None:
        """Add what was submitted to the statistics: packets, dispatches, bytes copied."""
        pending, self._uncounted = self._uncounted, deque()
        times = Counter(map(id, pending))               # launches of one kernel are one array, changed in place
        for words in {id(words): words for words in pending}.values():
            if isinstance(words, np.ndarray):
                found = tally(self.kind, words)
            else:
                found = words.counted = words.counted or tally(self.kind, words.words)
            for key, value in found.items():
                self._statistics[key] += value * times[id(words)]


def lengths(kind: str, words: Sequence[int]) -> Iterator[int]:
    """Words of each packet."""
    at = 0
    while at < len(words):
        header = words[at]
        if kind == "aql":
            length = aql.RECORD_WORDS
        else:
            length = (header >> 16 & PM4_COUNT) + 2 if kind == "compute" else sdma.length(words, at)
        yield length
        at += length


def tally(kind: str, words: np.ndarray) -> dict[str, int]:
    """What ``Device.statistics`` says of packets: {key: how many}."""
    if kind == "compute":
        return _tally_pm4(words.tolist())
    if kind == "aql":
        return _tally_aql(words.reshape(-1, aql.RECORD_WORDS))
    stream = words.tolist()
    at = packets = copied = 0
    for length in lengths(kind, stream):
        packets += 1
        if stream[at] & 0xffff == COPY_LINEAR:
            copied += (stream[at + 1] & COUNT_MASK) + 1
        at += length
    return {"sdma_packets": packets, "copied_bytes": copied}


def _tally_pm4(stream: Sequence[int]) -> dict[str, int]:
    at = packets = kernels = 0
    while at < len(stream):
        header = stream[at]
        packets += 1
        kernels += header >> 8 & 0xff in DISPATCHES
        at += (header >> 16 & PM4_COUNT) + 2
    return {"pm4_packets": packets, "kernels": kernels}


def _tally_aql(records: np.ndarray) -> dict[str, int]:
    found = Counter(aql_packets=len(records))
    for record in records:
        name = aql.name_of(int(record[0]))
        if name == "KERNEL_DISPATCH":
            found["kernels"] += 1
        elif name == "VENDOR_PM4":
            count = aql.decode(record)[0]["IB_SIZE"]
            found.update(_tally_pm4(record[aql.PACKET_WORDS:aql.PACKET_WORDS + count].tolist()))
    return dict(found)
