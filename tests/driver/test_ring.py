"""Rings against an engine made of a few lines: words must come out in order, whatever wraps and fills."""

from __future__ import annotations

import threading
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amdrv import pm4
from amdrv.errors import GpuFault, GpuHang, PacketError
from amdrv.memory import Allocation
from amdrv.ring import Ring


def bytes_of(memory: Allocation) -> np.ndarray:
    assert memory.view is not None
    return memory.view


class Engine:
    """Reads the ring through its memory alone, as hardware does; ``eager`` reads at every doorbell."""

    def __init__(self, words: int = 16, unit: int = 4, *, eager: bool = True) -> None:
        self.events: list[str] = []
        self.consumed: list[int] = []
        self.eager, self.unit = eager, unit
        self.rptr = 0
        self.faults = 0
        self.next_address = 0x1000
        device: Any = SimpleNamespace(
            require_memory=lambda: SimpleNamespace(alloc=self.alloc), statistics=Counter(),
            fence=lambda: self.events.append("fence"),
            doorbells=SimpleNamespace(write64=self.doorbell), check=self.check)
        self.ring = Ring(device, "AM:9 compute 3", "compute", words=words, unit=unit, doorbell=6)

    def alloc(self, nbytes: int, **_: object) -> SimpleNamespace:
        self.next_address += 0x10000
        return SimpleNamespace(address=self.next_address, view=np.zeros(nbytes, np.uint8))

    def doorbell(self, offset: int, value: int) -> None:
        assert offset == 24
        self.events.append("doorbell")
        assert value == int(bytes_of(self.ring.pointers)[64:72].view(np.uint64)[0])
        self.wptr = value * self.unit // 4
        if self.eager:
            self.consume(self.wptr - self.rptr)

    def consume(self, count: int) -> None:
        content = bytes_of(self.ring.buffer).view(np.uint32)
        for _ in range(count):
            self.consumed.append(int(content[self.rptr % self.ring.words]))
            self.rptr += 1
        # rptr is reported in units, 32 bits of it
        bytes_of(self.ring.pointers)[:4].view(np.uint32)[0] = self.rptr * 4 // self.unit & 0xFFFF_FFFF

    def check(self) -> None:
        if self.faults:
            raise GpuFault("the card said so")


@settings(deadline=None, max_examples=100)
@given(unit=st.sampled_from([1, 4]), sizes=st.lists(st.integers(0, 15), max_size=30), ahead=st.integers(0, 1 << 36))
def test_words_come_out_as_they_went_in(unit: int, sizes: list[int], ahead: int) -> None:
    engine = Engine(unit=unit)
    engine.ring.wptr = engine.rptr = ahead          # 32 bits of the read pointer wrap as well
    engine.consume(0)
    sent, word = [], 0
    for size in sizes:
        words = np.arange(word, word + size, dtype=np.uint32)
        engine.ring.submit(words)
        sent += words.tolist()
        word += size
    assert engine.consumed == sent and engine.ring.idle
    assert engine.events == ["fence", "doorbell"] * sum(size > 0 for size in sizes)


def test_a_full_ring_waits_for_room() -> None:
    engine = Engine(eager=False)
    engine.ring.submit(np.arange(10, dtype=np.uint32))
    slow = threading.Timer(0.02, lambda: engine.consume(7))
    slow.start()
    engine.ring.submit(np.arange(10, 20, dtype=np.uint32))
    slow.join()
    engine.consume(13)
    assert engine.consumed == list(range(20))


def test_a_stuck_ring_is_a_hang_that_names_queue_and_words() -> None:
    engine = Engine(eager=False)
    engine.ring.timeout = 0.01
    nop = pm4.build("NOP")[0]
    wait = pm4.build("WAIT_REG_MEM", FUNCTION="EQUAL", MEM_SPACE=1, ADDRESS=0x2000, REFERENCE=5, MASK=0xFF,
                     POLL_INTERVAL=4)
    engine.ring.submit(np.array([nop, *wait, nop, nop], np.uint32))
    engine.consume(1)
    expected = (r"AM:9 compute 3: room in the ring: not within 0\.01 s; last seen: 9 of 16 words pending; the queue "
                r"does not advance past word 1: next is WAIT_REG_MEM \(7 words\) FUNCTION = EQUAL .*ADDRESS = 0x2000")
    with pytest.raises(GpuHang, match=expected):
        engine.ring.submit(np.zeros(7, np.uint32))
    engine.faults = 1
    with pytest.raises(GpuFault, match="the card said so"):
        engine.ring.submit(np.zeros(7, np.uint32))
    assert repr(engine.ring) == "<Ring AM:9 compute 3: 9 of 16 words pending, 10 written>"


def test_too_many_words_are_refused() -> None:
    engine = Engine()
    with pytest.raises(PacketError, match="16 words do not fit its ring of 16; put them into an indirect buffer"):
        engine.ring.submit(np.zeros(16, np.uint32))
    with pytest.raises(ValueError, match="power of two, not 24 words"):
        Engine(words=24)
