"""The instruction formats of gfx1100 as data: how to tell them apart, and where their fields are.

Bit positions are those of AMD's "RDNA3 Instruction Set Architecture" reference guide, chapter "Microcode
Formats"; the opcode numbers are in :mod:`mock.isa.opcodes`, which ``tools/autogen/isa.py`` asks of LLVM.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cache

__all__ = ["DPP16", "DPP8", "DPP8_FI", "ENCODINGS", "KINDS", "LITERAL", "Encoding", "find", "kind_of"]

LITERAL = 255
"""Source code: a 32-bit literal follows."""
DPP8, DPP8_FI, DPP16 = 233, 234, 250
"""Source codes of src0 in VOP1/VOP2/VOPC/VOP3/VOP3P: a DPP word follows and names the real src0 VGPR."""

KINDS = ((0, "SGPR"), (106, "VCC"), (108, "TTMP"), (124, "null"), (125, "M0"), (126, "EXEC"), (128, "integer"),
         (209, "reserved"), (233, "DPP8"), (235, "aperture"), (239, "POPS wave id"), (240, "float"), (249, "reserved"),
         (250, "DPP16"), (251, "VCCZ or EXECZ"), (253, "SCC"), (254, "LDS direct"), (255, "literal"), (256, "VGPR"),
         (384, "VGPR's upper half or v128 up"))
"""Kinds of codes in the source space: the first code of each, and what it is."""


@cache
def kind_of(code: int) -> int:
    """Index into :data:`KINDS`."""
    return bisect_right(KINDS, code, key=lambda kind: kind[0]) - 1


Fields = dict[str, tuple[int, int]]     # name -> (lowest bit, width)


@dataclass(frozen=True)
class Encoding:
    """One format. ``size`` is in bytes, literals and DPP words not counted."""

    name: str
    size: int
    shift: int              # of the fixed bits in the first dword
    value: int              # of the fixed bits
    fields: Fields

    def matches(self, word: int) -> bool:
        return word >> self.shift == self.value

    def unpack(self, bits: int) -> dict[str, int]:
        return {name: bits >> low & (1 << width) - 1 for name, (low, width) in self.fields.items()}

    def pack(self, **values: int) -> int:
        bits = self.value << self.shift
        for name, value in values.items():
            low, width = self.fields[name]
            if not 0 <= value < 1 << width:
                raise ValueError(f"{self.name}.{name} has {width} bits; {value:#x} does not fit")
            bits |= value << low
        return bits


_SEGMENT = {"offset": (0, 13), "dlc": (13, 1), "glc": (14, 1), "slc": (15, 1), "op": (18, 7), "addr": (32, 8),
            "data": (40, 8), "saddr": (48, 7), "sve": (55, 1), "vdst": (56, 8)}
_VOP3 = {"vdst": (0, 8), "abs": (8, 3), "op_sel": (11, 4), "clamp": (15, 1), "op": (16, 10), "src0": (32, 9),
         "src1": (41, 9), "src2": (50, 9), "omod": (59, 2), "neg": (61, 3)}

# More specific patterns stand before those that contain them.
ENCODINGS: dict[str, Encoding] = {e.name: e for e in (
    Encoding("SOP1", 4, 23, 0b101111101, {"ssrc0": (0, 8), "op": (8, 8), "sdst": (16, 7)}),
    Encoding("SOPC", 4, 23, 0b101111110, {"ssrc0": (0, 8), "ssrc1": (8, 8), "op": (16, 7)}),
    Encoding("SOPP", 4, 23, 0b101111111, {"simm16": (0, 16), "op": (16, 7)}),
    Encoding("SOPK", 4, 28, 0b1011, {"simm16": (0, 16), "sdst": (16, 7), "op": (23, 5)}),
    Encoding("SOP2", 4, 30, 0b10, {"ssrc0": (0, 8), "ssrc1": (8, 8), "sdst": (16, 7), "op": (23, 7)}),
    Encoding("VOPC", 4, 25, 0b0111110, {"src0": (0, 9), "vsrc1": (9, 8), "op": (17, 8)}),
    Encoding("VOP1", 4, 25, 0b0111111, {"src0": (0, 9), "op": (9, 8), "vdst": (17, 8)}),
    Encoding("VOP2", 4, 31, 0b0, {"src0": (0, 9), "vsrc1": (9, 8), "vdst": (17, 8), "op": (25, 6)}),
    Encoding("VOP3P", 8, 24, 0b11001100, {
        "vdst": (0, 8), "neg_hi": (8, 3), "op_sel": (11, 3), "op_sel_hi2": (14, 1), "clamp": (15, 1), "op": (16, 7),
        "src0": (32, 9), "src1": (41, 9), "src2": (50, 9), "op_sel_hi": (59, 2), "neg": (61, 3)}),
    Encoding("VINTERP", 8, 24, 0b11001101, {
        "vdst": (0, 8), "wait_exp": (8, 3), "op_sel": (11, 4), "clamp": (15, 1), "op": (16, 7),
        "src0": (32, 9), "src1": (41, 9), "src2": (50, 9), "neg": (61, 3)}),
    Encoding("LDSDIR", 4, 24, 0b11001110, {
        "vdst": (0, 8), "attr_chan": (8, 2), "attr": (10, 6), "wait_vdst": (16, 4), "op": (20, 2)}),
    Encoding("VOPD", 8, 26, 0b110010, {
        "src0x": (0, 9), "vsrc1x": (9, 8), "opy": (17, 5), "opx": (22, 4), "src0y": (32, 9), "vsrc1y": (41, 8),
        "vdsty": (49, 7), "vdstx": (56, 8)}),
    Encoding("VOP3SD", 8, 26, 0b110101, {
        "vdst": (0, 8), "sdst": (8, 7), "clamp": (15, 1), "op": (16, 10), "src0": (32, 9), "src1": (41, 9),
        "src2": (50, 9), "omod": (59, 2), "neg": (61, 3)}),
    Encoding("VOP3", 8, 26, 0b110101, _VOP3),
    Encoding("DS", 8, 26, 0b110110, {
        "offset0": (0, 8), "offset1": (8, 8), "gds": (17, 1), "op": (18, 8), "addr": (32, 8), "data0": (40, 8),
        "data1": (48, 8), "vdst": (56, 8)}),
    Encoding("FLAT", 8, 26, 0b110111, {**_SEGMENT, "seg": (16, 2)}),
    Encoding("SCRATCH", 8, 26, 0b110111, {**_SEGMENT, "seg": (16, 2)}),
    Encoding("GLOBAL", 8, 26, 0b110111, {**_SEGMENT, "seg": (16, 2)}),
    Encoding("MUBUF", 8, 26, 0b111000, {
        "offset": (0, 12), "slc": (12, 1), "dlc": (13, 1), "glc": (14, 1), "op": (18, 8), "vaddr": (32, 8),
        "vdata": (40, 8), "srsrc": (48, 5), "tfe": (53, 1), "offen": (54, 1), "idxen": (55, 1), "soffset": (56, 8)}),
    Encoding("MTBUF", 8, 26, 0b111010, {
        "offset": (0, 12), "slc": (12, 1), "dlc": (13, 1), "glc": (14, 1), "op": (15, 4), "format": (19, 7),
        "vaddr": (32, 8), "vdata": (40, 8), "srsrc": (48, 5), "tfe": (53, 1), "offen": (54, 1), "idxen": (55, 1),
        "soffset": (56, 8)}),
    Encoding("MIMG", 8, 26, 0b111100, {
        "nsa": (0, 1), "dim": (2, 3), "unrm": (7, 1), "dmask": (8, 4), "slc": (12, 1), "dlc": (13, 1),
        "glc": (14, 1), "r128": (15, 1), "a16": (16, 1), "d16": (17, 1), "op": (18, 8), "vaddr": (32, 8),
        "vdata": (40, 8), "srsrc": (48, 5), "tfe": (53, 1), "lwe": (54, 1), "ssamp": (58, 5)}),
    Encoding("SMEM", 8, 26, 0b111101, {
        "sbase": (0, 6), "sdata": (6, 7), "dlc": (13, 1), "glc": (14, 1), "op": (18, 8), "offset": (32, 21),
        "soffset": (57, 7)}),
    Encoding("EXP", 8, 26, 0b111110, {
        "en": (0, 4), "target": (4, 6), "done": (11, 1), "row": (13, 1), "vsrc0": (32, 8), "vsrc1": (40, 8),
        "vsrc2": (48, 8), "vsrc3": (56, 8)}),
)}

_SEGMENTS = ("FLAT", "SCRATCH", "GLOBAL")


def find(word: int) -> Encoding | None:
    """The format of an instruction whose first dword is ``word``. VOP3SD is told from VOP3 by opcode."""
    for encoding in ENCODINGS.values():
        if encoding.matches(word):
            if encoding.name == "FLAT":
                segment = word >> 16 & 3
                return ENCODINGS[_SEGMENTS[segment]] if segment < 3 else None
            if encoding.name == "VOP3SD":
                return ENCODINGS["VOP3"]
            return encoding
    return None
