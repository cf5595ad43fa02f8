"""Buffers of a far device: bytes that lie there, and views of them here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hcq.cluster.worker import Part
from hcq.errors import BufferError, UseAfterFreeError
from hcq.memory import Buffer

if TYPE_CHECKING:
    from hcq.cluster.device import RemoteDevice

__all__ = ["FarStorage", "RemoteBuffer"]


class FarStorage:
    """Stands for a far allocation; views share it."""

    host: bool
    ready: tuple[()] = ()

    def __init__(self, device: RemoteDevice, number: int, nbytes: int, host: bool) -> None:
        self.device, self.number, self.nbytes, self.host = device, number, nbytes, host
        self.memory: object | None = self

    def check(self) -> Any:
        if self.memory is None:
            raise UseAfterFreeError("the buffer was freed; its memory may be someone else's by now")
        return self

    @property
    def address(self) -> int:
        self.check()
        return 0

    def release(self) -> None:
        if self.memory is not None:
            self.memory = None
            self.device._dropped.append(self.number)

    def __del__(self) -> None:
        if getattr(self, "memory", None) is not None:
            self.release()


class RemoteBuffer(Buffer):
    """A buffer of a far device; :class:`hcq.Buffer`'s methods. ``address`` is not told (0)."""

    __slots__ = ()

    @property
    def view(self) -> np.ndarray:
        raise BufferError("the buffer is on another machine; use copyin and copyout")

    def __getitem__(self, part: slice) -> RemoteBuffer:
        near = super().__getitem__(part)
        return RemoteBuffer(self.device, near._storage, near._offset, near.nbytes)

    @property
    def _part(self) -> Part:
        storage: Any = self._storage.check()
        return Part(storage.number, self._offset, self._offset + self.nbytes)

    def copyin(self, array: npt.ArrayLike) -> RemoteBuffer:
        source = np.asarray(array)
        self._check_array(source, "copyin")
        if source.nbytes:
            remote: Any = self.device
            remote._method(self._part, "copyin", np.array(source, order="C"))     # a copy: the array stays the caller's
        return self

    def copyout(self, out: np.ndarray | None = None) -> np.ndarray:
        out = self._target(out)
        if out.nbytes:
            remote: Any = self.device
            part = self._part
            bytes_ = remote._method(part._replace(stop=part.start + out.nbytes), "copyout", wanted=True)
            out[...] = np.frombuffer(bytes_, np.uint8).view(out.dtype).reshape(out.shape)
        return out

    def copy_from(self, source: Buffer) -> RemoteBuffer:
        if not isinstance(source, Buffer):
            raise BufferError(f"the source is a {type(source).__name__}, expected a Buffer")
        if source.nbytes != self.nbytes:
            raise BufferError(f"copy of {source.nbytes} bytes to a buffer of {self.nbytes}; take a view of the same "
                              "size, buf[a:b]")
        remote: Any = self.device
        if source.device is self.device:
            remote._method(self._part, "copy_from", source)
        else:
            self.copyin(source.copyout())               # another machine's: through this one
        return self

    def fill(self, value: int) -> RemoteBuffer:
        if not isinstance(value, int) or not 0 <= value < 1 << 32:
            raise BufferError(f"a fill pattern is 0 to 2**32-1, not {value!r}")
        if self._offset % 4 or self.nbytes % 4:
            raise BufferError(f"fill of {self.nbytes} bytes at byte {self._offset}: both must be multiples of 4")
        remote: Any = self.device
        remote._method(self._part, "fill", value)
        return self

    def __repr__(self) -> str:
        freed = ", freed" if self._storage.memory is None else ""
        return f"RemoteBuffer({self.nbytes} bytes{freed} on {self.device.name})"
