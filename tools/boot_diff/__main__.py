"""``python -m tools.boot_diff [record | distill]``; see the package."""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from amdrv.errors import AmdrvError
from tools.boot_diff import reasons, report, trace
from tools.boot_diff.compare import Difference, compare
from tools.boot_diff.trace import Event

__all__ = ["LINUX", "main"]

HERE = Path(__file__).parent
LINUX = HERE / "data" / "linux.txt"
REASONS = HERE / "reasons.toml"
DOCUMENT = HERE.parents[1] / "docs" / "boot.md"
BEGIN, END = "<!-- boot_diff: begin -->", "<!-- boot_diff: end -->"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 fine, 1 ``--check`` found something, 2 nothing could be compared."""
    options = _parser().parse_args(argv)
    try:
        if options.command == "record":
            return _record(options)
        if options.command == "distill":
            return _distill(options)
        return _compare(options)
    except BrokenPipeError:
        raise
    except (AmdrvError, trace.TraceError, reasons.ReasonError, OSError) as error:
        print(f"boot_diff: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.boot_diff", description="Compare our boot with Linux's, "
                                     "register by register, and say why each difference is there.")
    parser.add_argument("--ours", type=Path, metavar="FILE", help="a recording; default: boot the mock now")
    parser.add_argument("--linux", type=Path, metavar="FILE", default=LINUX, help="default: %(default)s")
    parser.add_argument("--reasons", type=Path, metavar="FILE", default=REASONS, help="default: %(default)s")
    parser.add_argument("--check", action="store_true", help="fail when a difference has no reason, a reason no "
                        "difference, or docs/boot.md is not up to date")
    parser.add_argument("--write-docs", action="store_true", help="put the table into docs/boot.md")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--markdown", action="store_true")
    commands = parser.add_subparsers(dest="command", metavar="record | distill")
    recording = commands.add_parser("record", help="keep a recording of our boot")
    recording.add_argument("--hal", default="mock", help="the card to boot (default: mock)")
    recording.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: standard output")
    distilling = commands.add_parser("distill", help="make data/linux.txt from a recording of amdgpu's boot")
    distilling.add_argument("log", type=Path, help="the mock's (its name ends in .trace), or a text of accesses")
    distilling.add_argument("--until", type=float, default=float("inf"), metavar="SECONDS",
                            help="where in it the boot is over")
    distilling.add_argument("--version", default="of an unknown version", help="of the kernel that made the log")
    distilling.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: standard output")
    return parser


def _record(options: argparse.Namespace) -> int:
    from tools.boot_diff.record import record

    text = trace.dump(trace.fold(record(options.hal)), ["Our boot; see tools/boot_diff/trace.py for the form."])
    return _put(options.output, text)


def _distill(options: argparse.Namespace) -> int:
    if options.log.suffix == ".trace":
        events = trace.fold(trace.parse_recording(options.log, options.until))
    else:
        open_log = gzip.open if options.log.suffix == ".gz" else open
        with open_log(options.log, "rt", encoding="utf-8") as lines:
            events = trace.fold(trace.parse_log(lines, options.until))
    about = [f"What Linux's amdgpu {options.version} did to boot the mock's Navi31 (1002:744c), without display, its",
             "rings mapped by the KIQ. Distilled from a recording of the mock (python -m tools.boot_diff distill):",
             "names, order and what is written are facts about the driver, the values of reads are the mock's answers.",
             "For the form see tools/boot_diff/trace.py; for how to record anew, docs/boot.md."]
    return _put(options.output, trace.dump(events, about))


def _put(output: Path | None, text: str) -> int:
    if output is None:
        sys.stdout.write(text)
    else:
        output.write_text(text, encoding="ascii")
    return 0


def _compare(options: argparse.Namespace) -> int:
    linux = trace.load(options.linux)
    if options.ours is not None:
        ours = trace.load(options.ours)
    else:
        from tools.boot_diff.record import record
        ours = trace.fold(record())
    why = reasons.load_reasons(options.reasons)
    explained = reasons.explain(compare(linux, ours), why)
    unused = reasons.unused(explained, why)
    written = _written(linux), _written(ours)
    text = report.markdown(explained, unused, written)
    if options.write_docs:
        DOCUMENT.write_text(_inserted(DOCUMENT.read_text(encoding="utf-8"), text), encoding="utf-8")
    if options.json:
        print(json.dumps(report.as_json(explained, unused, written), indent=2))
    elif options.markdown:
        print(text, end="")
    elif not options.check:
        report.print_text(explained, unused, written)
    return _checked(explained, unused, text) if options.check else 0


def _checked(explained: list[tuple[Difference, reasons.Reason | None]], unused: list[reasons.Reason],
             text: str) -> int:
    problems = [f"no reason: {difference}" for difference, reason in explained if reason is None]
    problems += [f"explains nothing: {reason.block}: {'/'.join(reason.kinds)}: {' '.join(reason.names)}"
                 for reason in unused]
    document = DOCUMENT.read_text(encoding="utf-8")
    if _inserted(document, text) != document:
        problems.append(f"{DOCUMENT.name} is not up to date: python -m tools.boot_diff --write-docs")
    for problem in problems:
        print(f"boot_diff: {problem}", file=sys.stderr)
    if not problems:
        print(f"boot_diff: {len(explained)} differences, each with a reason")
    return 1 if problems else 0


def _written(events: list[Event]) -> int:
    return len({(event.kind, event.name) for event in events if event.kind != "R"})


def _inserted(document: str, text: str) -> str:
    before, found, rest = document.partition(BEGIN)
    _, found_end, after = rest.partition(END)
    if not found or not found_end:
        raise trace.TraceError(f"{DOCUMENT.name} has no lines {BEGIN!r} and {END!r} to put the table between")
    return f"{before}{BEGIN}\n{text}{END}{after}"


if __name__ == "__main__":
    from tools.piped import piped
    sys.exit(piped(main)())
