"""Values to places, and back: against PyTorch, on both devices; and that the work grows with the values alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler import Tensor, nn
from compiler.engine import program_for
from compiler.schedule import KernelItem, normalize, schedule

REDUCTIONS = ["sum", "prod", "mean", "amax", "amin"]


def scattered(data: st.DataObject, device: str) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.RandomState(data.draw(st.integers(0, 1 << 16)))
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    dim = data.draw(st.integers(0, len(shape) - 1))
    counts = [data.draw(st.integers(0, 40 if a == dim else n)) for a, n in enumerate(shape)]
    x = rng.randint(-3, 4, shape).astype(np.float32)        # with zeros and equal numbers
    larger = data.draw(st.integers(0, 1))
    source = rng.randint(-3, 4, [n + larger for n in counts]).astype(np.float32)
    index = rng.randint(0, shape[dim], counts)
    how, include = data.draw(st.sampled_from([*REDUCTIONS, None])), data.draw(st.booleans())

    def both(a: Any, b: Any, i: Any) -> Any:
        return a.scatter(dim, i, b) if how is None else a.scatter_reduce(dim, i, b, how, include_self=include)
    ours = [Tensor(v, device=device, requires_grad=True) for v in (x, source)]
    theirs = [torch.tensor(v, requires_grad=True) for v in (x, source)]
    got = both(*ours, Tensor(index.astype(np.int32), device=device))
    want = both(*theirs, torch.tensor(index))
    np.testing.assert_allclose(got.numpy(), want.detach().numpy(), rtol=1e-5, atol=1e-6)
    # PyTorch has no derivative for larger sources, a wrong one of products at zeros without what is there, and one for
    # every value that is written to a place, not for the last alone
    if not index.size or larger or how is None or (how == "prod" and not include):
        return
    if how in ("amax", "amin") and not include:     # it gives a share to what was there and is equal, though left out
        touched = torch.zeros(shape).scatter(dim, torch.tensor(index), 1.0).bool()
        far = torch.where(touched, -100.0 if how == "amax" else 100.0, theirs[0])
        want = far.scatter_reduce(dim, torch.tensor(index), theirs[1], how)
    weight = rng.randint(1, 4, shape).astype(np.float32)
    (got * Tensor(weight, device=device)).sum().backward()
    (want * torch.tensor(weight)).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.grad is not None
        np.testing.assert_allclose(mine.grad.numpy(), other.grad.numpy(), rtol=1e-4, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_reduction(data: st.DataObject) -> None:
    scattered(data, "CPU")


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_every_reduction_on_the_card(am: str, data: st.DataObject) -> None:
    scattered(data, am)


def test_the_last_value_stays_and_only_it_gets_the_derivative() -> None:
    values = Tensor(np.arange(4, dtype=np.float32), requires_grad=True)
    out = Tensor(np.zeros(3, np.float32)).scatter(0, Tensor([1, 2, 1, 1]), values)
    assert out.tolist() == [0, 3, 1]
    out.sum().backward()
    assert values.grad is not None and values.grad.tolist() == [0, 1, 0, 1]


def work(tensor: Tensor, device: str) -> int:
    """Instructions over all kernels that ``tensor`` takes, roughly."""
    roots, _ = normalize([tensor.uop])
    items = [i for i in schedule(roots, device).items if isinstance(i, KernelItem)]
    return sum(program_for(i.sink, i.device).source.work for i in items)


def test_work_is_linear(device: str) -> None:
    rng = np.random.RandomState(0)
    count, words, width = 512, 3000, 8
    places = Tensor(rng.randint(0, words, count).astype(np.int32), device=device)
    values = Tensor(rng.randint(-9, 9, (count, width)).astype(np.float32), device=device)
    table = Tensor(np.zeros((words, width), np.float32), device=device, requires_grad=True)
    (table[places] * values).sum().backward()
    assert table.grad is not None
    limit = 60 * (count + words) * width
    assert work(table.grad, device) < limit < count * words * width
    want = np.zeros((words, width), np.float32)
    np.add.at(want, places.numpy(), values.numpy())
    np.testing.assert_array_equal(table.grad.numpy(), want)
    assigned = Tensor(np.zeros((words, width), np.float32), device=device)
    assigned[places] = values
    assert work(assigned, device) < limit
    last = np.zeros((words, width), np.float32)
    last[places.numpy()] = values.numpy()
    np.testing.assert_array_equal(assigned.numpy(), last)
    names = Tensor(rng.randint(0, 50, 40_000).astype(np.int32), device=device)
    np.testing.assert_array_equal(names.bincount().numpy(), np.bincount(names.numpy()))


def test_one_order_of_adding(device: str) -> None:
    """Floats add up in the values' order (in parts on a card): the same bits every time, and nearly NumPy's."""
    rng = np.random.RandomState(2)
    places, values = rng.randint(0, 40, 5000).astype(np.int32), rng.randn(5000).astype(np.float32)
    x, i = Tensor(values, device=device), Tensor(places, device=device)
    first = Tensor.zeros(40, device=device).scatter_add(0, i, x).numpy()
    again = (Tensor.zeros(40, device=device) + 0).scatter_add(0, i, x).numpy()
    np.testing.assert_array_equal(first, again)
    np.testing.assert_allclose(first, np.bincount(places, values), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "uint32", "int64", "float16", "bfloat16", "float64"])
def test_types(device: str, dtype: str) -> None:
    rng = np.random.RandomState(3)
    places = rng.randint(0, 5, 100).astype(np.int32)
    numbers = rng.randint(0, 2, 100)
    x = Tensor(numbers.astype(np.float32), device=device).cast(dtype)
    got = Tensor.zeros(5, dtype=dtype, device=device).scatter_add(0, Tensor(places, device=device), x)
    want = np.bincount(places, numbers, 5)
    assert got.dtype.name == dtype and got.tolist() == (want > 0 if dtype == "bool" else want).tolist()
    most = (Tensor.zeros(5, dtype=dtype, device=device)).scatter_reduce(0, Tensor(places, device=device), x, "amax")
    assert [int(v) for v in most.tolist()] == [1] * 5


def test_places_out_of_range_take_nothing(device: str) -> None:
    places = Tensor([-1, 7, 1, -9, 5], device=device)
    got = Tensor.zeros(5, device=device).scatter_add(0, places, Tensor(np.ones(5, np.float32), device=device))
    assert got.tolist() == [0, 1, 0, 0, 1]


def test_derivative_of_a_derivative() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.RandomState(4)
    a, i = rng.randn(6, 3).astype(np.float32), np.array([0, 5, 2, 2])

    def loss(x: Any, index: Any) -> Any:
        return (x[index] ** 3).sum()
    x = Tensor(a, requires_grad=True)
    (first,) = loss(x, Tensor(i.astype(np.int32))).gradient(x)
    (first ** 2).sum().backward()
    y = torch.tensor(a, requires_grad=True)
    (theirs,) = torch.autograd.grad(loss(y, torch.tensor(i)), y, create_graph=True)
    (theirs ** 2).sum().backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), y.grad.numpy(), rtol=1e-4)


@pytest.mark.parametrize("axis", [None, 0])
def test_an_embedding_over_two_devices(axis: int | None) -> None:
    """Words on several devices, each with the whole table: the gradients add up."""
    rng = np.random.RandomState(5)
    ids, weights = rng.randint(0, 30, (8, 4)).astype(np.int32), rng.randn(8, 4, 6).astype(np.float32)
    grads = []
    for devices in ((), ("CPU", "CPU")):
        layer = nn.Embedding(30, 6)
        words, g = Tensor(ids), Tensor(weights)
        if devices:
            layer.shard(devices)
            words, g = words.shard(devices, axis), g.shard(devices, axis)
        (layer(words) * g).sum().backward()
        assert layer.weight.grad is not None
        grads.append(layer.weight.grad.numpy())
    np.testing.assert_allclose(grads[0], grads[1], rtol=1e-5, atol=1e-6)
