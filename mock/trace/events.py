"""Reading: a trace file into events that know names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from amdrv.facts import ih, pm4
from mock.registers import Names, names_of
from mock.trace.record import FORMAT, VERSION

__all__ = ["DRIVER", "Event", "KINDS", "REGISTER", "TraceError", "TraceFile", "read"]

KINDS: dict[str, tuple[str, ...]] = {
    "read": ("dword", "value", "count", "until"), "write": ("dword", "value"),
    "engine-read": ("dword", "value", "count", "until", "engine"), "engine-write": ("dword", "value", "engine"),
    "bar-read": ("bar", "offset", "width", "value"), "bar-write": ("bar", "offset", "width", "value"),
    "config-read": ("offset", "width", "value"), "config-write": ("offset", "width", "value"),
    "packet": ("engine", "vmid", "position", "name", "fields", "tail", "words", "duration",
               "error"),
    "walk": ("hub", "vmid", "page", "pages", "duration", "error"),
    "fault": ("hub", "vmid", "address", "write", "client", "why"), "note": ("rule", "text"),
    "interrupt": ("client", "source", "ring_id", "vmid", "data", "stored"), "msi": ("vector", "sent"),
    "flush": ("duration",), "reset": ("duration",), "window": ("offset", "size"), "stores": ("runs", "pages")}
"""{kind: what an event of it has after time and card}. "stores" are what the CPU stored through windows, as a flush
finds it: [offset, bytes] of whole pages; loads through a window leave no trace."""

INDIRECT = (("BIF_BX_PF0_RSMU_INDEX", "BIF_BX_PF0_RSMU_DATA"), ("BIF_BX0_PCIE_INDEX", "BIF_BX0_PCIE_DATA"),
            ("BIF_BX0_PCIE_INDEX2", "BIF_BX0_PCIE_DATA2"))
"""Pairs by which registers are reached at their byte address (:mod:`mock.nbio`)."""
ACCESSES = ("read", "write", "bar-read", "bar-write", "config-read", "config-write", "window")
REGISTER = ("read", "write", "engine-read", "engine-write")
DRIVER = "driver"
"""The track of what the host did."""


class TraceError(ValueError):
    """A file that is no trace, or one of another version."""


class Event(NamedTuple):
    """``time`` in nanoseconds since the start; ``detail`` as :data:`KINDS` names it."""

    kind: str
    time: int
    card: int
    detail: dict[str, Any]

    @property
    def track(self) -> str:
        """Who did it: "driver", the name of an engine, or the part of the card."""
        if self.kind in ACCESSES:
            return DRIVER
        if self.kind in ("packet", "engine-read", "engine-write"):
            return str(self.detail["engine"])
        return {"walk": f"{self.detail.get('hub')} hub", "fault": f"{self.detail.get('hub')} hub", "note": "notes",
                "interrupt": "interrupts", "msi": "interrupts", "flush": "hdp", "stores": "hdp",
                "reset": "reset"}[self.kind]

    @property
    def duration(self) -> int:
        """Nanoseconds; 0 of what has none."""
        if self.kind in ("read", "engine-read"):
            return int(self.detail["until"]) - self.time
        return int(self.detail.get("duration", 0))


@dataclass
class TraceFile:
    """``header`` and ``events`` in the order of their starts. ``truncated``: the file ends within an event."""

    path: str
    header: dict[str, Any]
    events: list[Event]
    truncated: bool

    @cached_property
    def names(self) -> list[Names]:
        """Of each card."""
        return [names_of(card["arch"]) for card in self.header["cards"]]

    def register(self, event: Event) -> str:
        """The register of a read or write; of one through an index register, the one that is reached."""
        return self.names[event.card].describe(event.detail.get("reached", event.detail["dword"]))

    def resolve(self) -> None:
        """Find what accesses to data registers reach: the index that was written last is in the events."""
        pairs = [{names.find(data)[1]: names.find(index)[1] for index, data in INDIRECT} for names in self.names]
        index: dict[tuple[int, int], int] = {}
        for event in self.events:
            if event.kind not in REGISTER:
                continue
            dword = event.detail["dword"]
            if event.kind.endswith("write") and dword in pairs[event.card].values():
                index[event.card, dword] = event.detail["value"]
            elif (place := pairs[event.card].get(dword)) is not None and (event.card, place) in index:
                event.detail["reached"] = index[event.card, place] >> 2

    def _tail(self, event: Event) -> str:
        """The words after a packet's fields; registers by name where the packet sets them."""
        d = event.detail
        if not d["words"]:
            return ""
        words = [f"{word:#x}" for word in d["tail"]]
        if d["name"] in pm4.REGISTER_SPACES and "REG_OFFSET" in d["fields"]:
            first = pm4.REGISTER_SPACES[d["name"]][0] + d["fields"]["REG_OFFSET"]
            names = self.names[event.card]
            words = [f"{names.describe(first + i)}={word}" for i, word in enumerate(words)]
        more = f" and {d['words'] - len(words)} words" if d["words"] > len(words) else ""
        return f" {' '.join(words)}{more}"

    def describe(self, event: Event, *, values: bool = True) -> str:
        """An event as a line, without its time."""
        d = event.detail
        if event.kind in REGISTER:
            names, dword = self.names[event.card], d.get("reached", d["dword"])
            known = names.by_dword.get(dword)
            text = known[1].describe(d["value"]) if known else f"dword {dword:#x} = {d['value']:#010x}"
            times = f" x{d['count']}" if d.get("count", 1) > 1 else ""
            way = f" through {names.describe(d['dword'])}" if "reached" in d else ""
            return f"{event.kind} {text}{way}{times}"
        if event.kind.startswith(("bar-", "config-")):
            where = f"BAR{d['bar']}+{d['offset']:#x}" if "bar" in d else f"config {d['offset']:#x}"
            return f"{event.kind} {where} {8 * d['width']} bits = {d['value']:#x}"
        if event.kind == "packet":
            inside = " ".join(f"{key}={value:#x}" for key, value in d["fields"].items())
            wrong = f" -> {d['error']}" if d["error"] else ""
            return f"{d['engine']}: {d['name']}({inside}){self._tail(event)}{wrong}"
        if event.kind == "walk":
            wrong = f" -> {d['error']}" if d["error"] else ""
            return f"walk {d['hub']} VMID {d['vmid']} {d['page'] << 12:#x}, {d['pages']} pages{wrong}"
        if event.kind == "fault":
            what = "write" if d["write"] else "read"
            return f"fault {d['hub']} VMID {d['vmid']} {what} at {d['address']:#x}: {d['why']}"
        if event.kind == "interrupt":
            words = ", ".join(f"{word:#x}" for word in d["data"])
            lost = "" if d["stored"] else ", dropped"
            return f"interrupt {_client(d['client'])} source {d['source']} ring {d['ring_id']:#x} " \
                   f"VMID {d['vmid']} ({words}){lost}"
        if event.kind == "note":
            return f"note [{d['rule']}] {d['text']}"
        if event.kind == "window":
            return f"window BAR0+{d['offset']:#x}" + (f", {d['size']:#x} bytes" if values else "")
        if event.kind == "stores":
            where = ", ".join(f"{offset:#x}..{offset + size:#x}" for offset, size in d["runs"])
            return f"stores by the CPU: {d['pages']} pages, {where}" if values else event.kind
        if event.kind == "msi":
            return f"MSI {d['vector']}{'' if d['sent'] else ' not sent'}"
        return event.kind if not values else f"{event.kind} ({d['duration'] / 1000:.1f} us)"


def _client(number: int) -> str:
    for name, value in vars(ih).items():
        if name.startswith("SOC21_IH_CLIENTID_") and value == number:
            return name.removeprefix("SOC21_IH_CLIENTID_")
    return f"client {number:#x}"


def _records(path: str) -> Iterator[Any]:
    """Whole records; a last None where the file ends within one. :raises TraceError: it cannot be read."""
    import msgpack
    try:
        file = Path(path).open("rb")    # noqa: SIM115
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror or error}") from None
    with file:
        unpacker = msgpack.Unpacker(file, strict_map_key=False)
        while True:
            at = unpacker.tell()
            try:
                yield unpacker.unpack()
            except msgpack.OutOfData:
                file.seek(0, 2)
                if file.tell() != at:
                    yield None
                return
            except (ValueError, msgpack.UnpackException) as error:
                raise TraceError(f"{path}: damaged at byte {at}: {error}") from None


def read(path: str | Path) -> TraceFile:
    """A whole trace. :raises TraceError: the file cannot be read, is no trace, or is damaged."""
    path = str(path)
    records = _records(path)
    wrong = f"{path}: this is no trace of the mock card (AMDRV_MOCK_TRACE writes one)"
    try:
        header = next(records, None)
    except TraceError as error:
        raise (error if "cannot be read" in str(error) else TraceError(wrong)) from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise TraceError(wrong)
    if header.get("version") != VERSION:
        raise TraceError(f"{path}: a trace of version {header.get('version')}; this program reads {VERSION}")
    events, truncated = [], False
    for record in records:
        if record is None:
            truncated = True
            break
        try:
            kind, time, card, *rest = record
            events.append(Event(kind, time, card, dict(zip(KINDS[kind], rest, strict=True))))
        except (TypeError, ValueError, KeyError):
            raise TraceError(f"{path}: event {len(events) + 1} is damaged: {str(record)[:60]}") from None
    events.sort(key=lambda event: event.time)
    file = TraceFile(path, header, events, truncated)
    file.resolve()
    return file
