"""Faults, as silicon shows them, at a moment that a test chooses.

    board.faults.inject("firmware-refused", firmware="RS64_MEC")        # until cleared
    board.faults.inject("lost-interrupt", count=1)                      # the next one only
    board.faults.inject("page-fault", skip=7, count=1, client=13)       # the eighth access of SDMA0
    board.faults.inject("hung-wave", count=1, at=Moment("dispatch", 3, queue="compute 1.0.0"))
    board.faults.inject("card-lost", at=Moment("sdma-packet", 20))
    board.faults.clear()

What: a name of :data:`KINDS`, which says what happens and which settings there are. A setting that is left out matches
everything; one that is given must be equal. How often: ``count`` times, or until :meth:`Faults.clear`. When: ``skip``
lets that many opportunities of the fault itself pass; ``at`` keeps the fault asleep until the nth event of
:data:`EVENTS` has come, wherever it strikes then. Kinds that happen by themselves (a spurious interrupt, a card that is
pulled out) happen at injection, or at the moment, on the thread that met it.

Blocks ask :meth:`Faults.strike` where a fault would strike and tell :meth:`Faults.event`, both only while
:attr:`Faults.any` is true: a board without faults pays one look at an attribute.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mock.board import Board

__all__ = ["EVENTS", "Fault", "Faults", "KINDS", "Moment", "register"]

KINDS: dict[str, tuple[str, frozenset[str]]] = {}
"""{kind: (what happens, names of its settings)}; :func:`register` adds to it."""

EVENTS: dict[str, tuple[str, frozenset[str]]] = {
    "access": ("a translation that an engine asks of a hub", frozenset({"hub", "vmid", "client", "write"})),
    "dispatch": ("a launch, before its first wave", frozenset({"queue"})),
    "pm4-packet": ("a packet of a command processor, before it is executed", frozenset({"queue", "packet"})),
    "aql-packet": ("an AQL packet, before it is executed", frozenset({"queue", "packet"})),
    "sdma-packet": ("a packet of a copy engine, before it is executed", frozenset({"queue", "packet"})),
    "mes-frame": ("a frame of the scheduler's ring, before it is executed", frozenset({"opcode"})),
    "interrupt": ("an entry for the interrupt ring", frozenset({"client", "source"})),
    "doorbell": ("a doorbell that NBIO leads to a client", frozenset({"client"})),
    "smu-message": ("a message to the SMU", frozenset({"message"})),
    "psp-command": ("a command of the PSP's ring", frozenset({"command"})),
    "register-read": ("a read of the register BAR", frozenset({"dword"})),
    "register-write": ("a write to the register BAR", frozenset({"dword"})),
}
"""{event: (what is counted, names that ``where`` may ask for)}."""

AT_ONCE: dict[str, Callable[[Board, Fault], None]] = {}
"""Kinds that happen by themselves, and how."""


def register(kind: str, what: str, *settings: str, at_once: Callable[[Board, Fault], None] | None = None) -> None:
    """Make a kind of fault known. A block that can show it registers it beside the code that shows it."""
    KINDS[kind] = what, frozenset(settings)
    if at_once is not None:
        AT_ONCE[kind] = at_once


class Moment:
    """The ``nth`` event of a name of :data:`EVENTS` from now, among those whose fields are as ``where`` says."""

    def __init__(self, event: str, nth: int = 1, **where: Any) -> None:
        if event not in EVENTS:
            raise ValueError(f"no event {event!r}; there are {', '.join(sorted(EVENTS))}")
        if unknown := set(where) - EVENTS[event][1]:
            known = ", ".join(sorted(EVENTS[event][1]))
            raise ValueError(f"event {event!r} has no {', '.join(sorted(unknown))}; it has: {known}")
        if nth < 1:
            raise ValueError(f"nth={nth}: the first event is number 1")
        self.event, self.left, self.where = event, nth, where

    def __repr__(self) -> str:
        where = "".join(f", {name}={value!r}" for name, value in self.where.items())
        return f"Moment({self.event!r}, {self.left}{where})"

    def met(self, event: str, fields: dict[str, Any]) -> bool:
        """Count an event; True when it was the one."""
        if event != self.event or any(fields.get(name) != value for name, value in self.where.items()):
            return False
        self.left -= 1
        return self.left == 0


@dataclass
class Fault:
    """One fault that was injected: its kind, settings, how often it is still to happen, and how often it did."""

    kind: str
    settings: dict[str, Any] = field(default_factory=dict)
    count: int | None = None        # how many times it strikes; None: until cleared
    skip: int = 0                   # opportunities to let pass first
    at: Moment | None = None        # asleep until then; None: awake
    struck: int = 0


class Faults:
    """``board.faults``."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self.any = False
        """Is there anything to ask for?"""
        self._asleep = False

    def inject(self, kind: str, *, count: int | None = None, skip: int = 0, at: Moment | None = None,
               **settings: Any) -> Fault:
        """Switch a fault on: ``count`` times or until :meth:`clear`, after ``skip`` opportunities, from ``at`` on.

        :raises ValueError: unknown kind or setting.
        """
        if kind not in KINDS:
            raise ValueError(f"no fault {kind!r}; there are {', '.join(sorted(KINDS))}")
        if unknown := set(settings) - KINDS[kind][1]:
            known = ", ".join(sorted(KINDS[kind][1])) or "none"
            raise ValueError(f"fault {kind!r} has no setting {', '.join(sorted(unknown))}; its settings: {known}")
        if (count is not None and count < 1) or skip < 0:
            raise ValueError(f"count={count}, skip={skip}: a fault strikes at least once and skips none or more")
        fault = Fault(kind, settings, count, skip, at)
        with self._lock:
            self._faults.append(fault)
            self._changed()
        if at is None:
            self._happen(fault)
        return fault

    def event(self, event: str, **fields: Any) -> None:
        """Something of :data:`EVENTS` is about to happen: faults that wait for it wake."""
        if not self._asleep:
            return
        awake = []
        with self._lock:
            for fault in self._faults:
                if fault.at is not None and fault.at.met(event, fields):
                    fault.at = None
                    awake.append(fault)
            self._changed()
        for fault in awake:
            self._happen(fault)

    def _changed(self) -> None:
        self.any = bool(self._faults)
        self._asleep = any(fault.at is not None for fault in self._faults)

    def _happen(self, fault: Fault) -> None:
        """Kinds that happen by themselves do so; with a count they are over then."""
        act = AT_ONCE.get(fault.kind)
        if act is not None:
            fault.struck += 1
            if fault.kind not in LASTING:
                with self._lock:
                    if fault in self._faults:
                        self._faults.remove(fault)
                    self._changed()
            act(self._board, fault)

    def active(self, kind: str, **wanted: Any) -> Fault | None:
        """The fault of this kind that would strike now, without using it up. A setting that the injection left out
        matches everything."""
        with self._lock:
            return self._find(kind, wanted)

    def _find(self, kind: str, wanted: dict[str, Any]) -> Fault | None:
        for fault in self._faults:
            if fault.kind == kind and fault.at is None \
                    and all(fault.settings.get(k, v) == v for k, v in wanted.items()):
                return fault
        return None

    def strike(self, kind: str, **wanted: Any) -> Fault | None:
        """:meth:`active`, and it counts."""
        if not self.any:
            return None
        with self._lock:
            fault = self._find(kind, wanted)
            if fault is None:
                return None
            if fault.skip:
                fault.skip -= 1
                return None
            fault.struck += 1
            if fault.count is not None and fault.struck >= fault.count:
                self._faults.remove(fault)
                self._changed()
        return fault

    def lose_interrupt(self) -> bool:
        """Whether the interrupt that is about to be raised shall be lost."""
        return self.strike("lost-interrupt") is not None

    def clear(self, kind: str | None = None) -> None:
        """Switch faults off; a card that was lost answers again (it was plugged in again, without power-on)."""
        with self._lock:
            self._faults = [f for f in self._faults if kind is not None and f.kind != kind]
            self._changed()
        if kind in (None, "card-lost") and self._board.lost:
            self._board.lost = False
            self._board.vram.return_()
            self._board.bus.bars_changed()
        if kind in (None, "clock-drop"):
            self._board.smu.undrop()


LASTING = frozenset({"card-lost", "clock-drop"})
"""Kinds that happen by themselves and stay until cleared."""


def _pull_out(board: Board, fault: Fault) -> None:
    board.lost = True
    board.vram.vanish()
    board.bus.bars_changed()


def _spurious(board: Board, fault: Fault) -> None:
    for _ in range(fault.count or 1):
        board.raise_msi()


register("firmware-never-ready", "after a reset, MP0_SMN_C2PMSG_33 never says that the card's own firmware is up")
register("doorbell-lost", "a doorbell write is dropped on its way to the engine", "client")
register("lost-interrupt", "an MSI is not delivered; the IH ring has the entry all the same")
register("late-interrupt", "an MSI is delivered that many seconds later", "seconds")
register("card-lost", "the card drops off the bus: every read returns all ones, writes go nowhere", at_once=_pull_out)
register("spurious-interrupt", "an MSI comes with nothing new in the IH ring; once, at injection", at_once=_spurious)
