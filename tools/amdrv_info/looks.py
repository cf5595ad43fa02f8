"""Commands that look into a card: ``vm``, ``ring``, ``queue``, ``ih``, ``wave``, ``top``, ``bench``, ``report``.

Each makes a document (what ``--json`` prints), of a card or out of a report, and a screen of that document.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from amdrv.dump import Dump, load
from amdrv.errors import AmdrvError, HalError
from amdrv.hal.debugfs import AmdgpuFiles
from amdrv.hal.looking import driven_by
from tools.amdrv_info import bench, card, doctor, engines, kernel, memory, report, screens, space, top, views, waves
from tools.amdrv_info.doctor import Host
from tools.amdrv_info.report import Report, ReportError
from tools.amdrv_info.source import Live, live, looking_hal, powered

__all__ = ["COMMANDS", "add_parsers", "archive", "dump_of", "opened", "say"]

Options = argparse.Namespace


def say(options: Options, body: dict[str, Any]) -> None:
    """One JSON object: every command's begins with the schema and its own name."""
    print(json.dumps({"schema": card.SCHEMA, "command": options.command} | body, indent=2))


def archive(options: Options) -> Report:
    """The report that ``--from`` names. :raises ReportError: it is none."""
    if not report.is_archive(options.source):
        raise ReportError(f"{options.source}: is no report; amdrv-info report makes one (a dump of registers and "
                          "tables serves reg, vm and ring)")
    return Report(options.source)


def dump_of(options: Options) -> Dump:
    """Registers and memory that ``--from`` names: of a report, or a dump in umr's form."""
    return archive(options).dump() if report.is_archive(options.source) else load(options.source)


@contextmanager
def opened(options: Options, *, selectors: bool = False, core: bool = True) -> Iterator[Live]:
    """The card that the options choose; ``selectors``: bank selectors will be written, which only its driver may do
    while it has one, or who said ``--select``; ``core``: the graphics core will be looked at."""
    hal = looking_hal(options.hal)
    function = card.choose(hal, options.device)
    writable = selectors
    if selectors and not options.boot and not getattr(options, "select", False):
        writable = driven_by(hal, function) is None
    folder = None if hal.name == "mock" or options.boot else kernel.debugfs(Host(), function.address)
    with live(hal, function, boot=options.boot, writable=writable, wake=options.wake, core=core,
              debugfs=folder) as source:
        yield source


def _shown(options: Options, document: dict[str, Any], show: Callable[[Console, dict[str, Any]], None]) -> None:
    if options.json:
        say(options, document)
    else:
        show(screens.console(), document)


# ---- the commands

def _vm(options: Options) -> int:
    """Exit status 1 where nothing is mapped there, or tables could not be read."""
    if options.address == "map":
        return _vm_map(options)
    address = memory.number(options.address)
    if options.source:
        source = dump_of(options)
        document = memory.document(source, options.hub, options.vmid, address)
    else:
        with opened(options, core=options.hub == "gc") as card_now:
            document = memory.document(card_now, options.hub, options.vmid, address)
    _shown(options, document, views.walk)
    return int(not document["valid"])


def _vm_map(options: Options) -> int:
    if options.source:
        document = space.map_document(dump_of(options), options.hub, options.vmid)
    else:
        with opened(options, core=options.hub == "gc") as source:
            document = space.map_document(source, options.hub, options.vmid)
    if options.picture:
        space.draw(document, options.picture)
    _shown(options, document, views.address_space)
    return int(bool(document["problems"]))


def _queue(options: Options) -> int:
    """Exit status 1 when some queues could not be looked at."""
    if options.source:
        document = archive(options).document("queue")
    else:
        with opened(options, selectors=True) as source:
            document = engines.queue_document(source)
    _shown(options, document, views.queues)
    return int(bool(document["missing"]))


def _ring(options: Options) -> int:
    """Exit status 1 when a ring could not be read."""
    if options.source and report.is_archive(options.source):
        document = archive(options).document("ring")
        document["rings"] = engines.pick(document["rings"], options.name)
    elif options.source:
        document = engines.dumped_ring(load(options.source))
    else:
        document = _kernels_rings(options) or {}
        if not document:
            with opened(options, selectors=True) as source:
                document = engines.ring_document(source, options.name, back=options.back)
    _shown(options, document, views.rings)
    return int(any(ring["problem"] for ring in document["rings"]) or bool(document["missing"]))


def _kernels_rings(options: Options) -> dict[str, Any] | None:
    """amdgpu's rings by debugfs; None where amdgpu does not drive the card, or debugfs cannot be read."""
    if options.boot:
        return None
    hal = looking_hal(options.hal)
    function = card.choose(hal, options.device)
    if hal.name == "mock" or function.driver != "amdgpu":
        return None
    found = kernel.rings(Host(), function.address)
    if found is None:
        return None
    return engines.kernels_rings(function.address, found[0], options.name, back=options.back, missing=found[1])


def _kernels_waves(options: Options) -> Callable[[str, int, int], bytes] | None:
    """amdgpu's own way to waves, where it drives the card and debugfs can be read."""
    if options.boot:
        return None
    hal = looking_hal(options.hal)
    function = card.choose(hal, options.device)
    return kernel.wave_reader(Host(), function.address) if hal.name != "mock" and function.driver == "amdgpu" else None


@contextmanager
def _powered(options: Options) -> Iterator[None]:
    """While the graphics core of a card that amdgpu drives has power. :raises HalError: it may have none."""
    function = card.choose(looking_hal(options.hal), options.device)
    folder = kernel.debugfs(Host(), function.address)
    if folder is None:
        yield
        return
    files = AmdgpuFiles(folder)
    try:
        with powered(function.address, files, wake=options.wake):
            yield
    finally:
        files.close()


def _ih(options: Options) -> int:
    if options.source:
        document = archive(options).document("ih")
        read = [entry for entry in document["entries"] if entry["state"] == "read"]
        kept = read[len(read) - options.last:] if options.last else []
        document["entries"] = kept + [entry for entry in document["entries"] if entry["state"] == "pending"]
    else:
        with opened(options, core=False) as source:
            document = engines.ih_document(source, last=options.last)
    _shown(options, document, views.interrupts)
    return int(document["problem"] is not None)


def _wave(options: Options) -> int:
    if options.source:
        document = archive(options).document("wave")
    elif (read := _kernels_waves(options)) is not None:
        with _powered(options):
            document = waves.kernels_waves(options.device, read, vgprs=options.vgprs, every=options.all)
    else:
        with opened(options, selectors=True) as source:
            document = waves.wave_document(source, vgprs=options.vgprs, every=options.all, shape=waves.shape_of(source))
    _shown(options, document, views.waves)
    return 0


def _top(options: Options) -> int:
    if options.interval <= 0:
        raise AmdrvError(f"--interval {options.interval:g} is no time between two looks; write 1 or 0.2")
    if options.csv and options.json:
        raise AmdrvError("--csv or --json, not both")
    if options.source:
        document = archive(options).document("top")
        _shown(options, document, views.top_once)
        return 0
    return top.run(options)


def _bench(options: Options) -> int:
    """Exit status 1 when one of the measurements failed."""
    if options.source:
        document = archive(options).document("bench")
    else:
        document = bench.measure(options.hal, options.device, only=options.only, quick=options.quick)
    if options.plot:
        bench.draw(document, options.plot)
    _shown(options, document, views.benchmarks)
    return int(any(row["error"] for row in document["results"]))


def _report(options: Options) -> int:
    """Exit status 1 when nothing of a card could be had."""
    if options.source:
        found = archive(options)
        _shown(options, found.manifest | {"file": options.source}, views.manifest)
        return 0
    path = options.output or time.strftime("amdrv-report-%Y%m%d-%H%M%S.zip")
    hal = looking_hal(options.hal)
    function = card.choose(hal, options.device)
    if options.program:
        document = _report_of_program(options, path)
    else:
        with _perhaps(options) as (source, why_not):
            document = report_of(path, hal, function, source, why_not)
    _shown(options, document, views.written)
    return int(not document["registers_and_memory"])


@contextmanager
def _perhaps(options: Options) -> Iterator[tuple[Live | None, str]]:
    """The card, or why it cannot be had: a report of what is left is better than none."""
    guard = opened(options, selectors=True)
    try:
        source = guard.__enter__()
    except AmdrvError as error:
        yield None, str(error)
        return
    try:
        yield source, ""
    finally:
        guard.__exit__(None, None, None)


def _report_of_program(options: Options, path: str) -> dict[str, Any]:
    """Run a Python program here and report of the card that it drives, when it ends or fails."""
    from tools.amdrv_info.source import of_device

    if options.hal:
        os.environ["AMDRV_HAL"] = options.hal
    before = top.open_devices()
    error = top.run_program(options.program)
    device = top.driven_device(before)
    if device is None:
        said = f"; it failed: {error}" if error else ""
        raise ReportError(f"{options.program[0]}: left no open card to report of{said}. A program that closes its card "
                          "before it ends leaves nothing to look at")
    source = of_device(device)
    hal = looking_hal(options.hal)
    document = report_of(path, hal, device.function, source, "")
    if error:
        print(f"amdrv-info: the program failed: {error}", file=sys.stderr)
    return document


def report_of(path: str, hal: Any, function: Any, source: Live | None, why_not: str) -> dict[str, Any]:
    """Gather every command's document of one card into an archive."""
    def need() -> Live:
        if source is None:
            raise HalError(why_not)
        return source

    kernels = hal.name != "mock" and function.driver == "amdgpu"
    asleep = kernels and source is None and "GFXOFF" in why_not

    def ring() -> dict[str, Any]:
        found = kernel.rings(Host(), function.address) if kernels else None
        return (engines.ring_document(need()) if found is None else
                engines.kernels_rings(function.address, found[0], None, missing=found[1]))

    def wave() -> dict[str, Any]:
        if asleep:
            need()
        read = kernel.wave_reader(Host(), function.address) if kernels else None
        return (waves.wave_document(need(), vgprs=16, shape=waves.shape_of(need())) if read is None
                else waves.kernels_waves(function.address, read, vgprs=16))

    def findings() -> dict[str, Any]:
        host = doctor.Host()
        doctor.require_linux(host)
        return dict(doctor.document(doctor.examine(host, doctor.firmware_directories()), card.SCHEMA))

    gather: dict[str, Callable[[], dict[str, Any]]] = {
        "list": lambda: card.list_document(hal, card.cards(hal)),
        "show": lambda: card.show_document(card.show(hal, function, device=source.device if source else None)),
        "doctor": findings,
        "queue": lambda: engines.queue_document(need()),
        "ring": ring,
        "ih": lambda: engines.ih_document(need()),
        "wave": wave,
        "top": lambda: top.kernel_once(function) if kernels else top.sample_once(need()),
        "fw": lambda: card.firmware_documents(hal, function),
    }
    table = b""
    if source is not None:
        try:
            table = source.discovery_bytes()
        except AmdrvError as error:
            print(f"amdrv-info: {error}", file=sys.stderr)
    return report.write(path, gather, source, why_not, table)


COMMANDS: dict[str, Callable[[Options], int]] = {
    "vm": _vm, "queue": _queue, "ring": _ring, "ih": _ih, "wave": _wave, "top": _top, "bench": _bench,
    "report": _report,
}


def add_parsers(commands: Any, one_card: argparse.ArgumentParser) -> None:
    """``one_card`` brings --json, --from, --hal and --device."""
    boot = argparse.ArgumentParser(add_help=False, parents=[one_card])
    boot.add_argument("--boot", action="store_true", help="boot the card first, and shut it down afterwards")
    boot.add_argument("--wake", action="store_true",
                      help="of a card that amdgpu drives: keep the graphics core powered meanwhile")
    selecting = argparse.ArgumentParser(add_help=False, parents=[boot])
    selecting.add_argument("--select", action="store_true",
                           help="write bank selectors although somebody drives the card (they are put back; its driver "
                           "may meet them in between)")

    vm = commands.add_parser("vm", parents=[boot], help="walk a card's page tables to an address; or map all of them",
                             formatter_class=argparse.RawDescriptionHelpFormatter,
                             description="vm ADDRESS     every level of the walk, each entry decoded, and who owns it\n"
                             "vm map         all that is mapped, in ranges, and how full VRAM is")
    vm.add_argument("address", metavar="ADDRESS", help="GPU virtual address, such as 0x7f0000001000; or map")
    vm.add_argument("--hub", choices=("gc", "mm"), default="gc",
                    help="gc: shaders, command processors, copy engines (default); mm: PSP, SMU, interrupts")
    vm.add_argument("--vmid", type=int, default=8, help="0 to 15 (default: 8, where our queues run)")
    vm.add_argument("--picture", metavar="FILE", help="of map: draw it, as PNG or SVG (needs matplotlib)")

    commands.add_parser("queue", parents=[selecting], help="the hardware queues that are active: rings, pointers, "
                        "doorbells, descriptors")
    ring = commands.add_parser("ring", parents=[selecting], help="packets around the pointers of each ring, decoded, "
                               "indirect buffers followed")
    ring.add_argument("name", nargs="?", metavar="QUEUE",
                      help='such as "compute 1.0.0", "SDMA 0.0", sdma; default: all')
    ring.add_argument("--back", type=_whole, default=engines.LOOK_BACK, metavar="WORDS",
                      help=f"words before the read pointer that are looked at, too (default: {engines.LOOK_BACK})")
    ih = commands.add_parser("ih", parents=[boot], help="the interrupt ring: what came, what waits, what it means")
    ih.add_argument("--last", type=_whole, default=32, metavar="N",
                    help="entries already read that are shown (default: 32)")
    wave = commands.add_parser("wave", parents=[selecting], help="halted waves: why, PC, registers, code around the PC")
    wave.add_argument("--all", action="store_true", help="running waves, too")
    wave.add_argument("--vgprs", type=_whole, default=0, metavar="N", help="vector registers to read (default: none)")

    live_view = commands.add_parser("top", parents=[boot], help="live: engines, queues, memory, clocks, power, "
                                    "sensors, processes")
    live_view.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help="between looks (default: 1)")
    live_view.add_argument("--count", type=_whole, default=0, metavar="N", help="stop after N looks")
    live_view.add_argument("--csv", action="store_true", help="a line of comma-separated values a look")
    _program(live_view, "watch the card that it drives; ends with it")

    benches = commands.add_parser("bench", parents=[one_card], help="measure BAR, copies, P2P, launches, arithmetic; "
                                  "boots the card")
    benches.add_argument("--only", action="append", choices=sorted(bench.BENCHES), metavar="NAME",
                         help="of: " + ", ".join(bench.BENCHES) + "; may be repeated")
    benches.add_argument("--quick", action="store_true", help="a tenth of the work, for a first look")
    benches.add_argument("--plot", metavar="FILE", help="draw the results, as PNG or SVG (needs matplotlib)")

    made = commands.add_parser("report", parents=[selecting], help="everything in one archive, without secrets; every "
                               "command reads it with --from")
    made.add_argument("-o", "--output", metavar="FILE", help="default: amdrv-report-DATE-TIME.zip")
    _program(made, "report of the card that it drives, when it ends or fails")


def _whole(text: str) -> int:
    """A count: not negative."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no count; write 0, 1, 2, ...")
    return int(text)


class _Program(argparse.Action):
    """Everything behind ``--run``, and at least a file's name."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
                 option_string: str | None = None) -> None:
        if not values:
            parser.error(f"{option_string}: which program? give a Python file")
        setattr(namespace, self.dest, values)


def _program(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--run", dest="program", nargs=argparse.REMAINDER, default=[], action=_Program,
                        metavar="PROGRAM [ARGUMENT ...]",
                        help=f"run a Python program in this process and {what} (the mock's card lives in its process)")
