"""Linear layers, embeddings, layer norm, dropout, and layers in a row."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from compiler.nn.functional import embedding_bag
from compiler.nn.module import Module, ModuleList
from compiler.tensor import Tensor

__all__ = ["Bilinear", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "Embedding", "EmbeddingBag", "Flatten",
           "Identity", "LayerNorm", "Linear", "RMSNorm", "Sequential", "Unflatten"]


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
    """Rows of a table by number.

    :param padding_idx: the row that stands for nothing: zeros at first, and never trained.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None,
                 device: str | None = None) -> None:
        weight = Tensor.randn(num_embeddings, embedding_dim, device=device)
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ValueError(f"padding_idx {padding_idx} of {num_embeddings} embeddings")
            padding_idx %= num_embeddings
            weight = Tensor.arange(num_embeddings, device=device).eq(padding_idx).unsqueeze(1).where(0.0, weight)
        self.padding_idx = padding_idx
        self.weight = weight.requires_grad_()

    def forward(self, index: Tensor) -> Tensor:
        rows = self.weight[index]
        if self.padding_idx is None:
            return rows
        return index.eq(self.padding_idx).unsqueeze(-1).where(rows.detach(), rows)


class EmbeddingBag(Module):
    """Rows of a table by number, a bag at a time: see
    :func:`compiler.nn.functional.embedding_bag <compiler.nn.functional.embedding_bag>`."""

    def __init__(self, num_embeddings: int, embedding_dim: int, *, mode: str = "mean",
                 include_last_offset: bool = False, padding_idx: int | None = None, device: str | None = None) -> None:
        self.mode, self.include_last_offset = mode, include_last_offset
        table = Embedding(num_embeddings, embedding_dim, padding_idx, device)
        self.padding_idx, self.weight = table.padding_idx, table.weight

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        return embedding_bag(input, self.weight, offsets, mode=self.mode, per_sample_weights=per_sample_weights,
                             include_last_offset=self.include_last_offset, padding_idx=self.padding_idx)


class LayerNorm(Module):
    """Over the last axes, of sizes ``normalized_shape``."""

    def __init__(self, normalized_shape: int | tuple[int, ...], eps: float = 1e-5, elementwise_affine: bool = True,
                 bias: bool = True, device: str | None = None) -> None:
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps, self.shape = eps, shape
        self.weight = Tensor.ones(*shape, device=device, requires_grad=True) if elementwise_affine else None
        self.bias = Tensor.zeros(*shape, device=device, requires_grad=True) if elementwise_affine and bias else None

    def forward(self, x: Tensor) -> Tensor:
        return x.layer_norm(self.shape, self.weight, self.bias, self.eps)


class Dropout(Module):
    """Each element is 0 with probability ``p`` while training, the others are divided by 1 - p."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return x.dropout(self.p, self.training)


class Flatten(Module):
    """Axes into one: by default all but the first."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start, self.end = start_dim, end_dim

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(self.start, self.end)


class Sequential(ModuleList):
    """One layer (any callable) after the other; or a dict of them, whose names are then those of the state."""

    def __init__(self, *layers: Callable[[Any], Any] | Mapping[str, Callable[[Any], Any]]) -> None:
        named = layers[0] if len(layers) == 1 and isinstance(layers[0], Mapping) else None
        super().__init__(list(layers) if named is None else list(named.values()))
        self._names = None if named is None else list(named)

    def forward(self, x: Any) -> Any:
        for layer in self:
            x = layer(x)
        return x

    def __getitem__(self, n: Any) -> Any:
        return Sequential(*self._list[n]) if isinstance(n, slice) else self._list[n]


class RMSNorm(Module):
    """Divided by the root of the mean square over the last axes, of sizes ``normalized_shape``."""

    def __init__(self, normalized_shape: int | tuple[int, ...], eps: float | None = None,
                 elementwise_affine: bool = True, device: str | None = None) -> None:
        self.shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps = eps
        self.weight = Tensor.ones(*self.shape, device=device, requires_grad=True) if elementwise_affine else None

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


class Dropout2d(Dropout):
    """Whole channels."""

    def forward(self, x: Tensor) -> Tensor:
        return x.dropout2d(self.p, self.training)


class Dropout1d(Dropout2d):
    """Whole channels of [batch, channels, length] at once; see :class:`Dropout`."""


class Dropout3d(Dropout2d):
    """Whole channels of [batch, channels, depth, height, width] at once; see :class:`Dropout`."""


class Identity(Module):
    """What goes in comes out."""

    def forward(self, x: Any) -> Any:
        return x


class Unflatten(Module):
    """Axis ``dim`` taken apart into ``unflattened_size``."""

    def __init__(self, dim: int, unflattened_size: tuple[int, ...]) -> None:
        self.dim, self.sizes = dim, unflattened_size

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(self.dim, self.sizes)
