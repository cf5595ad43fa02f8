"""The decoder and the disassembler against LLVM's, over random encodings of every opcode."""

from __future__ import annotations

import random
import re
from pathlib import Path

import llvm
import pytest

from mock.isa.decode import decode, opcode_table
from mock.isa.disassembler import disassemble, format_instruction
from mock.isa.dispatch import IllegalInstruction
from mock.isa.encoding import DPP8, DPP8_FI, DPP16, ENCODINGS, LITERAL
from mock.isa.opcodes import OPCODES
from tools.autogen import isa as generator

SCALARS = [*range(108), 124, 125, 126, 127, *range(128, 209), *range(235, 239), *range(240, 249), 253, LITERAL]
SOURCES = [*SCALARS, *range(256, 512)]
DPP_CONTROLS = (0x1b, 0xe4, 0x101, 0x10f, 0x111, 0x12f, 0x140, 0x141, 0x150, 0x15f, 0x16f)
SEGMENTS = {"FLAT": 0, "SCRATCH": 1, "GLOBAL": 2}
INLINE = {*range(65), *(x & 0xffffffff for x in range(-16, 0))}
MODIFIERS = ("abs", "omod", "op_sel", "clamp", "neg", "tfe", "neg_hi")


def random_fields(rng: random.Random, name: str) -> dict[str, int]:
    """Random values for a format's fields, weighted towards what means something."""
    values = {}
    for field, (_, width) in ENCODINGS[name].fields.items():
        value = rng.getrandbits(width)
        if field in ("src0", "src1", "src2"):
            value = rng.choice(SOURCES) if rng.random() < 0.9 else rng.choice((DPP8, DPP8_FI, DPP16, LITERAL))
        elif field in ("ssrc0", "ssrc1"):
            value = rng.choice(SCALARS)
        elif field in MODIFIERS and rng.random() < 0.6:
            value = 0
        elif field in ("op_sel_hi", "op_sel_hi2"):
            value = (1 << width) - 1 if rng.random() < 0.6 else value
        elif field == "seg":
            value = SEGMENTS[name]
        elif field == "saddr":
            value = rng.choice((124, 2, 4, 106))
        elif field == "sdst":
            value = rng.choice((rng.randrange(107), 106, 126, 124))
        elif field == "sdata":
            value = rng.randrange(0, 104, 4)
        elif field == "soffset":
            value = rng.choice((124, 5, 106))
        elif field == "srsrc":
            value = rng.randrange(26)
        elif field == "gds":
            value = int(rng.random() < 0.2)
        if field in ("src2", "src1", "data1", "data0", "vdst", "addr") and rng.random() < 0.35:
            value = 0
        values[field] = value
    return values


def random_tail(rng: random.Random, name: str, values: dict[str, int]) -> int:
    """The dword after the instruction: a literal, or a DPP word."""
    if values.get("src0") != DPP16:
        return rng.getrandbits(32)
    signs = rng.getrandbits(4) << 20 if name in ("VOP1", "VOP2") and rng.random() < 0.3 else 0
    masks = rng.choice((0xff, 0xff, rng.getrandbits(8))) << 24
    return rng.getrandbits(8) | rng.choice(DPP_CONTROLS) << 8 | rng.getrandbits(2) << 18 | signs | masks


def random_instructions(rng: random.Random, each: int) -> list[tuple[str, bytes]]:
    items = []
    for name in OPCODES:
        if name in ("MIMG", "VOPDX", "VOPDY"):
            continue
        encoding = ENCODINGS[name]
        for op in opcode_table(name):
            for _ in range(each):
                values = random_fields(rng, name)
                values.pop("op")
                bits = encoding.pack(op=op, **values) | random_tail(rng, name, values) << 8 * encoding.size
                items.append((name, bits.to_bytes(encoding.size + 4, "little")))
    encoding = ENCODINGS["VOPD"]
    for opx in opcode_table("VOPDX"):
        for opy in opcode_table("VOPDY"):
            x, y = ([rng.randrange(256, 512), LITERAL, 4, 129, 240] for _ in range(2))
            bits = encoding.pack(opx=opx, opy=opy, src0x=rng.choice(x), src0y=rng.choice(y), vdstx=rng.randrange(256),
                                 vdsty=rng.randrange(128), vsrc1x=0 if opx == 8 else rng.randrange(256),
                                 vsrc1y=0 if opy == 8 else rng.randrange(256)) | rng.getrandbits(32) << 64
            items.append(("VOPD", bits.to_bytes(12, "little")))
    for _ in range(50):
        bits = ENCODINGS["EXP"].pack(en=rng.getrandbits(4), target=rng.choice((0, 1, 7, 8, 12, 15, 20, 21)), vsrc0=9,
                                     done=rng.getrandbits(1), row=rng.getrandbits(1), vsrc1=3, vsrc2=4, vsrc3=5)
        items.append(("EXP", bits.to_bytes(8, "little")))
    return items


def same(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def bare(text: str) -> str:
    """Mnemonic and operands without modifiers."""
    operands = re.split(r" (?=[a-z_]+[0-9]?:|clamp|glc|slc|dlc)", same(text))[0]
    return re.sub(r"[|-]|neg\(|sext\(|\)|\.[lh]\b", "", operands)


@pytest.mark.parametrize("seed", range(2))
def test_every_opcode_decodes_and_prints_as_llvm_does(llvm_mc: str, seed: int) -> None:
    items = random_instructions(random.Random(seed), 5)
    decoded = []
    for _, code in items:
        try:
            decoded.append(decode(code))
        except (IllegalInstruction, ValueError):
            decoded.append(None)
    raw = [(int.from_bytes(i.bits if i else code[:ENCODINGS[name].size], "little"),
            i.size if i else ENCODINGS[name].size) for (name, code), i in zip(items, decoded, strict=True)]
    theirs = generator.disassemble(llvm_mc, raw)
    known = sum(text is not None for text in theirs)
    assert known > 3500, "LLVM accepts too few of the random encodings for the comparison to mean something"
    different = []
    for (name, code), instruction, text in zip(items, decoded, theirs, strict=True):
        # Modifiers on integers and literals beside DPP mean nothing; LLVM prints the former as sext().
        beside = instruction is not None and instruction.dpp and LITERAL in [o.code for o in instruction.operands]
        if text is None or "sext(" in text or beside:
            continue
        ours = "" if instruction is None else format_instruction(instruction)
        if same(ours) != same(text):
            different.append((name, ours, text, instruction.bits if instruction else code))
    again = llvm.assemble(llvm_mc, [ours for _, ours, _, _ in different])
    different = [d for d, code in zip(different, again, strict=True) if code != d[3]]
    # What LLVM's own text does not assemble back to has no exact text: there the operands must agree.
    exact = llvm.assemble(llvm_mc, [text for _, _, text, _ in different])
    wrong = [d for d, code in zip(different, exact, strict=True) if code == d[3] or bare(d[1]) != bare(d[2])]
    assert not wrong, f"{len(wrong)} of {known}: {wrong[:5]}"


def test_all_mimg_opcodes_decode(llvm_mc: str) -> None:
    encoding = ENCODINGS["MIMG"]
    table = opcode_table("MIMG")
    items = [(encoding.pack(op=op, vdata=8, vaddr=16, srsrc=2, ssamp=4, dmask=15, dim=1), 8) for op in table]
    for (bits, size), op, text in zip(items, table, generator.disassemble(llvm_mc, items), strict=True):
        instruction = decode(bits.to_bytes(size, "little"))
        assert instruction.mnemonic == table[op].mnemonic
        if text is not None:
            assert text.split()[0] == instruction.mnemonic


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
