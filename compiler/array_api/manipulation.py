"""Arrays in other shapes."""

from __future__ import annotations

from typing import Any

from compiler.methods.elementwise import broadcast_shapes as _common
from compiler.tensor import Tensor

__all__ = ["broadcast_arrays", "broadcast_shapes", "broadcast_to", "concat", "expand_dims", "flip", "moveaxis",
           "permute_dims", "repeat", "reshape", "roll", "squeeze", "stack", "tile", "unstack"]


def broadcast_shapes(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    return _common(*(tuple(s) for s in shapes)) if shapes else ()


def broadcast_arrays(*arrays: Tensor) -> list[Tensor]:
    return list(Tensor.broadcast_tensors(*arrays)) if arrays else []


def broadcast_to(x: Tensor, /, shape: tuple[int, ...]) -> Tensor:
    return x.expand(shape)


def concat(arrays: Any, /, *, axis: int | None = 0) -> Tensor:
    parts = list(arrays)
    if axis is None:
        parts, axis = [p.flatten() for p in parts], 0
    return parts[0].cat(*parts[1:], dim=axis)  # type: ignore[no-any-return]


def stack(arrays: Any, /, *, axis: int = 0) -> Tensor:
    parts = list(arrays)
    return parts[0].stack(*parts[1:], dim=axis)  # type: ignore[no-any-return]


def expand_dims(x: Tensor, /, axis: int = 0) -> Tensor:
    return x.unsqueeze(axis)


def squeeze(x: Tensor, /, axis: int | tuple[int, ...]) -> Tensor:
    axes = x._axes(axis)
    if any(x.shape[a] != 1 for a in axes):
        raise ValueError(f"squeeze of axes {axes} of an array of shape {x.shape}: they are not of size 1")
    return x.squeeze(axes)


def flip(x: Tensor, /, *, axis: int | tuple[int, ...] | None = None) -> Tensor:
    return x.flip(*x._axes(axis)) if x.ndim else +x


def roll(x: Tensor, /, shift: Any, *, axis: Any = None) -> Tensor:
    if isinstance(axis, tuple) and isinstance(shift, int):
        shift = (shift,) * len(axis)
    return x.roll(shift, axis)


def permute_dims(x: Tensor, /, axes: tuple[int, ...]) -> Tensor:
    return x.permute(axes)


def moveaxis(x: Tensor, source: Any, destination: Any, /) -> Tensor:
    return x.movedim(source, destination)


def reshape(x: Tensor, /, shape: tuple[int, ...], *, copy: bool | None = None) -> Tensor:
    return x.reshape(shape)


def repeat(x: Tensor, repeats: Any, /, *, axis: int | None = None) -> Tensor:
    return x.repeat_interleave(repeats if isinstance(repeats, int) else repeats.numpy(), axis)


def tile(x: Tensor, repetitions: tuple[int, ...], /) -> Tensor:
    return x.tile(repetitions)


def unstack(x: Tensor, /, *, axis: int = 0) -> tuple[Tensor, ...]:
    return x.unbind(axis)
