"""MUBUF and MTBUF: memory through a shader resource descriptor, with its bounds checks and formats."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from mock.isa.control import cache_instruction
from mock.isa.decode import Instruction, Operand
from mock.isa.dispatch import CACHE_INSTRUCTIONS
from mock.isa.memory import Where, _active, _atomic_step, _load_step, _store_step
from mock.isa.operands import fetch
from mock.isa.semantics import Atomic, Load, Store, table
from mock.isa.state import NULL, State

if TYPE_CHECKING:
    from mock.isa.interpreter import Machine

__all__ = ["bind_buffer"]

Step = Callable[[State], None]
U64 = np.uint64
VGPR = 256
# SRD word 3, OOB_SELECT (RDNA3 ISA, "Buffer resource descriptor").
_STRUCTURED, _STRUCTURED_INDEX, _NOT_EMPTY, _RAW = range(4)


class _Address:
    """Where each lane's element is, and whether it is within the descriptor's range."""

    def __init__(self, instruction: Instruction, nbytes: int) -> None:
        f = instruction.fields
        self.srsrc, self.nbytes = f["srsrc"] * 4, nbytes
        self.offset = f["offset"]
        self.soffset = None if f["soffset"] == NULL else fetch(Operand("soffset", f["soffset"]), "u32", None)
        register = VGPR + f["vaddr"]
        self.index = fetch(Operand("vaddr", register), "u32", None) if f["idxen"] else None
        self.voffset = fetch(Operand("vaddr", register + f["idxen"]), "u32", None) if f["offen"] else None

    def __call__(self, s: State) -> tuple[Any, Any]:
        word1, records, word3 = (s.sgpr[self.srsrc + i] for i in (1, 2, 3))
        base = s.sgpr[self.srsrc].astype(U64) | (word1 & np.uint32(0xffff)).astype(U64) << U64(32)
        stride = (word1 >> np.uint32(16) & np.uint32(0x3fff)).astype(U64)
        swizzle = word1 >> np.uint32(30)
        index: Any = np.zeros((s.lanes, s.waves), U64)
        if self.index is not None:
            index = index + self.index(s)
        add_thread = (word3 >> np.uint32(23) & np.uint32(1)).astype(U64)
        index = index + add_thread * s.lane_ids.astype(U64)
        offset: Any = np.full((s.lanes, s.waves), self.offset, U64)
        if self.voffset is not None:
            offset = offset + self.voffset(s)
        offset = offset & U64(0xffffffff)
        soffset = U64(0) if self.soffset is None else self.soffset(s).astype(U64)
        # Swizzled: index_stride records side by side, element_size bytes at a time.
        element = U64(2) << swizzle.astype(U64)
        together = U64(8) << (word3 >> np.uint32(21) & np.uint32(3)).astype(U64)
        swizzled = (index // together * stride + offset // element * element) * together \
            + index % together * element + offset % element
        linear = index * stride + offset
        address = base + soffset + np.where(swizzle != 0, swizzled, linear)
        size, limit, select = U64(self.nbytes), records.astype(U64), word3 >> np.uint32(28) & np.uint32(3)
        inside = np.where(select == _STRUCTURED, (index < limit) & ((stride == 0) | (offset + size <= stride)),
                          np.where(select == _STRUCTURED_INDEX, index < limit,
                                   np.where(select == _NOT_EMPTY, limit != 0, linear + soffset + size <= limit)))
        return address, inside


def bind_buffer(instruction: Instruction, machine: Machine) -> Step | None:
    from mock.isa.formats import bind_format
    name = instruction.mnemonic
    if name in CACHE_INSTRUCTIONS:
        return cache_instruction(name, machine)
    if "format" in name:
        return bind_format(instruction, machine)
    if "_lds_" in name:
        return _load_lds(instruction, machine)
    entry = table().get(name)
    if not isinstance(entry, (Load, Store, Atomic)):
        return None
    nbytes = {"8": 1, "6": 2, "2": 4, "4": 8}[entry.kind[-1]] * getattr(entry, "count", 1)
    locate = _Address(instruction, nbytes)
    data = VGPR + instruction.fields["vdata"]

    def where(s: State, mask: Any) -> Where:
        return Where(_active(s, locate(s)[0], mask))
    step: Step
    if isinstance(entry, Load):
        step = _load_step(entry, [where], data, machine.space.coherent if instruction.fields["glc"] else machine.space)
    elif isinstance(entry, Store):
        step = _store_step(entry, [where], [data], machine.space)
    else:
        width = 2 if entry.kind.endswith("64") else 1
        sources = [data, data + width] if entry.compares else [data]
        step = _atomic_step(entry, [(where, sources)], data if instruction.fields["glc"] else None, machine.space)
    returns = isinstance(entry, Load) or (isinstance(entry, Atomic) and bool(instruction.fields["glc"]))
    width = instruction.operands[0].width if isinstance(entry, Load) else 2 if entry.kind.endswith("64") else 1
    return checked(step, locate, data - VGPR, width if returns else 0, getattr(entry, "half", None)
                   if isinstance(entry, Load) else None)


def checked(step: Step, locate: _Address, register: int, zeroes: int, half: int | None) -> Step:
    """Run the step for lanes in range; the others get 0 (in ``half`` of the register, or all of it), store nothing."""
    def bounded(s: State) -> None:
        saved = s.mask
        inside = locate(s)[1]
        if not inside.all():
            outside = ~inside if saved is None else ~inside & saved
            s.mask = inside if saved is None else inside & saved
        try:
            step(s)
        finally:
            s.mask = saved
        if not inside.all():
            for i in range(zeroes):
                if half is None:
                    s.vgpr[register + i][outside] = 0
                else:
                    s.vgpr[register + i].view(np.uint16)[:, half::2][outside] = 0
    return bounded


def store_lds(s: State, machine: Machine, value: np.ndarray, wanted: np.ndarray, offset: int) -> None:
    """Dwords to LDS at M0[15:0] + the instruction's offset + 4 * lane (RDNA3 ISA, "Buffer load to LDS")."""
    target = (s.sgpr[125] & np.uint32(0xffff)).astype(U64) + U64(offset) + s.lane_ids.astype(U64) * U64(4)
    base = np.broadcast_to(s.per_wave["lds"], wanted.shape)[wanted]
    machine.lds.store(s, np.broadcast_to(target, wanted.shape)[wanted], base, [value[wanted]])


def _load_lds(instruction: Instruction, machine: Machine) -> Step:
    """Memory -> LDS; lanes out of range bring 0."""
    kind: Any = {"u8": np.uint8, "i8": np.int8, "u16": np.uint16, "i16": np.int16, "b32": np.uint32}[
        instruction.mnemonic.rpartition("_")[2]]
    locate = _Address(instruction, np.dtype(kind).itemsize)

    def step(s: State) -> None:
        address, inside = locate(s)
        wanted = np.broadcast_to(s.active(), (s.lanes, s.waves))
        mask = inside & wanted
        values = np.zeros((s.lanes, s.waves), np.uint32)
        if mask.any():
            value, = machine.accessor.load(address[mask], kind, 1)
            values[mask] = value.astype(np.int32 if np.dtype(kind).kind == "i" else np.uint32).view(np.uint32)
        if wanted.any():
            store_lds(s, machine, values, wanted, locate.offset)
    return step
