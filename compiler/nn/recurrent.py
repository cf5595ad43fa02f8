"""Recurrent layers, with PyTorch's names and order of gates in their weights."""

from __future__ import annotations

import math
from typing import Any

from compiler.nn.module import Module
from compiler.tensor import Tensor

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell"]


class _Recurrent(Module):
    """Over (time, batch, features), or (batch, time, features) with ``batch_first``; layers on top of each other.

    :param dropout: between layers, in training.
    """

    gates = 1

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
                 batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False,
                 device: str | None = None) -> None:
        self.hidden_size, self.num_layers, self.batch_first = hidden_size, num_layers, batch_first
        self.dropout = dropout
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
            if layer and self.dropout and self.training:
                x = x.dropout(self.dropout)
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
    """Gated recurrent units: a reset and an update gate. ``forward`` gives (outputs, last states), as :class:`RNN`
    does."""

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
    """Long short-term memory. ``forward`` takes and gives the states as a pair (h, c), each [layers, batch, hidden]."""

    gates = 4

    def _step(self, x: Tensor, state: tuple[Tensor, ...], suffix: str) -> tuple[Tensor, ...]:
        i, f, g, o = (x + self._hidden(state[0], suffix)).chunk(4, -1)
        cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * cell.tanh(), cell

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        out, (h, c) = self._run(x, [self._zeros(x), self._zeros(x)] if state is None else list(state))
        return out, (h, c)


class _Cell(Module):
    """One step of a recurrent layer, with its names: ``weight_ih``, ``weight_hh``, ``bias_ih``, ``bias_hh``."""

    layer: type[_Recurrent] = RNN

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, device: str | None = None) -> None:
        self.hidden_size = hidden_size
        bound, rows = 1 / math.sqrt(hidden_size), self.layer.gates * hidden_size
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, input_size), "weight_hh": (rows, hidden_size)}
        if bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        for name, shape in shapes.items():
            setattr(self, name, Tensor.uniform(*shape, low=-bound, high=bound, device=device, requires_grad=True))

    def _next(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        share = x.linear(self.weight_ih, getattr(self, "bias_ih", None))    # type: ignore[attr-defined]
        return self.layer._step(self, share, state, "")                     # type: ignore[arg-type]

    def _hidden(self, h: Tensor, _suffix: str) -> Tensor:
        return h.linear(self.weight_hh, getattr(self, "bias_hh", None))     # type: ignore[attr-defined, no-any-return]

    def _zeros(self, x: Tensor) -> Tensor:
        return Tensor.zeros(*x.shape[:-1], self.hidden_size, dtype=x.dtype, device=x.device)

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        return self._next(x, (self._zeros(x) if h is None else h,))[0]


class RNNCell(_Cell):
    """(batch, features), state -> the next state."""


class GRUCell(_Cell):
    """One step of :class:`GRU`: inputs [batch, in] and states [batch, hidden] give the next states."""

    layer = GRU


class LSTMCell(_Cell):
    """One step of :class:`LSTM`: inputs [batch, in] and a pair (h, c) of states give the next pair."""

    layer = LSTM

    def forward(self, x: Tensor, state: Any = None) -> Any:
        return self._next(x, (self._zeros(x), self._zeros(x)) if state is None else tuple(state))
