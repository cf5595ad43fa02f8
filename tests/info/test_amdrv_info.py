"""amdrv-info: its screens, its JSON, its errors; on the mock, and on configuration spaces written by hand."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import mock.firmware
from amdrv.errors import CardBusyError, DiscoveryError, NoCardError
from amdrv.facts import navi31, ucode
from amdrv.hal import PciFunction
from amdrv.hal.config_space import CheckedConfig
from amdrv.hal.mock import MockHal
from tools.amdrv_info import card, firmware, screens
from tools.amdrv_info.__main__ import main
from tools.amdrv_info.card import Block
from tools.amdrv_info.pci import Bar, Link, ResizableBar, read_pci

GIB = 1 << 30


@pytest.fixture
def hal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MockHal]:
    """The mock with its own firmware, but one file is missing and one is cut short."""
    monkeypatch.delenv("AMDRV_FIRMWARE", raising=False)
    monkeypatch.delenv("AMDRV_HAL", raising=False)
    machine = mock.Machine()
    shared = MockHal(machine)
    monkeypatch.setattr(MockHal, "_shared", shared)
    shared.__dict__["firmware"] = (tmp_path,)
    mock.firmware.write(tmp_path)
    (tmp_path / "psp_13_0_0_sos.bin").unlink()
    (tmp_path / "sdma_6_0_0.bin").write_bytes(b"short")
    yield shared
    machine.close()


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(arguments)
    seen = capsys.readouterr()
    return status, seen.out, seen.err


def test_list(hal: MockHal, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "list", "--hal", "mock")
    assert (status, err) == (0, "")
    assert out.splitlines()[1].split() == ["0", "0000:03:00.0", "AMD", "Radeon", "RX", "7900", "XTX", "1002:744c",
                                           "1002:0e3b", "none"]
    assert out.splitlines()[2].strip() == "1 card through the mock HAL"


def test_list_as_json(hal: MockHal, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "list", "--hal", "mock", "--json")
    assert status == 0
    assert json.loads(out) == {"schema": "amdrv-info/1", "command": "list", "hal": "mock", "cards": [
        {"index": 0, "address": "0000:03:00.0", "vendor": 0x1002, "device": 0x744C, "revision": 0xC8,
         "subsystem": [0x1002, 0x0E3B], "name": "AMD Radeon RX 7900 XTX", "kernel_driver": None}]}


def test_the_hal_may_come_from_the_environment(hal: MockHal, capsys: pytest.CaptureFixture[str],
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMDRV_HAL", "mock")
    assert run(capsys, "list")[0] == 0


def test_show(hal: MockHal, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    status, out, err = run(capsys, "show", "--hal", "mock")
    assert (status, err) == (0, "")
    assert out.startswith("AMD Radeon RX 7900 XTX  gfx1100  96 CUs  1 GiB")
    lines = {line.strip() for line in out.splitlines()}
    assert {"link          16 GT/s x16", "shape          6 shader engines of 2 arrays",
            "VRAM window   1 GiB, all of VRAM; resizable: 256 MiB, 512 MiB, 1 GiB",
            "GC      11.0.0   gc_11_0_0     0x1260 0xa000 0x1c000 0x2402c00",
            "DF      4.4.0    -             0x7000 0x240b800"} <= lines
    words = [line.split() for line in lines]
    assert any(line[:1] == ["gc_11_0_0_mec.bin"] and line[-2:] == ["RS64_MEC,", "RS64_MEC_P{0..3}_STACK"]
               for line in words)
    assert ["psp_13_0_0_sos.bin", "not", "found"] in words
    assert any(" ".join(line) == "sdma_6_0_0.bin 5 bytes are too few for a header" for line in words)


def test_show_as_json(hal: MockHal, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "show", "--hal", "mock", "--device", "0000:03:00.0", "--json")
    said = json.loads(out)
    assert status == 0
    assert (said["schema"], said["command"], said["card"]["address"]) == ("amdrv-info/1", "show", "0000:03:00.0")
    assert said["error"] is None and said["boot"] is None
    assert {bar["role"]: bar["index"] for bar in said["pci"]["bars"]} == {"VRAM": 0, "doorbells": 2, "I/O": 4,
                                                                          "registers": 5}
    assert (said["gpu"]["arch"], said["gpu"]["compute_units"], said["gpu"]["vram_bytes"]) == ("gfx1100", 96, GIB)
    assert [(b["name"], b["instance"], b["version"], tuple(b["bases"])) for b in said["gpu"]["blocks"]] == [
        (name, instance, ".".join(map(str, version)), bases) for name, instance, version, bases in navi31.IPS]
    files = {image["file"]: image for image in said["firmware"]}
    mec = ucode.common_firmware_header.from_buffer_copy((hal.firmware[0] / "gc_11_0_0_mec.bin").read_bytes())
    assert files["gc_11_0_0_mec.bin"]["found"] and files["gc_11_0_0_mec.bin"]["version"] == mec.ucode_version
    assert files["gc_11_0_0_mec.bin"]["holds"][0] == "RS64_MEC"
    assert not files["psp_13_0_0_sos.bin"]["found"]
    assert (files["sdma_6_0_0.bin"]["found"], files["sdma_6_0_0.bin"]["error"]) == (
        True, "5 bytes are too few for a header")


def test_show_changes_nothing(hal: MockHal, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a register nor the configuration space nor VRAM: the whole board is compared."""
    board = hal.machine.gpus[0]
    with hal.open(board.address) as device:         # what opening and closing alone leave behind
        assert device.bar_sizes()

    def state() -> tuple[list[int], list[int]]:
        config = [board.read_config(offset, 4) for offset in range(0, 4096, 4)]
        registers = [board.read_bar(5, 4 * dword, 4) for dword in (0x0, 0x1, 0x6, 0xE, 0xF, 0x14, 0x15)]
        return config, registers

    before = state()
    assert run(capsys, "show", "--hal", "mock")[0] == 0
    assert state() == before


def test_no_card(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str | None = None) -> None:
        raise NoCardError("AMDRV_HAL=auto found no AMD GPU; set AMDRV_HAL=mock to use the software card")

    monkeypatch.setattr("tools.amdrv_info.__main__.looking_hal", none)
    status, out, err = run(capsys, "list")
    assert (status, out) == (1, "")
    assert err == "amdrv-info: AMDRV_HAL=auto found no AMD GPU; set AMDRV_HAL=mock to use the software card\n"
    status, out, err = run(capsys, "list", "--json")
    assert status == 1 and json.loads(out)["error"]["type"] == "NoCardError"


class FakeHal:
    name = "fake"
    firmware: tuple[Path, ...] = ()

    def __init__(self, *functions: PciFunction, error: Exception | None = None) -> None:
        self._functions, self._error = functions, error

    def functions(self, vendor: int | None = None) -> list[PciFunction]:
        return [function for function in self._functions if vendor in (None, function.vendor)]

    def open(self, address: str, *, dma_bits: int = 44) -> Any:
        assert self._error is not None
        raise self._error


GPU = PciFunction("0000:03:00.0", 0x1002, 0x744C, 0x030000, 0xC8, (0x1DA2, 0xE471), "amdgpu")
AUDIO = PciFunction("0000:03:00.1", 0x1002, 0xAB30, 0x040300)
OTHER = PciFunction("0000:0a:00.0", 0x1002, 0x1234, 0x038000, 0x01)


def test_cards_are_amds_display_functions() -> None:
    hal = FakeHal(GPU, AUDIO, OTHER)
    assert card.cards(hal) == [GPU, OTHER]          # type: ignore[arg-type]
    assert [card.marketing_name(f) for f in (GPU, OTHER)] == ["AMD Radeon RX 7900 XTX", "AMD GPU 1234 rev 01"]


def test_no_gpu_among_the_functions_names_the_mock() -> None:
    with pytest.raises(NoCardError, match=r"the fake HAL sees no AMD GPU; AMDRV_HAL=mock .* gives a software card"):
        card.cards(FakeHal(AUDIO))                  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["1", "0000:0a:00.0", "0a:00.0"])
def test_a_card_is_chosen_by_index_or_address(device: str) -> None:
    assert card.choose(FakeHal(GPU, OTHER), device) == OTHER        # type: ignore[arg-type]


def test_a_card_that_is_not_there(hal: MockHal, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "show", "--hal", "mock", "--device", "7")
    assert status == 1
    assert err == "amdrv-info: no card '7'; the mock HAL sees 0 (0000:03:00.0)\n"


def test_a_card_that_is_held_is_looked_at_beside_it(hal: MockHal, capsys: pytest.CaptureFixture[str]) -> None:
    with hal.open("0000:03:00.0"):
        status, out, err = run(capsys, "show", "--hal", "mock")
        assert (status, err) == (0, "") and "AMD Radeon RX 7900 XTX" in out and "gfx1100" in out
        status, _, err = run(capsys, "show", "--hal", "mock", "--boot")     # to boot it is another matter
        assert status == 1 and "0000:03:00.0 is already open" in err


def test_what_could_be_read_is_shown_when_the_rest_fails(hal: MockHal, capsys: pytest.CaptureFixture[str],
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*_: object) -> None:
        raise DiscoveryError("the discovery table's checksum is wrong")

    monkeypatch.setattr("amdrv.ip.discovery.read", damaged)
    status, out, err = run(capsys, "show", "--hal", "mock")
    assert status == 1 and "16 GT/s x16" in out and err == "amdrv-info: the discovery table's checksum is wrong\n"
    status, out, _ = run(capsys, "show", "--hal", "mock", "--json")
    said = json.loads(out)
    assert status == 1 and said["gpu"] is None and said["pci"]["link"]["width"] == 16
    assert said["error"] == {"type": "DiscoveryError", "message": "the discovery table's checksum is wrong"}


def test_an_error_of_opening_is_kept() -> None:
    seen = card.show(FakeHal(GPU, error=CardBusyError("held by process 7")), GPU)       # type: ignore[arg-type]
    assert seen.pci is None and str(seen.error) == "held by process 7"


@pytest.mark.parametrize("arguments", [(), ("lst",), ("show", "--colour")])
def test_a_wrong_command_line_is_explained(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2 and "usage: amdrv-info" in capsys.readouterr().err


def test_help_says_that_nothing_is_changed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0 and "changes nothing, unless told to" in " ".join(capsys.readouterr().out.split())


def test_colour_only_on_a_terminal(hal: MockHal) -> None:
    seen = card.show(hal, card.choose(hal, "0"))
    for terminal in (False, True):
        out = io.StringIO()
        screens.print_card(Console(file=out, force_terminal=terminal, width=90, highlight=False), seen)
        assert ("\x1b[" in out.getvalue()) is terminal
        assert max(len(line) for line in out.getvalue().splitlines()) <= 90 or terminal


# PCI, from configuration spaces written by hand ----------------------------------------------------------

def config_space(*, link_now: int, link_able: int, rebar: tuple[int, int] | None = None,
                 device_control_2: int = 0, command: int = 0) -> CheckedConfig:
    """Header, PCI Express at 0x64, MSI at 0xA0, resizable BAR at 0x200: fields where the specifications put them."""
    data = bytearray(4096)
    struct.pack_into("<HH", data, 0x04, command, 0x10)              # command; status: capability list
    struct.pack_into("<6I", data, 0x10, 0x0000000C, 0x04, 0xF000000C, 0x03, 0xE001, 0x80000000)
    data[0x34] = 0x64
    struct.pack_into("<BB", data, 0x64, 0x10, 0xA0)
    struct.pack_into("<I", data, 0x64 + 0x0C, link_able)
    struct.pack_into("<H", data, 0x64 + 0x12, link_now)
    struct.pack_into("<H", data, 0x64 + 0x28, device_control_2)
    struct.pack_into("<BBH", data, 0xA0, 0x05, 0x00, 0x0081)
    struct.pack_into("<I", data, 0x100, 0x0001 | 1 << 16 | 0x200 << 20)
    if rebar:
        struct.pack_into("<III", data, 0x200, 0x0015 | 1 << 16, *rebar)
    return CheckedConfig(lambda offset, width: int.from_bytes(data[offset:offset + width], "little"),
                         lambda offset, width, value: pytest.fail("amdrv-info wrote to configuration space"))


class FakeDevice:
    def __init__(self, config: CheckedConfig) -> None:
        self.config = config

    def bar_sizes(self) -> dict[int, int]:
        return {0: 256 << 20, 2: 2 << 20, 4: 256, 5: 1 << 20}


def test_pci_by_hand() -> None:
    # Gen 3 x8 now, gen 4 x16 possible; BAR 0 of 256 MiB, may be 256 MiB to 32 GiB (bits 12 to 19 of the capability)
    config = config_space(link_now=0x1000 | 8 << 4 | 3, link_able=0x0040_0000 | 16 << 4 | 4, command=0x6,
                          rebar=(0xFF << 12, 8 << 8 | 1 << 5 | 0), device_control_2=1 << 6)
    pci = read_pci(FakeDevice(config))              # type: ignore[arg-type]
    assert pci.link == Link(8.0, 8, 16.0, 16) and pci.link.degraded
    assert pci.bars == (
        Bar(0, "VRAM", 256 << 20, 0x4_0000_0000, "64-bit prefetchable"),
        Bar(2, "doorbells", 2 << 20, 0x3_F000_0000, "64-bit prefetchable"),
        Bar(4, "I/O", 256, 0xE000, "I/O"), Bar(5, "registers", 1 << 20, 0x8000_0000, "32-bit"))
    assert pci.resizable == ResizableBar(0, 256 << 20, tuple((256 << 20) << i for i in range(8)))
    assert (pci.bus_master, pci.msi, pci.atomics) == (True, True, True)


def test_sizes_beyond_128_tib_are_in_the_control_register() -> None:
    pci = read_pci(FakeDevice(config_space(link_now=0x44, link_able=0x44, rebar=(1 << 31, 1 << 16))))  # type: ignore[arg-type]
    assert pci.resizable is not None and pci.resizable.supported == (1 << 47, 1 << 48)
    assert (pci.bus_master, pci.atomics) == (False, False)


def test_a_small_window_and_a_slow_link_stand_out(hal: MockHal) -> None:
    seen = card.show(hal, card.choose(hal, "0"))
    seen.pci = read_pci(FakeDevice(config_space(link_now=0x83, link_able=0x104)))       # type: ignore[arg-type]
    out = io.StringIO()
    screens.print_card(Console(file=out, width=100, highlight=False), seen)
    assert "8 GT/s x8 (the card can do 16 GT/s x16)" in out.getvalue()
    assert "256 MiB of 1 GiB; not resizable" in out.getvalue()


@pytest.mark.parametrize(("size", "text"), [(0, "0 bytes"), (256, "256 bytes"), (1 << 20, "1 MiB"),
                                            (1536 << 20, "1.5 GiB"), (24 << 30, "24 GiB"), (1000, "1000 bytes")])
def test_sizes(size: int, text: str) -> None:
    assert screens.size_text(size) == text


def test_files_are_those_of_the_blocks_that_are_there(hal: MockHal, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    first = tmp_path / "first"
    first.mkdir()
    (tmp_path / "gc_11_0_0_mec.bin").rename(first / "gc_11_0_0_mec.bin")
    blocks = [Block("GC", 0, "11.0.0", (), False, None), Block("SDMA0", 0, "6.0.0", (), True, None)]
    monkeypatch.setenv("AMDRV_FIRMWARE", str(first))
    found = {image.file: image for image in firmware.look(hal, blocks)}
    assert found["gc_11_0_0_mec.bin"].directory == str(first)
    assert found["gc_11_0_0_me.bin"].directory == str(tmp_path)
    assert not any("sdma" in name for name in found)        # harvested: nobody asks for it


def test_boot_tells_what_only_a_running_card_knows(hal: MockHal, capsys: pytest.CaptureFixture[str],
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    directory = hal.firmware[0] / "whole"
    directory.mkdir()
    mock.firmware.write(directory)
    monkeypatch.setenv("AMDRV_FIRMWARE", str(directory))
    status, out, _ = run(capsys, "show", "--hal", "mock", "--boot", "--json")
    said = json.loads(out)
    assert (status, said["error"]) == (0, None)
    assert (said["boot"]["compute_units"], said["boot"]["clock_hz"]) == (96, 100e6)
    assert said["boot"]["loaded"][-1] == "RLC_G" and "RS64_MEC" in said["boot"]["loaded"]
    assert [stage["name"] for stage in said["boot"]["stages"]][-2:] == ["gfx", "sdma"]
    status, out, _ = run(capsys, "show", "--hal", "mock", "--boot")
    assert status == 0 and "96 of 96" in out and "RS64_MEC_P{0..3}_STACK" in out and "in all" in out


def test_a_boot_that_fails_is_an_error_beside_what_was_seen(hal: MockHal, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "show", "--hal", "mock", "--boot")       # one file missing, one damaged
    assert status == 1 and "gfx1100" in out and "psp_13_0_0_sos" in err
