"""Functions of tensors by PyTorch's names: ``F.relu(x)`` is ``x.relu()``, so that code written for it runs.

Every method of :class:`compiler.Tensor` is here under its own name; a few that are called otherwise there are spelled
out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from compiler.tensor import Tensor

__all__ = ["embedding", "fold", "unfold"]


def embedding(input: Tensor, weight: Tensor) -> Tensor:
    """Rows of ``weight`` by number."""
    return weight[input]


def unfold(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Windows of an image as columns: :meth:`Tensor.im2col`."""
    return input.im2col(*args, **kwargs)


def fold(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Columns back to places: :meth:`Tensor.col2im`."""
    return input.col2im(*args, **kwargs)


def __getattr__(name: str) -> Callable[..., Any]:
    if name.startswith("_") or not callable(method := getattr(Tensor, name, None)):
        raise AttributeError(f"compiler.nn.functional has no {name}: no tensor has that method")

    def call(input: Any, *args: Any, **kwargs: Any) -> Any:
        return method(input, *args, **kwargs)
    call.__name__ = call.__qualname__ = name
    call.__doc__ = method.__doc__
    return call
