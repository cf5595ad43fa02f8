"""What is installed: every file that the packages need is in the wheel, by setup.py's own words."""

from __future__ import annotations

import fnmatch
import importlib
import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest
import setuptools

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("amdrv", "compiler", "hcq", "mock", "tools")


@pytest.fixture(scope="module")
def said() -> dict[str, Any]:
    """The arguments of setup()."""
    kept: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **arguments: kept.update(arguments))
        patch.chdir(ROOT)
        runpy.run_path(str(ROOT / "setup.py"))
    return kept


def tracked() -> list[Path]:
    try:
        done = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a checkout")
    return [Path(line) for line in done.stdout.splitlines() if (ROOT / line).exists()]


def test_every_file_of_the_packages_is_installed(said: dict[str, Any]) -> None:
    missing = []
    for path in tracked():
        if path.suffix == ".py":
            if ".".join(path.parent.parts) not in said["packages"]:
                missing.append(path)
            continue
        inside = path.relative_to(path.parts[0]).as_posix()
        if not any(fnmatch.fnmatch(inside, pattern) for pattern in said["package_data"].get(path.parts[0], [])):
            missing.append(path)
    assert not missing, "package_data in setup.py leaves these out"


def test_packages_say_that_they_are_typed(said: dict[str, Any]) -> None:
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").exists() and "py.typed" in said["package_data"][package]


def test_what_the_scripts_and_backends_name_exists(said: dict[str, Any]) -> None:
    for group in said["entry_points"].values():
        for entry in group:
            module, _, name = entry.partition("=")[2].partition(":")
            assert callable(getattr(importlib.import_module(module), name)), entry


def test_versions_and_python_agree(said: dict[str, Any]) -> None:
    assert said["python_requires"] == ">=3.11" and "Typing :: Typed" in said["classifiers"]
    assert said["version"] in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
