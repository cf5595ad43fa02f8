"""``onnx.backend.base.Backend`` over our tensors: ``prepare(model).run(inputs)``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from onnx.backend.base import Backend, BackendRep, namedtupledict

from compiler.onnx.model import Model, compute
from compiler.onnx.values import from_tensor

__all__ = ["CompilerBackend", "CompilerBackendRep", "is_compatible", "prepare", "run_model", "run_node",
           "supports_device"]


class CompilerBackendRep(BackendRep):
    """A model that was prepared: ``run(inputs)`` takes arrays, in the order of the inputs, and gives a tuple of
    arrays."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def run(self, inputs: Any, **_options: Any) -> tuple[Any, ...]:
        """:param inputs: arrays in the order of the model's inputs, by name, or a single one."""
        if isinstance(inputs, Mapping):
            found = self.model(**dict(inputs))
        elif isinstance(inputs, list | tuple):
            found = self.model(*inputs)
        else:
            found = self.model(inputs)
        compute(found)
        return tuple(from_tensor(value) for value in found)


class CompilerBackend(Backend):
    """Devices: "CPU", and whatever the compiler calls a device ("AM", "AM:1")."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **_options: Any) -> CompilerBackendRep:
        """A model, ready to run on a device ("CPU", "AM", "AM:1"); other options are not used."""
        return CompilerBackendRep(Model(model, device, model.graph.name or "model"))

    @classmethod
    def run_model(cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **options: Any) -> tuple[Any, ...]:
        """``prepare(model, device).run(inputs)``"""
        return cls.prepare(model, device, **options).run(inputs)

    @classmethod
    def run_node(cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Any = None,
                 **options: Any) -> Any:
        """One node as a model of its own."""
        values = dict(zip(node.input, inputs, strict=False)) if isinstance(inputs, list | tuple) else dict(inputs)
        graph = onnx.helper.make_graph(
            [node], node.op_type, [onnx.ValueInfoProto(name=name) for name in node.input if name],
            [onnx.ValueInfoProto(name=name) for name in node.output if name])
        opset = options.pop("opset_version", onnx.defs.onnx_opset_version())
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
        found = cls.prepare(model, device, **options).run(values)
        return namedtupledict("Outputs", [name for name in node.output if name])(*found)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device.split(":")[0] in ("CPU", "AM")


prepare = CompilerBackend.prepare
run_model = CompilerBackend.run_model
run_node = CompilerBackend.run_node
supports_device = CompilerBackend.supports_device
is_compatible = CompilerBackend.is_compatible
