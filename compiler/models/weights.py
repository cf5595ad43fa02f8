"""Random weights that are the same on every device and in every library: drawn by NumPy, by name."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from compiler.nn import Module

__all__ = ["fill", "random_weights"]


def random_weights(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """{name: float32 array}: matrices and filters such that activations keep their size, scales near 1, shifts near
    0, running statistics as they begin. Each array depends on its name and the seed alone."""
    return {name: _one(name, tuple(shape), seed) for name, shape in shapes.items()}


def _one(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    last = name.rpartition(".")[2]
    if last == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if last in ("running_mean", "running_var"):
        return np.full(shape, last == "running_var", np.float32)
    values = rng.standard_normal(shape, np.float32)
    if len(shape) < 2:
        return (values * 0.1 + (last == "weight")).astype(np.float32)
    table = any(part in name for part in ("wte", "wpe", "embd", "embedding"))
    return values * np.float32(0.05 if table else 1 / math.sqrt(math.prod(shape[1:])))


def fill(model: Any, seed: int = 0) -> Any:
    """Give a model of ours random weights, in place; the model."""
    assert isinstance(model, Module)
    model.load_state_dict(random_weights({k: v.shape for k, v in model.state_dict().items()}, seed))
    return model
