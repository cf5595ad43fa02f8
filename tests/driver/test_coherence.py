"""Each fence, flush, invalidation and cache operation of the driver is needed, or a reason is given why not."""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Iterable
from pathlib import Path

import coherence
import pytest

SAMPLE = 7


@pytest.fixture(scope="module")
def steps() -> list[coherence.Step]:
    return coherence.steps()


@pytest.fixture(scope="module")
def survivors() -> dict[str, bool]:
    """{pattern: is it a race?}"""
    entries = tomllib.loads((Path(__file__).parent / "coherence_survivors.toml").read_text())["survivor"]
    assert all(entry["why"].strip() for entry in entries)
    return {pattern: entry.get("sometimes", False) for entry in entries for pattern in entry["steps"]}


def unnoticed(steps: list[coherence.Step]) -> list[str]:
    return [str(step) for step in steps if not coherence.noticed(step)]


def unlisted(names: list[str], patterns: Iterable[str]) -> list[str]:
    return [name for name in names if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def test_with_every_step_everything_works() -> None:
    assert coherence.noticed(None) == ""


def test_what_the_driver_does_for_coherence(steps: list[coherence.Step]) -> None:
    """All kinds of steps are found, so that none is left out unseen."""
    assert {step.what for step in steps} == {"fence", "hdp flush", "tlb flush", "hub flush", "memory barrier", "FENCE",
                                             "ACQUIRE_MEM", "RELEASE_MEM", "EVENT_WRITE"}


def test_a_sample_of_lost_steps_is_missed_or_listed(steps: list[coherence.Step], survivors: dict[str, bool]) -> None:
    assert not unlisted(unnoticed(steps[::SAMPLE]), survivors)


@pytest.mark.slow
def test_every_lost_step_is_missed_or_listed(steps: list[coherence.Step], survivors: dict[str, bool]) -> None:
    found = unnoticed(steps)
    assert not unlisted(found, survivors), "nobody misses these, and coherence_survivors.toml gives no reason"
    needless = [pattern for pattern, race in survivors.items() if not race and not fnmatch.filter(found, pattern)
                and not unnoticed([step for step in steps if fnmatch.fnmatchcase(str(step), pattern)])]
    assert not needless, "these are missed after all: take them out of coherence_survivors.toml"
