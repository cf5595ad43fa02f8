"""Swizzled surfaces, and every packet that the copy engines' header has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_board import RawBoard, Tables
from sdma_rig import SIGNAL, SOURCE, TARGET, Queue, fence, lohi, words

from amdrv.facts import sdma6
from mock.machine import Gpu, Machine
from mock.sdma_packets import SdmaExecutor
from mock.swizzle import BLOCK_BITS, EQUATIONS, MODES_2D, MODES_3D, Surface, SwizzleError, _block

ALL = [(mode, 1) for mode in MODES_2D] + [(mode, 2) for mode in MODES_3D]
MESA = Path.home() / ".cache/amdrv/sources/mesa/src/amd/addrlib/src/gfx11/gfx11SwizzlePattern.h"


@pytest.fixture
def queue(raw: RawBoard, tables: Tables) -> Queue:
    return Queue(raw, tables)


class TestEquations:
    @pytest.mark.parametrize("log2", range(5))
    @pytest.mark.parametrize(("mode", "dimension"), ALL)
    def test_a_block_is_filled_exactly(self, mode: int, dimension: int, log2: int) -> None:
        """Elements of a surface of 2 by 2 (by 2) blocks have places of their own and leave no hole."""
        pattern = (MODES_3D if dimension == 2 else MODES_2D)[mode]
        w, h, d = (1 << bits for bits in _block(pattern, log2))
        assert w * h * d << log2 == 1 << BLOCK_BITS[pattern.split("_")[0]]
        surface = Surface(0, log2, 2 * w, 2 * h, mode, dimension)
        depth = 2 * d if d > 1 else 3
        where = surface.at(np.arange(2 * w), np.arange(2 * h)[:, None], np.arange(depth)[:, None, None]).ravel()
        assert np.array_equal(np.sort(where), np.arange(4 * w * h * depth, dtype=np.uint64) << np.uint64(log2))

    def test_a_micro_tile_by_hand(self) -> None:
        """256B_D of dwords is 8 by 8, x and y bits in turns."""
        surface = Surface(0x1000, 2, 8, 8, 2)
        for x, y in ((0, 0), (1, 0), (0, 1), (5, 6), (7, 7)):
            turns = sum((x >> i & 1) << 2 * i | (y >> i & 1) << 2 * i + 1 for i in range(3))
            assert surface.at(np.array([x]), np.array([y]), np.array([0]))[0] == 0x1000 + 4 * turns

    def test_a_bank_is_chosen_by_the_address(self) -> None:
        plain, other = Surface(0x40000, 2, 128, 128, 27), Surface(0x40000 | 0x500, 2, 128, 128, 27)
        x, y, z = np.arange(128), np.arange(128)[:, None], np.array([0])
        assert np.array_equal(plain.at(x, y, z) ^ np.uint64(0x500), other.at(x, y, z))

    @pytest.mark.parametrize("mode", [1, 4, 5, 12, 25])
    def test_modes_that_are_none(self, mode: int) -> None:
        with pytest.raises(SwizzleError, match=f"swizzle mode {mode} is none of gfx11's for 2 dimensions"):
            Surface(0, 2, 8, 8, mode)

    @pytest.mark.skipif(not MESA.exists(), reason="Mesa's sources are not here")
    def test_equations_are_mesas(self) -> None:
        """Read again from the source, by the comments that name pipes and packers."""
        text = MESA.read_text()

        def rows(name: str) -> list[list[str]]:
            body = text.split(f"{name}[]")[1].split("};")[0]
            return [re.findall(r"[XYZS0-9^]+", line.split("{")[1].split("}")[0]) for line in body.splitlines() if "{" in
                    line and "}" in line]
        nibbles = [rows(f"GFX11_SW_PATTERN_NIBBLE{n}") for n in ("01", "2", "3", "4")]
        known = {"ZR": "ZR_X_1xaa", "S": "S3", "S_X": "S3_X", "S_T": "S3_T", "ZR_X": "ZR_X_1xaa",
                 "D_X of 3D": "D3_X"}
        for pattern, equations in EQUATIONS.items():
            size, kind = pattern.split("_", 1)
            name = f"GFX11_SW_{size.removesuffix('B')}_{known.get(kind, kind)}_PATINFO"
            body = text.split(name + "[]")[1].split("};")[0].splitlines()
            lines = [line for line in body if "32 pipes (32 PKRs)" in line] or [line for line in body if "//" in line]
            for equation, line in zip(equations, lines[:5], strict=True):
                index = [int(n) for n in re.findall(r"\d+", line.split("}")[0])][1:]
                bits = [bit for nibble, n in zip(nibbles, index, strict=True) for bit in nibble[n]]
                assert equation.split() == bits[:BLOCK_BITS[size]], pattern


def test_every_packet_of_the_header_is_executed() -> None:
    missing = [name for name in sdma6.PACKETS if not hasattr(SdmaExecutor, "op_" + name.lower())]
    assert missing == []


class Card:
    """A surface's memory under a queue, the model beside it."""

    def __init__(self, raw: RawBoard, tables: Tables, queue: Queue, nbytes: int, surface: int | None = None) -> None:
        self.raw, self.queue = raw, queue
        self.linear = raw.words(tables.buffer(SOURCE, nbytes), nbytes, np.uint8)
        surface = nbytes if surface is None else surface
        self.tiled = raw.words(tables.buffer(TARGET, surface, fill=0xEE), surface, np.uint8)
        self.back = raw.words(tables.buffer(TARGET + 0x1000_0000, nbytes, fill=0xEE), nbytes, np.uint8)
        self.linear[:] = np.random.default_rng(5).integers(0, 256, nbytes)

    def run(self, *packets: list[int]) -> None:
        for packet in packets:
            self.queue.put(packet)
        self.queue.drain()
        assert not self.raw.board.notes.of("sdma-hang"), str(self.raw.board.notes)


@pytest.mark.parametrize(("mode", "dimension"), [(0, 1), *ALL])
def test_there_and_back(raw: RawBoard, tables: Tables, queue: Queue, mode: int, dimension: int) -> None:
    """A box into a tiled surface and out of it at another place; what is around stays."""
    card = Card(raw, tables, queue, 1 << 20)
    width, height, depth = 40, 24, 4
    tiled: dict[str, Any] = {"TILED_ADDR": TARGET, "WIDTH": width - 1, "HEIGHT": height - 1, "DEPTH": depth - 1,
                             "ELEMENT_SIZE": 2, "SWIZZLE_MODE": mode, "DIMENSION": dimension}
    box = {"RECT_X": 20, "RECT_Y": 12, "RECT_Z": 1}
    card.run(words("COPY_TILED_SUBWIN", **tiled, **box, TILED_X=7, TILED_Y=3, TILED_Z=1, LINEAR_ADDR=SOURCE, LINEAR_X=2,
                   LINEAR_Y=1, LINEAR_PITCH=31, LINEAR_SLICE_PITCH=32 * 20 - 1),
             words("COPY_TILED_SUBWIN", **tiled, **box, TILED_X=7, TILED_Y=3, TILED_Z=1, DETILE=1,
                   LINEAR_ADDR=TARGET + 0x1000_0000, LINEAR_X=5, LINEAR_Y=4, LINEAR_PITCH=63,
                   LINEAR_SLICE_PITCH=64 * 32 - 1))
    source = card.linear.view(np.uint32)[:32 * 20 * 2].reshape(2, 20, 32)[:, 1:14, 2:23]
    expected = np.full(card.back.size // 4, 0xEEEEEEEE, np.uint32)
    expected[:64 * 32 * 2].reshape(2, 32, 64)[:, 4:17, 5:26] = source
    assert np.array_equal(card.back.view(np.uint32), expected)
    where = Surface(0, 2, width, height, mode, dimension).at(
        np.arange(7, 28), np.arange(3, 16)[:, None], np.arange(1, 3)[:, None, None])
    seen = card.tiled.view(np.uint32)
    assert np.array_equal(seen[(where >> np.uint64(2)).astype(int)], source)
    assert (seen != 0xEEEEEEEE).sum() <= source.size


def test_from_tiled_to_tiled(raw: RawBoard, tables: Tables, queue: Queue) -> None:
    """64KB_R_X to 4KB_S of three dimensions, by way of COPY_T2T."""
    card = Card(raw, tables, queue, 1 << 20)
    size = {"ELEMENT_SIZE": 1, "WIDTH": 63, "HEIGHT": 47}
    card.run(words("COPY_TILED_SUBWIN", TILED_ADDR=TARGET, SWIZZLE_MODE=27, DIMENSION=1, **size, LINEAR_ADDR=SOURCE,
                   LINEAR_PITCH=63, LINEAR_SLICE_PITCH=64 * 48 - 1, RECT_X=63, RECT_Y=47),
             words("COPY_T2T", SRC_ADDR=TARGET, SRC_SWIZZLE_MODE=27, SRC_DIMENSION=1, DST_ADDR=TARGET + 0x1000_0000,
                   DST_SWIZZLE_MODE=5, DST_DIMENSION=2, SRC_X=3, SRC_Y=2, DST_X=8, DST_Y=9, RECT_X=30, RECT_Y=20,
                   **{f"{end}_{name}": value for end in ("SRC", "DST") for name, value in size.items()}))
    where = Surface(0, 1, 64, 48, 5, 2).at(np.arange(8, 39), np.arange(9, 30)[:, None], np.array([0]))
    seen = card.back.view(np.uint16)[(where >> np.uint64(1)).astype(int)]
    assert np.array_equal(seen, card.linear.view(np.uint16)[:64 * 48].reshape(48, 64)[2:23, 3:34])


def test_raster_order(raw: RawBoard, tables: Tables, queue: Queue) -> None:
    """COPY_TILED, its broadcast and WRITE_TILED take elements in raster order from a place on."""
    card = Card(raw, tables, queue, 1 << 18)
    surface: dict[str, Any] = {"WIDTH": 31, "HEIGHT": 15, "ELEMENT_SIZE": 2, "SWIZZLE_MODE": 10, "DIMENSION": 1}
    second = TARGET + 0x1000_0000
    card.run(words("COPY_TILED", TILED_ADDR=TARGET, **surface, X=4, Y=2, LINEAR_ADDR=SOURCE, LINEAR_PITCH=31,
                   LINEAR_SLICE_PITCH=511, COUNT=4 * 100 - 1),
             words("WRITE_TILED", *range(1000, 1010), DST_ADDR=TARGET, **surface, X=30, Y=10, COUNT=9),
             words("COPY_L2T_BROADCAST", TILED_ADDR0=second, TILED_ADDR1=second + 65536, **surface, LINEAR_ADDR=SOURCE,
                   LINEAR_PITCH=31, LINEAR_SLICE_PITCH=511, COUNT=4 * 512 - 1))
    x, y = np.meshgrid(np.arange(32), np.arange(16))
    where = (Surface(0, 2, 32, 16, 10).at(x.ravel(), y.ravel(), np.zeros(512)) >> np.uint64(2)).astype(int)
    flat = card.tiled.view(np.uint32)[where]
    source = card.linear.view(np.uint32)
    assert np.array_equal(flat[68:168], source[:100]) and (flat[:68] == 0xEEEEEEEE).all()
    assert list(flat[350:360]) == list(range(1000, 1010)) and (flat[168:350] == 0xEEEEEEEE).all()
    back = card.back.view(np.uint32)
    assert np.array_equal(back[where], source[:512]) and np.array_equal(back[16384 + where], source[:512])


@pytest.mark.parametrize(("packet", "why"), [
    (words("COPY_TILED_SUBWIN", SWIZZLE_MODE=5, DIMENSION=1, TILED_ADDR=TARGET, LINEAR_ADDR=SOURCE), "swizzle mode 5"),
    (words("COPY_TILED_SUBWIN", SWIZZLE_MODE=6, DIMENSION=1, MIP_MAX=2), "mip levels"),
    (words("COPY_TILED_SUBWIN", DCC=1), "compressed"), (words("COPY_T2T", DCC=1), "compressed"),
    (words("COPY_T2T", SRC_ELEMENT_SIZE=1, DST_ELEMENT_SIZE=2), "differ in size"),
    (words("COPY_TILED", ELEMENT_SIZE=2, SWIZZLE_MODE=6, DIMENSION=1, COUNT=2), "no whole number"),
    (words("COPY_TILED", ELEMENT_SIZE=5, SWIZZLE_MODE=6, DIMENSION=1), "elements of 32 bytes"),
    (words("COPY_TILED_SUBWIN_BC", ARRAY_MODE=4), "array mode 4"),
    (words("COPY_PHYSICAL_LINEAR", ADDR_PAIR_NUM=1), "one pair"),
    (words("COPY_PHYSICAL_LINEAR", SRC_ADDR=1 << 40, DST_ADDR=0), "beyond video memory"),
    (words("CONSTANT_FILL", FILLSIZE=3, DST_ADDR=TARGET), "fill size 3"),
])
def test_what_is_no_surface(raw: RawBoard, tables: Tables, queue: Queue, packet: list[int], why: str) -> None:
    tables.buffer(TARGET, 4096)
    tables.buffer(SOURCE, 4096)
    queue.put(packet)
    raw.wait(lambda: raw.board.notes.of("sdma-hang"), "the hang")
    assert why in str(raw.board.notes.of("sdma-hang")[0])


def test_structures_and_physical_memory(raw: RawBoard, tables: Tables, queue: Queue) -> None:
    card = Card(raw, tables, queue, 65536)
    host = np.zeros(8192, np.uint8)
    start = -host.ctypes.data % 4096
    bus = raw.board.bus.attach(host.ctypes.data + start, 4096)
    offset = raw.vram(4096)
    raw.board.vram.view[offset:offset + 100] = 7
    card.run(words("COPY_STRUCT", SB_ADDR=SOURCE, START_INDEX=3, COUNT=5, STRIDE=48, LINEAR_ADDR=TARGET, DETILE=1),
             words("COPY_STRUCT", SB_ADDR=TARGET, START_INDEX=100, COUNT=5, STRIDE=48, LINEAR_ADDR=TARGET),
             words("COPY_PHYSICAL_LINEAR", SRC_ADDR=offset, DST_ADDR=bus + 16, DST_SYS=1, COUNT=99),
             words("COPY_DIRTY_PAGE", SRC_ADDR=bus + 16, SRC_SYS=1, DST_ADDR=offset + 200, COUNT=49))
    assert np.array_equal(card.tiled[:240], card.linear[144:384])
    assert np.array_equal(card.tiled[4800:5040], card.linear[144:384])
    assert (host[start + 16:start + 116] == 7).all() and not host[start + 116:start + 200].any()
    assert (raw.board.vram.view[offset + 200:offset + 250] == 7).all()


@pytest.mark.parametrize(("size", "pattern"), [(0, b"\x44"), (1, b"\x44\x33"), (2, b"\x44\x33\x22\x11")])
def test_fills_of_each_size(raw: RawBoard, tables: Tables, queue: Queue, size: int, pattern: bytes) -> None:
    card = Card(raw, tables, queue, 65536)
    nbytes = 5000 >> size << size
    card.run(words("CONSTANT_FILL", DST_ADDR=TARGET + 308, SRC_DATA_31_0=0x11223344, COUNT=nbytes - 1, FILLSIZE=size))
    expected = np.full(65536, 0xEE, np.uint8)
    expected[308:308 + nbytes] = np.frombuffer(pattern * (nbytes // len(pattern)), np.uint8)
    assert np.array_equal(card.tiled, expected)


def test_verify_multi_fill_and_page_bits(raw: RawBoard, tables: Tables, queue: Queue) -> None:
    card = Card(raw, tables, queue, 65536)
    record = raw.words(tables.buffer(SIGNAL, 4096), 64, np.uint64)
    card.linear[:1024] = 0x55
    card.tiled[:1024] = 0x55
    card.tiled[600] = 1
    ranges = {"CMP0_START": SOURCE, "CMP0_END": SOURCE + 1024}
    card.run(words("POLL_MEM_VERIFY", **ranges, CMP1_START=TARGET, CMP1_END=TARGET + 1024, REC=SIGNAL),
             words("POLL_MEM_VERIFY", **ranges, PATTERN=0x55555555, MODE=1, REC=SIGNAL + 16),
             words("DATA_FILL_MULTI", DST_ADDR=TARGET + 4096, BYTE_STRIDE=256, DMA_COUNT=3, COUNT=100),
             words("POLL_DBIT_WRITE_MEM", ADDR=SIGNAL + 64, PAGE_NUM_31_0=40),
             words("PTEPDE_COPY_BACKWARDS", SRC_ADDR=SOURCE, DST_ADDR=TARGET + 8192, COUNT=1, MASK_FIRST_XFER=0xF0,
                   MASK_LAST_XFER=0x01))
    assert list(record[:4]) == [1, SOURCE + 600, 0, 0]
    rows = card.tiled[4096:4096 + 768].reshape(3, 256)
    assert not rows[:, :100].any() and (rows[:, 100:] == 0xEE).all()
    assert record[8] == (1 << 40) - 1
    moved = card.tiled[8192:8192 + 64].view(np.uint32)
    assert list(moved == 0x55555555) == [False] * 4 + [True] * 5 + [False] * 7


def test_all_the_queues_of_both_engines(raw: RawBoard, tables: Tables) -> None:
    """Sixteen rings, each with a doorbell of its own."""
    signal = raw.words(tables.buffer(SIGNAL, 4096), 64)
    for engine in (0, 1):
        raw.update(f"SDMA{engine}_F32_CNTL", HALT=0, TH1_RESET=0)
        for n in range(8):
            p, base = f"SDMA{engine}_QUEUE{n}_", 0x7E50_0000_0000 + (8 * engine + n) * 0x10_0000
            ring = raw.words(tables.buffer(base, 4096), 1024)
            data = fence(SIGNAL + 4 * (8 * engine + n), 100 * engine + n + 1)
            ring[:len(data)] = data
            raw.poke(p + "RB_CNTL", RB_SIZE=10, RB_PRIV=1, RB_VMID=1)
            raw.poke(p + "RB_BASE", base >> 8 & 0xFFFFFFFF)
            raw.poke(p + "RB_BASE_HI", base >> 40)
            raw.poke(p + "DOORBELL", ENABLE=1)
            raw.poke(p + "DOORBELL_OFFSET", OFFSET=0x300 + 2 * (8 * engine + n))
            raw.update(p + "RB_CNTL", RB_ENABLE=1)
    for n in reversed(range(16)):
        raw.board.sdma.doorbell(4 * (0x300 + 2 * n), 16, 8)
    raw.wait(lambda: all(signal[n] == 100 * (n // 8) + n % 8 + 1 for n in range(16)), "sixteen fences")


class TestResets:
    def test_a_halt_and_a_reset_of_a_thread(self, raw: RawBoard, tables: Tables, queue: Queue) -> None:
        """Halted, nothing is fetched; let run again, the ring goes on where it was."""
        signal = raw.words(tables.buffer(SIGNAL, 4096), 2)
        raw.update("SDMA0_F32_CNTL", HALT=1)
        queue.put(fence(SIGNAL, 5))
        assert signal[0] == 0
        raw.update("SDMA0_F32_CNTL", HALT=0)
        raw.wait(lambda: signal[0] == 5, "the fence")

    def test_soft_reset_frees_a_ring_that_waits(self, raw: RawBoard, tables: Tables, queue: Queue) -> None:
        signal = raw.words(tables.buffer(SIGNAL, 4096), 4)
        queue.put([8 | 3 << 28 | 1 << 31, *lohi(SIGNAL), 1, 0xFFFFFFFF, 0xFFF << 16 | 4])       # POLL_REGMEM, for ever
        raw.wait(lambda: raw.board.sdma.busy, "the wait")
        raw.poke("GRBM_SOFT_RESET", SOFT_RESET_SDMA0=1)
        raw.poke("GRBM_SOFT_RESET", 0)
        raw.wait(lambda: raw.board.engine("sdma 0.0").idle, "the reset")
        assert not raw.field("SDMA0_QUEUE0_RB_CNTL", "RB_ENABLE") and raw.peek("SDMA0_QUEUE0_RB_WPTR") == 0
        again = Queue(raw, tables)
        raw.invalidate("GC", 2)
        again.put(fence(SIGNAL + 8, 6))
        raw.wait(lambda: signal[2] == 6, "the fence")

    @pytest.mark.parametrize("kind", ["bad-packet", "queue-hang"])
    def test_injected(self, raw: RawBoard, tables: Tables, queue: Queue, kind: str) -> None:
        signal = raw.words(tables.buffer(SIGNAL, 4096), 4)
        raw.board.faults.inject(kind, skip=1, queue="sdma 0.0", count=1)
        queue.put(fence(SIGNAL, 1) + fence(SIGNAL + 4, 2))
        raw.wait(lambda: raw.board.notes.of("sdma-hang"), "the hang")
        assert list(signal[:2]) == [1, 0] and raw.field("SDMA0_QUEUE0_CONTEXT_STATUS", "EXCEPTION")
        raw.update("SDMA0_QUEUE0_RB_CNTL", RB_ENABLE=0)
        raw.update("SDMA0_QUEUE0_RB_CNTL", RB_ENABLE=1)
        raw.wait(lambda: signal[1] == 2, "the rest, after the queue was enabled again")


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from([(0, 1), *ALL]), st.integers(0, 4), st.tuples(st.integers(1, 90), st.integers(1, 50)),
       st.data())
def test_boxes_against_a_model(mode: tuple[int, int], log2: int, size: tuple[int, int], data: st.DataObject) -> None:
    """Random boxes into a tiled surface; all of it read back flat equals the model."""
    width, height = size
    with Machine([Gpu(vram="64M")]) as machine:
        raw = RawBoard(machine.gpus[0])
        raw.board.config.write(4, 2, 6)
        raw.start_hub("GC")
        raw.load_firmware()
        tables = Tables(raw)
        raw.context("GC", 1, tables.root)
        card = Card(raw, tables, Queue(raw, tables), 1 << 19, 1 << 22)      # the largest takes 12 blocks of 256 KiB
        tiled: dict[str, Any] = {"TILED_ADDR": TARGET, "WIDTH": width - 1, "HEIGHT": height - 1, "ELEMENT_SIZE": log2,
                                 "SWIZZLE_MODE": mode[0], "DIMENSION": mode[1]}
        model = np.full((height, width, 1 << log2), 0xEE, np.uint8)
        source = card.linear.reshape(-1, 1 << log2)
        for _ in range(data.draw(st.integers(1, 4))):
            x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
            w, h = data.draw(st.integers(1, width - x)), data.draw(st.integers(1, height - y))
            card.run(words("COPY_TILED_SUBWIN", **tiled, TILED_X=x, TILED_Y=y, RECT_X=w - 1, RECT_Y=h - 1,
                           LINEAR_ADDR=SOURCE, LINEAR_X=y, LINEAR_Y=x, LINEAR_PITCH=199))
            at = (np.arange(x, x + h)[:, None] * 200 + np.arange(y, y + w))
            model[y:y + h, x:x + w] = source[at]
        card.run(words("COPY_TILED_SUBWIN", **tiled, RECT_X=width - 1, RECT_Y=height - 1, DETILE=1,
                       LINEAR_ADDR=TARGET + 0x1000_0000, LINEAR_PITCH=width - 1))
        assert np.array_equal(card.back[:model.size].reshape(model.shape), model)
