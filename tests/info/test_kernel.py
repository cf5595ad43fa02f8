"""A card that amdgpu drives, on a sysfs and debugfs tree of our own: show, top, ring, report as far as files tell."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fcntl", reason="Linux only")

from info_checks import Run, checked

from amdrv import pm4, sdma
from amdrv.hal.sysfs import SysfsHal
from tools.amdrv_info import card, kernel, looks, source, top
from tools.amdrv_info.doctor import Host

CARD, AUDIO, PORT, GIB = "0000:0a:00.0", "0000:0a:00.1", "0000:09:00.0", 1 << 30


class Tree:
    """What Linux shows of a Navi 31 that amdgpu drives; file names are those of amdgpu's documentation."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = root / "sys/devices/pci0000:00" / PORT
        self.card = self.port / CARD
        for folder, code in ((self.card, 0x030000), (self.port / AUDIO, 0x040300)):
            self.files(folder, vendor="0x1002", device="0x744c", subsystem_vendor="0x1da2", subsystem_device="0xe471",
                       revision="0xc8", **{"class": f"{code:#08x}"})
            link = root / "sys/bus/pci/devices" / folder.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(folder)
        self.driver(self.card, "amdgpu")
        self.driver(self.port / AUDIO, "snd_hda_intel")
        self.files(self.port, max_link_speed="16.0 GT/s PCIe", max_link_width="16")
        self.files(self.card, numa_node="1", local_cpulist="8-15", power_state="D0", reset_method="bus",
                   resource0_resize="0000000000007f00", aer_dev_correctable="RxErr 3\nBadTLP 0\nTOTAL_ERR_COR 3",
                   aer_dev_nonfatal="TOTAL_ERR_NONFATAL 0", aer_dev_fatal="TOTAL_ERR_FATAL 0",
                   gpu_busy_percent="37", mem_busy_percent="12", mem_info_vram_total=str(24 * GIB),
                   mem_info_vram_used=str(3 * GIB), mem_info_vis_vram_total=str(24 * GIB), mem_info_vis_vram_used="0",
                   mem_info_gtt_total=str(16 * GIB), mem_info_gtt_used=str(GIB), mem_info_vram_vendor="hynix",
                   vbios_version="113-D7020100-102", product_name="", power_dpm_force_performance_level="auto",
                   pp_dpm_socclk="0: 500Mhz\n1: 800Mhz *\n2: 1200Mhz", unique_id="deadbeefcafe",
                   resource="\n".join(["0x0000004000000000 0x00000045ffffffff 0x000000000014220c",
                                       "0x0 0x0 0x0", "0x0000004600000000 0x00000046001fffff 0x000000000014220c",
                                       "0x0 0x0 0x0", "0x000000000000e000 0x000000000000e0ff 0x0000000000040101",
                                       "0x00000000fce00000 0x00000000fcefffff 0x0000000000040200"]))
        (self.card / "config").write_bytes(self.config())
        self.files(self.card / "power", runtime_status="active")
        self.files(self.card / "hwmon/hwmon3", temp1_input="51000", temp1_label="edge", temp2_input="68500",
                   temp2_label="junction", temp3_input="70000", temp3_label="mem", power1_average="212000000",
                   power1_cap="303000000", fan1_input="1320", pwm1="102", pwm1_max="255", freq1_input="2304000000",
                   freq2_input="1249000000", in0_input="931", in0_label="vddgfx")
        self.files(self.card / "fw_version", smc_fw_version="0x004e7e00", mec_fw_version="0x000001f2",
                   vce_fw_version="0x00000000")
        for name, version in (("GC", "11 0 0"), ("MP0", "13 0 0"), ("MP1", "13 0 0"), ("SDMA0", "6 0 0")):
            major, minor, revision = version.split()
            self.files(self.card / "ip_discovery/die/0" / name / "0", major=major, minor=minor, revision=revision,
                       harvest="0x0", base_addr="0x00001260\n0x0000A000", num_instance="0")
        (self.card / "ip_discovery/die/0/11").mkdir()
        (self.card / "drm/card1").mkdir(parents=True)
        group = root / "sys/kernel/iommu_groups/20"
        (group / "devices").mkdir(parents=True)
        self.files(group, type="DMA-FQ")
        for folder in (self.card, self.port / AUDIO):
            (group / "devices" / folder.name).symlink_to(folder)
            (folder / "iommu_group").symlink_to(group)
        self.metrics(1 << 0 | 1 << 36)
        self.ring("comp_1.0.0", read=8, write=14, words=[*pm4.build("NOP")] * 8 + pm4.build(
            "WRITE_DATA", DST_SEL="MEM", WR_CONFIRM=1, DST_ADDR=0x1000, DATA=[1, 2]))
        self.ring("sdma0", read=4, write=4, words=sdma.build("FENCE", MTYPE="UC", ADDR=0x2000, DATA=3))

    @staticmethod
    def config() -> bytes:
        """PCI Express at 0x64: 8 GT/s of 16, 16 lanes; BARs as in ``resource``; AER with a replay timeout on record."""
        data = bytearray(4096)
        struct.pack_into("<HHHH", data, 0, 0x1002, 0x744C, 0x7, 0x10)
        struct.pack_into("<6I", data, 0x10, 0xC, 0x40, 0xC, 0x46, 0xE001, 0xFCE00000)
        data[0x34], data[0x64] = 0x64, 0x10
        struct.pack_into("<I", data, 0x64 + 0x0C, 16 << 4 | 4)
        struct.pack_into("<H", data, 0x64 + 0x12, 16 << 4 | 3)
        struct.pack_into("<I", data, 0x100, 0x0001 | 1 << 16)
        struct.pack_into("<I", data, 0x100 + 0x10, 1 << 12)
        return bytes(data)

    @staticmethod
    def files(folder: Path, **texts: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text + "\n")

    def driver(self, folder: Path, name: str | None) -> None:
        (folder / "driver").unlink(missing_ok=True)
        if name:
            target = self.root / "sys/bus/pci/drivers" / name
            target.mkdir(parents=True, exist_ok=True)
            (folder / "driver").symlink_to(target)

    def metrics(self, throttled: int) -> None:
        table = kernel.GpuMetrics(structure_size=120, format_revision=1, content_revision=3, temperature_vrgfx=63,
                                  average_mm_activity=4, current_gfxclk=2304, current_uclk=1249, current_socclk=0xFFFF,
                                  indep_throttle_status=throttled)
        (self.card / "gpu_metrics").write_bytes(bytes(table))

    def ring(self, name: str, *, read: int, write: int, words: list[int], size: int = 64) -> None:
        folder = self.root / "sys/kernel/debug/dri/1"
        folder.mkdir(parents=True, exist_ok=True)
        body = [*words, *[0] * (size - len(words))]
        (folder / f"amdgpu_ring_{name}").write_bytes(struct.pack(f"<{3 + size}I", read, write, write, *body))

    def process(self, pid: int, name: str, **fields: str) -> None:
        folder = self.root / f"proc/{pid}"
        self.files(folder, comm=name)
        self.files(folder / "fdinfo", **{"7": "\n".join(f"{key.replace('_', '-')}:\t{value}"
                                                        for key, value in fields.items())})

    @property
    def host(self) -> Host:
        return Host(self.root)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    made = Tree(tmp_path / "root")
    hal = SysfsHal(lambda: sorted((made.root / "sys/bus/pci/devices").iterdir()), lock_directory=tmp_path)
    for module in ("tools.amdrv_info.__main__", "tools.amdrv_info.looks", "tools.amdrv_info.top"):
        monkeypatch.setattr(f"{module}.looking_hal", lambda _name=None: hal)
    for module in (card, looks, top):
        monkeypatch.setattr(module, "Host", lambda: made.host)
    monkeypatch.setenv("AMDRV_FIRMWARE", str(tmp_path / "nothing"))
    return made


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
