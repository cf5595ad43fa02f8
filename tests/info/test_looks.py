"""queue, ring, ih, vm, vm map and top on a mock card that our driver runs, looked at from beside it."""

from __future__ import annotations

import csv
import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from info_checks import Run, Worked, checked

from amdrv import pm4, sdma
from amdrv.errors import HalError
from amdrv.hal.looking import look
from tools.amdrv_info import engines, source, space


def test_queues_are_those_of_the_driver(worked: Worked, run: Run) -> None:
    status, out, err = run("queue", "--hal", "mock", "--json")
    said = checked(out)
    assert (status, err, said["missing"]) == (0, "", [])
    device = worked.device
    rings = [*device.compute_rings, *device.sdma_rings]
    assert [q["name"] for q in said["queues"]] == ["compute 1.0.0", "SDMA 0.0", "SDMA 1.0"]
    for queue, ring in zip(said["queues"], rings, strict=True):
        assert (queue["ring_address"], queue["ring_words"]) == (ring.buffer.address, ring.words)
        assert (queue["write"], queue["pending_words"], queue["vmid"]) == (ring.wptr % ring.words, 0, 8)
        assert queue["doorbell"] == ring.doorbell
    assert worked.board.read_bar(5, 4 * device.regs.GRBM_GFX_CNTL.address, 4) == 0      # the selector is back
    status, out, _ = run("queue", "--hal", "mock")
    assert status == 0 and "SDMA 0.0" in out and "idle" in out


def test_rings_are_disassembled(worked: Worked, run: Run) -> None:
    status, out, _ = run("ring", "--hal", "mock", "--json")
    rings = {ring["name"]: ring for ring in checked(out)["rings"]}
    assert status == 0
    packets = rings["SDMA 0.0"]["packets"]
    assert [p["name"] for p in packets] == ["COPY_LINEAR", "TRAP"] and {p["state"] for p in packets} == {"read"}
    assert packets[0]["fields"]["SRC_ADDR"] == worked.source.address and packets[0]["at"] == 0
    assert [word for p in packets for word in p["words"]] == worked.copy
    assert [p["name"] for p in rings["compute 1.0.0"]["packets"]][-1] == "WRITE_DATA"
    assert rings["SDMA 1.0"]["packets"] == []
    assert [r["name"] for r in checked(run("ring", "sdma 0", "--hal", "mock", "--json")[1])["rings"]] == ["SDMA 0.0"]
    status, out, _ = run("ring", "--hal", "mock")
    assert status == 0 and "COPY_LINEAR" in out and "nothing was ever submitted" in out
    status, out, err = run("ring", "compute 9", "--hal", "mock")
    assert status == 1 and "no active queue 'compute 9'; there are: compute 1.0.0, SDMA 0.0, SDMA 1.0" in err


def test_a_ring_that_stands_shows_what_is_next_and_follows_indirect_buffers(worked: Worked, run: Run) -> None:
    """The queue waits for memory; behind the wait stands a buffer of packets."""
    inner = sdma.build("FENCE", MTYPE="UC", ADDR=worked.target.address, DATA=9)
    device = worked.device
    buffer = device.alloc(4096, kind="system", name="packets")
    assert buffer.view is not None and worked.target.view is not None
    words = np.array([*inner, *[0] * (8 - len(inner))], np.uint32)
    buffer.view[:4 * len(words)] = words.view(np.uint8)
    gate = worked.target.address + 0x100
    worked.target.view[0x100:0x104] = 0
    wait = sdma.build("POLL_REGMEM", MEM_POLL=1, FUNC=3, ADDR=gate, VALUE=5, MASK=0xFFFFFFFF, INTERVAL=4,
                      RETRY_COUNT=0xFFF)
    align = -(device.sdma_rings[0].wptr + len(wait) + 6 - 6) % 8       # its position in the ring is the engine's matter
    call = sdma.build("INDIRECT", VMID=8, IB_BASE=buffer.address, IB_SIZE=len(words), CSA_ADDR=0)
    device.sdma_rings[0].submit(np.array([*wait, *[0] * align, *call], np.uint32))
    status, out, _ = run("ring", "SDMA 0.0", "--hal", "mock", "--json")
    (ring,) = checked(out)["rings"]
    states = [(p["name"], p["state"]) for p in ring["packets"] if p["state"] != "read"]
    assert status == 0 and states[0] == ("POLL_REGMEM", "next") and states[-1] == ("INDIRECT", "pending")
    inside = ring["packets"][-1]["inside"]
    assert inside["address"] == buffer.address and inside["packets"][0]["name"] == "FENCE"
    assert inside["packets"][0]["fields"]["DATA"] == 9
    status, out, _ = run("ring", "SDMA 0.0", "--hal", "mock")
    assert "\u25b6" in out and f"in the buffer at {buffer.address:#x}" in out
    worked.target.view[0x100:0x104] = np.array([5], np.uint32).view(np.uint8)


def test_the_interrupt_ring(worked: Worked, run: Run) -> None:
    status, out, _ = run("ih", "--hal", "mock", "--json")
    said = checked(out)
    assert status == 0 and said["enabled"] and said["read"] == said["write"]
    assert said["entries"][-1]["source_name"] == "SDMA_TRAP" and said["entries"][-1]["state"] == "read"
    assert len(said["entries"]) == said["read"] // 32
    assert checked(run("ih", "--hal", "mock", "--json", "--last", "0")[1])["entries"] == []
    assert "SDMA_TRAP" in run("ih", "--hal", "mock")[1]


def test_an_interrupt_ring_that_nobody_set_up(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import mock
    from amdrv.hal.mock import MockHal
    machine = mock.Machine([mock.Gpu("gfx1100", vram="256M")])
    monkeypatch.setattr(MockHal, "_shared", MockHal(machine))
    try:
        status, out, _ = run("ih", "--hal", "mock", "--json")
        assert status == 1 and "no driver has set it up" in checked(out)["problem"]
        status, out, _ = run("queue", "--hal", "mock")
        assert status == 0 and "no queue is active" in out
        status, _, err = run("vm", "map", "--hal", "mock")
        assert status == 1 and "VMID 8 of the gc hub is off" in err
        status, out, _ = run("wave", "--hal", "mock", "--json")
        assert status == 0 and checked(out)["waves"] == []
    finally:
        machine.close()


def test_vm_says_where_an_address_is_and_whose(worked: Worked, run: Run) -> None:
    address = worked.source.address + 0x1234
    status, out, _ = run("vm", hex(address), "--hal", "mock", "--json")
    said = checked(out)
    assert status == 0 and said["valid"] and said["owner"] is None
    offset = worked.source.segments[0][0] + 0x1234
    assert said["physical"]["space"] == "vram" and said["physical"]["address"] == offset
    host = checked(run("vm", hex(worked.target.address), "--hal", "mock", "--json")[1])
    assert host["physical"]["space"] == "system" and host["physical"]["address"] == worked.target.segments[0][0]
    with_owner = source.of_device(worked.device)
    from tools.amdrv_info import memory
    assert "source of the copy" in memory.document(with_owner, "gc", 8, address)["owner"]
    assert "VRAM" in run("vm", hex(address), "--hal", "mock")[1]


def test_vm_map_is_what_the_driver_allocated(worked: Worked, run: Run) -> None:
    status, out, _ = run("vm", "map", "--hal", "mock", "--json")
    said = checked(out)
    assert status == 0 and said["problems"] == []
    used = worked.device.require_memory().allocated
    assert said["bytes"] == {"vram": used["vram"], "system": used["system"]}
    for allocation in worked.device.require_memory().alive:
        covering = [r for r in said["ranges"] if r["address"] <= allocation.address
                    and allocation.address + allocation.size <= r["address"] + r["size"]]
        assert len(covering) == 1 and covering[0]["kind"] == allocation.kind
    ends = [r["address"] + r["size"] for r in said["ranges"]]
    assert all(end <= r["address"] for end, r in zip(ends, said["ranges"][1:], strict=False))   # ascending, apart
    assert sum(said["vram"]["cells"]) > 0 and said["vram"]["size"] == 256 << 20
    owners = space.map_document(source.of_device(worked.device), "gc", 8)["ranges"]
    assert any("source of the copy" in name for r in owners for name in r["owners"])
    status, out, _ = run("vm", "map", "--hal", "mock")
    assert status == 0 and "VRAM" in out and hex(worked.source.address) in out
    assert run("vm", "map", "--vmid", "77", "--hal", "mock")[0] == 1


def test_vm_map_as_a_picture(worked: Worked, run: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "map.png"
    assert run("vm", "map", "--hal", "mock", "--picture", str(file))[0] == 0
    assert file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size > 5000
    status, _, err = run("vm", "map", "--hal", "mock", "--picture", str(tmp_path / "map.nonsense"))
    assert status == 1 and "the picture cannot be written" in err


def test_looking_changes_nothing_and_the_driver_goes_on(worked: Worked, run: Run) -> None:
    """Every look, then the driver works: its pointers, the command register and bus mastering are as they were."""
    board = worked.board
    before = board.read_config(4, 2)
    notes = len(list(board.notes))
    for command in (("show",), ("queue",), ("ring",), ("ih",), ("wave",), ("vm", "map"), ("reg", "CP_STAT")):
        assert run(*command, "--hal", "mock")[0] == 0, command
    assert board.read_config(4, 2) == before and before & 4
    assert [str(note) for note in list(board.notes)[notes:]] == []
    worked.device.sdma_rings[0].submit(np.array(worked.copy, np.uint32))
    assert worked.target.view is not None
    while not worked.device.sdma_rings[0].idle:
        worked.device.interrupts.wait(0.05)
    assert np.array_equal(worked.target.view[1:100], np.arange(1, 100, dtype=np.uint8))
    worked.device.check()


def test_a_look_refuses_to_write(worked: Worked) -> None:
    with look(worked.hal, "0000:03:00.0") as seen:
        with pytest.raises(HalError, match="is only looked at: nothing is written"):
            seen.bar(5).write32(0, 1)
        with pytest.raises(HalError, match="configuration space is only looked at"):
            seen.config.write(4, 2, 0)
        with pytest.raises(ValueError, match="read-only"):
            seen.bar(0).view(0, 4)[0] = 1
        with pytest.raises(HalError, match="nothing is on the bus"):
            seen.system(0x7777_0000_0000, 8)
    with source.live(worked.hal, worked.hal.functions()[0]) as seen_card, \
            pytest.raises(HalError, match="allow it with --select"), seen_card.selected(1, 0, 0):
        pass


def test_top_in_three_forms(worked: Worked, run: Run) -> None:
    status, out, _ = run("top", "--hal", "mock", "--count", "2", "--interval", "0.05", "--json")
    samples = [checked(line) for line in out.splitlines()]
    assert status == 0 and len(samples) == 2
    assert {e["name"] for e in samples[0]["engines"]} >= {"graphics core", "compute processor", "SDMA 0"}
    used = worked.device.require_memory().allocated
    assert samples[0]["memory"] == {"vram_total": 256 << 20, "vram_used": used["vram"], "system_used": used["system"]}
    assert samples[0]["sensors"] is None and "--run" in samples[0]["missing"][0]
    status, out, _ = run("top", "--hal", "mock", "--count", "3", "--interval", "0.02", "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert status == 0 and len(rows) == 3 and float(rows[2]["seconds"]) > float(rows[0]["seconds"])
    assert rows[0]["memory.vram_total"] == str(256 << 20)
    status, out, _ = run("top", "--hal", "mock", "--count", "1", "--interval", "0.02")
    assert status == 0 and "SDMA 0" in out


@pytest.mark.parametrize(("arguments", "said"), [
    (("--interval", "0"), "is no time between two looks"), (("--csv", "--json"), "not both")])
def test_top_refuses(run: Run, arguments: tuple[str, ...], said: str) -> None:
    status, _, err = run("top", "--hal", "mock", *arguments)
    assert status == 1 and said in err


@given(st.lists(st.sampled_from(["NOP", "WRITE_DATA", "SET"]), min_size=1, max_size=12), st.integers(0, 63))
def test_packets_before_the_read_pointer_are_found(names: list[str], start: int) -> None:
    """In a ring that wraps, among words that nobody wrote: packets end at the pointer, so their beginnings follow."""
    known = {"NOP": pm4.build("NOP"), "SET": pm4.set_registers(0x2C00 + 0x21B, [0x123]),
             "WRITE_DATA": pm4.build("WRITE_DATA", DST_SEL="MEM", WR_CONFIRM=1, DST_ADDR=0x1000, DATA=[0xC0DE01])}
    words = [word for name in names for word in known[name]]
    ring = [0] * 128
    for number, word in enumerate(words):
        ring[(start + number) % 128] = word
    found = engines._before(ring, (start + len(words)) % 128, 120, pm4.decode)
    assert [word for packet in found for word in packet.words][-len(words):] == words
    assert [packet.name for packet in found][-len(names):] == [{"SET": "SET_SH_REG"}.get(n, n) for n in names]


def test_a_whole_ring_back(worked: Worked, run: Run) -> None:
    status, out, _ = run("ring", "SDMA 0.0", "--hal", "mock", "--back", "65536", "--json")
    assert status == 0 and [p["name"] for p in checked(out)["rings"][0]["packets"]] == ["COPY_LINEAR", "TRAP"]


def test_aql_slots_that_were_not_taken() -> None:
    """A dispatch as hsa.h lays it out, a barrier, a slot that was taken, one of no type."""
    dispatch = struct.pack("<HHHHHHIIIIIQQQQ", 2 | 1 << 8 | 2 << 9 | 2 << 11, 3, 64, 1, 1, 0, 256, 1, 1, 0, 512,
                           0x1000_0000_2000, 0x3000, 0, 0x4000)
    barrier = struct.pack("<HHI5QQQ", 3, 0, 0, 0x5000, 0, 0, 0, 0, 0, 0x6000)
    taken, strange = struct.pack("<H62x", 1), struct.pack("<H62x", 9)
    slots = np.frombuffer(dispatch + barrier + taken + bytes(64) + strange, np.uint32).tolist()
    first, second, third = engines.aql_packets(slots)
    assert (first["name"], first["at"], first["fields"]["GRID_X"], first["fields"]["KERNEL_OBJECT"]) == (
        "KERNEL_DISPATCH", 0, 256, 0x1000_0000_2000)
    assert first["fields"]["WORKGROUP_X"] == 64 and first["fields"]["COMPLETION_SIGNAL"] == 0x4000
    assert (first["fields"]["BARRIER"], first["fields"]["ACQUIRE"], first["fields"]["RELEASE"]) == (1, 2, 2)
    assert (second["name"], second["fields"]["DEPENDENCY_0"], second["at"]) == ("BARRIER_AND", 0x5000, 16)
    assert third["problem"] == "no such packet type" and third["at"] == 64


PROGRAM = '''
import sys, time
import numpy as np
import hcq
dev = hcq.open("AM")
end = time.monotonic() + float(sys.argv[1])
data = np.arange(1 << 18, dtype=np.uint32)
buffer = dev.alloc(data.nbytes)
while time.monotonic() < end:
    buffer.copyin(data)
    assert buffer.copyout(np.empty_like(data))[7] == 7
if len(sys.argv) > 2:
    raise RuntimeError("on purpose")
'''


def test_top_beside_a_program_sees_its_card_work(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hcq
    import mock
    from amdrv.hal.mock import MockHal
    machine = mock.Machine([mock.Gpu("gfx1100", vram="256M")])
    monkeypatch.setattr(MockHal, "_shared", MockHal(machine))
    monkeypatch.setattr("hcq.registry._open", {})       # an earlier test may have left its card open
    monkeypatch.setenv("AMDRV_HAL", "mock")
    file = tmp_path / "work.py"
    file.write_text(PROGRAM)
    try:
        status, out, err = run("top", "--hal", "mock", "--interval", "0.2", "--json", "--run", str(file), "1.5")
        samples = [checked(line) for line in out.splitlines()]
        assert (status, err) == (0, "") and samples
        assert max(q["written_words"] for s in samples for q in s["queues"]) > 0
        (process,) = samples[-1]["processes"]
        assert process["pid"] == os.getpid() and process["memory"]["vram"] > 0
        assert samples[-1]["sensors"]["source"] == "SMU metrics" and samples[-1]["counters"]["copied_bytes"] > 0
        hcq.open("AM").close()
        status, _, err = run("top", "--hal", "mock", "--interval", "0.1", "--json", "--run", str(file), "0.3", "fail")
        assert status == 1 and "the program failed: RuntimeError: on purpose" in err
        hcq.open("AM").close()
    finally:
        machine.close()
    assert "there is no such file" in run("top", "--hal", "mock", "--run", "nowhere.py")[2]
