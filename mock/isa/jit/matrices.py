"""WMMA in native code: a function of the library for each kind of tile.

In the state the accumulator's registers, lanes contiguous, are the 16x16 tile row by row, for both wave sizes: row i *
(lanes / 16) + l / 16, column l mod 16 is dword 16 * row + column. So a row is one vector; the meaning is that of
:mod:`mock.isa.wmma`.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from mock.isa.decode import Instruction, Operand
from mock.isa.jit import library
from mock.isa.jit.registers import VGPR, Registers
from mock.isa.jit.values import I16, I32, PTR, Unsupported, Value

__all__ = ["multiply"]

SIZE = 16
_HALF, _FLOAT = ir.HalfType(), ir.FloatType()
_WIDTH = {"f16": 16, "bf16": 16, "iu8": 8, "iu4": 4}
_WORDS = ir.VectorType(I32, SIZE)
Buffer = Callable[[ir.Type, int, str], ir.Value]


def _row(kind: ir.Type) -> ir.VectorType:
    return ir.VectorType(kind, SIZE)


def _all(value: float, kind: ir.Type = I32) -> ir.Constant:
    return ir.Constant(_row(kind), [ir.Constant(kind, value)] * SIZE)


class _Tiles:
    """The function's body. ``neg``, ``neg_hi``, ``op_sel``, ``clamp``: the instruction's modifiers."""

    def __init__(self, name: str, lanes: int, source: str, accumulator: str, neg: int, neg_hi: int, op_sel: int,
                 clamp: int) -> None:
        self.lanes, self.source, self.accumulator = lanes, source, accumulator
        self.neg, self.neg_hi, self.half, self.clamp = neg, neg_hi, op_sel >> 2 & 1, clamp
        self.module = ir.Module(name)
        self.function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), [PTR] * 4), name)
        self.b = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.kind = I32 if accumulator == "i32" else _FLOAT

    def text(self) -> str:
        b = self.b
        left, right, start, result = self.function.args
        rows = b.alloca(ir.ArrayType(_row(self.kind), SIZE))
        rows.type = PTR         # untyped: stored as vectors, read as elements
        for k, part in enumerate(self._elements(left, 0)):
            b.store(part, b.gep(rows, [ir.Constant(I32, k)], source_etype=_row(self.kind)))
        columns = self._elements(right, 1)
        before, head, out = b.block, self.function.append_basic_block("row"), self.function.append_basic_block("out")
        b.branch(head)
        b.position_at_end(head)
        row = b.phi(I32)
        row.add_incoming(ir.Constant(I32, 0), before)
        old = b.load(b.gep(start, [row], source_etype=_WORDS), typ=_WORDS, align=4)
        total: ir.Value = _all(0) if self.accumulator == "i32" else self._start(old)
        for k, column in enumerate(columns):
            place = b.gep(rows, [b.add(row, ir.Constant(I32, SIZE * k))], source_etype=self.kind)
            one = b.insert_element(ir.Constant(_row(self.kind), ir.Undefined), b.load(place, typ=self.kind),
                                   ir.Constant(I32, 0))
            whole = b.shuffle_vector(one, ir.Constant(_row(self.kind), ir.Undefined), _all(0))
            total = self._step(whole, column, total)
        b.store(self._end(total, old), b.gep(result, [row], source_etype=_WORDS), align=4)
        following = b.add(row, ir.Constant(I32, 1))
        row.add_incoming(following, head)
        b.cbranch(b.icmp_unsigned("<", following, ir.Constant(I32, SIZE)), head, out)
        b.position_at_end(out)
        b.ret_void()
        return str(self.module)

    def _intrinsic(self, name: str, kind: ir.Type, count: int) -> ir.Function:
        return self.module.globals.get(name) or ir.Function(
            self.module, ir.FunctionType(_row(kind), [_row(kind)] * count), name)

    def _elements(self, place: ir.Value, which: int) -> list[ir.Value]:
        """For each k the row (of A) or column (of B) elements."""
        b, width = self.b, _WIDTH[self.source]
        found: list[ir.Value] = []
        for register in range(SIZE * width // 32):
            word = b.load(b.gep(place, [ir.Constant(I32, register * self.lanes)], source_etype=I32), typ=_WORDS,
                          align=4)
            for part in range(32 // width):
                if self.kind is _FLOAT:
                    value = self._widened(b.lshr(word, _all(16 * part)), self.source)
                    if (self.neg_hi if part else self.neg) >> which & 1:
                        value = b.fneg(value)
                elif self.neg >> which & 1:
                    value = b.ashr(b.shl(word, _all(32 - width * (part + 1))), _all(32 - width))
                else:
                    value = b.and_(b.lshr(word, _all(width * part)), _all((1 << width) - 1))
                found.append(value)
        return found

    def _widened(self, low: ir.Value, kind: str) -> ir.Value:
        """The low halves as float32."""
        b = self.b
        if kind == "f16":
            return b.fpext(b.bitcast(b.trunc(low, _row(I16)), _row(_HALF)), _row(_FLOAT))
        return b.bitcast(b.shl(low, _all(16)), _row(_FLOAT))

    def _start(self, old: ir.Value) -> ir.Value:
        b = self.b
        value = b.bitcast(old, _row(_FLOAT)) if self.accumulator == "f32" else \
            self._widened(b.lshr(old, _all(16 * self.half)), self.accumulator)
        if self.neg_hi >> 2 & 1:
            value = b.call(self._intrinsic("llvm.fabs.v16f32", _FLOAT, 1), [value])
        return b.fneg(value) if self.neg >> 2 & 1 else value

    def _step(self, a: ir.Value, b: ir.Value, total: ir.Value) -> ir.Value:
        if self.accumulator == "i32":
            return self.b.add(total, self.b.mul(a, b))
        return self.b.call(self._intrinsic("llvm.fma.v16f32", _FLOAT, 3), [a, b, total])

    def _end(self, total: ir.Value, old: ir.Value) -> ir.Value:
        b = self.b
        if self.accumulator == "i32":       # sixteen products do not overflow; their sum with C may
            return b.call(self._intrinsic("llvm.sadd.sat.v16i32", I32, 2), [old, total]) if self.clamp \
                else b.add(old, total)
        # Any NaN is this one.
        total = b.select(b.fcmp_unordered("uno", total, total), _all(float("nan"), _FLOAT), total)
        if self.accumulator == "f32":
            return b.bitcast(total, _WORDS)
        if self.accumulator == "f16":
            short = b.zext(b.bitcast(b.fptrunc(total, _row(_HALF)), _row(I16)), _WORDS)
        else:
            bits = b.bitcast(total, _WORDS)
            odd = b.and_(b.lshr(bits, _all(16)), _all(1))
            even = b.lshr(b.add(b.add(bits, _all(0x7fff)), odd), _all(16))
            short = b.select(b.fcmp_unordered("uno", total, total), _all(0x7fc0), even)
        kept = b.and_(old, _all(0xffff if self.half else 0xffff0000))
        return b.or_(kept, b.shl(short, _all(16 * self.half)))


def multiply(instruction: Instruction, r: Registers, buffer: Buffer, shared: dict[str, None]) -> None:
    """``v_wmma_*``: read the tiles, call the function, write the registers that EXEC allows.

    :param buffer: gives a stack slot (element type, count, name).
    """
    _, _, accumulator, _, source = instruction.mnemonic.split("_")
    f = instruction.fields
    modifiers = (f["neg"], f["neg_hi"], f["op_sel"], f["clamp"])
    name = f"wmma{r.lanes}_{accumulator}_{source}_" + "_".join(map(str, modifiers))
    if library.named(name) is None:
        library.keep(name, _Tiles(name, r.lanes, source, accumulator, *modifiers).text())
    shared[name] = None
    count = 256 // r.lanes
    width = SIZE * _WIDTH[source] // 32
    places = [_place(instruction, operand, n, r, buffer(I32, n * r.lanes, f"tile{i}"))
              for i, (operand, n) in enumerate(zip(instruction.operands[1:4], (width, width, count), strict=True))]
    out = buffer(I32, 256, "tile3")
    callee = r.b.module.globals.get(name) or ir.Function(
        r.b.module, ir.FunctionType(ir.VoidType(), [PTR] * 4), name)
    r.b.call(callee, [*places, out])
    first, active = instruction.operands[0].code - VGPR, r.write_mask_of()
    for i in range(count):
        parts = [r.b.load(r.b.gep(out, [ir.Constant(I32, i * r.chunks + j)], source_etype=r.vector), typ=r.vector,
                          align=4) for j in range(r.chunks)]
        r.set_vgpr(first + i, Value("u32", parts, False), active)


def _place(instruction: Instruction, operand: Operand, count: int, r: Registers, place: ir.Value) -> ir.Value:
    """Where a tile's registers lie, one after the other: the state, or a copy."""
    constant = operand.code < VGPR
    if constant and operand.field != "src2":
        raise Unsupported("a tile of scalars")
    if not constant and not r.promote_vectors:
        return r.vgpr_pointer(operand.code - VGPR, count, written=False)
    for i in range(count):
        value = r.words.splat(r.fetch(operand, "u32", instruction.literal)) if constant \
            else r.vgpr(operand.code - VGPR + i)
        for j, part in enumerate(value.parts):
            r.b.store(part, r.b.gep(place, [ir.Constant(I32, i * r.chunks + j)], source_etype=r.vector), align=4)
    return place
