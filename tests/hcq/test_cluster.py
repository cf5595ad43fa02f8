"""Devices of other machines. The far side is called directly, through pickles; the slow test has a Ray cluster."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import blake3
import numpy as np
import pytest
from fake_backend import FakeBackend
from fake_kernels import CODE, FUNCTIONS
from two_cards import cards, compiled

import hcq
from hcq.cluster.device import INLINE, RemoteDevice
from hcq.cluster.worker import Outcome, Worker
from hcq.errors import RemoteError

ROOT = Path(__file__).parents[2]


class Wire:
    """A transport to a worker in this process. Everything is pickled on the way, as if it went over a network."""

    where = "a far place"

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.put_arrays = 0
        self.broken = False

    def put(self, array: np.ndarray) -> Any:
        self.put_arrays += 1
        return array.copy()

    def send(self, commands: Sequence[tuple[Any, ...]], arrays: Sequence[Any]) -> Any:
        if self.broken:
            raise hcq.NodeLostError("the far device at a far place is lost")
        return pickle.dumps(self.worker.run(*pickle.loads(pickle.dumps([commands, *arrays]))))

    def receive(self, sent: Any) -> Outcome:
        if self.broken:
            raise hcq.NodeLostError("the far device at a far place is lost")
        outcome: Outcome = pickle.loads(sent)
        return outcome

    def close(self) -> None:
        if not self.broken:
            self.worker.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    backend = FakeBackend(FUNCTIONS)
    device = hcq.Device(backend)
    device.timeout = 10
    yield Wire(Worker(device))
    backend.close()


@pytest.fixture
def far(wire: Wire) -> RemoteDevice:
    return RemoteDevice(wire, "FAKE:0@ray", wire.worker.device.properties)


def test_the_same_calls_and_one_batch_for_many(far: RemoteDevice, wire: Wire) -> None:
    add = far.program(CODE, "add")
    x = np.arange(1024, dtype=np.int32)
    a, out = far.alloc(x.nbytes).copyin(x), far.alloc(x.nbytes)
    for k in range(20):
        add(out, a, k, grid=4, block=256)
        a.copy_from(out)
    assert wire.worker.batches == 0                     # nothing has gone over yet
    assert np.array_equal(a.copyout(np.empty_like(x)), x + sum(range(20)))
    assert wire.worker.batches == 1 == far.sent_batches
    assert np.array_equal(out[64:128].copyout().view(np.int32), (x + sum(range(20)))[16:32])
    a[:8].fill(7)
    assert list(a.copyout().view(np.int32)[:3]) == [7, 7, x[2] + sum(range(20))]


def test_large_arrays_go_by_the_object_store_and_stay_the_callers(far: RemoteDevice, wire: Wire) -> None:
    x = np.arange(INLINE, dtype=np.uint8 if INLINE < 256 else np.int32)
    buffer = far.alloc(x.nbytes).copyin(x)
    small = far.alloc(16).copyin(np.arange(4, dtype=np.int32))
    before = x.copy()
    x[:] = 0
    assert np.array_equal(buffer.copyout(np.empty_like(before)), before) and wire.put_arrays == 1
    assert list(small.copyout(np.empty((2, 2), np.int32))[1]) == [2, 3]


def test_queues_signals_and_graphs_are_over_there(far: RemoteDevice, wire: Wire) -> None:
    add = far.program(CODE, "add")
    a, b = far.alloc(4096).fill(1), far.alloc(4096)
    far.synchronize()
    batches = wire.worker.batches
    filled, done = far.signal(), far.signal(3)
    device: Any = far
    kernels = hcq.ComputeQueue(device).wait(filled, 1).memory_barrier().exec(add, (b, a, 5), 4, 256).signal(done, 7)
    assert "EXEC" in kernels.dump() and len(kernels) == 4
    point = kernels.submit()
    hcq.CopyQueue(device).fill(a, 2).signal(filled, 1).submit()
    point.wait()
    assert done.value == 7 and point.done and (b.copyout().view(np.int32) == 7).all()
    assert wire.worker.batches - batches <= 7
    with far.graph() as graph:
        k = graph.input("k", 10)
        add(b, a, k, grid=4, block=256)
        a.copy_from(b)
    for _ in range(3):
        graph.replay()
    graph.replay(k=100)
    assert (a.copyout().view(np.int32) == 2 + 30 + 100).all() and len(graph) == 2
    with pytest.raises(AttributeError, match="a compute queue has no 'teleport'"):
        kernels.teleport()


def test_what_is_wrong_with_a_call_is_said_at_once(far: RemoteDevice, wire: Wire) -> None:
    add = far.program(CODE, "add")
    a = far.alloc(4096)
    other = hcq.Device(FakeBackend(name="FAKE:1"))
    device: Any = far
    cases: list[tuple[type[Exception], str, Any]] = [
        (hcq.LaunchError, "takes 3 arguments, 2 were given", lambda: add(a, a)),
        (hcq.ArgumentTypeError, "takes a Buffer, not an array", lambda: add(a, np.zeros(4), 1)),
        (hcq.LaunchError, "is a buffer of FAKE:1; the kernel runs on FAKE:0@ray", lambda: add(a, other.alloc(4), 1)),
        (hcq.CodeObjectError, "no kernel", lambda: far.program(CODE, "nothing")),
        (hcq.BufferError, "positive number of bytes, not 0", lambda: far.alloc(0)),
        (hcq.BufferError, "copyin of 8000 bytes", lambda: a.copyin(np.zeros(1000))),
        (hcq.BufferError, "are no part of a buffer of 4096", lambda: a[4000:5000]),
        (hcq.BufferError, "copy of 4096 bytes to a buffer of 16", lambda: a[:16].copy_from(a)),
        (hcq.BufferError, r"a fill pattern is 0 to 2\*\*32-1", lambda: a.fill(-1)),
        (hcq.BufferError, "both must be multiples of 4", lambda: a[1:5].fill(0)),
        (hcq.BufferError, "the buffer is on another machine", lambda: a.view),
        (hcq.HcqError, "a buffer belongs to FAKE:1, the queue to FAKE:0@ray",
         lambda: hcq.CopyQueue(device).fill(other.alloc(4), 0)),
        (hcq.BufferError, "load takes a buffer of FAKE:0@ray, not", lambda: far.load("x", buffer=other.alloc(4))),
    ]
    for kind, message, call in cases:
        with pytest.raises(kind, match=message):
            call()
    a.free()
    with pytest.raises(hcq.UseAfterFreeError):
        a.copyout()
    far.synchronize()
    other.close()


def test_what_goes_wrong_over_there_is_raised_by_who_waits(far: RemoteDevice, wire: Wire) -> None:
    add = far.program(CODE, "add")
    far.synchronize()
    huge = far.alloc(1 << 40)
    huge.fill(0)
    with pytest.raises(MemoryError, match="no room for") as caught:
        far.synchronize()
    assert "alloc on FAKE:0@ray, at a far place; what was sent behind it in the same batch" in caught.value.__notes__[0]
    with pytest.raises(RemoteError, match="on something that was not made, since an earlier command failed"):
        huge[:16].copyout()
    a = far.alloc(4096).fill(1)
    add(a, a, 1, grid=4, block=256)
    assert (a.copyout().view(np.int32) == 2).all()      # the device is well
    with pytest.raises(hcq.MissingFileError, match="there is no file to load at /no/such/file"):
        far.load("/no/such/file")
    with pytest.raises(MemoryError), far.graph():
        far.alloc(1 << 40)
        far.synchronize()
    far.synchronize()


def test_errors_that_do_not_travel_say_what_they_were() -> None:
    class Local(Exception):
        pass

    class Broken:
        name, properties = "BROKEN:0", None

        def act(self) -> None:
            raise Local("only known there")
    error = Worker(Broken()).run([("call", None, 0, "act", (), {}, False)]).error
    assert error is not None and isinstance(error.error, RemoteError)
    assert str(error.error) == "Local: only known there" and error.command == "act"


def test_what_is_dropped_here_is_freed_there(far: RemoteDevice, wire: Wire) -> None:
    keep = far.alloc(4096)
    far.synchronize()
    before = len(wire.worker.objects)
    for _ in range(50):
        far.alloc(4096).fill(1)
        far.signal()
    view = keep[:4]
    del keep
    gc.collect()
    far.synchronize()
    far.synchronize()
    assert len(wire.worker.objects) <= before + 1
    view.fill(3)                                        # a view keeps the whole
    assert view.copyout()[0] == 3


def test_a_lost_machine_is_one_error_and_stays_lost(far: RemoteDevice, wire: Wire) -> None:
    a = far.alloc(4096).fill(1)
    far.synchronize()
    wire.broken = True
    a.fill(2)
    for call in (a.copyout, far.synchronize, lambda: far.alloc(4), lambda: a.fill(3), far.graph):
        with pytest.raises(hcq.NodeLostError, match="the far device at a far place is lost"):
            call()
    assert "lost" in repr(far)
    far.close()                                         # no second error
    with pytest.raises(hcq.NodeLostError):
        far.flush()


def test_closed(far: RemoteDevice, wire: Wire) -> None:
    with far:
        a = far.alloc(4096)
    with pytest.raises(hcq.DeviceClosedError, match="FAKE:0@ray is closed; open it again"):
        a.fill(1)
    assert wire.worker.device._closed


def test_files_are_found_by_content(far: RemoteDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    arrays = {f"w{n}": rng.integers(0, 256, 5000 + n, np.uint8) for n in range(3)}
    store = tmp_path / "store"
    store.mkdir()
    manifest = hcq.Manifest.write(store / "all.bin", arrays)
    manifest.save(store / "all.json")
    (store / "broken.json").write_text("{")
    whole = rng.integers(0, 256, 777, np.uint8)
    digest = blake3.blake3(whole.data).hexdigest()
    whole.tofile(store / digest)
    with pytest.raises(hcq.MissingFileError, match=f"no file has the content {digest} here; looked in HCQ_STORE,"):
        far.load(blake3=digest)
    monkeypatch.setenv("HCQ_STORE", f"{tmp_path}{os.pathsep}{store}")
    assert np.array_equal(far.load(blake3=digest).copyout(), whole)
    assert np.array_equal(far.load("/elsewhere/w1", blake3=manifest.entries["w1"].blake3).copyout(), arrays["w1"])
    elsewhere = hcq.Manifest(manifest.entries, Path("/not/here"))       # the near side's paths mean nothing there
    found: Any = elsewhere.load([far])                                  # type: ignore[list-item]
    assert all(np.array_equal(found[name].copyout(), arrays[name]) for name in arrays)
    with pytest.raises(hcq.MissingFileError, match="and in the manifests"):
        far.load(blake3=bytes(32))
    with pytest.raises(hcq.LoadError, match="names a path, a content hash"):
        far.load()
    assert far.store(tmp_path / "out", found["w2"]) == blake3.blake3(arrays["w2"].data).digest()
    assert np.array_equal(np.fromfile(tmp_path / "out", np.uint8), arrays["w2"])
    assert np.array_equal(far.load_async(tmp_path / "out").wait(20).copyout(), arrays["w2"])


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(hcq.UnknownDeviceError, match="'AM@mars' is no name of a far device"):
        hcq.open("AM@mars")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(hcq.ClusterError, match=r"far devices need Ray: pip install amdrv\[cluster\]"):
        hcq.open("AM@ray")


def test_a_card_over_there_runs_machine_code() -> None:
    with cards(1) as (card,):
        far = RemoteDevice(Wire(Worker(card)), "AM:0@ray", card.properties)
        add = far.program(compiled(), "add")
        a = far.alloc(4 * 1024).fill(1)
        for k in range(5):
            add(a, a, np.uint32(k), grid=16, block=64)
        assert (a.copyout().view(np.uint32) == 11).all()
        with far.profile(counters=["SQ_WAVES"]) as profile:
            add(a, a, np.uint32(1), grid=16, block=64)
        assert "kernel add" in profile.summary() and profile.counters == {"AM:0": {"SQ_WAVES": 32}}
        assert any(event["name"] == "add" for event in profile.trace()["traceEvents"])
        left = far.signal(1)
        queue: Any = hcq.AqlQueue(far)                      # type: ignore[arg-type]
        queue.memory_barrier().exec(add, (a, a, np.uint32(3)), 16, 64, completion=left).barrier_and(left)
        assert "KERNEL_DISPATCH" in queue.dump() and "BARRIER_AND" in queue.dump()
        queue.submit().wait()
        with far.graph(queues=2, kind="aql") as graph:
            add(a, a, np.uint32(4), grid=16, block=64)
        graph.replay()
        assert (a.copyout().view(np.uint32) == 19).all() and left.value == 0
        far.close()


def test_between_here_and_there(far: RemoteDevice) -> None:
    near = hcq.Device(FakeBackend(name="FAKE:1"))
    x = np.arange(1000, dtype=np.int32)
    here, there = near.alloc(4000).copyin(x), far.alloc(4000)
    there.copy_from(here)
    back = near.alloc(4000)
    back.copy_from(there)
    assert np.array_equal(back.copyout().view(np.int32), x)
    back.fill(0)
    hcq.copies([(back, there)])
    assert np.array_equal(back.copyout().view(np.int32), x)
    device: Any = far
    with pytest.raises(hcq.LoadError, match=r"FAKE:0@ray is on another machine and reads files of its own: dev.load"):
        hcq.load_files([hcq.Part(__file__, device=device)])
    near.close()


@pytest.mark.slow
def test_a_token_and_tls() -> None:
    """A Ray cluster with both switched on as docs/hcq.md says: who has neither, or others', is not let in."""
    import shutil
    pytest.importorskip("ray")
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make certificates with")
    environment = {**os.environ, "AMDRV_HAL": "mock", "AMDRV_MOCK": "gfx1100:vram=128M", "RAY_USAGE_STATS_ENABLED": "0",
                   "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "HCQ_CLUSTER_TIMEOUT": "60",
                   "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "hcq")])}
    done = subprocess.run([sys.executable, str(ROOT / "tests" / "hcq" / "ray_secure.py")], capture_output=True,
                          text=True, timeout=290, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert done.stdout.splitlines()[-1] == "all is well"


@pytest.mark.slow
def test_two_nodes_and_one_dies() -> None:
    """A Ray cluster of three nodes on this machine, two with a mock card; one of them is killed in the middle."""
    pytest.importorskip("ray")
    environment = {**os.environ, "AMDRV_HAL": "mock", "AMDRV_MOCK": "gfx1100:vram=128M", "RAY_USAGE_STATS_ENABLED": "0",
                   "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",        # Ray's switch for: loopback only
                   "HCQ_CLUSTER_TIMEOUT": "60",
                   "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "hcq")])}
    done = subprocess.run([sys.executable, str(ROOT / "tests" / "hcq" / "ray_cluster.py")], capture_output=True,
                          text=True, timeout=170, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert done.stdout.splitlines()[-1] == "all is well"
