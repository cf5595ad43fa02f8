"""Every rewrite rule there is, proven on values: graphs that fit it are worth the same after it as before.

The rules are found, not listed: all matchers of all modules of the compiler. A rule for which no fitting graph can be
made is not proven, and its test fails.
"""

from __future__ import annotations

import ast
import gc
import importlib
import inspect
import math
import pkgutil
import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rule_proofs import FLOATS, Maker, Mismatch, World, evaluate, same, takes

import compiler
from compiler import Tensor, dtypes, graph
from compiler.gradient import derivatives as named
from compiler.gradient import gradients
from compiler.gradient import rules as derivatives
from compiler.match import PatternMatcher, Rule
from compiler.render.legalize import legalizer
from compiler.uop import COMPARE, Ops, UOp

_TRIES = 3000
_WORLDS = 4


def _modules() -> list[Any]:
    return [importlib.import_module(m.name) for m in pkgutil.walk_packages(compiler.__path__, "compiler.")]


@cache
def rules() -> dict[str, Rule]:
    """All rules but those of derivatives, by a name."""
    found: dict[tuple[int, int], tuple[str, Rule]] = {}
    matchers = [(f"{module.__name__}.{name}", thing) for module in _modules() for name, thing in vars(module).items()
                if isinstance(thing, PatternMatcher) and thing is not derivatives]
    matchers += [("legalizer(hardware)", legalizer(True)), ("legalizer()", legalizer(False))]
    for name, matcher in matchers:
        for n, rule in enumerate(matcher.rules):
            short = name.removeprefix("compiler.")
            found.setdefault((id(rule[0]), id(rule[1])), (f"{short} {n} {rule[1].__name__}", rule))
    return dict(found.values())


def test_no_matcher_is_overlooked() -> None:
    """Rules live in matchers; matchers are names of modules, or sums of such, or the legalizer's."""
    known = {(id(p), id(f)) for p, f in [*rules().values(), *derivatives.rules]}
    gc.collect()
    for thing in gc.get_objects():
        if isinstance(thing, PatternMatcher):
            for pattern, function in thing.rules:
                if function.__module__.startswith("compiler"):
                    assert (id(pattern), id(function)) in known, inspect.getsource(function)
    for file in Path(compiler.__path__[0]).rglob("*.py"):
        tree = ast.parse(file.read_text())
        inner = {id(call) for scope in ast.walk(tree) if isinstance(scope, ast.FunctionDef)
                 and scope.name not in ("legalizer", "__add__") for call in ast.walk(scope)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "PatternMatcher":
                assert id(node) not in inner, f"{file.name}:{node.lineno}: a matcher that this test cannot find"


def _closeness(rule: Rule, node: UOp, world: World) -> tuple[float, float]:
    """How far apart the two may be, relatively and absolutely: 0 but for approximations and other orders of sums."""
    name, eps = rule[1].__name__, node.dtype.eps if node.dtype.is_float else 0.0
    if name == "_reduce_of_constant":       # n roundings or one
        return math.prod(r.src[0].arg for r in node.src[1:]) * eps, 0.0
    if node.op is Ops.CAST and node.dtype.is_float and node.dtype.bits <= 16:
        return eps, 0.0                     # rounded to float32 on the way: one step, where that was a tie
    if node.op in (Ops.EXP2, Ops.LOG2) and name != "_wide":
        # a rounding of 2**x's argument is an error in the result that grows with x; log2 near 1 is a difference
        x = abs(float(evaluate(node.src[0], world)))
        return (4 + (x if node.op is Ops.EXP2 and x < 2000 else 0)) * eps, eps if node.op is Ops.LOG2 else 0.0
    if node.op is Ops.SIN and name != "_wide":
        return 0.0, 4 * eps * (1 + _size(node.src[0], world))
    return 0.0, 0.0


def _size(argument: UOp, world: World) -> float:
    """Of the numbers that a sine is taken of, or that its argument is the difference of."""
    parts = (argument, *argument.src) if argument.op is Ops.ADD else (argument,)
    sizes = [abs(float(evaluate(x, world))) for x in parts]
    return max((s for s in sizes if math.isfinite(s)), default=0.0)


def _fired(rule: Rule, rng: random.Random) -> tuple[UOp, UOp]:
    """A node that the rule changes, and what it becomes."""
    pattern, function = rule
    wants_ctx = "ctx" in inspect.signature(function).parameters
    for _ in range(_TRIES):
        kinds = sorted(pattern.dtypes, key=lambda t: t.name) if pattern.dtypes else dtypes.all_types
        kinds = [t for t in kinds if pattern.ops is None or any(takes(op, t) for op in pattern.ops)]
        try:
            node = Maker(rng).fit(pattern, rng.choice(kinds))
        except Mismatch:
            continue
        for captures in pattern.match(node, {}):
            result = function(ctx=None, **captures) if wants_ctx else function(**captures)
            if result is not None and result is not node:
                return node, result
    raise AssertionError("no graph was found that this rule changes, so it is not proven:\n"
                         + inspect.getsource(function))


@pytest.mark.parametrize("name", rules())
@settings(max_examples=12, deadline=None)
@given(st.integers(0, 1 << 60))
def test_a_rule_keeps_values(name: str, seed: int) -> None:
    rule, rng = rules()[name], random.Random(seed)
    node, result = _fired(rule, rng)
    assert result.dtype is node.dtype
    for _ in range(_WORLDS):
        world = World(rng)
        before, after = evaluate(node, world), evaluate(result, world)
        close = _closeness(rule, node, world)
        if node.op is Ops.SIN and _size(node.src[0], world) > 1000:
            continue        # beyond what the polynomial promises
        if rule[1].__name__ == "_one_hot_sum" and node.dtype.is_float:
            before, after = before + 0.0, after + 0.0       # the rule keeps a -0.0 that a sum would lose: meant
        assert same(before, after, node.dtype, *close), \
            f"{before!r} became {after!r}\n{node.tree()}\n->\n{result.tree()}\n{world.known}"
        if not node.dtype.is_float and node.op is not Ops.REDUCE:
            assert node.vmin <= before <= node.vmax and result.vmin <= after <= result.vmax


# derivatives: the statement is about limits

def _example(op: Ops, rng: np.random.RandomState) -> tuple[UOp, list[tuple[UOp, np.ndarray]]] | None:
    """A node of an operation over float64 leaves (away from its corners), and the leaves with their values."""
    shape = (2, 3)
    leaves: list[tuple[UOp, np.ndarray]] = []

    def leaf(*shape: int, low: float = 0.5, high: float = 2.0) -> UOp:
        values = rng.uniform(low, high, shape)
        tensor = Tensor(values, dtypes.float64)
        kept.append(tensor)
        leaves.append((tensor.uop, values))
        return tensor.uop

    kept: list[Tensor] = []
    x = leaf(*shape, low=1.1, high=1.9)
    made: dict[Ops, Any] = {
        Ops.WHERE: lambda: graph.alu(Ops.WHERE, graph.alu(Ops.CMPLT, x, leaf(*shape)), x, leaf(*shape)),
        Ops.CAST: lambda: graph.cast(x, dtypes.float32),
        Ops.RESHAPE: lambda: graph.reshape(x, (3, 2)),
        Ops.PERMUTE: lambda: graph.permute(x, (1, 0)),
        Ops.EXPAND: lambda: graph.expand(leaf(2, 1), (2, 4)),
        Ops.PAD: lambda: graph.pad(x, ((1, 0), (2, 1))),
        Ops.SHRINK: lambda: graph.shrink(x, ((0, 1), (1, 3))),
        Ops.FLIP: lambda: graph.flip(x, (1,)),
        Ops.WINDOW: lambda: graph.window(x, 1, 2),
        Ops.FOLD: lambda: graph.fold(x, 0, 8, 2),
        Ops.CONTIGUOUS: lambda: UOp(Ops.CONTIGUOUS, x.dtype, (x,)),
    }
    if op in made:
        node = made[op]()
    elif op is Ops.REDUCE_AXIS:
        node = graph.alu(Ops.ADD, *(graph.reduce(x, kind, (1,)) for kind in (Ops.ADD, Ops.MAX)))
        node = graph.alu(Ops.ADD, node, graph.reduce(x, Ops.MUL, (1,)))
    elif op is Ops.SCATTER:
        places, values = Tensor(rng.randint(0, 2, (5, 3)), dtypes.int32).uop, leaf(5, 3)
        node, *others = (graph.scatter(leaf(2, 3), kind, 0, places, values) for kind in (Ops.ADD, Ops.MAX, Ops.MUL))
        for other in others:
            node = graph.alu(Ops.ADD, node, other)
    elif op in (Ops.NEG, Ops.SQRT, Ops.EXP2, Ops.LOG2, Ops.SIN, Ops.TRUNC):
        node = graph.alu(op, x)
    elif op in (Ops.ADD, Ops.MUL, Ops.FDIV, Ops.MAX):
        node = graph.alu(op, x, leaf(*shape))
    else:
        return None
    return node, leaves


_FLAT = COMPARE | {Ops.DETACH, Ops.BITCAST, Ops.IDIV, Ops.AND, Ops.OR, Ops.XOR, Ops.SHL, Ops.SHR, Ops.MOD}
"""Nothing flows through these: constant wherever they have a derivative, or not of real numbers."""
_MOVED = {Ops.COPY, Ops.ASSIGN}
"""The value itself, elsewhere: what flows is what came."""


def test_every_operation_has_one_derivative() -> None:
    ops = [op for pattern, _ in derivatives.rules for op in pattern.ops or ()]
    assert len(ops) == len(set(ops)), "two rules for one operation: the second never fits"
    for op in ops:
        assert op in _FLAT | _MOVED | {Ops.DERIVED, Ops.MULTI} or _example(op, np.random.RandomState(0)) is not None, \
            f"{op.name}: a derivative without a proof"


@pytest.mark.parametrize("op", sorted({op for p, _ in derivatives.rules for op in p.ops or ()}), ids=lambda op: op.name)
def test_derivatives_are_limits(op: Ops, monkeypatch: pytest.MonkeyPatch) -> None:
    if op is Ops.DERIVED:       # what a name of the table says; each name has its own tests, beside its function
        x, y = (Tensor(np.full(3, k), dtypes.float64).uop for k in (1.0, 2.0))
        monkeypatch.setitem(named, "for this test", lambda n, ctx: (None, graph.alu(Ops.MUL, ctx, n.src[0])))
        node = UOp(op, x.dtype, (x, y), "for this test")
        assert gradients(node, y, [x, y]) == {y: graph.alu(Ops.MUL, y, x)}
        return
    if op in _FLAT or op in _MOVED:
        x = Tensor(np.ones((2, 2)), dtypes.float64).uop
        src = (x, x) if op in COMPARE or op is Ops.ASSIGN else (x,)
        node = UOp(op, dtypes.bool_ if op in COMPARE else x.dtype, src, "CPU" if op is Ops.COPY else None)
        got = derivatives.rewrite(node, x)
        assert got == ((None,) * len(src) if op in _FLAT else (None, x) if op is Ops.ASSIGN else (x,))
        return
    if op is Ops.MULTI:         # each part's is the part of it; one of equal ones has all
        x, y = (Tensor(np.ones(shape), dtypes.float64).uop for shape in ((2, 3), (1, 3)))
        rows = np.arange(9.0).reshape(3, 3)
        parts = derivatives.rewrite(UOp(op, x.dtype, (x, y), (0, ("CPU", "CPU"))), Tensor(rows, dtypes.float64).uop)
        assert [Tensor(p).numpy().tolist() for p in parts] == [rows[:2].tolist(), rows[2:].tolist()]
        first, other = derivatives.rewrite(UOp(op, x.dtype, (x, x), (None, ("CPU", "CPU"))), x)
        assert first is x and other is None
        return
    example = _example(op, np.random.RandomState(op))
    assert example is not None
    node, leaves = example
    weights = np.random.RandomState(1).uniform(-1, 1, node.shape)
    seed = graph.cast(Tensor(weights, dtypes.float64).uop, node.dtype)
    grads = gradients(node, seed, [leaf for leaf, _ in leaves])
    single = node.dtype is dtypes.float32
    step = 1e-2 if single else 1e-6

    def total(changed: UOp, values: np.ndarray) -> float:
        swapped = node.substitute({changed: Tensor(values, dtypes.float64).uop})
        return float((Tensor(swapped).numpy().astype(np.float64) * weights).sum())

    for leaf, values in leaves:
        numeric = np.zeros_like(values)
        for at in np.ndindex(values.shape):
            up, down = values.copy(), values.copy()
            up[at] += step
            down[at] -= step
            numeric[at] = (total(leaf, up) - total(leaf, down)) / (2 * step)
        got = np.zeros_like(values) if leaf not in grads else Tensor(grads[leaf]).numpy()
        np.testing.assert_allclose(got, numeric, rtol=1e-3 if single else 1e-6, atol=1e-3 if single else 1e-7)


def test_the_proof_finds_wrong_rules() -> None:
    """A rule that holds for most values and not for all is caught."""
    from compiler.match import UPat
    wrong: list[Rule] = [
        (UPat(Ops.ADD, FLOATS, src=[UPat.var("x"), UPat.const(0)]), lambda x: x),                    # -0.0 + 0
        (UPat(Ops.MUL, FLOATS, src=[UPat.var("x"), UPat.const(0, "z")]), lambda x, z: z),            # inf * 0
        (UPat(Ops.IDIV, dtypes.int32, src=(UPat(Ops.MUL, src=(UPat.var("x"), UPat.const(4))), UPat.const(4))),
         lambda x: x),                                                                            # it may have wrapped
        (UPat(Ops.SHR, dtypes.int32, src=(UPat.var("x"), UPat.const(1))), lambda x: x // 2),         # -1
    ]
    for rule in wrong:
        bad = 0
        for seed in range(300):
            rng = random.Random(seed)
            node, result = _fired(rule, rng)
            world = World(rng)
            bad += not same(evaluate(node, world), evaluate(result, world), node.dtype)
        assert bad, inspect.getsource(rule[1])
    assert same(math.nan, -math.nan, dtypes.float32) and not same(0.0, -0.0, dtypes.float32)
