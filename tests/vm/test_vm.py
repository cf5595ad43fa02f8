"""Our HALs on a real Linux kernel inside QEMU: each case boots a guest and runs ``tests/vm/inside`` in it.

``make test-vm``. Needs qemu-system-x86 and busybox-static from Debian; the kernel is downloaded once.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from guest import Guest, Kernel, Missing, debian_kernel, hal_kernel
from modern_qemu import modern_qemu

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

INTEL = ["-device intel-iommu,intremap=on,caching-mode=on", "-device pcie-root-port,id=rp0"]
AMD = ["-device amd-iommu,intremap=on,dma-remap=on", "-device pcie-root-port,id=rp0"]
EDU_BEHIND_PORT = "-device edu,bus=rp0,dma_mask=0xffffffffffff"
EDU = "-device edu,dma_mask=0xffffffffffff"


@dataclass(frozen=True)
class Case:
    name: str
    mode: str
    kernel: str
    devices: tuple[str, ...]
    append: str = ""
    modern: bool = False            # needs a QEMU whose AMD IOMMU translates DMA

    def __str__(self) -> str:
        return self.name


CASES = [
    Case("debian-sysfs", "sysfs", "debian", (EDU,)),
    Case("debian-type1-intel", "type1", "debian", (*INTEL, EDU_BEHIND_PORT), "intel_iommu=on"),
    Case("hal-type1-intel", "type1", "hal", (*INTEL, EDU_BEHIND_PORT), "intel_iommu=on"),
    Case("hal-iommufd-intel", "iommufd", "hal", (*INTEL, EDU_BEHIND_PORT), "intel_iommu=on"),
    Case("hal-type1-amd", "type1", "hal", (*AMD, EDU_BEHIND_PORT), "amd_iommu=on", modern=True),
    Case("hal-iommufd-amd", "iommufd", "hal", (*AMD, EDU_BEHIND_PORT), "amd_iommu=on", modern=True),
    Case("hal-noiommu", "noiommu", "hal", (EDU,)),
    Case("hal-sysfs", "sysfs", "hal", (EDU,)),
]


def kernel(name: str) -> Kernel:
    return {"debian": debian_kernel, "hal": hal_kernel}[name]()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_edu(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        if case.modern:
            monkeypatch.setenv("AMDRV_QEMU", modern_qemu())
        guest = Guest(kernel(case.kernel), devices=case.devices, append=case.append, trace="memory_region_ops_*")
    except Missing as missing:
        pytest.skip(str(missing))
    result = guest.run("$PYTHON -m pytest -q -p no:cacheprovider -p no:xdist tests/vm/inside/test_edu.py", tmp_path,
                       environment={"AMDRV_VM_MODE": case.mode})
    assert result.status == 0, result.output[-6000:]
    passed = re.search(r"(\d+) passed", result.output)
    assert passed and int(passed[1]) >= 9, result.output[-2000:]
    check_widths(tmp_path / "trace.log")


def check_widths(trace: Path) -> None:
    """Every marked register access reached the device once, whole. QEMU splits 64-bit guest accesses of edu's BAR
    no further than its own limits (``impl.max_access_size`` 8), so what is seen is what the CPU did."""
    if not trace.exists() or not trace.stat().st_size:
        pytest.skip("this QEMU writes no trace")
    seen: Counter[tuple[int, int]] = Counter()
    for line in trace.open(errors="replace"):
        match = re.match(r"memory_region_ops_write .* value (0x[0-9a-f]+) size (\d+) name 'edu-mmio'", line)
        if match:
            value = int(match[1], 16)
            if value >> 8 == 0xACCE55 or value >> 32 == 0xACCE5500:
                seen[value, int(match[2])] += 1
    assert seen == {(0xACCE5500 | v, 4): 1 for v in range(16)} | {(0xACCE5500 << 32 | v, 8): 1 for v in range(8)}
