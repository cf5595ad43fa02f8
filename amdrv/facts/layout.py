"""How packets are written down in :mod:`amdrv.facts.pm4` and :mod:`amdrv.facts.sdma6`.

A packet is a row of 32-bit words, a word a set of fields, a field ``(msb, lsb)`` or ``(msb, lsb, enum name)``; the
enum's values are in the module's ``ENUMS``. Field names are unique within a packet. Three rules say the rest:

* **Wide values.** Words hold halves of 64-bit values. ``X_LO`` and ``X_HI`` are bits 31:0 and 63:32 of X, at their
  own places: ``ADDRESS_LO: 31, 2`` holds address bits 31:2 in bits 31:2. SDMA's names say it by numbers:
  ``SRC_ADDR_63_32`` is bits 63:32 of SRC_ADDR, wherever the field stands. ``Packet.wide`` lists them.
* **Choices.** A word whose meaning depends on another field has one :class:`Word` with all names (fields overlap);
  unused names read as the same bits.
* **Tail.** ``tail`` names whole words that repeat to the end of the packet (``DATA``); None where there are none.
  ``optional`` words at the end are either all there or all absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

__all__ = ["Field", "Packet", "Part", "Word"]

Field = tuple[int, int] | tuple[int, int, str]
"""(msb, lsb[, enum name])"""


class Word(NamedTuple):
    name: str
    fields: dict[str, Field]
    optional: bool = False


class Part(NamedTuple):
    """One field's share of a wide value: ``field`` holds the value's bits ``msb:lsb``."""

    field: str
    msb: int
    lsb: int


class Packet(NamedTuple):
    opcode: int
    words: tuple[Word, ...]
    wide: Mapping[str, tuple[Part, ...]] = MappingProxyType({})
    tail: str | None = None
    sub_op: int | None = None           # SDMA only
    length: tuple[str, int] | None = None    # SDMA only: the tail has (field + bias) words
    when: Mapping[str, int] = MappingProxyType({})     # header fields that choose among packets of one opcode
