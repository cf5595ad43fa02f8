"""Functions of elements at their edges, against PyTorch, forward and backward; second derivatives; fp8; in place."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from against_torch import F
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler import Tensor, dtypes, no_grad

EDGES = [0.0, -0.0, 1, -1, 0.5, -0.5, math.inf, -math.inf, math.nan, 1e-30, -1e-5, 1e-3, 0.1, 0.3, 0.7, 1.5, 2, 2.5, 3,
         -3, 5, -7, 10, -20, 30, 50, 88, 100, -100, -88]
RNG = np.random.RandomState(0)
ALL = np.concatenate([EDGES, RNG.uniform(-4, 4, 60)])
UNIT = np.concatenate([[0, 1, -1, math.nan, 1.5, 0.5, -0.5, 1e-9], RNG.uniform(-1, 1, 60)])
POSITIVE = np.concatenate([[0, 1, math.inf, math.nan, 1e-30, 1e30, -1], RNG.uniform(0.01, 10, 60)])
# whose gradient is another at a point, with our reason
OTHER_GRADIENT = {
    "hardsigmoid": 2e-7,    # PyTorch's 1/6 is one of float32, in float64 too
    "celu": 1e-7,           # and so is its 1/alpha
    "digamma": 1e-8,        # PyTorch's trigamma has 9 digits
    "sinc": 1e-3,           # near 0 both subtract what nearly cancels
}

FUNCTIONS: dict[str, tuple[Callable[[Any], Any], np.ndarray]] = {
    **{n: (lambda x, n=n: getattr(F, n)(x), ALL) for n in (
        "exp", "exp2", "expm1", "sin", "cos", "tan", "atan", "sinh", "cosh", "tanh", "asinh", "erf", "erfc", "lgamma",
        "digamma", "floor", "ceil", "round", "trunc", "frac", "abs", "sign", "signbit", "relu", "relu6", "sigmoid",
        "silu", "softplus", "mish", "selu", "hardsigmoid", "hardswish", "square", "reciprocal", "sinc", "deg2rad",
        "isnan", "isinf", "isfinite", "isposinf", "isneginf", "nan_to_num", "neg", "elu", "celu", "hardshrink",
        "softshrink", "softsign", "logsigmoid", "tanhshrink", "hardtanh", "leaky_relu")},
    **{n: (lambda x, n=n: getattr(F, n)(x), UNIT) for n in ("asin", "acos", "atanh", "erfinv")},
    **{n: (lambda x, n=n: getattr(F, n)(x), POSITIVE) for n in (
        "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "acosh", "logit", "lgamma_positive")},
    "threshold": (lambda x: F.threshold(x, 0.1, 3), ALL),
    "clamp": (lambda x: x.clamp(-0.5, 1), ALL),
    "round_decimals": (lambda x: x.round(decimals=2), ALL),
    "gelu": (lambda x: F.gelu(x), ALL[np.isfinite(ALL)]),
    "pow3": (lambda x: x ** 3, ALL),
    "pow_fraction": (lambda x: x ** 1.7, ALL),
}
del FUNCTIONS["lgamma_positive"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_of_one(name: str) -> None:
    torch = pytest.importorskip("torch")
    function, points = FUNCTIONS[name]
    for dtype, rtol, atol in ((np.float32, 3e-6, 1e-7), (np.float64, 1e-13, 1e-14)):
        a = points.astype(dtype)
        x, y = Tensor(a, requires_grad=True), torch.tensor(a, requires_grad=True)
        got, want = function(x), function(y)
        assert got.dtype.name == str(want.dtype).removeprefix("torch.")
        # their float64 is more exact than their float32, but where it is about the type itself
        wide = dtype if name in ("nan_to_num", "threshold", "hardshrink", "softshrink") else np.float64
        exact = function(torch.tensor(a.astype(wide))).numpy()
        np.testing.assert_allclose(got.numpy(), exact.astype(got.dtype.np), rtol=rtol, atol=atol)
        if not want.requires_grad:
            continue
        got.sum().backward()
        want.sum().backward()
        assert x.grad is not None
        # at NaNs, and where the slope is infinite, nobody needs a gradient
        both = np.stack([x.grad.numpy(), y.grad.numpy()])
        keep = ~np.isnan(a) & np.isfinite(both).all(0) & (np.abs(both[1]) < 1e15)
        loose = OTHER_GRADIENT.get(name, 0.0)
        np.testing.assert_allclose(x.grad.numpy()[keep], y.grad.numpy()[keep], rtol=max(loose, 100 * rtol),
                                   atol=max(loose, 100 * atol))


PAIRS = np.array(np.meshgrid(EDGES, EDGES)).reshape(2, -1)
TWO = ["atan2", "hypot", "copysign", "logaddexp", "logaddexp2", "xlogy", "pow", "fmod", "remainder", "floor_divide",
       "maximum", "minimum", "fmax", "fmin", "sub", "add", "mul", "div", "eq", "ne", "lt", "le", "gt", "ge",
       "heaviside", "isclose", "ldexp", "nextafter"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", TWO)
def test_of_two(name: str) -> None:
    """Every pair of the edges."""
    torch = pytest.importorskip("torch")
    for dtype, rtol in ((np.float32, 3e-6), (np.float64, 1e-13)):
        a, b = PAIRS.astype(dtype)
        got = getattr(Tensor(a), name)(Tensor(b)).numpy()
        wide = dtype if name == "nextafter" else np.float64
        want = getattr(torch.tensor(a.astype(wide)), name)(torch.tensor(b.astype(wide))).numpy().astype(got.dtype)
        keep = np.ones(len(a), bool)
        if name in ("fmod", "remainder", "floor_divide"):       # a quotient of more bits than the type has
            keep = ~np.isfinite(a / b) | (np.abs(a / b) < 2.0 ** 24)
        np.testing.assert_allclose(got[keep], want[keep], rtol=rtol,
                                   atol=1e-14 if dtype == np.float64 else 1e-7 if name.startswith("logadd") else 1e-30)


@pytest.mark.parametrize("name", ["exp", "tanh", "sin", "log", "sqrt", "sigmoid", "erf", "atan", "softplus", "gelu",
                                  "expm1", "log1p", "asinh", "lgamma", "digamma", "cosh"])
def test_second_derivatives(name: str) -> None:
    """Against PyTorch's, and the derivative of the derivative against differences."""
    torch = pytest.importorskip("torch")
    a = RNG.uniform(0.3, 2.5, 8)
    x, y = Tensor(a, requires_grad=True), torch.tensor(a, requires_grad=True)
    once = getattr(F, name)(x).sum().gradient(x)[0]
    (ours,) = once.sum().gradient(x)
    (first,) = torch.autograd.grad(getattr(F, name)(y).sum(), y, create_graph=True)
    (theirs,) = torch.autograd.grad(first.sum(), y)
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-6 if name != "digamma" else 1e-4)
    step = 1e-6
    slope = [getattr(F, name)(z := Tensor(a + s, requires_grad=True)).sum().gradient(z)[0].numpy()
             for s in (step, -step)]
    np.testing.assert_allclose(ours.numpy(), (slope[0] - slope[1]) / (2 * step), rtol=1e-5, atol=1e-6)


BUILT: dict[str, Callable[[Any], Any]] = {
    "softmax": lambda x: x.softmax(1) ** 2,
    "matmul": lambda x: (x @ x.T).tanh(),
    "conv": lambda x: F.conv1d(x.unsqueeze(0), x.unsqueeze(1)[:, :, :2] * 0.5, groups=3),
    "cumprod": lambda x: x.cumprod(1),
    "norm": lambda x: x.norm(2, 1),
    "var": lambda x: x.var(0),
    "prod": lambda x: x.prod(1),
    "sort": lambda x: x.sort(dim=1).values ** 3,
    "layer_norm": lambda x: F.layer_norm(x, (4,)) ** 3,
    "pow": lambda x: x.abs() ** x,
    "index": lambda x: x[[0, 2, 2]] ** 3,
    "logsumexp": lambda x: x.logsumexp(1) ** 2,
}


@pytest.mark.parametrize("name", BUILT)
def test_second_derivatives_of_what_is_built(name: str) -> None:
    torch = pytest.importorskip("torch")
    a, v = RNG.uniform(0.3, 1.5, (2, 3, 4))
    x, y = Tensor(a, requires_grad=True), torch.tensor(a, requires_grad=True)
    (ours,) = (BUILT[name](x).sum().gradient(x)[0] * Tensor(v)).sum().gradient(x)
    (first,) = torch.autograd.grad(BUILT[name](y).sum(), y, create_graph=True)
    (theirs,) = torch.autograd.grad((first * torch.tensor(v)).sum(), y)
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-6, atol=1e-8)


# small floats

FP8 = [("float8_e4m3", "float8_e4m3fn"), ("float8_e5m2", "float8_e5m2")]


@pytest.mark.parametrize("mine,theirs", FP8)
def test_fp8(mine: str, theirs: str, device: str) -> None:
    """Every code, and what numbers round to it, ties and overflow included: in kernels, on the host, in PyTorch."""
    torch = pytest.importorskip("torch")
    dtype, other = dtypes.of(mine), getattr(torch, theirs)
    codes = np.arange(256, dtype=np.uint8)
    values = torch.tensor(codes).view(other).float().numpy()
    np.testing.assert_array_equal(dtype.decode(codes), values)
    np.testing.assert_array_equal(Tensor(codes, device=device).bitcast(dtype).float().numpy(), values)
    finite = np.sort(values[np.isfinite(values)])
    middle = (finite[1:] + finite[:-1]) / 2
    edges = [dtype.finite_max * f for f in (1, 1.03, 1.0357, 1.04, 1.07, 1.0714, 1.08, 1.2, 2)]
    points = np.concatenate([finite, middle, np.nextafter(middle, 9e9), np.nextafter(middle, -9e9), edges,
                             np.negative(edges), [math.inf, -math.inf, math.nan, 1e-9]]).astype(np.float32)
    want = torch.tensor(points).to(other).float().numpy()
    np.testing.assert_array_equal(Tensor(points, device=device).cast(dtype).numpy(), want)
    np.testing.assert_array_equal(dtype.decode(dtype.encode(points)), want)
    x = Tensor([1.5, -2.0, 0.25], dtype=dtype, device=device)
    assert (x * 2 + 1).dtype is dtype and (x * 2 + 1).tolist() == [4, -3, 1.5] and x.sum().item() == -0.25
    assert x.amax().item() == 1.5 and (x @ x).item() == (6.5 if mine == "float8_e4m3" else 6)
    assert (-x).abs().tolist() == [1.5, 2, 0.25]


def test_promotion_with_fp8() -> None:
    e4, e5 = dtypes.float8_e4m3, dtypes.float8_e5m2
    assert dtypes.promote(e4, e5) is dtypes.float32 and dtypes.promote(e4, dtypes.int64) is e4
    assert dtypes.promote(e5, dtypes.float16) is dtypes.float16
    assert dtypes.promote(e4, dtypes.bfloat16) is dtypes.bfloat16
    assert dtypes.promote(dtypes.int64, dtypes.uint64) is dtypes.float32


@pytest.mark.parametrize("name", ["float8_e4m3", "float16", "bfloat16", "float32", "float64"])
def test_two_of_a_type_make_one_of_it(name: str) -> None:
    x, y = (Tensor(v).cast(dtypes.of(name)) for v in ([1.5, -2.0, 0.0], [1.0, 2.0, -3.0]))
    for function in ("fmod", "remainder", "floor_divide", "copysign", "maximum", "fmax", "hypot", "atan2", "pow", "div",
                     "heaviside", "logaddexp", "xlogy"):
        assert getattr(x, function)(y).dtype is x.dtype, function


@pytest.mark.parametrize("dtype", [dtypes.float16, dtypes.bfloat16], ids=lambda t: t.name)
def test_half_types_round_once(dtype: dtypes.DType, device: str) -> None:
    """A function of a half type is the float32 function, rounded."""
    x = Tensor(RNG.uniform(0.1, 9, 64).astype(np.float32), device=device).cast(dtype)
    for name in ("exp", "log", "tanh", "sigmoid", "gelu", "cos", "rsqrt", "erf", "log1p", "softplus"):
        np.testing.assert_array_equal(getattr(x, name)().numpy(), getattr(x.float(), name)().cast(dtype).numpy(), name)


# in place

@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["add", "mul", "set", "mask", "snap", "realize", "clamp"]), min_size=1, max_size=8))
def test_in_place_sequences(steps: list[str]) -> None:
    """Against NumPy; values that were taken before stay what they were."""
    t, a = Tensor(np.arange(6, dtype=np.float32)), np.arange(6, dtype=np.float32)
    taken: list[tuple[Tensor, np.ndarray]] = []
    alias = t
    for k, step in enumerate(steps):
        if step == "add":
            t += k + 1
            a += k + 1
        elif step == "mul":
            t.mul_(2)
            a *= 2
        elif step == "set":
            t[k % 6::2] = Tensor([-1.0])
            a[k % 6::2] = -1
        elif step == "mask":
            t[t > 3] = k
            a[a > 3] = k
        elif step == "clamp":
            t.clamp_(-2, 9)
            np.clip(a, -2, 9, out=a)
        elif step == "realize":
            t.realize()
        else:
            taken.append((t * 1, a.copy()))
    np.testing.assert_array_equal(t.numpy(), a)
    assert alias is t
    for ours, theirs in taken:
        np.testing.assert_array_equal(ours.numpy(), theirs)


def test_in_place_and_gradients() -> None:
    w = Tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(RuntimeError, match=r"a leaf that requires grad is assigned to"):
        w += 1
    h = w * 2
    h += w
    h[0] = w[1] * 3
    h.sum().backward()
    assert w.grad is not None and w.grad.tolist() == [0, 6]
    with no_grad():
        w -= 0.5 * w.grad
    assert w.tolist() == [1, -1] and w.requires_grad
    with pytest.raises(TypeError, match=r"add in place gives float32, which the tensor's int32 cannot take"):
        Tensor([1]).add_(0.5)
    with pytest.raises(ValueError, match=r"add in place gives shape \(2, 2\), the tensor has \(2,\)"):
        Tensor([1, 2]).add_(Tensor([[1], [2]]))


@pytest.mark.parametrize("name", ["sin", "cos", "tan"])
def test_large_angles(name: str, device: str) -> None:
    """float32 angles far beyond a turn are reduced in float64: relative error stays at the last place."""
    rng = np.random.RandomState(7)
    x = (rng.uniform(-1, 1, 400) * 10.0 ** rng.uniform(0, 8, 400)).astype(np.float32)
    got = getattr(Tensor(x, device=device), name)().numpy().astype(np.float64)
    np.testing.assert_allclose(got, getattr(np, name)(x.astype(np.float64)), rtol=4e-7, atol=1e-12)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_remainders_are_exact_for_all_float32(device: str) -> None:
    """Of any two bit patterns, however large the quotient is."""
    count = 20_000 if device == "CPU" else 500
    x, y = np.random.RandomState(3).randint(0, 1 << 32, (2, count), np.uint64).astype(np.uint32).view(np.float32)
    a, b = Tensor(x, device=device), Tensor(y, device=device)
    np.testing.assert_array_equal(a.fmod(b).numpy(), np.fmod(x, y))
    np.testing.assert_array_equal((a % b).numpy(), np.mod(x, y))
