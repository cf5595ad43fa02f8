"""The example, whole on the CPU; a few steps of it on the mock card, with the same losses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent


def digits(*args: str, **environment: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "digits.py"), "--json", *args],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_learns_on_the_cpu() -> None:
    code, result = digits("--device", "CPU")
    assert code == 0 and result["accuracy"] >= 0.95 and result["steps"] == len(result["losses"]) == 88
    assert result["losses"][0] > 2 and result["losses"][-1] < 0.5
    code, again = digits("--device", "CPU", "--epochs", "1")
    assert again["losses"] == result["losses"][:11]         # the same seed, the same numbers


def test_the_same_losses_on_am() -> None:
    """And the driver's counts are the card's."""
    arguments = ("--epochs", "1", "--batch", "512", "--hidden", "16")
    code, am = digits(*arguments, "--device", "AM", AMDRV_HAL="mock")
    assert code == 0 and not am["failures"]
    _, cpu = digits(*arguments, "--device", "CPU")
    assert am["losses"] == pytest.approx(cpu["losses"], rel=1e-4)
    counted = am["gpu"]
    assert counted["driver"] == counted["mock"] and counted["driver"]["kernels"] > 20 and counted["instructions"] > 1000
    assert {"psp", "gfx", "sdma"} <= {name for name, _ in counted["boot"]}
