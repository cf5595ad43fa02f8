"""replay: what a capture submitted, again on the mock card."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from amdrv import pm4, sdma
from tools.ioctl_sniff import abi, capture, decode, replay
from tools.ioctl_sniff.__main__ import main
from tools.ioctl_sniff.capture import Event, Writer

LIBRARY = abi.builtin()
GFX, COMPUTE, DMA = 0, 1, 2
BUFFER, IB, SECOND = 0x8001_0000_0000, 0x8000_0010_0000, 0x8000_0020_0000


def packed(words: list[int]) -> bytes:
    return struct.pack(f"<{len(words)}I", *words)


def number(name: str) -> int:
    return next(each.number for which in LIBRARY.abis for each in which.ioctls if each.name == name)


class Made:
    """A capture by hand: amdgpu's and KFD's conversation as their headers have it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.put("device", 5, text="/dev/dri/renderD128")
        self.put("device", 6, text="/dev/kfd")

    def put(self, kind: str, fd: int, numbers: tuple[int, int, int, int] = (0, 0, 0, 0), *, result: int = 0,
            pieces: list[tuple[int, bytes]] | None = None, text: str = "") -> None:
        data = pieces or []
        self.events.append(Event(kind, 1, 1, fd, 10 * len(self.events) + 1, 1, 0, result, numbers,
                                 data if kind == "ioctl" else [], data, text))

    def map(self, va: int, size: int) -> None:
        self.put("ioctl", 5, (number("DRM_IOCTL_AMDGPU_GEM_VA"), 0x100, 0, 0),
                 pieces=[(0x100, struct.pack("<IIIIQQQ", 7, 0, 1, 0xE, va, 0, size))])

    def kfd(self, va: int, size: int) -> None:
        self.put("ioctl", 6, (number("AMDKFD_IOC_ALLOC_MEMORY_OF_GPU"), 0x100, 0, 0),
                 pieces=[(0x100, struct.pack("<QQQQII", va, size, 1, 0, 1, 1))])

    def submit(self, ip: int, va: int, words: list[int], *more: tuple[int, list[int]], mapped: bool = True) -> None:
        pieces = [(va, packed(words)), *((at, packed(each)) for at, each in more)]
        self.put("dump", 5, (ip, 0, 0, va), result=4 * len(words), pieces=pieces if mapped else [])

    def ring(self, kind: int, va: int, words: list[int], *more: tuple[int, list[int]]) -> None:
        pieces = [(va, packed(words)), *((at, packed(each)) for at, each in more)]
        self.put("dump", -1, (kind, 3, len(words), va), result=4 * len(words), pieces=pieces)

    def play(self) -> list[replay.Replayed]:
        return replay.replay(decode.calls(self.events, LIBRARY), vram="256M")


def test_compute_and_copy_command_buffers_run() -> None:
    made = Made()
    made.map(BUFFER, 0x10000)
    made.map(IB, 0x1000)
    made.submit(COMPUTE, IB, [*pm4.build("WRITE_DATA", DST_SEL="MEM", WR_CONFIRM=1, DST_ADDR=BUFFER, DATA=[1, 2]),
                              *pm4.build("NOP")])
    made.map(SECOND, 0x1000)
    made.submit(DMA, SECOND, [*sdma.build("COPY_LINEAR", COUNT=0xFFF, SRC_ADDR=BUFFER, DST_ADDR=BUFFER + 0x8000)])
    first, second = made.play()
    assert (first.state, first.engine, first.queue) == ("done", "PM4", "compute ring 0"), first.said
    assert first.counts["pm4_packets"] >= 3                     # the buffer, the packets in it, our fence
    assert (second.state, second.engine) == ("done", "SDMA"), second.said
    assert second.counts["copied_bytes"] == 0x1000


def test_a_kfd_ring_with_a_buffer_in_it() -> None:
    made = Made()
    made.kfd(BUFFER, 0x4000)
    inner = pm4.build("WRITE_DATA", DST_SEL="MEM", WR_CONFIRM=1, DST_ADDR=BUFFER, DATA=[7])
    call = pm4.build("INDIRECT_BUFFER", IB_BASE=IB, IB_SIZE=len(inner), VALID=1, VMID=8)
    made.ring(0, 0x7F00_0000_0000, [*call, *pm4.build("NOP")], (IB, inner))
    made.ring(1, 0x7F00_0010_0000, sdma.build("FENCE", MTYPE="UC", ADDR=BUFFER + 64, DATA=3))
    first, second = made.play()
    assert (first.state, first.queue) == ("done", "KFD queue 3"), first.said
    assert (second.state, second.engine) == ("done", "SDMA"), second.said


def test_what_the_card_says_of_a_wrong_submission() -> None:
    """A page fault is told, and the next submission runs; a bad packet stops its queue; the other engine goes on."""
    made = Made()
    made.map(BUFFER, 0x1000)
    made.submit(DMA, SECOND, sdma.build("COPY_LINEAR", COUNT=0xFF, SRC_ADDR=BUFFER, DST_ADDR=0x5555_0000_0000))
    made.submit(COMPUTE, IB, [0xC000_FE00, 1])
    made.submit(COMPUTE, IB, pm4.build("NOP"))
    made.submit(DMA, SECOND, sdma.build("FENCE", MTYPE="UC", ADDR=BUFFER, DATA=1))
    fault, bad, after, copy = made.play()
    assert fault.state == "failed" and "page fault at 0x555500000000" in fault.said
    assert bad.state == "failed" and "BadPacket" in bad.said
    assert after.state == "skipped" and "an earlier submission stopped the PM4 queue" in after.said
    assert copy.state == "done", copy.said


def test_what_does_not_make_sense_is_skipped_and_said() -> None:
    made = Made()
    made.submit(GFX, IB, pm4.build("NOP"))
    made.submit(5, IB, [0])
    made.submit(COMPUTE, IB, pm4.build("NOP"), mapped=False)
    made.ring(2, IB, [0] * 16)
    states = [(each.state, each.said) for each in made.play()]
    assert [state for state, _ in states] == ["skipped"] * 4
    for (_, said), word in zip(states, ("do not draw", "do not run here", "had not mapped it", "AQL packets"),
                               strict=True):
        assert word in said


def test_nothing_to_replay() -> None:
    made = Made()
    made.map(BUFFER, 0x1000)
    with pytest.raises(replay.ReplayError, match="has no submissions: record amdgpu's with ioctl-sniff -w"):
        made.play()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Made()
    made.map(BUFFER, 0x1000)
    made.submit(COMPUTE, IB, pm4.build("WRITE_DATA", DST_SEL="MEM", WR_CONFIRM=1, DST_ADDR=BUFFER, DATA=[1]))
    file = tmp_path / "run.cap"
    capture.create(file, patterns=[], types=None, programs=b"", capacity=1 << 20)
    writer = Writer(file)
    for event in made.events:
        writer.put(event)
    writer.close()
    assert main(["replay", str(file), "--vram", "256M"]) == 0
    out = capsys.readouterr().out
    assert "done" in out and "1 of 1 submissions ran on the mock card" in out
    assert main(["replay", str(file), "--vram", "256M", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["state"] == "done" and said["schema"] == "ioctl-sniff/1"
    assert main(["replay", str(file), "--vram", "nonsense"]) == 1
    assert "does not come up" in capsys.readouterr().err
    assert main(["replay", str(tmp_path / "absent")]) == 1
    assert "No such file" in capsys.readouterr().err
    file.write_bytes(file.read_bytes()[:100])
    assert main(["replay", str(file)]) == 1
    assert "too few for a capture" in capsys.readouterr().err


def test_a_recorded_program_is_replayed(dynamic: Path, tmp_path: Path) -> None:
    """From the program's ioctls to the mock's packets: the whole way."""
    card, taken = tmp_path / "renderD128", tmp_path / "run.cap"
    card.write_bytes(bytes(0x2000))
    command = [sys.executable, "-m", "tools.ioctl_sniff", "-d", str(card), "-q", "-w", str(taken), str(dynamic),
               "amdgpu", str(card)]
    if subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 77:
        pytest.skip("no seccomp filter here")
    played: list[Any] = replay.replay(decode.calls(capture.Capture.read(taken), LIBRARY), vram="256M")
    assert [(each.engine, each.nbytes) for each in played] == [("PM4", 24), ("SDMA", 16), ("PM4", 64)]
    # both write where the program mapped nothing: the card must say so of each
    assert "page fault at 0x2000" in played[0].said and "page fault at 0x3000" in played[1].said
    assert played[2].state == "skipped"
