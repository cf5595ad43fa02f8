"""A cache of bytes on disk: compiled kernels, by what they were compiled from.

An entry is a digest followed by the bytes; one that does not match its digest is dropped and made anew. Entries are
written whole or not at all, so any number of processes may share the directory.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import tempfile
from pathlib import Path

__all__ = ["DiskCache", "directory"]


def directory() -> Path | None:
    """Where the cache is: ``$XDG_CACHE_HOME``, or the platform's place for caches. None with ``COMPILER_CACHE=0``."""
    if os.environ.get("COMPILER_CACHE") == "0":
        return None
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "amdrv" / "kernels"
    home = Path.home()
    return (home / "Library" / "Caches" if sys.platform == "darwin" else home / ".cache") / "amdrv" / "kernels"


class DiskCache:
    """``get`` and ``put`` by key. An unusable directory costs speed, never a failure."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.hits = self.misses = self.damaged = 0

    def _file(self, key: bytes) -> Path:
        assert self.path is not None
        digest = hashlib.sha256(key).hexdigest()
        return self.path / digest[:2] / digest[2:]

    def get(self, key: bytes) -> bytes | None:
        if self.path is None:
            return None
        try:
            data = self._file(key).read_bytes()
        except OSError:
            self.misses += 1
            return None
        if len(data) < 32 or hashlib.sha256(data[32:]).digest() != data[:32]:
            self.damaged += 1
            with contextlib.suppress(OSError):
                self._file(key).unlink()
            return None
        self.hits += 1
        return data[32:]

    def put(self, key: bytes, value: bytes) -> None:
        if self.path is None:
            return
        file = self._file(key)
        temporary = None
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as out:
                temporary = out.name
                out.write(hashlib.sha256(value).digest() + value)
            os.replace(temporary, file)
        except OSError:
            if temporary is not None:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
