"""The words of the semantics table as LLVM IR: the same words as :class:`mock.isa.vocabulary.Vocabulary`.

A value is one IR value (scalar: one a wave) or a list of *chunks* (vector: a lane an element), each as wide as the
host's vector registers, so that nothing has to be split or joined by the code generator. Types are explicit and mixed
ones are refused. A word that cannot be said exactly in IR raises :class:`Unsupported`; the instruction is then left to
the interpreter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from mock.isa import exact, soft
from mock.isa.transcendental import Transcendental
from mock.isa.vocabulary import Mode

__all__ = ["I1", "I8", "I16", "I32", "I64", "PTR", "Scalar", "Unsupported", "Value", "Words", "ir_type"]

I1, I8, I16, I32, I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
F16, F32, F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()
PTR = ir.PointerType()
_IR = {"mask": I1, "u8": I8, "i8": I8, "u16": I16, "i16": I16, "b16": I16, "f16": F16, "u32": I32, "i32": I32,
       "b32": I32, "f32": F32, "u64": I64, "i64": I64, "b64": I64, "f64": F64}
_FRACTION = {"f16": 10, "f32": 23, "f64": 52}
_INTEGER = {16: I16, 32: I32, 64: I64}
_DEFAULT_NAN = {"f16": 0x7e00, "f32": 0x7fc00000, "f64": 0x7ff8 << 48}
_LARGEST = {"f16": 0x3bff, "f32": 0x3f7fffff, "f64": 0x3fefffffffffffff}    # below one
Number = int | float


class Unsupported(Exception):
    """Not said in IR: the interpreter executes this instruction."""


def ir_type(kind: str) -> ir.Type:
    return _IR[kind]


def width(kind: str) -> int:
    return 1 if kind == "mask" else int(kind[1:])


class _Dtype:
    """As much of a NumPy dtype as entries ask for."""

    def __init__(self, kind: str) -> None:
        self.itemsize = max(1, width(kind) // 8)


class Value:
    """``parts``: one IR scalar, or the chunks of a vector."""

    __slots__ = ("kind", "parts", "scalar")

    def __init__(self, kind: str, parts: Sequence[ir.Value], scalar: bool) -> None:
        self.kind, self.parts, self.scalar = kind, list(parts), scalar

    @property
    def dtype(self) -> _Dtype:
        return _Dtype(self.kind)


def Scalar(kind: str, part: ir.Value) -> Value:
    return Value(kind, [part], True)


def _is_signed(kind: str) -> bool:
    return kind[0] == "i"


def _is_float(kind: str) -> bool:
    return kind[0] == "f"


class Words(Transcendental):
    """One wave of ``lanes`` lanes in chunks of ``chunk``; ``active`` gives EXEC as a mask."""

    TO_ZERO = exact.TO_ZERO
    NEAREST, TO_POSITIVE, TO_NEGATIVE = exact.NEAREST, exact.TO_POSITIVE, exact.TO_NEGATIVE

    def __init__(self, builder: ir.IRBuilder, lanes: int, chunk: int, mode: Mode,
                 active: Callable[[], Value]) -> None:
        self.b, self.lanes, self.chunk, self.mode = builder, lanes, min(chunk, lanes), mode
        self.chunks = lanes // self.chunk
        self._active = active
        rounding = {"f32": mode.round_32, "f16": mode.round_16_64, "f64": mode.round_16_64}
        denorm = {"f32": mode.denorm_32, "f16": mode.denorm_16_64, "f64": mode.denorm_16_64}
        self.rounding = rounding
        self.flush_in = {k: not d & 1 for k, d in denorm.items()}
        self.flush_out = {k: not d & 2 for k, d in denorm.items()}
        self.pending: dict[int, Value] | None = None
        """Results that were taken not to be NaN (see :mod:`mock.isa.jit.segments`); None: nothing is put off."""
        self.merged: dict[int, ir.Value] = {}
        """Selects by EXEC that wrote a register: where lanes are active they have the new value."""

    def __getattr__(self, word: str) -> Any:
        raise Unsupported(f"the word {word}")

    # ---- plumbing

    def type(self, kind: str, scalar: bool) -> ir.Type:
        return _IR[kind] if scalar else ir.VectorType(_IR[kind], self.chunk)

    def number(self, kind: str, value: Number, scalar: bool = True) -> Value:
        """A constant; integers wrap to the type's width."""
        plain = _IR[kind]
        if _is_float(kind):
            constant = ir.Constant(plain, float(value))
        else:
            constant = ir.Constant(plain, int(value) & (1 << width(kind)) - 1)
        if scalar:
            return Scalar(kind, constant)
        return Value(kind, [ir.Constant(self.type(kind, False), [constant] * self.chunk)] * self.chunks, False)

    def splat(self, a: Value) -> Value:
        """A scalar in every lane."""
        if not a.scalar:
            return a
        part = a.parts[0]
        vector = self.type(a.kind, False)
        if isinstance(part, ir.Constant):
            whole = ir.Constant(vector, [part] * self.chunk)
        else:
            one = self.b.insert_element(ir.Constant(vector, ir.Undefined), part, ir.Constant(I32, 0))
            zeros = ir.Constant(ir.VectorType(I32, self.chunk), [ir.Constant(I32, 0)] * self.chunk)
            whole = self.b.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)
        return Value(a.kind, [whole] * self.chunks, False)

    def full(self, a: Value) -> Value:
        return self.splat(a)

    def meet(self, *values: Any) -> list[Value]:
        """Numbers become constants of the others' type; scalars become vectors where any is one."""
        typed = [v for v in values if isinstance(v, Value)]
        if not typed:
            raise Unsupported("constants only")
        kind = typed[0].kind
        result = [v if isinstance(v, Value) else self.number(kind, v) for v in values]
        if any(not v.scalar for v in result):
            result = [self.splat(v) for v in result]
        return result

    def _same_kind(self, *values: Any) -> list[Value]:
        result = self.meet(*values)
        kinds = {v.kind.replace("b", "u") for v in result}
        if len(kinds) != 1:
            raise Unsupported(f"mixed types {sorted(kinds)}")
        return result

    def each(self, function: Callable[..., ir.Value], kind: str, *values: Value) -> Value:
        """The function on each chunk."""
        return Value(kind, [function(*parts) for parts in zip(*(v.parts for v in values), strict=True)],
                     values[0].scalar)

    def like(self, a: Value, kind: str, value: Number) -> Value:
        """A constant shaped as ``a``."""
        return self.number(kind, value, a.scalar)

    def _intrinsic(self, name: str, over: ir.Type, *extra: ir.Type, count: int = 1) -> ir.Function:
        """An LLVM intrinsic of ``count`` operands of one overloaded type, and what comes after them."""
        scalar = over.element if isinstance(over, ir.VectorType) else over
        suffix = {F16: "f16", F32: "f32", F64: "f64"}.get(scalar) or str(scalar)
        full = f"{name}.{f'v{over.count}' if isinstance(over, ir.VectorType) else ''}{suffix}"
        known = self.b.module.globals.get(full)
        return known or ir.Function(self.b.module, ir.FunctionType(over, [*[over] * count, *extra]), full)

    def call(self, name: str, kind: str, *values: Value) -> Value:
        """An LLVM intrinsic over one overloaded type."""
        def one(*parts: ir.Value) -> ir.Value:
            return self.b.call(self._intrinsic(name, parts[0].type, count=len(parts)), parts)
        return self.each(one, kind, *values)

    # ---- integers and bits

    def _binary(self, integer: Callable[..., ir.Value], a: Any, b: Any) -> Value:
        x, y = self._same_kind(a, b)
        if _is_float(x.kind):
            raise Unsupported("integer word on floats")
        return self.each(integer, x.kind, x, y)

    def add(self, a: Any, b: Any) -> Value:
        return self._binary(self.b.add, a, b)

    def sub(self, a: Any, b: Any) -> Value:
        return self._binary(self.b.sub, a, b)

    def mul(self, a: Any, b: Any) -> Value:
        return self._binary(self.b.mul, a, b)

    def and_(self, a: Any, b: Any) -> Value:
        return self._binary(self.b.and_, a, b)

    def or_(self, a: Any, b: Any) -> Value:
        return self._binary(self.b.or_, a, b)

    def xor(self, a: Any, b: Any) -> Value:
        return self._binary(self.b.xor, a, b)

    def not_(self, a: Value) -> Value:
        return self.xor(a, -1 if a.kind != "mask" else 1)

    def _shift(self, function: Callable[..., ir.Value], a: Value, n: Any) -> Value:
        if not isinstance(a, Value):
            raise Unsupported("shift of a constant")
        bits = width(a.kind)
        amount = self.number(a.kind, n & bits - 1) if isinstance(n, int) else self.cast(self.and_(n, bits - 1), a.kind)
        x, y = self.meet(a, amount)
        return self.each(function, a.kind, x, y)

    def shl(self, a: Value, n: Any) -> Value:
        return self._shift(self.b.shl, a, n)

    def shr(self, a: Value, n: Any) -> Value:
        return self._shift(self.b.ashr if _is_signed(a.kind) else self.b.lshr, a, n)

    def min(self, a: Any, b: Any) -> Value:
        return self.select(self.lt(a, b), a, b)

    def max(self, a: Any, b: Any) -> Value:
        return self.select(self.lt(a, b), b, a)

    def _relation(self, operator: str, ordered: str, a: Any, b: Any) -> Value:
        x, y = self._same_kind(a, b)
        if _is_float(x.kind):
            if ordered == "une":
                return self.each(lambda p, q: self.b.fcmp_unordered("!=", p, q), "mask", x, y)
            return self.each(lambda p, q: self.b.fcmp_ordered(operator, p, q), "mask", x, y)
        compare = self.b.icmp_signed if _is_signed(x.kind) else self.b.icmp_unsigned
        return self.each(lambda p, q: compare(operator, p, q), "mask", x, y)

    def eq(self, a: Any, b: Any) -> Value:
        return self._relation("==", "oeq", a, b)

    def ne(self, a: Any, b: Any) -> Value:
        return self._relation("!=", "une", a, b)

    def lt(self, a: Any, b: Any) -> Value:
        return self._relation("<", "olt", a, b)

    def le(self, a: Any, b: Any) -> Value:
        return self._relation("<=", "ole", a, b)

    def gt(self, a: Any, b: Any) -> Value:
        return self._relation(">", "ogt", a, b)

    def ge(self, a: Any, b: Any) -> Value:
        return self._relation(">=", "oge", a, b)

    def select(self, condition: Value, a: Any, b: Any) -> Value:
        x, y = self._same_kind(a, b)
        if not (condition.scalar and x.scalar):
            condition, x, y = self.splat(condition), self.splat(x), self.splat(y)
        return self.each(self.b.select, x.kind, condition, x, y)

    def constant(self, kind: str, value: Number) -> Value:
        return self.number(kind, value)

    def cast(self, a: Any, kind: str) -> Value:
        """Integer to integer."""
        if not isinstance(a, Value):
            return self.number(kind, a)
        if _is_float(a.kind) or _is_float(kind):
            raise Unsupported("integer cast of floats")
        target, old, new = self.type(kind, a.scalar), width(a.kind), width(kind)
        if new == old:
            return Value(kind, a.parts, a.scalar)
        if new < old:
            return self.each(lambda p: self.b.trunc(p, target), kind, a)
        extend = self.b.sext if _is_signed(a.kind) else self.b.zext
        return self.each(lambda p: extend(p, target), kind, a)

    def bits(self, a: Value, kind: str) -> Value:
        if width(a.kind) != width(kind):
            raise Unsupported("bits of another width")
        if kind == "f16" and a.scalar and not isinstance(a.parts[0], ir.Constant):
            a = self.splat(a)       # LLVM 22 makes one cast of a mask's 16 bits and a half, and cannot select that
        target = self.type(kind, a.scalar)
        return self.each(lambda p: self._bitcast(p, target), kind, a)

    def _bitcast(self, part: ir.Value, target: ir.Type) -> ir.Value:
        """The same bits as another type; there and back is where it began."""
        if part.type == target:
            return part
        if isinstance(part, ir.CastInstr) and part.opname == "bitcast" and part.operands[0].type == target:
            return part.operands[0]
        return self.b.bitcast(part, target)

    def low(self, a: Value) -> Value:
        return self.cast(a, "u32")

    def high(self, a: Value) -> Value:
        return self.cast(self.shr(self.bits(a, "u64"), 32), "u32")

    def join(self, low: Any, high: Any) -> Value:
        x, y = self.meet(low, high)
        return self.or_(self.cast(self.bits(x, "u32"), "u64"), self.shl(self.cast(self.bits(y, "u32"), "u64"), 32))

    def popcount(self, a: Value) -> Value:
        return self.cast(self.call("llvm.ctpop", "u" + a.kind[1:], a), "u32")

    def _count_zeros(self, name: str, a: Value) -> Value:
        def one(p: ir.Value) -> ir.Value:
            return self.b.call(self._intrinsic(name, p.type, I1), [p, ir.Constant(I1, 0)])
        return Value("i32", self.cast(self.each(one, "u" + a.kind[1:], a), "u32").parts, a.scalar)

    def clz(self, a: Value) -> Value:
        return self._count_zeros("llvm.ctlz", a)

    def ctz(self, a: Value) -> Value:
        return self._count_zeros("llvm.cttz", a)

    def reverse(self, a: Value) -> Value:
        return self.call("llvm.bitreverse", a.kind, a)

    def mul_high(self, a: Value, b: Value) -> Value:
        wide = "i64" if _is_signed(a.kind) else "u64"
        product = self.mul(self.cast(a, wide), self.cast(b, wide))
        return self.cast(self.shr(product, 32), a.kind)

    def saturate(self, wide: Value, kind: str) -> Value:
        n = width(kind)
        low, high = (-(1 << n - 1), (1 << n - 1) - 1) if _is_signed(kind) else (0, (1 << n) - 1)
        return self.cast(self.min(self.max(wide, low), high), kind)

    # ---- floats: bits

    def _raw(self, a: Value) -> Value:
        return self.bits(a, "u" + a.kind[1:])

    def _float(self, a: Value) -> Value:
        return self.bits(a, "f" + a.kind[1:])

    def neg(self, a: Value) -> Value:
        if not _is_float(a.kind):
            return self.sub(self.like(a, a.kind, 0), a)
        return self._float(self.xor(self._raw(a), 1 << width(a.kind) - 1))

    def abs(self, a: Value) -> Value:
        if not _is_float(a.kind):
            return self.select(self.lt(a, 0), self.neg(a), a)
        return self._float(self.and_(self._raw(a), (1 << width(a.kind) - 1) - 1))

    def copysign(self, a: Value, sign_of: Value) -> Value:
        top = 1 << width(a.kind) - 1
        return self._float(self.or_(self.and_(self._raw(a), top - 1), self.and_(self._raw(sign_of), top)))

    def isnan(self, a: Value) -> Value:
        return self.each(lambda p: self.b.fcmp_unordered("uno", p, p), "mask", a)

    def signbit(self, a: Value) -> Value:
        return self.ne(self.shr(self._raw(a), width(a.kind) - 1), 0)

    def _quiet_bit(self, kind: str) -> int:
        return 1 << _FRACTION[kind] - 1

    def _exponent_bits(self, kind: str) -> int:
        return (1 << width(kind) - 1) - (1 << _FRACTION[kind])

    def is_signaling(self, a: Value) -> Value:
        return self.and_(self.isnan(a), self.eq(self.and_(self._raw(a), self._quiet_bit(a.kind)), 0))

    def quiet(self, a: Value) -> Value:
        return self._float(self.select(self.isnan(a), self.or_(self._raw(a), self._quiet_bit(a.kind)), self._raw(a)))

    def is_denormal(self, a: Value) -> Value:
        raw = self._raw(a)
        return self.and_(self.eq(self.and_(raw, self._exponent_bits(a.kind)), 0),
                         self.ne(self.and_(raw, (1 << _FRACTION[a.kind]) - 1), 0))

    def flush(self, a: Value) -> Value:
        raw = self._raw(a)
        sign = self.and_(raw, 1 << width(a.kind) - 1)
        return self._float(self.select(self.eq(self.and_(raw, self._exponent_bits(a.kind)), 0), sign, raw))

    def canonical(self, a: Value) -> Value:
        return self.flush(a) if self.flush_in[a.kind] else a

    def nan(self, kind: str) -> Value:
        return Scalar(kind, self.b.bitcast(ir.Constant(_INTEGER[width(kind)], _DEFAULT_NAN[kind]), _IR[kind]))

    # ---- floats: results

    def _any(self, mask: Value) -> ir.Value:
        """Is it so in any lane? One bit."""
        total = mask.parts[0]
        for part in mask.parts[1:]:
            total = self.b.or_(total, part)
        if mask.scalar:
            return total
        bits = self.b.bitcast(total, ir.IntType(self.chunk))
        return self.b.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))

    def rarely(self, condition: Value, value: Value, other: Callable[..., Value], *sources: Value) -> Value:
        """``value``, or, in a block of its own, what ``other(*sources)`` gives where the condition holds."""
        test = self._any(condition)
        before, pending, self.pending = self.b.block, self.pending, None
        with self.b.if_then(test, likely=False):
            replaced = self.select(condition, other(*sources), value) if sources else other()
            inside = self.b.block
        self.pending = pending
        parts = []
        for kept, new in zip(value.parts, replaced.parts, strict=True):
            phi = self.b.phi(kept.type)
            phi.add_incoming(kept, before)
            phi.add_incoming(new, inside)
            parts.append(phi)
        return Value(value.kind, parts, value.scalar)

    def finish(self, result: Value, *sources: Value) -> Value:
        if self.flush_out[result.kind]:
            result = self.flush(result)
        return self.nans(self._bounded(result, *sources), *sources)

    def _infinite(self, a: Value) -> Value:
        return self.eq(self.and_(self._raw(a), (1 << width(a.kind) - 1) - 1), self._exponent_bits(a.kind))

    def _bounded(self, result: Value, *sources: Value) -> Value:
        """FP16_OVFL: an overflow of f16 gives the largest number; infinities that came in may come out."""
        if not self.mode.fp16_overflow or result.kind != "f16":
            return result
        beyond = self._infinite(result)
        for source in sources:
            beyond = self.and_(beyond, self.not_(self._infinite(source)))
        raw = self._raw(result)
        return self._float(self.select(beyond, self.sub(raw, 1), raw))      # one below infinity

    def nans(self, result: Value, *sources: Value) -> Value:
        """A NaN result is the first NaN operand, quiet, or else the positive default NaN. A NaN operand gives one."""
        if self.pending is not None:
            for source in sources:      # where one of them is NaN, the result tells
                part: Any = self._bitcast_source(source.parts[0])
                if id(part) in self.merged:         # which keeps it: the number is its own
                    part = self._bitcast_source(part.operands[1])
                self.pending.pop(id(part), None)
            self._put_off(result)
            return result
        nan = self.isnan(result)

        def mend() -> Value:
            bits = self.like(result, "u" + result.kind[1:], _DEFAULT_NAN[result.kind])
            for source in reversed(sources):
                _, x = self.meet(result, source)
                bits = self.select(self.isnan(x), self.or_(self._raw(x), self._quiet_bit(x.kind)), bits)
            return self._float(self.select(nan, bits, self._raw(result)))
        return self.rarely(nan, result, mend)

    def _put_off(self, value: Value) -> None:
        """Whether it is NaN is looked at later."""
        if self.pending is not None and not isinstance(value.parts[0], ir.Constant):
            self.pending[id(self._bitcast_source(value.parts[0]))] = value

    @staticmethod
    def _bitcast_source(part: ir.Value) -> ir.Value:
        source: Any = part
        while isinstance(source, ir.CastInstr) and source.opname == "bitcast":
            source = source.operands[0]
        return source

    def settled(self, active: Value | None) -> ir.Value:
        """Is nothing pending a NaN in the lanes of ``active`` (None: in any)? One bit."""
        found, ordered = self.pending or {}, list[list[ir.Value]]()
        self.pending = {}
        total: ir.Value = ir.Constant(I1, 1)
        for scalar in (v for v in found.values() if v.scalar):
            part = scalar.parts[0]
            total = self.b.and_(total, self.b.fcmp_ordered("ord", part, part))
        for kind in ("f16", "f32", "f64"):
            rows = [v.parts for v in found.values() if v.kind == kind and not v.scalar]
            for left, right in zip(rows[::2], rows[1::2], strict=False):       # two by one comparison
                ordered.append([self.b.fcmp_ordered("ord", x, y) for x, y in zip(left, right, strict=True)])
            if len(rows) % 2:
                ordered.append([self.b.fcmp_ordered("ord", x, x) for x in rows[-1]])
        if not ordered:
            return total
        while len(ordered) > 1:
            ordered = [[self.b.and_(x, y) for x, y in zip(*pair, strict=True)] if len(pair) == 2 else pair[0]
                       for pair in (ordered[i:i + 2] for i in range(0, len(ordered), 2))]
        good = Value("mask", ordered[0], False)
        if active is not None:
            good = self.or_(good, self.not_(active))
        whole = good.parts[0]
        for part in good.parts[1:]:
            whole = self.b.and_(whole, part)
        bits = self.b.bitcast(whole, ir.IntType(self.chunk))
        return self.b.and_(total, self.b.icmp_unsigned("==", bits, ir.Constant(bits.type, (1 << self.chunk) - 1)))

    def _arithmetic(self, name: str, a: Value, b: Value) -> Value:
        x, y = self.meet(a, b)
        x, y = self.canonical(x), self.canonical(y)
        if self.rounding[x.kind] != exact.NEAREST:
            return self.finish(self._directed(name, x, y), x, y)
        function = getattr(self.b, name)
        if x.kind == "f16":     # in float32 and back: innocuous double rounding for these operations
            wide = self.each(function, "f32", self._widen(x, "f32"), self._widen(y, "f32"))
            return self.finish(self._truncate(wide, "f16"), x, y)
        return self.finish(self.each(function, x.kind, x, y), x, y)

    def _directed(self, name: str, x: Value, y: Value) -> Value:
        """Sum or product in the mode's rounding."""
        if name != "fmul":
            return self._fused(x, self.like(x, x.kind, 1.0), y if name == "fadd" else self.neg(y))
        if x.kind == "f64":     # a zero with the sign of the product keeps it
            zero = self._float(self.and_(self.xor(self._raw(x), self._raw(y)), 1 << 63))
            return self._fused(x, y, zero)
        product = self.each(self.b.fmul, "f64", self._widen(x, "f64"), self._widen(y, "f64"))
        return self._narrow(product, x.kind, self.rounding[x.kind])

    def _fused(self, x: Value, y: Value, z: Value) -> Value:
        """x * y + z in the mode's rounding, which is not to nearest."""
        rounding = self.rounding[x.kind]
        if x.kind == "f64":
            return soft.fma(self, x, y, z, rounding)
        return self._narrow(self._signed_zero(self._fma_odd(x, y, z), x, y, z, rounding), x.kind, rounding)

    def _signed_zero(self, total: Value, x: Value, y: Value, z: Value, rounding: int) -> Value:
        """x + -x is -0 when rounding to negative infinity. ``total`` is zero only where the exact sum is."""
        if rounding != exact.TO_NEGATIVE:
            return total
        negative = self.or_(self.ne(self.signbit(x), self.signbit(y)), self.signbit(z))
        return self.select(self.and_(self.eq(total, 0.0), negative), self.like(total, "f64", -0.0), total)

    def fadd(self, a: Value, b: Value) -> Value:
        return self._arithmetic("fadd", a, b)

    def fsub(self, a: Value, b: Value) -> Value:
        return self._arithmetic("fsub", a, b)

    def fmul(self, a: Value, b: Value) -> Value:
        return self._arithmetic("fmul", a, b)

    def _widen(self, a: Value, kind: str) -> Value:
        target = self.type(kind, a.scalar)
        return a if a.kind == kind else self.each(lambda p: self.b.fpext(p, target), kind, a)

    def _truncate(self, a: Value, kind: str) -> Value:
        if a.kind == "f64" and kind == "f16":
            return self._truncate(self._odd_f32(a), kind)
        target = self.type(kind, a.scalar)
        return a if a.kind == kind else self.each(lambda p: self.b.fptrunc(p, target), kind, a)

    def _odd_f32(self, a: Value) -> Value:
        """float64 to float32 rounded to odd, so that rounding it again to float16 is rounding once."""
        near = self._truncate(a, "f32")
        back = self._widen(near, "f64")
        raw = self._raw(near)
        even = self.and_(self.and_(self.ne(back, a), self.eq(self.and_(raw, 1), 0)), self.not_(self.isnan(a)))
        up = self.lt(self.abs(back), self.abs(a))
        stepped = self.select(up, self.add(raw, 1), self.sub(raw, 1))
        return self._float(self.select(even, stepped, raw))

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        x, y, z = self.meet(a, b, c)
        x, y, z = self.canonical(x), self.canonical(y), self.canonical(z)
        if self.rounding[x.kind] != exact.NEAREST:
            return self.finish(self._fused(x, y, z), x, y, z)
        if x.kind == "f16":
            return self.finish(self._truncate(self._fma_odd(x, y, z), "f16"), x, y, z)
        return self.finish(self.call("llvm.fma", x.kind, x, y, z), x, y, z)

    def _fma_odd(self, a: Value, b: Value, c: Value) -> Value:
        """a * b + c of narrow floats, as float64 rounded to odd (the product is exact)."""
        x, y, z = (self._widen(v, "f64") for v in (a, b, c))
        p = self.each(self.b.fmul, "f64", x, y)
        s = self.each(self.b.fadd, "f64", p, z)
        back = self.each(self.b.fsub, "f64", s, p)
        error = self.each(self.b.fadd, "f64",
                          self.each(self.b.fsub, "f64", p, self.each(self.b.fsub, "f64", s, back)),
                          self.each(self.b.fsub, "f64", z, back))
        raw = self._raw(s)
        finite = self.ne(self.and_(raw, self._exponent_bits("f64")), self._exponent_bits("f64"))
        change = self.and_(self.and_(self.ne(error, 0.0), self.eq(self.and_(raw, 1), 0)), finite)
        away = self.eq(self.cast(self.gt(error, 0.0), "u8"), self.cast(self.gt(s, 0.0), "u8"))
        return self._float(self.select(change, self.select(away, self.add(raw, 1), self.sub(raw, 1)), raw))

    def fma_scaled(self, a: Value, b: Value, c: Value, scale: Value) -> Value:
        x, y, z, k = self.meet(a, b, c, scale)
        x, y, z = self.canonical(x), self.canonical(y), self.canonical(z)
        rounding = self.rounding[x.kind]
        if x.kind != "f64":
            wide = self.each(self.b.fmul, "f64", self._fma_odd(x, y, z), self._widen(k, "f64"))
            wide = self._signed_zero(wide, x, y, z, rounding)
            return self.finish(self._narrow(wide, x.kind, rounding), x, y, z)

        def by_integers(x: Value, y: Value, z: Value, k: Value) -> Value:
            return soft.fma(self, x, y, z, rounding, self.sub(self.exponent(k), 1023))
        if rounding != exact.NEAREST:
            return self.finish(by_integers(x, y, z, k), x, y, z)
        result = self.each(self.b.fmul, "f64", self.call("llvm.fma", "f64", x, y, z), k)
        # Below the normal range the scaling rounds too; above it, it may have come too late.
        size = self.abs(result)
        edge = self.and_(self.or_(self.le(size, 2.0 ** -1022), self._infinite(result)), self.ne(k, 1.0))
        return self.finish(self.rarely(edge, result, by_integers, x, y, z, k), x, y, z)

    def fma_to_f16(self, a: Value, b: Value, c: Value) -> Value:
        x, y, z = self.meet(a, b, c)
        x, y, z = self.canonical(x), self.canonical(y), self.canonical(z)
        rounding = self.rounding["f16"]
        result = self._narrow(self._signed_zero(self._fma_odd(x, y, z), x, y, z, rounding), "f16", rounding)
        result = self._bounded(result, x, y, z)
        nan = self.isnan(result)

        def mend() -> Value:
            whole = self.nans(self.call("llvm.fma", "f32", x, y, z), x, y, z)
            return self.select(nan, self._truncate(whole, "f16"), result)
        result = self.rarely(nan, result, mend)
        return self.flush(result) if self.flush_out["f16"] else result

    def fmin(self, a: Value, b: Value) -> Value:
        return self._extreme(a, b, smaller=True)

    def fmax(self, a: Value, b: Value) -> Value:
        return self._extreme(a, b, smaller=False)

    def _extreme(self, a: Value, b: Value, *, smaller: bool) -> Value:
        x, y = self.meet(a, b)
        x, y = self.canonical(x), self.canonical(y)
        less = self.or_(self.lt(x, y), self.and_(self.eq(x, y), self.signbit(x)))
        result = self.select(less, x, y) if smaller else self.select(less, y, x)
        if self.pending is not None:
            self._put_off(x)
            self._put_off(y)
            return result
        unordered = self.each(lambda p, q: self.b.fcmp_unordered("uno", p, q), "mask", x, y)

        def mend() -> Value:
            fixed = self.select(self.isnan(x), y, self.select(self.isnan(y), x, result))
            if self.mode.ieee:
                fixed = self.select(self.is_signaling(y), self.quiet(y), fixed)
                fixed = self.select(self.is_signaling(x), self.quiet(x), fixed)
            return fixed
        return self.rarely(unordered, result, mend)

    def compare(self, relation: str, a: Value, b: Value) -> Value:
        x, y = self.meet(a, b)
        x, y = self.canonical(x), self.canonical(y)
        ordered = {"lt": "<", "eq": "==", "le": "<=", "gt": ">", "lg": "!=", "ge": ">=", "o": "ord"}
        unordered = {"u": "uno", "nge": "<", "nlg": "==", "ngt": "<=", "nle": ">", "neq": "!=", "nlt": ">="}
        if relation in ordered:
            return self.each(lambda p, q: self.b.fcmp_ordered(ordered[relation], p, q), "mask", x, y)
        if relation in unordered:
            return self.each(lambda p, q: self.b.fcmp_unordered(unordered[relation], p, q), "mask", x, y)
        return self.like(x, "mask", int(relation == "t"))

    def classify(self, a: Value, wanted: Value) -> Value:
        a = self.canonical(a)
        kind, raw = a.kind, self._raw(a)
        n = width(kind)
        exponent = self.and_(raw, self._exponent_bits(kind))
        fraction = self.and_(raw, (1 << _FRACTION[kind]) - 1)
        top, none = self.eq(exponent, self._exponent_bits(kind)), self.eq(exponent, 0)
        whole = self.eq(fraction, 0)

        def number(value: int) -> Value:
            return self.like(a, "u32", value)
        distance = self.select(top, number(0), self.select(none, self.select(whole, number(3), number(2)), number(1)))
        negative = self.ne(self.shr(raw, n - 1), 0)
        signed = self.select(negative, self.add(distance, 2), self.sub(number(9), distance))
        nan = self.and_(top, self.not_(whole))
        signalling = self.eq(self.and_(raw, self._quiet_bit(kind)), 0)
        index = self.select(nan, self.select(signalling, number(0), number(1)), signed)
        return self.ne(self.and_(self.shr(self.bits(wanted, "u32"), index), 1), 0)

    def _unary(self, name: str, a: Value) -> Value:
        a = self.canonical(a)
        if a.kind == "f16":
            return self.finish(self._truncate(self.call(name, "f32", self._widen(a, "f32")), "f16"), a)
        return self.finish(self.call(name, a.kind, a), a)

    def floor(self, a: Value) -> Value:
        return self._unary("llvm.floor", a)

    def ceil(self, a: Value) -> Value:
        return self._unary("llvm.ceil", a)

    def trunc(self, a: Value) -> Value:
        return self._unary("llvm.trunc", a)

    def round_even(self, a: Value) -> Value:
        return self._unary("llvm.nearbyint", a)

    def fract(self, a: Value) -> Value:
        a = self.canonical(a)
        wide = "f32" if a.kind == "f16" else a.kind
        whole = self.neg(self._truncate(self.call("llvm.floor", wide, self._widen(a, wide)), a.kind))
        if self.rounding[a.kind] == exact.NEAREST:
            rest = self._truncate(self.each(self.b.fadd, wide, self._widen(a, wide), self._widen(whole, wide)), a.kind)
        else:
            rest = self._directed("fadd", a, whole)
        top = self._float(self.like(a, "u" + a.kind[1:], _LARGEST[a.kind]))
        below = self.select(self.each(lambda p, q: self.b.fcmp_unordered("<", p, q), "mask", rest, top), rest, top)
        return self.finish(below, a)

    def _power_of_two(self, n: Value) -> Value:
        """2.0**n as f64, -1022 <= n <= 1023 (i32)."""
        return self._float(self.shl(self.bits(self.cast(self.add(n, 1023), "i64"), "u64"), 52))

    def ldexp(self, a: Value, n: Any) -> Value:
        kind = a.kind
        a = self.canonical(a)
        a, n = self.meet(a, n if isinstance(n, Value) else self.number("i32", n))
        rounding = self.rounding[kind]
        if rounding != exact.NEAREST and kind == "f64":
            zero = self._float(self.and_(self._raw(a), 1 << 63))
            clipped = self.min(self.max(n, -4400), 4400)
            return self.finish(soft.fma(self, a, self.like(a, "f64", 1.0), zero, rounding, clipped), a)
        if kind != "f64":
            clipped = self.min(self.max(n, -600), 600)
            wide = self.each(self.b.fmul, "f64", self._widen(a, "f64"), self._power_of_two(clipped))
            return self.finish(self._narrow(wide, kind, rounding), a)
        result = a
        for _ in range(2):      # steps that leave the last multiplication alone to round
            high, low = self.gt(n, 1023), self.lt(n, -1022)
            factor = self.select(high, self.number("f64", 2.0 ** 1023),
                                 self.select(low, self.number("f64", 2.0 ** -969), self.number("f64", 1.0)))
            factor, result = self.meet(factor, result)
            result = self.each(self.b.fmul, "f64", result, factor)
            n = self.select(high, self.sub(n, 1023), self.select(low, self.add(n, 969), n))
        n = self.min(self.max(n, -1022), 1023)
        return self.finish(self.each(self.b.fmul, "f64", result, self._power_of_two(n)), a)

    def _frexp(self, a: Value) -> tuple[Value, Value]:
        """Mantissa in [0.5, 1) and exponent (i32) of finite numbers that are not zero; others: any."""
        wide = self._widen(a, "f64")
        small = self.lt(self.abs(wide), 2.0 ** -1000)
        scaled = self.select(small, self.each(self.b.fmul, "f64", wide, self.like(wide, "f64", 2.0 ** 100)), wide)
        raw = self._raw(scaled)
        exponent = self.sub(self.cast(self.and_(self.shr(raw, 52), 0x7ff), "i32"), 1022)
        exponent = self.select(small, self.sub(exponent, 100), exponent)
        mantissa = self._float(self.or_(self.and_(raw, ~(0x7ff << 52)), 1022 << 52))
        return self._truncate(mantissa, a.kind), exponent

    def _ordinary(self, a: Value) -> Value:
        raw = self.and_(self._raw(a), (1 << width(a.kind) - 1) - 1)
        return self.and_(self.lt(raw, self._exponent_bits(a.kind)), self.ne(raw, 0))

    def frexp_mantissa(self, a: Value) -> Value:
        a = self.canonical(a)
        return self.nans(self.select(self._ordinary(a), self._frexp(a)[0], a), a)

    def frexp_exponent(self, a: Value) -> Value:
        a = self.canonical(a)
        return self.select(self._ordinary(a), self._frexp(a)[1], 0)

    def exponent(self, a: Value) -> Value:
        raw = self.shr(self.and_(self._raw(a), self._exponent_bits(a.kind)), _FRACTION[a.kind])
        return Value("i32", self.cast(raw, "u32").parts, a.scalar)

    def mantissa(self, a: Value) -> Value:
        return self.and_(self._raw(a), (1 << _FRACTION[a.kind]) - 1)

    # ---- conversions

    def to_float(self, a: Value, kind: str, rounding: int | None = None) -> Value:
        if rounding is None:
            rounding = self.rounding[kind]
        if _is_float(a.kind):
            a = self.canonical(a)
            if width(a.kind) <= width(kind):
                result = self._widen(a, kind)
            else:
                result = self._narrow(a, kind, rounding)
            if self.flush_out[kind]:
                result = self.flush(result)
            return self._bounded(result, a)
        if kind == "f64":
            return self._from_int(a, kind)
        if width(a.kind) > 32:
            raise Unsupported("64-bit integer to float")
        return self._bounded(self._narrow(self._from_int(a, "f64"), kind, rounding))

    def _from_int(self, a: Value, kind: str) -> Value:
        target = self.type(kind, a.scalar)
        convert = self.b.sitofp if _is_signed(a.kind) else self.b.uitofp
        return self.each(lambda p: convert(p, target), kind, a)

    def _narrow(self, a: Value, kind: str, rounding: int) -> Value:
        """A wider float (exact, or rounded to odd) in one rounding of any mode."""
        near = self._truncate(a, kind)
        if rounding == exact.NEAREST:
            return near
        back, raw = self._widen(near, a.kind), self._raw(near)
        if rounding == exact.TO_ZERO:
            return self._float(self.select(self.gt(self.abs(back), self.abs(a)), self.sub(raw, 1), raw))
        up = rounding == exact.TO_POSITIVE
        away = self.signbit(near) if not up else self.not_(self.signbit(near))
        step = self.select(away, self.add(raw, 1), self.sub(raw, 1))
        return self._float(self.select(self.lt(back, a) if up else self.gt(back, a), step, raw))

    def to_int(self, a: Value, kind: str, rounding: str = "zero") -> Value:
        n = width(kind)
        if n > 32:
            raise Unsupported("float to 64-bit integer")
        low, high = (-(1 << n - 1), (1 << n - 1) - 1) if _is_signed(kind) else (0, (1 << n) - 1)
        wide = self._widen(self.canonical(a), "f64")
        if rounding == "half_up":
            wide = self.each(self.b.fadd, "f64", wide, self.like(wide, "f64", 0.5))
        wide = self.call({"zero": "llvm.trunc", "even": "llvm.nearbyint"}.get(rounding, "llvm.floor"), "f64", wide)
        wide = self.select(self.isnan(wide), 0.0, wide)
        wide = self.select(self.gt(wide, float(high)), float(high), wide)
        wide = self.select(self.lt(wide, float(low)), float(low), wide)
        target = self.type("i64", a.scalar)
        return self.cast(self.each(lambda p: self.b.fptosi(p, target), "i64", wide), kind)

    def bf16_to_f32(self, a: Value) -> Value:
        return self._float(self.shl(self.cast(self.bits(a, "u16"), "u32"), 16))

    def f32_to_bf16(self, a: Value) -> Value:
        raw = self._raw(a)
        rounded = self.shr(self.add(self.add(raw, 0x7fff), self.and_(self.shr(raw, 16), 1)), 16)
        return self.cast(self.select(self.isnan(a), self.or_(self.shr(raw, 16), 0x40), rounded), "u16")

    # ---- IEEE 754 arithmetic to nearest with denormals, whatever the mode; NaNs as they come

    def kind_of(self, a: Value) -> str:
        return a.kind

    def _near(self, function: Callable[..., ir.Value], a: Any, b: Any) -> Value:
        x, y = self._same_kind(a, b)
        return self.each(function, x.kind, x, y)

    def near_add(self, a: Any, b: Any) -> Value:
        return self._near(self.b.fadd, a, b)

    def near_sub(self, a: Any, b: Any) -> Value:
        return self._near(self.b.fsub, a, b)

    def near_mul(self, a: Any, b: Any) -> Value:
        return self._near(self.b.fmul, a, b)

    def near_div(self, a: Any, b: Any) -> Value:
        return self._near(self.b.fdiv, a, b)

    def near_sqrt(self, a: Value) -> Value:
        return self.call("llvm.sqrt", a.kind, a)

    def near_int(self, a: Value) -> Value:
        return self.call("llvm.nearbyint", a.kind, a)

    def near_cast(self, a: Value, kind: str) -> Value:
        """Between floats, rounded once; integers of up to 53 bits to f64; f64 in i32's range to i32 (truncated)."""
        if kind == "i32":
            held = self.select(self.isnan(a), self.like(a, "f64", 0.0), a)
            target = self.type("i32", a.scalar)
            return self.each(lambda p: self.b.fptosi(p, target), "i32", held)
        if not _is_float(a.kind):
            return self._from_int(a, kind)
        return self._widen(a, kind) if width(a.kind) <= width(kind) else self._truncate(a, kind)

    # ---- what a result goes through on its way out

    def same(self, a: Value, b: Value) -> Value:
        return self.eq(self._raw(a), self._raw(b))

    def clamp_unit(self, a: Value, *, signed: bool = False) -> Value:
        nan = self.isnan(a)
        low, one = (-1.0 if signed else 0.0), 1.0
        result = self.select(self.lt(a, low), low, self.select(self.gt(a, one), one, a))
        if not signed:
            result = self.select(self.eq(result, 0.0), 0.0, result)
        return self.select(nan, 0.0, result) if self.mode.dx10_clamp or signed else self.select(nan, a, result)

    def output(self, a: Value, omod: int, clamp: bool) -> Value:
        if omod and not self.mode.ieee and self.flush_out[a.kind]:
            wide = "f32" if a.kind == "f16" else a.kind
            factor = self.like(a, wide, (1.0, 2.0, 4.0, 0.5)[omod])
            scaled = self._truncate(self.each(self.b.fmul, wide, self._widen(a, wide), factor), a.kind)
            a = self._bounded(self.flush(self.select(self.eq(a, 0.0), 0.0, scaled)), a)
        return self.clamp_unit(a) if clamp else a

    def stack(self, rows: list[Value]) -> tuple[Value, ...]:
        return tuple(rows)

    # ---- across lanes

    def take_active(self, a: Value, index: Value, otherwise: Value, *, inactive: bool, zero: bool) -> Value:
        taken = self.gather_lanes(a, index)
        if inactive:
            return taken
        alive = self.ne(self.gather_lanes(self.cast(self.active(), "u8"), index), 0)
        return self.select(alive, taken, 0 if zero else self.splat(otherwise))

    def lane(self) -> Value:
        return Value("u32", [ir.Constant(ir.VectorType(I32, self.chunk),
                                         [ir.Constant(I32, c * self.chunk + i) for i in range(self.chunk)])
                             for c in range(self.chunks)], False)

    def active(self) -> Value:
        return self._active()

    def pack(self, mask: Value) -> ir.Value:
        """A lane mask as an integer of ``lanes`` bits; inactive lanes as they are."""
        kind = ir.IntType(self.lanes)
        total: ir.Value = ir.Constant(kind, 0)
        for i, part in enumerate(self.splat(mask).parts):
            bits = self.b.bitcast(part, ir.IntType(self.chunk))
            bits = self.b.zext(bits, kind) if self.chunk < self.lanes else bits
            total = self.b.or_(total, self.b.shl(bits, ir.Constant(kind, i * self.chunk))) if i else bits
        return total

    def unpack(self, bits: ir.Value) -> Value:
        """An integer of ``lanes`` bits as a lane mask."""
        kind, chunk = bits.type, ir.IntType(self.chunk)
        parts = []
        for i in range(self.chunks):
            piece = self.b.lshr(bits, ir.Constant(kind, i * self.chunk)) if i else bits
            piece = self.b.trunc(piece, chunk) if self.chunk < self.lanes else piece
            parts.append(self.b.bitcast(piece, ir.VectorType(I1, self.chunk)))
        return Value("mask", parts, False)

    def ballot(self, mask: Value) -> Value:
        bits = self.pack(self.and_(self.splat(mask), self.active()))
        return Scalar("u64", self.b.zext(bits, I64) if self.lanes == 32 else bits)

    def unballot(self, bits: Value) -> Value:
        part = bits.parts[0]
        if part.type.width != self.lanes:
            part = self.b.trunc(part, ir.IntType(self.lanes)) if part.type.width > self.lanes \
                else self.b.zext(part, ir.IntType(self.lanes))
        return self.unpack(part)

    def first_active(self) -> Value:
        bits = self.pack(self.active())
        zeros = self.ctz(Value(f"u{self.lanes}", [bits], True))
        return Value("u32", self.select(self.eq(zeros, self.lanes), 0, zeros).parts, True)

    def _spill(self, a: Value) -> ir.Value:
        """The lanes of a vector as an array in memory."""
        vector = self.type(a.kind, False)
        with self.b.goto_entry_block():
            place = self.b.alloca(ir.ArrayType(_IR[a.kind], self.lanes))
            place.type = PTR        # untyped: chunks and lanes are both stored there
        for i, part in enumerate(a.parts):
            self.b.store(part, self.b.gep(place, [ir.Constant(I32, i)], source_etype=vector), align=width(a.kind) // 8)
        return place

    def read_lane(self, a: Value, index: Value) -> Value:
        if a.scalar:
            return a
        part = index.parts[0]
        if isinstance(part, ir.Constant):
            lane = int(part.constant) & self.lanes - 1
            return Scalar(a.kind, self.b.extract_element(a.parts[lane // self.chunk],
                                                         ir.Constant(I32, lane % self.chunk)))
        wrapped = self.b.and_(part, ir.Constant(part.type, self.lanes - 1))
        place = self.b.gep(self._spill(a), [wrapped], source_etype=_IR[a.kind])
        return Scalar(a.kind, self.b.load(place, typ=_IR[a.kind]))

    def gather_lanes(self, a: Value, index: Value) -> Value:
        a, index = self.splat(a), self.splat(index)
        place, parts = self._spill(a), []
        for picks in index.parts:
            whole: ir.Value = ir.Constant(self.type(a.kind, False), ir.Undefined)
            for i in range(self.chunk):
                number = ir.Constant(I32, i)
                where = self.b.gep(place, [self.b.extract_element(picks, number)], source_etype=_IR[a.kind])
                whole = self.b.insert_element(whole, self.b.load(where, typ=_IR[a.kind]), number)
            parts.append(whole)
        return Value(a.kind, parts, False)

    def permute(self, a: Value, sources: Sequence[int]) -> Value:
        """Lane i takes lane ``sources[i]``, known now."""
        a = self.splat(a)
        vector = self.type(a.kind, False)
        parts = []
        for c in range(self.chunks):
            picks = sources[c * self.chunk:(c + 1) * self.chunk]
            whole: ir.Value | None = None
            for source in sorted({p // self.chunk for p in picks}):
                shuffled = self.b.shuffle_vector(
                    a.parts[source], ir.Constant(vector, ir.Undefined),
                    ir.Constant(ir.VectorType(I32, self.chunk),
                                [ir.Constant(I32, p % self.chunk if p // self.chunk == source else 0) for p in picks]))
                if whole is None:
                    whole = shuffled
                else:
                    mask = ir.Constant(ir.VectorType(I1, self.chunk),
                                       [ir.Constant(I1, int(p // self.chunk == source)) for p in picks])
                    whole = self.b.select(mask, shuffled, whole)
            assert whole is not None
            parts.append(whole)
        return Value(a.kind, parts, False)
