"""ONNX models, run as tensor operations.

    model = load("model.onnx", device="AM")
    outputs = model.run({"x": array})               # {name: NumPy array}
    y, = model(Tensor(...))                          # tensors in, tensors out, lazily

Files are read by the ``onnx`` package (``pip install amdrv[onnx]``). Operators to opset 21 and newer are here, one
function each in ``operators``; an operator that is not, and that the standard defines by others, is run as those.
``compiler.onnx.backend`` is the interface ``onnx.backend.base.Backend``.
"""

from compiler.onnx.model import Model, load
from compiler.onnx.registry import OnnxError

__all__ = ["Model", "OnnxError", "load"]
