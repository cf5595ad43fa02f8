"""Translation through both hubs: walks, permissions, stale TLBs, invalidation by range and VMID, faults, apertures."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_board import PDE_PTE, PRT, RWX, R, RawBoard, S, Tables, V, W, X

from mock.gmc import BusFault, Fault
from mock.machine import Gpu, Machine

VA = 0x7F00_1234_5000


@pytest.fixture
def raw() -> Iterator[RawBoard]:
    with Machine([Gpu(vram="64M")]) as machine:
        board = machine.gpus[0]
        board.config.write(4, 2, 6)         # memory decode, bus master
        raw = RawBoard(board)
        for hub in ("GC", "MM"):
            raw.start_hub(hub)
        yield raw


@pytest.fixture
def tables(raw: RawBoard) -> Tables:
    tables = Tables(raw)
    raw.context("GC", 1, tables.root)
    raw.context("MM", 1, tables.root)
    return tables


def host(raw: RawBoard, address: int, *, hub: str = "gc", vmid: int = 1, write: bool = False,
         execute: bool = False) -> int:
    """VRAM offset of an address."""
    found = raw.board.memory.translate(hub, vmid, np.array([address], np.uint64), write=write, execute=execute)
    return int(found[0]) - raw.board.vram.base


@pytest.mark.parametrize("hub", ["gc", "mm"])
def test_four_level_walk(raw: RawBoard, tables: Tables, hub: str) -> None:
    offset = tables.buffer(VA, 3 * 4096)
    assert host(raw, VA + 0x1678, hub=hub) == offset + 0x1678


@pytest.mark.parametrize(("level", "size"), [(1, 2 << 20), (2, 1 << 30)])
def test_directory_entry_as_page(raw: RawBoard, tables: Tables, level: int, size: int) -> None:
    address = VA & ~(size - 1)
    tables.entry(address, level)[0] = 0 | RWX | PDE_PTE
    assert host(raw, address + 0x12345) == 0x12345
    assert host(raw, address + 0x1FF_FFFF) == 0x1FF_FFFF if size > 2 << 20 else True


def test_flat_table_with_start(raw: RawBoard) -> None:
    """The GART: depth 0, entries counted from PAGE_TABLE_START."""
    start = 0x7FFF_0000_0000
    table, data = raw.vram(4096), raw.vram(4096)
    raw.words(table, 512, np.uint64)[5] = data | RWX
    raw.context("GC", 0, table, depth=0, start=start >> 12, end=(start >> 12) + 511)
    assert host(raw, start + 5 * 4096 + 8, vmid=0) == data + 8
    with pytest.raises(Fault, match="outside of the context's"):
        host(raw, start + 512 * 4096, vmid=0)


def test_two_level_root_takes_all_upper_bits(raw: RawBoard) -> None:
    root, ptb, data = raw.vram(4 * 4096), raw.vram(4096), raw.vram(4096)
    address = 1500 << 21 | 7 << 12          # PDB0 index 1500: beyond nine bits
    raw.words(root, 2048, np.uint64)[1500] = ptb | V
    raw.words(ptb, 512, np.uint64)[7] = data | RWX
    raw.context("GC", 2, root, depth=1)
    assert host(raw, address, vmid=2) == data


def test_translate_further(raw: RawBoard) -> None:
    """PAGE_TABLE_BLOCK_SIZE 9 and a block fragment of 9: each entry covers 2 MiB, TF leads to a table below."""
    root, pdb0, ptb, data = (raw.vram(4096) for _ in range(4))
    raw.words(root, 512, np.uint64)[0] = pdb0 | V | 9 << 59
    raw.words(pdb0, 512, np.uint64)[3] = ptb | V | 1 << 56
    raw.words(pdb0, 512, np.uint64)[4] = 0x20_0000 | RWX
    raw.words(ptb, 512, np.uint64)[17] = data | RWX
    raw.context("GC", 3, root, depth=1, block=9)
    assert host(raw, (3 << 21) + (17 << 12) + 4, vmid=3) == data + 4
    assert host(raw, (4 << 21) + 0x12344, vmid=3) == 0x20_0000 + 0x12344


@pytest.mark.parametrize(("flags", "kind", "bit"), [
    (V | R | X, "write", 4), (V | W | X, "read", 2), (V | R | W, "execute", 8), (R | W | X, "read", 1)])
def test_permissions(raw: RawBoard, tables: Tables, flags: int, kind: str, bit: int) -> None:
    tables.buffer(VA, 4096, flags)
    with pytest.raises(Fault):
        host(raw, VA, write=kind == "write", execute=kind == "execute")
    assert raw.field("GCVM_L2_PROTECTION_FAULT_STATUS", "PERMISSION_FAULTS") == bit


def test_fault_registers_keep_the_first(raw: RawBoard, tables: Tables) -> None:
    with pytest.raises(Fault, match="VMID 1: write at 0x7f0012345000: PDB2 entry 254 is"):
        host(raw, VA, write=True)
    assert raw.peek("GCVM_L2_PROTECTION_FAULT_ADDR_LO32") == VA >> 12 & 0xFFFFFFFF
    assert raw.peek("GCVM_L2_PROTECTION_FAULT_ADDR_HI32") == VA >> 44
    name = "GCVM_L2_PROTECTION_FAULT_STATUS"
    assert (raw.field(name, "VMID"), raw.field(name, "RW"), raw.field(name, "MORE_FAULTS")) == (1, 1, 0)
    with pytest.raises(Fault):
        host(raw, VA + 0x10_0000)
    assert raw.peek("GCVM_L2_PROTECTION_FAULT_ADDR_LO32") == VA >> 12 & 0xFFFFFFFF
    assert raw.field(name, "MORE_FAULTS") == 1
    raw.update("GCVM_L2_PROTECTION_FAULT_CNTL", CLEAR_PROTECTION_FAULT_STATUS_ADDR=1)
    assert raw.peek(name) == 0
    assert raw.peek("MMVM_L2_PROTECTION_FAULT_STATUS") == 0


@pytest.mark.parametrize(("hub", "client", "source"), [("gc", 0x0A, 0), ("mm", 0x12, 1)])
def test_fault_interrupt(raw: RawBoard, tables: Tables, monkeypatch: pytest.MonkeyPatch, hub: str, client: int,
                         source: int) -> None:
    seen: list[tuple[int, int, dict[str, object]]] = []
    monkeypatch.setattr(raw.board.memory, "interrupt", lambda c, s, **rest: seen.append((c, s, rest)))
    with pytest.raises(Fault):
        host(raw, VA, hub=hub)
    assert seen == [(client, 0, {"vmid": 1, "vmid_src": source, "ring_id": 0x18,
                                 "data": (VA >> 12 & 0xFFFFFFFF, VA >> 44, 0, 0)})]
    raw.context(hub.upper(), 1, tables.root, interrupts=False)
    with pytest.raises(Fault):
        host(raw, VA, hub=hub)
    assert len(seen) == 1


def test_crash_on_fault(raw: RawBoard, tables: Tables) -> None:
    tables.buffer(VA, 4096)
    raw.update("GCVM_L2_PROTECTION_FAULT_CNTL", CRASH_ON_NO_RETRY_FAULT=1)
    assert host(raw, VA)
    with pytest.raises(Fault):
        host(raw, VA - 4096)
    with pytest.raises(Fault, match="crashed"):
        host(raw, VA)


def test_tlb_stays_stale_until_invalidated(raw: RawBoard, tables: Tables) -> None:
    old = tables.buffer(VA, 4096)
    new = raw.vram(4096)
    assert host(raw, VA) == old
    assert host(raw, VA, hub="mm") == old
    tables.map(VA, new, 4096)
    assert host(raw, VA) == old
    raw.invalidate("GC", 1 << 2)                # another VMID
    assert host(raw, VA) == old
    raw.invalidate("GC", 1 << 1)
    assert host(raw, VA) == new
    assert host(raw, VA, hub="mm") == old       # each hub has its own
    raw.invalidate("MM", 1 << 1)
    assert host(raw, VA, hub="mm") == new
    assert raw.board.counters["tlb_flushes"] == 3


def test_directories_stay_cached_too(raw: RawBoard, tables: Tables) -> None:
    old = tables.buffer(VA, 4096)
    assert host(raw, VA) == old
    ptb = raw.vram(4096)                        # a new table with the next page, under the same directory entry
    new = raw.vram(4096)
    raw.words(ptb, 512, np.uint64)[VA + 4096 >> 12 & 511] = new | RWX
    tables.entry(VA, 1)[0] = ptb | V
    with pytest.raises(Fault):
        host(raw, VA + 4096)
    raw.invalidate("GC", 2)
    assert host(raw, VA + 4096) == new


@pytest.mark.parametrize("missing", ["INVALIDATE_L2_PTES", "INVALIDATE_L1_PTES"])
def test_partial_invalidation_leaves_a_level(raw: RawBoard, tables: Tables, missing: str) -> None:
    old = tables.buffer(VA, 4096)
    assert host(raw, VA) == old
    tables.map(VA, raw.vram(4096), 4096)
    raw.poke("GCVM_INVALIDATE_ENG3_REQ", 0xF80002, **{missing: 0})
    assert host(raw, VA) == old
    assert raw.board.notes.of("invalidate-partial")


def test_invalidation_range(raw: RawBoard, tables: Tables) -> None:
    """After reset the range registers say page 0 only: a flush that does not set them flushes nothing else."""
    olds = [tables.buffer(VA + i * 4096, 4096) for i in range(4)]
    assert [host(raw, VA + i * 4096) for i in range(4)] == olds
    new = raw.vram(4 * 4096)
    tables.map(VA, new, 4 * 4096)
    raw.poke("GCVM_INVALIDATE_ENG5_ADDR_RANGE_LO32", 0)
    raw.poke("GCVM_INVALIDATE_ENG5_ADDR_RANGE_HI32", 0)
    raw.invalidate("GC", 2, engine=5)
    assert host(raw, VA) == olds[0]
    page = (VA >> 12) + 2
    raw.poke("GCVM_INVALIDATE_ENG5_ADDR_RANGE_LO32", page << 1 & 0xFFFFFFFF)          # S=0: one page
    raw.poke("GCVM_INVALIDATE_ENG5_ADDR_RANGE_HI32", page >> 31)
    raw.invalidate("GC", 2, engine=5)
    assert [host(raw, VA + i * 4096) for i in range(4)] == [olds[0], olds[1], new + 2 * 4096, olds[3]]


def test_never_invalidated_since_power_on(raw: RawBoard, tables: Tables) -> None:
    tables.buffer(VA, 4096)
    raw.board.reset_blocks()
    for hub in ("GC", "MM"):
        raw.start_hub(hub)
    raw.board.memory.hubs["gc"].reset()
    raw.context("GC", 1, tables.root)
    with pytest.raises(Fault, match="never invalidated since power-on"):
        host(raw, VA)
    raw.invalidate("GC", 2)
    host(raw, VA)


@pytest.mark.parametrize(("register", "field", "why"), [
    ("GCMC_VM_MX_L1_TLB_CNTL", "ENABLE_L1_TLB", "L1 TLB is off"),
    ("GCMC_VM_MX_L1_TLB_CNTL", "ENABLE_ADVANCED_DRIVER_MODEL", "VMID 0"),
    ("GCVM_L2_CNTL", "ENABLE_L2_CACHE", "UTCL2 is off"),
    ("GCVM_CONTEXT1_CNTL", "ENABLE_CONTEXT", "not enabled")])
def test_enables_matter(raw: RawBoard, tables: Tables, register: str, field: str, why: str) -> None:
    tables.buffer(VA, 4096)
    raw.update(register, **{field: 0})
    with pytest.raises(Fault, match=why):
        host(raw, VA)


def test_vmid0_system_aperture(raw: RawBoard) -> None:
    base = raw.peek("GCMC_VM_FB_LOCATION_BASE") << 24
    assert host(raw, base + 0x1234, vmid=0) == 0x1234
    with pytest.raises(Fault, match="not enabled"):     # outside of the aperture: the page tables, which are not there
        host(raw, base + raw.board.vram.size, vmid=0)
    raw.poke("GCMC_VM_SYSTEM_APERTURE_HIGH_ADDR", base + 2 * raw.board.vram.size >> 18)
    with pytest.raises(Fault, match="neither in the frame buffer"):
        host(raw, base + raw.board.vram.size, vmid=0)


def test_identity_aperture_is_open_after_reset(raw: RawBoard, tables: Tables) -> None:
    with pytest.raises(Fault):
        host(raw, 0x10)
    raw.poke("GCVM_L2_CONTEXT1_IDENTITY_APERTURE_LOW_ADDR_LO32", 0)
    raw.poke("GCVM_L2_CONTEXT1_IDENTITY_APERTURE_LOW_ADDR_HI32", 0)
    assert host(raw, 0x10) == 0x10          # a null pointer reaches VRAM


def test_vm_hole(raw: RawBoard, tables: Tables) -> None:
    with pytest.raises(Fault, match="no 48-bit address"):
        host(raw, 1 << 50)


def test_prt_reads_zero_and_swallows_writes(raw: RawBoard, tables: Tables) -> None:
    tables.entry(VA, 0)[0] = PRT | R | W
    memory = raw.board.memory
    memory.write("gc", 1, VA, b"lost")
    assert memory.read("gc", 1, VA, 4) == bytes(4)


def test_vram_entry_beyond_the_card(raw: RawBoard, tables: Tables) -> None:
    tables.map(VA, 1 << 40, 4096)
    with pytest.raises(BusFault, match="beyond the card's"):
        host(raw, VA)


class TestSystemMemory:
    @pytest.fixture
    def memory(self) -> np.ndarray:
        room = np.zeros(3 * 4096, np.uint8)
        skip = -room.ctypes.data % 4096
        return room[skip:skip + 2 * 4096]

    def test_read_and_write(self, raw: RawBoard, tables: Tables, memory: np.ndarray) -> None:
        bus = raw.board.bus.attach(memory.ctypes.data, memory.size)
        tables.map(VA, bus, memory.size, RWX | S)
        raw.board.memory.write("gc", 1, VA + 4090, b"across a page")
        assert memory[4090:4103].tobytes() == b"across a page"

    def test_not_on_the_bus(self, raw: RawBoard, tables: Tables, memory: np.ndarray) -> None:
        tables.map(VA, memory.ctypes.data & 0xFFF_FFFF_F000, 4096, RWX | S)
        with pytest.raises(BusFault):
            host(raw, VA)
        assert raw.board.notes.of("bus-error")

    def test_bus_mastering_off(self, raw: RawBoard, tables: Tables, memory: np.ndarray) -> None:
        tables.map(VA, raw.board.bus.attach(memory.ctypes.data, memory.size), 4096, RWX | S)
        raw.board.config.write(4, 2, 2)
        with pytest.raises(BusFault, match="not a bus master"):
            host(raw, VA)

    def test_beyond_44_bits(self, raw: RawBoard, tables: Tables) -> None:
        tables.map(VA, 1 << 44, 4096, RWX | S)
        with pytest.raises(BusFault, match="out of the card's reach"):
            host(raw, VA)

    def test_detached_memory_is_gone_at_once(self, raw: RawBoard, tables: Tables, memory: np.ndarray) -> None:
        bus = raw.board.bus.attach(memory.ctypes.data, memory.size)
        tables.map(VA, bus, 4096, RWX | S)
        raw.board.memory.read("gc", 1, VA, 4)
        raw.board.bus.detach(bus)
        with pytest.raises(BusFault):
            raw.board.memory.read("gc", 1, VA, 4)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_against_a_dictionary(raw: RawBoard, data: st.DataObject) -> None:
    """Random maps, many addresses at once: equal to a plain dictionary of pages."""
    tables = Tables(raw)
    raw.context("GC", 4, tables.root)
    raw.invalidate("GC", 1 << 4)
    pages = data.draw(st.lists(st.integers(0, (1 << 36) - 1), min_size=1, max_size=8, unique=True))
    model = {page: int(i + 1) << 12 for i, page in enumerate(pages)}
    for page, physical in model.items():
        tables.map(page << 12, physical, 4096)
    picks = data.draw(st.lists(st.tuples(st.sampled_from(pages), st.integers(0, 4095)), min_size=1, max_size=40))
    addresses = np.array([(page << 12 | at) | (0xFFFF << 48 if page >> 35 else 0) for page, at in picks], np.uint64)
    found = raw.board.memory.translate("gc", 4, addresses, write=True)
    assert (found - np.uint64(raw.board.vram.base)).tolist() == [model[page] + at for page, at in picks]
    raw._free = raw.board.vram.size // 2


def test_runs_merge_neighbours(raw: RawBoard, tables: Tables) -> None:
    first = tables.buffer(VA, 2 * 4096)
    raw.vram(4096)
    second = tables.buffer(VA + 2 * 4096, 4096)
    base = raw.board.vram.base
    assert raw.board.memory.runs("gc", 1, VA + 100, 2 * 4096, write=False) == [
        (base + first + 100, 2 * 4096 - 100), (base + second, 100)]


def test_page_table_entries_are_counted_at_flushes(raw: RawBoard) -> None:
    board = raw.board
    root, pdb1, pdb0, ptb = 0x100000, 0x101000, 0x102000, 0x103000
    window = np.frombuffer(board.bar_memory(0, root, 4 * 4096), np.uint64)
    window[:] = 0
    for i, below in enumerate((pdb1, pdb0, ptb)):
        window[512 * i] = below | V
    window[3 * 512:3 * 512 + 10] = RWX
    raw.context("GC", 1, root)
    raw.context("MM", 1, root)                  # a second reader of the same tables adds nothing
    board.vram.flush()
    board.memory.tables.count()
    assert board.counters["page_table_entries"] == 13
    window[3 * 512 + 3:3 * 512 + 5] = 0
    window[3 * 512 + 5] = RWX                   # the same value
    board.memory.tables.count()                 # not flushed yet
    assert board.counters["page_table_entries"] == 13
    board.vram.flush()
    board.memory.tables.count()
    assert board.counters["page_table_entries"] == 15


def test_semaphore(raw: RawBoard) -> None:
    assert raw.peek("MMVM_INVALIDATE_ENG17_SEM") == 1
    assert raw.peek("MMVM_INVALIDATE_ENG17_SEM") == 0       # taken
    raw.poke("MMVM_INVALIDATE_ENG17_SEM", 0)
    assert raw.peek("MMVM_INVALIDATE_ENG17_SEM") == 1
    raw.poke("MMVM_INVALIDATE_ENG16_REQ", 0xF80001)
    assert raw.board.notes.of("invalidate-semaphore")
