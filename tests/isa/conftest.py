"""Oracles and compiled kernels for the ISA's tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import llvm  # noqa: E402


@pytest.fixture(scope="session")
def llvm_mc() -> str:
    tool = llvm.llvm_mc()
    if tool is None:
        pytest.skip(f"no llvm-mc with the amdgcn target (tried {', '.join(llvm.NAMES)})")
    return tool


@pytest.fixture(scope="session")
def assembler(llvm_mc: str) -> Callable[[str], bytes]:
    """Assembly text -> machine code. Branches may go to labels (``again:`` on a line of its own)."""
    def assemble(text: str) -> bytes:
        lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
        labels = {line[:-1] for line in lines if line.endswith(":")}

        def jump(line: str) -> bool:
            return line.startswith(("s_branch", "s_cbranch")) and line.split()[-1] in labels
        body = [line for line in lines if not line.endswith(":")]
        codes = llvm.assemble(llvm_mc, [f"{line.split()[0]} 0" if jump(line) else line for line in body])
        at, offsets, places = 0, [], {}
        code = iter(codes)
        for line in lines:
            if line.endswith(":"):
                places[line[:-1]] = at
                continue
            bits = next(code)
            assert bits is not None, f"the assembler refused {line!r}"
            at += len(bits)
            offsets.append(at)
        out = b""
        for line, bits, end in zip(body, codes, offsets, strict=True):
            assert bits is not None
            if jump(line):
                distance = (places[line.split()[-1]] - end) // 4        # SIMM16, in dwords from the next instruction
                bits = (distance & 0xFFFF).to_bytes(2, "little") + bits[2:]
            out += bits
        return out
    return assemble


@pytest.fixture(scope="session")
def compile_kernels(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    """(OpenCL file, -O level) -> code object, each built once."""
    tool = llvm.clang()
    if tool is None:
        pytest.skip(f"no clang with the amdgcn target (tried {', '.join(llvm.CLANGS)})")
    folder = tmp_path_factory.mktemp("kernels")
    built: dict[tuple[str, ...], bytes] = {}

    def build(name: str, level: str, *options: str) -> bytes:
        key = (name, level, *options)
        if key not in built:
            output = folder / f"{len(built)}.co"
            subprocess.run([tool, "-x", "cl", "-cl-std=CL2.0", "-Xclang", "-finclude-default-header", "-target",
                            "amdgcn-amd-amdhsa", "-mcpu=gfx1100", f"-{level}", "-nogpulib",
                            "-cl-fp32-correctly-rounded-divide-sqrt", *options, str(HERE / "kernels" / name),
                            "-o", str(output)], check=True, capture_output=True)
            built[key] = output.read_bytes()
        return built[key]
    return build
