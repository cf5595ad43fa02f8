"""Activations. As in :mod:`compiler.methods.functions`, half types are computed in float32 and rounded once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from compiler.methods import special
from compiler.methods.base import Methods
from compiler.methods.functions import precisely
from compiler.methods.names import numpy_names

if TYPE_CHECKING:
    from compiler.tensor import Tensor

__all__ = ["Activations"]


class Activations(Methods):
    """Mixin; see :class:`compiler.tensor.Tensor`."""

    __slots__ = ()

    def relu(self) -> Tensor:
        """max(x, 0); no gradient at 0, NaN stays."""
        return (self <= 0).where(0, self) if self.dtype.is_float else self.maximum(0)

    def relu6(self) -> Tensor:
        """x, held between 0 and 6."""
        return self.hardtanh(0, 6)

    def leaky_relu(self, negative_slope: float = 0.01) -> Tensor:
        """x above 0, negative_slope * x below."""
        return (self > 0).where(self, self * negative_slope)

    def prelu(self, weight: Any) -> Tensor:
        """``weight`` has one element, or one for each channel (axis 1)."""
        w: Any = self._operand(weight, self.dtype)
        if w.numel() not in (1, self.shape[1] if self.ndim > 1 else 1) and w.ndim < 2:
            raise ValueError(f"prelu: {w.numel()} weights for a tensor of shape {self.shape}; one, or one a channel")
        if w.ndim == 1 and w.numel() > 1 and self.ndim > 1:
            w = w.reshape(1, -1, *[1] * (self.ndim - 2))
        return (self > 0).where(self, self * w)

    @precisely
    def elu(self, alpha: float = 1.0) -> Tensor:
        """x above 0, alpha * (exp(x) - 1) below."""
        positive = self > 0
        return positive.where(self, special.expm1(positive.where(0, self)) * alpha)

    @precisely
    def selu(self) -> Tensor:
        """With the constants of Klambauer et al., "Self-Normalizing Neural Networks" (2017)."""
        alpha, gamma = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
        return self.elu(alpha) * gamma

    @precisely
    def celu(self, alpha: float = 1.0) -> Tensor:
        """x above 0, alpha * (exp(x / alpha) - 1) below."""
        positive = self > 0
        return positive.where(self, special.expm1(positive.where(0, self) / alpha) * alpha)

    @precisely
    def sigmoid(self) -> Tensor:
        """1 / (1 + exp(-x)) without overflow."""
        return special.sigmoid(self)

    @precisely
    def logsigmoid(self) -> Tensor:
        """log(sigmoid(x)) without underflow."""
        return -((-self).softplus())

    @precisely
    def softplus(self, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
        """log(1 + exp(beta*x)) / beta; x itself where beta*x is beyond ``threshold``."""
        x = self * beta
        return (x > threshold).where(self, special.softplus(x) / beta)

    @precisely
    def silu(self) -> Tensor:
        """x * sigmoid(x). ``swish`` is another name of it."""
        return self * self.sigmoid()

    swish = silu

    @precisely
    def mish(self) -> Tensor:
        """x * tanh(softplus(x))"""
        return self * self.softplus().tanh()

    @precisely
    def gelu(self, approximate: str = "none") -> Tensor:
        """``x * Phi(x)``; ``approximate="tanh"`` for the usual approximation."""
        if approximate == "tanh":
            inner = (self + self * self * self * 0.044715) * math.sqrt(2 / math.pi)
            return self * 0.5 * (inner.tanh() + 1)
        if approximate != "none":
            raise ValueError(f"gelu: approximate is 'none' or 'tanh', not {approximate!r}")
        return self * 0.5 * ((self * math.sqrt(0.5)).erf() + 1)

    @precisely
    def quick_gelu(self) -> Tensor:
        """x * sigmoid(1.702 x)"""
        return self * (self * 1.702).sigmoid()

    def hardtanh(self, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
        """x, held between ``min_val`` and ``max_val``; no gradient at the ends."""
        if min_val > max_val:
            raise ValueError(f"hardtanh: held between {min_val} and {max_val}: the first must not be greater")
        if self.dtype.is_int:       # as PyTorch has it
            min_val, max_val = int(min_val), int(max_val)
        x = (self <= min_val).where(min_val, self)
        return (self >= max_val).where(max_val, x)

    def hardsigmoid(self) -> Tensor:
        """Piecewise linear: 0 up to -3, 1 from 3 on."""
        return (self / 6 + 0.5).hardtanh(0.0, 1.0)

    def hardswish(self) -> Tensor:
        """x * relu6(x + 3) / 6"""
        return self * (self + 3).relu6() / 6

    def hardshrink(self, lambd: float = 0.5) -> Tensor:
        """0 from -lambd to lambd, x elsewhere."""
        return ((self >= -lambd) & (self <= lambd)).where(0, self)

    def softshrink(self, lambd: float = 0.5) -> Tensor:
        """x - lambd above lambd, x + lambd below -lambd, 0 between."""
        if lambd < 0:
            raise ValueError(f"softshrink: lambd is not negative: {lambd}")
        return (self > lambd).where(self - lambd, (self < -lambd).where(self + lambd, self * 0))

    def tanhshrink(self) -> Tensor:
        """x - tanh(x)"""
        return self - self.tanh()

    def softsign(self) -> Tensor:
        """x / (1 + abs(x))"""
        return self / (self.abs() + 1)

    def threshold(self, threshold: float, value: float) -> Tensor:
        """x above ``threshold``, else ``value``."""
        return (self <= threshold).where(value, self)

    @numpy_names
    def glu(self, dim: int = -1) -> Tensor:
        """The first half of an axis, times the sigmoid of the second."""
        a = self._axis(dim)
        if self.shape[a] % 2:
            raise ValueError(f"glu halves axis {a}, of {self.shape[a]} elements: it must be even")
        first, second = self.split(self.shape[a] // 2, a)
        return first * second.sigmoid()  # type: ignore[no-any-return]

    @numpy_names
    @precisely
    def softmax(self, dim: int = -1, dtype: Any = None) -> Tensor:
        """exp(x) / sum(exp(x)) along ``dim``, the greatest subtracted first."""
        x: Any = self if dtype is None else self.cast(dtype)
        if not x.numel():
            return x.clone()  # type: ignore[no-any-return]
        e = (x - x.amax(dim, True).detach()).exp()
        return e / e.sum(dim, True)

    @numpy_names
    @precisely
    def log_softmax(self, dim: int = -1, dtype: Any = None) -> Tensor:
        """x - logsumexp(x) along ``dim``"""
        x: Any = self if dtype is None else self.cast(dtype)
        if not x.numel():
            return x.clone()  # type: ignore[no-any-return]
        away = x - x.amax(dim, True).detach()
        return away - away.exp().sum(dim, True).log()

    @numpy_names
    def softmin(self, dim: int = -1, dtype: Any = None) -> Tensor:
        """softmax(-x)"""
        return (-(self if dtype is None else self.cast(dtype))).softmax(dim)

    @numpy_names
    def gumbel_softmax(self, tau: float = 1.0, hard: bool = False, dim: int = -1) -> Tensor:
        """A sample of the relaxed categorical distribution; ``hard``: one-hot, with the soft one's gradient."""
        from compiler.tensor import Tensor
        noise = -(-(Tensor.rand(*self.shape, device=self.device).clamp(min=2.0 ** -25)).log()).log()
        soft = ((self + noise.cast(self.dtype)) / tau).softmax(dim)
        if not hard:
            return soft
        index = soft.argmax(dim)
        one = index.one_hot(self.shape[self._axis(dim)]).cast(self.dtype).transpose(-1, self._axis(dim))
        return (one - soft).detach() + soft
