"""One instruction on one wave's registers, lane by lane in Python integers: operands, modifiers, DPP, write-back.

Written from the ISA guide, apart from both executors; what it knows of an instruction's meaning is in
:mod:`model_vector` and :mod:`model_scalar`, and for what looks across lanes, here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import model_floats as fl
from model_floats import F16, FORMATS, Mode
from model_scalar import SCALARS
from model_vector import BITS, CLAMPED, LANES, clamp_to, low, signed

from mock.isa.decode import Dpp, Instruction, Operand

VCC, NULL, M0, EXEC = 106, 124, 125, 126
VGPR = 256
_CONSTANTS = {240: (0x3800, 0x3f000000), 241: (0xb800, 0xbf000000), 242: (0x3c00, 0x3f800000),
              243: (0xbc00, 0xbf800000), 244: (0x4000, 0x40000000), 245: (0xc000, 0xc0000000),
              246: (0x4400, 0x40800000), 247: (0xc400, 0xc0800000), 248: (0x3118, 0x3e22f983)}
_INV_2PI_64 = 0x3fc45f306dc9c882
CROSSING = ("v_readlane_b32", "v_readfirstlane_b32", "v_writelane_b32", "v_permlane16_b32", "v_permlanex16_b32",
            "v_permlane64_b32", "v_mbcnt_lo_u32_b32", "v_mbcnt_hi_u32_b32", "v_swap_b32")


def width_of(kind: str) -> int:
    return int("".join(c for c in kind if c.isdigit())) if kind[0] in "uif" else 0


class Wave:
    """Registers: ``sgpr[128]``, ``vgpr[n][lanes]``, SCC, MODE."""

    def __init__(self, lanes: int, sgpr: list[int], vgpr: list[list[int]], scc: bool, mode: int) -> None:
        self.lanes, self.sgpr, self.vgpr, self.scc = lanes, sgpr, vgpr, scc
        self.mode = Mode(mode)

    def mask(self, code: int) -> int:
        return 0 if code == NULL else self.pair(code) if self.lanes == 64 else self.sgpr[code]

    def pair(self, code: int) -> int:
        return 0 if code == NULL else self.sgpr[code] | self.sgpr[code + 1] << 32

    @property
    def exec(self) -> int:
        return self.mask(EXEC)

    def put_pair(self, code: int, value: int) -> None:
        if code != NULL:
            self.sgpr[code], self.sgpr[code + 1] = low(value), low(value >> 32)

    def put_mask(self, code: int, value: int) -> None:
        if code != NULL:
            if self.lanes == 64:
                self.put_pair(code, value)
            else:
                self.sgpr[code] = value


def knows(instruction: Instruction) -> bool:
    halves = instruction.pair or (instruction,)
    return all(h.mnemonic in LANES or h.mnemonic in SCALARS or h.mnemonic in CROSSING or h.mnemonic == "v_nop"
               for h in halves)


def run(instruction: Instruction, wave: Wave) -> None:
    if instruction.pair is not None:        # both read before either writes
        for write in [_Vector(half, wave).write() for half in instruction.pair]:
            write()
    elif instruction.mnemonic in SCALARS:
        _scalar(instruction, wave)
    elif instruction.mnemonic in CROSSING:
        _Vector(instruction, wave).crossing()
    elif instruction.mnemonic != "v_nop":
        _Vector(instruction, wave).write()()


# -- operands -------------------------------------------------------------------------------------------------

def constant(code: int, kind: str, literal: int | None) -> int | None:
    """The bits of an inline constant or literal, None where the code is neither."""
    bits = width_of(kind)
    if code == 255:
        value = literal or 0
        if bits == 64:
            return value << 32 if kind[0] == "f" else low(signed(value), 64) if kind[0] == "i" else value
        return low(value, bits)
    if 128 <= code <= 208:
        return low(code - 128 if code <= 192 else 192 - code, bits)
    if code in _CONSTANTS:
        half, word = _CONSTANTS[code]
        if bits == 16:
            return half
        return word if bits == 32 else _INV_2PI_64 if code == 248 else fl.convert(
            word, fl.F32, fl.F64, Mode(0xf0))
    return None


def scalar_value(code: int, kind: str, literal: int | None, wave: Wave) -> int:
    """An operand that is the same for all lanes."""
    value, bits = constant(code, kind, literal), width_of(kind)
    if value is not None:
        return value
    if code == NULL:
        return 0
    if code in (251, 252, 253):
        return int({251: wave.mask(VCC) == 0, 252: wave.exec == 0, 253: wave.scc}[code])
    if bits == 64:
        return wave.pair(code)
    return low(wave.sgpr[code], bits)


def _scalar(instruction: Instruction, wave: Wave) -> None:
    types, function = SCALARS[instruction.mnemonic]
    sources, _, results = types.partition(">")
    operands = list(instruction.operands)
    destination = next((o for o in operands if o.field == "sdst"), None)
    fetched = [o for o in operands if o.field.startswith("ssrc")]
    simm, xs = instruction.fields.get("simm16", 0), []
    for token in sources.split():
        if token == "scc":
            xs.append(int(wave.scc))
        elif token.startswith("exec"):
            xs.append(wave.pair(EXEC) if token == "exec64" else wave.sgpr[EXEC])
        elif token in ("imm", "uimm"):
            xs.append(signed(simm, 16) if token == "imm" else simm)
        else:
            kind = token.rpartition(":")[2]
            operand = destination if token.startswith("d:") else fetched.pop(0)
            assert operand is not None
            value = scalar_value(operand.code, kind, instruction.literal, wave)
            xs.append(signed(value, width_of(kind)) if kind[0] == "i" else value)
    made = function(*xs)
    tokens = results.split()
    for token, value in zip(tokens, made if len(tokens) > 1 else (made,), strict=True):
        if token == "scc":
            wave.scc = bool(value)
        elif token.startswith("exec"):
            if token == "exec64":
                wave.put_pair(EXEC, value)
            else:
                wave.sgpr[EXEC] = value
        else:
            assert destination is not None
            if width_of(token) == 64:
                wave.put_pair(destination.code, low(value, 64))
            elif destination.code != NULL:
                wave.sgpr[destination.code] = low(value)


# -- data-parallel primitives ---------------------------------------------------------------------------------

def dpp_source(dpp: Dpp, lane: int) -> int | None:
    """The lane that a lane's src0 comes from, None where there is none (RDNA3 ISA, "DPP16", "DPP8")."""
    if dpp.lanes is not None:
        return lane // 8 * 8 + dpp.lanes[lane % 8]
    row, place, c = lane // 16 * 16, lane % 16, dpp.control
    n = c & 15
    if c < 0x100:
        return lane // 4 * 4 + (c >> lane % 4 * 2 & 3)
    kind = c >> 4
    if kind == 0x10:
        return lane + n if place + n < 16 else None
    if kind == 0x11:
        return lane - n if place - n >= 0 else None
    if kind == 0x12:
        return row + (place - n) % 16
    if c == 0x140:
        return row + 15 - place
    if c == 0x141:
        return lane // 8 * 8 + 7 - lane % 8
    return row + n if kind == 0x15 else row + (place ^ n)


class _Vector:
    def __init__(self, instruction: Instruction, wave: Wave) -> None:
        self.i, self.wave, self.name = instruction, wave, instruction.mnemonic
        f = instruction.fields
        self.mode, self.lanes = wave.mode, range(wave.lanes)
        self.vop3p = instruction.encoding == "VOP3P"
        self.op_sel = f.get("op_sel", 0)
        self.op_sel_hi = f.get("op_sel_hi", 0) | f.get("op_sel_hi2", 0) << 2
        self.short = instruction.encoding in ("VOP1", "VOP2", "VOPC")
        self.clamp, self.omod = bool(f.get("clamp", 0)), f.get("omod", 0)
        self.sources = [o for o in instruction.operands
                        if o.field in ("src0", "src1", "src2", "vsrc1")]
        self.vdst = next((o for o in instruction.operands if o.field == "vdst"), None)
        self.sdst = next((o for o in instruction.operands if o.field == "sdst"), None)
        self.exec = [bool(wave.exec >> lane & 1) for lane in self.lanes]
        self.written = self._written()

    def _written(self) -> list[bool]:
        """Lanes that vector results go to."""
        dpp = self.i.dpp
        if dpp is None:
            return self.exec
        written = []
        for lane in self.lanes:
            source = dpp_source(dpp, lane)
            ok = self.exec[lane]
            if dpp.lanes is None:
                ok = ok and bool(dpp.row_mask >> lane // 16 & 1) and bool(dpp.bank_mask >> lane % 16 // 4 & 1)
                if not dpp.bound_control:       # no valid source: no write
                    ok = ok and source is not None and (dpp.fetch_inactive or self.exec[source])
            written.append(ok)
        return written

    # ---- sources

    def raw(self, operand: Operand, kind: str, lane: int, half: int = 0) -> int:
        """The operand's bits in a lane, without modifiers."""
        code, bits = operand.code, width_of(kind)
        if code < VGPR:
            if half:
                if code == 255:
                    return (self.i.literal or 0) >> 16
                if constant(code, kind, self.i.literal) is not None:
                    return 0
                return 0 if code == NULL or code > 250 else self.wave.sgpr[code] >> 16
            return scalar_value(code, kind, self.i.literal, self.wave)
        dpp = self.i.dpp
        if dpp is not None and operand.field == "src0":
            source = dpp_source(dpp, lane)
            if source is None or not (self.exec[source] or dpp.fetch_inactive):
                return 0
            lane = source
        word = self.wave.vgpr[code - VGPR][lane]
        if bits == 64:
            return word | self.wave.vgpr[code - VGPR + 1][lane] << 32
        return word if bits == 32 else word >> 16 if half else word & 0xffff

    def place(self, operand: Operand, bit: int) -> tuple[Operand, int]:
        """The register and half of a 16-bit operand."""
        if not self.short:
            return operand, self.op_sel >> bit & 1
        if operand.code >= VGPR + 128:
            return Operand(operand.field, operand.code - 128, operand.width), 1
        return operand, 0

    def modified(self, value: int, bits: int, index: int, negate: bool | None = None,
                 absolute: bool | None = None) -> int:
        if self.i.abs >> index & 1 if absolute is None else absolute:
            value &= (1 << bits - 1) - 1
        if self.i.neg >> index & 1 if negate is None else negate:
            value ^= 1 << bits - 1
        return value

    def is_moved(self, operand: Operand) -> bool:
        return self.i.dpp is not None and operand.field == "src0"

    def valid(self, operand: Operand, lane: int) -> bool:
        """Does DPP bring anything? Signs are changed before lanes move: what is missing is 0 whatever they say."""
        if not self.is_moved(operand):
            return True
        dpp = self.i.dpp
        assert dpp is not None
        source = dpp_source(dpp, lane)
        return source is not None and (self.exec[source] or dpp.fetch_inactive)

    def fetch(self, operand: Operand, kind: str, index: int, lane: int) -> int:
        kind, signs = kind.rstrip("s"), kind.endswith("s")      # neg and abs of bits that may be a float
        bits = width_of(kind)
        half = 0
        if bits == 16:
            operand, half = self.place(operand, index)
        value = self.raw(operand, kind, lane, half)
        if (kind[0] == "f" or signs) and self.valid(operand, lane):
            value = self.modified(value, bits, index)
        return signed(value, bits) if kind[0] == "i" else value

    def pair(self, operand: Operand, kind: str, index: int, lane: int) -> tuple[int, int]:
        """Both halves, as op_sel and op_sel_hi choose them."""
        chosen = (0, 1)
        negs = (bool(self.i.neg >> index & 1),) * 2
        absolute = bool(self.i.abs >> index & 1)
        if self.vop3p:
            chosen = self.op_sel >> index & 1, self.op_sel_hi >> index & 1
            negs = bool(self.i.fields["neg"] >> index & 1), bool(self.i.fields["neg_hi"] >> index & 1)
            absolute = False
        found = []
        for half, negate in zip(chosen, negs, strict=True):
            if kind[0] != "f" and 128 <= operand.code <= 208:
                value = low(operand.code - 128 if operand.code <= 192 else 192 - operand.code) >> 16 * half & 0xffff
            else:
                value = self.raw(operand, kind, lane, half)
            if kind[0] == "f" and self.valid(operand, lane):
                value = self.modified(value, 16, index, negate, absolute)
            found.append(signed(value, 16) if kind[0] == "i" else value)
        return found[0], found[1]

    def mixed(self, operand: Operand, index: int, lane: int) -> int:
        negate = bool(self.i.neg >> index & 1)
        absolute = bool(self.i.fields["neg_hi"] >> index & 1)
        if not self.op_sel_hi >> index & 1:
            value = self.raw(operand, "f32", lane)
            return self.modified(value, 32, index, negate, absolute) if self.valid(operand, lane) else value
        half = self.op_sel >> index & 1
        value = self.raw(operand, "f16", lane, half)
        if self.valid(operand, lane):
            value = self.modified(value, 16, index, negate, absolute)
        return fl.convert(value, F16, fl.F32, self.mode)

    def arguments(self, tokens: list[str], lane: int) -> list[Any]:
        """Each a value, or for packed instructions a pair of them."""
        left, found = list(self.sources), []
        for token in tokens:
            if token in ("mask", "vcc"):
                code = left.pop(0).code if token == "mask" and left else VCC
                found.append(bool(self.wave.mask(code) >> lane & 1))
            elif token == "neg":
                found.append(self.i.fields["neg"])
            elif token.startswith("k:"):
                kind = token[2:]
                found.append(low(self.i.literal or 0, width_of(kind)))
            elif token.startswith("d:"):
                assert self.vdst is not None
                kind = token.rpartition(":")[2]
                if token[2:4] == "p:":
                    word = self.wave.vgpr[self.vdst.code - VGPR][lane]
                    found.append((word & 0xffff, word >> 16))
                elif width_of(kind) == 16:
                    operand, half = self.place(self.vdst, 3)
                    found.append(self.raw(operand, kind, lane, half))
                else:
                    found.append(self.raw(self.vdst, kind, lane))
            else:
                operand = left.pop(0)
                index = {"src0": 0, "src1": 1, "vsrc1": 1, "src2": 2}[operand.field]
                if token.startswith("p:"):
                    found.append(self.pair(operand, token[2:], index, lane))
                elif token == "2f16":
                    found.append(self.pair(operand, "f16", index, lane))
                elif token == "4u32":
                    found.append([self.wave.vgpr[operand.code - VGPR + i][lane] if operand.code >= VGPR else
                                  self.raw(operand, "u32", lane) for i in range(4)])
                elif token == "mix":
                    found.append(self.mixed(operand, index, lane))
                else:
                    found.append(self.fetch(operand, token, index, lane))
        return found

    # ---- results

    def output(self, value: int, kind: str) -> int:
        f = FORMATS[kind]
        if self.omod and not self.mode.ieee and not self.mode.keeps_out(f):
            if fl.is_nan(value, f):
                value |= f.quiet
            elif fl.is_zero(value, f):
                value = 0
            elif not fl.is_inf(value, f):
                m, e = fl.exact(value, f)
                value = fl.finish(fl.pack(m, e + (0, 1, 2, -1)[self.omod], f, fl.NEAREST), f, self.mode)
        return self.clamped(value, kind) if self.clamp else value

    def clamped(self, value: int, kind: str) -> int:
        f = FORMATS[kind]
        if fl.is_nan(value, f):
            return 0 if self.mode.dx10_clamp else value
        if fl.negative(value, f) or fl.is_zero(value, f):
            return 0
        return min(value, f.one)

    def write(self) -> Callable[[], None]:
        """Compute now; the result writes."""
        types, function = LANES[self.name]
        sources, _, results = types.partition(">")
        tokens, kinds = sources.split(), results.split()
        todo: list[Callable[[], None]] = []
        masks: dict[int, int] = {}
        for lane in self.lanes:
            if not self.written[lane]:
                continue
            xs = self.arguments(tokens, lane)
            if any(t.startswith(("p:", "d:p:")) for t in tokens):
                made: Any = (tuple(self.one(function, [x[h] for x in xs], kinds[0][2:]) for h in range(2)),)
            else:
                made = self.one(function, xs, kinds[0])
                made = made if len(kinds) > 1 else (made,)
            for kind, value in zip(kinds, made, strict=True):
                if kind == "mask":
                    masks[lane] = int(value)
                else:
                    todo.append(lambda lane=lane, kind=kind, value=value: self.store(lane, kind, value))
        if "mask" in kinds:
            bits = sum(bit << lane for lane, bit in masks.items())
            todo.append(lambda: self.wave.put_mask(self.mask_register(), bits))

        def commit() -> None:
            for each in todo:
                each()
        return commit

    def mask_register(self) -> int:
        if "cmpx" in self.name:
            return EXEC
        if self.i.encoding == "VOP3" and self.vdst is not None and self.vdst.code < VGPR:
            return self.vdst.code
        return self.sdst.code if self.sdst is not None else VCC

    def one(self, function: Callable[..., Any], xs: list[Any], kind: str) -> Any:
        if self.clamp and self.name in CLAMPED:
            exactly = CLAMPED[self.name](*xs)
            return low(clamp_to(kind, exactly), BITS[kind])
        if self.clamp and "_co_" in self.name:
            value, out = function(self.mode, *xs)
            return ((0xffffffff if "add" in self.name else 0) if out else value), out
        value = function(self.mode, *xs)
        if kind in BITS and not isinstance(value, tuple):
            return low(value, BITS[kind])
        return value

    def store(self, lane: int, kind: str, value: Any) -> None:
        assert self.vdst is not None
        register = self.vdst.code - VGPR
        if kind == "4u32":
            for i, word in enumerate(value):
                self.wave.vgpr[register + i][lane] = word
            return
        if kind.startswith("p:"):
            if kind == "p:f16" and self.clamp:
                value = tuple(self.clamped(v, "f16") for v in value)
            self.wave.vgpr[register][lane] = value[0] | value[1] << 16
            return
        half = None
        if kind[:3] in ("lo:", "hi:"):
            half, kind = int(kind[:2] == "hi"), kind[3:]
        if kind[0] == "f":
            value = self.output(value, kind)
        bits = width_of(kind)
        if bits == 64:
            self.wave.vgpr[register][lane], self.wave.vgpr[register + 1][lane] = low(value), value >> 32
        elif bits == 32:
            self.wave.vgpr[register][lane] = low(value)
        else:
            if half is None:
                operand, half = self.place(self.vdst, 3)
                register = operand.code - VGPR
            old = self.wave.vgpr[register][lane]
            self.wave.vgpr[register][lane] = old & 0xffff | low(value, 16) << 16 if half else \
                old & 0xffff0000 | low(value, 16)

    # ---- across lanes

    def crossing(self) -> None:
        wave, name = self.wave, self.name
        if name == "v_swap_b32":
            first, second = (wave.vgpr[o.code - VGPR] for o in self.i.operands)
            for lane in self.lanes:
                if self.exec[lane]:
                    first[lane], second[lane] = second[lane], first[lane]
            return
        if name in ("v_readlane_b32", "v_readfirstlane_b32"):
            if name == "v_readlane_b32":
                lane = self.raw(self.sources[1], "u32", 0) % wave.lanes
            else:
                lane = next((n for n in self.lanes if self.exec[n]), 0)
            assert self.vdst is not None
            if self.vdst.code != NULL:
                wave.sgpr[self.vdst.code] = self.raw(self.sources[0], "u32", lane)
            return
        assert self.vdst is not None
        target = wave.vgpr[self.vdst.code - VGPR]
        if name == "v_writelane_b32":
            target[self.raw(self.sources[1], "u32", 0) % wave.lanes] = self.raw(self.sources[0], "u32", 0)
            return
        made = {}
        for lane in self.lanes:
            if "mbcnt" in name:
                below = (1 << lane) - 1
                part = below >> 32 if "hi" in name else below & 0xffffffff
                made[lane] = low((self.raw(self.sources[0], "u32", lane) & part).bit_count()
                                 + self.raw(self.sources[1], "u32", lane))
                continue
            if name == "v_permlane64_b32":
                made[lane] = self.raw(self.sources[0], "u32", lane ^ 32 if wave.lanes == 64 else lane)
                continue
            selectors = self.raw(self.sources[1], "u32", 0) | self.raw(self.sources[2], "u32", 0) << 32
            row = lane // 16 ^ (1 if "x16" in name else 0)
            source = row * 16 + (selectors >> 4 * (lane % 16) & 15)
            if self.exec[source] or self.op_sel & 1:
                made[lane] = self.raw(self.sources[0], "u32", source)
            else:
                made[lane] = 0 if self.op_sel & 2 else target[lane]
        for lane, value in made.items():
            if self.written[lane]:
                target[lane] = value

