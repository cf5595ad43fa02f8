"""A GPU as a device, through ``hcq``: whichever vendor's backend answers to the name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from compiler.render.llvm import Source, Target
from compiler.runtime import Launch, Replay

__all__ = ["HcqRuntime"]


_RUNS = 2


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

    def load(self, source: Source, code: bytes) -> Launch:
        program = self.device.program(code, source.name)
        grid, block = source.grid, source.block

        def launch(handles: Sequence[Any]) -> None:
            program(*handles, grid=grid, block=block)
        return launch

    def measure(self, source: Source, code: bytes, handles: Sequence[Any]) -> float:
        import hcq
        program = self.device.program(code, source.name)
        begin, end = self.device.signal(), self.device.signal()
        best = float("inf")
        for _ in range(_RUNS):
            queue = hcq.ComputeQueue(self.device).memory_barrier().timestamp(begin)
            queue.exec(program, handles, source.grid, source.block).memory_barrier().timestamp(end).submit().wait()
            best = min(best, float(self.device.seconds(begin, end)))
        return best

    def record(self, launches: Sequence[tuple[Launch, Sequence[Any]]], changing: Sequence[Any]) -> Replay:
        """One hcq graph: a replay is one submission."""
        names = [f"memory{n}" for n in range(len(changing))]
        with self.device.graph() as graph:
            inputs = {id(h): graph.input(name, h) for name, h in zip(names, changing, strict=True)}
            for launch, handles in launches:
                launch([inputs.get(id(h), h) for h in handles])

        def replay(new: Sequence[Any]) -> None:
            graph.replay(**dict(zip(names, new, strict=True)))
        return replay

    def synchronize(self) -> None:
        self.device.synchronize()
