"""Every error that ``hcq`` itself raises: one tree, rooted at :class:`HcqError`.

A message says what was tried, what was seen and what to do. Errors of a backend (a GPU fault, no card) have
their own tree and pass through unchanged. Where a built-in exception fits, the class is also one of those, so
that ``except ValueError`` and ``except TimeoutError`` do what a reader expects.
"""

from __future__ import annotations

__all__ = [
    "HcqError", "UnknownDeviceError", "DeviceClosedError", "DeviceFailedError", "BufferError",
    "UseAfterFreeError", "CodeObjectError", "LaunchError", "ArgumentTypeError", "QueueError", "GraphError", "RaceError",
    "DeviceTimeout", "HashMismatchError", "LoadError", "MissingFileError",
    "ClusterError", "NodeLostError", "RemoteError",
]


class HcqError(Exception):
    """Root of the errors of ``hcq``."""


class UnknownDeviceError(HcqError, ValueError):
    """No backend of that name, or a device name that cannot be read."""


class DeviceClosedError(HcqError, RuntimeError):
    """The device was closed; its buffers, programs and queues are gone with it."""


class DeviceFailedError(HcqError, RuntimeError):
    """The device reported a fault or a hang earlier; the cause is chained. Close it and open it again."""


class BufferError(HcqError, ValueError):
    """A size, range or array that does not fit the buffer."""


class UseAfterFreeError(HcqError, RuntimeError):
    """A buffer was used after ``free()``."""


class CodeObjectError(HcqError, ValueError):
    """Bytes that are no code object, a code object for another card, or a kernel that is not in it."""


class LaunchError(HcqError, ValueError):
    """A launch that the kernel or the device does not allow: argument count or size, grid, block, LDS."""


class ArgumentTypeError(LaunchError, TypeError):
    """A kernel argument of the wrong kind."""


class QueueError(HcqError, ValueError):
    """A queue command that cannot be: another device's object, a value out of range."""


class RaceError(HcqError, RuntimeError):
    """The debug mode found work on the same memory that nothing puts in order."""


class GraphError(HcqError, RuntimeError):
    """A graph was recorded or replayed in a way that it cannot be."""


class SubmissionFailedError(HcqError, RuntimeError):
    """Work that was given up when its device was recovered from a fault or a hang: it will not be done."""


class DeviceTimeout(HcqError, TimeoutError):
    """A wait expired. The message names the queue and the first submission that is not complete."""


class LoadError(HcqError, OSError):
    """Bytes could not be moved between a file and a device: the file is too short, shrank, or the system refused."""


class MissingFileError(LoadError, FileNotFoundError):
    """There is no file of that name."""


class HashMismatchError(LoadError):
    """What was loaded is not what the manifest, or the caller, expected: the content hash differs."""


class ClusterError(HcqError, RuntimeError):
    """There is no cluster to be had, or no card free in it."""


class NodeLostError(ClusterError, ConnectionError):
    """The machine that had a far device died, or cannot be reached. Its work and what it held are gone."""


class RemoteError(HcqError, RuntimeError):
    """An error of a far machine whose own class does not travel; the message begins with its name."""
