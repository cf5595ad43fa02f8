from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from fake_backend import FakeBackend
from fake_kernels import CODE, FUNCTIONS

import hcq


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend(FUNCTIONS)


@pytest.fixture
def dev(backend: FakeBackend) -> Iterator[hcq.Device]:
    device = hcq.Device(backend)
    device.timeout = 10
    yield device
    backend.delay = 0
    backend.close()


@pytest.fixture
def code() -> bytes:
    return CODE


@pytest.fixture(scope="session")
def am() -> Iterator[hcq.Device]:
    """The AM backend on the software card, booted once for all tests; KFD's with ``HCQ_TEST_DEVICE=KFD``."""
    before = os.environ.get("AMDRV_HAL")
    os.environ["AMDRV_HAL"] = "mock"
    device = hcq.open(os.environ.get("HCQ_TEST_DEVICE", "AM"))
    yield device
    device.close()
    if before is None:
        del os.environ["AMDRV_HAL"]
    else:
        os.environ["AMDRV_HAL"] = before
