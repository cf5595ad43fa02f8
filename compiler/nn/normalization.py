"""Normalisation of channels, as layers."""

from __future__ import annotations

from compiler.nn.module import Module
from compiler.tensor import Tensor

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "GroupNorm", "InstanceNorm1d", "InstanceNorm2d",
           "InstanceNorm3d"]


class BatchNorm2d(Module):
    """Each channel over the batch; outside of training by the running statistics."""

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True,
                 track_running_stats: bool = True, device: str | None = None) -> None:
        self.eps, self.momentum = eps, momentum
        self.weight = Tensor.ones(num_features, device=device, requires_grad=True) if affine else None
        self.bias = Tensor.zeros(num_features, device=device, requires_grad=True) if affine else None
        self.running_mean = Tensor.zeros(num_features, device=device).contiguous() if track_running_stats else None
        self.running_var = Tensor.ones(num_features, device=device).contiguous() if track_running_stats else None

    def forward(self, x: Tensor) -> Tensor:
        training = self.training or self.running_mean is None
        return x.batch_norm(self.running_mean, self.running_var, self.weight, self.bias, training, self.momentum,
                            self.eps)


class BatchNorm1d(BatchNorm2d):
    """Of (batch, channels) or (batch, channels, x)."""


class BatchNorm3d(BatchNorm2d):
    """Of (batch, channels, z, y, x)."""


class GroupNorm(Module):
    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True,
                 device: str | None = None) -> None:
        self.groups, self.eps = num_groups, eps
        self.weight = Tensor.ones(num_channels, device=device, requires_grad=True) if affine else None
        self.bias = Tensor.zeros(num_channels, device=device, requires_grad=True) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        return x.group_norm(self.groups, self.weight, self.bias, self.eps)


class InstanceNorm2d(Module):
    """Each channel of each sample by itself."""

    def __init__(self, num_features: int, eps: float = 1e-5, affine: bool = False, device: str | None = None) -> None:
        self.eps = eps
        self.weight = Tensor.ones(num_features, device=device, requires_grad=True) if affine else None
        self.bias = Tensor.zeros(num_features, device=device, requires_grad=True) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        return x.instance_norm(weight=self.weight, bias=self.bias, eps=self.eps)


class InstanceNorm1d(InstanceNorm2d):
    pass


class InstanceNorm3d(InstanceNorm2d):
    pass
