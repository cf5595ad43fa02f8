"""Null execution: what it performs, what it passes over, and that the card is whole again after it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import hcq
import mock
from amdrv.backend import open_backend
from amdrv.hal.mock import MockHal
from bench.hcq import compiled
from mock.nullexec import NullExecution


@pytest.fixture
def card() -> Iterator[tuple[mock.board.Board, hcq.Device]]:
    with mock.Machine([mock.Gpu("gfx1100", vram="128M")]) as machine, \
            hcq.Device(open_backend(hal=MockHal(machine))) as device:
        yield machine.gpus[0], device


def test_launches_and_copies_do_nothing_but_end(card: tuple[mock.board.Board, hcq.Device]) -> None:
    board, dev = card
    program = dev.program(compiled(), "k")
    out, a, b = (dev.alloc(4096).copyin(np.full(1024, value, np.float32)) for value in (1, 2, 3))
    program(out, a, b, np.float32(10), grid=1, block=64)
    assert out.copyout(np.empty(1, np.float32))[0] == 23
    out.fill(0)
    dev.synchronize()
    kernels = board.counters["kernels"]
    with NullExecution(board):
        for _ in range(300):
            program(out, a, b, np.float32(10), grid=1, block=64)
        a.copy_from(b)
        gate, done, begin, end = (dev.signal() for _ in range(4))
        hcq.ComputeQueue(dev).timestamp(begin).wait(gate, 3).timestamp(end).signal(done, 9).submit()
        hcq.CopyQueue(dev).wait(done, 9).signal(gate, 4).submit()       # behind the other, and not the other way round
        assert gate.value == 0
        gate.value = 3
        dev.synchronize()
        assert done.value == 9 and gate.value == 4 and begin.value <= end.value
        with dev.graph() as g:
            for _ in range(60):                         # enough for an indirect buffer
                program(out, a, b, np.float32(1), grid=1, block=64)
            out.copy_from(a)
        for _ in range(5):
            g.replay()
        dev.synchronize()
        assert board.counters["kernels"] == kernels     # none of them ran
    assert not out.copyout().any() and a.copyout(np.empty(1, np.float32))[0] == 2
    program(out, a, b, np.float32(10), grid=1, block=64)
    g.replay()
    assert out.copyout(np.empty(1, np.float32))[0] == 2 and not board.notes


def test_held_engines_stand_still(card: tuple[mock.board.Board, hcq.Device]) -> None:
    board, dev = card
    with NullExecution(board) as null:
        signal = dev.signal()
        with null.held():
            hcq.ComputeQueue(dev).signal(signal, 1).submit()
            with pytest.raises(hcq.DeviceTimeout):
                signal.wait(1, timeout=0.05)
        signal.wait(1)
    dev._stuck = False


def test_aql_queues(card: tuple[mock.board.Board, hcq.Device]) -> None:
    """Barriers, waits for values, completion signals, PM4 behind packets; around the ring; and the card after it."""
    board, dev = card
    program = dev.program(compiled(), "k")
    out, a, b = (dev.alloc(4096).copyin(np.full(1024, value, np.float32)) for value in (1, 2, 3))
    dev.synchronize()
    arguments = out, a, b, np.float32(10)
    hcq.AqlQueue(dev).memory_barrier().exec(program, arguments, 1, 64).submit().wait()
    kernels = board.counters["kernels"]
    slots = dev._timelines["aql"][0].queue.ring.slots       # type: ignore[attr-defined]
    with NullExecution(board) as null:
        gate, done, left, begin = dev.signal(), dev.signal(), dev.signal(3), dev.signal()
        hcq.AqlQueue(dev).wait(gate, 2).timestamp(begin).exec(program, arguments, 1, 64, completion=left).exec(
            program, arguments, 1, 64, completion=left).signal(done, 5).submit()
        assert done.value == 0 and left.value == 3
        held = hcq.AqlQueue(dev).barrier_and(left).submit()
        gate.value = 2
        done.wait(5)
        assert left.value == 1 and begin.value and not held.done
        left.value = 0
        held.wait()
        for _ in range(slots // 100 + 3):
            queue = hcq.AqlQueue(dev)
            for _ in range(98):
                queue.memory_barrier()
            queue.submit()
        dev.synchronize()
        with null.held():
            late = hcq.AqlQueue(dev).signal(done, 6).submit()
            assert not late.done
        late.wait()
        assert board.counters["kernels"] == kernels
    assert out.copyout(np.empty(1, np.float32))[0] == 23
    out.fill(0)
    dev.synchronize()
    hcq.AqlQueue(dev).memory_barrier().exec(program, arguments, 1, 64).submit().wait()
    assert out.copyout(np.empty(1, np.float32))[0] == 23 and not board.notes
