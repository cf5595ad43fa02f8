"""Losses, with PyTorch's arguments. ``reduction`` is "mean", "sum" or "none"."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler import dtypes, graph
from compiler.methods.base import Methods

if TYPE_CHECKING:
    from compiler.tensor import Tensor

__all__ = ["Losses", "reduced"]


def reduced(loss: Any, reduction: str) -> Any:
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
        return reduced(loss, reduction)  # type: ignore[no-any-return]

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
            return reduced(loss, reduction)  # type: ignore[no-any-return]
        loss = log_p.nll_loss(target, weight, ignore_index, reduction)
        if not label_smoothing:
            return loss  # type: ignore[no-any-return]
        counts = target.ne(ignore_index)
        smooth = counts.where(-(log_p if by_class is None else log_p * by_class).sum(axis), 0)
        if reduction == "mean":
            share = counts.cast(self.dtype) if weight is None else counts.where(weight[counts.where(target, 0)], 0)
            smooth = smooth.sum() / share.sum()
        else:
            smooth = reduced(smooth, reduction)
        return loss * (1 - label_smoothing) + smooth * (label_smoothing / n)  # type: ignore[no-any-return]

    def mse_loss(self, target: Any, reduction: str = "mean") -> Tensor:
        """Squared differences. ``reduction``: "mean", "sum" or "none"."""
        away = self - target
        return reduced(away * away, reduction)  # type: ignore[no-any-return]

    def l1_loss(self, target: Any, reduction: str = "mean") -> Tensor:
        """Absolute differences. ``reduction``: "mean", "sum" or "none"."""
        return reduced((self - target).abs(), reduction)  # type: ignore[no-any-return]

    def smooth_l1_loss(self, target: Any, reduction: str = "mean", beta: float = 1.0) -> Tensor:
        """Quadratic within ``beta``, with slope 1 beyond."""
        if beta == 0:
            return self.l1_loss(target, reduction)
        away = (self - target).abs()
        return reduced((away < beta).where(away * away * (0.5 / beta), away - 0.5 * beta), reduction)  # type: ignore[no-any-return]

    def huber_loss(self, target: Any, reduction: str = "mean", delta: float = 1.0) -> Tensor:
        """Quadratic within ``delta``, with slope delta beyond."""
        if delta <= 0:
            raise ValueError(f"huber_loss: delta is greater than 0, not {delta}")
        away = (self - target).abs()
        return reduced((away < delta).where(away * away * 0.5, (away - 0.5 * delta) * delta), reduction)  # type: ignore[no-any-return]

    def binary_cross_entropy(self, target: Any, weight: Any = None, reduction: str = "mean") -> Tensor:
        """Of probabilities; logarithms are cut off at -100, as PyTorch's."""
        if isinstance(weight, str):
            weight, reduction = None, weight
        loss = -(target * self.log().clamp(min=-100.0) + (1 - target) * (1 - self).log().clamp(min=-100.0))
        return reduced(loss if weight is None else loss * weight, reduction)  # type: ignore[no-any-return]

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
        return reduced(loss if weight is None else loss * weight, reduction)  # type: ignore[no-any-return]

    def kl_div(self, target: Any, reduction: str = "mean", log_target: bool = False) -> Tensor:
        """Of log-probabilities; "batchmean" divides by the first axis alone."""
        loss = target.exp() * (target - self) if log_target else target.xlogy(target) - target * self
        if reduction == "batchmean":
            return loss.sum() / self.shape[0]  # type: ignore[no-any-return]
        return reduced(loss, reduction)  # type: ignore[no-any-return]

    def multilabel_margin_loss(self, target: Any, reduction: str = "mean") -> Tensor:
        """Of (batch, classes) and class numbers in rows that end with -1: each class named above each that is not."""
        x, t = (self, target) if self.ndim == 2 else (self.reshape(1, -1), target.reshape(1, -1))
        valid = (t < 0).cast(dtypes.int32).cumsum(1).eq(0)
        hit = (t.unsqueeze(-1).eq(x._new(graph.iota(x.shape[1], t.dtype))) & valid.unsqueeze(-1)).any(1)
        terms = (1 - x.gather(1, t.clamp(min=0)).unsqueeze(2) + x.unsqueeze(1)).relu()
        kept = valid.unsqueeze(2) & ~hit.unsqueeze(1)
        loss = kept.where(terms, 0).sum((1, 2)) / x.shape[1]
        return reduced(loss if self.ndim == 2 else loss.squeeze(0), reduction)  # type: ignore[no-any-return]

    def ctc_loss(self, targets: Any, input_lengths: Any, target_lengths: Any, blank: int = 0, reduction: str = "mean",
                 zero_infinity: bool = False) -> Tensor:
        """Connectionist temporal classification (Graves et al., 2006): of log-probabilities (time, batch, classes) and
        class numbers (batch, length), or all in a row. Lengths may be tensors, arrays or lists."""
        if self.ndim == 2:
            return self.unsqueeze(1).ctc_loss(targets.reshape(1, -1), [input_lengths], [target_lengths], blank,  # type: ignore[no-any-return]
                                              reduction, zero_infinity)
        steps, batch, _ = self.shape
        times, counts = (np.asarray(v.numpy() if hasattr(v, "numpy") else v).reshape(batch).astype(np.int32)
                         for v in (input_lengths, target_lengths))
        names = targets.numpy().astype(np.int32)
        if names.ndim == 1:
            rows = np.split(names, np.cumsum(counts)[:-1])
            names = np.stack([np.pad(r, (0, int(counts.max()) - len(r))) for r in rows])
        wide = np.full((batch, 2 * names.shape[1] + 1), blank, np.int32)        # a blank around each
        wide[:, 1::2] = names
        skips = np.zeros(wide.shape, bool)
        skips[:, 2:] = (wide[:, 2:] != blank) & (wide[:, 2:] != wide[:, :-2])
        make = lambda a: type(self)(a, device=self.device)      # type: ignore[call-arg]
        states, skip = make(wide), make(skips)
        starts = make(np.arange(wide.shape[1]) < 2)
        emitted: Any = self.gather(2, states.unsqueeze(0).expand(steps, *wide.shape)).contiguous()
        never = -1e30       # its exponential is 0, and differences of such numbers are numbers
        alpha = starts.where(emitted[0], never)
        long = make(times).unsqueeze(1)
        for step in range(1, steps):
            one = alpha.pad((1, 0), value=never)[:, :-1]
            two = skip.where(alpha.pad((2, 0), value=never)[:, :-2], never)
            after = type(self).stack([alpha, one, two]).logsumexp(0) + emitted[step]        # type: ignore[attr-defined]
            alpha = (long > step).where(after.maximum(never), alpha).contiguous()
        last = make(np.stack([2 * counts, np.maximum(2 * counts - 1, 0)], 1))
        ends = make(np.stack([counts >= 0, counts > 0], 1)).where(alpha.gather(1, last), never)
        loss = -ends.logsumexp(1)
        impossible = loss > -never / 2
        loss = impossible.where(0.0 if zero_infinity else math.inf, loss)
        if reduction == "mean":
            return (loss / make(np.maximum(counts, 1).astype(np.float32))).mean()  # type: ignore[no-any-return]
        return reduced(loss, reduction)  # type: ignore[no-any-return]

    def poisson_nll_loss(self, target: Any, log_input: bool = True, full: bool = False, eps: float = 1e-8,
                         reduction: str = "mean") -> Tensor:
        """exp(self) - target * self; self - target * log(self + eps) without ``log_input``. ``full`` adds Stirling's
        term."""
        x: Any = self
        loss = x.exp() - target * x if log_input else x - target * (x + eps).log()
        if full:
            stirling = target * target.log() - target + 0.5 * (2 * math.pi * target).log()
            loss = loss + (target > 1).where(stirling, 0)
        return reduced(loss, reduction)  # type: ignore[no-any-return]

    def gaussian_nll_loss(self, target: Any, var: Any, full: bool = False, eps: float = 1e-6,
                          reduction: str = "mean") -> Tensor:
        """((self - target)**2 / var + log var) / 2, with ``var`` at least ``eps``; ``full`` adds the constant."""
        if not isinstance(var, int | float) and var.shape == self.shape[:-1] and var.shape != self.shape:
            var = var.unsqueeze(-1)
        spread = var + (var.clamp(min=eps) - var).detach()
        away = self - target
        loss = (spread.log() + away * away / spread) * 0.5
        return reduced(loss + 0.5 * math.log(2 * math.pi) if full else loss, reduction)  # type: ignore[no-any-return]

    def hinge_embedding_loss(self, target: Any, margin: float = 1.0, reduction: str = "mean") -> Tensor:
        """self where ``target`` is 1, max(0, margin - self) where it is -1."""
        return reduced(target.ne(-1).where(self, 0) + target.ne(1).where((margin - self).clamp(min=0), 0), reduction)  # type: ignore[no-any-return]

    def soft_margin_loss(self, target: Any, reduction: str = "mean") -> Tensor:
        """log(1 + exp(-target * self))"""
        return reduced((-target * self).softplus(threshold=math.inf), reduction)  # type: ignore[no-any-return]

    def margin_ranking_loss(self, other: Any, target: Any, margin: float = 0.0, reduction: str = "mean") -> Tensor:
        """max(0, -target * (self - other) + margin)"""
        return reduced((-target * (self - other) + margin).clamp(min=0), reduction)  # type: ignore[no-any-return]

    def cosine_embedding_loss(self, other: Any, target: Any, margin: float = 0.0, reduction: str = "mean") -> Tensor:
        """1 - cos where ``target`` is 1, max(0, cos - margin) where it is -1."""
        x: Any = self
        eps = 1e-12     # PyTorch's, added to the squares
        like = (x * other).sum(-1) / (((x * x).sum(-1) + eps) * ((other * other).sum(-1) + eps)).sqrt()
        return reduced(target.eq(1).where(1 - like, (like - margin).clamp(min=0)), reduction)  # type: ignore[no-any-return]

    def triplet_margin_loss(self, positive: Any, negative: Any, margin: float = 1.0, p: float = 2.0,
                            eps: float = 1e-6, swap: bool = False, reduction: str = "mean") -> Tensor:
        """max(0, distance to ``positive`` - distance to ``negative`` + margin); ``swap``: the negative's
        distance to ``positive`` counts where it is less."""
        if margin <= 0:
            raise ValueError(f"triplet_margin_loss: margin is greater than 0, not {margin}")
        near, far = self.pairwise_distance(positive, p, eps), self.pairwise_distance(negative, p, eps)
        if swap:
            far = far.minimum(positive.pairwise_distance(negative, p, eps))
        return reduced((near - far + margin).clamp(min=0), reduction)  # type: ignore[no-any-return]

    def multilabel_soft_margin_loss(self, target: Any, weight: Any = None, reduction: str = "mean") -> Tensor:
        """Binary cross entropy of each class's logit, their mean: [batch, classes], targets 0 or 1."""
        loss = self.binary_cross_entropy_with_logits(target, weight, "none")
        return reduced(loss.mean(-1), reduction)  # type: ignore[no-any-return]

    def multi_margin_loss(self, target: Any, p: int = 1, margin: float = 1.0, weight: Any = None,
                          reduction: str = "mean") -> Tensor:
        """max(0, margin - x[target] + x[class])**p, summed over the other classes, over the number of all."""
        x: Any = self if self.ndim > 1 else self.reshape(1, -1)
        classes = target.reshape(-1)
        right = x.gather(1, classes.unsqueeze(1))
        loss = (x - right + margin).clamp(min=0) ** p
        loss = loss if weight is None else loss * weight[classes].unsqueeze(1)
        loss = classes.one_hot(x.shape[1]).cast(dtypes.bool_).where(0, loss).sum(1) / x.shape[1]
        return reduced(loss if self.ndim > 1 else loss.squeeze(0), reduction)  # type: ignore[no-any-return]
