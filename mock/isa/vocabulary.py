"""The words that the semantics table is written in, as NumPy arrays understand them.

Values are arrays of shape [lanes, waves] (vector) or [waves] (scalar); NumPy's broadcasting lets them meet. Types
are explicit: u16 i16 f16 u32 i32 f32 u64 i64 f64, and mask (a bool a lane, or a wave for scalars). No word looks at
the data to decide what Python does next, but for shortcuts that do not change the result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mock.isa import exact, soft
from mock.isa.arrays import BITS, DEFAULT_NAN, DTYPES, EXPONENT, QUIET, SIGN, Array, Arrays, dtype_of
from mock.isa.transcendental import Transcendental
from mock.isa.wmma import multiply_tiles

if TYPE_CHECKING:
    from mock.isa.state import State

__all__ = ["DTYPES", "Mode", "Vocabulary"]

_TINY: dict[Any, float] = {np.float16: 2.0 ** -14, np.float32: 2.0 ** -126, np.float64: 2.0 ** -1022}


class Mode:
    """The wave's MODE register (RDNA3 ISA, "Mode register"): rounding, denormals, clamp and IEEE rules."""

    __slots__ = ("denorm_16_64", "denorm_32", "dx10_clamp", "fp16_overflow", "ieee", "round_16_64", "round_32", "value")

    def __init__(self, value: int) -> None:
        self.value = value
        self.round_32, self.round_16_64 = value & 3, value >> 2 & 3
        self.denorm_32, self.denorm_16_64 = value >> 4 & 3, value >> 6 & 3
        self.dx10_clamp, self.ieee = bool(value >> 8 & 1), bool(value >> 9 & 1)
        self.fp16_overflow = bool(value >> 23 & 1)

    def __repr__(self) -> str:
        names = ("nearest", "to +inf", "to -inf", "to zero")
        return (f"Mode({self.value:#x}: round32={names[self.round_32]} round16_64={names[self.round_16_64]} "
                f"denorm32={self.denorm_32:#b} denorm16_64={self.denorm_16_64:#b} dx10_clamp={self.dx10_clamp} "
                f"ieee={self.ieee})")


class Vocabulary(Transcendental, Arrays):
    """Arithmetic under one :class:`Mode`; ``state`` is who executes (for words that look across lanes)."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.state: State = None        # type: ignore[assignment]
        rounding: dict[Any, int] = {np.float32: mode.round_32, np.float16: mode.round_16_64,
                                    np.float64: mode.round_16_64}
        denorm: dict[Any, int] = {np.float32: mode.denorm_32, np.float16: mode.denorm_16_64,
                                  np.float64: mode.denorm_16_64}
        self.rounding = rounding
        self.flush_in = {k: not d & 1 for k, d in denorm.items()}
        self.flush_out = {k: not d & 2 for k, d in denorm.items()}
        # IEEE nearest with denormals: what NumPy does by itself.
        bounded = {np.float16} if mode.fp16_overflow else set()
        self.plain = {k: rounding[k] == exact.NEAREST and denorm[k] == 3 and k not in bounded for k in rounding}

    # -- floats -----------------------------------------------------------------------------------------------

    def is_denormal(self, a: Array) -> Array:
        kind = dtype_of(a)
        return (a != 0) & (np.abs(a) < kind(_TINY[kind]))

    def flush(self, a: Array) -> Array:
        """Denormals become zero of the same sign, whatever the mode."""
        kind = dtype_of(a)
        bits = a.view(BITS[kind])
        return np.where(bits & EXPONENT[kind] == 0, bits & SIGN[kind], bits).view(kind)

    def canonical(self, a: Array) -> Array:
        """An input as the mode lets arithmetic see it."""
        return self.flush(a) if self.flush_in[dtype_of(a)] else a

    def finish(self, result: Array, *sources: Array) -> Array:
        """A result as the mode lets it out: denormals, overflow and NaNs."""
        kind = dtype_of(result)
        if self.flush_out[kind]:
            result = self.flush(result)
        return self._nans(self._bounded(result, *sources), *sources)

    def _bounded(self, result: Array, *sources: Array) -> Array:
        """FP16_OVFL: an overflow of f16 gives the largest number; infinities that came in may come out."""
        if not self.mode.fp16_overflow or dtype_of(result) is not np.float16:
            return result
        infinite = np.isinf(result)
        for source in sources:
            infinite = infinite & ~np.isinf(source)
        return np.where(infinite, np.copysign(np.float16(65504), result), result)

    def _nans(self, result: Array, *sources: Array) -> Array:
        """A NaN result is the first NaN operand, quiet, or else the positive default NaN."""
        if not np.isnan(result.max() if result.ndim else result):
            return result
        kind = dtype_of(result)
        where = np.isnan(result)
        bits = np.full(result.shape, DEFAULT_NAN[kind], BITS[kind])
        for source in reversed(sources):
            bits = np.where(np.isnan(source), np.asarray(source, kind).view(BITS[kind]) | QUIET[kind], bits)
        return np.where(where, bits, result.view(BITS[kind])).view(kind)

    def fadd(self, a: Array, b: Array) -> Array:
        if self.plain[dtype_of(a)]:
            return self._nans(a + b, a, b)
        a, b = self.canonical(a), self.canonical(b)
        return self.finish(self._total(a, b), a, b)

    def fsub(self, a: Array, b: Array) -> Array:
        if self.plain[dtype_of(a)]:
            return self._nans(a - b, a, b)
        a, b = self.canonical(a), self.canonical(b)
        return self.finish(self._total(a, self.neg(b)), a, b)

    def _total(self, a: Array, b: Array) -> Array:
        """The sum in the mode's rounding."""
        kind = dtype_of(a)
        rounding = self.rounding[kind]
        if kind is np.float64:
            return exact.add_f64(a, b, rounding)
        return exact.narrow(self._zero_sum(exact.add_odd(a, b), a, b, rounding), kind, rounding)

    @staticmethod
    def _zero_sum(total: Array, a: Array, b: Array, rounding: int) -> Array:
        """x + -x is -0 when rounding to negative infinity. ``total`` is zero only where the exact sum is."""
        if rounding != exact.TO_NEGATIVE:
            return total
        return np.where((total == 0) & (np.signbit(a) | np.signbit(b)), -0.0, total)

    def fmul(self, a: Array, b: Array) -> Array:
        kind = dtype_of(a)
        if self.plain[kind]:
            return self._nans(a * b, a, b)
        a, b = self.canonical(a), self.canonical(b)
        rounding = self.rounding[kind]
        if kind is np.float64:
            return self.finish(exact.mul_f64(a, b, rounding), a, b)
        return self.finish(exact.narrow(np.multiply(a, b, dtype=np.float64), kind, rounding), a, b)

    def fma(self, a: Array, b: Array, c: Array) -> Array:
        """a * b + c, rounded once."""
        kind = dtype_of(a)
        rounding = self.rounding[kind]
        if kind is np.float32 and self.plain[kind]:
            return self._nans(exact.fma_f32(a, b, c), a, b, c)
        a, b, c = self.canonical(a), self.canonical(b), self.canonical(c)
        if kind is np.float64:
            return self.finish(exact.fma_f64(a, b, c, rounding), a, b, c)
        wide = exact.fma_odd(a, b, c)
        if rounding == exact.TO_NEGATIVE:
            wide = self._zero_sum(wide, np.multiply(a, b, dtype=np.float64), c, rounding)
        return self.finish(exact.narrow(wide, kind, rounding), a, b, c)

    def fma_scaled(self, a: Array, b: Array, c: Array, scale: Array) -> Array:
        """(a * b + c) * scale, rounded once; ``scale`` is a power of two."""
        kind = dtype_of(a)
        if kind is np.float64:
            a, b, c = self.canonical(a), self.canonical(b), self.canonical(c)
            return self.finish(exact.fma_scaled_f64(a, b, c, scale, self.rounding[kind]), a, b, c)
        a, b, c = self.canonical(a), self.canonical(b), self.canonical(c)
        total = self._zero_sum(exact.fma_odd(a, b, c), np.multiply(a, b, dtype=np.float64), c, self.rounding[kind])
        return self.finish(exact.narrow(total * scale, kind, self.rounding[kind]), a, b, c)

    def fmin(self, a: Array, b: Array) -> Array:
        return self._extreme(a, b, smaller=True)

    def fmax(self, a: Array, b: Array) -> Array:
        return self._extreme(a, b, smaller=False)

    def _extreme(self, a: Array, b: Array, smaller: bool) -> Array:
        """A number wins over a NaN; with IEEE mode a signalling NaN wins, made quiet. -0 is less than +0."""
        a, b = self.canonical(a), self.canonical(b)
        less: Array = (a < b) | ((a == b) & np.signbit(a))
        result: Array = np.where(less == smaller, a, b)
        if np.isnan(np.add(a, b)).any():
            result = np.where(np.isnan(a), b, np.where(np.isnan(b), a, result))
            if self.mode.ieee:
                result = np.where(self.is_signaling(b), self.quiet(b), result)
                result = np.where(self.is_signaling(a), self.quiet(a), result)
        return result

    def compare(self, relation: str, a: Array, b: Array) -> Array:
        """lt eq le gt lg ge o u and their negations nge nlg ngt nle neq nlt; f and t."""
        a, b = self.canonical(a), self.canonical(b)
        if relation == "lt":
            return a < b
        if relation == "eq":
            return a == b
        if relation == "le":
            return a <= b
        if relation == "gt":
            return a > b
        if relation == "ge":
            return a >= b
        if relation == "lg":
            return (a < b) | (a > b)
        if relation == "o":
            return ~(np.isnan(a) | np.isnan(b))
        if relation == "u":
            return np.isnan(a) | np.isnan(b)
        if relation in ("f", "t"):
            return np.full(np.broadcast_shapes(np.shape(a), np.shape(b)), relation == "t")
        opposite = {"nge": "ge", "nlg": "lg", "ngt": "gt", "nle": "le", "neq": "eq", "nlt": "lt"}[relation]
        return ~self.compare(opposite, a, b)

    def classify(self, a: Array, wanted: Array) -> Array:
        """v_cmp_class: is ``a`` of one of the ten classes whose bits are set in ``wanted`` (u32)?"""
        kind = dtype_of(a)
        a = self.canonical(a)
        negative, nan, infinite, zero = np.signbit(a), np.isnan(a), np.isinf(a), a == 0
        denormal = self.is_denormal(a)
        signed = np.where(infinite, 0, np.where(zero, 3, np.where(denormal, 2, 1)))     # distance from infinity
        index = np.where(nan, np.where(a.view(BITS[kind]) & QUIET[kind] == 0, 0, 1),
                         np.where(negative, 2 + signed, 9 - signed))
        return (wanted >> index.astype(np.uint32)) & np.uint32(1) != 0

    def floor(self, a: Array) -> Array:
        return self._unary(np.floor, a)

    def ceil(self, a: Array) -> Array:
        return self._unary(np.ceil, a)

    def trunc(self, a: Array) -> Array:
        return self._unary(np.trunc, a)

    def round_even(self, a: Array) -> Array:
        return self._unary(np.rint, a)

    def _unary(self, function: Any, a: Array) -> Array:
        a = self.canonical(a)
        return self.finish(function(a), a)

    def fract(self, a: Array) -> Array:
        """a - floor(a) in the mode's rounding, below one (AMD, V_FRACT: "Obey round mode, result clamped")."""
        a = self.canonical(a)
        kind = dtype_of(a)
        rest = self._total(a, self.neg(np.floor(a)))
        return self.finish(np.minimum(rest, np.nextafter(kind(1), kind(0))), a)

    def ldexp(self, a: Array, n: Array) -> Array:
        """a * 2**n, n an i32, rounded once."""
        kind = dtype_of(a)
        a = self.canonical(a)
        n = np.clip(n, -4400, 4400).astype(np.int32)
        if kind is np.float64:
            if self.rounding[kind] == exact.NEAREST:
                return self.finish(np.ldexp(a, n), a)
            a, n = np.broadcast_arrays(a, n)
            return self.finish(soft.fma(self, a, np.float64(1), self.copysign(np.float64(0), a), self.rounding[kind],
                                        n), a)
        wide = np.ldexp(a.astype(np.float64), np.clip(n, -600, 600))
        return self.finish(exact.narrow(wide, kind, self.rounding[kind]), a)

    def frexp_mantissa(self, a: Array) -> Array:
        """In [0.5, 1); infinities and NaN unchanged."""
        a = self.canonical(a)
        return self._nans(np.where(np.isfinite(a), np.frexp(a)[0], a), a)

    def frexp_exponent(self, a: Array) -> Array:
        """i32; 0 for zero, infinities and NaN."""
        a = self.canonical(a)
        return np.where(np.isfinite(a), np.frexp(a)[1], 0).astype(np.int32)

    # -- conversions ------------------------------------------------------------------------------------------

    def to_float(self, a: Array, kind: str, rounding: int | None = None) -> Array:
        """Any number to f16, f32 or f64, by the mode's rounding of the destination type unless another is given."""
        target = DTYPES[kind]
        source = dtype_of(a)
        if rounding is None:
            rounding = self.rounding[target]
        if source in BITS:
            if np.dtype(source).itemsize <= np.dtype(target).itemsize:
                result = self.canonical(a).astype(target)
            else:
                result = exact.narrow(self.canonical(a).astype(np.float64), target, rounding)
            if self.flush_out[target]:
                result = self.flush(result)
            return self.convert_nan(a, self._bounded(result, a))
        if target is np.float64:
            return a.astype(target)
        return self._bounded(exact.narrow(a.astype(np.float64), target, rounding))

    def to_int(self, a: Array, kind: str, rounding: str = "zero") -> Array:
        """Float to integer, saturating; NaN gives 0. ``rounding``: zero, even, floor or half_up (floor(x + 0.5))."""
        info = np.iinfo(DTYPES[kind])
        wide = self.canonical(a).astype(np.float64)
        rounded: dict[str, Any] = {"zero": np.trunc, "even": np.rint, "floor": np.floor,
                                   "half_up": lambda x: np.floor(x + 0.5)}
        wide = rounded[rounding](wide)
        wide = np.where(np.isnan(wide), 0.0, wide)
        return np.clip(wide, float(info.min), float(info.max)).astype(np.int64).astype(DTYPES[kind])

    def bf16_to_f32(self, a: Array) -> Array:
        """u16 holding a bfloat16 -> f32."""
        return (a.astype(np.uint32) << np.uint32(16)).view(np.float32)

    def f32_to_bf16(self, a: Array) -> Array:
        """f32 -> u16 holding the nearest bfloat16; NaNs become quiet."""
        bits = a.view(np.uint32)
        rounded = (bits + np.uint32(0x7fff) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
        return np.where(np.isnan(a), bits >> np.uint32(16) | np.uint32(0x40), rounded).astype(np.uint16)

    def fma_to_f16(self, a: Array, b: Array, c: Array) -> Array:
        """f32 fused multiply-add rounded once, to f16."""
        a, b, c = self.canonical(a), self.canonical(b), self.canonical(c)
        rounding = self.mode.round_16_64
        wide = self._zero_sum(exact.fma_odd(a, b, c), np.multiply(a, b, dtype=np.float64), c, rounding)
        result = self._bounded(exact.narrow(wide, np.float16, rounding), a, b, c)
        where = np.isnan(result)
        if where.any():
            nan = self.convert_nan(self._nans(np.asarray(a * b + c), a, b, c), result)
            result = np.where(where, nan, result)
        return self.flush(result) if self.flush_out[np.float16] else result

    TO_ZERO = exact.TO_ZERO

    def clamp_unit(self, a: Array, *, signed: bool = False) -> Array:
        """Into [0, 1] ([-1, 1] when signed); NaN becomes 0 with DX10_CLAMP and passes without."""
        kind = dtype_of(a)
        nan = np.isnan(a)
        result = np.where(nan, a, np.minimum(np.maximum(a, kind(-1 if signed else 0)), kind(1)))
        if not signed:
            result = np.where(result == 0, kind(0), result)
        return np.where(nan, kind(0), result) if self.mode.dx10_clamp or signed else result

    def output(self, a: Array, omod: int, clamp: bool) -> Array:
        """Output modifiers. OMOD has no effect with IEEE mode or when denormals may come out, and gives no -0
        (RDNA3 ISA, "Output modifiers")."""
        kind = dtype_of(a)
        if omod and not self.mode.ieee and self.flush_out[kind]:
            a = self._bounded(self.flush(np.where(a == 0, kind(0), a * kind((1, 2, 4, 0.5)[omod]))), a)
        return self.clamp_unit(a) if clamp else a

    def wmma(self, source: str, accumulator: str, a: Array, b: Array, c: Array, **modifiers: int) -> Array:
        """D = A x B + C on 16x16 tiles in registers; see :mod:`mock.isa.wmma`."""
        return multiply_tiles(self.lanes, source, accumulator, a, b, c, **modifiers)

    # -- across lanes -----------------------------------------------------------------------------------------

    @property
    def lanes(self) -> int:
        return self.state.lanes

    def stack(self, rows: list[Array]) -> Array:
        """Values as consecutive registers."""
        return rows

    def lane(self) -> Array:
        """The lane's number, u32 [lanes, 1]."""
        return self.state.lane_ids

    def active(self) -> Array:
        """EXEC as a mask."""
        return self.state.active()

    def full(self, a: Array) -> Array:
        """A scalar as a vector."""
        return np.broadcast_to(a, (self.state.lanes, self.state.waves))

    def read_lane(self, a: Array, index: Array) -> Array:
        """Lane ``index`` (u32 [waves]) of ``a``, EXEC notwithstanding."""
        index = np.broadcast_to(index, (self.state.waves,)) & np.uint32(self.state.lanes - 1)
        return self.full(a)[index, np.arange(self.state.waves)]

    def first_active(self) -> Array:
        """The lowest active lane, 0 where none is; u32 [waves]."""
        mask = self.state.mask
        if mask is None:
            return np.zeros(self.state.waves, np.uint32)
        return mask.argmax(axis=0).astype(np.uint32)

    def gather_lanes(self, a: Array, index: Array) -> Array:
        """out[lane] = a[index[lane]]; index u32 [lanes, waves], within range."""
        return np.take_along_axis(self.full(a), self.full(index).astype(np.intp), axis=0)

    def take_active(self, a: Array, index: Array, otherwise: Array, *, inactive: bool, zero: bool) -> Array:
        """a[index[lane]]; from inactive lanes ``otherwise`` (or 0) unless they may be read."""
        taken = self.gather_lanes(a, index)
        if inactive or self.state.mask is None:
            return taken
        return np.where(self.gather_lanes(self.state.mask, index), taken, taken.dtype.type(0) if zero else otherwise)

    def scatter_lanes(self, a: Array, index: Array) -> Array:
        """out[index[lane]] = a[lane] for active lanes, later lanes winning; 0 where nothing was sent."""
        out: Array = np.zeros((self.state.lanes, self.state.waves), dtype_of(a))
        a, index, active = self.full(a), self.full(index).astype(np.intp), self.full(self.active())
        waves = np.arange(self.state.waves)
        for lane in range(self.state.lanes):
            on = active[lane]
            out[index[lane][on], waves[on]] = a[lane][on]
        return out

    def ballot(self, mask: Array) -> Array:
        """Lane mask as bits, u64 [waves]; inactive lanes give 0."""
        return self.state.pack_mask(mask)

    def unballot(self, bits: Array) -> Array:
        """u64 [waves] -> lane mask."""
        return self.state.unpack_mask(bits)
