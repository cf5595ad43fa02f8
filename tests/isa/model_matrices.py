"""WMMA, element by element in Python integers: D = A x B + C, one fused step for each k in turn (docs/isa.md)."""

from __future__ import annotations

import model_floats as fl
from model_floats import F16, F32, Mode
from model_machine import Wave
from model_vector import low, signed

from mock.isa.decode import Instruction

EXACT = Mode(0xf0)          # nearest, with denormals, whatever MODE says
_WIDTH = {"f16": 16, "bf16": 16, "iu8": 8, "iu4": 4}


def _float(bits: int, kind: str) -> int:
    return bits << 16 if kind == "bf16" else fl.convert(bits, F16, F32, EXACT)


def _short(x: int, kind: str) -> int:
    if fl.is_nan(x, F32):
        return 0x7fc0 if kind == "bf16" else 0x7e00
    if kind == "f16":
        return fl.convert(x, F32, F16, EXACT)
    return (x >> 16) + ((x & 0xffff) > 0x8000 or (x & 0x1ffff) == 0x18000)


def run(instruction: Instruction, wave: Wave) -> None:
    f = instruction.fields
    _, _, result, _, source = instruction.mnemonic.split("_")
    width = _WIDTH[source]
    operands = {o.field: o.code for o in instruction.operands}
    half, per_word = f["op_sel"] >> 2 & 1, 32 // width

    def element(which: int, lane: int, k: int) -> int:
        """Of A's row or B's column ``lane``."""
        word = wave.vgpr[operands[f"src{which}"] - 256 + k // per_word][lane]
        bits = word >> width * (k % per_word) & (1 << width) - 1
        if result == "i32":
            return signed(bits, width) if f["neg"] >> which & 1 else bits
        negate = (f["neg_hi"] if k % 2 else f["neg"]) >> which & 1
        return _float(bits, source) ^ (F32.sign if negate else 0)

    def start(word: int) -> int:
        if result == "i32":
            return signed(word)
        value = word if result == "f32" else _float(word >> 16 * half & 0xffff, result)
        if f["neg_hi"] >> 2 & 1:
            value &= F32.sign - 1
        return value ^ (F32.sign if f["neg"] >> 2 & 1 else 0)
    made = []
    for i in range(256 // wave.lanes):
        for lane in range(wave.lanes):
            row, column = i * (wave.lanes // 16) + lane // 16, lane % 16
            code = operands["src2"]
            word = wave.vgpr[code - 256 + i][lane] if code >= 256 else 0
            total = start(word)
            for k in range(16):
                a, b = element(0, row, k), element(1, column, k)
                total = total + a * b if result == "i32" else fl.fused(a, b, total, F32, EXACT)
            if result == "i32":
                total = low(min(max(total, -1 << 31), (1 << 31) - 1) if f["clamp"] else total)
            elif result == "f32":
                total = F32.default_nan if fl.is_nan(total, F32) else total
            else:
                total = word & (0xffff if half else 0xffff0000) | _short(total, result) << 16 * half
            made.append((i, lane, total))
    for i, lane, total in made:
        if wave.exec >> lane & 1:
            wave.vgpr[operands["vdst"] - 256 + i][lane] = total
