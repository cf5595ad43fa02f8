"""PyTorch's rarer functions, made of the usual ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from compiler import dtypes, graph
from compiler.dtypes import DTypeLike
from compiler.methods.base import Methods
from compiler.methods.elementwise import broadcast_shapes
from compiler.methods.functions import precisely
from compiler.methods.losses import reduced
from compiler.methods.names import numpy_names
from compiler.methods.products import weighted

if TYPE_CHECKING:
    from compiler.tensor import Tensor

__all__ = ["Rarer"]


class Rarer(Methods):
    """Mixin; see :class:`compiler.tensor.Tensor`."""

    __slots__ = ()

    # shapes and places

    @staticmethod
    def broadcast_shapes(*shapes: Any) -> tuple[int, ...]:
        """The common shape of these. :raises ValueError: there is none."""
        return broadcast_shapes(*((s,) if isinstance(s, int) else tuple(s) for s in shapes)) if shapes else ()

    @classmethod
    def scalar_tensor(cls, s: Any, *, dtype: DTypeLike | None = None, device: str | None = None,
                      requires_grad: bool = False) -> Tensor:
        """A tensor without axes, float32 unless another type is named."""
        make: Any = cls
        return make(s, dtypes.default_float if dtype is None else dtype, device, requires_grad)  # type: ignore[no-any-return]

    def split_with_sizes(self, split_sizes: Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
        """:meth:`split` into parts of these sizes."""
        return self.split(list(split_sizes), dim)  # type: ignore[no-any-return]

    def unsafe_split(self, split_size: Any, dim: int = 0) -> tuple[Tensor, ...]:
        """:meth:`split`"""
        return self.split(split_size, dim)  # type: ignore[no-any-return]

    def unsafe_chunk(self, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
        """:meth:`chunk`"""
        return self.chunk(chunks, dim)  # type: ignore[no-any-return]

    def dsplit(self, indices_or_sections: Any) -> tuple[Tensor, ...]:
        """:meth:`tensor_split` along axis 2."""
        if self.ndim < 3:
            raise ValueError(f"dsplit is of three axes or more; the shape is {self.shape}")
        return self.tensor_split(indices_or_sections, 2)  # type: ignore[no-any-return]

    def narrow_copy(self, dim: int, start: int, length: int) -> Tensor:
        """:meth:`narrow`, and no view."""
        return self.narrow(dim, start, length).clone()  # type: ignore[no-any-return]

    def constant_pad_nd(self, pad: Sequence[int], value: Any = 0) -> Tensor:
        """:meth:`pad` by a number."""
        return self.pad(list(pad), "constant", value)  # type: ignore[no-any-return]

    def as_strided(self, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None) -> Tensor:
        """The elements of the tensor, row by row, at these distances: a value here, and no view."""
        place: Any = self._new(graph.full((), dtypes.int32, storage_offset or 0))
        last = (storage_offset or 0) + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
        if 0 not in size and not 0 <= last < self.numel():
            raise ValueError(f"as_strided: place {last} of a tensor of {self.numel()} elements")
        for axis, (n, step) in enumerate(zip(size, stride, strict=True)):
            line = self._new(graph.iota(n)) * step
            place = place + line.reshape([n if i == axis else 1 for i in range(len(size))])
        return self.flatten()[place.expand(*size)] if len(size) else self.flatten()[place]  # type: ignore[no-any-return]

    def sum_to_size(self, *size: Any) -> Tensor:
        """Summed to a shape that broadcasts to this one."""
        shape = tuple(size[0]) if len(size) == 1 and isinstance(size[0], Sequence) else size
        if broadcast_shapes(shape, self.shape) != self.shape:
            raise ValueError(f"sum_to_size: {shape} does not broadcast to {self.shape}")
        extra = self.ndim - len(shape)
        axes = [a for a in range(self.ndim) if a < extra or shape[a - extra] == 1 != self.shape[a]]
        return (self.sum(axes) if axes or not self.ndim else self).reshape(shape)  # type: ignore[no-any-return]

    def unravel_index(self, shape: Any) -> tuple[Tensor, ...]:
        """Places in the flattened shape, as a place on each of its axes."""
        sizes = (shape,) if isinstance(shape, int) else tuple(shape)
        out: list[Any] = []
        rest: Any = self
        for n in reversed(sizes):
            out.append(rest % n)
            rest = rest // n
        return tuple(reversed(out))

    def combinations(self, r: int = 2, with_replacement: bool = False) -> Tensor:
        """Rows of ``r`` elements of this vector, in order."""
        choose = itertools.combinations_with_replacement if with_replacement else itertools.combinations
        rows = list(choose(range(self.shape[0]), r))
        if not rows or not r:
            return self._new(graph.full((0, *([r] if r else [])), self.dtype, 0))
        return self[[i for row in rows for i in row]].reshape(len(rows), r)  # type: ignore[no-any-return]

    @property
    def mH(self) -> Tensor:
        """:attr:`mT`, there being no complex numbers."""
        return self.mT  # type: ignore[no-any-return]

    @property
    def H(self) -> Tensor:
        """A matrix transposed, there being no complex numbers."""
        if self.ndim not in (0, 2):
            raise ValueError(f"H is of a matrix; the shape is {self.shape}")
        return self.T  # type: ignore[no-any-return]

    # what says something of complex numbers

    def conj(self) -> Tensor:
        """The same: there are no complex numbers."""
        return self._copied()

    conj_physical = resolve_conj = resolve_neg = conj

    @property
    def real(self) -> Tensor:
        """The same: there are no complex numbers."""
        return self._copied()

    def isreal(self) -> Tensor:
        """True everywhere: there are no complex numbers."""
        return self._new(graph.full(self.shape, dtypes.bool_, True))

    @precisely
    def angle(self) -> Tensor:
        """pi for negative numbers, else 0; NaN for NaN."""
        return self.isnan().where(self, (self < 0).where(math.pi, 0.0)).detach()  # type: ignore[no-any-return]

    # elements

    def fill(self, value: Any) -> Tensor:
        """``value`` everywhere, of this shape and type."""
        return self._operand(value, self.dtype).cast(self.dtype).expand(self.shape)._copied()  # type: ignore[no-any-return]

    @precisely
    def entr(self) -> Tensor:
        """-x * log(x), 0 at 0 and -inf below."""
        positive = self > 0
        inside: Any = positive.where(self, 1.0)
        return positive.where(-inside * inside.log(), (self < 0).where(-math.inf, self * 1))  # type: ignore[no-any-return]

    @precisely
    def xlog1py(self, other: Any) -> Tensor:
        """x * log(1 + y), and 0 where x is 0 and y is no NaN."""
        y: Any = self._operand(other, self.dtype).cast(self.dtype)
        none: Any = self.eq(0) & ~y.isnan()
        return none.where(0.0, self * none.where(0.0, y).log1p())  # type: ignore[no-any-return]

    @precisely
    def ndtr(self) -> Tensor:
        """The normal distribution's share up to x."""
        return (self * -math.sqrt(0.5)).erfc() * 0.5  # type: ignore[no-any-return]

    @precisely
    def ndtri(self) -> Tensor:
        """The inverse of :meth:`ndtr`."""
        return (self * 2 - 1).erfinv() * math.sqrt(2)  # type: ignore[no-any-return]

    @precisely
    def mvlgamma(self, p: int) -> Tensor:
        """The logarithm of the gamma function of ``p`` dimensions."""
        if p < 1:
            raise ValueError(f"mvlgamma: at least one dimension, not {p}")
        out: Any = p * (p - 1) / 4 * math.log(math.pi)
        for k in range(p):
            out = out + (self - k / 2).lgamma()
        return out  # type: ignore[no-any-return]

    multigammaln = mvlgamma

    def renorm(self, p: float, dim: int, maxnorm: float) -> Tensor:
        """Slices along ``dim`` whose ``p`` norm is greater than ``maxnorm`` shrunk to it."""
        if self.ndim < 2 or p <= 0 or maxnorm < 0:
            raise ValueError(f"renorm of {self.shape} by p {p} to {maxnorm}: it takes two axes, p above 0, a norm")
        a = self._axis(dim)
        size = self.norm(p, [i for i in range(self.ndim) if i != a], True)
        return self * (size > maxnorm).where(maxnorm / (size + 1e-7), 1.0)  # type: ignore[no-any-return]

    def cumulative_trapezoid(self, x: Any = None, *, dx: float = 1.0, dim: int = -1) -> Tensor:
        """:meth:`trapezoid` up to each place but the first."""
        a, areas, factor = self._trapezia(x, dx, dim)
        return areas.cumsum(a) * factor  # type: ignore[no-any-return]

    # matrices

    def addbmm(self, batch1: Any, batch2: Any, *, beta: float = 1, alpha: float = 1) -> Tensor:
        """beta * self + alpha * (the sum of the products of two batches of matrices)"""
        product = batch1.matmul(batch2)
        return weighted(self, product.sum(0, dtype=product.dtype), beta, alpha)  # type: ignore[no-any-return]

    @numpy_names
    def vecdot(self, other: Any, dim: int = -1) -> Tensor:
        """Sums of products along an axis."""
        product: Any = self * other
        return product.sum(dim, dtype=product.dtype)  # type: ignore[no-any-return]

    @staticmethod
    def multi_dot(tensors: Sequence[Any]) -> Tensor:
        """The product of two or more matrices, of which the first and the last may be vectors, from the left."""
        first, *rest = tensors
        if not rest:
            raise ValueError("multi_dot is of two tensors at least")
        for t in rest:
            first = first @ t
        return first  # type: ignore[no-any-return]

    def logdet(self) -> Tensor:
        """The logarithm of determinants; NaN of negative ones."""
        return self.det().log()  # type: ignore[no-any-return]

    def solve_triangular(self, B: Any, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Tensor:
        """X with A @ X = B, or X @ A = B without ``left``, A this triangle; ``unitriangular``: with ones along it."""
        n = self.shape[-1]
        eye = self._new(graph.iota(n)).one_hot(n)
        a = (self.triu(int(unitriangular)) if upper else self.tril(-int(unitriangular)))
        a = a + eye.cast(a.dtype) if unitriangular else a
        if not left:
            return _solved(a.mT, B.mT).mT  # type: ignore[no-any-return]
        return _solved(a, B)  # type: ignore[no-any-return]

    def cholesky_solve(self, L: Any, upper: bool = False) -> Tensor:
        """X with A @ X = self, of A's triangle from :meth:`cholesky`."""
        low = L.triu().mT if upper else L.tril()
        return _solved(low.mT, _solved(low, self))  # type: ignore[no-any-return]

    def cholesky_inverse(self, upper: bool = False) -> Tensor:
        """The inverse of A, of its triangle from :meth:`cholesky`."""
        low = self.triu().mT if upper else self.tril()
        inverse = low.inv()
        return inverse.mT @ inverse  # type: ignore[no-any-return]

    def tensorinv(self, ind: int = 2) -> Tensor:
        """The inverse for :meth:`tensordot` over the last axes from ``ind`` on."""
        if ind < 1 or math.prod(self.shape[:ind]) != math.prod(self.shape[ind:]):
            raise ValueError(f"tensorinv: the first {ind} axes of {self.shape} have not as many places as the others")
        n = math.prod(self.shape[:ind])
        return self.reshape(n, n).inv().reshape(*self.shape[ind:], *self.shape[:ind])  # type: ignore[no-any-return]

    def tensorsolve(self, other: Any, dims: Sequence[int] | None = None) -> Tensor:
        """x with ``tensordot(self, x, x.ndim) = other``."""
        x: Any = self
        if dims is not None:
            moved = [self._axis(d) for d in dims]
            x = x.permute([a for a in range(self.ndim) if a not in moved] + moved)
        shape = x.shape[other.ndim:]
        n = math.prod(shape)
        if n != other.numel():
            raise ValueError(f"tensorsolve of {x.shape} and {other.shape}: {n} unknowns in {other.numel()} equations")
        return x.reshape(n, n).solve(other.reshape(n)).reshape(shape)  # type: ignore[no-any-return]

    # losses and layers

    def triplet_margin_with_distance_loss(self, positive: Any, negative: Any, *,
                                          distance_function: Callable[[Any, Any], Any] | None = None,
                                          margin: float = 1.0, swap: bool = False, reduction: str = "mean") -> Tensor:
        """:meth:`triplet_margin_loss` with a distance of one's own."""
        if margin <= 0:
            raise ValueError(f"triplet_margin_with_distance_loss: margin is greater than 0, not {margin}")
        away = distance_function or (lambda a, b: a.pairwise_distance(b))
        near, far = away(self, positive), away(self, negative)
        far = far.minimum(away(positive, negative)) if swap else far
        return reduced((near - far + margin).clamp(min=0), reduction)  # type: ignore[no-any-return]

    def upsample_nearest(self, size: Any = None, scale_factor: Any = None) -> Tensor:
        """:meth:`interpolate` by the nearest."""
        return self.interpolate(size, scale_factor, "nearest")  # type: ignore[no-any-return]

    def upsample_bilinear(self, size: Any = None, scale_factor: Any = None) -> Tensor:
        """:meth:`interpolate` by lines, with corners aligned."""
        return self.interpolate(size, scale_factor, "bilinear", True)  # type: ignore[no-any-return]

    # random numbers in place

    def exponential_(self, lambd: float = 1.0) -> Tensor:
        """Random numbers of an exponential distribution, in place."""
        return self.assign(_uniform(self).log() * (-1 / lambd))  # type: ignore[no-any-return]

    def geometric_(self, p: float) -> Tensor:
        """How often one tries until something of probability ``p`` happens, in place."""
        return self.assign((_uniform(self).log() * (1 / math.log1p(-p))).ceil().clamp(min=1))  # type: ignore[no-any-return]

    def log_normal_(self, mean: float = 1.0, std: float = 2.0) -> Tensor:
        """Random numbers whose logarithms are of a normal distribution, in place."""
        draws: Any = type(self).randn(*self.shape, device=self.device)      # type: ignore[attr-defined]
        return self.assign((draws * std + mean).exp())  # type: ignore[no-any-return]

    def cauchy_(self, median: float = 0.0, sigma: float = 1.0) -> Tensor:
        """Random numbers of a Cauchy distribution, in place."""
        return self.assign(((_uniform(self) - 0.5) * math.pi).tan() * sigma + median)  # type: ignore[no-any-return]


def _uniform(x: Any) -> Any:
    """Random numbers in (0, 1]."""
    return 1 - type(x).rand(*x.shape, device=x.device)


def _solved(a: Any, b: Any) -> Any:
    """:meth:`solve` for matrices, where a batch of vectors could be meant, too."""
    return a.solve(b.unsqueeze(0) if b.ndim > 1 and b.shape == a.shape[:-1] else b)
