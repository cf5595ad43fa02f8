"""What is made of a trace: lines, a summary, the difference of two, a timeline."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mock.trace.events import ACCESSES, DRIVER, REGISTER, Event, TraceFile

__all__ = ["Filter", "diff", "document", "lines", "summary", "timeline"]

COMPARED = 20_000
"""Lines of a track that are aligned with each other; of longer ones only the first difference is told."""
CONTEXT = 3


@dataclass(frozen=True)
class Filter:
    """Which events: all that every part that is not None lets through."""

    kinds: frozenset[str] | None = None
    register: str | None = None         # shell pattern
    track: str | None = None            # shell pattern: an engine, "driver", "gc hub", ...
    card: int | None = None
    first: float | None = None          # seconds
    last: float | None = None
    grep: re.Pattern[str] | None = None

    def __call__(self, file: TraceFile, event: Event) -> bool:
        if (self.kinds is not None and event.kind not in self.kinds) or self.card not in (None, event.card):
            return False
        if (self.first is not None and event.time < self.first * 1e9) \
                or (self.last is not None and event.time > self.last * 1e9):
            return False
        if self.register is not None and (event.kind not in REGISTER
                                          or not fnmatch.fnmatch(file.register(event), self.register)):
            return False
        if self.track is not None and not fnmatch.fnmatch(event.track, self.track):
            return False
        return self.grep is None or bool(self.grep.search(file.describe(event)))


def lines(file: TraceFile, chosen: Filter) -> Iterator[tuple[Event, str]]:
    """(event, its line) of what a filter lets through."""
    several = len(file.header["cards"]) > 1
    for event in file.events:
        if chosen(file, event):
            card = f" {event.card}" if several else ""
            yield event, f"{event.time / 1e9:12.6f}{card} {file.describe(event)}"


def document(file: TraceFile, event: Event) -> dict[str, Any]:
    """An event for JSON."""
    found: dict[str, Any] = {"time": event.time / 1e9, "card": event.card, "kind": event.kind, "track": event.track,
                             **event.detail}
    if event.kind in REGISTER:
        found["register"] = file.register(event)
    return found


def summary(file: TraceFile) -> dict[str, Any]:
    """Counts by kind, register, packet, engine (with busy time), rule, fault and interrupt."""
    kinds: Counter[str] = Counter()
    registers: Counter[str] = Counter()
    packets: Counter[str] = Counter()
    rules: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    busy: defaultdict[str, int] = defaultdict(int)
    done: Counter[str] = Counter()
    several = len(file.header["cards"]) > 1
    for event in file.events:
        count = event.detail.get("count", 1)
        kinds[event.kind] += count
        where = f"{event.card}: " if several else ""
        if event.kind in REGISTER:
            registers[f"{event.kind} {file.register(event)}"] += count
        elif event.kind == "packet":
            packets[event.detail["name"]] += 1
            done[where + event.track] += 1
            busy[where + event.track] += event.duration
        elif event.kind == "note":
            rules[event.detail["rule"]] += 1
        elif event.kind == "fault":
            faults[where + file.describe(event)] += 1
    return {"file": file.path, "seconds": file.events[-1].time / 1e9 if file.events else 0.0,
            "cards": file.header["cards"], "truncated": file.truncated, "events": dict(kinds.most_common()),
            "registers": dict(registers.most_common(20)), "packets": dict(packets.most_common()),
            "engines": {name: {"packets": done[name], "busy_seconds": busy[name] / 1e9} for name in sorted(done)},
            "notes": dict(rules.most_common()), "faults": dict(faults.most_common(20))}


def _shape(file: TraceFile, event: Event) -> str:
    """What was done, without values: addresses are other ones in every run."""
    d = event.detail
    if event.kind in REGISTER:
        return f"{event.kind} {file.register(event)}"
    if event.kind == "packet":
        return f"{d['engine']}: {d['name']}{' -> ' + d['error'].partition(':')[0] if d['error'] else ''}"
    rest = {"note": "rule", "interrupt": "source", "fault": "hub", "walk": "hub", "config-read": "offset",
            "config-write": "offset", "bar-read": "bar", "bar-write": "bar"}.get(event.kind)
    return event.kind if rest is None else f"{event.kind} {d[rest]}"


def _tracks(file: TraceFile, reads: bool, shape: bool) -> dict[str, list[str]]:
    """{track: its lines, without times}, track by track: how engines interleave is chance."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for event in file.events:
        if not reads and event.kind.endswith("read"):
            continue
        line = _shape(file, event) if shape else file.describe(event, values=False)
        if not shape and event.kind in ("read", "engine-read") and event.detail["count"] > 1:
            line = line.rpartition(" x")[0]         # how often it was polled is chance, too
        found[f"card {event.card}, {event.track}"].append(line)
    return dict(found)


def diff(one: TraceFile, other: TraceFile, *, reads: bool = False, shape: bool = False) -> dict[str, list[str]]:
    """{track: lines as ``diff -u`` has them} of the tracks that differ. Times, and reads unless asked for, do not
    count; nor do walks, which follow what is in the TLBs. ``shape`` leaves values out."""
    a, b = _tracks(one, reads, shape), _tracks(other, reads, shape)
    found = {}
    for track in sorted(a.keys() | b.keys()):
        left, right = a.get(track, []), b.get(track, [])
        if left == right or (track.endswith(" hub") and _without_walks(left) == _without_walks(right)):
            continue
        found[track] = _difference(left, right)
    return found


def _without_walks(track: list[str]) -> list[str]:
    return [line for line in track if not line.startswith("walk ")]


def _difference(left: list[str], right: list[str]) -> list[str]:
    same = next((i for i, (x, y) in enumerate(zip(left, right, strict=False)) if x != y), min(len(left), len(right)))
    start = max(same - CONTEXT, 0)
    left, right = left[start:], right[start:]
    if max(len(left), len(right)) > COMPARED:
        at = slice(same - start, same - start + 1)
        return [f"@@ event {same + 1} differs; {max(len(left), len(right))} are left and not aligned @@",
                *(f"-{line}" for line in left[at]), *(f"+{line}" for line in right[at])]
    found = list(difflib.unified_diff(left, right, n=CONTEXT, lineterm=""))[2:]
    return [_moved(line, start) if line.startswith("@@") else line for line in found]


def _moved(head: str, start: int) -> str:
    """A hunk's line numbers, counted from the track's beginning."""
    return re.sub(r"([-+])(\d+)", lambda m: f"{m[1]}{int(m[2]) + start}", head)


def timeline(file: TraceFile) -> dict[str, Any]:
    """Chrome's trace event format, which Perfetto reads: a process a card, a thread a track."""
    found: list[dict[str, Any]] = []
    threads: dict[tuple[int, str], int] = {}
    for number, card in enumerate(file.header["cards"]):
        found.append({"ph": "M", "name": "process_name", "pid": number, "tid": 0,
                      "args": {"name": f"{card['address']} {card['arch']}"}})
    for event in file.events:
        key = event.card, event.track
        if key not in threads:
            threads[key] = thread = len(threads) + 1
            order = 0 if event.track == DRIVER else thread
            found += [{"ph": "M", "name": "thread_name", "pid": event.card, "tid": thread,
                       "args": {"name": event.track}},
                      {"ph": "M", "name": "thread_sort_index", "pid": event.card, "tid": thread,
                       "args": {"sort_index": order}}]
        if event.kind in REGISTER:
            name = f"{event.kind} {file.register(event)}"
        else:
            name = str(event.detail.get("name") or event.detail.get("rule") or event.kind)
        body: dict[str, Any] = {"name": name, "cat": event.kind, "pid": event.card, "tid": threads[key],
                                "ts": event.time / 1000, "args": {"event": file.describe(event)}}
        if event.duration or event.kind in ("packet", "walk", "flush", "reset") or event.kind in ACCESSES:
            found.append(body | {"ph": "X", "dur": max(event.duration, 1) / 1000})
        else:
            found.append(body | {"ph": "i", "s": "t"})
    return {"traceEvents": found, "displayTimeUnit": "ns", "otherData": {"source": file.path}}
