"""Following one wave through a kernel: what each instruction changed, where to stop, what ran how often."""

from __future__ import annotations

import fnmatch
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mock.isa.decode import Instruction, opcode_table
from mock.isa.dispatch import IsaError
from mock.isa.lines import Lines
from mock.isa.opcodes import OPCODES
from mock.isa.state import State

__all__ = ["Breakpoint", "StopTracing", "Tracer", "parse_register", "register_name"]

_NAMES = {106: "vcc_lo", 107: "vcc_hi", 124: "null", 125: "m0", 126: "exec_lo", 127: "exec_hi",
          **{108 + i: f"ttmp{i}" for i in range(16)}}
_CODES = {name: code for code, name in _NAMES.items()}


class StopTracing(Exception):
    """The limit or a breakpoint was reached."""


def register_name(kind: str, number: int) -> str:
    return f"v{number}" if kind == "v" else _NAMES.get(number, f"s{number}")


def parse_register(text: str) -> list[tuple[str, int]]:
    """``v3``, ``s[4:5]``, ``vcc``, ``exec``, ``m0``, ``scc`` -> (kind, number) of each register.

    :raises ValueError: it is none.
    """
    if text == "scc":
        return [("scc", 0)]
    if text in ("vcc", "exec"):
        first = _CODES[text + "_lo"]
        return [("s", first), ("s", first + 1)]
    if text in _CODES:
        return [("s", _CODES[text])]
    found = re.fullmatch(r"([sv])(?:(\d+)|\[(\d+):(\d+)\])", text)
    if found is None:
        raise ValueError(f"{text!r} is no register; use v3, v[2:3], s4, s[4:5], vcc, exec, m0, ttmp0 or scc")
    first, last = (int(found[2]), int(found[2])) if found[2] else (int(found[3]), int(found[4]))
    return [(found[1], n) for n in range(first, last + 1)]


class Breakpoint:
    """An offset (hexadecimal), a label, a source line (``file:line``), or a mnemonic, with * and ? as wildcards."""

    def __init__(self, text: str, labels: Mapping[str, int]) -> None:
        self.text = text
        self.offset: int | None = None
        self.line = text if re.fullmatch(r"[^:]+:\d+", text) else ""
        if text in labels:
            self.offset = labels[text]
        elif re.fullmatch(r"(0x)?[0-9a-f]+", text):
            self.offset = int(text, 16)
        elif not self.line and not any(fnmatch.fnmatch(o.mnemonic, text) for e in OPCODES
                                       for o in opcode_table(e).values()):
            raise ValueError(f"breakpoint {text!r} is no offset, no label ({', '.join(sorted(labels)[:8])}...), "
                             f"no FILE:LINE and no mnemonic")

    def hit(self, offset: int, instruction: Instruction, source: str) -> bool:
        if self.offset is not None:
            return offset == self.offset
        return source == self.line if self.line else fnmatch.fnmatch(instruction.mnemonic, self.text)


class Tracer:
    """Prints what the instructions of one wave change: scalar registers, and vector registers of one lane.

    ``base`` is where offset 0 is; ``watch`` leaves only the instructions that change one of these registers.
    """

    def __init__(self, wave: int, lane: int, limit: int, base: int, *, breakpoints: Iterable[Breakpoint] = (),
                 watch: Iterable[tuple[str, int]] = (), as_json: bool = False, lines: Lines | None = None,
                 output: Any = None) -> None:
        self.wave, self.lane, self.limit, self.base = wave, lane, limit, base
        self.breakpoints, self.watch, self.as_json = tuple(breakpoints), frozenset(watch), as_json
        self.lines, self.output = lines, output or sys.stdout
        self.shown = self.followed = 0
        self.counts: Counter[str] = Counter()
        self.formats: Counter[str] = Counter()
        self._before: tuple[np.ndarray, np.ndarray, bool] | None = None
        self._source = ""

    def __call__(self, pc: int, instruction: Instruction, state: State) -> None:
        where = np.flatnonzero(state.per_wave["id"] == self.wave)
        if not len(where):
            return
        index = int(where[0])
        if not 0 <= self.lane < state.lanes:
            raise IsaError(f"lane {self.lane} is none of a wave of {state.lanes}")
        now = state.vgpr[:, self.lane, index].copy(), state.sgpr[:, index].copy(), bool(state.scc[index])
        changes = self._changes(now)
        first = self._before is None
        self._before = now
        self.followed += 1
        self.counts[instruction.mnemonic] += 1
        self.formats[instruction.encoding] += 1
        offset = pc - self.base
        source = self.lines.at(offset) if self.lines else ""
        if not self.watch or first or self.watch & changes.keys():
            self._show(offset, instruction, changes, source, self._address(instruction, state, index))
        for breakpoint_ in self.breakpoints:
            if breakpoint_.hit(offset, instruction, source):
                raise StopTracing(f"breakpoint {breakpoint_.text}: stopped behind {offset:#x}: {instruction}")
        if self.shown >= self.limit:
            raise StopTracing(f"stopped after {self.shown} instructions")

    def _show(self, offset: int, instruction: Instruction, changes: Mapping[tuple[str, int], int], source: str,
              address: str) -> None:
        self.shown += 1
        if self.as_json:
            values = {self._name(key): value for key, value in changes.items()}
            line = {"offset": offset, "text": str(instruction), "changes": values, "source": source, "address": address}
            print(json.dumps({k: v for k, v in line.items() if v not in ("", {})}), file=self.output)
            return
        if source and source != self._source:
            print(f"; {source}", file=self.output)
            self._source = source
        texts = [self._text(key, value) for key, value in changes.items()] + ([address] if address else [])
        print(f"{offset:6x}  {instruction!s:<58} {' '.join(texts)}".rstrip(), file=self.output)

    @staticmethod
    def _name(key: tuple[str, int]) -> str:
        return "scc" if key[0] == "scc" else register_name(*key)

    def _text(self, key: tuple[str, int], value: int) -> str:
        number = f" ({np.uint32(value).view(np.float32):g})" if key[0] == "v" else ""
        return f"{self._name(key)}={value:#x}{number}"

    def _changes(self, now: tuple[np.ndarray, np.ndarray, bool]) -> dict[tuple[str, int], int]:
        if self._before is None:
            return {}
        vectors, scalars, scc = self._before
        changes = {("v", int(i)): int(now[0][i]) for i in np.flatnonzero(vectors != now[0])}
        changes |= {("s", int(i)): int(now[1][i]) for i in np.flatnonzero(scalars != now[1])}
        return changes | ({("scc", 0): int(now[2])} if scc != now[2] else {})

    def _address(self, instruction: Instruction, state: State, index: int) -> str:
        """Where a store or an atomic of the lane went: [address]."""
        f, name = instruction.fields, instruction.mnemonic
        if instruction.encoding not in ("GLOBAL", "FLAT", "DS") or not ("store" in name or "atomic" in name):
            return ""
        if state.mask is not None and not state.mask[self.lane, index]:
            return "(lane off)"

        def vector(number: int) -> int:
            return int(state.vgpr[number, self.lane, index])
        if instruction.encoding == "DS":
            return f"lds[{vector(f['addr']) + f['offset0'] + (0 if '2addr' in name else f['offset1'] << 8):#x}]"
        offset = f["offset"] - (1 << 13) if instruction.encoding == "GLOBAL" and f["offset"] >> 12 else f["offset"]
        if instruction.encoding == "GLOBAL" and f["saddr"] != 124:
            base = int(state.sgpr[f["saddr"], index]) | int(state.sgpr[f["saddr"] + 1, index]) << 32
            return f"[{base + vector(f['addr']) + offset & (1 << 64) - 1:#x}]"
        return f"[{(vector(f['addr']) | vector(f['addr'] + 1) << 32) + offset & (1 << 64) - 1:#x}]"

    def registers(self) -> str:
        """Every register that is not poison, as they are now."""
        if self._before is None:
            return "nothing ran"
        vectors, scalars, scc = self._before
        poison = 0xa5a5a5a5
        rows = [f"{register_name('s', i)}={int(v):#x}" for i, v in enumerate(scalars) if int(v) != poison]
        rows += [self._text(("v", i), int(v)) for i, v in enumerate(vectors) if int(v) != poison]
        rows.append(f"scc={int(scc)}")
        return "\n".join("  " + "  ".join(f"{cell:<30}" for cell in rows[i:i + 3]).rstrip()
                         for i in range(0, len(rows), 3))

    def statistics(self, most: int = 12) -> str:
        """What this wave ran, by format and by mnemonic."""
        formats = ", ".join(f"{n} {name}" for name, n in self.formats.most_common())
        lines = [f"{self.followed} instructions of wave {self.wave}: {formats}"]
        return "\n".join(lines + [f"{n:8}  {name}" for name, n in self.counts.most_common(most)])
