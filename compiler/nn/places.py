"""Layers that move, pad or compare, and compute little."""

from __future__ import annotations

from typing import Any

from compiler.methods.convolution import each
from compiler.nn.module import Module
from compiler.tensor import Tensor

__all__ = ["ChannelShuffle", "CircularPad1d", "CircularPad2d", "CircularPad3d", "ConstantPad1d", "ConstantPad2d",
           "ConstantPad3d", "CosineSimilarity", "Fold", "LocalResponseNorm", "PairwiseDistance", "PixelShuffle",
           "PixelUnshuffle", "ReflectionPad1d",
           "ReflectionPad2d", "ReflectionPad3d", "ReplicationPad1d", "ReplicationPad2d", "ReplicationPad3d",
           "Softmax2d", "Unfold", "ZeroPad1d", "ZeroPad2d", "ZeroPad3d"]


class _Pad(Module):
    """:param padding: a number for all sides, or (left, right[, top, bottom[, front, back]])."""

    axes, mode = 1, "constant"

    def __init__(self, padding: Any) -> None:
        self.padding = each(padding, 2 * self.axes, "padding")
        self.value = 0.0

    def forward(self, x: Tensor) -> Tensor:
        return x.pad(self.padding, self.mode, self.value)


class ConstantPad1d(_Pad):
    """A number around the last axis. ``padding``: (left, right), or one number for both."""

    def __init__(self, padding: Any, value: float) -> None:
        super().__init__(padding)
        self.value = value


class ConstantPad2d(ConstantPad1d):
    """A number around the last two axes. ``padding``: (left, right, top, bottom), or one number for all."""

    axes = 2


class ConstantPad3d(ConstantPad1d):
    """A number around the last three axes. ``padding``: (left, right, top, bottom, front, back), or one for all."""

    axes = 3


class ZeroPad1d(_Pad):
    """Zeros around the last axis; see :class:`ConstantPad1d`."""


class ZeroPad2d(_Pad):
    """Zeros around the last two axes; see :class:`ConstantPad2d`."""

    axes = 2


class ZeroPad3d(_Pad):
    """Zeros around the last three axes; see :class:`ConstantPad3d`."""

    axes = 3


class ReflectionPad1d(_Pad):
    """What is inside, mirrored at the border element, around the last axis; see :class:`ConstantPad1d`."""

    mode = "reflect"


class ReflectionPad2d(ReflectionPad1d):
    """What is inside, mirrored at the border elements, around the last two axes; see :class:`ConstantPad2d`."""

    axes = 2


class ReflectionPad3d(ReflectionPad1d):
    """What is inside, mirrored at the border elements, around the last three axes; see :class:`ConstantPad3d`."""

    axes = 3


class ReplicationPad1d(_Pad):
    """The border element again and again, around the last axis; see :class:`ConstantPad1d`."""

    mode = "replicate"


class ReplicationPad2d(ReplicationPad1d):
    """The border elements again and again, around the last two axes; see :class:`ConstantPad2d`."""

    axes = 2


class ReplicationPad3d(ReplicationPad1d):
    """The border elements again and again, around the last three axes; see :class:`ConstantPad3d`."""

    axes = 3


class CircularPad1d(_Pad):
    """What stands at the other end, around the last axis; see :class:`ConstantPad1d`."""

    mode = "circular"


class CircularPad2d(CircularPad1d):
    """What stands at the other end, around the last two axes; see :class:`ConstantPad2d`."""

    axes = 2


class CircularPad3d(CircularPad1d):
    """What stands at the other end, around the last three axes; see :class:`ConstantPad3d`."""

    axes = 3


class _Method(Module):
    """A method of the tensor with the layer's arguments."""

    method = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs

    def forward(self, x: Tensor, *others: Tensor) -> Any:
        return getattr(x, self.method)(*others, *self.args, **self.kwargs)


class PixelShuffle(Module):
    """(..., c * r * r, y, x) -> (..., c, y * r, x * r)"""

    def __init__(self, upscale_factor: int) -> None:
        self.factor = upscale_factor

    def forward(self, x: Tensor) -> Tensor:
        return x.pixel_shuffle(self.factor)


class PixelUnshuffle(Module):
    """(..., c, y * r, x * r) -> (..., c * r * r, y, x)"""

    def __init__(self, downscale_factor: int) -> None:
        self.factor = downscale_factor

    def forward(self, x: Tensor) -> Tensor:
        return x.pixel_unshuffle(self.factor)


class Fold(_Method):
    """Columns back to places: arguments of :meth:`Tensor.col2im <compiler.tensor.Tensor.col2im>`."""

    method = "col2im"


class LocalResponseNorm(_Method):
    """Arguments of the tensor's ``local_response_norm``: over so many neighbouring channels."""

    method = "local_response_norm"


class Unfold(Module):
    """The windows of an image as columns."""

    def __init__(self, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> None:
        self.args = kernel_size, dilation, padding, stride

    def forward(self, x: Tensor) -> Tensor:
        return x.im2col(*self.args)


class CosineSimilarity(Module):
    """Cosine of the angle between the vectors of two tensors along ``dim``."""

    def __init__(self, dim: int = 1, eps: float = 1e-8) -> None:
        self.dim, self.eps = dim, eps

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        return x1.cosine_similarity(x2, self.dim, self.eps)


class Softmax2d(Module):
    """Over channels, at each place."""

    def forward(self, x: Tensor) -> Tensor:
        return x.softmax(-3)


class ChannelShuffle(_Method):
    """(batch, groups * n, ...) -> (batch, n * groups, ...): channels of each group spread over all."""

    method = "channel_shuffle"


class PairwiseDistance(Module):
    """The p-norm of the difference of two tensors' vectors, along the last axis."""

    def __init__(self, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> None:
        self.p, self.eps, self.keepdim = p, eps, keepdim

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        return x1.pairwise_distance(x2, self.p, self.eps, self.keepdim)
