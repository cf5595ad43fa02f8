"""Functions that know their derivative, so that it is not made from the formula of their approximation.

A polynomial's derivative would be less exact than the function, longer than needed, and NaN where a branch that was
not taken divides by zero. The node DERIVED stands for (value, *inputs): its value is the first source, behind which
no gradient passes, and its gradients come from the table here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from compiler.gradient import derivatives
from compiler.methods.elementwise import broadcast_shapes
from compiler.uop import Ops, UOp

__all__ = ["derived"]


def derived(*partials: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a function of tensors of one float type; ``partials``: the derivative for each, as a function of
    (value, *inputs)."""
    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        name = function.__name__

        def backward(node: UOp, ctx: UOp) -> tuple[UOp | None, ...]:
            from compiler.tensor import Tensor
            tensors = [Tensor(s, device=s.device) for s in (node, *node.src[1:])]
            gradient = Tensor(ctx, device=ctx.device)
            return (None, *((gradient * partial(*tensors)).uop for partial in partials))

        assert name not in derivatives, f"two derivatives of {name}"
        derivatives[name] = backward

        @functools.wraps(function)
        def call(*inputs: Any) -> Any:
            if not any(x.requires_grad for x in inputs):
                return function(*inputs)
            if len(inputs) > 1:
                shape = broadcast_shapes(*(x.shape for x in inputs))
                inputs = tuple(x.expand(shape) for x in inputs)
            value = function(*(x.detach() for x in inputs))
            return value._new(UOp(Ops.DERIVED, value.dtype, (value._node, *(x._node for x in inputs)), name), *inputs)
        return call
    return wrap
