"""The whole driver in a guest: real vfio-pci, IOMMU page tables and MSI; the mock card comes over vfio-user."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from guest import CACHE, Guest, Missing, hal_kernel
from modern_qemu import modern_qemu

import mock
import mock.firmware
from mock.vfio_user import Server

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]


@pytest.mark.parametrize("mode", ["type1", "iommufd"])
def test_boots_and_computes(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    firmware = CACHE / "firmware"           # where the guest sees the host's files, which /tmp is not
    firmware.mkdir(parents=True, exist_ok=True)
    mock.firmware.write(firmware)
    socket = f"/tmp/amdrv-card-{os.getpid()}-{mode}"
    card = f'-device \'{{"driver":"vfio-user-pci","bus":"rp0","socket":{{"type":"unix","path":"{socket}"}}}}\''
    try:
        monkeypatch.setenv("AMDRV_QEMU", modern_qemu())
        guest = Guest(hal_kernel(), append="intel_iommu=on", machine="kernel-irqchip=split,memory-backend=ram",
                      devices=["-device intel-iommu,intremap=on,caching-mode=on", "-device pcie-root-port,id=rp0",
                               "-object memory-backend-memfd,id=ram,size=1G,share=on", card])
    except Missing as missing:
        pytest.skip(str(missing))
    with mock.Machine([mock.Gpu("gfx1100", vram="256M")]) as machine, Server(machine, socket) as server:
        server.start()
        result = guest.run(f"$PYTHON tests/vm/inside/drive_card.py {mode}", tmp_path,
                           environment={"AMDRV_FIRMWARE": str(firmware), "PYTHONPATH": str(Path(__file__).parents[2])})
        assert result.status == 0, result.output[-6000:]
        assert f"BOOTED 96 CUs over {mode}" in result.output
        assert "COPIED" in result.output and "COMPUTED" in result.output
        board = machine.gpus[0]
        assert board.counters["kernels"] >= 1 and board.counters["interrupts"] >= 1, board.counters
        broken = {note.rule for note in board.log} - {"flr"}
        assert not broken, list(board.log)[-5:]
