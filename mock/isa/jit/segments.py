"""What may be done twice. A *segment* is a run of instructions in a block that can be repeated from its beginning.

A NaN result of RDNA3 is not always the host's, so every floating-point result would have to be looked at. Instead the
results of a segment are taken as the host gives them, and looked at together where it ends, before anything is
done that another could see. A NaN is carried on by arithmetic, so that only the last result of a chain counts. If there
was one, the segment is repeated from the wave's registers as they were, in *careful* code, which looks at each result.
Careful code is made when a wave first needs it.
"""

from __future__ import annotations

from mock.isa.decode import Instruction
from mock.isa.semantics import Entry, Load, table

__all__ = ["CAREFUL", "floating", "repeatable", "writes_exec"]

CAREFUL = 1 << 29
"""In a block's or resume point's MODE: nothing is put off. It is never in a wave's MODE."""

_PURE = ("s_load_", "s_buffer_load_", "s_getpc_b64", "v_wmma", "ds_swizzle_b32", "ds_bpermute_b32", "s_nop", "s_clause",
         "s_delay_alu", "s_waitcnt", "s_wait_idle", "s_wait_event", "s_set_inst_prefetch", "ds_nop")


def writes_exec(instruction: Instruction) -> bool:
    """Can it? (True also for some that only read it.)"""
    name = instruction.mnemonic
    return "exec" in name or name.startswith("v_cmpx") or any(o.code in (126, 127) for o in instruction.operands[:2])


def repeatable(instruction: Instruction) -> bool:
    """Nothing but registers that the segment writes again is changed, and EXEC is not."""
    if instruction.pair is not None:
        return True
    name = instruction.mnemonic
    if writes_exec(instruction):
        return False
    if name.startswith(_PURE):
        return True
    entry = table().get(name)
    return isinstance(entry, Entry) or \
        (isinstance(entry, Load) and instruction.encoding in ("DS", "GLOBAL", "FLAT", "SCRATCH"))


def floating(instruction: Instruction) -> bool:
    """Can it put a look at its result off?"""
    return any(isinstance(entry, Entry) and any(t.rpartition(":")[2][0] == "f" for t in entry.results)
               for entry in (table().get(i.mnemonic) for i in instruction.pair or (instruction,)))
