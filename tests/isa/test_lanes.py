"""Data that moves between lanes: DPP controls, masks, permutes and swizzles, against the guide's words."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from lab import Lab

Assembler = Callable[[str], bytes]
LANE = np.arange(32)
ROW, IN_ROW = LANE & ~15, LANE & 15
VALUE = 1000 + LANE


def fresh() -> Lab:
    lab = Lab(waves=2)
    lab.state.vgpr[2] = VALUE[:, None]
    lab.state.vgpr[3] = 7
    return lab


def column(lab: Lab, register: int) -> np.ndarray:
    assert (lab.state.vgpr[register, :, 0] == lab.state.vgpr[register, :, 1]).all()
    return lab.state.vgpr[register, :, 0].astype(np.int64)


# control -> source lane of each lane, -1 where there is none
CONTROLS = {
    "quad_perm:[3,0,1,2]": (LANE & ~3) + np.array([3, 0, 1, 2])[LANE & 3],
    "row_shl:3": np.where(IN_ROW + 3 < 16, LANE + 3, -1), "row_shr:5": np.where(IN_ROW >= 5, LANE - 5, -1),
    "row_ror:4": ROW + (IN_ROW - 4) % 16, "row_mirror": ROW + 15 - IN_ROW,
    "row_half_mirror": (LANE & ~7) + 7 - (LANE & 7), "row_share:6": ROW + 6, "row_xmask:9": ROW + (IN_ROW ^ 9)}


@pytest.mark.parametrize("control", sorted(CONTROLS))
def test_dpp_moves(assembler: Assembler, control: str) -> None:
    sources = CONTROLS[control]
    lab = fresh()
    lab.run(assembler(f"""v_mov_b32_dpp v3, v2 {control} row_mask:0xf bank_mask:0xf
                          v_mov_b32_dpp v4, v2 {control} row_mask:0xf bank_mask:0xf bound_ctrl:1
                          v_add_nc_u32_dpp v5, v2, v2 {control} row_mask:0xf bank_mask:0xf bound_ctrl:1"""))
    moved = VALUE[np.maximum(sources, 0)]
    np.testing.assert_array_equal(column(lab, 3), np.where(sources < 0, 7, moved))     # not written
    np.testing.assert_array_equal(column(lab, 4), np.where(sources < 0, 0, moved))     # reads as 0
    np.testing.assert_array_equal(column(lab, 5), np.where(sources < 0, 0, moved) + VALUE)


def test_dpp_masks_and_inactive_lanes(assembler: Assembler) -> None:
    lab = fresh()
    lab.run(assembler("v_mov_b32_dpp v3, v2 quad_perm:[1,0,3,2] row_mask:0x2 bank_mask:0x5"))
    chosen = (LANE >= 16) & (LANE // 4 % 2 == 0)
    np.testing.assert_array_equal(column(lab, 3), np.where(chosen, VALUE[LANE ^ 1], 7))
    lab = fresh()
    lab.state.vgpr[4] = lab.state.vgpr[5] = 7
    lab.run(assembler("""s_mov_b32 exec_lo, 0x55555557
                         v_mov_b32_dpp v3, v2 quad_perm:[1,0,3,2] row_mask:0xf bank_mask:0xf
                         v_mov_b32_dpp v4, v2 quad_perm:[1,0,3,2] row_mask:0xf bank_mask:0xf bound_ctrl:1
                         v_mov_b32_dpp v5, v2 quad_perm:[1,0,3,2] row_mask:0xf bank_mask:0xf fi:1"""))
    active = 0x55555557 >> LANE & 1 == 1
    source_active = active[LANE ^ 1]
    other = VALUE[LANE ^ 1]
    np.testing.assert_array_equal(column(lab, 3), np.where(active & source_active, other, 7))
    np.testing.assert_array_equal(column(lab, 4), np.where(active, np.where(source_active, other, 0), 7))
    np.testing.assert_array_equal(column(lab, 5), np.where(active, other, 7))


def test_dpp8_and_signs(assembler: Assembler) -> None:
    lab = fresh()
    lab.state.vf[6] = LANE[:, None] - 5.5
    lab.run(assembler("""v_mov_b32_dpp v3, v2 dpp8:[7,6,5,4,3,2,1,0]
                         v_add_f32_dpp v7, -|v6|, v6 quad_perm:[1,0,3,2] row_mask:0xf bank_mask:0xf
                         v_cmp_gt_u32_dpp vcc_lo, v2, v2 row_mirror row_mask:0xf bank_mask:0xf"""))
    np.testing.assert_array_equal(column(lab, 3), VALUE[(LANE & ~7) + 7 - (LANE & 7)])
    values = LANE - 5.5
    np.testing.assert_array_equal(lab.state.vf[7, :, 0], (-np.abs(values[LANE ^ 1]) + values).astype(np.float32))
    want = VALUE[ROW + 15 - IN_ROW] > VALUE
    np.testing.assert_array_equal(lab.state.read_mask(106)[:, 0], want)


def test_permlanes(assembler: Assembler) -> None:
    lab = fresh()
    rng = np.random.default_rng(1)
    selectors = rng.integers(0, 16, 16)
    low, high = (sum(int(s) << 4 * i for i, s in enumerate(selectors[at:at + 8])) for at in (0, 8))
    lab.run(assembler(f"""s_mov_b32 s4, {low:#x}
                          s_mov_b32 s5, {high:#x}
                          v_permlane16_b32 v3, v2, s4, s5
                          v_permlanex16_b32 v4, v2, s4, s5
                          v_permlane64_b32 v5, v2"""))
    np.testing.assert_array_equal(column(lab, 3), VALUE[ROW + selectors[IN_ROW]])
    np.testing.assert_array_equal(column(lab, 4), VALUE[(ROW ^ 16) + selectors[IN_ROW]])
    np.testing.assert_array_equal(column(lab, 5), VALUE)


def swizzled(pattern: int) -> np.ndarray:
    """Source lanes by the guide's pseudo-code."""
    out = []
    for i in range(32):
        if pattern >= 0xe000:
            mask = pattern & 31
            out.append(int(f"{i:05b}"[::-1], 2) >> mask.bit_count() | i & mask)
        elif pattern >= 0xc000:
            mask, rotate = pattern & 31, (-1 if pattern & 0x400 else 1) * (pattern >> 5 & 31)
            out.append(i & mask | (i + rotate) & ~mask & 31)
        elif pattern & 0x8000:
            out.append(i & ~3 | pattern >> 2 * (i & 3) & 3)
        else:
            out.append((i & pattern & 31 | pattern >> 5 & 31) ^ pattern >> 10 & 31)
    return np.array(out)


@pytest.mark.parametrize("pattern", [0x041f, 0x7c1f, 0x001c, 0x0060 | 0x1c, 0x801b, 0x80e4, 0xc020, 0xc4a3,
    0xe000, 0xe01f])
def test_ds_swizzle(assembler: Assembler, pattern: int) -> None:
    lab = fresh()
    lab.run(assembler(f"ds_swizzle_b32 v3, v2 offset:{pattern}"))
    np.testing.assert_array_equal(column(lab, 3), VALUE[swizzled(pattern)])


def test_ds_permutes(assembler: Assembler) -> None:
    lab = fresh()
    rng = np.random.default_rng(2)
    target = rng.permutation(32)
    lab.state.vgpr[4] = (target * 4)[:, None]
    lab.run(assembler("""ds_permute_b32 v5, v4, v2
                         ds_bpermute_b32 v6, v4, v2
                         s_mov_b32 exec_lo, 0xffff
                         ds_bpermute_b32 v7, v4, v2"""))
    pushed = np.zeros(32, np.int64)
    pushed[target] = VALUE
    np.testing.assert_array_equal(column(lab, 5), pushed)
    np.testing.assert_array_equal(column(lab, 6), VALUE[target])
    np.testing.assert_array_equal(column(lab, 7)[:16], np.where(target < 16, VALUE[target], 0)[:16])


def test_indexed_registers(assembler: Assembler) -> None:
    lab = Lab(waves=2)
    for i in range(8):
        lab.state.vgpr[10 + i] = i
        lab.state.sgpr[10 + i] = 50 + i
    lab.state.sgpr[125] = [2, 3]
    lab.run(assembler("""v_movrels_b32_e32 v3, v10
                         v_movreld_b32_e32 v20, v17
                         s_movrels_b32 s4, s10
                         s_movreld_b32 s30, s17"""))
    s = lab.state
    assert [int(s.vgpr[3, 0, w]) for w in (0, 1)] == [2, 3]
    assert (int(s.vgpr[22, 0, 0]), int(s.vgpr[23, 0, 1]), int(s.vgpr[22, 0, 1])) == (7, 7, 0xdeadbeef)
    assert list(s.sgpr[4]) == [52, 53] and (s.sgpr[32, 0], s.sgpr[33, 1]) == (57, 57)


def test_append_counts_active_lanes(assembler: Assembler) -> None:
    lab = Lab(waves=2)
    lab.state.sgpr[125] = 16
    lab.run(assembler("""v_mov_b32 v1, 20
                         v_mov_b32 v2, 100
                         ds_store_b32 v1, v2
                         s_mov_b32 exec_lo, 0xff
                         ds_append v3 offset:4
                         ds_consume v4 offset:4"""))
    assert [int(lab.state.vgpr[3, 0, w]) for w in (0, 1)] == [100, 108]
    assert [int(lab.state.vgpr[4, 0, w]) for w in (0, 1)] == [116, 108]
