"""Descriptions of ioctl interfaces, and what a number means on a device.

A decoder file is what ``ioctl-sniff gen`` writes: ``ioctls`` (name, number, record), ``records``
(``[size, [[field, offset, type, extra], ...]]``: a type is ``u8`` to ``u64``, ``s``, ``f``, ``p`` (pointer), or a
record; ``extra`` is an array's length or a bit field's ``"width:lowest bit"``; a field without a name is an anonymous
record) and ``constants``. ``hints.toml`` adds what headers do not say:

=========================  =========================================================================================
``-> TYPE``                the field is an address of one TYPE
``-> TYPE[COUNT]``         ... of COUNT of them: a field beside it, a number, ``field*4``, ``field/8``
``-> TYPE{BYTES}``         ... of as many as fit in BYTES
``-> string``              ... of text that ends in a zero; ``text`` is such a text within the record
``here TYPE[COUNT]``       what follows at this place, in place of an array of length 0
``enum PREFIX``            the value is the constant of that prefix (several prefixes: apart by ``|``; ``@GROUP``: of
                           the constants that ``[name.groups]`` lists)
``flags PREFIX``           the value is an or of such constants
``hex``, ``fd``, ``dec``   how a number is printed (default: hexadecimal from 4096 on)
``case TABLE(field)``      as TYPE: the record that ``[name.cases.TABLE]`` gives for that field's value
=========================  =========================================================================================
"""

from __future__ import annotations

import fnmatch
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

__all__ = ["Abi", "AbiError", "Field", "Hint", "Ioctl", "Library", "Record", "builtin", "load"]

HERE = Path(__file__).parent
SCALAR = re.compile(r"([usfp])(8|16|32|64)\Z")


class AbiError(Exception):
    """A decoder file, or a hint in it, that cannot be used."""


@dataclass(frozen=True)
class Length:
    """``field*multiply/divide + add`` of the record that holds it, or a number (``field`` is "")."""

    field: str = ""
    multiply: int = 1
    divide: int = 1
    add: int = 0

    def of(self, values: Mapping[str, Any]) -> int:
        """The length for these field values; 0 where the field is not there."""
        base = values.get(self.field, 0) if self.field else 1
        return max(0, (int(base) if isinstance(base, int) else 0) * self.multiply // self.divide + self.add)


@dataclass(frozen=True)
class Hint:
    kind: str                       # "pointer", "here", "enum", "flags", "string", "text", "hex", "fd", "dec"
    type: str = ""                  # of what is pointed at; of enum and flags: the prefixes
    length: Length = Length()
    in_bytes: bool = False
    case: str = ""                  # the field that chooses; ``type`` is then the table's name


@dataclass(frozen=True)
class Field:
    name: str                       # "" for an anonymous record, whose fields are its holder's
    offset: int
    type: str
    count: int | None = None        # of an array
    bits: tuple[int, int] | None = None     # width, lowest bit
    hint: Hint | None = None

    @property
    def width(self) -> int:
        """Bytes of one scalar; 0 for a record."""
        found = SCALAR.match(self.type)
        return int(found[2]) // 8 if found else 0


@dataclass(frozen=True)
class Record:
    name: str
    size: int
    fields: tuple[Field, ...]


@dataclass(frozen=True)
class Ioctl:
    name: str
    number: int
    record: str                     # a record, a scalar such as "s32", "" for no argument or a plain value
    abi: Abi = field(repr=False, compare=False)
    devices: tuple[str, ...] = ()   # where the number means this, when not on all of the interface's devices


_POINTER = re.compile(r"(->|here)\s*(?:case\s+(\w+)\((\w+)\)|([\w:]+))\s*(?:([\[{])([^\]}]+)[\]}])?\Z")
_LENGTH = re.compile(r"([A-Za-z_]\w*)?\s*(?:\*\s*(\d+))?\s*(?:/\s*(\d+))?\s*([+-]\s*\d+)?\Z")


def parse_hint(text: str) -> Hint:
    """One hint. :raises AbiError: it is none."""
    word, _, rest = text.strip().partition(" ")
    if word in ("enum", "flags"):
        return Hint(word, rest.strip())
    if word in ("hex", "fd", "dec", "text"):
        return Hint(word)
    found = _POINTER.match(text.strip())
    if not found:
        raise AbiError(f"hint {text!r} is not understood")
    kind = "pointer" if found[1] == "->" else "here"
    if found[4] == "string":
        return Hint("string")
    length = parse_length(found[6]) if found[6] else Length(add=1, multiply=0)
    return Hint(kind, found[2] or found[4], length, found[5] == "{", found[3] or "")


def parse_length(text: str) -> Length:
    if text.strip().isdigit():
        return Length(multiply=0, add=int(text))
    found = _LENGTH.match(text.strip())
    if not found or not found[1]:
        raise AbiError(f"length {text!r} is not understood; write field, field*4, field/8 or a number")
    return Length(found[1], int(found[2] or 1), int(found[3] or 1), int((found[4] or "0").replace(" ", "")))


class Abi:
    """One interface. :raises AbiError: the description is damaged."""

    def __init__(self, description: Mapping[str, Any], hints: Mapping[str, Any] | None = None) -> None:
        hints = hints or {}
        try:
            self.name = str(description["name"])
            self.source = str(description.get("source", ""))
            self.devices = tuple(description["devices"]) or ("*",)
            self.constants: dict[str, int] = dict(description["constants"])
            self._cases = {table: {self._value(key): record for key, record in entries.items()}
                           for table, entries in hints.get("cases", {}).items()}
            named: Mapping[str, str] = hints.get("fields", {})
            self.records = {name: Record(name, size, tuple(self._field(name, raw, named) for raw in fields))
                            for name, (size, fields) in description["records"].items()}
            for name, (size, fields) in hints.get("records", {}).items():
                self.records[name] = Record(name, size, tuple(self._field(name, raw, named) for raw in fields))
            self._groups: Mapping[str, Sequence[str]] = hints.get("groups", {})
            self.sized: dict[str, str] = hints.get("sized", {})     # ioctl (pattern) -> "first": its first word
            arguments: Mapping[str, str] = hints.get("arguments", {})
            only: Mapping[str, Sequence[str]] = hints.get("only", {})
            self.ioctls: list[Ioctl] = []
            listed = {name: (number, record) for name, number, record in description["ioctls"]}
            for name in hints.get("ioctls", ()):
                listed.setdefault(name, (self.constants[name], ""))
            for name, (number, record) in listed.items():
                devices = next((tuple(paths) for pattern, paths in only.items() if fnmatch.fnmatch(name, pattern)), ())
                self.ioctls.append(Ioctl(name, number, arguments.get(name, record), self, devices))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise AbiError(f"decoder {description.get('name', '?') if isinstance(description, Mapping) else '?'}: "
                           f"{type(error).__name__}: {error}") from error

    def _value(self, key: str) -> int:
        return self.constants[key] if key in self.constants else int(key, 0)

    def _field(self, record: str, raw: Sequence[Any], hints: Mapping[str, str]) -> Field:
        name, offset, kind = raw[0], int(raw[1]), str(raw[2])
        extra = raw[3] if len(raw) > 3 else None
        bits = None
        if isinstance(extra, str):
            width, _, low = extra.partition(":")
            bits, extra = (int(width), int(low)), None
        text = hints.get(f"{record}.{name}") or hints.get(f"*.{name}")
        return Field(name, offset, kind, extra, bits, parse_hint(text) if text else None)

    def record(self, name: str) -> Record | None:
        return self.records.get(name)

    def size_of(self, kind: str) -> int:
        """Bytes of a type; 0 where it is not known."""
        found = SCALAR.match(kind)
        if found:
            return int(found[2]) // 8
        if kind == "bytes":
            return 1
        record = self.records.get(kind)
        return record.size if record else 0

    def case(self, table: str, value: int) -> str:
        """The record that a table gives for a value, "" for none."""
        return str(self._cases.get(table, {}).get(value, ""))

    def cases(self, table: str) -> list[str]:
        return list(self._cases.get(table, {}).values())

    def size_by_first_word(self, ioctl: Ioctl) -> bool:
        return any(fnmatch.fnmatch(ioctl.name, pattern) for pattern in self.sized)

    @cached_property
    def _by_prefix(self) -> dict[str, dict[int, str]]:
        return {}

    def names(self, prefixes: str) -> dict[int, str]:
        """{value: constant} of the constants with these prefixes."""
        found = self._by_prefix.get(prefixes)
        if found is None:
            wanted = tuple(prefixes.split("|"))
            found = {}
            for name in self._groups.get(prefixes[1:], ()) if prefixes.startswith("@") else ():
                found.setdefault(self.constants[name], name)
            for name, value in self.constants.items():
                if name.startswith(wanted) and not name.endswith(("_SHIFT", "_MASK", "_LAST", "_MAX", "_NUM")):
                    found.setdefault(value, name)
            self._by_prefix[prefixes] = found
        return found


class Library:
    """Interfaces, and the one that a number on a device belongs to."""

    def __init__(self, abis: Sequence[Abi]) -> None:
        self.abis = list(abis)
        self._found: dict[tuple[str, int], Ioctl | None] = {}
        self._by_number: dict[int, list[Ioctl]] = {}
        for abi in self.abis:
            for ioctl in abi.ioctls:
                self._by_number.setdefault(ioctl.number & 0xFFFF, []).append(ioctl)

    def find(self, device: str, request: int) -> Ioctl | None:
        """The ioctl of a number on a device; "" as device: whatever fits first.

        The size and direction in a number may differ from the header's: kernels accept older and newer structures.
        """
        key = device, request
        if key not in self._found:
            self._found[key] = self._find(device, request)
        return self._found[key]

    def _find(self, device: str, request: int) -> Ioctl | None:
        fitting = [ioctl for ioctl in self._by_number.get(request & 0xFFFF, ()) if fits(ioctl, device)]
        exact = [ioctl for ioctl in fitting if ioctl.number == request]
        # a full number (with direction and size) that differs in the size only, or a plain one
        return (exact or fitting or [None])[0]      # type: ignore[list-item]

    def devices(self) -> list[str]:
        """Path patterns of all interfaces, each once."""
        return list(dict.fromkeys(pattern for abi in self.abis for pattern in abi.devices))

    def abi(self, name: str) -> Abi:
        for abi in self.abis:
            if abi.name == name:
                return abi
        raise AbiError(f"no decoder {name!r}; there are {', '.join(abi.name for abi in self.abis)}")


def fits(ioctl: Ioctl, device: str) -> bool:
    return not device or any(fnmatch.fnmatchcase(device, pattern) for pattern in ioctl.devices or ioctl.abi.devices)


def load(path: Path | str) -> Abi:
    """A decoder file that ``ioctl-sniff gen`` wrote. :raises AbiError: it cannot be read or is none."""
    try:
        description = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise AbiError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise AbiError(f"{path}: is no JSON: {error}") from error
    if not isinstance(description, dict):
        raise AbiError(f"{path}: is no decoder (an object with name, devices, ioctls, records, constants)")
    return Abi(description, description.get("hints"))


@cache
def hints() -> dict[str, Any]:
    with (HERE / "hints.toml").open("rb") as file:
        return tomllib.load(file)


@cache
def builtin() -> Library:
    """All decoders that come with the tool."""
    found = []
    for path in sorted((HERE / "decoders").glob("*.json")):
        description = json.loads(path.read_text(encoding="ascii"))
        found.append(Abi(description, {**description.get("hints", {}), **hints().get(path.stem, {})}))
    return Library(found)
