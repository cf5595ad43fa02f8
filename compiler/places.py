"""Which line of the user's program made a node.

A tensor operation notes the innermost frame that is not ours: the code object, the instruction in it, and which method
of ours it called. Line numbers, names and source text are looked up only when somebody asks: an exception that comes
late (:func:`point`), ``DEBUG``, ``VIZ``. The note lies in a slot of the node and goes when the node goes. Nodes are
hash-consed: where two lines make the same node while both are alive, the first has it.
"""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compiler.uop import UOp

__all__ = ["Place", "below", "called", "fill", "line_of", "located", "mark", "point", "source_of", "text_of"]

Place = tuple[CodeType, int, CodeType]
"""The user's code, the instruction in it (``f_lasti``), and what of ours it called."""

_SHOWN = 4              # lines that one exception names
_LOOKED_AT = 2000       # nodes that are searched for them

_MODELS = ("models", "bench")           # written as a user would
_BETWEEN = ("wrapped", "call", "__call__")      # decorators of ours, and calls of modules: what they call says more

_ours: dict[str, bool] = {}     # by file name


def _learn(file: str) -> bool:
    """Is a file of the compiler, or of Python's library (which may stand between: contextlib, functools)?"""
    library, here = os.path.dirname(os.__file__), os.path.dirname(__file__) + os.sep
    full = os.path.abspath(file)
    if full.startswith(here):
        found = full[len(here):].partition(os.sep)[0] not in _MODELS
    else:
        found = file.startswith("<frozen ") or (
            full.startswith(library + os.sep) and "-packages" not in full[len(library):])
    _ours[file] = found
    return found


def mark(node: UOp) -> None:
    """Note the place that called the method that calls this, at a node that has none; not at leaves, which everybody
    shares."""
    if node.place is not None or not node.src:
        return
    frame: FrameType | None = sys._getframe(1)
    inner = None
    while frame is not None:        # half a microsecond a tensor operation: measure before you change it
        code = frame.f_code
        ours = _ours.get(code.co_filename)
        if ours is None:
            ours = _learn(code.co_filename)
        if not ours:
            if inner is not None:
                node.place = code, frame.f_lasti, inner
            return
        if code.co_name not in _BETWEEN:
            inner = code
        frame = frame.f_back


def line_of(place: Place) -> int:
    """Its number in the file."""
    code, at, _ = place
    for start, end, line in code.co_lines():
        if line is not None and start <= at < end:
            return line
    return code.co_firstlineno


def file_of(place: Place) -> str:
    """As short as it can be from here: relative below the current directory."""
    file = place[0].co_filename
    try:
        short = os.path.relpath(file)
    except (ValueError, OSError):       # another drive; a directory that is gone
        return file
    return file if file.startswith("<") or short.startswith(os.pardir) else short


def source_of(place: Place) -> str:
    """The line's text, or nothing."""
    return linecache.getline(place[0].co_filename, line_of(place)).strip()


def called(place: Place) -> str:
    """The method of ours that the line called, by the name that the user knows: ``softmax``, ``matmul``."""
    name = place[2].co_qualname
    owner, _, method = name.rpartition(".")
    if method in ("__init__", "__call__", "forward"):
        return owner.rpartition(".")[2].strip("_") or method
    return method.strip("_") or method


def located(place: Place) -> str:
    """``file.py:12``"""
    return f"{file_of(place)}:{line_of(place)}"


def text_of(place: Place) -> str:
    """``file.py:12: in name: the line``"""
    name = place[0].co_name
    return f"{located(place)}: in {name}: {source_of(place) or called(place)}"


def below(roots: Iterable[UOp], stop: Callable[[UOp], bool] = lambda n: False) -> Iterator[Place]:
    """The places of nodes, nearest to the roots first, each line once for each method that it called. Nodes where
    ``stop`` holds are not entered."""
    seen: set[UOp] = set()
    lines: set[tuple[CodeType, int, CodeType]] = set()
    front = list(roots)
    first = set(front)
    while front and len(seen) < _LOOKED_AT:
        after: list[UOp] = []
        for node in front:
            if node in seen or (stop(node) and node not in first):
                continue
            seen.add(node)
            if node.place is not None and (
                    key := (node.place[0], line_of(node.place), node.place[2])) not in lines:
                lines.add(key)
                yield node.place
            after += node.src
        front = after


def fill(roots: Iterable[UOp]) -> None:
    """Give nodes that a method made on its way the place of what it made of them."""
    seen: set[UOp] = set()
    for root in roots:
        order = root.toposort(lambda n: n.place is None or n not in seen)
        seen.update(order)
        for node in reversed(order):
            if node.place is not None:
                for s in node.src:
                    if s.place is None and s.src:
                        s.place = node.place


def point(error: BaseException, places: Iterable[Place], what: str = "what failed") -> None:
    """Add the user's lines to an exception, as a note: ``file.py:12: in name: y = x.sqrt()``. Once an exception."""
    if getattr(error, "__notes__", None) and any(n.startswith("made by your line") for n in error.__notes__):
        return
    lines = list(dict.fromkeys(text_of(p) for p in places))[:_SHOWN]
    if lines:
        error.add_note("\n  ".join([f"made by your line{'s' if len(lines) > 1 else ''} ({what}):", *lines]))
