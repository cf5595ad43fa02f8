"""Instructions whose registers are chosen at run time by M0 (v_movrel*), and LDS append and consume."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from mock.isa import lanes
from mock.isa.decode import Instruction, Operand
from mock.isa.operands import fetch
from mock.isa.state import M0, State

if TYPE_CHECKING:
    from mock.isa.interpreter import Machine

__all__ = ["SGPRS_INDEXED", "bind_relative"]

Step = Callable[[State], None]
VGPR = 256
SGPRS_INDEXED = 106
"""SGPRs that M0 can choose among; beyond the last it is the last."""


def bind_relative(instruction: Instruction, machine: Machine) -> Step | None:
    name = instruction.mnemonic
    if name in ("ds_append", "ds_consume"):
        return _append(instruction, machine)
    if name == "v_swaprel_b32":
        return _swap(instruction)
    if name.startswith("v_movrel"):
        return _move(instruction, machine.dispatch.wave_size)
    return None


def _offsets(name: str, s: State) -> tuple[Any, Any]:
    """How far the source's and the destination's register numbers move (RDNA3 ISA, V_MOVREL*)."""
    m0 = s.sgpr[M0].astype(np.int64)
    if "sd_2" in name or "swaprel" in name:
        return m0 & 0x3ff, m0 >> 16 & 0x3ff
    return (m0 if "rels" in name else m0 * 0), (m0 if "reld" in name or "relsd" in name else m0 * 0)


def _rows(s: State, register: int, offset: np.ndarray) -> np.ndarray:
    """The VGPR that each wave means: [lanes, waves]."""
    index = register + offset
    if (index >= len(s.vgpr)).any() or (index < 0).any():
        raise ValueError(f"M0 selects v{int(index.max())}, but the wave has {len(s.vgpr)} VGPRs")
    return s.vgpr[index, :, np.arange(s.waves)].T


def _write(s: State, register: int, offset: np.ndarray, value: np.ndarray, mask: Any) -> None:
    index, waves = register + offset, np.arange(s.waves)
    if (index >= len(s.vgpr)).any() or (index < 0).any():
        raise ValueError(f"M0 selects v{int(index.max())}, but the wave has {len(s.vgpr)} VGPRs")
    value = np.broadcast_to(value, (s.lanes, s.waves))
    if mask is not None:
        value = np.where(mask, value, s.vgpr[index, :, waves].T)
    s.vgpr[index, :, waves] = value.T


def _move(instruction: Instruction, wave_size: int) -> Step:
    name, dpp = instruction.mnemonic, instruction.dpp
    destination, source = instruction.operands
    plain = fetch(source, "u32", instruction.literal)

    def read(s: State) -> Any:
        return _rows(s, source.code - VGPR, _offsets(name, s)[0]) if source.code >= VGPR else plain(s)

    if dpp is None:
        return lambda s: _write(s, destination.code - VGPR, _offsets(name, s)[1], read(s), s.mask)
    moved, enabled = lanes.moved(read, dpp, wave_size), lanes.enabled(dpp, wave_size)
    return lambda s: _write(s, destination.code - VGPR, _offsets(name, s)[1], moved(s), enabled(s))


def _swap(instruction: Instruction) -> Step:
    destination, source = (o.code - VGPR for o in instruction.operands)

    def step(s: State) -> None:
        read, write = _offsets(instruction.mnemonic, s)
        a, b = _rows(s, source, read).copy(), _rows(s, destination, write).copy()
        _write(s, destination, write, a, s.mask)
        _write(s, source, read, b, s.mask)
    return step


def _append(instruction: Instruction, machine: Machine) -> Step:
    """Add or subtract the number of active lanes at LDS address M0[15:0] + offset; all lanes get the old value."""
    f = instruction.fields
    offset = f["offset0"] | f["offset1"] << 8
    sign = 1 if instruction.mnemonic == "ds_append" else -1
    destination = Operand("vdst", VGPR + f["vdst"])

    def step(s: State) -> None:
        address = (s.sgpr[M0] & np.uint32(0xffff)).astype(np.uint64) + np.uint64(offset)
        counts = s.v.full(s.active()).sum(axis=0).astype(np.int64)
        for wave in range(s.waves):         # waves of a workgroup share the counter: one after the other
            if not counts[wave]:
                continue
            where, base = address[wave:wave + 1], s.per_wave["lds"][wave:wave + 1]
            old, = machine.lds.load(s, where, base, np.uint32, 1)
            machine.lds.store(s, where, base, [(old.astype(np.int64) + sign * counts[wave]).astype(np.uint32)])
            lanes = slice(None) if s.mask is None else s.mask[:, wave]
            s.vgpr[destination.code - VGPR, lanes, wave] = old[0]
    return step
