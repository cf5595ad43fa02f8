"""Our HALs on a real Linux kernel inside QEMU: each guest tries every way to a device that it has.

``make test-vm``. Needs qemu-system-x86 and busybox-static from Debian; the stock kernel is downloaded once.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from guest import Guest, Kernel, Missing, debian_kernel, hal_kernel, unavailable
from modern_qemu import modern_qemu
from test_nvme import pattern_disk

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1500)]

MASK = "dma_mask=0xffffffffffff"
# A slow port: Linux waits for a fast one's link after a reset, which QEMU does not report for a conventional device.
TWO_FUNCTIONS = ("-device pcie-root-port,id=rp1,slot=7,x-speed=2_5",
                 f"-device edu,bus=rp1,addr=0.0,multifunction=on,{MASK}",
                 "-drive driver=null-co,read-zeroes=on,size=1M,if=none,id=empty",
                 "-device nvme,drive=empty,serial=2,bus=rp1,addr=0.1")
BEHIND_PORT = ("-device pcie-root-port,id=rp0,slot=6", f"-device edu,bus=rp0,{MASK}", *TWO_FUNCTIONS)
IOMMUS = {"none": ((f"-device edu,{MASK}", *TWO_FUNCTIONS), ""),
          "Intel": (("-device intel-iommu,intremap=on,caching-mode=on", *BEHIND_PORT), "intel_iommu=on"),
          "AMD": (("-device amd-iommu,intremap=on,dma-remap=on", *BEHIND_PORT), "amd_iommu=on")}


@dataclass(frozen=True)
class Case:
    kernel: str
    iommu: str
    modes: tuple[str, ...]
    tests: int                      # that must have passed, in all ways together

    def __str__(self) -> str:
        return f"{self.kernel}-{self.iommu}"


CASES = [
    Case("debian", "none", ("sysfs",), 14),
    Case("debian", "Intel", ("type1",), 19),
    Case("hal", "none", ("noiommu", "sysfs"), 31),
    Case("hal", "Intel", ("type1", "iommufd"), 37),
    Case("hal", "AMD", ("type1", "iommufd"), 37),
]


def kernel(name: str) -> Kernel:
    return {"debian": debian_kernel, "hal": hal_kernel}[name]()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_edu(case: Case, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    devices, append = IOMMUS[case.iommu]
    disk = pattern_disk(tmp_path)
    devices = (*devices, "-device pcie-root-port,id=rp2,slot=8", f"-drive file={disk},if=none,id=full,format=raw",
               "-device nvme,drive=full,serial=3,bus=rp2")
    try:
        guest = Guest(kernel(case.kernel), devices=devices, append=append, trace="memory_region_ops_write",
                      qemu=modern_qemu() if case.iommu == "AMD" else None)      # older ones' AMD IOMMU moves no DMA
    except Missing as missing:
        unavailable(missing)
    lockdown = " && $PYTHON tests/vm/inside/lockdown.py" if case == CASES[0] else ""
    drives = "".join(f" && $PYTHON tests/vm/inside/nvme.py {mode}" for mode in case.modes)
    result = guest.run("$PYTHON -m pytest -q -p no:cacheprovider -p no:xdist --timeout 300 "
                       f"tests/vm/inside/test_edu.py {drives} {lockdown}",
                       tmp_path, environment={"AMDRV_VM_MODE": ",".join(case.modes), "PYTHONPATH": "."})
    guest.record(record_property, result, "edu: MMIO, DMA, MSI, INTx, resets; nvme: MSI-X, queues", case.iommu,
                 ", ".join(case.modes),
                 f"{result.passed} passed" if not result.status else "FAILED")
    assert result.status == 0, result.output[-6000:]
    assert result.passed >= case.tests and "skipped" not in result.output, result.output[-2000:]
    for mode in case.modes:
        part = result.output.partition(f"MODE {mode}\n")[2].partition("MODE ")[0]
        assert "DRIVE QEMU NVMe Ctrl" in part and "READ" in part, result.output[-3000:]
        assert ("VECTORS 2" in part) == (mode != "sysfs"), part
    assert not lockdown or "LOCKDOWN SEEN" in result.output
    check_widths(tmp_path / "trace.log", len(case.modes))


def check_widths(trace: Path, times: int) -> None:
    """Every marked register write reached the device once in each way, whole. QEMU splits 64-bit guest accesses of
    edu's BAR no further than its own limits (``impl.max_access_size`` 8), so what is seen is what the CPU did."""
    seen: Counter[tuple[int, int]] = Counter()
    for line in trace.open(errors="replace"):
        match = re.match(r"memory_region_ops_write .* value (0x[0-9a-f]+) size (\d+) name 'edu-mmio'", line)
        if match:
            value = int(match[1], 16)
            if value >> 8 == 0xACCE55 or value >> 32 == 0xACCE5500:
                seen[value, int(match[2])] += 1
    assert seen == {(0xACCE5500 | v, 4): times for v in range(16)} | {(0xACCE5500 << 32 | v, 8): times
                                                                     for v in range(8)}
