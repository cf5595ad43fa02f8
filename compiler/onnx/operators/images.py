"""Operators that sample images: resizing, grids, regions, and what is done to boxes."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.onnx.registry import Node, operator
from compiler.onnx.values import to_host
from compiler.tensor import Tensor

__all__: list[str] = []


# ---- Resize: along each axis a matrix, outputs by inputs

def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' kernel (the standard's text of Resize, "cubic")."""
    d = np.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


class _Axis:
    """One axis of a Resize node."""

    def __init__(self, node: Node, n: int, out: int, scale: float, roi: tuple[float, float]) -> None:
        self.node, self.n, self.out, self.scale, self.roi = node, n, out, scale, roi

    def coordinates(self) -> np.ndarray:
        """Where each output lies among the inputs, float64[out]."""
        x, n, scale = np.arange(self.out, dtype=np.float64), self.n, self.scale
        mode = self.node("coordinate_transformation_mode", "half_pixel" if self.node.opset >= 11 else "asymmetric")
        exact = scale * n
        if mode == "asymmetric":
            return x / scale
        if mode == "align_corners":
            return x * 0 if exact == 1 else x * (n - 1) / (exact - 1)
        if mode == "tf_crop_and_resize":
            start, end = self.roi
            if self.out == 1:
                return x * 0 + 0.5 * (start + end) * (n - 1)
            return start * (n - 1) + x * (end - start) * (n - 1) / (exact - 1)
        if mode == "tf_half_pixel_for_nn":
            return (x + 0.5) / scale
        if mode == "pytorch_half_pixel" and exact == 1:
            return x * 0 - 0.5
        if mode == "half_pixel_symmetric":
            return n / 2 * (1 - self.out / exact) + (x + 0.5) / scale - 0.5
        if mode not in ("half_pixel", "pytorch_half_pixel"):
            raise self.node.error(f"the coordinate_transformation_mode {mode!r} is not known")
        return (x + 0.5) / scale - 0.5

    def nearest(self, x: np.ndarray) -> np.ndarray:
        """The input of each output, int64[out]."""
        mode = self.node("nearest_mode", "round_prefer_floor" if self.node.opset >= 11 else "floor")
        rounded = {"round_prefer_floor": np.ceil(x - 0.5), "round_prefer_ceil": np.floor(x + 0.5), "floor": np.floor(x),
                   "ceil": np.ceil(x)}.get(mode)
        if rounded is None:
            raise self.node.error(f"the nearest_mode {mode!r} is not known")
        return np.clip(rounded, 0, self.n - 1).astype(np.int64)

    def matrix(self, x: np.ndarray, mode: str) -> np.ndarray:
        """float64[out, inputs]"""
        narrow = min(self.scale, 1.0) if self.node("antialias", 0) else 1.0
        reach = (1 if mode == "linear" else 2) / narrow
        first = np.floor(x - reach).astype(np.int64)
        places = first[:, None] + np.arange(int(2 * math.ceil(reach)) + 2)
        distance = (places - x[:, None]) * narrow
        weights = np.maximum(0, 1 - np.abs(distance)) if mode == "linear" else \
            _cubic(distance, self.node("cubic_coeff_a", -0.75))
        outside = (places < 0) | (places >= self.n)
        if self.node("exclude_outside", 0):
            weights = np.where(outside, 0, weights)
        weights = weights / weights.sum(1, keepdims=True)
        out = np.zeros((self.out, self.n))
        np.add.at(out, (np.arange(self.out)[:, None], np.clip(places, 0, self.n - 1)), weights)
        return out


def _sizes(node: Node, x: Tensor, chosen: list[int], scales: list[float] | None,
           sizes: list[int] | None) -> dict[int, tuple[int, float]]:
    """axis -> (output size, scale)"""
    if scales:
        return {axis: (math.floor(x.shape[axis] * s), s) for axis, s in zip(chosen, scales, strict=True)}
    if not sizes:
        raise node.error("neither scales nor sizes are given")
    ratios = [size / x.shape[axis] for axis, size in zip(chosen, sizes, strict=True)]
    policy = node("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return {axis: (size, ratio) for axis, size, ratio in zip(chosen, sizes, ratios, strict=True)}
    one = {"not_larger": min, "not_smaller": max}[policy](ratios)
    return {axis: (math.floor(one * x.shape[axis] + 0.5), one) for axis in chosen}


@operator("Resize", "Upsample")
def resize(node: Node, value: Any, *rest: Any) -> Tensor:
    x = node.tensor(value)
    chosen = list(range(x.ndim)) if node("axes") is None else node.axes(node("axes"), x.ndim)
    if node.op == "Upsample" or node.opset < 11:
        roi, scales, sizes = None, node("scales") if not rest else to_host(rest[0]), None
    else:
        roi, scales, sizes = [None if v is None else to_host(v) for v in [*rest, None, None, None][:3]]
    plan = _sizes(node, x, chosen, None if scales is None else [float(s) for s in scales],
                  None if sizes is None else [int(s) for s in sizes])
    mode = node("mode", "nearest")
    if mode not in ("nearest", "linear", "cubic"):
        raise node.error(f"the mode {mode!r} is not known; there are nearest, linear and cubic")
    dtype, outside = x.dtype, []
    for place, (axis, (out, scale)) in enumerate(plan.items()):
        n = int(x.shape[axis])
        region = (0.0, 1.0) if roi is None or not len(roi) else (float(roi[place]), float(roi[place + len(chosen)]))
        crop = node("coordinate_transformation_mode") == "tf_crop_and_resize"
        if out == n and scale == 1 and not crop:
            continue
        this = _Axis(node, n, out, scale, region)
        at = this.coordinates()
        if crop:
            outside.append((axis, (at < 0) | (at > n - 1)))
        if mode == "nearest":
            x = x.index_select(axis, Tensor(this.nearest(at), device=x.device))
        else:
            weights = Tensor(this.matrix(at, mode).astype(np.float32), device=x.device)
            x = x.cast(dtypes.float32).transpose(axis, x.ndim - 1) @ weights.transpose(0, 1)
            x = x.transpose(axis, x.ndim - 1)
    if dtype.is_int and x.dtype is not dtype:
        x = x.round().clamp(dtype.min, dtype.max)
    x = x.cast(dtype)
    for axis, mask in outside:
        if mask.any():
            gone = Tensor(mask, device=x.device).reshape(*[-1 if i == axis else 1 for i in range(x.ndim)])
            x = gone.where(node("extrapolation_value", 0.0), x).cast(dtype)
    return x


# ---- GridSample

def _unnormalised(grid: Tensor, n: int, corners: bool) -> Tensor:
    return (grid + 1) / 2 * (n - 1) if corners else ((grid + 1) * n - 1) / 2


def _reflected(x: Tensor, n: int, corners: bool) -> Tensor:
    """Mirrored at the borders as often as it takes."""
    low, high = (0.0, n - 1.0) if corners else (-0.5, n - 0.5)
    width = high - low
    if width <= 0:
        return x * 0
    apart = (x - low).abs()
    turns = (apart / width).floor()
    rest = apart - turns * width
    even = (turns / 2).floor().eq(turns / 2)
    return even.where(rest + low, high - rest)


def _padded(x: Tensor, n: int, mode: str, corners: bool) -> Tensor:
    if mode == "reflection":
        x = _reflected(x, n, corners)
    return x if mode == "zeros" else x.clamp(0, n - 1)


class _Sampler:
    """(batch, channels, spatial...) looked up at integer places, which are tensors (batch, points)."""

    def __init__(self, x: Tensor) -> None:
        self.sizes = [int(n) for n in x.shape[2:]]
        self.flat = x.reshape(x.shape[0], x.shape[1], -1)

    def at(self, places: list[Tensor]) -> Tensor:
        """(batch, channels, points); 0 outside."""
        flat: Any = 0
        valid: Any = None
        for place, n in zip(places, self.sizes, strict=True):
            inside = (place >= 0) & (place <= n - 1)
            valid = inside if valid is None else valid & inside
            flat = flat * n + place.clamp(0, n - 1).cast(dtypes.int64)
        index = flat.unsqueeze(1).expand(flat.shape[0], self.flat.shape[1], flat.shape[1])
        picked = self.flat.gather(2, index)
        return valid.unsqueeze(1).where(picked, 0.0).cast(self.flat.dtype)      # type: ignore[no-any-return]


@operator("GridSample")
def grid_sample(node: Node, value: Any, grid: Any) -> Tensor:
    """Any number of axes; the grid's last axis names the innermost coordinate first."""
    x, places = node.tensor(value), node.tensor(grid)
    corners, padding = bool(node("align_corners", 0)), node("padding_mode", "zeros")
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(node("mode", "linear"), node("mode", "linear"))
    sampler = _Sampler(x)
    axes = len(sampler.sizes)
    points = places.reshape(places.shape[0], -1, axes)
    at = [_unnormalised(points[..., axes - 1 - i], n, corners) for i, n in enumerate(sampler.sizes)]
    out: Any = 0
    if mode == "cubic":
        bases = [p.floor() for p in at]
        for offsets in itertools.product((-1, 0, 1, 2), repeat=axes):
            weight: Any = 1
            where = []
            for p, base, offset, n in zip(at, bases, offsets, sampler.sizes, strict=True):
                weight = weight * _cubic_weight(p - base - offset)
                where.append(_padded(base + offset, n, padding, corners))
            out = out + sampler.at(where) * weight.unsqueeze(1)
    else:
        at = [_padded(p, n, padding, corners) for p, n in zip(at, sampler.sizes, strict=True)]
        if mode == "nearest":
            out = sampler.at([p.round() for p in at])
        elif mode == "linear":
            bases = [p.floor() for p in at]
            for offsets in itertools.product((0, 1), repeat=axes):
                weight = 1
                for p, base, offset in zip(at, bases, offsets, strict=True):
                    weight = weight * ((p - base) if offset else (1 - (p - base)))
                out = out + sampler.at([b + o for b, o in zip(bases, offsets, strict=True)]) * weight.unsqueeze(1)
        else:
            raise node.error(f"the mode {mode!r} is not known; there are linear, nearest and cubic")
    return out.reshape(x.shape[0], x.shape[1], *places.shape[1:-1]).cast(x.dtype)       # type: ignore[no-any-return]


def _cubic_weight(distance: Tensor, a: float = -0.75) -> Tensor:
    d = distance.abs()
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return (d <= 1).where(near, (d < 2).where(far, d * 0))


# ---- regions and boxes

@operator("RoiAlign")
def roi_align(node: Node, value: Any, regions: Any, batch: Any) -> Tensor:
    """Sampled on a regular grid in each cell of each region, by the mean or the greatest."""
    x = node.tensor(value)
    boxes = to_host(regions).astype(np.float64) * node("spatial_scale", 1.0)
    which = np.array(node.ints(batch), np.int64)
    rows, columns = int(node("output_height", 1)), int(node("output_width", 1))
    ratio = int(node("sampling_ratio", 0))
    half = node("coordinate_transformation_mode", "half_pixel" if node.opset >= 16 else "output_half_pixel")
    boxes = boxes - (0.5 if half == "half_pixel" else 0)
    height, width = int(x.shape[2]), int(x.shape[3])
    flat = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    out = []
    for (x1, y1, x2, y2), image in zip(boxes, which, strict=True):
        w, h = x2 - x1, y2 - y1
        if half != "half_pixel":
            w, h = max(w, 1.0), max(h, 1.0)
        ny, nx = ratio or max(1, math.ceil(h / rows)), ratio or max(1, math.ceil(w / columns))
        ys = y1 + (np.arange(rows * ny) + 0.5) * (h / (rows * ny))
        xs = x1 + (np.arange(columns * nx) + 0.5) * (w / (columns * nx))
        (y_places, y_weights), (x_places, x_weights) = _linear(ys, height), _linear(xs, width)
        total: Any = None
        for i, j in itertools.product((0, 1), (0, 1)):
            index = (int(image) * height + y_places[i][:, None]) * width + x_places[j][None]
            weight = (y_weights[i][:, None] * x_weights[j][None]).astype(np.float32)
            part = flat.index_select(0, Tensor(index.reshape(-1), device=x.device))
            part = part * Tensor(weight.reshape(-1, 1), device=x.device)
            part = part.reshape(rows, ny, columns, nx, -1)
            if node("mode", "avg") == "max":
                total = part if total is None else total.maximum(part)
            else:
                total = part if total is None else total + part
        cell = total.amax([1, 3]) if node("mode", "avg") == "max" else total.mean([1, 3])
        out.append(cell.permute(2, 0, 1))
    if not out:
        return Tensor.zeros(0, x.shape[1], rows, columns, dtype=x.dtype, device=x.device)
    return Tensor.stack(out).cast(x.dtype)


def _linear(at: np.ndarray, n: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The two inputs of each point and their weights; nothing more than a pixel outside counts."""
    inside = (at >= -1) & (at <= n)
    at = np.clip(at, 0, n - 1)
    low = np.floor(at).astype(np.int64)
    high = np.minimum(low + 1, n - 1)
    part = at - low
    return [low, high], [np.where(inside, 1 - part, 0), np.where(inside, part, 0)]


@operator("NonMaxSuppression")
def non_max_suppression(node: Node, boxes: Any, scores: Any, most: Any = None, overlap: Any = None,
                        least: Any = None) -> Tensor:
    """On the host: what is kept depends on what was kept."""
    corners, values = to_host(boxes).astype(np.float64), to_host(scores)
    count = 0 if most is None else node.ints(most)[0]
    limit = 0.0 if overlap is None else float(to_host(overlap).reshape(-1)[0])
    threshold = -math.inf if least is None else float(to_host(least).reshape(-1)[0])
    if node("center_point_box", 0):
        middle, size = corners[..., :2], corners[..., 2:]
        corners = np.concatenate([middle - size / 2, middle + size / 2], -1)
    else:
        corners = np.concatenate([np.minimum(corners[..., :2], corners[..., 2:]),
                                  np.maximum(corners[..., :2], corners[..., 2:])], -1)
    chosen = []
    for image, label in itertools.product(range(values.shape[0]), range(values.shape[1])):
        box = corners[image]
        area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
        kept: list[int] = []
        for i in np.argsort(-values[image, label], kind="stable"):
            if len(kept) >= count or not values[image, label, i] > threshold:
                break
            sides = [np.maximum(0, np.minimum(box[i, k + 2], box[kept, k + 2]) - np.maximum(box[i, k], box[kept, k]))
                     for k in (0, 1)]
            shared = sides[0] * sides[1]
            if not np.any(shared / np.maximum(area[i] + area[kept] - shared, 1e-300) > limit):
                kept.append(int(i))
        chosen += [(image, label, i) for i in kept]
    return node.tensor(np.array(chosen, np.int64).reshape(-1, 3))


@operator("DeformConv")
def deformable_convolution(node: Node, value: Any, weight: Any, offset: Any, bias: Any = None,
                           mask: Any = None) -> Tensor:
    """Each element of the kernel looks where its offset says, between pixels."""
    x, w, moves = node.tensor(value), node.tensor(weight), node.tensor(offset)
    if x.ndim != 4:
        raise node.error("two axes are known")
    kh, kw = int(w.shape[2]), int(w.shape[3])
    strides, dilations = node("strides", [1, 1]), node("dilations", [1, 1])
    pads, groups, parts = node("pads", [0, 0, 0, 0]), int(node("group", 1)), int(node("offset_group", 1))
    batch, channels = int(x.shape[0]), int(x.shape[1])
    oh, ow = int(moves.shape[2]), int(moves.shape[3])
    moves = moves.reshape(batch * parts, kh * kw, 2, oh * ow)
    sampler = _Sampler(x.reshape(batch * parts, channels // parts, *x.shape[2:]))
    rows = np.arange(oh)[:, None] * strides[0] - pads[0] + np.zeros((oh, ow), np.int64)
    columns = np.arange(ow)[None] * strides[1] - pads[1] + np.zeros((oh, ow), np.int64)
    taps = []
    for k, (i, j) in enumerate(itertools.product(range(kh), range(kw))):
        y = moves[:, k, 0] + Tensor((rows + i * dilations[0]).reshape(1, -1).astype(np.float32), device=x.device)
        z = moves[:, k, 1] + Tensor((columns + j * dilations[1]).reshape(1, -1).astype(np.float32), device=x.device)
        y0, z0 = y.floor(), z.floor()
        tap: Any = 0
        for a, b in itertools.product((0, 1), (0, 1)):
            share = ((y - y0) if a else (1 - (y - y0))) * ((z - z0) if b else (1 - (z - z0)))
            tap = tap + sampler.at([y0 + a, z0 + b]) * share.unsqueeze(1)
        if mask is not None:
            tap = tap * node.tensor(mask).reshape(batch * parts, kh * kw, 1, oh * ow)[:, k]
        taps.append(tap.reshape(batch, channels, oh * ow))
    found = Tensor.stack(taps, dim=2)           # batch, channels, taps, points
    found = found.reshape(batch, groups, channels // groups * kh * kw, oh * ow)
    kernels = w.reshape(groups, w.shape[0] // groups, -1)
    out = (kernels.unsqueeze(0) @ found).reshape(batch, w.shape[0], oh, ow)
    return out if bias is None else out + node.tensor(bias).reshape(1, -1, 1, 1)
