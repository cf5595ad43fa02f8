"""A strict reader of the Trace Event Format, for what ``hcq`` writes.

The rules are those of the published format ("Trace Event Format", Google, 2016: common fields, Complete, Flow, Metadata
and Counter events, "Flow events bind to slices") and what Perfetto's page on external formats says of them.
Perfetto's own trace processor is a program that its package downloads from where this project's machines cannot
reach; it has not read these traces.
"""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

__all__ = ["Malformed", "check_trace"]

SLACK = 1e-3                    # microseconds: rounding of the trace's floats
COMMON = {"ph", "name", "pid", "tid"}
FIELDS = {                      # of each phase: needed, and allowed beside them
    "X": ({"ts", "dur", "cat"}, {"args"}), "M": ({"args"}, set()), "C": ({"ts", "args"}, set()),
    "s": ({"ts", "id", "cat"}, set()), "f": ({"ts", "id", "cat", "bp"}, set())}
METADATA = {"process_name": "name", "thread_name": "name", "process_sort_index": "sort_index",
            "thread_sort_index": "sort_index"}


class Malformed(AssertionError):
    """A rule is broken; the message says which, and by what."""


def _need(condition: bool, rule: str, what: object) -> None:
    if not condition:
        raise Malformed(f"{rule}: {what}")


def check_trace(trace: dict[str, Any], uncertainty_us: float) -> None:
    """:param uncertainty_us: how far an engine's times may be off the host's. :raises Malformed: a rule is broken."""
    _need(set(trace) <= {"traceEvents", "displayTimeUnit", "otherData"}, "keys of the whole", set(trace))
    _need(trace.get("displayTimeUnit") in ("ms", "ns"), "displayTimeUnit is ms or ns", trace.get("displayTimeUnit"))
    _need(json.loads(json.dumps(trace, allow_nan=False)) == trace, "it is JSON", "something changes on the way")
    rows: dict[tuple[int, int], list[tuple[float, float]]] = {}
    named: set[tuple[str, int, int]] = set()
    flows: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    counters: dict[tuple[int, str], float] = {}
    for event in trace["traceEvents"]:
        _check_event(event)
        place = event["pid"], event["tid"]
        if event["ph"] == "M":
            key = event["name"], *place
            _need(key not in named, "a name or an order is given once", event)
            named.add(key)
        elif event["ph"] == "X":
            rows.setdefault(place, []).append((event["ts"], event["ts"] + event["dur"]))
        elif event["ph"] == "C":
            last = counters.setdefault((event["pid"], event["name"]), -math.inf)
            _need(event["ts"] >= last, "a counter's values come in the order of time", event)
            counters[event["pid"], event["name"]] = event["ts"]
        else:
            ends = flows.setdefault((event["cat"], event["id"]), {})
            _need(event["ph"] not in ends, "a flow has one beginning and one end", event)
            ends[event["ph"]] = event
    for process, thread in rows:
        _need(("process_name", process, 0) in named, "a process has a name", process)
        _need(("thread_name", process, thread) in named, "a row has a name", (process, thread))
    for row in rows.values():
        for (begin, end), (later, last) in pairwise(sorted(row, key=lambda span: (span[0], -span[1]))):
            _need(later >= end - SLACK or last <= end + SLACK,
                  "slices of a row follow each other, or one lies within the other", (begin, end, later, last))
    for ends in flows.values():
        _check_flow(ends, rows, uncertainty_us)


def _check_event(event: dict[str, Any]) -> None:
    _need(isinstance(event, dict) and set(event) >= COMMON, "an event has a phase, a name, a process and a row", event)
    _need(event["ph"] in FIELDS, "the phase is one of those that hcq writes", event)
    needed, allowed = FIELDS[event["ph"]]
    _need(needed <= set(event) - COMMON <= needed | allowed, "fields of this phase", event)
    for name in ("pid", "tid", "id"):
        _need(type(event.get(name, 0)) is int, f"{name} is an integer", event)
    _need(isinstance(event["name"], str) and bool(event["name"]), "the name is text", event)
    for name in ("ts", "dur"):
        value = event.get(name, 0.0)
        _need(isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value),
              f"{name} is a number of microseconds", event)
    _need(event.get("dur", 0) >= 0, "a duration is not negative", event)
    if event["ph"] == "M":
        field = METADATA.get(event["name"])
        _need(field is not None and set(event["args"]) == {field}, "metadata is a name or an order", event)
        _need(bool(event["args"][field]) if field == "name" else type(event["args"][field]) is int,
              "a name is not empty, an order is an integer", event)
    elif event["ph"] == "C":
        _need(bool(event["args"]) and all(isinstance(value, int | float) for value in event["args"].values()),
              "a counter's values are numbers", event)


def _check_flow(ends: dict[str, dict[str, Any]], rows: dict[tuple[int, int], list[tuple[float, float]]],
                uncertainty_us: float) -> None:
    _need(set(ends) == {"s", "f"}, "a flow begins and ends", ends)
    _need(ends["f"]["bp"] == "e", "a flow's end binds to the slice that encloses it", ends)
    _need(ends["s"]["name"] == ends["f"]["name"], "both ends have one name", ends)
    _need(ends["s"]["ts"] <= ends["f"]["ts"], "a flow does not go back in time", ends)
    slack = uncertainty_us + SLACK
    for event in ends.values():
        row = rows.get((event["pid"], event["tid"]), ())
        _need(any(begin - slack <= event["ts"] <= end + slack for begin, end in row), "an end of a flow is on a slice",
              event)
