"""docs/reference.md: its tables are what the code says, and what only the tables' script says is complete."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "docs"))

import tables  # noqa: E402


def test_the_page_is_what_the_registries_say() -> None:
    text = tables.PAGE.read_text(encoding="utf-8")
    assert text == tables.page(text), "run python docs/tables.py"


def test_a_table_without_its_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="no <!-- environment -->"):
        tables.page("# nothing here\n")


def test_every_variable_that_is_read_is_explained() -> None:
    from tools.fetch_sources import SOURCES
    read = set(tables.variables_read()) | {source.variable for source in SOURCES.values()}
    assert read - tables.SYSTEM - set(tables.VARIABLES) == set(), "explain it in docs/tables.py"
    assert set(tables.VARIABLES) - read == set(), "nobody reads it any more"


def test_every_way_to_the_machine_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    from amdrv.errors import HalError
    from amdrv.hal import select
    with pytest.raises(HalError) as refused:
        select("nosuchway")
    said = re.findall(r"use (.*)", str(refused.value))[0]
    assert set(re.split(r", | or ", said)) == set(tables.DOORS)


def test_every_command_is_explained() -> None:
    assert set(tables.COMMANDS) == tables.commands_there()
