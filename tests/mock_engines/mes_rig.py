"""A kernel's side of the scheduler: its KIQ, its ring of frames, processes with queues. Built from the headers."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from compute_rig import lohi, packet, release, write_data
from raw_board import RawBoard, Tables, V

from amdrv.facts.mqd_v11 import v11_compute_mqd
from mock import mes_frames as frames

EVERYTHING = 0x7F00_0000_0000       # identity: what VMID 0 sees is mapped here + offset in VRAM
RING_WORDS = 1024
DOORBELLS = {"kiq": 0x20, "sched": 0x22, "gfx": 0x30, "compute": 0x40, "sdma": 0x60}
QUERY, MISC = frames.OPCODES["QUERY_SCHEDULER_STATUS"], frames.OPCODES["MISC"]


class Memory:
    """VRAM under VMID 0 (a GART of one context), by offset."""

    def __init__(self, raw: RawBoard) -> None:
        self.raw = raw
        self.tables = Tables(raw)
        raw.context("GC", 0, self.tables.root)
        raw.invalidate("GC", 1)

    def words(self, nbytes: int, kind: type = np.uint32) -> tuple[int, np.ndarray]:
        """(address for VMID 0, live array) of fresh memory."""
        offset = self.raw.vram(-(-nbytes // 4096) * 4096)
        self.tables.map(EVERYTHING + offset, offset, -(-nbytes // 4096) * 4096)
        return EVERYTHING + offset, self.raw.words(offset, nbytes // np.dtype(kind).itemsize, kind)


class Ring:
    """A ring with its pointers and MQD."""

    def __init__(self, memory: Memory, doorbell: int, *, vmid: int = 0) -> None:
        self.memory, self.raw, self.doorbell, self.wptr = memory, memory.raw, doorbell, 0
        self.address, self.words = memory.words(4 * RING_WORDS)
        self.pointers_at, self.pointers = memory.words(64, np.uint64)
        self.eop, _ = memory.words(4096)
        self.mqd_at, mqd = memory.words(4096)
        self.mqd = v11_compute_mqd.from_buffer(memory.raw.board.vram.view, int(mqd.ctypes.data)
                                               - memory.raw.board.vram.base)
        m: Any = self.mqd
        m.cp_mqd_base_addr_lo, m.cp_mqd_base_addr_hi = lohi(self.mqd_at)
        m.cp_hqd_pq_base_lo, m.cp_hqd_pq_base_hi = lohi(self.address >> 8)
        m.cp_hqd_pq_rptr_report_addr_lo, m.cp_hqd_pq_rptr_report_addr_hi = lohi(self.pointers_at)
        m.cp_hqd_eop_base_addr_lo, m.cp_hqd_eop_base_addr_hi = lohi(self.eop >> 8)
        m.cp_hqd_pq_control = RING_WORDS.bit_length() - 2 | 5 << 8 | 1 << 30
        m.cp_hqd_pq_doorbell_control = doorbell << 2 | 1 << 30
        m.cp_hqd_persistent_state = 0x0BE05501
        m.cp_hqd_eop_control = 8
        for n in range(8):
            setattr(m, f"compute_static_thread_mgmt_se{n}", 0xFFFFFFFF)

    def put(self, words: Sequence[int]) -> None:
        for word in words:
            self.words[self.wptr % RING_WORDS] = word
            self.wptr += 1
        self.pointers[1] = self.wptr
        self.raw.board.mec.doorbell(4 * self.doorbell, self.wptr, 8)


class Kernel:
    """What mes_v11_0.c brings up: the KIQ by registers, the scheduler's ring through it."""

    def __init__(self, raw: RawBoard, *, loaded: bool = True) -> None:
        self.raw, self.memory, self.sequence = raw, Memory(raw), 0
        self.context = raw.board.regs.register("GCVM_CONTEXT0_CNTL").pack(
            PAGE_TABLE_DEPTH=3, VALID_PROTECTION_FAULT_ENABLE_INTERRUPT=1)
        board = raw.board
        board.psp.loaded |= {"CP_MES", "CP_MES_KIQ", "RS64_PFP", "RS64_ME"} if loaded else set()
        self.fence_at, self.fence = self.memory.words(4096, np.uint64)
        raw.poke("CP_MEC_DOORBELL_RANGE_LOWER", 0)
        raw.poke("CP_MEC_DOORBELL_RANGE_UPPER", 0x400)
        for pipe in range(4):                                   # the compute engine, as config_gfx_rs64 starts it
            raw.poke("GRBM_GFX_CNTL", MEID=1, PIPEID=pipe)
            raw.poke("CP_MEC_RS64_PRGRM_CNTR_START", 0xC00)
            raw.poke("CP_MEC_RS64_PRGRM_CNTR_START_HI", 0x1C000)
        raw.poke("CP_MEC_RS64_CNTL", 0x40000000, **{f"MEC_PIPE{pipe}_RESET": 1 for pipe in range(4)})
        raw.poke("CP_MEC_RS64_CNTL", 0, **{f"MEC_PIPE{pipe}_ACTIVE": 1 for pipe in range(4)})
        raw.poke("CP_MES_CNTL", MES_PIPE0_RESET=1, MES_PIPE1_RESET=1, MES_HALT=1)
        for pipe in (0, 1):
            raw.poke("GRBM_GFX_CNTL", MEID=3, PIPEID=pipe)
            raw.poke("CP_MES_PRGRM_CNTR_START", 0xC00)
            raw.poke("CP_MES_PRGRM_CNTR_START_HI", 0x1C000)
        raw.poke("GRBM_GFX_CNTL", 0)
        raw.poke("CP_MES_CNTL", 0, MES_PIPE0_ACTIVE=1, MES_PIPE1_ACTIVE=1)
        self.kiq = Ring(self.memory, DOORBELLS["kiq"])
        raw.poke("RLC_CP_SCHEDULERS", 0x80 | 3 << 5 | 1 << 3)
        raw.poke("GRBM_GFX_CNTL", MEID=3, PIPEID=1)
        for field, _kind, *_ in self.kiq.mqd._fields_:
            register = board.mec.mqd_registers.get(field)
            if register is not None and register != "CP_HQD_ACTIVE":
                raw.poke(register, getattr(self.kiq.mqd, field))
        raw.poke("CP_HQD_ACTIVE", 1)
        raw.poke("GRBM_GFX_CNTL", 0)
        self.sched = Ring(self.memory, DOORBELLS["sched"])
        self.map(self.sched, me=2, engine=5)

    def map(self, ring: Ring, *, me: int, engine: int, pipe: int = 0, queue: int = 0) -> None:
        self.kiq.put(packet(0xA2, engine << 26 | me << 18 | pipe << 16 | queue << 13 | 1 << 29, ring.doorbell << 2,
                            *lohi(ring.mqd_at), *lohi(ring.pointers_at + 8)))
        self.sync(self.kiq)

    def sync(self, ring: Ring) -> None:
        self.sequence += 1
        ring.put(release(self.fence_at + 8, self.sequence))
        self.raw.wait(lambda: self.fence[1] == self.sequence, "the ring's fence")

    def frame(self, number: int, kind: type[Any] | None = None, /, *, wait: bool = True, **values: Any) -> None:
        """Submit a frame and poll for its fence."""
        frame = (kind or frames.LAYOUTS[next(n for n, o in frames.OPCODES.items() if o == number)])()
        frame.header.type, frame.header.opcode, frame.header.dwsize = 1, number, 64
        for name, value in values.items():
            if isinstance(value, (list, tuple)):
                for i, item in enumerate(value):
                    getattr(frame, name)[i] = item
            else:
                setattr(frame, name, value)
        self.sequence += 1
        frame.status.fence_addr, frame.status.fence_value = self.fence_at, self.sequence
        self.sched.put(struct.unpack("<64I", bytes(frame).ljust(256, b"\0")))
        if wait:
            self.raw.wait(lambda: self.fence[0] == self.sequence, f"the fence of frame {number}")

    def resources(self, **changes: Any) -> None:
        self.frame(0, **{"vmid_mask_gfxhub": 0xFF00, "vmid_mask_mmhub": 0xFF00,
                         "query_status_fence": self.fence_at + 64, "gfx_hqd_mask": [0, 1],
                         "compute_hqd_mask": [0xC, 0xC, 0xC, 0xC], "sdma_hqd_mask": [0xFC, 0xFC], **changes})


class ProcessSide:
    """A process: page tables of its own, a queue each time that it asks."""

    def __init__(self, kernel: Kernel, number: int) -> None:
        self.kernel, self.number = kernel, number
        self.tables = Tables(kernel.raw)
        self.word = kernel.raw.words(self.tables.buffer(0x10_0000, 4096), 1024)     # the same address in each

    def queue(self, n: int = 0, *, wait: bool = True, **changes: Any) -> Ring:
        ring = Ring(self.kernel.memory, DOORBELLS["compute"] + 2 * (16 * self.number + n))
        mqd: Any = ring.mqd
        for field in ("cp_hqd_pq_base", "cp_hqd_pq_rptr_report_addr", "cp_hqd_eop_base_addr"):
            shift = 8 if field.endswith(("base", "base_addr")) else 0
            address = (getattr(mqd, field + "_lo") | getattr(mqd, field + "_hi") << 32) << shift
            offset = address - EVERYTHING
            self.tables.map(0x20_0000_0000 + offset, offset, 4096)
            low, high = lohi((0x20_0000_0000 + offset) >> shift)
            setattr(mqd, field + "_lo", low)
            setattr(mqd, field + "_hi", high)
        self.kernel.frame(2, wait=wait, **{
            "process_id": 0x500 + self.number, "page_table_base_addr": self.tables.root | V,
            "process_va_end": (1 << 36) - 1, "process_context_addr": 0x1000 * (self.number + 1),
            "gang_context_addr": 0x9000 + 0x100 * self.number + n, "doorbell_offset": ring.doorbell,
            "mqd_addr": ring.mqd_at, "wptr_addr": ring.pointers_at + 8, "queue_type": frames.QUEUE_COMPUTE,
            "flags": frames.ADD_KFD_PROCESS, "vm_context_cntl": self.kernel.context, **changes})
        return ring

    def gang(self, n: int = 0) -> int:
        return 0x9000 + 0x100 * self.number + n

    def store(self, ring: Ring, value: int) -> None:
        """The queue writes a value where the process sees it, and the test waits for it."""
        ring.put(write_data(0x10_0000, value))
        self.kernel.raw.wait(lambda: self.word[0] == value, f"{value:#x} in process {self.number}")
