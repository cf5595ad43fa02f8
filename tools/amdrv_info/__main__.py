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
from tools.amdrv_info import card, screens

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 1 when a card could not be found, opened or read (the reason is on standard error)."""
    options = _parser().parse_args(argv)
    try:
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
    commands = parser.add_subparsers(dest="command", required=True, metavar="list | show")
    commands.add_parser("list", parents=[everywhere], help="the cards that the HAL sees")
    one = commands.add_parser("show", parents=[everywhere], help="one card: PCI, IP blocks, shape, firmware")
    one.add_argument("--device", default="0", metavar="CARD", help="index or PCI address (default: 0)")
    one.add_argument("--boot", action="store_true", help="boot the card, to see what only a running one tells")
    return parser


if __name__ == "__main__":
    sys.exit(main())
