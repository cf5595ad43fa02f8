"""What the driver's tests share: software machines, and pauses that only silicon needs set to zero."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import mock
from amdrv.device import Device
from amdrv.hal.mock import MockHal
from amdrv.ip import psp, smu


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smu, "RESET_TIME", 0)
    monkeypatch.setattr(psp, "HANDSHAKE_DELAY", 0)


@pytest.fixture
def machine() -> Iterator[mock.Machine]:
    machine = mock.Machine(gpus=[mock.Gpu("gfx1100", vram="256M")])
    yield machine
    machine.close()


@pytest.fixture
def hal(machine: mock.Machine) -> MockHal:
    return MockHal(machine)


@pytest.fixture
def boot(hal: MockHal) -> Iterator[Callable[[], Device]]:
    """Boots the machine's card; what is still open is closed at the end."""
    opened: list[Device] = []

    def open_card() -> Device:
        opened.append(Device.open(hal))
        return opened[-1]
    yield open_card
    for device in opened:
        device.close()
