"""ONNX's operators, one function each, entered into ``registry.OPERATORS`` by the decorator."""

from compiler.onnx.operators import (
    control,
    elementwise,
    images,
    indexing,
    layers,
    quantize,
    recurrent,
    reductions,
    shapes,
    signals,
    strings,
    training,
    trees,
    types,
    windows,
)

__all__ = ["control", "elementwise", "images", "indexing", "layers", "quantize", "recurrent", "reductions", "shapes",
           "signals", "strings", "training", "trees", "types", "windows"]
