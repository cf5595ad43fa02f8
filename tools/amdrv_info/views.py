"""Screens of documents: what ``--json`` prints, for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tools.amdrv_info.screens import sensor_table, size_text

__all__ = ["address_space", "benchmarks", "interrupts", "manifest", "queues", "rings", "top", "top_once",
           "walk", "waves", "written"]

_HEAD = {"box": None, "padding": (0, 2, 0, 0), "pad_edge": False, "header_style": "dim"}
WHOLE = frozenset({"address", "end", "size", "memory", "physical", "queue", "ring", "descriptor", "largest page",
                   "value", "unit", "measured", "flags", "entries", "client", "timestamp", "read", "write", "waiting"})
"""Columns that are never cut or broken: half an address is none."""
STATES = {"read": "dim", "next": "bold yellow", "pending": "bold"}
Document = dict[str, Any]


def _table(*headings: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(**_HEAD)          # type: ignore[arg-type]
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", no_wrap=heading in WHOLE,
                         overflow="fold")
    return table


def _problems(console: Console, texts: list[str]) -> None:
    for text in texts:
        console.print(Text(text, "yellow"), soft_wrap=True)


# ---- vm

def walk(console: Console, said: Document) -> None:
    """A line a level, where the address ends, and whose it is."""
    console.print(Text(f"{said['address']:#x}", "bold"))
    for step in said["steps"]:
        valid = bool(step["entry"] & 1)
        head, _, entry = step["decoded"].partition(": ")
        console.print(Text(f"  {step['level']:5}", "cyan").append(
            f"[{step['index']:#05x}] of the table at {step['table']:#x}", "dim"), soft_wrap=True)
        console.print(Text(f"        {entry or head}", "" if valid else "red"), soft_wrap=True)
    if not said["valid"]:
        console.print(Text("  not mapped", "bold red"))
        return
    place = said["physical"]
    where = "VRAM" if place["space"] == "vram" else "host memory, bus address"
    console.print(Text(f"  is {where} {place['address']:#x}, in a page of {size_text(place['page_bytes'])}", "bold"))
    if said["owner"]:
        console.print(Text(f"  of {said['owner']}"), soft_wrap=True)


def address_space(console: Console, said: Document) -> None:
    """``vm map``: totals, VRAM as a strip of cells, ranges."""
    console.print(Text(f"VMID {said['vmid']} of the {said['hub']} hub", "bold").append(
        f"  {said['tables']} tables ({size_text(said['table_bytes'])})", "not bold dim"))
    console.print(Text("  maps ").append(size_text(said["bytes"]["vram"]), "blue").append(" of VRAM, ").append(
        size_text(said["bytes"]["system"]), "dark_orange").append(" of host memory"))
    vram = said["vram"]
    if vram["cells"]:
        strip = Text("  VRAM ")
        for share in vram["cells"]:
            strip.append(" \u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"[int(-(-share * 8 // 1))], "blue on grey15")
        console.print(strip.append(f" {size_text(vram['size'])}", "dim"))
    known = any(each["owners"] is not None for each in said["ranges"])
    table = _table("address", "end", "size", "memory", "physical", "entries", "largest page", "flags",
                   *(["owner"] if known else []), right=("size", "entries", "largest page"))
    for each in said["ranges"]:
        owners = each["owners"]
        shown = "" if owners is None else owners[0] if len(owners) == 1 else f"{len(owners)} buffers" if owners else ""
        table.add_row(f"{each['address']:#x}", f"{each['address'] + each['size']:#x}", size_text(each["size"]),
                      Text("VRAM" if each["kind"] == "vram" else "host", "blue" if each["kind"] == "vram" else
                           "dark_orange"), f"{each['physical']:#x}" if each["entries"] == 1 or each["kind"] == "vram"
                      else Text("in pieces", "dim"), str(each["entries"]), size_text(each["largest_page"]),
                      Text(each["flags"], "dim"), *([Text(shown, "dim")] if known else []))
    console.print(table)
    _problems(console, said["problems"])


# ---- queues, rings, interrupts, waves

def queues(console: Console, said: Document) -> None:
    table = _table("queue", "VMID", "ring", "size", "read", "write", "waiting", "doorbell", "descriptor",
                   right=("VMID", "size", "read", "write", "waiting", "doorbell"))
    for queue in said["queues"]:
        waiting = queue["pending_words"]
        table.add_row(Text(queue["name"], "bold"), str(queue["vmid"]), f"{queue['ring_address']:#x}",
                      size_text(4 * queue["ring_words"]), f"{queue['read']:#x}", f"{queue['write']:#x}",
                      Text("AQL" if queue["aql"] else f"{waiting} words" if waiting else "idle",
                           "yellow" if waiting else "green"),
                      "" if queue["doorbell"] is None else f"{queue['doorbell']:#x}",
                      "" if queue["descriptor_address"] is None else f"{queue['descriptor_address']:#x}")
    console.print(table)
    if not said["queues"]:
        console.print(Text("no queue is active", "yellow"))
    _problems(console, said["missing"])


def rings(console: Console, said: Document) -> None:
    for ring in said["rings"]:
        place = "" if ring["ring_address"] is None else f"  VMID {ring['vmid']}, {ring['ring_address']:#x}"
        console.print(Text(ring["name"], "bold cyan").append(
            f"{place}, {ring['ring_words']} words, read {ring['read']:#x}, write {ring['write']:#x}, "
            f"{ring['pending_words']} waiting", "not bold dim"), soft_wrap=True)
        for packet in ring["packets"]:
            _packet(console, packet, "  ")
        if ring["problem"]:
            console.print(Text(f"  {ring['problem']}", "yellow"), soft_wrap=True)
        elif not ring["packets"]:
            console.print(Text("  nothing was ever submitted", "dim"))
    _problems(console, said["missing"])


def _packet(console: Console, packet: Document, indent: str) -> None:
    head, *rest = packet["text"].split("\n")
    mark = {"next": "\u25b6 ", "pending": "\u2502 ", "read": "  "}[packet["state"]]
    style = "bold red" if packet["problem"] else STATES[packet["state"]]
    name = head.partition(": ")[2]
    console.print(Text(f"{indent}{mark}{packet['at']:#06x} {name}", style), soft_wrap=True)
    for line in rest:
        console.print(Text(f"{indent}  {line}", "dim" if packet["state"] == "read" else ""), soft_wrap=True)
    inside = packet["inside"]
    if inside:
        console.print(Text(f"{indent}    in the buffer at {inside['address']:#x}:", "cyan"))
        for each in inside["packets"]:
            _packet(console, each, indent + "      ")
        if inside["problem"]:
            console.print(Text(f"{indent}      {inside['problem']}", "yellow"), soft_wrap=True)


def interrupts(console: Console, said: Document) -> None:
    console.print(Text("interrupt ring", "bold").append(
        f"  {said['ring_address']:#x}, {size_text(said['ring_bytes'])}, read {said['read']:#x}, "
        f"write {said['write']:#x}" + (", OVERFLOWED: entries were lost" if said["overflow"] else ""),
        "not bold yellow" if said["overflow"] else "not bold dim"), soft_wrap=True)
    table = _table("", "client", "source", "ring", "VMID", "hub", "timestamp", "context", "means",
                   right=("timestamp", "VMID"))
    for entry in said["entries"]:
        style = STATES[entry["state"]]
        table.add_row(Text("\u25b6" if entry["state"] == "pending" else "", style),
                      entry["client_name"] or str(entry["client"]), entry["source_name"] or str(entry["source"]),
                      f"{entry['ring_id']:#x}", str(entry["vmid"]), entry["hub"], str(entry["timestamp"]),
                      " ".join(f"{word:x}" for word in entry["context"]), Text(entry["meaning"] or "", "yellow" if
                      entry["meaning"] and "fault" in entry["meaning"] else ""), style=style)
    if said["entries"]:
        console.print(table)
    else:
        console.print(Text("no interrupt has come yet", "dim") if not said["problem"] else "")
    if said["problem"]:
        _problems(console, [said["problem"]])


def waves(console: Console, said: Document) -> None:
    for wave in said["waves"]:
        place = f"SE{wave['se']} SA{wave['sa']} WGP{wave['wgp']} SIMD{wave['simd']} wave {wave['slot']}"
        state = Text(f"halted: {wave['why']}", "bold red") if wave["halted"] else Text("running", "green")
        console.print(Text(place, "bold cyan").append(
            f"  VMID {wave['vmid']}, queue {wave['me']}.{wave['pipe']}.{wave['queue']}, {wave['lanes']} lanes  ",
            "not bold dim").append(state))
        console.print(Text(f"  pc {wave['pc']:#x}  exec {wave['exec']:#x}  vcc {wave['vcc']:#x}  m0 {wave['m0']:#x}  "
                           f"scc {wave['scc']}"))
        flags = " ".join(name for name, value in {**wave["status"], **wave["trapsts"]}.items() if value)
        console.print(Text(f"  {flags}", "dim"), soft_wrap=True)
        for line in _registers("s", wave["sgprs"], 8):
            console.print(line)
        for number, lanes in enumerate(wave["vgprs"]):
            for line in _registers(f"v{number}.", lanes, 8):
                console.print(line)
        for line in wave["code"]:
            here = line["address"] == wave["pc"]
            console.print(Text(f"  {'->' if here else '  '} {line['address']:#x}  {line['text']}",
                               "bold red" if here and wave["halted"] else "bold" if here else ""), soft_wrap=True)
        if wave["code_problem"]:
            _problems(console, [f"  code: {wave['code_problem']}"])
    console.print(Text(f"{len(said['waves'])} {'wave' if len(said['waves']) == 1 else 'waves'}"
                       if said["waves"] else "no wave is halted", "dim"))


def _registers(name: str, values: list[int], row: int) -> Iterator[Text]:
    """Rows of equal values in a run are left out: what a kernel did not use reads alike."""
    rows = [values[at:at + row] for at in range(0, len(values), row)]
    skipped = 0
    for number, each in enumerate(rows):
        if 0 < number < len(rows) - 1 and each == rows[number - 1]:
            skipped += 1
            continue
        if skipped:
            yield Text(f"  {'...':>6}", "dim")
            skipped = 0
        words = " ".join(f"{value:08x}" for value in each)
        yield Text(f"  {name + str(number * row):>6} ", "dim").append(words, "not dim")
    if skipped:
        yield Text(f"  {'...':>6}", "dim")


# ---- sensors, top

def _bar(percent: float) -> ProgressBar:
    style = "red" if percent > 90 else "yellow" if percent > 50 else "green"
    return ProgressBar(total=100, completed=min(percent, 100), width=30, complete_style=style, finished_style=style)


def top(said: Document) -> RenderableType:
    """One look, as a block that the next one replaces."""
    parts: list[RenderableType] = [Text(f"{said['card']}", "bold").append(
        f"  {said['seconds']:.1f} s, {said['readings']} readings a look", "not bold dim")]
    engines = Table.grid(padding=(0, 2))
    for engine in said["engines"]:
        engines.add_row(Text(engine["name"], "dim"), _bar(engine["busy_percent"]), f"{engine['busy_percent']:.0f} %")
    memory = said["memory"]
    if memory["vram_used"] is not None and memory["vram_total"]:
        share = 100 * memory["vram_used"] / memory["vram_total"]
        engines.add_row(Text("VRAM", "dim"), _bar(share), f"{size_text(memory['vram_used'])} of "
                        f"{size_text(memory['vram_total'])}" + (
                            f", host {size_text(memory['system_used'])}" if memory["system_used"] else ""))
    parts.append(Padding(engines, (0, 0, 0, 2)))
    if said["queues"]:
        table = _table("queue", "waiting", "ever written", right=("waiting", "ever written"))
        for queue in said["queues"]:
            table.add_row(queue["name"], f"{queue['pending_words']} words", f"{queue['written_words']} words")
        parts.append(Padding(table, (0, 0, 0, 2)))
    if said["sensors"]:
        parts.append(Padding(sensor_table(said["sensors"]), (0, 0, 0, 2)))
    if said["counters"]:
        counts = ", ".join(f"{name} {value:,}" for name, value in said["counters"].items())
        parts.append(Padding(Text(counts, "dim"), (0, 0, 0, 2)))
    if said["processes"]:
        table = _table("pid", "process", "engines", "memory", right=("pid",))
        for each in said["processes"]:
            table.add_row(str(each["pid"]), each["name"], ", ".join(
                f"{name} {value:g} %" for name, value in each["engines_percent"].items()),
                ", ".join(f"{name} {size_text(value)}" for name, value in each["memory"].items() if value))
        parts.append(Padding(table, (0, 0, 0, 2)))
    parts += [Text(f"  {text}", "yellow") for text in said["missing"]]
    return Group(*parts)


def top_once(console: Console, said: Document) -> None:
    console.print(top(said))


# ---- bench, report

def benchmarks(console: Console, said: Document) -> None:
    what = "the software card" if said["software"] else said["name"]
    console.print(Text(what, "bold").append(f"  {said['arch']}, {said['compute_units']} CUs, {said['hal']} HAL",
                                            "not bold dim"))
    table = _table("measured", "value", "unit", "limit", "%", "limit is", "clock", "note",
                   right=("value", "limit", "%"))
    for row in said["results"]:
        if row["error"]:
            table.add_row(row["name"], Text("failed", "bold red"), "", "", "", "", "", Text(row["error"], "red"))
            continue
        table.add_row(row["name"], Text("-" if row["value"] is None else f"{row['value']:.4g}", "bold"), row["unit"],
                      "" if row["limit"] is None else f"{row['limit']:.4g}",
                      "" if row["percent"] is None else f"{row['percent']:.3g}", Text(row["limit_is"] or "", "dim"),
                      Text("" if row["value"] is None else row["clock"], "dim"), Text(row["note"] or "", "dim"))
    console.print(table)
    if said["software"]:
        console.print(Text("a card made of software: its rates are this computer's, the limits are the card's",
                           "yellow"))


def written(console: Console, said: Document) -> None:
    console.print(Text(said["file"], "bold").append(f"  {size_text(said['bytes'])}", "not bold dim"))
    console.print(Text("  holds " + ", ".join(said["contains"]), "dim"), soft_wrap=True)
    for name, why in said["without"].items():
        console.print(Text(f"  without {name}: {why}", "yellow"), soft_wrap=True)
    if not said["registers_and_memory"]:
        console.print(Text("  without registers and page tables", "yellow"))
    console.print(f"look into it: amdrv-info show --from {said['file']}", soft_wrap=True)


def manifest(console: Console, said: Document) -> None:
    """``report --from``: what is in an archive."""
    console.print(Text(said["file"], "bold").append(f"  {said['format']}, made {said['made']} on {said['system']}",
                                                    "not bold dim"), soft_wrap=True)
    console.print("  holds " + ", ".join(said["contains"]), soft_wrap=True)
    if said["without"]:
        console.print(Text("  could not be had: " + ", ".join(said["without"]), "yellow"), soft_wrap=True)
    if said["without_card_txt"]:
        console.print(Text(f"  without registers and page tables: {said['without_card_txt']}", "yellow"),
                      soft_wrap=True)
