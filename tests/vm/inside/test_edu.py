"""Inside the guest: our HALs, unmodified, against QEMU's ``edu`` device on a real kernel.

``AMDRV_VM_MODE`` is sysfs, type1, iommufd or noiommu. Device: QEMU docs/specs/edu.rst.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from amdrv.errors import CardBusyError, HalError, MappingError
from amdrv.hal import Hal, PciDevice
from amdrv.hal.config_space import COMMAND, COMMAND_MASTER, COMMAND_MEMORY
from amdrv.hal.sysfs import SysfsHal
from amdrv.hal.vfio import VfioHal
from amdrv.vfio.bind import bind, unbind
from amdrv.wait import wait_until

MODE = os.environ.get("AMDRV_VM_MODE", "")
pytestmark = pytest.mark.skipif(not MODE, reason="runs inside the virtual machine: make test-vm")
VENDOR, DEVICE = 0x1234, 0x11E8
ID, LIVENESS, FACTORIAL, STATUS, IRQ_STATUS, IRQ_RAISE, IRQ_ACK = 0x00, 0x04, 0x08, 0x20, 0x24, 0x60, 0x64
DMA_SOURCE, DMA_DESTINATION, DMA_COUNT, DMA_COMMAND = 0x80, 0x88, 0x90, 0x98
DMA_START, DMA_TO_MEMORY, DMA_INTERRUPT = 1, 2, 4
BUFFER = 0x40000
CHUNK = 2048        # QEMU 7.2's edu ends the whole machine at a transfer of exactly 4096


@pytest.fixture(scope="session")
def hal() -> Hal:
    return SysfsHal() if MODE == "sysfs" else VfioHal(MODE)


@pytest.fixture(scope="session")
def address(hal: Hal) -> Iterator[str]:
    card, = [f for f in hal.functions(VENDOR) if f.device == DEVICE]
    if MODE == "noiommu":
        Path("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode").write_text("1")
    if MODE == "sysfs":
        yield card.address
    else:
        with pytest.raises(CardBusyError, match="amdrv-info bind"):
            hal.open(card.address)
        assert bind(card.address) is None and bind(card.address) == "vfio-pci"
        yield card.address
        unbind(card.address)
        assert {f.address: f.driver for f in hal.functions(VENDOR)}[card.address] is None


@pytest.fixture
def edu(hal: Hal, address: str) -> Iterator[PciDevice]:
    with hal.open(address) as device:
        device.config.write(COMMAND, 2, device.config.read(COMMAND, 2) | COMMAND_MASTER)
        yield device


def dma(edu: PciDevice, source: int, destination: int, count: int, command: int) -> None:
    bar = edu.bar(0)
    bar.write64(DMA_SOURCE, source)
    bar.write64(DMA_DESTINATION, destination)
    bar.write64(DMA_COUNT, count)
    bar.write64(DMA_COMMAND, command | DMA_START)
    wait_until(lambda: not bar.read64(DMA_COMMAND) & DMA_START, 10, "edu's DMA")


def test_registers(edu: PciDevice) -> None:
    bar = edu.bar(0)
    assert bar.read32(ID) & 0xFF == 0xED
    bar.write32(LIVENESS, 0x12345678)
    assert bar.read32(LIVENESS) == 0xEDCBA987
    bar.write32(FACTORIAL, 10)
    wait_until(lambda: not bar.read32(STATUS) & 1, 10, "edu's factorial")
    assert bar.read32(FACTORIAL) == 3628800
    with pytest.raises(HalError, match="aligned"):
        bar.read32(2)


def test_config_space(edu: PciDevice) -> None:
    assert edu.config.read(0, 4) == VENDOR | DEVICE << 16
    assert edu.config.read(COMMAND, 2) & (COMMAND_MEMORY | COMMAND_MASTER) == COMMAND_MEMORY | COMMAND_MASTER
    assert edu.config.capability(0x05) is not None
    assert edu.bar_sizes() == {0: 1 << 20}


@pytest.mark.parametrize("pages", [2, 512])
def test_dma_both_ways(edu: PciDevice, pages: int) -> None:
    size = pages * edu.page_size
    buffer = edu.alloc_dma(size)
    assert sum(n for _, n in buffer.segments) == size
    rng = np.random.default_rng(1)
    data = rng.integers(0, 256, CHUNK, dtype=np.uint8)
    buffer.view[:CHUNK] = data
    first, last = buffer.segments[0], buffer.segments[-1]
    dma(edu, first[0], BUFFER, CHUNK, 0)
    dma(edu, BUFFER, last[0] + last[1] - CHUNK, CHUNK, DMA_TO_MEMORY)
    assert np.array_equal(buffer.view[-CHUNK:], data)
    buffer.close()


def test_existing_memory(edu: PciDevice) -> None:
    page = edu.page_size
    raw = np.zeros(3 * page, np.uint8)
    memory = raw[-int(raw.ctypes.data) % page:][:page]
    memory[:CHUNK] = np.arange(CHUNK) % 251
    with edu.map_dma(memory, page) as mapping:      # type: ignore[attr-defined]
        where = mapping.segments[0][0]
        dma(edu, where, BUFFER, CHUNK, 0)
        memory[:CHUNK] = 0
        dma(edu, BUFFER, where, CHUNK, DMA_TO_MEMORY)
    assert np.array_equal(memory[:CHUNK], np.arange(CHUNK) % 251)


@pytest.mark.skipif(MODE not in ("type1", "iommufd"), reason="nothing protects memory without an IOMMU")
def test_dma_outside_the_map_is_blocked(edu: PciDevice) -> None:
    buffer = edu.alloc_dma(edu.page_size)
    where = buffer.segments[0][0]
    view = buffer.view
    view[:] = 0x5A
    buffer.close()
    dma(edu, BUFFER, where, CHUNK, DMA_TO_MEMORY)
    assert (view == 0x5A).all()
    log = subprocess.run(["dmesg"], capture_output=True, text=True).stdout
    assert "DMAR" in log or "IO_PAGE_FAULT" in log


@pytest.mark.skipif(MODE != "type1", reason="one container kind is enough")
def test_unaligned_maps_are_refused(edu: PciDevice) -> None:
    raw = np.zeros(3 * edu.page_size, np.uint8)
    memory = raw[-int(raw.ctypes.data) % edu.page_size:]
    with pytest.raises(MappingError, match="page size"):
        edu.map_dma(memory[1:], edu.page_size)


def test_interrupts(edu: PciDevice) -> None:
    interrupt = edu.interrupt()
    if MODE == "sysfs":
        assert interrupt is None
        return
    assert interrupt is not None
    bar = edu.bar(0)
    assert interrupt.wait(0.05) == 0
    for number in range(1, 4):
        bar.write32(IRQ_RAISE, number)
        assert select.select([interrupt.fileno()], [], [], 10)[0]
        assert interrupt.wait(10) == 1
        assert bar.read32(IRQ_STATUS) == number
        bar.write32(IRQ_ACK, number)
    assert interrupt.wait(0.05) == 0


@pytest.mark.skipif(MODE == "sysfs", reason="sysfs has no interrupts")
def test_dma_completion_interrupt(edu: PciDevice) -> None:
    interrupt, buffer = edu.interrupt(), edu.alloc_dma(edu.page_size)
    assert interrupt is not None
    dma(edu, buffer.segments[0][0], BUFFER, CHUNK, DMA_INTERRUPT)
    assert interrupt.wait(10) == 1
    edu.bar(0).write32(IRQ_ACK, edu.bar(0).read32(IRQ_STATUS))


def test_held_once(hal: Hal, edu: PciDevice, address: str) -> None:
    with pytest.raises(CardBusyError, match=str(os.getpid())):
        hal.open(address)


def test_killed_in_mid_dma(hal: Hal, address: str) -> None:
    """A process dies by SIGKILL while its card copies in a loop; the next one opens the card and finds it quiet."""
    code = ("import os, sys\n"
            "sys.path[:0] = [os.getcwd(), 'tests/vm/inside']\n"
            "import test_edu as t\n"
            "hal = t.SysfsHal() if t.MODE == 'sysfs' else t.VfioHal(t.MODE)\n"
            f"d = hal.open({address!r}); d.config.write(4, 2, d.config.read(4, 2) | 4)\n"
            "b = d.alloc_dma(d.page_size); bar = d.bar(0)\n"
            "bar.write64(t.DMA_SOURCE, t.BUFFER); bar.write64(t.DMA_DESTINATION, b.segments[0][0])\n"
            "bar.write64(t.DMA_COUNT, 8); bar.write64(t.DMA_COMMAND, 3)\n"
            "print('running', flush=True)\n"
            "import time; time.sleep(60)\n")
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "running\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    for _ in range(50):
        try:
            device = hal.open(address)
            break
        except CardBusyError:
            time.sleep(0.1)
    else:
        pytest.fail("the killed process's card stayed busy")
    with device:
        assert not device.config.read(COMMAND, 2) & COMMAND_MASTER
        wait_until(lambda: not device.bar(0).read64(DMA_COMMAND) & DMA_START, 10, "edu's last DMA")
        assert device.bar(0).read32(ID) & 0xFF == 0xED


@pytest.mark.skipif(MODE == "sysfs", reason="the kernel resets what VFIO opens")
def test_reset(edu: PciDevice) -> None:
    edu.bar(0).write32(LIVENESS, 5)
    try:
        edu.reset()
    except HalError as error:
        assert "reset" in str(error)
        return
    assert edu.config.read(0, 2) == VENDOR


def test_access_widths(edu: PciDevice) -> None:
    """The host counts these from QEMU's trace: one access of the right width each."""
    bar = edu.bar(0)
    for value in range(16):
        bar.write32(LIVENESS, 0xACCE5500 | value)
        bar.read32(LIVENESS)
    for value in range(8):
        bar.write64(DMA_SOURCE, 0xACCE5500_00000000 | value)
        bar.read64(DMA_SOURCE)
