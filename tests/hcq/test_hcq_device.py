"""The core of hcq on a device of NumPy and threads: order, memory, arguments, graphs, and every error's message."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest
from code_objects import build, kernel_metadata
from fake_backend import FakeBackend, FakeFault, FakeOutOfMemory
from fake_kernels import CODE, FUNCTIONS

import hcq
from hcq import registry
from hcq.memory import size_class

# --- buffers


@pytest.mark.parametrize("nbytes", [1, 4096, 100_001, 9 << 20])
def test_what_goes_in_comes_out(dev: hcq.Device, nbytes: int) -> None:
    data = np.random.default_rng(nbytes).integers(0, 256, nbytes, np.uint8)
    buffer = dev.alloc(nbytes)
    assert buffer.copyin(data) is buffer
    data_before = data.copy()
    data[:] = 0                                 # the array is the caller's again
    assert np.array_equal(buffer.copyout(), data_before)


def test_arrays_of_any_layout_and_type(dev: hcq.Device) -> None:
    source = np.arange(24, dtype=np.float64).reshape(4, 6)
    buffer = dev.alloc(24 * 8)
    for array in (source.T, source[:, ::2], source[::-1], np.asfortranarray(source), source[1:2]):
        buffer.copyin(array)
        out = np.zeros_like(array)
        assert buffer.copyout(out) is out
        assert np.array_equal(out, array)
    scattered = np.zeros((4, 12), np.float64)
    buffer.copyin(source).copyout(scattered[:, ::2])
    assert np.array_equal(scattered[:, ::2], source) and not scattered[:, 1::2].any()
    buffer.copyin(3.5)
    assert buffer.copyout(np.empty(1))[0] == 3.5
    assert buffer.copyout().dtype == np.uint8 and buffer.copyout().size == 192


def test_array_errors(dev: hcq.Device) -> None:
    buffer = dev.alloc(16)
    with pytest.raises(hcq.BufferError, match=r"copyin of 20 bytes \(int32\[5\]\) with a buffer of 16"):
        buffer.copyin(np.zeros(5, np.int32))
    with pytest.raises(ValueError, match="copyout of 17 bytes"):
        buffer.copyout(np.zeros(17, np.uint8))
    with pytest.raises(hcq.BufferError, match="holds Python objects"):
        buffer.copyin(np.array([object()]))
    constant = np.zeros(4)[:2]
    constant.flags.writeable = False
    with pytest.raises(hcq.BufferError, match="read-only"):
        buffer.copyout(constant)
    with pytest.raises(hcq.BufferError, match="not a bytearray"):
        buffer.copyout(bytearray(16))  # type: ignore[arg-type]
    for size in (0, -4, 1.5, True, "4"):
        with pytest.raises(hcq.BufferError, match="positive number of bytes"):
            dev.alloc(size)  # type: ignore[arg-type]


def test_views(dev: hcq.Device) -> None:
    buffer = dev.alloc(100).copyin(np.arange(100, dtype=np.uint8))
    view = buffer[10:20]
    assert view.nbytes == len(view) == 10 and view.address == buffer.address + 10
    assert list(view[2:-2].copyout()) == [12, 13, 14, 15, 16, 17]
    view.copyin(np.full(10, 7, np.uint8))
    assert list(buffer.copyout()[8:22]) == [8, 9] + [7] * 10 + [20, 21]
    del buffer
    gc.collect()
    assert view.copyout()[0] == 7               # the view keeps the memory
    for part in (slice(4, 4), slice(0, 11), slice(5, 3), slice(-11, 2)):
        with pytest.raises(hcq.BufferError, match="no part of a buffer of 10 bytes"):
            view[part]
    with pytest.raises(hcq.BufferError, match="no step"):
        view[0:4:2]
    with pytest.raises(hcq.BufferError, match="sliced"):
        view[3]  # type: ignore[index]


def test_host_buffers_have_a_view(dev: hcq.Device) -> None:
    host = dev.alloc(64, host=True)
    host.view[:] = np.arange(64)
    assert np.array_equal(host.copyout(), np.arange(64))
    assert list(dev.alloc(8).copy_from(host[8:16]).copyout()) == list(range(8, 16))
    host.copyin(np.ones(64, np.uint8))
    dev.synchronize()
    assert host.view.sum() == 64 and host.host
    with pytest.raises(hcq.BufferError, match="no window"):
        dev.alloc(8).view  # noqa: B018


def test_use_after_free(dev: hcq.Device, code: bytes) -> None:
    buffer = dev.alloc(16)
    view = buffer[0:4]
    host = dev.alloc(16, host=True)
    queue = hcq.CopyQueue(dev).fill(view, 1)
    buffer.free()
    buffer.free()
    host.free()
    add = dev.program(code, "add")
    for use in (buffer.copyout, lambda: view.copyin(np.zeros(1)[:0]), lambda: view[0:2], lambda: view.address,
                lambda: host.view, lambda: add(buffer, None, 1), lambda: buffer.fill(0), queue.submit):
        with pytest.raises(hcq.UseAfterFreeError, match="was freed"):
            use()
    assert "freed" in repr(buffer)


def test_freed_memory_is_used_again_and_not_too_early(dev: hcq.Device, backend: FakeBackend) -> None:
    first = dev.alloc(1 << 20).copyin(np.full(1 << 20, 1, np.uint8))
    address = first.address
    backend.delay = 0.02
    result = dev.alloc(1 << 20).copy_from(first)
    del first                                   # the copy has not run
    second = dev.alloc(1 << 20)
    assert second.address == address            # no allocation: in the device's order it is safe
    second.copyin(np.full(1 << 20, 2, np.uint8))
    assert result.copyout()[0] == 1
    host = dev.alloc(4096, host=True).copyin(np.zeros(4096, np.uint8))
    hcq.CopyQueue(dev).copy(host, second[:4096]).submit()
    address = host.address
    del host
    fresh = dev.alloc(4096, host=True)
    assert fresh.address != address             # the CPU could write at once
    dev.synchronize()
    assert dev.alloc(4096, host=True).address == address


def test_low_level_queues_wait_for_the_memorys_earlier_life(dev: hcq.Device, backend: FakeBackend) -> None:
    gate = dev.signal()
    old = dev.alloc(8192)
    hcq.ComputeQueue(dev).wait(gate, 1).submit()            # the compute queue stands still
    address = old.address
    old.free()
    new = dev.alloc(8192)
    assert new.address == address
    queue = hcq.CopyQueue(dev).fill(new, 5)
    queue.submit()
    assert queue.dump().startswith("WAIT")
    gate.value = 1
    assert new.copyout()[0] == 5


def test_allocation_comes_from_the_cache(dev: hcq.Device, backend: FakeBackend) -> None:
    dev.alloc(5000).free()
    before = backend.allocations
    for _ in range(100):
        dev.alloc(5000)
    assert backend.allocations == before
    assert all(size_class(n) >= n for n in range(1, 70000, 7))
    assert size_class(100 << 20) - (100 << 20) <= 16 << 20


def test_memory_exhausted_gives_the_cache_back_first(dev: hcq.Device, backend: FakeBackend) -> None:
    half = 40 << 20
    dev.alloc(half).free()
    with pytest.raises(FakeOutOfMemory):
        dev.alloc(60 << 20)
    again = dev.alloc(half).copyin(np.ones(4, np.uint8))    # nothing was lost by it
    assert again.copyout(np.empty(1, np.uint8))[0] == 1


# --- launches


def test_a_kernel_runs_in_the_order_of_the_copies(dev: hcq.Device, backend: FakeBackend, code: bytes) -> None:
    backend.delay = 2e-4
    add = dev.program(code, "add")
    a = dev.alloc(256 * 4)
    b = dev.alloc(256 * 4)
    a.copyin(np.arange(256, dtype=np.int32))
    for k in range(1, 11):
        add(b, a, np.int32(k), grid=(4,), block=(64,))
        a.copy_from(b)
    assert np.array_equal(a.copyout(np.empty(256, np.int32)), np.arange(256) + 55)


def test_many_launches_go_around_the_kernarg_ring(dev: hcq.Device, code: bytes) -> None:
    shape = dev.program(code, "shape")
    out = dev.alloc(288)
    launches = 2 * dev._kernargs.nbytes // shape.block_bytes
    for i in range(launches):
        shape(out, np.float32(i), np.int64(i), grid=1, block=1)
    assert out.copyout()[8:12].view(np.float32)[0] == launches - 1


def test_hidden_arguments(dev: hcq.Device, backend: FakeBackend, code: bytes) -> None:
    shape = dev.program(code, "shape")
    out = dev.alloc(288)
    shape(out, 1.5, np.uint64(7), grid=(5, 6), block=(32, 2, 1), lds=1000)
    kernarg = out.copyout()
    word = lambda offset, dtype: kernarg[offset:offset + np.dtype(dtype).itemsize].view(dtype)[0]
    assert word(0, np.uint64) == out.address and word(8, np.float32) == 1.5 and word(16, np.uint64) == 7
    assert [word(o, np.uint32) for o in (32, 36, 40)] == [5, 6, 1]
    assert [word(o, np.uint16) for o in (44, 46, 48)] == [32, 2, 1]
    assert not kernarg[50:96].any() and word(96, np.uint16) == 3 and word(104, np.uint64) == 0
    assert word(152, np.uint32) == 1000
    assert word(224, np.uint32) == 0x2_0000 and word(228, np.uint32) == 0x1_0000
    queue = backend.at(int(word(232, np.uint64)), 256)
    assert queue[0x40:0x48].view(np.uint32).tolist() == [0x1_0000, 0x2_0000]
    shape(out, 1.5, np.uint64(7), grid=[5, 6], block=[32, 2])       # lists too; two dimensions
    assert out.copyout()[96:98].view(np.uint16)[0] == 2


def test_dispatch_packet_and_queue_pointer(backend: FakeBackend) -> None:
    """A kernel that asks for them (kernel_code_properties bits 1 and 2)."""
    dev = hcq.Device(backend)
    code = build(kernel_metadata("k", **{".group_segment_fixed_size": 64, ".private_segment_fixed_size": 32}),
                 numbers=[3], properties=1 << 1 | 1 << 2 | 1 << 3 | 1 << 10)
    program = dev.program(code)
    program(grid=(3, 2), block=(16, 4), lds=128)
    dev.synchronize()
    (_, kernarg, *_, lds, packet, queue), _ = backend.launches[-1]
    assert packet % 64 == 0 and lds == 128 and queue
    fields = backend.at(packet, 64)
    assert fields[0:12].view(np.uint16).tolist() == [2 | 2 << 9 | 2 << 11, 2, 16, 4, 1, 0]
    assert fields[12:32].view(np.uint32).tolist() == [48, 8, 1, 32, 192]
    assert fields[32:64].view(np.uint64).tolist() == [program.descriptor_address, kernarg, 0, 0]
    backend.close()


def test_local_memory_arguments(dev: hcq.Device, backend: FakeBackend, code: bytes) -> None:
    program = dev.program(code, "locals")
    out = dev.alloc(256)
    program(out, 40, 8, grid=1, block=64)
    first, second = out.copyout()[8:16].view(np.uint32)
    assert (first, second) == (112, 152)        # after 100 static bytes, aligned to 16, then 40 bytes
    assert backend.launches[-1][0][8] == 60     # dynamic bytes beyond the static 100
    with pytest.raises(hcq.ArgumentTypeError, match="argument 1 of kernel 'locals', local memory, is local memory: "
                                                    "pass its size in bytes"):
        program(out, 1.5, 8)
    with pytest.raises(hcq.LaunchError, match="local memory of -1 bytes"):
        program(out, -1, 8)


def test_scratch_is_asked_for(dev: hcq.Device, backend: FakeBackend, code: bytes) -> None:
    dev.program(code, "scratchy")()
    dev.synchronize()
    assert backend.scratch == 512 * 32


def test_argument_errors(dev: hcq.Device, code: bytes) -> None:
    add, shape = dev.program(code, "add"), dev.program(code, "shape")
    a = dev.alloc(1024)
    other = hcq.Device(FakeBackend(name="FAKE:1"))
    foreign = other.alloc(16)
    cases = [
        (hcq.LaunchError, r"add\(buffer, buffer, int\) takes 3 arguments, 2 were given", lambda: add(a, a)),
        (TypeError, r"argument 0 of kernel 'add', buffer, takes a Buffer, not an array int32\[4\]; copy it to the dev",
         lambda: add(np.zeros(4, np.int32), a, 1)),
        (TypeError, "takes a Buffer, not int 4096", lambda: add(a, 4096, 1)),
        (ValueError, "is a buffer of FAKE:1; the kernel runs on FAKE:0", lambda: add(a, foreign, 1)),
        (hcq.LaunchError, "argument 2 of kernel 'add', int, has 4 bytes; np.int64 has 8",
         lambda: add(a, a, np.int64(1))),
        (hcq.ArgumentTypeError, "int, is not a np.float32", lambda: add(a, a, np.float32(1))),
        (hcq.ArgumentTypeError, "int, is not a float; 1.5 was given", lambda: add(a, a, 1.5)),
        (hcq.LaunchError, "int, cannot hold 4294967296", lambda: add(a, a, 1 << 32)),
        (TypeError, "takes a NumPy scalar or 4 bytes, not str 'x'", lambda: add(a, a, "x")),
        (hcq.LaunchError, "has 4 bytes; bytes b'abc' has 3", lambda: add(a, a, b"abc")),
        (hcq.ArgumentTypeError, "does not say what type it is, so 7 is ambiguous; pass a NumPy scalar of 8 bytes",
         lambda: shape(a, 1.0, 7)),
        (hcq.LaunchError, "float, cannot hold 1e[+]?300", lambda: shape(a, 1e300, np.int64(7))),
    ]
    for error, message, call in cases:
        with pytest.raises(error, match=message):
            call()
    other.backend.close()
    add(a, a, np.uint32(3), grid=1, block=4)    # the same size and kind: fine; and nothing was broken
    shape(a, np.float32(1), np.float64(1), grid=1, block=1)
    shape(a, 1, np.array([1, 2], np.int32), grid=1, block=1)
    dev.synchronize()


def test_launch_bounds(dev: hcq.Device, code: bytes) -> None:
    add, strict, shape = (dev.program(code, name) for name in ("add", "strict", "shape"))
    a = dev.alloc(1024)
    cases = [
        (r"block of \(512, 1, 1\) is 512 work-items; the kernel allows 256 \(max_flat_workgroup_size\), the device 10",
         lambda: add(a, a, 1, block=512)),
        (r"compiled for workgroups of \(64, 2, 1\) \(reqd_work_group_size\), block is \(128, 1, 1\)",
         lambda: strict(block=128)),
        (r"grid is one to three sizes of at least 1, not \(4, 0\)", lambda: add(a, a, 1, grid=(4, 0))),
        (r"block is one to three sizes of at least 1, not \(\)", lambda: add(a, a, 1, block=())),
        (r"grid is one to three sizes of at least 1, not \(1, 1, 1, 1\)", lambda: add(a, a, 1, grid=(1,) * 4)),
        ("grid is one to three sizes of at least 1, not 'ab'", lambda: add(a, a, 1, grid="ab")),  # type: ignore[arg-type]
        ("grid is one to three sizes of at least 1, not 1.5", lambda: add(a, a, 1, grid=1.5)),  # type: ignore[arg-type]
        ("more than 4294967295 work-items", lambda: add(a, a, 1, grid=1 << 31, block=2)),
        ("100 bytes of its own local memory and 65500 dynamic ones; a workgroup of FAKE:0 has 65536",
         lambda: shape(a, 1.0, np.int64(1), lds=65500)),
        ("lds is a number of bytes, not -1", lambda: shape(a, 1.0, np.int64(1), lds=-1)),
    ]
    for message, call in cases:
        with pytest.raises(hcq.LaunchError, match=message):
            call()
    strict(block=(64, 2))
    dev.synchronize()


def test_a_code_object_that_cannot_be_read(dev: hcq.Device, tmp_path: Path) -> None:
    with pytest.raises(hcq.CodeObjectError, match=r"nothing\.co cannot be read: No such file or directory; it was"):
        dev.program(tmp_path / "nothing.co")
    with pytest.raises(hcq.CodeObjectError, match="cannot be read: Is a directory"):
        dev.program(str(tmp_path))


def test_signals_take_numpy_integers(dev: hcq.Device) -> None:
    signal = dev.signal(np.int64(2))            # type: ignore[arg-type]
    signal.value = np.uint32(3)                 # type: ignore[assignment]
    hcq.ComputeQueue(dev).wait(signal, np.int64(3)).signal(signal, np.uint64(9)).submit()  # type: ignore[arg-type]
    signal.wait(9)
    assert type(signal.value) is int
    for wrong in (-1, 1.5, np.float32(2), "3", 1 << 64):
        with pytest.raises(hcq.QueueError, match=r"holds 0 to 2\*\*64-1, not"):
            signal.wait(wrong)                  # type: ignore[arg-type]


def test_program_errors(dev: hcq.Device, code: bytes) -> None:
    with pytest.raises(hcq.CodeObjectError, match="no kernel 'sub' in the code object; it has: add, fails, locals"):
        dev.program(code, "sub")
    with pytest.raises(hcq.CodeObjectError, match="6 kernels; name one of: add"):
        dev.program(code)
    with pytest.raises(hcq.CodeObjectError, match="code object is for gfx1030, FAKE:0 is gfx1100; compile with "
                                                  "-mcpu=gfx1100"):
        dev.program(build(kernel_metadata("k"), mach=0x36))
    with pytest.raises(hcq.CodeObjectError, match="kernel 'k' has waves of 64; FAKE:0 runs waves of 32"):
        dev.program(build(kernel_metadata("k", **{".wavefront_size": 64}), properties=1 << 3))
    assert dev.program(build(kernel_metadata("k"), mach=0x54, abi_version=4)).name == "k"   # gfx11-generic
    assert "add(buffer, buffer, int)" in repr(dev.program(code, "add"))


def test_kernels_of_one_code_object_share_an_image(dev: hcq.Device, backend: FakeBackend, code: bytes) -> None:
    programs = [dev.program(code, "add")]
    before = backend.allocations
    programs += [dev.program(code, name) for name in ("shape", "add")] + [dev.program(hcq.CodeObject(code), "fails")]
    assert backend.allocations == before
    assert programs[0].kernel.entry == programs[2].kernel.entry


# --- queues and signals


def test_queues_by_hand(dev: hcq.Device, code: bytes) -> None:
    add = dev.program(code, "add")
    a, b = dev.alloc(256), dev.alloc(256)
    start, middle, done, t0, t1 = (dev.signal() for _ in range(5))
    copies = hcq.CopyQueue(dev).wait(start, 1).fill(a, 5).signal(middle, 3)
    kernels = hcq.ComputeQueue(dev).wait(middle, 3).timestamp(t0).memory_barrier().exec(add, (b, a, 2), 1, 64)
    kernels.timestamp(t1).signal(done, 4)
    assert len(kernels) == 6 and "kernel 'add'" in repr(kernels)
    preview = kernels.dump().splitlines()
    assert not add.image.barriers
    assert [line.split()[0] for line in preview] == ["WAIT", "TIMESTAMP", "BARRIER", "EXEC", "TIMESTAMP", "SIGNAL"]
    point = kernels.submit()
    assert len(kernels) == 0 and not point.done
    submitted = [line.split()[0] for line in kernels.dump().splitlines()]
    assert submitted == ["BARRIER", *(line.split()[0] for line in preview), "SIGNAL"]     # new code; the timeline
    copies.submit()
    assert not point.done and done.value == 0
    start.value = 1
    done.wait(4)
    point.wait()
    assert point.done and middle.value == 3
    assert dev.seconds(t0, t1) >= 0 and t0.value > 0
    assert np.array_equal(b.copyout().view(np.int32), np.full(64, 7))


def test_large_submissions_have_kernargs_of_their_own(dev: hcq.Device, code: bytes) -> None:
    shape = dev.program(code, "shape")
    count = dev._kernargs.nbytes // 288
    out = dev.alloc(288 * count)
    queue = hcq.ComputeQueue(dev)
    for i in range(count):
        queue.exec(shape, (out[288 * i:288 * (i + 1)], 1.0, np.int64(i)), 1, 1)
    queue.submit()
    assert np.array_equal(out.copyout().reshape(count, 288)[:, 16:24].copy().view(np.int64)[:, 0], np.arange(count))


def test_queue_errors(dev: hcq.Device, code: bytes) -> None:
    other = hcq.Device(FakeBackend(FUNCTIONS, name="FAKE:1"))
    a = dev.alloc(64)
    cases = [
        ("FAKE:0 has 1 copy queues; queue 1 is not one", lambda: hcq.CopyQueue(dev, 1)),
        ("a int is no Signal", lambda: hcq.CopyQueue(dev).wait(5, 1)),  # type: ignore[arg-type]
        ("the signal belongs to FAKE:1, the queue to FAKE:0", lambda: hcq.CopyQueue(dev).wait(other.signal(), 1)),
        ("a signal of FAKE:0 holds 0 to 2\\*\\*64-1, not -1", lambda: hcq.CopyQueue(dev).signal(dev.signal(), -1)),
        ("holds 0 to", lambda: dev.signal(1 << 64)),
        ("the source belongs to FAKE:1", lambda: hcq.CopyQueue(dev).copy(a, other.alloc(64))),
        ("copy of 32 bytes to a buffer of 64; take a view", lambda: hcq.CopyQueue(dev).copy(a, a[0:32])),
        ("ranges that overlap", lambda: hcq.CopyQueue(dev).copy(a[0:32], a[16:48])),
        ("the source is a bytes, expected a Buffer", lambda: hcq.CopyQueue(dev).copy(a, b"x")),  # type: ignore
        ("fill of 6 bytes at .* multiples of 4", lambda: a[0:6].fill(1)),
        ("a fill pattern is 0 to 2\\*\\*32-1, not 4294967296", lambda: a.fill(1 << 32)),
        ("no Program", lambda: hcq.ComputeQueue(dev).exec("add", (), 1, 1)),  # type: ignore[arg-type]
        ("is loaded on FAKE:1, the queue belongs to FAKE:0",
         lambda: hcq.ComputeQueue(dev).exec(other.program(code, "add"), (), 1, 1)),
    ]
    for message, call in cases:
        with pytest.raises(hcq.QueueError, match=message):
            call()
    other.backend.close()


def test_signals_are_used_again_when_nothing_may_store_to_them(dev: hcq.Device, backend: FakeBackend) -> None:
    gate, late = dev.signal(), dev.signal()
    hcq.ComputeQueue(dev).wait(gate, 1).signal(late, 99).submit()
    address = late.address
    del late
    fresh = [dev.signal() for _ in range(100)]
    assert address not in [signal.address for signal in fresh]
    gate.value = 1
    dev.synchronize()
    assert address in [dev.signal().address for _ in range(1)] + [signal.address for signal in
                                                                  [dev.signal() for _ in range(200)]]


# --- waiting


def test_a_timeout_names_the_queue_and_the_work(dev: hcq.Device, code: bytes) -> None:
    gate = dev.signal()
    add = dev.program(code, "add")
    a = dev.alloc(64)
    hcq.ComputeQueue(dev).wait(gate, 1).submit()
    add(a, a, 1, block=16)
    message = (r"waited 0.05 s for FAKE:0 compute 0 to complete submission 2. Incomplete: FAKE:0 compute 0: "
               r"submission 1 \(1 commands: wait\) is not complete; 0 of 2 are. HCQ_TIMEOUT")
    with pytest.raises(hcq.DeviceTimeout, match=message):
        dev.synchronize(timeout=0.05)
    with pytest.raises(TimeoutError, match=r"for Signal\(0 at .*\) to reach 7"):
        gate.wait(7, timeout=0.01)
    gate.value = 1
    dev.synchronize()
    with pytest.raises(hcq.DeviceTimeout, match="Nothing submitted is incomplete, so nothing will signal it"):
        gate.wait(7, timeout=0.01)


def test_a_fault_of_the_device_ends_the_wait(dev: hcq.Device, code: bytes) -> None:
    dev.program(code, "fails")()
    with pytest.raises(FakeFault, match="page not mapped") as caught:
        dev.synchronize()
    assert caught.value.__notes__ == ["not complete then: FAKE:0 compute 0: submission 1 (kernel 'fails' "
                                      "grid (1, 1, 1) block (1, 1, 1)) is not complete; 0 of 1 are"]
    for use in (dev.synchronize, lambda: dev.alloc(4), dev.signal):
        with pytest.raises(hcq.DeviceFailedError, match=r"FAKE:0 failed earlier: .*page not mapped.* Close it and"):
            use()
    dev.close()                                 # does not wait for what can never come
    assert dev.backend.closed  # type: ignore[attr-defined]


def test_the_timeout_comes_from_the_environment(backend: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HCQ_TIMEOUT", "2.5")
    assert hcq.Device(backend).timeout == 2.5
    for bad in ("soon", "-1", "0", "nan"):
        monkeypatch.setenv("HCQ_TIMEOUT", bad)
        with pytest.raises(hcq.HcqError, match=f"HCQ_TIMEOUT='{bad}' is not a positive number"):
            hcq.Device(backend)
    backend.close()


def test_threads_share_a_device(dev: hcq.Device, code: bytes) -> None:
    add = dev.program(code, "add")
    failures = []

    def work(seed: int) -> None:
        a, b = dev.alloc(256), dev.alloc(256)
        for i in range(20):
            a.copyin(np.full(64, seed * 1000 + i, np.int32))
            add(b, a, np.int32(1), grid=1, block=64)
            if not np.array_equal(b.copyout(np.empty(64, np.int32)), np.full(64, seed * 1000 + i + 1)):
                failures.append((seed, i))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not failures


# --- graphs


def test_a_graph_replays_with_changes(dev: hcq.Device, backend: FakeBackend, code: bytes) -> None:
    backend.delay = 1e-4
    add = dev.program(code, "add")
    a, b, c, d = (dev.alloc(256) for _ in range(4))
    a.copyin(np.zeros(64, np.int32))
    launches = len(backend.launches)
    with dev.graph() as g:
        x, k, groups = g.input("x", a), g.input("k", np.int32(1)), g.input("groups", 1)
        add(b, x, k, grid=(groups,), block=16)
        add(c, b, 10, grid=1, block=64)
        d.copy_from(c)
        g.fill(b, 100)
    assert len(g) == 4 and len(backend.launches) == launches and "x, k, groups" in repr(g)
    b.fill(0)
    g.replay()
    assert d.copyout().view(np.int32).tolist() == [11] * 16 + [10] * 48
    assert (b.copyout().view(np.int32) == 100).all()
    other = dev.alloc(256).copyin(np.full(64, 50, np.int32))
    point = g.replay(x=other, k=np.int32(5), groups=4)
    point.wait()
    assert (d.copyout().view(np.int32) == 65).all()
    g.replay()                                  # changes are for once
    assert d.copyout().view(np.int32).tolist() == [11] * 16 + [110] * 48


def test_graph_errors(dev: hcq.Device, code: bytes) -> None:
    a = dev.alloc(64)
    add = dev.program(code, "add")
    with dev.graph() as g:
        g.input("k", np.int32(1))
        cases = [("copyin moves bytes of the host now", lambda: a.copyin(np.zeros(4))),
                 ("copyout moves", lambda: a.copyout()), ("synchronize inside", dev.synchronize),
                 ("do not nest", lambda: dev.graph().__enter__()),
                 ("has an input 'k' already", lambda: g.input("k", 1)),
                 ("submitted inside", hcq.CopyQueue(dev).fill(a, 1).submit), ("replayed: .* 'recording'", g.replay)]
        for message, call in cases:
            with pytest.raises(hcq.GraphError, match=message):
                call()
        with pytest.raises(hcq.LaunchError, match="takes 3 arguments, 1 were given"):
            add(a)                              # at the line that recorded it
    with pytest.raises(hcq.GraphError, match="no input 'z' in the graph; it has: k"):
        g.replay(z=1)
    with pytest.raises(hcq.GraphError, match="recorded once"), g:
        pass
    with pytest.raises(hcq.GraphError, match="inside its `with` block"):
        g.input("later", 1)
    broken = dev.graph()
    with pytest.raises(ZeroDivisionError), broken:
        raise ZeroDivisionError
    with pytest.raises(hcq.GraphError, match="state 'failed'"):
        broken.replay()
    a.copyin(np.zeros(4))                       # recording has ended


# --- opening and closing


@pytest.fixture
def fake_module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("fake_driver")
    module.open_backend = lambda index: FakeBackend(name=f"FAKE:{index}")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_driver", module)
    monkeypatch.setitem(registry._BUILT_IN, "FAKE", "fake_driver:open_backend")
    return module


def test_open(fake_module: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    zero, one = hcq.open("FAKE"), hcq.open("fake:1")
    assert zero is hcq.open("FAKE:0") and zero.name == "FAKE:0" and one.name == "FAKE:1"
    monkeypatch.setenv("HCQ_DEVICE", "FAKE:1")
    assert hcq.open() is one
    with one:
        host, vram, signal = one.alloc(64, host=True), one.alloc(64), one.signal()
        program = one.program(CODE, "strict")
    assert one._closed and "closed" in repr(one)
    with pytest.raises(hcq.DeviceClosedError, match=r"FAKE:1 is closed; open it again with hcq.open"):
        one.alloc(4)
    for use in (lambda: host.view, lambda: host.copyin(np.zeros(1)), vram.copyout, host.copyout, lambda: vram.fill(1),
                lambda: program(block=(64, 2)), hcq.ComputeQueue(one).signal(signal, 1).submit, one.synchronize,
                one.graph, one.signal, one.trim):
        with pytest.raises(hcq.DeviceClosedError):
            use()
    assert signal.value == 0                    # its memory is still there
    assert hcq.open() is not one
    hcq.open().close()
    zero.close()
    zero.close()


def test_unknown_names() -> None:
    with pytest.raises(hcq.UnknownDeviceError, match=r"no backend is called 'CUDA'; there are: .*AM"):
        hcq.open("CUDA:1")
    with pytest.raises(hcq.UnknownDeviceError, match="3 is no device name"):
        hcq.open(3)                             # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"'AM:x' is no device name; write a backend's name .* Backends: .*AM"):
        hcq.open("AM:x")


def test_close_gives_the_card_back_even_after_a_hang(fake_module: types.ModuleType) -> None:
    dev = hcq.open("FAKE:7")
    dev.timeout = 0.05
    hcq.CopyQueue(dev).wait(dev.signal(), 1).submit()
    with pytest.raises(hcq.DeviceTimeout):
        dev.close()
    assert dev.backend.closed  # type: ignore[attr-defined]
    dev.close()


def test_importing_costs_nothing() -> None:
    """No thread, no driver, no compiler comes with the import."""
    script = ("import sys, threading, hcq; "
              "assert threading.active_count() == 1; "
              "assert not [m for m in sys.modules if m.split('.')[0] in ('amdrv', 'mock', 'compiler', 'llvmlite')]")
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_a_long_wait_sleeps_on_the_interrupt(dev: hcq.Device, backend: FakeBackend) -> None:
    calls = []
    sleep = backend.sleep

    def counted(timeout: float) -> None:
        calls.append(timeout)
        sleep(timeout)

    backend.sleep = counted  # type: ignore[method-assign]
    gate = dev.signal()
    hcq.ComputeQueue(dev).wait(gate, 1).submit()
    threading.Timer(0.05, lambda: setattr(gate, "value", 1)).start()
    dev.synchronize()
    assert calls and max(calls) <= 0.01


def test_a_timeline_outlives_its_signal(code: bytes) -> None:
    """Where a signal holds few bits, a new one takes over: nothing is lost, and old points stay reached."""
    backend = FakeBackend(FUNCTIONS, signal_bits=3)
    dev = hcq.Device(backend)
    add = dev.program(code, "add")
    a, b = dev.alloc(256).copyin(np.zeros(64, np.int32)), dev.alloc(256)
    first = hcq.CopyQueue(dev).fill(b, 7).submit()
    for _ in range(20):
        add(b, a, 1, grid=1, block=64)
        a.copy_from(b)
        hcq.CopyQueue(dev).fill(b, 0).submit()
    assert (a.copyout().view(np.int32) == 20).all()
    assert first.done and max(timeline.submitted for timeline in dev._all) <= 7
    with pytest.raises(hcq.QueueError, match=r"a signal of FAKE:0 holds 0 to 2\*\*3-1, not 8"):
        dev.signal(8)
    backend.close()


def test_a_launch_does_not_keep_its_buffers(dev: hcq.Device, code: bytes) -> None:
    buffer = dev.alloc(64)
    dev.program(code, "add")(buffer, buffer, 1, block=16)
    address = buffer.address
    del buffer
    assert dev.alloc(64).address == address


def test_only_sleepers_cost_interrupts(dev: hcq.Device, backend: FakeBackend, code: bytes) -> None:
    add = dev.program(code, "add")
    a = dev.alloc(64).fill(0)
    dev.synchronize()
    gate, before = dev.signal(), backend.interrupts
    hcq.ComputeQueue(dev).wait(gate, 1).submit()
    for _ in range(50):
        add(a, a, 1, block=16)
    threading.Timer(0.05, lambda: setattr(gate, "value", 1)).start()
    dev.synchronize()
    assert backend.interrupts == before + 2         # the queue filled by hand, and the one that was asked for
    assert (a.copyout().view(np.int32) == 50).all()


def test_a_long_row_of_work_is_no_hang(dev: hcq.Device, backend: FakeBackend, code: bytes) -> None:
    """The timeout counts from the last thing that was completed, unless a wait is given its own."""
    add = dev.program(code, "add")
    a = dev.alloc(64).fill(0)
    dev.synchronize()
    backend.delay, dev.timeout = 0.02, 0.4
    for _ in range(20):                         # 20 x 3 commands of 20 ms
        add(a, a, 1, block=16)
    with pytest.raises(hcq.DeviceTimeout):
        dev.synchronize(timeout=0.1)
    dev.synchronize()
    backend.delay = 0
    assert (a.copyout().view(np.int32) == 20).all()
