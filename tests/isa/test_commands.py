"""python -m mock.isa: what people see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mock.isa.__main__ import main


@pytest.fixture
def kernel_file(tmp_path: Path, compile_kernels: Any) -> Path:
    path = tmp_path / "k.co"
    path.write_bytes(compile_kernels("ordinary.cl", "O2"))
    return path


def test_disasm_lists_kernels_labels_and_bits(kernel_file: Path, capsys: Any) -> None:
    main(["disasm", str(kernel_file)])
    out = capsys.readouterr().out
    assert "saxpy: entry 0x" in out and "\nsaxpy:\n" in out
    assert any(line.endswith("s_endpgm") and "0000b0bf" in line for line in out.splitlines())
    assert "s_code_end" not in out


def test_trace_shows_changes_of_one_lane_and_stops(kernel_file: Path, capsys: Any) -> None:
    arguments = ["trace", str(kernel_file), "--kernel", "saxpy", "--args", "range:32", "range:32", "f32:2", "i32:32",
                 "--lane", "3"]
    main(arguments)
    out = capsys.readouterr().out
    assert "global_load_b32" in out and "(3)" in out and "(9)" in out      # 2 * 3 + 3
    assert "1 waves" in out and "s_cbranch_execz" in out
    main([*arguments, "--limit", "2"])
    assert "stopped after 2 instructions" in capsys.readouterr().out


def test_bench_counts(kernel_file: Path, capsys: Any) -> None:
    main(["bench", str(kernel_file), "--kernel", "saxpy", "--block", "64", "--args", "random:64", "random:64", "f32:1",
          "i32:64"])
    out = capsys.readouterr().out
    assert "2 waves, 1 workgroups" in out and "s_endpgm" in out


def test_mistakes_are_named(kernel_file: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"the code object has no kernel 'nothing'; it has .*saxpy"):
        main(["bench", str(kernel_file), "--kernel", "nothing"])
    (tmp_path / "text").write_text("hello")
    with pytest.raises(SystemExit, match="not a code object: no 64-bit ELF for AMDGPU"):
        main(["disasm", str(tmp_path / "text")])
    with pytest.raises(SystemExit, match="argument 'f16:1': use buffer"):
        main(["bench", str(kernel_file), "--kernel", "saxpy", "--args", "f16:1"])
