"""Instructions as the clock sees them: the unit that executes one, for how long, and what it waits for and does."""

from __future__ import annotations

from dataclasses import dataclass

from mock.isa.clock.constants import LATENCY, PASSES
from mock.isa.clock.relevance import reads_clock
from mock.isa.decode import SCC, VGPR, Instruction
from mock.isa.hazards import uses
from mock.isa.program import is_terminator
from mock.isa.semantics import Atomic, Entry, Load, Store, table

__all__ = ["BARRIER", "BRANCH", "CACHE", "END", "IDLE", "LDS", "Op", "SALU", "SMEM", "TRANS", "UNITS", "VALU", "VMEM",
           "WAIT", "WMMA", "classify"]

VALU, TRANS, WMMA, SALU, SMEM, LDS, VMEM, BRANCH, BARRIER, WAIT, IDLE, CACHE, END = range(13)
UNITS = ("valu", "trans", "wmma", "salu", "smem", "lds", "vmem", "branch", "barrier", "wait", "idle", "cache", "end")
_VECTOR = ("VOP1", "VOP2", "VOP3", "VOP3SD", "VOP3P", "VOPC", "VOPD")
_TRANS = ("v_exp_", "v_log_", "v_rcp_", "v_rsq_", "v_sqrt_", "v_sin_", "v_cos_")
_QUARTER = ("v_mul_lo_u32", "v_mul_hi_", "v_mad_u64_u32", "v_mad_i64_i32")
_LANE = ("v_readlane", "v_readfirstlane", "v_writelane")
# Of a wave64 in one pass: what can be dual-issued with itself (RDNA3 ISA, VOPD's float operations).
_ONE_PASS = ("v_fma_f32", "v_fmac_f32", "v_fmaak_f32", "v_fmamk_f32", "v_mul_f32", "v_add_f32", "v_sub_f32",
             "v_subrev_f32", "v_mul_dx9_zero_f32", "v_mov_b32", "v_cndmask_b32", "v_max_f32", "v_min_f32",
             "v_dot2acc_f32_f16")
_ALL = 63


@dataclass(frozen=True, slots=True)
class Op:
    """One static instruction."""

    unit: int
    passes: int             # cycles for which the unit is held
    latency: int            # until a dependent instruction can issue
    reads: tuple[int, ...]  # registers whose ALU results it waits for: the ends of each operand
    writes: tuple[int, ...]
    chain: int = -1         # a WMMA's C: forwarded from the one before
    vm: int = _ALL          # WAIT: counters must be at most these
    lgkm: int = _ALL
    vs: int = _ALL
    counts: str = ""        # memory: "vm", "vs" or "lgkm"
    slots: int = 1          # cycles until the wave may issue again
    operations: int = 0     # arithmetic of all lanes; an FMA is two
    kind: str = ""          # of the operations: fp32, fp16, ...
    stamps: bool = False    # it reads the clock


_known: dict[tuple[bytes, int], Op] = {}
_MOST_KNOWN = 1 << 16


def classify(instruction: Instruction, wave_size: int) -> Op:
    """Kept by the instruction's bits."""
    key = instruction.bits, wave_size
    found = _known.get(key)
    if found is None:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        found = _known[key] = _classify(instruction, wave_size)
    return found


def _classify(instruction: Instruction, wave_size: int) -> Op:
    encoding, name = instruction.encoding, instruction.mnemonic
    reads, writes = _registers(instruction)
    if encoding in _VECTOR:
        return _vector(instruction, wave_size, reads, writes)
    if encoding == "DS":
        return Op(LDS, 1, 0, reads, writes, counts="lgkm")
    if encoding == "SMEM":
        return Op(SMEM if "load" in name else CACHE, 1, 0, reads, writes, counts="lgkm" if "load" in name else "")
    if encoding in ("GLOBAL", "FLAT", "SCRATCH", "MUBUF", "MTBUF"):
        if "_inv" in name:
            return Op(CACHE, 1, 0, (), ())
        returns = "_load_" in name or ("atomic" in name and bool(instruction.fields["glc"]))
        return Op(VMEM, 1, 0, reads, writes, counts="vm" if returns else "vs")
    if encoding == "SOPP" or name.startswith("s_waitcnt_"):
        return _program(instruction, reads)
    if is_terminator(name) and name.startswith(("s_setpc", "s_swappc", "s_call", "s_subvector")):
        return Op(BRANCH, 1, LATENCY["salu"], reads, writes)
    return Op(SALU, PASSES["salu"], LATENCY["salu"], reads, writes, stamps=reads_clock(instruction))


def _program(instruction: Instruction, reads: tuple[int, ...]) -> Op:
    name, simm = instruction.mnemonic, instruction.fields["simm16"]
    if name == "s_waitcnt":
        return Op(WAIT, 0, 0, (), (), vm=simm >> 10 & _ALL, lgkm=simm >> 4 & _ALL)
    if name.startswith("s_waitcnt_"):
        least = {name[10:]: simm & _ALL}
        return Op(WAIT, 0, 0, (), (), vm=least.get("vmcnt", _ALL), lgkm=least.get("lgkmcnt", _ALL),
                  vs=least.get("vscnt", _ALL))
    if name == "s_wait_idle":
        return Op(WAIT, 0, 0, (), (), vm=0, lgkm=0, vs=0)
    if name in ("s_branch",) or name.startswith("s_cbranch"):
        return Op(BRANCH, 1, 0, (*reads, *((SCC,) if "scc" in name else ()), *((106,) if "vcc" in name else ())), ())
    if name == "s_barrier":
        return Op(BARRIER, 0, 0, (), ())
    if name.startswith("s_endpgm"):
        return Op(END, 0, 0, (), ())
    slots = 1
    if name == "s_nop":
        slots = (simm & 15) + 1
    elif name == "s_sleep":
        slots = 64 * (simm & 127) + 1
    return Op(IDLE, 0, 0, (), (), slots=slots)


def _vector(instruction: Instruction, wave_size: int, reads: tuple[int, ...], writes: tuple[int, ...]) -> Op:
    halves = instruction.pair or (instruction,)
    name = instruction.mnemonic
    operations, kind = _operations(halves)
    if name.startswith("v_wmma"):
        rate = "wmma4" if name.endswith("iu4") else "wmma"
        c = instruction.operands[3]
        return Op(WMMA, PASSES[rate], LATENCY[rate], tuple(r for r in reads if r not in _ends(c.code, c.width)),
                  writes, chain=c.code, operations=2 * 16 ** 3, kind=kind)
    rate = _rate(name)
    passes, latency = PASSES[rate], LATENCY[rate]
    if wave_size == 64 and rate != "lane" and not name.startswith(_ONE_PASS):
        passes, latency = 2 * passes, latency + passes
    return Op(TRANS if rate == "trans" else VALU, passes, max(latency, passes), reads, writes,
              operations=operations * wave_size, kind=kind)


def _rate(name: str) -> str:
    if name.startswith(_TRANS) and not name.endswith("_legacy"):
        return "trans64" if name.endswith("f64") else "trans"
    if "f64" in name:
        return "double"
    if name.startswith(_QUARTER):
        return "quarter"
    if name.startswith(_LANE):
        return "lane"
    if name.endswith(("_b64", "_u64", "_i64")):
        return "half"
    return "valu"


def _operations(halves: tuple[Instruction, ...]) -> tuple[int, str]:
    """Arithmetic of a lane, and its type."""
    total, kind = 0, ""
    for half in halves:
        name = half.mnemonic
        kind = kind or _kind(name)
        if not kind:
            continue
        if "dot2" in name:
            total += 4
        elif "dot4" in name:
            total += 8
        elif "dot8" in name:
            total += 16
        elif "fma" in name:
            total += 4 if "_pk_" in name else 2
        elif name.startswith(("v_add_f", "v_sub_f", "v_subrev_f", "v_mul_f", "v_pk_add_f", "v_pk_mul_f")):
            total += 2 if "_pk_" in name else 1
    return total, kind


def _kind(name: str) -> str:
    if "wmma" in name or "dot" in name:
        last = name.rpartition("_")[2]
        return {"f16": "fp16", "bf16": "bf16", "iu8": "int8", "u8": "int8", "iu4": "int4", "u4": "int4"}.get(last, "")
    for mark, kind in (("f64", "fp64"), ("f32", "fp32"), ("f16", "fp16")):
        if mark in name:
            return kind
    return ""


def _ends(code: int, width: int) -> tuple[int, ...]:
    return (code, code + width - 1) if width > 1 else (code,)


def _registers(instruction: Instruction) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What is read and written: the ends of each operand stand for all of it, since what produces an operand
    writes it whole, or from one end on."""
    reads, writes = uses(instruction)
    entry = table().get(instruction.mnemonic)
    operands = [o for half in (instruction.pair or (instruction,)) for o in half.operands]
    ends: set[int] = set()
    covered: set[int] = set()
    for operand in operands:
        ends |= set(_ends(operand.code, operand.width))
        covered |= set(range(operand.code, operand.code + operand.width))
    found = {r for r in reads if r in ends or r not in covered}
    # Loads write their registers when a wait says so; the ALU's results are waited for without one.
    results = set() if isinstance(entry, (Load, Store, Atomic)) else {r for r in writes if r < VGPR or r in ends
                                                                       or r not in covered}
    if isinstance(entry, Entry):
        if "scc" in entry.sources:
            found.add(SCC)
        if "scc" in entry.results:
            results.add(SCC)
    return tuple(sorted(found)), tuple(sorted(results))
