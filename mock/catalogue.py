"""The tables of docs/mock.md: strict rules and faults, as the code knows them.

    python -m mock.catalogue            # prints them
    python -m mock.catalogue --write    # puts them into docs/mock.md, between its marks

A test holds the page against this, so whoever adds a rule or a fault runs it.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["faults", "main", "page", "rules"]

PAGE = Path(__file__).parent.parent / "docs" / "mock.md"


def rules() -> str:
    """A Markdown table of :data:`mock.rules.RULES`."""
    from mock.rules import RULES
    lines = ["| rule | what silicon does | source |", "|---|---|---|"]
    return "\n".join(lines + [f"| `{name}` | {rule.text} | {rule.source} |" for name, rule in RULES.items()])


def faults() -> str:
    """A Markdown table of :data:`mock.faults.KINDS`, which every module adds to."""
    import mock
    from mock.faults import KINDS
    for module in pkgutil.iter_modules(mock.__path__):
        if not module.ispkg:
            importlib.import_module(f"mock.{module.name}")
    lines = ["| fault | what happens | settings |", "|---|---|---|"]
    for kind, (what, settings) in sorted(KINDS.items()):
        lines.append(f"| `{kind}` | {what} | {', '.join(f'`{name}`' for name in sorted(settings)) or '-'} |")
    return "\n".join(lines)


def page(text: str) -> str:
    """A page with its tables made anew: what stands between ``<!-- rules -->`` and ``<!-- end -->``, and likewise for
    faults. :raises ValueError: a mark is missing."""
    for name, table in (("rules", rules()), ("faults", faults())):
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.S)
        match = pattern.search(text)
        if match is None:
            raise ValueError(f"the page has no <!-- {name} --> ... <!-- end -->")
        text = f"{text[:match.start()]}{match[1]}{table}\n{match[2]}{text[match.end():]}"
    return text


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments not in ([], ["--write"]):
        print("usage: python -m mock.catalogue [--write]\nThe tables of docs/mock.md, printed or put there.",
              file=sys.stderr)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    if arguments:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(rules(), faults(), sep="\n\n")
    return 0


if __name__ == "__main__":
    from tools.piped import piped
    sys.exit(piped(main)())
