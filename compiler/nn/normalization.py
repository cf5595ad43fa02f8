"""Normalisation of channels, as layers."""

from __future__ import annotations

from typing import Any

from compiler import dtypes
from compiler.nn.module import Module
from compiler.tensor import Tensor, no_grad

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "GroupNorm", "InstanceNorm1d", "InstanceNorm2d",
           "InstanceNorm3d"]


class _Channels(Module):
    """A scale and a shift for each channel."""

    def _affine(self, channels: int, affine: bool, bias: bool, device: str | None) -> None:
        self.weight = Tensor.ones(channels, device=device, requires_grad=True) if affine else None
        self.bias = Tensor.zeros(channels, device=device, requires_grad=True) if affine and bias else None

    def _statistics(self, channels: int, wanted: bool, device: str | None) -> None:
        self.running_mean = Tensor.zeros(channels, device=device).contiguous() if wanted else None
        self.running_var = Tensor.ones(channels, device=device).contiguous() if wanted else None
        self.num_batches_tracked = Tensor.zeros(dtype=dtypes.int64, device=device).contiguous() if wanted else None


class BatchNorm2d(_Channels):
    """Each channel over the batch; outside of training by the running statistics.

    :param momentum: the share of a new batch in the running statistics; None: all batches alike. Only then
        ``num_batches_tracked`` counts, for nothing else needs it, and a kernel a layer and step is saved.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
                 track_running_stats: bool = True, bias: bool = True, device: str | None = None) -> None:
        self.eps, self.momentum = eps, momentum
        self._affine(num_features, affine, bias, device)
        self._statistics(num_features, track_running_stats, device)

    def forward(self, x: Tensor) -> Tensor:
        training = self.training or self.running_mean is None
        share: Any = self.momentum
        if share is None and training and self.num_batches_tracked is not None:
            with no_grad():
                share = 1 / self.num_batches_tracked.assign(self.num_batches_tracked + 1).cast(dtypes.float32)
        return x.batch_norm(self.running_mean, self.running_var, self.weight, self.bias, training,
                            0.0 if share is None else share, self.eps)


class BatchNorm1d(BatchNorm2d):
    """Of (batch, channels) or (batch, channels, x)."""


class BatchNorm3d(BatchNorm2d):
    """Of (batch, channels, z, y, x)."""


class GroupNorm(_Channels):
    """Means and variances of ``num_groups`` groups of channels, of each example: [batch, channels, ...]."""

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True,
                 bias: bool = True, device: str | None = None) -> None:
        self.groups, self.eps = num_groups, eps
        self._affine(num_channels, affine, bias, device)

    def forward(self, x: Tensor) -> Tensor:
        return x.group_norm(self.groups, self.weight, self.bias, self.eps)


class InstanceNorm2d(_Channels):
    """Each channel of each sample by itself."""

    def __init__(self, num_features: int, eps: float = 1e-5, affine: bool = False, bias: bool = True,
                 device: str | None = None) -> None:
        self.eps = eps
        self._affine(num_features, affine, bias, device)

    def forward(self, x: Tensor) -> Tensor:
        return x.instance_norm(weight=self.weight, bias=self.bias, eps=self.eps)


class InstanceNorm1d(InstanceNorm2d):
    """Over the last axis, of each channel: [batch, channels, length]."""


class InstanceNorm3d(InstanceNorm2d):
    """Over the last three axes, of each channel: [batch, channels, depth, height, width]."""
