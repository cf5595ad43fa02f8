"""Boots, shutdowns and resets of the software card: python -m bench.boot [--quick] [--json FILE] [--docs]

The baseline of everything is the boot from cold in the same run. The pauses that only silicon needs (half a second
after a reset, 20 ms in the PSP's handshakes) are left out, since the card here is software.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import mock
from amdrv.device import Device
from amdrv.hal.mock import MockHal
from amdrv.ip import psp, smu
from bench import write_json, write_section

__all__ = ["Row", "main", "measure"]

BEGIN, END = "<!-- bench.boot -->\n", "<!-- end of bench.boot -->\n"
PROCESS = """
import os, time
os.environ["AMDRV_HAL"] = "mock"
os.environ["AMDRV_MOCK"] = "gfx1100:vram=256M"
start = time.perf_counter()
import amdrv.device
imported = time.perf_counter()
device = amdrv.device.Device.open()
print(imported - start, time.perf_counter() - imported)
"""


class Row(NamedTuple):
    what: str
    milliseconds: float         # median
    best: float
    of_cold: float              # median over the median of a boot from cold
    note: str = ""

    def __str__(self) -> str:
        return (f"{self.what:<42} median {self.milliseconds:8.1f} ms   best {self.best:8.1f} ms   "
                f"{self.of_cold:5.2f} of cold   {self.note}")


class _Times:
    def __init__(self) -> None:
        self.found: dict[str, list[float]] = {}
        self.stages: dict[str, dict[str, list[float]]] = {}

    def take(self, what: str, start: float) -> None:
        self.found.setdefault(what, []).append(1e3 * (time.perf_counter() - start))

    def keep_stages(self, what: str, device: Device) -> None:
        for stage in device.boot_stages:
            self.stages.setdefault(what, {}).setdefault(stage.name, []).append(1e3 * stage.seconds)

    def rows(self) -> list[Row]:
        cold = statistics.median(self.found["boot from cold"])
        rows = []
        for what, times in self.found.items():
            stages = {name: statistics.median(each) for name, each in self.stages.get(what, {}).items()}
            note = ", ".join(f"{name} {each:.1f}" for name, each in stages.items() if each >= 0.05)
            middle = statistics.median(times)
            rows.append(Row(what, middle, min(times), middle / cold, note))
        return rows


def measure(turns: int = 15) -> list[Row]:
    """Every figure."""
    times, pauses = _Times(), (smu.RESET_TIME, psp.HANDSHAKE_DELAY)
    smu.RESET_TIME = psp.HANDSHAKE_DELAY = 0
    try:
        for _ in range(turns):
            with mock.Machine([mock.Gpu("gfx1100", vram="256M")]) as machine:
                _one_card(times, MockHal(machine))
        for _ in range(max(turns // 5, 2)):
            done = subprocess.run([sys.executable, "-c", PROCESS], capture_output=True, text=True, check=True,
                                  timeout=120, cwd=Path(__file__).resolve().parents[1])
            imported, booted = map(float, done.stdout.split())
            times.found.setdefault("a new process: import", []).append(1e3 * imported)
            times.found.setdefault("a new process: first boot, card included", []).append(1e3 * booted)
    finally:
        smu.RESET_TIME, psp.HANDSHAKE_DELAY = pauses
    return times.rows()


def _one_card(times: _Times, hal: MockHal) -> None:
    for what in ("boot from cold", "warm boot"):
        start = time.perf_counter()
        device = Device.open(hal)
        times.take(what, start)
        times.keep_stages(what, device)
        start = time.perf_counter()
        if what == "boot from cold":
            device.close()
            times.take("shutdown", start)
    start = time.perf_counter()
    device.recover([device.compute_rings[0]])
    times.take("reset of a compute queue", start)
    start = time.perf_counter()
    device.recover([device.sdma_rings[0]])
    times.take("reset of a copy queue", start)
    start = time.perf_counter()
    device.reset()
    times.take("reset of the card and boot", start)
    times.keep_stages("reset of the card and boot", device)
    device.close()


def _write_docs(path: Path, rows: list[Row]) -> None:
    table = ["| what | median ms | best ms | of a cold boot | stages, ms |", "|---|--:|--:|--:|---|"]
    table += [f"| {row.what} | {row.milliseconds:.1f} | {row.best:.1f} | {row.of_cold:.2f} | {row.note} |"
              for row in rows]
    about = (f"`python -m bench.boot --docs`, {os.cpu_count()} cores, {platform.machine()}, Python "
             f"{platform.python_version()}. The mock card, without the pauses that only silicon needs; no figure "
             "here is one of a real card.")
    part = BEGIN + "## Boots\n\n" + about + "\n\n" + "\n".join(table) + "\n" + END
    write_section(path, BEGIN, END, part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repetitions")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    parser.add_argument("--docs", action="store_true", help="write the figures into docs/performance.md, too")
    options = parser.parse_args()
    rows = measure(3 if options.quick else 15)
    print("\n".join(map(str, rows)))
    if options.json:
        write_json(options.json, [row._asdict() for row in rows])
    if options.docs:
        _write_docs(Path(__file__).resolve().parents[1] / "docs" / "performance.md", rows)


if __name__ == "__main__":
    from tools.piped import piped
    piped(main)()
