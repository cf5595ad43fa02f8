"""Interpreter = native code = exact model, for every memory instruction: addresses of all kinds, misaligned, shared by
lanes and out of range; LDS, private memory, both apertures, buffers with strides, swizzles, formats and every range
check; atomics with and without results; what moves between lanes.
"""

from __future__ import annotations

import random
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from programs import MEMORY, Arena, Program, Registers
from test_model import EXECS, mode_of, modes

from mock.isa.coverage import missing
from mock.isa.decode import Instruction, decode, opcode_table
from mock.isa.dispatch import IllegalInstruction
from mock.isa.encoding import ENCODINGS
from mock.isa.state import EXEC, M0

SEGMENTS = {"FLAT": 0, "SCRATCH": 1, "GLOBAL": 2}
ADDRESS, OFFSET, SMALL, DATA, RESULT = 0, 2, 3, 5, 12      # VGPRs: a pointer, LDS offsets, buffer index and offset
POINTER, RESOURCE, STEP, LOADED = 0, 8, 6, 12              # SGPRs
WITHOUT = ("ds_nop", "buffer_gl0_inv", "buffer_gl1_inv", "s_gl1_inv", "s_dcache_inv", "s_atc_probe", "_bvh_", "_gs_",
           "ordered")


@cache
def opcodes() -> list[tuple[str, int]]:
    return [(name, op) for name in MEMORY for op, o in opcode_table(name).items()
            if o.mnemonic not in missing(name) and not any(part in o.mnemonic for part in WITHOUT)]


def is_atomic(mnemonic: str) -> bool:
    """Must its addresses be aligned?"""
    return "atomic" in mnemonic or (mnemonic.startswith("ds_") and not mnemonic.startswith(("ds_load", "ds_store_")))


class Start(Registers):
    """Registers with addresses among them."""

    def __init__(self, lanes: int, seed: int, mode: int, exec_kind: str, arena: Arena) -> None:
        super().__init__(lanes, seed, mode, exec_kind)
        rng = np.random.default_rng(seed + 1)
        grain = int(rng.choice([1, 2, 4, 4, 4, 16]))
        spread = int(rng.choice([64, 512, 4096]))
        where = rng.integers(0, spread // grain, lanes) * grain
        if rng.random() < 0.25:
            where = np.arange(lanes) * grain
        pointers = arena.address + 8192 + where.astype(np.uint64)
        kind = rng.integers(0, 4, lanes) if rng.random() < 0.5 else np.zeros(lanes, int)
        self.pointers, self.kind, self.where = pointers, kind, where.astype(np.uint64)
        self.vgpr[OFFSET] = np.where(rng.random(lanes) < 0.1, 1020 + rng.integers(0, 8, lanes), where % 1000)
        self.vgpr[SMALL] = rng.integers(0, 40, lanes)
        self.vgpr[SMALL + 1] = rng.integers(0, 128, lanes) // grain * grain
        self.sgpr[POINTER], self.sgpr[POINTER + 1] = (arena.address + 4096) & 0xffffffff, arena.address >> 32
        self.sgpr[STEP] = int(rng.integers(0, 64)) * int(rng.choice([1, 4]))
        self.sgpr[M0] = int(rng.integers(0, 1100))
        stride, records = int(rng.choice([0, 4, 16, 20, 64])), int(rng.choice([0, 5, 40, 300, 1500]))
        swizzle, form = int(rng.choice([0, 0, 1, 2, 3])), int(rng.integers(1, 64))
        self.sgpr[RESOURCE] = (arena.address + 512 + int(rng.integers(0, 4)) * 4) & 0xffffffff
        self.sgpr[RESOURCE + 1] = arena.address >> 32 | stride << 16 | swizzle << 30
        self.sgpr[RESOURCE + 2] = records
        self.sgpr[RESOURCE + 3] = int(rng.integers(0, 1 << 12)) | form << 12 | int(rng.integers(0, 4)) << 21 | \
            int(rng.integers(0, 2)) << 23 | int(rng.integers(0, 4)) << 28
        for first in range(0, 12, 4):       # DST_SEL 2 and 3 are reserved
            if self.sgpr[RESOURCE + 3] >> first // 4 * 3 & 6 == 2:
                self.sgpr[RESOURCE + 3] &= ~np.uint32(7 << first // 4 * 3)

    def point(self, instruction: Instruction) -> None:
        """The addresses, as the instruction wants them.

        Lanes that write have one address or do not overlap, since nothing says which of them would come later; those
        of atomics are aligned.
        """
        values, where = self.pointers, self.where
        atomic = is_atomic(instruction.mnemonic)
        if atomic or "_store_" in instruction.mnemonic:
            odd = np.uint64(0 if atomic else int(values[0]) % 16)
            values, where = values & ~np.uint64(15) | odd, where & ~np.uint64(15) | odd
            small = np.uint32(odd)
            self.vgpr[OFFSET] = self.vgpr[OFFSET] & ~np.uint32(15) | small
            self.vgpr[SMALL + instruction.fields.get("idxen", 0)] &= ~np.uint32(15)     # the buffer's offset
            self.sgpr[RESOURCE + 1] = self.sgpr[RESOURCE + 1] & 0xffff | [0, 16, 64][int(odd) % 3] << 16
            if atomic:
                self.sgpr[STEP] &= ~np.uint32(7)
                self.sgpr[RESOURCE] &= ~np.uint32(15)
        if instruction.encoding == "FLAT":
            values = np.where(self.kind == 1, np.uint64(1 << 48) + where % np.uint64(896), np.where(
                self.kind == 2, np.uint64(2 << 48) + where % np.uint64(192), values))
        self.vgpr[ADDRESS], self.vgpr[ADDRESS + 1] = values & np.uint64(0xffffffff), values >> np.uint64(32)


def find(name: str, op: int, rng: random.Random) -> Instruction:
    """A random form of the opcode over those registers."""
    encoding, entry = ENCODINGS[name], opcode_table(name)[op]
    atomic = is_atomic(entry.mnemonic)
    values = {"seg": SEGMENTS.get(name, 0), "addr": OFFSET if name in ("DS", "SCRATCH") else ADDRESS, "data": DATA,
              "data0": DATA, "data1": DATA + 2, "vdst": RESULT, "vdata": rng.choice([DATA, RESULT]), "vaddr": SMALL,
              "srsrc": RESOURCE // 4, "sbase": POINTER // 2, "sdata": LOADED, "op": op}
    values = {k: v for k, v in values.items() if k in encoding.fields}
    if "buffer" in entry.mnemonic and name == "SMEM":
        values["sbase"] = RESOURCE // 2
    if name in ("GLOBAL", "SCRATCH"):
        values["saddr"] = rng.choice([124, POINTER]) if name == "GLOBAL" else rng.choice([124, STEP])
        if "addtid" in entry.mnemonic:
            values["saddr"] = POINTER
        if values["saddr"] != 124 and name == "GLOBAL":
            values["addr"] = OFFSET
    step = 8 if atomic else rng.choice([1, 2, 4])
    span = {"FLAT": 64, "SCRATCH": 200, "GLOBAL": 2000, "DS": 40, "MUBUF": 100, "MTBUF": 100, "SMEM": 500}[name]
    offset = rng.randrange(span) // step * step
    if name == "GLOBAL" or (name == "SMEM" and "buffer" not in entry.mnemonic):
        offset -= span // 2 // step * step
    if name == "SCRATCH":
        values["sve"] = rng.randrange(2)
    for field, (_, bits) in encoding.fields.items():
        if field in ("offset", "offset0"):
            values[field] = offset & (1 << bits) - 1
        elif field == "offset1":
            values[field] = rng.randrange(4) if "2addr" in entry.mnemonic else 0
        elif field in ("offen", "idxen", "glc", "slc", "dlc"):
            values[field] = rng.randrange(2)
        elif field == "soffset":
            values[field] = rng.choice([124, STEP, STEP if name == "SMEM" else 128 + 8 * rng.randrange(5)])
        elif field == "format":
            values[field] = rng.randrange(1, 64)
    if entry.mnemonic == "ds_swizzle_b32":
        values["offset0"], values["offset1"] = rng.getrandbits(8), rng.getrandbits(8)
    for _ in range(20):
        packed = encoding.pack(**values) & ~entry.fixed | entry.value
        try:
            return decode(packed.to_bytes(encoding.size, "little") + bytes(16))
        except IllegalInstruction:
            values["offen"], values["idxen"] = rng.randrange(2), rng.randrange(2)
    raise AssertionError(f"no form of {entry.mnemonic} found")


def check(number: int, form: int, lanes: int, mode: int, exec_kind: str, seed: int, tiers: tuple[bool, ...]) -> None:
    arena = Arena(seed)
    instruction = find(*opcodes()[number], random.Random(form))
    start = Start(lanes, seed, mode, exec_kind, arena)
    start.point(instruction)
    program = Program([instruction], start, arena)
    interpreted = program.interpreted()
    found = [f"model: {d}" for d in interpreted.differences(program.modelled())]
    for optimise in tiers:
        outcome = program.compiled(optimise)
        found += [f"{'optimised' if optimise else 'quick'} code: {d}" for d in interpreted.differences(outcome)]
        found += [f"left to the interpreter: {left}" for left in outcome.interpreted]
    words = " ".join(f"{x:#x}" for x in start.sgpr[RESOURCE:RESOURCE + 4])
    assert not found, f"{instruction} [{instruction.bits.hex()}] (wave{lanes}, MODE {mode:#x}, EXEC " \
        f"{start.sgpr[EXEC + 1]:#x}:{start.sgpr[EXEC]:#x}, resource {words}, seed {seed}): " + "; ".join(found[:8])


@pytest.mark.parametrize("lanes", [32, 64])
def test_every_memory_opcode_in_some_form(lanes: int) -> None:
    rng = random.Random(lanes)
    for number in range(len(opcodes())):
        mode = mode_of(rng.randrange(16), rng.randrange(16), rng.randrange(8))
        check(number, rng.getrandbits(30), lanes, mode, rng.choice(EXECS), rng.getrandbits(30), ())


@given(st.integers(0, len(opcodes()) - 1), st.integers(0, 2 ** 32), st.sampled_from([32, 64]), modes,
       st.sampled_from(EXECS), st.integers(0, 2 ** 32))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_accesses(number: int, form: int, lanes: int, mode: int, exec_kind: str, seed: int) -> None:
    check(number, form, lanes, mode, exec_kind, seed, (False,))


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [32, 64])
@pytest.mark.parametrize("optimise", [False, True])
def test_every_memory_opcode_in_native_code(lanes: int, optimise: bool) -> None:
    """Each opcode in one of the four; half of them with a full EXEC."""
    rng = random.Random(lanes + optimise)
    for number in range(lanes // 32 - 1 + 2 * optimise, len(opcodes()), 4):
        check(number, rng.getrandbits(30), lanes, 0x3f0, rng.choice(("full", "some")), rng.getrandbits(30), (optimise,))


@pytest.mark.slow
@given(st.integers(0, len(opcodes()) - 1), st.integers(0, 2 ** 32), st.sampled_from([32, 64]), modes,
       st.sampled_from(EXECS), st.integers(0, 2 ** 32))
@settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
def test_many_accesses_by_the_model(number: int, form: int, lanes: int, mode: int, exec_kind: str, seed: int) -> None:
    check(number, form, lanes, mode, exec_kind, seed, ())
