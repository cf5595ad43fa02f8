"""The command ``amdrv-info``; see the package."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from amdrv.errors import AmdrvError
from amdrv.hal import select
from tools.amdrv_info import binding, card, doctor, screens

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 1 when a card could not be found, opened or read (the reason is on standard error)."""
    options = _parser().parse_args(argv)
    try:
        if options.command == "doctor":
            return _doctor(options.json)
        if options.command in ("bind", "unbind"):
            return _bind(options.command, options.address, options.json)
        hal = select(options.hal)
        if options.command == "list":
            functions = card.cards(hal)
            if options.json:
                print(json.dumps(card.list_document(hal, functions), indent=2))
            else:
                screens.print_cards(Console(highlight=False), hal.name, functions)
            return 0
        seen = card.show(hal, card.choose(hal, options.device), boot=options.boot)
    except AmdrvError as error:
        return _failed(error, options.json)
    if options.json:
        print(json.dumps(card.show_document(seen), indent=2))
    else:
        screens.print_card(Console(highlight=False), seen)
    return _failed(seen.error, False) if seen.error else 0


def _doctor(as_json: bool) -> int:
    """Exit status 1 when something keeps a card from being driven."""
    host = doctor.Host()
    doctor.require_linux(host)
    findings = doctor.examine(host, doctor.firmware_directories())
    if as_json:
        print(json.dumps(doctor.document(findings, card.SCHEMA), indent=2))
    else:
        screens.print_findings(Console(highlight=False), findings)
    return int(any(f.state == "bad" for f in findings))


def _bind(command: str, address: str, as_json: bool) -> int:
    drivers = binding.give(address) if command == "bind" else binding.give_back(address)
    if as_json:
        print(json.dumps({"schema": card.SCHEMA, command: drivers}, indent=2))
        return 0
    for function, driver in drivers.items():
        if command == "bind":
            print(f"{function}: {driver or 'no driver'} -> vfio-pci")
        else:
            print(f"{function}: -> {driver or 'no driver'}")
    if command == "bind":
        print(f"undo: amdrv-info unbind {address}")
    return 0


def _failed(error: AmdrvError, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"schema": card.SCHEMA, "error": {"type": type(error).__name__, "message": str(error)}},
                         indent=2))
    Console(stderr=True, highlight=False).print(Text("amdrv-info: ", "bold red").append(str(error), "not bold default"),
                                                soft_wrap=True)
    return 1


def _parser() -> argparse.ArgumentParser:
    everywhere = argparse.ArgumentParser(add_help=False)
    everywhere.add_argument("--hal", metavar="NAME", help="how to reach the machine: auto, sysfs, vfio, mock, ...; "
                            "default: AMDRV_HAL, then auto")
    everywhere.add_argument("--json", action="store_true", help=f"one JSON object, schema {card.SCHEMA}")
    parser = argparse.ArgumentParser(prog="amdrv-info", description="Which AMD GPUs are there, and what is one of "
                                     "them. Looks, and changes nothing, unless told to boot.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", parents=[everywhere], help="the cards that the HAL sees")
    one = commands.add_parser("show", parents=[everywhere], help="one card: PCI, IP blocks, shape, firmware")
    one.add_argument("--device", default="0", metavar="CARD", help="index or PCI address (default: 0)")
    one.add_argument("--boot", action="store_true", help="boot the card, to see what only a running one tells")
    commands.add_parser("doctor", parents=[everywhere],
                        help="what on this machine keeps a card from being driven, and what mends it")
    for name, text in (("bind", "give a card to vfio-pci, its audio function too"),
                       ("unbind", "give a card back to the drivers it had")):
        command = commands.add_parser(name, parents=[everywhere], help=text)
        command.add_argument("address", metavar="ADDRESS", help="PCI address, such as 0000:03:00.0")
    return parser


if __name__ == "__main__":
    sys.exit(main())
