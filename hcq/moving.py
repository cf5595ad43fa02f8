"""The part of a :class:`hcq.Device` that moves bytes beyond it: files, other devices, and the account of it.

The work is in ``hcq.load``, ``hcq.peer`` and ``hcq.profile``, imported when used.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hcq.errors import HcqError

if TYPE_CHECKING:
    import weakref

    from hcq.backend import Backend
    from hcq.device import Device
    from hcq.load import Via
    from hcq.load.handle import Transfer
    from hcq.memory import Buffer
    from hcq.profile import Profile

__all__ = ["Moving"]

_LAST_LOOK = 1.0            # seconds for others' engines to get past what they wait for here


class Moving:
    """Methods of :class:`hcq.Device`."""

    backend: Backend
    _peers: weakref.WeakSet[Device]

    def load(self: Any, path: str | os.PathLike[str] | None = None, offset: int = 0, nbytes: int | None = None,
             buffer: Buffer | None = None, *, blake3: bytes | str | None = None,
             progress: Callable[[int, int], object] | None = None, via: Via = "auto") -> Buffer:
        """Read a part of a file into device memory: O_DIRECT, io_uring where there is one, staging and copy engines.

        :param path: may be left out, or lead nowhere, with ``blake3``: then a file of that content is looked for in the
            folders that ``HCQ_STORE`` lists.
        :param nbytes: default: to the file's end, or as much as ``buffer`` holds.
        :param buffer: where to, from its beginning; default: a new one of the size.
        :param blake3: what the bytes' hash has to be: 32 bytes, or 64 hexadecimal digits.
        :param progress: called with (bytes done, bytes in all), from another thread.
        :param via: "staging", "window" (the CPU's view of the memory), or whichever was measured to be faster.
        :return: the buffer. It is in order with the work that is submitted afterwards.
        :raises LoadError: and its kinds: no such file, too short, shrank, refused by the system, another content.
        """
        return self.load_async(path, offset, nbytes, buffer, blake3=blake3, progress=progress, via=via).wait()

    def load_async(self: Any, path: str | os.PathLike[str] | None = None, offset: int = 0, nbytes: int | None = None,
                   buffer: Buffer | None = None, *, blake3: bytes | str | None = None,
                   progress: Callable[[int, int], object] | None = None, via: Via = "auto") -> Transfer[Buffer]:
        """:meth:`load` in a thread of its own. The result is awaitable, can be waited for, watched and cancelled."""
        from hcq import load
        return load.load(self, path, offset, nbytes, buffer, blake3=blake3, progress=progress, via=via)

    def store(self: Any, path: str | os.PathLike[str], buffer: Buffer, *,
              progress: Callable[[int, int], object] | None = None) -> bytes:
        """Write a buffer to a file, behind all earlier work. The file takes its place when it is whole on the disk.

        :return: the bytes' BLAKE3 (b"" where the package is not installed).
        :raises LoadError: the disk is full, or refuses otherwise; what was at ``path`` is still there.
        """
        return self.store_async(path, buffer, progress=progress).wait()

    def store_async(self: Any, path: str | os.PathLike[str], buffer: Buffer, *,
                    progress: Callable[[int, int], object] | None = None) -> Transfer[bytes]:
        """:meth:`store` in a thread of its own; do not change the buffer before it is done."""
        from hcq import load
        return load.store(self, path, buffer, progress=progress)

    def profile(self: Any, *others: Any, counters: Sequence[str] = (), live: float = 0,
                yields: bool = False) -> Profile:
        """``with dev.profile() as p:`` accounts for every packet submitted inside, of this and other devices.

        :param counters: names of hardware counters, as the backend knows them ("SQ_WAVES", "SQ_INSTS_ALL" ...).
        :param live: seconds between two printings of the summary so far; 0: none.
        :param yields: end where another profile of one of these devices begins, instead of being in its way.
        """
        from hcq.profile import Profile
        return Profile([self, *others], counters=counters, live=live, yields=yields)

    def _leave_peers(self) -> None:
        """This device is about to be closed: who has its memory mapped lets go of it."""
        for other in list(self._peers):
            if not other._closed:
                with suppress(HcqError):        # one that hangs keeps the mapping: its engines may still look at it
                    for point in other._fence():
                        point.wait(_LAST_LOOK)
                    other.backend.forget_peer(self.backend)     # type: ignore[attr-defined]
