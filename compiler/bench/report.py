"""What was measured, as text and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["NAMES", "picture", "text"]

NAMES = {"ours": "amdrv", "torch": "PyTorch", "tinygrad": "tinygrad"}
PHASES = ("build", "schedule", "compile", "first run")
_COLOURS = {"ours": "#b3202a", "torch": "#e8833a", "tinygrad": "#4c78a8"}
_SHADES = ("#bbbbbb", "#f2c14e", "#d1495b", "#6a994e")


def _size(n: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.2f} GiB"


def _seconds(s: float) -> str:
    return f"{s:.2f} s" if s >= 1 else f"{s * 1e3:.2f} ms" if s >= 1e-3 else f"{s * 1e6:.0f} us"


def text(found: Sequence[Mapping[str, Any]], skipped: Mapping[str, str]) -> str:
    """A column for each library: phases, then steps, then what they cost."""
    ours = found[0]
    names = [NAMES[r["library"]] for r in found]
    lines = [f"{ours['model']}: {ours['what']}; batch {ours['batch']}, {ours['parameters']:,} weights, "
             f"{len(ours['steps'])} steps on {ours['device']}", ""]

    def row(what: str, values: Sequence[str]) -> None:
        lines.append(f"  {what:<22}" + "".join(f"{v:>16}" for v in values))
    row("", names)
    for phase in PHASES:
        if any(phase in r["phases"] for r in found):
            row(phase, [_seconds(r["phases"][phase]) if phase in r["phases"] else "" for r in found])
    row("a step (median)", [_seconds(r["step"]) for r in found])
    row("a step (best)", [_seconds(r["best"]) for r in found])
    row(ours["unit"], [f"{r['rate']:,.1f}" for r in found])
    row("GFLOP/s", [f"{ours['flop'] / r['step'] / 1e9:.2f}" for r in found])
    row("peak memory", [_size(r["memory"]) for r in found])
    row("kernels a step", [f"{r['kernels']}" if "kernels" in r else "" for r in found])
    if len(found) > 1:
        row("our time to theirs", ["", *(f"{ours['step'] / r['step']:.2f}" for r in found[1:])])
        row("the best to the best", ["", *(f"{ours['best'] / r['best']:.2f}" for r in found[1:])])
        row("result, difference", ["", *(f"{difference(ours, r):.1e}" for r in found[1:])])
    lines += [""] + [f"  {NAMES[name]}: {why}" for name, why in skipped.items()]
    notes = []
    if any(r["library"] == "torch" for r in found):
        notes.append("PyTorch's memory is the process's growth")
    if len(found) > 1:
        notes.append("each library ran the same file and weights in a process of its own, one after the other")
    return "\n".join([*lines, *(f"  ({n})" for n in notes)]).rstrip()


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """The largest relative difference between a few numbers of the last step's results."""
    return max(abs(a - b) / max(abs(a), abs(b), 1e-6) for a, b in zip(one["result"], other["result"], strict=True))


def picture(found: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Speed, time by phase, and each step's time; PNG or SVG, as the file's name ends.

    :raises ImportError: matplotlib is missing.  :raises ValueError: another ending.
    """
    if path.suffix.lower() not in (".png", ".svg"):
        raise ValueError(f"a picture is a .png or an .svg, not {path.name!r}")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures are drawn by matplotlib, which is not installed: pip install 'amdrv[plot]'") \
            from error
    ours = found[0]
    names = [NAMES[r["library"]] for r in found]
    colours = [_COLOURS[r["library"]] for r in found]
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{ours['model']} on {ours['device']}, batch {ours['batch']}: {ours['what']}", fontsize=11)
    speed, phases, steps = figure.subplots(1, 3, width_ratios=(1, 1.4, 1.4))
    bars = speed.bar(names, [r["rate"] for r in found], color=colours)
    speed.bar_label(bars, [f"{r['rate']:,.1f}" for r in found], padding=2, fontsize=9)
    speed.set_title(ours["unit"], fontsize=10)
    speed.margins(y=0.15)
    left = [0.0] * len(found)
    for phase, shade in zip(PHASES, _SHADES, strict=True):
        widths = [r["phases"].get(phase, 0.0) for r in found]
        if any(widths):
            phases.barh(names, widths, left=left, color=shade, label=phase, height=0.6)
            left = [a + b for a, b in zip(left, widths, strict=True)]
    phases.invert_yaxis()
    phases.set_title("seconds until all is warm", fontsize=10)
    phases.legend(fontsize=8, loc="best")
    for r, name, colour in zip(found, names, colours, strict=True):
        steps.plot(range(1, len(r["steps"]) + 1), [s * 1e3 for s in r["steps"]], "o-", ms=3, lw=1, color=colour,
                   label=name)
    steps.set_title("milliseconds of each step", fontsize=10)
    if max(max(r["steps"]) for r in found) > 20 * min(min(r["steps"]) for r in found):
        steps.set_yscale("log")
    else:
        steps.set_ylim(bottom=0)
    steps.set_xlabel("step")
    steps.xaxis.get_major_locator().set_params(integer=True)
    steps.legend(fontsize=8)
    for axes in (speed, phases, steps):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    figure.savefig(path, dpi=130, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
