"""The sysfs HAL on a sysfs tree of our own: files stand in for BARs, everything else is the HAL's real code.

What needs a kernel behind it (a card that answers, DMA, an IOMMU in the way) is tested in a virtual machine.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("fcntl", reason="Linux only")
if sys.platform != "linux":
    pytest.skip("the sysfs HAL is Linux only", allow_module_level=True)

from amdrv.errors import CardBusyError, HalError, MappingError, NoCardError, OutOfMemoryError
from amdrv.hal import PciDevice, host_memory, sysfs
from amdrv.hal.contiguous import run_of
from amdrv.hal.host_memory import PAGEMAP_PRESENT
from amdrv.hal.pinned import lock_card, unlock_card
from amdrv.hal.resize import bar_size, possible_sizes, resize
from amdrv.hal.sysfs import SysfsHal

ADDRESS = "0000:03:00.0"
VRAM, DOORBELLS, REGISTERS = 1 << 20, 1 << 16, 1 << 16


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """One Navi31 as sysfs shows it."""
    path = tmp_path / "devices" / ADDRESS
    path.mkdir(parents=True)
    for name, value in {"vendor": 0x1002, "device": 0x744C, "class": 0x030000, "revision": 0xC8,
                        "subsystem_vendor": 0x1002, "subsystem_device": 0x0E3B}.items():
        (path / name).write_text(f"{value:#x}\n")
    config = bytearray(4096)
    struct.pack_into("<HHHHI", config, 0, 0x1002, 0x744C, 0x0006, 0x0010, 0x030000C8)     # memory and DMA left on
    config[0x34], config[0x40:0x42] = 0x40, b"\x10\0"
    (path / "config").write_bytes(config)
    rows = [(0x8000000000, VRAM, 0x14220C), None, (0x8010000000, DOORBELLS, 0x14220C), None, None,
            (0xF0000000, REGISTERS, 0x40200)]
    lines = []
    for index, row in enumerate(rows):
        if row is None:
            lines.append("0x0 0x0 0x0")
            continue
        start, size, flags = row
        lines.append(f"{start:#018x} {start + size - 1:#018x} {flags:#018x}")
        (path / f"resource{index}").write_bytes(bytes(size))
    (path / "resource0_wc").write_bytes(bytes(VRAM))
    (path / "resource").write_text("\n".join(lines) + "\n")
    (path / "enable").write_text("0")
    (path / "reset").write_text("")
    return path


@pytest.fixture
def pagemap(tmp_path: Path) -> Path:
    return tmp_path / "pagemap"


@pytest.fixture
def hal(card: Path, pagemap: Path, tmp_path: Path) -> SysfsHal:
    return SysfsHal(lambda: [card], pagemap=pagemap, lock_directory=tmp_path)


@pytest.fixture
def device(hal: SysfsHal) -> Iterator[PciDevice]:
    with hal.open(ADDRESS) as device:
        yield device


def fake_frames(pagemap: Path, frames: dict[int, int]) -> None:
    """A sparse pagemap: {page number: entry}."""
    with pagemap.open("wb") as file:
        for page, entry in frames.items():
            file.seek(page * 8)
            file.write(struct.pack("<Q", entry))


def test_enumeration(hal: SysfsHal) -> None:
    function, = hal.functions(0x1002)
    assert (function.address, function.device, function.revision) == (ADDRESS, 0x744C, 0xC8)
    assert function.is_display and function.driver is None and function.subsystem == (0x1002, 0x0E3B)
    assert hal.functions(0x10DE) == []
    with pytest.raises(NoCardError, match="0000:09"):
        hal.open("0000:09:00.0")


def test_opening_stops_dma_that_a_killed_process_left_running(card: Path, hal: SysfsHal) -> None:
    with hal.open(ADDRESS) as device:
        assert device.config.read(4, 2) == 0x0002
        assert (card / "enable").read_text() == "1"
        device.config.write(4, 2, 0x0006)
    assert (card / "config").read_bytes()[4:6] == b"\x02\0"
    assert (card / "enable").read_text() == "0"


def test_configuration_space_of_256_bytes(card: Path, hal: SysfsHal) -> None:
    """Conventional PCI, or a kernel that reaches no more: no extended capability, and a clear end."""
    with hal.open(ADDRESS) as device:
        assert device.config.extended_capability(0x15) is None      # there, and empty
    (card / "config").write_bytes((card / "config").read_bytes()[:256])
    with hal.open(ADDRESS) as device:
        assert device.config.extended_capability(0x15) is None
        assert device.config.capability(0x10) == 0x40
        with pytest.raises(HalError, match="ends before 0x100"):
            device.config.read(0x100, 4)


def test_bars(device: PciDevice, card: Path) -> None:
    assert device.bar_sizes() == {0: VRAM, 2: DOORBELLS, 5: REGISTERS}
    device.bar(5).write32(0x100, 0x12345678)
    assert (card / "resource5").read_bytes()[0x100:0x104] == struct.pack("<I", 0x12345678)
    device.bar(2).write64(0x800, 7)
    assert device.bar(2).read64(0x800) == 7
    view = device.bar(0).view(4096, 16, np.uint64)
    view[:] = (1, 2)
    assert (card / "resource0_wc").read_bytes()[4096:4112] == struct.pack("<QQ", 1, 2)
    assert not any((card / "resource0").read_bytes())
    for index in (2, 5):
        with pytest.raises(HalError, match="no view"):
            device.bar(index).view(0, 4)
    with pytest.raises(HalError, match="aligned"):
        device.bar(5).read32(2)
    with pytest.raises(MappingError, match="BAR3"):
        device.bar(3)


def test_a_driver_holds_the_card(card: Path, hal: SysfsHal, tmp_path: Path) -> None:
    (tmp_path / "drivers" / "amdgpu").mkdir(parents=True)
    (card / "driver").symlink_to(tmp_path / "drivers" / "amdgpu")
    assert hal.functions()[0].driver == "amdgpu"
    with pytest.raises(CardBusyError, match=r"amdgpu.*bind --driver none"):
        hal.open(ADDRESS)


def test_another_process_holds_the_card(device: PciDevice, hal: SysfsHal, tmp_path: Path) -> None:
    with pytest.raises(CardBusyError, match=f"held by process {os.getpid()}"):
        hal.open(ADDRESS)
    probe = ("import sys; from pathlib import Path; from amdrv.hal.sysfs import SysfsHal; p = Path(sys.argv[1])\n"
             "try: SysfsHal(lambda: [p], lock_directory=Path(sys.argv[2])).open(p.name)\n"
             "except Exception as e: print(type(e).__name__, e)\n")
    done = subprocess.run([sys.executable, "-c", probe, str(tmp_path / "devices" / ADDRESS), str(tmp_path)],
                          capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.startswith("CardBusyError") and str(os.getpid()) in done.stdout, done.stderr


def test_scattered_pages_become_segments(device: PciDevice, pagemap: Path) -> None:
    page = device.page_size
    raw = np.zeros(8 * page, np.uint8)
    memory = raw[-int(raw.ctypes.data) % page:][:6 * page]
    first = int(memory.ctypes.data) // page
    frames = [0x100, 0x101, 0x102, 0x0F0, 0x103, 0x104]
    fake_frames(pagemap, {first + i: PAGEMAP_PRESENT | f for i, f in enumerate(frames)})
    mapping = device.map_dma(memory, 6 * page)
    assert list(mapping.segments) == [(0x100 * page, 3 * page), (0xF0 * page, page), (0x103 * page, 2 * page)]
    mapping.close()


@pytest.mark.parametrize(("entry", "message"), [(PAGEMAP_PRESENT, "no physical addresses: needs root"),
                                                (0x1234, "not every page")])
def test_a_pagemap_that_hides_or_lacks(device: PciDevice, pagemap: Path, entry: int, message: str) -> None:
    page = device.page_size
    raw = np.zeros(2 * page, np.uint8)
    memory = raw[-int(raw.ctypes.data) % page:][:page]
    fake_frames(pagemap, {int(memory.ctypes.data) // page: entry})
    with pytest.raises(HalError, match=message):
        device.map_dma(memory, page)


def test_beyond_44_bits(device: PciDevice, pagemap: Path) -> None:
    page = device.page_size
    raw = np.zeros(2 * page, np.uint8)
    memory = raw[-int(raw.ctypes.data) % page:][:page]
    fake_frames(pagemap, {int(memory.ctypes.data) // page: PAGEMAP_PRESENT | 1 << 32})
    with pytest.raises(MappingError, match="44 address bits"):
        device.map_dma(memory, page)


@pytest.mark.skipif(os.geteuid() != 0, reason="physical addresses need root")
def test_real_physical_addresses(card: Path, tmp_path: Path) -> None:
    with SysfsHal(lambda: [card], lock_directory=tmp_path).open(ADDRESS) as device:
        buffer = device.alloc_dma(64 << 10)
        assert sum(n for _, n in buffer.segments) == 64 << 10 and not buffer.view.any()
        assert all(a % device.page_size == 0 and a for a, _ in buffer.segments)
        spans = sorted(buffer.segments)
        assert all(a + n <= b for (a, n), (b, _) in zip(spans, spans[1:], strict=False))  # noqa: RUF007
        buffer.close()
        if int(Path("/proc/sys/vm/nr_hugepages").read_text()) == 0:
            with pytest.raises(OutOfMemoryError, match="nr_hugepages"):
                device.alloc_dma(1 << 20, contiguous=True)


def test_no_interrupt_and_reset(device: PciDevice, card: Path) -> None:
    assert device.interrupt() is None
    device.reset()
    assert (card / "reset").read_text() == "1"
    (card / "reset").unlink()
    (card / "reset").mkdir()
    (card / "reset_method").write_text("bus\n")
    with pytest.raises(HalError, match="methods it knows: bus"):
        device.reset()


def test_a_failed_opening_gives_everything_back(card: Path, hal: SysfsHal) -> None:
    resource = (card / "resource").read_text()
    (card / "resource").write_text("not a number\n")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(ValueError, match="invalid literal"):
            hal.open(ADDRESS)
    assert len(os.listdir("/proc/self/fd")) == before
    (card / "resource").write_text(resource)
    hal.open(ADDRESS).close()


def test_pages_stay_locked_until_the_last_lets_go() -> None:
    """Two arrays of one page: whoever goes first must not unlock the other's."""
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 4 * page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))

    def locked() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmLck"))
    before = locked()
    first, second = host_memory.lock(address, 3 * page), host_memory.lock(address + 2 * page, 2 * page)
    assert locked() - before == 4 * page
    first()
    assert locked() - before == 2 * page
    second()
    assert locked() == before


def test_memory_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(mmap.PAGESIZE))
    with open(tmp_path / "file", "rb") as file:
        area = mmap.mmap(file.fileno(), mmap.PAGESIZE, prot=mmap.PROT_READ)
    array = np.frombuffer(area, np.uint8)
    with pytest.raises(MappingError, match="the memory must be there and may not be read-only"):
        host_memory.as_bytes(int(array.ctypes.data), mmap.PAGESIZE, mmap.PAGESIZE)


@pytest.mark.parametrize("old_kernel", [False, True])
def test_every_page_gets_a_frame_of_its_own_and_keeps_its_bytes(old_kernel: bool,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that was only ever read is the kernel's shared zero page, which a card must not be given."""
    if old_kernel:
        monkeypatch.setattr(host_memory, "MADV_POPULATE_WRITE", 9999)
    page = mmap.PAGESIZE
    area = mmap.mmap(-1, 64 * page, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    array = np.frombuffer(area, np.uint8)
    address = int(array.ctypes.data)
    array[5 * page:6 * page] = 3
    assert array[::page].sum() == 3         # read, each of them

    def private_bytes() -> int:
        """Of the mapping that holds the array (and, perhaps, a neighbour that the kernel has joined to it)."""
        inside, found = False, 0
        for line in Path("/proc/self/smaps").read_text().splitlines():
            first, _, rest = line.partition(" ")
            if "-" in first and not first.endswith(":"):
                start, end = (int(text, 16) for text in first.split("-"))
                inside = start < address + array.nbytes and end > address
            elif inside and first == "Anonymous:":
                found += int(rest.split()[0]) << 10
        return found
    before = private_bytes()
    host_memory.as_bytes(array, array.nbytes, page)
    assert private_bytes() - before == 63 * page
    assert (array[5 * page:6 * page] == 3).all() and array.sum() == 3 * page
def test_pages_that_move_while_they_are_pinned(device: PciDevice, pagemap: Path,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    """The page map is read again after the first look; memory that moved in between is refused."""
    page = device.page_size
    raw = np.zeros(2 * page, np.uint8)
    memory = raw[-int(raw.ctypes.data) % page:][:page]
    looks: list[int] = []

    def frames(address: int, size: int, file: Path) -> np.ndarray:
        looks.append(address)
        return np.array([0x100 + len(looks)])
    monkeypatch.setattr(host_memory, "frames", frames)
    with pytest.raises(HalError, match="moved while they were being pinned"):
        device.map_dma(memory, page)
    assert len(looks) == 2
    monkeypatch.setattr(host_memory, "frames", lambda address, size, file: np.array([0x100]))
    device.map_dma(memory, page).close()


def test_lockdown_is_recognised(card: Path, hal: SysfsHal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "lockdown"
    monkeypatch.setattr(sysfs._why_denied, "__defaults__", (state,))

    write = os.pwrite

    def refuse(fd: int, data: bytes, offset: int) -> int:
        if os.readlink(f"/proc/self/fd/{fd}").endswith("config"):
            raise PermissionError(1, "Operation not permitted")
        return write(fd, data, offset)
    monkeypatch.setattr(sysfs.os, "pwrite", refuse)
    before = len(os.listdir("/proc/self/fd"))
    for said, message in (("none [integrity] confidentiality", r"locked down.*\[integrity\].*AMDRV_HAL=vfio"),
                          ("[none] integrity", "needs root"), (None, "needs root")):
        if said is None:
            state.unlink()
        else:
            state.write_text(said + "\n")
        with pytest.raises(HalError, match=message):
            hal.open(ADDRESS)
    assert len(os.listdir("/proc/self/fd")) == before


# ---- resizable BAR

class _Kernel:
    """resource0_resize as the kernel has it: a mask to read, a bit number to write; ``room`` bounds what works."""

    def __init__(self, card: Path, monkeypatch: pytest.MonkeyPatch, *, mask: int, room: int) -> None:
        self.card, self.room, self.written = card, room, list[int]()
        (card / "resource0_resize").write_text(f"{mask:016x}\n")
        write = Path.write_text

        def write_text(path: Path, text: str, *args: object, **more: object) -> int:
            return self.resize(int(text)) if path.name == "resource0_resize" else write(path, text)
        monkeypatch.setattr(Path, "write_text", write_text)

    def resize(self, bit: int) -> int:
        self.written.append(bit)
        size = 1 << bit + 20
        if size > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        lines = (self.card / "resource").read_text().splitlines()
        lines[0] = f"{1 << 39:#018x} {(1 << 39) + size - 1:#018x} 0x000000000014220c"
        with open(self.card / "resource", "w") as file:
            file.write("\n".join(lines) + "\n")
        for name in ("resource0", "resource0_wc"):
            os.truncate(self.card / name, size)
        return 1


@given(sizes=st.sets(st.integers(0, 8), min_size=1), room=st.integers(0, 9), wanted=st.none() | st.integers(0, 8))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_resizing(tmp_path_factory: pytest.TempPathFactory, sizes: set[int], room: int, wanted: int | None) -> None:
    """The largest size that works, or the one that was asked for, or an error that says why not."""
    folder = tmp_path_factory.mktemp("resize")
    path = folder / ADDRESS
    path.mkdir()
    for name in ("vendor", "device", "class", "revision", "subsystem_vendor", "subsystem_device"):
        (path / name).write_text("0x1\n")
    for name in ("resource0", "resource0_wc"):
        (path / name).write_text("")
    start = min(sizes)
    (path / "resource").write_text(f"0x8000000000 {(1 << 39) + (1 << start + 20) - 1:#x} 0x14220c\n" + "0 0 0\n" * 5)
    with pytest.MonkeyPatch.context() as patch:
        kernel = _Kernel(path, patch, mask=sum(1 << bit for bit in sizes), room=1 << max(room, start) + 20)
        fitting = [bit for bit in sizes if bit <= max(room, start)]
        assert possible_sizes(path, 0) == sorted(1 << bit + 20 for bit in sizes)
        if wanted is None:
            if fitting == [start] and len(sizes) > 1:
                with pytest.raises(HalError, match=f"stays at {1 << start} MiB.*Above 4G"):
                    resize(path, 0)
            else:
                assert resize(path, 0) == 1 << max(fitting) + 20 == bar_size(path, 0)
        elif wanted not in sizes:
            with pytest.raises(MappingError, match="it can be"):
                resize(path, 0, 1 << wanted + 20)
            assert not kernel.written
        elif wanted not in fitting:
            with pytest.raises(HalError, match="cannot resize BAR0"):
                resize(path, 0, 1 << wanted + 20)
        else:
            assert resize(path, 0, 1 << wanted + 20) == 1 << wanted + 20 == bar_size(path, 0)


def test_a_card_that_is_open_sees_its_new_window(card: Path, device: PciDevice, monkeypatch: pytest.MonkeyPatch,
                                                 tmp_path: Path) -> None:
    with pytest.raises(MappingError, match="no resource0_resize"):
        device.resize_bar(0)                            # type: ignore[attr-defined]
    _Kernel(card, monkeypatch, mask=0b110, room=4 << 20)
    assert device.resize_bar(0) == 4 << 20              # type: ignore[attr-defined]
    assert device.bar_sizes()[0] == 4 << 20
    device.bar(0).write32((4 << 20) - 4, 7)
    assert device.bar(0).read32((4 << 20) - 4) == 7
    (tmp_path / "amdgpu").mkdir()
    (card / "driver").symlink_to(tmp_path / "amdgpu")
    with pytest.raises(HalError, match="while amdgpu has the card"):
        resize(card, 0, 2 << 20)


# ---- contiguous memory, and the lock

@given(st.permutations(range(12)), st.sets(st.integers(0, 11)), st.integers(1, 6))
def test_a_run_of_huge_pages_is_found(order: list[int], holes: set[int], count: int) -> None:
    step = host_memory.HUGE_PAGE // mmap.PAGESIZE
    pages = [0x1000 + number * step for number in order if number not in holes]
    run = run_of(count, pages)
    numbers = sorted(set(range(12)) - holes)
    there = any(all(first + i in numbers for i in range(count)) for first in numbers)
    assert (run is not None) == there
    if run is not None:
        assert [pages[i] for i in run] == [pages[run[0]] + i * step for i in range(count)]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user")
def test_a_lock_file_of_another_user(tmp_path: Path) -> None:
    """The file outlives its maker: the next user takes it, whoever made it, and is told who holds it."""
    tmp_path.chmod(0o1777)
    for parent in tmp_path.parents:
        if parent.name.startswith(("pytest-", "popen-")):       # ours, with xdist one more of them
            parent.chmod(0o755)
    mask = os.umask(0o077)
    try:
        fd = lock_card(tmp_path, ADDRESS)
        with pytest.raises(CardBusyError, match=f"process {os.getpid()}"):
            lock_card(tmp_path, ADDRESS)
        unlock_card(fd)
    finally:
        os.umask(mask)
    other = ("import fcntl, os, sys; from pathlib import Path; from amdrv.hal.pinned import lock_card, unlock_card\n"
             "os.setresgid(1000, 1000, 1000); os.setresuid(1000, 1000, 1000)\n"
             "unlock_card(lock_card(Path(sys.argv[1]), sys.argv[2]))")
    done = subprocess.run([sys.executable, "-c", other, str(tmp_path), ADDRESS], capture_output=True, text=True,
                          cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    (tmp_path / f"amdrv-{ADDRESS}.lock").unlink()
    (tmp_path / f"amdrv-{ADDRESS}.lock").mkdir()
    with pytest.raises((HalError, OSError)):
        lock_card(tmp_path, ADDRESS)
