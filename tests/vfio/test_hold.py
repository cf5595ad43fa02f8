"""The holder: who gets the card, what is cleaned behind him, and what strange sockets do. Its kernel is a stand-in."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fcntl", reason="Linux only")
if not hasattr(os, "eventfd"):
    pytest.skip("VFIO is Linux's", allow_module_level=True)

from amdrv.errors import CardBusyError, HalError
from amdrv.facts import vfio as abi
from amdrv.hal.config_space import COMMAND, COMMAND_MASTER
from amdrv.hal.vfio import VfioHal
from amdrv.vfio import call as call_module
from amdrv.vfio.hold import Holder, ask, socket_of

ADDRESS = "0000:03:00.0"


class Machine:
    """A card bound to vfio-pci in group 14, whose descriptors are files, and the kernel behind them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / ADDRESS
        self.path.mkdir()
        for name in ("vendor", "device", "class", "revision", "subsystem_vendor", "subsystem_device"):
            (self.path / name).write_text("0x1002\n")
        (root / "drivers/vfio-pci").mkdir(parents=True)
        (self.path / "driver").symlink_to(root / "drivers/vfio-pci")
        group = root / "groups/14"
        (group / "devices").mkdir(parents=True)
        (group / "devices" / ADDRESS).symlink_to(self.path)
        (self.path / "iommu_group").symlink_to(group)
        (root / "dev/vfio").mkdir(parents=True)
        for name in ("vfio", "14"):
            (root / "dev/vfio" / name).write_text("")
        self.device = os.open(root / "device", os.O_RDWR | os.O_CREAT)
        os.pwrite(self.device, bytes(4096), 0)
        self.opened = 0
        self.requests: list[str] = []
        self.notices: list[int] = []

    def hal(self) -> VfioHal:
        return VfioHal(paths=lambda: [self.path], dev=self.root / "dev", lock_directory=self.root,
                       holders=self.root / "run")

    def ioctl(self, fd: int, request: int, pointer: int) -> int:
        if request == abi.VFIO_GROUP_GET_STATUS:
            abi.vfio_group_status.from_address(pointer).flags = abi.VFIO_GROUP_FLAGS_VIABLE
        elif request == abi.VFIO_GROUP_GET_DEVICE_FD:
            self.opened += 1
            return os.dup(self.device)
        elif request == abi.VFIO_DEVICE_GET_INFO:
            abi.vfio_device_info.from_address(pointer).flags = abi.VFIO_DEVICE_FLAGS_PCI
        elif request == abi.VFIO_DEVICE_GET_REGION_INFO:
            region = abi.vfio_region_info.from_address(pointer)
            region.size, region.offset, region.flags = (4096, 0, 3) if region.index == 7 else (0, 0, 0)
        elif request == abi.VFIO_DEVICE_GET_IRQ_INFO:
            info = abi.vfio_irq_info.from_address(pointer)
            info.count, info.flags = 1, abi.VFIO_IRQ_INFO_EVENTFD
        elif request == abi.VFIO_DEVICE_SET_IRQS:
            head = abi.vfio_irq_set.from_address(pointer)
            if head.index == abi.VFIO_PCI_REQ_IRQ_INDEX and head.count:
                self.notices.append(ctypes.c_int32.from_address(pointer + ctypes.sizeof(head)).value)
            elif not head.count:
                self.requests.append(f"irq {head.index} off")
        elif request == abi.VFIO_IOMMU_UNMAP_DMA:
            unmap = abi.vfio_iommu_type1_dma_unmap.from_address(pointer)
            self.requests.append("unmap all" if unmap.flags & abi.VFIO_DMA_UNMAP_FLAG_ALL else "unmap")
        return 1 if request == abi.VFIO_CHECK_EXTENSION else 0

    def command(self) -> int:
        return int.from_bytes(os.pread(self.device, 2, COMMAND), "little")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    monkeypatch.setattr(call_module._Libc, "ioctl", machine.ioctl)
    yield machine
    os.close(machine.device)


@pytest.fixture
def holder(machine: Machine) -> Iterator[Holder]:
    stop = threading.Event()
    with machine.hal().hold(ADDRESS) as holder:
        thread = threading.Thread(target=holder.serve, args=(stop.is_set,), kwargs={"turn": 0.02})
        thread.start()
        yield holder
        stop.set()
        thread.join()


def until(condition: object, what: str) -> None:
    deadline = time.monotonic() + 10
    while not condition():              # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.002)


def test_the_card_is_opened_once_for_all(machine: Machine, holder: Holder) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with machine.hal().open(ADDRESS) as device:
            assert device.kind == "vfio type 1"
            device.config.write(COMMAND, 2, device.config.read(COMMAND, 2) | COMMAND_MASTER)
            with pytest.raises(CardBusyError):
                machine.hal().open(ADDRESS)
        until(lambda: holder._client is None, "the holder saw that the client has gone")
    assert machine.opened == 1
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_a_killed_client_leaves_is_cleaned(machine: Machine, holder: Holder) -> None:
    handed = ask(ADDRESS, machine.root / "run")
    assert handed is not None and handed.mode == "type1" and len(handed.iommu) == 2
    os.pwrite(handed.device, (2 | COMMAND_MASTER).to_bytes(2, "little"), COMMAND)
    machine.requests.clear()
    handed.connection.close()           # all that is left of a process that was killed
    until(lambda: holder._client is None, "the holder saw that the client has gone")
    assert machine.command() == 2
    assert {"irq 0 off", "irq 1 off", "irq 2 off", "unmap all"} <= set(machine.requests)
    for fd in (handed.device, *handed.iommu):
        os.close(fd)


def test_another_process_is_named(machine: Machine, holder: Holder) -> None:
    with machine.hal().open(ADDRESS):
        with pytest.raises(CardBusyError, match=f"held by process {os.getpid()}, which has it from its holder"):
            ask(ADDRESS, machine.root / "run")
        with pytest.raises(CardBusyError, match="has a holder already"):
            machine.hal().hold(ADDRESS)


def test_the_other_mode_is_refused(machine: Machine, holder: Holder) -> None:
    hal = VfioHal("iommufd", paths=lambda: [machine.path], dev=machine.root / "dev", lock_directory=machine.root,
                  holders=machine.root / "run")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        with pytest.raises(HalError, match="held by type1, and was asked for by iommufd"):
            hal.open(ADDRESS)
        until(lambda: holder._client is None, "the holder saw that the client has gone")
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_kernel_gets_the_card_when_nobody_has_it(machine: Machine) -> None:
    with machine.hal().hold(ADDRESS) as holder:
        thread = threading.Thread(target=holder.serve, kwargs={"turn": 0.02})
        thread.start()
        device = machine.hal().open(ADDRESS)
        os.eventfd_write(machine.notices[-1], 1)
        until(lambda: holder.wanted, "the holder heard the kernel")
        assert thread.is_alive()        # a client has it
        device.close()
        thread.join(10)
        assert not thread.is_alive()
    assert not socket_of(ADDRESS, machine.root / "run").exists()
    assert not machine.command() & COMMAND_MASTER


def test_a_socket_that_a_killed_holder_left(machine: Machine) -> None:
    path = socket_of(ADDRESS, machine.root / "run")
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert ask(ADDRESS, path.parent) is None
    machine.hal().open(ADDRESS).close()             # by itself, as if there were none
    with machine.hal().hold(ADDRESS) as holder:     # and the next holder takes the name over
        assert holder.socket == path
    assert machine.opened == 2


@pytest.mark.parametrize("answer", [b"", b"\n", b"[]\n", b"{}\n", b'{"mode": "type1", "number": 0}\n',
                                    b'{"mode": "none", "number": 0}\n', b'{"mode": [], "number": 0}\n', b"x" * 5000])
def test_strange_holders(machine: Machine, answer: bytes) -> None:
    path = socket_of(ADDRESS, machine.root / "run")
    path.parent.mkdir()
    before = len(os.listdir("/proc/self/fd"))
    with socket.socket(socket.AF_UNIX) as strange:
        strange.bind(str(path))
        strange.listen()

        def say() -> None:
            connection, _ = strange.accept()
            with connection:
                socket.send_fds(connection, [answer or b" "], [0])
        thread = threading.Thread(target=say)
        thread.start()
        with pytest.raises(HalError, match=r"gave no answer that makes sense.*amdrv hold"):
            machine.hal().open(ADDRESS)
        thread.join()
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_command_says_why_it_cannot_hold(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "amdrv", "hold", "ffff:ff:1f.7"], capture_output=True, text=True,
                          cwd=Path(__file__).parents[2], timeout=60)
    assert done.returncode == 1 and done.stderr.startswith("amdrv hold: no PCI function 'ffff:ff:1f.7'"), done.stderr
