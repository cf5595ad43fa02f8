"""Registers of one card, by name: ``regs.GCVM_CONTEXT0_CNTL.update(enable_context=1)``.

A name is resolved once, from the tables and the base addresses of the discovery table; from then on it is an
attribute of the register file, and an access is one call of ``read32`` or ``write32``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import SupportsIndex

from amdrv.errors import RegisterError
from amdrv.regs.table import WORD, Register, Table, Value, close_names

__all__ = ["BoundRegister", "RegisterFile"]

Read32 = Callable[[int], int]
Write32 = Callable[[int, int], None]


class BoundRegister:
    """A register of one card. ``address`` is its dword index in the register BAR."""

    __slots__ = ("register", "address", "_read32", "_write32", "_merge")

    def __init__(self, register: Register, address: int, read32: Read32, write32: Write32) -> None:
        self.register = register
        self.address = address
        self._read32 = read32
        self._write32 = write32
        self._merge = register.merge

    @property
    def name(self) -> str:
        """The register's name in AMD's headers."""
        return self.register.name

    def read(self) -> Value:
        """Read it: an int that prints its fields and has them as attributes."""
        return Value(self.register, self._read32(self.address))

    def write(self, value: SupportsIndex = 0, /, **fields: SupportsIndex) -> None:
        """Write ``value`` with the named fields put into it; without ``value`` all other bits are zero.

        A keyword ``value`` is the field VALUE where the register has one.
        :raises RegisterError: an unknown field, or a value that does not fit.
        """
        if fields or type(value) is not int or not 0 <= value <= WORD:
            value = self._merge(value, fields)
        self._write32(self.address, value)

    def update(self, /, **fields: SupportsIndex) -> Value:
        """Read, change the named fields, write; returns what was written."""
        value = self._merge(self._read32(self.address), fields)
        self._write32(self.address, value)
        return Value(self.register, value)

    def __repr__(self) -> str:
        return f"<{self.name} at dword {self.address:#x}>"      # does not read: a read may have effects


class RegisterFile:
    """The registers of a card, over the tables of its IPs.

    :param read32: (dword index in the register BAR) -> value
    :param write32: (dword index, value)
    :param tables: (table, base addresses in dwords, as the discovery table has them) of each IP. Of two tables
        that hold the same name, the first is taken.
    """

    def __init__(self, read32: Read32, write32: Write32, tables: Iterable[tuple[Table, Sequence[int]]]) -> None:
        self._read32 = read32
        self._write32 = write32
        self._tables = [(table, tuple(bases)) for table, bases in tables]

    def __getattr__(self, name: str) -> BoundRegister:
        if name.startswith("_"):
            raise AttributeError(name)
        bound = self._bind(name)
        self.__dict__[name] = bound             # the next access does not come here
        return bound

    def __getitem__(self, name: str) -> BoundRegister:
        """``regs["GCVM_CONTEXT%d_CNTL" % n]``. :raises RegisterError: no such register; close ones are named."""
        found = self.__dict__.get(name)
        return found if found.__class__ is BoundRegister else getattr(self, name)

    def __contains__(self, name: str) -> bool:
        return any(name in table for table, _ in self._tables)

    def _bind(self, name: str) -> BoundRegister:
        for table, bases in self._tables:
            register = table.find(name)
            if register is not None:
                return BoundRegister(register, _address(register, table, bases), self._read32, self._write32)
        close = close_names(name, [known for table, _ in self._tables for known in table.names()])
        where = ", ".join(table.name for table, _ in self._tables)
        raise RegisterError(f"no register {name!r} in {where}; "
                            + (f"close: {', '.join(close)}" if close else "nothing has a name like it"))

    @property
    def tables(self) -> tuple[tuple[Table, tuple[int, ...]], ...]:
        """(table, base addresses in dwords) of each IP, in the order in which names are looked up."""
        return tuple(self._tables)

    def at(self, address: int) -> tuple[Register, ...]:
        """The registers at a dword index of the BAR; none where the tables know nothing there."""
        return tuple(register for table, bases in self._tables for base_idx, base in enumerate(bases)
                     if address >= base for register in table.at(base_idx, address - base))

    def __iter__(self) -> Iterator[BoundRegister]:
        """Every register that has an address on this card."""
        seen: set[str] = set()
        for table, bases in self._tables:
            for register in table:
                if register.base_idx is not None and register.base_idx < len(bases) and register.name not in seen:
                    seen.add(register.name)
                    yield BoundRegister(register, _address(register, table, bases), self._read32, self._write32)

    def __repr__(self) -> str:
        return f"<RegisterFile {' '.join(table.name for table, _ in self._tables)}>"


def _address(register: Register, table: Table, bases: Sequence[int]) -> int:
    if register.base_idx is None:
        raise RegisterError(f"{register.name} of {table.name} is an indexed register: it has no place in the register "
                            f"BAR and is reached through an index and a data register (number {register.offset:#x})")
    if register.base_idx >= len(bases):
        raise RegisterError(f"{register.name} of {table.name} is relative to base {register.base_idx}, and the "
                            f"discovery table gives {len(bases)} bases for this IP")
    return bases[register.base_idx] + register.offset
