"""The plain interface: BARs, widths, decode, doorbells, indirect access, HDP, readiness, banks, engines, faults."""

from __future__ import annotations

import gc
import struct
import threading
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest

import mock
from mock.block import Block, on_read, on_write
from mock.engine import Aborted
from mock.faults import KINDS
from mock.registers import Registers

ONES = 0xFFFFFFFF


def test_sizes_and_what_is_memory(card: Any) -> None:
    board = card.board
    assert [board.bar_size(i) for i in range(6)] == [256 << 20, 0, 2 << 20, 0, 256, 1 << 20]
    assert len(board.bar_memory(0)) == 64 << 20
    with pytest.raises(ValueError, match="BAR2 is not memory: its accesses have effects"):
        board.bar_memory(2)
    with pytest.raises(ValueError, match=r"bar_memory\(0\) of 0x2000 bytes at 0x3fff000: the BAR has 0x4000000"):
        board.bar_memory(0, (64 << 20) - 4096, 8192)


@pytest.mark.parametrize("index, offset, width, why", [
    (5, 2, 4, "aligned"), (5, 0, 2, "aligned"), (5, 0, 8, "aligned"), (5, 1 << 20, 4, "beyond"), (2, 2, 4, "aligned"),
    (2, 0, 1, "aligned"), (1, 0, 4, "does not decode"), (0, 128 << 20, 4, "the card has 0x4000000 bytes")])
def test_a_wrong_access_has_no_effect(card: Any, index: int, offset: int, width: int, why: str) -> None:
    assert card.board.read_bar(index, offset, width) == (1 << 8 * width) - 1
    card.board.write_bar(index, offset, width, 0)
    notes = card.board.notes.of("bar-access")
    assert len(notes) == 2 and all(why in note.text for note in notes), notes


def test_a_write_has_the_bits_of_its_width(card: Any) -> None:
    """What does not fit is not there, as on a bus: a driver's -1 is all ones."""
    card.board.write_bar(5, 4 * card.board.regs.dword("SCRATCH_REG0"), 4, -1)
    assert card.read("SCRATCH_REG0") == ONES
    for value, found in ((-2, 0xFFFE), (0x12345, 0x2345)):
        card.board.write_bar(0, 0x1000, 2, value)
        assert card.board.read_bar(0, 0x1000, 2) == found


def test_decode_follows_the_command_register(card: Any) -> None:
    assert card.read("RCC_DEV0_EPF0_RCC_CONFIG_MEMSIZE") == 64
    card.board.write_config(4, 2, 0)
    assert card.read("RCC_DEV0_EPF0_RCC_CONFIG_MEMSIZE") == ONES
    card.write("SCRATCH_REG0", 5)
    assert card.board.read_bar(0, 0, 8) == (1 << 64) - 1
    card.board.write_config(4, 2, 2)
    assert card.read("SCRATCH_REG0") == 0


def test_registers_without_a_name_are_noted_once(card: Any) -> None:
    card.board.write_bar(5, 0xFFFF0, 4, 1)
    card.board.write_bar(5, 0xFFFF0, 4, 2)
    assert card.board.read_bar(5, 0xFFFF0, 4) == 2
    assert [note.text for note in card.board.notes.of("unnamed-register")] == [
        "write of dword 0x3fffc (byte 0xffff0), which no IP of this card has"]


def test_reset_values_are_amds(card: Any) -> None:
    register = card.names.find("CP_HQD_PERSISTENT_STATE")[0]
    assert register.default and card.read("CP_HQD_PERSISTENT_STATE") == register.default
    card.write("SCRATCH_REG0", 1)
    card.board.reset()
    assert card.board.regs["SCRATCH_REG0"] == 0 and card.board.regs["GRBM_GFX_INDEX"] == 0xE0000000


def test_indirect_access_reaches_the_same_registers(card: Any) -> None:
    card.write("SCRATCH_REG0", 0xABCD)
    offset = 4 * card.dword("SCRATCH_REG0")
    for pair in ("BIF_BX_PF0_RSMU_", "BIF_BX0_PCIE_", "BIF_BX_PF0_MM_"):
        index, data = pair + "INDEX", pair + "DATA"
        card.write(index, offset)
        assert card.read(data) == 0xABCD, index
        card.write(data, 0xABCD)
    assert card.read("SCRATCH_REG0") == 0xABCD


def test_mm_index_reaches_all_of_video_memory(make_card: Callable[..., Any]) -> None:
    card = make_card(vram="512M", bar0="256M")
    offset = 300 << 20
    card.write("BIF_BX_PF0_MM_INDEX", 1 << 31 | offset)
    card.write("BIF_BX_PF0_MM_DATA", 0x11223344)
    assert card.read("BIF_BX_PF0_MM_DATA") == 0x11223344
    assert card.board.vram.view[offset:offset + 4].tobytes() == b"\x44\x33\x22\x11"
    card.write("BIF_BX_PF0_MM_INDEX_HI", 1)
    assert card.read("BIF_BX_PF0_MM_DATA") == ONES
    card.write("BIF_BX_PF0_MM_DATA", 0)
    assert "512M" not in card.rule("mm-index") and "0x20000000 bytes" in card.rule("mm-index")


@pytest.mark.parametrize("how", ["remapped", "found", "found again", "bif", "request"])
def test_hdp_flush(card: Any, how: str) -> None:
    card.memory(0x1000, 4, np.uint32)[0] = 42
    stored = lambda: struct.unpack("<I", card.board.vram.view[0x1000:0x1004].tobytes())[0]
    card.flush()                                                # the remapped page is not there yet
    assert stored() != 42
    if how == "remapped":
        card.write("BIF_BX0_REMAP_HDP_MEM_FLUSH_CNTL", 0x7F000)
        assert stored() != 42
        card.flush()
    elif how.startswith("found"):                               # where the power-on value says
        place = card.read("BIF_BX0_REMAP_HDP_MEM_FLUSH_CNTL")
        if how == "found again":
            for value in (place, 0x7F000, place):
                card.write("BIF_BX0_REMAP_HDP_MEM_FLUSH_CNTL", value)
        assert place == 4 * card.dword("BIF_BX_PF0_HDP_MEM_COHERENCY_FLUSH_CNTL") and stored() != 42
        card.board.write_bar(5, place, 4, 0)
    elif how == "bif":
        card.write("BIF_BX_PF0_HDP_MEM_COHERENCY_FLUSH_CNTL", 1)
    else:
        card.write("BIF_BX_PF0_GPU_HDP_FLUSH_REQ", 4)
        assert card.read("BIF_BX_PF0_GPU_HDP_FLUSH_DONE") == 4
    assert stored() == 42


def test_the_firmware_is_waited_for_after_a_reset(card: Any) -> None:
    table = (64 << 20) - (64 << 10)
    signature = bytes(card.memory(table, 4))
    card.board.reset()
    card.board.write_config(4, 2, 6)
    assert card.read("RCC_DEV0_EPF0_RCC_CONFIG_MEMSIZE") == ONES
    assert bytes(card.memory(table, 4)) != signature
    for _ in range(3):
        card.read("MP0_SMN_C2PMSG_33")
    assert card.read("MP0_SMN_C2PMSG_33") == 1 << 31
    assert card.read("RCC_DEV0_EPF0_RCC_CONFIG_MEMSIZE") == 64 and bytes(card.memory(table, 4)) == signature
    card.board.faults.inject("firmware-never-ready")
    card.board.reset()
    card.board.write_config(4, 2, 6)
    assert not any(card.read("MP0_SMN_C2PMSG_33") for _ in range(10))


class Listener:
    def __init__(self) -> None:
        self.heard: list[tuple[int, int, int]] = []

    def doorbell(self, offset: int, value: int, width: int) -> None:
        self.heard.append((offset, value, width))


S2A = ("S2A_DOORBELL_ENTRY_0_CTRL", 0x30000007), ("S2A_DOORBELL_ENTRY_2_CTRL", 0x3028001D | 0x200 << 7)
"""As Linux writes them (Linux 6.1, nbio_v4_3.c): compute by default, SDMA's 20 doorbells from 0x200."""


def test_doorbells_by_their_routes(card: Any) -> None:
    board = card.board
    board.mec, board.sdma = cp, sdma = Listener(), Listener()
    card.write("RCC_DEV0_EPF0_RCC_DOORBELL_APER_EN", 1)
    for name, value in S2A:
        card.write(name, value)
    board.write_bar(2, 0x10 * 4, 8, 0x1_0000_0002)
    board.write_bar(2, 0x200 * 4, 8, 5)
    board.write_bar(2, 0x227 * 4, 4, 6)
    board.write_bar(2, 0x228 * 4, 4, 7)
    assert cp.heard == [(0x40, 0x1_0000_0002, 8), (0x8A0, 7, 4)] and sdma.heard == [(0x800, 5, 8), (0x89C, 6, 4)]
    assert board.read_bar(2, 0x40, 8) == 0x1_0000_0002 and board.read_bar(2, 0x44, 4) == 1


@pytest.mark.parametrize("without", ["aperture", "S2A_DOORBELL_ENTRY_0_CTRL", "S2A_DOORBELL_ENTRY_2_CTRL", "awid",
                                     "range"])
def test_doorbells_that_lead_nowhere(card: Any, without: str) -> None:
    board = card.board
    board.mec, board.sdma = cp, sdma = Listener(), Listener()
    card.write("RCC_DEV0_EPF0_RCC_DOORBELL_APER_EN", int(without != "aperture"))
    for name, value in S2A:
        if name != without:
            change = {"awid": 1 << 1, "range": 0x100 << 7}.get(without, 0) if "ENTRY_2" in name else 0
            card.write(name, value ^ change)
    board.write_bar(2, 0x40, 8, 1)
    board.write_bar(2, 0x800, 8, 1)
    assert len(cp.heard) == {"aperture": 0, "S2A_DOORBELL_ENTRY_0_CTRL": 0, "S2A_DOORBELL_ENTRY_2_CTRL": 2,
                             "awid": 1, "range": 2}[without]
    assert len(sdma.heard) == int(without == "S2A_DOORBELL_ENTRY_0_CTRL")


def test_clock_runs_at_100_mhz(card: Any) -> None:
    first, board = card.board.clock(), card.board.clock()
    low = card.read("GOLDEN_TSC_COUNT_LOWER")
    assert first <= board <= card.read("GOLDEN_TSC_COUNT_UPPER") << 32 | low <= card.board.clock()


# ---- the frame inside


class Banked(Block):
    banked: ClassVar = {"queue": ("CP_HQD_ACTIVE",), "vmid": ("SH_MEM_BASES",), "sa": ("SPI_WCL_PIPE_PERCENT_GFX",)}
    reset_values: ClassVar = {"SH_MEM_BASES": 7}

    def __init__(self, board: Any) -> None:
        super().__init__(board)
        self.seen: list[Any] = []

    @on_write("CP_HQD_ACTIVE", "SPI_WCL_PIPE_PERCENT_GFX")
    def write(self, value: int, name: str, bank: Any) -> None:
        self.seen.append((value, name, bank))

    @on_read("CP_STAT")
    def stat(self, name: str) -> int:
        return len(name)


def registers(notes: list[str]) -> tuple[Registers, Banked]:
    regs = Registers("gfx1100", 1 << 18, (2, 2, 4), lambda rule, text: notes.append(text))
    block = Banked(None)
    regs.add_block(block)
    regs.reset()
    return regs, block


def test_banked_registers() -> None:
    regs, block = registers([])
    active, bases = regs.dword("CP_HQD_ACTIVE"), regs.dword("SH_MEM_BASES")
    regs.selection = regs.selection._replace(me=1, pipe=2, queue=3, vmid=4)
    regs.write(active, 1)
    regs.write(bases, 99)
    assert regs.read(active) == 1 and regs["CP_HQD_ACTIVE", (1, 2, 3)] == 1 and regs["CP_HQD_ACTIVE", (1, 2, 0)] == 0
    assert block.seen == [(1, "CP_HQD_ACTIVE", (1, 2, 3))]
    regs.selection = regs.selection._replace(queue=0, vmid=0)
    assert regs.read(active) == 0 and regs.read(bases) == 7 and regs["SH_MEM_BASES", 4] == 99
    assert regs.read(regs.dword("CP_STAT")) == len("CP_STAT")


def test_a_broadcast_write_reaches_every_array() -> None:
    regs, block = registers([])
    dword = regs.dword("SPI_WCL_PIPE_PERCENT_GFX")
    regs.write(dword, 3)
    assert [bank for _, _, bank in block.seen] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    regs.selection = regs.selection._replace(se=1, sa=0)
    regs.write(dword, 4)
    regs.selection = regs.selection._replace(sa=1)
    assert regs.read(dword) == 3 and regs["SPI_WCL_PIPE_PERCENT_GFX", (1, 0)] == 4
    with pytest.raises(KeyError, match="SCRATCH_REG0 is not banked"):
        regs["SCRATCH_REG0", 1]
    with pytest.raises(KeyError, match="no IP of this architecture has a register named 'NOPE'"):
        regs["NOPE"]


def test_selection_registers(card: Any) -> None:
    card.write("GRBM_GFX_CNTL", MEID=1, PIPEID=2, QUEUEID=3, VMID=8)
    card.write("GRBM_GFX_INDEX", SE_INDEX=4, SA_INDEX=1, INSTANCE_BROADCAST_WRITES=1)
    assert card.board.regs.selection == (1, 2, 3, 8, 4, 1, None)
    card.write("GRBM_GFX_INDEX", 0xE0000000)
    assert card.board.regs.selection[4:] == (None, None, None)


def test_a_bare_polling_loop_lets_engines_move(card: Any) -> None:
    def work() -> None:
        for step in range(50):
            card.board.engine("test").check()
            card.board.regs["SCRATCH_REG0"] = step + 1
    card.board.engine("test").post(work)
    polls = 0
    while card.read("SCRATCH_REG0") != 50:
        polls += 1
        assert polls < 1_000_000


def test_what_an_engine_raises_is_not_lost(card: Any) -> None:
    engine = card.board.engine("test")
    told: list[Any] = []
    engine.on_failure = told.append
    engine.post(lambda: 1 // 0)
    assert engine.wait_idle()
    assert isinstance(engine.failure, ZeroDivisionError) and told == [engine.failure]
    assert "test: a job raised ZeroDivisionError" in card.rule("engine-failed")
    engine.post(told.append, 5)
    assert engine.wait_idle() and told[1] == 5


def test_reset_aborts_engines(card: Any) -> None:
    engine, started, ended = card.board.engine("test"), threading.Event(), threading.Event()

    def spin() -> None:
        started.set()
        try:
            while True:
                engine.check()
        except Aborted:
            ended.set()
            raise
    engine.post(spin)
    engine.post(card.board.regs.__setitem__, "SCRATCH_REG0", 7)
    started.wait(10)
    card.board.reset()
    assert ended.wait(10) and engine.wait_idle()
    assert card.board.regs["SCRATCH_REG0"] == 0 and engine.failure is None


def test_faults_are_named(card: Any) -> None:
    with pytest.raises(ValueError, match=r"no fault 'nope'; there are .*bad-packet, card-lost, "):
        card.board.faults.inject("nope")
    with pytest.raises(ValueError, match=r"fault 'smu-busy' has no setting colour; its settings: message"):
        card.board.faults.inject("smu-busy", colour=1)
    assert {"card-lost", "lost-interrupt", "firmware-refused", "psp-never-ready", "smu-silent"} <= set(KINDS)


def test_a_card_that_left_the_bus(card: Any) -> None:
    card.board.faults.inject("card-lost")
    assert card.read("RCC_DEV0_EPF0_RCC_CONFIG_MEMSIZE") == ONES and card.board.read_config(0, 4) == ONES
    card.write("SCRATCH_REG0", 1)
    assert card.board.read_bar(0, 0, 4) == ONES and not card.board.raise_msi()
    card.board.faults.clear()
    assert card.board.read_config(0, 4) == 0x744C1002 and card.read("SCRATCH_REG0") == 0


def test_memory_outlives_a_job_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = mock.Machine([mock.Gpu("gfx1100", vram="64M")])
    board, started, held = machine.gpus[0], threading.Event(), threading.Event()
    board.engine("test").post(started.set)
    board.engine("test").post(held.wait)
    assert started.wait(10)
    while board.engine("test").idle or board.engine("test")._jobs:
        pass
    real, thread = threading.Thread.join, board.engine("test")._thread
    assert thread is not None
    monkeypatch.setattr(threading.Thread, "join", lambda self, timeout=None: real(self, 0.01))
    machine.close()
    assert board.vram.view.size == 64 << 20 and "does not end" in board.notes.of("engine-failed")[-1].text
    held.set()
    real(thread, 10)


def test_closing_ends_threads_and_gives_memory_back() -> None:
    before, boards = set(threading.enumerate()), []
    for _ in range(3):
        machine = mock.Machine([mock.Gpu("gfx1100", vram="64M")] * 2)
        for board in machine.gpus:
            boards.append(weakref.ref(board))
            board.engine("test").post(lambda: None)
            board.bar_memory(0, 0, 4096)
            assert board.engine("test").wait_idle()
        machine.close()
        machine.close()
        del board, machine
    gc.collect()
    assert set(threading.enumerate()) <= before
    assert [board() for board in boards] == [None] * 6


def test_frame_buffer_access_can_be_switched_off(card: Any) -> None:
    card.board.write_bar(0, 64, 4, 5)
    assert card.board.read_bar(0, 64, 4) == 5
    card.write("BIF_BX0_BIF_FB_EN", 0)
    card.board.write_bar(0, 64, 4, 6)
    assert card.board.read_bar(0, 64, 4) == ONES
    card.write("BIF_BX0_BIF_FB_EN", 3)
    assert card.board.read_bar(0, 64, 4) == 5
