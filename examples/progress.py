"""A bar that redraws itself on a terminal, and plain lines elsewhere; what examples have in common on the command line.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from amdrv.errors import AmdrvError
from hcq.errors import HcqError

__all__ = ["Progress", "parser", "script"]


class Progress:
    """:param total: steps in all; ``quiet``: show nothing."""

    def __init__(self, total: int, quiet: bool = False) -> None:
        self.total, self.quiet, self.done = total, quiet, 0
        self.live = sys.stdout.isatty() and not quiet
        self.start = time.perf_counter()

    def step(self, note: str = "") -> None:
        self.done += 1
        if self.live:
            filled = 30 * self.done // self.total
            rate = self.done / (time.perf_counter() - self.start)
            print(f"\r  [{'█' * filled}{'·' * (30 - filled)}] {self.done}/{self.total}  {note}  {rate:.1f} steps/s ",
                  end="", flush=True)

    def line(self, text: str) -> None:
        if not self.quiet:
            print(f"\r{text:<78}" if self.live else text, flush=True)

    def close(self) -> None:
        if self.live:
            print("\r" + " " * 100 + "\r", end="", flush=True)


def parser(description: str | None) -> argparse.ArgumentParser:
    """With ``--device``, ``--small``, ``--seed`` and ``--json``."""
    made = argparse.ArgumentParser(description=(description or "").split("\n")[0],
                                   formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--device", default="AM" if os.environ.get("AM", "0") not in ("", "0") else "CPU",
                      help="CPU, AM, AM:1 ... (AM=1 in the environment makes AM the default)")
    made.add_argument("--small", action="store_true", help="a model so small that the mock card runs it in a minute")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--json", action="store_true", help="one JSON object instead of text")
    return made


def script(main: Callable[[], int | None]) -> int:
    """A script's exit status. A device, card or file that cannot be had is one line on standard error, and 1."""
    from compiler.files.source import FileFormatError
    from compiler.onnx.registry import OnnxError
    from tools.piped import piped
    try:
        return piped(main)() or 0
    except BrokenPipeError:
        raise
    except (AmdrvError, HcqError, FileFormatError, OnnxError, OSError) as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        return 1
