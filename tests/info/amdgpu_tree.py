"""What Linux shows of a card that amdgpu drives, as files: a tree of sysfs, debugfs and proc of our own."""

from __future__ import annotations

import struct
from pathlib import Path

from amdrv import pm4, sdma
from tools.amdrv_info import kernel
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
