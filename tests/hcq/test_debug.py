"""Wait cycles are named; the debug mode finds races and the line that freed memory, and nothing in what is in order."""

from __future__ import annotations

import re

import numpy as np
import pytest
from fake_backend import FakeBackend
from fake_kernels import CODE

import hcq


@pytest.fixture
def checked(dev: hcq.Device) -> hcq.Device:
    dev.debug = True
    return dev


def test_a_wait_cycle_is_named(dev: hcq.Device, backend: FakeBackend) -> None:
    one, two = dev.signal(), dev.signal()
    hcq.ComputeQueue(dev).wait(one, 1).signal(two, 1).submit()
    hcq.CopyQueue(dev).wait(two, 1).signal(one, 1).submit()
    with pytest.raises(hcq.DeviceTimeout, match=re.compile(
            r"Wait cycle: FAKE:0 compute 0 stands at submission 1, which waits for Signal\(0 at 0x\w+\) to reach 1; "
            r"FAKE:0 copy 0 stands at submission 1, which waits for Signal\(0 at 0x\w+\) to reach 1")):
        dev.synchronize(0.05)
    one.value = 1                               # only the host can end it
    dev.synchronize()


def test_a_cycle_through_the_order_of_the_stream(dev: hcq.Device) -> None:
    """The copy engine's signal is behind a copy that waits for the kernels that wait for the signal."""
    gate = dev.signal()
    a, b = dev.alloc(64), dev.alloc(64)
    hcq.ComputeQueue(dev).wait(gate, 1).submit()
    a.copy_from(b)                              # in order: behind the compute queue
    point = hcq.CopyQueue(dev).signal(gate, 1).submit()
    with pytest.raises(hcq.DeviceTimeout, match=r"Wait cycle: .*FAKE:0 copy 0 stands at submission 1, which waits for "
                                                r"FAKE:0 compute 0 to complete submission 1"):
        point.wait(0.05)
    gate.value = 1
    point.wait()


def test_waiting_for_what_is_behind_and_for_nothing(dev: hcq.Device) -> None:
    gate = dev.signal()
    hcq.ComputeQueue(dev).wait(gate, 1).submit()
    with pytest.raises(hcq.DeviceTimeout, match="to reach 1, which nothing that was submitted stores"):
        dev.synchronize(0.05)
    hcq.ComputeQueue(dev).signal(gate, 1).submit()
    with pytest.raises(hcq.DeviceTimeout, match="Wait cycle: FAKE:0 compute 0 stands at submission 1, which waits for"):
        dev.synchronize(0.05)
    gate.value = 1
    dev.synchronize()


def test_races_between_queues(checked: hcq.Device) -> None:
    dev, a, b = checked, checked.alloc(256), checked.alloc(256)
    done = dev.signal()
    hcq.CopyQueue(dev).copy(b, a).submit()
    with pytest.raises(hcq.RaceError, match=re.compile(
            r"1 commands: kernel 'add' .*\(submission 1 of FAKE:0 compute 0\) and 1 commands: copy \(submission 1 of "
            r"FAKE:0 copy 0\) touch the same bytes .*nothing puts them in order: wait for a signal", re.S)):
        hcq.ComputeQueue(dev).exec(dev.program(CODE, "add"), (a, b, np.int32(1)), 1, 64).submit()
    dev.synchronize()                           # the host has waited: everything before is in order
    hcq.ComputeQueue(dev).exec(dev.program(CODE, "add"), (a, b, np.int32(1)), 1, 64).signal(done, 1).submit()
    hcq.CopyQueue(dev).wait(done, 1).fill(a, 0).submit()
    a[:64].copy_from(b[:64])                    # the stream is behind all of it
    hcq.CopyQueue(dev).fill(b[128:], 1).submit()        # other bytes of the same buffer, and the same engine
    dev.synchronize()


def test_reads_do_not_race_and_barriers_order(checked: hcq.Device) -> None:
    dev, a, b, c = checked, *(checked.alloc(256) for _ in range(3))
    add = dev.program(CODE, "add")
    queue = hcq.ComputeQueue(dev).memory_barrier()
    queue.exec(add, (b, a, np.int32(1)), 1, 64).memory_barrier().exec(add, (c, b, np.int32(1)), 1, 64).submit().wait()
    hcq.CopyQueue(dev).copy(b, a).submit()
    dev.synchronize()
    with pytest.raises(hcq.RaceError, match="put a memory_barrier between them"):
        hcq.ComputeQueue(dev).exec(add, (b, a, np.int32(1)), 1, 64).exec(add, (c, b, np.int32(1)), 1, 64).submit()


def test_a_consumer_that_is_submitted_first(checked: hcq.Device) -> None:
    """Its order is known when the producer is submitted: in order, and in a race beside the signal."""
    dev, a, b = checked, checked.alloc(256), checked.alloc(256)
    filled = dev.signal()
    add = dev.program(CODE, "add")
    hcq.ComputeQueue(dev).wait(filled, 1).memory_barrier().exec(add, (b, a, np.int32(1)), 1, 64).submit()
    hcq.CopyQueue(dev).fill(a, 3).signal(filled, 1).submit()
    dev.synchronize()
    assert (b.copyout().view(np.int32) == 4).all()
    hcq.ComputeQueue(dev).wait(filled, 2).memory_barrier().exec(add, (b, a, np.int32(1)), 1, 64).submit()
    hcq.CopyQueue(dev).signal(filled, 2).submit()
    with pytest.raises(hcq.RaceError, match="touch the same bytes"):
        hcq.CopyQueue(dev).fill(a, 3).submit()          # after the signal: too late
    dev.synchronize()
    gate = dev.signal()
    hcq.CopyQueue(dev).wait(gate, 1).fill(a, 5).submit()
    gate.value = 1                                      # the host's own store
    dev.synchronize()


def test_launches_copies_and_graphs_are_in_order(checked: hcq.Device) -> None:
    dev = checked
    add = dev.program(CODE, "add")
    a, b = dev.alloc(256).copyin(np.zeros(64, np.int32)), dev.alloc(256)
    with dev.graph() as g:
        add(b, a, np.int32(1), grid=1, block=64)
        a.copy_from(b)
    for _ in range(3):
        add(b, a, np.int32(1), grid=1, block=64)
        a.copy_from(b)
        g.replay()
    assert (a.copyout().view(np.int32) == 6).all()
    with dev.graph() as kernels:
        add(b, a, np.int32(1), grid=1, block=64)
    kernels.replay()
    with pytest.raises(hcq.RaceError, match="graph of 1 commands: add"):
        hcq.CopyQueue(dev).fill(a, 1).submit()
    dev.debug = False
    hcq.CopyQueue(dev).fill(a, 1).submit()
    hcq.ComputeQueue(dev).exec(add, (a, a, np.int32(1)), 1, 64).submit()
    dev.synchronize()


def test_a_buffer_that_is_read_and_written_by_one_command(checked: hcq.Device) -> None:
    dev = checked
    add = dev.program(CODE, "add")
    a, b = dev.alloc(256).fill(0), dev.alloc(256)
    add(a, a, np.int32(1), grid=1, block=64)
    with dev.graph() as g:
        add(a, a, np.int32(1), grid=1, block=64)
        add(b, a, np.int32(1), grid=1, block=64)
        add(a, b, np.int32(1), grid=1, block=64)
    for _ in range(2):                                  # each behind the one before
        g.replay()
    hcq.ComputeQueue(dev).memory_barrier().exec(add, (a, a, np.int32(1)), 1, 64).submit()
    assert (a.copyout().view(np.int32) == 8).all()
    hcq.CopyQueue(dev).fill(a[:4], 1).fill(a[:4], 2).submit()
    dev.synchronize()
    with pytest.raises(hcq.RaceError, match="put a memory_barrier between them"):       # two kernels still are
        hcq.ComputeQueue(dev).exec(add, (a, a, np.int32(1)), 1, 64).exec(add, (a, a, np.int32(1)), 1, 64).submit()


def test_where_memory_was_freed(checked: hcq.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = checked.alloc(64)
    buffer.free()
    with pytest.raises(hcq.UseAfterFreeError, match=r"the buffer was freed at .*test_debug\.py:\d+; its memory may be"):
        buffer.copyout()
    monkeypatch.setenv("HCQ_DEBUG", "1")
    assert hcq.Device(FakeBackend()).debug
