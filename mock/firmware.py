"""Firmware that no blob is needed for: a synthetic set with true headers, and what the mock's PSP takes.

    python -m mock.firmware DIRECTORY           # writes gc_11_0_0_mec.bin, psp_13_0_0_sos.bin, ...

**The form, which this module defines for both sides of the mock.** A payload that the PSP is given is a signed image
as AMD's are (:mod:`amdrv.facts.signed`, read from the real files):

======  ========================================================================================
0x00    nonce of an encrypted body (synthetic images: the first 16 bytes of SHA-256 of the name)
0x10    ``$PS1`` (a key database may have zeros)
0x14    bytes of body
0x30    1: signed
0x58    type; its low 16 bits tell the image's kind (``facts.signed.TYPES``)
0x60    version
0x6c    bytes in all: 256 of header + body + 256 of signature
0xd0    SHA-256 of the body
0x100   body; synthetic ones start with :data:`BODY_MAGIC` and the name, then bytes that SHA-256 makes from the name
======  ========================================================================================

:func:`authenticate` checks magic, sizes, type and digest, so AMD's own images pass and a flipped bit does not. The
signature itself cannot be checked without AMD's key: the mock takes any 256 bytes.
"""

from __future__ import annotations

import ctypes
import hashlib
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

from amdrv.facts import psp, signed, smu13, ucode

__all__ = ["BODY_MAGIC", "BOOTLOADER", "Refused", "authenticate", "image", "write"]

BODY_MAGIC = b"amdrv synthetic "

BOOTLOADER: dict[int, str] = {
    psp.PSP_BL__LOAD_KEY_DATABASE: "KDB", psp.PSP_BL__LOAD_TOS_SPL_TABLE: "SPL", psp.PSP_BL__LOAD_SYSDRV: "SYS_DRV",
    psp.PSP_BL__LOAD_SOCDRV: "SOC_DRV", psp.PSP_BL__LOAD_INTFDRV: "INTF_DRV", psp.PSP_BL__LOAD_DBGDRV: "DBG_DRV",
    psp.PSP_BL__LOAD_RASDRV: "RAS_DRV", psp.PSP_BL__LOAD_SOSDRV: "SOS"}
"""What each command of the PSP's boot loader loads."""

_FW_TYPES = {code: name.removeprefix("GFX_FW_TYPE_") for name, code in psp.ENUMS["psp_gfx_fw_type"].items()}
_OVERHEAD = signed.HEADER_BYTES + signed.SIGNATURE_BYTES

# GlobalPlatform's TEE Internal Core API, table 3-2, as far as the kernel's tee_error_code leaves them out.
TEE_ERROR_BAD_FORMAT = 0xFFFF0005
TEE_ERROR_BAD_PARAMETERS = 0xFFFF0006
TEE_ERROR_SECURITY = 0xFFFF000F


class Refused(Exception):
    """The PSP does not take an image. ``status`` is what its response says; the text is for the mock's log."""

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        super().__init__(reason)


def authenticate(kind: int | str, payload: bytes | bytearray | memoryview) -> None:
    """What the PSP checks of an image before it uses it.

    :param kind: a psp_gfx_fw_type, or the name of what a boot loader command or LOAD_TOC, LOAD_ASD, LOAD_TA takes
        (``SOS``, ``KDB``, ``TOC``, ``ASD``, ``TA``, ...).
    :param payload: exactly the bytes that the command says, or, for the boot loader's components, its whole buffer.
    :raises Refused: too short, no magic, sizes that disagree, another kind of image, a body that was changed.
    """
    name = _FW_TYPES.get(kind, f"type {kind}") if isinstance(kind, int) else kind
    expected = signed.TYPES.get(name)
    if expected is None:
        raise Refused(TEE_ERROR_BAD_PARAMETERS, f"{name} is no firmware that this card has")
    if len(payload) < _OVERHEAD:
        raise Refused(TEE_ERROR_BAD_FORMAT, f"{name}: {len(payload)} bytes are no signed image")
    header = signed.signed_header.from_buffer_copy(payload)
    if bytes(header.magic) != signed.MAGIC and not (name == "KDB" and not any(header.magic)):
        raise Refused(TEE_ERROR_BAD_FORMAT, f"{name}: no {signed.MAGIC.decode()} at 0x10 of the payload "
                      "(is it the file's header that was passed?)")
    if header.total_bytes != header.body_bytes + _OVERHEAD or not header.body_bytes:
        raise Refused(TEE_ERROR_BAD_FORMAT, f"{name}: {header.body_bytes} bytes of body do not make "
                      f"{header.total_bytes} in all")
    if header.total_bytes > len(payload):
        raise Refused(TEE_ERROR_BAD_PARAMETERS, f"{name}: the image has {header.total_bytes} bytes, the command gave "
                      f"{len(payload)}")
    padded = name in BOOTLOADER.values() or name.endswith("_STACK")      # RS64 stacks are padded to the RAM's size
    if header.total_bytes < len(payload) and not padded:
        raise Refused(TEE_ERROR_BAD_PARAMETERS, f"{name}: the command gave {len(payload)} bytes, the image has only "
                      f"{header.total_bytes}")
    if header.type & signed.TYPE_MASK != expected:
        found = [other for other, code in signed.TYPES.items() if code == header.type & signed.TYPE_MASK]
        raise Refused(TEE_ERROR_BAD_PARAMETERS, f"{name}: the image is of type {header.type:#x}"
                      + (f", which is {found[0]}" if found else ""))
    if not header.is_signed:
        raise Refused(TEE_ERROR_SECURITY, f"{name}: the image is not signed")
    body = bytes(payload[signed.HEADER_BYTES:signed.HEADER_BYTES + header.body_bytes])
    if hashlib.sha256(body).digest() != bytes(header.digest):
        raise Refused(TEE_ERROR_SECURITY, f"{name}: the body is not what was signed (SHA-256 differs)")


def _stream(seed: str, size: int) -> bytes:
    """``size`` bytes that follow from ``seed`` alone."""
    blocks = (hashlib.sha256(f"{seed} {number}".encode()).digest() for number in range(-(-size // 32)))
    return b"".join(blocks)[:size]


def image(name: str, body_bytes: int = 0xE00, *, version: int = 1, padded_to: int = 0) -> bytes:
    """A signed image of the form above; the same for the same arguments, everywhere."""
    start = BODY_MAGIC + name.encode().ljust(32, b"\0")
    body = start + _stream(name, body_bytes - len(start))
    header = signed.signed_header(body_bytes=len(body), is_signed=1, type=0x8101 << 16 | signed.TYPES[name],
                                  version=version, load_address=0xFFFFFFFF, total_bytes=len(body) + _OVERHEAD)
    header.magic[:] = signed.MAGIC
    header.nonce[:] = hashlib.sha256(name.encode()).digest()[:16]
    header.key_id[:] = hashlib.sha256(b"no key").digest()[:16]
    header.digest[:] = hashlib.sha256(body).digest()
    whole = bytes(header) + body + _stream(f"{name} signature", signed.SIGNATURE_BYTES)
    return whole.ljust(padded_to, b"\0")


_UCODE_AT = 0x100       # where AMD's files have their ucode: headers are padded to 256 bytes


def _file(header: ctypes.Structure, version: tuple[int, int], ip: tuple[int, int], ucode_version: int, ucode_: bytes,
          after: bytes = b"", *, descriptors: bytes = b"", header_at: ctypes.Structure | None = None) -> bytes:
    """Header, descriptors, padding, ucode, and what follows the ucode; with the CRC that AMD's files have."""
    common = header_at if header_at is not None else header.header
    common.size_bytes = _UCODE_AT + len(ucode_) + len(after)
    common.header_size_bytes = ctypes.sizeof(header)
    common.header_version_major, common.header_version_minor = version
    common.ip_version_major, common.ip_version_minor = ip
    common.ucode_version = ucode_version
    common.ucode_size_bytes, common.ucode_array_offset_bytes = len(ucode_), _UCODE_AT
    whole = bytearray((bytes(header) + descriptors).ljust(_UCODE_AT, b"\0") + ucode_ + after)
    crc = zlib.crc32(whole[ctypes.sizeof(ucode.common_firmware_header):_UCODE_AT + len(ucode_)])
    common.crc32 = crc
    whole[:ctypes.sizeof(header)] = bytes(header)
    return bytes(whole)


def _packed(header: ctypes.Structure, count: str, images: Sequence[tuple[int, int, bytes]]) -> bytes:
    """Several images behind descriptors: psp_*_sos and psp_*_ta."""
    descriptors, ucode_ = b"", b""
    for fw_type, version, payload in images:
        descriptors += bytes(ucode.psp_fw_bin_desc(fw_type, version, len(ucode_), len(payload)))
        ucode_ += payload
    setattr(header, count, len(images))
    return _file(header, (2, 0), (13, 0), images[0][1], ucode_, descriptors=descriptors)


def _sos() -> bytes:
    version = 0x00310032        # of the real file whose place this takes; likewise below
    return _packed(ucode.psp_firmware_header_v2_0(), "psp_fw_bin_count", [
        (ucode.PSP_FW_TYPE_PSP_SYS_DRV, version, image("SYS_DRV", 0x2000, version=version)),
        (ucode.PSP_FW_TYPE_PSP_SOS, version, image("SOS", 0x1800, version=version)),
        (ucode.PSP_FW_TYPE_PSP_TOC, 0xC, image("TOC", 0x700)),
        (ucode.PSP_FW_TYPE_PSP_KDB, 0x04003100, image("KDB", 0x1500, version=0x04003100)),
        (ucode.PSP_FW_TYPE_PSP_SPL, 0x010031C0, image("SPL", 0xA0, version=0x010031C0)),
        (ucode.PSP_FW_TYPE_PSP_RL, 0x07001C00, image("REG_LIST", 0x760, version=0x07001C00))])


def _ta() -> bytes:
    return _packed(ucode.ta_firmware_header_v2_0(), "ta_fw_bin_count", [
        (ucode.TA_FW_TYPE_PSP_ASD, 0x210000EC, image("ASD", 0x1000, version=0x00070001)),
        (ucode.TA_FW_TYPE_PSP_HDCP, 0x17000043, image("TA", 0xF00, version=0x00070001)),
        (ucode.TA_FW_TYPE_PSP_DTM, 0x12000018, image("TA", 0xF00, version=0x00070001)),
        (ucode.TA_FW_TYPE_PSP_RAS, 0x1B000205, image("TA", 0xF00, version=0x00070001))])


def _smu() -> bytes:
    body = image("SMU", 0x1E00, version=0x00804E00)
    table = bytes(smu13.PPTable_t())
    ids = (3664, 3683, 3715)            # soft pptables of the real file
    entry = ctypes.sizeof(ucode.smc_soft_pptable_entry)
    at = _UCODE_AT + len(body)
    entries = b"".join(bytes(ucode.smc_soft_pptable_entry(number, at + len(ids) * entry + index * len(table),
                                                          len(table))) for index, number in enumerate(ids))
    header = ucode.smc_firmware_header_v2_1(pptable_count=len(ids), pptable_entry_offset=at)
    header.v1_0.ucode_start_addr = 0x20000
    return _file(header, (2, 1), (13, 0), 0x004E8000, body, entries + table * len(ids), header_at=header.v1_0.header)


def _gfx(kind: str, version: int) -> bytes:
    code = image(f"RS64_{kind}", 0x3000, version=version)
    stack = image(f"RS64_{kind}_P0_STACK", 0x1350, version=version, padded_to=0x2000)
    header = ucode.gfx_firmware_header_v2_0(
        ucode_feature_version=0x1D, ucode_size_bytes=len(code), ucode_offset_bytes=_UCODE_AT,
        data_size_bytes=len(stack), data_offset_bytes=_UCODE_AT + len(code), ucode_start_addr_lo=0x3000,
        ucode_start_addr_hi=0x70000)
    return _file(header, (2, 0), (11, 0), version, code + stack)


def _mes(code_name: str, stack_name: str, version: int) -> bytes:
    code = image(code_name, 0x2800, version=version)
    stack = image(stack_name, 0x1000, version=version, padded_to=0x2000)
    header = ucode.mes_firmware_header_v1_0(
        mes_ucode_size_bytes=len(code), mes_ucode_offset_bytes=_UCODE_AT, mes_ucode_data_size_bytes=len(stack),
        mes_ucode_data_offset_bytes=_UCODE_AT + len(code), mes_uc_start_addr_lo=0xF0005000,
        mes_uc_start_addr_hi=0xFFFFFFFF, mes_data_start_addr_lo=0xF0100000, mes_data_start_addr_hi=0xFFFFFFFF)
    return _file(header, (1, 0), (11, 0), 0, code + stack)


def _imu() -> bytes:
    parts = [image(name, 0x2000, version=0x0B1F4B00) for name in ("IMU_I", "IMU_D")]
    header = ucode.imu_firmware_header_v1_0(imu_iram_ucode_size_bytes=len(parts[0]),
                                            imu_dram_ucode_size_bytes=len(parts[1]),
                                            imu_dram_ucode_offset_bytes=len(parts[0]))
    return _file(header, (1, 0), (11, 0), 0x0B1F4B00, b"".join(parts))


def _sdma() -> bytes:
    parts = [image(name, 0x2200, version=version) for name, version in (("SDMA_UCODE_TH0", 0x14),
                                                                       ("SDMA_UCODE_TH1", 0x18))]
    header = ucode.sdma_firmware_header_v2_0(
        ucode_feature_version=0x3C, ctx_ucode_size_bytes=len(parts[0]), ctx_jt_offset=0x1000, ctx_jt_size=0x80,
        ctl_ucode_offset=_UCODE_AT + len(parts[0]), ctl_ucode_size_bytes=len(parts[1]), ctl_jt_offset=0x1000)
    return _file(header, (2, 0), (6, 0), 0x18, b"".join(parts))


def _rlc() -> bytes:
    code = image("RLC_G", 0x2000, version=0x80)
    header = ucode.rlc_firmware_header_v2_3()
    v2_2, v2_1 = header.v2_2, header.v2_2.v2_1
    v2_1.v2_0.ucode_feature_version = 1
    parts: list[bytes] = []
    for holder, field, name, version in ((v2_1, "save_restore_list_gpm", "RLC_RESTORE_LIST_GPM_MEM", 6),
                                         (v2_1, "save_restore_list_srm", "RLC_RESTORE_LIST_SRM_MEM", 6),
                                         (v2_2, "rlc_iram_ucode", "RLC_IRAM", 0x01002F00),
                                         (v2_2, "rlc_dram_ucode", "RLC_DRAM_BOOT", 0x01002F00),
                                         (header, "rlcp_ucode", "RLC_P", 0x19), (header, "rlcv_ucode", "RLC_V", 0x22)):
        payload = image(name, version=version)
        setattr(holder, f"{field}_offset_bytes", _UCODE_AT + len(code) + sum(map(len, parts)))
        setattr(holder, f"{field}_size_bytes", len(payload))
        parts.append(payload)
    return _file(header, (2, 3), (11, 0), 0x80, code, b"".join(parts), header_at=v2_1.v2_0.header)


def write(directory: Path | str) -> list[Path]:
    """Write the reference board's set; the directory is made. Returns the files, the same bytes every time."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    contents = {
        "psp_13_0_0_sos": _sos(), "psp_13_0_0_ta": _ta(), "smu_13_0_0": _smu(), "sdma_6_0_0": _sdma(),
        "gc_11_0_0_pfp": _gfx("PFP", 0x9D8), "gc_11_0_0_me": _gfx("ME", 0x94C), "gc_11_0_0_mec": _gfx("MEC", 0xA1E),
        "gc_11_0_0_mes_2": _mes("CP_MES", "MES_STACK", 0x75),
        "gc_11_0_0_mes1": _mes("CP_MES_KIQ", "MES_KIQ_STACK", 0x102), "gc_11_0_0_imu": _imu(), "gc_11_0_0_rlc": _rlc()}
    paths = []
    for name, data in contents.items():
        path = directory / f"{name}.bin"
        path.write_bytes(data)
        paths.append(path)
    return paths


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m mock.firmware DIRECTORY\nWrites the synthetic firmware of the reference board there.",
              file=sys.stderr)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    try:
        paths = write(arguments[0])
    except OSError as error:
        print(f"error: {error.filename or arguments[0]}: cannot be written: {error.strerror or error}", file=sys.stderr)
        return 1
    for path in paths:
        print(f"{path} ({path.stat().st_size} bytes)")
    return 0


if __name__ == "__main__":
    from tools.piped import piped
    sys.exit(piped(main)())
