"""The blocks of docs/hcq.md, in order, in one namespace."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import hcq

PAGE = Path(__file__).parents[2] / "docs" / "hcq.md"


def test_the_tutorial_runs(am: hcq.Device, capsys: pytest.CaptureFixture[str]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    blocks = list(re.finditer(r"^```python\n(.*?)^```", text, re.S | re.M))
    assert len(blocks) >= 8
    names: dict[str, Any] = {}
    for block in blocks:
        line = text[:block.start(1)].count("\n")
        exec(compile("\n" * line + block[1], str(PAGE), "exec"), names)
    assert names["dev"] is am
    printed = capsys.readouterr().out
    assert "takes 3 arguments, 2 were given" in printed and "was freed" in printed and "RELEASE_MEM" in printed
