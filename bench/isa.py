"""How fast the mock executes machine code: python -m bench.isa [--quick] [--strict] [--json FILE] [--docs]

Every line is measured here and now, and both executors in the same run. Kernels from clang are left out, with a note,
where no clang with the amdgcn target is found. "First" is the first launch, which translates.
"""

from __future__ import annotations

import argparse
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
from typing import NamedTuple

import numpy as np

import mock.isa
import mock.isa.jit
from bench import write_json, write_section
from mock.isa.encoding import ENCODINGS
from mock.isa.jit.kernels import COMPILED_SECONDS

__all__ = ["main", "valu_loop"]

KERNELS = Path(__file__).resolve().parents[1] / "tests" / "isa" / "kernels"
RSRC1 = 0xf0 << 12 | 3 << 21 | 3        # nearest, denormals, DX10_CLAMP, IEEE; 32 VGPRs
VGPR = 256
ONE: dict[str, dict[str, int]] = {"interpreter": {}, "jit": {"threads": 1}}
BEGIN, END = "<!-- bench.isa -->\n", "<!-- end of bench.isa -->\n"


def _word(encoding: str, **fields: int) -> bytes:
    return ENCODINGS[encoding].pack(**fields).to_bytes(ENCODINGS[encoding].size, "little")


def valu_loop(kind: str, turns: int, unrolled: int = 64) -> bytes:
    """A loop of additions (``iadd``, ``fadd``) or fused multiply-adds (``fma``), each on results of the turn before.

    They end in LDS, so that nothing may be left out.
    """
    opcode = {"iadd": 0x25, "fadd": 0x03, "fma": 0x2b}[kind]
    setup = b"".join(_word("VOP1", op=0x06, vdst=register, src0=VGPR) for register in range(1, 17))    # v_cvt_f32_u32
    setup += _word("SOP1", op=0x00, sdst=4,
        ssrc0=128)                                                  # s_mov_b32 s4, 0
    body = b"".join(_word("VOP2", op=opcode, vdst=8 + i % 8, src0=VGPR + 8 + (3 * i + 1) % 8, vsrc1=4 + i % 3)
                    for i in range(unrolled))
    body += _word("SOPK", op=0x0f, sdst=4, simm16=1)                                                    # s_addk_i32
    body += _word("SOPK", op=0x0d, sdst=4, simm16=turns)                                                # s_cmpk_lt_u32
    back = -(len(body) // 4 + 1) & 0xffff
    kept = b"".join(_word("DS", op=0x0d, addr=0, data0=register) for register in range(8, 16))      # ds_store_b32
    return setup + body + _word("SOPP", op=0x22, simm16=back) + kept + _word("SOPP", op=0x30, simm16=0)


def _seconds(work: Callable[[], mock.isa.Counts], repeat: int = 3,
             warm: bool = False) -> tuple[float, float, mock.isa.Counts]:
    """First run, best of the later ones, counts. ``warm``: those once it has run for so long that it was optimised."""
    times: list[float] = []
    for _ in range(repeat + 1):
        if times and warm:
            until = time.perf_counter() + 2 * COMPILED_SECONDS
            while time.perf_counter() < until:
                work()
            mock.isa.jit.wait_for_compiler()
            warm = False
        start = time.perf_counter()
        counts = work()
        times.append(time.perf_counter() - start)
    return times[0], min(times[1:]), counts


class Row(NamedTuple):
    """One measurement: ``seconds`` of the best run, and of the first one, which translates."""

    what: str
    executor: str
    seconds: float
    first: float
    rate: float | None = None       # million wave instructions a second, all threads
    note: str = ""

    def __str__(self) -> str:
        rate = f"{self.rate:9.2f} M/s" if self.rate is not None else " " * 13
        return (f"{self.what:<50} {self.executor:<12} {self.seconds * 1e3:10.1f} ms {rate}  "
                f"first {self.first * 1e3:9.1f} ms  {self.note}")


_rows: list[Row] = []


def _line(what: str, executor: str, first: float, best: float, counts: mock.isa.Counts | None, note: str = "") -> None:
    rate = counts.instructions / best / 1e6 if counts is not None else None
    _rows.append(Row(what, executor, best, first, rate, note))
    print(_rows[-1], flush=True)


def _clang() -> str | None:
    for name in ("clang-19", "clang-20", "clang"):
        path = shutil.which(name)
        if path and "amdgcn" in subprocess.run([path, "-print-targets"], capture_output=True, text=True,
            check=False).stdout:
            return path
    return None


def _compile(clang: str, name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "k.co"
        subprocess.run([clang, "-x", "cl", "-cl-std=CL2.0", "-Xclang", "-finclude-default-header", "-target",
                        "amdgcn-amd-amdhsa", "-mcpu=gfx1100", "-O3", "-nogpulib", str(KERNELS / name), "-o",
                        str(output)],
                       check=True, capture_output=True)
        return output.read_bytes()


def _valu(executors: list[str], quick: bool) -> None:
    for kind in ("iadd", "fadd", "fma"):
        for executor in executors:
            turns = 20 if executor == "interpreter" or quick else 2000
            code = valu_loop(kind, turns)
            first, best, counts = _seconds(lambda code=code, executor=executor: mock.isa.run(     # type: ignore[misc]
                code, grid=(64,), block=(256,), rsrc1=RSRC1, rsrc2=2 << 1, lds_bytes=4096, executor=executor,
                **ONE[executor]),
                warm=executor == "jit")
            _line(f"VALU loop, {kind}, one thread", executor, first, best, counts)


def _time(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _matmul(clang: str, executors: list[str], n: int) -> None:
    code = _compile(clang, "ordinary.cl")
    rng = np.random.default_rng(0)
    a, b = rng.random((2, n, n), np.float32)
    c = np.zeros((n, n), np.float32)
    expected = a @ b
    numpy_time = min(_time(lambda: a @ b) for _ in range(10))
    kernarg = struct.pack("<QQQi", a.ctypes.data, b.ctypes.data, c.ctypes.data, n)
    for executor in executors:
        first, best, counts = _seconds(lambda executor=executor: mock.isa.run(      # type: ignore[misc]
            code, kernel="matmul", grid=(n // 16, n // 16), block=(16, 16), kernarg=kernarg, executor=executor), 3,
            warm=executor == "jit")
        np.testing.assert_allclose(c, expected, rtol=1e-3)
        _line(f"matmul {n} f32, LDS tiles", executor, first, best, counts, f"{best / numpy_time:.0f} x NumPy")


def _loops(clang: str, quick: bool) -> None:
    """Loops with LDS, memory and branches that lanes take apart."""
    code, out = _compile(clang, "loops.cl"), np.zeros(64 * 256, np.float32)
    data = np.random.default_rng(0).random(256 * 64, np.float32)
    turns = 20 if quick else 2000
    for name, pointers in (("lds", [out]), ("memory", [out, data]), ("divergent", [out])):
        kernarg = struct.pack(f"<{len(pointers)}Qi", *(p.ctypes.data for p in pointers), turns)
        first, best, counts = _seconds(lambda name=name, kernarg=kernarg: mock.isa.run(     # type: ignore[misc]
            code, kernel=f"{name}_loop", grid=(64,), block=(256,), kernarg=kernarg, executor="jit", threads=1),
            warm=True)
        _line(f"loop, {name}, one thread", "jit", first, best, counts)


def _aligned(array: np.ndarray) -> np.ndarray:
    room = np.zeros(array.nbytes + 256, np.uint8)
    skip = -room.ctypes.data % 256
    place = room[skip:skip + array.nbytes].view(array.dtype).reshape(array.shape)
    place[:] = array
    return place


def _product(n: int) -> None:
    """The compiler's kernel, and NumPy in the same moments, each on all cores."""
    from compiler import Tensor
    from compiler.engine import build_program
    from compiler.render.llvm import Target
    from compiler.schedule import KernelItem, normalize, schedule
    a, b = np.random.default_rng(0).uniform(-1, 1, (2, n, n)).astype(np.float32)
    roots, buffers = normalize([(Tensor(a) @ Tensor(b)).uop])
    (item,) = schedule(roots, "CPU").items
    assert isinstance(item, KernelItem)
    program = build_program(item.sink, Target("amdgcn-amd-amdhsa", "gfx1100"))
    memory = [_aligned(buffers[s].read()) if s < len(buffers)        # type: ignore[attr-defined]
              else _aligned(np.zeros(n * n, np.float32)) for s in item.slots]
    kernarg = struct.pack(f"<{len(memory)}Q", *(m.ctypes.data for m in memory))

    def work() -> mock.isa.Counts:
        return mock.isa.run(program.code, grid=program.source.grid, block=program.source.block, kernarg=kernarg,
                            executor="jit")
    first, best, counts = _seconds(work, 60, warm=True)
    other = min(_time(lambda: a @ b) for _ in range(60))
    np.testing.assert_allclose(memory[0].reshape(n, n), a @ b, rtol=1e-3, atol=1e-3)
    _line(f"matmul {n} f32, our compiler's kernel", "jit", first, best, counts,
          f"{best / other:.1f} x NumPy ({other * 1e3:.2f} ms)")


def _matrices(clang: str, n: int) -> None:
    code = _compile(clang, "wmma_matmul.cl")
    a, b = np.random.default_rng(0).uniform(-1, 1, (2, n, n)).astype(np.float16)
    c = np.zeros((n, n), np.float32)
    kernarg = struct.pack("<QQQi", a.ctypes.data, b.ctypes.data, c.ctypes.data, n)
    first, best, counts = _seconds(lambda: mock.isa.run(code, kernel="wmma_matmul", grid=(n // 64, n // 64),
                                                        block=(32,), kernarg=kernarg, executor="jit", threads=1),
                                   warm=True)
    np.testing.assert_allclose(c, a.astype(np.float32) @ b.astype(np.float32), rtol=1e-3, atol=1e-3)
    _line(f"matmul {n} f16, WMMA, one thread", "jit", first, best, counts)


def _digits() -> None:
    """The demo in a process of its own, with nothing on disk and again."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(KERNELS.parents[2] / "examples" / "digits.py")]
        environment = os.environ | {"AMDRV_CACHE": folder, "XDG_CACHE_HOME": folder, "AM": "1", "AMDRV_HAL": "mock"}
        times = [_time(lambda: subprocess.run(command, check=True, capture_output=True, env=environment))
                 for _ in range(3)]
    _line("digits demo on the mock", "auto", times[0], min(times[1:]), None)


def _translation() -> None:
    """A kernel of 500 instructions, seen for the first time by a process that has translated others."""
    codes = (0x03, 0x08, 0x25, 0x1b, 0x2b)      # add, mul, integer add, and, fma
    body = b"".join(_word("VOP2", op=codes[i % 5], vdst=8 + i % 16, src0=VGPR + 8 + (3 * i + 1) % 16,
                          vsrc1=4 + i % 3) for i in range(499)) + _word("SOPP", op=0x30, simm16=0)
    first, best, counts = _seconds(lambda: mock.isa.run(
        body, grid=(64,), block=(256,), rsrc1=RSRC1, rsrc2=2 << 1, executor="jit", threads=1))
    _line("500 instructions, new", "jit", first, best, counts)


_PROCESS = """
import sys, time
start = time.perf_counter()
import mock.isa
from bench.isa import RSRC1, valu_loop
mock.isa.run(valu_loop("fma", 20), grid=(1,), block=(64,), rsrc1=RSRC1, rsrc2=4, executor=sys.argv[1])
print(time.perf_counter() - start)
"""


def _processes(executors: list[str]) -> None:
    """Import and first launch in a process of its own, with nothing on disk and again."""
    for executor in executors:
        with tempfile.TemporaryDirectory() as folder:
            command, environment = [sys.executable, "-c", _PROCESS, executor], os.environ | {"AMDRV_CACHE": folder}
            times = [float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
                     for _ in range(3)]
        _line("process: import and one launch", executor, times[0], min(times[1:]), None)


def _strict(quick: bool) -> None:
    """Kernels on a card, with strict memory and without: processor time of all threads."""
    from bench.strict import measure
    for cost in measure(*((1 << 18, 3) if quick else ())):
        _rows.append(Row(f"card: {cost.what}", "jit", cost.strict, cost.strict, None,
                         f"without the rules {cost.relaxed * 1e3:.1f} ms: {round(100 * cost.loss)} % lost"))
        print(_rows[-1], flush=True)


def _earlier(path: Path) -> dict[tuple[str, str], str]:
    """The lines of the table that stands in ``path``, by (what, executor)."""
    page = path.read_text(encoding="utf-8") if path.exists() else ""
    found = {}
    for line in page.partition(BEGIN)[2].partition(END)[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == 6 and cells[0] != "what":
            found[cells[0], cells[1]] = line
    return found


def _write_docs(path: Path) -> None:
    """Put the figures between the marks in ``path``, which is made if it is not there. Lines of an earlier run whose
    work was not measured now stay."""
    lines = {(r.what, r.executor): f"| {r.what} | {r.executor} | {r.seconds * 1e3:.1f} | {r.first * 1e3:.1f} | "
             f"{'' if r.rate is None else f'{r.rate:.1f}'} | {r.note} |" for r in _rows}
    lines = _earlier(path) | lines
    table = ["| what | executor | best ms | first ms | M wave instructions/s | |", "|---|---|--:|--:|--:|---|"]
    table += lines.values()
    about = (f"`python -m bench.isa --docs`, {os.cpu_count()} cores, {platform.machine()}, "
             f"Python {platform.python_version()}.")
    part = BEGIN + "## Machine code\n\n" + about + "\n\n" + "\n".join(table) + "\n" + END
    write_section(path, BEGIN, END, part)


def _machine_code(executors: list[str], quick: bool) -> None:
    """Everything but the cards."""
    _valu(executors, quick)
    _translation()
    _processes(executors)
    _product(128 if quick else 512)
    _digits()
    clang = _clang()
    if clang is None:
        print("no clang with the amdgcn target: kernels in OpenCL C are left out")
    else:
        _loops(clang, quick)
        _matrices(clang, 256 if quick else 1024)
        _matmul(clang, executors if quick else ["jit"], 128 if quick else 512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--strict", action="store_true", help="only what strict memory costs (the lines named card)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    parser.add_argument("--docs", action="store_true", help="write the figures into docs/performance.md, too")
    options = parser.parse_args()
    executors = ["interpreter", "jit"]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["AMDRV_CACHE"] = folder      # what earlier runs compiled is not taken
        if not options.strict:
            _machine_code(executors, options.quick)
        _strict(options.quick)
        mock.isa.jit.wait_for_compiler()
    if options.json:
        write_json(options.json, [row._asdict() for row in _rows])
    if options.docs:
        _write_docs(Path(__file__).resolve().parents[1] / "docs" / "performance.md")


if __name__ == "__main__":
    from tools.piped import piped
    piped(main)()
