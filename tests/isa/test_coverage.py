"""Every opcode that is said to be executed is bound and run once; the rest is refused with a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lab import Lab

from mock.isa.coverage import coverage, missing, table_text
from mock.isa.decode import Instruction, Opcode, decode, opcode_table
from mock.isa.dispatch import IllegalInstruction
from mock.isa.encoding import ENCODINGS
from mock.isa.opcodes import OPCODES
from mock.isa.program import is_terminator

V = 256
FIELDS = {"src0": V + 2, "src1": V + 10, "src2": V + 18, "vsrc1": 10, "ssrc0": 8, "ssrc1": 20, "vdst": 30, "sdst": 40,
          "sdata": 48, "sbase": 0, "soffset": 124, "saddr": 124, "addr": 50, "vaddr": 50, "data": 20, "data0": 20,
          "vdata": 20, "data1": 24, "srsrc": 2, "format": 20, "offen": 1, "op_sel_hi": 3, "op_sel_hi2": 1}
SEGMENTS = {"FLAT": 0, "SCRATCH": 1, "GLOBAL": 2}
MEMORY = np.zeros(4096, np.uint8)


def build(name: str, op: int, opcode: Opcode) -> Instruction:
    encoding = ENCODINGS[name]
    fields = {field: value for field, value in FIELDS.items() if field in encoding.fields}
    if name in SEGMENTS:
        fields["seg"] = SEGMENTS[name]
    if "addtid" in opcode.mnemonic and name == "GLOBAL":
        fields["saddr"] = 0
    for field, _, scalar in opcode.operands:
        if scalar:
            fields[field] = 44 if field == "vdst" else 60
    own = {field for field, _, _ in opcode.operands} | {"soffset", "saddr", "format", "offen", "seg"}
    bits = encoding.pack(op=op, **{f: v for f, v in fields.items() if f in own or f.startswith("op_sel")})
    bits = bits & ~opcode.fixed | opcode.value          # what the instruction leaves unused
    if opcode.mnemonic.startswith("s_getreg"):
        bits |= 31 << 11 | 1                            # all of MODE
    return decode(bits.to_bytes(encoding.size, "little") + bytes(4))


def prepared(name: str, lanes: int) -> Lab:
    lab = Lab(lanes=lanes, waves=2)
    s, rng = lab.state, np.random.default_rng(1)
    s.vgpr[...] = rng.integers(0, 2 ** 32, s.vgpr.shape, dtype=np.uint32)
    pointer = int(MEMORY.ctypes.data) + 1024
    if name in ("FLAT", "GLOBAL"):
        s.vgpr[50], s.vgpr[51] = pointer & 0xffffffff, pointer >> 32
    elif name == "SCRATCH":
        s.vgpr[50], s.per_wave["scratch"][:] = 0, pointer
    else:
        s.vgpr[50] = s.lane_ids * 8
    for first in (0, 8):        # a pointer, and a buffer resource of 32-bit integers
        s.sgpr[first:first + 4] = [[pointer & 0xffffffff], [pointer >> 32], [2048], [20 << 12 | 3 << 28 | 0xfac]]
    s.sgpr[125] = 0
    return lab


@pytest.mark.parametrize("lanes", [32, pytest.param(64, marks=pytest.mark.slow)])
def test_every_executed_opcode_runs(lanes: int) -> None:
    failed, ran = [], 0
    for name in OPCODES:
        if name in ("MIMG", "VINTERP", "LDSDIR") or name.startswith("VOPD"):
            continue
        for op, opcode in opcode_table(name).items():
            if opcode.mnemonic in missing(name) or is_terminator(opcode.mnemonic):
                continue
            instruction = build(name, op, opcode)
            ran += 1
            try:
                prepared(name, lanes).run(instruction.bits)
            except Exception as error:
                failed.append(f"{instruction}: {error!r}")
    assert not failed, f"{len(failed)} of {ran}: {failed[:5]}"
    assert ran > 1280


@pytest.mark.parametrize("name", sorted(OPCODES))
def test_what_is_not_executed_has_a_reason(name: str) -> None:
    assert "not written" not in missing(name).values()
    if name in ("VINTERP", "LDSDIR", "MIMG"):
        op, opcode = next(iter(opcode_table(name).items()))
        code = build(name, op, opcode).bits
        with pytest.raises(IllegalInstruction, match=f"{opcode.mnemonic}: no (image unit|pixel pipeline) for compute"):
            Lab(waves=1).run(code)


def test_the_table_in_the_documentation_is_this_one() -> None:
    page = Path(__file__).parents[2] / "docs" / "isa.md"
    assert table_text() in page.read_text()
    assert sum(done for _, _, done, _ in coverage()) > 1370
