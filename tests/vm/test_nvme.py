"""QEMU's NVMe drive under our VFIO HAL: MSI-X, queues, a read into a card's VRAM, and one that the IOMMU stops."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from guest import Guest, Missing, hal_kernel
from modern_qemu import modern_qemu

import mock
from mock.vfio_user import Server

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]


@pytest.mark.parametrize("mode", ["type1", "iommufd"])
def test_drive_and_card(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    (np.arange(1 << 18, dtype=np.uint32) * np.uint32(2654435761)).tofile(disk)
    socket = f"/tmp/amdrv-peer-{os.getpid()}-{mode}"
    card = f'-device \'{{"driver":"vfio-user-pci","bus":"rp0","socket":{{"type":"unix","path":"{socket}"}}}}\''
    try:
        monkeypatch.setenv("AMDRV_QEMU", modern_qemu())
        guest = Guest(hal_kernel(), append="intel_iommu=on", machine="kernel-irqchip=split,memory-backend=ram",
                      devices=["-device intel-iommu,intremap=on,caching-mode=on",
                               "-device pcie-root-port,id=rp0,slot=1", "-device pcie-root-port,id=rp1,slot=2",
                               "-object memory-backend-memfd,id=ram,size=1G,share=on", card,
                               f"-drive file={disk},if=none,id=d0,format=raw",
                               "-device nvme,drive=d0,serial=1,bus=rp1"])
    except Missing as missing:
        pytest.skip(str(missing))
    with mock.Machine([mock.Gpu("gfx1100", vram="256M")]) as machine, Server(machine, socket) as server:
        server.start()
        result = guest.run(f"$PYTHON tests/vm/inside/nvme.py {mode}; S=$?; dmesg | grep DMAR; exit $S", tmp_path,
                           environment={"PYTHONPATH": str(Path(__file__).parents[2])})
    assert result.status == 0, result.output[-6000:]
    for said in ("DRIVE QEMU NVMe Ctrl", "READ", "fault addr 0x700000000"):
        assert said in result.output, result.output[-6000:]
    # Linux 6.12's iommufd maps no BARs (EFAULT); type 1 does.
    assert ("PEER\n" if mode == "type1" else "PEER REFUSED") in result.output, result.output[-6000:]
