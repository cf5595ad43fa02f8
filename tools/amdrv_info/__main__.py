"""The command ``amdrv-info``; see the package."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from amdrv.dump import load
from amdrv.errors import AmdrvError, RegisterError
from amdrv.hal import select
from tools.amdrv_info import binding, card, doctor, dumps, memory, registers, screens

__all__ = ["main"]

Options = argparse.Namespace


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 1 when something could not be found, opened or read (the reason is on standard error)."""
    options = _parser().parse_args(argv)
    try:
        return int(_COMMANDS[options.command](options))
    except AmdrvError as error:
        return _failed(error, options.json)
    except BrokenPipeError:                     # amdrv-info ... | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _say(options: Options, body: dict[str, Any]) -> None:
    """One JSON object: every command's begins with the schema and its own name."""
    print(json.dumps({"schema": card.SCHEMA, "command": options.command} | body, indent=2))


def _console() -> Console:
    return Console(highlight=False)


def _list(options: Options) -> int:
    hal = select(options.hal)
    functions = card.cards(hal)
    if options.json:
        print(json.dumps(card.list_document(hal, functions), indent=2))
    else:
        screens.print_cards(_console(), hal.name, functions)
    return 0


def _show(options: Options) -> int:
    hal = select(options.hal)
    seen = card.show(hal, card.choose(hal, options.device), boot=options.boot)
    if options.json:
        print(json.dumps(card.show_document(seen), indent=2))
    else:
        screens.print_card(_console(), seen)
    return _failed(seen.error, False) if seen.error else 0


def _doctor(options: Options) -> int:
    """Exit status 1 when something keeps a card from being driven."""
    host = doctor.Host()
    doctor.require_linux(host)
    findings = doctor.examine(host, doctor.firmware_directories())
    if options.json:
        print(json.dumps(doctor.document(findings, card.SCHEMA), indent=2))
    else:
        screens.print_findings(_console(), findings)
    return int(any(f.state == "bad" for f in findings))


def _bind(options: Options) -> int:
    give = options.command == "bind"
    drivers = binding.give(options.address) if give else binding.give_back(options.address)
    if options.json:
        print(json.dumps({"schema": card.SCHEMA, options.command: drivers}, indent=2))
        return 0
    for function, driver in drivers.items():
        print(f"{function}: {driver or 'no driver'} -> vfio-pci" if give else f"{function}: -> {driver or 'no driver'}")
    if give:
        print(f"undo: amdrv-info unbind {options.address}")
    return 0


def _packets(options: Options) -> int:
    """Exit status 1 when a packet was not understood."""
    words = dumps.words_of(options.file, dumps.read_bytes(options.file), options.form)
    packets = dumps.decode(options.command, words)
    if options.json:
        _say(options, {"file": options.file, "packets": [dumps.packet_document(packet) for packet in packets]})
    else:
        screens.print_packets(_console(), packets)
    return int(any(packet.problem for packet in packets))


def _fw(options: Options) -> int:
    """Every file is looked at; exit status 1 when one of them is damaged."""
    files: list[dict[str, Any]] = []
    for path in options.file:
        try:
            files.append(dumps.firmware_document(path))
            if not options.json:
                screens.print_firmware(_console(), files[-1])
        except AmdrvError as error:
            files.append({"path": path, "error": {"type": type(error).__name__, "message": str(error)}})
            _failed(error, False)
    if options.json:
        _say(options, {"files": files})
    return int(any("error" in file for file in files))


def _discovery(options: Options) -> int:
    table = dumps.read_discovery(options.file)
    if options.json:
        _say(options, {"file": options.file} | dumps.discovery_document(table))
    else:
        screens.print_discovery(_console(), table)
    return 0


def _reg(options: Options) -> int:
    first, *rest = options.words
    if first in ("search", "watch"):
        if not rest:
            raise RegisterError(f"reg {first}: of which register? amdrv-info reg {first} NAME")
        return _search(options, rest) if first == "search" else _watch(options, rest)
    found = registers.find(first)
    if options.decode is not None or options.define:
        if rest:
            raise RegisterError(f"--decode and --define touch no card; {' '.join(rest)!r} would write to one")
        value = None if options.decode is None else registers.number(options.decode)
        if options.json:
            _say(options, registers.define(found) if value is None else registers.document(found, value))
        else:
            screens.print_register(_console(), found, value)
        return 0
    registers.assignments(found.register, rest)
    hal = select(options.hal)
    with registers.opened(hal, card.choose(hal, options.device).address) as live:
        address = live[found.register.name].address
        changed = registers.change(live, found.register, rest) if rest else None
        value = changed.after if changed else live[found.register.name].read()
    if options.json:
        body = registers.document(found, value, address)
        _say(options, body | {"before": int(changed.before), "written": changed.written} if changed else body)
        return 0
    if changed:
        print(f"before:  {changed.before}\nwritten: {found.register.describe(changed.written)}")
    screens.print_register(_console(), found, value, address)
    return 0


def _vm(options: Options) -> int:
    """Exit status 1 where nothing is mapped there."""
    address = memory.number(options.address)
    if options.source:
        steps = load(options.source).walk(options.hub, options.vmid, address)
    else:
        hal = select(options.hal_name)
        with memory.live(hal, card.choose(hal, options.device).address, boot=options.boot) as live:
            steps = live.walk(options.hub, options.vmid, address)
    if options.json:
        _say(options, memory.document(steps, options.hub, options.vmid, address))
    else:
        screens.print_walk(_console(), steps, address)
    return int(not steps or not steps[-1].entry.valid)


def _search(options: Options, patterns: Sequence[str]) -> int:
    found = [each for pattern in patterns for each in registers.search(pattern)]
    if options.json:
        _say(options, {"registers": [registers.define(each) for each in found]})
    else:
        screens.print_registers(_console(), found)
    return 0


def _watch(options: Options, names: Sequence[str]) -> int:
    """A line for each change, until it is stopped or ``--count`` readings are done."""
    wanted = [registers.find(name) for name in names]
    hal = select(options.hal)
    last: dict[str, int] = {}
    with registers.opened(hal, card.choose(hal, options.device).address) as live:
        start, turn = time.monotonic(), 0
        while True:
            for found in wanted:
                value = live[found.register.name].read()
                if last.get(found.register.name) != value:
                    last[found.register.name] = int(value)
                    seconds = time.monotonic() - start
                    print(json.dumps({"seconds": round(seconds, 6), "name": found.register.name, "value": int(value),
                                      "decoded": value.fields()}) if options.json
                          else f"{seconds:10.3f}  {value}", flush=True)
            turn += 1
            if turn == options.count:
                return 0
            time.sleep(options.interval)


_COMMANDS: dict[str, Callable[[Options], int]] = {
    "list": _list, "show": _show, "doctor": _doctor, "bind": _bind, "unbind": _bind, "pm4": _packets,
    "sdma": _packets, "fw": _fw, "discovery": _discovery, "reg": _reg, "vm": _vm,
}


def _failed(error: AmdrvError, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"schema": card.SCHEMA, "error": {"type": type(error).__name__, "message": str(error)}},
                         indent=2))
    Console(stderr=True, highlight=False).print(Text("amdrv-info: ", "bold red").append(str(error), "not bold default"),
                                                soft_wrap=True)
    return 1


def _parser() -> argparse.ArgumentParser:
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help=f"one JSON object, schema {card.SCHEMA}")
    everywhere = argparse.ArgumentParser(add_help=False, parents=[as_json])
    everywhere.add_argument("--hal", metavar="NAME", help="how to reach the machine: auto, sysfs, vfio, mock, ...; "
                            "default: AMDRV_HAL, then auto")
    one_card = argparse.ArgumentParser(add_help=False, parents=[everywhere])
    one_card.add_argument("--device", default="0", metavar="CARD", help="index or PCI address (default: 0)")
    parser = argparse.ArgumentParser(prog="amdrv-info", description="Which AMD GPUs are there, what is one of them, "
                                     "and what do its packets, registers and files say. Looks, and changes nothing, "
                                     "unless told to boot, bind or write.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", parents=[everywhere], help="the cards that the HAL sees")
    one = commands.add_parser("show", parents=[one_card], help="one card: PCI, IP blocks, shape, firmware")
    one.add_argument("--boot", action="store_true", help="boot the card, to see what only a running one tells")
    reg = commands.add_parser("reg", parents=[one_card], help="registers by name: search, read, write, watch",
                              formatter_class=argparse.RawDescriptionHelpFormatter,
                              description="reg NAME                  read it, field by field\n"
                              "reg NAME FIELD=VALUE ...  read it, change fields, write it (or VALUE for all of it)\n"
                              "reg NAME --decode VALUE   what a value means; no card needed\n"
                              "reg NAME --define         where it is and its fields; no card needed\n"
                              "reg search PIECE ...      registers by a piece of the name or a pattern (CP_HQD_*)\n"
                              "reg watch NAME ...        a line whenever one of them changes")
    reg.add_argument("words", nargs="+", metavar="NAME", help="a register, then what to write; or search, or watch")
    reg.add_argument("--decode", metavar="VALUE", help="decode this value instead of reading a card")
    reg.add_argument("--define", action="store_true", help="only say what the register is")
    reg.add_argument("--interval", type=float, default=0.1, metavar="SECONDS", help="of watch (default: 0.1)")
    reg.add_argument("--count", type=int, default=0, metavar="N", help="of watch: stop after N readings")
    vm = commands.add_parser("vm", parents=[as_json], help="walk a card's page tables to an address, level by level")
    vm.add_argument("address", help="GPU virtual address, such as 0x7f0000001000")
    vm.add_argument("--hub", choices=("gc", "mm"), default="gc",
                    help="gc: shaders, command processors, copy engines (default); mm: PSP, SMU, interrupts")
    vm.add_argument("--vmid", type=int, default=8, help="0 to 15 (default: 8, where our queues run)")
    vm.add_argument("--from", dest="source", metavar="DUMP", help="a dump (umr's form, mock.dump) in a card's place")
    vm.add_argument("--hal", dest="hal_name", metavar="NAME", help="how to reach the machine")
    vm.add_argument("--device", default="0", metavar="CARD", help="index or PCI address (default: 0)")
    vm.add_argument("--boot", action="store_true", help="boot the card first")
    for engine, what in (("pm4", "command processors'"), ("sdma", "copy engines'")):
        dump = commands.add_parser(engine, parents=[as_json], help=f"decode a dump of {what} packets; no card needed")
        dump.add_argument("file", help="binary or hexadecimal words; - is standard input")
        dump.add_argument("--form", choices=("auto", "binary", "hex"), default="auto",
                          help="what the file is (default: seen from its bytes)")
    fw = commands.add_parser("fw", parents=[as_json], help="headers and payloads of firmware files; no card needed")
    fw.add_argument("file", nargs="+", help="such as gc_11_0_0_mec.bin, plain, .xz or .zst")
    table = commands.add_parser("discovery", parents=[as_json],
                                help="an IP discovery table from a file; no card needed")
    table.add_argument("file", help="the binary, or a dump of memory that holds it; - is standard input")
    commands.add_parser("doctor", parents=[everywhere],
                        help="what on this machine keeps a card from being driven, and what mends it")
    for name, text in (("bind", "give a card to vfio-pci, its audio function too"),
                       ("unbind", "give a card back to the drivers it had")):
        command = commands.add_parser(name, parents=[everywhere], help=text)
        command.add_argument("address", metavar="ADDRESS", help="PCI address, such as 0000:03:00.0")
    return parser


if __name__ == "__main__":
    sys.exit(main())
