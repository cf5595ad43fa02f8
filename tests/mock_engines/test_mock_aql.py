"""AQL queues: packets packed by hand, indices, doorbells, signals with mailboxes, scratch on demand, errors."""

from __future__ import annotations

import struct
import time

import numpy as np
import pytest
from compute_rig import ARGS, DATA, DENORMALS, DOORBELL, Interrupts, Rig, lohi, packet, write_data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_board import RawBoard, Tables

from amdrv.facts import ih
from mock.aql import PROFILING
from mock.machine import Gpu, Machine

QUEUE, SIGNALS, KERNEL, IB, SCRATCH = 0x7E30_0000_0000, 0x7E31_0000_0000, 0x7E32_0000_0000, 0x7E33_0000_0000, \
    0x7E34_0000_0000
READ_ID, WRITE_ID, INACTIVE = 128, 56, 192
SLOTS = 64
VENDOR, INVALID, DISPATCH, AND, AGENT, OR = range(6)
CP, EOP = ih.SOC21_IH_CLIENTID_GRBM_CP, ih.GFX_11_0_0__SRCID__CP_EOP_INTERRUPT
# out[global id] = global id + kernarg value; s[0:1] kernarg, s2 workgroup, v0 work-item; groups of 32
ADD = (0xF4040100, 0xF8000000, 0xF4000180, 0xF8000008, 0xD6460000, 0x04010A02, 0x30020082, 0xBF89FC07, 0x4A040006,
       0xDC6A0000, 0x00040201, 0xBFB00000)
ADD_TEXT = """
  s_load_b64 s[4:5], s[0:1], null
  s_load_b32 s6, s[0:1], 0x8
  v_lshl_add_u32 v0, s2, 5, v0
  v_lshlrev_b32_e32 v1, 2, v0
  s_waitcnt lgkmcnt(0)
  v_add_nc_u32_e32 v2, s6, v0
  global_store_b32 v1, v2, s[4:5]
  s_endpgm
"""


def header(kind: int, *, barrier: int = 0, acquire: int = 0, release: int = 0) -> int:
    return kind | barrier << 8 | acquire << 9 | release << 11


def dispatch(grid: tuple[int, int, int], group: tuple[int, int, int], *, kernel: int = KERNEL, kernarg: int = ARGS,
             private: int = 0, shared: int = 0, signal: int = 0, dimensions: int = 1) -> bytes:
    return struct.pack("<HH3HH3IIIQQQQ", header(DISPATCH, acquire=2, release=2), dimensions, *group, 0, *grid, private,
                       shared, kernel, kernarg, 0, signal)


def barrier(kind: int, *signals: int, signal: int = 0) -> bytes:
    return struct.pack("<HHI5QQQ", header(kind), 0, 0, *(*signals, 0, 0, 0, 0, 0)[:5], 0, signal)


def barrier_value(on: int, value: int, mask: int, condition: int, *, signal: int = 0) -> bytes:
    return struct.pack("<HBBIQqqIIQQQ", header(VENDOR), 2, 0, 0, on, value, mask, condition, 0, 0, 0, signal)


def pm4(address: int, words: int, *, remain: int = 10, signal: int = 0) -> bytes:
    jump = packet(0x3F, *lohi(address), words | 1 << 23)
    return struct.pack("<HH4II8IQ", header(VENDOR), 1, *jump, remain, *[0] * 8, signal)


class Aql(Rig):
    """The rig's queue as an AQL queue, with an amd_queue_t, 64 signals and a kernel."""

    def __init__(self, raw: RawBoard, tables: Tables, *, profiling: bool = False, tmpring: int = 0) -> None:
        self.queue = raw.words(tables.buffer(QUEUE, 4096), 512, np.uint64)
        super().__init__(raw, tables, skip=("CP_HQD_ACTIVE",))
        words = self.queue.view(np.uint32)
        words[(READ_ID + 8) // 4] = READ_ID
        words[180 // 4] = PROFILING if profiling else 0
        words[140 // 4] = tmpring
        self.queue[160 // 8] = SCRATCH
        self.queue[INACTIVE // 8] = self.signal_at(63)
        self.signals = raw.words(tables.buffer(SIGNALS, 4096), 512, np.uint64).reshape(64, 8)
        self.signals[:, 0] = 1
        self.signals[:63, 1] = 1
        self.slots = self.ring[:16 * SLOTS].reshape(SLOTS, 16)
        self.slots[:, 0] = INVALID
        raw.poke("GRBM_GFX_CNTL", MEID=1)
        for name, address in (("CP_HQD_PQ_RPTR_REPORT_ADDR", QUEUE + READ_ID),
                              ("CP_HQD_PQ_WPTR_POLL_ADDR", QUEUE + WRITE_ID)):
            raw.poke(name, address & 0xFFFFFFFF)
            raw.poke(name + "_HI", address >> 32)
        raw.poke("CP_HQD_AQL_CONTROL", CONTROL0=1)
        raw.poke("CP_HQD_PQ_CONTROL", QUEUE_SIZE=(16 * SLOTS).bit_length() - 2, RPTR_BLOCK_SIZE=5, NO_UPDATE_RPTR=1,
                 SLOT_BASED_WPTR=2, QUEUE_FULL_EN=1)
        raw.poke("CP_HQD_ACTIVE", 1)
        raw.poke("GRBM_GFX_CNTL", 0)
        self.kernel()

    def kernel(self, *code: int, rsrc2: int = 2 << 1 | 1 << 7, properties: int = 1 << 3 | 1 << 10) -> None:
        memory = self.raw.words(self.tables.buffer(KERNEL, 4096), 64)
        memory[:16] = np.frombuffer(struct.pack("<IIIIq20xIIIHHI", 0, 0, 16, 0, 0x100, 0, DENORMALS | 2, rsrc2,
                                                properties, 0, 0), np.uint32)
        self.raw.words(int(memory.ctypes.data) - self.raw.board.vram.base + 0x100, 32)[:len(code or ADD)] = code or ADD
        out = self.tables.buffer(DATA, 65536)
        self.out = self.raw.words(out, 16384)
        arguments = self.raw.words(self.tables.buffer(ARGS, 4096), 4, np.uint64)
        arguments[:2] = [DATA, 1000]
        self.raw.invalidate("GC", 1 << self.vmid)

    @staticmethod
    def signal_at(n: int) -> int:
        return SIGNALS + 64 * n

    def value(self, n: int) -> int:
        return int(self.signals[n, 1].view(np.int64))

    @property
    def read_id(self) -> int:
        return int(self.queue[READ_ID // 8])

    def submit(self, *packets: bytes, ring: bool = True) -> int:
        """Put packets the way producers do: body, then header, then doorbell with the last one's index."""
        index = int(self.queue[WRITE_ID // 8])
        self.queue[WRITE_ID // 8] = index + len(packets)
        for i, data in enumerate(packets):
            slot = self.slots[(index + i) % SLOTS]
            words = np.frombuffer(data, np.uint32)
            slot[1:], slot[0] = words[1:], words[0]
        if ring:
            self.ring_doorbell(index + len(packets) - 1)
        return index

    def ring_doorbell(self, value: int) -> None:
        self.raw.board.mec.doorbell(DOORBELL, value, 8)

    def complete(self, n: int, value: int = 0) -> None:
        self.raw.wait(lambda: self.value(n) == value, f"signal {n} = {value}")


@pytest.fixture
def aql(raw: RawBoard, tables: Tables) -> Aql:
    return Aql(raw, tables)


class TestDispatch:
    def test_runs_and_signals(self, aql: Aql) -> None:
        aql.submit(dispatch((100, 1, 1), (32, 1, 1), signal=aql.signal_at(0)))
        aql.complete(0)
        assert np.array_equal(aql.out[:100], np.arange(1000, 1100)) and not aql.out[100:].any()   # the rest is partial
        aql.raw.wait(lambda: aql.read_id == 1, "the read index")
        assert aql.slots[0, 0] & 0xFF == INVALID and aql.raw.board.counters["kernels"] == 1

    @pytest.mark.parametrize("properties", range(0, 128, 8))
    def test_user_registers_in_order(self, aql: Aql, properties: int) -> None:
        queue = aql.raw.board.mec.queues[1, 0, 0]
        properties |= 1 << 3
        sizes = {1: (2, aql.slots.ctypes.data), 2: (2, QUEUE), 3: (2, ARGS), 4: (2, 0), 5: (2, 0), 6: (1, 48)}
        aql.kernel(0xBFB00000, properties=properties | 1 << 10)
        aql.queue.view(np.uint32)[140 // 4] = 64 | 256 << 12
        aql.tables.buffer(SCRATCH, 6 * 64 * 65536 // 64)
        aql.submit(dispatch((1, 1, 1), (1, 1, 1), private=48, signal=aql.signal_at(0)))
        aql.complete(0)
        at = 4 if properties & 1 else 0
        for bit, (count, value) in sizes.items():
            if properties >> bit & 1:
                seen = sum(queue.compute(f"USER_DATA_{at + i}") << 32 * i for i in range(count))
                if bit != 1:
                    assert seen == value, f"bit {bit}"
                at += count

    def test_more_packets_than_slots(self, aql: Aql) -> None:
        """The ring wraps several times, always full or not."""
        for n in range(5 * SLOTS // 16):
            aql.submit(*[barrier(AND) for _ in range(15)], barrier(AND, signal=aql.signal_at(n % 60)))
            aql.complete(n % 60)
            aql.signals[n % 60, 1] = 1
        aql.raw.wait(lambda: aql.read_id == 5 * SLOTS, "the read index")
        assert aql.raw.board.counters["aql_packets"] == 5 * SLOTS

    def test_code_matches_its_text(self) -> None:
        import shutil
        import subprocess
        tool = shutil.which("llvm-mc-19") or shutil.which("llvm-mc")
        if tool is None:
            pytest.skip("no llvm-mc")
        out = subprocess.run([tool, "--triple=amdgcn", "-mcpu=gfx1100", "--show-encoding"], input=ADD_TEXT,
                             capture_output=True, text=True, check=True).stdout
        data = bytes(int(b, 16) for line in out.splitlines() if "encoding: [" in line
                     for b in line.split("encoding: [")[1].split("]")[0].split(","))
        assert struct.unpack(f"<{len(data) // 4}I", data) == ADD


class TestOrder:
    def test_nothing_beyond_the_doorbell(self, aql: Aql) -> None:
        aql.submit(*[barrier(AND, signal=aql.signal_at(i)) for i in range(3)], ring=False)
        aql.ring_doorbell(1)
        aql.complete(1)
        time.sleep(0.01)
        assert aql.value(2) == 1 and aql.read_id == 2
        aql.ring_doorbell(0)                    # an older one takes nothing back
        aql.ring_doorbell(2)
        aql.complete(2)

    def test_nothing_beyond_the_write_index(self, aql: Aql) -> None:
        aql.submit(barrier(AND, signal=aql.signal_at(0)), ring=False)
        aql.ring_doorbell(40)
        aql.complete(0)
        aql.submit(barrier(AND, signal=aql.signal_at(1)))
        aql.complete(1)

    def test_a_reserved_slot_holds_the_queue(self, aql: Aql) -> None:
        """A producer took an index and has not filled its slot yet; another behind it has."""
        index = int(aql.queue[WRITE_ID // 8])
        aql.queue[WRITE_ID // 8] = index + 1
        aql.submit(barrier(AND, signal=aql.signal_at(1)))
        time.sleep(0.02)
        assert aql.value(1) == 1
        aql.slots[index % SLOTS, :] = np.frombuffer(barrier(AND, signal=aql.signal_at(0)), np.uint32)
        aql.complete(1)
        assert aql.value(0) == 0

    def test_an_index_more_than_a_ring_ahead(self, aql: Aql) -> None:
        aql.queue[WRITE_ID // 8] = SLOTS + 1
        aql.ring_doorbell(SLOTS)
        assert "packets ahead" in aql.hung()

    @pytest.mark.parametrize("kind", [AND, OR])
    def test_barriers(self, aql: Aql, kind: int) -> None:
        aql.submit(barrier(kind, *(aql.signal_at(n) for n in range(1, 6)), signal=aql.signal_at(0)))
        aql.signals[3, 1] = 0
        if kind == AND:
            for n in (1, 2, 4):
                aql.signals[n, 1] = 0
            time.sleep(0.01)
            assert aql.value(0) == 1
            aql.signals[5, 1] = 0
        aql.complete(0)

    @pytest.mark.parametrize(("condition", "value", "before", "after"), [
        (0, 5, 4, 5), (1, 4, 4, 5), (2, -3, 0, -4), (3, 7, 6, 8)])
    def test_barrier_value(self, aql: Aql, condition: int, value: int, before: int, after: int) -> None:
        aql.signals[1, 1:2].view(np.int64)[0] = before
        aql.submit(barrier_value(aql.signal_at(1), value, -1, condition, signal=aql.signal_at(0)))
        time.sleep(0.01)
        assert aql.value(0) == 1
        aql.signals[1, 1:2].view(np.int64)[0] = after
        aql.complete(0)

    def test_barrier_value_masks(self, aql: Aql) -> None:
        aql.signals[1, 1] = 0xF5
        aql.submit(barrier_value(aql.signal_at(1), 5, 0xF, 0, signal=aql.signal_at(0)))
        aql.complete(0)

    def test_an_indirect_buffer_of_pm4(self, aql: Aql) -> None:
        words = write_data(DATA, 0x77)
        aql.raw.words(aql.tables.buffer(IB, 4096), 8)[:len(words)] = words
        aql.submit(pm4(IB, len(words), signal=aql.signal_at(0)))
        aql.complete(0)
        assert aql.out[0] == 0x77


class TestSignals:
    def test_mailbox(self, aql: Aql, posted: Interrupts) -> None:
        """The event's number goes to the mailbox and into the interrupt; without a mailbox there is none."""
        aql.signals[2, 2] = aql.signal_at(10)
        aql.signals[2].view(np.uint32)[6] = 77
        aql.signals[2, 1] = 5
        aql.submit(barrier(AND, signal=aql.signal_at(3)), barrier(AND, signal=aql.signal_at(2)))
        aql.complete(2, 4)
        aql.raw.wait(lambda: aql.signals[10, 0] == 77 and posted, "the mailbox")
        assert posted == [(CP, EOP, 4, 1, (77, 0, 0, 0))]

    def test_times_are_the_golden_clocks(self, raw: RawBoard, tables: Tables) -> None:
        aql = Aql(raw, tables, profiling=True)
        before = raw.board.clock()
        aql.submit(barrier(AND, aql.signal_at(1), signal=aql.signal_at(0)))
        raw.wait(lambda: raw.board.counters["aql_packets"] == 1, "the packet to be taken")
        time.sleep(0.02)
        aql.signals[1, 1] = 0
        aql.complete(0)
        start, end = int(aql.signals[0, 4]), int(aql.signals[0, 5])
        assert before <= start and start + 100_000 < end <= raw.board.clock()       # 5 ms at 100 MHz, less a fifth

    def test_no_times_without_profiling(self, aql: Aql) -> None:
        aql.submit(barrier(AND, signal=aql.signal_at(0)))
        aql.complete(0)
        assert not aql.signals[0, 4:6].any()


class TestErrors:
    @pytest.mark.parametrize(("data", "code", "text"), [
        (dispatch((0, 1, 1), (32, 1, 1)), 0x2, "grid"),
        (dispatch((32, 1, 1), (0, 1, 1)), 0x2, "workgroup"),
        (dispatch((32, 1, 1), (32, 1, 1), dimensions=0), 0x2, "0 dimensions"),
        (dispatch((32, 1, 1), (32, 1, 1), shared=70000), 0x4, "group memory"),
        (dispatch((32, 1, 1), (32, 1, 1), kernel=0), 0x8, "kernel object"),
        (dispatch((32, 1, 1), (32, 1, 1), kernel=KERNEL + 4), 0x8, "kernel object"),
        (dispatch((2048, 1, 1), (2048, 1, 1)), 0x40, "work-items"),
        (struct.pack("<H62x", AGENT), 0x20, "AGENT_DISPATCH"),
        (struct.pack("<H62x", 9), 0x20, "type 9"),
        (struct.pack("<HB61x", VENDOR, 7), 0x100, "format 7"),
        (pm4(IB, 4, remain=9), 0x100, "dw_cnt_remain"),
        (barrier_value(SIGNALS, 0, 0, 4), 0x100, "condition 4"),
        (dispatch((32, 1, 1), (32, 1, 1), kernel=0x1234_0000), 0x2000_0000, "Fault"),
    ])
    def test_tells_its_signal_and_stops(self, aql: Aql, posted: Interrupts, data: bytes, code: int, text: str) -> None:
        aql.submit(data, barrier(AND, signal=aql.signal_at(0)))
        assert text in aql.hung()
        aql.complete(63, code)
        assert aql.value(0) == 1 and aql.read_id == 0
        if code < 0x2000_0000:
            assert posted[0][:2] == (CP, ih.GFX_11_0_0__SRCID__CP_BAD_OPCODE_ERROR)

    def test_illegal_instruction(self, aql: Aql, posted: Interrupts) -> None:
        aql.kernel(0xFFFFFFFF)
        aql.submit(dispatch((32, 1, 1), (32, 1, 1)))
        aql.complete(63, 0x4000_0000)
        assert posted[0][:2] == (CP, ih.GFX_11_0_0__SRCID__SQ_INTERRUPT_ID)

    def test_injected(self, aql: Aql) -> None:
        aql.raw.board.faults.inject("aql-invalid", skip=2, count=1)
        aql.submit(*[barrier(AND, signal=aql.signal_at(i)) for i in range(4)])
        aql.complete(63, 0x20)
        assert [aql.value(i) for i in range(4)] == [0, 0, 1, 1]

    def test_scratch_on_demand(self, aql: Aql) -> None:
        """The queue asks by its signal; the runtime gives scratch, clears the signal, and the packet runs."""
        aql.submit(dispatch((32, 1, 1), (32, 1, 1), private=64, signal=aql.signal_at(0)))
        aql.complete(63, 0x400)
        assert aql.value(0) == 1 and not aql.raw.board.notes.of("queue-hang")
        waves, size = 4, 64 * 32
        aql.tables.buffer(SCRATCH, 6 * waves * size)
        aql.queue.view(np.uint32)[140 // 4] = waves | size // 256 << 12
        aql.signals[63, 1] = 0
        aql.complete(0)
        assert aql.out[31] == 1031

    def test_preemption_keeps_the_place(self, aql: Aql) -> None:
        """Dequeued and activated again, the queue goes on at the read index in memory."""
        raw = aql.raw
        aql.submit(*[barrier(AND, signal=aql.signal_at(i)) for i in range(3)])
        aql.complete(2)
        raw.wait(lambda: aql.read_id == 3, "the read index")
        raw.poke("GRBM_GFX_CNTL", MEID=1)
        raw.poke("CP_HQD_DEQUEUE_REQUEST", 1)
        raw.wait(lambda: not raw.field("CP_HQD_ACTIVE", "ACTIVE"), "the queue's end")
        assert aql.mqd.cp_hqd_pq_rptr == 3 * 16
        raw.poke("CP_HQD_ACTIVE", 1)
        raw.poke("GRBM_GFX_CNTL", 0)
        aql.submit(barrier(AND, signal=aql.signal_at(5)))
        aql.complete(5)
        assert aql.value(0) == 0 and aql.read_id == 4


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.sampled_from(["dispatch", "and", "or", "value", "pm4"]), st.integers(1, 200)), min_size=1,
                max_size=40), st.integers(1, 7))
def test_random_queues_end_like_a_model(work: list[tuple[str, int]], burst: int) -> None:
    """Packets of all kinds in bursts: each completes once, in order, and launches leave what they should."""
    with Machine([Gpu(vram="64M")]) as machine:
        board = machine.gpus[0]
        board.config.write(4, 2, 6)
        raw = RawBoard(board)
        raw.start_hub("GC")
        raw.load_firmware()
        tables = Tables(raw)
        raw.context("GC", 1, tables.root)
        aql = Aql(raw, tables)
        words = packet(0x1E, 15 | 0 << 8, *lohi(DATA + 65532), *lohi(1), *lohi(0), 0)       # ATOMIC_MEM ADD 32
        aql.raw.words(tables.buffer(IB, 4096), 16)[:len(words)] = words
        raw.invalidate("GC", 2)
        aql.signals[60, 1] = 0
        packets, largest, atomics = [], 0, 0
        for kind, n in work:
            done = aql.signal_at(1)
            if kind == "dispatch":
                largest = max(largest, n)
                packets.append(dispatch((n, 1, 1), (32, 1, 1), signal=done))
            elif kind == "value":
                packets.append(barrier_value(aql.signal_at(60), 0, -1, 0, signal=done))
            elif kind == "pm4":
                atomics += 1
                packets.append(pm4(IB, len(words), signal=done))
            else:
                packets.append(barrier(AND if kind == "and" else OR, aql.signal_at(60), signal=done))
        aql.signals[1, 1] = len(packets)
        for at in range(0, len(packets), burst):
            aql.submit(*packets[at:at + burst])
            if (at + burst) % SLOTS < burst:
                aql.complete(1, len(packets) - at - len(packets[at:at + burst]))
        aql.complete(1)
        assert np.array_equal(aql.out[:largest], np.arange(1000, 1000 + largest))
        assert int(aql.out[16383]) == atomics and board.counters["aql_packets"] == len(packets)
