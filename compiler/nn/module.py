"""What a layer is, and a model's state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from compiler.tensor import Tensor, no_grad

__all__ = ["Module", "get_parameters", "get_state_dict", "load_state_dict"]


class Module:
    """A layer: callable, with parameters found among its attributes."""

    training = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no forward()")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

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
