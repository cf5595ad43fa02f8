"""Optimizers that find the length of each step themselves."""

from __future__ import annotations

from typing import Any

from compiler import dtypes
from compiler.optim.optimizers import Group, Optimizer
from compiler.tensor import Tensor

__all__ = ["ASGD", "Adadelta", "RAdam", "Rprop"]


class Adadelta(Optimizer):
    """Steps as long as the last ones were, by running means of squares of both (Zeiler, 2012)."""

    def __init__(self, params: Any, lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6, weight_decay: float = 0.0, *,
                 maximize: bool = False) -> None:
        super().__init__(params, lr, rho=rho, eps=eps, weight_decay=weight_decay, maximize=maximize)

    def one(self, n: int, p: Tensor, g: Tensor, group: Group, changed: list[Tensor]) -> None:
        rho, eps = group["rho"], group["eps"]
        g = g + p * group["weight_decay"] if group["weight_decay"] else g
        squares, deltas = self._zeros(n, "square_avg"), self._zeros(n, "acc_delta")
        changed.append(squares.assign(squares * rho + g * g * (1 - rho)))
        step = (deltas + eps).sqrt() / (squares + eps).sqrt() * g
        moved = p - step * group["lr_tensor"]
        changed.append(deltas.assign(deltas * rho + step * step * (1 - rho)))
        changed.append(p.assign(moved))


class RAdam(Optimizer):
    """Adam whose first steps go by the mean alone, until there are squares enough to divide by (Liu et al., 2020).

    :param decoupled_weight_decay: as in AdamW; otherwise it is added to the gradient.
    """

    def __init__(self, params: Any, lr: float = 0.001, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.0, decoupled_weight_decay: bool = False, *, maximize: bool = False) -> None:
        super().__init__(params, lr, betas=betas, eps=eps, weight_decay=weight_decay,
                         decoupled_weight_decay=decoupled_weight_decay, maximize=maximize)

    def begin(self, group: Group, changed: list[Tensor]) -> None:
        b1, b2 = group["betas"]
        powers = self._numbers(group, "powers", [0.0, 1.0, 1.0], dtypes.float64)    # steps, beta1, beta2 ** steps
        step, first, second = powers[0] + 1, powers[1] * b1, powers[2] * b2
        most = 2 / (1 - b2) - 1
        length = most - step * second * 2 / (1 - second)                # of the mean of squares, in steps; cancels
        enough = (length > 5).where(length, 6.0)                        # no root of what is below 4
        share = ((enough - 4) * (enough - 2) * most / ((most - 4) * (most - 2) * enough)).sqrt()
        self._by_squares, self._share = length > 5, (share * (1 - second).sqrt()).cast(dtypes.float32)
        self._scale = (1 / (1 - first)).cast(dtypes.float32)
        changed.append(powers.assign(Tensor.stack([step, first, second])))

    def one(self, n: int, p: Tensor, g: Tensor, group: Group, changed: list[Tensor]) -> None:
        b1, b2 = group["betas"]
        rate, decay = group["lr_tensor"], group["weight_decay"]
        kept = p * (1 - rate * decay) if decay and group["decoupled_weight_decay"] else p
        g = g + p * decay if decay and not group["decoupled_weight_decay"] else g
        m, v = self._zeros(n, "exp_avg"), self._zeros(n, "exp_avg_sq")
        changed.append(m.assign(m * b1 + g * (1 - b1)))
        changed.append(v.assign(v * b2 + g * g * (1 - b2)))
        mean = m * self._scale
        step = self._by_squares.where(mean * self._share / (v.sqrt() + group["eps"]), mean)
        changed.append(p.assign(kept - step * rate))


class Rprop(Optimizer):
    """By the gradient's sign alone: longer steps while it stays, shorter ones when it turns (Riedmiller & Braun, 1993).

    :param etas: what shortens and what lengthens. :param step_sizes: the shortest and the longest step.
    """

    def __init__(self, params: Any, lr: float = 0.01, etas: tuple[float, float] = (0.5, 1.2),
                 step_sizes: tuple[float, float] = (1e-6, 50.0), *, maximize: bool = False) -> None:
        super().__init__(params, lr, etas=etas, step_sizes=step_sizes, maximize=maximize)
        for n, group in enumerate(self._group):
            p = self.params[n]
            self._state[n]["step_size"] = Tensor.full(p.shape, group["lr"], dtype=p.dtype, device=p.device).contiguous()

    def one(self, n: int, p: Tensor, g: Tensor, group: Group, changed: list[Tensor]) -> None:
        shorter, longer = group["etas"]
        before, size = self._zeros(n, "prev"), self._state[n]["step_size"]
        same = (g * before).sign()
        length = (size * (same > 0).where(longer, (same < 0).where(shorter, 1.0))).clamp(*group["step_sizes"])
        g = (same < 0).where(0.0, g)                                    # one step without, after a turn
        moved = p - g.sign() * length
        changed += [size.assign(length), before.assign(g), p.assign(moved)]


class ASGD(Optimizer):
    """Plain steps, and the mean of where they led in the state ``ax`` (Polyak & Juditsky, 1992).

    :param t0: the step at which the mean begins.
    """

    def __init__(self, params: Any, lr: float = 0.01, lambd: float = 1e-4, alpha: float = 0.75, t0: float = 1e6,
                 weight_decay: float = 0.0, *, maximize: bool = False) -> None:
        super().__init__(params, lr, lambd=lambd, alpha=alpha, t0=t0, weight_decay=weight_decay, maximize=maximize)

    def begin(self, group: Group, changed: list[Tensor]) -> None:
        numbers = self._numbers(group, "schedule", [0.0, group["lr"], 1.0])         # steps, eta, mu
        self._eta, self._mu = numbers[1] * 1, numbers[2] * 1
        step, rate = numbers[0] + 1, group["lr_tensor"][0]
        eta = rate / (1 + rate * step * group["lambd"]) ** group["alpha"]
        changed.append(numbers.assign(Tensor.stack([step, eta, 1 / (step - group["t0"]).maximum(1.0)])))

    def one(self, n: int, p: Tensor, g: Tensor, group: Group, changed: list[Tensor]) -> None:
        g = g + p * group["weight_decay"] if group["weight_decay"] else g
        mean = self._zeros(n, "ax")
        moved = p * (1 - self._eta * group["lambd"]) - g * self._eta
        changed += [mean.assign(mean + (moved - mean) * self._mu), p.assign(moved)]
