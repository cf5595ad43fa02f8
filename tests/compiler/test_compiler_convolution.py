"""Convolutions and pooling against plain loops, their derivatives against what linearity demands, and the kernels that
they become: one each, without room for windows."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler import Tensor, dtypes, graph
from compiler.schedule import KernelItem, normalize, schedule
from compiler.uop import Ops


def reference(x: np.ndarray, w: np.ndarray, stride: tuple[int, ...], padding: tuple[int, ...],
              dilation: tuple[int, ...], groups: int) -> np.ndarray:
    """Output by output, in float64."""
    n = w.ndim - 2
    x = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *((p, p) for p in padding)])
    kernel = w.shape[2:]
    count = [(x.shape[2 + a] - dilation[a] * (kernel[a] - 1) - 1) // stride[a] + 1 for a in range(n)]
    out = np.zeros((x.shape[0], w.shape[0], *count))
    per = w.shape[0] // groups
    for o in range(w.shape[0]):
        inner = x[:, o // per * w.shape[1]:(o // per + 1) * w.shape[1]]
        for place in itertools.product(*map(range, kernel)):
            cut = tuple(slice(k * d, k * d + s * (c - 1) + 1, s)
                        for k, d, s, c in zip(place, dilation, stride, count, strict=True))
            factors = w[o].reshape(w.shape[1], *kernel)[(slice(None), *place)]  # type: ignore[arg-type]
            out[:, o] += np.einsum("bc...,c->b...", inner[(slice(None), slice(None), *cut)], factors)
    return out


@st.composite
def case(draw: st.DrawFn, most: int = 3) -> Any:
    n = draw(st.integers(1, most))
    each = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(n))
    kernel, stride, dilation, padding = each(1, 3), each(1, 3), each(1, 2), each(0, 2)
    groups = draw(st.sampled_from([1, 1, 2]))
    sizes = tuple(max(1, (k - 1) * d + 1 - 2 * p + draw(st.integers(0, 4)))
                  for k, d, p in zip(kernel, dilation, padding, strict=True))
    rng = np.random.RandomState(draw(st.integers(0, 1000)))
    x = rng.uniform(-1, 1, (draw(st.integers(1, 2)), 2 * groups, *sizes)).astype(np.float32)
    w = rng.uniform(-1, 1, (groups * draw(st.integers(1, 2)), 2, *kernel)).astype(np.float32)
    return x, w, stride, padding, dilation, groups


@settings(max_examples=20, deadline=None)
@given(case())
def test_convolution_and_both_derivatives(case: Any) -> None:
    """Convolution is linear in each operand, so for any g: <g, conv(x, w)> = <dx, x> = <dw, w>, and dx, dw do not
    depend on x, w themselves."""
    x, w, *how = case
    want = reference(x, w, *how)
    stride, padding, dilation, groups = how
    tx, tw = Tensor(x, requires_grad=True), Tensor(w, requires_grad=True)
    y = getattr(tx, f"conv{w.ndim - 2}d")(tw, None, stride, padding, dilation, groups)
    np.testing.assert_allclose(y.numpy(), want, rtol=1e-4, atol=1e-5)
    g = np.random.RandomState(1).uniform(-1, 1, want.shape)
    (y * Tensor(g, dtypes.float32)).sum().backward()
    assert tx.grad is not None and tw.grad is not None
    other = np.random.RandomState(2)
    for _ in range(2):
        x2, w2 = other.uniform(-1, 1, x.shape), other.uniform(-1, 1, w.shape)
        both = (tx.grad.numpy() * x2, reference(x2, w, *how)), (tw.grad.numpy() * w2, reference(x, w2, *how))
        for got, now in both:
            np.testing.assert_allclose(got.sum(), (g * now).sum(), rtol=1e-3, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(case(), st.data())
def test_transposed_convolution_is_the_adjoint(case: Any, data: st.DataObject) -> None:
    """<conv_transpose(g), x> = <g, conv(x)> for every x of its shape, with any output padding; and its own
    derivatives, which are convolutions again."""
    x, w, stride, padding, dilation, groups = case
    g = np.random.RandomState(3).uniform(-1, 1, reference(x, w, stride, padding, dilation, groups).shape)
    more = tuple(data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    sizes = tuple((c - 1) * s + (k - 1) * d + 1 + m - 2 * p for c, s, k, d, m, p in zip(
        g.shape[2:], stride, w.shape[2:], dilation, more, padding, strict=True))
    name = f"conv_transpose{len(sizes)}d"
    if min(sizes) < 0:
        with pytest.raises(ValueError, match="nothing is left"):
            getattr(Tensor(g), name)(Tensor(w), None, stride, padding, more, groups, dilation)
        return
    tg, tw = Tensor(g, dtypes.float32, requires_grad=True), Tensor(w, requires_grad=True)
    y = getattr(tg, name)(tw, None, stride, padding, more, groups, dilation)
    shape = y.shape
    assert shape[:2] == x.shape[:2]
    assert shape[2:] == sizes
    if 0 in shape:
        return
    z = np.random.RandomState(4).uniform(-1, 1, shape)
    there = reference(z, w, stride, padding, dilation, groups)[tuple(slice(0, m) for m in g.shape)]
    assert there.shape == g.shape or any(more)      # output padding may make room for one window more
    if there.shape == g.shape:
        np.testing.assert_allclose((y.numpy() * z).sum(), (g * there).sum(), rtol=1e-3, atol=1e-4)
        (y * Tensor(z, dtypes.float32)).sum().backward()
        assert tg.grad is not None
        np.testing.assert_allclose(tg.grad.numpy(), there, rtol=1e-3, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(case(2), st.booleans(), st.booleans())
def test_pooling(case: Any, ceil: bool, include: bool) -> None:
    x, w, stride, _, dilation, _ = case
    kernel = w.shape[2:]
    n = len(kernel)
    padding = tuple(k // 2 for k in kernel)
    ends = zip(x.shape[2:], padding, kernel, dilation, strict=True)
    if any(size + 2 * p < (k - 1) * d + 1 for size, p, k, d in ends):
        return
    t = Tensor(x)
    apart = (1,) * n if not include else dilation
    got = getattr(t, f"max_pool{n}d")(kernel, stride, padding, apart, ceil).numpy()
    mean = getattr(t, f"avg_pool{n}d")(kernel, stride, padding, ceil, include)
    wide = np.pad(x, [(0, 0), (0, 0), *((p, p + 20) for p in padding)], constant_values=np.nan)
    for at in np.ndindex(got.shape):
        cut = tuple(slice(o * s, o * s + (k - 1) * d + 1, d)
                    for o, s, k, d in zip(at[2:], stride, kernel, apart, strict=True))
        assert got[at] == np.nan_to_num(wide[(*at[:2], *cut)], nan=-np.inf).max()      # padding alone: -inf
    for at in np.ndindex(mean.shape):
        cut = tuple(slice(o * s, o * s + k) for o, s, k in zip(at[2:], stride, kernel, strict=True))
        window = wide[(*at[:2], *cut)]
        inside = [min(o * s + k, size + 2 * p) - o * s
                  for o, s, k, size, p in zip(at[2:], stride, kernel, x.shape[2:], padding, strict=True)]
        count = np.prod(inside) if include else (~np.isnan(window)).sum()
        np.testing.assert_allclose(mean.numpy()[at], np.nansum(window) / count, rtol=1e-5, atol=1e-6)


def test_convolution_on_both_devices(device: str) -> None:
    rng = np.random.RandomState(5)
    x, w = rng.uniform(-1, 1, (2, 6, 10, 9)), rng.uniform(-1, 1, (8, 3, 3, 3))
    a = Tensor(x, dtypes.float32, device, requires_grad=True)
    b = Tensor(w, dtypes.float32, device, requires_grad=True)
    y = a.conv2d(b, Tensor(np.arange(8.0), dtypes.float32, device), (2, 1), 1, 1, 2).relu().max_pool2d(2)
    y.sum().backward()
    want = reference(x, w, (2, 1), (1, 1), (1, 1), 2) + np.arange(8.0)[:, None, None]
    want = np.maximum(want, 0)[:, :, :4, :8].reshape(2, 8, 2, 2, 4, 2).max((3, 5))
    np.testing.assert_allclose(y.numpy(), want, rtol=1e-4, atol=1e-5)
    assert a.grad is not None and b.grad is not None
    step = 1e-3
    for at in ((0, 0, 0, 0), (7, 2, 1, 1)):
        nudged = w.copy()
        nudged[at] += step
        moved = np.maximum(reference(x, nudged, (2, 1), (1, 1), (1, 1), 2) + np.arange(8.0)[:, None, None], 0)
        moved = moved[:, :, :4, :8].reshape(2, 8, 2, 2, 4, 2).max((3, 5))
        np.testing.assert_allclose(b.grad.numpy()[at], (moved.sum() - want.sum()) / step, rtol=2e-2, atol=2e-2)


def test_second_derivatives() -> None:
    rng = np.random.RandomState(6)
    x = Tensor(rng.uniform(-1, 1, (1, 2, 5, 5)), dtypes.float64, requires_grad=True)
    w = Tensor(rng.uniform(-1, 1, (2, 2, 3, 3)), dtypes.float64, requires_grad=True)
    y = x.conv2d(w, padding=1)
    (dx,) = (y * y * y).sum().gradient(x)
    (ddw,) = (dx * dx).sum().gradient(w)
    base, step = w.numpy(), 1e-6

    def value(weights: np.ndarray) -> float:
        p = Tensor(x.numpy(), dtypes.float64, requires_grad=True)
        out = p.conv2d(Tensor(weights, dtypes.float64), padding=1)
        (d,) = (out * out * out).sum().gradient(p)
        return float((d * d).sum().item())

    for at in ((0, 0, 0, 0), (1, 1, 2, 1)):
        up, down = base.copy(), base.copy()
        up[at] += step
        down[at] -= step
        np.testing.assert_allclose(ddw.numpy()[at], (value(up) - value(down)) / (2 * step), rtol=1e-5)


def test_a_convolution_and_its_derivatives_are_a_kernel_each() -> None:
    """No memory is made but for the results: windows are never stored. A CPU also stores what it pads, and the gradient
    with zeros around and between."""
    x, w = Tensor.ones(2, 8, 12, 12).contiguous().realize(), Tensor.ones(16, 8, 3, 3).contiguous().realize()
    x.requires_grad_()
    w.requires_grad_()
    y = x.conv2d(w, stride=2, padding=1)
    g = Tensor(np.ones(y.shape, np.float32))
    dx, dw = y.gradient(x, w, gradient=g)
    roots, _ = normalize([y.uop, dx.uop, dw.uop])
    results = [y.numel(), dx.numel(), dw.numel()]
    for device, padded in (("AM", []), ("CPU", [2 * 8 * 14 * 14, 2 * 16 * 16 * 16])):
        plan = schedule(roots, device)
        assert sorted(s.size for s in plan.made) == sorted(results + padded)
        sums = [sum(n.op is Ops.REDUCE for n in item.sink.toposort()) for item in plan.items
                if isinstance(item, KernelItem)]
        assert sorted(sums) == [0] * len(padded) + [1, 1, 1]


def test_windows_and_their_adjoint() -> None:
    x = Tensor(np.arange(10, dtype=np.float32))
    view = np.lib.stride_tricks.sliding_window_view
    for size, step, apart in ((3, 1, 1), (3, 2, 1), (2, 2, 1), (2, 3, 2), (1, 3, 1), (4, 4, 1), (10, 1, 1)):
        want = view(x.numpy(), (size - 1) * apart + 1)[::step, ::apart]
        node = graph.window(x.uop, 0, size, step, apart)
        np.testing.assert_array_equal(Tensor(node).numpy(), want)
        total = np.zeros(12)
        for i, row in enumerate(want):
            for j, value in enumerate(row):
                total[i * step + j * apart] += value
        np.testing.assert_array_equal(Tensor(graph.fold(node, 0, 12, step, apart)).numpy(), total)


def test_errors() -> None:
    x, w = Tensor.ones(1, 4, 8, 8), Tensor.ones(6, 4, 3, 3)
    with pytest.raises(ValueError, match=r"4 channels for a weight of shape .* in 2 groups, which takes 8"):
        x.conv2d(w, groups=2)
    with pytest.raises(ValueError, match="stride has 3 numbers for 2 axes"):
        x.conv2d(w, stride=(1, 2, 3))
    with pytest.raises(ValueError, match="one window must fit"):
        x.conv2d(w, dilation=9)
    with pytest.raises(ValueError, match="a convolution of 1 axes takes"):
        x.conv1d(w)
    with pytest.raises(ValueError, match="with stride 1 only"):
        x.conv2d(w, stride=2, padding="same")
    with pytest.raises(ValueError, match="is more than half of the window"):
        x.max_pool2d(2, padding=2)
    with pytest.raises(ValueError, match="must be less than the stride"):
        x.conv_transpose2d(Tensor.ones(4, 2, 3, 3), output_padding=1)
    with pytest.raises(ValueError, match="nothing is left"):
        x.conv_transpose2d(Tensor.ones(4, 2, 1, 1), padding=5)


@pytest.mark.parametrize("size,stride,padding", [(2, 2, 0), (3, 2, 1), (3, 1, 1)])
def test_of_equal_elements_in_a_window_the_first_has_the_derivative(size: int, stride: int, padding: int,
                                                                    device: str) -> None:
    torch = pytest.importorskip("torch")
    a = np.random.RandomState(3).randint(0, 3, (2, 2, 6, 6)).astype(np.float32)
    x, y = Tensor(a, device=device, requires_grad=True), torch.tensor(a, requires_grad=True)
    mine, theirs = x.max_pool2d(size, stride, padding), torch.nn.functional.max_pool2d(y, size, stride, padding)
    weight = np.random.RandomState(4).randint(1, 9, tuple(theirs.shape)).astype(np.float32)
    (mine * Tensor(weight, device=device)).sum().backward()
    (theirs * torch.tensor(weight)).sum().backward()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), y.grad.numpy())
