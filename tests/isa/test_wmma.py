"""Matrix tiles from clang's builtins against plain matrix products."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_kernels import FAST, pack

import mock.isa as isa


@pytest.fixture(params=FAST, ids=str)
def tile(request: pytest.FixtureRequest, compile_kernels: Any) -> Any:
    level, executor = request.param
    code = compile_kernels("wmma.cl", level)

    def run(kernel: str, *arguments: np.ndarray) -> None:
        isa.run(code, kernel=kernel, grid=(1,), block=(32,), kernarg=pack(*arguments), executor=executor)
    return run


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def chain(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """One float32 rounding a step; the products of halves are exact."""
    for k in range(16):
        c = c + a[:, k:k + 1].astype(np.float32) * b[k:k + 1].astype(np.float32)
    return c


def test_f32_from_f16(tile: Any, rng: np.random.Generator) -> None:
    a, b = rng.standard_normal((2, 16, 16)).astype(np.float16)
    c = rng.standard_normal((16, 16)).astype(np.float32)
    want = chain(a, b, c)
    tile("f32_f16", a, b, c)
    np.testing.assert_array_equal(c, want)


def test_f32_from_bf16(tile: Any, rng: np.random.Generator) -> None:
    bits = (rng.standard_normal((2, 16, 16)).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    a, b = bits
    wide = (bits.astype(np.uint32) << 16).view(np.float32)
    c = rng.standard_normal((16, 16)).astype(np.float32)
    want = chain(wide[0], wide[1], c)
    tile("f32_bf16", a, b, c)
    np.testing.assert_array_equal(c, want)


def test_f16_in_the_upper_halves(tile: Any, rng: np.random.Generator) -> None:
    a, b, c = rng.standard_normal((3, 16, 16)).astype(np.float16)
    want = chain(a, b, c.astype(np.float32)).astype(np.float16)
    tile("f16_f16", a, b, c)
    np.testing.assert_array_equal(c, want)


def test_signed_times_unsigned_bytes(tile: Any, rng: np.random.Generator) -> None:
    a, b = rng.integers(-128, 128, (16, 16)).astype(np.int8), rng.integers(0, 256, (16, 16)).astype(np.uint8)
    c = rng.integers(-1000, 1000, (16, 16)).astype(np.int32)
    want = a.astype(np.int32) @ b.astype(np.int32) + c
    tile("i32_iu8", a, np.ascontiguousarray(b.T), c)
    np.testing.assert_array_equal(c, want)


def test_nibbles_saturate(tile: Any, rng: np.random.Generator) -> None:
    a, b = rng.integers(0, 16, (16, 16)), rng.integers(-8, 8, (16, 16))
    c = rng.choice([2 ** 31 - 5, -2 ** 31 + 5, 0], (16, 16)).astype(np.int32)
    want = np.clip(a @ b + c.astype(np.int64), -2 ** 31, 2 ** 31 - 1)

    def packed(x: np.ndarray) -> np.ndarray:
        return ((x[:, 0::2] & 15) | (x[:, 1::2] & 15) << 4).astype(np.uint8)
    tile("i32_iu4", packed(a), packed(np.ascontiguousarray(b.T)), c)
    np.testing.assert_array_equal(c, want)
