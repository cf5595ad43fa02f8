"""A card that amdgpu drives, on a sysfs and debugfs tree of our own: show, top, ring, report as far as files tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fcntl", reason="Linux only")

from amdgpu_tree import AUDIO, CARD, GIB, PORT, Tree
from info_checks import Run, checked

from amdrv.hal.sysfs import SysfsHal
from tools.amdrv_info import kernel, source, top


def test_show_what_sysfs_tells(tree: Tree, run: Run) -> None:
    status, out, err = run("show", "--json")
    said = checked(out)
    assert status == 1 and said["error"]["type"] in ("HalError", "MappingError") and "resource" in err   # no BAR here
    assert said["driven_by"] == "the kernel's amdgpu" and said["card"]["kernel_driver"] == "amdgpu"
    assert said["pci"]["link"] == {"speed": 8.0, "width": 16, "max_speed": 16.0, "max_width": 16}
    assert said["pci"]["aer"] == {"correctable": ["replay timer timeout"], "uncorrectable": []}
    assert said["pci"]["bars"][0]["address"] == 0x40_0000_0000
    about = said["surroundings"]
    assert about["numa_node"] == 1 and about["power_state"] == "D0" and about["runtime_status"] == "active"
    assert about["iommu"] == {"group": 20, "kind": "DMA-FQ", "members": [
        {"address": CARD, "class": 0x030000, "driver": "amdgpu"},
        {"address": AUDIO, "class": 0x040300, "driver": "snd_hda_intel"}]}
    assert about["aer"] == {"correctable": {"RxErr": 3, "total": 3}, "nonfatal": {"total": 0}, "fatal": {"total": 0}}
    assert about["slot"] == {"address": PORT, "max_speed": 16.0, "max_width": 16}
    assert about["bar_sizes_possible"] == {"0": [1 << bit for bit in range(28, 35)]}
    amdgpu = said["kernel"]
    assert amdgpu["memory"]["vram_used"] == 3 * GIB and amdgpu["vram_vendor"] == "hynix" and amdgpu["debugfs"]
    assert amdgpu["firmware_loaded"] == {"smc": 0x4E7E00, "mec": 0x1F2}
    assert {b["name"]: b["version"] for b in amdgpu["blocks"]} == {"GC": "11.0.0", "MP0": "13.0.0", "MP1": "13.0.0",
                                                                   "SDMA0": "6.0.0"}
    assert "gc_11_0_0_mec.bin" in {image["file"] for image in said["firmware"]}     # wanted, by amdgpu's block list
    assert "deadbeefcafe" not in out


def test_sensors(tree: Tree, run: Run) -> None:
    seen = checked(run("show", "--json")[1])["sensors"]
    assert seen["source"] == "sysfs of amdgpu"
    assert seen["temperatures"] == {"edge": 51, "hotspot": 68.5, "mem": 70, "vr_gfx": 63}
    assert seen["power"] == {"socket_watts": 212, "board_watts": None, "limit_watts": 303}
    assert seen["fan"] == {"rpm": 1320, "percent": 40} and seen["voltages_mv"] == {"vddgfx": 931}
    assert seen["clocks_mhz"] == {"gfx": 2304, "memory": 1249, "soc": 800}
    assert seen["usage_percent"] == {"gfx": 37, "memory": 12, "video": 4}
    assert [each["reason"] for each in seen["throttling"]] == ["power limit 0", "hotspot temperature"]
    tree.metrics(0)
    assert checked(run("show", "--json")[1])["sensors"]["throttling"] == []


def test_the_screen(tree: Tree, run: Run) -> None:
    status, out, _ = run("show")
    assert status == 1
    for text in ("driven by the kernel's amdgpu",
                 "group 20, DMA-FQ: 0000:0a:00.0 (amdgpu), 0000:0a:00.1 (snd_hda_intel)",
                 "1, CPUs 8-15", "3 in all: RxErr 3", "16 GT/s x16 (0000:09:00.0)",
                 "3 GiB of 24 GiB used", "edge 51, hotspot 68.5", "power limit 0, hotspot temperature"):
        assert text in out, text
    assert run("list")[0] == 0


@pytest.mark.parametrize("gone", ["hwmon", "gpu_metrics", "ip_discovery", "iommu_group", "fw_version", "aer_dev_fatal",
                                  "numa_node", "drm", "power", "pp_dpm_socclk", "resource0_resize"])
def test_every_file_is_optional(tree: Tree, run: Run, gone: str) -> None:
    import shutil
    path = tree.card / gone
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path)
    said = checked(run("show", "--json")[1])
    assert said["kernel"]["vram_vendor"] == "hynix"
    assert run("show")[0] == 1


@pytest.mark.parametrize("data", [b"", b"\x78\x00\x01", bytes(400), b"\x78\x00\x02\x03" + bytes(200)])
def test_metrics_of_another_form_are_left_alone(tree: Tree, run: Run, data: bytes) -> None:
    (tree.card / "gpu_metrics").write_bytes(data)
    seen = checked(run("show", "--json")[1])["sensors"]
    assert seen["throttling"] == [] and seen["temperatures"]["edge"] == 51


def test_rings_by_debugfs(tree: Tree, run: Run) -> None:
    status, out, err = run("ring", "--json")
    said = checked(out)
    assert (status, err) == (0, "")
    comp, copy = said["rings"]
    assert (comp["name"], comp["pending_words"], comp["ring_address"]) == ("comp_1.0.0", 6, None)
    states = [(p["name"], p["state"]) for p in comp["packets"]]
    assert states[-1] == ("WRITE_DATA", "next") and {s for _, s in states[:-1]} == {"read"}
    assert [p["name"] for p in copy["packets"]] == ["FENCE"]
    assert "WRITE_DATA" in run("ring", "comp")[1]
    assert "there are: comp_1.0.0, sdma0" in run("ring", "gfx")[2]


def test_rings_are_read_in_whole_words(tree: Tree, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """amdgpu refuses any other length with EINVAL (amdgpu_debugfs_ring_read); a ring that cannot be read is told."""
    import io
    plain = io.FileIO.read
    asked: list[int] = []
    folder = tree.root / "sys/kernel/debug/dri/1"

    class Strict(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            asked.append(size or 0)
            if size is None or size <= 0 or size % 4:
                raise OSError(22, "Invalid argument")
            return plain(self, size) or b""

        readall = readinto = None       # type: ignore[assignment]

    def opened(path: Path, mode: str = "r", buffering: int = -1, **_: Any) -> Any:
        return Strict(path) if path.name.startswith("amdgpu_ring") and not buffering else open(path, mode)

    monkeypatch.setattr(Path, "open", opened)
    (folder / "amdgpu_ring_gfx").write_bytes(b"abc")
    found = kernel.rings(tree.host, CARD)
    assert found is not None and set(found[0]) == {"comp_1.0.0", "sdma0"} and asked
    assert found[1] == ["amdgpu_ring_gfx: 3 bytes are no ring"]
    assert run("ring", "--json")[0] == 1 and "3 bytes are no ring" in run("ring")[1]


def test_top_with_processes(tree: Tree, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.process(501, "blender", drm_pdev=CARD, drm_client_id="3", drm_engine_gfx="1000000 ns",
                 drm_engine_compute="5 ns", drm_memory_vram="2048 KiB")
    tree.process(502, "other", drm_pdev="0000:99:00.0", drm_client_id="4", drm_engine_gfx="7 ns")
    status, out, _ = run("top", "--json", "--count", "1", "--interval", "0.05")
    said = checked(out)
    assert status == 0 and said["engines"][0] == {"name": "graphics core", "busy_percent": 37}
    assert said["processes"] == [{"pid": 501, "name": "blender", "engines_percent": {"gfx": 0.0, "compute": 0.0},
                                  "memory": {"vram": 2048 << 10}}]
    assert said["memory"] == {"vram_total": 24 * GIB, "vram_used": 3 * GIB, "system_used": GIB}
    assert "blender" in run("top", "--count", "1", "--interval", "0.05")[1]

    sampler = top._KernelSampler(tree.host, CARD)
    tree.process(501, "blender", drm_pdev=CARD, drm_client_id="3", drm_engine_gfx="61000000 ns",
                 drm_engine_compute="5 ns", drm_memory_vram="1 MiB")
    later = sampler.look(0.02)
    (process,) = later["processes"]
    assert process["engines_percent"]["gfx"] > 0 and process["engines_percent"]["compute"] == 0
    assert {"name": "gfx", "busy_percent": process["engines_percent"]["gfx"]} in later["engines"]


def test_what_needs_the_bars_says_so(tree: Tree, run: Run) -> None:
    for command in (("queue",), ("ih",), ("wave",), ("vm", "map"), ("reg", "CP_STAT")):
        status, _, err = run(*command)
        assert status == 1 and "resource" in err and err.startswith("amdrv-info: "), command


def test_a_report(tree: Tree, run: Run, in_tmp: Path) -> None:
    status, out, _ = run("report", "-o", "r.zip", "--json")
    said = checked(out)
    assert status == 1 and not said["registers_and_memory"] and "show" in said["contains"]
    shown = checked(run("show", "--from", "r.zip", "--json")[1])
    assert shown["sensors"]["temperatures"]["edge"] == 51 and shown["surroundings"]["local_cpus"] is None
    assert [r["name"] for r in checked(run("ring", "--from", "r.zip", "--json")[1])["rings"]] == ["comp_1.0.0", "sdma0"]
    assert checked(run("top", "--from", "r.zip", "--json")[1])["memory"]["vram_used"] == 3 * GIB


def test_auto_takes_a_held_card_for_looking(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    from amdrv.errors import NoCardError

    def held(_name: str | None = None) -> Any:
        raise NoCardError("every AMD GPU here is held by a kernel driver")

    monkeypatch.setattr(source, "select", held)
    monkeypatch.setattr("amdrv.hal.sysfs.pci_paths", list)
    with pytest.raises(NoCardError, match="held by a kernel driver"):
        source.looking_hal(None)            # no card at all: the first error stands
    hal = SysfsHal(lambda: sorted((tree.root / "sys/bus/pci/devices").iterdir()))
    monkeypatch.setattr("amdrv.hal.sysfs.SysfsHal", lambda: hal)
    assert source.looking_hal(None) is hal
