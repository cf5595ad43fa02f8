"""Learning rates over time. ``step()``, after each epoch or update, assigns to the optimizer's rates: no kernel
changes. Names and arguments are PyTorch's; each is a function of the step count, so a state is one number."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

from compiler.optim.optimizers import Optimizer

__all__ = ["ChainedScheduler", "ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CyclicLR",
           "ExponentialLR", "LambdaLR", "LinearLR", "MultiStepLR", "MultiplicativeLR", "OneCycleLR", "PolynomialLR",
           "ReduceLROnPlateau", "Schedule", "SequentialLR", "StepLR"]


class Schedule:
    """``factor(step)`` times the rate that each group of the optimizer had; it is set at once for step 0."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.bases: list[float] = [group["initial_lr"] for group in optimizer.param_groups]
        self.steps = 0
        self._set()

    def factor(self, step: int) -> float:
        """The factor at a step, counted from 0; a subclass writes it."""
        raise NotImplementedError

    def rate(self, base: float, step: int) -> float:
        """The rate at a step, counted from 0."""
        return base * self.factor(step)

    def step(self) -> None:
        """One step further: the optimizer's rate is set anew."""
        self.steps += 1
        self._set()

    def rates(self, step: int) -> list[float]:
        """Each group's rate at a step."""
        return [self.rate(base, step) for base in self.bases]

    def get_last_lr(self) -> list[float]:
        """Each group's rate now."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` takes: the step, and the rates at step 0."""
        return {"steps": self.steps, "bases": list(self.bases)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another schedule of this kind stood."""
        self.steps, self.bases = state["steps"], list(state["bases"])
        self._set()

    def _set(self) -> None:
        for n, rate in enumerate(self.rates(self.steps)):
            if rate != self.optimizer.param_groups[n]["lr"]:
                self.optimizer.set_lr(rate, n)


class LambdaLR(Schedule):
    """:param lr_lambda: of the step; or one function for each group."""

    def __init__(self, optimizer: Optimizer,
                 lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]]) -> None:
        groups = len(optimizer.param_groups)
        self.functions = [lr_lambda] * groups if callable(lr_lambda) else list(lr_lambda)
        if len(self.functions) != groups:
            raise ValueError(f"{len(self.functions)} functions for {groups} groups of parameters")
        super().__init__(optimizer)

    def rates(self, step: int) -> list[float]:
        return [base * f(step) for base, f in zip(self.bases, self.functions, strict=True)]


class MultiplicativeLR(Schedule):
    """Times ``lr_lambda(step)`` at each step from 1 on."""

    def __init__(self, optimizer: Optimizer, lr_lambda: Callable[[int], float]) -> None:
        self.function, self._product, self._at = lr_lambda, 1.0, 0
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        if step < self._at:
            self._product, self._at = 1.0, 0
        while self._at < step:
            self._at += 1
            self._product *= self.function(self._at)
        return self._product


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
    """Times ``gamma`` at every step."""

    def __init__(self, optimizer: Optimizer, gamma: float) -> None:
        self.gamma = gamma
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        return self.gamma ** step       # type: ignore[no-any-return]


class ConstantLR(Schedule):
    """Times ``factor`` for the first ``total_iters`` steps."""

    def __init__(self, optimizer: Optimizer, factor: float = 1 / 3, total_iters: int = 5) -> None:
        self.first, self.total = factor, total_iters
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        return self.first if step < self.total else 1.0


class LinearLR(Schedule):
    """From ``start_factor`` to ``end_factor`` within ``total_iters`` steps."""

    def __init__(self, optimizer: Optimizer, start_factor: float = 1 / 3, end_factor: float = 1.0,
                 total_iters: int = 5) -> None:
        self.start, self.end, self.total = start_factor, end_factor, total_iters
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        return self.start + (self.end - self.start) * min(step, self.total) / self.total


class PolynomialLR(Schedule):
    """To nothing within ``total_iters`` steps, as a power of what is left of them."""

    def __init__(self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0) -> None:
        self.total, self.power = total_iters, power
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        return (1 - min(step, self.total) / self.total) ** self.power       # type: ignore[no-any-return]


class CosineAnnealingLR(Schedule):
    """From the rate to ``eta_min`` along half a cosine of ``T_max`` steps (Loshchilov & Hutter, 2016; no restarts)."""

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        if T_max < 1:
            raise ValueError(f"T_max is a number of steps, not {T_max}")
        self.length, self.least = T_max, eta_min
        super().__init__(optimizer)

    def rate(self, base: float, step: int) -> float:
        """The rate at a step: half a cosine from the base to the least."""
        return self.least + (base - self.least) * (1 + math.cos(math.pi * step / self.length)) / 2


class CosineAnnealingWarmRestarts(Schedule):
    """Likewise, again and again; each time ``T_mult`` times as long as before."""

    def __init__(self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0) -> None:
        if T_0 < 1 or T_mult < 1:
            raise ValueError(f"T_0 and T_mult are at least 1, not {T_0} and {T_mult}")
        self.length, self.times, self.least = T_0, T_mult, eta_min
        super().__init__(optimizer)

    def rate(self, base: float, step: int) -> float:
        length = self.length
        while step >= length:
            step -= length
            length *= self.times
        return self.least + (base - self.least) * (1 + math.cos(math.pi * step / length)) / 2


class CyclicLR(Schedule):
    """Up from ``base_lr`` to ``max_lr`` and down again (Smith, 2017).

    :param mode: "triangular"; "triangular2": half as high each time; "exp_range": times ``gamma ** step``.
    """

    def __init__(self, optimizer: Optimizer, base_lr: float, max_lr: float, step_size_up: int = 2000,
                 step_size_down: int | None = None, mode: str = "triangular", gamma: float = 1.0) -> None:
        if mode not in ("triangular", "triangular2", "exp_range"):
            raise ValueError(f"mode is triangular, triangular2 or exp_range, not {mode!r}")
        self.low, self.high, self.mode, self.gamma = base_lr, max_lr, mode, gamma
        self.up, self.down = step_size_up, step_size_down or step_size_up
        super().__init__(optimizer)

    def rate(self, base: float, step: int) -> float:
        cycle, at = divmod(step, self.up + self.down)
        share = at / self.up if at <= self.up else 1 - (at - self.up) / self.down
        if self.mode == "triangular2":
            share /= 2 ** cycle
        elif self.mode == "exp_range":
            share *= self.gamma ** step
        return self.low + (self.high - self.low) * share


class OneCycleLR(Schedule):
    """Up to ``max_lr``, and down to next to nothing (Smith & Topin, 2018). The momentum is left alone."""

    def __init__(self, optimizer: Optimizer, max_lr: float, total_steps: int, pct_start: float = 0.3,
                 anneal_strategy: str = "cos", div_factor: float = 25.0, final_div_factor: float = 1e4) -> None:
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy is cos or linear, not {anneal_strategy!r}")
        self.total, self.top = total_steps, pct_start * total_steps - 1
        self.cosine = anneal_strategy == "cos"
        self.high, self.first = max_lr, max_lr / div_factor
        self.last = self.first / final_div_factor
        super().__init__(optimizer)

    def rate(self, base: float, step: int) -> float:
        if step > self.total:
            raise ValueError(f"step {step} of {self.total} in all")
        if step <= self.top:
            return self._between(self.first, self.high, step / self.top)
        return self._between(self.high, self.last, (step - self.top) / (self.total - 1 - self.top))

    def _between(self, a: float, b: float, share: float) -> float:
        return b + (a - b) / 2 * (1 + math.cos(math.pi * share)) if self.cosine else a + (b - a) * share


class SequentialLR(Schedule):
    """One schedule after the other: number n + 1 begins, at its step 0, with step ``milestones[n]``."""

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[Schedule], milestones: Sequence[int]) -> None:
        if len(milestones) != len(schedulers) - 1 or any(s.optimizer is not optimizer for s in schedulers):
            raise ValueError(f"{len(schedulers)} schedules of this optimizer need {len(schedulers) - 1} milestones")
        self.schedules, self.milestones = list(schedulers), list(milestones)
        super().__init__(optimizer)

    def rates(self, step: int) -> list[float]:
        n = bisect_right(self.milestones, step)
        return self.schedules[n].rates(step - (self.milestones[n - 1] if n else 0))


class ChainedScheduler(Schedule):
    """The factors of several schedules, multiplied."""

    def __init__(self, schedulers: Sequence[Schedule]) -> None:
        self.schedules = list(schedulers)
        super().__init__(self.schedules[0].optimizer)

    def factor(self, step: int) -> float:
        return math.prod(s.factor(step) for s in self.schedules)


class ReduceLROnPlateau:
    """Times ``factor`` when ``step(metric)`` was not told of anything better for more than ``patience`` steps."""

    def __init__(self, optimizer: Optimizer, mode: str = "min", factor: float = 0.1, patience: int = 10,
                 threshold: float = 1e-4, threshold_mode: str = "rel", cooldown: int = 0, min_lr: float = 0.0,
                 eps: float = 1e-8) -> None:
        if mode not in ("min", "max") or threshold_mode not in ("rel", "abs"):
            raise ValueError(f"mode is min or max, not {mode!r}; threshold_mode is rel or abs, not {threshold_mode!r}")
        if factor >= 1:
            raise ValueError(f"factor is below 1, not {factor}")
        self.optimizer, self.mode, self.factor, self.patience = optimizer, mode, factor, patience
        self.threshold, self.relative, self.cooldown = threshold, threshold_mode == "rel", cooldown
        self.least, self.eps = min_lr, eps
        self.best = math.inf if mode == "min" else -math.inf
        self.bad = self.resting = 0

    def step(self, metric: Any) -> None:
        """One step further, with what was measured."""
        value = float(metric)
        if self._better(value):
            self.best, self.bad = value, 0
        else:
            self.bad += 1
        if self.resting:
            self.resting, self.bad = self.resting - 1, 0
        if self.bad > self.patience:
            for n, group in enumerate(self.optimizer.param_groups):
                rate = max(group["lr"] * self.factor, self.least)
                if group["lr"] - rate > self.eps:
                    self.optimizer.set_lr(rate, n)
            self.resting, self.bad = self.cooldown, 0

    def _better(self, value: float) -> bool:
        sign = -1 if self.mode == "min" else 1
        if math.isinf(self.best):
            return value * sign > self.best * sign
        margin = abs(self.best) * self.threshold if self.relative else self.threshold
        return value * sign > self.best * sign + margin

    def get_last_lr(self) -> list[float]:
        """Each group's rate now."""
        return [float(group["lr"]) for group in self.optimizer.param_groups]
