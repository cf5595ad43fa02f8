"""The page: one file with everything in it, and the recording inside, compressed."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
import zlib
from importlib.resources import files
from pathlib import Path
from typing import Any

from compiler.viz.recording import FORMAT, VERSION

__all__ = ["RecordingError", "page", "read"]

_SCRIPTS = ("data.js", "layout.js", "graph.js", "timeline.js", "listing.js", "app.js")
_MARK = re.compile(r'<script type="application/gzip" id="recording">([A-Za-z0-9+/=\s]*)</script>')
_MOST = 1 << 30         # bytes that a recording may unpack to


class RecordingError(ValueError):
    """A file that is no recording of ours."""


def page(recording: str) -> str:
    """The HTML for a recording as JSON."""
    here = files("compiler.viz") / "page"
    text = {name: (here / name).read_text(encoding="utf-8") for name in ("page.html", "style.css", *_SCRIPTS)}
    packed = base64.b64encode(gzip.compress(recording.encode(), 6, mtime=0)).decode()
    title = html.escape(str(json.loads(recording).get("program", "")))
    return text["page.html"].replace("<!--title-->", title).replace("/*style*/", text["style.css"]).replace(
        "/*scripts*/", "\n".join(text[name] for name in _SCRIPTS)).replace("<!--recording-->", packed)


def read(path: str) -> dict[str, Any]:
    """A recording from a file that ``VIZ`` wrote: a page, or JSON.

    :raises RecordingError: where the file is neither, or damaged.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise RecordingError(f"{path} cannot be read: {error.strerror}") from error
    try:
        text = data.decode("utf-8")
        if (found := _MARK.search(text)) is not None:
            unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
            unpacked = unpacker.decompress(base64.b64decode(found[1], validate=True), _MOST)
            if not unpacker.eof:
                raise RecordingError(f"{path}: the recording in this page is cut off, or over {_MOST >> 20} MiB")
            text = unpacked.decode("utf-8")
        recording = json.loads(text)
    except RecordingError:
        raise
    except (ValueError, zlib.error, RecursionError) as error:
        raise RecordingError(f"{path} is no recording of VIZ, neither a page nor JSON: {error}") from error
    check(recording, path)
    return recording        # type: ignore[no-any-return]


class _In:
    """The number of an entry of a table; -1 is none, where ``none`` says so."""

    def __init__(self, table: str, none: bool = False) -> None:
        self.table, self.least = table, -1 if none else 0


_NUMBER = (int, float)
_FORM: dict[str, Any] = {
    "program": str, "python": str, "started": str, "limits": {str: int}, "left_out": {str: int}, "notes": [str],
    "uncertainty": _NUMBER,
    "nodes": [(str, str, str, [(int, str)], [_In("nodes")], _In("places", none=True))],
    "places": [{"file": str, "line": int, "called": str, "name": str, "text": str}],
    "rules": [{"name": str, "file": str, "line": int, "text": str}],
    "passes": [{"name": str, "path": [str], "before": _In("nodes"), "after": _In("nodes"), "cut": int,
                "steps": [(_In("nodes"), _In("nodes"), _In("rules"))]}],
    "schedules": [{"device": str, "graph": _In("nodes", none=True), "passes": [_In("passes")], "wanted": int,
                   "error": str, "roots": [int], "buffers": [{"made": bool, "device": str, "dtype": str, "size": str}],
                   "items": [{"kind": str, "reads": [int], "writes": [int], "name": str, "device": str,
                              "sink": _In("nodes", none=True), "kernel": _In("kernels", none=True),
                              "places": [_In("places", none=True)]}]}],
    "kernels": [{"name": str, "label": str, "device": str, "target": str, "by": str, "error": str, "uops": str,
                 "ir": str, "asm": str, "sink": _In("nodes", none=True), "legal": _In("nodes", none=True),
                 "passes": [_In("passes")], "choices": [str], "grid": [int], "block": [int], "gpu": bool,
                 "outer": int, "bytes": int, "places": [_In("places", none=True)]}],
    "spans": [(str, str, _NUMBER, _NUMBER, str, _In("kernels", none=True), {str: (int, float, str)})],
}
"""What a recording is made of: a type, several, a list of, a row of fixed parts, fields by name, or entries of a
table."""


def _wrong(value: Any, form: Any, data: dict[str, Any], where: str) -> str:
    """Where a value is not of its form, and empty if it is."""
    if isinstance(form, _In):
        fits = isinstance(value, int) and not isinstance(value, bool) and form.least <= value < len(data[form.table])
        return "" if fits else f"{where} is {value!r:.60}, which is no entry of {form.table}"
    if isinstance(form, list):
        if not isinstance(value, list):
            return f"{where} is {value!r:.60}, which is no list"
        return next((w for n, v in enumerate(value) if (w := _wrong(v, form[0], data, f"{where}[{n}]"))), "")
    if isinstance(form, dict):
        if not isinstance(value, dict):
            return f"{where} is {value!r:.60}, which has no fields"
        if str in form:
            return next((w for k, v in value.items() if (w := _wrong(v, form[str], data, f"{where}.{k}"))), "")
        missing = form.keys() - value.keys()
        return f"{where} lacks {min(missing)!r}" if missing else next(
            (w for k, f in form.items() if (w := _wrong(value[k], f, data, f"{where}.{k}"))), "")
    if isinstance(form, tuple) and not all(isinstance(f, type) for f in form):
        if not isinstance(value, list) or len(value) != len(form):
            return f"{where} is {value!r:.60}, which is no row of {len(form)}"
        return next((w for n, (v, f) in enumerate(zip(value, form, strict=True))
                     if (w := _wrong(v, f, data, f"{where}[{n}]"))), "")
    fits = isinstance(value, form) and (form is bool or not isinstance(value, bool))
    return "" if fits else f"{where} is {value!r:.60}"


def check(recording: Any, name: str) -> None:
    """:raises RecordingError: for data that the page could not draw."""
    if not isinstance(recording, dict) or recording.get("format") != FORMAT:
        raise RecordingError(f"{name} is no recording of VIZ: write one with VIZ=out.html or VIZ=out.json")
    if recording.get("version") != VERSION:
        raise RecordingError(f"{name} is a recording of version {recording.get('version')!r}, this reads {VERSION}: "
                             "record again")
    for key, form in _FORM.items():     # the tables are there before their entries are looked for
        if isinstance(form, list) and not isinstance(recording.get(key), list):
            raise RecordingError(f"{name}: the recording is damaged: it has no table {key!r}")
    wrong = _wrong(recording, _FORM, recording, "the recording")
    if not wrong:
        wrong = next((f"node {n} has a source that comes after it" for n, node in enumerate(recording["nodes"])
                      if any(s >= n for s in node[4])), "")
    if not wrong:
        wrong = next((f"schedule {n} names a buffer that is not there" for n, s in enumerate(recording["schedules"])
                      for i in s["items"] if not all(0 <= b < len(s["buffers"]) for b in i["reads"] + i["writes"])), "")
    if wrong:
        raise RecordingError(f"{name}: the recording is damaged: {wrong}")
