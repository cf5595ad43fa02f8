"""Boxes of elements in memory: strided windows of linear arrays, and tiled surfaces."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

from hcq.errors import QueueError
from hcq.memory import Buffer

__all__ = ["Surface", "Window", "place_in"]


@dataclass(frozen=True)
class Surface:
    """A tiled surface, as textures are.

    :ivar swizzle: the number of the arrangement, as the hardware counts them (AMD: SW_MODE).
    """

    width: int                      # elements
    height: int
    depth: int = 1
    element_bytes: int = 4
    swizzle: int = 0
    dimensions: int = 2

    def __post_init__(self) -> None:
        for name in ("width", "height", "depth", "element_bytes", "dimensions"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise QueueError(f"a surface's {name} is a number of at least 1, not {value!r}")

    @property
    def size(self) -> tuple[int, int, int]:
        """(width, height, depth), in elements."""
        return self.width, self.height, self.depth


@dataclass(frozen=True)
class Window:
    """A box in linear memory: ``size`` (x, y, z) in elements, ``pitch`` (row, slice) and ``span`` in bytes."""

    size: tuple[int, int, int]
    pitch: tuple[int, int]
    span: int                       # from its first byte to its last

    @classmethod
    def of(cls, shape: Sequence[int], element_bytes: int, strides: Sequence[int] | None, what: str,
           buffer: Buffer) -> Window:
        """:raises QueueError: it is none, or leaves the buffer."""
        depth, height, width = _three(shape, "shape", 1)
        dense = width * element_bytes
        if strides is None:
            row, plane = dense, dense * height
        else:
            steps = _numbers(strides, "strides")
            if len(steps) == 2:
                plane, row = steps
            elif len(steps) == 1 and depth == 1:
                row, plane = steps[0], steps[0] * height
            else:
                raise QueueError(f"strides are (row,) or (slice, row) in bytes, not {tuple(strides)!r}")
        if row < dense or plane < row * (height - 1) + dense:
            raise QueueError(f"{what}: rows of {dense} bytes every {row}, slices every {plane}: they would overlap")
        span = plane * (depth - 1) + row * (height - 1) + dense
        if span > buffer.nbytes:
            raise QueueError(f"{what}: a box of {depth} x {height} x {width} elements of {element_bytes} bytes spans "
                             f"{span} bytes; the buffer has {buffer.nbytes}")
        return cls((width, height, depth), (row, plane), span)


def place_in(surface: Surface, window: Window, at: Sequence[int]) -> tuple[int, int, int]:
    """(x, y, z) of a box in a surface. :raises QueueError: it leaves the surface."""
    z, y, x = _three(at, "place", 0)
    place = x, y, z
    if any(start + size > limit for start, size, limit in zip(place, window.size, surface.size, strict=True)):
        raise QueueError(f"a box of {window.size} elements (x, y, z) at {place} leaves a surface of {surface.size}")
    return place


def _numbers(values: Sequence[int], what: str) -> list[int]:
    try:
        return [operator.index(value) for value in values]
    except TypeError:
        raise QueueError(f"a {what} is a row of integers, not {values!r}") from None


def _three(values: Sequence[int], what: str, least: int) -> tuple[int, int, int]:
    """(z, y, x) of two or three numbers."""
    numbers = _numbers(values, what)
    if len(numbers) not in (2, 3) or any(number < least for number in numbers):
        raise QueueError(f"a {what} is (y, x) or (z, y, x), each at least {least}, not {tuple(values)!r}")
    z, y, x = numbers if len(numbers) == 3 else (1 if least else 0, *numbers)
    return z, y, x
