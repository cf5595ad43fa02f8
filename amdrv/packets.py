"""Building and reading packets from their descriptions (:mod:`amdrv.facts.layout`); PM4 and SDMA stand on it.

A :class:`Codec` is one description made ready: for every field its word, shift and limit, worked out once, so that
building is a walk over the fields that were given. Reading never fails on strange words: what does not fit the
description is said in :attr:`Decoded.problem`.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from amdrv.errors import PacketError
from amdrv.facts.layout import Packet, Word

__all__ = ["Codec", "Decoded", "hexwords", "wordlist"]

WORD = 0xFFFFFFFF
OPERAND_BITS = 14
"""A word that is one field of at least this many bits is an operand (an address, a count, data) and must be given;
all other fields are zero unless given."""


def hexwords(words: Sequence[int]) -> str:
    return " ".join(f"{word:08x}" for word in words)


def wordlist(words: Iterable[Any]) -> list[int]:
    """The words as Python integers. :raises PacketError: one of them is no 32-bit word."""
    try:
        checked = [operator.index(word) for word in words]
    except TypeError:
        raise PacketError("packets are words: a sequence of integers is needed") from None
    for index, word in enumerate(checked):
        if not 0 <= word <= WORD:
            raise PacketError(f"word {index} is {word:#x}, which is no 32-bit word")
    return checked


@dataclass
class Decoded:
    """One packet as read: what it is, where it stood, what it says.

    ``fields`` holds the header's and the body's fields; of a 64-bit value that words hold in parts, the whole.
    ``tail`` is what follows the described words. ``problem`` is None where the words are what the description says.
    """

    name: str
    index: int                          # of its first word in what was decoded
    words: tuple[int, ...]
    fields: dict[str, int] = field(default_factory=dict)
    tail: tuple[int, ...] = ()
    problem: str | None = None
    enums: dict[str, str] = field(default_factory=dict, repr=False)     # field -> the value's name
    notes: list[str] = field(default_factory=list, repr=False)          # lines to print after the fields
    implied: frozenset[str] = field(default=frozenset(), repr=False)    # fields that name and length say already

    def __getitem__(self, name: str) -> int:
        try:
            return self.fields[name]
        except KeyError:
            raise PacketError(f"{self.name} has no field {name!r}; it has {', '.join(self.fields) or 'none'}") from None

    def __str__(self) -> str:
        """A line for the packet, one for each field that is not zero, and its tail or registers."""
        many = "word" if len(self.words) == 1 else "words"
        lines = [f"{self.index:5}: {self.name} ({len(self.words)} {many})"]
        if self.problem:
            lines[0] += f"  !! {self.problem}: {hexwords(self.words)}"
        for name, value in self.fields.items():
            if value and name not in self.implied:
                shown = f"{self.enums[name]} ({value})" if name in self.enums else f"{value:#x}" if value > 9 else value
                lines.append(f"         {name} = {shown}")
        lines += ["         " + note for note in self.notes]
        if self.tail and not self.notes:
            lines += ["         " + hexwords(self.tail[start:start + 8]) for start in range(0, len(self.tail), 8)]
        return "\n".join(lines)


class Codec:
    """One packet's description, ready for use. A ``header`` stands before its words; ``fixed`` fields are not given."""

    def __init__(self, name: str, packet: Packet, enums: Mapping[str, Mapping[str, int]], header: Word | None = None,
                 fixed: Mapping[str, int] | None = None) -> None:
        self.name, self.packet = name, packet
        self.words: tuple[Word, ...] = (() if header is None else (header,)) + packet.words
        self.minimum = sum(not word.optional for word in self.words)
        self.tail = packet.tail
        self._enums = enums
        # field -> (word, shift, largest value, enum or None)
        self._at: dict[str, tuple[int, int, int, Mapping[str, int] | None]] = {}
        # wide value -> ((word, shift in the word, shift in the value, mask), ...), bits that cannot be said, largest
        self._wide: dict[str, tuple[tuple[tuple[int, int, int, int], ...], int, int]] = {}
        self._defined = [0] * len(self.words)
        operands: list[str] = []
        for number, word in enumerate(self.words):
            for name_, bits in word.fields.items():
                enum = enums[bits[2]] if len(bits) == 3 else None
                self._at[name_] = number, bits[1], (2 << (bits[0] - bits[1])) - 1, enum
                self._defined[number] |= self._at[name_][2] << bits[1]
                if len(word.fields) == 1 and not word.optional and bits[0] - bits[1] + 1 >= OPERAND_BITS \
                        and name_ != "DUMMY" and name_ not in (fixed or {}):
                    operands.append(name_)
        whole: dict[str, str] = {}
        for value, parts in packet.wide.items():
            steps = []
            said = 0
            for part in parts:
                number, shift, limit, _ = self._at[part.field]
                steps.append((number, shift, part.lsb, limit))
                said |= limit << part.lsb
                whole[part.field] = value
            top = 1 << said.bit_length()
            self._wide[value] = tuple(steps), (top - 1) & ~said, top - 1
        self._whole = whole
        self._parts = {value: tuple(part.field for part in parts) for value, parts in packet.wide.items()}
        self.operands = tuple(dict.fromkeys(whole.get(name_, name_) for name_ in operands))
        self._needed = frozenset(self.operands)
        self._optional = {name_ for number, word in enumerate(self.words) if word.optional for name_ in word.fields}
        self._optional |= {whole[name_] for name_ in self._optional if name_ in whole}
        self._names = {number: {code: text for text, code in reversed(tuple(found[3].items()))}
                       for number, found in self._at.items() if found[3] is not None}
        self._fixed = dict(fixed or {})
        self._blank = [0] * len(self.words)
        for name_, value_ in self._fixed.items():
            number, shift, _, _ = self._at[name_]
            self._blank[number] |= value_ << shift

    def fields(self) -> tuple[str, ...]:
        """What may be given: fields, and the wide values in place of their parts."""
        return tuple(dict.fromkeys(self._whole.get(name, name) for name in self._at if name not in self._fixed))

    def build(self, given: Mapping[str, Any]) -> tuple[list[int], list[int]]:
        """The described words and the tail, from field values.

        :raises PacketError: an unknown field, one that is missing, a value that does not fit.
        """
        words = self._blank.copy()
        tail: list[int] = []
        used: set[str] | None = None
        for name, value in given.items():
            place = self._at.get(name)
            if place is not None:
                number, shift, limit, enum = place
                if enum is not None and isinstance(value, str):
                    value = self._code(name, enum, value)
                if not isinstance(value, int):
                    value = self._integer(name, value)
                if not 0 <= value <= limit or name in self._fixed:
                    self._refuse(name, value, limit)
                words[number] |= value << shift
                if name in self._whole:
                    used = (used or set()) | {name}
            elif name in self._wide:
                if not isinstance(value, int):
                    value = self._integer(name, value)
                steps, lost, limit = self._wide[name]
                if not 0 <= value <= limit or value & lost:
                    self._refuse(name, value, limit, lost)
                for number, shift, lsb, mask in steps:
                    words[number] |= ((value >> lsb) & mask) << shift
            elif name == self.tail and name is not None:
                tail = [self._integer(name, item, WORD) for item in value]
            else:
                raise PacketError(f"{self.name} has no field {name!r}; it has {', '.join(self.fields())}"
                                  + (f" and the tail {self.tail}" if self.tail else ""))
        if not self._needed <= given.keys() or used:
            self._check_given(given)
        if self.minimum != len(words):
            if self._optional.isdisjoint(given):
                del words[self.minimum:]
            elif not all(name in given or self._whole.get(name) in given
                         for word in self.words if word.optional for name in word.fields):
                raise PacketError(f"{self.name}: {', '.join(sorted(self._optional))} are given all or not at all")
        return words, tail

    def put(self, words: list[int], name: str, value: int) -> None:
        """Fill in a field that this side works out. :raises PacketError: it does not fit."""
        number, shift, limit, _ = self._at[name]
        if value > limit:
            raise PacketError(f"{self.name}: {value} in {name} is more than the {limit} that a packet can say")
        words[number] |= value << shift

    def get(self, word: int, name: str) -> int:
        """A field's value, from the word that holds it."""
        _, shift, limit, _ = self._at[name]
        return (word >> shift) & limit

    def _code(self, name: str, enum: Mapping[str, int], value: str) -> int:
        try:
            return enum[value]
        except KeyError:
            raise PacketError(f"{self.name}.{name} has no value {value!r}; it has {', '.join(enum)}") from None

    def _integer(self, name: str, value: Any, limit: int | None = None) -> int:
        try:
            number = operator.index(value)
        except TypeError:
            raise PacketError(f"{self.name}.{name}: the value must be an integer, not {value!r}") from None
        if limit is not None and not 0 <= number <= limit:
            self._refuse(name, number, limit)
        return number

    def _refuse(self, name: str, value: int, limit: int, lost: int = 0) -> None:
        if name in self._fixed:
            raise PacketError(f"{self.name}.{name} is filled in and cannot be given")
        if 0 <= value <= limit:
            raise PacketError(f"{self.name}.{name} = {value:#x} must be a multiple of {~lost & (lost + 1):#x}")
        raise PacketError(f"{self.name}.{name} = {value:#x} does not fit; the largest value is {limit:#x}")

    def _check_given(self, given: Mapping[str, Any]) -> None:
        for value, parts in self._parts.items():
            twice = [part for part in parts if part in given]
            if value in given and twice:
                raise PacketError(f"{self.name}: {value} and its part {twice[0]} are both given")
        missing = [name for name in self.operands if name not in given
                   and not (name in self._parts and all(part in given for part in self._parts[name]))]
        if missing:
            raise PacketError(f"{self.name} needs {', '.join(missing)}")

    def read(self, words: Sequence[int], into: Decoded) -> None:
        """Fill in fields, enum names and undefined bits from the packet's words; missing ones end it early."""
        into.implied = frozenset(self._fixed)
        for number, (word, value) in enumerate(zip(self.words, words, strict=False)):
            for name in word.fields:
                _, shift, limit, enum = self._at[name]
                if name not in self._whole:
                    into.fields[name] = found = (value >> shift) & limit
                    if enum is not None and found in self._names[name]:
                        into.enums[name] = self._names[name][found]
            if rest := value & ~self._defined[number]:
                into.notes.append(f"{word.name}: bits of no field {rest:#010x}")
        for value_name, (steps, _, _) in self._wide.items():
            if all(number < len(words) for number, _, _, _ in steps):
                into.fields[value_name] = sum(((words[number] >> shift) & mask) << lsb
                                              for number, shift, lsb, mask in steps)
