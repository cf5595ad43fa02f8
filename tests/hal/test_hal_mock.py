"""The mock HAL passes the contract, and the selection of HALs says what it found."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import numpy as np
import pytest
from contract import COMMAND, COMMAND_MASTER, HalContract

import mock
from amdrv import hal as hal_module
from amdrv.errors import HalError, MappingError, NoCardError
from amdrv.hal import Hal, PciDevice
from amdrv.hal.host_memory import HUGE_PAGE
from amdrv.hal.mock import MockHal
from mock.bus import BusError


class TestMock(HalContract):
    @pytest.fixture
    def hal(self) -> Iterator[Hal]:
        machine = mock.Machine(gpus=[mock.Gpu("gfx1100", vram="256M")] * 2)
        yield MockHal(machine)
        machine.close()

    def poke_dma(self, hal: Hal, device: PciDevice, address: int, data: bytes) -> None:
        assert isinstance(hal, MockHal)
        pointer = hal.machine.bus.translate(address, len(data))
        np.ctypeslib.as_array((np.ctypeslib.ctypes.c_uint8 * len(data)).from_address(pointer))[:] = np.frombuffer(
            data, np.uint8)

    def raise_interrupt(self, hal: Hal, device: PciDevice) -> None:
        device.board.raise_msi()        # type: ignore[attr-defined]

    def test_memory_is_gone_after_close(self, hal: Hal, device: PciDevice) -> None:
        assert isinstance(hal, MockHal)
        buffer = device.alloc_dma(4096)
        address = buffer.segments[0][0]
        assert hal.machine.bus.translate(address, 4096)
        buffer.close()
        with pytest.raises(BusError):
            hal.machine.bus.translate(address, 4096)

    def test_large_memory_begins_where_a_large_page_can(self, device: PciDevice) -> None:
        """A disk that reads into it then has one place to go to instead of hundreds."""
        large, small = device.alloc_dma(3 << 20), device.alloc_dma(4096)
        assert large.view is not None and small.view is not None and not large.view.any()
        place = HUGE_PAGE if hasattr(mmap, "MADV_HUGEPAGE") else device.page_size
        assert int(large.view.ctypes.data) % place == 0 and int(small.view.ctypes.data) % device.page_size == 0
        assert large.view.nbytes == sum(nbytes for _, nbytes in large.segments) == 3 << 20
        large.close(), small.close()

    def test_no_interrupt_without_bus_mastering(self, hal: Hal, device: PciDevice) -> None:
        interrupt = device.interrupt()
        assert interrupt is not None
        self.raise_interrupt(hal, device)
        assert interrupt.wait(0.05) == 0
        device.config.write(COMMAND, 2, device.config.read(COMMAND, 2) | COMMAND_MASTER)
        self.raise_interrupt(hal, device)
        assert interrupt.wait(5) == 1

    def test_peer(self, hal: Hal, device: PciDevice) -> None:
        assert isinstance(hal, MockHal)
        with hal.open(hal.functions()[1].address) as peer:
            mapping = device.map_peer(peer.bar(0))
            (address, size), = mapping.segments
            assert size == peer.bar(0).size and mapping.view is None
            assert hal.machine.bus.translate(address, 4096)
        with pytest.raises(MappingError, match="same machine"):
            device.map_peer(object())       # type: ignore[arg-type]

    def test_dma_mask(self, hal: Hal) -> None:
        with hal.open(hal.functions()[1].address, dma_bits=20) as narrow:
            with pytest.raises(MappingError, match="20 address"):
                narrow.alloc_dma(4096)


def test_selection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AMDRV_HAL", raising=False)
    with pytest.raises(NoCardError, match="AMDRV_HAL=mock"):
        hal_module.select("auto")
    with pytest.raises(HalError, match="'nonsense' is not known"):
        hal_module.select("nonsense")
    monkeypatch.setenv("AMDRV_HAL", "mock")
    assert hal_module.select().name == "mock"
    assert hal_module.select() is hal_module.select()


def test_a_foreign_mock_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types
    foreign = types.ModuleType("mock")
    foreign.__file__ = "/site-packages/mock/__init__.py"
    monkeypatch.setitem(sys.modules, "mock", foreign)
    monkeypatch.setattr(MockHal, "_shared", None)
    with pytest.raises(HalError, match="another package"):
        hal_module.select("mock")


def test_a_machine_that_cannot_be_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that every command prints one line."""
    monkeypatch.setattr(MockHal, "_shared", None)
    monkeypatch.setenv("AMDRV_MOCK", "gfx1100:colour=red")
    with pytest.raises(HalError, match=r"AMDRV_MOCK='gfx1100:colour=red': .*an example is gfx1100:vram=1G,count=2"):
        hal_module.select("mock")
