"""The kernels of kernels/*.cl, at every level of clang's, in both executors and both wave sizes, against NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_kernels import pack

import mock.isa as isa
from mock.isa.access import Accessor, HostMemory
from mock.isa.hazards import find
from mock.isa.program import Code
from mock.isa.standalone import CodeObject

N, BLOCK = 600, 256
FILES = ("atomics.cl", "flow.cl", "bytes.cl", "maths.cl")
LEVELS = ("O0", "O1", "O2", "O3")
FAST = (("O2", "interpreter"),)
SLOW = tuple((f"{level}{wide}", executor) for level in LEVELS for wide in ("", " wave64")
             for executor in ("interpreter", "jit") if (level + wide, executor) not in FAST)
RUNS = [*(pytest.param(run, id="-".join(run)) for run in FAST),
        *(pytest.param(run, id="-".join(run), marks=pytest.mark.slow) for run in SLOW)]
U32, U64 = np.uint32, np.uint64


@pytest.fixture(params=RUNS)
def launch(request: pytest.FixtureRequest, compile_kernels: Callable[..., bytes]) -> Callable[..., isa.Counts]:
    level, executor = request.param
    level, _, wide = level.partition(" ")

    def run(file: str, kernel: str, *arguments: Any, items: int = N) -> isa.Counts:
        code = compile_kernels(file, level, *(["-mwavefrontsize64"] if wide else []))
        return isa.run(code, kernel=kernel, grid=(-(-items // BLOCK),), block=(BLOCK,), kernarg=pack(*arguments),
                       executor=executor)
    return run


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(8)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("level", ["O2", *(pytest.param(x, marks=pytest.mark.slow) for x in ("O0", "O1", "O3"))])
def test_no_hazard_is_seen_in_what_clang_makes(compile_kernels: Any, file: str, level: str) -> None:
    code = CodeObject(compile_kernels(file, level))
    assert len(code.kernels) >= 4
    for kernel in code.kernels.values():
        assert not find(Code(Accessor(HostMemory()), kernel.entry)), kernel.name


# -- atomics --------------------------------------------------------------------------------------------------

def test_integer_atomics_in_lds(launch: Any, rng: np.random.Generator) -> None:
    n = 2 * BLOCK
    x, out, old = rng.integers(0, 2 ** 32, n, U32), np.zeros((2, 8), U32), np.zeros(n, U32)
    launch("atomics.cl", "lds_integers", x, out, old, items=n)
    for group, values in enumerate(x.reshape(2, BLOCK)):
        total = values.sum(dtype=U32)
        bits = [reduce(values) for reduce in (np.bitwise_or.reduce, np.bitwise_and.reduce, np.bitwise_xor.reduce)]
        assert list(out[group]) == [BLOCK, total, values.max(), values.min(), *bits, -int(total) & 0xffffffff]
        np.testing.assert_array_equal(np.sort(old.reshape(2, BLOCK)[group]), np.arange(BLOCK))


def test_wide_atomics_in_lds(launch: Any, rng: np.random.Generator) -> None:
    n = 2 * BLOCK
    x, out, old = rng.integers(0, 2 ** 64, n, U64), np.zeros((2, 3), U64), np.zeros(n, U64)
    launch("atomics.cl", "lds_wide", x, out, old, items=n)
    for group, values in enumerate(x.reshape(2, BLOCK)):
        assert list(out[group]) == [BLOCK << 33, values.max(), np.bitwise_xor.reduce(values)]
        np.testing.assert_array_equal(np.sort(old.reshape(2, BLOCK)[group]), np.arange(BLOCK, dtype=U64) << U64(33))


def test_float_atomics(launch: Any, rng: np.random.Generator) -> None:
    n = 2 * BLOCK
    x = rng.integers(-1000, 1000, n).astype(np.float32)
    out, lds = np.array([0, -1e9, 1e9], np.float32), np.zeros(2, np.float32)
    launch("atomics.cl", "floats", x, out, lds, items=n)
    assert list(out) == [x.sum(), x.max(), x.min()]
    np.testing.assert_array_equal(lds, x.reshape(2, BLOCK).sum(axis=1))
    wide, total = x.astype(np.float64), np.zeros(1)
    launch("atomics.cl", "doubles", wide, total, items=n)
    assert total[0] == wide.sum()


@pytest.mark.parametrize(("kernel", "kind"), [("exchange", U32), ("exchange_wide", U64)])
def test_exchange_makes_one_chain(launch: Any, kernel: str, kind: Any) -> None:
    n = 2 * BLOCK
    head, behind = np.array([0xffffffff if kind is U32 else 0xffffffff << 32], kind), np.zeros(n, kind)
    launch("atomics.cl", kernel, head, behind, items=n)
    shift = kind(0 if kind is U32 else 32)
    at, seen = int(head[0] >> shift), []
    while at != 0xffffffff:
        seen.append(at)
        at = int(behind[at] >> shift)
    assert sorted(seen) == list(range(n))


def test_compare_and_swap(launch: Any, rng: np.random.Generator) -> None:
    n = BLOCK
    x = rng.integers(0, 2 ** 31, n, U32) * U32(2) + U32(1)
    out, wide = np.ones(1, U32), np.ones(1, U64)
    launch("atomics.cl", "multiply", x, out, wide, items=n)
    product = 1
    for value in x:
        product = product * int(value) & (1 << 64) - 1
    assert int(out[0]) == product & 0xffffffff and int(wide[0]) == product


# -- control flow ---------------------------------------------------------------------------------------------

def trunc_divide(a: int, b: int) -> int:
    return -(-a // b) if (a < 0) != (b < 0) else a // b


def wrapped(value: int) -> int:
    return (value + (1 << 31) & 0xffffffff) - (1 << 31)


def test_switches(launch: Any, rng: np.random.Generator) -> None:
    x, y = rng.integers(-10 ** 6, 10 ** 6, N).astype(np.int32), np.zeros(N, np.int32)
    launch("flow.cl", "dense_switch", x, y, N)

    def dense(v: int) -> int:
        return {0: v * 3, 1: v ^ 0x55, 2: v >> 2, 3: ~v, 4: v * v, 5: v - 7, 6: v - 7, 7: v & 0xff, 9: v | 0x1000,
                10: -v, 11: v - 13 * trunc_divide(v, 13), 14: trunc_divide(v, 5)}.get(v & 15, 42)
    np.testing.assert_array_equal(y, [wrapped(dense(int(v))) for v in x])
    x = rng.choice(np.array([-10 ** 6, 0, 17, 0x7fffffff, 5, -5], np.int32), N)
    launch("flow.cl", "sparse_switch", x, y, N)
    known = {-10 ** 6: 1, 0: 102, 17: 103, 0x7fffffff: 4}
    np.testing.assert_array_equal(y, [known.get(int(v), 105) for v in x])


def test_nested_loops(launch: Any, rng: np.random.Generator) -> None:
    def nested(v: int) -> int:
        total = 0
        for a in range(v & 15):
            if a == 3 and v & 16:
                continue
            b = 0
            while True:
                if a ^ b == v >> 8 & 7:
                    total += 1000
                    break
                if b > 20:
                    return total
                total += a * b
                b += 1
                if b >= (v >> 4 & 31):
                    break
        return total
    x, y = rng.integers(0, 2 ** 32, N, U32), np.zeros(N, U32)
    launch("flow.cl", "nested", x, y, N)
    np.testing.assert_array_equal(y, [nested(int(v)) for v in x])


def test_binary_search(launch: Any, rng: np.random.Generator) -> None:
    table, x, y = np.sort(rng.integers(0, 10 ** 6, 1000, U32)), rng.integers(0, 10 ** 6, N, U32), np.zeros(N, U32)
    launch("flow.cl", "binary_search", table, x, y, len(table), N)
    np.testing.assert_array_equal(y, np.searchsorted(table, x))


def test_calls_within_calls(launch: Any, rng: np.random.Generator) -> None:
    a, b = rng.integers(1, 2 ** 31, (2, N)).astype(U32)
    divisors, remainders = np.zeros(N, U32), np.zeros(N, U64)
    launch("flow.cl", "calls", a, b, divisors, remainders, N)
    odd = (a & 1).astype(bool)
    np.testing.assert_array_equal(divisors, np.where(odd, np.gcd(a, b), 0))
    want = [pow(int(x), int(y) & 255, 1000003) if x & 1 else pow(int(y), 3, 65537) for x, y in zip(a, b, strict=True)]
    np.testing.assert_array_equal(remainders, want)


def test_functions_chosen_at_run_time(launch: Any, rng: np.random.Generator) -> None:
    x, y = rng.integers(0, 2 ** 16, N, U32), np.zeros(N, np.float32)
    launch("flow.cl", "pointers", x, y, N)
    want = np.arange(N, dtype=np.float32)
    for k in range(8):
        which = x >> U32(2 * k) & U32(3)
        want = np.select([which == 0, which == 1, which == 2], [want + 1, want - 2, want * np.float32(0.5)], want)
    np.testing.assert_array_equal(y, want)


# -- small accesses -------------------------------------------------------------------------------------------

def test_small_integers(launch: Any, rng: np.random.Generator) -> None:
    a, b = rng.integers(-128, 128, N).astype(np.int8), rng.integers(0, 256, N).astype(np.uint8)
    c, d = rng.integers(-2 ** 15, 2 ** 15, N).astype(np.int16), rng.integers(0, 2 ** 16, N).astype(np.uint16)
    out = np.zeros(N, np.int64)
    launch("bytes.cl", "widen", a, b, c, d, out, N)
    wide = [v.astype(np.int64) for v in (a, b, c, d)]
    np.testing.assert_array_equal(out, wide[0] * 1000003 + wide[1] * 10007 + wide[2] * 101 + wide[3])
    x = rng.integers(-2 ** 31, 2 ** 31, N).astype(np.int32)
    launch("bytes.cl", "narrow", x, a, d, N)
    np.testing.assert_array_equal(a, (x >> 3).astype(np.int8))
    np.testing.assert_array_equal(d, (x >> 7).astype(np.uint16))


def test_small_accesses_to_lds(launch: Any, rng: np.random.Generator) -> None:
    x, y = rng.integers(0, 256, N).astype(np.uint8), np.zeros(N, np.uint8)
    launch("bytes.cl", "reverse", x, y, N)
    padded = np.pad(x, (0, 3 * BLOCK - N)).reshape(3, BLOCK)
    np.testing.assert_array_equal(y, padded[:, ::-1].reshape(-1)[:N])
    n = 2 * BLOCK
    shorts, out = rng.integers(0, 2 ** 16, n).astype(np.uint16), np.zeros(n, np.uint16)
    launch("bytes.cl", "shorts_in_lds", shorts, out, items=n)
    groups = shorts.reshape(2, BLOCK)
    before = np.concatenate([np.full((2, 1), 0x1234, np.uint16), groups[:, :-1]], axis=1)
    np.testing.assert_array_equal(out.reshape(2, BLOCK), before ^ groups)


def test_records_that_are_not_aligned(launch: Any, rng: np.random.Generator) -> None:
    kind = np.dtype([("tag", "u1"), ("value", "<u4"), ("more", "<u2"), ("tail", "u1", 3)])
    x, y = rng.integers(0, 256, N * kind.itemsize).astype(np.uint8).view(kind), np.zeros(N, U32)
    launch("bytes.cl", "records", x.view(np.uint8), y, N)
    np.testing.assert_array_equal(y, x["tag"] * U32(7) + x["value"] * U32(3) + x["more"] + x["tail"][:, 1])


def test_vectors_of_three_and_private_bytes(launch: Any, rng: np.random.Generator) -> None:
    x, y = rng.standard_normal((N, 4)).astype(np.float32), np.zeros((N, 3), np.float32)
    launch("bytes.cl", "threes", x, y, N)
    np.testing.assert_array_equal(y, np.stack([x[:, 2], x[:, 0] + x[:, 1], x[:, 1]], axis=1))
    bytes_, out = rng.integers(0, 256, N).astype(np.uint8), np.zeros(N, np.uint8)
    launch("bytes.cl", "private_bytes", bytes_, out, N)

    def table_sum(v: int) -> int:
        table = [k * 3 & 255 for k in range(64)]
        for k in range(16):
            at = v + k * v & 63
            table[at] = table[at + 7 & 63] + k & 255
        total = 0
        for value in table:
            total = total * 5 + value & 255
        return total
    np.testing.assert_array_equal(out, [table_sum(int(v)) for v in bytes_])


def test_halves(launch: Any, rng: np.random.Generator) -> None:
    x, pick = rng.standard_normal((N, 4)).astype(np.float16), rng.integers(0, 256, N).astype(np.uint8)
    y = np.zeros(N, np.float16)
    launch("bytes.cl", "halves", x, pick, y, N)
    chosen = np.where(pick & 1, x[:, 0], x[:, 3]).astype(np.float64)
    np.testing.assert_array_equal(y, (chosen + x[:, 1].astype(np.float64) * x[:, 2]).astype(np.float16))


# -- mathematics ----------------------------------------------------------------------------------------------

def test_functions_of_floats(launch: Any, rng: np.random.Generator) -> None:
    x, y = (rng.standard_normal(N) * 6).astype(np.float32), np.zeros((N, 6), np.float32)
    launch("maths.cl", "functions", x, y, N)
    wide = x.astype(np.float64)
    positive = np.abs(wide) + 0.5
    mantissa, exponent = np.frexp(x)
    for column, (want, tolerance) in enumerate((
            (np.exp(wide), 3e-6), (np.exp(wide), 6e-5), (np.log(positive), 1e-5), (np.sin(wide), 1e-5),
            (1 / np.sqrt(positive), 2e-7), (wide - np.floor(wide) + mantissa + exponent, 1e-6))):
        np.testing.assert_allclose(y[:, column], want, rtol=tolerance, atol=tolerance)


def test_functions_of_doubles(launch: Any, rng: np.random.Generator) -> None:
    x, y = rng.standard_normal(N) * 2, np.zeros((N, 4))
    launch("maths.cl", "double_functions", x, y, N)
    v = np.abs(x) + 0.25
    np.testing.assert_allclose(y[:, 0], np.sqrt(v), rtol=3e-16)
    terms = np.cumprod(x[:, None] / np.arange(1, 29), axis=1).sum(axis=1) + 1
    np.testing.assert_allclose(y[:, 1], terms, rtol=1e-11, atol=1e-11)
    np.testing.assert_array_equal(y[:, 2], np.floor(x) + np.trunc(x * 3) + np.ceil(x * 7) + np.rint(x * 9))
    np.testing.assert_allclose(y[:, 3], x * x - v + np.minimum(x, v) * np.maximum(x, -1), rtol=1e-12, atol=1e-13)


def test_packed_halves(launch: Any, rng: np.random.Generator) -> None:
    x, y = rng.uniform(-1, 1, (N, 2)).astype(np.float16), np.zeros((N, 2), np.float16)
    launch("maths.cl", "half_polynomial", x, y, N)
    r = np.full((N, 2), 0.25, np.float16)
    for _ in range(5):
        r = (r.astype(np.float64) * x + 0.5).astype(np.float16)
    np.testing.assert_array_equal(y, np.abs(r))


def test_wide_integers(launch: Any, rng: np.random.Generator) -> None:
    a, b = rng.integers(0, 2 ** 64, (2, N), U64) >> rng.integers(0, 64, (2, N), U64)
    y = np.zeros((N, 4), U64)
    launch("maths.cl", "wide_integers", a, b, y, N)
    mask = (1 << 64) - 1
    for x, z, got in zip(map(int, a), map(int, b), y.tolist(), strict=True):
        low, half = 0xffffffff, x >> 32
        high = half * (z >> 32) + (half * (z & low) >> 32) + ((x & low) * (z >> 32) >> 32)
        ones = z | 1 << 63
        turn = z & 63
        assert got == [x * z & mask, high & mask,
                       x.bit_count() + 64 * (64 - (x | 1).bit_length()) + 4096 * ((ones & -ones).bit_length() - 1),
                       (x << turn | x >> (64 - turn & 63)) & mask]


def test_conversions(launch: Any, rng: np.random.Generator) -> None:
    x = rng.standard_normal(N) * 50
    whole, natural = np.zeros(N, np.int64), np.zeros(N, U64)
    f, h = np.zeros(N, np.float32), np.zeros(N, np.float16)
    launch("maths.cl", "conversions", x, whole, natural, f, h, N)
    np.testing.assert_array_equal(whole, (x * 1e12).astype(np.int64))
    np.testing.assert_array_equal(natural, (np.abs(x) * 1e15).astype(U64))
    np.testing.assert_array_equal(f, whole.astype(np.float32) + natural.astype(np.float32))
    np.testing.assert_array_equal(h, x.astype(np.float32).astype(np.float16))


# -- across lanes, waves of 64 --------------------------------------------------------------------------------

@pytest.mark.parametrize("executor", ["interpreter", pytest.param("jit", marks=pytest.mark.slow)])
@pytest.mark.parametrize("level", ["O2", *(pytest.param(x, marks=pytest.mark.slow) for x in ("O0", "O1", "O3"))])
def test_matrices_and_rows_of_wide_waves(compile_kernels: Any, rng: np.random.Generator, level: str,
                                         executor: str) -> None:
    code = compile_kernels("wmma64.cl", level, "-mwavefrontsize64")
    loaded = CodeObject(code)           # owns the memory that is looked at
    for kernel in loaded.kernels.values():
        assert not find(Code(Accessor(HostMemory()), kernel.entry), lanes=64), kernel.name
    launch: dict[str, Any] = {"grid": (1,), "block": (64,), "executor": executor}
    a, b = rng.integers(-8, 9, (2, 16, 16)).astype(np.float16)
    c = rng.integers(-100, 100, (16, 16)).astype(np.float32)
    want = c + a.astype(np.float32) @ b.astype(np.float32)
    isa.run(code, kernel="f32_f16", kernarg=pack(a, b, c), **launch)
    np.testing.assert_array_equal(c, want)
    x, y = rng.integers(-1000, 1000, 64).astype(np.int32), np.zeros((64, 2), np.int32)
    isa.run(code, kernel="prefix", kernarg=pack(x, y), **launch)
    rows = x.reshape(4, 16)
    np.testing.assert_array_equal(y[:, 0], rows.cumsum(axis=1).reshape(-1))
    np.testing.assert_array_equal(y[:, 1], np.repeat(rows[:, 15], 16))
