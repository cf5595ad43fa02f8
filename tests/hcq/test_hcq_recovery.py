"""A device that faulted or hangs goes on in the same process; what it gave up is reported as failed."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from code_objects import compile_opencl

import hcq
import mock
from amdrv.backend import AmBackend, open_backend
from amdrv.errors import AmdrvError, GpuFault
from amdrv.facts import ih
from amdrv.hal.mock import MockHal
from amdrv.ip import gfx, psp, smu
from amdrv.ip import sdma as sdma_block


@pytest.fixture(scope="module")
def code() -> bytes:
    return compile_opencl("""
        __kernel void add(__global int* out, __global const int* a, int k) {
            int i = __builtin_amdgcn_workgroup_id_x() * 64 + __builtin_amdgcn_workitem_id_x(); out[i] = a[i] + k; }
        __kernel void wild(__global const long* where) { *(__global int*)where[0] = 1; }""")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[mock.Machine]:
    monkeypatch.setattr(smu, "RESET_TIME", 0)
    monkeypatch.setattr(psp, "HANDSHAKE_DELAY", 0)
    monkeypatch.setattr(gfx, "DEQUEUE_TIMEOUT", 0.2)
    monkeypatch.setattr(sdma_block, "STOP_TIMEOUT", 0.2)
    with mock.Machine([mock.Gpu(vram="256M")]) as machine:
        yield machine


@pytest.fixture
def dev(machine: mock.Machine) -> Iterator[hcq.Device]:
    with hcq.Device(open_backend(hal=MockHal(machine))) as dev:
        yield dev


def test_a_wait_tells_of_a_fault_though_the_engine_went_on(dev: hcq.Device) -> None:
    """The copy engine passes over the page that is not there, and stores the signal behind it."""
    target, gone = dev.alloc(4096), dev.alloc(1 << 22)
    dev.synchronize()
    queue = hcq.CopyQueue(dev).copy(target, gone[:4096])
    queue._storages.clear()
    gone.free()
    dev.trim()                                              # the pages are no one's now
    point = queue.submit()
    with pytest.raises(GpuFault, match=r"page fault at .* which was freed"):
        point.wait()
    with pytest.raises(hcq.DeviceFailedError, match="page fault"):
        dev.alloc(64)
    dev.recover()
    assert list(dev.alloc(64).fill(3).copyout(np.empty(2, np.uint32))) == [3, 3]
    point = dev.alloc(64).fill(1) and hcq.CopyQueue(dev).submit()
    dev.close()
    point.wait()                                            # it was complete before


def test_ends_of_work_are_nothing_to_look_into(dev: hcq.Device) -> None:
    """A wait asks the card's registers only when something else was told."""
    for _ in range(30):                                     # each ends with an interrupt
        hcq.ComputeQueue(dev).submit().wait()
        hcq.CopyQueue(dev).submit().wait()
        assert not dev.backend.suspicious()                 # type: ignore[attr-defined]
    device = dev.backend.device                             # type: ignore[attr-defined]
    device.pci.board.ih.post(ih.SOC21_IH_CLIENTID_GRBM_CP, ih.GFX_11_0_0__SRCID__CP_BAD_OPCODE_ERROR)
    assert dev.backend.suspicious()                         # type: ignore[attr-defined]
    with pytest.raises(GpuFault, match="a PM4 packet with an unknown opcode"):
        hcq.ComputeQueue(dev).submit().wait()
    dev.recover()
    assert not dev.backend.suspicious()                     # type: ignore[attr-defined]


def test_a_hang_names_the_kernel(dev: hcq.Device, machine: mock.Machine, code: bytes) -> None:
    """Also where the submission is a graph of many."""
    work, board = Work(dev, code), machine.gpus[0]
    with dev.graph() as graph:
        for _ in range(10):
            work.add(work.b, work.a, np.int32(1), grid=64, block=64)
    board.faults.inject("hung-wave", count=1)
    graph.replay()
    with pytest.raises(hcq.DeviceTimeout, match=r"its last launch ran the code at 0x\w+ \(kernel 'add'\)"):
        dev.synchronize(timeout=0.3)
    assert "(kernel 'add')" in dev.recover()
    work.check(copyin=True)


class Work:
    """A kernel and buffers that are used before and after an accident."""

    def __init__(self, dev: hcq.Device, code: bytes) -> None:
        self.dev, self.add = dev, dev.program(code, "add")
        self.a, self.b = dev.alloc(4 * 4096), dev.alloc(4 * 4096)
        self.values = np.arange(4096, dtype=np.int32)
        self.a.copyin(self.values)
        with dev.graph() as self.graph:
            self.add(self.b, self.a, self.graph.input("k", np.int32(1)), grid=64, block=64)
        self.check()

    def check(self, *, copyin: bool = False) -> None:
        if copyin:
            self.a.copyin(self.values)
        for k in (5, 6):
            self.add(self.b, self.a, k, grid=64, block=64)
            assert (self.b.copyout(np.empty(4096, np.int32)) == self.values + k).all()
            self.graph.replay(k=np.int32(k + 10))
            assert (self.b.copyout(np.empty(4096, np.int32)) == self.values + k + 10).all()


ACCIDENTS = {       # fault of the card: settings
    "hung wave": dict(kind="hung-wave", count=1),
    "compute hangs": dict(kind="queue-hang", queue="compute 1.0.0", count=1),
    "copy hangs": dict(kind="queue-hang", queue="sdma 0.0", count=1), "bad packet": dict(kind="bad-packet", count=1),
    "illegal instruction": dict(kind="illegal-instruction", count=1)}


@pytest.mark.parametrize("accident", sorted(ACCIDENTS))
def test_the_process_goes_on(dev: hcq.Device, machine: mock.Machine, code: bytes, accident: str) -> None:
    work, dev.timeout = Work(dev, code), 0.5
    machine.gpus[0].faults.inject(**ACCIDENTS[accident])        # type: ignore[arg-type]
    with pytest.raises((hcq.DeviceTimeout, AmdrvError)):
        for _ in range(3):
            work.add(work.b, work.a, 1, grid=64, block=64)
            work.b.copyout()
    machine.gpus[0].faults.clear()
    text = dev.recover()
    assert "it works again" in text and "failed: AM:0 " in text and "is not complete" in text
    dev.timeout = 20
    work.check()
    assert dev.recover() == "every queue is idle, and the card has reported nothing"
    work.check()


def test_waves_that_never_end_are_named_with_their_kernel(dev: hcq.Device, machine: mock.Machine,
                                                          code: bytes) -> None:
    work, dev.timeout = Work(dev, code), 0.5
    machine.gpus[0].faults.inject("hung-wave", count=1)
    work.add(work.b, work.a, 1, grid=3, block=64)
    message = (r"AM:0 compute 0: \d+ words pending, next is [A-Z_]+ .*; its last launch ran the code at "
               r"(0x\w+) \(kernel 'add'\), inside vram buffer .*; "
               r"wave \d+ of SIMD \d, WGP \d, SA \d, SE \d runs at PC (0x\w+)")
    with pytest.raises(hcq.DeviceTimeout, match=message) as caught:
        dev.synchronize()
    found = re.search(message, str(caught.value))
    assert found is not None and int(found[2], 16) - int(found[1], 16) < 1 << 12
    dev.recover()
    dev.timeout = 20
    work.check()


@pytest.mark.parametrize("dead", [{"kind": "mec-dead"}, {"kind": "sdma-dead", "engine": 0}])
def test_a_reset_of_the_card_keeps_programs_and_graphs(dev: hcq.Device, machine: mock.Machine, code: bytes,
                                                       dead: dict[str, object]) -> None:
    work, dev.timeout = Work(dev, code), 0.5
    host = dev.alloc(4096, host=True)
    host.view[:] = 7
    machine.gpus[0].faults.inject(**dead)       # type: ignore[arg-type]
    with pytest.raises(hcq.DeviceTimeout):
        work.a.copyin(work.values)
        work.add(work.b, work.a, 1, grid=64, block=64)
        work.b.copyout()
    text = dev.recover()
    assert "reset of the whole card: it works again" in text and "the content of video memory was lost" in text
    dev.timeout = 20
    assert (host.view == 7).all()
    work.check(copyin=True)


def test_a_fault_names_address_and_buffer_and_is_over_after_recovery(dev: hcq.Device, code: bytes) -> None:
    work = Work(dev, code)
    gone = dev.alloc(1 << 20)
    where = np.array([gone.address + 64], np.int64)
    gone.free()
    dev.trim()
    dev.program(code, "wild")(dev.alloc(8).copyin(where), grid=1, block=1)
    with pytest.raises(GpuFault, match=rf"page fault at {int(where[0]) & -4096:#x}: write by .*, which was freed"):
        dev.synchronize()
    with pytest.raises(hcq.DeviceFailedError, match=r"failed earlier: .*or reset what failed by recover\(\)"):
        dev.alloc(4)
    dev.recover()
    work.check()


def test_whoever_waits_for_work_that_was_given_up_is_told(dev: hcq.Device) -> None:
    gate, after = dev.signal(), dev.signal()
    done = hcq.ComputeQueue(dev).signal(after, 1).submit()
    done.wait()
    points = [hcq.ComputeQueue(dev).wait(gate, 1).submit(), hcq.ComputeQueue(dev).signal(after, 2).submit(),
              hcq.CopyQueue(dev).wait(gate, 1).signal(after, 3).submit()]
    told: list[BaseException] = []

    def wait() -> None:
        try:
            points[0].wait()
        except BaseException as error:
            told.append(error)
    thread = threading.Thread(target=wait)
    thread.start()
    with pytest.raises(hcq.DeviceTimeout, match=r"The driver sees: AM:0 compute 0: .* next is WAIT_REG_MEM"):
        points[1].wait(0.2)
    dev.recover()
    thread.join(10)
    assert not thread.is_alive() and isinstance(told[0], hcq.SubmissionFailedError)
    for point in points:
        with pytest.raises(hcq.SubmissionFailedError, match=r"is not complete.* and it was given up: AM:0 compute 0"):
            point.wait()
    done.wait()                             # was complete, and stays so
    dev.synchronize()
    assert after.value == 1
    gate.value = 1                          # too late
    hcq.ComputeQueue(dev).signal(after, 9).submit().wait()
    assert after.value == 9


def test_memory_of_failed_work_comes_back(dev: hcq.Device) -> None:
    backend = dev.backend
    gate = dev.signal()
    for _ in range(3):
        buffers = [dev.alloc(1 << 20) for _ in range(4)]
        for buffer in buffers:
            hcq.CopyQueue(dev).wait(gate, 1).fill(buffer, 1).submit()
        array = np.zeros(100_000, np.uint8)
        hcq.CopyQueue(dev).copy(dev.register(array), dev.alloc(100_000)).submit()
        del buffers, buffer, array
        dev.recover()
        dev.trim()
        dev._signals.take()
    live = backend.device.require_memory().allocated        # type: ignore[attr-defined]
    assert live["vram"] < 4 << 20


def test_a_driver_that_cannot(dev: hcq.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.delattr(AmBackend, "recover")
        with pytest.raises(hcq.HcqError, match="the driver of AM:0 cannot reset it; close it and open it again"):
            dev.recover()
    dev.close()
    with pytest.raises(hcq.DeviceClosedError, match="AM:0 is closed"):
        dev.recover()


def test_a_card_that_does_not_come_back_says_so_from_then_on(dev: hcq.Device, machine: mock.Machine,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smu, "RESET_TIMEOUT", 0.1)
    monkeypatch.setattr(smu, "RESPONSE_TIMEOUT", 0.1)
    monkeypatch.setattr(psp, "BOOTLOADER_TIMEOUT", 0.1)
    dev.alloc(4096).fill(1)
    dev.synchronize()
    machine.gpus[0].faults.inject("card-lost")
    with pytest.raises(AmdrvError):
        dev.recover()
    machine.gpus[0].faults.clear()
    with pytest.raises(hcq.DeviceFailedError):
        dev.alloc(4)
