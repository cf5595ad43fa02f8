"""The compute micro engine: a queue by registers and by KIQ, PM4 as raw words, machine code, and what hangs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compute_rig import (
    ARGS,
    CODE,
    DATA,
    DENORMALS,
    DOORBELL,
    EOP,
    MQD,
    NOP,
    POINTERS,
    RING,
    RING_BYTES,
    SCRATCH,
    SHADER_EN,
    SIGNAL,
    UCONFIG_START,
    WAVE32,
    Rig,
    lohi,
    packet,
    release,
    wait_memory,
    write_data,
)
from raw_board import RWX, R, RawBoard, S, Tables, V

from amdrv.facts.mqd_v11 import v11_compute_mqd
from mock.machine import Gpu, Machine

# c[i] = a[i] + b[i], fp32, workgroups of 64; s[0:1] kernarg, s2 workgroup, v0 work-item
VECTOR_ADD = (0xF4080100, 0xF8000000, 0xF4040200, 0xF8000010, 0xD6460000, 0x04010C02, 0x30000082, 0xBF89FC07,
              0xDC520000, 0x01040000, 0xDC520000, 0x02060000, 0xBF8903F7, 0x06020501, 0xDC6A0000, 0x00080100,
              0xBFB00000)
VECTOR_ADD_TEXT = """
  s_load_b128 s[4:7], s[0:1], null
  s_load_b64 s[8:9], s[0:1], 0x10
  v_lshl_add_u32 v0, s2, 6, v0
  v_lshlrev_b32_e32 v0, 2, v0
  s_waitcnt lgkmcnt(0)
  global_load_b32 v1, v0, s[4:5]
  global_load_b32 v2, v0, s[6:7]
  s_waitcnt vmcnt(0)
  v_add_f32_e32 v1, v1, v2
  global_store_b32 v0, v1, s[8:9]
  s_endpgm
"""
# out[i] = 4 * i by way of private memory at offset 4
SCRATCH_ROUND_TRIP = (0xF4040100, 0xF8000000, 0x7E060280, 0x30020082, 0xDC690004, 0x007C0100, 0xBC7C0000, 0xDC510004,
                      0x027C0000, 0xBF890007, 0xDC6A0000, 0x00040201, 0xBFB00000)
# a dword stored at kernarg[0] + 1
UNALIGNED_STORE = (0xF4040100, 0xF8000000, 0x7E000281, 0x7E0202FF, 0x12345678, 0xBF89FC07, 0xDC6A0000, 0x00040100,
                   0xBFB00000)
END = (0xBFB00000,)


@pytest.fixture
def raw() -> Iterator[RawBoard]:
    with Machine([Gpu(vram="64M")]) as machine:
        yield ready(machine)


def ready(machine: Machine) -> RawBoard:
    board = machine.gpus[0]
    board.config.write(4, 2, 6)
    raw = RawBoard(board)
    raw.start_hub("GC")
    raw.load_firmware()
    return raw


@pytest.fixture
def tables(raw: RawBoard) -> Tables:
    tables = Tables(raw)
    raw.context("GC", 1, tables.root)
    return tables


@pytest.fixture
def rig(raw: RawBoard, tables: Tables) -> Rig:
    return Rig(raw, tables)


Interrupts = list[tuple[int, int, int, int, tuple[int, ...]]]
"""(client, source, ring, VMID, data)"""


@pytest.fixture
def posted(raw: RawBoard, monkeypatch: pytest.MonkeyPatch) -> Interrupts:
    seen: Interrupts = []

    def post(client: int, source: int, *, ring_id: int = 0, vmid: int = 0, data: tuple[int, ...] = (),
             **_: int) -> None:
        seen.append((client, source, ring_id, vmid, data))
    monkeypatch.setattr(raw.board.ih, "post", post)
    return seen


def vector_add(rig: Rig, n: int) -> np.ndarray:
    """Buffers and arguments for n work-items; the result's live array."""
    raw, tables = rig.raw, rig.tables
    rig.code(*VECTOR_ADD)
    arrays = [raw.words(tables.buffer(DATA + i * 0x10_0000, 4 * n), n, np.float32) for i in range(3)]
    rng = np.random.default_rng(3)
    arrays[0][:], arrays[1][:] = rng.standard_normal((2, n)).astype(np.float32)
    raw.words(tables.buffer(ARGS, 4096), 3, np.uint64)[:] = [DATA, DATA + 0x10_0000, DATA + 0x20_0000]
    rig.expected = arrays[0] + arrays[1]            # type: ignore[attr-defined]
    return arrays[2]


class TestVectorAdd:
    @pytest.mark.parametrize("wave", [32, 64])
    def test_runs(self, rig: Rig, wave: int) -> None:
        result = vector_add(rig, 64 * 5)
        rig.put(rig.dispatch((5, 1, 1), (64, 1, 1), initiator=SHADER_EN | (WAVE32 if wave == 32 else 0))
                + release(SIGNAL, 1))
        rig.done(1)
        assert np.array_equal(result, rig.expected)     # type: ignore[attr-defined]
        counters = rig.raw.board.counters
        assert counters["kernels"] == 1
        assert counters["instructions"] == 11 * 5 * 64 // wave
        assert counters["pm4_packets"] == 8

    def test_the_cpu_sees_the_result_at_the_fence(self, rig: Rig) -> None:
        """Through windows on BAR0, of result and fence, that were there before."""
        board = rig.raw.board
        result = vector_add(rig, 64)
        seen = np.frombuffer(board.bar_memory(0, result.ctypes.data - board.vram.base, 256), np.float32)
        fence = np.frombuffer(board.bar_memory(0, rig.signal.ctypes.data - board.vram.base, 8), np.uint64)
        rig.put(rig.dispatch((1, 1, 1), (64, 1, 1)) + release(SIGNAL, 1))
        rig.raw.wait(lambda: int(fence[0]) == 1, "the fence in the window")
        assert np.array_equal(seen, rig.expected)       # type: ignore[attr-defined]

    def test_partial_workgroups(self, rig: Rig) -> None:
        result = vector_add(rig, 256)
        rig.put(rig.dispatch((150, 1, 1), (64, 1, 1), initiator=SHADER_EN | WAVE32 | 1 << 5)     # in threads
                + release(SIGNAL, 1))
        rig.done(1)
        assert np.array_equal(result[:150], rig.expected[:150])     # type: ignore[attr-defined]
        assert (result[150:] == 0).all()
        result[:] = 0
        rig.put(rig.dispatch((2, 1, 1), (64, 1, 1), initiator=SHADER_EN | WAVE32 | 1 << 1, partial=(7, 1, 1))
                + release(SIGNAL, 2))
        rig.done(2)
        assert np.array_equal(result[:71], rig.expected[:71]) and (result[71:] == 0).all()   # type: ignore[attr-defined]

    def test_start_offsets_the_grid(self, rig: Rig) -> None:
        result = vector_add(rig, 256)
        words = rig.dispatch((3, 1, 1), (64, 1, 1))
        at = words.index(rig.sh("START_X", 0, 0, 0)[1])
        words[at + 1] = 1
        rig.put(words + release(SIGNAL, 1))
        rig.done(1)
        assert (result[:64] == 0).all()
        assert np.array_equal(result[64:192], rig.expected[64:192])     # type: ignore[attr-defined]
        assert (result[192:] == 0).all()

    def test_indirect_dispatch_in_an_indirect_buffer(self, rig: Rig) -> None:
        result = vector_add(rig, 256)
        page = rig.raw.words(rig.tables.buffer(0x7E30_0000_0000, 4096), 1024)
        page[512:515] = (4, 1, 1)
        words = rig.dispatch((9, 9, 9), (64, 1, 1))[:-5] + packet(0x16, *lohi(0x7E30_0000_0800), SHADER_EN | WAVE32)
        page[:len(words)] = words
        rig.put(packet(0x3F, *lohi(0x7E30_0000_0000), len(words) | 1 << 23) + release(SIGNAL, 1))
        rig.done(1)
        assert np.array_equal(result, rig.expected)     # type: ignore[attr-defined]

    def test_words_are_what_llvm_assembles(self, tmp_path: Path) -> None:
        tool = next((t for t in ("llvm-mc-19", "llvm-mc") if shutil.which(t)), None)
        if tool is None:
            pytest.skip("no llvm-mc")
        shown = subprocess.run([tool, "-arch=amdgcn", "-mcpu=gfx1100", "-show-encoding"], input=VECTOR_ADD_TEXT,
                               text=True, capture_output=True, check=True).stdout
        data = bytes(int(byte, 16) for line in shown.splitlines() if "encoding: [" in line
                     for byte in line.split("[")[-1].split("]")[0].split(","))
        assert tuple(np.frombuffer(data, np.uint32)) == VECTOR_ADD


def test_release_mem(rig: Rig, posted: Interrupts) -> None:
    before = rig.raw.board.clock()
    rig.signal[1] = 0xFFFF_FFFF_FFFF_FFFF
    rig.put(release(SIGNAL + 8, 0x1_0000_0002, data=1) + release(SIGNAL + 16, 0, data=3)
            + release(SIGNAL, 0x1234_5678_9ABC_DEF0, interrupt=2, context=0x77))
    rig.done(0x1234_5678_9ABC_DEF0)
    rig.raw.wait(lambda: posted, "the interrupt")
    assert int(rig.signal[1]) == 0xFFFF_FFFF_0000_0002
    assert before <= int(rig.signal[2]) <= rig.raw.board.clock()
    assert posted == [(0x14, 181, 0x04, 1, (0x77, 0, 0, 0))]


def test_read_pointer_is_reported_as_ring_offset(rig: Rig) -> None:
    for i in range(1, 7):
        rig.put([NOP] * 1000 + release(SIGNAL, i))
        rig.done(i)
    assert rig.write > RING_BYTES // 4
    rig.raw.wait(lambda: int(rig.pointers[0]) == rig.write % (RING_BYTES // 4), "the read pointer")


def test_a_packet_longer_than_what_is_fetched_at_a_time(raw: RawBoard, tables: Tables) -> None:
    rig = Rig(raw, tables)
    size = 65536
    rig.ring = raw.words(tables.buffer(0x7E40_0000_0000, size), size // 4)
    raw.poke("GRBM_GFX_CNTL", MEID=1)
    raw.poke("CP_HQD_ACTIVE", 0)
    raw.poke("CP_HQD_PQ_BASE", 0x7E40_0000_0000 >> 8 & 0xFFFFFFFF)
    raw.poke("CP_HQD_PQ_BASE_HI", 0x7E40_0000_0000 >> 40)
    raw.update("CP_HQD_PQ_CONTROL", QUEUE_SIZE=13)
    raw.poke("CP_HQD_ACTIVE", 1)
    rig.put([NOP] * 3000 + packet(0x10, *[0] * 9000) + release(SIGNAL, 1))
    rig.done(1)
    assert raw.board.counters["pm4_packets"] == 3002


def test_wait_holds_only_its_queue(rig: Rig) -> None:
    raw = rig.raw
    rig.put(wait_memory(SIGNAL + 8, 5) + release(SIGNAL, 1))
    # a second queue, on pipe 1, by the registers of the first
    ring = raw.words(rig.tables.buffer(RING + 0x100_0000, 4096), 1024)
    raw.poke("GRBM_GFX_CNTL", MEID=1, PIPEID=1)
    for name, value in (("CP_HQD_EOP_BASE_ADDR", EOP >> 8), ("CP_MQD_BASE_ADDR", MQD),
                        ("CP_HQD_PQ_BASE", RING + 0x100_0000 >> 8), ("CP_HQD_PQ_RPTR_REPORT_ADDR", POINTERS + 8)):
        raw.poke(name, value & 0xFFFFFFFF)
        raw.poke(name + "_HI", value >> 32)
    raw.poke("CP_MQD_CONTROL", VMID=1)
    raw.poke("CP_HQD_PQ_CONTROL", QUEUE_SIZE=9, RPTR_BLOCK_SIZE=5, PRIV_STATE=1)
    raw.poke("CP_HQD_PQ_DOORBELL_CONTROL", DOORBELL_OFFSET=0x500, DOORBELL_EN=1)
    raw.poke("CP_HQD_VMID", VMID=1)
    raw.poke("CP_HQD_ACTIVE", 1)
    words = release(SIGNAL + 16, 9)
    ring[:len(words)] = words
    raw.board.mec.doorbell(0x1400, len(words), 8)
    rig.done(9, slot=2)
    assert int(rig.signal[0]) == 0
    rig.signal[1] = 5
    rig.done(1)


def test_data_packets(rig: Rig) -> None:
    raw = rig.raw
    page = raw.words(rig.tables.buffer(DATA, 4096), 1024)
    scratch = raw.board.regs.dword("SCRATCH_REG0")
    rig.put(write_data(DATA, 1, 2, 3))
    rig.put(write_data(scratch, 0xDEADBEEF, destination=0))
    rig.put(packet(0x40, 0 | 5 << 8, scratch, 0, *lohi(DATA + 16)))                     # register to memory
    rig.put(packet(0x40, 1 | 5 << 8 | 1 << 16, *lohi(DATA), *lohi(DATA + 24)))          # 64 bits
    rig.put(packet(0x40, 5 | 5 << 8, 0x55, 0, *lohi(DATA + 32)))                        # immediate
    rig.put(packet(0x40, 9 | 5 << 8 | 1 << 16, 0, 0, *lohi(DATA + 40)))                 # clock
    rig.put(packet(0x1E, 79, *lohi(DATA), *lohi(41), 0, 0, 0))                          # atomic add
    rig.put(packet(0x50, 2 << 29, 0xABCDEF01, 0, *lohi(DATA + 64), 10))                 # fill
    rig.put(packet(0x50, 0, *lohi(DATA + 64), *lohi(DATA + 96), 8))                     # copy
    rig.put(packet(0x22, *lohi(DATA + 0x200), 0, 5) + write_data(DATA + 128, 1)         # skipped: it reads 0
            + packet(0x22, *lohi(DATA + 4), 0, 5) + write_data(DATA + 132, 1))          # done: it reads 2
    rig.put(packet(0x79, scratch + 1 - UCONFIG_START, 0x99) + release(SIGNAL, 1))
    rig.done(1)
    assert page[:3].tolist() == [42, 2, 3]
    assert raw.peek("SCRATCH_REG0") == page[4] == 0xDEADBEEF
    assert page[6:8].tolist() == [1, 2] and page[8] == 0x55
    assert int(page[10:12].view(np.uint64)[0]) > 0
    assert page[16:18].tolist() == [0xABCDEF01, 0xABCDEF01] and page[18] == 0xEF01
    assert page[24:26].tolist() == [0xABCDEF01, 0xABCDEF01]
    assert page[32:34].tolist() == [0, 1]
    assert raw.peek("SCRATCH_REG1") == 0x99


def test_chained_indirect_buffers(rig: Rig) -> None:
    """Five buffers, each goes on in the next; what follows the chaining packet is not executed."""
    base = 0x7E30_0000_0000
    page = rig.raw.words(rig.tables.buffer(base, 4096), 1024)
    for i in range(5):
        words = write_data(DATA + 4 * i, i + 1)
        if i < 4:
            words += packet(0x3F, *lohi(base + 256 * (i + 1)), 16 | 1 << 23 | 1 << 20)
        words += write_data(DATA + 64, i + 1)
        page[64 * i:64 * i + 16] = (words + [NOP] * 16)[:16]
    out = rig.raw.words(rig.tables.buffer(DATA, 4096), 32)
    rig.put(packet(0x3F, *lohi(base), 16 | 1 << 23) + release(SIGNAL, 1))
    rig.done(1)
    assert out[:5].tolist() == [1, 2, 3, 4, 5] and out[16] == 5


def test_rewind_waits_for_its_valid_bit(rig: Rig) -> None:
    base = 0x7E30_0000_0000
    page = rig.raw.words(rig.tables.buffer(base, 4096), 1024)
    words = packet(0x59, 0) + release(SIGNAL, 1)
    page[:len(words)] = words
    rig.put(packet(0x3F, *lohi(base), len(words) | 1 << 23))
    rig.raw.wait(lambda: rig.raw.board.counters["pm4_packets"] >= 2, "the packet")
    assert int(rig.signal[0]) == 0
    page[1] = 1 << 31
    rig.done(1)


def test_register_wait_and_write_wait(rig: Rig) -> None:
    raw = rig.raw
    a, b = raw.board.regs.dword("SCRATCH_REG0"), raw.board.regs.dword("SCRATCH_REG1")
    rig.put(packet(0x3C, 3 | 1 << 6, a, b, 0x40, 0xF0, 0x20) + release(SIGNAL, 1))       # write a, wait for b
    raw.wait(lambda: raw.peek("SCRATCH_REG0") == 0x40, "the write")
    assert int(rig.signal[0]) == 0
    raw.poke("SCRATCH_REG1", 0x4F)
    rig.done(1)


@pytest.mark.parametrize(("words", "why", "source"), [
    (packet(0x2D, 0, 0), "DRAW_INDEX_AUTO", 183), (packet(0xF7, 0), "no such opcode", 183),
    (packet(0x15, 1, 1), "DISPATCH_DIRECT with 2 words after its header, it has 4", 183),
    (packet(0x3C, 7 | 1 << 4, 0, 0, 0, 0, 0), "no comparison 7", 183), ([0x00001234], "type 0 packets", 183),
    (packet(0xA0, *[0] * 7), "RLC_CP_SCHEDULERS does not name", 184)])
def test_bad_packets_hang_the_queue(rig: Rig, posted: Interrupts, words: list[int],
                                    why: str, source: int) -> None:
    rig.put(words + release(SIGNAL, 1))
    assert why in rig.hung()
    assert [entry[:3] for entry in posted] == [(0x14, source, 0x04)]
    assert rig.raw.field("GRBM_STATUS", "GUI_ACTIVE") == 1


def test_unprivileged_queue_may_not_write_registers(raw: RawBoard, tables: Tables) -> None:
    rig = Rig(raw, tables)
    raw.poke("GRBM_GFX_CNTL", MEID=1)
    raw.update("CP_HQD_PQ_CONTROL", PRIV_STATE=0)
    rig.put(write_data(raw.board.regs.dword("GCVM_CONTEXT1_CNTL"), 0, destination=0))
    assert "write of GCVM_CONTEXT1_CNTL by a queue without" in rig.hung()


class TestHangs:
    """Launches that silicon would never start or end; the queue stays active and hung."""

    def hang(self, rig: Rig, setup: list[int], **launch: object) -> str:
        rig.code(*END)
        rig.tables.buffer(ARGS, 4096)
        words = rig.dispatch((1, 1, 1), (64, 1, 1), **launch)       # type: ignore[arg-type]
        rig.put(setup + words + release(SIGNAL, 1))
        why = rig.hung()
        assert int(rig.signal[0]) == 0
        rig.raw.poke("GRBM_GFX_CNTL", MEID=1)
        assert rig.raw.peek("CP_HQD_ACTIVE") == 1
        return why

    def test_no_compute_unit_enabled(self, rig: Rig) -> None:
        masks = rig.sh("STATIC_THREAD_MGMT_SE0", 0, 0) + rig.sh("STATIC_THREAD_MGMT_SE2", 0, 0) \
            + rig.sh("STATIC_THREAD_MGMT_SE4", 0, 0)
        assert "no compute unit of any shader engine is enabled" in self.hang(rig, masks)

    def test_mqd_that_leaves_the_masks_zero(self, raw: RawBoard, tables: Tables) -> None:
        def forget(mqd: v11_compute_mqd) -> None:
            for n in range(8):
                setattr(mqd, f"compute_static_thread_mgmt_se{n}", 0)
        assert "no compute unit" in self.hang(Rig(raw, tables, mqd=forget), [])

    def test_lds(self, rig: Rig) -> None:
        assert "LDS_SIZE asks for 66048 bytes" in self.hang(rig, [], rsrc2=129 << 15)

    def test_scratch_without_waves(self, rig: Rig) -> None:
        assert "TMPRING_SIZE.WAVES is 0" in self.hang(rig, [], rsrc2=1)

    def test_resource_limits(self, rig: Rig) -> None:
        assert "WAVES_PER_SH is 1" in self.hang(rig, rig.sh("RESOURCE_LIMITS", 1))

    def test_illegal_instruction(self, rig: Rig, posted: Interrupts) -> None:
        rig.code(0xFFFFFFFF, 0xFFFFFFFF)
        rig.tables.buffer(ARGS, 4096)
        rig.put(rig.dispatch((1, 1, 1), (64, 1, 1)))
        assert "IllegalInstruction" in rig.hung()
        assert posted == [(0x14, 239, 0x04, 1, (1 << 21, 2 << 6, 0, 0))]

    def test_code_must_be_executable(self, rig: Rig) -> None:
        rig.code(*END)
        rig.tables.map(CODE, rig.raw.vram(4096), 4096, V | R)
        rig.put(rig.dispatch((1, 1, 1), (64, 1, 1)))
        rig.hung()
        assert rig.raw.field("GCVM_L2_PROTECTION_FAULT_STATUS", "PERMISSION_FAULTS") == 8

    def test_page_fault_of_a_wave(self, rig: Rig) -> None:
        vector_add(rig, 64)
        rig.raw.words(rig.tables.buffer(ARGS, 4096), 3, np.uint64)[:] = [0x1000, 0x1000, 0x1000]
        rig.put(rig.dispatch((1, 1, 1), (64, 1, 1)) + release(SIGNAL, 1))
        assert "read at 0x1000" in rig.hung()
        assert rig.raw.peek("GCVM_L2_PROTECTION_FAULT_ADDR_LO32") == 1
        assert rig.raw.field("GCVM_L2_PROTECTION_FAULT_STATUS", "CID") == 8     # TCP


class TestScratch:
    WAVESIZE = 1            # units of 256 bytes: 8 bytes for each of 32 lanes

    def run(self, rig: Rig, pages: int, tmpring: int, grid: int = 1) -> np.ndarray:
        rig.code(*SCRATCH_ROUND_TRIP)
        out = rig.raw.words(rig.tables.buffer(DATA, 4096), 1024)
        rig.raw.words(rig.tables.buffer(ARGS, 4096), 1, np.uint64)[0] = DATA
        rig.tables.buffer(SCRATCH, pages * 4096)
        rig.put(rig.sh("TMPRING_SIZE", tmpring)
                + rig.sh("DISPATCH_SCRATCH_BASE_LO", SCRATCH >> 8 & 0xFFFFFFFF, SCRATCH >> 40)
                + rig.dispatch((grid, 1, 1), (32, 1, 1), rsrc2=1 | 2 << 1) + release(SIGNAL, 1))
        return out

    def test_round_trip(self, rig: Rig) -> None:
        out = self.run(rig, pages=3, tmpring=8 | self.WAVESIZE << 12)
        rig.done(1)
        assert out[:32].tolist() == [4 * i for i in range(32)]

    def test_waves_count_per_shader_engine(self, rig: Rig) -> None:
        """8 waves for each of six engines take 12 KiB; memory for one engine's share is not enough."""
        self.run(rig, pages=1, tmpring=8 | self.WAVESIZE << 12, grid=48)
        assert "write at 0x7e2400001" in rig.hung()


class TestAtomicsToHostMemory:
    # s_load_b64 s[0:1] -> s[4:5]; v0 = 0; v1 = 1; global_atomic_add_u32 v0, v1, s[4:5]
    ADD = (0xF4040100, 0xF8000000, 0x7E000280, 0x7E020281, 0xBF89FC07, 0xDCD60000, 0x00040100, 0xBFB00000)

    def add(self, rig: Rig, mtype: int) -> np.ndarray:
        room = np.zeros(3 * 4096, np.uint8)
        host = room[-room.ctypes.data % 4096:][:4096]
        rig.tables.map(DATA, rig.raw.board.bus.attach(host.ctypes.data, 4096), 4096, RWX | S | mtype << 48)
        rig.raw.words(rig.tables.buffer(ARGS, 4096), 1, np.uint64)[0] = DATA
        rig.code(*self.ADD)
        rig.put(rig.dispatch((1, 1, 1), (1, 1, 1)) + packet(0x1E, 79, *lohi(DATA + 4), *lohi(5), 0, 0, 0)
                + release(SIGNAL, 1))
        return host.view(np.uint32)

    def enable(self, raw: RawBoard) -> None:
        at = raw.board.read_config(0x34, 1)
        while raw.board.read_config(at, 1) != 0x10:
            at = raw.board.read_config(at + 1, 1)
        raw.board.write_config(at + 0x28, 2, 1 << 6)        # Device Control 2, AtomicOp Requester Enable

    def test_enabled(self, rig: Rig) -> None:
        self.enable(rig.raw)
        words = self.add(rig, mtype=3)
        rig.done(1)
        assert words[:2].tolist() == [1, 5]

    def test_not_enabled(self, rig: Rig) -> None:
        self.add(rig, mtype=3)
        assert "takes no AtomicOps" in rig.hung()
        assert "pcie-atomics" in rig.raw.rules

    def test_cached_memory_needs_none(self, rig: Rig) -> None:
        words = self.add(rig, mtype=0)
        rig.done(1)
        assert words[:2].tolist() == [1, 5]


class TestShaderMemory:
    def store(self, rig: Rig) -> np.ndarray:
        rig.code(*UNALIGNED_STORE)
        out = rig.raw.words(rig.tables.buffer(DATA, 4096), 4096, np.uint8)
        rig.raw.words(rig.tables.buffer(ARGS, 4096), 1, np.uint64)[0] = DATA
        rig.put(rig.dispatch((1, 1, 1), (1, 1, 1)) + release(SIGNAL, 1))
        rig.done(1)
        return out[:6]

    def test_unaligned_mode(self, rig: Rig) -> None:
        assert self.store(rig).tolist() == [0, 0x78, 0x56, 0x34, 0x12, 0]

    def test_unset_config_drops_address_bits(self, raw: RawBoard, tables: Tables) -> None:
        assert self.store(Rig(raw, tables, skip=["SH_MEM_CONFIG"])).tolist() == [0x78, 0x56, 0x34, 0x12, 0, 0]
        assert "alignment" in raw.rules

    def test_registers_are_per_vmid(self, raw: RawBoard, tables: Tables) -> None:
        Rig(raw, tables)
        assert raw.board.gfx.shader_memory(1) == (3, 0, 2 << 48, 1 << 48)
        assert raw.board.gfx.shader_memory(2) == (0, 0, 0, 0)


class TestWhatTheQueueNeeds:
    """Each register of the bring-up has its consequence: without it the fence does not come."""

    @pytest.mark.parametrize("register", [
        "CP_MEC_RS64_PRGRM_CNTR_START", "CP_MEC_RS64_PRGRM_CNTR_START_HI", "CP_MEC_RS64_CNTL",
        "CP_MEC_DOORBELL_RANGE_UPPER", "CP_HQD_EOP_BASE_ADDR", "CP_HQD_EOP_BASE_ADDR_HI", "CP_MQD_BASE_ADDR",
        "CP_MQD_BASE_ADDR_HI", "CP_MQD_CONTROL", "CP_HQD_PQ_BASE", "CP_HQD_PQ_BASE_HI",
        "CP_HQD_PQ_RPTR_REPORT_ADDR_HI", "CP_HQD_PQ_DOORBELL_CONTROL", "CP_HQD_VMID", "CP_HQD_ACTIVE"])
    def test_missing_register(self, raw: RawBoard, tables: Tables, register: str) -> None:
        rig = Rig(raw, tables, skip=[register])
        rig.put(write_data(SIGNAL + 8, 1) + release(SIGNAL, 1))
        raw.board.engine("compute 1.0.0").wait_idle(2)
        assert int(rig.signal[0]) == 0 or raw.board.mec.queues[1, 0, 0].hung
        assert raw.board.notes

    def test_firmware_and_autoload(self, raw: RawBoard, tables: Tables) -> None:
        raw.board.psp.loaded.discard("RS64_MEC")
        rig = Rig(raw, tables)
        rig.put(release(SIGNAL, 1))
        assert "mec-off" in raw.rules and raw.field("RLC_RLCS_BOOTLOAD_STATUS", "BOOTLOAD_COMPLETE") == 1
        raw.board.psp.autoload_done = False
        assert raw.field("RLC_RLCS_BOOTLOAD_STATUS", "BOOTLOAD_COMPLETE") == 0

    def test_every_pipe_that_runs_needs_a_start(self, raw: RawBoard, tables: Tables) -> None:
        Rig(raw, tables)
        assert not raw.board.notes
        raw.poke("CP_MEC_RS64_CNTL", MEC_PIPE3_RESET=1)
        raw.board.mec._told.discard(("CP_MEC_RS64_PRGRM_CNTR_START", 1, 3))
        raw.poke("CP_MEC_RS64_CNTL", MEC_PIPE3_ACTIVE=1)
        assert "pipe 3 was let run" in str(raw.board.notes.of("mec-start")[0])

    def test_doorbell_range(self, raw: RawBoard, tables: Tables) -> None:
        rig = Rig(raw, tables)
        raw.poke("CP_MEC_DOORBELL_RANGE_LOWER", DOORBELL + 8)
        rig.put(release(SIGNAL, 1))
        assert "doorbell-range" in raw.rules

    def test_interrupt_enable(self, raw: RawBoard, tables: Tables,
                              posted: Interrupts) -> None:
        rig = Rig(raw, tables, skip=["CP_ME1_PIPE0_INT_CNTL"])
        rig.put(release(SIGNAL, 1, interrupt=2))
        raw.wait(lambda: "interrupt-off" in raw.rules, "the note")
        assert not posted


class TestDequeue:
    def select(self, raw: RawBoard) -> None:
        raw.poke("GRBM_GFX_CNTL", MEID=1)

    def test_idle_queue(self, rig: Rig) -> None:
        rig.put(release(SIGNAL, 1))
        rig.done(1)
        self.select(rig.raw)
        rig.raw.wait(lambda: not rig.raw.board.mec.busy, "the end of the packets")
        rig.raw.poke("CP_HQD_DEQUEUE_REQUEST", 1)
        assert rig.raw.peek("CP_HQD_ACTIVE") == 0
        assert rig.mqd.cp_hqd_pq_rptr == rig.write
        rig.put(release(SIGNAL, 2))
        assert "doorbell-unattached" in rig.raw.rules

    @pytest.mark.parametrize("kind", [1, 2])
    def test_waiting_queue(self, rig: Rig, kind: int) -> None:
        rig.put(wait_memory(SIGNAL + 8, 5) + release(SIGNAL, 1))
        self.select(rig.raw)
        rig.raw.poke("CP_HQD_DEQUEUE_REQUEST", kind)
        rig.raw.wait(lambda: rig.raw.peek("CP_HQD_ACTIVE") == 0, "the dequeue")

    def test_hung_queue_and_again(self, rig: Rig) -> None:
        rig.put(packet(0xF7, 0))
        rig.hung()
        self.select(rig.raw)
        rig.raw.poke("CP_HQD_DEQUEUE_REQUEST", 2)
        assert rig.raw.peek("CP_HQD_ACTIVE") == 0
        rig.raw.poke("CP_HQD_PQ_RPTR", 0)
        rig.raw.poke("CP_HQD_PQ_WPTR_LO", 0)
        rig.raw.poke("CP_HQD_PQ_WPTR_HI", 0)
        rig.raw.poke("CP_HQD_ACTIVE", 1)
        rig.write = 0
        rig.put(release(SIGNAL, 3))
        rig.done(3)

    def test_soft_reset(self, rig: Rig) -> None:
        rig.put(wait_memory(SIGNAL + 8, 5))
        rig.raw.poke("GRBM_SOFT_RESET", SOFT_RESET_CP=1)
        rig.raw.poke("GRBM_SOFT_RESET", 0)
        self.select(rig.raw)
        assert rig.raw.peek("CP_HQD_ACTIVE") == 0
        assert rig.raw.peek("GRBM_STATUS") == 0


class TestKiq:
    """Micro engine 1, pipe 0, queue 0 as the kernel interface queue; it maps (1, 2, 1) from an MQD."""

    def kiq(self, rig: Rig) -> None:
        rig.raw.poke("RLC_CP_SCHEDULERS", 1 << 5 | 0x80)
        vram: Any = rig.raw.board.vram.view
        mqd = v11_compute_mqd.from_buffer(vram, rig.tables.buffer(0x7E31_0000_0000, 4096))
        self.ring = rig.raw.words(rig.tables.buffer(0x7E32_0000_0000, 4096), 1024)
        pointers = rig.raw.words(rig.tables.buffer(0x7E33_0000_0000, 4096), 16, np.uint64)
        mqd.cp_mqd_base_addr_lo, mqd.cp_mqd_base_addr_hi = lohi(0x7E31_0000_0000)
        mqd.cp_hqd_pq_base_lo, mqd.cp_hqd_pq_base_hi = lohi(0x7E32_0000_0000 >> 8)
        mqd.cp_hqd_pq_rptr_report_addr_lo, mqd.cp_hqd_pq_rptr_report_addr_hi = lohi(0x7E33_0000_0000)
        mqd.cp_hqd_eop_base_addr_lo, mqd.cp_hqd_eop_base_addr_hi = lohi(EOP >> 8)
        mqd.cp_hqd_pq_control = 9 | 5 << 8
        mqd.cp_hqd_pq_doorbell_control = 0x500 << 2 | 1 << 30
        mqd.cp_hqd_persistent_state = 0x0BE05501
        mqd.cp_mqd_control = mqd.cp_hqd_vmid = 1
        mqd.compute_static_thread_mgmt_se3 = 0x5
        words = release(SIGNAL + 8, 0x99)
        self.ring[:len(words)] = words
        pointers[1] = len(words)
        rig.put(packet(0xA0, *[0xFF] * 7))
        rig.put(packet(0xA2, 1 << 13 | 2 << 16 | 1 << 18 | 1 << 29, 0x500 << 2, *lohi(0x7E31_0000_0000),
                       *lohi(0x7E33_0000_0008)) + release(SIGNAL, 1))
        rig.done(1)

    def test_map_query_unmap(self, rig: Rig) -> None:
        self.kiq(rig)
        rig.done(0x99, slot=1)          # its write pointer came from memory
        raw = rig.raw
        raw.poke("GRBM_GFX_CNTL", MEID=1, PIPEID=2, QUEUEID=1)
        assert raw.peek("CP_HQD_ACTIVE") == 1
        assert raw.peek("COMPUTE_STATIC_THREAD_MGMT_SE3") == 5
        rig.put(packet(0xA4, 1 << 30, 0x500 << 2, *lohi(SIGNAL + 16), *lohi(0x42)))
        rig.done(0x42, slot=2)
        rig.put(packet(0xA3, 1 << 29, 0x500 << 2, 0, 0, 0) + release(SIGNAL, 2))
        rig.done(2)
        assert raw.peek("CP_HQD_ACTIVE") == 0


class TestShaderArrays:
    def read(self, raw: RawBoard) -> dict[tuple[int, int], int]:
        found = {}
        for se in range(6):
            for sa in range(2):
                raw.poke("GRBM_GFX_INDEX", SE_INDEX=se, SA_INDEX=sa, INSTANCE_BROADCAST_WRITES=1)
                found[se, sa] = raw.field("CC_GC_SHADER_ARRAY_CONFIG", "INACTIVE_WGPS") & 0xF
        raw.poke("GRBM_GFX_INDEX", 0xE0000000)
        return found

    def test_full_board(self, raw: RawBoard) -> None:
        assert set(self.read(raw).values()) == {0}
        assert raw.peek("CC_GC_SA_UNIT_DISABLE") == 0

    def test_harvested_board(self) -> None:
        with Machine([Gpu(vram="64M", harvest={(0, 1): 0x8, (5, 0): 0xF})]) as machine:
            raw = ready(machine)
            masks = self.read(raw)
            assert (masks[0, 1], masks[5, 0], masks[3, 0]) == (0x8, 0xF, 0)
            assert raw.field("CC_GC_SA_UNIT_DISABLE", "SA_DISABLE") == 1 << 10
            assert raw.board.gfx.enabled_cus(0, 1) == 0x3F

    def test_user_disable(self, raw: RawBoard) -> None:
        raw.poke("GRBM_GFX_INDEX", SE_INDEX=1, SA_INDEX=0, INSTANCE_BROADCAST_WRITES=1)
        raw.poke("GC_USER_SHADER_ARRAY_CONFIG", INACTIVE_WGPS=0x3)
        assert raw.board.gfx.enabled_cus(1, 0) == 0xF0
        assert raw.board.gfx.enabled_cus(0, 0) == 0xFF


def test_safe_mode(raw: RawBoard) -> None:
    raw.poke("RLC_SAFE_MODE", CMD=1, MESSAGE=1)
    assert raw.field("RLC_SAFE_MODE", "CMD") == 0
    raw.poke("RLC_CNTL", 0)
    raw.poke("RLC_SAFE_MODE", CMD=1, MESSAGE=1)
    assert raw.field("RLC_SAFE_MODE", "CMD") == 1


def test_constants(raw: RawBoard) -> None:
    assert raw.peek("GB_ADDR_CONFIG") == 0x545
    assert DENORMALS and RWX
