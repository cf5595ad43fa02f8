"""docs/mock.md: its tables are the code's, and what it says of the interface is there."""

from __future__ import annotations

import re

import mock
from mock import catalogue
from mock.machine import parse


def test_tables_are_those_of_the_code() -> None:
    text = catalogue.PAGE.read_text(encoding="utf-8")
    assert catalogue.page(text) == text, "run python -m mock.catalogue --write"


def test_a_page_without_marks_is_refused() -> None:
    try:
        catalogue.page("nothing")
    except ValueError as error:
        assert "has no <!-- rules -->" in str(error)
    else:
        raise AssertionError("taken")


def test_every_named_method_exists() -> None:
    text = catalogue.PAGE.read_text(encoding="utf-8")
    section = text[text.index("## The interface"):text.index("## What is modelled")]
    with mock.Machine([mock.Gpu("gfx1100", vram="64M")]) as machine:
        board = machine.gpus[0]
        rows = re.findall(r"^\| `(\w+)[`(]", section, re.M) + re.findall(r", `(write_\w+)\(", section)
        assert {"read_config", "write_config", "read_bar", "write_bar", "bar_memory", "on_msi", "attach"} <= set(rows)
        for name in rows:
            assert hasattr(board, name) or hasattr(machine.bus, name) or name in ("vram", "count", "harvest", "strict",
                                                                                  "clock"), name


def test_every_key_is_taken() -> None:
    text = catalogue.PAGE.read_text(encoding="utf-8")
    for example in re.findall(r"AMDRV_MOCK=\"([^\"]+)\"", text) + re.findall(r'parse\("([^"]+)"\)', text):
        assert parse(example)
    assert parse("gfx1100:vram=64M,bar0=64M,count=2,harvest=0x8,strict=-hdp,-tlb,clock=model")
