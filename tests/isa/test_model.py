"""Interpreter = native code = exact model, for every instruction of the ALU in every form.

Three meanings, written apart: NumPy's arrays, LLVM's instructions, and Python's integers (``model_*.py``, from the ISA
guide). All start from the same registers, full of the numbers where floats and integers go wrong, and must leave the
same bits in all of them: sources of all kinds, literals, DPP8 and DPP16, signs, OMOD, clamp, halves by op_sel and by
register number, packed selections, carries, any EXEC, both wave sizes and every kind of MODE.
"""

from __future__ import annotations

import random

import model_machine
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from programs import Outcome, Program, Registers, find, opcodes

from mock.isa.decode import Instruction, opcode_table

EXECS = ("full", "some", "one", "zero")
TRANSCENDENTAL = ("v_exp_", "v_log_", "v_sin_", "v_cos_", "v_rcp_", "v_rsq_", "v_sqrt_")
"""No part of the exact model: tests/isa/test_transcendental.py has their accuracy. Both executors give the same."""


def mode_of(rounding: int, denormals: int, flags: int) -> int:
    """``rounding`` and ``denormals`` of f32 (two bits) and of f16 and f64 (two more); DX10_CLAMP, IEEE, FP16_OVFL."""
    return rounding | denormals << 4 | (flags & 3) << 8 | (flags >> 2) << 23


modes = st.builds(mode_of, st.integers(0, 15), st.integers(0, 15), st.integers(0, 7))


def compare(instructions: list[Instruction], start: Registers, tiers: tuple[bool, ...]) -> list[str]:
    """What differs, for people; and nothing may be left to the interpreter."""
    program = Program(instructions, start)
    interpreted = program.interpreted()
    found: list[str] = []

    def against(what: str, other: Outcome) -> None:
        found.extend(f"interpreter, {what}: {d}" for d in interpreted.differences(other)[:4])
    if all(map(model_machine.knows, instructions)):
        against("model", program.modelled())
    for optimise in tiers:
        outcome = program.compiled(optimise)
        against("optimised code" if optimise else "quickly made code", outcome)
        found += [f"left to the interpreter: {left}" for left in outcome.interpreted]
    return found


def _first_difference(instructions: list[Instruction], start: Registers, tiers: tuple[bool, ...]) -> list[str]:
    """The shortest beginning of a program that differs, and what does then."""
    good, bad = 0, len(instructions)
    while bad - good > 1:
        middle = (good + bad) // 2
        if compare(instructions[:middle], start, tiers):
            bad = middle
        else:
            good = middle
    text = "; ".join(str(i) for i in instructions[:bad])
    return [f"{instructions[bad - 1]} after others: {line}" for line in
            compare(instructions[:bad], start, tiers)] + [text]


def check(instructions: list[Instruction], start: Registers, tiers: tuple[bool, ...] = (False,)) -> None:
    """Whole programs are compared in code, single instructions with the model; a difference is looked for alone."""
    where = f"wave{start.lanes}, MODE {start.mode:#x}, EXEC {start.sgpr[127]:#x}:{start.sgpr[126]:#x}"
    found: list[str] = []
    for instruction in instructions:
        alone = compare([instruction], start, ())
        found += [f"{instruction} [{instruction.bits.hex()}] ({where}): {line}" for line in alone]
    whole = compare(instructions, start, tiers)
    if whole and not found:
        for instruction in instructions:
            found += [f"{instruction} [{instruction.bits.hex()}] ({where}): {line}"
                      for line in compare([instruction], start, tiers)]
        found = found or _first_difference(instructions, start, tiers)
    assert not found, "\n".join(found[:20])


@given(st.lists(st.tuples(st.integers(0, len(opcodes()) - 1), st.integers(0, 2 ** 32)), min_size=8, max_size=24),
       st.sampled_from([32, 64]), modes, st.sampled_from(EXECS), st.integers(0, 2 ** 32))
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_instructions(picks: list[tuple[int, int]], lanes: int, mode: int, exec_kind: str, seed: int) -> None:
    chosen = [find(*opcodes()[number], random.Random(form), lanes) for number, form in picks]
    check([i for i in chosen if i is not None], Registers(lanes, seed, mode, exec_kind))


def all_forms(rng: random.Random, lanes: int, each: int) -> list[Instruction]:
    found = [find(name, op, rng, lanes) for name, op in opcodes() for _ in range(each)]
    return [i for i in found if i is not None]


@pytest.mark.parametrize("lanes", [32, 64])
def test_every_opcode_in_some_form(lanes: int) -> None:
    """Interpreter and model, instruction by instruction, in a MODE and EXEC of its own."""
    rng = random.Random(lanes)
    every = all_forms(rng, lanes, 1)
    assert {i.mnemonic for i in every if i.pair is None} == {
        opcode_table(name)[op].mnemonic for name, op in opcodes() if ":" not in name}
    for instruction in every:
        mode = mode_of(rng.randrange(16), rng.randrange(16), rng.randrange(8))
        check([instruction], Registers(lanes, rng.getrandbits(30), mode, rng.choice(EXECS)), ())


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [32, 64])
@pytest.mark.parametrize(("rounding", "denormals", "flags"), [
    (0, 15, 3), (0, 0, 1), (5, 15, 4), (10, 10, 2), (15, 5, 7)])
def test_every_opcode_in_every_form(lanes: int, rounding: int, denormals: int, flags: int) -> None:
    mode = mode_of(rounding, denormals, flags)
    rng = random.Random(mode * 64 + lanes)
    every = all_forms(rng, lanes, 1)
    rng.shuffle(every)
    size = 60
    for at in range(0, len(every), size):
        start = Registers(lanes, rng.getrandbits(30), mode, EXECS[at // size % 4])
        check(every[at:at + size], start, (False, True))


@pytest.mark.slow
@given(st.integers(0, len(opcodes()) - 1), st.integers(0, 2 ** 32), st.sampled_from([32, 64]), modes,
       st.sampled_from(EXECS), st.integers(0, 2 ** 32))
@settings(max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck))
def test_many_instructions_by_the_model(number: int, form: int, lanes: int, mode: int, exec_kind: str,
                                        seed: int) -> None:
    instruction = find(*opcodes()[number], random.Random(form), lanes)
    if instruction is not None:
        check([instruction], Registers(lanes, seed, mode, exec_kind), ())
