"""The compiler over the kernel's driver: the same tests of its as AM has (all of them: ``make test-kfd``)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "compiler"))

from test_compiler_memory import *  # noqa: F403
from test_compiler_tensor import test_devices  # noqa: F401

from compiler import Tensor


@pytest.fixture(scope="module")
def device() -> Iterator[str]:
    """A simulated kernel, as a user has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AMDRV_HAL", "mock")
        yield "KFD"


@pytest.fixture(scope="module")
def am(device: str) -> str:
    return device


def test_the_environment_makes_it_the_default(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AM", raising=False)
    monkeypatch.setenv("KFD", "1")
    x = Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    loss = (x @ x).relu().sum()
    loss.backward()
    assert x.device == "KFD" and loss.item() == 54.0
    assert x.grad is not None and x.grad.tolist() == [[7.0, 11.0], [9.0, 13.0]]
    assert "AM" not in os.environ
