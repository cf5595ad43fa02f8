"""The graphics pipe's queues: the kernel's frames with buffers of processes, state in all its packets, compute
launches, predication, the one fault of a draw, preemption and reset."""

from __future__ import annotations

from typing import Any

import pytest
from compute_rig import SHADER_EN, WAVE32, Interrupts, lohi, packet, release, wait_memory, write_data
from mes_rig import DOORBELLS, EVERYTHING, RING_WORDS, Kernel, ProcessSide, Ring
from raw_board import RawBoard, Tables, V

from amdrv.facts.mqd_v11 import v11_gfx_mqd
from mock import mes_frames as frames

BUFFER, WORD, CODE = 0x40_0000, 0x10_0000, 0x50_0000
SH, CONTEXT = 0x2C00, 0xA000
S_ENDPGM = 0xBFB00000
STORE = [0x7E000200, 0x7E020201, 0x7E0402FF, 0x00C0FFEE, 0xDC6A0000, 0x007C0200, S_ENDPGM]
"""v_mov_b32 v0, s0; v_mov_b32 v1, s1; v_mov_b32 v2, 0xc0ffee; global_store_b32 v[0:1], v2, off; s_endpgm"""


class Graphics:
    """The graphics ring of pipe 0, mapped by the KIQ, and a process under VMID 3 as the kernel's VM flush sets it."""

    def __init__(self, kernel: Kernel, queue: int = 0) -> None:
        self.kernel, self.raw = kernel, kernel.raw
        raw = kernel.raw
        self.ring = Ring(kernel.memory, DOORBELLS["gfx"] + 4 * queue)
        offset = self.ring.mqd_at - EVERYTHING
        raw.board.vram.view[offset:offset + 2048] = 0
        self.mqd: Any = v11_gfx_mqd.from_buffer(raw.board.vram.view, offset)
        self.mqd.cp_mqd_base_addr, self.mqd.cp_mqd_base_addr_hi = lohi(self.ring.mqd_at)
        self.mqd.cp_gfx_hqd_base, self.mqd.cp_gfx_hqd_base_hi = lohi(self.ring.address >> 8)
        self.mqd.cp_gfx_hqd_rptr_addr, self.mqd.cp_gfx_hqd_rptr_addr_hi = lohi(self.ring.pointers_at)
        self.mqd.cp_gfx_hqd_cntl = RING_WORDS.bit_length() - 2
        self.mqd.cp_rb_doorbell_control = self.ring.doorbell << 2 | 1 << 30
        raw.poke("CP_RB_DOORBELL_RANGE_LOWER", 4 * DOORBELLS["gfx"])
        raw.poke("CP_RB_DOORBELL_RANGE_UPPER", 0x7FC)
        raw.poke("CP_ME_CNTL", 0)
        raw.poke("CP_INT_CNTL_RING0", TIME_STAMP_INT_ENABLE=1, OPCODE_ERROR_INT_ENABLE=1)
        self.tables = Tables(raw)
        if not queue:
            raw.context("GC", 3, self.tables.root)
            raw.invalidate("GC", 1 << 3)
        self.word = raw.words(self.tables.buffer(WORD, 4096), 1024)
        if not queue:
            kernel.map(self.ring, me=0, engine=4)

    def buffer(self, words: list[int], at: int = BUFFER, *, flags: int = 0) -> list[int]:
        """INDIRECT_BUFFER of a process, as gfx_v11_0_ring_emit_ib_gfx writes it: no VALID."""
        page = self.raw.words(self.tables.buffer(at, 4096), 1024)
        page[:len(words)] = words
        return packet(0x3F, *lohi(at), len(words) | 3 << 24 | flags)

    def run(self, words: list[int]) -> None:
        self.ring.put(words)
        self.kernel.sync(self.ring)

    def sh(self, name: str, *values: int) -> list[int]:
        return packet(0x76, self.raw.board.regs.dword("COMPUTE_" + name) - SH, *values)

    def launch(self) -> list[int]:
        """All but the dispatch itself of a kernel that stores 0xC0FFEE at WORD + 256."""
        page = self.raw.words(self.tables.buffer(CODE, 4096), 64)
        page[:len(STORE)] = STORE
        masks = [word for n in range(8) for word in self.sh(f"STATIC_THREAD_MGMT_SE{n}", 0xFFFFFFFF)]
        return (masks + self.sh("PGM_LO", CODE >> 8, 0) + self.sh("PGM_RSRC1", 0xC0 << 12 | 1, 2 << 1)
                + self.sh("USER_DATA_0", *lohi(WORD + 256)) + self.sh("NUM_THREAD_X", 1, 1, 1)
                + self.sh("START_X", 0, 0, 0))


@pytest.fixture
def graphics(kernel: Kernel) -> Graphics:
    return Graphics(kernel)


class TestFrames:
    def test_a_kernel_s_frame(self, graphics: Graphics, posted: Interrupts) -> None:
        """As amdgpu_ib_schedule builds one: a condition, HDP flush, cache flush, context, buffer, fence."""
        g, kernel = graphics, graphics.kernel
        condition, flag = kernel.memory.words(4096)
        regs = g.raw.board.regs
        request, done = (regs.dword(f"BIF_BX_PF0_GPU_HDP_FLUSH_{end}") for end in ("REQ", "DONE"))
        inside = (packet(0x3C, 3 | 1 << 6 | 1 << 8, request, done, 1, 1, 0x20)
                  + packet(0x58, 0, 0xFFFFFFFF, 0xFFFFFF, 0, 0, 10, 0x0003_E7B0)
                  + packet(0x28, 0x81018003, 0) + packet(0x90, 0)
                  + g.buffer(write_data(WORD, 0x11) + [0xFFFF1000] * 3) + packet(0x90, 1 << 28))
        frame = (packet(0x22, *lohi(condition), 0, len(inside)) + inside + packet(0x42, 0) + packet(0x8B, 0)
                 + release(kernel.fence_at + 40, 7, interrupt=2))
        for turn in (0, 1):
            flag[0] = turn
            g.run(frame)
            assert g.word[0] == 0x11 * turn
        assert kernel.fence[5] == 7 and len(posted) == 2

    def test_a_vm_flush_waits_for_its_vmid_alone(self, graphics: Graphics) -> None:
        """amdgpu_gmc_emit_flush_gpu_tlb: the request has bits that the acknowledge has not."""
        g = graphics
        request, acknowledge = (g.raw.board.regs.dword(f"GCVM_INVALIDATE_ENG0_{end}") for end in ("REQ", "ACK"))
        g.run(packet(0x3C, 3 | 1 << 6 | 1 << 8, request, acknowledge, 0x00F80008, 1 << 3, 0x20) + packet(0x42, 0))
        assert g.raw.peek("GCVM_INVALIDATE_ENG0_ACK") == 1 << 3

    def test_chained_and_nested_buffers(self, graphics: Graphics) -> None:
        g = graphics
        last = g.buffer(write_data(WORD + 8, 3), BUFFER + 0x2000, flags=1 << 20 | 1 << 23)
        inner = g.buffer(write_data(WORD + 4, 2), BUFFER + 0x1000, flags=1 << 23)
        g.run(g.buffer(write_data(WORD, 1) + inner + last + write_data(WORD, 9), flags=1 << 23))
        assert list(g.word[:3]) == [1, 2, 3]

    def test_preempted_by_the_kiq_it_goes_on(self, graphics: Graphics) -> None:
        g, kernel = graphics, graphics.kernel
        add = packet(0x1E, 0x4F, *lohi(WORD), 1, 0, 0, 0, 0)
        g.ring.put(g.buffer(add + wait_memory(WORD + 64, 1, function=3) + add))
        g.raw.wait(lambda: g.word[0] == 1, "the first add")
        kernel.kiq.put(packet(0xA3, 3 | 4 << 26 | 1 << 29, g.ring.doorbell << 2, *lohi(kernel.fence_at + 48), 0x55))
        kernel.sync(kernel.kiq)
        assert kernel.fence[6] == 0x55
        assert g.raw.board.mec.by_doorbell(g.ring.doorbell)
        g.word[16] = 1
        kernel.sync(g.ring)
        assert g.word[0] == 2


class TestState:
    def test_every_packet_that_sets_registers(self, graphics: Graphics) -> None:
        g, regs = graphics, graphics.raw.board.regs
        first = regs.dword("CB_BLEND_RED")
        user = regs.dword("COMPUTE_USER_DATA_0")
        packets = (packet(0x69, first - CONTEXT, 0x10, 0x20)                       # SET_CONTEXT_REG
                   + packet(0x6A, first - CONTEXT + 2 | 1 << 28, 0x30)              # SET_CONTEXT_REG_INDEX
                   + packet(0x51, first - CONTEXT, 0xF0, 0x77)                      # CONTEXT_REG_RMW
                   + packet(0xB8, first - CONTEXT + 3, 0x40)                        # SET_CONTEXT_REG_PAIRS
                   + packet(0xBA, user - SH, 1, user - SH + 1, 2)                   # SET_SH_REG_PAIRS
                   + packet(0xBB, 2, user - SH + 2 | user - SH + 3 << 16, 3, 4)     # .._PACKED
                   + packet(0xBD, 2, user - SH + 4 | user - SH + 5 << 16, 5, 6)     # .._PACKED_N
                   + packet(0x9B, user - SH + 6 | 3 << 28, 7))                      # SET_SH_REG_INDEX
        g.run(packets + packet(0xB9, 2, first - CONTEXT + 1 | first - CONTEXT + 2 << 16, 0x21, 0x31))
        context = g.raw.board.gfxring.context
        assert [context[first + n] for n in range(4)] == [0x70, 0x21, 0x31, 0x40]
        g.run(packet(0x69, 0x2A9, 0x12345678))              # one without a name, as the clear state has many
        assert context[CONTEXT + 0x2A9] == 0x12345678 and "unnamed-register" not in g.raw.rules
        assert [regs[f"COMPUTE_USER_DATA_{n}", (0, 0, 0)] for n in range(7)] == [1, 2, 3, 4, 5, 6, 7]
        assert regs["COMPUTE_USER_DATA_0", (1, 0, 0)] == 0

    def test_what_a_preamble_holds_beside_registers(self, graphics: Graphics) -> None:
        """Nothing to do for them here; what is behind them is done."""
        g = graphics
        words = (packet(0x4A, 2 << 28) + packet(0x28, 0x80000000, 0x80000000) + packet(0x12, 0) + packet(0x4A, 3 << 28)
                 + packet(0x26, 0, 0) + packet(0x2F, 1) + packet(0x46, 0x0F | 4 << 8) + packet(0xF0, *[0] * 8)
                 + packet(0xD2, 0) + packet(0x63, 0, 0, 0, 0) + packet(0x46, 0x1E | 2 << 8, 0, 0))
        g.run(g.buffer(words + write_data(WORD, 5)))
        assert g.word[0] == 5

    def test_prefetches_move_nothing(self, graphics: Graphics) -> None:
        graphics.run(graphics.buffer(packet(0x50, 2 << 20, *lohi(WORD), *lohi(WORD), 64) + write_data(WORD + 4, 3)))
        assert list(graphics.word[:2]) == [0, 3]

    @pytest.mark.parametrize(("words", "why"), [
        (packet(0xB9, 9, 0, 0, 0), "do not hold 9 packed registers"), (packet(0xBA, 1, 2, 3), "half a pair"),
        (packet(0x51, 0xFFFF, 0, 0), "beyond the end"), (packet(0x20, 5 << 16, 0, 0), "needs a graphics pipeline"),
        (packet(0xBA, 0xFFF0, 1), "beyond the end"), (packet(0x2D, 3, 2), "does not draw"),
        (packet(0x4C, 0, 0, 0, 0, 0, 0, 0), "does not draw"), (packet(0xA2, *[0] * 6), "not for the graphics"),
        (packet(0xF7, 0), "no such opcode")])
    def test_malformed_packets_hang_the_queue(self, graphics: Graphics, posted: Interrupts, words: list[int],
                                              why: str) -> None:
        """An interrupt (opcode error), once, and a note that says why."""
        graphics.ring.put(graphics.buffer(words + write_data(WORD, 1)) + write_data(WORD, 2))
        graphics.raw.wait(lambda: graphics.raw.board.notes.of("queue-hang"), "the hang")
        [note] = graphics.raw.board.notes.of("queue-hang")
        assert why in str(note)
        assert [entry[:3] for entry in posted] == [(0x14, 183, 0)] and graphics.word[0] == 0

    def test_predication(self, graphics: Graphics) -> None:
        g = graphics
        draw = packet(0x2D, 3, 2)
        draw[0] |= 1
        skip = packet(0x20, 3 << 16 | 1 << 8, *lohi(WORD + 128)) + draw
        g.run(g.buffer(skip + packet(0x20, 0, 0, 0) + write_data(WORD, 1)))
        g.word[32] = 1
        g.run(g.buffer(packet(0x20, 4 << 16, *lohi(WORD + 128)) + draw + write_data(WORD, 2), BUFFER + 0x1000))
        assert g.word[0] == 2
        g.ring.put(g.buffer(skip, BUFFER + 0x2000))
        g.raw.wait(lambda: g.raw.board.notes.of("queue-hang"), "the draw that is not skipped")


class TestLaunches:
    @pytest.mark.parametrize("form", ["direct", "indirect"])
    def test_compute_on_the_graphics_ring(self, graphics: Graphics, form: str) -> None:
        g = graphics
        g.word[200:203] = [1, 1, 1]
        initiator = SHADER_EN | WAVE32 | 1 << 2
        dispatch = packet(0x15, 1, 1, 1, initiator) if form == "direct" else (
            packet(0x11, 1, *lohi(WORD + 768)) + packet(0x16, 32, initiator))
        g.run(g.buffer(g.launch() + dispatch) + release(g.kernel.fence_at + 40, 1))
        assert g.word[64] == 0xC0FFEE and g.raw.board.counters["kernels"] == 1

    def test_statistics_count_work_items(self, graphics: Graphics) -> None:
        g = graphics
        sample = [packet(0x46, 0x1E | 2 << 8, *lohi(WORD + 1024 + 128 * n)) for n in (0, 1)]
        dispatch = packet(0x15, 3, 1, 1, SHADER_EN | WAVE32 | 1 << 2)
        g.word[256:320] = 0xFFFFFFFF
        g.run(g.buffer(g.launch() + sample[0] + dispatch + sample[1]))
        before, after = (g.word[256 + 32 * n:284 + 32 * n].view("u8") for n in (0, 1))
        assert [int(b - a) for a, b in zip(before, after, strict=True)] == [0] * 10 + [3] + [0] * 3
        assert g.word[284] == 0xFFFFFFFF                    # no further than 14 of them

    def test_the_compute_pipe_wants_an_address(self, kernel: Kernel) -> None:
        a = ProcessSide(kernel, 0)
        ring = a.queue()
        ring.put(packet(0x16, 0, 1))
        kernel.raw.wait(lambda: kernel.raw.board.notes.of("queue-hang"), "the hang")
        assert "DISPATCH_INDIRECT with 2 words" in str(kernel.raw.board.notes.of("queue-hang")[0])


class TestQueues:
    def test_a_process_s_graphics_queue(self, kernel: Kernel) -> None:
        """MES maps it to the slot that the kernel's queue leaves free."""
        kernel.resources(gfx_hqd_mask=[2, 0])
        mine = Graphics(kernel)
        other = Graphics(kernel, queue=1)
        other.tables.map(0x20_0000_0000, other.ring.address - EVERYTHING, 4096)
        other.mqd.cp_gfx_hqd_base, other.mqd.cp_gfx_hqd_base_hi = lohi(0x20_0000_0000 >> 8)
        other.tables.map(0x21_0000_0000, other.ring.pointers_at - EVERYTHING, 4096)
        other.mqd.cp_gfx_hqd_rptr_addr, other.mqd.cp_gfx_hqd_rptr_addr_hi = lohi(0x21_0000_0000)
        kernel.frame(2, process_id=1, page_table_base_addr=other.tables.root | V, process_va_end=(1 << 36) - 1,
                     process_context_addr=0x1000, gang_context_addr=0x9000, doorbell_offset=other.ring.doorbell,
                     mqd_addr=other.ring.mqd_at, queue_type=frames.QUEUE_GFX, vm_context_cntl=kernel.context,
                     wptr_addr=other.ring.pointers_at + 8)
        other.ring.put(write_data(WORD, 0x21))
        kernel.raw.wait(lambda: other.word[0] == 0x21, "its store")
        mine.run(mine.buffer(write_data(WORD, 0x22)))
        assert (mine.word[0], other.word[0]) == (0x22, 0x21)
        active = [bank for bank, queue in kernel.raw.board.gfxring.queues.items() if queue.active]
        assert active == [(0, 0, 0), (0, 0, 1)]

    def test_vmid_reset_takes_the_named_queue_off(self, graphics: Graphics) -> None:
        """mes_v11_0_reset_queue_mmio: the queue of the job's VMID is in VMID 0 itself."""
        g = graphics
        g.ring.put(g.buffer(wait_memory(WORD, 1, function=3)))
        queue = g.raw.board.gfxring.queues[0, 0, 0]
        g.raw.wait(lambda: queue.posted, "work")
        g.raw.poke("CP_VMID_RESET", RESET_REQUEST=1 << 3, PIPE0_QUEUES=1)
        g.raw.wait(lambda: g.raw.peek("CP_GFX_HQD_ACTIVE") == 0, "the reset")
        assert g.raw.peek("CP_VMID_RESET") == 0

    def test_reset_by_the_scheduler_goes_on_behind_what_hung(self, graphics: Graphics) -> None:
        g = graphics
        g.ring.put(g.buffer(packet(0x2D, 3, 2)))
        g.raw.wait(lambda: g.raw.board.notes.of("queue-hang"), "the hang")
        g.kernel.frame(8, flags=frames.RESET_LEGACY_GFX, mqd_mc_addr_lp=g.ring.mqd_at,
                       wptr_addr_lp=g.ring.pointers_at + 8)
        g.run(g.buffer(write_data(WORD, 4), BUFFER + 0x1000))
        assert g.word[0] == 4


def test_sdma_queues_are_reset_by_a_mask(raw: RawBoard, tables: Tables) -> None:
    from sdma_rig import Queue, fence
    queue = Queue(raw, tables)
    signal = raw.words(tables.buffer(0x13_0000_0000, 4096), 4)
    queue.put([0x7F] + [0] * 7)
    raw.wait(lambda: raw.board.notes.of("sdma-hang"), "the hang")
    raw.poke("SDMA0_QUEUE_RESET_REQ", 1)
    assert raw.peek("SDMA0_QUEUE_RESET_REQ") == 0 and raw.field("SDMA0_QUEUE0_RB_CNTL", "RB_ENABLE") == 0
    assert raw.field("SDMA0_QUEUE0_CONTEXT_STATUS", "EXCEPTION") == 0
    for name in ("RB_RPTR", "RB_WPTR"):                     # sdma_v6_0_gfx_resume_instance with restore
        raw.poke("SDMA0_QUEUE0_" + name, 4 * queue.write)
        raw.poke(f"SDMA0_QUEUE0_{name}_HI", 0)
    raw.update("SDMA0_QUEUE0_RB_CNTL", RB_ENABLE=1)
    queue.put(fence(0x13_0000_0000, 6))
    raw.wait(lambda: signal[0] == 6, "the fence")
