"""SDMA: queues brought up by registers, packets as raw words, what halts them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_board import RWX, RawBoard, S, Tables
from sdma_rig import NOP, RING_BYTES, SIGNAL, SOURCE, TARGET, Queue, copy, fence, lohi

from mock.machine import Gpu, Machine


@pytest.fixture
def raw() -> Iterator[RawBoard]:
    with Machine([Gpu(vram="64M")]) as machine:
        board = machine.gpus[0]
        board.config.write(4, 2, 6)
        raw = RawBoard(board)
        raw.start_hub("GC")
        raw.load_firmware()
        yield raw


@pytest.fixture
def tables(raw: RawBoard) -> Tables:
    tables = Tables(raw)
    raw.context("GC", 1, tables.root)
    return tables


@pytest.fixture
def queue(raw: RawBoard, tables: Tables) -> Queue:
    return Queue(raw, tables)


def test_copy_and_fence(raw: RawBoard, tables: Tables, queue: Queue) -> None:
    n = 3 * 4096 + 77
    source = tables.buffer(SOURCE, n)
    target = tables.buffer(TARGET, n + 5, fill=0xEE)
    signal = raw.words(tables.buffer(SIGNAL, 4096), 2)
    raw.words(source, n, np.uint8)[:] = np.random.default_rng(1).integers(0, 256, n)
    queue.put(copy(TARGET, SOURCE, n) + fence(SIGNAL, 0x1234))
    raw.wait(lambda: signal[0] == 0x1234, "the fence")
    assert np.array_equal(raw.words(target, n, np.uint8), raw.words(source, n, np.uint8))
    assert (raw.words(target + n, 5, np.uint8) == 0xEE).all()
    queue.drain()
    assert raw.board.counters["copied_bytes"] == n
    assert raw.board.counters["sdma_packets"] == 2
    assert raw.peek("SDMA0_QUEUE0_RB_RPTR") == queue.write * 4


def test_copy_to_scattered_system_memory(raw: RawBoard, tables: Tables, queue: Queue) -> None:
    room = np.zeros(6 * 4096, np.uint8)
    host = room[-room.ctypes.data % 4096:][:4 * 4096]
    bus = [raw.board.bus.attach(host.ctypes.data + i * 8192, 8192) for i in (1, 0)]      # the halves change places
    for i, address in enumerate(bus):
        tables.map(TARGET + i * 8192, address, 8192, RWX | S)
    source = tables.buffer(SOURCE, 4 * 4096)
    raw.words(source, 4 * 4096, np.uint8)[:] = np.arange(4 * 4096) % 251
    queue.put(copy(TARGET + 100, SOURCE + 100, 4 * 4096 - 200))
    queue.drain()
    expected = raw.words(source, 4 * 4096, np.uint8)
    assert np.array_equal(host[8192 + 100:], expected[100:8192])
    assert np.array_equal(host[:8192 - 100], expected[8192:-100])


def test_two_engines_and_trap(raw: RawBoard, tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int, int, tuple[int, ...]]] = []
    monkeypatch.setattr(raw.board.ih, "post", lambda client, source, *, ring_id=0, data=(), **rest:
                        seen.append((client, source, ring_id, data)))
    for engine in (0, 1):
        queue = Queue(raw, tables, engine)
        queue.put([6, 0x77 + engine])
        queue.drain()
    assert seen == [(0x0A, 49, 0x00, (0x77, 0, 0, 0)), (0x0A, 49, 0x10, (0x78, 0, 0, 0))]


def test_trap_needs_its_enable(raw: RawBoard, tables: Tables) -> None:
    queue = Queue(raw, tables, skip=["SDMA0_CNTL"])
    queue.put([6, 0])
    queue.drain()
    assert "interrupt-off" in raw.rules


def test_ring_wraps(raw: RawBoard, tables: Tables, queue: Queue) -> None:
    signal = raw.words(tables.buffer(SIGNAL, 4096), 2)
    for i in range(1, 6):
        queue.put([NOP] * 900 + fence(SIGNAL, i))
        raw.wait(lambda i=i: signal[0] == i, f"fence {i}")      # type: ignore[misc]
    queue.drain()
    assert queue.write * 4 > RING_BYTES
    assert raw.peek("SDMA0_QUEUE0_RB_RPTR") == queue.write * 4          # positions do not wrap


def test_fill_write_timestamp_mem_incr(raw: RawBoard, tables: Tables, queue: Queue) -> None:
    target = tables.buffer(TARGET, 2 * 4096)
    before = raw.board.clock()
    queue.put([0xB | 2 << 30, *lohi(TARGET + 4), 0xCAFE0123, 4 * 5 - 1])
    queue.put([0xB, *lohi(TARGET + 0x101), 0xAB, 3 - 1])
    queue.put([2, *lohi(TARGET + 0x200), 2 - 1, 0x11111111, 0x22222222])
    queue.put([0xD | 2 << 8, *lohi(TARGET + 0x300)])
    queue.put([7 | 1 << 8, *lohi(TARGET + 0x400)] * 3)
    queue.drain()
    words = raw.words(target, 1024)
    assert words[0] == 0 and (words[1:6] == 0xCAFE0123).all() and words[6] == 0
    assert raw.words(target + 0x100, 5, np.uint8).tolist() == [0, 0xAB, 0xAB, 0xAB, 0]
    assert words[0x80:0x83].tolist() == [0x11111111, 0x22222222, 0]
    assert before <= int(raw.words(target + 0x300, 1, np.uint64)[0]) <= raw.board.clock()
    assert words[0x100] == 3


def test_a_packet_longer_than_what_is_fetched_at_a_time(raw: RawBoard, tables: Tables, queue: Queue,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mock.sdma.FETCH_WORDS", 16)
    target = tables.buffer(TARGET, 4096)
    queue.put([NOP] * 9 + [2, *lohi(TARGET), 99, *range(100)])
    queue.drain()
    assert raw.words(target, 101).tolist() == [*range(100), 0]


def test_write_incr_makes_page_table_entries(raw: RawBoard, tables: Tables, queue: Queue) -> None:
    target = tables.buffer(TARGET, 4096)
    queue.put([0xC, *lohi(TARGET), *lohi(RWX), *lohi(0x5000), *lohi(0x1000), 16 - 1])
    queue.drain()
    assert raw.words(target, 17, np.uint64).tolist() == [0x5000 + i * 0x1000 | RWX for i in range(16)] + [0]


def test_sub_window(raw: RawBoard, tables: Tables, queue: Queue) -> None:
    source, target = tables.buffer(SOURCE, 4096), tables.buffer(TARGET, 4096)
    raw.words(source, 64 * 16)[:] = np.arange(64 * 16)
    element, pitch_s, pitch_d = 2, 64, 32
    queue.put([1 | 4 << 8 | element << 29, *lohi(SOURCE), 3 | 2 << 16, (pitch_s - 1) << 13, 64 * 16 - 1,
               *lohi(TARGET), 1 | 4 << 16, (pitch_d - 1) << 13, 32 * 16 - 1, (10 - 1) | (5 - 1) << 16, 0])
    queue.drain()
    expected = np.zeros((32, 32), np.uint32)
    expected[4:9, 1:11] = np.arange(64 * 16).reshape(16, 64)[2:7, 3:13]
    assert np.array_equal(raw.words(target, 1024).reshape(32, 32), expected)


def test_indirect_buffer(raw: RawBoard, tables: Tables, queue: Queue) -> None:
    ib = raw.words(tables.buffer(SOURCE, 4096), 64)
    signal = raw.words(tables.buffer(SIGNAL, 4096), 2)
    words = fence(SIGNAL, 5) + [NOP] * 4
    ib[:len(words)] = words
    queue.put([NOP] * 2 + [4, *lohi(SOURCE), len(words), 0, 0])
    queue.drain()
    assert signal[0] == 5
    assert raw.board.counters["sdma_packets"] == 2 + 1 + 1 + 4


@pytest.mark.parametrize(("words", "why"), [
    ([NOP, 4, *lohi(SOURCE), 8, 0, 0], "must end on a multiple of 8"),
    ([NOP, NOP, 4, *lohi(SOURCE + 16), 8, 0, 0], "not aligned to 32 bytes"),
    ([0x55], "no packet with OP 85"),
    ([1 | 9 << 8], "no packet with OP 1 and SUB_OP 9"),
    ([8 | 7 << 28, 0, 0, 0, 0, 0], "no comparison 7"),
])
def test_bad_packets_stop_the_queue(raw: RawBoard, tables: Tables, queue: Queue, words: list[int], why: str,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(raw.board.ih, "post", lambda client, source, **rest: seen.append(source))
    tables.buffer(SOURCE, 4096)
    queue.put([*words, *fence(SIGNAL, 1)])
    raw.wait(lambda: raw.board.notes.of("sdma-hang"), "the exception")
    assert why in str(raw.board.notes.of("sdma-hang")[0])
    assert raw.field("SDMA0_QUEUE0_CONTEXT_STATUS", "EXCEPTION") == 1
    assert seen == [55]
    # off and on again: a fresh ring works
    raw.update("SDMA0_QUEUE0_RB_CNTL", RB_ENABLE=0)
    again = Queue(raw, tables)          # its ring is other memory at the same address
    raw.invalidate("GC", 1 << 1)
    again.put([NOP])
    again.drain()


def test_page_fault_stops_the_queue(raw: RawBoard, tables: Tables, queue: Queue) -> None:
    queue.put(copy(TARGET, SOURCE, 64))
    raw.wait(lambda: raw.board.notes.of("sdma-hang"), "the fault")
    assert raw.peek("GCVM_L2_PROTECTION_FAULT_ADDR_LO32") == TARGET >> 12 & 0xFFFFFFFF
    assert raw.field("GCVM_L2_PROTECTION_FAULT_STATUS", "CID") == 13


def test_poll_waits_without_holding_others(raw: RawBoard, tables: Tables, queue: Queue) -> None:
    signal = raw.words(tables.buffer(SIGNAL, 4096), 4)
    other = Queue(raw, tables, engine=1)
    queue.put([8 | 5 << 28 | 1 << 31, *lohi(SIGNAL), 7, 0xFFFFFFFF, 10 | 0xFFF << 16, *fence(SIGNAL + 4, 1)])
    other.put(fence(SIGNAL + 8, 1))
    raw.wait(lambda: signal[2] == 1, "the other engine's fence")
    assert signal[1] == 0
    signal[0] = 9
    raw.wait(lambda: signal[1] == 1, "the end of the wait")


def test_poll_gives_up(raw: RawBoard, tables: Tables, queue: Queue) -> None:
    tables.buffer(SIGNAL, 4096)
    queue.put([8 | 3 << 28 | 1 << 31, *lohi(SIGNAL), 7, 0xFFFFFFFF, 10 | 3 << 16])
    raw.wait(lambda: raw.board.notes.of("sdma-hang"), "the timeout")
    assert "not true after 4 looks" in str(raw.board.notes.of("sdma-hang")[0])


def test_registers_from_packets(raw: RawBoard, tables: Tables, queue: Queue) -> None:
    scratch = raw.board.regs.dword("SCRATCH_REG0")
    queue.put([0xE | 0xF << 28, scratch, 0xDEADBEEF])
    queue.put([8 | 3 << 28, scratch << 2, 0, 0xBEEF, 0xFFFF, 0xFFF << 16])
    queue.put([0xE | 0x1 << 28, scratch, 0x12])
    queue.drain()
    assert raw.peek("SCRATCH_REG0") == 0xDEADBE12


def test_cond_exe(raw: RawBoard, tables: Tables, queue: Queue) -> None:
    signal = raw.words(tables.buffer(SIGNAL, 4096), 4)
    queue.put([9, *lohi(SIGNAL), 1, 4, *fence(SIGNAL + 4, 1), *fence(SIGNAL + 8, 1)])
    queue.drain()
    assert signal[:3].tolist() == [0, 0, 1]


@pytest.mark.parametrize(("op", "old", "source", "compare", "new"), [
    (79, 7, 5, 0, 12), (79, 0xFFFFFFFF, 2, 0, 1), (72, 7, 9, 7, 9), (72, 7, 9, 8, 7), (87, 3, 5, 0, 6),
    (88, 4, 4, 0, 0), (89, 0, 9, 0, 9), (81, 1, 0xFFFFFFFF, 0, 0xFFFFFFFF), (82, 1, 0xFFFFFFFF, 0, 1),
    (111, 1 << 40, 1, 0, (1 << 40) + 1)])
def test_atomics(raw: RawBoard, tables: Tables, queue: Queue, op: int, old: int, source: int, compare: int,
                 new: int) -> None:
    word = raw.words(tables.buffer(SIGNAL, 4096), 1, np.uint64)
    word[0] = old
    queue.put([0xA | op << 25, *lohi(SIGNAL), *lohi(source), *lohi(compare), 0])
    queue.drain()
    assert int(word[0]) == new


class TestWhatTheQueueNeeds:
    """Each thing that sdma_v6_0_gfx_resume writes has its consequence."""

    def idle(self, raw: RawBoard, queue: Queue) -> bool:
        queue.put([NOP])
        return not raw.board.engine("sdma 0.0").wait_idle(0.05) or not queue.done

    @pytest.mark.parametrize("register", ["SDMA0_F32_CNTL", "RB_BASE", "RB_BASE_HI", "RB_RPTR_ADDR_HI", "DOORBELL",
                                          "DOORBELL_OFFSET"])
    def test_missing_register(self, raw: RawBoard, tables: Tables, register: str) -> None:
        assert self.idle(raw, Queue(raw, tables, skip=[register]))

    def test_firmware(self, raw: RawBoard, tables: Tables) -> None:
        raw.board.psp.loaded.discard("SDMA_UCODE_TH1")
        assert self.idle(raw, Queue(raw, tables))
        assert "sdma-firmware" in raw.rules

    def test_autoload(self, raw: RawBoard, tables: Tables) -> None:
        raw.board.psp.autoload_done = False
        assert self.idle(raw, Queue(raw, tables))

    def test_minor_pointer_update_holds_the_queue(self, raw: RawBoard, tables: Tables, queue: Queue) -> None:
        raw.poke("SDMA0_QUEUE0_MINOR_PTR_UPDATE", 1)
        assert self.idle(raw, queue)
        raw.poke("SDMA0_QUEUE0_MINOR_PTR_UPDATE", 0)
        queue.drain()

    def test_write_pointer_back(self, raw: RawBoard, tables: Tables, queue: Queue) -> None:
        queue.put([NOP] * 64)
        queue.drain()
        raw.poke("SDMA0_QUEUE0_RB_WPTR", 0)
        assert "sdma-wptr" in raw.rules
        raw.update("SDMA0_QUEUE0_RB_CNTL", RB_ENABLE=0)
        raw.poke("SDMA0_QUEUE0_RB_WPTR", 0)
        assert raw.board.sdma.queues[0][0].write == 256
        raw.poke("SDMA0_QUEUE0_RB_RPTR", 0)
        raw.poke("SDMA0_QUEUE0_MINOR_PTR_UPDATE", 1)
        raw.poke("SDMA0_QUEUE0_RB_WPTR", 0)
        raw.poke("SDMA0_QUEUE0_MINOR_PTR_UPDATE", 0)
        raw.update("SDMA0_QUEUE0_RB_CNTL", RB_ENABLE=1)
        queue.write = 0
        queue.put([NOP])
        queue.drain()

    def test_indirect_buffers_enabled(self, raw: RawBoard, tables: Tables) -> None:
        queue = Queue(raw, tables, skip=["IB_CNTL"])
        tables.buffer(SOURCE, 4096)
        queue.put([NOP] * 2 + [4, *lohi(SOURCE), 8, 0, 0])
        raw.wait(lambda: raw.board.notes.of("sdma-hang"), "the exception")
        assert "IB_ENABLE" in str(raw.board.notes.of("sdma-hang")[0])

    def test_doorbell_in_use_by_nobody(self, raw: RawBoard) -> None:
        raw.board.sdma.doorbell(0x900, 4, 8)
        assert "doorbell-unattached" in raw.rules


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moves=st.lists(st.tuples(st.integers(0, 8191), st.integers(0, 8191), st.integers(1, 8192)), min_size=1,
                      max_size=6))
def test_copies_against_a_model(raw: RawBoard, tables: Tables, queue: Queue, moves: list[tuple[int, int, int]]) -> None:
    """Any sequence of copies between two buffers: equal to the same done by NumPy."""
    if not hasattr(queue, "areas"):
        queue.areas = (tables.buffer(SOURCE, 16384), tables.buffer(TARGET, 16384))     # type: ignore[attr-defined]
    source, target = (raw.words(at, 16384, np.uint8) for at in queue.areas)             # type: ignore[attr-defined]
    source[:] = np.arange(16384) * 7 % 256
    target[:] = 0
    model = target.copy()
    words: list[int] = []
    for dst, src, nbytes in moves:
        model[dst:dst + nbytes] = source[src:src + nbytes]
        words += copy(TARGET + dst, SOURCE + src, nbytes)
    queue.put(words)
    queue.drain()
    assert np.array_equal(target, model)


def test_copy_into_another_card() -> None:
    """Through the other card's BAR0 on the bus: its engines and its CPU window see it."""
    with Machine([Gpu(vram="64M"), Gpu(vram="64M")]) as machine:
        first, second = machine.gpus
        for board in (first, second):
            board.write_config(4, 2, 6)
        raw = RawBoard(first)
        raw.start_hub("GC")
        raw.load_firmware()
        tables = Tables(raw)
        raw.context("GC", 1, tables.root)
        queue = Queue(raw, tables)
        source = tables.buffer(SOURCE, 8192)
        raw.words(source, 8192, np.uint8)[:] = np.arange(8192) % 253
        window = np.frombuffer(second.bar_memory(0, 0x10_0000, 8192), np.uint8)
        tables.map(TARGET, second.config.bar_address(0) + 0x10_0000, 8192, RWX | S)
        queue.put(copy(TARGET, SOURCE, 8192))
        queue.drain()
        expected = raw.words(source, 8192, np.uint8)
        assert np.array_equal(second.vram.view[0x10_0000:0x10_2000], expected)
        assert np.array_equal(window, expected)


class TestWritePointerShadow:
    """F32_WPTR_POLL_ENABLE: the firmware reads the write pointer in memory, too."""

    def shadowed(self, raw: RawBoard, tables: Tables) -> Queue:
        queue = Queue(raw, tables)
        raw.poke("SDMA0_QUEUE0_RB_WPTR_POLL_ADDR_LO", queue.ring_va + RING_BYTES + 64 & 0xFFFFFFFF)
        raw.poke("SDMA0_QUEUE0_RB_WPTR_POLL_ADDR_HI", queue.ring_va + RING_BYTES >> 32)
        raw.update("SDMA0_QUEUE0_RB_CNTL", F32_WPTR_POLL_ENABLE=1)
        return queue

    def test_kept_equal(self, raw: RawBoard, tables: Tables) -> None:
        queue = self.shadowed(raw, tables)
        queue.pointers[8] = 4
        queue.put([NOP])
        queue.drain()
        assert not raw.board.notes

    def test_forgotten(self, raw: RawBoard, tables: Tables) -> None:
        queue = self.shadowed(raw, tables)
        queue.put([NOP])
        queue.drain()
        assert raw.rules == {"sdma-wptr-shadow"}

    def test_address_not_mapped(self, raw: RawBoard, tables: Tables) -> None:
        queue = self.shadowed(raw, tables)
        raw.poke("SDMA0_QUEUE0_RB_WPTR_POLL_ADDR_HI", 0x1234)
        queue.put([NOP])
        raw.wait(lambda: raw.board.notes.of("sdma-hang"), "the fault")
