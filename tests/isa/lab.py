"""A bench for single instructions: registers in, a few lines of assembly, registers out."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from model_floats import from_fraction

from mock.isa.access import HostMemory
from mock.isa.dispatch import Dispatch
from mock.isa.interpreter import Machine
from mock.isa.memory import Lds
from mock.isa.state import SGPRS, State

WAVES = 16
MODE = 0x3f0            # nearest, all denormals, DX10_CLAMP, IEEE


class Lab:
    """One state and the means to step it."""

    def __init__(self, *, lanes: int = 32, waves: int = WAVES, mode: int = MODE, lds_bytes: int = 1024) -> None:
        vgpr = np.full((64, lanes, waves), 0xdeadbeef, np.uint32)
        sgpr = np.full((SGPRS, waves), 0xcafef00d, np.uint32)
        sgpr[126:128] = 0xffffffff
        self.lds = Lds(1, lds_bytes)
        per_wave = {"workgroup": np.zeros(waves, np.int64), "wave": np.arange(waves, dtype=np.uint32),
                    "id": np.arange(waves, dtype=np.uint32), "lds": np.zeros(waves, np.int64),
                    "scratch": np.zeros(waves, np.uint64), "scc": np.zeros(waves, np.bool_),
                    "shared_base": np.full(waves, 1 << 48, np.uint64), "private_base": np.full(waves,
                    2 << 48, np.uint64)}
        self.state = State(lanes, vgpr, sgpr, per_wave, 0, mode)

    def run(self, code: bytes) -> State:
        buffer = np.frombuffer(code.ljust(-(-len(code) // 4096) * 4096 + 8192, b"\0"), np.uint8)
        vgprs = 7 if self.state.lanes == 32 else 15         # 64, in units of 8 or 4
        dispatch = Dispatch(code_address=int(buffer.ctypes.data) & ~3, rsrc1=vgprs, rsrc2=0, rsrc3=0,
                            user_sgprs=(), grid=(1, 1, 1), block=(32, 1, 1), wave_size=self.state.lanes)
        machine = Machine(dispatch, HostMemory(), lds=self.lds)
        pc = int(buffer.ctypes.data) % 4
        end = pc + len(code)
        while pc < end:
            machine.step(pc)(self.state)
            pc += machine.code.instruction(pc).size
        return self.state

    def exec_zero(self) -> None:
        self.state.sgpr[126:128] = 0
        self.state.refresh_exec()

    def set64(self, register: int, values: np.ndarray) -> None:
        bits = values.view(np.uint64)
        self.state.vgpr[register] = bits.astype(np.uint32)
        self.state.vgpr[register + 1] = (bits >> np.uint64(32)).astype(np.uint32)

    def get64(self, register: int, kind: Any = np.uint64) -> np.ndarray:
        return self.state.read_vgpr64(register).view(kind)


def integers(rng: np.random.Generator, bits: int, shape: tuple[int, ...]) -> np.ndarray:
    """Random patterns of all magnitudes, with the ends of the range among them."""
    kind: Any = {16: np.uint16, 32: np.uint32, 64: np.uint64}[bits]
    values = rng.integers(0, 2 ** bits, shape, dtype=kind) >> rng.integers(0, bits, shape, dtype=kind)
    ends = np.array([0, 1, 2, 2 ** bits - 1, 2 ** (bits - 1), 2 ** (bits - 1) - 1, 2 ** (bits - 1) + 1, 31, 32], kind)
    return np.where(rng.random(shape) < 0.25, rng.choice(ends, shape), values)


def floats(rng: np.random.Generator, kind: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Bit patterns: numbers near one another, near the ends of the range, denormals, infinities, NaNs."""
    info = np.finfo(kind)
    unsigned: Any = {2: np.uint16, 4: np.uint32, 8: np.uint64}[np.dtype(kind).itemsize]
    near = rng.standard_normal(shape).astype(kind)
    wild = rng.integers(0, 2 ** (8 * np.dtype(kind).itemsize), shape, dtype=unsigned).view(kind)
    tiny = (rng.integers(0, 2 ** (info.nmant + 2), shape, dtype=unsigned)).view(kind)
    short = (rng.integers(-8, 9, shape) * 2.0 ** rng.integers(-info.nmant - 3, 4, shape)).astype(kind)
    special = rng.choice(np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1, -1, info.max, info.tiny,
                                   info.smallest_subnormal, 2.0 ** (info.nmant // 2)], kind), shape)
    pick = rng.integers(0, 10, shape)
    return np.select([pick < 3, pick < 5, pick < 6, pick < 8], [near, wild, tiny, short], special).astype(kind)


def rounded(value: Fraction, kind: Any, rounding: int, negative_zero: bool) -> float:
    return from_fraction(value, kind, rounding, negative_zero=negative_zero)


def exact_fma(a: float, b: float, c: float, kind: Any, rounding: int = 0) -> float:
    """IEEE fused multiply-add by rationals; NaN for every invalid case."""
    if any(math.isnan(x) for x in (a, b, c)):
        return math.nan
    if math.isinf(a) or math.isinf(b):
        if a == 0 or b == 0:
            return math.nan
        product = math.copysign(math.inf, math.copysign(1, a) * math.copysign(1, b))
        return math.nan if math.isinf(c) and c != product else product
    if math.isinf(c):
        return c
    value = Fraction(a) * Fraction(b) + Fraction(c)
    signs = math.copysign(1, a) * math.copysign(1, b) < 0, math.copysign(1, c) < 0
    negative = signs[0] if signs[0] == signs[1] else rounding == 2
    return rounded(value, kind, rounding, negative)
