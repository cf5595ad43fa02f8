"""The example, whole on the CPU; a few steps of it on the mock card, with the same losses."""

from __future__ import annotations

import importlib.util
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


def test_disagreeing_counts_fail(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("digits_example", ROOT / "examples" / "digits.py")
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    trained = {"device": "AM", "epochs": 8, "steps": 1, "seconds": 1.0, "losses": [1.0],
               "accuracy": 0.99, "held_out": 1}
    counts = dict.fromkeys(example.COUNTS, 7)
    report = {"card": "a card", "boot": [("psp", 0.5)], "driver": counts, "mock": counts, "instructions": 9}
    monkeypatch.setattr(example, "train", lambda args: dict(trained))
    monkeypatch.setattr(example, "gpu_report", lambda name: report)
    assert example.main(["--device", "AM"]) == 0
    assert "psp" in capsys.readouterr().out
    report["mock"] = counts | {"kernels": 8}
    assert example.main(["--device", "AM"]) == 1
    seen = capsys.readouterr()
    assert "DIFFERS" in seen.out and "kernels: the driver counted 7, the card 8" in seen.err
    trained["accuracy"] = 0.5
    report["mock"] = counts
    assert example.main(["--device", "AM"]) == 1
    assert "accuracy 50.0% is below 95%" in capsys.readouterr().err


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
