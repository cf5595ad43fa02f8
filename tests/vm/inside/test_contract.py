"""Inside the guest: the contract of every HAL (``tests/hal/contract.py``), on the mock card behind a real kernel.

The card is the host's, by vfio-user; its bus and interrupt are asked for over the second serial port (``door.py``).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from contract import COMMAND, COMMAND_MASTER, HalContract
from line import Line

from amdrv.errors import MappingError
from amdrv.hal import AMD_VENDOR_ID, Hal, PciDevice
from amdrv.hal.resize import possible_sizes
from tools.amdrv_info import binding


@pytest.fixture(scope="session")
def line() -> Line:
    return Line()


@pytest.fixture(scope="session", autouse=True)
def bound(hal: Hal, mode: str) -> Iterator[str]:
    """The card's address, with the driver that this way needs."""
    address = hal.functions(AMD_VENDOR_ID)[0].address
    if mode != "sysfs":
        binding.give(address)
    yield address
    if mode != "sysfs":
        binding.give_back(address)


class TestInGuest(HalContract):
    @pytest.fixture(autouse=True)
    def _know(self, line: Line, mode: str) -> None:
        self._line, self.has_interrupt = line, mode != "sysfs"

    def poke_dma(self, hal: Hal, device: PciDevice, address: int, data: bytes) -> None:
        self._line.ask(f"poke {address:x} {data.hex()}")

    def raise_interrupt(self, hal: Hal, device: PciDevice) -> None:
        """And wait until it has come: a message on its way may be merged with the next."""
        interrupt = device.interrupt()
        assert interrupt is not None
        before = pending(interrupt.fileno())
        self._line.ask("msi")
        deadline = time.monotonic() + 20
        while pending(interrupt.fileno()) == before and time.monotonic() < deadline:
            time.sleep(0.01)

    def test_a_peer_without_another_card(self, device: PciDevice) -> None:
        with pytest.raises(MappingError, match="another card of the same HAL"):
            device.map_peer(object())       # type: ignore[arg-type]

    def test_the_window_is_as_large_as_it_says(self, hal: Hal, device: PciDevice, mode: str) -> None:
        """QEMU shows the resizable BAR capability with the one size that is set."""
        path = Path("/sys/bus/pci/devices", device.function.address)
        assert device.bar_sizes()[0] == 256 << 20
        if mode == "sysfs" and possible_sizes(path, 0):
            with contextlib.suppress(MappingError):
                assert device.resize_bar(0) == 256 << 20            # type: ignore[attr-defined]
            device.config.write(COMMAND, 2, device.config.read(COMMAND, 2) | COMMAND_MASTER)
            device.bar(0).write32(0x1000, 0x600D)
            assert device.bar(0).read32(0x1000) == 0x600D


def pending(fd: int) -> int:
    """An eventfd's count, without taking it (Linux Documentation/filesystems/proc.rst, 3.8)."""
    text = Path(f"/proc/self/fdinfo/{fd}").read_text()
    return int(next(row.split()[1] for row in text.splitlines() if row.startswith("eventfd-count")), 16)
