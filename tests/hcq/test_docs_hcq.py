"""The blocks of docs/hcq.md, in order, in one namespace."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from code_objects import clang

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


@pytest.mark.parametrize("compiler", ["clang", "llvmlite"])
def test_the_vector_add_runs(compiler: str) -> None:
    arguments = ["-n", "10001"]
    if compiler == "llvmlite":
        arguments += ["--clang", ""]
    elif clang() is None:
        pytest.skip("no clang with the amdgcn target on this machine")
    done = subprocess.run([sys.executable, "examples/vector_add.py", *arguments], capture_output=True, text=True,
                          timeout=120, cwd=PAGE.parents[1], check=False,
                          env={**os.environ, "AMDRV_HAL": "mock", "PYTHONPATH": str(PAGE.parents[1])})
    assert done.returncode == 0, done.stderr
    assert "10,001 sums equal NumPy's, bit for bit" in done.stdout
