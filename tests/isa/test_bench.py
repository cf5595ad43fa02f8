"""The bench's table in docs/performance.md: a run that measures a part replaces that part."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import isa


def test_lines_of_an_earlier_run_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{isa.BEGIN}{isa.END}after\n", encoding="utf-8")
    rows = [isa.Row("loop", "jit", 0.001, 0.002, 3.0), isa.Row("card: copy", "jit", 0.004, 0.004, None, "47 % lost")]
    monkeypatch.setattr(isa, "_rows", rows)
    isa._write_docs(page)
    monkeypatch.setattr(isa, "_rows", [isa.Row("card: copy", "jit", 0.003, 0.003, None, "4 % lost")])
    isa._write_docs(page)
    text = page.read_text(encoding="utf-8")
    assert "| loop | jit | 1.0 | 2.0 | 3.0 |  |\n| card: copy | jit | 3.0 | 3.0 |  | 4 % lost |\n" in text
    assert "47 %" not in text and text.startswith("before\n") and text.endswith("after\n")
