"""examples/vector_add.py, compiled by clang and by llvmlite."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from code_objects import clang

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("compiler", ["clang", "llvmlite"])
def test_the_vector_add_runs(compiler: str) -> None:
    arguments = ["-n", "10001"]
    if compiler == "llvmlite":
        arguments += ["--clang", ""]
    elif clang() is None:
        pytest.skip("no clang with the amdgcn target on this machine")
    done = subprocess.run([sys.executable, "examples/vector_add.py", *arguments], capture_output=True, text=True,
                          timeout=120, cwd=ROOT, check=False,
                          env={**os.environ, "AMDRV_HAL": "mock", "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert "10,001 sums equal NumPy's, bit for bit" in done.stdout
