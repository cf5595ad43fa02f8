"""ALU instructions: operands by the entry's signature, the entry's function over :class:`Words`, results back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mock.isa.decode import Instruction, Operand
from mock.isa.jit import library
from mock.isa.jit.dpp import Moves
from mock.isa.jit.registers import VGPR, Registers
from mock.isa.jit.values import Scalar, Unsupported, Value, Words
from mock.isa.operands import bits_of, source_index
from mock.isa.semantics import Entry
from mock.isa.state import EXEC, VCC

__all__ = ["Alu"]

INLINE, INLINE_OPTIMISED = 4, 60
"""LLVM instructions a chunk up to which an entry is written out in code made quickly, and in optimised code."""
Commit = Callable[[Any], None]


class Alu:
    """One instruction: :meth:`compute` reads and evaluates, :meth:`commit` writes (so that VOPD pairs read first)."""

    def __init__(self, instruction: Instruction, entry: Entry, registers: Registers, words: Words,
                 shared: dict[str, None], optimise: bool) -> None:
        self.instruction, self.entry, self.r, self.w = instruction, entry, registers, words
        self.shared, self.limit = shared, INLINE_OPTIMISED if optimise else INLINE
        fields = instruction.fields
        self.op_sel = fields.get("op_sel", 0)
        self.clamp, self.omod = bool(fields.get("clamp", 0)), fields.get("omod", 0)
        self.is_vop3p = instruction.encoding == "VOP3P"
        self.op_sel_hi = fields.get("op_sel_hi", 0) | fields.get("op_sel_hi2", 0) << 2 if self.is_vop3p else 7
        self.neg_hi = fields.get("neg_hi", 0)
        self.short = instruction.encoding in ("VOP1", "VOP2", "VOPC")
        self.active: Value | None = None
        self.moves: Moves | None = None
        self._results: tuple[Any, ...] = ()
        self._commits: list[Commit] = []

    def run(self) -> None:
        self.compute()
        self.commit()

    def compute(self) -> None:
        entry, w = self.entry, self.w
        dpp = self.instruction.dpp
        self.moves = Moves(dpp, self.r, self.w) if dpp is not None else None
        self.active = self.moves.enabled() if self.moves is not None else self.r.write_mask_of()
        used = self._bind_results()
        sources = self._sources(used)
        function: Callable[..., Any] = entry.function
        floats = any(t.rpartition(":")[2][0] == "f" for t in entry.results)
        saturating = bool(self.clamp and not floats and entry.saturating is not None)
        if saturating:
            assert entry.saturating is not None
            function = entry.saturating
        if any(t.startswith("p:") for t in entry.sources):
            low = self._apply(function, saturating, [s[0] for s in sources])
            high = self._apply(function, saturating, [s[1] for s in sources])
            if self.clamp and entry.results[0] == "p:f16":
                low, high = w.clamp_unit(low), w.clamp_unit(high)
            self._results = ((low, high),)
            return
        results = self._apply(function, saturating, sources)
        self._results = results if len(self._commits) != 1 else (results,)
        if len(self._results) != len(self._commits):
            raise Unsupported("number of results")

    def _apply(self, function: Callable[..., Any], saturating: bool, sources: list[Any]) -> Any:
        """The entry's function on the sources: written out here where it is short, else called from the library."""
        flat = [v for s in sources for v in (s if isinstance(s, tuple) else (s,))]
        extra = {}
        if self.entry.modifiers:        # "neg" of the dot products, "op_sel" of v_permlane
            extra = {"neg": self.instruction.fields["neg"]} if self.is_vop3p else {"op_sel": self.op_sel}
        if all(v.scalar for v in flat):
            return function(self.w, *sources, **extra)
        shapes = tuple(tuple((h.kind, h.scalar) for h in s) if isinstance(s, tuple) else ((s.kind, s.scalar),)
                       for s in sources)
        key = (self.instruction.mnemonic, saturating, self.w.lanes, self.w.chunk, self.w.mode.value,
               tuple(isinstance(s, tuple) for s in sources), shapes, tuple(extra.items()))
        if self.w.pending is not None and library.light(*key, self.limit):
            return function(self.w, *sources, **extra)
        found = library.find(*key)
        if found is None or found.weight <= self.limit:
            return function(self.w, *sources, **extra)
        self.shared[found.name] = None
        return found.call(self.w.b, flat)

    def commit(self) -> None:
        for commit, result in zip(self._commits, self._results, strict=True):
            commit(result)

    # ---- results

    def _bind_results(self) -> int:
        operands, used = self.instruction.operands, 0
        for token in self.entry.results:
            if token == "scc":
                self._commits.append(self._put_scc)
            elif token == "exec_mask":
                self._commits.append(lambda v: self._put_mask(EXEC, v))
            elif token.startswith("exec"):
                self._commits.append(self._put_exec)
            elif token == "mask":
                operand = operands[used] if used < len(operands) else None
                code = VCC
                if operand is not None and operand.field in ("sdst", "vdst") and operand.code < VGPR:
                    code, used = operand.code, used + 1
                self._commits.append(lambda v, code=code: self._put_mask(code, v))   # type: ignore[misc]
            elif token.startswith("src:"):
                self._commits.append(self._putter(operands[-1], token[4:], 0))
            else:
                self._commits.append(self._bind_put(operands[used], token))
                used += 1
        return used

    def _bind_put(self, operand: Operand, token: str) -> Commit:
        if token.startswith("p:"):
            def packed(pair: tuple[Value, Value]) -> None:
                w = self.w
                low, high = (w.splat(w.cast(w.bits(x, "u16"), "u32")) for x in pair)
                self.r.put(operand, "u32", w.or_(low, w.shl(high, 16)), self.active)
            return packed
        if token[0] == "r":
            return lambda values: self._put_range(operand, values)
        if token.startswith("all:"):
            return lambda v: self.r.put(operand, token[4:], v, None)
        half = 0
        if token.startswith(("lo:", "hi:")):
            half, token = int(token[:2] == "hi"), token[3:]
        elif bits_of(token) == 16:
            operand, half = self._half(operand, 3)
        return self._putter(operand, token, half)

    def _putter(self, operand: Operand, token: str, half: int) -> Commit:
        def store(value: Value) -> None:
            if token[0] == "f" and (self.clamp or self.omod):
                value = self.w.output(value, self.omod, self.clamp)
            self.r.put(operand, token, value, self.active, half=half)
        return store

    def _put_range(self, operand: Operand, values: tuple[Value, ...]) -> None:
        for i, value in enumerate(values):
            self.r.set_vgpr(operand.code - VGPR + i, value, self.active)

    def _put_scc(self, value: Value) -> None:
        self.r.write_scc(value.parts[0])

    def _put_exec(self, value: Value) -> None:
        if value.dtype.itemsize == 8 and self.r.lanes == 64:
            self.r.set_exec(value.parts[0])
        elif value.dtype.itemsize == 8:
            w = self.w
            self.r.write_sgpr(EXEC, w.low(value).parts[0])
            self.r.write_sgpr(EXEC + 1, w.high(value).parts[0])
        else:
            self.r.write_sgpr(EXEC, value.parts[0])

    def _put_mask(self, code: int, value: Value) -> None:
        self.r.write_mask(code, value, self.active if self.active is not None else self.r.active())

    def _half(self, operand: Operand, bit: int) -> tuple[Operand, int]:
        if self.short:
            if operand.code >= VGPR + 128:
                return Operand(operand.field, operand.code - 128, operand.width), 1
            return operand, 0
        return operand, self.op_sel >> bit & 1

    # ---- sources

    def _sources(self, position: int) -> list[Any]:
        operands, found = self.instruction.operands, list[Any]()
        for token in self.entry.sources:
            if token == "scc":
                found.append(Scalar("mask", self.r.read_scc()))
            elif token == "vcc":
                found.append(self.r.read_mask(VCC))
            elif token in ("exec32", "exec64"):
                kind = "u" + token[4:]
                found.append(self.r.fetch(Operand("exec", EXEC, 2), kind, None))
            elif token in ("imm", "uimm"):
                value = self.instruction.fields["simm16"]
                signed = value - 0x10000 if value & 0x8000 and token == "imm" else value
                found.append(self.w.number("i32" if token == "imm" else "u32", signed))
            elif token == "mask":
                code = operands[position].code if position < len(operands) else VCC
                position += 1
                found.append(self.r.read_mask(code))
            elif token.startswith("k:"):
                found.append(self.r.fetch(Operand("k", 255), token[2:], self.instruction.literal))
            elif token.startswith("d:"):
                found.append(self._source(operands[0], token[2:], 3))
            else:
                operand = operands[position]
                position += 1
                found.append(self._source(operand, token, source_index(self.instruction, operand)))
        return found

    def _source(self, operand: Operand, token: str, index: int) -> Any:
        literal = self.instruction.literal
        negate, absolute = bool(self.instruction.neg >> index & 1), bool(self.instruction.abs >> index & 1)
        value: Any
        if token.startswith("p:"):
            value = self._halves(operand, token[2:], index)
        elif token in ("2f16", "2bf16"):
            value = self._halves(operand, "f16", index)
            if token == "2bf16":
                value = tuple(self.w.bits(x, "u16") for x in value)
        elif token == "mix":
            value = self._mix(operand, index)
        elif token[0] == "r":
            value = self._range(operand)
        elif not (token[0] in "iufb" and token[1:].isdigit()):
            raise Unsupported(f"operand of type {token}")
        else:
            half = 0
            if bits_of(token) == 16:
                operand, half = self._half(operand, index)
            value = self.r.fetch(operand, token, literal, negate=negate, absolute=absolute, half=half)
        if operand.field == "src0" and self.moves is not None:
            return tuple(map(self.moves.moved, value)) if isinstance(value, tuple) else self.moves.moved(value)
        return value

    def _range(self, operand: Operand) -> tuple[Value, ...]:
        if operand.code >= VGPR:
            return tuple(self.r.vgpr(operand.code - VGPR + i) for i in range(operand.width))
        return (self.r.fetch(operand, "u32", None),) * operand.width

    def _halves(self, operand: Operand, kind: str, index: int) -> tuple[Value, Value]:
        if index == 3:
            return self.r.fetch(operand, kind, None, half=0), self.r.fetch(operand, kind, None, half=1)
        fields = self.instruction.fields
        neg = fields.get("neg", 0) if self.is_vop3p else self.instruction.neg
        neg_hi = self.neg_hi if self.is_vop3p else self.instruction.neg
        low, high = 0, 1
        if self.is_vop3p:
            low, high = self.op_sel >> index & 1, self.op_sel_hi >> index & 1
        absolute = bool(self.instruction.abs >> index & 1) and not self.is_vop3p
        return (self._one_half(operand, kind, low, bool(neg >> index & 1), absolute),
                self._one_half(operand, kind, high, bool(neg_hi >> index & 1), absolute))

    def _one_half(self, operand: Operand, kind: str, half: int, negate: bool, absolute: bool) -> Value:
        literal = self.instruction.literal
        if 128 <= operand.code <= 208 and kind[0] in "iu":
            number = operand.code - 128 if operand.code <= 192 else 192 - operand.code
            return self.w.number(kind, (number & 0xffffffff) >> 16 * half & 0xffff)
        return self.r.fetch(operand, kind, literal, half=half, negate=negate, absolute=absolute)

    def _mix(self, operand: Operand, index: int) -> Value:
        literal = self.instruction.literal
        negate, absolute = bool(self.instruction.neg >> index & 1), bool(self.neg_hi >> index & 1)
        if not self.op_sel_hi >> index & 1:
            return self.r.fetch(operand, "f32", literal, negate=negate, absolute=absolute)
        return self.w.to_float(self.r.fetch(operand, "f16", literal, negate=negate, absolute=absolute,
                                            half=self.op_sel >> index & 1), "f32")
