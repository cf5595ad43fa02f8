"""The search among optional rewrites: what it tries, what it keeps, and what it remembers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from compiler import Tensor, engine
from compiler.cache import DiskCache
from compiler.choices import Choice, optimized
from compiler.heuristics import choose
from compiler.optimize import merge_ranges
from compiler.schedule import normalize, schedule
from compiler.search import actions, beam_width, search
from compiler.uop import UOp


def product(m: int = 64, n: int = 96, k: int = 32) -> UOp:
    a, b = Tensor(np.ones((m, k), np.float32)), Tensor(np.ones((k, n), np.float32) * 2)
    roots, _ = normalize([(a @ b).uop])
    return schedule(roots, "CPU").items[0].sink     # type: ignore[union-attr]


def copies(choices: Sequence[Choice]) -> int:
    out = 1
    for c in choices:
        out *= c.amounts[0] if c.kind == "upcast" else 1
    return out


@pytest.mark.parametrize("gpu", [False, True])
def test_the_search_finds_the_least_and_remembers_it(gpu: bool, tmp_path: Path) -> None:
    """With a made-up clock that likes 16 outputs in one turn of eight iterations."""
    tried: list[tuple[Choice, ...]] = []

    def measure(choices: tuple[Choice, ...]) -> float:
        tried.append(choices)
        unrolled = sum(c.amounts[0] for c in choices if c.kind == "unroll")
        return abs(copies(choices) - 16) + abs(unrolled - 8)
    sink, cache = product(16, 16, 8), DiskCache(tmp_path)
    found = search(sink, gpu, 2, measure, "somewhere", cache)
    assert copies(found) == 16 and [c.amounts for c in found if c.kind == "unroll"] == [(8,)]
    assert len(set(tried)) == len(tried) and () in tried
    assert all(optimized(sink, c, gpu) is not None for c in tried)
    count = len(tried)
    assert search(sink, gpu, 2, measure, "somewhere", cache) == found and len(tried) == count
    search(sink, gpu, 2, measure, "elsewhere", cache)
    assert len(tried) > count


def test_the_heuristics_choice_is_the_least_that_comes_out(tmp_path: Path) -> None:
    sink = product(256, 256, 256)
    known = tuple(choose(merge_ranges(sink), True))
    assert known
    found = search(sink, True, 1, lambda c: 0.0 if c == known else 1.0, "x", DiskCache(tmp_path))
    assert tuple(found) == known
    # and where nothing runs, there is still an answer
    assert search(sink, True, 1, lambda c: None, "y", DiskCache(tmp_path)) == list(known)


def test_actions_end() -> None:
    sink = merge_ranges(product())
    state: list[Choice] = []
    while more := [a for a in actions(sink, state, True) if a.kind != "shared"]:
        state.append(more[-1])
        assert len(state) < 40
    assert copies(state) <= 64


def test_beam_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for text, width in (("", 0), ("0", 0), ("3", 3)):
        monkeypatch.setenv("BEAM", text)
        assert beam_width() == width
    monkeypatch.setenv("BEAM", "much")
    with pytest.raises(ValueError, match="BEAM=much: give a number, 0 for no search"):
        beam_width()
    monkeypatch.setenv("BEAM", "1")
    monkeypatch.setattr(engine, "disk_cache", lambda: DiskCache(tmp_path))
    a = np.arange(24, dtype=np.float32).reshape(4, 6) - 7
    out = Tensor(a) @ Tensor(a.T.copy()) + 0.125
    np.testing.assert_allclose(out.numpy(), a @ a.T + 0.125)
    assert any(p.is_file() for p in tmp_path.rglob("*"))
