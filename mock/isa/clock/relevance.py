"""Which instructions decide where a wave goes and what it addresses.

The clock needs a wave's path and its addresses, not its results. Walking the control-flow graph backwards, a vector
register is live where an address, a scalar result or a live register may come from it. Instructions that write nothing
live need not be executed, loads into nothing live need no data, and stores matter only if something live is loaded
from the same space. A matrix product so loses its multiplications and keeps its loops.
"""

from __future__ import annotations

from dataclasses import dataclass

from mock.isa.decode import VGPR, Instruction
from mock.isa.dispatch import IllegalInstruction
from mock.isa.hazards import uses
from mock.isa.program import Block, Code, is_terminator
from mock.isa.semantics import Atomic, Load, Store, table

__all__ = ["SHADER_CYCLES", "Relevance", "reads_clock", "relevance_of", "space_of"]

_MEMORY = ("DS", "GLOBAL", "FLAT", "SCRATCH", "MUBUF", "MTBUF")
_INDIRECT = ("v_movrel", "v_swaprel", "s_setpc", "s_swappc", "s_call", "s_rfe")
_ADDRESS = ("addr", "saddr", "vaddr", "srsrc", "soffset")
_WIDE_SUMS = ("v_mad_u64_u32", "v_mad_i64_i32")
EXEC = 126
SHADER_CYCLES, GET_REALTIME = 29, 0x83


@dataclass
class Relevance:
    """``needed``: PCs that must be executed, None when everything must. ``end``: where the code ends, in bytes.
    ``data_dependent``: some live value comes from vector memory, so that the path depends on what is stored there.
    ``reads_clock``: the code looks at the time."""

    needed: set[int] | None
    end: int
    data_dependent: bool
    reads_clock: bool


_known: dict[bytes, Relevance] = {}
_MOST_KNOWN = 1 << 10


def relevance_of(code: Code) -> Relevance:
    """Kept by the code's bits."""
    blocks, indirect = _blocks(code)
    key = b"".join(pc.to_bytes(4, "little", signed=True) + i.bits for pc in sorted(blocks)
                   for i in blocks[pc].instructions)
    found = _known.get(key)
    if found is None:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        found = _known[key] = _analyse(blocks, indirect)
    return found


def _analyse(blocks: dict[int, Block], indirect: bool) -> Relevance:
    end = max((b.end for b in blocks.values()), default=0)
    times = any(reads_clock(i) for b in blocks.values() for i in b.instructions)
    if indirect:
        return Relevance(None, end, True, times)
    kills = not any(_writes_exec(i) for b in blocks.values() for i in b.instructions)
    spaces: set[str] = set()
    registers = {pc: uses(i) for b in blocks.values() for pc, i in zip(b.pcs, b.instructions, strict=True)}
    while True:
        needed, loaded = _solve(blocks, registers, kills, spaces)
        if loaded <= spaces:
            return Relevance(needed, end, bool(loaded), times)
        spaces |= loaded


def reads_clock(instruction: Instruction) -> bool:
    """SHADER_CYCLES, or the real-time counter (RDNA3 ISA, "Hardware registers", "Send message")."""
    name = instruction.mnemonic
    return (name == "s_getreg_b32" and instruction.fields["simm16"] & 63 == SHADER_CYCLES) or \
        (name.startswith("s_sendmsg_rtn") and instruction.fields["ssrc0"] == GET_REALTIME)


def space_of(instruction: Instruction) -> str:
    return {"DS": "lds", "SCRATCH": "scratch", "FLAT": "flat"}.get(instruction.encoding, "global")


def _blocks(code: Code) -> tuple[dict[int, Block], bool]:
    blocks: dict[int, Block] = {}
    work, indirect = [0], False
    while work:
        pc = work.pop()
        if pc in blocks:
            continue
        try:
            block = blocks[pc] = code.block(pc)
        except IllegalInstruction:
            continue            # whoever really gets there is told so
        indirect = indirect or any(i.mnemonic.startswith(_INDIRECT) for i in block.instructions)
        work += successors(block)
    return blocks, indirect


def successors(block: Block) -> list[int]:
    last = block.instructions[-1]
    name = last.mnemonic
    if not is_terminator(name):
        return [block.end]
    if name.startswith(("s_endpgm", "s_code_end", "s_trap", "s_setpc", "s_rfe")):
        return []
    simm = last.fields.get("simm16", 0)
    target = block.end + 4 * (simm - 0x10000 if simm & 0x8000 else simm)
    if name == "s_branch":
        return [target]
    return [target, block.end] if name.startswith(("s_cbranch", "s_subvector")) else [block.end]


def _writes_exec(instruction: Instruction) -> bool:
    name = instruction.mnemonic
    return ("exec" in name and not name.startswith("s_cbranch")) or name.startswith("v_cmpx") or any(
        o.code in (EXEC, EXEC + 1) and o.field in ("sdst", "vdst", "sdata") for o in instruction.operands)


def _solve(blocks: dict[int, Block], registers: dict[int, tuple[frozenset[int], frozenset[int]]], kills: bool,
           spaces: set[str]) -> tuple[set[int], set[str]]:
    """The fixed point for the given spaces of live loads -> (needed PCs, spaces that live values are loaded from)."""
    incoming: dict[int, frozenset[int]] = {pc: frozenset() for pc in blocks}
    before: dict[int, list[int]] = {pc: [] for pc in blocks}
    for pc, block in blocks.items():
        for target in successors(block):
            if target in blocks:
                before[target].append(pc)
    needed: set[int] = set()
    loaded: set[str] = set()
    work = sorted(blocks)
    while work:
        pc = work.pop()
        block = blocks[pc]
        live: set[int] = set()
        for target in successors(block):
            live |= incoming.get(target, frozenset())
        for instruction, at in zip(reversed(block.instructions), reversed(block.pcs), strict=True):
            if _walk(instruction, registers[at], live, kills, spaces, loaded):
                needed.add(at)
        result = frozenset(live)
        if result != incoming[pc]:
            incoming[pc] = result
            work += before[pc]
    return needed, loaded


def _walk(instruction: Instruction, registers: tuple[frozenset[int], frozenset[int]], live: set[int], kills: bool,
          spaces: set[str], loaded: set[str]) -> bool:
    """Over one instruction, backwards: is it needed?"""
    reads, writes = registers
    vectors = {r for r in reads if r >= VGPR}
    encoding = instruction.encoding
    entry = table().get(instruction.mnemonic)
    if encoding in _MEMORY and (isinstance(entry, (Load, Store, Atomic)) or "_format" in instruction.mnemonic
                                or "_lds_" in instruction.mnemonic):
        space, wanted = space_of(instruction), bool(writes & live)
        stores = not isinstance(entry, Load) and "_load_" not in instruction.mnemonic
        if wanted:
            loaded.add(space)
        if "_lds_" in instruction.mnemonic:
            stores, space = True, "lds"
        matters = wanted or (stores and bool(spaces & {space, "flat"} or (space == "flat" and spaces)))
        if isinstance(entry, Load) and wanted and kills and entry.half is None:
            live -= writes
        for operand in instruction.operands:
            if operand.field in _ADDRESS:
                live |= {operand.code + i for i in range(operand.width)} & vectors
        if matters:
            live |= vectors
        return matters
    if not encoding.startswith("V"):
        if encoding == "DS" and writes & live:
            live |= vectors
            return True
        return encoding != "DS"
    scalar = not writes or any(w < VGPR for w in writes) or _writes_exec(instruction)
    if not scalar and not writes & live:
        return False
    if instruction.mnemonic.startswith(_WIDE_SUMS) and max(writes) not in live:
        # Compilers that want the low half only leave anything in the high half of the addend.
        vectors.discard(instruction.operands[-1].code + 1)
    if kills and instruction.dpp is None and "lane" not in instruction.mnemonic \
            and ("16" not in instruction.mnemonic or instruction.mnemonic.startswith("v_wmma")):
        live -= {w for w in writes if w >= VGPR}
    live |= vectors
    return True
