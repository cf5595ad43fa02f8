"""What the compiler's kernels do, and what they cost to make: python -m bench.compiler [--peer PYTHON] [--docs]

Every figure is measured here and now, the peer's in the same run. The peer is tinygrad on its CPU/LLVM backend, in an
interpreter of its own that has it (``--peer``, a Python of a throwaway environment); PyTorch is measured where it can
be imported. Nothing of either is used otherwise. Modelled cycles are those of the mock's clock (mock.isa.clock).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench import write_section

__all__ = ["main"]

BEGIN, END = "<!-- bench.compiler -->\n", "<!-- end of bench.compiler -->\n"
SIZES = (512, 1024)


class _Row(NamedTuple):
    what: str
    ours: float
    unit: str
    peer: float | None
    note: str


_rows: list[_Row] = []


def _line(what: str, ours: float, unit: str, peer: float | None = None, note: str = "") -> None:
    _rows.append(_Row(what, ours, unit, peer, note))
    ratio = "" if peer is None else f"   peer {peer:10.3f}   ours / peer {ours / peer:.2f}"
    print(f"{what:44} {ours:10.3f} {unit}{ratio}   {note}", flush=True)


def _best(run: Callable[[], object], turns: int = 7) -> float:
    """Milliseconds, the least of several runs after three that do not count."""
    for _ in range(3):
        run()
    times = []
    for _ in range(turns):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


# the same work for both: T is the tensor class, jit the way in which a step is repeated, and rand makes a tensor
_WORK = """
import time
from bench import write_section
def best(run):      # many runs: on a machine that others use as well, one of them goes undisturbed
    for _ in range(3): run()
    times = []
    while len(times) < 7 or (sum(times) < 1 and len(times) < 200):
        start = time.perf_counter(); run(); times.append(time.perf_counter() - start)
    return min(times) * 1e3
def measure(rand, jit, fresh):
    out = {}
    for n in (512, 1024):
        a, b = rand(n, n), rand(n, n)
        plain, turned = jit(lambda x, y: (x @ y).realize()), jit(lambda x, y: (x @ y.transpose(0, 1)).realize())
        out[f"product {n}"] = best(lambda: plain(a, b))
        out[f"product {n}, second one transposed"] = best(lambda: turned(a, b))
    w = [rand(784, 512), rand(512, 256), rand(256, 10)]
    x = rand(64, 784)
    start = time.perf_counter()
    h = x
    for k in w: h = (h @ k).relu()
    h.softmax(1).log().mean().realize()
    out["first step, three layers and softmax"] = (time.perf_counter() - start) * 1e3
    q, k, v = rand(8, 64, 48), rand(8, 64, 48), rand(8, 64, 48)
    start = time.perf_counter()
    ((q @ k.transpose(1, 2) * 0.125).softmax(-1) @ v).relu().sum(1).realize()
    out["first step, attention"] = (time.perf_counter() - start) * 1e3
    s = rand(16, 16)
    for _ in range(50): (s + 1).realize()
    start = time.perf_counter()
    for _ in range(200): (s + 1).realize()
    out["eager x + 1, known kernel"] = (time.perf_counter() - start) * 1e3 / 200
    for b, c, h, o, k, s in ((1, 64, 56, 64, 3, 1), (2, 64, 56, 256, 1, 1), (1, 128, 28, 128, 3, 2),
                             (1, 3, 112, 64, 7, 2)):
        a, w = rand(b, c, h, h), rand(o, c, k, k)
        convolve = jit(lambda x, w: x.conv2d(w, stride=s, padding=k // 2).realize())
        out[f"convolution {k}x{k}, stride {s}, {c} to {o} channels, {b}x{h}x{h}"] = best(lambda: convolve(a, w))
    return out
"""
_PEER = _WORK + """
import json, os
import numpy as np
from tinygrad import Tensor, TinyJit
rand = lambda *shape: Tensor(np.random.rand(*shape).astype(np.float32)).realize()
print(json.dumps(measure(rand, TinyJit, None)))
"""
_OURS = _WORK + """
import json
import numpy as np
from compiler import Tensor, jit
rand = lambda *shape: Tensor(np.random.rand(*shape).astype(np.float32))
print(json.dumps(measure(rand, jit, None)))
"""


# schedules and code of whole models, in processor time and by the clock: nothing runs but the step of which memory is
# asked. LLVM's part is in both sides' times, nothing is on disk, and what both meet for the first time is met before
_MODEL = """
import json, sys, time
import numpy as np
from bench.models import gpt2_step, resnet50_step
rng = np.random.RandomState(0)
def numbers(*shape): return ((rng.rand(*shape) - 0.5) * 0.1).astype(np.float32)
def timed(build, compile):
    (rand(3) + 1).realize()
    clock, processor = time.perf_counter(), time.process_time()
    made = build(); count = compile(made)
    return made, {"seconds": time.process_time() - processor, "clock": time.perf_counter() - clock, "kernels": count}
def decode():
    step = gpt2_step(rand)
    token, place = (whole(np.array([[n]], np.int32)) for n in (5, 64))
    return timed(lambda: step(token, place), compile)[1]
def train(depths):
    state, step = resnet50_step(rand, depths=depths)
    for t in state: t.realize()
    images, targets = rand(2, 3, 64, 64), whole(np.eye(1000, dtype=np.float32)[[5, 7]])
    before = used()
    loss, times = timed(lambda: step(images, targets), lambda loss: compile([loss, *state]))
    run([loss, *state])
    return {**times, "MiB": peak() - before, "loss": float(loss.numpy())}
"""
_MODEL_END = """
print(json.dumps(decode() if sys.argv[1] == "gpt2" else train(json.loads(sys.argv[2]))))
"""
_PEER_MODEL = _MODEL + """
from tinygrad import Tensor
from tinygrad.engine.realize import compile_linear, run_linear
from tinygrad.helpers import GlobalCounters
whole = lambda array: Tensor(array).realize()
rand = lambda *shape: whole(numbers(*shape))
used = peak = lambda: GlobalCounters.mem_used / 2**20     # what a step allocates is held until it is dropped
held = []
def compile(outs):
    held.append(compile_linear(Tensor.schedule_linear(*outs)))
    return len(held[0].src)
def run(outs): run_linear(held[0])
""" + _MODEL_END
_OUR_MODEL = _MODEL + """
from compiler import Tensor
from compiler.buffer import pool
from compiler.engine import prepare
whole = Tensor
rand = lambda *shape: Tensor(numbers(*shape))
used, peak = lambda: pool("CPU").used / 2**20, lambda: pool("CPU").peak / 2**20
compile = lambda outs: len(prepare([t.uop for t in outs], "CPU").items)
run = lambda outs: outs[0].realize(*outs[1:])
""" + _MODEL_END


def _process(python: str, script: str, *arguments: str, **environment: str) -> dict[str, float] | None:
    """What a script measured in a process of its own, with nothing on disk from earlier ones."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "XDG_CACHE_HOME": folder, "CACHELEVEL": "0", **environment}
        done = subprocess.run([python, "-c", script, *arguments], capture_output=True, text=True, env=environment,
                              check=False)
    if done.returncode:
        print(f"{python} fails: {done.stderr.strip().splitlines()[-1:]}")
        return None
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _cpu(peer: str | None) -> None:
    ours = _process(sys.executable, _OURS)
    theirs = _process(peer, _PEER, **_peer_environment()) if peer else None
    if ours is None:
        raise SystemExit("the compiler's own measurements failed")
    notes: dict[str, str] = {}
    for n in SIZES:
        a, b = (np.random.rand(n, n).astype(np.float32) for _ in range(2))
        notes[f"product {n}"] = f"NumPy {_best(lambda a=a, b=b: a @ b, 40):.2f} ms"      # type: ignore[misc]
    try:
        import torch
    except ImportError:
        torch = None        # type: ignore[assignment]
    if torch is not None:
        for n in SIZES:
            x, y = torch.rand(n, n), torch.rand(n, n)
            notes[f"product {n}"] += f", PyTorch {_best(lambda x=x, y=y: x @ y):.2f} ms"      # type: ignore[misc]
    for what, value in ours.items():
        _line(f"CPU: {what}", value, "ms", None if theirs is None else theirs.get(what), notes.get(what, ""))


def _peer_environment() -> dict[str, str]:
    # its queues are written in C, whatever makes the kernels
    clang = next((c for c in ("clang", *(f"clang-{n}" for n in range(25, 15, -1))) if shutil.which(c)), "clang")
    return {"DEV": "CPU:LLVM", "CC": clang}


def _models(peer: str | None, quick: bool) -> None:
    """Seconds from Python to compiled kernels, and memory.

    The peer runs twice: all in one process, for its processor time (starting others would only add to it), and in as
    many as it likes, for the clock.
    """
    for name, what, depths in (("gpt2", "GPT-2 decode step", ""),
                               ("resnet", f"ResNet-{'14' if quick else '50'} training step",
                                json.dumps([1, 1, 1, 1] if quick else [3, 4, 6, 3]))):
        ours = _process(sys.executable, _OUR_MODEL, name, depths)
        theirs, spread = ((_process(peer, _PEER_MODEL, name, depths, **_peer_environment(), **more) for more in (
            {"PARALLEL": "0"}, {})) if peer else (None, None))
        if ours is None:
            raise SystemExit(f"{what}: our own measurement failed")
        notes = f"{ours['kernels']} kernels" + ("" if theirs is None else f", the peer's {theirs['kernels']}")
        _line(f"CPU: schedule and code, {what}", ours["seconds"], "s", (theirs or {}).get("seconds"),
              f"processor time; {notes}")
        _line(f"CPU: schedule and code, {what}, by the clock", ours["clock"], "s", (spread or {}).get("clock"),
              f"the peer in {os.cpu_count()} processes" if peer else "")
        if "MiB" in ours:
            loss = "" if theirs is None else f"loss {ours['loss']:.5f}, the peer's {theirs['loss']:.5f}"
            _line(f"CPU: memory of the step beside its state, {what}", ours["MiB"], "MiB", (theirs or {}).get("MiB"),
                  loss)


def _aligned(array: np.ndarray) -> np.ndarray:
    raw = np.zeros(array.nbytes + 256, np.uint8)
    start = -raw.ctypes.data % 256
    out = raw[start:start + array.nbytes].view(array.dtype).reshape(array.shape)
    out[:] = array
    return out


def _gpu_product(dtype: Any, n: int, transposed: bool, clock: bool) -> tuple[float, Any]:
    """Milliseconds on the mock's executor and its counts, of the kernel that the heuristics make."""
    import mock.isa
    from compiler import Tensor
    from compiler.engine import build_program
    from compiler.render.llvm import Target
    from compiler.schedule import KernelItem, normalize, schedule
    a, b = (np.random.RandomState(k).uniform(-1, 1, (n, n)).astype(dtype) for k in range(2))
    x, y = Tensor(a), Tensor(b)
    roots, buffers = normalize([(x @ (y.T if transposed else y)).uop])
    (item,) = schedule(roots, "CPU").items
    assert isinstance(item, KernelItem)
    program = build_program(item.sink, Target("amdgcn-amd-amdhsa", "gfx1100"))
    memory = [_aligned(buffers[s].read()) if s < len(buffers)        # type: ignore[attr-defined]
              else _aligned(np.zeros(n * n, dtype)) for s in item.slots]
    kernarg = struct.pack(f"<{len(memory)}Q", *(m.ctypes.data for m in memory))

    def run(**options: Any) -> Any:
        return mock.isa.run(program.code, grid=program.source.grid, block=program.source.block, kernarg=kernarg,
                            **options)
    counts = run(clock=True) if clock else run(executor="jit")
    want = a.astype(np.float32) @ (b.T if transposed else b).astype(np.float32)
    np.testing.assert_allclose(memory[0].reshape(n, n).astype(np.float32), want, rtol=1e-2, atol=5e-2)
    return _best(lambda: run(executor="jit"), 3), counts


def _gpu(quick: bool) -> None:
    a, b = (np.random.rand(512, 512).astype(np.float32) for _ in range(2))
    numpy = _best(lambda: a @ b, 60)        # its threads suffer more from neighbours than ours
    took, _ = _gpu_product(np.float32, 512, False, False)
    _line("mock: product 512 fp32", took, "ms", None, f"{took / numpy:.1f} x NumPy ({numpy:.2f} ms)")
    n = 256 if quick else 1024
    for transposed in (False, True):
        took, counts = _gpu_product(np.float16, n, transposed, True)
        report = counts.clock
        what = f"modelled: product {n} fp16{', second one transposed' if transposed else ''}"
        _line(what, report.cycles / 1e3, "k cycles", None,
              f"{report.of_peak:.1%} of the peak, dispatch included; limit: {report.limit}; {took:.0f} ms on the mock")


def _write_docs(path: Path) -> None:
    table = ["| what | ours | peer | ours / peer | |", "|---|--:|--:|--:|---|"]
    table += [f"| {r.what} | {r.ours:.3f} {r.unit} | {'' if r.peer is None else f'{r.peer:.3f}'} | "
              f"{'' if r.peer is None else f'{r.ours / r.peer:.2f}'} | {r.note} |" for r in _rows]
    about = (f"`python -m bench.compiler --docs`, {os.cpu_count()} cores, {platform.machine()}, Python "
             f"{platform.python_version()}. The peer is tinygrad from PyPI on its CPU/LLVM backend, in the same run.")
    part = BEGIN + "## The compiler\n\n" + about + "\n\n" + "\n".join(table) + "\n" + END
    write_section(path, BEGIN, END, part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small product for the modelled clock")
    parser.add_argument("--peer", metavar="PYTHON", help="an interpreter that has tinygrad")
    parser.add_argument("--docs", action="store_true", help="write the figures into docs/performance.md, too")
    options = parser.parse_args()
    _cpu(options.peer)
    _models(options.peer, options.quick)
    _gpu(options.quick)
    if options.docs:
        _write_docs(Path(__file__).resolve().parents[1] / "docs" / "performance.md")


if __name__ == "__main__":
    from tools.piped import piped
    piped(main)()
