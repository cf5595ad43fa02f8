"""Writes packet descriptions (:mod:`amdrv.facts.layout`) as Python source; used by the PM4 and the SDMA generator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from amdrv.facts.layout import Field, Packet, Part, Word

__all__ = ["enums_source", "field_at", "packets_source", "wide_values", "words_source"]

WIDTH = 120


def field_at(lsb: int, mask: int) -> Field:
    """(msb, lsb) of a field whose unshifted mask is ``mask``; :raises ValueError: for a mask with holes."""
    width = mask.bit_length()
    if mask != (1 << width) - 1 or not mask or lsb + width > 32:
        raise ValueError(f"mask {mask:#x} at bit {lsb} is no field of a 32-bit word")
    return lsb + width - 1, lsb


def wide_values(parts: Iterable[tuple[str, Part]]) -> dict[str, tuple[Part, ...]]:
    """Group (value name, part) into values of two parts or more; parts that another one covers stay single."""
    groups: dict[str, list[Part]] = {}
    for name, part in parts:
        groups.setdefault(name, []).append(part)
    result: dict[str, tuple[Part, ...]] = {}
    for name, group in groups.items():
        kept = [part for part in group
                if not any(other is not part and other.lsb <= part.lsb and part.msb <= other.msb for other in group)]
        if len(kept) > 1:
            result[name] = tuple(sorted(kept, key=lambda part: part.lsb))
    return result


def _wrap(head: str, items: list[str], tail: str, indent: int) -> list[str]:
    """``head item, item, ... tail``, broken at WIDTH."""
    lines, line, pad = [], head, " " * indent
    for index, item in enumerate(items):
        piece = item + (", " if index + 1 < len(items) else tail)
        if len((line + piece).rstrip()) > WIDTH:
            lines.append(line.rstrip())
            line = pad
        line += piece
    if not items:
        line += tail
    return [*lines, line.rstrip()]


def _field(name: str, field: Field) -> str:
    inside = ", ".join(str(x) if isinstance(x, int) else f'"{x}"' for x in field)
    return f'"{name}": ({inside})'


def _word(word: Word) -> list[str]:
    head = f'        Word("{word.name}", {{'
    end = "}, optional=True)," if word.optional else "}),"
    return _wrap(head, [_field(name, field) for name, field in word.fields.items()], end, 13)


def _packet(name: str, packet: Packet) -> list[str]:
    lines = [f'    "{name}": Packet({packet.opcode:#04x}, (']
    for word in packet.words:
        lines += _word(word)
    more: list[str] = []
    if packet.tail is not None:
        more.append(f'tail="{packet.tail}"')
    if packet.sub_op is not None:
        more.append(f"sub_op={packet.sub_op}")
    if packet.length is not None:
        more.append(f'length=("{packet.length[0]}", {packet.length[1]})')
    if packet.when:
        more.append("when={" + ", ".join(f'"{key}": {value}' for key, value in packet.when.items()) + "}")
    for index, (value, parts) in enumerate(packet.wide.items()):
        inside = ", ".join(f'Part("{part.field}", {part.msb}, {part.lsb})' for part in parts)
        end = "}" if index + 1 == len(packet.wide) else ""
        more.append(("wide={" if index == 0 else "") + f'"{value}": ({inside})' + end)
    lines += _wrap("        ), ", more, "),", 11) if more else ["        )),"]
    return lines


def packets_source(variable: str, packets: Mapping[str, Packet]) -> str:
    lines = [f"{variable}: dict[str, Packet] = {{"]
    for name, packet in packets.items():
        lines += _packet(name, packet)
    return "\n".join([*lines, "}"]) + "\n"


def enums_source(variable: str, enums: Mapping[str, Mapping[str, int]]) -> str:
    """``{enum: {name: value}}``, values in order."""
    lines = [f"{variable}: dict[str, dict[str, int]] = {{"]
    for enum, values in enums.items():
        ordered = sorted(values.items(), key=lambda item: item[1])
        lines += _wrap(f'    "{enum}": {{', [f'"{name}": {value}' for name, value in ordered], "},", 8)
    return "\n".join([*lines, "}"]) + "\n"


def words_source(variable: str, words: Iterable[Word]) -> str:
    lines = [f"{variable}: tuple[Word, ...] = ("]
    for word in words:
        lines += [line[4:] for line in _word(word)]
    return "\n".join([*lines, ")"]) + "\n"
