"""Dumps: what a booted card says of itself in umr's form, read back by two readers that were written apart."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stranger import Stranger, machine_of, release, write_data

import amdrv.dump
import mock
from amdrv.device import Device
from amdrv.errors import PageTableError
from amdrv.hal.mock import MockHal
from mock import discovery, dump
from mock.pagetable import Context
from mock.registers import names_of

MIB = 1 << 20


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Device, Any, list[int], Path]]:
    """(driver, board, addresses with every kind of mapping, its dump)"""
    with mock.Machine([mock.Gpu("gfx1100", vram="256M")]) as machine, Device.open(MockHal(machine)) as device:
        kept = [device.alloc(5 * MIB), device.alloc(64 << 10, kind="system"), device.alloc(12 << 10),
                device.alloc(2 * MIB + 4096, kind="system")]
        addresses = [a.address + at for a in kept for at in (0, 4096, a.nbytes - 1)]
        path = dump.write(machine.gpus[0], tmp_path_factory.mktemp("dump") / "card.txt")
        yield device, machine.gpus[0], addresses, path


def plain(steps: Any) -> list[tuple[str, int, int]]:
    return [(step[0], step[1], int(step[-1])) for step in steps]


def test_offline_walks_equal_the_live_one(booted: Any) -> None:
    device, board, addresses, path = booted
    ours, theirs = dump.load(path), amdrv.dump.load(path)
    context = board.memory.hubs["gc"].current().contexts[8]
    for address in [*addresses, addresses[-1] + (1 << 40), 0x1000]:
        live = dump.walk(dump._Source(board).read, context, address)
        assert ours.walk("gc", 8, address) == live
        assert plain(theirs.walk("gc", 8, address)) == plain(live)
    for address in addresses:                           # and the driver's own idea of its tables
        assert plain(theirs.walk("gc", 8, address)) == plain(device.memory.tables.walk(address))
        assert theirs.walk("gc", 8, address)[-1].entry.valid


def test_rings_and_descriptors_are_in_it(booted: Any) -> None:
    _device, board, _addresses, path = booted
    text = dump.load(path)
    queue = next(q for q in board.mec.queues.values() if q.active)
    assert text.register("CP_HQD_ACTIVE", queue.bank) == 1
    assert text.register("CP_HQD_PQ_BASE", queue.bank) == queue.hqd("PQ_BASE")
    source = dump._Source(board)
    for hub, vmid, address, size in dump._regions(board):
        if hub == "bus":
            place = (address, True)
        else:
            place = source.place(board.memory.hubs[hub], vmid, address)
        assert place is not None and text.read(*place, min(size, 4096)) == source.read(*place, min(size, 4096))
    assert text.discovery == discovery.build(board.gpu)
    assert text.register("RCC_DEV0_EPF0_RCC_CONFIG_MEMSIZE") == 256
    assert amdrv.dump.load(path).register("RCC_DEV0_EPF0_RCC_CONFIG_MEMSIZE") == 256


def test_a_hung_ring_is_read_offline(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The packet that hangs and those behind it, by the driver's reader."""
    with machine_of("gfx1100:vram=64M") as machine:
        driver = Stranger(machine.gpus[0], machine.bus).boot()
        driver.compute.put(write_data(driver.signal_at(0), 1) + write_data(1 << 46, 7)
                           + release(driver.signal_at(1), 9))
        driver.compute.ring()
        driver._until(lambda: driver.board.notes.of("queue-hang"))
        path = dump.write(driver.board, tmp_path / "hung.txt")
        with pytest.raises(ValueError, match=r"no queue 'x' is active; there are compute 1\.0\.0"):
            dump.dumps(driver.board, ring="x")
        assert dump.dumps(driver.board, ring="compute 1.0.0").count("RINGDATA") == 1
    text = dump.load(path)
    assert text.ring[:3] == [5, 18, 18] and len(text.ring) == 3 + 4096
    theirs = amdrv.dump.load(path)
    assert theirs.ring == text.ring
    assert [packet.name for packet in theirs.packets()] == ["WRITE_DATA", "RELEASE_MEM"]
    assert theirs.packets()[0].tail == (7,)
    assert amdrv.dump.main([str(path), "ring", "--all"]) == 0
    assert capsys.readouterr().out.count("WRITE_DATA") == 2
    assert amdrv.dump.main(["--json", str(path), "ring"]) == 0
    assert len(json.loads(capsys.readouterr().out)["packets"]) == 2
    with pytest.raises(amdrv.dump.DumpError, match="dump has no RINGDATA"):
        amdrv.dump.parse("").packets()
    (nothing := tmp_path / "nothing.txt").write_text("; a remark\n")
    with pytest.raises(amdrv.dump.DumpError, match=r"nothing\.txt: is empty"):
        amdrv.dump.load(nothing)


def test_writing_a_dump_changes_nothing(booted: Any) -> None:
    _device, board, _addresses, path = booted
    notes, counters = len(board.notes), dict(board.counters)
    without_clock = re.compile(r"clock \d+|MMIO@0x[0-9a-f]+=\{0x[0-9a-f]+\} ; \S*(TSC|CLOCK)\S*\n")   # 0 is left out
    again = dump.dumps(board)
    assert without_clock.sub("", again) == without_clock.sub("", path.read_text())
    assert len(board.notes) == notes and dict(board.counters) == counters


def test_the_form_is_umrs() -> None:
    """Every liberty that umr's own reader takes."""
    place = 4 * names_of("gfx1100").find("GCMC_VM_FB_LOCATION_BASE")[1]
    text = f"MMIO@{place:X}" + """ ; a remark = {
        = {0x8000, 0x8001} ; GCMC_VM_FB_LOCATION_BASE
        VRAM@1000={0001 0203_0405
                   0607} SYSRAM@0x100000000= { ff }
        VRAM@0x1008={08}
        SQ@0x12={1} RINGDATA={1,2}
        DISCOVERY={0714}"""
    ours, theirs = dump.loads(text), amdrv.dump.parse(text)
    assert ours.registers == theirs.values == {place: [0x8000, 0x8001]}
    assert ours.register("GCMC_VM_FB_LOCATION_BASE") == theirs.register("GCMC_VM_FB_LOCATION_BASE") == 0x8001
    assert ours.read(0x1002, False, 7) == bytes(range(2, 9))        # blocks that touch are one
    assert theirs.read("VRAM", 0x1002, 6) == bytes(range(2, 8))
    assert ours.read(1 << 32, True, 1) == theirs.read("SYSRAM", 1 << 32, 1) == b"\xff"
    assert ours.discovery == theirs.discovery == b"\x07\x14" and ours.ring == theirs.ring == [1, 2]


@pytest.mark.parametrize("text, where", [
    ("MMIO@0x10={1}\n\nVRAM@0x10 {00}", "line 3"), ("hello", "line 1"), ("\nMMIO@0x10={zz}", "line 2"),
    ("VRAM@0x10={000}", "line 1"), ("VRAM@0x10={00", "line 1"), ("; x\n; y\nMMIO@={1}", "line 3")])
def test_what_is_no_dump_is_refused_with_its_line(text: str, where: str) -> None:
    with pytest.raises(dump.DumpError, match=where):
        dump.loads(text, "card.txt")
    with pytest.raises(amdrv.dump.DumpError, match=where):
        amdrv.dump.parse(text, "card.txt")


def test_what_is_not_in_a_dump_is_said(booted: Any, tmp_path: Path) -> None:
    _device, _board, addresses, path = booted
    theirs = amdrv.dump.load(path)
    with pytest.raises(PageTableError, match="VMID 3 of the gc hub is off"):
        theirs.walk("gc", 3, 0)
    with pytest.raises(PageTableError, match=r"0x[0-9a-f]+ is outside of VMID 8's 0x0\.\."):
        theirs.walk("gc", 8, 1 << 60)
    theirs.memory["VRAM"].clear()
    with pytest.raises(amdrv.dump.DumpError, match="has no VRAM@0x"):
        theirs.walk("gc", 8, addresses[0])
    ours = dump.load(path)
    ours.vram.clear()
    with pytest.raises(LookupError, match="of video memory are not in the dump"):
        ours.walk("gc", 8, addresses[0])
    with pytest.raises(amdrv.dump.DumpError, match="cannot be read: No such file"):
        amdrv.dump.load(tmp_path / "none")


def test_the_command(booted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    _device, _board, addresses, path = booted
    assert amdrv.dump.main([str(path), "vm", "gc", "8", hex(addresses[0])]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("PDB2[")
    assert amdrv.dump.main(["--json", str(path), "vm", "gc", "8", hex(addresses[0])]) == 0
    steps = json.loads(capsys.readouterr().out)["steps"]
    assert [step["level"] for step in steps][:3] == ["PDB2", "PDB1", "PDB0"]
    assert amdrv.dump.main([str(path), "vm", "gc", "8", hex(1 << 46)]) == 1         # nothing is mapped there
    capsys.readouterr()
    assert amdrv.dump.main([str(path), "reg", "GCVM_CONTEXT8_CNTL"]) == 0
    assert "ENABLE_CONTEXT=1, PAGE_TABLE_DEPTH=3" in capsys.readouterr().out
    assert amdrv.dump.main([str(path), "reg", "NOTHING*"]) == 1
    assert "has no register 'NOTHING*'" in capsys.readouterr().err
    assert amdrv.dump.main([__file__, "reg", "X"]) == 1
    assert "line 1:" in capsys.readouterr().err


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_walks_of_any_tables_agree(data: Any) -> None:
    """Depth, block size, start, fragments of tables and further translation, system tables: entries at random."""
    depth, block = data.draw(st.integers(0, 3)), data.draw(st.sampled_from([9, 10, 12]))
    start = data.draw(st.sampled_from([0, 0x20000, 0x2000_0000]))
    page = start + data.draw(st.integers(0, (1 << min(block + 9 * depth, 32)) - 1))
    entry_of: dict[tuple[int, bool], int] = {}

    def memory(address: int, system: bool, nbytes: int) -> bytes:
        if (address, system) not in entry_of:
            flags = data.draw(st.sampled_from([1, 1, 1, 3, 0, 1 | 1 << 54, 1 | 1 << 56, 1 | 9 << 59, 0x71]))
            entry_of[address, system] = data.draw(st.integers(1, 1 << 20)) << 12 | flags
        return entry_of[address, system].to_bytes(8, "little")

    context = Context(True, depth, block, 0x5000 | 1, start, 0xF_FFFF_FFFF, 0)
    live = dump.walk(memory, context, page << 12)
    lines = [f"{'SYSRAM' if system else 'VRAM'}@{at:#x}={{{entry.to_bytes(8, 'little').hex()}}}"
             for (at, system), entry in entry_of.items()]
    names = names_of("gfx1100")
    cntl = names.find("GCVM_CONTEXT5_CNTL")[0].pack(ENABLE_CONTEXT=1, PAGE_TABLE_DEPTH=depth,
                                                    PAGE_TABLE_BLOCK_SIZE=block - 9)
    for name, value in (("CNTL", cntl), ("PAGE_TABLE_BASE_ADDR_LO32", 0x5001), ("PAGE_TABLE_START_ADDR_LO32", start),
                        ("PAGE_TABLE_END_ADDR_LO32", 0xFFFFFFFF), ("PAGE_TABLE_END_ADDR_HI32", 0xF)):
        lines.append(f"MMIO@{4 * names.find('GCVM_CONTEXT5_' + name)[1]:#x}={{{value:#x}}}")
    text = "\n".join(lines)
    assert dump.loads(text).walk("gc", 5, page << 12) == live
    assert plain(amdrv.dump.parse(text).walk("gc", 5, page << 12)) == plain(live)
