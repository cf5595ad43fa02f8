"""Memory through a buffer resource descriptor in native code: MUBUF, MTBUF and ``s_buffer_load``.

Addresses and bounds as :mod:`mock.isa.buffers` has them. The format of a typed access is known (MTBUF) or in the
descriptor, the same for all lanes (MUBUF): then it is looked up in a table, and its component widths are values.
"""

from __future__ import annotations

from llvmlite import ir

from mock.isa import formats
from mock.isa.decode import Instruction, Operand
from mock.isa.jit.memory import MemoryLowering
from mock.isa.jit.registers import VGPR
from mock.isa.jit.values import I32, I64, Scalar, Unsupported, Value, width
from mock.isa.semantics import Atomic, Load, Store, table
from mock.isa.state import M0, NULL

__all__ = ["BufferLowering"]

_TABLE = "buffer_formats"
_BYTES, _NUMBER, _WIDTHS, _PLACES = 0, 5, 8, 32       # bit positions in an entry: 5, 3, 4 x 6 and 4 x 7 bits


def _entry(code: int) -> int:
    """A format's size, number type, component widths and bit positions in one u64; 0 for invalid ones."""
    form = formats.buffer_format(code)
    if form is None:
        return 0
    entry, place = form.nbytes << _BYTES | formats.NUMBERS.index(form.number) << _NUMBER, 0
    for i, bits in enumerate(form.bits):
        entry |= bits << _WIDTHS + 6 * i | place << _PLACES + 7 * i
        place += bits
    return entry


class BufferLowering(MemoryLowering):
    """One instruction of these formats."""

    # ---- addresses

    def _word(self, instruction: Instruction, i: int) -> Value:
        return Scalar("u32", self.r.read_sgpr(instruction.fields["srsrc"] * 4 + i))

    def _located(self, instruction: Instruction, nbytes: Value) -> tuple[Value, Value]:
        """(address u64, is it in range) of each lane's element of ``nbytes`` (u64) bytes."""
        f, w, r = instruction.fields, self.w, self.r
        first, second, records, fourth = (self._word(instruction, i) for i in range(4))
        base = w.or_(w.cast(first, "u64"), w.shl(w.cast(w.and_(second, 0xffff), "u64"), 32))
        stride = w.cast(w.and_(w.shr(second, 16), 0x3fff), "u64")
        swizzle, vaddr = w.shr(second, 30), f["vaddr"]
        add_thread = w.cast(w.and_(w.shr(fourth, 23), 1), "u64")
        index = w.mul(self._wide(w.lane()), add_thread)
        if f["idxen"]:
            index = w.add(index, self._wide(r.vgpr(vaddr)))
        offset = w.splat(w.number("u64", f["offset"]))
        if f["offen"]:
            offset = w.and_(w.add(offset, self._wide(r.vgpr(vaddr + f["idxen"]))), 0xffffffff)
        soffset = w.number("u64", 0)
        if f["soffset"] != NULL:
            soffset = self._wide(r.fetch(Operand("soffset", f["soffset"]), "u32", None))
        # Swizzled: index_stride records side by side, element_size bytes at a time; both are powers of two.
        element = w.cast(w.add(swizzle, 1), "u64")
        together = w.cast(w.add(w.and_(w.shr(fourth, 21), 3), 3), "u64")
        whole = w.add(w.mul(w.shr(index, together), stride), w.shl(w.shr(offset, element), element))
        one = w.number("u64", 1)
        swizzled = w.add(w.add(w.shl(whole, together),
                               w.shl(w.and_(index, w.sub(w.shl(one, together), 1)), element)),
                         w.and_(offset, w.sub(w.shl(one, element), 1)))
        linear = w.add(w.mul(index, stride), offset)
        address = w.add(w.add(base, soffset), w.select(w.ne(swizzle, 0), swizzled, linear))
        limit, select = w.cast(records, "u64"), w.and_(w.shr(fourth, 28), 3)
        below = w.lt(index, limit)
        structured = w.and_(below, w.or_(w.eq(stride, 0), w.le(w.add(offset, nbytes), stride)))
        raw = w.le(w.add(w.add(linear, soffset), nbytes), limit)
        inside = w.select(w.eq(select, 0), structured, w.select(w.eq(select, 1), below, w.select(
            w.eq(select, 2), w.ne(limit, 0), raw)))
        return w.splat(address), w.splat(inside)

    def _bits(self, inside: Value) -> ir.Value:
        """Lanes in range and active."""
        packed = self.w.pack(inside)
        return self.b.and_(self._mask(), packed if self.r.lanes == 64 else self.b.zext(packed, I64))

    # ---- instructions

    def run(self, instruction: Instruction) -> None:
        name = instruction.mnemonic
        entry = table().get(name)
        if "format" in name:
            self._typed(instruction)
        elif "_lds_" in name:
            self._load_lds(instruction)
        elif isinstance(entry, (Load, Store)):
            self._plain(instruction, entry)
        elif isinstance(entry, Atomic):
            self._atomic(instruction, entry)
        else:
            raise Unsupported("no semantics entry")

    def _plain(self, instruction: Instruction, entry: Load | Store) -> None:
        size, count, register = width(entry.kind) // 8, entry.count, instruction.fields["vdata"]
        addresses, inside = self._located(instruction, self.w.number("u64", size * count))
        data = self.buffer(I32, self.r.lanes * count, "data")
        if isinstance(entry, Store):
            for i in range(count):
                value = self.r.vgpr(register + i)
                self._store_rows(data, self.w.shr(value, 16) if entry.half else value, i)
            self._transfer(True, size, addresses, lambda: data, count, self._bits(inside), lds=False)
            return
        self._zero(data, count)
        self._transfer(False, size, addresses, lambda: data, count, self._bits(inside), lds=False)
        self._put_loaded(entry, register, [self._load_rows(data, "u32", i) for i in range(count)])

    def _zero(self, data: ir.Value, count: int) -> None:
        for i in range(count):
            self._store_rows(data, self.w.number("u32", 0, scalar=False), i)

    def _atomic(self, instruction: Instruction, entry: Atomic) -> None:
        wide, data = entry.kind.endswith("64"), instruction.fields["vdata"]
        addresses, inside = self._located(instruction, self.w.number("u64", 8 if wide else 4))
        sources = [data, data + (2 if wide else 1)] if entry.compares else [data]
        old = self.exchange(entry, addresses, sources, [(self._bits(inside), 0)])
        if instruction.fields["glc"]:
            old = self.w.select(inside, old, 0)
            self.r.put(Operand("vdata", VGPR + data, 2 if wide else 1), old.kind, old, self.r.write_mask_of())

    def _load_lds(self, instruction: Instruction) -> None:
        kind = {"u8": "u8", "i8": "i8", "u16": "u16", "i16": "i16", "b32": "u32"}[
            instruction.mnemonic.rpartition("_")[2]]
        bits = width(kind)
        addresses, inside = self._located(instruction, self.w.number("u64", bits // 8))
        data = self.buffer(I32, self.r.lanes, "data")
        self._zero(data, 1)
        self._transfer(False, bits // 8, addresses, lambda: data, 1, self._bits(inside), lds=False)
        value = self._load_rows(data, "u32")
        if kind[0] == "i":
            value = self.w.bits(self.w.shr(self.w.bits(self.w.shl(value, 32 - bits), "i32"), 32 - bits), "u32")
        self._to_lds(instruction, value)

    def _to_lds(self, instruction: Instruction, value: Value) -> None:
        w = self.w
        start = w.and_(Scalar("u32", self.r.read_sgpr(M0)), 0xffff)
        address = w.add(w.add(self._wide(start), instruction.fields["offset"]), w.shl(self._wide(w.lane()), 2))
        data = self.buffer(I32, self.r.lanes, "data")
        self._store_rows(data, value)
        self._transfer(True, 4, w.splat(address), lambda: data, 1, self._mask(), lds=True)

    # ---- formats

    def _format(self, instruction: Instruction) -> Value:
        """The table's entry (u64) of the instruction's or the descriptor's format."""
        if instruction.encoding == "MTBUF":
            entry = _entry(instruction.fields["format"])
            if not entry:
                raise Unsupported("an invalid format")
            return self.w.number("u64", entry)
        known = self.module.globals.get(_TABLE)
        kind = ir.ArrayType(I64, 64)
        if known is None:
            known = ir.GlobalVariable(self.module, kind, _TABLE)
            known.global_constant, known.linkage = True, "internal"
            known.initializer = ir.Constant(kind, [ir.Constant(I64, _entry(i)) for i in range(64)])
        word = self._word(instruction, 3)
        code = self.w.cast(self.w.and_(self.w.shr(word, 12), 63), "u64").parts[0]
        place = self.b.gep(known, [ir.Constant(I64, 0), code], source_etype=kind)
        entry_value = Scalar("u64", self.b.load(place, typ=I64))
        self.refuse(self.w.eq(entry_value, 0).parts[0])
        return entry_value

    def _part(self, form: Value, low: int, bits: int) -> Value:
        """A field of the entry, u32; a number where the entry is one."""
        entry = form.parts[0]
        if isinstance(entry, ir.Constant):
            return self.w.number("u32", int(entry.constant) >> low & (1 << bits) - 1)
        return self.w.cast(self.w.and_(self.w.shr(form, low), (1 << bits) - 1), "u32")

    def _numbers(self, form: Value) -> list[str]:
        """The number types that the entry may have."""
        entry = form.parts[0]
        if isinstance(entry, ir.Constant):
            return [formats.NUMBERS[int(entry.constant) >> _NUMBER & 7]]
        return list(formats.NUMBERS)

    def _is(self, form: Value, *numbers: str) -> Value:
        w, number = self.w, self._part(form, _NUMBER, 3)
        result = w.eq(number, formats.NUMBERS.index(numbers[0]))
        for other in numbers[1:]:
            result = w.or_(result, w.eq(number, formats.NUMBERS.index(other)))
        return result

    def _typed(self, instruction: Instruction) -> None:
        form = self._format(instruction)
        nbytes = self._part(form, _BYTES, 5)
        addresses, inside = self._located(instruction, self.w.cast(nbytes, "u64"))
        if "_load_" in instruction.mnemonic:
            self._load_typed(instruction, form, nbytes, addresses, inside)
        else:
            self._store_typed(instruction, form, nbytes, addresses, inside)

    def _move_bytes(self, write: bool, nbytes: Value, addresses: Value, data: ir.Value, mask: ir.Value) -> None:
        places = self.buffer(I64, self.r.lanes, "addresses")
        self._store_rows(places, addresses)
        count = self.b.zext(nbytes.parts[0], I64)
        self._move(write, 1, places, data, count, mask, lds=False)

    def _load_typed(self, instruction: Instruction, form: Value, nbytes: Value, addresses: Value,
                    inside: Value) -> None:
        w, r, name = self.w, self.r, instruction.mnemonic
        data = self.buffer(I32, r.lanes * 16, "bytes")
        self._zero(data, 16)
        self._move_bytes(False, nbytes, addresses, data, self._bits(inside))
        dwords = []
        for i in range(4):
            parts = [w.shl(self._load_rows(data, "u32", 4 * i + j), 8 * j) for j in range(4)]
            dwords.append(w.or_(w.or_(parts[0], parts[1]), w.or_(parts[2], parts[3])))
        integer = self._is(form, "UINT", "SINT")
        one = w.select(integer, w.number("u32", 1), w.number("u32", 0x3f800000))
        values = [self._decoded(form, dwords, i, one) for i in range(4)]
        if instruction.encoding == "MUBUF":
            select = self._word(instruction, 3)
            values = [self._selected(w.and_(w.shr(select, 3 * i), 7), values, one) for i in range(4)]
        count = len(name.rpartition("_")[2])
        values = [w.select(inside, value, 0) for value in values[:count]]
        active, register = r.write_mask_of(), instruction.fields["vdata"]
        for i, value in enumerate(values):
            if "_lds_" in name:
                self._to_lds(instruction, value)
            elif "d16" in name:
                half = formats.shorten(w, value, integer)
                place = Operand("vdata", VGPR + register + i // 2)
                r.put(place, "u16", w.cast(half, "u16"), active, half=1 if "d16_hi" in name else i % 2)
            else:
                r.set_vgpr(register + i, value, active)

    def _decoded(self, form: Value, dwords: list[Value], i: int, one: Value) -> Value:
        w = self.w
        bits, place = self._part(form, _WIDTHS + 6 * i, 6), self._part(form, _PLACES + 7 * i, 7)
        dword, result = dwords[0], w.number("u32", 0, scalar=False)
        for j in range(1, 4):
            dword = w.select(w.eq(w.shr(place, 5), j), dwords[j], dword)
        ones = w.low(w.sub(w.shl(w.number("u64", 1), bits), 1))
        raw = w.and_(w.shr(dword, w.and_(place, 31)), ones)
        for number in self._numbers(form):
            result = w.select(self._is(form, number), formats.decode(w, raw, bits, number), result)
        return w.select(w.eq(bits, 0), one if i == 3 else w.number("u32", 0), result)

    def _selected(self, choice: Value, values: list[Value], one: Value) -> Value:
        """DST_SEL of the descriptor: 0, 1, or a component."""
        result = self.w.select(self.w.eq(choice, 1), one, self.w.number("u32", 0, scalar=False))
        for i, value in enumerate(values):
            result = self.w.select(self.w.eq(choice, 4 + i), value, result)
        return result

    def _store_typed(self, instruction: Instruction, form: Value, nbytes: Value, addresses: Value,
                     inside: Value) -> None:
        w, r, name = self.w, self.r, instruction.mnemonic
        count, register = len(name.rpartition("_")[2]), instruction.fields["vdata"]
        dwords = [w.number("u32", 0, scalar=False)] * 4
        for i in range(4):
            value = w.number("u32", 0, scalar=False)
            if i < count and "d16" in name:
                whole = r.vgpr(register + i // 2)
                half = w.shr(whole, 16) if "d16_hi" in name or i % 2 else w.and_(whole, 0xffff)
                value = formats.lengthen(w, half, self._is(form, "UINT", "SINT"), self._is(form, "SINT"))
            elif i < count:
                value = r.vgpr(register + i)
            bits, place = self._part(form, _WIDTHS + 6 * i, 6), self._part(form, _PLACES + 7 * i, 7)
            raw = w.number("u32", 0, scalar=False)
            for number in self._numbers(form):
                raw = w.select(self._is(form, number), formats.encode(w, value, bits, number), raw)
            raw = w.select(w.eq(bits, 0), 0, w.shl(raw, w.and_(place, 31)))
            for j in range(4):
                dwords[j] = w.or_(dwords[j], w.select(w.eq(w.shr(place, 5), j), raw, 0))
        data = self.buffer(I32, r.lanes * 16, "bytes")
        for i in range(16):
            self._store_rows(data, w.and_(w.shr(dwords[i // 4], i % 4 * 8), 255), i)
        self._move_bytes(True, nbytes, addresses, data, self._bits(inside))

    # ---- scalar loads

    def scalar_buffer_load(self, instruction: Instruction) -> None:
        """Dwords beyond the descriptor's size are 0."""
        f, w, b, r = instruction.fields, self.w, self.b, self.r
        data = instruction.operand("sdata")
        assert data is not None
        first = f["sbase"] * 2
        words = [Scalar("u32", r.read_sgpr(first + i)) for i in range(3)]
        base = w.or_(w.cast(w.and_(words[0], -4), "u64"), w.shl(w.cast(w.and_(words[1], 0xffff), "u64"), 32))
        stride = w.cast(w.and_(w.shr(words[1], 16), 0x3fff), "u64")
        records = w.cast(words[2], "u64")
        size = w.select(w.eq(stride, 0), records, w.mul(records, stride))
        extra = self.scalar_offset(instruction)
        room = w.select(w.le(extra, size), w.and_(w.sub(size, extra), -4), 0)
        nbytes = w.min(room, 4 * data.width).parts[0]
        place = self.buffer(I32, data.width, "scalars")
        for i in range(data.width):
            b.store(ir.Constant(I32, 0), b.gep(place, [ir.Constant(I32, i)], source_etype=I32))
        address = w.add(base, extra).parts[0]
        before = b.block
        with b.if_then(b.icmp_unsigned("!=", nbytes, ir.Constant(I64, 0))):
            done = self.read_scalars(address, place, nbytes)
            inside = b.block
        ok = b.phi(ir.IntType(1))
        ok.add_incoming(ir.Constant(ir.IntType(1), 1), before)
        ok.add_incoming(done, inside)
        self.fault(ok)
        self.put_scalars(data, place)
