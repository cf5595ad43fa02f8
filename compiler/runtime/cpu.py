"""The host's processor as a device: NumPy arrays for memory, objects loaded by LLVM's ORC, a few threads."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np

from compiler.render.llvm import Source
from compiler.render.objects import host_target, target_machine
from compiler.runtime import Launch, Replay
from compiler.variable import evaluate

__all__ = ["CpuRuntime"]

_ALIGNMENT = 64
_WORTH_A_THREAD = 1 << 17
"""Instructions, counted over all iterations, below which waking another thread costs more than it saves."""


_RUNS = 5
_NONE: Mapping[str, int] = MappingProxyType({})


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

    def take(self, handle: np.ndarray, source: Any, nbytes: int) -> bool:
        if not isinstance(source, np.ndarray):
            return False
        handle[:nbytes] = source[:nbytes]
        return True

    def load(self, source: Source, code: bytes) -> Launch:
        import llvmlite.binding as llvm
        if self._jit is None:
            self._jit = llvm.create_lljit_compiler(target_machine(self.target))
        self._loaded += 1       # a search tries one kernel in many ways, some of which come to the same code
        library = llvm.JITLibraryBuilder().add_object_img(code).export_symbol(source.name).link(
            self._jit, f"{source.name}.{self._loaded}")
        address = library[source.name]
        bound = ctypes.c_int64 if "i64 %low" in source.text else ctypes.c_int32
        numbers = [ctypes.c_int64 if bits == 64 else ctypes.c_int32 for _, bits in source.variables]
        function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * source.params, *numbers, bound, bound)(address)
        names, varying = [name for name, _ in source.variables], source.varying
        wanted = max(1, source.work // _WORTH_A_THREAD)
        fixed = self._cuts(source.outer, wanted)

        def launch(handles: Sequence[np.ndarray], values: Mapping[str, int] = _NONE, library: Any = library) -> None:
            arguments = [h.ctypes.data for h in handles]
            if names:
                arguments += [values[n] for n in names]
            cuts = fixed if varying is None else self._cuts(evaluate(varying, values), wanted)
            if len(cuts) == 2:
                function(*arguments, 0, cuts[1])
                return
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._threads)
            others = [self._pool.submit(function, *arguments, a, b) for a, b in pairwise(cuts[1:])]
            function(*arguments, 0, cuts[1])
            for other in others:
                other.result()
        return launch

    def _cuts(self, outer: int, wanted: int) -> list[int]:
        """Where the threads' parts of the outermost loop begin and end."""
        parts = max(1, min(self._threads, outer, wanted))
        return [outer * k // parts for k in range(parts + 1)]

    def measure(self, source: Source, code: bytes, handles: Sequence[np.ndarray],
                values: Mapping[str, int] = _NONE) -> float:
        launch = self.load(source, code)
        launch(handles, values)
        best = float("inf")
        for _ in range(_RUNS):
            start = time.perf_counter()
            launch(handles, values)
            best = min(best, time.perf_counter() - start)
        return best

    def timed(self, work: Callable[[], object]) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    def record(self, steps: Sequence[tuple[Launch | None, Sequence[Any]]], changing: Sequence[Any],
               values: Mapping[str, int] = _NONE) -> Replay:
        position = {id(h): n for n, h in enumerate(changing)}
        plan = [(launch, [(position.get(id(h)), h) for h in handles])
                for launch, handles in steps]

        def replay(new: Sequence[Any], values: Mapping[str, int] = _NONE) -> None:
            for launch, handles in plan:
                arrays = [h if n is None else new[n] for n, h in handles]
                if launch is not None:
                    launch(arrays, values)
                else:
                    arrays[0][:] = arrays[1]
        return replay

    def synchronize(self) -> None:
        pass
