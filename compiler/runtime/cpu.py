"""The host's processor as a device: NumPy arrays for memory, objects loaded by LLVM's ORC, a few threads."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np

from compiler.render.llvm import Source
from compiler.render.objects import host_target, target_machine
from compiler.runtime import Launch, Replay

__all__ = ["CpuRuntime"]

_ALIGNMENT = 64
_WORTH_A_THREAD = 1 << 17
"""Instructions, counted over all iterations, below which waking another thread costs more than it saves."""


_RUNS = 5


class CpuRuntime:
    """See :class:`compiler.runtime.Runtime`. Every call is done when it returns."""

    name = "CPU"

    def __init__(self) -> None:
        self.target = host_target()
        self._jit: Any = None
        self._threads = os.cpu_count() or 1
        self._pool: ThreadPoolExecutor | None = None
        self._loaded = 0

    def alloc(self, nbytes: int) -> np.ndarray:
        raw = np.empty(nbytes + _ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % _ALIGNMENT
        return raw[start:start + nbytes]

    def free(self, handle: np.ndarray) -> None:
        pass        # the array's own reference count does it

    def write(self, handle: np.ndarray, data: np.ndarray) -> None:
        handle[:data.size] = data

    def read(self, handle: np.ndarray, out: np.ndarray) -> None:
        out[:] = handle[:out.size]

    def load(self, source: Source, code: bytes) -> Launch:
        import llvmlite.binding as llvm
        if self._jit is None:
            self._jit = llvm.create_lljit_compiler(target_machine(self.target))
        self._loaded += 1       # a search tries one kernel in many ways, some of which come to the same code
        library = llvm.JITLibraryBuilder().add_object_img(code).export_symbol(source.name).link(
            self._jit, f"{source.name}.{self._loaded}")
        address = library[source.name]
        bound = ctypes.c_int64 if "i64 %low" in source.text else ctypes.c_int32
        function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * source.params, bound, bound)(address)
        outer = source.outer
        parts = min(self._threads, outer, max(1, source.work // _WORTH_A_THREAD))
        cuts = [outer * k // parts for k in range(parts + 1)]

        def launch(handles: Sequence[np.ndarray], library: Any = library) -> None:
            pointers = [h.ctypes.data for h in handles]
            if parts == 1:
                function(*pointers, 0, outer)
                return
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._threads)
            others = [self._pool.submit(function, *pointers, a, b) for a, b in pairwise(cuts[1:])]
            function(*pointers, 0, cuts[1])
            for other in others:
                other.result()
        return launch

    def measure(self, source: Source, code: bytes, handles: Sequence[np.ndarray]) -> float:
        launch = self.load(source, code)
        launch(handles)
        best = float("inf")
        for _ in range(_RUNS):
            start = time.perf_counter()
            launch(handles)
            best = min(best, time.perf_counter() - start)
        return best

    def record(self, launches: Sequence[tuple[Launch, Sequence[Any]]], changing: Sequence[Any]) -> Replay:
        position = {id(h): n for n, h in enumerate(changing)}
        plan = [(launch, [(position.get(id(h)), h) for h in handles]) for launch, handles in launches]

        def replay(new: Sequence[Any]) -> None:
            for launch, handles in plan:
                launch([h if n is None else new[n] for n, h in handles])
        return replay

    def synchronize(self) -> None:
        pass
