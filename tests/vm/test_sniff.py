"""ioctl-sniff in a guest: our VFIO HAL's whole conversation with a real kernel, decoded."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from guest import Guest, Missing, hal_kernel, required, unavailable

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

INTEL = ["-device intel-iommu,intremap=on,caching-mode=on", "-device pcie-root-port,id=rp0",
         "-device edu,bus=rp0,dma_mask=0xffffffffffff"]
DEVICE = {"VFIO_DEVICE_GET_INFO", "VFIO_DEVICE_GET_REGION_INFO", "VFIO_DEVICE_GET_IRQ_INFO", "VFIO_DEVICE_SET_IRQS"}
EXPECTED = {
    "type1": DEVICE | {"VFIO_CHECK_EXTENSION", "VFIO_GROUP_GET_STATUS", "VFIO_SET_IOMMU",
                       "VFIO_GROUP_SET_CONTAINER", "VFIO_GROUP_GET_DEVICE_FD", "VFIO_IOMMU_GET_INFO",
                       "VFIO_IOMMU_MAP_DMA", "VFIO_IOMMU_UNMAP_DMA"},
    "iommufd": DEVICE | {"VFIO_DEVICE_BIND_IOMMUFD", "VFIO_DEVICE_ATTACH_IOMMUFD_PT", "IOMMU_IOAS_ALLOC",
                         "IOMMU_IOAS_MAP", "IOMMU_IOAS_UNMAP", "IOMMU_IOAS_IOVA_RANGES"},
}


def test_the_whole_conversation(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    if shutil.which("cc") is None and not required():
        pytest.skip("the recorder needs a C compiler")
    from tools.ioctl_sniff.build import recorder
    recorder()                              # the guest sees the host's files, and cannot write them
    try:
        guest = Guest(hal_kernel(), devices=INTEL, append="intel_iommu=on")
    except Missing as missing:
        unavailable(missing)
    commands = [f"AMDRV_VM_MODE={mode} $PYTHON -m tools.ioctl_sniff -q --calls --json -o /tmp/{mode} "
                "$PYTHON -m pytest -q -p no:cacheprovider -p no:xdist tests/vm/inside/test_edu.py "
                f"-k 'registers or interrupts or existing' && sed 's/^/CALL {mode} /' /tmp/{mode}" for mode in EXPECTED]
    result = guest.run(" && ".join(commands), tmp_path, environment={"PYTHONPATH": "."})
    guest.record(record_property, result, "ioctl-sniff: the HAL's conversation with VFIO, decoded", "Intel",
                 ", ".join(EXPECTED), "every call named" if not result.status else "FAILED")
    assert result.status == 0, result.output[-6000:]
    for mode in EXPECTED:
        check(mode, [json.loads(line.partition(f"CALL {mode} ")[2]) for line in result.output.splitlines()
                     if line.startswith(f"CALL {mode} {{")])


def check(mode: str, calls: list[dict[str, Any]]) -> None:
    assert {call["name"] for call in calls} >= EXPECTED[mode]
    assert all(call["interface"] for call in calls), [call for call in calls if not call["interface"]][:3]
    maps = [call for call in calls if call["name"] in ("VFIO_IOMMU_MAP_DMA", "IOMMU_IOAS_MAP") and not call["error"]]
    assert all(call["before"]["size" if mode == "type1" else "length"] for call in maps)
    regions = {call["after"]["index"]["means"] for call in calls if call["name"] == "VFIO_DEVICE_GET_REGION_INFO"}
    assert {"VFIO_PCI_BAR0_REGION_INDEX", "VFIO_PCI_CONFIG_REGION_INDEX"} <= regions
    interrupts = [call["before"] for call in calls if call["name"] == "VFIO_DEVICE_SET_IRQS"]
    assert any(each["data"] and "VFIO_IRQ_SET_DATA_EVENTFD" in each["flags"]["means"] for each in interrupts)
