"""Random numbers.

They are Threefry-2x32 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011; 20 rounds): a function
of a key and a counter, in integer arithmetic, so every device draws the same. The key is the seed; the counter goes on
by as many numbers as were drawn, and comes to the device in memory, so that equal draws are equal kernels.
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
from compiler.methods.creation import shape_of
from compiler.methods.elementwise import broadcast_shapes
from compiler.runtime import canonical, default_device

if TYPE_CHECKING:
    from compiler.tensor import Tensor

__all__ = ["Random", "RandomState", "random_state", "threefry"]

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_RANKED = 1024        # numbers that are compared with each other; more are sorted
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


class Random(Methods):
    """Mixin; see :class:`compiler.tensor.Tensor`."""

    __slots__ = ()

    if TYPE_CHECKING:
        @classmethod
        def zeros(cls, *shape: Any, dtype: Any = ..., device: str | None = None) -> Any: ...
        @classmethod
        def arange(cls, start: float, *, device: str | None = None) -> Any: ...

    @staticmethod
    def manual_seed(seed: int = 0) -> None:
        """Start the stream of random numbers anew, for all devices."""
        random_state.manual_seed(seed)

    @classmethod
    def _bits(cls, count: int, device: str | None) -> Tensor:
        """uint32[count] of random bits."""
        from compiler.tensor import Tensor
        device = canonical(device) if device else default_device()
        first = device.partition("+")[0]        # of a sharded tensor: the key and counter go to all devices
        state = Tensor(random_state.draw(count, first).uop(), device=first).to(device)
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
        sizes = shape_of(shape)
        if math.prod(sizes) == 0:
            return cls.zeros(*sizes, dtype=dtype, device=device)
        out = ((cls._bits(math.prod(sizes), device) >> 8).cast(dtypes.float32) * 2.0 ** -24).reshape(sizes).cast(dtype)
        return out.requires_grad_() if requires_grad else out

    @classmethod
    def uniform(cls, *shape: Any, low: float = 0.0, high: float = 1.0, dtype: DTypeLike = dtypes.float32,
                device: str | None = None, requires_grad: bool = False) -> Tensor:
        """Random numbers from ``low`` (among them) to ``high`` (not)."""
        out = (cls.rand(*shape, device=device) * (high - low) + low).cast(dtype)
        return out.requires_grad_() if requires_grad else out

    @classmethod
    def randn(
        cls, *shape: Any, dtype: DTypeLike = dtypes.float32, device: str | None = None, requires_grad: bool = False
    ) -> Tensor:
        """Normal with mean 0 and deviation 1, by Box and Muller."""
        sizes = shape_of(shape)
        count = math.prod(sizes)
        if count == 0:
            return cls.zeros(*sizes, dtype=dtype, device=device)
        u = cls.rand(2, count, device=device)
        radius = ((1 - u[0]).log() * -2).sqrt()
        out = (radius * (u[1] * (2 * math.pi)).sin()).reshape(sizes).cast(dtype)
        return out.requires_grad_() if requires_grad else out

    @classmethod
    def randint(cls, *args: Any, low: int | None = None, high: int | None = None, size: Any = None,
                dtype: DTypeLike = dtypes.int32, device: str | None = None) -> Tensor:
        """Integers in [low, high): ``randint(low, high, shape)``, ``randint(high, shape)``, or the shape alone in
        front, and ``low`` (0) and ``high`` (10) by name."""
        given = list(args)
        if size is not None or (given and isinstance(given[-1], Sequence) and low is high is None):
            shape = tuple(size if size is not None else given.pop())
            if len(given) not in (1, 2):
                raise TypeError("randint takes (low, high, shape) or (high, shape)")
            low, high = given if len(given) == 2 else (0, given[0])
        else:
            shape, low, high = shape_of(args), 0 if low is None else low, 10 if high is None else high
        if high <= low:
            raise ValueError(f"randint: no integers in [{low}, {high})")
        bits = cls._bits(max(1, math.prod(shape)), device)[:math.prod(shape)]
        return (bits % (high - low)).cast(dtypes.int64).add(low).cast(dtype).reshape(*shape)

    @classmethod
    def randperm(cls, n: int, *, device: str | None = None) -> Tensor:
        """A permutation of 0..n-1: each number's rank among random numbers."""
        u: Any = cls._bits(max(n, 1), device)[:n]
        at = cls.arange(n, device=device)
        if n > _RANKED:
            return at.zeros_like().scatter(0, u.argsort(), at)
        before = (u.unsqueeze(0) < u.unsqueeze(1)) | (
            u.unsqueeze(0).eq(u.unsqueeze(1)) & (at.unsqueeze(0) < at.unsqueeze(1))
        )
        return before.sum(1)

    @classmethod
    def kaiming_uniform(
        cls, *shape: Any, a: float = 0.01, device: str | None = None, requires_grad: bool = False
    ) -> Tensor:
        """He et al. (2015): uniform within sqrt(6 / ((1 + a*a) * fan_in)); fan_in is all axes but the first."""
        sizes = shape_of(shape)
        bound = math.sqrt(6 / ((1 + a * a) * math.prod(sizes[1:])))
        return cls.uniform(*sizes, low=-bound, high=bound, device=device, requires_grad=requires_grad)

    @classmethod
    def kaiming_normal(cls, *shape: Any, a: float = 0.01, device: str | None = None,
                       requires_grad: bool = False) -> Tensor:
        """He et al. (2015): normal, of the same variance as :meth:`kaiming_uniform`."""
        sizes = shape_of(shape)
        out = cls.randn(*sizes, device=device) * math.sqrt(2 / ((1 + a * a) * math.prod(sizes[1:])))
        return out.requires_grad_() if requires_grad else out

    @classmethod
    def glorot_uniform(cls, *shape: Any, device: str | None = None, requires_grad: bool = False) -> Tensor:
        """Glorot and Bengio (2010): uniform within sqrt(6 / (fan_in + fan_out))."""
        sizes = shape_of(shape)
        bound = math.sqrt(6 / (sizes[0] + math.prod(sizes[1:])))
        return cls.uniform(*sizes, low=-bound, high=bound, device=device, requires_grad=requires_grad)

    @classmethod
    def normal(cls, *args: Any, mean: Any = 0.0, std: Any = 1.0, size: Any = None,
               dtype: DTypeLike = dtypes.float32, device: str | None = None, requires_grad: bool = False) -> Tensor:
        """Random numbers of a normal distribution: ``normal(*shape, mean=, std=)``; or, as PyTorch has it,
        ``normal(mean, std, size)``, and ``normal(mean, std)`` where one of them is a tensor."""
        from compiler.tensor import Tensor
        if any(isinstance(a, float | Tensor) for a in args) or (args and isinstance(args[-1], Sequence) and args[:-1]):
            given = dict(zip(("mean", "std", "size"), args, strict=False))
            mean, std, size = given.get("mean", mean), given.get("std", std), given.get("size", size)
            args = ()
        if size is None and not args and (tensors := [v for v in (mean, std) if isinstance(v, Tensor)]):
            device = device or tensors[0].device
            shape = broadcast_shapes(*(t.shape for t in tensors))
        else:
            shape = shape_of(args if size is None else (tuple(size),))
        out = (cls.randn(*shape, device=device) * std + mean).cast(dtype)
        return out.requires_grad_() if requires_grad else out

    def rand_like(self, *, dtype: DTypeLike | None = None, device: str | None = None, requires_grad: bool = False,
                  memory_format: Any = None) -> Tensor:
        """:meth:`rand` of this shape, type and device."""
        return type(self).rand(*self.shape, dtype=self.dtype if dtype is None else dtype,
                               device=device or self.device, requires_grad=requires_grad)

    def randn_like(self, *, dtype: DTypeLike | None = None, device: str | None = None, requires_grad: bool = False,
                   memory_format: Any = None) -> Tensor:
        """:meth:`randn` of this shape, type and device."""
        return type(self).randn(*self.shape, dtype=self.dtype if dtype is None else dtype,
                                device=device or self.device, requires_grad=requires_grad)

    def randint_like(self, low: int, high: int | None = None, *, dtype: DTypeLike | None = None,
                     device: str | None = None, memory_format: Any = None) -> Tensor:
        """:meth:`randint` of this shape, type and device."""
        low, high = (0, low) if high is None else (low, high)
        return type(self).randint(low, high, self.shape, dtype=self.dtype if dtype is None else dtype,
                                  device=device or self.device)

    def bernoulli(self) -> Tensor:
        """1 with each element's probability, else 0."""
        return (type(self).rand(*self.shape, device=self.device) < self).cast(self.dtype)

    def multinomial(self, num_samples: int, replacement: bool = False) -> Tensor:
        """Class numbers (int32), drawn by the weights of the last axis."""
        if self.ndim not in (1, 2) or not self.dtype.is_float or num_samples < 1:
            raise ValueError(f"multinomial draws at least one class by float weights (classes) or (rows, classes), not "
                             f"{num_samples} by {self.dtype.name} {self.shape}")
        x: Any = self.cast(dtypes.float32)
        if not replacement:     # the first of exponential waiting times (Efraimidis and Spirakis, 2006)
            if num_samples > self.shape[-1]:
                raise ValueError(f"multinomial: {num_samples} different ones of {self.shape[-1]}")
            times = -(1 - type(self).rand(*self.shape, device=self.device)).log() / x
            return times.topk(num_samples, -1, False).indices  # type: ignore[no-any-return]
        edges = x.cumsum(-1)
        draws = type(self).rand(*self.shape[:-1], num_samples, device=self.device) * edges[..., -1:]
        return edges.searchsorted(draws, right=True).clamp(max=self.shape[-1] - 1)  # type: ignore[no-any-return]
