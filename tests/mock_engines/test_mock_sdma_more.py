"""What is left of the copy engines' packets: semaphores, invalidations, cache requests, entries of page tables."""

from __future__ import annotations

import time

import numpy as np
import pytest
from compute_rig import Interrupts
from raw_board import RWX, RawBoard, Tables, V
from sdma_rig import SIGNAL, SOURCE, TARGET, Queue, copy, fence, words


@pytest.fixture
def queue(raw: RawBoard, tables: Tables) -> Queue:
    return Queue(raw, tables)


def moved(raw: RawBoard, tables: Tables, queue: Queue) -> int:
    """SOURCE moves to another page behind the engine's back; the new page's offset."""
    raw.words(tables.buffer(SOURCE, 4096), 4)[:] = 1
    tables.buffer(TARGET, 4096)
    queue.put(copy(TARGET, SOURCE, 16))
    queue.drain()
    other = raw.vram(4096)
    raw.words(other, 4)[:] = 2
    tables.map(SOURCE, other, 4096)
    return other


@pytest.mark.parametrize(("packet", "seen"), [
    ([0], 1),                                                                       # without an invalidation: stale
    (words("GPUVM_INV", PER_VMID_INV_REQ=2, L2_PTES=1, L1_PTES=1, L2_PDE0=1, L2_PDE1=1, L2_PDE2=1, S=1,
           PAGE_VA_42_12=(1 << 31) - 1, PAGE_VA_47_43=(1 << 5) - 1), 2),
    (words("GPUVM_INV", PER_VMID_INV_REQ=4, L2_PTES=1, L1_PTES=1, L2_PDE0=1, L2_PDE1=1, L2_PDE2=1, S=1,
           PAGE_VA_42_12=(1 << 31) - 1, PAGE_VA_47_43=(1 << 5) - 1), 1),             # another VMID's
    (words("GPUVM_INV", PER_VMID_INV_REQ=2, L2_PTES=1, L1_PTES=1, PAGE_VA_42_12=SOURCE >> 12 & 0x7FFFFFFF,
           PAGE_VA_47_43=SOURCE >> 43), 2),                                         # this page alone
    (words("GPUVM_INV", PER_VMID_INV_REQ=2, L2_PTES=1, L1_PTES=1, PAGE_VA_42_12=(SOURCE >> 12) + 1 & 0x7FFFFFFF,
           PAGE_VA_47_43=SOURCE >> 43), 1),                                         # its neighbour
    (words("VM_INVALIDATION", GFX_ENG_ID=5, MM_ENG_ID=31, INVALIDATEREQ=0x00F80002), 2),
])
def test_invalidations(raw: RawBoard, tables: Tables, queue: Queue, packet: list[int], seen: int) -> None:
    moved(raw, tables, queue)
    queue.put([*packet, *copy(TARGET, SOURCE, 16), *fence(TARGET + 64, 9)])
    queue.drain()
    assert raw.board.memory.read("gc", 1, TARGET, 4) == seen.to_bytes(4, "little")


def test_cache_requests_name_their_vmid(raw: RawBoard, tables: Tables, queue: Queue) -> None:
    asked: list[tuple[str, int, int]] = []
    raw.board.gfx.on_cache.append(lambda *what: asked.append(what[:3]))
    queue.put(words("GCR_REQ", GCR_CONTROL_15_0=0xC300, GCR_CONTROL_18_16=1, VMID=1))
    queue.drain()
    assert ("sdma 0.0", 1, 0x1C300) in [tuple(what) for what in asked]


def test_semaphores(raw: RawBoard, tables: Tables) -> None:
    """Counted: two signals let two waiters pass, each takes one; WRITE_ONE sets it."""
    first, second = Queue(raw, tables), Queue(raw, tables, engine=1)
    memory = raw.words(tables.buffer(SIGNAL, 4096), 16, np.uint64)
    first.put(words("SEMAPHORE", ADDR=SIGNAL) + fence(SIGNAL + 64, 1) + words("SEMAPHORE", ADDR=SIGNAL)
              + fence(SIGNAL + 64, 2))
    time.sleep(0.01)
    assert memory[8] == 0
    second.put(words("SEMAPHORE", ADDR=SIGNAL, SIGNAL=1))
    raw.wait(lambda: memory[8] == 1, "the first")
    second.put(words("SEMAPHORE", ADDR=SIGNAL, SIGNAL=1) + words("SEMAPHORE", ADDR=SIGNAL, SIGNAL=1))
    raw.wait(lambda: memory[8] == 2, "the second")
    second.drain()
    assert memory[0] == 1
    second.put(words("SEMAPHORE", ADDR=SIGNAL + 8, SIGNAL=1, WRITE_ONE=1) * 2)
    second.drain()
    assert memory[1] == 1


def test_entries_of_page_tables(raw: RawBoard, tables: Tables, queue: Queue) -> None:
    """Copied under a mask, changed under a mask, made anew."""
    entries = raw.words(tables.buffer(SOURCE, 4096), 512, np.uint64)
    target = raw.words(tables.buffer(TARGET, 4096), 512, np.uint64)
    entries[:8] = np.arange(8, dtype=np.uint64) << np.uint64(12) | np.uint64(RWX)
    queue.put(words("PTEPDE_COPY", SRC_ADDR=SOURCE, DST_ADDR=TARGET, MASK=0xFFFFFFFFFFFFFF8F, COUNT=7)
              + words("PTEPDE_RMW", ADDR=TARGET, MASK=0x60, VALUE=0xFF, NUM_OF_PTE=3)
              + words("WRITE_INCR", DST_ADDR=TARGET + 64, MASK=RWX, INIT=0x7000, INCR=0x1000, COUNT=3))
    queue.drain()
    plain = [n << 12 | RWX & ~0x70 for n in range(8)]
    assert list(target[:8]) == [value | 0x60 for value in plain[:4]] + plain[4:]
    assert list(target[8:12]) == [0x7000 + 0x1000 * n | RWX for n in range(4)] and RWX & V


def test_broadcast_and_large_boxes(raw: RawBoard, tables: Tables, queue: Queue) -> None:
    source = raw.words(tables.buffer(SOURCE, 65536), 65536, np.uint8)
    target = raw.words(tables.buffer(TARGET, 3 * 65536, fill=0xEE), 3 * 65536, np.uint8)
    source[:] = np.random.default_rng(4).integers(0, 256, 65536)
    queue.put(words("COPY_BROADCAST_LINEAR", SRC_ADDR=SOURCE, DST1_ADDR=TARGET, DST2_ADDR=TARGET + 65536, COUNT=999)
              + words("COPY_LINEAR_SUBWIN_LARGE", SRC_ADDR=SOURCE, SRC_X=3, SRC_Y=2, SRC_PITCH=255,
                      SRC_SLICE_PITCH=4095, DST_ADDR=TARGET + 131072, DST_X=1, DST_Y=1, DST_Z=1, DST_PITCH=99,
                      DST_SLICE_PITCH=999, RECT_X=19, RECT_Y=6, RECT_Z=1))
    queue.drain()
    assert np.array_equal(target[:1000], source[:1000]) and np.array_equal(target[65536:66536], source[:1000])
    assert (target[1000:65536] == 0xEE).all()
    box = target[131072:131072 + 3000].reshape(3, 10, 100)
    assert np.array_equal(box[1:, 1:8, 1:21], source[:8192].reshape(2, 16, 256)[:, 2:9, 3:23])
    assert (box[0] == 0xEE).all()


def test_packets_that_pass(raw: RawBoard, tables: Tables, queue: Queue, posted: Interrupts) -> None:
    """PRE_EXE lets its one device execute, a dummy trap tells nobody; the timestamp counts from what was set."""
    signal = raw.words(tables.buffer(SIGNAL, 4096), 16, np.uint64)
    queue.put(words("PRE_EXE", DEV_SEL=1, EXEC_COUNT=4) + fence(SIGNAL, 1) + words("DUMMY_TRAP", INT_CONTEXT=5)
              + words("TIMESTAMP_SET", INIT_DATA=1 << 40) + words("TIMESTAMP_GET", WRITE_ADDR=SIGNAL + 8)
              + words("TIMESTAMP_GET_GLOBAL", WRITE_ADDR=SIGNAL + 16) + words("NOP", 1, 2, 3, COUNT=3))
    queue.drain()
    assert signal[0] == 1 and posted == [] and 1 << 40 <= signal[1] < (1 << 40) + 10 ** 9
    assert 0 < signal[2] <= raw.board.clock()
