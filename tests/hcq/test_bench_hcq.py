"""The bench of queues and graphs runs, small, and writes its section."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import hcq as bench


def test_small_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "KERNELS", 30)
    monkeypatch.setattr(bench, "LIVE", 100)
    rows = bench.measure(rounds=1)
    named = {row.what for row in rows}
    assert len(rows) >= 15 and all(row.ours > 0 for row in rows)
    assert [row.limit for row in rows if row.limit is not None] == [5.0, 0.2, 2.0, 200.0]
    for words in ("graph of 30 kernels", "by hand in AQL", "by hand in PM4", "on an AQL queue", "signal round trip"):
        assert any(words in what for what in named), words
    bench._with_peer(rows, {"launch": 80.0})
    assert rows[0].peer == 80.0 and "tinygrad 80.00" in str(rows[0])
    page = tmp_path / "page.md"
    page.write_text("# Performance\n")
    for _ in range(2):                                  # the second time in place of the first
        bench._write_docs(rows, page)
    text = page.read_text()
    assert text.startswith("# Performance") and text.count("## Queues and graphs") == 1
    assert json.dumps([row.ours for row in rows]) and all(row.what in text for row in rows)
