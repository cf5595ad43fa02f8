"""Linear layers and tables whose weights stay quantised in memory: a kernel that needs them unpacks them."""

from __future__ import annotations

import numpy as np

from compiler import dtypes
from compiler.files.quants import Quantized
from compiler.nn.layers import Linear
from compiler.nn.module import Module
from compiler.tensor import Tensor

__all__ = ["Int8Linear", "QuantizedEmbedding", "QuantizedLinear"]


class Int8Linear(Module):
    """int8 weights with a scale for each output: ``x @ (weight * scale).T + bias``, a quarter of float32's memory."""

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> None:
        if weight.dtype is not dtypes.int8 or weight.ndim != 2 or scale.shape != (weight.shape[0],):
            raise ValueError(f"weights are int8[out, in] with scales [out], not {weight.dtype.name}"
                             f"{list(weight.shape)} with {list(scale.shape)}")
        self.weight, self.scale, self.bias = weight, scale, bias

    @classmethod
    def of(cls, layer: Linear) -> Int8Linear:
        """A linear layer, rounded: each output's weights to 127ths of the greatest."""
        values = layer.weight.detach().numpy()
        scale = np.maximum(np.abs(values).max(1), np.finfo(np.float32).tiny) / np.float32(127)
        codes = np.rint(values / scale[:, None]).astype(np.int8)
        device = layer.weight.device
        return cls(Tensor(codes, device=device), Tensor(scale, device=device),
                   None if layer.bias is None else layer.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        out = x.linear(self.weight.cast(x.dtype)) * self.scale
        return out if self.bias is None else out + self.bias


class QuantizedLinear(Module):
    """Weights in a GGUF file's blocks (:class:`compiler.files.Quantized`), (out, in) when they are unpacked.

    :param apart: unpack them in a kernel of their own before the product, into memory that the next layer uses again;
        else within the product. Apart is 1.5 to 10 times as fast on a CPU, whose vectors the first way fills.
    """

    def __init__(self, weight: Quantized, bias: Tensor | None = None, apart: bool = True) -> None:
        if len(weight.shape) != 2:
            raise ValueError(f"a linear layer's weights have two axes, not {list(weight.shape)}")
        self.blocks, self.kind, self.shape = weight.blocks, weight.kind, weight.shape
        self.bias, self.apart = bias, apart

    def forward(self, x: Tensor) -> Tensor:
        weight = Quantized(self.blocks, self.kind, self.shape).dequantize().cast(x.dtype)
        return x.linear(weight.contiguous() if self.apart else weight, self.bias)


class QuantizedEmbedding(Module):
    """A table in blocks: of the rows that are asked for, and of no others, the numbers are unpacked."""

    def __init__(self, weight: Quantized) -> None:
        self.blocks, self.kind, self.shape = weight.blocks, weight.kind, weight.shape

    @property
    def weight(self) -> Tensor:
        """The whole table, unpacked where it is used."""
        return Quantized(self.blocks, self.kind, self.shape).dequantize()

    def forward(self, index: Tensor) -> Tensor:
        return Quantized(self.blocks, self.kind, self.shape).rows(index)
