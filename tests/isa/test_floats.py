"""Floating-point instructions against exact rationals, in every rounding and denormal mode."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lab import MODE, WAVES, Lab, exact_fma, floats, integers

from mock.isa import exact

Assembler = Callable[[str], bytes]
SHAPE = (32, WAVES)
UNSIGNED: Any = {np.float16: np.uint16, np.float32: np.uint32, np.float64: np.uint64}


def same(got: np.ndarray, want: np.ndarray, *, what: str = "") -> None:
    """Equal values and signs; every NaN equals every other."""
    ok = (got == want) & (np.signbit(got) == np.signbit(want)) | np.isnan(got) & np.isnan(want)
    bad = [tuple(at) for at in np.argwhere(~ok)]
    assert not bad, f"{what}: {len(bad)} differ, first at {bad[0]}: {got[bad[0]]!r} for {want[bad[0]]!r}"


def put(lab: Lab, register: int, values: np.ndarray) -> None:
    if values.dtype.itemsize == 8:
        lab.set64(register, values)
    else:
        lab.state.vgpr[register] = values.view(UNSIGNED.get(values.dtype.type, values.dtype.type))


def take(lab: Lab, register: int, kind: Any) -> np.ndarray:
    if np.dtype(kind).itemsize == 8:
        return lab.get64(register, kind)
    row = lab.state.vgpr[register]
    return row.view(kind) if np.dtype(kind).itemsize == 4 else np.ascontiguousarray(row.view(kind)[:, 0::2])


def mode_of(kind: Any, rounding: int) -> int:
    return MODE | (rounding if kind is np.float32 else rounding << 2)


@pytest.mark.parametrize("rounding", range(4))
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_fma_add_and_mul_are_exact(assembler: Assembler, kind: Any, rounding: int) -> None:
    rng = np.random.default_rng(rounding)
    name = {np.float16: "f16", np.float32: "f32", np.float64: "f64"}[kind]
    a, b, c = (floats(rng, kind, SHAPE) for _ in range(3))
    # Sums that nearly cancel, and ties.
    close = rng.random(SHAPE) < 0.3
    with np.errstate(all="ignore"):
        c = np.where(close, -(a * b), c).astype(kind)
    lab = Lab(mode=mode_of(kind, rounding))
    for register, values in ((2, a), (4, b), (6, c)):
        put(lab, register, values)
    if kind is np.float64:
        lab.run(assembler(f"v_fma_{name} v[8:9], v[2:3], v[4:5], v[6:7]\nv_add_{name} v[10:11], v[2:3], v[6:7]\n"
                          f"v_mul_{name} v[12:13], v[2:3], v[4:5]"))
    else:
        lab.run(assembler(f"v_fma_{name} v8, v2, v4, v6\nv_add_{name} v10, v2, v6\nv_mul_{name} v12, v2, v4"))
    one = np.ones(SHAPE, kind)
    zero = np.where(np.signbit(a) != np.signbit(b), kind(-0.0), kind(0.0))      # keeps the sign of a zero product
    for register, operands, what in ((8, (a, b, c), "fma"), (10, (a, one, c), "add"), (12, (a, b, zero), "mul")):
        want = np.array([exact_fma(float(x), float(y), float(z), kind, rounding)
                         for x, y, z in zip(*(o.flat for o in operands), strict=True)]).reshape(SHAPE).astype(kind)
        same(take(lab, register, kind), want, what=f"{what} {name} rounding {rounding}")


def test_fma_differs_from_float64_where_it_must(assembler: Assembler) -> None:
    """Targeted: sums whose float64 value is a float32 tie that the exact value is not."""
    rng = np.random.default_rng(5)
    a = (1 + rng.integers(0, 2 ** 12, SHAPE) * 2.0 ** -12).astype(np.float32)
    b = (1 + rng.integers(0, 2 ** 12, SHAPE) * 2.0 ** -12).astype(np.float32)
    c = (rng.integers(1, 100, SHAPE) * 2.0 ** -rng.integers(60, 90, SHAPE)).astype(np.float32)
    c = np.where(rng.random(SHAPE) < 0.5, -c, c)
    lab = Lab()
    for register, values in ((2, a), (4, b), (6, c)):
        put(lab, register, values)
    lab.run(assembler("v_fma_f32 v8, v2, v4, v6"))
    want = np.array([exact_fma(float(x), float(y), float(z), np.float32)
                     for x, y, z in zip(a.flat, b.flat, c.flat, strict=True)]).reshape(SHAPE).astype(np.float32)
    same(take(lab, 8, np.float32), want)
    naive = (a.astype(np.float64) * b + c).astype(np.float32)
    assert (naive != want).any(), "the cases must tell a double rounding from a single one"


@given(st.floats(allow_nan=False, width=64), st.floats(allow_nan=False, width=64), st.floats(allow_nan=False, width=64),
       st.integers(0, 3))
@settings(max_examples=300, deadline=None)
def test_fma_f64_by_property(a: float, b: float, c: float, rounding: int) -> None:
    with np.errstate(all="ignore"):
        got = float(exact.fma_f64(np.array(a), np.array(b), np.array(c), rounding))
    want = exact_fma(a, b, c, np.float64, rounding)
    assert math.isnan(want) == math.isnan(got)
    assert math.isnan(want) or (got == want and math.copysign(1, got) == math.copysign(1, want))


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_flushing_of_denormals_in_and_out(assembler: Assembler, kind: Any) -> None:
    rng = np.random.default_rng(6)
    name = {np.float16: "f16", np.float32: "f32", np.float64: "f64"}[kind]
    info = np.finfo(kind)
    a = (info.tiny * rng.uniform(0.1, 4, SHAPE)).astype(kind) * rng.choice([-1, 1], SHAPE).astype(kind)
    b = rng.uniform(0.2, 2, SHAPE).astype(kind)
    lab = Lab(mode=MODE & ~0xf0)
    put(lab, 2, a)
    put(lab, 4, b)
    wide = "v[8:9], v[2:3], v[4:5]" if kind is np.float64 else "v8, v2, v4"
    lab.run(assembler(f"v_mul_{name} {wide}"))

    def flush(x: np.ndarray) -> np.ndarray:
        return np.where(np.abs(x) < info.tiny, np.copysign(kind(0), x), x)
    same(take(lab, 8, kind), flush(flush(a) * b))


def test_nan_results(assembler: Assembler) -> None:
    lab = Lab(waves=1)
    signaling, quiet, other = 0x7fa01234, 0x7fe01234, 0xffc0abcd
    inf, minus = 0x7f800000, 0xff800000
    cases = [(inf, minus, 0x7fc00000), (signaling, 0, quiet), (0, signaling, quiet), (signaling, other, quiet),
             (other, signaling, other), (other, 0x3f800000, other)]
    for i, (a, b, _) in enumerate(cases):
        lab.state.vgpr[2, i], lab.state.vgpr[3, i] = a, b
    lab.run(assembler("v_add_f32 v4, v2, v3\nv_min_f32 v5, v2, v3\nv_max_f32 v6, v2, v3"))
    assert [int(x) for x in lab.state.vgpr[4, :len(cases), 0]] == [want for _, _, want in cases]
    # min and max: the number wins over a quiet NaN; in IEEE mode a signalling NaN comes out, quiet.
    assert [int(x) for x in lab.state.vgpr[5, :6, 0]] == [minus, quiet, quiet, quiet, quiet, 0x3f800000]
    lab = Lab(waves=1, mode=MODE & ~0x200)
    lab.state.vgpr[2], lab.state.vgpr[3] = signaling, 0x3f800000
    lab.run(assembler("v_max_f32 v6, v2, v3"))
    assert lab.state.vgpr[6, 0, 0] == 0x3f800000


def test_min_and_max_order_zeros(assembler: Assembler) -> None:
    lab = Lab(waves=1)
    lab.state.vgpr[2], lab.state.vgpr[3] = 0x80000000, 0
    lab.run(assembler("v_min_f32 v4, v2, v3\nv_min_f32 v5, v3, v2\nv_max_f32 v6, v2, v3\nv_max_f32 v7, v3, v2"))
    assert [int(lab.state.vgpr[i, 0, 0]) for i in (4, 5, 6, 7)] == [0x80000000, 0x80000000, 0, 0]


def test_modifiers(assembler: Assembler) -> None:
    lab = Lab(waves=1)
    lab.state.vf[2], lab.state.vf[3] = 0.75, -3.0
    lab.run(assembler("""v_add_f32_e64 v4, -v2, |v3|
                         v_add_f32_e64 v5, v2, v3 clamp
                         v_mul_f32_e64 v6, v2, -|v3| clamp
                         v_mul_f32_e64 v7, -v3, v2 mul:2
                         v_add_f32_e64 v8, v2, |v3| clamp"""))
    assert [float(lab.state.vf[i, 0, 0]) for i in (4, 5, 6, 7, 8)] == [2.25, 0.0, 0.0, 2.25, 1.0]
    # OMOD works without IEEE mode and with denormals flushed, and turns -0 into +0.
    lab = Lab(waves=1, mode=0x100)
    lab.state.vf[2], lab.state.vf[3] = 0.75, -0.0
    lab.run(assembler("""v_mul_f32_e64 v4, 2.0, v2 mul:4
                         v_mul_f32_e64 v5, v2, v3 mul:2
                         v_mul_f32_e64 v6, v2, v2 div:2"""))
    assert [float(lab.state.vf[i, 0, 0]) for i in (4, 5, 6)] == [6.0, 0.0, 0.28125]
    assert not np.signbit(lab.state.vf[5, 0, 0])


@pytest.mark.parametrize("dx10", [False, True])
def test_clamp_of_nan(assembler: Assembler, dx10: bool) -> None:
    lab = Lab(waves=1, mode=MODE if dx10 else MODE & ~0x100)
    lab.state.vf[2] = np.nan
    lab.run(assembler("v_add_f32_e64 v4, v2, v2 clamp"))
    assert (lab.state.vf[4, 0, 0] == 0) == dx10


TRANSCENDENTAL = {
    "rcp": (lambda x: 1 / x, 1.0), "rsq": (lambda x: 1 / np.sqrt(x), 1.0), "sqrt": (np.sqrt, 1.0),
    "exp": (np.exp2, 1.0), "log": (np.log2, 1.0), "sin": (lambda x: np.sin(2 * np.pi * x), 1.0),
    "cos": (lambda x: np.cos(2 * np.pi * x), 1.0)}


@pytest.mark.parametrize("name", sorted(TRANSCENDENTAL))
@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_transcendental_within_an_ulp(assembler: Assembler, name: str, kind: Any) -> None:
    function, ulps = TRANSCENDENTAL[name]
    rng = np.random.default_rng(7)
    x = (rng.uniform(0.01, 100, SHAPE) if name not in ("sin", "cos", "exp") else rng.uniform(-8, 8, SHAPE)).astype(kind)
    lab = Lab()
    put(lab, 2, x)
    lab.run(assembler(f"v_{name}_{'f16' if kind is np.float16 else 'f32'} v4, v2"))
    want = function(x.astype(np.float64))
    got = take(lab, 4, kind).astype(np.float64)
    spacing = np.spacing(np.abs(want).astype(kind)).astype(np.float64)
    floor = 2.0 ** -20 if name in ("sin", "cos") else 0
    assert (np.abs(got - want) <= np.maximum(ulps * spacing, floor)).all()


def test_special_cases_of_transcendentals(assembler: Assembler) -> None:
    lab = Lab(waves=1)
    values = np.array([0.0, -0.0, np.inf, -np.inf, -1.0, 1.0, np.nan], np.float32)
    lab.state.vf[2, :7, 0] = values
    lab.run(assembler("v_rcp_f32 v3, v2\nv_rsq_f32 v4, v2\nv_log_f32 v5, v2\nv_exp_f32 v6, v2\nv_sqrt_f32 v7, v2"))
    inf, nan = np.inf, np.nan
    for register, want in ((3, [inf, -inf, 0.0, -0.0, -1, 1, nan]), (4, [inf, -inf, 0, nan, nan, 1, nan]),
                           (5, [-inf, -inf, inf, nan, nan, 0, nan]), (6, [1, 1, inf, 0, 0.5, 2, nan]),
                           (7, [0.0, -0.0, inf, nan, nan, 1, nan])):
        same(lab.state.vf[register, :7, 0], np.array(want, np.float32), what=f"v{register}")


def test_conversions(assembler: Assembler) -> None:
    rng = np.random.default_rng(8)
    x = floats(rng, np.float32, SHAPE)
    lab = Lab()
    put(lab, 2, x)
    put(lab, 20, integers(rng, 32, SHAPE))
    put(lab, 22, floats(rng, np.float64, SHAPE))
    lab.run(assembler("""v_cvt_i32_f32 v4, v2
                         v_cvt_u32_f32 v5, v2
                         v_cvt_f16_f32 v6, v2
                         v_cvt_f32_i32 v7, v20
                         v_cvt_f32_u32 v8, v20
                         v_cvt_f32_f64 v9, v[22:23]
                         v_cvt_f64_f32 v[10:11], v2
                         v_cvt_i32_f64 v12, v[22:23]
                         v_cvt_floor_i32_f32 v13, v2
                         v_cvt_pk_rtz_f16_f32 v14, v2, v2
                         v_rndne_f32 v15, v2
                         v_fract_f32 v16, v2
                         v_frexp_mant_f32 v17, v2
                         v_frexp_exp_i32_f32 v18, v2
                         v_cvt_f32_f16 v19, v6"""))
    wide = x.astype(np.float64)
    clean = np.where(np.isnan(wide), 0, wide)
    s, double = lab.state, lab.get64(22, np.float64)
    np.testing.assert_array_equal(s.vi[4], np.clip(np.trunc(clean), -2 ** 31, 2 ** 31 - 1).astype(np.int64))
    np.testing.assert_array_equal(s.vgpr[5], np.clip(np.trunc(clean), 0, 2 ** 32 - 1).astype(np.int64))
    with np.errstate(all="ignore"):
        same(take(lab, 6, np.float16), x.astype(np.float16))
        same(s.vf[9], double.astype(np.float32))
        half = x.astype(np.float16)
        back = half.astype(np.float32)
        toward_zero = np.where(np.abs(back) > np.abs(x), np.nextafter(half, np.float16(0)), half)
    np.testing.assert_array_equal(s.vf[7], s.vi[20].astype(np.float32))
    np.testing.assert_array_equal(s.vf[8], s.vgpr[20].astype(np.float32))
    same(lab.get64(10, np.float64), wide)
    clean64 = np.where(np.isnan(double), 0, double)
    np.testing.assert_array_equal(s.vi[12], np.clip(np.trunc(clean64), -2 ** 31, 2 ** 31 - 1).astype(np.int64))
    np.testing.assert_array_equal(s.vi[13], np.clip(np.floor(clean), -2 ** 31, 2 ** 31 - 1).astype(np.int64))
    same(take(lab, 14, np.float16), toward_zero)
    same(s.vf[15], np.rint(x))
    finite = np.isfinite(x)
    fract = (wide[finite] - np.floor(wide[finite])).astype(np.float32)
    same(s.vf[16][finite], np.where(fract == 1, np.nextafter(np.float32(1), np.float32(0)), fract))
    same(s.vf[17], np.where(finite, np.frexp(x)[0], x))
    np.testing.assert_array_equal(s.vi[18], np.where(finite, np.frexp(x)[1], 0))
    same(s.vf[19], take(lab, 6, np.float16).astype(np.float32))


def test_ldexp_rounds_once(assembler: Assembler) -> None:
    from fractions import Fraction

    from lab import rounded
    rng = np.random.default_rng(9)
    x = rng.uniform(1, 2, SHAPE).astype(np.float32)
    n = rng.integers(-152, 130, SHAPE).astype(np.int32)
    lab = Lab()
    put(lab, 2, x)
    lab.state.vi[3] = n
    lab.run(assembler("v_ldexp_f32 v4, v2, v3"))
    want = [rounded(Fraction(float(a)) * Fraction(2) ** int(k), np.float32, 0, False)
            for a, k in zip(x.flat, n.flat, strict=True)]
    same(lab.state.vf[4], np.array(want, np.float32).reshape(SHAPE))


RELATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "lt": lambda a, b: a < b, "eq": lambda a, b: a == b, "le": lambda a, b: a <= b, "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b, "lg": lambda a, b: (a < b) | (a > b), "o": lambda a, b: ~(np.isnan(a) | np.isnan(b)),
    "u": lambda a, b: np.isnan(a) | np.isnan(b), "nge": lambda a, b: ~(a >= b), "nlt": lambda a, b: ~(a < b),
    "neq": lambda a, b: ~(a == b), "nlg": lambda a, b: ~((a < b) | (a > b)), "ngt": lambda a, b: ~(a > b),
    "nle": lambda a, b: ~(a <= b)}


def test_compares_and_classes(assembler: Assembler) -> None:
    rng = np.random.default_rng(10)
    a, b = floats(rng, np.float32, SHAPE), floats(rng, np.float32, SHAPE)
    b = np.where(rng.random(SHAPE) < 0.3, a, b)
    lab = Lab()
    put(lab, 2, a)
    put(lab, 3, b)
    for name, relation in RELATIONS.items():
        lab.run(assembler(f"v_cmp_{name}_f32 s4, v2, v3"))
        np.testing.assert_array_equal(lab.state.read_mask(4), relation(a, b), err_msg=name)
    classes = {0: np.isnan(a) & (a.view(np.uint32) & 0x400000 == 0),
        1: np.isnan(a) & (a.view(np.uint32) & 0x400000 != 0),
               2: a == -np.inf, 9: a == np.inf, 5: (a == 0) & np.signbit(a), 6: (a == 0) & ~np.signbit(a),
               4: (a < 0) & (a > -np.finfo(np.float32).tiny), 7: (a > 0) & (a < np.finfo(np.float32).tiny),
               3: (a <= -np.finfo(np.float32).tiny) & (a > -np.inf), 8: (a >= np.finfo(np.float32).tiny) & (a < np.inf)}
    for bit, want in classes.items():
        lab.run(assembler(f"s_mov_b32 s6, {1 << bit}\nv_cmp_class_f32 s4, v2, s6"))
        np.testing.assert_array_equal(lab.state.read_mask(4), want, err_msg=f"class {bit}")
