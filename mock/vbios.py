"""The card's VBIOS: an ATOM image of ours, with the tables that a driver looks up and no display.

Facts: Linux 6.1, atomfirmware.h (tables and where the strings stand), atom.c (the parser, and the codes of its
instructions), amdgpu_bios.c (how an image is found and told from another), amdgpu_atomfirmware.c (what is asked of
which table); PCI Firmware Specification 3.0, 5.1 (the header of an expansion ROM). Every figure in a table is that of
:mod:`mock.arch` or :mod:`mock.smu`, or one of ours; nothing here was read from a card.

One command is there: ``asic_init``, which tells by a scratch register that the card was posted. As code for a PC's
BIOS the image does nothing and returns.
"""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING

from amdrv import regs
from amdrv.facts import atom, smu13
from mock.arch import Arch, arch_of

if TYPE_CHECKING:
    from mock.machine import Gpu

__all__ = ["ROM_BYTES", "build", "image"]

ROM_BYTES = 128 << 10           # of the expansion ROM's BAR
IMAGE_BYTES = 64 << 10

FAR_RETURN = 0xCB               # where a PC's BIOS enters
IMAGE_BLOCKS, ENTRY, PCIR_POINTER, STRING_COUNT, MAGIC, ATOM_POINTER, DATE, STRINGS = (
    0x02, 0x03, 0x18, 0x2F, 0x30, 0x48, 0x50, 0x6E)
PCIR, HEADER, CONFIGURATION, TABLES = 0x120, 0x300, 0x2C0, 0x400
BLOCK = 512

OR_REGISTER, END_OF_TABLE, IMMEDIATE_DWORD = 0x0D, 0x5B, 0x05       # atom.c, opcode_table and ATOM_ARG_IMM
IIO_END = 9                                                          # atom.c, ATOM_IIO_END
ASIC_INIT_COMPLETE = 1 << 9     # of scratch register 7 (atombios.h, ATOM_S7_ASIC_INIT_COMPLETE_MASK)
REFERENCE_10KHZ = 10000         # 100 MHz: the clock's counter (mock.clock)
CHANNELS, CHANNEL_WIDTH_LOG2 = 24, 4        # of 16 bits: a Navi31's 384
VENDOR_SAMSUNG = 1              # DRAM vendor codes are JEDEC's, as graphics memory reports them


class _Image:
    """Bytes, and the place for the next table."""

    def __init__(self) -> None:
        self.data = bytearray(IMAGE_BYTES)
        self.end = TABLES

    def put(self, offset: int, data: bytes) -> None:
        self.data[offset:offset + len(data)] = data

    def add(self, data: bytes) -> int:
        """Put a table where there is room; returns its offset."""
        offset = self.end
        self.put(offset, data)
        self.end = offset + len(data) + 15 & ~15
        return offset

    def table(self, body: ctypes.Structure, revision: tuple[int, int]) -> int:
        header: atom.atom_common_table_header = body.table_header       # type: ignore[attr-defined]
        header.structuresize = ctypes.sizeof(body)
        header.format_revision, header.content_revision = revision
        return self.add(bytes(body))


def scratch(arch: Arch, number: int) -> int:
    """Dword address of a BIOS scratch register."""
    register = regs.table("nbio_4_3_0")[f"BIF_BX0_BIOS_SCRATCH_{number}"]
    return arch.ip("NBIF").bases[register.base_idx or 0] + register.offset


def _command(code: bytes, revision: tuple[int, int]) -> bytes:
    """Header, sizes of workspace and parameter space (bytes), code."""
    return struct.pack("<HBBBB", 6 + len(code), *revision, 0, 0) + code


def _asic_init(arch: Arch) -> bytes:
    code = struct.pack("<BBHI", OR_REGISTER, IMMEDIATE_DWORD, scratch(arch, 7), ASIC_INIT_COMPLETE)
    return _command(code + bytes((END_OF_TABLE,)), (2, 1))


def _firmware_info(arch: Arch) -> atom.atom_firmware_info_v3_4:
    from mock.smu import CLOCKS
    info = atom.atom_firmware_info_v3_4(
        firmware_revision=22 << 24, firmware_capability=atom.ATOM_FIRMWARE_CAP_FIRMWARE_POSTED,
        bootup_sclk_in10khz=CLOCKS[smu13.PPCLK_GFXCLK][0] * 100, bootup_mclk_in10khz=CLOCKS[smu13.PPCLK_UCLK][0] * 100,
        bios_scratch_reg_startaddr=scratch(arch, 0))
    info.bootup_vddc_mv = info.bootup_vddgfx_mv = 700
    info.bootup_vddci_mv, info.bootup_mvddc_mv = 850, 1350
    return info


def _gfx_info(arch: Arch) -> atom.atom_gfx_info_v3_0:
    return atom.atom_gfx_info_v3_0(
        gfxip_min_ver=arch.ip("GC").version[1], gfxip_max_ver=arch.ip("GC").version[0],
        max_shader_engines=arch.shader_engines, max_tile_pipes=arch.gc_info["gc_num_gl2c"],
        max_cu_per_sh=2 * arch.wgps_per_array, max_sh_per_se=arch.arrays_per_engine,
        max_backends_per_se=arch.rbs_per_engine, max_texture_channel_caches=arch.gc_info["gc_num_gl2c"],
        golden_tsc_count_lower_refclk=REFERENCE_10KHZ, active_wgp_per_se=arch.arrays_per_engine * arch.wgps_per_array,
        active_rb_per_se=arch.rbs_per_engine, active_se=arch.shader_engines)


def _smu_info() -> atom.atom_smu_info_v4_0:
    from mock.smu import CLOCKS
    lowest = {clock: levels[0] * 100 for clock, levels in CLOCKS.items()}
    return atom.atom_smu_info_v4_0(
        core_refclk_10khz=REFERENCE_10KHZ, bootup_socclk_10khz=lowest[smu13.PPCLK_SOCCLK],
        bootup_fclk_10khz=lowest[smu13.PPCLK_FCLK], bootup_dcefclk_10khz=lowest[smu13.PPCLK_DCFCLK],
        bootup_dprefclk_10khz=lowest[smu13.PPCLK_DPREFCLK], bootup_dtbclk_10khz=lowest[smu13.PPCLK_DTBCLK],
        bootup_vclk0_10khz=lowest[smu13.PPCLK_VCLK_0], bootup_dclk0_10khz=lowest[smu13.PPCLK_DCLK_0],
        bootup_vclk1_10khz=lowest[smu13.PPCLK_VCLK_1], bootup_dclk1_10khz=lowest[smu13.PPCLK_DCLK_1])


def _umc_info() -> atom.atom_umc_info_v3_3:
    return atom.atom_umc_info_v3_3(umcip_min_ver=10, umcip_max_ver=8, vram_type=atom.ATOM_DGPU_VRAM_TYPE_GDDR6,
                                   mem_refclk_10khz=REFERENCE_10KHZ)


def _vram_info(vram_bytes: int) -> atom.atom_vram_info_header_v3_0:
    info = atom.atom_vram_info_header_v3_0(
        vram_module_num=1, umcip_min_ver=10, umcip_max_ver=8, memory_type=atom.ATOM_DGPU_VRAM_TYPE_GDDR6,
        channel_num=CHANNELS, channel_width=CHANNEL_WIDTH_LOG2, channel_enable=(1 << CHANNELS) - 1)
    module = info.vram_module[0]
    module.dram_vendor_id, module.dram_size_per_ch = VENDOR_SAMSUNG, vram_bytes // CHANNELS
    return info


def _indirect_io() -> bytes:
    """A list of ways to reach registers that has none."""
    return struct.pack("<HBB", 5, 1, 1) + bytes((IIO_END,))


def _strings(image: _Image, gpu: Gpu) -> None:
    """Part number, chip, bus and memory; then the name behind a line's end; the version behind its mark."""
    arch = arch_of(gpu.arch)
    texts = (b"113-MOCK-" + gpu.arch.upper().encode(), b"NAVI31", b"PCI_EXPRESS", b"GDDR6")
    image.put(STRING_COUNT, bytes((len(texts),)))
    image.put(DATE, b"01/01/26 00:00\0")
    at = PCIR + 0x40
    image.put(STRINGS, struct.pack("<H", at))
    image.put(at, b"".join(text + b"\0" for text in texts) + b"\r\n" + arch.marketing_name.encode() + b" (mock)\0"
              + b"ATOMBIOSBK-AMD VER022.001.002.008.000\0")
    image.put(CONFIGURATION, b"mock.cfg\0" + b"none\0" + b"1\0")        # configuration, change list, build


def _pci_header(arch: Arch) -> bytes:
    return struct.pack("<4sHHHHB3sHHBBHHH", b"PCIR", arch.vendor, arch.device, 0, 0x1C, 3,
                       arch.class_code.to_bytes(3, "little"), IMAGE_BYTES // BLOCK, 1, 0, 0x80, 0, 0, 0)


def build(gpu: Gpu) -> bytes:
    """The image, its checksum right."""
    arch, image = arch_of(gpu.arch), _Image()
    image.put(0, bytes((0x55, 0xAA, IMAGE_BYTES // BLOCK, FAR_RETURN)))
    image.put(PCIR_POINTER, struct.pack("<H", PCIR))
    image.put(PCIR, _pci_header(arch))
    image.put(MAGIC, b" 761295520\0")
    image.put(ATOM_POINTER, struct.pack("<H", HEADER))
    _strings(image, gpu)

    commands = atom.atom_master_command_function_v2_1()
    commands.listofcmdfunctions.asic_init = image.add(_asic_init(arch))
    data = atom.atom_master_data_table_v2_1()
    tables = data.listOfdatatables
    tables.firmwareinfo = image.table(_firmware_info(arch), (3, 4))
    tables.smu_info = image.table(_smu_info(), (4, 0))
    tables.vram_usagebyfirmware = image.table(atom.vram_usagebyfirmware_v2_1(), (2, 1))
    tables.gfx_info = image.table(_gfx_info(arch), (3, 0))
    tables.umc_info = image.table(_umc_info(), (3, 3))
    tables.vram_info = image.table(_vram_info(gpu.vram_bytes), (3, 0))
    tables.smc_dpm_info = image.table(atom.atom_smc_dpm_info_v4_10(), (4, 10))
    tables.indirectioaccess = image.add(_indirect_io())

    header = atom.atom_rom_header_v2_2(
        configfilenameoffset=CONFIGURATION, subsystem_vendor_id=arch.subsystem[0], subsystem_id=arch.subsystem[1],
        masterhwfunction_offset=image.table(commands, (2, 1)), masterdatatable_offset=image.table(data, (2, 1)))
    header.table_header.structuresize = ctypes.sizeof(header)
    header.table_header.format_revision = header.table_header.content_revision = 2
    header.atom_bios_string[:] = list(b"ATOM")
    image.put(HEADER, bytes(header))
    image.data[-1] = -sum(image.data) & 0xFF
    return bytes(image.data)


def image(gpu: Gpu) -> bytes:
    """What the ROM holds, all of it: the image, and erased flash behind it."""
    return build(gpu).ljust(ROM_BYTES, b"\xff")
