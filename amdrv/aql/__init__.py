"""AQL, the language of HSA's queues: packets of 64 bytes, built and read from one description.

    aql.build("KERNEL_DISPATCH", BARRIER=1, DIMENSIONS=1, ...)      # -> list of 16 words
    aql.record("VENDOR_PM4", pm4=[...], BARRIER=1)                  # -> list of 32 words
    print(aql.dump(records))

A vendor's packet leads the engine to PM4 words elsewhere. So that packets can be built, changed and copied before
anybody knows where they will lie, they travel here as *records*: 16 words of the packet, then 16 for the PM4 words that
it leads to. :class:`amdrv.aql.ring.AqlRing` puts both in their places and fills in the address.

Layouts: HSA Platform System Architecture Specification 1.2, 2.9; ROCR-Runtime, hsa_ext_amd.h
(hsa_amd_barrier_value_packet_t) and amd_aql_queue.cpp (AqlQueue::ExecutePM4: the packet around an indirect buffer).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from amdrv import pm4
from amdrv.errors import PacketError
from amdrv.facts.layout import Field, Packet, Part, Word
from amdrv.packets import Codec, Decoded, wordlist

__all__ = ["ENUMS", "PACKETS", "PACKET_WORDS", "PM4_WORDS", "RECORD_WORDS", "TYPES", "build", "decode", "dump",
           "name_of", "record", "vendor"]

PACKET_WORDS, PM4_WORDS = 16, 16
RECORD_WORDS = PACKET_WORDS + PM4_WORDS
VENDOR, INVALID, KERNEL_DISPATCH, BARRIER_AND, AGENT_DISPATCH, BARRIER_OR = range(6)
TYPES = ("VENDOR", "INVALID", "KERNEL_DISPATCH", "BARRIER_AND", "AGENT_DISPATCH", "BARRIER_OR")
FORMAT_PM4, FORMAT_BARRIER_VALUE = 1, 2     # AMD_AQL_FORMAT_PM4_IB; HSA_AMD_PACKET_TYPE_BARRIER_VALUE
PM4_REMAIN = 10                             # dwords of the slot behind this field (AqlQueue::ExecutePM4)

ENUMS: dict[str, dict[str, int]] = {
    "TYPE": {name: number for number, name in enumerate(TYPES)},
    "SCOPE": {"NONE": 0, "AGENT": 1, "SYSTEM": 2},
    "CONDITION": {"EQ": 0, "NE": 1, "LT": 2, "GTE": 3}}


def _header(**more: Field) -> Word:
    return Word("HEADER", {"TYPE": (7, 0, "TYPE"), "BARRIER": (8, 8), "ACQUIRE": (10, 9, "SCOPE"),
                           "RELEASE": (12, 11, "SCOPE"), **more})


def _wide(*names: str) -> tuple[Word, ...]:
    return tuple(Word(f"{name}_{half}", {f"{name}_{half}": (31, 0)}) for name in names for half in ("LO", "HI"))


def _packet(kind: int, *words: Word) -> Packet:
    """Words 0 to 13, and the completion signal."""
    given = (*words, *(Word(f"RESERVED_{n}", {}) for n in range(len(words), 14)), *_wide("COMPLETION_SIGNAL"))
    names = [word.name.removesuffix("_LO") for word in given if word.name.endswith("_LO")]
    return Packet(kind, given, {name: (Part(f"{name}_LO", 31, 0), Part(f"{name}_HI", 63, 32)) for name in names})


_NOTHING = Word("RESERVED_1", {})
_BARRIER = (_header(), _NOTHING, *_wide(*(f"DEP_SIGNAL_{n}" for n in range(5))))
PACKETS: dict[str, Packet] = {
    "KERNEL_DISPATCH": _packet(
        KERNEL_DISPATCH, _header(DIMENSIONS=(17, 16)),
        Word("WORKGROUP_XY", {"WORKGROUP_SIZE_X": (15, 0), "WORKGROUP_SIZE_Y": (31, 16)}),
        Word("WORKGROUP_Z", {"WORKGROUP_SIZE_Z": (15, 0)}),
        *(Word(name, {name: (31, 0)}) for name in ("GRID_SIZE_X", "GRID_SIZE_Y", "GRID_SIZE_Z", "PRIVATE_SEGMENT_SIZE",
                                                   "GROUP_SEGMENT_SIZE")),
        *_wide("KERNEL_OBJECT", "KERNARG_ADDRESS")),
    "BARRIER_AND": _packet(BARRIER_AND, *_BARRIER),
    "BARRIER_OR": _packet(BARRIER_OR, *_BARRIER),
    "VENDOR_PM4": _packet(
        VENDOR, _header(FORMAT=(23, 16)), Word("PM4_HEADER", {"PM4_HEADER": (31, 0)}), *_wide("IB_BASE"),
        Word("PM4_CONTROL", {"IB_SIZE": (19, 0), "VALID": (23, 23)}), Word("REMAIN", {"REMAIN": (31, 0)})),
    "VENDOR_BARRIER_VALUE": _packet(
        VENDOR, _header(FORMAT=(23, 16)), _NOTHING, *_wide("SIGNAL", "VALUE", "MASK"),
        Word("CONDITION", {"CONDITION": (31, 0, "CONDITION")}))}
_FORMATS = {"VENDOR_PM4": FORMAT_PM4, "VENDOR_BARRIER_VALUE": FORMAT_BARRIER_VALUE}


@cache
def _codec(name: str) -> Codec:
    if name not in PACKETS:
        raise PacketError(f"{name!r} is no AQL packet; known are {', '.join(PACKETS)}")
    packet = PACKETS[name]
    fixed = {"TYPE": packet.opcode} | ({"FORMAT": _FORMATS[name]} if name in _FORMATS else {})
    return Codec(name, packet, ENUMS, None, fixed)


def build(name: str, /, **values: Any) -> list[int]:
    """The 16 words of one packet. Signals that are not given are none.

    :raises PacketError: no such packet or field, an operand that is missing, a value that does not fit.
    """
    codec = _codec(name)
    words, _ = codec.build({field: 0 for field in codec.operands if "SIGNAL" in field and field != "SIGNAL"} | values)
    return words


def record(name: str, /, pm4: Sequence[int] = (), **values: Any) -> list[int]:
    """A packet and the PM4 words that it leads to; its address is filled in when it gets its place.

    :raises PacketError: as :func:`build`, or more PM4 words than there is room for.
    """
    if len(pm4) > PM4_WORDS:
        raise PacketError(f"{len(pm4)} PM4 words do not fit the {PM4_WORDS} behind an AQL packet")
    return build(name, **values) + [*pm4, *[0] * (PM4_WORDS - len(pm4))]


def vendor(words: Sequence[int], **header: Any) -> list[int]:
    """A record of PM4 words. :raises PacketError: there are too many."""
    jump = pm4.build("INDIRECT_BUFFER", IB_BASE=0, IB_SIZE=len(words), VALID=1)
    return record("VENDOR_PM4", words, PM4_HEADER=jump[0], IB_BASE=0, IB_SIZE=len(words), VALID=1, REMAIN=PM4_REMAIN,
                  **header)


def decode(words: Iterable[Any]) -> list[Decoded]:
    """Read records. Whatever they are, they are all in the result; ``tail`` is the PM4 words of a vendor's packet.

    :raises PacketError: something in ``words`` is no 32-bit word.
    """
    stream = wordlist(words)
    return [_one(stream[at:at + RECORD_WORDS], at // RECORD_WORDS) for at in range(0, len(stream), RECORD_WORDS)]


def name_of(header: int) -> str:
    """Of a packet, by its first word."""
    kind, format_ = header & 0xFF, header >> 16 & 0xFF
    if kind == VENDOR:
        return next((name for name, number in _FORMATS.items() if number == format_), "VENDOR")
    return TYPES[kind] if kind < len(TYPES) else "UNKNOWN"


def _one(words: list[int], number: int) -> Decoded:
    name = name_of(words[0])
    packet = Decoded(name, number, tuple(words[:PACKET_WORDS]))
    if len(words) < PACKET_WORDS:
        packet.problem = f"an AQL packet has {PACKET_WORDS} words, {len(words)} are left"
    if name not in PACKETS:
        if name in ("UNKNOWN", "VENDOR"):
            packet.problem = packet.problem or f"type {words[0] & 0xFF}, format {words[0] >> 16 & 0xFF} is not known"
        return packet
    _codec(name).read(words[:PACKET_WORDS], packet)
    if name == "VENDOR_PM4":
        count = packet.fields.get("IB_SIZE", 0)
        packet.tail = tuple(words[PACKET_WORDS:PACKET_WORDS + count])
        for each in pm4.decode(packet.tail):
            packet.notes += ("pm4 " + str(each).strip()).splitlines()
    return packet


def dump(words: Iterable[Any]) -> str:
    """Records as text, packet by packet, with the PM4 that they lead to."""
    return "\n".join(map(str, decode(words)))
