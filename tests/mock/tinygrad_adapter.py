"""tinygrad's AM driver on the mock's boards: what its PCI layer asks of Linux is asked of the open interface instead.

    DEV=AMD:LLVM python tests/mock/tinygrad_adapter.py

Run by test_open_tinygrad.py where tinygrad is installed; nothing of tinygrad is in this repository. Made for 0.14.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tinygrad import Device, Tensor
from tinygrad.runtime.support import hcq, system
from tinygrad.runtime.support.am import amdev

import mock
from mock import firmware

MAP_FIXED = 0x10
PAGE = 4096


class Registers(hcq.MMIOInterface):
    """A BAR whose accesses have effects."""

    def __init__(self, board: Any, bar: int, at: int, nbytes: int, fmt: str) -> None:
        self.board, self.bar, self.at, self.nbytes, self.fmt = board, bar, at, nbytes, fmt
        self.width = struct.calcsize(fmt)

    def __len__(self) -> int:
        return self.nbytes // self.width

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return [self[i] for i in range(*key.indices(len(self)))]
        return self.board.read_bar(self.bar, self.at + key * self.width, self.width)

    def __setitem__(self, key: int, value: int) -> None:
        self.board.write_bar(self.bar, self.at + key * self.width, self.width, value)

    def view(self, offset: int = 0, size: int | None = None, fmt: str | None = None) -> Registers:
        size = self.nbytes - offset if size is None else size
        return Registers(self.board, self.bar, self.at + offset, size, fmt or self.fmt)


class Bus:
    """Pages of this process on the bus, each attached once."""

    def __init__(self, bus: Any) -> None:
        self.bus = bus
        self.known: dict[int, int] = {}

    def pages(self, address: int, size: int) -> list[int]:
        numbers = range(address, address + size, PAGE)
        if not any(page in self.known for page in numbers):
            base = self.bus.attach(address, -(-size // PAGE) * PAGE)
            self.known |= {page: base + page - address for page in numbers}
        for page in numbers:
            if page not in self.known:
                self.known[page] = self.bus.attach(page, PAGE)
        return [self.known[page] for page in numbers]


def connect(machine: mock.Machine) -> None:
    """From here on tinygrad's AMD devices are the machine's boards."""
    bus = Bus(machine.bus)

    class Card(system.PCIDevice):
        def __init__(self, _prefix: str, address: str) -> None:
            self.pcibus, self.irq_poller = address, None
            self.board = next(board for board in machine.gpus if board.address == address)
            self.write_config(4, self.read_config(4, 2) | 2, 2)         # what sysfs' enable does
            self.memory = self.board.bar_memory(0)

        def alloc_sysmem(self, size: int, vaddr: int = 0, contiguous: bool = False) -> tuple[Any, list[int]]:
            size = -(-size // PAGE) * PAGE
            flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | (MAP_FIXED if vaddr else 0)
            at = hcq.FileIOInterface.anon_mmap(vaddr, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, 0)
            for page in range(at, at + size, PAGE):
                bus.known.pop(page, None)
            return hcq.MMIOInterface(at, size), bus.pages(at, size)

        def read_config(self, offset: int, size: int) -> int:
            return int(self.board.read_config(offset, size))

        def write_config(self, offset: int, value: int, size: int) -> None:
            self.board.write_config(offset, size, value)

        def bar_info(self, index: int) -> tuple[int, int]:
            high = self.read_config(0x14 + 4 * index, 4) if index in (0, 2) else 0
            return high << 32 | self.read_config(0x10 + 4 * index, 4) & ~15, self.board.bar_size(index)

        def map_bar(self, bar: int, off: int = 0, addr: int = 0, size: int | None = None, fmt: str = "B") -> Any:
            if bar:
                return Registers(self.board, bar, off, size or self.board.bar_size(bar) - off, fmt)
            base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
            return hcq.MMIOInterface(base + off, len(self.memory) - off if size is None else size, fmt=fmt)

        def resize_bar(self, _index: int) -> None:
            pass

    directory = Path(tempfile.mkdtemp(prefix="amdrv-firmware-"))
    firmware.write(directory)
    amdev.fetch_fw = lambda _path, name, _digest: (directory / name).read_bytes()
    system.System.list_devices = lambda *_a, **_k: [(Card, board.address) for board in machine.gpus]
    kind = type(system.System)
    kind.system_paddrs = lambda _self, address, size: bus.pages(address & -PAGE, size)
    kind.lock_memory = lambda _self, _address, _size: None


def main() -> int:
    machine = mock.Machine.from_environment()
    connect(machine)
    names = [f"AMD:{n}" for n in range(len(machine.gpus))]
    values = np.arange(1 << 12, dtype=np.float32)
    tensors = [Tensor(values + n, device=name).realize() for n, name in enumerate(names)]
    for (i, a), (j, b) in itertools.permutations(enumerate(tensors), 2):
        assert np.array_equal((a.to(b.device) + b).numpy(), 2 * values + i + j), (i, j)
    a, b = (np.random.default_rng(n).normal(size=(48, 48)).astype(np.float32) for n in range(2))
    for name in names:
        assert np.abs((Tensor(a, device=name) @ Tensor(b, device=name)).numpy() - a @ b).max() < 1e-4
        assert Device[name].arch == "gfx1100"
    for board in machine.gpus:
        rules = {note.rule for note in board.notes} - {"hdp-late", "interrupt-off", "unnamed-register"}
        assert not rules, board.notes
        assert board.counters["kernels"] and board.counters["sdma_packets"]
    print("done", [dict(board.counters) for board in machine.gpus])
    return 0


if __name__ == "__main__":
    sys.exit(main())
