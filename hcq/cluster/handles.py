"""What stands here for things of a far device that have a number there: programs, signals, queues, graphs, profiles."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from hcq.backend import QueueKind
from hcq.cluster.worker import Far
from hcq.elf import CodeObject
from hcq.errors import GraphError, HcqError
from hcq.memory import Buffer
from hcq.program import Program, Size

if TYPE_CHECKING:
    from hcq.cluster.device import RemoteDevice

__all__ = ["Handle", "RemoteGraph", "RemotePoint", "RemoteProfile", "RemoteProgram", "RemoteQueue", "RemoteSignal"]


class Handle:
    """Something of the far side that has a number."""

    def __init__(self, device: RemoteDevice, number: int) -> None:
        self.device, self.number = device, number

    def __del__(self) -> None:
        device = getattr(self, "device", None)
        if device is not None:
            device._dropped.append(self.number)


class RemoteSignal(Handle):
    """See :class:`hcq.Signal`."""

    @property
    def value(self) -> int:
        return int(self.device._ask(("get", self.number, "value")))

    @value.setter
    def value(self, value: int) -> None:
        self.device._add(("set", self.number, "value", value))
        self.device.flush()

    def wait(self, value: int, timeout: float | None = None) -> None:
        self.device._method(Far(self.number), "wait", value, timeout, waits=True)


class RemotePoint(Handle):
    """The end of a submission: see :class:`hcq.Point`."""

    @property
    def done(self) -> bool:
        return bool(self.device._ask(("get", self.number, "done")))

    def wait(self, timeout: float | None = None) -> None:
        self.device._method(Far(self.number), "wait", timeout, waits=True)


class RemoteQueue(Handle):
    """A queue filled by hand: every method of :class:`hcq.ComputeQueue` or :class:`hcq.CopyQueue`."""

    def __init__(self, device: RemoteDevice, number: int, kind: QueueKind) -> None:
        super().__init__(device, number)
        self.kind = kind

    def submit(self) -> RemotePoint:
        device = self.device
        return RemotePoint(device, device._new(Far(self.number), "submit"))

    def dump(self) -> str:
        return str(self.device._method(Far(self.number), "dump", wanted=True))

    def __len__(self) -> int:
        return int(self.device._method(Far(self.number), "__len__", wanted=True))

    def __getattr__(self, name: str) -> Callable[..., RemoteQueue]:
        import hcq
        kinds = {"compute": hcq.ComputeQueue, "copy": hcq.CopyQueue, "aql": hcq.AqlQueue}
        if name.startswith("_") or not hasattr(kinds[self.kind], name):
            raise AttributeError(f"a {self.kind} queue has no {name!r}")

        def command(*arguments: Any, **keywords: Any) -> RemoteQueue:
            for buffer in _leaves(arguments):
                if isinstance(buffer, Buffer) and buffer.device is not self.device:
                    raise HcqError(f"a buffer belongs to {buffer.device.name}, the queue to {self.device.name}")
            self.device._method(Far(self.number), name, *arguments, **keywords)
            return self
        return command


class RemoteGraph(Handle):
    """See :class:`hcq.Graph`: recorded there; a replay is one command."""

    def __enter__(self) -> RemoteGraph:
        self.device._method(Far(self.number), "__enter__")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.device._method(Far(self.number), "__exit__", GraphError if kind is not None else None, None, None)

    def input(self, name: str, default: Any) -> Any:
        return Handle(self.device, self.device._new(Far(self.number), "input", name, default))

    def copy(self, destination: Any, source: Any) -> None:
        self.device._method(Far(self.number), "copy", destination, source)

    def fill(self, destination: Any, value: Any) -> None:
        self.device._method(Far(self.number), "fill", destination, value)

    def replay(self, **changed: Any) -> RemotePoint:
        return RemotePoint(self.device, self.device._new(Far(self.number), "replay", **changed))

    def __len__(self) -> int:
        return int(self.device._method(Far(self.number), "__len__", wanted=True))


class RemoteProfile(Handle):
    """See :class:`hcq.profile.Profile`: taken there, on that machine's clock."""

    def __enter__(self) -> RemoteProfile:
        self.device._method(Far(self.number), "__enter__")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.device._method(Far(self.number), "__exit__", HcqError if kind is not None else None, None, None)

    def summary(self) -> str:
        return str(self.device._method(Far(self.number), "summary", wanted=True))

    def trace(self) -> dict[str, Any]:
        found: dict[str, Any] = self.device._method(Far(self.number), "trace", wanted=True)
        return found

    @property
    def counters(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = self.device._ask(("get", self.number, "counters"))
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trace to a file here."""
        Path(path).write_text(json.dumps(self.trace()), encoding="utf-8")


class _Image:
    """What a program needs to know of a code object that is loaded elsewhere."""

    address = 0

    def __init__(self, code: CodeObject) -> None:
        self.code = code


class RemoteProgram(Program):
    """A kernel of a far device. Launches are checked here, against the code object, and run there."""

    def __init__(self, device: RemoteDevice, code: CodeObject, name: str | None, number: int) -> None:
        super().__init__(device, _Image(code), code.kernel(name))       # type: ignore[arg-type]
        self.number = number

    def __call__(self, *args: Any, grid: Size = 1, block: Size = 1, lds: int = 0) -> None:
        device: Any = self.device
        if not any(isinstance(each, Handle) for each in _leaves((args, grid, block))):     # a graph's input
            self.bind(args, grid, block, lds)
        device._method(Far(self.number), "__call__", *args, grid=grid, block=block, lds=lds)


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, (tuple, list)):
        return [leaf for part in value for leaf in _leaves(part)]
    return [value]
