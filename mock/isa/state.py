"""The registers of a group of waves that stand at the same PC.

Layout: vector registers are [register, lane, wave], scalar ones [register, wave]; so a scalar meets a vector by plain
broadcasting and every row is contiguous. Waves that part ways are copied into states of their own and joined again
where they meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mock.isa.vocabulary import Vocabulary

__all__ = ["State"]

SGPRS = 128                     # 0..105, VCC 106, TTMP 108..123, NULL 124, M0 125, EXEC 126
VCC, NULL, M0, EXEC = 106, 124, 125, 126


class State:
    """``waves`` waves of ``lanes`` lanes at ``pc`` (bytes relative to the dispatch's code address)."""

    def __init__(self, lanes: int, vgpr: np.ndarray, sgpr: np.ndarray, per_wave: dict[str, np.ndarray], pc: int,
                 mode: int) -> None:
        self.lanes, self.waves = lanes, sgpr.shape[1]
        self.vgpr, self.sgpr = vgpr, sgpr
        self.vf, self.vi = vgpr.view(np.float32), vgpr.view(np.int32)
        self.sf, self.si = sgpr.view(np.float32), sgpr.view(np.int32)
        self.per_wave = per_wave        # "workgroup", "wave", "lds", "scratch", "scc", "id": arrays [waves]
        for name in ("status", "trapsts"):      # what STATUS holds beside flags kept elsewhere, and TRAPSTS
            if name not in per_wave:
                per_wave[name] = np.zeros(self.waves, np.uint32)
        self.pc = pc
        self.mode = mode
        self.v: Vocabulary = None       # type: ignore[assignment]
        self.lane_ids = np.arange(lanes, dtype=np.uint32)[:, None]
        self.mask: np.ndarray | None = None
        self.refresh_exec()

    # -- EXEC and masks ---------------------------------------------------------------------------------------

    @property
    def scc(self) -> np.ndarray:
        return self.per_wave["scc"]

    @scc.setter
    def scc(self, value: Any) -> None:
        self.per_wave["scc"] = np.broadcast_to(value, (self.waves,)) if np.ndim(value) == 0 else value

    def refresh_exec(self) -> None:
        """After a write to EXEC: the mask as bools, or None while every lane is active."""
        rows = self.sgpr[EXEC:EXEC + self.lanes // 32]
        self.mask = None if (rows == 0xffffffff).all() else self.unpack_rows(rows)

    def unpack_rows(self, rows: np.ndarray) -> np.ndarray:
        """uint32[lanes // 32, waves] -> bool[lanes, waves]."""
        octets = np.ascontiguousarray(rows.T).view(np.uint8)            # [waves, lanes / 8]
        return np.unpackbits(octets.T, axis=0, bitorder="little").view(np.bool_)

    def pack_rows(self, mask: np.ndarray) -> np.ndarray:
        """bool[lanes, waves] -> uint32[lanes // 32, waves]."""
        mask = np.broadcast_to(mask, (self.lanes, self.waves))
        octets = np.packbits(mask, axis=0, bitorder="little")           # [lanes / 8, waves]
        return np.ascontiguousarray(octets.T).view(np.uint32).T

    def unpack_mask(self, bits: np.ndarray) -> np.ndarray:
        return self.unpack_rows(np.ascontiguousarray(np.broadcast_to(bits, (self.waves,))).view(np.uint32)
                                .reshape(self.waves, 2).T[:self.lanes // 32])

    def pack_mask(self, mask: np.ndarray) -> np.ndarray:
        """Mask, with inactive lanes 0, as u64 [waves]."""
        if self.mask is not None:
            mask = mask & self.mask
        rows = self.pack_rows(mask).astype(np.uint64)
        return rows[0] | rows[1] << np.uint64(32) if self.lanes == 64 else rows[0]

    def active(self) -> np.ndarray:
        return np.broadcast_to(np.True_, (self.lanes, self.waves)) if self.mask is None else self.mask

    def read_mask(self, code: int) -> np.ndarray:
        """A lane mask in SGPRs ``code``..."""
        if code == NULL:
            return np.zeros((self.lanes, self.waves), np.bool_)
        return self.unpack_rows(self.sgpr[code:code + self.lanes // 32])

    def write_mask(self, code: int, mask: np.ndarray) -> None:
        """``mask``, with inactive lanes 0, to SGPRs ``code``..."""
        if code == NULL:
            return
        if self.mask is not None:
            mask = mask & self.mask
        self.sgpr[code:code + self.lanes // 32] = self.pack_rows(mask)
        if code == EXEC:
            self.refresh_exec()

    # -- 64-bit registers -------------------------------------------------------------------------------------

    def read_sgpr64(self, code: int) -> np.ndarray:
        if code == NULL:
            return np.zeros(self.waves, np.uint64)
        return self.sgpr[code].astype(np.uint64) | self.sgpr[code + 1].astype(np.uint64) << np.uint64(32)

    def write_sgpr64(self, code: int, value: np.ndarray) -> None:
        if code == NULL:
            return
        value = np.asarray(value)
        value = value.view(np.uint64)
        self.sgpr[code] = value.astype(np.uint32)
        self.sgpr[code + 1] = (value >> np.uint64(32)).astype(np.uint32)
        if code == EXEC:
            self.refresh_exec()

    def read_vgpr64(self, register: int) -> np.ndarray:
        out = np.empty((self.lanes, self.waves), np.uint64)
        halves = out.view(np.uint32)
        halves[:, 0::2] = self.vgpr[register]
        halves[:, 1::2] = self.vgpr[register + 1]
        return out

    # -- parting and joining ----------------------------------------------------------------------------------

    def take(self, which: np.ndarray) -> State:
        """A copy of the waves that ``which`` selects (indices or bools)."""
        return State(self.lanes, np.ascontiguousarray(self.vgpr[:, :, which]),
                     np.ascontiguousarray(self.sgpr[:, which]), {k: a[which] for k, a in self.per_wave.items()},
                     self.pc, self.mode)

    @staticmethod
    def join(states: Sequence[State]) -> State:
        first = states[0]
        if len(states) == 1:
            return first
        return State(first.lanes, np.concatenate([s.vgpr for s in states], axis=2),
                     np.concatenate([s.sgpr for s in states], axis=1),
                     {k: np.concatenate([s.per_wave[k] for s in states]) for k in first.per_wave}, first.pc, first.mode)
