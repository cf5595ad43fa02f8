"""Files by what is in them: where on this machine the bytes with a given BLAKE3 are.

``HCQ_STORE`` lists folders (as ``PATH`` does). In them a file may be named by its own hash, 64 hexadecimal digits, and
manifests (``*.json``, see :mod:`hcq.load.manifest`) say what lies where in other files. Every machine of a cluster has
its own.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from hcq.errors import LoadError, MissingFileError

__all__ = ["Place", "find", "folders"]


class Place(NamedTuple):
    path: Path
    offset: int
    nbytes: int


def folders() -> list[Path]:
    return [Path(text) for text in os.environ.get("HCQ_STORE", "").split(os.pathsep) if text]


def find(digest: bytes) -> Place:
    """:raises MissingFileError: nowhere; the message says where was looked."""
    from hcq.load.manifest import Manifest
    name = digest.hex()
    for folder in folders():
        whole = folder / name
        if whole.is_file():
            return Place(whole, 0, whole.stat().st_size)
        for listing in sorted(folder.glob("*.json")):
            try:
                manifest = Manifest.read(listing)
            except LoadError:
                continue                    # some other JSON
            for entry in manifest.entries.values():
                if entry.blake3 == name and (manifest.folder / entry.file).is_file():
                    return Place(manifest.folder / entry.file, entry.offset, entry.nbytes)
    looked = ", ".join(map(str, folders())) or "HCQ_STORE, which names no folder"
    raise MissingFileError(f"no file has the content {name} here; looked in {looked}: for a file of that name, and in "
                           "the manifests (*.json) there")
