"""Native code for every opcode: what is left to the host is listed here, with the reason."""

from __future__ import annotations

import llvmlite.binding as llvm
import pytest
from test_coverage import build

from mock.isa.coverage import missing
from mock.isa.decode import Instruction, decode, opcode_table
from mock.isa.jit.translate import Flow, translate
from mock.isa.opcodes import OPCODES
from mock.isa.program import is_terminator

END = decode(bytes.fromhex("0000b0bf") + bytes(16))
HOST = {"s_trap": "enters the trap handler, or is an error", "s_sendmsghalt": "waits for the host to wake it",
        "s_rfe_b64": "returns from the trap handler",
        "s_sendmsg_rtn_b32": "asks the host: doorbell, real time, trap addresses",
        "s_sendmsg_rtn_b64": "asks the host: doorbell, real time, trap addresses"}
REGISTERS = {1: None, 2: "STATUS", 3: "TRAPSTS", 6: None, 15: None, 20: None, 21: None, 23: "HW_ID1", 24: "HW_ID2",
             29: "SHADER_CYCLES"}
"""Hardware registers: None where native code knows the value, else what the host has to tell."""
MODE = 0x3f0


def left(instruction: Instruction, lanes: int, optimise: bool) -> list[str]:
    """What translating the instruction alone leaves to the interpreter. The code must be valid."""
    flow = Flow()
    flow.instructions, flow.leaders = {0: instruction, instruction.size: END}, {0}
    if is_terminator(instruction.mnemonic):
        flow.leaders.add(instruction.size)
    made = translate(flow, [(0, MODE)], lanes=lanes, chunk=16, vgprs=96, optimise=optimise)
    if optimise or lanes == 64:         # in the long suites
        llvm.parse_assembly(str(made.module)).verify()
    return made.interpreted


@pytest.mark.parametrize("optimise", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("lanes", [32, pytest.param(64, marks=pytest.mark.slow)])
def test_nothing_is_left_to_the_interpreter(lanes: int, optimise: bool) -> None:
    found, ran = {}, 0
    for name in OPCODES:
        if name in ("MIMG", "VINTERP", "LDSDIR") or name.startswith("VOPD"):
            continue
        for op, opcode in opcode_table(name).items():
            if opcode.mnemonic in missing(name) and opcode.mnemonic not in HOST:
                continue
            ran += 1
            interpreted = left(build(name, op, opcode), lanes, optimise)
            if interpreted:
                found[opcode.mnemonic] = interpreted
    assert set(found) == set(HOST), found
    assert ran > 1280


@pytest.mark.parametrize("number", sorted(REGISTERS))
def test_hardware_registers_that_native_code_knows(number: int) -> None:
    op = next(op for op, o in opcode_table("SOPK").items() if o.mnemonic == "s_getreg_b32")
    code = (0xb << 28 | op << 23 | 4 << 16 | 31 << 11 | number).to_bytes(4, "little")
    interpreted = left(decode(code + bytes(16)), 32, False)
    assert bool(interpreted) == (REGISTERS[number] is not None), interpreted
