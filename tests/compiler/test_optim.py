"""Optimisers and schedules of learning rates against PyTorch's, and LAMB against its paper."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from compiler import Tensor, optim

torch = pytest.importorskip("torch", reason="PyTorch, the reference, is not installed: pip install torch")


def values(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def trained(make: Any, steps: int = 5) -> np.ndarray:
    p = Tensor(values(0, 4, 3), requires_grad=True)
    optimizer = make([p])
    for i in range(steps):
        optimizer.zero_grad()
        ((p - Tensor(values(i + 1, 4, 3))) ** 2).sum().backward()
        optimizer.step()
    return p.numpy()


@pytest.mark.parametrize(("name", "more"), [
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}), ("Adam", {"lr": 0.05}),
    ("AdamW", {"lr": 0.05, "weight_decay": 0.1})])
def test_optimizers(name: str, more: dict[str, Any]) -> None:
    p = torch.tensor(values(0, 4, 3), requires_grad=True)
    optimizer = getattr(torch.optim, name)([p], **more)
    for i in range(5):
        optimizer.zero_grad()
        ((p - torch.tensor(values(i + 1, 4, 3))) ** 2).sum().backward()
        optimizer.step()
    assert np.allclose(trained(lambda ps: getattr(optim, name)(ps, **more)), p.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_lamb() -> None:
    """You et al. (2019), algorithm 2, in NumPy."""
    lr, b1, b2, eps, decay = 0.05, 0.9, 0.999, 1e-6, 0.01
    x = values(0, 4, 3).astype(np.float64)
    m, v = np.zeros_like(x), np.zeros_like(x)
    for i in range(5):
        g = 2 * (x - values(i + 1, 4, 3))
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        step = (m / (1 - b1 ** (i + 1))) / (np.sqrt(v / (1 - b2 ** (i + 1))) + eps) + decay * x
        x = x - lr * np.linalg.norm(x) / np.linalg.norm(step) * step
    found = trained(lambda ps: optim.LAMB(ps, lr=lr, betas=(b1, b2), eps=eps, weight_decay=decay))
    assert np.allclose(found, x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "arguments"), [
    ("StepLR", (3, 0.5)), ("ExponentialLR", (0.9,)), ("CosineAnnealingLR", (8,)), ("LinearLR", (0.25, 1.0, 4)),
    ("MultiStepLR", ([2, 5], 0.1))])
def test_schedules(name: str, arguments: tuple[Any, ...]) -> None:
    other = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    theirs = getattr(torch.optim.lr_scheduler, name)(other, *arguments)
    mine = optim.SGD([Tensor([0.0], requires_grad=True)], lr=0.2)
    ours = getattr(optim, name)(mine, *arguments)
    for _ in range(8):
        assert math.isclose(mine.lr.item(), other.param_groups[0]["lr"], rel_tol=1e-5, abs_tol=1e-8)
        other.step()
        theirs.step()
        ours.step()


def test_a_schedule_changes_no_kernel() -> None:
    optimizer = optim.SGD([Tensor([1.0], requires_grad=True)], lr=0.5)
    schedule = optim.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    rates = []
    for _ in range(3):
        rates.append(optimizer.lr.item())
        schedule.step()
    assert np.allclose(rates, [0.5, 0.25, 0.5 / 3])
