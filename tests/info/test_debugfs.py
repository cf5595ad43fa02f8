"""A card that amdgpu drives, seen through amdgpu's debugfs: what a mock card holds, written into such files, must look
as the card itself does."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fcntl", reason="Linux only")

import fcntl

from amdgpu_tree import CARD, Tree
from info_checks import Run, Worked, checked

from amdrv.errors import HalError
from amdrv.hal import debugfs
from amdrv.hal.looking import look
from tools.amdrv_info import engines, source

WANTED = ("GCVM_CONTEXT", "GCMC_VM_", "SDMA0_QUEUE", "SDMA1_QUEUE", "GRBM_STATUS")


class Files:
    """amdgpu_regs2, amdgpu_vram and amdgpu_gfxoff of a card, in a tree."""

    def __init__(self, tree: Tree, worked: Worked) -> None:
        self.folder = tree.root / "sys/kernel/debug/dri/1"
        self.states: list[tuple[int, ...]] = []
        self.hqd: dict[int, bytes] = {}
        with source.live(worked.hal, worked.hal.functions()[0], writable=True) as card:
            registers = card.registers
            with (self.folder / "amdgpu_regs2").open("wb") as file:
                file.truncate(1 << 20)
                for each in registers:
                    if each.name.startswith(WANTED) and each.address < 1 << 18:
                        self.put(file, each.address, int(each.read()))
                for dword in (debugfs_discovery().RCC_CONFIG_MEMSIZE, debugfs_discovery().MP0_SMN_C2PMSG_33):
                    self.put(file, dword, int(worked.board.read_bar(5, 4 * dword, 4)))
            with card.selected(1, 0, 0):
                for name in engines.HQD:
                    self.hqd[registers[name].address] = int(registers[name].read()).to_bytes(4, "little")
        memory = worked.board.vram.view
        with (self.folder / "amdgpu_vram").open("wb") as file:
            file.truncate(len(memory))
            for at in range(0, len(memory), 1 << 16):
                piece = memory[at:at + (1 << 16)]
                if piece.any():
                    file.seek(at)
                    file.write(piece.tobytes())

    @staticmethod
    def put(file: Any, dword: int, value: int) -> None:
        file.seek(4 * dword)
        file.write(value.to_bytes(4, "little"))

    def ioctl(self, _fd: int, number: int, state: bytes) -> None:
        """As amdgpu does: the registers of the chosen queue stand where the queues' registers are."""
        assert number == 0xC0282000
        words = struct.unpack("<10I", state)
        self.states.append(words)
        with (self.folder / "amdgpu_regs2").open("r+b") as file:
            for dword, value in self.hqd.items():
                self.put(file, dword, int.from_bytes(value, "little") if (words[0], *words[6:9]) == (1, 1, 0, 0) else 0)


def debugfs_discovery() -> Any:
    from amdrv.ip import discovery
    return discovery


@pytest.fixture
def files(tree: Tree, worked: Worked, monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    made = Files(tree, worked)
    monkeypatch.setattr(fcntl, "ioctl", made.ioctl)
    yield made
    (made.folder / "amdgpu_vram").unlink()


def same(run: Run, *words: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A command's document of amdgpu's files, and of the card itself."""
    by_files, by_card = (checked(run(*words, "--json", *more)[1]) for more in ((), ("--hal", "mock")))
    return by_files, by_card


def test_registers_page_tables_and_queues_are_the_cards(files: Files, worked: Worked, run: Run) -> None:
    theirs, ours = same(run, "vm", "map")
    assert theirs["ranges"] == ours["ranges"] != [] and theirs["problems"] == []
    theirs, ours = same(run, "vm", hex(worked.source.address))
    assert theirs == ours and theirs["valid"]
    theirs, ours = same(run, "reg", "GCVM_CONTEXT8_CNTL")
    assert theirs == ours and theirs["value"]
    theirs, ours = same(run, "queue")
    assert [q["name"] for q in theirs["queues"]] == ["compute 1.0.0", "SDMA 0.0", "SDMA 1.0"]
    assert theirs["queues"] == ours["queues"] and not theirs["missing"]
    assert files.states[-1] == (0,) * 10 and (1, 0, 0, 0, 0, 0, 1, 0, 0, 0) in files.states    # put back


def test_show_needs_no_bar(files: Files, run: Run) -> None:
    status, out, err = run("show", "--json")
    said = checked(out)
    assert (status, err, said["error"]) == (0, "", None)
    assert said["gpu"]["arch"] == "gfx1100" and said["gpu"]["vram_bytes"] == 256 << 20
    assert said["driven_by"] == "the kernel's amdgpu" and said["sensors"]["temperatures"]["edge"] == 51


def test_what_amdgpu_tells_by_text(tree: Tree, run: Run) -> None:
    """In the words of Linux 7.3 on a Navi 31."""
    folder = tree.root / "sys/kernel/debug/dri/1"
    before = checked(run("show", "--json")[1])
    assert before["kernel"]["pm"] is None and before["kernel"]["firmware_loaded"] == {"smc": 0x4E7E00, "mec": 0x1F2}
    (folder / "amdgpu_firmware_info").write_text(
        "VCE feature version: 0, firmware version: 0x00000000\nMEC feature version: 29, firmware version: 0x00000ae6\n"
        "TA RAS feature version: 0x00000000, firmware version: 0x1b000205\n"
        "SMC feature version: 0, program: 0, firmware version: 0x004e7e00 (78.126.0)\n"
        "SDMA0 feature version: 60, firmware version: 0x0000001b\nVBIOS version: 113-D7020100-102\n")
    (folder / "amdgpu_pm_info").write_text(
        "GFX Clocks and Power:\n\t96 MHz (MCLK)\n\t500 MHz (SCLK)\n\t1855 MHz (PSTATE_SCLK)\n\t700 mV (VDDGFX)\n"
        "\t15.25 W (average SoC)\n\nGPU Temperature: 40 C\nGPU Load: 3 %\nMEM Load: 1 %\nVCN Load: 2 %\n\n"
        "SMC Feature Mask: 0x0007fff4fdffffff\nVCN: Powered down\n\nClock Gating Flags Mask: 0x3\n"
        "\tGraphics Fine Grain Clock Gating: On\n\tRom Medium Grain Clock Gating: Off\n")
    said = checked(run("show", "--json")[1])
    assert said["kernel"]["firmware_loaded"] == {"smc": 0x4E7E00, "mec": 0x1F2, "ta_ras": 0x1B000205, "sdma": 0x1B}
    assert said["kernel"]["pm"] == {
        "clocks_mhz": {"MCLK": 96, "SCLK": 500, "PSTATE_SCLK": 1855}, "voltages_mv": {"VDDGFX": 700}, "watts": 15.25,
        "temperature": 40, "load_percent": {"gpu": 3, "mem": 1, "vcn": 2}, "smc_features": 0x7FFF4FDFFFFFF,
        "units": {"VCN": "Powered down"}, "clock_gating": ["Graphics Fine Grain Clock Gating"]}
    assert said["sensors"] == before["sensors"]                 # sysfs has said all of it
    (folder / "amdgpu_gfxoff").write_bytes(b"\1\0\0\0")
    assert checked(run("show", "--json")[1])["kernel"]["pm"] is None        # amdgpu would read what has no power
    (folder / "amdgpu_gfxoff").write_bytes(bytes(4))
    for name in ("gpu_busy_percent", "mem_busy_percent", "gpu_metrics"):
        (tree.card / name).unlink()
    for path in (tree.card / "hwmon/hwmon3").iterdir():
        path.unlink()
    seen = checked(run("show", "--json")[1])["sensors"]
    assert seen["clocks_mhz"] == {"soc": 800, "gfx": 500, "memory": 96} and seen["temperatures"] == {"edge": 40}
    assert seen["power"]["socket_watts"] == 15.25 and seen["voltages_mv"] == {"vddgfx": 700}
    assert seen["usage_percent"] == {"gfx": 3, "memory": 1, "video": 2}
    assert "Graphics Fine Grain" in run("show")[1] and "VCN Powered down" in run("show")[1]


def test_a_report_has_registers_and_memory(files: Files, run: Run, in_tmp: Path) -> None:
    status, out, _ = run("report", "-o", "r.zip", "--json")
    assert status == 0 and checked(out)["registers_and_memory"]
    assert checked(run("reg", "GCVM_CONTEXT8_CNTL", "--from", "r.zip", "--json")[1])["value"]
    assert checked(run("discovery", "--from", "r.zip", "--json")[1])["blocks"]


def test_a_core_without_power_is_said_and_woken_on_request(files: Files, run: Run, monkeypatch: pytest.MonkeyPatch,
                                                           in_tmp: Path) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(debugfs.AmdgpuFiles, "_allow_off", lambda _self, allowed: asked.append(allowed))
    (files.folder / "amdgpu_gfxoff").write_bytes(b"\1\0\0\0")
    for name in ("wave", "gpr"):
        (files.folder / f"amdgpu_{name}").write_bytes(b"")
    for words in (("vm", "map"), ("reg", "GRBM_STATUS"), ("queue",), ("wave",)):
        status, _, err = run(*words)
        assert status == 1 and "GFXOFF" in err and "--wake keeps it powered" in err, (words, err)
    assert not asked
    for words in (("vm", "map"), ("reg", "GRBM_STATUS"), ("queue",), ("wave",)):
        assert run(*words, "--wake")[0] == 0, words
        assert asked == [False, True], words
        asked.clear()
    assert run("show")[0] == 0 and run("reg", "MP0_SMN_C2PMSG_33")[0] == 0      # of other blocks
    status, out, _ = run("report", "-o", "r.zip", "--json")
    said = checked(out)
    assert status == 1 and "GFXOFF" in said["without"]["wave"] and not {"ring", "show", "top"} & said["without"].keys()


def test_the_gfxoff_file_is_written_as_amdgpu_reads_it(tmp_path: Path) -> None:
    """A word of 0 forbids, one of 1 allows (amdgpu_debugfs_gfxoff_write)."""
    (tmp_path / "amdgpu_gfxoff").write_bytes(b"\7\0\0\0")
    files = debugfs.AmdgpuFiles(tmp_path)
    with files.awake():
        assert (tmp_path / "amdgpu_gfxoff").read_bytes() == bytes(4) and not files.core_may_sleep()
    assert (tmp_path / "amdgpu_gfxoff").read_bytes() == b"\1\0\0\0" and files.core_may_sleep()
    (tmp_path / "amdgpu_gfxoff").unlink()
    assert not files.core_may_sleep()
    with pytest.raises(HalError, match="GFXOFF stays as it is"), files.awake():
        pass


def test_what_is_not_there_or_refused_is_one_error(tmp_path: Path, tree: Tree) -> None:
    empty = debugfs.AmdgpuFiles(tmp_path)
    assert empty.region(0) is empty.region(5) is None and not empty.can_select
    with pytest.raises(HalError, match="no amdgpu_iomem that may be read"):
        empty.memory(0x1000, 4)
    (tmp_path / "amdgpu_iomem").write_bytes(bytes(range(64)))
    (tmp_path / "amdgpu_regs2").write_bytes(bytes(8))
    files = debugfs.AmdgpuFiles(tmp_path)
    assert files.memory(5, 6) == bytes(range(5, 11))            # whole words are read, those bytes are given
    with pytest.raises(HalError, match="ends before 0x44"):
        files.memory(0x40, 4)
    with pytest.raises(HalError, match="a queue's registers cannot be selected: Inappropriate ioctl"), \
            files.selected(1, 0, 0):
        pass
    registers = files.region(5)
    assert registers is not None and registers.read32(4) == registers.read64(0) == 0
    with pytest.raises(HalError, match="is only looked at: 0x1 is not written"):
        registers.write64(0, 1)
    with pytest.raises(HalError, match="does not fit"):
        registers.view(1 << 20, 4)
    files.close()
    files.close()


def test_the_older_register_file_serves_without_banks(files: Files, tree: Tree, run: Run) -> None:
    (files.folder / "amdgpu_regs2").rename(files.folder / "amdgpu_regs")
    assert checked(run("reg", "GCVM_CONTEXT8_CNTL", "--json")[1])["value"]
    status, out, _ = run("queue", "--json")
    said = checked(out)
    assert status == 1 and "--select" in said["missing"][0] and len(said["queues"]) == 2      # SDMA's need no selector


def test_writing_goes_by_the_bar(files: Files, tree: Tree) -> None:
    """Nothing is written through debugfs: where a BAR cannot be mapped, that is the error."""
    from amdrv.hal.sysfs import SysfsHal
    hal = SysfsHal(lambda: sorted((tree.root / "sys/bus/pci/devices").iterdir()))
    with look(hal, CARD, writable=True, debugfs=files.folder) as seen, pytest.raises(HalError, match="resource5"):
        seen.bar(5)
