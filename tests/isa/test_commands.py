"""python -m mock.isa: what people see."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mock.isa.__main__ import main
from mock.isa.coverage import table_text


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


def test_disasm_of_one_kernel_as_json(kernel_file: Path, capsys: Any) -> None:
    main(["disasm", str(kernel_file), "--kernel", "reduce", "--json"])
    listing = json.loads(capsys.readouterr().out)
    kernel, = listing["kernels"]
    assert kernel["name"] == "reduce" and kernel["wave_size"] == 32 and kernel["lds_bytes"] == 1024
    first, *rest = listing["instructions"]
    assert first["offset"] == kernel["entry"] and first["labels"] == ["reduce"]
    assert {"s_barrier", "s_endpgm"} <= {i["text"] for i in rest} and not any("labels" in i for i in rest)


ARGUMENTS = ["--kernel", "saxpy", "--args", "range:32", "range:32", "f32:2", "i32:32", "--lane", "3"]


def test_trace_shows_changes_of_one_lane_and_stops(kernel_file: Path, capsys: Any) -> None:
    arguments = ["trace", str(kernel_file), *ARGUMENTS]
    main(arguments)
    out = capsys.readouterr().out
    assert "global_load_b32" in out and "(3)" in out and "(9)" in out      # 2 * 3 + 3
    assert "1 waves" in out and "s_cbranch_execz" in out
    assert re.search(r"global_store_b32 .*\[0x[0-9a-f]+c\]", out), "lane 3 stores its fourth dword"
    main([*arguments, "--limit", "2"])
    assert "stopped after 2 instructions" in capsys.readouterr().out


def test_breakpoints_and_watched_registers(kernel_file: Path, capsys: Any) -> None:
    arguments = ["trace", str(kernel_file), *ARGUMENTS]
    main([*arguments, "--break", "v_fmac*"])
    *_, stop = capsys.readouterr().out.partition("breakpoint v_fmac*: stopped behind ")
    assert "v_fmac_f32" in stop and "=0x41100000 (9)" in stop and "exec_lo=0xffffffff" in stop
    main([*arguments, "--break", "saxpy"])
    assert len(capsys.readouterr().out.partition("breakpoint saxpy")[0].splitlines()) == 1
    main(["disasm", str(kernel_file), "--kernel", "saxpy", "--json"])
    third = json.loads(capsys.readouterr().out)["instructions"][2]["offset"]
    main([*arguments, "--break", f"{third:#x}"])
    assert len(capsys.readouterr().out.partition("breakpoint 0x")[0].splitlines()) == 3
    main([*arguments, "--watch", "vcc", "--statistics"])
    out = capsys.readouterr().out
    watched = [line for line in out.partition("wave instructions")[0].splitlines()[1:-1]]
    assert watched and all("vcc" in line for line in watched)
    assert re.search(r"\d+ instructions of wave 0: .*SOPP", out) and "  global_load_b32" in out


def test_trace_as_json_replays_the_registers(kernel_file: Path, capsys: Any) -> None:
    main(["trace", str(kernel_file), *ARGUMENTS, "--json"])
    *steps, end = map(json.loads, capsys.readouterr().out.splitlines())
    assert end["followed"] == end["instructions"] == len(steps) == sum(end["by_mnemonic"].values())
    registers: dict[str, int] = {}
    for step in steps:
        registers |= step.get("changes", {})
    store = next(s for s in steps if s["text"].startswith("global_store_b32"))
    assert registers[store["text"].split(", ")[1]] == 0x41100000


def test_source_lines_where_there_are_some(tmp_path: Path, compile_kernels: Any, capsys: Any) -> None:
    pytest.importorskip("elftools")
    path = tmp_path / "debug.co"
    path.write_bytes(compile_kernels("ordinary.cl", "O2", "-g"))
    main(["trace", str(path), *ARGUMENTS, "--break", "s_endpgm"])
    out = capsys.readouterr().out
    source = (Path(__file__).parent / "kernels" / "ordinary.cl").read_text().splitlines()
    number = next(i for i, line in enumerate(source, 1) if "y[i] = a * x[i] + y[i]" in line)
    assert f"; ordinary.cl:{number}\n" in out
    main(["trace", str(path), *ARGUMENTS, "--break", f"ordinary.cl:{number}"])
    assert f"breakpoint ordinary.cl:{number}: stopped" in capsys.readouterr().out


def test_bench_counts(kernel_file: Path, capsys: Any) -> None:
    main(["bench", str(kernel_file), "--kernel", "saxpy", "--block", "64", "--args", "random:64", "random:64", "f32:1",
          "i32:64"])
    out = capsys.readouterr().out
    assert "2 waves, 1 workgroups" in out and "s_endpgm" in out
    main(["bench", str(kernel_file), "--kernel", "saxpy", "--block", "64", "--args", "random:64", "random:64", "f32:1",
          "i32:64", "--json"])
    assert json.loads(capsys.readouterr().out)["by_mnemonic"]["s_endpgm"] == 2


def test_mistakes_are_named(kernel_file: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"the code object has no kernel 'nothing'; it has .*saxpy"):
        main(["bench", str(kernel_file), "--kernel", "nothing"])
    (tmp_path / "text").write_text("hello")
    with pytest.raises(SystemExit, match="not a code object: no 64-bit ELF for AMDGPU"):
        main(["disasm", str(tmp_path / "text")])
    for argument, message in (("f16:1", "use buffer"), ("i32:abc", "invalid literal"), ("buffer:-5", "not negative"),
                              ("i32:0x100000000", "format requires"), ("f32:x", "could not convert")):
        with pytest.raises(SystemExit, match=f"argument '{argument}': .*{message}"):
            main(["bench", str(kernel_file), "--kernel", "saxpy", "--args", argument])
    for arguments in (["disasm", str(tmp_path / "nothing")], ["coverage", "--write", str(tmp_path / "nothing")]):
        with pytest.raises(SystemExit, match=r"/nothing: No such file or directory"):
            main(arguments)
    for arguments, message in ((["--break", "v_nothing"], "breakpoint 'v_nothing' is no offset, no label"),
                               (["--watch", "r3"], "'r3' is no register; use v3"),
                               (["--lane", "77"], "lane 77 is none of a wave of 32"),
                               (["--wave", "9"], "the launch has no wave 9: 1 waves ran"),
                               (["--grid", "0,0,0,0"], "grid must be one to three sizes")):
        with pytest.raises(SystemExit, match=message):
            main(["trace", str(kernel_file), *ARGUMENTS, *arguments])


def test_the_coverage_table_is_put_into_a_page(tmp_path: Path, capsys: Any) -> None:
    page = tmp_path / "page.md"
    old = "| format | opcodes | executed | the rest |\n|---|---|---|---|\n| all | 1 | 0 | |"
    page.write_text(f"before\n\n{old}\n\nbehind\n")
    main(["coverage", "--write", str(page)])
    assert table_text() in page.read_text() and page.read_text().startswith("before\n")
    assert page.read_text().endswith("\nbehind\n")
    main(["coverage", "--json"])
    row = {"format": "EXP", "opcodes": 1, "executed": 0, "rest": "no export unit"}
    assert row in json.loads(capsys.readouterr().out)
