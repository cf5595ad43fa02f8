"""Devices of other machines, by Ray: ``hcq.open("AM@ray")``.

    ray start --head --resources='{"amd_gpu": 1}'           # on the first machine, with one card
    ray start --address=HEAD:6379 --resources='{"amd_gpu": 2}'      # on another, with two
    dev = hcq.open("AM@ray")                                # a card of some machine; "AM:1@ray" is another one

Needs ``pip install amdrv[cluster]`` here and there. A device is a Ray actor that takes one ``amd_gpu``; it lives as
long as the device is open, at most as long as this process. Batches of calls, and arrays through Ray's object store,
go to it; see ``hcq/cluster/device.py``. Ray's own settings for authentication and TLS hold: docs/hcq.md says which.
"""

from __future__ import annotations

import os
import re
import threading
from typing import Any

from hcq.cluster.device import RemoteDevice
from hcq.errors import UnknownDeviceError

__all__ = ["RemoteDevice", "forget", "open"]

_NAME = re.compile(r"([A-Za-z][A-Za-z0-9_]*)(?::(\d{1,4}))?@ray")
_open: dict[str, RemoteDevice] = {}
_lock = threading.Lock()


def open(name: str) -> RemoteDevice:
    """"AM@ray" or "AM:N@ray": the number tells devices apart, it is not a card's place in its machine.

    :raises UnknownDeviceError: another kind of name. :raises ClusterError: no Ray, no cluster, or no card free.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise UnknownDeviceError(f"{name!r} is no name of a far device; write a backend's name, perhaps a number, and "
                                 "@ray, as in 'AM@ray' or 'AM:1@ray'")
    key = f"{match[1].upper()}:{int(match[2] or 0)}@ray"
    with _lock:
        if key not in _open:
            from hcq.cluster.transport import RayTransport
            transport = RayTransport(match[1].upper(), timeout=float(os.environ.get("HCQ_CLUSTER_TIMEOUT", "60")))
            about: dict[str, Any] = transport.about
            _open[key] = RemoteDevice(transport, key, about["properties"])
        return _open[key]


def forget(device: RemoteDevice) -> None:
    """It was closed, or its machine died: the name may be opened again."""
    with _lock:
        for key in [key for key, other in _open.items() if other is device]:
            del _open[key]
