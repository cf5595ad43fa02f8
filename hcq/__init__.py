"""hcq: hardware command queues for GPUs, with no vendor in it.

    dev = hcq.open("AM")                                # boots the card, or the software one
    buf = dev.alloc(4096).copyin(array)
    prog = dev.program(code_object, "kernel")
    prog(buf, np.float32(2), grid=(64,), block=(256,))  # grid in workgroups
    result = buf.copyout()                              # waits for earlier work

Below that are queues filled by hand (:class:`ComputeQueue`, :class:`CopyQueue`), signals, and graphs.
``docs/hcq.md`` is the tutorial.
"""

from hcq.device import Device
from hcq.elf import CodeObject
from hcq.errors import (
    ArgumentTypeError,
    BufferError,
    CodeObjectError,
    DeviceClosedError,
    DeviceFailedError,
    DeviceTimeout,
    GraphError,
    HcqError,
    LaunchError,
    QueueError,
    UnknownDeviceError,
    UseAfterFreeError,
)
from hcq.graph import Graph
from hcq.memory import Buffer
from hcq.peer import copies
from hcq.program import Program
from hcq.queue import ComputeQueue, CopyQueue
from hcq.registry import backends, open
from hcq.signal import Point, Signal

__all__ = [
    "ArgumentTypeError", "Buffer", "BufferError", "CodeObject", "CodeObjectError", "ComputeQueue", "CopyQueue",
    "Device", "DeviceClosedError", "DeviceFailedError", "DeviceTimeout", "Graph", "GraphError", "HcqError",
    "LaunchError", "Point", "Program", "QueueError", "Signal", "UnknownDeviceError", "UseAfterFreeError",
    "backends", "copies", "open",
]
