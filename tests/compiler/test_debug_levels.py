"""DEBUG=1..7: what each level shows, on both devices, and that nothing is there without it."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from compiler import Tensor, Variable, debug, jit, watch
from compiler.engine import _programs, _schedules
from compiler.schedule import KernelItem, normalize, schedule
from compiler.work import label, work

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels that another test has built are built again, so that they are shown."""
    _schedules.clear()
    _programs.clear()


def shown(level: int, device: str, file: io.StringIO | None = None) -> str:
    out = io.StringIO() if file is None else file
    _schedules.clear()
    _programs.clear()
    x = Tensor(np.arange(24, dtype=np.float32).reshape(4, 6), device=device)
    w = Tensor(np.ones((6, 8), np.float32), device=device)
    with debug.showing(level, out):
        y = (x @ w).relu()
        assert y.numpy()[0, 0] == 15
    assert not watch.watchers
    return out.getvalue()


MARKS = {1: "kernel cache", 2: "matmul+relu 4x8 of 6", 3: "--- schedule on ", 4: "--- UOps\n",
         5: "--- UOps before\n", 6: "--- LLVM IR\n", 7: "--- instructions\n"}


@pytest.mark.parametrize("level", debug.LEVELS)
def test_each_level_shows_its_own_and_all_below(device: str, level: int) -> None:
    text = shown(level, device)
    for other, mark in MARKS.items():
        assert (mark in text) == (other <= level), (other, text)
    assert "\x1b[" not in text
    last = text.splitlines()[-1]
    assert last.startswith("1 kernels ran") and "1 were built" in last


def test_a_kernels_line_has_its_figures_and_the_users_line(device: str) -> None:
    (line,) = [ln for ln in shown(2, device).splitlines() if ln.startswith(f"{device:<5}")]
    found = re.search(r"matmul\+relu 4x8 of 6 +([\d.]+) (us|ms|s ) +([\d.e-]+) GFLOP/s +([\d.e-]+) GB/s +"
                      r"mem +[\d.]+ [kMG]?B +\S*test_debug_levels\.py:\d+$", line)
    assert found and float(found[1]) > 0


def test_code_of_each_target() -> None:
    host = shown(7, "CPU")
    assert "define void @k_" in host and re.search(r"\bret", host.partition("--- instructions")[2])


def test_code_of_the_card(am: str) -> None:
    text = shown(7, am)
    code = text.partition("--- instructions\n")[2]
    assert "define amdgpu_kernel void @k_" in text
    assert re.search(r"^ +[0-9a-f]+  s_endpgm +; 0000b0bf$", code, re.M) and "global_store" in code
    assert "LLVM prints it" not in code


def test_uops_are_in_loops_and_name_the_line(device: str) -> None:
    text = shown(4, device).partition("--- UOps\n")[2]
    assert re.search(r"^ *for r\d+ in 0\.\.\d+  (REDUCE|GLOBAL)$", text, re.M) and "end r" in text
    assert re.search(r"MUL float32 .*# \S*test_debug_levels\.py:\d+$", text, re.M)


def test_rules_that_fired_are_named_with_their_line(device: str) -> None:
    text = shown(6, device)
    assert re.search(r"^--- \d+ rewrites for kernel 0, by \d+ rules$", text, re.M)
    assert re.search(r"^ +\d+  \w+ \((symbolic|legalize)\.py:\d+\)$", text, re.M)


def test_a_replay_is_a_line_or_its_kernels_are(device: str) -> None:
    @jit
    def step(x: Tensor) -> Tensor:
        return (x * 3 + 1).sum()
    out = io.StringIO()
    x = Tensor(np.ones(100, np.float32), device=device)
    step(x)
    step(x)
    with debug.showing(2, out):
        assert step(x).item() == 400
    lines = [ln for ln in out.getvalue().splitlines() if "GFLOP/s" in ln]
    assert lines and all(("jit replay: " in ln) == (device != "CPU") for ln in lines)


def test_copies_are_shown(am: str) -> None:
    out = io.StringIO()
    x = Tensor(np.ones(1000, np.float32))
    with debug.showing(2, out):
        assert x.to(am).numpy().sum() == 1000
    assert re.search(rf"^{am} +copy 4\.0 kB .* GB/s", out.getvalue(), re.M)


@pytest.mark.parametrize(("make", "operations", "nbytes", "name"), [
    (lambda a, b: a @ b, 2 * 8 * 16 * 4, 4 * (8 * 16 + 16 * 4 + 8 * 4), "matmul 8x4 of 16"),
    (lambda a, b: a + 1, 8 * 16, 2 * 4 * 8 * 16, "add 8x16"),
    (lambda a, b: a.sum(), 8 * 16, 4 * 8 * 16 + 4, "sum 1 of 8x16"),
    (lambda a, b: b.T.contiguous(), 0, 2 * 4 * 16 * 4, "T+contiguous 4x16"),
    (lambda a, b: (a * 2 + a).exp2(), 3 * 8 * 16, 2 * 4 * 8 * 16, "add+exp2 8x16"),
])
def test_operations_and_bytes(make: object, operations: int, nbytes: int, name: str) -> None:
    a, b = Tensor(np.ones((8, 16), np.float32)), Tensor(np.ones((16, 4), np.float32))
    roots, buffers = normalize([make(a, b).uop])        # type: ignore[operator]
    (item,) = schedule(roots, "CPU").items
    assert isinstance(item, KernelItem)
    sizes = [buffers[s].nbytes if s < len(buffers) else 1 << 20 for s in item.slots]      # type: ignore[attr-defined]
    done = work(item.sink, sizes)
    assert (done.operations, done.bytes, label(item.sink, item.places)) == (operations, nbytes, name)


def test_sizes_that_vary_are_counted_as_they_are() -> None:
    n = Variable("n", 1, 100)
    out = io.StringIO()
    x = Tensor(np.ones(100, np.float32))
    with debug.showing(2, out):
        for k in (10, 100):
            assert (x[:n.bind(k)] * 2).sum().item() == 2 * k
    assert " of ?" in out.getvalue()
    program = next(p for p in _programs.values() if p.source.variables)
    few, many = (work(program.sink, [4, 400], {"n": k}) for k in (10, 100))
    assert many.operations == 10 * few.operations and few.bytes == 4 + 40


def test_colour_only_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[36m" in shown(2, "CPU", Terminal())
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b[" not in shown(2, "CPU", Terminal())
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[36m" in shown(2, "CPU")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in shown(2, "CPU", Terminal())


def test_a_terminal_that_is_gone_stops_no_work() -> None:
    out = io.StringIO()
    out.close()
    with debug.showing(3, out):
        assert (Tensor([1.0, 2.0]) * 3).numpy().tolist() == [3, 6]


@pytest.mark.parametrize("level", [0, 8, -1])
def test_no_such_level(level: int) -> None:
    with pytest.raises(ValueError, match=rf"a level of DEBUG is 1 to 7, not {level}"), debug.showing(level):
        pass


PROGRAM = """
import sys
from compiler import Tensor
assert (Tensor([1., 2.]) * 2).numpy().tolist() == [2, 4]
from compiler import watch
print(len(watch.watchers), "compiler.debug" in sys.modules, "compiler.viz" in sys.modules)
"""


def program(tmp_path: Path, **more: str) -> tuple[str, str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("DEBUG", "VIZ")}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, cwd=ROOT,
                          env={**environment, "XDG_CACHE_HOME": str(tmp_path), **more})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


def test_without_it_nothing_is_there(tmp_path: Path) -> None:
    assert program(tmp_path) == ("0 False False", "")
    assert program(tmp_path, DEBUG="0") == ("0 False False", "")


def test_from_the_environment(tmp_path: Path) -> None:
    out, err = program(tmp_path, DEBUG="2")
    assert out == "1 True False" and "GFLOP/s" in err and "1 kernels ran" in err.splitlines()[-1]


def test_a_value_that_is_no_level_is_said_once(tmp_path: Path) -> None:
    out, err = program(tmp_path, DEBUG="true")
    assert out == "0 True False" and err.count("\n") == 1
    assert "DEBUG=true is no level from 0 to 7 ('python -m compiler.debug' lists them)" in err


def test_the_levels_are_listed_and_documented(capsys: pytest.CaptureFixture[str]) -> None:
    debug.main()
    out = capsys.readouterr().out
    page = (ROOT / "docs" / "compiler.md").read_text(encoding="utf-8")
    for level, text in debug.LEVELS.items():
        assert f"  {level}  {text}\n" in out
        assert f"| {level} | {text} |" in page
