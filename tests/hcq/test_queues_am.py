"""Queues by hand on the software card: every kind of command, several queues, rings that run full, indirect buffers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from two_cards import cards, compiled, notes

import hcq
from mock.swizzle import Surface as MockSurface


@pytest.fixture(scope="module")
def pair() -> Iterator[list[hcq.Device]]:
    with cards(2) as devices:
        yield devices


@pytest.fixture(scope="module")
def card(pair: list[hcq.Device]) -> hcq.Device:
    return pair[0]


KINDS = [hcq.ComputeQueue, hcq.CopyQueue]


@pytest.mark.parametrize("kind", KINDS)
def test_words_polls_and_atomics(card: hcq.Device, kind: type) -> None:
    buffer = card.alloc(4096)
    buffer.fill(0)
    card.synchronize()
    data = np.arange(100, 1100, dtype=np.uint32)
    kind(card).write(buffer[64:], data[:900]).atomic(buffer[64:68], "ADD", -1).atomic(
        buffer[72:80], "UMAX", 1 << 40, bits=64).poll(buffer[64:68], 99).poll(
        buffer[64:68], 0x60, mask=0xF0).poll(buffer[64:68], 98, compare="GREATER").atomic(
        buffer[80:84], "CMPSWAP", 7, compare=104).interrupt().submit().wait()
    words = buffer.copyout().view(np.uint32)
    assert words[16] == 99 and words[18:20].tolist() == [0, 256] and words[20] == 7
    assert np.array_equal(words[21:16 + 900], data[5:900])
    held = kind(card).poll(buffer[0:4], 5).atomic(buffer[4:8], "SWAP", 77).submit()
    other = hcq.CopyQueue(card, 1)
    assert not held.done
    other.write(buffer, np.array([5], np.uint32)).submit()
    held.wait()
    assert buffer.copyout().view(np.uint32)[1] == 77
    assert "ATOMIC" in kind(card).atomic(buffer[:4], "XOR", 1).dump()


@pytest.mark.parametrize(("message", "use"), [
    ("write takes some uint32 or int32 words, not float64", lambda q, b: q.write(b, [1.5])),
    ("write of 5000 bytes to a buffer of 4096", lambda q, b: q.write(b, np.zeros(1250, np.uint32))),
    ("takes some uint32", lambda q, b: q.write(b, np.zeros(0, np.uint32))),
    ("at a multiple of 4", lambda q, b: q.write(b[2:], np.zeros(1, np.uint32))),
    ("poll compares by ALWAYS, .* not by 'SAME'", lambda q, b: q.poll(b, 1, compare="SAME")),
    (r"poll: the value is 0 to 2\*\*32-1, not -1", lambda q, b: q.poll(b, -1)),
    (r"poll: the mask is 0 to 2\*\*32-1, not 1.5", lambda q, b: q.poll(b, 1, mask=1.5)),
    ("a 32-bit word at a multiple of 4", lambda q, b: q.poll(b[2:], 1)),
    ("atomic operations are SWAP, .* not 'NAND'", lambda q, b: q.atomic(b, "NAND", 1)),
    ("of 32 or 64 bits, not 'ADD' of 16", lambda q, b: q.atomic(b, "ADD", 1, bits=16)),
    ("the operand has 32 bits, 4294967296 does not fit", lambda q, b: q.atomic(b, "ADD", 1 << 32)),
    ("only CMPSWAP is tried again", lambda q, b: q.atomic(b, "ADD", 1, loop=True)),
    ("the word must fit, at a multiple of 8", lambda q, b: q.atomic(b[4:], "ADD", 1, bits=64)),
    ("expected a Buffer", lambda q, b: q.poll(np.zeros(4, np.uint32), 1)),
])
@pytest.mark.parametrize("kind", KINDS)
def test_what_words_refuse(card: hcq.Device, kind: type, message: str, use) -> None:  # type: ignore[no-untyped-def]
    queue = kind(card)
    with pytest.raises(hcq.QueueError, match=message):
        use(queue, card.alloc(4096))
    assert not len(queue)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_windows(card: hcq.Device, data: st.DataObject) -> None:
    """A box between two larger arrays of any strides, against NumPy's strided views."""
    size = data.draw(st.sampled_from([1, 2, 4, 8, 16]))
    shape = tuple(data.draw(st.integers(1, top)) for top in (3, 9, 21))
    unit = max(size, 4)
    sides = []
    for _ in range(2):
        row = -(-shape[2] * size // unit) * unit + unit * data.draw(st.integers(0, 3))
        plane = row * shape[1] + unit * data.draw(st.integers(0, 2))
        sides.append((plane, row, 4 * data.draw(st.integers(0, 5))))
    memory = np.random.default_rng(0).integers(0, 256, (2, 8192), np.uint8)
    to, origin = (card.alloc(8192).copyin(part) for part in memory)
    expected = memory[0].copy()
    views = [np.lib.stride_tricks.as_strided(array[start:], (*shape, size), (plane, row, size, 1))
             for array, (plane, row, start) in zip((expected, memory[1]), sides, strict=True)]
    views[0][...] = views[1]
    hcq.CopyQueue(card).copy_window(to[sides[0][2]:], origin[sides[1][2]:], shape, element_bytes=size,
                                    destination_strides=sides[0][:2], source_strides=sides[1][:2]).submit().wait()
    assert np.array_equal(to.copyout(), expected)


def test_windows_larger_than_a_packet(card: hcq.Device) -> None:
    width, height = (1 << 14) + 100, 3
    host = np.arange(width * height, dtype=np.uint8).reshape(height, width)
    source, target = card.alloc(width * height).copyin(host), card.alloc(width * height)
    target.fill(0)
    queue = hcq.CopyQueue(card).copy_window(target, source, (height, width), element_bytes=1)
    assert queue.dump().count("COPY_LINEAR_SUBWIN") == 2 and "RECT_X = 0x3fff" in queue.dump()
    card.synchronize()
    queue.submit().wait()
    assert np.array_equal(target.copyout().reshape(height, width), host)


@pytest.mark.parametrize(("message", "use"), [
    ("shape is .y, x. or .z, y, x., each at least 1", lambda q, a, b: q.copy_window(a, b, (0, 4))),
    ("a shape is a row of integers", lambda q, a, b: q.copy_window(a, b, (1.5, 4))),
    ("spans 4100 bytes; the buffer has 4096", lambda q, a, b: q.copy_window(a, b, (1, 1025))),
    ("they would overlap", lambda q, a, b: q.copy_window(a, b, (4, 8), source_strides=(16,))),
    ("elements have 1, 2, 4, 8 or 16 bytes, not 3", lambda q, a, b: q.copy_window(a, b, (4, 4), element_bytes=3)),
    ("a row pitch of 33 bytes", lambda q, a, b: q.copy_window(a, b, (4, 8), element_bytes=1, source_strides=(33,))),
    ("addresses at multiples of 4", lambda q, a, b: q.copy_window(a[2:], b, (4, 8), element_bytes=2)),
    ("between ranges that overlap", lambda q, a, b: q.copy_window(a, a[64:], (4, 8))),
    ("leaves a surface of", lambda q, a, b: q.tile(a, hcq.Surface(8, 8), b, (4, 8), at=(5, 0))),
    ("a tiled surface is a hcq.Surface", lambda q, a, b: q.tile(a, (8, 8), b, (4, 8))),
])
def test_what_windows_refuse(card: hcq.Device, message: str, use) -> None:  # type: ignore[no-untyped-def]
    queue = hcq.CopyQueue(card)
    with pytest.raises(hcq.QueueError, match=message):
        use(queue, card.alloc(4096), card.alloc(4096))
    assert not len(queue)


@pytest.mark.parametrize("swizzle", [6, 26])            # 4KB_D, 64KB_D_X
def test_tiled_surfaces(card: hcq.Device, swizzle: int) -> None:
    surface = hcq.Surface(100, 70, element_bytes=4, swizzle=swizzle)
    tiled, linear, back = card.alloc(1 << 18), card.alloc(4 * 100 * 70), card.alloc(4 * 100 * 70)
    image = np.random.default_rng(1).integers(0, 1 << 32, (70, 100), np.uint32)
    linear.copyin(image)
    tiled.fill(0)
    back.fill(0)
    card.synchronize()
    queue = hcq.CopyQueue(card).tile(tiled, surface, linear, (70, 100))
    queue.detile(back[4 * 205:], tiled, surface, (10, 20), at=(30, 40), linear_strides=(400,)).submit().wait()
    got = back.copyout().view(np.uint32)[205:205 + 9 * 100 + 20]
    assert np.array_equal(np.lib.stride_tricks.as_strided(got, (10, 20), (400, 4)), image[30:40, 40:60])
    places = MockSurface(0, 2, 100, 70, swizzle, 1).at(np.arange(100), np.arange(70)[:, None], np.array([0]))
    assert np.array_equal(tiled.copyout().view(np.uint32)[(places >> np.uint64(2)).astype(int)].reshape(70, 100), image)


def test_compute_queues_with_priorities(card: hcq.Device) -> None:
    add = card.program(compiled(), "add")
    gate, done = card.signal(), card.signal()
    a, b, c = (card.alloc(1024).copyin(np.zeros(256, np.int32)) for _ in range(3))
    card.synchronize()
    first = hcq.ComputeQueue(card).wait(gate, 1).memory_barrier().exec(add, (a, c, np.int32(1)), 4, 64).submit()
    high, low = hcq.ComputeQueue(card, 1, priority="high"), hcq.ComputeQueue(card, 2, priority="low")
    high.memory_barrier().exec(add, (b, c, np.int32(2)), 4, 64).signal(done, 1).submit()
    low.wait(done, 1).memory_barrier().exec(add, (c, b, np.int32(3)), 4, 64).signal(gate, 1)
    assert "DISPATCH_DIRECT" in low.dump()
    low.submit()
    first.wait()                                # the other two ran while it stood still, and let it go on
    assert (c.copyout().view(np.int32) == 5).all() and (a.copyout().view(np.int32) == 6).all()
    registers = card.backend.device.regs                    # type: ignore[attr-defined]
    gfx = card.backend.device.gfx                           # type: ignore[attr-defined]
    for number, priority in ((1, (2, 15)), (2, (0, 0))):
        with gfx.select(*gfx.queues[number]):
            assert (int(registers.CP_HQD_PIPE_PRIORITY.read()), int(registers.CP_HQD_QUEUE_PRIORITY.read())) == priority
    assert hcq.ComputeQueue(card, 1).timeline is high.timeline
    for message, index, priority in [("has priority 'high', not 'low'", 1, "low"), ("'urgent'", 3, "urgent"),
                                     ("queue 9 is not one of them", 9, None), ("queue -1", -1, None),
                                     ("queue True is not", True, None)]:
        with pytest.raises(hcq.QueueError, match=message):
            hcq.ComputeQueue(card, index, priority=priority)
    with pytest.raises(hcq.QueueError, match="2 copy engines, with one queue each; queue 2 is not one"):
        hcq.CopyQueue(card, 2)
    for index in range(3, 8):
        hcq.ComputeQueue(card, index)
    with pytest.raises(hcq.QueueError, match="has 8 compute queues; there are no more"):
        hcq.ComputeQueue(card, 8)
    add(a, a, np.int32(1), grid=4, block=64)    # launches and copies go on in the order of all of them
    assert (a.copyout().view(np.int32) == 7).all() and not notes(card)


def test_signals_of_another_device(pair: list[hcq.Device]) -> None:
    one, other = pair
    there, back = other.signal(), one.signal()
    buffer = one.alloc(4096)
    point = hcq.CopyQueue(one).wait(there, 5).fill(buffer, 9).signal(there, 6).submit()
    last = hcq.ComputeQueue(other).wait(there, 6).signal(back, 1).submit()
    assert not point.done
    hcq.CopyQueue(other).signal(there, 5).submit()
    last.wait()
    assert back.value == 1 and there.value == 6 and (buffer.copyout().view(np.uint32) == 9).all()


@pytest.mark.parametrize("kind", KINDS)
def test_long_submissions_go_by_an_indirect_buffer(card: hcq.Device, kind: type) -> None:
    buffer = card.alloc(1 << 16)
    buffer.fill(0)
    card.synchronize()
    queue = kind(card)
    expected = np.zeros(1 << 14, np.uint32)
    for number in range(150):
        data = np.arange(number, number + 100, dtype=np.uint32)
        queue.write(buffer[4 * 97 * number:], data)
        expected[97 * number:97 * number + 100] = data
    statistics = card.backend.device.statistics             # type: ignore[attr-defined]
    queue.submit().wait()
    assert queue.dump().count("WRITE_") == 150
    assert np.array_equal(buffer.copyout().view(np.uint32), expected)
    card.backend.check()
    counters = card.backend.device.pci.board.counters       # type: ignore[attr-defined]
    for key in ("pm4_packets", "sdma_packets"):
        assert statistics[key] == counters[key], key


def test_rings_run_full_and_around(card: hcq.Device) -> None:
    """Many submissions while the engine stands still: the host waits for room, and nothing is lost or torn."""
    import threading
    ring = card.backend.device.sdma_rings[1]                # type: ignore[attr-defined]
    gate, buffer = card.signal(), card.alloc(4096)
    buffer.fill(0)
    card.synchronize()
    hcq.CopyQueue(card, 1).wait(gate, 1).submit()
    before, full = ring.wptr, threading.Event()

    def producer() -> None:
        for number in range(60):
            queue = hcq.CopyQueue(card, 1)
            queue.write(buffer, np.full(1000, number, np.uint32)).write(buffer, np.full(1000, number + 1, np.uint32))
            if ring.pending > ring.words - 4096:
                full.set()
            queue.submit()
    thread = threading.Thread(target=producer)
    thread.start()
    assert full.wait(60)
    gate.value = 1
    thread.join(120)
    card.synchronize()
    assert ring.wptr - before > ring.words                  # once around
    assert (buffer.copyout().view(np.uint32)[:1000] == 60).all() and not notes(card)


def test_lengths_of_packets_without_decoding_them() -> None:
    from amdrv import sdma
    from amdrv.facts import sdma6
    random = np.random.default_rng(3)
    words: list[int] = []
    for name in sdma6.PACKETS:
        values: dict[str, object] = {field: 0 for field in sdma._codec(name).operands}
        if sdma6.PACKETS[name].tail:
            values[sdma6.PACKETS[name].tail] = random.integers(0, 1 << 32, int(random.integers(2, 9))).tolist()
        words += sdma.build(name, **values)
    at, lengths = 0, []
    while at < len(words):
        lengths.append(sdma.length(words, at))
        at += lengths[-1]
    assert lengths == [len(packet.words) for packet in sdma.decode(words)]


OTHER_PROCESS = """
import sys
import numpy as np
import hcq
dev = hcq.open("AM")
there, back = dev.shared_signal(sys.argv[1]), dev.shared_signal(sys.argv[2])
buffer = dev.alloc(64)
hcq.CopyQueue(dev).wait(there, 5).fill(buffer, 3).signal(back, 7).submit()
print("waiting", there.value, flush=True)
back.wait(7)
assert (buffer.copyout().view(np.uint32) == 3).all()
dev.close()
"""


def test_signals_between_processes(card: hcq.Device) -> None:
    """An engine of another process waits for what an engine here stores, and the other way round."""
    import os
    import subprocess
    import sys
    there, back = card.shared_signal(), card.shared_signal(value=1)
    with subprocess.Popen([sys.executable, "-c", OTHER_PROCESS, there.name, back.name],
                          stdout=subprocess.PIPE, text=True,
                          env={**os.environ, "AMDRV_HAL": "mock", "PYTHONPATH": os.getcwd()}) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "waiting 0\n"
            assert back.value == 1
            done = card.signal()
            hcq.ComputeQueue(card).wait(back, 7).signal(done, 1).submit()
            hcq.ComputeQueue(card, 1).signal(there, 5).submit()
            done.wait(1, timeout=60)
            assert other.wait(60) == 0
        finally:
            other.kill()
    assert back.value == 7 and there.name in repr(there)
    for signal in (there, back):
        signal.close()
        signal.close()
    with pytest.raises(hcq.QueueError, match="there is no shared signal 'psm_nothing'"):
        card.shared_signal("psm_nothing")
