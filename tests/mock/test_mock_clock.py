"""Modelled time: each engine's own, and where they meet."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from mock.clock import CLOCK_HZ, ModelClock, WallClock, make_clock
from mock.isa.clock.constants import SDMA_BYTES_PER_S, SDMA_PACKET_S


class Engine:
    """A thread that runs what it is told, one thing after the other."""

    def __init__(self, clock: ModelClock, name: str) -> None:
        self.clock, self.name = clock, name

    def do(self, *actions: Callable[[], Any]) -> list[Any]:
        results: list[Any] = []

        def run() -> None:
            self.clock.begin(self.name)
            results.extend(action() for action in actions)
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        return results


@pytest.fixture
def clock() -> ModelClock:
    return ModelClock()


def test_work_takes_its_time_and_nothing_else_does(clock: ModelClock) -> None:
    before, same, after = Engine(clock, "a").do(clock.ticks, clock.ticks, lambda: clock.advance(1e-3) or clock.ticks())
    assert before == same and after - before == CLOCK_HZ // 1000


def test_times_are_exact_sums(clock: ModelClock) -> None:
    """A hundred thousand cycles of 400 ps, one by one, are 40 us."""
    before, *_, after = Engine(clock, "a").do(clock.ticks, *[lambda: clock.advance(4e-10)] * 100_000, clock.ticks)
    assert after - before == 4000


def test_an_engine_begins_and_goes_on_after_a_wait_at_the_latest_time(clock: ModelClock) -> None:
    a, b = Engine(clock, "a"), Engine(clock, "b")
    start, end = a.do(clock.ticks, lambda: clock.advance(1e-6) or clock.ticks())
    assert end - start == 100
    assert b.do(clock.ticks) == [end]

    def other() -> None:
        Engine(clock, "c").do(lambda: clock.advance(1e-6))
    apart, together = b.do(lambda: other() or clock.ticks(), lambda: clock.join() or clock.ticks())
    assert apart == end and together == end + 100


def test_two_engines_at_work_do_not_add_up(clock: ModelClock) -> None:
    a, b = Engine(clock, "a"), Engine(clock, "b")

    def meanwhile() -> None:
        b.do(lambda: clock.advance(3e-6))
    start, end = a.do(clock.ticks, lambda: meanwhile() or clock.advance(5e-6) or clock.ticks())
    assert end - start == 500
    assert abs(clock.ticks() - end) == 1        # the CPU: the latest, one tick on


def test_copies_by_their_way(clock: ModelClock) -> None:
    for way, (source, destination) in {"local": (True, True), "to_host": (True, False),
                                       "from_host": (False, True)}.items():
        def copy(source: bool = source, destination: bool = destination) -> None:
            clock.copy_begins()
            clock.copied(1 << 20, from_vram=source, to_vram=destination)
        before, _, after = Engine(clock, "sdma").do(clock.ticks, copy, clock.ticks)
        expected = (SDMA_PACKET_S + (1 << 20) / SDMA_BYTES_PER_S[way]) * CLOCK_HZ
        assert abs(after - before - expected) <= 1


def test_the_cpu_neither_works_nor_stands_still(clock: ModelClock) -> None:
    first = clock.ticks()
    clock.advance(1.0)
    clock.join()
    assert clock.ticks() == first + 1


def test_the_hosts_clock_passes_by_itself() -> None:
    clock = make_clock("wall")
    assert isinstance(clock, WallClock) and not clock.modelled
    first = clock.ticks()
    clock.advance(1e6)
    assert first <= clock.ticks() < first + 10 ** 6 * CLOCK_HZ
    with pytest.raises(ValueError, match="clock='noon' must be one of wall, model"):
        make_clock("noon")
