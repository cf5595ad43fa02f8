"""Where a file's bytes are: on disk, in memory, or in a tensor on some device."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.dtypes import DType
from compiler.tensor import Tensor

__all__ = ["FileFormatError", "Source", "SourceFile", "from_bytes", "open_source"]

File = str | os.PathLike[str] | bytes | bytearray | memoryview | Tensor


class FileFormatError(ValueError):
    """A file is not what it should be. The message names the file and says where and why."""


class Source:
    """``size`` bytes that can be read in pieces. ``name`` is for messages."""

    def __init__(self, name: str, size: int) -> None:
        self.name, self.size = name, size

    def error(self, what: str) -> FileFormatError:
        return FileFormatError(f"{self.name}: {what}")

    def read(self, offset: int, nbytes: int) -> bytes:
        """:raises FileFormatError: the file ends before."""
        self._check(offset, nbytes)
        return self._array(offset, nbytes).tobytes()

    def tensor(self, offset: int, dtype: DType, shape: tuple[int, ...], device: str | None = None) -> Tensor:
        """The elements that lie at ``offset``, little-endian, in row-major order."""
        nbytes = math.prod(shape) * dtype.itemsize
        self._check(offset, nbytes)
        codes = self._array(offset, nbytes).view(dtype.np if dtype.kind != "b" else np.uint8)
        tensor = Tensor(codes, device=device)
        return _as(tensor, dtype).reshape(*shape)

    def _check(self, offset: int, nbytes: int) -> None:
        if offset < 0 or nbytes < 0 or offset + nbytes > self.size:
            raise self.error(f"{nbytes} bytes are wanted at byte {offset}, and the file has {self.size}; it is damaged "
                             "or cut off")

    def _array(self, offset: int, nbytes: int) -> np.ndarray:
        raise NotImplementedError


class _Memory(Source):
    def __init__(self, data: bytes | bytearray | memoryview, name: str = "bytes") -> None:
        self._data = np.frombuffer(data, np.uint8)
        super().__init__(name, len(self._data))

    def _array(self, offset: int, nbytes: int) -> np.ndarray:
        return self._data[offset:offset + nbytes].copy()


class _Disk(Source):
    """Read, not mapped: a file that is cut off meanwhile must be an error and not a dead process."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), path.stat().st_size)
        self._path = path

    def _array(self, offset: int, nbytes: int) -> np.ndarray:
        found = np.fromfile(self._path, np.uint8, nbytes, offset=offset)
        if len(found) < nbytes:
            raise self.error(f"the file was cut off while it was read: {len(found)} of {nbytes} bytes at {offset}")
        return found


class _Device(Source):
    """Bytes in a tensor: headers are read back, tensors are made where they are."""

    def __init__(self, data: Tensor) -> None:
        if data.ndim != 1 or data.dtype is not dtypes.uint8:
            raise TypeError(f"a file in a tensor is a one-dimensional uint8 tensor, not {data.dtype.name} of shape "
                            f"{data.shape}")
        self._data = data
        super().__init__(f"tensor on {data.device}", data.shape[0])

    def _array(self, offset: int, nbytes: int) -> np.ndarray:
        return np.asarray(self._data[offset:offset + nbytes].numpy())

    def tensor(self, offset: int, dtype: DType, shape: tuple[int, ...], device: str | None = None) -> Tensor:
        nbytes = math.prod(shape) * dtype.itemsize
        self._check(offset, nbytes)
        data = self._data[offset:offset + nbytes]
        if device is not None:
            data = data.to(device)
        return from_bytes(data, dtype).reshape(*shape)


def from_bytes(data: Tensor, dtype: DType) -> Tensor:
    """uint8[..., n * itemsize] as ``dtype``[..., n], little-endian."""
    size = dtype.itemsize
    if size > 1:
        word = dtypes.of(f"uint{8 * size}")
        parts = data.reshape(*data.shape[:-1], data.shape[-1] // size, size).cast(word)
        data = parts[..., 0]
        for i in range(1, size):
            data = data | parts[..., i] << 8 * i
    return _as(data, dtype)


def _as(codes: Tensor, dtype: DType) -> Tensor:
    if dtype.kind == "b":
        return codes != 0
    return codes if codes.dtype is dtype else codes.bitcast(dtype)


def open_source(file: File) -> Source:
    """:raises OSError: the file cannot be read.  :raises TypeError: it is no file at all."""
    if isinstance(file, Tensor):
        return _Device(file)
    if isinstance(file, bytes | bytearray | memoryview):
        return _Memory(file)
    if isinstance(file, str | os.PathLike):
        path = Path(file)
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder; the file in it is wanted")
        return _Disk(path)
    raise TypeError(f"a file is a path, bytes or a uint8 tensor, not {type(file).__name__}")


class SourceFile(io.RawIOBase):
    """A source as a file object, for the libraries that read archives."""

    def __init__(self, source: Source) -> None:
        self._source, self._at = source, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._source.size}[whence]
        if base + offset < 0:
            raise OSError(f"{self._source.name}: seek before the beginning")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._source.size - self._at))
        view[:count] = self._source.read(self._at, count)
        self._at += count
        return count
