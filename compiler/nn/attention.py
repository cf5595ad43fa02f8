"""Attention, and the layers of a transformer. Names in their states are PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from compiler.nn.layers import Dropout, LayerNorm, Linear
from compiler.nn.module import Module, ModuleList
from compiler.tensor import Tensor

__all__ = ["MultiheadAttention", "Transformer", "TransformerDecoder", "TransformerDecoderLayer", "TransformerEncoder",
           "TransformerEncoderLayer"]


class MultiheadAttention(Module):
    """Of (time, batch, features), or (batch, time, features) with ``batch_first``; the batch may be missing.

    :param kdim, vdim: features of keys and values, where they are others.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True,
                 kdim: int | None = None, vdim: int | None = None, batch_first: bool = False,
                 device: str | None = None) -> None:
        if embed_dim % num_heads:
            raise ValueError(f"attention: {embed_dim} features do not part into {num_heads} heads")
        self.heads, self.dropout, self.batch_first = num_heads, dropout, batch_first
        kdim, vdim = kdim or embed_dim, vdim or embed_dim
        self.in_proj_weight = self.q_proj_weight = self.k_proj_weight = self.v_proj_weight = None
        if kdim == vdim == embed_dim:
            self.in_proj_weight = Tensor.glorot_uniform(3 * embed_dim, embed_dim, device=device, requires_grad=True)
        else:
            self.q_proj_weight, self.k_proj_weight, self.v_proj_weight = (
                Tensor.glorot_uniform(embed_dim, n, device=device, requires_grad=True) for n in (embed_dim, kdim, vdim))
        self.in_proj_bias = Tensor.zeros(3 * embed_dim, device=device, requires_grad=True) if bias else None
        self.out_proj = Linear(embed_dim, embed_dim, bias, device)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Any = None,
                need_weights: bool = True, attn_mask: Any = None, average_attn_weights: bool = True,
                is_causal: bool = False) -> tuple[Tensor, Tensor | None]:
        """(output, weights); the weights are None unless they are needed.

        :param key_padding_mask: (batch, keys): true, or a number to add, where there is nothing to look at.
        :param attn_mask: (queries, keys), or one for each batch and head: true where not to look, or numbers to add.
        :param is_causal: look back only; no mask is needed then.
        """
        batched = query.ndim == 3
        if not batched:
            axis = 0 if self.batch_first else 1
            query, key, value = (x.unsqueeze(axis) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        weights: Any = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight) if self.in_proj_weight is None \
            else self.in_proj_weight.chunk(3, 0)
        biases: Any = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3, 0)
        q, k, v = (self._split(x.linear(w, b)) for x, w, b in zip((query, key, value), weights, biases, strict=True))
        scores = q @ k.transpose(-2, -1) * (1 / math.sqrt(q.shape[-1]))
        if attn_mask is not None:
            mask = _added(attn_mask)
            scores = scores + (mask.reshape(scores.shape) if mask.ndim == 3 else mask)
        elif is_causal:
            scores = scores + _added(Tensor.ones(*scores.shape[-2:], device=scores.device).triu(1).ne(0))
        if key_padding_mask is not None:
            scores = scores + _added(key_padding_mask).unsqueeze(1).unsqueeze(1)
        shares = scores.softmax(-1)
        if self.dropout and self.training:
            shares = shares.dropout(self.dropout)
        out = (shares @ v).transpose(1, 2).flatten(2)
        out = self.out_proj(out if self.batch_first else out.transpose(0, 1))
        seen = (shares.mean(1) if average_attn_weights else shares) if need_weights else None
        if not batched:
            out, seen = out.squeeze(0 if self.batch_first else 1), None if seen is None else seen.squeeze(0)
        return out, seen

    def _split(self, x: Tensor) -> Tensor:
        x = x if self.batch_first else x.transpose(0, 1)
        return x.unflatten(-1, (self.heads, x.shape[-1] // self.heads)).transpose(1, 2)


def _added(mask: Tensor) -> Tensor:
    """A mask as numbers to add to scores."""
    return mask.where(-math.inf, 0.0) if mask.dtype.kind == "b" else mask


class _Block(Module):
    """What layers of encoders and decoders have in common: attention, and two linear layers; norms before or after."""

    def __init__(self, d_model: int, nhead: int, dim_feedforward: int, dropout: float, activation: Any,
                 layer_norm_eps: float, batch_first: bool, norm_first: bool, bias: bool, norms: int,
                 device: str | None) -> None:
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, device=device)
        self.linear1 = Linear(d_model, dim_feedforward, bias, device)
        self.linear2 = Linear(dim_feedforward, d_model, bias, device)
        self.norm_first = norm_first
        self.activation: Callable[[Tensor], Tensor] = activation if callable(activation) else \
            {"relu": Tensor.relu, "gelu": Tensor.gelu}[activation]
        for n in range(1, norms + 1):
            setattr(self, f"norm{n}", LayerNorm(d_model, layer_norm_eps, bias=bias, device=device))
        self.drop = Dropout(dropout)

    def _add(self, x: Tensor, part: Callable[[Tensor], Tensor], norm: LayerNorm) -> Tensor:
        return x + self.drop(part(norm(x))) if self.norm_first else norm(x + self.drop(part(x)))  # type: ignore[no-any-return]

    def _feed(self, x: Tensor) -> Tensor:
        return self.linear2(self.drop(self.activation(self.linear1(x))))  # type: ignore[no-any-return]


class TransformerEncoderLayer(_Block):
    """Self-attention and two linear layers (Vaswani et al., 2017)."""

    def __init__(self, d_model: int, nhead: int, dim_feedforward: int = 2048, dropout: float = 0.1,
                 activation: Any = "relu", layer_norm_eps: float = 1e-5, batch_first: bool = False,
                 norm_first: bool = False, bias: bool = True, device: str | None = None) -> None:
        super().__init__(d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first,
                         bias, 2, device)

    def forward(self, src: Tensor, src_mask: Any = None, src_key_padding_mask: Any = None,
                is_causal: bool = False) -> Tensor:
        def attend(x: Tensor) -> Tensor:
            return self.self_attn(x, x, x, src_key_padding_mask, False, src_mask, is_causal=is_causal)[0]  # type: ignore[no-any-return]
        x = self._add(src, attend, self.norm1)          # type: ignore[attr-defined]
        return self._add(x, self._feed, self.norm2)     # type: ignore[attr-defined]


class TransformerDecoderLayer(_Block):
    """Self-attention, attention to ``memory``, and two linear layers."""

    def __init__(self, d_model: int, nhead: int, dim_feedforward: int = 2048, dropout: float = 0.1,
                 activation: Any = "relu", layer_norm_eps: float = 1e-5, batch_first: bool = False,
                 norm_first: bool = False, bias: bool = True, device: str | None = None) -> None:
        super().__init__(d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first,
                         bias, 3, device)
        self.multihead_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first, device=device)

    def forward(self, tgt: Tensor, memory: Tensor, tgt_mask: Any = None, memory_mask: Any = None,
                tgt_key_padding_mask: Any = None, memory_key_padding_mask: Any = None, tgt_is_causal: bool = False,
                memory_is_causal: bool = False) -> Tensor:
        def attend(x: Tensor) -> Tensor:
            return self.self_attn(x, x, x, tgt_key_padding_mask, False, tgt_mask, is_causal=tgt_is_causal)[0]  # type: ignore[no-any-return]

        def remember(x: Tensor) -> Tensor:
            return self.multihead_attn(x, memory, memory, memory_key_padding_mask, False,  # type: ignore[no-any-return]
                                       memory_mask, is_causal=memory_is_causal)[0]
        x = self._add(tgt, attend, self.norm1)          # type: ignore[attr-defined]
        x = self._add(x, remember, self.norm2)          # type: ignore[attr-defined]
        return self._add(x, self._feed, self.norm3)     # type: ignore[attr-defined]


class _Stack(Module):
    def __init__(self, layer: Module, num_layers: int, norm: Module | None = None) -> None:
        self.layers = ModuleList([deepcopy(layer) for _ in range(num_layers)])
        self.norm = norm

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        for layer in self.layers:
            x = layer(x, *args, **kwargs)
        return x if self.norm is None else self.norm(x)  # type: ignore[no-any-return]


class TransformerEncoder(_Stack):
    """Copies of a layer, one after the other, and a norm at the end. ``(src, mask, src_key_padding_mask)``."""


class TransformerDecoder(_Stack):
    """Likewise, of a decoder's layer. ``(tgt, memory, tgt_mask, ...)``."""


class Transformer(Module):
    """An encoder and a decoder of ``d_model`` features with ``nhead`` heads, a norm at the end of each (Vaswani et al.,
    2017)."""

    def __init__(self, d_model: int = 512, nhead: int = 8, num_encoder_layers: int = 6, num_decoder_layers: int = 6,
                 dim_feedforward: int = 2048, dropout: float = 0.1, activation: Any = "relu",
                 layer_norm_eps: float = 1e-5, batch_first: bool = False, norm_first: bool = False, bias: bool = True,
                 device: str | None = None) -> None:
        def stack(kind: type[_Stack], layer: type[Module], count: int) -> Any:
            made = layer(d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first,  # type: ignore[call-arg]
                         bias, device)
            return kind(made, count, LayerNorm(d_model, layer_norm_eps, bias=bias, device=device))
        self.encoder = stack(TransformerEncoder, TransformerEncoderLayer, num_encoder_layers)
        self.decoder = stack(TransformerDecoder, TransformerDecoderLayer, num_decoder_layers)

    def forward(self, src: Tensor, tgt: Tensor, src_mask: Any = None, tgt_mask: Any = None, memory_mask: Any = None,
                src_key_padding_mask: Any = None, tgt_key_padding_mask: Any = None,
                memory_key_padding_mask: Any = None) -> Tensor:
        memory = self.encoder(src, src_mask, src_key_padding_mask)
        return self.decoder(tgt, memory, tgt_mask, memory_mask, tgt_key_padding_mask,       # type: ignore[no-any-return]
                            memory_key_padding_mask)

    @staticmethod
    def generate_square_subsequent_mask(size: int, device: str | None = None) -> Tensor:
        """[size, size]: minus infinity above the diagonal, so that nothing looks ahead; to be added."""
        return Tensor.full((size, size), float("-inf"), device=device).triu(1)
