"""Resampling of images: every axis by itself, places and weights worked out on the host."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.methods.base import Methods

if TYPE_CHECKING:
    from compiler.tensor import Tensor

__all__ = ["Interpolation"]

_LINEAR = {"linear": 1, "bilinear": 2, "trilinear": 3, "bicubic": 2}
_CUBIC = -0.75
"""Keys' parameter, as PyTorch and OpenCV have it."""


class Interpolation(Methods):
    """Mixin; see :class:`compiler.tensor.Tensor`."""

    __slots__ = ()

    def interpolate(self, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
                    align_corners: bool | None = None, recompute_scale_factor: bool | None = None) -> Tensor:
        """(batch, channels, ...) to another size. ``mode``: "nearest", "nearest-exact", "linear", "bilinear",
        "trilinear", "bicubic" or "area"."""
        n = self.ndim - 2
        if n < 1 or mode not in ("nearest", "nearest-exact", "area", *_LINEAR) or _LINEAR.get(mode, n) != n:
            raise ValueError(f"interpolate: mode {mode!r} does not fit a tensor of shape {self.shape}; it takes "
                             "(batch, channels, ...)")
        if (size is None) == (scale_factor is None):
            raise ValueError("interpolate needs size or scale_factor, and not both")
        if align_corners is not None and mode not in _LINEAR:
            raise ValueError(f"align_corners does not go with mode {mode!r}")
        old = self.shape[2:]
        scales: list[float | None] = [None] * n
        if size is not None:
            new = [size] * n if isinstance(size, int) else [int(s) for s in size]
        else:
            factors = [float(scale_factor)] * n if isinstance(scale_factor, int | float) else list(scale_factor)
            new = [math.floor(s * f) for s, f in zip(old, factors, strict=True)]
            if not recompute_scale_factor:
                scales = [1 / f for f in factors]
        if len(new) != n or min(new) < 1:
            raise ValueError(f"interpolate: a size of {new} for {n} axes")
        if mode == "area":
            return getattr(self, f"adaptive_avg_pool{n}d")(new)  # type: ignore[no-any-return]
        x: Any = self
        for i in range(n):
            a = 2 + i
            if mode.startswith("nearest"):
                x = x[(slice(None),) * a + (_nearest(old[i], new[i], scales[i], mode == "nearest-exact"),)]
            elif new[i] != old[i] or mode == "bicubic" or scales[i] is not None:
                places = _places(old[i], new[i], scales[i], bool(align_corners))
                x = _cubic(x, a, places) if mode == "bicubic" else _linear(x, a, places)
        return x  # type: ignore[no-any-return]


def _nearest(old: int, new: int, scale: float | None, exact: bool) -> np.ndarray:
    ratio = np.float32(old / new if scale is None else scale)
    places = (np.arange(new, dtype=np.float32) + np.float32(0.5 if exact else 0)) * ratio
    return np.minimum(np.floor(places).astype(np.int64), old - 1)


def _places(old: int, new: int, scale: float | None, align: bool) -> np.ndarray:
    """Where in the old axis each new element lies."""
    at = np.arange(new, dtype=np.float64)
    if align:
        return at * ((old - 1) / (new - 1) if new > 1 else 0)
    return (at + 0.5) * (old / new if scale is None else scale) - 0.5


def _taps(x: Any, a: int, indices: Sequence[np.ndarray], weights: Sequence[np.ndarray]) -> Any:
    from compiler.tensor import Tensor
    n = x.shape[a]
    total: Any = None
    for index, weight in zip(indices, weights, strict=True):
        part = x[(slice(None),) * a + (np.clip(index, 0, n - 1),)]
        scaled = part * Tensor(weight, x.dtype, x.device).reshape([-1 if i == a else 1 for i in range(x.ndim)])
        total = scaled if total is None else total + scaled
    return total


def _linear(x: Any, a: int, places: np.ndarray) -> Any:
    places = np.clip(places, 0, None)
    low = np.floor(places).astype(np.int64)
    part = places - low
    return _taps(x, a, (low, low + 1), (1 - part, part))


def _cubic(x: Any, a: int, places: np.ndarray) -> Any:
    low = np.floor(places).astype(np.int64)
    t = places - low

    def near(d: np.ndarray) -> np.ndarray:
        return ((_CUBIC + 2) * d - (_CUBIC + 3)) * d * d + 1

    def far(d: np.ndarray) -> np.ndarray:
        return ((_CUBIC * d - 5 * _CUBIC) * d + 8 * _CUBIC) * d - 4 * _CUBIC
    return _taps(x, a, (low - 1, low, low + 1, low + 2), (far(t + 1), near(t), near(1 - t), far(2 - t)))
