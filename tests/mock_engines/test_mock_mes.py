"""The scheduler: its KIQ and its ring of frames brought up as Linux does, queues of processes that come and go, VMIDs,
the graphics ring, and SDMA queues by MQD."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
from compute_rig import Interrupts, lohi, packet, release, write_data
from mes_rig import DOORBELLS, EVERYTHING, MISC, QUERY, RING_WORDS, Kernel, ProcessSide, Ring
from raw_board import RawBoard, Tables, V

from amdrv.facts import ih
from amdrv.facts.mqd_v11 import v11_gfx_mqd, v11_sdma_mqd
from mock import mes_frames as frames


def test_layouts_are_the_headers() -> None:
    """Offsets counted by hand in mes_v11_api_def.h."""
    assert ctypes.sizeof(frames.Header) == 4
    assert frames.ADD_QUEUE.mqd_addr.offset == 4 + 4 + 7 * 8 + 3 * 4 == 76
    assert frames.ADD_QUEUE.status.offset == 76 + 4 * 8 + 6 * 4 + 8 + 4 + 4 == 148
    assert frames.SET_HW_RESOURCES.sch_ctx.offset == 4 * (5 + 8 + 2 + 2 + 5)
    assert frames.SET_HW_RESOURCES.status.offset == 88 + 16 + 3 * 32
    assert frames.REMOVE_QUEUE.status.offset == 20 and frames.REMOVE_QUEUE.queue_type.offset == 56
    assert frames.MISC.data.offset == 24 and frames.RESET.queue_type.offset == 28
    assert all(ctypes.sizeof(layout) <= frames.FRAME_BYTES for layout in frames.LAYOUTS.values())


class TestBringUp:
    def test_version_and_health(self, kernel: Kernel) -> None:
        raw = kernel.raw
        for pipe in (0, 1):
            raw.poke("GRBM_GFX_CNTL", MEID=3, PIPEID=pipe)
            assert raw.peek("CP_MES_GP3_LO") >> 12 & 0xFFF >= 2
        raw.poke("GRBM_GFX_CNTL", 0)
        kernel.frame(QUERY)
        assert raw.board.counters["mes_frames"] == 2

    def test_without_firmware_nothing_answers(self, raw: RawBoard) -> None:
        with pytest.raises(AssertionError, match="the ring's fence"):
            raw_wait, raw.wait = raw.wait, lambda c, w, s=0.2: raw_wait(c, w, s)     # type: ignore[method-assign]
            Kernel(raw, loaded=False)

    def test_start_address_comes_in_reset(self, raw: RawBoard) -> None:
        raw.board.psp.loaded |= {"CP_MES", "CP_MES_KIQ"}
        raw.poke("CP_MES_CNTL", 0, MES_PIPE0_ACTIVE=1)
        assert "mes-start" in raw.rules and not raw.board.mes.pipe_running(0)

    def test_frames_that_are_none_get_no_fence(self, kernel: Kernel) -> None:
        kernel.frame(99, frames.QUERY_STATUS, wait=False)
        kernel.frame(QUERY)                                         # it goes on behind it
        assert "opcode 99" in str(kernel.raw.board.notes.of("mes-frame")[0])

    def test_silence(self, kernel: Kernel) -> None:
        kernel.raw.board.faults.inject("mes-silent", count=1, opcode=QUERY)
        kernel.frame(QUERY, wait=False)
        kernel.frame(MISC, opcode=frames.MISC_QUERY_STATUS)
        assert kernel.fence[0] == kernel.sequence

    def test_resources_come_first(self, raw: RawBoard) -> None:
        kernel = Kernel(raw)
        ProcessSide(kernel, 0).queue(wait=False)
        kernel.frame(QUERY)
        assert "SET_HW_RSRC" in str(raw.board.notes.of("mes-frame")[0])


class TestQueues:
    def test_processes_have_vmids_of_their_own(self, kernel: Kernel) -> None:
        """The same address in two processes is two places; the PASID is the VMID's."""
        a, b = ProcessSide(kernel, 0), ProcessSide(kernel, 1)
        qa, qb = a.queue(), b.queue()
        a.store(qa, 0xAA)
        b.store(qb, 0xBB)
        assert a.word[0] == 0xAA and b.word[0] == 0xBB
        regs = kernel.raw.board.regs
        assert (regs["IH_VMID_8_LUT"], regs["IH_VMID_9_LUT"]) == (0x500, 0x501)

    def test_slots_are_those_of_the_masks(self, kernel: Kernel) -> None:
        a = ProcessSide(kernel, 0)
        for n in range(3):
            a.store(a.queue(n), n + 1)
        active = [queue.bank for queue in kernel.raw.board.mec.queues.values() if queue.active]
        assert active == [(1, 0, 2), (1, 0, 3), (1, 1, 2)]

    def test_remove(self, kernel: Kernel) -> None:
        a = ProcessSide(kernel, 0)
        ring = a.queue()
        a.store(ring, 1)
        kernel.frame(3, doorbell_offset=ring.doorbell, gang_context_addr=a.gang())
        assert not kernel.raw.board.mec.by_doorbell(ring.doorbell) and not kernel.raw.board.mes.processes
        assert ring.mqd.cp_hqd_pq_rptr == ring.wptr == ring.mqd.cp_hqd_pq_wptr_lo
        kernel.frame(3, doorbell_offset=ring.doorbell, gang_context_addr=a.gang(), wait=False)
        kernel.frame(QUERY)
        assert "no queue of gang" in str(kernel.raw.board.notes.of("mes-frame")[0])

    def test_more_queues_than_slots(self, kernel: Kernel) -> None:
        """One compute slot for two queues: the second runs when the first is gone, with what it was given meanwhile."""
        kernel.resources(compute_hqd_mask=[0, 0, 1, 0])
        a = ProcessSide(kernel, 0)
        first, second = a.queue(0), a.queue(1)
        a.store(first, 1)
        second.put(write_data(0x10_0000, 2))
        assert a.word[0] == 1 and "mes-oversubscribed" in kernel.raw.rules
        kernel.frame(3, doorbell_offset=first.doorbell, gang_context_addr=a.gang(0))
        kernel.raw.wait(lambda: a.word[0] == 2, "the second queue's store")

    def test_more_processes_than_vmids(self, kernel: Kernel) -> None:
        kernel.resources(vmid_mask_gfxhub=1 << 12)
        a, b = ProcessSide(kernel, 0), ProcessSide(kernel, 1)
        qa, qb = a.queue(), b.queue()
        a.store(qa, 5)
        qb.put(write_data(0x10_0000, 6))
        kernel.frame(3, doorbell_offset=qa.doorbell, gang_context_addr=a.gang())
        kernel.raw.wait(lambda: b.word[0] == 6, "the other process")
        assert a.word[0] == 5                           # VMID 12 forgot the first one's translations

    @pytest.mark.parametrize("everyone", [0, 1])
    def test_suspend_and_resume(self, kernel: Kernel, everyone: int) -> None:
        a = ProcessSide(kernel, 0)
        rings = [a.queue(0), a.queue(1)]
        for n, ring in enumerate(rings):
            a.store(ring, n + 1)
        kernel.frame(6, flags=everyone, gang_context_addr=a.gang(0), suspend_fence_addr=kernel.fence_at + 32,
                     suspend_fence_value=0x77)
        assert kernel.fence[4] == 0x77
        mec = kernel.raw.board.mec
        assert [mec.by_doorbell(ring.doorbell) is None for ring in rings] == [True, bool(everyone)]
        rings[0].put(write_data(0x10_0000, 9))          # rung while nobody listens; the pointer in memory stays
        kernel.frame(7, flags=everyone, gang_context_addr=a.gang(0))
        kernel.raw.wait(lambda: a.word[0] == 9, "what was submitted meanwhile")

    @pytest.mark.parametrize("detect", [0, 1])
    def test_hung_queues_are_found_and_reset(self, kernel: Kernel, detect: int) -> None:
        a = ProcessSide(kernel, 0)
        good, bad = a.queue(0), a.queue(1)
        a.store(good, 1)
        bad.put([0x12345678])
        kernel.raw.wait(lambda: kernel.raw.board.notes.of("queue-hang"), "the hang")
        kernel.frame(8, flags=frames.RESET_DETECT_ONLY if detect else frames.RESET_HUNG, queue_type=1,
                     doorbell_offset_addr=kernel.fence_at + 128)
        assert kernel.fence[16] == bad.doorbell
        assert (kernel.raw.board.mec.by_doorbell(bad.doorbell) is None) == (not detect)
        a.store(good, 2)

    def test_reset_of_a_queue(self, kernel: Kernel) -> None:
        a = ProcessSide(kernel, 0)
        ring = a.queue()
        a.store(ring, 1)
        kernel.frame(8, flags=frames.RESET_QUEUE_ONLY, doorbell_offset=ring.doorbell)
        assert kernel.raw.board.mec.by_doorbell(ring.doorbell) is None

    def test_a_new_root(self, kernel: Kernel) -> None:
        a, other = ProcessSide(kernel, 0), ProcessSide(kernel, 5)
        ring = a.queue()
        a.store(ring, 1)
        for address in range(0x20_0000_0000, 0x20_0000_0000 + (64 << 20), 4096):        # all but the word is shared
            entry = int(a.tables.entry(address, 0)[0])
            if entry:
                other.tables.entry(address, 0)[0] = entry
        kernel.frame(15, page_table_base_addr=other.tables.root | V, process_context_addr=0x1000)
        ring.put(write_data(0x10_0000, 2))
        kernel.raw.wait(lambda: other.word[0] == 2, "the store through the new tables")
        assert a.word[0] == 1

    def test_a_trap_handler_comes_with_the_process(self, kernel: Kernel) -> None:
        ProcessSide(kernel, 0).queue(flags=frames.ADD_TRAP, trap_handler_addr=0x7_1234_5600, tma_addr=0x7_0000_0100)
        assert kernel.raw.board.gfx.trap_handler(8) == (0x7_1234_5600, 0x7_0000_0100)
        assert kernel.raw.board.gfx.trap_handler(9) == (0, 0)

    def test_a_queue_of_the_driver_by_add_queue(self, kernel: Kernel) -> None:
        ring = Ring(kernel.memory, 0x90)
        kernel.frame(2, doorbell_offset=0x90, mqd_addr=ring.mqd_at, wptr_addr=ring.pointers_at + 8, queue_type=1,
                     flags=frames.ADD_LEGACY, pipe_id=3, queue_id=1)
        kernel.sync(ring)
        assert kernel.raw.board.mec.queues[1, 3, 1].active
        kernel.frame(3, flags=frames.REMOVE_LEGACY, pipe_id=3, queue_id=1, queue_type=1)
        assert not kernel.raw.board.mec.queues[1, 3, 1].active


class TestMisc:
    def test_registers(self, kernel: Kernel) -> None:
        raw, scratch = kernel.raw, kernel.raw.board.regs.dword("SCRATCH_REG1")
        kernel.frame(MISC, opcode=frames.MISC_WRITE_REG, data=[scratch, 0xABCD])
        assert raw.peek("SCRATCH_REG1") == 0xABCD
        kernel.frame(MISC, opcode=frames.MISC_READ_REG, data=[scratch, *lohi(kernel.fence_at + 24)])
        assert kernel.fence[3] == 0xABCD
        kernel.frame(MISC, opcode=frames.MISC_WAIT_REG_MEM, data=[0, 0x1200, 0xFF00, scratch], wait=False)
        assert kernel.fence[0] != kernel.sequence
        raw.poke("SCRATCH_REG1", 0x1234)
        raw.wait(lambda: kernel.fence[0] == kernel.sequence, "the register")
        other = raw.board.regs.dword("SCRATCH_REG2")
        raw.poke("SCRATCH_REG2", 5)
        kernel.frame(MISC, opcode=frames.MISC_WAIT_REG_MEM, data=[1, 5, 0xFF, scratch, other])
        assert raw.peek("SCRATCH_REG1") == 5

    def test_gart_and_status(self, kernel: Kernel) -> None:
        """The GART's translations are forgotten: a page that moved is read at its new place."""
        raw = kernel.raw
        where, page = kernel.memory.words(4096)
        page[0] = 1
        assert raw.board.memory.read("gc", 0, where, 4) == b"\x01\0\0\0"
        other = raw.vram(4096)
        raw.words(other, 1)[0] = 2
        kernel.memory.tables.map(where, other, 4096)
        assert raw.board.memory.read("gc", 0, where, 4) == b"\x01\0\0\0"
        kernel.frame(MISC, opcode=frames.MISC_INV_GART)
        assert raw.board.memory.read("gc", 0, where, 4) == b"\x02\0\0\0"
        kernel.frame(MISC, opcode=frames.MISC_QUERY_STATUS, data=[0x31])
        assert kernel.fence[8] == 0x31


class TestGraphics:
    def mqd(self, kernel: Kernel) -> tuple[Ring, v11_gfx_mqd]:
        ring = Ring(kernel.memory, DOORBELLS["gfx"])
        offset = ring.mqd_at - EVERYTHING
        kernel.raw.board.vram.view[offset:offset + 2048] = 0
        mqd: Any = v11_gfx_mqd.from_buffer(kernel.raw.board.vram.view, offset)
        mqd.cp_mqd_base_addr, mqd.cp_mqd_base_addr_hi = lohi(ring.mqd_at)
        mqd.cp_gfx_hqd_base, mqd.cp_gfx_hqd_base_hi = lohi(ring.address >> 8)
        mqd.cp_gfx_hqd_rptr_addr, mqd.cp_gfx_hqd_rptr_addr_hi = lohi(ring.pointers_at)
        mqd.cp_gfx_hqd_cntl = RING_WORDS.bit_length() - 2
        mqd.cp_rb_doorbell_control = ring.doorbell << 2 | 1 << 30
        kernel.raw.poke("CP_RB_DOORBELL_RANGE_LOWER", 4 * ring.doorbell)
        kernel.raw.poke("CP_RB_DOORBELL_RANGE_UPPER", 0x7FC)
        return ring, mqd

    def test_by_kiq_as_the_ring_test(self, kernel: Kernel, posted: Interrupts) -> None:
        ring, _mqd = self.mqd(kernel)
        kernel.raw.poke("CP_ME_CNTL", 0)
        kernel.raw.poke("CP_INT_CNTL_RING0", TIME_STAMP_INT_ENABLE=1)
        kernel.map(ring, me=0, engine=4)
        scratch = kernel.raw.board.regs.dword("SCRATCH_REG0")
        ring.put(packet(0x79, scratch - 0xC000, 0xDEADBEEF))
        kernel.raw.wait(lambda: kernel.raw.peek("SCRATCH_REG0") == 0xDEADBEEF, "the ring test")
        ring.put(packet(0x4A, 2 << 28) + packet(0x28, 0x80000000, 0x80000000) + packet(0x12, 0)
                 + packet(0x69, 0, 1, 2) + release(kernel.fence_at + 40, 7, interrupt=2))
        kernel.raw.wait(lambda: kernel.fence[5] == 7, "the fence")
        kernel.raw.wait(lambda: posted, "the interrupt")
        assert posted == [(ih.SOC21_IH_CLIENTID_GRBM_CP, ih.GFX_11_0_0__SRCID__CP_EOP_INTERRUPT, 0, 0, (0, 0, 0, 0))]
        kernel.raw.wait(lambda: ring.pointers[0] == ring.wptr, "the read pointer")

    def test_preempted_and_removed_by_the_scheduler(self, kernel: Kernel) -> None:
        """Preempted it stays on the hardware; unmapped its place is in its MQD."""
        ring, mqd = self.mqd(kernel)
        kernel.raw.poke("CP_ME_CNTL", 0)
        kernel.map(ring, me=0, engine=4)
        kernel.sync(ring)
        kernel.frame(3, flags=frames.REMOVE_PREEMPT_GFX, tf_addr=kernel.fence_at + 48, tf_data=0x66)
        assert kernel.fence[6] == 0x66 and mqd.cp_gfx_hqd_rptr == ring.wptr
        kernel.sync(ring)
        kernel.frame(3, flags=frames.REMOVE_LEGACY_GFX)
        assert mqd.cp_gfx_hqd_rptr == ring.wptr
        assert kernel.raw.peek("CP_GFX_HQD_ACTIVE") == 0

    def test_by_the_older_registers(self, kernel: Kernel) -> None:
        raw, ring = kernel.raw, Ring(kernel.memory, DOORBELLS["gfx"])
        raw.poke("CP_RB0_CNTL", RING_WORDS.bit_length() - 2)
        raw.poke("CP_RB0_RPTR_ADDR", ring.pointers_at & 0xFFFFFFFF)
        raw.poke("CP_RB0_RPTR_ADDR_HI", ring.pointers_at >> 32)
        raw.poke("CP_RB0_BASE", ring.address >> 8 & 0xFFFFFFFF)
        raw.poke("CP_RB0_BASE_HI", ring.address >> 40)
        raw.poke("CP_RB0_ACTIVE", 1)
        words = release(kernel.fence_at + 40, 3)
        ring.words[:len(words)] = words
        raw.poke("CP_RB0_WPTR", len(words))
        assert kernel.fence[5] == 0                         # still halted
        raw.poke("CP_ME_CNTL", 0)
        raw.wait(lambda: kernel.fence[5] == 3, "the fence")

    def test_a_draw_is_no_packet(self, kernel: Kernel) -> None:
        ring, _mqd = self.mqd(kernel)
        kernel.raw.poke("CP_ME_CNTL", 0)
        kernel.map(ring, me=0, engine=4)
        ring.put(packet(0x2D, 3, 2))                        # DRAW_INDEX_AUTO
        kernel.raw.wait(lambda: kernel.raw.board.notes.of("queue-hang"), "the hang")


class TestSdma:
    def ring(self, kernel: Kernel, tables: Tables | None) -> tuple[Ring, Any]:
        ring = Ring(kernel.memory, DOORBELLS["sdma"])
        offset = ring.mqd_at - EVERYTHING
        kernel.raw.board.vram.view[offset:offset + 2048] = 0
        mqd: Any = v11_sdma_mqd.from_buffer(kernel.raw.board.vram.view, offset)
        base = ring.address
        if tables is not None:
            base = 0x30_0000_0000
            tables.map(base, ring.address - EVERYTHING, 4096)
        mqd.sdmax_rlcx_rb_base, mqd.sdmax_rlcx_rb_base_hi = lohi(base >> 8)
        mqd.sdmax_rlcx_rb_cntl = (RING_WORDS.bit_length() - 1) << 1
        mqd.sdmax_rlcx_doorbell = 1 << 28
        mqd.sdmax_rlcx_doorbell_offset = ring.doorbell << 2
        for engine in (0, 1):
            kernel.raw.update(f"SDMA{engine}_F32_CNTL", HALT=0, TH1_RESET=0)
        return ring, mqd

    def fence(self, kernel: Kernel, ring: Ring, address: int, value: int) -> None:
        words = [5, *lohi(address), value]
        for word in words:
            ring.words[ring.wptr % RING_WORDS] = word
            ring.wptr += 1
        kernel.raw.board.sdma.doorbell(4 * ring.doorbell, 4 * ring.wptr, 8)

    def test_by_kiq(self, kernel: Kernel) -> None:
        ring, _mqd = self.ring(kernel, None)
        kernel.map(ring, me=0, engine=3, queue=5)
        self.fence(kernel, ring, kernel.fence_at + 56, 0x99)
        kernel.raw.wait(lambda: kernel.fence[7] == 0x99, "the fence")
        assert kernel.raw.board.sdma.queues[1][5].enabled

    def test_of_a_process(self, kernel: Kernel) -> None:
        a = ProcessSide(kernel, 0)
        ring, mqd = self.ring(kernel, a.tables)
        kernel.frame(2, process_id=1, page_table_base_addr=a.tables.root | V, process_va_end=(1 << 36) - 1,
                     process_context_addr=0x1000, gang_context_addr=0x9000, doorbell_offset=ring.doorbell,
                     mqd_addr=ring.mqd_at, queue_type=frames.QUEUE_SDMA,
                     vm_context_cntl=kernel.context)
        self.fence(kernel, ring, 0x10_0000, 0x42)
        kernel.raw.wait(lambda: a.word[0] == 0x42, "the fence in the process's memory")
        [queue] = [q for queues in kernel.raw.board.sdma.queues for q in queues if q.enabled]
        assert (queue.instance, queue.index, queue.vmid) == (0, 2, 8)
        kernel.frame(3, doorbell_offset=ring.doorbell, gang_context_addr=0x9000)
        assert not queue.enabled and mqd.sdmax_rlcx_rb_rptr == 4 * ring.wptr


class TestKiqUnmap:
    def test_by_pasid_and_all(self, kernel: Kernel) -> None:
        a, b = ProcessSide(kernel, 0), ProcessSide(kernel, 1)
        qa, qb = a.queue(), b.queue()
        a.store(qa, 1)
        b.store(qb, 1)
        mec = kernel.raw.board.mec
        kernel.kiq.put(packet(0xA3, 1 << 4, 0x501, 0, 0, 0))
        kernel.sync(kernel.kiq)
        assert mec.by_doorbell(qa.doorbell) and not mec.by_doorbell(qb.doorbell)
        kernel.kiq.put(packet(0xA3, 2 << 4, 0, 0, 0, 0))
        kernel.sync(kernel.kiq)
        assert not mec.by_doorbell(qa.doorbell) and mec.by_doorbell(DOORBELLS["sched"])
