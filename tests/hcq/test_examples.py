"""Each example runs, as a program of its own, and says that its result is right."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(example: str, *arguments: str, mock: str = "gfx1100:vram=256M") -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, f"examples/{example}.py", *arguments], capture_output=True, text=True,
                          timeout=180, cwd=ROOT, check=False,
                          env={**os.environ, "AMDRV_HAL": "mock", "AMDRV_MOCK": mock, "PYTHONPATH": str(ROOT)})


def test_reduction() -> None:
    done = run("reduction", "-n", "70001")
    assert done.returncode == 0, done.stderr
    assert "the bits of NumPy's sum in the same order" in done.stdout


@pytest.mark.skipif(not any(map(shutil.which, ("llvm-mc-19", "llvm-mc-20", "llvm-mc-21", "llvm-mc"))),
                    reason="no llvm-mc on this machine")
def test_matmul_from_assembly() -> None:
    done = run("matmul_assembly", "-n", "48")
    assert done.returncode == 0, done.stderr
    assert "equal to NumPy's, every element" in done.stdout
    wrong = run("matmul_assembly", "-n", "50")
    assert wrong.returncode == 2 and "-n must be a multiple of 16, not 50" in wrong.stderr


def test_two_cards(tmp_path: Path) -> None:
    done = run("two_cards", "-n", "4096", "--batches", "3", "--trace", str(tmp_path / "trace.json"),
               mock="gfx1100:vram=128M,count=2")
    assert done.returncode == 0, done.stderr
    assert "equal to NumPy's, every number" in done.stdout and "kernel add_one" in done.stdout
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    kernels = [(event["pid"], event["name"]) for event in events if event["ph"] == "X" and event["cat"] == "kernel"]
    assert sorted(set(kernels)) == [(2, "square"), (3, "add_one")] and len(kernels) == 6
    assert sum(event["ph"] == "f" and event["cat"] == "signal" for event in events) >= 6
