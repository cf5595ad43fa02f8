"""Convolutions and pooling: operators that look at windows."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.onnx.registry import Node, operator
from compiler.tensor import Tensor

__all__ = ["conv"]

Pairs = list[tuple[int, int]]


def _numbers(node: Node, name: str, count: int, default: int = 1) -> list[int]:
    given = node(name)
    if given is None:
        return [default] * count
    if len(given) != count:
        raise node.error(f"{name} has {len(given)} numbers for {count} axes")
    return [int(n) for n in given]


def _padding(node: Node, sizes: list[int], kernel: list[int], strides: list[int], dilations: list[int]) -> Pairs:
    """Before and after, an axis; by auto_pad, if the node leaves it to that."""
    mode = node("auto_pad", "NOTSET")
    if mode == "VALID":
        return [(0, 0)] * len(sizes)
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        out = []
        for n, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
            total = max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
            less = total // 2
            out.append((less, total - less) if mode == "SAME_UPPER" else (total - less, less))
        return out
    pads = node("pads") or [0] * (2 * len(sizes))
    if mode != "NOTSET" or len(pads) != 2 * len(sizes):
        raise node.error(f"auto_pad {mode!r} and pads {list(pads)} do not fit {len(sizes)} axes")
    return [(int(pads[i]), int(pads[i + len(sizes)])) for i in range(len(sizes))]


def conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Of any number of axes; (batch, channels, ...) and (out, channels / groups, ...)."""
    axes = x.ndim - 2
    kernel = [int(n) for n in weight.shape[2:]]
    strides, dilations = _numbers(node, "strides", axes), _numbers(node, "dilations", axes)
    pads = _padding(node, [int(n) for n in x.shape[2:]], kernel, strides, dilations)
    x = x.pad([(0, 0), (0, 0), *pads])
    function = {1: Tensor.conv1d, 2: Tensor.conv2d, 3: Tensor.conv3d}.get(axes)
    if function is None:
        raise node.error(f"a convolution over {axes} axes; up to 3 are known")
    return function(x, weight, bias, strides, 0, dilations, int(node("group", 1)))


@operator("Conv")
def convolution(node: Node, value: Any, weight: Any, bias: Any = None) -> Tensor:
    return conv(node, node.tensor(value), node.tensor(weight), None if bias is None else node.tensor(bias))


@operator("ConvInteger")
def convolution_of_integers(node: Node, value: Any, weight: Any, value_zero: Any = None, zero: Any = None) -> Tensor:
    x, w = node.tensor(value).cast(dtypes.int32), node.tensor(weight).cast(dtypes.int32)
    if value_zero is not None:
        x = x - node.tensor(value_zero).cast(dtypes.int32)
    if zero is not None:
        z = node.tensor(zero).cast(dtypes.int32)
        w = w - (z.reshape(-1, *[1] * (w.ndim - 1)) if z.ndim else z)
    return conv(node, x, w)


@operator("ConvTranspose")
def transposed(node: Node, value: Any, weight: Any, bias: Any = None) -> Tensor:
    x, w = node.tensor(value), node.tensor(weight)
    axes = x.ndim - 2
    kernel = [int(n) for n in w.shape[2:]]
    strides, dilations = _numbers(node, "strides", axes), _numbers(node, "dilations", axes)
    extra = _numbers(node, "output_padding", axes, 0)
    sizes = [int(n) for n in x.shape[2:]]
    full = [s * (n - 1) + (k - 1) * d + 1 + e
            for n, k, s, d, e in zip(sizes, kernel, strides, dilations, extra, strict=True)]
    wanted = node("output_shape")
    mode = node("auto_pad", "NOTSET")
    if wanted is not None or mode in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [int(n) for n in wanted[-axes:]] if wanted is not None else [n * s for n, s in
                                                                              zip(sizes, strides, strict=True)]
        pads = []
        for have, want in zip(full, wanted, strict=True):
            total = have - want
            less = total // 2
            pads.append((less, total - less) if mode == "SAME_UPPER" else (total - less, less))
    else:
        pads = _padding(node, sizes, kernel, strides, dilations)
    function = {1: Tensor.conv_transpose1d, 2: Tensor.conv_transpose2d, 3: Tensor.conv_transpose3d}.get(axes)
    if function is None:
        raise node.error(f"a convolution over {axes} axes; up to 3 are known")
    out = function(x, w, None, strides, 0, 0, int(node("group", 1)), dilations)
    grown = [(0, 0), (0, 0)] + [(0, e) for e in extra]
    out = out.pad(grown).pad([(0, 0), (0, 0)] + [(-before, -after) for before, after in pads])
    return out if bias is None else out + node.tensor(bias).reshape(1, -1, *[1] * axes)


# ---- pooling

class _Windows:
    """What a pooling node looks at: window numbers and elements, an axis at a time."""

    def __init__(self, node: Node, x: Tensor, kernel: list[int]) -> None:
        axes = len(kernel)
        self.kernel, sizes = kernel, [int(n) for n in x.shape[2:]]
        self.strides, self.dilations = _numbers(node, "strides", axes), _numbers(node, "dilations", axes)
        self.pads = _padding(node, sizes, kernel, self.strides, self.dilations)
        self.places = []            # an axis: int[windows, elements], in the coordinates of the input
        for n, k, s, d, (before, after) in zip(sizes, kernel, self.strides, self.dilations, self.pads, strict=True):
            room = n + before + after - ((k - 1) * d + 1)
            count = (-(-room // s) if node("ceil_mode", 0) else room // s) + 1
            if node("ceil_mode", 0) and (count - 1) * s >= n + before:
                count -= 1          # a window that would begin in the padding behind
            self.places.append(np.arange(count)[:, None] * s + np.arange(k) * d - before)
        self.sizes = sizes

    def of(self, x: Tensor, fill: Any) -> Tensor:
        """(batch, channels, windows..., elements...)"""
        pads = []
        for n, places in zip(self.sizes, self.places, strict=True):
            pads.append((max(0, -int(places.min())), max(0, int(places.max()) + 1 - n)))
        x = x.pad([(0, 0), (0, 0), *pads], "constant", fill)
        for axis, (places, (before, _)) in enumerate(zip(self.places, pads, strict=True)):
            index = Tensor((places + before).reshape(-1).astype(np.int64), device=x.device)
            at = 2 + axis
            x = x.index_select(at, index)
            x = x.reshape(*x.shape[:at], *places.shape, *x.shape[at + 1:])
            # elements go behind everything, windows stay
            order = [i for i in range(x.ndim) if i != at + 1] + [at + 1]
            x = x.permute(*order)
        return x

    def inside(self, padding_too: bool) -> np.ndarray:
        """How many elements of each window count: those of the input, or of the padding as well."""
        counts: Any = np.ones([1] * len(self.places))
        for axis, (n, places, (before, after)) in enumerate(zip(self.sizes, self.places, self.pads, strict=True)):
            low, high = (-before, n + after) if padding_too else (0, n)
            one = ((places >= low) & (places < high)).sum(1)
            counts = counts * one.reshape([-1 if i == axis else 1 for i in range(len(self.places))])
        return np.asarray(counts)

    @property
    def elements(self) -> list[int]:
        return list(range(-len(self.kernel), 0))


def _kernel(node: Node) -> list[int]:
    return [int(n) for n in node("kernel_shape")]


@operator("MaxPool")
def max_pool(node: Node, value: Any) -> Any:
    x = node.tensor(value)
    windows = _Windows(node, x, _kernel(node))
    found = windows.of(x, x.dtype.min)
    flat = found.reshape(*found.shape[:x.ndim], -1)
    out = flat.amax([-1])
    if not node.wants(1):
        return out
    # the winner's place in the whole input, batch and channels counted; the last axis fastest, or the first
    sizes = windows.sizes
    shape = [len(p) for p in windows.places]
    weights = [1] * len(sizes)
    order = range(len(sizes)) if node("storage_order", 0) else reversed(range(len(sizes)))
    step = 1
    for axis in order:
        weights[axis], step = step, step * sizes[axis]
    numbers = np.zeros([*shape, *windows.kernel], np.int64)
    for axis, places in enumerate(windows.places):
        view = [1] * (2 * len(sizes))
        view[axis], view[len(sizes) + axis] = places.shape
        numbers = numbers + places.reshape(view) * weights[axis]
    which = flat.argmax(-1, keepdim=True)
    table = Tensor(numbers.reshape(1, 1, *shape, -1), device=x.device).expand(*flat.shape)
    place = table.gather(flat.ndim - 1, which.cast(dtypes.int64)).squeeze([flat.ndim - 1])
    planes = np.arange(math.prod(x.shape[:2]), dtype=np.int64).reshape(*x.shape[:2], *[1] * len(sizes))
    return out, place + Tensor(planes * math.prod(sizes), device=x.device)


@operator("AveragePool")
def average_pool(node: Node, value: Any) -> Tensor:
    x = node.tensor(value)
    windows = _Windows(node, x, _kernel(node))
    total = windows.of(x, 0).sum(windows.elements)
    counts = windows.inside(bool(node("count_include_pad", 0)))
    return (total / Tensor(counts.astype(np.float32), device=x.device)).cast(x.dtype)


@operator("LpPool")
def lp_pool(node: Node, value: Any) -> Tensor:
    x, p = node.tensor(value), float(node("p", 2))
    windows = _Windows(node, x, _kernel(node))
    return windows.of(x, 0).abs().pow(p).sum(windows.elements).pow(1 / p).cast(x.dtype)


@operator("GlobalAveragePool")
def global_average_pool(node: Node, value: Any) -> Tensor:
    x = node.tensor(value)
    return x.mean(list(range(2, x.ndim)), keepdim=True)


@operator("GlobalMaxPool")
def global_max_pool(node: Node, value: Any) -> Tensor:
    x = node.tensor(value)
    return x.amax(list(range(2, x.ndim)), keepdim=True)


@operator("GlobalLpPool")
def global_lp_pool(node: Node, value: Any) -> Tensor:
    x, p = node.tensor(value), float(node("p", 2))
    return x.abs().pow(p).sum(list(range(2, x.ndim)), keepdim=True).pow(1 / p)


@operator("MaxUnpool")
def max_unpool(node: Node, value: Any, indices: Any, wanted: Any = None) -> Tensor:
    x, index = node.tensor(value), node.tensor(indices)
    kernel = _kernel(node)
    strides = _numbers(node, "strides", len(kernel))
    pads = _padding(node, [int(n) for n in x.shape[2:]], kernel, strides, [1] * len(kernel))
    sizes = [s * (int(n) - 1) + k - b - a for n, s, k, (b, a) in zip(x.shape[2:], strides, kernel, pads, strict=True)]
    shape = [*x.shape[:2], *sizes] if wanted is None else node.ints(wanted)
    # the places are in an output of the size that follows from the input; a larger one has it in its corner
    inner = [*x.shape[:2], *sizes]
    flat = Tensor.zeros(math.prod(inner), dtype=x.dtype, device=x.device)
    placed = flat.scatter(0, index.reshape(-1).cast(dtypes.int64), x.reshape(-1)).reshape(*inner)
    return placed.pad([(0, want - have) for want, have in zip(shape, inner, strict=True)])


@operator("Col2Im")
def col_to_im(node: Node, value: Any, image: Any, block: Any) -> Tensor:
    """Blocks added up where they overlap, one position of the block at a time."""
    x, sizes, kernel = node.tensor(value), node.ints(image), node.ints(block)
    axes = len(sizes)
    strides, dilations = _numbers(node, "strides", axes), _numbers(node, "dilations", axes)
    pads = _padding(node, sizes, kernel, strides, dilations)
    padded = [n + b + a for n, (b, a) in zip(sizes, pads, strict=True)]
    counts = [(n - (k - 1) * d - 1) // s + 1 for n, k, d, s in zip(padded, kernel, dilations, strides, strict=True)]
    batch, channels = int(x.shape[0]), int(x.shape[1]) // math.prod(kernel)
    x = x.reshape(batch, channels, *kernel, *counts)
    total: Any = None
    for place in itertools.product(*map(range, kernel)):
        part = x[(slice(None), slice(None), *place)]
        for axis in range(axes):
            n, step, at = counts[axis], strides[axis], 2 + axis
            part = part.unsqueeze(at + 1).pad([(0, step - 1) if i == at + 1 else (0, 0) for i in range(part.ndim + 1)])
            part = part.reshape(*part.shape[:at], n * step, *part.shape[at + 2:])
            first = place[axis] * dilations[axis]
            part = part.pad([(first, padded[axis] - first - n * step) if i == at else (0, 0) for i in range(part.ndim)])
        total = part if total is None else total + part
    return total.pad([(0, 0), (0, 0)] + [(-b, -a) for b, a in pads])     # type: ignore[no-any-return]
