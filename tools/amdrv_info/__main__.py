"""The command ``amdrv-info``; see the package."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from rich.console import Console
from rich.text import Text

from amdrv.errors import AmdrvError, RegisterError
from hcq.errors import HcqError
from tools.amdrv_info import binding, card, doctor, dumps, looks, registers, schema, screens, window
from tools.amdrv_info.looks import archive, dump_of, opened
from tools.amdrv_info.looks import say as _say
from tools.amdrv_info.source import looking_hal
from tools.piped import piped

__all__ = ["main"]

Options = argparse.Namespace


@piped
def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 1 when something could not be found, opened or read (the reason is on standard error)."""
    options = _parser().parse_args(argv)
    try:
        return int(_COMMANDS[options.command](options))
    except (AmdrvError, HcqError) as error:
        return _failed(error, options.json)
    except KeyboardInterrupt:
        return 130


def _list(options: Options) -> int:
    if options.source:
        document = archive(options).document("list")
    else:
        hal = looking_hal(options.hal)
        document = card.list_document(hal, card.cards(hal))
    if options.json:
        print(json.dumps(document, indent=2))
    else:
        screens.print_cards(screens.console(), document["hal"], [card.function_of(each) for each in document["cards"]])
    return 0


def _show(options: Options) -> int:
    if options.source:
        seen = card.of_document(archive(options).document("show"))
    else:
        hal = looking_hal(options.hal)
        seen = card.show(hal, card.choose(hal, options.device), boot=options.boot)
    if options.json:
        print(json.dumps(card.show_document(seen), indent=2))
    else:
        screens.print_card(screens.console(), seen)
    return _failed(seen.error, False) if seen.error else 0


def _doctor(options: Options) -> int:
    """Exit status 1 when something keeps a card from being driven."""
    if options.source:
        findings = [doctor.Finding(**each) for each in archive(options).document("doctor")["doctor"]]
    else:
        host = doctor.Host()
        doctor.require_linux(host)
        findings = doctor.examine(host, doctor.firmware_directories())
    if options.json:
        _say(options, dict(doctor.document(findings, card.SCHEMA)))
    else:
        screens.print_findings(screens.console(), findings)
    return int(any(f.state == "bad" for f in findings))


def _bind(options: Options) -> int:
    give = options.command == "bind"
    to = options.driver if give else ""
    drivers = binding.give(options.address, to) if give else binding.give_back(options.address)
    if options.json:
        _say(options, {options.command: drivers})
        return 0
    for function, driver in drivers.items():
        now = ("no driver" if to == binding.NO_DRIVER else to) if give else driver or "no driver"
        print(f"{function}: {driver or 'no driver'} -> {now}" if give else f"{function}: -> {now}")
    if give:
        print(f"undo: amdrv-info unbind {options.address}")
    return 0


def _resize(options: Options) -> int:
    size = window.parse(options.size) if options.size else None
    before, after = window.grow(options.address, size)
    if options.json:
        _say(options, {"address": options.address, "before": before, "after": after})
    else:
        print(f"{options.address}: BAR 0 was {before >> 20} MiB, is {after >> 20} MiB")
    return 0


def _packets(options: Options) -> int:
    """Exit status 1 when a packet was not understood."""
    if options.source:
        words = _ring_words(options)
    else:
        words = dumps.words_of(_needed(options.file), dumps.read_bytes(options.file), options.form)
    packets = dumps.decode(options.command, words)
    if options.json:
        _say(options, {"file": options.file, "packets": [dumps.packet_document(packet) for packet in packets]})
    else:
        screens.print_packets(screens.console(), packets)
    return int(any(packet.problem for packet in packets))


def _needed(file: str | None) -> str:
    if file is None:
        raise AmdrvError("which file? give its name, - for standard input, or --from REPORT")
    return file


def _ring_words(options: Options) -> list[int]:
    """Every packet that a report has of the rings of an engine, or of the one that is named."""
    rings = archive(options).document("ring")["rings"]
    mine = [ring for ring in rings if (ring["engine"] == "sdma") == (options.command == "sdma")]
    wanted = (options.file or "").lower().replace(" ", "")
    chosen = [ring for ring in mine if ring["name"].lower().replace(" ", "").startswith(wanted)]
    if not chosen:
        raise AmdrvError(f"{options.source}: has no ring {options.file or options.command!r}; it has "
                         + (", ".join(ring["name"] for ring in rings) or "none"))
    return [word for ring in chosen for packet in ring["packets"] for word in packet["words"]]


def _fw(options: Options) -> int:
    """Every file is looked at; exit status 1 when one of them is damaged."""
    if options.source:
        return _fw_of_report(options)
    if not options.file:
        _needed(None)
    files: list[dict[str, Any]] = []
    for path in options.file:
        try:
            files.append(dumps.firmware_document(path))
            if not options.json:
                screens.print_firmware(screens.console(), files[-1])
        except AmdrvError as error:
            files.append({"path": path, "error": {"type": type(error).__name__, "message": str(error)}})
            _failed(error, False)
    if options.json:
        _say(options, {"files": files})
    return int(any("error" in file for file in files))


def _fw_of_report(options: Options) -> int:
    files = archive(options).document("fw")["files"]
    wanted = [file for file in files if not options.file or any(name in file["path"] for name in options.file)]
    if not wanted:
        raise AmdrvError(f"{options.source}: has no firmware file {', '.join(options.file)}; it has "
                         + ", ".join(os.path.basename(file["path"]) for file in files))
    if options.json:
        _say(options, {"files": wanted})
        return int(any("error" in file for file in wanted))
    for file in wanted:
        if "error" in file:
            print(f"{file['path']}: {file['error']['message']}")
        else:
            screens.print_firmware(screens.console(), file)
    return int(any("error" in file for file in wanted))


def _discovery(options: Options) -> int:
    if options.source:
        options.file = options.source
        table = dumps.parse_discovery(archive(options).bytes_of("discovery.bin"))
    else:
        table = dumps.read_discovery(_needed(options.file))
    if options.json:
        _say(options, {"file": options.file} | dumps.discovery_document(table))
    else:
        screens.print_discovery(screens.console(), table)
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
            screens.print_register(screens.console(), found, value)
        return 0
    registers.assignments(found.register, rest)
    if options.source:
        return _reg_of_dump(options, found, rest)
    with opened(options, selectors=bool(rest), core=_of_core(found)) as source:
        live = source.registers
        address = live[found.register.name].address
        changed = registers.change(live, found.register, rest) if rest else None
        value = changed.after if changed else live[found.register.name].read()
    if options.json:
        body = registers.document(found, value, address)
        _say(options, body | {"before": int(changed.before), "written": changed.written} if changed else body)
        return 0
    if changed:
        print(f"before:  {changed.before}\nwritten: {found.register.describe(changed.written)}")
    screens.print_register(screens.console(), found, value, address)
    return 0


def _of_core(found: registers.Found) -> bool:
    """Does the register lose its power with the graphics core?"""
    return found.table.name.startswith("gc_")


def _reg_of_dump(options: Options, found: registers.Found, rest: Sequence[str]) -> int:
    """A register as it was. :raises RegisterError: it is to be written, or nobody read it then."""
    if rest:
        raise RegisterError(f"{options.source} is a file: {' '.join(rest)!r} can be written to a card only")
    dump = dump_of(options)
    if not dump.names(found.register.name):
        raise RegisterError(f"{options.source}: has no value of {found.register.name}: it was not read, because "
                            "reading changes it, its block was off, or whoever made the file left it out")
    value = dump.register(found.register.name)
    if options.json:
        _say(options, registers.document(found, int(value)))
    else:
        screens.print_register(screens.console(), found, int(value))
    return 0


def _search(options: Options, patterns: Sequence[str]) -> int:
    found = [each for pattern in patterns for each in registers.search(pattern)]
    if options.json:
        _say(options, {"registers": [registers.define(each) for each in found]})
    else:
        screens.print_registers(screens.console(), found)
    return 0


def _watch(options: Options, names: Sequence[str]) -> int:
    """A line for each change, until it is stopped or ``--count`` readings are done."""
    wanted = [registers.find(name) for name in names]
    if options.source:
        raise RegisterError(f"{options.source} is a file: nothing in it changes; watch a card")
    if options.interval < 0:
        raise RegisterError(f"--interval {options.interval:g} is no time")
    last: dict[str, int] = {}
    with opened(options, core=any(map(_of_core, wanted))) as source:
        live = source.registers
        start, turn = time.monotonic(), 0
        while True:
            for found in wanted:
                value = live[found.register.name].read()
                if last.get(found.register.name) != value:
                    last[found.register.name] = int(value)
                    seconds = time.monotonic() - start
                    print(json.dumps({"schema": card.SCHEMA, "command": "reg",
                                      "seconds": round(seconds, 6), "name": found.register.name, "value": int(value),
                                      "decoded": value.fields()}) if options.json
                          else f"{seconds:10.3f}  {value}", flush=True)
            turn += 1
            if turn == options.count:
                return 0
            time.sleep(options.interval)


def _schema(options: Options) -> int:
    """The description of every --json document, as JSON Schema."""
    print(json.dumps(schema.load(), indent=2))
    return 0


_COMMANDS: dict[str, Callable[[Options], int]] = {
    "list": _list, "show": _show, "doctor": _doctor, "bind": _bind, "unbind": _bind, "resize": _resize,
    "pm4": _packets, "sdma": _packets, "fw": _fw, "discovery": _discovery, "reg": _reg, "schema": _schema,
    **looks.COMMANDS,
}


def _failed(error: AmdrvError | HcqError, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"schema": card.SCHEMA, "error": {"type": type(error).__name__, "message": str(error)}},
                         indent=2))
    Console(stderr=True, highlight=False).print(Text("amdrv-info: ", "bold red").append(str(error), "not bold default"),
                                                soft_wrap=True)
    return 1


class _Parser(argparse.ArgumentParser):
    """With a guess at what was meant."""

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if wrong:
            known = [word.strip(" '") for word in wrong[2].split(",")]
            close = difflib.get_close_matches(wrong[1], known, 1, 0.5)
            message = f"there is no {wrong[1]!r}" + (f"; did you mean {close[0]}?" if close else
                                                   f"; there are {', '.join(known)}")
        elif message.startswith("unrecognized arguments: "):
            word = message.removeprefix("unrecognized arguments: ").split()[0]
            known = [option for action in self._actions for option in action.option_strings]
            known += [option for action in self._actions if isinstance(action, argparse._SubParsersAction)
                      for each in action.choices.values() for inner in each._actions for option in inner.option_strings]
            close = difflib.get_close_matches(word.partition("=")[0], known, 1, 0.6)
            message += f"; did you mean {close[0]}?" if close else ""
        super().error(message)


def _parser() -> argparse.ArgumentParser:
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help=f"one JSON object, schema {card.SCHEMA} "
                         "(described by: amdrv-info schema)")
    as_json.add_argument("--from", dest="source", metavar="FILE", help="out of a report (amdrv-info report), in the "
                         "place of a card")
    everywhere = argparse.ArgumentParser(add_help=False, parents=[as_json])
    everywhere.add_argument("--hal", metavar="NAME", help="how to reach the machine: auto, sysfs, vfio, mock, ...; "
                            "default: AMDRV_HAL, then auto")
    one_card = argparse.ArgumentParser(add_help=False, parents=[everywhere])
    one_card.add_argument("--device", default="0", metavar="CARD", help="index or PCI address (default: 0)")
    parser = _Parser(prog="amdrv-info", description="Which AMD GPUs are there, what is one of them, "
                                     "and what do its packets, registers and files say. Looks, and changes nothing, "
                                     "unless told to boot, bind or write.")
    commands: Any = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
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
    reg.add_argument("--boot", action="store_true", help="boot the card first, and shut it down afterwards")
    reg.add_argument("--select", action="store_true", help="write to a card that somebody else drives")
    reg.add_argument("--wake", action="store_true",
                     help="of a card that amdgpu drives: keep the graphics core powered meanwhile")
    reg.add_argument("--decode", metavar="VALUE", help="decode this value instead of reading a card")
    reg.add_argument("--define", action="store_true", help="only say what the register is")
    reg.add_argument("--interval", type=float, default=0.1, metavar="SECONDS", help="of watch (default: 0.1)")
    reg.add_argument("--count", type=int, default=0, metavar="N", help="of watch: stop after N readings")
    looks.add_parsers(commands, one_card)
    for engine, what in (("pm4", "command processors'"), ("sdma", "copy engines'")):
        dump = commands.add_parser(engine, parents=[as_json], help=f"decode a dump of {what} packets; no card needed")
        dump.add_argument("file", nargs="?",
                          help="binary or hexadecimal words, - is standard input; with --from: a queue")
        dump.add_argument("--form", choices=("auto", "binary", "hex"), default="auto",
                          help="what the file is (default: seen from its bytes)")
    fw = commands.add_parser("fw", parents=[as_json], help="headers and payloads of firmware files; no card needed")
    fw.add_argument("file", nargs="*", help="such as gc_11_0_0_mec.bin, plain, .xz or .zst")
    table = commands.add_parser("discovery", parents=[as_json],
                                help="an IP discovery table from a file; no card needed")
    table.add_argument("file", nargs="?", help="the binary, or a dump of memory that holds it; - is standard input")
    commands.add_parser("schema", parents=[as_json], help="the JSON Schema of every --json document")
    commands.add_parser("doctor", parents=[everywhere],
                        help="what on this machine keeps a card from being driven, and what mends it")
    for name, text in (("bind", "give a card to vfio-pci, its audio function too"),
                       ("unbind", "give a card back to the drivers it had"),
                       ("resize", "make a card's VRAM window (BAR 0) as large as it can be, or SIZE")):
        command = commands.add_parser(name, parents=[everywhere], help=text)
        command.add_argument("address", metavar="ADDRESS", help="PCI address, such as 0000:03:00.0")
        if name == "bind":
            command.add_argument("--driver", default="vfio-pci", choices=("vfio-pci", binding.NO_DRIVER),
                                 help="none: take this function alone from its driver, for AMDRV_HAL=sysfs")
        if name == "resize":
            command.add_argument("size", nargs="?", metavar="SIZE", help="such as 16G; default: the largest that works")
    for choice in commands._choices_actions:        # each command's own --help begins with what it is for
        command = commands.choices[choice.dest]
        command.description = command.description or f"{choice.help[0].upper()}{choice.help[1:]}."
    return parser


if __name__ == "__main__":
    sys.exit(main())
