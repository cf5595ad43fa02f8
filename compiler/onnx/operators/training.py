"""ai.onnx.preview.training: derivatives, and one step of an optimizer for several tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compiler.onnx.registry import Node, operator
from compiler.tensor import Tensor

__all__: list[str] = []


@operator("Gradient")
def gradient(node: Node, *_given: Any) -> Any:
    """Of the value ``y`` for each of ``xs``, at the values that the graph has."""
    scope = node.scope
    xs = [node.tensor(scope.get(name)) for name in node("xs")]
    y = node.tensor(scope.get(node("y")))
    return tuple(y.sum().gradient(*xs))


def _tensors(node: Node, given: tuple[Any, ...], kinds: int) -> list[list[Tensor]]:
    """(X1, X2, ..., G1, G2, ...): each tensor with its derivative and its state."""
    if len(given) % kinds:
        raise node.error(f"{len(given)} tensors are not {kinds} for each that is trained")
    count = len(given) // kinds
    return [[node.tensor(given[n + count * k]) for k in range(kinds)] for n in range(count)]


def _flat(results: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(t for kind in zip(*results, strict=True) for t in kind)


@operator("Momentum")
def momentum(node: Node, rate: Any, count: Any, *given: Any) -> Any:
    alpha, decay = float(node("alpha")), float(node("norm_coefficient"))
    beta = float(node("beta")) if node.ints(count)[0] > 0 else 1.0      # the first derivative is taken whole
    r, out = node.tensor(rate), []
    for x, g, v in _tensors(node, given, 3):
        g = g + x * decay
        new = v * alpha + g * beta
        out.append((x - r * (g + new * alpha if node("mode") == "nesterov" else new), new))
    return _flat(out)


@operator("Adagrad")
def adagrad(node: Node, rate: Any, count: Any, *given: Any) -> Any:
    r = node.tensor(rate) / (node.tensor(count).cast("float32") * float(node("decay_factor", 0.0)) + 1)
    out = []
    for x, g, h in _tensors(node, given, 3):
        g = g + x * float(node("norm_coefficient", 0.0))
        total = h + g * g
        out.append((x - r * g / (total.sqrt() + float(node("epsilon", 1e-6))), total))
    return _flat(out)


@operator("Adam")
def adam(node: Node, rate: Any, count: Any, *given: Any) -> Any:
    alpha, beta, steps = float(node("alpha", 0.9)), float(node("beta", 0.999)), node.ints(count)[0]
    r = node.tensor(rate)
    if steps > 0:
        r = r * ((1 - beta ** steps) ** 0.5 / (1 - alpha ** steps))
    out = []
    for x, g, v, h in _tensors(node, given, 4):
        g = g + x * float(node("norm_coefficient", 0.0))
        first, second = v * alpha + g * (1 - alpha), h * beta + g * g * (1 - beta)
        new = x - r * first / (second.sqrt() + float(node("epsilon", 1e-6)))
        out.append((new * (1 - float(node("norm_coefficient_post", 0.0))), first, second))
    return _flat(out)
