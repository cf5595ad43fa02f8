"""Turns of the scheduler: more queues than slots, more processes than VMIDs, priorities, preemption in the middle of a
buffer, logs, debugging, and the frames of Linux 7.3."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from compute_rig import lohi, packet, release, wait_memory, write_data
from mes_rig import MISC, QUERY, Kernel, ProcessSide, Ring
from raw_board import RawBoard, V

from mock import mes_frames as frames
from mock.gmc import Client

WORD = 0x10_0000                # where a process's word is, in its own address space


def one_slot(kernel: Kernel) -> None:
    kernel.resources(compute_hqd_mask=[1 << 2, 0, 0, 0])


def waiting(at: int, value: int) -> list[int]:
    return wait_memory(WORD + 4 * at, value, function=3) + write_data(WORD + 4 * at + 32, value)


class TestTurns:
    def test_two_queues_that_wait_for_each_other_share_a_slot(self, kernel: Kernel) -> None:
        """Each waits for what the other stores after its own wait: only turns let both end."""
        one_slot(kernel)
        a = ProcessSide(kernel, 0)
        first, second = a.queue(0), a.queue(1)
        first.put(wait_memory(WORD, 1, function=3) + write_data(WORD + 4, 2))
        second.put(write_data(WORD, 1) + wait_memory(WORD + 4, 2, function=3) + write_data(WORD + 8, 3))
        kernel.raw.wait(lambda: a.word[2] == 3, "both queues' work")
        assert "mes-oversubscribed" in kernel.raw.rules and "queue-hang" not in kernel.raw.rules

    def test_processes_take_turns_with_one_vmid(self, kernel: Kernel) -> None:
        kernel.resources(vmid_mask_gfxhub=1 << 9)
        sides = [ProcessSide(kernel, n) for n in range(3)]
        rings = [side.queue() for side in sides]
        for value in (1, 2):
            for n, ring in enumerate(rings):
                ring.put(write_data(WORD, 0x100 * n + value))
            for n, side in enumerate(sides):
                wanted = 0x100 * n + value
                kernel.raw.wait(lambda side=side, wanted=wanted: side.word[0] == wanted, f"process {n}")    # type: ignore[misc]
        assert kernel.raw.board.regs["IH_VMID_9_LUT"] in {0x500 + n for n in range(3)}

    def test_a_higher_priority_does_not_wait_for_quanta(self, kernel: Kernel) -> None:
        one_slot(kernel)
        a = ProcessSide(kernel, 0)
        low = a.queue(0, gang_global_priority_level=1, gang_quantum=1 << 40)
        low.put(waiting(0, 7))
        high = a.queue(1, gang_global_priority_level=3)
        high.put(write_data(WORD + 8, 5))
        kernel.raw.wait(lambda: a.word[2] == 5, "the higher one's store")
        a.word[0] = 7
        kernel.raw.wait(lambda: a.word[8] == 7, "the lower one, after it")

    def test_a_long_quantum_is_kept_until_a_yield(self, kernel: Kernel) -> None:
        one_slot(kernel)
        a = ProcessSide(kernel, 0)
        a.queue(0, gang_quantum=1 << 40).put(waiting(0, 7))
        a.queue(1).put(write_data(WORD + 8, 5))
        kernel.frame(QUERY)
        for _ in range(20):
            kernel.frame(MISC, opcode=frames.MISC_NOTIFY_WORK)
        assert a.word[2] == 0
        kernel.frame(4)                                     # PERFORM_YIELD
        kernel.raw.wait(lambda: a.word[2] == 5, "the other's store")

    def test_priority_can_be_changed(self, kernel: Kernel) -> None:
        one_slot(kernel)
        a = ProcessSide(kernel, 0)
        a.queue(0, gang_quantum=1 << 40, gang_global_priority_level=1).put(waiting(0, 7))
        a.queue(1, gang_global_priority_level=1).put(write_data(WORD + 8, 5))
        kernel.frame(5, gang_context_addr=a.gang(1), gang_global_priority_level=4)
        kernel.raw.wait(lambda: a.word[2] == 5, "the other's store")
        kernel.frame(5, gang_context_addr=0x77, wait=False)
        kernel.frame(QUERY)
        assert "no queue is of gang 0x77" in str(kernel.raw.board.notes.of("mes-frame")[0])

    def test_doorbells_of_waiting_queues_and_aggregated_ones_are_heard(self, kernel: Kernel) -> None:
        kernel.resources(compute_hqd_mask=[1 << 2, 0, 0, 0], aggregated_doorbells=[0xA0, 0xA2, 0xA4, 0xA6, 0xA8])
        a = ProcessSide(kernel, 0)
        first, second = a.queue(0), a.queue(1)
        for turn in range(1, 4):
            for n, ring in enumerate((first, second)):
                ring.put(write_data(WORD + 4 * n, turn))
                kernel.raw.board.mec.doorbell(4 * 0xA2, 0, 8)
            kernel.raw.wait(lambda turn=turn: list(a.word[:2]) == [turn, turn], f"turn {turn}")     # type: ignore[misc]
        assert "doorbell-unattached" not in kernel.raw.rules
        kernel.raw.board.mec.doorbell(4 * 0xC0, 0, 8)
        assert "doorbell-unattached" in kernel.raw.rules

    def test_one_process_at_a_time(self, kernel: Kernel) -> None:
        """CHANGE_CONFIG, limit_single_process: the other's queue is not on the hardware meanwhile."""
        kernel.frame(MISC, opcode=frames.MISC_CHANGE_CONFIG, data=[frames.CONFIG_SINGLE_PROCESS, 1])
        a, b = ProcessSide(kernel, 0), ProcessSide(kernel, 1)
        qa, qb = a.queue(), b.queue()
        mec = kernel.raw.board.mec
        for value in (1, 2, 3):
            qa.put(write_data(WORD, value))
            qb.put(write_data(WORD, value))
            kernel.raw.wait(lambda value=value: a.word[0] == b.word[0] == value, f"store {value}")  # type: ignore[misc]
            assert sum(mec.by_doorbell(ring.doorbell) is not None for ring in (qa, qb)) <= 1


class TestPreemption:
    def buffer(self, a: ProcessSide, at: int, words: list[int]) -> list[int]:
        page = a.kernel.raw.words(a.tables.buffer(at, 4096), 1024)
        page[:len(words)] = words
        return packet(0x3F, *lohi(at), len(words) | 1 << 23)

    def test_a_preempted_buffer_goes_on_where_it_was(self, kernel: Kernel) -> None:
        """Stores before the wait are not repeated, in a buffer, in one within it, and in one chained to it."""
        a = ProcessSide(kernel, 0)
        ring = a.queue()
        add = packet(0x1E, 0x4F, *lohi(WORD), 1, 0, 0, 0, 0)                   # ATOMIC_ADD_32
        inner = self.buffer(a, 0x41_0000, add + wait_memory(WORD + 64, 1, function=3) + add)
        last = self.buffer(a, 0x42_0000, add + wait_memory(WORD + 68, 1, function=3) + add)
        last[3] |= 1 << 20                                                      # CHAIN
        ring.put(self.buffer(a, 0x40_0000, add + inner + last))
        kernel.raw.wait(lambda: a.word[0] == 2, "the adds before the wait")
        for word, done in ((16, 4), (17, 5)):
            kernel.frame(6, gang_context_addr=a.gang())
            assert not kernel.raw.board.mec.by_doorbell(ring.doorbell)
            kernel.frame(7, gang_context_addr=a.gang())
            a.word[word] = 1
            kernel.raw.wait(lambda done=done: a.word[0] == done, f"{done} adds")                    # type: ignore[misc]
        kernel.raw.wait(lambda: ring.pointers[0] == ring.wptr, "the end")
        assert a.word[0] == 5

    def test_a_descriptor_made_anew_starts_anew(self, kernel: Kernel) -> None:
        a = ProcessSide(kernel, 0)
        ring = a.queue()
        ring.put(write_data(WORD + 4, 9) + self.buffer(a, 0x40_0000, write_data(WORD, 1) + wait_memory(
            WORD + 64, 1, function=3)))
        kernel.raw.wait(lambda: a.word[0] == 1, "the store")
        kernel.frame(3, doorbell_offset=ring.doorbell, gang_context_addr=a.gang())
        a.word[0] = 0
        assert ring.mqd.cp_hqd_pq_rptr == 5
        ring.mqd.cp_hqd_pq_rptr = ring.mqd.cp_hqd_pq_wptr_lo = 0
        again = a.queue(1)
        assert again is not ring
        a.store(again, 3)

    def test_sdma(self, kernel: Kernel) -> None:
        """The same of a copy engine: two increments, the wait between them."""
        a = ProcessSide(kernel, 0)
        raw = kernel.raw
        from amdrv.facts.mqd_v11 import v11_sdma_mqd
        ring = Ring(kernel.memory, 0x60)
        offset = ring.mqd_at - 0x7F00_0000_0000
        raw.board.vram.view[offset:offset + 2048] = 0
        mqd: Any = v11_sdma_mqd.from_buffer(raw.board.vram.view, offset)
        a.tables.map(0x30_0000_0000, ring.address - 0x7F00_0000_0000, 4096)
        mqd.sdmax_rlcx_rb_base, mqd.sdmax_rlcx_rb_base_hi = lohi(0x30_0000_0000 >> 8)
        mqd.sdmax_rlcx_rb_cntl = 10 << 1
        mqd.sdmax_rlcx_ib_cntl = 1
        mqd.sdmax_rlcx_doorbell, mqd.sdmax_rlcx_doorbell_offset = 1 << 28, ring.doorbell << 2
        for engine in (0, 1):
            raw.update(f"SDMA{engine}_F32_CNTL", HALT=0, TH1_RESET=0)
        increment = [10 | 0x4F << 25, *lohi(WORD), 1, 0, 0, 0, 0]
        poll = [8 | 3 << 28 | 1 << 31, *lohi(WORD + 64), 1, 0xFFFFFFFF, 0xFFF << 16]
        words = increment + poll + increment
        page = raw.words(a.tables.buffer(0x40_0000, 4096), 1024)
        page[:len(words)] = words
        ring.words[:8] = [0, 0, 4 | 0 << 16, *lohi(0x40_0000), len(words), 0, 0]
        kernel.frame(2, process_id=1, page_table_base_addr=a.tables.root | V, process_va_end=(1 << 36) - 1,
                     process_context_addr=0x1000, gang_context_addr=0x9000, doorbell_offset=ring.doorbell,
                     mqd_addr=ring.mqd_at, queue_type=frames.QUEUE_SDMA, wptr_addr=ring.pointers_at + 8,
                     vm_context_cntl=kernel.context)
        ring.pointers[1] = 32
        raw.board.sdma.doorbell(4 * ring.doorbell, 32, 8)
        raw.wait(lambda: a.word[0] == 1, "the first")
        kernel.frame(6, gang_context_addr=0x9000)
        kernel.frame(7, gang_context_addr=0x9000)
        a.word[16] = 1
        raw.wait(lambda: a.word[0] == 2, "the second")
        [queue] = [q for queues in raw.board.sdma.queues for q in queues if q.enabled]
        raw.wait(lambda: queue.read == 32, "the end")
        assert a.word[0] == 2


class TestHangs:
    def test_suspend_gets_no_answer_from_a_queue_that_hangs(self, kernel: Kernel) -> None:
        a = ProcessSide(kernel, 0)
        good, bad = a.queue(0), a.queue(1)
        a.store(good, 1)
        bad.put([0x12345678])
        kernel.raw.wait(lambda: kernel.raw.board.notes.of("queue-hang"), "the hang")
        kernel.frame(6, flags=frames.SUSPEND_ALL, wait=False)
        kernel.frame(QUERY)
        assert f"{bad.doorbell:#x} hang" in str(kernel.raw.board.notes.of("mes-frame")[0])
        assert not kernel.raw.board.mec.by_doorbell(good.doorbell)
        kernel.frame(8, flags=frames.RESET_DETECT_ONLY, queue_type=1, doorbell_offset_addr=kernel.fence_at + 128)
        found = kernel.fence[16:].view(np.uint32)
        assert found[0] == bad.doorbell
        place = int(found[2 * 4 + 1 + 12])                          # behind as many as there are hardware queues
        assert (place & 7, place >> 3 & 0xF, place >> 7) == (1, 0, 3)
        kernel.frame(8, flags=frames.RESET_QUEUE_ONLY, doorbell_offset=bad.doorbell)
        kernel.frame(3, flags=frames.REMOVE_AFTER_RESET, doorbell_offset=bad.doorbell, gang_context_addr=a.gang(1))
        kernel.frame(7, flags=frames.RESUME_ALL)
        a.store(good, 2)

    def test_a_reset_queue_of_the_driver_goes_on_behind_what_hung(self, kernel: Kernel) -> None:
        ring = Ring(kernel.memory, 0x90)
        kernel.frame(2, doorbell_offset=0x90, mqd_addr=ring.mqd_at, wptr_addr=ring.pointers_at + 8, queue_type=1,
                     flags=frames.ADD_LEGACY, pipe_id=1, queue_id=0)
        kernel.sync(ring)
        ring.put([0x12345678])
        kernel.raw.wait(lambda: kernel.raw.board.notes.of("queue-hang"), "the hang")
        kernel.frame(8, flags=frames.RESET_QUEUE_ONLY, doorbell_offset=0x90)
        kernel.sync(ring)
        kernel.frame(3, flags=frames.REMOVE_LEGACY, pipe_id=1, queue_id=0, queue_type=1)
        assert not kernel.raw.board.mec.queues[1, 1, 0].active and not kernel.raw.board.mes.processes


class TestFrames:
    def test_layouts_of_linux_7_3(self) -> None:
        """Offsets counted by hand in mes_v11_api_def.h."""
        assert frames.SUSPEND.doorbell_offset.offset == 4 + 4 + 8 + 8 + 4 + 16 == 44
        assert frames.RESUME.doorbell_offset.offset == 4 + 4 + 8 + 16
        assert frames.QUERY_STATUS.address.offset == 4 + 4 + 16 + 8
        assert frames.SET_HW_RESOURCES.event_history.offset == 4 * (5 + 8 + 2 + 2 + 5) + 16 + 96 + 16 + 4 + 4 + 8
        assert frames.SET_HW_RESOURCES_1.cleaner_shader_fence.offset == 4 + 16 + 8 + 4 + 8 + 4 + 8
        assert frames.REMOVE_QUEUE.timestamp.offset == 60

    def test_more_resources_and_questions(self, kernel: Kernel) -> None:
        kernel.frame(19, flags=1)
        kernel.frame(QUERY, address=[kernel.fence_at + 256, kernel.fence_at + 260])
        words = kernel.fence.view(np.uint32)
        assert words[64] and words[65] and words[66] == 0
        kernel.frame(QUERY, subopcode=frames.QUERY_HEALTHY, address=[kernel.fence_at + 264])
        assert words[66] == 1
        kernel.frame(QUERY, subopcode=7, wait=False)
        kernel.frame(QUERY)
        assert "no question 7" in str(kernel.raw.board.notes.of("mes-frame")[0])

    def test_version_is_the_image_s(self, kernel: Kernel) -> None:
        raw = kernel.raw
        raw.board.psp.versions["CP_MES"] = 0x99_0083
        raw.poke("GRBM_GFX_CNTL", MEID=3, PIPEID=0)
        assert raw.peek("CP_MES_GP3_LO") & 0xFFF == 0x083
        raw.poke("GRBM_GFX_CNTL", MEID=3, PIPEID=1)
        assert raw.peek("CP_MES_GP3_LO") & 0xFFF == 0x102

    def test_debugger(self, kernel: Kernel) -> None:
        """Settings come before the first queue, stay with the process, and go with a flush."""
        regs = kernel.raw.board.regs
        settings = [0x1000, 0, 0, 0x1234, 1, 2, 3, 4, 1]
        kernel.frame(MISC, opcode=frames.MISC_SET_SHADER_DEBUGGER, data=settings)
        ProcessSide(kernel, 0).queue(flags=frames.ADD_KEEP_CONTEXT)
        assert regs["SPI_GDBG_PER_VMID_CNTL", 8] == 0x1234
        kernel.frame(MISC, opcode=frames.MISC_SET_SHADER_DEBUGGER, data=[0x1000, 0, 0, 0x77])
        assert regs["SPI_GDBG_PER_VMID_CNTL", 8] == 0x77
        kernel.frame(MISC, opcode=frames.MISC_SET_SHADER_DEBUGGER, data=[0x1000, 0, frames.DEBUGGER_FLUSH])
        assert regs["SPI_GDBG_PER_VMID_CNTL", 8] == 0

    def test_log(self, kernel: Kernel) -> None:
        """A ring of two entries: the context ran, and then it was ready no more."""
        at, log = kernel.memory.words(4096, np.uint64)
        kernel.frame(9, log_type=frames.QUEUE_COMPUTE, logging_buffer_addr=at, number_of_entries=2)
        a = ProcessSide(kernel, 0)
        ring = a.queue(h_context=0xC0DE)
        a.store(ring, 1)
        assert struct.unpack("<IIQ", log[:2].tobytes()) == (1, 0, 2)
        assert (log[5] & 0xFFFFFFFF, log[6], log[7]) == (0, 0xC0DE, 1)      # state change, context, running
        kernel.frame(6, gang_context_addr=a.gang())
        assert struct.unpack("<IIQ", log[:2].tobytes()) == (0, 1, 2)
        assert (log[10], log[11]) == (0xC0DE, 0) and log[8] >= log[4]
        kernel.frame(9, log_type=frames.QUEUE_COMPUTE, logging_buffer_addr=0)
        kernel.frame(7, gang_context_addr=a.gang())
        assert log[0] >> 32 == 1

    def test_gds_and_a_debug_vmid(self, kernel: Kernel) -> None:
        raw, a = kernel.raw, ProcessSide(kernel, 0)
        a.queue()
        kernel.frame(12, process_context_addr=0x1000, gds_base=0x40, gds_size=0x80, gws_base=1, gws_size=2, oa_mask=3)
        assert (raw.peek("GDS_VMID8_BASE"), raw.peek("GDS_VMID8_SIZE"), raw.peek("GDS_OA_VMID8")) == (0x40, 0x80, 3)
        kernel.frame(13, flags=frames.DEBUG_ALLOCATE << 1, process_context_addr=0x5000,
                     output_addr=kernel.fence_at + 256)
        assert kernel.fence.view(np.uint32)[64] == 9
        kernel.frame(13, flags=frames.DEBUG_PROGRAM << 1, process_context_addr=0x5000, debug_vmid=9,
                     page_table_base_addr=a.tables.root | V, process_va_end=(1 << 36) - 1)
        a.word[3] = 0xABC
        assert raw.peek("GCVM_CONTEXT9_CNTL") & 1
        b = ProcessSide(kernel, 1)
        b.queue()
        assert kernel.raw.board.mes.processes[0x2000].vmid == 10
        kernel.frame(13, flags=frames.DEBUG_RELEASE << 1, process_context_addr=0x5000)
        assert 0x5000 not in kernel.raw.board.mes.processes

    @pytest.mark.parametrize(("number", "values", "why"), [
        (2, {"queue_type": 3}, "queue type 3"), (15, {"process_context_addr": 5}, "no process has its context at 0x5"),
        (MISC, {"opcode": 77}, "no operation 77"), (9, {"log_type": 5}, "queue type 5"),
        (MISC, {"opcode": frames.MISC_CHANGE_CONFIG, "data": [9, 0]}, "no option 9"),
        (13, {"flags": 6}, "no operation 3"), (3, {"flags": frames.REMOVE_LEGACY, "pipe_id": 9}, "no queue 9.0")])
    def test_what_cannot_be_done_gets_no_fence(self, kernel: Kernel, number: int, values: dict[str, Any],
                                               why: str) -> None:
        kernel.frame(number, wait=False, **values)
        kernel.frame(QUERY)
        assert why in str(kernel.raw.board.notes.of("mes-frame")[0])


def test_fences_of_user_queues(kernel: Kernel, posted: list[Any], raw: RawBoard) -> None:
    """PROTECTED_FENCE_SIGNAL: the read pointer to where the MQD says, in VMID 0, and an interrupt of the doorbell."""
    a = ProcessSide(kernel, 0)
    ring = a.queue()
    raw.poke("CP_ME1_PIPE0_INT_CNTL", TIME_STAMP_INT_ENABLE=1)
    fence_at, fence = kernel.memory.words(4096, np.uint64)
    offset = ring.mqd_at - 0x7F00_0000_0000 + 4 * 446
    raw.words(offset, 1, np.uint64)[0] = fence_at
    raw.board.memory.caches.invalidate_all()
    ring.put(packet(0xD1, 0, *lohi(WORD + 64), *lohi(5)) + packet(0xD0, 0))
    assert fence[0] == 0
    a.word[16] = 6
    raw.wait(lambda: fence[0] == ring.wptr, "the fence")
    raw.wait(lambda: posted, "the interrupt")
    assert posted[0][4][0] == ring.doorbell
    assert raw.board.memory.read("gc", 0, fence_at, 8, client=Client.CPC) == ring.wptr.to_bytes(8, "little")


def test_release_and_turns_leave_nothing_behind(kernel: Kernel) -> None:
    """When all that waited has gone, nobody looks after it any more, and frames are answered."""
    one_slot(kernel)
    a = ProcessSide(kernel, 0)
    rings = [a.queue(n) for n in range(4)]
    for n, ring in enumerate(rings):
        ring.put(write_data(WORD + 4 * n, n + 1) + release(WORD + 128 + 8 * n, 1))
    kernel.raw.wait(lambda: list(a.word[:4]) == [1, 2, 3, 4], "all four")
    for n, ring in enumerate(rings):
        kernel.frame(3, doorbell_offset=ring.doorbell, gang_context_addr=a.gang(n))
    kernel.raw.wait(lambda: kernel.raw.board.engine("mes turns").idle, "the watch's end")
    assert not kernel.raw.board.mes.processes
    kernel.frame(QUERY)
