"""Two models as others write them, on the names that our Tensor and the peer's have in common: what is measured is the
compiler, not the model. Weights come from ``rand(*shape)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["gpt2_step", "resnet50_step"]

Rand = Callable[..., Any]


def gpt2_step(rand: Rand, layers: int = 12, width: int = 768, heads: int = 12, vocabulary: int = 50257,
              past: int = 64) -> Callable[[Any, Any], list[Any]]:
    """A decode step of GPT-2 (small): one token after ``past`` others, whose keys and values are kept.

    :return: a function of token and position, (1, 1) each: logits, and the longer keys and values.
    """
    each = width // heads
    table, positions, last = rand(vocabulary, width), rand(1024, width), (rand(width), rand(width))
    blocks = [{
        "first": (rand(width), rand(width)), "second": (rand(width), rand(width)),
        "qkv": (rand(3 * width, width), rand(3 * width)), "out": (rand(width, width), rand(width)),
        "up": (rand(4 * width, width), rand(4 * width)), "down": (rand(width, 4 * width), rand(width)),
        "k": rand(1, heads, past, each), "v": rand(1, heads, past, each)} for _ in range(layers)]

    def norm(x: Any, weights: Any) -> Any:
        away = x - x.mean(-1, keepdim=True)
        return away * ((away * away).mean(-1, keepdim=True) + 1e-5).rsqrt() * weights[0] + weights[1]

    def linear(x: Any, weights: Any) -> Any:
        return x @ weights[0].transpose(0, 1) + weights[1]

    def step(token: Any, position: Any) -> list[Any]:
        x = table[token] + positions[position]
        kept = []
        for b in blocks:
            qkv = linear(norm(x, b["first"]), b["qkv"]).reshape(1, 1, 3, heads, each)
            q, k, v = (qkv[:, :, i].transpose(1, 2) for i in range(3))
            k, v = b["k"].cat(k, dim=2), b["v"].cat(v, dim=2)
            kept += [k, v]
            attended = (q @ k.transpose(2, 3) * (1 / math.sqrt(each))).softmax(-1) @ v
            x = x + linear(attended.transpose(1, 2).reshape(1, 1, width), b["out"])
            x = x + linear(linear(norm(x, b["second"]), b["up"]).gelu(), b["down"])
        return [norm(x, last) @ table.transpose(0, 1), *kept]
    return step


def resnet50_step(rand: Rand, widths: Sequence[int] = (64, 128, 256, 512), depths: Sequence[int] = (3, 4, 6, 3),
                  classes: int = 1000) -> tuple[list[Any], Callable[[Any, Any], Any]]:
    """A training step of ResNet-50: batch norm in training mode, cross entropy, SGD with momentum.

    :return: what it overwrites (weights and momenta), and a function of images and one-hot targets: the loss, after
        which those are assigned to.
    """
    weights: list[Any] = []

    def make(*shape: int) -> Any:
        weights.append(rand(*shape))
        return weights[-1]

    def convolution(out: int, inner: int, size: int) -> tuple[Any, Any, Any]:
        return make(out, inner, size, size), make(out), make(out)

    def apply(x: Any, layer: tuple[Any, Any, Any], stride: int = 1) -> Any:
        weight, scale, shift = layer
        x = x.conv2d(weight, stride=stride, padding=weight.shape[-1] // 2)
        away = x - x.mean((0, 2, 3), keepdim=True)
        x = away * ((away * away).mean((0, 2, 3), keepdim=True) + 1e-5).rsqrt()
        return x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)

    stem = convolution(widths[0], 3, 7)
    blocks = []
    inner = widths[0]
    for n, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        for k in range(depth):
            layers = convolution(width, inner, 1), convolution(width, width, 3), convolution(4 * width, width, 1)
            across = convolution(4 * width, inner, 1) if k == 0 else None
            blocks.append((layers, across, 2 if k == 0 and n else 1))
            inner = 4 * width
    head = make(classes, inner), make(classes)
    momenta = [rand(*w.shape) * 0 for w in weights]

    def step(images: Any, targets: Any) -> Any:
        x = apply(images, stem, 2).relu().max_pool2d((3, 3), stride=2, padding=1)
        for (first, second, third), across, stride in blocks:
            y = apply(apply(apply(x, first).relu(), second, stride).relu(), third)
            x = (y + (x if across is None else apply(x, across, stride))).relu()
        logits = x.mean((2, 3)) @ head[0].transpose(0, 1) + head[1]
        loss = -(logits.log_softmax(1) * targets).sum(1).mean()
        for w, m, g in zip(weights, momenta, loss.gradient(*weights), strict=True):
            m.assign(m * 0.9 + g)
            w.assign(w - m * 0.1)
        return loss
    return [*weights, *momenta], step
