"""The vfio-user HAL and server: the contract, a card in another process that boots and computes, either end dying."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from contract import COMMAND, COMMAND_MASTER, HalContract
from hypothesis import given, settings
from hypothesis import strategies as st

import mock
import mock.vfio_user
from amdrv.errors import AmdrvError, CardBusyError, CardLostError, HalError, MappingError, NoCardError
from amdrv.hal import Hal, PciDevice, select
from amdrv.hal.vfio_user import VfioUserHal
from mock.vfio_user import DMA_UNMAP, HEADER, Server, main

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is passed as memfd: Linux only")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("s")
    if len(str(path)) > 80:
        pytest.skip("a Unix socket's path has 108 bytes at most")
    return path


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with mock.Machine([mock.Gpu("gfx1100", vram="256M")]) as machine, Server(machine, folder / "a") as server:
        yield server.start()


class TestVfioUser(HalContract):
    @pytest.fixture
    def hal(self, server: Server) -> Hal:
        return VfioUserHal([server.path])

    def poke_dma(self, hal: Hal, device: PciDevice, address: int, data: bytes) -> None:
        board = self.server_of(hal).board
        pointer = board.dma(address, len(data), write=True)
        ctypes.memmove(pointer, data, len(data))

    def raise_interrupt(self, hal: Hal, device: PciDevice) -> None:
        self.server_of(hal).board.raise_msi()

    @pytest.fixture(autouse=True)
    def _know(self, server: Server) -> None:
        self._server = server

    def server_of(self, hal: Hal) -> Server:
        return self._server

    def test_another_client_is_refused(self, hal: Hal, device: PciDevice) -> None:
        with pytest.raises(CardBusyError, match="another client"):
            VfioUserHal([self._server.path]).open(device.function.address)

    def test_a_client_that_goes_leaves_nothing(self, hal: Hal) -> None:
        device = hal.open(hal.functions()[0].address)
        device.config.write(COMMAND, 2, device.config.read(COMMAND, 2) | COMMAND_MASTER)
        buffer = device.alloc_dma(1 << 20)
        address = buffer.segments[0][0]
        assert self._server.board.dma(address, 16, write=True)
        device.connection.close()       # type: ignore[attr-defined]    # as a process that dies does
        deadline = time.monotonic() + 10
        while self._server._session is not None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert not self._server.machine.bus.attached() and not self._server.board.bus_master

    def test_one_unmap_takes_back_whatever_it_covers(self, device: PciDevice) -> None:
        """As a virtual IOMMU's does when a process is killed: one message for all of its maps."""
        device.config.write(COMMAND, 2, device.config.read(COMMAND, 2) | COMMAND_MASTER)
        buffers = [device.alloc_dma(4096) for _ in range(4)]
        starts = [b.segments[0][0] for b in buffers]
        call = device.connection.call       # type: ignore[attr-defined]
        with pytest.raises(HalError, match="DMA_UNMAP was refused"):
            call(DMA_UNMAP, struct.pack("<IIQQ", 24, 0, starts[0], 2048))
        assert all(self._server.board.dma(start, 4096, write=True) for start in starts)
        first, end = min(starts), max(starts) + 4096
        call(DMA_UNMAP, struct.pack("<IIQQ", 24, 0, first & ~0xFFFFF, (end + 0xFFFFF & ~0xFFFFF) - (first & ~0xFFFFF)))
        assert not self._server.machine.bus.attached()

    def test_memory_that_is_shared_already(self, device: PciDevice) -> None:
        import mmap
        with open("/dev/zero", "r+b") as file:
            shared = np.frombuffer(mmap.mmap(file.fileno(), 4096), np.uint8)
        if sys.platform.startswith("linux"):
            with pytest.raises(MappingError, match="shared"):
                device.map_dma(shared, 4096)

    def test_vram_is_posted_until_the_flush(self, hal: Hal, device: PciDevice) -> None:
        vram = self._server.board.vram
        view = device.bar(0).view(0x40_0000, 4096, np.uint32)
        before = vram.view[0x40_0000:0x40_0010].tobytes()
        view[:4] = [1, 2, 3, 4]
        assert vram.view[0x40_0000:0x40_0010].tobytes() == before
        self._server.board.hdp_flush()
        assert vram.view[0x40_0000:0x40_0010].tobytes() == struct.pack("<4I", 1, 2, 3, 4)


def test_peers_reach_each_other_through_descriptors(folder: Path) -> None:
    gpu = mock.Gpu("gfx1100", vram="256M")
    with mock.Machine([gpu]) as one, mock.Machine([gpu]) as two, Server(one, folder / "p1") as first, \
            Server(two, folder / "p2") as second:
        first.start(), second.start()
        hal = VfioUserHal([first.path, second.path])
        addresses = [f.address for f in hal.functions()]
        with hal.open(addresses[0]) as a, hal.open(addresses[1]) as b:
            b.bar(0).view(0x1000, 8, np.uint64)[0] = 0x1122334455667788
            mapping = a.map_peer(b.bar(0))
            a.config.write(COMMAND, 2, a.config.read(COMMAND, 2) | COMMAND_MASTER)
            (address, size), = mapping.segments
            pointer = first.board.dma(address + 0x1000, 8, write=False)
            assert ctypes.c_uint64.from_address(pointer).value == 0x1122334455667788 and size == 256 << 20
            with pytest.raises(MappingError):
                a.map_peer(b.bar(5))


class _Sparse(Server):
    """A server that shares two pieces of VRAM, and takes messages for what lies between."""

    AREAS = ((0x20_0000, 0x10_0000), (0x80_0000, 0x40_0000))


@pytest.fixture
def sparse(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Sparse]:
    told = mock.vfio_user._Session._region_info

    def tell(session: mock.vfio_user._Session, body: bytes, passed: list[int]) -> bytes:
        answer = told(session, body, passed)
        if struct.unpack_from("<3I", body)[2] == 0:
            _, flags, index, _, size, offset = struct.unpack_from("<4I2Q", answer)
            tail = struct.pack("<HHIII", 1, 1, 0, len(_Sparse.AREAS), 0) + b"".join(
                struct.pack("<QQ", *area) for area in _Sparse.AREAS)
            answer = struct.pack("<4I2Q", 32 + len(tail), flags | 8, index, 32, size, offset) + tail
        return answer
    monkeypatch.setattr(mock.vfio_user._Session, "_region_info", tell)
    with mock.Machine([mock.Gpu("gfx1100", vram="256M")]) as machine, _Sparse(machine, folder / "sparse") as server:
        server.start()
        yield server


def test_pieces_of_a_bar_and_the_holes_between(sparse: _Sparse, monkeypatch: pytest.MonkeyPatch) -> None:
    hal = VfioUserHal([sparse.path])
    trapped: list[int] = []
    with hal.open(hal.functions()[0].address) as device:
        read = device.read                  # type: ignore[attr-defined]
        monkeypatch.setattr(device, "read", lambda region, offset, width: trapped.append(offset) or read(region, offset,
                                                                                                       width))
        vram = device.bar(0)
        places = [edge + step for start, size in sparse.AREAS for edge in (start, start + size) for step in (-8, 0)]
        for place in places:
            vram.write64(place, 0x1000_0000_0000 + place)
            vram.write32(place, 0xA000_0000 + (place >> 4))
        for place in places:                # each where it belongs, by memory or by message
            assert vram.read32(place) == 0xA000_0000 + (place >> 4)
            assert vram.read64(place) == 0x1000_0000_0000 | 0xA000_0000 + (place >> 4)
        inside = [p for p in places if any(start <= p < start + size for start, size in sparse.AREAS)]
        assert set(trapped) == set(places) - set(inside) and len(inside) == 4
        assert vram.view(0x80_0000, 0x40_0000).nbytes == 0x40_0000
        for start, size in ((0, 4096), (0x2F_F000, 0x2000)):
            with pytest.raises(HalError, match="does not fit what BAR0 shares: 0x100000 bytes at 0x200000"):
                vram.view(start, size)
        with pytest.raises(MappingError, match="in pieces with holes"):
            device.map_peer(vram)


@pytest.mark.parametrize(("answer", "message"), [
    (b"short", "end too early"), (struct.pack("<4I2Q", 32, 15, 0, 32, 1 << 20, 0), "end too early"),
    (struct.pack("<4I2QHHIII2Q", 64, 15, 0, 32, 1 << 20, 0, 1, 1, 0, 1, 0, 0x1000, 1 << 20), "offers to map"),
    (struct.pack("<4I2QHHIII2Q", 64, 15, 0, 32, 1 << 20, 0, 1, 1, 0, 1, 0, 0x10, 0x1000), "no whole pages")])
def test_a_server_that_describes_its_regions_badly(server: Server, monkeypatch: pytest.MonkeyPatch, answer: bytes,
                                                   message: str) -> None:
    monkeypatch.setattr(mock.vfio_user._Session, "_region_info", lambda session, body, passed: answer)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(HalError, match=message):
            VfioUserHal([server.path]).open(f"vfio-user:{server.path}")
    deadline = time.monotonic() + 10
    while len(os.listdir("/proc/self/fd")) > before:            # the server's side goes on its own thread
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def process(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    path = str(folder / "card")
    command = [sys.executable, "-m", "mock.vfio_user", path, "--gpu", "gfx1100:vram=256M"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert "256 MiB" in child.stdout.readline()
        yield child, path
        child.kill()


def test_a_card_in_another_process_boots_and_computes(process: tuple[subprocess.Popen[str], str]) -> None:
    from amdrv.device import Device
    child, path = process
    hal = select(f"vfio-user:{path}")
    for _ in range(2):                  # and once more, by a second client
        with Device.open(hal=hal, address=hal.functions()[0].address) as device:
            assert device.compute_units == 96
            data = device.alloc(1 << 20)
            assert data.nbytes == 1 << 20
    script = ("import hcq, numpy as np\n"
              "d = hcq.open('AM'); x = np.arange(1 << 16, dtype=np.uint32)\n"
              "b = d.alloc(x.nbytes).copyin(x)\n"
              "assert np.array_equal(b.copyout(np.empty_like(x)), x); print('equal')")
    environment = {**os.environ, "AMDRV_HAL": f"vfio-user:{path}"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=60)
    assert done.stdout == "equal\n", done.stderr
    child.send_signal(signal.SIGTERM)
    assert child.wait(10) == 0 and not Path(path).exists()


def test_a_killed_driver_leaves_a_usable_card(process: tuple[subprocess.Popen[str], str]) -> None:
    from amdrv.device import Device
    _, path = process
    script = "import hcq, time; d = hcq.open('AM'); d.alloc(1 << 20); print('up', flush=True); time.sleep(60)"
    environment = {**os.environ, "AMDRV_HAL": f"vfio-user:{path}"}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        with pytest.raises(CardBusyError):
            VfioUserHal([path]).open(f"vfio-user:{path}")
        child.kill()
    hal = VfioUserHal([path])
    deadline = time.monotonic() + 10
    while True:
        try:
            with Device.open(hal=hal, address=hal.functions()[0].address) as device:
                assert device.compute_units == 96
            return
        except CardBusyError:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_killed_card_is_one_clear_error(process: tuple[subprocess.Popen[str], str]) -> None:
    from amdrv.device import Device
    child, path = process
    hal = VfioUserHal([path])
    with pytest.raises(CardLostError, match="gone"), Device.open(hal=hal, address=hal.functions()[0].address) as device:
        child.kill()
        child.wait()
        device.regs.GRBM_STATUS.read()


def test_what_cannot_be_reached(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NoCardError, match="nobody serves"):
        VfioUserHal([str(folder / "nobody")]).functions()
    with pytest.raises(HalError, match="needs a socket"):
        select("vfio-user")
    assert main([str(folder / "no" / "such" / "folder")]) == 1
    assert main([str(folder / "x"), "--gpu", "gfx1100:count=2"]) == 1
    assert main([str(folder / "x"), "--gpu", "gfx9999"]) == 1
    assert "Traceback" not in capsys.readouterr().err


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.binary(max_size=80), st.booleans()), max_size=6),
       st.binary(max_size=40))
def test_strange_clients_end_alone(server: Server, messages: list[tuple[int, bytes, bool]], tail: bytes) -> None:
    """Whatever a client says, the server answers or drops it, and the next one is served."""
    with socket.socket(socket.AF_UNIX) as strange:
        strange.settimeout(5)
        strange.connect(server.path)
        try:
            for number, (command, body, version_first) in enumerate(messages):
                if version_first and not number:
                    strange.sendall(HEADER.pack(0, 1, HEADER.size + 4, 0, 0) + bytes(4))
                    strange.recv(4096)
                strange.sendall(HEADER.pack(number, command, HEADER.size + len(body), 0, 0) + body)
                strange.recv(4096)
            strange.sendall(tail)
        except OSError:
            pass
    deadline = time.monotonic() + 10
    while server._session is not None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    try:
        assert VfioUserHal([server.path]).functions()[0].vendor == 0x1002
    except AmdrvError as error:
        raise AssertionError("a good client was not served") from error


def test_memory_in_several_mappings_stays_one(folder: Path) -> None:
    """Two mappings of the same pages, and one that covers both and more: all see the process's own bytes."""
    with mock.Machine([mock.Gpu("gfx1100", vram="256M")]) as machine, Server(machine, folder / "m") as server:
        hal = VfioUserHal([server.start().path])
        with hal.open(hal.functions()[0].address) as device:
            device.config.write(COMMAND, 2, device.config.read(COMMAND, 2) | COMMAND_MASTER)
            memory = np.arange(10 * 4096, dtype=np.uint32).view(np.uint8)
            start = -(-memory.ctypes.data // 4096) * 4096
            content = memory.copy()
            pieces = [device.map_dma(start + at, size) for at, size in
                      ((4096, 8192), (8192, 4096), (0, 8 * 4096), (4096, 8192))]
            assert (memory == content).all()
            memory[:] ^= 0x55
            for mapping, offset in zip(pieces, (4096, 8192, 0, 4096), strict=True):
                (address, size), = mapping.segments
                for at in range(0, size, 4096):
                    pointer = server.board.dma(address + at, 4096, write=True)
                    seen = np.ctypeslib.as_array((ctypes.c_uint8 * 4096).from_address(pointer))
                    low = start - memory.ctypes.data + offset + at
                    assert (seen == memory[low:low + 4096]).all()
            own = device.alloc_dma(8192)
            again = device.map_dma(own.view, 8192)      # what alloc_dma gave is not parted from the card, either
            own.view[:] = 9
            pointer = server.board.dma(again.segments[0][0], 8192, write=False)
            assert ctypes.string_at(pointer, 8192) == bytes([9]) * 8192
            pieces[0].close()
            memory[:] = 1
            pointer = server.board.dma(pieces[3].segments[0][0], 8192, write=False)
            assert ctypes.string_at(pointer, 8192) == bytes([1]) * 8192
            again.close()
            for mapping in pieces:
                mapping.close()
            assert (memory == 1).all()
            lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
            spans = [(int(line[0].split("-")[0], 16), line[1]) for line in lines]
            assert all(mode == "rw-p" for at, mode in spans if start <= at < start + 8 * 4096)      # no child sees it
            with pytest.raises(MappingError, match="not all of 0x1000 bytes at 0x1000 are memory of this process"):
                device.map_dma(0x1000, 4096)


ENDS = {        # how a driver's process ends -> what it does then
    "exit": "sys.exit(3)",
    "exception": "raise RuntimeError('as planned')",
    "SIGINT": "os.kill(os.getpid(), signal.SIGINT); time.sleep(60)",
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "fork": "child = os.fork()\nif not child:\n    device.close()\n    os._exit(0)\nos.waitpid(child, 0)\n"
            "assert device.clock() > 0 and device.alloc(4096)\ndevice.close()"}


def test_every_end_of_a_driver_leaves_a_usable_card(process: tuple[subprocess.Popen[str], str]) -> None:
    from amdrv.device import Device
    _, path = process
    for end, action in ENDS.items():
        script = ("import os, signal, sys, time\nfrom amdrv.device import Device\ndevice = Device.open()\n"
                  "device.alloc(1 << 20, kind='system')\nprint('booted', flush=True)\n" + action)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120,
                              cwd=Path(__file__).parents[2], env={**os.environ, "AMDRV_HAL": f"vfio-user:{path}"})
        assert done.stdout == "booted\n", done.stderr
        assert (done.returncode == 0) == (end == "fork"), done.stderr
        if end in ("exception", "SIGINT"):
            assert ("as planned" if end == "exception" else "KeyboardInterrupt") in done.stderr.splitlines()[-1]
        with Device.open(VfioUserHal([path])) as device:
            buffer = device.alloc(4096, kind="system")
            device.compute_rings[0].test()
            device.sdma_rings[0].test()
            with pytest.raises(CardBusyError, match="another client has the card"):
                Device.open(VfioUserHal([path]))
            device.free(buffer)
        assert device.shutdown_errors == []
