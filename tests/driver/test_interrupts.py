"""Interrupts: hand-packed entries decoded, counted, dispatched; faults in words; overflow; lost and spurious MSIs."""

from __future__ import annotations

import struct
import time
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mock
from amdrv import sdma
from amdrv.device import Device
from amdrv.errors import GpuFault
from amdrv.facts import ih as facts
from amdrv.interrupts import KEPT_FAULTS, Interrupts, describe_sq
from amdrv.ip.gmc import describe_fault
from amdrv.ip.ih import RING_BYTES, Entry
from amdrv.wait import wait_until

GFX, CP, VMC = 10, 20, 18       # soc15_ih_clientid.h
EOP, BAD_OPCODE, SQ, SDMA_TRAP = 181, 183, 239, 49


def packed(client: int, source: int, ring: int = 0, vmid: int = 0, hub: int = 0, time: int = 0, pasid: int = 0,
           context: tuple[int, int, int, int] = (0, 0, 0, 0)) -> np.ndarray:
    """An entry as amdgpu_ih_decode_iv_helper takes it apart, put together."""
    data = struct.pack("<BBBBIHHI4I", client, source, ring, vmid | hub << 7, time & 0xFFFF_FFFF, time >> 32, 0, pasid,
                       *context)
    return np.frombuffer(data, np.uint32)


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255), st.integers(0, 15), st.integers(0, 1),
       st.integers(0, (1 << 48) - 1), st.integers(0, 0xFFFF), st.tuples(*[st.integers(0, 0xFFFF_FFFF)] * 4))
def test_entries_are_decoded(client: int, source: int, ring: int, vmid: int, hub: int, time: int, pasid: int,
                             context: tuple[int, int, int, int]) -> None:
    entry = Entry.decode(packed(client, source, ring, vmid, hub, time, pasid, context))
    assert entry == Entry(client, source, ring, vmid, hub, time, pasid, context)
    assert f"vmid {vmid}" in str(entry)


def test_entries_name_themselves() -> None:
    assert str(Entry.decode(packed(CP, EOP, 4, 8, time=99, context=(1, 2, 0, 0)))) == (
        "GRBM_CP CP_EOP_INTERRUPT ring 0x4 vmid 8 (GC hub) context 0x1 0x2 0x0 0x0 at 99")
    assert str(Entry.decode(packed(VMC, 0, hub=1))).startswith("VMC 0 ring 0x0 vmid 0 (MM hub)")
    assert str(Entry.decode(packed(GFX, SDMA_TRAP))).startswith("GFX SDMA_TRAP")


@pytest.mark.parametrize(("status", "words"), [
    (8 << 9 | 1 << 18 | 8 << 20 | 1 << 4, "write by TCP, page not present"),
    (13 << 9 | 8 << 20 | 1 << 4, "read by SDMA0, page not present"),
    (4 << 9 | 1 << 19 | 4 << 4, "atomic by CPF, not writable"),
    (9 << 9 | 8 << 4 | 1, "read by SQC (instructions), not executable, more faults followed"),
    (3 << 1 | 1 << 8 | 200 << 9, "read by client 200, not mapped to any memory, page table walk failed (code 3)"),
    (0, "cause not recorded (the registers hold only the first of several faults)"),
])
def test_fault_status_in_words(status: int, words: str) -> None:
    assert describe_fault("GC", status) == words


def test_mm_hub_clients_have_no_names_here() -> None:
    assert describe_fault("MM", 5 << 9 | 1 << 18).startswith("write by client 5")


def test_shader_errors_in_words() -> None:
    def sq(kind: int, encoding: int) -> Entry:
        return Entry.decode(packed(GFX, SQ, vmid=8, context=(kind << 21 | 1 << 25 | 7 << 27 | 0x55, 2 | 3 << 2
                                                             | encoding << 6, 0, 0)))
    assert describe_sq(sq(1, 2)) == "illegal instruction in a shader (wave 7, SIMD 2, WGP 3, SA 1, detail 0x55)"
    assert (describe_sq(sq(2, 2)) or "").startswith("memory violation")
    assert (describe_sq(sq(9, 2)) or "").startswith("error 9")
    assert describe_sq(sq(1, 1)) is None and describe_sq(sq(1, 0)) is None


class FakeCard:
    """Just enough of a card: entries to take, fault registers, and a memory that names what is near."""

    def __init__(self, *, msi: bool = False) -> None:
        self.entries: list[np.ndarray] = []
        self.rearmed = 0
        hub = {name: SimpleNamespace(name=name, take_fault=lambda: "write by TCP, page not present",
                                     faulted=lambda: False)
               for name in ("mm", "gc")}
        self.device = SimpleNamespace(
            name="AM:0", statistics=Counter(), ih=SimpleNamespace(take=self.take, rearm=self.rearm, overflows=0),
            gmc=SimpleNamespace(**hub), require_memory=lambda: SimpleNamespace(nearest=lambda a: f"near {a:#x}"),
            ring_of=lambda entry: None, pci=SimpleNamespace(interrupt=lambda: self if msi else None))
        device: Any = self.device
        self.interrupts = Interrupts(device)

    def take(self) -> list[Entry]:
        found, self.entries = [Entry.decode(entry) for entry in self.entries], []
        return found

    def rearm(self) -> None:
        self.rearmed += 1

    def wait(self, timeout: float) -> int:
        return 0

    def fileno(self) -> int:
        return 77


def test_entries_are_counted_and_dispatched() -> None:
    card = FakeCard()
    seen: list[Entry] = []
    card.interrupts.subscribe(CP, EOP, seen.append)
    card.entries = [packed(CP, EOP, 4), packed(GFX, SDMA_TRAP), packed(GFX, SDMA_TRAP, 16), packed(31, 254)]
    assert card.interrupts.drain() == 4 and card.interrupts.drain() == 0
    assert card.device.statistics == {"interrupts": 4}
    assert card.interrupts.counts == {"end of pipe": 1, "SDMA trap": 2, "other": 1}
    assert [entry.ring_id for entry in seen] == [4]
    card.interrupts.check()


def test_faults_are_raised_once_with_all_that_is_known() -> None:
    card = FakeCard()
    card.entries = [packed(GFX, 0, vmid=8, context=(0x2000_0000, 0x2, 0, 0)), packed(CP, BAD_OPCODE, 4, 8)]
    with pytest.raises(GpuFault) as caught:
        card.interrupts.check()
    assert str(caught.value).splitlines() == [
        "AM:0: page fault at 0x220000000000: write by TCP, page not present (VMID 8, gc hub); this is near "
        "0x220000000000",
        "a PM4 packet with an unknown opcode: GRBM_CP CP_BAD_OPCODE_ERROR ring 0x4 vmid 8 (GC hub) context 0x0 0x0 0x0 "
        "0x0 at 0"]
    card.interrupts.check()
    card.entries = [packed(VMC, 0, hub=1)] * (KEPT_FAULTS + 3)
    with pytest.raises(GpuFault, match=r"mm hub(.|\n)*\.\.\. and 3 more$"):
        card.interrupts.check()


def test_waiting_without_msi_polls_until_the_time_is_up() -> None:
    card = FakeCard()
    assert card.interrupts.fileno() is None and not card.interrupts.has_msi
    assert card.interrupts.wait(0.002) == 0
    card.entries = [packed(CP, EOP)]
    assert card.interrupts.wait(10) == 1


def test_an_msi_without_entries_is_armed_again() -> None:
    card = FakeCard(msi=True)
    assert card.interrupts.fileno() == 77
    assert card.interrupts.wait(0.01) == 0 and card.rearmed >= 1


# -- on the software card ------------------------------------------------------------------------------------------


Boot = Callable[[], Device]


def drained(device: Device, count: int) -> int:
    deadline, total = time.monotonic() + 5, 0
    while total < count and time.monotonic() < deadline:
        total += device.interrupts.wait(0.05)
    return total


def test_entries_arrive_in_order_across_the_rings_end(boot: Boot, machine: mock.Machine) -> None:
    device, board = boot(), machine.gpus[0]
    seen: list[int] = []
    device.interrupts.subscribe(31, 7, lambda entry: seen.append(entry.context[0]))
    total = RING_BYTES // facts.IV_ENTRY_BYTES + 100
    for first in range(0, total, 1000):
        count = min(1000, total - first)
        for number in range(first, first + count):
            board.ih.raise_(31, 7, context=(number, 0, 0, 0))
        assert drained(device, count) == count
    assert seen == list(range(total)) and device.ih.overflows == 0


def test_after_an_overflow_the_newest_entries_are_there(boot: Boot, machine: mock.Machine) -> None:
    device, board = boot(), machine.gpus[0]
    seen: list[int] = []
    device.interrupts.subscribe(31, 7, lambda entry: seen.append(entry.context[0]))
    slots = RING_BYTES // facts.IV_ENTRY_BYTES
    total = slots + 500
    for number in range(total):
        board.ih.raise_(31, 7, context=(number, 0, 0, 0))
    drained(device, slots - 1)
    assert device.ih.overflows == 1
    assert seen == list(range(total - len(seen), total)) and len(seen) > slots // 2
    board.ih.raise_(31, 7, context=(total, 0, 0, 0))
    assert drained(device, 1) == 1 and seen[-1] == total        # and it goes on


def test_a_lost_msi_is_made_good_by_the_next_look(boot: Boot, machine: mock.Machine) -> None:
    device, board = boot(), machine.gpus[0]
    device.interrupts.drain()
    board.faults.inject("lost-interrupt", count=1)
    board.ih.raise_(31, 7)
    assert drained(device, 1) == 1
    board.faults.inject("spurious-interrupt")
    assert device.interrupts.wait(0.05) == 0
    board.ih.raise_(31, 7)
    assert drained(device, 1) == 1


def test_every_interrupt_wakes_the_sleeper(boot: Boot, machine: mock.Machine) -> None:
    """RPTR_REARM: the MSI is armed again by the read pointer's doorbell, each time."""
    device, board = boot(), machine.gpus[0]
    device.interrupts.drain()
    for _ in range(20):
        board.ih.raise_(31, 7)
        assert device.interrupts.wait(5) == 1


def test_a_fault_that_is_told_late_is_told_once(boot: Boot, machine: mock.Machine,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """Found in the hub's registers before its entry came: as complete, and not a second time."""
    device = boot()
    victim = device.alloc(4096, name="victim")
    board = machine.gpus[0]
    held: list[tuple[tuple[object, ...], dict[str, object]]] = []
    post = board.ih.post
    monkeypatch.setattr(board.ih, "post", lambda *args, **settings: held.append((args, settings)))
    device.sdma_rings[0].submit(np.array(sdma.build("FENCE", MTYPE="UC", ADDR=victim.end + 0x3000, DATA=1), np.uint32))

    def told() -> bool:
        device.check()
        return False
    with pytest.raises(GpuFault, match=rf"page fault at {victim.end + 0x3000:#x}: write by SDMA0.*\(VMID 8, gc hub\); "
                                       r"this is 0x3000 bytes past the end of victim buffer .*; it was told by an "
                                       "interrupt that never came"):
        wait_until(told, 5, "the fault")
    monkeypatch.undo()
    for args, settings in held:
        post(*args, **settings)
    wait_until(lambda: device.interrupts.drain() or device.interrupts.counts["page fault"], 5, "the entry")
    device.check()
