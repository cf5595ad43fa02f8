"""A device made of NumPy and threads, for the core's own logic: queues run asynchronously and in no order but theirs.

A "kernel" is a Python function of (memory, kernarg bytes, grid, block, dynamic LDS); its machine code is a number,
written into a code object by ``code_objects.build`` and looked up when the launch runs. Device memory has no view,
so everything must arrive through ``upload`` and copies; freed memory is poisoned.
"""

from __future__ import annotations

import queue
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from hcq.backend import ComputeEncoder, CopyEncoder, Kernel, Memory, Properties

BASE = 0x7F00_0000_0000
KernelFunction = Callable[["FakeBackend", bytes, list[int], list[int], int], None]

WAIT, SIGNAL, TIMESTAMP, BARRIER, EXEC, COPY, FILL = range(1, 8)
NAMES = {WAIT: "WAIT", SIGNAL: "SIGNAL", TIMESTAMP: "TIMESTAMP", BARRIER: "BARRIER", EXEC: "EXEC", COPY: "COPY",
         FILL: "FILL"}


class FakeOutOfMemory(MemoryError):
    pass


class FakeFault(RuntimeError):
    pass


def _emit(words: list[int], command: int, *operands: int) -> None:
    words.append(command | len(operands) << 8)
    for operand in operands:
        words += [operand & 0xffffffff, operand >> 32]


def _decode(words: Iterable[int]) -> list[tuple[int, list[int]]]:
    stream = iter(words)
    commands = []
    for header in stream:
        operands = [next(stream) | next(stream) << 32 for _ in range(int(header) >> 8)]
        commands.append((int(header) & 0xff, [int(operand) for operand in operands]))
    return commands


class FakeEncoder:
    def __init__(self, backend: FakeBackend) -> None:
        self.backend = backend
        self.kernels: dict[int, Kernel] = {}

    def wait(self, words: list[int], address: int, value: int) -> None:
        _emit(words, WAIT, address, value)

    def signal(self, words: list[int], address: int, value: int, *, interrupt: bool = True) -> None:
        _emit(words, SIGNAL, address, value, interrupt)

    def timestamp(self, words: list[int], address: int) -> None:
        _emit(words, TIMESTAMP, address)

    def memory_barrier(self, words: list[int]) -> None:
        _emit(words, BARRIER)

    def exec(self, words: list[int], kernel: Kernel, kernarg: int, grid: Sequence[int], block: Sequence[int],
             *, dynamic_lds: int = 0, dispatch_packet: int = 0, queue_ptr: int = 0) -> None:
        self.kernels[kernel.entry] = kernel
        _emit(words, EXEC, kernel.entry, kernarg, *grid, *block, dynamic_lds, dispatch_packet, queue_ptr)

    def copy(self, words: list[int], dst: int, src: int, nbytes: int) -> None:
        _emit(words, COPY, dst, src, nbytes)

    def fill(self, words: list[int], dst: int, value: int, nbytes: int) -> None:
        _emit(words, FILL, dst, value, nbytes)

    def describe(self, words: Sequence[int]) -> list[str]:
        return [f"{NAMES[command]} {' '.join(f'{operand:#x}' for operand in operands)}".strip()
                for command, operands in _decode(words)]


class FakeQueue:
    def __init__(self, backend: FakeBackend, kind: Literal["compute", "copy"], index: int) -> None:
        self.name, self.kind = f"{backend.name} {kind} {index}", kind
        self.backend = backend
        self.submissions: list[np.ndarray] = []
        self._mailbox: queue.Queue[np.ndarray | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def submit(self, words: np.ndarray) -> None:
        assert words.dtype == np.uint32 and words.ndim == 1
        self.submissions.append(words.copy())
        self._mailbox.put(words.copy())

    def stop(self) -> None:
        self._mailbox.put(None)
        self._thread.join(5)

    def _run(self) -> None:
        while (words := self._mailbox.get()) is not None:
            try:
                for command, operands in _decode(words.tolist()):
                    if not self._step(command, operands):
                        return
            except Exception as error:
                self.backend.fault = FakeFault(f"{self.name}: {error!r}")
                return

    def _step(self, command: int, operands: list[int]) -> bool:
        backend = self.backend
        if backend.delay:
            time.sleep(backend.delay)
        if command == WAIT:
            while backend.word(operands[0]) < operands[1]:
                if backend.closed:
                    return False
                time.sleep(1e-4)
        elif command in (SIGNAL, TIMESTAMP):
            value = operands[1] if command == SIGNAL else int(time.monotonic() * backend.properties.timestamp_hz)
            backend.at(operands[0], 8).view(np.uint64)[0] = value
            if command == SIGNAL and operands[2]:
                backend.interrupts += 1
                backend.interrupt.set()
        elif command == COPY:
            destination, source, nbytes = operands
            backend.at(destination, nbytes)[:] = backend.at(source, nbytes).copy()
        elif command == FILL:
            destination, value, nbytes = operands
            backend.at(destination, nbytes).view(np.uint32)[:] = value
        elif command == EXEC:
            entry, kernarg, *sizes = operands
            kernel = backend.encoder.kernels[entry]
            number = int(backend.at(entry, 4).view(np.uint32)[0])
            backend.launches.append((operands, kernel))
            assert kernel.private_bytes * kernel.wave_size <= backend.scratch
            backend.functions[number](backend, backend.at(kernarg, kernel.kernarg_bytes).tobytes(), sizes[0:3],
                                      sizes[3:6], sizes[6])
        return True


class FakeBackend:
    """:param functions: {number: kernel function}."""

    def __init__(self, functions: Mapping[int, KernelFunction] | None = None, *, name: str = "FAKE:0",
                 arch: str = "gfx1100", capacity: int = 64 << 20, copy_queues: int = 1, signal_bits: int = 64) -> None:
        self.name = name
        self.properties = Properties(arch, "NumPy and threads", 4, (32,), 1024, 65536, capacity, 1e8, signal_bits,
                                     shared_aperture=0x1_0000 << 32, private_aperture=0x2_0000 << 32)
        self.functions = functions or {}
        self.capacity = capacity
        whole = np.full(capacity + 4096, 0xcd, np.uint8)
        self.arena = whole[-whole.ctypes.data % 4096:][:capacity]       # page-aligned: files are read into it directly
        self.free_ranges: list[tuple[int, int]] = [(0, capacity)]
        self.live: dict[int, int] = {}
        self.launches: list[tuple[list[int], Kernel]] = []
        self.scratch = 0
        self.fault: Exception | None = None
        self.closed = False
        self.delay = 0.0                    # seconds before each command
        self.interrupt = threading.Event()
        self.interrupts = 0
        self.allocations = 0
        self.encoder = FakeEncoder(self)
        self.compute: ComputeEncoder = self.encoder
        self.copy: CopyEncoder = self.encoder
        self._queues = {"compute": [FakeQueue(self, "compute", 0)],
                        "copy": [FakeQueue(self, "copy", i) for i in range(copy_queues)]}

    def at(self, address: int, nbytes: int) -> np.ndarray:
        offset = address - BASE
        if not any(start <= offset and offset + nbytes <= start + size for start, size in list(self.live.items())):
            raise ValueError(f"{nbytes} bytes at {address:#x} are not allocated")
        return self.arena[offset:offset + nbytes]

    def word(self, address: int) -> int:
        return int(self.at(address, 8).view(np.uint64)[0])

    def alloc(self, nbytes: int, *, host: bool = False) -> Memory:
        assert nbytes > 0
        rounded = nbytes + 4095 & ~4095
        for index, (start, size) in enumerate(self.free_ranges):
            if size >= rounded:
                self.free_ranges[index] = (start + rounded, size - rounded)
                self.live[start] = rounded
                self.allocations += 1
                self.arena[start:start + rounded] = 0xcd
                view = self.arena[start:start + nbytes] if host else None
                return Memory(BASE + start, nbytes, view, host, rounded)
        raise FakeOutOfMemory(f"no room for {nbytes} bytes")

    def free(self, memory: Memory) -> None:
        start = memory.address - BASE
        size = self.live.pop(start)
        self.arena[start:start + size] = 0xdd
        self.free_ranges.append((start, size))

    def upload(self, address: int, data: np.ndarray) -> None:
        self.at(address, len(data))[:] = data

    def queues(self, kind: Literal["compute", "copy"]) -> Sequence[Any]:
        return self._queues[kind]

    def ensure_scratch(self, bytes_per_wave: int) -> None:
        self.scratch = max(self.scratch, bytes_per_wave)

    def sleep(self, timeout: float) -> None:
        if self.interrupt.wait(timeout):
            self.interrupt.clear()

    def check(self) -> None:
        if self.fault is not None:
            raise self.fault

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            for queues in self._queues.values():
                for each in queues:
                    each.stop()


def unpack(layout: str, kernarg: bytes) -> tuple[Any, ...]:
    return struct.unpack_from("<" + layout, kernarg)
