"""The far side: a device, the objects that the near side named, and batches of commands on them.

Knows nothing of Ray: an actor is this class with Ray around it, and tests call it directly. A command is a tuple

    ("call", result, target, method, arguments, keywords, wanted)   ("get", target, attribute)
    ("set", target, attribute, value)   ("keep", result, value)     ("drop", target)

Targets and results are numbers that the near side chose; 0 is the device. Arguments may hold :class:`Far` (an object of
the table), :class:`Part` (a range of a buffer) and :class:`Given` (the n-th array that came with the batch).
"""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = ["DEVICE", "Far", "FarError", "Given", "Outcome", "Part", "Worker"]

DEVICE = 0
_CARDS = 64             # of one machine


class Far(NamedTuple):
    number: int


class Part(NamedTuple):
    number: int
    start: int
    stop: int


class Given(NamedTuple):
    number: int


class FarError(NamedTuple):
    """What went wrong, and at which command; the rest of the batch was not done."""

    error: Exception
    command: str


class Outcome(NamedTuple):
    results: list[Any]
    error: FarError | None


class Worker:
    """Opens a device of this machine and does what it is told.

    :param device: a name for ``hcq.open`` without a number ("AM": the first card that is free), or with one, or a
        device that is open already.
    """

    def __init__(self, device: Any) -> None:
        self.device = _open(device) if isinstance(device, str) else device
        self.objects: dict[int, Any] = {DEVICE: self.device}
        self.batches = 0
        self._recording: list[Any] = []

    def describe(self) -> dict[str, Any]:
        return {"name": self.device.name, "properties": self.device.properties, "host": socket.gethostname(),
                "process": os.getpid()}

    def run(self, commands: Sequence[tuple[Any, ...]], *arrays: Any) -> Outcome:
        self.batches += 1
        results: list[Any] = []
        for command in commands:
            try:
                self._one(command, arrays, results)
            except Exception as error:
                for graph in self._recording:           # it cannot become whole any more
                    graph.__exit__(type(error), error, error.__traceback__)
                self._recording.clear()
                return Outcome(results, FarError(_sendable(error), _describe(command)))
        return Outcome(results, None)

    def _one(self, command: tuple[Any, ...], arrays: Sequence[Any], results: list[Any]) -> None:
        kind, *rest = command
        if kind == "call":
            number, target, method, arguments, keywords, wanted = rest
            if method == "__exit__" and self._object(target) not in self._recording:
                return                                  # an error ended the recording already
            act = self._queue if target == DEVICE and method == "queue" else getattr(self._object(target), method)
            value = act(*self._near(arguments, arrays),
                        **{key: self._near(each, arrays) for key, each in keywords.items()})
            if method == "__enter__":
                self._recording.append(self.objects[target])
            elif method == "__exit__":
                self._recording.remove(self.objects[target])
            if number is not None:
                self.objects[number] = value
            if wanted:
                results.append(value)
        elif kind == "get":
            results.append(getattr(self._object(rest[0]), rest[1]))
        elif kind == "set":
            setattr(self._object(rest[0]), rest[1], self._near(rest[2], arrays))
        elif kind == "keep":
            self.objects[rest[0]] = self._near(rest[1], arrays)
        elif kind == "drop":
            self.objects.pop(rest[0], None)             # not there: the command that was to make it failed
        else:
            raise ValueError(f"no command {kind!r}")

    def _near(self, value: Any, arrays: Sequence[Any]) -> Any:
        if isinstance(value, Far):
            return self._object(value.number)
        if isinstance(value, Part):
            whole = self._object(value.number)
            return whole if (value.start, value.stop) == (0, whole.nbytes) else whole[value.start:value.stop]
        if isinstance(value, Given):
            return arrays[value.number]
        if isinstance(value, (list, tuple)):
            return tuple(self._near(each, arrays) for each in value)
        return value

    def _queue(self, kind: str, index: int) -> Any:
        import hcq
        kinds = {"compute": hcq.ComputeQueue, "copy": hcq.CopyQueue, "aql": hcq.AqlQueue}
        return kinds[kind](self.device, index)

    def _object(self, number: int) -> Any:
        try:
            return self.objects[number]
        except KeyError:
            from hcq.errors import RemoteError
            raise RemoteError("it works on something that was not made, since an earlier command failed") from None

    def close(self) -> None:
        """Everything goes; the device is given back."""
        self.objects.clear()
        self._recording.clear()
        self.device.close()


def _open(name: str) -> Any:
    """The device of that name; without a number, the first that no other process has."""
    import hcq
    if ":" in name:
        return hcq.open(name)
    first: Exception | None = None
    for number in range(_CARDS):
        try:
            return hcq.open(f"{name}:{number}")
        except Exception as error:
            first = first or error
            if "busy" not in type(error).__name__.lower():      # there are no more; say what was wrong with the first
                break
    assert first is not None
    raise first


def _sendable(error: Exception) -> Exception:
    """The error itself where it survives the way, else one of the same words."""
    error.__traceback__ = error.__cause__ = error.__context__ = None
    try:
        if str(pickle.loads(pickle.dumps(error))) == str(error):
            return error
    except Exception:
        pass
    from hcq.errors import RemoteError
    return RemoteError(f"{type(error).__name__}: {error}")


def _describe(command: tuple[Any, ...]) -> str:
    kind, *rest = command
    return f"{rest[2]}" if kind == "call" else f"{kind} {rest[1] if kind in ('get', 'set') else ''}".strip()
