"""Random instructions in every form, registers full of the numbers where things go wrong, and what runs them."""

from __future__ import annotations

import random
from functools import cache

import model_machine
import model_matrices
import numpy as np
from model_memory import Access, Memory

from mock.isa.access import HostMemory
from mock.isa.decode import Instruction, Opcode, decode, opcode_table
from mock.isa.dispatch import Dispatch, IllegalInstruction
from mock.isa.encoding import DPP8, DPP8_FI, DPP16, ENCODINGS, LITERAL
from mock.isa.interpreter import Machine
from mock.isa.jit.executor import _Box, _Launch, _Runner
from mock.isa.jit.registers import Layout
from mock.isa.memory import Lds
from mock.isa.program import is_terminator
from mock.isa.semantics import Entry, table
from mock.isa.state import EXEC, State

VGPRS, SGPRS = 16, 24           # what instructions use
ALLOCATED = 24                  # VGPRS, rounded up to what a wave is given
BARRIER_END = bytes.fromhex("0000bdbf" "0000b0bf")      # s_barrier; s_endpgm
ALU = ("SOP1", "SOP2", "SOPC", "SOPK", "VOP1", "VOP2", "VOPC", "VOP3", "VOP3SD", "VOP3P", "VOPD")
MEMORY = ("DS", "GLOBAL", "FLAT", "SCRATCH", "MUBUF", "MTBUF", "SMEM")
EDGES_32 = [0, 0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00000, 0xffc12345, 0x7f800001,
            0x7fa00000, 0xffbfffff, 1, 2, 0x80000001, 0x007fffff, 0x807fffff, 0x00800000, 0x00ffffff, 0x7f7fffff,
            0xff7fffff, 0x7effffff, 0x3effffff, 0x3f000000, 0x3fc00000, 0x40200000, 0x4b000001, 0x4b7fffff, 0x4effffff,
            0x4f000000, 0xcf000000, 0x4f7fffff, 0xffffffff, 0x7fffffff, 31, 32, 63, 64, 0xffff, 0x10000, 0x34000000,
            0x33ffffff, 0x38ffffff, 0x477fefff, 0x477ff000, 0x387fc000, 0x33800000,
            0x3c003c00, 0x7c007bff, 0x03ff8001, 0xfc00fe01, 0xbf000000, 0x40490fdb, 0x80008000, 0x00010001, 0x7dff0400]
"""Floats of 32 bits and the upper halves of doubles; infinities, NaNs of both kinds, ends of ranges, ties of
conversions; integers; pairs of halves."""


@cache
def opcodes() -> list[tuple[str, int]]:
    """Every (format, opcode) that the semantics table has an entry for, and VOPD."""
    found = [(name, op) for name in ALU if name != "VOPD" for op, o in opcode_table(name).items()
             if isinstance(table().get(o.mnemonic), Entry) and "wmma" not in o.mnemonic]
    pairs = [(f"VOPD:{y}", x) for x in opcode_table("VOPDX") for y in opcode_table("VOPDY")]
    return found + pairs[::7]


def find(name: str, op: int, rng: random.Random, lanes: int, tries: int = 200) -> Instruction | None:
    """A random instruction of this opcode. None: LLVM's tables refuse whatever was tried."""
    for _ in range(tries):
        found = _try(name, op, rng, lanes)
        if found is not None:
            return found
    return None


def _source(rng: random.Random) -> int:
    kind = rng.random()
    if kind < 0.5:
        return 256 + rng.randrange(VGPRS - 4)
    if kind < 0.7:
        return rng.randrange(SGPRS - 2) & ~1
    if kind < 0.78:
        return rng.choice([106, 107, 124, 125, 126, 253])
    if kind < 0.92:
        return rng.choice([128, 129, 128 + rng.randrange(65), 193, 208, *range(240, 249)])
    return LITERAL


def _halves(entry: Opcode) -> set[str]:
    """Fields of 16 bits, which name the halves of the first 128 registers in short forms."""
    found = table().get(entry.mnemonic)
    if not isinstance(found, Entry):
        return set()
    fields = [name for name, _, _ in entry.operands]
    kinds = [*found.results, *(s for s in found.sources if s[:2] not in ("d:", "k:"))]
    if any(r in ("mask", "exec_mask") for r in found.results):
        kinds = kinds[1:]
        fields = [f for f in fields if f not in ("vdst", "sdst")]
    return {f for f, k in zip(fields, kinds, strict=False) if k in ("f16", "u16", "i16", "b16")}


def _try(name: str, op: int, rng: random.Random, lanes: int) -> Instruction | None:
    other = 0
    if name.startswith("VOPD:"):
        name, other = "VOPD", int(name[5:])
    encoding = ENCODINGS[name]
    entry = None if name == "VOPD" else opcode_table(name)[op]
    values: dict[str, int] = {}
    literal = rng.choice(EDGES_32) if rng.random() < 0.7 else rng.getrandbits(32)
    tail = b""
    with_dpp = name in ("VOP1", "VOP2", "VOPC", "VOP3", "VOP3P", "VOP3SD") and rng.random() < 0.25
    short = name in ("VOP1", "VOP2", "VOPC")
    halves = _halves(entry) if entry is not None and short else set()
    for field, (_, bits) in encoding.fields.items():
        if field == "op":
            values[field] = op
        elif field in ("opx", "opy"):
            values[field] = op if field == "opx" else other
        elif field in ("src0", "src0x", "src0y", "src1", "src2"):
            values[field] = _source(rng)
        elif field.startswith("ssrc"):
            values[field] = rng.choice([rng.randrange(0, SGPRS - 2) & ~1, 106, 124, 126, 128 + rng.randrange(65), 193,
                                        200, 242, 253, LITERAL])
        elif field == "sdst":
            values[field] = rng.choice([*[rng.randrange(0, SGPRS - 2) & ~1] * 4, 106, 124, 126])
        elif field.startswith(("vdst", "vsrc1")):
            values[field] = rng.randrange(VGPRS - 4)
        elif field in ("omod", "clamp"):
            values[field] = rng.randrange(1 << bits) if rng.random() < 0.3 else 0
        else:
            values[field] = rng.getrandbits(bits) if rng.random() < 0.5 else 0
        if field in halves and rng.random() < 0.4 and (field != "src0" or values[field] >= 256):
            values[field] |= 128
    if entry is not None:
        for field, _, scalar in entry.operands:
            if scalar and field in ("vdst", "src2"):
                values[field] = rng.choice([*[rng.randrange(0, SGPRS - 2) & ~1] * 3, 106])
    if name == "VOPD":
        values["vdstx"], values["vdsty"] = rng.randrange(0, 8, 2), rng.randrange(0, 4)
    if with_dpp:
        word = rng.randrange(8)
        if rng.random() < 0.4:
            values["src0"] = rng.choice([DPP8, DPP8_FI])
            word |= rng.getrandbits(24) << 8
        else:
            values["src0"] = DPP16
            n = rng.randrange(1, 16)
            control = rng.choice([rng.getrandbits(8), 0x100 | n, 0x110 | n, 0x120 | n, 0x140, 0x141, 0x150 | n,
                                  0x160 | n])
            word |= control << 8 | rng.randrange(4) << 18 | rng.getrandbits(8) << 24 if rng.random() < 0.5 else \
                control << 8 | rng.randrange(4) << 18 | 0xff << 24
            if short and rng.random() < 0.3:        # its own neg and abs
                word |= rng.getrandbits(4) << 20
        tail = word.to_bytes(4, "little")
    packed = encoding.pack(**values)
    if entry is not None:
        packed = packed & ~entry.fixed | entry.value
    data = packed.to_bytes(encoding.size, "little") + tail + literal.to_bytes(4, "little")
    try:
        found = decode(data + bytes(12))
    except (IllegalInstruction, ValueError):
        return None
    return found if _runs(found, lanes) else None


def _runs(found: Instruction, lanes: int) -> bool:
    """Is it an instruction of the table, on registers that there are?"""
    parts = found.pair or (found,)
    if is_terminator(found.mnemonic) or any(not isinstance(table().get(h.mnemonic), Entry) for h in parts):
        return False
    if lanes == 64 and found.pair is not None:
        return False            # VOPD is for wave32
    for h in parts:
        entry = table()[h.mnemonic]
        assert isinstance(entry, Entry)
        if any(o.code == EXEC + 1 for o in h.operands):
            return False
        masks = [o.code for o in h.operands if o.field == "src2"] if "mask" in entry.sources else []
        if any(107 <= code < 124 or code > 124 for code in masks):
            return False
        if h.mnemonic == "v_swap_b32" and any(o.code < 256 for o in h.operands):
            return False
        for o in h.operands:
            halves = {"VOP1", "VOP2", "VOPC"} if o.width == 1 and "16" in h.mnemonic else set()
            code = o.code - 128 if h.encoding in halves and o.code >= 384 else o.code
            if code >= 256 and code - 256 + o.width > VGPRS:
                return False
            if code in (107, 125) and o.width > 1:
                return False
    return True


class Registers:
    """A wave's registers to begin with."""

    def __init__(self, lanes: int, seed: int, mode: int, exec_kind: str) -> None:
        self.lanes, self.mode = lanes, mode
        rng = np.random.default_rng(seed)
        pool = np.array(EDGES_32, np.uint32)

        def numbers(*shape: int) -> np.ndarray:
            plain = rng.integers(0, 1 << 32, shape, dtype=np.uint64).astype(np.uint32)
            small = rng.normal(0, 100, shape).astype(np.float32).view(np.uint32)
            near = pool[rng.integers(0, len(pool), shape)] + rng.integers(-1, 2, shape).astype(np.uint32)
            choice = rng.integers(0, 5, shape)
            return np.select([choice == 0, choice == 1, choice == 2], [plain, small, near],
                             pool[rng.integers(0, len(pool), shape)])
        self.sgpr, self.vgpr = numbers(128), numbers(ALLOCATED, lanes)
        whole = (1 << lanes) - 1
        mask = {"full": whole, "zero": 0, "one": 1 << int(rng.integers(0, lanes)),
                "some": int(rng.integers(0, 1 << 32)) | int(rng.integers(0, 1 << 32)) << 32}[exec_kind] & whole
        self.sgpr[EXEC], self.sgpr[EXEC + 1] = mask & 0xffffffff, mask >> 32
        self.scc = bool(rng.integers(0, 2))


class Arena:
    """Memory that instructions may touch, and LDS; every run begins with the same bytes in the same place."""

    def __init__(self, seed: int, nbytes: int = 1 << 18, lds_bytes: int = 1024) -> None:
        rng = np.random.default_rng(seed)
        self._raw = np.zeros(nbytes + 4096, np.uint8)
        skip = -int(self._raw.ctypes.data) % 4096
        self.bytes = self._raw[skip:skip + nbytes]
        self.address = int(self.bytes.ctypes.data)
        pool = np.array(EDGES_32, np.uint32)

        def fill(n: int) -> np.ndarray:
            wild = rng.integers(0, 1 << 32, n // 4, dtype=np.uint64).astype(np.uint32)
            return np.where(rng.random(n // 4) < 0.6, pool[rng.integers(0, len(pool), n // 4)], wild).view(np.uint8)
        self.content, self.lds = fill(nbytes), fill(lds_bytes)
        self.scratch = self.address + nbytes // 2       # half of it is private memory

    def reset(self) -> None:
        self.bytes[:] = self.content


class Outcome:
    """The registers in the end, and memory."""

    def __init__(self, sgpr: np.ndarray, vgpr: np.ndarray, scc: int, interpreted: list[str] | None = None,
                 memory: list[np.ndarray] | None = None) -> None:
        self.sgpr, self.vgpr, self.scc = sgpr, vgpr, int(scc)
        self.interpreted, self.memory = interpreted or [], memory or []

    def differences(self, other: Outcome) -> list[str]:
        """Where they differ; TTMPs and M0's neighbours are nobody's."""
        found = [f"v{r}[{i}] {self.vgpr[r, i]:#x} {other.vgpr[r, i]:#x}"
                 for r, i in np.argwhere(self.vgpr != other.vgpr)]
        found += [f"s{r} {self.sgpr[r]:#x} {other.sgpr[r]:#x}"
                  for r in (*range(108), 125, 126, 127) if self.sgpr[r] != other.sgpr[r]]
        for name, mine, its in zip(("memory", "LDS"), self.memory, other.memory, strict=False):
            found += [f"{name}[{i[0]:#x}] {mine[i[0]]:#x} {its[i[0]]:#x}" for i in np.argwhere(mine != its)[:4]]
        return found + ([f"scc {self.scc} {other.scc}"] if self.scc != other.scc else [])


class Program:
    """Instructions, and the three ways to run them."""

    def __init__(self, instructions: list[Instruction], start: Registers, arena: Arena | None = None) -> None:
        self.instructions, self.start, self.arena = instructions, start, arena
        code = np.frombuffer(b"".join(i.bits for i in instructions) + BARRIER_END + bytes(64), np.uint8)
        raw = np.zeros(len(code) + 4096, np.uint8)
        skip = -int(raw.ctypes.data) % 256
        self.code = raw[skip:skip + len(code)]
        self.code[:] = code
        lanes, mode = start.lanes, start.mode
        rsrc1 = (VGPRS // (8 if lanes == 32 else 4) - 1) | (mode & 0xff) << 12 | (mode >> 8 & 1) << 21
        rsrc1 |= (mode >> 9 & 1) << 23 | (mode >> 23 & 1) << 26
        extra: dict[str, int] = {}
        if arena is not None:
            extra = {"lds_bytes": len(arena.lds), "scratch_address": arena.scratch,
                     "scratch_wave_bytes": len(arena.bytes) // 2, "scratch_slots": 1}
        self.dispatch = Dispatch(int(self.code.ctypes.data), rsrc1, 0, 0, (), (1, 1, 1), (lanes, 1, 1),
                                 wave_size=lanes, **extra)

    def _memory(self, lds: np.ndarray) -> list[np.ndarray]:
        return [] if self.arena is None else [self.arena.bytes.copy(), lds[:len(self.arena.lds)].copy()]

    def compiled(self, optimise: bool) -> Outcome:
        start = self.start
        launch = _Launch(self.dispatch, HostMemory(), check_hazards=False)
        launch.compiled = launch.kernel.compile(optimise)
        runner = _Runner(launch, _Box(self.dispatch, (0, 0, 0), (1, 1, 1), self.dispatch.block), 0)
        wave = runner.states
        wave[:Layout.VGPRS] = runner.sgprs
        wave[:128] = start.sgpr
        wave[Layout.SCC] = start.scc
        vgprs = wave[Layout.VGPRS:].reshape(-1, start.lanes)
        vgprs[:ALLOCATED] = start.vgpr[:len(vgprs)]
        if self.arena is not None:
            self.arena.reset()
            runner.lds.memory[:len(self.arena.lds)] = self.arena.lds
        context = runner.context
        context["group"], context["end"], context["fresh"], context["wave"], context["alive"] = 0, 1, 0, 0, 1
        while (reason := launch.prepare().run(context.address)) != 0:
            runner._interpret(reason)
        return Outcome(wave[:128].copy(), vgprs[:ALLOCATED].copy(), int(wave[Layout.SCC]), launch.prepare().interpreted,
                       self._memory(runner.lds.memory))

    def interpreted(self) -> Outcome:
        start = self.start
        lds = Lds(1, self.dispatch.lds_bytes or 0)
        machine = Machine(self.dispatch, HostMemory(), lds=lds)
        if self.arena is not None:
            self.arena.reset()
            lds.memory[:len(self.arena.lds)] = self.arena.lds
        one = {"workgroup": np.int64, "wave": np.uint32, "id": np.uint32, "lds": np.int64, "scratch": np.uint64,
               "status": np.uint32, "trapsts": np.uint32}
        per_wave = {name: np.zeros(1, kind) for name, kind in one.items()}
        per_wave["scratch"][:] = self.dispatch.scratch_address
        per_wave |= {"scc": np.array([start.scc]), "shared_base": np.full(1, self.dispatch.shared_base, np.uint64),
                     "private_base": np.full(1, self.dispatch.private_base, np.uint64)}
        state = State(start.lanes, start.vgpr.reshape(ALLOCATED, start.lanes, 1).copy(),
                      start.sgpr.reshape(128, 1).copy(), per_wave, 0, start.mode)
        state.v = machine.vocabulary(state)
        pc = 0
        with np.errstate(all="ignore"):
            for instruction in self.instructions:
                machine._step(instruction, pc)(state)
                pc += instruction.size
        return Outcome(state.sgpr[:, 0].copy(), state.vgpr[:, :, 0].copy(), int(state.scc[0]), None,
                       self._memory(lds.memory))

    def modelled(self) -> Outcome:
        start = self.start
        wave = model_machine.Wave(start.lanes, [int(x) for x in start.sgpr], [[int(x) for x in row] for row in
                                  start.vgpr], start.scc, start.mode)
        memory, a = None, self.arena
        if a is not None:
            memory = Memory(a.address, a.content.tobytes(), a.lds.tobytes(), a.scratch, self.dispatch.shared_base >> 32,
                            self.dispatch.private_base >> 32)
        for instruction in self.instructions:
            if memory is not None and instruction.encoding in MEMORY:
                Access(instruction, wave, memory).run()
            elif "wmma" in instruction.mnemonic:
                model_matrices.run(instruction, wave)
            else:
                model_machine.run(instruction, wave)
        left = [] if memory is None else [np.frombuffer(x, np.uint8) for x in (memory.bytes, memory.lds)]
        return Outcome(np.array(wave.sgpr, np.uint32), np.array(wave.vgpr, np.uint32), int(wave.scc), None,
                       left)
