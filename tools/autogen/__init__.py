"""Makes the committed facts (``amdrv/regs/tables``, ``amdrv/facts``) from AMD's and Mesa's own sources.

A generator is a module with ``generate(sources) -> {path in the repository: bytes}``; the names of the
generators stand in :data:`GENERATORS`. Output depends on nothing but the sources' contents, so that
``python -m tools.autogen --linux DIR --mesa DIR --check`` can compare it byte for byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["GENERATORS", "Sources", "SourceError"]

GENERATORS: tuple[str, ...] = ("registers", "sdma6", "structures", "identifiers", "uapi", "kfd", "pm4")
"""Modules of this package, in the order in which they run."""


class SourceError(Exception):
    """A source tree is not there, or does not hold what a generator needs."""


@dataclass(frozen=True)
class Sources:
    """Where the facts are read from; None where the caller has no such tree."""

    linux: Path | None = None       # a Linux source tree: holds drivers/gpu/drm/amd
    mesa: Path | None = None        # a Mesa source tree: holds src/amd
    uapi: Path | None = None        # the uapi headers of Linux 6.12 or newer: holds linux/vfio.h

    def linux_file(self, path: str) -> Path:
        return _existing(self.linux, path, "Linux", "--linux")

    def mesa_file(self, path: str) -> Path:
        return _existing(self.mesa, path, "Mesa", "--mesa")

    def uapi_file(self, path: str) -> Path:
        return _existing(self.uapi, path, "Linux uapi", "--uapi")


def _existing(root: Path | None, path: str, what: str, option: str) -> Path:
    if root is None:
        raise SourceError(f"{path} is needed from a {what} source tree; name the tree with {option} DIR")
    found = root / path
    if not found.is_file():
        raise SourceError(f"{root} holds no {path}: it is not a {what} source tree, or one that is too old or too new")
    return found
