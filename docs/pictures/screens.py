"""Draws the screens of docs/tools.md as SVG: ``python docs/pictures/screens.py``. All from the software card."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from amdrv import pm4, sdma

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WIDTH = 108
SNIFFED = '''
import fcntl, os, struct, termios
master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
fcntl.ioctl(master, termios.TIOCGWINSZ, bytes(8))
fcntl.ioctl(master, 0x80045430, bytes(4))
try:
    fcntl.ioctl(master, termios.TIOCSCTTY, 0)
except OSError:
    pass
'''


def run(*command: str, show: str, name: str, lines: int = 40) -> None:
    """One screen: what a person would type, and what came back."""
    environment = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": str(WIDTH), "AMDRV_HAL": "mock"}
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, cwd=ROOT, env=environment,
                          check=False)
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ {show}", "bold green"))
    said = (done.stdout + done.stderr).replace(os.path.realpath(sys.executable), "/usr/bin/python3")
    shown = re.sub(r"/tmp/amdrv-firmware-\w+", "/tmp/amdrv-firmware", said).splitlines()
    for line in shown[:lines]:
        console.print(Text.from_ansi(line), soft_wrap=False)
    if len(shown) > lines:
        console.print(Text(f"... {len(shown) - lines} more lines", "dim"))
    picture = console.export_svg(title=show.split()[0], unique_id=name)
    picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)          # no fonts from elsewhere
    (HERE / f"{name}.svg").write_text(picture, encoding="utf-8")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        ring = Path(folder) / "ring.hex"
        words = [*pm4.set_registers(0x2C00 + 0x21B, [0x00AF0000, 0x84]),
                 *pm4.build("DISPATCH_DIRECT", SHADER_TYPE=1, DIM_X=64, DIM_Y=1, DIM_Z=1, COMPUTE_SHADER_EN=1,
                            CS_W32_EN=1),
                 *pm4.build("WRITE_DATA", DST_SEL="MEM", WR_CONFIRM=1, DST_ADDR=0x8000_0000, DATA=[1])]
        ring.write_text(" ".join(f"{word:08x}" for word in words))
        copies = Path(folder) / "copies.hex"
        copies.write_text(" ".join(f"{word:08x}" for word in [
            *sdma.build("COPY_LINEAR", COUNT=4095, SRC_ADDR=0x10_0000, DST_ADDR=0x8000_0000),
            *sdma.build("FENCE", MTYPE="UC", ADDR=0x2000, DATA=7)]))
        import mock.firmware
        mock.firmware.write(Path(folder))
        info = "tools.amdrv_info"
        run(info, "list", show="amdrv-info list", name="info-list")
        run(info, "show", "--boot", show="amdrv-info show --boot", name="info-show", lines=60)
        run(info, "reg", "search", "CP_HQD_PQ_*", show="amdrv-info reg search 'CP_HQD_PQ_*'", name="info-search")
        run(info, "reg", "CP_HQD_PQ_CONTROL", show="amdrv-info reg CP_HQD_PQ_CONTROL", name="info-reg")
        run(info, "pm4", str(ring), show="amdrv-info pm4 ring.hex", name="info-pm4")
        run(info, "sdma", str(copies), show="amdrv-info sdma copies.hex", name="info-sdma")
        run(info, "fw", str(Path(folder) / "gc_11_0_0_mec.bin"), show="amdrv-info fw gc_11_0_0_mec.bin", name="info-fw")
        if sys.platform.startswith("linux"):
            script = Path(folder) / "talk.py"
            script.write_text(SNIFFED)
            run("tools.ioctl_sniff", "-d", "/dev/ptmx", sys.executable, str(script),
                show="ioctl-sniff -d /dev/ptmx python3 talk.py", name="sniff")


if __name__ == "__main__":
    main()
