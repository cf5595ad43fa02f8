"""The devices that the compiler's tests run on: the CPU, and the mock card booted by the driver."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="session")
def kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the tests' own, so that they neither use nor fill the user's."""
    path = tmp_path_factory.mktemp("cache")
    os.environ["XDG_CACHE_HOME"] = str(path)
    return path


@cache
def _boots() -> str:
    """Empty if AM is there, else why not."""
    os.environ.setdefault("AMDRV_HAL", "mock")
    try:
        import hcq
        hcq.open("AM")
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


@pytest.fixture(params=["CPU", "AM"])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "AM" and (reason := _boots()):
        pytest.skip(f"no AM device: {reason}")
    return str(request.param)
