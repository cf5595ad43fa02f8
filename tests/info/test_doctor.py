"""doctor on machines of our own making: each hindrance is found, explained and comes with its command."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fcntl", reason="Linux only")

from amdrv.errors import HalError
from amdrv.vfio import bind as bind_module
from tools.amdrv_info import binding, doctor, window
from tools.amdrv_info.doctor import FIRMWARE, Finding, Host, examine

CARD, AUDIO, PORT = "0000:03:00.0", "0000:03:00.1", "0000:00:01.0"


class Tree:
    """A Linux with one Navi31 behind a root port, healthy until a test spoils it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.function(PORT, 0x060400, "pcieport", vendor=0x8086)
        self.function(CARD, 0x030000, "vfio-pci", under=PORT)
        self.function(AUDIO, 0x040300, "vfio-pci", under=PORT)
        group = root / "sys/kernel/iommu_groups/14"
        (group / "devices").mkdir(parents=True)
        for name in (CARD, AUDIO):
            (group / "devices" / name).symlink_to(self.device(name).resolve())
            (self.device(name) / "iommu_group").symlink_to(group)
        self.write("proc/cmdline", "root=/dev/sda1 intel_iommu=on iommu=pt")
        self.write("proc/meminfo", "MemTotal: 1 kB\nHugePages_Free:      64\n")
        self.write("sys/kernel/security/lockdown", "[none] integrity confidentiality")
        for name in FIRMWARE:
            self.write(f"lib/firmware/amdgpu/{name}", "x")
        for name in ("dev/vfio/vfio", "dev/vfio/14"):
            self.write(name, "")
        self.resource(16 << 30)
        card = self.device(CARD)
        for name, value in {"resource0_resize": "7f00", "current_link_speed": "16.0 GT/s PCIe",
                            "max_link_speed": "16.0 GT/s PCIe", "current_link_width": "16", "max_link_width": "16",
                            "reset_method": "bus"}.items():
            (card / name).write_text(value + "\n")
        self.port_config(0x1C0)

    def device(self, address: str) -> Path:
        return self.root / "sys/bus/pci/devices" / address

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def function(self, address: str, code: int, driver: str | None, *, vendor: int = 0x1002, under: str = "") -> None:
        real = self.root / "sys/devices/pci0000:00" / under / address
        real.mkdir(parents=True)
        for name, value in {"vendor": vendor, "device": 0x744C, "class": code, "revision": 0, "subsystem_vendor": 0,
                            "subsystem_device": 0}.items():
            (real / name).write_text(f"{value:#x}\n")
        (real / "config").write_bytes(bytes(256))
        folder = self.root / "sys/bus/pci/devices"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / address).symlink_to(real)
        self.drive(address, driver)

    def drive(self, address: str, driver: str | None) -> None:
        link = self.device(address) / "driver"
        link.unlink(missing_ok=True)
        if driver:
            target = self.root / "sys/bus/pci/drivers" / driver
            target.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target)

    def resource(self, size: int) -> None:
        (self.device(CARD) / "resource").write_text(f"{1 << 38:#x} {(1 << 38) + size - 1:#x} 0x14220c\n")

    def port_config(self, device_capabilities_2: int) -> None:
        config = bytearray(4096)
        config[0x34], config[0x40] = 0x40, 0x10
        struct.pack_into("<I", config, 0x40 + 0x24, device_capabilities_2)
        struct.pack_into("<I", config, 0x100, 0x0D | 1 << 16)
        struct.pack_into("<H", config, 0x106, 0x1D)
        (self.device(PORT) / "config").write_bytes(config)

    def examine(self, locked: int = -1) -> dict[str, Finding]:
        return {f.check: f for f in examine(Host(self.root), locked_limit=locked)}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_a_healthy_machine(tree: Tree) -> None:
    found = tree.examine()
    assert {f.check: f.state for f in found.values() if f.state != "ok"} == {}
    assert len(found) == 15
    assert found[f"{CARD} way"].evidence == "vfio:type1, the best that is there"
    assert json.loads(json.dumps(doctor.document(list(found.values()), "amdrv-info/1")))["worst"] == "ok"


def test_a_card_that_amdgpu_keeps_can_compute_over_kfd(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    driver = tree.device(CARD) / "driver"
    driver.unlink()
    amdgpu = tmp_path / "sys/bus/pci/drivers/amdgpu"
    amdgpu.mkdir(parents=True)
    driver.symlink_to(amdgpu)

    def finding() -> Finding:
        found = {each.check: each for each in examine(Host(tmp_path), locked_limit=-1)}
        return found[f"{CARD} KFD"]
    assert finding().state == "note" and "CONFIG_HSA_AMD" in finding().cause
    tree.write("sys/class/kfd/kfd/topology/generation_id", "1")
    (tree.device(CARD) / "drm/renderD128").mkdir(parents=True)
    tree.write("dev/kfd", "")
    assert finding().state == "bad" and "/dev/dri/renderD128" in finding().evidence
    assert "--device=/dev/kfd" in finding().fix
    tree.write("dev/dri/renderD128", "")
    assert finding().state == "ok" and "hcq.open('KFD') uses the card where it is" in finding().evidence
    for name in ("dev/kfd", "dev/dri/renderD128"):
        (tmp_path / name).chmod(0)
    if not os.access(tmp_path / "dev/kfd", os.R_OK):        # root may open everything
        assert finding().state == "bad" and finding().fix.startswith("usermod -aG render,video")


def test_no_card(tmp_path: Path) -> None:
    (tmp_path / "sys/bus/pci/devices").mkdir(parents=True)
    found = {f.check: f for f in examine(Host(tmp_path), locked_limit=-1)}
    assert found["card"].state == "bad" and "AMDRV_HAL=mock" in found["card"].fix
    with pytest.raises(HalError, match="AMDRV_HAL=mock"):
        doctor.require_linux(Host(tmp_path / "nowhere"))


def test_no_iommu_names_the_processors_option(tree: Tree) -> None:
    for entry in (tree.root / "sys/kernel/iommu_groups/14/devices").iterdir():
        entry.unlink()
    (tree.root / "sys/kernel/iommu_groups/14/devices").rmdir()
    (tree.root / "sys/kernel/iommu_groups/14").rmdir()
    tree.write("proc/cmdline", "quiet")
    tree.write("proc/cpuinfo", "vendor_id : AuthenticAMD")
    assert tree.examine()["IOMMU"].state == "bad"
    assert "amd_iommu=on iommu=pt" in tree.examine()["IOMMU"].fix
    tree.write("proc/cpuinfo", "vendor_id : GenuineIntel")
    assert "intel_iommu=on iommu=pt" in tree.examine()["IOMMU"].fix


def test_a_group_that_is_not_viable_names_the_audio_function(tree: Tree) -> None:
    tree.drive(AUDIO, "snd_hda_intel")
    found = tree.examine()[f"{CARD} IOMMU group"]
    assert found.state == "bad" and "audio" in found.cause and f"{AUDIO} (snd_hda_intel)" in found.evidence
    assert found.fix == f"amdrv-info bind {AUDIO}"


def test_a_driver_in_the_way(tree: Tree) -> None:
    tree.drive(CARD, "amdgpu")
    found = tree.examine()[f"{CARD} driver"]
    assert found.state == "bad" and found.evidence == "amdgpu" and f"amdrv-info bind {CARD}" in found.fix
    tree.drive(CARD, None)
    assert tree.examine()[f"{CARD} driver"].state == "note"


def test_a_small_window_is_told_by_its_size_not_by_the_capability(tree: Tree) -> None:
    tree.resource(256 << 20)
    found = tree.examine()[f"{CARD} VRAM window"]
    assert found.state == "bad" and "256 MiB" in found.evidence
    assert "it can be 256, 512, 1024, 2048, 4096, 8192, 16384 MiB" in found.evidence
    assert found.fix == f"amdrv-info bind --driver none {CARD} && amdrv-info resize {CARD}"
    tree.drive(CARD, None)
    assert tree.examine()[f"{CARD} VRAM window"].fix == f"amdrv-info resize {CARD}"
    (tree.device(CARD) / "resource0_resize").unlink()
    found = tree.examine()[f"{CARD} VRAM window"]
    assert found.state == "bad" and "cannot be resized" in found.evidence and not found.fix
    tree.drive(CARD, "amdgpu")
    (tree.device(CARD) / "mem_info_vram_total").write_text(f"{256 << 20}\n")        # a card that has no more
    assert tree.examine()[f"{CARD} VRAM window"].state == "ok"


def test_the_rest(tree: Tree) -> None:
    tree.write("sys/kernel/security/lockdown", "none [integrity] confidentiality")
    tree.write("proc/meminfo", "HugePages_Free: 0\n")
    (tree.device(CARD) / "current_link_width").write_text("4\n")
    (tree.device(CARD) / "reset_method").write_text("\n")
    (tree.root / "lib/firmware/amdgpu/sdma_6_0_0.bin").unlink()
    (tree.root / "dev/vfio/14").unlink()
    tree.port_config(0)
    found = tree.examine(locked=65536)
    assert found["lockdown"].state == "note" and "VFIO" in found["lockdown"].cause
    assert found["huge pages"].fix == "echo 64 > /proc/sys/vm/nr_hugepages"
    assert found["locked memory"].state == "bad" and "0.0625 MiB" in found["locked memory"].evidence
    assert found["firmware"].state == "bad" and "sdma_6_0_0.bin" in found["firmware"].evidence
    assert found[f"{CARD} PCIe link"].state == "note" and f"{CARD}: 16 GT/s x4" in found[f"{CARD} PCIe link"].evidence
    assert found[f"{CARD} atomics"].state == "note" and PORT in found[f"{CARD} atomics"].evidence
    assert found[f"{CARD} reset"].state == "note"
    assert found[f"{CARD} permission"].state == "bad" and "/dev/vfio/14" in found[f"{CARD} permission"].evidence


def test_acs_between_two_cards(tree: Tree) -> None:
    assert f"{CARD} peers" not in tree.examine()
    tree.function("0000:05:00.0", 0x030000, "vfio-pci")
    found = tree.examine()[f"{CARD} peers"]
    assert found.state == "note" and PORT in found.evidence
    assert found.fix.startswith(f"setpci -s {PORT} ECAP_ACS+6.w=0:000c")


def test_an_iommu_that_the_command_line_switches_off(tree: Tree) -> None:
    shutil.rmtree(tree.root / "sys/kernel/iommu_groups")
    tree.write("proc/cmdline", "quiet amd_iommu=off")
    found = tree.examine()["IOMMU"]
    assert found.state == "bad" and "amd_iommu=off switches" in found.cause and "amd_iommu=off//" in found.fix


def test_the_slowest_link_on_the_way_counts(tree: Tree) -> None:
    """The card says 16 GT/s x16 of its own switch; the slot has four lanes."""
    for name, value in {"current_link_speed": "16.0 GT/s PCIe", "max_link_speed": "16.0 GT/s PCIe",
                        "current_link_width": "4", "max_link_width": "16"}.items():
        (tree.device(PORT) / name).write_text(value + "\n")
    found = tree.examine()[f"{CARD} PCIe link"]
    assert found.state == "note" and found.evidence == f"{PORT}: 16 GT/s x4, its best 16 GT/s x16"
    assert "narrow" in found.cause and not found.fix
    (tree.device(PORT) / "current_link_width").write_text("16\n")
    (tree.device(PORT) / "current_link_speed").write_text("2.5 GT/s PCIe\n")
    found = tree.examine()[f"{CARD} PCIe link"]
    assert "idle card" in found.cause and found.fix.startswith(f"echo on > /sys/bus/pci/devices/{CARD}/power/control")
    (tree.device(PORT) / "current_link_speed").write_text("Unknown\n")
    assert tree.examine()[f"{CARD} PCIe link"].state == "ok"


def test_a_link_is_as_good_as_its_worse_end(tree: Tree) -> None:
    """A card of four lanes in a slot of sixteen has nothing that could be mended."""
    for device, best in ((CARD, "4"), (PORT, "16")):
        for name, value in {"current_link_speed": "16.0 GT/s PCIe", "max_link_speed": "16.0 GT/s PCIe",
                            "current_link_width": "4", "max_link_width": best}.items():
            (tree.device(device) / name).write_text(value + "\n")
    assert tree.examine()[f"{CARD} PCIe link"].state == "ok"
    (tree.device(PORT) / "current_link_width").write_text("2\n")
    (tree.device(CARD) / "current_link_width").write_text("2\n")
    assert tree.examine()[f"{CARD} PCIe link"].evidence.count("its best 16 GT/s x4") == 2


def test_ways_and_their_files(tree: Tree) -> None:
    (tree.device(CARD) / "vfio-dev/vfio0").mkdir(parents=True)
    tree.write("dev/iommu", "")
    tree.write("dev/vfio/devices/vfio0", "")
    found = tree.examine()
    assert found[f"{CARD} way"].evidence == "vfio:iommufd, the best that is there; also vfio:type1"
    assert found[f"{CARD} permission"].evidence == "/dev/vfio/14, /dev/vfio/devices/vfio0, /dev/iommu"
    tree.drive(CARD, None)
    assert tree.examine()[f"{CARD} way"].evidence.startswith("sysfs")
    tree.drive(CARD, "vfio-pci")
    (tree.root / "dev/vfio/14").unlink()
    (tree.root / "dev/iommu").unlink()
    found = tree.examine()
    assert found[f"{CARD} way"].state == "bad" and "AMDRV_HAL=sysfs" in found[f"{CARD} way"].fix
    (tree.root / "dev/vfio/vfio").unlink()
    assert tree.examine()["VFIO"].fix == "modprobe vfio-pci"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user")
def test_files_of_root(tree: Tree, tmp_path: Path) -> None:
    """Looked at by a user who may not open them."""
    tree.write("dev/iommu", "")
    (tree.device(CARD) / "vfio-dev/vfio0").mkdir(parents=True)
    tree.write("dev/vfio/devices/vfio0", "")
    for name in ("dev/vfio/14", "dev/vfio/devices/vfio0", "dev/iommu", "dev/vfio/vfio"):
        (tree.root / name).chmod(0o600)
    for parent in [tmp_path, *(each for each in tmp_path.parents if each.name.startswith(("pytest-", "popen-")))]:
        parent.chmod(0o755)
    other = ("import json, os, sys, resource; from dataclasses import asdict; from pathlib import Path\n"
             "from tools.amdrv_info.doctor import Host, examine\n"
             "os.setresgid(1000, 1000, 1000); os.setresuid(1000, 1000, 1000)\n"
             "print(json.dumps([asdict(f) for f in examine(Host(Path(sys.argv[1])))]))")
    done = subprocess.run([sys.executable, "-c", other, str(tree.root)], capture_output=True, text=True,
                          cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    found = {f["check"]: f for f in json.loads(done.stdout)}
    assert found["VFIO"]["state"] == "bad" and found["VFIO"]["fix"] == "chmod 0666 /dev/vfio/vfio"
    denied = found[f"{CARD} permission"]
    assert denied["state"] == "bad" and "/dev/vfio/14, /dev/vfio/devices/vfio0, /dev/iommu" in denied["evidence"]
    assert denied["fix"].startswith("chown $USER /dev/vfio/14 /dev/vfio/devices/vfio0 /dev/iommu")


class Kernel:
    """What writing to sysfs does: the files that ``bind`` writes, and a driver that may refuse."""

    def __init__(self, tree: Tree, refuses: str = "") -> None:
        self.tree, self.refuses, self.overrides = tree, refuses, dict[str, str]()

    def write(self, path: Path, text: str) -> None:
        if path.name == "driver_override":
            self.overrides[path.parent.name] = text.strip()
        elif path.name == "unbind":
            self.tree.drive(text, None)
        elif path.name == "drivers_probe" and text != self.refuses:
            self.tree.drive(text, self.overrides.get(text) or None)


@pytest.mark.parametrize("audio", ["snd_hda_intel", None])
def test_bind_takes_the_whole_card_and_unbind_restores_it(tree: Tree, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                                          audio: str | None) -> None:
    kernel = Kernel(tree)
    monkeypatch.setattr(bind_module, "_write", kernel.write)
    tree.drive(CARD, "amdgpu")
    tree.drive(AUDIO, audio)
    bus, records = tree.root / "sys/bus/pci", tmp_path / "run"
    assert binding.give(CARD, bus=bus, records=records) == {CARD: "amdgpu", AUDIO: audio}
    assert all((tree.device(a) / "driver").resolve().name == "vfio-pci" for a in (CARD, AUDIO))
    assert binding.give(CARD, bus=bus, records=records) == {CARD: "amdgpu", AUDIO: audio}       # again: nothing is lost
    assert binding.give_back(CARD, bus=bus, records=records) == {CARD: "amdgpu", AUDIO: audio}
    assert (tree.device(CARD) / "driver").resolve().name == "amdgpu"
    assert (tree.device(AUDIO) / "driver").exists() == bool(audio)
    assert not list(records.iterdir())


def test_a_refused_bind_is_undone(tree: Tree, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bind_module, "_write", Kernel(tree, refuses=AUDIO).write)
    tree.drive(CARD, "amdgpu")
    tree.drive(AUDIO, "snd_hda_intel")
    with pytest.raises(HalError, match="modprobe vfio-pci"):
        binding.give(CARD, bus=tree.root / "sys/bus/pci", records=tmp_path / "run")
    assert (tree.device(CARD) / "driver").resolve().name == "amdgpu"
    with pytest.raises(HalError, match=r"0000:0a:00\.0"):
        binding.give("0000:0a:00.0", bus=tree.root / "sys/bus/pci", records=tmp_path / "run")


def test_one_function_alone_is_taken_for_sysfs_and_given_back(tree: Tree, monkeypatch: pytest.MonkeyPatch,
                                                              tmp_path: Path) -> None:
    """The audio function keeps its driver, and so does its part of the record."""
    monkeypatch.setattr(bind_module, "_write", Kernel(tree).write)
    tree.drive(CARD, "amdgpu")
    tree.drive(AUDIO, "snd_hda_intel")
    bus, records = tree.root / "sys/bus/pci", tmp_path / "run"
    assert binding.give(CARD, binding.NO_DRIVER, bus=bus, records=records) == {CARD: "amdgpu"}
    assert not (tree.device(CARD) / "driver").exists()
    assert (tree.device(AUDIO) / "driver").resolve().name == "snd_hda_intel"
    assert binding.give(CARD, bus=bus, records=records) == {CARD: "amdgpu", AUDIO: "snd_hda_intel"}     # and on to VFIO
    assert binding.give_back(CARD, bus=bus, records=records) == {CARD: "amdgpu", AUDIO: "snd_hda_intel"}
    (records / "0000:03:00.json").write_text("no json")
    with pytest.raises(HalError, match="is damaged"):
        binding.give_back(CARD, bus=bus, records=records)


def test_a_record_that_cannot_be_kept_changes_nothing(tree: Tree, monkeypatch: pytest.MonkeyPatch,
                                                      tmp_path: Path) -> None:
    monkeypatch.setattr(bind_module, "_write", Kernel(tree).write)
    tree.drive(CARD, "amdgpu")
    (tmp_path / "run").write_text("a file where the folder should be")
    with pytest.raises(HalError, match=r"cannot be kept.*needs root"):
        binding.give(CARD, bus=tree.root / "sys/bus/pci", records=tmp_path / "run")
    assert (tree.device(CARD) / "driver").resolve().name == "amdgpu"


def test_unbind_without_a_record_lets_the_kernel_choose(tree: Tree, monkeypatch: pytest.MonkeyPatch,
                                                        tmp_path: Path) -> None:
    kernel = Kernel(tree)

    def write(path: Path, text: str) -> None:
        kernel.write(path, text)
        if path.name == "drivers_probe" and not kernel.overrides.get(text):
            tree.drive(text, {CARD: "amdgpu", AUDIO: "snd_hda_intel"}[text])
    monkeypatch.setattr(bind_module, "_write", write)
    assert binding.give_back(CARD, bus=tree.root / "sys/bus/pci", records=tmp_path / "run") == {
        CARD: "amdgpu", AUDIO: "snd_hda_intel"}


def test_resize_by_command(tmp_path: Path) -> None:
    (tmp_path / "devices" / CARD).mkdir(parents=True)
    (tmp_path / "devices" / CARD / "resource").write_text("0x0 0x0 0x0\n" * 6)
    with pytest.raises(HalError, match="cannot be resized"):
        window.grow(CARD, bus=tmp_path)
    with pytest.raises(HalError, match="no PCI function"):
        window.grow("0000:0a:00.0", bus=tmp_path)
    assert [window.parse(text) for text in ("256M", "16GiB", "1048576")] == [256 << 20, 16 << 30, 1 << 20]
    with pytest.raises(HalError, match="not understood"):
        window.parse("large")
