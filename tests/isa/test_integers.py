"""Integer, bit, scalar and packed instructions against plain Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from lab import WAVES, Lab, floats, integers

Assembler = Callable[[str], bytes]
SHAPE = (32, WAVES)
M32, M64, M16 = 2 ** 32 - 1, 2 ** 64 - 1, 2 ** 16 - 1


def signed(x: int, bits: int = 32) -> int:
    x &= (1 << bits) - 1
    return x - (1 << bits) if x >> bits - 1 else x


def sat(x: int, low: int, high: int) -> int:
    return max(low, min(high, x))


def byte(x: int, i: int) -> int:
    return x >> 8 * i & 255


def sad(a: int, b: int) -> int:
    return sum(abs(byte(a, i) - byte(b, i)) for i in range(4))


def perm(a: int, b: int, s: int) -> int:
    data, out = a << 32 | b, 0
    for i in range(4):
        c = byte(s, i)
        if c >= 13:
            value = 255
        elif c == 12:
            value = 0
        elif c >= 8:
            value = 255 if data >> (16 * (c - 8) + 15) & 1 else 0
        else:
            value = byte(data, c)
        out |= value << 8 * i
    return out


def bfe_i(a: int, offset: int, width: int) -> int:
    offset, width = offset & 31, width & 31
    return 0 if not width else signed((signed(a) >> offset) & ((1 << width) - 1), width)


def med(a: int, b: int, c: int) -> int:
    return sorted((a, b, c))[1]


def clz(x: int, bits: int = 32) -> int:
    return bits - x.bit_length() if x else -1


def cls_(x: int, bits: int = 32) -> int:
    y = ~signed(x, bits) if x >> bits - 1 else x
    return bits - y.bit_length() if y else -1


# assembly with v2, v3, v4 as sources and v8 as destination -> the result
VECTOR_32: dict[str, Callable[[int, int, int], int]] = {
    "v_add_nc_u32 v8, v2, v3": lambda a, b, c: a + b, "v_sub_nc_u32 v8, v2, v3": lambda a, b, c: a - b,
    "v_subrev_nc_u32 v8, v2, v3": lambda a, b, c: b - a, "v_mul_lo_u32 v8, v2, v3": lambda a, b, c: a * b,
    "v_mul_hi_u32 v8, v2, v3": lambda a, b, c: a * b >> 32,
    "v_mul_hi_i32 v8, v2, v3": lambda a, b, c: signed(a) * signed(b) >> 32,
    "v_mul_u32_u24 v8, v2, v3": lambda a, b, c: (a & 0xffffff) * (b & 0xffffff),
    "v_mul_hi_u32_u24 v8, v2, v3": lambda a, b, c: (a & 0xffffff) * (b & 0xffffff) >> 32,
    "v_mul_i32_i24 v8, v2, v3": lambda a, b, c: signed(a, 24) * signed(b, 24),
    "v_mul_hi_i32_i24 v8, v2, v3": lambda a, b, c: signed(a, 24) * signed(b, 24) >> 32,
    "v_mad_u32_u24 v8, v2, v3, v4": lambda a, b, c: (a & 0xffffff) * (b & 0xffffff) + c,
    "v_mad_u32_u24 v8, v2, v3, v4 clamp": lambda a, b, c: sat((a & 0xffffff) * (b & 0xffffff) + c, 0, M32),
    "v_mad_i32_i24 v8, v2, v3, v4": lambda a, b, c: signed(a, 24) * signed(b, 24) + c,
    "v_add_nc_u32_e64 v8, v2, v3 clamp": lambda a, b, c: sat(a + b, 0, M32),
    "v_sub_nc_u32_e64 v8, v2, v3 clamp": lambda a, b, c: sat(a - b, 0, M32),
    "v_add_nc_i32 v8, v2, v3 clamp": lambda a, b, c: sat(signed(a) + signed(b), -2 ** 31, 2 ** 31 - 1),
    "v_sub_nc_i32 v8, v2, v3 clamp": lambda a, b, c: sat(signed(a) - signed(b), -2 ** 31, 2 ** 31 - 1),
    "v_min_i32 v8, v2, v3": lambda a, b, c: min(signed(a), signed(b)), "v_max_u32 v8, v2, v3": lambda a, b,
    c: max(a, b),
    "v_min3_i32 v8, v2, v3, v4": lambda a, b, c: min(signed(a), signed(b), signed(c)),
    "v_max3_u32 v8, v2, v3, v4": lambda a, b, c: max(a, b, c),
    "v_med3_i32 v8, v2, v3, v4": lambda a, b, c: med(signed(a), signed(b), signed(c)),
    "v_med3_u32 v8, v2, v3, v4": med, "v_maxmin_u32 v8, v2, v3, v4": lambda a, b, c: min(max(a, b), c),
    "v_minmax_i32 v8, v2, v3, v4": lambda a, b, c: max(min(signed(a), signed(b)), signed(c)),
    "v_add3_u32 v8, v2, v3, v4": lambda a, b, c: a + b + c, "v_xad_u32 v8, v2, v3, v4": lambda a, b, c: (a ^ b) + c,
    "v_lshl_add_u32 v8, v2, v3, v4": lambda a, b, c: (a << (b & 31)) + c,
    "v_add_lshl_u32 v8, v2, v3, v4": lambda a, b, c: (a + b & M32) << (c & 31),
    "v_lshl_or_b32 v8, v2, v3, v4": lambda a, b, c: a << (b & 31) | c,
    "v_and_or_b32 v8, v2, v3, v4": lambda a, b, c: a & b | c, "v_or3_b32 v8, v2, v3, v4": lambda a, b, c: a | b | c,
    "v_xor3_b32 v8, v2, v3, v4": lambda a, b, c: a ^ b ^ c, "v_xnor_b32 v8, v2, v3": lambda a, b, c: ~(a ^ b),
    "v_lshlrev_b32 v8, v2, v3": lambda a, b, c: b << (a & 31), "v_lshrrev_b32 v8, v2, v3": lambda a, b,
    c: b >> (a & 31),
    "v_ashrrev_i32 v8, v2, v3": lambda a, b, c: signed(b) >> (a & 31),
    "v_bfe_u32 v8, v2, v3, v4": lambda a, b, c: a >> (b & 31) & ((1 << (c & 31)) - 1),
    "v_bfe_i32 v8, v2, v3, v4": bfe_i, "v_bfi_b32 v8, v2, v3, v4": lambda a, b, c: a & b | ~a & c,
    "v_bfm_b32 v8, v2, v3": lambda a, b, c: ((1 << (a & 31)) - 1) << (b & 31),
    "v_alignbit_b32 v8, v2, v3, v4": lambda a, b, c: (a << 32 | b) >> (c & 31),
    "v_alignbyte_b32 v8, v2, v3, v4": lambda a, b, c: (a << 32 | b) >> 8 * (c & 3),
    "v_perm_b32 v8, v2, v3, v4": perm, "v_bfrev_b32 v8, v2": lambda a, b, c: int(f"{a:032b}"[::-1], 2),
    "v_clz_i32_u32 v8, v2": lambda a, b, c: clz(a), "v_cls_i32 v8, v2": lambda a, b, c: cls_(a),
    "v_ctz_i32_b32 v8, v2": lambda a, b, c: (a & -a).bit_length() - 1,
    "v_bcnt_u32_b32 v8, v2, v3": lambda a, b, c: a.bit_count() + b,
    "v_sad_u8 v8, v2, v3, v4": lambda a, b, c: sad(a, b) + c, "v_sad_hi_u8 v8, v2, v3, v4": lambda a, b,
    c: (sad(a, b) << 16) + c,
    "v_sad_u16 v8, v2, v3, v4": lambda a, b, c: abs((a & M16) - (b & M16)) + abs((a >> 16) - (b >> 16)) + c,
    "v_sad_u32 v8, v2, v3, v4": lambda a, b, c: abs(a - b) + c,
    "v_msad_u8 v8, v2, v3, v4": lambda a, b, c: sum(abs(byte(a, i) - byte(b, i)) for i in range(4) if byte(b, i)) + c,
    "v_lerp_u8 v8, v2, v3, v4": lambda a, b, c: sum(
        (byte(a, i) + byte(b, i) + (byte(c, i) & 1) >> 1) << 8 * i for i in range(4)),
    "v_mad_u32_u16 v8, v2, v3, v4": lambda a, b, c: (a & M16) * (b & M16) + c,
    "v_mad_i32_i16 v8, v2, v3, v4": lambda a, b, c: signed(a, 16) * signed(b, 16) + c,
    "v_cvt_pk_u16_u32 v8, v2, v3": lambda a, b, c: min(a, M16) | min(b, M16) << 16,
    "v_cvt_pk_i16_i32 v8, v2, v3": lambda a, b, c: (sat(signed(a), -32768, 32767) & M16)
    | (sat(signed(b), -32768, 32767) & M16) << 16,
    "v_pack_b32_f16 v8, v2, v3": lambda a, b, c: a & M16 | (b & M16) << 16,
    "v_pack_b32_f16 v8, v2, v3 op_sel:[1,0,0]": lambda a, b, c: a >> 16 | (b & M16) << 16,
    "v_dot4_u32_u8 v8, v2, v3, v4": lambda a, b, c: sum(byte(a, i) * byte(b, i) for i in range(4)) + c,
    "v_dot4_i32_iu8 v8, v2, v3, v4 neg_lo:[1,0,0]": lambda a, b, c: sum(
        signed(byte(a, i), 8) * byte(b, i) for i in range(4)) + c,
    "v_dot4_i32_iu8 v8, v2, v3, v4 neg_lo:[1,1,0] clamp": lambda a, b, c: sat(sum(
        signed(byte(a, i), 8) * signed(byte(b, i), 8) for i in range(4)) + signed(c), -2 ** 31, 2 ** 31 - 1),
    "v_dot8_u32_u4 v8, v2, v3, v4": lambda a, b, c: sum((a >> 4 * i & 15) * (b >> 4 * i & 15) for i in range(8)) + c,
    "v_dot8_i32_iu4 v8, v2, v3, v4 neg_lo:[1,1,0]": lambda a, b, c: sum(
        signed(a >> 4 * i, 4) * signed(b >> 4 * i, 4) for i in range(8)) + c,
    "v_pk_add_u16 v8, v2, v3": lambda a, b, c: (a + b & M16) | ((a >> 16) + (b >> 16) & M16) << 16,
    "v_pk_add_u16 v8, v2, v3 clamp": lambda a, b, c: min((a & M16) + (b & M16), M16) | min((a >> 16)
    + (b >> 16), M16) << 16,
    "v_pk_sub_i16 v8, v2, v3 clamp": lambda a, b, c: (sat(signed(a, 16) - signed(b, 16), -32768, 32767) & M16)
    | (sat(signed(a >> 16, 16) - signed(b >> 16, 16), -32768, 32767) & M16) << 16,
    "v_pk_add_u16 v8, v2, v3 op_sel:[1,0] op_sel_hi:[0,0]": lambda a, b, c: ((a >> 16) + b & M16) | (a + b & M16) << 16,
    "v_pk_add_i16 v8, v2, -1": lambda a, b, c: (a - 1 & M16) | ((a >> 16) - 1 & M16) << 16,
    "v_pk_mad_u16 v8, v2, v3, v4": lambda a, b, c: (a * b + c & M16)
    | ((a >> 16) * (b >> 16) + (c >> 16) & M16) << 16,
    "v_pk_mul_lo_u16 v8, v2, v3": lambda a, b, c: (a * b & M16) | ((a >> 16) * (b >> 16) & M16) << 16,
    "v_pk_lshlrev_b16 v8, v2, v3": lambda a, b, c: (b << (a & 15) & M16) | ((b >> 16) << (a >> 16 & 15) & M16) << 16,
    "v_pk_ashrrev_i16 v8, v2, v3": lambda a, b, c: (signed(b, 16) >> (a & 15) & M16)
    | (signed(b >> 16, 16) >> (a >> 16 & 15) & M16) << 16,
    "v_pk_min_i16 v8, v2, v3": lambda a, b, c: (min(signed(a, 16), signed(b, 16)) & M16)
    | (min(signed(a >> 16, 16), signed(b >> 16, 16)) & M16) << 16,
}

# 16-bit results keep the register's other half (0xdead, or 0xbeef of the lower).
VECTOR_16: dict[str, Callable[[int, int, int], int]] = {
    "v_add_nc_u16 v8, v2, v3": lambda a, b, c: 0xdead << 16 | a + b & M16,
    "v_add_nc_u16 v8, v2, v3 op_sel:[1,0,1]": lambda a, b, c: ((a >> 16) + b & M16) << 16 | 0xbeef,
    "v_sub_nc_i16 v8, v2, v3 clamp": lambda a, b, c: 0xdead << 16
    | sat(signed(a, 16) - signed(b, 16), -32768, 32767) & M16,
    "v_mul_lo_u16 v8, v2, v3": lambda a, b, c: 0xdead << 16 | a * b & M16,
    "v_mad_u16 v8, v2, v3, v4": lambda a, b, c: 0xdead << 16 | a * b + c & M16,
    "v_lshlrev_b16 v8, v2, v3": lambda a, b, c: 0xdead << 16 | b << (a & 15) & M16,
    "v_ashrrev_i16 v8, v2, v3": lambda a, b, c: 0xdead << 16 | signed(b, 16) >> (a & 15) & M16,
    "v_min_i16 v8, v2, v3": lambda a, b, c: 0xdead << 16 | min(signed(a, 16), signed(b, 16)) & M16,
    "v_max3_u16 v8, v2, v3, v4": lambda a, b, c: 0xdead << 16 | max(a & M16, b & M16, c & M16),
    "v_not_b16 v8, v2": lambda a, b, c: 0xdead << 16 | ~a & M16,
}


@pytest.mark.parametrize("cases", [VECTOR_32, VECTOR_16], ids=["32", "16"])
def test_vector_integers(assembler: Assembler, cases: dict[str, Callable[[int, int, int], int]]) -> None:
    rng = np.random.default_rng(1)
    sources = [integers(rng, 32, SHAPE) for _ in range(3)]
    wrong = []
    for text, model in cases.items():
        lab = Lab()
        for register, values in zip((2, 3, 4), sources, strict=True):
            lab.state.vgpr[register] = values
        lab.run(assembler(text))
        want = np.array([model(int(a), int(b), int(c)) & M32 for a, b, c in
                         zip(*(s.flat for s in sources), strict=True)], np.uint32).reshape(SHAPE)
        bad = np.argwhere(lab.state.vgpr[8] != want)
        if len(bad):
            at = tuple(bad[0])
            wrong.append(f"{text}: {len(bad)} differ, {[hex(int(s[at])) for s in sources]} gave "
                         f"{int(lab.state.vgpr[8][at]):#x}, not {int(want[at]):#x}")
    assert not wrong, "\n".join(wrong)


def test_vector_integers_of_64_bits(assembler: Assembler) -> None:
    rng = np.random.default_rng(2)
    a, b, n = integers(rng, 64, SHAPE), integers(rng, 64, SHAPE), integers(rng, 32, SHAPE)
    m = integers(rng, 32, SHAPE)
    cases: dict[str, Callable[[int, int, int, int], int]] = {
        "v_lshlrev_b64 v[8:9], v6, v[2:3]": lambda a, b, n, m: a << (n & 63),
        "v_lshrrev_b64 v[8:9], v6, v[2:3]": lambda a, b, n, m: a >> (n & 63),
        "v_ashrrev_i64 v[8:9], v6, v[2:3]": lambda a, b, n, m: signed(a, 64) >> (n & 63),
        "v_mad_u64_u32 v[8:9], s4, v6, v7, v[2:3]": lambda a, b, n, m: n * m + a,
        "v_mad_i64_i32 v[8:9], s4, v6, v7, v[2:3]": lambda a, b, n, m: signed(n) * signed(m) + a}
    for text, model in cases.items():
        lab = Lab()
        lab.set64(2, a)
        lab.set64(4, b)
        lab.state.vgpr[6], lab.state.vgpr[7] = n, m
        lab.run(assembler(text))
        want = np.array([model(int(x), int(y), int(k), int(j)) & M64 for x, y, k, j in
                         zip(a.flat, b.flat, n.flat, m.flat, strict=True)], np.uint64).reshape(SHAPE)
        np.testing.assert_array_equal(lab.get64(8), want, err_msg=text)
        if "mad_u64" in text:
            carry = np.array([(int(k) * int(j) + int(x)) >> 64 for x, k, j in zip(a.flat, n.flat, m.flat, strict=True)])
            np.testing.assert_array_equal(lab.state.read_mask(4), carry.reshape(SHAPE) != 0)


def test_carry_chains(assembler: Assembler) -> None:
    rng = np.random.default_rng(3)
    a, b = integers(rng, 64, SHAPE), integers(rng, 64, SHAPE)
    lab = Lab()
    lab.set64(2, a)
    lab.set64(4, b)
    lab.run(assembler("""v_add_co_u32 v8, vcc_lo, v2, v4
                         v_add_co_ci_u32_e32 v9, vcc_lo, v3, v5, vcc_lo
                         v_sub_co_u32 v10, s6, v2, v4
                         v_sub_co_ci_u32_e64 v11, s7, v3, v5, s6"""))
    np.testing.assert_array_equal(lab.get64(8), a + b)
    np.testing.assert_array_equal(lab.get64(10), a - b)
    np.testing.assert_array_equal(lab.state.read_mask(7), a < b)
    np.testing.assert_array_equal(lab.state.read_mask(106), a + b < a)


def bfe(bits: int, sign: bool) -> Callable[[int, int], int]:
    def model(a: int, field: int) -> int:
        offset, width = field & bits - 1, min(field >> 16 & 127, bits)
        if not width:
            return 0
        value = (signed(a, bits) if sign else a) >> offset & (1 << width) - 1
        return signed(value, width) if sign else value
    return model


def quad(a: int, bits: int) -> int:
    return sum((a >> 4 * i & 15 != 0) << i for i in range(bits // 4))


# sources s4, s5 -> s8 and, where it is told, SCC
SCALAR_32: dict[str, tuple[Callable[[int, int], int], Callable[[int, int], bool] | None]] = {
    "s_add_u32 s8, s4, s5": (lambda a, b: a + b, lambda a, b: a + b > M32),
    "s_sub_u32 s8, s4, s5": (lambda a, b: a - b, lambda a, b: a < b),
    "s_add_i32 s8, s4, s5": (lambda a, b: a + b, lambda a, b: not -2 ** 31 <= signed(a) + signed(b) < 2 ** 31),
    "s_sub_i32 s8, s4, s5": (lambda a, b: a - b, lambda a, b: not -2 ** 31 <= signed(a) - signed(b) < 2 ** 31),
    "s_absdiff_i32 s8, s4, s5": (lambda a, b: abs(signed(signed(a) - signed(b))), None),
    "s_lshl_b32 s8, s4, s5": (lambda a, b: a << (b & 31), lambda a, b: a << (b & 31) & M32 != 0),
    "s_ashr_i32 s8, s4, s5": (lambda a, b: signed(a) >> (b & 31), lambda a, b: signed(a) >> (b & 31) != 0),
    "s_lshl3_add_u32 s8, s4, s5": (lambda a, b: (a << 3) + b, lambda a, b: (a << 3) + b > M32),
    "s_min_i32 s8, s4, s5": (lambda a, b: min(signed(a), signed(b)), lambda a, b: signed(a) < signed(b)),
    "s_max_u32 s8, s4, s5": (max, lambda a, b: a >= b),
    "s_and_not1_b32 s8, s4, s5": (lambda a, b: a & ~b, lambda a, b: a & ~b != 0),
    "s_xnor_b32 s8, s4, s5": (lambda a, b: ~(a ^ b), lambda a, b: a ^ b != M32),
    "s_bfe_u32 s8, s4, s5": (bfe(32, False), lambda a, b: bfe(32, False)(a, b) != 0),
    "s_bfe_i32 s8, s4, s5": (bfe(32, True), lambda a, b: bfe(32, True)(a, b) != 0),
    "s_bfm_b32 s8, s4, s5": (lambda a, b: ((1 << (a & 31)) - 1) << (b & 31), None),
    "s_mul_i32 s8, s4, s5": (lambda a, b: a * b, None), "s_mul_hi_u32 s8, s4, s5": (lambda a, b: a * b >> 32, None),
    "s_mul_hi_i32 s8, s4, s5": (lambda a, b: signed(a) * signed(b) >> 32, None),
    "s_pack_hl_b32_b16 s8, s4, s5": (lambda a, b: a >> 16 | (b & M16) << 16, None),
    "s_pack_lh_b32_b16 s8, s4, s5": (lambda a, b: a & M16 | b & 0xffff0000, None),
    "s_brev_b32 s8, s4": (lambda a, b: int(f"{a:032b}"[::-1], 2), None),
    "s_ctz_i32_b32 s8, s4": (lambda a, b: (a & -a).bit_length() - 1, None),
    "s_clz_i32_u32 s8, s4": (lambda a, b: clz(a), None),
    "s_cls_i32 s8, s4": (lambda a, b: cls_(a), None), "s_sext_i32_i8 s8, s4": (lambda a, b: signed(a, 8), None),
    "s_bcnt0_i32_b32 s8, s4": (lambda a, b: 32 - a.bit_count(), lambda a, b: a != M32),
    "s_quadmask_b32 s8, s4": (lambda a, b: quad(a, 32), lambda a, b: a != 0),
    "s_wqm_b32 s8, s4": (lambda a, b: sum((15 if quad(a, 32) >> i & 1 else 0) << 4 * i for i in range(8)), None),
    "s_abs_i32 s8, s4": (lambda a, b: abs(signed(a)), lambda a, b: a != 0),
    "s_cmp_lt_i32 s4, s5": (lambda a, b: 0xcafef00d, lambda a, b: signed(a) < signed(b)),
    "s_bitcmp1_b32 s4, s5": (lambda a, b: 0xcafef00d, lambda a, b: bool(a >> (b & 31) & 1)),
    "s_cmpk_gt_u32 s4, 0xfff0": (lambda a, b: 0xcafef00d, lambda a, b: a > 0xfff0),
    "s_cmpk_lt_i32 s4, 0xfff0": (lambda a, b: 0xcafef00d, lambda a, b: signed(a) < -16),
    "s_movk_i32 s8, 0x8001": (lambda a, b: -0x7fff, None),
    "s_mov_b32 s8, 0.5": (lambda a, b: 0x3f000000, None), "s_mov_b32 s8, -16": (lambda a, b: -16, None),
}

# sources s[4:5], s[6:7] -> s[8:9]
SCALAR_64: dict[str, Callable[[int, int], int]] = {
    "s_lshl_b64 s[8:9], s[4:5], s6": lambda a, b: a << (b & 63), "s_lshr_b64 s[8:9], s[4:5], s6": lambda a,
    b: a >> (b & 63),
    "s_ashr_i64 s[8:9], s[4:5], s6": lambda a, b: signed(a, 64) >> (b & 63),
    "s_nand_b64 s[8:9], s[4:5], s[6:7]": lambda a, b: ~(a & b), "s_bfe_u64 s[8:9], s[4:5], s6": lambda a,
    b: bfe(64, False)(a, b & M32),
    "s_bfe_i64 s[8:9], s[4:5], s6": lambda a, b: bfe(64, True)(a, b & M32),
    "s_brev_b64 s[8:9], s[4:5]": lambda a, b: int(f"{a:064b}"[::-1], 2),
    "s_bitreplicate_b64_b32 s[8:9], s4": lambda a, b: sum((3 if a >> i & 1 else 0) << 2 * i for i in range(32)),
    "s_quadmask_b64 s[8:9], s[4:5]": lambda a, b: quad(a, 64),
    "s_bitset1_b64 s[8:9], s4": lambda a, b: 0xcafef00dcafef00d | 1 << (a & 63),
    "s_mov_b64 s[8:9], 0xdeadbeef": lambda a, b: 0xdeadbeef, "s_mov_b64 s[8:9], -3": lambda a, b: -3,
    "s_mov_b64 s[8:9], 1.0": lambda a, b: 0x3ff0000000000000,
}


def test_scalar_instructions(assembler: Assembler) -> None:
    rng = np.random.default_rng(4)
    waves = 256
    a, b = integers(rng, 32, (waves,)), integers(rng, 32, (waves,))
    wrong = []
    for text, (model, condition) in SCALAR_32.items():
        lab = Lab(waves=waves)
        lab.state.sgpr[4], lab.state.sgpr[5] = a, b
        lab.run(assembler(text))
        want = np.array([model(int(x), int(y)) & M32 for x, y in zip(a, b, strict=True)], np.uint32)
        if (lab.state.sgpr[8] != want).any():
            i = np.flatnonzero(lab.state.sgpr[8] != want)[0]
            wrong.append(f"{text}: {a[i]:#x}, {b[i]:#x} gave {lab.state.sgpr[8, i]:#x}, not {want[i]:#x}")
        if condition is not None and (lab.state.scc != [condition(int(x), int(y)) for x, y in zip(a, b,
            strict=True)]).any():
            wrong.append(f"{text}: SCC")
    x, y = integers(rng, 64, (waves,)), integers(rng, 64, (waves,))
    for text, wide in SCALAR_64.items():
        lab = Lab(waves=waves)
        lab.state.write_sgpr64(4, x)
        lab.state.write_sgpr64(6, y)
        lab.run(assembler(text))
        want = np.array([wide(int(p), int(q)) & M64 for p, q in zip(x, y, strict=True)], np.uint64)
        if (lab.state.read_sgpr64(8) != want).any():
            i = np.flatnonzero(lab.state.read_sgpr64(8) != want)[0]
            wrong.append(f"{text}: {x[i]:#x}, {y[i]:#x} gave {lab.state.read_sgpr64(8)[i]:#x}, not {want[i]:#x}")
    assert not wrong, "\n".join(wrong)


def test_scalar_carries_and_conditional_moves(assembler: Assembler) -> None:
    rng = np.random.default_rng(5)
    a, b = integers(rng, 64, (64,)), integers(rng, 64, (64,))
    lab = Lab(waves=64)
    lab.state.write_sgpr64(4, a)
    lab.state.write_sgpr64(6, b)
    lab.run(assembler("""s_add_u32 s8, s4, s6
                         s_addc_u32 s9, s5, s7
                         s_cselect_b32 s12, s4, s6
                         s_sub_u32 s10, s4, s6
                         s_subb_u32 s11, s5, s7
                         s_cmov_b32 s13, s4"""))
    np.testing.assert_array_equal(lab.state.read_sgpr64(8), a + b)
    np.testing.assert_array_equal(lab.state.read_sgpr64(10), a - b)
    np.testing.assert_array_equal(lab.state.sgpr[12], np.where(a + b < a, a, b).astype(np.uint32))
    np.testing.assert_array_equal(lab.state.sgpr[13], np.where(a < b, a & np.uint64(M32), np.uint64(0xcafef00d)))


def test_exec_writes_and_exec_zero(assembler: Assembler) -> None:
    lab = Lab(waves=2)
    lab.state.vgpr[2] = lab.state.lane_ids
    lab.run(assembler("""s_mov_b32 s4, 0xff00
                         s_and_saveexec_b32 s5, s4
                         v_mov_b32 v3, 7
                         s_or_b32 exec_lo, exec_lo, s5
                         v_cmpx_gt_u32_e32 4, v2
                         v_mov_b32 v4, 9
                         v_cmp_lt_u32_e32 vcc_lo, 1, v2"""))
    s = lab.state
    np.testing.assert_array_equal(s.vgpr[3, :, 0], [7 if 8 <= i < 16 else 0xdeadbeef for i in range(32)])
    np.testing.assert_array_equal(s.vgpr[4, :, 1], [9 if i < 4 else 0xdeadbeef for i in range(32)])
    assert list(s.sgpr[5]) == [M32, M32] and list(s.sgpr[126]) == [15, 15]
    assert list(s.sgpr[106]) == [12, 12]        # inactive lanes give 0
    lab = Lab(waves=1)
    lab.state.vgpr[2] = lab.state.lane_ids + 100
    lab.exec_zero()
    lab.run(assembler("""v_mov_b32 v3, 7
                         v_readfirstlane_b32 s4, v2
                         v_readlane_b32 s5, v2, 3
                         v_writelane_b32 v2, 77, 5
                         v_cmp_eq_u32_e32 vcc_lo, v2, v2"""))
    s = lab.state
    assert (s.vgpr[3] == 0xdeadbeef).all(), "no lane is written"
    assert [int(s.sgpr[4, 0]), int(s.sgpr[5, 0]), int(s.vgpr[2, 5, 0]), int(s.sgpr[106, 0])] == [100, 103, 77, 0]


def test_halves_as_floats(assembler: Assembler) -> None:
    """fma_mix picks f32 or either half by op_sel_hi and op_sel; packed FMA negates halves apart."""
    rng = np.random.default_rng(6)
    x, y = (floats(rng, np.float16, (32, 2 * WAVES)) for _ in range(2))
    x, y = (np.where(np.abs(v.astype(np.float64)) < 100, v, np.float16(1.5)) for v in (x, y))
    z = rng.standard_normal(SHAPE).astype(np.float32)
    lab = Lab()
    lab.state.vgpr[2], lab.state.vgpr[3], lab.state.vf[4] = x.view(np.uint32), y.view(np.uint32), z
    lab.run(assembler("""v_fma_mix_f32 v8, v2, -v3, v4 op_sel:[1,0,0] op_sel_hi:[1,1,0]
                         v_fma_mixlo_f16 v9, v2, v3, |v4| op_sel_hi:[1,1,0]
                         v_fma_mixhi_f16 v9, v4, v3, v2 op_sel:[0,1,1] op_sel_hi:[0,1,1]
                         v_pk_mul_f16 v10, v2, v3 neg_lo:[1,0] neg_hi:[0,0]
                         v_dot2_f32_f16 v11, v2, v3, v4"""))
    low, high = (slice(None), slice(0, None, 2)), (slice(None), slice(1, None, 2))
    xl, xh, yl, yh = (v.astype(np.float64) for v in (x[low], x[high], y[low], y[high]))
    s = lab.state
    np.testing.assert_array_equal(s.vf[8], (xh * -yl + z).astype(np.float32))
    mixed = s.vgpr[9].view(np.float16)
    np.testing.assert_array_equal(mixed[low], (xl * yl + np.abs(z)).astype(np.float16))
    np.testing.assert_array_equal(mixed[high], (z * yh + xh).astype(np.float16))
    packed = s.vgpr[10].view(np.float16)
    np.testing.assert_array_equal(packed[low], (-xl * yl).astype(np.float16))
    np.testing.assert_array_equal(packed[high], (xh * yh).astype(np.float16))
    first = (xl * yl + z).astype(np.float32)
    np.testing.assert_array_equal(s.vf[11], (xh * yh + first).astype(np.float32))


def test_dual_issue_reads_before_it_writes(assembler: Assembler) -> None:
    lab = Lab(waves=1)
    lab.state.vgpr[2], lab.state.vgpr[3], lab.state.vf[4] = 20, 30, 1.5
    lab.run(assembler("v_dual_mov_b32 v2, v3 :: v_dual_mov_b32 v3, v2"))
    assert (lab.state.vgpr[2, 0, 0], lab.state.vgpr[3, 0, 0]) == (30, 20)
    lab.state.vf[2], lab.state.vf[3], lab.state.vf[5] = 2.0, 3.0, 1.5
    lab.run(assembler("v_dual_add_f32 v2, v4, v3 :: v_dual_fmac_f32 v3, v2, v5"))
    assert (lab.state.vf[2, 0, 0], lab.state.vf[3, 0, 0]) == (4.5, 6.0)
    lab.run(assembler("v_dual_fmaak_f32 v6, v2, v4, 0x40000000 :: v_dual_add_nc_u32 v7, 5, v9"))
    assert lab.state.vf[6, 0, 0] == 4.5 * 1.5 + 2 and lab.state.vgpr[7, 0, 0] == (0xdeadbeef + 5) & M32


def test_hardware_registers_and_modes(assembler: Assembler) -> None:
    lab = Lab(waves=1)
    lab.run(assembler("s_getreg_b32 s4, hwreg(HW_REG_MODE, 0, 8)\ns_getreg_b32 s5, hwreg(HW_REG_MODE, 8, 2)"))
    assert (int(lab.state.sgpr[4, 0]), int(lab.state.sgpr[5, 0])) == (0xf0, 3)


def run_raw(assembler: Assembler, text: str, wave: int, arguments: np.ndarray, **options: Any) -> Any:
    import mock.isa as isa
    return isa.run(assembler(text), grid=(1,), block=(wave,), kernarg=int(arguments.ctypes.data), wave_size=wave,
                   rsrc1=7 | 0x3f0 << 12 & 0xff000 | 3 << 21, rsrc2=2 << 1, **options)


def test_wave64_masks_have_two_registers(llvm_mc: str) -> None:
    import llvm
    text = """v_lshlrev_b32_e32 v1, 2, v0
              v_cmp_lt_u32_e64 s[4:5], 40, v0
              v_cndmask_b32_e64 v2, 5, v0, s[4:5]
              s_mov_b64 exec, s[4:5]
              v_add_nc_u32_e32 v2, 1000, v2
              s_mov_b64 exec, -1
              v_readlane_b32 s6, v2, 63
              v_mbcnt_lo_u32_b32 v3, -1, 0
              v_mbcnt_hi_u32_b32 v3, -1, v3
              v_add_nc_u32_e32 v2, v2, v3
              global_store_b32 v1, v2, s[0:1]
              s_endpgm"""
    lines = [line.strip() for line in text.splitlines()]
    codes = llvm.assemble(llvm_mc, lines, attributes="-wavefrontsize32,+wavefrontsize64")
    assert None not in codes
    out = np.zeros(64, np.uint32)
    run_raw(lambda _: b"".join(c for c in codes if c), "", 64, out)
    lane = np.arange(64)
    np.testing.assert_array_equal(out, np.where(lane > 40, lane + 1000, 5) + lane)


def test_modes_set_by_code_split_waves(assembler: Assembler) -> None:
    """s_setreg of MODE from a register that differs by wave; 1/3 rounded up and down."""
    import mock.isa as isa
    out = np.zeros(64, np.float32)
    code = assembler("""v_lshlrev_b32_e32 v1, 2, v0
                        v_readfirstlane_b32 s4, v0
                        s_lshr_b32 s4, s4, 5
                        s_add_u32 s4, s4, 1
                        s_setreg_b32 hwreg(HW_REG_MODE, 0, 2), s4
                        v_mov_b32_e32 v2, 1.0
                        v_add_f32_e32 v2, 0x32000000, v2
                        global_store_b32 v1, v2, s[0:1]
                        s_endpgm""")
    isa.run(code, grid=(1,), block=(64,), kernarg=int(out.ctypes.data), rsrc1=7 | 0xf0 << 12 | 3 << 21, rsrc2=2 << 1)
    np.testing.assert_array_equal(out, [np.nextafter(np.float32(1), np.float32(2))] * 32 + [1.0] * 32)
