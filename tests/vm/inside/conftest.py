"""Inside the guest: one way to a device at a time, of those that ``AMDRV_VM_MODE`` names.

type1, iommufd, noiommu and sysfs, separated by commas. A test that is for some of them says so with :func:`ways.only`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from ways import MODES

from amdrv.hal import Hal
from amdrv.hal.sysfs import SysfsHal
from amdrv.hal.vfio import VfioHal
from amdrv.vfio.iommu import UNSAFE_NOIOMMU


@pytest.fixture(scope="session", params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return request.param

@pytest.fixture(scope="session")
def hal(mode: str) -> Hal:
    if mode == "sysfs":
        Path("/proc/sys/vm/nr_hugepages").write_text("40")
        return SysfsHal()
    if mode == "noiommu":
        Path("/proc/sys/vm/nr_hugepages").write_text("40")
        UNSAFE_NOIOMMU.write_text("1")
    return VfioHal(mode)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept, left = [], []
    for item in items:
        wanted = getattr(getattr(item, "function", None), "ways", None)
        mode = item.callspec.params.get("mode") if hasattr(item, "callspec") else None
        there = [mode] if mode else MODES       # a test without a mode of its own is for the guest as a whole
        (kept if wanted is None or set(there) & set(wanted) else left).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left)
