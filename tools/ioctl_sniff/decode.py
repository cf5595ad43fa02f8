"""Events become calls: which device, which ioctl, its arguments before and after, field by field."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tools.ioctl_sniff.abi import Abi, Field, Hint, Ioctl, Library, Record
from tools.ioctl_sniff.capture import Event
from tools.ioctl_sniff.submissions import IP_NAMES

__all__ = ["Call", "Item", "SCHEMA", "calls", "errno_name"]

SCHEMA = "ioctl-sniff/1"
"""Of every JSON object that is printed: schema/ioctl-sniff-1.json."""
MAX_ITEMS = 64              # of an array; the rest is counted
MAX_DEPTH = 8
MAX_BYTES = 64              # of plain bytes that are shown


@dataclass
class Item:
    """One value. ``fields`` are a record's; ``items`` an array's; ``points`` what an address points at."""

    name: str
    value: Any = None               # int, float, str, bytes or None
    text: str = ""
    fields: list[Item] | None = None
    items: list[Item] | None = None
    more: int = 0                   # further items of the array that are not listed
    points: Item | None = None
    old: str | None = None          # the text before the call, where that was another

    def json(self) -> Any:
        if self.fields is not None:
            return {item.name: item.json() for item in self.fields}
        if self.items is not None:
            listed: list[Any] = [item.json() for item in self.items]
            return [*listed, f"and {self.more} more"] if self.more else listed
        value = self.value.hex() if isinstance(self.value, bytes) else self.value
        if self.points is not None:
            return {"address": value, "to": self.points.json()}
        return value if not isinstance(value, int) or self.text in (str(value), hex(value)) else {
            "value": value, "means": self.text}


@dataclass
class Call:
    """One thing that a program did."""

    event: Event
    device: str                     # path behind the descriptor, "" where it is not known
    name: str                       # "AMDKFD_IOC_CREATE_QUEUE", "mmap", ...
    ioctl: Ioctl | None = None
    before: Item | None = None
    after: Item | None = None
    problem: str = ""               # what could not be decoded

    @property
    def engine(self) -> str | None:
        """Of a dump: "PM4", "SDMA", "AQL"; None where its packets are not known."""
        return _engine(self.event)

    @property
    def interface(self) -> str:
        return self.ioctl.abi.name if self.ioctl else ""

    def json(self) -> dict[str, Any]:
        event = self.event
        said: dict[str, Any] = {"time": event.time, "pid": event.pid, "tid": event.tid, "kind": event.kind,
                                "name": self.name, "device": self.device, "fd": event.fd}
        if event.kind == "ioctl":
            said |= {"interface": self.interface, "request": event.numbers[0] & 0xFFFFFFFF,
                     "argument": event.numbers[1], "before": self.before.json() if self.before else None,
                     "after": self.after.json() if self.after else None}
        elif event.kind == "mmap":
            length, modes, offset, trapped = event.numbers
            said |= {"length": length, "protection": modes & 0xFFFFFFFF, "flags": modes >> 32, "offset": offset,
                     "trapped": bool(trapped)}
        elif event.kind in ("doorbell", "dump"):
            said |= {"numbers": list(event.numbers), "engine": _engine(event),
                     "memory": [{"address": address, "bytes": content.hex()} for address, content in event.after]}
        elif event.kind == "fork":
            said["parent"] = event.numbers[0]
        if event.text:
            said["text"] = event.text
        return said | {"result": event.result, "error": errno_name(event.error), "duration": event.duration}


QUEUE_TYPES = {0: "PM4", 1: "SDMA", 2: "AQL", 3: "SDMA XGMI"}
"""Of KFD (linux/kfd_ioctl.h, KFD_IOC_QUEUE_TYPE_*)."""
_OF_IP = {"gfx": "PM4", "compute": "PM4", "dma": "SDMA"}


def _engine(event: Event) -> str | None:
    """Whose packets a dump holds: a submit to amdgpu (it has a descriptor) counts by AMDGPU_HW_IP_*, a doorbell's by
    KFD's queue types."""
    if event.kind != "dump":
        return None
    return QUEUE_TYPES.get(event.numbers[0]) if event.fd < 0 else _OF_IP.get(IP_NAMES.get(event.numbers[0], ""))


def errno_name(number: int) -> str:
    return errno.errorcode.get(number, str(number)) if number else ""


class _Memory:
    """Pieces of a target's memory."""

    def __init__(self, pieces: Iterable[tuple[int, bytes]]) -> None:
        self.pieces = list(pieces)

    def read(self, address: int, length: int) -> bytes:
        """As much of it as was recorded."""
        for start, content in self.pieces:
            if start <= address < start + len(content):
                return content[address - start:address - start + length]
        return b""

    def available(self, address: int) -> int:
        return max((start + len(content) - address for start, content in self.pieces
                    if start <= address < start + len(content)), default=0)


def calls(events: Iterable[Event], library: Library) -> Iterator[Call]:
    """Decode events, which come in the order of their times."""
    devices: dict[tuple[int, int], str] = {}
    for event in events:
        key = event.pid, event.fd
        if event.kind in ("device", "open") and event.fd >= 0:
            devices[key] = event.text
        if event.kind == "device":
            continue
        device = devices.get(key, "")
        if event.kind == "dup" and device:
            devices[event.pid, event.result] = device
        if event.kind == "close":
            devices.pop(key, None)
        if event.kind == "open" and not device:
            device = event.text
        yield _ioctl(event, device, library) if event.kind == "ioctl" else Call(event, device, event.kind)


def _ioctl(event: Event, device: str, library: Library) -> Call:
    request, argument = event.numbers[0] & 0xFFFFFFFF, event.numbers[1]
    found = library.find(device, request)
    if found is None:
        before, after = (_plain("argument", pieces[0][1]) if pieces else None
                         for pieces in (event.before, event.after))
        _compare(before, after)
        return Call(event, device, _number_name(request), None, before, after,
                    "no decoder knows this number" + (f" on {device}" if device else ""))
    call = Call(event, device, found.name, found)
    call.before = _argument(found, argument, _Memory(event.before))
    call.after = _argument(found, argument, _Memory(event.after))
    _compare(call.before, call.after)
    return call


def _number_name(request: int) -> str:
    kind = request >> 8 & 0xFF
    letter = f"'{chr(kind)}'" if 0x20 < kind < 0x7F else f"{kind:#x}"
    direction = ("_IO", "_IOW", "_IOR", "_IOWR")[request >> 30]
    size = request >> 16 & 0x3FFF
    return f"{direction}({letter}, {request & 0xFF:#x}" + (f", {size})" if size else ")")


def _argument(ioctl: Ioctl, argument: int, memory: _Memory) -> Item | None:
    abi = ioctl.abi
    if not ioctl.record:
        return Item("argument", argument, _number_text(argument)) if argument else None
    content = memory.read(argument, memory.available(argument))
    if not content:
        return None
    record = abi.record(ioctl.record)
    if record is None:
        return _scalar("argument", ioctl.record, content, 0, None, None, abi)
    return _record(abi, record, content, memory, "argument", 0)


def _record(abi: Abi, record: Record, content: bytes, memory: _Memory, name: str, depth: int) -> Item:
    fields: list[Item] = []
    values: dict[str, Any] = {}
    _fill(abi, record, content, memory, fields, values, depth)
    return Item(name, fields=fields)


def _fill(abi: Abi, record: Record, content: bytes, memory: _Memory, fields: list[Item], values: dict[str, Any],
          depth: int) -> None:
    late: list[tuple[Field, Item]] = []
    for each in record.fields:
        if each.offset > len(content) or (each.offset == len(content) and not (each.hint and each.hint.kind == "here")):
            continue                        # the caller's structure is older and shorter
        inner = abi.record(each.type)
        if not each.name and inner is not None:
            _fill(abi, inner, content[each.offset:each.offset + inner.size], memory, fields, values, depth)
            continue
        item = _field(abi, each, inner, content, memory, depth)
        if item is None:
            continue
        fields.append(item)
        if isinstance(item.value, int):
            values.setdefault(each.name, item.value)
        if each.hint is not None and each.hint.kind in ("pointer", "string", "here"):
            late.append((each, item))
    for each, item in late:                 # lengths may stand behind addresses
        assert each.hint is not None
        if each.hint.kind == "here":
            rest = content[each.offset:]
            shown = _many(abi, each.hint, values, rest, memory, each.name, depth)
            item.items, item.fields, item.value, item.text = shown.items, shown.fields, shown.value, shown.text
            item.more = shown.more
        elif isinstance(item.value, int) and item.value:
            item.points = _pointed(abi, each.hint, values, item.value, memory, depth)


def _field(abi: Abi, each: Field, inner: Record | None, content: bytes, memory: _Memory, depth: int) -> Item | None:
    if each.count is not None:
        if each.hint is not None and each.hint.kind == "text":
            text = content[each.offset:each.offset + each.count].split(b"\0")[0].decode("utf-8", "replace")
            return Item(each.name, text, repr(text))
        if each.hint is not None and each.hint.kind == "here":
            return Item(each.name, items=[])
        size = inner.size if inner else each.width
        return _array(abi, each.type, content[each.offset:each.offset + each.count * size], memory, each.name, depth,
                      each.count)
    if inner is not None:
        if depth > MAX_DEPTH:
            return Item(each.name, None, "{...}")
        return _record(abi, inner, content[each.offset:each.offset + inner.size], memory, each.name, depth + 1)
    return _scalar(each.name, each.type, content, each.offset, each.bits, each.hint, abi)


def _array(abi: Abi, kind: str, content: bytes, memory: _Memory, name: str, depth: int, count: int) -> Item:
    inner = abi.record(kind)
    size = abi.size_of(kind) or 1
    if kind in ("u8", "s8", "bytes"):
        return _plain(name, content)
    count = min(count, len(content) // size)
    listed = min(count, MAX_ITEMS)
    items = []
    for index in range(listed):
        part = content[index * size:(index + 1) * size]
        found = (_record(abi, inner, part, memory, "", depth + 1) if inner
                 else _scalar("", kind, part, 0, None, None, abi))
        if found is not None:
            items.append(found)
    return Item(name, items=items, more=count - listed)


def _pointed(abi: Abi, hint: Hint, values: Mapping[str, Any], address: int, memory: _Memory, depth: int) -> Item | None:
    if depth > MAX_DEPTH:
        return None
    content = memory.read(address, memory.available(address))
    if not content:
        return None
    if hint.kind == "string":
        text = content.split(b"\0")[0].decode("utf-8", "replace")
        return Item("", text, repr(text))
    return _many(abi, hint, values, content, memory, "", depth + 1)


def _many(abi: Abi, hint: Hint, values: Mapping[str, Any], content: bytes, memory: _Memory, name: str,
          depth: int) -> Item:
    kind = hint.type
    if hint.case:
        kind = abi.case(hint.type, int(values.get(hint.case, -1)))
        if not kind and not hint.in_bytes and not hint.length.field:
            return Item(name, None, "...")      # how much of it is the call's nobody knows
        if not kind:
            length = hint.length.of(values) if hint.in_bytes else len(content)
            return _plain(name, content[:length])
    size = abi.size_of(kind) or 1
    length = hint.length.of(values)
    count = length // size if hint.in_bytes else length
    single = (not hint.length.field and not hint.in_bytes) or (hint.case and count <= 1)
    inner = abi.record(kind)
    if single:
        part = content[:size]
        if inner is not None:
            return _record(abi, inner, part, memory, name, depth)
        return _scalar(name, kind, part, 0, None, None, abi) or _plain(name, part)
    return _array(abi, kind, content[:count * size], memory, name, depth, count)


def _plain(name: str, content: bytes) -> Item:
    shown = content[:MAX_BYTES]
    if content and all(0x20 <= byte < 0x7F for byte in content.rstrip(b"\0")) and content.rstrip(b"\0"):
        return Item(name, content, repr(content.rstrip(b"\0").decode("ascii")))
    if not any(content):
        return Item(name, content, f"{len(content)} zero bytes" if content else "nothing")
    text = shown.hex(" ", 4) + (f" ... ({len(content)} bytes)" if len(content) > MAX_BYTES else "")
    return Item(name, content, text)


def _scalar(name: str, kind: str, content: bytes, offset: int, bits: tuple[int, int] | None, hint: Hint | None,
            abi: Abi) -> Item | None:
    width = int(kind[1:]) // 8
    raw = content[offset:offset + width]
    if len(raw) < width:
        return None
    if kind[0] == "f":
        number = struct.unpack("<f" if width == 4 else "<d", raw)[0]
        return Item(name, number, f"{number:g}")
    value = int.from_bytes(raw, "little", signed=kind[0] == "s")
    if bits is not None:
        value = (int.from_bytes(raw, "little") >> bits[1]) & ((1 << bits[0]) - 1)
    return Item(name, value, _meaning(value, kind, hint, abi))


def _meaning(value: int, kind: str, hint: Hint | None, abi: Abi) -> str:
    if hint is None:
        return f"{value:#x}" if kind[0] == "p" else _number_text(value)
    if hint.kind == "hex" or hint.kind in ("pointer", "string"):
        return f"{value:#x}"
    if hint.kind == "enum":
        return abi.names(hint.type).get(value) or (f"{value:#x}" if value >= 0 else str(value))    # as headers have it
    if hint.kind == "flags":
        return _flags(value, abi.names(hint.type))
    return str(value)


def _flags(value: int, names: Mapping[int, str]) -> str:
    if value == 0:
        return names.get(0, "0")
    shown, rest = [], value
    for bit, name in sorted(names.items()):
        if bit and bit & (bit - 1) == 0 and rest & bit:
            shown.append(name)
            rest &= ~bit
    if rest:
        shown.append(names.get(rest, f"{rest:#x}"))
    return " | ".join(shown)


def _number_text(value: int) -> str:
    return str(value) if -4096 < value < 4096 else f"{value:#x}"


def _compare(before: Item | None, after: Item | None) -> None:
    """Mark in ``after`` what was another value before."""
    if before is None or after is None:
        return
    if after.fields is not None and before.fields is not None:
        known = {item.name: item for item in before.fields}
        for item in after.fields:
            _compare(known.get(item.name), item)
    elif after.items is not None and before.items is not None:
        for old, new in zip(before.items, after.items, strict=False):
            _compare(old, new)
    elif after.value != before.value:
        after.old = before.text
    if after.points is not None and before.points is not None:
        _compare(before.points, after.points)


@dataclass
class Summary:
    """Of one ioctl: how often, how long, how many failed."""

    interface: str
    name: str
    count: int = 0
    time: int = 0
    longest: int = 0
    errors: dict[str, int] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        """The fields, by name."""
        return asdict(self)


def summarise(found: Iterable[Call]) -> list[Summary]:
    """Ioctls by the time spent in them, longest first."""
    table: dict[tuple[str, str], Summary] = {}
    for call in found:
        if call.event.kind != "ioctl":
            continue
        one = table.setdefault((call.interface, call.name), Summary(call.interface, call.name))
        one.count += 1
        one.time += call.event.duration
        one.longest = max(one.longest, call.event.duration)
        if call.event.error:
            name = errno_name(call.event.error)
            one.errors[name] = one.errors.get(name, 0) + 1
    return sorted(table.values(), key=lambda one: (-one.time, one.name))
