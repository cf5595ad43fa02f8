"""Where kernels run: one small interface, one implementation a kind of device."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from compiler.render.llvm import Source, Target

__all__ = ["Launch", "Replay", "Runtime", "canonical", "default_device", "runtime"]

class Launch(Protocol):
    """Starts a kernel on memory handles, in the order of its parameters, and with the values of its variables, by
    name."""

    def __call__(self, handles: Sequence[Any], values: Mapping[str, Any] = ..., /) -> None: ...


class Replay(Protocol):
    """Starts recorded launches again, with these handles in place of those that were named as changing, and with
    these values of all variables."""

    def __call__(self, handles: Sequence[Any], values: Mapping[str, Any] = ..., /) -> None: ...


class Runtime(Protocol):
    """A device. All work is done in the order in which it was asked for."""

    name: str
    target: Target

    def alloc(self, nbytes: int) -> Any:
        """A handle for device memory with undefined contents; ``nbytes`` is not 0."""
    def free(self, handle: Any) -> None: ...
    def write(self, handle: Any, data: np.ndarray) -> None:
        """Copy bytes (uint8, flat) to the start of device memory."""
    def read(self, handle: Any, out: np.ndarray) -> None:
        """Copy bytes (uint8, flat) from the start of device memory, after all earlier work."""
    def take(self, handle: Any, source: Any, nbytes: int) -> bool:
        """Copy from another device's memory straight to this one's, if there is a way; false if not."""
    def load(self, source: Source, code: bytes) -> Launch:
        """Make a compiled kernel ready."""
    def measure(self, source: Source, code: bytes, handles: Sequence[Any], values: Mapping[str, int] = ...) -> float:
        """Seconds that a kernel takes, by the device's clock; the least of a few runs."""
    def timed(self, work: Callable[[], object]) -> float:
        """Seconds, by the device's clock, of what ``work`` starts; waits for it, and for all that was before."""
    def record(self, steps: Sequence[tuple[Launch | None, Sequence[Any]]], changing: Sequence[Any],
               values: Mapping[str, int] = ...) -> Replay:
        """Remember launches with their handles, to be started all at once; nothing runs yet.

        :param steps: without a launch: a copy, destination first, of which one is an array of the host's. The host's
            arrays are read before anything runs, and filled in when all is done.
        :param changing: handles that every replay gives anew.
        :param values: of all variables; every replay gives them anew.
        """
    def synchronize(self) -> None: ...


_open: dict[str, Runtime] = {}


@lru_cache(None)
def canonical(device: str) -> str:
    """ "CPU", "AM" (the first), "AM:1" ... :raises ValueError: for other names."""
    if "+" in device:       # of a sharded tensor (compiler/sharding.py)
        return "+".join(canonical(d) for d in device.split("+"))
    kind, _, number = device.upper().partition(":")
    if kind == "CPU" and number in ("", "0"):
        return "CPU"
    if kind and kind.isalpha() and kind != "CPU" and (number == "" or number.isdigit()):
        return kind if number in ("", "0") else f"{kind}:{int(number)}"
    raise ValueError(f"device {device!r}: use 'CPU', or a name that hcq.open knows, such as 'AM' or 'AM:1'")


def default_device() -> str:
    """AM or KFD if the environment has ``AM=1`` or ``KFD=1``, else CPU. :raises ValueError: it has both."""
    wanted = [name for name in ("AM", "KFD") if os.environ.get(name, "0") not in ("", "0")]
    if len(wanted) > 1:
        raise ValueError("AM=1 and KFD=1 are both set; which is to be the default device? AM takes the card itself, "
                         "KFD is a card that the kernel's driver keeps")
    return wanted[0] if wanted else "CPU"


def runtime(device: str) -> Runtime:
    """The open device of this (canonical) name; opened when first asked for."""
    if (found := _open.get(device)) is None:
        if device == "CPU":
            from compiler.runtime.cpu import CpuRuntime
            found = CpuRuntime()
        else:
            from compiler.runtime.hcq import HcqRuntime
            found = HcqRuntime(device)
        _open[device] = found
    return found
