"""Commands end without a word when whoever reads their output goes away (... | head)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.piped import piped

ROOT = Path(__file__).parent.parent
COMMANDS = (
    ("mock.catalogue",), ("mock.isa", "coverage"), ("mock.isa", "--help"), ("mock.trace", "--help"),
    ("mock.snapshot", "--help"), ("amdrv", "--help"), ("amdrv.dump", "--help"), ("compiler.debug",),
    ("tools.amdrv_info", "--help"), ("tools.ioctl_sniff", "list"),
)
NOT_FOR_PEOPLE = {"compiler/bench/worker.py"}       # its output is read by the process that started it


@pytest.mark.parametrize(("command", "buffered"), [
    pytest.param(command, buffered, id="-".join((*command, "buffered" if buffered else "unbuffered")))
    for command in COMMANDS for buffered in (True, False) if buffered or "--help" not in command])
def test_a_reader_that_is_gone(command: tuple[str, ...], buffered: bool) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    if not buffered:
        environment["PYTHONUNBUFFERED"] = "1"
    try:
        done = subprocess.run([sys.executable, "-m", *command], stdout=writing, stderr=subprocess.PIPE, text=True,
                              cwd=ROOT, env=environment, check=False)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_every_command_is_one_of_these() -> None:
    wrong = []
    for package in ("amdrv", "bench", "compiler", "hcq", "mock", "tools"):
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            if "\nif __name__ ==" in text and "piped" not in text:
                wrong.append(path.relative_to(ROOT).as_posix())
    assert set(wrong) == NOT_FOR_PEOPLE


def test_what_it_leaves_alone(capsys: pytest.CaptureFixture[str]) -> None:
    @piped
    def fine(value: int) -> int:
        print("said")
        return value

    @piped
    def leaves() -> None:
        raise SystemExit(7)

    assert fine(3) == 3 and capsys.readouterr().out == "said\n"
    with pytest.raises(SystemExit) as left:
        leaves()
    assert left.value.code == 7
