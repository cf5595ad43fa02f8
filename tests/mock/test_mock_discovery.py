"""The discovery table, read as Linux reads it (Linux 6.1, amdgpu_discovery.c), by offsets from discovery.h alone."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from mock.arch import arch_of


def table(card: Any) -> bytes:
    size = card.board.vram.size
    return bytes(card.memory(size - (64 << 10), 4096))


def test_header_and_checksums(card: Any) -> None:
    data = table(card)
    signature, major, _minor, checksum, size = struct.unpack_from("<IHHHH", data)
    assert signature == 0x28211407 and major == 1
    assert sum(data[10:size]) & 0xFFFF == checksum
    for number in range(3):
        offset, checksum, length, _ = struct.unpack_from("<HHHH", data, 12 + 8 * number)
        assert offset and sum(data[offset:offset + length]) & 0xFFFF == checksum
    flipped = bytearray(data)
    flipped[size - 1] ^= 1
    assert sum(flipped[10:size]) & 0xFFFF != struct.unpack_from("<H", data, 8)[0]


def test_ips(card: Any) -> None:
    data = table(card)
    start, = struct.unpack_from("<H", data, 12)
    signature, version, size, _id, dies, _die, at = struct.unpack_from("<IHHIHHH", data, start)
    assert (signature, version, dies) == (0x53445049, 3, 1) and start + size <= len(data)
    _die_id, count = struct.unpack_from("<HH", data, at)
    at += 4
    found = {}
    for _ in range(count):
        hwid, instance, bases, major, minor, revision, _variant = struct.unpack_from("<HBBBBBB", data, at)
        found[hwid, instance] = (major, minor, revision), struct.unpack_from(f"<{bases}I", data, at + 8)
        at += 8 + 4 * bases
    assert at == start + size
    gc, nbif, sdma1 = found[11, 0], found[108, 0], found[43, 0]
    assert gc == ((11, 0, 0), (0x1260, 0xA000, 0x1C000, 0x2402C00))
    assert nbif[0] == (4, 3, 0) and sdma1[0] == (6, 0, 0) and found[255, 0][0] == found[1, 0][0] == (13, 0, 0)
    assert len(found) == len(arch_of("gfx1100").ips) == count


def test_gc_info(card: Any) -> None:
    data = table(card)
    at, = struct.unpack_from("<H", data, 12 + 8)
    table_id, major, minor, size = struct.unpack_from("<IHHI", data, at)
    assert (table_id, major, minor, size) == (0x4347, 1, 2, 132)
    info = struct.unpack_from("<30I", data, at + 12)
    assert info[0] == 6 and info[1] + info[2] == 4 and info[16] == 2 and info[11] == 32
    assert info[23] == 32 and info[28] == 256 and info[29] == 6144          # KiB of GL0, GL1 and GL2


def test_infinity_cache(card: Any) -> None:
    data = table(card)
    at, _checksum, size = struct.unpack_from("<3H", data, 12 + 4 * 8)
    table_id, major, minor, table_size, mib = struct.unpack_from("<IHHII", data, at)
    assert (table_id, major, minor, table_size, size) == (0x4D414C4C, 1, 0, 48, 48) and mib == 96 << 20


def test_it_is_seen_through_mm_index_too(card: Any) -> None:
    card.write("BIF_BX_PF0_MM_INDEX", 1 << 31 | card.board.vram.size - (64 << 10))
    assert card.read("BIF_BX_PF0_MM_DATA") == 0x28211407


def test_arch_names() -> None:
    assert arch_of("gfx1100").compute_units == 96 and arch_of("gfx1100").ip("GC").version == (11, 0, 0)
    with pytest.raises(KeyError, match="gfx1100 has no IP 'XYZ'; it has GC, "):
        arch_of("gfx1100").ip("XYZ")
