"""Firmware: the synthetic set, AMD's own where it is installed, and everything that a damaged file may be."""

from __future__ import annotations

import ctypes
import lzma
import os
import re
import shutil
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amdrv import firmware
from amdrv.errors import FirmwareError
from amdrv.facts import navi31, psp, signed, ucode
from mock import firmware as synthetic
from tools.fetch_sources import locate

IPS = {name: version for name, _, version, _ in navi31.IPS}

# What Linux 7.3 was recorded to load into this card between SETUP_TMR and AUTOLOAD_RLC (psp_gfx_fw_type).
RECORDED = [0x47, 0x48, 0x57, 0x58, 0x59, *range(0x5A, 0x62), 0x21, 0x22, 0x51, 0x52, 0x44, 0x45, 0x14, 0x15, 0x1A,
            0x30, 0x19, 0x07, 0x08]


def real_directory() -> Path | None:
    for place in (locate("firmware"), "/lib/firmware"):     # AMDRV_FIRMWARE_TEST, fetch_sources' cache, the system's
        if place and any((Path(place) / sub / "gc_11_0_0_mec.bin").is_file() for sub in ("", "amdgpu")):
            return Path(place)
    return None


real = pytest.mark.skipif(real_directory() is None, reason="no gfx11 firmware: python -m tools.fetch_sources")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("firmware")
    synthetic.write(place)
    return place


def check_set(place: Path) -> firmware.FirmwareSet:
    """The order is the recorded one, and the mock's PSP takes every piece under the command that carries it."""
    found = firmware.load_set("gfx1100", IPS, [place])
    assert [component.name for component in found.bootloader] == ["KDB", "SPL", "SYS_DRV", "SOS"]
    assert [component.command for component in found.bootloader] == [
        psp.PSP_BL__LOAD_KEY_DATABASE, psp.PSP_BL__LOAD_TOS_SPL_TABLE, psp.PSP_BL__LOAD_SYSDRV, psp.PSP_BL__LOAD_SOSDRV]
    assert [image.fw_type for image in found.images] == RECORDED
    assert (found.smu.fw_type, found.toc.fw_type) == (psp.GFX_FW_TYPE_SMU, psp.GFX_FW_TYPE_TOC)
    assert found.reg_list is not None and found.reg_list.fw_type == psp.GFX_FW_TYPE_REG_LIST
    for component in found.bootloader:
        synthetic.authenticate(synthetic.BOOTLOADER[component.command], component.payload + bytes(4096))
    for image in (found.smu, found.reg_list, *found.images):
        synthetic.authenticate(image.fw_type, image.payload)
    synthetic.authenticate("TOC", found.toc.payload)
    synthetic.authenticate("ASD", found.asd.payload)
    for application in found.tas.values():
        synthetic.authenticate("TA", application.payload)
    assert found.image("RS64_MEC").start_address == 0x7_0000_0000_3000
    assert found.sos.payload[0x10:0x14] == signed.MAGIC
    assert set(found.tas) >= {"TA_RAS", "TA_HDCP", "TA_DTM"}
    assert {3664, 3683, 3715} <= set(found.pptables)
    return found


def test_the_synthetic_set(directory: Path) -> None:
    check_set(directory)


@real
def test_the_real_set() -> None:
    place = real_directory()
    assert place is not None
    check_set(place)


@real
@pytest.mark.parametrize("version", ["11_0_2", "11_0_3"])
def test_real_files_of_other_gfx11_cards_are_read(version: str) -> None:
    place = real_directory()
    assert place is not None
    for part in ("pfp", "me", "mec", "rlc", "imu", "mes1"):
        path = firmware.find(f"gc_{version}_{part}.bin", [place])
        parsed = firmware.parse(f"gc_{version}_{part}.bin", firmware.read(path))
        for section in parsed.sections:
            synthetic.authenticate(psp.ENUMS["psp_gfx_fw_type"][f"GFX_FW_TYPE_{section.name}"], section.payload)


def files_of_navi() -> list[str]:
    """Every file of Debian's package that a Navi3x or Navi4x card loads."""
    place = real_directory()
    if place is None:
        return []
    security = r"13_0_(0|7|10)|14_0_[23]"
    versions = [("gc", r"11_0_[023]|12_0_[01]"), ("psp", security), ("smu", security), ("sdma", r"6_0_[023]|7_0_[01]")]
    pattern = re.compile("|".join(rf"{block}_({these})(_\w+)?\.bin(\.xz|\.zst)?" for block, these in versions))
    folder = place / "amdgpu" if (place / "amdgpu").is_dir() else place
    return sorted(path.name for path in folder.iterdir() if pattern.fullmatch(path.name))


@real
def test_every_file_of_navi3x_and_navi4x_is_parsed() -> None:
    """All header versions; what the PSP is given are the file's own bytes, with its mark."""
    place, seen = real_directory(), set()
    assert place is not None
    names = files_of_navi()
    assert len(names) >= 60
    for name in names:
        stem = name.removesuffix(".xz").removesuffix(".zst")
        data = firmware.read(firmware.find(stem, [place]))
        parsed = firmware.parse(stem, data)
        seen.add((parsed.kind, parsed.header_version))
        assert parsed.sections, name
        for section in parsed.sections:
            assert section.payload == data[section.offset:section.offset + len(section.payload)], (name, section.name)
            if not section.name.startswith("PPTABLE") and parsed.kind != "toc":
                mark = section.payload[0x10:0x14]
                assert mark == signed.MAGIC or (section.name == "KDB" and mark == bytes(4)), (name, section.name)
    assert {("sdma", (3, 0)), ("sdma", (2, 0)), ("rlc", (2, 3)), ("mes", (1, 0)), ("imu", (1, 0)), ("toc", (1, 0)),
            ("sos", (2, 0)), ("ta", (2, 0)), ("smu", (2, 1))} <= seen


@real
def test_the_software_card_boots_with_the_real_set(monkeypatch: pytest.MonkeyPatch) -> None:
    import mock
    from amdrv.device import Device
    from amdrv.hal.mock import MockHal
    monkeypatch.setenv("AMDRV_FIRMWARE", str(real_directory()))
    with mock.Machine(gpus=[mock.Gpu("gfx1100", vram="256M")]) as machine, Device.open(hal=MockHal(machine)) as device:
        assert [stage.name for stage in device.boot_stages][-1] == "sdma"


def test_writing_again_gives_the_same_bytes(directory: Path, tmp_path: Path) -> None:
    for path in synthetic.write(tmp_path / "deep" / "er"):
        assert path.read_bytes() == (directory / path.name).read_bytes()


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert synthetic.main([str(tmp_path)]) == 0
    assert "gc_11_0_0_mec.bin" in capsys.readouterr().out
    assert synthetic.main([]) == 2
    assert "usage: python -m mock.firmware DIRECTORY" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert synthetic.main([str(tmp_path / "file" / "below")]) == 1
    assert f"error: {tmp_path / 'file' / 'below'}: cannot be written: Not a directory" in capsys.readouterr().err


def test_describe_lists_header_and_sections(directory: Path) -> None:
    text = firmware.describe(directory / "gc_11_0_0_mec.bin")
    assert text.splitlines()[0] == "gc_11_0_0_mec.bin: mec header 2.0, ucode version 0xa1e"
    assert "RS64_MEC_P3_STACK" in text and "starts at 0x7000000003000" in text


def test_search_path_and_compression(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    (second / "amdgpu").mkdir(parents=True)
    first.mkdir()
    data = (directory / "sdma_6_0_0.bin").read_bytes()
    (second / "amdgpu" / "sdma_6_0_0.bin.xz").write_bytes(lzma.compress(data))
    monkeypatch.setenv("AMDRV_FIRMWARE", os.pathsep.join([str(first), str(second)]))
    assert firmware.search_path([directory]) == [first, second, directory]
    path = firmware.find("sdma_6_0_0.bin", firmware.search_path([directory]))
    assert path == second / "amdgpu" / "sdma_6_0_0.bin.xz"
    assert firmware.read(path) == data
    assert firmware.describe(path).startswith("sdma_6_0_0.bin: sdma header 2.0")
    monkeypatch.delenv("AMDRV_FIRMWARE")
    assert firmware.search_path() == []


def test_an_older_mes_is_taken_where_there_is_no_newer(directory: Path, tmp_path: Path) -> None:
    place = tmp_path / "set"
    shutil.copytree(directory, place)
    (place / "gc_11_0_0_mes_2.bin").rename(place / "gc_11_0_0_mes.bin")
    assert firmware.load_set("gfx1100", IPS, [place]).image("CP_MES").file == "gc_11_0_0_mes.bin"
    (place / "gc_11_0_0_mes.bin").unlink()
    with pytest.raises(FirmwareError, match=r"firmware gc_11_0_0_mes_2\.bin was looked for"):
        firmware.load_set("gfx1100", IPS, [place])


def refused(message: str, action: Callable[[], object]) -> None:
    with pytest.raises(FirmwareError) as caught:
        action()
    assert str(caught.value) == message or str(caught.value).startswith(message)


def test_what_cannot_be_found_or_read(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(f"firmware gc_11_0_0_mec.bin was looked for in {tmp_path} and is not there; install AMD's firmware "
            "(Debian: firmware-amd-graphics) or name a directory that has it in AMDRV_FIRMWARE",
            lambda: firmware.find("gc_11_0_0_mec.bin", [tmp_path]))
    refused("firmware x.bin was looked for in no directory at all and is not there", lambda: firmware.find("x.bin", []))
    refused(f"{tmp_path}: cannot be read: ", lambda: firmware.read(tmp_path))
    packed = tmp_path / "a.bin.xz"
    packed.write_bytes(b"no archive")
    refused(f"{packed}: cannot be unpacked: ", lambda: firmware.read(packed))
    packed.write_bytes(lzma.compress(bytes(1000))[:-20])
    refused(f"{packed}: the archive is cut off, or unpacks to more than 64 MiB", lambda: firmware.read(packed))
    packed = tmp_path / "a.bin.zst"
    packed.write_bytes(b"\x28\xb5\x2f\xfd")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    refused(f"{packed}: is compressed with zstd; install the Python package zstandard", lambda: firmware.read(packed))
    refused("which firmware gfx1201 needs is not known; known is gfx11",
            lambda: firmware.load_set("gfx1201", IPS, [directory]))
    refused("firmware is named by IP versions, and MP0 is not among GC; needed are GC, MP0, MP1, SDMA0",
            lambda: firmware.load_set("gfx1100", {"GC": (11, 0, 0)}, [directory]))
    found = firmware.load_set("gfx1100", IPS, [directory])
    refused("the firmware set has no RS64_CE; it has TOC, SMU, SDMA_UCODE_TH0, ", lambda: found.image("RS64_CE"))
    refused("the firmware set has no SOC_DRV; it has KDB, SPL, SYS_DRV, SOS", lambda: found.component("SOC_DRV"))
    refused("gc_11_0_0_mec.bin holds no TOC; it holds RS64_MEC, ", lambda: found.files["mec"]["TOC"])


def broken(data: bytes, struct: type[ctypes.Structure], **changes: int) -> bytes:
    """The file with header fields changed (``v2_2__x``: within v2_2) and the CRC made right again."""
    header = struct.from_buffer_copy(data)
    for name, value in changes.items():
        *path, last = name.split("__")
        holder = header
        for step in path:
            holder = getattr(holder, step)
        setattr(holder, last, value)
    return right_crc(bytes(header) + data[ctypes.sizeof(struct):])


def right_crc(data: bytes) -> bytes:
    common = ucode.common_firmware_header.from_buffer_copy(data)
    common.crc32 = zlib.crc32(data[32:common.ucode_array_offset_bytes + common.ucode_size_bytes])
    return bytes(common) + data[32:]


def test_each_check_of_a_header_says_what_is_wrong(directory: Path) -> None:
    name = "gc_11_0_0_mec.bin"
    data = (directory / name).read_bytes()
    gfx, common = ucode.gfx_firmware_header_v2_0, ucode.common_firmware_header
    size = len(data)
    cases: list[tuple[str, bytes, str]] = [
        ("gc_11_0_0_ce.bin", data, "no kind of firmware has such a name; known are psp_*_sos, "),
        (name, data[:31], "31 bytes are too few for a header"),
        (name, data[:-4], f"its header says {size} bytes, the file has {size - 4}"),
        (name, data + b"\0", f"its header says {size} bytes, the file has {size + 1}"),
        (name, broken(data, common, header_version_major=3), "header version 3.0 is not known for mec; known are 2.0"),
        (name, broken(data, common, header_size_bytes=32),
         f"its header says that it has 32 bytes; version 2.0 needs 60 of the file's {size}"),
        (name, broken(data, common, ucode_size_bytes=size),
         f"its ucode, {size} bytes at 0x100, is not within the file's {size} bytes"),
        (name, data[:-1] + bytes([data[-1] ^ 1]), "its CRC is "),
        (name, broken(data, gfx, data_offset_bytes=size), "RS64_MEC_P0_STACK: 8192 bytes at "),
        (name, broken(data, gfx, ucode_size_bytes=100), "RS64_MEC: 100 bytes are too few for a signed image"),
    ]
    for file, content, message in cases:
        refused(f"{file}: {message}", lambda file=file, content=content: firmware.parse(file, content))  # type: ignore[misc]


def test_each_check_of_an_image_says_what_is_wrong(directory: Path) -> None:
    name = "gc_11_0_0_mec.bin"
    data = (directory / name).read_bytes()
    at = 0x100
    header = signed.signed_header
    cases = [(header.magic.offset, "b'\\x00PS1' stands where b'$PS1' should"),
             (header.body_bytes.offset + 1, "its image header says 0 bytes of body and 12800 in all, the section has "),
             (header.total_bytes.offset + 1, "its image header says 12288 bytes of body and 0 in all, the section "),
             (header.digest.offset, "the SHA-256 of its body is not the one in its image header: the file is damaged"),
             (signed.HEADER_BYTES, "the SHA-256 of its body is not the one in its image header: the file is damaged")]
    for offset, message in cases:
        changed = bytearray(data)
        changed[at + offset] ^= data[at + offset] or 0x55
        content = right_crc(bytes(changed))
        refused(f"{name}: RS64_MEC: {message}", lambda content=content: firmware.parse(name, content))  # type: ignore[misc]


def test_packed_files_and_tables(directory: Path) -> None:
    sos = (directory / "psp_13_0_0_sos.bin").read_bytes()
    head = ucode.psp_firmware_header_v2_0
    refused("psp_13_0_0_sos.bin: it announces 99 images; their descriptors do not fit before its ucode at 0x100",
            lambda: firmware.parse("psp_13_0_0_sos.bin", broken(sos, head, psp_fw_bin_count=99)))
    first = bytearray(sos)
    first[36] = 77
    refused("psp_13_0_0_sos.bin: image 0 is of type 77, which is not known",
            lambda: firmware.parse("psp_13_0_0_sos.bin", right_crc(bytes(first))))
    first[36:52] = sos[52:68]
    refused("psp_13_0_0_sos.bin: it holds SOS twice",
            lambda: firmware.parse("psp_13_0_0_sos.bin", right_crc(bytes(first))))
    smu = (directory / "smu_13_0_0.bin").read_bytes()
    refused("smu_13_0_0.bin: soft pptables: 120000 bytes at ", lambda: firmware.parse(
        "smu_13_0_0.bin", broken(smu, ucode.smc_firmware_header_v2_1, pptable_count=10000)))
    rlc = (directory / "gc_11_0_0_rlc.bin").read_bytes()
    refused("gc_11_0_0_rlc.bin: RLC_V: ", lambda: firmware.parse(
        "gc_11_0_0_rlc.bin", broken(rlc, ucode.rlc_firmware_header_v2_3, rlcv_ucode_offset_bytes=0)))
    without = broken(rlc, ucode.rlc_firmware_header_v2_3, v2_2__v2_1__save_restore_list_srm_size_bytes=0)
    assert "RLC_RESTORE_LIST_SRM_MEM" not in firmware.parse("gc_11_0_0_rlc.bin", without)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_one_clear_error_or_harmless(directory: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(directory.iterdir())))
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, 300))] = data.draw(st.integers(0, 255))
    else:
        del content[data.draw(st.integers(0, len(content))):]
    fixed = data.draw(st.booleans()) and len(content) >= 32
    if fixed:
        common = ucode.common_firmware_header.from_buffer_copy(content)
        common.size_bytes = len(content)
        content[:32] = bytes(common)
        content = bytearray(right_crc(bytes(content)))
    try:
        parsed = firmware.parse(path.name, bytes(content))
    except FirmwareError as error:
        assert str(error).startswith(f"{path.name}: ")
    else:
        for section in parsed.sections:
            assert section.offset + len(section.payload) <= len(content)


def psp_refuses(kind: int | str, payload: bytes, status: int, message: str) -> None:
    with pytest.raises(synthetic.Refused) as caught:
        synthetic.authenticate(kind, payload)
    assert str(caught.value).startswith(message)
    assert caught.value.status == status


def test_what_the_mock_psp_refuses() -> None:
    mec = synthetic.image("RS64_MEC")
    right = psp.GFX_FW_TYPE_RS64_MEC
    synthetic.authenticate(right, mec)
    psp_refuses(psp.GFX_FW_TYPE_VCE, mec, 0xFFFF0006, "VCE is no firmware that this card has")
    psp_refuses(999, mec, 0xFFFF0006, "type 999 is no firmware that this card has")
    psp_refuses(psp.GFX_FW_TYPE_RS64_ME, mec, 0xFFFF0006, "RS64_ME: the image is of type 0x81012048, which is RS64_MEC")
    psp_refuses(right, mec[:100], 0xFFFF0005, "RS64_MEC: 100 bytes are no signed image")
    psp_refuses(right, mec[:-1], 0xFFFF0006, "RS64_MEC: the image has 4096 bytes, the command gave 4095")
    psp_refuses(right, mec + b"\0", 0xFFFF0006, "RS64_MEC: the command gave 4097 bytes, the image has only 4096")
    psp_refuses(right, bytes(16) + mec, 0xFFFF0005, "RS64_MEC: no $PS1 at 0x10 of the payload")
    psp_refuses("SOS", bytes(mec), 0xFFFF0006, "SOS: the image is of type 0x81012048, which is RS64_MEC")
    for offset, status, message in ((0x180, 0xFFFF000F, "RS64_MEC: the body is not what was signed (SHA-256 differs)"),
                                    (0x14, 0xFFFF0005, "RS64_MEC: 3585 bytes of body do not make 4096 in all"),
                                    (0x30, 0xFFFF000F, "RS64_MEC: the image is not signed")):
        changed = bytearray(mec)
        changed[offset] ^= 1
        psp_refuses(right, bytes(changed), status, message)


def test_a_synthetic_body_says_what_it_is() -> None:
    body = synthetic.image("IMU_D")[signed.HEADER_BYTES:]
    assert body.startswith(synthetic.BODY_MAGIC + b"IMU_D\0")
