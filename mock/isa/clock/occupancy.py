"""How many workgroups a workgroup processor holds at a time."""

from __future__ import annotations

from dataclasses import dataclass

from mock.isa.clock import constants as c
from mock.isa.dispatch import Dispatch, Rsrc1, Rsrc2
from mock.isa.waves import vgpr_count

__all__ = ["Occupancy", "occupancy_of", "resident_workgroups"]

_WGP_MODE = 29          # COMPUTE_PGM_RSRC1 (LLVM, User Guide for AMDGPU Backend, WGP_MODE)


@dataclass(frozen=True)
class Occupancy:
    """``limit`` names what keeps a SIMD from holding more waves: waves, vgprs, lds, workgroups or grid."""

    waves_per_workgroup: int
    vgprs: int                  # of a wave, as allocated
    lds_bytes: int              # of a workgroup, as allocated
    wgp_mode: bool              # a workgroup may spread over both compute units of a WGP
    workgroups_per_wgp: int
    waves_per_simd: float
    slots_per_simd: int         # by registers alone
    limit: str


def occupancy_of(dispatch: Dispatch) -> Occupancy:
    """floor(what there is / what one workgroup takes), for each resource, and the least of them."""
    d = dispatch
    lanes = d.wave_size
    waves = -(-d.block[0] * d.block[1] * d.block[2] // lanes)
    vgprs = vgpr_count(d)
    lds = Rsrc2(d.rsrc2).lds_bytes if d.lds_bytes is None else d.lds_bytes
    lds = -(-lds // c.LDS_GRANULE) * c.LDS_GRANULE
    wgp_mode = bool(Rsrc1(d.rsrc1).value >> _WGP_MODE & 1)
    granule = c.VGPR_GRANULE[lanes]
    by_registers = c.VGPRS_PER_SIMD[lanes] // (-(-vgprs // granule) * granule)
    slots = min(c.WAVES_PER_SIMD, by_registers)
    domains = 1 if wgp_mode else c.CUS_PER_WGP          # where a workgroup has to fit as a whole
    simds = c.SIMDS_PER_WGP // domains
    capacity = c.LDS_BYTES_WGP if wgp_mode else c.LDS_BYTES_CU
    found = {"waves" if slots == c.WAVES_PER_SIMD else "vgprs": slots * simds // waves,
             "lds": capacity // lds if lds else 1 << 30,
             "workgroups": c.WORKGROUPS_PER_WGP // domains if waves > 1 else 1 << 30}
    limit = min(found, key=lambda k: found[k])
    workgroups = max(found[limit], 1) * domains
    total = d.grid[0] * d.grid[1] * d.grid[2]
    if total < workgroups * c.WGPS:
        limit = "grid"
    return Occupancy(waves, vgprs, lds, wgp_mode, workgroups, workgroups * waves / c.SIMDS_PER_WGP, slots, limit)


def resident_workgroups(dispatch: Dispatch) -> int:
    """How many the whole card holds at a time: those may wait for each other, others may not have begun."""
    return occupancy_of(dispatch).workgroups_per_wgp * c.WGPS
