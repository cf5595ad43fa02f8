"""Data-parallel primitives: an operand from other lanes, and the lanes that such an instruction writes."""

from __future__ import annotations

from llvmlite import ir

from mock.isa import lanes
from mock.isa.decode import Dpp
from mock.isa.jit.registers import Registers
from mock.isa.jit.values import I1, Value, Words

__all__ = ["Moves"]


class Moves:
    """See :func:`mock.isa.lanes.moved` and :func:`mock.isa.lanes.enabled`."""

    def __init__(self, dpp: Dpp, registers: Registers, words: Words) -> None:
        self.dpp, self.r, self.w = dpp, registers, words
        self.sources = [int(x) for x in lanes.dpp_sources(dpp, registers.lanes)]
        self.index = [max(x, 0) for x in self.sources]

    def moved(self, value: Value) -> Value:
        taken = self.w.permute(value, self.index)
        bad = self._invalid()
        if bad is None:
            return taken
        zero = self.w.bits(self.w.number("u" + taken.kind[1:], 0, scalar=False), taken.kind)
        return self.w.select(bad, zero, taken)

    def _static(self, bits: list[bool]) -> Value:
        size = self.w.chunk
        return Value("mask", [ir.Constant(ir.VectorType(I1, size), [ir.Constant(I1, int(x)) for x in bits[i:i + size]])
                              for i in range(0, len(bits), size)], False)

    def _invalid(self) -> Value | None:
        bad = self._static([x < 0 for x in self.sources]) if min(self.sources) < 0 else None
        if not self.r.full and not self.dpp.fetch_inactive:
            inactive = self.w.not_(self.w.permute(self.r.active(), self.index))
            bad = inactive if bad is None else self.w.or_(bad, inactive)
        return bad

    def enabled(self) -> Value | None:
        """Which lanes are written; None: all."""
        dpp, lane_count = self.dpp, self.r.lanes
        chosen = [True] * lane_count
        if dpp.lanes is None:
            chosen = [bool(dpp.row_mask >> (i // 16 & 3) & 1 and dpp.bank_mask >> (i % 16 // 4) & 1)
                      for i in range(lane_count)]
        keeps = not dpp.bound_control and dpp.lanes is None
        static = [c and (s >= 0 or not keeps) for c, s in zip(chosen, self.sources, strict=True)]
        result = None if all(static) else self._static(static)
        if not self.r.full:
            active = self.r.active()
            result = active if result is None else self.w.and_(result, active)
            if keeps and not dpp.fetch_inactive:
                result = self.w.and_(result, self.w.permute(active, self.index))
        return result
