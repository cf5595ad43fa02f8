"""QEMU's NVMe drive under our VFIO HAL: MSI-X, queues, a read into a card's VRAM, and one that the IOMMU stops."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from door import socket_path
from guest import Guest, Missing, hal_kernel, unavailable
from modern_qemu import modern_qemu

import mock
from mock.vfio_user import Server

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1500)]

MODES = ("type1", "iommufd")


def pattern_disk(folder: Path) -> Path:
    """What ``inside/nvme.py`` expects on its drive."""
    disk = folder / "disk"
    (np.arange(1 << 18, dtype=np.uint32) * np.uint32(2654435761)).tofile(disk)
    return disk


def test_drive_and_card(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    disk = pattern_disk(tmp_path)
    path = socket_path("peer")
    card = f'-device \'{{"driver":"vfio-user-pci","bus":"rp0","socket":{{"type":"unix","path":"{path}"}}}}\''
    try:
        guest = Guest(hal_kernel(), append="intel_iommu=on", machine="kernel-irqchip=split,memory-backend=ram",
                      qemu=modern_qemu(),
                      devices=["-device intel-iommu,intremap=on,caching-mode=on",
                               "-device pcie-root-port,id=rp0,slot=1", "-device pcie-root-port,id=rp1,slot=2",
                               "-object memory-backend-memfd,id=ram,size=1G,share=on", card,
                               f"-drive file={disk},if=none,id=d0,format=raw",
                               "-device nvme,drive=d0,serial=1,bus=rp1"])
    except Missing as missing:
        unavailable(missing)
    with mock.Machine([mock.Gpu("gfx1100", vram="256M")]) as machine, Server(machine, path) as server:
        server.start()
        # A process each: a group stays open as long as anything looks at a BAR.
        runs = " && ".join(f"$PYTHON tests/vm/inside/nvme.py {mode}" for mode in MODES)
        result = guest.run(f"{runs}; S=$?; dmesg | grep DMAR; exit $S",
                           tmp_path, environment={"PYTHONPATH": "."})
    guest.record(record_property, result, "NVMe: MSI-X, queues, blocks into the mock card's VRAM", "Intel",
                 ", ".join(MODES), "reads; peer by type1, refused by iommufd" if not result.status else "FAILED")
    assert result.status == 0, result.output[-6000:]
    parts = result.output.split("MODE ")[1:]
    assert [part.split()[0] for part in parts] == list(MODES)
    for mode, part in zip(MODES, parts, strict=True):
        for said in ("DRIVE QEMU NVMe Ctrl", "READ", "VECTORS 2"):
            assert said in part, result.output[-6000:]
        # Linux 6.12's iommufd maps no BARs (EFAULT); type 1 does.
        wanted = "PEER\n" if mode == "type1" else "PEER REFUSED iommufd maps no card's BAR for another"
        assert wanted in part, result.output[-6000:]
    assert "fault addr 0x700000000" in result.output
