"""Shared memory of a schedule: less of it, and never two values in one place at one time."""

from __future__ import annotations

import random

import numpy as np
import pytest

from compiler import Tensor, dtypes
from compiler.buffer import pool
from compiler.memory import peak_bytes, share_memory
from compiler.schedule import KernelItem, Schedule, Slot, normalize, schedule
from compiler.uop import Ops, UOp


@pytest.mark.parametrize("seed", range(30))
def test_no_two_values_share_a_place_while_both_live(seed: int) -> None:
    """Random schedules are run on tags: each kernel leaves its mark, and finds the marks that it was written for."""
    rng = random.Random(seed)
    inputs, count = rng.randint(1, 3), rng.randint(2, 14)
    sink = UOp(Ops.SINK, dtypes.bool_, ())
    made = [Slot(rng.choice(["CPU", "CPU", "AM"]), rng.choice([dtypes.float32, dtypes.int8]), rng.randint(1, 9))
            for _ in range(count)]
    items = []
    for n in range(count):
        mine = [inputs + k for k in range(n) if made[k].device == made[n].device]
        reads = rng.sample([*range(inputs), *mine], rng.randint(0, min(3, inputs + len(mine))))
        items.append(KernelItem(sink, made[n].device, (inputs + n, *reads), (inputs + n,)))
    roots = [inputs + count - 1, *rng.sample(range(inputs, inputs + count), rng.randint(0, 2))]
    plan = Schedule(inputs, made, list(items), roots)
    shared = share_memory(plan)
    assert peak_bytes(shared) <= peak_bytes(plan) and len(shared.items) == len(items)
    marks: dict[int, object] = {s: ("input", s) for s in range(inputs)}
    for n, (old, new) in enumerate(zip(items, shared.items, strict=True)):
        assert isinstance(new, KernelItem)
        for was, now in zip(old.slots[1:], new.slots[1:], strict=True):
            assert marks[now] == (("input", was) if was < inputs else ("made", was))
        place = new.slots[0]
        assert place not in new.slots[1:] and new.writes == (place,)
        slot = shared.made[place - inputs]
        assert slot.device == made[n].device
        assert slot.size * slot.dtype.itemsize >= made[n].size * made[n].dtype.itemsize
        marks[place] = ("made", inputs + n)
    assert [marks[s] for s in shared.roots] == [("made", s) for s in roots]


def test_a_chain_needs_two_places() -> None:
    x = Tensor(np.ones((32, 32), np.float32))
    for _ in range(6):
        x = (x @ x) * 0.01
    roots, _ = normalize([x.uop])
    plan = schedule(roots, "CPU")
    assert len(plan.made) == 6
    assert len(share_memory(plan).made) == 3        # two in turns, and the result


def test_values_stay_right() -> None:
    a = np.random.RandomState(0).uniform(-1, 1, (24, 24)).astype(np.float32)
    x, want = Tensor(a), a.astype(np.float64)
    kept = []
    for n in range(8):
        x = (x @ x.T).tanh() + n % 2
        want = np.tanh(want @ want.T) + n % 2
        kept.append((x, want))
    picked = [kept[k] for k in (7, 2, 5)]
    picked[0][0].realize(*(t for t, _ in picked[1:]))
    for tensor, value in picked:
        np.testing.assert_allclose(tensor.numpy(), value, rtol=2e-3, atol=2e-3)
    assert pool("CPU").used <= pool("CPU").peak
