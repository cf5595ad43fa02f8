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
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.4, "maximize": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}), ("Adam", {"lr": 0.05, "amsgrad": True}),
    ("AdamW", {"lr": 0.05, "weight_decay": 0.1}), ("RMSprop", {"momentum": 0.5, "centered": True}),
    ("RMSprop", {"weight_decay": 0.1}), ("Adagrad", {"lr": 0.3, "lr_decay": 0.1, "initial_accumulator_value": 0.2}),
    ("Adamax", {"lr": 0.05}), ("NAdam", {"lr": 0.05}), ("Adadelta", {"lr": 0.7, "rho": 0.8, "weight_decay": 0.05}),
    ("RAdam", {"lr": 0.05, "weight_decay": 0.1}), ("Rprop", {"lr": 0.1, "step_sizes": (1e-3, 0.5)}),
    ("RAdam", {"lr": 0.05, "weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True}),
    ("ASGD", {"lr": 0.05, "lambd": 0.1, "t0": 3, "weight_decay": 0.02})])
def test_optimizers(name: str, more: dict[str, Any]) -> None:
    """Eight steps: RAdam divides by the squares from the sixth on."""
    p = torch.tensor(values(0, 4, 3), requires_grad=True)
    optimizer = getattr(torch.optim, name)([p], **more)
    for i in range(8):
        optimizer.zero_grad()
        ((p - torch.tensor(values(i + 1, 4, 3))) ** 2).sum().backward()
        optimizer.step()
    assert np.allclose(trained(lambda ps: getattr(optim, name)(ps, **more), 8), p.detach().numpy(), rtol=1e-5,
                       atol=1e-6)


def test_asgd_keeps_the_mean() -> None:
    p, other = Tensor(values(0, 3), requires_grad=True), torch.tensor(values(0, 3), requires_grad=True)
    mine, theirs = (kind([x], lr=0.1, t0=2) for kind, x in ((optim.ASGD, p), (torch.optim.ASGD, other)))
    for _ in range(6):
        (p * p).sum().backward()
        (other * other).sum().backward()
        for optimizer in (mine, theirs):
            optimizer.step()
            optimizer.zero_grad()
    assert np.allclose(mine.state_dict()["state"][0]["ax"], theirs.state[other]["ax"].numpy(), rtol=1e-5)


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
    ("MultiStepLR", ([2, 5], 0.1)), ("ConstantLR", (0.5, 3)), ("PolynomialLR", (6, 2.0)),
    ("CosineAnnealingWarmRestarts", (2, 2, 0.01)), ("CyclicLR", (0.01, 0.3, 3, 2, "triangular2")),
    ("CyclicLR", (0.01, 0.3, 2, None, "exp_range", 0.9)), ("OneCycleLR", (0.4, 9)),
    ("MultiplicativeLR", (lambda step: 1 / (1 + step),))])
def test_schedules(name: str, arguments: tuple[Any, ...]) -> None:
    other = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    theirs = getattr(torch.optim.lr_scheduler, name)(other, *arguments, **(
        {"cycle_momentum": False} if name in ("CyclicLR", "OneCycleLR") else {}))
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


def test_schedules_of_schedules_and_plateaus() -> None:
    """Warm-up and decay in sequence, a chain, and a metric that stays where it is; two groups of parameters."""
    schedulers = torch.optim.lr_scheduler

    def groups(make: Any) -> list[dict[str, Any]]:
        return [{"params": [make()]}, {"params": [make()], "lr": 0.02}]
    for build in (
            lambda m, o: m.SequentialLR(o, [m.LinearLR(o, 0.1, 1.0, 3), m.CosineAnnealingLR(o, 5)], [3]),
            lambda m, o: m.ChainedScheduler([m.ConstantLR(o, 0.5, 3), m.ExponentialLR(o, 0.9)]),
            lambda m, o: m.ReduceLROnPlateau(o, patience=1, cooldown=1, min_lr=0.001)):
        other = torch.optim.SGD(groups(lambda: torch.zeros(1, requires_grad=True)), lr=0.2)
        mine = optim.SGD(groups(lambda: Tensor([0.0], requires_grad=True)), lr=0.2)
        theirs, ours = build(schedulers, other), build(optim, mine)
        for value in (3.0, 2.0, 2.0, 2.0, 2.0, 1.99999, 2.0, 2.0):
            want = [g["lr"] for g in other.param_groups]
            assert np.allclose(ours.get_last_lr(), want, rtol=1e-9)
            assert np.allclose([g["lr_tensor"].item() for g in mine.param_groups], want, rtol=1e-6)
            arguments = (value,) if isinstance(ours, optim.ReduceLROnPlateau) else ()
            other.step()
            theirs.step(*arguments)
            ours.step(*arguments)


def test_groups_clipping_and_a_state_that_is_loaded() -> None:
    """Two groups with options of their own, gradients clipped, against PyTorch; stopped and resumed half-way."""
    a, b = torch.tensor(values(0, 4, 3), requires_grad=True), torch.tensor(values(9, 3), requires_grad=True)
    theirs = torch.optim.AdamW([{"params": [a], "weight_decay": 0.2}, {"params": [b], "lr": 0.01}], lr=0.1)
    p, q = Tensor(values(0, 4, 3), requires_grad=True), Tensor(values(9, 3), requires_grad=True)

    def make() -> optim.AdamW:
        return optim.AdamW([{"params": [p], "weight_decay": 0.2}, {"params": [q], "lr": 0.01}], lr=0.1)
    ours = make()
    for i in range(6):
        if i == 3:
            saved = ours.state_dict()
            ours = make()
            ours.load_state_dict(saved)
        theirs.zero_grad()
        ours.zero_grad()
        ((a * b - torch.tensor(values(i, 4, 3))) ** 2).sum().backward()
        ((p * q - Tensor(values(i, 4, 3))) ** 2).sum().backward()
        want = torch.nn.utils.clip_grad_norm_([a, b], 0.5)
        assert math.isclose(optim.clip_grad_norm_([p, q], 0.5).item(), want.item(), rel_tol=1e-5)
        theirs.step()
        ours.step()
    assert np.allclose(p.numpy(), a.detach().numpy(), rtol=1e-5, atol=1e-6)
    assert np.allclose(q.numpy(), b.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_what_is_no_group() -> None:
    p = Tensor([1.0], requires_grad=True)
    for groups, message in (([{"params": [p], "momentun": 1}], "SGD has no option momentun; its options are lr, mom"),
                            ([{"params": [p]}, {"params": [p]}], "in two groups"),
                            ([{"params": [p], "lr": -1}], "not negative: -1"), ([], "needs parameters")):
        with pytest.raises(ValueError, match=message):
            optim.SGD(groups)
    with pytest.raises(ValueError, match="of 1 groups and 0 parameters, the optimizer has 1 and 1"):
        optim.SGD([p]).load_state_dict({"groups": [{}], "state": []})
