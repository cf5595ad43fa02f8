"""Which graphs are spread over several queues, and that what is counted for it is what the schedule then does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from two_cards import cards, compiled

import hcq
from hcq.access import Tracker
from hcq.assignment import HAND_OVER, QUEUE, Assignment, assign, passes
from hcq.graph import Node
from hcq.schedule import Choice, Schedule

SMALL = 4                   # workgroups of 64: a corner of the card


@pytest.fixture(scope="module")
def card() -> Iterator[hcq.Device]:
    with cards(1, "256M") as (device,):
        yield device


@pytest.fixture(scope="module")
def add(card: hcq.Device) -> hcq.Program:
    return card.program(compiled(), "add")


@pytest.fixture(scope="module")
def buffers(card: hcq.Device) -> list[hcq.Buffer]:
    return [card.alloc(4096) for _ in range(16)]


def nodes_of(add: hcq.Program, buffers: Sequence[hcq.Buffer], pattern: Sequence[tuple[int, int]],
             groups: int = SMALL) -> list[Node]:
    """A kernel for each (to, from)."""
    return [Node(number, "kernel", (add, (buffers[to], buffers[origin], np.int32(1)), groups, 64, 0))
            for number, (to, origin) in enumerate(pattern)]


def branches(count: int, length: int) -> list[tuple[int, int]]:
    return [(number, number) for number in range(count) for _ in range(length)]


def dependencies(nodes: Sequence[Node]) -> list[list[int]]:
    tracker: Tracker[int] = Tracker()
    after = []
    for number, node in enumerate(nodes):
        after.append(tracker.find(node.accesses))
        tracker.record(number, node.accesses)
    return after


def training_step() -> list[tuple[int, int]]:
    """Forward, backward, and of each layer an update that nobody waits for but the next step."""
    forward = [(layer + 1, layer) for layer in range(4)]
    backward = [pair for layer in range(4, 0, -1) for pair in ((layer + 6, layer), (layer + 5, layer + 6))]
    return [*forward, *backward, *((layer, layer + 6) for layer in range(1, 5))]


def test_long_independent_branches_are_spread(add: hcq.Program, buffers: list[hcq.Buffer]) -> None:
    for count, length, wanted in [(2, 6, 2), (2, 40, 2), (3, 7, 3), (4, 8, 4), (8, 8, 4)]:
        found = assign(nodes_of(add, buffers, branches(count, length)), 4)
        assert found.queues == wanted and found.hand_overs == 0
    fork = [(0, 0), *((number + 1, 0 if place == 0 else number + 1) for number in range(4) for place in range(8))]
    found = assign(nodes_of(add, buffers, [*fork, *((9, number + 1) for number in range(4))]), 4)
    assert found.queues > 1 and found.hand_overs > 0


def test_what_gains_little_stays_on_one_queue(add: hcq.Program, buffers: list[hcq.Buffer]) -> None:
    side = [pair for number in range(10) for pair in ((0, 0), (number + 1, 0))]         # one small kernel after each
    for pattern in (branches(1, 40), branches(2, 3), side, training_step(),
                    [(0, 0), (1, 0), (2, 1), (3, 0), (4, 3), (5, 2), (5, 4)]):
        found = assign(nodes_of(add, buffers, pattern), 4)
        assert found.queues == 1 and found.hand_overs == 0, pattern


def test_kernels_that_fill_the_card_gain_nothing_beside_each_other(
        card: hcq.Device, add: hcq.Program, buffers: list[hcq.Buffer]) -> None:
    (small,), (large,) = (nodes_of(add, buffers, [(0, 0)], groups) for groups in (SMALL, 100_000))
    properties = card.properties
    waves = properties.compute_units * properties.simds_per_cu * properties.waves_per_simd
    assert passes(small) == SMALL * 64 / 32 / waves and passes(large) == 100_000 * 64 / 32 / waves > 10
    assert assign(nodes_of(add, buffers, branches(4, 12)), 4).queues == 4
    assert assign(nodes_of(add, buffers, branches(4, 12), 100_000), 4).queues == 1
    full = int(waves * 32 / 64 * 0.6)                               # two of them are more than the card holds
    assert assign(nodes_of(add, buffers, branches(4, 12), full), 4).queues <= 2


def test_a_size_that_is_an_input_counts_as_recorded(card: hcq.Device, add: hcq.Program,
                                                    buffers: list[hcq.Buffer]) -> None:
    with card.graph() as g:
        add(buffers[0], buffers[1], np.int32(1), grid=(g.input("groups", 48 << 10),), block=64)
    assert passes(g.nodes[0]) == passes(nodes_of(add, buffers, [(0, 0)], 48 << 10)[0]) > 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pattern=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=40),
       most=st.integers(2, 4))
def test_hand_overs_are_the_waits_of_the_schedule(card: hcq.Device, add: hcq.Program, buffers: list[hcq.Buffer],
                                                  pattern: list[tuple[int, int]], most: int) -> None:
    """Spread whether or not it pays, the schedule waits as often as was counted (or less: it hears by others, too)."""
    nodes = nodes_of(add, buffers, pattern)
    after = dependencies(nodes)
    spread = Assignment(nodes, after, [passes(node) for node in nodes], most)
    one = Assignment(nodes, after, [passes(node) for node in nodes], 1)
    chosen = assign(nodes, most)
    assert chosen.cost <= one.cost and one.hand_overs == 0 and one.queues == 1
    if chosen.queues > 1:                                           # it pays more than what the queues cost
        assert one.rounds - chosen.rounds > QUEUE * (chosen.queues - 1) + HAND_OVER * chosen.hand_overs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hcq.schedule.assign", lambda *_: spread)
        schedule = Schedule(nodes, Choice())
    waits = sum(len(step.waits) for step in schedule.steps)
    assert waits <= spread.hand_overs and (waits > 0) == (spread.hand_overs > 0)
    assert len(schedule.lanes) == len(set(spread.queue_of.values())) == spread.queues
