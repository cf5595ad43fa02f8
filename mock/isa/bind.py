"""Instruction + semantics entry -> a step: a function of the state that does it.

Binding decides everything that does not depend on data: which registers, types, modifiers, lanes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mock.isa import lanes
from mock.isa.decode import Instruction, Operand
from mock.isa.operands import Fetch, Put, bits_of, fetch, put, source_index
from mock.isa.semantics import Entry
from mock.isa.state import VCC, State
from mock.isa.vocabulary import DTYPES

__all__ = ["Step", "bind_entry", "bind_sources"]

Step = Callable[[State], None]
VGPR = 256


def bind_entry(instruction: Instruction, entry: Entry, wave_size: int) -> Step:
    """The step of an ALU instruction."""
    binder = _Binder(instruction, entry, wave_size)
    return binder.step()


def bind_sources(instruction: Instruction, entry: Entry, wave_size: int) -> tuple[Any, list[Fetch]]:
    """(the entry's function, what fetches its sources, modifiers applied), for who wants to look at the values."""
    binder = _Binder(instruction, entry, wave_size)
    return entry.function, binder._sources(binder._results()[1])


class _Binder:
    def __init__(self, instruction: Instruction, entry: Entry, wave_size: int) -> None:
        self.instruction, self.entry, self.wave_size = instruction, entry, wave_size
        self.explicit = list(instruction.operands)
        self.packed = any(t.startswith("p:") for t in entry.sources)
        fields = instruction.fields
        self.op_sel = fields.get("op_sel", 0)
        self.clamp = bool(fields.get("clamp", 0))
        self.omod = fields.get("omod", 0)
        self.is_vop3p = instruction.encoding == "VOP3P"
        self.op_sel_hi = fields.get("op_sel_hi", 0) | fields.get("op_sel_hi2", 0) << 2 if self.is_vop3p else 7
        self.neg_hi = fields.get("neg_hi", 0)
        self.short = instruction.encoding in ("VOP1", "VOP2", "VOPC")

    # -- results ----------------------------------------------------------------------------------------------

    def _results(self) -> tuple[list[Put], int]:
        """How to store each result, and how many operands were destinations."""
        puts: list[Put] = []
        used = 0
        operands = self.explicit
        for token in self.entry.results:
            if token == "scc":
                puts.append(_put_scc)
            elif token.startswith("exec"):
                puts.append(_put_exec_mask if token == "exec_mask" else _put_exec)
            elif token == "mask":
                operand = operands[used] if used < len(operands) else None
                code = VCC
                if operand is not None and operand.field in ("sdst", "vdst") and operand.code < VGPR:
                    code, used = operand.code, used + 1
                puts.append(_put_mask(code))
            elif token.startswith("src:"):
                puts.append(put(operands[-1], token[4:]))
            else:
                puts.append(self._put(operands[used], token))
                used += 1
        return puts, used

    def _put(self, operand: Operand, token: str) -> Put:
        if token.startswith("r"):
            return _put_registers(operand)
        if token.startswith("p:"):
            return _put_packed(operand)
        if token.startswith("all:"):
            return put(operand, token[4:], everywhere=True)
        half = 0
        if token.startswith(("lo:", "hi:")):
            half, token = int(token[:2] == "hi"), token[3:]
        elif bits_of(token) == 16:
            operand, half = self._half(operand, 3)
        store = put(operand, token, half=half)
        if token[0] == "f" and (self.clamp or self.omod):
            return _modified(store, self.omod, self.clamp)
        return store

    def _half(self, operand: Operand, bit: int) -> tuple[Operand, int]:
        """Which half of which register a 16-bit operand is: op_sel in VOP3, bit 7 of the number in short forms."""
        if self.short:
            if operand.code >= VGPR + 128:
                return Operand(operand.field, operand.code - 128, operand.width), 1
            return operand, 0
        return operand, self.op_sel >> bit & 1

    # -- sources ----------------------------------------------------------------------------------------------

    def _sources(self, start: int) -> list[Fetch]:
        fetches: list[Fetch] = []
        position = start
        operands = self.explicit
        for token in self.entry.sources:
            if token == "scc":
                fetches.append(lambda s: s.scc)
            elif token == "vcc":
                fetches.append(lambda s: s.read_mask(VCC))
            elif token in ("exec32", "exec64"):
                fetches.append(_fetch_exec(token))
            elif token in ("imm", "uimm"):
                fetches.append(_fetch_immediate(self.instruction.fields["simm16"], token))
            elif token == "mask":
                code = operands[position].code if position < len(operands) else VCC
                position += 1
                fetches.append(lambda s, code=code: s.read_mask(code))     # type: ignore[misc]
            elif token.startswith("k:"):
                fetches.append(fetch(Operand("k", 255), token[2:], self.instruction.literal))
            elif token.startswith("d:"):
                fetches.append(self._fetch(operands[0], token[2:], 3))
            else:
                operand = operands[position]
                position += 1
                fetches.append(self._fetch(operand, token, source_index(self.instruction, operand)))
        return fetches

    def _fetch(self, operand: Operand, token: str, index: int) -> Fetch:
        literal = self.instruction.literal
        dpp = operand.field == "src0" and self.instruction.dpp is not None
        if token.startswith("r"):
            # The accumulator of a WMMA spreads 256 elements over the wave's lanes.
            return _fetch_registers(operand, 256 // self.wave_size if token == "rw" else operand.width)
        negate, absolute = bool(self.instruction.neg >> index & 1), bool(self.instruction.abs >> index & 1)
        if token.startswith("p:"):
            kind = token[2:]
            pair = self._halves(operand, kind, index)
            read = lambda s: (pair[0](s), pair[1](s))
        elif token in ("2f16", "2bf16"):
            kind = "f16" if token == "2f16" else "u16"
            pair = self._halves(operand, "f16", index)
            if token == "2f16":
                read = lambda s: (pair[0](s), pair[1](s))
            else:
                read = lambda s: (pair[0](s).view(np.uint16), pair[1](s).view(np.uint16))
        elif token == "mix":
            read = self._fetch_mix(operand, index)
        else:
            half = 0
            if bits_of(token) == 16:
                operand, half = self._half(operand, index)
            if self.entry.modifiers and self.is_vop3p:
                negate = absolute = False
            read = fetch(operand, token, literal, negate=negate, absolute=absolute, half=half)
        if dpp and self.instruction.dpp is not None:
            # Sign modifiers were applied before the lanes move: the two commute.
            return lanes.moved(read, self.instruction.dpp, self.wave_size)
        return read

    def _halves(self, operand: Operand, kind: str, index: int) -> tuple[Fetch, Fetch]:
        """The two 16-bit parts that a packed instruction works on, by op_sel, op_sel_hi, neg and neg_hi."""
        if index == 3:
            return fetch(operand, kind, None, half=0), fetch(operand, kind, None, half=1)
        fields = self.instruction.fields
        neg = fields.get("neg", 0) if self.is_vop3p else self.instruction.neg
        neg_hi = self.neg_hi if self.is_vop3p else self.instruction.neg
        if self.instruction.encoding == "VOP3":     # v_dot2_f16_f16: both halves, always
            low, high = 0, 1
        elif self.is_vop3p:
            low, high = self.op_sel >> index & 1, self.op_sel_hi >> index & 1
        else:
            low, high = 0, 1
        literal = self.instruction.literal
        absolute = bool(self.instruction.abs >> index & 1) and not self.is_vop3p
        return (_fetch_half(operand, kind, literal, low, bool(neg >> index & 1), absolute),
                _fetch_half(operand, kind, literal, high, bool(neg_hi >> index & 1), absolute))

    def _fetch_mix(self, operand: Operand, index: int) -> Fetch:
        """v_fma_mix: f32, or with op_sel_hi a half, widened; neg_hi means absolute value here."""
        literal = self.instruction.literal
        negate, absolute = bool(self.instruction.neg >> index & 1), bool(self.neg_hi >> index & 1)
        if not self.op_sel_hi >> index & 1:
            return fetch(operand, "f32", literal, negate=negate, absolute=absolute)
        half = fetch(operand, "f16", literal, negate=negate, absolute=absolute, half=self.op_sel >> index & 1)
        return lambda s: s.v.to_float(half(s), "f32")

    # -- the step ---------------------------------------------------------------------------------------------

    def step(self) -> Step:
        entry = self.entry
        puts, used = self._results()
        fetches = self._sources(used)
        function = entry.function
        integer_clamp = self.clamp and not any(t.rpartition(":")[2][0] == "f" for t in entry.results)
        if integer_clamp and entry.saturating is not None:
            function = entry.saturating
        if entry.modifiers:
            function = self._with_modifiers(function)
        if self.packed:
            return self._packed_step(function, fetches, puts[0])
        dpp = self.instruction.dpp
        if dpp is not None:
            masks = any(token in ("mask", "exec_mask") for token in self.entry.results)
            return _dpp_step(function, fetches, puts, lanes.enabled(dpp, self.wave_size), masks)
        if len(puts) == 1:
            return _single(function, fetches, puts[0])
        if not puts:
            return lambda s: None

        def several(s: State) -> None:
            results = function(s.v, *[f(s) for f in fetches])
            results = [np.array(r) for r in results]
            mask = s.mask
            for store, result in zip(puts, results, strict=True):
                store(s, result, mask)
        return several

    def _with_modifiers(self, function: Any) -> Any:
        if self.is_vop3p:
            neg = self.instruction.fields["neg"]
            extra = {"neg": neg}
            if "wmma" in self.instruction.mnemonic:
                extra = {"neg": neg, "neg_hi": self.neg_hi, "op_sel": self.op_sel, "clamp": int(self.clamp)}
        else:
            extra = {"op_sel": self.op_sel}
        return lambda v, *sources: function(v, *sources, **extra)

    def _packed_step(self, function: Any, fetches: list[Fetch], store: Put) -> Step:
        clamp = self.clamp and self.entry.results[0] == "p:f16"
        dpp = self.instruction.dpp
        enabled = lanes.enabled(dpp, self.wave_size) if dpp is not None else None

        def step(s: State) -> None:
            sources = [f(s) for f in fetches]
            low = function(s.v, *[x[0] for x in sources])
            high = function(s.v, *[x[1] for x in sources])
            if clamp:
                low, high = s.v.clamp_unit(low), s.v.clamp_unit(high)
            store(s, (low, high), s.mask if enabled is None else enabled(s))
        return step


def _single(function: Any, fetches: list[Fetch], store: Put) -> Step:
    """The common case, without loops for the common operand counts."""
    if len(fetches) == 1:
        a, = fetches
        return lambda s: store(s, function(s.v, a(s)), s.mask)
    if len(fetches) == 2:
        a, b = fetches
        return lambda s: store(s, function(s.v, a(s), b(s)), s.mask)
    if len(fetches) == 3:
        a, b, c = fetches
        return lambda s: store(s, function(s.v, a(s), b(s), c(s)), s.mask)
    return lambda s: store(s, function(s.v, *[f(s) for f in fetches]), s.mask)


def _dpp_step(function: Any, fetches: list[Fetch], puts: list[Put], enabled: Any, masks: bool) -> Step:
    def step(s: State) -> None:
        results = function(s.v, *[f(s) for f in fetches])
        if len(puts) == 1:
            results = (results,)
        mask = enabled(s)
        if mask is None:
            mask = s.mask
        saved = s.mask
        s.mask = mask
        try:
            for store, result in zip(puts, results, strict=True):
                store(s, np.array(result), mask)
        finally:
            s.mask = saved
        if masks:           # one of them may be EXEC
            s.refresh_exec()
    return step


# -- stores of implicit results -------------------------------------------------------------------------------

def _put_scc(s: State, result: Any, mask: Any) -> None:
    s.scc = result


def _put_exec(s: State, result: Any, mask: Any) -> None:
    if result.dtype.itemsize == 8:
        s.write_sgpr64(126, result)
    else:
        s.sgpr[126] = result
        s.refresh_exec()


def _put_exec_mask(s: State, result: Any, mask: Any) -> None:
    s.write_mask(126, result)


def _put_mask(code: int) -> Put:
    return lambda s, result, mask: s.write_mask(code, result)


def _put_packed(operand: Operand) -> Put:
    low, high = put(operand, "u16", half=0), put(operand, "u16", half=1)

    def store(s: State, result: Any, mask: Any) -> None:
        first, second = (np.array(r) for r in result)
        low(s, first, mask)
        high(s, second, mask)
    return store


def _put_registers(operand: Operand) -> Put:
    register = operand.code - VGPR

    def store(s: State, result: Any, mask: Any) -> None:
        for i, part in enumerate(result):
            if mask is None:
                s.vgpr[register + i] = part
            else:
                np.copyto(s.vgpr[register + i], part, where=mask)
    return store


def _modified(store: Put, omod: int, clamp: bool) -> Put:
    return lambda s, result, mask: store(s, s.v.output(result, omod, clamp), mask)


# -- fetches of implicit and wide sources ---------------------------------------------------------------------

def _fetch_exec(token: str) -> Fetch:
    if token == "exec64":
        return lambda s: s.read_sgpr64(126)
    return lambda s: s.sgpr[126].copy()


def _fetch_immediate(value: int, token: str) -> Fetch:
    signed = value - 0x10000 if value & 0x8000 and token == "imm" else value
    number = np.int32(signed) if token == "imm" else np.uint32(value)
    return lambda s: number


def _fetch_registers(operand: Operand, width: int) -> Fetch:
    if operand.code < VGPR:
        single = fetch(operand, "u32", None)
        return lambda s: [np.broadcast_to(single(s), (s.lanes, s.waves))] * width
    register = operand.code - VGPR
    return lambda s: s.vgpr[register:register + width]


def _fetch_half(operand: Operand, kind: str, literal: int | None, half: int, negate: bool, absolute: bool) -> Fetch:
    if kind in DTYPES and 128 <= operand.code <= 208 and kind[0] in "iu":
        # Integer inline constants are 32 bits wide: both halves are there.
        value = fetch(operand, "u32", literal)(None)        # type: ignore[arg-type]
        part = np.uint16(int(value) >> 16 * half & 0xffff).view(DTYPES[kind])
        return lambda s: part
    return fetch(operand, kind, literal, half=half, negate=negate, absolute=absolute)
