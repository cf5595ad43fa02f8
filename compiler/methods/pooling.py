"""Pooling: what windows are reduced to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler import dtypes, graph
from compiler.gradient import derivatives
from compiler.methods.base import Methods
from compiler.methods.convolution import each
from compiler.methods.pairs import Pair
from compiler.uop import Ops, UOp

if TYPE_CHECKING:
    from compiler.tensor import Tensor

__all__ = ["Pooling"]

Ints = int | Sequence[int]


def _geometry(x: Any, n: int, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Any:
    """Numbers for each axis, and how much must be added behind so that the last windows are whole."""
    k = each(kernel, n, "kernel_size")
    s = k if stride is None or (not isinstance(stride, int) and not len(stride)) else each(stride, n, "stride")
    p, d = each(padding, n, "padding"), each(dilation, n, "dilation")
    if x.ndim not in (n + 1, n + 2):
        raise ValueError(f"pooling over {n} axes takes (batch, channels, ...) or (channels, ...), not {x.shape}")
    if min(k) < 1 or min(s) < 1 or min(d) < 1 or min(p) < 0:
        raise ValueError(f"pooling: windows {k} every {s} elements, with {d} between and {p} around: these are at "
                         "least 1, 1, 1 and 0")
    if any(2 * q > m for q, m in zip(p, k, strict=True)):
        raise ValueError(f"pooling: padding {p} is more than half of the window {k}")
    behind = []
    for size, m, t, q, e in zip(x.shape[-n:], k, s, p, d, strict=True):
        room = size + 2 * q - e * (m - 1) - 1
        if room < 0:
            raise ValueError(f"pooling: a window of {m} does not fit in {size} elements with padding {q}")
        count = (-(-room // t) if ceil_mode else room // t) + 1
        if ceil_mode and (count - 1) * t >= size + q:       # the last window would begin behind the input
            count -= 1
        behind.append(max(0, (count - 1) * t + e * (m - 1) + 1 - size - q))
    return k, s, p, d, behind


class Pooling(Methods):
    """Mixin; see :class:`compiler.tensor.Tensor`."""

    __slots__ = ()

    def max_pool1d(self, kernel_size: Ints, stride: Any = None, padding: Ints = 0, dilation: Ints = 1,
                   ceil_mode: bool = False, return_indices: bool = False) -> Any:
        """:meth:`max_pool2d` over the last axis."""
        return _max_pool(self, 1, kernel_size, stride, padding, dilation, ceil_mode, return_indices)

    def max_pool2d(self, kernel_size: Ints = 2, stride: Any = None, padding: Ints = 0, dilation: Ints = 1,
                   ceil_mode: bool = False, return_indices: bool = False) -> Any:
        """The greatest of each window; ``stride`` is the window's size by default. ``return_indices``: a pair, with
        places in the flattened axes."""
        return _max_pool(self, 2, kernel_size, stride, padding, dilation, ceil_mode, return_indices)

    def max_pool3d(self, kernel_size: Ints, stride: Any = None, padding: Ints = 0, dilation: Ints = 1,
                   ceil_mode: bool = False, return_indices: bool = False) -> Any:
        """:meth:`max_pool2d` over the last three axes."""
        return _max_pool(self, 3, kernel_size, stride, padding, dilation, ceil_mode, return_indices)

    def avg_pool1d(self, kernel_size: Ints, stride: Any = None, padding: Ints = 0, ceil_mode: bool = False,
                   count_include_pad: bool = True) -> Tensor:
        """:meth:`avg_pool2d` over the last axis."""
        return _avg_pool(self, 1, kernel_size, stride, padding, ceil_mode, count_include_pad, None)  # type: ignore[no-any-return]

    def avg_pool2d(self, kernel_size: Ints = 2, stride: Any = None, padding: Ints = 0, ceil_mode: bool = False,
                   count_include_pad: bool = True, divisor_override: int | None = None) -> Tensor:
        """The mean of each window, padding counted or not."""
        return _avg_pool(self, 2, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)  # type: ignore[no-any-return]

    def avg_pool3d(self, kernel_size: Ints, stride: Any = None, padding: Ints = 0, ceil_mode: bool = False,
                   count_include_pad: bool = True, divisor_override: int | None = None) -> Tensor:
        """:meth:`avg_pool2d` over the last three axes."""
        return _avg_pool(self, 3, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)  # type: ignore[no-any-return]

    def lp_pool1d(self, norm_type: float, kernel_size: Ints, stride: Any = None, ceil_mode: bool = False) -> Tensor:
        """:meth:`lp_pool2d` over the last axis."""
        return _lp_pool(self, 1, norm_type, kernel_size, stride, ceil_mode)  # type: ignore[no-any-return]

    def lp_pool2d(self, norm_type: float, kernel_size: Ints, stride: Any = None, ceil_mode: bool = False) -> Tensor:
        """(sum of x**p)**(1/p) of each window."""
        return _lp_pool(self, 2, norm_type, kernel_size, stride, ceil_mode)  # type: ignore[no-any-return]

    def adaptive_avg_pool1d(self, output_size: Any) -> Tensor:
        """:meth:`adaptive_avg_pool2d` over the last axis."""
        return _adaptive_mean(self, 1, output_size)  # type: ignore[no-any-return]

    def adaptive_avg_pool2d(self, output_size: Any) -> Tensor:
        """Means over parts of nearly equal size, so many an axis (None: as many as there are)."""
        return _adaptive_mean(self, 2, output_size)  # type: ignore[no-any-return]

    def adaptive_avg_pool3d(self, output_size: Any) -> Tensor:
        """:meth:`adaptive_avg_pool2d` over the last three axes."""
        return _adaptive_mean(self, 3, output_size)  # type: ignore[no-any-return]

    def adaptive_max_pool1d(self, output_size: Any, return_indices: bool = False) -> Any:
        """:meth:`adaptive_max_pool2d` over the last axis."""
        return _adaptive_max(self, 1, output_size, return_indices)

    def adaptive_max_pool2d(self, output_size: Any, return_indices: bool = False) -> Any:
        """The greatest of parts of nearly equal size, so many an axis (None: as many as there are); with
        ``return_indices`` a pair, with places in the flattened axes."""
        return _adaptive_max(self, 2, output_size, return_indices)

    def adaptive_max_pool3d(self, output_size: Any, return_indices: bool = False) -> Any:
        """:meth:`adaptive_max_pool2d` over the last three axes."""
        return _adaptive_max(self, 3, output_size, return_indices)

    def max_unpool2d(self, indices: Any, kernel_size: Ints, stride: Any = None, padding: Ints = 0,
                     output_size: Any = None) -> Tensor:
        """Values to the places where :meth:`max_pool2d` found them; zeros elsewhere."""
        if indices.shape != self.shape:
            raise ValueError(f"max_unpool: indices {indices.shape} for values {self.shape}; the shapes must be equal")
        k = each(kernel_size, 2, "kernel_size")
        s, p = k if stride is None else each(stride, 2, "stride"), each(padding, 2, "padding")
        size = list(output_size)[-2:] if output_size is not None else [
            (n - 1) * t - 2 * q + m for n, t, q, m in zip(self.shape[-2:], s, p, k, strict=True)]
        flat: Any = self.flatten(-2)
        zeros = flat._new(graph.full((*flat.shape[:-1], size[0] * size[1]), self.dtype, 0))
        return zeros.scatter(-1, indices.flatten(-2), flat).reshape(*self.shape[:-2], *size)  # type: ignore[no-any-return]


def _padded(x: Any, n: int, p: list[int], behind: list[int], value: Any) -> Any:
    return x.pad([(0, 0)] * (x.ndim - n) + list(zip(p, behind, strict=True)), value=value)


def _to_the_first(node: UOp, ctx: UOp) -> tuple[UOp | None, ...]:
    """The derivative of the greatest element of windows, whose axes are the last: of equal ones the first has all."""
    from compiler.tensor import Tensor
    windows, gradient = Tensor(node.src[1], device=node.device), Tensor(ctx, device=ctx.device)
    flat: Any = windows.flatten(-node.arg[1])
    hit = flat._new(graph.iota(flat.shape[-1])).eq(flat.argmax(-1, True))
    return None, hit.where(gradient.unsqueeze(-1), 0).reshape(windows.shape).uop


derivatives["window_max"] = _to_the_first


def _max_pool(x: Any, n: int, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool,
              return_indices: bool) -> Any:
    k, s, p, d, behind = _geometry(x, n, kernel, stride, padding, dilation, ceil_mode)
    windows = _padded(x, n, p, behind, x.dtype.min)._windows(k, s, d)
    inner = tuple(range(-n, 0))
    values = windows.detach().amax(inner)
    if windows.requires_grad:
        values = windows._new(UOp(Ops.DERIVED, x.dtype, (values._node, windows._node), ("window_max", n)), windows)
    if not return_indices:
        return values
    sizes = x.shape[-n:]
    places = x._new(graph.iota(int(np.prod(sizes)))).reshape(sizes)
    places = places.pad(list(zip(p, behind, strict=True)), value=-1)._windows(k, s, d)
    best = windows.detach().flatten(-n).argmax(-1, True)
    return Pair(values, places.flatten(-n).expand(windows.flatten(-n).shape).gather(-1, best).squeeze(-1))


def _avg_pool(x: Any, n: int, kernel: Any, stride: Any, padding: Any, ceil_mode: bool, include: bool,
              divisor: int | None) -> Any:
    if divisor == 0:
        raise ValueError("avg_pool: divisor_override is a number to divide by, not 0")
    k, s, p, d, behind = _geometry(x, n, kernel, stride, padding, 1, ceil_mode)
    inner = tuple(range(-n, 0))
    wide = dtypes.float32 if x.dtype.is_float and x.dtype.bits < 32 else x.dtype
    total = _padded(x.cast(wide), n, p, behind, 0)._windows(k, s, d).sum(inner)
    if divisor is not None:
        return (total / divisor).cast(x.dtype)
    count: Any = 1
    for i in range(n):      # how many elements of each window count, an axis at a time
        size = x.shape[x.ndim - n + i]
        places = np.zeros(size + p[i] + behind[i])
        places[slice(0, size + 2 * p[i]) if include else slice(p[i], p[i] + size)] = 1
        starts = np.arange(total.shape[total.ndim - n + i]) * s[i]
        one = np.array([places[a:a + k[i]].sum() for a in starts])
        count = count * one.reshape([-1 if j == i else 1 for j in range(n)])
    if (count == count.flat[0]).all():
        return (total * (1 / float(count.flat[0]))).cast(x.dtype)
    return (total / x._operand(count.astype(wide.np), wide)).cast(x.dtype)


def _lp_pool(x: Any, n: int, p: float, kernel: Any, stride: Any, ceil_mode: bool) -> Any:
    k, s, q, d, behind = _geometry(x, n, kernel, stride, 0, 1, ceil_mode)
    total = (_padded(x, n, q, behind, 0)._windows(k, s, d) ** p).sum(tuple(range(-n, 0)))
    return total.sqrt() if p == 2 else total ** (1 / p)


def _parts(x: Any, n: int, output_size: Any) -> list[list[tuple[int, int]]]:
    """For each of the last axes from where to where its parts go."""
    sizes = [output_size] * n if output_size is None or isinstance(output_size, int) else list(output_size)
    if len(sizes) != n or x.ndim not in (n + 1, n + 2) or any(s is not None and s < 0 for s in sizes):
        raise ValueError(f"adaptive pooling over {n} axes to {sizes} takes (batch, channels, ...) or (channels, ...), "
                         f"not {x.shape}")
    return [[(k * m // (m if want is None else want), -(-(k + 1) * m // (m if want is None else want)))
             for k in range(m if want is None else want)] for want, m in zip(sizes, x.shape[-n:], strict=True)]


def _equal(cuts: list[tuple[int, int]]) -> bool:
    return all(low == k * cuts[0][1] for k, (low, _) in enumerate(cuts))


def _adaptive_mean(x: Any, n: int, output_size: Any) -> Any:
    for i, cuts in enumerate(_parts(x, n, output_size)):
        a = x.ndim - n + i
        if len(cuts) == x.shape[a]:
            continue
        if cuts and _equal(cuts):
            x = x.unflatten(a, (len(cuts), cuts[0][1])).mean(a + 1)
        else:
            parts = [x.narrow(a, low, high - low).mean(a, keepdim=True) for low, high in cuts]
            x = parts[0].cat(*parts[1:], dim=a) if parts else x.narrow(a, 0, 0)
    return x._copied()


def _adaptive_max(x: Any, n: int, output_size: Any, return_indices: bool) -> Any:
    """An axis after the other from the last: the greatest of each part, and where it is."""
    values = x.detach()
    places: Any = None
    for i, cuts in reversed(list(enumerate(_parts(x, n, output_size)))):
        a, below = x.ndim - n + i, math.prod(x.shape[x.ndim - n + i + 1:])
        best = [values.narrow(a, low, high - low).argmax(a, True) + low for low, high in cuts]
        index = best[0].cat(*best[1:], dim=a) if best else values.narrow(a, 0, 0).cast(dtypes.int32)
        values = values.gather(a, index).contiguous()
        places = index * below if places is None else (places.gather(a, index) + index * below)
        places = places.contiguous()
    out = x.flatten(-n).gather(-1, places.flatten(-n)).reshape(places.shape) if x.requires_grad else values
    return Pair(out, places) if return_indices else out
