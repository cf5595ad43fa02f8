"""Timestamps between packets: the AM backend's part of ``hcq.profile``. Counters are in :mod:`amdrv.counters`.

A profile passes what is submitted through :func:`instrument`, which puts a timestamp behind every packet that does
something and says what each stretch between two timestamps was. Indirect buffers are opened on the way: their packets
go into the ring, with timestamps. An AQL packet is given a completion signal instead, into which the engine stores when
it began and when it was complete (amd_signal_t's start_ts and end_ts; amd_queue_t's ENABLE_PROFILING).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from amdrv import aql, sdma
from amdrv.aql.queue import SIGNAL_END, SIGNAL_START
from amdrv.facts import pm4 as facts

if TYPE_CHECKING:
    from hcq.backend import IndirectBuffer

__all__ = ["instrument"]


class Stamps(Protocol):
    """Where timestamps go. They are known by their numbers: 64-bit words in a row."""

    def __call__(self, words: list[int]) -> int:
        """Append a timestamp packet; its number."""

    def signal(self) -> tuple[int, int]:
        """Eight words at a multiple of 64, for an amd_signal_t: the first one's number, and its address."""



COMPLETION = 14                 # word of an AQL packet: its completion signal
SH_SPACE = facts.REGISTER_SPACES["SET_SH_REG"][0]
GPU_CLOCK = facts.ENUMS["RELEASE_DATA"]["GPU_CLOCK"]
OPCODES = {packet.opcode: name for name, packet in facts.PACKETS.items()
           if name in ("SET_SH_REG", "DISPATCH_DIRECT", "DISPATCH_INDIRECT", "WAIT_REG_MEM", "RELEASE_MEM",
                       "ACQUIRE_MEM", "EVENT_WRITE", "INDIRECT_BUFFER", "NOP", "COPY_DATA", "WRITE_DATA")}


class Stretch(NamedTuple):
    """What lies between two timestamps: "kernel", "copy", "fill", "wait", "signal", "barrier", "timestamp", "other"."""

    what: str
    facts: dict[str, Any]
    begin: int
    end: int


def instrument(kind: str, words: Sequence[int], indirect: Sequence[IndirectBuffer],
               stamp: Stamps) -> tuple[list[int], list[Stretch]]:
    """The words with timestamps between them, and what is between the timestamps."""
    if kind == "aql":
        return _packets(words, stamp)
    out: list[int] = []
    stretches: list[Stretch] = []
    before = stamp(out)
    for packet, what, about in (_compute(list(words), indirect) if kind == "compute" else
                                _copies(list(words), indirect)):
        out += packet
        if what:
            after = stamp(out)
            stretches.append(Stretch(what, about, before, after))
            before = after
    return out, stretches


def _packets(words: Sequence[int], stamp: Stamps) -> tuple[list[int], list[Stretch]]:
    """AQL records. One that has a completion signal of its own keeps it, between two packets that are timed."""
    out: list[int] = []
    stretches: list[Stretch] = []

    def timed(record: list[int], what: str, about: dict[str, Any]) -> Stretch:
        number, address = stamp.signal()
        record[COMPLETION:COMPLETION + 2] = address & 0xFFFFFFFF, address >> 32
        out.extend(record)
        return Stretch(what, about, number + SIGNAL_START // 8, number + SIGNAL_END // 8)

    marker = aql.record("BARRIER_AND", BARRIER=1)
    for at in range(0, len(words), aql.RECORD_WORDS):
        record = list(words[at:at + aql.RECORD_WORDS])
        what, about = _what(record)
        if record[COMPLETION] | record[COMPLETION + 1]:
            before = timed(marker.copy(), "", {})
            out += record
            stretches.append(Stretch(what, about, before.end, timed(marker.copy(), "", {}).end))
        else:
            stretch = timed(record, what, about)
            if what:
                stretches.append(stretch)
    return out, stretches


def _what(record: list[int]) -> tuple[str, dict[str, Any]]:
    """What a record does, and what is known of it."""
    name = aql.name_of(record[0])
    if name == "KERNEL_DISPATCH":
        return "kernel", {"descriptor": record[8] | record[9] << 32, "items": record[3:6]}
    if name == "VENDOR_BARRIER_VALUE":
        return "wait", {"address": (record[2] | record[3] << 32) + 8, "value": record[4]}
    if name == "VENDOR_PM4":
        inner = aql.decode(record)[0].tail
        kinds = [(what, about) for _, what, about in _compute(list(inner), ()) if what]
        return kinds[0] if kinds else ("", {})
    return ("wait" if any(record[2:12]) else "barrier"), {}


def _inside(indirect: Sequence[IndirectBuffer], bases: dict[int, int], address: int, count: int) -> list[int]:
    """The words that an indirect buffer's packet leads to; pieces of one buffer lie one behind the other."""
    which = min(len(bases), len(indirect) - 1)
    for number, base in bases.items():
        if base <= address < base + 4 * len(indirect[number].words):
            which = number
    start = (address - bases.setdefault(which, address)) // 4
    return [int(word) for word in indirect[which].words[start:start + count]]


def _compute(words: list[int], indirect: Sequence[IndirectBuffer], bases: dict[int, int] | None = None,
             state: dict[int, int] | None = None) -> Iterator[tuple[list[int], str, dict[str, Any]]]:
    bases, state = {} if bases is None else bases, {} if state is None else state
    at = 0
    while at < len(words):
        header = words[at]
        length = (header >> 16 & 0x3FFF) + 2 if header >> 30 == facts.TYPE3 else 1
        if header >> 16 & 0x3FFF == facts.HEADER_ONLY_COUNT:
            length = 1
        packet = words[at:at + length]
        at += length
        name = OPCODES.get(header >> 8 & 0xFF, "") if header >> 30 == facts.TYPE3 else ""
        if name == "INDIRECT_BUFFER" and indirect:
            inner = _inside(indirect, bases, packet[1] | packet[2] << 32, packet[3] & 0xFFFFF)
            yield from _compute(inner, (), bases, state)
        elif name == "SET_SH_REG":
            for index, value in enumerate(packet[2:]):
                state[packet[1] + SH_SPACE + index] = value
            yield packet, "", {}
        elif name.startswith("DISPATCH"):
            about: dict[str, Any] = {"registers": dict(state)}
            if name == "DISPATCH_DIRECT":
                about["grid"] = packet[1:4]
            yield packet, "kernel", about
        elif name == "WAIT_REG_MEM":
            memory = packet[1] >> 4 & 3 == 1
            yield packet, "wait", {"address": packet[2] | packet[3] << 32, "value": packet[4]} if memory else {}
        elif name == "RELEASE_MEM":
            about = {"address": packet[3] | packet[4] << 32, "value": packet[5] | packet[6] << 32}
            if packet[2] >> 29 == GPU_CLOCK:
                yield packet, "timestamp", {}
            else:
                yield packet, "signal", about
        elif name == "EVENT_WRITE":
            yield packet, "", {}
        elif name == "ACQUIRE_MEM":
            yield packet, "barrier", {}
        else:
            yield packet, "" if name == "NOP" else "other", {}


def _copies(words: list[int], indirect: Sequence[IndirectBuffer],
            bases: dict[int, int] | None = None) -> Iterator[tuple[list[int], str, dict[str, Any]]]:
    bases = {} if bases is None else bases
    for packet in sdma.decode(words):
        name, raw = packet.name, list(packet.words)
        if name == "INDIRECT" and indirect:
            yield from _copies(_inside(indirect, bases, packet["IB_BASE"], packet["IB_SIZE"]), (), bases)
        elif name.startswith("COPY"):
            about = {"bytes": packet["COUNT"] + 1} if name == "COPY_LINEAR" else {}
            yield raw, "copy", about
        elif name == "CONSTANT_FILL":
            yield raw, "fill", {"bytes": packet["COUNT"] + 1}
        elif name == "POLL_REGMEM":
            yield raw, "wait", {"address": packet["ADDR"], "value": packet["VALUE"]}
        elif name == "FENCE":
            low = packet["ADDR"] % 8 == 0           # the high half is stored first, see amdrv.backend
            yield raw, "signal" if low else "", {"address": packet["ADDR"], "value": packet["DATA"]} if low else {}
        elif name.startswith("TIMESTAMP"):
            yield raw, "timestamp", {}
        else:
            yield raw, "" if name in ("NOP", "TRAP") else "other", {}
