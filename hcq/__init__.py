"""hcq: hardware command queues for GPUs, with no vendor in it.

    dev = hcq.open("AM")                                # boots the card, or the software one
    buf = dev.alloc(4096).copyin(array)
    prog = dev.program(code_object, "kernel")
    prog(buf, np.float32(2), grid=(64,), block=(256,))  # grid in workgroups
    result = buf.copyout()                              # waits for earlier work

Below that are queues filled by hand (:class:`ComputeQueue`, :class:`CopyQueue`, :class:`AqlQueue`), signals, graphs.
``docs/hcq.md`` is the tutorial.
"""

from hcq.device import Device
from hcq.elf import CodeObject
from hcq.errors import (
    ArgumentTypeError,
    BufferError,
    ClusterError,
    CodeObjectError,
    DeviceClosedError,
    DeviceFailedError,
    DeviceTimeout,
    GraphError,
    HashMismatchError,
    HcqError,
    LaunchError,
    LoadError,
    MissingFileError,
    NodeLostError,
    QueueError,
    RaceError,
    RemoteError,
    SubmissionFailedError,
    UnknownDeviceError,
    UseAfterFreeError,
)
from hcq.graph import Graph
from hcq.load import Manifest, Part, Transfer, load_files, load_files_async
from hcq.memory import Buffer
from hcq.occupancy import Occupancy
from hcq.peer import copies
from hcq.program import Program
from hcq.queue import AqlQueue, ComputeQueue, CopyQueue
from hcq.registry import backends, open
from hcq.signal import Point, Signal
from hcq.window import Surface

__all__ = [
    "AqlQueue", "ArgumentTypeError", "Buffer", "BufferError", "ClusterError", "CodeObject", "CodeObjectError",
    "ComputeQueue", "CopyQueue", "Device", "DeviceClosedError", "DeviceFailedError", "DeviceTimeout", "Graph",
    "GraphError", "HashMismatchError", "HcqError", "LaunchError", "LoadError", "Manifest", "MissingFileError",
    "NodeLostError", "Occupancy", "Part", "Point", "Program", "QueueError", "RaceError", "RemoteError", "Signal",
    "SubmissionFailedError", "Surface", "Transfer", "UnknownDeviceError", "UseAfterFreeError", "backends", "copies",
    "load_files", "load_files_async", "open",
]
