"""The packages import, and the mock's and the driver's tests pass, on a platform that looks like a Mac."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
AS_DARWIN = ROOT / "tests" / "as_darwin.py"


def run(*arguments: str, timeout: float = 500, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(AS_DARWIN), *arguments], cwd=ROOT, text=True, timeout=timeout,
                          capture_output=True, env={**os.environ, **environment})


def test_it_really_is_another_platform(tmp_path: Path) -> None:
    script = tmp_path / "probe.py"
    script.write_text("import os, sys, mmap, select\n"
                      "assert sys.platform == 'darwin' and mmap.PAGESIZE == os.sysconf('SC_PAGE_SIZE') == 16384\n"
                      "assert not hasattr(os, 'eventfd') and not hasattr(select, 'epoll')\n"
                      "for path in ('/proc/self/maps', '/sys/bus/pci'):\n"
                      "    try: open(path)\n"
                      "    except FileNotFoundError: continue\n"
                      "    raise SystemExit(path)\n"
                      "try: import fcntl\n"
                      "except ImportError: print('mac')\n")
    done = run(str(script))
    assert done.returncode == 0 and done.stdout == "mac\n", done.stderr


def test_every_module_imports(tmp_path: Path) -> None:
    script = tmp_path / "imports.py"
    script.write_text("import importlib, pkgutil, sys\n"
                      "count = 0\n"
                      "for name in ('amdrv', 'hcq', 'compiler', 'mock'):\n"
                      "    for module in pkgutil.walk_packages(importlib.import_module(name).__path__, name + '.'):\n"
                      "        if not module.name.endswith('__main__'):\n"
                      "            importlib.import_module(module.name)\n"
                      "            count += 1\n"
                      "assert count > 40, count\n")
    done = run(str(script))
    assert done.returncode == 0, done.stderr


def test_the_hal_suite_passes() -> None:
    done = run("pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow", "tests/hal")
    assert done.returncode == 0, done.stdout[-4000:]


# Of the instruction set's tests those that meet the system: files, threads, clocks, this process's memory. What the
# rest computes, it computes alike everywhere.
SUITES = {"mock": ["mock"], "mock_engines": ["mock_engines"], "driver": ["driver"], "hcq": ["hcq"],
          "isa": [f"isa/test_{name}.py" for name in ("clock_reports", "commands", "jit", "kernels", "memory", "native",
                                                     "traps", "waiting")]}


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_the_suites_pass(suite: str) -> None:
    done = run("pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow",
               *(f"tests/{path}" for path in SUITES[suite]), timeout=1500)
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.slow
def test_the_demo_passes() -> None:
    done = run("examples/digits.py", AM="1", AMDRV_HAL="mock")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
