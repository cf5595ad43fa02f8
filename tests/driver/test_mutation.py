"""Every register write of the boot is needed: without it something fails that a test would see, or a reason is given.

Two nets, of which the first is the finer. *Behaviour*: the card no longer boots, or does not do what
``mutation.everything`` asks of it. *Comparison*: the boot is no longer Linux's with reasons (``tools.boot_diff``).
What slips through the first is listed in ``mutation_survivors.toml``, with the reason why; ``noticed = false`` there
admits that the second does not see it either.
"""

from __future__ import annotations

import fnmatch
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import mutation
import pytest

from tools.boot_diff import reasons, trace
from tools.boot_diff.__main__ import LINUX
from tools.boot_diff.compare import compare
from tools.boot_diff.trace import Event

HERE = Path(__file__).parent
SAMPLE = 37         # one write in so many is lost in the ordinary suite, all of them in the slow one


@dataclass(frozen=True)
class Survivor:
    """Registers whose lost write changes nothing that the mock can show, and why."""

    names: tuple[str, ...]
    why: str
    noticed: bool

    def covers(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.names)


def survivors() -> list[Survivor]:
    entries = tomllib.loads((HERE / "mutation_survivors.toml").read_text())["survivor"]
    return [Survivor(tuple(entry["names"]), " ".join(entry["why"].split()), entry.get("noticed", True))
            for entry in entries]


@pytest.fixture(scope="module")
def writes() -> list[tuple[mutation.Write, str]]:
    return mutation.lost_writes()


def surviving(writes: list[tuple[mutation.Write, str]]) -> dict[str, list[int]]:
    """{name: occurrences} of the writes that nobody missed."""
    found: dict[str, list[int]] = {}
    for write, name in writes:
        if not mutation.survives(write):
            found.setdefault(name, []).append(write[1])
    return found


def test_with_every_write_in_place_everything_works() -> None:
    assert mutation.survives(None) == ""


def test_a_sample_of_lost_writes_is_missed_or_listed(writes: list[tuple[mutation.Write, str]]) -> None:
    known = survivors()
    unlisted = {name for name in surviving(writes[::SAMPLE]) if not any(entry.covers(name) for entry in known)}
    assert not unlisted, "nobody misses these writes, and mutation_survivors.toml gives no reason"


@pytest.mark.slow
def test_every_lost_write_is_missed_or_listed(writes: list[tuple[mutation.Write, str]]) -> None:
    found, known = surviving(writes), survivors()
    unlisted = {name: times for name, times in found.items() if not any(entry.covers(name) for entry in known)}
    assert not unlisted, "nobody misses these writes, and mutation_survivors.toml gives no reason"
    needless = [pattern for entry in known for pattern in entry.names
                if not any(fnmatch.fnmatchcase(name, pattern) for name in found)
                and not surviving([write for write in writes if fnmatch.fnmatchcase(write[1], pattern)])]
    assert not needless, "these are missed after all: take them out of mutation_survivors.toml"


def test_the_comparison_notices_what_behaviour_does_not(writes: list[tuple[mutation.Write, str]]) -> None:
    """Of the listed ones, each that is not marked otherwise: without it, boot_diff fails."""
    linux, why = trace.load(LINUX), reasons.load_reasons()
    events = mutation.recorded()
    names = Counter(event.name for event in events if event.kind == "W")
    unseen = set()
    for entry in survivors():
        for name in names:
            if entry.noticed and entry.covers(name.partition("[")[0]) and explained_without(linux, events, name, why):
                unseen.add(name)
    assert not unseen


def explained_without(linux: list[Event], events: list[Event], name: str, why: list[reasons.Reason]) -> bool:
    """Whether the boot without its writes to this register would still be explained, by reasons all of which hold."""
    left = [event for event in events if event.kind != "W" or event.name != name]
    explained = reasons.explain(compare(linux, left), why)
    return all(reason is not None for _, reason in explained) and not reasons.unused(explained, why)
