"""Element types and how they combine.

Promotion is JAX's: Python scalars are weak (they take the tensor's type, unless they are of a higher kind: a
float with an int tensor gives ``default_float``); two integers give the smallest integer type that holds both; an
integer with a float gives the float; ``float16`` with ``bfloat16`` gives ``float32``; ``uint64`` with a signed
integer gives ``float32``. Integers made from Python values are ``int32``, floats ``float32``.
"""

from __future__ import annotations

import struct
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
        return self.bits // 8

    @property
    def is_float(self) -> bool:
        return self.kind == "f"

    @property
    def is_int(self) -> bool:
        return self.kind in "iu"

    @property
    def min(self) -> Any:
        return {"b": False, "u": 0, "i": -(1 << (self.bits - 1)), "f": -float("inf")}[self.kind]

    @property
    def max(self) -> Any:
        return {"b": True, "u": (1 << self.bits) - 1, "i": (1 << (self.bits - 1)) - 1, "f": float("inf")}[self.kind]

    @property
    def np(self) -> np.dtype[Any]:
        """The NumPy type of the bytes in memory; bfloat16, which NumPy lacks, is uint16 there."""
        return np.dtype({"bool": "?", "bfloat16": "u2"}.get(self.name, self.kind + str(self.itemsize)))

    def cast(self, value: Any) -> Any:
        """A Python bool, int (wrapped) or float (rounded to this type) for ``value``."""
        if self.kind == "b":
            return bool(value)
        if self.kind == "f":
            value = float(value)
            if self.bits == 64:
                return value
            if self is bfloat16:
                bits = int(np.float32(value).view(np.uint32))
                if value == value:
                    bits += 0x7FFF + (bits >> 16 & 1)
                return struct.unpack("<f", struct.pack("<I", bits & 0xFFFF0000))[0]
            with np.errstate(over="ignore"):
                return float((np.float16 if self.bits == 16 else np.float32)(value))
        value = int(value) & ((1 << self.bits) - 1)
        return value - (1 << self.bits) if self.kind == "i" and value >> (self.bits - 1) else value

    def __repr__(self) -> str:
        return f"dtypes.{self.name}"

    def __reduce__(self) -> tuple[Any, ...]:
        return of, (self.name,)


bool_ = DType("bool", "b", 8)
int8, int16, int32, int64 = (DType(f"int{n}", "i", n) for n in (8, 16, 32, 64))
uint8, uint16, uint32, uint64 = (DType(f"uint{n}", "u", n) for n in (8, 16, 32, 64))
float16, float32, float64 = (DType(f"float{n}", "f", n) for n in (16, 32, 64))
bfloat16 = DType("bfloat16", "f", 16)
default_int, default_float = int32, float32

all_types = (bool_, int8, int16, int32, int64, uint8, uint16, uint32, uint64, float16, bfloat16, float32, float64)
_BY_NAME: dict[Any, DType] = {t.name: t for t in all_types} | {bool: bool_, int: default_int, float: default_float,
                                                               "half": float16, "float": float32, "double": float64}
# each type's nearest wider ones; two types promote to the least type that both reach
_WIDER = {bool_: (int8, uint8), int8: (int16,), uint8: (int16, uint16), int16: (int32,), uint16: (int32, uint32),
          int32: (int64,), uint32: (int64, uint64), int64: (float16, bfloat16), uint64: (float16, bfloat16),
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
    common = frozenset.intersection(*(_reach(t) for t in types))
    lowest = max(common, key=lambda t: len(_reach(t)))
    if lowest in (float16, bfloat16) and {float16, bfloat16} <= common:
        return float32          # 64-bit signed and unsigned: neither half type is meant
    return lowest


def sum_type(t: DType) -> DType:
    """The type that a sum or product over ``t`` accumulates in: at least 32 bits for integers."""
    return int32 if t is bool_ else promote(t, uint32 if t.kind == "u" else int32) if t.is_int else t


def __getattr__(name: str) -> DType:
    if name in ("bool", "half", "float", "double"):
        return _BY_NAME[name]
    raise AttributeError(f"dtypes has no {name!r}")
