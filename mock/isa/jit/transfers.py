"""Loads and stores written out where the lanes' addresses lie together, as those of most code do.

Lanes are looked at a host vector (*chunk*) at a time: its lanes access consecutive elements (a *run*), or, for loads,
all the same ones. One comparison of the address registers tells, at run time; the page is looked up in the software
TLB once a chunk. Everything else (gaps, inactive lanes, page crossings, a TLB miss) goes the slow way, through the
support code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from mock.isa.jit.context import PAGE, TLB_ENTRIES
from mock.isa.jit.registers import Registers
from mock.isa.jit.values import I8, I16, I32, I64, PTR, Value, Words

__all__ = ["Place", "Transfers"]

_ELEMENT = {1: I8, 2: I16, 4: I32}
_LIKELY = (1000, 1)


@dataclass
class Place:
    """Where lanes access memory: ``low`` + ``high`` * 2**32 + ``base`` + ``offset``; all that is read of registers."""

    low: Value
    high: Value | None = None
    base: ir.Value | None = None
    offset: int = 0
    table: int | None = None        # of the software TLB; None: LDS, whose addresses wrap at 32 bits


class Transfers:
    """:param field: reads a 64-bit field of the context."""

    def __init__(self, registers: Registers, words: Words, context: ir.Value,
                 field: Callable[[str], ir.Value]) -> None:
        self.r, self.w, self.b, self.context, self.field = registers, words, registers.b, context, field
        self.vector = ir.VectorType(I32, words.chunk)

    # ---- the pieces

    def _number(self, value: int, kind: ir.Type = I64) -> ir.Constant:
        return ir.Constant(kind, value)

    def lookup(self, table: int, address: ir.Value) -> tuple[ir.Value, ir.Value]:
        """(is the page in the TLB, the host's address as an integer)."""
        b = self.b
        page = b.lshr(address, self._number(12))
        index = b.and_(b.xor(page, b.lshr(address, self._number(22))), self._number(TLB_ENTRIES - 1))
        where = b.add(b.shl(index, self._number(4)), self._number(table))
        entry = b.gep(self.context, [where], source_etype=I8)
        tag = b.load(entry, typ=I64)
        second = b.load(b.gep(entry, [self._number(8)], source_etype=I8), typ=I64)
        return (b.icmp_unsigned("==", tag, b.add(page, self._number(1))),
                b.add(second, b.and_(address, self._number(PAGE - 1))))

    def _inside(self, address: ir.Value, span: int) -> ir.Value:
        return self.b.icmp_unsigned("<=", self.b.and_(address, self._number(PAGE - 1)), self._number(PAGE - span))

    def _all(self, parts: list[ir.Value]) -> ir.Value:
        """Are all of these vectors of bits ones?"""
        total = parts[0]
        for part in parts[1:]:
            total = self.b.and_(total, part)
        bits = self.b.bitcast(total, ir.IntType(self.w.chunk))
        return self.b.icmp_unsigned("==", bits, ir.Constant(bits.type, (1 << self.w.chunk) - 1))

    def _splat(self, part: ir.Value) -> ir.Value:
        n = self.w.chunk
        vector = ir.VectorType(part.type, n)
        one = self.b.insert_element(ir.Constant(vector, ir.Undefined), part, self._number(0, I32))
        return self.b.shuffle_vector(one, ir.Constant(vector, ir.Undefined),
                                     ir.Constant(ir.VectorType(I32, n), [self._number(0, I32)] * n))

    def _firsts(self, place: Place, span: int) -> tuple[list[ir.Value], ir.Value]:
        """(host addresses of each chunk's first lane, are they good for ``span`` bytes there)."""
        b, addresses, good = self.b, list[ir.Value](), list[ir.Value]()
        if place.table is None:
            base, limit = self.field("lds"), self.field("lds_bytes")
            for low in place.low.parts:
                first = b.add(b.extract_element(low, self._number(0, I32)), self._number(place.offset, I32))
                at = b.zext(first, I64)
                good.append(b.icmp_unsigned("<=", b.add(at, self._number(span)), limit))
                addresses.append(b.add(base, at))
        else:
            for i, low in enumerate(place.low.parts):
                first = b.extract_element(low, self._number(0, I32))
                good.append(b.icmp_unsigned("<=", first, self._number((1 << 32) - span, I32)))
                at = b.zext(first, I64)
                if place.high is not None:
                    high = b.extract_element(place.high.parts[i], self._number(0, I32))
                    at = b.or_(at, b.shl(b.zext(high, I64), self._number(32)))
                if place.base is not None:
                    at = b.add(at, place.base)
                at = b.add(at, self._number(place.offset & (1 << 64) - 1))
                hit, host = self.lookup(place.table, at)
                good += [hit, self._inside(at, span)]
                addresses.append(host)
        if not self.r.full:
            good.append(b.icmp_unsigned("==", self.r.exec_bits(),
                                        ir.Constant(self.r.mask_type, (1 << self.r.lanes) - 1)))
        total = good[0]
        for bit in good[1:]:
            total = b.and_(total, bit)
        return addresses, total

    def _shapes(self, place: Place, stride: int) -> tuple[ir.Value, ir.Value]:
        """(is each chunk a run, is each chunk's address one)."""
        b, n = self.b, self.w.chunk
        steps = ir.Constant(self.vector, [self._number(stride * i, I32) for i in range(n)])
        runs, same = [], []
        for low in place.low.parts:
            first = self._splat(b.extract_element(low, self._number(0, I32)))
            runs.append(b.icmp_unsigned("==", low, b.add(first, steps)))
            same.append(b.icmp_unsigned("==", low, first))
        high = [b.icmp_unsigned("==", part, self._splat(b.extract_element(part, self._number(0, I32))))
                for part in (place.high.parts if place.high is not None else [])]
        return self._all(runs + high), self._all(same + high)

    # ---- between consecutive elements in memory and rows of lanes

    def _pick(self, a: ir.Value, b: ir.Value, numbers: list[int]) -> ir.Value:
        return self.b.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(numbers)),
                                                       [self._number(i, I32) for i in numbers]))

    def _apart(self, wide: list[ir.Value]) -> list[ir.Value]:
        """``count`` host vectors of consecutive elements -> ``count`` rows."""
        n, count = self.w.chunk, len(wide)
        if count == 1:
            return wide
        if count == 2:
            return [self._pick(wide[0], wide[1], list(range(i, 2 * n, 2))) for i in range(2)]
        if count == 3:
            rows = []
            for j in range(3):
                at = [3 * i + j for i in range(n)]
                low = self._pick(wide[0], wide[1], [p if p < 2 * n else 0 for p in at])
                rows.append(self._pick(low, wide[2], [i if p < 2 * n else p - n for i, p in enumerate(at)]))
            return rows
        half = n // 2
        pairs = [[self._pick(wide[2 * i], wide[2 * i + 1], list(range(j, 2 * n, 4)) + list(range(j + 1, 2 * n, 4)))
                  for i in range(2)] for j in (0, 2)]
        low, high = [*range(half), *range(n, n + half)], [*range(half, n), *range(n + half, 2 * n)]
        return [self._pick(left, right, order) for left, right in pairs for order in (low, high)]

    def _together(self, rows: list[ir.Value]) -> list[ir.Value]:
        """The other way."""
        n, count = self.w.chunk, len(rows)
        if count == 1:
            return rows
        if count == 2:
            return [self._pick(rows[0], rows[1], [n * (i % 2) + i // 2 + h for i in range(n)])
                    for h in (0, n // 2)]
        if count == 3:
            wide = []
            for h in range(3):
                at = [divmod(n * h + i, 3) for i in range(n)]
                low = self._pick(rows[0], rows[1], [lane + n * j if j < 2 else 0 for lane, j in at])
                wide.append(self._pick(low, rows[2], [i if j < 2 else lane + n for i, (lane, j) in enumerate(at)]))
            return wide
        quarter = n // 4
        pairs = [[self._pick(rows[j], rows[j + 1], [n * (i % 2) + i // 2 + h for i in range(n)])
                  for h in (0, n // 2)] for j in (0, 2)]      # pairs[j][h]: (row j, row j + 1) of the lanes of a half
        found = []
        for h in range(4):
            start = 2 * quarter * (h % 2)
            order = [part for k in range(quarter) for part in
                     (start + 2 * k, start + 2 * k + 1, n + start + 2 * k, n + start + 2 * k + 1)]
            found.append(self._pick(pairs[0][h // 2], pairs[1][h // 2], order))
        return found

    # ---- whole transfers

    def load(self, place: Place, size: int, count: int, slow: Callable[[], list[Value]]) -> list[Value]:
        """``count`` rows (u32) of elements of ``size`` bytes. ``slow`` writes the other way; its rows."""
        b, n, element = self.b, self.w.chunk, _ELEMENT[size]
        addresses, good = self._firsts(place, n * size * count)
        is_run, is_same = self._shapes(place, size * count)
        run, look, same, other, out = (b.append_basic_block(name) for name in ("run", "look", "same", "other", "out"))
        ways = []
        b.cbranch(b.and_(good, is_run), run, look).set_weights(_LIKELY)
        b.position_at_end(run)
        found: list[list[ir.Value]] = [[] for _ in range(count)]
        for address in addresses:
            at, vector = b.inttoptr(address, PTR), ir.VectorType(element, n)
            wide = [b.load(b.gep(at, [self._number(i)], source_etype=vector), typ=vector, align=1)
                    for i in range(count)]
            for row, part in zip(found, self._apart(wide), strict=True):
                row.append(part if size == 4 else b.zext(part, self.vector))
        ways.append((b.block, found))
        b.branch(out)
        b.position_at_end(look)
        b.cbranch(b.and_(good, is_same), same, other)
        b.position_at_end(same)
        found = [[] for _ in range(count)]
        for address in addresses:
            at = b.inttoptr(address, PTR)
            for i, row in enumerate(found):
                one = b.load(b.gep(at, [self._number(i)], source_etype=element), typ=element, align=1)
                row.append(self._splat(one if size == 4 else b.zext(one, I32)))
        ways.append((b.block, found))
        b.branch(out)
        b.position_at_end(other)
        rows = [value.parts for value in slow()]
        ways.append((b.block, rows))
        b.branch(out)
        b.position_at_end(out)
        return [Value("u32", [self._merged([(block, way[i][c]) for block, way in ways])
                              for c in range(len(addresses))], False) for i in range(count)]

    def _merged(self, ways: list[tuple[ir.Block, ir.Value]]) -> ir.Value:
        phi = self.b.phi(ways[0][1].type)
        for block, value in ways:
            phi.add_incoming(value, block)
        return phi

    def store(self, place: Place, size: int, rows: list[Value], slow: Callable[[], None]) -> None:
        """Rows (u32) to consecutive elements of ``size`` bytes."""
        b, n, element, count = self.b, self.w.chunk, _ELEMENT[size], len(rows)
        addresses, good = self._firsts(place, n * size * count)
        is_run, _ = self._shapes(place, size * count)
        run, other, out = (b.append_basic_block(name) for name in ("run", "other", "out"))
        b.cbranch(b.and_(good, is_run), run, other).set_weights(_LIKELY)
        b.position_at_end(run)
        vector = ir.VectorType(element, n)
        for c, address in enumerate(addresses):
            at = b.inttoptr(address, PTR)
            parts = [row.parts[c] if size == 4 else b.trunc(row.parts[c], vector) for row in rows]
            for i, part in enumerate(self._together(parts)):
                b.store(part, b.gep(at, [self._number(i)], source_etype=vector), align=1)
        b.branch(out)
        b.position_at_end(other)
        slow()
        b.branch(out)
        b.position_at_end(out)

    def scalars(self, table: int, address: ir.Value, count: int, slow: Callable[[], list[ir.Value]]) -> list[ir.Value]:
        """``count`` consecutive dwords."""
        b = self.b
        hit, host = self.lookup(table, address)
        run, other, out = (b.append_basic_block(name) for name in ("run", "other", "out"))
        b.cbranch(b.and_(hit, self._inside(address, 4 * count)), run, other).set_weights(_LIKELY)
        b.position_at_end(run)
        at = b.inttoptr(host, PTR)
        near = [b.load(b.gep(at, [self._number(i)], source_etype=I32), typ=I32, align=4) for i in range(count)]
        b.branch(out)
        b.position_at_end(other)
        far = slow()
        before = b.block
        b.branch(out)
        b.position_at_end(out)
        return [self._merged([(run, x), (before, y)]) for x, y in zip(near, far, strict=True)]
