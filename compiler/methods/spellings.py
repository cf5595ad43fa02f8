"""Other names for what is there: PyTorch's rarer ones, and those of tinygrad's users."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from compiler import dtypes
from compiler.methods.base import Methods

if TYPE_CHECKING:
    from compiler.tensor import Tensor

__all__ = ["Spellings"]


class Spellings(Methods):
    """Mixin; see :class:`compiler.tensor.Tensor`."""

    __slots__ = ()

    training: ClassVar[bool] = False
    """tinygrad's switch; layers here have their own (``Module.train``)."""

    def bfloat16(self, memory_format: Any = None) -> Tensor:
        """As bfloat16."""
        return self.cast(dtypes.bfloat16)  # type: ignore[no-any-return]

    def short(self, memory_format: Any = None) -> Tensor:
        """As int16."""
        return self.cast(dtypes.int16)  # type: ignore[no-any-return]

    def char(self, memory_format: Any = None) -> Tensor:
        """int8, as PyTorch has it."""
        return self.cast(dtypes.int8)  # type: ignore[no-any-return]

    def byte(self, memory_format: Any = None) -> Tensor:
        """uint8."""
        return self.cast(dtypes.uint8)  # type: ignore[no-any-return]

    def type_as(self, other: Any) -> Tensor:
        """With the other's type."""
        return self.cast(other.dtype)  # type: ignore[no-any-return]

    def nelement(self) -> int:
        """How many elements there are."""
        return self.numel()

    def ndimension(self) -> int:
        """How many axes there are."""
        return self.ndim

    def is_contiguous(self) -> bool:
        """Always: what a tensor gives is row by row."""
        return True

    def storage_offset(self) -> int:
        """0: every tensor begins where its memory does."""
        return 0

    def get_device(self) -> int:
        """The card's number; -1 for the CPU."""
        return -1 if self.device.startswith("CPU") else int(self.device.partition(":")[2] or 0)

    @property
    def is_cuda(self) -> bool:
        """False: no device is CUDA's."""
        return False

    @property
    def is_sparse(self) -> bool:
        """False: every tensor is dense."""
        return False

    def is_complex(self) -> bool:
        """False: there are no complex types."""
        return False

    def is_signed(self) -> bool:
        """Whether the type has negative values."""
        return self.dtype.kind in "if"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec and not self.ndim else format(repr(self), spec)

    def __round__(self, ndigits: int | None = None) -> Tensor:
        return self.round(decimals=ndigits or 0)  # type: ignore[no-any-return]

    def __complex__(self) -> complex:
        return complex(self.item())

    # PyTorch's functions of the same arguments

    def pinverse(self, rcond: float | None = None) -> Tensor:
        """:meth:`pinv`"""
        return self.pinv(rcond)  # type: ignore[no-any-return]

    def embedding(self, weight: Any, padding_idx: int | None = None) -> Tensor:
        """Rows of ``weight`` by these numbers; of row ``padding_idx`` no gradient is taken."""
        if weight.ndim != 2:
            raise ValueError(f"embedding: rows of a matrix are looked up, not of a shape {weight.shape}")
        if padding_idx is not None:
            rows = type(self).arange(weight.shape[0], device=weight.device)  # type: ignore[attr-defined]
            weight = rows.eq(padding_idx % weight.shape[0]).unsqueeze(1).where(weight.detach(), weight)
        return weight[self]  # type: ignore[no-any-return]

    def upsample(self, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
                 align_corners: bool | None = None) -> Tensor:
        """:meth:`interpolate`"""
        return self.interpolate(size, scale_factor, mode, align_corners)  # type: ignore[no-any-return]

    def rrelu(self, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False) -> Tensor:
        """A random slope for each negative number while training, their mean otherwise."""
        if lower > upper:
            raise ValueError(f"rrelu: slopes from {lower} to {upper}: the first must not be greater")
        if not training:
            return self.leaky_relu((lower + upper) / 2)  # type: ignore[no-any-return]
        slopes = type(self).uniform(*self.shape, low=lower, high=upper, device=self.device)  # type: ignore[attr-defined]
        return (self >= 0).where(self, self * slopes)  # type: ignore[no-any-return, attr-defined]

    def pdist(self, p: float = 2.0) -> Tensor:
        """Distances of all pairs of rows, in a row."""
        n = self.shape[0]
        first = [i for i in range(n) for _ in range(i + 1, n)]
        second = [j for i in range(n) for j in range(i + 1, n)]
        return (self[first] - self[second]).norm(p, 1)  # type: ignore[no-any-return]

    def trapezoid(self, x: Any = None, *, dx: float = 1.0, dim: int = -1) -> Tensor:
        """The integral along an axis, by trapezia between points ``x`` or ``dx`` apart."""
        a, areas, factor = self._trapezia(x, dx, dim)
        return areas.sum(a) * factor  # type: ignore[no-any-return]

    def _trapezia(self, x: Any, dx: float, dim: int) -> tuple[int, Any, float]:
        """(the axis, the areas between its points, by what they are to be multiplied)."""
        a = self._axis(dim)
        n = self.shape[a]
        middle: Any = (self.narrow(a, 1, n - 1) + self.narrow(a, 0, n - 1)) / 2
        if x is None:
            return a, middle, dx
        steps = x.diff(dim=-1 if x.ndim == 1 else dim)
        if steps.ndim == 1:
            steps = steps.reshape([-1 if i == a else 1 for i in range(self.ndim)])
        return a, middle * steps, 1

    trapz = trapezoid

    def frexp(self) -> tuple[Tensor, Tensor]:
        """(m, e) with ``self = m * 2**e`` and m in [1/2, 1)."""
        x: Any = self
        kept = x.eq(0) | ~x.isfinite()
        exponent = kept.where(1.0, x.abs()).log2().floor() + 1
        mantissa = x * (-exponent / 2).exp2().cast(self.dtype) * (-exponent / 2).exp2().cast(self.dtype) \
            if self.dtype.bits < 32 else x / exponent.exp2()
        low, high = mantissa.abs() < 0.5, mantissa.abs() >= 1     # log2 rounds, too
        exponent = exponent - low.cast(exponent.dtype) + high.cast(exponent.dtype)
        mantissa = low.where(mantissa * 2, high.where(mantissa / 2, mantissa))
        return kept.where(x, mantissa), kept.where(0, exponent).cast(dtypes.int32)

    # tinygrad's

    def sequential(self, layers: Sequence[Callable[[Any], Any]]) -> Tensor:
        """Through one function after the other."""
        x: Any = self
        for layer in layers:
            x = layer(x)
        return x  # type: ignore[no-any-return]

    def xor(self, other: Any) -> Tensor:
        """self ^ other"""
        return self ^ other  # type: ignore[no-any-return]

    def idiv(self, other: Any) -> Tensor:
        """Integers, divided towards zero."""
        return self.div(other, rounding_mode="trunc")  # type: ignore[no-any-return]

    def layernorm(self, axis: int | tuple[int, ...] = -1, eps: float = 1e-5) -> Tensor:
        """To mean 0 and variance 1 along axes."""
        return self._standardized(self._axes(axis), eps)  # type: ignore[no-any-return]

    def binary_crossentropy(self, Y: Any, reduction: str = "mean") -> Tensor:
        """:meth:`binary_cross_entropy`, by tinygrad's name."""
        return self.binary_cross_entropy(Y, reduction=reduction)  # type: ignore[no-any-return]

    def binary_crossentropy_logits(self, Y: Any, reduction: str = "mean", pos_weight: Any = None) -> Tensor:
        """:meth:`binary_cross_entropy_with_logits`, by tinygrad's name."""
        return self.binary_cross_entropy_with_logits(Y, reduction=reduction, pos_weight=pos_weight)  # type: ignore[no-any-return]

    def sparse_categorical_crossentropy(self, Y: Any, ignore_index: int = -1, label_smoothing: float = 0.0,
                                        reduction: str = "mean") -> Tensor:
        """:meth:`cross_entropy` with class numbers, by tinygrad's name."""
        return self.cross_entropy(Y, ignore_index=ignore_index, label_smoothing=label_smoothing,  # type: ignore[no-any-return]
                                  reduction=reduction)

    @classmethod
    def scaled_uniform(cls, *shape: Any, device: str | None = None, requires_grad: bool = False) -> Tensor:
        """Uniform within 1 / sqrt(elements)."""
        size = math.prod(shape[0] if len(shape) == 1 and isinstance(shape[0], Sequence) else shape)
        bound = max(size, 1) ** -0.5
        return cls.uniform(*shape, low=-bound, high=bound, device=device, requires_grad=requires_grad)  # type: ignore[attr-defined, no-any-return]

    @classmethod
    @contextlib.contextmanager
    def train(cls, mode: bool = True) -> Iterator[None]:
        """``training`` inside a with statement."""
        before, Spellings.training = Spellings.training, mode
        try:
            yield
        finally:
            Spellings.training = before
