"""The diagrams: the files are what the script draws, every name in them exists, and what they claim of code is so."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

PICTURES = Path(__file__).resolve().parents[2] / "docs" / "pictures"
sys.path += [str(PICTURES), str(PICTURES.parent)]

import diagrams  # noqa: E402
import dotted  # noqa: E402
import ink  # noqa: E402


@pytest.fixture(params=sorted(diagrams.PICTURES))
def picture(request: pytest.FixtureRequest) -> tuple[str, ink.Canvas]:
    return request.param, diagrams.PICTURES[request.param]()


def test_the_file_is_what_the_script_draws(picture: tuple[str, ink.Canvas]) -> None:
    name, canvas = picture
    drawn = (PICTURES / f"{name}.svg").read_text(encoding="utf-8")
    assert drawn == canvas.svg(), "run python docs/pictures/diagrams.py"


def test_every_name_exists(picture: tuple[str, ink.Canvas]) -> None:
    assert picture[1].names
    assert not [name for name in picture[1].names if not exists(name)]


def exists(name: ink.Name) -> bool:
    if name.kind == "register":
        from amdrv import regs
        return any(name.full in regs.table(table).names() for table in ("gc_11_0_0", "osssys_6_0_0"))
    if name.kind == "packet":
        from amdrv.facts import pm4, sdma6
        return any(name.full in known for facts in (pm4, sdma6) for known in packets(facts))
    if name.kind == "rule":
        from mock.rules import RULES
        return name.full in RULES
    if name.kind == "bit":
        from amdrv.facts import vm
        return name.full in vm.FIELDS or hasattr(vm, f"PTE_{name.full}") or hasattr(vm, name.full)
    assert name.kind == "python", name.kind
    return dotted.exists(name.full)


def packets(facts: Any) -> list[dict[str, Any]]:
    return [value for value in vars(facts).values() if isinstance(value, dict)]


def test_a_name_that_is_gone_is_seen() -> None:
    for kind, full in (("python", "hcq.Device.no_such_method"), ("register", "NO_SUCH_REGISTER"),
                       ("packet", "NO_SUCH_PACKET"), ("rule", "nosuchrule"), ("bit", "NO_SUCH_BIT")):
        assert not exists(ink.Name(kind, full))


def test_words_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="does not fit into its box"):
        ink.Canvas(100, 100, "small").box(0, 0, 60, 30, "far too many words for this")


def test_all_strict_rules_are_in_the_picture() -> None:
    from mock.rules import RULES
    assert {name.full for name in diagrams.strict_memory().names if name.kind == "rule"} == set(RULES)


def test_the_rooms_of_the_driver_are_in_the_picture() -> None:
    root = PICTURES.parents[1]
    there = {f"amdrv.{path.parent.name}" for path in (root / "amdrv").glob("*/__init__.py")}
    assert there == {name.full for name in diagrams.floors().names if name.full.startswith("amdrv.")}


def test_the_walk_is_the_drivers(tmp_path: Path) -> None:
    """An address that the driver mapped is found in a dump by the four indices that the picture shows."""
    import re

    import mock.dump
    from amdrv.device import Device
    from amdrv.dump import load
    from amdrv.hal.mock import MockHal
    from amdrv.mmu.tables import LEVEL_SHIFTS
    with mock.Machine([mock.Gpu("gfx1100", vram="256M")]) as machine, Device.open(MockHal(machine)) as card:
        memory = card.alloc(1 << 20)
        mock.dump.write(machine.gpus[0], str(tmp_path / "card.txt"))
    address = memory.address + 0x7abc
    steps = [str(step) for step in load(str(tmp_path / "card.txt")).walk("gc", 8, address)]
    shown = [(step.partition("[")[0], int(re.findall(r"\[(0x[0-9a-f]+)\]", step)[0], 16)) for step in steps]
    names = ("PDB2", "PDB1", "PDB0", "PTB")
    assert shown == [(name, address >> shift & 0x1FF) for name, shift in zip(names, LEVEL_SHIFTS, strict=True)]
    picture = diagrams.page_walk().svg()
    assert all(f"[{diagrams.EXAMPLE >> shift & 0x1FF:#05x}]" in picture for shift in LEVEL_SHIFTS)


def test_every_picture_is_shown_somewhere() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PICTURES.parent.rglob("*.md"))
    hidden = [path.name for path in PICTURES.iterdir()
              if path.suffix in (".svg", ".png") and f"pictures/{path.name}" not in text]
    assert not hidden
