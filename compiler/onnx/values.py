"""Values between nodes: tensors, small NumPy arrays that the host knows, lists (sequences), None (absent).

Types that the compiler does not compute with (4-bit and smaller numbers, the other 8-bit floats) are :class:`Packed`:
NumPy arrays of the ``ml_dtypes`` package, which ``onnx`` itself depends on. They can be cast, moved and dequantised.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler import dtypes
from compiler.dtypes import DType
from compiler.tensor import Tensor

__all__ = ["DTYPES", "Packed", "from_tensor", "is_strings", "numpy_type", "to_host", "to_tensor"]

# onnx.proto, TensorProto.DataType
DTYPES: dict[int, DType] = {
    1: dtypes.float32, 2: dtypes.uint8, 3: dtypes.int8, 4: dtypes.uint16, 5: dtypes.int16, 6: dtypes.int32,
    7: dtypes.int64, 9: dtypes.bool_, 10: dtypes.float16, 11: dtypes.float64, 12: dtypes.uint32, 13: dtypes.uint64,
    16: dtypes.bfloat16, 17: dtypes.float8_e4m3, 19: dtypes.float8_e5m2}
_CODED = {"bfloat16": dtypes.bfloat16, "float8_e4m3fn": dtypes.float8_e4m3, "float8_e5m2": dtypes.float8_e5m2}
LARGEST_HOST = 256              # elements of a constant that the host keeps for itself


class Packed:
    """Numbers of a type that is stored and not computed with: an array of an ``ml_dtypes`` type, and its number in
    onnx.proto."""

    def __init__(self, array: np.ndarray, kind: int) -> None:
        self.array, self.kind = array, kind

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape


def numpy_type(kind: int) -> np.dtype[Any]:
    """The NumPy type of an element type of ONNX."""
    import onnx
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind))


def kind_of(array: np.ndarray) -> int:
    import onnx
    return int(onnx.helper.np_dtype_to_tensor_dtype(array.dtype))


def to_tensor(value: Any, device: str | None = None) -> Tensor:
    """A tensor of an array. Arrays of bfloat16 and the usual fp8 types keep their bits."""
    if isinstance(value, Tensor):
        return value
    array = np.asarray(value)
    coded = _CODED.get(array.dtype.name)
    if coded is not None:
        codes = np.ascontiguousarray(array).view(coded.np).reshape(array.shape)     # which makes 0 axes one
        return Tensor(codes, device=device).bitcast(coded)
    return Tensor(array, dtype=dtypes.of(array.dtype), device=device)


def from_array(array: np.ndarray, device: str | None) -> Any:
    """A model's input or constant as a value."""
    if is_strings(array):
        return array
    if array.dtype == object:
        raise TypeError("an array of objects that are neither numbers nor strings")
    if array.dtype.name in _CODED or (array.dtype.kind in "biuf" and array.dtype.isbuiltin):
        return to_tensor(array, device)
    if array.dtype.kind == "c":
        raise TypeError("complex tensors are not known here")
    return Packed(array, kind_of(array))


def is_strings(value: Any) -> bool:
    """Strings stay on the host, in arrays."""
    return isinstance(value, np.ndarray) and (value.dtype.kind in "US" or (
        value.dtype == object and all(isinstance(s, str) for s in value.reshape(-1))))


def to_host(value: Any) -> np.ndarray:
    """The numbers as a NumPy array, computed if need be."""
    if isinstance(value, Tensor):
        return np.asarray(value.numpy())
    return value.array if isinstance(value, Packed) else np.asarray(value)


def from_tensor(value: Any) -> Any:
    """What a caller gets for an output: arrays, in the types that ``onnx`` has for them."""
    if isinstance(value, list):
        return [from_tensor(each) for each in value]
    if value is None:
        return None
    if isinstance(value, Tensor) and value.dtype.coded:
        import ml_dtypes
        codes = value.bitcast(dtypes.of(f"uint{value.dtype.bits}")).numpy()
        name = next(name for name, dtype in _CODED.items() if dtype is value.dtype)
        return codes.view(getattr(ml_dtypes, name))
    return to_host(value)
