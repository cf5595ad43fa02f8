"""A small recording for the tests of VIZ: a product with a softmax, recorded once a process and device."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np

from compiler import Tensor, jit, viz
from compiler.engine import _programs, _schedules


def attention(device: str) -> Tensor:
    x = Tensor(np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4), device=device)
    w = Tensor(np.linspace(1, -1, 256, dtype=np.float32).reshape(64, 4), device=device)
    return (x @ w.T).relu().softmax(-1)


@jit
def twice(x: Tensor) -> Tensor:
    return (x * 2).exp().sum()


@cache
def recorded(device: str) -> str:
    """JSON; what was built before is built again, so that it is seen."""
    _schedules.clear()
    _programs.clear()
    with viz.record() as recorder:
        assert abs(attention(device).numpy().sum() - 8) < 1e-4
        a = Tensor(np.ones((64, 64), np.float32), device=device)
        assert (a @ a).numpy()[0, 0] == 64
        for _ in range(4):
            assert twice(Tensor(np.zeros(16, np.float32), device=device)).item() == 16
    return recorder.json()


def recording(device: str) -> dict[str, Any]:
    return json.loads(recorded(device))     # type: ignore[no-any-return]
