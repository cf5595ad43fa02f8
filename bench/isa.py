"""How fast the mock executes machine code: python -m bench.isa [--quick]

Every line is measured here and now, and both executors in the same run. Kernels from clang are left out, with a note,
where no clang with the amdgcn target is found. "Translation" is the time of a first launch less that of a second one.
"""

from __future__ import annotations

import argparse
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import mock.isa
from mock.isa.encoding import ENCODINGS

__all__ = ["main", "valu_loop"]

KERNELS = Path(__file__).resolve().parents[1] / "tests" / "isa" / "kernels"
RSRC1 = 0xf0 << 12 | 3 << 21 | 3        # nearest, denormals, DX10_CLAMP, IEEE; 32 VGPRs
VGPR = 256


def _word(encoding: str, **fields: int) -> bytes:
    return ENCODINGS[encoding].pack(**fields).to_bytes(ENCODINGS[encoding].size, "little")


def valu_loop(kind: str, turns: int, unrolled: int = 64) -> bytes:
    """A loop of additions (``iadd``, ``fadd``) or fused multiply-adds (``fma``), each on results of the turn before."""
    opcode = {"iadd": 0x25, "fadd": 0x03, "fma": 0x2b}[kind]
    setup = b"".join(_word("VOP1", op=0x06, vdst=register, src0=VGPR) for register in range(1, 17))    # v_cvt_f32_u32
    setup += _word("SOP1", op=0x00, sdst=4,
        ssrc0=128)                                                  # s_mov_b32 s4, 0
    body = b"".join(_word("VOP2", op=opcode, vdst=8 + i % 8, src0=VGPR + 8 + (3 * i + 1) % 8, vsrc1=4 + i % 3)
                    for i in range(unrolled))
    body += _word("SOPK", op=0x0f, sdst=4, simm16=1)                                                    # s_addk_i32
    body += _word("SOPK", op=0x0d, sdst=4, simm16=turns)                                                # s_cmpk_lt_u32
    back = -(len(body) // 4 + 1) & 0xffff
    return setup + body + _word("SOPP", op=0x22, simm16=back) + _word("SOPP", op=0x30, simm16=0)


def _seconds(work: Callable[[], mock.isa.Counts], repeat: int = 3) -> tuple[float, float, mock.isa.Counts]:
    """First run, best of the later ones, counts."""
    times = []
    for _ in range(repeat + 1):
        start = time.perf_counter()
        counts = work()
        times.append(time.perf_counter() - start)
    return times[0], min(times[1:]), counts


def _line(what: str, executor: str, first: float, best: float, counts: mock.isa.Counts, note: str = "") -> None:
    rate = counts.instructions / best / 1e6
    print(f"{what:<34} {executor:<12} {best * 1e3:10.1f} ms {rate:9.2f} M/s  "
          f"translation {max(first - best, 0) * 1e3:7.1f} ms  {note}", flush=True)


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
                code, grid=(64,), block=(256,), rsrc1=RSRC1, rsrc2=2 << 1, executor=executor))
            _line(f"VALU loop, {kind}", executor, first, best, counts)


def _matmul(clang: str, executors: list[str], n: int) -> None:
    code = _compile(clang, "ordinary.cl")
    rng = np.random.default_rng(0)
    a, b = rng.random((2, n, n), np.float32)
    c = np.zeros((n, n), np.float32)
    start = time.perf_counter()
    expected = a @ b
    numpy_time = time.perf_counter() - start
    kernarg = struct.pack("<QQQi", a.ctypes.data, b.ctypes.data, c.ctypes.data, n)
    for executor in executors:
        first, best, counts = _seconds(lambda executor=executor: mock.isa.run(      # type: ignore[misc]
            code, kernel="matmul", grid=(n // 16, n // 16), block=(16, 16), kernarg=kernarg, executor=executor), 1)
        np.testing.assert_allclose(c, expected, rtol=1e-3)
        _line(f"matmul {n} f32, LDS tiles", executor, first, best, counts, f"{best / numpy_time:.0f} x NumPy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    options = parser.parse_args()
    executors = ["interpreter", "jit"]
    _valu(executors, options.quick)
    clang = _clang()
    if clang is None:
        print("no clang with the amdgcn target: kernels in OpenCL C are left out")
        return
    _matmul(clang, executors, 128 if options.quick else 512)


if __name__ == "__main__":
    main()
