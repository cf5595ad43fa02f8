"""Memory instructions: every space, width and misalignment; atomics; buffers; what faults say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mock.isa as isa
from mock.isa.access import Accessor, HostMemory

Assembler = Callable[[str], bytes]
RSRC1 = 7 | 0xf0 << 12 | 3 << 21
LANES = 32


def run(code: bytes, *pointers: np.ndarray, block: int = LANES, **options: Any) -> isa.Counts:
    """Pointers arrive in s[0:1], s[2:3], ..."""
    words = [w for p in pointers for w in (p.ctypes.data & 0xffffffff, p.ctypes.data >> 32)]
    options.setdefault("executor", "interpreter")
    return isa.run(code, grid=(1,), block=(block,), user_sgprs=words, rsrc1=RSRC1, rsrc2=len(words) << 1,
                   check_hazards=False, **options)


@pytest.mark.parametrize("shift", [0, 1, 2])
@pytest.mark.parametrize("dwords", [1, 2, 3, 4])
def test_global_widths_and_misalignment(assembler: Assembler, dwords: int, shift: int) -> None:
    rng = np.random.default_rng(dwords)
    source = rng.integers(0, 256, LANES * 16 + 16, dtype=np.uint8)
    target = np.zeros_like(source)
    register = "v4" if dwords == 1 else f"v[4:{3 + dwords}]"
    run(assembler(f"""v_lshlrev_b32_e32 v1, 4, v0
                      global_load_b{32 * dwords} {register}, v1, s[0:1] offset:{shift}
                      global_store_b{32 * dwords} v1, {register}, s[2:3] offset:{shift}
                      s_endpgm"""), source, target)
    expected = np.zeros_like(source)
    for lane in range(LANES):
        at = slice(16 * lane + shift, 16 * lane + shift + 4 * dwords)
        expected[at] = source[at]
    np.testing.assert_array_equal(target, expected)


def test_narrow_loads_extend_and_d16_keeps_the_other_half(assembler: Assembler) -> None:
    source = np.arange(0x70, 0x70 + 64, dtype=np.uint8)
    out = np.zeros((7, LANES), np.uint32)
    names = ("load_u8", "load_i8", "load_u16", "load_i16", "load_d16_u8", "load_d16_hi_i8", "load_d16_hi_b16")
    text = "v_lshlrev_b32_e32 v1, 1, v0\nv_lshlrev_b32_e32 v2, 2, v0\n"
    for i, name in enumerate(names):
        text += f"v_mov_b32_e32 v3, 0xdeadbeef\nglobal_{name} v3, v1, s[0:1]\n"
        text += f"global_store_b32 v2, v3, s[2:3] offset:{128 * i}\n"
    run(assembler(text + "s_endpgm"), source, out)
    byte, half = source[0::2], source.view(np.uint16)
    sbyte, shalf = byte.view(np.int8).astype(np.int32), half.view(np.int16).astype(np.int32)
    for row, want in zip(out, (byte, sbyte.view(np.uint32), half, shalf.view(np.uint32),
                               0xdead0000 | byte.astype(np.uint32), (sbyte.view(np.uint32) << 16) | 0xbeef,
                               half.astype(np.uint32) << 16 | 0xbeef), strict=True):
        np.testing.assert_array_equal(row, want)


def test_inactive_lanes_touch_nothing(assembler: Assembler) -> None:
    """Their addresses are poison: an access would fault."""
    out = np.zeros(LANES, np.uint32)
    run(assembler("""v_lshlrev_b32_e32 v1, 2, v0
                     v_cmpx_gt_u32_e32 5, v0
                     v_mov_b32_e32 v2, s0
                     v_mov_b32_e32 v3, s1
                     v_add_co_u32 v2, vcc_lo, v2, v1
                     v_add_co_ci_u32_e32 v3, vcc_lo, 0, v3, vcc_lo
                     global_store_b32 v[2:3], v1, off
                     s_mov_b32 exec_lo, 0
                     global_load_b32 v4, v[10:11], off
                     s_endpgm"""), out)
    np.testing.assert_array_equal(out, [4 * i if i < 5 else 0 for i in range(LANES)])


def test_scratch_is_interleaved_by_dword(assembler: Assembler) -> None:
    """A 64-bit store is two dwords a wave's width apart, as two 32-bit loads see it; a flat view agrees."""
    out = np.zeros((3, LANES), np.uint32)
    run(assembler("""v_lshlrev_b32_e32 v1, 2, v0
                     v_add_nc_u32_e32 v4, 100, v0
                     v_add_nc_u32_e32 v5, 200, v0
                     v_mov_b32_e32 v8, 0x44332211
                     scratch_store_b64 off, v[4:5], off offset:8
                     scratch_store_b32 off, v8, off offset:18
                     scratch_load_b32 v6, off, off offset:8
                     scratch_load_b32 v7, off, off offset:12
                     s_mov_b64 s[6:7], src_private_base
                     v_mov_b32_e32 v2, 17
                     v_mov_b32_e32 v3, s7
                     flat_load_b32 v9, v[2:3] offset:1
                     global_store_b32 v1, v6, s[0:1]
                     global_store_b32 v1, v7, s[0:1] offset:128
                     global_store_b32 v1, v9, s[0:1] offset:256
                     s_endpgm"""), out, scratch_bytes_per_lane=32)
    lane = np.arange(LANES)
    np.testing.assert_array_equal(out[0], 100 + lane)
    np.testing.assert_array_equal(out[1], 200 + lane)
    np.testing.assert_array_equal(out[2], np.full(LANES, 0x44332211))


def test_scratch_layout_in_memory(assembler: Assembler) -> None:
    memory = np.zeros(4096, np.uint8)
    code = np.frombuffer(assembler("scratch_store_b64 off, v[0:1], off offset:4\ns_endpgm").ljust(8192,
        b"\0"), np.uint8)
    base = -(-int(memory.ctypes.data) // 4) * 4
    dispatch = isa.Dispatch(code_address=int(code.ctypes.data), rsrc1=RSRC1, rsrc2=1, rsrc3=0, user_sgprs=(),
                            grid=(1, 1, 1), block=(32, 1, 1), scratch_address=base, scratch_wave_bytes=1024,
                            scratch_slots=1)
    if dispatch.code_address % 4 == 0:
        isa.execute(dispatch, HostMemory())
        words = memory[base - memory.ctypes.data:][:1024].view(np.uint32)
        np.testing.assert_array_equal(words[32:64], np.arange(32))          # dword 1 of lanes 0..31
        np.testing.assert_array_equal(words[64:96], np.full(32, 0xa5a5a5a5))    # dword 2: v1 was never written


def test_lds_widths_pairs_and_range(assembler: Assembler) -> None:
    out = np.zeros((4, LANES), np.uint32)
    run(assembler("""v_lshlrev_b32_e32 v1, 3, v0
                     v_lshlrev_b32_e32 v9, 2, v0
                     v_add_nc_u32_e32 v3, 1000, v0
                     ds_store_2addr_b32 v1, v0, v3 offset0:0 offset1:1
                     ds_load_b64 v[4:5], v1
                     ds_load_2addr_stride64_b32 v[6:7], v9 offset0:0 offset1:1
                     v_mov_b32_e32 v8, 0x10000
                     ds_load_b32 v8, v8
                     s_waitcnt lgkmcnt(0)
                     global_store_b32 v9, v4, s[0:1]
                     global_store_b32 v9, v5, s[0:1] offset:128
                     global_store_b32 v9, v6, s[0:1] offset:256
                     global_store_b32 v9, v8, s[0:1] offset:384
                     s_endpgm"""), out, lds_bytes=1024)
    lane = np.arange(LANES)
    np.testing.assert_array_equal(out[0], lane)
    np.testing.assert_array_equal(out[1], 1000 + lane)
    np.testing.assert_array_equal(out[2], np.where(lane % 2 == 0, lane // 2, 1000 + lane // 2))
    np.testing.assert_array_equal(out[3], 0)        # out of range reads as zero


INTEGER_ATOMICS: dict[str, Callable[[int, int], int]] = {
    "add_u32": lambda m, d: m + d, "sub_u32": lambda m, d: m - d, "min_u32": min, "max_u32": max,
    "and_b32": lambda m, d: m & d, "or_b32": lambda m, d: m | d, "xor_b32": lambda m, d: m ^ d,
    "inc_u32": lambda m, d: 0 if m >= d else m + 1, "dec_u32": lambda m, d: d if m == 0 or m > d else m - 1,
    "swap_b32": lambda m, d: d, "csub_u32": lambda m, d: max(m - d, 0)}


@pytest.mark.parametrize("spread", [1, 4, 32], ids=["one address", "four", "each its own"])
@pytest.mark.parametrize("name", sorted(INTEGER_ATOMICS))
def test_atomics_go_one_lane_after_the_other(assembler: Assembler, name: str, spread: int) -> None:
    rng = np.random.default_rng(len(name))
    memory = rng.integers(0, 2 ** 32, 32, dtype=np.uint32) >> np.uint32(8)
    data = rng.integers(0, 2 ** 32, LANES, dtype=np.uint32) >> np.uint32(8)
    old = np.zeros(LANES, np.uint32)
    want, returned = memory.copy(), []
    for lane in range(LANES):
        at = lane % spread
        returned.append(int(want[at]))
        want[at] = INTEGER_ATOMICS[name](int(want[at]), int(data[lane])) & 0xffffffff
    run(assembler(f"""v_lshlrev_b32_e32 v1, 2, v0
                      v_and_b32_e32 v2, {spread - 1}, v0
                      v_lshlrev_b32_e32 v2, 2, v2
                      global_load_b32 v3, v1, s[2:3]
                      global_atomic_{name} v4, v2, v3, s[0:1] glc
                      global_store_b32 v1, v4, s[4:5]
                      s_endpgm"""), memory, data, old)
    np.testing.assert_array_equal(memory, want)
    np.testing.assert_array_equal(old, returned)


def test_compare_and_swap_in_memory_and_lds(assembler: Assembler) -> None:
    """Lanes expect 0..31 in turn at one address: every one of them succeeds."""
    memory, old = np.zeros(1, np.uint64), np.zeros((2, LANES), np.uint32)
    run(assembler("""v_lshlrev_b32_e32 v1, 2, v0
                     v_mov_b32_e32 v2, 0
                     v_add_nc_u32_e32 v4, 1, v0
                     v_mov_b32_e32 v5, 0
                     v_mov_b32_e32 v6, v0
                     v_mov_b32_e32 v7, 0
                     global_atomic_cmpswap_b64 v[8:9], v2, v[4:7], s[0:1] glc
                     ds_store_b32 v2, v2
                     ds_cmpstore_rtn_b32 v10, v2, v4, v6
                     global_store_b32 v1, v8, s[2:3]
                     global_store_b32 v1, v10, s[2:3] offset:128
                     s_endpgm"""), memory, old, lds_bytes=64)
    assert memory[0] == LANES
    np.testing.assert_array_equal(old, [np.arange(LANES)] * 2)


def test_float_atomics_add_in_lane_order(assembler: Assembler) -> None:
    memory = np.array([1.0, 5.0], np.float32)
    run(assembler("""v_mov_b32_e32 v2, 0
                     v_cvt_f32_u32_e32 v3, v0
                     v_mul_f32_e32 v3, 0x3dcccccd, v3
                     global_atomic_add_f32 v2, v3, s[0:1]
                     global_atomic_max_f32 v2, v3, s[0:1] offset:4
                     s_endpgm"""), memory)
    want = np.float32(1.0)
    for lane in range(LANES):
        want = want + np.float32(lane) * np.float32(0.1)
    assert memory[0] == want and memory[1] == 5.0


def srd(array: np.ndarray, *, records: int, stride: int = 0, select: int = 3, form: int = 20) -> np.ndarray:
    """Buffer resource: base, stride, num_records, DST_SEL xyzw with a format and OOB_SELECT."""
    address = array.ctypes.data
    return np.array([address & 0xffffffff, address >> 32 | stride << 16, records,
                     0xfac | form << 12 | select << 28], np.uint32)


def run_buffer(code: bytes, words: np.ndarray, out: np.ndarray) -> None:
    user = [*(int(w) for w in words), out.ctypes.data & 0xffffffff, out.ctypes.data >> 32]
    isa.run(code, executor="interpreter", grid=(1,), block=(LANES,), user_sgprs=user, rsrc1=RSRC1, rsrc2=6 << 1,
            check_hazards=False)


def test_buffers_check_their_range(assembler: Assembler) -> None:
    source, out = np.arange(1, 33, dtype=np.uint32), np.full(LANES, 7, np.uint32)
    code = assembler("""v_lshlrev_b32_e32 v1, 2, v0
                        v_mov_b32_e32 v2, 9
                        buffer_load_b32 v2, v1, s[0:3], 0 offen
                        buffer_store_b32 v2, v1, s[0:3], 0 offen offset:16
                        global_store_b32 v1, v2, s[4:5]
                        s_endpgm""")
    run_buffer(code, srd(source, records=80), out)
    np.testing.assert_array_equal(out, [*range(1, 21), *([0] * 12)])
    np.testing.assert_array_equal(source, [1, 2, 3, 4, *range(1, 17), *range(21, 33)])


@pytest.mark.parametrize("executor", ["interpreter", "auto"])
def test_addresses_that_are_off_may_name_any_register(assembler: Assembler, executor: str) -> None:
    """ACO (Mesa 25.0) leaves v128 in the field where a buffer access has neither offen nor idxen; a wave of few
    registers runs it."""
    source, out = np.arange(1, 33, dtype=np.uint32), np.full(LANES, 7, np.uint32)
    code = bytearray(assembler("""buffer_load_b32 v2, off, s[0:3], 0 offset:8
                                  s_waitcnt vmcnt(0)
                                  v_lshlrev_b32_e32 v1, 2, v0
                                  global_store_b32 v1, v2, s[4:5]
                                  s_endpgm"""))
    assert code[4] == 0
    code[4] = 128
    user = [*(int(w) for w in srd(source, records=128)), out.ctypes.data & 0xffffffff, out.ctypes.data >> 32]
    isa.run(bytes(code), executor=executor, grid=(1,), block=(LANES,), user_sgprs=user, rsrc1=RSRC1 & ~0x3F,
            rsrc2=6 << 1)
    np.testing.assert_array_equal(out, 3)


@pytest.mark.parametrize("executor", ["interpreter", "auto"])
def test_waves_know_their_number(assembler: Assembler, executor: str) -> None:
    """TG_SIZE: how many waves the workgroup has, which one this is, and whether it is the first."""
    out = np.zeros((2, 4), np.uint32)
    code = assembler("""s_bfe_u32 s5, s3, 0x50014
                        s_lshl_b32 s5, s5, 2
                        s_lshl_b32 s6, s2, 4
                        s_add_u32 s5, s5, s6
                        v_mov_b32_e32 v1, s5
                        v_mov_b32_e32 v2, s3
                        global_store_b32 v1, v2, s[0:1]
                        s_endpgm""")
    user = [out.ctypes.data & 0xffffffff, out.ctypes.data >> 32]
    isa.run(code, executor=executor, grid=(2,), block=(4 * LANES,), user_sgprs=user, rsrc1=RSRC1,
            rsrc2=2 << 1 | 1 << 7 | 1 << 10)
    np.testing.assert_array_equal(out, [[1 << 31 | 4, 1 << 20 | 4, 2 << 20 | 4, 3 << 20 | 4]] * 2)


def test_structured_buffers_and_formats(assembler: Assembler) -> None:
    source, out = np.arange(64, dtype=np.uint8), np.zeros((4, LANES), np.float32)
    code = assembler("""v_lshlrev_b32_e32 v1, 2, v0
                        v_and_b32_e32 v2, 15, v0
                        buffer_load_format_xyzw v[4:7], v2, s[0:3], 0 idxen
                        global_store_b32 v1, v4, s[4:5]
                        global_store_b32 v1, v5, s[4:5] offset:128
                        global_store_b32 v1, v6, s[4:5] offset:256
                        global_store_b32 v1, v7, s[4:5] offset:384
                        s_endpgm""")
    run_buffer(code, srd(source, records=10, stride=4, select=1, form=42), out)      # 8_8_8_8_UNORM
    index = np.arange(LANES) % 16
    for component in range(4):
        want = np.where(index < 10, (4 * index + component) / 255.0, 0)
        np.testing.assert_array_equal(out[component], want.astype(np.float32))


def test_scalar_loads(assembler: Assembler) -> None:
    source, out = np.arange(32, dtype=np.uint32) * 3, np.zeros(1, np.uint32)
    run(assembler("""s_mov_b32 s20, 8
                     s_load_b256 s[8:15], s[0:1], s20 offset:0x10
                     s_load_b32 s16, s[0:1], 0x4
                     s_add_u32 s16, s16, s8
                     s_add_u32 s16, s16, s15
                     v_mov_b32_e32 v1, s16
                     v_mov_b32_e32 v2, 0
                     global_store_b32 v2, v1, s[2:3]
                     s_endpgm"""), source, out)
    assert out[0] == 3 + 18 + 39


def test_bad_pointer_names_pc_and_instruction(assembler: Assembler) -> None:
    with pytest.raises(isa.MemoryFault, match=r"write of 4 bytes at 0x10: no writable memory of this") as caught:
        run(assembler("v_mov_b32_e32 v2, 16\nv_mov_b32_e32 v3, 0\nglobal_store_b32 v[2:3], v0, off\ns_endpgm"))
    assert any("global_store_b32 v[2:3], v0, off" in note and note.startswith("at pc 0x")
        for note in caught.value.__notes__)


@pytest.mark.parametrize(("text", "error", "message"), [
    ("s_nop 0\ns_trap 2", isa.Trap, "s_trap 2 at pc 0x.* assertion or __builtin_trap"),
    ("s_nop 0\ns_code_end", isa.IllegalInstruction, "ran off the end of the kernel"),
    ("image_sample v[0:3], v[4:5], s[8:15], s[4:7] dmask:0xf dim:SQ_RSRC_IMG_2D\ns_endpgm", isa.IllegalInstruction,
     "image_sample: no image unit"),
    ("exp mrt0 v0, v1, v2, v3 done\ns_endpgm", isa.IllegalInstruction, "exp: no export unit"),
    ("s_rfe_b64 s[0:1]", isa.IllegalInstruction, "only a trap handler may do that"),
    ("s_getreg_b32 s0, hwreg(40)\ns_endpgm", isa.IllegalInstruction, "gfx11 has no hardware register 40"),
    ("v_mov_b32_e32 v200, 0\ns_endpgm", isa.IllegalInstruction, "v200 is beyond the wave's 72 VGPRs"),
])
def test_what_cannot_run_says_so(assembler: Assembler, text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run(assembler(text))


def test_accesses_never_cross_a_page_in_translate() -> None:
    seen = []

    class Watch(HostMemory):
        def translate(self, addresses: np.ndarray, nbytes: int, write: bool) -> np.ndarray:
            seen.append(((addresses & np.uint64(4095)) + np.uint64(nbytes)).max())
            return super().translate(addresses, nbytes, write)
    buffer = np.arange(4096, dtype=np.uint32)
    accessor = Accessor(Watch())
    start = int(buffer.ctypes.data)
    edge = np.array([-start % 4096 + start - 8, -start % 4096 + start - 2], np.uint64)
    for addresses in (edge[:1], edge):
        values = accessor.load(addresses, np.uint32, 4)
        accessor.store(addresses, values)
    assert max(seen) <= 4096
    np.testing.assert_array_equal(buffer, np.arange(4096))


def test_a_hung_wave_is_named(assembler: Assembler) -> None:
    message = r"2 waves have run for 0.05 s; one is at pc 0x[0-9a-f]+: s_branch 65535; wave 0 of workgroup 0"
    with pytest.raises(isa.HungWave, match=message):
        run(assembler("s_branch 65535\ns_endpgm"), block=64, watchdog=0.05)
