"""``reg``: registers by name, of the tables alone or of a card; read, decoded, written when asked, watched.

Without a card's discovery table nobody knows where a block's registers begin; ``search`` and ``--decode`` need no
address and so no card.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import amdrv.regs
from amdrv.errors import RegisterError
from amdrv.regs import Register, RegisterFile, Table, Value

__all__ = ["Change", "Found", "assignments", "change", "define", "document", "find", "number", "search"]


@dataclass(frozen=True)
class Found:
    """A register and the table that has it."""

    table: Table
    register: Register


@dataclass(frozen=True)
class Change:
    """A register before and after it was written; ``after`` is what it reads then, which hardware may decide."""

    before: Value
    written: int
    after: Value


def search(pattern: str) -> list[Found]:
    """Registers whose name holds a piece, or fits a shell pattern; case does not matter.

    :raises RegisterError: there is none.
    """
    found = [Found(table, register) for table in map(amdrv.regs.table, amdrv.regs.tables())
             for register in table.search(pattern)]
    if not found:
        raise RegisterError(f"no register in {', '.join(amdrv.regs.tables())} has {pattern!r} in its name")
    return found


def find(name: str) -> Found:
    """A register by name, in whichever table has it. :raises RegisterError: none has; close names are given."""
    wanted = name.upper().removeprefix("REG")
    tables = [amdrv.regs.table(each) for each in amdrv.regs.tables()]
    for table in tables:
        for candidate in (name, wanted):
            if (register := table.find(candidate)) is not None:
                return Found(table, register)
    for table in tables:
        for known in table.names():         # AMD mixes cases within names: regBIF_BX0_...
            if known.upper() == wanted:
                return Found(table, table[known])
    close = [register.name for table in tables for register in table.search(wanted)][:6]
    raise RegisterError(f"no register {name!r}; " + (f"close: {', '.join(close)}" if close
                                                    else "see amdrv-info reg search PIECE"))


def number(text: str) -> int:
    """A 32-bit value as people write it: 5, 0x5, 0b101. :raises RegisterError: it is none."""
    try:
        value = int(text, 0)
    except ValueError:
        raise RegisterError(f"{text!r} is no number; write 10, 0xa or 0b1010") from None
    if not 0 <= value < 1 << 32:
        raise RegisterError(f"{text} does not fit 32 bits")
    return value


def assignments(register: Register, words: Sequence[str]) -> tuple[int | None, dict[str, int]]:
    """``["0x10", "EN=1"]`` as (whole value or None, fields). :raises RegisterError: a word that is neither."""
    whole: int | None = None
    fields: dict[str, int] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            if whole is not None:
                raise RegisterError(f"{register.name}: two whole values, {whole:#x} and {word}")
            whole = number(word)
        else:
            field = register.field(name)
            if field.name in fields:
                raise RegisterError(f"{register.name}.{field.name} is given twice")
            fields[field.name] = number(text)
    register.merge(whole or 0, fields)          # fails here rather than halfway through a card
    return whole, fields


def change(registers: RegisterFile, register: Register, words: Sequence[str]) -> Change:
    """Write what the words say: a whole value, or fields into what the register holds."""
    whole, fields = assignments(register, words)
    bound = registers[register.name]
    before = bound.read()
    written = register.merge(int(before) if whole is None else whole, fields)
    bound.write(written)
    return Change(before, written, bound.read())


def define(found: Found) -> dict[str, Any]:
    """A register without a value, for ``--json``."""
    register = found.register
    return {"name": register.name, "table": found.table.name, "block": register.block, "base_idx": register.base_idx,
            "offset": register.offset, "default": register.default,
            "fields": [{"name": f.name, "msb": f.msb, "lsb": f.lsb} for f in register.fields]}


def document(found: Found, value: int, address: int | None = None) -> dict[str, Any]:
    """A register with a value, for ``--json``."""
    return define(found) | {"address": address, "value": value, "decoded": found.register.unpack(value)}
