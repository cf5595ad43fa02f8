"""Registers used while a load into them is still under way, found on the control-flow graph.

Hardware does not interlock loads: code must wait for a counter (LLVM, User Guide for AMDGPU Backend, "Memory Model
gfx10-gfx11"; RDNA3 ISA, "Data dependency resolution"). For each register that a load will write the analysis keeps how
many later loads the same counter has seen at least, over every way that leads here; ``s_waitcnt vmcnt(n)`` settles the
registers with n or more behind them. Loads of one kind return in order; scalar loads do not, so only a wait for zero
settles them, and a mixture in LGKM likewise.

Besides, what gfx11's vector units do not interlock, and LLVM works around (GCNHazardRecognizer.cpp: fixVcmpxPermlane-
Hazards, fixVALUTransUseHazard, fixWMMAHazards), and the register banks that a dual instruction must not share (RDNA3
ISA, "Dual Issue VALU").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mock.isa.decode import Instruction, Operand, in_wave
from mock.isa.disassembler import format_operand
from mock.isa.dispatch import IsaError
from mock.isa.halves import is_half
from mock.isa.program import Block, Code
from mock.isa.semantics import Atomic, Entry, Store, table

__all__ = ["Hazard", "HazardError", "check", "find", "uses"]

VGPR, VCC, NULL, EXEC = 256, 106, 124, 126
_SIXTY_THREE = 63               # the counters' largest value
_VM, _LDS, _SMEM, _FLAT_LDS = "vm", "lds", "smem", "flat"

_CMPX, _WMMA, _TRANS, _TRANS1 = "cmpx", "wmma", "trans", "trans1"
_LOADS = (_VM, _LDS, _SMEM, _FLAT_LDS)
_TRANSCENDENTAL = ("v_exp_", "v_log_", "v_rcp_", "v_rsq_", "v_sqrt_", "v_sin_", "v_cos_")
_BETWEEN = 5                    # vector instructions after which a transcendental result is surely there
_VA_VDST = 12                   # of s_waitcnt_depctr: its lowest bit

# (kind, register) -> (least number of later loads of the counter, pc of the load)
Pending = dict[tuple[str, int], tuple[int, int]]
Uses = tuple[frozenset[int], frozenset[int]]       # registers read, and written


@dataclass(frozen=True)
class Hazard:
    """``user`` reads (or an ALU instruction overwrites) ``register`` before ``load`` has surely written it."""

    register: str
    load_pc: int
    load: str
    user_pc: int
    user: str
    reads: bool
    rule: str = ""

    def __str__(self) -> str:
        if self.rule:
            return f"{self.user} at {self.user_pc:#x} {self.rule}"
        verb = "reads" if self.reads else "overwrites"
        return (f"{self.user} at {self.user_pc:#x} {verb} {self.register} while {self.load} at {self.load_pc:#x} is "
                f"still loading it; a wait for its counter is missing between the two")


class HazardError(IsaError):
    """Code that would read stale registers on hardware. ``hazards`` has all of them."""

    def __init__(self, address: int, hazards: list[Hazard]) -> None:
        self.hazards = hazards
        more = f" (and {len(hazards) - 1} more)" if len(hazards) > 1 else ""
        super().__init__(f"hazard in the code at {address:#x}: {hazards[0]}{more}")


def check(code: Code, entry: int = 0, *, lanes: int = 32) -> None:
    """:raises HazardError: when :func:`find` finds any."""
    hazards = find(code, entry, lanes=lanes)
    if hazards:
        raise HazardError(code.address, hazards)


def find(code: Code, entry: int = 0, *, lanes: int = 32) -> list[Hazard]:
    """Hazards in everything reachable from ``entry`` by direct jumps; calls are taken to wait, as the ABI asks.

    PCs in the result count like ``entry``: from the code's address.
    """
    blocks: dict[int, Block] = {}
    incoming: dict[int, Pending] = {entry: {}}
    work = [entry]
    found: dict[tuple[int, int], Hazard] = {}
    known: dict[int, Uses] = {}

    def used(pc: int, instruction: Instruction) -> Uses:
        if pc not in known:
            known[pc] = uses(in_wave(instruction, lanes))
        return known[pc]
    while work:
        pc = work.pop()
        block = blocks.get(pc)
        if block is None:
            if code.known(pc) is None:
                continue            # whoever really gets there is told so
            block = blocks[pc] = code.block(pc)
        state = dict(incoming[pc])
        for instruction, at in zip(block.instructions, block.pcs, strict=True):
            _check(instruction, at, state, found, code, used)
            _advance(instruction, at, state, used)
        for target in _successors(block):
            merged = _merge(incoming.get(target), state)
            if merged != incoming.get(target):
                incoming[target] = merged
                work.append(target)
    return sorted(found.values(), key=lambda h: (h.user_pc, h.register))


def _merge(known: Pending | None, state: Pending) -> Pending:
    if known is None:
        return dict(state)
    result = dict(known)
    for key, value in state.items():
        if key not in result or value[0] < result[key][0]:
            result[key] = value
    return result


def _successors(block: Block) -> list[int]:
    last = block.instructions[-1]
    name, end = last.mnemonic, block.end
    if name.startswith(("s_endpgm", "s_code_end", "s_trap", "s_setpc", "s_rfe")):
        return []
    simm = last.fields.get("simm16", 0)
    target = end + 4 * (simm - 0x10000 if simm & 0x8000 else simm)
    if name == "s_branch":
        return [target]
    if (name.startswith("s_cbranch") and "cdbg" not in name) or name.startswith("s_subvector"):
        return [target, end]
    return [end]


def _check(instruction: Instruction, pc: int, state: Pending, found: dict[tuple[int, int], Hazard], code: Code,
           used: Callable[[int, Instruction], Uses]) -> None:
    if instruction.pair is not None:
        shared = _shared_bank(instruction)
        if shared:
            found[pc, pc] = Hazard("", pc, "", pc, str(instruction), True, shared)
    if not state:
        return
    reads, writes = used(pc, instruction)
    overwrites = writes if not _is_load(instruction) else frozenset()
    for (kind, register), (_, at) in state.items():
        if (at, pc) in found:
            continue
        rule = ""
        if kind in _LOADS:
            if register not in reads and register not in overwrites:
                continue
        else:
            rule = _vector_rule(kind, register, instruction, reads)
            if not rule:
                continue
        name = format_operand(Operand("", register), None) if register >= 0 else ""
        earlier = str(code.instruction(at))
        found[at, pc] = Hazard(name, at, earlier, pc, str(instruction), register in reads,
                               rule.format(name=name, earlier=f"{earlier} at {at:#x}"))


def _vector_rule(kind: str, register: int, instruction: Instruction, reads: frozenset[int]) -> str:
    """What is wrong with a vector instruction that follows, as a text to be filled in."""
    if not _is_valu(instruction):
        return ""
    if kind == _CMPX and instruction.mnemonic.startswith("v_permlane"):
        return "follows {earlier} with no other vector instruction (v_nop will do) between the two"
    if kind == _WMMA and "wmma" in instruction.mnemonic and register in _matrices(instruction):
        return "multiplies by {name}, which {earlier} writes, with no other vector instruction between the two"
    if kind in (_TRANS, _TRANS1) and register in reads:
        return ("reads {name} too soon after {earlier}: s_waitcnt_depctr depctr_va_vdst(0), or more vector "
                "instructions, must stand between the two")
    return ""


def _is_valu(instruction: Instruction) -> bool:
    return instruction.encoding.startswith("VOP")


def _matrices(instruction: Instruction) -> set[int]:
    """Registers of A and B."""
    return {o.code + i for o in instruction.operands if o.field in ("src0", "src1") for i in range(o.width)}


def _shared_bank(instruction: Instruction) -> str:
    """Which operands of a pair are in one bank: four banks for first and second sources, two for the third."""
    assert instruction.pair is not None
    x, y = instruction.pair
    for field, banks in (("src0", 4), ("vsrc1", 4)):
        if field == "vsrc1" and ("fmamk" in x.mnemonic or "fmamk" in y.mnemonic):
            continue        # whose second source is the literal: the register is its third
        a, b = x.operand(field), y.operand(field)
        if a is not None and b is not None and a.is_vgpr and b.is_vgpr and a.code % banks == b.code % banks:
            return f"takes {field} of both halves from the same of {banks} register banks"
    third = [_third(half) for half in (x, y)]
    if third[0] is not None and third[1] is not None and third[0] % 2 == third[1] % 2:
        return "takes the third source of both halves from the same of 2 register banks"
    return ""


def _third(half: Instruction) -> int | None:
    """The register that a half adds: its destination for fmac and dot2acc, its second source for fmamk."""
    if "fmac" in half.mnemonic or "dot2acc" in half.mnemonic:
        return half.operands[0].code
    source = half.operand("vsrc1")
    return source.code if "fmamk" in half.mnemonic and source is not None else None


def _is_load(instruction: Instruction) -> bool:
    return bool(_pending_kinds(instruction))


def _pending_kinds(instruction: Instruction) -> tuple[str, ...]:
    """Which counters will tell that the instruction's destination is written."""
    encoding, name = instruction.encoding, instruction.mnemonic
    if encoding == "SMEM":
        return (_SMEM,) if "load" in name else ()
    if encoding == "DS":
        return (_LDS,) if instruction.operand("vdst") is not None else ()
    if encoding in ("GLOBAL", "SCRATCH", "MUBUF", "MTBUF", "FLAT"):
        returns = ("_load_" in name and "_lds_" not in name) or ("atomic" in name and bool(instruction.fields["glc"]))
        if not returns:
            return ()
        return (_VM, _FLAT_LDS) if encoding == "FLAT" else (_VM,)
    return ()


def _advance(instruction: Instruction, pc: int, state: Pending, used: Callable[[int, Instruction], Uses]) -> None:
    """Issue or wait."""
    name = instruction.mnemonic
    simm = instruction.fields.get("simm16", 0)
    if name == "s_waitcnt":
        _wait(state, (_VM,), simm >> 10 & 63)
        _wait_lgkm(state, simm >> 4 & 63)
        return
    if name == "s_waitcnt_vmcnt":
        _wait(state, (_VM,), simm & 63)
        return
    if name == "s_waitcnt_lgkmcnt":
        _wait_lgkm(state, simm & 63)
        return
    if name in ("s_swappc_b64", "s_call_b64", "s_wait_idle"):
        state.clear()
        return
    _advance_vector(instruction, pc, state, used)
    kinds = _pending_kinds(instruction)
    if not kinds and instruction.encoding == "DS":      # a store is counted too, and in order
        for key, (age, load_pc) in list(state.items()):
            if key[0] == _LDS:
                state[key] = min(age + 1, _SIXTY_THREE), load_pc
    for kind in kinds:
        counter = (_VM,) if kind == _VM else (_LDS, _SMEM, _FLAT_LDS)
        for key, (age, load_pc) in list(state.items()):
            if key[0] in counter:
                state[key] = min(age + 1, _SIXTY_THREE), load_pc
    if kinds:
        _, writes = used(pc, instruction)
        for kind in kinds:
            for register in writes:
                state[kind, register] = 0, pc


def _advance_vector(instruction: Instruction, pc: int, state: Pending,
                    used: Callable[[int, Instruction], Uses]) -> None:
    """What a vector instruction leaves behind for those that follow, and what time settles."""
    name = instruction.mnemonic
    waits = name == "s_waitcnt_depctr" and not instruction.fields["simm16"] >> _VA_VDST
    if waits or instruction.encoding in ("DS", "FLAT", "GLOBAL", "SCRATCH", "MUBUF", "MTBUF", "MIMG", "EXP"):
        _wait(state, (_TRANS, _TRANS1), 0)
    if not _is_valu(instruction):
        return
    _wait(state, (_CMPX, _WMMA), 0)
    transcendental = name.startswith(_TRANSCENDENTAL)
    for key in [k for k in state if k[0] in (_TRANS, _TRANS1)]:
        age, at = state.pop(key)
        kind = key[0] if not transcendental else _TRANS1 if key[0] == _TRANS else ""
        if kind and age < _BETWEEN:
            state[kind, key[1]] = age + 1, at
    if name.startswith("v_cmpx"):
        state[_CMPX, -1] = 0, pc
    if "wmma" in name or transcendental:
        _, writes = used(pc, instruction)
        state.update({(_WMMA if "wmma" in name else _TRANS, register): (0, pc) for register in writes})


def _wait(state: Pending, kinds: tuple[str, ...], n: int) -> None:
    for key in [k for k, (age, _) in state.items() if k[0] in kinds and age >= n]:
        del state[key]


def _wait_lgkm(state: Pending, n: int) -> None:
    kinds = {k for k, _ in state}
    if n == 0:
        _wait(state, (_LDS, _SMEM, _FLAT_LDS), 0)
    elif _SMEM not in kinds and _FLAT_LDS not in kinds:
        _wait(state, (_LDS,), n)


def uses(instruction: Instruction) -> tuple[frozenset[int], frozenset[int]]:
    """Register codes that are read and that are written."""
    if instruction.pair is not None:
        halves = [uses(half) for half in instruction.pair]
        return halves[0][0] | halves[1][0], halves[0][1] | halves[1][1]
    reads: set[int] = set()
    writes: set[int] = set()
    f = instruction.fields
    entry = table().get(instruction.mnemonic)
    destinations = {"sdata"} if instruction.encoding == "SMEM" else {"vdst"}
    if instruction.encoding in ("MUBUF", "MTBUF"):
        destinations = {"vdata"} if _pending_kinds(instruction) else set()
        if isinstance(entry, (Store, Atomic)):
            reads |= {o.code + i for o in instruction.operands if o.field == "vdata" for i in range(o.width)}
    elif isinstance(entry, Entry) or instruction.encoding.startswith(("SOP", "VOP")):
        destinations = {"vdst", "sdst"}
        if instruction.mnemonic.startswith(("s_cmpk", "s_setreg", "s_waitcnt", "s_setpc")):
            destinations = set()
    if "saddr" in f and f["saddr"] != NULL:
        reads |= {f["saddr"], f["saddr"] + (1 if instruction.encoding == "GLOBAL" else 0)}
    for operand in instruction.operands:
        width = operand.width
        if operand.field == "addr":
            if instruction.encoding == "SCRATCH" and not f["sve"]:
                continue
            if instruction.encoding == "GLOBAL" and f["saddr"] != NULL:
                width = 1
        if operand.field == "vaddr":
            width = f["offen"] + f["idxen"]
        base = operand.code
        if 128 <= base < VGPR:
            continue                # a constant, however wide: a literal's code is next to v0's
        if base >= VGPR + 128 and is_half(instruction, operand):
            base -= 128             # the upper half of a register
        codes = {base + i for i in range(width)}
        (writes if operand.field in destinations else reads).update(codes)
    if isinstance(entry, Entry):
        if any(t.startswith("d:") for t in entry.sources) and instruction.operands:
            first = instruction.operands[0]
            reads |= {first.code + i for i in range(first.width)}
        if "vcc" in entry.sources or ("mask" in entry.sources and instruction.encoding == "VOP2"):
            reads |= {VCC, VCC + 1}
        if "mask" in entry.results and instruction.encoding in ("VOP2", "VOPC"):
            writes |= {VCC, VCC + 1}
    return _registers(reads), _registers(writes)


def _registers(codes: set[int]) -> frozenset[int]:
    """Without constants and what no load can write."""
    return frozenset(c for c in codes if c < NULL or c >= VGPR)
