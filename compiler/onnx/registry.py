"""Operators by name, and what a node tells its operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.onnx.values import Packed, is_strings, to_host, to_tensor
from compiler.tensor import Tensor

if TYPE_CHECKING:
    from compiler.onnx.model import Scope

__all__ = ["HOST", "OPERATORS", "Node", "OnnxError", "host", "operator"]


class OnnxError(ValueError):
    """A model that cannot be run, or inputs that do not fit it. The message names the node."""


class Node:
    """One node as its operator sees it: attributes, the version of the operator set, the device, subgraphs."""

    def __init__(self, scope: Scope, op: str, name: str, opset: int, attributes: dict[str, Any],
                 outputs: list[str]) -> None:
        self.scope, self.op, self.name, self.opset = scope, op, name, opset
        self.attributes, self.outputs = attributes, outputs

    @property
    def device(self) -> str | None:
        return self.scope.device

    def __call__(self, name: str, default: Any = None) -> Any:
        """An attribute's value: int, float, str, list, NumPy array or graph."""
        return self.attributes.get(name, default)

    def wants(self, output: int) -> bool:
        """Is the output of this number used at all?"""
        return output < len(self.outputs) and bool(self.outputs[output])

    def error(self, what: str) -> OnnxError:
        return OnnxError(f"{self.op}{f' ({self.name})' if self.name else ''}: {what}")

    def ints(self, value: Any) -> list[int]:
        """The numbers of a small integer input, read back if need be."""
        return [int(x) for x in np.asarray(to_host(value)).reshape(-1)]

    def tensor(self, value: Any) -> Tensor:
        if isinstance(value, Packed):
            raise self.error(f"{value.kind} is not computed with; cast it first")
        if is_strings(value):
            raise self.error("strings are not computed with")
        return to_tensor(value, self.device)

    def axes(self, value: Any, rank: int) -> list[int]:
        found = [axis + rank if axis < 0 else axis for axis in self.ints(value)]
        if any(not 0 <= axis < rank for axis in found) or len(set(found)) < len(found):
            raise self.error(f"axes {self.ints(value)} of {rank}")
        return found

    def axis(self, default: int, rank: int, name: str = "axis") -> int:
        axis = int(self(name, default))
        if not -rank <= axis < max(rank, 1):
            raise self.error(f"{name} {axis} of {rank} axes")
        return axis + rank if axis < 0 else axis


Function = Callable[..., Any]
OPERATORS: dict[str, Function] = {}
"""name -> function(node, *inputs) -> a value, or a tuple of them. Inputs are tensors; None where left out."""
HOST: dict[str, Function] = {}
"""The same on NumPy arrays, for the arithmetic of shapes: used where every input is known on the host."""


def operator(*names: str) -> Callable[[Function], Function]:
    def enter(function: Function) -> Function:
        for name in names:
            assert name not in OPERATORS, name
            OPERATORS[name] = function
        return function
    return enter


def host(*names: str) -> Callable[[Function], Function]:
    def enter(function: Function) -> Function:
        for name in names:
            HOST[name] = function
        return function
    return enter
