"""Packets that are built once and changed afterwards: where, in encoded words, do the values stand that will change?

Nobody has to say: the encoder is asked twice, with two values, and the words that differ are the ones. What was
found is then checked against the encoder's own words for the values at hand, so an encoder that does more than store
its operands (or one that shifts them) is noticed, not miscoded.

    words, holes = probe(lambda v: encode(kernarg=v["kernarg"]), {"kernarg": ADDRESS}, {"kernarg": address})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

__all__ = ["ADDRESS", "Hole", "NUMBER", "NotPatchable", "Probe", "probe"]

LOW = 0xFFFFFFFF


class Probe(NamedTuple):
    """Two values, allowed where the real one is, that differ in each half (of 32 bits) that the real one can fill."""

    first: int
    second: int
    wide: bool                      # 64 bits, in two words, the low one first


ADDRESS = Probe(0x1234_2340_0000, 0x2345_6780_1000, True)
NUMBER = Probe(0x11, 0x3A6, False)
"""A 32-bit operand: a size in ``grid``, a pattern, a signal's value."""


class Hole(NamedTuple):
    """``words[word]``, and the one after it when ``wide``, hold the value called ``name`` plus ``addend``."""

    name: str
    word: int
    addend: int
    wide: bool

    def store(self, words: list[int], value: int) -> None:
        value += self.addend
        words[self.word] = value & LOW
        if self.wide:
            words[self.word + 1] = value >> 32


class NotPatchable(Exception):
    """The encoder's words are not its operands plus constants."""


Encode = Callable[[Mapping[str, int]], Sequence[int]]


def probe(encode: Encode, probes: Mapping[str, Probe], actual: Mapping[str, int]) -> tuple[list[int], list[Hole]]:
    """The words for ``actual``, and where they hold it.

    :param encode: values by name -> words; the number of words does not depend on the values.
    :raises NotPatchable: the words cannot be made from the holes.
    """
    first = {name: each.first for name, each in probes.items()}
    base = list(encode(first))
    holes: list[Hole] = []
    for name, each in probes.items():
        other = list(encode(first | {name: each.second}))
        if len(other) != len(base):
            raise NotPatchable(f"the number of words depends on {name}")
        changed = [index for index, (one, two) in enumerate(zip(base, other, strict=True)) if one != two]
        while changed:
            index = changed.pop(0)
            wide = each.wide and bool(changed) and changed[0] == index + 1
            if each.wide and not wide:
                raise NotPatchable(f"word {index} holds a part of {name}")
            if wide:
                changed.pop(0)
            held = base[index] | (base[index + 1] << 32 if wide else 0)
            holes.append(Hole(name, index, held - each.first, wide))
    words = list(base)
    for hole in holes:
        hole.store(words, actual[hole.name])
    if words != list(encode(actual)):
        raise NotPatchable("the encoder's words are not its operands plus constants")
    return words, holes
