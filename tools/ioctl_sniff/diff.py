"""Two captures side by side: which calls only one has, and which arguments differ.

Addresses, which differ from run to run by nature, are compared by their order of appearance: the third address of one
run is taken for the third of the other.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from tools.ioctl_sniff.decode import Call, Item, errno_name
from tools.ioctl_sniff.text import line

__all__ = ["Difference", "compare", "show"]

ADDRESS = 1 << 24           # numbers from here on are taken for addresses


@dataclass(frozen=True)
class Difference:
    """``mark``: "-" only in the first, "+" only in the second, "!" in both with other arguments, " " equal."""

    mark: str
    first: Call | None
    second: Call | None
    changes: tuple[tuple[str, str, str], ...] = ()      # (field, in the first, in the second)

    def json(self) -> dict[str, Any]:
        return {"mark": self.mark, "first": self.first.json() if self.first else None,
                "second": self.second.json() if self.second else None, "changes": [list(each) for each in self.changes]}


class _Names:
    """Addresses by their order of appearance."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}

    def of(self, value: int) -> str:
        return f"address {self._seen.setdefault(value & ~0xFFF, len(self._seen))} + {value & 0xFFF:#x}"


def compare(first: Sequence[Call], second: Sequence[Call]) -> list[Difference]:
    """Align the two by the names of their calls and compare what is aligned."""
    names = _Names(), _Names()
    keys = [[(call.event.kind, call.interface, call.name) for call in calls] for calls in (first, second)]
    found: list[Difference] = []
    for tag, a, b, c, d in difflib.SequenceMatcher(None, keys[0], keys[1], autojunk=False).get_opcodes():
        if tag == "equal":
            for left, right in zip(first[a:b], second[c:d], strict=True):
                changes = tuple(_changes(left, right, names))
                found.append(Difference("!" if changes else " ", left, right, changes))
        else:
            found += [Difference("-", call, None) for call in first[a:b]]
            found += [Difference("+", None, call) for call in second[c:d]]
    return found


def _changes(left: Call, right: Call, names: tuple[_Names, _Names]) -> Iterator[tuple[str, str, str]]:
    sides = [dict(_leaves(call.after or call.before, each, ""))
             for call, each in zip((left, right), names, strict=True)]
    for field in dict.fromkeys([*sides[0], *sides[1]]):
        one, other = (side.get(field, "nothing") for side in sides)
        if one != other:
            yield field, one, other
    if left.event.error != right.event.error:
        yield "error", errno_name(left.event.error) or "none", errno_name(right.event.error) or "none"


def _leaves(item: Item | None, names: _Names, path: str) -> Iterator[tuple[str, str]]:
    if item is None:
        return
    for index, each in enumerate(item.fields or item.items or ()):
        yield from _leaves(each, names, f"{path}.{each.name}" if item.fields is not None else f"{path}[{index}]")
    if item.fields is None and item.items is None:
        address = isinstance(item.value, int) and item.value >= ADDRESS and item.text.startswith("0x")
        yield path.lstrip("."), names.of(item.value) if address else item.text
    if item.points is not None:
        yield from _leaves(item.points, names, f"{path}->")


def show(console: Console, found: Sequence[Difference], first: int, second: int) -> None:
    """Lines that differ, and how many do not."""
    start = [min((call.event.time for call in calls if call), default=0)
             for calls in ([each.first for each in found], [each.second for each in found])]
    styles = {"-": "red", "+": "green", "!": "yellow"}
    equal = 0
    for each in found:
        if each.mark == " ":
            equal += 1
            continue
        call, zero = (each.first, start[0]) if each.first is not None else (each.second, start[1])
        assert call is not None
        console.print(Text(f"{each.mark} ", styles[each.mark]).append(line(call, zero, many=False)))
        for field, one, other in each.changes:
            console.print(Text(f"      {field}: ").append(one, "red").append(" | ").append(other, "green"))
    console.print(Text(f"{equal} calls equal, {len(found) - equal} differ; {first} and {second} calls", "dim"))
