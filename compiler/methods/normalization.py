"""Normalisation, dropout and attention. Statistics of half types are taken in float32."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from compiler.methods.base import Methods
from compiler.methods.functions import precisely
from compiler.methods.names import numpy_names

if TYPE_CHECKING:
    from compiler.tensor import Tensor

__all__ = ["Normalization"]


def _affine(out: Any, weight: Any, bias: Any, axis: int | None = None) -> Any:
    """Times weight plus bias; these belong to ``axis``, or to the last axes."""
    for parameter, scale in ((weight, True), (bias, False)):
        if parameter is not None:
            if axis is not None:
                parameter = parameter.reshape([-1 if i == axis else 1 for i in range(out.ndim)])
            out = out * parameter if scale else out + parameter
    return out


def _channels(x: Any, least: int = 2) -> None:
    if x.ndim < least:
        raise ValueError(f"normalisation of channels takes (batch, channels, ...), not {x.shape}")


class Normalization(Methods):
    """Mixin; see :class:`compiler.tensor.Tensor`."""

    __slots__ = ()

    def layer_norm(self, normalized_shape: int | Sequence[int], weight: Tensor | None = None,
                   bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
        """Over the last axes, which have these sizes."""
        sizes = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        if not sizes or self.shape[-len(sizes):] != sizes:
            raise ValueError(f"layer_norm over {sizes}: a tensor of shape {self.shape} does not end so")
        return _affine(self._standardized(tuple(range(-len(sizes), 0)), eps), weight, bias)  # type: ignore[no-any-return]

    @precisely
    def _standardized(self, dims: Any, eps: float) -> Tensor:
        away = self - self.mean(dims, True)
        return away * ((away * away).mean(dims, True) + eps).rsqrt()

    def rms_norm(self, normalized_shape: int | Sequence[int], weight: Tensor | None = None,
                 eps: float | None = None) -> Tensor:
        """Divided by the root of the mean square over the last axes; ``eps``: that of the type by default."""
        sizes = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        if not sizes or self.shape[-len(sizes):] != sizes:
            raise ValueError(f"rms_norm over {sizes}: a tensor of shape {self.shape} does not end so")
        return _affine(self._rms(tuple(range(-len(sizes), 0)), self.dtype.eps if eps is None else eps), weight, None)  # type: ignore[no-any-return]

    @precisely
    def _rms(self, dims: Any, eps: float) -> Tensor:
        return self * ((self * self).mean(dims, True) + eps).rsqrt()  # type: ignore[no-any-return]

    def batch_norm(self, running_mean: Any = None, running_var: Any = None, weight: Tensor | None = None,
                   bias: Tensor | None = None, training: bool = False, momentum: float = 0.1,
                   eps: float = 1e-5) -> Tensor:
        """Each channel (axis 1) over all else. In training by its own statistics, which the running ones take up."""
        _channels(self)
        if not training and (running_mean is None or running_var is None):
            raise ValueError("batch_norm outside of training needs running_mean and running_var")
        if training:
            dims = tuple(a for a in range(self.ndim) if a != 1)
            x: Any = self
            mean, var = x.mean(dims), x.var(dims, correction=0)
            count = math.prod(self.shape[a] for a in dims)
            from compiler.tensor import no_grad
            with no_grad():
                if running_mean is not None:
                    running_mean.assign(running_mean * (1 - momentum) + mean.detach() * momentum)
                if running_var is not None:
                    unbiased = var.detach() * (count / max(count - 1, 1))
                    running_var.assign(running_var * (1 - momentum) + unbiased * momentum)
        else:
            mean, var = running_mean, running_var
        shape = [-1 if i == 1 else 1 for i in range(self.ndim)]
        out = (self - mean.reshape(shape)) * (var.reshape(shape) + eps).rsqrt()
        return _affine(out, weight, bias, 1).cast(self.dtype)  # type: ignore[no-any-return]

    def instance_norm(self, running_mean: Any = None, running_var: Any = None, weight: Tensor | None = None,
                      bias: Tensor | None = None, use_input_stats: bool = True, momentum: float = 0.1,
                      eps: float = 1e-5) -> Tensor:
        """Each channel of each sample over its places."""
        _channels(self, 3)
        if not use_input_stats:
            return self.batch_norm(running_mean, running_var, weight, bias, False, momentum, eps)
        return _affine(self._standardized(tuple(range(2, self.ndim)), eps), weight, bias, 1)  # type: ignore[no-any-return]

    def group_norm(self, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None,
                   eps: float = 1e-5) -> Tensor:
        """Groups of channels of each sample."""
        _channels(self)
        if self.shape[1] % num_groups:
            raise ValueError(f"group_norm: {self.shape[1]} channels in {num_groups} groups")
        x: Any = self.reshape(self.shape[0], num_groups, math.prod(self.shape[1:]) // num_groups)
        return _affine(x._standardized((-1,), eps).reshape(self.shape), weight, bias, 1)  # type: ignore[no-any-return]

    def local_response_norm(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
        """Divided by (k + alpha * mean of squares of neighbouring channels)**beta."""
        _channels(self, 3)
        squares = (self * self).movedim(1, -1).pad([size // 2, (size - 1) // 2])
        mean = squares.unfold(-1, size, 1).mean(-1).movedim(-1, 1)
        return self / (mean * alpha + k) ** beta  # type: ignore[no-any-return]

    @numpy_names
    def normalize(self, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
        """Divided by its norm along an axis."""
        return self / self.norm(p, dim, True).clamp(min=eps)  # type: ignore[no-any-return]

    def dropout(self, p: float = 0.5, training: bool = True) -> Tensor:
        """Zero each element with probability ``p`` and scale up the rest, in training."""
        return self._dropped(p, training, self.shape)

    def dropout1d(self, p: float = 0.5, training: bool = True) -> Tensor:
        """Whole channels of (batch, channels, ...)."""
        return self._dropped(p, training, (*self.shape[:2], *[1] * (self.ndim - 2)))

    dropout2d = dropout3d = dropout1d

    def _dropped(self, p: float, training: bool, shape: tuple[int, ...]) -> Tensor:
        if not 0 <= p <= 1:
            raise ValueError(f"dropout's p is a probability, not {p}")
        if not training or p == 0:
            return self.clone()  # type: ignore[no-any-return]
        if p == 1:
            return self * 0  # type: ignore[no-any-return]
        from compiler.tensor import Tensor
        keep = Tensor.rand(*shape, device=self.device) >= p
        return keep.where(self * (1 / (1 - p)), 0)

    def scaled_dot_product_attention(self, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
                                     dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None,
                                     enable_gqa: bool = False) -> Tensor:
        """softmax(q @ k.T * scale + mask) @ v over the last two axes.

        :param attn_mask: bools (true: look there) or numbers to add.
        :param is_causal: position i looks at positions up to i.
        :param enable_gqa: heads of keys and values (axis -3) are each used for several of the queries.
        """
        if attn_mask is not None and is_causal:
            raise ValueError("attention takes a mask or is_causal, not both")
        if enable_gqa:
            times = self.shape[-3] // key.shape[-3]
            key, value = key.repeat_interleave(times, -3), value.repeat_interleave(times, -3)
        x: Any = self
        scores = (x @ key.transpose(-2, -1)) * (1 / math.sqrt(self.shape[-1]) if scale is None else scale)
        if is_causal:
            keep = scores._new_ones().tril()
            scores = keep.where(scores, -math.inf)
        elif attn_mask is not None:
            if attn_mask.dtype.kind == "b":
                scores = attn_mask.where(scores, -math.inf)
            else:
                scores = scores + attn_mask
        weights = scores.softmax(-1)
        if dropout_p:
            weights = weights.dropout(dropout_p)
        return weights @ value  # type: ignore[no-any-return]

    def _new_ones(self) -> Tensor:
        """True everywhere, of this shape."""
        from compiler import dtypes, graph
        return self._new(graph.full(self.shape, dtypes.bool_, True))
