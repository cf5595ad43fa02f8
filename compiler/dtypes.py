"""Element types and how they combine.

Promotion is JAX's: Python scalars are weak (they take the tensor's type, unless they are of a higher kind: a
float with an int tensor gives ``default_float``); two integers give the smallest integer type that holds both; an
integer with a float gives the float; ``float16`` with ``bfloat16`` gives ``float32``, and so do the two fp8 types
together; ``uint64`` with a signed integer gives ``float32``. Integers made from Python values are ``int32``, floats
``float32``.

fp8 is OCP's (Open Compute Project, "8-bit Floating Point Specification", 1.0): ``float8_e4m3`` has no infinities, and
what is too large becomes 448, the greatest number; ``float8_e5m2`` has them. They are stored as
bytes and computed with as float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

__all__ = [
    "DType",
    "DTypeLike",
    "of",
    "of_scalar",
    "promote",
    "sum_type",
    "all_types",
    "bool_",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float8_e4m3",
    "float8_e5m2",
    "float16",
    "bfloat16",
    "float32",
    "float64",
    "default_int",
    "default_float",
]

DTypeLike = Any
"""A :class:`DType`, its name, a NumPy dtype, or one of the Python types bool, int and float."""


@dataclass(frozen=True, eq=False)
class DType:
    """One element type. ``kind`` is b(ool), i(nt), u(nsigned) or f(loat); ``bits`` is its size in memory (bool: 8)."""

    name: str
    kind: str
    bits: int

    @property
    def itemsize(self) -> int:
        """Bytes an element."""
        return self.bits // 8

    @property
    def is_float(self) -> bool:
        """Whether it is a float, of any width."""
        return self.kind == "f"

    @property
    def is_int(self) -> bool:
        """Whether it is an integer, signed or not; bool is none."""
        return self.kind in "iu"

    @property
    def coded(self) -> bool:
        """A float type that neither targets nor NumPy compute with: its numbers lie in memory as integer codes."""
        return self.kind == "f" and (self.bits == 8 or self.name == "bfloat16")

    @property
    def finite_max(self) -> Any:
        """The greatest number that is not infinite."""
        if not self.is_float:
            return self.max
        coded = {"bfloat16": (2 - 2.0 ** -7) * 2.0 ** 127, "float8_e4m3": 448.0, "float8_e5m2": 57344.0}
        return coded.get(self.name) or float(np.finfo(self.np).max)

    @property
    def eps(self) -> float:
        """The distance from 1 to the next number."""
        coded = {"bfloat16": 2.0 ** -7, "float8_e4m3": 2.0 ** -3, "float8_e5m2": 2.0 ** -2}
        return coded.get(self.name) or float(np.finfo(self.np).eps)

    @property
    def min(self) -> Any:
        """The least value; of floats, minus infinity."""
        return {"b": False, "u": 0, "i": -(1 << (self.bits - 1)), "f": -float("inf")}[self.kind]

    @property
    def max(self) -> Any:
        """The greatest value; of floats, infinity."""
        return {"b": True, "u": (1 << self.bits) - 1, "i": (1 << (self.bits - 1)) - 1, "f": float("inf")}[self.kind]

    @property
    def np(self) -> np.dtype[Any]:
        """The NumPy type of the bytes in memory; for float types that NumPy lacks, unsigned integers."""
        return np.dtype("?" if self.kind == "b" else ("u" if self.coded else self.kind) + str(self.itemsize))

    @property
    def np_values(self) -> Any:
        """The NumPy type in which values come: float32 for those that NumPy lacks."""
        return np.dtype(np.float32) if self.coded else self.np

    def encode(self, values: Any) -> Any:
        """Values as they lie in memory, rounded to nearest, ties to even."""
        if not self.coded:
            return values if values.dtype == self.np else values.astype(self.np)
        x = np.ascontiguousarray(values, np.float32)
        if self.bits == 16:
            bits = x.view(np.uint32).astype(np.uint64)
            return np.where(np.isnan(x), bits >> 16 | 0x40, bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype(np.uint16)
        magnitudes = _fp8_magnitudes(self.name)
        wide = np.abs(x).astype(np.float64)
        low = np.clip(np.searchsorted(magnitudes, wide, "right") - 1, 0, len(magnitudes) - 2)
        middle = (magnitudes[low] + magnitudes[low + 1]) / 2
        code = low + ((wide > middle) | ((wide == middle) & (low & 1 == 1)))
        code = np.minimum(code, 0x7E if self.name == "float8_e4m3" else 0x7C)   # saturates; or infinity's code
        code = np.where(np.isnan(x), 0x7F, code)
        return (code | np.where(np.signbit(x), 0x80, 0)).astype(np.uint8)

    def decode(self, codes: Any) -> Any:
        """The values of what lies in memory, in :attr:`np_values`."""
        if not self.coded:
            return codes
        if self.bits == 16:
            return (codes.astype(np.uint32) << 16).view(np.float32)
        table = np.full(256, np.nan, np.float32)
        magnitudes = _fp8_magnitudes(self.name)[:-1]
        table[:len(magnitudes)], table[128:128 + len(magnitudes)] = magnitudes, -magnitudes
        if self.name == "float8_e5m2":
            table[0x7C], table[0xFC] = np.inf, -np.inf
        return table[codes]

    def cast(self, value: Any) -> Any:
        """A Python bool, int (wrapped) or float (rounded to this type) for ``value``."""
        if self.kind == "b":
            return bool(value)
        if self.kind == "f":
            value = float(value)
            if self.bits == 64:
                return value
            if self.coded:
                with np.errstate(over="ignore"):
                    return float(self.decode(self.encode(np.array([value], np.float32)))[0])
            with np.errstate(over="ignore"):
                return float((np.float16 if self.bits == 16 else np.float32)(value))
        value = int(value) & ((1 << self.bits) - 1)
        return value - (1 << self.bits) if self.kind == "i" and value >> (self.bits - 1) else value

    def __repr__(self) -> str:
        return f"dtypes.{self.name}"

    def __reduce__(self) -> tuple[Any, ...]:
        return of, (self.name,)


@lru_cache(None)
def _fp8_magnitudes(name: str) -> np.ndarray:
    """The numbers that codes 0, 1, 2 ... stand for, and what would come next: the first that is no number."""
    mantissa, bias, count = (3, 7, 0x7F) if name == "float8_e4m3" else (2, 15, 0x7C)
    codes = np.arange(count + 1)
    exponent, fraction = codes >> mantissa, codes & ((1 << mantissa) - 1)
    return np.where(exponent == 0, fraction * 2.0 ** (1 - bias - mantissa),
                    (1 + fraction * 2.0 ** -mantissa) * 2.0 ** (exponent - bias))


bool_ = DType("bool", "b", 8)
int8, int16, int32, int64 = (DType(f"int{n}", "i", n) for n in (8, 16, 32, 64))
uint8, uint16, uint32, uint64 = (DType(f"uint{n}", "u", n) for n in (8, 16, 32, 64))
float16, float32, float64 = (DType(f"float{n}", "f", n) for n in (16, 32, 64))
bfloat16 = DType("bfloat16", "f", 16)
float8_e4m3, float8_e5m2 = DType("float8_e4m3", "f", 8), DType("float8_e5m2", "f", 8)
default_int, default_float = int32, float32

all_types = (bool_, int8, int16, int32, int64, uint8, uint16, uint32, uint64, float8_e4m3, float8_e5m2, float16,
             bfloat16, float32, float64)
_BY_NAME: dict[Any, DType] = {t.name: t for t in all_types} | {bool: bool_, int: default_int, float: default_float,
                                                               "half": float16, "float": float32, "double": float64,
                                                               "float8_e4m3fn": float8_e4m3, "short": int16,
                                                               "long": int64, "int": int32, "byte": uint8}
_OTHER_NAMES = {"fp8e4m3": "float8_e4m3", "fp8e5m2": "float8_e5m2", "char": "int8", "uchar": "uint8",
                "ushort": "uint16", "uint": "uint32", "ulong": "uint64"}
# each type's nearest wider ones; two types promote to the least type that both reach
_WIDER = {bool_: (int8, uint8), int8: (int16,), uint8: (int16, uint16), int16: (int32,), uint16: (int32, uint32),
          int32: (int64,), uint32: (int64, uint64), int64: (float8_e4m3, float8_e5m2),
          uint64: (float8_e4m3, float8_e5m2), float8_e4m3: (float16, bfloat16), float8_e5m2: (float16, bfloat16),
          float16: (float32,), bfloat16: (float32,), float32: (float64,), float64: ()}


def of(like: DTypeLike) -> DType:
    """The :class:`DType` that ``like`` names. :raises TypeError: if it names none."""
    if isinstance(like, DType):
        return like
    try:
        if (found := _BY_NAME.get(like)) is not None:
            return found
        return _BY_NAME[np.dtype(like).name]
    except (KeyError, TypeError):
        raise TypeError(f"{like!r} is no element type; use one of {', '.join(t.name for t in all_types)}") from None


def of_scalar(value: Any) -> DType:
    """The default type of a Python scalar."""
    if isinstance(value, bool | np.bool_):
        return bool_
    return default_int if isinstance(value, int | np.integer) else default_float


@lru_cache(None)
def _reach(t: DType) -> frozenset[DType]:
    return frozenset({t}).union(*(_reach(w) for w in _WIDER[t]))


@lru_cache(None)
def promote(*types: DType) -> DType:
    """The type of an operation on tensors of these types."""
    lowest = frozenset(types)
    while len(lowest) > 1:      # of several least common types none is meant, but what they promote to
        common = frozenset.intersection(*(_reach(t) for t in lowest))
        lowest = frozenset(t for t in common if not any(t in _reach(s) for s in common if s is not t))
    return next(iter(lowest))


def sum_type(t: DType) -> DType:
    """The type that a sum or product over ``t`` accumulates in: at least 32 bits for integers."""
    return int32 if t is bool_ else promote(t, uint32 if t.kind == "u" else int32) if t.is_int else t


def is_float(t: DType) -> bool:
    return t.is_float


def is_int(t: DType) -> bool:
    return t.is_int


def is_unsigned(t: DType) -> bool:
    return t.kind == "u"


def min(t: DType) -> Any:
    """The least value of a type: -inf for floats."""
    return t.min


def max(t: DType) -> Any:
    """The greatest value of a type: inf for floats."""
    return t.max


def __getattr__(name: str) -> DType:
    if name in _OTHER_NAMES:
        return _BY_NAME[_OTHER_NAMES[name]]
    if name in ("bool", "half", "float", "double", "float8_e4m3fn", "short", "long", "int", "byte"):
        return _BY_NAME[name]
    raise AttributeError(f"dtypes has no {name!r}")
