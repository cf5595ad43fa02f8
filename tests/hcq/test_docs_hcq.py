"""The blocks of docs/hcq.md, in order, in one namespace."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from code_objects import clang

PAGE = Path(__file__).parents[2] / "docs" / "hcq.md"


def test_the_tutorial_runs(tmp_path: Path) -> None:
    """In a process of its own, with two cards."""
    text = PAGE.read_text(encoding="utf-8")
    blocks = list(re.finditer(r"^```python\n(.*?)^```", text, re.S | re.M))
    assert len(blocks) >= 12
    lines: list[str] = []
    for block in blocks:                                # each on its own lines of the page
        lines += [""] * (text[:block.start(1)].count("\n") - len(lines)) + block[1].splitlines()
    done = subprocess.run([sys.executable, "-"], input="\n".join(lines), text=True, capture_output=True, timeout=300,
                          cwd=PAGE.parents[1], check=False,
                          env={**os.environ, "AMDRV_HAL": "mock", "AMDRV_MOCK": "gfx1100:vram=1G,count=2",
                               "PYTHONPATH": str(PAGE.parents[1]), "TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stdout + done.stderr
    printed = done.stdout
    assert "takes 3 arguments, 2 were given" in printed and "was freed" in printed and "RELEASE_MEM" in printed
    assert "kernel scale" in printed and "AM:0 SQ_WAVES" in printed and "have BLAKE3" in printed


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
