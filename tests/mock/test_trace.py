"""Watching: what is recorded is what happened, and the command shows, compares and draws it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stranger import (
    Stranger,
    acquire,
    flush_hdp,
    halves,
    machine_of,
    packet,
    release,
    sdma_copy,
    sdma_fence,
    sdma_trap,
    write_data,
)

from mock.trace import events, views
from mock.trace.__main__ import main
from mock.trace.events import Event, TraceError

MACHINE = "gfx1100:vram=64M"


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """A watched machine, by the name of its file."""
    machines: list[Any] = []

    def make(name: str, text: str = MACHINE) -> Any:
        monkeypatch.setenv("AMDRV_MOCK_TRACE", str(tmp_path / name))
        machines.append(machine_of(text))
        return machines[-1]
    yield make
    for machine in machines:
        machine.close()


def test_registers_that_engines_touch_are_recorded(watch: Any) -> None:
    with watch("engine.trace") as machine:
        driver = Stranger(machine.gpus[0], machine.bus).boot()
        driver.compute.put(flush_hdp(driver) + release(driver.signal_at(0), 1))
        driver.compute.ring()
        driver.done(0, 1)
        path = machine.trace.path
    file = events.read(path)
    found = [(event.kind, event.track, file.register(event)) for event in file.events
             if event.kind.startswith("engine-")]
    assert found == [("engine-write", "compute 1.0.0", "BIF_BX_PF0_GPU_HDP_FLUSH_REQ"),
                     ("engine-read", "compute 1.0.0", "BIF_BX_PF0_GPU_HDP_FLUSH_DONE")]


def test_windows_and_what_the_cpu_stored_through_them(watch: Any) -> None:
    """The CPU's loads leave no trace; its stores are found by the flush, page by page."""
    with watch("stores.trace") as machine:
        board = machine.gpus[0]
        board.write_config(4, 2, 6)
        window = np.frombuffer(board.bar_memory(0, 0x10000, 0x8000), np.uint8)
        assert int(window[0x3000]) >= 0
        window[0x1000:0x2001] = window[0x5000] ^ 1
        board.write_bar(0, 0x40004, 4, 7)
        board.write_bar(5, 0x385C, 4, 0)
        path = machine.trace.path
        machine.trace.close()
        window[0], vram = window[0] ^ 1, board.vram
        assert vram.flush() == 1 and "window" not in vars(vram)         # nobody watches any more
    file = events.read(path)
    opened = [file.describe(event) for event in file.events if event.kind == "window"]
    assert opened == ["window BAR0+0x10000, 0x8000 bytes"]
    stored = [file.describe(event) for event in file.events if event.kind == "stores"]
    assert stored == ["stores by the CPU: 3 pages, 0x11000..0x13000, 0x40000..0x41000"]


def work(driver: Stranger, value: int = 0x1234) -> None:
    """Packets in the ring and in an indirect buffer, a copy, interrupts."""
    target = driver.host(8192)
    at = int(target.ctypes.data)
    indirect = write_data(at, value) + [0xFFFF1000]
    target[4096:4096 + 4 * len(indirect)].view(np.uint32)[:] = indirect
    driver.compute.put(acquire() + packet(0x3F, *halves(at + 4096), len(indirect) | 1 << 23)
                       + release(driver.signal_at(0), 1, interrupt=True))
    driver.compute.ring()
    driver.done(0, 1)
    assert int(target[:4].view(np.uint32)[0]) == value
    driver.copy.put(sdma_copy(at, at + 64, 64) + sdma_fence(driver.signal_at(1), 2) + sdma_trap())
    driver.copy.ring()
    driver.done(1, 2)
    driver._until(lambda: driver.read("IH_RB_WPTR") == 64)


def record(watch: Any, name: str, value: int = 0x1234) -> str:
    with watch(name) as machine:
        work(Stranger(machine.gpus[0], machine.bus).boot(), value)
        path = str(machine.trace.path)
    return path


def test_everything_is_recorded(watch: Any) -> None:
    machine = watch("all.trace")
    board = machine.gpus[0]
    traced_read, traced_write, seen = board.read_bar, board.write_bar, Counter[str]()

    def read(*args: int) -> int:
        seen["read" if args[0] == 5 else "bar-read"] += 1
        return int(traced_read(*args))

    def write(*args: int) -> None:
        seen["write" if args[0] == 5 else "bar-write"] += 1
        traced_write(*args)
    board.read_bar, board.write_bar = read, write
    driver = Stranger(board, machine.bus).boot()
    work(driver)
    driver.compute.put(write_data(1 << 46, 1))      # a fault
    driver.compute.ring()
    driver._until(lambda: driver.read("GCVM_L2_PROTECTION_FAULT_STATUS"))
    driver._until(lambda: board.notes.of("queue-hang"))
    board.engines.stop()
    notes, counters, path = len(board.notes), board.counters.copy(), machine.trace.path
    machine.close()
    file = events.read(path)
    found: Counter[str] = Counter()
    for event in file.events:
        found[event.kind] += event.detail.get("count", 1)
    assert not file.truncated
    assert {kind: found[kind] for kind in seen} == dict(seen) and set(seen) >= {"read", "write", "bar-write"}
    packets = Counter(event.track.split()[0] for event in file.events if event.kind == "packet")
    assert packets == {"compute": counters["pm4_packets"], "sdma": counters["sdma_packets"],
                       "psp": counters["psp_commands"]}
    assert sum(event.kind == "interrupt" and event.detail["stored"] for event in file.events) == counters["interrupts"]
    assert found["note"] == notes and found["msi"] >= 1 and found["walk"] > 1 and found["flush"] > 1
    [fault] = [event for event in file.events if event.kind == "fault"]
    assert fault.detail["address"] == 1 << 46 and fault.detail["write"]
    assert "fault gc VMID 0 write at 0x400000000000" in file.describe(fault)
    bad = [event for event in file.events if event.kind == "packet" and event.detail["error"]]
    assert [event.detail["name"] for event in bad] == ["WRITE_DATA"]
    copy = next(event for event in file.events if event.kind == "packet" and event.detail["name"] == "COPY_LINEAR")
    assert copy.track == "sdma 0.0" and copy.detail["fields"]["COUNT"] == 63 and copy.duration > 0
    written = next(event for event in file.events if event.kind == "packet" and event.detail["name"] == "WRITE_DATA")
    assert written.detail["tail"] == [0x1234] and file.describe(written).endswith(") 0x1234")
    launch = Event("packet", 0, 0, {"engine": "compute 1.0.0", "name": "SET_SH_REG", "fields": {"REG_OFFSET": 0x20C},
                                    "tail": [1, 2], "words": 40, "error": ""})
    assert file.describe(launch) == ("compute 1.0.0: SET_SH_REG(REG_OFFSET=0x20c) COMPUTE_PGM_LO=0x1 "
                                     "COMPUTE_PGM_HI=0x2 and 38 words")
    times = [event.time for event in file.events]
    assert times == sorted(times)


def test_aql_packets_are_recorded(watch: Any) -> None:
    with watch("aql.trace") as machine:
        driver = Stranger(machine.gpus[0], machine.bus, hqd="aql").boot()
        queue = driver.compute
        queue.pointers[1] = 0                       # amd_queue_t begins where the read index is
        for number in range(2):
            queue.words[16 * number:16 * number + 16] = [3, *[0] * 15]      # BARRIER_AND of no signals
        queue.pointers[8] = 2
        driver.board.write_bar(2, 4 * queue.doorbell, 8, 1)     # the last packet's index
        driver._until(lambda: driver.read("GRBM_STATUS") + 1 and int(queue.pointers[0]) == 2)
        path = machine.trace.path
    file = events.read(path)
    found = [event for event in file.events if event.kind == "packet" and event.track != "psp"]
    assert [(event.track, event.detail["name"], event.detail["position"]) for event in found] == [
        ("compute 1.0.0", "AQL_BARRIER_AND", 0), ("compute 1.0.0", "AQL_BARRIER_AND", 1)]
    assert found[0].detail["tail"] == [3, *[0] * 15]


def test_an_unwatched_machine_has_no_hooks() -> None:
    with machine_of(MACHINE) as machine:
        board = machine.gpus[0]
        assert machine.trace is None and board.trace is None
        for holder in (board, board.ih, board.log, *board.memory.hubs.values()):
            assert not any(callable(value) and hasattr(type(holder), name) for name, value in vars(holder).items())


def test_hooks_go_with_the_recording(watch: Any) -> None:
    machine = watch("short.trace")
    board = machine.gpus[0]
    assert "read_bar" in vars(board)
    board.read_bar(5, 0, 4)
    machine.trace.close()
    machine.trace.close()
    assert "read_bar" not in vars(board) and board.trace is None
    board.read_bar(5, 0, 4)
    assert sum(event.kind == "read" for event in events.read(machine.trace.path).events) == 1


def test_a_second_machine_has_a_file_of_its_own(watch: Any) -> None:
    first, second = watch("two.trace"), watch("two.trace", f"{MACHINE},count=2")
    assert second.trace.path == first.trace.path + ".2"
    second.gpus[1].write_bar(5, 4, 4, 9)
    second.close()
    file = events.read(second.trace.path if second.trace else first.trace.path + ".2")
    assert len(file.header["cards"]) == 2 and file.events[-1].card == 1


def test_a_file_that_cannot_be_made_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AMDRV_MOCK_TRACE", str(tmp_path / "no" / "x.trace"))
    with pytest.raises(ValueError, match=r"AMDRV_MOCK_TRACE='.*x.trace': the file cannot be written: No such file"):
        machine_of(MACHINE)


def test_show(watch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = record(watch, "show.trace")

    def show(*options: str) -> list[str]:
        assert main(["show", path, *options]) == 0
        return capsys.readouterr().out.splitlines()
    assert any("write CP_HQD_ACTIVE = 0x00000001 (ACTIVE=1)" in line for line in show("--register", "CP_HQD_*"))
    assert any("write S2A_DOORBELL_ENTRY_0_CTRL = " in line and "through BIF_BX_PF0_RSMU_DATA" in line
               for line in show("--register", "S2A_*"))
    assert all("WRITE_DATA" in line for line in show("--track", "compute*", "--grep", "WRITE_DATA"))
    assert len(show("--kind", "packet", "--track", "sdma 0.0")) == 3
    assert len(show("--limit", "7")) == 7
    half = events.read(path).events[-1].time / 2e9
    assert len(show("--start", str(half))) + len(show("--end", str(half))) == len(show())
    documents = [json.loads(line) for line in show("--json", "--kind", "write", "--register", "IH_RB_CNTL")]
    assert documents and documents[-1]["register"] == "IH_RB_CNTL" and documents[-1]["track"] == "driver"
    assert main(["show", path, "--card", "3"]) == 1
    assert "none of its" in capsys.readouterr().err
    for wrong, why in (("--kind=x", "no kind x; there are read, write"), ("--grep=(", "is no regular expression")):
        with pytest.raises(SystemExit):
            main(["show", path, wrong])
        assert why in capsys.readouterr().err


def test_polling_is_one_event(watch: Any) -> None:
    with watch("poll.trace") as machine:
        board = machine.gpus[0]
        board.write_config(4, 2, 2)
        for dword in (5, 5, 5, 6, 5):
            board.read_bar(5, 4 * dword, 4)
        path = machine.trace.path
    reads = [(e.detail["dword"], e.detail["count"]) for e in events.read(path).events if e.kind == "read"]
    assert reads == [(5, 3), (6, 1), (5, 1)]


def test_summary(watch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path = record(watch, "summary.trace")
    assert main(["summary", path, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["packets"]["WRITE_DATA"] == 1 and found["engines"]["sdma 0.0"]["packets"] == 3
    assert found["engines"]["compute 1.0.0"]["busy_seconds"] > 0
    assert main(["summary", path]) == 0
    text = capsys.readouterr().out
    assert "WRITE_DATA" in text and "0000:03:00.0 (gfx1100, 64 MiB)" in text and "hdp-late" in text


def test_diff(watch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = record(watch, "one.trace"), record(watch, "other.trace", value=0x1235)
    assert main(["diff", one, one]) == 0
    assert "no difference" in capsys.readouterr().out
    assert main(["diff", one, one, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"same": True, "tracks": {}}
    a, b = events.read(one), events.read(other)
    found = views.diff(a, b)
    [difference] = [lines for track, lines in found.items() if track == "card 0, compute 1.0.0"]
    assert any(line.startswith("-compute 1.0.0: WRITE_DATA(") for line in difference)
    assert not views.diff(a, b, shape=True), "the same steps with other values"
    third = events.read(one)
    third.events.remove(next(e for e in third.events if e.kind == "write" and third.register(e) == "IH_RB_BASE"))
    [(track, lines)] = views.diff(a, third, shape=True).items()
    assert track == "card 0, driver" and [line for line in lines if line[0] in "+-"] == ["-write IH_RB_BASE"]
    assert main(["diff", one, other, "--shape"]) == 0
    assert "no difference" in capsys.readouterr().out
    assert main(["diff", one, other]) == 1
    assert "+++ " in capsys.readouterr().out


def test_diff_of_long_tracks_tells_the_first_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "COMPARED", 4)
    left = [f"write {i}" for i in range(20)]
    found = views._difference(left, [*left[:9], "write x", *left[10:]])
    assert found == ["@@ event 10 differs; 14 are left and not aligned @@", "-write 9", "+write x"]


def test_timeline(watch: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = record(watch, "time.trace")
    assert main(["timeline", path, str(tmp_path / "t.json"), "--json"]) == 0
    count = json.loads(capsys.readouterr().out)["events"]
    made = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    file = events.read(path)
    assert count == len(file.events) == sum(event["ph"] != "M" for event in made)
    names = {event["args"]["name"] for event in made if event["name"] == "thread_name"}
    assert names >= {"driver", "compute 1.0.0", "sdma 0.0", "interrupts", "gc hub", "hdp"}
    assert {event["ph"] for event in made} == {"M", "X", "i"}
    assert all(event["dur"] > 0 for event in made if event["ph"] == "X")
    assert main(["timeline", path, str(tmp_path / "no" / "t.json")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_files_that_are_no_traces(watch: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import msgpack
    path = Path(record(watch, "good.trace"))
    with pytest.raises(TraceError, match="cannot be read: No such file"):
        events.read(tmp_path / "none")
    for content in (b"", b"hello\n", b"\xc1\xc1", msgpack.packb([1, 2])):
        (tmp_path / "bad").write_bytes(content)
        assert main(["summary", str(tmp_path / "bad")]) == 2
        assert "this is no trace of the mock card" in capsys.readouterr().err
    (tmp_path / "bad").write_bytes(msgpack.packb({"format": "amdrv mock trace", "version": 99}))
    with pytest.raises(TraceError, match="a trace of version 99; this program reads 1"):
        events.read(tmp_path / "bad")
    whole = path.read_bytes()
    (tmp_path / "cut").write_bytes(whole[:len(whole) - 3])
    cut = events.read(tmp_path / "cut")
    assert cut.truncated and len(cut.events) == len(events.read(path).events) - 1
    assert main(["summary", str(tmp_path / "cut")]) == 0
    assert "ends within an event" in capsys.readouterr().err
    (tmp_path / "odd").write_bytes(whole + msgpack.packb(["write", 1]))
    with pytest.raises(TraceError, match="is damaged"):
        events.read(tmp_path / "odd")
