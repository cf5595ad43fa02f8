"""Code objects as listings: one row an instruction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mock.isa.disassembler import disassemble
from mock.isa.dispatch import IllegalInstruction
from mock.isa.lines import Lines
from mock.isa.standalone import CodeObject

__all__ = ["instructions", "text"]

_EXECUTABLE = 4                 # SHF_EXECINSTR


def instructions(code: CodeObject, kernel: str | None = None) -> Iterator[dict[str, Any]]:
    """One dictionary an instruction; a line without bits where the bytes are none."""
    labels: dict[int, list[str]] = {}
    for name, offset in code.symbols.items():
        if name.rpartition(".")[0] in code.kernels:     # LLVM's counts of registers (k.num_vgpr ...) are no addresses
            continue
        labels.setdefault(offset, []).append(name)
    wave = next((k.wave_size for k in code.kernels.values()), 32)
    lines = Lines(code.data)
    inside = kernel is None
    for i, section in enumerate(code.sections):
        if not section[2] & _EXECUTABLE:
            continue
        start = code.places.get(i, section[3])
        body = bytes(code.image[start:start + section[5]])
        try:
            for address, instruction, line in disassemble(body, start, wave_size=wave):
                names = labels.get(address, [])
                if kernel is not None and not code.kernels.keys().isdisjoint(names):    # other labels are inside of one
                    inside = kernel in names
                if inside and instruction.mnemonic != "s_code_end":
                    yield {"offset": address, "bits": instruction.bits.hex(" ", 4), "text": line, "labels": names,
                           "source": lines.at(address)}
        except IllegalInstruction as error:
            yield {"offset": error.pc, "bits": "", "text": str(error), "labels": [], "source": ""}


def text(data: bytes, kernel: str | None = None) -> str:
    """The instructions of a code object: labels, and a line each with offset, text, and the bits as a comment."""
    rows = list(instructions(CodeObject(data), kernel))
    width = min(max((len(row["text"]) for row in rows), default=0), 60)
    lines = []
    for row in rows:
        lines += [f"{label}:" for label in row["labels"]]
        lines.append(f"{row['offset']:6x}  {row['text']:<{width}}  ; {row['bits']}" if row["bits"] else
                     f"        ; {row['text']}")
    return "\n".join(lines)
