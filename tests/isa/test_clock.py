"""The modelled clock against what its constants say of shapes whose time is known in advance."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from llvm import assemble, llvm_mc

import mock.isa as isa
from mock.isa.clock import Chip, ClockReport
from mock.isa.clock import constants as c

TOOL = llvm_mc()
pytest.importorskip("llvmlite")
pytestmark = pytest.mark.skipif(TOOL is None, reason="needs llvm-mc that knows gfx1100")


def code_of(lines: list[str], attributes: str = "") -> bytes:
    assert TOOL is not None
    found = assemble(TOOL, lines, attributes)
    assert None not in found, [text for text, code in zip(lines, found, strict=True) if code is None]
    return b"".join(code for code in found if code is not None)


def loop(body: list[str], times: int, before: list[str] | None = None, attributes: str = "") -> bytes:
    inside = code_of([*body, "s_sub_u32 s10, s10, 1", "s_cmp_lg_u32 s10, 0"], attributes)
    back = 65536 - (len(inside) + 4) // 4
    return (code_of([*(before or []), f"s_movk_i32 s10, {times}"], attributes) + inside
            + code_of([f"s_cbranch_scc1 {back}", "s_endpgm"], attributes))


def clock(code: bytes, *, grid: int = 48, block: int = 128, vgprs: int = 64, lds: int = 0, kernarg: bytes = b"",
          wave: int = 32, wgp: bool = True, executor: str = "jit", chip: Chip | bool = True) -> ClockReport:
    """One launch; 48 workgroups of 4 waves are one wave a SIMD."""
    rsrc1 = -(-vgprs // (8 if wave == 32 else 4)) - 1 | 0xf0 << 12 | int(wgp) << 29
    counts = isa.run(code, grid=(grid,), block=(block,), kernarg=kernarg, rsrc1=rsrc1, rsrc2=2 << 1 | 1 << 7,
                     lds_bytes=lds, wave_size=wave, executor=executor, clock=chip)
    assert counts.clock is not None and not counts.clock.incomplete
    return counts.clock


def per_turn(body: list[str], turns: int = 30, **launch: Any) -> float:
    """Cycles of a turn of the loop, on the fullest SIMD."""
    short, long = (clock(loop(body, n), **launch).cycles for n in (turns, 2 * turns))
    return (long - short) / turns


# ---- issue and latency


def test_independent_instructions_issue_every_cycle_and_dependent_ones_wait_for_the_alu() -> None:
    independent = [f"v_fma_f32 v{i}, v{i}, v20, v21" for i in range(16)]
    overhead = per_turn([])
    assert per_turn(independent * 2) - overhead == pytest.approx(32, abs=1)
    assert per_turn(["v_fma_f32 v1, v1, v20, v21"] * 32) - overhead == pytest.approx(32 * c.LATENCY["valu"], abs=6)


def test_other_waves_fill_the_gaps_of_a_dependent_chain() -> None:
    chain = ["v_fma_f32 v1, v1, v20, v21"] * 32
    alone, eight = per_turn(chain), per_turn(chain, grid=48 * 8)
    assert eight / 8 < 0.25 * alone         # the SIMD is full: an instruction a cycle, whoever's it is
    assert eight >= 8 * 32


@pytest.mark.parametrize(("text", "rate"), [
    ("v_mul_lo_u32 v{0}, v{0}, v20", "quarter"), ("v_exp_f32 v{0}, v{0}", "trans"),
    ("v_fma_f64 v[{1}:{2}], v[{1}:{2}], v[20:21], v[22:23]", "double"),
    ("v_lshlrev_b64 v[{1}:{2}], 1, v[{1}:{2}]", "half"), ("v_add_f32 v{0}, v{0}, v20", "valu")])
def test_rates(text: str, rate: str) -> None:
    body = [text.format(i, 2 * i, 2 * i + 1) for i in range(8)] * 4
    assert per_turn(body, grid=48 * 8) / 8 == pytest.approx(32 * c.PASSES[rate], rel=0.03, abs=3)


def test_transcendentals_run_beside_the_main_alu() -> None:
    trans = [f"v_exp_f32 v{i}, v{i}" for i in range(8)]
    mixed = [line for i in range(8) for line in (trans[i], *[f"v_add_f32 v{10 + j}, v{10 + j}, v30" for j in range(3)])]
    assert per_turn(mixed, grid=48 * 8) == pytest.approx(per_turn(trans, grid=48 * 8), rel=0.05)


def test_wave64_takes_two_passes_but_for_what_is_dual_issued_with_itself() -> None:
    attributes = "+wavefrontsize64,-wavefrontsize32"
    found = {}
    for name in ("v_xor_b32", "v_fma_f32"):
        body = [f"{name} v{i}, v{i}, v20" + (", v21" if "fma" in name else "") for i in range(16)] * 2
        times = [clock(loop(body, n, attributes=attributes), wave=64, block=256, grid=48 * 8).cycles for n in (50, 100)]
        found[name] = (times[1] - times[0]) / 50 / 8
    assert found["v_xor_b32"] == pytest.approx(64, rel=0.05)
    assert found["v_fma_f32"] == pytest.approx(32, rel=0.1)


# ---- peaks


def test_wmma_in_registers_reaches_the_peak_that_amd_gives() -> None:
    body = [f"v_wmma_f32_16x16x16_f16 v[{32 + 8 * i}:{39 + 8 * i}], v[0:7], v[8:15], v[{32 + 8 * i}:{39 + 8 * i}]"
            for i in range(4)] * 4
    report = clock(loop(body, 100), grid=48 * 4, block=256)
    assert report.peak == pytest.approx(122.88e12)
    assert report.peak_without_launch > 0.995 and report.limit == "wmma"
    assert report.achieved == pytest.approx(report.operations["fp16"] / report.seconds)
    assert report.operations["fp16"] == 48 * 4 * 8 * 1600 * 8192


def test_a_chain_of_wmmas_through_c_needs_no_second_wave() -> None:
    body = ["v_wmma_f32_16x16x16_f16 v[32:39], v[0:7], v[8:15], v[32:39]"] * 8
    assert clock(loop(body, 100)).peak_without_launch > 0.97


def test_dual_issue_reaches_the_fp32_peak_and_single_issue_half_of_it() -> None:
    dual = [f"v_dual_fmac_f32 v{2 * i}, v20, v22 :: v_dual_fmac_f32 v{2 * i + 1}, v21, v23" for i in range(8)] * 8
    report = clock(loop(dual, 100), grid=48 * 4, block=256)
    assert report.peak == pytest.approx(61.44e12) and report.peak_without_launch > 0.99
    single = [f"v_fmac_f32 v{i}, v20, v22" for i in range(16)] * 8
    assert clock(loop(single, 100), grid=48 * 4, block=256).peak_without_launch == pytest.approx(0.5, abs=0.01)


# ---- LDS


def lds_kernel(stride: int, width: str = "b32 v2", times: int = 50) -> bytes:
    return loop([f"ds_load_{width}, v1"] * 8 + ["s_waitcnt lgkmcnt(0)"], times,
                ["v_and_b32 v0, 31, v0", f"v_mul_u32_u24 v1, {4 * stride}, v0"])


@pytest.mark.parametrize(("stride", "ways"), [(1, 1), (2, 2), (4, 4), (16, 16), (32, 32), (33, 1), (0, 1)])
def test_bank_conflicts(stride: int, ways: int) -> None:
    """Lanes a stride of dwords apart: as many cycles as lanes share a bank, whatever dword; one dword is broadcast."""
    report = clock(lds_kernel(stride), lds=8192)
    assert report.transactions["lds_cycles"] == report.transactions["lds_instructions"] * ways
    assert report.transactions["lds_instructions"] == 48 * 4 * 8 * 50


def test_wide_lds_loads_move_128_bytes_a_cycle() -> None:
    for width, cycles in (("b64 v[2:3]", 2), ("b128 v[4:7]", 4)):
        report = clock(lds_kernel(cycles, width), lds=8192)
        assert report.transactions["lds_cycles"] == report.transactions["lds_instructions"] * cycles


def test_conflicts_make_a_full_processor_slower_by_their_number() -> None:
    def beyond(stride: int) -> float:
        times = [clock(lds_kernel(stride, times=n), grid=48 * 8, lds=4352).cycles for n in (50, 100)]
        return times[1] - times[0]
    assert beyond(32) / beyond(4) == pytest.approx(8, rel=0.1)


# ---- memory


@pytest.fixture(scope="module")
def buffer() -> np.ndarray:
    raw = np.zeros((1 << 22) + 1024, np.uint32)
    skip = -int(raw.ctypes.data) % 4096 // 4
    return raw[skip:skip + (1 << 22)]


def memory_kernel(stride: int, kind: str = "load", width: str = "b32 v2", mask: int = 0xffffff) -> bytes:
    """Work-item i touches dword i * stride of the buffer."""
    move = f"global_load_{width}, v1, s[4:5]" if kind == "load" else \
        f"global_store_{width.split()[0]} v1, {width.split()[1]}, s[4:5]"
    return code_of(["s_load_b64 s[4:5], s[0:1], 0x0", "s_mul_i32 s6, s2, 0x100", "v_and_b32 v0, 0x3ff, v0",
                    "v_add_nc_u32 v0, s6, v0", f"v_mul_u32_u24 v1, {4 * stride}, v0", f"v_and_b32 v1, {mask:#x}, v1",
                    "s_waitcnt lgkmcnt(0)", move, "s_waitcnt vmcnt(0)", "s_endpgm"])


def memory_clock(buffer: np.ndarray, code: bytes, grid: int, **launch: Any) -> ClockReport:
    return clock(code, grid=grid, block=256, kernarg=struct.pack("<Q", buffer.ctypes.data), **launch)


@pytest.mark.parametrize(("stride", "lines"), [(1, 1), (2, 2), (8, 8), (32, 32), (0, 1)])
def test_coalescing(buffer: np.ndarray, stride: int, lines: int) -> None:
    report = memory_clock(buffer, memory_kernel(stride), 48)
    assert report.transactions["l0_lines"] == 48 * 8 * lines


def test_streaming_runs_at_the_bandwidth_of_vram(buffer: np.ndarray) -> None:
    """16 MiB by 16-byte loads; a third of the bytes by 4-byte loads of every third dword costs as much."""
    report = memory_clock(buffer, memory_kernel(4, width="b128 v[4:7]"), 4096)
    least = (16 << 20) / c.VRAM_BYTES_PER_CYCLE
    assert least <= report.cycles - report.launch_cycles < 1.05 * least and report.limit == "vram"
    assert report.transactions["vram_lines"] == pytest.approx((16 << 20) / c.LINE, rel=0.02)


def test_stores_cost_vram_only_what_gl2_cannot_keep(buffer: np.ndarray) -> None:
    small = memory_clock(buffer, memory_kernel(4, "store", "b128 v[4:7]"), 1024)
    large = memory_clock(buffer, memory_kernel(4, "store", "b128 v[4:7]"), 4096)
    assert small.transactions["vram_lines"] == 0
    assert large.transactions["vram_lines"] == pytest.approx((10 << 20) / c.LINE, rel=0.05)


def test_what_all_workgroups_read_comes_from_vram_once(buffer: np.ndarray) -> None:
    """Every workgroup reads the same 4 KiB."""
    shared = memory_clock(buffer, memory_kernel(4, width="b128 v[4:7]", mask=0xfff), 480)
    alone = memory_clock(buffer, memory_kernel(4, width="b128 v[4:7]"), 480)
    assert shared.transactions["vram_lines"] < 0.1 * alone.transactions["vram_lines"]
    assert shared.cycles < alone.cycles


def test_a_second_read_of_a_line_is_a_hit(buffer: np.ndarray) -> None:
    twice = code_of(["s_load_b64 s[4:5], s[0:1], 0x0", "v_and_b32 v0, 0x3ff, v0", "v_lshlrev_b32 v1, 2, v0",
                     "s_waitcnt lgkmcnt(0)", "global_load_b32 v2, v1, s[4:5]", "s_waitcnt vmcnt(0)",
                     "global_load_b32 v3, v1, s[4:5]", "s_waitcnt vmcnt(0)", "s_endpgm"])
    report = memory_clock(buffer, twice, 1)
    assert report.transactions["l0_lines"] == 16 and report.transactions["l0_hits"] >= 8
    assert report.cycles - report.launch_cycles > c.VECTOR_LATENCY["vram"] + c.VECTOR_LATENCY["l0"]


# ---- occupancy


def test_registers_and_lds_limit_how_many_waves_hide_latency() -> None:
    body = ["ds_load_b32 v2, v1", "s_waitcnt lgkmcnt(0)"]
    few, many = (clock(loop(body, 50, ["v_mov_b32 v1, 0"]), grid=48 * 16, vgprs=vgprs, lds=1024)
                 for vgprs in (256, 96))
    assert (many.occupancy.slots_per_simd, few.occupancy.slots_per_simd) == (16, 5)
    assert few.occupancy.limit == "vgprs" and few.occupancy.vgprs == 256
    assert few.cycles > 2 * many.cycles
    full = clock(loop(body, 50, ["v_mov_b32 v1, 0"]), grid=48 * 16, vgprs=96, lds=64 << 10)
    assert full.occupancy.limit == "lds" and full.occupancy.workgroups_per_wgp == 2


def test_cu_mode_gives_a_workgroup_half_a_processor() -> None:
    body = [f"v_fma_f32 v{i}, v{i}, v20, v21" for i in range(16)] * 4
    both, half = (clock(loop(body, 50), grid=48, block=256, wgp=wgp) for wgp in (True, False))
    assert half.cycles - half.launch_cycles > 1.8 * (both.cycles - both.launch_cycles)


def test_workgroups_beyond_a_multiple_of_the_processors_take_another_round() -> None:
    body = [f"v_fma_f32 v{i}, v{i}, v20, v21" for i in range(16)] * 4
    code = loop(body, 200)
    busy = {n: clock(code, grid=n, block=1024).cycles - c.DISPATCH_CYCLES for n in (48, 49, 96, 97)}
    assert busy[49] == pytest.approx(busy[96], rel=0.02) and busy[96] == pytest.approx(2 * busy[48], rel=0.1)
    assert busy[97] > busy[96]


def test_fewer_processors_take_longer() -> None:
    code = loop([f"v_fma_f32 v{i}, v{i}, v20, v21" for i in range(16)] * 4, 200)
    whole, half = (clock(code, grid=96, block=1024, chip=Chip(wgps=n)) for n in (48, 24))
    assert half.cycles - c.DISPATCH_CYCLES == pytest.approx(2 * (whole.cycles - c.DISPATCH_CYCLES), rel=0.02)
    assert half.peak == whole.peak / 2


# ---- what a clock must be


def test_the_same_number_again_and_by_either_executor(buffer: np.ndarray) -> None:
    code = memory_kernel(3)
    reports = [memory_clock(buffer, code, 300, executor=executor)
               for executor in ("interpreter", "jit", "jit", "interpreter")]
    assert all(r == reports[0] for r in reports)


def test_a_sample_leaves_no_trace(buffer: np.ndarray) -> None:
    """Atomic increments, in each executor: as many as ran."""
    code = code_of(["s_load_b64 s[4:5], s[0:1], 0x0", "v_mov_b32 v1, 0", "v_mov_b32 v2, 1", "s_waitcnt lgkmcnt(0)",
                    "global_atomic_add_u32 v3, v1, v2, s[4:5] glc", "s_waitcnt vmcnt(0)",
                    "v_lshlrev_b32 v3, 2, v3", "global_store_b32 v3, v2, s[4:5] offset:64", "s_endpgm"])
    buffer[:1000] = 0
    memory_clock(buffer, code, 3)
    assert buffer[0] == 3 * 256 and buffer[16:16 + 768].sum() == 768
    buffer[:1000] = 0


def test_long_loops_are_sampled_by_their_beginning() -> None:
    body = [f"v_fma_f32 v{i}, v{i}, v20, v21" for i in range(16)] * 4
    short, long = (clock(loop(body, n), grid=48 * 16, block=256) for n in (20, 400))
    assert short.scale == 1.0 and long.scale > 5
    assert (long.cycles - c.DISPATCH_CYCLES) / (short.cycles - c.DISPATCH_CYCLES) == pytest.approx(20, rel=0.03)


def test_faults_are_the_runs_own() -> None:
    with pytest.raises(isa.MemoryFault):
        clock(code_of(["v_mov_b32 v0, 0", "v_mov_b32 v1, 0", "global_load_b32 v2, v[0:1], off", "s_endpgm"]))


def looks(executor: str) -> np.ndarray:
    """SHADER_CYCLES before and after a chain of 32 dependent instructions, by each wave."""
    chain = ["v_fma_f32 v1, v1, v20, v21"] * 32
    code = code_of(["s_load_b64 s[4:5], s[0:1], 0x0", "s_waitcnt lgkmcnt(0)",
                    "s_getreg_b32 s6, hwreg(HW_REG_SHADER_CYCLES, 0, 20)", *chain, "v_readfirstlane_b32 s8, v1",
                    "s_getreg_b32 s7, hwreg(HW_REG_SHADER_CYCLES, 0, 20)", "s_sub_i32 s6, s7, s6",
                    "v_lshlrev_b32 v2, 2, v0", "v_mov_b32 v3, s6", "global_store_b32 v2, v3, s[4:5]", "s_endpgm"])
    out = np.zeros(64, np.uint32)
    clock(code, grid=1, block=64, kernarg=struct.pack("<Q", out.ctypes.data), executor=executor)
    return out


def test_code_that_looks_at_the_clock_sees_modelled_cycles() -> None:
    found = looks("interpreter")
    assert np.array_equal(found, looks("jit"))
    assert len(set(found.tolist())) == 1
    assert 32 * c.LATENCY["valu"] <= found[0] < 32 * c.LATENCY["valu"] + 16


def test_scalar_loads_go_through_their_own_cache() -> None:
    data = np.zeros(4096, np.uint8)
    aligned = -(-int(data.ctypes.data) // 64) * 64
    code = code_of(["s_load_b64 s[4:5], s[0:1], 0x0", "s_waitcnt lgkmcnt(0)", "s_load_b256 s[12:19], s[4:5], 0x0",
                    "s_load_b256 s[12:19], s[4:5], 0x20", "s_load_b32 s12, s[4:5], 0x40", "s_waitcnt lgkmcnt(0)",
                    "s_endpgm"])
    report = clock(code, grid=1, block=32, kernarg=struct.pack("<Q", aligned))
    assert report.transactions["scalar_lines"] == 4
    assert report.cycles - report.launch_cycles > 2 * c.SCALAR_LATENCY["vram"]
