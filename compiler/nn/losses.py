"""Losses as layers."""

from __future__ import annotations

from typing import Any

from compiler.nn.module import Module
from compiler.tensor import Tensor

__all__ = ["BCELoss", "BCEWithLogitsLoss", "CrossEntropyLoss", "HuberLoss", "KLDivLoss", "L1Loss", "MSELoss", "NLLLoss",
           "SmoothL1Loss", "CosineEmbeddingLoss", "GaussianNLLLoss", "HingeEmbeddingLoss", "MarginRankingLoss",
           "MultiLabelSoftMarginLoss", "MultiMarginLoss", "PoissonNLLLoss", "SoftMarginLoss", "TripletMarginLoss",
           "CTCLoss", "MultiLabelMarginLoss"]


class _Loss(Module):
    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = reduction


class CrossEntropyLoss(_Loss):
    """Of logits and class numbers, or probabilities."""

    def __init__(self, weight: Any = None, ignore_index: int = -100, reduction: str = "mean",
                 label_smoothing: float = 0.0) -> None:
        super().__init__(weight if isinstance(weight, str) else reduction)
        self.weight = None if isinstance(weight, str) else weight
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return x.cross_entropy(target, self.weight, self.ignore_index, self.reduction, self.label_smoothing)


class NLLLoss(_Loss):
    """Of log probabilities [batch, classes, ...] and class numbers [batch, ...]."""

    def __init__(self, weight: Any = None, ignore_index: int = -100, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.weight, self.ignore_index = weight, ignore_index

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return x.nll_loss(target, self.weight, self.ignore_index, self.reduction)


class MSELoss(_Loss):
    """Squared differences."""

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return x.mse_loss(target, self.reduction)


class L1Loss(_Loss):
    """Absolute differences."""

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return x.l1_loss(target, self.reduction)


class SmoothL1Loss(_Loss):
    """Squares up to ``beta``, straight beyond, over ``beta``."""

    def __init__(self, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction)
        self.beta = beta

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return x.smooth_l1_loss(target, self.reduction, self.beta)


class HuberLoss(_Loss):
    """Squares up to ``delta``, straight beyond; see :meth:`Tensor.huber_loss <compiler.tensor.Tensor.huber_loss>`."""

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction)
        self.delta = delta

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return x.huber_loss(target, self.reduction, self.delta)


class BCELoss(_Loss):
    """Of probabilities and targets from 0 to 1; see :meth:`Tensor.binary_cross_entropy
    <compiler.tensor.Tensor.binary_cross_entropy>`."""

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return x.binary_cross_entropy(target, reduction=self.reduction)


class BCEWithLogitsLoss(_Loss):
    """Of logits and targets from 0 to 1; ``pos_weight`` times what a 1 costs."""

    def __init__(self, reduction: str = "mean", pos_weight: Any = None) -> None:
        super().__init__(reduction)
        self.pos_weight = pos_weight

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return x.binary_cross_entropy_with_logits(target, reduction=self.reduction, pos_weight=self.pos_weight)


class KLDivLoss(_Loss):
    """Kullback-Leibler divergence of log probabilities and probabilities, or their logarithms with ``log_target``."""

    def __init__(self, reduction: str = "mean", log_target: bool = False) -> None:
        super().__init__(reduction)
        self.log_target = log_target

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return x.kl_div(target, self.reduction, self.log_target)


class _ByName(Module):
    """A loss of the tensor with the layer's arguments."""

    method = ""

    def __init__(self, **kwargs: Any) -> None:
        self.kwargs = kwargs

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        return getattr(x, self.method)(*others, **self.kwargs)  # type: ignore[no-any-return]


class CosineEmbeddingLoss(_ByName):
    """Keywords of :meth:`Tensor.cosine_embedding_loss <compiler.tensor.Tensor.cosine_embedding_loss>`."""

    method = "cosine_embedding_loss"


class GaussianNLLLoss(_ByName):
    """Keywords of :meth:`Tensor.gaussian_nll_loss <compiler.tensor.Tensor.gaussian_nll_loss>`."""

    method = "gaussian_nll_loss"


class HingeEmbeddingLoss(_ByName):
    """Keywords of :meth:`Tensor.hinge_embedding_loss <compiler.tensor.Tensor.hinge_embedding_loss>`."""

    method = "hinge_embedding_loss"


class MarginRankingLoss(_ByName):
    """Keywords of :meth:`Tensor.margin_ranking_loss <compiler.tensor.Tensor.margin_ranking_loss>`."""

    method = "margin_ranking_loss"


class MultiLabelSoftMarginLoss(_ByName):
    """Binary cross entropy of each class's logit, their mean: [batch, classes], targets 0 or 1."""

    method = "multilabel_soft_margin_loss"


class MultiMarginLoss(_ByName):
    """Keywords of :meth:`Tensor.multi_margin_loss <compiler.tensor.Tensor.multi_margin_loss>`."""

    method = "multi_margin_loss"


class PoissonNLLLoss(_ByName):
    """Keywords of :meth:`Tensor.poisson_nll_loss <compiler.tensor.Tensor.poisson_nll_loss>`."""

    method = "poisson_nll_loss"


class SoftMarginLoss(_ByName):
    """Keywords of :meth:`Tensor.soft_margin_loss <compiler.tensor.Tensor.soft_margin_loss>`."""

    method = "soft_margin_loss"


class TripletMarginLoss(_ByName):
    """Keywords of :meth:`Tensor.triplet_margin_loss <compiler.tensor.Tensor.triplet_margin_loss>`."""

    method = "triplet_margin_loss"


class MultiLabelMarginLoss(_ByName):
    """Keywords of :meth:`Tensor.multilabel_margin_loss <compiler.tensor.Tensor.multilabel_margin_loss>`."""

    method = "multilabel_margin_loss"


class CTCLoss(_ByName):
    """Keywords of :meth:`Tensor.ctc_loss <compiler.tensor.Tensor.ctc_loss>`; called with log probabilities, targets,
    and the lengths of both."""

    method = "ctc_loss"
