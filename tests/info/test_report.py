"""report: one archive, read back by every command; what it must not hold; archives that are none."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from info_checks import Run, Worked, checked

import amdrv.dump
import mock
from amdrv.device import Device
from amdrv.errors import DiscoveryError
from amdrv.hal.mock import MockHal
from tools.amdrv_info import report
from tools.amdrv_info.__main__ import main
from tools.amdrv_info.report import Report, ReportError, scrub


@pytest.fixture(scope="module")
def patched() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def worked(patched: pytest.MonkeyPatch) -> Iterator[Worked]:
    """One card for all that only look."""
    patched.delenv("AMDRV_HAL", raising=False)
    machine = mock.Machine([mock.Gpu("gfx1100", vram="256M")])
    hal = MockHal(machine)
    patched.setattr(MockHal, "_shared", hal)
    with Device.open(hal=hal, address=hal.functions()[0].address) as device:
        yield Worked(device, hal)
    machine.close()


@pytest.fixture(scope="module")
def archive(worked: Worked, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("report") / "r.zip"
    with contextlib.redirect_stdout(io.StringIO()) as out:
        status = main(["report", "--hal", "mock", "-o", str(file), "--json"])
    said = checked(out.getvalue())
    assert status == 0 and said["registers_and_memory"], said
    assert set(said["without"]) <= {"doctor"}           # a machine without sysfs has no doctor
    return file


def test_every_command_reads_it_back(archive: Path, worked: Worked, run: Run) -> None:
    """Offline and live say the same, of a card that rests."""
    for command in (("list",), ("show",), ("queue",), ("ring",), ("ih",), ("wave", "--vgprs", "16"), ("vm", "map"),
                    ("ring", "sdma"), ("vm", hex(worked.source.address)), ("reg", "IH_RB_CNTL"),
                    ("reg", "GCVM_CONTEXT8_CNTL"), ("ih", "--last", "1")):
        live = checked(run(*command, "--hal", "mock", "--json")[1])
        status, out, err = run(*command, "--from", str(archive), "--json")
        assert (status, err) == (0, ""), (command, err)
        offline = checked(out)
        for document in (live, offline):
            document.pop("card", None)
            if command[0] == "show":
                document["card"] = document["firmware"] = None      # home directories are taken out
            if command[0] == "reg":
                document.pop("address", None)
            if command == ("vm", "map"):
                document["problems"] = []
        assert offline == live, command
        text = run(*command, "--from", str(archive))
        assert text[0] == 0 and text[1] and text[2] == "", command


def test_files_and_packets_out_of_it(archive: Path, worked: Worked, run: Run) -> None:
    said = checked(run("sdma", "SDMA 0.0", "--from", str(archive), "--json")[1])
    assert [word for packet in said["packets"] for word in packet["words"]] == worked.copy
    assert [p["name"] for p in checked(run("pm4", "--from", str(archive), "--json")[1])["packets"]][-1] == "WRITE_DATA"
    table = checked(run("discovery", "--from", str(archive), "--json")[1])
    assert {"GC", "SDMA0", "MP1"} <= {block["name"] for block in table["blocks"]}
    files = checked(run("fw", "--from", str(archive), "--json")[1])["files"]
    assert any(file["path"].endswith("gc_11_0_0_mec.bin") and "sections" in file for file in files)
    assert "header" in run("fw", "mec.bin", "--from", str(archive))[1]
    assert run("top", "--from", str(archive))[0] == 0
    assert checked(run("top", "--from", str(archive), "--json")[1])["memory"]["vram_total"] == 256 << 20
    manifest = checked(run("report", "--from", str(archive), "--json")[1])
    assert manifest["format"] == "amdrv-report/1" and "ring" in manifest["contains"]
    assert "holds" in run("report", "--from", str(archive))[1]


ABSENT: list[tuple[tuple[str, ...], str]] = [
    (("bench",), "has nothing of 'bench'; it has "), (("ring", "compute 7"), "no active queue 'compute 7'"),
    (("reg", "SCRATCH_REG0", "1"), "can be written to a card only"),
    (("reg", "watch", "CP_STAT"), "nothing in it changes"),
    (("vm", "0x7f0000001000"), "not mapped"), (("vm", "map", "--vmid", "3"), "VMID 3 of the gc hub is off"),
    (("sdma", "SDMA 9"), "has no ring 'SDMA 9'"), (("fw", "nothing.bin"), "has no firmware file nothing.bin"),
    (("reg", "MP0_SMN_C2PMSG_33"), "has no value of MP0_SMN_C2PMSG_33")]


def test_what_is_not_in_it_is_said(archive: Path, run: Run) -> None:
    for arguments, said in ABSENT:
        status, out, err = run(*arguments, "--from", str(archive))
        assert status == 1 and said in err + out, (arguments, out, err)


def test_the_dump_in_it_is_one_for_the_driver_and_for_the_mock(archive: Path, worked: Worked) -> None:
    """Two readers written apart, and the live card, walk alike."""
    import mock.dump
    with zipfile.ZipFile(archive) as file:
        text = file.read("card.txt").decode()
    ours, mocks = amdrv.dump.parse(text), mock.dump.loads(text)
    for address in (worked.source.address, worked.target.address + 0x3000):
        one = [(s.level, int(s.entry)) for s in ours.walk("gc", 8, address)]
        assert one == [(s.level, s.entry) for s in mocks.walk("gc", 8, address)]
        assert one == [(s.level, int(s.entry)) for s in amdrv.dump.parse(
            mock.dump.dumps(worked.board)).walk("gc", 8, address)]
    assert [p.name for p in ours.packets(all_of_it=True)][-1] == "WRITE_DATA"


def test_no_secrets(worked: Worked, run: Run, in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of buffers, names and homes are not in any member."""
    monkeypatch.setenv("USER", "mallory")
    monkeypatch.setattr("socket.gethostname", lambda: "secrethost")
    home = in_tmp / "home/mallory"
    (home / "fw").mkdir(parents=True)
    import mock.firmware
    mock.firmware.write(home / "fw")
    monkeypatch.setenv("AMDRV_FIRMWARE", str(home / "fw"))
    secret = b"attack at dawn, said nobody ever"
    assert worked.source.view is not None and worked.target.view is not None
    worked.source.view[:len(secret)] = list(secret)
    worked.target.view[:len(secret)] = list(secret)
    worked.device.flush_hdp()
    assert run("report", "--hal", "mock", "-o", "r.zip")[0] == 0
    with zipfile.ZipFile("r.zip") as file:
        members = {name: file.read(name) for name in file.namelist()}
    for name, data in members.items():
        for word in (b"mallory", b"secrethost", secret, secret.hex().encode()):
            assert word not in data, name
    assert b"gc_11_0_0_mec.bin" in members["documents/fw.json"]


def test_scrub() -> None:
    said = scrub({"path": "/home/alice/fw/a.bin", "processes": [{"pid": 7, "name": "mail"}], "pid": 8,
                  "nested": [{"serial": "12", "text": "in /Users/bob/x and /home/carol"}], "n": 5})
    assert said == {"path": "/home/USER/fw/a.bin", "processes": [], "pid": None,
                    "nested": [{"serial": None, "text": "in /Users/USER/x and /home/USER"}], "n": 5}


def test_a_report_without_a_card_that_answers(worked: Worked, run: Run, in_tmp: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    """Its discovery table is damaged: what is left is still a report, and each command says why it has nothing."""
    def damaged(*_: object) -> None:
        raise DiscoveryError("the discovery table's checksum is wrong")

    monkeypatch.setattr("amdrv.ip.discovery.read", damaged)
    status, out, _ = run("report", "--hal", "mock", "-o", "lost.zip", "--json")
    said = checked(out)
    assert status == 1 and not said["registers_and_memory"] and "checksum is wrong" in said["without"]["queue"]
    status, _, err = run("queue", "--from", "lost.zip")
    assert status == 1 and "queue could not be had when the report was made: the discovery table's" in err
    status, _, err = run("vm", "map", "--from", "lost.zip")
    assert status == 1 and "has no registers and page tables: the discovery table's checksum is wrong" in err
    status, out, err = run("show", "--from", "lost.zip")
    assert status == 1 and "16 GT/s x16" in out and "checksum is wrong" in err


def zipped(**members: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, text in members.items():
            file.writestr(name.replace("__", "/").replace("_json", ".json"), text)
    return out.getvalue()


@pytest.mark.parametrize(("data", "said"), [
    (b"PK\x03\x04 and then nothing", "is no whole zip file"), (zipped(a="b"), "without manifest.json"),
    (zipped(manifest_json="{"), "is no JSON"), (zipped(manifest_json="[]"), "is no object"),
    (zipped(manifest_json='{"format": "amdrv-report/9"}'), "its format is 'amdrv-report/9', this program reads"),
    (b"hello", "is no report; amdrv-info report makes one"), (b"", "is no report")],
    # the archives have a time in them
    ids=["broken", "no manifest", "no JSON", "no object", "another format", "no archive", "empty"])
def test_archives_that_are_none(run: Run, tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "x.zip").write_bytes(data)
    for command in (("show",), ("queue",), ("ring",), ("doctor",)):
        status, out, err = run(*command, "--from", str(tmp_path / "x.zip"), "--json")
        if command == ("ring",) and not data.startswith(b"PK"):
            assert status == 1          # a dump in umr's form would serve
            continue
        assert status == 1 and said in err and err.count("amdrv-info:") == 1, (command, err)
        assert checked(out)["error"]["type"] == "ReportError"
    status, _, err = run("show", "--from", str(tmp_path / "absent.zip"))
    assert status == 1 and "cannot be read" in err


def test_every_truncation_and_flipped_byte_is_one_clear_error(archive: Path, tmp_path: Path) -> None:
    whole = archive.read_bytes()
    file = tmp_path / "cut.zip"

    @given(st.integers(2, len(whole) - 1))
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    def cut(length: int) -> None:
        file.write_bytes(whole[:length])
        with pytest.raises(ReportError, match="is no whole zip file"):
            Report(str(file))
    cut()

    @given(st.integers(4, len(whole) - 1), st.integers(1, 255))
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    def flip(at: int, change: int) -> None:
        data = bytearray(whole)
        data[at] ^= change
        file.write_bytes(data)
        try:
            found = Report(str(file))
            for name in ("show", "queue"):
                json.dumps(found.document(name))
        except ReportError as error:
            assert "cut.zip" in str(error)
    flip()


def test_it_cannot_be_written(worked: Worked, run: Run, tmp_path: Path) -> None:
    status, _, err = run("report", "--hal", "mock", "-o", str(tmp_path / "no/such/place.zip"))
    assert status == 1 and "cannot be written" in err
    assert not list(tmp_path.iterdir()) or list(tmp_path.iterdir()) == []


def test_report_of_a_program_that_fails(run: Run, in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hcq
    machine = mock.Machine([mock.Gpu("gfx1100", vram="256M")])
    monkeypatch.setattr(MockHal, "_shared", MockHal(machine))
    monkeypatch.setattr("hcq.registry._open", {})       # an earlier test may have left its card open
    monkeypatch.setenv("AMDRV_HAL", "mock")
    (in_tmp / "work.py").write_text("import hcq, numpy as np\nd = hcq.open('AM')\n"
                                    "b = d.alloc(64).copyin(np.zeros(16, np.uint32))\nb.copyout()\n"
                                    "raise OSError('boom')\n")
    try:
        status, out, err = run("report", "--hal", "mock", "-o", "r.zip", "--json", "--run", "work.py")
        assert status == 0 and "the program failed: OSError: boom" in err and checked(out)["registers_and_memory"]
        rings = checked(run("ring", "sdma", "--from", "r.zip", "--json")[1])["rings"]
        assert any(packet["name"] == "COPY_LINEAR" for ring in rings for packet in ring["packets"])
        ring = next(each for each in rings if each["packets"])
        walked = checked(run("vm", hex(ring["ring_address"]), "--from", "r.zip", "--json")[1])
        assert "SDMA 0 ring" in walked["owner"]             # names of buffers came with it
        mapped = checked(run("vm", "map", "--from", "r.zip", "--json")[1])["ranges"]
        assert any("IH ring" in name for each in mapped for name in each["owners"])
        shown = checked(run("show", "--from", "r.zip", "--json")[1])
        assert shown["sensors"]["source"] == "SMU metrics" and shown["boot"]["compute_units"] == 96
        hcq.open("AM").close()
        (in_tmp / "nothing.py").write_text("pass")
        status, _, err = run("report", "--hal", "mock", "-o", "n.zip", "--run", "nothing.py")
        assert status == 1 and "left no open card" in err and not (in_tmp / "n.zip").exists()
    finally:
        machine.close()


def test_is_archive_is_by_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"PK..")
    (tmp_path / "b").write_bytes(b"MMIO@0x0={0x1}")
    assert report.is_archive(str(tmp_path / "a")) and not report.is_archive(str(tmp_path / "b"))
