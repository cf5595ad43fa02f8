"""The command ``amdrv``: what must go on running while drivers come and go."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from amdrv.errors import AmdrvError
from tools.piped import piped

__all__ = ["main"]


@piped
def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 1 when the card cannot be held (the reason is on standard error)."""
    parser = argparse.ArgumentParser(prog="amdrv", description="Drive an AMD GPU from user space; see also amdrv-info.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    hold = commands.add_parser("hold", help="keep a card open, so that each driver process finds it warm",
                               description="vfio-pci resets a card whenever it is opened anew. A holder keeps it open "
                               "and hands it to one process at a time (AMDRV_HAL=vfio finds the holder by itself); the "
                               "next process boots it warm. Stop it with Ctrl-C.")
    hold.add_argument("address", metavar="ADDRESS", help="PCI address, such as 0000:03:00.0; bound to vfio-pci")
    hold.add_argument("--mode", choices=("iommufd", "type1", "noiommu"), help="default: the best that is there")
    options = parser.parse_args(argv)
    try:
        return _hold(options.address, options.mode)
    except AmdrvError as error:
        print(f"amdrv hold: {error}", file=sys.stderr)
        return 1


def _hold(address: str, mode: str | None) -> int:
    from amdrv.hal import select
    hal = select(f"vfio:{mode}" if mode else "vfio")
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda which, _: stopped.append(which))
    with hal.hold(address, say=lambda text: print(text, flush=True)) as holder:     # type: ignore[attr-defined]
        print(f"{address}: held by {holder.mode} on {holder.socket}", flush=True)
        holder.serve(lambda: bool(stopped))
    print(f"{address}: let go", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
