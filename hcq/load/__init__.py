"""Files into device memory and back, as fast as the disk.

    buf = dev.load("weights.bin")                                       # the whole file, into a new buffer
    dev.load("weights.bin", offset=4096, nbytes=1 << 20, buffer=buf)    # a part, into a buffer that is there
    transfer = dev.load_async("weights.bin", progress=print)            # the same while the program goes on
    dev.store("result.bin", buf)

    buffers = hcq.load_files([hcq.Part("a.bin"), hcq.Part("b.bin", 4096, 8192)], [dev0, dev1])  # dealt over cards
    manifest = hcq.Manifest.of("weights.bin"); manifest.save("weights.json")    # BLAKE3 of each tensor
    tensors = hcq.Manifest.read("weights.json").load([dev0, dev1])              # checked while loading

``hcq/load/transfer.py`` says how it is done.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from hcq.errors import BufferError, GraphError, LoadError
from hcq.load import content
from hcq.load.files import Output, Source
from hcq.load.handle import Transfer
from hcq.load.manifest import Entry, Manifest
from hcq.load.transfer import Job, Progress, read_files, write_file
from hcq.memory import Buffer

if TYPE_CHECKING:
    from hcq.device import Device

__all__ = ["Entry", "Manifest", "Part", "Transfer", "digest", "load", "load_files", "load_files_async", "store"]

Report = Callable[[int, int], object]
"""Called with (bytes done, bytes in all), from the transfer's thread."""
Path_ = str | os.PathLike[str]
Via = Literal["auto", "staging", "window"]


@dataclass(frozen=True)
class Part:
    """A range of a file to be loaded.

    :ivar path: may be left out, or lead nowhere, where ``blake3`` is given: then the content is looked for, in the
        folders that ``HCQ_STORE`` lists (``hcq/load/content.py``).
    :ivar nbytes: default: to the file's end.
    :ivar buffer: where to; default: a new one.
    :ivar device: where a new buffer is; default: wherever there is least to do.
    :ivar blake3: expected content hash, 32 bytes or 64 hexadecimal digits.
    """

    path: Path_ | None = None
    offset: int = 0
    nbytes: int | None = None
    buffer: Buffer | None = None
    device: Device | None = None
    blake3: bytes | str | None = None
    name: str = ""


def digest(text: bytes | str) -> bytes:
    """A BLAKE3 digest, as bytes or as hexadecimal digits. :raises LoadError: neither."""
    try:
        value = bytes.fromhex(text) if isinstance(text, str) else bytes(text)
    except (ValueError, TypeError):
        value = b""
    if len(value) != 32:
        raise LoadError(f"a BLAKE3 hash is 32 bytes, or 64 hexadecimal digits, not {text!r}")
    return value


def load_files_async(parts: Sequence[Part], devices: Sequence[Device] = (), *, progress: Report | None = None,
                     via: Via = "auto") -> Transfer[list[Buffer]]:
    """See :func:`load_files`. What can be wrong with the request is raised here, what happens later by ``wait``."""
    if via not in get_args(Via):
        raise LoadError(f"files are loaded via {', '.join(get_args(Via))}, not via {via!r}")
    parts = [_found(part) for part in parts]
    with ExitStack() as stack:
        jobs, fresh = [], []
        sources: dict[Path, Source] = {}
        sizes = []
        for part in parts:
            source = sources.get(_path(part))
            if source is None:
                source = sources[_path(part)] = Source(_path(part))
                stack.callback(source.close)
            nbytes = part.nbytes
            if nbytes is None and part.buffer is not None and source.size - part.offset > part.buffer.nbytes:
                nbytes = part.buffer.nbytes             # as much as the buffer holds
            sizes.append(source.range(part.offset, nbytes))
        places = _deal(parts, sizes, devices)
        for part, nbytes, device in zip(parts, sizes, places, strict=True):
            buffer = part.buffer
            if buffer is None:
                buffer = device.alloc(nbytes)
                fresh.append(buffer)
                stack.callback(buffer.free)
            elif buffer.nbytes < nbytes:
                raise BufferError(f"{part.path}: {nbytes} bytes do not fit a buffer of {buffer.nbytes}")
            device._check_open()
            if device._recording is not None:
                raise GraphError(f"a load moves bytes now, and {device.name} records a graph")
            jobs.append(Job(sources[_path(part)], part.offset, nbytes, buffer,
                            None if part.blake3 is None else digest(part.blake3), part.name))
        total = sum(sizes)
        counts = Progress(total, progress)
        _check_apart(jobs)
        undo = stack.pop_all()

    def work() -> list[Buffer]:
        try:
            read_files(jobs, counts, via=via)
        except BaseException:
            undo.close()                                # files, and the buffers that nobody else has seen
            raise
        undo.pop_all()
        for source in sources.values():
            source.close()
        return [job.buffer for job in jobs]

    what = str(next(iter(sources))) if len(sources) == 1 else f"{len(sources)} files"
    return Transfer(f"load of {what}", counts, work)


def load_files(parts: Sequence[Part], devices: Sequence[Device] = (), *, progress: Report | None = None,
               via: Via = "auto") -> list[Buffer]:
    """Load ranges of files, all at once; returns their buffers, in order.

    Parts that name neither a buffer nor a device are dealt over ``devices`` so that each gets about as many bytes. The
    files are read at the same time, and each device's copy engines work on its own.

    :raises LoadError: and its kinds (no such file, too short, refused, another content): then no buffer is left behind.
    """
    return load_files_async(parts, devices, progress=progress, via=via).wait()


def _found(part: Part) -> Part:
    """Where a part's bytes are: at its path, or wherever its content is."""
    if part.blake3 is None and part.path is None:
        raise LoadError("a load names a path, a content hash (blake3=), or both")
    if part.blake3 is None or (part.path is not None and Path(part.path).exists()):
        return part
    if part.path is not None and not content.folders():
        return part                                     # the plain error: there is no such file
    place = content.find(digest(part.blake3))
    return replace(part, path=place.path, offset=place.offset, nbytes=place.nbytes)


def _path(part: Part) -> Path:
    assert part.path is not None
    return Path(part.path)


def _deal(parts: Sequence[Part], sizes: Sequence[int], devices: Sequence[Device]) -> list[Device]:
    """A device for each part: its own, or the one with the fewest bytes, largest parts first."""
    if not parts:
        raise LoadError("nothing to load: no parts")
    found: dict[int, Device] = {}
    given: dict[Device, int] = dict.fromkeys(devices, 0)
    for index, (part, nbytes) in enumerate(zip(parts, sizes, strict=True)):
        own = part.buffer.device if part.buffer is not None else part.device
        if own is not None:
            found[index] = own
            given[own] = given.get(own, 0) + nbytes
    for index in sorted((i for i in range(len(parts)) if i not in found), key=lambda i: -sizes[i]):
        if not devices:
            raise LoadError(f"{parts[index].path}: no buffer and no device is named for it, and there is no list of "
                            "devices to choose from; load_files(parts, [dev])")
        device = min(devices, key=lambda each: given[each])
        found[index] = device
        given[device] += sizes[index]
    for index, device in found.items():
        if not hasattr(device, "_timelines"):
            raise LoadError(f"{parts[index].path or parts[index].name}: {device.name} is on another machine and reads "
                            "files of its own: dev.load, or a manifest's load")
    return [found[index] for index in range(len(parts))]


def _check_apart(jobs: Sequence[Job]) -> None:
    """No two jobs write the same bytes."""
    spans = sorted((id(job.buffer.device), job.buffer.address, job.nbytes, index) for index, job in enumerate(jobs))
    for (device, start, nbytes, index), (other, at, _, later) in pairwise(spans):
        if device == other and at < start + nbytes:
            raise BufferError(f"parts {min(index, later)} and {max(index, later)} load into the same bytes of "
                              f"{jobs[index].buffer!r}; they are loaded at once, so one of them would be lost")


def load(device: Device, path: Path_ | None, offset: int = 0, nbytes: int | None = None,
         buffer: Buffer | None = None, *, blake3: bytes | str | None = None, progress: Report | None = None,
         via: Via = "auto") -> Transfer[Buffer]:
    """Start one load; the methods of a device are made of it."""
    if buffer is not None and buffer.device is not device:
        raise BufferError(f"the buffer belongs to {buffer.device.name}, the load was asked of {device.name}")
    whole = load_files_async([Part(path, offset, nbytes, buffer, device, blake3)], progress=progress, via=via)
    return _First(whole)


class _First(Transfer[Buffer]):
    """One buffer's view of a transfer of many."""

    def __init__(self, whole: Transfer[list[Buffer]]) -> None:
        self._what, self._progress = whole._what, whole._progress
        self._future = _chained(whole)


def _chained(whole: Transfer[list[Buffer]]) -> Future[Buffer]:
    future: Future[Buffer] = Future()

    def finished(source: Future[list[Buffer]]) -> None:
        error = source.exception()
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(source.result()[0])
    whole._future.add_done_callback(finished)
    return future


def store(device: Device, path: Path_, buffer: Buffer, *, progress: Report | None = None) -> Transfer[bytes]:
    """Start one store. The file takes the place of what was there when it is whole, and not before; the result is its
    BLAKE3 digest, b"" where the package ``blake3`` is not installed."""
    if not isinstance(buffer, Buffer) or buffer.device is not device:
        raise BufferError(f"store takes a buffer of {device.name}, not {buffer!r}")
    device._check_open()
    if device._recording is not None:
        raise GraphError(f"a store moves bytes now, and {device.name} records a graph")
    buffer._storage.check()
    output = Output(Path(path), buffer.nbytes)
    counts = Progress(buffer.nbytes, progress)

    def work() -> bytes:
        try:
            try:
                import blake3
                hasher = blake3.blake3()
            except ImportError:
                hasher = None
            write_file(buffer, output, counts, hasher=hasher)
        except BaseException:
            output.abandon()
            raise
        output.finish()
        return hasher.digest() if hasher is not None else b""

    return Transfer(f"store to {output.path}", counts, work)
