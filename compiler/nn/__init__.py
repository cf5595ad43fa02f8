"""Layers, losses, and a model's state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from compiler.tensor import Tensor, no_grad

__all__ = [
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "Dropout",
    "Embedding",
    "Flatten",
    "GELU",
    "L1Loss",
    "LayerNorm",
    "Linear",
    "MSELoss",
    "Module",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Tanh",
    "get_parameters",
    "get_state_dict",
    "load_state_dict",
]


class Module:
    """A layer: callable, with parameters found among its attributes."""

    training = True

    def forward(self, *args: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no forward()")

    def __call__(self, *args: Any) -> Any:
        return self.forward(*args)

    def parameters(self) -> list[Tensor]:
        return get_parameters(self)

    def state_dict(self) -> dict[str, Tensor]:
        return get_state_dict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        load_state_dict(self, state)

    def zero_grad(self) -> None:
        for p in self.parameters():
            p.grad = None

    def train(self, mode: bool = True) -> Module:
        for _, module in _walk(self, "", Module):
            module.training = mode
        return self

    def eval(self) -> Module:
        return self.train(False)

    def to(self, device: str) -> Module:
        """Move every parameter, in place."""
        for _, p in _walk(self, "", Tensor):
            _replace(p, p.detach().to(device))
        return self

    def shard(self, devices: Sequence[str], axis: int | None = None) -> Module:
        """Spread every parameter over devices, in place: the whole on each, or an axis in parts."""
        for _, p in _walk(self, "", Tensor):
            _replace(p, p.detach().shard(devices, axis))
        return self


def _replace(parameter: Tensor, value: Tensor) -> None:
    """Let a parameter be another value, on whatever device that is."""
    wanted = parameter.requires_grad
    value = value.realize()
    parameter.requires_grad_(False)
    parameter.uop, parameter._device = value.uop, value._device
    parameter.requires_grad_(wanted)


def _walk(thing: Any, prefix: str, kind: type, seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """Every ``kind`` in attributes, lists, tuples and dicts, with its dotted name, once."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, kind):
        yield prefix, thing
    if isinstance(thing, Tensor):
        return
    if isinstance(thing, dict):
        items = [(str(k), v) for k, v in thing.items()]
    elif isinstance(thing, list | tuple):
        items = [(str(i), v) for i, v in enumerate(thing)]
    elif hasattr(thing, "__dict__"):
        items = list(vars(thing).items())
    else:
        return
    for name, value in items:
        yield from _walk(value, f"{prefix}.{name}" if prefix else name, kind, seen)


def get_state_dict(module: Any) -> dict[str, Tensor]:
    """{dotted name: tensor} of everything below."""
    return dict(_walk(module, "", Tensor))


def get_parameters(module: Any) -> list[Tensor]:
    """The tensors that require gradients."""
    return [t for t in get_state_dict(module).values() if t.requires_grad]


def load_state_dict(module: Any, state: dict[str, Any]) -> None:
    """Assign tensors or arrays by name. :raises KeyError, ValueError: for names or shapes that do not fit."""
    own = get_state_dict(module)
    if missing := sorted(own.keys() ^ state.keys()):
        raise KeyError(f"state and module differ in {', '.join(missing)}")
    with no_grad():
        for name, tensor in own.items():
            value = state[name]
            if tuple(value.shape) != tensor.shape:
                raise ValueError(f"{name}: the state has shape {tuple(value.shape)}, the module {tensor.shape}")
            if isinstance(value, Tensor):
                value = value.detach().to(tensor.device)
            tensor.assign(value).realize()


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


class ReLU(Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu()


class GELU(Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.gelu()


class Tanh(Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.tanh()


class Sigmoid(Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sigmoid()


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


class _Loss(Module):
    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = reduction


class CrossEntropyLoss(_Loss):
    """Of logits and class numbers."""

    def __init__(self, reduction: str = "mean", label_smoothing: float = 0.0) -> None:
        super().__init__(reduction)
        self.label_smoothing = label_smoothing

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return x.cross_entropy(target, reduction=self.reduction, label_smoothing=self.label_smoothing)


class MSELoss(_Loss):
    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return x.mse_loss(target, self.reduction)


class L1Loss(_Loss):
    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return x.l1_loss(target, self.reduction)


class BCEWithLogitsLoss(_Loss):
    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return x.binary_cross_entropy_with_logits(target, reduction=self.reduction)
