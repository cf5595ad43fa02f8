"""A hardware block: a class whose methods stand behind registers, by name.

    class Smu(Block):
        ip = "MP1"

        @on_write("MP1_SMN_C2PMSG_66")
        def message(self, value: int) -> None: ...

        @on_read("MP1_SMN_C2PMSG_90")
        def response(self) -> int: ...

The board resolves the names once, through the generated register tables and the IP base addresses of its
discovery table, into a flat table over the register BAR. A register without a handler is plain storage; a
register without a name is a note in the board's log.

Registers that stand for many are named in ``banked`` (see :data:`mock.registers.BANKS`), values after a reset that are
not zero in ``reset_values``:

    class Mec(Block):
        banked = {"queue": ("CP_HQD_*", "CP_MQD_*"), "vmid": ("SH_MEM_CONFIG", "SH_MEM_BASES")}
        reset_values = {"CP_MEC_CNTL": 0x50000000}

        @on_write("CP_HQD_ACTIVE")
        def activate(self, value: int, name: str, bank: tuple[int, int, int]) -> None: ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

if TYPE_CHECKING:
    from mock.board import Board

__all__ = ["Block", "on_read", "on_write"]

F = TypeVar("F", bound=Callable[..., Any])


def on_write(*names: str) -> Callable[[F], F]:
    """Call the method with (value) when the driver writes one of these registers, after it was stored.

    A method with a second parameter gets the register's name too, with a third the bank (None without banks);
    a write that reaches several banks calls it for each.
    """
    def mark(function: F) -> F:
        function.__dict__.setdefault("_writes", []).extend(names)
        return function
    return mark


def on_read(*names: str) -> Callable[[F], F]:
    """The method's result is what the driver reads, instead of the stored value.

    The method takes nothing, or (name), or (name, bank).
    """
    def mark(function: F) -> F:
        function.__dict__.setdefault("_reads", []).extend(names)
        return function
    return mark


class Block:
    """Base of the blocks. ``ip`` names the discovery entry whose registers the handlers are in."""

    ip: str = ""
    banked: ClassVar[Mapping[str, tuple[str, ...]]] = MappingProxyType({})
    reset_values: ClassVar[Mapping[str, int]] = MappingProxyType({})

    def __init__(self, board: Board) -> None:
        self.board = board

    def handlers(self) -> Iterator[tuple[str, str, Callable[..., Any]]]:
        """("read" | "write", register name, bound method), in the order of definition."""
        for cls in reversed(type(self).__mro__):
            for attribute in vars(cls).values():
                for kind in ("reads", "writes"):
                    for name in getattr(attribute, "_" + kind, ()):
                        yield kind[:-1], name, attribute.__get__(self)

    def reset(self) -> None:
        """Back to the state after power-on (or a mode-1 reset).

        Called after every engine was told to abort and the registers have their reset values, in the order in which
        the board made its blocks. Not called at the board's making: ``__init__`` leaves the power-on state.
        """

    def restored(self) -> None:
        """The block's plain state and the registers became those of a snapshot: hang up again what hangs on them."""

    def stop(self) -> None:
        """Let go of the board's memory; it is being taken apart, and its engines have ended."""
