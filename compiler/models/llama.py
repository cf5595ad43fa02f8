"""LLaMA (Touvron et al., 2023) and its kin: RMSNorm, rotary positions, grouped queries, SwiGLU. Names are llama.cpp's,
so that a GGUF file's tensors are the state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from compiler import Tensor, nn

__all__ = ["LLaMA", "LLaMAConfig", "SIZES", "config_of", "rotations"]

F: Any = nn.functional


@dataclass(frozen=True)
class LLaMAConfig:
    layers: int = 32
    width: int = 4096
    heads: int = 32
    kv_heads: int = 32
    hidden: int = 11008
    vocabulary: int = 32000
    context: int = 2048
    base: float = 10000.0
    eps: float = 1e-5


SIZES = {"tiny": LLaMAConfig(2, 64, 4, 2, 128, 288, 64), "15m": LLaMAConfig(6, 288, 6, 6, 768, 32000, 256),
         "1b": LLaMAConfig(22, 2048, 32, 4, 5632), "7b": LLaMAConfig()}


def rotations(config: LLaMAConfig, factors: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and signed sines of each position, (context, features of a head): neighbours are a pair's two places.

    :param factors: what each frequency is divided by (``rope_freqs.weight`` of LLaMA 3's files).
    """
    each = config.width // config.heads
    frequencies = config.base ** (-np.arange(0, each, 2, dtype=np.float64) / each)
    if factors is not None:
        frequencies = frequencies / factors
    angles = np.outer(np.arange(config.context), frequencies)
    sines = np.sin(angles)
    return (np.repeat(np.cos(angles), 2, 1).astype(np.float32),
            np.stack([-sines, sines], -1).reshape(config.context, each).astype(np.float32))


def rotate(x: Any, cosines: Any, sines: Any) -> Any:
    """Each pair of neighbours (x0, x1) by its angle: (x0 cos - x1 sin, x1 cos + x0 sin)."""
    swapped = x.reshape(*x.shape[:-1], x.shape[-1] // 2, 2).flip(-1).reshape(x.shape)
    return x * cosines + swapped * sines


class Block(nn.Module):
    def __init__(self, c: LLaMAConfig) -> None:
        super().__init__()
        each = c.width // c.heads
        self.heads, self.kv_heads = c.heads, c.kv_heads
        self.attn_norm = nn.RMSNorm(c.width, c.eps)
        self.attn_q = nn.Linear(c.width, c.heads * each, bias=False)
        self.attn_k = nn.Linear(c.width, c.kv_heads * each, bias=False)
        self.attn_v = nn.Linear(c.width, c.kv_heads * each, bias=False)
        self.attn_output = nn.Linear(c.heads * each, c.width, bias=False)
        self.ffn_norm = nn.RMSNorm(c.width, c.eps)
        self.ffn_gate = nn.Linear(c.width, c.hidden, bias=False)
        self.ffn_up = nn.Linear(c.width, c.hidden, bias=False)
        self.ffn_down = nn.Linear(c.hidden, c.width, bias=False)

    def forward(self, x: Any, cache: Any, start: Any, turns: Any) -> Any:
        x = x + self.attend(self.attn_norm(x), cache, start, turns)
        y = self.ffn_norm(x)
        return x + self.ffn_down(F.silu(self.ffn_gate(y)) * self.ffn_up(y))

    def attend(self, x: Any, cache: Any, start: Any, turns: Any) -> Any:
        b, t, width = x.shape
        each = width // self.heads
        q = rotate(self.attn_q(x).reshape(b, t, self.heads, each).transpose(1, 2), *turns)
        k = rotate(self.attn_k(x).reshape(b, t, self.kv_heads, each).transpose(1, 2), *turns)
        v = self.attn_v(x).reshape(b, t, self.kv_heads, each).transpose(1, 2)
        keys, values = cache
        keys[:, :, start:start + t], values[:, :, start:start + t] = k, v
        first = isinstance(start, int) and start == 0           # then the new tokens are all there is
        if not first:
            k, v = keys[:, :, :start + t], values[:, :, :start + t]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=first, enable_gqa=self.heads != self.kv_heads)
        return self.attn_output(y.transpose(1, 2).reshape(b, t, width))


class LLaMA(nn.Module):
    """(batch, t) tokens -> (batch, vocabulary): logits for what follows the last one."""

    def __init__(self, config: LLaMAConfig, tied: bool = False, factors: np.ndarray | None = None) -> None:
        super().__init__()
        self.config = config
        self.token_embd = nn.Embedding(config.vocabulary, config.width)
        self.blk = nn.ModuleList([Block(config) for _ in range(config.layers)])
        self.output_norm = nn.RMSNorm(config.width, config.eps)
        self.output = None if tied else nn.Linear(config.width, config.vocabulary, bias=False)
        cosines, sines = rotations(config, factors)
        self.register_buffer("cosines", Tensor(cosines), persistent=False)
        self.register_buffer("sines", Tensor(sines), persistent=False)

    def cache_shape(self, batch: int = 1) -> tuple[int, ...]:
        """Of the keys (and of the values) that each layer keeps."""
        c = self.config
        return batch, c.kv_heads, c.context, c.width // c.heads

    def forward(self, tokens: Any, caches: Any, start: Any = 0) -> Any:
        """:param caches: (keys, values) for each layer, of :meth:`cache_shape`; what is new is written into them.
        :param start: tokens before these. Several tokens at once only at the beginning.
        """
        x = self.token_embd(tokens)
        t = tokens.shape[1]
        turns: Any = self.cosines[start:start + t], self.sines[start:start + t]     # type: ignore[attr-defined]
        for block, cache in zip(self.blk, caches, strict=True):
            x = block(x, cache, start, turns)
        x = self.output_norm(x[:, -1])
        return F.linear(x, self.token_embd.weight) if self.output is None else self.output(x)


def config_of(metadata: Mapping[str, Any], vocabulary: int) -> LLaMAConfig:
    """What a GGUF file's metadata say. :raises ValueError: the file is of another architecture."""
    kind = metadata.get("general.architecture")
    if kind != "llama":
        raise ValueError(f"the file's architecture is {kind!r}; this is LLaMA ('llama')")
    heads = int(metadata["llama.attention.head_count"])
    width = int(metadata["llama.embedding_length"])
    rotated = int(metadata.get("llama.rope.dimension_count", width // heads))
    if rotated != width // heads:
        raise ValueError(f"{rotated} of {width // heads} features of a head are rotated; LLaMA rotates all")
    return LLaMAConfig(int(metadata["llama.block_count"]), width, heads,
                       int(metadata.get("llama.attention.head_count_kv", heads)),
                       int(metadata["llama.feed_forward_length"]), vocabulary, int(metadata["llama.context_length"]),
                       float(metadata.get("llama.rope.freq_base", 10000.0)),
                       float(metadata["llama.attention.layer_norm_rms_epsilon"]))
