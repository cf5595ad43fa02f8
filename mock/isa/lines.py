"""Where machine code comes from: source lines of a code object's DWARF, if pyelftools is there to read it."""

from __future__ import annotations

import bisect
import io
from pathlib import PurePath
from typing import Any

__all__ = ["Lines"]


class Lines:
    """Addresses (as in the file) -> "name:line". Empty without debug information, or without pyelftools."""

    def __init__(self, data: bytes) -> None:
        found = _read(data)
        self._starts, self._texts = [at for at, _ in found], [text for _, text in found]

    def __bool__(self) -> bool:
        return bool(self._starts)

    def at(self, address: int) -> str:
        """The line that the instruction at ``address`` belongs to; empty where nothing is said."""
        i = bisect.bisect_right(self._starts, address) - 1
        return self._texts[i] if i >= 0 else ""


def _read(data: bytes) -> list[tuple[int, str]]:
    try:
        from elftools.common.exceptions import ELFError
        from elftools.elf.elffile import ELFFile
    except ImportError:
        return []
    try:
        file = ELFFile(io.BytesIO(data))
        if not file.has_dwarf_info():
            return []
        dwarf = file.get_dwarf_info(relocate_dwarf_sections=False)
        rows: dict[int, str] = {}
        for unit in dwarf.iter_CUs():
            program = dwarf.line_program_for_CU(unit)
            if program is None:
                continue
            for entry in program.get_entries():
                state = entry.state
                if state is not None:
                    rows[state.address] = "" if state.end_sequence else f"{_name(program, state.file)}:{state.line}"
    except (ELFError, KeyError, IndexError, AttributeError, ValueError):
        return []       # damaged or unknown debug information is none
    return sorted(rows.items())


def _name(program: Any, index: int) -> str:
    header = program.header
    entry = header["file_entry"][index - (0 if header["version"] >= 5 else 1)]
    return PurePath(entry.name.decode(errors="replace")).name
