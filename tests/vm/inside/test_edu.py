"""Inside the guest: our HALs, unmodified, against QEMU's ``edu`` device on a real kernel.

The first ``edu`` is alone on its bus; a second one shares a slot with an NVMe drive, as a graphics card does with its
audio function. Device: QEMU docs/specs/edu.rst.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ways import MODES, TRANSLATED, VFIO, in_child, only

from amdrv.errors import CardBusyError, HalError, MappingError, OutOfMemoryError
from amdrv.hal import Hal, PciDevice
from amdrv.hal.config_space import COMMAND, COMMAND_MASTER, COMMAND_MEMORY
from amdrv.hal.sysfs import SysfsHal
from amdrv.hal.vfio import VfioHal
from amdrv.vfio.bind import bind, unbind
from amdrv.vfio.interrupts import EventInterrupt
from amdrv.vfio.reset import affected, hot_reset
from amdrv.wait import wait_until
from tools.amdrv_info import binding

__all__ = ["BUFFER", "CHUNK", "DMA_COMMAND", "DMA_COUNT", "DMA_DESTINATION", "DMA_SOURCE", "SysfsHal", "VfioHal"]

VENDOR, DEVICE = 0x1234, 0x11E8
ID, LIVENESS, FACTORIAL, STATUS, IRQ_STATUS, IRQ_RAISE, IRQ_ACK = 0x00, 0x04, 0x08, 0x20, 0x24, 0x60, 0x64
DMA_SOURCE, DMA_DESTINATION, DMA_COUNT, DMA_COMMAND = 0x80, 0x88, 0x90, 0x98
DMA_START, DMA_TO_MEMORY, DMA_INTERRUPT = 1, 2, 4
BUFFER = 0x40000
CHUNK = 2048        # QEMU 7.2's edu ends the whole machine at a transfer of exactly 4096
DEVICES = Path("/sys/bus/pci/devices")


def edus(hal: Hal) -> list[str]:
    return sorted(f.address for f in hal.functions(VENDOR) if f.device == DEVICE)


@pytest.fixture(scope="session")
def address(hal: Hal, mode: str) -> Iterator[str]:
    """The lone edu, ready to be opened."""
    first = edus(hal)[0]
    if mode == "sysfs":
        yield first
    else:
        with pytest.raises(CardBusyError, match="amdrv-info bind"):
            hal.open(first)
        assert bind(first) is None and bind(first) == "vfio-pci"
        yield first
        unbind(first)
        assert {f.address: f.driver for f in hal.functions(VENDOR)}[first] is None


@pytest.fixture
def edu(hal: Hal, address: str) -> Iterator[PciDevice]:
    with hal.open(address) as device:
        master(device)
        yield device


def master(device: PciDevice) -> None:
    device.config.write(COMMAND, 2, device.config.read(COMMAND, 2) | COMMAND_MASTER)


def dma(edu: PciDevice, source: int, destination: int, count: int, command: int) -> None:
    bar = edu.bar(0)
    bar.write64(DMA_SOURCE, source)
    bar.write64(DMA_DESTINATION, destination)
    bar.write64(DMA_COUNT, count)
    bar.write64(DMA_COMMAND, command | DMA_START)
    wait_until(lambda: not bar.read64(DMA_COMMAND) & DMA_START, 10, "edu's DMA")


# ---- registers and configuration space

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
    assert edu.config.extended_capability(0x15) is None
    assert edu.bar_sizes() == {0: 1 << 20}


def test_access_widths(edu: PciDevice) -> None:
    """The host counts these from QEMU's trace: one access of the right width each."""
    bar = edu.bar(0)
    for value in range(16):
        bar.write32(LIVENESS, 0xACCE5500 | value)
        bar.read32(LIVENESS)
    for value in range(8):
        bar.write64(DMA_SOURCE, 0xACCE5500_00000000 | value)
        bar.read64(DMA_SOURCE)


def test_bus_mastering_is_off_before_and_after(hal: Hal, address: str) -> None:
    """As the kernel's own copy of configuration space shows it, not as the HAL says."""
    def command() -> int:
        return int.from_bytes((DEVICES / address / "config").read_bytes()[COMMAND:COMMAND + 2], "little")
    with hal.open(address) as device:
        assert not command() & COMMAND_MASTER
        master(device)
        assert command() & COMMAND_MASTER
    # vfio-pci lets the card sleep (D3) when it is closed: then it reads as all ones
    assert not command() & COMMAND_MASTER or command() == 0xFFFF


# ---- DMA

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


def test_contiguous_memory(edu: PciDevice) -> None:
    """One segment, beyond a huge page too; both ends are reached."""
    with edu.alloc_dma(5 << 20, contiguous=True) as buffer:     # type: ignore[attr-defined]
        (start, size), = buffer.segments
        assert size == 5 << 20
        buffer.view[:CHUNK] = np.arange(CHUNK) % 253
        dma(edu, start, BUFFER, CHUNK, 0)
        dma(edu, BUFFER, start + size - CHUNK, CHUNK, DMA_TO_MEMORY)
        assert np.array_equal(buffer.view[-CHUNK:], np.arange(CHUNK) % 253)


@only("sysfs", "noiommu")
def test_large_buffers_are_made_of_large_pages(edu: PciDevice) -> None:
    """Transparent or reserved: 8 MiB come in few pieces, not in 2048."""
    with edu.alloc_dma(8 << 20) as buffer:                      # type: ignore[attr-defined]
        assert len(buffer.segments) <= 16, len(buffer.segments)


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
    with pytest.raises(MappingError, match="page size"):
        edu.map_dma(raw[1:], page)


@only(*TRANSLATED)
def test_dma_outside_the_map_is_blocked_and_reported(edu: PciDevice) -> None:
    buffer = edu.alloc_dma(edu.page_size)
    where = buffer.segments[0][0]
    view = buffer.view
    view[:] = 0x5A
    buffer.close()
    before = logged_faults()
    dma(edu, BUFFER, where, CHUNK, DMA_TO_MEMORY)
    assert (view == 0x5A).all()
    faults = logged_faults()[len(before):]
    assert faults
    # QEMU's AMD IOMMU logs device 0 and address 0, whatever it was; Intel's says it.
    said = f"[{edu.function.address[5:]}] fault addr {where:#x}"
    assert "AMD-Vi" in faults[0] or any(said in fault for fault in faults), faults


def logged_faults() -> list[str]:
    log = subprocess.run(["dmesg"], capture_output=True, text=True).stdout
    return [line for line in log.splitlines() if "DMAR: [DMA" in line or "IO_PAGE_FAULT" in line]


@only(*TRANSLATED)
def test_locked_memory_is_accounted(hal: Hal, address: str, mode: str) -> None:
    """A user who was given the device file, and may lock 1 MiB."""
    link = DEVICES / address
    files = [Path("/dev/vfio", (link / "iommu_group").resolve().name)] if mode == "type1" else [
        Path("/dev/iommu"), *(Path("/dev/vfio/devices", p.name) for p in (link / "vfio-dev").iterdir())]

    def refused() -> str:
        try:
            hal.open(address).close()
        except HalError as error:
            return str(error)
        return "opened a file of root's"

    def limited() -> str:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 20, 1 << 20))
        with hal.open(address) as device:
            held = device.alloc_dma(512 << 10)
            try:
                device.alloc_dma(768 << 10)
                return "no limit was felt"
            except OutOfMemoryError as error:
                said = str(error)
            held.close()
            device.alloc_dma(768 << 10).close()         # what was given back counts no more
        return said

    said = in_child(refused, user=1000)
    assert f"no permission to open {files[0]}" in said and f"chown $USER {files[0]}" in said, said
    for file in files:
        os.chown(file, 1000, 1000)
    said = in_child(limited, user=1000)
    assert "0x80000 bytes are mapped" in said and "0x100000 bytes (RLIMIT_MEMLOCK)" in said, said
    for file in files:
        os.chown(file, 0, 0)


# ---- interrupts

@only("sysfs")
def test_sysfs_has_no_interrupt(edu: PciDevice) -> None:
    assert edu.interrupt() is None


@only(*VFIO)
@pytest.mark.parametrize("kind", ["MSI", "INTx"])
def test_interrupts(edu: PciDevice, kind: str) -> None:
    interrupt = EventInterrupt(edu.vfio, kind)          # type: ignore[attr-defined]
    bar = edu.bar(0)
    assert interrupt.wait(0.05) == 0
    for number in range(1, 4):
        bar.write32(IRQ_RAISE, number)
        assert select.select([interrupt.fileno()], [], [], 10)[0]
        assert interrupt.wait(10) == 1
        assert bar.read32(IRQ_STATUS) == number
        bar.write32(IRQ_ACK, number)
        quiet(interrupt)
    interrupt.mask()
    bar.write32(IRQ_RAISE, 4)
    assert interrupt.wait(0.3) == 0
    interrupt.unmask()
    if kind == "INTx":                                  # a level waits; a message that nobody took is gone
        assert interrupt.wait(10) == 1
    bar.write32(IRQ_ACK, 4)
    quiet(interrupt)
    bar.write32(IRQ_RAISE, 8)
    assert interrupt.wait(10) == 1
    bar.write32(IRQ_ACK, 8)
    interrupt.close()


def quiet(interrupt: EventInterrupt) -> None:
    """INTx comes again until the device lets the line go; then it, too, is quiet."""
    for _ in range(10):
        if not interrupt.wait(0.1):
            return
    pytest.fail("the interrupt does not stop")


@only(*VFIO)
def test_dma_completion_interrupt(edu: PciDevice) -> None:
    interrupt, buffer = edu.interrupt(), edu.alloc_dma(edu.page_size)
    assert interrupt is not None and interrupt.kind == "MSI"        # type: ignore[attr-defined]
    dma(edu, buffer.segments[0][0], BUFFER, CHUNK, DMA_INTERRUPT)
    assert interrupt.wait(10) == 1
    edu.bar(0).write32(IRQ_ACK, edu.bar(0).read32(IRQ_STATUS))


# ---- whose card it is

def test_held_once(hal: Hal, edu: PciDevice, address: str) -> None:
    with pytest.raises(CardBusyError, match=str(os.getpid())):
        hal.open(address)


def holding(mode: str, address: str, then: str) -> subprocess.Popen[str]:
    """A process that opens the card, does ``then``, and stays."""
    code = ("import os, sys, time\n"
            "sys.path[:0] = [os.getcwd(), 'tests/vm/inside']\n"
            "import test_edu as t\n"
            f"hal = t.SysfsHal() if {mode!r} == 'sysfs' else t.VfioHal({mode!r})\n"
            f"d = hal.open({address!r})\n{then}\n")
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_killed_in_mid_dma(hal: Hal, address: str, mode: str) -> None:
    """A process dies by SIGKILL while its card copies; the next one opens the card and finds it quiet."""
    child = holding(mode, address, "t.master(d)\n"
                    "b = d.alloc_dma(d.page_size); bar = d.bar(0)\n"
                    "bar.write64(t.DMA_SOURCE, t.BUFFER); bar.write64(t.DMA_DESTINATION, b.segments[0][0])\n"
                    "bar.write64(t.DMA_COUNT, 8); bar.write64(t.DMA_COMMAND, 3)\n"
                    "print('running', flush=True); time.sleep(60)")
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


@only(*VFIO)
def test_the_kernel_asks_for_the_card(hal: Hal, address: str, mode: str) -> None:
    """Unbinding waits for whoever has the card, and tells him."""
    child = holding(mode, address, "r = d.release_request(); print('ready', r.wait(0), flush=True)\n"
                    "print('asked', r.wait(30), flush=True); d.close()")
    assert child.stdout is not None and child.stdout.readline() == "ready 0\n"
    unbind(address)
    assert child.stdout.readline() == "asked 1\n"
    assert child.wait(30) == 0
    assert bind(address) is None


@only("sysfs")
def test_the_two_functions_of_a_slot_by_sysfs(hal: Hal) -> None:
    """One function is taken from its driver, its sibling keeps its own; and the undo."""
    second, drive = edus(hal)[1], edus(hal)[1][:-1] + "1"
    assert driver(drive) == "nvme"
    with pytest.raises(CardBusyError, match="bind --driver none"):
        hal.open(drive)
    with hal.open(second) as device:
        assert device.bar(0).read32(ID) & 0xFF == 0xED
    assert binding.give(drive, binding.NO_DRIVER) == {drive: "nvme"}
    assert driver(drive) is None and driver(second) is None
    with hal.open(drive) as device:
        assert device.bar(0).read32(8) not in (0, 0xFFFFFFFF)       # its version
    assert binding.give_back(drive) == {drive: "nvme"}
    assert driver(drive) == "nvme"


def driver(address: str) -> str | None:
    link = DEVICES / address / "driver"
    return link.resolve().name if link.exists() else None


@only(*TRANSLATED)
def test_the_two_functions_of_a_slot_by_vfio(hal: Hal, mode: str) -> None:
    """A group that is not viable names who is in the way; the whole card is bound, reset, and given back."""
    second, drive = edus(hal)[1], edus(hal)[1][:-1] + "1"
    bind(second)
    with pytest.raises(HalError, match=rf"not viable.*{drive} \(nvme\)"):
        hal.open(second)
    unbind(second)
    assert binding.give(second) == {second: None, drive: "nvme"}
    with hal.open(second) as device:
        both = affected(device.vfio)                    # type: ignore[attr-defined]
        assert [f.address for f in both] == [second, drive]
        assert all(f.owned if mode == "iommufd" else f.group is not None for f in both)
        assert not device.vfio.can_reset                # type: ignore[attr-defined]    # so this is the hot one:
        device.reset()
        assert hot_reset(device.vfio, device.iommu.reset_groups()) == both      # type: ignore[attr-defined]
        assert device.bar(0).read32(ID) & 0xFF == 0xED
        assert not device.config.read(COMMAND, 2) & COMMAND_MASTER
    assert binding.give_back(second) == {second: None, drive: "nvme"}
    assert driver(drive) == "nvme"


@only("noiommu")
def test_a_hot_reset_of_what_is_not_ours_is_refused(hal: Hal) -> None:
    second, drive = edus(hal)[1], edus(hal)[1][:-1] + "1"
    bind(second)
    try:
        with hal.open(second) as device:
            with pytest.raises(HalError, match=r"belongs to nobody that VFIO knows.*amdrv-info bind"):
                device.reset()
        bind(drive)
        with hal.open(second) as device:        # two groups now, and this process has one of them
            with pytest.raises(HalError, match=f"reaches {drive} too.*amdrv-info bind"):
                device.reset()
    finally:
        unbind(second)
        unbind(drive, restore="nvme")


@only(*VFIO)
def test_reset(edu: PciDevice, mode: str) -> None:
    """Behind a port of its own the bus is the card's alone and can be reset; on the root bus nothing can be."""
    edu.bar(0).write32(LIVENESS, 5)
    if mode != "noiommu":
        edu.reset()
        assert edu.config.read(0, 2) == VENDOR and not edu.config.read(COMMAND, 2) & COMMAND_MASTER
    else:
        with pytest.raises(HalError, match="reset"):
            edu.reset()


def test_every_way_was_tried() -> None:
    assert MODES
