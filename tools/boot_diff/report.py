"""The differences for people (a coloured table, Markdown) and for programs (JSON)."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tools.boot_diff.compare import BLOCKS, Difference
from tools.boot_diff.reasons import Reason

__all__ = ["SCHEMA", "Row", "as_json", "markdown", "names_in_short", "print_text", "rows", "summary"]

SCHEMA = "amdrv-boot-diff/1"
_COLOUR = {"only Linux": "cyan", "only ours": "green", "value": "yellow", "way": "magenta", "order": "blue"}

PLACE = "its own place"

Explained = Sequence[tuple[Difference, Reason | None]]


@dataclass
class Row:
    """Differences that say the same of several registers."""

    block: str
    kind: str
    names: list[str]
    linux: str
    ours: str
    reason: Reason | None


def rows(explained: Explained) -> list[Row]:
    """Like differences in one row: of an array, or alike in reason and in what the two sides wrote."""
    grouped: dict[tuple[str, ...], Row] = {}
    for difference, reason in explained:
        same = (difference.linux, difference.ours) if difference.kind != "order" else ()
        if reason is not None and (reason.allocated or difference.kind in ("only Linux", "only ours")):
            same = ()
        key = (difference.block, difference.kind, str(id(reason)), *same)
        linux, ours = difference.linux, difference.ours
        if reason is not None and reason.allocated:
            linux, ours = linux and PLACE, ours and PLACE
        row = grouped.get(key)
        if row is None:
            grouped[key] = Row(difference.block, difference.kind, [difference.name], linux, ours, reason)
            continue
        row.names.append(difference.name)
        if (row.linux, row.ours) != (linux, ours):
            row.linux, row.ours = ("various" if row.linux else ""), ("various" if row.ours else "")
    return sorted(grouped.values(), key=lambda row: BLOCKS.index(row.block))


_NUMBER = re.compile(r"\d+")


def names_in_short(names: Iterable[str]) -> list[str]:
    """``CONTEXT{1..15}_CNTL`` for the members of an array that differ in one number."""
    shapes: dict[str, list[tuple[str, ...]]] = {}
    for name in names:
        shapes.setdefault(_NUMBER.sub("\0", name), []).append(tuple(_NUMBER.findall(name)))
    out = []
    for shape, members in shapes.items():
        varying = [i for i, column in enumerate(zip(*members, strict=True)) if len(set(column)) > 1]
        if len(varying) > 1:            # one group a value of the last varying number but one would hide gaps
            out += [_filled(shape, member) for member in members]
            continue
        numbers = list(members[0])
        if varying:
            numbers[varying[0]] = "{" + _ranges(sorted(int(member[varying[0]]) for member in members)) + "}"
        out.append(_filled(shape, numbers))
    return out


def _filled(shape: str, numbers: Iterable[str]) -> str:
    parts = shape.split("\0")
    return parts[0] + "".join(number + part for number, part in zip(numbers, parts[1:], strict=True))


def _ranges(numbers: Sequence[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs)


def summary(explained: Explained, unused: Sequence[Reason], written: tuple[int, int]) -> str:
    """One sentence. ``written``: registers and commands that Linux and we write."""
    without = sum(reason is None for _, reason in explained)
    text = (f"Linux writes {written[0]} registers and commands, we write {written[1]}; {len(explained)} differences, "
            f"{without or 'none'} without a reason")
    return text + (f"; {len(unused)} reasons explain nothing" if unused else "") + "."


def print_text(explained: Explained, unused: Sequence[Reason], written: tuple[int, int],
               console: Console | None = None) -> None:
    """The table on a terminal; those without a reason stand out."""
    console = console or Console()
    block = ""
    for row in rows(explained):
        if row.block != block:
            block = row.block
            console.print(Text(f"\n{block}", style="bold"))
        grid = Table.grid(padding=(0, 2))
        grid.add_column(width=max(map(len, _COLOUR)) + 2)
        grid.add_column()
        said = Text(", ".join(names_in_short(row.names)), style="bold")
        for who, what in (("Linux ", row.linux), ("ours  ", row.ours)):
            if what:
                said.append(f"\n{who}", style="not bold dim").append(what, style="not bold")
        said.append("\n" + (row.reason.why if row.reason else "NO REASON"),
                    style="not bold italic" if row.reason else "bold red")
        grid.add_row(Text("  " + row.kind, style=_COLOUR[row.kind]), said)
        console.print(grid)
    for reason in unused:
        console.print(Text(f"explains nothing: {reason.block} {'/'.join(reason.kinds)} {' '.join(reason.names)}",
                           style="bold red"))
    console.print(Text("\n" + summary(explained, unused, written), style="bold"))


def markdown(explained: Explained, unused: Sequence[Reason], written: tuple[int, int]) -> str:
    """The same for ``docs/boot.md``: a section a block."""
    out = io.StringIO()
    print(summary(explained, unused, written), file=out)
    block = ""
    for row in rows(explained):
        if row.block != block:
            block = row.block
            print(f"\n### {block}\n\n| differs | register | Linux | ours | because |\n|---|---|---|---|---|", file=out)
        cells = (row.kind, ", ".join(f"`{name}`" for name in names_in_short(row.names)), _cell(row.linux),
                 _cell(row.ours), row.reason.why if row.reason else "**no reason**")
        print("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |", file=out)
    return out.getvalue()


def _cell(text: str) -> str:
    return text if not text or text in ("various", "first", PLACE) or text.endswith("times") else f"`{text}`"


def as_json(explained: Explained, unused: Sequence[Reason], written: tuple[int, int]) -> dict[str, object]:
    """``{"schema": "amdrv-boot-diff/1", ...}``: every difference by itself."""
    return {
        "schema": SCHEMA,
        "written": {"linux": written[0], "ours": written[1]},
        "differences": [asdict(difference) | {"reason": reason.why if reason else None}
                        for difference, reason in explained],
        "unused_reasons": [asdict(reason) for reason in unused],
    }
