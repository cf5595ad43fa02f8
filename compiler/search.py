"""``BEAM=n``: choices found by trying them, the best n of each round going on to the next.

The score is the device's own time for the kernel, on memory of its own (zeros). What was found is kept on disk, by
the kernel, the target and n; a kernel that was searched for once costs nothing afterwards. The heuristics' choice is
among those that are tried, so a search never ends with less.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import product as combinations
from math import prod

from compiler.cache import DiskCache
from compiler.choices import Choice, optimized
from compiler.heuristics import choose
from compiler.lower import Axis, divides
from compiler.matrix import find_product
from compiler.optimize import merge_ranges, ranges_of
from compiler.uop import Ops, UOp

__all__ = ["actions", "beam_width", "search"]

_COPIES = 64        # outputs of a work-item at most
_DEPTH = 16         # iterations of a reduction in one turn at most
_ITEMS = 256        # work-items of a workgroup at most
_ROUNDS = 8
_VERSION = "beam 1"


def beam_width() -> int:
    """``BEAM`` in the environment; 0 means that heuristics choose."""
    text = os.environ.get("BEAM", "") or "0"
    if not text.isdigit():
        raise ValueError(f"BEAM={text}: give a number, 0 for no search")
    return int(text)


def _amount(choices: Sequence[Choice], *kinds: str) -> int:
    return prod(c.amounts[0] for c in choices if c.kind in kinds)


def actions(sink: UOp, choices: Sequence[Choice], gpu: bool) -> Iterator[Choice]:
    """What may be chosen next, after ``choices``, for a kernel as ``merge_ranges`` leaves it."""
    kinds = {c.kind for c in choices}
    if kinds & {"shared", "group"}:
        return
    if gpu and not choices:
        for r in ranges_of(sink, Axis.REDUCE):
            yield from (Choice("group", r.arg[0], (n,)) for n in (32, 64, 128, 256) if divides(n, r))
    if gpu and not choices and find_product(sink) is not None:
        for waves, tile, depth in combinations(((1, 1), (2, 1), (2, 2), (2, 4)), ((1, 1), (2, 2), (4, 2), (2, 4)),
                                               (1, 2, 4)):
            yield Choice("matrix", 0, (*waves, *tile, depth))
    if "matrix" not in kinds:
        for axis in (Axis.GLOBAL, Axis.REDUCE):
            for r in ranges_of(sink, axis):
                taken = _amount([c for c in choices if c.axis == r.arg[0]], "upcast", "local", "unroll")
                left = r.src[0].arg // taken if r.src[0].op is Ops.CONST else 0
                for kind, limit in (("unroll", _DEPTH),) if axis is Axis.REDUCE else \
                        (("upcast", _COPIES), ("local", _ITEMS if gpu else 1)):
                    for n in (2, 4, 8, 16, 32):
                        if left and left % n == 0 and _amount(choices, kind) * n <= limit:
                            yield Choice(kind, r.arg[0], (n,))
    if gpu and kinds & {"local", "matrix"}:
        yield Choice("shared", 0, (0,))
        yield Choice("shared", 0, (1,))


def _read(data: bytes) -> list[Choice]:
    out = []
    for line in data.decode().splitlines():
        kind, axis, *amounts = line.split()
        out.append(Choice(kind, int(axis), tuple(map(int, amounts))))
    return out


def _written(choices: Sequence[Choice]) -> bytes:
    return "\n".join(" ".join(map(str, (c.kind, c.axis, *c.amounts))) for c in choices).encode()


def search(sink: UOp, gpu: bool, width: int, measure: Callable[[tuple[Choice, ...]], float | None], name: str,
           cache: DiskCache) -> list[Choice]:
    """The choices with the least time.

    :param measure: seconds of the kernel with some choices; None if it does not run.
    :param name: the target's, for the cache.
    """
    key = b"\0".join((_VERSION.encode(), name.encode(), str(width).encode(), sink.key))
    if (found := cache.get(key)) is not None:
        return _read(found)
    merged = merge_ranges(sink)
    first = choose(merged, gpu)
    scores: dict[tuple[Choice, ...], float] = {}
    seen: set[UOp] = set()

    def score(these: tuple[Choice, ...]) -> None:
        made = optimized(sink, these, gpu)
        if made is None or made in seen:
            return
        seen.add(made)
        if (seconds := measure(these)) is not None:
            scores[these] = seconds

    score(())
    score(tuple(first))
    front: list[tuple[Choice, ...]] = [()]
    best = min(scores.values(), default=float("inf"))
    for _ in range(_ROUNDS):
        more: list[tuple[Choice, ...]] = [(*state, action) for state in front for action in actions(merged, state, gpu)]
        for choices in more:
            score(choices)
        front = sorted((m for m in more if m in scores), key=lambda m: scores[m])[:width]
        if not front or scores[front[0]] >= best:
            break
        best = scores[front[0]]
    if not scores:
        return first
    result = list(min(scores.items(), key=lambda entry: entry[1])[0])
    cache.put(key, _written(result))
    return result
