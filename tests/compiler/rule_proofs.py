"""Graphs that a rewrite rule fits, made from its own pattern, and what graphs mean: the two sides of its proof.

:class:`Maker` builds a node for a pattern: captures that must be the same node are, constants and types are what the
pattern asks for, and what it leaves open is random: sums of ranges (as indices are), loads of unknown values, loads
from memory under conditions, sums over one-hot vectors. :func:`evaluate` says what a graph is worth, with
:func:`compiler.uop.fold` for single operations; it knows nothing of rules.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.dtypes import DType
from compiler.lower import Axis
from compiler.match import UPat, _Any
from compiler.uop import ALU, COMPARE, Ops, UOp, fold

__all__ = ["Maker", "Mismatch", "World", "evaluate", "same"]

INTS = tuple(t for t in dtypes.all_types if t.is_int)
FLOATS = tuple(t for t in dtypes.all_types if t.is_float)
_FLOAT_ONLY = frozenset({Ops.SQRT, Ops.EXP2, Ops.LOG2, Ops.SIN, Ops.FDIV})
_INT_ONLY = frozenset({Ops.IDIV, Ops.MOD, Ops.SHL, Ops.SHR})
_BITS = frozenset({Ops.AND, Ops.OR, Ops.XOR})
_CELLS = 16         # elements of a memory


class Mismatch(Exception):
    """No node here can fit the pattern: try again with other luck."""


def takes(op: Ops, dtype: DType) -> bool:
    """Can ``op`` give a value of this type?"""
    if op in COMPARE:
        return dtype is dtypes.bool_
    if op in _FLOAT_ONLY:
        return dtype.is_float
    if op in _INT_ONLY:
        return dtype.is_int
    if op in _BITS:
        return not dtype.is_float
    return dtype is not dtypes.bool_ if op in (Ops.NEG, Ops.RANGE) else True


class Maker:
    """Random nodes over a few ranges, unknowns and conditions."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.ranges = [self._range(k, Axis.GLOBAL) for k in range(3)]
        self.count = 3
        self.names: dict[str, UOp] = {}
        self.conditions: list[UOp] = []
        for k in range(3):
            x = self.ranges[k % len(self.ranges)]
            self.conditions.append(x.lt(rng.randint(0, 5)) if rng.random() < 0.7 else self.unknown(dtypes.bool_))

    def _range(self, number: int, axis: Axis) -> UOp:
        n = self.rng.choice([1, 2, 3, 4, 5, 6, 8, 9])
        return UOp(Ops.RANGE, dtypes.int32, (UOp.const(dtypes.int32, n),), (number, axis))

    def unknown(self, dtype: DType) -> UOp:
        return UOp(Ops.LOAD, dtype, (), self.rng.randint(0, 2))

    def constant(self, dtype: DType, dividing: bool = False) -> UOp:
        if dtype is dtypes.bool_:
            return UOp.const(dtype, self.rng.random() < 0.5)
        if dtype.is_float:
            return UOp.const(dtype, self.rng.choice([0.0, -0.0, 1.0, -1.0, 2.0, 0.5, 3.0, math.inf, math.nan, 1e4,
                                                     math.pi / 2, 1 / math.log(2)]))
        if dividing:
            return UOp.const(dtype, self.rng.choice([1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 20, 100]))
        return UOp.const(dtype, self.rng.choice([0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 31, 100, -1, -3, dtype.min, dtype.max]))

    def index(self, dtype: DType = dtypes.int32) -> UOp:
        """A sum of ranges with strides, such as movement operations leave."""
        rng = self.rng
        total = UOp.const(dtype, rng.choice([0, 0, 1, 3, 7, -1]))
        for r in rng.sample(self.ranges, rng.randint(1, len(self.ranges))):
            step = rng.choice([1, 1, 2, 3, 4, 5, 6, 8, 12])
            part = r.cast(dtype)
            total = total + (part if step == 1 else part * step)
            if rng.random() < 0.25:
                total = total.alu(rng.choice([Ops.IDIV, Ops.MOD]), rng.choice([2, 3, 4, 5, 6, 8]))
        return total

    def load(self, dtype: DType) -> UOp:
        memory = UOp(Ops.PARAM, dtype, (), self.rng.randint(0, 1))
        address = UOp(Ops.INDEX, dtype, (memory, self.index()))
        gate = self.condition()
        return UOp(Ops.LOAD, dtype, (address, gate) if self.rng.random() < 0.6 else (address,))

    def condition(self) -> UOp:
        chosen = self.rng.sample(self.conditions, self.rng.randint(1, 2))
        return chosen[0] if len(chosen) == 1 else chosen[0] & chosen[1]

    def any(self, dtype: DType, depth: int = 2) -> UOp:
        """Anything of a type."""
        rng = self.rng
        kind = rng.random()
        if kind < 0.15:
            return self.constant(dtype)
        if kind < 0.3 or (depth == 0 and kind < 0.6):
            return self.unknown(dtype)
        if dtype is dtypes.bool_ and kind < 0.7:
            return self.condition()
        if dtype in (dtypes.int32, dtypes.int64) and kind < 0.75:
            return self.index(dtype)
        if depth == 0:
            return self.load(dtype)
        ops = [op for op in (*sorted(ALU - _FLOAT_ONLY), Ops.FDIV) if takes(op, dtype) and op is not Ops.BITCAST]
        op = rng.choice(ops)
        return self.build(op, dtype, [self.any(t, depth - 1) for t in self.sources(op, dtype, None)])

    def sources(self, op: Ops, dtype: DType, patterns: Sequence[UPat] | None) -> list[DType]:
        """Types for the sources of an operation that gives ``dtype``."""
        rng = self.rng
        wanted = [t for p in patterns or () for q in _alternatives(p) if q.dtypes for t in q.dtypes]
        if op in COMPARE:
            return [rng.choice(wanted or [dtypes.bool_, dtypes.int32, dtypes.int32, dtypes.uint8, dtypes.float32,
                                          dtypes.int64])] * 2
        if op is Ops.WHERE:
            return [dtypes.bool_, dtype, dtype]
        if op is Ops.CAST:
            return [rng.choice(wanted or dtypes.all_types)]
        if op is Ops.BITCAST:
            return [rng.choice([t for t in dtypes.all_types if t.bits == dtype.bits and t is not dtypes.bool_])]
        if op in ALU:
            return [dtype] * (1 if op in (Ops.NEG, Ops.SQRT, Ops.EXP2, Ops.LOG2, Ops.SIN, Ops.TRUNC) else 2)
        return []

    def build(self, op: Ops, dtype: DType, src: Sequence[UOp], arg: Any = None) -> UOp:
        return UOp(op, dtype, tuple(src), arg)

    def reduction(self, dtype: DType, op: Ops) -> UOp:
        """A sum, product or maximum; sums often over a one-hot vector; sometimes of what no range changes."""
        rng = self.rng
        mine = []
        for _ in range(rng.randint(1, 2)):
            mine.append(self._range(self.count, Axis.REDUCE))
            self.count += 1
        kind = rng.random()
        if kind < 0.25:
            value = self.any(dtype, 1)
        elif kind < 0.35:
            value = self.constant(dtype)
        else:
            outer, self.ranges = self.ranges, [*self.ranges[:1], *mine]
            value = self.any(dtype, 1) if rng.random() < 0.5 else self.load(dtype)
            self.ranges = outer
            if kind < 0.8 and op is Ops.ADD:
                place = rng.choice([self.unknown(dtypes.int32), self.unknown(dtypes.uint8), self.index()])
                r = mine[0].cast(place.dtype)
                hit = r.eq(place) if rng.random() < 0.5 else place.eq(r)
                value = (hit & self.condition() if rng.random() < 0.5 else hit).where(value, value.like(0))
        return UOp(Ops.REDUCE, dtype, (value, *mine), op)

    def fit(self, p: UPat, dtype: DType) -> UOp:
        """A node of a type that fits a pattern, most of the time. :raises Mismatch:"""
        rng = self.rng
        if isinstance(p, _Any):
            p = rng.choice(list(p.patterns))
        if p.dtypes is not None and dtype not in p.dtypes:
            raise Mismatch
        if p.name is not None and p.name in self.names:
            held = self.names[p.name]
            if held.dtype is not dtype:
                raise Mismatch
            return held
        node = self._fit(p, dtype)
        if p.name is not None:
            self.names[p.name] = node
        return node

    def _fit(self, p: UPat, dtype: DType) -> UOp:
        rng = self.rng
        if p.ops is None:
            return self.any(dtype)
        op = rng.choice(sorted(p.ops))
        if op is Ops.CONST:
            if p.arg == 0 and dtype.is_float and rng.random() < 0.2:
                return UOp.const(dtype, -0.0)       # equal, and not the same
            return UOp.const(dtype, p.arg) if p.arg is not None else self.constant(dtype, rng.random() < 0.5)
        if op is Ops.REDUCE:
            return self.reduction(dtype, p.arg or rng.choice([Ops.ADD, Ops.MUL, Ops.MAX]))
        if op is Ops.RANGE:
            return self._range(99, Axis.GLOBAL)
        if op is Ops.LOAD and p.orders is None:
            return self.load(dtype)
        if op is Ops.LOAD:      # an address and a gate
            (order,) = p.orders or ()
            gate = self.fit(order[1], dtypes.bool_)
            node = UOp(Ops.LOAD, dtype, (self.load(dtype).src[0], gate))
            if order[0].name is not None:
                self.names[order[0].name] = node.src[0]
            return node
        if not takes(op, dtype):
            raise Mismatch
        order = [p.all_sources] if p.all_sources is not None else list(rng.choice(p.orders)) if p.orders else []
        types = self.sources(op, dtype, order)
        if p.count is not None and p.count != len(types):
            raise Mismatch
        src = []
        for k, t in enumerate(types):
            q = order[0] if p.all_sources is not None else order[k] if order else None
            if q is not None:
                src.append(self.fit(q, t))
            elif rng.random() < 0.3:
                src.append(self.constant(t, op in _INT_ONLY))
            elif t in (dtypes.int32, dtypes.int64) and rng.random() < 0.5:
                src.append(self.index(t))
            else:
                src.append(self.any(t))
        return self.build(op, dtype, src, p.arg)


def _alternatives(p: UPat) -> list[UPat]:
    return list(p.patterns) if isinstance(p, _Any) else [p]


class World:
    """Values for everything that a graph leaves open."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.known: dict[Any, Any] = {}

    def value(self, key: Any, dtype: DType) -> Any:
        if (key, dtype) not in self.known:
            self.known[key, dtype] = dtype.cast(self._draw(dtype))
        return self.known[key, dtype]

    def _draw(self, dtype: DType) -> Any:
        rng = self.rng
        if dtype is dtypes.bool_:
            return rng.random() < 0.5
        if dtype.is_float:
            return rng.choice([0.0, -0.0, 1.0, -1.0, 0.5, math.inf, -math.inf, math.nan, 3.0, 3e38, 1e-40, 65504.0,
                               rng.uniform(-100, 100), rng.uniform(-1, 1), rng.gauss(0, 1e4)])
        return rng.choice([0, 1, 2, 3, 4, 5, 7, dtype.min, dtype.max, rng.randint(dtype.min, dtype.max),
                           rng.randint(0, 20)])


def _bits(value: Any, dtype: DType) -> int:
    if dtype.coded:
        return int(dtype.encode(np.array([value], np.float32))[0])
    return int(np.array(value, dtype.np).view(f"u{dtype.itemsize}")[()])


def _from_bits(bits: int, dtype: DType) -> Any:
    if dtype.coded:
        return float(dtype.decode(np.array([bits], dtype.np))[0])
    return np.array(bits, f"u{dtype.itemsize}").view(dtype.np)[()].item()


def _apply(node: UOp, values: tuple[Any, ...]) -> Any:
    """One operation. What :func:`fold` leaves open is defined here as the compiler's users see it."""
    op, dtype, source = node.op, node.dtype, node.src[0].dtype
    if op is Ops.BITCAST:
        return _from_bits(_bits(values[0], source), dtype)
    result = fold(op, dtype, values, source)
    if result is not None:
        return result
    x, y = values[0], values[-1]
    if op in (Ops.IDIV, Ops.MOD):
        assert node.arg != "safe", "a division that was to be safe is one by zero"
        return 0
    if op in (Ops.SHL, Ops.SHR):
        return -1 if op is Ops.SHR and x < 0 else 0
    if op is Ops.CAST:      # saturates; nothing for NaN
        return 0 if x != x else dtype.min if x < 0 else dtype.max
    if op is Ops.TRUNC:
        return x
    raise AssertionError(f"{node} has no value at {x!r}, {y!r}")


def evaluate(root: UOp, world: World, point: dict[UOp, int] | None = None) -> Any:
    """The value of a graph, with ranges at ``point`` (drawn where it says nothing)."""
    point = dict(point or {})
    for node in root.toposort():
        if node.op is Ops.RANGE and node.arg[1] is Axis.GLOBAL and node not in point:
            point[node] = world.value(("range", node.arg, node.src[0].arg), dtypes.uint32) % max(1, node.src[0].arg)
    return _evaluate(root, world, point)


def _evaluate(root: UOp, world: World, point: dict[UOp, int]) -> Any:
    done: dict[UOp, Any] = {}

    def inside(node: UOp) -> bool:
        return node.op is not Ops.REDUCE

    for node in root.toposort(lambda n: inside(n) or n is root):
        if node.op is Ops.REDUCE:
            total: Any = None
            for at in product(*(range(r.src[0].arg) for r in node.src[1:])):
                value = _evaluate(node.src[0], world, point | dict(zip(node.src[1:], at, strict=True)))
                total = value if total is None else fold(node.arg, node.dtype, (total, value), node.dtype)
            done[node] = total
        elif node.op is Ops.CONST:
            done[node] = node.arg
        elif node.op is Ops.RANGE:
            done[node] = point.get(node, 0)
        elif node.op is Ops.LOAD:
            if not node.src:
                done[node] = world.value(("unknown", node.arg), node.dtype)
            elif len(node.src) > 1 and not done[node.src[1]]:
                done[node] = node.dtype.cast(0)
            else:
                memory, index = node.src[0].src
                done[node] = world.value(("memory", memory.arg, done[index]), node.dtype)
        elif node.op in (Ops.PARAM, Ops.INDEX):
            done[node] = None
        elif node.op is Ops.BITCAST and node.src[0].op is Ops.BITCAST:      # which NaN it is is in the bits alone
            first = node.src[0].src[0]
            done[node] = _from_bits(_bits(done[first], first.dtype), node.dtype)
        else:
            done[node] = _apply(node, tuple(done[s] for s in node.src))
    return done[root]


def same(a: Any, b: Any, dtype: DType, rel: float = 0.0, away: float = 0.0) -> bool:
    """Equal by their bits, but for which NaN it is; floats may differ by ``rel``, as part of the greater, or by
    ``away``."""
    if not dtype.is_float:
        return bool(a == b)
    if a != a or b != b:
        return a != a and b != b
    if (rel or away) and math.isfinite(a) and math.isfinite(b):
        return abs(a - b) <= max(rel * max(abs(a), abs(b), 1e-30), away)
    return a == b and math.copysign(1, a) == math.copysign(1, b)
