"""The operating system's answer to "what was stored to", against what was stored."""

from __future__ import annotations

import mmap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mock.vram import PAGE
from mock.writetracking import track

PAGES = 2000


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sets(st.integers(0, PAGES - 1), max_size=600), min_size=1, max_size=4))
def test_exactly_the_stored_pages_are_reported(rounds: list[set[int]]) -> None:
    memory = mmap.mmap(-1, PAGES * PAGE)
    view = np.frombuffer(memory, np.uint8)
    tracker = track(int(view.ctypes.data), PAGES * PAGE)
    if tracker is None:
        pytest.skip("this system does not tell")
    view[::PAGE] = 0
    tracker.written(0, PAGES)
    for stored in rounds:
        for page in stored:
            view[page * PAGE + 5] = 1
        found = [p for a, b in tracker.written(0, PAGES, again=True) for p in range(a, b)]
        assert found == sorted(stored)
        assert found == [p for a, b in tracker.written(0, PAGES) for p in range(a, b)]
        assert tracker.written(0, PAGES) == []
    tracker.close()
