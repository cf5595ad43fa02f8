"""Axes made longer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler import dtypes, graph
from compiler.methods.base import Methods

if TYPE_CHECKING:
    from compiler.tensor import Tensor

__all__ = ["Padding", "pad_amounts"]

# NumPy's names for PyTorch's modes
_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "replicate", "edge": "replicate",
          "circular": "circular", "wrap": "circular", "symmetric": "symmetric"}


def pad_amounts(pad: Any, ndim: int) -> list[tuple[int, int]]:
    """(before, after) for each axis, from PyTorch's flat list (last axis first), pairs an axis, or one number."""
    if isinstance(pad, int):
        return [(pad, pad)] * ndim
    if len(pad) and isinstance(pad[0], Sequence):
        if len(pad) != ndim:
            raise ValueError(f"pad: {len(pad)} pairs for {ndim} axes")
        return [(p[0], p[1]) for p in pad]
    flat = list(pad)
    if len(flat) % 2 or len(flat) > 2 * ndim:
        raise ValueError(f"pad: {len(flat)} numbers for {ndim} axes; give two for each of the last axes")
    return [(0, 0)] * (ndim - len(flat) // 2) + [(flat[i], flat[i + 1]) for i in range(len(flat) - 2, -1, -2)]


class Padding(Methods):
    """Mixin; see :class:`compiler.tensor.Tensor`."""

    __slots__ = ()

    def pad(self, pad: Any, mode: Any = "constant", value: Any = 0.0) -> Tensor:
        """Grow axes; negative amounts cut off.

        :param pad: PyTorch's flat list (last axis first: before, after, ...), or a pair an axis.
        :param mode: "constant" (``value``), "reflect" (without the edge), "symmetric" (with it), "replicate" (the
            edge) or "circular"; NumPy's "edge" and "wrap" are taken too.
        """
        if not isinstance(mode, str):       # the third of PyTorch's arguments without the second
            mode, value = "constant", mode
        if mode not in _MODES:
            raise ValueError(f"pad: mode is one of {', '.join(_MODES)}, not {mode!r}")
        amounts = pad_amounts(pad, self.ndim)
        if _MODES[mode] == "replicate" and any(n + min(b, 0) + min(e, 0) <= 0 < n + b + e
                                               for (b, e), n in zip(amounts, self.shape, strict=True)):
            return _edges(self, amounts)  # type: ignore[no-any-return]
        x: Any = self.shrink([(max(0, -b), n - max(0, -e)) for (b, e), n in zip(amounts, self.shape, strict=True)])
        if any(n < 0 for n in x.shape):
            raise ValueError(f"pad: {amounts} cut off more than {self.shape} has")
        grown = [(max(0, b), max(0, e)) for b, e in amounts]
        if _MODES[mode] == "constant":
            return _constant(x, grown, 0.0 if value is None else value)  # type: ignore[no-any-return]
        for a, (before, after) in enumerate(grown):
            if before or after:
                x = _grow(x, a, before, after, _MODES[mode])
        return x  # type: ignore[no-any-return]


def _edges(x: Any, amounts: list[tuple[int, int]]) -> Any:
    """Replication that cuts off more than there is: what is read is the nearest element, as PyTorch has it."""
    for a, (before, after) in enumerate(amounts):
        n = x.shape[a]
        if n + before + after < 0 or n == 0:
            raise ValueError(f"pad: {amounts} of {x.shape}: nothing is left of axis {a}")
        places = (np.arange(n + before + after) - before).clip(0, n - 1)
        x = x[(slice(None),) * a + (places,)]
    return x


def _constant(x: Any, grown: list[tuple[int, int]], value: Any) -> Any:
    out = x._new(graph.pad(x._node, grown))
    if value == 0 or out.shape == x.shape:
        return out
    inside = graph.pad(graph.full(x.shape, dtypes.bool_, True), grown)
    return x._new(inside).where(out, x._operand(value, x.dtype).cast(x.dtype))


def _grow(x: Any, a: int, before: int, after: int, mode: str) -> Any:
    n = x.shape[a]
    most = n - 1 if mode == "reflect" else n
    if n == 0 or (mode != "replicate" and max(before, after) > most):
        raise ValueError(f"pad: {mode} of an axis of {n} elements by {before} and {after}; {max(most, 0)} is the most")
    if mode == "circular":
        parts = x.narrow(a, n - before, before), x.narrow(a, 0, after)
    elif mode == "replicate":
        wide = [[*x.shape[:a], k, *x.shape[a + 1:]] for k in (before, after)]
        parts = x.narrow(a, 0, 1).expand(wide[0]), x.narrow(a, n - 1, 1).expand(wide[1])
    else:
        skip = mode == "reflect"
        parts = x.narrow(a, skip, before).flip(a), x.narrow(a, n - after - skip, after).flip(a)
    return parts[0].cat(x, parts[1], dim=a)
