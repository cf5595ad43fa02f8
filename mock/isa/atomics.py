"""Atomics of many lanes at once, as if the lanes had gone one after the other.

Lanes with addresses of their own go together. Where lanes share an address there are three ways: a running total
(``ufunc.accumulate``) for the operations that have one, whole rounds of losers for compare-and-swap, and one lane of
each address at a time for the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mock.isa.semantics import Atomic
from mock.isa.vocabulary import DTYPES

if TYPE_CHECKING:
    from mock.isa.memory import Space, Where
    from mock.isa.state import State

__all__ = ["perform"]

U64 = np.uint64
_SCANS: dict[str, Any] = {"add": np.add, "sub": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and,
                          "or": np.bitwise_or, "xor": np.bitwise_xor}


def perform(space: Space, s: State, where: Where, atomic: Atomic, operands: list[np.ndarray]) -> np.ndarray:
    """Read-modify-write in lane order; returns the old values."""
    kind = DTYPES[atomic.kind]
    if where.lds is not None:       # beyond the allocation nothing is kept, and 0 is read
        inside = where.addresses + U64(np.dtype(kind).itemsize) <= U64(space.lds.nbytes)
        inside = inside if where.lds is True else inside | ~where.lds
        if not inside.all():
            chosen = np.flatnonzero(inside)
            result = np.zeros(len(inside), kind)
            if len(chosen):
                result[chosen] = perform(space, s, where.pick(chosen), atomic, [x[chosen] for x in operands])
            return result
    keys = where.addresses
    ask = getattr(space.accessor.memory, "before_atomic", None)     # a memory may refuse atomics
    if ask is not None and where.lds is not True:
        ask(keys if where.lds is None else keys[~where.lds])
    if where.lds is not None:
        keys = keys + where.base.astype(U64) + np.where(where.lds, U64(1) << U64(63), U64(0))
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    if len(starts) == len(keys):
        old, = space.load(s, where, kind, 1)
        _write(space, s, where, atomic, old, operands, kind)
        return old
    sizes = np.diff(np.append(starts, len(keys)))
    if atomic.compares and atomic.exchanges:
        return _compare_rounds(space, s, where, keys, kind, operands)
    plain_float = atomic.kind[0] != "f" or (atomic.scan == "add" and s.v.plain[kind])
    if atomic.scan is not None and plain_float and len(starts) <= sizes.max():
        return _running(space, s, where, atomic, operands[0], kind, order, starts, sizes)
    return _one_each(space, s, where, atomic, operands, kind, order, starts, sizes)


def _write(space: Space, s: State, where: Where, atomic: Atomic, old: np.ndarray, operands: list[np.ndarray],
           kind: type) -> None:
    new = atomic.function(s.v, old, *operands)
    space.store(s, where, [np.broadcast_to(np.asarray(new).astype(kind, copy=False), old.shape)])


def _running(space: Space, s: State, where: Where, atomic: Atomic, data: np.ndarray, kind: type, order: np.ndarray,
             starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Few addresses with many lanes each: a running result per address."""
    old: np.ndarray = np.empty(len(data), kind)
    heads = where.pick(order[starts])
    current, = space.load(s, heads, kind, 1)
    final = np.empty_like(current)
    if atomic.scan == "sub":
        data = (~data + kind(1)).astype(kind)
    for i, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        lanes = order[start:start + size]
        sequence = np.concatenate((current[i:i + 1], data[lanes]))
        if atomic.scan != "swap":
            sequence = _SCANS[str(atomic.scan)].accumulate(sequence, dtype=kind)
        old[lanes], final[i] = sequence[:-1], sequence[-1]
    space.store(s, heads, [final])
    return old


def _one_each(space: Space, s: State, where: Where, atomic: Atomic, operands: list[np.ndarray], kind: type,
              order: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The n-th lane of every address in turn n."""
    old: np.ndarray = np.empty(len(order), kind)
    for turn in range(int(sizes.max())):
        now = order[starts[sizes > turn] + turn]
        part = where.pick(now)
        old[now], = space.load(s, part, kind, 1)
        _write(space, s, part, atomic, old[now], [x[now] for x in operands], kind)
    return old


def _compare_rounds(space: Space, s: State, where: Where, keys: np.ndarray, kind: type,
                    operands: list[np.ndarray]) -> np.ndarray:
    """Each round settles, at every address, the lanes up to the first whose comparison holds."""
    new, expected = operands
    old: np.ndarray = np.empty(len(keys), kind)
    left: np.ndarray = np.arange(len(keys))
    while len(left):
        part = where.pick(left)
        current, = space.load(s, part, kind, 1)
        matching = np.flatnonzero(current == expected[left])
        addresses, index = np.unique(keys[left[matching]], return_index=True)
        winners = matching[index]
        first = np.full(len(left), len(left))
        if len(winners):
            position = np.searchsorted(addresses, keys[left]).clip(max=len(addresses) - 1)
            first = np.where(addresses[position] == keys[left], winners[position], len(left))
            space.store(s, where.pick(left[winners]), [new[left[winners]]])
        settled = np.arange(len(left)) <= first
        old[left[settled]] = current[settled]
        left = left[~settled]
    return old
