"""How fast a model runs: ``python -m compiler.bench gpt2 --device CPU``, beside PyTorch and tinygrad."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compiler.bench.libraries import LIBRARIES
from compiler.bench.report import NAMES, picture, text
from compiler.bench.tasks import TASKS

__all__ = ["main"]


def _environment(library: str) -> dict[str, str]:
    """tinygrad's: its own kernels by LLVM, its queues by clang, the CPU (the other devices are not compared)."""
    if library != "tinygrad":
        return dict(os.environ)
    clang = next((c for c in ("clang", *(f"clang-{n}" for n in range(25, 15, -1))) if shutil.which(c)), "clang")
    return {**os.environ, "DEV": "CPU:LLVM", "CC": clang}


def run(library: str, arguments: dict[str, Any], timeout: float) -> tuple[dict[str, Any] | None, str]:
    """One measurement in a process of its own; or None, and why."""
    command = [sys.executable, "-m", "compiler.bench.worker", json.dumps({**arguments, "library": library})]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=_environment(library), timeout=timeout,
                              check=False, cwd=Path(__file__).resolve().parents[2])
    except subprocess.TimeoutExpired:
        return None, f"stopped after {timeout:.0f} s (--timeout)"
    last = (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode or not last.startswith("{"):
        return None, f"failed: {_reason(done.stderr)[:300]}"
    found = json.loads(last)
    return (None, f"not installed: {found['missing']}") if "missing" in found else (found, "")


def _reason(stderr: str) -> str:
    """The line of a traceback that says what was wrong: notes may follow it."""
    lines = stderr.strip().splitlines() or ["it printed nothing"]
    return next((line for line in reversed(lines) if re.match(r"[A-Za-z_][\w.]*: ", line)), lines[-1])


def _listed() -> str:
    width = max(map(len, TASKS))
    return "\n".join(f"{name:<{width}}  {task.what} ({task.unit}, batch {task.batch})" for name, task in TASKS.items())


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m compiler.bench", description=(__doc__ or "").split("\n")[0],
        epilog="models:\n" + _listed(), formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("model", nargs="?", metavar="MODEL", help="one of those below")
    made.add_argument("--device", default="AM" if os.environ.get("AM", "0") not in ("", "0") else "CPU",
                      help="CPU, AM, AM:1 ...; others are compared on the CPU (default: CPU, or AM with AM=1)")
    made.add_argument("--batch", type=int, default=0, help="default: the model's own")
    made.add_argument("--steps", type=int, default=20, help="that are timed, after three that are not (default: 20)")
    made.add_argument("--against", metavar="NAMES", default=",".join(LIBRARIES[1:]),
                      help="torch,tinygrad (those that are installed; the default), one of them, or none")
    made.add_argument("--json", action="store_true", help="one JSON object instead of text")
    made.add_argument("--plot", metavar="FILE", type=Path, help="a picture, .png or .svg (pip install 'amdrv[plot]')")
    made.add_argument("--timeout", type=float, default=1800, help="seconds for each library (default: 1800)")
    made.add_argument("--list", action="store_true", help="the models")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    if args.list:
        print(_listed())
        return 0
    if args.model not in TASKS:
        parser.error((f"there is no model {args.model!r}" if args.model else "which model?")
                     + f"; there are {', '.join(TASKS)}")
    if args.steps < 1 or args.batch < 0:
        parser.error("--steps is at least 1, --batch not negative")
    if args.plot is not None and args.plot.suffix.lower() not in (".png", ".svg"):
        parser.error(f"--plot: a picture is a .png or an .svg, not {args.plot.name!r}")
    against = [name for name in args.against.split(",") if name not in ("", "none")]
    if unknown := [name for name in against if name not in LIBRARIES[1:]]:
        parser.error(f"--against: {', '.join(unknown)} is not known; {' and '.join(LIBRARIES[1:])} are")
    if args.plot is not None and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot: pictures are drawn by matplotlib, which is not installed: pip install 'amdrv[plot]'")
    arguments = {"model": args.model, "device": args.device, "batch": args.batch, "steps": args.steps}
    ours, why = run("ours", arguments, args.timeout)
    if ours is None:
        print(f"{args.model} on {args.device} {why}", file=sys.stderr)
        return 1
    found, skipped = [ours], {}
    for library in against:
        result, why = run(library, {**arguments, "device": "CPU"}, args.timeout)
        if result is None:
            skipped[library] = why
        else:
            result["flop"] = ours["flop"]
            result["gflops"] = ours["flop"] / result["step"] / 1e9
            result["time_ratio"] = ours["step"] / result["step"]
            found.append(result)
    status = 0
    if args.plot is not None:
        try:
            picture(found, args.plot)
        except OSError as error:
            print(f"--plot {args.plot}: cannot be written: {error.strerror or error}", file=sys.stderr)
            args.plot, status = None, 1
    if args.json:
        print(json.dumps({"results": {r["library"]: r for r in found}, "skipped": skipped}))
    else:
        print(text(found, skipped))
        if args.device != "CPU" and len(found) > 1:
            print(f"  ({', '.join(NAMES[r['library']] for r in found[1:])}: on the CPU)")
        if args.plot is not None:
            print(f"  {args.plot}")
    return status


if __name__ == "__main__":
    from tools.piped import piped
    raise SystemExit(piped(main)())
