"""Packet words into named fields, by the descriptions in :mod:`amdrv.facts.pm4` and :mod:`amdrv.facts.sdma6`.

    packet = decode_pm4(words, at)      packet = decode_sdma(words, at)

``words`` is a list of integers; the result says its name, length, fields (wide values put together) and tail, and
prints itself. Words that are no packet raise :class:`BadPacket`, which the engines answer as silicon does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from amdrv.facts import pm4, sdma6
from amdrv.facts.layout import Packet, Word
from mock import graphics_packets

__all__ = ["BadPacket", "Decoded", "Truncated", "decode_pm4", "decode_sdma"]

TYPE2, TYPE3 = pm4.TYPE2, pm4.TYPE3
SDMA_OPCODE_MASK = 0xFF


class BadPacket(Exception):
    """Words that the engine does not understand."""

    def __init__(self, header: int, why: str, *, length: int = 1) -> None:
        self.header, self.length = header, length
        super().__init__(f"packet header {header:#010x}: {why}")


class Truncated(Exception):
    """The packet goes on beyond the words at hand; ``need`` words in all."""

    def __init__(self, need: int) -> None:
        self.need = need
        super().__init__(f"a packet of {need} words is not all there")


@dataclass(frozen=True, slots=True)
class Decoded:
    """``packet["FIELD"]`` is a field's value."""

    name: str
    length: int                     # words, header included
    fields: Mapping[str, int]
    tail: Sequence[int]
    opcode: int

    def __getitem__(self, field: str) -> int:
        return self.fields[field]

    def __str__(self) -> str:
        inside = " ".join(f"{name}={value:#x}" for name, value in self.fields.items() if value)
        tail = f" + {len(self.tail)} words" if len(self.tail) else ""
        return f"{self.name}({inside}){tail}"


class _Layout:
    """One packet's description, ready to be applied."""

    def __init__(self, name: str, packet: Packet, first: int) -> None:
        self.name, self.packet = name, packet
        self.first = first              # words before packet.words
        self.required = sum(not word.optional for word in packet.words)
        self.all = len(packet.words)
        self.fields = [(field, first + i, place[1], (1 << (place[0] - place[1] + 1)) - 1)
                       for i, word in enumerate(packet.words) for field, place in word.fields.items()]
        self.wide = [(value, [(part.field, part.lsb) for part in parts]) for value, parts in packet.wide.items()]

    def read(self, words: Sequence[int], at: int, present: int) -> dict[str, int]:
        """Fields of ``present`` words (of packet.words) that are there."""
        limit = self.first + present
        found = {field: words[at + index] >> lsb & mask for field, index, lsb, mask in self.fields if index < limit}
        for value, parts in self.wide:
            total = 0
            for field, lsb in parts:
                total |= found.get(field, 0) << lsb
            found[value] = total
        return found


def _get(word: Word, value: int, field: str) -> int:
    msb, lsb = word.fields[field][:2]
    return value >> lsb & ((1 << (msb - lsb + 1)) - 1)


@cache
def _pm4_layouts(graphics: bool) -> dict[int, _Layout]:
    tables = [pm4.PACKETS, graphics_packets.COMMON]
    if graphics:
        tables += [graphics_packets.bare(), graphics_packets.GRAPHICS]
    return {packet.opcode: _Layout(name, packet, 1) for table in tables for name, packet in table.items()}


@cache
def _pm4_names() -> dict[int, str]:
    return {number: name for name, number in pm4.OPCODES.items()}


def decode_pm4(words: Sequence[int], at: int = 0, graphics: bool = False) -> Decoded:
    """``graphics``: as the graphics pipe reads them. :raises BadPacket, Truncated:"""
    header = words[at]
    kind = _get(pm4.HEADER, header, "TYPE")
    if kind == TYPE2:
        return Decoded("PACKET2_NOP", 1, {}, (), -1)
    if kind != TYPE3:
        raise BadPacket(header, f"type {kind} packets are not known to the micro engines of gfx11")
    opcode, count = _get(pm4.HEADER, header, "OPCODE"), _get(pm4.HEADER, header, "COUNT")
    layout = _pm4_layouts(graphics).get(opcode)
    if layout is not None and layout.name == "NOP" and count == pm4.HEADER_ONLY_COUNT:
        return Decoded("NOP", 1, {}, (), opcode)
    length = count + 2
    if layout is None:
        raise BadPacket(header, f"opcode {opcode:#x} ({_pm4_names().get(opcode, 'no such opcode')}) is not for the "
                                f"{'graphics' if graphics else 'compute'} micro engine", length=length)
    if at + length > len(words):
        raise Truncated(length)
    body = length - 1
    if (layout.packet.tail is None and body not in (layout.required, layout.all)) or body < layout.required:
        raise BadPacket(header, f"{layout.name} with {body} words after its header, it has {layout.required}"
                        + (" or more" if layout.packet.tail else ""), length=length)
    present = layout.all if body >= layout.all else layout.required
    fields = layout.read(words, at, present)
    fields["SHADER_TYPE"] = _get(pm4.HEADER, header, "SHADER_TYPE")
    fields["PREDICATE"] = _get(pm4.HEADER, header, "PREDICATE")
    return Decoded(layout.name, length, fields, words[at + 1 + present:at + length], opcode)


@cache
def _sdma_layouts() -> dict[tuple[int, int], list[_Layout]]:
    """By (OP, SUB_OP); those that ask something of the header first."""
    found: dict[tuple[int, int], list[_Layout]] = {}
    for name, packet in sdma6.PACKETS.items():
        found.setdefault((packet.opcode, packet.sub_op or 0), []).append(_Layout(name, packet, 0))
    for layouts in found.values():
        layouts.sort(key=lambda layout: -len(layout.packet.when))
    return found


def decode_sdma(words: Sequence[int], at: int = 0) -> Decoded:
    """:raises BadPacket, Truncated:"""
    header = words[at]
    opcode, sub_op = header & SDMA_OPCODE_MASK, header >> 8 & SDMA_OPCODE_MASK
    for layout in _sdma_layouts().get((opcode, sub_op), ()):
        word = layout.packet.words[0]
        if all(_get(word, header, field) == value for field, value in layout.packet.when.items()):
            break
    else:
        raise BadPacket(header, f"SDMA has no packet with OP {opcode} and SUB_OP {sub_op}")
    length = layout.all
    if at + length > len(words):
        raise Truncated(length)
    fields = layout.read(words, at, layout.all)
    if layout.packet.length is not None:
        field, bias = layout.packet.length
        length += fields[field] + bias
        if at + length > len(words):
            raise Truncated(length)
    return Decoded(layout.name, length, fields, words[at + layout.all:at + length], opcode)
