"""Pictures of a graph's schedule: Graphviz' language, and SVG drawn here."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hcq.schedule import Schedule, Step

__all__ = ["dot", "svg"]

_COLOURS = {"kernel": "#cfe3ff", "copy": "#d8f0d2", "fill": "#fdf0c4", "departure": "#eeeeee", "arrival": "#eeeeee"}
_WIDTH, _HEIGHT, _GAP, _ROW, _LEFT, _CHARACTER = 150, 34, 40, 74, 150, 6.6


def _label(step: Step) -> str:
    return step.node.name if step.what in ("kernel", "copy", "fill") else step.what


def dot(schedule: Schedule) -> str:
    """A cluster an engine; solid edges are waits for a signal, dashed ones hold by the engine's own order."""
    names = {step: f"s{number}" for number, step in enumerate(schedule.steps)}
    lines = ["digraph hcq {", "    rankdir=LR; node [shape=box, style=filled, fontname=Helvetica];"]
    for number, lane in enumerate(lane for lane in schedule.lanes if lane.steps):
        lines += [f"    subgraph cluster_{number} {{", f'        label="{lane.name}";']
        lines += [f'        {names[step]} [label="{_quoted(_label(step))}", fillcolor="{_COLOURS[step.what]}"];'
                  for step in lane.steps]
        lines.append("    }")
    for step in schedule.steps:
        for other in step.after:
            style = "" if other in step.waits else " [style=dashed]"
            lines.append(f"    {names[other]} -> {names[step]}{style};")
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def svg(schedule: Schedule) -> str:
    """A row an engine, time from left to right: each step is right of those that it comes after."""
    lanes = [lane for lane in schedule.lanes if lane.steps]
    column: dict[Step, int] = {}
    taken = dict.fromkeys(lanes, 0)
    for step in schedule.steps:
        column[step] = max([taken[step.lane], *(column[other] + 1 for other in step.after)])
        taken[step.lane] = column[step] + 1
    columns = max(taken.values(), default=0)
    width, height = _LEFT + columns * (_WIDTH + _GAP) + _GAP, len(lanes) * _ROW + _GAP
    row = {lane: _GAP // 2 + number * _ROW for number, lane in enumerate(lanes)}
    place = {step: (_LEFT + column[step] * (_WIDTH + _GAP), row[step.lane]) for step in schedule.steps}
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
             'font-family="Helvetica, Arial, sans-serif" font-size="12">',
             '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" '
             'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#555"/></marker></defs>']
    for lane, y in row.items():
        lines.append(f'<line x1="{_LEFT - 8}" y1="{y + _HEIGHT / 2}" x2="{width - 8}" y2="{y + _HEIGHT / 2}" '
                     'stroke="#ddd"/>')
        lines.append(f'<text x="8" y="{y + _HEIGHT / 2 + 4}" font-weight="bold">{escape(lane.name)}</text>')
    for step in schedule.steps:
        x, y = place[step]
        for other in step.after:
            from_x, from_y = place[other][0] + _WIDTH, place[other][1] + _HEIGHT / 2
            dash = "" if other in step.waits else ' stroke-dasharray="4 3"'
            lines.append(f'<path d="M{from_x},{from_y} C{from_x + _GAP},{from_y} {x - _GAP},{y + _HEIGHT / 2} '
                         f'{x},{y + _HEIGHT / 2}" fill="none" stroke="#555"{dash} marker-end="url(#tip)"/>')
    for step in schedule.steps:
        x, y = place[step]
        label = _label(step)
        room = int(_WIDTH / _CHARACTER)
        shown = label if len(label) <= room else label[:room - 1] + "…"
        lines.append(f'<g><title>{escape(str(step))}</title><rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" '
                     f'rx="5" fill="{_COLOURS[step.what]}" stroke="#888"/><text x="{x + _WIDTH / 2}" '
                     f'y="{y + _HEIGHT / 2 + 4}" text-anchor="middle">{escape(shown)}</text></g>')
    return "\n".join([*lines, "</svg>", ""])
