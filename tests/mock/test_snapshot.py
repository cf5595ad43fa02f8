"""Snapshots: a booted machine in a file goes on in another process, with the same memory, registers and walks."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stranger import (
    RING_WORDS,
    VECTOR_ADD,
    Stranger,
    acquire,
    dispatch,
    machine_of,
    release,
    wait_memory,
    write_data,
)

from amdrv.device import Device
from amdrv.hal.mock import MockHal
from mock import Machine, dump, snapshot
from mock.snapshot import SnapshotError

HERE = Path(__file__)


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """(our driver on a booted card, an allocation of video memory, one of the host's, the snapshot's path)"""
    with machine_of("gfx1100:vram=256M") as machine, Device.open(MockHal(machine)) as device:
        vram, system = device.alloc(3 << 20), device.alloc(32 << 10, kind="system")
        assert vram.view is not None and system.view is not None
        pattern = np.random.default_rng(5).integers(0, 256, vram.nbytes, np.uint8)
        vram.view[:] = pattern
        device.flush_hdp()
        done = system.address
        device.compute_rings[0].submit(np.array(release(done, 77), np.uint32))
        while int(system.view[:8].view(np.uint64)[0]) != 77:
            device.check()
        path = snapshot.save(machine, tmp_path_factory.mktemp("snapshot") / "booted.snapshot")
        yield device, machine, vram, system, pattern, path


def test_registers_memory_and_walks_are_the_same(booted: Any) -> None:
    _device, machine, vram, system, pattern, path = booted
    old = machine.gpus[0]
    with snapshot.load(path) as restored:
        new = restored.gpus[0]
        assert new.regs.store == old.regs.store and new.regs.far() == old.regs.far()
        assert sorted(new.regs.banks(), key=str) == sorted(old.regs.banks(), key=str)
        assert new.regs.selection == old.regs.selection
        assert [new.read_config(o, 4) for o in range(0, 4096, 4)] == [old.read_config(o, 4) for o in range(0, 4096, 4)]
        assert (new.vram.view == old.vram.view).all()
        assert {bus: view.tobytes() for bus, view in restored.system.items()} == {
            bus: ctypes.string_at(host, size) for bus, host, size in machine.bus.attached()}
        for address in (vram.address, vram.address + (1 << 20), system.address, system.address + 0x5000, 0x1234000):
            for hub in ("gc", "mm"):
                walks = [dump.walk(dump._Source(board).read, board.memory.hubs[hub].current().contexts[8], address)
                         for board in (old, new)]
                assert walks[0] == walks[1]
        assert new.memory.read("gc", 8, vram.address, vram.nbytes) == pattern.tobytes()
        assert new.counters == old.counters and list(new.notes) == list(old.notes)
        assert new.clock() >= old.clock() - 100_000_000 * 3600
        for queue, other in zip(new.mec.queues.values(), old.mec.queues.values(), strict=True):
            assert (queue.active, queue.read, queue.write) == (other.active, other.read, other.write)


CLIENT = '''
import sys, json
import numpy as np
sys.path.insert(0, sys.argv[3])
from mock import snapshot
from stranger import Queue, halves, release, sdma_copy, sdma_fence
facts = json.loads(sys.argv[2])
machine = snapshot.load(sys.argv[1])
board = machine.gpus[0]

def host(address):                       # a GPU address of system memory -> its bytes, by the card's own tables
    from mock import dump
    place = dump._Source(board).place(board.memory.hubs["gc"], 8, address)
    for bus, view in machine.system.items():
        if bus <= place[0] < bus + len(view):
            return view[place[0] - bus + address % 4096:]

def push(queue, packet, unit):           # behind what the old driver put there
    write = queue.write // unit
    size = queue.words if unit == 1 else queue.size // 4
    for i, word in enumerate(packet):
        at = (write + i) % size
        host(queue.base + 4 * at)[:4].view(np.uint32)[0] = word
    return (write + len(packet)) * unit

done = facts["done"]
compute = next(q for q in board.mec.queues.values() if q.active)
value = push(compute, release(done, 78), 1)
board.write_bar(2, 4 * compute.hqd_field("PQ_DOORBELL_CONTROL", "DOORBELL_OFFSET"), 8, value)
while int(host(done)[:8].view(np.uint64)[0]) != 78:
    assert board.read_bar(5, 0, 4) != 1, board.notes
sdma = next(q for row in board.sdma.queues for q in row if q.enabled)
value = push(sdma, sdma_copy(facts["vram"], facts["target"], 4096) + sdma_fence(done + 16, 5), 4)
poll = sdma.wide("RB_WPTR_POLL_ADDR_LO", "RB_WPTR_POLL_ADDR_HI") & ~3
if poll:
    host(poll)[:8].view(np.uint64)[0] = value
board.write_bar(2, 4 * sdma.field("DOORBELL_OFFSET", "OFFSET"), 8, value)
while int(host(done + 16)[:4].view(np.uint32)[0]) != 5:
    board.read_bar(5, 0, 4)
print(json.dumps({"copied": host(facts["target"])[:4096].tobytes().hex(), "notes": [str(n) for n in board.notes]}))
machine.close()
'''


def test_a_booted_card_goes_on_in_another_process(booted: Any, tmp_path: Path) -> None:
    """Boot with our driver, snapshot, restore elsewhere: a client of a few lines uses the driver's queues."""
    _device, _machine, vram, system, pattern, path = booted
    script = tmp_path / "client.py"
    script.write_text(CLIENT)
    facts = {"done": system.address, "vram": vram.address + (1 << 20), "target": system.address + 0x4000}
    result = subprocess.run([sys.executable, str(script), str(path), json.dumps(facts), str(HERE.parent)],
                            capture_output=True, text=True, timeout=120, cwd=HERE.parents[2])
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout)
    assert bytes.fromhex(said["copied"]) == pattern[1 << 20:(1 << 20) + 4096].tobytes()
    assert not said["notes"]


def test_every_block_goes_on(tmp_path: Path) -> None:
    """A stranger's machine with two cards, a copy between them, a hung queue, a halved BAR: all of it afterwards."""
    with machine_of("gfx1100:vram=64M,count=2") as machine:
        driver = Stranger(machine.gpus[0], machine.bus).boot()
        other = Stranger(machine.gpus[1], machine.bus).boot()
        code, data = driver.host(4096), driver.host(3 * 4096)
        code[:4 * len(VECTOR_ADD)].view(np.uint32)[:] = VECTOR_ADD
        data[:8192].view(np.float32)[:] = 2
        other.compute.put(write_data(1 << 46, 1))
        other.compute.ring()
        other._until(lambda: other.board.notes.of("queue-hang"))
        path = snapshot.save(machine, tmp_path / "two.snapshot")
        addresses = {view.ctypes.data: bus for bus, host, _size in machine.bus.attached()
                     for view in (code, data, driver.signals.view(np.uint8), driver.compute.memory)
                     if view.ctypes.data == host}
        with snapshot.load(path) as restored:
            board = restored.gpus[0]
            views = {host: restored.system[bus] for host, bus in addresses.items()}
            ring = views[driver.compute.base]
            place = int(data.ctypes.data)
            arguments = views[place][8192 + 2048:].view(np.uint64)
            arguments[:3] = place, place + 4096, place + 8192
            words = acquire() + dispatch(driver, int(code.ctypes.data), place + 8192 + 2048, 4, 64) \
                + release(driver.signal_at(3), 9)
            at = driver.compute.write
            for i, word in enumerate(words):
                ring[:4 * RING_WORDS].view(np.uint32)[(at + i) % RING_WORDS] = word
            board.write_bar(2, 4 * driver.compute.doorbell, 8, at + len(words))
            signals = views[int(driver.signals.ctypes.data)].view(np.uint64)
            try:
                driver._until(lambda: board.read_bar(5, 0, 4) + 1 and int(signals[3]) == 9)
            except TimeoutError:
                pytest.fail(f"the restored queue does not go on: {board.notes}")
            assert (views[place][8192:9216].view(np.float32) == 4).all()
            assert board.counters["kernels"] == 1 and machine.gpus[0].counters["kernels"] == 0
            hung = next(q for q in restored.gpus[1].mec.queues.values() if q.active)
            assert hung.hung and "0x400000000000" in hung.hung
            assert restored.gpus[1].notes.of("queue-hang")
            assert restored.gpus[1].read_bar(5, 4 * driver._dwords["GCVM_L2_PROTECTION_FAULT_STATUS"][1], 4)
            assert board.psp.autoload_done and board.smu.alive and board.psp.loaded == machine.gpus[0].psp.loaded


def test_the_environment_names_a_snapshot(booted: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And the driver, opened on a card that another process left running, resets and boots it."""
    monkeypatch.setattr("mock.nbio.READY_SECONDS", 0.01)        # our driver waits for it, and does not count its looks
    monkeypatch.setenv("AMDRV_MOCK", f"snapshot:{booted[-1]}")
    with Machine.from_environment() as machine:
        assert machine.gpus[0].psp.autoload_done and machine.gpus[0].smu.alive
        with Device.open(MockHal(machine)) as device:
            system = device.alloc(4096, kind="system")
            assert system.view is not None
            device.compute_rings[0].submit(np.array(release(system.address, 5), np.uint32))
            while int(system.view[:8].view(np.uint64)[0]) != 5:
                device.check()
    monkeypatch.setenv("AMDRV_MOCK", f"snapshot:{tmp_path / 'none'}")
    with pytest.raises(ValueError, match=r"AMDRV_MOCK='snapshot:.*none': .*none: cannot be read: No such file"):
        Machine.from_environment()


def test_engines_must_be_at_rest(tmp_path: Path) -> None:
    with machine_of("gfx1100:vram=64M") as machine:
        driver = Stranger(machine.gpus[0], machine.bus).boot()
        driver.compute.put(wait_memory(driver.signal_at(5), 1))
        driver.compute.ring()
        driver._until(lambda: driver.board.engines.busy)
        with pytest.raises(SnapshotError, match=r"engine 'compute 1\.0\.0' still works after 0\.05 s"):
            snapshot.save(machine, tmp_path / "x", timeout=0.05)
        assert not (tmp_path / "x").exists()
        driver.signals[5] = 1


def test_bad_files(booted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = booted[-1].read_bytes()
    head = len(snapshot.MAGIC)
    body = zlib.decompress(whole[head:])
    bad = {"cut": (whole[:len(whole) // 2], "cut off after"), "none": (b"hello", "this is no snapshot"),
           "empty": (b"", "this is no snapshot"),
           "flipped": (whole[:5000] + bytes([whole[5000] ^ 0xFF]) + whole[5001:], "damaged after|cut off|do not fit"),
           "version": (snapshot.MAGIC + zlib.compress(b"\x81\xa7version\x63"), "of version 99; this program reads 1"),
           "short": (snapshot.MAGIC + zlib.compress(body[:len(body) - 5]), "cut off after")}
    for name, (content, why) in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SnapshotError, match=why):
            snapshot.load(tmp_path / name)
        assert snapshot.main([str(tmp_path / name)]) == 2
        assert capsys.readouterr().err.startswith("error: ")
    with pytest.raises(SnapshotError, match="cannot be read: No such file"):
        snapshot.load(tmp_path / "nothing")


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1 << 30), st.integers(0, 255))
def test_any_damage_is_one_clear_error(booted: Any, at: int, value: int) -> None:
    """One byte changed anywhere: an error of ours or, where zlib cannot tell, a machine."""
    import tempfile
    whole = bytearray(booted[-1].read_bytes())
    whole[at % len(whole)] ^= value or 1
    with tempfile.NamedTemporaryFile() as file:
        file.write(whole)
        file.flush()
        try:
            snapshot.load(file.name).close()
        except SnapshotError as error:
            assert file.name in str(error)


def test_it_is_sparse(booted: Any) -> None:
    """A few megabytes of 256: what the PSP loaded, and 3 MiB of random bytes."""
    assert booted[-1].stat().st_size < 8 << 20


def test_the_command(booted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert snapshot.main([str(booted[-1]), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["cards"][0]["vram"] == 256 << 20 and "sdma 0.0" in found["cards"][0]["queues"]
    assert snapshot.main([str(booted[-1])]) == 0
    assert "1 cards, " in capsys.readouterr().out
