"""SDMA 6, the copy engines: packets built and read from one description.

    sdma.build("COPY_LINEAR", COUNT=4095, SRC_ADDR=src, DST_ADDR=dst)       # COUNT is bytes - 1
    sdma.build("FENCE", MTYPE="UC", ADDR=address, DATA=1)
    print(sdma.dump(words))

Fields are those of :mod:`amdrv.facts.sdma6`; enum values may be given by name. A 64-bit value that words hold in
parts is given whole (``SRC_ADDR``). Words of one field are operands and must be given; every other field is zero
unless given. OP, SUB_OP and, where a tail follows, COUNT are filled in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from amdrv.errors import PacketError
from amdrv.facts import sdma6 as facts
from amdrv.packets import Codec, Decoded, wordlist

__all__ = ["Decoded", "build", "decode", "dump", "fields", "length"]

OP_MASK, SUB_OP_SHIFT, SUB_OP_MASK = 0xFF, 8, 0xFF      # SDMA_PKT_*_HEADER_op, _sub_op: the same in every packet


@cache
def _codec(name: str) -> Codec:
    try:
        packet = facts.PACKETS[name]
    except KeyError:
        raise PacketError(f"{name!r} is no SDMA packet; known are {', '.join(facts.PACKETS)}") from None
    fixed = {"OP": packet.opcode, **packet.when}
    if "SUB_OP" in packet.words[0].fields:      # ATOMIC has none
        fixed["SUB_OP"] = packet.sub_op or 0
    if packet.length is not None:
        fixed[packet.length[0]] = 0
    return Codec(name, packet, facts.ENUMS, fixed=fixed)


@cache
def _by_code() -> dict[tuple[int, int], list[str]]:
    """(opcode, sub-opcode) to names, those with a condition first."""
    names: dict[tuple[int, int], list[str]] = {}
    for name, packet in sorted(facts.PACKETS.items(), key=lambda item: not item[1].when):
        names.setdefault((packet.opcode, packet.sub_op or 0), []).append(name)
    return names


def fields(name: str) -> tuple[str, ...]:
    """The fields that :func:`build` takes for this packet, the tail included."""
    codec = _codec(name)
    return codec.fields() + ((codec.tail,) if codec.tail else ())


def build(name: str, /, **values: Any) -> list[int]:
    """The words of one packet.

    :raises PacketError: no such packet or field, an operand that is missing, a value that does not fit.
    """
    codec = _codec(name)
    words, tail = codec.build(values)
    length = codec.packet.length
    if length is None:
        return words
    field, bias = length
    if len(tail) < bias:
        raise PacketError(f"{name} needs {codec.tail}, at least one word")
    codec.put(words, field, len(tail) - bias)
    return words + tail


def decode(words: Iterable[Any]) -> list[Decoded]:
    """Read a ring's or an indirect buffer's words. Whatever they are, they are all in the result.

    :raises PacketError: something in ``words`` is no 32-bit word.
    """
    stream = wordlist(words)
    packets: list[Decoded] = []
    index = 0
    while index < len(stream):
        packet = _one(stream, index)
        packets.append(packet)
        index += len(packet.words)
    return packets


def _one(stream: Sequence[int], index: int) -> Decoded:
    header = stream[index]
    code = header & OP_MASK, (header >> SUB_OP_SHIFT) & SUB_OP_MASK
    for name in _by_code().get(code, ()):
        codec = _codec(name)
        if all(codec.get(header, field) == value for field, value in codec.packet.when.items()):
            break
    else:
        return Decoded("UNKNOWN", index, (header,), problem=f"opcode {code[0]}, sub-opcode {code[1]} is not known")
    described = tuple(stream[index:index + len(codec.words)])
    packet = Decoded(name, index, described)
    codec.read(described, packet)
    length = len(codec.words)
    if codec.packet.length is not None and packet.fields.get(codec.packet.length[0]) is not None:
        length += packet.fields[codec.packet.length[0]] + codec.packet.length[1]
    packet.words = tuple(stream[index:index + length])
    packet.tail = packet.words[len(codec.words):]
    if len(packet.words) < length:
        packet.problem = f"it has {length} words, {len(packet.words)} are left"
    return packet


@cache
def _shapes(code: tuple[int, int]) -> tuple[tuple[Codec, tuple[int, int, int, int] | None], ...]:
    """Packets of a code, with where each says how long its tail is: word, shift, mask, what to add."""
    found = []
    for codec in map(_codec, _by_code().get(code, ())):
        count = None
        if codec.packet.length is not None:
            field, bias = codec.packet.length
            number = next(number for number, word in enumerate(codec.words) if field in word.fields)
            msb, lsb = codec.words[number].fields[field][:2]
            count = number, lsb, (2 << msb - lsb) - 1, bias
        found.append((codec, count))
    return tuple(found)


def length(words: Sequence[int], at: int) -> int:
    """Words of the packet that begins at an index; 1 where none that is known does."""
    header = words[at]
    for codec, count in _shapes((header & OP_MASK, header >> SUB_OP_SHIFT & SUB_OP_MASK)):
        if all(codec.get(header, field) == value for field, value in codec.packet.when.items()):
            if count is None or at + count[0] >= len(words):
                return len(codec.words)
            number, shift, mask, bias = count
            return len(codec.words) + (words[at + number] >> shift & mask) + bias
    return 1


def dump(words: Iterable[Any]) -> str:
    """The words as text, packet by packet."""
    return "\n".join(str(packet) for packet in decode(words))
