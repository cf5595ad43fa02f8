"""One ioctl on a VFIO or iommufd descriptor."""

from __future__ import annotations

import ctypes
import os
from typing import TypeVar

from amdrv.errors import HalError

__all__ = ["call", "call_with_info", "capabilities"]

S = TypeVar("S", bound=ctypes.Structure)


class _Libc:
    """libc's ioctl: Python's fcntl.ioctl copies buffers above 1 KiB and hides their addresses."""

    ioctl = None

    @classmethod
    def get(cls):  # type: ignore[no-untyped-def]
        if cls.ioctl is None:
            cls.ioctl = ctypes.CDLL(None, use_errno=True).ioctl
            cls.ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)
            cls.ioctl.restype = ctypes.c_int
        return cls.ioctl


def call(fd: int, request: int, argument: ctypes.Structure | ctypes.Array | int | None, what: str) -> int:
    """The ioctl's result.

    :param argument: a structure or array (passed by address), a number, or None.
    :param what: what is being asked for, for the error.
    :raises HalError: with ``what`` and the kernel's reason; ``__cause__`` is the OSError with its errno.
    """
    pointer = ctypes.addressof(argument) if isinstance(argument, (ctypes.Structure, ctypes.Array)) else argument or 0
    result = _Libc.get()(fd, request, pointer)
    if result < 0:
        number = ctypes.get_errno()
        raise HalError(f"{what}: {os.strerror(number)} (errno {number})") from OSError(number, os.strerror(number))
    return result


def call_with_info(fd: int, request: int, info: S, what: str) -> tuple[S, bytes]:
    """An info ioctl whose answer may carry capabilities after the structure: asked again when it wants more room.

    Returns the structure and the whole answer.
    """
    kind, size = type(info), ctypes.sizeof(info)
    info.argsz = size
    call(fd, request, info, what)
    if info.argsz <= size:
        return info, bytes(info)
    answer = (ctypes.c_uint8 * info.argsz)()
    ctypes.memmove(answer, ctypes.addressof(info), size)
    call(fd, request, answer, what)
    return kind.from_buffer_copy(answer), bytes(answer)


def capabilities(answer: bytes, first: int) -> dict[int, int]:
    """{capability id: offset in the answer} of the chain that starts at ``first``."""
    from amdrv.facts.vfio import vfio_info_cap_header
    found: dict[int, int] = {}
    offset = first
    while offset and offset + ctypes.sizeof(vfio_info_cap_header) <= len(answer) and offset not in found.values():
        header = vfio_info_cap_header.from_buffer_copy(answer, offset)
        found[header.id] = offset
        offset = header.next
    return found
