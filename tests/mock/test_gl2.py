"""GL2 against a model: a cache of whole pages with a dirty bit for each byte, and memory below it."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mock.caches import GL0, GL1, ReadCaches
from mock.gl2 import Gl2, PagePool
from mock.vram import PAGE, Vram

PAGES = 6
WINDOW = (1, 5)         # pages that the CPU has a window on
PLACES = st.tuples(st.integers(*(WINDOW[0], WINDOW[1] - 1)), st.integers(0, 31), st.integers(1, 8))
"""Page, which eighth... of it, how many of these."""
STEP = 128


def make() -> tuple[Vram, Gl2, ReadCaches]:
    vram = Vram(PAGES * PAGE, poison=False)
    caches: list[ReadCaches] = []

    def before_change(first: int, end: int, by: object) -> None:
        caches[0].before_change(first, end)
    gl2 = Gl2(vram, lambda rule, text: None, before_change, lambda host, stored, data: None)
    caches.append(ReadCaches(vram.view, lambda rule, text: None, PagePool(), (GL0, GL1)))
    vram.gl2 = gl2
    return vram, gl2, caches[0]


class Gl2Machine(RuleBasedStateMachine):
    """Nobody stores where another one's stores are still on the way: what comes of that is chance on silicon."""

    @initialize()
    def begin(self) -> None:
        self.vram, self.gl2, _ = make()
        self.window = np.frombuffer(self.vram.window(WINDOW[0] * PAGE, (WINDOW[1] - WINDOW[0]) * PAGE), np.uint8)
        self.memory = np.zeros(PAGES * PAGE, np.uint8)
        self.cached = np.zeros(PAGES * PAGE, np.uint8)          # what GL2's lines hold, where it holds the page
        self.held = np.zeros(PAGES, np.bool_)
        self.dirty = np.zeros(PAGES * PAGE, np.bool_)
        self.posted = np.zeros(PAGES * PAGE, np.bool_)          # stores of the CPU before the flush
        self.cpu = np.zeros(PAGES * PAGE, np.uint8)
        self.value = 0

    def _range(self, place: tuple[int, int, int]) -> slice:
        page, at, count = place
        start = page * PAGE + at * STEP
        return slice(start, min(start + count * STEP, (page + 1) * PAGE))

    def _hold(self, page: int) -> None:
        if not self.held[page]:
            part = slice(page * PAGE, (page + 1) * PAGE)
            self.cached[part] = np.where(self.dirty[part], self.cached[part], self.memory[part])
            self.held[page] = True

    def _next(self) -> int:
        self.value = self.value % 250 + 1
        return self.value

    @rule(place=PLACES)
    def cpu_stores(self, place: tuple[int, int, int]) -> None:
        where = self._range(place)
        if self.dirty[where].any():
            return
        value = self._next()
        self.window[where.start - WINDOW[0] * PAGE:where.stop - WINDOW[0] * PAGE] = value
        self.cpu[where], self.posted[where] = value, True

    @rule()
    def flush(self) -> None:
        self.vram.flush()
        self.memory[self.posted] = self.cpu[self.posted]
        self.posted[:] = False

    @rule(place=PLACES)
    def engine_stores(self, place: tuple[int, int, int]) -> None:
        where, page = self._range(place), place[0]
        waiting = self.held[page] and (self.cached[where] != self.memory[where]).any() and not self.dirty[where].any()
        if self.posted[where].any() or waiting:
            return
        value = self._next()
        if self.gl2.waiting:
            self.gl2.meet(page, True)
        self.vram.view[where] = value
        self.gl2.stored(np.array([page]), self.gl2.arrival().by)
        self._hold(page)
        self.cached[where], self.dirty[where] = value, True

    @rule(page=st.integers(WINDOW[0], WINDOW[1] - 1))
    def engine_reads(self, page: int) -> None:
        self.gl2.touch(np.array([page]))
        self._hold(page)
        part = slice(page * PAGE, (page + 1) * PAGE)
        assert np.array_equal(self.vram.view[part], self.cached[part])

    @rule(page=st.integers(WINDOW[0], WINDOW[1] - 1))
    def somebody_outside_reads(self, page: int) -> None:
        pointer = self.vram.outside(page, False, "a test")
        assert self.vram._twin is not None
        base = self.vram._twin.base if self.vram._twin.base <= pointer < self.vram._twin.base + self.vram.size \
            else self.vram.base
        found = (self.vram._twin.bytes if base == self.vram._twin.base else self.vram.view)[pointer - base:][:PAGE]
        part = slice(page * PAGE, (page + 1) * PAGE)
        assert np.array_equal(found, self.memory[part])

    @rule()
    def write_back(self) -> None:
        self.gl2.write_back()
        self.memory[self.dirty] = self.cached[self.dirty]
        self.dirty[:] = False

    @rule(page=st.integers(WINDOW[0], WINDOW[1] - 1))
    def write_back_one(self, page: int) -> None:
        self.gl2.write_back(np.array([page]))
        part = np.zeros(PAGES * PAGE, np.bool_)
        part[page * PAGE:(page + 1) * PAGE] = True
        part &= self.dirty
        self.memory[part] = self.cached[part]
        self.dirty[part] = False

    @rule()
    def invalidate(self) -> None:
        self.gl2.invalidate()
        self.held[:] = False

    @rule(page=st.integers(WINDOW[0], WINDOW[1] - 1))
    def invalidate_one(self, page: int) -> None:
        self.gl2.invalidate(np.array([page]))
        self.held[page] = False

    @precondition(lambda self: not self.dirty.any() and not self.posted.any())
    @rule()
    def all_agree(self) -> None:
        self.gl2.invalidate()
        self.held[:] = False
        part = slice(WINDOW[0] * PAGE, WINDOW[1] * PAGE)
        assert np.array_equal(self.window, self.memory[part])
        assert np.array_equal(self.vram.view[part], self.memory[part])

    @invariant()
    def the_cpu_sees_memory_and_its_own_stores(self) -> None:
        if not hasattr(self, "window"):
            return
        part = slice(WINDOW[0] * PAGE, WINDOW[1] * PAGE)
        seen = np.where(self.posted[part], self.cpu[part], self.memory[part])
        assert np.array_equal(self.window, seen)


TestGl2 = Gl2Machine.TestCase
TestGl2.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@settings(max_examples=200, deadline=None)
@example([("load", 0), ("store", 0), ("gl0", 0), ("load", 0), ("gl1", 0), ("load", 0)])
@example([("load", 0), ("gl1", 0), ("load", 0), ("store", 0), ("gl0", 0), ("load", 0)])
@given(st.lists(st.tuples(st.sampled_from(["load", "store", "gl0", "gl1"]), st.integers(0, 1)), max_size=30))
def test_read_caches_against_a_model(steps: list[tuple[str, int]]) -> None:
    """Two levels, each with the bytes of when it took the page from below."""
    vram, _, caches = make()
    model: list[dict[int, int]] = [{}, {}]          # GL0, GL1: page -> what it holds
    content, value = [0] * PAGES, 0
    for what, page in steps:
        if what == "store":
            value += 1
            caches.before_change(page, page + 1)
            vram.view[page * PAGE] = value % 256
            content[page] = value
        elif what == "load":
            if page not in model[0]:
                model[0][page] = model[1].setdefault(page, content[page])
            wanted = model[0][page]
            caches.load((GL0, GL1), np.array([page]))
            copy = caches.find((GL0, GL1), page)
            found = int(vram.view[page * PAGE]) if copy is None else int(copy[0].data[0])
            assert found == wanted % 256
        else:
            level = 0 if what == "gl0" else 1
            caches.invalidate((GL0, GL1)[level])
            model[level].clear()
