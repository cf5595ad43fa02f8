"""PM4, the language of the command processors: packets built and read from one description.

    pm4.build("WRITE_DATA", DST_SEL="MEM", WR_CONFIRM=1, DST_ADDR=0x8000_0000, DATA=[1, 2])     # -> list of words
    pm4.set_registers(address, [value, ...])            # the SET_*_REG packet whose range holds the register
    print(pm4.dump(words))

Fields are those of :mod:`amdrv.facts.pm4`; enum values may be given by name. A 64-bit value that words hold in
halves is given whole (``ADDRESS``, not ``ADDRESS_LO``). Words of one field are operands and must be given; every other
field is zero unless given. The header's SHADER_TYPE, PREDICATE and RESET_FILTER_CAM are fields too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

from amdrv.errors import PacketError
from amdrv.facts import navi31
from amdrv.facts import pm4 as facts
from amdrv.packets import Codec, Decoded, wordlist
from amdrv.regs import Register, table

__all__ = ["Decoded", "RegisterLookup", "build", "decode", "dump", "fields", "set_registers"]

RegisterLookup = Callable[[int], Sequence[Register]]
"""The registers at a dword address of the register BAR; :meth:`amdrv.regs.RegisterFile.at` is one."""

COUNT_SHIFT = facts.HEADER.fields["COUNT"][1]
COUNT_LIMIT = facts.HEADER_ONLY_COUNT - 1       # of a packet with a body


@cache
def _codec(name: str) -> Codec:
    try:
        packet = facts.PACKETS[name]
    except KeyError:
        known = "has no layout" if name in facts.OPCODES else "is no PM4 packet"
        raise PacketError(f"{name!r} {known}; known are {', '.join(facts.PACKETS)}") from None
    return Codec(name, packet, facts.ENUMS, facts.HEADER, {"TYPE": facts.TYPE3, "OPCODE": packet.opcode, "COUNT": 0})


@cache
def _by_opcode() -> dict[int, str]:
    """Opcode to name; a name with a layout wins over its aliases."""
    names = {code: name for name, code in reversed(facts.OPCODES.items())}
    return names | {packet.opcode: name for name, packet in facts.PACKETS.items()}


def fields(name: str) -> tuple[str, ...]:
    """The fields that :func:`build` takes for this packet, header and tail included."""
    codec = _codec(name)
    return codec.fields() + ((codec.tail,) if codec.tail else ())


def build(name: str, /, **values: Any) -> list[int]:
    """The words of one packet, header first.

    ``NOP`` without DATA is the one-word form; a NOP's DATA is skipped by the engine.

    :raises PacketError: no such packet or field, an operand that is missing, a value that does not fit.
    """
    codec = _codec(name)
    words, tail = codec.build(values)
    if codec.tail is not None and not tail:
        if name != "NOP":
            raise PacketError(f"{name} needs {codec.tail}, at least one word")
        words[0] |= facts.HEADER_ONLY_COUNT << COUNT_SHIFT
        return words
    count = len(words) + len(tail) - 2
    if count > COUNT_LIMIT:
        raise PacketError(f"{name}: {len(tail)} words of {codec.tail} are too many; a packet has at most "
                          f"{COUNT_LIMIT + 1} words after its header")
    words[0] |= count << COUNT_SHIFT
    return words + tail if tail else words


def set_registers(address: int, values: Iterable[int], **header: int) -> list[int]:
    """Set consecutive registers from the one at this dword address of the register BAR.

    :raises PacketError: no packet reaches the register (it is outside the config, context, SH and UCONFIG spaces).
    """
    given = list(values)
    for name, (start, end) in facts.REGISTER_SPACES.items():
        if start <= address and address + len(given) <= end and not name.endswith("_INDEX"):
            return build(name, REG_OFFSET=address - start, VALUE=given, **header)
    spaces = ", ".join(f"{name} {start:#x}..{end:#x}" for name, (start, end) in facts.REGISTER_SPACES.items()
                       if not name.endswith("_INDEX"))
    raise PacketError(f"registers {address:#x} to {address + len(given) - 1:#x} are in no space that a packet "
                      f"sets: {spaces}")


def _reference_registers(address: int) -> Sequence[Register]:
    """The GC registers at a dword address with the reference board's base addresses."""
    bases = next(bases for name, _, _, bases in navi31.IPS if name == "GC")
    gc = table("gc_11_0_0")
    return [register for index, base in enumerate(bases) for register in gc.at(index, address - base)]


def decode(words: Iterable[Any], *, registers: RegisterLookup | None = None) -> list[Decoded]:
    """Read a ring's or an indirect buffer's words. Whatever they are, they are all in the result.

    :param registers: names registers that packets set; default: those of the reference board.
    :raises PacketError: something in ``words`` is no 32-bit word.
    """
    stream = wordlist(words)
    lookup = registers or _reference_registers
    packets: list[Decoded] = []
    index = 0
    while index < len(stream):
        packet = _one(stream, index, lookup)
        packets.append(packet)
        index += len(packet.words)
    return packets


def _one(stream: list[int], index: int, lookup: RegisterLookup) -> Decoded:
    header = stream[index]
    kind = header >> facts.HEADER.fields["TYPE"][1]
    if kind != facts.TYPE3:
        if header == facts.PACKET2_NOP:
            return Decoded("NOP2", index, (header,))
        return Decoded("UNKNOWN", index, (header,), problem=f"a header of type {kind}")
    opcode = (header >> facts.HEADER.fields["OPCODE"][1]) & 0xFF
    count = (header >> COUNT_SHIFT) & facts.HEADER_ONLY_COUNT
    name = _by_opcode().get(opcode)
    length = 1 if name == "NOP" and count == facts.HEADER_ONLY_COUNT else count + 2
    body = tuple(stream[index:index + length])
    packet = Decoded(name or "UNKNOWN", index, body)
    if name is None:
        packet.problem = f"opcode {opcode:#04x} is not known"
    elif len(body) < length:
        packet.problem = f"its header announces {length - 1} words, {len(body) - 1} are left"
    if name not in facts.PACKETS:
        packet.tail = body[1:]
        return packet
    codec = _codec(name)
    codec.read(body, packet)
    described = len(codec.words)
    if length < codec.minimum or (codec.minimum < length < described):
        packet.problem = packet.problem or f"it has {codec.minimum} words, its header announces {length}"
    packet.tail = body[described:]
    if packet.tail and codec.tail is None:
        packet.problem = packet.problem or f"it has {described} words, its header announces {length}"
    if name in facts.REGISTER_SPACES and len(body) >= described:
        _note_registers(packet, facts.REGISTER_SPACES[name], lookup)
    return packet


def _note_registers(packet: Decoded, space: tuple[int, int], lookup: RegisterLookup) -> None:
    first = space[0] + packet.fields["REG_OFFSET"]
    for address, value in enumerate(packet.tail, first):
        found = lookup(address) if address < space[1] else ()
        packet.notes.append(found[0].describe(value) if found else f"register {address:#x} = {value:#010x}")


def dump(words: Iterable[Any], *, registers: RegisterLookup | None = None) -> str:
    """The words as text, packet by packet."""
    return "\n".join(str(packet) for packet in decode(words, registers=registers))
