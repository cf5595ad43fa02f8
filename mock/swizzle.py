"""Swizzled surfaces: where an element of a tiled surface lies.

Facts: Mesa 25.0, addrlib, gfx11SwizzlePattern.h (the patterns, here for the pipe configuration of Navi 31's
GB_ADDR_CONFIG: 32 pipes, 32 packers), gfx11addrlib.cpp (SwizzleModeTable: which mode is what; GetSwizzlePatternInfo:
which pattern a mode has in two and in three dimensions), addrlib2.cpp (sizes of blocks: Block256_2d, Block1K_3d,
ComputeThinBlockDimension, ComputeThickBlockDimension), addrtypes.h (numbers of modes).

A surface is rows of blocks, padded to whole blocks; within a block, bit i of an element's offset is the exclusive or of
coordinate bits that EQUATIONS name. Thick blocks (three-dimensional surfaces in S and D modes) hold several slices.
Mip levels and several samples a pixel are not modelled.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

__all__ = ["EQUATIONS", "MODES_2D", "MODES_3D", "Surface", "SwizzleError"]

LINEAR = 0
BLOCK_BITS = {"256B": 8, "4KB": 12, "64KB": 16, "256KB": 18}
BLOCK_256 = ((4, 4), (4, 3), (3, 3), (3, 2), (2, 2))
"""log2 of width and height, in elements, of 256 bytes of a thin block, by log2 of the element's bytes."""
BLOCK_1K = ((4, 3, 3), (3, 3, 3), (3, 3, 2), (3, 2, 2), (2, 2, 2))

MODES_2D = {2: "256B_D", 6: "4KB_D", 10: "64KB_D", 18: "64KB_D_T", 22: "4KB_D_X", 24: "64KB_ZR_X", 26: "64KB_D_X",
            27: "64KB_ZR_X", 28: "256KB_ZR_X", 30: "256KB_D_X", 31: "256KB_ZR_X"}
MODES_3D = {5: "4KB_S", 9: "64KB_S", 17: "64KB_S_T", 21: "4KB_S_X", 24: "64KB_ZR_X", 25: "64KB_S_X",
            26: "64KB_D_X of 3D", 27: "64KB_ZR_X", 28: "256KB_ZR_X", 29: "256KB_S_X", 31: "256KB_ZR_X"}
"""{number of a swizzle mode: its pattern}."""
THICK = ("4KB_S", "64KB_S", "64KB_S_T", "4KB_S_X", "64KB_S_X", "64KB_D_X of 3D", "256KB_S_X")

EQUATIONS: dict[str, tuple[str, ...]] = {
    "256B_D": (
        "X0 X1 Y0 X2 Y1 Y2 X3 Y3",
        "0 X0 Y0 X1 Y1 X2 Y2 X3",
        "0 0 X0 Y0 X1 Y1 X2 Y2",
        "0 0 0 X0 Y0 X1 X2 Y1",
        "0 0 0 0 X0 Y0 X1 Y1",
        ),
    "4KB_D": (
        "X0 X1 Y0 X2 Y1 Y2 X3 Y3 Y4 X4 Y5 X5",
        "0 X0 Y0 X1 Y1 X2 Y2 X3 Y3 X4 Y4 X5",
        "0 0 X0 Y0 X1 Y1 X2 Y2 Y3 X3 Y4 X4",
        "0 0 0 X0 Y0 X1 X2 Y1 Y2 X3 Y3 X4",
        "0 0 0 0 X0 Y0 X1 Y1 Y2 X2 Y3 X3",
        ),
    "4KB_D_X": (
        "X0 X1 Y0 X2 Y1 Y2 X3 Y3 Z3^Y4^X7 Z2^X4^Y7 Z1^Y5^X6 Z0^X5^Y6",
        "0 X0 Y0 X1 Y1 X2 Y2 X3 Y3^Z3^X7 Z2^X4^Y6 Z1^Y4^X6 Z0^X5^Y5",
        "0 0 X0 Y0 X1 Y1 X2 Y2 Y3^Z3^X6 Z2^X3^Y6 Z1^Y4^X5 Z0^X4^Y5",
        "0 0 0 X0 Y0 X1 X2 Y1 Y2^Z3^X6 Z2^X3^Y5 Z1^Y3^X5 Z0^X4^Y4",
        "0 0 0 0 X0 Y0 X1 Y1 Y2^Z3^X5 X2^Z2^Y5 Z1^Y3^X4 Z0^X3^Y4",
        ),
    "64KB_D": (
        "X0 X1 Y0 X2 Y1 Y2 X3 Y3 Y4 X4 Y5 X5 Y6 X6 Y7 X7",
        "0 X0 Y0 X1 Y1 X2 Y2 X3 Y3 X4 Y4 X5 Y5 X6 Y6 X7",
        "0 0 X0 Y0 X1 Y1 X2 Y2 Y3 X3 Y4 X4 Y5 X5 Y6 X6",
        "0 0 0 X0 Y0 X1 X2 Y1 Y2 X3 Y3 X4 Y4 X5 Y5 X6",
        "0 0 0 0 X0 Y0 X1 Y1 Y2 X2 Y3 X3 Y4 X4 Y5 X5",
        ),
    "64KB_D_X": (
        "X0 X1 Y0 X2 Y1 Y2 X3 Y3 Y4^Z4^X8 Z3^X4^Y8 Z2^Y5^X7 Z1^X5^Y7 Z0^X6^Y6 X6 Y7 X7",
        "0 X0 Y0 X1 Y1 X2 Y2 X3 Y3^Z4^X8 Z3^X4^Y7 Z2^Y4^X7 Z1^X5^Y6 Z0^Y5^X6 X6 Y6 X7",
        "0 0 X0 Y0 X1 Y1 X2 Y2 Y3^Z4^X7 X3^Z3^Y7 Z2^Y4^X6 Z1^X4^Y6 Z0^X5^Y5 X5 Y6 X6",
        "0 0 0 X0 Y0 X1 X2 Y1 Y2^Z4^X7 X3^Z3^Y6 Z2^Y3^X6 Z1^X4^Y5 Z0^Y4^X5 X5 Y5 X6",
        "0 0 0 0 X0 Y0 X1 Y1 Y2^Z4^X6 X2^Z3^Y6 Z2^Y3^X5 Z1^X3^Y5 Z0^X4^Y4 X4 Y5 X5",
        ),
    "64KB_D_T": (
        "X0 X1 Y0 X2 Y1 Y2 X3 Y3 Y4 X4 Y5^X7 X5^Y7 X6^Y6 X6 Y7 X7",
        "0 X0 Y0 X1 Y1 X2 Y2 X3 Y3 X4 Y4^X7 X5^Y6 Y5^X6 X6 Y6 X7",
        "0 0 X0 Y0 X1 Y1 X2 Y2 Y3 X3 Y4^X6 X4^Y6 X5^Y5 X5 Y6 X6",
        "0 0 0 X0 Y0 X1 X2 Y1 Y2 X3 Y3^X6 X4^Y5 Y4^X5 X5 Y5 X6",
        "0 0 0 0 X0 Y0 X1 Y1 Y2 X2 Y3^X5 X3^Y5 X4^Y4 X4 Y5 X5",
        ),
    "256KB_D_X": (
        "X0 X1 Y0 X2 Y1 Y2 X3 Y3 Y4^Z4^X8 Z3^X4^Y8 Z2^Y5^X7 Z1^X5^Y7 Z0^X6^Y6 X6 Y7 X7 Y8 X8",
        "0 X0 Y0 X1 Y1 X2 Y2 X3 Y3^Z4^X8 Z3^X4^Y7 Z2^Y4^X7 Z1^X5^Y6 Z0^Y5^X6 X6 Y6 X7 Y7 X8",
        "0 0 X0 Y0 X1 Y1 X2 Y2 Y3^Z4^X7 X3^Z3^Y7 Z2^Y4^X6 Z1^X4^Y6 Z0^X5^Y5 X5 Y6 X6 Y7 X7",
        "0 0 0 X0 Y0 X1 X2 Y1 Y2^Z4^X7 X3^Z3^Y6 Z2^Y3^X6 Z1^X4^Y5 Z0^Y4^X5 X5 Y5 X6 Y6 X7",
        "0 0 0 0 X0 Y0 X1 Y1 Y2^Z4^X6 X2^Z3^Y6 Z2^Y3^X5 Z1^X3^Y5 Z0^X4^Y4 X4 Y5 X5 Y6 X6",
        ),
    "64KB_ZR_X": (
        "X0 X1 Y0 X2 Y1 Y2 X3 Y3 Y4^X9^Y9 Z1^X4^Y4 Z0^Y5^X8 X5^Y8 Y6^X7 X7 Y7 X6^Y7",
        "0 X0 Y0 X1 Y1 X2 Y2 X3 Y4^X9^Y9 Z1^X4^Y4 Z0^Y5^X8 X5^Y8 Y6^X7 Y3 X7 X6^Y7",
        "0 0 X0 Y0 X1 Y1 X2 Y2 Y4^X9^Y9 Z1^X4^Y4 Z0^Y5^X8 X5^Y8 Y6^X7 X3 Y3 X6^Y7",
        "0 0 0 X0 Y0 X1 X2 Y1 Y4^X9^Y9 Z3^X4^Y4 Z2^Y5^X8 Z1^X5^Y8 Y2^Y6^X7 X3 Y3 Z0^X6^Y7",
        "0 0 0 0 X0 Y0 X1 Y1 Y4^X9^Y9 Z2^X4^Y4 Z1^Y5^X8 Z0^X5^Y8 Y2^Y6^X7 X3 Y3 X2^X6^Y7",
        ),
    "256KB_ZR_X": (
        "X0 X1 Y0 X2 Y1 Y2 X3 Y3 Y4^X9^Y9 Z1^X4^Y4 Z0^Y5^X8 X5^Y8 Y6^X7 X7 Y7 X8^Y9 Y8^X9 X6^Y7",
        "0 X0 Y0 X1 Y1 X2 Y2 X3 Y4^X9^Y9 Z1^X4^Y4 Z0^Y5^X8 X5^Y8 Y6^X7 Y3 X7 X8^Y8 Y7^X9 X6^Y7",
        "0 0 X0 Y0 X1 Y1 X2 Y2 Y4^X9^Y9 Z1^X4^Y4 Z0^Y5^X8 X5^Y8 Y6^X7 X3 Y3 X7^Y8 Y7^X8 X6^Y7",
        "0 0 0 X0 Y0 X1 X2 Y1 Y4^X9^Y9 X4^Y4^Z4 Z3^Y5^X8 Z2^X5^Y8 Z1^Y6^X7 Y2 X3 Y3^X8 X7^Y7 Z0^X6^Y7",
        "0 0 0 0 X0 Y0 X1 Y1 Y4^X9^Y9 X4^Y4^Z4 Z3^Y5^X8 Z2^X5^Y8 Z1^Y6^X7 X2 Y2 Y3^X7 X3^Y7 Z0^X6^Y7",
        ),
    "4KB_S": (
        "X0 X1 Z0 Y0 Y1 Z1 X2 Z2 Y2 X3 Z3 Y3",
        "0 X0 Z0 Y0 X1 Z1 Y1 Z2 Y2 X2 Z3 Y3",
        "0 0 X0 Y0 X1 Z0 Y1 Z1 Y2 X2 Z2 Y3",
        "0 0 0 X0 Y0 Z0 X1 Z1 Y1 X2 Z2 Y2",
        "0 0 0 0 X0 Z0 Y0 Z1 Y1 X1 Z2 Y2",
        ),
    "4KB_S_X": (
        "X0 X1 Z0 Y0 Y1 Z1 X2 Z2 Y2^X6^Z6 X3^Y5^Z5 Z3^Y4^X5 Y3^X4^Z4",
        "0 X0 Z0 Y0 X1 Z1 Y1 Z2 Y2^X5^Z6 X2^Y5^Z5 Z3^X4^Y4 X3^Y3^Z4",
        "0 0 X0 Y0 X1 Z0 Y1 Z1 Y2^X5^Z5 X2^Z4^Y5 Z2^X4^Y4 X3^Y3^Z3",
        "0 0 0 X0 Y0 Z0 X1 Z1 Y1^X5^Z5 X2^Y4^Z4 Z2^Y3^X4 Y2^X3^Z3",
        "0 0 0 0 X0 Z0 Y0 Z1 Y1^X4^Z5 X1^Y4^Z4 Z2^X3^Y3 X2^Y2^Z3",
        ),
    "64KB_S": (
        "X0 X1 Z0 Y0 Y1 Z1 X2 Z2 Y2 X3 Z3 Y3 X4 Z4 Y4 X5",
        "0 X0 Z0 Y0 X1 Z1 Y1 Z2 Y2 X2 Z3 Y3 X3 Z4 Y4 X4",
        "0 0 X0 Y0 X1 Z0 Y1 Z1 Y2 X2 Z2 Y3 X3 Z3 Y4 X4",
        "0 0 0 X0 Y0 Z0 X1 Z1 Y1 X2 Z2 Y2 X3 Z3 Y3 X4",
        "0 0 0 0 X0 Z0 Y0 Z1 Y1 X1 Z2 Y2 X2 Z3 Y3 X3",
        ),
    "64KB_S_X": (
        "X0 X1 Z0 Y0 Y1 Z1 X2 Z2 Y2^X7^Z7 X3^Y6^Z6 Z3^Y5^X6 Y3^X5^Z5 X4^Y4^Z4 Z4 Y4 X5",
        "0 X0 Z0 Y0 X1 Z1 Y1 Z2 Y2^X6^Z7 X2^Y6^Z6 Z3^X5^Y5 Y3^X4^Z5 X3^Y4^Z4 Z4 Y4 X4",
        "0 0 X0 Y0 X1 Z0 Y1 Z1 Y2^X6^Z6 X2^Z5^Y6 Z2^X5^Y5 Y3^X4^Z4 X3^Z3^Y4 Z3 Y4 X4",
        "0 0 0 X0 Y0 Z0 X1 Z1 Y1^X6^Z6 X2^Y5^Z5 Z2^Y4^X5 Y2^X4^Z4 X3^Y3^Z3 Z3 Y3 X4",
        "0 0 0 0 X0 Z0 Y0 Z1 Y1^X5^Z6 X1^Y5^Z5 Z2^X4^Y4 Y2^X3^Z4 X2^Y3^Z3 Z3 Y3 X3",
        ),
    "64KB_S_T": (
        "X0 X1 Z0 Y0 Y1 Z1 X2 Z2 Y2 X3 Z3 Y3^X5 X4^Y4^Z4 Z4 Y4 X5",
        "0 X0 Z0 Y0 X1 Z1 Y1 Z2 Y2 X2 Z3 Y3^X4 X3^Y4^Z4 Z4 Y4 X4",
        "0 0 X0 Y0 X1 Z0 Y1 Z1 Y2 X2 Z2 Y3^X4 X3^Z3^Y4 Z3 Y4 X4",
        "0 0 0 X0 Y0 Z0 X1 Z1 Y1 X2 Z2 Y2^X4 X3^Y3^Z3 Z3 Y3 X4",
        "0 0 0 0 X0 Z0 Y0 Z1 Y1 X1 Z2 Y2^X3 X2^Y3^Z3 Z3 Y3 X3",
        ),
    "256KB_S_X": (
        "X0 X1 Z0 Y0 Y1 Z1 X2 Z2 Y2^X7^Z7 X3^Y6^Z6 Z3^Y5^X6 Y3^X5^Z5 X4^Y4^Z4 Z4 Y4 X5 Z5 Y5",
        "0 X0 Z0 Y0 X1 Z1 Y1 Z2 Y2^X6^Z7 X2^Y6^Z6 Z3^X5^Y5 Y3^X4^Z5 X3^Y4^Z4 Z4 Y4 X4 Z5 Y5",
        "0 0 X0 Y0 X1 Z0 Y1 Z1 Y2^X6^Z6 X2^Z5^Y6 Z2^X5^Y5 Y3^X4^Z4 X3^Z3^Y4 Z3 Y4 X4 Z4 Y5",
        "0 0 0 X0 Y0 Z0 X1 Z1 Y1^X6^Z6 X2^Y5^Z5 Z2^Y4^X5 Y2^X4^Z4 X3^Y3^Z3 Z3 Y3 X4 Z4 Y4",
        "0 0 0 0 X0 Z0 Y0 Z1 Y1^X5^Z6 X1^Y5^Z5 Z2^X4^Y4 Y2^X3^Z4 X2^Y3^Z3 Z3 Y3 X3 Z4 Y4",
        ),
    "64KB_D_X of 3D": (
        "X0 X1 Z0 Y0 Y1 Z1 X2 Z2 Y4^X9^Y9 X4^Y4 Y2^Y5^X8 X5^Y8 Y3^Y6^X7 X3 Z4 Z3^X6^Y7",
        "0 X0 Z0 Y0 X1 Z1 Y1 Z2 Y4^X9^Y9 X4^Y4 Y2^Y5^X8 Z3^X5^Y8 Y3^Y6^X7 Z4 X3 X2^X6^Y7",
        "0 0 X0 Y0 X1 Z0 Y1 Z1 Y4^X9^Y9 X4^Y4 Y2^Y5^X8 Z2^X5^Y8 Y3^Y6^X7 Z3 X3 X2^X6^Y7",
        "0 0 0 X0 Y0 Z0 X1 Z1 Z3^Y4^X9^Y9 X4^Y4 Y1^Y5^X8 Z2^X5^Y8 Y2^Y6^X7 Y3 X3 X2^X6^Y7",
        "0 0 0 0 X0 Z0 Y0 Z1 Z3^Y4^X9^Y9 Y1^X4^Y4 X1^Y5^X8 Z2^X5^Y8 Y2^Y6^X7 Y3 X3 X2^X6^Y7",
        ),
}
"""{pattern: offset bits from 0 on, for elements of 1, 2, 4, 8 and 16 bytes}."""


class SwizzleError(ValueError):
    """A surface that this card does not have."""


@cache
def _equation(pattern: str, log2: int) -> tuple[tuple[int, tuple[tuple[int, int], ...]], ...]:
    """((offset bit, ((axis, coordinate bit), ...)), ...)"""
    found = []
    for bit, terms in enumerate(EQUATIONS[pattern][log2].split()):
        if terms != "0":
            found.append((bit, tuple(("XYZ".index(term[0]), int(term[1:])) for term in terms.split("^"))))
    return tuple(found)


@cache
def _block(pattern: str, log2: int) -> tuple[int, int, int]:
    """log2 of a block's width, height and depth in elements."""
    bits = BLOCK_BITS[pattern.split("_")[0]]
    if pattern in THICK:
        average, rest = divmod(bits - 10, 3)
        width, height, depth = BLOCK_1K[log2]
        return width + average, height + average + rest // 2, depth + average + (1 if rest else 0)
    width, height = BLOCK_256[log2]
    return width + (bits - 8) // 2, height + (bits - 8) // 2, 0


@dataclass(frozen=True)
class Surface:
    """``at`` gives addresses of elements. ``pitch`` and ``slice_pitch`` are in elements, of linear surfaces only;
    ``dimension`` is 0 to 2 for one to three."""

    address: int
    element_log2: int
    width: int = 0
    height: int = 1
    mode: int = LINEAR
    dimension: int = 1
    pitch: int = 0
    slice_pitch: int = 0

    def __post_init__(self) -> None:
        if self.element_log2 > 4:
            raise SwizzleError(f"elements of {1 << self.element_log2} bytes; there are 1 to 16")
        if self.mode != LINEAR:
            modes = MODES_3D if self.dimension == 2 else MODES_2D
            if self.mode not in modes or self.dimension > 2:
                raise SwizzleError(f"swizzle mode {self.mode} is none of gfx11's for {self.dimension + 1} dimensions: "
                                   f"{', '.join(map(str, modes))}")

    @property
    def pattern(self) -> str:
        return (MODES_3D if self.dimension == 2 else MODES_2D)[self.mode]

    def at(self, x: np.ndarray, y: np.ndarray, z: np.ndarray | np.uint64) -> np.ndarray:
        """uint64 coordinates, of shapes that go together -> uint64 addresses."""
        x, y, z = (np.asarray(axis, np.uint64) for axis in (x, y, z))
        if self.mode == LINEAR:
            pitch = self.pitch or self.width
            element = x + y * np.uint64(pitch) + z * np.uint64(self.slice_pitch or pitch * self.height)
            return np.uint64(self.address) + (element << np.uint64(self.element_log2))
        pattern = self.pattern
        size = BLOCK_BITS[pattern.split("_")[0]]
        w, h, d = _block(pattern, self.element_log2)
        across, down = -(-self.width // (1 << w)), -(-self.height // (1 << h))
        block = (x >> np.uint64(w)) + (y >> np.uint64(h)) * np.uint64(across) \
            + (z >> np.uint64(d)) * np.uint64(across * down)
        offset = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape), np.uint64)
        for bit, terms in _equation(pattern, self.element_log2):
            value: np.ndarray | np.uint64 = np.uint64(0)
            for axis, number in terms:
                value = value ^ (x, y, z)[axis] >> np.uint64(number)
            offset = offset | (value & np.uint64(1)) << np.uint64(bit)
        mask = (1 << size) - 1          # low bits of the address choose the first pipe and bank
        return np.uint64(self.address & ~mask) + (block << np.uint64(size)) \
            + (offset ^ np.uint64(self.address & mask))
