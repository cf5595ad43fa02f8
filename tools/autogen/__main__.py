"""``python -m tools.autogen --linux DIR --mesa DIR [--check] [--only NAME]``: write or compare the generated files."""

from __future__ import annotations

import argparse
import difflib
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.autogen import GENERATORS, SourceError, Sources
from tools.fetch_sources import locate

__all__ = ["main"]

REPOSITORY = Path(__file__).resolve().parents[2]
DIFF_LINES = 20


def main(argv: Sequence[str] | None = None, *, root: Path = REPOSITORY) -> int:
    """Exit status: 0 written or equal, 1 ``--check`` found a difference, 2 a source is missing."""
    parser = argparse.ArgumentParser(prog="python -m tools.autogen", description="Make register tables, packets and "
                                     "structures from AMD's headers in a Linux tree and from Mesa's register data. A "
                                     "tree that is not named is the one of AMDRV_LINUX_SOURCE, AMDRV_MESA_SOURCE or "
                                     "AMDRV_UAPI_SOURCE, or what tools.fetch_sources fetched.")
    parser.add_argument("--linux", type=Path, metavar="DIR", default=locate("linux"), help="Linux source tree")
    parser.add_argument("--mesa", type=Path, metavar="DIR", default=locate("mesa"), help="Mesa source tree")
    parser.add_argument("--uapi", type=Path, metavar="DIR", default=locate("uapi"),
                        help="uapi headers of Linux 6.12 or newer")
    parser.add_argument("--check", action="store_true", help="compare with the committed files byte for byte")
    parser.add_argument("--only", action="append", choices=GENERATORS, metavar="NAME",
                        help=f"run one generator (may be repeated): {', '.join(GENERATORS)}")
    options = parser.parse_args(argv)
    sources = Sources(options.linux, options.mesa, options.uapi)
    differences = 0
    for name in options.only or GENERATORS:
        try:
            files: dict[str, bytes] = importlib.import_module(f"tools.autogen.{name}").generate(sources)
        except SourceError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 2
        for path, content in files.items():
            target = root / path
            if not options.check:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
                print(f"{name}: wrote {path} ({len(content)} bytes)")
            elif not target.is_file():
                differences += 1
                print(f"{name}: {path} is not there", file=sys.stderr)
            elif target.read_bytes() != content:
                differences += 1
                print(f"{name}: {path} differs from what the sources give:", file=sys.stderr)
                diff = difflib.unified_diff(target.read_text().splitlines(), content.decode().splitlines(),
                                            "committed", "generated", lineterm="", n=0)
                for line, _ in zip(diff, range(DIFF_LINES), strict=False):
                    print("  " + line[:200], file=sys.stderr)
    if options.check:
        print("autogen: " + (f"{differences} files differ" if differences else "every file is as the sources give it"))
    return 1 if differences else 0


if __name__ == "__main__":
    from tools.piped import piped
    sys.exit(piped(main)())
