"""Random programs of everything at once: fusion, reductions, movement, assignment, computing in any order."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from compiler import Tensor

Pair = tuple[np.ndarray, Tensor]


def _softmax(a: np.ndarray) -> np.ndarray:
    e = np.exp(a - a.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def _total(axis: int) -> Callable[[Pair, Pair], Pair]:
    return lambda p, q: (np.broadcast_to(p[0].sum(axis, keepdims=True) * 0.3, p[0].shape),
                         (p[1].sum(axis, keepdim=True) * 0.3).expand(*p[0].shape).clone())


# each makes a new matrix of the same size from two others
MAKE: list[Callable[[Pair, Pair], Pair]] = [
    lambda p, q: (p[0] * 0.7 + q[0], p[1] * 0.7 + q[1]),
    lambda p, q: (p[0] @ q[0] * 0.2, p[1] @ q[1] * 0.2),
    lambda p, q: (_softmax(p[0]), p[1].softmax(1)),
    lambda p, q: (p[0].T, p[1].T.clone()),        # views are another test's matter
    lambda p, q: (p[0][::-1], p[1].flip(0)),
    lambda p, q: (np.pad(p[0], ((1, 0), (0, 0)))[:-1], p[1].pad([(1, 0), (0, 0)])[:-1]),
    lambda p, q: (np.concatenate([p[0], q[0]])[1:len(p[0]) + 1], p[1].cat(q[1])[1:len(p[0]) + 1]),
    _total(0), _total(1),
]
# each is assigned to the first
ASSIGN: list[Callable[[Pair, Pair], tuple[Any, Any]]] = [
    lambda p, q: (p[0] + q[0], p[1] + q[1]),
    lambda p, q: (p[0].T + q[0], p[1].T + q[1]),
    lambda p, q: (q[0], q[1]),
]


@pytest.mark.parametrize("seed", range(40))
def test_random_program(seed: int) -> None:
    rng = random.Random(seed)
    n = rng.choice([1, 3, 4, 6])
    values = [np.random.RandomState(seed + k).uniform(-1, 1, (n, n)) for k in range(3)]
    pairs: list[Pair] = [(v, Tensor(v)) for v in values]
    for _ in range(rng.randint(3, 14)):
        i, j = rng.randrange(len(pairs)), rng.randrange(len(pairs))
        what = rng.random()
        if what < 0.65:
            pairs.append(rng.choice(MAKE)(pairs[i], pairs[j]))
        elif what < 0.85:
            array, tensor = rng.choice(ASSIGN)(pairs[i], pairs[j])
            pairs[i] = (np.array(array), pairs[i][1].assign(tensor))
        else:
            pairs[i][1].realize()
    rng.shuffle(pairs)
    for array, tensor in pairs:
        np.testing.assert_allclose(tensor.numpy(), array, rtol=1e-9, atol=1e-11)
