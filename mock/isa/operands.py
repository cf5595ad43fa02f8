"""Fetching and storing operands: an operand code, a type and modifiers become a function of the state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mock.isa.decode import Instruction, Operand
from mock.isa.encoding import LITERAL
from mock.isa.state import EXEC, NULL, State
from mock.isa.vocabulary import DTYPES

__all__ = ["Fetch", "Put", "constant", "fetch", "put"]

Fetch = Callable[[State], Any]
Put = Callable[[State, Any, Any], None]         # state, result, write mask (None: all lanes)

VGPR = 256
_FLOATS = {240: 0.5, 241: -0.5, 242: 1.0, 243: -1.0, 244: 2.0, 245: -2.0, 246: 4.0, 247: -4.0,
           248: 0.15915494309189532}            # 1 / (2 pi)
_INV_2PI = {"f16": 0x3118, "f32": 0x3e22f983, "f64": 0x3fc45f306dc9c882}
_SHARED_BASE, _SHARED_LIMIT, _PRIVATE_BASE, _PRIVATE_LIMIT = 235, 236, 237, 238
_VCCZ, _EXECZ, _SCC = 251, 252, 253


def bits_of(kind: str) -> int:
    return int(kind[1:])


def constant(code: int, kind: str, literal: int | None) -> Any:
    """The value of an inline constant or literal as an operand of type ``kind``."""
    width, dtype = bits_of(kind), DTYPES[kind]
    unsigned = DTYPES[f"u{width}"]
    if code == LITERAL:
        value = literal or 0
        if width == 64:
            value = value << 32 if kind == "f64" else value - (1 << 32) if kind == "i64" and value >> 31 else value
    elif code <= 192:
        value = code - 128
    elif code <= 208:
        value = 192 - code
    elif code in _FLOATS:
        form = {16: "f16", 32: "f32", 64: "f64"}[width]
        value = _INV_2PI[form] if code == 248 else int(DTYPES[form](_FLOATS[code]).view(DTYPES["u" + form[1:]]))
    else:
        raise ValueError(f"operand code {code} is no constant")
    return unsigned(value & (1 << width) - 1).view(dtype)


def is_constant(code: int) -> bool:
    return 128 <= code <= 208 or code in _FLOATS or code == LITERAL


def fetch(operand: Operand, kind: str, literal: int | None, *, negate: bool = False, absolute: bool = False,
          half: int = 0) -> Fetch:
    """A function of the state that gives the operand as ``kind``; ``half`` picks the 16 bits of 16-bit types."""
    read = _fetch_plain(operand, kind, literal, half)
    if not (negate or absolute) or kind[0] in "iu":
        return read
    width = bits_of(kind)
    unsigned, dtype = DTYPES[f"u{width}"], DTYPES[kind]
    sign = unsigned(1 << width - 1)
    keep = unsigned(~(1 << width - 1) & (1 << width) - 1)

    def modified(s: State) -> Any:
        bits = read(s).view(unsigned)
        if absolute:
            bits = bits & keep
        if negate:
            bits = bits ^ sign
        return bits.view(dtype)
    return modified


def _fetch_plain(operand: Operand, kind: str, literal: int | None, half: int) -> Fetch:
    code, width, dtype = operand.code, bits_of(kind), DTYPES[kind]
    if is_constant(code):
        value = constant(code, kind, literal)
        if half and width == 16:
            value = dtype(0) if code != LITERAL else DTYPES["u16"]((literal or 0) >> 16).view(dtype)
        return lambda s: value
    if code >= VGPR:
        return _fetch_vgpr(code - VGPR, kind, half)
    if code == NULL:
        zero = dtype(0)
        return lambda s: zero
    if code in (_VCCZ, _EXECZ, _SCC) or _SHARED_BASE <= code <= _PRIVATE_LIMIT:
        return _fetch_special(code, dtype, width, half)
    if code >= 128:
        raise ValueError(f"operand code {code} is reserved")
    if width == 64:
        return lambda s: s.read_sgpr64(code).view(dtype)
    if width == 32:
        if kind[0] == "f":
            return lambda s: s.sf[code]
        if kind[0] == "i":
            return lambda s: s.si[code]
        return lambda s: s.sgpr[code]
    return lambda s: s.sgpr[code].view(dtype)[half::2]


def _fetch_vgpr(register: int, kind: str, half: int) -> Fetch:
    width, dtype = bits_of(kind), DTYPES[kind]
    if width == 64:
        return lambda s: s.read_vgpr64(register).view(dtype)
    if width == 32:
        if kind[0] == "f":
            return lambda s: s.vf[register]
        if kind[0] == "i":
            return lambda s: s.vi[register]
        return lambda s: s.vgpr[register]
    return lambda s: s.vgpr[register].view(dtype)[:, half::2]


def _fetch_special(code: int, dtype: type, width: int, half: int) -> Fetch:
    """Bits that read as 0 or 1, and the apertures' bounds, as integers whatever the operand's type."""
    unsigned = DTYPES[f"u{width}"]

    def read(s: State) -> Any:
        if code == _SCC:
            return s.scc.astype(np.uint64)
        if code == _EXECZ:
            return (s.sgpr[EXEC:EXEC + s.lanes // 32] == 0).all(axis=0).astype(np.uint64)
        if code == _VCCZ:
            return (s.sgpr[106:106 + s.lanes // 32] == 0).all(axis=0).astype(np.uint64)
        base = s.per_wave["shared_base" if code in (_SHARED_BASE, _SHARED_LIMIT) else "private_base"]
        if code in (_SHARED_LIMIT, _PRIVATE_LIMIT):
            base = base | np.uint64(0xffffffff)
        return base if width == 64 else base >> np.uint64(32)
    return lambda s: (read(s) >> np.uint64(16 * half)).astype(unsigned).view(dtype)


def put(operand: Operand, kind: str, *, half: int = 0, everywhere: bool = False) -> Put:
    """A function that stores a result of type ``kind``, in active lanes (or in all of them)."""
    code, width = operand.code, bits_of(kind)
    if code < VGPR:
        return _put_sgpr(code, width)
    register = code - VGPR
    if width == 32:
        def put32(s: State, result: Any, mask: Any) -> None:
            if mask is None or everywhere:
                s.vgpr[register] = result.view(np.uint32)
            else:
                np.copyto(s.vgpr[register], result.view(np.uint32), where=mask)
        return put32
    if width == 64:
        def put64(s: State, result: Any, mask: Any) -> None:
            if np.ndim(result) < 2:
                result = np.ascontiguousarray(np.broadcast_to(result, (s.lanes, s.waves)))
            halves = np.ascontiguousarray(result).view(np.uint32)
            if halves.shape != (s.lanes, 2 * s.waves):
                halves = np.ascontiguousarray(np.broadcast_to(result, (s.lanes, s.waves))).view(np.uint32)
            if mask is None or everywhere:
                s.vgpr[register] = halves[:, 0::2]
                s.vgpr[register + 1] = halves[:, 1::2]
            else:
                np.copyto(s.vgpr[register], halves[:, 0::2], where=mask)
                np.copyto(s.vgpr[register + 1], halves[:, 1::2], where=mask)
        return put64

    def put16(s: State, result: Any, mask: Any) -> None:
        row = s.vgpr[register].view(np.uint16)[:, half::2]
        if mask is None or everywhere:
            row[...] = result.view(np.uint16)
        else:
            np.copyto(row, result.view(np.uint16), where=mask)
    return put16


def _put_sgpr(code: int, width: int) -> Put:
    if code == NULL:
        return lambda s, result, mask: None
    if code >= 128:
        raise ValueError(f"operand code {code} cannot be written")
    is_exec = code in (EXEC, EXEC + 1)
    if width == 64:
        return lambda s, result, mask: s.write_sgpr64(code, np.asarray(result))

    def put_sgpr(s: State, result: Any, mask: Any) -> None:
        s.sgpr[code] = result.view(np.uint32) if width == 32 else result
        if is_exec:
            s.refresh_exec()
    return put_sgpr


def source_index(instruction: Instruction, operand: Operand) -> int:
    """Which bit of neg, abs and op_sel belongs to the operand."""
    return {"src0": 0, "src1": 1, "vsrc1": 1, "src2": 2}.get(operand.field, 0)
