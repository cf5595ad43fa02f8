"""Open to strangers: a driver that shares nothing with ours but facts boots the card through the documented interface.

Each test is a habit that drivers of others have and ours has not (tests/mock/stranger.py).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from stranger import (
    VECTOR_ADD,
    Stranger,
    acquire,
    dispatch,
    flush_hdp,
    halves,
    machine_of,
    packet,
    release,
    sdma_copy,
    sdma_fence,
    sdma_trap,
    wait_memory,
    write_data,
)

import mock
from amdrv.facts import smu13
from mock.smu import CLOCKS

ONES = 0xFFFFFFFF


@pytest.fixture
def machine() -> Iterator[mock.Machine]:
    with machine_of("gfx1100:vram=64M") as made:
        yield made


def stranger(machine: mock.Machine, number: int = 0, **how: Any) -> Stranger:
    return Stranger(machine.gpus[number], machine.bus, **how).boot()


def address(view: np.ndarray) -> int:
    return int(view.ctypes.data)


def add_vectors(driver: Stranger, count: int = 640, slot: int = 0, value: int = 7) -> None:
    """c = a + b by machine code in host memory, everything at the host's own addresses."""
    code = driver.host(4096)
    code[:4 * len(VECTOR_ADD)].view(np.uint32)[:] = VECTOR_ADD
    a, b, c = (driver.host(4 * count)[:4 * count].view(np.float32) for _ in "abc")
    a[:], b[:] = np.arange(count), 0.5
    arguments = driver.host(4096).view(np.uint64)
    arguments[:3] = [address(view) for view in (a, b, c)]
    driver.compute.put(acquire() + dispatch(driver, address(code), address(arguments), count // 64, 64)
                       + release(driver.signal_at(slot), value))
    driver.compute.ring()
    driver.done(slot, value)
    assert np.array_equal(c, np.arange(count) + np.float32(0.5))


@pytest.mark.parametrize("hqd", ["registers", "descriptor"])
@pytest.mark.parametrize("options", ["", ",bar0=64M", ",bar0=256M"])
def test_a_stranger_boots_and_computes(hqd: str, options: str) -> None:
    with machine_of(f"gfx1100:vram=128M{options}") as machine:
        driver = stranger(machine, small_bar="64M" in options, hqd=hqd)
        add_vectors(driver)
        assert driver.board.counters["kernels"] == 1
        assert not {note.rule for note in driver.board.notes} - {"hdp-late", "unnamed-register"}


def test_polling_in_a_bare_loop_lets_the_card_move(machine: mock.Machine) -> None:
    """Each read gives way: what the card needs for an answer is a number of looks, not the interpreter's switch
    interval (5 ms would be some ten thousand looks)."""
    driver = stranger(machine)
    for _ in range(20):
        before = driver.looks
        driver.smu(smu13.PPSMC_MSG_TestMessage, 1)
        assert driver.looks - before < 2000


def test_clock_levels_have_true_counts(machine: mock.Machine) -> None:
    """The SMU's argument is read back: 0xFF asks for the count, indices for levels; beyond them it refuses."""
    driver = stranger(machine)
    assert driver.levels == {clock: list(CLOCKS[clock]) for clock in driver.levels} and driver.levels
    driver.write("MP1_SMN_C2PMSG_90", 0)
    driver.write("MP1_SMN_C2PMSG_82", smu13.PPCLK_UCLK << 16 | len(CLOCKS[smu13.PPCLK_UCLK]))
    driver.write("MP1_SMN_C2PMSG_66", smu13.PPSMC_MSG_GetDpmFreqByIndex)
    assert driver._until(lambda: driver.read("MP1_SMN_C2PMSG_90")) == smu13.PPSMC_Result_Failed


def test_addresses_are_the_hosts_own(machine: mock.Machine) -> None:
    """Copies between host memory and video memory by one set of addresses, up to the end of 47 bits."""
    driver = stranger(machine)
    source, target = driver.host(16 << 10), driver.host(16 << 10)
    source[:] = np.random.default_rng(1).integers(0, 256, len(source))
    assert address(source) >> 40, "the platform gives low addresses"
    offset, high = driver.vram(16 << 10), (1 << 47) - (16 << 10)
    driver.map(high, offset, 16 << 10)
    driver.copy.put(sdma_copy(address(source), high, len(source)) + sdma_copy(high, address(target), len(source))
                    + sdma_fence(driver.signal_at(0), 1) + sdma_trap())
    driver.copy.ring()
    driver.done(0, 1)
    assert np.array_equal(source, target)
    assert driver.load(offset, len(source)) == source.tobytes()
    driver._until(lambda: driver.read("IH_RB_WPTR") != driver.read("IH_RB_RPTR"))
    driver._until(lambda: driver.messages)
    assert len(driver.entries()) == 1


@pytest.mark.parametrize("where", [1 << 47, 1 << 48, 0xFFFF_0000_0000_0000])
def test_addresses_with_a_hole_or_a_sign(machine: mock.Machine, where: int) -> None:
    """Beyond the context's end, in the hole of 48-bit addresses, in the upper half: a fault, and no other access."""
    driver = stranger(machine)
    driver.compute.put(write_data(where, 1) + release(driver.signal_at(0), 1))
    driver.compute.ring()
    driver._until(lambda: driver.read("GCVM_L2_PROTECTION_FAULT_STATUS"))
    page = driver.read("GCVM_L2_PROTECTION_FAULT_ADDR_LO32") | driver.read("GCVM_L2_PROTECTION_FAULT_ADDR_HI32") << 32
    assert page == where >> 12 & (1 << 36) - 1
    driver._until(lambda: driver.board.notes.of("queue-hang"))
    assert int(driver.signals[0]) == 0


def test_a_stranger_recovers_from_a_fault(machine: mock.Machine) -> None:
    """The fault is in the ring and the registers until it is cleared; the micro engine is reset, and goes on."""
    driver = stranger(machine)
    driver.compute.put(write_data(1 << 46, 1))
    driver.compute.ring()
    driver._until(lambda: driver.board.notes.of("queue-hang"))
    assert (10, 0) in driver.entries()                  # client GFX, source UTCL2 fault
    assert driver.field("GCVM_L2_PROTECTION_FAULT_STATUS", "RW") == 1
    driver.update("GCVM_L2_PROTECTION_FAULT_CNTL", CLEAR_PROTECTION_FAULT_STATUS_ADDR=1)
    assert driver.read("GCVM_L2_PROTECTION_FAULT_STATUS") == 0
    driver._compute()
    add_vectors(driver, value=11)


def test_memory_that_left_the_bus_is_not_reached(machine: mock.Machine) -> None:
    driver = stranger(machine)
    view = driver.host(4096)
    machine.bus.detach(driver._attached.pop())
    driver.compute.put(write_data(address(view), 1))
    driver.compute.ring()
    driver._until(lambda: driver.board.notes.of("queue-hang"))
    assert driver.board.notes.of("bus-error") and not view.any()


def test_a_queue_flushes_hdp_by_itself(machine: mock.Machine) -> None:
    """Without PRIV_STATE, as queues of user processes do it; without it engines see the old bytes."""
    driver = stranger(machine)
    place, host = driver.vram(4096), driver.host(4096)
    driver.map(1 << 40, place, 4096)
    for value, flush in ((1, flush_hdp(driver)), (2, []), (3, flush_hdp(driver))):
        # COPY_DATA, memory to memory
        copied = packet(0x40, 1 | 1 << 8 | 1 << 16 | 1 << 20, *halves(1 << 40), *halves(address(host)))
        driver.compute.put(wait_memory(driver.signal_at(1), value) + flush + acquire() + copied
                           + release(driver.signal_at(0), value))
        driver.compute.ring()
        driver.store(place, value.to_bytes(4, "little"))        # after the doorbell's flush
        driver.signals[1] = value
        driver.done(0, value)
        assert int(host.view(np.uint32)[0]) == (value if flush else 1)


def test_a_second_driver_takes_over_a_running_card(machine: mock.Machine) -> None:
    """No reset: the firmware runs, new tables, new queues."""
    first = stranger(machine)
    add_vectors(first)
    first.leave()
    second = stranger(machine)
    assert not hasattr(second, "levels"), "the firmware was loaded again"
    add_vectors(second, value=9)


@pytest.mark.parametrize("how", ["debug mailbox", "message", "bus", "function"])
def test_a_stranger_resets_the_card(machine: mock.Machine, how: str) -> None:
    driver = stranger(machine)
    add_vectors(driver)
    if how == "debug mailbox":
        driver.write("MP1_SMN_C2PMSG_54", 0)
        driver.write("MP1_SMN_C2PMSG_75", 2)
        driver.wait("MP1_SMN_C2PMSG_54", ONES, 1)
    elif how == "message":
        driver.smu(smu13.PPSMC_MSG_Mode1Reset)
    elif how == "bus":
        driver.board.reset()
    else:
        driver.board.write_config(0x6C, 2, driver.board.read_config(0x6C, 2) | 1 << 15)
    if how in ("bus", "function"):
        assert driver.read("MP0_SMN_C2PMSG_81") == ONES     # configuration space started anew, nothing is decoded
    else:
        driver._until(lambda: not driver.read("MP0_SMN_C2PMSG_81"), "the secure OS's end")
    driver.leave()
    again = stranger(machine)
    assert again.levels
    add_vectors(again)


def test_what_has_no_name_reads_zero_and_keeps_what_is_written(machine: mock.Machine) -> None:
    """An unknown register is storage and a note, inside the BAR and behind the index registers."""
    board = machine.gpus[0]
    board.write_config(4, 2, 6)
    assert board.read_bar(5, 0xC864, 4) == 0
    board.write_bar(5, 0xC864, 4, 5)
    assert board.read_bar(5, 0xC864, 4) == 5
    driver = Stranger(board, machine.bus)
    for index, data in (("BIF_BX_PF0_RSMU_INDEX", "BIF_BX_PF0_RSMU_DATA"),
                        ("BIF_BX0_PCIE_INDEX2", "BIF_BX0_PCIE_DATA2")):
        driver.write(index, 0x0FFFFFF0)
        assert driver.read(data) == 0
    assert [note.rule for note in board.notes] == ["unnamed-register"] * 2


def test_index_pairs_reach_the_same_register(machine: mock.Machine) -> None:
    driver = Stranger(machine.gpus[0], machine.bus)
    for value, (index, data) in enumerate((("BIF_BX_PF0_RSMU_INDEX", "BIF_BX_PF0_RSMU_DATA"),
                                           ("BIF_BX0_PCIE_INDEX2", "BIF_BX0_PCIE_DATA2"),
                                           ("BIF_BX0_PCIE_INDEX", "BIF_BX0_PCIE_DATA"),
                                           ("BIF_BX_PF0_MM_INDEX", "BIF_BX_PF0_MM_DATA")), 100):
        place = 4 * driver._dwords["SCRATCH_REG3"][1]
        driver.write(index, place)
        driver.write(data, value)
        assert driver.read("SCRATCH_REG3") == driver.read(data) == value


def test_the_interface_is_the_documented_one(machine: mock.Machine) -> None:
    board = machine.gpus[0]
    assert board.read_config(0, 4) == 0x744C1002 and board.bar_size(0) == 256 << 20 and board.bar_size(1) == 0
    board.write_config(4, 2, 2)
    view = board.bar_memory(0)
    assert isinstance(view, memoryview) and view.format == "B" and len(view) == 64 << 20 and not view.readonly
    words = view[4096:8192].cast("Q")
    words[0] = 0x1122334455667788
    assert board.read_bar(0, 4096, 8) == 0x1122334455667788 and board.read_bar(0, 4097, 1) == 0x77
    board.write_bar(0, 4098, 2, 0xAAAA)
    assert words[0] == 0x11223344AAAA7788
    memory = np.zeros(3 * 4096, np.uint8)
    host = -(-address(memory) // 4096) * 4096
    bus = machine.bus.attach(host, 8192)
    assert machine.bus.translate(bus + 5, 8) == host + 5 and bus != host
    machine.bus.detach(bus)
    seen: list[int] = []
    remove = board.on_msi(seen.append)
    board.write_config(4, 2, 6)
    Stranger(board, machine.bus)._stop()
    msi = next(o for o in range(0x48, 0x100, 4) if board.read_config(o, 1) == 5)
    board.write_config(msi + 4, 4, 0xFEE00000)
    board.write_config(msi + 2, 2, 1)
    assert board.raise_msi() and seen == [0]
    remove()
    assert board.raise_msi() and seen == [0]
    del words, view


def test_memory_can_be_attached_where_it_was(machine: mock.Machine) -> None:
    memory = np.zeros(5 * 4096, np.uint8)
    host = -(-address(memory) // 4096) * 4096
    first = machine.bus.attach(host, 4096)
    assert machine.bus.attach(host + 4096, 8192, at=first + (1 << 20)) == first + (1 << 20)
    assert machine.bus.attached() == [(first, host, 4096), (first + (1 << 20), host + 4096, 8192)]
    for at, why in ((first, "something is attached there"), (first + (1 << 20) - 4096, "something is attached there"),
                    (5, "memory lies in whole pages"), (1 << 43, "memory lies in whole pages")):
        with pytest.raises(ValueError, match=why):
            machine.bus.attach(host, 8192, at=at)
    assert machine.bus.attach(host, 4096) > first + (1 << 20)


def test_pointers_in_memory_suffice_for_ctypes(machine: mock.Machine) -> None:
    """Drivers keep the BAR's address, not the memoryview's slices."""
    board = machine.gpus[0]
    board.write_config(4, 2, 2)
    view = board.bar_memory(0)
    base = ctypes.addressof(ctypes.c_char.from_buffer(view))
    ctypes.c_uint32.from_address(base + 0x10000).value = 77
    board.write_bar(5, 0x385C, 4, 0)        # the flush register's own place
    assert board.vram.view[0x10000] == 77
