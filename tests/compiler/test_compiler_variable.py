"""Symbolic sizes: what a variable dimension computes, and that it is compiled once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler import Tensor, Variable, dtypes, engine, jit
from compiler.capture import JitError
from compiler.uop import UOp
from compiler.variable import Size, bindings, bound, evaluate, most, number, of_type, unbound, watched

N = Variable("n", 1, 64)
X = np.random.RandomState(0).uniform(-1, 1, (64, 5)).astype(np.float32)
W = np.random.RandomState(1).uniform(-1, 1, (5, 7)).astype(np.float32)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(0))
    return np.asarray(e / e.sum(0))


def work(x: Any, w: Any, n: Any) -> dict[str, Any]:
    """What is asked of both sides below, by name; ``x`` and ``w`` are Tensors."""
    part = x[:n]
    return {
        "row by row": (part * 2 + 1).relu(),
        "product": part @ w,
        "softmax": (part @ w).softmax(0),
        "mean": part.mean(0),
        "flat": part.reshape(-1) * 2,
        "flipped, joined": part.transpose(0, 1).flip(1).cat(x[:4].transpose(0, 1), dim=1),
        "scores": part @ part.transpose(0, 1),
        "padded": part.pad([0, 0, 1, 2]),
        "the rest": x[n:].sum(0) if number(n) < 64 else x[:1].sum(0),
        "last": part[n - 1],
        "argmax": part.argmax(0),
        "number": x[0] * n,
    }


def wanted(x: np.ndarray, w: np.ndarray, n: int) -> dict[str, np.ndarray]:
    part = x[:n]
    return {
        "row by row": np.maximum(part * 2 + 1, 0),
        "product": part @ w,
        "softmax": softmax(part @ w),
        "mean": part.mean(0),
        "flat": part.reshape(-1) * 2,
        "flipped, joined": np.concatenate([part.T[:, ::-1], x[:4].T], 1),
        "scores": part @ part.T,
        "padded": np.pad(part, ((1, 2), (0, 0))),
        "the rest": x[n:].sum(0) if n < 64 else x[0],
        "last": part[n - 1],
        "argmax": part.argmax(0),
        "number": x[0] * n,
    }


def test_every_length_is_computed_and_compiled_once(device: str) -> None:
    x, w = Tensor(X, device=device), Tensor(W, device=device)
    work(x, w, N.bind(5))["product"].numpy()
    counts = []
    for k in (17, 3, 63, 1, 40):
        want = wanted(X, W, k)
        for name, result in work(x, w, N.bind(k)).items():
            np.testing.assert_allclose(result.numpy(), want[name], rtol=1e-5, atol=1e-6, err_msg=f"{name}, n={k}")
        counts.append((len(engine._programs), len(engine._schedules)))
    assert len(set(counts)) == 1        # the first length has built them all


def test_two_variables_and_long_reductions(device: str) -> None:
    a, b = Variable("a", 1, 40), Variable("b", 0, 300)
    data = np.random.RandomState(2).uniform(-1, 1, (40, 300)).astype(np.float32)
    x = Tensor(data, device=device)
    for m, n in ((40, 300), (3, 257), (1, 1), (7, 0)):
        part = x[: a.bind(m), : b.bind(n)]
        np.testing.assert_allclose(part.sum(1).numpy(), data[:m, :n].sum(1), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(part.sum().numpy(), data[:m, :n].sum(), rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(part.transpose(0, 1).contiguous().numpy(), data[:m, :n].T)


def test_attention_over_a_growing_cache(device: str) -> None:
    """A decode step: keys and values up to a position that every call moves on."""
    rng = np.random.RandomState(3)
    keys, values = (rng.uniform(-1, 1, (2, 32, 8)).astype(np.float32) for _ in range(2))
    k, v = Tensor(keys, device=device), Tensor(values, device=device)
    length = Variable("length", 1, 32)

    @jit
    def attend(q: Tensor, n: Any) -> Tensor:
        return (q @ k[:, :n].transpose(1, 2)).softmax(-1) @ v[:, :n]

    for n in (1, 2, 3, 31, 32):
        query = rng.uniform(-1, 1, (2, 1, 8)).astype(np.float32)
        scores = query @ keys[:, :n].transpose(0, 2, 1)
        e = np.exp(scores - scores.max(-1, keepdims=True))
        want = e / e.sum(-1, keepdims=True) @ values[:, :n]
        np.testing.assert_allclose(attend(Tensor(query, device=device), length.bind(n)).numpy(), want, rtol=1e-4,
                                   atol=1e-6)
    assert len(attend.captured) == 1


def test_memory_of_one_length_takes_a_name(device: str) -> None:
    """Inputs that are as long as they are: swapped by pointer, whatever their length."""
    w = Tensor(W, device=device)

    @jit
    def step(x: Tensor) -> Tensor:
        return (x @ w).relu()

    for k in (9, 2, 64, 33):
        x = Tensor(X[:k].copy(), device=device).reshape(N.bind(k), 5)
        out = step(x)
        assert isinstance(out.shape[0], Size) and out.shape[0].value == k
        np.testing.assert_allclose(out.numpy(), np.maximum(X[:k] @ W, 0), rtol=1e-5, atol=1e-6)
    assert len(step.captured) == 1


def test_gradients_of_a_variable_length() -> None:
    for k in (3, 50):
        x = Tensor(X, requires_grad=True)
        (x[:N.bind(k)] * x[:N.bind(k)]).sum().backward()
        assert x.grad is not None
        np.testing.assert_allclose(x.grad.numpy(), np.where(np.arange(64)[:, None] < k, 2 * X, 0), rtol=1e-6)


def test_what_a_value_decided_is_recorded_by_value() -> None:
    @jit
    def scaled(x: Tensor, n: Any) -> Tensor:
        return x * (1 / n)      # a Python number: of this n alone

    x = Tensor(X)
    for _ in range(2):
        for k in (2, 2, 2, 5, 5, 5):
            np.testing.assert_allclose(scaled(x, N.bind(k)).numpy(), X / k, rtol=1e-6)


def test_a_variable_that_a_recording_cannot_see_is_refused() -> None:
    n = N.bind(4)

    @jit
    def step(x: Tensor) -> Tensor:
        return x[:n].sum()

    x = Tensor(X)
    step(x)
    with pytest.raises(JitError, match="variable n is used but not given: pass the bound size to the jitted function"):
        step(x)


def test_errors() -> None:
    with pytest.raises(ValueError, match="variable n is between 1 and 64: it cannot be 65"):
        N.bind(65)
    with pytest.raises(ValueError, match="not 0 <= low <= high < 2"):
        Variable("n", 3, 2)
    with pytest.raises(ValueError, match="ASCII identifier, not 'a b'"):
        Variable("a b", 1, 2)
    x = Tensor(X)
    with pytest.raises(ValueError, match="variable n is 3 and 4 in one"):
        (x[:N.bind(3)].sum() + x[:N.bind(4)].sum()).realize()
    with pytest.raises(ValueError, match="cannot reshape"):
        x.reshape(N.bind(63), 5)
    with pytest.raises(ValueError, match="do not broadcast"):
        x[:N.bind(3)] + x[:3]
    with pytest.raises(IndexError, match="out of range"):
        x[:N.bind(3)][3]


sizes = st.recursive(
    st.sampled_from([N, Variable("m", 0, 9)]),
    lambda inner: st.tuples(st.sampled_from("+-*/%"), inner, st.one_of(inner, st.integers(1, 12))), max_leaves=6)


@settings(max_examples=150, deadline=None)
@given(sizes, st.integers(1, 64), st.integers(0, 9))
def test_arithmetic_is_that_of_the_values(form: Any, n: int, m: int) -> None:
    values = {"n": n, "m": m}

    def build(form: Any, leaf: Any) -> Any:
        if isinstance(form, Variable):
            return leaf(form)
        if isinstance(form, int):
            return form
        op, a, b = form
        x, y = build(a, leaf), build(b, leaf)
        return x + y if op == "+" else x - y if op == "-" else x * y if op == "*" else x // y if op == "/" else x % y

    try:
        want = build(form, lambda v: values[v.name])
    except ZeroDivisionError:
        return
    got = build(form, lambda v: v.bind(values[v.name]))
    assert number(got) == want
    if isinstance(got, Size):
        assert evaluate(got.expr, values) == want and got.expr.vmin <= want <= got.expr.vmax
        free = unbound((got, 3))
        assert bound(free, values) == (got, 3) and most(free[0]) == got.expr.vmax
        assert bindings((got, (1, got))) == got.names
        assert of_type(got, dtypes.int32).dtype is dtypes.int32
        for other in (want - 1, want, want + 1):
            assert (got < other, got > other, got <= other, got >= other) == \
                (want < other, want > other, want <= other, want >= other)
        assert got != want and hash(got) == hash(build(form, lambda v: v.bind(values[v.name])))


def test_looking_at_a_value_is_noticed() -> None:
    n = N.bind(7)
    with watched() as seen:
        assert n < 65 and n >= 1 and n != 7 and bool(n) and n - n == 0 and number(n) == 7
        assert not seen         # true of every value
        assert n > 5
        assert seen == {"n": 7}
    with watched() as seen:
        assert list(range(n)) == list(range(7)) and seen == {"n": 7}
    assert repr(n) == "<n: 7>" and repr(n * 2 + 1) == "<((n*2)+1): 15>" and repr(unbound(n)) == "<n>"
    assert isinstance(of_type(5, dtypes.int32), UOp)
