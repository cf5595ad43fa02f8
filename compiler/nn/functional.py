"""Functions of tensors by PyTorch's names: ``F.relu(x)`` is ``x.relu()``, so that code written for it runs.

Every method of :class:`compiler.Tensor` is here under its own name; a few that are called otherwise there are spelled
out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from compiler.tensor import Tensor

__all__ = ["embedding", "embedding_bag", "fold", "unfold"]


def embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """Rows of ``weight`` by number; of row ``padding_idx`` no gradient is taken."""
    return input.embedding(weight, padding_idx)


def embedding_bag(input: Tensor, weight: Tensor, offsets: Tensor | None = None, *, mode: str = "mean",
                  per_sample_weights: Tensor | None = None, include_last_offset: bool = False,
                  padding_idx: int | None = None) -> Tensor:
    """Rows of ``weight`` by number, a bag of them at a time, as one row.

    :param input: [bags, numbers], or [numbers] with ``offsets``: where each bag begins.
    :param mode: sum, mean or max; of a bag that is empty, zeros. :param per_sample_weights: factors, for sum alone.
    :param include_last_offset: ``offsets`` end with the end of the last bag.
    :param padding_idx: this number counts as not there.
    :raises ValueError: shapes, a mode or weights that do not go together.
    """
    if mode not in ("sum", "mean", "max"):
        raise ValueError(f"embedding_bag: mode {mode!r} is none of sum, mean, max")
    if input.ndim not in (1, 2) or (offsets is None) != (input.ndim == 2):
        raise ValueError(f"embedding_bag: numbers of shape {tuple(input.shape)} are [bags, numbers], or [numbers] with "
                         "offsets")
    if per_sample_weights is not None and (mode != "sum" or per_sample_weights.shape != input.shape):
        raise ValueError("embedding_bag: weights are for mode sum, one for each number")
    rows = weight[input]
    there = (input.ne(padding_idx % weight.shape[0]) if padding_idx is not None
             else Tensor.ones(*input.shape, device=input.device).bool()).unsqueeze(-1)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(-1)
    if mode == "max":
        rows = there.where(rows, float("-inf"))
    else:
        rows, count = there.where(rows, 0.0), there.cast(rows.dtype)
    if offsets is None:
        if mode == "max":
            most = rows.amax(1)
            return most.eq(float("-inf")).where(0.0, most)
        total = rows.sum(1)
        return total / count.sum(1).maximum(1.0) if mode == "mean" else total
    bags = offsets.shape[0] - include_last_offset
    number = offsets[:bags].searchsorted(Tensor.arange(input.shape[0], device=input.device, dtype=offsets.dtype),
                                         right=True) - 1
    start = Tensor.zeros(bags, weight.shape[1], dtype=rows.dtype, device=weight.device)
    if mode == "max":
        most = (start - float("inf")).scatter_reduce(0, number.unsqueeze(1).expand(*rows.shape), rows, "amax")
        return most.eq(float("-inf")).where(0.0, most)
    total = start.index_add(0, number, rows)
    return total / start[:, :1].index_add(0, number, count).maximum(1.0) if mode == "mean" else total


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
