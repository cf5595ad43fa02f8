"""The devices that the compiler's tests run on: the CPU, and the mock card booted by the driver.

With ``HCQ_TEST_DEVICE=KFD`` the card is the kernel driver's, simulated.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def cache_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


GPU = os.environ.get("HCQ_TEST_DEVICE", "AM")


@pytest.fixture(autouse=True, scope="module")
def kernel_cache(cache_directory: Path) -> Iterator[Path]:
    """A cache of these tests' own, so that they neither use nor fill the user's; other tests keep theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache_directory))
        yield cache_directory


@cache
def _boots() -> str:
    """Empty if the card is there, else why not."""
    os.environ.setdefault("AMDRV_HAL", "mock")
    try:
        import hcq
        hcq.open(GPU)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


@pytest.fixture(params=["CPU", GPU])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == GPU and (reason := _boots()):
        pytest.skip(f"no {GPU} device: {reason}")
    return str(request.param)


@pytest.fixture
def am() -> str:
    """The mock card alone."""
    if reason := _boots():
        pytest.skip(f"no {GPU} device: {reason}")
    return GPU
