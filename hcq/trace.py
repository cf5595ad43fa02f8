"""A profile for people: a table, and a trace for ui.perfetto.dev.

The trace is JSON in the Trace Event Format that Chrome and Perfetto read: a process for the host with a row a thread, a
process a device with a row an engine; complete events ("X"), flow arrows ("s" to "f") from a submission to its first
packet and from the signal to who waited for it, counters ("C"). Times are in microseconds since the profile began.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hcq.profile import Profile, Span

__all__ = ["summary", "trace"]

HOST = 1                        # process ids; devices follow
_ADDRESSES = ("address", "entry", "descriptor")
_WORK = ("kernel", "copy", "fill", "work")


def _engines(profile: Profile) -> dict[tuple[str, str], tuple[int, int]]:
    """{(device, queue): (process, thread)}"""
    return {(device.name, timeline.queue.name): (HOST + 1 + number, 1 + row)
            for number, device in enumerate(profile.devices) for row, timeline in enumerate(device._all)}


def trace(profile: Profile) -> dict[str, Any]:
    spans = profile.spans
    events: list[dict[str, Any]] = []

    def name(process: int, thread: int | None, text: str, order: int) -> None:
        kind = "process" if thread is None else "thread"
        where = {"pid": process, "tid": thread or 0}
        events.append({"ph": "M", "name": f"{kind}_name", **where, "args": {"name": text}})
        events.append({"ph": "M", "name": f"{kind}_sort_index", **where, "args": {"sort_index": order}})

    def at(host: float) -> float:
        return (host - profile.begin) / 1e3

    engines = _engines(profile)
    threads: dict[str, int] = {}
    for span in spans:
        threads.setdefault(span.submission.thread, len(threads) + 1)
    name(HOST, None, "host", 0)
    for text, thread in threads.items():
        name(HOST, thread, text, thread)
    for number, device in enumerate(profile.devices):
        name(HOST + 1 + number, None, f"{device.name} ({device.properties.name})", 1 + number)
    for (_, queue), (process, thread) in engines.items():
        name(process, thread, queue, thread)

    flow = 0
    seen: set[int] = set()
    for span in spans:
        process, thread = engines[span.device, span.queue]
        args = {"submission": span.submission.number,
                **{key: hex(value) if key in _ADDRESSES else value for key, value in span.facts.items() if key != "of"}}
        events.append({"ph": "X", "name": span.name, "cat": span.what, "pid": process, "tid": thread,
                       "ts": at(span.begin), "dur": max(span.end - span.begin, 0) / 1e3, "args": args})
        submission = span.submission
        if id(submission) not in seen:
            seen.add(id(submission))
            flow += 1
            host = {"pid": HOST, "tid": threads[submission.thread]}
            events.append({"ph": "X", "name": f"submit to {submission.queue}", "cat": "submit", **host,
                           "ts": at(submission.begin), "dur": (submission.end - submission.begin) / 1e3,
                           "args": {"submission": submission.number}})
            events += _arrow(flow, "submit", {**host, "ts": at(submission.begin)},
                             {"pid": process, "tid": thread, "ts": max(at(span.begin), at(submission.begin))})
    for source, target in _signalled(spans):
        flow += 1
        (process, thread), (to_process, to_thread) = (engines[s.device, s.queue] for s in (source, target))
        events += _arrow(flow, "signal", {"pid": process, "tid": thread, "ts": at(source.begin)},
                         {"pid": to_process, "tid": to_thread, "ts": max(at(target.end), at(source.begin))})
    for number, device in enumerate(profile.devices):
        for counter, value in profile.counters.get(device.name, {}).items():
            for when, shown in ((profile.begin, 0), (profile.end, value)):
                events.append({"ph": "C", "name": counter, "pid": HOST + 1 + number, "tid": 0, "ts": at(when),
                               "args": {"value": shown}})
    return {"traceEvents": events, "displayTimeUnit": "ns",
            "otherData": {"clock uncertainty in us": round(profile.uncertainty * 1e6, 3)}}


def _arrow(number: int, category: str, source: dict[str, Any], target: dict[str, Any]) -> list[dict[str, Any]]:
    """From inside one slice to the slice that encloses the target's time ("bp": "e")."""
    common = {"name": category, "cat": category, "id": number}
    return [{"ph": "s", **common, **source}, {"ph": "f", "bp": "e", **common, **target}]


def _signalled(spans: Iterable[Span]) -> list[tuple[Span, Span]]:
    """(signal, wait) of different engines: the first signal of that word that is large enough."""
    spans = list(spans)
    signals: dict[tuple[str, int], list[Span]] = {}
    for span in spans:
        if span.what == "signal":
            signals.setdefault((span.device, span.facts["address"]), []).append(span)
    found = []
    for span in spans:
        if span.what == "wait" and "address" in span.facts:
            where = span.facts.get("of", (span.device, span.facts["address"]))
            for signal in sorted(signals.get(where, ()), key=lambda signal: signal.facts["value"]):
                if signal.facts["value"] >= span.facts["value"]:
                    if (signal.device, signal.queue) != (span.device, span.queue):
                        found.append((signal, span))
                    break
    return found


def summary(profile: Profile) -> str:
    spans = profile.spans
    end = profile.end or max((span.end for span in spans), default=profile.begin)
    wall = max(end - profile.begin, 1) / 1e9
    rows: dict[tuple[str, str], list[Span]] = {}
    for span in spans:
        if span.what in _WORK:
            rows.setdefault((span.what, span.name), []).append(span)
    lines = [f"{'what':<32}{'count':>8}{'total ms':>12}{'mean us':>12}{'min us':>12}{'max us':>12}{'GB/s':>9}"]
    for (what, name), found in sorted(rows.items(), key=lambda row: -sum(span.seconds for span in row[1])):
        times = [span.seconds for span in found]
        moved = sum(span.facts.get("bytes", 0) for span in found)
        rate = f"{moved / sum(times) / 1e9:9.2f}" if moved and sum(times) > 0 else ""
        shown = name if name == what else f"{what} {name}"
        lines.append(f"{shown[:31]:<32}{len(found):>8}{1e3 * sum(times):>12.3f}{1e6 * sum(times) / len(times):>12.2f}"
                     f"{1e6 * min(times):>12.2f}{1e6 * max(times):>12.2f}{rate}")
    lines.append("")
    for device, queue in _engines(profile):
        mine = [span for span in spans if span.queue == queue and span.device == device]
        busy = sum(span.seconds for span in mine if span.what in _WORK)
        waits = sum(span.seconds for span in mine if span.what == "wait")
        lines.append(f"{queue:<32}{len(mine):>8} packets   busy {busy / wall:6.1%}   waiting {waits / wall:6.1%}")
    for device, counters in profile.counters.items():
        lines += [f"{device} {counter:<24}{value:>16,}" for counter, value in counters.items()]
    lines.append(f"{wall * 1e3:.3f} ms; the clocks agree within {profile.uncertainty * 1e6:.1f} us")
    return "\n".join(lines)
