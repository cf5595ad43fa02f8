"""Operators that make tensors, move their elements, and compute with shapes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.onnx.registry import Node, host, operator
from compiler.onnx.values import DTYPES, Packed, from_array, kind_of, to_host
from compiler.tensor import Tensor

__all__: list[str] = []


def _moved(node: Node, value: Any, tensor: Any, array: Any) -> Any:
    """By tensor operations, or by NumPy for types that are only stored."""
    if isinstance(value, Packed):
        return Packed(np.ascontiguousarray(array(value.array)), value.kind)
    return tensor(node.tensor(value))


@operator("Constant")
def constant(node: Node) -> Any:
    from compiler.onnx.model import constant as small
    for name, kind in (("value_int", np.int64), ("value_ints", np.int64), ("value_float", np.float32),
                       ("value_floats", np.float32)):
        if name in node.attributes:
            return small(np.array(node(name), kind), node.device)
    if "value_string" in node.attributes or "value_strings" in node.attributes:
        return np.array(node("value_strings", node("value_string")), object)
    if "value" not in node.attributes:
        raise node.error("sparse tensors are not known here")
    return small(np.asarray(node("value")), node.device)


host("Constant")(constant)


@operator("ConstantOfShape")
def constant_of_shape(node: Node, shape: Any) -> Any:
    value = np.asarray(node("value", np.zeros(1, np.float32))).reshape(-1)
    sizes = node.ints(shape)
    if any(n < 0 for n in sizes):
        raise node.error(f"the shape {sizes} has negative sizes")
    found = from_array(value, node.device)
    if isinstance(found, Packed):
        return Packed(np.broadcast_to(found.array, sizes).copy(), found.kind)
    return found.reshape(*[1] * len(sizes)).expand(*sizes)


@host("ConstantOfShape")
def host_constant_of_shape(node: Node, shape: np.ndarray) -> Any:
    value = np.asarray(node("value", np.zeros(1, np.float32)))
    sizes = node.ints(shape)
    if value.dtype.kind in "iub" and value.dtype.isbuiltin and math.prod(sizes) <= 256 and min(sizes, default=0) >= 0:
        return np.full(sizes, value.reshape(-1)[0])
    return constant_of_shape(node, shape)


@operator("Shape")
def shape(node: Node, value: Any) -> np.ndarray:
    sizes = list(value.shape)
    start, end = node("start", 0), node("end", len(sizes))
    start = max(0, start + len(sizes) if start < 0 else start)
    return np.array(sizes[start:max(0, end + len(sizes)) if end < 0 else end], np.int64)


@operator("Size")
def size(node: Node, value: Any) -> np.ndarray:
    return np.array(math.prod(value.shape), np.int64)


for _name, _function in {"Shape": shape, "Size": size}.items():
    host(_name)(_function)


def _wanted(node: Node, old: tuple[int, ...], wanted: list[int]) -> list[int]:
    if not node("allowzero", 0):
        wanted = [old[i] if n == 0 and i < len(old) else n for i, n in enumerate(wanted)]
    if wanted.count(-1) == 1:
        known = math.prod(n for n in wanted if n != -1)
        wanted = [(math.prod(old) // known if known else 0) if n == -1 else n for n in wanted]
    return wanted


@operator("Reshape")
def reshape(node: Node, value: Any, wanted: Any = None) -> Any:
    sizes = _wanted(node, tuple(value.shape), node.ints(node("shape") if wanted is None else wanted))
    if isinstance(value, np.ndarray):
        return value.reshape(sizes)
    return _moved(node, value, lambda x: x.reshape(*sizes), lambda x: x.reshape(sizes))


host("Reshape")(reshape)


@operator("Flatten")
def flatten(node: Node, value: Any) -> Any:
    axis = int(node("axis", 1))
    axis = axis + len(value.shape) if axis < 0 else axis
    rows, columns = math.prod(value.shape[:axis]), math.prod(value.shape[axis:])
    return _moved(node, value, lambda x: x.reshape(rows, columns), lambda x: x.reshape(rows, columns))


@operator("Transpose")
def transpose(node: Node, value: Any) -> Any:
    order = node("perm") or list(reversed(range(len(value.shape))))
    return _moved(node, value, lambda x: x.permute(*order), lambda x: x.transpose(order))


@operator("Squeeze")
def squeeze(node: Node, value: Any, axes: Any = None) -> Any:
    axes = node("axes") if axes is None else axes
    chosen = [i for i, n in enumerate(value.shape) if n == 1] if axes is None else node.axes(axes, len(value.shape))
    if any(value.shape[i] != 1 for i in chosen):
        raise node.error(f"axes {chosen} of {tuple(value.shape)} are not all of size 1")
    sizes = [n for i, n in enumerate(value.shape) if i not in chosen]
    if isinstance(value, np.ndarray):
        return value.reshape(sizes)
    return _moved(node, value, lambda x: x.reshape(*sizes), lambda x: x.reshape(sizes))


@operator("Unsqueeze")
def unsqueeze(node: Node, value: Any, axes: Any = None) -> Any:
    chosen = node("axes") if axes is None else axes
    rank = len(value.shape) + len(node.ints(chosen))
    places = node.axes(chosen, rank)
    old = iter(value.shape)
    sizes = [1 if i in places else next(old) for i in range(rank)]
    if isinstance(value, np.ndarray):
        return value.reshape(sizes)
    return _moved(node, value, lambda x: x.reshape(*sizes), lambda x: x.reshape(sizes))


host("Squeeze")(squeeze)
host("Unsqueeze")(unsqueeze)


@operator("Expand")
def expand(node: Node, value: Any, wanted: Any) -> Any:
    sizes = np.broadcast_shapes(tuple(value.shape), tuple(node.ints(wanted)))
    return _moved(node, value, lambda x: x.expand(*sizes), lambda x: np.broadcast_to(x, sizes))


@host("Expand")
def host_expand(node: Node, value: np.ndarray, wanted: np.ndarray) -> Any:
    sizes = np.broadcast_shapes(value.shape, tuple(node.ints(wanted)))
    return np.broadcast_to(value, sizes).copy() if math.prod(sizes) <= 256 else expand(node, value, wanted)


@operator("Tile")
def tile(node: Node, value: Any, repeats: Any, axis: Any = None) -> Any:
    times = node.ints(repeats)
    if axis is not None:                # opset 1: one number and one axis
        times = [times[0] if i == node.ints(axis)[0] else 1 for i in range(len(value.shape))]
    return _moved(node, value, lambda x: x.repeat(*times), lambda x: np.tile(x, times))


@operator("Concat")
def concat(node: Node, *values: Any) -> Any:
    if any(isinstance(value, Packed) for value in values):
        return Packed(np.concatenate([value.array for value in values], node("axis", 1)), values[0].kind)
    tensors = [node.tensor(value) for value in values]
    return Tensor.cat(*tensors, dim=node("axis", 1))


host("Concat")(lambda node, *values: np.concatenate(values, node("axis", 1)))


@operator("Split")
def split(node: Node, value: Any, sizes: Any = None) -> tuple[Any, ...]:
    axis = node.axis(0, len(value.shape))
    length = value.shape[axis]
    given = node("split") if sizes is None else node.ints(sizes)
    if given is None:
        parts = int(node("num_outputs", len(node.outputs)))
        each = -(-length // parts)
        given = [max(0, min(each, length - i * each)) for i in range(parts)]
    if sum(given) != length:
        raise node.error(f"parts of {list(given)} do not make up the {length} of axis {axis}")
    out, at = [], 0
    for part in given:
        bounds = slice(at, at + part)
        out.append(_moved(node, value, lambda x, b=bounds: x[(slice(None),) * axis + (b,)],
                          lambda x, b=bounds: x[(slice(None),) * axis + (b,)]))
        at += part
    return tuple(out)


@operator("Slice")
def slices(node: Node, value: Any, starts: Any = None, ends: Any = None, axes: Any = None, steps: Any = None) -> Any:
    begin = node.ints(node("starts") if starts is None else starts)
    end = node.ints(node("ends") if ends is None else ends)
    rank = len(value.shape)
    where = axes if axes is not None else node("axes")
    chosen = list(range(len(begin))) if where is None else node.axes(where, rank)
    step = [1] * len(begin) if steps is None else node.ints(steps)
    if not len(begin) == len(end) == len(chosen) == len(step) or 0 in step:
        raise node.error(f"starts {begin}, ends {end}, axes {chosen} and steps {step} do not fit")
    key = [slice(None)] * rank
    for axis, first, last, by in zip(chosen, begin, end, step, strict=True):
        n = value.shape[axis]
        # ends beyond the beginning mean it, which Python spells None
        low = max(first + n, 0 if by > 0 else -1) if first < 0 else min(first, n if by > 0 else n - 1)
        high = max(last + n, 0 if by > 0 else -1) if last < 0 else min(last, n)
        key[axis] = slice(0, 0) if low < 0 else slice(low, None if high < 0 else high, by)
    if isinstance(value, np.ndarray):
        return value[tuple(key)]
    return _moved(node, value, lambda x: x[tuple(key)], lambda x: x[tuple(key)])


host("Slice")(slices)


@operator("Range")
def value_range(node: Node, start: Any, limit: Any, delta: Any) -> Any:
    first, last, step = (to_host(value).reshape(-1)[0] for value in (start, limit, delta))
    if not step:
        raise node.error("a step of 0")
    count = max(0, math.ceil((last - first) / step))
    array = (first + np.arange(count) * step).astype(first.dtype)
    if isinstance(start, Tensor):
        return Tensor(array, device=node.device).cast(start.dtype)
    from compiler.onnx.model import constant as small
    return small(array, node.device)


host("Range")(value_range)


@operator("EyeLike")
def eye_like(node: Node, value: Any) -> Any:
    rows, columns = value.shape
    kind = node("dtype") or (kind_of(value) if isinstance(value, np.ndarray) else None)
    dtype = value.dtype if kind is None else DTYPES[kind]
    row = Tensor.arange(rows, device=node.device).reshape(-1, 1)
    column = Tensor.arange(columns, device=node.device).reshape(1, -1)
    return (row + int(node("k", 0))).eq(column).cast(dtype)


@operator("Trilu")
def trilu(node: Node, value: Any, k: Any = None) -> Any:
    diagonal = 0 if k is None else node.ints(k)[0]
    x = node.tensor(value)
    rows, columns = x.shape[-2:]
    diagonal = max(-rows - 1, min(columns + 1, diagonal))
    return x.triu(diagonal) if node("upper", 1) else x.tril(diagonal)


PADDING = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@operator("Pad")
def pad(node: Node, value: Any, pads: Any = None, fill: Any = None, axes: Any = None) -> Any:
    x = node.tensor(value)
    amounts = node.ints((node("pads") or node("paddings")) if pads is None else pads)
    chosen = list(range(x.ndim)) if axes is None else node.axes(axes, x.ndim)
    if len(amounts) != 2 * len(chosen):
        raise node.error(f"{len(amounts)} amounts for {len(chosen)} axes; there must be two each")
    pairs = [(0, 0)] * x.ndim
    for i, axis in enumerate(chosen):
        pairs[axis] = amounts[i], amounts[i + len(chosen)]
    mode = node("mode", "constant")
    if mode not in PADDING:
        raise node.error(f"the mode {mode!r} is not known; there are {', '.join(PADDING)}")
    with_value = node("value", 0.0) if fill is None else to_host(fill).reshape(-1)[0].item()
    out: Tensor = x.pad(pairs, PADDING[mode], with_value)
    return out


@operator("CenterCropPad")
def center_crop_pad(node: Node, value: Any, wanted: Any) -> Any:
    x, sizes = node.tensor(value), node.ints(wanted)
    chosen = list(range(x.ndim)) if node("axes") is None else node.axes(node("axes"), x.ndim)
    pairs = [(0, 0)] * x.ndim
    for axis, size in zip(chosen, sizes, strict=True):
        # what is cut off is more at the end when odd, what is added too
        n = x.shape[axis]
        before = -((n - size) // 2) if n > size else (size - n) // 2
        pairs[axis] = before, size - n - before
    return x.pad(pairs)


@operator("DepthToSpace")
def depth_to_space(node: Node, value: Any) -> Any:
    x, b = node.tensor(value), int(node("blocksize"))
    n, c, h, w = x.shape
    if node("mode", "DCR") == "DCR":
        x = x.reshape(n, b, b, c // b ** 2, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        x = x.reshape(n, c // b ** 2, b, b, h, w).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(n, c // b ** 2, h * b, w * b)


@operator("SpaceToDepth")
def space_to_depth(node: Node, value: Any) -> Any:
    x, b = node.tensor(value), int(node("blocksize"))
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // b, b, w // b, b)
    order = (0, 1, 3, 5, 2, 4) if node("mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4)
    return x.permute(*order).reshape(n, c * b * b, h // b, w // b)


@operator("ReverseSequence")
def reverse_sequence(node: Node, value: Any, lengths: Any) -> Any:
    x, lens = node.tensor(value), node.tensor(lengths).cast(dtypes.int32)
    time, batch = int(node("time_axis", 0)), int(node("batch_axis", 1))
    steps = Tensor.arange(x.shape[time], device=node.device).reshape(*[-1 if i == time else 1 for i in range(x.ndim)])
    lens = lens.reshape(*[-1 if i == batch else 1 for i in range(x.ndim)])
    index = (steps < lens).where(lens - 1 - steps, steps + lens * 0).expand(*x.shape)
    return x.gather(time, index)
