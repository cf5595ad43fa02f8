"""The bench of loading runs, small, and says what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import load


def test_small_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "_fio", lambda path, nbytes, kind: 2e9)
    monkeypatch.setenv("HCQ_IO", "auto")
    status = load.main(["--size", "3", "--rounds", "1", "--folder", str(tmp_path), "--json",
                        str(tmp_path / "out.json")])
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert status == 0 and len(rows) >= 6
    for row in rows:
        assert row["ours"] > 0 and row["fio"] == 2.0 and row["ratio"] == pytest.approx(row["ours"] / 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json"]
    page = tmp_path / "page.md"
    page.write_text("# Performance\n")
    for _ in range(2):                                  # the second time in place of the first
        load._write_docs([load.Row(**row) for row in rows], 3 << 20, 1, page)
    assert page.read_text().count("## Files") == 1 and page.read_text().startswith("# Performance")
