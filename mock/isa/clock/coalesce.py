"""What one memory instruction of a wave becomes: cache lines, or cycles of LDS. NumPy over all waves at once."""

from __future__ import annotations

import numpy as np

from mock.isa.clock.constants import LDS_BANKS, LINE

__all__ = ["lds_cycles", "lines_of"]

U64 = np.uint64
_SHIFT = U64(LINE.bit_length() - 1)
_WAVE = U64(41)
_LINES = (1 << 41) - 1
_ADDRESS = U64((1 << 48) - 1)


def lines_of(addresses: np.ndarray, waves: np.ndarray, nbytes: int, count: int,
             line_shift: int | None = None) -> list[list[int]]:
    """Which lines each of ``count`` waves touches: addresses of ``nbytes`` each, and the wave that each belongs to."""
    shift = _SHIFT if line_shift is None else U64(line_shift)
    addresses = addresses & _ADDRESS
    owner = waves.astype(U64) << _WAVE
    keys = np.unique(owner | addresses >> shift)
    ends = addresses + U64(nbytes - 1)
    if ((addresses ^ ends) >> shift).any():
        middle = [owner | addresses + U64(step) >> shift for step in range(1 << int(shift), nbytes, 1 << int(shift))]
        keys = np.unique(np.concatenate([keys, owner | ends >> shift, *middle]))
    bounds = np.searchsorted(keys >> _WAVE, np.arange(count + 1, dtype=U64)).tolist()
    lines = (keys & U64(_LINES)).tolist()
    return [lines[bounds[i]:bounds[i + 1]] for i in range(count)]


def lds_cycles(addresses: np.ndarray, mask: np.ndarray | None, nbytes: int, *, serial: bool = False) -> np.ndarray:
    """Cycles of LDS for uint32 addresses [lanes, waves] of ``nbytes`` each -> int64[waves].

    Lanes are served in groups of 32 dwords (32 lanes of a dword, 16 of two, 8 of four); a group takes as many cycles
    as the busiest bank has different dwords. ``serial``: atomics, where lanes of the same dword wait for each other.
    """
    lanes, waves = addresses.shape
    dwords = max(nbytes // 4, 1)
    together = max(32 // (1 if dwords == 1 else 2 if dwords == 2 else 4), 1)
    groups = lanes // together
    base = (addresses.astype(np.int64) >> 2).T.reshape(waves * groups, together)
    if dwords > 1:
        base = (base[:, :, None] + np.arange(dwords)).reshape(waves * groups, together * dwords)
    active = None
    if mask is not None:
        active = np.repeat(np.ascontiguousarray(mask.T).reshape(waves * groups, together), dwords, axis=1)
    bank = base % LDS_BANKS
    order = np.argsort(base, axis=1, kind="stable")
    dword = np.take_along_axis(base, order, 1)
    bank = np.take_along_axis(bank, order, 1)
    counted = np.ones(base.shape, np.bool_)
    if active is not None:
        active = np.take_along_axis(active, order, 1)
        # An inactive lane must not hide an active one of the same dword: put them last among equals by sorting again.
        order = np.argsort(dword * 2 + ~active, axis=1, kind="stable")
        dword, bank, active = (np.take_along_axis(x, order, 1) for x in (dword, bank, active))
        counted = active.copy()
    if not serial:
        counted[:, 1:] &= dword[:, 1:] != dword[:, :-1]
    rows = np.arange(len(base))[:, None] * LDS_BANKS + bank
    load = np.bincount(rows[counted], minlength=len(base) * LDS_BANKS).reshape(len(base), LDS_BANKS).max(axis=1)
    result: np.ndarray = load.reshape(waves, groups).sum(axis=1)
    return result
