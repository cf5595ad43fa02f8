"""Memory instructions on one wave, lane by lane in Python integers: where each byte lies, and what atomics do.

Written from the ISA guide (chapters "Vector memory buffer instructions", "Flat memory instructions", "Data share
operations", "Scalar memory operations"), apart from both executors.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import model_floats as fl
from model_floats import F16, F32, F64, Format, Mode
from model_machine import M0, NULL, Wave, scalar_value
from model_vector import low, signed

from mock.isa.decode import Instruction
from mock.isa.opcodes import BUFFER_FORMATS

WIDTHS = {"u8": 1, "i8": 1, "b8": 1, "u16": 2, "i16": 2, "b16": 2, "b32": 4, "b64": 8, "b96": 12, "b128": 16}


class Memory:
    """Bytes from ``base`` on; LDS; where the wave's private memory begins; the apertures' upper halves."""

    def __init__(self, base: int, content: bytes, lds: bytes, scratch: int, shared: int, private: int) -> None:
        self.base, self.bytes, self.lds = base, bytearray(content), bytearray(lds)
        self.scratch, self.shared, self.private = scratch, shared, private


Byte = Callable[[int], tuple[bytearray, int] | None]
"""Where the n-th byte of an access is: a buffer and an index, or nowhere."""


def _get(byte: Byte, n: int) -> int:
    value = 0
    for i in range(n):
        place = byte(i)
        if place is not None:
            value |= place[0][place[1]] << 8 * i
    return value


def _put(byte: Byte, n: int, value: int) -> None:
    for i in range(n):
        place = byte(i)
        if place is not None:
            place[0][place[1]] = value >> 8 * i & 255


class Access:
    """One instruction on one wave."""

    def __init__(self, instruction: Instruction, wave: Wave, memory: Memory) -> None:
        self.i, self.wave, self.m = instruction, wave, memory
        self.f, self.name = instruction.fields, instruction.mnemonic
        self.op = self.name.partition("_")[2]
        self.lanes = [n for n in range(wave.lanes) if wave.exec >> n & 1]

    def run(self) -> None:
        if self.i.encoding == "SMEM":
            self.scalar()
        elif self.name in ("ds_permute_b32", "ds_bpermute_b32", "ds_swizzle_b32"):
            self.between_lanes()
        elif self.name in ("ds_append", "ds_consume"):
            self.append()
        elif "format" in self.name:
            self.typed()
        elif "_lds_" in self.name:
            self.load_lds()
        elif self.op.startswith("load_"):
            self.load()
        elif self.op.startswith("store_"):
            self.store()
        else:
            self.atomic()

    def v(self, register: int, lane: int, dwords: int = 1) -> int:
        return sum(self.wave.vgpr[register + i][lane] << 32 * i for i in range(dwords))

    def s(self, code: int) -> int:
        return scalar_value(code, "u32", None, self.wave)

    # ---- where

    def linear(self, address: int) -> Byte:
        return lambda i: (self.m.bytes, address + i - self.m.base)

    def shared(self, address: int, size: int) -> Byte:
        """Elements of ``size`` bytes that do not end within the allocation are nowhere."""
        def byte(i: int) -> tuple[bytearray, int] | None:
            start = address + i // size * size
            return (self.m.lds, address + i) if start + size <= len(self.m.lds) else None
        return byte

    def private(self, offset: int, lane: int) -> Byte:
        """Dword d of lane l is at base + (d * lanes + l) * 4."""
        def byte(i: int) -> tuple[bytearray, int]:
            at = low(offset + i)
            return self.m.bytes, self.m.scratch + (at // 4 * self.wave.lanes + lane) * 4 + at % 4 - self.m.base
        return byte

    def places(self, lane: int, element: int) -> list[Byte]:
        """One, or two for the DS instructions with two addresses; ``element`` in bytes."""
        f, name = self.f, self.name
        if self.i.encoding == "DS":
            unit = element * (64 if "stride64" in name else 1)
            offsets = [f["offset0"] | f["offset1"] << 8]
            if "2addr" in name:
                offsets = [f["offset0"] * unit, f["offset1"] * unit]
            start = (self.s(M0) & 0xffff) + 4 * lane if "addtid" in name else self.v(f["addr"], lane)
            plain = self.op.startswith(("load_", "store_"))         # by dwords at most
            return [self.shared(low(start + offset), min(element, 4) if plain else element) for offset in offsets]
        if self.i.encoding == "SCRATCH":
            offset = signed(f["offset"], 13) + (self.v(f["addr"], lane) if f["sve"] else 0)
            return [self.private(offset + (self.s(f["saddr"]) if f["saddr"] != NULL else 0), lane)]
        if self.i.encoding == "GLOBAL":
            if "addtid" in name:
                address = self.wave.pair(f["saddr"]) + 4 * lane
            elif f["saddr"] == NULL:
                address = self.v(f["addr"], lane, 2)
            else:
                address = self.wave.pair(f["saddr"]) + self.v(f["addr"], lane)
            return [self.linear(low(address + signed(f["offset"], 13), 64))]
        if self.i.encoding == "FLAT":
            address = low(self.v(f["addr"], lane, 2) + (f["offset"] & 0xfff), 64)
            if address >> 32 == self.m.shared:
                return [self.shared(low(address), element if self.op.startswith("atomic") else min(element, 4))]
            return [self.private(low(address), lane) if address >> 32 == self.m.private else self.linear(address)]
        return [self.buffer(lane, element)]

    def buffer(self, lane: int, nbytes: int) -> Byte:
        address = self.buffer_address(lane, nbytes)
        return (lambda i: None) if address is None else self.linear(address)

    def buffer_address(self, lane: int, nbytes: int) -> int | None:
        """The address, None where the descriptor's range check refuses it."""
        f = self.f
        words = [self.wave.sgpr[f["srsrc"] * 4 + i] for i in range(4)]
        base, stride = words[0] | (words[1] & 0xffff) << 32, words[1] >> 16 & 0x3fff
        swizzle, records, word3 = words[1] >> 30, words[2], words[3]
        index = (self.v(f["vaddr"], lane) if f["idxen"] else 0) + (lane if word3 >> 23 & 1 else 0)
        offset = low(f["offset"] + (self.v(f["vaddr"] + f["idxen"], lane) if f["offen"] else 0))
        soffset = self.s(f["soffset"])
        select = word3 >> 28 & 3
        if select == 0:
            inside = index < records and (stride == 0 or offset + nbytes <= stride)
        elif select == 1:
            inside = index < records
        elif select == 2:
            inside = records != 0
        else:
            inside = index * stride + offset + soffset + nbytes <= records
        if not inside:
            return None
        if not swizzle:
            return base + soffset + index * stride + offset
        element, together = 2 << swizzle, 8 << (word3 >> 21 & 3)
        return base + soffset + (index // together * stride + offset // element * element) * together \
            + index % together * element + offset % element

    # ---- plain accesses

    def kind(self) -> str:
        return next(part for part in reversed(self.name.split("_")) if part in WIDTHS)

    def load(self) -> None:
        kind, f = self.kind(), self.f
        size = WIDTHS[kind]
        target = f["vdata"] if self.i.encoding == "MUBUF" else f["vdst"]
        found: dict[int, list[int]] = {}
        for lane in self.lanes:
            found[lane] = [_get(byte, size) for byte in self.places(lane, size)]
        for lane, values in found.items():
            for j, value in enumerate(values):
                if kind[0] == "i":
                    value = low(signed(value, 8 * size))
                if "d16" in self.name:
                    old = self.wave.vgpr[target][lane]
                    self.wave.vgpr[target][lane] = old & 0xffff | low(value, 16) << 16 if "_hi" in self.name else \
                        old & 0xffff0000 | low(value, 16)
                    continue
                dwords = max(size // 4, 1)
                for i in range(dwords):
                    self.wave.vgpr[target + j * dwords + i][lane] = low(value >> 32 * i)

    def store(self) -> None:
        size, f = WIDTHS[self.kind()], self.f
        dwords = max(size // 4, 1)
        fields = {"DS": ("data0", "data1"), "MUBUF": ("vdata",)}.get(self.i.encoding, ("data",))
        for source in range(2 if "2addr" in self.name else 1):
            for lane in self.lanes:
                byte = self.places(lane, size)[source]
                value = self.v(f[fields[source]], lane, dwords)
                _put(byte, size, value >> 16 if "_hi" in self.name else value)

    def load_lds(self) -> None:
        kind = self.kind()
        for lane in self.lanes:
            value = _get(self.places(lane, WIDTHS[kind])[0], WIDTHS[kind])
            value = low(signed(value, 8 * WIDTHS[kind])) if kind[0] == "i" else value
            _put(self.shared((self.s(M0) & 0xffff) + self.f["offset"] + 4 * lane, 4), 4, value)

    def scalar(self) -> None:
        data = self.i.operand("sdata")
        assert data is not None
        f, buffered = self.f, "buffer" in self.name
        code = 2 * f["sbase"]
        extra = low((signed(f["offset"], 21) & ~3) + (self.s(f["soffset"]) & ~3 if f["soffset"] != NULL else 0), 64)
        base, size = self.wave.pair(code) & ~3, 1 << 64
        if buffered:
            stride, records = self.wave.sgpr[code + 1] >> 16 & 0x3fff, self.wave.sgpr[code + 2]
            base, size = base & (1 << 48) - 1, records * stride if stride else records
        found = []
        for i in range(data.width):
            if buffered and extra + 4 * i + 4 > size:
                found.append(0)
            else:
                found.append(_get(self.linear(low(base + extra + 4 * i, 64)), 4))
        for i, value in enumerate(found):
            if data.code != NULL:
                self.wave.sgpr[data.code + i] = value

    # ---- lanes and counters

    def between_lanes(self) -> None:
        f, n = self.f, self.wave.lanes
        offset = f["offset0"] | f["offset1"] << 8
        found = {}
        if self.name == "ds_permute_b32":
            sent = {}
            for lane in self.lanes:
                sent[low(self.v(f["addr"], lane) + offset) // 4 % n] = self.v(f["data0"], lane)
            found = {lane: sent.get(lane, 0) for lane in self.lanes}
        for lane in self.lanes:
            if self.name == "ds_bpermute_b32":
                source = low(self.v(f["addr"], lane) + offset) // 4 % n
                found[lane] = self.v(f["data0"], source) if source in self.lanes else 0
            elif self.name == "ds_swizzle_b32":
                source = self.swizzled(offset, lane)
                found[lane] = self.v(f["addr"], source) if source in self.lanes else 0
        for lane, value in found.items():
            self.wave.vgpr[f["vdst"]][lane] = value

    @staticmethod
    def swizzled(pattern: int, lane: int) -> int:
        group, at = lane // 32 * 32, lane % 32
        if pattern >= 0xe000:
            mask = pattern & 31
            back = int(f"{at:05b}"[::-1], 2)
            return group + (back >> mask.bit_count() | at & mask)
        if pattern >= 0xc000:
            keep, amount = pattern & 31, pattern >> 5 & 31
            turned = at - amount if pattern >> 10 & 1 else at + amount
            return group + (at & keep | turned & ~keep & 31)
        if pattern >= 0x8000:
            return lane // 4 * 4 + (pattern >> lane % 4 * 2 & 3)
        return group + ((at & pattern & 31 | pattern >> 5 & 31) ^ pattern >> 10 & 31)

    def append(self) -> None:
        if not self.lanes:
            return
        f = self.f
        byte = self.shared((self.s(M0) & 0xffff) + (f["offset0"] | f["offset1"] << 8), 4)
        old = _get(byte, 4)
        _put(byte, 4, low(old + len(self.lanes) * (1 if self.name == "ds_append" else -1)))
        for lane in self.lanes:
            self.wave.vgpr[f["vdst"]][lane] = old

    # ---- atomics

    def atomic(self) -> None:
        f, name, ds = self.f, self.name, self.i.encoding == "DS"
        bits = 64 if name.endswith("64") else 32
        dwords = bits // 32
        returns = "_rtn" in name if ds else bool(f["glc"])
        target = f["vdata"] if self.i.encoding == "MUBUF" else f["vdst"]
        two = any(part in name for part in ("cmp", "mskor", "wrap"))
        data = f["data0"] if ds else f["vdata" if self.i.encoding == "MUBUF" else "data"]
        second = f["data1"] if ds else data + dwords
        given = {lane: (self.v(data, lane, dwords), self.v(second, lane, dwords) if two or "2addr" in name else 0)
                 for lane in self.lanes}
        places = {lane: self.places(lane, bits // 8) for lane in self.lanes}
        count = 2 if "2addr" in name else 1
        for j in range(count):
            for lane in self.lanes:
                byte = places[lane][j]
                old = _get(byte, bits // 8)
                value = given[lane][j] if count == 2 else given[lane][0]
                _put(byte, bits // 8, low(changed(name, bits, old, value, given[lane][1], self.wave.mode), bits))
                if returns:
                    for i in range(dwords):
                        self.wave.vgpr[target + j * dwords + i][lane] = low(old >> 32 * i)

    # ---- formats

    def typed(self) -> None:
        f, name, wave = self.f, self.name, self.wave
        word3 = wave.sgpr[f["srsrc"] * 4 + 3]
        code = f["format"] if self.i.encoding == "MTBUF" else word3 >> 12 & 63
        *widths, number = BUFFER_FORMATS[code].removeprefix("BUF_FMT_").split("_")
        bits = [int(w) for w in reversed(widths)]
        nbytes, count = sum(bits) // 8, len(name.rpartition("_")[2])
        whole = number in ("UINT", "SINT")
        for lane in self.lanes:
            byte = self.buffer(lane, nbytes)
            if "_store_" in name:
                total, at = 0, 0
                for i, width in enumerate(bits):
                    value = 0 if i >= count else self.source(f["vdata"], i, lane, number)
                    total |= encoded(value, width, number) << at
                    at += width
                _put(byte, nbytes, total)
                continue
            one = 1 if whole else 0x3f800000
            values, raw, at = [0, 0, 0, one], _get(byte, nbytes), 0
            for i, width in enumerate(bits):
                values[i] = decoded(raw >> at & (1 << width) - 1, width, number)
                at += width
            if self.i.encoding == "MUBUF":
                choices = {0: 0, 1: one, **{4 + i: value for i, value in enumerate(values)}}
                values = [choices.get(word3 >> 3 * i & 7, 0) for i in range(4)]
            if byte(0) is None:
                values = [0] * 4
            for i, value in enumerate(values[:count]):
                self.deliver(f["vdata"], i, lane, value, whole)

    def source(self, register: int, i: int, lane: int, number: str) -> int:
        if "d16" not in self.name:
            return self.wave.vgpr[register + i][lane]
        half = self.wave.vgpr[register + i // 2][lane] >> (16 if "_hi_" in self.name or i % 2 else 0) & 0xffff
        if number == "UINT":
            return half
        return low(signed(half, 16)) if number == "SINT" else fl.convert(half, F16, F32, Mode(0xf0))

    def deliver(self, register: int, i: int, lane: int, value: int, whole: bool) -> None:
        if "_lds_" in self.name:
            _put(self.shared((self.s(M0) & 0xffff) + self.f["offset"] + 4 * lane, 4), 4, value)
        elif "d16" in self.name:
            half = low(value, 16) if whole else fl.convert(value, F32, F16, Mode(0xf0))
            old = self.wave.vgpr[register + i // 2][lane]
            high = "_hi_" in self.name or i % 2
            self.wave.vgpr[register + i // 2][lane] = old & 0xffff | half << 16 if high else old & 0xffff0000 | half
        else:
            self.wave.vgpr[register + i][lane] = value


def _value(bits: int) -> Fraction:
    m, e = fl.exact(bits, F32)
    return Fraction(m) * Fraction(2) ** e


def _nearest(value: Fraction) -> int:
    """A rational's float32."""
    scaled = value * (1 << 200)
    n = scaled.numerator // scaled.denominator * 2 + (scaled.denominator != 1)      # a sticky bit
    return fl.pack(n, -201, F32, fl.NEAREST)


def decoded(raw: int, width: int, number: str) -> int:
    if number == "UINT":
        return raw
    if number == "SINT":
        return low(signed(raw, width))
    if number == "FLOAT":
        return raw if width == 32 else fl.convert(raw << (0 if width == 16 else 15 - width), F16, F32, Mode(0xf0))
    n = raw if number[0] == "U" else signed(raw, width)
    if number.endswith("SCALED"):
        return fl.pack(n, 0, F32, fl.NEAREST)
    largest = (1 << width - (number[0] == "S")) - 1
    return _nearest(max(Fraction(n, largest), Fraction(-1)))


def encoded(value: int, width: int, number: str) -> int:
    ones = (1 << width) - 1
    half = ones >> 1
    if number == "UINT":
        return min(value, ones)
    if number == "SINT":
        return low(min(max(signed(value), -half - 1), half), width)
    if number == "FLOAT":
        if width == 32:
            return value
        if width < 16 and not fl.is_nan(value, F32) and fl.negative(value, F32):
            value = 0
        return fl.convert(value, F32, F16, Mode(0xf0)) >> (0 if width == 16 else 15 - width) & ones
    low_end, top = {"UNORM": (0, 1), "SNORM": (-1, 1), "USCALED": (0, ones), "SSCALED": (-half - 1, half)}[number]
    if fl.is_nan(value, F32):
        number_value = Fraction(0)
    elif fl.is_inf(value, F32):
        number_value = Fraction(low_end if fl.negative(value, F32) else top)
    else:
        number_value = min(max(_value(value), Fraction(low_end)), Fraction(top))
    if number.endswith("NORM"):
        return low(round(number_value * (ones if number == "UNORM" else half)), width)
    return low(int(number_value), width)


def changed(name: str, bits: int, old: int, data: int, second: int, mode: Mode) -> int:
    """What an atomic leaves in memory."""
    operation, kind = name, name.rpartition("_")[2]
    for prefix in ("ds_", "global_", "flat_", "buffer_", "atomic_"):
        operation = operation.removeprefix(prefix)
    operation = operation.replace("_rtn", "").rpartition("_")[0].removesuffix("_2addr").removesuffix("_2addr_stride64")
    a, b = (signed(x, bits) if kind[0] == "i" else x for x in (old, data))
    if kind[0] == "f":
        return _float_changed(operation, F64 if bits == 64 else F32, old, data, second, mode)
    if operation in ("cmpswap", "cmpstore"):
        return data if old == second else old
    if operation == "condxchg32":
        parts = [(data >> 32 * i & 0x7fffffff) if data >> 32 * i + 31 & 1 else old >> 32 * i & 0xffffffff
                 for i in range(2)]
        return parts[0] | parts[1] << 32
    table: dict[str, Any] = {
        "add": lambda: a + b, "sub": lambda: a - b, "rsub": lambda: b - a, "min": lambda: min(a, b),
        "max": lambda: max(a, b), "and": lambda: a & b, "or": lambda: a | b, "xor": lambda: a ^ b,
        "inc": lambda: 0 if a >= b else a + 1, "dec": lambda: b if a == 0 or a > b else a - 1,
        "swap": lambda: b, "storexchg": lambda: b, "csub": lambda: max(a - b, 0),
        "mskor": lambda: old & ~data | second, "wrap": lambda: old - data if old >= data else old + second}
    return table[operation]()


def _float_changed(operation: str, f: Format, old: int, data: int, second: int, mode: Mode) -> int:
    if operation in ("cmpswap", "cmpstore"):
        same = not fl.is_nan(old, f) and not fl.is_nan(second, f) and fl.key(old, f) == fl.key(second, f)
        return data if same else old
    if operation == "add":
        return fl.add(old, data, f, mode)
    return fl.smallest(old, data, f, mode, operation == "max")


