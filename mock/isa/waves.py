"""Workgroups -> waves with their registers as the hardware sets them up at the start.

Initial state (LLVM, User Guide for AMDGPU Backend, "Initial Kernel Execution State"; Mesa, COMPUTE_PGM_RSRC2): user
SGPRs, then the workgroup ids that TGID_*_EN asks for, then TG_SIZE; v0 packs the work-item ids, ten bits each; on
gfx11 scratch needs no SGPR (architected flat scratch). Everything else is poison.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mock.isa.dispatch import Dispatch, IsaError, Rsrc1, Rsrc2, initial_mode
from mock.isa.memory import Lds
from mock.isa.state import EXEC, SGPRS, State

__all__ = ["Batch", "batches", "vgpr_count"]

POISON = 0xa5a5a5a5


@dataclass
class Batch:
    """Workgroups that run together."""

    dispatch: Dispatch
    ids: np.ndarray                     # int64[workgroups, 3]
    sizes: np.ndarray                   # int64[workgroups, 3]
    lds_bytes: int

    def __post_init__(self) -> None:
        d = self.dispatch
        items = self.sizes.prod(axis=1)
        self.waves_of_workgroup = -(-items // d.wave_size)
        self.workgroups = len(self.ids)
        self.waves = int(self.waves_of_workgroup.sum())

    def state(self) -> State:
        d, rsrc2 = self.dispatch, Rsrc2(self.dispatch.rsrc2)
        lanes = d.wave_size
        workgroup = np.repeat(np.arange(self.workgroups), self.waves_of_workgroup)
        first = np.cumsum(self.waves_of_workgroup) - self.waves_of_workgroup
        wave = np.arange(self.waves) - first[workgroup]
        # Vector registers: work-item ids in v0.
        vgpr = np.full((vgpr_count(d), lanes, self.waves), POISON, np.uint32)
        sizes = self.sizes[workgroup]                               # [waves, 3]
        item = wave[None, :] * lanes + np.arange(lanes)[:, None]    # [lanes, waves]
        x, rest = item % sizes[:, 0], item // sizes[:, 0]
        y, z = rest % sizes[:, 1], rest // sizes[:, 1]
        active = item < sizes.prod(axis=1)
        packed = x | (y << 10 if rsrc2.workitem_id >= 1 else 0) | (z << 20 if rsrc2.workitem_id >= 2 else 0)
        vgpr[0] = np.where(active, packed, 0).astype(np.uint32)
        sgpr = np.full((SGPRS, self.waves), POISON, np.uint32)
        self._scalars(sgpr, workgroup, wave, rsrc2)
        words = np.packbits(active, axis=0, bitorder="little").T
        sgpr[EXEC:EXEC + lanes // 32] = np.ascontiguousarray(words).view(np.uint32).T
        if lanes == 32:
            sgpr[EXEC + 1] = 0
        per_wave = {
            "workgroup": workgroup, "wave": wave.astype(np.uint32), "id": np.arange(self.waves, dtype=np.uint32),
            "lds": (workgroup * Lds.stride(self.lds_bytes)).astype(np.int64),
            "scratch": (np.uint64(d.scratch_address)
                        + np.arange(self.waves, dtype=np.uint64) * np.uint64(d.scratch_wave_bytes)),
            "scc": np.zeros(self.waves, np.bool_),
            "shared_base": np.full(self.waves, d.shared_base, np.uint64),
            "private_base": np.full(self.waves, d.private_base, np.uint64)}
        return State(lanes, vgpr, sgpr, per_wave, 0, initial_mode(d))

    def _scalars(self, sgpr: np.ndarray, workgroup: np.ndarray, wave: np.ndarray, rsrc2: Rsrc2) -> None:
        d = self.dispatch
        user = [int(x) & 0xffffffff for x in d.user_sgprs][:rsrc2.user_sgprs]
        for i, value in enumerate(user):
            sgpr[i] = value
        position = rsrc2.user_sgprs
        for axis, wanted in enumerate(rsrc2.workgroup_id):
            if wanted:
                sgpr[position] = self.ids[workgroup, axis].astype(np.uint32)
                position += 1
        if rsrc2.workgroup_info:
            # First wave, wave within the workgroup, wave count (RDNA3 ISA, "TG_SIZE"; Mesa 25.0,
            # ac_nir_lower_intrinsics_to_args.c, load_subgroup_id_lowered: bits 24:20 from GFX10.3 on).
            waves = self.waves_of_workgroup[workgroup]
            sgpr[position] = ((wave == 0).astype(np.uint32) << np.uint32(31) | waves.astype(np.uint32) & np.uint32(63)
                              | (wave.astype(np.uint32) & np.uint32(31)) << np.uint32(20))


def vgpr_count(dispatch: Dispatch) -> int:
    """Registers that a wave is given: the encoded granule is 8 (wave32) or 4, allocation is in 24s or 12s."""
    wide = dispatch.wave_size == 32
    wanted = (Rsrc1(dispatch.rsrc1).vgprs + 1) * (8 if wide else 4)
    granule = 24 if wide else 12
    return min(-(-wanted // granule) * granule, 256)


def batches(dispatch: Dispatch) -> Iterator[Batch]:
    """Workgroups in the order of their ids (x fastest), as many at a time as a card holds: they may wait for each
    other."""
    # Here, since the package of the clock stands on the interpreter, and that on us.
    from mock.isa.clock.occupancy import resident_workgroups
    d = dispatch
    total = d.grid[0] * d.grid[1] * d.grid[2]
    lds = Rsrc2(d.rsrc2).lds_bytes if d.lds_bytes is None else d.lds_bytes
    items = d.block[0] * d.block[1] * d.block[2]
    waves = -(-items // d.wave_size)
    at_a_time = resident_workgroups(d)
    if d.scratch_slots:
        if waves > d.scratch_slots:
            raise IsaError(f"a workgroup has {waves} waves but there is scratch for {d.scratch_slots}; "
                           f"allocate scratch for a whole workgroup")
        at_a_time = min(at_a_time, d.scratch_slots // waves)
    for begin in range(0, total, at_a_time):
        index = np.arange(begin, min(begin + at_a_time, total))
        ids = np.stack([index % d.grid[0], index // d.grid[0] % d.grid[1], index // (d.grid[0] * d.grid[1])], axis=1)
        last = ids == np.array(d.grid) - 1
        partial = np.array(d.partial)
        sizes = np.where(last & (partial > 0), partial, np.array(d.block))
        yield Batch(d, ids + np.array(d.start), sizes, lds)
