"""hcq's devices on a simulated kernel, under the names that hcq's tests have for theirs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "hcq"))

from simulated_cards import kfd_cards

import hcq


@pytest.fixture(scope="module")
def pair() -> Iterator[list[hcq.Device]]:
    with kfd_cards() as devices:
        yield devices


@pytest.fixture(scope="module")
def card(pair: list[hcq.Device]) -> hcq.Device:
    return pair[0]


@pytest.fixture(scope="module")
def am(pair: list[hcq.Device]) -> hcq.Device:
    """The name that hcq's tests have for their device."""
    return pair[0]
