"""Copies between devices: on two software cards against a NumPy model, and through host memory where cards cannot."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
from fake_backend import FakeBackend
from two_cards import cards, compiled, notes

import hcq
from amdrv.errors import MappingError
from hcq.peer import can_reach

WORDS = 4096
PARTS = 4


@pytest.fixture(scope="module")
def pair() -> Iterator[list[hcq.Device]]:
    with cards() as both:
        yield both


def test_both_directions_at_once_over_both_engines(pair: list[hcq.Device]) -> None:
    one, other = pair
    rng = np.random.default_rng(3)
    data = [rng.integers(0, 256, (1 << 20) + 36, np.uint8) for _ in range(2)]
    a, b = one.alloc(data[0].nbytes).copyin(data[0]), other.alloc(data[1].nbytes).copyin(data[1])
    there, here = other.alloc(a.nbytes), one.alloc(b.nbytes)
    before = [[timeline.submitted for timeline in device._timelines["copy"]] for device in pair]
    hcq.copies([(there, a), (here, b)])
    after = [[timeline.submitted for timeline in device._timelines["copy"]] for device in pair]
    assert [[y - x for x, y in zip(*counts, strict=True)] for counts in zip(before, after, strict=True)] == [[1, 1]] * 2
    assert np.array_equal(there.copyout(), data[0]) and np.array_equal(here.copyout(), data[1])
    assert not notes(one) and not notes(other)


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_work_is_what_numpy_says(pair: list[hcq.Device], seed: int) -> None:
    """Kernels, fills, copies within and between, sets of copies: parts of one buffer a card, no host wait between."""
    random_ = random.Random(seed)
    code = compiled()
    programs = [device.program(code, "add") for device in pair]
    buffers = [device.alloc(4 * WORDS * PARTS) for device in pair]
    model = np.zeros((2, PARTS, WORDS), np.uint32)
    for buffer in buffers:
        buffer.fill(0)

    def part(place: tuple[int, int]) -> hcq.Buffer:
        card, index = place
        return buffers[card][4 * WORDS * index:4 * WORDS * (index + 1)]

    places = [(card, index) for card in range(2) for index in range(PARTS)]
    for _ in range(60):
        what = random_.choice(["kernel", "kernel", "fill", "copy", "copy", "set", "read"])
        chosen = random_.sample(places, 4)
        value = random_.randrange(1 << 20)
        if what == "kernel":
            card, index = chosen[0]
            source = random_.randrange(PARTS)
            programs[card](part((card, index)), part((card, source)), np.uint32(value), grid=WORDS // 64, block=64)
            model[card, index] = model[card, source] + np.uint32(value)
        elif what == "fill":
            part(chosen[0]).fill(value)
            model[chosen[0]] = value
        elif what == "copy":
            part(chosen[0]).copy_from(part(chosen[1]))
            model[chosen[0]] = model[chosen[1]]
        elif what == "set":
            hcq.copies([(part(chosen[0]), part(chosen[1])), (part(chosen[2]), part(chosen[3]))])
            model[chosen[0]], model[chosen[2]] = model[chosen[1]].copy(), model[chosen[3]].copy()
        else:
            assert np.array_equal(part(chosen[0]).copyout().view(np.uint32), model[chosen[0]])
    for place in places:
        assert np.array_equal(part(place).copyout().view(np.uint32), model[place]), place
    assert not notes(pair[0]) and not notes(pair[1])


def test_what_a_set_of_copies_refuses(pair: list[hcq.Device]) -> None:
    one, other = pair
    a, b, c = one.alloc(8192), other.alloc(8192), other.alloc(4096)
    with pytest.raises(hcq.BufferError, match=r"copy of 8192 bytes of AM:0 to a buffer of 4096 of AM:1; take a view"):
        c.copy_from(a)
    with pytest.raises(hcq.BufferError, match=r"overlaps another buffer of the set.*make two sets"):
        hcq.copies([(b[:4096], a[:4096]), (b[4000:8096], a[4096:])])
    with pytest.raises(hcq.BufferError, match="overlaps another buffer of the set"):
        hcq.copies([(b, a), (a, b)])
    hcq.copies([(b[:4096], a[:4096]), (b[4096:], a[:4096])])         # one source twice is fine
    with pytest.raises(hcq.BufferError, match=r"pairs \(destination, source\) of buffers, not \(Buffer, ndarray\)"):
        hcq.copies([(b, np.zeros(3))])      # type: ignore[list-item]
    with other.graph(), pytest.raises(hcq.GraphError, match=r"moves bytes now, and AM:[01] records a graph"):
        hcq.copies([(b, a)])
    c.free()
    with pytest.raises(hcq.UseAfterFreeError):
        c.copy_from(a[:4096])


def test_freed_memory_is_not_given_out_while_a_peer_still_writes(pair: list[hcq.Device]) -> None:
    one, other = pair
    source = one.alloc(4 << 20)
    for value in range(6):
        source.fill(value)
        there = other.alloc(4 << 20)
        there.copy_from(source)
        there.free()
        fresh = other.alloc(4 << 20)            # most likely the same memory
        fresh.fill(0xABAD1DEA)
        assert (fresh.copyout().view(np.uint32) == 0xABAD1DEA).all()


def test_a_card_may_go_while_the_other_stays() -> None:
    with cards() as (one, other):
        a, b = one.alloc(4096), other.alloc(4096).copyin((np.arange(4096) % 251).astype(np.uint8))
        a.copy_from(b)
        other.close()
        assert np.array_equal(a.copyout(), (np.arange(4096) % 251).astype(np.uint8))
        with pytest.raises(hcq.DeviceClosedError):
            b.copy_from(a)
        a.fill(3)
        one.synchronize()
        mapped = one.backend.device.memory.allocated["peer"]        # type: ignore[attr-defined]
        assert mapped == 0 and not notes(one)


def test_cards_that_cannot_reach_each_other_go_through_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    with cards() as (one, other):
        def refuse(region: object) -> None:
            raise MappingError("iommufd refuses to map a BAR")
        for device in (one, other):
            monkeypatch.setattr(device.backend.device.pci, "map_peer", refuse)      # type: ignore[attr-defined]
        assert can_reach(one, other) == "iommufd refuses to map a BAR" and can_reach(one, one) == ""
        data = np.random.default_rng(1).integers(0, 256, 5 << 20, np.uint8)
        a, b = one.alloc(data.nbytes).copyin(data), other.alloc(data.nbytes)
        b.copy_from(a)
        assert np.array_equal(b.copyout(), data)


def test_devices_of_different_makers_go_through_the_host() -> None:
    backends = [FakeBackend(name=f"FAKE:{n}") for n in range(2)]
    one, other = map(hcq.Device, backends)
    try:
        data = np.arange(1000, dtype=np.int32)
        there = other.alloc(4000)
        there.copy_from(one.alloc(4000).copyin(data))
        assert np.array_equal(there.copyout().view(np.int32), data)
        assert "no way to other devices' memory" in can_reach(one, other)
    finally:
        one.close()
        other.close()


@pytest.mark.slow
def test_a_card_that_stands_still_does_not_take_the_other_down() -> None:
    """One card's engines wait for what never comes, and it is closed so: the other, whose engines wait for it, says
    what is missing, is recovered, and works."""
    with cards() as (one, other):
        one.timeout = other.timeout = 0.5
        a, b = one.alloc(1 << 20).fill(1), other.alloc(1 << 20)
        b.copy_from(a)
        other.synchronize()
        hcq.CopyQueue(one).wait(one.signal(), 1).submit()
        b.copy_from(a)
        with pytest.raises(hcq.DeviceTimeout, match=r"AM:1 compute 0: submission \d+ \(arrival of a peer copy\) is"):
            b.copyout()
        with pytest.raises(hcq.DeviceTimeout, match=r"AM:0 copy 1: submission \d+ \(copies of 524288 bytes to AM:1\)"):
            one.close()
        with pytest.raises(hcq.DeviceTimeout):
            other.synchronize()
        assert "work was lost of AM:1 compute 0" in other.recover()
        b.fill(3)
        assert (b.copyout().view(np.uint32) == 3).all() and not notes(other)
