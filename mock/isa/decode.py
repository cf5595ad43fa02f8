"""Bytes -> :class:`Instruction`: which instruction it is, and what its operands are.

An operand is a code of the 9-bit source space that all formats share (``RDNA3 ISA``, "Scalar/Vector ALU
operands"): 0..105 SGPRs, 106.. special registers, 128..208 small integers, 240..248 floats, 255 a literal,
256 + n a VGPR. Destinations are written in the same codes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache, lru_cache

from mock.isa.dispatch import IllegalInstruction
from mock.isa.encoding import DPP8, DPP8_FI, DPP16, ENCODINGS, KINDS, LITERAL, Encoding, find, kind_of
from mock.isa.images import address_words, data_words, nsa_groups
from mock.isa.opcodes import OPCODES

__all__ = ["VCC", "Dpp", "Instruction", "Operand", "decode", "in_wave", "opcode_table"]

VGPR = 256
VCC, TTMP, NULL, M0, EXEC, SCC = 106, 108, 124, 125, 126, 253


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
    opcode: Opcode | None = field(default=None, compare=False, repr=False)

    @property
    def size(self) -> int:
        return len(self.bits)

    def operand(self, name: str) -> Operand | None:
        return next((o for o in self.operands if o.field == name), None)

    def __str__(self) -> str:
        from mock.isa.disassembler import format_instruction
        return format_instruction(self)


def in_wave(instruction: Instruction, lanes: int) -> Instruction:
    """The instruction as waves of this size execute it: with 64 lanes a matrix product's C and D take half as many
    registers as LLVM's text for 32 says."""
    if lanes == 32 or "wmma" not in instruction.mnemonic:
        return instruction
    operands = tuple(replace(o, width=o.width // 2) if o.field in ("vdst", "src2") and o.is_vgpr else o
                     for o in instruction.operands)
    return replace(instruction, operands=operands)


@dataclass(frozen=True, slots=True)
class Opcode:
    """A line of the opcode table: mnemonic and (field, width, is SGPR) in assembler order.

    ``fixed`` are bits of the word that must equal ``value``; ``kinds`` tells which codes an operand may be;
    ``signs`` are the sources whose neg, abs and op_sel bits are printed, and how ("sext" for neg on integers).
    """

    mnemonic: str
    operands: tuple[tuple[str, int, bool], ...]
    fixed: int = 0
    value: int = 0
    kinds: tuple[tuple[str, int], ...] = ()
    signs: tuple[tuple[str, int], ...] = ()

    def sign(self, name: str) -> int:
        """Of ``neg``, ``sext``, ``abs``, ``op_sel``: a bit a source; those of the DPP form (``neg_dpp``) may differ."""
        own = next((bits for key, bits in self.signs if key == name), None)
        return own if own is not None else self.sign(name[:-4]) if name.endswith("_dpp") else 0


@cache
def opcode_table(encoding: str) -> dict[int, Opcode]:
    """{opcode: Opcode} of one format, read from the generated text."""
    table = {}
    for line in OPCODES[encoding].split("\n"):
        if not line:
            continue
        op, mnemonic, *rest = line.split()
        pattern, fixed, kinds, signs = (*rest, *("-", "0", "-", "-")[len(rest):])
        operands = []
        for item in pattern.split(",") if pattern != "-" else ():
            name, _, width = item.partition(":")
            operands.append((name.rstrip("!"), int(width or 1), name.endswith("!")))
        mask, _, value = fixed.partition("=")
        table[int(op, 16)] = Opcode(mnemonic, tuple(operands), int(mask, 16), int(value or "0", 16), _named(kinds),
                                    _named(signs))
    return table


def _named(text: str) -> tuple[tuple[str, int], ...]:
    """NAME:HEX,NAME:HEX"""
    parts = (item.partition(":") for item in text.split(",") if text != "-")
    return tuple((name, int(bits, 16)) for name, _, bits in parts)


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
    if (bits ^ entry.value) & entry.fixed:
        wrong = (bits ^ entry.value) & entry.fixed
        raise IllegalInstruction(pc, code[:encoding.size], f"{entry.mnemonic} leaves bits {wrong:#x} of its "
                                 f"{encoding.name} form unused, and they are not {entry.value & wrong:#x}")
    _check_kinds(encoding, entry, encoding.unpack(bits), code, pc)
    if encoding.name == "MIMG":
        return _decode_image(entry, encoding.unpack(bits), code, pc)
    return _finish(encoding, entry, encoding.unpack(bits), code, pc)


def _decode_image(entry: Opcode, fields: dict[str, int], code: bytes, pc: int) -> Instruction:
    """Operands' widths follow from the mask and the dimension, not from the opcode."""
    size = 12 if fields["nsa"] else 8
    _need(code, size, pc)
    name = entry.mnemonic
    words = address_words(name, fields["dim"], bool(fields["a16"]))
    data = data_words(name, fields["dmask"], bool(fields["d16"]), bool(fields["tfe"]))
    if fields["nsa"] and words < 2:
        raise IllegalInstruction(pc, code[:size], f"{name} has one address register: no non-sequential form")
    operands = [Operand("vdata", _first(fields["vdata"] + VGPR, data, entry, code[:size], pc), data)]
    if fields["nsa"]:
        registers = [fields["vaddr"], *code[8:12]]
        for i, width in enumerate(nsa_groups(name, words, bool(fields["a16"]))):
            operands.append(Operand("vaddr", _first(registers[i] + VGPR, width, entry, code[:size], pc), width))
    else:
        operands.append(Operand("vaddr", _first(fields["vaddr"] + VGPR, words, entry, code[:size], pc), words))
    width = 4 if "bvh" in name else 8
    operands.append(Operand("srsrc", _first(fields["srsrc"] * 4, width, entry, code[:size], pc), width))
    if any(field_ == "ssamp" for field_, _, _ in entry.operands):
        operands.append(Operand("ssamp", _first(fields["ssamp"] * 4, 4, entry, code[:size], pc), 4))
    return Instruction(name, "MIMG", fields, tuple(operands), code[:size], opcode=entry)


def _check_kinds(encoding: Encoding, entry: Opcode, fields: dict[str, int], code: bytes, pc: int) -> None:
    """Is each operand something that the instruction can take?

    Short forms of 16-bit instructions take the upper halves of v0 to v127, too, for which LLVM 19 has no text yet.
    """
    dpp = fields.get("src0") in (DPP8, DPP8_FI, DPP16)
    for name, allowed in entry.kinds:
        if name.endswith("_dpp"):
            if not dpp:
                continue
            name = name[:-4]
        kind = kind_of(fields[name])
        upper = kind == _UPPER and encoding.name in ("VOP1", "VOP2", "VOPC")
        if not (allowed >> kind & 1 or upper):
            raise IllegalInstruction(pc, code[:encoding.size],
                                     f"{name} of {entry.mnemonic} cannot be of kind {KINDS[kind][1]}")


_UPPER = len(KINDS) - 1
# quad_perm, row_shl, row_shr, row_ror, the mirrors, row_share, row_xmask (RDNA3 ISA, "DPP_CTRL Enumeration").
_DPP_CONTROLS = frozenset([*range(0x100), *range(0x101, 0x110), *range(0x111, 0x120), *range(0x121, 0x130), 0x140,
                           0x141, *range(0x150, 0x170)])
_NOT_IN_VOPD = ("reserved", "DPP8", "DPP16")
_VOPD_SOURCES = sum(1 << i for i, (_, name) in enumerate(KINDS) if name not in _NOT_IN_VOPD)


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
        if "src0" not in used or any(v == LITERAL for n, v in sources.items() if n in used):
            raise IllegalInstruction(pc, code[:size + 4], f"{entry.mnemonic} has " + (
                "a literal and a DPP word" if "src0" in used else "no DPP form"))
        _need(code, size + 4, pc)
        sources["src0"] = VGPR + (extra & 255)
        if src0 == DPP16 and extra & entry.sign("dpp16"):
            raise IllegalInstruction(pc, code[:size + 4], f"bits of {entry.mnemonic}'s DPP word that it leaves unused "
                                                          f"are not zero")
        if src0 == DPP16:
            if extra >> 8 & 0x1ff not in _DPP_CONTROLS:
                raise IllegalInstruction(pc, code[:size + 4], f"there is no dpp_ctrl {extra >> 8 & 0x1ff:#x}")
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
    if encoding.name in ("GLOBAL", "SCRATCH") and fields["saddr"] != NULL:
        if encoding.name == "SCRATCH" and fields["saddr"] == EXEC + 1:
            raise IllegalInstruction(pc, code[:size], f"{entry.mnemonic} cannot take exec_hi as its address")
        fields["saddr"] = _first(fields["saddr"], 2 if encoding.name == "GLOBAL" else 1, entry, code[:size], pc)
    operands = []
    for name, width, scalar in entry.operands:
        if name == "addr" and encoding.name == "GLOBAL" and fields["saddr"] != NULL:
            _first(fields[name] + VGPR, 1, entry, code[:size], pc)
            operands.append(Operand(name, fields[name] + VGPR, width))
            continue
        if encoding.name in ("MUBUF", "MTBUF") and name in ("vaddr", "vdata"):
            # One register, or two for an index and an offset; one more for the texture-fail word.
            extent = fields["offen"] + fields["idxen"] if name == "vaddr" else width + fields["tfe"]
            _first(fields[name] + VGPR, extent, entry, code[:size], pc)
        value = sources.get(name, fields[name])
        if name == "vdst" and scalar:
            pass
        elif name in _VGPR_FIELDS:
            value += VGPR
        # C and D of a matrix product are half as wide for waves of 64 lanes, which may have them at the very end.
        least = width // 2 if "wmma" in entry.mnemonic and name in ("vdst", "src2") else width
        operands.append(Operand(name, _first(value * _SCALE.get(name, 1), least, entry, code[:size], pc), width))
    returns = "atomic" in entry.mnemonic and fields.get("glc")
    if returns and encoding.name in ("FLAT", "GLOBAL"):
        width = next(o.width for o in operands if o.field == "data") // (2 if "cmpswap" in entry.mnemonic else 1)
        operands.insert(0, Operand("vdst", _first(VGPR + fields["vdst"], width, entry, code[:size], pc), width))
    return Instruction(entry.mnemonic, encoding.name, fields, tuple(operands), code[:size], literal, dpp,
                       abs=modifiers[0], neg=modifiers[1], opcode=entry)


def _first(value: int, width: int, entry: Opcode, code: bytes, pc: int) -> int:
    """The first register of an operand. Pairs of SGPRs begin at even numbers, more at multiples of four."""
    if width <= 1 or 128 <= value < VGPR or value == NULL:
        return value
    if value >= VGPR:
        fits = value - VGPR + width <= 256
    else:
        align = -2 if width == 2 else -4
        if value < VCC:
            value &= align
            fits = value + width <= VCC
        elif TTMP <= value < NULL:
            value = TTMP + (value - TTMP & align)
            fits = value + width <= NULL
        else:
            fits = width == 2 and value in (VCC, EXEC)
    if not fits:
        first = f"s{value}" if value < VGPR else f"v{value - VGPR}"
        raise IllegalInstruction(pc, code, f"{entry.mnemonic} has an operand of {width} registers, and from {first} "
                                           f"on there are not so many")
    return value


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
        if entry.mnemonic == "mov_b32" and fields["vsrc1" + half]:
            raise IllegalInstruction(pc, code[:8], "v_dual_mov_b32 leaves its second source unused, and it is not zero")
        kind = kind_of(fields["src0" + half])
        if not _VOPD_SOURCES >> kind & 1:
            raise IllegalInstruction(pc, code[:8],
                                     f"src0 of v_dual_{entry.mnemonic} cannot be of kind {KINDS[kind][1]}")
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


