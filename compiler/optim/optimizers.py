"""Optimizers: after ``loss.backward()``, ``step()`` updates the parameters in place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.tensor import Tensor, no_grad, pending, realize_all

__all__ = ["LAMB", "SGD", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "Optimizer", "RMSprop", "clip_grad_norm_",
           "clip_grad_value_"]

Group = dict[str, Any]


class Optimizer:
    """:param params: leaves with ``requires_grad``; or groups of them, dicts with ``params`` and options of their own.

    The options of each group lie in ``param_groups``, as PyTorch has them. A group's learning rate lies in a tensor,
    ``group["lr_tensor"]``, on the device, so that another rate changes no kernel; ``lr`` is the first group's.
    """

    def __init__(self, params: Iterable[Tensor] | Iterable[Mapping[str, Any]], lr: float, **options: Any) -> None:
        given = [dict(g) if isinstance(g, Mapping) else g for g in params]
        groups: list[Group] = [g for g in given if isinstance(g, dict)] if given and isinstance(given[0], dict) \
            else [{"params": given}]
        if not groups or any(not (groups and list(g["params"])) for g in groups):
            raise ValueError("an optimizer needs parameters: none of the tensors given requires_grad")
        self.param_groups: list[Group] = []
        self.params: list[Tensor] = []
        self._group: list[Group] = []       # of each parameter
        self._state: list[dict[str, Tensor]] = []
        self.defaults = {"lr": lr, **options}
        for group in groups:
            self.add_param_group(group)

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """:raises ValueError: what it has are no leaves with ``requires_grad``, or are in another group already."""
        made = {**self.defaults, **group}
        made["params"] = [made["params"]] if isinstance(made["params"], Tensor) else list(made["params"])
        if unknown := sorted(made.keys() - self.defaults.keys() - {"params", "lr_tensor", "initial_lr"}):
            raise ValueError(f"{type(self).__name__} has no option {', '.join(unknown)}; its options are "
                             f"{', '.join(self.defaults)}")
        if any(not p.requires_grad or not p._names for p in made["params"]):
            raise ValueError("parameters are leaves with requires_grad=True")
        if {id(p) for p in made["params"]} & {id(p) for p in self.params}:
            raise ValueError("a parameter is in two groups")
        if made["lr"] < 0:
            raise ValueError(f"a learning rate is not negative: {made['lr']}")
        made["lr_tensor"] = Tensor([made["lr"]], device=made["params"][0].device)
        self.param_groups.append(made)
        self.params += made["params"]
        self._group += [made] * len(made["params"])
        self._state += [{} for _ in made["params"]]

    @property
    def device(self) -> str:
        """Where the first parameter is."""
        return self.params[0].device

    @property
    def lr(self) -> Tensor:
        """The first group's learning rate, in memory of the device."""
        return self.param_groups[0]["lr_tensor"]        # type: ignore[no-any-return]

    def set_lr(self, rate: float, group: int = 0) -> None:
        """Another learning rate, between steps."""
        options = self.param_groups[group]
        options["lr"] = rate
        with no_grad():
            options["lr_tensor"].assign(Tensor([rate], options["lr_tensor"].dtype, options["lr_tensor"].device))
            options["lr_tensor"].realize()

    def _zeros(self, n: int, name: str) -> Tensor:
        """State beside parameter ``n``: zeros at first."""
        if name not in self._state[n]:
            p = self.params[n]
            self._state[n][name] = Tensor.zeros(*p.shape, dtype=p.dtype, device=p.device).contiguous().realize()
        return self._state[n][name]

    def _numbers(self, group: Group, name: str, start: Iterable[float],
                 dtype: dtypes.DType = dtypes.float32) -> Tensor:
        """A group's numbers on the device. What depends on the count of steps lies in memory: in Python it would be a
        new kernel every time."""
        n = next(i for i, g in enumerate(self._group) if g is group)
        if name not in self._state[n]:
            self._state[n][name] = Tensor(list(start), dtype, group["lr_tensor"].device)
        return self._state[n][name]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters."""
        for p in self.params:
            p.grad = None if set_to_none or p.grad is None else p.grad.zeros_like()

    def update(self) -> list[Tensor]:
        """Assign the new values, lazily; all tensors that were assigned to."""
        changed: list[Tensor] = []
        for group in self.param_groups:
            members = [(n, p) for n, (p, g) in enumerate(zip(self.params, self._group, strict=True)) if g is group]
            if any(p.grad is not None for _, p in members):
                self.begin(group, changed)
            for n, p in members:
                if p.grad is not None:
                    gradient = -p.grad if group.get("maximize") else p.grad
                    self.one(n, p, gradient, group, changed)
        return changed

    def begin(self, group: Group, changed: list[Tensor]) -> None:
        """What a group's parameters have in common, once a step."""

    def one(self, n: int, p: Tensor, g: Tensor, group: Group, changed: list[Tensor]) -> None:
        """Assign to parameter ``n`` and its state; add both to ``changed``."""
        raise NotImplementedError

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One update. Gradients stay until :meth:`zero_grad`.

        :param closure: computes the loss and its derivatives; its value is returned.
        """
        loss = closure() if closure is not None else None
        with no_grad():
            changed = self.update()
        realize_all([*changed, *(p.grad for p in self.params if p.grad is not None), *pending()])
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Options and state, as arrays and numbers: to be saved, and loaded into an optimizer of such parameters."""
        return {"groups": [{k: v for k, v in g.items() if k not in ("params", "lr_tensor")}
                           for g in self.param_groups],
                "state": [{k: v.numpy() for k, v in s.items()} for s in self._state]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """:raises ValueError: the state is of another number of groups or parameters, or of other shapes."""
        if len(state["groups"]) != len(self.param_groups) or len(state["state"]) != len(self.params):
            raise ValueError(f"the state is of {len(state['groups'])} groups and {len(state['state'])} parameters, the "
                             f"optimizer has {len(self.param_groups)} and {len(self.params)}")
        for n, (p, values) in enumerate(zip(self.params, state["state"], strict=True)):
            for name, value in values.items():
                if value.ndim > 1 and value.shape != p.shape:
                    raise ValueError(f"state {name} of parameter {n} has shape {value.shape}, the parameter {p.shape}")
        for n, (p, values) in enumerate(zip(self.params, state["state"], strict=True)):
            self._state[n] = {k: Tensor(np.asarray(v), device=p.device) for k, v in values.items()}
        for n, options in enumerate(state["groups"]):
            self.param_groups[n].update(options)
            self.set_lr(options["lr"], n)


class SGD(Optimizer):
    """With momentum: ``v = momentum * v + (1 - dampening) * g``, ``p -= lr * v`` (or ``lr * (g + momentum * v)`` for
    nesterov)."""

    def __init__(self, params: Any, lr: float = 0.001, momentum: float = 0.0, dampening: float = 0.0,
                 weight_decay: float = 0.0, nesterov: bool = False, *, maximize: bool = False) -> None:
        if nesterov and (momentum <= 0 or dampening):
            raise ValueError("Nesterov's momentum needs a momentum, and no dampening")
        super().__init__(params, lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay,
                         nesterov=nesterov, maximize=maximize)
        for n, group in enumerate(self._group):
            if group["momentum"]:
                self._zeros(n, "momentum_buffer")
                if group["dampening"]:
                    self._numbers(group, "damped", [1.0])

    def begin(self, group: Group, changed: list[Tensor]) -> None:
        if group["momentum"] and group["dampening"]:        # the first gradient is taken whole
            damped = self._numbers(group, "damped", [1.0])
            self._share = damped * 1
            changed.append(damped.assign(damped * 0 + (1 - group["dampening"])))

    def one(self, n: int, p: Tensor, g: Tensor, group: Group, changed: list[Tensor]) -> None:
        momentum = group["momentum"]
        g = g + p * group["weight_decay"] if group["weight_decay"] else g
        if momentum:
            v = self._zeros(n, "momentum_buffer")
            changed.append(v.assign(v * momentum + (g * self._share if group["dampening"] else g)))
            g = g + v * momentum if group["nesterov"] else v
        changed.append(p.assign(p - g * group["lr_tensor"]))


class Adam(Optimizer):
    """Kingma & Ba (2015), with bias correction. ``weight_decay`` is added to the gradient (AdamW: to the step).

    :param amsgrad: divide by the greatest second moment so far (Reddi et al., 2018).
    """

    decoupled = False

    def __init__(self, params: Any, lr: float = 0.001, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.0, amsgrad: bool = False, *, maximize: bool = False, **more: Any) -> None:
        super().__init__(params, lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad,
                         maximize=maximize, **more)
        for n, group in enumerate(self._group):
            self._zeros(n, "exp_avg")
            self._zeros(n, "exp_avg_sq")
            self._numbers(group, "correction", [0.0, 0.0])

    def begin(self, group: Group, changed: list[Tensor]) -> None:
        b1, b2 = group["betas"]
        correction = self._numbers(group, "correction", [0.0, 0.0])         # 1 - beta ** steps
        changed.append(correction.assign(Tensor.stack([correction[n] * b + (1 - b) for n, b in enumerate((b1, b2))])))
        self._scale = 1 / correction[0], 1 / correction[1]

    def moments(self, n: int, g: Tensor, group: Group, changed: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Both moments, without bias."""
        b1, b2 = group["betas"]
        m, v = self._zeros(n, "exp_avg"), self._zeros(n, "exp_avg_sq")
        changed.append(m.assign(m * b1 + g * (1 - b1)))
        changed.append(v.assign(v * b2 + g * g * (1 - b2)))
        if group["amsgrad"]:
            most = self._zeros(n, "max_exp_avg_sq")
            changed.append(most.assign(most.maximum(v)))
            v = most
        return m * self._scale[0], v * self._scale[1]

    def one(self, n: int, p: Tensor, g: Tensor, group: Group, changed: list[Tensor]) -> None:
        decay = group["weight_decay"]
        m, v = self.moments(n, g + p * decay if decay and not self.decoupled else g, group, changed)
        step = self.direction(m, g, v, group)
        if self.decoupled and decay:
            step = step + p * decay
        changed.append(p.assign(p - self.scaled(p, step) * group["lr_tensor"]))

    def direction(self, m: Tensor, g: Tensor, v: Tensor, group: Group) -> Tensor:
        """Where a step goes, before the rate: from the means of the gradients and of their squares."""
        return m / (v.sqrt() + group["eps"])

    def scaled(self, p: Tensor, step: Tensor) -> Tensor:
        """The step as it is multiplied with the learning rate."""
        return step


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter, 2019)."""

    decoupled = True

    def __init__(self, params: Any, lr: float = 0.001, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.01, amsgrad: bool = False, *, maximize: bool = False) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)


class LAMB(AdamW):
    """Adam's step, as long as the parameter itself: its norm over the step's (You et al., 2019, algorithm 2)."""

    def __init__(self, params: Any, lr: float = 0.001, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6,
                 weight_decay: float = 0.0) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)

    def scaled(self, p: Tensor, step: Tensor) -> Tensor:
        size, length = (p * p).sum().sqrt(), (step * step).sum().sqrt()
        return step * ((size > 0) & (length > 0)).where(size / length, 1.0)


class NAdam(Adam):
    """Adam with Nesterov's momentum, whose momentum grows over the steps (Dozat, 2016)."""

    def __init__(self, params: Any, lr: float = 0.002, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.0, momentum_decay: float = 0.004, *, maximize: bool = False) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, maximize=maximize, momentum_decay=momentum_decay)
        for group in self.param_groups:
            self._numbers(group, "schedule", [0.0, 1.0])        # steps, product of the momenta

    def begin(self, group: Group, changed: list[Tensor]) -> None:
        super().begin(group, changed)
        schedule = self._numbers(group, "schedule", [0.0, 1.0])
        b1, decay = group["betas"][0], group["momentum_decay"]

        def momentum(step: Tensor) -> Tensor:
            return (1 - 0.5 * Tensor(0.96, device=step.device) ** (step * decay)) * b1
        step = schedule[0] + 1
        now, then = momentum(step), momentum(step + 1)
        product = schedule[1] * now
        changed.append(schedule.assign(Tensor.stack([step, product])))
        self._share = (1 - now) / (1 - product), then / (1 - product * then)

    def one(self, n: int, p: Tensor, g: Tensor, group: Group, changed: list[Tensor]) -> None:
        g = g + p * group["weight_decay"] if group["weight_decay"] else g
        _, v = self.moments(n, g, group, changed)
        step = (g * self._share[0] + self._zeros(n, "exp_avg") * self._share[1]) / (v.sqrt() + group["eps"])
        changed.append(p.assign(p - step * group["lr_tensor"]))


class Adamax(Adam):
    """Adam by the greatest gradient instead of the second moment (Kingma & Ba, 2015, section 7.1)."""

    def __init__(self, params: Any, lr: float = 0.002, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.0, *, maximize: bool = False) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, maximize=maximize)

    def one(self, n: int, p: Tensor, g: Tensor, group: Group, changed: list[Tensor]) -> None:
        b1, b2 = group["betas"]
        g = g + p * group["weight_decay"] if group["weight_decay"] else g
        m, u = self._zeros(n, "exp_avg"), self._zeros(n, "exp_avg_sq")
        changed.append(m.assign(m * b1 + g * (1 - b1)))
        changed.append(u.assign((u * b2).maximum(g.abs() + group["eps"])))
        changed.append(p.assign(p - m * self._scale[0] / u * group["lr_tensor"]))


class RMSprop(Optimizer):
    """Divided by the root of a running mean of squares (Hinton's lecture 6e); ``centered``: of the variance."""

    def __init__(self, params: Any, lr: float = 0.01, alpha: float = 0.99, eps: float = 1e-8,
                 weight_decay: float = 0.0, momentum: float = 0.0, centered: bool = False, *,
                 maximize: bool = False) -> None:
        super().__init__(params, lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum,
                         centered=centered, maximize=maximize)

    def one(self, n: int, p: Tensor, g: Tensor, group: Group, changed: list[Tensor]) -> None:
        alpha = group["alpha"]
        g = g + p * group["weight_decay"] if group["weight_decay"] else g
        v = self._zeros(n, "square_avg")
        changed.append(v.assign(v * alpha + g * g * (1 - alpha)))
        spread = v
        if group["centered"]:
            mean = self._zeros(n, "grad_avg")
            changed.append(mean.assign(mean * alpha + g * (1 - alpha)))
            spread = v - mean * mean
        step = g / (spread.sqrt() + group["eps"])
        if group["momentum"]:
            kept = self._zeros(n, "momentum_buffer")
            changed.append(kept.assign(kept * group["momentum"] + step))
            step = kept
        changed.append(p.assign(p - step * group["lr_tensor"]))


class Adagrad(Optimizer):
    """Divided by the root of the sum of all squares (Duchi et al., 2011)."""

    def __init__(self, params: Any, lr: float = 0.01, lr_decay: float = 0.0, weight_decay: float = 0.0,
                 initial_accumulator_value: float = 0.0, eps: float = 1e-10, *, maximize: bool = False) -> None:
        super().__init__(params, lr, lr_decay=lr_decay, weight_decay=weight_decay, eps=eps,
                         initial_accumulator_value=initial_accumulator_value, maximize=maximize)
        for n, group in enumerate(self._group):
            if start := group["initial_accumulator_value"]:
                p = self.params[n]
                self._state[n]["sum"] = Tensor.full(p.shape, start, dtype=p.dtype, device=p.device).contiguous()
            else:
                self._zeros(n, "sum")

    def begin(self, group: Group, changed: list[Tensor]) -> None:
        self._rate = group["lr_tensor"]
        if group["lr_decay"]:
            steps = self._numbers(group, "steps", [0.0])
            self._rate = group["lr_tensor"] / (1 + steps * group["lr_decay"])
            changed.append(steps.assign(steps + 1))

    def one(self, n: int, p: Tensor, g: Tensor, group: Group, changed: list[Tensor]) -> None:
        g = g + p * group["weight_decay"] if group["weight_decay"] else g
        total = self._zeros(n, "sum")
        changed.append(total.assign(total + g * g))
        changed.append(p.assign(p - g / (total.sqrt() + group["eps"]) * self._rate))


def clip_grad_norm_(parameters: Tensor | Iterable[Tensor], max_norm: float, norm_type: float = 2.0) -> Tensor:
    """Scale all gradients so that their norm together is at most ``max_norm``; the norm before, lazily."""
    with_grad = [p for p in ([parameters] if isinstance(parameters, Tensor) else parameters) if p.grad is not None]
    if not with_grad:
        return Tensor(0.0)
    with no_grad():
        if norm_type == float("inf"):
            total = Tensor.stack([p.grad.abs().max() for p in with_grad]).max()         # type: ignore[union-attr]
        else:
            total = Tensor.stack([p.grad.abs().pow(norm_type).sum() for p in with_grad]).sum() ** (1 / norm_type)  # type: ignore[union-attr]
        share = (max_norm / (total + 1e-6)).clamp(max=1.0)
        for p in with_grad:
            p.grad = p.grad * share         # type: ignore[operator]
    return total


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Each gradient's elements within -clip_value and clip_value."""
    with no_grad():
        for p in [parameters] if isinstance(parameters, Tensor) else parameters:
            if p.grad is not None:
                p.grad = p.grad.clamp(-clip_value, clip_value)
