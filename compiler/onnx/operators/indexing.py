"""Operators that pick elements by numbers, and put them."""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler import dtypes
from compiler.onnx.registry import Node, host, operator
from compiler.onnx.values import Packed, to_host
from compiler.tensor import Tensor

__all__: list[str] = []


def _positive(index: Tensor, n: int) -> Tensor:
    index = index.cast(dtypes.int64)
    return (index < 0).where(index + n, index)


@operator("Gather")
def gather(node: Node, value: Any, indices: Any) -> Any:
    axis = node.axis(0, len(value.shape))
    if isinstance(value, Packed):
        return Packed(np.take(value.array, to_host(indices), axis), value.kind)
    x, index = node.tensor(value), node.tensor(indices)
    picked = x.index_select(axis, _positive(index, x.shape[axis]).reshape(-1))
    return picked.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1:])


host("Gather")(lambda node, value, indices: np.asarray(np.take(value, indices, node.axis(0, value.ndim))))


@operator("GatherElements")
def gather_elements(node: Node, value: Any, indices: Any) -> Tensor:
    x, index = node.tensor(value), node.tensor(indices)
    axis = node.axis(0, x.ndim)
    return x.gather(axis, _positive(index, x.shape[axis]))


def _places(index: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Index tuples on the last axis -> numbers into the flattened axes."""
    flat: Any = 0
    for i, n in enumerate(sizes):
        flat = flat * n + _positive(index[..., i], n)
    return flat         # type: ignore[no-any-return]


@operator("GatherND")
def gather_nd(node: Node, value: Any, indices: Any) -> Tensor:
    x, index = node.tensor(value), node.tensor(indices)
    batch, depth = int(node("batch_dims", 0)), index.shape[-1]
    lead = x.shape[:batch]
    count = int(np.prod(lead))
    sizes, rest = x.shape[batch:batch + depth], x.shape[batch + depth:]
    flat = _places(index, sizes).reshape(count, -1)
    rows = int(np.prod(sizes))
    flat = flat + Tensor.arange(count, device=x.device).cast(dtypes.int64).reshape(-1, 1) * rows
    picked = x.reshape(count * rows, *rest).index_select(0, flat.reshape(-1))
    return picked.reshape(*lead, *index.shape[batch:-1], *rest)


REDUCES = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _scatter(node: Node, x: Tensor, axis: int, index: Tensor, updates: Tensor) -> Tensor:
    how = node("reduction", "none")
    if how == "none":
        return x.scatter(axis, index, updates)
    if how not in REDUCES:
        raise node.error(f"the reduction {how!r} is not known; there are none, {', '.join(REDUCES)}")
    return x.scatter_reduce(axis, index, updates, REDUCES[how], include_self=True)


@operator("ScatterElements", "Scatter")
def scatter_elements(node: Node, value: Any, indices: Any, updates: Any) -> Tensor:
    x, index, new = node.tensor(value), node.tensor(indices), node.tensor(updates)
    axis = node.axis(0, x.ndim)
    return _scatter(node, x, axis, _positive(index, x.shape[axis]), new)


@operator("ScatterND")
def scatter_nd(node: Node, value: Any, indices: Any, updates: Any) -> Tensor:
    x, index, new = node.tensor(value), node.tensor(indices), node.tensor(updates)
    depth = index.shape[-1]
    sizes, rest = x.shape[:depth], x.shape[depth:]
    width = int(np.prod(rest))
    flat = _places(index, sizes).reshape(-1, 1) * width + Tensor.arange(width, device=x.device).cast(dtypes.int64)
    return _scatter(node, x.reshape(-1), 0, flat.reshape(-1), new.reshape(-1)).reshape(*x.shape)


@operator("TensorScatter")
def tensor_scatter(node: Node, cache: Any, update: Any, write: Any = None) -> Tensor:
    """Rows of a cache replaced, from a place of its own for each of the batch on; "circular" wraps."""
    x, new = node.tensor(cache), node.tensor(update)
    axis = node.axis(-2, x.ndim)
    start = np.zeros(x.shape[0], np.int64) if write is None else np.array(node.ints(write))
    rows = start[:, None] + np.arange(new.shape[axis])
    if node("mode", "linear") == "circular":
        rows = rows % x.shape[axis]
    elif rows.size and rows.max() >= x.shape[axis]:
        raise node.error(f"rows up to {rows.max()} of a cache of {x.shape[axis]}")
    sizes = [1] * x.ndim
    sizes[0], sizes[axis] = rows.shape
    return x.scatter(axis, node.tensor(rows).reshape(*sizes).expand(*new.shape), new)


@operator("OneHot")
def one_hot(node: Node, indices: Any, depth: Any, values: Any) -> Tensor:
    index, pair = node.tensor(indices), node.tensor(values)
    count = node.ints(depth)[0]
    axis = node.axis(-1, index.ndim + 1)
    places = _positive(index.cast(dtypes.int64), count).unsqueeze(axis)
    order = Tensor.arange(count, device=index.device).reshape(*[-1 if i == axis else 1 for i in range(index.ndim + 1)])
    return places.eq(order).where(pair[1], pair[0])


@operator("Compress")
def compress(node: Node, value: Any, condition: Any) -> Tensor:
    x = node.tensor(value)
    kept = np.nonzero(to_host(condition))[0]
    if "axis" not in node.attributes:
        return x.reshape(-1).index_select(0, node.tensor(kept))
    return x.index_select(node.axis(0, x.ndim), node.tensor(kept))


@operator("TfIdfVectorizer")
def tf_idf_vectorizer(node: Node, value: Any) -> Tensor:
    """How often each n-gram of a pool is in each row, on the host: rows are short, and pools are looked up."""
    pool = node("pool_int64s")
    if pool is None:
        raise node.error("pools of strings are not known here")
    rows = to_host(value)
    flat = rows.reshape(1, -1) if rows.ndim < 2 else rows
    shortest, longest, most = int(node("min_gram_length")), int(node("max_gram_length")), int(node("max_skip_count"))
    starts = [*node("ngram_counts"), len(pool)]
    grams: dict[tuple[int, ...], int] = {}
    for n in range(1, len(starts)):
        part = pool[starts[n - 1]:starts[n]]
        for i in range(0, len(part), n):
            grams[tuple(part[i:i + n])] = len(grams)
    out = np.zeros((len(flat), max(node("ngram_indexes")) + 1), np.float32)
    for row, counts in zip(flat, out, strict=True):
        for n in range(shortest, longest + 1):
            for step in range(1, (most if n > 1 else 0) + 2):
                for i in range(len(row) - (n - 1) * step):
                    found = grams.get(tuple(int(row[i + k * step]) for k in range(n)))
                    if found is not None:
                        counts[node("ngram_indexes")[found]] += 1
    weights = node("weights")
    per_output = np.ones(out.shape[1], np.float32)
    if weights is not None:
        per_output[np.array(node("ngram_indexes"))] = weights
    how = node("mode")
    out = out * per_output if how == "TFIDF" else (out > 0) * per_output if how == "IDF" else out
    return node.tensor(out.astype(np.float32).reshape(*rows.shape[:-1], -1))


@operator("ArrayFeatureExtractor")
def array_feature_extractor(node: Node, value: Any, indices: Any) -> Tensor:
    x = node.tensor(value)
    return x.reshape(-1, x.shape[-1]).index_select(1, node.tensor(indices).reshape(-1))
