"""Learning rates over time. ``step()``, after each epoch or update, assigns to the optimizer's ``lr``: no kernel
changes."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

from compiler.optim.optimizers import Optimizer
from compiler.tensor import Tensor, no_grad

__all__ = ["CosineAnnealingLR", "ExponentialLR", "LambdaLR", "LinearLR", "MultiStepLR", "Schedule", "StepLR"]


class Schedule:
    """``factor(step)`` times the rate that the optimizer had; it is set at once for step 0."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer, self.base = optimizer, optimizer.lr.item()
        self.steps = 0
        self._set()

    def factor(self, step: int) -> float:
        raise NotImplementedError

    def rate(self, step: int) -> float:
        return self.base * self.factor(step)

    def step(self) -> None:
        self.steps += 1
        self._set()

    def _set(self) -> None:
        with no_grad():
            self.optimizer.lr.assign(Tensor([self.rate(self.steps)], self.optimizer.lr.dtype,
                                            self.optimizer.device)).realize()


class LambdaLR(Schedule):
    def __init__(self, optimizer: Optimizer, lr_lambda: Callable[[int], float]) -> None:
        self.function = lr_lambda
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        return self.function(step)


class StepLR(Schedule):
    """Times ``gamma`` every ``step_size`` steps."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        if step_size < 1:
            raise ValueError(f"step_size is a number of steps, not {step_size}")
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        return self.gamma ** (step // self.step_size)       # type: ignore[no-any-return]


class MultiStepLR(Schedule):
    """Times ``gamma`` at each of the milestones."""

    def __init__(self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1) -> None:
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        return self.gamma ** bisect_right(self.milestones, step)        # type: ignore[no-any-return]


class ExponentialLR(Schedule):
    def __init__(self, optimizer: Optimizer, gamma: float) -> None:
        self.gamma = gamma
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        return self.gamma ** step       # type: ignore[no-any-return]


class LinearLR(Schedule):
    """From ``start_factor`` to ``end_factor`` within ``total_iters`` steps."""

    def __init__(self, optimizer: Optimizer, start_factor: float = 1 / 3, end_factor: float = 1.0,
                 total_iters: int = 5) -> None:
        self.start, self.end, self.total = start_factor, end_factor, total_iters
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        return self.start + (self.end - self.start) * min(step, self.total) / self.total


class CosineAnnealingLR(Schedule):
    """From the rate to ``eta_min`` along half a cosine of ``T_max`` steps (Loshchilov & Hutter, 2016; no restarts)."""

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        if T_max < 1:
            raise ValueError(f"T_max is a number of steps, not {T_max}")
        self.length, self.least = T_max, eta_min
        super().__init__(optimizer)

    def rate(self, step: int) -> float:
        return self.least + (self.base - self.least) * (1 + math.cos(math.pi * step / self.length)) / 2
