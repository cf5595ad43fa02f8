"""How much of the ISA is there: opcodes a format, decoded and executed. ``python -m mock.isa coverage`` prints it, with
``--write docs/isa.md`` puts it into the page."""

from __future__ import annotations

import re
from pathlib import Path

from mock.isa.decode import opcode_table
from mock.isa.opcodes import OPCODES
from mock.isa.semantics import table

__all__ = ["coverage", "missing", "table_text", "write_table"]

# Executed outside the semantics table: control flow, hardware registers, messages, indexed registers, formats.
_ELSEWHERE = ("s_", "v_movrel", "v_swaprel", "ds_swizzle", "ds_permute", "ds_bpermute", "ds_append", "ds_consume",
              "ds_nop", "buffer_gl", "buffer_load_lds", "buffer_load_format", "buffer_store_format", "buffer_load_d16",
              "buffer_store_d16", "tbuffer_")
_REASONS = {"VINTERP": "no pixel pipeline", "LDSDIR": "no pixel pipeline", "MIMG": "no image unit"}
_NO_UNIT = {"ds_gws": "no global wave sync", "ds_ordered": "no global data share", "ds_add_gs": "graphics streams",
            "ds_sub_gs": "graphics streams", "ds_bvh": "no ray tracing unit",
            "s_code_end": "marks the end of code", "s_endpgm_saved": "no context save"}


def missing(encoding: str) -> dict[str, str]:
    """{mnemonic: reason} of what decodes but is not executed."""
    result = {}
    for opcode in opcode_table(encoding).values():
        name = "v_" + opcode.mnemonic if encoding.startswith("VOPD") else opcode.mnemonic
        reason = _REASONS.get(encoding) or next((r for p, r in _NO_UNIT.items() if name.startswith(p)), None)
        if reason is not None:
            result[name] = reason
        elif name not in table() and not name.startswith(_ELSEWHERE):
            result[name] = "not written"
    return result


def coverage() -> list[tuple[str, int, int, str]]:
    """(format, opcodes that LLVM knows, opcodes executed, why not the rest)."""
    rows = []
    for encoding in OPCODES:
        absent = missing(encoding)
        count = len(opcode_table(encoding))
        rows.append((encoding, count, count - len(absent), ", ".join(sorted(set(absent.values())))))
    return [*rows, ("EXP", 1, 0, "no export unit")]


def table_text() -> str:
    """The table of ``docs/isa.md``."""
    lines = ["| format | opcodes | executed | the rest |", "|---|---|---|---|"]
    lines += [f"| {name} | {count} | {done} | {why} |" for name, count, done, why in coverage()]
    total = sum(count for _, count, _, _ in coverage()), sum(done for _, _, done, _ in coverage())
    return "\n".join([*lines, f"| all | {total[0]} | {total[1]} | |"])


def write_table(page: Path) -> None:
    """Put the table in the place of the one that the page has. :raises ValueError: it has none."""
    text = page.read_text()
    found = re.search(r"\| format \| opcodes \|.*?\n\| all \|[^\n]*", text, re.S)
    if found is None:
        raise ValueError(f"{page} has no table that begins with '| format | opcodes |'")
    page.write_text(text[:found.start()] + table_text() + text[found.end():])
