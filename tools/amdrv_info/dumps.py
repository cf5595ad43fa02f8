"""Files that need no card: packet dumps, firmware files, discovery tables.

A dump of words is binary (little endian, as a ring lies in memory) or text: hexadecimal words apart by spaces, commas
or line ends, ``0x`` before them or not, an address and a colon at a line's start or not, ``#`` before what is a remark.
So what ``xxd -e -g4 -c16`` without its right column, ``devmem`` loops and debuggers print is taken as it is.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from amdrv import pm4, sdma
from amdrv.errors import AmdrvError, FirmwareError, PacketError
from amdrv.firmware import parse, read
from amdrv.ip import discovery
from amdrv.ip.discovery import Discovery
from amdrv.packets import Decoded

__all__ = ["MAX_DUMP", "decode", "discovery_document", "firmware_document", "packet_document", "parse_discovery",
           "read_bytes", "read_discovery", "read_firmware", "words_of"]

MAX_DUMP = 256 << 20
"""Bytes of the largest file that is read: far beyond any ring, short of filling memory by mistake."""

_ADDRESS = re.compile(r"^\s*(?:\[?(?:0x)?[0-9a-fA-F]+\]?):\s")
_WORD = re.compile(r"(?:0x)?([0-9a-fA-F]{1,8})\Z")
_TEXT = frozenset(b"\t\n\r" + bytes(range(0x20, 0x7F)))


def read_bytes(path: str) -> bytes:
    """A file's bytes; ``-`` is standard input. :raises AmdrvError: it cannot be read, is empty or too large."""
    try:
        if path == "-":
            data = sys.stdin.buffer.read(MAX_DUMP + 1)
        else:
            with Path(path).open("rb") as file:
                data = file.read(MAX_DUMP + 1)
    except OSError as error:
        raise AmdrvError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_DUMP:
        raise AmdrvError(f"{path}: more than {MAX_DUMP >> 20} MiB; cut the part that matters out of it")
    if not data:
        raise AmdrvError(f"{path}: is empty")
    return data


def words_of(name: str, data: bytes, form: str = "auto") -> list[int]:
    """The 32-bit words of a dump.

    :param form: "binary", "hex", or "auto": text where every byte is printable.
    :raises PacketError: half a word at the end, or something in a text that is no word; its line is named.
    """
    if form == "binary" or (form == "auto" and not _TEXT.issuperset(data)):
        if len(data) % 4:
            raise PacketError(f"{name}: {len(data)} bytes are no whole number of 32-bit words")
        return [int.from_bytes(data[at:at + 4], "little") for at in range(0, len(data), 4)]
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as error:
        raise PacketError(f"{name}: byte {error.start} is no text; is it a binary dump (--form binary)?") from None
    words = []
    for number, line in enumerate(text.splitlines(), 1):
        for token in _ADDRESS.sub("", line.partition("#")[0]).replace(",", " ").split():
            found = _WORD.match(token)
            if found is None:
                raise PacketError(f"{name}, line {number}: {token[:40]!r} is no 32-bit word in hexadecimal")
            words.append(int(found[1], 16))
    if not words:
        raise PacketError(f"{name}: there are no words in it")
    return words


def decode(engine: str, words: list[int]) -> list[Decoded]:
    """Packets of "pm4" or "sdma"; whatever the words are, all of them are in the result."""
    return pm4.decode(words) if engine == "pm4" else sdma.decode(words)


def packet_document(packet: Decoded) -> dict[str, Any]:
    return {"index": packet.index, "name": packet.name, "words": list(packet.words), "fields": packet.fields,
            "enums": packet.enums, "registers": packet.notes, "tail": list(packet.tail), "problem": packet.problem}


def read_firmware(path: str) -> Any:
    """A firmware file, checked and taken apart. :raises FirmwareError: naming the file and the first failed check."""
    file = Path(path)
    if not file.is_file():
        raise FirmwareError(f"{path}: is no file" if file.exists() else f"{path}: there is no such file")
    return parse(file.name.removesuffix(".xz").removesuffix(".zst"), read(file))


def firmware_document(path: str) -> dict[str, Any]:
    """``fw --json``, one file."""
    file = read_firmware(path)
    return {"path": path, "kind": file.kind, "header_version": list(file.header_version),
            "ucode_version": file.ucode_version, "header": header_fields(file.header),
            "sections": [{"name": section.name, "offset": section.offset, "size": len(section.payload),
                          "version": section.version, "start_address": section.start_address}
                         for section in file.sections]}


def header_fields(header: Any) -> dict[str, int]:
    """Every number of a header, those of the headers within it first."""
    found: dict[str, int] = {}
    for name, *_ in header._fields_:
        value = getattr(header, name)
        if isinstance(value, int):
            found[name] = value
        elif hasattr(value, "_fields_"):
            found |= header_fields(value)
    return found


def read_discovery(path: str) -> Discovery:
    """A discovery binary, or anything that ends in one (a dump of the end of VRAM).

    :raises DiscoveryError: it holds no sound table.
    """
    return parse_discovery(read_bytes(path))


def parse_discovery(data: bytes) -> Discovery:
    """:func:`read_discovery` of bytes."""
    from amdrv.facts import discovery as facts

    signature = facts.BINARY_SIGNATURE.to_bytes(4, "little")
    at = data.find(signature)
    return discovery.parse(data[at:] if at > 0 else data)


def discovery_document(table: Discovery) -> dict[str, Any]:
    """``discovery --json``."""
    return {"version": list(table.version), "gc": table.gc.tables,
            "blocks": [{"name": ip.name, "hw_id": ip.hw_id, "instance": ip.instance, "die": ip.die,
                        "version": ".".join(map(str, ip.version)), "bases": list(ip.bases), "harvested": ip.harvested}
                       for ip in table.ips]}
