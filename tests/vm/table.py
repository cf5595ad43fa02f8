"""The table of what ran on which kernel: printed by ``make test-vm``, kept in docs/kernels.md by ``make vm-table``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PROPERTY", "Row", "markdown", "write"]

PROPERTY = "vm_row"
BEGIN, END = "<!-- table: make vm-table -->", "<!-- end of table -->"


@dataclass(frozen=True)
class Row:
    """One guest: what was run in it, and what came of it."""

    what: str
    kernel: str
    iommu: str
    modes: str
    qemu: str
    result: str
    starts: int
    seconds: float


def markdown(rows: Sequence[Row]) -> str:
    lines = ["| what ran | ways | IOMMU | guest's kernel | QEMU | result | starts |", "|---|---|---|---|---|---|--:|"]
    lines += [f"| {r.what} | {r.modes} | {r.iommu} | {r.kernel} | {r.qemu} | {r.result} | {r.starts} |"
              for r in sorted(rows, key=lambda r: (r.what, r.kernel, r.iommu))]
    return "\n".join(lines)


def write(page: Path, rows: Sequence[Row]) -> None:
    """Put the table between the page's two marks."""
    text = page.read_text()
    found = re.search(f"{re.escape(BEGIN)}\n.*?{re.escape(END)}", text, re.S)
    if found is None:
        raise ValueError(f"{page} has no place for the table: {BEGIN} ... {END}")
    page.write_text(text[:found.start()] + f"{BEGIN}\n{markdown(rows)}\n{END}" + text[found.end():])
