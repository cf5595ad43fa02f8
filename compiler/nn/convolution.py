"""Convolutions as layers, initialised as PyTorch does: uniform within 1/sqrt(fan_in)."""

from __future__ import annotations

import math
from typing import Any

from compiler.methods.convolution import each
from compiler.nn.module import Module
from compiler.tensor import Tensor

__all__ = ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]


class _Conv(Module):
    axes = 0

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0,
                 dilation: Any = 1, groups: int = 1, bias: bool = True, padding_mode: str = "zeros",
                 device: str | None = None) -> None:
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"a convolution from {in_channels} to {out_channels} channels has not {groups} groups")
        kernel = each(kernel_size, self.axes, "kernel_size")
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.padding_mode = padding_mode
        bound = 1 / math.sqrt(in_channels // groups * math.prod(kernel))
        self.weight = Tensor.uniform(out_channels, in_channels // groups, *kernel, low=-bound, high=bound,
                                     device=device, requires_grad=True)
        self.bias = Tensor.uniform(out_channels, low=-bound, high=bound, device=device, requires_grad=True) \
            if bias else None

    def forward(self, x: Tensor) -> Tensor:
        padding = self.padding
        if self.padding_mode != "zeros":
            amounts = [p for n in reversed(each(padding, self.axes, "padding")) for p in (n, n)]
            x, padding = x.pad(amounts, self.padding_mode), 0
        convolve = getattr(x, f"conv{self.axes}d")
        return convolve(self.weight, self.bias, self.stride, padding, self.dilation, self.groups)  # type: ignore[no-any-return]


class Conv1d(_Conv):
    """Of (batch, channels, x)."""

    axes = 1


class Conv2d(_Conv):
    """Of (batch, channels, y, x)."""

    axes = 2


class Conv3d(_Conv):
    """Of (batch, channels, z, y, x)."""

    axes = 3


class _Transposed(Module):
    axes = 0

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0,
                 output_padding: Any = 0, groups: int = 1, bias: bool = True, dilation: Any = 1,
                 device: str | None = None) -> None:
        kernel = each(kernel_size, self.axes, "kernel_size")
        self.stride, self.padding, self.output_padding = stride, padding, output_padding
        self.dilation, self.groups = dilation, groups
        bound = 1 / math.sqrt(out_channels // groups * math.prod(kernel))
        self.weight = Tensor.uniform(in_channels, out_channels // groups, *kernel, low=-bound, high=bound,
                                     device=device, requires_grad=True)
        self.bias = Tensor.uniform(out_channels, low=-bound, high=bound, device=device, requires_grad=True) \
            if bias else None

    def forward(self, x: Tensor) -> Tensor:
        convolve = getattr(x, f"conv_transpose{self.axes}d")
        return convolve(self.weight, self.bias, self.stride, self.padding, self.output_padding, self.groups,  # type: ignore[no-any-return]
                        self.dilation)


class ConvTranspose1d(_Transposed):
    """[batch, in, length] to [batch, out, (length - 1) * stride - 2 * padding + dilation * (kernel - 1) +
    output_padding + 1]."""

    axes = 1


class ConvTranspose2d(_Transposed):
    """:class:`ConvTranspose1d` over two axes: [batch, in, height, width]."""

    axes = 2


class ConvTranspose3d(_Transposed):
    """:class:`ConvTranspose1d` over three axes: [batch, in, depth, height, width]."""

    axes = 3
