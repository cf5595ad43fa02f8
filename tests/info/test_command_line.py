"""The command line as a stranger meets it: help everywhere, guesses at what was meant, no card at all, every document
within the schema."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from info_checks import Run, checked

import mock
import mock.firmware
from amdrv import pm4
from amdrv.errors import NoCardError
from amdrv.hal.mock import MockHal
from tools.amdrv_info import bench, schema
from tools.amdrv_info.__main__ import _COMMANDS

CARD_COMMANDS = ("list", "show", "reg CP_STAT", "vm 0x1000", "vm map", "queue", "ring", "ih", "wave",
                 "top --count 1 --interval 0.01", "bench", "report -o {tmp}/r.zip")


@pytest.mark.parametrize("command", sorted(_COMMANDS))
def test_help_of_every_command(run: Run, command: str) -> None:
    status, out, err = run(command, "--help")
    assert (status, err) == (0, "") and f"usage: amdrv-info {command}" in out and "--json" in out
    assert command in run("--help")[1]


@pytest.mark.parametrize(("words", "said"), [
    (("shwo",), "there is no 'shwo'; did you mean show?"), (("rings",), "did you mean ring?"),
    (("frobnicate",), "there is no 'frobnicate'; there are "), (("show", "--jsn"), "did you mean --json?"),
    (("bench", "--only", "sdm"), "there is no 'sdm'; did you mean sdma?"),
    (("vm", "0", "--hub", "xx"), "there is no 'xx'; there are gc, mm"), ((), "COMMAND"),
    (("top", "--run"), "which program?"), (("report", "--run"), "which program?"),
    (("ih", "--last", "-5"), "'-5' is no count"), (("wave", "--vgprs", "x"), "'x' is no count"),
    (("ring", "--back=-1"), "'-1' is no count"), (("top", "--count", "1.5"), "'1.5' is no count")])
def test_wrong_words_get_a_guess(run: Run, words: tuple[str, ...], said: str) -> None:
    status, _, err = run(*words)
    assert status == 2 and said in err and "usage: amdrv-info" in err


@pytest.mark.parametrize(("words", "said"), [
    (("reg", "CP_HQD_ACTIV", "--define"), "close: CP_HQD_ACTIVE"),
    (("reg", "CP_HQD_ACTIVE", "ACTIV=1"), "ACTIVE"),
    (("list", "--hal", "mok"), "AMDRV_HAL='mok' is not known; use auto"),
    (("pm4",), "which file?"), (("fw",), "which file?"), (("discovery",), "which file?"),
    (("vm", "here"), "'here' is no address"), (("vm", "0x1_0000_0000_0000"), "no address of 48 bits"),
    (("show", "--hal", "mock", "--device", "9"), "no card '9'; the mock HAL sees 0"),
    (("vm", "map", "--hal", "mock", "--vmid", "99"), "no VMID 99 of hub 'gc'")])
def test_wrong_names_say_what_there_is(run: Run, words: tuple[str, ...], said: str) -> None:
    status, out, err = run(*words, "--json")
    assert status == 1 and said in err, err
    assert checked(out)["error"]["message"] in err.replace("\n", " ") or said in checked(out)["error"]["message"]


@pytest.mark.parametrize("command", CARD_COMMANDS)
def test_no_card_at_all_is_one_error_that_names_the_mock(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                         command: str) -> None:
    def none(_name: str | None = None) -> None:
        raise NoCardError("no AMD GPU on this machine; set AMDRV_HAL=mock to use the software card")

    for module in ("__main__", "looks", "top"):
        monkeypatch.setattr(f"tools.amdrv_info.{module}.looking_hal", none)
    monkeypatch.setattr(bench, "select", none)
    words = command.format(tmp=tmp_path).split()
    status, out, err = run(*words)
    assert (status, out) == (1, "") and err == \
        "amdrv-info: no AMD GPU on this machine; set AMDRV_HAL=mock to use the software card\n"
    assert checked(run(*words, "--json")[1])["error"]["type"] == "NoCardError"
    assert not list(tmp_path.iterdir())


def test_the_schema_is_one_and_is_printed(run: Run) -> None:
    status, out, _ = run("schema")
    assert status == 0 and json.loads(out) == schema.load()
    jsonschema.Draft202012Validator.check_schema(schema.load())
    named = {each["$ref"].rsplit("/", 1)[1] for each in schema.load()["anyOf"]}
    assert {name.partition("-")[0] for name in named} - {"failure"} >= set(_COMMANDS) - {"schema"}


def test_the_schema_refuses_what_is_not_a_document() -> None:
    check = jsonschema.Draft202012Validator(schema.load())
    good = {"schema": "amdrv-info/1", "command": "list", "hal": "mock", "cards": []}
    assert check.is_valid(good)
    for bad in ({**good, "schema": "amdrv-info/2"}, {**good, "cards": [{}]}, {**good, "command": "lst"}, {}, []):
        assert not check.is_valid(bad)
    assert check.is_valid({**good, "later": "fields are only added"})


def test_documents_without_a_card_fit_the_schema(run: Run, tmp_path: Path) -> None:
    (tmp_path / "r.hex").write_text(" ".join(f"{word:08x}" for word in pm4.build(
        "WRITE_DATA", DST_SEL="MEM", WR_CONFIRM=1, DST_ADDR=0x1000, DATA=[1])) + " c0ff1200")
    mock.firmware.write(tmp_path)
    (tmp_path / "bad.bin").write_bytes(b"x")
    assert checked(run("pm4", str(tmp_path / "r.hex"), "--json")[1])["packets"][-1]["problem"]
    assert checked(run("sdma", str(tmp_path / "r.hex"), "--json")[1])["packets"]
    files = checked(run("fw", str(tmp_path / "sdma_6_0_0.bin"), str(tmp_path / "bad.bin"), "--json")[1])["files"]
    assert len(files) == 2
    assert checked(run("reg", "search", "HQD_ACTIVE", "--json")[1])["registers"]
    assert checked(run("reg", "CP_HQD_ACTIVE", "--define", "--json")[1])["name"] == "CP_HQD_ACTIVE"
    assert checked(run("reg", "CP_HQD_ACTIVE", "--decode", "1", "--json")[1])["decoded"]["ACTIVE"] == 1
    status, out, _ = run("doctor", "--json")
    if status in (0, 1) and "error" not in json.loads(out):
        assert checked(out)["doctor"]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> object:
    made = mock.Machine([mock.Gpu("gfx1100", vram="256M"), mock.Gpu("gfx1100", vram="256M")])
    monkeypatch.setattr(MockHal, "_shared", MockHal(made))
    yield made
    made.close()


def test_documents_of_a_card_that_is_booted_fit_the_schema(machine: object, run: Run) -> None:
    assert len(checked(run("list", "--hal", "mock", "--json")[1])["cards"]) == 2
    shown = checked(run("show", "--hal", "mock", "--boot", "--json")[1])
    assert shown["sensors"]["source"] == "SMU metrics" and shown["boot"]["smu_version"].count(".") == 2
    assert shown["gpu"]["vram_kind"] == "GDDR6" and shown["pci"]["aer"] == {"correctable": [], "uncorrectable": []}
    assert shown["pci"]["link"]["max_width"] == 16
    checked(run("vm", "0x1000", "--hal", "mock", "--boot", "--json")[1])
    lines = run("reg", "watch", "SCRATCH_REG0", "--hal", "mock", "--count", "1", "--json")[1].splitlines()
    assert [checked(line)["name"] for line in lines] == ["SCRATCH_REG0"]
    written = checked(run("reg", "SCRATCH_REG0", "0x5", "--hal", "mock", "--json")[1])
    assert (written["written"], written["value"]) == (5, 5)


def test_bench(machine: object, run: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = tmp_path / "bench.png"
    status, out, err = run("bench", "--hal", "mock", "--quick", "--plot", str(plot), "--json")
    said = checked(out)
    assert (status, err) == (0, "") and said["software"]
    rows = {row["name"]: row for row in said["results"]}
    assert {row["bench"] for row in said["results"]} == set(bench.BENCHES)
    for name in ("BAR 0, write", "SDMA, host to VRAM", "launch, waited for", "fp32 multiply-adds", "register, read"):
        assert rows[name]["value"] > 0 and rows[name]["error"] is None
    assert rows["fp32 multiply-adds"]["limit"] == pytest.approx(96 * 64 * 4 * 2.526, rel=1e-6)     # GFLOP/s
    assert rows["SDMA, host to VRAM"]["limit"] == pytest.approx(16 * 128 / 130 / 8 * 16)
    assert any(row["bench"] == "p2p" and row["value"] for row in said["results"])                  # bytes are compared
    assert plot.read_bytes().startswith(b"\x89PNG") and plot.stat().st_size > 8000
    status, out, _ = run("bench", "--hal", "mock", "--quick", "--only", "bar")
    assert status == 0 and "BAR 0, read" in out and "launch" not in out and "software" in out


def test_a_bench_that_fails_is_a_row(machine: object, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_card: object) -> list[bench.Row]:
        raise NoCardError("it went away")

    monkeypatch.setitem(bench.BENCHES, "sdma", broken)
    status, out, _ = run("bench", "--hal", "mock", "--quick", "--only", "sdma", "--only", "bar", "--json")
    rows = {row["bench"]: row for row in checked(out)["results"]}
    assert status == 1 and rows["sdma"]["error"] == "NoCardError: it went away" and rows["bar"]["error"] is None
