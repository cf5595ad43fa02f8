"""Layers that learn how many features or channels come in from the first tensor that they see.

The first call makes the parameters, and the layer becomes what its name says without ``Lazy``. Whoever asks for
parameters or state before that gets an error.
"""

from __future__ import annotations

from typing import Any

from compiler.nn import convolution, layers, normalization
from compiler.nn.module import Module
from compiler.tensor import Tensor

__all__ = ["LazyBatchNorm1d", "LazyBatchNorm2d", "LazyBatchNorm3d", "LazyConv1d", "LazyConv2d", "LazyConv3d",
           "LazyConvTranspose1d", "LazyConvTranspose2d", "LazyConvTranspose3d", "LazyInstanceNorm1d",
           "LazyInstanceNorm2d", "LazyInstanceNorm3d", "LazyLinear"]


class _Lazy(Module):
    made: Any
    axis = 1                    # of the input, that is as long as it has features or channels
    _unmade = True              # compiler.nn.module asks for it

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._given = args, kwargs

    def forward(self, x: Tensor) -> Any:
        args, kwargs = vars(self).pop("_given")
        made, features = self.made, x.shape[self.axis]
        self.__class__ = made               # type: ignore[assignment]
        made.__init__(self, features, *args, **{"device": x.device} | kwargs)
        return self.forward(x)


class LazyLinear(_Lazy):
    """``(out_features, bias)``: see :class:`Linear`."""

    made, axis = layers.Linear, -1


class LazyConv1d(_Lazy):
    """Arguments of :class:`Conv1d` but the first."""

    made, axis = convolution.Conv1d, -2


class LazyConv2d(_Lazy):
    """Arguments of :class:`Conv2d` but the first."""

    made, axis = convolution.Conv2d, -3


class LazyConv3d(_Lazy):
    """Arguments of :class:`Conv3d` but the first."""

    made, axis = convolution.Conv3d, -4


class LazyConvTranspose1d(_Lazy):
    """Arguments of :class:`ConvTranspose1d` but the first."""

    made, axis = convolution.ConvTranspose1d, -2


class LazyConvTranspose2d(_Lazy):
    """Arguments of :class:`ConvTranspose2d` but the first."""

    made, axis = convolution.ConvTranspose2d, -3


class LazyConvTranspose3d(_Lazy):
    """Arguments of :class:`ConvTranspose3d` but the first."""

    made, axis = convolution.ConvTranspose3d, -4


class LazyBatchNorm1d(_Lazy):
    """Arguments of :class:`BatchNorm1d` but the first."""

    made = normalization.BatchNorm1d


class LazyBatchNorm2d(_Lazy):
    """Arguments of :class:`BatchNorm2d` but the first."""

    made = normalization.BatchNorm2d


class LazyBatchNorm3d(_Lazy):
    """Arguments of :class:`BatchNorm3d` but the first."""

    made = normalization.BatchNorm3d


class LazyInstanceNorm1d(_Lazy):
    """Arguments of :class:`InstanceNorm1d` but the first."""

    made = normalization.InstanceNorm1d


class LazyInstanceNorm2d(_Lazy):
    """Arguments of :class:`InstanceNorm2d` but the first."""

    made = normalization.InstanceNorm2d


class LazyInstanceNorm3d(_Lazy):
    """Arguments of :class:`InstanceNorm3d` but the first."""

    made = normalization.InstanceNorm3d
