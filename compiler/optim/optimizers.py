"""Optimizers: after ``loss.backward()``, ``step()`` updates the parameters in place."""

from __future__ import annotations

from collections.abc import Iterable

from compiler import dtypes
from compiler.tensor import Tensor, no_grad, realize_all

__all__ = ["Adam", "AdamW", "LAMB", "Optimizer", "SGD"]


class Optimizer:
    """:param params: leaves with ``requires_grad``; each has its state beside it on its device.

    The learning rate lies in a tensor, ``lr``, so that assigning to it changes no kernel.
    """

    def __init__(self, params: Iterable[Tensor], lr: float) -> None:
        self.params = list(params)
        if not self.params:
            raise ValueError("an optimizer needs parameters: none of the tensors given requires_grad")
        if any(not p.requires_grad or not p._names for p in self.params):
            raise ValueError("parameters are leaves with requires_grad=True")
        if lr < 0:
            raise ValueError(f"a learning rate is not negative: {lr}")
        self.device = self.params[0].device
        self.lr = Tensor([lr], device=self.device)

    def _state(self) -> list[Tensor]:
        """A tensor of zeros beside each parameter."""
        return [Tensor.zeros(*p.shape, dtype=p.dtype, device=p.device).contiguous().realize() for p in self.params]

    def zero_grad(self) -> None:
        for p in self.params:
            p.grad = None

    def update(self) -> list[Tensor]:
        """Assign the new values, lazily; all tensors that were assigned to."""
        raise NotImplementedError

    def step(self) -> None:
        """One update. Gradients stay until :meth:`zero_grad`."""
        with no_grad():
            changed = self.update()
        realize_all([*changed, *(p.grad for p in self.params if p.grad is not None)])


class SGD(Optimizer):
    """With momentum: ``v = momentum * v + g``, ``p -= lr * v`` (or ``lr * (g + momentum * v)`` for nesterov)."""

    def __init__(self, params: Iterable[Tensor], lr: float = 0.01, momentum: float = 0.0, weight_decay: float = 0.0,
                 nesterov: bool = False) -> None:
        super().__init__(params, lr)
        self.momentum, self.weight_decay, self.nesterov = momentum, weight_decay, nesterov
        self.velocity = self._state() if momentum else []

    def update(self) -> list[Tensor]:
        changed = []
        for i, p in enumerate(self.params):
            if p.grad is None:
                continue
            g = p.grad + p * self.weight_decay if self.weight_decay else p.grad
            if self.momentum:
                v = self.velocity[i]
                changed.append(v.assign(v * self.momentum + g))
                g = g + v * self.momentum if self.nesterov else v
            changed.append(p.assign(p - g * self.lr))
        return changed


class Adam(Optimizer):
    """Kingma & Ba (2015), with bias correction. ``weight_decay`` is added to the gradient (AdamW: to the step)."""

    decoupled = False

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr)
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        self.m, self.v = self._state(), self._state()
        # 1 - beta ** steps, kept in memory: a step count in Python would be a new kernel every time
        self.correction = Tensor([0.0, 0.0], dtypes.float32, self.device)
        self._beta = Tensor(list(betas), dtypes.float32, self.device)
        self._rest = Tensor([1 - b for b in betas], dtypes.float32, self.device)

    def update(self) -> list[Tensor]:
        b1, b2 = self.betas
        changed = [self.correction.assign(self.correction * self._beta + self._rest)]
        scale1, scale2 = 1 / self.correction[0], 1 / self.correction[1]
        for p, m, v in zip(self.params, self.m, self.v, strict=True):
            if p.grad is None:
                continue
            g = p.grad + p * self.weight_decay if self.weight_decay and not self.decoupled else p.grad
            changed.append(m.assign(m * b1 + g * (1 - b1)))
            changed.append(v.assign(v * b2 + g * g * (1 - b2)))
            step = (m * scale1) / ((v * scale2).sqrt() + self.eps)
            if self.decoupled and self.weight_decay:
                step = step + p * self.weight_decay
            changed.append(p.assign(p - self.scaled(p, step) * self.lr))
        return changed

    def scaled(self, p: Tensor, step: Tensor) -> Tensor:
        """The step as it is multiplied with the learning rate."""
        return step


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter, 2019)."""

    decoupled = True

    def __init__(self, params: Iterable[Tensor], lr: float = 0.001, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0.01) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)


class LAMB(AdamW):
    """Adam's step, as long as the parameter itself: its norm over the step's (You et al., 2019, algorithm 2)."""

    def __init__(self, params: Iterable[Tensor], lr: float = 0.001, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-6, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)

    def scaled(self, p: Tensor, step: Tensor) -> Tensor:
        size, length = (p * p).sum().sqrt(), (step * step).sum().sqrt()
        return step * ((size > 0) & (length > 0)).where(size / length, 1.0)
