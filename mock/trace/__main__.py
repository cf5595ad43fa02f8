"""``python -m mock.trace``: show, summary, diff, timeline."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mock.trace import events, views
from mock.trace.events import KINDS, TraceError, TraceFile

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0; 1 where two traces differ or nothing was found; 2 for files that are no traces."""
    options = _parser().parse_args(argv)
    try:
        return int(_COMMANDS[options.command](options))
    except TraceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _read(path: str) -> TraceFile:
    file = events.read(path)
    if file.truncated:
        print(f"{path}: ends within an event; the program that wrote it did not close its machine", file=sys.stderr)
    return file


def _show(options: argparse.Namespace) -> int:
    file = _read(options.file)
    chosen = views.Filter(kinds=options.kind, register=options.register, track=options.track, card=options.card,
                          first=options.start, last=options.end, grep=options.grep)
    count = 0
    for event, line in views.lines(file, chosen):
        if options.limit is not None and count >= options.limit:
            print(f"... more than {options.limit}; --limit shows more", file=sys.stderr)
            break
        print(json.dumps(views.document(file, event)) if options.json else line)
        count += 1
    if not count:
        print(f"{options.file}: none of its {len(file.events)} events is meant", file=sys.stderr)
    return int(not count)


def _summary(options: argparse.Namespace) -> int:
    found = views.summary(_read(options.file))
    if options.json:
        print(json.dumps(found, indent=2))
        return 0
    cards = ", ".join(f"{card['address']} ({card['arch']}, {card['vram'] >> 20} MiB)" for card in found["cards"])
    print(f"{found['file']}: {found['seconds']:.3f} s, {cards}")
    _table("events", found["events"])
    _table("packets", found["packets"])
    if found["engines"]:
        print("\nengines")
        for name, engine in found["engines"].items():
            print(f"{engine['packets']:>10}  {name:<24} busy {engine['busy_seconds'] * 1e3:.3f} ms")
    _table("registers, the busiest", found["registers"])
    _table("notes", found["notes"])
    _table("faults", found["faults"])
    return 0


def _table(title: str, counts: dict[str, int]) -> None:
    if counts:
        print(f"\n{title}")
        for name, count in counts.items():
            print(f"{count:>10}  {name}")


def _diff(options: argparse.Namespace) -> int:
    found = views.diff(_read(options.file), _read(options.other), reads=options.reads, shape=options.shape)
    if options.json:
        print(json.dumps({"same": not found, "tracks": found}, indent=2))
    else:
        for track, differences in found.items():
            print(f"--- {options.file} {track}\n+++ {options.other} {track}", *differences, sep="\n")
        if not found:
            print("no difference (times and reads aside)" if not options.reads else "no difference (times aside)")
    return int(bool(found))


def _timeline(options: argparse.Namespace) -> int:
    found = views.timeline(_read(options.file))
    try:
        Path(options.output).write_text(json.dumps(found), encoding="ascii")
    except OSError as error:
        raise TraceError(f"{options.output}: cannot be written: {error.strerror or error}") from None
    count = sum(event["ph"] != "M" for event in found["traceEvents"])
    if options.json:
        print(json.dumps({"file": options.output, "events": count}))
    else:
        print(f"{options.output}: {count} events; open it at https://ui.perfetto.dev or chrome://tracing")
    return 0


_COMMANDS = {"show": _show, "summary": _summary, "diff": _diff, "timeline": _timeline}


def _kinds(text: str) -> frozenset[str]:
    kinds = frozenset(text.split(","))
    if unknown := kinds - KINDS.keys():
        raise argparse.ArgumentTypeError(f"no kind {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    return kinds


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mock.trace", description="Look into what a mock machine recorded "
                                     "(AMDRV_MOCK_TRACE=FILE).")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, text: str) -> Any:
        made = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        made.add_argument("file")
        made.add_argument("--json", action="store_true", help="JSON instead of text")
        return made
    show = command("show", "events, a line each, those that all options let through")
    show.add_argument("--kind", type=_kinds, help=f"comma-separated: {', '.join(KINDS)}")
    show.add_argument("--register", help="register accesses by shell pattern: 'CP_HQD_*'")
    show.add_argument("--track", help="who: an engine ('compute 1.0.0', 'sdma*'), driver, 'gc hub', interrupts, notes")
    show.add_argument("--card", type=int, help="number of the card, from 0")
    show.add_argument("--start", type=float, help="seconds since the start of the trace")
    show.add_argument("--end", type=float)
    show.add_argument("--grep", type=_pattern, help="regular expression on the line")
    show.add_argument("--limit", type=int, help="stop after so many")
    command("summary", "counts by kind, packet, engine, register, note and fault")
    difference = command("diff", "what two traces do differently, track by track; times do not count")
    difference.add_argument("other")
    difference.add_argument("--reads", action="store_true", help="compare reads, too")
    difference.add_argument("--shape", action="store_true", help="compare what was accessed and executed, not values: "
                            "addresses are other ones in every run")
    command("timeline", "a file for Perfetto (ui.perfetto.dev) or chrome://tracing").add_argument("output")
    return parser


if __name__ == "__main__":
    from tools.piped import piped
    sys.exit(piped(main)())
