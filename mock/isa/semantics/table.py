"""The form of an entry.

A signature names types, sources before and results after the arrow: ``"f32 f32 d:f32 -> f32"``. The explicit ones are
matched with the instruction's operands in order. Marks:

====================  =======================================================================================
u32 i32 f32 b32 ...   a register (or two for 64 bits, half of one for 16); float types take neg, abs, omod, clamp
d:T                   the destination's old value
k:T                   the literal of ``fmamk``/``fmaak``
imm, uimm             SOPK's 16-bit constant, sign- or zero-extended
mask                  one bit a lane: the operand where there is one, otherwise VCC
scc                   the scalar condition code
exec                  EXEC as u64 (results: written), with w:64 types truncated to the wave's width
2f16 2bf16 4u8 8u4    a register as a tuple of parts (sources of dot products)
p:T                   both halves of a register: the function is applied to each
mix                   v_fma_mix: f32, or half of a register as f32, by op_sel_hi
rN                    N consecutive registers, raw: u32[N, lanes, waves]
====================  =======================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Atomic", "Entry", "Load", "Store", "Table"]

Function = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """``function(v, *sources)`` -> the result, or a tuple when there are several.

    ``saturating`` takes its place when the clamp bit is set on an integer instruction. With ``modifiers`` the
    function also gets ``neg=`` (the raw bits), for instructions that give them another meaning.
    """

    mnemonic: str
    sources: tuple[str, ...]
    results: tuple[str, ...]
    function: Function
    saturating: Function | None = None
    modifiers: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """Memory -> register: elements of type ``kind``, extended by its signedness; ``half`` 0/1 for the D16 forms."""

    kind: str
    count: int = 1
    half: int | None = None


@dataclass(frozen=True, slots=True)
class Store:
    """Register -> memory; ``half`` 1 takes the register's upper half."""

    kind: str
    count: int = 1
    half: int = 0


@dataclass(frozen=True, slots=True)
class Atomic:
    """Memory <- function(v, memory, data, second); the old value may be returned.

    ``compares``: there is a second operand. ``exchanges``: it is what memory must equal for the data to be stored.
    ``scan``: the function is add, sub, min, max, and, or, xor or swap of memory and data, nothing more.
    """

    kind: str
    function: Function
    compares: bool = False
    exchanges: bool = False
    scan: str | None = None


class Table(dict[str, "Entry | Load | Store | Atomic"]):
    """Mnemonic -> entry."""

    def op(self, mnemonic: str, signature: str, function: Function, *, saturating: Function | None = None,
           modifiers: bool = False) -> None:
        sources, _, results = signature.partition("->")
        if mnemonic in self:
            raise ValueError(f"{mnemonic} is defined twice")
        self[mnemonic] = Entry(mnemonic, tuple(sources.split()), tuple(results.split()), function, saturating,
                               modifiers)
