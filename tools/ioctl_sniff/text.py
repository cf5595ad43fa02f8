"""Calls as lines, summaries as a table: for a terminal in colour, elsewhere plain."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tools.ioctl_sniff.decode import QUEUE_TYPES, Call, Item, Summary, errno_name
from tools.ioctl_sniff.submissions import IP_NAMES

__all__ = ["line", "print_summary", "time_text"]

_PROTECTION = ((1, "READ"), (2, "WRITE"), (4, "EXEC"))


def time_text(nanoseconds: int) -> str:
    if nanoseconds < 1000:
        return f"{nanoseconds} ns"
    if nanoseconds < 1_000_000:
        return f"{nanoseconds / 1e3:.1f} µs"
    return f"{nanoseconds / 1e6:.1f} ms" if nanoseconds < 1_000_000_000 else f"{nanoseconds / 1e9:.2f} s"


def line(call: Call, start: int, *, many: bool, memory: bool = False) -> Text:
    """One call. :param start: the time that is zero; ``many``: with the process."""
    event = call.event
    text = Text(f"{(event.time - start) / 1e9:11.6f} ", "dim")
    if many:
        text.append(f"{event.pid}" + (f"/{event.tid}" if event.tid != event.pid else "") + " ", "cyan")
    device = call.device.replace("anon_inode:", "")
    where = f"{event.fd}<{device}>" if device else f"{event.fd}"
    if event.kind == "ioctl":
        text.append(f"{where} ", "dim").append(call.name, "bold" if not call.problem else "bold yellow")
        shown = call.after or call.before
        if shown is not None:
            text.append(" ")
            item(text, shown)
        elif call.event.numbers[1]:
            text.append(f" {call.event.numbers[1]:#x}")
        result(text, event.result, event.error)
        text.append(f"  {time_text(event.duration)}", "dim")
        if call.problem:
            text.append(f"  # {call.problem}", "yellow")
    elif event.kind == "open":
        text.append("open ", "bold").append(event.text)
        result(text, event.result, event.error)
    elif event.kind == "mmap":
        length, modes, offset, trapped = event.numbers
        said = "|".join(name for bit, name in _PROTECTION if modes & bit) or "NONE"
        text.append(f"{where} ", "dim").append("mmap", "bold")
        text.append(f" {length:#x} bytes at offset {offset:#x}, {said}" + (", trapped" if trapped else ""))
        text.append(f" = {event.result:#x}" if not event.error else f" = {errno_name(event.error)}",
                    "" if not event.error else "red")
    elif event.kind == "doorbell":
        text.append("doorbell", "bold magenta").append(f" {event.numbers[1]:#x} = {event.result:#x}")
    elif event.kind == "dump":
        kind, queue, value, ring = event.numbers
        where = (f"the {IP_NAMES.get(kind, kind)} ring {queue & 0xFFFFFFFF}, in a buffer at {ring:#x}" if event.fd >= 0
                 else f"{QUEUE_TYPES.get(kind, kind)} queue {queue} at {ring:#x}, up to {value:#x}")
        text.append("submitted", "bold magenta").append(f" {event.result} bytes to {where}")
        if memory and not event.after:
            text.append("\n  the program has not mapped it: its content is not known", "dim")
        elif memory:
            text.append("\n" + disassembled(call))
    elif event.kind == "fork":
        text.append("forked", "bold").append(f" by {event.numbers[0]}")
    elif event.kind in ("exec", "start"):
        text.append(event.kind, "bold").append(f" {event.text}")
    elif event.kind == "dup":
        text.append(f"{where} ", "dim").append("dup", "bold").append(f" = {event.result}")
    else:
        text.append(f"{where} ", "dim").append(event.kind, "bold")
    if event.text and event.kind == "ioctl":
        for frame in event.text.rstrip().splitlines():
            text.append(f"\n                {frame}", "dim")
    return text


def result(text: Text, value: int, error: int) -> None:
    if error:
        text.append(f" = -1 {errno_name(error)}", "red")
    else:
        text.append(f" = {value}")


def item(text: Text, value: Item) -> None:
    if value.fields is not None:
        text.append("{")
        for index, each in enumerate(value.fields):
            text.append(", " if index else "")
            text.append(f"{each.name}=", "dim")
            item(text, each)
        text.append("}")
    elif value.items is not None:
        text.append("[")
        for index, each in enumerate(value.items):
            text.append(", " if index else "")
            item(text, each)
        text.append(f", and {value.more} more]" if value.more else "]")
    else:
        if value.old is not None:
            text.append(value.old, "dim").append(" \u2192 ", "dim").append(value.text, "bold green")
        else:
            text.append(value.text)
    if value.points is not None:
        text.append("\u2192", "dim")
        item(text, value.points)


def disassembled(call: Call) -> str:
    """Submitted words as packets, by the driver's decoders where they are installed beside this tool."""
    kind = call.engine
    parts = []
    for address, content in call.event.after:
        words = [int.from_bytes(content[at:at + 4], "little") for at in range(0, len(content) & ~3, 4)]
        said = packets(kind, words)
        parts.append(f"  {address:#x}:\n" + "\n".join("    " + each for each in said.splitlines()))
    return "\n".join(parts)


def packets(kind: str | None, words: Sequence[int]) -> str:
    try:
        if kind == "PM4":
            from amdrv import pm4
            return pm4.dump(words)
        if kind in ("SDMA", "SDMA XGMI"):
            from amdrv import sdma
            return sdma.dump(words)
    except ImportError:
        pass
    return "\n".join(" ".join(f"{word:08x}" for word in words[at:at + 8]) for at in range(0, len(words), 8))


def print_summary(console: Console, summaries: Sequence[Summary]) -> None:
    """``-c``: a line an ioctl."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for heading, justify in (("calls", "right"), ("time", "right"), ("mean", "right"), ("longest", "right"),
                             ("interface", "left"), ("ioctl", "left"), ("errors", "left")):
        table.add_column(heading, justify=justify)      # type: ignore[arg-type]
    for one in summaries:
        table.add_row(str(one.count), time_text(one.time), time_text(one.time // one.count), time_text(one.longest),
                      one.interface or "?", Text(one.name, "bold" if one.interface else "bold yellow"),
                      Text(", ".join(f"{name} {count}" for name, count in sorted(one.errors.items())), "red"))
    console.print(table)
    calls = sum(one.count for one in summaries)
    console.print(Text(f"{calls} {'call' if calls == 1 else 'calls'} of {len(summaries)} ioctls", "dim"))
