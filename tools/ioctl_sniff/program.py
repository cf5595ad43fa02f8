"""Pointer programs: what of a target's memory belongs to an ioctl, said in words that the C recorder runs.

The table begins with the number of ioctls and, sorted, a pair (low 16 bits of the number, offset of the program) for
each. A program is the argument's size (bit 31: its first 32-bit word says how long it really is) and a list of
operations; a list is its length and ten words for each operation: offset of the pointer, offset of the count (all ones:
none), its width, multiplier, divisor, bytes to add, 0, place of the list to run on each element (0: none), the
element's size, width of the pointer. Python runs the same table for the ptrace backend (:func:`gather`).
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterator, Sequence

from tools.ioctl_sniff.abi import Abi, Field, Hint, Ioctl, Library, Record

__all__ = ["MAX_BLOB", "gather", "table"]

NONE = 0xFFFFFFFF
FIRST_WORD = 0x80000000
STRING = 256                # bytes of a text that are taken
MAX_BLOB = 256 << 10
MAX_BLOBS = 60


class _Builder:
    def __init__(self) -> None:
        self.words: list[int] = []
        self._lists: dict[tuple[str, str], int] = {}
        self.base = 0

    def place(self, words: Sequence[int]) -> int:
        at = self.base + len(self.words)
        self.words.extend(words)
        return at

    def operations(self, abi: Abi, record: Record, depth: int = 0) -> int:
        """The place of the record's list; 0 where it holds no address that is followed."""
        key = abi.name, record.name
        if key in self._lists:
            return self._lists[key]
        self._lists[key] = 0                    # of a record within itself: not followed further
        found: list[int] = []
        count = 0
        fields = list(flat(abi, record))
        for offset, field in fields:
            if field.hint is not None and field.hint.kind in ("pointer", "string") and depth < 4:
                found += self.operation(abi, fields, offset, field, field.hint, depth)
                count += 1
        if count:
            self._lists[key] = self.place([count, *found])
        return self._lists[key]

    def operation(self, abi: Abi, fields: Sequence[tuple[int, Field]], offset: int, field: Field, hint: Hint,
                  depth: int) -> list[int]:
        if hint.kind == "string":
            return [offset, NONE, 0, STRING, 1, 0, 0, 0, 0, field.width]
        length = hint.length
        unit = 1 if hint.in_bytes else abi.size_of(hint.type) or 1
        if hint.case and not hint.in_bytes:
            unit = max((abi.size_of(record) for record in abi.cases(hint.type)), default=1)
        sub, element = 0, 0
        target = abi.record(hint.type) if not hint.case else None
        if target is not None:
            sub, element = self.operations(abi, target, depth + 1), target.size
        if not length.field:
            return [offset, NONE, 0, (length.multiply + length.add) * unit, 1, 0, 0, sub, element, field.width]
        counted = next(((at, each) for at, each in fields if each.name == length.field), None)
        if counted is None:
            return [offset, NONE, 0, unit, 1, 0, 0, sub, element, field.width]
        return [offset, counted[0], counted[1].width, length.multiply * unit, length.divide,
                length.add * unit & 0xFFFFFFFF, 0, sub, element, field.width]


def flat(abi: Abi, record: Record, base: int = 0, depth: int = 0) -> Iterator[tuple[int, Field]]:
    """Scalars of a record and of the records within it, with their offsets; arrays of records are left out."""
    for field in record.fields:
        inner = abi.record(field.type)
        if inner is None:
            yield base + field.offset, field
        elif field.count is None and depth < 6:
            yield from flat(abi, inner, base + field.offset, depth + 1)


def table(library: Library) -> bytes:
    """The programs of all ioctls that need one, for the recorder."""
    wanted: dict[int, list[Ioctl]] = {}
    for abi in library.abis:
        for ioctl in abi.ioctls:
            if needs_program(abi, ioctl):
                wanted.setdefault(ioctl.number & 0xFFFF, []).append(ioctl)
    builder = _Builder()
    builder.base = 1 + 2 * len(wanted)
    places: dict[int, int] = {}
    for low, ioctls in sorted(wanted.items()):
        size, first = 0, 0
        found: list[int] = []
        count = 0
        for ioctl in ioctls:                    # of one number with several meanings: all of them
            record = ioctl.abi.record(ioctl.record)
            size = max(size, ioctl.abi.size_of(ioctl.record))
            first |= FIRST_WORD if ioctl.abi.size_by_first_word(ioctl) else 0
            at = builder.operations(ioctl.abi, record) if record else 0
            if at:
                start = at - builder.base
                own = builder.words[start]
                found += builder.words[start + 1:start + 1 + 10 * own]
                count += own
        places[low] = builder.place([size | first, count, *found])
    words = [len(places), *(word for pair in sorted(places.items()) for word in pair), *builder.words]
    return array("I", words).tobytes()


def needs_program(abi: Abi, ioctl: Ioctl) -> bool:
    if not ioctl.record:
        return False
    if abi.size_by_first_word(ioctl) or abi.size_of(ioctl.record) > (ioctl.number >> 16 & 0x3FFF):
        return True
    record = abi.record(ioctl.record)
    return record is not None and any(field.hint is not None and field.hint.kind in ("pointer", "string")
                                      for _, field in flat(abi, record))


Peek = Callable[[int, int], bytes]
"""(address, bytes) -> what of it could be read"""


class Programs:
    """A table, ready to run in Python."""

    def __init__(self, words: bytes) -> None:
        self.words = array("I")
        self.words.frombytes(words)
        count = self.words[0] if self.words else 0
        self.places = {self.words[1 + 2 * index]: self.words[2 + 2 * index] for index in range(count)}


def gather(programs: Programs, request: int, argument: int, peek: Peek) -> list[tuple[int, bytes]]:
    """(address, bytes) of an argument and of all that belongs to it."""
    found: list[tuple[int, bytes]] = []
    size = request >> 16 & 0x3FFF
    at = programs.places.get(request & 0xFFFF)
    if at is not None:
        own = programs.words[at]
        if own & FIRST_WORD:
            said = int.from_bytes(peek(argument, 4), "little")
            size = max(min(said, MAX_BLOB), size, own & 0xFFFF)
        else:
            size = max(size, own)
    if size and argument:
        got = peek(argument, size)
        if got:
            found.append((argument, got))
            if at is not None:
                _follow(programs, at + 1, got, peek, found, 0)
    return found


def _follow(programs: Programs, at: int, data: bytes, peek: Peek, found: list[tuple[int, bytes]], depth: int) -> None:
    words = programs.words
    for index in range(words[at]):
        (pointer, counted, width, multiply, divide, add, _, sub, element,
         pointer_width) = words[at + 1 + 10 * index:at + 11 + 10 * index]
        address = int.from_bytes(data[pointer:pointer + pointer_width], "little")
        count = 1 if counted == NONE else min(int.from_bytes(data[counted:counted + width], "little"), MAX_BLOB)
        length = count * multiply // (divide or 1) + struct.unpack("<i", struct.pack("<I", add))[0]
        if not address or length <= 0 or len(found) >= MAX_BLOBS:
            continue
        got = peek(address, min(length, MAX_BLOB))
        if not got:
            continue
        found.append((address, got))
        if sub and element and depth < 4:
            for start in range(0, len(got) - element + 1, element):
                _follow(programs, sub, got[start:], peek, found, depth + 1)
