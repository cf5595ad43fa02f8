"""Convolutions of one to three axes: windows of the input times the kernel, summed.

Nothing here makes room for windows: :func:`compiler.graph.window` is a function on indices, and its adjoint adds up
windows in the kernel that made them. So a convolution is one kernel, and so is each of its derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from compiler import dtypes, graph
from compiler.methods.base import Methods

if TYPE_CHECKING:
    from compiler.tensor import Tensor

__all__ = ["Convolution", "each"]

Ints = int | Sequence[int]


def each(value: Any, n: int, what: str) -> list[int]:
    """One number for each of ``n`` axes."""
    numbers = [int(value)] * n if isinstance(value, int) else [int(v) for v in value]
    if len(numbers) == 1:
        numbers *= n
    if len(numbers) != n:
        raise ValueError(f"{what} has {len(numbers)} numbers for {n} axes")
    return numbers


class Convolution(Methods):
    """Mixin; see :class:`compiler.tensor.Tensor`."""

    __slots__ = ()

    def conv1d(self, weight: Tensor, bias: Tensor | None = None, stride: Ints = 1, padding: Any = 0,
               dilation: Ints = 1, groups: int = 1) -> Tensor:
        """Of (batch, channels, x), or without batch; weight is (out, channels / groups, x)."""
        return _convolve(self, weight, bias, stride, padding, dilation, groups, 1)  # type: ignore[no-any-return]

    def conv2d(self, weight: Tensor, bias: Tensor | None = None, stride: Ints = 1, padding: Any = 0,
               dilation: Ints = 1, groups: int = 1) -> Tensor:
        """Of (batch, channels, y, x). ``padding``: a number, one an axis, "same" or "valid"."""
        return _convolve(self, weight, bias, stride, padding, dilation, groups, 2)  # type: ignore[no-any-return]

    def conv3d(self, weight: Tensor, bias: Tensor | None = None, stride: Ints = 1, padding: Any = 0,
               dilation: Ints = 1, groups: int = 1) -> Tensor:
        """:meth:`conv2d` over the last three axes: [batch, channels, depth, height, width]."""
        return _convolve(self, weight, bias, stride, padding, dilation, groups, 3)  # type: ignore[no-any-return]

    def conv_transpose1d(self, weight: Tensor, bias: Tensor | None = None, stride: Ints = 1, padding: Ints = 0,
                         output_padding: Ints = 0, groups: int = 1, dilation: Ints = 1) -> Tensor:
        """What :meth:`conv1d` does to gradients; weight is (channels, out / groups, x)."""
        return _transposed(self, weight, bias, stride, padding, output_padding, groups, dilation, 1)  # type: ignore[no-any-return]

    def conv_transpose2d(self, weight: Tensor, bias: Tensor | None = None, stride: Ints = 1, padding: Ints = 0,
                         output_padding: Ints = 0, groups: int = 1, dilation: Ints = 1) -> Tensor:
        """The gradient of :meth:`conv2d` as an operation; ``weight`` is [in, out / groups, height, width]."""
        return _transposed(self, weight, bias, stride, padding, output_padding, groups, dilation, 2)  # type: ignore[no-any-return]

    def conv_transpose3d(self, weight: Tensor, bias: Tensor | None = None, stride: Ints = 1, padding: Ints = 0,
                         output_padding: Ints = 0, groups: int = 1, dilation: Ints = 1) -> Tensor:
        """:meth:`conv_transpose2d` over the last three axes."""
        return _transposed(self, weight, bias, stride, padding, output_padding, groups, dilation, 3)  # type: ignore[no-any-return]

    def im2col(self, kernel_size: Ints, dilation: Ints = 1, padding: Ints = 0, stride: Ints = 1) -> Tensor:
        """Windows as columns: (batch, channels * window, places). PyTorch's ``nn.functional.unfold``."""
        k, d, p, s = (each(v, 2, w) for v, w in ((kernel_size, "kernel_size"), (dilation, "dilation"),
                                                 (padding, "padding"), (stride, "stride")))
        x: Any = self.pad([p[1], p[1], p[0], p[0]])._windows(k, s, d)      # (..., c, oy, ox, ky, kx)
        n = x.ndim
        x = x.permute(*range(n - 4), n - 2, n - 1, n - 4, n - 3)
        return x.reshape(*self.shape[:-3], self.shape[-3] * k[0] * k[1], x.shape[-2] * x.shape[-1])  # type: ignore[no-any-return]

    def col2im(self, output_size: Ints, kernel_size: Ints, dilation: Ints = 1, padding: Ints = 0,
               stride: Ints = 1) -> Tensor:
        """Columns back to places, overlaps added up. PyTorch's ``nn.functional.fold``."""
        size, k, d, p, s = (each(v, 2, w) for v, w in (
            (output_size, "output_size"), (kernel_size, "kernel_size"), (dilation, "dilation"), (padding, "padding"),
            (stride, "stride")))
        count = [(n + 2 * q - e * (m - 1) - 1) // t + 1 for n, q, e, m, t in zip(size, p, d, k, s, strict=True)]
        x: Any = self.reshape(*self.shape[:-2], -1, k[0], k[1], count[0], count[1])
        x = x.permute(*range(x.ndim - 4), -2, -1, -4, -3)       # (..., c, oy, ox, ky, kx)
        node = x._node
        for i in (1, 0):
            node = graph.fold(node, x.ndim - 4 + i, size[i] + 2 * p[i], s[i], d[i])
        return x._new(node).narrow(-2, p[0], size[0]).narrow(-1, p[1], size[1])  # type: ignore[no-any-return]


def _checked(x: Any, weight: Any, groups: int, n: int, transposed: bool) -> Any:
    if x.ndim not in (n + 1, n + 2) or weight.ndim != n + 2:
        raise ValueError(f"a convolution of {n} axes takes (batch, channels, ...) or (channels, ...), {n + 1} or "
                         f"{n + 2} axes, and a weight of {n + 2}; not {x.shape} and {weight.shape}")
    x = x if x.ndim == n + 2 else x.unsqueeze(0)
    want = weight.shape[0] if transposed else weight.shape[1] * groups
    out = weight.shape[1] * groups if transposed else weight.shape[0]
    if x.shape[1] != want or out % groups or x.shape[1] % groups:
        raise ValueError(f"{x.shape[1]} channels for a weight of shape {weight.shape} in {groups} groups, which takes "
                         f"{want}")
    return x


def _convolve(x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int, n: int) -> Any:
    batched = x.ndim == n + 2
    x = _checked(x, weight, groups, n, False)
    stride, dilation = each(stride, n, "stride"), each(dilation, n, "dilation")
    k = weight.shape[2:]
    if padding == "same":
        if stride != [1] * n:
            raise ValueError("padding 'same' keeps sizes with stride 1 only")
        total = [d * (m - 1) for d, m in zip(dilation, k, strict=True)]
        amounts = [(t // 2, t - t // 2) for t in total]
    elif padding == "valid":
        amounts = [(0, 0)] * n
    else:
        numbers = each(padding, n, "padding") if isinstance(padding, int) or len(padding) != 2 * n else list(padding)
        # PyTorch's one number an axis, or a flat list of both sides, last axis first
        if min(numbers) < 0:
            raise ValueError(f"a convolution's padding is not negative: {padding}")
        amounts = [(p, p) for p in numbers] if len(numbers) == n else [
            (numbers[i], numbers[i + 1]) for i in range(2 * n - 2, -1, -2)]
    out = _windows_times(x.pad([(0, 0), (0, 0), *amounts]), weight, stride, dilation, groups, n)
    if bias is not None:
        out = out + bias.reshape(1, -1, *[1] * n)
    return out if batched else out.squeeze(0)


def _windows_times(x: Any, weight: Any, stride: list[int], dilation: list[int], groups: int, n: int) -> Any:
    batch, channels, out = x.shape[0], x.shape[1], weight.shape[0]
    kind = dtypes.promote(x.dtype, weight.dtype)
    wide = dtypes.float32 if kind.is_float and kind.bits < 32 else kind
    k = list(weight.shape[2:])
    windows = x.cast(wide)._windows(k, stride, dilation)               # (batch, channels, places, window)
    places = list(windows.shape[2:2 + n])
    inner = channels // groups
    windows = windows.reshape(batch, groups, inner, *places, *k)
    order = [0, 1, *range(3, 3 + n), 2, *range(3 + n, 3 + 2 * n)]
    windows = windows.permute(order).unsqueeze(2)       # (batch, groups, 1, places, inner, window)
    kernel = weight.reshape(1, groups, out // groups, *[1] * n, inner, *k).cast(wide)
    summed = tuple(range(-n - 1, 0))
    return (windows * kernel).sum(summed, dtype=wide).cast(kind).reshape(batch, out, *places)


def _transposed(x: Any, weight: Any, bias: Any, stride: Any, padding: Any, output_padding: Any, groups: int,
                dilation: Any, n: int) -> Any:
    """Each element times the kernel, in the windows that it would have come from, added up where they overlap."""
    batched = x.ndim == n + 2
    x = _checked(x, weight, groups, n, True)
    stride, padding, extra, dilation = (each(v, n, w) for v, w in (
        (stride, "stride"), (padding, "padding"), (output_padding, "output_padding"), (dilation, "dilation")))
    if any(e >= max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)):
        raise ValueError(f"output_padding {extra} must be less than the stride {stride} or the dilation {dilation}")
    channels, out, *k = weight.shape
    batch, _, *places = x.shape
    full = [(m - 1) * s + (c - 1) * d + 1 for m, s, c, d in zip(places, stride, k, dilation, strict=True)]
    keep = [(p, f + e - p) for p, f, e in zip(padding, full, extra, strict=True)]
    if any(b < a for a, b in keep):
        raise ValueError(f"transposed convolution of {x.shape} with a weight of {weight.shape} and padding {padding}: "
                         f"nothing is left, the result's sizes would be {[b - a for a, b in keep]}")
    kind = dtypes.promote(x.dtype, weight.dtype)
    wide = dtypes.float32 if kind.is_float and kind.bits < 32 else kind
    x = x.cast(wide).reshape(batch, groups, channels // groups, 1, *places, *[1] * n)
    kernel = weight.cast(wide).reshape(1, groups, channels // groups, out, *[1] * n, *k)
    x = (x * kernel).sum(2, dtype=wide)         # (batch, groups, out / groups, places, window)
    node = x._node
    for a in reversed(range(n)):
        node = graph.fold(node, 3 + a, max(full[a], keep[a][1]), stride[a], dilation[a])
    result = x._new(node).shrink([None, None, None, *keep]).reshape(batch, groups * out, *(b - a for a, b in keep))
    result = result.cast(kind)
    if bias is not None:
        result = result + bias.reshape(1, -1, *[1] * n)
    return result if batched else result.squeeze(0)


