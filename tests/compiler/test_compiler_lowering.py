"""Kernels that are alike are lowered once, and come out as if each had been lowered by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from compiler import Tensor, watch
from compiler import schedule as scheduling
from compiler.lower import Output, lower
from compiler.schedule import KernelItem, normalize, schedule
from compiler.uop import UOp


def layers(count: int) -> list[Tensor]:
    """A few layers, the statistics of each, and weights that are overwritten."""
    rng = np.random.RandomState(0)
    x = Tensor(rng.rand(4, 16).astype(np.float32))
    out = []
    for _ in range(count):
        w, b = Tensor(rng.rand(16, 16).astype(np.float32)), Tensor(rng.rand(16).astype(np.float32))
        x = (x @ w.T + b).softmax(-1)
        out += [x.max(0), w.assign(w * 0.9 + x.sum(0)), b.assign(b - w.sum(1))]
    return [x, *out]


@pytest.mark.parametrize("device", ["CPU", "AM"])
def test_layers_are_lowered_once(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    once = scheduling._lower_once

    def both(outputs: Sequence[Output], leaves: dict[UOp, int], known: scheduling._Known) -> UOp:
        before = len(known)
        found = once(outputs, leaves, known)
        made.append(len(known) - before)
        assert found is lower(outputs, dict(leaves))
        return found
    monkeypatch.setattr(scheduling, "_lower_once", both)
    monkeypatch.setattr(watch, "watchers", [])      # who watches sees every kernel lowered
    counts = []
    for count in (2, 6):
        made.clear()
        roots, _ = normalize([t.uop for t in layers(count)])
        plan = schedule(roots, device)
        assert sum(isinstance(item, KernelItem) for item in plan.items) == len(made)
        counts.append((len(made), sum(made)))
    (kernels, lowered), (more, also) = counts
    assert more >= 3 * (kernels - 2)            # the first and the last layer may have neighbours that the others lack
    assert also <= lowered + 2 and lowered < kernels
