"""Image instructions: how many registers their operands have. Nothing here executes them.

Addresses come as an offset, a bias, a reference value, derivatives, coordinates, and a level or clamp, as the mnemonic
names them (RDNA3 ISA, "Image instructions"); A16 packs coordinates in pairs, G16 derivatives. In the non-sequential
form a second dword names four more address registers, and the last of the five may begin a run.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DIMENSIONS", "address_words", "data_words", "nsa_groups"]

_NSA_REGISTERS = 5


@dataclass(frozen=True, slots=True)
class Dimension:
    """Its name, and how many coordinates and derivatives it has."""

    name: str
    coordinates: int
    derivatives: int


DIMENSIONS = (Dimension("1D", 1, 2), Dimension("2D", 2, 4), Dimension("3D", 3, 6), Dimension("CUBE", 3, 4),
              Dimension("1D_ARRAY", 2, 2), Dimension("2D_ARRAY", 3, 4), Dimension("2D_MSAA", 3, 4),
              Dimension("2D_MSAA_ARRAY", 4, 4))


def address_words(mnemonic: str, dimension: int, a16: bool) -> int:
    """Dwords of the address."""
    if "bvh" in mnemonic:           # node (64 bits: two), extent, origin, direction and its inverse
        return (8 if a16 else 11) + ("bvh64" in mnemonic)
    parts = mnemonic.split("_")
    dim = DIMENSIONS[dimension]
    sampled = parts[1].startswith(("sample", "gather4"))
    flags = set(parts[2:]) if sampled else set()
    words = sum(flag in flags for flag in ("o", "b", "c"))
    if "d" in flags:
        words += -(-dim.derivatives // 4) * 2 if "g16" in flags else dim.derivatives
    components = 0 if "resinfo" in parts else dim.coordinates
    components += bool({"l", "cl"} & flags) or "mip" in parts or "resinfo" in parts
    return words + (-(-components // 2) if a16 else components)


def data_words(mnemonic: str, dmask: int, d16: bool, tfe: bool) -> int:
    """Dwords of the data: one a bit of the mask, four of a gather; D16 packs pairs, TFE adds one."""
    if "bvh" in mnemonic:
        return 4
    words = 4 if "gather4" in mnemonic else max(dmask.bit_count(), 1)
    return (words + 1 >> 1 if d16 else words) + tfe


def nsa_groups(mnemonic: str, words: int, a16: bool) -> list[int]:
    """Registers that each of the non-sequential addresses begins."""
    if "bvh" in mnemonic:           # node, extent, origin, direction, inverse direction (packed by A16)
        return [1 + ("bvh64" in mnemonic), 1, 3, 3] if a16 else [1 + ("bvh64" in mnemonic), 1, 3, 3, 3]
    if words <= _NSA_REGISTERS:
        return [1] * words
    return [1] * (_NSA_REGISTERS - 1) + [words - _NSA_REGISTERS + 1]
