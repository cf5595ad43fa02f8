"""Products of matrices, layers and losses."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from compiler import dtypes
from compiler.dtypes import DTypeLike
from compiler.methods.base import Methods
from compiler.methods.elementwise import broadcast_shapes

if TYPE_CHECKING:
    from compiler.tensor import Tensor

__all__ = ["Functional"]


class Functional(Methods):
    """Mixin; see :class:`compiler.tensor.Tensor`."""

    __slots__ = ()

    def matmul(self, other: Tensor, dtype: DTypeLike | None = None) -> Tensor:
        """As ``@``: vectors, matrices, and batches of matrices that broadcast. Half types accumulate in float32."""
        x: Any = self
        if not x.ndim or not other.ndim:
            raise ValueError(f"matmul of {x.shape} and {other.shape}: both need an axis; multiply with *")
        if x.shape[-1] != other.shape[-2 if other.ndim > 1 else 0]:
            raise ValueError(f"matmul of {x.shape} and {other.shape}: {x.shape[-1]} columns do not meet "
                             f"{other.shape[-2 if other.ndim > 1 else 0]} rows")
        kind = dtypes.promote(x.dtype, other.dtype)
        a = x if x.ndim > 1 else x.unsqueeze(0)
        b = other if other.ndim > 1 else other.unsqueeze(1)
        batch = broadcast_shapes(a.shape[:-2], b.shape[:-2])
        m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
        wide = dtypes.float32 if kind.is_float and kind.bits == 16 else kind
        left = a.cast(wide).expand(*batch, m, k).unsqueeze(-2)
        right = b.cast(wide).expand(*batch, k, n).transpose(-1, -2).unsqueeze(-3)
        out = (left * right).sum(-1, dtype=wide if dtype is None else dtype)
        out = out.cast(kind) if dtype is None else out
        if x.ndim == 1:
            out = out.squeeze(-2)
        return out.squeeze(-1) if other.ndim == 1 else out

    dot = matmul

    def __matmul__(self, other: Tensor) -> Tensor:
        return self.matmul(other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return self._operand(other, self.dtype).matmul(self)

    def linear(self, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """``self @ weight.T + bias``: weight is (out, in)."""
        out = self.matmul(weight.transpose(0, 1))
        return out if bias is None else out + bias

    def dropout(self, p: float = 0.5, training: bool = True) -> Tensor:
        """Zero each element with probability ``p`` and scale up the rest, in training."""
        if not 0 <= p <= 1:
            raise ValueError(f"dropout's p is a probability, not {p}")
        if not training or p == 0:
            return self * 1
        if p == 1:
            return self * 0
        from compiler.tensor import Tensor
        keep = Tensor.rand(*self.shape, device=self.device) >= p
        return keep.where(self * (1 / (1 - p)), 0)

    def layer_norm(self, normalized: int = 1, weight: Tensor | None = None, bias: Tensor | None = None,
                   eps: float = 1e-5) -> Tensor:
        """Over the last ``normalized`` axes."""
        dims = tuple(range(-normalized, 0))
        away = self - self.mean(dims, True)
        out = away / ((away * away).mean(dims, True) + eps).sqrt()
        if weight is not None:
            out = out * weight
        return out if bias is None else out + bias

    def nll_loss(self, target: Tensor, reduction: str = "mean") -> Tensor:
        """Of log-probabilities (batch, classes, ...) and int targets (batch, ...)."""
        if self.ndim < 2 or target.shape != (self.shape[0], *self.shape[2:]):
            raise ValueError(f"targets of shape {target.shape} for values of shape {self.shape}: "
                             "they need (batch, ...) for (batch, classes, ...)")
        if target.dtype.is_float:
            raise TypeError(f"targets are class numbers; {target.dtype.name} is no integer type")
        return _reduced(-self.gather(1, target.unsqueeze(1)).squeeze(1), reduction)

    def cross_entropy(self, target: Tensor, reduction: str = "mean", label_smoothing: float = 0.0) -> Tensor:
        """Of logits (batch, classes, ...) and class numbers (batch, ...)."""
        log_p = self.log_softmax(1)
        loss = log_p.nll_loss(target, reduction)
        if not label_smoothing:
            return loss
        smooth = _reduced(-log_p.mean(1), reduction)
        return loss * (1 - label_smoothing) + smooth * label_smoothing

    def mse_loss(self, target: Tensor, reduction: str = "mean") -> Tensor:
        away = self - target
        return _reduced(away * away, reduction)

    def l1_loss(self, target: Tensor, reduction: str = "mean") -> Tensor:
        return _reduced((self - target).abs(), reduction)

    def binary_cross_entropy_with_logits(self, target: Tensor, reduction: str = "mean") -> Tensor:
        loss = self.maximum(0) - self * target + (1 + (-self.abs()).exp()).log()
        return _reduced(loss, reduction)

    def scaled_dot_product_attention(self, key: Tensor, value: Tensor, is_causal: bool = False) -> Tensor:
        scores = (self @ key.transpose(-2, -1)) * (1 / math.sqrt(self.shape[-1]))
        if is_causal:
            keep = scores.detach().eq(scores.detach()).tril()
            scores = keep.where(scores, -math.inf)
        return scores.softmax(-1) @ value


def _reduced(loss: Any, reduction: str) -> Any:
    if reduction == "mean":
        return loss.mean()
    if reduction == "sum":
        return loss.sum()
    if reduction != "none":
        raise ValueError(f"reduction is 'mean', 'sum' or 'none', not {reduction!r}")
    return loss
