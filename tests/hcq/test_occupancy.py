"""Occupancy, by cases worked out by hand from LLVM's rules for gfx1100."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from code_objects import build, kernel_metadata

import hcq
from hcq.backend import Properties
from hcq.occupancy import WGP_MODE, occupancy

CARD = Properties("gfx1100", "card", 96, (32, 64), 1024, 65536, 1 << 30, 1e8, simds_per_cu=2, waves_per_simd=16,
                  vgprs_per_simd=1536, vgpr_granule=24)


def info(vgprs: int, *, wgp: bool = True, wave: int = 32) -> Any:
    code = build(kernel_metadata("k", **{".vgpr_count": vgprs, ".wavefront_size": wave}),
                 properties=1 << 3 | (1 << 10 if wave == 32 else 0))
    found = hcq.CodeObject(code).kernel("k")
    bits = found.descriptor.rsrc1 & ~WGP_MODE | (WGP_MODE if wgp else 0)
    return replace(found, descriptor=replace(found.descriptor, rsrc1=bits))


@pytest.mark.parametrize(("kernel", "items", "lds", "waves", "workgroups", "why"), [
    (info(96), 32, 0, 16, 64, "waves"),                     # 1536 / 96 = 16
    (info(97), 32, 0, 12, 48, "registers"),                 # 120 each
    (info(256), 256, 0, 4, 2, "registers"),                 # 264 each: 5 waves a SIMD, 20 of them, 2 groups of 8
    (info(256, wgp=False), 256, 0, 4, 1, "registers"),
    (info(24), 64, 0, 16, 32, "waves"),
    (info(24), 64, 32768, 2, 4, "local memory"),
    (info(24), 64, 1, 16, 32, "waves"),
    (info(24, wave=64), 64, 0, 16, 64, "waves"),
    (info(120, wave=64), 64, 0, 6, 24, "registers"),        # 768 / 120
    (info(24), 1024, 0, 16, 2, "waves"),
    (info(24), 33, 0, 16, 32, "waves"),
])
def test_occupancy(kernel: Any, items: int, lds: int, waves: float, workgroups: int, why: str) -> None:
    found = occupancy(kernel, CARD, items, lds)
    assert found is not None
    assert (found.waves, found.workgroups, found.limited_by) == (waves, workgroups, why)
    assert str(found).startswith(f"{waves:g} of 16 waves a SIMD, {workgroups} workgroups")


def test_a_driver_that_does_not_say(dev: hcq.Device, code: bytes) -> None:
    add = dev.program(code, "add")
    assert add.occupancy(64) is None
    with pytest.raises(hcq.LaunchError, match="the kernel allows"):
        add.occupancy(2048)
