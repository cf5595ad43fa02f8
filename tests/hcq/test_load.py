"""Loading and storing files: every range, both file engines, both ways into memory, and everything that goes wrong."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import blake3
import numpy as np
import pytest
from fake_backend import FakeBackend
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from two_cards import cards, notes

import hcq
from hcq.load import engines, transfer
from hcq.load.engines import Completion, Threads, open_engine
from hcq.load.files import BLOCK, cut

SIZE = 300_007


def uring_works() -> bool:
    try:
        engines.Uring(2).close()
    except (ImportError, OSError, AttributeError):
        return False
    return True


ENGINES = ["threads", pytest.param("uring", marks=pytest.mark.skipif(not uring_works(), reason="no io_uring here"))]


@pytest.fixture(scope="module")
def data() -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, SIZE, np.uint8)


@pytest.fixture
def file(data: np.ndarray, tmp_path: Path) -> Path:
    data.tofile(tmp_path / "data.bin")
    return tmp_path / "data.bin"


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many reads for little data: 8 KiB each, three at a time."""
    monkeypatch.setattr(transfer.read_files, "__kwdefaults__",
                        {**transfer.read_files.__kwdefaults__, "chunk": 2 * BLOCK, "depth": 3})     # type: ignore
    monkeypatch.setattr(transfer.write_file, "__kwdefaults__",
                        {**transfer.write_file.__kwdefaults__, "chunk": 2 * BLOCK, "depth": 3})     # type: ignore


class Strange(Threads):
    """A file engine whose completions a test may change: a disk with moods."""

    change: Callable[[int, Completion], Completion] = staticmethod(lambda number, completion: completion)
    seen = 0

    def wait(self, timeout: float) -> Sequence[Completion]:
        found = []
        for completion in super().wait(timeout):
            found.append(self.change(Strange.seen, completion))
            Strange.seen += 1
        return found


@pytest.fixture
def strange(monkeypatch: pytest.MonkeyPatch, small_pieces: None) -> Callable[[Any], None]:
    def install(change: Callable[[int, Completion], Completion]) -> None:
        Strange.seen = 0
        monkeypatch.setattr(Strange, "change", staticmethod(change))
        monkeypatch.setattr(transfer, "open_engine", lambda depth, name=None: Strange(depth))
    return install


# ---- ranges


@given(offset=st.integers(0, 10 * BLOCK), nbytes=st.integers(1, 10 * BLOCK), chunk=st.integers(1, 5))
def test_pieces_cover_a_range_once_in_whole_blocks(offset: int, nbytes: int, chunk: int) -> None:
    place = 0
    for piece in cut(offset, nbytes, chunk * BLOCK):
        assert piece.offset % BLOCK == piece.length % BLOCK == 0 and 0 < piece.length <= chunk * BLOCK
        assert piece.place == place and piece.offset + piece.skip == offset + place
        assert piece.skip >= 0 and piece.skip + piece.nbytes <= piece.length
        place += piece.nbytes
    assert place == nbytes


@pytest.mark.parametrize("engine", ENGINES)
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(offset=st.integers(0, SIZE - 1), nbytes=st.integers(1, SIZE), place=st.integers(0, 5000))
def test_any_range_to_any_place(dev: hcq.Device, file: Path, data: np.ndarray, small_pieces: None, engine: str,
                                offset: int, nbytes: int, place: int) -> None:
    nbytes = min(nbytes, SIZE - offset)
    buffer = dev.alloc(SIZE + 5003)
    before = np.random.default_rng(nbytes).integers(0, 256, buffer.nbytes, np.uint8)
    buffer.copyin(before)
    os.environ["HCQ_IO"] = engine
    try:
        found = dev.load(file, offset, nbytes, buffer[place:place + nbytes])
    finally:
        del os.environ["HCQ_IO"]
    assert found.nbytes == nbytes
    before[place:place + nbytes] = data[offset:offset + nbytes]
    assert np.array_equal(buffer.copyout(), before)         # and not a byte beside it


def test_a_new_buffer_and_what_is_left_out(dev: hcq.Device, file: Path, data: np.ndarray) -> None:
    assert np.array_equal(dev.load(file).copyout(), data)
    assert np.array_equal(dev.load(str(file), 299_000).copyout(), data[299_000:])
    buffer = dev.load(file, 5, buffer=dev.alloc(100))       # as much as the buffer holds
    assert np.array_equal(buffer.copyout(), data[5:105])


@pytest.mark.parametrize("via", ["staging", "window", "auto"])
def test_into_a_cards_memory_by_both_ways(file: Path, data: np.ndarray, via: Any, tmp_path: Path) -> None:
    """On the software card, whose caches and host data path are strict: old bytes in GL2 would show."""
    with cards(1) as (card,):
        buffer = card.alloc(SIZE + 1).fill(0xABAD1DEA)[:SIZE]
        assert buffer.copyout()[0] == 0xEA
        assert np.array_equal(card.load(file, buffer=buffer, via=via).copyout(), data)
        assert card.store(tmp_path / "out.bin", buffer) == blake3.blake3(data.data).digest()
        assert np.array_equal(np.fromfile(tmp_path / "out.bin", np.uint8), data)
        assert not notes(card)


# ---- what can be wrong with a request


def test_errors_before_anything_moves(dev: hcq.Device, backend: FakeBackend, file: Path, tmp_path: Path) -> None:
    files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    cases: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (hcq.MissingFileError, r"no file to load at .*nothing.bin; it was looked for from /",
         lambda: dev.load(tmp_path / "nothing.bin")),
        (hcq.LoadError, r"has 300007 bytes; 200000 bytes from 200000 on were asked for",
         lambda: dev.load(file, 200_000, 200_000)),
        (hcq.LoadError, r"has 300007 bytes; nothing is left from byte 300007 on", lambda: dev.load(file, SIZE)),
        (hcq.LoadError, r"0 bytes from 0 on were asked for", lambda: dev.load(file, 0, 0)),
        (hcq.LoadError, r"offset is a number of bytes, not -1", lambda: dev.load(file, -1)),
        (hcq.LoadError, r"nbytes is a number of bytes, not 1.5", lambda: dev.load(file, 0, 1.5)),  # type: ignore
        (hcq.LoadError, r"is no regular file and no block device", lambda: dev.load(tmp_path)),
        (hcq.BufferError, r"200 bytes do not fit a buffer of 100",
         lambda: dev.load(file, 0, 200, dev.alloc(100))),
        (hcq.LoadError, r"32 bytes, or 64 hexadecimal digits, not 'beef'", lambda: dev.load(file, blake3="beef")),
        (hcq.LoadError, r"nothing to load: no parts", lambda: hcq.load_files([], [dev])),
        (hcq.LoadError, r"no buffer and no device is named for it", lambda: hcq.load_files([hcq.Part(file)])),
        (hcq.LoadError, r"has no window that the CPU could write through", lambda: dev.load(file, via="window")),
    ]
    for kind, message, call in cases:
        with pytest.raises(kind, match=message) as caught:
            call()
        assert isinstance(caught.value, (hcq.HcqError, ValueError))
    assert isinstance(caught.value, OSError) and caught.value.errno is None
    buffer = dev.alloc(SIZE)
    with pytest.raises(hcq.BufferError, match=r"parts 0 and 1 load into the same bytes"):
        hcq.load_files([hcq.Part(file, 0, 100, buffer[:100]), hcq.Part(file, 0, 100, buffer[99:])])
    with dev.graph(), pytest.raises(hcq.GraphError, match="a load moves bytes now, and FAKE:0 records a graph"):
        dev.load(file, buffer=buffer)
    other = hcq.Device(FakeBackend(name="FAKE:1"))
    with pytest.raises(hcq.BufferError, match="the buffer belongs to FAKE:1, the load was asked of FAKE:0"):
        dev.load(file, buffer=other.alloc(SIZE))
    other.close()
    with pytest.raises(FileNotFoundError):
        dev.load(tmp_path / "nothing.bin")
    if files:
        assert len(os.listdir("/proc/self/fd")) == files        # no descriptor was left


# ---- what the disk does meanwhile


def test_reads_come_in_pieces_and_are_interrupted(dev: hcq.Device, file: Path, data: np.ndarray, strange: Any) -> None:
    def moody(number: int, completion: Completion) -> Completion:
        if number % 5 == 1:
            return completion._replace(result=-errno.EINTR)
        if number % 5 == 3 and completion.result > 5000:
            return completion._replace(result=5000)             # no multiple of a block
        return completion
    strange(moody)
    assert np.array_equal(dev.load(file, 777).copyout(), data[777:])


def test_a_file_that_shrinks(dev: hcq.Device, file: Path, strange: Any) -> None:
    def shrink(number: int, completion: Completion) -> Completion:
        if number == 3:
            os.truncate(file, 100_000)
        return completion
    strange(shrink)
    with pytest.raises(hcq.LoadError, match=r"shrank while it was read: it had 300007 bytes, and ends at 1\d+"):
        dev.load(file)
    np.zeros(8, np.uint8).tofile(file)
    assert dev.load(file).nbytes == 8                           # all is well with the device


def test_a_disk_that_fails(dev: hcq.Device, backend: FakeBackend, file: Path, strange: Any) -> None:
    strange(lambda number, completion: completion._replace(result=-errno.EIO) if number == 7 else completion)
    dev.trim()
    live = len(backend.live)
    with pytest.raises(hcq.LoadError, match=r"8192 bytes at offset \d+ cannot be read: Input/output error") as caught:
        dev.load(file)
    assert caught.value.errno == errno.EIO
    dev.synchronize()
    dev.trim()
    assert len(backend.live) == live                            # the buffer and the staging memory are given back


def test_o_direct_refused_late(dev: hcq.Device, file: Path, data: np.ndarray, strange: Any) -> None:
    """Some file systems open with O_DIRECT and refuse the read: then it is done through the page cache."""
    strange(lambda number, completion: completion._replace(result=-errno.EINVAL) if number == 0 else completion)
    assert np.array_equal(dev.load(file).copyout(), data)


def test_o_direct_refused_at_once(dev: hcq.Device, file: Path, data: np.ndarray, monkeypatch: pytest.MonkeyPatch,
                                  tmp_path: Path) -> None:
    real = os.open

    def picky(path: Any, flags: int, *rest: Any) -> int:
        if flags & getattr(os, "O_DIRECT", 0):
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(path, flags, *rest)
    monkeypatch.setattr(os, "open", picky)
    assert np.array_equal(dev.load(file).copyout(), data)
    dev.store(tmp_path / "copy", dev.load(file))
    assert np.array_equal(np.fromfile(tmp_path / "copy", np.uint8), data)


# ---- content


def test_hashes_are_checked_while_loading(dev: hcq.Device, file: Path, data: np.ndarray, small_pieces: None) -> None:
    good = blake3.blake3(data[100:].data).digest()
    assert np.array_equal(dev.load(file, 100, blake3=good.hex()).copyout(), data[100:])
    with pytest.raises(hcq.HashMismatchError, match=f"data.bin have BLAKE3 {good.hex()}, expected was 0000.*damaged"):
        dev.load(file, 100, blake3=bytes(32))


def test_a_manifest_over_two_devices(tmp_path: Path, small_pieces: None) -> None:
    rng = np.random.default_rng(2)
    arrays = {f"layer{n}": rng.standard_normal((3 + 7 * n, 1000)).astype(np.float32) for n in range(7)}
    names = list(arrays)
    first = hcq.Manifest.write(tmp_path / "a.bin", {name: arrays[name] for name in names[:3]})
    both = first.merged([hcq.Manifest.write(tmp_path / "b.bin", {name: arrays[name] for name in names[3:]}, align=1)])
    both.save(tmp_path / "model.json")
    manifest = hcq.Manifest.read(tmp_path / "model.json")
    assert manifest == both
    devices = [hcq.Device(FakeBackend(name=f"FAKE:{n}")) for n in range(2)]
    try:
        counts: list[tuple[int, int]] = []
        loaded = manifest.load(devices, progress=lambda done, total: counts.append((done, total)))
        total = sum(array.nbytes for array in arrays.values())
        assert counts[-1] == (total, total) and counts == sorted(counts)
        for name, array in arrays.items():
            assert np.array_equal(loaded[name].copyout(np.empty_like(array)), array)
            entry = manifest.entries[name]
            assert (entry.dtype, entry.shape) == ("float32", array.shape)
        share = [sum(b.nbytes for b in loaded.values() if b.device is device) for device in devices]
        assert max(share) < 0.6 * total                         # dealt by size
        with pytest.raises(hcq.LoadError, match=r"no tensor 'layer9'; it has layer0, layer1"):
            manifest.load(devices, ["layer9"])
        damaged = bytearray((tmp_path / "b.bin").read_bytes())
        damaged[entry.offset + 5] ^= 1
        (tmp_path / "b.bin").write_bytes(damaged)
        with pytest.raises(hcq.HashMismatchError, match=r"^layer6: bytes \d+ to \d+ of .*b.bin have BLAKE3"):
            manifest.load(devices)
    finally:
        for device in devices:
            device.close()


@pytest.mark.parametrize(("text", "message"), [
    ("{", "is no manifest: "), ("[]", "no manifest of version 1"), ('{"version": 2, "tensors": {}}', "version 1"),
    ('{"version": 1, "tensors": {"a": {"file": "x"}}}', r"tensor 'a' has no usable 'offset'; it needs file, offset"),
])
def test_manifests_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(hcq.LoadError, match=message):
        hcq.Manifest.read(tmp_path / "m.json")
    with pytest.raises(hcq.MissingFileError, match="there is no manifest at"):
        hcq.Manifest.read(tmp_path / "none.json")


# ---- the asynchronous form


def test_a_load_that_goes_on_meanwhile(dev: hcq.Device, backend: FakeBackend, file: Path, data: np.ndarray,
                                       strange: Any) -> None:
    gate = threading.Event()

    def held(number: int, completion: Completion) -> Completion:
        if number == 4:
            gate.wait(10)
        return completion
    strange(held)
    under_way = dev.load_async(file)
    with pytest.raises(TimeoutError, match=r"load of .*data.bin: \d+ of 300007 bytes after 0.05 s; it goes on"):
        under_way.wait(0.05)
    assert not under_way.done and under_way.done_bytes < under_way.total_bytes == SIZE
    assert "under way" in repr(under_way)
    gate.set()
    assert np.array_equal(under_way.wait(10).copyout(), data)
    assert under_way.done and under_way.done_bytes == SIZE and "done)" in repr(under_way)


def test_cancelled(dev: hcq.Device, file: Path, strange: Any) -> None:
    started = threading.Event()

    def slow(number: int, completion: Completion) -> Completion:
        started.set()
        if number > 2:
            under_way.cancel()
        return completion
    gate = threading.Event()

    def gated(number: int, completion: Completion) -> Completion:
        gate.wait(10)
        return slow(number, completion)
    strange(gated)
    under_way = dev.load_async(file)
    gate.set()
    with pytest.raises(CancelledError):
        under_way.wait(10)
    assert started.is_set() and "cancelled" in repr(under_way)


def test_awaited(dev: hcq.Device, file: Path, data: np.ndarray, tmp_path: Path) -> None:
    async def both() -> bytes:
        first, second = await asyncio.gather(_awaitable(dev.load_async(file, 0, 1000)),
                                             _awaitable(dev.load_async(file, 1000, 1000)))
        assert np.array_equal(second.copyout(), data[1000:2000])
        return await dev.store_async(tmp_path / "first", first)
    assert asyncio.run(both()) == blake3.blake3(data[:1000].data).digest()
    assert (tmp_path / "first").read_bytes() == data[:1000].tobytes()


async def _awaitable(under_way: hcq.Transfer[hcq.Buffer]) -> hcq.Buffer:
    return await under_way


# ---- out again


@pytest.mark.parametrize("nbytes", [1, BLOCK, 8 * BLOCK, 100_001])
@pytest.mark.parametrize("engine", ENGINES)
def test_stored_bytes_are_the_buffers(dev: hcq.Device, data: np.ndarray, tmp_path: Path, small_pieces: None,
                                      monkeypatch: pytest.MonkeyPatch, engine: str, nbytes: int) -> None:
    monkeypatch.setenv("HCQ_IO", engine)
    buffer = dev.alloc(nbytes + 7).copyin(data[:nbytes + 7])
    (tmp_path / "out").write_bytes(b"what was there")
    seen: list[int] = []
    dev.store(tmp_path / "out", buffer[7:], progress=lambda done, total: seen.append(done))
    assert (tmp_path / "out").read_bytes() == data[7:nbytes + 7].tobytes() and seen[-1] == nbytes
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("when", ["at once", "later"])
def test_the_disk_is_full(dev: hcq.Device, data: np.ndarray, tmp_path: Path, strange: Any,
                          monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    (tmp_path / "out").write_bytes(b"what was there")
    buffer = dev.alloc(SIZE).copyin(data)
    if when == "at once":
        def full(fd: int, offset: int, nbytes: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    strange(lambda number, completion: completion._replace(result=-errno.ENOSPC) if number == 9 else completion)
    with pytest.raises(hcq.LoadError, match=r"300007 bytes cannot be stored in .*out: No space left on device; what "
                                            r"was there is as it was, and the buffer is too") as caught:
        dev.store(tmp_path / "out", buffer)
    assert caught.value.errno == errno.ENOSPC
    assert (tmp_path / "out").read_bytes() == b"what was there" and os.listdir(tmp_path) == ["out"]
    assert np.array_equal(buffer.copyout(), data)


def test_a_limit_of_the_system_on_the_way_out(tmp_path: Path) -> None:
    """The real thing: RLIMIT_FSIZE makes the kernel refuse what is beyond 64 KiB."""
    program = f"""
import resource, signal, sys
sys.path[:0] = {sys.path!r}
from fake_backend import FakeBackend
import hcq
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
device = hcq.Device(FakeBackend())
try:
    device.store({str(tmp_path / "out")!r}, device.alloc(200000))
except hcq.LoadError as error:
    print(error)
device.close()
"""
    pytest.importorskip("resource")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert "200000 bytes cannot be stored" in done.stdout and "File too large" in done.stdout, done.stderr
    assert os.listdir(tmp_path) == []


def test_stores_that_are_refused(dev: hcq.Device, tmp_path: Path) -> None:
    buffer = dev.alloc(100)
    with pytest.raises(hcq.LoadError, match=r"cannot be stored in .*: No such file or directory"):
        dev.store(tmp_path / "no" / "folder", buffer)
    with pytest.raises(hcq.LoadError, match="Is a directory"):
        dev.store(tmp_path, buffer)
    with pytest.raises(hcq.BufferError, match="store takes a buffer of FAKE:0, not 5"):
        dev.store(tmp_path / "x", 5)        # type: ignore[arg-type]
    assert os.listdir(tmp_path) == []


# ---- engines


def test_io_uring_where_it_is_and_threads_where_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HCQ_IO", raising=False)
    engine = open_engine(2)
    assert engine.name == ("io_uring" if uring_works() else "threads")
    engine.close()
    monkeypatch.setattr(engines, "Uring", lambda depth: (_ for _ in ()).throw(PermissionError(1, "not permitted")))
    engine = open_engine(2)
    assert engine.name == "threads"
    engine.close()
    monkeypatch.setenv("HCQ_IO", "uring")
    with pytest.raises(hcq.LoadError, match=r"HCQ_IO=uring, but io_uring cannot be had here: .*not permitted"):
        open_engine(2)
    monkeypatch.setenv("HCQ_IO", "carrier pigeon")
    with pytest.raises(hcq.LoadError, match="'carrier pigeon' is not known; use auto, uring or threads"):
        open_engine(2)



# ---- a disk of any mood


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moods=st.lists(st.sampled_from(["whole", "whole", "half", "odd", "again", "aligned"]), min_size=1, max_size=40),
       offset=st.integers(0, SIZE - 1), fatal=st.one_of(st.none(), st.integers(0, 60)))
def test_whatever_the_disk_does_it_is_the_bytes_or_one_error(
        dev: hcq.Device, backend: FakeBackend, file: Path, data: np.ndarray, strange: Any, moods: list[str],
        offset: int, fatal: int | None) -> None:
    hit = False

    def moody(number: int, completion: Completion) -> Completion:
        nonlocal hit
        if number == fatal:
            hit = True
            return completion._replace(result=-errno.EIO)
        mood, result = moods[number % len(moods)] if number < 400 else "whole", completion.result
        if mood == "again":
            return completion._replace(result=-errno.EINTR)
        if mood == "half" and result > BLOCK:
            return completion._replace(result=BLOCK)
        if mood == "odd" and result > BLOCK + 1:
            return completion._replace(result=BLOCK + 1)
        if mood == "aligned":
            return completion._replace(result=result - result % 512)
        return completion
    strange(moody)
    try:
        found = dev.load(file, offset)
    except hcq.LoadError as error:
        # the file's last bytes, which are no whole 512, seem to be gone where results are cut down to such
        assert (hit and error.errno == errno.EIO) or ("aligned" in moods and "shrank" in str(error))
    else:
        assert np.array_equal(found.copyout(), data[offset:])


def test_a_way_that_there_is_not(dev: hcq.Device, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abcd")
    with pytest.raises(hcq.LoadError, match="files are loaded via auto, staging, window, not via 'dma'"):
        dev.load(tmp_path / "x", via="dma")         # type: ignore[arg-type]
