"""Benchmarks; each one is a program: python -m bench.NAME."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["write_json", "write_section"]


def write_json(where: str, figures: Any) -> None:
    """Figures to a file; ``-`` is the standard output."""
    text = json.dumps(figures, indent=1)
    if where == "-":
        print(text)
    else:
        Path(where).write_text(text + "\n", encoding="utf-8")


def write_section(path: Path, begin: str, end: str, part: str) -> None:
    """Put ``part``, which begins and ends with these marks, into a page: in place of the old one, or at the end."""
    text = path.read_text(encoding="utf-8") if path.exists() else "# Performance\n\n"
    if begin in text:
        text = text[:text.index(begin)] + part + text[text.index(end) + len(end):]
    else:
        text = text.rstrip("\n") + "\n\n" + part
    path.write_text(text, encoding="utf-8")
