"""A compute queue brought up by register pokes alone, and PM4 as raw words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from raw_board import RawBoard, Tables

from amdrv.facts.mqd_v11 import v11_compute_mqd

RING, POINTERS, MQD, EOP = 0x7E10_1000_0000, 0x7E10_1010_0000, 0x7E10_1020_0000, 0x7E10_1030_0000
CODE, ARGS, DATA, SIGNAL = 0x7E20_0000_0000, 0x7E21_0000_0000, 0x7E22_0000_0000, 0x7E23_0000_0000
SCRATCH = 0x7E24_0000_0000
RING_BYTES = 16384
DOORBELL = 0x1000               # byte offset in BAR2
NOP = 0xC000_1000 | 0x3FFF_0000
SH_START, UCONFIG_START = 0x2C00, 0xC000
WAVE32, SHADER_EN = 1 << 15, 1
KERNARG, WORKGROUP_X = 2 << 1, 1 << 7       # COMPUTE_PGM_RSRC2: two user SGPRs; TGID_X_EN
DENORMALS = 0xC0 << 12
Interrupts = list[tuple[int, int, int, int, tuple[int, ...]]]
"""(client, source, ring, VMID, data)"""


def lohi(value: int) -> list[int]:
    return [value & 0xFFFFFFFF, value >> 32]


def packet(opcode: int, *body: int) -> list[int]:
    return [3 << 30 | (len(body) - 1) << 16 | opcode << 8, *body]


GL2_WB, BYPASS = 1 << 21, 3 << 25       # of RELEASE_MEM (nvd.h)


def release(address: int, value: int, *, data: int = 2, interrupt: int = 0, context: int = 0,
            caches: int = GL2_WB | BYPASS) -> list[int]:
    return packet(0x49, 0x14 | 5 << 8 | caches, data << 29 | interrupt << 24, *lohi(address), *lohi(value), context)


def wait_memory(address: int, value: int, *, function: int = 5) -> list[int]:
    return packet(0x3C, function | 1 << 4, *lohi(address), value, 0xFFFFFFFF, 4)


def write_data(address: int, *values: int, destination: int = 5) -> list[int]:
    return packet(0x37, destination << 8 | 1 << 20, *lohi(address), *values)


class Rig:
    """Micro engine 1, pipe 0, queue 0, as gfx_v11_0_kiq_init_register brings one up. ``skip`` is left out."""

    def __init__(self, raw: RawBoard, tables: Tables, *, skip: Sequence[str] = (), vmid: int = 1,
                 mqd: Callable[[v11_compute_mqd], None] | None = None) -> None:
        self.raw, self.tables, self.write, self.vmid = raw, tables, 0, vmid
        self.ring = raw.words(tables.buffer(RING, RING_BYTES), RING_BYTES // 4)
        self.pointers = raw.words(tables.buffer(POINTERS, 4096), 16, np.uint64)
        self.signal = raw.words(tables.buffer(SIGNAL, 4096), 32, np.uint64)
        tables.buffer(EOP, 4096)
        self.mqd_offset = tables.buffer(MQD, 4096)
        vram: Any = raw.board.vram.view
        self.mqd = v11_compute_mqd.from_buffer(vram, self.mqd_offset)
        for n in range(8):
            setattr(self.mqd, f"compute_static_thread_mgmt_se{n}", 0xFFFFFFFF)
        if mqd is not None:
            mqd(self.mqd)

        def poke(name: str, value: int = 0, /, **fields: int) -> None:
            if name not in skip:
                raw.poke(name, value, **fields)
        # the firmware's start address, latched by a pulse of the pipe's reset
        for pipe in range(4):
            raw.poke("GRBM_GFX_CNTL", MEID=1, PIPEID=pipe)
            poke("CP_MEC_RS64_PRGRM_CNTR_START", 0xC00)
            poke("CP_MEC_RS64_PRGRM_CNTR_START_HI", 0x1C000)
        raw.poke("GRBM_GFX_CNTL", 0)
        pulse = {f"MEC_PIPE{pipe}_RESET": 1 for pipe in range(4)}
        raw.poke("CP_MEC_RS64_CNTL", 0x40000000, **pulse)
        raw.poke("CP_MEC_RS64_CNTL", 0x40000000)
        poke("CP_MEC_RS64_CNTL", **{f"MEC_PIPE{pipe}_ACTIVE": 1 for pipe in range(4)})
        poke("CP_MEC_DOORBELL_RANGE_LOWER", 0)
        poke("CP_MEC_DOORBELL_RANGE_UPPER", 0x1800)
        raw.poke("GRBM_GFX_CNTL", VMID=vmid)
        poke("SH_MEM_CONFIG", ALIGNMENT_MODE=3, INITIAL_INST_PREFETCH=3)
        poke("SH_MEM_BASES", PRIVATE_BASE=2, SHARED_BASE=1)
        poke("CP_ME1_PIPE0_INT_CNTL", TIME_STAMP_INT_ENABLE=1, OPCODE_ERROR_INT_ENABLE=1, PRIV_REG_INT_ENABLE=1)
        # the queue
        raw.poke("GRBM_GFX_CNTL", MEID=1)
        for name, value in (("CP_HQD_EOP_BASE_ADDR", EOP >> 8), ("CP_MQD_BASE_ADDR", MQD),
                            ("CP_HQD_PQ_BASE", RING >> 8), ("CP_HQD_PQ_RPTR_REPORT_ADDR", POINTERS)):
            poke(name, value & 0xFFFFFFFF)
            poke(name + "_HI", value >> 32)
        poke("CP_HQD_EOP_CONTROL", EOP_SIZE=8)
        poke("CP_MQD_CONTROL", VMID=vmid)
        poke("CP_HQD_PQ_CONTROL", QUEUE_SIZE=(RING_BYTES // 4).bit_length() - 2, RPTR_BLOCK_SIZE=5, PRIV_STATE=1,
             KMD_QUEUE=1)
        poke("CP_HQD_PQ_DOORBELL_CONTROL", DOORBELL_OFFSET=DOORBELL // 4, DOORBELL_EN=1)
        poke("CP_HQD_VMID", VMID=vmid)
        poke("CP_HQD_ACTIVE", 1)
        raw.poke("GRBM_GFX_CNTL", 0)

    def put(self, words: Sequence[int], *, ring: bool = True) -> None:
        for word in words:
            self.ring[self.write % len(self.ring)] = word
            self.write += 1
        if ring:
            self.raw.board.mec.doorbell(DOORBELL, self.write, 8)

    def done(self, value: int, slot: int = 0) -> None:
        self.raw.wait(lambda: int(self.signal[slot]) == value, f"signal {slot} = {value:#x}")

    def hung(self) -> str:
        """Wait until the queue hangs; why."""
        self.raw.wait(lambda: self.raw.board.notes.of("queue-hang"), "the hang")
        return str(self.raw.board.notes.of("queue-hang")[0])

    def sh(self, name: str, *values: int) -> list[int]:
        """SET_SH_REG of COMPUTE_name and those after it."""
        return packet(0x76, self.raw.board.regs.dword("COMPUTE_" + name) - SH_START, *values)

    def code(self, *words: int) -> None:
        """Machine code at CODE."""
        self.raw.words(self.tables.buffer(CODE, 4096), len(words))[:] = words

    def dispatch(self, grid: tuple[int, int, int], block: tuple[int, int, int], *, rsrc2: int = KERNARG | WORKGROUP_X,
                 initiator: int = SHADER_EN | WAVE32, partial: tuple[int, int, int] = (0, 0, 0)) -> list[int]:
        return (self.sh("PGM_LO", CODE >> 8 & 0xFFFFFFFF, CODE >> 40)
                + self.sh("PGM_RSRC1", DENORMALS | 2, rsrc2) + self.sh("PGM_RSRC3", 0)
                + self.sh("USER_DATA_0", *lohi(ARGS)) + self.sh("START_X", 0, 0, 0)
                + self.sh("NUM_THREAD_X", *(b | p << 16 for b, p in zip(block, partial, strict=True)))
                + packet(0x15, *grid, initiator))
