"""SDMA queues brought up by registers, packets as raw words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from raw_board import RawBoard, Tables

from amdrv.facts import sdma6

RING, SOURCE, TARGET, SIGNAL = 0x7E10_0000_0000, 0x11_0000_0000, 0x12_0000_0000, 0x13_0000_0000
RING_BYTES = 16384
DOORBELL = 0x800
NOP = 0


def lohi(value: int) -> list[int]:
    return [value & 0xFFFFFFFF, value >> 32]


def copy(dst: int, src: int, nbytes: int) -> list[int]:
    return [1, nbytes - 1, 0, *lohi(src), *lohi(dst)]


def fence(address: int, value: int) -> list[int]:
    return [5 | 3 << 16, *lohi(address), value]


def words(name: str, *tail: int, **fields: int) -> list[int]:
    """A packet from its description: values of fields, wide ones too."""
    packet = sdma6.PACKETS[name]
    for wide, parts in packet.wide.items():
        if wide in fields:
            value = fields.pop(wide)
            for part in parts:
                fields[part.field] = value >> part.lsb & ((1 << part.msb - part.lsb + 1) - 1)
    fields |= {"OP": packet.opcode, "SUB_OP": packet.sub_op or 0} | packet.when
    out = []
    for word in packet.words:
        value = 0
        for field, (msb, lsb, *_) in word.fields.items():
            value |= (fields.pop(field, 0) & (1 << msb - lsb + 1) - 1) << lsb
        out.append(value)
    assert not fields, f"{name} has no {fields}"
    return [*out, *tail]


class Queue:
    """QUEUE0 of an engine, as sdma_v6_0_gfx_resume brings it up."""

    def __init__(self, raw: RawBoard, tables: Tables, engine: int = 0, vmid: int = 1, skip: Sequence[str] = ()) -> None:
        self.raw, self.p, self.write, self.doorbell = raw, f"SDMA{engine}_QUEUE0_", 0, DOORBELL + 0x50 * engine
        self.ring_va = RING + engine * 0x100_0000
        self.ring = raw.words(tables.buffer(self.ring_va, RING_BYTES), RING_BYTES // 4)
        self.pointers = raw.words(tables.buffer(self.ring_va + RING_BYTES, 4096), 16, np.uint64)

        def poke(name: str, value: int = 0, /, **fields: int) -> None:
            if name not in skip:
                raw.poke(name if name.startswith("SDMA") else self.p + name, value, **fields)
        poke("RB_CNTL", RB_SIZE=(RING_BYTES // 4).bit_length() - 1, RB_PRIV=1, RPTR_WRITEBACK_ENABLE=1, RB_VMID=vmid)
        poke("MINOR_PTR_UPDATE", 1)
        for name in ("RB_RPTR", "RB_RPTR_HI", "RB_WPTR", "RB_WPTR_HI"):
            poke(name)
        poke("MINOR_PTR_UPDATE", 0)
        poke("RB_RPTR_ADDR_LO", self.ring_va + RING_BYTES & 0xFFFFFFFF)
        poke("RB_RPTR_ADDR_HI", self.ring_va + RING_BYTES >> 32)
        poke("RB_BASE", self.ring_va >> 8 & 0xFFFFFFFF)
        poke("RB_BASE_HI", self.ring_va >> 40)
        poke("DOORBELL", ENABLE=1)
        poke("DOORBELL_OFFSET", OFFSET=self.doorbell // 4)
        poke(f"SDMA{engine}_F32_CNTL", raw.peek(f"SDMA{engine}_F32_CNTL"), HALT=0, TH1_RESET=0)
        poke(f"SDMA{engine}_CNTL", raw.peek(f"SDMA{engine}_CNTL"), TRAP_ENABLE=1)
        raw.update(self.p + "RB_CNTL", RB_ENABLE=1)
        poke("IB_CNTL", IB_ENABLE=1)

    def put(self, words: Sequence[int], *, ring: bool = True) -> None:
        size = len(self.ring)
        for word in words:
            self.ring[self.write % size] = word
            self.write += 1
        if ring:
            self.raw.board.sdma.doorbell(self.doorbell, self.write * 4, 8)

    def drain(self) -> None:
        self.raw.wait(lambda: self.done, "the SDMA ring's end")

    @property
    def done(self) -> bool:
        return int(self.pointers[0]) == self.write * 4
