"""Why our boot may differ: ``reasons.toml``, and the check that it and the differences are about each other."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import get_args

from tools.boot_diff.compare import BLOCKS, Difference, Kind

__all__ = ["Reason", "ReasonError", "explain", "load_reasons", "unused"]

HERE = Path(__file__).parent / "reasons.toml"


class ReasonError(Exception):
    """``reasons.toml`` says something that it cannot mean."""


@dataclass(frozen=True)
class Reason:
    """Why the differences in one block that match are as they should be."""

    block: str
    kinds: tuple[str, ...]
    names: tuple[str, ...]              # shell patterns, and ranges as the reports write them: {1..7,9..15}
    why: str
    fields: tuple[str, ...] | None = None       # of kind "value": no other field may differ
    allocated: bool = False             # the values are places in memory, another in each boot: not worth showing

    @cached_property
    def _patterns(self) -> tuple[str, ...]:
        return tuple(plain for name in self.names for plain in _expand(name))

    def covers(self, difference: Difference) -> bool:
        return (difference.block == self.block and difference.kind in self.kinds
                and any(fnmatch.fnmatchcase(difference.name, _literal(name)) for name in self._patterns)
                and (self.fields is None or set(difference.fields) <= set(self.fields)))


def _expand(pattern: str) -> Iterator[str]:
    """``A{1..3,7}_B`` -> A1_B, A2_B, A3_B, A7_B."""
    match = re.search(r"\{([\d.,]+)\}", pattern)
    if match is None:
        yield pattern
        return
    for part in match[1].split(","):
        first, _, last = part.partition("..")
        for number in range(int(first), int(last or first) + 1):
            yield from _expand(pattern[:match.start()] + str(number) + pattern[match.end():])


def _literal(pattern: str) -> str:
    """``[`` stands for itself: names have it (``SH_MEM_BASES[vmid 1]``), patterns need no sets."""
    return pattern.replace("[", "[[]")


def load_reasons(path: Path = HERE) -> list[Reason]:
    """:raises ReasonError: an entry with an unknown block or kind, without names, or without a sentence."""
    known_keys = {"block", "kind", "names", "why", "fields", "allocated"}
    reasons = []
    for number, entry in enumerate(tomllib.loads(path.read_text(encoding="utf-8")).get("reason", []), 1):
        kinds = entry.get("kind", [])
        kinds = tuple([kinds] if isinstance(kinds, str) else kinds)
        problem = ("an unknown key: " + ", ".join(sorted(set(entry) - known_keys)) if set(entry) - known_keys
                   else f"no block of {', '.join(BLOCKS)}" if entry.get("block") not in BLOCKS
                   else f"no kind of {', '.join(get_args(Kind))}" if not kinds or set(kinds) - set(get_args(Kind))
                   else "no names" if not entry.get("names")
                   else "no why" if not entry.get("why", "").strip() else "")
        if problem:
            raise ReasonError(f"{path.name}, reason {number}: {problem}")
        fields = entry.get("fields")
        reasons.append(Reason(entry["block"], kinds, tuple(entry["names"]), " ".join(entry["why"].split()),
                              tuple(fields) if fields is not None else None, entry.get("allocated", False)))
    return reasons


def explain(differences: Iterable[Difference], reasons: Sequence[Reason]) -> list[tuple[Difference, Reason | None]]:
    """Each difference with the first reason that covers it."""
    return [(difference, next((reason for reason in reasons if reason.covers(difference)), None))
            for difference in differences]


def unused(explained: Iterable[tuple[Difference, Reason | None]], reasons: Sequence[Reason]) -> list[Reason]:
    """Reasons that explain nothing (any more)."""
    used = {id(reason) for _, reason in explained}
    return [reason for reason in reasons if id(reason) not in used]
