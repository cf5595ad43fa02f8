"""Interrupt rings: entries, write-back, MSI and re-arming, overflow, ring 1, doorbells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from amdrv.facts import ih

RING, WPTR = 0x500000, 0x510000
FB = 0x80_0000_0000
SIZE_LOG2 = 8               # dwords: 32 entries
ENTRIES = 32
CNTL = {"RB_ENABLE": 1, "RB_SIZE": SIZE_LOG2, "WPTR_WRITEBACK_ENABLE": 1, "WPTR_OVERFLOW_ENABLE": 1, "ENABLE_INTR": 1,
        "RPTR_REARM": 1, "MC_SPACE": 4}
CP, EOP = ih.SOC21_IH_CLIENTID_GRBM_CP, ih.GFX_11_0_0__SRCID__CP_EOP_INTERRUPT


@pytest.fixture
def ring(card: Any) -> Any:
    card.setup()
    card.write("IH_RB_BASE", (FB + RING) >> 8 & 0xFFFFFFFF)
    card.write("IH_RB_BASE_HI", (FB + RING) >> 40)
    card.write("IH_RB_WPTR_ADDR_LO", FB + WPTR & 0xFFFFFFFF)
    card.write("IH_RB_WPTR_ADDR_HI", FB + WPTR >> 32)
    card.write("IH_RB_CNTL", **CNTL)
    msi = 0xA0
    card.board.write_config(msi + 4, 4, 0xFEE00000)
    card.board.write_config(msi + 2, 2, 1)
    return card


def entry(card: Any, index: int) -> list[int]:
    return [int(word) for word in card.memory(RING + 32 * index, 32, np.uint32)]


def test_an_entry_as_the_kernel_decodes_it(ring: Any) -> None:
    ring.write("IH_VMID_3_LUT", 0x8005)
    assert ring.board.ih.raise_(CP, EOP, ring_id=0x14, vmid=3, context=(1, 2, 3, 4))
    words = entry(ring, 0)
    assert words[0] == CP | EOP << 8 | 0x14 << 16 | 3 << 24 and words[3] == 0x8005 and words[4:] == [1, 2, 3, 4]
    assert 0 < words[1] | words[2] << 32 <= ring.board.clock()
    assert ring.read("IH_RB_WPTR") == 32 == ring.memory(WPTR, 4, np.uint32)[0]
    assert ring.msi == [0] and ring.board.counters["interrupts"] == 1
    ring.board.ih.raise_(CP, EOP, vmid=1, vmid_src=1)
    assert entry(ring, 1)[0] >> 31 == 1


def test_msi_is_armed_by_the_read_pointer(ring: Any) -> None:
    post = lambda: ring.board.ih.post(CP, EOP)
    post()
    post()
    assert ring.msi == [0]
    ring.write("IH_RB_RPTR", 32)                        # one entry is left: another MSI at once
    assert ring.msi == [0, 0]
    ring.write("IH_RB_RPTR", 64)
    assert ring.msi == [0, 0]
    post()
    assert ring.msi == [0, 0, 0]


def test_without_rearm_there_is_one_msi(ring: Any) -> None:
    ring.write("IH_RB_CNTL", **{**CNTL, "RPTR_REARM": 0})
    ring.board.ih.post(CP, EOP)
    ring.write("IH_RB_RPTR", 32)
    ring.board.ih.post(CP, EOP)
    assert ring.msi == [0] and ring.board.counters["interrupts"] == 2


@pytest.mark.parametrize("field, entries, msis, copied", [
    ("RB_ENABLE", 0, 0, False), ("ENABLE_INTR", 1, 0, True), ("WPTR_WRITEBACK_ENABLE", 1, 1, False)])
def test_each_enable(ring: Any, field: str, entries: int, msis: int, copied: bool) -> None:
    ring.write("IH_RB_CNTL", **{**CNTL, field: 0})
    ring.board.ih.post(CP, EOP)
    assert ring.board.counters["interrupts"] == entries and len(ring.msi) == msis
    assert bool(ring.memory(WPTR, 4, np.uint32)[0] == 32) == copied
    assert bool(ring.rule("ih-disabled")) == (field == "RB_ENABLE")


def test_msi_needs_the_capability_and_bus_mastering(ring: Any) -> None:
    ring.board.write_config(0xA2, 2, 0)
    ring.board.ih.post(CP, EOP)
    ring.board.write_config(0xA2, 2, 1)
    ring.board.write_config(4, 2, 2)
    ring.write("IH_RB_RPTR", 32)
    ring.board.ih.post(CP, EOP)
    assert ring.msi == []


def test_a_masked_msi_stays_pending(ring: Any) -> None:
    ring.board.write_config(0xB0, 4, 1)
    ring.board.ih.post(CP, EOP)
    assert ring.msi == [] and ring.board.read_config(0xB4, 4) == 1
    ring.board.write_config(0xB0, 4, 0)
    assert ring.msi == [0] and ring.board.read_config(0xB4, 4) == 0


def test_overflow(ring: Any) -> None:
    for n in range(ENTRIES - 1):
        ring.board.ih.post(CP, EOP, data=(n,))
    assert not ring.read("IH_RB_WPTR") & 1
    ring.board.ih.post(CP, EOP, data=(99,))
    assert ring.read("IH_RB_WPTR") == 1 and ring.memory(WPTR, 4, np.uint32)[0] == 1
    assert entry(ring, ENTRIES - 1)[4] == 99
    cntl = ring.read("IH_RB_CNTL")
    ring.write("IH_RB_CNTL", cntl | 1 << 31)
    assert not ring.read("IH_RB_WPTR") & 1
    ring.write("IH_RB_CNTL", cntl)


def test_a_ring_that_is_off_tells_no_old_address(ring: Any) -> None:
    """Linux writes the control register, CLEAR_OVERFLOW rising in it, before the write pointer's new address."""
    ring.write("IH_RB_WPTR_ADDR_HI", 0x12)              # of an owner that is gone: nothing is there
    ring.write("IH_RB_CNTL", **{**CNTL, "RB_ENABLE": 0, "WPTR_OVERFLOW_CLEAR": 1})
    assert not ring.rule("ih-fault") and not ring.read("GCVM_L2_PROTECTION_FAULT_STATUS") \
        and not ring.read("MMVM_L2_PROTECTION_FAULT_STATUS")
    ring.write("IH_RB_CNTL", **{**CNTL, "WPTR_OVERFLOW_CLEAR": 0})
    ring.write("IH_RB_CNTL", **{**CNTL, "WPTR_OVERFLOW_CLEAR": 1})
    assert ring.read("MMVM_L2_PROTECTION_FAULT_STATUS")


def test_full_without_overflow_drops(ring: Any) -> None:
    ring.write("IH_RB_CNTL", **{**CNTL, "WPTR_OVERFLOW_ENABLE": 0})
    for _ in range(ENTRIES):
        ring.board.ih.post(CP, EOP)
    assert ring.read("IH_RB_WPTR") == 32 * (ENTRIES - 1) and "may not overflow" in ring.rule("ih-full")


def test_bus_addresses_need_the_chicken_bit(ring: Any) -> None:
    memory, bus = ring.system(8192)
    ring.write("IH_RB_CNTL", **{**CNTL, "MC_SPACE": 2})
    ring.write("IH_RB_BASE", bus >> 8 & 0xFFFFFFFF)
    ring.write("IH_RB_BASE_HI", bus >> 40)
    ring.write("IH_RB_WPTR_ADDR_LO", bus + 4096 & 0xFFFFFFFF)
    ring.write("IH_RB_WPTR_ADDR_HI", bus + 4096 >> 32)
    assert not ring.board.ih.post(CP, EOP) and "MC_SPACE_GPA_ENABLE" in ring.rule("ih-space")
    ring.write("IH_CHICKEN", MC_SPACE_GPA_ENABLE=1)
    assert ring.board.ih.post(CP, EOP)
    assert memory.view(np.uint32)[0] == CP | EOP << 8 and memory.view(np.uint32)[1024] == 32


def test_doorbell_moves_the_read_pointer(ring: Any) -> None:
    index = 0x2F0
    ring.write("IH_DOORBELL_RPTR", OFFSET=index, ENABLE=1)
    ring.board.ih.post(CP, EOP)
    ring.board.write_bar(2, 4 * index, 4, 32)
    assert "RCC_DOORBELL_APER_EN" in ring.rule("doorbell-aperture") and ring.read("IH_RB_RPTR") == 0
    ring.write("RCC_DEV0_EPF0_RCC_DOORBELL_APER_EN", 1)
    ring.board.write_bar(2, 4 * index, 4, 32)
    assert "no enabled S2A_DOORBELL_ENTRY" in ring.rule("doorbell-route") and ring.read("IH_RB_RPTR") == 0
    ring.write("S2A_DOORBELL_ENTRY_1_CTRL", S2A_DOORBELL_PORT1_ENABLE=1, S2A_DOORBELL_PORT1_RANGE_OFFSET=index,
               S2A_DOORBELL_PORT1_RANGE_SIZE=2)
    ring.board.write_bar(2, 4 * index, 4, 32)
    assert ring.read("IH_RB_RPTR") == 32
    ring.write("IH_DOORBELL_RPTR", 0)
    ring.board.write_bar(2, 4 * index, 4, 64)
    assert ring.read("IH_RB_RPTR") == 32 and "no IH_DOORBELL_RPTR" in ring.rule("ih-doorbell")


def test_ring_1_takes_its_clients_and_says_so(ring: Any) -> None:
    ring.write("IH_RB_BASE_RING1", (FB + 0x520000) >> 8 & 0xFFFFFFFF)
    ring.write("IH_RB_BASE_HI_RING1", (FB + 0x520000) >> 40)
    ring.write("IH_RB_CNTL_RING1", RB_ENABLE=1, RB_SIZE=SIZE_LOG2, MC_SPACE=4)
    ring.write("IH_RING1_CLIENT_CFG_INDEX", 0)
    ring.write("IH_RING1_CLIENT_CFG_DATA", CLIENT_ID=ih.SOC21_IH_CLIENTID_GFX, SOURCE_ID=0, SOURCE_ID_MATCH_ENABLE=1)
    ring.write("IH_CNTL2", SELF_IV_FORCE_WPTR_UPDATE_ENABLE=1)
    ring.board.ih.post(ih.SOC21_IH_CLIENTID_GFX, 0, data=(7,))
    ring.board.ih.post(ih.SOC21_IH_CLIENTID_GFX, 1)
    assert ring.memory(0x520010, 4, np.uint32)[0] == 7 and ring.read("IH_RB_WPTR_RING1") == 32
    first = entry(ring, 0)
    assert first[0] == ih.SOC21_IH_CLIENTID_IH | 1 << 16 and first[4] == 32
    assert entry(ring, 1)[0] == ih.SOC21_IH_CLIENTID_GFX | 1 << 8


def test_a_ring_that_nobody_reaches_drops(ring: Any) -> None:
    ring.write("IH_RB_BASE_HI", 0xFF)
    assert not ring.board.ih.post(CP, EOP)
    assert ring.rule("ih-fault").startswith("ring 0: write of 32 bytes")


def test_lost_and_spurious(ring: Any) -> None:
    ring.board.faults.inject("lost-interrupt", count=1)
    ring.board.ih.post(CP, EOP)
    assert ring.msi == [] and ring.board.counters["interrupts"] == 1
    ring.board.faults.inject("spurious-interrupt")
    assert ring.msi == [0] and ring.board.counters["interrupts"] == 1


def test_late(ring: Any) -> None:
    """The entry is there at once, the MSI after its time; and not if the card was reset meanwhile."""
    ring.board.faults.inject("late-interrupt", count=1, seconds=0.03)
    ring.board.ih.post(CP, EOP)
    assert ring.msi == [] and ring.read("IH_RB_WPTR") == 32
    ring.wait(lambda: ring.msi == [0])
    ring.write("IH_RB_RPTR", 32)
    ring.board.faults.inject("late-interrupt", count=1, seconds=3600)
    ring.board.ih.post(CP, EOP)
    ring.board.reset()
    ring.wait(lambda: ring.board.engine("late interrupts").idle)
    assert ring.msi == [0]


@pytest.mark.parametrize("overflow", [0, 1])
def test_storm(ring: Any, overflow: int) -> None:
    """More entries than the ring holds: the flag is set, or the last are dropped; one MSI for all."""
    ring.write("IH_RB_CNTL", **{**CNTL, "WPTR_OVERFLOW_ENABLE": overflow})
    ring.board.faults.inject("interrupt-storm", entries=ENTRIES + 3, client=CP, source=9)
    assert ring.read("IH_RB_WPTR") == (32 * 3 | 1 if overflow else 32 * (ENTRIES - 1))
    assert ring.msi == [0] and entry(ring, 5)[0] == CP | 9 << 8
    ring.board.ih.post(CP, EOP)
    assert (entry(ring, 3)[0] == CP | EOP << 8) == bool(overflow)


@pytest.mark.parametrize("where", ["IH_VMID_5_LUT", "IH_VMID_5_LUT_MM"])
def test_entries_carry_the_pasid_of_their_vmid(ring: Any, where: str) -> None:
    ring.write(where, 0x1234)
    ring.board.ih.post(CP, EOP, vmid=5)
    ring.board.ih.post(CP, EOP, vmid=5, vmid_src=1)
    ring.board.ih.post(CP, EOP, vmid=5, pasid=7)
    mm = where.endswith("MM")
    assert [entry(ring, n)[3] for n in range(3)] == [0 if mm else 0x1234, 0x1234 if mm else 0, 7]
