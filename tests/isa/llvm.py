"""LLVM's assembler and disassembler as oracles, where they are installed."""

from __future__ import annotations

import re
import shutil
import subprocess

NAMES = ("llvm-mc-19", "llvm-mc-20", "llvm-mc")
CLANGS = ("clang-19", "clang-20", "clang")


def llvm_mc() -> str | None:
    """A tool that knows gfx1100."""
    return _first(NAMES, ["--version"])


def clang() -> str | None:
    return _first(CLANGS, ["-print-targets"])


def _first(names: tuple[str, ...], arguments: list[str]) -> str | None:
    for name in names:
        path = shutil.which(name)
        if path is None:
            continue
        targets = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
        if "amdgcn" in targets.stdout:
            return path
    return None


def assemble(tool: str, lines: list[str], attributes: str = "") -> list[bytes | None]:
    """Machine code of each line, None where the assembler refuses it."""
    command = [tool, "-triple=amdgcn", "-mcpu=gfx1100", "-show-encoding"]
    if attributes:
        command.append(f"-mattr={attributes}")
    done = subprocess.run(command, input="\n".join(lines) + "\n",
                          capture_output=True, text=True, check=False)
    refused = {int(m[1]) - 1 for m in re.finditer(r"^<stdin>:(\d+):\d+: error", done.stderr, re.M)}
    found = re.finditer(r"encoding: \[([^\]]*)\]", done.stdout)
    codes = iter([bytes(int(x, 16) for x in m[1].split(",")) for m in found])
    return [None if i in refused else next(codes, None) for i in range(len(lines))]
