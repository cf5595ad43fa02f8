"""Several cards on one bus: each reaches the others' memory at real bus addresses, with engines and interrupts each."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from stranger import (
    VECTOR_ADD,
    Stranger,
    acquire,
    dispatch,
    machine_of,
    release,
    sdma_copy,
    sdma_fence,
    sdma_trap,
    write_data,
)

import mock
from amdrv.device import Device
from amdrv.hal.mock import MockHal

CARDS = 4
SYSTEM, UNCACHED = 2, 3 << 48
PEER = 1 << 42                  # where a driver maps the others' memory


@pytest.fixture(scope="module")
def machine() -> Iterator[mock.Machine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AMDRV_MOCK", f"gfx1100:vram=64M,count={CARDS}")
        made = mock.Machine.from_environment()
    with made:
        yield made


def bar0(board: Any) -> int:
    """The bus address of a card's video memory, as its configuration space says."""
    return int(board.read_config(0x10, 4) & ~0xF | board.read_config(0x14, 4) << 32)


def address(view: np.ndarray) -> int:
    return int(view.ctypes.data)


@pytest.fixture(scope="module")
def drivers(machine: mock.Machine) -> list[Stranger]:
    """A driver on each card, that maps everybody's share; each test has a signal's slot of its own."""
    return connected(machine)


def connected(machine: mock.Machine) -> list[Stranger]:
    found = [Stranger(board, machine.bus).boot() for board in machine.gpus]
    for driver in found:
        driver.share = driver.vram(64 << 10)        # type: ignore[attr-defined]
    for driver in found:
        for number, other in enumerate(found):
            flags = UNCACHED | (SYSTEM if other is not driver else 0)
            base = bar0(other.board) if other is not driver else 0
            driver.map(PEER + (number << 32), base + other.share, 64 << 10, flags)      # type: ignore[attr-defined]
    return found


def test_cards_are_apart(machine: mock.Machine) -> None:
    """Addresses of their own, no window over another's, and nothing of one in another."""
    boards = machine.gpus
    assert [board.address for board in boards] == [f"0000:{3 + n:02x}:00.0" for n in range(CARDS)]
    for board in boards:
        board.write_config(4, 2, 6)
    windows = sorted((bus, bus + size) for board in boards for _index, bus, size in board.decoded_bars())
    assert all(end <= start for (_, end), (start, _) in pairwise(windows))
    boards[1].write_bar(5, 4 * 0x100, 4, 5)
    assert boards[0].read_bar(5, 4 * 0x100, 4) == 0
    for board in boards:
        assert machine.bus.board_at(bar0(board)) is board
        assert machine.bus.translate(bar0(board) + 0x1234, 4) == board.vram.base + 0x1234


def test_copies_in_both_directions(drivers: list[Stranger]) -> None:
    """Every engine pushes to and pulls from every other card."""
    rng = np.random.default_rng(2)
    for driver in drivers:
        driver.entries()
    for me, driver in enumerate(drivers):
        for number, other in enumerate(drivers):
            data = rng.integers(0, 256, 8192, np.uint8).tobytes()
            driver.store(driver.share, data)        # type: ignore[attr-defined]
            other.store(other.share + 8192 * (1 + me), data[::-1])      # type: ignore[attr-defined]
            other.flush_hdp()
            mine, its = PEER + (me << 32), PEER + (number << 32)
            value = 1 + number
            driver.copy.put(sdma_copy(mine, its + 40960, 8192) + sdma_copy(its + 8192 * (1 + me), mine + 49152, 8192)
                            + sdma_fence(driver.signal_at(0), value) + sdma_trap())
            driver.copy.ring()
            driver.done(0, value)
            assert other.load(other.share + 40960, 8192) == data        # type: ignore[attr-defined]
            assert driver.load(driver.share + 49152, 8192) == data[::-1]        # type: ignore[attr-defined]
    for driver in drivers:
        found: list[tuple[int, int]] = []
        driver._until(lambda driver=driver, found=found: found.extend(driver.entries()) or len(found) == CARDS)
        assert driver.messages >= 1


def test_a_kernel_computes_with_two_other_cards_memory(drivers: list[Stranger]) -> None:
    for me, driver in enumerate(drivers):
        a, b = drivers[(me + 1) % CARDS], drivers[(me + 2) % CARDS]
        a.store(a.share, np.arange(256, dtype=np.float32).tobytes())        # type: ignore[attr-defined]
        b.store(b.share + 4096, np.full(256, me, np.float32).tobytes())     # type: ignore[attr-defined]
        a.flush_hdp()
        b.flush_hdp()
        code, arguments = driver.host(4096), driver.host(4096).view(np.uint64)
        code[:4 * len(VECTOR_ADD)].view(np.uint32)[:] = VECTOR_ADD
        places = [PEER + (drivers.index(card) << 32) for card in (a, b, driver)]
        arguments[:3] = places[0], places[1] + 4096, places[2] + 8192
        driver.compute.put(acquire() + dispatch(driver, address(code), address(arguments), 4, 64)
                           + release(driver.signal_at(1), 3, interrupt=True))
        driver.compute.ring()
        driver.done(1, 3)
        found = np.frombuffer(driver.load(driver.share + 8192, 1024), np.float32)       # type: ignore[attr-defined]
        assert np.array_equal(found, np.arange(256) + np.float32(me))


def test_engines_of_all_cards_at_once(drivers: list[Stranger]) -> None:
    """A ring of cards: each waits for its neighbour's word in its own memory and passes it on; then all round again."""
    rounds = 20
    for me, driver in enumerate(drivers):
        following = (me + 1) % CARDS
        words: list[int] = []
        for turn in range(1, rounds + 1):
            wanted = turn if me else turn - 1
            words += [3 << 30 | 5 << 16 | 0x3C << 8, 5 | 1 << 4, (PEER + (me << 32)) & 0xFFFFFFFF,
                      PEER + (me << 32) >> 32, wanted, 0xFFFFFFFF, 4]
            words += write_data(PEER + (following << 32), turn)
        driver.store(driver.share, bytes(4))        # type: ignore[attr-defined]
        driver.flush_hdp()
        driver.compute.put(words + release(driver.signal_at(2), 1))
    for driver in drivers:
        driver.compute.ring()
    for driver in drivers:
        driver.done(2, 1)
    for driver in drivers:
        assert driver.load(driver.share, 4) == rounds.to_bytes(4, "little")     # type: ignore[attr-defined]


def test_a_card_that_stops_decoding_is_gone_for_its_peers() -> None:
    with machine_of("gfx1100:vram=64M,count=2") as machine:
        gone(*connected(machine))


def gone(one: Stranger, other: Stranger) -> None:
    other.board.write_config(4, 2, 4)
    one.compute.put(write_data(PEER + (1 << 32), 1))
    one.compute.ring()
    one._until(lambda: one.board.notes.of("queue-hang"))
    assert "nothing is attached to the bus there" in str(one.board.notes)


def test_our_driver_copies_between_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same through amdrv: four devices, each maps the others' BAR0 and copies both ways."""
    monkeypatch.setenv("AMDRV_MOCK", f"gfx1100:vram=128M,count={CARDS}")
    machine = mock.Machine.from_environment()
    hal = MockHal(machine)
    devices = [Device.open(hal, index=n) for n in range(CARDS)]
    try:
        buffers = [device.alloc(1 << 20, contiguous=True) for device in devices]
        signals = [device.alloc(4096, kind="system") for device in devices]
        peers = {(me, other): devices[me].map(devices[me].pci.map_peer(devices[other].pci.bar(0)))
                 for me in range(CARDS) for other in range(CARDS) if me != other}
        for n, buffer in enumerate(buffers):
            assert buffer.view is not None
            buffer.view[:] = n
            buffer.view[512 << 10:] = 100 + n
            devices[n].flush_hdp()
        for turn, step in enumerate((1, 2, 3), 1):
            for me, device in enumerate(devices):
                other = (me + step) % CARDS
                theirs = peers[me, other].address + buffers[other].segments[0][0]
                push, pull = 4096 * (4 * turn + me), (512 << 10) + 4096 * (4 * turn + me)
                device.sdma_rings[0].submit(np.array(
                    sdma_copy(buffers[me].address, theirs + push, 4096)
                    + sdma_copy(theirs + (512 << 10), buffers[me].address + pull, 4096)
                    + sdma_fence(signals[me].address, turn), np.uint32))
            for device, signal in zip(devices, signals, strict=True):
                assert signal.view is not None
                while int(signal.view[:4].view(np.uint32)[0]) != turn:
                    device.check()
            for me in range(CARDS):
                other = (me + step) % CARDS
                mine, its = buffers[me].view, buffers[other].view
                assert mine is not None and its is not None
                at = 4096 * (4 * turn + me)
                assert (its[at:at + 4096] == me).all()
                assert (mine[(512 << 10) + at:(512 << 10) + at + 4096] == 100 + other).all()
        assert all(board.counters["copied_bytes"] == 6 * 4096 for board in machine.gpus)
    finally:
        for device in devices:
            device.close()
        machine.close()


def test_interrupts_are_each_cards_own(drivers: list[Stranger]) -> None:
    threads = set()

    def note(_vector: int) -> None:
        threads.add(threading.current_thread().name)
    for driver in drivers:
        driver.entries()                # re-armed
    drivers[2].board.on_msi(note)
    before = [driver.messages for driver in drivers]
    drivers[2].compute.put(release(drivers[2].signal_at(4), 1, interrupt=True))
    drivers[2].compute.ring()
    drivers[2].done(4, 1)
    drivers[2]._until(lambda: drivers[2].messages > before[2])
    assert [driver.messages - b for driver, b in zip(drivers, before, strict=True)] == [0, 0, 1, 0]
    assert len(threads) == 1 and drivers[2].board.address in threads.pop()


def test_machines_of_different_cards() -> None:
    with machine_of("gfx1100:vram=64M;gfx1100:vram=128M,harvest=0x8") as machine:
        first, second = (Stranger(board, machine.bus) for board in machine.gpus)
        assert first.vram_size == 64 << 20 and second.vram_size == 128 << 20
        assert second.read("CC_GC_SHADER_ARRAY_CONFIG") != first.read("CC_GC_SHADER_ARRAY_CONFIG")
