"""What the random programs of test_model.py do not reach: control flow, modes, hardware registers and registers chosen
by M0, in quickly made and in optimised code, against the interpreter or against what must come out.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from programs import Program, Registers

import mock.isa as isa
from mock.isa.decode import Instruction, decode
from mock.isa.jit.kernels import wait_for_compiler

Assembler = Callable[[str], bytes]
MODE = 0x3f0


def decoded(code: bytes) -> list[Instruction]:
    found, at = [], 0
    while at < len(code):
        found.append(decode(code[at:] + bytes(16)))
        at += found[-1].size
    return found


def both(code: bytes, start: Registers) -> np.ndarray:
    """The same in all three; the VGPRs."""
    program = Program(decoded(code), start)
    interpreted = program.interpreted()
    for optimise in (False, True):
        native = program.compiled(optimise)
        assert not native.interpreted
        assert not interpreted.differences(native), (optimise, interpreted.differences(native)[:4])
    return interpreted.vgpr


@pytest.mark.parametrize("lanes", [32, 64])
@pytest.mark.parametrize("exec_kind", ["full", "some", "zero"])
def test_registers_chosen_by_m0(assembler: Assembler, lanes: int, exec_kind: str) -> None:
    rng = random.Random(lanes)
    for text in ("v_movrels_b32 v1, v4", "v_movreld_b32 v4, v1", "v_movreld_b32 v4, s3", "v_movreld_b32 v4, -1.0",
                 "v_movrelsd_b32 v2, v8", "v_movrelsd_2_b32 v2, v8", "v_swaprel_b32 v2, v8",
                 "v_movrels_b32_dpp v1, v4 row_shr:3 row_mask:0xf bank_mask:0x7",
                 "v_movreld_b32_dpp v4, v1 dpp8:[7,6,5,4,3,2,1,0]", "s_movrels_b32 s4, s8",
                 "s_movrels_b64 s[4:5], s[8:9]", "s_movreld_b32 s4, s8", "s_movreld_b64 s[4:5], 7",
                 "s_movrelsd_2_b32 s4, s8"):
        start = Registers(lanes, rng.getrandbits(30), MODE, exec_kind)
        two = "_2" in text or "swap" in text
        start.sgpr[125] = rng.randrange(8) | (rng.randrange(8) << 16 if two else 0)
        both(assembler(f"v_mov_b32 v0, v1\n{text}\nv_add_nc_u32 v0, v0, v4\ns_add_u32 s20, s4, s5"), start)


def test_m0_beyond_the_registers_is_an_error(assembler: Assembler) -> None:
    start = Registers(32, 1, MODE, "full")
    start.sgpr[125] = 100
    program = Program(decoded(assembler("v_movrels_b32 v1, v4")), start)
    for run in (program.interpreted, lambda: program.compiled(False), lambda: program.compiled(True)):
        with pytest.raises((ValueError, isa.IsaError), match="M0 selects v104, but the wave has 24 VGPRs"):
            run()


@pytest.mark.parametrize("lanes", [32, 64])
def test_lane_access_without_active_lanes(assembler: Assembler, lanes: int) -> None:
    """Reads and writes of lanes do not ask EXEC."""
    start = Registers(lanes, 5, MODE, "zero")
    vgpr = both(assembler("""v_readlane_b32 s4, v3, 7
                             v_readfirstlane_b32 s5, v3
                             v_writelane_b32 v2, 77, 9
                             v_writelane_b32 v2, s4, 10
                             v_mov_b32 v4, s5"""), start)
    assert vgpr[2, 9] == 77 and vgpr[2, 10] == start.vgpr[3, 7]
    np.testing.assert_array_equal(vgpr[4], start.vgpr[4])


@pytest.mark.parametrize("lanes", [32, 64])
@pytest.mark.parametrize("mode", [0x3f0, 0x8000c5, 0x10f])
def test_hardware_registers(assembler: Assembler, lanes: int, mode: int) -> None:
    """MODE as a whole and in parts, private memory's base, the apertures, the LDS allocation."""
    start = Registers(lanes, 6, mode, "full")
    program = Program(decoded(assembler("""s_getreg_b32 s4, hwreg(HW_REG_MODE)
        s_getreg_b32 s5, hwreg(HW_REG_MODE, 4, 4)
        s_getreg_b32 s6, hwreg(HW_REG_MODE, 23, 1)
        s_getreg_b32 s7, hwreg(HW_REG_FLAT_SCR_LO)
        s_getreg_b32 s8, hwreg(HW_REG_FLAT_SCR_HI)
        s_getreg_b32 s9, hwreg(HW_REG_SH_MEM_BASES)
        s_getreg_b32 s10, hwreg(HW_REG_LDS_ALLOC)
        s_mov_b64 s[12:13], src_shared_base
        s_mov_b64 s[14:15], src_private_limit
        v_mov_b32 v0, src_private_base""")), start)
    for outcome in (program.interpreted(), program.compiled(False), program.compiled(True)):
        assert not outcome.interpreted
        assert [int(outcome.sgpr[i]) for i in (4, 5, 6)] == [mode, mode >> 4 & 15, mode >> 23 & 1]
        assert [int(outcome.sgpr[i]) for i in range(7, 11)] == [0, 0, 0x0001_0002, 0]
        assert [int(outcome.sgpr[i]) for i in range(12, 16)] == [0, 0x0001_0000, 0xffffffff, 0x0002_0000]


def launch(code: bytes, out: np.ndarray, executor: str, wave_size: int = 32) -> None:
    address = int(out.ctypes.data)
    isa.run(code, grid=(1,), block=(wave_size,), user_sgprs=[address & 0xffffffff, address >> 32], rsrc1=0xf0 << 12 | 7,
            rsrc2=2 << 1, check_hazards=False, executor=executor, wave_size=wave_size)


@pytest.mark.parametrize("executor", ["interpreter", "jit"])
@pytest.mark.parametrize("mask", [0, 0xffffffff, 0xff00ff00 << 32, 0x12345678_9abcdef0, (1 << 64) - 1])
def test_subvector_loops_run_each_half(assembler: Assembler, executor: str, mask: int) -> None:
    """Wave64: the body sees one half of EXEC at a time, and both halves come back; nobody active: it is skipped."""
    out = np.zeros((2, 64), np.uint32)
    body = assembler("v_add_nc_u32 v3, v3, 1\ns_add_u32 s8, s8, 1")
    begin = assembler(f"s_subvector_loop_begin s6, {len(body) // 4 + 1}")
    end = assembler(f"s_subvector_loop_end s6, {(-(len(body) // 4 + 1)) & 0xffff}")
    code = assembler(f"""v_lshlrev_b32 v1, 2, v0
                         v_mov_b32 v3, 0
                         s_mov_b32 s6, 0
                         s_mov_b32 s8, 0
                         s_mov_b32 exec_lo, {mask & 0xffffffff:#x}
                         s_mov_b32 exec_hi, {mask >> 32:#x}""") + begin + body + end + assembler("""
                         s_mov_b64 s[10:11], exec
                         s_mov_b64 exec, -1
                         v_mov_b32 v4, s8
                         global_store_b32 v1, v3, s[0:1]
                         global_store_b32 v1, v4, s[0:1] offset:256
                         s_endpgm""")
    launch(code, out, executor, 64)
    np.testing.assert_array_equal(out[0], [mask >> lane & 1 for lane in range(64)])
    assert out[1, 0] == (mask & 0xffffffff != 0) + (mask >> 32 != 0)


@pytest.mark.parametrize("executor", ["interpreter", "jit"])
def test_modes_from_registers(assembler: Assembler, executor: str) -> None:
    """A mode that the translator could not know: the first use makes code for it, later ones find it."""
    out = np.zeros((4, 32), np.float32)
    body = assembler("""s_setreg_b32 hwreg(HW_REG_MODE, 0, 2), s4
                        v_mov_b32 v2, 0x33000000
                        v_add_f32 v3, 1.0, v2
                        global_store_b32 v1, v3, s[0:1]
                        s_add_u32 s0, s0, 0x80
                        s_addc_u32 s1, s1, 0
                        s_add_u32 s4, s4, 1
                        s_cmp_lt_u32 s4, 4""")
    back = assembler(f"s_cbranch_scc1 {-(len(body) // 4 + 1) & 0xffff}")
    code = assembler("v_lshlrev_b32 v1, 2, v0\ns_mov_b32 s4, 0") + body + back + assembler("s_endpgm")
    for _ in range(2):
        out[:] = 0
        launch(code, out, executor)
        np.testing.assert_array_equal(out.view(np.uint32)[:, 0], [0x3f800000, 0x3f800001, 0x3f800000, 0x3f800000])
    assert wait_for_compiler()
