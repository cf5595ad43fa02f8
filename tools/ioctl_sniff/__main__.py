"""The command ``ioctl-sniff``; see the package."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.text import Text

from tools.ioctl_sniff import abi, build, capture, decode, diff, generate, replay, run, text
from tools.ioctl_sniff.decode import Call
from tools.piped import piped

__all__ = ["main"]

ERRORS = (abi.AbiError, build.BuildError, capture.CaptureError, generate.GenerateError, replay.ReplayError,
          run.RunError, run.TraceError)
SUBCOMMANDS = ("show", "gen", "diff", "list", "replay")


@piped
def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: the program's own where one was run; 1 on errors, 2 on wrong usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments and arguments[0] in SUBCOMMANDS:
            options = _parser_of(arguments[0]).parse_args(arguments[1:])
            return {"show": _show, "gen": _gen, "diff": _diff, "list": _list,
                    "replay": _replay}[arguments[0]](options)
        return _run(_parser().parse_args(arguments))
    except ERRORS as error:
        said = Text("ioctl-sniff: ", "bold red").append(str(error), "not bold default")
        Console(stderr=True, highlight=False).print(said, soft_wrap=True)
        return 1


def _run(options: argparse.Namespace) -> int:
    if not options.command and options.pid is None:
        raise run.RunError("what shall be watched? ioctl-sniff PROGRAM [ARGUMENT ...], ioctl-sniff -p PID, or "
                           "ioctl-sniff show CAPTURE; --help has the rest")
    if options.command and options.pid is not None:
        raise run.RunError(f"-p {options.pid} or {options.command[0]}? one of them is followed")
    if options.command and shutil.which(options.command[0]) is None:
        if options.command[0] in SUBCOMMANDS:
            raise run.RunError(f"{options.command[0]} stands first, its options behind it: "
                               f"ioctl-sniff {options.command[0]} [OPTION ...]")
        close = difflib.get_close_matches(options.command[0], SUBCOMMANDS, 1, 0.6)
        raise run.RunError(f"{options.command[0]}: there is no such program"
                           + (f"; did you mean ioctl-sniff {close[0]}?" if close else ""))
    library = _library(options)
    devices = tuple(options.device) if options.device else (
        *run.DEFAULT_DEVICES, *(pattern for each in options.decoder for pattern in abi.load(each).devices))
    recorded = [name for name, wanted in (("stack", options.stack), ("trap-all", options.trap_all),
                                          ("doorbells", options.doorbells or options.trap_all)) if wanted]
    plan = run.Plan(library, devices, tuple(map(_type_byte, options.type)) or None, tuple(recorded),
                    options.limit << 20)
    if options.output:
        _writable(options.output).close()       # before the program has run for nothing
    keep = options.write is not None
    handle, name = (None, options.write) if keep else tempfile.mkstemp(
        prefix="ioctl-sniff-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)     # memory is fastest
    if handle is not None:
        os.close(handle)
    path = Path(name)
    try:
        result = (run.record(plan, options.command, path, mechanism=options.mechanism) if options.command
                  else run.attach(plan, options.pid, path))
        _print(capture.Capture.read(path), library, options)
        if not options.quiet:
            _say(result, path if keep else None)
        return result.status
    finally:
        if not keep:
            path.unlink(missing_ok=True)


def _say(result: run.Result, kept: Path | None) -> None:
    said = f"followed by {result.mechanism} ({result.reason})"
    if result.stops:
        said += f", {result.stops} stops, {text.time_text(result.cost // result.stops)} each"
    if result.status:
        said += f"; exit status {result.status}"
    if kept is not None:
        said += f"; kept in {kept}"
    Console(stderr=True, highlight=False).print(Text(f"ioctl-sniff: {said}", "dim"), soft_wrap=True)


def _print(taken: capture.Capture, library: abi.Library, options: argparse.Namespace) -> None:
    found = list(_filtered(decode.calls(taken, library), options))
    if options.output:
        with _writable(options.output) as file:
            _print_calls(Console(file=file, highlight=False, soft_wrap=True), found, options)
    else:
        _print_calls(Console(highlight=False, soft_wrap=True), found, options)
    if taken.lost or taken.broken:
        Console(stderr=True, highlight=False).print(Text(
            f"ioctl-sniff: {taken.broken} records were cut short by the death of their process, {taken.lost} did not "
            "fit (--limit)", "yellow"), soft_wrap=True)


def _writable(name: str) -> TextIO:
    """A file to be written anew. :raises run.RunError: it cannot be."""
    try:
        return Path(name).open("w", encoding="utf-8")
    except OSError as error:
        raise run.RunError(f"{name}: cannot be written: {error.strerror or error}") from error


def _print_calls(target: Console, found: Sequence[Call], options: argparse.Namespace) -> None:
    if options.json:
        for each in decode.summarise(found) if options.count else found:
            target.file.write(json.dumps({"schema": decode.SCHEMA} | each.json()) + "\n")
    elif options.count:
        text.print_summary(target, decode.summarise(found))
    else:
        start = min((call.event.time for call in found), default=0)
        many = len({call.event.pid for call in found}) > 1 or len({call.event.tid for call in found}) > 1
        for call in found:
            target.print(text.line(call, start, many=many, memory=options.memory))
    target.file.flush()


def _filtered(calls: Iterable[Call], options: argparse.Namespace) -> Iterator[Call]:
    try:
        wanted = re.compile(options.match) if options.match else None
    except re.error as error:
        raise run.RunError(f"--match {options.match!r} is no regular expression: {error}") from None
    types = set(map(_type_byte, options.type))
    for call in calls:
        if options.errors and not call.event.error:
            continue
        if wanted is not None and not wanted.search(call.name):
            continue
        if types and call.event.kind == "ioctl" and (call.event.numbers[0] >> 8 & 0xFF) not in types:
            continue
        if options.calls and call.event.kind != "ioctl":
            continue
        yield call


def _type_byte(given: str) -> int:
    """An ioctl type byte: 'K', 0x4b, 75."""
    if len(given) == 1 and not given.isdigit():
        return ord(given)
    try:
        value = int(given, 0)
    except ValueError:
        value = -1
    if not 0 <= value < 256:
        raise run.RunError(f"--type {given!r} is no ioctl type byte; write K or 0x4b")
    return value


def _library(options: argparse.Namespace) -> abi.Library:
    own = [abi.load(path) for path in options.decoder]
    return abi.Library([*own, *abi.builtin().abis])


def _show(options: argparse.Namespace) -> int:
    _print(capture.Capture.read(options.capture), _library(options), options)
    return 0


def _gen(options: argparse.Namespace) -> int:
    header = Path(options.header)
    if not header.is_file():
        raise generate.GenerateError(f"{header}: there is no such file")
    source = generate.Source(options.name or header.stem, [str(header.absolute())], include=options.include,
                             devices=options.device or [f"/dev/{header.stem}*"], origin=header.name)
    decoder = generate.generate(source)
    target = Path(options.output or f"{header.stem}.json")
    generate.write(decoder, target)
    print(f"{target}: {len(decoder['ioctls'])} ioctls, {len(decoder['records'])} records, "
          f"{len(decoder['constants'])} constants; use it with --decoder {target}")
    return 0


def _diff(options: argparse.Namespace) -> int:
    """Exit status 1 where the two differ."""
    library = _library(options)
    sides = [list(_filtered(decode.calls(capture.Capture.read(path), library), options))
             for path in (options.first, options.second)]
    found = diff.compare(*sides)
    if options.json:
        print(json.dumps({"schema": decode.SCHEMA, "differences": [each.json() for each in found]}, indent=2))
    else:
        diff.show(Console(highlight=False, soft_wrap=True), found, len(sides[0]), len(sides[1]))
    return int(any(each.mark != " " for each in found))


def _replay(options: argparse.Namespace) -> int:
    """Exit status 1 where a submission failed on the mock card."""
    played = replay.replay(decode.calls(capture.Capture.read(options.capture), _library(options)), vram=options.vram)
    if options.json:
        for each in played:
            print(json.dumps({"schema": decode.SCHEMA} | each.json()))
    else:
        replay.show(Console(highlight=False, soft_wrap=True), played)
    return int(any(each.state == "failed" for each in played))


def _list(options: argparse.Namespace) -> int:
    for each in _library(options).abis:
        if options.json:
            print(json.dumps({"schema": decode.SCHEMA, "name": each.name, "source": each.source,
                              "devices": each.devices,
                              "ioctls": [[one.name, one.number, one.record] for one in each.ioctls]}))
        else:
            print(f"{each.name:10} {len(each.ioctls):4} ioctls  {' '.join(each.devices):40}  {each.source}")
    return 0


def _shared(*, running: bool = False) -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--decoder", action="append", default=[], metavar="FILE", help="a decoder of `ioctl-sniff gen`")
    show = shared.add_argument_group("what is shown")
    show.add_argument("--match", metavar="REGEX", help="only calls with such a name")
    show.add_argument("--type", action="append", default=[], metavar="BYTE", help="only ioctls of this type: K, 0x4b")
    show.add_argument("--errors", action="store_true", help="only calls that failed")
    show.add_argument("--calls", action="store_true", help="only ioctls")
    show.add_argument("--json", action="store_true", help="a JSON object a line")
    if running:
        show.add_argument("-c", "--count", action="store_true", help="a table: calls, time and errors of each ioctl")
        show.add_argument("--memory", action="store_true", help="submitted packets, disassembled")
        show.add_argument("-o", "--output", metavar="FILE", help="write there and not to the terminal")
    return shared


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ioctl-sniff", parents=[_shared(running=True)], formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="ioctl-sniff [OPTION ...] PROGRAM [ARGUMENT ...]\n       ioctl-sniff [OPTION ...] -p PID\n"
              "       ioctl-sniff show CAPTURE | diff CAPTURE CAPTURE | replay CAPTURE | gen HEADER.h | list",
        description="What a program says to GPU drivers: every ioctl, mmap and open on GPU-like devices, decoded, "
                    "with what the\nkernel changed. Options stand before the program.")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="PROGRAM", help=argparse.SUPPRESS)
    parser.add_argument("-p", "--pid", type=int, metavar="PID", help="follow a process that runs already")
    parser.add_argument("-w", "--write", metavar="CAPTURE", help="keep what was recorded, for show and diff")
    parser.add_argument("-d", "--device", action="append", default=[], metavar="PATTERN",
                        help="watch these device paths (default: " + " ".join(run.DEFAULT_DEVICES[:5]) + " ...)")
    parser.add_argument("--mechanism", choices=("auto", "preload", "ptrace"), default="auto",
                        help="how to follow (default: preload where the program takes it)")
    parser.add_argument("--ptrace", dest="mechanism", action="store_const", const="ptrace", help=argparse.SUPPRESS)
    parser.add_argument("--stack", action="store_true", help="the call stack of each ioctl (preload)")
    parser.add_argument("--doorbells", action="store_true",
                        help="trap doorbell pages, so that submitted work shows (preload, x86-64)")
    parser.add_argument("--trap-all", action="store_true", help="trap every small shared mapping of a watched device")
    parser.add_argument("--limit", type=int, default=4096, metavar="MIB", help="of a capture (default: 4096)")
    parser.add_argument("-q", "--quiet", action="store_true", help="do not say how the program was followed")
    return parser


def _parser_of(name: str) -> argparse.ArgumentParser:
    if name == "show":
        parser = argparse.ArgumentParser(prog="ioctl-sniff show", parents=[_shared(running=True)],
                                         description="Print a capture that -w kept.")
        parser.add_argument("capture")
    elif name == "diff":
        parser = argparse.ArgumentParser(prog="ioctl-sniff diff", parents=[_shared()],
                                         description="Compare two captures: calls that one has and the other has not, "
                                                     "and arguments that differ. Addresses and descriptors are "
                                                     "compared by their order.")
        parser.add_argument("first")
        parser.add_argument("second")
    elif name == "replay":
        parser = argparse.ArgumentParser(prog="ioctl-sniff replay", description="Run a capture's submissions (amdgpu's "
                                         "compute and copy command buffers, KFD's PM4 and SDMA rings) on the mock "
                                         "card, and say what it thinks of them.")
        parser.add_argument("capture")
        parser.add_argument("--vram", default="1G", metavar="SIZE", help="of the mock card (default: 1G)")
        parser.add_argument("--decoder", action="append", default=[], metavar="FILE", help=argparse.SUPPRESS)
        parser.add_argument("--json", action="store_true", help="a JSON object a line")
    elif name == "gen":
        parser = argparse.ArgumentParser(prog="ioctl-sniff gen", description="Make a decoder from a C header.")
        parser.add_argument("header", metavar="HEADER.h")
        parser.add_argument("-o", "--output", metavar="FILE", help="default: the header's name with .json")
        parser.add_argument("-n", "--name", help="of the interface (default: the header's)")
        parser.add_argument("-I", dest="include", action="append", default=[], metavar="FOLDER", help="for includes")
        parser.add_argument("-d", "--device", action="append", default=[], metavar="PATTERN", help="its device paths")
    else:
        parser = argparse.ArgumentParser(prog="ioctl-sniff list", parents=[_shared()],
                                         description="The interfaces that can be decoded.")
    return parser


if __name__ == "__main__":
    sys.exit(main())
