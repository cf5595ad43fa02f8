"""Pooling and resampling, as layers."""

from __future__ import annotations

from typing import Any

from compiler.nn.module import Module
from compiler.tensor import Tensor

__all__ = ["AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d",
           "AdaptiveMaxPool3d", "AvgPool1d", "AvgPool2d", "AvgPool3d", "LPPool1d", "LPPool2d",
           "MaxPool1d", "MaxPool2d", "MaxPool3d", "Upsample"]


class _Pool(Module):
    """A method of the tensor with the layer's arguments."""

    method = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs

    def forward(self, x: Tensor) -> Any:
        return getattr(x, self.method)(*self.args, **self.kwargs)


class MaxPool1d(_Pool):
    """Arguments of :meth:`Tensor.max_pool1d <compiler.tensor.Tensor.max_pool1d>`."""

    method = "max_pool1d"


class MaxPool2d(_Pool):
    """Arguments of :meth:`Tensor.max_pool2d <compiler.tensor.Tensor.max_pool2d>`."""

    method = "max_pool2d"


class MaxPool3d(_Pool):
    """Arguments of :meth:`Tensor.max_pool3d <compiler.tensor.Tensor.max_pool3d>`."""

    method = "max_pool3d"


class AvgPool1d(_Pool):
    """Arguments of :meth:`Tensor.avg_pool1d <compiler.tensor.Tensor.avg_pool1d>`."""

    method = "avg_pool1d"


class AvgPool2d(_Pool):
    """Arguments of :meth:`Tensor.avg_pool2d <compiler.tensor.Tensor.avg_pool2d>`."""

    method = "avg_pool2d"


class AvgPool3d(_Pool):
    """Arguments of :meth:`Tensor.avg_pool3d <compiler.tensor.Tensor.avg_pool3d>`."""

    method = "avg_pool3d"


class AdaptiveAvgPool1d(_Pool):
    """Arguments of :meth:`Tensor.adaptive_avg_pool1d <compiler.tensor.Tensor.adaptive_avg_pool1d>`."""

    method = "adaptive_avg_pool1d"


class AdaptiveAvgPool2d(_Pool):
    """Arguments of :meth:`Tensor.adaptive_avg_pool2d <compiler.tensor.Tensor.adaptive_avg_pool2d>`."""

    method = "adaptive_avg_pool2d"


class AdaptiveMaxPool2d(_Pool):
    """Arguments of :meth:`Tensor.adaptive_max_pool2d <compiler.tensor.Tensor.adaptive_max_pool2d>`."""

    method = "adaptive_max_pool2d"


class Upsample(_Pool):
    """Arguments of :meth:`Tensor.interpolate <compiler.tensor.Tensor.interpolate>`."""

    method = "interpolate"


class AdaptiveAvgPool3d(_Pool):
    """Arguments of :meth:`Tensor.adaptive_avg_pool3d <compiler.tensor.Tensor.adaptive_avg_pool3d>`."""

    method = "adaptive_avg_pool3d"


class AdaptiveMaxPool1d(_Pool):
    """Arguments of :meth:`Tensor.adaptive_max_pool1d <compiler.tensor.Tensor.adaptive_max_pool1d>`."""

    method = "adaptive_max_pool1d"


class AdaptiveMaxPool3d(_Pool):
    """Arguments of :meth:`Tensor.adaptive_max_pool3d <compiler.tensor.Tensor.adaptive_max_pool3d>`."""

    method = "adaptive_max_pool3d"


class LPPool1d(_Pool):
    """Arguments of :meth:`Tensor.lp_pool1d <compiler.tensor.Tensor.lp_pool1d>`."""

    method = "lp_pool1d"


class LPPool2d(_Pool):
    """Arguments of :meth:`Tensor.lp_pool2d <compiler.tensor.Tensor.lp_pool2d>`."""

    method = "lp_pool2d"
