"""Memory instructions: addresses as vectors, then one call into the support code for all active lanes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from mock.isa.decode import Instruction, Operand
from mock.isa.jit.context import COHERENT_TLB, READ_TLB, SCALAR_TLB, WRITE_TLB, symbol
from mock.isa.jit.registers import VGPR, Registers
from mock.isa.jit.transfers import Place, Transfers
from mock.isa.jit.values import I1, I32, I64, PTR, Scalar, Unsupported, Value, Words, ir_type, width
from mock.isa.lanes import swizzle_sources
from mock.isa.semantics import Atomic, Load, Store
from mock.isa.state import M0, NULL

__all__ = ["MemoryLowering"]

_VOID = ir.VoidType()


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> bits - 1 & 1 else value


class MemoryLowering:
    """:param fault: emits the branch that leaves the wave when ``ok`` is false.
    :param refuse: emits the branch that leaves the instruction to the host where a bit is set (it says what is wrong).
    :param atomics: the module's functions for atomics, by entry, width and mode.
    :param buffers: the function's stack slots.
    """

    def __init__(self, registers: Registers, words: Words, context: ir.Value, fields: dict[str, int], fault: Any,
                 refuse: Any, atomics: dict[tuple[int, str, int], ir.Function],
                 buffers: dict[tuple[str, int, str], ir.Value]) -> None:
        self.r, self.w, self.b = registers, words, registers.b
        self.context, self.fields, self.fault, self.refuse = context, fields, fault, refuse
        self.module = self.b.module
        self._row = ir.ArrayType(I32, registers.lanes)
        self._atomics, self._buffers = atomics, buffers
        self._coherent = False      # a load with glc

    # ---- support functions

    def _function(self, name: str, result: ir.Type, *arguments: ir.Type) -> ir.Function:
        if not name.startswith("llvm."):
            name = symbol(name, self.r.lanes)
        if name in self.module.globals:
            return self.module.globals[name]
        return ir.Function(self.module, ir.FunctionType(result, arguments), name)

    def field(self, name: str) -> ir.Value:
        place = self.b.gep(self.context, [ir.Constant(I64, self.fields[name])], source_etype=ir.IntType(8))
        return self.b.load(place, typ=I64)

    def buffer(self, kind: ir.Type, count: int, name: str = "") -> ir.Value:
        """A stack slot that instructions share: nothing stays in it."""
        key = (str(kind), count, name)
        if key not in self._buffers:
            self._buffers[key] = self._new_buffer(kind, count)
        return self._buffers[key]

    def _new_buffer(self, kind: ir.Type, count: int) -> ir.Value:
        with self.b.goto_entry_block():
            place = self.b.alloca(ir.ArrayType(kind, count))
            place.align = 64
            place.type = PTR        # untyped: rows and lanes are both stored there
            return place

    def _mask(self) -> ir.Value:
        bits = self.r.exec_bits()
        return bits if self.r.lanes == 64 else self.b.zext(bits, I64)

    def _store_rows(self, place: ir.Value, value: Value, row: int = 0) -> None:
        vector = self.w.type(value.kind, False)
        for i, part in enumerate(value.parts):
            where = self.b.gep(place, [ir.Constant(I32, row * self.w.chunks + i)], source_etype=vector)
            self.b.store(part, where, align=width(value.kind) // 8)

    def _load_rows(self, place: ir.Value, kind: str, row: int = 0) -> Value:
        vector = self.w.type(kind, False)
        parts = []
        for i in range(self.w.chunks):
            where = self.b.gep(place, [ir.Constant(I32, row * self.w.chunks + i)], source_etype=vector)
            parts.append(self.b.load(where, typ=vector, align=width(kind) // 8))
        return Value(kind, parts, False)

    # ---- addresses: u64 vectors

    def _wide(self, value: Value) -> Value:
        return self.w.cast(value, "u64")

    def _global(self, instruction: Instruction) -> Value:
        f = instruction.fields
        offset = _signed(f["offset"], 13)
        if "addtid" in instruction.mnemonic:
            address = self.w.add(self.r.fetch(Operand("saddr", f["saddr"], 2), "u64", None),
                                 self.w.shl(self._wide(self.w.lane()), 2))
        elif f["saddr"] == NULL:
            address = self.r.fetch(Operand("addr", VGPR + f["addr"], 2), "u64", None)
        else:
            base = self.r.fetch(Operand("saddr", f["saddr"], 2), "u64", None)
            address = self.w.add(base, self._wide(self.r.fetch(Operand("addr", VGPR + f["addr"]), "u32", None)))
        return self.w.add(self.w.splat(address), offset)

    def _scratch(self, instruction: Instruction) -> tuple[Value, Callable[[int], Value]]:
        """Offsets in each lane's private memory (u64), and where a byte so far on lies: dwords are interleaved."""
        f, w = instruction.fields, self.w
        total = w.number("u64", _signed(f["offset"], 13))
        if f["sve"]:
            total = w.add(total, self._wide(self.r.fetch(Operand("addr", VGPR + f["addr"]), "u32", None)))
        if f["saddr"] != NULL:
            total = w.add(total, self._wide(self.r.fetch(Operand("saddr", f["saddr"]), "u32", None)))
        base = Scalar("u64", self.field("scratch"))

        def byte(distance: int) -> Value:
            offset = w.and_(w.add(total, distance), 0xffffffff)
            place = w.add(w.mul(w.and_(offset, -4), self.r.lanes), w.and_(offset, 3))
            return w.splat(w.add(w.add(base, place), w.shl(self._wide(w.lane()), 2)))
        return w.splat(total), byte

    def _ds(self, instruction: Instruction, offset: int) -> Value:
        if "addtid" in instruction.mnemonic:
            start = self.w.and_(Scalar("u32", self.r.read_sgpr(M0)), 0xffff)
            address = self.w.add(self.w.shl(self.w.lane(), 2), start)
        else:
            address = self.r.fetch(Operand("addr", VGPR + instruction.fields["addr"]), "u32", None)
        return self.w.splat(self._wide(self.w.add(address, offset)))     # the sum wraps at 32 bits

    def cache_instruction(self, bits: int) -> None:
        function = self._function("cache_instruction", _VOID, PTR, I64)
        self.b.call(function, [self.context, ir.Constant(I64, bits)])

    # ---- moving data

    def _transfer(self, write: bool, size: int, addresses: Value, where: Callable[[], ir.Value], count: int,
                  mask: ir.Value, *, lds: bool, row: int = 0) -> None:
        """Move ``count`` elements a lane between memory and rows ``row``.. of the data."""
        places = self.buffer(I64, self.r.lanes, "addresses")
        self._store_rows(places, addresses)
        self._move(write, size, places, where(), count, mask, lds=lds, row=row)

    def _move(self, write: bool, size: int, places: ir.Value, data: ir.Value, count: int | ir.Value, mask: ir.Value, *,
              lds: bool, row: int = 0) -> None:
        rows = self.b.gep(data, [ir.Constant(I32, row)], source_etype=self._row) if row else data
        name = ("lds_" if lds else "coherent_" if self._coherent and not write else "") \
            + ("scatter" if write else "gather") + str(size)
        function = self._function(name, _VOID if lds else I1, PTR, PTR, PTR, I64, I64)
        number = ir.Constant(I64, count) if isinstance(count, int) else count
        ok = self.b.call(function, [self.context, places, rows, mask, number])
        if not lds:
            self.fault(ok)

    def load_store(self, instruction: Instruction, entry: Load | Store) -> None:
        size, count, write = width(entry.kind) // 8, entry.count, isinstance(entry, Store)
        if size > 4:
            raise Unsupported("wide elements")
        f = instruction.fields
        self._coherent = bool(f.get("glc"))
        two = "2addr" in instruction.mnemonic
        mask = self._mask()
        if self.r.inline and instruction.encoding in ("DS", "GLOBAL") and "addtid" not in instruction.mnemonic:
            self._written_out(instruction, entry, mask)
            return
        total = count * (2 if two else 1)
        if not self.r.promote_vectors and not two and self._in_place(instruction, entry) and \
                self._repeatable_in_place(instruction, entry):
            first = f["vdst"] if isinstance(entry, Load) else f["data0" if instruction.encoding == "DS" else "data"]
            self._access(instruction, write, size, count,
                         lambda: self.r.vgpr_pointer(first, count, written=not write), mask, two)
            return
        data = self.buffer(I32, self.r.lanes * total, "data")
        if isinstance(entry, Store):
            sources = ["data0", "data1"] if two else ["data0" if instruction.encoding == "DS" else "data"]
            for j, source in enumerate(sources):
                for i in range(count):
                    value = self.r.vgpr(f[source] + i)
                    self._store_rows(data, self.w.shr(value, 16) if entry.half else value, j * count + i)
        self._access(instruction, write, size, count, lambda: data, mask, two)
        if isinstance(entry, Load):
            self._put_loaded(entry, f["vdst"], [self._load_rows(data, "u32", i) for i in range(total)])

    def _places(self, instruction: Instruction, write: bool) -> list[Place]:
        """Where the lanes access memory, one for each address; reads the registers."""
        f = instruction.fields
        low = self.r.vgpr(f["addr"])
        if instruction.encoding == "DS":
            if "2addr" not in instruction.mnemonic:
                return [Place(low, offset=f["offset0"] | f["offset1"] << 8)]
            unit = 8 if instruction.mnemonic.endswith("b64") else 4
            unit *= 64 if "stride64" in instruction.mnemonic else 1
            return [Place(low, offset=f[f"offset{j}"] * unit) for j in range(2)]
        table = WRITE_TLB if write else COHERENT_TLB if self._coherent else READ_TLB
        offset = _signed(f["offset"], 13)
        if f["saddr"] == NULL:
            return [Place(low, high=self.r.vgpr(f["addr"] + 1), offset=offset, table=table)]
        return [Place(low, base=self.r.read_sgpr64(f["saddr"]), offset=offset, table=table)]

    def _addresses(self, place: Place) -> Value:
        w = self.w
        if place.table is None:
            return self._wide(w.add(place.low, place.offset))     # the sum wraps at 32 bits
        address = self._wide(place.low) if place.high is None else w.join(place.low, place.high)
        if place.base is not None:
            address = w.add(address, Scalar("u64", place.base))
        return w.add(address, place.offset)

    def _written_out(self, instruction: Instruction, entry: Load | Store, mask: ir.Value) -> None:
        """See :mod:`mock.isa.jit.transfers`."""
        f, size, count, lds = instruction.fields, width(entry.kind) // 8, entry.count, instruction.encoding == "DS"
        write = isinstance(entry, Store)
        places = self._places(instruction, write)
        data = self.buffer(I32, self.r.lanes * count, "data")
        near = Transfers(self.r, self.w, self.context, self.field)
        if isinstance(entry, Store):
            names = ["data0", "data1"] if lds else ["data"]
            rows = [[self.r.vgpr(f[name] + i) for i in range(count)] for name, _ in zip(names, places, strict=False)]
            if entry.half:
                rows = [[self.w.shr(value, 16) for value in one] for one in rows]
            for place, one in zip(places, rows, strict=True):
                def scatter(place: Place = place, one: list[Value] = one) -> None:
                    for i, value in enumerate(one):
                        self._store_rows(data, value, i)
                    self._transfer(True, size, self._addresses(place), lambda: data, count, mask, lds=lds)
                near.store(place, size, one, scatter)
            return
        found: list[Value] = []
        for place in places:
            def gather(place: Place = place) -> list[Value]:
                self._transfer(False, size, self._addresses(place), lambda: data, count, mask, lds=lds)
                return [self._load_rows(data, "u32", i) for i in range(count)]
            found += near.load(place, size, count, gather)
        self._put_loaded(entry, f["vdst"], found)

    def _repeatable_in_place(self, instruction: Instruction, entry: Load | Store) -> bool:
        """A load must not overwrite what its segment has read: it may be repeated."""
        if isinstance(entry, Store):
            return True
        f = instruction.fields
        target = range(f["vdst"], f["vdst"] + entry.count)
        return self.r.read.isdisjoint(target) and f["addr"] not in target and f["addr"] + 1 not in target

    @staticmethod
    def _in_place(instruction: Instruction, entry: Load | Store) -> bool:
        """Can the support code move the data between memory and the registers' own place? Not while rows that come
        later have addresses in registers that rows before them overwrite.
        """
        if entry.half or (isinstance(entry, Load) and (entry.half is not None or (
                entry.kind[0] == "i" and width(entry.kind) < 32))):
            return False
        return isinstance(entry, Store) or entry.count == 1 or instruction.encoding in ("DS", "GLOBAL")

    def _access(self, instruction: Instruction, write: bool, size: int, count: int, where: Callable[[], ir.Value],
                mask: ir.Value, two: bool) -> None:
        """``where`` gives the rows of data, once the addresses are read."""
        f, encoding = instruction.fields, instruction.encoding
        if encoding == "DS":
            if two:
                unit = 8 if instruction.mnemonic.endswith("b64") else 4
                unit *= 64 if "stride64" in instruction.mnemonic else 1
                for j in range(2):
                    self._transfer(write, size, self._ds(instruction, f[f"offset{j}"] * unit), where, count, mask,
                                   lds=True, row=j * count)
            else:
                self._transfer(write, size, self._ds(instruction, f["offset0"] | f["offset1"] << 8), where, count, mask,
                               lds=True)
        elif encoding == "GLOBAL":
            self._transfer(write, size, self._global(instruction), where, count, mask, lds=False)
        elif encoding == "SCRATCH":
            total, byte = self._scratch(instruction)

            def access(distance: int, width: int, data: ir.Value, row: int) -> None:
                self._transfer(write, width, byte(distance), lambda: data, 1, mask, lds=False, row=row)
            self._interleaved(write, size, count, total, where(), mask, access)
        elif encoding == "FLAT":
            self._flat(instruction, write, size, count, where, mask)
        else:
            raise Unsupported(encoding)

    def _flat(self, instruction: Instruction, write: bool, size: int, count: int, where: Callable[[], ir.Value],
              mask: ir.Value) -> None:
        """Dword by dword, since private lanes are interleaved so."""
        f = instruction.fields
        base = self.w.splat(self.w.add(self.r.fetch(Operand("addr", VGPR + f["addr"], 2), "u64", None),
                                       f["offset"] & 0xfff))
        split = self._function("flat_split", I64, PTR, PTR, I64)

        def access(distance: int, width: int, data: ir.Value, row: int) -> None:
            places = self.buffer(I64, self.r.lanes, "addresses")
            self._store_rows(places, self.w.add(base, distance))
            shared = self.b.call(split, [self.context, places, mask])
            rest = self.b.and_(mask, self.b.not_(shared))
            self._move(write, width, places, data, 1, rest, lds=False, row=row)
            self._move(write, width, places, data, 1, shared, lds=True, row=row)
        self._interleaved(write, size, count, base, where(), mask, access)

    def _interleaved(self, write: bool, size: int, count: int, addresses: Value, data: ir.Value, mask: ir.Value,
                     access: Callable[[int, int, ir.Value, int], None]) -> None:
        """Elements one by one, and bytes one by one where a lane's address is not aligned: the next dword is elsewhere.

        :param access: moves the (distance, bytes) of each lane between memory and a row of data.
        """
        w, active = self.w, self.r.active()
        if size == 1:
            access(0, 1, data, 0)
            return
        odd = w.pack(w.ne(w.and_(addresses, size - 1), 0))
        odd = self.b.and_(mask, odd if self.r.lanes == 64 else self.b.zext(odd, I64))
        with self.b.if_else(self.b.icmp_unsigned("!=", odd, ir.Constant(I64, 0)), likely=False) as (unaligned, aligned):
            with aligned:
                for i in range(count):
                    access(4 * i, size, data, i)
            with unaligned:
                for i in range(count):
                    self._bytewise(write, size, 4 * i, data, i, active, access)

    def _bytewise(self, write: bool, size: int, distance: int, data: ir.Value, row: int, active: Value,
                  access: Callable[[int, int, ir.Value, int], None]) -> None:
        w, place = self.w, self.buffer(I32, self.r.lanes, "byte")
        rows = self.b.gep(data, [ir.Constant(I32, row)], source_etype=self._row)
        value = self._load_rows(rows, "u32")
        total = w.number("u32", 0, scalar=False)
        for j in range(size):
            if write:
                self._store_rows(place, w.and_(w.shr(value, 8 * j), 255))
            access(distance + j, 1, place, 0)
            if not write:
                total = w.or_(total, w.shl(self._load_rows(place, "u32"), 8 * j))
        if not write:
            self._store_rows(rows, w.select(active, total, value))

    def _put_loaded(self, entry: Load, register: int, rows: list[Value]) -> None:
        active, w = self.r.write_mask_of(), self.w
        for i, value in enumerate(rows):
            bits = width(entry.kind)
            if entry.kind[0] == "i" and bits < 32:
                value = w.bits(w.shr(w.bits(w.shl(value, 32 - bits), "i32"), 32 - bits), "u32")
            if entry.half is not None:
                low = w.and_(value, 0xffff)
                old = self.r.vgpr(register)
                value = w.or_(w.and_(old, 0xffff), w.shl(low, 16)) if entry.half \
                    else w.or_(w.and_(old, 0xffff0000), low)
            self.r.set_vgpr(register + i, value, active)

    # ---- the DS instructions that use no memory

    def between_lanes(self, instruction: Instruction) -> None:
        """``ds_swizzle_b32`` and ``ds_bpermute_b32``: lanes that are not active give 0."""
        f, w, r = instruction.fields, self.w, self.r
        offset = f["offset0"] | f["offset1"] << 8
        if instruction.mnemonic == "ds_swizzle_b32":
            sources = [int(x) for x in swizzle_sources(offset, r.lanes)]
            result, alive = w.permute(r.vgpr(f["addr"]), sources), w.permute(r.active(), sources)
        else:
            index = w.and_(w.shr(w.add(r.vgpr(f["addr"]), offset), 2), r.lanes - 1)
            result = w.gather_lanes(r.vgpr(f["data0"]), index)
            alive = w.ne(w.gather_lanes(w.cast(r.active(), "u8"), index), 0)
        r.set_vgpr(f["vdst"], w.select(alive, result, 0), r.write_mask_of())

    # ---- scalar loads

    def scalar_offset(self, instruction: Instruction) -> Value:
        """The constant and the SGPR (u64); each part of a scalar address is without its two low bits."""
        f = instruction.fields
        extra: Value = self.w.number("u64", _signed(f["offset"], 21) & -4)
        if f["soffset"] != NULL:
            register = self.r.fetch(Operand("soffset", f["soffset"]), "u32", None)
            extra = self.w.add(extra, self._wide(self.w.and_(register, -4)))
        return extra

    def read_scalars(self, address: ir.Value, place: ir.Value, nbytes: ir.Value) -> ir.Value:
        """Consecutive bytes to ``place``; was it allowed?"""
        load = self._function("scalar_load", I1, PTR, I64, PTR, I64)
        return self.b.call(load, [self.context, address, place, nbytes])

    def put_scalars(self, data: Operand, place: ir.Value) -> None:
        for i in range(data.width):
            where = self.b.gep(place, [ir.Constant(I32, i)], source_etype=I32)
            if data.code != NULL:
                self.r.write_sgpr(data.code + i, self.b.load(where, typ=I32))

    def scalar_load(self, instruction: Instruction) -> None:
        f = instruction.fields
        data = instruction.operand("sdata")
        assert data is not None
        base = self.w.and_(self.r.fetch(Operand("sbase", f["sbase"] * 2, 2), "u64", None), -4)
        address = self.w.add(base, self.scalar_offset(instruction)).parts[0]
        place, nbytes = self.buffer(I32, data.width, "scalars"), ir.Constant(I64, 4 * data.width)
        if not self.r.inline:
            self.fault(self.read_scalars(address, place, nbytes))
            self.put_scalars(data, place)
            return

        def slow() -> list[ir.Value]:
            self.fault(self.read_scalars(address, place, nbytes))
            return [self.b.load(self.b.gep(place, [ir.Constant(I32, i)], source_etype=I32), typ=I32)
                    for i in range(data.width)]
        near = Transfers(self.r, self.w, self.context, self.field)
        for i, value in enumerate(near.scalars(SCALAR_TLB, address, data.width, slow)):
            if data.code != NULL:
                self.r.write_sgpr(data.code + i, value)

    # ---- atomics

    def atomic(self, instruction: Instruction, entry: Atomic) -> None:
        f, encoding = instruction.fields, instruction.encoding
        if encoding not in ("GLOBAL", "FLAT", "DS"):
            raise Unsupported("this form of atomic")
        step = 2 if entry.kind.endswith("64") else 1
        mask = self._mask()
        if encoding == "DS":
            returns = "_rtn" in instruction.mnemonic
            if "2addr" in instruction.mnemonic:
                unit = 4 * step * (64 if "stride64" in instruction.mnemonic else 1)
                # Both operands are read before the first result is written.
                addresses = [self._ds(instruction, f[f"offset{j}"] * unit) for j in range(2)]
                kept = [[self._operand(f[f"data{j}"], step)] for j in range(2)]
                found = [self._exchange(entry, addresses[j], kept[j], [(mask, 1)]) for j in range(2)]
            else:
                sources = [f["data0"], f["data1"]] if entry.compares else [f["data0"]]
                where = self._ds(instruction, f["offset0"] | f["offset1"] << 8)
                found = [self.exchange(entry, where, sources, [(mask, 1)])]
        else:
            returns = bool(f["glc"])
            sources = [f["data"], f["data"] + step] if entry.compares else [f["data"]]
            if encoding == "GLOBAL":
                found = [self.exchange(entry, self._global(instruction), sources, [(mask, 0)])]
            else:
                base = self.r.fetch(Operand("addr", VGPR + f["addr"], 2), "u64", None)
                where = self.w.splat(self.w.add(base, f["offset"] & 0xfff))
                operands = [self._operand(s, step) for s in sources]
                places = self.buffer(I64, self.r.lanes, "addresses")
                self._store_rows(places, where)
                split = self._function("flat_split", I64, PTR, PTR, I64)
                shared = self.b.call(split, [self.context, places, mask])
                rest = self.b.and_(mask, self.b.not_(shared))
                if step == 1:
                    found = [self._exchange(entry, None, operands, [(rest, 0), (shared, 1)])]
                else:
                    found = [self._exchange_flat64(entry, where, operands, rest, shared)]
        if returns:
            for i, old in enumerate(found):
                self.r.put(Operand("vdst", VGPR + f["vdst"] + i * step, step), old.kind, old, self.r.write_mask_of())

    def _exchange_flat64(self, entry: Atomic, where: Value, operands: list[Value], rest: ir.Value,
                         shared: ir.Value) -> Value:
        """Lanes with private addresses have their two dwords a row apart, and nobody else has them: plain accesses do.

        ``where``: the addresses as given; those in the buffer are translated.
        """
        w, b = self.w, self.b
        own = w.eq(w.shr(where, 32), Scalar("u64", self.field("private_high")))
        bits = w.pack(own)
        private = b.and_(rest, bits if self.r.lanes == 64 else b.zext(bits, I64))
        places = self._load_rows(self.buffer(I64, self.r.lanes, "addresses"), "u64")
        data = self.buffer(I32, 2 * self.r.lanes, "halves")

        def both(write: bool) -> None:
            for i in range(2):
                row = w.add(places, 4 * self.r.lanes * i)
                self._transfer(write, 4, row, lambda: data, 1, private, lds=False, row=i)
        both(False)
        mine = w.join(self._load_rows(data, "u32", 0), self._load_rows(data, "u32", 1))
        given = [w.splat(w.bits(x, entry.kind)) for x in (mine, *operands)]
        new = w.splat(w.bits(entry.function(w, *given), "u64"))
        self._store_rows(data, w.low(new), 0)
        self._store_rows(data, w.high(new), 1)
        both(True)
        others = b.and_(rest, b.not_(private))
        return w.select(own, mine, self._exchange(entry, places, operands, [(others, 0), (shared, 1)]))

    def _operand(self, register: int, dwords: int) -> Value:
        return self.r.fetch(Operand("data", VGPR + register, dwords), "u64" if dwords == 2 else "u32", None)

    def exchange(self, entry: Atomic, addresses: Value, sources: list[int],
                 sides: list[tuple[ir.Value, int]]) -> Value:
        """Lane after lane: memory <- entry(memory, registers of ``sources``); the old values.

        :param sides: (mask of lanes, 1 for LDS) in turn.
        """
        step = 2 if entry.kind.endswith("64") else 1
        return self._exchange(entry, addresses, [self._operand(s, step) for s in sources], sides)

    def _exchange(self, entry: Atomic, addresses: Value | None, operands: list[Value],
                  sides: list[tuple[ir.Value, int]]) -> Value:
        """``addresses`` None: they are in their buffer already."""
        kind = operands[0].kind
        helper = self._atomic_function(entry, kind)
        places = self.buffer(I64, self.r.lanes, "addresses")
        if addresses is not None:
            self._store_rows(places, addresses)
        buffers = []
        for number, operand in enumerate([*operands, operands[0]]):
            buffers.append(self.buffer(ir_type(kind), self.r.lanes, f"atomic{number}"))
            self._store_rows(buffers[-1], operand)
        second = buffers[1] if len(operands) > 1 else buffers[0]
        for chosen, lds in sides:
            self.fault(self.b.call(helper, [self.context, places, buffers[0], second, buffers[-1], chosen,
                                            ir.Constant(I1, lds)]))
        return self._load_rows(buffers[-1], kind)

    def _atomic_function(self, entry: Atomic, kind: str) -> ir.Function:
        """ok = f(context, addresses, data, compare, old, mask, lds): lane after lane, each by compare-and-swap."""
        key = (id(entry), kind, self.w.mode.value)
        known = self._atomics
        if key in known:
            return known[key]
        name = f"atomic{len(known)}"
        function = ir.Function(self.module, ir.FunctionType(I1, [PTR, PTR, PTR, PTR, PTR, I64, I1]), name)
        function.linkage = "internal"
        context, places, data, compare, out, mask, lds = function.args
        integer = ir_type(kind)
        size = width(kind) // 8
        entry_block = function.append_basic_block("entry")
        head, lane, local, inside, distant, found, again, done, fault, good, skip = (
            function.append_basic_block(n) for n in
            ("head", "lane", "local", "inside", "distant", "found", "again", "done", "fault", "good", "skip"))
        b = ir.IRBuilder(entry_block)
        b.branch(head)
        b.position_at_end(head)
        left = b.phi(I64)
        left.add_incoming(mask, entry_block)
        b.cbranch(b.icmp_unsigned("==", left, ir.Constant(I64, 0)), good, lane)
        b.position_at_end(lane)
        cttz = self._function("llvm.cttz.i64", I64, I64, I1)
        number = b.call(cttz, [left, ir.Constant(I1, 1)])
        rest = b.and_(left, b.sub(left, ir.Constant(I64, 1)))
        address = b.load(b.gep(places, [number], source_etype=I64), typ=I64)
        new = b.load(b.gep(data, [number], source_etype=integer), typ=integer)
        other = b.load(b.gep(compare, [number], source_etype=integer), typ=integer)
        b.cbranch(lds, local, distant)
        b.position_at_end(local)
        def field(name: str) -> ir.Value:
            place = b.gep(context, [ir.Constant(I64, self.fields[name])], source_etype=ir.IntType(8))
            return b.load(place, typ=I64)
        limit = field("lds_bytes")
        fits = b.icmp_unsigned("<=", b.add(address, ir.Constant(I64, size)), limit)
        b.cbranch(fits, inside, skip)
        b.position_at_end(inside)
        local_pointer = b.add(field("lds"), address)
        b.branch(found)
        b.position_at_end(distant)
        helper = self._function("tlb_write", I64, PTR, I64)
        pointer = b.call(helper, [context, address])
        b.cbranch(b.icmp_unsigned("==", pointer, ir.Constant(I64, 0)), fault, found)
        b.position_at_end(found)
        merged = b.phi(I64)
        merged.add_incoming(local_pointer, inside)
        merged.add_incoming(pointer, distant)
        place = b.inttoptr(merged, PTR)
        first = b.load(place, typ=integer)
        b.branch(again)
        b.position_at_end(again)
        old = b.phi(integer)
        old.add_incoming(first, found)
        words = Words(b, self.r.lanes, self.r.chunk, self.w.mode, self.w.active)
        def typed(part: ir.Value) -> Value:
            return words.bits(Scalar(kind, part), entry.kind)
        arguments = [typed(old), typed(new)] + ([typed(other)] if entry.compares else [])
        result = words.bits(entry.function(words, *arguments), kind).parts[0]
        pair = b.cmpxchg(place, old, result, "monotonic", "monotonic")
        seen, ok = b.extract_value(pair, 0), b.extract_value(pair, 1)
        old.add_incoming(seen, b.block)
        b.cbranch(ok, done, again)
        b.position_at_end(done)
        b.store(old, b.gep(out, [number], source_etype=integer))
        b.branch(head)
        left.add_incoming(rest, done)
        b.position_at_end(skip)
        b.store(ir.Constant(integer, 0), b.gep(out, [number], source_etype=integer))
        b.branch(head)
        left.add_incoming(rest, skip)
        b.position_at_end(fault)
        b.ret(ir.Constant(I1, 0))
        b.position_at_end(good)
        b.ret(ir.Constant(I1, 1))
        known[key] = function
        return function
