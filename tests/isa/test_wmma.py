"""Matrix tiles from clang's builtins against plain matrix products."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from programs import Program, Registers
from test_kernels import FAST, pack

import mock.isa as isa
from mock.isa.decode import Instruction, decode, opcode_table
from mock.isa.encoding import ENCODINGS


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


def matrix(op: int, rng: random.Random, lanes: int) -> Instruction:
    """A random form: A in v0.., B in v8.., C in v16.. or 0, D over C or over A."""
    entry = opcode_table("VOP3P")[op]
    values = {"op": op, "src0": 256, "src1": 264, "src2": rng.choice([272, 272, 128]), "vdst": rng.choice([16, 16, 0])}
    for field, bits in (("neg", 3), ("neg_hi", 3), ("op_sel", 3), ("clamp", 1)):
        values[field] = rng.getrandbits(bits)
    values["op_sel_hi"], values["op_sel_hi2"] = 3, 1
    packed = ENCODINGS["VOP3P"].pack(**values) & ~entry.fixed | entry.value
    return decode(packed.to_bytes(8, "little") + bytes(16))


@pytest.mark.parametrize("lanes", [32, 64])
@pytest.mark.parametrize("op", [op for op, o in opcode_table("VOP3P").items() if "wmma" in o.mnemonic])
def test_both_executors_and_the_model(op: int, lanes: int) -> None:
    """All modifiers, NaNs and infinities among the elements, any EXEC."""
    rng = random.Random(op * lanes)
    for turn in range(3):
        start = Registers(lanes, rng.getrandbits(30), 0x3f0, ("full", "some", "zero")[turn])
        if turn == 0:       # ordinary numbers, so that results are no NaNs
            start.vgpr[:] = np.random.default_rng(op).normal(0, 1, (24, 2 * lanes)).astype(np.float16).view(np.uint32)
        program = Program([matrix(op, rng, lanes)], start)
        model, interpreted = program.modelled(), program.interpreted()
        assert not interpreted.differences(model), f"{program.instructions[0]}: {interpreted.differences(model)[:4]}"
        for optimise in (False, True)[:1 if turn else 2]:
            native = program.compiled(optimise)
            assert not native.differences(model) and not native.interpreted, native.differences(model)[:4]
