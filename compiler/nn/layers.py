"""Linear layers, embeddings, layer norm, dropout, and layers in a row."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from compiler.nn.module import Module
from compiler.tensor import Tensor

__all__ = ["Bilinear", "Dropout", "Dropout2d", "Embedding", "Flatten", "Identity", "LayerNorm", "Linear", "RMSNorm",
           "Sequential", "Unflatten"]


class Linear(Module):
    """``x @ weight.T + bias``; uniform within 1/sqrt(in_features), as PyTorch initialises it."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, device: str | None = None) -> None:
        bound = 1 / math.sqrt(in_features)
        self.weight = Tensor.uniform(
            out_features, in_features, low=-bound, high=bound, device=device, requires_grad=True
        )
        self.bias = (
            Tensor.uniform(out_features, low=-bound, high=bound, device=device, requires_grad=True) if bias else None
        )

    def forward(self, x: Tensor) -> Tensor:
        return x.linear(self.weight, self.bias)


class Embedding(Module):
    """Rows of a table by number."""

    def __init__(self, num_embeddings: int, embedding_dim: int, device: str | None = None) -> None:
        self.weight = Tensor.randn(num_embeddings, embedding_dim, device=device, requires_grad=True)

    def forward(self, index: Tensor) -> Tensor:
        return self.weight[index]


class LayerNorm(Module):
    """Over the last axes, of sizes ``normalized_shape``."""

    def __init__(self, normalized_shape: int | tuple[int, ...], eps: float = 1e-5, device: str | None = None) -> None:
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps, self.shape = eps, shape
        self.weight = Tensor.ones(*shape, device=device, requires_grad=True)
        self.bias = Tensor.zeros(*shape, device=device, requires_grad=True)

    def forward(self, x: Tensor) -> Tensor:
        return x.layer_norm(self.shape, self.weight, self.bias, self.eps)


class Dropout(Module):
    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return x.dropout(self.p, self.training)


class Flatten(Module):
    """All axes but the first into one."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class Sequential(Module):
    """One layer (any callable) after the other."""

    def __init__(self, *layers: Callable[[Any], Any]) -> None:
        self.layers = list(layers)

    def forward(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x

    def __getitem__(self, n: int) -> Callable[[Any], Any]:
        return self.layers[n]

    def __len__(self) -> int:
        return len(self.layers)


class RMSNorm(Module):
    """Divided by the root of the mean square over the last axes, of sizes ``normalized_shape``."""

    def __init__(self, normalized_shape: int | tuple[int, ...], eps: float | None = None,
                 device: str | None = None) -> None:
        self.shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps = eps
        self.weight = Tensor.ones(*self.shape, device=device, requires_grad=True)

    def forward(self, x: Tensor) -> Tensor:
        return x.rms_norm(self.shape, self.weight, self.eps)


class Bilinear(Module):
    """x1 . W . x2 + bias for each output."""

    def __init__(self, in1_features: int, in2_features: int, out_features: int, bias: bool = True,
                 device: str | None = None) -> None:
        bound = 1 / math.sqrt(in1_features)
        self.weight = Tensor.uniform(out_features, in1_features, in2_features, low=-bound, high=bound, device=device,
                                     requires_grad=True)
        self.bias = Tensor.uniform(out_features, low=-bound, high=bound, device=device, requires_grad=True) \
            if bias else None

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        return x1.bilinear(x2, self.weight, self.bias)


class Dropout2d(Module):
    """Whole channels."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return x.dropout2d(self.p, self.training)


class Identity(Module):
    def forward(self, x: Any) -> Any:
        return x


class Unflatten(Module):
    def __init__(self, dim: int, unflattened_size: tuple[int, ...]) -> None:
        self.dim, self.sizes = dim, unflattened_size

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(self.dim, self.sizes)
