"""Wave matrix multiply: 16x16 tiles spread over a wave's lanes (RDNA3 ISA, "Wave Matrix Multiply Accumulate").

A: lane l holds row l mod 16, its 16 elements packed from the low bits of the first register on. B: the same with
columns. C and D: register i of lane l holds row i * (lanes / 16) + l / 16, column l mod 16.

The guide does not say in which order the hardware adds. Here it is k = 0, 1, ..., 15, one fused multiply-add each; f16
and bf16 accumulators are f32 inside and are rounded at the end. A NaN result is always the positive quiet one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mock.isa import exact

__all__ = ["multiply_tiles"]

Array = Any
SIZE = 16
_BITS = {"f16": 16, "bf16": 16, "iu8": 8, "iu4": 4}


def _elements(registers: Array, width: int) -> np.ndarray:
    """uint32[registers, lanes, waves] -> uint32[16 (k), 16 (row or column), waves]."""
    words = np.stack([np.asarray(r)[:SIZE] for r in registers])
    per_word = 32 // width
    parts = [words >> np.uint32(width * j) & np.uint32((1 << width) - 1) for j in range(per_word)]
    return np.stack(parts, axis=1).reshape(SIZE, SIZE, words.shape[-1])


def _float_elements(registers: Array, source: str, negate: int) -> np.ndarray:
    """float32 values; ``negate`` bit 0 flips the even elements' signs, bit 1 those of the odd ones."""
    raw = _elements(registers, 16)
    if source == "f16":
        values = raw.astype(np.uint16).view(np.float16).astype(np.float32)
    else:
        values = (raw << np.uint32(16)).view(np.float32)
    if negate:
        values = values.copy()
        for half in (0, 1):
            if negate >> half & 1:
                values[half::2] = -values[half::2]
    return values


def multiply_tiles(lanes: int, source: str, accumulator: str, a: Array, b: Array, c: Array, *, neg: int = 0,
                   neg_hi: int = 0, op_sel: int = 0, clamp: int = 0) -> list[np.ndarray]:
    """The new registers of D. For integers neg bits 0 and 1 make A and B signed, clamp saturates."""
    registers = 256 // lanes
    lane = np.arange(lanes)
    rows = np.arange(registers)[:, None] * (lanes // SIZE) + lane[None, :] // SIZE      # [registers, lanes]
    columns = np.broadcast_to(lane % SIZE, rows.shape)
    waves = np.asarray(c[0]).shape[-1]
    half = op_sel >> 2 & 1
    old = np.stack([np.asarray(c[i]) for i in range(registers)])                        # [registers, lanes, waves]
    tile: np.ndarray = np.empty((SIZE, SIZE, waves), np.int64 if accumulator == "i32" else np.float32)
    if accumulator == "i32":
        tile[rows, columns] = old.view(np.int32)
        width = _BITS[source]
        left, right = (_signed(_elements(x, width), width, bool(neg >> i & 1)) for i, x in enumerate((a, b)))
        tile += np.einsum("krw,kcw->rcw", left, right)
        if clamp:
            tile = np.clip(tile, -2 ** 31, 2 ** 31 - 1)
        result = tile.astype(np.int32).view(np.uint32)[rows, columns]
        return list(result)
    if accumulator == "f32":
        start = old.view(np.float32)
    else:
        bits = old >> np.uint32(16 * half) & np.uint32(0xffff)
        start = (bits.astype(np.uint16).view(np.float16).astype(np.float32) if accumulator == "f16"
                 else (bits << np.uint32(16)).view(np.float32))
    start = np.abs(start) if neg_hi >> 2 & 1 else start
    tile[rows, columns] = -start if neg >> 2 & 1 else start
    left, right = (_float_elements(x, source, neg >> i & 1 | (neg_hi >> i & 1) << 1) for i, x in enumerate((a, b)))
    for k in range(SIZE):
        x, y = left[k][:, None, :], right[k][None, :, :]
        # The product of two halves is exact in float32, so that a plain addition is the fused operation.
        tile = tile + x * y if source == "f16" else exact.fma_f32(*np.broadcast_arrays(x, y, tile))
    result = tile[rows, columns]
    result = np.where(np.isnan(result), np.uint32(0x7fc00000).view(np.float32), result)
    if accumulator == "f32":
        return list(result.view(np.uint32))
    if accumulator == "f16":
        short = result.astype(np.float16).view(np.uint16).astype(np.uint32)
    else:
        bits = result.view(np.uint32)
        even = bits + np.uint32(0x7fff) + (bits >> np.uint32(16) & np.uint32(1)) >> np.uint32(16)
        short = np.where(np.isnan(result), np.uint32(0x7fc0), even)
    keep = np.uint32(0xffff if half else 0xffff0000)
    return list(old & keep | short << np.uint32(16 * half))


def _signed(values: np.ndarray, width: int, signed: bool) -> np.ndarray:
    wide = values.astype(np.int64)
    return np.where(wide >> width - 1 & 1 != 0, wide - (1 << width), wide) if signed else wide
