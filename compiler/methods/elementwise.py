"""Arithmetic, comparisons and functions of single elements; broadcasting and promotion."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler import dtypes, graph
from compiler.dtypes import DType, DTypeLike
from compiler.methods.base import Methods
from compiler.methods.pairs import Pair
from compiler.uop import Ops, UOp
from compiler.variable import Size

if TYPE_CHECKING:
    from compiler.tensor import Tensor

__all__ = ["Elementwise", "broadcast_shapes", "floor_divide", "fmod", "power", "remainder"]

Number = float
"""The Python type: inside the class below ``float`` is a method."""
bool_type = bool


def _weak(value: Any, like: DType) -> DType:
    """The type of a Python number beside a tensor: the tensor's, unless the number is of a higher kind."""
    kind = dtypes.of_scalar(value)
    keeps = like.is_float or kind is dtypes.bool_ or (kind is dtypes.default_int and like is not dtypes.bool_)
    return like if keeps else kind


@lru_cache(4096)
def broadcast_shapes(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The common shape, as NumPy and PyTorch broadcast. :raises ValueError:"""
    n = max(map(len, shapes))
    out = []
    for sizes in zip(*((1,) * (n - len(s)) + s for s in shapes), strict=True):
        wide = {x for x in sizes if x != 1}
        if len(wide) > 1:
            raise ValueError(f"shapes {', '.join(map(str, shapes))} do not broadcast: {sorted(wide)} in one axis")
        out.append(wide.pop() if wide else 1)
    return tuple(out)


class Elementwise(Methods):
    """Mixin; see :class:`compiler.tensor.Tensor`."""

    __slots__ = ()

    def _operand(self, value: Any, like: DType) -> Tensor:
        """``value`` as a tensor; a Python number takes this tensor's type unless it is of a higher kind."""
        from compiler.tensor import Tensor
        if isinstance(value, Tensor):
            return value
        if isinstance(value, Pair):
            return value.values
        if isinstance(value, Size):
            return Tensor(value, like if like.is_float else None, self._device)
        if isinstance(value, bool | int | float):
            return Tensor(value, _weak(value, like), self._device)
        if isinstance(value, np.ndarray | np.generic | list | tuple):
            return Tensor(value, device=self._device)
        raise TypeError(f"cannot combine a tensor with {type(value).__name__}")

    def _binary(self, op: Ops, other: Any, reverse: bool = False, floats: bool = False) -> Tensor:
        x = self._node
        if isinstance(other, bool | int | float):       # the usual case, without a tensor for the number
            dtype = dtypes.promote(x.dtype, _weak(other, x.dtype))
            if floats and not dtype.is_float:
                dtype = dtypes.default_float
            a, b = graph.cast(x, dtype), graph.full(x.shape, dtype, _weak(other, x.dtype).cast(other))
            return self._new(graph.alu(op, b, a) if reverse else graph.alu(op, a, b))
        y = self._operand(other, x.dtype)
        dtype = dtypes.promote(x.dtype, y.dtype)
        if floats and not dtype.is_float:
            dtype = dtypes.default_float
        shape = broadcast_shapes(x.shape, y.shape)
        a, b = (graph.expand(graph.cast(u, dtype), shape) for u in (x, y._node))
        if reverse:
            a, b = b, a
        return self._new(graph.alu(op, a, b), y)

    def _unary(self, op: Ops, floats: bool = True) -> Tensor:
        dtype = dtypes.default_float if floats and not self.dtype.is_float else self.dtype
        return self._new(graph.alu(op, graph.cast(self._node, dtype)))

    def _ints(self, other: Any, what: str) -> None:
        kinds = [self.dtype, other.dtype if hasattr(other, "dtype") and isinstance(getattr(other, "dtype", None), DType)
                 else dtypes.of_scalar(other)]
        if any(k.is_float for k in kinds):
            raise TypeError(f"{what} needs integers or bools, not {kinds[0].name} and {kinds[1].name}")

    # types; ``memory_format`` is taken and means nothing: all tensors are row by row

    def cast(self, dtype: DTypeLike) -> Tensor:
        """To another type. Floats become integers by truncation, saturating; NaN becomes 0."""
        return self._new(graph.cast(self._node, dtypes.of(dtype)))

    type = cast

    def bitcast(self, dtype: DTypeLike) -> Tensor:
        """The same bits as another type of the same size."""
        to = dtypes.of(dtype)
        if to.bits != self.dtype.bits or dtypes.bool_ in (to, self.dtype):
            raise TypeError(f"cannot see {self.dtype.name} as {to.name}: the sizes differ, or one is bool")
        return self._new(self._node if to is self.dtype else UOp(Ops.BITCAST, to, (self._node,)))

    def float(self, memory_format: Any = None) -> Tensor:
        """As float32."""
        return self.cast(dtypes.float32)

    def half(self, memory_format: Any = None) -> Tensor:
        """As float16."""
        return self.cast(dtypes.float16)

    def double(self, memory_format: Any = None) -> Tensor:
        """As float64."""
        return self.cast(dtypes.float64)

    def int(self, memory_format: Any = None) -> Tensor:
        """As int32."""
        return self.cast(dtypes.int32)

    def long(self, memory_format: Any = None) -> Tensor:
        """As int64."""
        return self.cast(dtypes.int64)

    def bool(self, memory_format: Any = None) -> Tensor:
        """As bool: False where it is 0."""
        return self.cast(dtypes.bool_)

    # arithmetic

    def add(self, other: Any, *, alpha: Any = 1) -> Tensor:
        """self + alpha * other, shapes broadcast, types promoted."""
        return self._binary(Ops.ADD, other if alpha == 1 else self._operand(other, self.dtype) * alpha)

    def sub(self, other: Any, *, alpha: Any = 1) -> Tensor:
        """self - alpha * other, shapes broadcast, types promoted."""
        other = self._operand(other, self.dtype)
        if dtypes.bool_ is self.dtype is other.dtype:
            raise TypeError("bools are not subtracted; use ^ or logical_xor")
        return self._binary(Ops.ADD, -(other if alpha == 1 else other * alpha))

    def rsub(self, other: Any, *, alpha: Any = 1) -> Tensor:
        """other - alpha * self"""
        return self._operand(other, self.dtype).sub(self, alpha=alpha)

    def mul(self, other: Any) -> Tensor:
        """self * other, shapes broadcast, types promoted; integers wrap."""
        return self._binary(Ops.MUL, other)

    def div(self, other: Any, *, rounding_mode: str | None = None) -> Tensor:
        """True division: integers give float32. ``rounding_mode`` is None, "trunc" or "floor"."""
        if rounding_mode is None:
            return self._binary(Ops.FDIV, other, floats=True)
        y = self._operand(other, self.dtype)
        if rounding_mode == "floor":
            return floor_divide(self, y)
        if rounding_mode != "trunc":
            raise ValueError(f"div: rounding_mode is None, 'trunc' or 'floor', not {rounding_mode!r}")
        dtype = dtypes.promote(self.dtype, y.dtype)
        return self._binary(Ops.IDIV, y) if dtype.is_int else (self / y).trunc().cast(dtype)

    def neg(self) -> Tensor:
        """-self; unsigned integers wrap. :raises TypeError: bools."""
        if self.dtype is dtypes.bool_:
            raise TypeError("bools have no negative; use ~ or logical_not")
        return self._unary(Ops.NEG, floats=False)

    def maximum(self, other: Any) -> Tensor:
        """The greater of both; NaN where one is."""
        return self._binary(Ops.MAX, other)

    def minimum(self, other: Any) -> Tensor:
        """The lesser of both; NaN where one is."""
        y = self._operand(other, self.dtype)
        dtype = dtypes.promote(self.dtype, y.dtype)
        return _reversed(_reversed(self.cast(dtype)).maximum(_reversed(y.cast(dtype))))

    def fmax(self, other: Any) -> Tensor:
        """The greater one; of a number and a NaN the number."""
        y = self._operand(other, self.dtype)
        return ((self >= y) | y.isnan()).where(self, y)

    def fmin(self, other: Any) -> Tensor:
        """The lesser of both; a number wins over a NaN."""
        y = self._operand(other, self.dtype)
        return ((self <= y) | y.isnan()).where(self, y)

    def clamp(self, min: Any = None, max: Any = None) -> Tensor:
        """Bounds are numbers or tensors; the upper one wins where they cross. The gradient passes where nothing is
        cut off, the bounds themselves included."""
        out: Any = self
        if min is None and max is None:
            raise ValueError("clamp needs a bound: min, max or both")
        if any(isinstance(bound, Number) and bound != bound for bound in (min, max)):
            return self * math.nan
        if min is not None:
            low = out._operand(min, out.dtype)
            out = (out < low).where(low, out)
        if max is not None:
            high = out._operand(max, out.dtype)
            out = (out > high).where(high, out)
        return out  # type: ignore[no-any-return]

    clip = clamp

    def clamp_min(self, min: Any) -> Tensor:
        """Nothing below ``min``."""
        return self.clamp(min=min)

    def clamp_max(self, max: Any) -> Tensor:
        """Nothing above ``max``."""
        return self.clamp(max=max)

    def addcmul(self, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Tensor:
        """self + value * tensor1 * tensor2"""
        return self + tensor1 * tensor2 * value

    def addcdiv(self, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Tensor:
        """self + value * tensor1 / tensor2"""
        return self + tensor1 / tensor2 * value

    def gcd(self, other: Any) -> Tensor:
        """Greatest common divisor, of integers; never negative."""
        return gcd(self, self._operand(other, self.dtype))

    def lcm(self, other: Any) -> Tensor:
        """Least common multiple, of integers; never negative."""
        y = self._operand(other, self.dtype)
        return (self // gcd(self, y) * y).abs()

    multiply, subtract, divide, true_divide, negative = mul, sub, div, div, neg
    __add__ = __radd__ = add
    __mul__ = __rmul__ = mul
    __sub__ = sub
    __truediv__ = div
    __neg__ = neg

    def __pos__(self) -> Tensor:
        """The same value."""
        return self.clone()  # type: ignore[no-any-return]

    positive = __pos__

    def __rsub__(self, other: Any) -> Tensor:
        return self._operand(other, self.dtype) - self

    def __rtruediv__(self, other: Any) -> Tensor:
        return self._binary(Ops.FDIV, other, reverse=True, floats=True)

    # bits

    def bitwise_and(self, other: Any) -> Tensor:
        """Bit by bit, of integers and bools. :raises TypeError: floats."""
        self._ints(other, "&")
        return self._binary(Ops.AND, other)

    def bitwise_or(self, other: Any) -> Tensor:
        """Bit by bit, of integers and bools. :raises TypeError: floats."""
        self._ints(other, "|")
        return self._binary(Ops.OR, other)

    def bitwise_xor(self, other: Any) -> Tensor:
        """Bit by bit, of integers and bools. :raises TypeError: floats."""
        self._ints(other, "^")
        return self._binary(Ops.XOR, other)

    def bitwise_not(self) -> Tensor:
        """Every bit inverted, of integers; of bools, their opposite. :raises TypeError: floats."""
        self._ints(self, "~")
        return self.bitwise_xor(
            True if self.dtype is dtypes.bool_ else -1 if self.dtype.kind == "i" else self.dtype.max
        )

    def lshift(self, other: Any) -> Tensor:
        """self << other, of integers; bits that leave the type are lost. :raises TypeError: floats."""
        self._ints(other, "<<")
        return self._binary(Ops.SHL, other)

    def rshift(self, other: Any) -> Tensor:
        """self >> other, of integers; the sign is kept. :raises TypeError: floats."""
        self._ints(other, ">>")
        return self._binary(Ops.SHR, other)

    def __rlshift__(self, other: Any) -> Tensor:
        return self._operand(other, self.dtype) << self

    def __rrshift__(self, other: Any) -> Tensor:
        return self._operand(other, self.dtype) >> self

    bitwise_left_shift, bitwise_right_shift, bitwise_invert = lshift, rshift, bitwise_not
    __and__ = __rand__ = bitwise_and
    __or__ = __ror__ = bitwise_or
    __xor__ = __rxor__ = bitwise_xor
    __invert__ = bitwise_not
    __lshift__ = lshift
    __rshift__ = rshift

    def logical_not(self) -> Tensor:
        """It is 0, a bool tensor."""
        return self.eq(0)

    def logical_and(self, other: Any) -> Tensor:
        """Both are not 0, a bool tensor."""
        return self.bool() & self._operand(other, self.dtype).bool()

    def logical_or(self, other: Any) -> Tensor:
        """One of both is not 0, a bool tensor."""
        return self.bool() | self._operand(other, self.dtype).bool()

    def logical_xor(self, other: Any) -> Tensor:
        """One of both is not 0, the other is, a bool tensor."""
        return self.bool() ^ self._operand(other, self.dtype).bool()

    # comparisons: bool tensors

    def lt(self, other: Any) -> Tensor:
        """self < other, a bool tensor. ``less`` is another name of it."""
        return self._binary(Ops.CMPLT, other)

    def gt(self, other: Any) -> Tensor:
        """self > other, a bool tensor. ``greater`` is another name of it."""
        return self._binary(Ops.CMPLT, other, reverse=True)

    def eq(self, other: Any) -> Tensor:
        """self == other, a bool tensor; NaN equals nothing."""
        return self._binary(Ops.CMPEQ, other)

    def ne(self, other: Any) -> Tensor:
        """self != other, a bool tensor; NaN differs from everything."""
        return self._binary(Ops.CMPNE, other)

    def le(self, other: Any) -> Tensor:
        """self <= other, a bool tensor. ``less_equal`` is another name of it."""
        return self.lt(other) | self.eq(other)

    def ge(self, other: Any) -> Tensor:
        """self >= other, a bool tensor. ``greater_equal`` is another name of it."""
        return self.gt(other) | self.eq(other)

    __lt__, __gt__, __le__, __ge__ = lt, gt, le, ge
    __eq__ = eq             # type: ignore[assignment]
    __ne__ = ne             # type: ignore[assignment]

    less, less_equal, greater, greater_equal, not_equal = lt, le, gt, ge, ne

    def equal(self, other: Any) -> bool_type:
        """Are shapes and all values equal? Computed at once."""
        return self.shape == other.shape and (self.numel() == 0 or bool_type(self.eq(other).all().item()))

    def isclose(self, other: Any, rtol: Number = 1e-5, atol: Number = 1e-8, equal_nan: bool_type = False) -> Tensor:
        """``|x - y| <= atol + rtol * |y|``, infinities equal to themselves."""
        if rtol < 0 or atol < 0:
            raise ValueError(f"isclose: tolerances are not negative: rtol {rtol}, atol {atol}")
        y: Any = self._operand(other, self.dtype)
        if self.dtype is dtypes.bool_ is y.dtype:
            return self.eq(y)
        same = self.eq(y) | ((self - y).abs() <= y.abs() * rtol + atol) & self.isfinite() & y.isfinite()
        return same | (self.isnan() & y.isnan()) if equal_nan else same

    def allclose(self, other: Any, rtol: Number = 1e-5, atol: Number = 1e-8, equal_nan: bool_type = False) -> bool_type:
        """Whether all elements are close, as a Python bool; see :meth:`isclose`. Runs the graph."""
        return bool_type(self.isclose(other, rtol, atol, equal_nan).all().item())

    def where(self, yes: Any, no: Any) -> Tensor:
        """``yes`` where this (a condition) holds, else ``no``. Both may be numbers.

        PyTorch's method, ``x.where(condition, other)``, is meant if the first argument is bool and this is not.
        """
        from compiler.tensor import Tensor
        if isinstance(yes, Tensor) and yes.dtype is dtypes.bool_ and self.dtype is not dtypes.bool_:
            return yes.where(self, no)
        if not isinstance(yes, Tensor) and not isinstance(no, Tensor):
            kind = dtypes.promote(dtypes.of_scalar(yes), dtypes.of_scalar(no))
            yes, no = Tensor(yes, kind, self._device), Tensor(no, kind, self._device)
        elif not isinstance(yes, Tensor):
            yes = no._operand(yes, no.dtype)
        else:
            no = yes._operand(no, yes.dtype)
        dtype = dtypes.promote(yes.dtype, no.dtype)
        shape = broadcast_shapes(self.shape, yes.shape, no.shape)
        cond = graph.expand(self.bool()._node, shape)
        a, b = (graph.expand(graph.cast(t._node, dtype), shape) for t in (yes, no))
        return self._new(graph.alu(Ops.WHERE, cond, a, b), yes, no)

    def masked_fill(self, mask: Tensor, value: Any) -> Tensor:
        """``value`` where ``mask`` is true; the shapes broadcast."""
        return mask.bool().where(self._operand(value, self.dtype).cast(self.dtype), self)

    def isnan(self) -> Tensor:
        """Where it is NaN, a bool tensor."""
        return self.ne(self)

    def isinf(self) -> Tensor:
        """Where it is infinite, of either sign, a bool tensor."""
        return self.eq(math.inf) | self.eq(-math.inf) if self.dtype.is_float else self.ne(self)

    def isposinf(self) -> Tensor:
        """Where it is plus infinity, a bool tensor."""
        return self.eq(math.inf) if self.dtype.is_float else self.ne(self)

    def isneginf(self) -> Tensor:
        """Where it is minus infinity, a bool tensor."""
        return self.eq(-math.inf) if self.dtype.is_float else self.ne(self)

    def isfinite(self) -> Tensor:
        """Where it is neither NaN nor infinite, a bool tensor."""
        return self.isnan().logical_or(self.isinf()).logical_not()

    def nan_to_num(self, nan: Number = 0.0, posinf: Number | None = None, neginf: Number | None = None) -> Tensor:
        """NaNs and infinities replaced, these by the type's greatest and least numbers if nothing else is given."""
        if not self.dtype.is_float:
            return self.clone()  # type: ignore[no-any-return]
        out = self.isnan().where(nan, self)
        out = self.eq(math.inf).where(self.dtype.finite_max if posinf is None else posinf, out)
        return self.eq(-math.inf).where(-self.dtype.finite_max if neginf is None else neginf, out)

    def lerp(self, end: Any, weight: Any) -> Tensor:
        """self + (end - self) * weight"""
        return self + (end - self) * weight


def _reversed(x: Any) -> Any:
    """An order-reversing map without loss: the minimum is the maximum behind it."""
    return -x if x.dtype.is_float else ~x


def fmod(x: Any, y: Any) -> Any:
    """x - trunc(x / y) * y: exact up to float32; of float64 while the quotient times y has 53 bits."""
    dtype = dtypes.promote(x.dtype, y.dtype)
    if not dtype.is_float:
        return x.cast(dtype)._binary(Ops.MOD, y.cast(dtype))
    from compiler.methods.special import float32_fmod, float_fmod
    exact = float_fmod if dtype.bits == 64 else float32_fmod
    return exact(x.cast(dtypes.float64), y.cast(dtypes.float64)).cast(dtype)


def remainder(x: Any, y: Any) -> Any:
    dtype = dtypes.promote(x.dtype, y.dtype)
    x, y = x.cast(dtype), y.cast(dtype)
    r = fmod(x, y)
    if dtype.kind in "bu":
        return r
    out = (r.ne(0) & ((r < 0) ^ (y < 0))).where(r + y, r)
    if not dtype.is_float:
        return out
    return out.eq(0).where((y < 0).where(-0.0, 0.0).cast(dtype), out)       # a zero's sign, too


def floor_divide(x: Any, y: Any) -> Any:
    """Of floats: x without its remainder, divided exactly, so that no rounded quotient counts."""
    dtype = dtypes.promote(x.dtype, y.dtype)
    x, y = x.cast(dtype), y.cast(dtype)
    if dtype.is_float:
        q = ((x - remainder(x, y)) / y).round()
        q = q.eq(0).where((x / y) * 0.0, q)
        return y.eq(0).where(x / y, (y.abs().eq(math.inf) & x.isfinite()).where(
            (x.eq(0) | ((x < 0).eq(y < 0))).where((x / y) * 0.0, -1.0), q))
    q = x._binary(Ops.IDIV, y)
    if dtype.kind != "i":
        return q
    rest = x - q * y
    return (rest.ne(0) & y.ne(0) & ((rest < 0) ^ (y < 0))).where(q - 1, q)


def gcd(x: Any, y: Any) -> Any:
    """Euclid's algorithm, for as many steps as Fibonacci's numbers make it take."""
    dtype = dtypes.promote(x.dtype, y.dtype)
    if dtype.is_float:
        raise TypeError(f"gcd needs integers, not {dtype.name}")
    a, b = x.cast(dtype).abs(), y.cast(dtype).abs()
    for n in range(int(dtype.bits * 1.45)):
        a, b = b.eq(0).where(a, b), b.eq(0).where(b, a._binary(Ops.MOD, b))
        if n % 8 == 7:
            a, b = a.contiguous(), b.contiguous()
    return a


def power(x: Any, exponent: Any) -> Any:
    if isinstance(exponent, int | float) and not isinstance(exponent, bool):
        if exponent == exponent and abs(exponent) <= 64 and exponent == int(exponent):
            if exponent < 0 and not x.dtype.is_float and isinstance(exponent, int):
                raise ValueError("integers to negative integer powers are not integers; cast to float first")
            if isinstance(exponent, float) and not x.dtype.is_float:
                x = x.cast(dtypes.default_float)
            out = _repeated(x, abs(int(exponent)))
            return 1 / out if exponent < 0 else out
        if exponent == 0.5:
            return x.sqrt()
    y = x._operand(exponent, x.dtype)
    dtype = dtypes.promote(x.dtype, y.dtype)
    if not dtype.is_float:
        return _integer_power(x.cast(dtype), y.cast(dtype))
    from compiler.methods.special import float_power
    # y * log2(x) has up to 10 bits before the point, which its fraction would lack in the type itself
    wide = dtypes.float64 if dtype.bits >= 32 else dtypes.float32
    return float_power(x.cast(wide), y.cast(wide)).cast(dtype)


def _repeated(x: Any, n: int) -> Any:
    """x**n by squaring; half types in float32 on the way."""
    if n == 0:
        return x.ones_like()
    kind = x.dtype
    square = x.cast(dtypes.float32) if kind.is_float and kind.bits < 32 else x
    out = None
    while n:
        if n & 1:
            out = square if out is None else out * square
        n >>= 1
        square = square * square if n else square
    return out.cast(kind)  # type: ignore[union-attr]


def _integer_power(x: Any, y: Any) -> Any:
    """By squaring, a step for each bit of the exponent; of negative exponents only 1 and -1 have whole results."""
    dtype = x.dtype
    if dtype is dtypes.bool_:
        return x | ~y
    out, square, n = x.ones_like(), x, y
    for _ in range(dtype.bits - (dtype.kind == "i")):
        out = (n & 1).ne(0).where(out * square, out)
        square, n = square * square, n >> 1
    if dtype.kind == "u":
        return out
    odd = (y & 1).ne(0)
    small = x.eq(1).where(1, x.eq(-1).where(odd.where(x, 1), 0))
    return (y < 0).where(small, out)
