"""Layouts of PM4 packets that only the graphics pipe has, or that newer firmware brought.

Facts: Mesa 25.0, sid.h (opcodes, S_D10_*), ac_parse_ib.c (SET_*_PAIRS, SET_*_PAIRS_PACKED, SET_PREDICATION's users),
radv_cmd_buffer.c (DISPATCH_INDIRECT after SET_BASE on the graphics pipe: an offset, no address); Linux 7.3, nvd.h and
gfx_v11_0.c (SET_Q_PREEMPTION_MODE, RUN_CLEANER_SHADER), amdgpu_userq_fence.c (a fence that the queue's MQD names,
PROTECTED_FENCE_SIGNAL); the notation is that of :mod:`amdrv.facts.layout`.

What the pipe has and nobody here needs the fields of is a name with a tail (:func:`bare`).
"""

from __future__ import annotations

from amdrv.facts import pm4
from amdrv.facts.layout import Packet, Part, Word

__all__ = ["COMMON", "DRAWS", "GRAPHICS", "bare"]

_ADDRESS = {"ADDRESS": (Part("ADDRESS_LO", 31, 2), Part("ADDRESS_HI", 63, 32))}
_DUMMY = (Word("DUMMY", {"DUMMY": (31, 0)}),)
_INITIATOR = next(word for word in pm4.PACKETS["DISPATCH_DIRECT"].words if word.name == "DISPATCH_INITIATOR")
_PAIRS = (Word("COUNT", {"REG_COUNT": (31, 0)}),)

COMMON: dict[str, Packet] = {
    "RUN_CLEANER_SHADER": Packet(0xD2, _DUMMY),
    "PROTECTED_FENCE_SIGNAL": Packet(0xD0, _DUMMY),
    "FENCE_WAIT_MULTI": Packet(0xD1, (Word("CONTROL", {"ENGINE_SEL": (0, 0), "PREEMPTABLE": (1, 1),
                                                       "CACHE_POLICY": (3, 2), "POLL_INTERVAL": (31, 16)}),),
                               tail="FENCES"),
    "SET_SH_REG_PAIRS": Packet(0xBA, (), tail="PAIRS"),
    "SET_SH_REG_PAIRS_PACKED": Packet(0xBB, _PAIRS, tail="PAIRS"),
    "SET_SH_REG_PAIRS_PACKED_N": Packet(0xBD, _PAIRS, tail="PAIRS"),
}
"""For every queue."""

GRAPHICS: dict[str, Packet] = {
    "DISPATCH_INDIRECT": Packet(0x16, (Word("DATA_OFFSET", {"DATA_OFFSET": (31, 0)}), _INITIATOR)),
    "SET_PREDICATION": Packet(0x20, (
        Word("OPERATION", {"VISIBLE": (8, 8), "HINT": (12, 12), "OPERATION": (18, 16), "CONTINUE": (31, 31)}),
        Word("ADDRESS_LO", {"ADDRESS_LO": (31, 2)}), Word("ADDRESS_HI", {"ADDRESS_HI": (31, 0)})), wide=_ADDRESS),
    "SWITCH_BUFFER": Packet(0x8B, _DUMMY),
    "CONTEXT_REG_RMW": Packet(0x51, (Word("REGISTER", {"REG_OFFSET": (15, 0)}), Word("MASK", {"MASK": (31, 0)}),
                                     Word("DATA", {"DATA": (31, 0)}))),
    "SET_CONTEXT_REG_INDEX": Packet(0x6A, (Word("REGISTER", {"REG_OFFSET": (15, 0), "INDEX": (31, 28)}),),
                                    tail="VALUE"),
    "SET_CONTEXT_REG_PAIRS": Packet(0xB8, (), tail="PAIRS"),
    "SET_CONTEXT_REG_PAIRS_PACKED": Packet(0xB9, _PAIRS, tail="PAIRS"),
    "SET_Q_PREEMPTION_MODE": Packet(0xF0, (
        Word("SHADOW_LO", {"SHADOW_LO": (31, 0)}), Word("SHADOW_HI", {"SHADOW_HI": (31, 0)}),
        Word("GDS_LO", {"GDS_LO": (31, 0)}), Word("GDS_HI", {"GDS_HI": (31, 0)}),
        Word("CSA_LO", {"CSA_LO": (31, 0)}), Word("CSA_HI", {"CSA_HI": (31, 0)}),
        Word("VMID", {"IB_VMID": (3, 0)}), Word("INIT", {"INIT_SHADOW_MEM": (0, 0)}))),
}
"""For the graphics pipe, in place of the compute engine's where it has the same name."""

DRAWS = frozenset(name for name in pm4.OPCODES if name.startswith(("DRAW_", "DISPATCH_MESH", "DISPATCH_TASKMESH"))
                  and "PREAMBLE" not in name)
"""What needs a graphics pipeline."""


def bare() -> dict[str, Packet]:
    """Every opcode of the graphics pipe that has no layout: its words are the tail."""
    known = {packet.opcode for table in (pm4.PACKETS, COMMON, GRAPHICS) for packet in table.values()}
    return {name: Packet(opcode, (), tail="WORDS") for name, opcode in pm4.OPCODES.items() if opcode not in known}
