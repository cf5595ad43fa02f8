"""Arrays that exist already, made reachable for the card where they are: pinned, mapped, and released again.

    with device.register(array) as registered:
        ring.submit(...registered.address...)       # the array's first byte, as every engine sees it

Memory is mapped by the page, so an array that does not begin at one shares its first and last page with whatever else
lies there: those bytes stay the process's own, and a kernel that stays within the array does not touch them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from amdrv.errors import MappingError

__all__ = ["PageMapper", "Registration", "register"]


class PageMapper(Protocol):
    """The memory of a card, as far as registering needs it: ``Memory`` of amdrv.memory and of amdrv.kfd.memory; what
    they give and take has an ``address``, and keeps alive what its ``keeps`` holds."""

    @property
    def page_size(self) -> int:
        """Of the host, bytes."""
    @property
    def map_pages(self) -> Callable[..., Any]:
        """Pins and maps pages of this process; gives what has an ``address``."""
    @property
    def holds(self) -> Callable[[Any], bool]:
        """Whether what ``map_pages`` gave is mapped still."""
    @property
    def free(self) -> Callable[[Any], None]:
        """Takes what ``map_pages`` gave."""


class Registration:
    """One array within the card's reach; a context manager that takes it away again.

    :ivar address: the GPU's address of the array's lowest byte; of its first element, unless a stride is negative.
    :ivar nbytes: from the lowest to the highest byte; more than ``array.nbytes`` where the array has gaps.
    :ivar view: these bytes (uint8), read-only where the array is.
    """

    def __init__(self, memory: PageMapper, array: np.ndarray, allocation: Any, low: int, nbytes: int) -> None:
        self.array, self.allocation, self.nbytes = array, allocation, nbytes
        self._memory = memory
        self.address = allocation.address + low % memory.page_size
        self.view: np.ndarray = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(low))
        self.view.flags.writeable = array.flags.writeable

    def close(self) -> None:
        """Unmap and unpin; the engines must be done with it. Idempotent."""
        if self._memory.holds(self.allocation):
            self._memory.free(self.allocation)

    def __enter__(self) -> Registration:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Registration of {self.array.dtype}{list(self.array.shape)} at {self.address:#x}>"


def register(memory: PageMapper, array: np.ndarray, *, name: str = "") -> Registration:
    """Pin an array's pages and map them for every engine; what is read-only here is read-only for the card.

    :raises TypeError: no array. :raises MappingError: without bytes, of Python objects, or memory that the machine
        cannot map; the message says which. :raises OutOfMemoryError: pages cannot be pinned.
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"a NumPy array can be registered, not a {type(array).__name__}; np.asarray makes one")
    if array.dtype.hasobject:
        raise MappingError(f"an array of Python objects ({array.dtype}) holds this process's pointers; the card cannot "
                           "use them")
    if not array.size or not array.itemsize:
        raise MappingError(f"an array of shape {array.shape} has no bytes to register")
    low, high = _extent(array)
    page = memory.page_size
    start = low & -page
    allocation = memory.map_pages(start, (high + page - 1 & -page) - start, name=name or "registered array",
                                  writable=array.flags.writeable)
    allocation.keeps = array        # its memory lives as long as the card may reach it
    return Registration(memory, array, allocation, low, high - low)


def _extent(array: np.ndarray) -> tuple[int, int]:
    """First address of an array's bytes, and the one behind the last."""
    low = high = int(array.ctypes.data)
    for step, count in zip(array.strides, array.shape, strict=True):
        reach = step * (count - 1)
        low, high = low + min(reach, 0), high + max(reach, 0)
    return low, high + array.itemsize
