"""ioctl-sniff on a real kernel's devices: everything seen, nothing changed, by either mechanism."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tools.ioctl_sniff import run
from tools.ioctl_sniff.capture import Capture

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ioctls of Linux")
Target = tuple[Path, list[str]]
Sniff = Callable[..., Any]
WATCH = ["-d", "/dev/ptmx", "-d", "/dev/loop*"]


def test_a_plain_conversation(target: Target, sniff: Sniff) -> None:
    program, how = target
    ran = sniff(*how, program, "plain")
    assert ran.status == 3                      # the program's own: it saw what it sees without us
    assert ran.said.count("followed by") == 1
    (opened,) = ran.named("open")
    master = opened["result"]
    assert (opened["text"], opened["error"]) == ("/dev/ptmx", "")
    (put,) = ran.named("TIOCSWINSZ")
    assert put["interface"] == "tty" and put["device"] == "/dev/ptmx" and put["fd"] == master
    assert put["before"] == {"ws_row": 24, "ws_col": 80, "ws_xpixel": 0, "ws_ypixel": 0}
    first, second = ran.named("TIOCGWINSZ")
    assert (first["before"]["ws_col"], first["after"]["ws_col"]) == (0, 80)
    assert second["fd"] != master and second["device"] == "/dev/ptmx"       # through dup
    (wild,) = ran.named("TCGETS")
    assert (wild["error"], wild["argument"], wild["before"], wild["after"]) == ("EFAULT", 8, None, None)
    times = [call["time"] for call in ran.calls]
    assert times == sorted(times)


def test_threads_lose_nothing(target: Target, sniff: Sniff) -> None:
    program, how = target
    ran = sniff(*how, program, "threads")
    rows = [call["before"]["ws_row"] for call in ran.named("TIOCSWINSZ")]
    assert ran.status == 0 and sorted(rows) == [row for row in range(4) for _ in range(100)]
    assert len({call["tid"] for call in ran.named("TIOCSWINSZ")}) == 4


def test_children_are_followed(target: Target, sniff: Sniff) -> None:
    program, how = target
    ran = sniff(*how, program, "children", "24")
    puts = ran.named("TIOCSWINSZ")
    assert sorted(call["before"]["ws_row"] for call in puts) == list(range(24))
    assert len({call["pid"] for call in puts}) == 24 and len(ran.named("fork")) == 24
    assert {call["parent"] for call in ran.named("fork")} == {ran.named("open")[0]["pid"]}


@pytest.mark.slow
def test_a_thousand_children(dynamic: Path, sniff: Sniff) -> None:
    ran = sniff(dynamic, "children", "1000", timeout=300)
    assert sorted(call["before"]["ws_row"] for call in ran.named("TIOCSWINSZ")) == list(range(1000))
    assert "cut short" not in ran.said


def test_what_outlives_the_program_is_followed_to_its_end(target: Target, sniff: Sniff) -> None:
    program, how = target
    ran = sniff(*how, program, "daemon")
    assert ran.status == 6 and [call["before"]["ws_row"] for call in ran.named("TIOCSWINSZ")] == list(range(2000))


def test_a_shell_leaves_a_job_behind(dynamic: Path, sniff: Sniff) -> None:
    ran = sniff("sh", "-c", f"sh -c 'sleep 0.2; exec {dynamic} plain' & exit 7")
    assert ran.status == 7 and len(ran.named("TIOCSWINSZ")) == 1


def test_ctrl_c_ends_the_wait_for_what_runs_on(dynamic: Path, tmp_path: Path) -> None:
    """Records until then are shown; the process is left alone, and what it writes later does not kill it."""
    capture, pid_file = tmp_path / "capture", tmp_path / "pid"
    job = f"{dynamic} killed > {tmp_path / 'out'} 2>&1 & echo $! > {pid_file}"
    command = [sys.executable, "-m", "tools.ioctl_sniff", *WATCH, "-c", "--limit", "1", "-w", str(capture),
               "sh", "-c", job]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        assert "waiting; Ctrl-C" in child.stderr.readline()
        left = int(pid_file.read_text())
        try:
            child.send_signal(signal.SIGINT)
            out, err = child.communicate(timeout=60)
            assert f"not to the end of process {left}" in err and "TIOCSWINSZ" in out and child.returncode == 0
            os.kill(left, 0)
        finally:
            os.kill(left, signal.SIGKILL)


def test_exec_with_an_environment_of_its_own(target: Target, sniff: Sniff) -> None:
    program, how = target
    ran = sniff(*how, program, "exec")
    assert ran.status == 3 and len(ran.named("TIOCGWINSZ")) == 2 and len(ran.named("exec")) == 1


def test_a_target_that_crashes(target: Target, sniff: Sniff) -> None:
    program, how = target
    ran = sniff(*how, program, "crash")
    assert ran.status == 128 + signal.SIGSEGV and len(ran.named("TIOCGWINSZ")) == 1


def test_a_target_that_is_killed(dynamic: Path, tmp_path: Path) -> None:
    """Its capture ends where it died, and can be read."""
    capture = tmp_path / "capture"
    command = [sys.executable, "-m", "tools.ioctl_sniff", *WATCH, "-q", "-c", "-w", str(capture), str(dynamic),
               "killed"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        taken = next(event for event in Capture.read(capture) if event.kind == "start")
        os.kill(taken.pid, signal.SIGKILL)
        out, err = child.communicate(timeout=60)
    assert child.returncode == 128 + signal.SIGKILL and "TIOCSWINSZ" in out
    events = list(Capture.read(capture))
    assert len([event for event in events if event.kind == "ioctl"]) >= 1000 and "Traceback" not in err


def test_a_loop_device(target: Target, sniff: Sniff) -> None:
    program, how = target
    ran = sniff(*how, program, "loop")
    if ran.status == 77:
        pytest.skip("no free loop device, or not root")
    (put,), (got,) = ran.named("LOOP_SET_STATUS64"), ran.named("LOOP_GET_STATUS64")
    assert put["before"]["lo_flags"] == {"value": 4, "means": "LO_FLAGS_AUTOCLEAR"}
    assert (got["before"]["lo_file_name"], got["after"]["lo_file_name"]) == ("", "a disk")
    assert got["after"]["lo_offset"] == 4096


def test_attach_to_a_running_process(dynamic: Path, tmp_path: Path) -> None:
    """It stays alive after we let go, and what it did meanwhile is there."""
    with subprocess.Popen([str(dynamic), "killed"], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        capture = tmp_path / "capture"
        command = [sys.executable, "-m", "tools.ioctl_sniff", *WATCH, "-c", "-w", str(capture), "-p", str(child.pid)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watcher:
            deadline = time.monotonic() + 30
            try:
                while not capture.is_file() or capture.stat().st_blocks < 64:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
                watcher.send_signal(signal.SIGINT)
                out, err = watcher.communicate(timeout=30)
                assert "TIOCSWINSZ" in out and "runs already" in err
                time.sleep(0.1)
                assert child.poll() is None
            finally:
                watcher.kill()
                child.kill()


def test_doorbells_are_trapped_and_carried_out(dynamic: Path, sniff: Sniff, tmp_path: Path) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("stores are stepped over on x86-64 only")
    page = tmp_path / "page"
    page.write_bytes(bytes(4096))
    ran = sniff("-d", page, "--trap-all", dynamic, "doorbells", page)
    assert ran.status == 0
    assert [(call["numbers"][1], call["numbers"][2], call["result"]) for call in ran.named("doorbell")] == [
        (16, 4, 0x11223344), (32, 8, 0x5566778899AABBCC), (16, 4, 0x11223345)]
    written = page.read_bytes()
    assert written[16:20] == bytes.fromhex("45332211") and written[32:40] == bytes.fromhex("ccbbaa9988776655")
    assert not any(written[40:]) and not any(written[20:32])


def submits(calls: list[dict[str, Any]]) -> list[tuple[str, int, list[tuple[int, list[int]]]]]:
    """(engine, bytes, [(GPU address, words)]) of each command buffer."""
    return [(call["engine"], call["result"], [(piece["address"], np.frombuffer(
        bytes.fromhex(piece["bytes"]), "<u4").tolist()) for piece in call["memory"]])
        for call in calls if call["kind"] == "dump"]


SUBMITTED = [
    ("PM4", 24, [(0x800100000, [0xC0023F00, 0x00100080, 8, 0x08800005, 0xC0001000, 0]),
                 (0x800100080, [0xC0033700, 0x500, 0x2000, 0, 0x1234])]),
    ("SDMA", 16, [(0x800200000, [5, 0x3000, 0, 42])]),
    ("PM4", 64, [])]


def test_command_buffers_of_amdgpu_at_the_submit(dynamic: Path, sniff: Sniff, tmp_path: Path) -> None:
    """Through a mapped object and through memory of the program's own, an inner buffer followed; and disassembled."""
    card = tmp_path / "renderD128"
    card.write_bytes(bytes(0x2000))
    ran = sniff("-d", card, "--mechanism", "preload", dynamic, "amdgpu", card)
    if ran.status == 77:
        pytest.skip("no seccomp filter here")
    assert ran.status == 0 and submits(ran.calls) == SUBMITTED
    first, second, _ = (call for call in ran.calls if call["kind"] == "dump")
    assert (first["numbers"][0], first["numbers"][1] & 0xFFFF_FFFF) == (1, 2)      # compute, ring 2
    assert (second["numbers"][0], second["numbers"][1] & 0xFFFF_FFFF) == (2, 1)    # dma, ring 1
    cs = [call for call in ran.calls if call.get("request") == 0xC0186444]
    assert len(cs) == 2 and cs[0]["time"] < first["time"] and cs[0]["error"] == ""
    command = [sys.executable, "-m", "tools.ioctl_sniff", "-d", str(card), "--memory", "-q", str(dynamic), "amdgpu",
               str(card)]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
    assert "submitted 24 bytes to the compute ring 2" in shown and "submitted 16 bytes to the dma ring 1" in shown
    assert "INDIRECT_BUFFER" in shown and "WRITE_DATA" in shown and "FENCE" in shown
    assert "the program has not mapped it" in shown


def test_command_buffers_by_ptrace(dynamic: Path, sniff: Sniff, tmp_path: Path) -> None:
    """The same bytes by the other mechanism (the target's own filter hides calls from ours, so it is attached to)."""
    card, go, capture = tmp_path / "renderD128", tmp_path / "go", tmp_path / "capture"
    card.write_bytes(bytes(0x2000))
    with subprocess.Popen([str(dynamic), "amdgpu", str(card), str(go)]) as child:
        command = [sys.executable, "-m", "tools.ioctl_sniff", "-d", str(card), "-q", "--json", "-w", str(capture), "-p",
                   str(child.pid)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watcher:
            deadline = time.monotonic() + 30
            while "TracerPid:\t0" in Path(f"/proc/{child.pid}/status").read_text() and watcher.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            time.sleep(0.1)
            go.write_text("")
            out, err = watcher.communicate(timeout=60)
        if child.wait(timeout=30) == 77:
            pytest.skip("no seccomp filter here")
    assert submits([json.loads(line) for line in out.splitlines()]) == SUBMITTED, err


def test_the_mechanism_is_chosen_and_said(dynamic: Path, static: Path, sniff: Sniff, tmp_path: Path) -> None:
    assert "followed by preload (a dynamic program)" in sniff(dynamic, "plain").said
    assert "followed by ptrace (a static program)" in sniff(static, "plain").said
    script = tmp_path / "script"
    script.write_text(f"#!{dynamic}\n")
    script.chmod(0o755)
    assert run.choose([str(script)])[0] == "preload"
    script.write_text("no program at all")
    assert run.choose([str(script)])[0] == "ptrace"


def test_what_cannot_be_run(sniff: Sniff, tmp_path: Path) -> None:
    for arguments, said in ((["/no/such/program"], "there is no such program"), (["-p", "999999999"], "no process"),
                            (["shwo", "a.cap"], "did you mean ioctl-sniff show?"),
                            (["--type", "300", "true"], "no ioctl type byte"), (["--match", "(", "true"], "no regular"),
                            (["--decoder", str(tmp_path), "true"], "directory"), ([], "what shall be watched"),
                            (["-o", str(tmp_path / "no/such"), "true"], "cannot be written"),
                            (["show", "a.cap"], "show stands first"), (["-p", "1", "true"], "one of them is")):
        ran = sniff(*arguments)
        assert ran.status == 1 and said in ran.said and "Traceback" not in ran.said, (arguments, ran.said)


def test_filters(dynamic: Path, sniff: Sniff) -> None:
    assert {call["name"] for call in sniff("--match", "^TIOCS", dynamic, "plain").calls} == {"TIOCSWINSZ"}
    assert {call["name"] for call in sniff("--errors", dynamic, "plain").calls} == {"TCGETS"}
    assert not sniff("--calls", "--type", "K", dynamic, "plain").calls
    assert len(sniff("--calls", "--type", "T", dynamic, "plain").calls) == 4


def test_counts_as_json(dynamic: Path, sniff: Sniff) -> None:
    """Each is held against the schema."""
    found = {each["name"]: each for each in sniff("-c", dynamic, "plain").calls}
    assert {name: each["count"] for name, each in found.items()} == {"TIOCSWINSZ": 1, "TIOCGWINSZ": 2, "TCGETS": 1}
    assert found["TCGETS"]["errors"] == {"EFAULT": 1} and found["TIOCGWINSZ"]["errors"] == {}
    assert found["TIOCGWINSZ"]["time"] >= found["TIOCGWINSZ"]["longest"] > 0 and found["TCGETS"]["interface"] == "tty"


def test_the_call_stack(dynamic: Path, sniff: Sniff) -> None:
    (put,) = sniff("--stack", "--mechanism", "preload", dynamic, "plain").named("TIOCSWINSZ")
    assert str(dynamic) in put["text"]
