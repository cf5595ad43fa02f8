"""The registers of one wave while it runs.

State in memory (see :class:`Layout`): 128 SGPRs, SCC, the resume point, MODE, then the VGPRs, lanes contiguous. Within
a basic block the values at hand are remembered here, and those written are stored at its end: into the state itself
in code that has to be made quickly, or into stack slots that LLVM promotes to registers of the host (``promote``;
without ``vectors`` only SGPRs, EXEC and SCC, where the host has too few registers for the others).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from llvmlite import ir

from mock.isa.decode import Operand
from mock.isa.jit.values import I1, I32, I64, Scalar, Unsupported, Value, Words, ir_type, width
from mock.isa.operands import constant, is_constant
from mock.isa.state import EXEC, NULL, VCC
from mock.isa.vocabulary import DTYPES

__all__ = ["Layout", "Registers"]

VGPR = 256
_VCCZ, _EXECZ, _SCC = 251, 252, 253


class Layout:
    """Dword positions in a wave's state."""

    SCC, RESUME, MODE, STATUS = 128, 129, 130, 131
    HW_STATUS, TRAPSTS = 132, 133       # what hardware registers hold beside flags kept elsewhere
    VGPRS = 144         # a multiple of 16: vector loads stay aligned

    @staticmethod
    def dwords(vgprs: int, lanes: int) -> int:
        return Layout.VGPRS + vgprs * lanes


class Registers:
    """``state`` is the pointer to the wave's state; stack slots are made in the function's entry block."""

    def __init__(self, builder: ir.IRBuilder, state: ir.Value, lanes: int, chunk: int, vgprs: int,
                 promote: bool, vectors: bool = True) -> None:
        self.b, self.state, self.lanes, self.chunk, self.vgprs = builder, state, lanes, min(chunk, lanes), vgprs
        self.promote, self.promote_vectors = promote, promote and vectors
        self.inline = promote       # transfers are written out, see :mod:`mock.isa.jit.transfers`
        self.chunks = lanes // self.chunk
        self.mask_type = ir.IntType(lanes)
        self.vector = ir.VectorType(I32, self.chunk)
        self._sgpr: dict[int, ir.Value] = {}
        self._vgpr: dict[int, list[ir.Value]] = {}
        if promote:
            self._scc_slot, self._exec_slot = self._slot(I1), self._slot(self.mask_type)
        self.full = False           # EXEC is known to be all ones here
        self.words: Words = None    # type: ignore[assignment]
        self.field: Callable[[str], ir.Value] = None    # type: ignore[assignment]
        """Reads a 64-bit field of the context."""
        self._scalars: dict[int, ir.Value] = {}             # what is known in this block
        self._vectors: dict[int, list[ir.Value]] = {}
        self._scc: ir.Value | None = None
        self._exec: ir.Value | None = None
        self._active: Value | None = None
        self._dirty: set[tuple[str, int]] = set()
        self.read: set[int] = set()         # VGPRs whose place was read since the segment began
        self.overwriting: Callable[[], None] = lambda: None
        """Called before the place of a register in ``read`` is written, other than by :meth:`flush`."""

    def _slot(self, kind: ir.Type) -> ir.Value:
        with self.b.goto_entry_block():
            return self.b.alloca(kind)

    def _at(self, dword: int) -> ir.Value:
        return self.b.gep(self.state, [ir.Constant(I32, dword)], source_etype=I32)

    # ---- within a block

    def fresh(self) -> None:
        """A block begins: nothing is known."""
        self._scalars, self._vectors, self._dirty = {}, {}, set()
        self._scc = self._exec = self._active = None

    def keep(self) -> tuple[Any, ...]:
        """What is known here, for :meth:`back` after code elsewhere was written."""
        return (self._scalars, self._vectors, self._dirty, self._scc, self._exec, self._active, self.full)

    def back(self, kept: tuple[Any, ...]) -> None:
        (self._scalars, self._vectors, self._dirty, self._scc, self._exec, self._active, self.full) = kept

    def flush(self) -> None:
        """Store what was written: the block ends, or somebody reads the state."""
        for kind, code in sorted(self._dirty):
            if kind == "s":
                self.b.store(self._scalars[code], self._sgpr_slot(code))
            elif kind == "v":
                self._store_vector(code)
            elif kind == "scc":
                self._store_scc()
            else:
                self._store_exec()
        self._dirty.clear()

    def _store_vector(self, register: int) -> None:
        for part, slot in zip(self._vectors[register], self._vgpr_slots(register), strict=True):
            self.b.store(part, slot, align=4 * self.chunk)

    def _store_scc(self) -> None:
        assert self._scc is not None
        if self.promote:
            self.b.store(self._scc, self._scc_slot)
        else:
            self.b.store(self.b.zext(self._scc, I32), self._at(Layout.SCC))

    def _store_exec(self) -> None:
        assert self._exec is not None
        if self.promote:
            self.b.store(self._exec, self._exec_slot)
        else:
            self.b.store(self._exec, self._at(EXEC), align=4)

    def vgpr_pointer(self, register: int, count: int, *, written: bool) -> ir.Value:
        """Where registers lie in the state, rows of lanes, up to date; ``written``: known no more."""
        registers = range(register, register + count)
        if any(r in self.read and (written or ("v", r) in self._dirty) for r in registers):
            self.overwriting()
        self.read.update(r for r in registers if not written and ("v", r) not in self._dirty)
        for r in registers:
            self._vgpr_slots(r)
            if ("v", r) in self._dirty:
                self._store_vector(r)
                self._dirty.discard(("v", r))
            if written:
                self._vectors.pop(r, None)
        return self._at(Layout.VGPRS + register * self.lanes)

    # ---- registers that are chosen at run time: the state has all of them, and has what is written there

    def spill_vectors(self) -> None:
        """Every VGPR is up to date in the state."""
        self.flush()
        if self.promote_vectors:
            for register in range(self.vgprs):
                for i, slot in enumerate(self._vgpr_slots(register)):
                    self.b.store(self.b.load(slot, typ=self.vector), self._row(register, i), align=4 * self.chunk)

    def reload_vectors(self) -> None:
        """The state's VGPRs are the ones that count."""
        self._vectors = {}
        if self.promote_vectors:
            for register in range(self.vgprs):
                for i, slot in enumerate(self._vgpr_slots(register)):
                    self.b.store(self.b.load(self._row(register, i), typ=self.vector, align=4 * self.chunk), slot)

    def _row(self, register: int, chunk: int) -> ir.Value:
        return self._at(Layout.VGPRS + register * self.lanes + chunk * self.chunk)

    def spill_scalars(self, codes: Iterable[int]) -> None:
        """These SGPRs are up to date in the state."""
        self.flush()
        if self.promote:
            for code in codes:
                self.b.store(self.b.load(self._sgpr_slot(code), typ=I32), self._at(code))

    def reload_scalars(self, codes: Iterable[int]) -> None:
        """The state's SGPRs are the ones that count."""
        for code in codes:
            self._scalars.pop(code, None)
            if self.promote:
                self.b.store(self.b.load(self._at(code), typ=I32), self._sgpr_slot(code))

    # ---- between stack slots and memory

    def load_all(self, sgprs: set[int], vgprs: set[int]) -> None:
        """Fill the slots of these registers, EXEC and SCC from the state."""
        if not self.promote:
            return
        scc = self.b.load(self._at(Layout.SCC), typ=I32)
        self.b.store(self.b.icmp_unsigned("!=", scc, ir.Constant(I32, 0)), self._scc_slot)
        self.b.store(self.b.load(self._at(EXEC), typ=self.mask_type, align=4), self._exec_slot)
        for code in sorted(sgprs):
            self.b.store(self.b.load(self._at(code), typ=I32), self._sgpr_slot(code))
        for register in sorted(vgprs):
            for i, slot in enumerate(self._vgpr_slots(register)):
                place = self._at(Layout.VGPRS + register * self.lanes + i * self.chunk)
                self.b.store(self.b.load(place, typ=self.vector, align=4 * self.chunk), slot)

    def store_all(self, sgprs: set[int], vgprs: set[int]) -> None:
        if not self.promote:
            return
        self.b.store(self.b.zext(self.b.load(self._scc_slot, typ=I1), I32), self._at(Layout.SCC))
        self.b.store(self.b.load(self._exec_slot, typ=self.mask_type), self._at(EXEC), align=4)
        for code in sorted(sgprs):
            self.b.store(self.b.load(self._sgpr_slot(code), typ=I32), self._at(code))
        for register in sorted(vgprs):
            for i, slot in enumerate(self._vgpr_slots(register)):
                place = self._at(Layout.VGPRS + register * self.lanes + i * self.chunk)
                self.b.store(self.b.load(slot, typ=self.vector), place, align=4 * self.chunk)

    def _sgpr_slot(self, code: int) -> ir.Value:
        if not self.promote:
            return self._at(code)
        if code not in self._sgpr:
            self._sgpr[code] = self._slot(I32)
        return self._sgpr[code]

    def _vgpr_slots(self, register: int) -> list[ir.Value]:
        if register >= self.vgprs:
            raise Unsupported(f"v{register} is beyond the wave's registers")
        if not self.promote_vectors:
            first = Layout.VGPRS + register * self.lanes
            return [self._at(first + i * self.chunk) for i in range(self.chunks)]
        if register not in self._vgpr:
            self._vgpr[register] = [self._slot(self.vector) for _ in range(self.chunks)]
        return self._vgpr[register]

    @property
    def used_sgprs(self) -> set[int]:
        return set(self._sgpr)

    @property
    def used_vgprs(self) -> set[int]:
        return set(self._vgpr)

    # ---- EXEC, SCC and masks

    def exec_bits(self) -> ir.Value:
        if self.full:
            return ir.Constant(self.mask_type, (1 << self.lanes) - 1)
        if self._exec is None:
            place, align = (self._exec_slot, None) if self.promote else (self._at(EXEC), 4)
            self._exec = self.b.load(place, typ=self.mask_type, align=align)
        return self._exec

    def active(self) -> Value:
        if self.full:
            return self.words.number("mask", 1, scalar=False)
        if self._active is None:
            self._active = self.words.unpack(self.exec_bits())
        return self._active

    def set_exec(self, bits: ir.Value) -> None:
        """An IR integer of ``lanes`` bits."""
        self._exec, self._active = bits, None
        self._dirty.add(("x", 0))
        self.full = False

    def read_scc(self) -> ir.Value:
        if self._scc is None:
            if self.promote:
                self._scc = self.b.load(self._scc_slot, typ=I1)
            else:
                whole = self.b.load(self._at(Layout.SCC), typ=I32)
                self._scc = self.b.icmp_unsigned("!=", whole, ir.Constant(I32, 0))
        return self._scc

    def write_scc(self, bit: ir.Value) -> None:
        self._scc = bit
        self._dirty.add(("scc", 0))

    def read_sgpr(self, code: int) -> ir.Value:
        if code == NULL:
            return ir.Constant(I32, 0)
        if code == EXEC:
            bits = self.exec_bits()
            return self.b.trunc(bits, I32) if self.lanes == 64 else bits
        if code == EXEC + 1 and self.lanes == 64:
            return self.b.trunc(self.b.lshr(self.exec_bits(), ir.Constant(I64, 32)), I32)
        if code not in self._scalars:
            self._scalars[code] = self.b.load(self._sgpr_slot(code), typ=I32)
        return self._scalars[code]

    def write_sgpr(self, code: int, value: ir.Value) -> None:
        if code == NULL:
            return
        if code == EXEC:
            if self.lanes == 64:
                kept = self.b.and_(self.exec_bits(), ir.Constant(I64, 0xffffffff << 32))
                value = self.b.or_(kept, self.b.zext(value, I64))
            self.set_exec(value)
        elif code == EXEC + 1 and self.lanes == 64:
            kept = self.b.and_(self.exec_bits(), ir.Constant(I64, 0xffffffff))
            self.set_exec(self.b.or_(kept, self.b.shl(self.b.zext(value, I64), ir.Constant(I64, 32))))
        else:
            self._scalars[code] = value
            self._dirty.add(("s", code))

    def read_sgpr64(self, code: int) -> ir.Value:
        if code == NULL:
            return ir.Constant(I64, 0)
        if code == EXEC and self.lanes == 64:
            return self.exec_bits()
        low, high = self.b.zext(self.read_sgpr(code), I64), self.b.zext(self.read_sgpr(code + 1), I64)
        return self.b.or_(low, self.b.shl(high, ir.Constant(I64, 32)))

    def write_sgpr64(self, code: int, value: ir.Value) -> None:
        if code == EXEC and self.lanes == 64:
            self.set_exec(value)
            return
        self.write_sgpr(code, self.b.trunc(value, I32))
        if code != NULL:
            self.write_sgpr(code + 1, self.b.trunc(self.b.lshr(value, ir.Constant(I64, 32)), I32))

    def mask_bits(self, code: int) -> ir.Value:
        """A lane mask in SGPRs as an integer of ``lanes`` bits."""
        if code == EXEC:
            return self.exec_bits()
        return self.read_sgpr64(code) if self.lanes == 64 else self.read_sgpr(code)

    def read_mask(self, code: int) -> Value:
        return self.words.unpack(self.mask_bits(code))

    def write_mask(self, code: int, mask: Value, active: Value) -> None:
        bits = self.words.pack(self.words.and_(self.words.splat(mask), active))
        if code == EXEC:
            self.set_exec(bits)
        elif self.lanes == 64:
            self.write_sgpr64(code, bits)
        else:
            self.write_sgpr(code, bits)

    # ---- vector registers

    def _vector(self, register: int) -> list[ir.Value]:
        if register not in self._vectors:
            self._vectors[register] = [self.b.load(slot, typ=self.vector, align=4 * self.chunk)
                                       for slot in self._vgpr_slots(register)]
            self.read.add(register)
        return self._vectors[register]

    def vgpr(self, register: int) -> Value:
        return Value("u32", self._vector(register), False)

    def set_vgpr(self, register: int, value: Value, active: Value | None) -> None:
        """``active`` None: in all lanes."""
        if register >= self.vgprs:
            raise Unsupported(f"v{register} is beyond the wave's registers")
        value = self.words.splat(self.words.bits(value, "u32"))
        parts = value.parts
        if active is not None:
            parts = [self.b.select(a, new, old)
                     for a, new, old in zip(active.parts, parts, self._vector(register), strict=True)]
            if active is self._active:
                self.words.merged[id(parts[0])] = parts[0]
        self._vgpr_slots(register)
        self._vectors[register] = list(parts)
        self._dirty.add(("v", register))

    def write_mask_of(self) -> Value | None:
        """What limits a vector write here: EXEC, or nothing while it is known to be full."""
        return None if self.full else self.active()

    # ---- operands

    def fetch(self, operand: Operand, kind: str, literal: int | None, *, negate: bool = False, absolute: bool = False,
              half: int = 0) -> Value:
        value = self._plain(operand, kind, literal, half)
        if kind[0] in "iu":
            return value
        w = self.words
        if kind == "f16":       # see Words.bits
            value = w.splat(value)
        if negate or absolute:
            raw, top = w.bits(value, "u" + kind[1:]), 1 << width(kind) - 1
            if absolute:
                raw = w.and_(raw, top - 1)
            if negate:
                raw = w.xor(raw, top)
            value = w.bits(raw, kind)
        return value

    def _constant(self, number: Any, kind: str) -> Value:
        bits = int(np.asarray(number).view(f"u{width(kind) // 8}"))
        if kind[0] != "f":
            return self.words.number(kind, bits)
        value = float(number)
        if np.isnan(value):
            return Scalar(kind, self.b.bitcast(ir.Constant(ir.IntType(width(kind)), bits), ir_type(kind)))
        return self.words.number(kind, value)

    def _plain(self, operand: Operand, kind: str, literal: int | None, half: int) -> Value:
        code, bits, w = operand.code, width(kind), self.words
        if is_constant(code):
            number = constant(code, kind, literal)
            if half and bits == 16:
                number = np.uint16((literal or 0) >> 16 if code == 255 else 0).view(DTYPES[kind])
            return self._constant(number, kind)
        if code >= VGPR:
            register = code - VGPR
            if bits == 64:
                return w.bits(w.join(self.vgpr(register), self.vgpr(register + 1)), kind)
            whole = self.vgpr(register)
        elif code in (_VCCZ, _EXECZ, _SCC) or 235 <= code <= 238:
            return self._special(code, kind, half)
        elif code >= 128:
            raise Unsupported(f"operand code {code}")
        elif bits == 64:
            return w.bits(Scalar("u64", self.read_sgpr64(code)), kind)
        else:
            whole = Scalar("u32", self.read_sgpr(code))
        if bits == 32:
            return w.bits(whole, kind)
        return w.bits(w.cast(w.shr(whole, 16) if half else whole, "u16"), kind)

    def _special(self, code: int, kind: str, half: int) -> Value:
        """Bits that read as 0 or 1, and the apertures' bounds, as integers whatever the operand's type."""
        if code == _SCC:
            bit = self.read_scc()
        elif code == _EXECZ:
            bit = self.b.icmp_unsigned("==", self.exec_bits(), ir.Constant(self.mask_type, 0))
        elif code == _VCCZ:
            bit = self.b.icmp_unsigned("==", self.mask_bits(VCC), ir.Constant(self.mask_type, 0))
        else:
            return self._aperture(code, kind, half)
        unsigned = "u" + kind[1:]
        whole = self.words.number(unsigned, 0) if half else self.words.cast(Scalar("mask", bit), unsigned)
        return self.words.bits(whole, kind)

    def _aperture(self, code: int, kind: str, half: int) -> Value:
        """SHARED_BASE, SHARED_LIMIT, PRIVATE_BASE, PRIVATE_LIMIT: the context has the bases' upper halves."""
        w = self.words
        high = Scalar("u64", self.field("shared_high" if code in (235, 236) else "private_high"))
        if width(kind) < 64:
            return w.bits(w.cast(w.shr(high, 16 * half), f"u{width(kind)}"), kind)
        low = 0xffffffff if code in (236, 238) else 0
        return w.bits(w.or_(w.shl(high, 32), low), kind)

    def put(self, operand: Operand, kind: str, value: Value, active: Value | None, *, half: int = 0) -> None:
        """Store a result of type ``kind``; ``active`` limits vector writes."""
        code, bits, w = operand.code, width(kind), self.words
        if code < VGPR:
            if not value.scalar:
                raise Unsupported("vector result in a scalar register")
            raw = w.bits(value, "u" + kind[1:])
            if bits == 64:
                self.write_sgpr64(code, raw.parts[0])
            else:
                self.write_sgpr(code, w.cast(raw, "u32").parts[0])
            return
        register = code - VGPR
        if bits == 64:
            raw = w.splat(w.bits(value, "u64"))
            self.set_vgpr(register, w.low(raw), active)
            self.set_vgpr(register + 1, w.high(raw), active)
        elif bits == 32:
            self.set_vgpr(register, value, active)
        else:
            raw = w.splat(w.cast(w.bits(value, "u16"), "u32"))
            old = self.vgpr(register)
            merged = w.or_(w.and_(old, 0xffff), w.shl(raw, 16)) if half else w.or_(w.and_(old, 0xffff0000), raw)
            self.set_vgpr(register, merged, active)
