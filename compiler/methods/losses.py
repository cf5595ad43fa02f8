"""Losses, with PyTorch's arguments. ``reduction`` is "mean", "sum" or "none"."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from compiler import dtypes
from compiler.methods.base import Methods

if TYPE_CHECKING:
    from compiler.tensor import Tensor

__all__ = ["Losses"]


def _reduced(loss: Any, reduction: str) -> Any:
    if reduction == "mean":
        return loss.mean()
    if reduction == "sum":
        return loss.sum()
    if reduction != "none":
        raise ValueError(f"reduction is 'mean', 'sum' or 'none', not {reduction!r}")
    return loss


class Losses(Methods):
    """Mixin; see :class:`compiler.tensor.Tensor`."""

    __slots__ = ()

    def nll_loss(self, target: Tensor, weight: Any = None, ignore_index: int = -100, reduction: str = "mean") -> Tensor:
        """Of log-probabilities (batch, classes, ...) and class numbers (batch, ...)."""
        if isinstance(weight, str):
            weight, reduction = None, weight
        if self.ndim == 1 and not target.ndim:
            loss = self.unsqueeze(0).nll_loss(target.unsqueeze(0), weight, ignore_index, reduction)
            return loss.squeeze(0) if reduction == "none" else loss  # type: ignore[no-any-return]
        if self.ndim < 2 or target.shape != (self.shape[0], *self.shape[2:]):
            raise ValueError(f"targets of shape {target.shape} for values of shape {self.shape}: "
                             "they need (batch, ...) for (batch, classes, ...)")
        if target.dtype.is_float:
            raise TypeError(f"targets are class numbers; {target.dtype.name} is no integer type")
        counts = target.ne(ignore_index)
        safe = counts.where(target, 0)
        share = counts.cast(self.dtype) if weight is None else counts.where(weight[safe], 0)
        loss = counts.where(-self.gather(1, safe.unsqueeze(1)).squeeze(1), 0) * share
        if reduction == "mean":
            return loss.sum() / share.sum()  # type: ignore[no-any-return]
        return _reduced(loss, reduction)  # type: ignore[no-any-return]

    def cross_entropy(self, target: Tensor, weight: Any = None, ignore_index: int = -100, reduction: str = "mean",
                      label_smoothing: float = 0.0) -> Tensor:
        """Of logits (batch, classes, ...) and class numbers (batch, ...), or probabilities of the logits' shape."""
        if isinstance(weight, str):
            weight, reduction = None, weight
        axis = 0 if self.ndim == 1 and (not target.ndim or target.dtype.is_float) else 1
        log_p: Any = self.log_softmax(axis)
        n = self.shape[self._axis(axis)]
        by_class = None if weight is None else weight.reshape([-1 if i == axis else 1 for i in range(self.ndim)])
        if target.dtype.is_float:
            if target.shape != self.shape:
                raise ValueError(f"probabilities of shape {target.shape} for logits of shape {self.shape}")
            p: Any = target * (1 - label_smoothing) + label_smoothing / n if label_smoothing else target
            terms = log_p * p if by_class is None else log_p * p * by_class
            loss = -terms.sum(axis)
            if reduction == "mean":
                return loss.sum() / (self.numel() // n)  # type: ignore[no-any-return]
            return _reduced(loss, reduction)  # type: ignore[no-any-return]
        loss = log_p.nll_loss(target, weight, ignore_index, reduction)
        if not label_smoothing:
            return loss  # type: ignore[no-any-return]
        counts = target.ne(ignore_index)
        smooth = counts.where(-(log_p if by_class is None else log_p * by_class).sum(axis), 0)
        if reduction == "mean":
            share = counts.cast(self.dtype) if weight is None else counts.where(weight[counts.where(target, 0)], 0)
            smooth = smooth.sum() / share.sum()
        else:
            smooth = _reduced(smooth, reduction)
        return loss * (1 - label_smoothing) + smooth * (label_smoothing / n)  # type: ignore[no-any-return]

    def mse_loss(self, target: Any, reduction: str = "mean") -> Tensor:
        """Squared differences. ``reduction``: "mean", "sum" or "none"."""
        away = self - target
        return _reduced(away * away, reduction)  # type: ignore[no-any-return]

    def l1_loss(self, target: Any, reduction: str = "mean") -> Tensor:
        """Absolute differences. ``reduction``: "mean", "sum" or "none"."""
        return _reduced((self - target).abs(), reduction)  # type: ignore[no-any-return]

    def smooth_l1_loss(self, target: Any, reduction: str = "mean", beta: float = 1.0) -> Tensor:
        """Quadratic within ``beta``, with slope 1 beyond."""
        if beta == 0:
            return self.l1_loss(target, reduction)
        away = (self - target).abs()
        return _reduced((away < beta).where(away * away * (0.5 / beta), away - 0.5 * beta), reduction)  # type: ignore[no-any-return]

    def huber_loss(self, target: Any, reduction: str = "mean", delta: float = 1.0) -> Tensor:
        """Quadratic within ``delta``, with slope delta beyond."""
        away = (self - target).abs()
        return _reduced((away < delta).where(away * away * 0.5, (away - 0.5 * delta) * delta), reduction)  # type: ignore[no-any-return]

    def binary_cross_entropy(self, target: Any, weight: Any = None, reduction: str = "mean") -> Tensor:
        """Of probabilities; logarithms are cut off at -100, as PyTorch's."""
        if isinstance(weight, str):
            weight, reduction = None, weight
        loss = -(target * self.log().clamp(min=-100.0) + (1 - target) * (1 - self).log().clamp(min=-100.0))
        return _reduced(loss if weight is None else loss * weight, reduction)  # type: ignore[no-any-return]

    def binary_cross_entropy_with_logits(self, target: Any, weight: Any = None, reduction: str = "mean",
                                         pos_weight: Any = None) -> Tensor:
        """-(p t log s + (1 - t) log(1 - s)) with s = sigmoid(self), without overflow; ``pos_weight`` is p."""
        if isinstance(weight, str):
            weight, reduction = None, weight
        x: Any = self
        if pos_weight is None:
            loss = x.softplus(threshold=math.inf) - x * target
        else:
            loss = (1 - target) * x + (1 + (pos_weight - 1) * target) * (-x).softplus(threshold=math.inf)
        return _reduced(loss if weight is None else loss * weight, reduction)  # type: ignore[no-any-return]

    def kl_div(self, target: Any, reduction: str = "mean", log_target: bool = False) -> Tensor:
        """Of log-probabilities; "batchmean" divides by the first axis alone."""
        loss = target.exp() * (target - self) if log_target else target.xlogy(target) - target * self
        if reduction == "batchmean":
            return loss.sum() / self.shape[0]  # type: ignore[no-any-return]
        return _reduced(loss, reduction)  # type: ignore[no-any-return]

    def poisson_nll_loss(self, target: Any, log_input: bool = True, full: bool = False, eps: float = 1e-8,
                         reduction: str = "mean") -> Tensor:
        """exp(self) - target * self; self - target * log(self + eps) without ``log_input``. ``full`` adds Stirling's
        term."""
        x: Any = self
        loss = x.exp() - target * x if log_input else x - target * (x + eps).log()
        if full:
            stirling = target * target.log() - target + 0.5 * (2 * math.pi * target).log()
            loss = loss + (target > 1).where(stirling, 0)
        return _reduced(loss, reduction)  # type: ignore[no-any-return]

    def gaussian_nll_loss(self, target: Any, var: Any, full: bool = False, eps: float = 1e-6,
                          reduction: str = "mean") -> Tensor:
        """((self - target)**2 / var + log var) / 2, with ``var`` at least ``eps``; ``full`` adds the constant."""
        spread = var + (var.clamp(min=eps) - var).detach()
        away = self - target
        loss = (spread.log() + away * away / spread) * 0.5
        return _reduced(loss + 0.5 * math.log(2 * math.pi) if full else loss, reduction)  # type: ignore[no-any-return]

    def hinge_embedding_loss(self, target: Any, margin: float = 1.0, reduction: str = "mean") -> Tensor:
        """self where ``target`` is 1, max(0, margin - self) where it is -1."""
        return _reduced(target.eq(1).where(self, 0) + target.eq(-1).where((margin - self).clamp(min=0), 0), reduction)  # type: ignore[no-any-return]

    def soft_margin_loss(self, target: Any, reduction: str = "mean") -> Tensor:
        """log(1 + exp(-target * self))"""
        return _reduced((-target * self).softplus(threshold=math.inf), reduction)  # type: ignore[no-any-return]

    def margin_ranking_loss(self, other: Any, target: Any, margin: float = 0.0, reduction: str = "mean") -> Tensor:
        """max(0, -target * (self - other) + margin)"""
        return _reduced((-target * (self - other) + margin).clamp(min=0), reduction)  # type: ignore[no-any-return]

    def cosine_embedding_loss(self, other: Any, target: Any, margin: float = 0.0, reduction: str = "mean") -> Tensor:
        """1 - cos where ``target`` is 1, max(0, cos - margin) where it is -1."""
        x: Any = self
        eps = 1e-12     # PyTorch's, added to the squares
        like = (x * other).sum(-1) / (((x * x).sum(-1) + eps) * ((other * other).sum(-1) + eps)).sqrt()
        return _reduced(target.eq(1).where(1 - like, (like - margin).clamp(min=0)), reduction)  # type: ignore[no-any-return]

    def triplet_margin_loss(self, positive: Any, negative: Any, margin: float = 1.0, p: float = 2.0,
                            eps: float = 1e-6, swap: bool = False, reduction: str = "mean") -> Tensor:
        """max(0, distance to ``positive`` - distance to ``negative`` + margin); ``swap``: the negative's
        distance to ``positive`` counts where it is less."""
        near, far = self.pairwise_distance(positive, p, eps), self.pairwise_distance(negative, p, eps)
        if swap:
            far = far.minimum(positive.pairwise_distance(negative, p, eps))
        return _reduced((near - far + margin).clamp(min=0), reduction)  # type: ignore[no-any-return]

    def multilabel_soft_margin_loss(self, target: Any, weight: Any = None, reduction: str = "mean") -> Tensor:
        """Binary cross entropy of each class's logit, their mean: [batch, classes], targets 0 or 1."""
        loss = self.binary_cross_entropy_with_logits(target, weight, "none")
        return _reduced(loss.mean(-1), reduction)  # type: ignore[no-any-return]

    def multi_margin_loss(self, target: Any, p: int = 1, margin: float = 1.0, weight: Any = None,
                          reduction: str = "mean") -> Tensor:
        """max(0, margin - x[target] + x[class])**p, summed over the other classes, over the number of all."""
        x: Any = self if self.ndim > 1 else self.unsqueeze(0)
        classes = target.reshape(-1)
        right = x.gather(1, classes.unsqueeze(1))
        loss = (x - right + margin).clamp(min=0) ** p
        loss = loss if weight is None else loss * weight[classes].unsqueeze(1)
        loss = classes.one_hot(x.shape[1]).cast(dtypes.bool_).where(0, loss).sum(1) / x.shape[1]
        return _reduced(loss if self.ndim > 1 else loss.squeeze(0), reduction)  # type: ignore[no-any-return]
