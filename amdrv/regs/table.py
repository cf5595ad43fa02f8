"""One IP's registers: a text that is searched, not parsed.

A table keeps its file's text. Looking a register up finds its line and parses that; only iteration and reverse
lookup go through the whole. The file's form is described in ``tools/autogen/registers.py``.
"""

from __future__ import annotations

import fnmatch
import operator
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn, SupportsIndex

from amdrv.errors import RegisterError

__all__ = ["Field", "Register", "Table", "Value"]

WORD = 0xFFFFFFFF
_LINE = re.compile(r"^([A-Za-z_]\w*) [0-9i]+ [0-9a-f]", re.MULTILINE)
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Field:
    """Bits ``msb`` down to ``lsb`` of a register, both included."""

    name: str
    msb: int
    lsb: int

    @property
    def width(self) -> int:
        """Bits."""
        return self.msb - self.lsb + 1

    @property
    def mask(self) -> int:
        """The field's bits, in place."""
        return ((1 << self.width) - 1) << self.lsb

    def get(self, value: int) -> int:
        """The field's value within a register's value."""
        return (value >> self.lsb) & ((1 << self.width) - 1)


class Register:
    """Name, place and fields of one register; knows nothing of a card.

    ``offset`` is in dwords from the IP's base address number ``base_idx``; ``base_idx`` is None for an indexed
    register, which is not in the register BAR. ``block`` is the address block in AMD's header, ``default`` the
    value after reset; None where AMD publishes none for this IP.
    """

    __slots__ = ("name", "base_idx", "offset", "block", "default", "_table", "_spec", "_fields", "_by_name")

    def __init__(self, name: str, base_idx: int | None, offset: int, spec: str = "", *, block: str = "",
                 default: int | None = None, table: Table | None = None) -> None:
        self.name = name
        self.base_idx = base_idx
        self.offset = offset
        self.block = block
        self.default = default
        self._table = table
        self._spec = spec
        self._fields: tuple[Field, ...] | None = None
        self._by_name: dict[str, Field] | None = None

    @property
    def fields(self) -> tuple[Field, ...]:
        """In the order of their bits, lowest first. Empty where AMD's header names none."""
        if self._fields is None:
            if self._spec.startswith("="):
                assert self._table is not None
                self._fields = self._table[self._spec[1:]].fields
            else:
                self._fields = tuple(_field(text) for text in self._spec.split())
        return self._fields

    def field(self, name: str) -> Field:
        """A field by name; upper and lower case are the same. :raises RegisterError: there is no such field."""
        known = self._by_name
        if known is None:
            known = self._by_name = {}
            for field in self.fields:
                known[field.name] = known[field.name.lower()] = field
        found = known.get(name) or known.get(name.lower())
        if found is None:
            self._no_field(name)
        return found

    __getitem__ = field

    def __contains__(self, name: str) -> bool:
        return any(field.name.lower() == name.lower() for field in self.fields)

    def pack(self, /, **fields: SupportsIndex) -> int:
        """A value with these fields, all other bits zero."""
        return self.merge(0, fields)

    def replace(self, value: SupportsIndex, /, **fields: SupportsIndex) -> int:
        """``value`` with these fields changed and all other bits kept."""
        return self.merge(value, fields)

    def merge(self, value: SupportsIndex, fields: Mapping[str, SupportsIndex]) -> int:
        """:meth:`replace` with the fields in a mapping.

        :raises RegisterError: an unknown field, or a value that is no integer or does not fit.
        """
        try:
            word = operator.index(value)
        except TypeError:
            raise RegisterError(f"{self.name}: the value must be an integer, not {value!r}") from None
        if not 0 <= word <= WORD:
            raise RegisterError(f"{self.name}: the value {word:#x} does not fit 32 bits")
        known = self._by_name or {}
        for name, given in fields.items():
            field = known.get(name) or self.field(name)
            lsb, limit = field.lsb, (2 << (field.msb - field.lsb)) - 1
            try:
                number = operator.index(given)
            except TypeError:
                raise RegisterError(f"{self.name}.{field.name}: the value must be an integer, not {given!r}") from None
            if not 0 <= number <= limit:
                raise RegisterError(f"{self.name}.{field.name} = {number:#x} does not fit bits {field.msb}:{lsb}; "
                                    f"the largest value is {limit:#x}")
            word = word & ~(limit << lsb) | number << lsb
        return word

    def unpack(self, value: int) -> dict[str, int]:
        """Every field's value, by the field's name as AMD writes it."""
        return {field.name: field.get(value) for field in self.fields}

    def describe(self, value: int) -> str:
        """``NAME = 0x00000005 (FIELD=1, OTHER=2)``: the fields that are not zero, and bits of no field."""
        shown = [f"{field.name}={_number(field.get(value))}" for field in self.fields if field.get(value)]
        named = 0
        for field in self.fields:
            named |= field.mask
        if self.fields and value & ~named:
            shown.append(f"no field: {value & ~named:#x}")
        return f"{self.name} = {value:#010x}" + (f" ({', '.join(shown)})" if shown else "")

    def _no_field(self, name: str) -> NoReturn:
        names = [field.name for field in self.fields]
        if not names:
            raise RegisterError(f"{self.name} has no field {name!r}: AMD's header names no fields of this register")
        import difflib
        close = difflib.get_close_matches(name.upper(), names, 4, 0.5) or names
        raise RegisterError(f"{self.name} has no field {name!r}; {_choices(close)}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Register):
            return NotImplemented
        return (self.name, self.base_idx, self.offset, self.fields) == (other.name, other.base_idx, other.offset,
                                                                        other.fields)

    def __hash__(self) -> int:
        return hash((self.name, self.base_idx, self.offset))

    def __repr__(self) -> str:
        place = "indexed" if self.base_idx is None else f"base {self.base_idx}"
        fields = ", ".join(f"{f.name}={f.msb}:{f.lsb}" if f.width > 1 else f"{f.name}={f.lsb}" for f in self.fields)
        return f"<Register {self.name} {place} + {self.offset:#x}{': ' if fields else ''}{fields}>"


class Value(int):
    """A register's value: an integer that prints its fields and has them as attributes, in lower case.

    A field whose name an integer already uses (``real``) is reached as ``value["REAL"]``.
    """

    register: Register

    def __new__(cls, register: Register, value: int) -> Value:
        self = super().__new__(cls, value)
        self.register = register
        return self

    def __getitem__(self, field: str) -> int:
        return self.register.field(field).get(self)

    def __getattr__(self, name: str) -> int:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self.register.field(name).get(self)
        except RegisterError as error:
            raise AttributeError(str(error)) from None

    def fields(self) -> dict[str, int]:
        """{field: value}, as they lie in this value."""
        return self.register.unpack(self)

    def __repr__(self) -> str:
        return self.register.describe(self)

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return int.__format__(self, spec) if spec else str(self)

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)


class Table:
    """Registers by name. Iterating gives the registers themselves, in the order of AMD's header."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self._text = "\n" + text
        self.has_defaults = "\n# defaults: not published\n" not in self._text
        self._cache: dict[str, Register] = {}

    def __getitem__(self, name: str) -> Register:
        """:raises RegisterError: no such register; the message names close ones."""
        register = self.find(name)
        if register is None:
            raise RegisterError(f"{self.name} has no register {name!r}; {self._close(name)}")
        return register

    def find(self, name: str) -> Register | None:
        """The register of that name, or None."""
        found = self._cache.get(name)
        if found is None:
            at = self._text.find(f"\n{name} ") if name.isidentifier() else -1
            if at < 0:
                return None
            line = self._text[at + 1:self._text.index("\n", at + 1)]
            found = self._register(line.split(" ", 3), self._block(at))
        return found

    def _register(self, parts: list[str], block: str) -> Register:
        name, base_idx, place = parts[:3]
        register = self._cache.get(name)
        if register is None:
            offset, _, default = place.partition("~")
            register = self._cache[name] = Register(
                name, None if base_idx == "i" else int(base_idx), int(offset, 16), parts[3] if len(parts) > 3 else "",
                block=block, default=int(default or "0", 16) if self.has_defaults else None, table=self)
        return register

    def _block(self, position: int) -> str:
        at = self._text.rfind("\n## ", 0, position)
        return self._text[at + 4:self._text.index("\n", at + 1)] if at >= 0 else ""

    @cached_property
    def _all(self) -> tuple[Register, ...]:
        found = []
        block = ""
        for line in self._text.splitlines():
            if line.startswith("## "):
                block = line[3:]
            elif line and line[0] != "#":
                found.append(self._register(line.split(" ", 3), block))
        return tuple(found)

    @cached_property
    def _places(self) -> dict[tuple[int, int], tuple[Register, ...]]:
        places: dict[tuple[int, int], tuple[Register, ...]] = {}
        for register in self._all:
            if register.base_idx is not None:
                place = register.base_idx, register.offset
                places[place] = places.get(place, ()) + (register,)
        return places

    def __iter__(self) -> Iterator[Register]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.find(name) is not None

    def names(self) -> list[str]:
        """All registers' names, in the order of the table."""
        return [match[1] for match in _LINE.finditer(self._text)]

    def at(self, base_idx: int, offset: int) -> tuple[Register, ...]:
        """The registers at a place; often one, none where there is no register, several where names are aliases."""
        return self._places.get((base_idx, offset), ())

    def search(self, pattern: str) -> list[Register]:
        """Registers by name: a shell pattern (``CP_HQD_*``), or a piece of the name; case does not matter."""
        wanted = pattern if _WILD.search(pattern) else f"*{pattern}*"
        match = re.compile(fnmatch.translate(wanted), re.IGNORECASE).match
        return [self[name] for name in self.names() if match(name)]

    def _close(self, name: str) -> str:
        return _choices(close_names(name, self.names()))

    def __repr__(self) -> str:
        return f"<Table {self.name}>"


def close_names(name: str, names: list[str]) -> list[str]:
    """Up to four names that someone who wrote ``name`` may have meant."""
    wanted = name.upper().removeprefix("REG").removeprefix("MM")
    if wanted in names:
        return [wanted]
    import difflib
    return difflib.get_close_matches(wanted, names, 4, 0.7)


def _choices(names: list[str]) -> str:
    return f"close: {', '.join(names)}" if names else "nothing has a name like it"


def _field(text: str) -> Field:
    name, *bits = text.split(":")
    return Field(name, int(bits[0]), int(bits[-1]))


def _number(value: int) -> str:
    return str(value) if value < 10 else f"{value:#x}"
