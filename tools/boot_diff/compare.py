"""Where two boots differ, block by block.

Only what is written counts: a read leaves no trace on the card. Of each register the last value is compared in
the bits that either side set (bits which a read-modify-write found and kept are the card's business), then the
values on the way there, then the register's place among its block's registers.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import amdrv.regs
from amdrv.regs import Register
from tools.boot_diff.trace import Event, block_of, firmware_type

__all__ = ["BLOCKS", "Difference", "Kind", "compare"]

Kind = Literal["only Linux", "only ours", "value", "way", "order"]

BLOCKS = ("stages", "NBIO", "HDP", "MM hub", "ATHUB", "IH", "PSP", "SMU", "GFX", "GC hub", "SDMA", "THM", "SMUIO",
          "unnamed")
"""In the order of a boot; ``stages`` is the order of the blocks themselves."""

WORD = 0xFFFFFFFF


@dataclass(frozen=True)
class Difference:
    """One difference; ``linux`` and ``ours`` are for people."""

    block: str
    kind: Kind
    name: str                   # register, "PSP LOAD_IP_FW RLC_G", "SMU GetSmuVersion"
    linux: str
    ours: str
    fields: tuple[str, ...] = ()        # of kind "value": the fields in which the last values differ

    def __str__(self) -> str:
        return f"{self.block}: {self.kind}: {self.name}: Linux {self.linux or '-'}; ours {self.ours or '-'}"


@dataclass
class _Writes:
    """What one side wrote to one register."""

    values: list[int] = field(default_factory=list)
    set_bits: int = 0           # bits that were not just carried over from what the register was known to hold
    first: int = 0              # place of the first write among the block's writes


def compare(linux: Iterable[Event], ours: Iterable[Event]) -> list[Difference]:
    """The differences between two folded traces, by block in the order of :data:`BLOCKS`."""
    sides = _by_block(linux), _by_block(ours)
    found = _stages(*(list(side) for side in sides))
    for block in BLOCKS[1:]:
        found += _block(block, sides[0].get(block, {}), sides[1].get(block, {}))
    return found


def _by_block(events: Iterable[Event]) -> dict[str, dict[str, _Writes]]:
    """{block: {name: writes}}, both in the order of first appearance."""
    blocks: dict[str, dict[str, _Writes]] = {}
    known: dict[str, int] = {}          # what the register holds, as far as this side has read or written it
    for event in events:
        kind, name, value = event
        if kind == "R":
            known[name] = value
            continue
        if kind == "W":
            block = block_of(name)
        elif kind == "HDP":
            block, name = "HDP", "flush"
        elif kind == "PSP" and name == "LOAD_IP_FW":
            block, name, value = "PSP", f"PSP LOAD_IP_FW {firmware_type(value)}", 0
        else:
            block, name = kind, f"{kind} {name}"
        registers = blocks.setdefault(block, {})
        writes = registers.setdefault(name, _Writes(first=len(registers)))
        writes.values.append(value)
        writes.set_bits |= value ^ known[name] if name in known else WORD
        known[name] = value
    return blocks


def _stages(linux: Sequence[str], ours: Sequence[str]) -> list[Difference]:
    both = [block for block in linux if block in ours]
    mine = [block for block in ours if block in linux]
    return [Difference("stages", "order", block, _after(both, block), _after(mine, block))
            for block in _moved(both, mine)]


def _block(block: str, linux: dict[str, _Writes], ours: dict[str, _Writes]) -> list[Difference]:
    found: list[Difference] = []
    for name, writes in linux.items():
        if name not in ours:
            found.append(Difference(block, "only Linux", name, _values(name, writes.values), ""))
    for name, writes in ours.items():
        if name not in linux:
            found.append(Difference(block, "only ours", name, "", _values(name, writes.values)))
    both = [name for name in linux if name in ours]
    for name in both:
        found += _register(block, name, linux[name], ours[name])
    order = sorted(both, key=lambda name: ours[name].first)
    found += [Difference(block, "order", name, _after(both, name), _after(order, name)) for name in _moved(both, order)]
    return found


def _register(block: str, name: str, linux: _Writes, ours: _Writes) -> list[Difference]:
    bits = linux.set_bits | ours.set_bits
    last = linux.values[-1] & bits, ours.values[-1] & bits
    if last[0] != last[1]:
        register = _described(name)
        fields = tuple(f.name for f in register.fields if f.get(last[0]) != f.get(last[1])) if register else ()
        return [Difference(block, "value", name, _one(register, last[0], fields), _one(register, last[1], fields),
                           fields)]
    ways = [_changes(value & bits for value in side.values) for side in (linux, ours)]
    if ways[0] != ways[1]:
        return [Difference(block, "way", name, _values(name, ways[0]), _values(name, ways[1]))]
    return []


def _changes(values: Iterable[int]) -> list[int]:
    out: list[int] = []
    for value in values:
        if not out or out[-1] != value:
            out.append(value)
    return out


def _moved(one: Sequence[str], other: Sequence[str]) -> list[str]:
    """The names that must move for ``one`` to become ``other``: all but a longest common subsequence."""
    place = {name: i for i, name in enumerate(other)}
    tails: list[int] = []               # patience sorting: smallest last place of a run of each length
    tail_names: list[str] = []
    before: dict[str, str | None] = {}
    for name in one:
        at = bisect.bisect_left(tails, place[name])
        before[name] = tail_names[at - 1] if at else None
        tails[at:at + 1] = [place[name]]
        tail_names[at:at + 1] = [name]
    kept: set[str] = set()
    name_or_none = tail_names[-1] if tail_names else None
    while name_or_none is not None:
        kept.add(name_or_none)
        name_or_none = before[name_or_none]
    return [name for name in one if name not in kept]


def _after(order: Sequence[str], name: str) -> str:
    at = order.index(name)
    return f"after {order[at - 1]}" if at else "first"


def _described(name: str) -> Register | None:
    plain = re.sub(r"\[.*", "", name)
    if plain == "SMN":
        return None
    for table in map(amdrv.regs.table, amdrv.regs.tables()):
        if register := table.find(plain):
            return register
    return None


def _one(register: Register | None, value: int, fields: Sequence[str]) -> str:
    if not fields or register is None or len(register.fields) == 1:
        return f"{value:#x}"
    shown = [f"{name}={register[name].get(value):#x}" for name in fields[:_SHOWN_FIELDS]]
    return ", ".join(shown) + (f" and {len(fields) - len(shown)} more" if len(fields) > len(shown) else "")


_SHOWN_FIELDS, _SHOWN = 6, 6


def _values(name: str, values: Iterable[int]) -> str:
    """``0x0, 0x1``; the middle of a long list is left out."""
    if name.startswith("PSP") or name == "flush":
        return f"{len(list(values))} times"
    texts = [f"{value:#x}" for value in _changes(values)]
    if len(texts) > _SHOWN:
        texts[_SHOWN // 2:-_SHOWN // 2] = [f"... {len(texts) - _SHOWN} more ..."]
    return ", ".join(texts)
