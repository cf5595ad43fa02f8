"""Opcode numbers and operands of gfx1100, asked of LLVM's disassembler.

    python -m tools.autogen.isa --llvm-mc llvm-mc-19

Every opcode value of every format is put into a word whose register fields hold telling numbers, and
``llvm-mc --disassemble`` names the instruction; from the registers in its text follows which fields the
instruction uses and how many registers wide each is. Then single bits of the other fields are flipped, which tells
those that must stay, and each operand is given one code of every kind. Writes ``mock/isa/opcodes.py``.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from mock.isa.encoding import DPP8, DPP8_FI, DPP16, ENCODINGS, KINDS, LITERAL, Encoding

__all__ = ["disassemble", "generate"]

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "mock" / "isa" / "opcodes.py"
_SENTINEL = 0xbf800000          # s_nop; its immediate numbers the items, from _FIRST on (no item may look like that)
_FIRST = 0x1001                 # not one bit alone, as those that are tried on s_nop itself
_V = 256                        # source code of v0


def disassemble(llvm_mc: str, items: list[tuple[int, int]], *, attributes: str = "") -> list[str | None]:
    """[(bits, bytes)] -> what LLVM prints for each, None where it knows no such instruction.

    Numbered ``s_nop`` stand between the items, so that an item that takes a literal cannot shift the rest.
    """
    results: list[str | None] = []
    for start in range(0, len(items), 0xe000):
        results += _disassemble(llvm_mc, items[start:start + 0xe000], attributes)
    return results


def _disassemble(llvm_mc: str, items: list[tuple[int, int]], attributes: str) -> list[str | None]:
    def line(bits: int, size: int) -> str:
        return ",".join(f"{b:#04x}" for b in bits.to_bytes(size, "little")) + "\n"
    text = "".join(line(bits, size) + line(_SENTINEL | _FIRST + i, 4) * 3 for i, (bits, size) in enumerate(items))
    command = [llvm_mc, "--disassemble", "-triple=amdgcn", "-mcpu=gfx1100"]
    if attributes:
        command.append("-mattr=" + attributes)
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    refused = {(int(m[1]) - 1) // 4 for m in re.finditer(r"^<stdin>:(\d+):", done.stderr, re.M)}
    found: list[list[str]] = [[] for _ in items]
    pending: list[str] = []
    for row in map(str.strip, done.stdout.splitlines()):
        if not row or row == ".text":
            continue
        sentinel = re.fullmatch(r"s_nop (0x[0-9a-f]+)", row)
        if sentinel and _FIRST <= int(sentinel[1], 16) < _FIRST + len(items):
            if pending:
                found[int(sentinel[1], 16) - _FIRST], pending = pending, []
        else:
            pending.append(row)
    return [None if i in refused or len(rows) != 1 or "Invalid" in rows[0] else rows[0]
            for i, rows in enumerate(found)]


# Telling register numbers: no two fields share one. Each format has variants, for fields that must be zero
# or must be scalar; the first that LLVM takes counts.
_TELLING: dict[str, tuple[dict[str, int], list[dict[str, int]]]] = {
    "SOP1": ({"sdst": 16, "ssrc0": 32}, [{}, {"sdst": 0}, {"ssrc0": 0}]),
    "SOP2": ({"sdst": 16, "ssrc0": 32, "ssrc1": 48}, [{}]),
    "SOPC": ({"ssrc0": 32, "ssrc1": 48}, [{}]),
    "SOPP": ({"simm16": 0}, [{}]),
    "SOPK": ({"sdst": 16, "simm16": 0x123}, [{}, {"sdst": 124}]),
    "SMEM": ({"sbase": 16, "sdata": 80, "soffset": 64}, [{}]),
    "VOP1": ({"vdst": 16, "src0": _V + 32}, [{}, {"vdst": 0, "src0": 0}]),
    "VOP2": ({"vdst": 16, "src0": _V + 32, "vsrc1": 48}, [{}]),
    "VOPC": ({"src0": _V + 32, "vsrc1": 48}, [{}]),
    "VOP3": ({"vdst": 16, "src0": _V + 32, "src1": _V + 48, "src2": _V + 64},
             [{}, {"src2": 64}, {"src2": 0}, {"src1": 48, "src2": 64}, {"src1": 48, "src2": 0},
              {"src0": 32, "src1": 48, "src2": 0}, {"src1": 0, "src2": 0},
              {"src0": 0, "src1": 0, "src2": 0, "vdst": 0}]),
    "VOP3SD": ({"vdst": 16, "sdst": 80, "src0": _V + 32, "src1": _V + 48, "src2": _V + 64},
               [{}, {"src2": 64}, {"src2": 0}]),
    "VOP3P": ({"vdst": 16, "src0": _V + 32, "src1": _V + 48, "src2": _V + 64, "op_sel_hi": 3, "op_sel_hi2": 1},
              [{}, {"src2": 0}]),
    "VINTERP": ({"vdst": 16, "src0": _V + 32, "src1": _V + 48, "src2": _V + 64}, [{}]),
    "LDSDIR": ({"vdst": 16}, [{}]),
    "DS": ({"vdst": 16, "addr": 32, "data0": 48, "data1": 64},
           [{}, {"data1": 0}, {"vdst": 0}, {"vdst": 0, "data1": 0}, {"data0": 0, "data1": 0},
            {"vdst": 0, "data0": 0, "data1": 0}, {"addr": 0, "data0": 0, "data1": 0},
            {"vdst": 0, "addr": 0, "data1": 0},
            {"gds": 1, "data0": 0, "data1": 0}, {"gds": 1, "vdst": 0, "data0": 0, "data1": 0},
            {"gds": 1, "addr": 0, "data1": 0},
            {"gds": 1, "vdst": 0, "addr": 0, "data1": 0},
            {"gds": 1, "vdst": 0, "addr": 0, "data0": 0, "data1": 0}, {"vdst": 0, "addr": 0, "data0": 0, "data1": 0},
            {"gds": 1}, {"gds": 1, "data1": 0}, {"gds": 1, "data0": 0, "data1": 0}, {"gds": 1, "addr": 0, "data1": 0},
            {"gds": 1, "data0": 0, "data1": 0, "addr": 0}]),
    "FLAT": ({"vdst": 16, "addr": 32, "data": 48, "saddr": 124}, [{}]),
    "SCRATCH": ({"vdst": 16, "addr": 32, "data": 48, "saddr": 124, "seg": 1, "sve": 1}, [{}]),
    "GLOBAL": ({"vdst": 16, "addr": 32, "data": 48, "saddr": 124, "seg": 2}, [{}, {"glc": 1}]),
    "MUBUF": ({"vdata": 16, "vaddr": 32, "srsrc": 16, "soffset": 80, "offen": 1},
              [{}, {"glc": 1}, {"vdata": 0, "vaddr": 0, "srsrc": 0, "soffset": 0, "offen": 0}]),
    "MTBUF": ({"vdata": 16, "vaddr": 32, "srsrc": 16, "soffset": 80, "offen": 1, "format": 1}, [{}]),
    "MIMG": ({"vdata": 16, "vaddr": 32, "srsrc": 16, "ssamp": 2, "dmask": 15, "dim": 1}, [
        {}, {"ssamp": 0}, {"dmask": 1},
             {"dmask": 1, "r128": 1, "unrm": 1}, {"dmask": 15, "r128": 1, "unrm": 1, "ssamp": 0, "dim": 0},
             {"ssamp": 0, "glc": 1}]),
}
_SCALED = {"sbase": 2, "srsrc": 4, "ssamp": 4}
_SCALAR_FIELDS = {"sdst", "ssrc0", "ssrc1", "sbase", "sdata", "soffset", "srsrc", "ssamp"}
_VOP3SD = ("v_add_co_ci_u32", "v_sub_co_ci_u32", "v_subrev_co_ci_u32", "v_add_co_u32", "v_sub_co_u32",
           "v_subrev_co_u32", "v_div_scale_f32", "v_div_scale_f64", "v_mad_u64_u32", "v_mad_i64_i32")


def _pattern(name: str, text: str, values: dict[str, int]) -> str:
    """Operands in the order of the text: field, and width in registers when it is not 1."""
    by_number: dict[tuple[str, int], str] = {}
    for name_, value in values.items():
        if name_ in ("seg", "sve", "offen", "op_sel_hi", "op_sel_hi2", "simm16", "dmask", "dim", "format", "glc", "gds",
                     "r128", "unrm") or (value == 0 and name_ not in ("sdst",)) or name_ == "saddr":
            continue
        number = value * _SCALED.get(name_, 1)
        for kind in "vs":
            by_number[kind, number % _V] = name_
    operands = []
    for kind, low, low2, high in re.findall(r"\b([vs])(?:(\d+)(?:\.[lh])?\b|\[(\d+):(\d+)\])", text.partition(" ")[2]):
        first = int(low or low2)
        used = by_number.get((kind, first))
        if used is None:
            continue
        width = int(high) - first + 1 if high else 1
        scalar = kind == "s" and used not in _SCALAR_FIELDS
        operands.append(used + ("!" if scalar else "") + (f":{width}" if width > 1 else ""))
    return ",".join(operands)


@dataclass
class _Found:
    """What LLVM told of one opcode. ``fields`` are those of the encoding that it was found with."""

    mnemonic: str
    pattern: str
    fields: dict[str, int]
    attributes: str = ""        # of LLVM's that it needs
    fixed: int = 0              # bits that must be as they were
    kinds: dict[str, int] = field(default_factory=dict)     # operand field -> which of KINDS it may be
    signs: dict[str, int] = field(default_factory=dict)     # of _SIGNS: sources that it is printed for

    def line(self, op: int, encoding: Encoding) -> str:
        value = encoding.pack(op=op, **self.fields) & self.fixed
        parts = [f"{op:x}", self.mnemonic, self.pattern or "-", f"{self.fixed:x}" + (f"={value:x}" if value else "")]
        kinds = ",".join(f"{name}:{bits:x}" for name, bits in self.kinds.items())
        shown: dict[str, int] = {}
        for name in ("neg", "sext", "abs", "op_sel"):
            plain, dpp = self.signs.get(name, 0), self.signs.get(name + "_dpp", 0)
            shown |= ({name: plain} if plain else {}) | ({name + "_dpp": dpp} if dpp != plain else {})
        shown |= {name: bits for name, bits in self.signs.items() if name == "dpp16"}
        signs = ",".join(f"{name}:{bits:x}" for name, bits in shown.items())
        return " ".join([*parts, kinds or "-", signs]).rstrip(" -")


def _scan(llvm_mc: str, name: str) -> dict[int, _Found]:
    encoding = ENCODINGS[name]
    telling, variants = _TELLING[name]
    found: dict[int, _Found] = {}
    width = encoding.fields["op"][1]
    for variant, attributes in [*((v, "") for v in variants), *((v, _HALVES) for v in variants if name == "VOP3")]:
        values = {**telling, **variant}
        missing = [op for op in range(1 << width) if op not in found]
        items = [(encoding.pack(op=op, **values), encoding.size) for op in missing]
        for op, text in zip(missing, disassemble(llvm_mc, items, attributes=attributes), strict=True):
            if text is None or not _own(name, encoding.pack(op=op, **values)):
                continue
            mnemonic = re.sub(r"_(e32|e64)$", "", text.split()[0])
            if name in ("VOP3", "VOP3SD") and (mnemonic in _VOP3SD) != (name == "VOP3SD"):
                continue
            found[op] = _Found(mnemonic, _pattern(name, text, values), values, attributes=attributes)
    for attributes in sorted({item.attributes for item in found.values()}):
        some = {op: item for op, item in found.items() if item.attributes == attributes}
        _flip(llvm_mc, name, some, attributes)
        _try_kinds(llvm_mc, name, some, attributes)
    return found


_HALVES = "+real-true16"        # LLVM 19 knows v_mov_b16_e64 only then


def _mnemonic(text: str) -> str:
    return re.sub(r"(_e32|_e64)?(_dpp)?$", "", text.split()[0])


def _flip(llvm_mc: str, name: str, found: dict[int, _Found], attributes: str) -> None:
    """Each bit outside the operands the other way round: is it still this instruction, and what does it print?"""
    encoding = ENCODINGS[name]
    questions: list[tuple[_Found, str, int, int]] = []
    items = []
    for op, item in found.items():
        own = {x.partition(":")[0].rstrip("!") for x in item.pattern.split(",")} | {"op", *_EXTRA.get(name, ())}
        if "bvh" in item.mnemonic:
            own -= {"dim", "dmask", "tfe"}
        base = encoding.pack(op=op, **item.fields)
        dpp = encoding.pack(op=op, **item.fields | {"src0": DPP8}) if "src0" in own and name.startswith("VOP3") else 0
        prefix = {"": (min(encoding.shift, 32), 32 - min(encoding.shift, 32))}
        rest = set(range(8 * encoding.size)).difference(*(range(low, low + width) for low, width in
                                                          [*encoding.fields.values(), *prefix.values()]))
        for part, (low, width) in [*encoding.fields.items(), *(("reserved", (bit, 1)) for bit in sorted(rest))]:
            for bit in range(low, low + width) if part not in own else ():
                questions.append((item, part, bit - low, 1 << bit))
                items.append((base ^ 1 << bit, encoding.size))
                if dpp and part in ("abs", "neg", "op_sel"):
                    questions.append((item, part, bit - low, 0))
                    items.append((dpp ^ 1 << bit | _DPP_WORD << 64, encoding.size + 4))
        if "src0" in own and name.startswith("VOP"):
            base = encoding.pack(op=op, **item.fields | {"src0": DPP16})
            for bit in range(17, 24):       # of the DPP word, behind its control
                questions.append((item, "dpp16", bit, 0))
                items.append((base | (_DPP16_WORD ^ 1 << bit) << 8 * encoding.size, encoding.size + 4))
    answers = disassemble(llvm_mc, items, attributes=attributes)
    for (item, part, bit, mask), text in zip(questions, answers, strict=True):
        if text is None or _mnemonic(text) != item.mnemonic:
            item.fixed |= mask
            if part == "dpp16":
                item.signs[part] = item.signs.get(part, 0) | 1 << bit
            continue
        for sign, (owner, needle) in _SIGNS.items():
            if part == owner and re.search(needle, text):
                key = sign if mask else sign + "_dpp"
                item.signs[key] = item.signs.get(key, 0) | 1 << bit


_DPP_WORD, _DPP16_WORD = 0x05ffe410, 0xff00e410
_SIGNS = {"neg": ("neg", r"-[|vs]|neg\("), "sext": ("neg", r"sext\("), "abs": ("abs", r"\|"),
          "op_sel": ("op_sel", r"op_sel:")}
"""What is printed for a bit of a field: name -> (field, how the text shows it)."""


def _try_kinds(llvm_mc: str, name: str, found: dict[int, _Found], attributes: str) -> None:
    """One code of every kind in each operand that takes codes: which does LLVM take?"""
    encoding = ENCODINGS[name]
    questions, items = [], []
    for op, item in found.items():
        own = [x.partition(":")[0].rstrip("!") for x in item.pattern.split(",")] if item.pattern else []
        scalar = [x.partition(":")[0].rstrip("!") for x in item.pattern.split(",") if "!" in x.partition(":")[0]]
        for part in dict.fromkeys([*own, *_EXTRA.get(name, ())]):
            if part not in _CODES and part not in scalar:
                continue
            width = encoding.fields[part][1]
            for i, (first, _) in enumerate(KINDS):
                if first >= 1 << width:
                    continue
                fields = {**item.fields, part: first}
                size, bits = encoding.size, encoding.pack(op=op, **fields)
                if first in (DPP8, DPP8_FI, DPP16, LITERAL) and part not in ("vdst", "sdst", "saddr"):
                    if part == "soffset" or (first != LITERAL and (part != "src0" or not name.startswith("VOP"))):
                        continue
                    bits |= (0x12345678 if first == LITERAL else 0xff00e410) << 8 * size
                    size += 4
                questions.append((item, part, i))
                items.append((bits, size))
                if name == "VOP3P" and part in ("src1", "src2"):
                    questions.append((item, part + "_dpp", i))
                    items.append((encoding.pack(op=op, **fields | {"src0": DPP8}) | _DPP_WORD << 64, 12))
    for (item, part, i), text in zip(questions, disassemble(llvm_mc, items, attributes=attributes), strict=True):
        item.kinds.setdefault(part, 0)
        if text is not None and _mnemonic(text) == item.mnemonic:
            item.kinds[part] |= 1 << i


_CODES = {"src0", "src1", "src2", "ssrc0", "ssrc1", "sdst", "sdata", "soffset", "saddr"}
_EXTRA = {"GLOBAL": ("saddr",), "SCRATCH": ("saddr",),      # what the pattern leaves out, or what changes it
          "MIMG": ("vdata", "vaddr", "srsrc", "nsa", "dim", "dmask", "a16", "tfe")}


def _own(name: str, bits: int) -> bool:
    """Not one of the narrower formats that share the wider one's prefix."""
    first = next(e for e in ENCODINGS.values() if e.matches(bits & 0xffffffff))
    return first.name == name or (first.name, name) in {("VOP3SD", "VOP3"), ("FLAT", "SCRATCH"), ("FLAT", "GLOBAL")}


def _scan_vopd(llvm_mc: str) -> tuple[dict[int, str], dict[int, str]]:
    """X and Y opcodes; the other half is a ``v_dual_mul_f32`` (3) or ``v_dual_mov_b32`` (8)."""
    encoding = ENCODINGS["VOPD"]
    registers = {"src0x": _V + 32, "vsrc1x": 49, "src0y": _V + 34, "vsrc1y": 51, "vdstx": 16, "vdsty": 17 >> 1}
    result: tuple[dict[int, str], dict[int, str]] = {}, {}
    for half, width in enumerate((4, 5)):
        for op in range(1 << width):
            for one in ({}, {("vsrc1x", "vsrc1y")[half]: 0}):
                ops = {"opx": 3, "opy": 3} | {("opx", "opy")[half]: op}
                text = disassemble(llvm_mc, [(encoding.pack(**{**registers, **one}, **ops), 8)])[0]
                if text:
                    result[half].setdefault(op, text.split("::")[half].split()[0].removeprefix("v_dual_"))
    return result


def generate(llvm_mc: str) -> str:
    """The text of ``mock/isa/opcodes.py``."""
    parts = ['# ruff: noqa: E501\n'
             '"""Opcodes of gfx1100. Generated by tools/autogen/isa.py from LLVM\'s disassembler; do not edit.\n\n'
             "A line: opcode, mnemonic, operand fields in assembler order (with their width in registers where it is\n"
             "not 1, and `!` where a field that could hold a VGPR holds an SGPR), bits that must be zero (or equal\n"
             "another number), which kinds of codes (KINDS in encoding.py, a bit each) an operand may be, and which\n"
             "sources' neg, abs and op_sel bits are printed, and how.\n"
             '"""\n\nOPCODES: dict[str, str] = {']
    for name in _TELLING:
        found = sorted(_scan(llvm_mc, name).items())
        lines = [item.line(op, ENCODINGS[name]) for op, item in found]
        parts.append(f'    "{name}": """\n' + "\n".join(lines) + '\n""",')
    for half, table in zip("XY", _scan_vopd(llvm_mc), strict=True):
        lines = [f"{op:x} {mnemonic}" for op, mnemonic in sorted(table.items())]
        parts.append(f'    "VOPD{half}": """\n' + "\n".join(lines) + '\n""",')
    parts.append("}\n\nBUFFER_FORMATS: dict[int, str] = {")
    parts += [f'    {number}: "{name}",' for number, name in _buffer_formats(llvm_mc).items()]
    return "\n".join(parts) + "\n}\n"


def _buffer_formats(llvm_mc: str) -> dict[int, str]:
    """Names of the unified buffer formats; LLVM leaves out format 1, its default, and prints numbers for the rest."""
    telling, _ = _TELLING["MTBUF"]
    encoding = ENCODINGS["MTBUF"]
    items = [(encoding.pack(op=0, **{**telling, "format": number}), encoding.size) for number in range(128)]
    found = {}
    for number, text in enumerate(disassemble(llvm_mc, items)):
        named = re.search(r"format:\[(\w+)\]", text or "")
        if named:
            found[number] = named[1]
        elif text and "format:" not in text:
            found[number] = "BUF_FMT_8_UNORM"
    return dict(sorted(found.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--llvm-mc", default="llvm-mc", help="LLVM's machine code tool (19 or newer)")
    parser.add_argument("--check", action="store_true", help="compare with the committed file instead of writing it")
    arguments = parser.parse_args()
    text = generate(arguments.llvm_mc)
    if arguments.check:
        raise SystemExit(0 if OUTPUT.read_text() == text else f"{OUTPUT} differs from what LLVM says")
    OUTPUT.write_text(text)


if __name__ == "__main__":
    from tools.piped import piped
    piped(main)()
