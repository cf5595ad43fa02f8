"""Benchmarks; each one is a program: python -m bench.NAME."""

from __future__ import annotations

from pathlib import Path

__all__ = ["write_section"]


def write_section(path: Path, begin: str, end: str, part: str) -> None:
    """Put ``part``, which begins and ends with these marks, into a page: in place of the old one, or at the end."""
    text = path.read_text(encoding="utf-8") if path.exists() else "# Performance\n\n"
    if begin in text:
        text = text[:text.index(begin)] + part + text[text.index(end) + len(end):]
    else:
        text = text.rstrip("\n") + "\n\n" + part
    path.write_text(text, encoding="utf-8")
