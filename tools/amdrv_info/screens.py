"""The text of ``amdrv-info``: for a terminal in colour, elsewhere plain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from amdrv.hal import PciFunction
from amdrv.ip.discovery import Discovery
from amdrv.packets import Decoded
from amdrv.regs import Field, Register
from tools.amdrv_info.card import Block, Card, Gpu, marketing_name
from tools.amdrv_info.doctor import Finding
from tools.amdrv_info.firmware import Image
from tools.amdrv_info.pci import Bar, Link, Pci
from tools.amdrv_info.registers import Found
from tools.boot_diff.report import names_in_short

__all__ = ["console", "print_card", "print_cards", "print_discovery", "print_findings", "print_firmware",
           "print_packets", "print_register", "print_registers", "sensor_table", "size_text"]

_HEAD = {"box": None, "padding": (0, 2, 0, 0), "pad_edge": False, "header_style": "dim"}
FILE_WIDTH = 160
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def console() -> Console:
    """Standard output; wide where it is no terminal, so that nothing is cut for a reader that has no width."""
    found = Console(highlight=False)
    if not found.is_terminal:
        found.width = max(found.width, FILE_WIDTH)
    return found


def size_text(size: int) -> str:
    """``256 MiB``: exact where a power of 1024 divides it, otherwise to a tenth."""
    unit = 0
    scaled = float(size)
    while scaled >= 1024 and unit < len(UNITS) - 1:
        scaled /= 1024
        unit += 1
    return f"{scaled:g} {UNITS[unit]}" if scaled == int(scaled) else f"{scaled:.1f} {UNITS[unit]}"


def print_cards(console: Console, hal: str, functions: Sequence[PciFunction]) -> None:
    """``list``: one line a card."""
    table = Table(**_HEAD)          # type: ignore[arg-type]
    for heading in ("", "address", "card", "id", "subsystem", "kernel driver"):
        table.add_column(heading)
    for index, function in enumerate(functions):
        table.add_row(Text(str(index), style="bold cyan"), function.address, Text(marketing_name(function), "bold"),
                      f"{function.vendor:04x}:{function.device:04x}", "{:04x}:{:04x}".format(*function.subsystem),
                      Text(function.driver, "yellow") if function.driver else Text("none", "dim"))
    console.print(table)
    console.print(Text(f"{len(functions)} {'card' if len(functions) == 1 else 'cards'} through the {hal} HAL", "dim"))


def print_card(console: Console, card: Card) -> None:
    """``show``: the whole card."""
    title = Text(card.name, "bold")
    if card.gpu:
        units = card.booted.compute_units if card.booted else card.gpu.compute_units
        title.append(f"  {card.gpu.arch}  {units} CUs  {size_text(card.gpu.vram_bytes)}", "not bold cyan")
    console.print(title)
    console.print(Text(f"{card.function.address}  {card.function.vendor:04x}:{card.function.device:04x} rev "
                       f"{card.function.revision:02x}  {card.hal} HAL"
                       + (f"  driven by {card.driven_by}" if card.driven_by else ""), "dim"))
    if card.pci:
        _section(console, "PCI", _pci(card.pci, card.gpu))
    if card.surroundings:
        _section(console, "Machine", _machine(card.surroundings))
    if card.gpu:
        _section(console, "GPU", _gpu(card))
    if card.kernel:
        _section(console, "amdgpu", _kernel(card.kernel))
    if card.sensors:
        _section(console, "Sensors", sensor_table(card.sensors))
    if card.gpu:
        _section(console, "IP blocks", _blocks(card.gpu.blocks))
    if card.firmware:
        _section(console, "Firmware", _firmware(card.firmware))
    if card.booted:
        _section(console, "Boot", Group(_facts(("loaded", ", ".join(names_in_short(card.booted.loaded))),
                                               ("SMU firmware", card.booted.smu_version)),
                                        _stages(card.booted.stages)))


def _section(console: Console, title: str, body: Table | Group) -> None:
    console.print(Rule(Text(title, "bold"), align="left", style="dim"))
    console.print(Padding(body, (0, 0, 0, 2)))


def _facts(*lines: tuple[str, str | Text]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", min_width=12, no_wrap=True)
    grid.add_column()
    for name, said in lines:
        grid.add_row(name, said)
    return grid


def _pci(pci: Pci, gpu: Gpu | None) -> Group:
    table = Table(**_HEAD)          # type: ignore[arg-type]
    for heading, justify in (("BAR", "left"), ("for", "left"), ("size", "right"), ("bus address", "right"),
                             ("kind", "left")):
        table.add_column(heading, justify=justify)      # type: ignore[arg-type]
    for bar in pci.bars:
        table.add_row(str(bar.index), bar.role, size_text(bar.size), f"{bar.address:#x}", bar.kind)
    on_off = {True: "on", False: "off", None: "not there"}
    return Group(_facts(("link", _link(pci.link)), ("VRAM window", _window(pci, gpu)),
                        ("switched", f"bus master {on_off[pci.bus_master]}, MSI {on_off[pci.msi]}, "
                                     f"AtomicOps {on_off[pci.atomics]}"),
                        ("errors (AER)", _aer(pci))), table)


def _aer(pci: Pci) -> Text:
    if pci.aer is None:
        return Text("not reported: no such capability", "dim")
    said = [f"{kind}: {', '.join(names)}" for kind, names in (("correctable", pci.aer.correctable),
                                                             ("uncorrectable", pci.aer.uncorrectable)) if names]
    return Text("; ".join(said), "yellow") if said else Text("none recorded", "green")


def _machine(said: dict[str, Any]) -> Table:
    """What this machine's sysfs says of the card's place."""
    lines: list[tuple[str, str | Text]] = []
    if said["numa_node"] is not None:
        cpus = f", CPUs {said['local_cpus']}" if said["local_cpus"] else ""
        lines.append(("NUMA node", f"{said['numa_node']}{cpus}"))
    group = said["iommu"]
    if group is None:
        lines.append(("IOMMU", Text("no group: no IOMMU is active", "yellow")))
    else:
        members = ", ".join(f"{m['address']} ({m['driver'] or 'no driver'})" for m in group["members"])
        kind = f", {group['kind']}" if group["kind"] else ""
        lines.append(("IOMMU", f"group {group['group']}{kind}: {members}"))
    if said["slot"]:
        slot = said["slot"]
        lines.append(("slot at best", f"{slot['max_speed']:g} GT/s x{slot['max_width']} ({slot['address']})"
                      if slot["max_speed"] else slot["address"]))
    for kind, counts in said["aer"].items():
        text = ", ".join(f"{name} {count}" for name, count in counts.items() if name != "total")
        total = counts.get("total", 0)
        shown = f"{total} in all" + (f": {text}" if text else "")
        lines.append((f"AER {kind}", Text(shown, "yellow" if total else "")))
    if said["power_state"]:
        runtime = f", {said['runtime_status']}" if said["runtime_status"] else ""
        lines.append(("power state", f"{said['power_state']}{runtime}"))
    for bar, sizes in said["bar_sizes_possible"].items():
        lines.append((f"BAR {bar} can be", ", ".join(map(size_text, sizes))))
    if said["reset_methods"]:
        lines.append(("reset by", ", ".join(said["reset_methods"])))
    return _facts(*lines)


def _kernel(said: dict[str, Any]) -> Table:
    """What amdgpu says of its card."""
    memory = said["memory"]
    lines: list[tuple[str, str | Text]] = []
    for name in ("vram", "vis_vram", "gtt"):
        if memory[f"{name}_total"]:
            lines.append(({"vram": "VRAM", "vis_vram": "VRAM, window", "gtt": "host memory"}[name],
                          f"{size_text(memory[name + '_used'] or 0)} of {size_text(memory[name + '_total'])} used"))
    for key, name in (("vram_vendor", "VRAM by"), ("product_name", "product"), ("vbios_version", "VBIOS"),
                      ("performance_level", "level")):
        if said[key]:
            lines.append((name, said[key]))
    if said["firmware_loaded"]:
        lines.append(("loaded", ", ".join(f"{name} {version:#x}" for name, version in said["firmware_loaded"].items())))
    if pm := said.get("pm"):
        lines += [("gated clocks", ", ".join(pm["clock_gating"]) or "none"),
                  ("media", ", ".join(f"{name} {state}" for name, state in pm["units"].items()) or "says nothing")]
    if not said["debugfs"]:
        lines.append(("debugfs", Text("not readable: rings and waves need root", "yellow")))
    return _facts(*lines)


def _link(link: Link | None) -> Text:
    if link is None:
        return Text("not PCI Express")
    said = Text(f"{link.speed:g} GT/s x{link.width}")
    if link.degraded:
        said.append(f" (the card can do {link.max_speed:g} GT/s x{link.max_width})", "yellow")
    return said


def _window(pci: Pci, gpu: Gpu | None) -> Text:
    vram: Bar | None = next((bar for bar in pci.bars if bar.index == 0), None)
    if vram is None:
        return Text("no BAR 0", "yellow")
    said = Text(size_text(vram.size))
    if gpu and vram.size >= gpu.vram_bytes:
        said.append(", all of VRAM", "green")
    elif gpu:
        said.append(f" of {size_text(gpu.vram_bytes)}", "yellow")
    if pci.resizable:
        said.append("; resizable: " + ", ".join(map(size_text, pci.resizable.supported)))
    else:
        said.append("; not resizable")
    return said


def _gpu(card: Card) -> Table:
    gpu = card.gpu
    assert gpu is not None
    units = (f"{card.booted.compute_units} of {gpu.compute_units}" if card.booted
             else f"{gpu.compute_units} before harvesting; --boot counts those that are left")
    lines: list[tuple[str, str | Text]] = [
        ("architecture", gpu.arch), ("compute units", units),
        ("shape", f"{gpu.shader_engines} shader engines of {gpu.arrays_per_engine} arrays"),
        ("waves", f"{gpu.wave_size} lanes"), ("LDS", f"{size_text(gpu.lds_bytes)} a workgroup"),
        ("caches", ", ".join([f"{name} {size_text(size)}" for name, size in gpu.caches.items()]
                             + [f"GL2 of {gpu.gl2_channels} channels"])),
        ("VRAM", size_text(gpu.vram_bytes) + (f" {gpu.vram_kind}" if gpu.vram_kind else ""))]
    if card.booted:
        lines.append(("clock", f"{card.booted.clock_hz / 1e6:g} MHz counter"))
    return _facts(*lines)


def _blocks(blocks: Sequence[Block]) -> Table:
    table = Table(**_HEAD)          # type: ignore[arg-type]
    for heading in ("block", "version", "registers", "base addresses (dwords)"):
        table.add_column(heading)
    for block in blocks:
        name = Text(block.name + (f"[{block.instance}]" if block.instance else ""))
        if block.harvested:
            name.append(" harvested", "yellow")
        table.add_row(name, block.version, Text(block.registers or "-", "" if block.registers else "dim"),
                      Text(" ".join(f"{base:#x}" for base in block.bases), "dim"))
    return table


def _firmware(images: Sequence[Image]) -> Group:
    table = Table(**_HEAD)          # type: ignore[arg-type]
    for heading, justify in (("file", "left"), ("version", "right"), ("size", "right"), ("holds", "left")):
        table.add_column(heading, justify=justify)      # type: ignore[arg-type]
    places = sorted({image.directory for image in images if image.directory})
    for image in images:
        if image.error:
            table.add_row(image.file, "", "", Text(image.error, "yellow"))
        else:
            table.add_row(image.file, f"{image.version:#010x}", size_text(image.size),
                          Text(", ".join(names_in_short(image.holds)), "dim"))
    return Group(*(Text(f"from {place}", "dim") for place in places), table)


def sensor_table(said: dict[str, Any]) -> Table:
    """Groups of sensors, a line each; what is not known is left out."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", min_width=12, no_wrap=True)
    grid.add_column()

    def line(name: str, values: dict[str, Any], unit: str) -> None:
        shown = ", ".join(f"{key.replace('_', ' ')} {value:g}" for key, value in values.items() if value is not None)
        if shown:
            grid.add_row(name, shown + f" {unit}")
    line("temperatures", said["temperatures"], "\u00b0C")
    power = {name.removesuffix("_watts"): value for name, value in said["power"].items()}
    line("power", power, "W")
    line("clocks", said["clocks_mhz"], "MHz")
    line("voltages", said["voltages_mv"], "mV")
    line("usage", said["usage_percent"], "%")
    fan = said["fan"]
    if fan["rpm"] is not None:
        grid.add_row("fan", f"{fan['rpm']:g} rpm" + ("" if fan["percent"] is None else f", {fan['percent']} %"))
    grid.add_row("throttled by", Text(", ".join(
        each["reason"] + ("" if each["percent"] is None else f" ({each['percent']} %)") for each in said["throttling"]),
        "bold yellow") if said["throttling"] else Text("nothing", "green"))
    grid.add_row("told by", Text(said["source"], "dim"))
    return grid


def _stages(stages: Sequence[tuple[str, float]]) -> Table:
    table = Table(**_HEAD)          # type: ignore[arg-type]
    table.add_column("stage")
    table.add_column("time", justify="right")
    for name, seconds in stages:
        table.add_row(name, f"{seconds * 1e3:.1f} ms")
    table.add_row(Text("in all", "bold"), Text(f"{sum(seconds for _, seconds in stages) * 1e3:.1f} ms", "bold"))
    return table


def print_findings(console: Console, findings: Sequence[Finding]) -> None:
    """One line a check; what is wrong with its cause and the command that mends it."""
    marks = {"ok": ("\u2714", "green"), "note": ("!", "yellow"), "bad": ("\u2718", "bold red")}
    width = max(len(f.check) for f in findings)
    for finding in findings:
        mark, style = marks[finding.state]
        line = Text(f"{mark} ", style).append(finding.check.ljust(width + 2), "bold")
        line.append(finding.evidence, "default")
        console.print(line, soft_wrap=True)
        if finding.cause:
            console.print(Text(" " * (width + 4) + finding.cause, "dim"), soft_wrap=True)
        if finding.fix:
            console.print(Text(" " * (width + 4) + "$ " + finding.fix, "cyan"), soft_wrap=True)
    bad = sum(f.state == "bad" for f in findings)
    console.print(f"{bad} of {len(findings)} checks found a hindrance" if bad else "nothing stands in the way")


def print_packets(console: Console, packets: Sequence[Decoded]) -> None:
    """A dump, packet by packet, as ``hcq`` and the driver print it; what is wrong in colour."""
    for packet in packets:
        head, *rest = str(packet).split("\n")
        console.print(Text(head, "bold red" if packet.problem else "bold"), soft_wrap=True)
        for line in rest:
            console.print(Text(line), soft_wrap=True)
    broken = sum(packet.problem is not None for packet in packets)
    words = sum(len(packet.words) for packet in packets)
    console.print(Text(f"{len(packets)} packets in {words} words" + (f", {broken} not understood" if broken else ""),
                       "yellow" if broken else "dim"))


def print_firmware(console: Console, file: dict[str, Any]) -> None:
    """``fw``: header and payloads of one file."""
    version = ".".join(map(str, file["header_version"]))
    console.print(Text(file["path"], "bold").append(f"  {file['kind']}, header {version}, ucode "
                                                    f"{file['ucode_version']:#010x}", "not bold cyan"), soft_wrap=True)
    table = Table(**_HEAD)          # type: ignore[arg-type]
    for heading, justify in (("payload", "left"), ("version", "right"), ("offset", "right"), ("size", "right"),
                             ("starts at", "right")):
        table.add_column(heading, justify=justify)      # type: ignore[arg-type]
    for section in file["sections"]:
        start = section["start_address"]
        table.add_row(section["name"], f"{section['version']:#010x}", f"{section['offset']:#x}",
                      size_text(section["size"]), "" if start is None else f"{start:#x}")
    console.print(Padding(table, (0, 0, 0, 2)))
    header = Table.grid(padding=(0, 2))
    for name, value in file["header"].items():
        header.add_row(Text(name, "dim"), f"{value:#x}" if value > 9 else str(value))
    console.print(Padding(header, (0, 0, 0, 2)))


def print_discovery(console: Console, table: Discovery) -> None:
    """``discovery``: a table from a file."""
    console.print(Text("IP discovery table", "bold").append("  version {}.{}".format(*table.version), "not bold cyan"))
    gc = table.gc
    console.print(Padding(_facts(
        ("shape", f"{gc.shader_engines} shader engines of {gc.arrays_per_engine} arrays of {gc.wgps_per_array} WGPs"),
        ("waves", f"{gc.wave_size} lanes, {gc.waves_per_simd} a SIMD"),
        ("LDS", size_text(gc.lds_kib << 10) + " a workgroup")), (0, 0, 0, 2)))
    blocks = Table(**_HEAD)         # type: ignore[arg-type]
    for heading in ("block", "version", "die", "base addresses (dwords)"):
        blocks.add_column(heading)
    for ip in table.ips:
        name = Text(ip.name + (f"[{ip.instance}]" if ip.instance else ""))
        if ip.harvested:
            name.append(" harvested", "yellow")
        blocks.add_row(name, ".".join(map(str, ip.version)), str(ip.die),
                       Text(" ".join(f"{base:#x}" for base in ip.bases), "dim"))
    console.print(Padding(blocks, (0, 0, 0, 2)))


def print_registers(console: Console, found: Sequence[Found]) -> None:
    """``reg search``: one line a register."""
    table = Table(**_HEAD)          # type: ignore[arg-type]
    for heading in ("register", "table", "place (dwords)", "fields"):
        table.add_column(heading, overflow="fold")
    for each in found:
        register = each.register
        table.add_row(Text(register.name, "bold"), each.table.name, _place(register),
                      Text(" ".join(_bits(field) for field in register.fields), "dim"))
    console.print(table)
    console.print(Text(f"{len(found)} {'register' if len(found) == 1 else 'registers'}", "dim"))


def print_register(console: Console, found: Found, value: int | None, address: int | None = None) -> None:
    """One register: its place and every field, with the value where there is one."""
    register = found.register
    line = Text(register.name, "bold")
    if value is not None:
        line.append(f" = {value:#010x}", "bold cyan")
    line.append(f"  {found.table.name}, {_place(register)}" + ("" if address is None else f", dword {address:#x}"),
                "not bold dim")
    if register.default is not None:
        line.append(f", {register.default:#010x} after reset", "not bold dim")
    console.print(line, soft_wrap=True)
    table = Table(**_HEAD)          # type: ignore[arg-type]
    table.add_column("bits", justify="right")
    table.add_column("field")
    if value is not None:
        table.add_column("value", justify="right")
    for field in register.fields:
        cells = [Text(f"{field.msb}:{field.lsb}" if field.width > 1 else str(field.lsb), "dim"), Text(field.name)]
        if value is not None:
            got = field.get(value)
            cells.append(Text(f"{got:#x}" if got > 9 else str(got), "bold" if got else "dim"))
        table.add_row(*cells)
    if register.fields:
        console.print(Padding(table, (0, 0, 0, 2)))


def _place(register: Register) -> str:
    return f"indexed, {register.offset:#x}" if register.base_idx is None else (
        f"base {register.base_idx} + {register.offset:#x}")


def _bits(field: Field) -> str:
    return f"{field.name}[{field.msb}:{field.lsb}]" if field.width > 1 else f"{field.name}[{field.lsb}]"
