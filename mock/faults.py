"""Faults, as silicon shows them, at a moment that a test chooses.

    board.faults.inject("firmware-refused", ucode=0x12)     # until cleared
    board.faults.inject("lost-interrupt", count=1)          # the next one only
    board.faults.clear()

Each kind is a name in :data:`KINDS`, with what it takes. Blocks ask :meth:`Faults.active` where the fault would strike.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mock.board import Board

__all__ = ["Fault", "Faults", "KINDS", "register"]

KINDS: dict[str, tuple[str, frozenset[str]]] = {}
"""{kind: (what happens, names of its settings)}; :func:`register` adds to it."""


def register(kind: str, what: str, *settings: str) -> None:
    """Make a kind of fault known. A block that can show it registers it beside the code that shows it."""
    KINDS[kind] = what, frozenset(settings)


register("firmware-never-ready", "after a reset, MP0_SMN_C2PMSG_33 never says that the card's own firmware is up")
register("doorbell-lost", "a doorbell write is dropped on its way to the engine", "client")
register("lost-interrupt", "an MSI is not delivered; the IH ring has the entry all the same")
register("card-lost", "the card drops off the bus: every read returns all ones, writes go nowhere")
register("spurious-interrupt", "an MSI comes with nothing new in the IH ring; once, at injection")


@dataclass
class Fault:
    kind: str
    settings: dict[str, Any] = field(default_factory=dict)
    count: int | None = None        # how many times it strikes; None: until cleared
    struck: int = 0


class Faults:
    """``board.faults``."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def inject(self, kind: str, *, count: int | None = None, **settings: Any) -> Fault:
        """Switch a fault on, ``count`` times or until :meth:`clear`. :raises ValueError: unknown kind or setting."""
        if kind not in KINDS:
            raise ValueError(f"no fault {kind!r}; there are {', '.join(sorted(KINDS))}")
        if unknown := set(settings) - KINDS[kind][1]:
            known = ", ".join(sorted(KINDS[kind][1])) or "none"
            raise ValueError(f"fault {kind!r} has no setting {', '.join(sorted(unknown))}; its settings: {known}")
        fault = Fault(kind, settings, count)
        with self._lock:
            self._faults.append(fault)
        if kind == "card-lost":
            self._board.lost = True
            self._board.vram.vanish()
            self._board.bus.bars_changed()
        elif kind == "spurious-interrupt":
            self.strike(kind)
            self._board.raise_msi()
        return fault

    def active(self, kind: str, **wanted: Any) -> Fault | None:
        """The fault of this kind that would strike now, without using it up. A setting that the injection left out
        matches everything."""
        with self._lock:
            for fault in self._faults:
                if fault.kind == kind and all(fault.settings.get(k, v) == v for k, v in wanted.items()):
                    return fault
        return None

    def strike(self, kind: str, **wanted: Any) -> Fault | None:
        """:meth:`active`, and it counts."""
        fault = self.active(kind, **wanted)
        if fault is not None:
            with self._lock:
                fault.struck += 1
                if fault.count is not None and fault.struck >= fault.count and fault in self._faults:
                    self._faults.remove(fault)
        return fault

    def lose_interrupt(self) -> bool:
        return self.strike("lost-interrupt") is not None

    def clear(self, kind: str | None = None) -> None:
        """Switch faults off; a card that was lost answers again (it was plugged in again, without power-on)."""
        with self._lock:
            self._faults = [f for f in self._faults if kind is not None and f.kind != kind]
        if kind in (None, "card-lost") and self._board.lost:
            self._board.lost = False
            self._board.vram.return_()
            self._board.bus.bars_changed()
