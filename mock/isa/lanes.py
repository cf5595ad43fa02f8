"""Data movement between lanes that is fixed at decode time: DPP controls and ds_swizzle patterns.

Every pattern is an array of source lanes (one a lane, -1 where the pattern has none), which makes a gather of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from mock.isa.decode import Dpp
from mock.isa.state import State

__all__ = ["dpp_sources", "enabled", "moved", "swizzle_sources"]


@lru_cache(maxsize=4096)
def dpp_sources(dpp: Dpp, lanes: int) -> np.ndarray:
    """intp[lanes] source lanes, -1 for none (RDNA3 ISA, "DPP16", "DPP8")."""
    lane = np.arange(lanes)
    row, inside = lane & ~15, lane & 15
    if dpp.lanes is not None:
        return (lane & ~7) + np.array(dpp.lanes)[lane & 7]
    c = dpp.control
    if c < 0x100:                                   # quad_perm
        return (lane & ~3) + (c >> (lane & 3) * 2 & 3)
    n = c & 15
    if c >> 4 == 0x10 and n:                        # row_shl: take from a higher lane
        return np.where(inside + n < 16, lane + n, -1)
    if c >> 4 == 0x11 and n:                        # row_shr
        return np.where(inside >= n, lane - n, -1)
    if c >> 4 == 0x12 and n:                        # row_ror
        return row + (inside - n & 15)
    if c == 0x140:                                  # row_mirror
        return row + 15 - inside
    if c == 0x141:                                  # row_half_mirror
        return (lane & ~7) + 7 - (lane & 7)
    if c >> 4 == 0x15:                              # row_share
        return row + n
    if c >> 4 == 0x16:                              # row_xmask
        return row + (inside ^ n)
    raise ValueError(f"DPP control {c:#x} is reserved")


def moved(read: Callable[[State], Any], dpp: Dpp, lanes: int) -> Callable[[State], Any]:
    """The operand as DPP delivers it; 0 where the source is invalid (such lanes may be kept from being written)."""
    sources = dpp_sources(dpp, lanes)
    valid = sources >= 0
    index = np.where(valid, sources, 0)

    def fetch(s: State) -> Any:
        value = read(s)
        if isinstance(value, tuple):
            return tuple(_take(s, v) for v in value)
        return _take(s, value)

    def _take(s: State, value: Any) -> Any:
        value = s.v.full(value)[index]
        bad = _invalid(s)
        if bad is not None:
            value = np.where(bad, value.dtype.type(0), value)
        return value

    def _invalid(s: State) -> Any:
        bad = ~valid[:, None] if not valid.all() else None
        if s.mask is not None and not dpp.fetch_inactive:
            inactive = ~s.mask[index]
            bad = inactive if bad is None else bad | inactive
        return bad
    return fetch


def enabled(dpp: Dpp, lanes: int) -> Callable[[State], Any]:
    """Which lanes a DPP instruction writes: EXEC, the row and bank masks, and valid sources unless they read as 0."""
    sources = dpp_sources(dpp, lanes)
    valid = sources >= 0
    index = np.where(valid, sources, 0)
    lane = np.arange(lanes)
    if dpp.lanes is not None:
        chosen = np.ones(lanes, np.bool_)
    else:
        chosen = (dpp.row_mask >> (lane // 16 & 3) & 1 != 0) & (dpp.bank_mask >> (lane % 16 // 4) & 1 != 0)
    keeps = not dpp.bound_control and dpp.lanes is None
    static = chosen & valid if keeps else chosen

    def mask(s: State) -> Any:
        result = None if static.all() else np.broadcast_to(static[:, None], (s.lanes, s.waves))
        if s.mask is not None:
            result = s.mask if result is None else result & s.mask
            if keeps and not dpp.fetch_inactive:
                result = result & s.mask[index]
        return result
    return mask


@lru_cache(maxsize=1024)
def swizzle_sources(pattern: int, lanes: int) -> np.ndarray:
    """ds_swizzle_b32's 16-bit offset -> intp[lanes] source lanes (RDNA3 ISA, DS_SWIZZLE_B32)."""
    lane = np.arange(lanes)
    group, inside = lane & ~31, lane & 31
    if pattern >= 0xe000:                           # FFT: bit reversal of the bits that the mask leaves
        reverse = np.array([int(f"{i:05b}"[::-1], 2) for i in range(32)])
        mask = pattern & 31
        return group + (reverse[inside] >> mask.bit_count() | inside & mask)
    if pattern >= 0xc000:                           # rotate within 32, keeping the masked bits
        keep, amount = pattern & 31, pattern >> 5 & 31
        target = inside + (-amount if pattern >> 10 & 1 else amount)
        return group + (inside & keep | target & ~keep & 31)
    if pattern & 0x8000:                            # four lanes share a pattern
        return (lane & ~3) + (pattern >> (lane & 3) * 2 & 3)
    and_mask, or_mask, xor_mask = pattern & 31, pattern >> 5 & 31, pattern >> 10 & 31
    return group + ((inside & and_mask | or_mask) ^ xor_mask)
