"""A convolution's derivative on a CPU: against its definition, and without conditions in the loops that matter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compiler import Tensor
from compiler.schedule import KernelItem, normalize, schedule
from compiler.uop import Ops, UOp


def derivative(x: Tensor, weight: np.ndarray, seed: np.ndarray | None, **options: int) -> tuple[Tensor, np.ndarray]:
    """The gradient of an input, and that of the output which it came from: whole numbers, so that sums are exact."""
    out = x.conv2d(Tensor(weight), **options)
    g = seed if seed is not None else np.random.RandomState(1).randint(-4, 5, out.shape).astype(np.float32)
    return (out * Tensor(g)).sum().gradient(x)[0], g


def expected(shape: tuple[int, ...], weight: np.ndarray, g: np.ndarray, stride: int, padding: int, dilation: int,
             groups: int) -> np.ndarray:
    """Each output's gradient goes back to the places that it was a sum of, window element by window element."""
    batch, channels, height, width = shape
    out, inner, rows, columns = weight.shape
    found = np.zeros((batch, channels, height + 2 * padding, width + 2 * padding))
    for k in range(groups):
        mine, ours = slice(k * inner, (k + 1) * inner), slice(k * out // groups, (k + 1) * out // groups)
        for i in range(rows):
            for j in range(columns):
                for y in range(g.shape[2]):
                    for x in range(g.shape[3]):
                        found[:, mine, y * stride + i * dilation, x * stride + j * dilation] += \
                            g[:, ours, y, x] @ weight[ours, :, i, j]
    return found[:, :, padding:padding + height, padding:padding + width]


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_the_derivative_of_a_convolution(data: st.DataObject) -> None:
    size, stride, dilation, groups = (data.draw(st.integers(1, n), name) for n, name in (
        (3, "size"), (3, "stride"), (2, "dilation"), (2, "groups")))
    padding = data.draw(st.integers(0, size - 1), "padding")
    reach = (size - 1) * dilation + 1
    height, width = (data.draw(st.integers(reach, reach + 5), name) for name in ("height", "width"))
    inner, out = (data.draw(st.integers(1, 3), name) * groups for name in ("channels", "results"))
    rng = np.random.RandomState(0)
    shape = (2, inner, height, width)
    weight = rng.randint(-4, 5, (out, inner // groups, size, size)).astype(np.float32)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    found, g = derivative(Tensor(np.zeros(shape, np.float32)), weight, None, **options)
    np.testing.assert_array_equal(found.numpy(), expected(shape, weight, g, stride, padding, dilation, groups))


def sums_of(tensor: Tensor) -> list[UOp]:
    """The reductions in a tensor's kernels on a CPU."""
    items = schedule(normalize([tensor.uop])[0], "CPU").items
    assert all(isinstance(item, KernelItem) for item in items)
    return [n for item in items if isinstance(item, KernelItem) for n in item.sink.toposort() if n.op is Ops.REDUCE]


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (5, 3), (1, 2)], ids=str)
def test_its_sums_load_under_no_condition(size: int, stride: int) -> None:
    weight = np.ones((16, 16, size, size), np.float32)
    found, _ = derivative(Tensor(np.zeros((2, 16, 12, 12), np.float32)), weight, None, stride=stride, padding=size // 2)
    sums = sums_of(found)
    loads = [n for s in sums for n in s.toposort() if n.op is Ops.LOAD]
    assert len(sums) == 1 and len(loads) == 2 and all(len(n.src) == 1 for n in loads)


def test_what_is_no_product_keeps_its_conditions() -> None:
    """Max-pooling's derivative goes to one place of a window; there is no factor that stands for all of it."""
    x = Tensor(np.arange(49, dtype=np.float32).reshape(1, 1, 7, 7))
    found = x.max_pool2d((3, 3), stride=2).sum().gradient(x)[0]
    want = np.zeros((7, 7), np.float32)
    want[2::2, 2::2] = 1
    np.testing.assert_array_equal(found.numpy()[0, 0], want)


def test_the_derivative_of_that_derivative() -> None:
    """By the weights, of which the first one is linear: the same numbers as by the output."""
    rng = np.random.RandomState(0)
    x, w = (Tensor(rng.randint(-3, 4, s).astype(np.float32)) for s in ((1, 2, 6, 6), (3, 2, 3, 3)))
    seed = Tensor(rng.randint(-3, 4, (1, 3, 3, 3)).astype(np.float32))
    probe = Tensor(rng.randint(-3, 4, (1, 2, 6, 6)).astype(np.float32))
    first = (x.conv2d(w, stride=2, padding=1) * seed).sum().gradient(x)[0]
    second = (first * probe).sum().gradient(w)[0].numpy()
    by_output = (probe.conv2d(w, stride=2, padding=1) * seed).sum().gradient(w)[0].numpy()
    np.testing.assert_array_equal(second, by_output)
