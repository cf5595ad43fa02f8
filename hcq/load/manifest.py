"""Manifests: which tensors lie where in which files, and their BLAKE3.

    {"version": 1, "tensors": {"layer0.weight": {"file": "a.bin", "offset": 0, "nbytes": 4096, "blake3": "ab..", ...}}}

Files are named relative to the manifest. ``dtype`` and ``shape`` are carried for whoever makes arrays of the bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hcq.errors import LoadError

if TYPE_CHECKING:
    from hcq.device import Device
    from hcq.memory import Buffer

__all__ = ["Entry", "Manifest"]

VERSION = 1
_CHUNK = 8 << 20


@dataclass(frozen=True)
class Entry:
    """One tensor's bytes."""

    file: str
    offset: int
    nbytes: int
    blake3: str                         # 64 hexadecimal digits
    dtype: str = ""
    shape: tuple[int, ...] = ()


@dataclass
class Manifest:
    """``folder`` is what the files' names are relative to."""

    entries: dict[str, Entry] = field(default_factory=dict)
    folder: Path = field(default_factory=Path)

    @classmethod
    def of(cls, path: str | os.PathLike[str], tensors: Mapping[str, Mapping[str, Any]] | None = None) -> Manifest:
        """Hash a file: as one tensor of the file's name, or the ranges of ``tensors`` (offset, nbytes, perhaps dtype
        and shape, by name). :raises LoadError: a range that leaves the file."""
        from hcq.load.files import Source
        source = Source(path, direct=False)
        try:
            if tensors is None:
                tensors = {source.path.name: {"offset": 0, "nbytes": source.size}}
            entries = {}
            for name, place in tensors.items():
                nbytes = source.range(place["offset"], place["nbytes"])
                entries[name] = Entry(source.path.name, place["offset"], nbytes,
                                      _hash(source.fd, place["offset"], nbytes), str(place.get("dtype", "")),
                                      tuple(place.get("shape", ())))
        finally:
            source.close()
        return cls(entries, source.path.parent)

    @classmethod
    def write(cls, path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], *, align: int = 4096) -> Manifest:
        """Write arrays into one file, each at a multiple of ``align``, and describe it."""
        where = Path(path)
        tensors = {}
        with where.open("wb") as out:
            for name, array in arrays.items():
                out.seek(-(-out.tell() // align) * align)
                tensors[name] = {"offset": out.tell(), "nbytes": array.nbytes, "dtype": str(array.dtype),
                                 "shape": array.shape}
                out.write(np.ascontiguousarray(array).tobytes())
        return cls.of(where, tensors)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Manifest:
        """:raises LoadError: no such file, or it is no manifest; the message says where."""
        where = Path(path)
        try:
            found = json.loads(where.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            from hcq.errors import MissingFileError
            raise MissingFileError(f"there is no manifest at {where}") from error
        except (OSError, ValueError) as error:
            raise LoadError(f"{where} is no manifest: {error}") from error
        if not isinstance(found, dict) or found.get("version") != VERSION or not isinstance(found.get("tensors"), dict):
            raise LoadError(f"{where} is no manifest of version {VERSION}: it has to be an object with version and "
                            "tensors")
        entries = {}
        for name, tensor in found["tensors"].items():
            try:
                entries[name] = Entry(str(tensor["file"]), int(tensor["offset"]), int(tensor["nbytes"]),
                                      str(tensor["blake3"]), str(tensor.get("dtype", "")),
                                      tuple(int(size) for size in tensor.get("shape", ())))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise LoadError(f"{where}: tensor {name!r} has no usable {error}; it needs file, offset, nbytes, "
                                "blake3") from error
        return cls(entries, where.parent)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON."""
        tensors = {name: {"file": entry.file, "offset": entry.offset, "nbytes": entry.nbytes, "blake3": entry.blake3,
                          **({"dtype": entry.dtype} if entry.dtype else {}),
                          **({"shape": list(entry.shape)} if entry.dtype else {})}
                   for name, entry in self.entries.items()}
        Path(path).write_text(json.dumps({"version": VERSION, "tensors": tensors}, indent=1) + "\n", encoding="utf-8")

    def merged(self, others: Iterable[Manifest]) -> Manifest:
        """One manifest of several in the same folder. :raises LoadError: a name that two of them have."""
        entries = dict(self.entries)
        for other in others:
            if twice := sorted(entries.keys() & other.entries.keys()):
                raise LoadError(f"two manifests have a tensor {twice[0]!r}")
            entries |= other.entries
        return Manifest(entries, self.folder)

    def load(self, devices: Sequence[Device], names: Iterable[str] | None = None, *,
             progress: Callable[[int, int], object] | None = None) -> dict[str, Buffer]:
        """Load tensors, dealt over the devices by size, each checked against its hash.

        :param names: which of them; default all.
        :raises LoadError: no such tensor. :raises HashMismatchError: names the tensor.
        """
        from hcq.load import Part, load_files
        wanted = list(self.entries) if names is None else list(names)
        if unknown := [name for name in wanted if name not in self.entries]:
            raise LoadError(f"the manifest has no tensor {unknown[0]!r}; it has {', '.join(self.entries) or 'none'}")
        far = [device for device in devices if not hasattr(device, "_timelines")]
        if far:                             # other machines' devices: each reads what it has there, by content
            if len(far) < len(devices):
                raise LoadError("devices of this machine and of others cannot share one load")
            return {name: device.load(self.folder / entry.file, entry.offset, entry.nbytes, blake3=entry.blake3)
                    for name, entry, device in _dealt({name: self.entries[name] for name in wanted}, far)}
        parts = [Part(self.folder / entry.file, entry.offset, entry.nbytes, blake3=entry.blake3, name=name)
                 for name, entry in ((name, self.entries[name]) for name in wanted)]
        return dict(zip(wanted, load_files(parts, devices, progress=progress), strict=True))


def _dealt(entries: Mapping[str, Entry], devices: Sequence[Device]) -> list[tuple[str, Entry, Device]]:
    """Largest first, each to the device with the fewest bytes; in the entries' order."""
    given = [0] * len(devices)
    places = {}
    for name in sorted(entries, key=lambda name: -entries[name].nbytes):
        least = given.index(min(given))
        given[least] += entries[name].nbytes
        places[name] = devices[least]
    return [(name, entry, places[name]) for name, entry in entries.items()]


def _hash(fd: int, offset: int, nbytes: int) -> str:
    from hcq.load.transfer import new_hasher
    hasher = new_hasher()
    for start in range(0, nbytes, _CHUNK):
        hasher.update(os.pread(fd, min(_CHUNK, nbytes - start), offset + start))
    return str(hasher.hexdigest())
