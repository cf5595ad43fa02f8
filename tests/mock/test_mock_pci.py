"""Configuration space and the host bus: sizing, capabilities, resizing, resets, DMA, several cards."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mock
from mock.bus import BusError, HostBus
from mock.machine import parse


def capabilities(board: Any) -> dict[int, int]:
    found, at = {}, board.read_config(0x34, 1)
    while at:
        found[board.read_config(at, 1)] = at
        at = board.read_config(at + 1, 1)
    return found


def extended(board: Any) -> dict[int, int]:
    found, at = {}, 0x100
    while at:
        header = board.read_config(at, 4)
        found[header & 0xFFFF] = at
        at = header >> 20
    return found


def test_identity(card: Any) -> None:
    read = card.board.read_config
    assert read(0, 4) == 0x744C1002 and read(8, 4) == 0x030000C8 and read(0x2C, 4) == 0x0E3B1002
    assert set(capabilities(card.board)) == {0x09, 0x01, 0x10, 0x05}
    assert set(extended(card.board)) == {0x0B, 0x01, 0x15, 0x0F, 0x18}
    link = read(capabilities(card.board)[0x10] + 0x12, 2)
    assert link & 0xF == 4 and link >> 4 & 0x3F == 16


def test_config_accesses_are_aligned(card: Any) -> None:
    assert card.board.read_config(1, 2) == 0xFFFF and card.board.read_config(4096, 4) == 0xFFFFFFFF
    card.board.write_config(0, 3, 0)
    assert len(card.board.notes.of("config-access")) == 3
    card.board.write_config(0, 4, 0)
    assert card.board.read_config(0, 4) == 0x744C1002


@pytest.mark.parametrize("index, size, wide", [(0, 256 << 20, True), (2, 2 << 20, True), (5, 1 << 20, False)])
def test_sizing_by_writing_ones(card: Any, index: int, size: int, wide: bool) -> None:
    board, at = card.board, 0x10 + 4 * index
    before = board.read_config(at, 4), board.read_config(at + 4, 4)
    board.write_config(at, 4, 0xFFFFFFFF)
    mask = board.read_config(at, 4) & ~0xF
    if wide:
        board.write_config(at + 4, 4, 0xFFFFFFFF)
        mask |= board.read_config(at + 4, 4) << 32
    assert (-mask) & ((1 << (64 if wide else 32)) - 1) == size == board.bar_size(index)
    board.write_config(at, 4, before[0])
    if wide:
        board.write_config(at + 4, 4, before[1])
    assert board.read_config(at, 4) == before[0]


def test_resizable_bar(make_card: Callable[..., Any]) -> None:
    card = make_card(vram="512M", bar0="256M")
    board = card.board
    at = extended(board)[0x15]
    assert board.read_config(at + 4, 4) >> 4 & (256 | 512) == 256 | 512
    control = board.read_config(at + 8, 4)
    assert control >> 8 & 0x3F == 8 and control >> 5 & 7 == 1
    board.write_config(at + 8, 4, 9 << 8)
    assert board.bar_size(0) == 256 << 20 and "while memory decode is on" in card.rule("resizable-bar")
    board.write_config(4, 2, 0)
    board.write_config(at + 8, 4, 20 << 8)
    assert board.bar_size(0) == 256 << 20 and "cannot have 1048576 MiB" in card.rule("resizable-bar")
    board.write_config(at + 8, 4, 9 << 8)
    board.write_config(4, 2, 6)
    assert board.bar_size(0) == 512 << 20 == len(board.bar_memory(0)) and board.read_config(at + 8, 4) >> 8 & 0x3F == 9


def test_atomics_and_power_states(card: Any) -> None:
    board, express = card.board, capabilities(card.board)[0x10]
    assert not board.config.atomics_enabled
    board.write_config(express + 0x28, 2, 1 << 6)
    assert board.config.atomics_enabled
    power = capabilities(board)[0x01]
    board.write_config(power + 4, 2, 3)
    assert card.read("RCC_DEV0_EPF0_RCC_CONFIG_MEMSIZE") == 0xFFFFFFFF and not board.bus_master
    board.write_config(power + 4, 2, 0)
    assert card.read("RCC_DEV0_EPF0_RCC_CONFIG_MEMSIZE") == 64


def test_function_level_reset(card: Any) -> None:
    board, express = card.board, capabilities(card.board)[0x10]
    card.write("SCRATCH_REG0", 5)
    board.write_config(express + 8, 2, 1 << 15)
    assert board.read_config(4, 2) == 0 and board.read_config(0x14, 4) == 0
    board.write_config(4, 2, 2)
    assert card.read("SCRATCH_REG0") == 0


def test_secondary_bus_reset_keeps_addresses(card: Any) -> None:
    bars = [card.board.read_config(0x10 + 4 * i, 4) for i in range(6)]
    card.board.write_config(0xA2, 2, 1)
    card.board.reset()
    assert card.board.read_config(4, 2) == 0 and card.board.read_config(0xA2, 2) & 1 == 0
    assert [card.board.read_config(0x10 + 4 * i, 4) for i in range(6)] == bars


def test_an_msi_outside_of_the_interrupt_window_is_a_write(card: Any) -> None:
    memory, bus = card.system(4096)
    card.board.write_config(0xA4, 4, bus & 0xFFFFFFFF)
    card.board.write_config(0xA8, 4, bus >> 32)
    card.board.write_config(0xAC, 2, 0x1234)
    card.board.write_config(0xA2, 2, 1)
    assert not card.board.raise_msi() and memory[:4].view(np.uint32)[0] == 0x1234
    assert "outside the interrupt window" in card.rule("msi")


def test_dma_needs_bus_mastering_and_memory(card: Any) -> None:
    memory, bus = card.system(8192)
    where = card.board.dma(bus + 5, 4, write=True)
    assert where == memory.ctypes.data + 5
    many = card.board.dma_many(np.array([bus, bus + 4096], np.uint64), 16, write=False)
    assert [int(p) for p in many] == [memory.ctypes.data, memory.ctypes.data + 4096]
    with pytest.raises(BusError, match="nothing is attached to the bus there"):
        card.board.dma(bus + 8190, 4, write=True)
    with pytest.raises(BusError, match="nothing is attached"):
        card.board.dma_many(np.array([bus, bus + 8192], np.uint64), 4, write=True)
    card.board.write_config(4, 2, 2)
    with pytest.raises(BusError, match="the card is not a bus master"):
        card.board.dma(bus, 4, write=False)
    assert "while bus mastering is off" in card.rule("bus-master")
    card.machine.bus.detach(bus)
    card.board.write_config(4, 2, 6)
    with pytest.raises(BusError):
        card.board.dma(bus, 4, write=True)


def test_attach_is_checked() -> None:
    bus = HostBus()
    for address, size in ((1, 4096), (4096, 100), (4096, 0)):
        with pytest.raises(ValueError, match=r"address and size must be positive multiples of 4096"):
            bus.attach(address, size)
    with pytest.raises(ValueError, match="detach of 0x5000: nothing was attached there"):
        bus.detach(0x5000)
    first, second = bus.attach(0x10000, 8192), bus.attach(0x10000, 4096)
    assert second >= first + 8192 + 4096 and first >= 1 << 32 and second < 1 << 44
    with pytest.raises(BusError):
        bus.translate(first + 8192, 1)


def test_cards_reach_each_other() -> None:
    with mock.Machine([mock.Gpu("gfx1100", vram="64M")] * 2) as machine:
        one, two = machine.gpus
        assert [one.address, two.address] == ["0000:03:00.0", "0000:04:00.0"]
        for board in machine.gpus:
            board.write_config(4, 2, 6)
        base = two.read_config(0x14, 4) << 32 | two.read_config(0x10, 4) & ~0xF
        where = one.dma(base + 0x1234, 4, write=True)
        assert where == two.vram.base + 0x1234 and machine.bus.board_at(base) is two
        ctypes.memmove(where, b"abcd", 4)
        assert two.vram.view[0x1234:0x1238].tobytes() == b"abcd"
        doorbells = two.read_config(0x1C, 4) << 32 | two.read_config(0x18, 4) & ~0xF
        with pytest.raises(BusError, match="which is not memory"):
            one.dma(doorbells, 4, write=True)
        two.write_config(4, 2, 0)
        with pytest.raises(BusError):
            one.dma(base, 4, write=True)


# ---- AMDRV_MOCK


def test_parse() -> None:
    two = parse("gfx1100:vram=128M,count=2,harvest=0x8; gfx1100:vram=256M,strict=-hdp,-poison,bar0=256M")
    assert [gpu.vram_bytes >> 20 for gpu in two] == [128, 128, 256]
    assert two[0].compute_units == 72 and two[2].compute_units == 96
    assert not two[2].is_strict("hdp") and two[0].is_strict("hdp")
    some = parse("gfx1100:harvest=0.1:0x3+5.0:0x8")[0]
    assert some.harvested_wgps(0, 1) == 3 and some.harvested_wgps(5, 0) == 8 and some.compute_units == 90


@pytest.mark.parametrize("text, message", [
    ("gfx1234", "the mock has no board 'gfx1234'; it has gfx1100"),
    ("gfx1100:vram=lots", "size 'lots' must be a number of bytes"),
    ("gfx1100:vram=1M", "vram='1M': must be a whole number of MiB, at least 64M"),
    ("gfx1100:colour=red", "'colour=red' is not KEY=VALUE with a key of vram, bar0, count, harvest, strict"),
    ("gfx1100:vram=64M,vram=1G", "vram is given twice: '64M' and '1G'"),
    ("gfx1100:count=0", "count='0' must be a number from 1 to 16"),
    ("gfx1100:bar0=100M", "bar0='100M': must be a power of two"),
    ("gfx1100:harvest=0x10", "harvest mask 0x10 for shader engine 0, array 0"),
    ("gfx1100:harvest=0xf", "harvest leaves no workgroup processor"),
    ("gfx1100:harvest=9.0:1", "harvest of shader engine 9, array 0"),
    ("gfx1100:harvest=x", "harvest='x' must be a mask such as 0x8, or SE.SA:MASK"),
    ("gfx1100:strict=hdp", "strict='hdp': must name rules to switch off, each with a minus"),
    ("gfx1100:strict=-colour", "no rule 'colour'; there are hdp, wc, tlb, gl2")])
def test_bad_environment(monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    monkeypatch.setenv("AMDRV_MOCK", text)
    with pytest.raises(ValueError, match=r"AMDRV_MOCK=.*an example is gfx1100:vram=1G,count=2") as error:
        mock.Machine.from_environment()
    assert message in str(error.value)


def test_environment_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AMDRV_MOCK", raising=False)
    with mock.Machine.from_environment() as machine:
        assert [board.vram.size for board in machine.gpus] == [1 << 30]
