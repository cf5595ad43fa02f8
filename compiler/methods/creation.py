"""Tensors from nothing: constants and sequences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler import dtypes, graph
from compiler.dtypes import DTypeLike
from compiler.methods.base import Methods

if TYPE_CHECKING:
    from compiler.tensor import Tensor

__all__ = ["Creation", "shape_of"]

def shape_of(args: tuple[Any, ...]) -> tuple[int, ...]:
    if len(args) == 1 and isinstance(args[0], Sequence):
        args = tuple(args[0])
    shape = tuple(int(a) for a in args)
    if any(s < 0 for s in shape):
        raise ValueError(f"a shape has no negative sizes: {shape}")
    return shape


class Creation(Methods):
    """Mixin; see :class:`compiler.tensor.Tensor`."""

    __slots__ = ()

    @classmethod
    def _make(cls, uop: Any, device: str | None, requires_grad: bool) -> Any:
        make: Any = cls
        return make(uop, device=device, requires_grad=requires_grad)

    @classmethod
    def full(
        cls,
        shape: Sequence[int] | int,
        fill_value: Any,
        *,
        dtype: DTypeLike | None = None,
        device: str | None = None,
        requires_grad: bool = False,
    ) -> Tensor:
        """``fill_value`` everywhere; nothing is stored until somebody needs it."""
        to = dtypes.of(dtype) if dtype is not None else dtypes.of_scalar(fill_value)
        sizes = shape_of((shape,) if isinstance(shape, int) else tuple(shape))
        return cls._make(graph.full(sizes, to, fill_value), device, requires_grad)

    @classmethod
    def zeros(cls, *shape: Any, dtype: DTypeLike = dtypes.float32, device: str | None = None,
              requires_grad: bool = False) -> Tensor:
        """Zeros; nothing is stored until somebody needs it."""
        return cls.full(shape_of(shape), 0, dtype=dtype, device=device, requires_grad=requires_grad)

    @classmethod
    def ones(cls, *shape: Any, dtype: DTypeLike = dtypes.float32, device: str | None = None,
             requires_grad: bool = False) -> Tensor:
        """Ones; nothing is stored until somebody needs it."""
        return cls.full(shape_of(shape), 1, dtype=dtype, device=device, requires_grad=requires_grad)

    @classmethod
    def empty(cls, *shape: Any, dtype: DTypeLike = dtypes.float32, device: str | None = None,
              requires_grad: bool = False) -> Tensor:
        """Zeros: memory that nobody wrote is nobody's business."""
        return cls.zeros(*shape, dtype=dtype, device=device, requires_grad=requires_grad)

    def full_like(self, fill_value: Any, *, dtype: DTypeLike | None = None, device: str | None = None,
                  requires_grad: bool = False, memory_format: Any = None) -> Tensor:
        """``fill_value`` everywhere, of this shape, and of this type and device unless others are named."""
        return type(self).full(self.shape, fill_value, dtype=self.dtype if dtype is None else dtype,
                               device=device or self.device, requires_grad=requires_grad)

    def zeros_like(self, **how: Any) -> Tensor:
        """Zeros of this shape; for the keywords see :meth:`full_like`."""
        return self.full_like(0, **how)

    def ones_like(self, **how: Any) -> Tensor:
        """Ones of this shape; for the keywords see :meth:`full_like`."""
        return self.full_like(1, **how)

    empty_like = zeros_like

    def new_full(self, size: Any, fill_value: Any, *, dtype: DTypeLike | None = None, device: str | None = None,
                 requires_grad: bool = False) -> Tensor:
        """A tensor of this one's type and device, unless others are named."""
        return type(self).full(size, fill_value, dtype=self.dtype if dtype is None else dtype,
                               device=device or self.device, requires_grad=requires_grad)

    def new_zeros(self, *size: Any, **how: Any) -> Tensor:
        """Zeros; for the keywords see :meth:`new_full`."""
        return self.new_full(shape_of(size), 0, **how)

    def new_ones(self, *size: Any, **how: Any) -> Tensor:
        """Ones; for the keywords see :meth:`new_full`."""
        return self.new_full(shape_of(size), 1, **how)

    new_empty = new_zeros

    def new_tensor(self, data: Any, *, dtype: DTypeLike | None = None, device: str | None = None,
                   requires_grad: bool = False) -> Tensor:
        """``data`` on this device and of this type, unless others are named."""
        make: Any = type(self)
        return make(data, dtype or self.dtype, device or self.device, requires_grad)  # type: ignore[no-any-return]

    @classmethod
    def arange(cls, start: float = 0, stop: float | None = None, step: float = 1, *, end: float | None = None,
               dtype: DTypeLike | None = None, device: str | None = None) -> Tensor:
        """``start, start + step, ...`` up to and without ``stop`` (``end``); int32 unless a number is a float."""
        if end is not None:
            if stop is not None:
                raise TypeError("arange: stop and end are one thing")
            stop = end
        if stop is None:
            start, stop = 0, start
        if any(isinstance(v, float) and not math.isfinite(v) for v in (start, stop, step)):
            raise ValueError(f"arange from {start} to {stop} by {step}: the numbers must be finite")
        if dtype is not None and dtypes.of(dtype).is_int:     # as PyTorch has it
            start, stop, step = int(start), int(stop), int(step)
        if step == 0:
            raise ValueError("arange: the step is 0")
        whole = all(isinstance(v, int | np.integer) for v in (start, stop, step))
        count = max(0, math.ceil((stop - start) / step))
        to = dtypes.of(dtype) if dtype is not None else dtypes.default_int if whole else dtypes.default_float
        out = cls._make(graph.iota(count), device, False) if count else cls.zeros(0, dtype=dtypes.int32, device=device)
        if step != 1 or start != 0:
            out = (
                out * step + start
                if whole
                else out.cast(dtypes.float64 if to.bits == 64 else dtypes.float32) * step + start
            )
        return out.cast(to)

    @classmethod
    def linspace(cls, start: float, stop: float, steps: int, *, dtype: DTypeLike = dtypes.float32,
                 device: str | None = None) -> Tensor:
        """``steps`` numbers from ``start`` to ``stop``, both exact: the second half is counted from the end."""
        to = dtypes.of(dtype)
        if isinstance(steps, float) or steps < 0:
            raise TypeError(f"linspace: steps is a number of elements, not {steps!r}")
        if to.is_int:       # as PyTorch has it
            start, stop = int(start), int(stop)
        if steps <= 1:
            return cls.full((steps,), start, dtype=to, device=device)
        wide = to if to.is_float and to.bits == 64 else dtypes.float64 if not to.is_float else dtypes.float32
        step = (stop - start) / (steps - 1)
        at: Any = cls.arange(steps, device=device)
        low, high = at.cast(wide) * step + start, (at - (steps - 1)).cast(wide) * step + stop
        return (at < steps // 2).where(low, high).cast(to)  # type: ignore[no-any-return]

    @classmethod
    def logspace(cls, start: float, stop: float, steps: int, base: float = 10.0, *,
                 dtype: DTypeLike = dtypes.float32, device: str | None = None) -> Tensor:
        """``base`` to the powers of :meth:`linspace`."""
        if dtypes.of(dtype).is_int:     # as PyTorch has it; by the host, whose powers of whole numbers are exact
            numbers = float(base) ** np.linspace(int(start), int(stop), steps)
            return cls.zeros(0, device=device).new_tensor(np.trunc(numbers), dtype=dtype)
        powers: Any = cls.linspace(start, stop, steps, dtype=dtypes.float64, device=device)
        return (powers * math.log2(base)).exp2().cast(dtype)  # type: ignore[no-any-return]

    @classmethod
    def tri(cls, n: int, m: int | None = None, diagonal: int = 0, *, dtype: DTypeLike = dtypes.float32,
            device: str | None = None) -> Tensor:
        """Ones up to and with a diagonal, zeros beyond."""
        return cls.ones(n, n if m is None else m, dtype=dtype, device=device).tril(diagonal)  # type: ignore[no-any-return]

    @classmethod
    def eye(cls, n: int, m: int | None = None, *, dtype: DTypeLike = dtypes.float32, device: str | None = None,
            requires_grad: bool = False) -> Tensor:
        """Ones on the diagonal of [n, m], zeros elsewhere; ``m`` is ``n`` by default."""
        if n < 0 or (m is not None and m < 0):
            raise ValueError(f"eye: a shape has no negative sizes: {(n, m)}")
        out = cls.arange(n, device=device).one_hot(n if m is None else m).cast(dtype)
        return out.requires_grad_() if requires_grad else out
