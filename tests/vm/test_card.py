"""The mock card behind a real kernel: every HAL's contract, and doctor, inside guests that see it over vfio-user."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from door import Door, socket_path
from guest import Guest, Missing, hal_kernel, unavailable
from modern_qemu import modern_qemu

import mock
from mock.vfio_user import Server

pytestmark = [pytest.mark.vm, pytest.mark.timeout(1500)]

SHARED_MEMORY = ("-object memory-backend-memfd,id=ram,size=1G,share=on",)


@pytest.mark.parametrize(("iommu", "modes"), [("Intel", "type1,iommufd"), ("none", "noiommu,sysfs")])
def test_contract_and_doctor(iommu: str, modes: str, tmp_path: Path,
                             record_property: Callable[[str, object], None]) -> None:
    path = socket_path(f"card-{iommu}")
    card = f'-device \'{{"driver":"vfio-user-pci","bus":"rp0","socket":{{"type":"unix","path":"{path}"}}}}\''
    append, devices = ("intel_iommu=on", ("-device intel-iommu,intremap=on,caching-mode=on",)) \
        if iommu == "Intel" else ("", ())
    with mock.Machine([mock.Gpu("gfx1100", vram="256M")]) as machine, Server(machine, path) as server, \
            Door(machine.gpus[0], socket_path(f"door-{iommu}")) as door:
        server.start()
        try:
            guest = Guest(hal_kernel(), append=append, machine="kernel-irqchip=split,memory-backend=ram",
                          qemu=modern_qemu(), devices=[*devices, *SHARED_MEMORY, "-device pcie-root-port,id=rp0,slot=6",
                                                       card, door.device])
        except Missing as missing:
            unavailable(missing)
        result = guest.run("$PYTHON -m pytest -q -p no:cacheprovider -p no:xdist --timeout 300 "
                           "tests/vm/inside/test_doctor.py tests/vm/inside/test_contract.py", tmp_path,
                           environment={"AMDRV_VM_MODE": modes, "PYTHONPATH": "."})
    guest.record(record_property, result, "the HAL's contract and doctor, mock card by vfio-user", iommu,
                 modes.replace(",", ", "), f"{result.passed} passed" if not result.status else "FAILED")
    assert result.status == 0, result.output[-6000:]
    assert result.passed >= 70 and "skipped" not in result.output, result.output[-2000:]
    assert door.asked >= 15, door.asked
