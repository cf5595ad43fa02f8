"""A modelled time for people: as text, and as a picture (SVG)."""

from __future__ import annotations

import math
from html import escape

from mock.isa.clock import constants as c
from mock.isa.clock.model import ClockReport

__all__ = ["picture", "text"]

_TYPES = {"fp32": "fp32 (dual issue)", "fp16": "fp16 (WMMA)", "bf16": "bf16 (WMMA)", "int8": "int8 (WMMA)",
          "int4": "int4 (WMMA)", "fp64": "fp64"}


def _intensity(report: ClockReport) -> tuple[float, float]:
    """(operations a byte of VRAM, bytes of VRAM)."""
    nbytes = report.transactions.get("vram_lines", 0.0) * c.LINE
    operations = max(report.operations.values(), default=0.0)
    return (operations / nbytes if nbytes else math.inf), nbytes


def text(report: ClockReport) -> str:
    """A summary: time, peaks, what limits, how busy units were, what waves waited for."""
    o, t = report.occupancy, report.transactions
    intensity, nbytes = _intensity(report)
    lines = [f"modelled: {report.cycles} cycles at {c.CLOCK_HZ / 1e9:g} GHz = {report.seconds * 1e6:.2f} us, "
             f"of which {report.launch_cycles} are the dispatch's own; limit: {report.limit}"]
    for kind, operations in sorted(report.operations.items(), key=lambda item: -item[1]):
        peak = c.FLOPS_PER_CU[kind] * c.WGPS * c.CUS_PER_WGP * c.CLOCK_HZ
        rate = operations / report.seconds
        lines.append(f"  {_TYPES[kind]:<18} {rate / 1e12:8.2f} of {peak / 1e12:.1f} T/s  {rate / peak:6.1%}")
    bandwidth = c.VRAM_BYTES_PER_CYCLE * c.CLOCK_HZ
    lines.append(f"  {'VRAM':<18} {nbytes / report.seconds / 1e9:8.1f} of {bandwidth / 1e9:.0f} GB/s  "
                 f"{nbytes / report.seconds / bandwidth:6.1%}  ({nbytes / 1e6:.2f} MB"
                 + (f", {intensity:.1f} operations a byte)" if math.isfinite(intensity) else ")"))
    lines.append(f"  occupancy          room for {o.waves_per_simd:g} waves a SIMD, {o.workgroups_per_wgp} workgroups "
                 f"a WGP (by {o.limit}): {o.vgprs} VGPRs, {o.lds_bytes} B of LDS, {'WGP' if o.wgp_mode else 'CU'} mode")
    hits = {"L0": (t["l0_hits"], t["l0_lines"]), "GL2": (t["gl2_hits"], t["gl2_lines"])}
    lines.append("  caches             " + ", ".join(f"{name} {h / n:.1%} of {n:.0f} lines" if n else f"{name} unused"
                                                     for name, (h, n) in hits.items()))
    if t["lds_instructions"]:
        lines.append(f"  LDS                {t['lds_cycles'] / t['lds_instructions']:.2f} cycles an instruction, of "
                     f"{t['lds_instructions']:.0f}")
    lines.append("  busy               " + _shares(report.utilisation))
    lines.append("  waves waited for   " + _shares(report.stalls))
    lines.append(f"  sample             {report.sampled_workgroups} workgroups, {report.sampled_instructions} wave "
                 f"instructions, scaled by {report.scale:.3f}"
                 + (f"; it ended early: {report.incomplete}" if report.incomplete else ""))
    return "\n".join(lines)


def _shares(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.0%}" for name, value in sorted(values.items(), key=lambda item: -item[1])
                     if value >= 0.005) or "nothing"


_WIDTH, _HEIGHT, _LEFT, _TOP, _PLOT_W, _PLOT_H = 760, 360, 60, 40, 380, 260


def picture(report: ClockReport, title: str = "") -> str:
    """An SVG: the roofline with the kernel on it, and how busy the units were."""
    kind = max(report.operations, key=lambda k: report.operations[k], default="fp32")
    peak = c.FLOPS_PER_CU[kind] * c.WGPS * c.CUS_PER_WGP * c.CLOCK_HZ
    bandwidth = c.VRAM_BYTES_PER_CYCLE * c.CLOCK_HZ
    low, high, bottom, top = -2.0, 4.0, math.log10(peak) - 5, math.log10(peak) + 0.3

    def x(intensity: float) -> float:
        return _LEFT + (min(max(math.log10(intensity), low), high) - low) / (high - low) * _PLOT_W

    def y(rate: float) -> float:
        return _TOP + (top - min(max(math.log10(rate), bottom), top)) / (top - bottom) * _PLOT_H
    ridge = peak / bandwidth
    start = max(10 ** low, 10 ** bottom / bandwidth)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
             'font-family="sans-serif" font-size="12">', f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
             f'<text x="{_LEFT}" y="22" font-size="14">{escape(title)} {report.seconds * 1e6:.2f} us, '
             f'limit: {escape(report.limit)}</text>',
             f'<rect x="{_LEFT}" y="{_TOP}" width="{_PLOT_W}" height="{_PLOT_H}" fill="none" stroke="#999"/>',
             f'<polyline fill="none" stroke="#333" stroke-width="2" points="{x(start):.1f},{y(start * bandwidth):.1f} '
             f'{x(ridge):.1f},{y(peak):.1f} {x(10 ** high):.1f},{y(peak):.1f}"/>',
             f'<text x="{x(10 ** high) - 4:.1f}" y="{y(peak) - 5:.1f}" text-anchor="end">{peak / 1e12:.1f} T/s '
             f'{kind}</text>',
             f'<text x="{_LEFT + _PLOT_W / 2}" y="{_TOP + _PLOT_H + 34}" text-anchor="middle">operations a byte of VRAM'
             '</text>']
    for decade in range(int(low), int(high) + 1):
        parts.append(f'<text x="{x(10.0 ** decade):.1f}" y="{_TOP + _PLOT_H + 16}" text-anchor="middle">1e{decade}'
                     '</text>')
    for decade in range(math.ceil(bottom), math.floor(top) + 1):
        parts.append(f'<text x="{_LEFT - 6}" y="{y(10.0 ** decade) + 4:.1f}" text-anchor="end">1e{decade}</text>')
    intensity, _ = _intensity(report)
    achieved = report.operations.get(kind, 0.0) / report.seconds
    if achieved:
        parts.append(f'<circle cx="{x(min(intensity, 10 ** high)):.1f}" cy="{y(achieved):.1f}" r="5" fill="#c33"/>')
        parts.append(f'<text x="{x(min(intensity, 10 ** high)) - 9:.1f}" y="{y(achieved) + 4:.1f}" text-anchor="end" '
                     f'fill="#c33">{achieved / peak:.1%}</text>')
    for i, (name, value) in enumerate(report.utilisation.items()):
        row = _TOP + 26 * i
        parts.append(f'<text x="{_LEFT + _PLOT_W + 80}" y="{row + 13}" text-anchor="end">{name}</text>')
        parts.append(f'<rect x="{_LEFT + _PLOT_W + 88}" y="{row}" width="{180 * min(value, 1):.1f}" height="16" '
                     'fill="#68a"/>')
        parts.append(f'<text x="{_LEFT + _PLOT_W + 94 + 180 * min(value, 1):.1f}" y="{row + 13}">{value:.0%}</text>')
    return "\n".join([*parts, "</svg>", ""])
