"""Capture files: what a recorder wrote, read as it is or while it grows.

The form is that of ``recorder.h``: a header, pointer programs, a JSON object about the run, then records, each with
blobs of the target's memory. A process that was killed in the middle of a record leaves one that is marked so: it is
left out and counted, and reading goes on behind it.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Capture", "CaptureError", "Event", "Writer", "create"]

MAGIC = b"IOSNIFF1"
HEADER = struct.Struct("<8s8QII4Q")
PATTERNS, PATTERN_BYTES = 48, 256
HEADER_BYTES = HEADER.size + PATTERNS * PATTERN_BYTES
RECORD = struct.Struct("<IIHHIIiQIiqQQQQ")
BLOB = struct.Struct("<QIHH")
RECORD_MAGIC, PENDING = 0x31534F49, 0x80000000
KINDS = {1: "ioctl", 2: "open", 3: "mmap", 4: "munmap", 5: "close", 6: "dup", 7: "fork", 8: "exec", 9: "device",
         10: "start", 11: "doorbell", 12: "dump"}
NUMBERS = {name: number for number, name in KINDS.items()}
OPTIONS = {"stack": 1, "doorbells": 2, "opens": 4, "trap-all": 8}
BEFORE, AFTER, TEXT = 0, 1, 2
MAX_CAPACITY = 1 << 40


class CaptureError(Exception):
    """No capture file, or a damaged one."""


@dataclass
class Event:
    """One record. ``before`` and ``after`` are pieces of the target's memory: (address, bytes)."""

    kind: str
    pid: int
    tid: int
    fd: int
    time: int                   # CLOCK_MONOTONIC, ns
    duration: int               # ns
    error: int                  # errno
    result: int
    numbers: tuple[int, int, int, int]
    before: list[tuple[int, bytes]] = field(default_factory=list)
    after: list[tuple[int, bytes]] = field(default_factory=list)
    text: str = ""


@dataclass
class Capture:
    """A whole capture. ``broken`` records were cut short by the death of their process; ``lost`` did not fit."""

    metadata: dict[str, Any]
    data: memoryview = field(repr=False)
    start: int = 0
    head: int = 0
    lost: int = 0
    broken: int = 0

    @classmethod
    def read(cls, path: Path | str) -> Capture:
        """:raises CaptureError: the file cannot be read, or is no capture."""
        try:
            with Path(path).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size < HEADER_BYTES:
                    raise CaptureError(f"{path}: {size} bytes are too few for a capture")
                data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError as error:
            raise CaptureError(f"{path}: {error.strerror or error}") from error
        return cls.parse(data, str(path))

    @classmethod
    def parse(cls, data: memoryview, name: str = "capture") -> Capture:
        """A capture from its bytes. :raises CaptureError: they are none."""
        if len(data) < HEADER_BYTES:
            raise CaptureError(f"{name}: {len(data)} bytes are too few for a capture")
        magic, head, _, lost, start, _, _, meta, meta_bytes, *_ = HEADER.unpack_from(data)
        if magic != MAGIC:
            raise CaptureError(f"{name}: begins with {magic!r} and not {MAGIC!r}: it is no capture of ioctl-sniff")
        if not HEADER_BYTES <= meta <= meta + meta_bytes <= start <= len(data):
            raise CaptureError(f"{name}: its header is damaged (records at {start:#x} of {len(data):#x} bytes)")
        try:
            metadata = json.loads(bytes(data[meta:meta + meta_bytes]))
        except ValueError as error:
            raise CaptureError(f"{name}: its description of the run is damaged: {error}") from error
        if not isinstance(metadata, dict):
            raise CaptureError(f"{name}: its description of the run is damaged")
        return cls(metadata, data, start, min(head, len(data)), lost)

    def __iter__(self) -> Iterator[Event]:
        """The records in the order of their times."""
        return iter(sorted(self._records(), key=lambda event: event.time))

    def _records(self) -> Iterator[Event]:
        at = self.start
        self.broken = 0
        while at + RECORD.size <= self.head:
            magic, length = struct.unpack_from("<II", self.data, at)
            size = length & ~PENDING
            if magic != RECORD_MAGIC or size < RECORD.size or size % 8 or at + size > self.head:
                self.broken += 1
                at = self._resume(at + 8)
                continue
            if length & PENDING:
                self.broken += 1
            else:
                event = self._event(at, size)
                if event is None:
                    self.broken += 1
                else:
                    yield event
            at += size

    def _resume(self, at: int) -> int:
        """The next place that looks like a record."""
        mark = RECORD_MAGIC.to_bytes(4, "little")
        step = 1 << 20
        while at < self.head:
            piece = bytes(self.data[at:min(at + step + 4, self.head)])
            found = piece.find(mark)
            while found >= 0 and (at + found) % 8:
                found = piece.find(mark, found + 1)
            if found >= 0:
                return at + found
            at += step
        return self.head

    def _event(self, at: int, size: int) -> Event | None:
        (_, _, kind, blobs, pid, tid, fd, time_, duration, error, result, *numbers) = RECORD.unpack_from(self.data, at)
        event = Event(KINDS.get(kind, f"kind {kind}"), pid, tid, fd, time_, duration, error, result,
                      (numbers[0], numbers[1], numbers[2], numbers[3]))
        place, end = at + RECORD.size, at + size
        for _ in range(blobs):
            if place + BLOB.size > end:
                return None
            address, length, phase, _ = BLOB.unpack_from(self.data, place)
            place += BLOB.size
            if place + length > end:
                return None
            content = bytes(self.data[place:place + length])
            if phase == TEXT:
                event.text = content.decode("utf-8", "replace")
            else:
                (event.after if phase == AFTER else event.before).append((address, content))
            place += (length + 7) & ~7
        return event


def create(path: Path | str, *, patterns: Sequence[str], types: Sequence[int] | None, programs: bytes,
           options: Sequence[str] = (), metadata: Mapping[str, Any] | None = None, capacity: int = 4 << 30) -> None:
    """An empty capture that recorders write into; sparse, ``capacity`` bytes at most.

    :raises CaptureError: it cannot be made.
    """
    if len(patterns) > PATTERNS:
        raise CaptureError(f"{len(patterns)} device patterns; {PATTERNS} are the most")
    if too_long := [pattern for pattern in patterns if len(pattern.encode()) >= PATTERN_BYTES]:
        raise CaptureError(f"device pattern {too_long[0]!r} is longer than {PATTERN_BYTES - 1} bytes")
    if not 1 << 16 <= capacity <= MAX_CAPACITY:
        raise CaptureError(f"a capture has between 64 KiB and {MAX_CAPACITY >> 40} TiB, not {capacity} bytes")
    said = json.dumps(dict(metadata or {})).encode()
    programs_at = HEADER_BYTES
    meta_at = programs_at + len(programs)
    start = (meta_at + len(said) + 4095) & ~4095
    bits = [0xFFFF_FFFF_FFFF_FFFF] * 4
    if types is not None:
        bits = [sum(1 << (number & 63) for number in set(types) if number >> 6 == word) for word in range(4)]
    header = HEADER.pack(MAGIC, start, max(capacity, start + 65536), 0, start, programs_at, len(programs) // 4, meta_at,
                         len(said), sum(OPTIONS[option] for option in options), len(patterns), *bits)
    body = b"".join(pattern.encode().ljust(PATTERN_BYTES, b"\0") for pattern in patterns)
    try:
        with Path(path).open("wb") as file:
            file.write((header + body).ljust(HEADER_BYTES, b"\0") + programs + said)
            file.truncate(max(capacity, start + 65536))
    except OSError as error:
        raise CaptureError(f"{path}: cannot be written: {error.strerror or error}") from error


def finish(path: Path | str) -> None:
    """Cut a capture to what was recorded."""
    with Path(path).open("r+b") as file:
        head = HEADER.unpack(file.read(HEADER.size))[1]
        if head < os.fstat(file.fileno()).st_size:
            file.truncate((head + 4095) & ~4095)


class Writer:
    """Appends records from Python (the ptrace backend), in the same form."""

    def __init__(self, path: Path | str) -> None:
        self._file = Path(path).open("r+b")  # noqa: SIM115 - closed by close()
        fields = HEADER.unpack(self._file.read(HEADER.size))
        self._head, self._capacity = fields[1], fields[2]
        self.lost = 0

    def put(self, event: Event) -> None:
        blobs = [(address, content, BEFORE) for address, content in event.before]
        blobs += [(address, content, AFTER) for address, content in event.after]
        if event.text:
            blobs.append((0, event.text.encode(), TEXT))
        body = b"".join(BLOB.pack(address, len(content), phase, 0) + content + bytes(-len(content) % 8)
                        for address, content, phase in blobs)
        length = RECORD.size + len(body)
        if self._head + length > self._capacity:
            self.lost += 1
            return
        self._file.seek(self._head)
        self._file.write(RECORD.pack(RECORD_MAGIC, length, NUMBERS[event.kind], len(blobs), event.pid, event.tid,
                                     event.fd, event.time or time.monotonic_ns(), min(event.duration, 0xFFFFFFFF),
                                     event.error, event.result, *event.numbers) + body)
        self._head += length

    def close(self) -> None:
        if self._file.closed:
            return
        self._file.seek(8)
        self._file.write(self._head.to_bytes(8, "little"))
        self._file.seek(24)
        self._file.write(self.lost.to_bytes(8, "little"))
        self._file.close()
