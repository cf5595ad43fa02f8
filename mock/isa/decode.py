"""Bytes -> :class:`Instruction`: which instruction it is, and what its operands are.

An operand is a code of the 9-bit source space that all formats share (``RDNA3 ISA``, "Scalar/Vector ALU
operands"): 0..105 SGPRs, 106.. special registers, 128..208 small integers, 240..248 floats, 255 a literal,
256 + n a VGPR. Destinations are written in the same codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

from mock.isa.dispatch import IllegalInstruction
from mock.isa.encoding import DPP8, DPP8_FI, DPP16, ENCODINGS, LITERAL, Encoding, find
from mock.isa.opcodes import OPCODES

__all__ = ["VCC", "Dpp", "Instruction", "Operand", "decode", "opcode_table"]

VGPR = 256
VCC, NULL, M0, EXEC, SCC = 106, 124, 125, 126, 253


@dataclass(frozen=True, slots=True)
class Operand:
    """``code`` in the 9-bit source space, ``width`` in 32-bit registers, ``field`` of the format it came from."""

    field: str
    code: int
    width: int = 1

    @property
    def is_vgpr(self) -> bool:
        return self.code >= VGPR


@dataclass(frozen=True, slots=True)
class Dpp:
    """Data-parallel primitive word. ``lanes`` (eight selectors) for DPP8, else ``control`` and the masks."""

    lanes: tuple[int, ...] | None = None
    control: int = 0
    row_mask: int = 15
    bank_mask: int = 15
    bound_control: bool = False
    fetch_inactive: bool = False


@dataclass(frozen=True)
class Instruction:
    """One decoded instruction. ``fields`` are the format's raw fields; operands come in assembler order."""

    mnemonic: str
    encoding: str
    fields: dict[str, int]
    operands: tuple[Operand, ...]
    bits: bytes
    literal: int | None = None
    dpp: Dpp | None = None
    pair: tuple[Instruction, Instruction] | None = None     # the halves of a VOPD instruction
    abs: int = 0                                            # a bit a source operand
    neg: int = 0

    @property
    def size(self) -> int:
        return len(self.bits)

    def operand(self, name: str) -> Operand | None:
        return next((o for o in self.operands if o.field == name), None)

    def __str__(self) -> str:
        from mock.isa.disassembler import format_instruction
        return format_instruction(self)


@dataclass(frozen=True, slots=True)
class Opcode:
    """A line of the opcode table: mnemonic and (field, width, is SGPR) in assembler order."""

    mnemonic: str
    operands: tuple[tuple[str, int, bool], ...]


@cache
def opcode_table(encoding: str) -> dict[int, Opcode]:
    """{opcode: Opcode} of one format, read from the generated text."""
    table = {}
    for line in OPCODES[encoding].split("\n"):
        if not line:
            continue
        op, mnemonic, *pattern = line.split()
        operands = []
        for item in pattern[0].split(",") if pattern else ():
            name, _, width = item.partition(":")
            operands.append((name.rstrip("!"), int(width or 1), name.endswith("!")))
        table[int(op, 16)] = Opcode(mnemonic, tuple(operands))
    return table


_VGPR_FIELDS = {"vdst", "vsrc1", "addr", "data", "data0", "data1", "vaddr", "vdata"}
_SCALE = {"sbase": 2, "srsrc": 4, "ssamp": 4}
_LITERAL_ALWAYS = ("v_fmamk_f32", "v_fmaak_f32", "v_fmamk_f16", "v_fmaak_f16", "s_setreg_imm32_b32")


def decode(code: bytes, pc: int = 0) -> Instruction:
    """The instruction at the start of ``code``, which should hold 12 bytes more than it needs, where there are any.

    :param pc: only for the error's message.
    :raises IllegalInstruction: the bits are no instruction of gfx1100, or ``code`` ends inside one.
    """
    return _decode(bytes(code[:16]), pc)


@lru_cache(maxsize=1 << 16)
def _decode(code: bytes, pc: int) -> Instruction:
    word = int.from_bytes(code[:4], "little")
    encoding = find(word) if len(code) >= 4 else None
    if encoding is None:
        raise IllegalInstruction(pc, code[:4], "no instruction format has these bits")
    if len(code) < encoding.size:
        raise IllegalInstruction(pc, code, f"the code ends inside an instruction of format {encoding.name}")
    bits = int.from_bytes(code[:encoding.size], "little")
    if encoding.name == "VOPD":
        return _decode_vopd(code, bits, pc)
    if encoding.name == "EXP":
        return Instruction("exp", "EXP", encoding.unpack(bits), (), code[:8])
    op = encoding.unpack(bits)["op"]
    if encoding.name == "VOP3" and op in opcode_table("VOP3SD"):
        encoding = ENCODINGS["VOP3SD"]
    entry = opcode_table(encoding.name).get(op)
    if entry is None:
        raise IllegalInstruction(pc, code[:encoding.size], f"{encoding.name} has no opcode {op:#x}")
    return _finish(encoding, entry, encoding.unpack(bits), code, pc)


def _finish(encoding: Encoding, entry: Opcode, fields: dict[str, int], code: bytes, pc: int) -> Instruction:
    size = encoding.size
    extra = int.from_bytes(code[size:size + 4], "little")
    src0 = fields.get("src0", fields.get("ssrc0"))
    dpp = None
    sources = {name: value for name, value in fields.items() if name in ("src0", "src1", "src2", "ssrc0", "ssrc1")}
    modifiers = fields.get("abs", 0), fields.get("neg", 0)
    used = {name for name, _, _ in entry.operands}
    literal = None
    if encoding.name.startswith("VOP") and src0 in (DPP8, DPP8_FI, DPP16):
        _need(code, size + 4, pc)
        sources["src0"] = VGPR + (extra & 255)
        if src0 == DPP16:
            dpp = Dpp(None, extra >> 8 & 0x1ff, extra >> 28, extra >> 24 & 15, bool(extra >> 19 & 1),
                      bool(extra >> 18 & 1))
            if encoding.name in ("VOP1", "VOP2", "VOPC"):
                modifiers = (extra >> 21 & 1) | (extra >> 23 & 1) << 1, (extra >> 20 & 1) | (extra >> 22 & 1) << 1
        else:
            dpp = Dpp(tuple(extra >> 8 + 3 * i & 7 for i in range(8)), fetch_inactive=src0 == DPP8_FI)
        size += 4
    elif entry.mnemonic in _LITERAL_ALWAYS or any(v == LITERAL for n, v in sources.items() if n in used):
        _need(code, size + 4, pc)
        literal, size = extra, size + 4
    operands = []
    for name, width, scalar in entry.operands:
        value = sources.get(name, fields[name])
        if name == "vdst" and scalar:
            pass
        elif name in _VGPR_FIELDS:
            value += VGPR
        value *= _SCALE.get(name, 1)
        if width > 1 and value < 124:       # pairs of SGPRs begin at even numbers, more at multiples of four
            value &= -2 if width == 2 else -4
        operands.append(Operand(name, value, width))
    returns = "atomic" in entry.mnemonic and fields.get("glc")
    if returns and encoding.name in ("FLAT", "GLOBAL"):
        width = next(o.width for o in operands if o.field == "data") // (2 if "cmpswap" in entry.mnemonic else 1)
        operands.insert(0, Operand("vdst", VGPR + fields["vdst"], width))
    return Instruction(entry.mnemonic, encoding.name, fields, tuple(operands), code[:size], literal, dpp,
                       abs=modifiers[0], neg=modifiers[1])


def _need(code: bytes, size: int, pc: int) -> None:
    if len(code) < size:
        raise IllegalInstruction(pc, code, "the code ends before the instruction's literal or DPP word")


def _decode_vopd(code: bytes, bits: int, pc: int) -> Instruction:
    """Two VOP2 or VOP1 instructions with one literal between them (``RDNA3 ISA``, "Dual Issue VALU")."""
    encoding = ENCODINGS["VOPD"]
    fields = encoding.unpack(bits)
    size, literal = encoding.size, None
    names = []
    for half in "xy":
        entry = opcode_table("VOPD" + half.upper()).get(fields["op" + half])
        if entry is None:
            raise IllegalInstruction(pc, code[:8], f"VOPD has no opcode {fields['op' + half]:#x} for {half.upper()}")
        names.append(entry.mnemonic)
    if LITERAL in (fields["src0x"], fields["src0y"]) or any("fmaak" in n or "fmamk" in n for n in names):
        _need(code, size + 4, pc)
        literal, size = int.from_bytes(code[8:12], "little"), size + 4
    # The low bit of Y's destination is the opposite of X's.
    destinations = fields["vdstx"], fields["vdsty"] << 1 | (~fields["vdstx"] & 1)
    halves = []
    for half, name, destination in zip("xy", names, destinations, strict=True):
        operands = [Operand("vdst", VGPR + destination), Operand("src0", fields["src0" + half])]
        if name != "mov_b32":
            operands.append(Operand("vsrc1", VGPR + fields["vsrc1" + half]))
        halves.append(Instruction("v_" + name, "VOP1" if name == "mov_b32" else "VOP2", {}, tuple(operands),
                                  code[:size], literal))
    return Instruction(" :: ".join("v_dual_" + n for n in names), "VOPD", fields,
                       halves[0].operands + halves[1].operands, code[:size], literal, pair=(halves[0], halves[1]))


