"""Fourier transforms and what audio needs. A transform of n points is a product with an n by n matrix."""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.onnx.registry import Node, operator
from compiler.onnx.values import DTYPES, to_host
from compiler.tensor import Tensor

__all__: list[str] = []


def _transform(real: Tensor, imaginary: Tensor | None, n: int, inverse: bool, kept: int) -> tuple[Tensor, Tensor]:
    """Along the last axis."""
    angle = 2 * np.pi * np.outer(np.arange(n), np.arange(kept)) / n * (1 if inverse else -1)
    scale = 1 / n if inverse else 1.0
    cos, sin = (Tensor((f(angle) * scale).astype(real.dtype.np), device=real.device) for f in (np.cos, np.sin))
    if imaginary is None:
        return real @ cos, real @ sin
    return real @ cos - imaginary @ sin, real @ sin + imaginary @ cos


def _fitted(x: Tensor, n: int) -> Tensor:
    have = int(x.shape[-1])
    return x.pad([(0, 0)] * (x.ndim - 1) + [(0, n - have)])


@operator("DFT")
def dft(node: Node, value: Any, length: Any = None, axis: Any = None) -> Tensor:
    """The last axis holds real (and imaginary) parts. Opset 17 had the axis as an attribute."""
    x = node.tensor(value)
    inverse, onesided = bool(node("inverse", 0)), bool(node("onesided", 0))
    along = int(node("axis", 1)) if node.opset < 20 else -2 if axis is None else node.ints(axis)[0]
    along %= x.ndim
    if along == x.ndim - 1:
        raise node.error("the last axis holds real and imaginary parts, and cannot be transformed")
    moved = x.transpose(along, x.ndim - 2)
    n = int(moved.shape[-2]) if length is None else node.ints(length)[0]
    real = _fitted(moved[..., 0], n)
    imaginary = _fitted(moved[..., 1], n) if x.shape[-1] == 2 else None
    if inverse and onesided:
        # the half that was kept, and its mirror image
        half = int(moved.shape[-2])
        n = node.ints(length)[0] if length is not None else 2 * (half - 1)
        real, imaginary = moved[..., 0], moved[..., 1]
        order = np.array([i if i < half else n - i for i in range(n)], np.int64)
        sign = np.array([1.0 if i < half else -1.0 for i in range(n)], real.dtype.np)
        index = Tensor(order, device=x.device)
        real = real.index_select(real.ndim - 1, index)
        imaginary = imaginary.index_select(imaginary.ndim - 1, index) * Tensor(sign, device=x.device)
        out_real, _ = _transform(real, imaginary, n, True, n)
        return out_real.unsqueeze(out_real.ndim).transpose(along, x.ndim - 2)
    out = _transform(real, imaginary, n, inverse, n // 2 + 1 if onesided else n)
    return Tensor.stack(list(out), dim=x.ndim - 1).transpose(along, x.ndim - 2)


@operator("STFT")
def stft(node: Node, signal: Any, step: Any, window: Any = None, length: Any = None) -> Tensor:
    x = node.tensor(signal)
    hop = node.ints(step)[0]
    n = node.ints(length)[0] if length is not None else int(window.shape[0])
    count = (int(x.shape[1]) - n) // hop + 1
    index = (np.arange(count)[:, None] * hop + np.arange(n)).reshape(-1)
    frames = x.index_select(1, Tensor(index, device=x.device)).reshape(x.shape[0], count, n, -1)
    if window is not None:
        frames = frames * node.tensor(window).reshape(1, 1, -1, 1)
    real, imaginary = frames[..., 0], frames[..., 1] if frames.shape[-1] == 2 else None
    kept = n // 2 + 1 if node("onesided", 1) else n
    return Tensor.stack(list(_transform(real, imaginary, n, False, kept)), dim=3)


@operator("MelWeightMatrix")
def mel_weight_matrix(node: Node, bins: Any, length: Any, rate: Any, low: Any, high: Any) -> Tensor:
    """Triangles between frequencies that are evenly spaced in mels (the standard's text)."""
    count, n, sample = node.ints(bins)[0], node.ints(length)[0], node.ints(rate)[0]
    edges = [2595 * np.log10(1 + float(to_host(f).reshape(-1)[0]) / 700) for f in (low, high)]
    mels = np.arange(count + 2) * ((edges[1] - edges[0]) / (count + 2)) + edges[0]
    places = ((n + 1) * (700 * (10 ** (mels / 2595) - 1)) // sample).astype(int)
    out = np.zeros((n // 2 + 1, count))
    for i in range(count):
        first, middle, last = places[i:i + 3]
        if first == middle:
            out[middle, i] = 1
        else:
            for j in range(first, middle + 1):
                out[j, i] = (j - first) / (middle - first)
        if middle != last:
            for j in range(middle, last):
                out[j, i] = (last - j) / (last - middle)
    return Tensor(out.astype(np.float32), device=node.device).cast(DTYPES[node("output_datatype", 1)])
