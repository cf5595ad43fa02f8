"""The part of a :class:`hcq.Device` that moves bytes beyond it: files, other devices, and the account of it.

The work is in ``hcq.load``, ``hcq.peer`` and ``hcq.profile``, imported when used.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from hcq.errors import HcqError

if TYPE_CHECKING:
    import weakref

    from hcq.backend import Backend
    from hcq.device import Device

__all__ = ["Moving"]

_LAST_LOOK = 1.0            # seconds for others' engines to get past what they wait for here


class Moving:
    """Methods of :class:`hcq.Device`."""

    backend: Backend
    _peers: weakref.WeakSet[Device]

    def _leave_peers(self) -> None:
        """This device is about to be closed: who has its memory mapped lets go of it."""
        for other in list(self._peers):
            if not other._closed:
                with suppress(HcqError):        # one that hangs keeps the mapping: its engines may still look at it
                    for point in other._fence():
                        point.wait(_LAST_LOOK)
                    other.backend.forget_peer(self.backend)     # type: ignore[attr-defined]
