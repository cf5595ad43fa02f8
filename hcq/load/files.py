"""Files as the loader sees them: opened past the page cache where the file system allows it, and cut into reads.

O_DIRECT wants offset, length and memory at multiples of the disk's block; :func:`cut` gives reads that are, whatever
was asked for, and says which bytes of each are wanted.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hcq.errors import LoadError, MissingFileError

__all__ = ["BLOCK", "Output", "Piece", "Source", "cut", "refusal"]

BLOCK = 4096            # what O_DIRECT's alignment is at most, on disks of today
_DIRECT = getattr(os, "O_DIRECT", 0)


def refusal(kind: type[LoadError], code: int | None, message: str) -> LoadError:
    """An error with the system's number in ``errno`` and a message of our own."""
    error = kind(message)
    error.errno = code or errno.EIO
    return error


class Piece(NamedTuple):
    """One read: ``length`` bytes at ``offset`` of the file, of which ``skip:skip + nbytes`` go to ``place``."""

    offset: int
    length: int
    skip: int
    nbytes: int
    place: int


def cut(offset: int, nbytes: int, chunk: int) -> Iterator[Piece]:
    """Reads of at most ``chunk`` bytes that cover a range of a file, every offset and length a multiple of BLOCK.

    >>> list(cut(5000, 4000, 8192))
    [Piece(offset=4096, length=8192, skip=904, nbytes=4000, place=0)]
    """
    end = offset + nbytes
    at = offset - offset % BLOCK
    while at < end:
        length = min(chunk, -(-(end - at) // BLOCK) * BLOCK)
        first, last = max(at, offset), min(at + length, end)
        yield Piece(at, length, first - at, last - first, first - offset)
        at += length


class Source:
    """A file that is read. :raises MissingFileError: there is none. :raises LoadError: not to be read."""

    def __init__(self, path: str | os.PathLike[str], *, direct: bool = True) -> None:
        self.path = Path(path)
        self.direct = bool(direct and _DIRECT)
        self.fd = self._old = -1
        try:
            self.fd = self._open()
            found = os.fstat(self.fd)
        except FileNotFoundError as error:
            raise refusal(MissingFileError, errno.ENOENT, f"there is no file to load at {self.path}; it was looked for "
                          f"from {Path.cwd()}") from error
        except OSError as error:
            raise refusal(LoadError, error.errno, f"{self.path} cannot be read: {error.strerror}") from error
        if stat.S_ISBLK(found.st_mode):
            self.size = os.lseek(self.fd, 0, os.SEEK_END)
        elif stat.S_ISREG(found.st_mode):
            self.size = found.st_size
        else:
            self.close()
            raise refusal(LoadError, errno.EINVAL, f"{self.path} is no regular file and no block device; only those "
                                                   "can be read at any offset")

    def _open(self) -> int:
        flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0)
        if self.direct:
            try:
                return os.open(self.path, flags | _DIRECT)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                    raise
                self.direct = False             # the file system has no such thing (a RAM disk, some network ones)
        return os.open(self.path, flags)

    def without_direct(self) -> int:
        """The file again, through the page cache: a read was refused for its alignment. The old one stays open."""
        self.direct = False
        self._old = self.fd
        self.fd = self._open()
        return self.fd

    def range(self, offset: int, nbytes: int | None) -> int:
        """Checks a range; returns its bytes. :raises LoadError: it leaves the file, or is empty."""
        for name, value in (("offset", offset), ("nbytes", nbytes)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise refusal(LoadError, errno.EINVAL, f"{name} is a number of bytes, not {value!r}")
        wanted = self.size - offset if nbytes is None else nbytes
        if wanted <= 0 or offset + wanted > self.size:
            raise refusal(LoadError, errno.EINVAL, f"{self.path} has {self.size} bytes; " + (
                f"{wanted} bytes from {offset} on were asked for" if nbytes is not None else
                f"nothing is left from byte {offset} on"))
        return wanted

    def close(self) -> None:
        for fd in (self.fd, self._old):
            if fd >= 0:
                os.close(fd)
        self.fd = self._old = -1


@dataclass
class Output:
    """A file that is written beside its place and put there when it is whole: what was there stays until then."""

    path: Path
    nbytes: int
    direct: bool = True

    def __post_init__(self) -> None:
        self.path = Path(self.path)
        self.part = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.part")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
        self.fd = self._old = -1
        try:
            try:
                self.fd = os.open(self.part, flags | (_DIRECT if self.direct else 0), 0o666)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP) or not self.direct:
                    raise
                with suppress(FileNotFoundError):
                    self.part.unlink()              # Linux creates it before it refuses O_DIRECT
                self.direct = False
                self.fd = os.open(self.part, flags, 0o666)
            if self.path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if hasattr(os, "posix_fallocate"):      # a full disk is told now, and not after minutes
                os.posix_fallocate(self.fd, 0, self.nbytes)
        except OSError as error:
            self.abandon()
            raise self.failure(error.errno or errno.EIO) from error
        self.direct = bool(self.direct and _DIRECT)

    def failure(self, code: int) -> LoadError:
        """What a refused write is to the caller."""
        return refusal(LoadError, code, f"{self.nbytes} bytes cannot be stored in {self.path}: {os.strerror(code)}; "
                                        "what was there is as it was, and the buffer is too")

    def without_direct(self) -> None:
        """Through the page cache from now on: a write was refused for its alignment. The old descriptor stays open."""
        if self.direct:
            self.direct = False
            self._old = self.fd
            try:
                self.fd = os.open(self.part, os.O_WRONLY | getattr(os, "O_CLOEXEC", 0))
            except OSError as error:
                raise self.failure(error.errno or errno.EIO) from error

    def finish(self) -> None:
        """The last bytes are written: cut to size, on the disk, in place."""
        try:
            os.ftruncate(self.fd, self.nbytes)
            os.fsync(self.fd)
            self._close()
            self.part.replace(self.path)
        except OSError as error:
            self.abandon()
            raise self.failure(error.errno or errno.EIO) from error

    def _close(self) -> None:
        for fd in {self.fd, self._old} - {-1}:
            os.close(fd)
        self.fd = self._old = -1

    def abandon(self) -> None:
        self._close()
        with suppress(OSError):
            self.part.unlink()
