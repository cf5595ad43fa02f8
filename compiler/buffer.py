"""Device memory that a tensor's value lies in: allocated when first used, given back for reuse when dropped."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from compiler.dtypes import DType
from compiler.runtime import Runtime, runtime
from compiler.uop import Ops, UOp

__all__ = ["Buffer", "Pool", "pool"]

_GRANULE = 256
_KEEP = 256 << 20
"""Bytes of free memory a device's pool holds on to."""


class Pool:
    """Memory of one device that was given back, by size; and counts of what is in use."""

    def __init__(self, device: str) -> None:
        self.runtime: Runtime = runtime(device)
        self.free: dict[int, list[Any]] = {}
        self.kept = self.used = self.peak = 0

    def take(self, nbytes: int) -> Any:
        size = max(_GRANULE, -(-nbytes // _GRANULE) * _GRANULE)
        self.used += size
        self.peak = max(self.peak, self.used)
        if spare := self.free.get(size):
            self.kept -= size
            return spare.pop()
        try:
            return self.runtime.alloc(size)
        except MemoryError:
            self.trim()
            return self.runtime.alloc(size)

    def give(self, handle: Any, nbytes: int) -> None:
        size = max(_GRANULE, -(-nbytes // _GRANULE) * _GRANULE)
        self.used -= size
        if self.kept + size > _KEEP:
            self.runtime.free(handle)
        else:
            self.kept += size
            self.free.setdefault(size, []).append(handle)

    def trim(self) -> None:
        """Give all free memory back to the device."""
        for handles in self.free.values():
            for handle in handles:
                self.runtime.free(handle)
        self.free.clear()
        self.kept = 0


_pools: dict[str, Pool] = {}


def pool(device: str) -> Pool:
    if (found := _pools.get(device)) is None:
        found = _pools[device] = Pool(device)
    return found


class Buffer:
    """``size`` elements of ``dtype`` on ``device``. ``version`` counts the times it was overwritten in place."""

    __slots__ = ("device", "dtype", "size", "version", "_handle", "_owner", "__weakref__")

    def __init__(self, device: str, dtype: DType, size: int) -> None:
        self.device, self.dtype, self.size = device, dtype, size
        self.version = 0
        self._handle: Any = None
        self._owner: weakref.ref[Any] | None = None

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def handle(self) -> Any:
        if self._handle is None:
            owner = pool(self.device)
            handle = self._handle = owner.take(self.nbytes)
            weakref.finalize(self, owner.give, handle, self.nbytes).atexit = False
        return self._handle

    def claim(self, owner: object) -> bool:
        """May ``owner`` overwrite this in place? One object may, until it is gone; others read at most."""
        held = self._owner() if self._owner is not None else None
        if held is None:
            self._owner = weakref.ref(owner)
        return held is None or held is owner

    def uop(self, size: Any = None) -> UOp:
        """The leaf for what the buffer holds now: all of it, or the first ``size`` elements (a symbolic size)."""
        return UOp(Ops.BUFFER, self.dtype, (), (self, self.version, self.size if size is None else size), self.device)

    def write(self, data: np.ndarray) -> None:
        """Fill from an array of the same number of bytes."""
        if self.nbytes:
            pool(self.device).runtime.write(self.handle, np.ascontiguousarray(data).reshape(-1).view(np.uint8))

    def read(self) -> np.ndarray:
        """The contents, flat, in ``dtype.np``."""
        out = np.empty(self.size, self.dtype.np)
        if self.nbytes:
            try:
                pool(self.device).runtime.read(self.handle, out.view(np.uint8))
            except Exception as error:      # a GPU's kernels fail when somebody waits for them
                from compiler.engine import explain_later
                explain_later(error)
                raise
        return out

    def __repr__(self) -> str:
        return f"<Buffer {self.size} {self.dtype.name} on {self.device}>"
