"""Queues, engines and cards that stand still: what is reported, what is reset, and that the process goes on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from test_boot import Fence, copy, everything_works, filled, store, words

import mock
from amdrv import pm4, sdma
from amdrv.device import Device
from amdrv.errors import BootError, GpuFault, WaitTimeout
from amdrv.hal.mock import MockHal
from amdrv.ip import discovery, gfx, smu
from amdrv.ip import sdma as sdma_block
from amdrv.wait import wait_until

Boot = Callable[[], Device]
KINDS = ["compute", "copy"]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gfx, "DEQUEUE_TIMEOUT", 0.1)
    monkeypatch.setattr(sdma_block, "STOP_TIMEOUT", 0.1)
    monkeypatch.setattr(smu, "RESET_TIMEOUT", 5)


def ring_of(device: Device, kind: str):     # type: ignore[no-untyped-def]
    return device.compute_rings[0] if kind == "compute" else device.sdma_rings[0]


def hang(device: Device, kind: str) -> int:
    """The queue waits for what never comes; returns the address it looks at."""
    word = device.alloc(4096, kind="system", name="never")
    if kind == "compute":
        packet = pm4.build("WAIT_REG_MEM", FUNCTION="EQUAL", MEM_SPACE=1, ADDRESS=word.address, REFERENCE=5, MASK=0xFF,
                           POLL_INTERVAL=4)
        behind = store(word.address + 8, 1)
    else:
        packet = sdma.build("POLL_REGMEM", FUNC="EQUAL", MEM_POLL="MEMORY", ADDR=word.address, VALUE=5, MASK=0xFF,
                            INTERVAL=4, RETRY_COUNT=0xFFF)
        behind = sdma.build("FENCE", MTYPE="UC", ADDR=word.address + 8, DATA=1)
    ring_of(device, kind).submit(words(packet, behind))
    return word.address


def kept(device: Device) -> Callable[[], None]:
    """Something in VRAM and something in host memory that recovery must leave alone."""
    fence = Fence(device)
    source, content = filled(device, 50_000, 7, "system")
    vram, back = device.alloc(50_000), device.alloc(50_000, kind="system")
    fence.sdma(device.sdma_rings[1], copy(vram.address, source.address, 50_000))

    def check() -> None:
        fence.sdma(device.sdma_rings[1], copy(back.address, vram.address, 50_000))
        assert back.view is not None and (back.view == content).all()
    return check


@pytest.mark.parametrize("kind", KINDS)
def test_a_hung_queue_is_named_reset_and_works_again(boot: Boot, kind: str, machine: mock.Machine) -> None:
    device = boot()
    check = kept(device)
    wait_until(lambda: str(device.diagnose()) == "every queue is idle, and the card has reported nothing", 10, "rest")
    address = hang(device, kind)
    ring = ring_of(device, kind)
    name = "WAIT_REG_MEM" if kind == "compute" else "POLL_REGMEM"
    wait_until(lambda: [queue.ring for queue in device.diagnose().queues] == [ring.name], 5, "the queue to be stuck")
    stuck, = device.diagnose().queues
    assert name in stuck.packet and f"{address:#x}" in stuck.packet and stuck.pending > 0
    done = device.recover()
    assert [(step.what, step.failed) for step in done.steps] == [(ring.name, "")]
    assert list(done.lost) == [ring.name] and done.lost[ring.name] > 0 and not done.vram_lost
    assert f"{ring.name}: {stuck.pending} words pending, next is {name}" in str(done)
    assert f"reset of {ring.name}: it works again\nwork was lost of {ring.name}" in str(done)
    everything_works(device)
    check()
    wait_until(lambda: device.diagnose().queues == (), 10, "the engines to tell that they are idle")
    device.close()
    assert device.shutdown_errors == []
    assert {note.rule for note in machine.gpus[0].notes} <= {"queue-hang"}
    everything_works(boot())


def test_what_a_reset_queue_held_never_runs(boot: Boot) -> None:
    """Lost work has failed for good: nothing of it is signalled afterwards, even when what it waited for comes."""
    device = boot()
    for kind in KINDS:
        hang(device, kind)
        word = next(each for each in device.require_memory()._live.values() if each.name == "never")
        device.recover()
        assert word.view is not None
        word.view[0] = 5
        everything_works(device)
        assert word.view[8] == 0
        device.free(word)


# (fault that keeps the first rung from working, kind of queue, what is reset in turn)
LADDERS = [
    (dict(kind="dequeue-ignored", count=1), "compute", ["AM:0 compute 0", "the compute micro engine"]),
    (dict(kind="mec-dead"), "compute", ["AM:0 compute 0", "the compute micro engine", "the whole card"]),
    (dict(kind="sdma-stuck", engine=0), "copy", ["AM:0 SDMA 0", "the engine of AM:0 SDMA 0"]),
    (dict(kind="sdma-dead", engine=0), "copy", ["AM:0 SDMA 0", "the engine of AM:0 SDMA 0", "the whole card"]),
]


@pytest.mark.parametrize(("fault", "kind", "rungs"), LADDERS)
def test_each_rung_follows_where_the_one_below_fails(boot: Boot, machine: mock.Machine, fault: dict[str, object],
                                                     kind: str, rungs: list[str]) -> None:
    device = boot()
    check = kept(device)
    host, content = filled(device, 10_000, 3, "system")
    addresses = [ring.buffer.address for ring in device.sdma_rings]
    hang(device, kind)
    machine.gpus[0].faults.inject(**fault)       # type: ignore[arg-type]
    done = device.recover()
    assert [step.what for step in done.steps] == rungs
    assert all(step.failed for step in done.steps[:-1]) and not done.steps[-1].failed
    assert done.vram_lost == (rungs[-1] == "the whole card") == ("video memory was lost" in str(done))
    everything_works(device)
    everything_works(device)
    if not done.vram_lost:
        check()
    assert host.view is not None and (host.view == content).all()
    buffer, _ = filled(device, 100_000, 4, "vram")
    device.free(host, buffer)
    assert [ring.name for ring in device.sdma_rings] == ["AM:0 SDMA 0", "AM:0 SDMA 1"] and len(addresses) == 2
    assert not machine.gpus[0].faults.any
    device.close()
    assert device.shutdown_errors == []


def test_buffers_keep_their_addresses_over_a_reset_of_the_card(boot: Boot, machine: mock.Machine) -> None:
    device = boot()
    board, fence = machine.gpus[0], Fence(device)
    buffers = [device.alloc(int(size), kind=kind) for size, kind in  # type: ignore[call-overload]
               zip(np.random.default_rng(1).integers(1, 3_000_000, 20), ["vram", "system"] * 10, strict=True)]
    gone = [buffers.pop(i) for i in (15, 8, 3)]
    device.free(*gone)
    live = {each.address: (each.kind, each.size, list(each.segments)) for each in buffers}
    before = device.require_memory().allocated
    seen: list[int] = []
    device.interrupts.subscribe(1, 1, lambda entry: seen.append(entry.source))
    device.reset()
    assert not device.warm and "reset" in [stage.name for stage in device.boot_stages]
    assert {each.address: (each.kind, each.size, list(each.segments)) for each in buffers} == live
    after = device.require_memory().allocated
    assert (after["vram"], after["system"]) == (before["vram"], before["system"])
    for number, buffer in enumerate(buffers):
        fence.compute(device.compute_rings[0], store(buffer.address, number + 1))
        fence.sdma(device.sdma_rings[0], copy(buffers[0].address, buffer.address, 1))
        if buffer.kind == "system":
            assert buffer.view is not None and buffer.view[0] == number + 1
    everything_works(device)
    device.interrupts.drain()
    for key in ("page_table_entries", "interrupts"):
        assert device.statistics[key] == board.counters[key], key
    device.close()
    assert device.shutdown_errors == [] and [str(note) for note in board.notes] == []


def test_a_fault_is_part_of_the_diagnosis_with_its_buffer(boot: Boot) -> None:
    device = boot()
    gone = device.alloc(4096, name="temporary")
    address = gone.address
    device.free(gone)
    device.sdma_rings[0].submit(words(copy(address, address, 16), copy(address, address, 16)))
    found: list[object] = []

    def told() -> bool:
        found.append(device.diagnose())
        return bool(found[-1].faults)       # type: ignore[attr-defined]
    wait_until(told, 5, "the fault to be told")
    assert f"page fault at {address:#x}" in str(found[-1])
    assert "inside temporary buffer" in str(found[-1]) and "which was freed" in str(found[-1])
    done = device.recover()         # the hub answered with a default page, so the queue has gone on
    assert done.steps == () and done.lost == {}
    device.check()
    everything_works(device)


def test_rings_can_be_named(boot: Boot) -> None:
    """Work that the card went on with after a fault, but that must not count, is given up by name."""
    device = boot()
    done = device.recover([device.sdma_rings[1]])
    assert [step.what for step in done.steps] == ["AM:0 SDMA 1"] and done.lost == {"AM:0 SDMA 1": 0}
    everything_works(device)
    assert device.recover().steps == ()


def test_a_card_that_is_gone_cannot_be_recovered(boot: Boot, machine: mock.Machine,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smu, "RESET_TIMEOUT", 0.1)
    monkeypatch.setattr(smu, "RESPONSE_TIMEOUT", 0.1)
    monkeypatch.setattr(discovery, "READY_TIMEOUT", 0.1)
    device = boot()
    hang(device, "compute")
    machine.gpus[0].faults.inject("card-lost")
    with pytest.raises(BootError, match=r"the card was left running and cannot be reset|stage reset"):
        device.recover()
    assert "closed" in repr(device)
    machine.gpus[0].faults.clear()
    everything_works(boot())


def test_a_fault_in_a_reset_of_the_card_closes_it(boot: Boot, machine: mock.Machine) -> None:
    device = boot()
    machine.gpus[0].faults.inject("firmware-refused", firmware="RS64_MEC", count=1)
    with pytest.raises(Exception, match="RS64_MEC"):
        device.reset()
    assert "closed" in repr(device)
    everything_works(boot())


def test_an_engine_error_is_recovered_many_times(boot: Boot) -> None:
    device = boot()
    for turn in range(6):
        kind = KINDS[turn % 2]
        ring_of(device, kind).submit(words([0xC000FE00, 0] if kind == "compute" else [0xEE]))
        with pytest.raises(GpuFault):
            wait_until(lambda: device.check(), 5, "the error")      # type: ignore[func-returns-value]
        device.recover()
        everything_works(device)


def test_a_queue_that_does_not_store_is_not_taken_for_alive(boot: Boot, machine: mock.Machine) -> None:
    device = boot()
    machine.gpus[0].faults.inject("doorbell-lost", client="sdma", count=1)
    with pytest.raises(WaitTimeout, match="AM:0 SDMA 0: the store of a test"):
        device.sdma_rings[0].test()


def test_hal_resets_are_seen(hal: MockHal) -> None:
    """An SMU that hangs leaves the reset through the bus."""
    with Device.open(hal) as device:
        hal.machine.gpus[0].faults.inject("smu-silent", count=1)
        device.reset()
        everything_works(device)


def test_memory_that_is_lost_needs_a_reset_of_the_card(boot: Boot, machine: mock.Machine) -> None:
    device = boot()
    machine.gpus[0].faults.inject("ecc-error", address=0x4000, fatal=True)
    with pytest.raises(GpuFault, match="reset the card before its results are trusted again"):
        wait_until(lambda: device.check(), 5, "the error")      # type: ignore[func-returns-value]
    done = device.recover()
    assert [step.what for step in done.steps] == ["the whole card"] and done.vram_lost
    everything_works(device)
    assert device.recover().steps == ()
