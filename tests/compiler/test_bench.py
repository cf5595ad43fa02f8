"""python -m compiler.bench: what it prints and draws, and that the libraries compute the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compiler.bench import __main__ as program
from compiler.bench.report import picture, text
from compiler.bench.tasks import TASKS
from compiler.bench.worker import WARM

ROOT = Path(__file__).parent.parent.parent


def bench(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert program.main([*args, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_beside_torch(capsys: pytest.CaptureFixture[str]) -> None:
    """The same file of the model runs there, and gives the same numbers; all that is promised is reported."""
    pytest.importorskip("torch")
    found = bench(capsys, "gpt2-tiny", "--steps", "4", "--against", "torch", "--device", "CPU")
    ours, theirs = (found["results"][name] for name in ("ours", "torch"))
    assert ours["results"] == pytest.approx(theirs["results"], rel=1e-3, abs=1e-4)
    assert len(ours["results"]) == 4 + WARM and len(ours["steps"]) == 4
    assert ours["phases"].keys() == {"build", "schedule", "compile", "first run"}
    assert all(s >= 0 for s in ours["phases"].values()) and ours["phases"]["compile"] > 0
    assert ours["kernels"] > 10 and ours["programs"] > 10 and ours["memory"] > 4 * ours["parameters"]
    assert ours["rate"] == pytest.approx(1 / ours["step"]) and ours["unit"] == "tokens/s"
    # two layers of 64: 12 * 64**2 weights each, and 256 logits; beside that, attention to 9 tokens
    products = 2 * (2 * 12 * 64 ** 2 + 256 * 64)
    assert products < ours["flop"] < 1.1 * products
    assert theirs["time_ratio"] == pytest.approx(ours["step"] / theirs["step"])


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mnist-tiny", "resnet-tiny", "llama-tiny", "whisper-mini", "gpt2-tiny"])
def test_every_kind_beside_all(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Losses of training, too, step by step."""
    found = bench(capsys, model, "--steps", "3", "--device", "CPU")
    assert all("not installed" in why for why in found["skipped"].values()), found["skipped"]
    for name, other in found["results"].items():
        assert other["results"] == pytest.approx(found["results"]["ours"]["results"], rel=2e-3, abs=1e-3), name


@pytest.mark.slow
def test_on_the_card(am: str, capsys: pytest.CaptureFixture[str]) -> None:
    card = bench(capsys, "llama-tiny", "--steps", "2", "--against", "none", "--device", am)["results"]["ours"]
    here = bench(capsys, "llama-tiny", "--steps", "2", "--against", "none", "--device", "CPU")["results"]["ours"]
    assert card["device"] == "AM" and card["results"] == pytest.approx(here["results"], rel=1e-3, abs=1e-4)


def one(library: str, step: float) -> dict[str, Any]:
    out = {"model": "gpt2-tiny", "library": library, "device": "CPU", "batch": 1, "what": "a model",
           "unit": "tokens/s", "steps": [step, 2 * step], "step": 2 * step, "best": step, "rate": 0.5 / step,
           "memory": 3 << 20, "parameters": 120576, "result": [1.0, 2.0], "phases": {"build": 3.0, "first run": 1.0}}
    if library == "ours":
        out |= {"kernels": 36, "programs": 50, "flop": 2e6,
                "phases": {"build": 1.5, "schedule": 0.25, "compile": 0.0125, "first run": 2e-5}}
    return out


def test_text() -> None:
    shown = text([one("ours", 0.001), one("torch", 0.004)], {"tinygrad": "not installed: No module named 'tinygrad'"})
    rows = {line[:24].strip(): line[24:].split() for line in shown.splitlines()}
    assert shown.startswith("gpt2-tiny: a model; batch 1, 120,576 weights, 2 steps on CPU")
    assert rows[""] == [] or rows[""] == ["amdrv", "PyTorch"]
    assert rows["build"] == ["1.50", "s", "3.00", "s"] and rows["compile"] == ["12.50", "ms"]
    assert rows["first run"] == ["20", "us", "1.00", "s"] and rows["tokens/s"] == ["500.0", "125.0"]
    assert rows["GFLOP/s"] == ["1.00", "0.25"] and rows["our time to theirs"] == ["0.25"]
    assert rows["kernels a step"] == ["36"] and rows["peak memory"] == ["3.0", "MiB", "3.0", "MiB"]
    assert rows["result, difference"] == ["0.0e+00"] and "tinygrad: not installed: No module" in shown


@pytest.mark.parametrize("name", ["a.png", "a.svg"])
def test_picture(name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture([one("ours", 0.001), one("torch", 0.04)], tmp_path / name)
    data = (tmp_path / name).read_bytes()
    assert data.startswith(b"\x89PNG" if name.endswith("png") else b"<?xml") and len(data) > 5000
    if name.endswith("svg"):
        assert b"500.0" in data or b"<path" in data


@pytest.mark.parametrize(("args", "message"), [
    ([], "which model?; there are mnist"), (["gpt5"], "there is no model 'gpt5'; there are"),
    (["gpt2", "--steps", "0"], "--steps is at least 1"),
    (["gpt2", "--plot", "a.jpg"], "a .png or an .svg, not 'a.jpg'"),
    (["gpt2", "--against", "jax"], "jax is not known; torch and tinygrad are")])
def test_what_is_no_benchmark(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        program.main(args)
    assert message in capsys.readouterr().err


def test_a_device_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["gpt2-tiny", "--device", "Z80", "--against", "none"]) == 1
    assert "gpt2-tiny on Z80 failed: ValueError: device 'Z80'" in capsys.readouterr().err
    assert program.main(["gpt2-tiny", "--device", "NOPE", "--against", "none"]) == 1
    assert "failed: hcq.errors.UnknownDeviceError: no backend is called 'NOPE'" in capsys.readouterr().err
    assert program.main(["gpt2-tiny", "--steps", "500", "--against", "none", "--device", "CPU"]) == 1
    assert "do not fit into a context of 64" in capsys.readouterr().err


def test_a_picture_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    where = tmp_path / "no/such.png"
    words = ["mnist-tiny", "--steps", "1", "--against", "none", "--device", "CPU", "--plot", str(where)]
    assert program.main(words) == 1
    said = capsys.readouterr()
    assert f"--plot {where}: cannot be written: No such file" in said.err and "images/s" in said.out


def test_the_list() -> None:
    done = subprocess.run([sys.executable, "-m", "compiler.bench", "--list"], cwd=ROOT, capture_output=True, text=True,
                          check=True)
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(TASKS)
    assert all(task.unit in done.stdout for task in TASKS.values())
