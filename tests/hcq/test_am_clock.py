"""Timestamps on a card whose clock is modelled."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import pytest
from code_objects import compile_opencl

import hcq
import mock
from amdrv.backend import open_backend
from amdrv.hal.mock import MockHal
from mock import isa
from mock.isa.clock import constants as c
from mock.machine import parse

SOURCE = """
#define GROUP __builtin_amdgcn_workgroup_id_x()
#define GLOBAL (GROUP * __builtin_amdgcn_workgroup_size_x() + __builtin_amdgcn_workitem_id_x())
__kernel void add(__global float4* out, __global const float4* a, float k) { out[GLOBAL] = a[GLOBAL] + k; }
__kernel void spin(__global float* out, int n) {
    float x = GLOBAL;
    for (int i = 0; i < n; i++) x = __builtin_fmaf(x, x, 1.0f);
    out[GLOBAL] = x;
}
__kernel void now(__global ulong* out) { out[GLOBAL] = __builtin_amdgcn_s_sendmsg_rtnl(0x83); }
"""
BYTES = 4 << 20


@pytest.fixture(scope="module")
def code() -> bytes:
    return compile_opencl(SOURCE)


@pytest.fixture
def machine() -> Iterator[mock.Machine]:
    with mock.Machine(parse("gfx1100:vram=256M,clock=model")) as made:
        yield made


@pytest.fixture
def am(machine: mock.Machine) -> Iterator[hcq.Device]:
    with hcq.Device(open_backend(hal=MockHal(machine))) as device:
        yield device


def timed(am: hcq.Device, program: hcq.Program, args: tuple[object, ...], grid: int, block: int) -> float:
    begin, end, done = am.signal(), am.signal(), am.signal()
    queue = hcq.ComputeQueue(am).timestamp(begin).exec(program, args, grid, block).timestamp(end).signal(done, 1)
    queue.submit()
    done.wait(1)
    return am.seconds(begin, end)


def test_timestamps_around_a_kernel_are_its_modelled_duration(am: hcq.Device, code: bytes) -> None:
    add, a, b = am.program(code, "add"), am.alloc(BYTES), am.alloc(BYTES)
    a.copyin(np.zeros(BYTES, np.uint8))
    seconds = [timed(am, add, (b, a, np.float32(1)), BYTES // 4096, 256) for _ in range(3)]
    assert len(set(seconds)) == 1
    least = BYTES / c.VRAM_BYTES_PER_CYCLE / c.CLOCK_HZ
    assert least < seconds[0] - c.DISPATCH_CYCLES / c.CLOCK_HZ < 1.3 * least
    # The same kernel stand-alone, its buffers at addresses with the same low bits.
    raw = np.zeros(2 * BYTES + 4096, np.uint8)
    at = -(-int(raw.ctypes.data) // 4096) * 4096
    kernarg = struct.pack("<QQf", at + BYTES, at, 1)
    alone = isa.run(code, kernel="add", grid=(BYTES // 4096,), block=(256,), kernarg=kernarg, clock=True,
                    executor="jit")
    assert alone.clock is not None and seconds[0] == pytest.approx(alone.clock.seconds, abs=2e-8)


def test_longer_kernels_take_longer_by_the_model_alone(am: hcq.Device, code: bytes) -> None:
    spin, out = am.program(code, "spin"), am.alloc(4096)
    short, long = (timed(am, spin, (out, n), 1, 32) for n in (100, 1100))
    per_turn = (long - short) * c.CLOCK_HZ / 1000
    assert c.LATENCY["valu"] <= per_turn < 4 * c.LATENCY["valu"]


def test_kernels_that_look_at_the_clock_see_the_time_of_the_timestamps(am: hcq.Device, code: bytes) -> None:
    now, out = am.program(code, "now"), am.alloc(8 * 256)
    begin, end, done = am.signal(), am.signal(), am.signal()
    hcq.ComputeQueue(am).timestamp(begin).exec(now, (out,), 4, 64).timestamp(end).signal(done, 1).submit()
    done.wait(1)
    seen = out.copyout().view(np.uint64)
    assert begin.value < seen.min() <= seen.max() <= end.value


def test_copies_have_the_bandwidth_of_their_way(am: hcq.Device) -> None:
    vram, other = am.alloc(BYTES), am.alloc(BYTES)
    begin, between, end, done = (am.signal() for _ in range(4))
    hcq.CopyQueue(am).timestamp(begin).copy(other, vram).timestamp(between).fill(vram, 0).timestamp(end) \
        .signal(done, 1).submit()
    done.wait(1)
    expected = c.SDMA_PACKET_S + BYTES / c.SDMA_BYTES_PER_S["local"]
    assert am.seconds(begin, between) == pytest.approx(expected, abs=2e-8)
    assert am.seconds(between, end) == pytest.approx(expected, abs=2e-8)


def test_copies_over_the_bus_are_slower(am: hcq.Device) -> None:
    vram, host = am.alloc(BYTES), am.alloc(BYTES, host=True)
    begin, between, end, done = (am.signal() for _ in range(4))
    hcq.CopyQueue(am).timestamp(begin).copy(host, vram).timestamp(between).copy(vram, host).timestamp(end) \
        .signal(done, 1).submit()
    done.wait(1)
    for seconds, way in ((am.seconds(begin, between), "to_host"), (am.seconds(between, end), "from_host")):
        packets = -(-BYTES // (4 << 20)) + 1        # at most: the driver divides long copies
        least = BYTES / c.SDMA_BYTES_PER_S[way]
        assert least < seconds <= least + packets * c.SDMA_PACKET_S


def test_engines_meet_where_they_wait(am: hcq.Device, code: bytes) -> None:
    """A copy that waits for a kernel begins after it; nothing but the two takes time."""
    spin, a, b = am.program(code, "spin"), am.alloc(4096), am.alloc(4096)
    alone = timed(am, spin, (a, 500), 1, 32)
    begin, end, ready, done = (am.signal() for _ in range(4))
    hcq.CopyQueue(am).wait(ready, 1).copy(b, a).timestamp(end).signal(done, 1).submit()
    hcq.ComputeQueue(am).timestamp(begin).exec(spin, (a, 500), 1, 32).signal(ready, 1).submit()
    done.wait(1)
    expected = alone + c.SDMA_PACKET_S + 4096 / c.SDMA_BYTES_PER_S["local"]
    assert am.seconds(begin, end) == pytest.approx(expected, abs=1e-7)


def test_the_counter_moves_when_it_is_looked_at(machine: mock.Machine) -> None:
    board = machine.gpus[0]
    first, second = board.clock(), board.clock()
    assert second == first + 1


def test_the_wall_clock_is_the_default() -> None:
    with mock.Machine([mock.Gpu()]) as machine:
        assert not machine.gpus[0].time.modelled
    with pytest.raises(ValueError, match="clock='sun': must be one of wall, model"):
        mock.Gpu(clock="sun")
