"""Operators that the standard defines by other operators (onnx.defs: a schema's function)."""

from __future__ import annotations

from typing import Any

from compiler.onnx.values import DTYPES, Packed, kind_of
from compiler.tensor import Tensor

__all__ = ["body_of", "defaults_of"]


def body_of(proto: Any, inputs: list[Any], version: int) -> Any | None:
    """The function of a node's operator, made for the types of its inputs; None where the standard has none."""
    import onnx
    domain = "" if proto.domain == "ai.onnx" else proto.domain
    try:
        schema: Any = onnx.defs.get_schema(proto.op_type, version, domain)
    except onnx.defs.SchemaError:
        return None
    if schema.has_function:
        return schema.function_body
    if not schema.has_context_dependent_function:
        return None
    types = [_type(onnx, value).SerializeToString() for value in inputs]
    newest = max((v for v in schema.context_dependent_function_opset_versions if v <= version),
                 default=min(schema.context_dependent_function_opset_versions))
    made = schema.get_context_dependent_function_with_opset_version(newest, proto.SerializeToString(), types)
    found = onnx.FunctionProto()
    found.ParseFromString(made)
    return found


def defaults_of(proto: Any, version: int) -> dict[str, Any]:
    """What a node's attributes are where it does not say."""
    import onnx
    schema = onnx.defs.get_schema(proto.op_type, version, "" if proto.domain == "ai.onnx" else proto.domain)
    return {name: onnx.helper.get_attribute_value(attribute.default_value)
            for name, attribute in schema.attributes.items() if attribute.default_value.name}


def _type(onnx: Any, value: Any) -> Any:
    if value is None:
        return onnx.TypeProto()
    if isinstance(value, list):
        return onnx.helper.make_sequence_type_proto(_type(onnx, value[0]) if value else
                                                    onnx.helper.make_tensor_type_proto(1, None))
    kinds = {dtype: kind for kind, dtype in DTYPES.items()}
    kind = kinds[value.dtype] if isinstance(value, Tensor) else value.kind if isinstance(value, Packed) else \
        kind_of(value)
    return onnx.helper.make_tensor_type_proto(kind, list(value.shape))
