"""A model: its graph is walked node by node. Tensors stay lazy: what is run is what the compiler makes of it all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compiler.onnx import operators as _operators
from compiler.onnx.registry import HOST, OPERATORS, Node, OnnxError
from compiler.onnx.values import LARGEST_HOST, Packed, from_array, from_tensor
from compiler.tensor import Tensor, realize_all

__all__ = ["Model", "Scope", "compute", "load"]

assert _operators               # imported for its table
STANDARD = ("", "ai.onnx")
KNOWN = (*STANDARD, "ai.onnx.ml", "ai.onnx.preview.training")       # domains whose operators are in the table
DEEPEST = 64                    # functions in functions


def load(file: str | os.PathLike[str] | bytes, device: str | None = None) -> Model:
    """Read a model. Weights beside the file are read as well.

    :param device: where it runs; default: the default device.
    :raises OnnxError: this is no ONNX model, or it is damaged.  :raises ImportError: the ``onnx`` package is missing.
    """
    onnx = _package()
    name = "bytes" if isinstance(file, bytes) else str(file)
    try:
        if isinstance(file, bytes):
            proto = onnx.load_model_from_string(file)
        else:
            with Path(file).open("rb"):
                pass
            proto = onnx.load(os.fspath(file))
    except OSError:
        raise
    except Exception as error:          # protobuf's own errors have no common base
        raise OnnxError(f"{name}: no ONNX model, or a damaged one: {error}") from None
    return Model(proto, device, name)


def _package() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise ImportError("ONNX models are read by the onnx package, which is not installed: "
                          "pip install 'amdrv[onnx]'") from error
    return onnx


class Model:
    """A model that can be run. ``inputs`` and ``outputs`` are names; what has a default is no input."""

    def __init__(self, proto: Any, device: str | None = None, name: str = "model") -> None:
        self.proto, self.device, self.name = proto, device, name
        self.opsets = {entry.domain: entry.version for entry in proto.opset_import}
        if not self.opsets or not proto.HasField("graph"):
            raise OnnxError(f"{name}: no ONNX model: it has no graph, or names no operator set")
        self.functions = {(f.domain, f.name): f for f in proto.functions}
        onnx = _package()
        self.constants: dict[str, Any] = {}
        for tensor in proto.graph.initializer:
            self.constants[tensor.name] = self._constant(onnx.numpy_helper, tensor)
        self.inputs = [value.name for value in proto.graph.input if value.name not in self.constants]
        self.outputs = [value.name for value in proto.graph.output]
        self._optional = {value.name for value in proto.graph.input
                          if value.type.WhichOneof("value") == "optional_type"}

    def _constant(self, helper: Any, tensor: Any) -> Any:
        try:
            return constant(helper.to_array(tensor), self.device)
        except Exception as error:
            raise OnnxError(f"{self.name}: the weights {tensor.name!r} cannot be read: {error}") from None

    def __call__(self, *args: Any, **named: Any) -> list[Any]:
        """Tensors or arrays by place or by name; the outputs in order, as tensors that are not computed yet."""
        if len(args) > len(self.inputs):
            raise OnnxError(f"{self.name} has {len(self.inputs)} inputs ({', '.join(self.inputs)}), not {len(args)}")
        given = dict(zip(self.inputs, args, strict=False)) | named
        unknown = given.keys() - set(self.inputs) - self.constants.keys()
        missing = [name for name in self.inputs if name not in given and name not in self._optional]
        if unknown or missing:
            raise OnnxError(f"{self.name}: " + "; ".join(
                ([f"there is no input {', '.join(sorted(unknown))}"] if unknown else [])
                + ([f"the input {', '.join(missing)} is missing"] if missing else []))
                + f"; its inputs are {', '.join(self.inputs)}")
        scope = Scope(self, None, self.device, self.opsets)
        scope.values |= self.constants
        for name in self.inputs:
            scope.values[name] = self._value(name, given.get(name))
        for name in given.keys() & self.constants.keys():
            scope.values[name] = self._value(name, given[name])
        scope.run(self.proto.graph.node)
        return [scope.get(name) for name in self.outputs]

    def _value(self, name: str, value: Any) -> Any:
        if value is None or isinstance(value, Tensor | Packed):
            return value
        if isinstance(value, list):
            return [self._value(name, each) for each in value]
        try:
            return constant(np.asarray(value), self.device)
        except TypeError as error:
            raise OnnxError(f"{self.name}: the input {name!r}: {error}") from None

    def run(self, inputs: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
        """NumPy arrays in, NumPy arrays out, by the outputs' names."""
        found = self(**dict(inputs)) if isinstance(inputs, Mapping) else self(*inputs)
        compute(found)
        return {name: from_tensor(value) for name, value in zip(self.outputs, found, strict=True)}


def constant(array: np.ndarray, device: str | None) -> Any:
    """Small integers stay on the host: they are shapes, axes and indices more often than not."""
    if array.dtype.kind in "iub" and array.dtype.isbuiltin and array.size <= LARGEST_HOST:
        return array
    return from_array(array, device)


def compute(values: Sequence[Any]) -> None:
    """All tensors among these, in one schedule a device."""
    realize_all([value for value in values if isinstance(value, Tensor)])


class Scope:
    """Values by name: a graph's, and behind them those of the graph around it."""

    def __init__(self, model: Model, around: Scope | None, device: str | None, opsets: Mapping[str, int],
                 references: Mapping[str, Any] | None = None, depth: int = 0) -> None:
        self.model, self.around, self.device, self.opsets = model, around, device, opsets
        self.references = references or {}          # of a function: attributes of the node that calls it
        self.values: dict[str, Any] = {}
        self.depth = depth

    def get(self, name: str) -> Any:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.around
        raise OnnxError(f"{self.model.name}: nothing computes {name!r}")

    def run(self, nodes: Any) -> None:
        for node in nodes:
            results = self.node(node)
            for name, value in zip(node.output, results, strict=False):
                if name:
                    self.values[name] = value

    def graph(self, graph: Any, inputs: Sequence[Any]) -> list[Any]:
        """Run a subgraph (a branch, a loop's body)."""
        inner = Scope(self.model, self, self.device, self.opsets, self.references, self.depth)
        onnx = _package()
        for tensor in graph.initializer:
            inner.values[tensor.name] = constant(onnx.numpy_helper.to_array(tensor), self.device)
        if len(graph.input) != len(inputs):
            raise OnnxError(f"{self.model.name}: the subgraph {graph.name!r} has {len(graph.input)} inputs, not "
                            f"{len(inputs)}")
        for value, given in zip(graph.input, inputs, strict=True):
            inner.values[value.name] = given
        inner.run(graph.node)
        return [inner.get(value.name) for value in graph.output]

    def node(self, proto: Any) -> Sequence[Any]:
        inputs = [self.get(name) if name else None for name in proto.input]
        while inputs and inputs[-1] is None and not proto.input[len(inputs) - 1]:
            inputs.pop()
        attributes = {a.name: self._attribute(a) for a in proto.attribute
                      if not a.ref_attr_name or a.ref_attr_name in self.references}
        key = (proto.domain, proto.op_type)
        if proto.domain not in KNOWN or key in self.model.functions:
            function = self.model.functions.get(key)
            if function is None:
                return self._unknown(proto, inputs, attributes)
            return self._call(function, proto, inputs, attributes)
        opset = next((self.opsets[domain] for domain in STANDARD if domain in self.opsets), 1)
        node = Node(self, proto.op_type, proto.name, opset, attributes, list(proto.output))
        action = OPERATORS.get(proto.op_type)
        try:
            if proto.op_type in HOST and all(isinstance(value, np.ndarray | None) for value in inputs):
                with np.errstate(all="ignore"):
                    result = HOST[proto.op_type](node, *inputs)
            elif action is not None:
                result = action(node, *inputs)
            else:
                return self._unknown(proto, inputs, attributes)
        except OnnxError:
            raise
        except (ValueError, TypeError, IndexError, KeyError, NotImplementedError, ZeroDivisionError) as error:
            raise node.error(f"{type(error).__name__}: {error}") from error
        return result if isinstance(result, tuple) else (result,)

    def _attribute(self, proto: Any) -> Any:
        if proto.ref_attr_name:
            return self.references[proto.ref_attr_name]
        onnx = _package()
        value = onnx.helper.get_attribute_value(proto)
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, onnx.TensorProto):
            return onnx.numpy_helper.to_array(value)
        if isinstance(value, list | tuple) or hasattr(value, "append"):
            return [each.decode() if isinstance(each, bytes) else each for each in value]
        return value

    # ---- functions: operators made of operators

    def _unknown(self, proto: Any, inputs: list[Any], attributes: dict[str, Any]) -> Sequence[Any]:
        """By the standard's own definition, if it has one."""
        from compiler.onnx.functions import body_of, defaults_of
        domain = "" if proto.domain in STANDARD else proto.domain
        version = next((self.opsets[d] for d in (STANDARD if not domain else (domain,)) if d in self.opsets), None)
        found = None
        if version is not None:
            found = body_of(proto, inputs, version)
            attributes = (defaults_of(proto, version) if found is not None else {}) | attributes
        if found is None:
            raise OnnxError(f"{proto.op_type}{f' ({proto.name})' if proto.name else ''}: the operator "
                            f"{domain + '.' if domain else ''}{proto.op_type} is not known here")
        return self._call(found, proto, inputs, attributes)

    def _call(self, function: Any, proto: Any, inputs: list[Any], attributes: dict[str, Any]) -> Sequence[Any]:
        if self.depth >= DEEPEST:
            raise OnnxError(f"{proto.op_type}: functions call each other, more than {DEEPEST} deep")
        opsets = {entry.domain: entry.version for entry in function.opset_import} or dict(self.opsets)
        defaults = {a.name: self._attribute(a) for a in function.attribute_proto}
        inner = Scope(self.model, None, self.device, opsets, defaults | attributes, self.depth + 1)
        for i, name in enumerate(function.input):
            inner.values[name] = inputs[i] if i < len(inputs) else None
        inner.run(function.node)
        return [inner.values.get(name) for name in function.output]
