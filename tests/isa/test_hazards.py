"""Loads without a wait are found; what clang emits is clean; taking any needed wait away is noticed."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import llvm
import numpy as np
import pytest

import mock.isa as isa
from mock.isa.access import Accessor, HostMemory
from mock.isa.decode import opcode_table
from mock.isa.encoding import ENCODINGS
from mock.isa.hazards import HazardError, find
from mock.isa.program import Code
from mock.isa.standalone import CodeObject

Assembler = Callable[[str], bytes]


def hazards(code: bytes) -> list[str]:
    buffer = np.zeros(len(code) + 16384, np.uint8)
    skip = -int(buffer.ctypes.data) % 4096
    buffer[skip:skip + len(code)] = np.frombuffer(code, np.uint8)
    address = int(buffer.ctypes.data) + skip
    return [str(h) for h in find(Code(Accessor(HostMemory()), address))]


@pytest.mark.parametrize(("text", "expected"), [
    ("s_load_b32 s4, s[0:1], 0x0\ns_add_u32 s5, s4, 1", ["reads s4"]),
    ("s_load_b32 s4, s[0:1], 0x0\ns_waitcnt lgkmcnt(0)\ns_add_u32 s5, s4, 1", []),
    # Scalar loads come in any order: a wait for one of two settles neither.
    ("s_load_b32 s4, s[0:1], 0x0\ns_load_b32 s6, s[0:1], 0x4\ns_waitcnt lgkmcnt(1)\ns_add_u32 s5, s4, 1", ["reads s4"]),
    # Vector loads come in order.
    ("global_load_b32 v1, v0, s[0:1]\nglobal_load_b32 v2, v0, s[2:3]\ns_waitcnt vmcnt(1)\nv_mov_b32 v3, v1", []),
    ("global_load_b32 v1, v0, s[0:1]\nglobal_load_b32 v2, v0, s[2:3]\ns_waitcnt vmcnt(1)\nv_mov_b32 v3, v2",
        ["reads v2"]),
    ("global_load_b64 v[2:3], v0, s[0:1]\nv_mov_b32 v3, 0", ["overwrites v3"]),
    ("ds_load_b32 v1, v0\ns_waitcnt vmcnt(0)\nglobal_store_b32 v0, v1, s[0:1]", ["reads v1"]),
    ("ds_load_b32 v1, v0\nds_load_b32 v2, v0\ns_waitcnt lgkmcnt(1)\nv_mov_b32 v3, v1", []),
    # Flat loads may end in either unit: both counters must be waited for.
    ("flat_load_b32 v1, v[2:3]\ns_waitcnt vmcnt(0)\nv_mov_b32 v3, v1", ["reads v1"]),
    ("flat_load_b32 v1, v[2:3]\ns_waitcnt vmcnt(0) lgkmcnt(0)\nv_mov_b32 v3, v1", []),
    ("global_atomic_add_u32 v1, v0, v2, s[0:1] glc\nv_fmac_f32 v1, v2, v3", ["reads v1"]),
    # Around a loop: the load at its end is used at its beginning.
    ("v_mov_b32 v1, 0\nv_add_nc_u32 v2, v1, v1\nglobal_load_b32 v1, v0, s[0:1]\ns_cbranch_scc1 65532", ["reads v1"]),
    # On one of two ways only.
    ("s_cbranch_scc0 2\nglobal_load_b32 v1, v0, s[0:1]\nv_mov_b32 v3, v1", ["reads v1"]),
])
def test_straight_and_branching_code(assembler: Assembler, text: str, expected: list[str]) -> None:
    found = hazards(assembler(text + "\ns_endpgm"))
    assert len(found) == len(expected), found
    for message, part in zip(found, expected, strict=True):
        assert part in message and "a wait for its counter is missing between the two" in message


@pytest.mark.parametrize(("text", "expected"), [
    ("v_cmpx_eq_u32 v0, v1\nv_permlane16_b32 v2, v3, s0, s1", ["follows v_cmpx_eq_u32"]),
    ("v_cmpx_eq_u32 v0, v1\nv_nop\nv_permlane16_b32 v2, v3, s0, s1", []),
    ("v_cmpx_eq_u32 v0, v1\ns_nop 3\nv_permlanex16_b32 v2, v3, s0, s1", ["follows v_cmpx_eq_u32"]),
    ("v_rcp_f32 v1, v0\nv_add_f32 v2, v1, v1", ["reads v1 too soon after v_rcp_f32"]),
    ("v_rcp_f32 v1, v0\ns_waitcnt_depctr depctr_va_vdst(0)\nv_add_f32 v2, v1, v1", []),
    ("v_rcp_f32 v1, v0\ns_waitcnt_depctr depctr_va_vdst(1)\nv_add_f32 v2, v1, v1", ["reads v1 too soon"]),
    ("v_rcp_f32 v1, v0\n" + "v_nop\n" * 5 + "v_add_f32 v2, v1, v1", ["reads v1 too soon"]),
    ("v_rcp_f32 v1, v0\n" + "v_nop\n" * 6 + "v_add_f32 v2, v1, v1", []),
    ("v_rcp_f32 v1, v0\nv_exp_f32 v3, v0\nv_add_f32 v2, v1, v1", ["reads v1 too soon"]),
    ("v_rcp_f32 v1, v0\nv_exp_f32 v3, v0\nv_exp_f32 v4, v0\nv_add_f32 v2, v1, v1", []),
    ("v_rcp_f32 v1, v0\nglobal_store_b32 v4, v5, s[0:1]\nv_add_f32 v2, v1, v1", []),
    ("v_rcp_f32 v1, v0\nv_mov_b32 v1, 0", []),
    ("v_wmma_f32_16x16x16_f16 v[0:7], v[8:15], v[16:23], v[0:7]\n"
     "v_wmma_f32_16x16x16_f16 v[24:31], v[0:7], v[16:23], v[24:31]", ["multiplies by v0, which v_wmma"]),
    ("v_wmma_f32_16x16x16_f16 v[0:7], v[8:15], v[16:23], v[0:7]\nv_nop\n"
     "v_wmma_f32_16x16x16_f16 v[24:31], v[0:7], v[16:23], v[24:31]", []),
    ("v_wmma_f32_16x16x16_f16 v[0:7], v[8:15], v[16:23], v[0:7]\n"
     "v_wmma_f32_16x16x16_f16 v[0:7], v[8:15], v[16:23], v[0:7]", []),
    # On one of two ways, the short one.
    ("v_rcp_f32 v1, v0\ns_cbranch_scc0 6\n" + "v_nop\n" * 6 + "v_add_f32 v2, v1, v1", ["reads v1 too soon"]),
])
def test_what_vector_units_do_not_interlock(assembler: Assembler, text: str, expected: list[str]) -> None:
    found = hazards(assembler(text + "\ns_endpgm"))
    assert len(found) == len(expected), found
    assert all(part in message for message, part in zip(found, expected, strict=True))


def test_register_banks_of_pairs_are_those_that_the_assembler_knows(llvm_mc: str) -> None:
    """Pairs of register operands: LLVM assembles what has no bank in common, and refuses the rest."""
    rng, seen = random.Random(5), set()
    lines = []
    for _ in range(600):
        names = ("add_f32", "fmac_f32", "mul_f32", "mov_b32", "dot2acc_f32_f16", "cndmask_b32", "fmamk_f32",
                 "fmaak_f32")
        x, y = (rng.choice(names) for _ in "xy")
        r = [rng.randrange(8) for _ in range(6)]
        r[3] = r[3] & ~1 | ~r[0] & 1        # one destination is even, the other odd
        more = {"mov_b32": "", "fmamk_f32": ", 0x1234, v{0}", "fmaak_f32": ", v{0}, 0x1234"}
        halves = [f"v_dual_{name} v{a}, v{b}" + more.get(name, ", v{0}").format(c)
                  for name, (a, b, c) in ((x, r[:3]), (y, r[3:]))]
        lines.append(" :: ".join(halves))
    # The encoding of what is refused: that of a pair that is not, with the registers put in.
    for line, code in zip(lines, llvm.assemble(llvm_mc, lines), strict=True):
        if code is not None:
            assert not hazards(code + bytes.fromhex("0000b0bf")), line
            seen.add(True)
            continue
        x, y = (part.split(maxsplit=1) for part in line.split(" :: "))
        tables = {h: {o.mnemonic: op for op, o in opcode_table("VOPD" + h.upper()).items()} for h in "xy"}
        (dx, ax, bx), (dy, ay, by) = ([int(n) for n in re.findall(r"v(\d+)", half[1])] + [0] * ("mov" in half[0])
                                      for half in (x, y))
        bits = ENCODINGS["VOPD"].pack(opx=tables["x"][x[0][7:]], opy=tables["y"][y[0][7:]], src0x=256 + ax, vsrc1x=bx,
                                      src0y=256 + ay, vsrc1y=by, vdstx=dx, vdsty=dy >> 1)
        literal = bytes.fromhex("34120000") if "0x1234" in line else b""
        found = hazards(bits.to_bytes(8, "little") + literal + bytes.fromhex("0000b0bf"))
        assert len(found) == 1 and "register banks" in found[0], (line, found)
        seen.add(False)
    assert seen == {True, False}


def test_upper_halves_are_of_their_registers(assembler: Assembler) -> None:
    upper = ENCODINGS["VOP2"].pack(op=0x32, src0=256 + 130, vsrc1=3, vdst=4).to_bytes(4, "little")    # reads v2.h
    load = assembler("global_load_b32 v2, v0, s[0:1]")
    assert "reads v2" in hazards(load + upper + bytes.fromhex("0000b0bf"))[0]
    load = assembler("global_load_b32 v130, v0, s[0:1]")
    assert not hazards(load + upper + bytes.fromhex("0000b0bf"))


@pytest.mark.parametrize("level", ["O0", "O2", "O3"])
@pytest.mark.parametrize("name", ["ordinary.cl", "wmma.cl"])
def test_what_clang_emits_is_clean(compile_kernels: Any, name: str, level: str) -> None:
    code = CodeObject(compile_kernels(name, level))
    for kernel in code.kernels.values():
        assert not find(Code(Accessor(HostMemory()), kernel.entry)), kernel.name


def test_every_wait_that_matters_is_missed_when_it_is_gone(compile_kernels: Any) -> None:
    code = CodeObject(compile_kernels("ordinary.cl", "O2"))
    kernel = code.kernels["saxpy"]
    program = Code(Accessor(HostMemory()), kernel.entry)
    pc, waits = 0, []
    while (instruction := program.instruction(pc)).mnemonic != "s_endpgm":
        if instruction.mnemonic == "s_waitcnt":
            waits.append(pc)
        pc += instruction.size
    assert waits
    for wait in waits:
        at = kernel.entry - code.base + wait
        saved = code.image[at:at + 4].copy()
        code.image[at:at + 4] = np.frombuffer(bytes.fromhex("000080bf"), np.uint8)      # s_nop 0
        assert find(Code(Accessor(HostMemory()), kernel.entry)), f"wait at {wait:#x}"
        code.image[at:at + 4] = saved


def test_execution_refuses_hazards_unless_told(assembler: Assembler) -> None:
    code = assembler("s_load_b32 s4, s[0:1], 0x0\ns_add_u32 s5, s4, 1\ns_endpgm")
    source = np.zeros(4, np.uint32)
    launch: dict[str, Any] = {"grid": (1,), "block": (32,), "kernarg": int(source.ctypes.data), "rsrc1": 0, "rsrc2": 4}
    with pytest.raises(HazardError,
        match=r"s_add_u32 s5, s4, 1 at 0x8 reads s4 while s_load_b32 s4, s\[0:1\], null at 0x0"):
        isa.run(code, **launch)
    assert isa.run(code, check_hazards=False, **launch).instructions == 3
