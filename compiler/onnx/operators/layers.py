"""Products, normalisations, losses and the other operators of networks."""

from __future__ import annotations

from typing import Any

from compiler import dtypes
from compiler.onnx.registry import Node, operator
from compiler.onnx.values import DTYPES, to_host
from compiler.tensor import Tensor

__all__: list[str] = []


@operator("MatMul")
def matmul(node: Node, a: Any, b: Any) -> Tensor:
    x, y = node.tensor(a), node.tensor(b)
    return (x @ y).cast(x.dtype)


@operator("Gemm")
def gemm(node: Node, a: Any, b: Any, c: Any = None) -> Tensor:
    x, y = node.tensor(a), node.tensor(b)
    x = x.transpose(0, 1) if node("transA", 0) else x
    y = y.transpose(0, 1) if node("transB", 0) else y
    alpha, beta = node("alpha", 1.0), node("beta", 1.0)
    out = x @ y
    out = out if alpha == 1 else out * alpha
    if c is not None:
        z = node.tensor(c)
        out = out + (z if beta == 1 else z * beta)
    return out.cast(x.dtype)


@operator("Einsum")
def einsum(node: Node, *values: Any) -> Tensor:
    return Tensor.einsum(node("equation"), *map(node.tensor, values))


@operator("Det")
def det(node: Node, value: Any) -> Tensor:
    return node.tensor(value).det()


def _wide(x: Tensor, stash: int) -> Tensor:
    """In the type that the node computes in, float32 unless it says otherwise."""
    to = DTYPES[stash]
    return x.cast(to) if x.dtype.bits < to.bits else x


@operator("LayerNormalization")
def layer_normalization(node: Node, value: Any, scale: Any, bias: Any = None) -> tuple[Tensor, ...]:
    x = node.tensor(value)
    axes = list(range(node.axis(-1, x.ndim), x.ndim))
    wide = _wide(x, node("stash_type", 1))
    mean = wide.mean(axes, keepdim=True)
    apart = wide - mean
    inverse = ((apart * apart).mean(axes, keepdim=True) + node("epsilon", 1e-5)).rsqrt()
    out = (apart * inverse).cast(x.dtype) * node.tensor(scale)
    return (out if bias is None else out + node.tensor(bias)), mean, inverse


@operator("RMSNormalization")
def rms_normalization(node: Node, value: Any, scale: Any) -> Tensor:
    x = node.tensor(value)
    axes = list(range(node.axis(-1, x.ndim), x.ndim))
    wide = _wide(x, node("stash_type", 1))
    out = wide * ((wide * wide).mean(axes, keepdim=True) + node("epsilon", 1e-5)).rsqrt()
    return (out.cast(x.dtype) * node.tensor(scale)).cast(x.dtype)


def _channels(x: Tensor, rank: int) -> Tensor:
    return x.reshape(1, -1, *[1] * (rank - 2))


@operator("BatchNormalization")
def batch_normalization(node: Node, value: Any, scale: Any, bias: Any, mean: Any, variance: Any) -> Any:
    x = node.tensor(value)
    running_mean, running_var = node.tensor(mean), node.tensor(variance)
    training = node("training_mode", 0)
    axes = [i for i in range(x.ndim) if i != 1]
    if training:
        used_mean = x.mean(axes)
        apart = x - _channels(used_mean, x.ndim)
        used_var = (apart * apart).mean(axes)
    else:
        used_mean, used_var = running_mean, running_var
    inverse = (used_var + node("epsilon", 1e-5)).rsqrt()
    out = (x - _channels(used_mean, x.ndim)) * _channels(inverse * node.tensor(scale), x.ndim)
    out = (out + _channels(node.tensor(bias), x.ndim)).cast(x.dtype)
    if not training:
        return out
    kept = node("momentum", 0.9)
    return (out, (running_mean * kept + used_mean * (1 - kept)).cast(running_mean.dtype),
            (running_var * kept + used_var * (1 - kept)).cast(running_var.dtype))


@operator("InstanceNormalization")
def instance_normalization(node: Node, value: Any, scale: Any, bias: Any) -> Tensor:
    x = node.tensor(value)
    axes = list(range(2, x.ndim))
    apart = x - x.mean(axes, keepdim=True)
    out = apart * ((apart * apart).mean(axes, keepdim=True) + node("epsilon", 1e-5)).rsqrt()
    return out * _channels(node.tensor(scale), x.ndim) + _channels(node.tensor(bias), x.ndim)


@operator("GroupNormalization")
def group_normalization(node: Node, value: Any, scale: Any, bias: Any) -> Tensor:
    x, groups = node.tensor(value), int(node("num_groups"))
    wide = _wide(x, node("stash_type", 1)).reshape(x.shape[0], groups, -1)
    apart = wide - wide.mean(2, keepdim=True)
    out = (apart * ((apart * apart).mean(2, keepdim=True) + node("epsilon", 1e-5)).rsqrt()).reshape(*x.shape)
    s, b = node.tensor(scale), node.tensor(bias)
    if node.opset < 21:         # one number a group
        s, b = (t.reshape(-1, 1).expand(groups, x.shape[1] // groups).reshape(-1) for t in (s, b))
    return out.cast(x.dtype) * _channels(s, x.ndim) + _channels(b, x.ndim)


@operator("LRN")
def local_response_normalization(node: Node, value: Any) -> Tensor:
    """Over ``size`` neighbouring channels, one more after than before where it is even."""
    x, size = node.tensor(value), int(node("size"))
    before = (size - 1) // 2
    squares = (x * x).pad([(0, 0), (before, size - 1 - before)] + [(0, 0)] * (x.ndim - 2))
    total: Any = sum(squares.shrink([None, (i, i + x.shape[1])] + [None] * (x.ndim - 2)) for i in range(size))
    return x / (node("bias", 1.0) + total * (node("alpha", 1e-4) / size)).pow(node("beta", 0.75))


@operator("LpNormalization")
def lp_normalization(node: Node, value: Any) -> Tensor:
    x = node.tensor(value)
    axis, p = node.axis(-1, x.ndim), int(node("p", 2))
    norm = x.abs().sum(axis, keepdim=True) if p == 1 else (x * x).sum(axis, keepdim=True).sqrt()
    return norm.eq(0).where(norm * 0, x / norm.eq(0).where(norm * 0 + 1, norm))


@operator("MeanVarianceNormalization")
def mean_variance_normalization(node: Node, value: Any) -> Tensor:
    x, axes = node.tensor(value), node("axes", [0, 2, 3])
    apart = x - x.mean(axes, keepdim=True)
    return apart / ((apart * apart).mean(axes, keepdim=True).sqrt() + 1e-9)


@operator("Dropout")
def dropout(node: Node, value: Any, ratio: Any = None, training: Any = None) -> tuple[Tensor, ...]:
    x = node.tensor(value)
    rate = float(to_host(ratio).reshape(-1)[0]) if ratio is not None else node("ratio", 0.5)
    ones = Tensor.ones(*x.shape, dtype=dtypes.bool_, device=x.device)
    if training is None or not node.ints(training)[0] or not rate:
        return x, ones
    kept = Tensor.rand(*x.shape, device=x.device) >= rate
    return (kept.where(x / (1 - rate), x * 0)).cast(x.dtype), kept


# ---- losses

def _loss(node: Node, scores: Tensor, target: Any, weight: Any) -> Tensor:
    """Minus the log of the right class's share, weighted, reduced."""
    ignored = node("ignore_index")
    right = node.tensor(target).cast(dtypes.int64)
    valid = None if ignored is None else right.ne(ignored)
    safe = right if valid is None else valid.where(right, right * 0)
    picked = -scores.gather(1, safe.unsqueeze(1)).squeeze([1])
    w = None if weight is None else node.tensor(weight).index_select(0, safe.reshape(-1)).reshape(*safe.shape)
    if valid is not None:
        w = valid.where(w if w is not None else Tensor.ones(*safe.shape, device=scores.device).cast(scores.dtype), 0.0)
    out = picked if w is None else picked * w
    how = node("reduction", "mean")
    if how == "none":
        return out.cast(scores.dtype)
    if how == "sum" or w is None:
        return (out.sum() if how == "sum" else out.mean()).cast(scores.dtype)
    return (out.sum() / w.sum()).cast(scores.dtype)


@operator("NegativeLogLikelihoodLoss")
def negative_log_likelihood(node: Node, scores: Any, target: Any, weight: Any = None) -> Tensor:
    return _loss(node, node.tensor(scores), target, weight)


@operator("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy(node: Node, scores: Any, target: Any, weight: Any = None) -> tuple[Tensor, ...]:
    shares = node.tensor(scores).log_softmax(1)
    return _loss(node, shares, target, weight), shares


# ---- random numbers: of the right shape and type; which they are no standard says

@operator("Bernoulli")
def bernoulli(node: Node, value: Any) -> Tensor:
    x = node.tensor(value)
    kind = node("dtype")
    drawn = Tensor.rand(*x.shape, device=x.device).cast(x.dtype) < x
    return drawn.cast(x.dtype if kind is None else DTYPES[kind])


def _shape_and_type(node: Node, like: Any) -> tuple[list[int], Any]:
    sizes = list(node("shape")) if like is None else list(like.shape)
    kind = node("dtype")
    return sizes, DTYPES[kind] if kind is not None else dtypes.float32 if like is None else node.tensor(like).dtype


@operator("RandomUniform", "RandomUniformLike")
def random_uniform(node: Node, like: Any = None) -> Tensor:
    sizes, dtype = _shape_and_type(node, like)
    low, high = node("low", 0.0), node("high", 1.0)
    return (Tensor.rand(*sizes, device=node.device) * (high - low) + low).cast(dtype)


@operator("RandomNormal", "RandomNormalLike")
def random_normal(node: Node, like: Any = None) -> Tensor:
    sizes, dtype = _shape_and_type(node, like)
    return (Tensor.randn(*sizes, device=node.device) * node("scale", 1.0) + node("mean", 0.0)).cast(dtype)


@operator("Multinomial")
def multinomial(node: Node, value: Any) -> Tensor:
    shares = node.tensor(value).softmax(1).cumsum(1)
    drawn = Tensor.rand(shares.shape[0], int(node("sample_size", 1)), device=shares.device)
    found = (drawn.unsqueeze(2) > shares.unsqueeze(1)).cast(dtypes.int32).sum(2)
    return found.clamp(0, shares.shape[1] - 1).cast(DTYPES[node("dtype", 6)])


@operator("Binarizer")
def binarizer(node: Node, value: Any) -> Tensor:
    x = node.tensor(value)
    return (x > node("threshold", 0.0)).cast(x.dtype)
