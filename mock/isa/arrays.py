"""Words that depend on no mode, as NumPy arrays understand them: integers, bits, and IEEE arithmetic to nearest.

Values are arrays of shape [lanes, waves] (vector) or [waves] (scalar); NumPy's broadcasting lets them meet. Types
are explicit: u16 i16 f16 u32 i32 f32 u64 i64 f64, and mask (a bool a lane, or a wave for scalars). No word looks at
the data to decide what Python does next, but for shortcuts that do not change the result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["BITS", "DEFAULT_NAN", "DTYPES", "EXPONENT", "FRACTION", "QUIET", "SIGN", "Array", "Arrays", "dtype_of"]

Array = Any
DTYPES: dict[str, Any] = {
    "u8": np.uint8, "i8": np.int8, "u16": np.uint16, "i16": np.int16, "f16": np.float16, "b16": np.uint16,
    "u32": np.uint32, "i32": np.int32, "f32": np.float32, "b32": np.uint32,
    "u64": np.uint64, "i64": np.int64, "f64": np.float64, "b64": np.uint64}
_F16, _F32, _F64 = np.float16, np.float32, np.float64
BITS: dict[Any, Any] = {_F16: np.uint16, _F32: np.uint32, _F64: np.uint64}
SIGN: dict[Any, Any] = {_F16: np.uint16(0x8000), _F32: np.uint32(0x8000_0000), _F64: np.uint64(1 << 63)}
QUIET: dict[Any, Any] = {_F16: np.uint16(0x0200), _F32: np.uint32(0x0040_0000), _F64: np.uint64(1 << 51)}
EXPONENT: dict[Any, Any] = {_F16: np.uint16(0x7c00), _F32: np.uint32(0x7f80_0000), _F64: np.uint64(0x7ff << 52)}
DEFAULT_NAN: dict[Any, Any] = {_F16: np.uint16(0x7e00), _F32: np.uint32(0x7fc0_0000), _F64: np.uint64(0x7ff8 << 48)}
FRACTION: dict[Any, int] = {_F16: 10, _F32: 23, _F64: 52}


def dtype_of(x: Array) -> Any:
    """The scalar type of an array."""
    return x.dtype.type


class Arrays:
    """See the module."""

    # -- integers and bits ------------------------------------------------------------------------------------

    def add(self, a: Array, b: Array) -> Array:
        return a + b

    def sub(self, a: Array, b: Array) -> Array:
        return a - b

    def mul(self, a: Array, b: Array) -> Array:
        return a * b

    def and_(self, a: Array, b: Array) -> Array:
        return a & b

    def or_(self, a: Array, b: Array) -> Array:
        return a | b

    def xor(self, a: Array, b: Array) -> Array:
        return a ^ b

    def not_(self, a: Array) -> Array:
        return ~a

    def shl(self, a: Array, n: Array) -> Array:
        """Left shift; the amount is taken modulo the width."""
        kind = dtype_of(a)
        return a << self._amount(n, kind)

    def shr(self, a: Array, n: Array) -> Array:
        """Right shift, arithmetic for signed types; the amount is taken modulo the width."""
        return a >> self._amount(n, dtype_of(a))

    @staticmethod
    def _amount(n: Array, kind: type) -> Array:
        width = np.dtype(kind).itemsize * 8 - 1
        if isinstance(n, int):
            return kind(n & width)
        return (n & n.dtype.type(width)).astype(kind)

    def min(self, a: Array, b: Array) -> Array:
        return np.minimum(a, b)

    def max(self, a: Array, b: Array) -> Array:
        return np.maximum(a, b)

    def eq(self, a: Array, b: Array) -> Array:
        return a == b

    def ne(self, a: Array, b: Array) -> Array:
        return a != b

    def lt(self, a: Array, b: Array) -> Array:
        return a < b

    def le(self, a: Array, b: Array) -> Array:
        return a <= b

    def gt(self, a: Array, b: Array) -> Array:
        return a > b

    def ge(self, a: Array, b: Array) -> Array:
        return a >= b

    def select(self, condition: Array, a: Array, b: Array) -> Array:
        """a where the condition holds; either may be a Python number of the other's type."""
        if isinstance(a, (int, float)):
            a = dtype_of(b)(a)
        elif isinstance(b, (int, float)):
            b = dtype_of(a)(b)
        return np.where(condition, a, b)

    def constant(self, kind: str, value: float) -> Array:
        return DTYPES[kind](value)

    def cast(self, a: Array, kind: str) -> Array:
        """Integer to integer: truncate, or extend by the source's signedness. Masks become 0 and 1."""
        return a.astype(DTYPES[kind])

    def bits(self, a: Array, kind: str) -> Array:
        """The same bits as another type of the same width."""
        return a.view(DTYPES[kind])

    def low(self, a: Array) -> Array:
        return a.astype(np.uint32)

    def high(self, a: Array) -> Array:
        return (a.view(np.uint64) >> np.uint64(32)).astype(np.uint32)

    def join(self, low: Array, high: Array) -> Array:
        """Two u32 -> u64."""
        return low.astype(np.uint64) | high.astype(np.uint64) << np.uint64(32)

    def popcount(self, a: Array) -> Array:
        return np.bitwise_count(a).astype(np.uint32)

    def clz(self, a: Array) -> Array:
        """Leading zeros as i32, the width for zero."""
        width = a.dtype.itemsize * 8
        if width <= 32:
            return (width - np.frexp(a.astype(np.float64))[1]).astype(np.int32)
        high, low = self.high(a), self.low(a)
        return np.where(high != 0, self.clz(high), 32 + self.clz(low)).astype(np.int32)

    def ctz(self, a: Array) -> Array:
        """Trailing zeros as i32, the width for zero."""
        kind = dtype_of(a)
        lowest = a & (~a + kind(1))
        return np.where(a == 0, a.dtype.itemsize * 8, a.dtype.itemsize * 8 - 1 - self.clz(lowest)).astype(np.int32)

    def reverse(self, a: Array) -> Array:
        """Bits in reverse order."""
        kind = dtype_of(a)
        width = a.dtype.itemsize * 8
        step, ones = 1, (1 << width) - 1
        while step < width:
            mask = kind(ones // ((1 << step) + 1))
            n = kind(step)
            a = (a >> n & mask) | (a & mask) << n
            step *= 2
        return a

    def mul_high(self, a: Array, b: Array) -> Array:
        """Upper half of the product of two u32 or two i32."""
        wide = np.uint64 if dtype_of(a) is np.uint32 else np.int64
        return (a.astype(wide) * b.astype(wide) >> wide(32)).astype(dtype_of(a))

    def saturate(self, wide: Array, kind: str) -> Array:
        """A wider signed integer clamped to ``kind``'s range."""
        info = np.iinfo(DTYPES[kind])
        return np.clip(wide, info.min, info.max).astype(DTYPES[kind])

    # -- the bits of floats ---------------------------------------------------------------------------------------

    def neg(self, a: Array) -> Array:
        """Sign bit flipped, of NaN too; integers: two's complement."""
        kind = dtype_of(a)
        if kind not in BITS:
            return ~a + kind(1)
        return (a.view(BITS[kind]) ^ SIGN[kind]).view(kind)

    def abs(self, a: Array) -> Array:
        kind = dtype_of(a)
        if kind not in BITS:
            return np.where(a < 0, ~a + kind(1), a)
        return (a.view(BITS[kind]) & ~SIGN[kind]).view(kind)

    def copysign(self, a: Array, sign_of: Array) -> Array:
        kind = dtype_of(a)
        return (a.view(BITS[kind]) & ~SIGN[kind] | sign_of.view(BITS[kind]) & SIGN[kind]).view(kind)

    def isnan(self, a: Array) -> Array:
        return np.isnan(a)

    def signbit(self, a: Array) -> Array:
        return np.signbit(a)

    def is_signaling(self, a: Array) -> Array:
        kind = dtype_of(a)
        return np.isnan(a) & (a.view(BITS[kind]) & QUIET[kind] == 0)

    def quiet(self, a: Array) -> Array:
        """NaNs made quiet; everything else unchanged."""
        kind = dtype_of(a)
        bits = a.view(BITS[kind])
        return np.where(np.isnan(a), bits | QUIET[kind], bits).view(kind)

    @staticmethod
    def kind_of(a: Array) -> str:
        return f"{a.dtype.kind}{8 * a.dtype.itemsize}"

    def nan(self, kind: str) -> Array:
        """The positive quiet NaN that invalid operations give."""
        return DEFAULT_NAN[DTYPES[kind]].view(DTYPES[kind])

    def same(self, a: Array, b: Array) -> Array:
        """Equal bits."""
        bits = BITS[dtype_of(a)]
        return a.view(bits) == b.view(bits)

    def exponent(self, a: Array) -> Array:
        """The biased exponent field, i32."""
        kind = dtype_of(a)
        shift = FRACTION[kind]
        return ((a.view(BITS[kind]) & EXPONENT[kind]) >> BITS[kind](shift)).astype(np.int32)

    def mantissa(self, a: Array) -> Array:
        """The fraction field."""
        kind = dtype_of(a)
        return a.view(BITS[kind]) & ~(EXPONENT[kind] | SIGN[kind])

    def rarely(self, condition: Array, value: Array, other: Callable[..., Array], *sources: Array) -> Array:
        """``value``, or where the condition holds ``other(*sources)``, which is computed only there."""
        if not np.any(condition):
            return value
        shape = np.broadcast_shapes(np.shape(condition), np.shape(value), *(np.shape(s) for s in sources))
        where = np.broadcast_to(condition, shape)
        result = np.array(np.broadcast_to(value, shape))
        result[where] = other(*(np.broadcast_to(s, shape)[where] for s in sources))
        return result

    # -- IEEE 754 arithmetic to nearest with denormals, whatever the mode; NaNs as they come ------------------------

    def near_add(self, a: Array, b: Array) -> Array:
        return a + b

    def near_sub(self, a: Array, b: Array) -> Array:
        return a - b

    def near_mul(self, a: Array, b: Array) -> Array:
        return a * b

    def near_div(self, a: Array, b: Array) -> Array:
        return a / b

    def near_sqrt(self, a: Array) -> Array:
        return np.sqrt(a)

    def near_int(self, a: Array) -> Array:
        """To an integer, ties to even."""
        return np.rint(a)

    def near_cast(self, a: Array, kind: str) -> Array:
        """Between floats, rounded once; integers of up to 53 bits to f64; f64 in i32's range to i32 (truncated)."""
        if kind[0] == "i":
            return np.where(np.isnan(a), 0.0, a).astype(DTYPES[kind])
        result = a.astype(DTYPES[kind])
        return self.convert_nan(a, result) if a.dtype.kind == "f" else result

    def convert_nan(self, a: Array, result: Array) -> Array:
        """NaNs keep their sign and the top of their payload, and become quiet."""
        where = np.isnan(a)
        if not where.any():
            return result
        source, target = dtype_of(a), dtype_of(result)
        bits = a.view(BITS[source]).astype(np.uint64)
        payload = bits & np.uint64((1 << FRACTION[source]) - 1)
        shift = FRACTION[target] - FRACTION[source]
        payload = payload << np.uint64(shift) if shift >= 0 else payload >> np.uint64(-shift)
        sign = np.where(np.signbit(a), SIGN[target], BITS[target](0))
        nan = payload.astype(BITS[target]) | EXPONENT[target] | QUIET[target] | sign
        return np.where(where, nan, result.view(BITS[target])).view(target)
