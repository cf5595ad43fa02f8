"""One firmware file: found, decompressed, its header and sections checked.

The header's CRC covers the bytes after the common header up to the end of the ucode (in a few files, whose header
forgets a part, to the end of the file). The files of RLC and SMU, and tables of contents, carry one that their bytes
do not give (so in every file of Debian's package; Linux checks none), so theirs is not checked. What the PSP is given
are signed images (:mod:`amdrv.facts.signed`), whose digest is checked in all of gfx11's: a damaged file is found here,
not by a card that refuses it.
"""

from __future__ import annotations

import ctypes
import hashlib
import lzma
import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from amdrv.errors import FirmwareError
from amdrv.facts import signed, ucode

__all__ = ["ParsedFile", "Section", "describe", "find", "parse", "read", "search_path"]

SUFFIXES = ("", ".xz", ".zst")
MAX_BYTES = 64 << 20        # far beyond the largest of AMD's; bounds what a damaged archive may unpack to



class sdma_firmware_header_v3_0(ctypes.Structure):
    """Linux 6.11, amdgpu_ucode.h: one image, for gfx12's engines."""

    _fields_ = [("header", ucode.common_firmware_header), ("ucode_feature_version", ctypes.c_uint32),
                ("ucode_offset_bytes", ctypes.c_uint32), ("ucode_size_bytes", ctypes.c_uint32)]


PSP_FW_TYPE_PSP_IPKEYMGR_DRV = 11       # Linux 6.9, amdgpu_ucode.h, psp_fw_type
GFX12 = re.compile(r"(gc_12|psp_14|smu_14|sdma_7)_")
"""Files whose signed images hold something else where gfx11's have a SHA-256 of the body, and no size in all."""
NO_DIGEST = {("gc_11_0_0_rlc_1.bin", "RLC_RESTORE_LIST_SRM_MEM")}       # AMD's file, in which it does not match

# Kind of file (how its name ends) -> header version -> its struct in facts.ucode.
HEADERS: dict[str, dict[tuple[int, int], type[ctypes.Structure]]] = {
    "sos": {(2, 0): ucode.psp_firmware_header_v2_0},
    "ta": {(2, 0): ucode.ta_firmware_header_v2_0},
    "smu": {(2, 0): ucode.smc_firmware_header_v2_0, (2, 1): ucode.smc_firmware_header_v2_1},
    "pfp": {(2, 0): ucode.gfx_firmware_header_v2_0},
    "me": {(2, 0): ucode.gfx_firmware_header_v2_0},
    "mec": {(2, 0): ucode.gfx_firmware_header_v2_0},
    "mes": {(1, 0): ucode.mes_firmware_header_v1_0},
    "imu": {(1, 0): ucode.imu_firmware_header_v1_0},
    "rlc": {(2, 0): ucode.rlc_firmware_header_v2_0, (2, 1): ucode.rlc_firmware_header_v2_1,
            (2, 2): ucode.rlc_firmware_header_v2_2, (2, 3): ucode.rlc_firmware_header_v2_3,
            (2, 4): ucode.rlc_firmware_header_v2_4},
    "sdma": {(2, 0): ucode.sdma_firmware_header_v2_0, (3, 0): sdma_firmware_header_v3_0},
    "toc": {(1, 0): ucode.psp_firmware_header_v1_0},
}
NO_CRC = {"rlc", "smu", "toc"}
_NAMES = (("sos", r"psp_\w+_sos"), ("ta", r"psp_\w+_ta"), ("smu", r"smu_\w+"), ("sdma", r"sdma_\w+"),
          ("mes", r"gc_\w+_(mes(1|_2)?|uni_mes)"),
          ("toc", r"(gc|psp)_\w+_toc"), ("mec", r"gc_\w+_mec"), ("pfp", r"gc_\w+_pfp"), ("me", r"gc_\w+_me"),
          ("rlc", r"gc_\w+_rlc(_1)?"), ("imu", r"gc_\w+_imu"))

_SOS_NAMES = {ucode.PSP_FW_TYPE_PSP_SOS: "SOS", ucode.PSP_FW_TYPE_PSP_SYS_DRV: "SYS_DRV",
              ucode.PSP_FW_TYPE_PSP_KDB: "KDB", ucode.PSP_FW_TYPE_PSP_TOC: "TOC", ucode.PSP_FW_TYPE_PSP_SPL: "SPL",
              ucode.PSP_FW_TYPE_PSP_RL: "REG_LIST", ucode.PSP_FW_TYPE_PSP_SOC_DRV: "SOC_DRV",
              ucode.PSP_FW_TYPE_PSP_INTF_DRV: "INTF_DRV", ucode.PSP_FW_TYPE_PSP_DBG_DRV: "DBG_DRV",
              ucode.PSP_FW_TYPE_PSP_RAS_DRV: "RAS_DRV", PSP_FW_TYPE_PSP_IPKEYMGR_DRV: "IPKEYMGR_DRV"}
_TA_NAMES = {ucode.TA_FW_TYPE_PSP_ASD: "ASD", ucode.TA_FW_TYPE_PSP_XGMI: "TA_XGMI", ucode.TA_FW_TYPE_PSP_RAS: "TA_RAS",
             ucode.TA_FW_TYPE_PSP_HDCP: "TA_HDCP", ucode.TA_FW_TYPE_PSP_DTM: "TA_DTM",
             ucode.TA_FW_TYPE_PSP_RAP: "TA_RAP", ucode.TA_FW_TYPE_PSP_SECUREDISPLAY: "TA_SECUREDISPLAY"}


@dataclass(frozen=True)
class Section:
    """A part of a file that the PSP (or, for a soft pptable, the SMU) is given as it is."""

    name: str
    offset: int
    payload: bytes = field(repr=False)
    version: int
    start_address: int | None = None        # of RS64 code, in the processor's own address space

    def __str__(self) -> str:
        start = f", starts at {self.start_address:#x}" if self.start_address is not None else ""
        return f"{self.name:24} {len(self.payload):#9x} bytes at {self.offset:#8x}, version {self.version:#x}{start}"


@dataclass(frozen=True)
class ParsedFile:
    """A firmware file that passed every check; ``sections`` in the order of its header."""

    name: str
    kind: str
    header: ctypes.Structure = field(repr=False)
    header_version: tuple[int, int]
    ucode_version: int
    sections: tuple[Section, ...]

    def __getitem__(self, name: str) -> Section:
        for section in self.sections:
            if section.name == name:
                return section
        raise FirmwareError(f"{self.name} holds no {name}; it holds {', '.join(s.name for s in self.sections)}")

    def __contains__(self, name: str) -> bool:
        return any(section.name == name for section in self.sections)

    def __str__(self) -> str:
        major, minor = self.header_version
        lines = [f"{self.name}: {self.kind} header {major}.{minor}, ucode version {self.ucode_version:#x}"]
        return "\n".join([*lines, *(f"    {section}" for section in self.sections)])


def search_path(directories: Sequence[Path | str] = ()) -> list[Path]:
    """Where to look: AMDRV_FIRMWARE (directories, separated as in PATH), then the HAL's."""
    named = [Path(piece) for piece in os.environ.get("AMDRV_FIRMWARE", "").split(os.pathsep) if piece]
    return named + [Path(directory) for directory in directories]


def find(name: str, directories: Sequence[Path | str]) -> Path:
    """The first file of that name, plain before compressed, in the directories or their ``amdgpu``.

    :raises FirmwareError: it is in none of them.
    """
    for directory in directories:
        for folder in (Path(directory), Path(directory) / "amdgpu"):
            for suffix in SUFFIXES:
                if (path := folder / (name + suffix)).is_file():
                    return path
    places = ", ".join(str(directory) for directory in directories) or "no directory at all"
    raise FirmwareError(f"firmware {name} was looked for in {places} and is not there; install AMD's firmware (Debian: "
                        "firmware-amd-graphics) or name a directory that has it in AMDRV_FIRMWARE")


def read(path: Path) -> bytes:
    """A file's bytes, decompressed by its suffix. :raises FirmwareError: it cannot be read or unpacked."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FirmwareError(f"{path}: cannot be read: {error.strerror or error}") from error
    if path.suffix == ".xz":
        try:
            unpacker = lzma.LZMADecompressor()
            data = unpacker.decompress(data, MAX_BYTES)
            if not unpacker.eof:
                raise FirmwareError(f"{path}: the archive is cut off, or unpacks to more than {MAX_BYTES >> 20} MiB")
        except lzma.LZMAError as error:
            raise FirmwareError(f"{path}: cannot be unpacked: {error}") from error
    elif path.suffix == ".zst":
        data = _unpack_zstd(path, data)
    return data


def _unpack_zstd(path: Path, data: bytes) -> bytes:
    try:
        import zstandard
    except ImportError:
        raise FirmwareError(f"{path}: is compressed with zstd; install the Python package zstandard, or unpack the "
                            "file (zstd -d) into a directory named in AMDRV_FIRMWARE") from None
    try:
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=MAX_BYTES)
    except zstandard.ZstdError as error:
        raise FirmwareError(f"{path}: cannot be unpacked: {error}") from error


def parse(name: str, data: bytes) -> ParsedFile:
    """Check a file's bytes and take it apart; what it should be follows from its name.

    :raises FirmwareError: naming the file and the first check that failed.
    """
    return _Parser(name, data).parsed()


def describe(path: Path | str) -> str:
    """A file's header and sections as text. :raises FirmwareError: see :func:`read` and :func:`parse`."""
    path = Path(path)
    name = path.name.removesuffix(".xz").removesuffix(".zst")
    return str(parse(name, read(path)))


class _Parser:
    def __init__(self, name: str, data: bytes) -> None:
        self.name, self.data = name, data
        self.sections: list[Section] = []
        stem = name.removesuffix(".bin")
        self.kind = next((kind for kind, pattern in _NAMES if re.fullmatch(pattern, stem)), "")
        if not self.kind:
            self.fail("no kind of firmware has such a name; known are psp_*_sos, psp_*_ta, smu_*, sdma_*, and "
                      "gc_*_ followed by pfp, me, mec, mes, mes1, mes_2, uni_mes, rlc, imu or toc")
        if len(data) < ctypes.sizeof(ucode.common_firmware_header):
            self.fail(f"{len(data)} bytes are too few for a header")
        self.common = ucode.common_firmware_header.from_buffer_copy(data)
        if self.common.size_bytes != len(data):
            self.fail(f"its header says {self.common.size_bytes} bytes, the file has {len(data)}")
        version = self.common.header_version_major, self.common.header_version_minor
        self.version = version
        struct = HEADERS[self.kind].get(version)
        if struct is None:
            known = ", ".join(f"{major}.{minor}" for major, minor in HEADERS[self.kind])
            self.fail(f"header version {version[0]}.{version[1]} is not known for {self.kind}; known are {known}")
        need = ctypes.sizeof(struct)
        if not need <= self.common.header_size_bytes <= len(data):
            self.fail(f"its header says that it has {self.common.header_size_bytes} bytes; version {version[0]}."
                      f"{version[1]} needs {need} of the file's {len(data)}")
        self.header = struct.from_buffer_copy(data)
        self.ucode = self.common.ucode_array_offset_bytes
        self.end = self.ucode + self.common.ucode_size_bytes
        if not self.common.header_size_bytes <= self.ucode <= self.end <= len(data):
            self.fail(f"its ucode, {self.common.ucode_size_bytes} bytes at {self.ucode:#x}, is not within the file's "
                      f"{len(data)} bytes")
        start = ctypes.sizeof(ucode.common_firmware_header)
        crc = zlib.crc32(data[start:self.end])
        if self.kind not in NO_CRC and self.common.crc32 not in (crc, zlib.crc32(data[start:])):
            self.fail(f"its CRC is {crc:#010x}, its header says {self.common.crc32:#010x}: the file is damaged")

    def fail(self, what: str) -> NoReturn:
        raise FirmwareError(f"{self.name}: {what}")

    def parsed(self) -> ParsedFile:
        readers = {"sos": self._packed, "ta": self._packed, "smu": self._smu, "pfp": self._gfx, "me": self._gfx,
                   "mec": self._gfx, "mes": self._mes, "imu": self._imu, "sdma": self._sdma, "rlc": self._rlc,
                   "toc": self._toc}
        self.digests = GFX12.match(self.name) is None
        readers[self.kind]()
        return ParsedFile(self.name, self.kind, self.header, self.version, self.common.ucode_version,
                          tuple(self.sections))

    def add(self, name: str, offset: int, size: int, start: int | None = None, *, version: int | None = None) -> None:
        """A section that is a signed image."""
        payload = self.cut(name, offset, size)
        if size < signed.HEADER_BYTES + signed.SIGNATURE_BYTES:
            self.fail(f"{name}: {size} bytes are too few for a signed image")
        header = signed.signed_header.from_buffer_copy(payload)
        if bytes(header.magic) != signed.MAGIC and not (name == "KDB" and not any(header.magic)):
            self.fail(f"{name}: {bytes(header.magic)!r} stands where {signed.MAGIC!r} should")
        total = header.body_bytes + signed.HEADER_BYTES + signed.SIGNATURE_BYTES
        if total > size or (self.digests and header.total_bytes != total):
            self.fail(f"{name}: its image header says {header.body_bytes} bytes of body and {header.total_bytes} in "
                      f"all, the section has {size}")
        body = payload[signed.HEADER_BYTES:signed.HEADER_BYTES + header.body_bytes]
        if self.digests and (self.name, name) not in NO_DIGEST \
                and hashlib.sha256(body).digest() != bytes(header.digest):
            self.fail(f"{name}: the SHA-256 of its body is not the one in its image header: the file is damaged")
        self.sections.append(Section(name, offset, payload, header.version if version is None else version, start))

    def cut(self, name: str, offset: int, size: int) -> bytes:
        if not self.common.header_size_bytes <= offset <= offset + size <= len(self.data):
            self.fail(f"{name}: {size} bytes at {offset:#x} are not within the file's {len(self.data)} bytes")
        return self.data[offset:offset + size]

    def _packed(self) -> None:
        """psp_firmware_header_v2_0 and ta_firmware_header_v2_0: descriptors follow the header."""
        names = _SOS_NAMES if self.kind == "sos" else _TA_NAMES
        count = self.header.psp_fw_bin_count if self.kind == "sos" else self.header.ta_fw_bin_count
        start, step = ctypes.sizeof(self.header), ctypes.sizeof(ucode.psp_fw_bin_desc)
        if not count or start + count * step > self.ucode:
            self.fail(f"it announces {count} images; their descriptors do not fit before its ucode at {self.ucode:#x}")
        for index in range(count):
            item = ucode.psp_fw_bin_desc.from_buffer_copy(self.data, start + index * step)
            name = names.get(item.fw_type)
            if name is None:
                self.fail(f"image {index} is of type {item.fw_type}, which is not known")
            if any(section.name == name for section in self.sections):
                self.fail(f"it holds {name} twice")
            self.add(name, self.ucode + item.offset_bytes, item.size_bytes, version=item.fw_version)

    def _smu(self) -> None:
        self.add("SMU", self.ucode, self.common.ucode_size_bytes)
        if self.version == (2, 0):
            if self.header.ppt_size_bytes:
                self._pptable(0, self.header.ppt_offset_bytes, self.header.ppt_size_bytes)
            return
        step = ctypes.sizeof(ucode.smc_soft_pptable_entry)
        table = self.cut("soft pptables", self.header.pptable_entry_offset, self.header.pptable_count * step)
        for index in range(self.header.pptable_count):
            entry = ucode.smc_soft_pptable_entry.from_buffer_copy(table, index * step)
            self._pptable(entry.id, entry.ppt_offset_bytes, entry.ppt_size_bytes)

    def _pptable(self, number: int, offset: int, size: int) -> None:
        name = f"PPTABLE_{number}"
        self.sections.append(Section(name, offset, self.cut(name, offset, size), number))

    def _gfx(self) -> None:
        """Linux 6.1, amdgpu_ucode.c, amdgpu_ucode_init_single_fw: each pipe gets the same stack."""
        header = self.header
        start = header.ucode_start_addr_lo | header.ucode_start_addr_hi << 32
        name = f"RS64_{self.kind.upper()}"
        self.add(name, self.ucode, header.ucode_size_bytes, start)
        for pipe in range(4 if self.kind == "mec" else 2):
            self.add(f"{name}_P{pipe}_STACK", header.data_offset_bytes, header.data_size_bytes)

    def _mes(self) -> None:
        """Pipe 0 runs the scheduler, pipe 1 the KIQ: mes1 is the second's file."""
        header = self.header
        code, stack = ("CP_MES_KIQ", "MES_KIQ_STACK") if self.name.endswith("_mes1.bin") else ("CP_MES", "MES_STACK")
        self.add(code, header.mes_ucode_offset_bytes, header.mes_ucode_size_bytes,
                 header.mes_uc_start_addr_lo | header.mes_uc_start_addr_hi << 32)
        self.add(stack, header.mes_ucode_data_offset_bytes, header.mes_ucode_data_size_bytes,
                 header.mes_data_start_addr_lo | header.mes_data_start_addr_hi << 32)

    def _imu(self) -> None:
        self.add("IMU_I", self.ucode, self.header.imu_iram_ucode_size_bytes)
        self.add("IMU_D", self.ucode + self.header.imu_iram_ucode_size_bytes, self.header.imu_dram_ucode_size_bytes)

    def _sdma(self) -> None:
        if self.version == (3, 0):
            self.add("SDMA_UCODE_TH0", self.header.ucode_offset_bytes, self.header.ucode_size_bytes)
            return
        self.add("SDMA_UCODE_TH0", self.ucode, self.header.ctx_ucode_size_bytes)
        self.add("SDMA_UCODE_TH1", self.header.ctl_ucode_offset, self.header.ctl_ucode_size_bytes)

    def _toc(self) -> None:
        """A table of contents by itself, for loading without the PSP; it is no signed image."""
        self.sections.append(Section("TOC", self.ucode, self.cut("TOC", self.ucode, self.common.ucode_size_bytes),
                                     self.common.ucode_version))

    def _rlc(self) -> None:
        """Linux 6.1, amdgpu_rlc.c: each header version adds images to those before, but 2.4 takes 2.3's place."""
        self.add("RLC_G", self.ucode, self.common.ucode_size_bytes)
        minor = self.version[1]
        chain: list[ctypes.Structure] = [self.header]
        while (below := getattr(chain[-1], f"v2_{minor - len(chain)}", None)) is not None:
            chain.append(below)
        lists = [("RLC_RESTORE_LIST_SRM_CNTL", "save_restore_list_cntl", 1), ("RLC_RESTORE_LIST_GPM_MEM",
                 "save_restore_list_gpm", 1), ("RLC_RESTORE_LIST_SRM_MEM", "save_restore_list_srm", 1),
                 ("RLC_IRAM", "rlc_iram_ucode", 2), ("RLC_DRAM_BOOT", "rlc_dram_ucode", 2), ("RLC_P", "rlcp_ucode", 3),
                 ("RLC_V", "rlcv_ucode", 3), ("GLOBAL_TAP_DELAYS", "global_tap_delays_ucode", 4),
                 *((f"SE{se}_TAP_DELAYS", f"se{se}_tap_delays_ucode", 4) for se in range(4))]
        for name, prefix, since in lists:
            if since > minor or (since == 3 and minor == 4):
                continue
            for header in chain:
                if hasattr(header, f"{prefix}_size_bytes"):
                    if size := getattr(header, f"{prefix}_size_bytes"):
                        self.add(name, getattr(header, f"{prefix}_offset_bytes"), size)
                    break
