"""Register tables from AMD's ``*_offset.h`` and ``*_sh_mask.h``.

The headers give one macro an offset, one a base index, two a field: 17 MB for the blocks here. A table holds
the same facts as one line a register, in the headers' order, in a few hundred kilobytes:

    NAME base_idx offset FIELD:msb:lsb FIELD:bit ...
    NAME base_idx offset~default =OTHER     a value after reset; the same fields as OTHER, which stands above

``offset`` is in dwords, in hexadecimal, as is ``default``, from ``*_default.h`` where AMD publishes one; zero is
left out. ``base_idx`` ``i`` marks an indexed register, which has no place of
its own in the register BAR (SQ_WAVE_*, reached through SQ_IND_INDEX). ``## block`` lines are the headers'
address blocks.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from tools.autogen import SourceError, Sources

__all__ = ["EXTRAS", "HEADERS", "Extra", "Layout", "build_table", "generate"]

INCLUDE = "drivers/gpu/drm/amd/include/asic_reg"
TABLES = "amdrv/regs/tables"

HEADERS = {
    "gc_11_0_0": "gc/gc_11_0_0",
    "mmhub_3_0_0": "mmhub/mmhub_3_0_0",
    "nbio_4_3_0": "nbio/nbio_4_3_0",
    "mp_13_0_0": "mp/mp_13_0_0",
    "hdp_6_0_0": "hdp/hdp_6_0_0",
    "osssys_6_0_0": "oss/osssys_6_0_0",
    "athub_3_0_0": "athub/athub_3_0_0",
    "smuio_13_0_6": "smuio/smuio_13_0_6",
    "thm_13_0_2": "thm/thm_13_0_2",
}
"""Table name -> header prefix below :data:`INCLUDE`."""

DEFAULTS = ("gc_11_0_0",)
"""The tables with a ``*_default.h``: the registers' values after reset."""

Layout = tuple[tuple[str, int, int], ...]
"""(field, msb, lsb), by lsb."""


@dataclass(frozen=True)
class Extra:
    """A register that the kernel names elsewhere than in the generated headers; left out once a header has it."""

    name: str
    base_idx: int
    offset: int
    source: str
    layout: Layout = ()


EXTRAS: dict[str, tuple[Extra, ...]] = {
    "gc_11_0_0": (
        Extra("CGTT_WD_CLK_CTRL", 1, 0x5086, "Linux 6.1, gfx_v11_0.c, regCGTT_WD_CLK_CTRL"),
    ),
    "osssys_6_0_0": (
        Extra("IH_RING1_CLIENT_CFG_INDEX", 0, 0x185,
              "Linux after 6.1, osssys_6_0_0_offset.h and _sh_mask.h, regIH_RING1_CLIENT_CFG_INDEX",
              (("INDEX", 2, 0),)),
        Extra("IH_RING1_CLIENT_CFG_DATA", 0, 0x186,
              "Linux after 6.1, osssys_6_0_0_offset.h and _sh_mask.h, regIH_RING1_CLIENT_CFG_DATA",
              (("CLIENT_ID", 7, 0), ("SOURCE_ID", 15, 8), ("SOURCE_ID_MATCH_ENABLE", 16, 16))),
    ),
    # The page below 0x80000 of the register BAR has no registers; the two HDP flush registers are remapped
    # into it through BIF_BX0_REMAP_HDP_{MEM,REG}_FLUSH_CNTL. The base of NBIO's index 0 is 0.
    "nbio_4_3_0": (
        Extra("REMAP_HDP_MEM_FLUSH", 0, 0x7f000 // 4,
              "Linux 6.1, soc21.c, MMIO_REG_HOLE_OFFSET + kfd_ioctl.h, KFD_MMIO_REMAP_HDP_MEM_FLUSH_CNTL"),
        Extra("REMAP_HDP_REG_FLUSH", 0, 0x7f004 // 4,
              "Linux 6.1, soc21.c, MMIO_REG_HOLE_OFFSET + kfd_ioctl.h, KFD_MMIO_REMAP_HDP_REG_FLUSH_CNTL"),
    ),
}

_BLOCK = re.compile(r"^// addressBlock: (\w+)")
_DEFINE = re.compile(r"^#define\s+(\w+)\s+(0x[0-9a-fA-F]+|\d+)[uUlL]*\s*$")


@dataclass
class _Parsed:
    """One register of an offset header."""

    name: str
    offset: int
    block: str
    base_idx: int | None = None
    default: int = 0
    layout: Layout = field(default=())


def _registers(text: str) -> list[_Parsed]:
    found: dict[str, _Parsed] = {}
    bases: dict[str, int] = {}
    block = ""
    for line in text.splitlines():
        if match := _BLOCK.match(line):
            block = match[1]
        elif match := _DEFINE.match(line):
            macro, number = match[1], int(match[2], 0)
            if macro.endswith("_BASE_IDX"):
                bases[macro.removesuffix("_BASE_IDX")] = number
            elif macro.startswith(("reg", "ix")):       # cfg*: PCI configuration space, not register BAR
                if macro in found:
                    raise SourceError(f"{macro} is defined twice")
                found[macro] = _Parsed(re.sub(r"^(reg|ix)", "", macro), number, block)
    for macro, register in found.items():
        register.base_idx = bases.get(macro)
        if macro.startswith("reg") and register.base_idx is None:
            # gc_11_0_0_offset.h leaves one index out (GFX_IMU_FUSESTRAP); all registers of an address block
            # share theirs.
            same = {bases[m] for m, r in found.items() if r.block == register.block and m in bases}
            if len(same) != 1:
                raise SourceError(f"{macro} has no _BASE_IDX and its block {register.block} has {sorted(same)}")
            register.base_idx = same.pop()
    return list(found.values())


def _layouts(text: str) -> tuple[dict[str, Layout], list[str]]:
    """Fields by register name, and the fields left out because shift and mask do not agree."""
    shifts: dict[str, int] = {}
    masks: dict[str, int] = {}
    for line in text.splitlines():
        if match := _DEFINE.match(line):
            macro, number = match[1], int(match[2], 0)
            if macro.endswith("__SHIFT"):
                shifts[macro.removesuffix("__SHIFT")] = number
            elif macro.endswith("_MASK"):
                masks[macro.removesuffix("_MASK")] = number
    fields: dict[str, list[tuple[str, int, int]]] = {}
    left_out = [name for name in masks if name not in shifts]
    for name, lsb in shifts.items():
        ones = masks.get(name, 0) >> lsb
        if not ones or ones & (ones + 1) or ones << lsb != masks[name]:
            left_out.append(name)
            continue
        register, _, short = name.partition("__")
        fields.setdefault(register, []).append((short, lsb + ones.bit_length() - 1, lsb))
    return ({name: tuple(sorted(layout, key=lambda entry: entry[2])) for name, layout in fields.items()},
            sorted(left_out))


def _defaults(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for line in text.splitlines():
        if (match := _DEFINE.match(line)) and match[1].endswith("_DEFAULT"):
            found[re.sub(r"^(reg|ix)", "", match[1].removesuffix("_DEFAULT"))] = int(match[2], 0)
    return found


def build_table(name: str, offset_header: Path, mask_header: Path, default_header: Path | None = None) -> bytes:
    """The table's text. :raises SourceError: the headers are not of the form that AMD generates."""
    headers = [header for header in (offset_header, mask_header, default_header) if header is not None]
    texts = [header.read_text(encoding="utf-8") for header in headers]
    registers = _registers(texts[0])
    if not registers:
        raise SourceError(f"{offset_header} defines no registers")
    layouts, left_out = _layouts(texts[1])
    known = {register.name for register in registers}
    for register in registers:
        register.layout = layouts.get(register.name, ())
    defaults = _defaults(texts[2]) if default_header is not None else {}
    for register in registers:
        register.default = defaults.get(register.name, 0)
    extras = [extra for extra in EXTRAS.get(name, ()) if extra.name not in known]
    first: dict[Layout, str] = {}
    lines: list[str] = []
    block = ""
    for register in registers:
        if register.block != block:
            block = register.block
            lines.append(f"## {block}")
        lines.append(_line(register.name, register.base_idx, register.offset, register.layout, first,
                           register.default))
    if extras:
        lines.append("## extra")
    for extra in extras:
        lines.append(f"# {extra.source}")
        lines.append(_line(extra.name, extra.base_idx, extra.offset, extra.layout, first))
    indexed = sum(register.base_idx is None for register in registers)
    header = [
        "# amdrv register table, format 1. Made by `python -m tools.autogen` (tools/autogen/registers.py); not edited.",
        *(f"# source: Linux, {INCLUDE}/{path.parent.name}/{path.name} (AMD, MIT), "
          f"sha256 {hashlib.sha256(text.encode()).hexdigest()[:16]}"
          for path, text in zip(headers, texts, strict=True)),
        f"# {name}: {len(registers) - indexed} registers, {indexed} indexed, {len(extras)} extra; "
        f"{sum(len(register.layout) for register in registers)} fields in {len(set(first))} layouts",
        f"# left out: {sum(register not in known for register in layouts)} registers that have fields but no offset"
        + (f"; fields whose shift and mask do not agree: {' '.join(left_out)}" if left_out else ""),
        f"# defaults: {sum(bool(register.default) for register in registers)} registers are not zero after reset"
        if defaults else "# defaults: not published",
        "# line: NAME base_idx offset[~default] FIELD:msb:lsb FIELD:bit ... | =OTHER; hexadecimal, offset in dwords",
    ]
    return ("\n".join(header + lines) + "\n").encode("ascii")


def _line(name: str, base_idx: int | None, offset: int, layout: Layout, first: dict[Layout, str],
          default: int = 0) -> str:
    parts = [name, "i" if base_idx is None else str(base_idx), f"{offset:x}" + (f"~{default:x}" if default else "")]
    same = first.setdefault(layout, name) if layout else name
    if same != name and len(same) + 1 < len(_fields(layout)):
        parts.append("=" + same)
    elif layout:
        parts.append(_fields(layout))
    return " ".join(parts)


def _fields(layout: Layout) -> str:
    return " ".join(f"{name}:{lsb}" if msb == lsb else f"{name}:{msb}:{lsb}" for name, msb, lsb in layout)


def generate(sources: Sources) -> dict[str, bytes]:
    """Every table, by its path in the repository."""
    def header(name: str, kind: str) -> Path:
        return sources.linux_file(f"{INCLUDE}/{HEADERS[name]}_{kind}.h")

    return {f"{TABLES}/{name}.txt": build_table(name, header(name, "offset"), header(name, "sh_mask"),
                                                header(name, "default") if name in DEFAULTS else None)
            for name in HEADERS}
