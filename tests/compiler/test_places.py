"""Errors that come late say which line of the user's program made the tensor."""

from __future__ import annotations

import gc
import inspect
import linecache
import os
import subprocess
import sys
import traceback
import weakref
from pathlib import Path

import numpy as np
import pytest

from compiler import Tensor, engine, jit, places
from compiler.uop import UOp

HERE = Path(__file__)


def line(offset: int = 0) -> int:
    """The number of the caller's line."""
    frame = inspect.currentframe()
    assert frame is not None and frame.f_back is not None
    return frame.f_back.f_lineno + offset


def lines_of(tensor: Tensor) -> list[int]:
    return [places.line_of(p) for p in places.below([tensor.uop]) if p[0].co_filename == __file__]


def test_an_operation_knows_its_line_and_the_method() -> None:
    x = Tensor(np.ones((3, 4), np.float32))
    y = x.softmax()
    made = line(-1)
    place = next(places.below([y.uop]))
    assert (places.line_of(place), place[0].co_name, places.called(place)) == (
        made, "test_an_operation_knows_its_line_and_the_method", "softmax")
    assert places.text_of(place).endswith(f"test_places.py:{made}: in {place[0].co_name}: y = x.softmax()")
    assert lines_of(y) == [made, made - 1]


def test_modules_of_ours_are_not_the_users_lines(tmp_path: Path) -> None:
    """In a process of its own: elsewhere a node of another test's may be alive, and the same."""
    (tmp_path / "my.py").write_text("""import numpy as np
from compiler import Tensor, nn, places
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
y = model(Tensor(np.ones((3, 4), np.float32)))
found = list(places.below([y.uop]))
assert {p[0].co_filename for p in found} == {__file__}, found
assert places.line_of(found[0]) == 4 and 3 in map(places.line_of, found)     # the weights' line, too
""")
    done = subprocess.run([sys.executable, str(tmp_path / "my.py")], capture_output=True, text=True, timeout=120,
                          env={**os.environ, "PYTHONPATH": str(HERE.parents[2])}, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_our_models_are_read_as_programs_are() -> None:
    """Unlike layers: their own lines say more than the one that called the model."""
    from compiler.models.gpt2 import MLP, GPT2Config
    y = MLP(GPT2Config(1, 8, 2, 16, 8))(Tensor(np.ones((3, 8), np.float32)))
    place = next(places.below([y.uop]))
    assert place[0].co_filename.endswith("gpt2.py") and places.called(place) == "Linear"


def test_frames_of_the_library_between_are_passed_over() -> None:
    def double(x: Tensor) -> Tensor:
        return x * 3.5
    (y,) = map(double, [Tensor(np.ones(3, np.float32))])
    assert next(places.below([y.uop]))[0].co_name == "double"


def test_several_statements_of_one_line_and_lines_of_one_statement() -> None:
    x = Tensor(np.ones(5, np.float32))
    y = (x.exp()
         .sqrt())
    assert next(places.below([y.uop]))[0] is not None
    assert set(lines_of(y)) <= {line(-4), line(-3), line(-2)} | {line(-5)}


def test_constants_and_leaves_carry_no_line() -> None:
    x = Tensor(2.5)
    assert x.uop.place is None
    assert (Tensor(np.ones(3, np.float32)) + 2.5).uop.place is not None
    assert UOp.const(x.dtype, 2.5).place is None


def test_a_note_goes_with_its_node() -> None:
    x = Tensor(np.ones(7, np.float32))
    y = x.exp2()
    gone = weakref.ref(y.uop)
    del y
    gc.collect()
    assert gone() is None
    z = x.exp2()
    assert lines_of(z)[0] == line(-1)


def test_gradients_carry_the_lines_of_what_they_differentiate() -> None:
    w = Tensor(np.ones(4, np.float32), requires_grad=True)
    y = w.sin()
    made = line(-1)
    y.sum().backward()
    assert w.grad is not None and made in lines_of(w.grad)


def notes(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", []))


def test_a_compiler_that_fails_names_the_line(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **more: object) -> bytes:
        raise RuntimeError("LLVM says no")
    x = Tensor(np.ones((3, 5), np.float32), device=device)
    y = (x * 1.625).cos()
    made = line(-1)
    monkeypatch.setattr(engine, "compile_ir", broken)
    with pytest.raises(RuntimeError, match="LLVM says no") as caught:
        y.numpy()
    said = notes(caught.value)
    assert f"a kernel on {device}" in said
    assert f"test_places.py:{made}: in test_a_compiler_that_fails_names_the_line: y = (x * 1.625).cos()" in said
    assert said in "".join(traceback.format_exception(caught.value))
    assert said.count("made by your line") == 1


def failing(x: Tensor) -> Tensor:
    return x * 3.375 + 0.5


def failing_too(x: Tensor) -> Tensor:
    return x * 3.375 + 0.5


def test_an_equal_graph_that_was_scheduled_before_does_not_lend_its_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert failing(Tensor(np.ones(6, np.float32))).numpy()[0] == 3.875
    y = failing_too(Tensor(np.ones(6, np.float32)))

    def broken(*arguments: object) -> None:
        raise MemoryError("none left")
    monkeypatch.setattr(engine, "run_step", broken)
    with pytest.raises(MemoryError) as caught:
        y.realize()
    assert "in failing_too: return x * 3.375 + 0.5" in notes(caught.value)
    assert "in failing:" not in notes(caught.value)


def test_memory_that_is_not_there(device: str) -> None:
    x = Tensor.ones(1 << 46, device=device).contiguous()
    made = line(-1)
    with pytest.raises(Exception) as caught:
        x.realize()
    assert f"test_places.py:{made}: in test_memory_that_is_not_there: x = Tensor.ones" in notes(caught.value)


def test_a_value_that_was_overwritten_names_where_it_was_used() -> None:
    x = Tensor(np.ones(4, np.float32))
    stale = x._buffer().uop()
    y = Tensor(stale) * 2.75
    made = line(-1)
    x._buffer().version += 1
    with pytest.raises(RuntimeError, match="was overwritten in place") as caught:
        y.realize()
    assert f"test_places.py:{made}: in " in notes(caught.value)


def test_a_kernel_that_fails_later_is_found_by_its_name(am: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's fault comes when somebody waits; its message has the kernel's name."""
    from compiler.runtime import runtime
    y = (Tensor(np.ones(9, np.float32), device=am) * 4.125).realize()
    made = line(-1)
    name = next(p.source.name for p in reversed(list(engine._programs.values())))

    def fault(*arguments: object) -> None:
        raise RuntimeError(f"compute 0: memory fault at 0x1000, kernel {name}")
    monkeypatch.setattr(runtime(am), "read", fault)
    with pytest.raises(RuntimeError, match="memory fault") as caught:
        y.numpy()
    assert f"kernel {name}" in notes(caught.value) and f"test_places.py:{made}: in test_a_kernel" in notes(caught.value)


HUNG = """
import os, sys, traceback
import numpy as np
from amdrv.hal.mock import MockHal
from compiler import Tensor
from compiler.runtime import runtime

def scaled(x):
    return x * 3.5 + 1

x = Tensor(np.ones(64, np.float32), device="AM").realize()
runtime("AM").device.timeout = 0.5
MockHal.shared().machine.gpus[0].faults.inject("hung-wave", count=1)
y = scaled(x)
try:
    y.numpy()
except Exception:
    traceback.print_exc()
sys.stderr.flush()
os._exit(0)
"""


def test_a_kernel_that_hangs_names_the_line(am: str, tmp_path: Path) -> None:
    """The launch returned long ago; the copy that waits for it is what fails."""
    (tmp_path / "my.py").write_text(HUNG)
    done = subprocess.run([sys.executable, "my.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120,
                          env={**os.environ, "PYTHONPATH": str(HERE.parents[2]), "AMDRV_HAL": "mock"})
    assert "DeviceTimeout" in done.stderr
    assert "\n  my.py:9: in scaled: return x * 3.5 + 1\n" in done.stderr, done.stderr


def test_a_program_that_fails_prints_the_line(tmp_path: Path) -> None:
    """From outside: what stands on the terminal."""
    file = tmp_path / "my.py"
    file.write_text("from compiler import Tensor\n\ndef loss(n):\n    big = Tensor.ones(n).contiguous()\n"
                    "    return big\n\nloss(1 << 46).realize()\n")
    done = subprocess.run([sys.executable, "my.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120,
                          env={"PYTHONPATH": str(HERE.parents[2]), "PATH": "", "COMPILER_CACHE": "0"})
    assert done.returncode == 1
    assert "\n  my.py:4: in loss: big = Tensor.ones(n).contiguous()\n" in done.stderr


def test_jit_and_source_that_is_gone(tmp_path: Path) -> None:
    """A line whose file cannot be read has its method instead of its text."""
    code = compile("def made(x):\n    return x.tanh()\n", str(tmp_path / "never.py"), "exec")
    space: dict[str, object] = {}
    exec(code, space)
    linecache.checkcache()
    y = jit(space["made"])(Tensor(np.ones(3, np.float32)))      # type: ignore[arg-type]
    assert y.shape == (3,)
    place = next(places.below([space["made"](Tensor(np.ones(3, np.float32))).uop]))     # type: ignore[operator]
    assert places.text_of(place).endswith("never.py:2: in made: tanh")
