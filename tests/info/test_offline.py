"""amdrv-info without a card: packet dumps, firmware files, discovery tables, registers; and registers of the mock."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import amdrv.dump
import mock
import mock.firmware
from amdrv import pm4, sdma
from amdrv.errors import AmdrvError, PacketError, RegisterError
from amdrv.hal.mock import MockHal
from tools.amdrv_info import dumps, registers
from tools.amdrv_info.__main__ import main

WORDS = [*pm4.build("WRITE_DATA", DST_SEL="MEM", WR_CONFIRM=1, DST_ADDR=0x8000_0000, DATA=[1, 2]),
         *pm4.build("NOP")]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(arguments)
    seen = capsys.readouterr()
    return status, seen.out, seen.err


FORMS = {
    "plain": " ".join(f"{word:08x}" for word in WORDS),
    "prefixed": ",\n".join(f"{word:#x}" for word in WORDS),
    "addresses": "\n".join(f"{16 * at:08x}: {word:08x}   # remark" for at, word in enumerate(WORDS)),
    "brackets": "\n".join(f"[0x{at:x}]: 0x{word:X}" for at, word in enumerate(WORDS)),
}


@pytest.mark.parametrize("form", FORMS)
def test_text_dumps_in_every_form_that_people_have(form: str) -> None:
    assert dumps.words_of("dump", FORMS[form].encode()) == WORDS


def test_a_binary_dump_is_seen_from_its_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "ring.bin"
    file.write_bytes(b"".join(word.to_bytes(4, "little") for word in WORDS))
    status, out, err = run(capsys, "pm4", str(file))
    assert (status, err) == (0, "")
    assert "0: WRITE_DATA (6 words)" in out and "DST_ADDR = 0x80000000" in out and "2 packets in 7 words" in out


def test_sdma_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = sdma.build("FENCE", MTYPE="UC", ADDR=0x1000, DATA=7)
    (tmp_path / "f.hex").write_text(" ".join(map(hex, words)))
    status, out, _ = run(capsys, "sdma", str(tmp_path / "f.hex"), "--json")
    said = json.loads(out)
    assert status == 0 and said["schema"] == "amdrv-info/1" and said["command"] == "sdma"
    (packet,) = said["packets"]
    assert packet["name"] == "FENCE" and packet["words"] == words and packet["problem"] is None
    assert (packet["fields"]["ADDR"], packet["fields"]["DATA"], packet["enums"]["MTYPE"]) == (0x1000, 7, "UC")


def test_what_is_not_understood_is_shown_and_told_by_the_exit_status(tmp_path: Path,
                                                                     capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.hex").write_text("c0ff1200 00000001")
    status, out, _ = run(capsys, "pm4", str(tmp_path / "bad.hex"))
    assert status == 1 and "!! its header announces" in out and "1 not understood" in out


@pytest.mark.parametrize(("content", "said"), [
    (b"", "is empty"), (b"\x00\x01\x02", "no whole number"), (b"deadbeef xyz\n", "line 1: 'xyz'"),
    (b"# nothing\n", "no words"), (b"123456789", "'123456789' is no 32-bit word")])
def test_bad_dumps(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, said: str) -> None:
    (tmp_path / "dump").write_bytes(content)
    status, _, err = run(capsys, "pm4", str(tmp_path / "dump"))
    assert status == 1 and said in err and err.count("amdrv-info:") == 1


def test_no_such_file_and_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("pm4", "sdma", "discovery", "fw"):
        assert run(capsys, command, str(tmp_path / "absent"))[0] == 1
        status, _, err = run(capsys, command, str(tmp_path))
        assert status == 1 and err.startswith("amdrv-info: ")


@given(st.binary(min_size=1, max_size=200))
def test_any_bytes_give_packets_or_one_clear_error(data: bytes) -> None:
    for engine in ("pm4", "sdma"):
        try:
            words = dumps.words_of("dump", data)
        except PacketError as error:
            assert str(error).startswith("dump")
            continue
        assert [word for packet in dumps.decode(engine, words) for word in packet.words] == words


def test_firmware_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mock.firmware.write(tmp_path)
    good, bad = tmp_path / "gc_11_0_0_mec.bin", tmp_path / "sdma_6_0_0.bin"
    bad.write_bytes(bad.read_bytes()[:100])
    status, out, err = run(capsys, "fw", str(good))
    assert (status, err) == (0, "")
    assert "gc_11_0_0_mec.bin  mec, header 2.0" in out and "RS64_MEC_P3_STACK" in out and "crc32" in out
    status, out, err = run(capsys, "fw", str(good), str(bad), "--json")
    files = json.loads(out)["files"]
    assert status == 1 and files[0]["header"]["header_version_major"] == 2 and "sdma_6_0_0.bin" in err
    assert files[0]["sections"][0]["name"] == "RS64_MEC"
    assert files[1]["error"]["type"] == "FirmwareError"


def test_a_discovery_table_in_a_dump_of_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from amdrv.facts.discovery import DISCOVERY_TMR_OFFSET
    with mock.Machine() as machine:
        gpu = machine.gpus[0]
        start = gpu.bar_size(0) - DISCOVERY_TMR_OFFSET
        table = bytes(gpu.bar_memory(0)[start:])
    file = tmp_path / "end-of-vram.bin"
    file.write_bytes(bytes(300) + table)
    status, out, err = run(capsys, "discovery", str(file))
    assert (status, err) == (0, "")
    assert "6 shader engines of 2 arrays of 4 WGPs" in out and "GC" in out and "11.0.0" in out
    said = json.loads(run(capsys, "discovery", str(file), "--json")[1])
    assert {"name": "GC", "version": "11.0.0"}.items() <= next(b for b in said["blocks"] if b["name"] == "GC").items()
    damaged = bytearray(file.read_bytes())
    damaged[300 + 0x100] ^= 1
    file.write_bytes(damaged)
    status, _, err = run(capsys, "discovery", str(file))
    assert status == 1 and "checksum" in err


def test_reg_search_and_define(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "reg", "search", "CP_HQD_PQ_W*")
    assert status == 0 and out.splitlines()[-1] == "4 registers" and "CP_HQD_PQ_WPTR_LO" in out
    status, out, _ = run(capsys, "reg", "search", "hqd_active", "--json")
    assert status == 0 and "CP_HQD_ACTIVE" in [r["name"] for r in json.loads(out)["registers"]]
    status, out, _ = run(capsys, "reg", "cp_hqd_active", "--define", "--json")
    assert status == 0 and json.loads(out)["fields"][0] == {"name": "ACTIVE", "msb": 0, "lsb": 0}
    status, _, err = run(capsys, "reg", "CP_HQD_ACTIV", "--define")
    assert status == 1 and "close: CP_HQD_ACTIVE" in err
    assert run(capsys, "reg", "search", "NOT_THERE_AT_ALL")[0] == 1
    assert run(capsys, "reg", "search")[0] == 1


def test_reg_decode_needs_no_card(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "reg", "CP_HQD_ACTIVE", "--decode", "0x3")
    assert status == 0 and out.startswith("CP_HQD_ACTIVE = 0x00000003")
    assert [line.split()[-1] for line in out.splitlines()[2:4]] == ["1", "1"]
    assert json.loads(run(capsys, "reg", "CP_HQD_ACTIVE", "--decode", "2", "--json")[1])["decoded"] == {
        "ACTIVE": 0, "BUSY_GATE": 1}
    for value in ("x", "0x100000000", "-1"):
        assert run(capsys, "reg", "CP_HQD_ACTIVE", f"--decode={value}")[0] == 1


def test_reg_reads_and_writes_a_card(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    machine = mock.Machine()
    monkeypatch.setattr(MockHal, "_shared", MockHal(machine))
    try:
        status, out, _ = run(capsys, "reg", "SCRATCH_REG0", "0x11223344", "--hal", "mock", "--json")
        said = json.loads(out)
        assert (status, said["written"], said["value"]) == (0, 0x11223344, 0x11223344)
        assert machine.gpus[0].read_bar(5, 4 * said["address"], 4) == 0x11223344
        status, out, _ = run(capsys, "reg", "CP_HQD_ACTIVE", "ACTIVE=0", "BUSY_GATE=1", "--hal", "mock")
        assert status == 0 and "written: CP_HQD_ACTIVE = 0x00000002 (BUSY_GATE=1)" in out
        status, out, _ = run(capsys, "reg", "watch", "SCRATCH_REG0", "--hal", "mock", "--count", "3",
                             "--interval", "0")
        assert status == 0 and len(out.splitlines()) == 1 and "0x11223344" in out
        for words in (("NOPE=1",), ("ACTIVE=2",), ("ACTIVE=1", "ACTIVE=0"), ("1", "2"), ("ACTIVE=",)):
            status, _, err = run(capsys, "reg", "CP_HQD_ACTIVE", *words, "--hal", "mock")
            assert status == 1 and err.startswith("amdrv-info: ")
    finally:
        machine.close()


def test_assignments_are_checked_before_a_card_is_touched() -> None:
    register = registers.find("CP_HQD_ACTIVE").register
    assert registers.assignments(register, ["0x2", "active=1"]) == (2, {"ACTIVE": 1})
    with pytest.raises(RegisterError, match="does not fit"):
        registers.assignments(register, ["ACTIVE=2"])
    with pytest.raises(AmdrvError):
        registers.assignments(register, ["ACTIVE=yes"])


def test_vm_walks_a_dump_and_the_card_it_was_made_of(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    import mock.dump
    from amdrv.device import Device
    machine = mock.Machine()
    hal = MockHal(machine)
    monkeypatch.setattr(MockHal, "_shared", hal)
    try:
        with Device.open(hal=hal, address=hal.functions()[0].address) as device:
            memory = device.alloc(1 << 20)
            file = tmp_path / "card.txt"
            file.write_text(mock.dump.dumps(machine.gpus[0]))
        status, out, err = run(capsys, "vm", hex(memory.address), "--from", str(file), "--json")
        said = json.loads(out)
        assert (status, err, said["valid"]) == (0, "", True) and said["vmid"] == 8
        assert [(step["level"], step["table"], step["entry"]) for step in said["steps"]] == [
            (step.level, step.table, int(step.entry)) for step in amdrv.dump.load(file).walk("gc", 8, memory.address)]
        status, out, _ = run(capsys, "vm", hex(memory.address), "--from", str(file))
        assert status == 0 and out.startswith(hex(memory.address)) and "is VRAM 0x" in out.splitlines()[-1]
        status, out, _ = run(capsys, "vm", "0x7f0000000000", "--from", str(file))
        assert status == 1
    finally:
        machine.close()
    status, _, err = run(capsys, "vm", "--from", str(tmp_path / "no"), "0x1000")
    assert status == 1 and "cannot be read" in err
    assert run(capsys, "vm", "somewhere", "--hal", "mock")[0] == 1


def test_vm_of_a_card_that_nobody_has_booted(capsys: pytest.CaptureFixture[str],
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    machine = mock.Machine()
    monkeypatch.setattr(MockHal, "_shared", MockHal(machine))
    try:
        status, _, err = run(capsys, "vm", "0x1000", "--hal", "mock")
        assert status == 1 and "VMID 8 of the gc hub is off" in err
        status, out, _ = run(capsys, "vm", "0x1000", "--hal", "mock", "--boot", "--vmid", "0")
        assert status == 1 and "not mapped" in out
    finally:
        machine.close()
