"""Every operation, forward against NumPy and backward against numeric derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler import Tensor, dtypes

RNG = np.random.RandomState(7)


def smooth(*shape: int) -> np.ndarray:
    """Numbers away from 0 and from each other's ties."""
    x = RNG.uniform(-2, 2, shape)
    return np.where(np.abs(x) < 0.2, x + 0.5, x)


def positive(*shape: int) -> np.ndarray:
    return RNG.uniform(0.3, 2.5, shape)


_erf = np.vectorize(math.erf)


def _softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def _logsumexp(x: np.ndarray, axis: int, keepdims: bool = False) -> np.ndarray:
    m = x.max(axis, keepdims=True)
    out = np.log(np.exp(x - m).sum(axis, keepdims=True)) + m
    return out if keepdims else out.squeeze(axis)


# name: (our function, NumPy's, arguments)
CASES: dict[str, tuple[Callable[..., Any], Callable[..., Any], tuple[np.ndarray, ...]]] = {
    "add": (lambda a, b: a + b, lambda a, b: a + b, (smooth(3, 4), smooth(4))),
    "sub": (lambda a, b: a - b, lambda a, b: a - b, (smooth(3, 1), smooth(1, 4))),
    "mul": (lambda a, b: a * b, lambda a, b: a * b, (smooth(2, 3, 4), smooth(3, 1))),
    "div": (lambda a, b: a / b, lambda a, b: a / b, (smooth(3, 4), positive(3, 4))),
    "rdiv": (lambda a: 2 / a, lambda a: 2 / a, (positive(5),)),
    "rsub": (lambda a: 2 - a, lambda a: 2 - a, (smooth(5),)),
    "neg": (lambda a: -a, lambda a: -a, (smooth(5),)),
    "abs": (lambda a: a.abs(), np.abs, (smooth(3, 5),)),
    "sign": (lambda a: a.sign(), np.sign, (smooth(3, 5),)),
    "square": (lambda a: a.square(), np.square, (smooth(5),)),
    "pow2": (lambda a: a**2, lambda a: a**2, (smooth(5),)),
    "pow-1": (lambda a: a**-1, lambda a: a**-1.0, (positive(5),)),
    "pow1.7": (lambda a: a**1.7, lambda a: a**1.7, (positive(5),)),
    "pow_t": (lambda a, b: a**b, lambda a, b: a**b, (positive(5), smooth(5))),
    "rpow": (lambda a: 2.5**a, lambda a: 2.5**a, (smooth(5),)),
    "sqrt": (lambda a: a.sqrt(), np.sqrt, (positive(5),)),
    "rsqrt": (lambda a: a.rsqrt(), lambda a: 1 / np.sqrt(a), (positive(5),)),
    "exp": (lambda a: a.exp(), np.exp, (smooth(7),)),
    "exp2": (lambda a: a.exp2(), np.exp2, (smooth(7),)),
    "expm1": (lambda a: a.expm1(), np.expm1, (smooth(7),)),
    "log": (lambda a: a.log(), np.log, (positive(7),)),
    "log2": (lambda a: a.log2(), np.log2, (positive(7),)),
    "log10": (lambda a: a.log10(), np.log10, (positive(7),)),
    "log1p": (lambda a: a.log1p(), np.log1p, (positive(7),)),
    "sin": (lambda a: a.sin(), np.sin, (smooth(20) * 4,)),
    "cos": (lambda a: a.cos(), np.cos, (smooth(20) * 4,)),
    "tan": (lambda a: a.tan(), np.tan, (smooth(9) * 0.5,)),
    "tanh": (lambda a: a.tanh(), np.tanh, (smooth(9) * 2,)),
    "tanh_small": (lambda a: a.tanh(), np.tanh, (smooth(9) * 0.04,)),
    "sigmoid": (lambda a: a.sigmoid(), lambda a: 1 / (1 + np.exp(-a)), (smooth(9),)),
    "relu": (lambda a: a.relu(), lambda a: np.maximum(a, 0), (smooth(9),)),
    "leaky_relu": (lambda a: a.leaky_relu(0.1), lambda a: np.where(a > 0, a, a * 0.1), (smooth(9),)),
    "elu": (lambda a: a.elu(), lambda a: np.where(a > 0, a, np.exp(a) - 1), (smooth(9),)),
    "silu": (lambda a: a.silu(), lambda a: a / (1 + np.exp(-a)), (smooth(9),)),
    "softplus": (lambda a: a.softplus(), lambda a: np.log1p(np.exp(a)), (smooth(9),)),
    "gelu": (lambda a: a.gelu(), lambda a: a * 0.5 * (1 + _erf(a / math.sqrt(2))), (smooth(9),)),
    "gelu_tanh": (
        lambda a: a.gelu("tanh"),
        lambda a: a * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (a + 0.044715 * a**3))),
        (smooth(9),),
    ),
    "erf": (lambda a: a.erf(), _erf, (smooth(20),)),
    "maximum": (lambda a, b: a.maximum(b), np.maximum, (smooth(4, 3), smooth(3))),
    "minimum": (lambda a, b: a.minimum(b), np.minimum, (smooth(4, 3), smooth(3))),
    "clip": (lambda a: a.clip(-1, 1), lambda a: np.clip(a, -1, 1), (smooth(9) + 0.05,)),
    "where": (
        lambda a, b: (a > b).where(a, b * 2),
        lambda a, b: np.where(a > b, a, b * 2),
        (smooth(4, 3), smooth(4, 3)),
    ),
    "lerp": (lambda a, b: a.lerp(b, 0.3), lambda a, b: a + (b - a) * 0.3, (smooth(5), smooth(5))),
    "masked_fill": (lambda a: a.masked_fill(a > 0, 3), lambda a: np.where(a > 0, 3, a), (smooth(5),)),
    # reductions
    "sum": (lambda a: a.sum(), np.sum, (smooth(3, 4, 5),)),
    "sum1": (lambda a: a.sum(1), lambda a: a.sum(1), (smooth(3, 4, 5),)),
    "sum02": (lambda a: a.sum((0, 2), keepdim=True), lambda a: a.sum((0, 2), keepdims=True), (smooth(3, 4, 5),)),
    "mean": (lambda a: a.mean(-1), lambda a: a.mean(-1), (smooth(3, 4),)),
    "max": (lambda a: a.max(1), lambda a: a.max(1), (smooth(3, 4),)),
    "max_all": (lambda a: a.max(), lambda a: a.max(), (smooth(3, 4),)),
    "min": (lambda a: a.min(0), lambda a: a.min(0), (smooth(3, 4),)),
    "prod": (lambda a: a.prod(1), lambda a: a.prod(1), (smooth(3, 4),)),
    "var": (lambda a: a.var(1), lambda a: a.var(1, ddof=1), (smooth(3, 6),)),
    "std": (lambda a: a.std(correction=0), lambda a: a.std(), (smooth(3, 6),)),
    "norm": (lambda a: a.norm(2, 1), lambda a: np.sqrt((a * a).sum(1)), (smooth(3, 6),)),
    "softmax": (lambda a: a.softmax(1), lambda a: _softmax(a, 1), (smooth(3, 6),)),
    "log_softmax": (lambda a: a.log_softmax(0), lambda a: np.log(_softmax(a, 0)), (smooth(3, 6),)),
    "logsumexp": (lambda a: a.logsumexp(1), lambda a: _logsumexp(a, 1), (smooth(3, 6),)),
    "cumsum": (lambda a: a.cumsum(1), lambda a: a.cumsum(1), (smooth(2, 5, 3),)),
    # movement
    "reshape": (lambda a: a.reshape(6, -1), lambda a: a.reshape(6, -1), (smooth(3, 4, 2),)),
    "permute": (lambda a: a.permute(2, 0, 1), lambda a: a.transpose(2, 0, 1), (smooth(3, 4, 2),)),
    "transpose": (lambda a: a.transpose(0, 2), lambda a: a.swapaxes(0, 2), (smooth(3, 4, 2),)),
    "expand": (lambda a: a.expand(5, 3, 4), lambda a: np.broadcast_to(a, (5, 3, 4)), (smooth(3, 1),)),
    "pad": (lambda a: a.pad([1, 2, 0, 3]), lambda a: np.pad(a, ((0, 3), (1, 2))), (smooth(3, 4),)),
    "pad_value": (
        lambda a: a.pad([1, 2], value=7),
        lambda a: np.pad(a, ((0, 0), (1, 2)), constant_values=7),
        (smooth(3, 4),),
    ),
    "pad_negative": (lambda a: a.pad([-1, 2]), lambda a: np.pad(a[:, 1:], ((0, 0), (0, 2))), (smooth(3, 4),)),
    "shrink": (lambda a: a.shrink([(1, 3), None]), lambda a: a[1:3], (smooth(3, 4),)),
    "flip": (lambda a: a.flip(0, 1), lambda a: a[::-1, ::-1], (smooth(3, 4),)),
    "roll": (lambda a: a.roll(2, 1), lambda a: np.roll(a, 2, 1), (smooth(3, 5),)),
    "repeat": (lambda a: a.repeat(2, 1, 3), lambda a: np.tile(a, (2, 1, 3)), (smooth(3, 2),)),
    "repeat_interleave": (lambda a: a.repeat_interleave(3, 1), lambda a: np.repeat(a, 3, 1), (smooth(3, 2),)),
    "squeeze": (lambda a: a.squeeze(1).unsqueeze(0), lambda a: a.squeeze(1)[None], (smooth(3, 1, 2),)),
    "flatten": (lambda a: a.flatten(1), lambda a: a.reshape(3, -1), (smooth(3, 2, 4),)),
    "cat": (lambda a, b: Tensor.cat([a, b], 1), lambda a, b: np.concatenate([a, b], 1), (smooth(3, 2), smooth(3, 4))),
    "stack": (lambda a, b: Tensor.stack([a, b], 1), lambda a, b: np.stack([a, b], 1), (smooth(3, 2), smooth(3, 2))),
    "split": (lambda a: a.split(2, 1)[1] * a.chunk(2, 1)[0][:, :2], lambda a: a[:, 2:4] * a[:, :2], (smooth(3, 5),)),
    "tril": (lambda a: a.tril(), np.tril, (smooth(4, 5),)),
    "triu": (lambda a: a.triu(1), lambda a: np.triu(a, 1), (smooth(5, 4),)),
    "diag": (lambda a: a.diag(), np.diag, (smooth(4),)),
    "diag2": (lambda a: a.diag(), np.diag, (smooth(4, 4),)),
    # indexing
    "index_int": (lambda a: a[1], lambda a: a[1], (smooth(3, 4),)),
    "index_negative": (lambda a: a[-1, ..., -2], lambda a: a[-1, ..., -2], (smooth(3, 4, 5),)),
    "index_slice": (lambda a: a[1:, ::2], lambda a: a[1:, ::2], (smooth(3, 5),)),
    "index_reverse": (lambda a: a[::-2, 3:0:-1], lambda a: a[::-2, 3:0:-1], (smooth(4, 5),)),
    "index_none": (lambda a: a[:, None, 1], lambda a: a[:, None, 1], (smooth(4, 5),)),
    "index_array": (lambda a: a[[2, 0, -1]], lambda a: a[[2, 0, -1]], (smooth(4, 5),)),
    "index_arrays": (lambda a: a[[0, 2], :, [1, 1]], lambda a: a[[0, 2], :, [1, 1]], (smooth(4, 3, 2),)),
    "index_together": (
        lambda a: a[:, [[0, 2], [1, 1]], [1, 0]],
        lambda a: a[:, [[0, 2], [1, 1]], [1, 0]],
        (smooth(4, 3, 2),),
    ),
    "index_mask": (
        lambda a: a[np.array([True, False, True])],
        lambda a: a[np.array([True, False, True])],
        (smooth(3, 2),),
    ),
    "gather": (
        lambda a: a.gather(1, Tensor([[0, 2, 1], [3, 3, 0]], device=a.device)),
        lambda a: np.take_along_axis(a[:2], np.array([[0, 2, 1], [3, 3, 0]]), 1),
        (smooth(3, 4),),
    ),
    # products
    "matmul": (lambda a, b: a @ b, lambda a, b: a @ b, (smooth(3, 4), smooth(4, 5))),
    "matmul_batch": (lambda a, b: a @ b, lambda a, b: a @ b, (smooth(2, 1, 3, 4), smooth(5, 4, 2))),
    "matmul_vector": (lambda a, b: a @ b, lambda a, b: a @ b, (smooth(3, 4), smooth(4))),
    "dot": (lambda a, b: a.dot(b), lambda a, b: a.dot(b), (smooth(4), smooth(4))),
    "linear": (lambda a, w, b: a.linear(w, b), lambda a, w, b: a @ w.T + b, (smooth(3, 4), smooth(5, 4), smooth(5))),
    "layer_norm": (
        lambda a, w, b: a.layer_norm(a.shape[-1], w, b),
        lambda a, w, b: (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, keepdims=True) + 1e-5) * w + b,
        (smooth(3, 6), smooth(6), smooth(6)),
    ),
    "attention": (
        lambda q, k, v: q.scaled_dot_product_attention(k, v),
        lambda q, k, v: _softmax(q @ k.swapaxes(-1, -2) / 2) @ v,
        (smooth(2, 3, 4), smooth(2, 5, 4), smooth(2, 5, 3)),
    ),
    "cross_entropy": (
        lambda a: a.cross_entropy(Tensor([1, 0, 3], device=a.device)),
        lambda a: -np.log(_softmax(a, 1))[np.arange(3), [1, 0, 3]].mean(),
        (smooth(3, 4),),
    ),
    "smoothed": (
        lambda a: a.cross_entropy(Tensor([1, 0], device=a.device), label_smoothing=0.2),
        lambda a: 0.8 * -np.log(_softmax(a, 1))[np.arange(2), [1, 0]].mean() - 0.2 * np.log(_softmax(a, 1)).mean(),
        (smooth(2, 4),),
    ),
    "mse": (lambda a, b: a.mse_loss(b), lambda a, b: ((a - b) ** 2).mean(), (smooth(3, 4), smooth(3, 4))),
    "l1": (lambda a, b: a.l1_loss(b, "sum"), lambda a, b: np.abs(a - b).sum(), (smooth(3, 4), smooth(3, 4))),
    "bce": (
        lambda a, b: a.binary_cross_entropy_with_logits(b),
        lambda a, b: (np.maximum(a, 0) - a * b + np.log1p(np.exp(-np.abs(a)))).mean(),
        (smooth(3, 4), positive(3, 4)),
    ),
}
NO_GRADIENT = {"sign"}


@pytest.mark.parametrize("name", CASES)
def test_forward(name: str, device: str) -> None:
    ours, theirs, args = CASES[name]
    got = ours(*(Tensor(a.astype(np.float32), device=device) for a in args))
    want = np.asarray(theirs(*args))
    assert got.shape == want.shape and got.dtype is dtypes.float32
    np.testing.assert_allclose(got.numpy(), want, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("name", [n for n in CASES if n not in NO_GRADIENT])
def test_backward(name: str) -> None:
    """In float64, where central differences are good to nine digits."""
    ours, theirs, args = CASES[name]
    leaves = [Tensor(a, requires_grad=True) for a in args]
    out = ours(*leaves)
    assert out.dtype is dtypes.float64
    weight = np.random.RandomState(1).uniform(0.5, 1.5, out.shape)
    (out * Tensor(weight)).sum().backward()
    for k, a in enumerate(args):
        numeric = np.zeros_like(a)
        for at in np.ndindex(*a.shape):
            step = 1e-6
            high, low = [x.copy() for x in args], [x.copy() for x in args]
            high[k][at] += step
            low[k][at] -= step
            numeric[at] = ((theirs(*high) - theirs(*low)) * weight).sum() / (2 * step)
        grad = leaves[k].grad
        assert grad is not None and grad.shape == a.shape
        np.testing.assert_allclose(
            grad.numpy(), numeric, rtol=2e-6 if "erf" not in name and name != "gelu" else 1e-5, atol=1e-6
        )


def test_second_derivative() -> None:
    x = Tensor([0.3, 0.7, 1.1], dtype=dtypes.float64, requires_grad=True)
    (first,) = (x * x * x).exp().sum().gradient(x)
    (second,) = first.sum().gradient(x)
    a = np.array([0.3, 0.7, 1.1])
    np.testing.assert_allclose(second.numpy(), np.exp(a ** 3) * (9 * a ** 4 + 6 * a), rtol=1e-9)


INT_OPS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "add": (lambda a, b: a + b, lambda a, b: a + b), "sub": (lambda a, b: a - b, lambda a, b: a - b),
    "mul": (lambda a, b: a * b, lambda a, b: a * b), "floordiv": (lambda a, b: a // b, lambda a, b: a // b),
    "mod": (lambda a, b: a % b, lambda a, b: a % b), "and": (lambda a, b: a & b, lambda a, b: a & b),
    "or": (lambda a, b: a | b, lambda a, b: a | b), "xor": (lambda a, b: a ^ b, lambda a, b: a ^ b),
    "lt": (lambda a, b: a < b, lambda a, b: a < b), "ge": (lambda a, b: a >= b, lambda a, b: a >= b),
    "eq": (lambda a, b: a == b, lambda a, b: a == b), "ne": (lambda a, b: a != b, lambda a, b: a != b),
    "max": (lambda a, b: a.maximum(b), np.maximum), "min": (lambda a, b: a.minimum(b), np.minimum),
    "shl": (lambda a, b: a << (b & 7), lambda a, b: a << (b & 7)),
    "shr": (lambda a, b: a >> (b & 7), lambda a, b: a >> (b & 7)),
    "not": (lambda a, b: ~a, lambda a, b: ~a),
}
INT_TYPES = [t for t in dtypes.all_types if t.is_int]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", INT_TYPES, ids=lambda t: t.name)
def test_integers(dtype: dtypes.DType, device: str) -> None:
    """All integer operations on the edges of a type, NumPy's wrapping included."""
    edges = np.array(
        sorted(
            {
                dtype.min,
                dtype.min + 1,
                0,
                1,
                2,
                3,
                7,
                100,
                dtype.max - 1,
                dtype.max,
                *(() if dtype.kind == "u" else (-1, -2, -7)),
            }
        ),
        dtype.np,
    )
    a, b = (m.reshape(-1) for m in np.meshgrid(edges, edges))
    ta, tb = Tensor(a, device=device), Tensor(b, device=device)
    got = Tensor.stack(
        [ours(ta, tb).cast(dtypes.int64 if dtype is not dtypes.uint64 else dtype) for ours, _ in INT_OPS.values()]
    )
    for row, (name, (_, theirs)) in zip(got.numpy(), INT_OPS.items(), strict=True):
        want = theirs(a, b)
        if name in ("floordiv", "mod"):     # NumPy's answer to division by zero is 0 too
            want = np.where(b == 0, 0, want)
        np.testing.assert_array_equal(row, want.astype(row.dtype), err_msg=name)


@pytest.mark.parametrize("to", dtypes.all_types, ids=lambda t: t.name)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_casts(to: dtypes.DType, device: str) -> None:
    for source in dtypes.all_types:
        values = [0, 1, 2, 100] + ([-1, -2, -100] if source.kind in "if" and to.kind in "if" else [])
        values = [v for v in values if source.kind != "b" or v < 2]
        got = Tensor(values, dtype=source, device=device).cast(to)
        held = source.decode(source.encode(np.array(values)))       # what of them a small float type keeps
        want = held.astype(bool if to.kind == "b" else to.np_values)
        want = to.decode(to.encode(want)) if to.coded else want
        assert got.dtype is to
        np.testing.assert_array_equal(got.numpy(), want, err_msg=f"{source.name} to {to.name}")


def test_float_to_int_saturates(device: str) -> None:
    x = Tensor([1e20, -1e20, math.nan, 3.99, -3.99], device=device)
    assert x.cast(dtypes.int32).tolist() == [2 ** 31 - 1, -2 ** 31, 0, 3, -3]
    assert x.cast(dtypes.uint8).tolist() == [255, 0, 0, 3, 0]


@pytest.mark.parametrize("dtype", [dtypes.float16, dtypes.bfloat16], ids=lambda t: t.name)
def test_half_types(dtype: dtypes.DType, device: str) -> None:
    a = RNG.uniform(-3, 3, (8, 16)).astype(np.float32)
    x = Tensor(a, dtype=dtype, device=device)
    stored = x.numpy().astype(np.float32)
    assert np.abs(stored - a).max() <= 3 * 2.0 ** (-11 if dtype is dtypes.float16 else -8)
    unit = 2.0 ** (-10 if dtype is dtypes.float16 else -7)
    np.testing.assert_allclose((x * 2 + 1).numpy().astype(np.float32), stored * 2 + 1, rtol=2 * unit, atol=unit)
    np.testing.assert_allclose((x @ x.T).numpy().astype(np.float32), stored @ stored.T, rtol=unit, atol=2 * unit)


def test_bfloat16_rounds_to_even(device: str) -> None:
    halfway = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x7F7FFFFF, 0x7FC00001], np.uint32).view(np.float32)
    got = Tensor(halfway, device=device).cast(dtypes.bfloat16).bitcast(dtypes.uint16).numpy()
    assert got[:4].tolist() == [0x3F80, 0x3F82, 0x3F81, 0x7F80] and got[4] & 0x7FC0 == 0x7FC0


SPECIAL = np.array(
    [0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 1e-42, 3e38, -3e38, 127.6, -149.5, 1e-38], np.float32
)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", ["exp2", "log2", "sqrt", "sin"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_function_edges(name: str, dtype: type) -> None:
    x: np.ndarray = SPECIAL.astype(dtype)
    if name == "sin":
        x = x[np.abs(x) < 1e4]
    with np.errstate(all="ignore"):
        want = getattr(np, name)(x)
    got = getattr(Tensor(x), name)().numpy()
    np.testing.assert_allclose(got, want, rtol=3e-7 if dtype == np.float32 else 3e-16, atol=1e-45)


@pytest.mark.parametrize("name,low,high", [("exp2", -140.0, 128.0), ("log2", 1e-40, 1e38), ("sin", -8000.0, 8000.0)])
def test_function_accuracy(name: str, low: float, high: float) -> None:
    """Against float64: within two units in the last place of float32 (sin: of 1)."""
    x = np.random.RandomState(3).uniform(low, high, 20000).astype(np.float32) if name != "log2" else \
        np.exp(np.random.RandomState(3).uniform(math.log(low), math.log(high), 20000)).astype(np.float32)
    want = getattr(np, name)(x.astype(np.float64))
    got = getattr(Tensor(x), name)().numpy().astype(np.float64)
    unit = np.spacing(np.maximum(np.abs(want), 1.0 if name == "sin" else 1e-38).astype(np.float32))
    assert np.max(np.abs(got - want) / unit) < 2.5


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_movement_chains(data: st.DataObject) -> None:
    """Random chains of movement operations, against NumPy on the same chain."""
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    a = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    t = Tensor(a)
    for _ in range(data.draw(st.integers(1, 6))):
        kind = data.draw(st.sampled_from(["reshape", "permute", "flip", "pad", "shrink", "expand", "slice"]))
        if kind == "reshape":
            factors = [a.size // n for n in range(1, a.size + 1) if a.size % n == 0]
            n = data.draw(st.sampled_from(factors))
            new = data.draw(st.sampled_from([(n, a.size // n), (a.size,), (a.size // n, 1, n)]))
            a, t = a.reshape(new), t.reshape(new)
        elif kind == "permute":
            axes = data.draw(st.permutations(range(a.ndim)))
            a, t = a.transpose(axes), t.permute(*axes)
        elif kind == "flip":
            axis = data.draw(st.integers(0, a.ndim - 1))
            a, t = np.flip(a, axis), t.flip(axis)
        elif kind == "pad" and a.size < 300:
            pads = [data.draw(st.tuples(st.integers(0, 2), st.integers(0, 2))) for _ in a.shape]
            a, t = np.pad(a, pads), t.pad(pads)
        elif kind == "shrink":
            bounds = [
                (b, data.draw(st.integers(b + 1, n))) for n in a.shape for b in [data.draw(st.integers(0, n - 1))]
            ]
            a, t = a[tuple(slice(*b) for b in bounds)], t.shrink(bounds)
        elif kind == "expand" and a.size < 200:
            a, t = np.broadcast_to(a, (2, *a.shape)), t.expand(2, *t.shape)
        elif kind == "slice":
            axis = data.draw(st.integers(0, a.ndim - 1))
            step = data.draw(st.sampled_from([-2, -1, 1, 2, 3]))
            key = (slice(None),) * axis + (slice(None, None, step),)
            a, t = a[key], t[key]
    np.testing.assert_array_equal((t + 1).numpy(), a + 1)
    np.testing.assert_array_equal(t.sum().numpy(), a.sum())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
def test_reductions_of_any_axes(shape: list[int], data: st.DataObject) -> None:
    a = np.random.RandomState(0).uniform(-1, 1, shape).astype(np.float32)
    axes = tuple(data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)))
    t = Tensor(a)
    np.testing.assert_allclose(t.sum(axes).numpy(), a.sum(axes), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(t.max(axes, keepdim=True).numpy(), a.max(axes, keepdims=True))
    np.testing.assert_array_equal(t.argmax(axes[0]).numpy(), a.argmax(axes[0]))
    np.testing.assert_array_equal(t.argmin(axes[0]).numpy(), a.argmin(axes[0]))
    np.testing.assert_allclose((t - t.mean(axes, True)).exp().sum(axes).numpy(),
                               np.exp(a - a.mean(axes, keepdims=True)).sum(axes), rtol=1e-5)


def test_rounding(device: str) -> None:
    a = np.array([-2.5, -1.5, -0.7, -0.5, 0.0, 0.4, 0.5, 1.5, 2.5, 2.6], np.float32)
    t = Tensor(a, device=device)
    for name in ("floor", "ceil", "round", "trunc"):
        np.testing.assert_array_equal(getattr(t, name)().numpy(), getattr(np, name)(a), err_msg=name)


def test_bools(device: str) -> None:
    t = Tensor([[True, False], [True, True]], device=device)
    assert t.any(1).tolist() == [True, True] and t.all(1).tolist() == [False, True]
    assert t.sum().item() == 3 and (t + t).dtype is dtypes.bool_
    assert (~t).tolist() == [[False, True], [False, False]]
    assert t.logical_and(Tensor([0, 2], device=device)).tolist() == [[False, False], [False, True]]


def test_nan_and_ties() -> None:
    x = Tensor([math.nan, 1.0])
    assert math.isnan(x.max().item()) and math.isnan(x.maximum(0)[0].item()) and math.isnan(x.relu()[0].item())
    assert x.isnan().tolist() == [True, False] and Tensor([math.inf, 1.0]).isinf().tolist() == [True, False]
    assert Tensor([3, 1, 3]).argmax().item() == 0
    y = Tensor([2.0, 5.0, 5.0], requires_grad=True)
    y.max().backward()
    assert y.grad is not None and y.grad.tolist() == [0, 0.5, 0.5]


def test_empty() -> None:
    x = Tensor.zeros(0, 3)
    assert x.numpy().shape == (0, 3) and x.sum().item() == 0 and x.sum(0).tolist() == [0, 0, 0]
    assert (x + 1).shape == (0, 3) and x.prod().item() == 1
    with pytest.raises(ValueError, match=r"max of no elements"):
        x.max()


def test_gather_is_a_load_not_a_loop() -> None:
    """A one-hot sum becomes an indexed load: no REDUCE is left in the kernel."""
    from compiler.schedule import KernelItem, normalize, schedule
    from compiler.uop import Ops
    table, index = Tensor(np.arange(12, dtype=np.float32).reshape(6, 2)), Tensor([5, 0, 3])
    roots, _ = normalize([table[index].uop])
    (item,) = schedule(roots, "CPU").items
    assert isinstance(item, KernelItem) and not any(n.op is Ops.REDUCE for n in item.sink.toposort())
    assert table[index].tolist() == [[10, 11], [0, 1], [6, 7]]
