"""What the pictures are drawn with: boxes, arrows and words as SVG, and the list of names that stand in them.

A name that a reader could look up (a Python name, a register, a packet, a strict rule, a bit of a page-table entry) is
written as :class:`Name`; a test resolves each one, so that no picture speaks of what is gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from itertools import pairwise

__all__ = ["Canvas", "Name", "BLUE", "GREEN", "GREY", "ORANGE", "PINK", "WHITE", "YELLOW"]

BLUE, GREEN, YELLOW, ORANGE, PINK = "#dbe9ff", "#dff5e1", "#fff1cf", "#ffe3c2", "#f6dcef"
GREY, WHITE = "#eeeeee", "#ffffff"
INK, SOFT = "#222222", "#555555"
SANS = "Helvetica, Arial, 'DejaVu Sans', sans-serif"
MONO = "Menlo, Consolas, 'DejaVu Sans Mono', monospace"
WIDE = {SANS: 0.58, MONO: 0.61}         # of an em, a character on average: on the safe side


@dataclass(frozen=True)
class Name:
    """A name that exists. ``kind``: python, register, packet, rule, bit; ``shown`` is what stands in the picture."""

    kind: str
    full: str
    shown: str = ""

    def __str__(self) -> str:
        return self.shown or (self.full.rpartition(".")[2] if self.kind == "python" else self.full)


Line = str | Name


class Canvas:
    """One picture of fixed size. Coordinates are pixels from the upper left.

    :raises ValueError: words that do not fit into their box.
    """

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self.parts: list[str] = []
        self.names: list[Name] = []

    def text(self, x: float, y: float, words: Line, *, size: float = 12.5, anchor: str = "start", bold: bool = False,
             colour: str = INK) -> None:
        """A line of words; a :class:`Name` is set in a fixed width, and noted."""
        if isinstance(words, Name):
            self.names.append(words)
        font = MONO if isinstance(words, Name) else SANS
        size = size - 1 if isinstance(words, Name) else size
        weight = ' font-weight="bold"' if bold else ""
        self.parts.append(f'<text x="{x:g}" y="{y:g}" font-family="{font}" font-size="{size:g}" text-anchor="{anchor}"'
                          f'{weight} fill="{colour}">{escape(str(words))}</text>')

    def words(self, x: float, y: float, *runs: Line, width: float = 820, size: float = 12.5) -> None:
        """Words that run over several lines, names among them."""
        pieces = [Name(run.kind, run.full, str(run)) if isinstance(run, Name) else word
                  for run in runs for word in ([run] if isinstance(run, Name) else run.split())]
        lines: list[list[Line]] = [[]]
        used = 0.0
        for piece in pieces:
            font = MONO if isinstance(piece, Name) else SANS
            wide = (len(str(piece)) + 1) * WIDE[font] * size
            if used + wide > width and lines[-1]:
                lines.append([])
                used = 0.0
            lines[-1].append(piece)
            used += wide
        for number, line in enumerate(lines):
            spans = []
            for piece in line:
                if isinstance(piece, Name):
                    self.names.append(piece)
                    spans.append(f'<tspan font-family="{MONO}" font-size="{size - 1:g}">{escape(str(piece))}</tspan>')
                else:
                    spans.append(escape(piece))
            self.parts.append(f'<text x="{x:g}" y="{y + 19 * number:g}" font-family="{SANS}" font-size="{size:g}" '
                              f'fill="{INK}">{_joined(spans)}</text>')

    def box(self, x: float, y: float, width: float, height: float, title: Line = "", lines: tuple[Line, ...] = (), *,
            fill: str = WHITE, dashed: bool = False, size: float = 12.5) -> None:
        """A box with a title in its first line, and more lines below."""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" fill="{fill}" '
                          f'stroke="{SOFT}"{dash}/>')
        at = y + 19
        for number, words in enumerate((title, *lines)):
            font = MONO if isinstance(words, Name) else SANS
            if len(str(words)) * WIDE[font] * size > width - 12 or (str(words) and at > y + height - 3):
                raise ValueError(f"{self.title}: {str(words)!r} does not fit into its box")
            if str(words):
                self.text(x + 9, at, words, bold=number == 0, size=size + 0.5 if number == 0 else size)
            at += 17

    def arrow(self, *points: tuple[float, float], label: Line = "", at: tuple[float, float] | None = None,
              dashed: bool = False, both: bool = False, anchor: str = "start") -> None:
        """A line through points, with a tip at its end (and its beginning); its label stands at ``at``."""
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        start = ' marker-start="url(#tip)"' if both else ""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{INK}" stroke-width="1.5"{dash}{start} '
                          'marker-end="url(#tip)"/>')
        if label:
            x, y = at or ((points[0][0] + points[-1][0]) / 2 + 6, (points[0][1] + points[-1][1]) / 2 - 5)
            self.text(x, y, label, size=11.5, colour=SOFT, anchor=anchor)

    def line(self, x1: float, y1: float, x2: float, y2: float, *, colour: str = SOFT) -> None:
        self.parts.append(f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{colour}"/>')

    def svg(self) -> str:
        """The whole file."""
        return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{self.height}" '
                f'viewBox="0 0 {self.width} {self.height}" role="img"><title>{escape(self.title)}</title>'
                '<defs><marker id="tip" markerWidth="9" markerHeight="9" refX="7" refY="4" orient="auto-start-reverse">'
                f'<path d="M0,0 L8,4 L0,8 z" fill="{INK}"/></marker></defs>'
                f'<rect width="{self.width}" height="{self.height}" fill="white"/>\n' + "\n".join(self.parts)
                + "\n</svg>\n")


def _joined(spans: list[str]) -> str:
    """With a space between two, but none behind an opening bracket or before a mark."""
    text = spans[0]
    for before, span in pairwise(spans):
        text += span if before.endswith("(") or span[0] in ".,;:)" else f" {span}"
    return text
