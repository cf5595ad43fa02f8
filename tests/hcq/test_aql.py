"""AQL queues on the software card: packets against a second writer, and everything that PM4 queues do, by packets."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from two_cards import cards, compiled, notes

import hcq
from amdrv import aql
from amdrv.aql import queue as block
from amdrv.aql.ring import AqlRing
from amdrv.errors import GpuFault, GpuHang, PacketError
from amdrv.ip import gfx, psp, smu

KERNELS = """
target triple = "amdgcn-amd-amdhsa"
declare i32 @llvm.amdgcn.workgroup.id.x()
declare i32 @llvm.amdgcn.workitem.id.x()
declare ptr addrspace(4) @llvm.amdgcn.dispatch.ptr()
declare i64 @llvm.amdgcn.dispatch.id()
define amdgpu_kernel void @scratch(ptr addrspace(1) %a, i32 %k) {
  %x = alloca [200 x i32], addrspace(5)
  %g = call i32 @llvm.amdgcn.workgroup.id.x()
  %l = call i32 @llvm.amdgcn.workitem.id.x()
  %b = mul i32 %g, 64
  %i = add i32 %b, %l
  br label %loop
loop:
  %n = phi i32 [0, %0], [%m, %loop]
  %p = getelementptr i32, ptr addrspace(5) %x, i32 %n
  %v = mul i32 %n, %k
  %w = add i32 %v, %i
  store volatile i32 %w, ptr addrspace(5) %p
  %m = add i32 %n, 1
  %c = icmp eq i32 %m, 200
  br i1 %c, label %end, label %loop
end:
  %pa = getelementptr i32, ptr addrspace(1) %a, i32 %i
  %at = load i32, ptr addrspace(1) %pa
  %q = getelementptr i32, ptr addrspace(5) %x, i32 %at
  %r = load volatile i32, ptr addrspace(5) %q
  store i32 %r, ptr addrspace(1) %pa
  ret void
}
define amdgpu_kernel void @packet(ptr addrspace(1) %out) {
  %p = call ptr addrspace(4) @llvm.amdgcn.dispatch.ptr()
  %id = call i64 @llvm.amdgcn.dispatch.id()
  %pi = getelementptr i64, ptr addrspace(1) %out, i32 8
  store i64 %id, ptr addrspace(1) %pi
  br label %loop
loop:
  %n = phi i32 [0, %0], [%m, %loop]
  %f = getelementptr i32, ptr addrspace(4) %p, i32 %n
  %v = load i32, ptr addrspace(4) %f
  %t = getelementptr i32, ptr addrspace(1) %out, i32 %n
  store i32 %v, ptr addrspace(1) %t
  %m = add i32 %n, 1
  %c = icmp eq i32 %m, 16
  br i1 %c, label %end, label %loop
end:
  ret void
}
"""
N, BLOCK = 1024, 64


@pytest.fixture(scope="module")
def pair() -> Iterator[list[hcq.Device]]:
    """Their AQL rings are short, so that they are soon full."""
    with pytest.MonkeyPatch.context() as patch, cards(2, "512M") as devices:
        patch.setattr(gfx, "AQL_SLOTS", 1024)
        yield devices


@pytest.fixture(scope="module")
def card(pair: list[hcq.Device]) -> hcq.Device:
    return pair[0]


@pytest.fixture(scope="module")
def add(card: hcq.Device) -> hcq.Program:
    return card.program(compiled(), "add")


def ints(buffer: hcq.Buffer) -> np.ndarray:
    return buffer.copyout().view(np.int32)


def ring(queue: hcq.AqlQueue) -> AqlRing:
    found = queue.timeline.queue.ring                       # type: ignore[attr-defined]
    assert isinstance(found, AqlRing)
    return found


def counts_agree(card: hcq.Device) -> None:
    """What the driver says that it submitted is what the card has seen."""
    card.synchronize()
    card.backend.check()
    driver = card.backend.device                            # type: ignore[attr-defined]
    for key in ("aql_packets", "pm4_packets", "sdma_packets", "kernels"):
        assert driver.statistics[key] == driver.pci.board.counters[key], key


# ---- packets, against the layouts of the HSA specification packed here


U16, U32, U64 = (st.integers(0, (1 << bits) - 1) for bits in (16, 32, 64))


@given(barrier=st.integers(0, 1), acquire=st.integers(0, 2), release=st.integers(0, 2), dims=st.integers(1, 3),
       group=st.tuples(U16, U16, U16), grid=st.tuples(U32, U32, U32), sizes=st.tuples(U32, U32),
       pointers=st.tuples(U64, U64, U64))
def test_a_dispatch_packet(barrier: int, acquire: int, release: int, dims: int, group: tuple[int, ...],
                           grid: tuple[int, ...], sizes: tuple[int, int], pointers: tuple[int, int, int]) -> None:
    header = 2 | barrier << 8 | acquire << 9 | release << 11
    expected = struct.pack("<HH3HH3III3QQ", header, dims, *group, 0, *grid, *sizes, pointers[0], pointers[1], 0,
                           pointers[2])
    words = aql.build("KERNEL_DISPATCH", BARRIER=barrier, ACQUIRE=acquire, RELEASE=release, DIMENSIONS=dims,
                      **{f"WORKGROUP_SIZE_{axis}": n for axis, n in zip("XYZ", group, strict=True)},
                      **{f"GRID_SIZE_{axis}": n for axis, n in zip("XYZ", grid, strict=True)},
                      PRIVATE_SEGMENT_SIZE=sizes[0], GROUP_SEGMENT_SIZE=sizes[1], KERNEL_OBJECT=pointers[0],
                      KERNARG_ADDRESS=pointers[1], COMPLETION_SIGNAL=pointers[2])
    assert struct.pack("<16I", *words) == expected
    packet, = aql.decode(words + [0] * 16)
    assert packet.problem is None and packet["KERNEL_OBJECT"] == pointers[0] and packet["GRID_SIZE_Y"] == grid[1]
    assert packet["COMPLETION_SIGNAL"] == pointers[2] and not packet.notes


@given(kind=st.sampled_from(["AND", "OR"]), signals=st.lists(U64, min_size=1, max_size=5), completion=U64)
def test_barrier_packets(kind: str, signals: list[int], completion: int) -> None:
    expected = struct.pack("<HHI5QQQ", {"AND": 3, "OR": 5}[kind] | 2 << 9, 0, 0, *(*signals, 0, 0, 0, 0, 0)[:5], 0,
                           completion)
    given_ = {f"DEP_SIGNAL_{n}": signal for n, signal in enumerate(signals)}
    words = aql.build(f"BARRIER_{kind}", ACQUIRE="SYSTEM", COMPLETION_SIGNAL=completion, **given_)
    assert struct.pack("<16I", *words) == expected and aql.decode(words + [0] * 16)[0]["DEP_SIGNAL_0"] == signals[0]


def test_vendor_packets() -> None:
    words = aql.build("VENDOR_BARRIER_VALUE", SIGNAL=0x1_2345_6740, VALUE=7, MASK=0xFFFFFFFF, CONDITION="GTE")
    assert struct.pack("<16I", *words) == struct.pack("<HBBIQQQIIQQQ", 0, 2, 0, 0, 0x1_2345_6740, 7, 0xFFFFFFFF, 3, 0,
                                                      0, 0, 0)
    record = aql.vendor([0xC0001000, 5, 6], BARRIER=1)
    assert struct.unpack("<HBB", struct.pack("<I", record[0])) == (0x100, 1, 0)
    assert record[1:6] == [0xC0023F00, 0, 0, 3 | 1 << 23, 10] and record[16:20] == [0xC0001000, 5, 6, 0]
    text = aql.dump(record)
    assert "VENDOR_PM4" in text and "pm4 0: NOP" in text
    for message, use in [("no AQL packet; known are KERNEL_DISPATCH", lambda: aql.build("DISPATCH")),
                         ("17 PM4 words do not fit the 16", lambda: aql.vendor([0] * 17)),
                         ("needs .*KERNEL_OBJECT", lambda: aql.build("KERNEL_DISPATCH"))]:
        with pytest.raises(PacketError, match=message):
            use()
    unknown, short = aql.decode([9] + [0] * 31 + [2, 3])
    assert "type 9" in str(unknown.problem) and "2 are left" in str(short.problem)


# ---- queues


def test_the_hardware_queue_is_set_up_for_aql(card: hcq.Device) -> None:
    queue = hcq.AqlQueue(card)
    device = card.backend.device                            # type: ignore[attr-defined]
    found = ring(queue)
    with device.gfx.select(*device.gfx.queues[device.compute_rings.index(found)]):
        assert device.regs.CP_HQD_AQL_CONTROL.read().control0 == 1
        control = device.regs.CP_HQD_PQ_CONTROL.read()
        assert (control.no_update_rptr, control.slot_based_wptr, control.queue_full_en) == (1, 2, 1)
        assert 2 << control.queue_size == 16 * found.slots
        assert device.regs.CP_HQD_PQ_DOORBELL_CONTROL.read().doorbell_bif_drop == 1
    assert queue.timeline.queue.name == "AM:0 aql 0" and hcq.AqlQueue(card, 0).timeline is queue.timeline
    with pytest.raises(hcq.QueueError, match="queue 5 is not one of them"):
        hcq.AqlQueue(card, 5)


def test_launches_signals_and_barriers(card: hcq.Device, add: hcq.Program) -> None:
    values = np.arange(N, dtype=np.int32)
    a, b = card.alloc(4 * N).copyin(values), card.alloc(4 * N)
    card.synchronize()
    left, gate, done = card.signal(2), card.signal(), card.signal()
    queue = hcq.AqlQueue(card).wait(gate, 3)
    queue.exec(add, (b, a, np.int32(5)), N // BLOCK, BLOCK, completion=left).memory_barrier()
    queue.exec(add, (a, b, np.int32(1)), (N // BLOCK, 1), (BLOCK, 1), completion=left).barrier_and(left)
    text = queue.dump()
    for name in ("VENDOR_BARRIER_VALUE", "KERNEL_DISPATCH", "kernel 'add'", "BARRIER_AND", "DIMENSIONS = 2",
                 "GRID_SIZE_X = 0x400", "CONDITION = GTE (3)"):
        assert name in text, name
    point = queue.signal(done, 9).submit()
    assert not point.done and left.value == 2
    hcq.ComputeQueue(card).signal(gate, 3).submit()         # a PM4 queue lets it go on
    point.wait()
    assert done.value == 9 and left.value == 0
    assert np.array_equal(ints(a), values + 6) and np.array_equal(ints(b), values + 5)
    assert "RELEASE_MEM" in queue.dump() and not notes(card)
    counts_agree(card)


def test_one_of_several_signals_is_enough(card: hcq.Device) -> None:
    one, two, done = card.signal(1), card.signal(1), card.signal()
    hcq.AqlQueue(card).barrier_or(one, two).signal(done, 1).submit()
    assert done.value == 0
    two.value = 0
    done.wait(1)
    many = [card.signal(1) for _ in range(7)]               # more than one packet holds
    point = hcq.AqlQueue(card).barrier_and(*many).submit()
    for signal in many[:6]:
        signal.value = 0
    assert not point.done
    many[6].value = 0
    point.wait()
    for message, use in [("1 to 5 signals, not for 7", lambda: hcq.AqlQueue(card).barrier_or(*many)),
                         ("some signals, not for 0", lambda: hcq.AqlQueue(card).barrier_and()),
                         ("is no Signal", lambda: hcq.AqlQueue(card).barrier_and(3))]:  # type: ignore[arg-type]
        with pytest.raises(hcq.QueueError, match=message):
            use()


def test_words_polls_and_atomics(card: hcq.Device) -> None:
    buffer = card.alloc(4096).fill(0)
    card.synchronize()
    data, begin = np.arange(100, 1000, dtype=np.uint32), card.signal()
    hcq.AqlQueue(card).write(buffer[64:], data).atomic(buffer[64:68], "ADD", -1).atomic(
        buffer[72:80], "UMAX", 1 << 40, bits=64).poll(buffer[64:68], 99).poll(buffer[64:68], 0x60, mask=0xF0).poll(
        buffer[64:68], 98, compare="GREATER").atomic(buffer[80:84], "CMPSWAP", 7, compare=104).timestamp(
        begin).interrupt().submit().wait()
    words = buffer.copyout().view(np.uint32)
    assert words[16] == 99 and words[18:20].tolist() == [0, 256] and words[20] == 7 and begin.value > 0
    assert np.array_equal(words[21:16 + 900], data[5:])
    held = hcq.AqlQueue(card).poll(buffer[0:4], 5).atomic(buffer[4:8], "SWAP", 77).submit()
    assert not held.done
    hcq.CopyQueue(card, 1).write(buffer, np.array([5], np.uint32)).submit()
    held.wait()
    assert buffer.copyout().view(np.uint32)[1] == 77 and not notes(card)
    counts_agree(card)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(-9, 9), st.integers(0, 2)), min_size=1,
                max_size=12))
def test_any_program_on_three_kinds_of_queues(card: hcq.Device, add: hcq.Program,
                                              work: list[tuple[int, int, int, int]]) -> None:
    """Launches on PM4, AQL and copies by SDMA in one order, each after a signal of the one before."""
    model = [np.arange(N, dtype=np.int32) * (n + 1) for n in range(3)]
    buffers = [card.alloc(4 * N).copyin(values) for values in model]
    card.synchronize()
    order = card.signal()
    for number, (to, origin, k, kind) in enumerate(work):
        if kind == 2:
            copies = hcq.CopyQueue(card).wait(order, number)
            if to != origin:
                copies.copy(buffers[to], buffers[origin])
                model[to] = model[origin].copy()
            copies.signal(order, number + 1).submit()
        else:
            queue = (hcq.ComputeQueue, hcq.AqlQueue)[kind](card).wait(order, number).memory_barrier()
            queue.exec(add, (buffers[to], buffers[origin], np.int32(k)), N // BLOCK, BLOCK)
            queue.signal(order, number + 1).submit()
            model[to] = model[origin] + np.int32(k)
    order.wait(len(work))
    for buffer, values in zip(buffers, model, strict=True):
        assert np.array_equal(ints(buffer), values)
    assert not notes(card)


COMMANDS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 3), st.integers(0, 3), st.integers(1, 99)), min_size=1,
                    max_size=20)


@settings(max_examples=12, deadline=None)
@given(st.lists(COMMANDS, min_size=1, max_size=4))
def test_both_languages_say_the_same(card: hcq.Device, add: hcq.Program,
                                     work: list[list[tuple[int, int, int, int]]]) -> None:
    """The same commands in PM4 and in AQL: what is in memory at the end, and in the signals, is the same."""
    results = []
    for make in (hcq.ComputeQueue, hcq.AqlQueue):
        buffers = [card.alloc(4 * N).copyin(np.arange(N, dtype=np.int32) * (n + 1)) for n in range(4)]
        words, signal, value = card.alloc(4096).fill(0), card.signal(), 0
        card.synchronize()
        for commands in work:
            queue = make(card)
            for kind, to, origin, k in commands:
                if kind < 3:
                    queue.memory_barrier().exec(add, (buffers[to], buffers[origin], np.int32(k)), N // BLOCK, BLOCK)
                elif kind == 3:
                    queue.write(words[64 * to + 64:], np.arange(k, 2 * k, dtype=np.uint32))
                elif kind == 4:
                    queue.atomic(words[:4], ("ADD", "XOR", "UMAX", "SUB")[to], k)
                elif kind == 5:
                    value += 1
                    queue.signal(signal, value).wait(signal, value)
                elif kind == 6:
                    queue.poll(words[4:8], 0).atomic(words[8:16], "ADD", k << 33, bits=64)
                else:
                    queue.timestamp(card.signal()).interrupt()
            queue.submit()
        card.synchronize()
        results.append([*(buffer.copyout().tobytes() for buffer in (*buffers, words)), signal.value == value])
    assert results[0] == results[1] and results[0][-1] and not notes(card)


def test_the_ring_runs_full_and_around(card: hcq.Device, add: hcq.Program) -> None:
    """More packets than the ring has slots, while its engine stands: the host waits for room, and nothing is lost."""
    queue = hcq.AqlQueue(card)
    found, gate = ring(queue), card.signal()
    total = card.alloc(4 * BLOCK).copyin(np.zeros(BLOCK, np.int32))
    card.synchronize()
    before, each, full = found.wptr, found.slots // 10, threading.Event()
    queue.wait(gate, 1).submit()

    def producer() -> None:
        for _ in range(found.slots // each + 2):
            work = hcq.AqlQueue(card)
            for _ in range(each):
                work.atomic(total[:4], "ADD", 1)
            if found.slots - found.pending <= each:
                full.set()
            work.submit()
    thread = threading.Thread(target=producer)
    thread.start()
    assert full.wait(60)
    gate.value = 1
    thread.join(60)
    card.synchronize()
    assert found.wptr - before > found.slots
    assert ints(total)[0] == (found.slots // each + 2) * each
    counts_agree(card)
    with pytest.raises(PacketError, match="40 words are no AQL records of 32"):
        found.submit(np.zeros(40, np.uint32))


def test_a_submission_that_is_longer_than_the_ring_and_does_not_move() -> None:
    with cards(1) as (card,):
        found, total = ring(hcq.AqlQueue(card)), card.alloc(4096).fill(0)
        card.synchronize()
        found.timeout, held = 0.05, card.signal()
        point = hcq.AqlQueue(card).wait(held, 1).submit()
        long = hcq.AqlQueue(card)
        for _ in range(found.slots + 10):                       # also longer than the ring
            long.atomic(total[:4], "ADD", 1)
        with pytest.raises(GpuHang, match=r"room in the ring.*past packet \d+: next is VENDOR_BARRIER_VALUE"):
            long.submit()
        with pytest.raises(hcq.DeviceFailedError, match=r"room in the ring.*recover\(\)"):
            long.submit()                                       # a part of it is in the ring, and cannot be taken back
        found.timeout = 30
        assert "AM:0 aql 0" in card.recover()
        with pytest.raises(hcq.SubmissionFailedError):
            point.wait()
        hcq.AqlQueue(card).atomic(total[:4], "SUB", 1).submit().wait()
        counts = ints(total)
        assert counts[0] == -1


def test_scratch() -> None:
    """Told by the packets before a launch; and, when the engine finds too little all the same, on its demand."""
    with cards(1, "512M") as (card,):
        program = card.program(compiled(KERNELS), "scratch")
        found, index = ring(hcq.AqlQueue(card)), np.arange(N, dtype=np.int32) % 200
        for spoiled in (False, True, True):
            buffer = card.alloc(4 * N).copyin(index)
            card.synchronize()
            queue = hcq.AqlQueue(card).memory_barrier().exec(program, (buffer, np.int32(3)), N // BLOCK, BLOCK)
            if spoiled:                                         # as if nobody had said where scratch is
                queue._commands = [("memory_barrier", ())]
                queue.submit().wait()
                found._put_word(block.TMPRING_SIZE, "I", 0)
                launch = aql.build("KERNEL_DISPATCH", BARRIER=1, **_dispatch_of(card, program, buffer))
                found.submit(np.array(launch + [0] * 16, np.uint32))
                hcq.AqlQueue(card).memory_barrier().submit().wait()
            else:
                queue.submit().wait()
            assert np.array_equal(ints(buffer), index * 3 + np.arange(N))
        assert [note.rule for note in notes(card)] == ["aql-scratch"] * 2       # type: ignore[attr-defined]


def _dispatch_of(card: hcq.Device, program: hcq.Program, buffer: hcq.Buffer) -> dict[str, int]:
    kernarg = card.alloc(4096, host=True)
    kernarg.view[:16] = np.frombuffer(struct.pack("<Qi4x", buffer.address, 3), np.uint8)
    _dispatch_of.kept = kernarg                             # type: ignore[attr-defined]
    sizes = {f"WORKGROUP_SIZE_{axis}": n for axis, n in zip("XYZ", (BLOCK, 1, 1), strict=True)}
    grid = {f"GRID_SIZE_{axis}": n for axis, n in zip("XYZ", (N, 1, 1), strict=True)}
    return sizes | grid | {"DIMENSIONS": 1, "PRIVATE_SEGMENT_SIZE": program.kernel.private_bytes,
                           "GROUP_SEGMENT_SIZE": 0, "KERNEL_OBJECT": program.descriptor_address,
                           "KERNARG_ADDRESS": kernarg.address}


def test_kernels_see_the_packet_in_the_ring(card: hcq.Device) -> None:
    program = card.program(compiled(KERNELS), "packet")
    out = card.alloc(4096).fill(0)
    card.synchronize()
    queue = hcq.AqlQueue(card)
    number = ring(queue).wptr + queue.dump().count("BARRIER_AND")
    queue.memory_barrier().exec(program, (out,), (1, 2), (1, 1)).submit().wait()
    words = out.copyout().view(np.uint32)
    assert words[0] >> 16 == 2 and words[3:6].tolist() == [1, 2, 1]
    assert int(words[8]) | int(words[9]) << 32 == program.descriptor_address
    assert number <= int(words[16]) | int(words[17]) << 32 < ring(queue).wptr
    assert not notes(card)


def test_queues_of_two_cards_wait_for_each_other(pair: list[hcq.Device], add: hcq.Program) -> None:
    one, other = pair
    there, back = other.signal(), one.signal(1)
    buffer = one.alloc(4 * N).copyin(np.zeros(N, np.int32))
    one.synchronize()
    hcq.AqlQueue(one).wait(there, 5).memory_barrier().exec(add, (buffer, buffer, np.int32(4)), N // BLOCK, BLOCK,
                                                           completion=back).submit()
    last = hcq.AqlQueue(other).barrier_and(back).submit()   # the other card sees the first one's completion
    assert not last.done
    hcq.AqlQueue(other, 1, priority="high").signal(there, 5).submit()
    last.wait()
    assert back.value == 0 and (ints(buffer) == 4).all()
    assert not notes(one) and not notes(other)


def test_signals_that_processes_share(card: hcq.Device, add: hcq.Program) -> None:
    """They are amd_signal_t, too: waited for, stored, counted down."""
    here = card.shared_signal(value=1)
    there = card.shared_signal(here.name)                   # as another process would have it
    buffer = card.alloc(4 * N).copyin(np.zeros(N, np.int32))
    card.synchronize()
    last = hcq.AqlQueue(card).barrier_and(there).submit()
    assert not last.done
    hcq.AqlQueue(card, 1).exec(add, (buffer, buffer, np.int32(2)), N // BLOCK, BLOCK, completion=here).submit()
    last.wait()
    assert there.value == 0
    held = hcq.AqlQueue(card).wait(there, 7).submit()
    hcq.ComputeQueue(card).signal(here, 7).submit()
    held.wait()
    assert there.value == 7 and (ints(buffer) == 2).all() and not notes(card)
    for signal in (there, here):
        signal.close()


# ---- profiles


def test_a_profile_by_completion_signals(card: hcq.Device, add: hcq.Program) -> None:
    buffer, left = card.alloc(4 * N).copyin(np.zeros(N, np.int32)), card.signal(1)
    card.synchronize()
    with card.profile() as profile:
        queue = hcq.AqlQueue(card)
        for _ in range(3):
            queue.memory_barrier().exec(add, (buffer, buffer, np.int32(1)), N // BLOCK, BLOCK)
        queue.memory_barrier().exec(add, (buffer, buffer, np.int32(1)), N // BLOCK, BLOCK, completion=left)
        queue.atomic(buffer[:4], "ADD", 10).submit().wait()
    spans = [span for span in profile.spans if span.queue == "AM:0 aql 0"]
    kernels = [span for span in spans if span.what == "kernel"]
    assert [span.name for span in kernels] == ["add"] * 4 and all(span.end > span.begin for span in kernels)
    assert {span.what for span in spans} == {"kernel", "barrier", "other", "signal"} and left.value == 0
    assert (ints(buffer)[1:] == 4).all() and ints(buffer)[0] == 14
    assert "kernel add" in profile.summary() and "AM:0 aql 0" in profile.summary()
    assert not notes(card)
    counts_agree(card)


# ---- what goes wrong


def test_the_debug_mode_knows_completion_signals(card: hcq.Device, add: hcq.Program) -> None:
    a, left = card.alloc(4 * N).fill(0), card.signal(1)
    card.synchronize()
    card.debug = True
    try:
        hcq.AqlQueue(card).exec(add, (a, a, np.int32(1)), 1, BLOCK, completion=left).submit()
        hcq.AqlQueue(card, 1).barrier_and(left).exec(add, (a, a, np.int32(1)), 1, BLOCK).submit()
        with pytest.raises(hcq.RaceError, match="nothing puts them in order"):
            hcq.AqlQueue(card).exec(add, (a, a, np.int32(1)), 1, BLOCK).submit()
    finally:
        card.debug = False


@pytest.mark.parametrize(("fault", "message"), [
    # the engine's interrupt comes before the queue's own signal is told: who looks in between knows of the first only
    ("aql-invalid", r"(unknown opcode: AM:0 aql 0|AM:0 aql 0.*a packet of no known type).*KERNEL_DISPATCH"),
    ("queue-hang", r"waited .* AM:0 aql 0 to complete submission .*packets pending, next is KERNEL_DISPATCH")])
def test_a_queue_that_stops_is_named_and_comes_back(monkeypatch: pytest.MonkeyPatch, fault: str, message: str) -> None:
    monkeypatch.setattr(smu, "RESET_TIME", 0)
    monkeypatch.setattr(psp, "HANDSHAKE_DELAY", 0)
    monkeypatch.setattr(gfx, "DEQUEUE_TIMEOUT", 0.2)
    with cards(1, "512M") as (card,):
        add = card.program(compiled(), "add")
        buffer = card.alloc(4 * N).copyin(np.zeros(N, np.int32))
        card.synchronize()
        hcq.AqlQueue(card).exec(add, (buffer, buffer, np.int32(1)), N // BLOCK, BLOCK).submit().wait()
        board = card.backend.device.pci.board                   # type: ignore[attr-defined]
        board.faults.inject(fault, queue="compute 1.1.0", count=1)
        lost = hcq.AqlQueue(card).exec(add, (buffer, buffer, np.int32(1)), N // BLOCK, BLOCK).submit()
        with pytest.raises((GpuFault, hcq.DeviceTimeout)) as caught:
            lost.wait(timeout=0.3)
        import re
        text = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
        assert re.search(message, text, re.DOTALL), text
        assert "AM:0 aql 0" in card.recover()
        with pytest.raises(hcq.SubmissionFailedError):
            lost.wait()
        buffer.copyin(np.zeros(N, np.int32))
        card.synchronize()
        hcq.AqlQueue(card).memory_barrier().exec(add, (buffer, buffer, np.int32(7)), N // BLOCK, BLOCK).submit().wait()
        assert (ints(buffer) == 7).all()
        card.backend.device.reset()                             # type: ignore[attr-defined]
        for image in card._images.values():
            image.upload(card)
        scratch = card.program(compiled(KERNELS), "scratch")
        buffer.copyin(np.ones(N, np.int32))
        card.synchronize()
        hcq.AqlQueue(card).memory_barrier().exec(scratch, (buffer, np.int32(7)), N // BLOCK, BLOCK).submit().wait()
        assert np.array_equal(ints(buffer), 7 + np.arange(N))   # after a reset of the whole card, too


def test_a_pm4_queue_in_the_place_of_an_aql_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next owner of a card that was left in order makes another kind of queue in the same place."""
    import mock
    from amdrv.backend import open_backend
    from amdrv.hal.mock import MockHal
    with mock.Machine(gpus=[mock.Gpu("gfx1100", vram="128M")]) as machine:
        for kind in (hcq.AqlQueue, hcq.ComputeQueue, hcq.AqlQueue):
            with hcq.Device(open_backend(hal=MockHal(machine))) as card:
                done = card.signal()
                kind(card, int(kind is hcq.ComputeQueue)).signal(done, 3).submit().wait()
                assert done.value == 3 and card.backend.device.gfx.queues[1] == (1, 1, 0)      # type: ignore[attr-defined]
                kind(card, int(kind is hcq.ComputeQueue)).timestamp(done).interrupt().submit().wait()
        assert card.backend.device.warm and not notes(card)     # type: ignore[attr-defined]


def test_backends_without_aql(dev: hcq.Device) -> None:
    with pytest.raises(hcq.QueueError, match="has 0 aql queues; queue 0 is not one of them"):
        hcq.AqlQueue(dev)
