"""hcq on the AM backend and the software card: kernels from Debian's clang and from llvmlite, run as machine code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import buffer_model
import numpy as np
import pytest
from code_objects import compile_opencl
from hypothesis import HealthCheck, settings

import hcq
import mock
from amdrv.backend import AmBackend, open_backend
from amdrv.errors import CardBusyError, GpuFault, NoCardError
from amdrv.hal.mock import MockHal

ROOT = Path(__file__).parents[2]

SOURCE = """
#define GROUP __builtin_amdgcn_workgroup_id_x()
#define ITEM __builtin_amdgcn_workitem_id_x()
#define GLOBAL (GROUP * __builtin_amdgcn_workgroup_size_x() + ITEM)
#define BARRIER __builtin_amdgcn_fence(__ATOMIC_RELEASE, "workgroup"); __builtin_amdgcn_s_barrier(); \
                __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "workgroup")
__constant int table[4] = {10, 20, 30, 40};

__kernel void vector_add(__global float* out, __global const float* a, __global const float* b, int n) {
    int i = GLOBAL;
    if (i < n) out[i] = a[i] + b[i];
}
__kernel void add(__global int* out, __global const int* a, int k) { out[GLOBAL] = a[GLOBAL] + k; }
__kernel void axpy(__global float* y, float a, __global const float* x) { int i = GLOBAL; y[i] = a * x[i] + y[i]; }
__kernel void reverse(__global int* a, __local int* dynamic, int k) {
    __local int fixed[64];
    fixed[ITEM] = a[GLOBAL]; dynamic[ITEM] = k * ITEM;
    BARRIER;
    a[GLOBAL] = fixed[63 - ITEM] + dynamic[63 - ITEM];
}
__kernel void spill(__global int* a, int k) {
    volatile int x[64];
    for (int i = 0; i < 64; i++) x[i] = i * k + (int)GLOBAL;
    a[GLOBAL] = x[a[GLOBAL] & 63];
}
__kernel void spill_more(__global int* a, int k) {
    volatile int x[600];
    for (int i = 0; i < 600; i++) x[i] = i * k + (int)GLOBAL;
    a[GLOBAL] = x[a[GLOBAL] % 600];
}
__kernel void hidden(__global uint* out) {
    __constant uint* p = (__constant uint*)__builtin_amdgcn_implicitarg_ptr();
    if (GROUP == 0 && ITEM == 0) for (int i = 0; i < 18; i++) out[i] = p[i];
}
__kernel void packet(__global uint* out) {
    __constant uint* p = (__constant uint*)__builtin_amdgcn_dispatch_ptr();
    if (GROUP == 0 && ITEM == 0) for (int i = 0; i < 12; i++) out[i] = p[i];
}
__kernel void three(__global int* out) {
    int x = GROUP, y = __builtin_amdgcn_workgroup_id_y(), z = __builtin_amdgcn_workgroup_id_z();
    int i = ITEM, j = __builtin_amdgcn_workitem_id_y(), k = __builtin_amdgcn_workitem_id_z();
    out[((z * 3 + y) * 2 + x) * 24 + (k * 3 + j) * 4 + i] = x + 10 * y + 100 * z + 1000 * i + 10000 * j + 100000 * k;
}
__kernel void constants(__global int* a) { a[GLOBAL] = table[a[GLOBAL] & 3]; }
__kernel void types(__global double* out, char c, short s, long l, double d, float4 v) {
    out[0] = c; out[1] = s; out[2] = l; out[3] = d; out[4] = v.w;
}
__kernel void wild(__global int* a) { *(__global int*)(a[0] * 4096L) = 1; }
"""


@pytest.fixture(scope="module")
def code() -> bytes:
    return compile_opencl(SOURCE)


def ints(buffer: hcq.Buffer) -> np.ndarray:
    return buffer.copyout().view(np.int32)


def filled(dev: hcq.Device, values: Any) -> hcq.Buffer:
    array = np.asarray(values)
    return dev.alloc(array.nbytes).copyin(array)


# --- the copy engine


@pytest.mark.parametrize("nbytes", [1, 3, 4096, 100_001, 5_000_001])
def test_bytes_go_in_and_come_out(am: hcq.Device, nbytes: int) -> None:
    data = np.random.default_rng(nbytes).integers(0, 256, nbytes, np.uint8)
    buffer = am.alloc(nbytes).copyin(data)
    assert np.array_equal(buffer.copyout(), data)
    other = am.alloc(nbytes).copy_from(buffer)
    assert np.array_equal(other.copyout(), data)


def test_fill_and_unaligned_copies(am: hcq.Device) -> None:
    buffer = am.alloc(4096).fill(0x01020304)
    assert (buffer.copyout().view(np.uint32) == 0x01020304).all()
    target = am.alloc(4096).fill(0)
    hcq.CopyQueue(am).copy(target[5:1006], buffer[3:1004]).submit()
    expected = np.zeros(4096, np.uint8)
    expected[5:1006] = np.tile(np.array([4, 3, 2, 1], np.uint8), 1024)[3:1004]
    assert np.array_equal(target.copyout(), expected)


# --- kernels


@pytest.mark.parametrize("version", [4, 5, 6])
def test_vector_add_of_every_code_object_version(am: hcq.Device, version: int) -> None:
    program = am.program(compile_opencl(SOURCE, f"-mcode-object-version={version}"), "vector_add")
    rng = np.random.default_rng(version)
    a, b = rng.standard_normal((2, 1000), np.float32)
    out = am.alloc(a.nbytes)
    program(out, filled(am, a), filled(am, b), 1000, grid=4, block=256)
    assert np.array_equal(out.copyout(np.empty_like(a)), a + b)


def test_waves_of_64(am: hcq.Device) -> None:
    program = am.program(compile_opencl(SOURCE, "-mwavefrontsize64"), "add")
    assert program.info.wave_size == 64
    out = am.alloc(4 * 512)
    program(out, filled(am, np.arange(512, dtype=np.int32)), 7, grid=4, block=128)
    assert np.array_equal(ints(out), np.arange(512) + 7)


def test_three_dimensions(am: hcq.Device, code: bytes) -> None:
    out = am.alloc(4 * 2 * 3 * 2 * 24)
    am.program(code, "three")(out, grid=(2, 3, 2), block=(4, 3, 2))
    z, y, x, k, j, i = np.indices((2, 3, 2, 2, 3, 4))
    assert np.array_equal(ints(out), (x + 10 * y + 100 * z + 1000 * i + 10000 * j + 100000 * k).ravel())


def test_local_memory_static_and_dynamic(am: hcq.Device, code: bytes) -> None:
    data = np.arange(256, dtype=np.int32) * 3
    buffer = filled(am, data)
    am.program(code, "reverse")(buffer, 256, 1000, grid=4, block=64)
    expected = data.reshape(4, 64)[:, ::-1] + 1000 * np.arange(64)[::-1]
    assert np.array_equal(ints(buffer), expected.ravel())


def test_scratch_that_grows(am: hcq.Device, code: bytes) -> None:
    rng = np.random.default_rng(3)
    for name, size in (("spill", 64), ("spill_more", 600), ("spill", 64)):
        data = rng.integers(0, 10_000, 512, np.int32)
        buffer = filled(am, data)
        program = am.program(code, name)
        assert program.kernel.private_bytes >= 4 * size
        program(buffer, 5, grid=4, block=128)
        assert np.array_equal(ints(buffer), data % size * 5 + np.arange(512))


def test_hidden_arguments(am: hcq.Device, code: bytes) -> None:
    out = am.alloc(72)
    am.program(code, "hidden")(out, grid=(5, 6, 7), block=(8, 4, 2))
    words = out.copyout()
    assert words[0:12].view(np.uint32).tolist() == [5, 6, 7]
    assert words[12:24].view(np.uint16).tolist() == [8, 4, 2, 0, 0, 0]
    assert words[40:64].view(np.uint64).tolist() == [0, 0, 0] and words[64:66].view(np.uint16)[0] == 3


def test_the_dispatch_packet(am: hcq.Device, code: bytes) -> None:
    out = am.alloc(48)
    program = am.program(code, "packet")
    program(out, grid=(3, 2), block=(16, 2))
    words = out.copyout().view(np.uint32)
    assert words[1:7].tolist() == [16 | 2 << 16, 1, 48, 4, 1, 0]
    assert words[8:10].view(np.uint64)[0] == program.descriptor_address


def test_values_of_every_kind(am: hcq.Device, code: bytes) -> None:
    out = am.alloc(40)
    am.program(code, "types")(out, -5, -300, -(1 << 40), 1e-300, np.array([1, 2, 3, 4.5], np.float32))
    assert out.copyout(np.empty(5)).tolist() == [-5, -300, -(1 << 40), 1e-300, 4.5]


def test_constants_of_linked_and_relocatable_objects(am: hcq.Device, code: bytes) -> None:
    for data in (code, compile_opencl(SOURCE, linked=False)):
        buffer = filled(am, np.arange(64, dtype=np.int32))
        am.program(data, "constants")(buffer, block=64)
        assert np.array_equal(ints(buffer), np.tile([10, 20, 30, 40], 16))


def test_a_submission_larger_than_the_ring(am: hcq.Device) -> None:
    """Fills of 4 bytes, 5 words each: 75,000 words for a ring of 65,536."""
    count = 15_000
    buffer, queue = am.alloc(4 * count), hcq.CopyQueue(am)
    for i in range(count):
        queue.fill(buffer[4 * i:4 * i + 4], i)
    queue.submit()
    assert np.array_equal(buffer.copyout().view(np.uint32), np.arange(count))


def test_many_launches_in_a_row(am: hcq.Device, code: bytes) -> None:
    """More than a timeline's records, and each depends on the one before."""
    add = am.program(code, "add")
    a = filled(am, np.zeros(64, np.int32))
    for _ in range(600):
        add(a, a, 1, block=64)
    assert (ints(a) == 600).all()


def test_an_object_of_llvmlite(am: hcq.Device) -> None:
    llvm = pytest.importorskip("llvmlite.binding")
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple("amdgcn-amd-amdhsa").create_target_machine(cpu="gfx1100", opt=2)
    program = am.program(machine.emit_object(llvm.parse_assembly("""
        target triple = "amdgcn-amd-amdhsa"
        @offset = addrspace(1) constant i32 1000
        declare i32 @llvm.amdgcn.workitem.id.x()
        define amdgpu_kernel void @k(ptr addrspace(1) %out, i32 %v) {
          %i = call i32 @llvm.amdgcn.workitem.id.x()
          %p = getelementptr i32, ptr addrspace(1) %out, i32 %i
          %c = load volatile i32, ptr addrspace(1) @offset
          %x = add i32 %i, %v
          %y = add i32 %x, %c
          store i32 %y, ptr addrspace(1) %p
          ret void
        }""")))
    out = am.alloc(128)
    program(out, np.int32(5), block=32)
    assert np.array_equal(ints(out), np.arange(32) + 1005)
    with pytest.raises(hcq.ArgumentTypeError, match="does not say what type it is"):
        program(out, 5, block=32)


def test_wrong_launches_leave_everything_as_it_was(am: hcq.Device, code: bytes) -> None:
    add = am.program(code, "add")
    a = filled(am, np.arange(64, dtype=np.int32))
    for error, args, sizes in ((hcq.LaunchError, (a, a), {}), (TypeError, (a, np.zeros(64), 1), {}),
                               (ValueError, (a, a, np.int64(1)), {}), (hcq.LaunchError, (a, a, 1), {"block": 2048}),
                               (hcq.LaunchError, (a, a, 1), {"grid": 0})):
        with pytest.raises(error):
            add(*args, **sizes)
    add(a, a, 1, block=64)
    assert np.array_equal(ints(a), np.arange(64) + 1)


# --- queues by hand


def test_engines_wait_for_each_other(am: hcq.Device, code: bytes) -> None:
    add = am.program(code, "add")
    a, b, c = (am.alloc(256) for _ in range(3))
    s1, s2, s3, t0, t1 = (am.signal() for _ in range(5))
    last = hcq.CopyQueue(am).wait(s2, 5).copy(c, b).timestamp(t1).signal(s3, 1)
    kernels = hcq.ComputeQueue(am).wait(s1, 3).timestamp(t0).memory_barrier().exec(add, (b, a, 2), 1, 64).signal(s2, 5)
    kernels.submit()
    hcq.CopyQueue(am).fill(a, 40).signal(s1, 3).submit()
    last.submit()
    s3.wait(1)
    assert (ints(c) == 42).all()
    assert 0 < am.seconds(t0, t1) < 60
    assert "WAIT_REG_MEM" in kernels.dump() and "DISPATCH_DIRECT" in kernels.dump()
    assert "COMPUTE_PGM_LO" in kernels.dump() and "COPY_LINEAR" in last.dump()


def test_both_copy_engines(am: hcq.Device) -> None:
    data = np.random.default_rng(0).integers(0, 256, 1 << 16, np.uint8)
    source = filled(am, data)
    am.synchronize()
    targets = [am.alloc(1 << 16) for _ in range(2)]
    points = [hcq.CopyQueue(am, index).copy(target, source).submit() for index, target in enumerate(targets)]
    for point in points:
        point.wait()
    for target in targets:
        assert np.array_equal(target.copyout(), data)


def test_a_queue_that_waits_for_nothing_is_named(am: hcq.Device) -> None:
    gate = am.signal()
    point = hcq.CopyQueue(am).wait(gate, 1).submit()
    queue = f"{am.name} copy 0"
    with pytest.raises(hcq.DeviceTimeout, match=rf"{queue} to complete submission \d+. Incomplete: {queue}: "
                                                r"submission \d+ \(1 commands: wait\) is not complete"):
        point.wait(0.05)
    gate.value = 1
    point.wait()


def test_a_graph(am: hcq.Device, code: bytes) -> None:
    add, axpy = am.program(code, "add"), am.program(code, "axpy")
    a, b = filled(am, np.zeros(64, np.int32)), am.alloc(256)
    y, x = filled(am, np.ones(64, np.float32)), filled(am, np.arange(64, dtype=np.float32))
    with am.graph() as g:
        add(b, a, g.input("k", np.int32(1)), block=64)
        a.copy_from(b)
        axpy(y, np.float32(2), x, block=64)
    for k in (1, 2, 3):
        g.replay(k=np.int32(k))
    g.replay()
    assert (ints(a) == 7).all()
    assert np.array_equal(y.copyout(np.empty(64, np.float32)), 1 + 8 * np.arange(64, dtype=np.float32))


# --- the card as a whole


class AmModel(buffer_model.BufferModel):
    shared: hcq.Device
    code: bytes

    @classmethod
    def open_device(cls) -> hcq.Device:
        return cls.shared

    @classmethod
    def load_add(cls, device: hcq.Device) -> hcq.Program:
        return device.program(cls.code, "add")


def test_the_state_machine(am: hcq.Device, code: bytes) -> None:
    from hypothesis.stateful import run_state_machine_as_test
    AmModel.shared, AmModel.code = am, code
    run_state_machine_as_test(AmModel, settings=settings(
        max_examples=8, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)))


@pytest.fixture
def hal() -> Iterator[MockHal]:
    """A machine of its own with two cards."""
    machine = mock.Machine(gpus=[mock.Gpu("gfx1100", vram="256M")] * 2)
    yield MockHal(machine)
    machine.close()


@pytest.fixture
def pair(hal: MockHal) -> Iterator[list[hcq.Device]]:
    devices = [hcq.Device(open_backend(index, hal=hal)) for index in range(2)]
    yield devices
    for device in devices:
        device.backend.close()


def test_two_cards_and_their_counts(hal: MockHal, pair: list[hcq.Device], code: bytes) -> None:
    for index, dev in enumerate(pair):
        a = filled(dev, np.arange(256, dtype=np.int32))
        for _ in range(index + 2):
            dev.program(code, "add")(a, a, 10, grid=4, block=64)
        assert np.array_equal(ints(a), np.arange(256) + 10 * (index + 2))
        dev.synchronize()
        assert isinstance(dev.backend, AmBackend)
        ours, theirs = dev.backend.device.statistics, hal.machine.gpus[index].counters
        for key in ("kernels", "pm4_packets", "sdma_packets", "copied_bytes", "page_table_entries", "tlb_flushes"):
            assert ours[key] == theirs[key] > 0, key
        assert ours["kernels"] == index + 2 and ours["copied_bytes"] == 2048
    with pytest.raises(hcq.LaunchError, match=r"is a buffer of AM:0; the kernel runs on AM:1"):
        pair[1].program(code, "add")(pair[0].alloc(4), None, 1)


def test_memory_exhausted(pair: list[hcq.Device]) -> None:
    dev = pair[0]
    kept = []
    with pytest.raises(MemoryError, match="VRAM"):
        for _ in range(100):
            kept.append(dev.alloc(16 << 20))
    count = len(kept)
    assert count >= 8
    kept.clear()
    kept = [dev.alloc(16 << 20) for _ in range(count)]
    kept.clear()
    assert dev.alloc(60 << 20).fill(1).copyout(np.empty(1, np.uint32))[0] == 1     # the cache was given back


def test_a_wild_pointer_is_one_clear_fault(hal: MockHal, pair: list[hcq.Device], code: bytes) -> None:
    dev, other = pair
    dev.timeout = 10
    wild = dev.program(code, "wild")
    wild(filled(dev, np.full(1, 0x7ead, np.int32)))
    with pytest.raises(GpuFault, match="0x7ead000"):
        dev.synchronize()
    with pytest.raises(hcq.DeviceFailedError, match=r"AM:0 failed earlier: .*0x7ead000"):
        dev.alloc(4)
    dev.close()
    pair[0] = again = hcq.Device(open_backend(0, hal=hal))      # the card boots again and works
    assert (ints(filled(again, np.arange(4, dtype=np.int32))) == np.arange(4)).all()
    buffer = filled(again, np.arange(64, dtype=np.int32))
    again.program(code, "add")(buffer, buffer, 3, block=64)
    assert np.array_equal(ints(buffer), np.arange(64) + 3)
    assert (ints(filled(other, np.arange(4, dtype=np.int32))) == np.arange(4)).all()    # the other card goes on


def test_a_process_may_simply_end() -> None:
    """The card is given back at exit, before the machine below it goes."""
    script = "import hcq; dev = hcq.open('AM'); buf = dev.alloc(4096).fill(1); print(buf.copyout()[0])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=ROOT,
                          env={**os.environ, "AMDRV_HAL": "mock"}, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_a_process_may_end_with_cards_opened_in_any_order() -> None:
    """What stands upon a card ends before it, although another card was opened after both."""
    script = ("import hcq; from amdrv.device import Device\n"
              "dev = hcq.open('AM:0'); buf = dev.alloc(4096); other = Device.open(index=1); last = hcq.open('AM:2')")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=ROOT,
                          env={**os.environ, "AMDRV_HAL": "mock", "AMDRV_MOCK": "gfx1100:count=3"}, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(("harvest", "units"), [({(0, 0): 0b0101, (3, 1): 0b1000}, 90),
                                                ({(se, sa): 0xf for se in range(6) for sa in range(2)
                                                  if (se, sa) != (4, 1)} | {(4, 1): 0b1110}, 2)])
def test_harvested_cards(harvest: dict[tuple[int, int], int], units: int, code: bytes) -> None:
    """Fewer WGPs, down to a single one: launches name those that are there, and scratch is divided among them."""
    machine = mock.Machine(gpus=[mock.Gpu("gfx1100", vram="512M", harvest=harvest)])
    dev = hcq.Device(open_backend(hal=MockHal(machine)))
    assert dev.properties.compute_units == units
    data = np.arange(2048, dtype=np.int32) * 7
    buffer = filled(dev, data)
    dev.program(code, "spill")(buffer, 3, grid=8, block=256)
    dev.program(code, "add")(buffer, buffer, 1, grid=8, block=256)
    assert np.array_equal(ints(buffer), data % 64 * 3 + np.arange(2048) + 1)
    dev.close()
    machine.close()


def test_what_cannot_be_opened_or_loaded(hal: MockHal, pair: list[hcq.Device], code: bytes) -> None:
    """One clear error each, and the card that is open goes on."""
    dev = pair[0]
    with pytest.raises(CardBusyError, match="already open"):
        open_backend(0, hal=hal)
    with pytest.raises(NoCardError, match="no AMD GPU of number 5"):
        open_backend(5, hal=hal)
    with pytest.raises(hcq.CodeObjectError, match=r"for gfx1030, AM:0 is gfx1100; compile with -mcpu=gfx1100"):
        dev.program(compile_opencl("__kernel void k() {}", arch="gfx1030"))
    with pytest.raises(hcq.CodeObjectError, match="not an ELF file"):
        dev.program(b"not a code object")
    with pytest.raises(hcq.CodeObjectError, match="truncated"):
        dev.program(code[:len(code) // 2])
    with pytest.raises(hcq.CodeObjectError, match="no kernel 'sub' in the code object; it has: add, axpy, constants"):
        dev.program(code, "sub")
    buffer = filled(dev, np.arange(64, dtype=np.int32))
    dev.program(code, "add")(buffer, buffer, 1, block=64)
    assert np.array_equal(ints(buffer), np.arange(64) + 1)
