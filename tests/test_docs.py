"""The Python blocks of README and docs run, page by page, on the software card. (docs/hcq.md has a test of its own.)"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").glob("*.md") if p.name != "hcq.md")]


def blocks(page: Path) -> str:
    """All Python blocks of a page, each on its own line numbers."""
    lines: list[str] = []
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```python\n(.*?)^```", text, re.S | re.M):
        start = text[:match.start(1)].count("\n")
        lines += [""] * (start - len(lines)) + match[1].splitlines()
    return "\n".join(lines)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: p.name)
def test_code_blocks_run(page: Path) -> None:
    done = subprocess.run([sys.executable, "-"], input=blocks(page), text=True, capture_output=True, cwd=ROOT,
                          timeout=300, env={**os.environ, "AMDRV_HAL": "mock"})
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert not [t for t in targets if not (page.parent / t).exists()]
