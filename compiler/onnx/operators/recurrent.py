"""RNN, GRU and LSTM: unrolled over the steps, which the shape of the input tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from compiler import dtypes
from compiler.onnx.registry import Node, operator
from compiler.tensor import Tensor

__all__: list[str] = []

Activation = Callable[[Tensor], Tensor]


def _activation(node: Node, name: str, alpha: float | None, beta: float | None) -> Activation:
    a, b = alpha, beta
    known: dict[str, Activation] = {
        "relu": Tensor.relu, "tanh": Tensor.tanh, "sigmoid": Tensor.sigmoid, "softsign": Tensor.softsign,
        "softplus": Tensor.softplus, "affine": lambda x: x * (1.0 if a is None else a) + (0.0 if b is None else b),
        "leakyrelu": lambda x: x.leaky_relu(0.01 if a is None else a),
        "thresholdedrelu": lambda x: (x > (1.0 if a is None else a)).where(x, x * 0),
        "scaledtanh": lambda x: (x * (1.0 if b is None else b)).tanh() * (1.0 if a is None else a),
        "hardsigmoid": lambda x: (x * (0.2 if a is None else a) + (0.5 if b is None else b)).clamp(0.0, 1.0),
        "elu": lambda x: x.elu(1.0 if a is None else a)}
    if name.lower() not in known:
        raise node.error(f"the activation {name!r} is not known; there are {', '.join(known)}")
    return known[name.lower()]


class _Layer:
    """What the three have in common: directions, layouts, lengths, initial states."""

    def __init__(self, node: Node, x: Any, w: Any, r: Any, b: Any, lengths: Any, states: list[Any],
                 defaults: list[str]) -> None:
        self.node = node
        data = node.tensor(x)
        self.batch_first = bool(node("layout", 0))
        self.x = data.transpose(0, 1) if self.batch_first else data
        self.steps, self.batch = int(self.x.shape[0]), int(self.x.shape[1])
        self.w, self.r = node.tensor(w), node.tensor(r)
        self.directions, self.hidden = int(self.w.shape[0]), int(self.r.shape[2])
        if node("hidden_size", self.hidden) != self.hidden:
            raise node.error(f"hidden_size is {node('hidden_size')}, and the weights have {self.hidden}")
        self.b = None if b is None else node.tensor(b)
        self.lengths = None if lengths is None else node.tensor(lengths).cast(dtypes.int32)
        self.clip = node("clip")
        names = list(node("activations", defaults * self.directions))
        alphas, betas = list(node("activation_alpha", [])), list(node("activation_beta", []))
        # parameters are listed for the activations that take them, in order
        takes = {"affine": 2, "leakyrelu": 1, "thresholdedrelu": 1, "scaledtanh": 2, "hardsigmoid": 2, "elu": 1}
        self.activations = []
        for name in names:
            count = takes.get(name.lower(), 0)
            alpha = alphas.pop(0) if count and alphas else None
            beta = betas.pop(0) if count == 2 and betas else None
            self.activations.append(_activation(node, name, alpha, beta))
        self.states = []
        for state in states:
            if state is None:
                self.states.append(Tensor.zeros(self.directions, self.batch, self.hidden, dtype=self.x.dtype,
                                                device=self.x.device))
            else:
                given = node.tensor(state)
                self.states.append(given.transpose(0, 1) if self.batch_first else given)

    def clipped(self, x: Tensor) -> Tensor:
        return x if self.clip is None else x.clamp(-self.clip, self.clip)

    def run(self, step: Callable[..., tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """``step(direction, activations, x, *states) -> states``, the first of which is what comes out."""
        per = len(self.activations) // self.directions
        outputs, finals = [], []
        for d in range(self.directions):
            backwards = d == 1 or self.node("direction", "forward") == "reverse"
            states = [state[d] for state in self.states]
            seen: list[Any] = [None] * self.steps
            for t in reversed(range(self.steps)) if backwards else range(self.steps):
                new = step(d, self.activations[d * per:(d + 1) * per], self.x[t], *states)
                if self.lengths is None:
                    states, seen[t] = list(new), new[0]
                else:
                    on = (self.lengths > t).unsqueeze(1)
                    states = [on.where(n, old) for n, old in zip(new, states, strict=True)]
                    seen[t] = on.where(new[0], new[0] * 0)
            outputs.append(Tensor.stack(seen, dim=0))
            finals.append(states)
        y = Tensor.stack(outputs, dim=1)                # steps, directions, batch, hidden
        last = [Tensor.stack([states[i] for states in finals], dim=0) for i in range(len(self.states))]
        if self.batch_first:
            y, last = y.permute(2, 0, 1, 3), [state.transpose(0, 1) for state in last]
        return (y, *last)

    def gates(self, d: int, count: int) -> tuple[list[Tensor], list[Tensor], list[Any], list[Any]]:
        """Weights of each gate (transposed), and biases for the input and for the state."""
        h = self.hidden
        w = [self.w[d, i * h:(i + 1) * h].transpose(0, 1) for i in range(count)]
        r = [self.r[d, i * h:(i + 1) * h].transpose(0, 1) for i in range(count)]
        wb = [0.0 if self.b is None else self.b[d, i * h:(i + 1) * h] for i in range(count)]
        rb = [0.0 if self.b is None else self.b[d, (count + i) * h:(count + i + 1) * h] for i in range(count)]
        return w, r, wb, rb


@operator("RNN")
def rnn(node: Node, x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h0: Any = None) -> tuple[Tensor, ...]:
    layer = _Layer(node, x, w, r, b, lengths, [h0], ["Tanh"])

    def step(d: int, acts: list[Activation], xt: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        (wi,), (ri,), (wb,), (rb,) = layer.gates(d, 1)
        return (acts[0](layer.clipped(xt @ wi + h @ ri + wb + rb)),)
    return layer.run(step)


@operator("GRU")
def gru(node: Node, x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h0: Any = None) -> tuple[Tensor, ...]:
    layer = _Layer(node, x, w, r, b, lengths, [h0], ["Sigmoid", "Tanh"])

    def step(d: int, acts: list[Activation], xt: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        ws, rs, wb, rb = layer.gates(d, 3)              # update, reset, hidden
        z = acts[0](layer.clipped(xt @ ws[0] + h @ rs[0] + wb[0] + rb[0]))
        reset = acts[0](layer.clipped(xt @ ws[1] + h @ rs[1] + wb[1] + rb[1]))
        if node("linear_before_reset", 0):
            new = xt @ ws[2] + wb[2] + reset * (h @ rs[2] + rb[2])
        else:
            new = xt @ ws[2] + (reset * h) @ rs[2] + wb[2] + rb[2]
        return ((1 - z) * acts[1](layer.clipped(new)) + z * h,)
    return layer.run(step)


@operator("LSTM")
def lstm(node: Node, x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h0: Any = None, c0: Any = None,
         peepholes: Any = None) -> tuple[Tensor, ...]:
    layer = _Layer(node, x, w, r, b, lengths, [h0, c0], ["Sigmoid", "Tanh", "Tanh"])
    look = None if peepholes is None else node.tensor(peepholes)

    def step(d: int, acts: list[Activation], xt: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        ws, rs, wb, rb = layer.gates(d, 4)              # input, output, forget, cell
        size = layer.hidden
        pi, po, pf = [0.0 if look is None else look[d, i * size:(i + 1) * size] for i in range(3)]
        gate = [xt @ ws[i] + h @ rs[i] + wb[i] + rb[i] for i in range(4)]
        enter = acts[0](layer.clipped(gate[0] + pi * c))
        forget = 1 - enter if node("input_forget", 0) else acts[0](layer.clipped(gate[2] + pf * c))
        cell = forget * c + enter * acts[1](layer.clipped(gate[3]))
        leave = acts[0](layer.clipped(gate[1] + po * cell))
        return leave * acts[2](cell), cell
    return layer.run(step)
