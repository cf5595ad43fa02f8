"""The decoder and the disassembler against LLVM's, over random encodings of every opcode."""

from __future__ import annotations

import random
import re
from pathlib import Path

import llvm
import pytest

from mock.isa import run
from mock.isa.decode import Instruction, decode, opcode_table
from mock.isa.disassembler import disassemble, format_instruction
from mock.isa.dispatch import IllegalInstruction
from mock.isa.encoding import DPP8, DPP8_FI, DPP16, ENCODINGS, LITERAL
from mock.isa.opcodes import OPCODES
from tools.autogen import isa as generator

SCALARS = [*range(209), *range(235, 249), 251, 252, 253, LITERAL]
SOURCES = [*SCALARS, *range(256, 512)]
DPP_CONTROLS = (0x1b, 0xe4, 0x101, 0x10f, 0x111, 0x12f, 0x140, 0x141, 0x150, 0x15f, 0x16f)
SEGMENTS = {"FLAT": 0, "SCRATCH": 1, "GLOBAL": 2}
INLINE = {*range(65), *(x & 0xffffffff for x in range(-16, 0))}
MODIFIERS = ("abs", "omod", "op_sel", "clamp", "neg", "tfe", "neg_hi")
VECTOR_FORMATS = ("VOP1", "VOP2", "VOPC", "VOP3", "VOP3SD", "VOP3P")
FORMATS = [*(name for name in OPCODES if not name.startswith("VOPD")), "VOPD", "EXP"]
LONGEST = 16
SENTINELS = range(0xbf801000, 0xbf810000)       # how the generator's items are told apart


def random_fields(rng: random.Random, name: str, dpp: bool) -> dict[str, int]:
    """Random values for a format's fields, weighted towards what means something."""
    values = {}
    for field, (_, width) in ENCODINGS[name].fields.items():
        value = rng.getrandbits(width)
        if field in ("src0", "src1", "src2") and name == "VINTERP":
            value |= 256
        elif field in ("src0", "src1", "src2", "src0x", "src0y"):
            value = rng.choice(SOURCES) if rng.random() < 0.9 or not field.endswith("0") else LITERAL
        elif field in ("ssrc0", "ssrc1"):
            value = rng.choice(SCALARS)
        elif field in MODIFIERS and rng.random() < 0.6:
            value = 0
        elif field in ("op_sel_hi", "op_sel_hi2"):
            value = (1 << width) - 1 if rng.random() < 0.6 else value
        elif field == "seg":
            value = SEGMENTS[name]
        elif field == "saddr":
            value = rng.choice((124, 2, 4, 106, rng.randrange(106)))
        elif field == "sdst":
            value = rng.choice((rng.randrange(107), 106, 126, 124))
        elif field == "sdata":
            value = rng.randrange(0, 104, 4)
        elif field == "soffset":
            value = rng.choice((124, 5, 106))
        elif field == "srsrc":
            value = rng.randrange(24)
        elif field == "gds":
            value = int(rng.random() < 0.2)
        elif name == "MIMG" and field in ("vaddr", "vdata"):
            value = rng.randrange(230)
        elif name == "MIMG" and field == "dmask":
            value = rng.choice((1, 3, 7, 15))
        elif name == "MIMG" and field == "dim":
            value = rng.randrange(6)            # multisampled ones cannot be sampled
        elif name in ("VOP1", "VOP2", "VOPC") and field in ("vdst", "vsrc1") and rng.random() < 0.7:
            value &= 127
        if field in ("src2", "src1", "data1", "data0", "vdst", "addr") and rng.random() < 0.2:
            value = 0
        values[field] = value
    if dpp and "src0" in values:
        values["src0"] = rng.choice((DPP8, DPP8_FI, DPP16, DPP16))
        values |= {field: 256 + rng.randrange(256) for field in ("src1", "src2") if field in values}
    return values


def random_tail(rng: random.Random, values: dict[str, int]) -> int:
    """The dwords after the instruction: a literal, a DPP word, or more addresses."""
    if values.get("src0") != DPP16:
        return rng.getrandbits(64)
    signs = rng.getrandbits(4) << 20 if rng.random() < 0.3 else 0
    masks = rng.choice((0xff, 0xff, rng.getrandbits(8))) << 24
    return rng.getrandbits(8) | rng.choice(DPP_CONTROLS) << 8 | rng.getrandbits(2) << 18 | signs | masks \
        | rng.getrandbits(32) << 32


def meaningful(rng: random.Random, name: str, op: int, dpp: bool) -> bytes:
    """An encoding of the opcode: bits that it leaves unused are as they must be, most of the time."""
    encoding, entry = ENCODINGS[name], opcode_table(name)[op]
    values = random_fields(rng, name, dpp)
    bits = encoding.pack(**{**values, "op": op})
    if rng.random() < 0.95:
        bits = bits & ~entry.fixed | entry.value
    if name in ("VOP1", "VOP2", "VOPC") and "src0" not in {field for field, _, _ in entry.operands}:
        bits &= ~0x1ff
    tail = random_tail(rng, values)
    if values.get("src0") == DPP16 and rng.random() < 0.95:
        tail &= ~entry.sign("dpp16")
    return (bits | tail << 8 * encoding.size).to_bytes(encoding.size + 8, "little")


def random_pairs(rng: random.Random) -> list[bytes]:
    """Every X with every Y."""
    encoding, result = ENCODINGS["VOPD"], []
    for opx in opcode_table("VOPDX"):
        for opy in opcode_table("VOPDY"):
            x, y = (rng.choice([rng.randrange(256, 512), LITERAL, rng.randrange(106), 129, 240, 251]) for _ in range(2))
            bits = encoding.pack(opx=opx, opy=opy, src0x=x, src0y=y, vdstx=rng.randrange(256),
                                 vdsty=rng.randrange(128), vsrc1x=0 if opx == 8 else rng.randrange(256),
                                 vsrc1y=0 if opy == 8 else rng.randrange(256))
            result.append((bits | rng.getrandbits(64) << 64).to_bytes(LONGEST, "little"))
    return result


def random_exports(rng: random.Random, count: int) -> list[bytes]:
    targets = (0, 1, 7, 8, 12, 15, 16, 20, 21, 22)
    return [ENCODINGS["EXP"].pack(en=rng.getrandbits(4), target=rng.choice(targets), done=rng.getrandbits(1),
                                  row=rng.getrandbits(1), **{f"vsrc{i}": rng.getrandbits(8) for i in range(4)}
                                  ).to_bytes(LONGEST, "little") for _ in range(count)]


def random_instructions(rng: random.Random, name: str, each: int) -> list[bytes]:
    if name == "VOPD":
        return random_pairs(rng)
    if name == "EXP":
        return random_exports(rng, 100 * each)
    items = [meaningful(rng, name, op, False) for op in opcode_table(name) for _ in range(each)]
    if name in VECTOR_FORMATS:
        items += [meaningful(rng, name, op, True) for op in opcode_table(name) for _ in range(each)]
    return [code for code in items if int.from_bytes(code[:4], "little") not in SENTINELS]


def random_words(rng: random.Random, name: str, count: int) -> list[bytes]:
    """Any bits at all behind a format's prefix."""
    encoding, result = ENCODINGS[name], []
    while len(result) < count:
        low = rng.getrandbits(encoding.shift) | encoding.value << encoding.shift
        if name in SEGMENTS:
            low = low & ~(3 << 16) | SEGMENTS[name] << 16
        if low not in SENTINELS:
            result.append((low | rng.getrandbits(96) << 32).to_bytes(LONGEST, "little"))
    return result


def same(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def bare(text: str) -> str:
    """Mnemonic and operands without modifiers."""
    operands = re.split(r" (?=[a-z_]+[0-9]?:|clamp|glc|slc|dlc)", same(text))[0]
    return re.sub(r"[|-]|neg\(|sext\(|\)|\.[lh]\b", "", operands)


def try_decode(code: bytes) -> Instruction | None:
    try:
        return decode(code)
    except IllegalInstruction:
        return None


def takes_upper_half(name: str, instruction: Instruction) -> bool:
    """A short 16-bit form that names a register from v128 on: the upper half of one. LLVM 19 has no text for those,
    nor, unless told to, for moves between halves. Or a matrix at the very end of the registers, for waves of 64."""
    if "wmma" in instruction.mnemonic:
        return any(o.is_vgpr and o.code + o.width > 512 for o in instruction.operands)
    return (name in ("VOP1", "VOP2", "VOPC") and "16" in instruction.mnemonic) or instruction.mnemonic == "v_mov_b16"


class Comparison:
    """What both sides make of the same bytes."""

    def __init__(self, tool: str, name: str, codes: list[bytes]) -> None:
        self.name, self.codes, size = name, codes, ENCODINGS[name].size
        self.ours = [try_decode(code) for code in codes]
        raw = [(int.from_bytes(i.bits, "little"), i.size) if i else (int.from_bytes(code[:size], "little"), size)
               for code, i in zip(codes, self.ours, strict=True)]
        self.theirs = generator.disassemble(tool, raw)
        again = [k for k, i in enumerate(self.ours) if i is None and self.theirs[k] is None]
        longer = generator.disassemble(tool, [(int.from_bytes(codes[k][:size + 4], "little"), size + 4) for k in again])
        for k, text in zip(again, longer, strict=True):
            self.theirs[k] = text
        self.texts = [format_instruction(i) if i else "" for i in self.ours]
        known = [k for k, text in enumerate(self.theirs) if text is not None]
        self.known = len(known)
        # What LLVM's own text assembles back to; where that is not these bits, there is no exact text.
        self.exact = dict(zip(known, llvm.assemble(tool, [self.theirs[k] or "" for k in known]), strict=True))
        self.back = dict(zip(known, llvm.assemble(tool, [self.texts[k] or "s_nop 0" for k in known]), strict=True))

    def wrong(self) -> list[tuple[str, str, str | None, str]]:
        """(what, ours, theirs, bits)."""
        found = []
        for k, (code, instruction, text) in enumerate(zip(self.codes, self.ours, self.theirs, strict=True)):
            what = self._verdict(k, instruction, text)
            if what:
                found.append((what, self.texts[k], text, (instruction.bits if instruction else code).hex(" ", 4)))
        return found

    def _verdict(self, k: int, instruction: Instruction | None, text: str | None) -> str:
        if text is None:
            return "" if instruction is None or takes_upper_half(self.name, instruction) else "only we take it"
        if instruction is None:
            exact = self.exact[k]
            taken = exact is not None and self.codes[k].startswith(exact)
            return "only LLVM takes it" if taken else ""
        if same(self.texts[k]) == same(text):
            return ""
        if self.exact[k] == instruction.bits:
            return "another text"
        if self.back[k] == instruction.bits or self.texts[k].split()[0] != text.split()[0]:
            return "" if self.back[k] == instruction.bits else "another mnemonic"
        # Image instructions that do not exist are printed with operands of some that do.
        return "" if self.name == "MIMG" or bare(self.texts[k]) == bare(text) else "other operands"


@pytest.mark.parametrize("name", FORMATS)
def test_every_opcode_decodes_and_prints_as_llvm_does(llvm_mc: str, name: str) -> None:
    comparison = Comparison(llvm_mc, name, random_instructions(random.Random(name), name, 4))
    assert comparison.known >= len(comparison.codes) // 4, "too few are valid for the comparison to mean something"
    wrong = comparison.wrong()
    assert not wrong, f"{len(wrong)} of {len(comparison.codes)}: {wrong[:4]}"


@pytest.mark.parametrize("name", FORMATS)
def test_any_bits_are_taken_or_refused_as_llvm_does(llvm_mc: str, name: str) -> None:
    comparison = Comparison(llvm_mc, name, random_words(random.Random(name), name, 400))
    wrong = comparison.wrong()
    assert not wrong, f"{len(wrong)} of {len(comparison.codes)}: {wrong[:4]}"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_many_more_of_every_opcode(llvm_mc: str, seed: int) -> None:
    for name in FORMATS:
        rng = random.Random(f"{name}{seed}")
        comparison = Comparison(llvm_mc, name, random_instructions(rng, name, 25) + random_words(rng, name, 2000))
        wrong = comparison.wrong()
        assert not wrong, f"{name}: {len(wrong)} of {len(comparison.codes)}: {wrong[:4]}"


def test_every_immediate_of_scalar_instructions_prints_as_llvm_does(llvm_mc: str) -> None:
    """Numbers, counters, messages, delays and hardware registers have texts of their own."""
    values = [*range(300), *range(0x8000, 0x8100), *range(0xf000, 0x10000, 61), 0x1234, 0xffff]
    for name, prefix in (("SOPP", 0xbf800000), ("SOPK", 0xb0000000)):
        shift = ENCODINGS[name].fields["op"][0]
        codes = []
        for op, opcode in opcode_table(name).items():
            destination = 124 << 16 if "waitcnt" in opcode.mnemonic and name == "SOPK" else 0
            words = [prefix | op << shift | destination | value for value in values]
            codes += [word.to_bytes(4, "little") + bytes.fromhex("785634120000000000000000") for word in words
                      if word not in SENTINELS]
        wrong = Comparison(llvm_mc, name, codes).wrong()
        assert not wrong, f"{len(wrong)} of {len(codes)}: {wrong[:4]}"


def test_every_nop_is_one(llvm_mc: str) -> None:
    """Those that tell the other comparisons' items apart, too: they are taken, and their text is assembled back."""
    words = [0xbf800000 | value for value in (*range(0x1000, 0x10000, 97), *(1 << bit for bit in range(16)), 0xffff)]
    texts = [format_instruction(decode(word.to_bytes(4, "little"))) for word in words]
    assert [code and int.from_bytes(code, "little") for code in llvm.assemble(llvm_mc, texts)] == words


def test_the_upper_halves_of_short_forms_have_a_text(llvm_mc: str) -> None:
    """LLVM 19 knows them for one instruction; that one is enough to see that the bits are meant so."""
    lines = ["v_mov_b16_e32 v5.h, v2.h", "v_mov_b16_e32 v5.l, v127.h", "v_mov_b16_e64 v131.l, v1.l",
             "v_mov_b16_e64 v131.h, v1.l op_sel:[0,1]"]
    for line, code in zip(lines, llvm.assemble(llvm_mc, lines, "+real-true16"), strict=True):
        assert code is not None and format_instruction(decode(code)) == line
    upper = decode(ENCODINGS["VOP2"].pack(op=0x32, src0=256 + 130, vsrc1=140, vdst=133).to_bytes(4, "little"))
    assert str(upper) == "v_add_f16_e32 v5.h, v2.h, v12.h"


def test_images_and_exports_have_no_unit(llvm_mc: str) -> None:
    for text, unit in (("image_sample v[0:3], v[4:5], s[0:7], s[8:11] dmask:0xf dim:SQ_RSRC_IMG_2D", "no image unit"),
                       ("image_bvh_intersect_ray v[0:3], v[4:14], s[0:3]", "no image unit"),
                       ("exp mrt0 v0, v1, v2, v3 done", "no export unit")):
        code, = llvm.assemble(llvm_mc, [text])
        assert code is not None and str(decode(code)) == text
        with pytest.raises(IllegalInstruction, match=rf"at pc 0x[0-9a-f]+, bits [0-9a-f ]+: \w+: {unit} for compute"):
            run(code, grid=(1,), block=(32,), rsrc1=3, rsrc2=0)


def test_committed_opcode_table_is_what_llvm_says(llvm_mc: str) -> None:
    assert generator.generate(llvm_mc) == Path(generator.OUTPUT).read_text()


def test_disassembly_of_a_compiled_kernel_assembles_to_the_same_bits(llvm_mc: str, compile_kernels) -> None:
    from mock.isa.standalone import CodeObject
    for level in ("O0", "O3"):
        code = CodeObject(compile_kernels("ordinary.cl", level))
        for kernel in code.kernels.values():
            start = kernel.entry - code.base
            body = bytes(code.image[start:start + 40000])
            listed = []
            for item in disassemble(body, kernel.entry):
                listed.append(item)
                if item[1].mnemonic == "s_endpgm":
                    break
            assert body.startswith(b"".join(i.bits for _, i, _ in listed))
            again = llvm.assemble(llvm_mc, [text for _, _, text in listed])
            for (at, instruction, text), bits in zip(listed, again, strict=True):
                # A literal that fits an inline constant has no syntax.
                if instruction.literal is None or instruction.literal not in INLINE:
                    assert bits == instruction.bits, f"{kernel.name} at {at:#x}: {text}"


def test_undefined_bits_raise_with_pc_and_bits() -> None:
    with pytest.raises(IllegalInstruction,
        match=r"illegal instruction at pc 0x1234, bits ffffffff: no instruction format"):
        decode(b"\xff" * 12, 0x1234)
    with pytest.raises(IllegalInstruction, match=r"bits d7ff0000 00000000: VOP3 has no opcode 0x3ff"):
        decode(bytes.fromhex("0000ffd700000000"))
    with pytest.raises(IllegalInstruction, match="ends inside an instruction of format SMEM"):
        decode(bytes.fromhex("000000f4"))
    with pytest.raises(IllegalInstruction, match="ends before the instruction's literal"):
        decode(bytes.fromhex("ff02007e"))
