"""The VBIOS, read by a parser of the test's own, and the ways to it."""

from __future__ import annotations

import struct

import pytest

import mock
from mock import vbios
from mock.board import Board


def u16(image: bytes, at: int) -> int:
    return int(struct.unpack_from("<H", image, at)[0])


def tables(image: bytes, pointer: int) -> dict[int, int]:
    """{index: offset} of the command (0x1E) or data (0x20) tables, by Linux's atom.c."""
    where = u16(image, u16(image, 0x48) + pointer)
    count = (u16(image, where) - 4) // 2
    return {i: u16(image, where + 4 + 2 * i) for i in range(count) if u16(image, where + 4 + 2 * i)}


@pytest.fixture
def image() -> bytes:
    return vbios.build(mock.Gpu("gfx1100", vram="256M"))


def test_is_an_option_rom_of_this_card(image: bytes) -> None:
    assert image[:2] == b"\x55\xaa" and image[2] * 512 == len(image) and sum(image) % 256 == 0
    pcir = u16(image, 0x18)
    assert image[pcir:pcir + 8] == b"PCIR" + struct.pack("<HH", 0x1002, 0x744C)
    assert u16(image, pcir + 16) * 512 == len(image) and image[pcir + 21] == 0x80       # its length; the last image
    assert image[3] == 0xCB, "a PC's BIOS that calls it gets control back"


def test_is_an_atom_bios(image: bytes) -> None:
    header = u16(image, 0x48)
    assert image[0x30:0x3A] == b" 761295520" and image[header + 4:header + 8] == b"ATOM"
    name = image[u16(image, 0x6E):].split(b"\r\n")[1].split(b"\0")[0]
    assert name == b"AMD Radeon RX 7900 XTX (mock)"
    offsets = sorted([*tables(image, 0x1E).values(), *tables(image, 0x20).values()])
    ends = [at + u16(image, at) for at in offsets]
    assert all(end <= start for end, start in zip(ends, offsets[1:], strict=False)), "tables overlap"


def test_says_what_the_discovery_table_says(image: bytes) -> None:
    data = tables(image, 0x20)
    gfx = data[14]
    assert image[gfx + 2:gfx + 4] == bytes((3, 0))
    engines, _, units, arrays = image[gfx + 6:gfx + 10]
    assert engines * units * arrays == 96
    vram = data[28]
    assert image[vram + 2:vram + 4] == bytes((3, 0)) and image[vram + 24] == 0x70       # GDDR6


def test_asic_init_says_that_the_card_is_posted(image: bytes) -> None:
    """The command is interpreted: OR of a register with a dword, end (Linux's atom.c)."""
    command = tables(image, 0x1E)[0]
    size = u16(image, command)
    assert image[command + 2:command + 6] == bytes((2, 1, 0, 0)) and size == 6 + 9
    operation, attribute, register, value, end = struct.unpack_from("<BBHIB", image, command + 6)
    assert (operation, attribute, end) == (13, 5, 91)
    firmware = tables(image, 0x20)[4]
    scratch = struct.unpack_from("<I", image, firmware + 24)[0]
    with mock.Machine([mock.Gpu("gfx1100", vram="256M")]) as machine:
        board = machine.gpus[0]
        assert board.regs.dword("BIF_BX0_BIOS_SCRATCH_0") == scratch
        assert register == scratch + 7 and board.regs["BIF_BX0_BIOS_SCRATCH_7"] & value == value == 0x200


def _by_registers(board: Board, count: int) -> bytes:
    board.write_config(4, 2, 2)                 # memory decode
    index, data = (4 * board.regs.dword(name) for name in ("ROM_INDEX", "ROM_DATA"))
    board.write_bar(5, index, 4, 0)
    return b"".join(board.read_bar(5, data, 4).to_bytes(4, "little") for _ in range(count // 4))


def test_ways_to_it(image: bytes) -> None:
    with mock.Machine([mock.Gpu("gfx1100", vram="256M")]) as machine:
        board = machine.gpus[0]
        assert len(board.rom) == vbios.ROM_BYTES and board.rom[:len(image)] == image
        assert _by_registers(board, 4096) == image[:4096]
        board.write_config(0x30, 4, 0xFFFFFFFF)
        sized = board.read_config(0x30, 4)
        assert sized & 1 and (~(sized & ~0x7FF) & 0xFFFFFFFF) + 1 == vbios.ROM_BYTES
