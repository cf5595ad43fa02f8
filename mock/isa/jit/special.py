"""Instructions outside the semantics table that native code has words of its own for: hardware registers whose value
is known or in the context, registers chosen by M0, ``ds_permute_b32``, LDS append and consume.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from mock.isa.decode import Instruction, Operand
from mock.isa.hwregs import MODE, MODE_BITS, hwreg
from mock.isa.jit.dpp import Moves
from mock.isa.jit.registers import VGPR, Layout, Registers
from mock.isa.jit.values import I32, I64, PTR, Scalar, Unsupported, Value, Words
from mock.isa.operands import is_constant
from mock.isa.relative import SGPRS_INDEXED
from mock.isa.state import M0

__all__ = ["Special"]

_LDS_ALLOC, _SH_MEM_BASES, _FLAT_SCR_LO, _FLAT_SCR_HI = 6, 15, 20, 21
_LDS_UNIT = 256


class Special:
    """:param field: reads a 64-bit field of the context.
    :param refuse: emits the branch that leaves the instruction to the host where a bit is set (it says what is wrong).
    """

    def __init__(self, registers: Registers, words: Words, mode: int, field: Callable[[str], ir.Value],
                 refuse: Callable[[ir.Value], None]) -> None:
        self.r, self.w, self.b, self.mode = registers, words, registers.b, mode
        self.field, self.refuse = field, refuse

    def run(self, instruction: Instruction) -> bool:
        """False: it is none of these."""
        name = instruction.mnemonic
        if name == "s_getreg_b32":
            self._getreg(instruction)
        elif name.startswith("s_movrel"):
            self._move_scalars(instruction)
        elif name.startswith("v_movrel"):
            self._move(instruction)
        elif name == "v_swaprel_b32":
            self._swap(instruction)
        elif name == "ds_permute_b32":
            self._permute(instruction)
        elif name in ("ds_append", "ds_consume"):
            self._append(instruction)
        else:
            return False
        return True

    # ---- hardware registers

    def _getreg(self, instruction: Instruction) -> None:
        number, low, bits = hwreg(instruction)
        b = self.b

        def part(name: str, shift: int) -> ir.Value:
            return b.trunc(b.lshr(self.field(name), ir.Constant(I64, shift)), I32)
        value: ir.Value
        if number == MODE:
            value = ir.Constant(I32, self.mode & MODE_BITS)
        elif number in (_FLAT_SCR_LO, _FLAT_SCR_HI):
            value = part("scratch", 32 if number == _FLAT_SCR_HI else 0)
        elif number == _SH_MEM_BASES:       # the context has the upper halves
            value = b.or_(part("private_high", 16), b.shl(part("shared_high", 16), ir.Constant(I32, 16)))
        elif number == _LDS_ALLOC:
            units = b.udiv(b.add(part("lds_bytes", 0), ir.Constant(I32, _LDS_UNIT - 1)), ir.Constant(I32, _LDS_UNIT))
            value = b.shl(units, ir.Constant(I32, 12))
        else:
            raise Unsupported(f"hardware register {number} is the host's")
        value = b.and_(b.lshr(value, ir.Constant(I32, low)), ir.Constant(I32, (1 << bits) - 1))
        self.r.write_sgpr(instruction.fields["sdst"], value)

    # ---- registers chosen by M0

    def _offsets(self, name: str) -> tuple[ir.Value, ir.Value]:
        """How far source and destination move (u32)."""
        m0, none = self.r.read_sgpr(M0), ir.Constant(I32, 0)
        if "sd_2" in name or "swaprel" in name:
            ten = ir.Constant(I32, 0x3ff)
            return self.b.and_(m0, ten), self.b.and_(self.b.lshr(m0, ir.Constant(I32, 16)), ten)
        return (m0 if "rels" in name else none), (m0 if "reld" in name or "relsd" in name else none)

    def _move_scalars(self, instruction: Instruction) -> None:
        destination, source = instruction.operands
        read, write = self._offsets(instruction.mnemonic)
        r, values = self.r, []
        indexed = {code for code in range(SGPRS_INDEXED)}
        r.spill_scalars(indexed)
        for i in range(source.width):
            if is_constant(source.code):
                values.append(r.fetch(Operand("source", source.code), "u32", instruction.literal).parts[0])
            else:
                values.append(self.b.load(self._scalar(source.code + i, read), typ=I32))
        for i, value in enumerate(values):
            self.b.store(value, self._scalar(destination.code + i, write))
        r.reload_scalars(indexed)

    def _scalar(self, code: int, offset: ir.Value) -> ir.Value:
        """Where the SGPR is; beyond the last it is the last."""
        b, last = self.b, ir.Constant(I64, SGPRS_INDEXED - 1)
        index = b.add(ir.Constant(I64, code), b.zext(offset, I64))
        index = b.select(b.icmp_unsigned("<", index, last), index, last)
        return b.gep(self.r.state, [index], source_etype=I32)

    def _row(self, register: int, offset: ir.Value) -> ir.Value:
        """The VGPR's place in the state, once it is known to be one of the wave's."""
        b = self.b
        index = b.add(ir.Constant(I64, register), b.zext(offset, I64))
        self.refuse(b.icmp_unsigned(">=", index, ir.Constant(I64, self.r.vgprs)))
        dword = b.add(b.mul(index, ir.Constant(I64, self.r.lanes)), ir.Constant(I64, Layout.VGPRS))
        return b.gep(self.r.state, [dword], source_etype=I32)

    def _load(self, row: ir.Value) -> Value:
        b, r = self.b, self.r
        return Value("u32", [b.load(b.gep(row, [ir.Constant(I32, i)], source_etype=r.vector), typ=r.vector,
                                    align=4 * r.chunk) for i in range(r.chunks)], False)

    def _store(self, row: ir.Value, value: Value, active: Value | None) -> None:
        b, r = self.b, self.r
        value = self.w.splat(value)
        if active is not None:
            value = self.w.select(active, value, self._load(row))
        for i, part in enumerate(value.parts):
            b.store(part, b.gep(row, [ir.Constant(I32, i)], source_etype=r.vector), align=4 * r.chunk)

    def _move(self, instruction: Instruction) -> None:
        destination, source = instruction.operands
        read, write = self._offsets(instruction.mnemonic)
        moves = Moves(instruction.dpp, self.r, self.w) if instruction.dpp is not None else None
        active = moves.enabled() if moves is not None else self.r.write_mask_of()
        self.r.spill_vectors()
        if source.code >= VGPR:
            value = self._load(self._row(source.code - VGPR, read))
        else:
            value = self.r.fetch(source, "u32", instruction.literal)
        if moves is not None:
            value = moves.moved(value)
        self._store(self._row(destination.code - VGPR, write), value, active)
        self.r.reload_vectors()

    def _swap(self, instruction: Instruction) -> None:
        destination, source = (o.code - VGPR for o in instruction.operands)
        read, write = self._offsets(instruction.mnemonic)
        active = self.r.write_mask_of()
        self.r.spill_vectors()
        first, second = self._row(source, read), self._row(destination, write)
        a, b = self._load(first), self._load(second)
        self._store(second, a, active)
        self._store(first, b, active)
        self.r.reload_vectors()

    # ---- DS without memory, and with one counter

    def _permute(self, instruction: Instruction) -> None:
        """Each active lane sends to the lane that it names, later lanes winning; 0 where nothing came."""
        f, w, r, b = instruction.fields, self.w, self.r, self.b
        offset = f["offset0"] | f["offset1"] << 8
        index = w.and_(w.shr(w.add(r.vgpr(f["addr"]), offset), 2), r.lanes - 1)
        # Lanes that are not active send to a place beyond the last.
        index = w.select(r.active(), index, r.lanes)
        data = r.vgpr(f["data0"])
        with b.goto_entry_block():
            place = b.alloca(ir.ArrayType(I32, r.lanes + r.chunk))
            place.align, place.type = 64, PTR
        zero = ir.Constant(r.vector, [ir.Constant(I32, 0)] * r.chunk)
        for i in range(r.chunks):
            b.store(zero, b.gep(place, [ir.Constant(I32, i)], source_etype=r.vector), align=4)
        for where, values in zip(index.parts, data.parts, strict=True):
            for i in range(r.chunk):
                number = ir.Constant(I32, i)
                target = b.gep(place, [b.extract_element(where, number)], source_etype=I32)
                b.store(b.extract_element(values, number), target)
        parts = [b.load(b.gep(place, [ir.Constant(I32, i)], source_etype=r.vector), typ=r.vector, align=4)
                 for i in range(r.chunks)]
        r.set_vgpr(f["vdst"], Value("u32", parts, False), r.write_mask_of())

    def _append(self, instruction: Instruction) -> None:
        """Add or subtract the number of active lanes at LDS address M0[15:0] + offset."""
        f, w, r, b = instruction.fields, self.w, self.r, self.b
        offset = f["offset0"] | f["offset1"] << 8
        address = b.add(b.zext(b.and_(r.read_sgpr(M0), ir.Constant(I32, 0xffff)), I64), ir.Constant(I64, offset))
        count = w.popcount(Scalar(f"u{r.lanes}", r.exec_bits())).parts[0]
        inside = b.icmp_unsigned("<=", b.add(address, ir.Constant(I64, 4)), self.field("lds_bytes"))
        someone = b.icmp_unsigned("!=", count, ir.Constant(I32, 0))
        with b.goto_entry_block():
            nowhere = b.alloca(I32)
            nowhere.type = PTR
        b.store(ir.Constant(I32, 0), nowhere)
        place = b.inttoptr(b.add(self.field("lds"), address), PTR)
        place = b.select(b.and_(inside, someone), place, nowhere)
        old = b.load(place, typ=I32, align=1)
        new = b.add(old, count) if instruction.mnemonic == "ds_append" else b.sub(old, count)
        b.store(new, place, align=1)
        r.set_vgpr(f["vdst"], w.splat(Scalar("u32", old)), r.write_mask_of())
