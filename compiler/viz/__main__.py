"""python -m compiler.viz FILE: a recording that ``VIZ=out.html`` or ``VIZ=out.json`` wrote, opened again."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compiler.viz.pages import RecordingError, page, read
from compiler.viz.recording import replayed
from compiler.viz.server import Server

__all__ = ["main"]


def _text(data: dict[str, Any]) -> str:
    """What is in it, for a terminal."""
    lines = [f"{data['program']}, {data['started']}, Python {data['python']}"]
    for n, schedule in enumerate(data["schedules"]):
        lines.append(f"schedule {n} on {schedule['device']}: {len(schedule['items'])} items"
                     + (f", failed: {schedule['error']}" if schedule["error"] else ""))
        for item in schedule["items"]:
            where = [data["places"][p] for p in item["places"][:1] if p >= 0]
            lines.append(f"    {item['name']:<40} b{item['reads']} -> b{item['writes']}"
                         + "".join(f"   {p['file']}:{p['line']}" for p in where))
    for n, kernel in enumerate(data["kernels"]):
        steps = sum(len(data["passes"][p]["steps"]) for p in kernel["passes"])
        lines.append(f"kernel {n} {kernel['label']}: {', '.join(kernel['choices']) or 'no choices'}; "
                     f"{steps} rewrites; {len(kernel['asm'].splitlines())} lines of instructions")
    wrong = sum(not p["cut"] and replayed(data, n, len(p["steps"]))[0] != p["after"]
                for n, p in enumerate(data["passes"]) if p["steps"])
    lines.append(f"{len(data['passes'])} passes, {sum(len(p['steps']) for p in data['passes'])} steps"
                 + (f", of which {wrong} passes do not come out as they did" if wrong else "")
                 + f"; {len(data['spans'])} spans on the time line")
    lines += [f"left out: {count} {what}" for what, count in data["left_out"].items()]
    return "\n".join(lines + [f"note: {n}" for n in data["notes"]])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m compiler.viz", description=__doc__)
    parser.add_argument("file", help="what VIZ=out.html or VIZ=out.json wrote")
    parser.add_argument("--port", type=int, help="to serve at; 0 for any (default: VIZ_PORT, else 8765 or the next)")
    parser.add_argument("--html", metavar="OUT", help="write one page instead of serving")
    parser.add_argument("--text", action="store_true", help="print what is in it instead of serving")
    options = parser.parse_args(arguments)
    try:
        data = read(options.file)
    except RecordingError as error:
        print(error, file=sys.stderr)
        return 1
    text = json.dumps(data, separators=(",", ":"))
    if options.text:
        print(_text(data))
    elif options.html:
        try:
            Path(options.html).write_text(page(text), encoding="utf-8")
        except OSError as error:
            print(f"{options.html} cannot be written: {error.strerror}", file=sys.stderr)
            return 1
    else:
        try:
            server = Server(lambda: page(text), lambda: text, options.port)
        except (OSError, ValueError) as error:
            print(f"no port to serve at: {error}", file=sys.stderr)
            return 1
        server.start()
        with contextlib.suppress(KeyboardInterrupt):
            print(f"serving {options.file} at {server.url} until Ctrl-C", flush=True)
            server.wait()
        server.close()
    return 0


if __name__ == "__main__":
    from tools.piped import piped
    sys.exit(piped(main)())
