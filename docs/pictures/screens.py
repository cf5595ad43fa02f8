"""Draws the screens of docs/tools.md as SVG: ``python docs/pictures/screens.py [NAME ...]``.

All from the software card; what needs a machine with a kernel driver, from a machine made of files (the tests' own).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

from amdrv import pm4, sdma  # noqa: E402 - the checkout's own, wherever this is started from

WIDTH = 112
INFO, SNIFF = "tools.amdrv_info", "tools.ioctl_sniff"
SNIFFED = '''
import fcntl, os, struct, sys, termios
master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", int(sys.argv[1]), 80, 0, 0))
fcntl.ioctl(master, termios.TIOCGWINSZ, bytes(8))
fcntl.ioctl(master, 0x80045430, bytes(4))
try:
    fcntl.ioctl(master, termios.TIOCSCTTY, 0)
except OSError:
    pass
'''
ON_FILES = """
import sys
sys.path[:0] = ["tests/info", "."]
from pathlib import Path
import {test}
tree = {test}.Tree(Path(sys.argv[1]))
{setup}
from tools.amdrv_info.__main__ import main
sys.exit(main(sys.argv[2:]))
"""
KERNEL_SETUP = """
from amdrv.hal.sysfs import SysfsHal
import tools.amdrv_info.__main__ as command, tools.amdrv_info.card as card
hal = SysfsHal(lambda: sorted((tree.root / "sys/bus/pci/devices").iterdir()), lock_directory=tree.root)
command.looking_hal = lambda _name=None: hal
card.Host = lambda: tree.host
"""
DOCTOR_SETUP = """
import tools.amdrv_info.__main__ as command
from tools.amdrv_info.doctor import Host
(tree.device(test_doctor.CARD) / "current_link_width").write_text("8\\n")
(tree.root / "lib/firmware/amdgpu/sdma_6_0_0.bin").unlink()
command.doctor.Host = lambda: Host(tree.root)
"""


class Screens:
    """Runs commands and draws what came back; ``wanted`` names, all where it is empty."""

    def __init__(self, folder: Path, wanted: list[str]) -> None:
        self.folder, self.wanted = folder, wanted
        self.environment = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(WIDTH), "AMDRV_HAL": "mock",
                            "PYTHONPATH": str(ROOT)}

    def wants(self, name: str) -> bool:
        return not self.wanted or name in self.wanted

    def __call__(self, name: str, show: str, *command: str, lines: int = 40, mock: str = "") -> None:
        """One screen: what a person would type (``show``), and what ``python -m command`` said to that."""
        if self.wants(name):
            self.draw(name, show, [sys.executable, "-m", *command], lines=lines, mock=mock)

    def draw(self, name: str, show: str, command: list[str], *, lines: int = 40, mock: str = "") -> None:
        environment = self.environment | ({"AMDRV_MOCK": mock} if mock else {})
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
        console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
        console.print(Text(f"$ {show}", "bold green"))
        said = (done.stdout + done.stderr).replace(os.path.realpath(sys.executable), "/usr/bin/python3")
        said = re.sub(r"/tmp/amdrv-firmware-\w+", "/tmp/amdrv-firmware", said.replace(f"{self.folder}/", ""))
        shown = said.splitlines()
        for line in shown[:lines]:
            console.print(Text.from_ansi(line), soft_wrap=False, no_wrap=True, overflow="crop", crop=True)
        if len(shown) > lines:
            console.print(Text(f"... {len(shown) - lines} more lines", "dim"))
        self.save(name, show.split()[0], console)

    @staticmethod
    def save(name: str, title: str, console: Console) -> None:
        picture = console.export_svg(title=title, unique_id=name)
        picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)          # no fonts from elsewhere
        picture = re.sub(r"font-family: Fira Code, monospace", "font-family: monospace", picture)
        (HERE / f"{name}.svg").write_text(picture, encoding="utf-8")
        print(name)


def looks(screen: Screens) -> None:
    """Commands on a card that worked and met an error (busy_card), brought here as a snapshot."""
    names = ("info-queue", "info-ring", "info-ih", "info-wave", "info-vm", "info-vm-map", "info-report", "info-from")
    if not any(map(screen.wants, names)):
        return
    import busy_card
    snapshot, address = busy_card.make(screen.folder / "busy.snapshot")
    mock = f"snapshot:{snapshot}"
    screen("info-queue", "amdrv-info queue", INFO, "queue", mock=mock)
    screen("info-ring", "amdrv-info ring compute --back 24", INFO, "ring", "compute", "--back", "24", mock=mock,
           lines=52)
    screen("info-ih", "amdrv-info ih", INFO, "ih", mock=mock)
    screen("info-wave", "amdrv-info wave --vgprs 2", INFO, "wave", "--vgprs", "2", mock=mock, lines=34)
    screen("info-vm", f"amdrv-info vm {address:#x}", INFO, "vm", hex(address), mock=mock)
    screen("info-vm-map", "amdrv-info vm map", INFO, "vm", "map", mock=mock)
    report = screen.folder / "report.zip"
    if screen.wants("info-report") or screen.wants("info-from"):
        screen.wanted = [*screen.wanted, "info-report"] if screen.wanted else []
        screen("info-report", "amdrv-info report -o report.zip", INFO, "report", "-o", str(report), mock=mock)
        screen("info-from", "amdrv-info reg GCVM_CONTEXT8_CNTL --from report.zip", INFO, "reg", "GCVM_CONTEXT8_CNTL",
               "--from", str(report), lines=14)


def cards(screen: Screens) -> None:
    screen("info-list", "amdrv-info list", INFO, "list", mock="gfx1100:count=2")
    screen("info-show", "amdrv-info show --boot", INFO, "show", "--boot", lines=80)
    if screen.wants("info-top"):
        _top(screen)
    screen("info-search", "amdrv-info reg search 'CP_HQD_PQ_*'", INFO, "reg", "search", "CP_HQD_PQ_*")
    screen("info-reg", "amdrv-info reg CP_HQD_PQ_CONTROL", INFO, "reg", "CP_HQD_PQ_CONTROL")
    if screen.wants("info-bench"):
        screen("info-bench", "amdrv-info bench --plot bench.png", INFO, "bench", "--plot", str(HERE / "bench.png"),
               mock="gfx1100:vram=256M,count=2")
    for name, test, setup, show, command in (
            ("info-amdgpu", "amdgpu_tree", KERNEL_SETUP, "amdrv-info show", ["show"]),
            ("info-doctor", "test_doctor", DOCTOR_SETUP, "amdrv-info doctor", ["doctor"])):
        if screen.wants(name) and sys.platform.startswith("linux"):
            tree = screen.folder / name
            program = ON_FILES.format(test=test, setup=setup)
            screen.draw(name, show, [sys.executable, "-c", program, str(tree), *command], lines=32)


def _top(screen: Screens) -> None:
    """One look of several, as it stands on a terminal until the next one replaces it."""
    from tools.amdrv_info import views
    done = subprocess.run([sys.executable, "-m", INFO, "top", "--interval", "1", "--json", "--run",
                           "examples/digits.py"], capture_output=True, text=True, cwd=ROOT, check=True,
                          env=screen.environment | {"AM": "1"})
    samples = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    busiest = max(samples, key=lambda each: sum(engine["busy_percent"] for engine in each["engines"]))
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, highlight=False)
    console.print(Text("$ AM=1 amdrv-info top --run examples/digits.py", "bold green"))
    console.print(views.top(busiest))
    screen.save("info-top", "amdrv-info", console)


def files(screen: Screens) -> None:
    """Commands that need no card."""
    ring, copies = screen.folder / "ring.hex", screen.folder / "copies.hex"
    words = [*pm4.set_registers(0x2C00 + 0x21B, [0x00AF0000, 0x84]),
             *pm4.build("DISPATCH_DIRECT", SHADER_TYPE=1, DIM_X=64, DIM_Y=1, DIM_Z=1, COMPUTE_SHADER_EN=1, CS_W32_EN=1),
             *pm4.build("WRITE_DATA", DST_SEL="MEM", WR_CONFIRM=1, DST_ADDR=0x8000_0000, DATA=[1])]
    ring.write_text(" ".join(f"{word:08x}" for word in words))
    copies.write_text(" ".join(f"{word:08x}" for word in [
        *sdma.build("COPY_LINEAR", COUNT=4095, SRC_ADDR=0x10_0000, DST_ADDR=0x8000_0000),
        *sdma.build("FENCE", MTYPE="UC", ADDR=0x2000, DATA=7)]))
    import mock.firmware
    mock.firmware.write(screen.folder)
    screen("info-pm4", "amdrv-info pm4 ring.hex", INFO, "pm4", str(ring))
    screen("info-sdma", "amdrv-info sdma copies.hex", INFO, "sdma", str(copies))
    screen("info-fw", "amdrv-info fw gc_11_0_0_mec.bin", INFO, "fw", str(screen.folder / "gc_11_0_0_mec.bin"))
    screen("info-discovery", "amdrv-info discovery table.bin", INFO, "discovery", str(_table(screen.folder)), lines=26)


def _table(folder: Path) -> Path:
    from mock import discovery
    from mock.machine import Gpu
    file = folder / "table.bin"
    file.write_bytes(discovery.build(Gpu("gfx1100")))
    return file


def sniffed(screen: Screens) -> None:
    if not sys.platform.startswith("linux"):
        return
    script = screen.folder / "talk.py"
    script.write_text(SNIFFED)
    talk = [sys.executable, str(script)]
    watch = ["-d", "/dev/ptmx"]
    screen("sniff", "ioctl-sniff -d /dev/ptmx python3 talk.py 24", SNIFF, *watch, *talk, "24")
    screen("sniff-count", "ioctl-sniff -c -d /dev/ptmx python3 talk.py 24", SNIFF, "-c", *watch, *talk, "24")
    screen("sniff-list", "ioctl-sniff list", SNIFF, "list")
    first, second = screen.folder / "a.cap", screen.folder / "b.cap"
    if screen.wants("sniff-diff"):
        for file, row in ((first, "24"), (second, "50")):
            subprocess.run([sys.executable, "-m", SNIFF, "-q", "-w", str(file), *watch, *talk, row], cwd=ROOT,
                           check=True, capture_output=True)
        screen("sniff-diff", "ioctl-sniff diff a.cap b.cap", SNIFF, "diff", str(first), str(second))
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang-19"))), None)
    if compiler and (screen.wants("sniff-submit") or screen.wants("sniff-replay")):
        target, card, taken = screen.folder / "submit", screen.folder / "renderD128", screen.folder / "run.cap"
        subprocess.run([compiler, "-O1", "-pthread", "-o", str(target), "tests/ioctl_sniff/target.c"], cwd=ROOT,
                       check=True, capture_output=True)
        card.write_bytes(bytes(0x2000))
        subprocess.run([sys.executable, "-m", SNIFF, "-q", "-d", str(card), "-w", str(taken), str(target), "amdgpu",
                        str(card)], cwd=ROOT, check=True, capture_output=True)
        screen("sniff-submit", "ioctl-sniff show run.cap --memory --match dump", SNIFF, "show", str(taken), "--memory",
               "--match", "dump")
        screen("sniff-replay", "ioctl-sniff replay run.cap", SNIFF, "replay", str(taken), "--vram", "256M")


PARTS: tuple[Callable[[Screens], None], ...] = (cards, looks, files, sniffed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="of pictures; default: all")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        screen = Screens(Path(folder), options.names)
        for part in PARTS:
            part(screen)


if __name__ == "__main__":
    main()
