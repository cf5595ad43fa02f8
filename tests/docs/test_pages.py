"""Every code block of README and docs runs, or says why not; every link leads somewhere."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pages
import pytest

PRINTED = {"hcq.md": ["takes 3 arguments, 2 were given", "was freed", "RELEASE_MEM", "kernel scale", "AM:0 SQ_WAVES",
                      "have BLAKE3"]}
"""What a page promises to print."""


def name(page: Path) -> str:
    return page.relative_to(pages.ROOT).as_posix()


def runs(page: Path) -> bool:
    return any(block.language in pages.RUNNABLE and not block.reason for block in pages.blocks(page))


@pytest.mark.parametrize("page", pages.PAGES, ids=name)
def test_a_block_runs_or_says_why_not(page: Path) -> None:
    for block in pages.blocks(page):
        known = block.language in (*pages.RUNNABLE, *pages.SILENT)
        assert known or block.reason, f"{name(page)}:{block.line}: {block.words} is not run, and no line says why"


@pytest.mark.skipif(shutil.which("bash") is None, reason="the pages' shell blocks are bash's")
@pytest.mark.parametrize("page", [page for page in pages.PAGES if runs(page)], ids=name)
def test_the_blocks_run(page: Path, tmp_path: Path) -> None:
    done = pages.run(page, tmp_path)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert not [text for text in PRINTED.get(page.name, []) if text not in done.stdout]


@pytest.mark.parametrize("page", pages.PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert not [target for target in targets if not (page.parent / target).exists()]


class TestTheReader:
    """What the mechanism itself refuses: a block cannot hide from it."""

    def page(self, tmp_path: Path, text: str) -> Path:
        path = tmp_path / "page.md"
        path.write_text(text, encoding="utf-8")
        return path

    def test_blocks_reasons_and_lines(self, tmp_path: Path) -> None:
        page = self.page(tmp_path, "a\n\n```python\nx = 1\n```\n\n*Not run here: it needs a real card.*\n\n```sh\n"
                                   "ls\n```\ntext\n\n```text\nout\n```\n")
        first, second, third = pages.blocks(page)
        assert (first.language, first.text, first.line, first.reason) == ("python", "x = 1\n", 4, None)
        assert (second.language, second.reason, third.reason) == ("sh", "it needs a real card.", None)

    @pytest.mark.parametrize(("text", "message"), [("a\n\n    ls\n", r"page.md:3: a block by indentation"),
                                                   ("```python\nx\n", r"page.md:1: the block has no end")])
    def test_refused(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            pages.blocks(self.page(tmp_path, text))

    @pytest.mark.parametrize("text", ["```python\nraise SystemExit(3)\n```\n", "```sh\nfalse\n```\n",
                                      "```sh\nmake nosuchtarget\n```\n", "```python\nassert 1 == 2\n```\n"])
    def test_a_block_that_fails_is_seen(self, tmp_path: Path, text: str) -> None:
        where = tmp_path / "run"
        where.mkdir()
        assert pages.run(self.page(tmp_path, text), where).returncode != 0
