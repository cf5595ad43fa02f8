"""GPT-2 (Radford et al., 2019), with the names of the transformers library's checkpoints.

Keys and values of earlier tokens are kept: ``forward`` takes tokens that follow ``start`` others. ``start`` may be a
symbolic size, so that one recording serves all lengths.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compiler import nn

__all__ = ["GPT2", "SIZES", "GPT2Config", "adapted", "config_of"]

F: Any = nn.functional


@dataclass(frozen=True)
class GPT2Config:
    layers: int = 12
    width: int = 768
    heads: int = 12
    vocabulary: int = 50257
    context: int = 1024


# table 2 of the paper, and one that fits into a test
SIZES = {"tiny": GPT2Config(2, 64, 4, 256, 64), "small": GPT2Config(), "medium": GPT2Config(24, 1024, 16),
         "large": GPT2Config(36, 1280, 20), "xl": GPT2Config(48, 1600, 25)}


class Attention(nn.Module):
    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.c_attn = nn.Linear(config.width, 3 * config.width)
        self.c_proj = nn.Linear(config.width, config.width)

    def forward(self, x: Any, cache: Any, start: Any) -> Any:
        b, t, width = x.shape
        qkv = self.c_attn(x).reshape(b, t, 3, self.heads, width // self.heads)
        q, k, v = (qkv[:, :, i].transpose(1, 2) for i in range(3))
        keys, values = cache
        keys[:, :, start:start + t], values[:, :, start:start + t] = k, v
        first = isinstance(start, int) and start == 0           # then the new tokens are all there is
        if not first:
            k, v = keys[:, :, :start + t], values[:, :, :start + t]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=first)
        return self.c_proj(y.transpose(1, 2).reshape(b, t, width))


class MLP(nn.Module):
    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.width, 4 * config.width)
        self.c_proj = nn.Linear(4 * config.width, config.width)

    def forward(self, x: Any) -> Any:
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.width)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.width)
        self.mlp = MLP(config)

    def forward(self, x: Any, cache: Any, start: Any) -> Any:
        x = x + self.attn(self.ln_1(x), cache, start)
        return x + self.mlp(self.ln_2(x))


class GPT2(nn.Module):
    """(batch, t) tokens -> (batch, vocabulary): logits for what follows the last one."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocabulary, config.width)
        self.wpe = nn.Embedding(config.context, config.width)
        self.h = nn.ModuleList([Block(config) for _ in range(config.layers)])
        self.ln_f = nn.LayerNorm(config.width)

    def cache_shape(self, batch: int = 1) -> tuple[int, ...]:
        """Of the keys (and of the values) that each layer keeps."""
        c = self.config
        return batch, c.heads, c.context, c.width // c.heads

    def forward(self, tokens: Any, caches: Any, start: Any = 0) -> Any:
        """:param caches: (keys, values) for each layer, of :meth:`cache_shape`; what is new is written into them.
        :param start: tokens before these. Several tokens at once only at the beginning.
        """
        x = self.wte(tokens) + self.wpe.weight[start:start + tokens.shape[1]]
        for block, cache in zip(self.h, caches, strict=True):
            x = block(x, cache, start)
        return F.linear(self.ln_f(x[:, -1]), self.wte.weight)


def config_of(state: Mapping[str, Any]) -> GPT2Config:
    """What a checkpoint's shapes say. :raises KeyError: it is none of GPT-2."""
    vocabulary, width = state["wte.weight"].shape
    return GPT2Config(sum(name.endswith(".ln_1.weight") for name in state), width, max(1, width // 64), vocabulary,
                      state["wpe.weight"].shape[0])


def adapted(state: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint of the transformers library: its linear weights are (in, out), and it has masks as buffers."""
    state = {name.removeprefix("transformer."): value for name, value in state.items()}
    out = {}
    for name, value in state.items():
        if name.endswith((".attn.bias", ".attn.masked_bias")) or name == "lm_head.weight":
            continue
        turned = name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
        out[name] = value.transpose(0, 1) if turned else value
    return out
