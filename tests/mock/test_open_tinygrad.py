"""AM, the driver of tinygrad, boots real cards, and the mock's: run where tinygrad 0.14 is installed."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ADAPTER = Path(__file__).with_name("tinygrad_adapter.py")


def _version() -> str:
    try:
        return importlib.metadata.version("tinygrad")
    except importlib.metadata.PackageNotFoundError:
        return "none"


@pytest.mark.slow
@pytest.mark.skipif(not _version().startswith("0.14."), reason=f"needs tinygrad 0.14, there is {_version()}")
@pytest.mark.parametrize("machine", ["gfx1100:vram=512M", "gfx1100:vram=512M,bar0=256M", "gfx1100:vram=512M,count=3"])
@pytest.mark.parametrize("aql", ["0", "1"])
def test_tinygrad_boots_computes_and_copies(machine: str, aql: str) -> None:
    compiler = next((path for name in ("clang", "clang-19", "clang-18") if (path := shutil.which(name))), "clang")
    done = subprocess.run([sys.executable, str(ADAPTER)], capture_output=True, text=True, timeout=300,
                          cwd=ADAPTER.parents[2], env={**os.environ, "DEV": "AMD:LLVM", "CC": compiler, "AMD_AQL": aql,
                                                       "AMDRV_MOCK": machine, "PYTHONPATH": str(ADAPTER.parents[2])})
    assert done.returncode == 0 and done.stdout.startswith("done"), done.stdout[-2000:] + done.stderr[-4000:]
