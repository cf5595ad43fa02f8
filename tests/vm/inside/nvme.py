"""Inside the guest: QEMU's NVMe drive driven through our VFIO HAL, and read into a card's VRAM with no host memory.

A driver of a few lines, from the NVM Express Base Specification 1.4: 3.1 (registers), 4.6 (completion entries),
5.3 and 5.4 (queues), 5.15 (Identify); NVM Command Set: Read.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
from typing import Any

import numpy as np

from amdrv.errors import MappingError
from amdrv.hal import AMD_VENDOR_ID, Hal, PciDevice
from amdrv.hal.config_space import COMMAND, COMMAND_MASTER
from amdrv.hal.sysfs import SysfsHal
from amdrv.hal.vfio import VfioHal
from amdrv.vfio.bind import bind
from amdrv.vfio.interrupts import KINDS
from amdrv.wait import wait_until
from tools.amdrv_info import binding

CC, CSTS, AQA, ASQ, ACQ, DOORBELLS = 0x14, 0x1C, 0x24, 0x28, 0x30, 0x1000
ENTRIES = 32
SQ_BYTES, CQ_BYTES = 64, 16
CREATE_SQ, CREATE_CQ, IDENTIFY, READ = 0x01, 0x05, 0x06, 0x02
BLOCK = 512


class Queue:
    """A submission queue and its completion queue in one buffer of the drive's."""

    def __init__(self, drive: Nvme, number: int) -> None:
        self.drive, self.number, self.tail, self.head, self.phase = drive, number, 0, 0, 1
        self.memory = drive.device.alloc_dma(8192, contiguous=True)
        (self.sq, _), = self.memory.segments
        self.cq = self.sq + 4096

    def run(self, opcode: int, *, prp1: int = 0, prp2: int = 0, namespace: int = 0, words: tuple[int, ...] = ()) -> int:
        """One command, to its completion; returns its first result word."""
        entry = np.zeros(16, np.uint32)
        entry[0], entry[1] = opcode | self.tail << 16, namespace
        entry[6:10] = [prp1 & 0xFFFFFFFF, prp1 >> 32, prp2 & 0xFFFFFFFF, prp2 >> 32]
        entry[10:10 + len(words)] = words
        self.memory.view[self.tail * SQ_BYTES:(self.tail + 1) * SQ_BYTES] = entry.view(np.uint8)
        self.tail = (self.tail + 1) % ENTRIES
        self.drive.registers.write32(DOORBELLS + 8 * self.number, self.tail)
        return self._complete(opcode)

    def _complete(self, opcode: int) -> int:
        at = 4096 + self.head * CQ_BYTES
        entry = self.memory.view[at:at + CQ_BYTES].view(np.uint32)
        assert self.drive.interrupt.wait(self.drive.patience), f"no interrupt for command {opcode:#x}"
        wait_until(lambda: int(entry[3]) >> 16 & 1 == self.phase, 20, f"completion of command {opcode:#x}")
        status = int(entry[3]) >> 17
        assert status == 0, f"command {opcode:#x} ended with status {status:#x}"
        self.head = (self.head + 1) % ENTRIES
        self.phase ^= self.head == 0
        self.drive.registers.write32(DOORBELLS + 8 * self.number + 4, self.head)
        return int(entry[0])


class Nvme:
    """The drive, brought up with one pair of I/O queues."""

    def __init__(self, device: PciDevice) -> None:
        self.device = device
        device.config.update(COMMAND, 2, set=COMMAND_MASTER)    # type: ignore[attr-defined]
        self.registers = device.bar(0)
        interrupt = device.interrupt()
        assert interrupt is None or interrupt.kind == "MSI-X", interrupt           # type: ignore[attr-defined]
        self.interrupt: Any = interrupt or Polling()
        self.patience = 20.0
        self.registers.write32(CC, 0)
        wait_until(lambda: not self.registers.read32(CSTS) & 1, 20, "the drive to stop")
        self.admin = Queue(self, 0)
        self.registers.write32(AQA, (ENTRIES - 1) << 16 | ENTRIES - 1)
        for register, value in ((ASQ, self.admin.sq), (ACQ, self.admin.cq)):
            self.registers.write32(register, value & 0xFFFFFFFF)
            self.registers.write32(register + 4, value >> 32)
        self.registers.write32(CC, 1 | 6 << 16 | 4 << 20)
        wait_until(lambda: self.registers.read32(CSTS) & 1, 20, "the drive to be ready")
        self.io = Queue(self, 1)
        self.admin.run(CREATE_CQ, prp1=self.io.cq, words=((ENTRIES - 1) << 16 | 1, 3))
        self.admin.run(CREATE_SQ, prp1=self.io.sq, words=((ENTRIES - 1) << 16 | 1, 1 << 16 | 1))

    def model(self) -> str:
        with self.device.alloc_dma(4096) as page:       # type: ignore[attr-defined]
            self.admin.run(IDENTIFY, prp1=page.segments[0][0], words=(1,))
            return page.view[24:64].tobytes().decode().strip()

    def read(self, lba: int, blocks: int, address: int) -> None:
        """Blocks to a device address: at most 8192 bytes, in whole pages."""
        second = address + 4096 if blocks * BLOCK > 4096 else 0
        self.io.run(READ, prp1=address, prp2=second, namespace=1, words=(lba, 0, blocks - 1))


def pattern(lba: int, blocks: int) -> np.ndarray:
    """What the host wrote into the drive's file."""
    first = lba * BLOCK // 4
    return np.arange(first, first + blocks * BLOCK // 4, dtype=np.uint32) * np.uint32(2654435761)


def find(hal: Hal, class_code: int) -> str:
    """The last of the kind: the one with the pattern on it."""
    return max(f.address for f in hal.functions() if f.class_code >> 8 == class_code)


def two_queues(device: PciDevice, drive: Nvme) -> None:
    """A second pair of queues on a vector of its own: each completion comes to its own eventfd, and a vector that is
    taken away is silent while the other goes on."""
    drive.interrupt.close()
    first, second = os.eventfd(0, os.EFD_NONBLOCK), os.eventfd(0, os.EFD_NONBLOCK)
    vfio = device.vfio                                  # type: ignore[attr-defined]
    vfio.set_interrupts(KINDS["MSI-X"], [first, second])
    other = Queue(drive, 2)
    drive.interrupt = Waiting(first)
    drive.admin.run(CREATE_CQ, prp1=other.cq, words=((ENTRIES - 1) << 16 | 2, 1 << 16 | 3))
    drive.admin.run(CREATE_SQ, prp1=other.sq, words=((ENTRIES - 1) << 16 | 2, 2 << 16 | 1))
    with device.alloc_dma(4096) as page:                # type: ignore[attr-defined]
        drive.interrupt = Waiting(second)
        other.run(READ, prp1=page.segments[0][0], namespace=1, words=(7, 0, 0))
        assert np.array_equal(page.view[:BLOCK].view(np.uint32), pattern(7, 1))
        vfio.set_interrupts(KINDS["MSI-X"], [-1], start=1)
        drive.interrupt = Waiting(first)
        drive.read(9, 1, page.segments[0][0])
        assert np.array_equal(page.view[:BLOCK].view(np.uint32), pattern(9, 1))
        assert not select.select([first, second], [], [], 0)[0]
        vfio.set_interrupts(KINDS["MSI-X"], [second], start=1)
        drive.interrupt = Waiting(second)
        other.run(READ, prp1=page.segments[0][0], namespace=1, words=(11, 0, 0))
        assert np.array_equal(page.view[:BLOCK].view(np.uint32), pattern(11, 1))
    print("VECTORS 2", flush=True)


class Waiting:
    """The one operation of an interrupt that a queue needs, over an eventfd."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def wait(self, timeout: float) -> int:
        return os.eventfd_read(self.fd) if select.select([self.fd], [], [], timeout)[0] else 0


class Polling:
    """Where there are no interrupts (sysfs), completions are looked for."""

    def wait(self, timeout: float) -> int:
        return 1


def main(mode: str) -> None:
    print("MODE", mode, flush=True)
    hal: Hal = SysfsHal() if mode == "sysfs" else VfioHal(mode)
    address = find(hal, 0x0108)
    had = binding.give(address, binding.NO_DRIVER if mode == "sysfs" else "vfio-pci")
    with hal.open(address) as device:
        work(hal, device, mode)
    assert binding.give_back(address) == had, had           # the kernel's own driver takes it again


def work(hal: Hal, device: PciDevice, mode: str) -> None:
    drive = Nvme(device)
    print("DRIVE", drive.model(), flush=True)
    with device.alloc_dma(8192, contiguous=True) as buffer:         # type: ignore[attr-defined]
        for lba in (0, 16, 1000):
            buffer.view[:] = 0
            drive.read(lba, 16, buffer.segments[0][0])
            assert np.array_equal(buffer.view.view(np.uint32), pattern(lba, 16)), lba
    for lba in range(100):                          # the queues go round more than once
        with device.alloc_dma(4096) as page:        # type: ignore[attr-defined]
            drive.read(lba, 1, page.segments[0][0])
            assert np.array_equal(page.view[:BLOCK].view(np.uint32), pattern(lba, 1)), lba
    print("READ", flush=True)
    cards = [f.address for f in hal.functions(AMD_VENDOR_ID)]
    if cards:
        bind(cards[0])
        with hal.open(cards[0]) as card:
            to_vram(drive, device, card)
    if mode != "sysfs":
        two_queues(device, drive)
    if mode in ("sysfs", "noiommu"):
        return                                      # nothing would stop what goes where nobody mapped
    drive.interrupt, drive.patience = Waiting(os.eventfd(0)), 2.0       # nobody will tell
    with contextlib.suppress(AssertionError):       # nothing is mapped there: the kernel's log tells
        drive.read(0, 1, 0x7_0000_0000)


def to_vram(drive: Nvme, device: PciDevice, card: PciDevice) -> None:
    """The drive writes into the card's BAR 0; nothing goes through host memory."""
    view = card.bar(0).view(0x10_0000, 8192, np.uint32)
    view[:] = 0
    try:
        peer = device.map_peer(card.bar(0))
    except MappingError as error:
        print("PEER REFUSED", error, flush=True)
        return
    (start, _), = peer.segments
    drive.read(32, 16, start + 0x10_0000)
    assert np.array_equal(np.array(view), pattern(32, 16))
    print("PEER", flush=True)
    peer.close()


if __name__ == "__main__":
    main(sys.argv[1])
