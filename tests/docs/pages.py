"""The code blocks of README and docs, and how they run: all of a page, in order, in one process of its own.

A Python block runs in the page's one namespace, a shell block (``sh``) by bash; both in an empty directory that has
links to the checkout's folders. A line of shell that begins with ``make`` is tried with ``-n``: the target must exist.
``text`` is output, a diagram, a formula. Everything else, and every block that stands under a line of the form
``*Not run here: because ...*``, is not run; a reader sees why.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PAGES", "ROOT", "Block", "blocks", "run"]

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUNNABLE = ("python", "sh")
SILENT = ("text", "{toctree}", "{eval-rst}")        # nothing that could run; the last two are the site's own
CLANGS = ("clang-19", "clang-20", "clang-21", "clang")

_FENCE = re.compile(r"^( *)```(.*)$")
_REASON = re.compile(r"^\*Not run here: (.{10,})\*$", re.S)


@dataclass(frozen=True)
class Block:
    """One fenced block: the fence's words, the text, the line (from 1) on which the text begins, why it is not run."""

    words: tuple[str, ...]
    text: str
    line: int
    reason: str | None

    @property
    def language(self) -> str:
        return self.words[0] if self.words else ""


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order.

    :raises ValueError: a block that nobody closed, or one by indentation alone, which says no language.
    """
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    paragraph: list[str] = []               # the last one before the block
    number, blank = 0, True
    while number < len(lines):
        line = lines[number]
        fence = _FENCE.match(line)
        if fence is None:
            if not line.strip():
                blank = True
            else:
                if blank and line.startswith("    "):
                    raise ValueError(f"{page.name}:{number + 1}: "
                                     "a block by indentation; it needs a fence and a language")
                paragraph = [line] if blank else [*paragraph, line]
                blank = False
            number += 1
            continue
        end = next((n for n in range(number + 1, len(lines)) if lines[n].strip() == "```"), None)
        if end is None:
            raise ValueError(f"{page.name}:{number + 1}: the block has no end")
        reason = _REASON.match("\n".join(paragraph))
        text = "".join(f"{piece.removeprefix(fence[1])}\n" for piece in lines[number + 1:end])
        found.append(Block(tuple(fence[2].split()), text, number + 2, reason[1] if reason else None))
        paragraph, blank, number = [], True, end + 1
    return found


def run(page: Path, directory: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a page's blocks in a new process, in ``directory``, on the software machine with two cards."""
    for entry in ("amdrv", "bench", "compiler", "docs", "examples", "hcq", "mock", "tests", "tools"):
        (directory / entry).symlink_to(ROOT / entry)
    programs = directory / ".programs"
    programs.mkdir()
    if (clang := next(filter(None, map(shutil.which, CLANGS)), None)) is not None:
        (programs / "clang").symlink_to(clang)
    return subprocess.run([sys.executable, __file__, str(page)], cwd=directory, text=True, capture_output=True,
                          timeout=timeout, check=False,
                          env={**os.environ, "AMDRV_HAL": "mock", "AMDRV_MOCK": "gfx1100:vram=1G,count=2",
                               "COLUMNS": "120", "PYTHONPATH": str(ROOT), "TMPDIR": str(directory),
                               "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"})


def _shell(block: Block, page: Path) -> None:
    if "clang" in block.text and shutil.which("clang") is None:
        print(f"{page}:{block.line}: left out, there is no clang here")
        return
    text = re.sub(r"^make ", f"make -n -C '{ROOT}' ", block.text, flags=re.M)
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], check=False)
    if done.returncode:
        sys.exit(f"{page}:{block.line}: the shell's exit status is {done.returncode}")


def main(path: str) -> None:
    page = Path(path)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.reason or block.language not in RUNNABLE:
            continue
        sys.stdout.flush()
        if block.language == "sh":
            _shell(block, page)
        else:                               # on its own lines of the page, so that a traceback says where
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), names)


if __name__ == "__main__":
    main(sys.argv[1])
