"""What ``jit`` records: copies beside kernels, in one graph of the device where that can be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from compiler import Tensor, jit


@pytest.fixture
def am(device: str) -> str:
    if device == "CPU":
        pytest.skip("copies need a device beside the host")
    return device


def draws(*shape: int) -> Any:
    rng = np.random.RandomState(7)
    while True:
        yield rng.uniform(-1, 1, shape).astype(np.float32)


def entry(function: Any) -> Any:
    (found,) = function.captured.values()
    return found


def test_copies_from_and_to_the_host_are_in_the_graph(am: str) -> None:
    weight = Tensor(np.arange(12.0).reshape(4, 3), "float32", am)

    @jit
    def step(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x.to(am) @ weight
        return y.sum(0), (y + 1).to("CPU")

    w = np.arange(12, dtype=np.float32).reshape(4, 3)
    for _, x in zip(range(5), draws(6, 4), strict=False):
        total, back = step(Tensor(x))
        assert total.device == am and back.device == "CPU"
        np.testing.assert_allclose(back.numpy(), x @ w + 1, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(total.numpy(), (x @ w).sum(0), rtol=1e-5, atol=1e-5)
    assert entry(step).replay is not None and sum(s.launch is None for s in entry(step).steps) == 2


def test_results_of_several_replays_stay_apart(am: str) -> None:
    """Copies are staged in memory that every replay uses again; what came back does not."""
    @jit
    def step(x: Tensor) -> Tensor:
        return (x.to(am) * 2).to("CPU")

    inputs = [x for _, x in zip(range(6), draws(300), strict=False)]
    results = [step(Tensor(x)) for x in inputs]
    for x, result in zip(inputs, results, strict=True):
        np.testing.assert_array_equal(result.numpy(), x * 2)


def test_work_that_goes_through_the_host_is_done_step_by_step(am: str) -> None:
    @jit
    def step(x: Tensor) -> Tensor:
        return ((x.to(am) * 2).to("CPU") + 1).to(am) * 3

    for _, x in zip(range(4), draws(5, 2), strict=False):
        np.testing.assert_allclose(step(Tensor(x)).numpy(), (x * 2 + 1) * 3, rtol=1e-6)
    assert entry(step).replay is None


def test_another_shape_is_recorded_anew(device: str) -> None:
    @jit
    def step(x: Tensor) -> Tensor:
        return x.sum(0) * 2

    for n in (3, 3, 3, 5, 5, 5, 3, 5):
        x = np.random.RandomState(n).uniform(-1, 1, (n, 4)).astype(np.float32)
        np.testing.assert_allclose(step(Tensor(x, device=device)).numpy(), x.sum(0) * 2, rtol=1e-5, atol=1e-6)
    assert len(step.captured) == 2


@pytest.mark.parametrize("stored", [False, True])
def test_what_is_assigned_to_and_not_returned(device: str, stored: bool) -> None:
    """A counter that no result needs counts in every replay; an assignment from before the step is none of its work."""
    count, other = (Tensor.zeros(2, dtype="int64", device=device).contiguous() for _ in range(2))
    if stored:
        count.realize(other)

    @jit
    def step(x: Tensor) -> Tensor:
        count.assign(count + 1)
        return x * 2
    for n in range(5):
        other.assign(other + 1)
        assert step(Tensor([1.0 * n], device=device)).item() == 2 * n
    assert count.tolist() == [5, 5] and other.tolist() == [5, 5]
