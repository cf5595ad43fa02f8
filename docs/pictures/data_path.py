"""Draws data-path.svg, the way from a Tensor to the doorbell and back: ``python docs/pictures/data_path.py``."""

from __future__ import annotations

from html import escape
from pathlib import Path

DOWN = [
    ("compiler", "Tensor", "lazy: a graph of UOps"),
    ("compiler", "schedule, rewrite, linearize", "kernels, fused"),
    ("compiler", "LLVM IR → code object", "llvmlite; kept on disk"),
    ("hcq", "Program(*args, grid, block)", "kernel arguments by metadata"),
    ("amdrv", "backend: packets", "SET_SH_REG, DISPATCH_DIRECT, RELEASE_MEM"),
    ("amdrv", "Ring.submit", "words into the ring, then a fence"),
    ("amdrv/hal", "doorbell", "one 64-bit store to BAR 2"),
]
UP = [
    ("compiler", "Tensor.numpy()", "the values"),
    ("hcq", "Buffer.copyout", "SDMA: VRAM → system memory"),
    ("hcq", "Signal ≥ value", "spin shortly, then sleep"),
    ("amdrv", "interrupt ring drained", "EOP and trap entries, faults"),
    ("card", "RELEASE_MEM", "the signal's 64 bits, an IH entry, an MSI"),
    ("card", "waves run", "RDNA3 code, page tables, caches, LDS"),
    ("card", "MEC fetches the ring", "through the GC hub's page tables"),
]
COLOURS = {"compiler": "#dbe9ff", "hcq": "#dff5e1", "amdrv": "#fff1cf", "amdrv/hal": "#ffe3c2", "card": "#f6dcef"}
WIDTH, HEIGHT, GAP, LEFT, RIGHT, TOP = 330, 54, 22, 30, 430, 70
FONT = 'font-family="Helvetica, Arial, sans-serif"'


def box(x: int, y: int, room: str, title: str, note: str) -> str:
    return (f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="7" fill="{COLOURS[room]}" stroke="#555"/>'
            f'<text x="{x + 12}" y="{y + 22}" {FONT} font-size="15" font-weight="bold">{escape(title)}</text>'
            f'<text x="{x + 12}" y="{y + 42}" {FONT} font-size="12.5" fill="#333">{escape(note)}</text>'
            f'<text x="{x + WIDTH - 10}" y="{y + 22}" {FONT} font-size="11" fill="#777" text-anchor="end">{room}'
            "</text>")


def arrow(x1: int, y1: int, x2: int, y2: int) -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#333" stroke-width="1.6" marker-end="url(#tip)"/>'


def picture() -> str:
    parts = [f'<text x="{LEFT}" y="40" {FONT} font-size="17">from a Tensor to the doorbell</text>',
             f'<text x="{RIGHT}" y="40" {FONT} font-size="17">and back</text>']
    rows = [TOP + i * (HEIGHT + GAP) for i in range(len(DOWN))]
    for i, y in enumerate(rows):
        parts += [box(LEFT, y, *DOWN[i]), box(RIGHT, y, *UP[i])]
        if i:
            parts += [arrow(LEFT + WIDTH // 2, y - GAP, LEFT + WIDTH // 2, y - 2),
                      arrow(RIGHT + WIDTH // 2, y, RIGHT + WIDTH // 2, y - GAP + 2)]
    parts.append(arrow(LEFT + WIDTH, rows[-1] + HEIGHT // 2, RIGHT - 2, rows[-1] + HEIGHT // 2))
    total = rows[-1] + HEIGHT + 30
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="790" height="{total}" viewBox="0 0 790 {total}">'
            '<defs><marker id="tip" markerWidth="9" markerHeight="9" refX="7" refY="4" orient="auto">'
            '<path d="M0,0 L8,4 L0,8 z" fill="#333"/></marker></defs>'
            f'<rect width="790" height="{total}" fill="white"/>{"".join(parts)}</svg>\n')


if __name__ == "__main__":
    Path(__file__).with_name("data-path.svg").write_text(picture(), encoding="utf-8")
