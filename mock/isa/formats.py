"""Typed buffer accesses: components of a buffer format to and from 32-bit (or D16) registers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from mock.isa.buffers import _Address, store_lds
from mock.isa.decode import Instruction
from mock.isa.opcodes import BUFFER_FORMATS
from mock.isa.state import State

if TYPE_CHECKING:
    from mock.isa.interpreter import Machine

__all__ = ["NUMBERS", "BufferFormat", "bind_format", "buffer_format", "decode", "encode", "lengthen", "shorten"]

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


NUMBERS = ("UNORM", "SNORM", "USCALED", "SSCALED", "UINT", "SINT", "FLOAT")
V = Any


def _signed(v: V, raw: Any, width: Any) -> Any:
    """The component as i32. ``width``: u32."""
    up = v.and_(v.sub(32, width), 31)
    return v.shr(v.bits(v.shl(raw, up), "i32"), up)


def _largest(v: V, width: Any) -> Any:
    """2**width - 1 as f64, width <= 32."""
    return v.near_cast(v.sub(v.shl(v.constant("u64", 1), width), 1), "f64")


def _drop(v: V, width: Any) -> Any:
    """Unsigned 11- and 10-bit floats (5 exponent bits) are the top of a positive f16: how many bits are missing."""
    return v.select(v.lt(width, 15), v.and_(v.sub(15, width), 15), 0)


def _quiet(v: V, half: Any) -> Any:
    """An f16's bits (u32), a NaN made quiet: LLVM leaves out a conversion there and back, and its quieting with it."""
    return v.select(v.gt(v.and_(half, 0x7fff), 0x7c00), v.or_(half, 0x200), half)


def decode(v: V, raw: Any, width: Any, number: str) -> Any:
    """A component's bits -> a register's, in the words of ``v`` (u32 all three)."""
    if number == "UINT":
        return raw
    if number == "SINT":
        return v.bits(_signed(v, raw, width), "u32")
    if number == "FLOAT":
        half = v.bits(v.cast(_quiet(v, v.shl(raw, _drop(v, width))), "u16"), "f16")
        return v.select(v.eq(width, 32), raw, v.bits(v.near_cast(half, "f32"), "u32"))
    source = raw if number[0] == "U" else _signed(v, raw, width)
    value = v.near_cast(source, "f64")
    if number == "UNORM":
        value = v.near_div(value, _largest(v, width))
    elif number == "SNORM":
        value = v.near_div(value, _largest(v, v.sub(width, 1)))
        value = v.select(v.lt(value, -1.0), v.constant("f64", -1.0), value)
    return v.bits(v.near_cast(value, "f32"), "u32")


def encode(v: V, value: Any, width: Any, number: str) -> Any:
    """A register's bits -> a component's, in the words of ``v`` (u32 all three)."""
    ones = v.low(v.sub(v.shl(v.constant("u64", 1), width), 1))
    if number == "UINT":
        return v.min(value, ones)
    high = v.bits(v.shr(ones, 1), "i32")
    if number == "SINT":
        clamped = v.min(v.max(v.bits(value, "i32"), v.sub(v.sub(0, high), 1)), high)
        return v.and_(v.bits(clamped, "u32"), ones)
    x = v.bits(value, "f32")
    if number == "FLOAT":
        positive = v.select(v.and_(v.lt(width, 16), v.lt(x, 0.0)), v.constant("f32", 0.0), x)
        half = v.cast(v.bits(v.near_cast(positive, "f16"), "u16"), "u32")
        return v.select(v.eq(width, 32), value, v.and_(v.shr(half, _drop(v, width)), ones))
    wide = v.select(v.isnan(x), v.constant("f64", 0.0), v.near_cast(x, "f64"))
    if number == "USCALED":
        low, top = v.constant("f64", 0.0), _largest(v, width)
    elif number == "SSCALED":
        top = _largest(v, v.sub(width, 1))
        low = v.near_sub(v.constant("f64", -1.0), top)
    else:
        low, top = v.constant("f64", -1.0 if number == "SNORM" else 0.0), v.constant("f64", 1.0)
    wide = v.select(v.lt(wide, low), low, v.select(v.gt(wide, top), top, wide))
    if number.endswith("NORM"):
        wide = v.near_int(v.near_mul(wide, _largest(v, v.sub(width, 1) if number == "SNORM" else width)))
    return v.and_(v.bits(v.near_cast(wide, "i32"), "u32"), ones)


def shorten(v: V, value: Any, integer: Any) -> Any:
    """A register's 32 bits -> D16's 16 (u32): the low ones of an integer (a mask says which), or an f16."""
    half = v.cast(v.bits(v.near_cast(v.bits(value, "f32"), "f16"), "u16"), "u32")
    return v.select(integer, v.and_(value, 0xffff), half)


def lengthen(v: V, half: Any, integer: Any, signed: Any) -> Any:
    """D16's 16 bits (u32) -> 32."""
    wide = v.bits(v.near_cast(v.bits(v.cast(_quiet(v, half), "u16"), "f16"), "f32"), "u32")
    extended = v.select(signed, v.bits(v.shr(v.bits(v.shl(half, 16), "i32"), 16), "u32"), half)
    return v.select(integer, extended, wide)


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
            where = _Address(instruction, form.nbytes)
            address, inside = where(s)
            wanted = np.broadcast_to(s.active() & chosen, (s.lanes, s.waves))
            mask = inside & wanted
            if load:
                values = _load(s, form, address, mask)
                if not typed:
                    values = _selected(values, word3, form)
                for i in range(components):
                    _deliver(s, i, np.where(mask, values[i], np.uint32(0)), wanted, form, where.offset)
            elif mask.any():
                _store(s, form, address, mask)

    def _one(form: BufferFormat) -> np.uint32:
        return np.uint32(1) if form.number in ("UINT", "SINT") else np.float32(1).view(np.uint32)

    def _load(s: State, form: BufferFormat, address: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
        values = [np.zeros((s.lanes, s.waves), np.uint32) for _ in range(3)] + [np.full((s.lanes, s.waves), _one(form))]
        if mask.any():
            for i, raw in enumerate(_raw(form, address[mask])):
                values[i][mask] = decode(s.v, raw, np.uint32(form.bits[i]), form.number)
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

    def _selected(values: list[np.ndarray], word3: np.ndarray, form: BufferFormat) -> list[np.ndarray]:
        """DST_SEL of the descriptor: 0, 1, or a component."""
        zero = np.zeros_like(values[0])
        choices = [zero, np.full_like(zero, _one(form)), zero, zero, *values]
        return [np.choose(np.broadcast_to(word3 >> np.uint32(3 * i) & np.uint32(7), values[0].shape), choices)
                for i in range(4)]

    def _deliver(s: State, i: int, value: np.ndarray, wanted: np.ndarray, form: BufferFormat, offset: int) -> None:
        if to_lds:
            store_lds(s, machine, value, wanted, offset)
        elif short:
            half = shorten(s.v, value, np.bool_(form.number in ("UINT", "SINT"))).astype(np.uint16)
            s.vgpr[register + i // 2].view(np.uint16)[:, (1 if high else i % 2)::2][wanted] = half[wanted]
        else:
            s.vgpr[register + i][wanted] = value[wanted]

    def _store(s: State, form: BufferFormat, address: np.ndarray, mask: np.ndarray) -> None:
        raw = []
        for i in range(len(form.bits)):
            if i >= components:
                value = np.zeros((s.lanes, s.waves), np.uint32)
            elif short:
                half = s.vgpr[register + i // 2].view(np.uint16)[:, (1 if high else i % 2)::2].astype(np.uint32)
                value = lengthen(s.v, half, np.bool_(form.number in ("UINT", "SINT")), np.bool_(form.number == "SINT"))
            else:
                value = s.vgpr[register + i]
            raw.append(encode(s.v, np.ascontiguousarray(value), np.uint32(form.bits[i]), form.number)[mask])
        if form.packed:
            word, low = np.zeros(len(raw[0]), np.uint32), 0
            for part, width in zip(raw, form.bits, strict=True):
                word, low = word | part << np.uint32(low), low + width
            machine.accessor.store(address[mask], [word])
        else:
            kind: Any = {8: np.uint8, 16: np.uint16, 32: np.uint32}[form.bits[0]]
            machine.accessor.store(address[mask], [x.astype(kind) for x in raw])
    return step
