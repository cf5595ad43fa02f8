"""A small program in C, built once, and the command run on it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import tools.ioctl_sniff

COMPILER = next(filter(None, map(shutil.which, ("cc", "gcc", "clang", "clang-19"))), None)
WATCH = ["-d", "/dev/ptmx", "-d", "/dev/loop*"]

SCHEMA = jsonschema.Draft202012Validator(json.loads(
    (Path(tools.ioctl_sniff.__file__).parent / "schema/ioctl-sniff-1.json").read_text()))
Sniff = Callable[..., "Ran"]


class Ran:
    """A finished run of ioctl-sniff with --json."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.status, self.said = done.returncode, done.stderr
        self.calls: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()
                                            if line.startswith("{")]
        for call in self.calls:
            best = jsonschema.exceptions.best_match(SCHEMA.iter_errors(call))
            assert best is None, f"{call}: {best.message if best else ''}"

    def named(self, name: str) -> list[dict[str, Any]]:
        return [call for call in self.calls if call["name"] == name]


def build(folder: Path, *flags: str) -> Path:
    if not sys.platform.startswith("linux") or COMPILER is None:
        pytest.skip("needs Linux and a C compiler")
    target = folder / "target"
    source = Path(__file__).parent / "target.c"
    done = subprocess.run([COMPILER, "-O1", "-pthread", *flags, "-o", str(target), str(source)], capture_output=True,
                          text=True, check=False)
    if done.returncode and "-static" in flags:
        pytest.skip("no static C library here")
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(scope="session")
def dynamic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("dynamic"))


@pytest.fixture(scope="session")
def static(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("static"), "-static")


@pytest.fixture(params=["preload", "ptrace", "static"])
def target(request: pytest.FixtureRequest) -> tuple[Path, list[str]]:
    """The program, and how it is followed: three ways that must see the same."""
    program: Path = request.getfixturevalue("static" if request.param == "static" else "dynamic")
    return program, ["--mechanism", request.param] if request.param != "static" else []


@pytest.fixture(scope="session")
def sniff() -> Sniff:
    def run(*arguments: str | Path, timeout: float = 60) -> Ran:
        command = [sys.executable, "-m", "tools.ioctl_sniff", *WATCH, "--json", *map(str, arguments)]
        return Ran(subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False))
    return run
