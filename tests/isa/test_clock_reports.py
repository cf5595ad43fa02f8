"""The modelled clock on what clang compiles, and what people see of it."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_kernels import pack

import mock.isa as isa
from mock.isa.__main__ import main
from mock.isa.clock import ClockReport, model

N = 4096


@pytest.fixture
def saxpy(compile_kernels: Any, tmp_path: Path) -> Path:
    path = tmp_path / "kernel.co"
    path.write_bytes(compile_kernels("ordinary.cl", "O2"))
    return path


def pages(count: int) -> np.ndarray:
    """float32 at a page boundary: lines are counted by address."""
    raw = np.zeros(count + 1024, np.float32)
    skip = -int(raw.ctypes.data) % 4096 // 4
    return raw[skip:skip + count]


@pytest.mark.parametrize("level", ["O0", "O2"])
def test_compiled_kernels_by_both_executors(compile_kernels: Any, level: str) -> None:
    pytest.importorskip("llvmlite")
    code, x, y = compile_kernels("ordinary.cl", level), pages(N), pages(N)
    reports: list[ClockReport] = []
    for executor in ("interpreter", "jit"):
        counts = isa.run(code, kernel="saxpy", grid=(N // 256,), block=(256,),
                         kernarg=pack(x, y, 2.0, N), executor=executor, clock=True)
        assert counts.clock is not None and not counts.clock.incomplete
        reports.append(counts.clock)
    assert reports[0] == reports[1]
    if level == "O2":
        assert reports[0].transactions["l0_lines"] == 2 * N * 4 // 128


def test_data_dependent_paths_are_followed(compile_kernels: Any) -> None:
    """Collatz: as many turns as the data says; later ones cost time."""
    code, steps = compile_kernels("ordinary.cl", "O2"), pages(N).view(np.uint32)
    cycles = []
    for start in (2, 27):
        first = np.full(N, start, np.uint32)
        counts = isa.run(code, kernel="collatz", grid=(N // 256,), block=(256,),
                         kernarg=pack(first, steps, N), clock=True)
        assert counts.clock is not None and counts.clock.scale == pytest.approx(1)
        cycles.append(counts.clock.cycles - counts.clock.launch_cycles)
    assert steps[0] == 111 and cycles[1] > 3 * cycles[0]


def test_the_command_says_what_limits(saxpy: Path, tmp_path: Path, capsys: Any) -> None:
    picture = tmp_path / "roofline.svg"
    main(["bench", str(saxpy), "--kernel", "saxpy", "--grid", "16", "--block", "256", "--clock", "--svg", str(picture),
          "--args", f"random:{N}", f"random:{N}", "f32:2", f"i32:{N}"])
    said = capsys.readouterr().out
    assert "modelled: " in said and "limit: dispatch" in said
    assert "fp32 (dual issue)" in said and "of 960 GB/s" in said and "occupancy" in said
    root = ET.parse(picture).getroot()
    assert root.tag.endswith("svg") and any("saxpy" in (e.text or "") for e in root)


@pytest.mark.parametrize("level", [*(pytest.param(level, marks=pytest.mark.slow) for level in ("O0", "O1")), "O3"])
@pytest.mark.parametrize(("file", "kernel"), [("ordinary.cl", "saxpy"), ("ordinary.cl", "collatz"),
                                              ("ordinary.cl", "reduce"), ("ordinary.cl", "matmul"),
                                              ("ordinary.cl", "histogram"), ("ordinary.cl", "scratch_sort"),
                                              ("wmma.cl", "f32_f16")])
def test_what_is_left_out_decides_nothing(compile_kernels: Any, monkeypatch: pytest.MonkeyPatch, file: str, kernel: str,
                                          level: str) -> None:
    """A sample of which everything is executed has the same paths, lines and bank conflicts."""
    code = compile_kernels(file, level)
    rng = np.random.default_rng(1)
    arrays = [pages(16 * N) for _ in range(3)]
    for array in arrays:
        array.view(np.uint32)[:] = rng.integers(1, 60, 16 * N)
    arguments = {"saxpy": (arrays[0], arrays[1], 2.0, 1000), "collatz": (arrays[0], arrays[1], 1000),
                 "reduce": (arrays[0], arrays[1]), "matmul": (*arrays, 32),
                 "histogram": (arrays[0], arrays[1], 1000), "scratch_sort": (arrays[0], arrays[1], 100),
                 "f32_f16": tuple(arrays)}[kernel]
    block = {"matmul": (16, 16), "f32_f16": (32,)}.get(kernel, (256,))

    def report() -> ClockReport:
        counts = isa.run(code, kernel=kernel, grid=(2, 2) if kernel == "matmul" else (4,), block=block,
                         kernarg=pack(*arguments), clock=True)
        assert counts.clock is not None and not counts.clock.incomplete
        return counts.clock
    short = report()
    analyse = model.relevance_of
    monkeypatch.setattr(model, "relevance_of", lambda c: dataclasses.replace(analyse(c), needed=None))
    assert report() == short


@pytest.mark.parametrize("kernel", ["matmul", "histogram", "ticket", "scratch_sort", "generic_pointers", "calls",
                                    "cross_lane", "double_math", "divide_u64", "bits"])
def test_both_executors_agree_on_every_kind_of_code(compile_kernels: Any, kernel: str) -> None:
    """LDS, atomics, scratch, flat addresses, calls, exchanges between lanes: the same report, from a whole sample."""
    pytest.importorskip("llvmlite")
    code = compile_kernels("ordinary.cl", "O1")
    data = np.random.default_rng(2).integers(1, 60, 16 * N).astype(np.uint32)
    reports = []
    for executor in ("interpreter", "jit"):
        arrays = [pages(16 * N) for _ in range(3)]
        for array in arrays:
            array.view(np.uint32)[:] = data
        x, y, z = arrays
        arguments: dict[str, tuple[Any, ...]] = {
            "matmul": (x, y, z, 32), "histogram": (x, y, 300), "ticket": (x, y, 300), "scratch_sort": (x, y, 100),
            "generic_pointers": (x, y, 64), "calls": (x, y, z, 300), "cross_lane": (x, y), "bits": (x, y, 300),
            "double_math": (x, y, z, 300), "divide_u64": (x, y, z, pages(16 * N), 300)}
        block = {"matmul": (16, 16), "generic_pointers": (64,), "cross_lane": (32,)}.get(kernel, (128,))
        grid = {"matmul": (2, 2), "generic_pointers": (1,), "cross_lane": (1,)}.get(kernel, (4,))
        counts = isa.run(code, kernel=kernel, grid=grid, block=block, kernarg=pack(*arguments[kernel]),
                         executor=executor, clock=True)
        assert counts.clock is not None and not counts.clock.incomplete
        reports.append(counts.clock)
    assert reports[0] == reports[1]
