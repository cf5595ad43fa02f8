"""Timestamps between packets, and hardware counters: the AM backend's part of ``hcq.profile``.

A profile passes what is submitted through :func:`instrument`, which puts a timestamp behind every packet that does
something and says what each stretch between two timestamps was. Indirect buffers are opened on the way: their packets
go into the ring, with timestamps. Counters are programmed, started, stopped and read by packets of the compute queue.

Facts: Mesa 25.0, ac_perfcounter.c and si_perfcounter.c (the order: DISABLE_AND_RESET, selections, START_COUNTING, then
STOP_COUNTING with PERFMON_SAMPLE_ENABLE; GRBM_GFX_INDEX chooses the shader engine that COPY_DATA reads); Linux 6.1,
soc21_enum.h (CP_PERFMON_STATE, GRBM_PERF_SEL, SQ_PERF_SEL).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from amdrv import pm4, sdma
from amdrv.facts import pm4 as facts

if TYPE_CHECKING:
    from amdrv.device import Device
    from hcq.backend import IndirectBuffer

__all__ = ["COUNTERS", "Counters", "instrument"]

Stamp = Callable[[list[int]], int]
"""Appends a timestamp packet to the words; returns its number."""

SH_SPACE = facts.REGISTER_SPACES["SET_SH_REG"][0]
GPU_CLOCK = facts.ENUMS["RELEASE_DATA"]["GPU_CLOCK"]
OPCODES = {packet.opcode: name for name, packet in facts.PACKETS.items()
           if name in ("SET_SH_REG", "DISPATCH_DIRECT", "DISPATCH_INDIRECT", "WAIT_REG_MEM", "RELEASE_MEM",
                       "ACQUIRE_MEM", "EVENT_WRITE", "INDIRECT_BUFFER", "NOP", "COPY_DATA", "WRITE_DATA")}
RESET_STATE, START_COUNTING, STOP_COUNTING = 0, 1, 2        # CP_PERFMON_STATE

COUNTERS: dict[str, tuple[str, int]] = {
    "GRBM_COUNT": ("GRBM", 0), "GRBM_GUI_ACTIVE": ("GRBM", 2), "GRBM_CP_BUSY": ("GRBM", 3),
    "SQ_CYCLES": ("SQ", 2), "SQ_BUSY_CYCLES": ("SQ", 3), "SQ_WAVES": ("SQ", 4), "SQ_WAVES_32": ("SQ", 5),
    "SQ_WAVES_64": ("SQ", 6), "SQ_ITEMS": ("SQ", 8), "SQ_INSTS_ALL": ("SQ", 0x30)}
"""{name: (block, PERF_SEL)}"""
SLOTS = {"GRBM": 2, "SQ": 8}
SUMMED = ("SQ_WAVES", "SQ_WAVES_32", "SQ_WAVES_64", "SQ_ITEMS", "SQ_INSTS_ALL")     # a share in every shader engine


class Stretch(NamedTuple):
    """What lies between two timestamps: "kernel", "copy", "fill", "wait", "signal", "barrier", "timestamp", "other"."""

    what: str
    facts: dict[str, Any]
    begin: int
    end: int


def instrument(kind: str, words: Sequence[int], indirect: Sequence[IndirectBuffer],
               stamp: Stamp) -> tuple[list[int], list[Stretch]]:
    """The words with timestamps between them, and what is between the timestamps."""
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


class Counters:
    """Hardware counters between :meth:`start` and :meth:`stop`, as words for the compute queue.

    :raises ValueError: an unknown name, or more of a block than it has.
    """

    def __init__(self, device: Device, names: Sequence[str]) -> None:
        if unknown := [name for name in names if name not in COUNTERS]:
            raise ValueError(f"no counter {unknown[0]!r}; there are {', '.join(COUNTERS)}")
        self.device, self.names = device, list(dict.fromkeys(names))
        self._places: dict[str, tuple[str, int]] = {}
        used: dict[str, int] = {}
        for name in self.names:
            block, _ = COUNTERS[name]
            number = used[block] = used.get(block, -1) + 1
            if number >= SLOTS[block]:
                raise ValueError(f"{block} counts {SLOTS[block]} events at a time; {name} is one more")
            self._places[name] = block, number

    def _set(self, register: str, **fields: int) -> list[int]:
        found = self.device.regs[register]
        return pm4.set_registers(found.address, [found.register.pack(**fields)])

    def start(self) -> list[int]:
        words = [*self._select_engine(None), *self._set("CP_PERFMON_CNTL", PERFMON_STATE=RESET_STATE),
                 *self._set("SQ_PERFCOUNTER_CTRL", CS_EN=1)]
        for name, (block, number) in self._places.items():
            words += self._set(f"{block}_PERFCOUNTER{number}_SELECT", PERF_SEL=COUNTERS[name][1])
        return words + self._set("CP_PERFMON_CNTL", PERFMON_STATE=START_COUNTING)

    def stop(self) -> list[int]:
        return self._set("CP_PERFMON_CNTL", PERFMON_STATE=STOP_COUNTING, PERFMON_SAMPLE_ENABLE=1)

    def _select_engine(self, engine: int | None) -> list[int]:
        every = {} if engine is not None else {"SE_BROADCAST_WRITES": 1}
        return self._set("GRBM_GFX_INDEX", SE_INDEX=engine or 0, SA_BROADCAST_WRITES=1, INSTANCE_BROADCAST_WRITES=1,
                         **every)

    @property
    def read_words(self) -> int:
        """64-bit words that :meth:`read` fills."""
        return len(self.names) * self.device.shader_engines

    def read(self, address: int) -> list[int]:
        """Store every counter of every shader engine at ``address``; :meth:`values` adds them up."""
        words: list[int] = []
        for engine in range(self.device.shader_engines):
            words += self._select_engine(engine)
            for index, name in enumerate(self.names):
                block, number = self._places[name]
                wide = block != "SQ"                # SQ's have no high half
                words += pm4.build("COPY_DATA", SRC_SEL="PERF", DST_SEL="MEM", COUNT_SEL="QWORD" if wide else "DWORD",
                                   WR_CONFIRM=1, SRC_ADDR=self.device.regs[f"{block}_PERFCOUNTER{number}_LO"].address,
                                   DST_ADDR=address + 8 * (engine * len(self.names) + index))
        return words + self._select_engine(None)

    def values(self, words: Sequence[int]) -> dict[str, int]:
        """What :meth:`read` stored: sums over the shader engines of what each has a share of, else the first's."""
        step = len(self.names)
        return {name: sum(words[index::step]) if name in SUMMED else words[index]
                for index, name in enumerate(self.names)}
