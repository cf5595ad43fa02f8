"""How many waves of a kernel fit on the card's processors at a time, and what limits them.

Rules: LLVM, AMDGPUBaseInfo.cpp (getNumWavesPerEUWithNumVGPRs, getMaxWorkGroupsPerCU, getEUsPerCU): registers are given
out in granules; a workgroup of more than one wave takes one of the barriers that a processor has; in WGP mode two
compute units share their local memory and their SIMDs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hcq.backend import Properties

if TYPE_CHECKING:
    from hcq.metadata import KernelInfo

__all__ = ["Occupancy", "occupancy"]

WGP_MODE = 1 << 29              # of COMPUTE_PGM_RSRC1 (LLVM guide, compute_pgm_rsrc1 for GFX6-GFX12: ENABLE_WGP_MODE)
BARRIERS = 16                   # of a compute unit
LDS_GRANULE = 1024              # bytes


@dataclass(frozen=True)
class Occupancy:
    """Of one kernel with one workgroup size.

    :ivar waves: resident waves a SIMD, at most; may be a fraction, where workgroups do not fill the SIMDs evenly.
    :ivar limit: what the SIMD could hold.
    :ivar workgroups: resident workgroups a compute unit, or a pair of them in WGP mode.
    :ivar limited_by: "registers", "local memory", "barriers" or "waves".
    """

    waves: float
    limit: int
    workgroups: int
    limited_by: str

    def __str__(self) -> str:
        return (f"{self.waves:g} of {self.limit} waves a SIMD, {self.workgroups} workgroups at a time, limited by "
                f"{self.limited_by}")


def occupancy(info: KernelInfo, properties: Properties, items: int, group_bytes: int) -> Occupancy | None:
    """None where the driver does not say what its processors hold."""
    if not properties.waves_per_simd:
        return None
    units = 2 if info.descriptor.rsrc1 & WGP_MODE else 1
    simds = properties.simds_per_cu * units
    narrow = info.wave_size == 32
    total = properties.vgprs_per_simd if narrow else properties.vgprs_per_simd // 2
    granule = properties.vgpr_granule if narrow else properties.vgpr_granule // 2
    registers = total // (-(-max(info.vgprs, 1) // granule) * granule)
    resident = min(registers, properties.waves_per_simd)
    waves = -(-items // info.wave_size)
    found = {"registers": simds * resident // waves} if registers < properties.waves_per_simd else {}
    found["waves"] = simds * properties.waves_per_simd // waves
    if group_bytes:
        found["local memory"] = units * properties.lds_bytes // (-(-group_bytes // LDS_GRANULE) * LDS_GRANULE)
    if waves > 1:
        found["barriers"] = units * BARRIERS
    limited_by = min(found, key=lambda what: found[what])
    workgroups = found[limited_by]
    return Occupancy(workgroups * waves / simds, properties.waves_per_simd, workgroups, limited_by)
