"""Recurrent layers and attention, with PyTorch's names and order of gates in their weights."""

from __future__ import annotations

import math
from typing import Any

from compiler.nn.layers import Linear
from compiler.nn.module import Module
from compiler.tensor import Tensor

__all__ = ["GRU", "LSTM", "RNN", "MultiheadAttention"]


class _Recurrent(Module):
    """Over (time, batch, features), or (batch, time, features) with ``batch_first``; layers on top of each other."""

    gates = 1

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
                 batch_first: bool = False, bidirectional: bool = False, device: str | None = None) -> None:
        self.hidden_size, self.num_layers, self.batch_first = hidden_size, num_layers, batch_first
        self.directions = 2 if bidirectional else 1
        bound = 1 / math.sqrt(hidden_size)
        for layer in range(num_layers):
            size = input_size if layer == 0 else hidden_size * self.directions
            for suffix in self._suffixes(layer):
                rows = self.gates * hidden_size
                shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, size), "weight_hh": (rows, hidden_size)}
                if bias:
                    shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
                for name, shape in shapes.items():
                    setattr(self, f"{name}_{suffix}", Tensor.uniform(*shape, low=-bound, high=bound, device=device,
                                                                     requires_grad=True))

    def _suffixes(self, layer: int) -> list[str]:
        return [f"l{layer}", f"l{layer}_reverse"][:self.directions]

    def _step(self, x: Tensor, state: tuple[Tensor, ...], suffix: str) -> tuple[Tensor, ...]:
        """The next state, whose first part is the output; ``x`` is the input's share of the gates."""
        raise NotImplementedError

    def _hidden(self, h: Tensor, suffix: str) -> Tensor:
        return h.linear(getattr(self, f"weight_hh_{suffix}"), getattr(self, f"bias_hh_{suffix}", None))

    def _run(self, x: Tensor, states: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        if self.batch_first:
            x = x.transpose(0, 1)
        last: list[list[Tensor]] = [[] for _ in states]
        for layer in range(self.num_layers):
            outs = []
            for k, suffix in enumerate(self._suffixes(layer)):
                n = layer * self.directions + k
                state = tuple(s[n] for s in states)
                share = x.linear(getattr(self, f"weight_ih_{suffix}"), getattr(self, f"bias_ih_{suffix}", None))
                times = range(x.shape[0]) if k == 0 else range(x.shape[0] - 1, -1, -1)
                seen = {}
                for t in times:
                    state = self._step(share[t], state, suffix)
                    seen[t] = state[0]
                outs.append(Tensor.stack([seen[t] for t in range(x.shape[0])]))
                for kept, s in zip(last, state, strict=True):
                    kept.append(s)
            x = outs[0] if len(outs) == 1 else outs[0].cat(outs[1], dim=-1)
        return x.transpose(0, 1) if self.batch_first else x, [Tensor.stack(s) for s in last]

    def _zeros(self, x: Tensor) -> Tensor:
        batch = x.shape[0 if self.batch_first else 1]
        return Tensor.zeros(self.num_layers * self.directions, batch, self.hidden_size, dtype=x.dtype, device=x.device)


class RNN(_Recurrent):
    """h' = tanh(W x + b + V h + c)"""

    def _step(self, x: Tensor, state: tuple[Tensor, ...], suffix: str) -> tuple[Tensor, ...]:
        return ((x + self._hidden(state[0], suffix)).tanh(),)

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        out, (last,) = self._run(x, [self._zeros(x) if h is None else h])
        return out, last


class GRU(_Recurrent):
    gates = 3

    def _step(self, x: Tensor, state: tuple[Tensor, ...], suffix: str) -> tuple[Tensor, ...]:
        hidden = self._hidden(state[0], suffix)
        (xr, xz, xn), (hr, hz, hn) = x.chunk(3, -1), hidden.chunk(3, -1)
        reset, update = (xr + hr).sigmoid(), (xz + hz).sigmoid()
        new = (xn + reset * hn).tanh()
        return (new + update * (state[0] - new),)

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        out, (last,) = self._run(x, [self._zeros(x) if h is None else h])
        return out, last


class LSTM(_Recurrent):
    gates = 4

    def _step(self, x: Tensor, state: tuple[Tensor, ...], suffix: str) -> tuple[Tensor, ...]:
        i, f, g, o = (x + self._hidden(state[0], suffix)).chunk(4, -1)
        cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * cell.tanh(), cell

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        out, (h, c) = self._run(x, [self._zeros(x), self._zeros(x)] if state is None else list(state))
        return out, (h, c)


class MultiheadAttention(Module):
    """Of (time, batch, features), or (batch, time, features) with ``batch_first``."""

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True,
                 batch_first: bool = False, device: str | None = None) -> None:
        if embed_dim % num_heads:
            raise ValueError(f"attention: {embed_dim} features do not part into {num_heads} heads")
        self.heads, self.dropout, self.batch_first = num_heads, dropout, batch_first
        bound = math.sqrt(6 / (4 * embed_dim))
        self.in_proj_weight = Tensor.uniform(3 * embed_dim, embed_dim, low=-bound, high=bound, device=device,
                                             requires_grad=True)
        self.in_proj_bias = Tensor.zeros(3 * embed_dim, device=device, requires_grad=True) if bias else None
        self.out_proj = Linear(embed_dim, embed_dim, bias, device)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None,
                is_causal: bool = False) -> Tensor:
        weights = self.in_proj_weight.chunk(3, 0)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3, 0)
        q, k, v = (self._split(x.linear(w, b)) for x, w, b in zip((query, key, value), weights, biases, strict=True))
        if attn_mask is not None and attn_mask.dtype.kind == "b":       # PyTorch's layer: true means: not there
            attn_mask = attn_mask.logical_not()
        out = q.scaled_dot_product_attention(k, v, attn_mask, self.dropout if self.training else 0.0, is_causal)
        out = out.transpose(1, 2).flatten(2)
        return self.out_proj(out if self.batch_first else out.transpose(0, 1))  # type: ignore[no-any-return]

    def _split(self, x: Tensor) -> Tensor:
        x = x if self.batch_first else x.transpose(0, 1)
        return x.unflatten(-1, (self.heads, x.shape[-1] // self.heads)).transpose(1, 2)
