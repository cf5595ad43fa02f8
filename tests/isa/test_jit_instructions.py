"""Compiled code against the interpreter, instruction by instruction: random operands, modifiers, registers and EXEC.

Both start from the same registers, full of the numbers where floats and integers go wrong, and must leave the same
bits in all of them. The table of semantics is one; what is compared is everything around it, and the two meanings of
its words.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest

from mock.isa.access import HostMemory
from mock.isa.decode import Instruction, decode, opcode_table
from mock.isa.dispatch import Dispatch, IllegalInstruction
from mock.isa.encoding import DPP8, DPP16, ENCODINGS, LITERAL
from mock.isa.interpreter import Machine
from mock.isa.jit.executor import _Box, _Launch, _Runner
from mock.isa.jit.registers import Layout
from mock.isa.program import is_terminator
from mock.isa.semantics import Entry, table
from mock.isa.state import EXEC, State

VGPRS, SGPRS = 16, 24
BARRIER_END = bytes.fromhex("0000bdbf" "0000b0bf")      # s_barrier; s_endpgm
ALU = ("SOP1", "SOP2", "SOPC", "SOPK", "VOP1", "VOP2", "VOPC", "VOP3", "VOP3P", "VOPD")
SPECIAL_32 = [0, 0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00000, 0xffc12345, 0x7f800001,
              0x7fa00000, 1, 0x807fffff, 0x00800000, 0x7f7fffff, 0x3effffff, 0x4b000001, 0xffffffff, 0x7fffffff, 31,
              0x4f000000,
              0x3c003c00, 0x7c007bff, 0x03ff8001, 0xfc00fe01, 0xbf000000, 0x40490fdb, 0x80008000, 0x00010001]


def instructions(rng: random.Random) -> Iterator[Instruction]:
    """One random encoding of every ALU opcode."""
    for name in ALU:
        for op in opcode_table(name) if name != "VOPD" else range(1):
            for _ in range(20):
                found = _try(name, op, rng)
                if found is not None:
                    yield found
                    break
    for op in opcode_table("VOP3SD"):
        found = _try("VOP3SD", op, rng)
        if found is not None:
            yield found


def _source(rng: random.Random, literal: bool = True) -> int:
    kind = rng.random()
    if kind < 0.5:
        return 256 + rng.randrange(VGPRS - 4)
    if kind < 0.7:
        return rng.randrange(SGPRS - 2) & ~1
    if kind < 0.75:
        return 106
    if kind < 0.9 or not literal:
        return rng.choice([128, 129, 192, 193, 208, *range(240, 249)])
    return LITERAL


def _try(name: str, op: int, rng: random.Random) -> Instruction | None:
    encoding = ENCODINGS[name]
    values: dict[str, int] = {}
    literal = rng.choice(SPECIAL_32)
    tail = b""
    dpp = name in ("VOP1", "VOP2", "VOPC") and rng.random() < 0.25
    for field, (_, bits) in encoding.fields.items():
        if field == "op":
            values[field] = op
        elif field in ("opx", "opy"):
            values[field] = rng.randrange(14)
        elif field in ("src0", "src0x", "src0y"):
            values[field] = _source(rng)
        elif field in ("src1", "src2"):
            values[field] = _source(rng, literal=False)
        elif field.startswith("ssrc"):
            values[field] = rng.choice([rng.randrange(0, SGPRS - 2) & ~1, 106, 126, 128 + rng.randrange(65), 193, 242,
                                        LITERAL])
        elif field == "sdst":
            values[field] = rng.choice([rng.randrange(0, SGPRS - 2) & ~1, 106])
        elif field.startswith(("vdst", "vsrc1")):
            values[field] = rng.randrange(VGPRS - 4)
        elif field in ("omod", "clamp"):
            values[field] = rng.randrange(1 << bits) if rng.random() < 0.3 else 0
        else:
            values[field] = rng.getrandbits(bits) if rng.random() < 0.5 else 0
    if name == "VOPD":
        values["vdstx"], values["vdsty"] = rng.randrange(0, 8, 2), rng.randrange(0, 4)
        values["src0y"] = 256 + rng.randrange(12)
        values["src0x"] = 256 + rng.randrange(12)
    if dpp:
        if rng.random() < 0.4:
            values["src0"] = DPP8
            word = rng.randrange(8) | rng.getrandbits(24) << 8
        else:
            values["src0"] = DPP16
            control = rng.choice([0x1b, 0xe4, 0x101, 0x113, 0x122, 0x140, 0x141, 0x153, 0x161])
            word = rng.randrange(8) | control << 8 | rng.randrange(4) << 18 | rng.getrandbits(8) << 24
            word |= rng.randrange(16) << 20 if rng.random() < 0.5 else 0
        entry = opcode_table(name).get(op)
        word &= ~entry.sign("dpp16") if entry is not None and values["src0"] == DPP16 else -1
        tail = word.to_bytes(4, "little")
    if name == "VOPD":
        values.update({"vsrc1" + half: 0 for half in "xy" if values["op" + half] == 8})
    bits = encoding.pack(**values)
    opcode = opcode_table(name).get(op) if name != "VOPD" else None
    if opcode is not None:          # bits that the instruction leaves unused are zero
        bits = bits & ~opcode.fixed | opcode.value
    data = bits.to_bytes(encoding.size, "little") + tail + literal.to_bytes(4, "little")
    try:
        found = decode(data + bytes(12))
    except (IllegalInstruction, ValueError):
        return None
    halves = found.pair or (found,)
    if is_terminator(found.mnemonic) or any(not isinstance(table().get(h.mnemonic), Entry) for h in halves):
        return None
    if any(o.code in (126, 127) for h in halves for o in h.operands[:1]):
        return None
    masks = [o.code for h in halves if "mask" in table()[h.mnemonic].sources for o in h.operands if o.field == "src2"]
    if any(code > 106 for code in masks):
        return None
    if found.dpp is not None and found.mnemonic.startswith(("v_swap", "v_readfirstlane", "v_writelane", "v_readlane")):
        return None         # LLVM knows no such form
    if found.mnemonic.startswith("v_swap") and any(o.code < 256 for o in found.operands):
        return None
    uniform = {"v_readlane": ("src1",), "v_writelane": ("src0", "src1"), "v_permlane": ("src1", "src2")}
    for start, fields in uniform.items():
        if found.mnemonic.startswith(start) and any(o.code >= 256 for o in found.operands if o.field in fields):
            return None
    last = [o.code - 256 + o.width for h in halves for o in h.operands if o.code >= 256 and o.code < 256 + 128]
    return None if max(last, default=0) > VGPRS else found


class Pair:
    """One program on both executors, from the same registers."""

    def __init__(self, program: list[Instruction], lanes: int, seed: int, mode: int, optimise: bool) -> None:
        self.program, self.optimise = program, optimise
        code = np.frombuffer(b"".join(i.bits for i in program) + BARRIER_END + bytes(64), np.uint8)
        raw = np.zeros(len(code) + 4096, np.uint8)
        skip = -int(raw.ctypes.data) % 256
        self.code = raw[skip:skip + len(code)]
        self.code[:] = code
        granule = 8 if lanes == 32 else 4
        rsrc1 = (VGPRS // granule - 1) | (mode & 0xff) << 12 | (mode >> 8 & 1) << 21 | (mode >> 9 & 1) << 23
        rsrc1 |= (mode >> 23 & 1) << 26
        self.dispatch = Dispatch(int(self.code.ctypes.data), rsrc1, 0, 0, (), (1, 1, 1), (lanes, 1, 1), wave_size=lanes)
        rng = np.random.default_rng(seed)
        self.vgprs = 24         # VGPRS, rounded up to what a wave is given
        pool = np.array(SPECIAL_32, np.uint32)

        def numbers(*shape: int) -> np.ndarray:
            plain = rng.integers(0, 1 << 32, shape, dtype=np.uint64).astype(np.uint32)
            small = rng.normal(0, 100, shape).astype(np.float32).view(np.uint32)
            choice = rng.integers(0, 4, shape)
            return np.select([choice == 0, choice == 1], [plain, small], pool[rng.integers(0, len(pool), shape)])
        self.sgpr = numbers(128)
        self.vgpr = numbers(self.vgprs, lanes)
        full = (1 << lanes) - 1
        mask = full if seed % 3 == 0 else int(rng.integers(0, 1 << 32)) | int(rng.integers(0, 1 << 32)) << 32
        mask &= full
        self.sgpr[EXEC], self.sgpr[EXEC + 1] = mask & 0xffffffff, mask >> 32
        self.scc = int(rng.integers(0, 2))
        self.lanes, self.mode = lanes, mode

    def compiled(self) -> tuple[np.ndarray, np.ndarray, int, list[str]]:
        launch = _Launch(self.dispatch, HostMemory(), check_hazards=False)
        launch.compiled = launch.kernel.compile(self.optimise)
        runner = _Runner(launch, _Box(self.dispatch, (0, 0, 0), (1, 1, 1), self.dispatch.block), 0)
        wave = runner.states
        wave[:Layout.VGPRS] = runner.sgprs
        wave[:128] = self.sgpr
        wave[Layout.SCC] = self.scc
        vgprs = wave[Layout.VGPRS:].reshape(-1, self.lanes)
        vgprs[:len(self.vgpr)] = self.vgpr[:len(vgprs)]
        context = runner.context
        context["group"], context["end"], context["fresh"], context["wave"], context["alive"] = 0, 1, 0, 0, 1
        while (reason := launch.prepare().run(context.address)) != 0:
            runner._interpret(reason)
        return (wave[:128].copy(), vgprs[:VGPRS].copy(), int(wave[Layout.SCC]), launch.prepare().interpreted)

    def interpreted(self) -> tuple[np.ndarray, np.ndarray, int]:
        machine = Machine(self.dispatch, HostMemory())
        per_wave = {"workgroup": np.zeros(1, np.int64), "wave": np.zeros(1, np.uint32), "id": np.zeros(1, np.uint32),
                    "lds": np.zeros(1, np.int64), "scratch": np.zeros(1, np.uint64), "scc": np.array([bool(self.scc)]),
                    "shared_base": np.full(1, self.dispatch.shared_base, np.uint64),
                    "private_base": np.full(1, self.dispatch.private_base, np.uint64)}
        vgpr = self.vgpr.reshape(self.vgprs, self.lanes, 1).copy()
        state = State(self.lanes, vgpr, self.sgpr.reshape(128, 1).copy(), per_wave, 0, self.mode)
        state.v = machine.vocabulary(state)
        pc = 0
        with np.errstate(all="ignore"):
            for instruction in self.program:
                machine._step(instruction, pc)(state)
                pc += instruction.size
        return state.sgpr[:, 0].copy(), state.vgpr[:VGPRS, :, 0].copy(), int(state.scc[0])


def check(program: list[Instruction], lanes: int, seed: int, mode: int, optimise: bool) -> list[str]:
    """Compare; on a difference, find the instructions that make it alone. Returns what was left to the interpreter."""
    pair = Pair(program, lanes, seed, mode, optimise)
    s1, v1, c1, left = pair.compiled()
    s2, v2, c2 = pair.interpreted()
    if all(np.array_equal(x, y) for x, y in ((s1[:106], s2[:106]), (v1, v2), (c1, c2), (s1[126:], s2[126:]))):
        return left
    if len(program) == 1:
        places = [f"v{r}[{i}]: compiled {v1[r, i]:#x}, interpreted {v2[r, i]:#x}" for r, i in np.argwhere(v1 != v2)[:4]]
        places += [f"s{r}: compiled {s1[r]:#x}, interpreted {s2[r]:#x}" for r in np.flatnonzero(s1 != s2)[:4]]
        pytest.fail(f"{program[0]} (wave{lanes}, seed {seed}, scc {c1} {c2}): " + "; ".join(places))
    for instruction in program:
        check([instruction], lanes, seed, mode, optimise)
    half = len(program) // 2
    check(program[:half], lanes, seed, mode, optimise)
    check(program[half:], lanes, seed, mode, optimise)
    pytest.fail("the program differs, and no half of it does")


MODE = 0xf0 | 1 << 8        # denormals, DX10 clamp: what clang asks for
FLUSH = 0xc0 | 1 << 8       # f32 denormals flushed


@pytest.mark.parametrize("lanes", [32, 64])
@pytest.mark.parametrize("optimise", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("seed", "mode"), [
    pytest.param(0, MODE, marks=pytest.mark.slow), pytest.param(1, MODE | 1 << 9, marks=pytest.mark.slow), (2, FLUSH),
    *(pytest.param(s, MODE, marks=pytest.mark.slow) for s in range(3, 8))])
def test_random_programs(lanes: int, seed: int, mode: int, optimise: bool, tmp_path_factory: pytest.TempPathFactory,
                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMDRV_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    rng = random.Random(1000 * lanes + seed)
    every = [i for i in instructions(rng) if "wmma" not in i.mnemonic
             and (lanes == 64 or "64" not in i.mnemonic or "exec" not in i.mnemonic)
             and (lanes == 32 or i.pair is None)]
    assert len(every) > 600
    rng.shuffle(every)
    left: set[str] = set()
    size = 60
    for at in range(0, len(every), size):
        left |= set(check(every[at:at + size], lanes, seed, mode, optimise))
    print(f"{len(every)} instructions; left to the interpreter: {sorted(left)}")
