"""The driver boots the software card: what works then, what a failed or killed boot leaves, and booting again."""

from __future__ import annotations

import dataclasses
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

import mock
from amdrv import device as device_module
from amdrv import pm4, sdma
from amdrv.device import Device
from amdrv.errors import (
    AmdrvError,
    BootError,
    CardBusyError,
    CardLostError,
    FirmwareError,
    GpuFault,
    GpuHang,
    NoCardError,
    OutOfMemoryError,
    UnknownIpError,
)
from amdrv.firmware import Component
from amdrv.hal.mock import MockHal
from amdrv.ip import discovery, gfx, psp, smu
from amdrv.ip import sdma as sdma_block
from amdrv.memory import ADDRESS_BASE, ADDRESS_SIZE, Allocation
from amdrv.ring import Ring
from amdrv.wait import wait_until
from mock import arch as mock_arch

STAGES = ["discovery", "nbio", "gmc", "ih", "psp", "smu", "gfx", "sdma"]
Boot = Callable[[], Device]
EVENT_CS_DONE = dict(EVENT_TYPE="BOTTOM_OF_PIPE_TS", EVENT_INDEX=5)      # of RELEASE_MEM


def words(*packets: Sequence[int]) -> np.ndarray:
    return np.array([word for packet in packets for word in packet], np.uint32)


def wait_for(device: Device, word: np.ndarray, value: int, what: str) -> None:
    def arrived() -> bool:
        device.check()
        return int(word[0]) == value
    wait_until(arrived, 5, what, seen=lambda: int(word[0]))


class Fence:
    """A word in system memory that engines write and the test waits for."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.memory = device.alloc(4096, kind="system", name="fence")
        assert self.memory.view is not None
        self.word = self.memory.view[:4].view(np.uint32)
        self.value = 0

    def sdma(self, ring: Ring, *packets: Sequence[int]) -> None:
        self.value += 1
        ring.submit(words(*packets, sdma.build("FENCE", MTYPE="UC", ADDR=self.memory.address, DATA=self.value),
                          sdma.build("TRAP", INT_CONTEXT=0)))
        wait_for(self.device, self.word, self.value, f"fence of {ring.name}")

    def compute(self, ring: Ring, *packets: Sequence[int]) -> None:
        self.value += 1
        ring.submit(words(*packets, pm4.build(
            "RELEASE_MEM", **EVENT_CS_DONE, GL2_WB=1, DST_SEL=0, DATA_SEL=1, INT_SEL=2,
            ADDRESS=self.memory.address, DATA=self.value, INT_CTXID=0)))
        wait_for(self.device, self.word, self.value, f"fence of {ring.name}")


def copy(dst: int, src: int, nbytes: int) -> list[int]:
    return sdma.build("COPY_LINEAR", COUNT=nbytes - 1, SRC_ADDR=src, DST_ADDR=dst)


def store(address: int, *values: int) -> list[int]:
    return pm4.build("WRITE_DATA", DST_SEL="MEM", WR_CONFIRM=1, DST_ADDR=address, DATA=list(values))


def filled(device: Device, nbytes: int, seed: int, kind: str) -> tuple[Allocation, np.ndarray]:
    buffer = device.alloc(nbytes, kind=kind)        # type: ignore[arg-type]
    content = np.random.default_rng(seed).integers(0, 256, nbytes, dtype=np.uint8)
    assert buffer.view is not None
    buffer.view[:] = content
    device.flush_hdp()
    return buffer, content


def everything_works(device: Device) -> None:
    """Both kinds of engine move data, fences arrive, and interrupts are counted."""
    fence = Fence(device)
    before = device.statistics["interrupts"]
    src, content = filled(device, 70_000, 1, "system")
    vram, back = device.alloc(70_000), device.alloc(70_000, kind="system")
    for ring in device.sdma_rings:
        fence.sdma(ring, copy(vram.address, src.address, 70_000))
        fence.sdma(ring, copy(back.address, vram.address, 70_000))
        assert back.view is not None and (back.view == content).all()
        back.view[:] = 0
    assert back.view is not None
    for ring in device.compute_rings:
        fence.compute(ring, store(back.address + 64, 0x1234, 0x5678))
        assert back.view[64:72].view(np.uint32).tolist() == [0x1234, 0x5678]
    wait_until(lambda: device.interrupts.wait(0.01) * 0 + device.statistics["interrupts"] - before
               >= 2 * len(device.sdma_rings) + len(device.compute_rings), 5, "an interrupt for every fence",
               seen=lambda: dict(device.interrupts.counts))
    for buffer in (src, vram, back, fence.memory):
        device.free(buffer)
    device.check()


# -- a boot ----------------------------------------------------------------------------------------------------------


def test_a_cold_card_boots_and_works(boot: Boot, machine: mock.Machine) -> None:
    device = boot()
    assert [stage.name for stage in device.boot_stages] == STAGES
    assert (device.arch, device.vram_size, device.shader_engines) == ("gfx1100", 256 << 20, 6)
    assert device.compute_units == 96 and device.marketing_name == "AMD Radeon RX 7900 XTX"
    assert [ring.name for ring in device.compute_rings] == ["AM:0 compute 0"]
    assert [ring.name for ring in device.sdma_rings] == ["AM:0 SDMA 0", "AM:0 SDMA 1"]
    everything_works(device)
    device.close()
    device.close()
    assert device.shutdown_errors == []
    with pytest.raises(AmdrvError, match="AM:0 is closed: its memory is gone"):
        device.alloc(4096)
    assert [str(note) for note in machine.gpus[0].notes] == []


def test_the_clock_runs_at_its_rate(boot: Boot) -> None:
    device = boot()
    first = device.clock()
    wait_until(lambda: device.clock() > first, 1, "the golden counter to advance")
    assert device.clock_hz == 100_000_000


def test_a_second_opening_is_refused_while_the_first_lives(boot: Boot, hal: MockHal) -> None:
    device = boot()
    with pytest.raises(CardBusyError, match=r"0000:03:00\.0 is already open"):
        Device.open(hal)
    everything_works(device)


def test_cards_that_are_not_there(hal: MockHal) -> None:
    with pytest.raises(NoCardError, match=r"no AMD GPU of number 1; there are: 0000:03:00\.0\. "
                                          'AMDRV_MOCK="gfx1100:count=2" gives'):
        Device.open(hal, index=1)
    with pytest.raises(NoCardError, match=r"no AMD GPU at 0000:99:00\.0"):
        Device.open(hal, "0000:99:00.0")


def test_the_second_of_two_cards() -> None:
    with mock.Machine(gpus=[mock.Gpu(vram="128M"), mock.Gpu(vram="128M")]) as machine:
        hal = MockHal(machine)
        with Device.open(hal, index=1) as second, Device.open(hal, "0000:03:00.0") as first:
            assert (first.name, second.name, second.function.address) == ("AM:0", "AM:1", "0000:04:00.0")
            everything_works(second)
            everything_works(first)


def test_an_address_means_one_buffer_of_one_card() -> None:
    with mock.Machine(gpus=[mock.Gpu(vram="128M"), mock.Gpu(vram="128M")]) as machine:
        hal = MockHal(machine)
        with Device.open(hal, index=1) as second, Device.open(hal) as first:
            buffers = [card.alloc(size, kind=kind) for size in (4096, 3 << 20) for card in (first, second)
                       for kind in ("vram", "system")]      # type: ignore[call-overload]
            spans = sorted((each.address, each.end) for each in buffers)
            assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
            free = first.require_memory().addresses.free_bytes
        from amdrv.mmu import shared_addresses
        assert first.memory is None and shared_addresses(ADDRESS_BASE, ADDRESS_SIZE).free_bytes > free


@pytest.mark.parametrize("harvest", [0, 0b0001, {(0, 0): 0b1000, (5, 1): 0b0110}])
def test_harvested_wgps_are_not_counted(harvest: int | dict[tuple[int, int], int]) -> None:
    gpu = mock.Gpu("gfx1100", vram="128M", harvest=harvest)
    with mock.Machine(gpus=[gpu]) as machine, Device.open(MockHal(machine)) as device:
        assert device.compute_units == gpu.compute_units
        for (engine, array), mask in device.gfx.wgp_masks.items():
            gone = harvest if isinstance(harvest, int) else harvest.get((engine, array), 0)
            assert mask == 0b1111 & ~gone


# -- memory ------------------------------------------------------------------------------------------------------------


def test_allocations_have_what_they_promise(boot: Boot) -> None:
    device = boot()
    vram, system = device.alloc(3_000_001), device.alloc(100_000, kind="system", contiguous=True)
    assert vram.view is not None and vram.view.shape == (3_000_001,) and vram.address % (2 << 20) == 0
    assert system.view is not None and not system.view.any() and len(system.segments) == 1
    assert device.require_memory().allocated["system"] >= 100_000
    device.free(vram)
    assert vram.view is None
    with pytest.raises(ValueError, match=r"vram buffer 0x.* is not allocated on this card \(freed twice\?\)"):
        device.free(vram)
    with pytest.raises(ValueError, match="at least one byte, not 0"):
        device.alloc(0)
    with pytest.raises(ValueError, match='kind must be "vram" or "system", not \'disk\''):
        device.alloc(1, kind="disk")        # type: ignore[arg-type]


def test_exhausted_vram_says_what_is_free_and_nothing_is_lost(boot: Boot) -> None:
    device = boot()
    memory = device.require_memory()
    held = [device.alloc(1 << 20)]          # makes the first page tables
    free = memory.pages.free_bytes
    with pytest.raises(OutOfMemoryError, match=r"VRAM: 1,073,741,824 bytes asked, [\d,]+ of [\d,]+ free; free buffers"):
        device.alloc(1 << 30)
    while memory.pages.free_bytes > 8 << 20:
        held.append(device.alloc(8 << 20))
    with pytest.raises(MemoryError):
        while True:
            held.append(device.alloc(4 << 20))
    for buffer in held[1:]:
        device.free(buffer)
    assert free - memory.pages.free_bytes <= 2 << 20        # one more block of page tables
    everything_works(device)


def test_scattered_vram_is_one_address_range(boot: Boot) -> None:
    device = boot()
    memory, fence = device.require_memory(), Fence(device)
    pieces = []
    while memory.pages.free_bytes > 4 << 20:
        pieces.append(device.alloc(1 << 20))
    for buffer in pieces[::2]:
        device.free(buffer)
    big = device.alloc(8 << 20)
    assert len(big.segments) > 1 and big.view is None
    src, content = filled(device, 8 << 20, 2, "system")
    back = device.alloc(8 << 20, kind="system")
    half = 4 << 20                          # a linear copy moves up to 4 MiB
    for at in (0, half):
        fence.sdma(device.sdma_rings[0], copy(big.address + at, src.address + at, half))
        fence.sdma(device.sdma_rings[0], copy(back.address + at, big.address + at, half))
    assert back.view is not None and (back.view == content).all()


def test_a_new_mapping_at_an_old_address_is_seen(boot: Boot) -> None:
    """The TLBs are flushed: each engine reads what is mapped now, not what it saw before."""
    device = boot()
    fence = Fence(device)
    back = device.alloc(4096, kind="system")
    assert back.view is not None
    old, first = filled(device, 4096, 3, "system")
    address = old.address
    fence.sdma(device.sdma_rings[0], copy(back.address, address, 4096))
    assert (back.view == first).all()
    device.free(old)
    new, second = filled(device, 4096, 4, "system")
    while new.address != address:
        new, second = filled(device, 4096, 5, "system")
    for ring in device.sdma_rings:
        fence.sdma(ring, copy(back.address, address, 4096))
        assert (back.view == second).all()


def test_mapped_memory_stays_the_callers(boot: Boot) -> None:
    device = boot()
    memory = device.pci.alloc_dma(1 << 16)
    mapped = device.map(memory)
    assert mapped.kind == "system" and mapped.view is not None
    fence = Fence(device)
    fence.compute(device.compute_rings[0], store(mapped.address, 77))
    assert mapped.view[:4].view(np.uint32)[0] == 77
    device.free(mapped)
    assert memory.view is not None and memory.view[:4].view(np.uint32)[0] == 77
    memory.close()


def test_engines_may_do_atomics_in_host_memory(boot: Boot, machine: mock.Machine) -> None:
    device = boot()
    fence, word = Fence(device), device.alloc(4096, kind="system")
    assert word.view is not None
    word.view[:4].view(np.uint32)[0] = 40
    fence.compute(device.compute_rings[0], pm4.build(
        "ATOMIC_MEM", ATOMIC="ATOMIC_ADD_32", ADDRESS=word.address, SRC_DATA=2, CMP_DATA=0, LOOP_INTERVAL=0))
    assert word.view[:4].view(np.uint32)[0] == 42
    device.close()
    assert [str(note) for note in machine.gpus[0].notes] == []


def test_counts_of_both_sides_agree(boot: Boot, machine: mock.Machine) -> None:
    device = boot()
    everything_works(device)
    device.interrupts.drain()
    theirs = machine.gpus[0].counters
    for key in ("page_table_entries", "tlb_flushes", "interrupts"):
        assert device.statistics[key] == theirs[key] > 0, key


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["compute", "sdma"])
def test_a_bad_address_is_reported_with_the_buffer_next_to_it(boot: Boot, engine: str) -> None:
    device = boot()
    victim = device.alloc(4096, name="victim")
    bad = victim.end + 0x1000
    if engine == "compute":
        device.compute_rings[0].submit(words(store(bad, 1)))
    else:
        device.sdma_rings[0].submit(words(copy(bad, victim.address, 16)))

    def reported() -> bool:
        device.check()
        return False
    expected = (rf"AM:0: page fault at {bad:#x}: write by .*page not present.* \(VMID 8, gc hub\); "
                rf"this is 0x1000 bytes past the end of victim buffer {victim.address:#x}")
    with pytest.raises(GpuFault, match=expected):
        wait_until(reported, 5, "the fault to be reported")
    # Its interrupt comes too, later than the fault was found in the hub where the host's threads are slow.
    wait_until(lambda: device.interrupts.drain() >= 0 and device.interrupts.counts["page fault"] >= 1, 5,
               "the fault's interrupt")


def test_a_freed_buffer_is_named_in_a_fault(boot: Boot) -> None:
    device = boot()
    gone = device.alloc(4096, name="temporary")
    address = gone.address
    device.free(gone)
    device.compute_rings[0].submit(words(store(address, 1)))

    def reported() -> bool:
        device.check()
        return False
    with pytest.raises(GpuFault, match=r"inside temporary buffer 0x\w+\.\.0x\w+, which was freed"):
        wait_until(reported, 5, "the fault to be reported")


BAD_WORDS = [
    ("compute", [0xC000FE00, 0], "a PM4 packet with an unknown opcode: AM:0 compute 0, next is UNKNOWN .*0xfe"),
    ("copy", [0xEE], "an SDMA queue hangs: AM:0 SDMA 1, next is UNKNOWN .*opcode 238"),
    ("compute", pm4.build("WRITE_DATA", DST_SEL=0, WR_CONFIRM=1, DST_ADDR=0x2000, DATA=[1]),
     "touched a register that queues may not touch: AM:0 compute 0, next is WRITE_DATA"),
]


@pytest.mark.parametrize(("kind", "bad", "message"), BAD_WORDS)
def test_a_bad_packet_is_named_with_its_queue(boot: Boot, kind: str, bad: list[int], message: str) -> None:
    device = boot()
    ring = device.compute_rings[0] if kind == "compute" else device.sdma_rings[1]
    ring.submit(words(bad))

    def reported() -> bool:
        device.check()
        return False
    with pytest.raises(GpuFault, match=message):
        wait_until(reported, 5, "the bad packet to be reported")
    device.close()
    assert device.shutdown_errors == []
    everything_works(boot())


def test_a_queue_that_waits_for_ever_is_a_hang(boot: Boot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gfx, "RING_WORDS", 1024)
    device = boot()
    ring, word = device.compute_rings[0], device.alloc(4096, kind="system")
    wait = pm4.build("WAIT_REG_MEM", FUNCTION="EQUAL", MEM_SPACE=1, ADDRESS=word.address, REFERENCE=5, MASK=0xFF,
                     POLL_INTERVAL=4)
    ring.timeout = 0.2
    ring.submit(words(wait))
    ring.submit(words(pm4.build("NOP", DATA=[0] * (ring.words - 100))))
    with pytest.raises(GpuHang, match=rf"AM:0 compute 0: room .* next is WAIT_REG_MEM .*{word.address:#x}"):
        ring.submit(np.full(200, pm4.build("NOP")[0], np.uint32))
    assert word.view is not None
    ring.timeout = 5
    word.view[0] = 5                        # the wait ends, and everything behind it is done
    Fence(device).compute(ring)
    everything_works(device)


# -- again, and after accidents ----------------------------------------------------------------------------------------


def test_a_card_that_was_shut_down_cleanly_boots_warm(boot: Boot, machine: mock.Machine) -> None:
    """No reset, no firmware: only queues, page tables and interrupts are set up again."""
    board = machine.gpus[0]
    for number in range(3):
        device = boot()
        assert device.warm == (number > 0)
        assert [stage.name for stage in device.boot_stages] == STAGES
        everything_works(device)
        device.close()
        assert device.shutdown_errors == []
        loads = board.counters["psp_commands"]
    assert board.counters["psp_commands"] == loads
    assert [str(note) for note in board.notes] == []


def cold_again(device: Device) -> None:
    assert not device.warm
    assert [stage.name for stage in device.boot_stages] == [STAGES[0], "reset", *STAGES[1:]]
    everything_works(device)


def test_a_warm_boot_can_be_declined(boot: Boot, hal: MockHal) -> None:
    boot().close()
    with Device.open(hal, warm=False) as device:
        cold_again(device)


def test_other_firmware_is_not_taken_over(boot: Boot, monkeypatch: pytest.MonkeyPatch) -> None:
    boot().close()
    monkeypatch.setattr(device_module, "WARM_LAYOUT", -1)
    cold_again(boot())


@pytest.mark.parametrize("accident", ["killed", "fault", "work under way", "exception in the boot"])
def test_a_card_that_was_not_left_in_order_boots_cold(boot: Boot, accident: str,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    device = boot()
    if accident == "fault":
        device.compute_rings[0].submit(words(store(0x1234_0000, 1)))
        with pytest.raises(GpuFault):
            wait_until(lambda: device.check(), 5, "the fault")      # type: ignore[func-returns-value]
    elif accident == "work under way":
        word = device.alloc(4096, kind="system")
        device.compute_rings[0].submit(words(pm4.build(
            "WAIT_REG_MEM", FUNCTION="EQUAL", MEM_SPACE=1, ADDRESS=word.address, REFERENCE=5, MASK=0xFF,
            POLL_INTERVAL=4)))
    elif accident == "killed":
        device.pci.close()
    elif accident == "exception in the boot":
        device.close()
        with monkeypatch.context() as patch:
            patch.setattr(sdma_block.Sdma, "boot", lambda self: [][0])
            with pytest.raises(IndexError):
                boot()
    device.close()
    cold_again(boot())


def test_boot_on_a_card_left_running(boot: Boot, hal: MockHal) -> None:
    """What a killed process leaves: engines on, rings live; only the handle is gone."""
    killed = Device.open(hal)
    everything_works(killed)
    killed.pci.close()
    device = boot()
    assert "reset" in [stage.name for stage in device.boot_stages]
    everything_works(device)


@pytest.mark.parametrize("stage", STAGES[1:])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_stage_that_fails_leaves_a_card_that_boots(boot: Boot, hal: MockHal, machine: mock.Machine, stage: str,
                                                     when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    block = {name.lower(): block for name, block in vars(device_module).items() if isinstance(block, type)}[stage]
    original = block.boot       # type: ignore[attr-defined]

    def broken(self: object) -> None:
        if when == "after":
            original(self)
        raise BootError("injected")
    with monkeypatch.context() as patch:
        patch.setattr(block, "boot", broken)
        with pytest.raises(BootError, match=rf"^0000:03:00\.0 does not boot, stage {stage}: injected$"):
            Device.open(hal)
    everything_works(boot())


def test_a_damaged_firmware_file_is_named(boot: Boot, hal: MockHal, tmp_path: Path,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    for file in hal.firmware[0].iterdir():
        data = bytearray(file.read_bytes())
        if "mec" in file.name:
            data[-600] ^= 0xFF
        (tmp_path / file.name).write_bytes(data)
    with monkeypatch.context() as patch:
        patch.setenv("AMDRV_FIRMWARE", str(tmp_path))
        with pytest.raises(FirmwareError, match="gc_11_0_0_mec"):
            Device.open(hal)
    everything_works(boot())


# (fault and its settings, error, what its message says)
BROKEN_CARDS = [
    ("firmware-never-ready", {}, BootError, r"stage discovery: boot firmware of the card .*C2PMSG_33.*power-cycle it"),
    ("psp-never-ready", {}, FirmwareError, r"PSP system \(sOS\) to come up .*C2PMSG_81 0x0, boot loader 0x"),
    ("firmware-refused", {}, FirmwareError, r"boot loader, KDB of psp_13_0_0_sos\.bin: refused with code 0x"),
    ("firmware-refused", {"firmware": "RS64_MEC"}, FirmwareError,
     r"LOAD_IP_FW \(RS64_MEC of gc_11_0_0_mec\.bin\) was refused with status 0x.*damaged or not for this card"),
    ("psp-silent", {}, FirmwareError, r"PSP command LOAD_TOC .*last seen: fence 0 of 1; the PSP hangs: reset the card"),
    ("psp-status", {"status": 0xFFFF000A}, FirmwareError, r"PSP command LOAD_TOC .*status 0xffff000a"),
    ("smu-silent", {}, BootError, r"stage smu: SMU message GetSmuVersion\(0x0\) .*last seen: 0x0; the SMU hangs"),
    ("smu-busy", {}, BootError, r"stage smu: SMU message GetSmuVersion\(0x0\): refused with CmdRejectedBusy \(0xfc\)"),
    ("smu-wrong", {"message": 6, "result": 0xFD}, BootError,
     r"EnableAllSmuFeatures\(0x0\): refused with CmdRejectedPrereq \(0xfd\); SMU firmware \d+\.\d+\.\d+"),
]


@pytest.mark.parametrize(("fault", "settings", "error", "message"), BROKEN_CARDS)
def test_a_broken_card_is_one_clear_error(boot: Boot, hal: MockHal, machine: mock.Machine, fault: str,
                                          settings: dict[str, int], error: type[Exception], message: str,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    faults = machine.gpus[0].faults
    faults.inject(fault, **settings)
    if fault == "firmware-never-ready":
        machine.gpus[0].reset()             # it strikes the next time that the card's firmware starts
    with monkeypatch.context() as patch:    # not for the boot that must succeed, on a machine that has other work
        for module, name in ((psp, "BOOTLOADER_TIMEOUT"), (psp, "COMMAND_TIMEOUT"), (smu, "RESPONSE_TIMEOUT"),
                             (smu, "BUSY_TIMEOUT"), (discovery, "READY_TIMEOUT"), (psp, "RING_TIMEOUT")):
            if fault.endswith(("-ready", "-silent", "-busy")):      # the others are refused at once
                patch.setattr(module, name, 1.0)
        with pytest.raises(error, match=message):
            Device.open(hal)
    faults.clear()
    if fault == "firmware-never-ready":
        machine.gpus[0].reset()
    everything_works(boot())


@pytest.mark.parametrize("parts", [1, 3])
def test_a_boot_killed_within_the_boot_loader(boot: Boot, hal: MockHal, parts: int,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    original, done = psp.Psp._bootload, [0]

    def killed(self: psp.Psp, component: Component) -> None:
        if done[0] == parts:
            raise KeyboardInterrupt
        done[0] += 1
        original(self, component)
    with monkeypatch.context() as patch:
        patch.setattr(psp.Psp, "_bootload", killed)
        with pytest.raises(KeyboardInterrupt):
            Device.open(hal)
    everything_works(boot())


def test_an_smu_that_hung_is_reset_through_the_bus(boot: Boot, hal: MockHal, machine: mock.Machine,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smu, "RESET_TIMEOUT", 0.2)
    monkeypatch.setattr(smu, "RESPONSE_TIMEOUT", 0.2)
    Device.open(hal).pci.close()
    machine.gpus[0].faults.inject("smu-silent", count=1)        # the first message to it, before the reset
    everything_works(boot())


def test_a_card_that_falls_off_the_bus_is_noticed(boot: Boot, machine: mock.Machine) -> None:
    device = boot()
    machine.gpus[0].faults.inject("card-lost")
    with pytest.raises(CardLostError, match="AM:0: registers read as all ones; the card has fallen off the bus"):
        device.check()
    machine.gpus[0].faults.clear()


def test_a_machine_without_msi_is_polled(hal: MockHal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(hal.open("0000:03:00.0")), "interrupt", lambda self: None)
    hal.release("0000:03:00.0")
    with Device.open(hal) as device:
        assert not device.interrupts.has_msi
        everything_works(device)


def test_threads_allocate_and_free_at_once(boot: Boot) -> None:
    device = boot()
    before = device.require_memory().allocated
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for _ in range(40):
                kept = [device.alloc(int(rng.integers(1, 200_000)), kind=("vram", "system")[int(rng.integers(2))])
                        for _ in range(3)]
                for buffer in kept:
                    device.free(buffer)
        except BaseException as error:
            errors.append(error)
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = device.require_memory().allocated
    assert not errors and (after["vram"], after["system"]) == (before["vram"], before["system"])
    everything_works(device)


def test_an_unknown_chip_is_named(boot: Boot, hal: MockHal, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(device_module, "GFX_TARGETS", {(12, 0, 1): "gfx1201"})
        with pytest.raises(UnknownIpError, match=r"the card has GC 11\.0\.0; this driver knows 12\.0\.1"):
            Device.open(hal)
    everything_works(boot())


NAVI32 = {"GC": (11, 0, 3), "SDMA0": (6, 0, 3), "SDMA1": (6, 0, 3), "MP0": (13, 0, 10), "MP1": (13, 0, 10),
          "HDP": (6, 0, 1), "NBIF": (4, 3, 1), "OSSSYS": (6, 0, 2), "SMUIO": (13, 0, 8)}


def another_chip(monkeypatch: pytest.MonkeyPatch, versions: dict[str, tuple[int, int, int]], **changes: int) -> None:
    """The mock's boards are from here on of a chip with other blocks, or another PCI identity."""
    arch = mock_arch.arch_of("gfx1100")
    ips = tuple(dataclasses.replace(ip, version=versions.get(ip.name, ip.version)) for ip in arch.ips)
    other = dataclasses.replace(arch, ips=ips, **changes)       # type: ignore[arg-type]
    monkeypatch.setattr(mock_arch, "_archs", lambda: {"gfx1100": other})


@pytest.mark.parametrize(("device_id", "versions", "target"), [(0x1234, {}, "gfx1100"), (0x747E, NAVI32, "gfx1101")])
def test_a_chip_is_known_by_its_ip_versions_not_by_its_id(
        monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device_id: int, versions: dict[str, tuple[int, int, int]],
        target: str) -> None:
    another_chip(monkeypatch, versions, device=device_id)
    with mock.Machine(gpus=[mock.Gpu(vram="128M")]) as machine:
        hal = MockHal(machine)
        names = {"gc_11_0_0": "GC", "sdma_6_0_0": "SDMA0", "psp_13_0_0": "MP0", "smu_13_0_0": "MP1"}
        for file in hal.firmware[0].iterdir():
            name = file.name
            for old, block in names.items() if versions else ():
                name = name.replace(old, f"{old.split('_')[0]}_{'_'.join(map(str, versions[block]))}")
            (tmp_path / name).write_bytes(file.read_bytes())
        monkeypatch.setenv("AMDRV_FIRMWARE", str(tmp_path))
        with Device.open(hal) as device:
            assert (device.arch, device.marketing_name) == (target, f"AMD GPU 1002:{device_id:04x}")
            everything_works(device)


def test_a_chip_with_one_unknown_block_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    another_chip(monkeypatch, {"MMHUB": (3, 0, 2)})
    with (mock.Machine(gpus=[mock.Gpu(vram="128M")]) as machine,
          pytest.raises(UnknownIpError, match=r"no register table for MMHUB 3\.0\.2: the known versions of MMHUB are")):
        Device.open(MockHal(machine))


def test_a_small_bar_is_refused_with_the_reason() -> None:
    with (mock.Machine(gpus=[mock.Gpu("gfx1100", vram="512M", bar0="256M")]) as machine,
          pytest.raises(BootError, match=r'BAR 0 shows 256 MiB of 512 MiB of VRAM; .*"Resizable BAR"')):
        Device.open(MockHal(machine))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork is POSIX")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
def test_a_forked_child_leaves_the_card_alone(boot: Boot) -> None:
    device = boot()
    child = os.fork()
    if child == 0:
        try:
            device.close()
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    everything_works(device)


def test_a_process_that_just_ends_gives_its_card_back() -> None:
    script = """
import atexit, mock
from amdrv.device import Device
from amdrv.hal.mock import MockHal
machine = mock.Machine(gpus=[mock.Gpu("gfx1100", vram="128M")])
atexit.register(machine.close)
atexit.register(lambda: print("bus master", machine.gpus[0].read_config(4, 2) >> 2 & 1))
devices = [Device.open(MockHal(machine))]
print("bus master", machine.gpus[0].read_config(4, 2) >> 2 & 1)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60,
                          cwd=Path(__file__).parents[2])
    assert (done.stdout.splitlines(), done.stderr) == (["bus master 1", "bus master 0"], "")


def test_many_boots_leak_nothing(hal: MockHal, machine: mock.Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    attached: set[int] = set()
    attach, detach = machine.bus.attach, machine.bus.detach

    def counted_attach(address: int, size: int) -> int:
        where = attach(address, size)
        attached.add(where)
        return where

    def counted_detach(address: int) -> None:
        attached.remove(address)
        detach(address)
    monkeypatch.setattr(machine.bus, "attach", counted_attach)
    monkeypatch.setattr(machine.bus, "detach", counted_detach)
    files = Path("/proc/self/fd")

    def held() -> tuple[int, int]:
        return threading.active_count(), len(os.listdir(files)) if files.exists() else 0
    with Device.open(hal) as device:
        everything_works(device)
        assert len(attached) > 10
    before = held()
    for _ in range(5):
        assert not attached
        with Device.open(hal) as device:
            device.alloc(1 << 20)
            device.alloc(1 << 20, kind="system")
    assert not attached and held() == before


@pytest.mark.slow
def test_three_hundred_boots(hal: MockHal) -> None:
    for _ in range(300):
        with Device.open(hal) as device:
            device.alloc(1 << 20, kind="system")
        assert device.shutdown_errors == []


def test_a_card_that_amdgpu_has_initialised_is_reset_first(boot: Boot, hal: MockHal, machine: mock.Machine) -> None:
    """Firmware of another driver runs, GFXOFF is allowed, its queues are live, and there is no mark of ours."""
    other, board = Device.open(hal), machine.gpus[0]
    other.regs.SCRATCH_REG7.write(0xCAFEDEAD)           # Linux's ring test leaves something there, too
    other.smu.allow_gfxoff(True)
    other.pci.close()
    assert board.smu.gfxoff_allowed
    device = boot()
    assert [stage.name for stage in device.boot_stages] == [STAGES[0], "reset", *STAGES[1:]] and not device.warm
    everything_works(device)
    device.close()
    assert [str(note) for note in board.notes if note.rule == "gfxoff"] == []
