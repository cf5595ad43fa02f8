"""Operators that reduce axes, scan along them, or order them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.onnx.registry import Node, host, operator
from compiler.onnx.values import to_host
from compiler.tensor import Tensor

__all__: list[str] = []


def _axes(node: Node, axes: Any, rank: int) -> list[int] | None:
    """None: nothing is reduced. Axes are an attribute in older sets and an input in newer ones."""
    given = node("axes") if axes is None else node.ints(axes)
    if given is None or len(given) == 0:
        return None if node("noop_with_empty_axes", 0) else list(range(rank))
    return node.axes(given, rank)


def _log_sum_exp(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    top = _extreme("amax")(x, axes, True)
    top = top.isfinite().where(top, 0.0)
    total = (x - top).exp().sum(axes, keepdim=True).log() + top
    return total if keep else total.squeeze(axes)


def _extreme(name: str) -> Callable[[Tensor, list[int], bool], Tensor]:
    def reduce(x: Tensor, axes: list[int], keep: bool) -> Tensor:
        if any(x.shape[axis] == 0 for axis in axes):
            sizes = [1 if i in axes else n for i, n in enumerate(x.shape)]
            least = x.dtype.min if name == "amax" else x.dtype.max
            empty = Tensor.full(sizes, least, dtype=x.dtype, device=x.device)
            return empty if keep else empty.squeeze(axes)
        bits = x.cast(dtypes.int32) if x.dtype is dtypes.bool_ else x
        return getattr(bits, name)(axes, keepdim=keep).cast(x.dtype)        # type: ignore[no-any-return]
    return reduce


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


REDUCTIONS: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keepdim=keep),
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keepdim=keep),
    "ReduceMax": _extreme("amax"), "ReduceMin": _extreme("amin"), "ReduceProd": _product,
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep),
    "ReduceL2": lambda x, axes, keep: (x * x).sum(axes, keepdim=keep).sqrt(),
    "ReduceSumSquare": lambda x, axes, keep: (x * x).sum(axes, keepdim=keep),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keepdim=keep).log(),
    "ReduceLogSumExp": _log_sum_exp}
# What an operator does to elements when no axis is reduced.
ALONE: dict[str, Callable[[Tensor], Tensor]] = {
    "ReduceL1": Tensor.abs, "ReduceL2": Tensor.abs, "ReduceSumSquare": lambda x: x * x, "ReduceLogSum": Tensor.log,
    "ReduceLogSumExp": lambda x: x}


def _reduction(name: str) -> Callable[..., Tensor]:
    def run(node: Node, value: Any, axes: Any = None) -> Tensor:
        x = node.tensor(value)
        chosen = _axes(node, axes, x.ndim)
        if chosen is None:
            return ALONE.get(name, lambda x: x)(x)
        if not x.ndim:
            return ALONE.get(name, lambda x: x)(x)
        return REDUCTIONS[name](x, chosen, bool(node("keepdims", 1))).cast(x.dtype)
    return run


for _name in REDUCTIONS:
    operator(_name)(_reduction(_name))


@host("ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin")
def host_reduce(node: Node, value: np.ndarray, axes: Any = None) -> Any:
    chosen = _axes(node, axes, value.ndim)
    if chosen is None or value.dtype.kind not in "iu" or not value.size:
        return _reduction(node.op)(node, value, axes)
    function: Any = getattr(np, node.op.removeprefix("Reduce").lower())
    return np.asarray(function(value, axis=tuple(chosen), keepdims=bool(node("keepdims", 1)))).astype(value.dtype)


def _arg(name: str) -> Callable[..., Tensor]:
    def run(node: Node, value: Any) -> Tensor:
        x = node.tensor(value)
        axis, keep = node.axis(0, x.ndim), bool(node("keepdims", 1))
        if node("select_last_index", 0):
            found = x.shape[axis] - 1 - getattr(x.flip(axis), name)(axis, keepdim=keep)
        else:
            found = getattr(x, name)(axis, keepdim=keep)
        return found.cast(dtypes.int64)     # type: ignore[no-any-return]
    return run


operator("ArgMax")(_arg("argmax"))
operator("ArgMin")(_arg("argmin"))


def _scan(name: str) -> Callable[..., Tensor]:
    def run(node: Node, value: Any, axis: Any) -> Tensor:
        x = node.tensor(value)
        along = node.axes(axis, x.ndim)[0]
        reverse, exclusive = node("reverse", 0), node("exclusive", 0)
        if reverse:
            x = x.flip(along)
        out = getattr(x, name)(along)
        if exclusive:
            first = x.shrink([(0, 1) if i == along else None for i in range(x.ndim)])
            first = first * 0 if name == "cumsum" else first * 0 + 1
            rest = out.shrink([(0, x.shape[along] - 1) if i == along else None for i in range(x.ndim)])
            out = Tensor.cat(first, rest, dim=along)
        return (out.flip(along) if reverse else out).cast(x.dtype)      # type: ignore[no-any-return]
    return run


operator("CumSum")(_scan("cumsum"))
operator("CumProd")(_scan("cumprod"))


@operator("TopK")
def top_k(node: Node, value: Any, k: Any = None) -> tuple[Tensor, Tensor]:
    x = node.tensor(value)
    count = int(node("k")) if k is None else node.ints(k)[0]
    values, places = x.topk(count, node.axis(-1, x.ndim), bool(node("largest", 1)), bool(node("sorted", 1)))
    return values, places.cast(dtypes.int64)


@operator("Hardmax")
def hardmax(node: Node, value: Any) -> Tensor:
    x = node.tensor(value)
    axis = node.axis(-1 if node.opset >= 13 else 1, x.ndim)
    if node.opset < 13:
        flat = x.reshape(int(np.prod(x.shape[:axis])), -1)
        return (flat.argmax(1, keepdim=True).eq(Tensor.arange(flat.shape[1], device=x.device))).cast(x.dtype).reshape(
            *x.shape)
    order = Tensor.arange(x.shape[axis], device=x.device).reshape(*[-1 if i == axis else 1 for i in range(x.ndim)])
    return x.argmax(axis, keepdim=True).eq(order).cast(x.dtype)


def _softmax(log: bool) -> Callable[..., Tensor]:
    def run(node: Node, value: Any) -> Tensor:
        x = node.tensor(value)
        function = Tensor.log_softmax if log else Tensor.softmax
        axis = node.axis(-1 if node.opset >= 13 else 1, x.ndim)
        if node.opset >= 13:
            return function(x, axis).cast(x.dtype)
        return function(x.reshape(int(np.prod(x.shape[:axis])), -1), 1).reshape(*x.shape)
    return run


operator("Softmax")(_softmax(False))
operator("LogSoftmax")(_softmax(True))


@operator("Unique")
def unique(node: Node, value: Any) -> tuple[Any, ...]:
    """On the host: how many there are is known only then. The axis' elements are compared row by row."""
    array, axis = to_host(value), node("axis")
    found, first, inverse, counts = np.unique(array, return_index=True, return_inverse=True, return_counts=True,
                                              axis=axis)
    inverse = inverse.reshape(-1)
    if not node("sorted", 1):
        order = np.argsort(first)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        found, first, counts = np.take(found, order, 0 if axis is None else axis), first[order], counts[order]
        inverse = place[inverse]
    values = node.tensor(found)
    values = values.cast(value.dtype) if isinstance(value, Tensor) else values      # bfloat16 comes as float32
    return (values, *[node.tensor(each.astype(np.int64)) for each in (first, inverse, counts)])


@operator("NonZero")
def non_zero(node: Node, value: Any) -> Any:
    return node.tensor(np.array(np.nonzero(to_host(value)), np.int64))
