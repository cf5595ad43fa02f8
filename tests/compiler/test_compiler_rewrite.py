"""Patterns, the rewrite engine, and every rewrite rule as a statement about values."""

from __future__ import annotations

import gc
import math
import random
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler import dtypes
from compiler.lower import Axis, flat_index, unflatten
from compiler.match import PatternMatcher, UPat, graph_rewrite
from compiler.render.legalize import legalizer, reciprocal
from compiler.symbolic import simplify, symbolic
from compiler.uop import ALU, COMPARE, Ops, UOp, fold


def const(value: Any, dtype: dtypes.DType = dtypes.int32) -> UOp:
    return UOp.const(dtype, value)


def rng(n: int, number: int = 0) -> UOp:
    return UOp(Ops.RANGE, dtypes.int32, (const(n),), (number, Axis.GLOBAL))


def evaluate(root: UOp, values: dict[UOp, Any]) -> Any:
    """The value of a scalar graph, by :func:`fold`, node by node: the meaning that rules must keep."""
    done: dict[UOp, Any] = {}
    for n in root.toposort():
        if n in values:
            done[n] = values[n]
        elif n.op is Ops.CONST:
            done[n] = n.arg
        else:
            done[n] = fold(n.op, n.dtype, tuple(done[s] for s in n.src), n.src[0].dtype)
            assert done[n] is not None, n
    return done[root]


def test_nodes_are_consed() -> None:
    a, b = rng(4), rng(5, 1)
    assert (a + b) * 2 is (a + b) * 2 and a + b is not b + a
    zero, minus, nan = (const(v, dtypes.float32) for v in (0.0, -0.0, math.nan))
    assert zero is not minus and nan is const(math.nan, dtypes.float32) and const(True, dtypes.bool_).arg is True
    assert const(300, dtypes.uint8).arg == 44 and const(0.1, dtypes.float32).arg != 0.1
    chain = rng(4, 987_654_321) + 1     # a range that no kernel has: what other tests left must not share the chain
    first = weakref.ref(chain)
    for _ in range(5000):
        chain = chain + 1
    assert len(chain.toposort()) > 5000 and first() is not None
    del chain
    gc.collect()
    assert first() is None      # nodes live as long as something refers to them


def test_patterns() -> None:
    a, b, five = rng(4), rng(7, 1), const(5)
    fits = lambda p, n: list(p.match(n, {}))
    assert fits(UPat(Ops.ADD, src=(UPat.var("x"), UPat.const(5))), a + five) == [{"x": a}]
    assert not fits(UPat(Ops.ADD, src=(UPat.const(5), UPat.var("x"))), a + five)
    assert fits(UPat(Ops.ADD, src=[UPat.const(5), UPat.var("x")]), a + five) == [{"x": a}]
    assert len(fits(UPat(Ops.ADD, src=[UPat.var("x"), UPat.var("y")]), a + b)) == 2
    assert fits(UPat(Ops.ADD, src=(UPat.var("x"), UPat.var("x"))), a + a) and \
        not fits(UPat(Ops.ADD, src=(UPat.var("x"), UPat.var("x"))), a + b)
    assert fits(UPat.any(UPat(Ops.MUL), UPat(Ops.ADD, name="n")), a + b) == [{"n": a + b}]
    assert fits(UPat(Ops.ADD, src=UPat(Ops.RANGE)), a + b) and not fits(UPat(Ops.ADD, src=UPat(Ops.RANGE)), a + five)
    assert not fits(UPat.const(1), const(True, dtypes.bool_)) and not fits(UPat(None, dtypes.float32), a)


def test_rewriting_goes_on_until_nothing_fits() -> None:
    count = PatternMatcher([(UPat(Ops.CONST, name="c"), lambda c: const(c.arg + 1) if c.arg < 10 else None),
                            (UPat(Ops.CONST, name="c"), lambda ctx, c: ctx.append(c.arg))])
    seen: list[int] = []
    assert graph_rewrite(const(0) + const(7), count, seen) is const(10) + const(10) and seen == [10]


@st.composite
def int_graph(draw: st.DrawFn) -> tuple[UOp, list[UOp]]:
    """A random index expression over ranges."""
    ranges = [rng(draw(st.integers(1, 9)), k) for k in range(draw(st.integers(1, 3)))]
    pool: list[UOp] = [*ranges, const(draw(st.integers(-4, 20)))]
    for _ in range(draw(st.integers(1, 9))):
        x = draw(st.sampled_from(pool))
        kind = draw(st.sampled_from(["add", "mul", "div", "mod", "max", "where", "sub"]))
        if kind in ("div", "mod"):
            node = x.alu(Ops.IDIV if kind == "div" else Ops.MOD, draw(st.integers(1, 12)))
        elif kind == "mul":
            node = x * draw(st.integers(-3, 12))
        elif kind == "where":
            y, z = draw(st.sampled_from(pool)), draw(st.sampled_from(pool))
            cond = draw(st.sampled_from([Ops.CMPLT, Ops.CMPEQ, Ops.CMPNE]))
            node = x.alu(cond, draw(st.sampled_from([const(draw(st.integers(-5, 40))), y]))).where(y, z)
        else:
            y = draw(st.sampled_from(pool))
            node = x.alu(Ops.ADD, y) if kind == "add" else x - y if kind == "sub" else x.alu(Ops.MAX, y)
        pool.append(node)
    return pool[-1], ranges


def _points(ranges: list[UOp], limit: int = 150) -> list[dict[UOp, int]]:
    grid = [dict(zip(ranges, at, strict=True)) for at in np.ndindex(*(r.src[0].arg for r in ranges))]
    return random.Random(0).sample(grid, min(limit, len(grid)))


@settings(max_examples=250, deadline=None)
@given(int_graph())
def test_integer_rules_keep_values_and_bounds_hold(case: tuple[UOp, list[UOp]]) -> None:
    root, ranges = case
    simple = simplify(root)
    assert simplify(simple) is simple
    for point in _points(ranges):
        value = evaluate(root, point)
        assert root.vmin <= value <= root.vmax
        assert evaluate(simple, point) == value and simple.vmin <= value <= simple.vmax


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_wrapping_integers(data: st.DataObject) -> None:
    """Rules are exact for values that overflow: unknowns of any value stand where loads would."""
    dtype = data.draw(st.sampled_from([dtypes.int8, dtypes.uint8, dtypes.int32, dtypes.uint32, dtypes.uint64]))
    unknowns = [UOp(Ops.LOAD, dtype, (), k) for k in range(2)]
    pool = list(unknowns)
    for _ in range(data.draw(st.integers(1, 7))):
        op = data.draw(
            st.sampled_from([Ops.ADD, Ops.MUL, Ops.XOR, Ops.AND, Ops.OR, Ops.MAX, Ops.IDIV, Ops.MOD, Ops.CMPLT])
        )
        y = const(data.draw(st.integers(1, 100)), dtype) if op in (Ops.IDIV, Ops.MOD) or data.draw(st.booleans()) else \
            data.draw(st.sampled_from(pool))
        node = data.draw(st.sampled_from(pool)).alu(op, y)
        pool.append(node.where(pool[0], pool[-1]) if op is Ops.CMPLT else node)
    values = {u: dtype.cast(data.draw(st.integers(dtype.min, dtype.max))) for u in unknowns}
    assert evaluate(graph_rewrite(pool[-1], symbolic), values) == evaluate(pool[-1], values)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_float_rules_keep_every_value(data: st.DataObject) -> None:
    """NaN, infinities and signed zeros included."""
    x, y = (UOp(Ops.LOAD, dtypes.float32, (), k) for k in range(2))
    pool: list[UOp] = [x, y, const(0.0, dtypes.float32), const(1.0, dtypes.float32), const(-0.0, dtypes.float32)]
    for _ in range(data.draw(st.integers(1, 7))):
        a, b = data.draw(st.sampled_from(pool)), data.draw(st.sampled_from(pool))
        op = data.draw(st.sampled_from([Ops.ADD, Ops.MUL, Ops.FDIV, Ops.NEG, Ops.WHERE]))
        pool.append(-a if op is Ops.NEG else a.lt(b).where(a, b) if op is Ops.WHERE else a.alu(op, b))
    edges = st.sampled_from([0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 0.5, 3e38])
    values = {x: data.draw(edges), y: data.draw(edges)}
    before, after = evaluate(pool[-1], values), evaluate(graph_rewrite(pool[-1], symbolic), values)
    assert np.float32(before).tobytes() == np.float32(after).tobytes() or (before != before and after != after)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_legal_forms_mean_the_same(data: st.DataObject) -> None:
    """Guarded division and shifts, and bools, against their definitions."""
    dtype = data.draw(st.sampled_from([dtypes.int8, dtypes.uint8, dtypes.int32]))
    x, y = (UOp(Ops.LOAD, dtype, (), k) for k in range(2))
    a, b = (
        data.draw(
            st.one_of(
                st.integers(dtype.min, dtype.max), st.sampled_from([0, dtype.min, dtype.max, -1 if dtype.min else 1])
            )
        )
        for _ in range(2)
    )
    for op in (Ops.IDIV, Ops.MOD):
        want = 0 if b == 0 else fold(op, dtype, (a, b), dtype)
        assert evaluate(graph_rewrite(x.alu(op, y), legalizer(False)), {x: a, y: b}) == want
    shift = data.draw(st.integers(0, 40))
    if shift <= dtype.max:
        for op in (Ops.SHL, Ops.SHR):
            want = fold(op, dtype, (a, shift), dtype) if shift < dtype.bits else -1 if op is Ops.SHR and a < 0 else 0
            assert evaluate(graph_rewrite(x.alu(op, y), legalizer(False)), {x: a, y: shift}) == want


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 1 << 31), st.integers(2, 5000), st.data())
def test_division_by_multiplication(most: int, d: int, data: st.DataObject) -> None:
    """What a multiplier promises holds at the edges of every quotient, and at random."""
    found = reciprocal(most, d, (1 << 31) - 1)
    if found is None:
        return
    m, s = found
    assert most * m < 1 << 31
    edges = [k * d + e for k in (0, 1, most // d - 1, most // d) for e in (-1, 0, 1)]
    for x in [0, most, *edges, data.draw(st.integers(0, most))]:
        if 0 <= x <= most:
            assert x * m >> s == x // d


@settings(max_examples=150, deadline=None)
@given(int_graph())
def test_legal_integer_graphs_mean_the_same(case: tuple[UOp, list[UOp]]) -> None:
    root, ranges = case
    legal = graph_rewrite(root, legalizer(True))
    for point in _points(ranges, 40):
        assert evaluate(legal, point) == evaluate(root, point)


def test_small_divisions_are_multiplications() -> None:
    for op in (Ops.IDIV, Ops.MOD):
        legal = graph_rewrite(rng(3000).alu(op, 7), legalizer(True))
        assert not any(n.op in (Ops.IDIV, Ops.MOD) for n in legal.toposort())
    assert graph_rewrite(rng(1 << 30).alu(Ops.IDIV, 7), legalizer(True)).op is Ops.IDIV


def test_reshapes_leave_no_division_behind() -> None:
    """Going to another shape and back is nothing; merging and splitting axes costs no division."""
    i, j, k = rng(6, 0), rng(4, 1), rng(5, 2)
    there = unflatten(flat_index((i, j, k), (6, 4, 5), dtypes.int32), (6, 20))
    assert there[0] is i and there[1] is simplify(k + j * 5)
    back = unflatten(flat_index(there, (6, 20), dtypes.int32), (6, 4, 5))
    assert back == (i, j, k)
    strange = unflatten(flat_index((i, j, k), (6, 4, 5), dtypes.int32), (8, 15))
    again = unflatten(flat_index(strange, (8, 15), dtypes.int32), (6, 4, 5))
    assert again == (i, j, k)


def test_one_hot_sum_needs_exactness() -> None:
    """sum over r of (r == e ? r*3 : 0) is e*3 within the range and 0 outside."""
    r = UOp(Ops.RANGE, dtypes.int32, (const(5),), (9, Axis.REDUCE))
    e = UOp(Ops.LOAD, dtypes.int32, (), 0)
    total = UOp(Ops.REDUCE, dtypes.int32, (r.eq(e).where(r * 3, const(0)), r), Ops.ADD)
    folded = simplify(total)
    assert not any(n.op is Ops.REDUCE for n in folded.toposort())
    for value in (-1, 0, 3, 4, 5, 100):
        assert evaluate(folded, {e: value}) == (value * 3 if 0 <= value < 5 else 0)


def test_every_elementwise_operation_folds() -> None:
    for op in ALU - {Ops.WHERE, Ops.CAST, Ops.BITCAST}:
        for dtype in (dtypes.int32, dtypes.float32):
            if dtype.is_float and op in (Ops.IDIV, Ops.MOD, Ops.AND, Ops.OR, Ops.XOR, Ops.SHL, Ops.SHR):
                continue
            if not dtype.is_float and op in (Ops.SQRT, Ops.EXP2, Ops.LOG2, Ops.SIN, Ops.FDIV):
                continue
            out = dtypes.bool_ if op in COMPARE else dtype
            assert fold(op, out, (dtype.cast(3), dtype.cast(2)), dtype) is not None, op.name


def test_promotion() -> None:
    p = dtypes.promote
    assert p(dtypes.int8, dtypes.uint8) is dtypes.int16 and p(dtypes.int32, dtypes.uint32) is dtypes.int64
    assert p(dtypes.uint64, dtypes.int64) is dtypes.float32 and p(dtypes.float16, dtypes.bfloat16) is dtypes.float32
    assert p(dtypes.int64, dtypes.float16) is dtypes.float16 and p(dtypes.bool_, dtypes.uint8) is dtypes.uint8
    assert p(dtypes.float32, dtypes.float64) is dtypes.float64 and p(dtypes.bool_) is dtypes.bool_
    for a in dtypes.all_types:
        for b in dtypes.all_types:
            assert p(a, b) is p(b, a) and p(p(a, b), b) is p(a, b)
    with pytest.raises(TypeError, match="is no element type; use one of bool, int8"):
        dtypes.of("complex64")
