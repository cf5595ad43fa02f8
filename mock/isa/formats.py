"""Typed buffer accesses: components of a buffer format to and from 32-bit (or D16) registers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from mock.isa.buffers import _Address
from mock.isa.decode import Instruction
from mock.isa.opcodes import BUFFER_FORMATS
from mock.isa.state import State

if TYPE_CHECKING:
    from mock.isa.interpreter import Machine

__all__ = ["BufferFormat", "bind_format", "buffer_format"]

Step = Callable[[State], None]
U64 = np.uint64


@dataclass(frozen=True)
class BufferFormat:
    """``bits`` of the components x, y, z, w (lowest first); ``number`` UNORM SNORM USCALED SSCALED UINT SINT FLOAT."""

    name: str
    bits: tuple[int, ...]
    number: str

    @property
    def nbytes(self) -> int:
        return sum(self.bits) // 8

    @property
    def packed(self) -> bool:
        """Components that are no whole bytes share one dword."""
        return any(b % 8 for b in self.bits)


@cache
def buffer_format(code: int) -> BufferFormat | None:
    """The unified format with this number, None for BUF_FMT_INVALID and unknown ones."""
    name = BUFFER_FORMATS.get(code)
    if name is None or name == "BUF_FMT_INVALID":
        return None
    *widths, number = name.removeprefix("BUF_FMT_").split("_")
    # Names give the highest component first.
    return BufferFormat(name, tuple(int(w) for w in reversed(widths)), number)


def _small_float(bits: np.ndarray, width: int) -> np.ndarray:
    """Unsigned 11- or 10-bit floats (5 exponent bits) are the top of a positive f16."""
    return (bits << np.uint32(15 - width)).astype(np.uint16).view(np.float16).astype(np.float32)


def _decode(raw: np.ndarray, width: int, number: str) -> np.ndarray:
    """Raw component bits (u32) -> register bits (u32)."""
    if number == "FLOAT":
        if width == 32:
            return raw
        value = raw.astype(np.uint16).view(np.float16).astype(np.float32) if width == 16 else _small_float(raw, width)
        return value.view(np.uint32)
    signed = (raw << np.uint32(32 - width)).view(np.int32) >> np.int32(32 - width)
    if number == "UINT":
        return raw
    if number == "SINT":
        return signed.view(np.uint32)
    source = raw if number.startswith("U") else signed
    value = source.astype(np.float64)
    if number == "UNORM":
        value = value / ((1 << width) - 1)
    elif number == "SNORM":
        value = np.maximum(value / ((1 << width - 1) - 1), -1.0)
    return value.astype(np.float32).view(np.uint32)


def _encode(value: np.ndarray, width: int, number: str) -> np.ndarray:
    """Register bits (u32) -> raw component bits (u32)."""
    keep = np.uint32((1 << width) - 1)
    if number in ("UINT", "SINT"):
        low, high = (0, (1 << width) - 1) if number == "UINT" else (-(1 << width - 1), (1 << width - 1) - 1)
        wide = value.astype(np.int64) if number == "UINT" else value.view(np.int32).astype(np.int64)
        return np.clip(wide, low, high).astype(np.int64).astype(np.uint32) & keep
    number_value = value.view(np.float32)
    if number == "FLOAT":
        if width == 32:
            return value
        half = (number_value if width == 16 else np.maximum(number_value, 0)).astype(np.float16).view(np.uint16)
        return half.astype(np.uint32) >> np.uint32(0 if width == 16 else 15 - width)
    wide = np.nan_to_num(number_value.astype(np.float64), nan=0.0)
    if number == "UNORM":
        return np.rint(np.clip(wide, 0, 1) * ((1 << width) - 1)).astype(np.uint32)
    if number == "SNORM":
        return np.rint(np.clip(wide, -1, 1) * ((1 << width - 1) - 1)).astype(np.int64).astype(np.uint32) & keep
    low, high = (0, (1 << width) - 1) if number == "USCALED" else (-(1 << width - 1), (1 << width - 1) - 1)
    return np.clip(np.trunc(wide), low, high).astype(np.int64).astype(np.uint32) & keep


def bind_format(instruction: Instruction, machine: Machine) -> Step:
    """buffer_load/store_format_* (format in the descriptor) and tbuffer_* (format in the instruction)."""
    name = instruction.mnemonic
    components = len(name.rpartition("_")[2])
    short, high, to_lds = "d16" in name, "d16_hi" in name, "_lds_" in name
    load = "_load_" in name
    typed = instruction.encoding == "MTBUF"
    register = instruction.fields["vdata"]
    srsrc = instruction.fields["srsrc"] * 4

    def step(s: State) -> None:
        word3 = s.sgpr[srsrc + 3]
        codes = np.full(s.waves, instruction.fields["format"]) if typed else word3 >> np.uint32(12) & np.uint32(63)
        for code in np.unique(codes):
            chosen = codes == code
            form = buffer_format(int(code))
            if form is None:
                raise ValueError(f"buffer format {int(code)} is not valid")
            address, inside = _Address(instruction, form.nbytes)(s)
            wanted = np.broadcast_to(s.active() & chosen, (s.lanes, s.waves))
            mask = inside & wanted
            if load:
                values = _load(s, form, address, mask)
                if not typed:
                    values = _selected(values, word3)
                for i in range(components):
                    _deliver(s, i, values[i], wanted, mask)
            elif mask.any():
                _store(s, form, address, mask)

    def _load(s: State, form: BufferFormat, address: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
        one = np.uint32(1) if form.number in ("UINT", "SINT") else np.float32(1).view(np.uint32)
        values = [np.zeros((s.lanes, s.waves), np.uint32) for _ in range(3)] + [np.full((s.lanes, s.waves), one)]
        if mask.any():
            for i, raw in enumerate(_raw(form, address[mask])):
                values[i][mask] = _decode(raw, form.bits[i], form.number)
        return values

    def _raw(form: BufferFormat, addresses: np.ndarray) -> list[np.ndarray]:
        if form.packed:
            word, = machine.accessor.load(addresses, np.uint32, 1)
            low, parts = 0, []
            for width in form.bits:
                parts.append(word >> np.uint32(low) & np.uint32((1 << width) - 1))
                low += width
            return parts
        kind: Any = {8: np.uint8, 16: np.uint16, 32: np.uint32}[form.bits[0]]
        return [x.astype(np.uint32) for x in machine.accessor.load(addresses, kind, len(form.bits))]

    def _selected(values: list[np.ndarray], word3: np.ndarray) -> list[np.ndarray]:
        """DST_SEL of the descriptor: 0, 1, or a component."""
        zero = np.zeros_like(values[0])
        choices = [zero, np.full_like(zero, np.float32(1).view(np.uint32)), zero, zero, *values]
        return [np.choose(np.broadcast_to(word3 >> np.uint32(3 * i) & np.uint32(7), values[0].shape), choices)
                for i in range(4)]

    def _deliver(s: State, i: int, value: np.ndarray, wanted: np.ndarray, mask: np.ndarray) -> None:
        value = np.where(mask, value, np.uint32(0))
        if to_lds:
            target = (s.sgpr[125] & np.uint32(0xffff)).astype(U64) + s.lane_ids.astype(U64) * U64(4)
            base = np.broadcast_to(s.per_wave["lds"], wanted.shape)[wanted]
            machine.lds.store(s, np.broadcast_to(target, wanted.shape)[wanted], base, [value[wanted]])
        elif short:
            half = value.view(np.float32).astype(np.float16).view(np.uint16)
            s.vgpr[register + i // 2].view(np.uint16)[:, (1 if high else i % 2)::2][wanted] = half[wanted]
        else:
            s.vgpr[register + i][wanted] = value[wanted]

    def _store(s: State, form: BufferFormat, address: np.ndarray, mask: np.ndarray) -> None:
        raw = []
        for i in range(len(form.bits)):
            if i >= components:
                value = np.zeros((s.lanes, s.waves), np.uint32)
            elif short:
                half = s.vgpr[register + i // 2].view(np.uint16)[:, (1 if high else i % 2)::2]
                value = np.ascontiguousarray(half).view(np.float16).astype(np.float32).view(np.uint32)
            else:
                value = s.vgpr[register + i]
            raw.append(_encode(np.ascontiguousarray(value), form.bits[i], form.number)[mask])
        if form.packed:
            word, low = np.zeros(len(raw[0]), np.uint32), 0
            for part, width in zip(raw, form.bits, strict=True):
                word, low = word | part << np.uint32(low), low + width
            machine.accessor.store(address[mask], [word])
        else:
            kind: Any = {8: np.uint8, 16: np.uint16, 32: np.uint32}[form.bits[0]]
            machine.accessor.store(address[mask], [x.astype(kind) for x in raw])
    return step
