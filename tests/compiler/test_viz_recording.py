"""What VIZ records: every rewrite can be replayed, nothing is kept alive, and there is an end to it."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from viz_program import attention, recorded, recording

from compiler import Tensor, engine, viz, watch
from compiler.engine import _programs, _schedules
from compiler.match import PatternMatcher, UPat, graph_rewrite
from compiler.symbolic import kernel_rules
from compiler.uop import Ops, UOp
from compiler.viz import pages
from compiler.viz.__main__ import main
from compiler.viz.recording import graph_of, replayed
from compiler.viz.server import Server

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fresh() -> None:
    _schedules.clear()
    _programs.clear()


def test_every_pass_comes_out_as_it_did(device: str) -> None:
    """What the table and the steps say, against the compiler's own result."""
    data = recording(device)
    rewritten = [n for n, p in enumerate(data["passes"]) if p["steps"]]
    assert len(rewritten) > 5 and not watch.watchers
    for n in rewritten:
        steps = data["passes"][n]["steps"]
        assert replayed(data, n, 0)[0] == data["passes"][n]["before"]
        assert replayed(data, n, len(steps))[0] == data["passes"][n]["after"], n


def test_each_step_replaces_one_node_by_what_the_rule_made(device: str) -> None:
    """Between two steps the node goes and the new one comes (or is looked at further: it has been replaced already)."""
    data = recording(device)
    seen = 0
    for n, p in enumerate(data["passes"]):
        for k in range(min(len(p["steps"]), 12)):
            old, new, rule = p["steps"][k]
            (root, nodes), (after, more) = replayed(data, n, k), replayed(data, n, k + 1)
            before_ids = graph_of({"nodes": nodes}, root)
            after_ids = graph_of({"nodes": more}, after)
            if old in before_ids:
                seen += 1
                assert old not in after_ids
                assert new in after_ids or any(s[0] == new for s in p["steps"][:k])
                assert data["rules"][rule]["file"].startswith("compiler/")
    assert seen > 10


def test_rules_have_their_name_and_text() -> None:
    x = UOp(Ops.VARIABLE, Tensor([1]).dtype, (), ("x", 0, 9))
    rules = PatternMatcher([(UPat(Ops.ADD, src=[UPat.var("a"), UPat.const(0)]), lambda a: a)])
    with viz.record() as recorder:
        assert graph_rewrite(x * 3 + 0, rules) is x * 3
    data = recorder.data()
    (only,) = data["passes"]
    (rule,) = data["rules"]
    assert "lambda a: a" in rule["text"] and rule["file"].endswith("test_viz_recording.py")
    assert [data["nodes"][i][0] for i in only["steps"][0][:2]] == ["ADD", "MUL"]


@settings(max_examples=50)
@given(st.recursive(
    st.sampled_from(["x", "y"]) | st.integers(-3, 9),
    lambda inner: st.tuples(st.sampled_from(["+", "*", "//", "%"]), inner, inner), max_leaves=14))
def test_rewrites_of_any_expression_replay(expression: Any) -> None:
    int32 = Tensor([1]).dtype

    def build(e: Any) -> UOp:
        if isinstance(e, str):
            return UOp(Ops.VARIABLE, int32, (), (e, 0, 50))
        if isinstance(e, int):
            return UOp.const(int32, e)
        a, b = build(e[1]), build(e[2])
        return {"+": a.__add__, "*": a.__mul__, "//": a.__floordiv__, "%": a.__mod__}[e[0]](b)
    root = build(expression)
    with viz.record(profile=False) as recorder:
        result = graph_rewrite(root, kernel_rules)
        number = recorder.node(result)
    data = recorder.data()
    if result is root:
        assert not data["passes"]
    else:
        (only,) = data["passes"]
        assert only["after"] == number == replayed(data, 0, len(only["steps"]))[0]


def test_schedules_kernels_and_times(device: str) -> None:
    data = recording(device)
    first = data["schedules"][0]
    assert first["items"][0]["name"] == "matmul+relu 8x64 of 4" and not first["error"]
    place = data["places"][first["items"][0]["places"][0]]
    assert place["file"].endswith("viz_program.py") and place["name"] == "attention" and "x @ w.T" in place["text"]
    for schedule in data["schedules"]:
        made: set[int] = {n for n, b in enumerate(schedule["buffers"]) if not b["made"]}
        for item in schedule["items"]:
            assert set(item["reads"]) <= made      # what is read was given, or written before
            made |= set(item["writes"])
            assert item["kind"] == "copy" or data["kernels"][item["kernel"]]["sink"] == item["sink"] or \
                item["kernel"] >= 0
        assert set(schedule["roots"]) <= made
    for kernel in data["kernels"]:
        assert f"@{kernel['name']}(" in kernel["ir"] and kernel["uops"] and kernel["device"] == device
        assert ("s_endpgm" if device != "CPU" else "ret") in kernel["asm"]
    groups = {s[0] for s in data["spans"]}
    assert {"compiler", device} <= groups
    ran = {s[5] for s in data["spans"] if s[0] == device}
    assert {i["kernel"] for i in first["items"]} <= ran
    assert all(s[2] <= s[3] for s in data["spans"])


def test_engines_are_on_the_time_line(am: str) -> None:
    data = recording(am)
    rows = {s[1] for s in data["spans"] if s[0] == am}
    assert any("compute" in r for r in rows)
    named = [s for s in data["spans"] if s[0] == am and s[5] >= 0]
    assert any(s[4] == "matmul+relu 8x64 of 4" for s in named)
    assert any(s[4].startswith("jit replay of ") for s in data["spans"] if s[0] == "host")


def test_the_programs_own_profiles_come_first(am: str, fresh: None) -> None:
    """Before the recording begins, and within it; the recording goes on afterwards."""
    import hcq
    device = hcq.open(am)
    x = Tensor(np.ones(40, np.float32), device=am).realize()
    with device.profile(), viz.record() as recorder:
        assert abs(attention(am).numpy().sum() - 8) < 1e-4
    assert not any(s[0] == am for s in recorder.data()["spans"])
    assert any("profil" in n for n in recorder.data()["notes"])
    with viz.record() as recorder:
        (x * 11).realize()
        with device.profile() as mine:
            (x * 12).realize()
        (x * 13).realize()
        (x * 14).realize()
    assert len([s for s in mine.spans if s.what == "kernel"]) == 1
    data = recorder.data()
    ran = [s[5] for s in data["spans"] if s[0] == am and s[5] >= 0]
    assert ran == [0, 2, 3] or ran == [0, 3], "the kernel in the program's own profile is not ours"
    assert any("took a profile" in n for n in data["notes"])


def test_nothing_is_kept_alive(fresh: None) -> None:
    with viz.record() as recorder:
        x = Tensor(np.ones(1000, np.float32))
        y = x * 3
        y.realize()
        gone = [weakref.ref(x._buffer()), weakref.ref(y._buffer()), weakref.ref(y.uop)]
        del x, y
        gc.collect()
        assert [g() for g in gone] == [None] * 3
    assert recorder.data()["schedules"]


@pytest.mark.parametrize(("limit", "most"), [("nodes", 60), ("passes", 2), ("steps", 1), ("schedules", 1),
                                             ("kernels", 1), ("spans", 3), ("text", 200)])
def test_there_is_an_end_to_it(limit: str, most: int, fresh: None) -> None:
    with viz.record(limits={limit: most}) as recorder:
        attention("CPU").numpy()
        (Tensor(np.ones((9, 9), np.float32)) @ Tensor(np.ones((9, 9), np.float32))).numpy()
    data = recorder.data()
    assert data["left_out"][limit] > 0 and data["limits"][limit] == most
    if limit == "text":
        assert all(len(k["ir"]) < most + 60 and "characters more are left out" in k["ir"] for k in data["kernels"])
    elif limit == "steps":
        assert all(len(p["steps"]) <= most for p in data["passes"]) and any(p["cut"] for p in data["passes"])
    else:
        assert len(data[limit]) <= most
    pages.check(json.loads(recorder.json()), "it")


def test_a_search_records_what_it_chose(monkeypatch: pytest.MonkeyPatch, fresh: None) -> None:
    monkeypatch.setenv("BEAM", "1")
    monkeypatch.setenv("COMPILER_CACHE", "0")
    with viz.record() as recorder:
        a = Tensor(np.ones((5, 12), np.float32))
        assert (a @ a.T).numpy()[0, 0] == 12
    (kernel,) = recorder.data()["kernels"]
    assert kernel["by"] == "a search"
    assert any(s[1] == "searching" for s in recorder.data()["spans"])


def test_what_failed_is_said(monkeypatch: pytest.MonkeyPatch, fresh: None) -> None:
    def broken(*arguments: object, **more: object) -> bytes:
        raise RuntimeError("LLVM says no")
    monkeypatch.setattr(engine, "compile_ir", broken)
    with viz.record() as recorder:
        with pytest.raises(RuntimeError, match="LLVM says no"):
            attention("CPU").numpy()
        monkeypatch.undo()
        attention("CPU").numpy()
    assert any("LLVM says no" in n for n in recorder.data()["notes"]) and recorder.data()["kernels"]


# files

def test_a_page_and_json_are_read_back(tmp_path: Path, device: str) -> None:
    data = recording(device)
    (tmp_path / "a.json").write_text(recorded(device))
    (tmp_path / "a.html").write_text(viz.page(recorded(device)))
    assert viz.read(str(tmp_path / "a.json")) == data == viz.read(str(tmp_path / "a.html"))
    text = (tmp_path / "a.html").read_text()
    assert "http://" not in text and "https://" not in text and "src=" not in text     # nothing from anywhere


@pytest.mark.parametrize(("text", "said"), [
    ("", "neither a page nor JSON"), ("{", "neither a page nor JSON"), ("[]", "is no recording of VIZ"),
    ("{}", "is no recording of VIZ"), ('{"format": "compiler recording", "version": 99}', "of version 99, this reads"),
    ('{"format": "compiler recording", "version": 1}', "has no table 'notes'"),
    ('<script type="application/gzip" id="recording">AAAA</script>', "neither a page nor JSON"),
    ('<script type="application/gzip" id="recording">H4sIAAAAAAAA</script>', "cut off"),
])
def test_other_files_are_refused(text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x"
    file.write_text(text)
    with pytest.raises(viz.RecordingError, match=re.escape(said)):
        viz.read(str(file))
    assert main([str(file), "--text"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and said in err and err.count("\n") == 1


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(viz.RecordingError, match=r"nowhere\.html cannot be read: No such file"):
        viz.read("nowhere.html")


@settings(max_examples=60)
@given(st.data())
def test_a_damaged_recording_is_refused_or_can_be_drawn(draw: st.DataObject) -> None:
    """Any value of a recording replaced by another: one clear error, or what is left makes sense to the page."""
    data = recording("CPU")
    at: Any = data
    path: list[Any] = []
    while True:
        keys = sorted(at) if isinstance(at, dict) else range(len(at))
        if not keys:
            break
        key = draw.draw(st.sampled_from(keys))
        path.append(key)
        if not isinstance(at[key], dict | list) or not at[key] or draw.draw(st.integers(0, 3)) == 0:
            at[key] = draw.draw(st.none() | st.integers(-2, 10**9) | st.text(max_size=3) | st.just([]) | st.just({}))
            break
        at = at[key]
    try:
        pages.check(data, "it")
    except viz.RecordingError as error:
        assert str(error).startswith("it")
        return
    for n in range(len(data["passes"])):
        replayed(data, n, len(data["passes"][n]["steps"]))


# serving

def fetch(url: str, host: str | None = None) -> tuple[int, str]:
    request = urllib.request.Request(url, headers={} if host is None else {"Host": host})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def test_the_server() -> None:
    server = Server(lambda: "<p>page", lambda: "{}", 0)
    server.start()
    try:
        assert fetch(server.url) == (200, "<p>page") and fetch(server.url + "recording.json") == (200, "{}")
        assert fetch(server.url + "../etc/passwd")[0] == 404
        assert fetch(server.url, "evil.example:80")[0] == 403
        other = Server(lambda: "", lambda: "", server.port)     # taken: the next
        assert other.port != server.port
        other.close()
    finally:
        server.close()


def test_a_port_that_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                             capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("VIZ_PORT", "high")
    with pytest.raises(ValueError, match="VIZ_PORT=high: give a port's number, 0 for any"):
        Server(str, str)
    (tmp_path / "a.json").write_text(recorded("CPU"))
    assert main([str(tmp_path / "a.json")]) == 1
    assert "no port to serve at: VIZ_PORT=high" in capsys.readouterr().err


PROGRAM = "from compiler import Tensor\nprint((Tensor([1., 2.]) * 2).numpy().tolist())\n"


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("VIZ", "DEBUG"))}
    return {**clean, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT), **more}


@pytest.mark.parametrize("name", ["out.html", "out.json"])
def test_a_file_at_the_end_of_a_program(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / name
    done = subprocess.run([sys.executable, "-c", PROGRAM + "raise SystemExit(3)"], capture_output=True, text=True,
                          timeout=120, cwd=tmp_path, env=environment(tmp_path, VIZ=name))
    assert (done.returncode, done.stdout) == (3, "[2.0, 4.0]\n") and f"VIZ wrote {file}" in done.stderr
    assert main([str(file), "--text"]) == 0
    assert "kernel 0 mul 2" in capsys.readouterr().out
    assert main([str(file), "--html", str(tmp_path / "again.html")]) == 0
    assert viz.read(str(tmp_path / "again.html")) == viz.read(str(file))


WORKERS = """
import multiprocessing, os
from compiler import Tensor

def work(n):
    return (Tensor([1., 2.]) * n).numpy().tolist()

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(work, [3]), work(2))
    if os.fork() == 0:
        raise SystemExit(0)     # with what a process does at its end
    os.wait()
"""


@pytest.mark.parametrize("target", ["out.json", "1"])
def test_workers_leave_the_page_to_the_program(tmp_path: Path, target: str) -> None:
    """They neither write over its file nor wait for somebody's Ctrl-C."""
    (tmp_path / "my.py").write_text(WORKERS)
    program = subprocess.Popen([sys.executable, "my.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               cwd=tmp_path, env=environment(tmp_path, VIZ=target, VIZ_PORT="0",
                                                             PYTHONWARNINGS="ignore"))      # 3.12 warns of any fork
    try:
        assert program.stdout is not None and program.stderr is not None
        assert program.stdout.readline() == "[[3.0, 6.0]] [2.0, 4.0]\n"
        said = [program.stderr.readline()]
        if target == "1":
            said.append(program.stderr.readline())
            assert "until Ctrl-C" in said[1]
            program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=60)
        assert program.returncode == 0 and (out, err) == ("", "")
    finally:
        if program.poll() is None:
            program.kill()
            program.wait()
    if target != "1":
        assert "VIZ wrote" in said[0]
        assert [k["label"] for k in viz.read(str(tmp_path / target))["kernels"]] == ["mul 2"]


def test_a_page_is_served_while_the_program_runs(tmp_path: Path) -> None:
    program = subprocess.Popen([sys.executable, "-c", PROGRAM + "input()"],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               cwd=tmp_path, env=environment(tmp_path, VIZ="1", VIZ_PORT="0"))
    try:
        assert program.stdout is not None and program.stderr is not None and program.stdin is not None
        found = re.search(r"http://\S+", program.stderr.readline())
        assert found and json.loads(fetch(found[0] + "recording.json")[1])["format"] == "compiler recording"
        program.stdin.write("\n")
        program.stdin.flush()
        assert "until Ctrl-C" in program.stderr.readline()
    finally:
        program.kill()
        program.communicate()


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, cwd=tmp_path,
                          env=environment(tmp_path, VIZ="no/such/out.html"))
    assert done.returncode == 0 and "out.html cannot be written: No such file or directory" in done.stderr


def test_serving_until_ctrl_c(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        program = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True, cwd=tmp_path, env=environment(tmp_path, VIZ="1", VIZ_PORT="0"))
    try:
        assert program.stderr is not None
        first, second = program.stderr.readline(), program.stderr.readline()
        found = re.search(r"VIZ is at (http://127\.0\.0\.1:\d+/)", first)
        assert found and f"VIZ serves {found[1]} until Ctrl-C" in second
        status, text = fetch(found[1])
        assert status == 200 and 'id="recording"' in text
        assert json.loads(fetch(found[1] + "recording.json")[1])["kernels"][0]["label"] == "mul 2"
        program.send_signal(signal.SIGINT)
        out, err = program.communicate(timeout=60)
        assert (program.returncode, out, err) == (0, "[2.0, 4.0]\n", "")
    finally:
        if program.poll() is None:
            program.kill()
            program.wait()


def test_a_saved_recording_is_served(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(recorded("CPU"))
    program = subprocess.Popen([sys.executable, "-m", "compiler.viz", "a.json", "--port", "0"], stdout=subprocess.PIPE,
                               text=True, cwd=tmp_path, env=environment(tmp_path))
    try:
        assert program.stdout is not None
        found = re.search(r"at (http://\S+) until", program.stdout.readline())
        assert found and json.loads(fetch(found[1] + "recording.json")[1]) == recording("CPU")
        program.send_signal(signal.SIGINT)
        assert program.wait(60) == 0
    finally:
        if program.poll() is None:
            program.kill()
            program.wait()
