"""A GPU as a device, through ``hcq``: whichever vendor's backend answers to the name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from compiler.render.llvm import Source, Target
from compiler.runtime import Launch, Replay
from compiler.variable import evaluate

__all__ = ["HcqRuntime"]


_RUNS = 2
_NONE: Mapping[str, Any] = MappingProxyType({})


class HcqRuntime:
    """See :class:`compiler.runtime.Runtime`. Launches return at once; reads wait for what they need."""

    def __init__(self, name: str) -> None:
        import hcq
        self.name = name
        self.device: Any = hcq.open(name)
        self.target = Target("amdgcn-amd-amdhsa", self.device.properties.arch)

    def alloc(self, nbytes: int) -> Any:
        return self.device.alloc(nbytes)

    def free(self, handle: Any) -> None:
        handle.free()

    def write(self, handle: Any, data: np.ndarray) -> None:
        handle[:data.size].copyin(data)

    def read(self, handle: Any, out: np.ndarray) -> None:
        handle[:out.size].copyout(out)

    def take(self, handle: Any, source: Any, nbytes: int) -> bool:
        if isinstance(source, np.ndarray):
            return False
        handle[:nbytes].copy_from(source[:nbytes])
        return True

    def load(self, source: Source, code: bytes) -> Launch:
        program = self.device.program(code, source.name)
        grid, block, varying = source.grid, source.block, source.varying

        def launch(handles: Sequence[Any], values: Mapping[str, Any] = _NONE) -> None:
            groups = grid
            if varying is not None and _known(values):       # a recorded launch has room for all there may be
                groups = (max(1, -(-evaluate(varying, values) // block[0])), 1, 1)
            numbers = (_typed(values[name], bits) for name, bits in source.variables)
            program(*handles, *numbers, grid=groups, block=block)
        return launch

    def measure(self, source: Source, code: bytes, handles: Sequence[Any], values: Mapping[str, int] = _NONE) -> float:
        import hcq
        program = self.device.program(code, source.name)
        begin, end = self.device.signal(), self.device.signal()
        arguments = [*handles, *(_typed(values[name], bits) for name, bits in source.variables)]
        best = float("inf")
        for _ in range(_RUNS):
            queue = hcq.ComputeQueue(self.device).memory_barrier().timestamp(begin)
            queue.exec(program, arguments, source.grid, source.block).memory_barrier().timestamp(end).submit().wait()
            best = min(best, float(self.device.seconds(begin, end)))
        return best

    def timed(self, work: Callable[[], object]) -> float:
        import hcq
        begin, end = self.device.signal(), self.device.signal()
        self.device.synchronize()
        hcq.ComputeQueue(self.device).memory_barrier().timestamp(begin).submit()
        work()
        hcq.ComputeQueue(self.device).memory_barrier().timestamp(end).submit()
        self.device.synchronize()
        return float(self.device.seconds(begin, end))

    def record(self, steps: Sequence[tuple[Launch | None, Sequence[Any]]], changing: Sequence[Any],
               values: Mapping[str, int] = _NONE) -> Replay:
        """One hcq graph: a replay is one submission. The host's ends of copies are staged in memory that the engines
        reach."""
        staged: list[tuple[Any, np.ndarray, int | None, bool]] = []     # memory, array, its place among changing, in?
        position = {id(h): n for n, h in enumerate(changing)}
        names = [f"memory{n}" for n in range(len(changing))]
        with self.device.graph() as graph:
            inputs = {id(h): graph.input(name, h) for name, h in zip(names, changing, strict=True)
                      if not isinstance(h, np.ndarray)}
            given = {name: (graph.input(f"variable32 {name}", np.int32(value)),
                                 graph.input(f"variable64 {name}", np.int64(value))) for name, value in values.items()}
            for launch, handles in steps:
                mine = [inputs.get(id(h), h) for h in handles]
                if launch is not None:
                    launch(mine, given)
                    continue
                into = isinstance(handles[1], np.ndarray)
                if not into and not isinstance(handles[0], np.ndarray):     # from card to card, or on one
                    graph.copy(*mine)
                    continue
                array, other = (handles[1], mine[0]) if into else (handles[0], mine[1])
                memory = self.device.alloc(array.nbytes, host=True)
                staged.append((memory, array, position.get(id(array)), into))
                graph.copy(*((other, memory) if into else (memory, other)))
        last: list[Any] = []

        def replay(new: Sequence[Any], values: Mapping[str, int] = _NONE) -> None:
            changed: dict[str, Any] = {k: h for k, h in zip(names, new, strict=True) if not isinstance(h, np.ndarray)}
            here = [(memory, array if at is None else new[at], into) for memory, array, at, into in staged]
            if here and last:
                last.pop().wait()       # the turn before may still read what is staged
            for memory, array, into in here:
                if into:
                    memory.view[:] = array
            for name, value in values.items():
                changed |= {f"variable32 {name}": np.int32(value), f"variable64 {name}": np.int64(value)}
            done = graph.replay(**changed)
            if here:
                last.append(done)
            if any(not into for _, _, into in here):
                done.wait()
            for memory, array, into in here:
                if not into:
                    array[:] = memory.view
        return replay

    def synchronize(self) -> None:
        self.device.synchronize()


def _known(values: Mapping[str, Any]) -> bool:
    """Are these numbers, or the inputs of a graph that stand for them (in both widths)?"""
    return not any(isinstance(v, tuple) for v in values.values())


def _typed(value: Any, bits: int) -> Any:
    if isinstance(value, tuple):
        return value[bits == 64]
    return np.int64(value) if bits == 64 else np.int32(value)
