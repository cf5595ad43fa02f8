"""OpenCL C through Debian's clang at every level, run by the interpreter, against NumPy."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mock.isa as isa

N = 1000
GRID, BLOCK = 4, 256

# Translating takes the JIT a second or two a kernel, so most of its share is in the slow suite.
FAST = (("O0", "interpreter"), ("O2", "interpreter"), ("O2", "jit"))
SLOW = (("O2 wave64", "interpreter"), ("O2 wave64", "jit"), ("O1", "interpreter"), ("O3", "interpreter"),
    ("O0", "jit"), ("O1", "jit"), ("O3", "jit"))
RUNS = [*(pytest.param(run, id="-".join(run)) for run in FAST),
        *(pytest.param(run, id="-".join(run), marks=pytest.mark.slow) for run in SLOW)]


def pack(*arguments: Any) -> bytes:
    """The kernarg segment: arrays as pointers, ints as i32, floats as f32."""
    segment = b""
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            segment += bytes(-len(segment) % 8) + struct.pack("<Q", argument.ctypes.data)
        else:
            segment += struct.pack("<f" if isinstance(argument, float) else "<i", argument)
    return segment


@pytest.fixture(params=RUNS)
def launch(request: pytest.FixtureRequest, compile_kernels: Callable[..., bytes]) -> Callable[..., isa.Counts]:
    level, executor = request.param
    level, _, wide = level.partition(" ")
    code = compile_kernels("ordinary.cl", level, *(["-mwavefrontsize64"] if wide else []))

    def run(kernel: str, *arguments: Any, grid: tuple[int, ...] = (GRID,),
            block: tuple[int, ...] = (BLOCK,)) -> isa.Counts:
        return isa.run(code, kernel=kernel, grid=grid, block=block, kernarg=pack(*arguments), executor=executor)
    return run


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)


def any_floats(rng: np.random.Generator, kind: Any = np.float32) -> np.ndarray:
    """Every kind of number, NaN left out; with zeros, infinities and denormals in front."""
    bits = rng.integers(0, 2 ** 64, N, dtype=np.uint64)
    values = (bits if kind is np.float64 else bits.astype(np.uint32)).view(kind)
    values = np.where(np.isnan(values), kind(1.5), values)
    values[:10] = [0.0, -0.0, np.inf, -np.inf, np.finfo(kind).smallest_subnormal, np.finfo(kind).max, 1, -1,
                   np.finfo(kind).tiny, -np.finfo(kind).max]
    return values


def test_saxpy_is_fused(launch: Any, rng: np.random.Generator) -> None:
    x, y = rng.standard_normal((2, N)).astype(np.float32)
    want = (2.5 * x.astype(np.float64) + y).astype(np.float32)
    launch("saxpy", x, y, 2.5, N)
    np.testing.assert_array_equal(y, want)


def test_loops_of_different_lengths(launch: Any, rng: np.random.Generator) -> None:
    def steps(x: int) -> int:
        count = 0
        while x != 1:
            x, count = 3 * x + 1 if x & 1 else x >> 1, count + 1
        return count
    start = rng.integers(1, 10000, N, dtype=np.uint32)
    out = np.zeros(N, np.uint32)
    launch("collatz", start, out, N)
    np.testing.assert_array_equal(out, [steps(int(x)) for x in start])


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_division_is_correctly_rounded_over_the_whole_range(launch: Any, rng: np.random.Generator, kind: Any) -> None:
    a, b, c = any_floats(rng, kind), rng.permutation(any_floats(rng, kind)), np.zeros(N, kind)
    launch(f"divide_f{a.itemsize * 8}", a, b, c, N)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(c, a / b)     # NaNs compare equal here


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_square_root_is_correctly_rounded(launch: Any, rng: np.random.Generator, kind: Any) -> None:
    a, c = np.abs(any_floats(rng, kind)), np.zeros(N, kind)
    launch(f"root_f{a.itemsize * 8}", a, c, N)
    np.testing.assert_array_equal(c, np.sqrt(a))


def test_integer_division(launch: Any, rng: np.random.Generator) -> None:
    a = rng.integers(-2 ** 31, 2 ** 31, N).astype(np.int32)
    b = np.where(rng.random(N) < 0.5, 7, rng.integers(1, 2 ** 31, N)) * rng.choice([-1, 1], N)
    b = b.astype(np.int32)
    q, r = np.zeros((2, N), np.int32)
    launch("divide_i32", a, b, q, r, N)
    want = np.trunc(a.astype(np.float64) / b).astype(np.int64)
    np.testing.assert_array_equal(q, want)
    np.testing.assert_array_equal(r, a - want * b)
    x = rng.integers(0, 2 ** 64, N, dtype=np.uint64)
    y = rng.integers(1, 2 ** 64, N, dtype=np.uint64) >> rng.integers(0, 64, N, dtype=np.uint64) | np.uint64(1)
    q64, r64 = np.zeros((2, N), np.uint64)
    launch("divide_u64", x, y, q64, r64, N)
    np.testing.assert_array_equal(q64, x // y)
    np.testing.assert_array_equal(r64, x % y)


def test_arithmetic_of_64_bits(launch: Any, rng: np.random.Generator) -> None:
    a, b = rng.integers(-2 ** 63, 2 ** 63 - 1, (2, N))
    out = np.zeros((N, 4), np.int64)
    launch("arithmetic_i64", a, b, out, N)
    ua, ub = a.view(np.uint64), b.view(np.uint64)
    np.testing.assert_array_equal(out[:, 0], a * b + (a >> (b & 63)))
    np.testing.assert_array_equal(out[:, 1], (a << (b & 31)) ^ (ub >> (ua & np.uint64(63))).view(np.int64))
    np.testing.assert_array_equal(out[:, 2], np.where(a < b, a - b, b - a))
    np.testing.assert_array_equal(out[:, 3], np.where(ua > ub, ~a, -b))


def test_half_precision(launch: Any, rng: np.random.Generator) -> None:
    a, b = rng.standard_normal((2, N)).astype(np.float16)
    out = np.zeros((N, 3), np.float16)
    launch("half_math", a, b, out, N)
    np.testing.assert_array_equal(out[:, 0], a + b)
    # clang contracts a * b - a; float64 holds both steps exactly.
    np.testing.assert_array_equal(out[:, 1], (a.astype(np.float64) * b - a).astype(np.float16))
    np.testing.assert_array_equal(out[:, 2], np.where(a < b, a, (b * np.float16(0.5))))
    x, y = rng.standard_normal((2, N, 2)).astype(np.float16)
    packed = np.zeros((N, 2), np.float16)
    launch("half2_math", x, y, packed, N)
    np.testing.assert_array_equal(packed, (x.astype(np.float64) * y + x).astype(np.float16))


def test_double_precision(launch: Any, rng: np.random.Generator) -> None:
    a, b = rng.standard_normal((2, N)) * 100
    out = np.zeros((N, 2))
    launch("double_math", a, b, out, N)
    np.testing.assert_allclose(out[:, 0], a * b + a, rtol=1e-13)
    np.testing.assert_allclose(out[:, 1], a * b - b + np.trunc(a), rtol=1e-11)


def test_conversions(launch: Any, rng: np.random.Generator) -> None:
    a = (rng.standard_normal(N) * 1e4).astype(np.float32)
    whole, natural, back = np.zeros(N, np.int32), np.zeros(N, np.uint32), np.zeros(N, np.float32)
    wide, small = np.zeros(N), np.zeros(N, np.uint8)
    launch("conversions", a, whole, natural, back, wide, small, N)
    np.testing.assert_array_equal(whole, a.astype(np.int32))
    np.testing.assert_array_equal(natural, np.abs(a).astype(np.uint32))
    np.testing.assert_array_equal(back, (whole * 3).astype(np.float32) + natural.astype(np.float32))
    np.testing.assert_array_equal(wide, a.astype(np.float64) * 1.5)
    np.testing.assert_array_equal(small, (whole & 255).astype(np.uint8))


def test_lds_and_barriers(launch: Any, rng: np.random.Generator) -> None:
    x, sums = rng.standard_normal(1024).astype(np.float32), np.zeros(4, np.float32)
    launch("reduce", x, sums)
    tree = x.reshape(4, 256)
    while tree.shape[1] > 1:
        half = tree.shape[1] // 2
        tree = tree[:, :half] + tree[:, half:]
    np.testing.assert_array_equal(sums, tree[:, 0])


def test_matmul_of_two_axes(launch: Any, rng: np.random.Generator) -> None:
    n = 48
    a, b = rng.standard_normal((2, n, n)).astype(np.float32)
    c = np.zeros((n, n), np.float32)
    counts = launch("matmul", a, b, c, n, grid=(n // 16, n // 16), block=(16, 16))
    np.testing.assert_allclose(c, a @ b, rtol=1e-4, atol=1e-5)
    assert (counts.workgroups, counts.waves) in ((9, 72), (9, 36))


def test_atomics(launch: Any, rng: np.random.Generator) -> None:
    data, bins = rng.integers(0, 256, N).astype(np.uint8), np.zeros(256, np.uint32)
    launch("histogram", data, bins, N)
    np.testing.assert_array_equal(bins, np.bincount(data, minlength=256))
    x = rng.integers(-2 ** 31, 2 ** 31, N).astype(np.int32)
    out, wide = np.array([0, 0, 0, 0, -1, 0], np.int32), np.zeros(1, np.uint64)
    launch("atomics", x, out, wide, N)
    assert list(out) == [x.min(), x.max(), np.bitwise_xor.reduce(x), np.bitwise_or.reduce(x),
                         np.bitwise_and.reduce(x), N]
    assert wide[0] == (x.view(np.uint32).astype(np.uint64) << np.uint64(7)).sum()
    counter, taken = np.zeros(1, np.uint32), np.zeros(N, np.uint32)
    launch("ticket", counter, taken, N)
    np.testing.assert_array_equal(np.sort(taken), np.arange(N))


def test_scratch_with_computed_indices(launch: Any, rng: np.random.Generator) -> None:
    x = rng.integers(-100, 100, (N, 16)).astype(np.int32)
    y = np.zeros_like(x)
    launch("scratch_sort", x, y, N)
    np.testing.assert_array_equal(y, np.sort(x, axis=1)[:, [k * 7 & 15 for k in range(16)]])


def test_flat_pointers_into_lds_scratch_and_memory_at_once(launch: Any) -> None:
    data, out, lane = np.arange(64, dtype=np.int32) * 7, np.zeros(64, np.int32), np.arange(64)
    launch("generic_pointers", out, data, 64, grid=(1,), block=(64,))
    want = np.where(lane % 3 == 0, lane * 3, np.where(lane % 3 == 1, lane + (lane & 3), lane * 7)) + 1000
    np.testing.assert_array_equal(out, want)
    np.testing.assert_array_equal(data, np.where(lane % 3 == 2, lane * 7 + 1000, lane * 7))


def test_calls(launch: Any, rng: np.random.Generator) -> None:
    a, b = rng.integers(1, 10000, (2, N)).astype(np.int32)
    c = np.zeros(N, np.int32)
    launch("calls", a, b, c, N)
    np.testing.assert_array_equal(c, np.gcd(a, b) + np.gcd(a, 360))


def test_across_lanes(launch: Any, rng: np.random.Generator) -> None:
    x, out, lane = rng.integers(-1000, 1000, 32).astype(np.int32), np.zeros((32, 8), np.int32), np.arange(32)
    launch("cross_lane", x, out, grid=(1,), block=(32,))
    selectors = [0x77d39c % 0x1000000 >> 3 * i & 7 for i in range(8)]
    for column, want in enumerate((
            x[lane ^ 5], np.where(lane % 16 == 0, -1, x[lane - 1]), x[(lane & ~3) + 3 - (lane & 3)], np.full(32, x[0]),
            x[lane ^ 1], x[(lane ^ 16) & 16 | lane & 15], x[(lane & ~7) + np.array(selectors)[lane & 7]],
            np.full(32, (x > 0).sum()))):
        np.testing.assert_array_equal(out[:, column], want, err_msg=f"column {column}")


def test_bits(launch: Any, rng: np.random.Generator) -> None:
    x = rng.integers(0, 2 ** 32, N, dtype=np.uint32) >> rng.integers(0, 32, N, dtype=np.uint32)
    out, i = np.zeros((N, 8), np.uint32), np.arange(N, dtype=np.uint32) & np.uint32(31)
    launch("bits", x, out, N)
    for column, want in enumerate((
            np.bitwise_count(x), [32 - int(v).bit_length() for v in x],
            [(int(v) & -int(v)).bit_length() - 1 if v else 32 for v in x], [int(f"{int(v):032b}"[::-1], 2) for v in x],
            x >> 5 & 0x7f | x << 20, x << i | x >> (32 - i & 31), x.byteswap(),
            x.astype(np.uint64) * np.uint64(0x9e3779b9) >> np.uint64(32))):
        np.testing.assert_array_equal(out[:, column], want, err_msg=f"column {column}")
