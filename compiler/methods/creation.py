"""Tensors from nothing: constants, sequences, random numbers.

Random numbers are Threefry-2x32 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011; 20 rounds):
a function of a key and a counter, in integer arithmetic, so every device draws the same. The key is the seed; the
counter goes on by as many numbers as were drawn, and comes to the device in memory, so that equal draws are equal
kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler import dtypes, graph
from compiler.buffer import Buffer
from compiler.dtypes import DTypeLike
from compiler.methods.base import Methods
from compiler.runtime import canonical, default_device

if TYPE_CHECKING:
    from compiler.tensor import Tensor

__all__ = ["Creation", "RandomState", "random_state", "threefry"]

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA        # of the Skein key schedule, in 32 bits


class RandomState:
    """The seed, how far the stream has been drawn, and who listens (a capture replays draws with new counters)."""

    def __init__(self) -> None:
        self.seed = 0
        self.drawn = 0
        self.listeners: list[Callable[[Buffer, int], None]] = []

    def manual_seed(self, seed: int) -> None:
        self.seed, self.drawn = seed & (1 << 64) - 1, 0

    def fill(self, buffer: Buffer, count: int) -> None:
        """Put key and counter for the next ``count`` draws into ``buffer`` (uint32[4])."""
        buffer.write(
            np.array([self.seed & 0xFFFFFFFF, self.seed >> 32, self.drawn & 0xFFFFFFFF, self.drawn >> 32], np.uint32)
        )
        self.drawn += count

    def draw(self, count: int, device: str) -> Buffer:
        buffer = Buffer(device, dtypes.uint32, 4)
        self.fill(buffer, count)
        for listener in self.listeners:
            listener(buffer, count)
        return buffer


random_state = RandomState()


def threefry(key0: Any, key1: Any, x0: Any, x1: Any) -> tuple[Any, Any]:
    """Threefry-2x32-20 on uint32 tensors (or NumPy arrays)."""
    keys = (key0, key1, key0 ^ key1 ^ _PARITY)
    x0, x1 = x0 + keys[0], x1 + keys[1]
    for block in range(5):
        for r in _ROTATIONS[block % 2]:
            x0 = x0 + x1
            x1 = ((x1 << r) | (x1 >> (32 - r))) ^ x0
        x0, x1 = x0 + keys[(block + 1) % 3], x1 + keys[(block + 2) % 3] + (block + 1)
    return x0, x1


def _shape(args: tuple[Any, ...]) -> tuple[int, ...]:
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
        to = dtypes.of(dtype) if dtype is not None else dtypes.of_scalar(fill_value)
        sizes = _shape((shape,) if isinstance(shape, int) else tuple(shape))
        return cls._make(graph.full(sizes, to, fill_value), device, requires_grad)

    @classmethod
    def zeros(cls, *shape: Any, dtype: DTypeLike = dtypes.float32, device: str | None = None,
              requires_grad: bool = False) -> Tensor:
        return cls.full(_shape(shape), 0, dtype=dtype, device=device, requires_grad=requires_grad)

    @classmethod
    def ones(cls, *shape: Any, dtype: DTypeLike = dtypes.float32, device: str | None = None,
             requires_grad: bool = False) -> Tensor:
        return cls.full(_shape(shape), 1, dtype=dtype, device=device, requires_grad=requires_grad)

    @classmethod
    def empty(cls, *shape: Any, dtype: DTypeLike = dtypes.float32, device: str | None = None) -> Tensor:
        """Zeros: memory that nobody wrote is nobody's business."""
        return cls.zeros(*shape, dtype=dtype, device=device)

    def full_like(self, fill_value: Any, *, dtype: DTypeLike | None = None) -> Tensor:
        return type(self).full(self.shape, fill_value, dtype=dtype or self.dtype, device=self.device)

    def zeros_like(self) -> Tensor:
        return self.full_like(0)

    def ones_like(self) -> Tensor:
        return self.full_like(1)

    @classmethod
    def arange(cls, start: float, stop: float | None = None, step: float = 1, *, dtype: DTypeLike | None = None,
               device: str | None = None) -> Tensor:
        """``start, start + step, ...`` up to and without ``stop``; int32 unless a number is a float."""
        if stop is None:
            start, stop = 0, start
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
        if steps == 1:
            return cls.full((1,), start, dtype=dtype, device=device)
        return (cls.arange(steps, device=device).cast(dtypes.of(dtype)) * ((stop - start) / (steps - 1)) + start).cast(
            dtype
        )

    @classmethod
    def eye(
        cls, n: int, m: int | None = None, *, dtype: DTypeLike = dtypes.float32, device: str | None = None
    ) -> Tensor:
        return cls.arange(n, device=device).one_hot(n if m is None else m).cast(dtype)

    # random

    @staticmethod
    def manual_seed(seed: int = 0) -> None:
        """Start the stream of random numbers anew, for all devices."""
        random_state.manual_seed(seed)

    @classmethod
    def _bits(cls, count: int, device: str | None) -> Tensor:
        """uint32[count] of random bits."""
        from compiler.tensor import Tensor
        device = canonical(device) if device else default_device()
        state = Tensor(random_state.draw(count, device).uop(), device=device)
        pairs = -(-count // 2)
        number = Tensor(graph.iota(pairs, dtypes.uint32), device=device)
        low = number + state[2]
        high = state[3] + (low < number).cast(dtypes.uint32)
        a, b = threefry(state[0], state[1], low, high)
        return a.cat(b)[:count]

    @classmethod
    def rand(
        cls, *shape: Any, dtype: DTypeLike = dtypes.float32, device: str | None = None, requires_grad: bool = False
    ) -> Tensor:
        """Uniform in [0, 1), in steps of 2**-24."""
        sizes = _shape(shape)
        if math.prod(sizes) == 0:
            return cls.zeros(*sizes, dtype=dtype, device=device)
        out = ((cls._bits(math.prod(sizes), device) >> 8).cast(dtypes.float32) * 2.0 ** -24).reshape(sizes).cast(dtype)
        return out.requires_grad_() if requires_grad else out

    @classmethod
    def uniform(cls, *shape: Any, low: float = 0.0, high: float = 1.0, dtype: DTypeLike = dtypes.float32,
                device: str | None = None, requires_grad: bool = False) -> Tensor:
        out = (cls.rand(*shape, device=device) * (high - low) + low).cast(dtype)
        return out.requires_grad_() if requires_grad else out

    @classmethod
    def randn(
        cls, *shape: Any, dtype: DTypeLike = dtypes.float32, device: str | None = None, requires_grad: bool = False
    ) -> Tensor:
        """Normal with mean 0 and deviation 1, by Box and Muller."""
        sizes = _shape(shape)
        count = math.prod(sizes)
        if count == 0:
            return cls.zeros(*sizes, dtype=dtype, device=device)
        u = cls.rand(2, count, device=device)
        radius = ((1 - u[0]).log() * -2).sqrt()
        out = (radius * (u[1] * (2 * math.pi)).sin()).reshape(sizes).cast(dtype)
        return out.requires_grad_() if requires_grad else out

    @classmethod
    def randint(cls, low: int, high: int, shape: Sequence[int], *, dtype: DTypeLike = dtypes.int32,
                device: str | None = None) -> Tensor:
        """Integers in [low, high)."""
        if high <= low:
            raise ValueError(f"randint: no integers in [{low}, {high})")
        bits = cls._bits(max(1, math.prod(shape)), device)[:math.prod(shape)]
        return (bits % (high - low)).cast(dtypes.int64).add(low).cast(dtype).reshape(*shape)

    @classmethod
    def randperm(cls, n: int, *, device: str | None = None) -> Tensor:
        """A permutation of 0..n-1: each number's rank among random numbers (quadratic in n, one kernel)."""
        u = cls._bits(max(n, 1), device)[:n]
        at = cls.arange(n, device=device)
        before = (u.unsqueeze(0) < u.unsqueeze(1)) | (
            u.unsqueeze(0).eq(u.unsqueeze(1)) & (at.unsqueeze(0) < at.unsqueeze(1))
        )
        return before.sum(1)

    @classmethod
    def kaiming_uniform(
        cls, *shape: Any, a: float = 0.01, device: str | None = None, requires_grad: bool = False
    ) -> Tensor:
        """He et al. (2015): uniform within sqrt(6 / ((1 + a*a) * fan_in)); fan_in is all axes but the first."""
        sizes = _shape(shape)
        bound = math.sqrt(6 / ((1 + a * a) * math.prod(sizes[1:])))
        return cls.uniform(*sizes, low=-bound, high=bound, device=device, requires_grad=requires_grad)
