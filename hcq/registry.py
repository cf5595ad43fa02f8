"""Names to devices: ``hcq.open("AM:1")``.

Backends are found by name: the built-in table first, so that a checkout works without being installed, then the
entry-point group ``hcq.backends``. Either way the target is imported only when its device is opened.
"""

from __future__ import annotations

import atexit
import importlib
import os
import re
import threading
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import cast

from hcq.backend import Backend
from hcq.device import Device
from hcq.errors import UnknownDeviceError

__all__ = ["backends", "forget", "open"]

_BUILT_IN = {"AM": "amdrv.backend:open_backend", "KFD": "amdrv.kfd.backend:open_backend"}
_NAME = re.compile(r"([A-Za-z][A-Za-z0-9_]*)(?::(\d{1,4}))?")

_open: dict[str, Device] = {}
_lock = threading.Lock()


def backends() -> dict[str, str]:
    """{name: "module:function"} of every backend that can be opened."""
    found = {entry.name.upper(): entry.value for entry in entry_points(group="hcq.backends")}
    return found | _BUILT_IN


def _opener(name: str) -> Callable[[int], Backend]:
    target = _BUILT_IN.get(name) or backends().get(name)
    if target is None:
        raise UnknownDeviceError(f"no backend is called {name!r}; there are: {', '.join(sorted(backends()))}")
    module, _, function = target.partition(":")
    opener: Callable[[int], Backend] = getattr(importlib.import_module(module), function)
    return opener


def open(name: str | None = None) -> Device:
    """The device of that name, such as "AM:1"; "AM" is "AM:0". Opened once a process: the same name is the same device.

    "AM@ray" is a device of another machine, see ``hcq.cluster``.

    :param name: by default ``HCQ_DEVICE`` from the environment, else "AM".
    :raises UnknownDeviceError: listing the backends. What the backend raises passes through.
    """
    name = name or os.environ.get("HCQ_DEVICE") or "AM"
    if isinstance(name, str) and "@" in name:
        from hcq.cluster import open as open_far
        return cast(Device, open_far(name))         # the same methods, on another machine
    match = _NAME.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        raise UnknownDeviceError(f"{name!r} is no device name; write a backend's name and perhaps a number, as in "
                                 f"'AM' or 'AM:1'. Backends: {', '.join(sorted(backends()))}")
    backend, index = match[1].upper(), int(match[2] or 0)
    key = f"{backend}:{index}"
    with _lock:
        if key not in _open:
            device = _open[key] = Device(_opener(backend)(index))
            # At the interpreter's end every card is given back in a state from which the next boot works, and before
            # the end of what its backend registered: last in, first out.
            atexit.register(device.close)
        return _open[key]


def forget(device: Device) -> None:
    """Called by ``Device.close``: the name may be opened again."""
    with _lock:
        for key in [key for key, other in _open.items() if other is device]:
            del _open[key]
    atexit.unregister(device.close)
